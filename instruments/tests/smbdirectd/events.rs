// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests `smbdirectctl events`: what has happened, and what happens now.

use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use instruments::daemon::{Daemon, Directory, SMBDIRECTCTL, Setup, stderr, stdout};
use instruments::peer::Peer;
use smbdirect::device::{Handle, Role};

fn events(control: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(&*SMBDIRECTCTL);
    command.arg("events").arg("--control").arg(control);
    command.args(arguments);
    command
}

/// Makes a connection, and waits until it ends because there is no smbd.
fn visit(daemon: &Daemon) {
    let mut peer = Peer::connect(daemon.address());
    peer.negotiate([1; 16]);
    peer.wait_closed();
    // The device notes the end only after it has closed the socket.
    daemon.wait_for_status(|status| {
        status["connections"]
            .as_array()
            .is_some_and(|all| all.is_empty())
    });
}

#[test]
fn shows_connections_and_processes_in_order() {
    let daemon = Daemon::start(&[]);
    visit(&daemon);
    drop(Handle::attach(&daemon.control, Role::Worker, None).expect("a worker"));
    daemon.wait_for_status(|status| {
        let processes = status["processes"].as_array().unwrap();
        processes.iter().all(|process| process["role"] != "worker")
    });
    let shown = stdout(&events(&daemon.control, &[]).output().unwrap());
    let lines: Vec<&str> = shown.lines().collect();
    let at = format!(" at {}, software", daemon.address());
    assert_eq!(lines.len(), 4, "{shown}");
    let words = [
        &["  established  127.0.0.1:", &at][..],
        &[
            "  ended        127.0.0.1:",
            "no smbd is attached",
            "(no_listener)",
        ],
        &["  attached     process ", ", worker"],
        &[
            "  detached     process ",
            ", worker: it has closed its socket",
        ],
    ];
    for (line, words) in lines.iter().zip(words) {
        // The time is in the form of RFC 3339.
        assert_eq!((&line[10..11], &line[23..24]), ("T", "Z"), "{line}");
        for word in words {
            assert!(line.contains(word), "no {word:?} in {line}");
        }
    }
    let shown = stdout(&events(&daemon.control, &["--json"]).output().unwrap());
    let parsed: Vec<serde_json::Value> = shown
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let names: Vec<&str> = parsed
        .iter()
        .map(|it| it["event"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["established", "ended", "attached", "detached"]);
    assert_eq!(parsed[3]["number"], 4);
    assert_eq!(parsed[1]["reason"], "no_listener");
    assert!(parsed[1]["bytes_received"].as_u64() > Some(100), "{shown}");
}

/// A process that follows events. Dropping this ends it.
pub(crate) struct Following(Child, Lines<BufReader<ChildStdout>>);

impl Following {
    pub(crate) fn start(control: &Path) -> Self {
        let mut command = events(control, &["--follow"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("smbdirectctl starts");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self(child, lines)
    }

    pub(crate) fn next(&mut self) -> String {
        self.1.next().expect("a line").expect("a line")
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn follows_one_device_and_the_next() {
    let daemon = Daemon::start(&[]);
    visit(&daemon);
    let mut following = Following::start(&daemon.control);
    assert!(following.next().contains("established"));
    assert!(following.next().contains("ended"));
    visit(&daemon);
    assert!(following.next().contains("established"));
    assert!(following.next().contains("ended"));
    let directory = daemon.stop();
    let daemon = Daemon::start_in(directory, &Setup::default());
    visit(&daemon);
    assert!(following.next().contains("established"));
    assert!(following.next().contains("ended"));
}

#[test]
fn says_why_there_are_no_events() {
    let output = events(&Directory::new().control(), &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(
        stderr(&output).contains("no smbdirect device"),
        "{output:?}"
    );
    let output = events(Path::new("/dev/null"), &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        stderr(&output).contains("they are in the kernel's log"),
        "{output:?}"
    );
}
