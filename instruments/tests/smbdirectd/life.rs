// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests start, signals and end of the daemon, and what is left over.

use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;

use rustix::process::Signal;
use smbdirect::device::{Event, Handle, Role, Status};
use smbdirect::sys::{SeqListener, SeqSocket};

use crate::drain::{dispatched, event};
use instruments::daemon::{Daemon, Directory, SMBDIRECTD, Setup, TIMEOUT, run, stderr};
use instruments::peer::{Options, Peer};

#[test]
fn tells_the_service_manager_that_it_is_ready_and_where() {
    let mut daemon = Daemon::start(&["--listen", "[::1]:0"]);
    let status = daemon.status();
    let listen = status["listen"].as_array().unwrap().iter();
    let addresses: Vec<&str> = listen.filter_map(|address| address.as_str()).collect();
    assert_eq!(addresses.len(), 2, "{status}");
    let line = format!("listening on {}", addresses.join(", "));
    assert!(
        daemon.ready.contains(&format!("STATUS={line}")),
        "{}",
        daemon.ready
    );
    assert!(daemon.log().contains(&line), "{}", daemon.log());
    for address in addresses {
        TcpStream::connect(address).unwrap();
    }
    daemon.signal(Signal::TERM);
    daemon.wait_for_notification("STOPPING=1");
    assert!(daemon.wait().success());
}

#[test]
fn reports_to_a_service_manager_that_watches_it() {
    let setup = Setup {
        environment: &[("WATCHDOG_USEC", "100000")],
        ..Setup::default()
    };
    let mut daemon = Daemon::start_in(Directory::new(), &setup);
    daemon.wait_for_notification("WATCHDOG=1");
    daemon.wait_for_notification("WATCHDOG=1");
}

#[test]
fn ends_gracefully_at_either_signal_and_removes_its_socket() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut daemon = Daemon::start(&[]);
        let mut peer = Peer::connect(daemon.address());
        assert!(daemon.control.exists());
        daemon.signal(signal);
        let status = daemon.wait();
        assert!(status.success(), "{status}: {}", daemon.log());
        assert!(!daemon.control.exists());
        let log = daemon.log();
        assert!(log.contains("stopped"), "{log}");
        assert_eq!(log.matches("INFO stopping").count(), 1, "{log}");
        peer.wait_closed();
    }
}

#[test]
fn goes_on_after_other_signals_and_says_what_would_help() {
    let daemon = Daemon::start(&[]);
    for signal in [Signal::USR1, Signal::USR2] {
        daemon.signal(signal);
    }
    daemon.wait_for_log("SIGUSR1 and SIGUSR2 have no meaning");
    assert_eq!(daemon.status()["stopping"], false);
    daemon.stop();
}

#[test]
fn replaces_what_a_dead_daemon_left_behind() {
    let daemon = Daemon::start(&[]);
    let directory = daemon.kill();
    assert!(directory.control().exists(), "a dead daemon cannot tidy up");
    let daemon = Daemon::start_in(directory, &Setup::default());
    assert_eq!(daemon.status()["stopping"], false);
    let directory = daemon.stop();
    drop(SeqListener::bind(&directory.control()).unwrap());
    Daemon::start_in(directory, &Setup::default()).stop();
}

/// Starts a second daemon beside the first, and returns its message when it gives up.
fn second(arguments: &[&str]) -> String {
    let directory = Directory::new();
    let config = directory.file("c.toml", "");
    let config = ["--config", config.to_str().unwrap()];
    let output = run(&[&config[..], arguments].concat());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    stderr(&output)
}

#[test]
fn does_not_take_the_place_of_a_daemon_that_lives() {
    let daemon = Daemon::start(&[]);
    let control = daemon.control.to_str().unwrap();
    let said = second(&["--control", control, "--listen=127.0.0.1:0"]);
    assert_eq!(said.matches(control).count(), 1, "{said}");
    assert!(
        said.contains("give this one another path with --control"),
        "{said}"
    );

    let other = Directory::new();
    let (control, address) = (other.control(), daemon.address().to_string());
    let said = second(&["--control", control.to_str().unwrap(), "--listen", &address]);
    assert!(
        said.contains(&format!("cannot listen on {address}")),
        "{said}"
    );

    assert_eq!(
        daemon.status()["stopping"],
        false,
        "the first keeps running"
    );
    daemon.stop();
}

#[test]
fn replaces_no_file_that_is_not_a_socket() {
    let directory = Directory::new();
    let path = directory.file("precious", "text");
    let said = second(&["--control", path.to_str().unwrap(), "--listen=127.0.0.1:0"]);
    assert!(said.contains("precious"), "{said}");
    assert_eq!(std::fs::read_to_string(path).unwrap(), "text");
}

#[test]
fn leaves_the_time_to_the_journal() {
    let starts_with_a_year = |log: &str| {
        let mut lines = log.lines();
        lines.all(|line| line.starts_with("20"))
    };
    // Standard error is not the journal, even if the parent of this process wrote to the journal.
    for stream in ["", "8:1234"] {
        let setup = Setup {
            environment: &[("JOURNAL_STREAM", stream)],
            ..Setup::default()
        };
        let daemon = Daemon::start_in(Directory::new(), &setup);
        assert!(starts_with_a_year(&daemon.log()), "{}", daemon.log());
    }
    let log = in_the_journal("", 300);
    for line in log.lines() {
        let known = ["<6> INFO ", "<4> WARN "];
        assert!(known.iter().any(|known| line.starts_with(known)), "{log}");
    }
    assert!(log.contains("<4> WARN the limit of open files"), "{log}");
}

/// Returns what a daemon with this configuration and file limit logs to a journal.
fn in_the_journal(configuration: &str, descriptors: u32) -> String {
    let directory = Directory::new();
    directory.file("smbdirectd.toml", configuration);
    let log = directory.file("log", "").metadata().unwrap();
    let stream = format!("{}:{}", log.dev(), log.ino());
    let setup = Setup {
        environment: &[("JOURNAL_STREAM", &stream)],
        descriptors: Some(descriptors),
        ..Setup::default()
    };
    Daemon::start_in(directory, &setup).log()
}

#[test]
fn writes_json_objects_for_programs() {
    let log = in_the_journal("log_format = \"json\"", 300);
    for (line, priority) in [("the limit of open files", "<4>"), ("listening on", "<6>")] {
        let line = log.lines().find(|logged| logged.contains(line)).unwrap();
        let object = line.strip_prefix(priority);
        let object = object.unwrap_or_else(|| panic!("{priority}: {line}"));
        let object: serde_json::Value = serde_json::from_str(object).unwrap();
        assert!(
            object["message"].is_string() && object["timestamp"].is_string(),
            "{line}"
        );
        assert!(
            object["level"] == "WARN" || object["level"] == "INFO",
            "{line}"
        );
        assert!(
            object["target"].as_str().unwrap().starts_with("smbdirect"),
            "{line}"
        );
    }
}

/// The reason for not starting is also logged as an error in the journal.
#[test]
fn says_why_it_did_not_start_with_the_priority_of_an_error() {
    let directory = Directory::new();
    let config = directory.file("c.toml", "reactors = 0");
    let log = std::fs::File::create(directory.0.join("log")).unwrap();
    let file = log.metadata().unwrap();
    let status = std::process::Command::new(&*SMBDIRECTD)
        .arg("--config")
        .arg(config)
        .env("JOURNAL_STREAM", format!("{}:{}", file.dev(), file.ino()))
        .stderr(log)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(78));
    let log = std::fs::read_to_string(directory.0.join("log")).unwrap();
    assert!(
        log.starts_with("<3>smbdirectd: ") && log.contains("reactors is 0"),
        "{log}"
    );
}

#[test]
fn logs_what_it_is_told_to() {
    for (filter, is_logged) in [("warning", false), ("smbdirectd=notice", true)] {
        let directory = Daemon::start(&["--log", filter]).stop();
        let log = std::fs::read_to_string(directory.0.join("log")).unwrap();
        assert_eq!(log.contains("listening on"), is_logged, "{filter}: {log}");
    }
}

#[test]
fn grants_as_many_credits_as_it_is_told_to() {
    let directory = Directory::new();
    directory.file("smbdirectd.toml", "acceptor.receive_credit_max = 2000");
    let daemon = Daemon::start_in(directory, &Setup::default());
    let mut endpoint = smbdirect::proto::Config::initiator_default();
    endpoint.send_credit_target = smbdirect::units::Credits(2000);
    let options = Options {
        endpoint,
        ..Options::default()
    };
    let peer = Peer::try_connect(daemon.address(), options).unwrap();
    let granted = |peer: &Peer| peer.status().unwrap().send_credits.0;
    assert!(granted(&peer) <= 8, "it has not logged in");
    let (mut worker, mut peer, conn) = dispatched(&daemon, peer);
    worker.set_authenticated(conn).unwrap();
    // Some of the credits are in use.
    let all = |peer: &mut Peer| (1990..=2000).contains(&granted(peer));
    assert!(peer.drive(TIMEOUT, all), "{} credits", granted(&peer));
}

/// Connected clients are still served, and new ones wait until there is room again.
#[test]
fn goes_on_without_descriptors_for_more_processes() {
    let setup = Setup {
        descriptors: Some(60),
        ..Setup::default()
    };
    let daemon = Daemon::start_in(Directory::new(), &setup);
    let mut worker = Handle::attach(&daemon.control, Role::Worker, None).unwrap();
    assert!(matches!(event(&mut worker), Event::Attached));
    let connect = |_| SeqSocket::connect(&daemon.control).unwrap();
    let others: Vec<SeqSocket> = (0..60).map(connect).collect();
    daemon.wait_for_log("cannot accept processes for now");
    worker.set_session_id(1, [5; 16], 0, false).unwrap();
    let Event::Reply { status, .. } = event(&mut worker) else {
        panic!("an answer");
    };
    assert_eq!(status, Status::Ok);
    drop(others);
    let status = daemon.status();
    assert_eq!(status["counters"]["cannot_accept"], 1);
    assert_eq!(daemon.log().matches("cannot accept processes").count(), 1);
}
