// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests the device under its own user, as its unit runs it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::Instant;

use smbdirect::device::{Event, Handle, Role};

use crate::drain::event;
use instruments::daemon::{Directory, SMBDIRECTD, TIMEOUT, run, smbdirectctl, stderr};

const UNIT: &str = include_str!("../../../contrib/smbdirectd.service");
const USERS: &str = include_str!("../../../contrib/smbdirectd.sysusers.conf");

/// A user and a group that belong neither to root nor to a daemon.
const USER: u32 = 65_531;

/// A process that is killed when this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Prepares a smbdirectd under another user, with this configuration, in a directory that this user can reach.
fn as_another_user(directory: &Directory, config: &str) -> Command {
    fs::set_permissions(&directory.0, Permissions::from_mode(0o755)).unwrap();
    let program = directory.0.join("smbdirectd");
    crate::copy_program(&*SMBDIRECTD, &program);
    let config = format!("listen = [\"127.0.0.1:0\"]\n{config}");
    let config = directory.file("smbdirectd.toml", &config);
    let control = directory.control();
    let own = control.parent().unwrap();
    fs::create_dir(own).unwrap();
    chown(own, Some(USER), Some(USER)).unwrap();
    let mut command = Command::new(program);
    command.arg("--config").arg(config);
    command.arg("--control").arg(control);
    command.uid(USER).gid(USER).env_remove("NOTIFY_SOCKET");
    command
}

/// smbd is root, but the device still gets smbd's memory files and descriptors, and sees the process end.
#[test]
fn serves_root_as_another_user_without_any_capability() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: the device as a user of its own: needs root");
        return;
    }
    let directory = Directory::new();
    let control = directory.control();
    let mut command = as_another_user(&directory, "");
    let running = Running(command.spawn().unwrap());

    let end = Instant::now() + TIMEOUT;
    let mut worker = loop {
        match Handle::attach(&control, Role::Worker, None) {
            Ok(worker) => break worker,
            Err(status) => assert!(Instant::now() < end, "{status}"),
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    };
    // The worker gets its first memory with this event.
    assert!(matches!(event(&mut worker), Event::Attached));
    let process = fs::read_to_string(format!("/proc/{}/status", running.0.id())).unwrap();
    for line in [
        format!("Uid:\t{USER}\t{USER}\t{USER}\t{USER}"),
        "CapEff:\t0000000000000000".to_owned(),
    ] {
        assert!(
            process.lines().any(|found| found == line),
            "no {line:?} in {process}"
        );
    }
    let output = smbdirectctl(&control, &["--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let pids = status["processes"].as_array().unwrap().iter();
    let pids: Vec<_> = pids.map(|process| process["pid"].as_u64()).collect();
    assert!(pids.contains(&Some(std::process::id().into())), "{status}");
}

/// The device runs under its own user, and that user may give files only to groups to which it belongs.
#[test]
fn the_error_names_a_group_to_which_it_may_not_give_its_status_socket() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: the device as a user of its own: needs root");
        return;
    }
    let directory = Directory::new();
    let output = as_another_user(&directory, "status_group = \"0\"").output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = stderr(&output);
    let line = said.lines().last().unwrap_or_default();
    let socket = directory.control().with_file_name("status");
    for part in [
        "status_group is \"0\"",
        &format!("status socket {}", socket.display()),
        "has to be a member of it",
    ] {
        assert!(line.contains(part), "no {part:?} in {line}");
    }
    assert!(!line.contains("control"), "{line}");
}

/// If the unit started a wrongly configured device again, systemd would do so every second, for ever.
#[test]
fn the_unit_does_not_restart_a_wrongly_configured_device() {
    let directory = Directory::new();
    let file = directory.file("c.toml", "reactor = 1");
    let file = file.to_str().unwrap();
    let codes =
        [&["--config", file][..], &["--nonsense"]].map(|arguments| run(arguments).status.code());
    let codes = codes.map(|code| code.unwrap().to_string());
    let line = UNIT
        .lines()
        .find_map(|line| line.strip_prefix("RestartPreventExitStatus="));
    let prevents: Vec<&str> = line.unwrap().split(' ').collect();
    for code in codes {
        assert!(prevents.contains(&code.as_str()), "{code}");
    }
    assert!(
        !prevents.contains(&"1"),
        "exit status 1: the fault may go away by itself, so the unit must restart after it"
    );
}

/// `systemctl reload` fails if the first of these commands does, and then the second one does not run.
#[test]
fn the_unit_checks_the_configuration_before_a_reload() {
    let commands: Vec<&str> = UNIT
        .lines()
        .filter_map(|line| line.strip_prefix("ExecReload="))
        .collect();
    let check = "/bin/sh -c 'exec /usr/sbin/smbdirectd --check-config >/dev/null'";
    assert_eq!(commands, [check, "/bin/sh -c 'kill -HUP $MAINPID'"]);
    assert!(UNIT.contains("\nType=notify\n"));
}

#[test]
fn the_unit_has_a_user_of_its_own_and_only_the_rights_that_it_needs() {
    let has = |line: &str| UNIT.lines().any(|found| found == line);
    for line in [
        "User=smbdirect",
        "AmbientCapabilities=CAP_NET_BIND_SERVICE",
        "CapabilityBoundingSet=CAP_NET_BIND_SERVICE",
        "NoNewPrivileges=yes",
        "LimitCORE=0",
        "ProtectProc=invisible",
        "RuntimeDirectoryPreserve=yes",
    ] {
        assert!(has(line), "{line}");
    }
    let user = USERS.lines().find(|line| line.starts_with("u "));
    assert_eq!(user, Some("u smbdirect - \"SMB Direct device\""));
}
