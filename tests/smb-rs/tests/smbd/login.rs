// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests login, signatures, encryption and a second channel.

use smb::connection::{EncryptionMode, MultiChannelConfig};
use smb::{
    ConnectionConfig, CreateOptions, Dialect, Error, FileAttributes, FileCreateArgs, GetLen, Guid,
    Status,
};

use crate::user::{User, config, connect, identity};
use instruments::samba::{PASSWORD, Server, Setup};

/// The number of messages before there is a key, which are unsigned: NEGOTIATE, and both steps of a login.
const BEFORE_KEYS: u64 = 3;

/// Writes a file and reads it back.
fn use_a_file(user: &User, name: &str) {
    let how = FileCreateArgs::make_create_new(FileAttributes::new(), CreateOptions::new());
    let file = user.tree.create(name, &how).expect("a file").unwrap_file();
    let data: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
    assert_eq!(file.write_block(&data, 0, None).expect("a write"), 100_000);
    file.close().expect("a close");

    let access = smb::FileAccessMask::new().with_generic_read(true);
    let file = user.tree.open_existing(name, access).expect("a file");
    let file = file.unwrap_file();
    assert_eq!(file.get_len().expect("its size"), 100_000);
    let mut back = vec![0; data.len()];
    let read = file.read_block(&mut back, 0, None, false).expect("a read");
    assert!(read == data.len() && back == data, "{read} bytes");
    file.close().expect("a close");
}

#[test]
fn every_dialect_logs_in_and_signs_if_signing_is_mandatory() {
    let server = Server::start_with(Setup {
        global: &["server signing = mandatory"],
        ..Setup::default()
    });
    for dialect in [Dialect::Smb030, Dialect::Smb0302, Dialect::Smb0311] {
        let user = User::new(&server, config(dialect));
        use_a_file(&user, &format!("signed-{dialect:?}"));
        let info = user.connection.conn_info().expect("a negotiation");
        assert_eq!(info.negotiation.dialect_rev, dialect);
        for messages in [user.carried.sent(), user.carried.received()] {
            assert!(messages.signed > 5, "{dialect:?}: {messages:?}");
            assert!(messages.plain <= BEFORE_KEYS, "{dialect:?}: {messages:?}");
            assert_eq!(messages.sealed, 0, "{dialect:?}: {messages:?}");
        }
        user.session.logoff().expect("a logoff");
    }
}

/// Checks that everything after the login is encrypted, both ways.
fn expect_sealed(user: &User) {
    for messages in [user.carried.sent(), user.carried.received()] {
        assert!(messages.sealed > 5, "{messages:?}");
        assert!(
            messages.plain + messages.signed <= BEFORE_KEYS,
            "{messages:?}"
        );
    }
}

#[test]
fn everything_is_encrypted_if_the_server_demands_it() {
    let server = Server::start_with(Setup {
        global: &["server smb encrypt = required"],
        ..Setup::default()
    });
    for dialect in [Dialect::Smb030, Dialect::Smb0302, Dialect::Smb0311] {
        let user = User::new(&server, config(dialect));
        use_a_file(&user, &format!("sealed-{dialect:?}"));
        expect_sealed(&user);
    }
}

#[test]
fn everything_is_encrypted_if_the_client_demands_it() {
    let server = Server::start();
    let user = User::new(
        &server,
        ConnectionConfig {
            encryption_mode: EncryptionMode::Required,
            ..config(Dialect::Smb0311)
        },
    );
    use_a_file(&user, "sealed");
    expect_sealed(&user);
}

#[test]
fn a_wrong_password_is_refused_and_the_right_one_still_works() {
    let server = Server::start();
    let (connection, _) = connect(&server, Guid::generate(), config(Dialect::Smb0311));
    let refused = connection.authenticate(identity(&server, "wrong"));
    match refused.err() {
        Some(Error::UnexpectedMessageStatus(status)) => {
            assert_eq!(status, Status::LogonFailure as u32);
        }
        other => panic!("{other:?}"),
    }
    let session = connection.authenticate(identity(&server, PASSWORD));
    session.expect("a session on the same connection");
}

#[test]
fn a_second_connection_becomes_a_channel_of_the_session_and_carries_its_data() {
    let server = Server::start();
    let config = ConnectionConfig {
        multichannel: MultiChannelConfig::Always,
        ..config(Dialect::Smb0311)
    };
    let user = User::new(&server, config.clone());
    let client = user
        .connection
        .conn_info()
        .expect("a negotiation")
        .client_guid;
    let (second, carried) = connect(&server, client, config);
    let channel = second.bind_session(&user.session, identity(&server, PASSWORD));
    let channel = Some(channel.expect("a binding"));

    let how = FileCreateArgs::make_create_new(FileAttributes::new(), CreateOptions::new());
    let file = user.tree.create("two-channels", &how).expect("a file");
    let file = file.unwrap_file();
    let data = vec![0xa5; 300_000];
    let before = carried.sent().bytes;
    let written = file.write_block(&data, 0, channel).expect("a write");
    assert_eq!(written, data.len());
    assert!(carried.sent().bytes - before >= 300_000, "{carried:?}");
    file.close().expect("a close");
    let disk = std::fs::read(server.files.join("two-channels")).expect("a file");
    assert!(disk == data, "{} bytes", disk.len());
}
