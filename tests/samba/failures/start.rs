//! What is refused at the start, and what is not there then.

use smbdirect::client::Connection;

use super::client::{Client, config, wait_until, workers};
use crate::server::{Server, Setup};
use crate::sessions::{credentials, log_in};

/// What a log says about SMB Direct.
fn lines(log: &str, words: &str) -> Vec<String> {
    let said = log.lines().filter(|line| line.contains(words));
    said.map(|line| line.trim().to_owned()).collect()
}

#[test]
fn without_a_device_smbd_serves_tcp_and_says_so_once_until_there_is_one() {
    let mut server = Server::start_with(Setup {
        without_device: true,
        ..Setup::default()
    });
    let mut tcp = log_in(&server, config());
    let tree = tcp.tree_connect(&server.share_path()).expect("a tree");
    let interfaces = tcp.network_interfaces(tree).expect("interfaces");
    assert!(!interfaces.is_empty() && interfaces.iter().all(|interface| !interface.rdma));
    assert!(Connection::smb_direct(server.smb_direct, config()).is_err());
    // Both the parent and the client's smbd look for it again meanwhile.
    std::thread::sleep(std::time::Duration::from_secs(12));
    tcp.echo().expect("an ECHO");
    let said = lines(&server.log(), "no SMB Direct until");
    assert_eq!(said.len(), 1, "{said:?}");
    let log = server.log();
    assert_eq!(log.matches("smbdirect_device").count(), 0, "{log}");

    server.start_device();
    Client::connect(&server).copy("found", 2);
    // A session from before finds it, too.
    wait_until("an RDMA interface", || {
        let interfaces = tcp.network_interfaces(tree).expect("interfaces");
        interfaces.iter().any(|interface| interface.rdma)
    });
    super::client::bind(&server, &tcp).echo().expect("an ECHO");

    // It says so again when it is gone again.
    server.kill_device();
    wait_until("a second line", || {
        lines(&server.log(), "no SMB Direct until").len() == 2
    });
}

#[test]
fn a_configuration_without_what_smb_direct_needs_is_refused_with_one_clear_line() {
    for (line, cure) in [
        (
            "server multi channel support = no",
            "'smb direct = yes' needs 'server multi channel support = yes'",
        ),
        (
            "server max protocol = SMB2_10",
            "'smb direct = yes' needs 'server max protocol = SMB3'",
        ),
    ] {
        let (status, log) = Server::refuse(Setup {
            global: &[line],
            ..Setup::default()
        });
        assert!(!status.success(), "{line}: {status}");
        let said = lines(&log, "smb direct");
        assert_eq!(said.len(), 1, "{line}: {said:?}");
        assert!(said[0].contains(cure), "{said:?}");
    }
}

#[test]
fn a_host_that_is_denied_is_denied_over_smb_direct_too() {
    let server = Server::start_with(Setup {
        global: &["hosts deny = 127.0.0.1"],
        ..Setup::default()
    });
    for _ in 0..5 {
        let tcp = Connection::tcp(server.tcp, config()).map(drop);
        tcp.expect_err("it is denied over TCP");
        let direct = Connection::smb_direct(server.smb_direct, config()).map(drop);
        direct.expect_err("it is denied over SMB Direct");
    }
    wait_until("nobody is there", || {
        let status = server.device().status();
        status["connections"] == serde_json::json!([]) && workers(&server).is_empty()
    });
}

#[test]
fn no_more_clients_than_there_may_be_processes_are_served() {
    // Two of them are smbd's own.
    let server = Server::start_with(Setup {
        global: &["max smbd processes = 5"],
        ..Setup::default()
    });
    let connect = || {
        let mut direct = Connection::smb_direct(server.smb_direct, config())?;
        direct.log_in(&credentials(&server))?;
        Ok::<_, smbdirect::client::Error>(direct)
    };
    let mut clients = Vec::new();
    let refused = loop {
        match connect() {
            Ok(client) => clients.push(client),
            Err(error) => break error,
        }
        assert!(clients.len() <= 5, "as many as want to");
    };
    assert!(!clients.is_empty(), "{refused}");
    let status = server.device().status();
    assert_eq!(
        status["connections"].as_array().map(Vec::len),
        Some(clients.len())
    );
    for client in &mut clients {
        client.echo().expect("those that are there go on");
    }
    drop(clients.pop());
    let mut next = None;
    wait_until("there is room for another", || {
        next = connect().ok();
        next.is_some()
    });
    next.expect("a client").echo().expect("an ECHO");
}
