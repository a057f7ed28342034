// SPDX-License-Identifier: GPL-2.0-or-later

//! Breaks one thing at a time on a server with the real daemon, and checks the doctor's line about it.

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Output};
use std::time::Instant;

use instruments::daemon::{Daemon, Directory, SMBDIRECTCTL, Setup, TIMEOUT};
use instruments::guides::program;
use instruments::peer::Peer;
use smbdirect::device::abi::{ClientNote, note};
use smbdirect::device::{Event, Handle, Role};

use super::machine::skip;
use super::{doctor, text};
use crate::drain::event;

/// Attaches as the parent smbd.
fn listener(daemon: &Daemon) -> Handle {
    let mut handle = Handle::attach(&daemon.control, Role::Listener, None).expect("a listener");
    assert!(matches!(event(&mut handle), Event::Attached));
    daemon.wait_for_status(|status| status["processes"][0]["role"] == "listener");
    handle
}

fn examine(daemon: &Daemon) -> String {
    text(&doctor(&daemon.control, &[]))
}

/// Starts a daemon with this configuration.
fn start(config: &str) -> Daemon {
    let directory = Directory::new();
    directory.file("smbdirectd.toml", config);
    Daemon::start_in(directory, &Setup::default())
}

#[test]
fn another_program_has_the_port() {
    // If another process has the port, that is fine.
    let _listener = TcpListener::bind("127.0.0.1:5445");
    let directory = Directory::new();
    let said = text(&doctor(&directory.control(), &[]));
    assert!(
        said.contains("-> another program has TCP port 5445"),
        "{said}"
    );
}

#[test]
fn the_control_socket_is_closed_to_this_user() {
    use std::os::unix::process::CommandExt;
    if !rustix::process::geteuid().is_root() {
        return skip("the doctor of another user: needs root");
    }
    let daemon = Daemon::start(&[]);
    let directory = Directory::new();
    let copy = directory.0.join("smbdirectctl");
    crate::copy_program(&*SMBDIRECTCTL, &copy);
    let mut command = Command::new(copy);
    command.args(["doctor", "--control"]).arg(&daemon.control);
    let said = text(&command.uid(65_534).gid(65_534).output().expect("it runs"));
    assert!(
        said.contains("FAIL smbdirectd does not answer on"),
        "{said}"
    );
    assert!(said.contains("-> run this as root"), "{said}");
}

#[test]
fn smbd_allows_no_address_of_this_machine() {
    let daemon = Daemon::start(&[]);
    let mut listener = listener(&daemon);
    listener.set_addresses(1, Some(&[])).expect("sent");
    daemon.wait_for_status(|status| status["allowed"] == serde_json::json!([]));
    let said = examine(&daemon);
    assert!(
        said.contains("FAIL smbd does not allow any address"),
        "{said}"
    );
    assert!(
        said.contains("-> change \"interfaces\" and \"bind interfaces only\" in smb.conf"),
        "{said}"
    );
}

#[test]
fn the_daemon_waits_for_an_address_and_serves_only_loopback() {
    let daemon = Daemon::start(&["--listen", "192.0.2.77:5445"]);
    let _listener = listener(&daemon);
    let said = examine(&daemon);
    let missing = "warn \"listen\" contains 192.0.2.77:5445, but this machine does not have it";
    assert!(said.contains(missing), "{said}");
    let loopback = format!(
        "warn smbdirectd serves {} of lo, which other machines cannot reach",
        daemon.address()
    );
    assert!(said.contains(&loopback), "{said}");
}

#[test]
fn smbd_is_attached_but_does_not_answer() {
    let daemon = start("claim_timeout = \"100 ms\"");
    let _listener = listener(&daemon);
    let said = examine(&daemon);
    let line = format!(
        "FAIL smbd does not answer over SMB Direct on {} (software):",
        daemon.address()
    );
    assert!(said.contains(&line), "{said}");
    assert!(
        said.contains(
            "-> see why connections ended: smbdirectctl status, journalctl -u smbdirectd"
        ),
        "{said}"
    );
}

#[test]
fn a_limit_is_used_up() {
    let daemon = start("max_connections = 2\nmax_workers = 1\ngateways = [\"127.0.0.1\"]");
    let _worker = Handle::attach(&daemon.control, Role::Worker, None).expect("a worker");
    let address = daemon.address();
    let _peers = [Peer::connect(address), Peer::connect(address)];
    daemon.wait_for_status(|status| status["totals"]["connections"] == 2);
    let said = examine(&daemon);
    for line in [
        "warn 2 of max_connections = 2 are used -> raise max_connections in smbdirectd.toml",
        "warn 1 of max_workers = 1 are used -> raise max_workers in smbdirectd.toml",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
}

/// Examines a server with programs that print what smbd and testparm would.
fn with_samba(built_with: &str, parameter: &str) -> Output {
    let directory = Directory::new();
    let smbd = format!("echo Version 4.22.11; echo '{built_with}'");
    program(&directory.0, "smbd", &smbd);
    let healthy = "smb direct = Yes\nserver multi channel support = Yes\nserver max protocol = SMB3\n\
                   server signing = default\nserver smb encrypt = default";
    let name = parameter.split(" = ").next().expect("a name");
    let others = healthy
        .lines()
        .filter(|line| !line.starts_with(&format!("{name} = ")));
    let lines: Vec<&str> = others.chain([parameter]).collect();
    let testparm = format!("cat <<'END'\n[global]\n{}\nEND", lines.join("\n"));
    program(&directory.0, "testparm", &testparm);
    let mut command = Command::new(&*SMBDIRECTCTL);
    command
        .arg("doctor")
        .arg("--smbd")
        .arg(directory.0.join("smbd"));
    let end = Instant::now() + TIMEOUT;
    loop {
        let output = command.arg("--control").arg(directory.control()).output();
        let output = output.expect("it runs");
        // Another test may start a process that holds the new script open for a moment, and then it cannot run.
        if !text(&output).contains("Text file busy") || Instant::now() > end {
            return output;
        }
        command = Command::new(&*SMBDIRECTCTL);
        command
            .arg("doctor")
            .arg("--smbd")
            .arg(directory.0.join("smbd"));
    }
}

#[test]
fn smbd_or_its_configuration_rules_smb_direct_out() {
    let with = "WITH_SMBDIRECT";
    for (built_with, parameter, line, cure) in [
        (
            "",
            "smb direct = Yes",
            "4.22.11 was built without SMB Direct",
            "install a Samba with this project's patches",
        ),
        (
            with,
            "smb direct = No",
            "FAIL \"smb direct\" is not \"yes\"",
            "set smb direct = yes",
        ),
        (
            with,
            "server multi channel support = No",
            "FAIL \"server multi channel support\" is off",
            "(the default)",
        ),
        (
            with,
            "server max protocol = SMB2_10",
            "FAIL \"server max protocol\" is smb2_10",
            "= SMB3",
        ),
        (
            with,
            "server signing = required",
            "warn \"server signing\" is required",
            "server signing = default",
        ),
        (
            with,
            "server smb encrypt = required",
            "warn \"server smb encrypt\" is required",
            "encrypt only the shares",
        ),
        (
            with,
            "smb direct device = /other",
            "warn \"smb direct device\" is /other, but this device",
            "the same path",
        ),
        (
            with,
            "smb direct = yes",
            "ok smb.conf has what SMB Direct needs",
            "",
        ),
    ] {
        let said = text(&with_samba(built_with, parameter));
        let (_, rest) = said
            .split_once(line)
            .unwrap_or_else(|| panic!("no {line:?} in {said}"));
        assert!(rest.contains(cure), "{cure:?}: {said}");
    }
}

#[test]
fn a_client_stays_with_tcp() {
    let daemon = Daemon::start(&[]);
    let mut listener = listener(&daemon);
    // Each client has one reason more than the client before.
    for (last, kind, value, why, cure) in [
        (
            1,
            note::NEGOTIATED,
            0x0210,
            "it speaks SMB 2.1, but SMB Direct needs SMB 3",
            "Windows 8 or Server 2012",
        ),
        (
            2,
            note::NEGOTIATED,
            0x0311,
            "multichannel is off on the client",
            "-EnableMultiChannel $true",
        ),
        (
            3,
            note::ASKED,
            0,
            "none of them has RDMA",
            "the addresses that are announced",
        ),
        (
            4,
            note::ASKED,
            2,
            "got 2 addresses with RDMA, but has not logged in",
            "--client-script windows",
        ),
        (
            5,
            note::WITHHELD,
            0,
            "does not support RDMA transforms",
            "Windows 11",
        ),
        (
            6,
            note::REFUSED,
            0xc000_006d,
            "refused 1 times to bind",
            "the log of smbd",
        ),
    ] {
        let ip = Ipv4Addr::new(198, 51, 100, last);
        let note = ClientNote {
            address: ip.to_ipv6_mapped().octets(),
            note: kind,
            port: 0,
            value,
            local_address: [0; 16],
            local_port: 0,
            reserved: 0,
        };
        listener.note_client(&note).expect("sent");
        let ip = ip.to_string();
        daemon.wait_for_status(|status| status["clients"][0]["address"] == ip.as_str());
        let said = text(&doctor(&daemon.control, &["--client", &ip]));
        let line = format!("warn {ip} is not connected over SMB Direct: ");
        let (_, rest) = said
            .split_once(&line)
            .unwrap_or_else(|| panic!("no {line:?} in {said}"));
        assert!(rest.contains(why), "{why}: {said}");
        assert!(rest.contains(cure), "{cure}: {said}");
        assert!(said.contains(&format!("ok {ip}, ")), "{said}");
    }
}
