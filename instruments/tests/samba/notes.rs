// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests what smbd tells the device about connections, which `smbdirectctl status` shows: what is encrypted although
//! the session does not demand that, and whether there is a session at all.

use instruments::client::{Config, Connection, Create, Disposition, TransformType};
use instruments::samba::{Server, Setup};
use serde_json::Value;

use crate::channel::{Client, device, pattern, place};
use crate::sessions::{GUID, credentials};

/// Returns the status of the only SMB Direct connection, once it is as wanted.
fn connection(server: &Server, is_so: impl Fn(&Value) -> bool) -> Value {
    let only = |status: &Value| {
        let connections = status["connections"].as_array().expect("a list");
        let [only] = &connections[..] else {
            return None;
        };
        is_so(only).then(|| only.clone())
    };
    let status = server
        .device()
        .wait_for_status(|status| only(status).is_some());
    only(&status).expect("the only connection")
}

fn wait_until_nobody_is_connected(server: &Server) {
    let is_so = |status: &Value| status["connections"] == Value::Array(vec![]);
    server.device().wait_for_status(is_so);
}

/// Reads a file over SMB Direct, and returns what the status says about that connection once `encrypted_by` has as many
/// elements as `expected`.
fn encrypted_by(server: &Server, config: Config, expected: &[&str]) {
    let mut client = Client::connect_with(server, config);
    let file = client.open("file");
    let said = connection(server, |it| it["protection"] == "plain");
    assert_eq!(
        said["encrypted_by"],
        Value::Array(vec![]),
        "no data went over SMB Direct yet: {said}"
    );
    let read = client.direct.read(client.tree, file, 0, 1000);
    assert_eq!(read.expect("a READ").len(), 1000);
    // The file is closed over TCP after smbd has answered the READ, and smbd takes the note before that.
    client.tcp.close(client.tree, file).expect("a close");
    let said = connection(server, |it| {
        it["encrypted_by"].as_array().map(Vec::len) == Some(expected.len())
    });
    assert_eq!(said["encrypted_by"], serde_json::json!(expected));
    assert_eq!(said["protection"], "plain", "that of the session");
    drop(client);
    wait_until_nobody_is_connected(server);
}

fn config(seal: bool, transforms: &[TransformType]) -> Config {
    Config {
        seal,
        transforms: transforms.to_vec(),
        ..Config::new(GUID)
    }
}

#[test]
fn data_that_only_a_share_encrypts_is_noted_with_the_connection() {
    for encrypt in ["smb encrypt = required", "smb encrypt = desired"] {
        let server = device(Setup {
            share: &[encrypt],
            ..Setup::default()
        });
        place(&server, "file", &pattern(1000, 1));
        encrypted_by(&server, config(false, &[]), &["share in messages"]);
        let transforms = [TransformType::Encryption];
        encrypted_by(&server, config(false, &transforms), &["share"]);
    }
}

#[test]
fn data_that_only_the_client_encrypts_is_noted_with_the_connection() {
    let server = device(Setup::default());
    place(&server, "file", &pattern(1000, 1));
    encrypted_by(&server, config(false, &[]), &[]);
    encrypted_by(&server, config(true, &[]), &["client in messages"]);
    let transforms = [TransformType::Encryption];
    encrypted_by(&server, config(true, &transforms), &["client"]);
}

#[test]
fn a_session_that_encrypts_is_noted_as_such_and_its_data_not_once_more() {
    let server = device(Setup {
        global: &["server smb encrypt = required"],
        ..Setup::default()
    });
    place(&server, "file", &pattern(1000, 1));
    // Such a server does not bind a channel to an encrypted session.
    let config = config(false, &[TransformType::Encryption]);
    let mut direct = Connection::smb_direct(server.smb_direct, config).expect("SMB Direct");
    direct.log_in(&credentials(&server)).expect("a session");
    let tree = direct.tree_connect(&server.share_path()).expect("a tree");
    let how = Create::file(Disposition::Open);
    let file = direct.create(tree, "file", &how).expect("a file").file;
    let read = direct.read(tree, file, 0, 1000);
    assert_eq!(read.expect("a READ").len(), 1000);
    direct.close(tree, file).expect("a close");
    let said = connection(&server, |it| it["protection"] == "encrypted");
    assert_eq!(said["encrypted_by"], Value::Array(vec![]));
}

#[test]
fn an_anonymous_session_is_not_counted_until_a_share_lets_the_guest_in() {
    let guest = format!("guest account = {}", instruments::samba::user());
    let server = device(Setup {
        global: &[&guest],
        share: &["guest ok = yes"],
        ..Setup::default()
    });
    let connect = || Connection::smb_direct(server.smb_direct, Config::new(GUID));
    let mut guest = connect().expect("SMB Direct");
    guest.log_in_anonymously().expect("a session");
    guest.tree_connect(r"\\127.0.0.1\IPC$").expect("IPC$");
    // Notes keep their order, so a note about the session would have come before the one about a second NEGOTIATE.
    // smbd sends one note of a kind a second for an address.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let at = |status: &Value| status["clients"][0]["at_seconds"].as_f64();
    let before = at(&server.device().status());
    drop(Connection::tcp(server.tcp, Config::new(GUID)).expect("TCP"));
    let status = server
        .device()
        .wait_for_status(|status| at(status) > before);
    assert_eq!(status["clients"][0]["direct"], 0, "{status}");
    assert_eq!(status["connections"][0]["protection"], Value::Null);
    assert_eq!(status["connections"][0]["authenticated"], false);

    for _ in 0..2 {
        guest.tree_connect(&server.share_path()).expect("a tree");
    }
    let said = connection(&server, |it| it["protection"] == "plain");
    assert_eq!(said["authenticated"], true);
    drop(guest);
    wait_until_nobody_is_connected(&server);
    // The notes about the user come after all notes about the guest.
    let mut user = connect().expect("SMB Direct");
    user.log_in(&credentials(&server)).expect("a session");
    connection(&server, |it| it["protection"] == "plain");
    let clients = &server.device().status()["clients"];
    assert_eq!(clients[0]["direct"], 2, "one of the guest, one of the user");
}
