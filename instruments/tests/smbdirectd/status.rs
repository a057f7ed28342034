// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests `smbdirectctl status` with a daemon and without one.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use instruments::daemon::{
    Daemon, Directory, SMBDIRECTCTL, SMBDIRECTD, Setup, TIMEOUT, smbdirectctl, stderr, stdout,
};
use instruments::peer::Peer;
use smbdirect::device::{Handle, Role};

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

    // No process owns the connection.
    peer.negotiate([1; 16]);
    peer.wait_closed();
    let status = daemon.wait_for_status(|status| status["closes"][0].is_object());
    assert_eq!(
        status["connections"].as_array().unwrap().len(),
        0,
        "{status}"
    );
    let close = &status["closes"][0];
    assert_eq!(close["local"], address.to_string(), "{status}");
    assert_eq!(close["fabric"], "software");
    assert!(close["bytes_received"].as_u64() > Some(100), "{status}");
    let reason = close["reason"].as_str().unwrap().to_owned();
    let shown = stdout(&smbdirectctl(&daemon.control, &[]));
    assert!(
        shown.contains(&client) && shown.contains(&reason),
        "{shown}"
    );
}

#[test]
fn shows_everything_about_one_connection() {
    let daemon = Daemon::start(&[]);
    let address = daemon.address();
    let _peers: Vec<Peer> = (0..2).map(|_| Peer::connect(address)).collect();
    let status = daemon.status();
    let client = status["connections"][1]["peer"].as_str().expect("a peer");
    let shown = stdout(&smbdirectctl(&daemon.control, &[client]));
    let first = format!("Connection   {client} to {address}, software\n");
    assert!(shown.starts_with(&first), "{shown}");
    for words in [
        "\nState        fresh: the client's first request has not come\n",
        "\nAge          ",
        ", since 20",
    ] {
        assert!(shown.contains(words), "no {words:?} in {shown}");
    }
    assert!(shown.lines().all(|line| line.len() <= 100), "{shown}");
    let both = stdout(&smbdirectctl(&daemon.control, &["127.0.0.1"]));
    assert_eq!(both.matches("Connection   127.0.0.1:").count(), 2, "{both}");

    let json = stdout(&smbdirectctl(&daemon.control, &["--json", client]));
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json.as_array().map(Vec::len), Some(1), "{json}");
    assert_eq!(json[0]["peer"], client);
    for arguments in [&["10.0.0.1"][..], &["--json", "10.0.0.1"]] {
        let output = smbdirectctl(&daemon.control, arguments);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(
            stderr(&output).contains("10.0.0.1 is not connected"),
            "{output:?}"
        );
    }
    for arguments in [&["somewhere"][..], &["127.0.0.1", "--watch"]] {
        let output = smbdirectctl(&daemon.control, arguments);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
}

/// The listener here is this test program, which is not smbd. So nothing is run to ask for users.
#[test]
fn says_why_users_are_not_known() {
    let daemon = Daemon::start(&[]);
    let _listener = Handle::attach(&daemon.control, Role::Listener, None).expect("a listener");
    daemon.wait_for_status(|status| status["processes"][0]["role"] == "listener");
    let _peer = Peer::connect(daemon.address());
    let reason = match rustix::process::geteuid().is_root() {
        true => "is not called smbd",
        false => "only root can ask smbstatus for them",
    };
    let shown = stdout(&smbdirectctl(&daemon.control, &["--users"]));
    let line = shown.lines().find(|line| line.starts_with("Users "));
    let line = line.unwrap_or_else(|| panic!("no users in {shown}"));
    assert!(
        line.starts_with("Users        unknown: ") && line.ends_with(reason),
        "{line}"
    );
    let output = smbdirectctl(&daemon.control, &["--users", "--json"]);
    assert!(output.status.success(), "{output:?}");
    let said = stderr(&output);
    assert!(said.trim_end().ends_with(reason), "{said}");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(
        json["connections"][0]["user"],
        serde_json::Value::Null,
        "{json}"
    );
    assert!(json["connections"][0].get("user").is_some(), "{json}");
    // Nobody has asked for users.
    let shown = stdout(&smbdirectctl(&daemon.control, &[]));
    assert!(
        !shown.contains("Users") && shown.contains("credits"),
        "{shown}"
    );
    assert!(daemon.status()["connections"][0].get("user").is_none());
}

/// A program that polls the totals now and then misses nothing when a connection ends.
#[test]
fn totals_outlive_their_connections() {
    let daemon = Daemon::start(&[]);
    assert_eq!(daemon.status()["carried"]["software"]["connections"], 0);
    let mut peers: Vec<Peer> = (0..2).map(|_| Peer::connect(daemon.address())).collect();
    for peer in &mut peers {
        peer.negotiate([1; 16]);
        peer.wait_closed();
    }
    let status = daemon.wait_for_status(|status| status["closes"][1].is_object());
    let carried = &status["carried"]["software"];
    assert_eq!(carried["connections"], 2, "{status}");
    assert_eq!(carried["messages_in"], 2, "{status}");
    let closes = status["closes"].as_array().unwrap().iter();
    let received: u64 = closes
        .filter_map(|close| close["bytes_received"].as_u64())
        .sum();
    assert_eq!(carried["inline_bytes_in"], received, "{status}");
    for name in [
        "rdma_reads",
        "rdma_read_bytes",
        "rdma_writes",
        "rdma_write_bytes",
        "buffer_waits",
    ] {
        assert_eq!(carried[name], 0, "{name}");
    }
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
fn watches_the_traffic_until_the_device_has_gone() {
    let daemon = Daemon::start(&[]);
    let _peer = Peer::connect(daemon.address());
    let mut command = Command::new(&*SMBDIRECTCTL);
    command.args(["status", "--watch", "0.1", "--control"]);
    command.arg(&daemon.control);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut watching = command.spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut next = |wanted: &str| -> String {
        let found = lines.by_ref().map(Result::unwrap).find(|line| {
            assert!(line.len() <= 100 && !line.contains('\x1b'), "{line:?}");
            line.starts_with(wanted)
        });
        found.unwrap_or_else(|| panic!("no {wanted}"))
    };
    let (traffic, nothing) = (
        "Traffic      software: ",
        "software: 0 B/s received, 0 B/s sent",
    );
    // It reads two looks, to see that they go on.
    for _ in 0..2 {
        assert!(next(traffic).contains(nothing));
        next("Connections, the busiest first");
    }
    // Something moves until a look has seen it, and then nothing moves.
    let end = Instant::now() + TIMEOUT;
    while next(traffic).contains(nothing) {
        assert!(Instant::now() < end, "nothing moves");
        let mut other = Peer::connect(daemon.address());
        other.negotiate([1; 16]);
        other.wait_closed();
    }
    while !next(traffic).contains(nothing) {
        assert!(Instant::now() < end, "something moves without end");
    }
    drop(daemon.kill());
    assert!(lines.all(|line| line.is_ok()));
    let output = watching.wait_with_output().unwrap();
    // The status is 1 if the device was just answering when it ended.
    assert!(matches!(output.status.code(), Some(1 | 3)), "{output:?}");

    let output = smbdirectctl(&Directory::new().control(), &["--watch", "0"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(stderr(&output).contains("from 0.1 to 86400"), "{output:?}");
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
            "smbdirectctl: {}: no smbdirect device at this path: is smbdirectd running, or smbdirectk loaded?\n",
            control.display()
        );
        assert_eq!(stderr(&output), expected);
    }
    // The files that a dead daemon left behind do not count as a device either.
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

/// Runs `smbdirectctl status` as another user and group. Only root can do that.
fn status_as(user: &str, group: &str, control: &Path) -> Output {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", user, "--regid", group, "--clear-groups"]);
    command.arg(&*SMBDIRECTCTL).args(["status", "--control"]);
    command.arg(control);
    command.output().expect("setpriv(1) of util-linux")
}

#[test]
fn the_members_of_a_group_may_ask_and_others_may_not() {
    if !rustix::process::geteuid().is_root() {
        return println!("SKIPPED: only root can act as another user");
    }
    let directory = Directory::new();
    directory.file("smbdirectd.toml", "status_group = \"4242\"");
    let daemon = Daemon::start_in(directory, &Setup::default());
    let shown = status_as("65534", "4242", &daemon.control);
    assert!(shown.status.success(), "{shown:?}");
    assert!(
        stdout(&shown).starts_with("Device       smbdirect "),
        "{shown:?}"
    );
    let shown = status_as("65534", "4243", &daemon.control);
    assert_eq!(shown.status.code(), Some(1), "{shown:?}");
    let said = stderr(&shown);
    assert!(
        said.contains("not allowed to use the smbdirect device"),
        "{said}"
    );
    assert!(said.contains("as a member of its status_group"), "{said}");
    // If the group does not exist, the device makes a directory that only its own user can enter.
    let daemon = Daemon::start(&[]);
    let said = stderr(&status_as("65534", "0", &daemon.control));
    let directory = daemon.control.parent().unwrap().display();
    let expected = format!("{directory} is closed to this user: run this as root, or as the user");
    assert!(said.contains(&expected), "{said}");
    assert!(!said.contains("status_group"), "{said}");
}

#[test]
fn a_device_of_another_user_is_trusted_only_in_a_place_that_root_gave_it() {
    if !rustix::process::geteuid().is_root() {
        return println!("SKIPPED: only root can act as another user");
    }
    // Prepare the directory first as RuntimeDirectory= and User= do, and then as a user can do it without root.
    for (parent_mode, code) in [(0o755, 0), (0o1777, 1)] {
        let directory = Directory::new();
        let parent = directory.0.join("parent");
        fs::create_dir(&parent).unwrap();
        fs::set_permissions(&parent, Permissions::from_mode(parent_mode)).unwrap();
        let run_directory = parent.join("run");
        fs::create_dir(&run_directory).unwrap();
        chown(&run_directory, Some(65_534), Some(65_534)).unwrap();
        let control = run_directory.join("control");
        // Copy the program to a place from which that user can execute it.
        let program = directory.0.join("smbdirectd");
        crate::copy_program(&*SMBDIRECTD, &program);
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        command
            .arg(&program)
            .args(["--listen", "127.0.0.1:0", "--config", "/dev/null"]);
        let mut device = command.arg("--control").arg(&control).spawn().unwrap();
        let end = Instant::now() + TIMEOUT;
        while !control.exists() {
            assert!(Instant::now() < end, "no control socket");
            std::thread::sleep(Duration::from_millis(5));
        }
        let output = smbdirectctl(&control, &[]);
        device.kill().unwrap();
        device.wait().unwrap();
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert_eq!(
            stderr(&output).contains("not trusted"),
            code == 1,
            "{output:?}"
        );
    }
}

/// The exit status is the same as for errors that the command-line parser finds.
#[test]
fn a_wrong_command_line_of_bench_ends_with_exit_status_2() {
    for (arguments, words) in [
        (&["//server/share"][..], "no user: give -U"),
        (&["//server/share", "-U", "me"], "the password is missing"),
        (&["server", "-U", "me%x"], "a share is //HOST/SHARE"),
        (&["//server/a/b", "-U", "me%x"], "a share is //HOST/SHARE"),
        (
            &["//server/share", "-U", "me%x", "--file-size", "4K"],
            "--file-size must be at least --size",
        ),
        (&["//server/share", "--seconds", "0"], "0.01 to 86400"),
        (&["//server/share", "--secnds", "1"], "--seconds"),
    ] {
        let mut command = std::process::Command::new(&*SMBDIRECTCTL);
        let output = command.arg("bench").args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        let said = stderr(&output);
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
}
