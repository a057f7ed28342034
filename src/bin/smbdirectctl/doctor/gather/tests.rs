// SPDX-License-Identifier: GPL-2.0-or-later

use super::super::machine::{Machine, alone};
use super::*;

#[test]
fn reads_ports_of_rdma_devices() {
    let machine = Machine::new("ports");
    let port = "sys/class/infiniband/mlx5_0/ports/1";
    machine.file("sys/class/infiniband/mlx5_0/node_type", "1: CA\n");
    machine.file(&format!("{port}/state"), "4: ACTIVE\n");
    machine.file(&format!("{port}/link_layer"), "Ethernet\n");
    machine.file(&format!("{port}/gid_attrs/ndevs/0"), "eth0\n");
    for (index, kind, gid) in [
        (0, "IB/RoCE v1", "fe80:0000:0000:0000:0000:0000:0000:0001"),
        (1, "RoCE v2", "fe80:0000:0000:0000:0000:0000:0000:0001"),
        (2, "IB/RoCE v1", "0000:0000:0000:0000:0000:ffff:0a00:0002"),
        (3, "RoCE v2", "0000:0000:0000:0000:0000:ffff:0a00:0001"),
    ] {
        machine.file(
            &format!("{port}/gid_attrs/types/{index}"),
            &format!("{kind}\n"),
        );
        machine.file(&format!("{port}/gids/{index}"), &format!("{gid}\n"));
    }
    machine.file("sys/class/infiniband/siw0/node_type", "4: RNIC\n");
    machine.file("sys/class/infiniband/siw0/ports/1/state", "1: DOWN\n");
    machine.file("sys/class/infiniband/siw0/ports/1/link_layer", "Ethernet\n");
    machine.file("sys/class/infiniband/rxe0/node_type", "1: CA\n");
    machine.file("sys/class/infiniband/rxe0/parent", "eth1\n");
    machine.file("sys/class/infiniband/rxe0/ports/1/link_layer", "Ethernet\n");
    let found = ports(&machine.0);
    assert_eq!(found.len(), 3, "{found:?}");
    let [mlx5, rxe, siw] = &found[..] else {
        panic!()
    };
    assert_eq!((rxe.kind, rxe.is_rxe), (Kind::Roce, true));
    assert!(!mlx5.is_rxe && !siw.is_rxe);
    assert_eq!(
        (mlx5.device.as_str(), mlx5.number, mlx5.state.as_str()),
        ("mlx5_0", 1, "ACTIVE")
    );
    assert_eq!(
        (mlx5.kind, mlx5.interface.as_deref()),
        (Kind::Roce, Some("eth0"))
    );
    let expected: [IpAddr; 2] = ["fe80::1".parse().unwrap(), "10.0.0.1".parse().unwrap()];
    assert_eq!(mlx5.roce_v2, expected);
    assert_eq!((siw.kind, siw.state.as_str()), (Kind::Iwarp, "DOWN"));
    assert_eq!(siw.interface, None);
}

#[test]
fn counts_what_was_lost_meanwhile() {
    let machine = Machine::new("losses");
    let counters = "sys/class/infiniband/mlx5_0/ports/1/hw_counters";
    machine.file("sys/class/infiniband/mlx5_0/ports/1/state", "4: ACTIVE\n");
    machine.file(&format!("{counters}/out_of_sequence"), "5\n");
    machine.file(&format!("{counters}/packet_seq_err"), "7\n");
    machine.file(&format!("{counters}/lifespan"), "12\n");
    let found = ports(&machine.0);
    let before = losses(&machine.0, &found[0]);
    assert_eq!(before.len(), 2, "{before:?}");
    machine.file(&format!("{counters}/out_of_sequence"), "9\n");
    let grown = growth(&before, &losses(&machine.0, &found[0]));
    assert_eq!(grown, BTreeMap::from([("out_of_sequence".to_owned(), 4)]));
}

#[test]
fn reads_interfaces_of_this_machine() {
    let found = interfaces(Path::new("/"));
    let loopback = found.get("lo").expect("loopback");
    assert!(
        loopback.addresses.contains(&[127, 0, 0, 1].into()),
        "{loopback:?}"
    );
    assert!(!loopback.is_bridge && loopback.master.is_none());
}

#[test]
fn knows_bridges_and_their_parts() {
    let machine = Machine::new("bridge");
    machine.file("sys/class/net/br0/bridge/bridge_id", "8000\n");
    machine.file("sys/class/net/eth0/speed", "100000\n");
    machine.file("sys/class/net/eth1/speed", "-1\n");
    let link = machine.0.join("sys/class/net/eth0/master");
    std::os::unix::fs::symlink("../br0", link).expect("a link");
    let found = interfaces(&machine.0);
    assert!(found["br0"].is_bridge);
    assert_eq!(found["eth0"].master.as_deref(), Some("br0"));
    assert!(found["eth0"].has_speed && !found["eth1"].has_speed);
}

#[test]
fn finds_a_listening_port() {
    let machine = Machine::new("port");
    let table = "  sl  local_address rem_address   st tx_queue\n   \
                 0: 0100007F:1545 00000000:0000 0A 00000000:00000000\n   \
                 1: 0100007F:1546 0100007F:1545 01 00000000:00000000\n";
    machine.file("proc/net/tcp6", table);
    assert!(listens(&machine.0, 0x1545));
    assert!(!listens(&machine.0, 0x1546), "that one is connected");
    assert_eq!(PORT, 0x1545);
}

#[test]
fn reads_limits_of_a_process() {
    let machine = Machine::new("limits");
    machine.file(
        "proc/77/status",
        "Name:\tsmbdirectd\nCapEff:\t0000000000000400\n",
    );
    machine.file(
        "proc/77/limits",
        "Max open files  1024  2048  files\nMax locked memory   8388608   8388608   bytes\n",
    );
    assert_eq!(locked_memory(&machine.0, 77), Some(8 << 20));
    machine.file(
        "proc/77/limits",
        "Max locked memory   unlimited   unlimited   bytes\n",
    );
    assert_eq!(locked_memory(&machine.0, 77), None);
    // With CAP_IPC_LOCK the limit does not apply.
    machine.file(
        "proc/77/limits",
        "Max locked memory   8388608   8388608   bytes\n",
    );
    machine.file("proc/77/status", "CapEff:\t0000000000004000\n");
    assert_eq!(locked_memory(&machine.0, 77), None);
}

/// The limit of a real process; only one without CAP_IPC_LOCK has one.
#[test]
fn reads_the_limit_of_a_running_process() {
    use std::os::unix::process::CommandExt;
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "ulimit -l 64; echo; exec sleep 60"]);
    command.stdout(std::process::Stdio::piped());
    if rustix::process::geteuid().is_root() {
        command.uid(65_534).gid(65_534);
    }
    let mut child = command.spawn().expect("sh runs");
    // The limit holds once the shell has written a line.
    let mut line = [0];
    let output = child.stdout.as_mut().expect("a pipe");
    let read = std::io::Read::read_exact(output, &mut line);
    let limit = locked_memory(Path::new("/"), child.id());
    let _ = child.kill();
    let _ = child.wait();
    read.expect("a line");
    assert_eq!(limit, Some(64 << 10));
    assert_eq!(locked_memory(Path::new("/"), u32::MAX), None);
}

#[test]
fn reads_the_global_section_of_testparm() {
    let text = "# Global parameters\n[global]\n\tsmb direct = Yes\n\tinterfaces = \n\tcomment = a = b\n\n\n[share]\n\tpath = /x\n";
    let found = global(text);
    assert_eq!(found["smb direct"], "Yes");
    assert_eq!(found["interfaces"], "");
    assert_eq!(found["comment"], "a = b");
    assert!(!found.contains_key("path"));
}

/// A machine with an smbd and its testparm, which leave a mark when they run.
struct Samba {
    machine: Machine,
    smbd: PathBuf,
    options: Options,
}

impl Samba {
    fn new(name: &str) -> Self {
        let machine = Machine::new(name);
        let mark = machine.0.join("mark");
        let mark = mark.display();
        let script = format!("echo smbd >>{mark}; echo Version 4.22.11; echo WITH_SMBDIRECT");
        let smbd = machine.program("sbin/smbd", &script);
        let script = format!("echo testparm $* >>{mark}; echo '[global]'; echo 'smb direct = Yes'");
        machine.program("bin/testparm", &script);
        let config = machine.file("etc/smb.conf", "");
        let line = format!("smbd\0-s\0{}\0", config.display());
        machine.file("proc/77/cmdline", &line);
        machine.process(77, &smbd);
        let options = Options {
            client: None,
            client_script: None,
            client_report: None,
            json: false,
            control: PathBuf::new(),
            smbd: None,
            smb_conf: None,
        };
        Self {
            machine,
            smbd,
            options,
        }
    }

    /// Examines smbd while the device says that process `pid` is the listener.
    fn with_listener(&self, pid: i32) -> Facts {
        let listener = serde_json::json!({"processes": [{"role": "listener", "pid": pid}]});
        let mut facts = Facts {
            device: Some(serde_json::from_value(listener).expect("a device")),
            ..Facts::default()
        };
        let _ = fs::remove_file(self.machine.0.join("mark"));
        samba(&self.machine.0, &self.options, &mut facts);
        facts
    }

    /// Returns what has run.
    fn ran(&self) -> String {
        fs::read_to_string(self.machine.0.join("mark")).unwrap_or_default()
    }
}

#[test]
fn examines_the_smbd_that_is_attached() {
    let _alone = alone();
    let samba = Samba::new("samba");
    let facts = samba.with_listener(77);
    let smbd = facts.smbd.expect("an smbd");
    assert!(
        smbd.version.starts_with("4.22.11") && smbd.has_smb_direct,
        "{smbd:?}"
    );
    assert_eq!(facts.samba.expect("parameters")["smb direct"], "Yes");
    assert!(facts.unknown.is_empty(), "{:?}", facts.unknown);
    assert!(
        samba.ran().trim_end().ends_with("/etc/smb.conf"),
        "{}",
        samba.ran()
    );
}

#[test]
fn testparm_learns_of_the_parameters_on_the_command_line_of_smbd() {
    let _alone = alone();
    let mut samba = Samba::new("options");
    let config = samba.machine.0.join("etc/smb.conf");
    let line = format!(
        "smbd\0--option=smb direct=yes\0-s\0{}\0--option\0smb2 leases=no\0",
        config.display()
    );
    samba.machine.file("proc/77/cmdline", &line);
    assert!(samba.with_listener(77).samba.is_some());
    let wanted =
        "testparm --suppress-prompt --verbose --option=smb direct=yes --option=smb2 leases=no ";
    assert!(samba.ran().contains(wanted), "{}", samba.ran());
    // A file that the user of the doctor names is examined by itself.
    samba.options.smb_conf = Some(config);
    assert!(samba.with_listener(77).samba.is_some());
    assert!(!samba.ran().contains("--option"), "{}", samba.ran());
}

#[test]
fn examines_an_smbd_that_runs_in_its_build_tree() {
    let _alone = alone();
    let samba = Samba::new("tree");
    let machine = &samba.machine;
    let script = "echo Version 4.22.11; echo WITH_SMBDIRECT";
    let built = machine.program("tree/default/source3/smbd/smbd", script);
    let link = machine.link("tree/smbd", Path::new("default/source3/smbd/smbd"));
    machine.link("tree/testparm", Path::new("../bin/testparm"));
    let line = format!("{}\0-F\0", link.display());
    machine.file("proc/78/cmdline", &line);
    machine.process(78, &built);
    let facts = samba.with_listener(78);
    assert_eq!(facts.samba.expect("parameters")["smb direct"], "Yes");
}

#[test]
fn says_which_program_failed() {
    let _alone = alone();
    let samba = Samba::new("failed");
    samba.machine.program("bin/testparm", "exit 1");
    let facts = samba.with_listener(77);
    assert!(facts.smbd.is_some() && facts.samba.is_none(), "{facts:?}");
    let said = &facts.unknown["smb.conf"];
    assert!(said.starts_with("testparm failed: \"/"), "{said}");
    assert!(said.ends_with("/etc/smb.conf\" says why"), "{said}");
    samba.machine.program("sbin/smbd", "exit 1");
    let facts = samba.with_listener(77);
    assert!(facts.smbd.is_none() && facts.samba.is_none(), "{facts:?}");
    let said = &facts.unknown["smbd"];
    assert!(said.ends_with("sbin/smbd --version failed"), "{said}");
}

/// The device may run as another user, and name any process.
#[test]
fn runs_nothing_that_another_user_could_have_put_there() {
    let _alone = alone();
    let samba = Samba::new("hostile");
    let machine = &samba.machine;
    for (changed, mode) in [("sbin/smbd", 0o777), ("sbin", 0o777), ("", 0o777)] {
        machine.mode(changed, mode);
        let facts = samba.with_listener(77);
        machine.mode(changed, 0o755);
        assert!(facts.smbd.is_none() && facts.samba.is_none(), "{facts:?}");
        let said = &facts.unknown["smbd"];
        assert!(said.contains("other users can change"), "{said}");
        assert_eq!(samba.ran(), "", "{changed}");
    }
    // The doctor does not examine another smbd instead, such as the first in the path.
    let facts = samba.with_listener(0);
    assert!(facts.smbd.is_none(), "{facts:?}");
    assert!(facts.unknown["smbd"].contains("container"), "{facts:?}");
    // If smbd is safe, but others can change its testparm or its configuration, testparm does not run.
    for changed in ["bin/testparm", "bin", "etc/smb.conf", "etc"] {
        machine.mode(changed, 0o777);
        let facts = samba.with_listener(77);
        machine.mode(changed, 0o755);
        assert!(facts.smbd.is_some() && facts.samba.is_none(), "{facts:?}");
        let said = &facts.unknown["smb.conf"];
        assert!(said.contains("other users can change"), "{said}");
        assert!(!samba.ran().contains("testparm"), "{changed}");
    }
}

#[test]
fn runs_what_the_command_line_names() {
    let _alone = alone();
    let mut samba = Samba::new("named");
    samba.machine.mode("sbin/smbd", 0o775);
    samba.machine.mode("bin", 0o775);
    samba.machine.mode("etc", 0o775);
    samba.options.smbd = Some(samba.smbd.clone());
    samba.options.smb_conf = Some(samba.machine.0.join("etc/smb.conf"));
    let facts = samba.with_listener(0);
    assert!(facts.smbd.is_some() && facts.samba.is_some(), "{facts:?}");
    samba.options.smbd = Some("/nowhere/smbd".into());
    let facts = samba.with_listener(77);
    let said = &facts.unknown["smbd"];
    assert!(said.starts_with("/nowhere/smbd: No such file"), "{said}");
}
