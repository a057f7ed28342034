// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests what is logged, and what is not.

use std::net::TcpListener;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use smbdirect::device::abi::{self, role};
use smbdirect::device::{Event, Handle, Role, Status};
use smbdirect::sys::SeqSocket;

use crate::drain::{dispatched, event};
use instruments::daemon::{Daemon, Directory, SMBDIRECTD, Setup, smbdirectctl};
use instruments::peer::Peer;

/// Starts a daemon with this configuration.
fn configured(text: &str) -> Daemon {
    let directory = Directory::new();
    directory.file("smbdirectd.toml", text);
    Daemon::start_in(directory, &Setup::default())
}

#[test]
fn says_who_was_refused_why_and_what_helps() {
    let daemon = configured("max_workers = 1");
    let attach = |role| Handle::attach(&daemon.control, role, None).unwrap();
    let refused = |mut handle: Handle| match event(&mut handle) {
        Event::Detached { status } => status,
        other => panic!("{other:?}"),
    };
    let mut worker = attach(Role::Worker);
    assert!(matches!(event(&mut worker), Event::Attached));
    assert_eq!(refused(attach(Role::Worker)), Status::Limit);
    let mut listener = attach(Role::Listener);
    assert!(matches!(event(&mut listener), Event::Attached));
    assert_eq!(refused(attach(Role::Listener)), Status::Taken);
    let own = std::process::id();
    for (status, words) in [
        ("limit", "max_workers = 1 reached"),
        ("taken", "another smbd is the listener"),
    ] {
        daemon.wait_for_log(words);
        let log = daemon.log();
        let line = log.lines().find(|line| line.contains(words)).unwrap();
        assert!(line.contains(" WARN process refused"), "{line}");
        assert!(line.contains(&format!("pid={own}")), "{line}");
        assert!(line.contains(&format!("status=\"{status}\"")), "{line}");
    }
}

#[test]
fn says_which_two_versions_do_not_match() {
    let daemon = Daemon::start(&[]);
    for (version, cure) in [
        (0, "restart smbd,"),
        (abi::VERSION + 7, "restart smbdirectd,"),
    ] {
        let attach = abi::Attach {
            version,
            oldest_version: version,
            ..abi::Attach::new(role::WORKER, [0; 16])
        };
        let mut message = Vec::new();
        smbdirect::device::message::encode(1, &attach, &[], &mut message);
        let socket = SeqSocket::connect(&daemon.control).unwrap();
        socket.send(&message, &[]).unwrap();
        let own = abi::VERSION;
        daemon.wait_for_log(&format!(
            "it speaks version {version} of the interface, this smbdirectd version {own}: {cure}"
        ));
    }
}

/// A user that may attach may try again and again, but must not be able to fill a disk that way.
#[test]
fn refusals_log_only_a_few_lines_a_second() {
    let daemon = configured("max_workers = 1");
    let mut worker = Handle::attach(&daemon.control, Role::Worker, None).unwrap();
    assert!(matches!(event(&mut worker), Event::Attached));
    let begin = std::time::Instant::now();
    for _ in 0..200 {
        let mut refused = Handle::attach(&daemon.control, Role::Worker, None).unwrap();
        event(&mut refused);
    }
    let seconds = begin.elapsed().as_secs() as usize + 1;
    let lines = daemon.log().matches("process refused").count();
    assert!(
        lines >= 1 && lines <= 10 * (seconds + 1),
        "{lines} lines in {seconds} s"
    );
}

#[test]
fn does_not_log_processes_that_only_ask_for_the_status() {
    let daemon = Daemon::start(&[]);
    for _ in 0..5 {
        assert!(smbdirectctl(&daemon.control, &[]).status.success());
    }
    let log = daemon.log();
    assert!(
        !log.contains("attached") && !log.contains("detached"),
        "{log}"
    );
}

#[test]
fn the_end_of_a_connection_is_one_line_with_all_that_is_known() {
    let daemon = Daemon::start(&[]);
    let address = daemon.address();
    let mut peer = Peer::connect(address);
    let status = daemon.status();
    let client = status["connections"][0]["peer"].as_str().unwrap();
    peer.negotiate([1; 16]);
    peer.wait_closed();
    daemon.wait_for_log("connection ended");
    // The daemon writes all lines before it ends.
    daemon.signal(Signal::TERM);
    let directory = daemon.ended();
    let log = std::fs::read_to_string(directory.0.join("log")).unwrap();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(client)).collect();
    let [line] = lines[..] else {
        panic!("{log}");
    };
    for part in [
        " INFO connection ended: no smbd is attached: is smbd running, with smb direct = yes",
        &format!("peer={client}"),
        &format!("local={address}"),
        "seconds=",
        "bytes_received=1",
        "bytes_sent=0",
        "reason=\"no_listener\"",
    ] {
        assert!(line.contains(part), "no {part:?} in {line}");
    }
    assert!(!line.contains("suppressed"), "{line}");
}

#[test]
fn an_assignment_mentions_left_out_lines_only_if_there_were_some() {
    let daemon = Daemon::start(&[]);
    let _connected = dispatched(&daemon, Peer::connect(daemon.address()));
    daemon.wait_for_log("connection assigned");
    let log = daemon.log();
    let line = log
        .lines()
        .find(|line| line.contains("connection assigned"));
    assert!(
        line.is_some_and(|line| !line.contains("suppressed")),
        "{log}"
    );
}

/// Returns what the daemon writes to a terminal before it ends: that the limit of open files is low, and why it does
/// not start.
fn on_a_terminal(no_color: Option<&str>) -> String {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let directory = Directory::new();
    let file = directory.file("c.toml", "");
    let line = format!(
        "ulimit -n 300; exec {} --config {} --control {} --listen {}",
        SMBDIRECTD.display(),
        file.display(),
        directory.control().display(),
        taken.local_addr().unwrap()
    );
    let mut command = Command::new("script");
    command.args(["--quiet", "--command", &line, "/dev/null"]);
    command.env_remove("NO_COLOR").env_remove("JOURNAL_STREAM");
    command.env_remove("NOTIFY_SOCKET").stdin(Stdio::null());
    if let Some(value) = no_color {
        command.env("NO_COLOR", value);
    }
    let output = command.output().expect("script(1) of util-linux runs");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn has_colors_on_a_terminal_unless_they_are_unwanted() {
    let words = "the limit of open files, 300, is too low";
    for (no_color, is_colored) in [(None, true), (Some(""), true), (Some("1"), false)] {
        let said = on_a_terminal(no_color);
        let line = said.lines().find(|line| line.contains(words));
        let line = line.unwrap_or_else(|| panic!("{said:?}"));
        assert_eq!(
            line.contains("\u{1b}["),
            is_colored,
            "{no_color:?}: {line:?}"
        );
        assert!(line.contains("WARN"), "{line:?}");
    }
}
