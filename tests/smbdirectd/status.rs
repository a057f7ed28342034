//! `smbdirectctl status` beside a daemon, and without one.

use crate::daemon::{Daemon, Directory, smbdirectctl, stderr, stdout};
use crate::peer::Peer;

#[test]
fn shows_connections_and_their_ends() {
    let daemon = Daemon::start(&[]);
    let shown = stdout(&smbdirectctl(&daemon.control, &[]));
    assert!(shown.starts_with("Device       smbdirect "), "{shown}");
    let address = daemon.address();
    assert!(
        shown.contains(&format!("Listening    {address}")),
        "{shown}"
    );
    assert!(shown.contains("no listener"), "{shown}");

    let mut peer = Peer::connect(address);
    let status = daemon.status();
    assert_eq!(
        status["connections"].as_array().unwrap().len(),
        1,
        "{status}"
    );
    let client = status["connections"][0]["peer"]
        .as_str()
        .unwrap()
        .to_owned();
    let shown = stdout(&smbdirectctl(&daemon.control, &[]));
    assert!(shown.contains(&format!("\n{client} ")), "{shown}");
    assert!(shown.contains(" fresh "), "{shown}");
    assert!(shown.lines().all(|line| line.len() <= 100), "{shown}");

    // Nobody is there to own it.
    peer.negotiate([1; 16]);
    peer.wait_closed();
    let status = daemon.wait_for_status(|status| status["closes"][0].is_object());
    assert_eq!(
        status["connections"].as_array().unwrap().len(),
        0,
        "{status}"
    );
    let reason = status["closes"][0]["reason"].as_str().unwrap().to_owned();
    let shown = stdout(&smbdirectctl(&daemon.control, &[]));
    assert!(
        shown.contains(&client) && shown.contains(&reason),
        "{shown}"
    );
}

#[test]
fn the_json_has_all_that_the_table_shows() {
    let daemon = Daemon::start(&[]);
    let _peer = Peer::connect(daemon.address());
    let status = daemon.status();
    for member in [
        "version",
        "interface",
        "uptime_seconds",
        "stopping",
        "listen",
        "limits",
    ] {
        assert!(!status[member].is_null(), "{member}");
    }
    for (table, members) in [
        (
            "limits",
            &["connections", "undispatched", "workers", "memory"][..],
        ),
        ("totals", &["connections", "undispatched", "memory"]),
    ] {
        for member in members {
            assert!(status[table][member].is_u64(), "{table}.{member}");
        }
    }
    let connection = &status["connections"][0];
    for member in [
        "send_credits",
        "receive_credits",
        "inline_bytes_in",
        "inline_bytes_out",
        "rdma_read_bytes",
        "rdma_write_bytes",
        "age_seconds",
    ] {
        assert!(connection[member].is_number(), "{member}");
    }
    assert!(connection["state"].is_string() && connection["peer"].is_string());
    assert!(connection.get("pid").is_some());
}

#[test]
fn says_that_there_is_no_device() {
    let directory = Directory::new();
    let control = directory.control();
    for arguments in [&[][..], &["--json"]] {
        let output = smbdirectctl(&control, arguments);
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert!(output.stdout.is_empty());
        let expected = format!(
            "smbdirectctl: {}: no smbdirect device at this path: is smbdirectd running?\n",
            control.display()
        );
        assert_eq!(stderr(&output), expected);
    }
    // What a dead daemon left behind is none either.
    let directory = Daemon::start(&[]).kill();
    assert_eq!(
        smbdirectctl(&directory.control(), &[]).status.code(),
        Some(3)
    );
}

#[test]
fn takes_an_unknown_command_for_a_mistake() {
    let output = smbdirectctl(&Directory::new().control(), &["--nonsense"]);
    assert_eq!(output.status.code(), Some(2));
}
