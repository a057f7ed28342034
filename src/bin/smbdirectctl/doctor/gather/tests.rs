// SPDX-License-Identifier: GPL-2.0-or-later

use super::*;

/// Files of an imaginary machine.
struct Machine(PathBuf);

impl Machine {
    fn new(name: &str) -> Self {
        let name = format!("smbdirectctl-doctor-{name}-{}", std::process::id());
        let root = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&root);
        fs::create_dir(&root).expect("a directory");
        Self(root)
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("directories");
        fs::write(path, text).expect("a file");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

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
    let found = ports(&machine.0);
    assert_eq!(found.len(), 2, "{found:?}");
    let [mlx5, siw] = &found[..] else { panic!() };
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

#[test]
fn finds_the_configuration_of_a_running_smbd() {
    let machine = Machine::new("cmdline");
    for (line, expected) in [
        ("smbd\0-F\0-s\0/a/smb.conf\0", Some("/a/smb.conf")),
        ("smbd\0--configfile=/b/smb.conf\0", Some("/b/smb.conf")),
        ("smbd\0--configfile\0/c/smb.conf\0-F\0", Some("/c/smb.conf")),
        ("smbd\0-F\0", None),
    ] {
        machine.file("proc/9/cmdline", line);
        assert_eq!(
            config_of(&machine.0, 9).as_deref(),
            expected.map(Path::new),
            "{line:?}"
        );
    }
    assert_eq!(config_of(&machine.0, 10), None);
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
