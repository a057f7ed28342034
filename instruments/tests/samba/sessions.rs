// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests login, signing, encryption and binding.

use std::time::Duration;

use instruments::client::{
    CipherAlgorithm, Config, Connection, Create, Credentials, Dialect, Disposition, Error,
    NtStatus, SigningAlgorithm,
};

use instruments::daemon::TIMEOUT;
use instruments::samba::{PASSWORD, Server, Setup};

pub(crate) const GUID: [u8; 16] = *b"samba test guid.";

pub(crate) fn credentials(server: &Server) -> Credentials {
    Credentials {
        user: server.user.clone(),
        password: PASSWORD.to_owned(),
        domain: String::new(),
    }
}

pub(crate) fn log_in(server: &Server, config: Config) -> Connection {
    let mut connection = Connection::tcp(server.tcp, config).expect("TCP");
    connection.log_in(&credentials(server)).expect("a session");
    connection
}

/// Writes a file and reads it back.
fn use_a_file(server: &Server, connection: &mut Connection, name: &str) {
    let tree = connection
        .tree_connect(&server.share_path())
        .expect("a tree");
    let how = Create::file(Disposition::Create);
    let file = connection.create(tree, name, &how).expect("a file").file;
    let data: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
    assert_eq!(
        connection.write(tree, file, 7, &data).expect("a write"),
        100_000
    );
    assert_eq!(
        connection.end_of_file(tree, file).expect("its size"),
        100_007
    );
    assert!(connection.read(tree, file, 7, 100_000).expect("a read") == data);
    connection
        .set_delete_on_close(tree, file, true)
        .expect("to delete it");
    connection.close(tree, file).expect("a close");
    connection.tree_disconnect(tree).expect("to leave");
}

#[test]
fn every_dialect_logs_in_and_moves_data_over_both_transports() {
    let server = Server::start();
    for dialect in [Dialect::Smb300, Dialect::Smb302, Dialect::Smb311] {
        for (sign, seal) in [(false, false), (true, false), (false, true)] {
            let config = Config {
                dialects: vec![dialect],
                sign,
                seal,
                ..Config::new(GUID)
            };
            let name = format!("{dialect:?}-{sign}-{seal}");
            let mut tcp = log_in(&server, config.clone());
            assert_eq!(tcp.negotiated().dialect, dialect);
            assert_eq!((tcp.is_signed(), tcp.is_sealed()), (sign, seal));
            use_a_file(&server, &mut tcp, &name);

            let own = Config {
                client_guid: [9; 16],
                ..config
            };
            let mut direct = Connection::smb_direct(server.smb_direct, own).expect("SMB Direct");
            direct
                .log_in(&credentials(&server))
                .expect("a session of its own");
            use_a_file(&server, &mut direct, &name);
            direct.log_off().expect("a logoff");
        }
    }
}

#[test]
fn server_and_client_understand_every_cipher_and_signing_algorithm() {
    let server = Server::start();
    use CipherAlgorithm::{Aes128Ccm, Aes128Gcm, Aes256Ccm, Aes256Gcm};
    for cipher in [Aes128Ccm, Aes128Gcm, Aes256Ccm, Aes256Gcm] {
        let config = Config {
            ciphers: vec![cipher],
            seal: true,
            ..Config::new(GUID)
        };
        let mut connection = log_in(&server, config);
        assert_eq!(connection.negotiated().cipher, Some(cipher));
        use_a_file(&server, &mut connection, "cipher");
    }
    use SigningAlgorithm::{AesCmac, AesGmac, HmacSha256};
    for algorithm in [HmacSha256, AesCmac, AesGmac] {
        let config = Config {
            signing: vec![algorithm],
            sign: true,
            ..Config::new(GUID)
        };
        let mut connection = log_in(&server, config);
        assert_eq!(connection.negotiated().signing, algorithm);
        use_a_file(&server, &mut connection, "signing");
    }
}

#[test]
fn a_session_is_used_on_a_second_channel() {
    let server = Server::start();
    for dialect in [Dialect::Smb300, Dialect::Smb302, Dialect::Smb311] {
        for (sign, seal) in [(false, false), (true, false), (false, true)] {
            let config = Config {
                dialects: vec![dialect],
                sign,
                seal,
                ..Config::new(GUID)
            };
            let mut tcp = log_in(&server, config.clone());
            let tree = tcp.tree_connect(&server.share_path()).expect("a tree");
            let how = Create::file(Disposition::OpenIf);
            let file = tcp.create(tree, "two-channels", &how).expect("a file").file;
            let mut direct = Connection::smb_direct(server.smb_direct, config).expect("SMB Direct");
            direct.bind(&tcp, &credentials(&server)).expect("a binding");
            assert_eq!(direct.session_id(), tcp.session_id());
            direct
                .write(tree, file, 0, b"by SMB Direct")
                .expect("a write");
            assert_eq!(
                tcp.read(tree, file, 0, 100).expect("a read"),
                b"by SMB Direct"
            );
            direct.close(tree, file).expect("a close");
        }
    }
}

#[test]
fn a_wrong_password_is_refused_with_the_right_hint() {
    let server = Server::start();
    let mut connection = Connection::tcp(server.tcp, Config::new(GUID)).expect("TCP");
    let wrong = Credentials {
        password: "another".to_owned(),
        ..credentials(&server)
    };
    let error = connection
        .log_in(&wrong)
        .expect_err("the password is wrong");
    assert_eq!(error.status(), Some(NtStatus::LOGON_FAILURE));
    assert!(error.to_string().contains("password"), "{error}");
    // The connection works as before.
    connection.log_in(&credentials(&server)).expect("a session");
    let error = connection
        .tree_connect(r"\\127.0.0.1\nowhere")
        .expect_err("no such share");
    assert_eq!(error.status(), Some(NtStatus::BAD_NETWORK_NAME));
}

#[test]
fn the_device_ends_clients_that_do_not_log_in_in_time_and_no_others() {
    let server = crate::channel::device(Setup {
        device: "login_timeout = '8 s'",
        ..Setup::default()
    });
    let direct = |guid| Connection::smb_direct(server.smb_direct, Config::new(guid));
    let mut first = direct(GUID).expect("SMB Direct");
    first.log_in(&credentials(&server)).expect("a session");
    let mut second = crate::channel::bind(&server, &first);
    // Try both the smbd of a client that is logged in, and a separate one.
    for guid in [GUID, *b"never logged in."] {
        let mut silent = direct(guid).expect("SMB Direct");
        let ended = silent.serve(4 * TIMEOUT);
        assert!(matches!(ended, Err(Error::Closed(_))), "{ended:?}");
    }
    first.echo().expect("a session is on it");
    second.echo().expect("a session is bound to it");
}

#[test]
fn an_anonymous_client_is_a_stranger_until_a_share_lets_it_in_as_a_guest() {
    let guest = format!("guest account = {}", instruments::samba::user());
    let server = crate::channel::device(Setup {
        global: &[&guest],
        share: &["guest ok = yes", "[users]", "path = /", "guest ok = no"],
        device: "login_timeout = '8 s'",
        ..Setup::default()
    });
    let connect = |guid| {
        let direct = Connection::smb_direct(server.smb_direct, Config::new(guid));
        let mut direct = direct.expect("SMB Direct");
        direct.log_in_anonymously().expect("a session");
        direct
    };
    let users = || {
        let status = server.device().status();
        let connections = status["connections"].as_array().expect("a list");
        let is_user = |connection: &&serde_json::Value| connection["authenticated"] == true;
        (
            connections.iter().filter(is_user).count(),
            connections.len(),
        )
    };
    let mut stranger = connect(GUID);
    stranger.tree_connect(r"\\127.0.0.1\IPC$").expect("IPC$");
    let refused = stranger.tree_connect(r"\\127.0.0.1\users");
    let refused = refused.expect_err("a share for users");
    assert_eq!(refused.status(), Some(NtStatus::ACCESS_DENIED));
    stranger.echo().expect("a session");
    assert_eq!(users(), (0, 1));

    let mut guest = connect(*b"guest of a share");
    let tree = guest.tree_connect(&server.share_path()).expect("a tree");
    guest.echo().expect("a session");
    server.device().wait_for_status(|_| users() == (1, 2));
    let ended = stranger.serve(4 * TIMEOUT);
    assert!(matches!(ended, Err(Error::Closed(_))), "{ended:?}");
    // The guest connected later than the stranger, so wait until the guest's login timeout would have passed, too.
    std::thread::sleep(Duration::from_secs(9));
    let how = Create::file(Disposition::Create);
    guest.create(tree, "of a guest", &how).expect("a file");
    assert_eq!(users(), (1, 1));
}
