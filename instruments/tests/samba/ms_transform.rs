// SPDX-License-Identifier: GPL-2.0-or-later

//! The cases of Microsoft's MS-SMBD suite for RDMA transforms, under the suite's names.
//!
//! Like the suite, each case has one SMB Direct connection, offers the ciphers and transforms that the suite offers,
//! and does not set `SMB2_GLOBAL_CAP_ENCRYPTION`. The structures are put together here, byte by byte, without the code
//! that this repository's client uses.
#![allow(non_snake_case)] // The suite chose the names.

use std::collections::BTreeSet;

use instruments::client::{
    Channel, CipherAlgorithm, Config, Connection, Create, Dialect, Disposition, FileId, Header,
    NtStatus, Protection, Read, ReadDone, Registration, Request, Response, SigningAlgorithm,
    Transform, TransformType, Write,
};

use crate::channel::{contents, device, disk, pattern, place, refusal, sink, source};
use crate::sessions::{GUID, credentials};
use crate::transforms::CMAC_TOO;
use instruments::samba::{Server, Setup};

use CipherAlgorithm::{Aes128Ccm, Aes128Gcm, Aes256Ccm, Aes256Gcm};
use SigningAlgorithm::{AesCmac, AesGmac};
use TransformType::{Encryption, Signing};

/// The offset of the buffer in a READ response.
const READ_DATA_OFFSET: u8 = 80;
/// `TransformType` in a crypto transform.
const ENCRYPTION: u16 = 1;
const SIGNING: u16 = 2;
/// `Channel` in an RDMA transform.
const RDMA_V1: u32 = 1;
const RDMA_V1_INVALIDATE: u32 = 2;
/// The number of bytes that the failing cases write.
const LENGTH: u32 = 100_000;

/// A connection of the suite's client, and a file.
struct Suite {
    server: Server,
    direct: Connection,
    tree: u32,
    file: FileId,
    /// How the suite protects each message after the session setup.
    protection: Protection,
}

impl Suite {
    /// Makes a session that encrypts all messages.
    fn encrypting(ids: &[TransformType], cipher: CipherAlgorithm) -> Self {
        let config = Config {
            dialects: vec![Dialect::Smb311],
            ciphers: vec![cipher],
            signing: vec![],
            ..Self::config(ids)
        };
        Self::connect(config, Protection::Sealed)
    }

    /// Makes a session that signs all messages.
    fn signing(ids: &[TransformType], algorithm: SigningAlgorithm) -> Self {
        let config = Config {
            dialects: vec![Dialect::Smb302, Dialect::Smb311],
            ciphers: vec![],
            signing: vec![algorithm],
            ..Self::config(ids)
        };
        Self::connect(config, Protection::Signed)
    }

    /// Makes a session that could both sign and encrypt, and that encrypts all messages.
    fn both(ids: &[TransformType]) -> Self {
        let config = Config {
            dialects: vec![Dialect::Smb302, Dialect::Smb311],
            ciphers: vec![Aes128Ccm, Aes128Gcm],
            signing: vec![AesGmac],
            ..Self::config(ids)
        };
        Self::connect(config, Protection::Sealed)
    }

    fn config(ids: &[TransformType]) -> Config {
        Config {
            transforms: ids.to_vec(),
            encryption_capability: false,
            ..Config::new(GUID)
        }
    }

    fn connect(config: Config, protection: Protection) -> Self {
        let global = match config.signing[..] {
            [AesCmac] => CMAC_TOO,
            _ => &[],
        };
        let server = device(Setup {
            global,
            ..Setup::default()
        });
        place(&server, "file", &[]);
        let ids = config.transforms.clone();
        let mut direct = Connection::smb_direct(server.smb_direct, config).expect("SMB Direct");
        assert_eq!(direct.negotiated().dialect, Dialect::Smb311);
        assert_eq!(direct.negotiated().transforms, ids);
        direct.log_in(&credentials(&server)).expect("a session");
        let share = Request::tree_connect(&server.share_path()).expect("a request");
        let share = direct.call(&share.protected(protection)).expect("a tree");
        let tree = share.header.tree_id();
        let how = Create::file(Disposition::Open);
        let create = Request::create(tree, "file", &how).expect("a request");
        let created = direct.call(&create.protected(protection));
        let file = created.and_then(|created| created.created());
        Self {
            server,
            direct,
            tree,
            file: file.expect("a file").file,
            protection,
        }
    }

    /// Returns the size of a request such that `count` requests move as much as NEGOTIATE allows for one.
    fn size(&self, count: u32) -> u32 {
        let negotiated = self.direct.negotiated();
        assert_eq!(negotiated.max_read_size, negotiated.max_write_size);
        negotiated.max_write_size / count
    }

    fn exchange(&mut self, request: Request<'_>) -> Response {
        let request = request.protected(self.protection);
        self.direct.exchange(&request).expect("an answer")
    }

    /// Reads the whole file with READs by RDMA, and checks what each response says about its transform.
    fn reads(&mut self, count: u32, transform: TransformType, info_length: usize) {
        let size = self.size(count);
        let data = pattern((size * count) as usize, 1);
        place(&self.server, "file", &data);
        let mut nonces = BTreeSet::new();
        for n in 0..count {
            let into = sink(&mut self.direct, size as usize);
            let offset = u64::from(n * size);
            let channel = Channel::RdmaV1;
            let read = Read::direct(self.file, offset, size, channel, &[into.descriptor()]);
            let response = self.exchange(read.request(self.tree));
            assert_eq!(response.status(), NtStatus::SUCCESS);
            let read = response.read().expect("a READ");
            assert_eq!(read.direct, size, "DataRemaining");
            assert_eq!(read.offset, READ_DATA_OFFSET);
            assert_eq!(read.flags, ReadDone::RDMA_TRANSFORM);
            assert_eq!(read.data.len(), info_length, "DataLength");
            assert_eq!(read.data[..8], [0; 8], "no descriptors");
            assert_eq!(read.data[8..16], [1, 0, 0, 0, 0, 0, 0, 0], "one transform");
            assert_eq!(read.data[16..18], transform.number().to_le_bytes());
            let nonce = read.transform().expect("a transform").expect("one").nonce;
            assert!(nonces.insert(nonce.to_vec()), "READ {n} repeats a nonce");
            let mut got = contents(&into);
            let right = &data[offset as usize..][..size as usize];
            // Encrypted data must differ from the file; signed data must be the same.
            assert_eq!(got == right, transform == Signing);
            let opened = self.direct.unprotect(self.tree, &response, &mut got);
            opened.expect("the data is what the server sent");
            assert!(got == right);
            // A change of any byte is noticed.
            let mut other = contents(&into);
            other[size as usize / 2] ^= 1;
            let opened = self.direct.unprotect(self.tree, &response, &mut other);
            assert!(opened.is_err());
        }
    }

    /// Encrypts or signs data, and puts it where the server can fetch it.
    fn offer(&mut self, transform: TransformType, data: &[u8]) -> (Transform, Registration) {
        let mut data = data.to_vec();
        let transform = self.direct.protect(transform, &mut data).expect("keys");
        (transform, source(&mut self.direct, &data))
    }

    /// Makes a WRITE over channel 3 with this channel information.
    fn write(&mut self, offset: u64, length: u32, info: &[u8]) -> Request<'static> {
        Write {
            channel: 3,
            channel_info_length: u16::try_from(info.len()).expect("short"),
            buffer: info.to_vec(),
            ..Write::direct(self.file, offset, length, Channel::RdmaV1, &[])
        }
        .request(self.tree)
    }

    /// Writes as much as allowed, with WRITEs by RDMA. As in the suite, all of them have the same data with one nonce,
    /// and the channel information of each WRITE repeats that of the WRITEs before it and adds its own.
    fn writes(&mut self, count: u32, transform: TransformType, channel: u32) {
        let size = self.size(count);
        let data = pattern(size as usize, 2);
        let (transform, from) = self.offer(transform, &data);
        let mut info = Vec::new();
        for n in 0..count {
            info.extend(whole(&transform, channel, &from));
            let request = self.write(u64::from(n * size), size, &info);
            let response = self.exchange(request);
            assert_eq!(response.status(), NtStatus::SUCCESS, "WRITE {n}");
            assert_eq!(response.written().expect("a WRITE"), size);
            let invalidates = channel == RDMA_V1_INVALIDATE;
            assert_eq!(self.direct.take_invalidated(from.token()), invalidates);
        }
        let written = disk(&self.server, "file");
        assert_eq!(written.len(), (size * count) as usize);
        assert!(written.chunks(size as usize).all(|part| part == data));
    }

    /// Sends a WRITE that must be refused with `status`: nothing is written, and the connection survives.
    fn fails(&mut self, request: Request<'_>, status: NtStatus) {
        let response = self.exchange(request);
        assert_eq!(refusal(response.ok()), status);
        assert!(disk(&self.server, "file").is_empty(), "it was written");
        let echo = Request::echo().expect("a request");
        assert_eq!(self.exchange(echo).status(), NtStatus::SUCCESS);
    }

    /// Sends a WRITE whose transform `spoil` has changed, which must be refused, and then one with the right transform.
    fn fails_if(
        &mut self,
        transform: TransformType,
        spoil: impl FnOnce(&Transform, &Registration) -> Vec<u8>,
        status: NtStatus,
    ) {
        let data = pattern(LENGTH as usize, 3);
        let (transform, from) = self.offer(transform, &data);
        let request = self.write(0, LENGTH, &spoil(&transform, &from));
        self.fails(request, status);
        let right = whole(&transform, RDMA_V1, &from);
        let request = self.write(0, LENGTH, &right);
        let response = self.exchange(request);
        assert_eq!(response.written().expect("a WRITE"), LENGTH);
        assert!(disk(&self.server, "file") == data);
    }
}

/// Makes `SMB2_RDMA_TRANSFORM`, to be followed by `rest` and the descriptor.
fn head(count: u16, channel: u32, rest: usize, descriptors: usize) -> Vec<u8> {
    let number = |n: usize| u16::try_from(n).expect("short").to_le_bytes();
    let mut bytes = Vec::new();
    bytes.extend(number(16 + rest));
    bytes.extend(number(descriptors));
    bytes.extend(channel.to_le_bytes());
    bytes.extend(count.to_le_bytes());
    bytes.extend([0; 6]);
    bytes
}

/// Makes `SMB2_RDMA_CRYPTO_TRANSFORM`, without padding.
fn crypto(kind: u16, signature: &[u8], nonce: &[u8]) -> Vec<u8> {
    let length = |part: &[u8]| u16::try_from(part.len()).expect("short").to_le_bytes();
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend(length(signature));
    bytes.extend(length(nonce));
    bytes.extend([0; 2]);
    bytes.extend(signature);
    bytes.extend(nonce);
    bytes
}

fn aligned(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

/// Makes channel information: its head says `count`, and `crypto` stands before the descriptor.
fn info(count: u16, channel: u32, crypto: &[u8], from: &Registration) -> Vec<u8> {
    let mut bytes = head(count, channel, crypto.len(), 16);
    bytes.extend(crypto);
    bytes.extend(from.descriptor().emit());
    bytes
}

/// Makes the right crypto transform.
fn right(transform: &Transform) -> Vec<u8> {
    let kind = transform.transform_type.number();
    aligned(crypto(kind, &transform.signature, &transform.nonce))
}

/// Makes the right channel information.
fn whole(transform: &Transform, channel: u32, from: &Registration) -> Vec<u8> {
    info(1, channel, &right(transform), from)
}

/// Makes the bytes longer by one, as the suite does: the first byte comes twice.
fn longer(bytes: &[u8]) -> Vec<u8> {
    [&bytes[..1], bytes].concat()
}

// Smb2OverRdmaChannelTransformEncryption: READ. Both structures and their padding are 56 bytes with each cipher.

#[test]
fn BVT_Smb2OverRdmaChannelTransform_Encryption_ReadLargeFile_AES128CCM() {
    Suite::encrypting(&[Encryption], Aes128Ccm).reads(1, Encryption, 56);
}

#[test]
fn Smb2OverRdmaChannelTransform_Encryption_ReadLargeFile_AES128GCM() {
    Suite::encrypting(&[Encryption], Aes128Gcm).reads(1, Encryption, 56);
}

#[test]
fn Smb2OverRdmaChannelTransform_Encryption_ReadLargeFile_AES256CCM() {
    Suite::encrypting(&[Encryption], Aes256Ccm).reads(1, Encryption, 56);
}

#[test]
fn Smb2OverRdmaChannelTransform_Encryption_ReadLargeFile_AES256GCM() {
    Suite::encrypting(&[Encryption], Aes256Gcm).reads(1, Encryption, 56);
}

#[test]
fn Smb2OverRdmaChannelTransform_Encryption_ReadMultipleOperation() {
    Suite::encrypting(&[Encryption], Aes128Ccm).reads(64, Encryption, 56);
}

// Smb2OverRdmaChannelTransformEncryption: WRITE

#[test]
fn BVT_Smb2OverRdmaChannelTransform_Encryption_WriteLargeFile_AES128CCM() {
    Suite::encrypting(&[Encryption], Aes128Ccm).writes(1, Encryption, RDMA_V1);
}

#[test]
fn Smb2OverRdmaChannelTransform_Encryption_WriteLargeFile_AES128GCM() {
    Suite::encrypting(&[Encryption], Aes128Gcm).writes(1, Encryption, RDMA_V1);
}

#[test]
fn Smb2OverRdmaChannelTransform_Encryption_WriteLargeFile_AES256CCM() {
    Suite::encrypting(&[Encryption], Aes256Ccm).writes(1, Encryption, RDMA_V1);
}

#[test]
fn Smb2OverRdmaChannelTransform_Encryption_WriteLargeFile_AES256GCM() {
    Suite::encrypting(&[Encryption], Aes256Gcm).writes(1, Encryption, RDMA_V1);
}

#[test]
fn Smb2OverRdmaChannelTransform_Encryption_WriteMultipleOperation() {
    Suite::encrypting(&[Encryption], Aes128Ccm).writes(64, Encryption, RDMA_V1);
}

#[test]
fn Smb2OverRdmaChannelTransform_Encryption_WriteLargeFile_NoTransformIds_Fails() {
    let mut suite = Suite::encrypting(&[], Aes128Ccm);
    let (transform, from) = suite.offer(Encryption, &pattern(LENGTH as usize, 4));
    let request = suite.write(0, LENGTH, &whole(&transform, RDMA_V1, &from));
    suite.fails(request, NtStatus::INVALID_PARAMETER);
}

#[test]
fn Smb2OverRdmaChannelTransform_Encryption_WriteLargeFile_ZeroTransformCount_Fails() {
    let mut suite = Suite::encrypting(&[Encryption], Aes128Ccm);
    let spoil =
        |transform: &Transform, from: &Registration| info(0, RDMA_V1, &right(transform), from);
    suite.fails_if(Encryption, spoil, NtStatus::INVALID_PARAMETER);
}

#[test]
fn Smb2OverRdmaChannelTransform_Encryption_WriteLargeFile_MultipleEncryptionStructure_Fails() {
    let mut suite = Suite::encrypting(&[Encryption], Aes128Ccm);
    let spoil = |transform: &Transform, from: &Registration| {
        info(2, RDMA_V1, &right(transform).repeat(2), from)
    };
    suite.fails_if(Encryption, spoil, NtStatus::INVALID_PARAMETER);
}

#[test]
fn Smb2OverRdmaChannelTransform_Encryption_WriteLargeFile_EncryptionAndSigningStructure_Fails() {
    let config = Config {
        dialects: vec![Dialect::Smb311],
        ciphers: vec![Aes128Ccm],
        signing: vec![AesGmac],
        ..Suite::config(&[Signing, Encryption])
    };
    let mut suite = Suite::connect(config, Protection::Sealed);
    // First the case as its description says, and then as the suite runs it: with the count and the offset of three
    // transforms.
    let two = |transform: &Transform, from: &Registration| {
        let signing = aligned(crypto(SIGNING, &transform.signature, &[0; 12]));
        info(2, RDMA_V1, &[right(transform), signing].concat(), from)
    };
    let data = pattern(LENGTH as usize, 5);
    let (transform, from) = suite.offer(Encryption, &data);
    let request = suite.write(0, LENGTH, &two(&transform, &from));
    suite.fails(request, NtStatus::INVALID_PARAMETER);
    let three = |transform: &Transform, from: &Registration| {
        let one = right(transform);
        let mut bytes = head(3, RDMA_V1, 3 * one.len(), 16);
        bytes.extend(one.repeat(2));
        bytes.extend(from.descriptor().emit());
        bytes
    };
    suite.fails_if(Encryption, three, NtStatus::INVALID_PARAMETER);
}

#[test]
fn Smb2OverRdmaChannelTransform_Encryption_WriteLargeFile_BufferNotAligned_Fails() {
    let mut suite = Suite::encrypting(&[Encryption], Aes128Gcm);
    let spoil = |transform: &Transform, from: &Registration| {
        let packed = crypto(ENCRYPTION, &transform.signature, &transform.nonce);
        assert_ne!(packed.len() % 8, 0);
        info(1, RDMA_V1, &packed, from)
    };
    suite.fails_if(Encryption, spoil, NtStatus::INVALID_PARAMETER);
}

#[test]
fn Smb2OverRdmaChannelTransform_Encryption_WriteLargeFile_IncreaseSignatureLength_Fails() {
    let mut suite = Suite::encrypting(&[Encryption], Aes128Gcm);
    let spoil = |transform: &Transform, from: &Registration| {
        let signature = longer(&transform.signature);
        let crypto = aligned(crypto(ENCRYPTION, &signature, &transform.nonce));
        info(1, RDMA_V1, &crypto, from)
    };
    suite.fails_if(Encryption, spoil, NtStatus::AUTH_TAG_MISMATCH);
}

/// Sends a WRITE with a nonce of another length.
fn a_nonce_of_another_length_fails(cipher: CipherAlgorithm, change: impl Fn(&[u8]) -> Vec<u8>) {
    let mut suite = Suite::encrypting(&[Encryption], cipher);
    let spoil = |transform: &Transform, from: &Registration| {
        let nonce = change(&transform.nonce);
        let crypto = aligned(crypto(ENCRYPTION, &transform.signature, &nonce));
        info(1, RDMA_V1, &crypto, from)
    };
    suite.fails_if(Encryption, spoil, NtStatus::AUTH_TAG_MISMATCH);
}

fn a_longer_nonce_fails(cipher: CipherAlgorithm) {
    a_nonce_of_another_length_fails(cipher, longer);
}

fn a_shorter_nonce_fails(cipher: CipherAlgorithm) {
    a_nonce_of_another_length_fails(cipher, |nonce| nonce[..nonce.len() - 1].to_vec());
}

#[test]
fn Smb2OverRdmaChannelTransform_Encryption_WriteLargeFile_IncreaseNonceLength_AES128CCM_Fails() {
    a_longer_nonce_fails(Aes128Ccm);
}

#[test]
fn Smb2OverRdmaChannelTransform_Encryption_WriteLargeFile_IncreaseNonceLength_AES128GCM_Fails() {
    a_longer_nonce_fails(Aes128Gcm);
}

#[test]
fn Smb2OverRdmaChannelTransform_Encryption_WriteLargeFile_IncreaseNonceLength_AES256CCM_Fails() {
    a_longer_nonce_fails(Aes256Ccm);
}

#[test]
fn Smb2OverRdmaChannelTransform_Encryption_WriteLargeFile_IncreaseNonceLength_AES256GCM_Fails() {
    a_longer_nonce_fails(Aes256Gcm);
}

#[test]
fn Smb2OverRdmaChannelTransform_Encryption_WriteLargeFile_DecreaseNonceLength_AES128CCM_Fails() {
    a_shorter_nonce_fails(Aes128Ccm);
}

#[test]
fn Smb2OverRdmaChannelTransform_Encryption_WriteLargeFile_DecreaseNonceLength_AES128GCM_Fails() {
    a_shorter_nonce_fails(Aes128Gcm);
}

#[test]
fn Smb2OverRdmaChannelTransform_Encryption_WriteLargeFile_DecreaseNonceLength_AES256CCM_Fails() {
    a_shorter_nonce_fails(Aes256Ccm);
}

#[test]
fn Smb2OverRdmaChannelTransform_Encryption_WriteLargeFile_DecreaseNonceLength_AES256GCM_Fails() {
    a_shorter_nonce_fails(Aes256Gcm);
}

// Smb2OverRdmaChannelTransformSigning

#[test]
fn Smb2OverRdmaChannelTransform_Signing_ReadLargeFile_AES_GMAC() {
    Suite::signing(&[Signing], AesGmac).reads(1, Signing, 56);
}

#[test]
fn Smb2OverRdmaChannelTransform_Signing_ReadLargeFile_AES_CMAC() {
    Suite::signing(&[Signing], AesCmac).reads(1, Signing, 40);
}

#[test]
fn Smb2OverRdmaChannelTransform_Signing_WriteLargeFile_AES_GMAC() {
    Suite::signing(&[Signing], AesGmac).writes(1, Signing, RDMA_V1_INVALIDATE);
}

#[test]
fn Smb2OverRdmaChannelTransform_Signing_WriteLargeFile_AES_CMAC() {
    Suite::signing(&[Signing], AesCmac).writes(1, Signing, RDMA_V1);
}

/// Sends a signed WRITE. The response invalidates the WRITE's token, even if the server refuses the WRITE.
fn signed_once(suite: &mut Suite, flags: u32, status: NtStatus) {
    let (transform, from) = suite.offer(Signing, &pattern(LENGTH as usize, 6));
    let request = suite.write(0, LENGTH, &whole(&transform, RDMA_V1_INVALIDATE, &from));
    let request = Request { flags, ..request };
    if status == NtStatus::SUCCESS {
        let response = suite.exchange(request);
        assert_eq!(response.written().expect("a WRITE"), LENGTH);
    } else {
        suite.fails(request, status);
    }
    assert!(suite.direct.take_invalidated(from.token()));
}

#[test]
fn Smb2OverRdmaChannelTransform_Signing_WriteLargeFile_FlagsSignedNotSet_Fails() {
    let mut suite = Suite::both(&[Signing]);
    // The suite's message is encrypted, so the flag in its header that says it is signed means nothing.
    signed_once(&mut suite, Header::SIGNED, NtStatus::INVALID_PARAMETER);
    // The description of the case says that the message is not signed.
    for protection in [Protection::Sealed, Protection::Plain] {
        suite.protection = protection;
        signed_once(&mut suite, 0, NtStatus::INVALID_PARAMETER);
    }
    suite.protection = Protection::Signed;
    signed_once(&mut suite, 0, NtStatus::SUCCESS);
}

#[test]
fn Smb2OverRdmaChannelTransform_Signing_WriteLargeFile_SigningStructure_EncryptionId_Fails() {
    let mut suite = Suite::both(&[Encryption]);
    signed_once(&mut suite, Header::SIGNED, NtStatus::INVALID_PARAMETER);
    // The WRITE is refused in a signed message, too.
    suite.protection = Protection::Signed;
    signed_once(&mut suite, 0, NtStatus::INVALID_PARAMETER);
}

#[test]
fn Smb2OverRdmaChannelTransform_Signing_WriteLargeFile_InvalidSignature_Fails() {
    let mut suite = Suite::signing(&[Signing], AesCmac);
    let spoil = |transform: &Transform, from: &Registration| {
        let mut signature = transform.signature.clone();
        signature.swap(2, 3);
        if signature == transform.signature {
            signature[2] ^= 1;
        }
        let crypto = aligned(crypto(SIGNING, &signature, &transform.nonce));
        info(1, RDMA_V1, &crypto, from)
    };
    suite.fails_if(Signing, spoil, NtStatus::INVALID_SIGNATURE);
}

#[test]
fn Smb2OverRdmaChannelTransform_Signing_WriteLargeFile_NoTransformIds_Fails() {
    let mut suite = Suite::signing(&[], AesGmac);
    let (transform, from) = suite.offer(Signing, &pattern(LENGTH as usize, 8));
    let request = suite.write(0, LENGTH, &whole(&transform, RDMA_V1_INVALIDATE, &from));
    suite.fails(request, NtStatus::INVALID_PARAMETER);
}

#[test]
fn Smb2OverRdmaChannelTransform_Signing_WriteLargeFile_ZeroTransformCount_Fails() {
    let mut suite = Suite::signing(&[Signing], AesCmac);
    let spoil =
        |transform: &Transform, from: &Registration| info(0, RDMA_V1, &right(transform), from);
    suite.fails_if(Signing, spoil, NtStatus::INVALID_PARAMETER);
}
