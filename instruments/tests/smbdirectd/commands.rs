// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests command line and configuration: what is printed, what is refused, and why.

use std::collections::HashSet;
use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use smbdirect::broker::Settings;
use smbdirect::device::abi::queue_of;
use smbdirect::device::{Event, Handle, Role, Status};

use crate::drain::event;
use instruments::daemon::{
    Daemon, Directory, SMBDIRECTCTL, Setup, run, smbdirectctl, stderr, stdout,
};
use instruments::peer::Peer;

#[test]
fn says_what_it_is_and_how_it_is_used() {
    let help = run(&["--help"]);
    assert!(help.status.success());
    assert!(stdout(&help).contains("--listen <ADDRESS>"));
    let version = run(&["--version"]);
    assert_eq!(
        stdout(&version),
        format!("smbdirectd {}\n", env!("CARGO_PKG_VERSION"))
    );
    let wrong = run(&["--nonsense"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(stderr(&wrong).contains("--nonsense"));
}

#[test]
fn prints_the_configuration_that_it_would_use() {
    let directory = Directory::new();
    let file = directory.file("c.toml", "max_workers = 7\nlisten = [\"10.0.0.1\"]");
    let file = file.to_str().unwrap();
    let output = run(&["--check-config", "--config", file, "--listen=::1", "--crc"]);
    assert!(output.status.success(), "{output:?}");
    let settings = Settings::parse(&stdout(&output)).unwrap();
    assert_eq!(settings.broker.listen, ["[::1]:5445".parse().unwrap()]);
    assert_eq!(settings.broker.max_workers, 7);
    assert!(settings.crc);
}

/// Runs the daemon with this configuration, and expects it to refuse with these words.
fn refused(text: &str, arguments: &[&str], words: &[&str]) {
    let directory = Directory::new();
    let file = directory.file("c.toml", text);
    for check in [&["--check-config"][..], &[]] {
        let file = ["--config", file.to_str().unwrap()];
        let output = run(&[&file[..], arguments, check].concat());
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        assert!(output.stdout.is_empty());
        let error = stderr(&output);
        for word in words {
            assert!(error.contains(word), "no {word:?} in {error}");
        }
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn refuses_a_wrong_configuration_with_key_value_and_line() {
    refused(
        "\nreactor = 1",
        &[],
        &["c.toml: line 2 (`reactor = 1`)", "did you mean reactors?"],
    );
    refused(
        "max_workers = 0",
        &[],
        &["line 1: max_workers is 0, and must be 1 to 65536"],
    );
    refused(
        "",
        &["--reactors=0"],
        &["--reactors is 0, and must be 1 to 64"],
    );
    refused(
        "log = \"nonsense=nonsense\"",
        &[],
        &["line 1: log is \"nonsense=nonsense\"", "such as info"],
    );
    refused(
        "listen = [\"fe80::1:5445\"]",
        &[],
        &[
            "line 1: listen is [fe80::1:5445]:5445 without an interface",
            "[fe80::1%2]:5445",
        ],
    );
    refused("log = \"verbose\"", &[], &["log is \"verbose\""]);
    refused(
        "log = \"info\"",
        &["--log=wran"],
        &["--log is \"wran\"", "did you mean \"warn\"?"],
    );
    let missing = run(&["--config", "/nowhere.toml"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(stderr(&missing).contains("/nowhere.toml: No such file"));
}

/// Starts the daemon with an obstacle in the way, and returns the message about it.
fn not_started(directory: &Directory, arguments: &[&str]) -> String {
    let file = directory.file("c.toml", "");
    let control = directory.control();
    let own = [
        "--config",
        file.to_str().unwrap(),
        "--control",
        control.to_str().unwrap(),
    ];
    let output = run(&[&own[..], arguments].concat());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(!control.exists());
    let said = stderr(&output);
    said.lines().last().unwrap_or_default().to_owned()
}

#[test]
fn says_that_an_address_is_in_use_and_which_program_may_use_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let said = not_started(&Directory::new(), &["--listen", &address.to_string()]);
    let expected = format!("smbdirectd: cannot listen on {address}: Address already in use");
    assert!(said.starts_with(&expected), "{said}");
    assert!(said.contains("is another smbdirectd or ksmbd running?"));
}

#[test]
fn an_address_that_the_machine_does_not_have_is_not_an_error() {
    // TEST-NET-1: no interface has this address.
    let directory = Directory::new();
    let file = directory.file("c.toml", "listen = [\"192.0.2.1\", \"127.0.0.1\"]");
    let output = run(&["--check-config", "--config", file.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let said = stderr(&output);
    assert!(said.contains("contains 192.0.2.1:5445"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");

    let daemon = Daemon::start(&["--listen=192.0.2.1:0"]);
    let status = daemon.status();
    let missing = status["missing"][0].as_str().unwrap();
    assert!(missing.starts_with("192.0.2.1:"), "{missing}");
    assert_eq!(status["addresses"].as_array().unwrap().len(), 1, "{status}");
    let shown = stdout(&smbdirectctl(&daemon.control, &[]));
    let line = format!("{missing}, once this machine has that address");
    assert!(shown.contains(&line), "{shown}");
    let log = daemon.log();
    let line = format!("this machine does not have {missing}");
    assert_eq!(log.matches(&line).count(), 1, "{log}");
    let line = format!("; waiting for {missing}");
    for said in [&log, &daemon.ready] {
        assert!(said.contains(&line), "{said}");
        assert!(!said.contains(&format!("listening on {missing}")), "{said}");
    }
    Peer::connect(daemon.address());
}

#[test]
fn makes_only_the_last_directory_of_the_control_socket_with_mode_0700() {
    let daemon = Daemon::start(&[]);
    let made = daemon.control.parent().unwrap();
    assert_eq!(made.metadata().unwrap().permissions().mode() & 0o777, 0o700);

    let directory = Directory::new();
    let control = directory.0.join("a/b/control");
    let control = [
        "--listen=127.0.0.1:0",
        "--control",
        control.to_str().unwrap(),
    ];
    let file = directory.file("c.toml", "");
    let output = run(&[&control[..], &["--config", file.to_str().unwrap()]].concat());
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains("only the last directory is made"), "{said}");
    assert!(!directory.0.join("a").exists());
}

#[test]
fn warns_of_a_limit_of_open_files_that_is_too_low() {
    let setup = Setup {
        descriptors: Some(300),
        ..Setup::default()
    };
    let daemon = Daemon::start_in(Directory::new(), &setup);
    let log = daemon.log();
    assert!(
        log.contains("the limit of open files, 300, is too low for"),
        "{log}"
    );
    assert!(
        log.contains("max_connections = 4096 and max_workers = 1024"),
        "{log}"
    );
    // Of the descriptors, 4096 are for connections, 1024 in each of two reactors for connections that negotiate, six
    // for each worker, and 256 for everything else.
    assert!(log.contains("about 12544 are needed"), "{log}");
}

/// The warning counts four descriptors for each process, and one more for each reactor.
#[test]
fn no_process_takes_more_open_files_than_are_counted_for_it() {
    const WORKERS: usize = 8;
    let daemon = Daemon::start(&[]);
    let open = || {
        let directory = format!("/proc/{}/fd", daemon.id());
        fs::read_dir(directory).unwrap().count()
    };
    let (address, before) = (daemon.address(), open());
    let (mut workers, mut peers) = (Vec::new(), Vec::new());
    for n in 0..WORKERS {
        let guid = [1 + n as u8; 16];
        let mut worker = Handle::attach(&daemon.control, Role::Worker, None).unwrap();
        assert!(matches!(event(&mut worker), Event::Attached));
        worker.set_session_id(1, guid, 0, false).unwrap();
        assert!(matches!(event(&mut worker), Event::Reply { .. }));
        // Repeat until it has a connection, and so a queue, with each reactor.
        let (mut seen, mut tries) = (HashSet::new(), 0);
        while seen.len() < 2 {
            tries += 1;
            assert!(tries <= 60, "all connections are at one reactor");
            let mut peer = Peer::connect(address);
            peer.negotiate(guid);
            peers.push(peer);
            let Event::Connection { info } = event(&mut worker) else {
                panic!("a connection");
            };
            worker.set_authenticated(info.conn).unwrap();
            seen.insert(queue_of(info.conn));
            let Event::Pdu { pdu, .. } = event(&mut worker) else {
                panic!("a request");
            };
            worker.take_pdu(pdu, &mut []).unwrap();
        }
        // Memory for RDMA is shared as well.
        assert_eq!(worker.allocate(1 << 20).unwrap_err(), Status::Again);
        assert!(matches!(event(&mut worker), Event::Room));
        workers.push(worker);
    }
    let more = open() - before - peers.len();
    assert!(more <= WORKERS * (4 + 2), "{more} of {WORKERS} processes");
}

#[test]
fn refuses_to_start_if_others_can_replace_its_control_socket() {
    let directory = Directory::new();
    let run_directory = directory.0.join("run");
    fs::create_dir(&run_directory).unwrap();
    let set_mode =
        |mode| fs::set_permissions(&run_directory, Permissions::from_mode(mode)).unwrap();
    for mode in [0o777, 0o720, 0o1777] {
        set_mode(mode);
        let said = not_started(&directory, &["--listen=127.0.0.1:0"]);
        let path = run_directory.display();
        let expected = format!(
            "{path} belongs to user {}",
            rustix::process::geteuid().as_raw()
        );
        assert!(said.contains(&expected), "{said}");
        assert!(said.contains(&format!("has mode {mode:04o}")), "{said}");
        assert!(said.contains(&format!("chmod go-w {path}")), "{said}");
    }
    set_mode(0o755);
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&run_directory, Some(65_534), None).unwrap();
        let said = not_started(&directory, &["--listen=127.0.0.1:0"]);
        assert!(
            said.contains("belongs to user 65534 and has mode 0755"),
            "{said}"
        );
        std::os::unix::fs::chown(&run_directory, Some(0), None).unwrap();
    }
    Daemon::start_in(directory, &Setup::default());
}

#[test]
fn refuses_a_group_that_does_not_exist() {
    refused(
        "\nstatus_group = \"no such group\"",
        &[],
        &[
            "line 2: status_group is \"no such group\"",
            "number of a group of this machine",
        ],
    );
}

#[test]
fn bench_without_its_program_says_what_is_missing() {
    // Links need the file system of the programs. Copies would not do, because a process that is being started could
    // hold a copy open for writing.
    let directory = instruments::c::directory("bench");
    let link = |program: &Path, name: &str| {
        let link = directory.join(name);
        let _ = fs::remove_file(&link);
        fs::hard_link(program, &link).unwrap();
        link
    };
    let program = link(&SMBDIRECTCTL, "smbdirectctl");
    let bench = || {
        let mut command = Command::new(&program);
        let output = command.arg("bench").env("PATH", "/nowhere").output();
        output.unwrap()
    };
    let _ = fs::remove_file(directory.join("smbdirectctl-bench"));
    let missing = bench();
    assert_eq!(missing.status.code(), Some(1));
    let said = stderr(&missing);
    assert!(
        said.contains("needs the program smbdirectctl-bench"),
        "{said}"
    );
    link(
        Path::new(env!("CARGO_BIN_EXE_smbdirectctl-bench")),
        "smbdirectctl-bench",
    );
    let wrong = bench();
    assert_eq!(wrong.status.code(), Some(2), "a share is missing");
    assert!(
        stderr(&wrong).contains("Usage: smbdirectctl bench"),
        "{wrong:?}"
    );
}
