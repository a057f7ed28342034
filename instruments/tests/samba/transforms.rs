// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests RDMA transforms: what NEGOTIATE says, whose data goes by RDMA, what is refused, and what the device sees.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use instruments::client::{
    Channel, CipherAlgorithm, Config, Connection, Dialect, FileId, NtStatus, Protection, Read,
    Registration, Request, SigningAlgorithm, Transform, TransformType, Write,
};
use smbdirect::wire::BufferDescriptorV1;

use crate::channel::{
    Client, contents, device, disk, gather, pattern, place, refusal, room, sink, source, uneven,
};
use crate::sessions::{GUID, credentials, log_in};
use instruments::daemon::TIMEOUT;
use instruments::samba::{Server, Setup};

use TransformType::{Encryption, Signing};

fn config(sign: bool, seal: bool) -> Config {
    Config {
        sign,
        seal,
        ..Config::new(GUID)
    }
}

/// Lets a server offer to sign data with AES-CMAC, too.
pub(crate) const CMAC_TOO: &[&str] = &["smbdirect:sign with AES-CMAC = yes"];

// NEGOTIATE

/// Makes a negotiate context.
fn context(kind: u16, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).expect("short");
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend(length.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(data);
    bytes
}

/// Makes an `SMB2_RDMA_TRANSFORM_CAPABILITIES` that says that it has `count` ids.
fn capabilities(count: u16, ids: &[u16]) -> Vec<u8> {
    let mut data = count.to_le_bytes().to_vec();
    data.extend([0; 6]);
    data.extend(ids.iter().flat_map(|id| id.to_le_bytes()));
    context(7, &data)
}

/// HMAC-SHA256, AES-CMAC and AES-GMAC in `SMB2_SIGNING_CAPABILITIES`.
const HMAC_SHA256: u8 = 0;
const AES_CMAC: u8 = 1;
const AES_GMAC: u8 = 2;

/// Sends NEGOTIATE of SMB 3.1.1 over TCP with AES-GMAC and these contexts. Returns the status, and the transform ids of
/// the answer if it has any.
fn negotiate(server: &Server, more: &[Vec<u8>]) -> (NtStatus, Option<Vec<u16>>) {
    let signing = context(8, &[1, 0, AES_GMAC, 0]);
    negotiate_with(server, &[&[signing], more].concat())
}

/// Sends such a NEGOTIATE with only the mandatory context and these.
fn negotiate_with(server: &Server, more: &[Vec<u8>]) -> (NtStatus, Option<Vec<u16>>) {
    let mut preauth = vec![1, 0, 32, 0, 1, 0];
    preauth.extend([5; 32]);
    let mut contexts = context(1, &preauth);
    for one in more {
        contexts.resize(contexts.len().next_multiple_of(8), 0);
        contexts.extend(one);
    }
    let mut message = b"\xfeSMB\x40\0".to_vec();
    message.resize(64, 0);
    message[14] = 1;
    message.extend([36, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    message.extend(*b"a client of test");
    message.extend([104, 0, 0, 0, 1 + more.len() as u8, 0, 0, 0]);
    message.extend([0x11, 0x03, 0, 0]);
    message.extend(contexts);
    let mut tcp = TcpStream::connect(server.tcp).expect("TCP");
    let length = u32::try_from(message.len()).expect("short");
    tcp.write_all(&[&length.to_be_bytes()[..], &message].concat())
        .expect("sent");
    let mut length = [0; 4];
    tcp.read_exact(&mut length).expect("an answer");
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    tcp.read_exact(&mut answer).expect("an answer");
    let u16_at = |at: usize| u16::from_le_bytes([answer[at], answer[at + 1]]);
    let u32_at = |at: usize| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;
    let status = NtStatus(u32_at(8));
    if status != NtStatus::SUCCESS {
        return (status, None);
    }
    let mut at = u32_at(64 + 60) as usize;
    let mut found = None;
    for _ in 0..u16_at(64 + 6) {
        let length = usize::from(u16_at(at + 2));
        if u16_at(at) == 7 {
            let count = usize::from(u16_at(at + 8));
            assert_eq!(length, 8 + 2 * count);
            found = Some((0..count).map(|n| u16_at(at + 16 + 2 * n)).collect());
        }
        at = (at + 8 + length).next_multiple_of(8);
    }
    (status, found)
}

/// Includes the cases `Negotiate_SMB311_RdmaTransformCapabilities_*` of Microsoft's FileServer suite.
#[test]
fn negotiate_answers_with_the_transforms_that_both_sides_have() {
    let server = device(Setup::default());
    let (ok, wrong) = (NtStatus::SUCCESS, NtStatus::INVALID_PARAMETER);
    assert_eq!(negotiate(&server, &[]), (ok, None));
    for (ids, answer) in [
        (&[1, 2][..], &[1, 2][..]),
        (&[2, 1], &[2, 1]),
        (&[1], &[1]),
        (&[2, 9, 0xffff], &[2]),
        (&[1, 1, 2, 1], &[1, 2]),
        (&[0], &[0]),
        (&[7, 300], &[0]),
    ] {
        let count = u16::try_from(ids.len()).expect("few");
        let found = negotiate(&server, &[capabilities(count, ids)]);
        assert_eq!(found, (ok, Some(answer.to_vec())), "{ids:?}");
    }
    let many: Vec<u16> = (3..2000).collect();
    let found = negotiate(&server, &[capabilities(1997, &many)]);
    assert_eq!(found, (ok, Some(vec![0])));
    for malformed in [
        vec![capabilities(0, &[])],
        vec![capabilities(0, &[1, 2])],
        vec![capabilities(3, &[1, 2])],
        vec![capabilities(0xffff, &[1, 2])],
        vec![context(7, &[2, 0])],
        vec![context(7, &[1, 0, 0, 0, 0, 0, 0])],
        vec![context(7, &[])],
        vec![capabilities(1, &[1]), capabilities(1, &[1])],
    ] {
        let found = negotiate(&server, &malformed);
        assert_eq!(found, (wrong, None), "{malformed:?}");
    }
}

#[test]
fn data_is_signed_only_with_an_algorithm_whose_signatures_are_not_valid_for_messages() {
    let ok = NtStatus::SUCCESS;
    let ids = capabilities(2, &[1, 2]);
    let algorithms = [
        (None, false),
        (Some(HMAC_SHA256), false),
        (Some(AES_CMAC), true),
    ];
    for (wanted, configured) in [(false, &[][..]), (true, CMAC_TOO)] {
        let server = device(Setup {
            global: configured,
            ..Setup::default()
        });
        assert_eq!(
            negotiate(&server, std::slice::from_ref(&ids)),
            (ok, Some(vec![1, 2]))
        );
        for (algorithm, is_cmac) in algorithms {
            let signing = algorithm.map(|algorithm| context(8, &[1, 0, algorithm, 0]));
            let contexts: Vec<_> = signing.into_iter().chain([ids.clone()]).collect();
            // Without a context for signing, SMB 3.1.1 signs with AES-CMAC.
            let signs = wanted && (is_cmac || algorithm.is_none());
            let answer = if signs { vec![1, 2] } else { vec![1] };
            assert_eq!(
                negotiate_with(&server, &contexts),
                (ok, Some(answer)),
                "{algorithm:?}"
            );
        }
    }
}

#[test]
fn a_server_that_never_encrypts_offers_to_sign_alone() {
    let server = device(Setup {
        global: &["smb encrypt = off"],
        ..Setup::default()
    });
    let ok = NtStatus::SUCCESS;
    let both = negotiate(&server, &[capabilities(2, &[1, 2])]);
    assert_eq!(both, (ok, Some(vec![2])));
    let encryption = negotiate(&server, &[capabilities(1, &[1])]);
    assert_eq!(encryption, (ok, Some(vec![0])));
}

#[test]
fn a_server_without_smb_direct_ignores_the_transforms() {
    let server = device(Setup::default());
    server.reconfigure("smb direct = yes", "smb direct = no");
    let end = Instant::now() + TIMEOUT;
    // smbd reads its configuration once it has noticed the change.
    while negotiate(&server, &[capabilities(2, &[1, 2])]) != (NtStatus::SUCCESS, None) {
        assert!(Instant::now() < end, "smbd still answers");
        std::thread::sleep(Duration::from_millis(50));
    }
    let malformed = negotiate(&server, &[capabilities(0, &[])]);
    assert_eq!(malformed, (NtStatus::SUCCESS, None));
}

// Whose data goes by RDMA

/// A client's file, and the transform that its data needs.
struct Transformed {
    client: Client,
    file: FileId,
    transform: TransformType,
}

impl Transformed {
    fn connect(server: &Server, config: Config, transform: TransformType) -> Self {
        let mut client = Client::connect_with(server, config);
        assert_eq!(client.direct.transform(client.tree), Some(transform));
        let file = client.open("file");
        Self {
            client,
            file,
            transform,
        }
    }

    /// Encrypts or signs data, and puts it where the server can fetch it.
    fn offer(&mut self, data: &[u8], room: usize) -> (Transform, Registration) {
        let mut data = data.to_vec();
        let transform = self.client.direct.protect(self.transform, &mut data);
        data.resize(room, 0);
        let from = source(&mut self.client.direct, &data);
        (transform.expect("keys"), from)
    }

    fn put(&mut self, offset: u64, data: &[u8], channel: Channel) {
        let length = data.len() as u32;
        let (transform, from) = self.offer(data, data.len());
        let pieces = from.pieces(3.min(length));
        let write = Write::transformed(self.file, offset, length, &transform, channel, &pieces);
        let response = self.client.direct.call(&write.request(self.client.tree));
        let written = response.and_then(|response| response.written());
        assert_eq!(written.expect("a WRITE"), length);
        let invalidated = self.client.direct.take_invalidated(from.token());
        assert_eq!(invalidated, channel == Channel::RdmaV1Invalidate);
    }

    /// Reads with descriptors of uneven lengths.
    fn get(&mut self, offset: u64, length: u32, channel: Channel) -> Vec<u8> {
        let into = sink(&mut self.client.direct, room(length));
        let pieces = uneven(&into, length);
        let before = gather(&into, &pieces).1;
        let read = Read::direct(self.file, offset, length, channel, &pieces);
        let response = self.client.direct.call(&read.request(self.client.tree));
        let response = response.expect("a READ");
        let moved = response.read().expect("a READ").direct;
        let (mut data, others) = gather(&into, &pieces);
        assert!(
            others == before,
            "bytes that no descriptor names were written"
        );
        data.truncate(moved as usize);
        let opened = self
            .client
            .direct
            .unprotect(self.client.tree, &response, &mut data);
        opened.expect("what the server sent");
        data
    }
}

/// Sizes around the limits at which threads begin to encrypt and at which pieces end.
const SIZES: [u32; 11] = [
    1,
    15,
    16,
    17,
    4095,
    (64 << 10) - 1,
    64 << 10,
    (64 << 10) + 1,
    (128 << 10) - 1,
    128 << 10,
    (1 << 20) + 3,
];

#[test]
fn every_cipher_and_signature_moves_data_of_any_size() {
    use CipherAlgorithm::{Aes128Ccm, Aes128Gcm, Aes256Ccm, Aes256Gcm};
    use SigningAlgorithm::{AesCmac, AesGmac};
    let server = device(Setup {
        global: CMAC_TOO,
        ..Setup::default()
    });
    place(&server, "file", &[]);
    let ciphers = [Aes128Ccm, Aes128Gcm, Aes256Ccm, Aes256Gcm].map(|cipher| {
        let config = Config {
            ciphers: vec![cipher],
            ..config(false, true)
        };
        (config, Encryption)
    });
    let signatures = [AesCmac, AesGmac].map(|algorithm| {
        let config = Config {
            signing: vec![algorithm],
            ..config(true, false)
        };
        (config, Signing)
    });
    for (config, transform) in ciphers.into_iter().chain(signatures) {
        println!("{:?} {:?}", config.ciphers, config.signing);
        let mut one = Transformed::connect(&server, config, transform);
        for (n, size) in SIZES.into_iter().enumerate() {
            let channel = [Channel::RdmaV1, Channel::RdmaV1Invalidate][n % 2];
            let data = pattern(size as usize, n as u64);
            let offset = n as u64 * 7;
            one.put(offset, &data, channel);
            assert!(disk(&server, "file")[offset as usize..][..size as usize] == data);
            assert!(one.get(offset, size, channel) == data, "{size} bytes");
        }
        // At the end of the file a READ returns less, which is protected all the same.
        let end = disk(&server, "file");
        let read = one.get(end.len() as u64 - 5, 4096, Channel::RdmaV1);
        assert!(read == end[end.len() - 5..]);
    }
}

/// Returns how, according to smbstatus, the SMB Direct channels protect the data that RDMA carries. `None` if the
/// records of channels do not contain that, as in Samba 4.24.
fn shows(server: &Server) -> Option<Vec<String>> {
    let status = server.smbstatus();
    let sessions = status["sessions"].as_object().expect("sessions");
    let channels = sessions.values().flat_map(|session| {
        let channels = session["channels"].as_object().expect("channels");
        channels.values()
    });
    let direct = channels.filter(|channel| channel["transport"] == "smbdirect");
    let shown = direct.map(|channel| channel["rdma"].as_str().map(str::to_owned));
    let shown: Vec<_> = shown.collect();
    assert!(!shown.is_empty(), "{status}");
    shown.into_iter().collect()
}

#[test]
fn clients_that_must_sign_or_encrypt_use_rdma_and_are_told_of_rdma() {
    let whole = 8 << 20;
    type Case<'a> = (&'a [&'a str], &'a [&'a str], bool, TransformType, &'a str);
    let setups: [Case; 5] = [
        (
            &[],
            &["smb encrypt = required"],
            false,
            Encryption,
            "partly encrypted",
        ),
        (
            &["server smb encrypt = required"],
            &[],
            false,
            Encryption,
            "encrypted",
        ),
        (
            &["server signing = mandatory"],
            &[],
            false,
            Signing,
            "signed",
        ),
        (&[], &[], true, Signing, "signed"),
        (
            &["server signing = mandatory", "server smb encrypt = desired"],
            &[],
            false,
            Encryption,
            "encrypted",
        ),
    ];
    for (global, share, sign, transform, shown) in setups {
        println!("{global:?} {share:?} {sign}");
        let server = device(Setup {
            global,
            share,
            ..Setup::default()
        });
        place(&server, "file", &[]);
        let config = config(sign, false);
        let mut direct =
            Connection::smb_direct(server.smb_direct, config.clone()).expect("a server");
        let sizes = direct.negotiated();
        assert_eq!((sizes.max_read_size, sizes.max_write_size), (whole, whole));
        direct.log_in(&credentials(&server)).expect("a session");
        let mut tcp = log_in(&server, config);
        let tree = tcp.tree_connect(&server.share_path()).expect("a tree");
        let interfaces = tcp.network_interfaces(tree).expect("interfaces");
        assert!(interfaces.iter().any(|interface| interface.rdma));
        drop(tcp);
        let tree = direct.tree_connect(&server.share_path()).expect("a tree");
        assert_eq!(direct.transform(tree), Some(transform));
        let how = instruments::client::Create::file(instruments::client::Disposition::Open);
        let file = direct.create(tree, "file", &how).expect("a file").file;
        let mut data = pattern(300_000, 1);
        let plain = data.clone();
        let protected = direct.protect(transform, &mut data).expect("keys");
        let from = source(&mut direct, &data);
        let pieces = from.pieces(2);
        let write = Write::transformed(file, 0, 300_000, &protected, Channel::RdmaV1, &pieces);
        let written = direct
            .call(&write.request(tree))
            .expect("a WRITE")
            .written();
        assert_eq!(written.expect("a WRITE"), 300_000);
        assert!(disk(&server, "file") == plain);
        if let Some(all) = shows(&server) {
            assert_eq!(all, [shown]);
        }
        let status = server.device().status();
        let connections = status["connections"].as_array().expect("connections");
        let moved = connections
            .iter()
            .filter_map(|one| one["rdma_read_bytes"].as_u64());
        assert_eq!(moved.sum::<u64>(), 300_000);
    }
}

#[test]
fn smbstatus_tells_plain_data_from_data_in_messages() {
    let server = device(Setup::default());
    let _plain = Client::connect_with(&server, config(false, false));
    let Some(shown) = shows(&server) else { return };
    assert_eq!(shown, ["plain"]);
    let signs = Config {
        transforms: vec![],
        ..config(true, false)
    };
    let _messages = Client::connect_with(&server, signs);
    let mut shown = shows(&server).expect("both channels");
    shown.sort();
    assert_eq!(shown, ["none", "plain"]);
}

// What is refused

/// Makes a WRITE over channel 3 with any channel information.
fn write(file: FileId, length: u32, info: &[u8]) -> Write<'static> {
    Write {
        channel: 3,
        channel_info_length: u16::try_from(info.len()).expect("short"),
        buffer: info.to_vec(),
        ..Write::direct(file, 0, length, Channel::RdmaV1, &[])
    }
}

fn encrypted(server: &Server) -> Transformed {
    Transformed::connect(server, config(false, true), Encryption)
}

fn signed(server: &Server) -> Transformed {
    Transformed::connect(server, config(true, false), Signing)
}

/// Starts a server with a file.
fn victim() -> (Server, Vec<u8>) {
    let server = device(Setup::default());
    let data = pattern(200_000, 1);
    place(&server, "file", &data);
    (server, data)
}

#[test]
fn data_that_was_altered_or_is_of_another_session_is_not_written() {
    let (server, before) = victim();
    let mut other = {
        let config = Config {
            client_guid: *b"another client..",
            ..config(false, true)
        };
        let mut other = Connection::smb_direct(server.smb_direct, config).expect("SMB Direct");
        other.log_in(&credentials(&server)).expect("a session");
        other
    };
    for (mut one, status) in [
        (encrypted(&server), NtStatus::AUTH_TAG_MISMATCH),
        (signed(&server), NtStatus::INVALID_SIGNATURE),
    ] {
        // Try lengths below and above the length at which threads begin to do the work.
        for length in [5000_u32, 200_000] {
            let data = pattern(length as usize, 2);
            let mut refused = |spoil: &mut dyn FnMut(&mut Transform, &mut Vec<u8>)| {
                let mut sent = data.clone();
                let transform = one.client.direct.protect(one.transform, &mut sent);
                let mut transform = transform.expect("keys");
                spoil(&mut transform, &mut sent);
                let from = source(&mut one.client.direct, &sent);
                let pieces = [from.descriptor()];
                let channel = Channel::RdmaV1Invalidate;
                let write = Write::transformed(one.file, 0, length, &transform, channel, &pieces);
                let response = one.client.direct.call(&write.request(one.client.tree));
                assert_eq!(refusal(response), status);
                assert!(one.client.direct.take_invalidated(from.token()));
                assert!(disk(&server, "file") == before, "it was written");
            };
            let last = length as usize - 1;
            for at in [0, 1, last / 2, last] {
                refused(&mut |_, sent| sent[at] ^= 0x80);
            }
            refused(&mut |_, sent| sent.swap(0, 199));
            for at in 0..16 {
                refused(&mut |transform, _| transform.signature[at] ^= 1);
            }
            for wrong in [0, 1, 15, 17, 255] {
                refused(&mut |transform, _| transform.signature.resize(wrong, 0));
            }
            for wrong in [1, 10, 13, 16, 200] {
                refused(&mut |transform, _| transform.nonce.resize(wrong, 0));
            }
            refused(&mut |transform, _| transform.nonce.iter_mut().for_each(|byte| *byte ^= 1));
            // Try the keys of another session.
            if status == NtStatus::AUTH_TAG_MISMATCH {
                refused(&mut |transform, sent| {
                    sent.copy_from_slice(&data);
                    *transform = other.protect(Encryption, sent).expect("keys");
                });
            }
        }
        one.client.is_alive();
        one.put(0, &before, Channel::RdmaV1);
        assert!(disk(&server, "file") == before);
    }
}

#[test]
fn malformed_transforms_are_refused_byte_by_byte() {
    let (server, before) = victim();
    let mut one = encrypted(&server);
    let (transform, from) = one.offer(&pattern(5000, 3), 5000);
    let right = transform.channel_info(Channel::RdmaV1, &[from.descriptor()]);
    assert_eq!(right.len(), 72);
    let mut refused = |length: u32, info: &[u8]| {
        let request = write(one.file, length, info).request(one.client.tree);
        let status = refusal(one.client.direct.call(&request));
        assert_eq!(status, NtStatus::INVALID_PARAMETER, "{info:?}");
        assert!(disk(&server, "file") == before, "it was written");
    };
    // Cut the information off anywhere, or let the WRITE have more bytes than the descriptors describe.
    for end in 0..right.len() {
        refused(5000, &right[..end]);
    }
    refused(5001, &right);
    refused(9 << 20, &right);
    let with = |at: usize, bytes: &[u8]| {
        let mut info = right.clone();
        info[at..at + bytes.len()].copy_from_slice(bytes);
        info
    };
    // Put the descriptors into the transform, before its end, after the end, or at an offset that is not a multiple of
    // 8.
    for offset in [0_u16, 1, 16, 24, 48, 52, 57, 64, 72, 0x7fff, 0xffff] {
        refused(5000, &with(0, &offset.to_le_bytes()));
    }
    for length in [0_u16, 1, 8, 15, 17, 32, 0xffff] {
        refused(5000, &with(2, &length.to_le_bytes()));
    }
    for channel in [0_u32, 3, 4, 0x100, u32::MAX] {
        refused(5000, &with(4, &channel.to_le_bytes()));
    }
    for count in [0_u16, 2, 3, 0xffff] {
        refused(5000, &with(8, &count.to_le_bytes()));
    }
    for kind in [0_u16, 2, 3, 0xffff] {
        refused(5000, &with(16, &kind.to_le_bytes()));
    }
    // These lengths move the end, or lie beyond it.
    for at in [18, 20] {
        for length in [0_u16, 4, 24, 40, 0x7fff, 0xffff] {
            refused(5000, &with(at, &length.to_le_bytes()));
        }
    }
    // Try a descriptor of zero bytes, and one that wraps around.
    refused(5000, &with(68, &[0; 4]));
    refused(5000, &with(56, &[0xff; 8]));
    // READ does not have this channel.
    let read = Read {
        channel: 3,
        ..Read::direct(one.file, 0, 5000, Channel::RdmaV1, &[from.descriptor()])
    };
    let response = one.client.direct.call(&read.request(one.client.tree));
    assert_eq!(refusal(response), NtStatus::INVALID_PARAMETER);
    one.client.is_alive();
    let request = write(one.file, 5000, &right).request(one.client.tree);
    one.client.direct.call(&request).expect("the right one");
    assert!(disk(&server, "file")[..5000] == pattern(5000, 3));
}

#[test]
fn a_transform_that_does_not_match_the_protection_of_its_message_is_refused() {
    let (server, before) = victim();
    let mut one = encrypted(&server);
    let mut refused = |transform: TransformType, protection: Protection, server: &Server| {
        let mut data = pattern(5000, 4);
        let protected = one.client.direct.protect(transform, &mut data);
        let from = source(&mut one.client.direct, &data);
        let info = protected
            .expect("keys")
            .channel_info(Channel::RdmaV1, &[from.descriptor()]);
        let request = write(one.file, 5000, &info).request(one.client.tree);
        let response = one.client.direct.exchange(&request.protected(protection));
        let status = refusal(response.and_then(|response| response.ok()));
        assert_eq!(
            status,
            NtStatus::INVALID_PARAMETER,
            "{transform:?} {protection:?}"
        );
        assert!(disk(server, "file") == before, "it was written");
    };
    refused(Encryption, Protection::Signed, &server);
    refused(Encryption, Protection::Plain, &server);
    refused(Signing, Protection::Sealed, &server);
    refused(Signing, Protection::Plain, &server);
    // Data does not go by RDMA without a transform either.
    for mut one in [encrypted(&server), signed(&server)] {
        let from = source(&mut one.client.direct, &pattern(5000, 5));
        for channel in [Channel::RdmaV1, Channel::RdmaV1Invalidate] {
            let put = one
                .client
                .put(one.file, 0, 5000, channel, &[from.descriptor()]);
            assert_eq!(refusal(put), NtStatus::INVALID_PARAMETER);
            if channel == Channel::RdmaV1Invalidate {
                assert!(one.client.direct.take_invalidated(from.token()));
            }
        }
    }
}

#[test]
fn a_replayed_write_writes_the_same_again_and_nothing_else() {
    let (server, _) = victim();
    for mut one in [encrypted(&server), signed(&server)] {
        let data = pattern(70_000, 6);
        let (transform, from) = one.offer(&data, data.len());
        let info = transform.channel_info(Channel::RdmaV1, &[from.descriptor()]);
        for _ in 0..3 {
            place(&server, "file", &pattern(200_000, 7));
            let request = write(one.file, 70_000, &info).request(one.client.tree);
            one.client.direct.call(&request).expect("a WRITE");
            assert!(disk(&server, "file")[..70_000] == data);
        }
        // Half of the data differs from what was encrypted or signed.
        let half = write(one.file, 35_000, &info).request(one.client.tree);
        let status = refusal(one.client.direct.call(&half));
        let expected = match one.transform {
            Encryption => NtStatus::AUTH_TAG_MISMATCH,
            Signing => NtStatus::INVALID_SIGNATURE,
        };
        assert_eq!(status, expected);
    }
}

/// Sizes and numbers of WRITEs. smbd uses a thread to unprotect the data of a large WRITE that is not the only one, and
/// unprotects the data of all others without a thread.
const WITH_AND_WITHOUT_THREAD: [(u32, usize); 4] =
    [(4096, 1), (100_000, 1), (1 << 20, 1), (1 << 20, 2)];

#[test]
fn a_write_is_done_although_its_file_is_closed_right_after_it() {
    let (server, _) = victim();
    for start in [encrypted, signed] {
        for (n, (size, count)) in WITH_AND_WITHOUT_THREAD.into_iter().enumerate() {
            place(&server, "file", &[]);
            let mut one = start(&server);
            let data = pattern(size as usize, n as u64 + 20);
            let (transform, from) = one.offer(&data, data.len());
            let piece = [from.descriptor()];
            let write = Write::transformed(one.file, 0, size, &transform, Channel::RdmaV1, &piece);
            let close = Request::close(one.client.tree, one.file).expect("a request");
            let direct = &mut one.client.direct;
            let write = write.request(one.client.tree);
            let writes: Vec<u64> = (0..count)
                .map(|_| direct.send(&write).expect("sent"))
                .collect();
            let close = direct.send(&close).expect("sent");
            for write in writes {
                let written = direct.wait(write).and_then(|response| response.written());
                assert_eq!(written.expect("a WRITE"), size);
            }
            direct.wait(close).expect("a CLOSE");
            assert!(disk(&server, "file") == data, "{size} bytes");
        }
    }
}

#[test]
fn a_client_that_leaves_right_after_a_write_harms_nothing_else() {
    type End = fn(&mut Client) -> Vec<Request<'static>>;
    let ends: [End; 3] = [
        |client| vec![Request::tree_disconnect(client.tree).expect("a request")],
        |_| vec![Request::logoff().expect("a request")],
        // End the connection.
        |_| vec![],
    ];
    let (server, before) = victim();
    for end in ends {
        for start in [encrypted, signed] {
            for (size, count) in WITH_AND_WITHOUT_THREAD {
                place(&server, "file", &before);
                let mut one = start(&server);
                let data = pattern(size as usize, 30);
                let (transform, from) = one.offer(&data, data.len());
                let piece = [from.descriptor()];
                let file = one.file;
                let write = Write::transformed(file, 0, size, &transform, Channel::RdmaV1, &piece);
                let mut sent: Vec<Request> =
                    (0..count).map(|_| write.request(one.client.tree)).collect();
                sent.extend(end(&mut one.client));
                let direct = &mut one.client.direct;
                let sent: Vec<u64> = sent
                    .iter()
                    .map(|request| direct.send(request).expect("sent"))
                    .collect();
                if sent.len() > count {
                    for id in sent {
                        direct.wait(id).expect("an answer");
                    }
                }
                drop(one);
                whole_or_not_at_all(&server, &before, &data);
            }
        }
    }
    let mut other = signed(&server);
    other.put(0, &before, Channel::RdmaV1);
    assert!(disk(&server, "file")[..before.len()] == before);
}

/// Waits until no session is left. Then the file must be as before, or have `data` at its start.
fn whole_or_not_at_all(server: &Server, before: &[u8], data: &[u8]) {
    let started = Instant::now();
    let sessions = || {
        server.smbstatus()["sessions"]
            .as_object()
            .map(|all| all.len())
    };
    while sessions() != Some(0) {
        assert!(started.elapsed() < TIMEOUT, "the session does not end");
    }
    let mut after = before.to_vec();
    after.resize(before.len().max(data.len()), 0);
    after[..data.len()].copy_from_slice(data);
    let found = disk(server, "file");
    assert!(found == before || found == after, "a part was written");
}

#[test]
fn as_many_descriptors_as_fit_are_served() {
    let (server, _) = victim();
    let mut one = encrypted(&server);
    let count = (u32::from(u16::MAX) - 56) / 16;
    assert_eq!(count, 4092);
    let data = pattern(count as usize * 3 + 1, 8);
    let length = data.len() as u32;
    let (transform, from) = one.offer(&data, data.len());
    let pieces = from.pieces(count);
    assert_eq!(pieces.len(), count as usize);
    let write = Write::transformed(one.file, 0, length, &transform, Channel::RdmaV1, &pieces);
    let request = write.request(one.client.tree);
    let written = one
        .client
        .direct
        .call(&request)
        .and_then(|response| response.written());
    assert_eq!(written.expect("a WRITE"), length);
    assert!(disk(&server, "file")[..data.len()] == data);
    let pieces: Vec<BufferDescriptorV1> = from.pieces(count);
    let read = Read::direct(one.file, 0, length, Channel::RdmaV1, &pieces);
    // The server may not write to this memory.
    let _ = one.client.direct.call(&read.request(one.client.tree));
    one.client.direct.echo().expect_err("the connection ended");
    one.client.tcp.echo().expect("the other channel lives");
}

#[test]
fn older_dialects_and_tcp_have_no_transforms() {
    let (server, before) = victim();
    let mut one = encrypted(&server);
    let (transform, from) = one.offer(&pattern(5000, 9), 5000);
    let info = transform.channel_info(Channel::RdmaV1, &[from.descriptor()]);
    let request = write(one.file, 5000, &info).request(one.client.tree);
    let status = refusal(one.client.tcp.call(&request));
    assert_eq!(status, NtStatus::INVALID_PARAMETER);
    for dialect in [Dialect::Smb300, Dialect::Smb302] {
        let config = Config {
            dialects: vec![dialect],
            ..config(false, true)
        };
        let mut client = Client::connect_with(&server, config);
        assert!(!client.direct.may_place(client.tree));
        let file = client.open("file");
        let request = write(file, 5000, &info).request(client.tree);
        let status = refusal(client.direct.call(&request));
        assert_eq!(status, NtStatus::INVALID_PARAMETER);
    }
    assert!(disk(&server, "file") == before);
}

// What the device sees

/// Returns all memory that a process can write, except mapped memory that it cannot read.
fn memory(process: u32) -> Vec<Vec<u8>> {
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).expect("its maps");
    let mut memory = fs::File::open(format!("/proc/{process}/mem")).expect("its memory");
    let mut found = Vec::new();
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (range, rights) = (
            words.next().expect("a range"),
            words.next().expect("rights"),
        );
        let (start, end) = range.split_once('-').expect("two addresses");
        let number = |text| u64::from_str_radix(text, 16).expect("an address");
        let (start, end) = (number(start), number(end));
        if !rights.starts_with("rw") {
            continue;
        }
        let mut bytes = vec![0; (end - start) as usize];
        memory.seek(SeekFrom::Start(start)).expect("an address");
        if memory.read_exact(&mut bytes).is_ok() {
            found.push(bytes);
        }
    }
    found
}

/// Returns whether any part of the memory contains `what`.
fn has(memory: &[Vec<u8>], what: &[u8]) -> bool {
    let (first, rest) = what.split_first().expect("not empty");
    memory.iter().any(|part| {
        let mut at = 0;
        while let Some(next) = part[at..].iter().position(|byte| byte == first) {
            at += next + 1;
            if part[at..].starts_with(rest) {
                return true;
            }
        }
        false
    })
}

#[test]
fn the_device_has_neither_keys_nor_plaintext() {
    let server = device(Setup::default());
    let mut secret = vec![0; 1 << 20];
    fastrand::Rng::with_seed(10).fill(&mut secret);
    place(&server, "file", &secret);
    let runs = [&secret[200..232], &secret[500_000..500_032]];
    let mut one = encrypted(&server);
    let keys = one.client.direct.keys();
    assert!(keys.len() >= 4, "{}", keys.len());
    for round in 0..4 {
        let read = one.get(0, 1 << 20, Channel::RdmaV1);
        assert!(read == secret);
        one.put(0, &secret, Channel::RdmaV1);
        // Search in the middle of READs that the client has not answered yet.
        let into = sink(&mut one.client.direct, 1 << 20);
        let ids: Vec<u64> = (0..4)
            .map(|_| {
                let pieces = [into.descriptor()];
                let read = Read::direct(one.file, 0, 1 << 20, Channel::RdmaV1, &pieces);
                let request = read.request(one.client.tree);
                one.client.direct.send(&request).expect("sent")
            })
            .collect();
        let memory = memory(server.device().id());
        for run in runs {
            assert!(!has(&memory, run), "round {round}: plaintext");
        }
        for key in &keys {
            assert!(!has(&memory, key), "round {round}: a key");
        }
        for id in ids {
            one.client.direct.wait(id).expect("an answer");
        }
    }
    drop(one);
    // The same search finds data that is not encrypted.
    let mut plain = Client::connect(&server);
    let file = plain.open("file");
    let into = sink(&mut plain.direct, 1 << 20);
    let read = plain.get(file, 0, 1 << 20, Channel::RdmaV1, &[into.descriptor()]);
    assert_eq!(read.expect("a READ"), 1 << 20);
    assert!(contents(&into) == secret);
    let memory = memory(server.device().id());
    assert!(
        runs.iter().any(|run| has(&memory, run)),
        "the search does not work"
    );
}
