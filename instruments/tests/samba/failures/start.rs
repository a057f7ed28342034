// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests what happens if something is missing or not allowed, and which log says so.

use std::fs;
use std::net::TcpStream;
use std::path::Path;

use instruments::client::Connection;
use rustix::process::Pid;
use smbdirect::device::message::{Request, encode, read_request};
use smbdirect::device::{Status, abi};
use smbdirect::sys::SeqListener;

use super::client::{Client, children, config, wait_until, workers};
use super::processes::Stopped;
use crate::sessions::{credentials, log_in};
use instruments::samba::{Samba, Server, Setup};

/// Returns the lines of a log that contain these words.
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
    // In the meantime the parent looks for the device again.
    std::thread::sleep(std::time::Duration::from_secs(12));
    tcp.echo().expect("an ECHO");
    let said = lines(&server.log(), "serving only TCP until the smbdirect device");
    assert_eq!(said.len(), 1, "{said:?}");
    let log = server.log();
    assert_eq!(log.matches("smbdirect_device").count(), 0, "{log}");

    server.start_device();
    Client::connect(&server).copy("found", 2);
    // A session from before the device started finds it, too.
    wait_until("an RDMA interface", || {
        let interfaces = tcp.network_interfaces(tree).expect("interfaces");
        interfaces.iter().any(|interface| interface.rdma)
    });
    super::client::bind(&server, &tcp).echo().expect("an ECHO");
    let said = lines(&server.log(), "SMB Direct is served by the device");
    assert_eq!(
        said.len(),
        1,
        "a reader of the first line must see this, too"
    );

    // smbd logs the first line again when the device is gone again.
    server.kill_device();
    wait_until("a second line", || {
        lines(&server.log(), "serving only TCP until the smbdirect device").len() == 2
    });
}

/// Plays a device of another version for the next process that attaches. Sends the version `says`, or no version.
fn refuse_one(path: &Path, says: Option<u32>) {
    fs::create_dir_all(path.parent().expect("a directory")).expect("made");
    let listener = SeqListener::bind(path).expect("a socket");
    let (mut socket, mut buffer) = (None, [0; 4096]);
    wait_until("it is refused", || {
        socket = socket.take().or_else(|| listener.accept().ok());
        let Some(socket) = &socket else { return false };
        let Ok(received) = socket.receive(&mut buffer) else {
            return false;
        };
        let (cookie, request) = read_request(&buffer[..received.length]).expect("a request");
        let Request::Attach(attach) = request else {
            panic!("{request:?}");
        };
        assert_eq!(attach.version, abi::VERSION);
        let (mut answer, kind) = (Vec::new(), abi::kind::ATTACH);
        let status = Status::Version.code();
        match says {
            Some(version) => encode(0, &abi::Detached { status, version }, &[], &mut answer),
            None => encode(cookie, &abi::Reply { status, kind }, &[], &mut answer),
        }
        socket.send(&answer, &[]).is_ok()
    });
    fs::remove_file(path).expect("removed");
}

#[test]
fn a_device_of_another_version_is_logged_even_if_the_lack_of_a_device_was_logged_before() {
    let own = abi::VERSION;
    for (says, versions) in [
        (None, format!("(smbd speaks version {own})")),
        (
            Some(own + 7),
            format!("(it speaks version {}, smbd version {own})", own + 7),
        ),
    ] {
        let mut server = Server::start_with(Setup {
            without_device: true,
            ..Setup::default()
        });
        let said = || lines(&server.log(), "serving only TCP until the smbdirect device");
        assert_eq!(said().len(), 1);
        refuse_one(server.control_socket(), says);
        wait_until("the log names the versions and the cure", || {
            let said = said();
            said.len() >= 2
                && said[1].contains(&versions)
                && said[1].contains("of the same release")
        });
        server.start_device();
        let said = lines(&server.log(), "SMB Direct is served by the device");
        assert_eq!(said.len(), 1);
    }
}

#[test]
fn a_second_smbd_at_a_device_logs_that_another_is_the_listener() {
    let first = Server::start();
    let same = format!("smb direct device = {}", first.control_socket().display());
    let second = Server::start_with(Setup {
        global: &[&same],
        without_device: true,
        ..Setup::default()
    });
    let said = || lines(&second.log(), "serving only TCP until the smbdirect device");
    wait_until("it says why", || !said().is_empty());
    let why = "another smbd is the listener of this device (is another smbd running with \
        \"smb direct = yes\"?)";
    assert!(said()[0].contains(why), "{:?}", said());
    Client::connect(&first).copy("of the first", 1);
}

#[test]
fn if_smb_conf_lacks_what_smb_direct_needs_only_tcp_is_served_and_log_and_testparm_say_why() {
    for (line, missing) in [
        (
            "server multi channel support = no",
            "needs 'server multi channel support = yes'",
        ),
        (
            "server max protocol = SMB2_10",
            "needs 'server max protocol = SMB3'",
        ),
    ] {
        let server = Server::start_with(Setup {
            global: &[line],
            without_device: true,
            ..Setup::default()
        });
        TcpStream::connect(server.tcp).expect("TCP is served");
        let said = lines(&server.log(), "SMB Direct is off");
        assert_eq!(said.len(), 1, "{line}: {said:?}");
        assert!(said[0].contains(missing), "{said:?}");
        let (content, said) = server.testparm();
        let said = lines(&said, "SMB Direct is off");
        assert!(content && said.len() == 1, "{line}: {said:?}");
        assert!(said[0].starts_with("WARNING: ") && said[0].contains(missing));
    }
}

#[test]
fn smbdirect_in_server_smb_transports_is_served_at_the_port_that_is_named_there() {
    if !Samba::from_environment().has_transports() {
        println!("this release has no transports in smb.conf");
        return;
    }
    let server = Server::start_with(Setup {
        global: &["smb direct = no", "server smb transports = +smbdirect:1"],
        ..Setup::default()
    });
    let is_served = || Connection::smb_direct(server.smb_direct, config()).is_ok();
    let said = || lines(&server.log(), "at none of the ports");
    wait_until("smbd says that no port fits", || said().len() == 1);
    assert!(!is_served());
    let mut tcp = log_in(&server, config());
    let tree = tcp.tree_connect(&server.share_path()).expect("a tree");
    let mut has_rdma = || {
        let interfaces = tcp.network_interfaces(tree).expect("interfaces");
        interfaces.iter().any(|interface| interface.rdma)
    };
    assert!(!has_rdma());

    let port = format!("+smbdirect:{}", server.smb_direct.port());
    server.reconfigure("+smbdirect:1", &port);
    wait_until("SMB Direct at that port", is_served);
    Client::connect(&server).copy("with a port", 1);
    wait_until("an RDMA interface", &mut has_rdma);

    server.reconfigure(&port, "+smbdirect");
    Client::connect(&server).copy("with any port", 2);
    server.reconfigure("+smbdirect", "-smbdirect");
    wait_until("SMB Direct is off", || !is_served());
    assert_eq!(said().len(), 1, "{}", server.log());
}

#[test]
fn smb_direct_goes_off_and_on_again_with_the_configuration() {
    let server = Server::start();
    Client::connect(&server).copy("before", 1);
    let (on, off) = (
        "server multi channel support = yes",
        "server multi channel support = no",
    );
    server.reconfigure(on, off);
    let is_served = || Connection::smb_direct(server.smb_direct, config()).is_ok();
    wait_until("SMB Direct is off", || !is_served());
    log_in(&server, config()).echo().expect("TCP is served");
    let said = lines(&server.log(), "SMB Direct is off");
    assert_eq!(said.len(), 1, "{said:?}");

    server.reconfigure(off, on);
    wait_until("SMB Direct is on again", is_served);
    Client::connect(&server).copy("after", 1);
    let said = lines(&server.log(), "SMB Direct is served by the device");
    assert_eq!(
        said.len(),
        1,
        "a reader of the line that says 'off' must see this, too"
    );
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
    wait_until("all clients are gone", || {
        let status = server.device().status();
        status["connections"] == serde_json::json!([]) && workers(&server).is_empty()
    });
}

#[test]
fn a_client_is_denied_and_no_process_stays_even_if_the_device_stands_still() {
    let server = Server::start_with(Setup {
        global: &["hosts deny = 127.0.0.1"],
        ..Setup::default()
    });
    let before = children(server.pid());
    // Processes of earlier clients may not have ended yet.
    let child = || {
        let mut all = children(server.pid()).into_iter();
        all.find(|pid| !before.contains(pid))
    };
    std::thread::scope(|scope| {
        // The parent learns of the client and forks for it while the device is stopped.
        let parent = Stopped::new(server.pid());
        let denied = scope.spawn(|| Connection::smb_direct(server.smb_direct, config()).map(drop));
        server.wait_for_device_status(|status| status["totals"]["offered"] == 1);
        let device = i32::try_from(server.device().id()).expect("a pid");
        let device = Stopped::new(Pid::from_raw(device).expect("a pid"));
        drop(parent);
        wait_until("smbd forks", || child().is_some());
        wait_until("its child gives up", || child().is_none());
        let said = lines(&server.log(), "the smbdirect device does not answer");
        assert_eq!(said.len(), 1, "{said:?}");
        drop(device);
        let denied = denied.join().expect("a client");
        denied.expect_err("it is denied");
    });
}

#[test]
fn no_more_clients_than_there_may_be_processes_are_served() {
    // Two of the five processes are smbd's own.
    let server = Server::start_with(Setup {
        global: &["max smbd processes = 5"],
        ..Setup::default()
    });
    let connect = || {
        let mut direct = Connection::smb_direct(server.smb_direct, config())?;
        direct.log_in(&credentials(&server))?;
        Ok::<_, instruments::client::Error>(direct)
    };
    let mut clients = Vec::new();
    assert_eq!(lines(&server.log(), "max smbd processes").len(), 0);
    let refused = loop {
        match connect() {
            Ok(client) => clients.push(client),
            Err(error) => break error,
        }
        assert!(clients.len() <= 5, "every client got in");
    };
    assert!(!clients.is_empty(), "{refused}");
    // The refusal is logged only once a minute, because there may be many refusals.
    assert_eq!(lines(&server.log(), "max smbd processes").len(), 1);
    let status = server.device().status();
    assert_eq!(
        status["connections"].as_array().map(Vec::len),
        Some(clients.len())
    );
    for client in &mut clients {
        client.echo().expect("existing clients go on");
    }
    drop(clients.pop());
    let mut next = None;
    wait_until("there is room for another", || {
        next = connect().ok();
        next.is_some()
    });
    next.expect("a client").echo().expect("an ECHO");
}
