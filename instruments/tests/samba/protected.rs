// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests clients that sign or encrypt but know no RDMA transforms, like Linux's client. None of their data goes by
//! RDMA, which protects nothing by itself, and messages carry as much as they can hold.

use instruments::client::{
    Channel, Config, Connection, Create, Disposition, FileId, NtStatus, Read, Write,
};
use smbdirect::units::RemoteToken;
use smbdirect::wire::BufferDescriptorV1;

use crate::channel::{Client, device, disk, pattern, place, refusal, sink, source};
use crate::sessions::{GUID, credentials, log_in};
use instruments::samba::{Server, Setup};

/// The longest message that Linux's client receives: 1,364 bytes in each of 255 / 2 fragments. If the client encrypts,
/// it still reads `MaxReadSize` at a time, and takes missing bytes for zeros.
const LINUX: u32 = 173_910;
/// Bytes that precede an encrypted message.
const TRANSFORM: u32 = 52;
/// Bytes of a READ response before its data.
const RESPONSE: u32 = 64 + 16;
/// The unit in which credits are charged. `MaxReadSize` and `MaxWriteSize` are multiples of it.
const UNIT: u32 = 64 << 10;

/// Makes the configuration of a client that receives messages of at most this length.
fn receiving(max_fragmented_size: u32, sign: bool, seal: bool) -> Config {
    let mut config = Config {
        sign,
        seal,
        transforms: vec![],
        ..Config::new(GUID)
    };
    config.smb_direct.max_fragmented_size = max_fragmented_size;
    config
}

/// Makes a session that has only an SMB Direct connection, and opens a file.
fn open(server: &Server, config: Config) -> (Connection, u32, FileId) {
    let mut direct = Connection::smb_direct(server.smb_direct, config).expect("SMB Direct");
    direct.log_in(&credentials(server)).expect("a session");
    let tree = direct.tree_connect(&server.share_path()).expect("a tree");
    let how = Create::file(Disposition::OpenIf);
    let file = direct.create(tree, "file", &how).expect("a file").file;
    (direct, tree, file)
}

#[test]
fn a_read_of_more_than_the_client_receives_is_refused_and_not_shortened() {
    let server = device(Setup::default());
    let data = pattern(5 << 20, 1);
    place(&server, "file", &data);
    let end = data.len() as u64;
    for (sign, seal) in [(false, true), (true, false), (false, false)] {
        let (mut direct, tree, file) = open(&server, receiving(LINUX, sign, seal));
        let fits = LINUX - RESPONSE - if seal { TRANSFORM } else { 0 };
        let mut read = |offset, length| direct.read(tree, file, offset, length);
        for (offset, length) in [
            (0, 1 << 20),
            (0, fits + 1),
            (end - u64::from(fits) - 1, 1 << 20),
        ] {
            let status = refusal(read(offset, length));
            assert_eq!(status, NtStatus::INVALID_PARAMETER, "{length} at {offset}");
        }
        // A READ is answered if it asks for no more than fits, or if the file ends before that.
        for (offset, length) in [
            (0, fits),
            (end - u64::from(fits), fits),
            (end - u64::from(fits), 1 << 20),
            (end - 100_000, 1 << 20),
            (end, 1 << 20),
        ] {
            let right = &data[offset as usize..data.len().min(offset as usize + length as usize)];
            assert!(
                read(offset, length).expect("a READ") == right,
                "{length} at {offset}"
            );
        }
    }
}

#[test]
fn a_client_that_receives_any_read_gets_as_much_as_the_server_sends() {
    let server = device(Setup {
        device: "acceptor.max_fragmented_size = \"1 MiB\"\nmemory.send.longest_run = 128\n",
        ..Setup::default()
    });
    let data = pattern(5 << 20, 2);
    place(&server, "file", &data);
    for (sign, seal) in [(false, true), (true, false)] {
        let (mut direct, tree, file) = open(&server, receiving((8 << 20) + UNIT, sign, seal));
        let fits = (1 << 20) - RESPONSE - if seal { TRANSFORM } else { 0 };
        let mut at = 0;
        while at < data.len() {
            let read = direct.read(tree, file, at as u64, 4 << 20).expect("a READ");
            assert_eq!(read.len(), (data.len() - at).min(fits as usize));
            assert!(read == data[at..at + read.len()], "at {at}");
            at += read.len();
        }
    }
}

/// Writes and reads as much in a message as NEGOTIATE announced.
fn use_what_is_announced(server: &Server, config: Config) {
    let (mut direct, tree, file) = open(server, config);
    let (read, write) = {
        let negotiated = direct.negotiated();
        (negotiated.max_read_size, negotiated.max_write_size)
    };
    let data = pattern(read.max(write) as usize, 3);
    for at in (0..data.len()).step_by(write as usize) {
        let part = &data[at..data.len().min(at + write as usize)];
        let written = direct.write(tree, file, at as u64, part).expect("a WRITE");
        assert_eq!(written as usize, part.len());
    }
    assert!(disk(server, "file") == data);
    let got = direct.read(tree, file, 0, read).expect("a READ");
    assert!(got == data[..read as usize]);
}

#[test]
fn if_data_must_be_signed_or_encrypted_the_announced_sizes_fit_into_messages() {
    let whole = 8 << 20;
    let setups: [(&[&str], &[&str], bool); 5] = [
        (&[], &[], false),
        (&[], &["smb encrypt = required"], true),
        (&[], &["smb encrypt = desired"], true),
        (&["smb encrypt = desired"], &[], true),
        (&["server signing = mandatory"], &[], true),
    ];
    for (global, share, in_messages) in setups {
        println!("{global:?} {share:?}");
        let server = device(Setup {
            global,
            share,
            ..Setup::default()
        });
        let config = receiving(LINUX, false, false);
        let direct = Connection::smb_direct(server.smb_direct, config.clone());
        let negotiated = direct.expect("SMB Direct").negotiated().clone();
        if in_messages {
            assert_eq!(negotiated.max_read_size, LINUX / UNIT * UNIT);
            assert!(negotiated.max_write_size >= UNIT);
            assert_eq!(negotiated.max_write_size % UNIT, 0);
            use_what_is_announced(&server, config.clone());
            use_what_is_announced(
                &server,
                Config {
                    seal: true,
                    ..config
                },
            );
        } else {
            let sizes = (negotiated.max_read_size, negotiated.max_write_size);
            assert_eq!(sizes, (whole, whole));
        }
        // Over TCP, messages can hold as much as the largest size.
        let tcp = log_in(&server, Config::new(GUID)).negotiated().clone();
        assert_eq!((tcp.max_read_size, tcp.max_write_size), (whole, whole));
    }
}

/// Checks that READ and WRITE by RDMA are refused, and that no data goes that way.
fn nothing_goes_by_rdma(server: &Server, client: &mut Client) {
    let file = client.open("file");
    let into = sink(&mut client.direct, 8192);
    let from = source(&mut client.direct, &pattern(8192, 9));
    for channel in [Channel::RdmaV1, Channel::RdmaV1Invalidate] {
        let read = client.get(file, 0, 8192, channel, &into.pieces(1));
        assert_eq!(refusal(read), NtStatus::INVALID_PARAMETER);
        let written = client.put(file, 0, 8192, channel, &from.pieces(1));
        assert_eq!(refusal(written), NtStatus::INVALID_PARAMETER);
    }
    let status = server.device().status();
    for name in ["rdma_read_bytes", "rdma_write_bytes"] {
        assert_eq!(status["connections"][0][name], 0, "{name}");
    }
    // All data goes in messages.
    let data = pattern(100_000, 10);
    let written = client.direct.write(client.tree, file, 0, &data);
    assert_eq!(written.expect("a WRITE"), 100_000);
    let read = client.direct.read(client.tree, file, 0, 100_000);
    assert!(read.expect("a READ") == data);
}

/// Returns whether the server tells a client of an RDMA-capable interface.
fn is_told_of_rdma(client: &mut Client) -> bool {
    let interfaces = client.tcp.network_interfaces(client.tree);
    let mut interfaces = interfaces.expect("interfaces").into_iter();
    interfaces.any(|interface| interface.rdma)
}

#[test]
fn a_client_that_cannot_use_rdma_is_not_told_of_it() {
    for (global, sign, told) in [
        (&[][..], false, true),
        (&[], true, false),
        (&["server signing = mandatory"], false, false),
        (&["smb encrypt = desired"], false, false),
    ] {
        let server = device(Setup {
            global,
            ..Setup::default()
        });
        let config = receiving(8 << 20, sign, false);
        let mut client = Client::connect_with(&server, config);
        assert_eq!(is_told_of_rdma(&mut client), told, "{global:?}, {sign}");
    }
}

#[test]
fn a_session_that_must_sign_or_encrypts_moves_nothing_by_rdma() {
    let server = device(Setup::default());
    for (sign, seal) in [(true, false), (false, true)] {
        let config = Config {
            sign,
            seal,
            transforms: vec![],
            ..Config::new(GUID)
        };
        nothing_goes_by_rdma(&server, &mut Client::connect_with(&server, config));
    }
    let server = device(Setup {
        global: &["server signing = mandatory"],
        ..Setup::default()
    });
    let config = receiving(8 << 20, false, false);
    nothing_goes_by_rdma(&server, &mut Client::connect_with(&server, config));
}

#[test]
fn a_channel_over_tcp_is_refused() {
    let server = device(Setup::default());
    let data = pattern(10_000, 4);
    place(&server, "file", &data);
    let mut client = Client::connect(&server);
    let file = client.open("file");
    let descriptors = [BufferDescriptorV1 {
        offset: 0,
        token: RemoteToken(5),
        length: 8192,
    }];
    for channel in [Channel::RdmaV1, Channel::RdmaV1Invalidate] {
        let read = Read::direct(file, 0, 8192, channel, &descriptors);
        let response = client.tcp.call(&read.request(client.tree));
        assert_eq!(refusal(response), NtStatus::INVALID_PARAMETER);
        let write = Write::direct(file, 0, 8192, channel, &descriptors);
        let response = client.tcp.call(&write.request(client.tree));
        assert_eq!(refusal(response), NtStatus::INVALID_PARAMETER);
    }
    assert!(disk(&server, "file") == data);
    client.is_alive();
}
