// SPDX-License-Identifier: GPL-2.0-or-later

//! Each test breaks one thing on a healthy server, and finds the one line that says so.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::Report;
use super::super::facts::{Interface, Probe, Silence};
use super::*;

/// Makes a device that serves one address by RDMA and one by software.
fn device() -> Device {
    let json = serde_json::json!({
        "version": "0.1.0", "interface": 3, "uptime_seconds": 1000.0, "stopping": false,
        "listen": ["0.0.0.0:5445"],
        "addresses": [
            {"address": "10.0.0.1:5445", "interface": "eth0", "link_speed": 100_000_000_000_u64, "fabric": "verbs"},
            {"address": "10.0.1.1:5445", "interface": "eth1", "link_speed": 1_000_000_000, "fabric": "software"},
        ],
        "limits": {"connections": 4096, "unauthenticated": 1024, "workers": 1024, "memory": 8_u64 << 30},
        "totals": {"connections": 1, "unauthenticated": 0, "memory": 1 << 20},
        "connections": [
            {"peer": "10.0.0.24:1", "fabric": "verbs", "pid": 900, "state": "owned", "authenticated": true,
             "rdma_read_bytes": 5000, "rdma_write_bytes": 0},
        ],
        "processes": [{"id": 1, "pid": 812, "role": "listener"}],
        "closes": [
            {"peer": "10.0.0.23:7", "reason": "login_timeout", "at_seconds": 900.0, "age_seconds": 45.0},
            {"peer": "[::ffff:10.0.0.25]:7", "reason": "peer", "at_seconds": 950.0, "age_seconds": 45.0},
        ],
    });
    serde_json::from_value(json).expect("a status")
}

fn interface(address: [u8; 4]) -> Interface {
    Interface {
        addresses: vec![address.into()],
        has_speed: true,
        ..Interface::default()
    }
}

/// Makes the facts of a healthy server.
fn facts() -> Facts {
    let samba = [
        ("smb direct", "Yes"),
        ("smb direct device", "/run/smbdirect/control"),
        ("server multi channel support", "Yes"),
        ("server max protocol", "SMB3"),
        ("server signing", "default"),
        ("server smb encrypt", "default"),
    ];
    let samba = samba.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let probe = |address: &str, fabric: &str| Probe {
        address: address.parse().expect("an address"),
        fabric: fabric.to_owned(),
        result: Ok(Duration::from_millis(3)),
    };
    Facts {
        control: "/run/smbdirect/control".to_owned(),
        version: "0.1.0".to_owned(),
        device: Some(device()),
        smbd: Some(Smbd {
            path: "/usr/sbin/smbd".to_owned(),
            version: "4.22.11".to_owned(),
            has_smb_direct: true,
        }),
        samba: Some(BTreeMap::from(samba)),
        ports: vec![Port {
            device: "mlx5_0".to_owned(),
            number: 1,
            state: "ACTIVE".to_owned(),
            kind: Kind::Roce,
            is_rxe: false,
            interface: Some("eth0".to_owned()),
            roce_v2: vec![[10, 0, 0, 1].into()],
            losses: BTreeMap::new(),
        }],
        interfaces: BTreeMap::from([
            ("eth0".to_owned(), interface([10, 0, 0, 1])),
            ("eth1".to_owned(), interface([10, 0, 1, 1])),
        ]),
        probes: vec![
            probe("10.0.0.1:5445", "verbs"),
            probe("10.0.1.1:5445", "software"),
        ],
        is_root: true,
        ..Facts::default()
    }
}

/// Returns the findings that complain.
fn complaints(facts: &Facts) -> Vec<Finding> {
    let mut found = server(facts);
    found.retain(|finding| finding.result != Verdict::Ok);
    found
}

/// Breaks something, and expects one complaint with these words in its message and in its cure.
fn breaks(
    change: impl FnOnce(&mut Facts),
    result: Verdict,
    check: &str,
    message: &str,
    cure: &str,
) {
    let mut facts = facts();
    change(&mut facts);
    let found = complaints(&facts);
    let [finding] = &found[..] else {
        panic!("one complaint about {message:?}, not {found:#?}");
    };
    assert_eq!(
        (finding.check, finding.result),
        (check, result),
        "{finding:?}"
    );
    assert!(finding.message.contains(message), "{finding:?}");
    let given = finding.cure.as_deref().unwrap_or_default();
    assert!(given.contains(cure) && !cure.is_empty(), "{finding:?}");
}

fn of_device(facts: &mut Facts) -> &mut Device {
    facts.device.as_mut().expect("a device")
}

fn set(facts: &mut Facts, name: &str, value: &str) {
    let samba = facts.samba.as_mut().expect("smb.conf");
    samba.insert(name.to_owned(), value.to_owned());
}

#[test]
fn a_server_with_which_all_is_well_has_no_complaints() {
    let facts = facts();
    assert!(complaints(&facts).is_empty(), "{:#?}", complaints(&facts));
    let report = Report::new(&facts, None);
    assert_eq!(report.result, Verdict::Ok);
    let text = report.to_string();
    assert!(
        text.starts_with("smbdirectd 0.1.0, smbd 4.22.11\n ok    smbdirectd runs"),
        "{text}"
    );
    assert!(text.lines().all(|line| line.len() <= 100), "{text}");
}

#[test]
fn the_daemon_does_not_run() {
    let mut facts = Facts {
        control: "/run/smbdirect/control".to_owned(),
        silence: Some(Silence {
            reason: "no device".to_owned(),
            is_absent: true,
        }),
        is_root: true,
        ..Facts::default()
    };
    let found = complaints(&facts);
    assert_eq!((found[0].check, found[0].result), ("device", Verdict::Fail));
    assert!(
        found[0]
            .cure
            .as_deref()
            .unwrap()
            .starts_with("systemctl start"),
        "{found:?}"
    );
    facts.port_is_taken = true;
    assert!(
        complaints(&facts)[0]
            .cure
            .as_deref()
            .unwrap()
            .contains("another program")
    );
    let report = Report::new(&facts, None);
    assert_eq!(report.result, Verdict::Fail);
    assert!(
        report
            .to_string()
            .contains(" FAIL  smbdirectd does not answer"),
        "{report}"
    );
}

#[test]
fn the_daemon_does_not_answer_this_user() {
    let refused = |facts: &mut Facts, is_root| {
        facts.device = None;
        facts.is_root = is_root;
        facts.firewall.nft = Some(String::new());
        facts.silence = Some(Silence {
            reason: "this user may not".to_owned(),
            is_absent: false,
        });
    };
    breaks(
        |facts| refused(facts, false),
        Verdict::Fail,
        "device",
        "may not",
        "as root",
    );
    breaks(
        |facts| refused(facts, true),
        Verdict::Fail,
        "device",
        "may not",
        "journalctl",
    );
}

#[test]
fn the_kernels_device_has_cures_of_its_own() {
    let kernel = |facts: &mut Facts| {
        facts.is_kernel = true;
        facts.control = "/dev/smbdirect".to_owned();
        set(facts, "smb direct device", "/dev/smbdirect");
        // The kernel's device serves only addresses of RDMA devices.
        of_device(facts).addresses.remove(1);
        facts.probes.remove(1);
    };
    let mut healthy = facts();
    kernel(&mut healthy);
    let found = server(&healthy);
    assert!(found.iter().all(|it| it.result == Verdict::Ok), "{found:?}");
    assert_eq!(
        found[0].message,
        "the kernel's device runs, version 0.1.0, interface 3"
    );
    let absent = |facts: &mut Facts| {
        kernel(facts);
        facts.device = None;
        facts.silence = Some(Silence {
            reason: "no device".to_owned(),
            is_absent: true,
        });
    };
    breaks(
        absent,
        Verdict::Fail,
        "device",
        "the kernel's device does not answer on /dev/smbdirect",
        "modprobe smbdirectk",
    );
    type Change = fn(&mut Facts);
    let others: [(Change, Verdict, &str, &str, &str); 5] = [
        (
            |facts| of_device(facts).stopping = true,
            Verdict::Fail,
            "device",
            "being stopped",
            "modprobe smbdirectk",
        ),
        (
            |facts| of_device(facts).version = "0.0.9".to_owned(),
            Verdict::Warn,
            "device",
            "0.0.9 is running",
            "modprobe -r smbdirectk",
        ),
        (
            |facts| of_device(facts).processes.clear(),
            Verdict::Fail,
            "smbd",
            "no smbd is attached",
            "the log of smbd says why",
        ),
        (
            |facts| set(facts, "smb direct device", "/run/smbdirect/control"),
            Verdict::Warn,
            "smb.conf",
            "but this device is at /dev/smbdirect",
            "(--control)",
        ),
        (
            |facts| {
                facts.ports.clear();
                facts.ports.push(Port {
                    state: "DOWN".to_owned(),
                    ..Port::default()
                });
            },
            Verdict::Warn,
            "rdma",
            "is DOWN",
            "rdma link",
        ),
    ];
    for (change, result, check, message, cure) in others {
        let broken = |facts: &mut Facts| {
            kernel(facts);
            change(facts);
        };
        breaks(broken, result, check, message, cure);
    }
    let unannounced = |facts: &mut Facts| {
        kernel(facts);
        of_device(facts).addresses.clear();
        facts.probes.clear();
        facts.interfaces.clear();
    };
    let mut nowhere = facts();
    unannounced(&mut nowhere);
    let found = complaints(&nowhere);
    let cures: Vec<&str> = found.iter().filter_map(|it| it.cure.as_deref()).collect();
    assert_eq!(cures.len(), 2, "{found:?}");
    assert!(
        cures[0].contains("rdma link shows which interfaces"),
        "{found:?}"
    );
    assert!(cures[1].contains("and restart smbd"), "{found:?}");
    let without_adapter = |facts: &mut Facts| {
        kernel(facts);
        facts.ports.clear();
    };
    breaks(
        without_adapter,
        Verdict::Fail,
        "rdma",
        "no RDMA device: the kernel's device serves no address",
        "docs/kernel.md",
    );
    let full = |facts: &mut Facts| {
        kernel(facts);
        of_device(facts).totals.memory = 8 << 30;
    };
    breaks(
        full,
        Verdict::Warn,
        "limits",
        "8192 of memory_mb = 8192 are used",
        "modinfo smbdirectk",
    );
    let unreachable = |facts: &mut Facts| {
        kernel(facts);
        facts.probes[0].result = Err("connection refused".to_owned());
    };
    breaks(
        unreachable,
        Verdict::Fail,
        "end to end",
        "connection refused",
        "journalctl -k -g smbdirect",
    );
    let mut unreached = facts();
    kernel(&mut unreached);
    let reason = "cannot load rdma-core".to_owned();
    unreached.unknown.insert("end to end", reason);
    let found = complaints(&unreached);
    assert_eq!(
        (found.len(), found[0].check, found[0].result),
        (1, "end to end", Verdict::Skipped)
    );
}

#[test]
fn says_why_smbd_was_not_examined() {
    let mut facts = facts();
    (facts.smbd, facts.samba) = (None, None);
    let reason = "other users can change /home/x/\u{1b}[2J\nsmbd";
    facts.unknown.insert("smbd", reason.to_owned());
    let found = complaints(&facts);
    let [smbd, smb_conf] = &found[..] else {
        panic!("two complaints, not {found:#?}");
    };
    assert_eq!((smbd.check, smbd.result), ("smbd", Verdict::Skipped));
    // Another user chose the path, and does not control the terminal with it.
    let path = "/home/x/?[2J?smbd";
    assert!(smbd.message.contains(path), "{smbd:?}");
    assert_eq!(smb_conf.check, "smb.conf");
    assert!(smb_conf.message.contains(path), "{smb_conf:?}");
}

#[test]
fn versions_do_not_match_or_the_daemon_stops() {
    breaks(
        |facts| of_device(facts).version = "0.0.9".to_owned(),
        Verdict::Warn,
        "device",
        "0.0.9 is running, but 0.1.0 is installed",
        "restart smbdirectd",
    );
    breaks(
        |facts| of_device(facts).stopping = true,
        Verdict::Fail,
        "device",
        "being stopped",
        "systemctl start",
    );
}

#[test]
fn no_smbd_is_attached() {
    let detach = |facts: &mut Facts| of_device(facts).processes.clear();
    breaks(
        detach,
        Verdict::Fail,
        "smbd",
        "no smbd is attached",
        "systemctl restart smbd; if that does not help, the logs of smbd and smbdirectd",
    );
    // The doctor does not know smb.conf.
    for (is_kernel, cure) in [
        (false, "set smb direct = yes in smb.conf"),
        (true, "smb direct device = /dev/smbdirect"),
    ] {
        let mut facts = facts();
        detach(&mut facts);
        facts.samba = None;
        facts.is_kernel = is_kernel;
        let found = complaints(&facts);
        let smbd = found.iter().find(|it| it.check == "smbd");
        let given = smbd.and_then(|it| it.cure.as_deref()).expect("a cure");
        assert!(given.contains(cure), "{found:?}");
    }
    // smb.conf has the reason.
    for (name, value) in [
        ("smb direct", "No"),
        ("server multi channel support", "No"),
        ("smb direct device", "/other"),
    ] {
        let mut facts = facts();
        detach(&mut facts);
        set(&mut facts, name, value);
        let found = complaints(&facts);
        let checks: Vec<_> = found.iter().map(|it| (it.check, it.result)).collect();
        let expected = ["smbd", "smb.conf"].map(|check| (check, Verdict::Fail));
        assert_eq!(checks, expected, "{found:?}");
        let cure = found[0].cure.as_deref().expect("a cure");
        assert_eq!(cure, "see what is said about smb.conf below");
    }
    let without = |facts: &mut Facts| {
        detach(facts);
        facts.smbd = None;
    };
    breaks(
        without,
        Verdict::Fail,
        "smbd",
        "no smbd is attached",
        "install and start smbd",
    );
}

#[test]
fn this_smbd_has_no_smb_direct() {
    breaks(
        |facts| facts.smbd.as_mut().unwrap().has_smb_direct = false,
        Verdict::Fail,
        "smbd",
        "/usr/sbin/smbd 4.22.11 was built without SMB Direct",
        "upgrade of the distribution",
    );
}

#[test]
fn smb_direct_may_be_a_transport_in_smb_conf() {
    for (transports, is_on) in [
        ("tcp, nbt, smbdirect", true),
        ("tcp smbdirect:5445", true),
        ("tcp, nbt", false),
    ] {
        let mut facts = facts();
        set(&mut facts, "smb direct", "No");
        set(&mut facts, "server smb transports", transports);
        assert_eq!(complaints(&facts).is_empty(), is_on, "{transports}");
    }
}

#[test]
fn smb_conf_rules_smb_direct_out() {
    for (name, value, message, cure) in [
        ("smb direct", "No", "direct\" is not", "smb direct = yes"),
        (
            "server multi channel support",
            "No",
            "multi channel",
            "= yes",
        ),
        ("server max protocol", "SMB2_10", "is smb2_10", "= SMB3"),
    ] {
        breaks(
            |facts| set(facts, name, value),
            Verdict::Fail,
            "smb.conf",
            message,
            cure,
        );
    }
    for (name, value, message, cure) in [
        (
            "server signing",
            "required",
            "only for clients with RDMA transforms",
            "trust the network",
        ),
        (
            "server signing",
            "mandatory",
            "only for clients with RDMA transforms",
            "trust the network",
        ),
        (
            "server smb encrypt",
            "required",
            "only for clients with RDMA transforms",
            "the shares that",
        ),
        (
            "smb direct device",
            "/other",
            "device\" is /other",
            "the same",
        ),
    ] {
        breaks(
            |facts| set(facts, name, value),
            Verdict::Warn,
            "smb.conf",
            message,
            cure,
        );
    }
}

#[test]
fn without_testparm_smb_conf_is_skipped() {
    let mut facts = facts();
    facts.samba = None;
    let reason = "no testparm was found beside /usr/sbin/smbd or in the path";
    facts.unknown.insert("smb.conf", reason.to_owned());
    let found = complaints(&facts);
    assert_eq!(
        (found.len(), found[0].check, found[0].result),
        (1, "smb.conf", Verdict::Skipped)
    );
    assert!(found[0].message.contains(reason), "{found:?}");
    assert_eq!(Report::new(&facts, None).result, Verdict::Skipped);
    facts.smbd = None;
    facts.unknown.clear();
    let found = complaints(&facts);
    assert!(found[0].message.contains("there is no smbd"), "{found:?}");
}

#[test]
fn clients_are_told_of_no_address_or_of_a_wrong_one() {
    let none = |facts: &mut Facts| {
        of_device(facts).addresses.clear();
        facts.ports.clear();
    };
    breaks(
        none,
        Verdict::Fail,
        "addresses",
        "there is no address for clients",
        "listen",
    );
    let no_address_allowed = |facts: &mut Facts| {
        none(facts);
        of_device(facts).allowed = Some(Vec::new());
    };
    breaks(
        no_address_allowed,
        Verdict::Fail,
        "addresses",
        "does not allow any address",
        "bind interfaces only",
    );
    breaks(
        |facts| of_device(facts).missing.push("10.9.9.9:5445".to_owned()),
        Verdict::Warn,
        "addresses",
        "contains 10.9.9.9:5445",
        "ip address",
    );
    breaks(
        |facts| of_device(facts).addresses[1].interface = Some("docker0".to_owned()),
        Verdict::Warn,
        "addresses",
        "of docker0, which other machines cannot reach",
        "\"interfaces\" in smb.conf",
    );
}

#[test]
fn interfaces_in_smb_conf_leave_an_address_out() {
    let left_out = |interfaces: &'static str| {
        let change = move |facts: &mut Facts| set(facts, "interfaces", interfaces);
        breaks(
            change,
            Verdict::Warn,
            "addresses",
            "smbdirectd serves 10.0.1.1:5445 (eth1), but smbd does not announce it: \"interfaces\" in smb.conf leaves",
            "add the address to \"interfaces\"",
        );
    };
    for interfaces in [
        "eth0",
        "10.0.0.1",
        "10.0.0.0/24, fd00::/8",
        "10.0.0.9/255.255.255.0",
        "\"10.0.0.1;capability=RDMA,speed=1000\", 127.0.0.1",
        "eth0;if_index=7,options=dynamic",
    ] {
        left_out(interfaces);
    }
    for interfaces in [
        "",
        "eth0, eth1",
        "10.0.0.0/16",
        "10.0.0.0/255.255.0.0",
        "0.0.0.0/0",
        "10.0.0.1, 10.0.1.1;speed=1000",
        // These may be anything.
        "eth0, eth*",
        "eth0, server.example.com",
        "eth0, 10.9.0.0/99",
    ] {
        let mut facts = facts();
        set(&mut facts, "interfaces", interfaces);
        let found = complaints(&facts);
        assert!(found.is_empty(), "{interfaces}: {found:?}");
    }
    let of_interfaces = |change: &dyn Fn(&mut Facts)| {
        let mut facts = facts();
        set(&mut facts, "interfaces", "eth0, fd00::/64");
        change(&mut facts);
        let mut found = server(&facts);
        found.retain(|finding| finding.message.contains("leaves it out"));
        found
    };
    // Other machines could not reach that address anyway.
    let found = of_interfaces(&|facts| {
        of_device(facts).addresses[1].interface = Some("docker0".to_owned());
    });
    assert_eq!((found.len(), found[0].result), (1, Verdict::Ok));
    // Without smbd, nothing is announced in any case.
    let found = of_interfaces(&|facts| of_device(facts).processes.clear());
    assert!(found.is_empty(), "{found:?}");
    for (address, count) in [("[fd00::1]:5445", 0), ("[fd00:0:0:1::1]:5445", 1)] {
        let found = of_interfaces(&|facts| {
            of_device(facts).addresses[1].address = address.to_owned();
        });
        assert_eq!(found.len(), count, "{address}: {found:?}");
    }
}

#[test]
fn clients_are_told_of_loopback() {
    breaks(
        |facts| of_device(facts).addresses[1].address = "127.0.0.1:5445".to_owned(),
        Verdict::Warn,
        "addresses",
        "127.0.0.1:5445 of ",
        "exclude it",
    );
}

#[test]
fn software_serves_the_address_of_an_adapter() {
    let software = |facts: &mut Facts| of_device(facts).addresses[0].fabric = "software".to_owned();
    let mut roce = facts();
    software(&mut roce);
    let found = complaints(&roce);
    assert_eq!(
        (found[0].check, found[0].result),
        ("addresses", Verdict::Fail)
    );
    assert!(
        found[0].message.contains("10.0.0.1:5445 is on mlx5_0"),
        "{found:?}"
    );
    assert!(
        found[0].cure.as_deref().unwrap().contains("fabric ="),
        "{found:?}"
    );
    assert!(
        found[1].message.contains("mlx5_0 port 1 is not used"),
        "{found:?}"
    );
    roce.no_rdma = Some("cannot load rdma-core".to_owned());
    assert!(
        complaints(&roce)[0]
            .cure
            .as_deref()
            .unwrap()
            .contains("apt-get install")
    );
    // An iWARP client can use the software fabric instead.
    roce.ports[0].kind = Kind::Iwarp;
    assert_eq!(complaints(&roce)[0].result, Verdict::Warn);
}

#[test]
fn an_adapter_cannot_be_used() {
    breaks(
        |facts| facts.ports[0].state = "DOWN".to_owned(),
        Verdict::Warn,
        "rdma",
        "mlx5_0 port 1 is DOWN",
        "subnet manager",
    );
    breaks(
        |facts| facts.ports[0].roce_v2.clear(),
        Verdict::Fail,
        "rdma",
        "no RoCE v2 GID for 10.0.0.1",
        "RoCE v2",
    );
    let bridged = |facts: &mut Facts, is_bridge| {
        facts.interfaces.get_mut("eth0").unwrap().master = Some("br0".to_owned());
        let master = Interface {
            is_bridge,
            ..interface([10, 0, 2, 1])
        };
        facts.interfaces.insert("br0".to_owned(), master);
    };
    breaks(
        |facts| bridged(facts, true),
        Verdict::Warn,
        "rdma",
        "part of the bridge br0",
        "own interface",
    );
    breaks(
        |facts| bridged(facts, false),
        Verdict::Warn,
        "rdma",
        "part of the bond",
        "own interface",
    );
    let unused = |facts: &mut Facts| {
        facts.ports[0].interface = Some("ib0".to_owned());
        facts.ports[0].kind = Kind::InfiniBand;
    };
    breaks(
        unused,
        Verdict::Warn,
        "rdma",
        "its interface ib0 has no address",
        "IPoIB",
    );
    let only_link_local = |facts: &mut Facts| {
        unused(facts);
        let mut interface = interface([169, 254, 0, 1]);
        interface
            .addresses
            .push("fe80::1".parse().expect("an address"));
        facts.interfaces.insert("ib0".to_owned(), interface);
    };
    breaks(
        only_link_local,
        Verdict::Warn,
        "rdma",
        "its interface ib0 has no address",
        "IPoIB",
    );
}

#[test]
fn the_speed_that_clients_are_told_is_a_guess() {
    breaks(
        |facts| facts.interfaces.get_mut("eth0").unwrap().has_speed = false,
        Verdict::Warn,
        "addresses",
        "eth0 reports no speed",
        "link_speed",
    );
}

#[test]
fn the_network_loses_packets() {
    let lose = |facts: &mut Facts| {
        facts.ports[0]
            .losses
            .insert("out_of_sequence".to_owned(), 1204);
    };
    breaks(
        lose,
        Verdict::Warn,
        "losses",
        "1204 out_of_sequence",
        "PFC or ECN",
    );
    let of_infiniband = |facts: &mut Facts| {
        lose(facts);
        facts.ports[0].kind = Kind::InfiniBand;
    };
    breaks(
        of_infiniband,
        Verdict::Warn,
        "losses",
        "1204 out_of_sequence",
        "the cable",
    );
}

#[test]
fn the_kernels_server_takes_the_ports() {
    breaks(
        |facts| facts.has_ksmbd = true,
        Verdict::Warn,
        "ports",
        "ksmbd",
        "modprobe -r ksmbd",
    );
}

#[test]
fn a_firewall_is_in_the_way() {
    let ufw =
        "Status: active\nDefault: deny (incoming), allow (outgoing)\n445/tcp ALLOW IN Anywhere\n";
    let firewalld = "public (active)\n  target: default\n  interfaces: eth0 eth1\n  services: ssh samba\n  ports: \n";
    let nft = "table inet filter {\n chain input {\n  type filter hook input priority 0; policy drop;\n }\n}\n";
    let with_ufw = |text: &str| {
        let text = text.to_owned();
        move |facts: &mut Facts| facts.firewall.ufw = Some(text)
    };
    let with_firewalld = |text: &str| {
        let text = text.to_owned();
        move |facts: &mut Facts| facts.firewall.firewalld = Some(text)
    };
    let with_nft = |text: &str| {
        let text = text.to_owned();
        move |facts: &mut Facts| facts.firewall.nft = Some(text)
    };
    breaks(
        with_ufw(ufw),
        Verdict::Warn,
        "firewall",
        "ufw does not",
        "ufw allow",
    );
    breaks(
        with_firewalld(firewalld),
        Verdict::Warn,
        "firewall",
        "firewalld does not let TCP port 5445 in, in its zone public",
        "--zone=public --add-service=smbdirect",
    );
    breaks(
        with_nft(nft),
        Verdict::Warn,
        "firewall",
        "nftables drops",
        "dport 5445",
    );
    let is_open = |change: &dyn Fn(&mut Facts)| {
        let mut facts = facts();
        change(&mut facts);
        complaints(&facts).is_empty()
    };
    for open in [
        "SMB Direct ALLOW IN Anywhere\n",
        "5445/tcp ALLOW IN Anywhere\n",
    ] {
        let rules = format!("{ufw}{open}");
        assert!(
            is_open(&|facts| facts.firewall.ufw = Some(rules.clone())),
            "{open}"
        );
    }
    for (old, new) in [
        ("samba", "smbdirect"),
        ("ports: ", "ports: 5445/tcp"),
        ("default", "ACCEPT"),
    ] {
        let rules = firewalld.replace(old, new);
        assert!(
            is_open(&|facts| facts.firewall.firewalld = Some(rules.clone())),
            "{rules}"
        );
    }
    for rules in [
        nft.replace("drop", "accept"),
        nft.replace(" }\n}", "  tcp dport 5445 accept\n }\n}"),
    ] {
        assert!(
            is_open(&|facts| facts.firewall.nft = Some(rules.clone())),
            "{rules}"
        );
    }
    let rules = "Anywhere on eth1           ALLOW IN    Anywhere\n";
    assert!(is_open(
        &|facts| facts.firewall.ufw = Some(format!("{ufw}{rules}"))
    ));
    // An interface is in no zone, and so in the default zone.
    let rules = firewalld.replace("eth0 ", "").replace("samba", "smbdirect");
    let rules = format!("{rules}\nexternal\n  target: default\n  interfaces: \n");
    assert!(is_open(&|facts| {
        facts.firewall.firewalld = Some(rules.clone());
        facts.firewall.default_zone = Some("external\n".to_owned());
    }));
    // If the rules cannot be read, the check does not say that all is well.
    let mut facts = facts();
    facts.is_root = false;
    assert_eq!(complaints(&facts)[0].result, Verdict::Skipped);
}

#[test]
fn the_firewall_is_judged_by_what_is_served() {
    let ufw =
        "Status: active\nDefault: deny (incoming), allow (outgoing)\n5445/tcp ALLOW IN Anywhere\n";
    let judged = |change: &dyn Fn(&mut Facts)| {
        let mut facts = facts();
        facts.firewall.ufw = Some(ufw.to_owned());
        change(&mut facts);
        let mut found = server(&facts);
        found.retain(|finding| finding.check == "firewall");
        let text = |it: Finding| (it.result, it.message, it.cure.unwrap_or_default());
        found.into_iter().map(text).collect::<Vec<_>>()
    };
    let is_open = (
        Verdict::Ok,
        "ufw lets TCP port 5445 in".to_owned(),
        String::new(),
    );
    let closed = |port: &str, cure: &str| {
        let message = format!("ufw does not let {port} in");
        (Verdict::Warn, message, cure.to_owned())
    };
    // The firewall does not see the RoCE adapter that serves the other address.
    assert_eq!(judged(&|_| {}), std::slice::from_ref(&is_open));
    let at_6000 =
        judged(&|facts| of_device(facts).addresses[1].address = "10.0.1.1:6000".to_owned());
    assert_eq!(at_6000, [closed("TCP port 6000", "ufw allow 6000/tcp")]);
    let rxe = judged(&|facts| facts.ports[0].is_rxe = true);
    let roce = closed("UDP port 4791", "ufw allow 4791/udp");
    assert_eq!(rxe, [is_open.clone(), roce]);
    let without_software = |facts: &mut Facts| drop(of_device(facts).addresses.remove(1));
    for kind in [Kind::Roce, Kind::InfiniBand] {
        let found = judged(&|facts| {
            without_software(facts);
            facts.ports[0].kind = kind;
            facts.firewall.ufw = Some(ufw.replace("5445", "22"));
        });
        assert_eq!((found.len(), found[0].0), (1, Verdict::Ok), "{found:?}");
        assert!(found[0].1.contains("does not see"), "{found:?}");
    }
    let iwarp = judged(&|facts| {
        without_software(facts);
        facts.ports[0].kind = Kind::Iwarp;
    });
    assert_eq!(iwarp, std::slice::from_ref(&is_open));
    // The device does not answer.
    assert_eq!(judged(&|facts| facts.device = None), [is_open]);
}

#[test]
fn a_limit_is_nearly_reached() {
    type Change = fn(&mut Facts);
    let full: [(&str, Change); 4] = [
        ("3700 of max_connections = 4096", |facts| {
            of_device(facts).totals.connections = 3700
        }),
        ("1000 of max_unauthenticated = 1024", |facts| {
            of_device(facts).totals.unauthenticated = 1000
        }),
        ("of memory_limit", |facts| {
            of_device(facts).totals.memory = 8 << 30
        }),
        ("2 of max_workers = 2", |facts| {
            let device = of_device(facts);
            device.limits.workers = 2;
            for invited in [false, false, true] {
                device.processes.push(super::super::super::status::Process {
                    role: "worker".to_owned(),
                    invited,
                    ..super::super::super::status::Process::default()
                });
            }
        }),
    ];
    for (message, change) in full {
        breaks(change, Verdict::Warn, "limits", message, "smbdirectd.toml");
    }
    breaks(
        |facts| facts.locked_memory = Some(8 << 20),
        Verdict::Warn,
        "limits",
        "may lock only 8388608 bytes",
        "LimitMEMLOCK=infinity",
    );
}

#[test]
fn a_limit_has_ended_connections() {
    let end = |reason: &'static str| {
        move |facts: &mut Facts| {
            let closes = &mut of_device(facts).closes;
            for close in closes {
                close.reason = reason.to_owned();
            }
        }
    };
    for (reason, message, cure) in [
        (
            "too_many_connections",
            "max_connections was reached: it ended 2 of the last connections that ended, the last one 50 s ago",
            "raise max_connections in smbdirectd.toml",
        ),
        (
            "too_many_unauthenticated",
            "max_unauthenticated was reached",
            "raise max_unauthenticated in smbdirectd.toml",
        ),
        (
            "too_many_connections_of_source",
            "10.0.0.25 had a quarter of max_connections: that ended 2",
            "share 10.0.0.25, add it to gateways",
        ),
        (
            "too_many_unauthenticated_of_source",
            "10.0.0.25 had a quarter of max_unauthenticated",
            "or raise max_unauthenticated",
        ),
    ] {
        breaks(end(reason), Verdict::Warn, "limits", message, cure);
    }
    // A client that takes no answers is not a reason to raise a limit.
    let mut facts = facts();
    end("too_many_unanswered")(&mut facts);
    assert!(complaints(&facts).is_empty(), "{:?}", complaints(&facts));
}

#[test]
fn locked_memory_does_not_matter_without_adapters() {
    let mut facts = facts();
    facts.locked_memory = Some(8 << 20);
    facts.ports.clear();
    of_device(&mut facts).addresses.remove(0);
    assert!(complaints(&facts).is_empty(), "{:?}", complaints(&facts));
}

#[test]
fn smbd_does_not_answer_at_an_address() {
    breaks(
        |facts| facts.probes[1].result = Err("connection refused".to_owned()),
        Verdict::Fail,
        "end to end",
        "10.0.1.1:5445 (software): connection refused",
        "journalctl",
    );
}

/// Returns the one finding about a client.
fn about(facts: &Facts, address: &str) -> Finding {
    let mut found = client(facts, address.parse().expect("an address"));
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[test]
fn a_client_uses_rdma_or_messages_or_has_not_logged_in() {
    let mut facts = facts();
    let finding = about(&facts, "10.0.0.24");
    assert_eq!(finding.result, Verdict::Ok);
    assert!(
        finding
            .message
            .contains("uses RDMA: 1 connections, 5000 bytes"),
        "{finding:?}"
    );
    let connection = &mut of_device(&mut facts).connections[0];
    connection.rdma_read_bytes = 0;
    connection.inline_bytes_in = 77;
    let finding = about(&facts, "10.0.0.24");
    assert_eq!(finding.result, Verdict::Warn);
    assert!(
        finding.message.contains("only messages so far: 77 bytes"),
        "{finding:?}"
    );
    assert!(finding.cure.unwrap().contains("small reads"));
    let connection = &mut of_device(&mut facts).connections[0];
    connection.encrypted_by = vec!["share in messages".to_owned()];
    let finding = about(&facts, "10.0.0.24");
    assert!(
        finding
            .message
            .contains("its data is encrypted, and it does not support RDMA transforms"),
        "{finding:?}"
    );
    of_device(&mut facts).connections[0].encrypted_by.clear();
    of_device(&mut facts).connections[0].protection = Some("signed in messages".to_owned());
    let finding = about(&facts, "10.0.0.24");
    assert!(
        finding
            .message
            .contains("its data is signed, and it does not support RDMA transforms"),
        "{finding:?}"
    );
    assert!(finding.cure.unwrap().contains("Server 2022"));
    let connection = &mut of_device(&mut facts).connections[0];
    connection.protection = Some("encrypted".to_owned());
    connection.rdma_write_bytes = 1;
    let finding = about(&facts, "10.0.0.24");
    assert!(
        finding.message.contains("uses RDMA, encrypted: 1"),
        "{finding:?}"
    );
    of_device(&mut facts).connections[0].authenticated = Some(false);
    assert!(
        about(&facts, "10.0.0.24")
            .message
            .contains("nobody has logged in")
    );
}

#[test]
fn a_client_was_here_or_never_came() {
    let mut facts = facts();
    let finding = about(&facts, "10.0.0.23");
    assert!(
        finding.message.contains("ended 100 s ago: login_timeout"),
        "{finding:?}"
    );
    // Both forms of an IPv4 address are the same client.
    assert!(
        about(&facts, "10.0.0.25")
            .message
            .contains("ended 50 s ago: peer")
    );
    assert!(
        about(&facts, "::ffff:10.0.0.23")
            .message
            .contains("login_timeout")
    );
    let finding = about(&facts, "10.0.0.99");
    assert_eq!(finding.result, Verdict::Warn);
    for words in [
        "Get-SmbClientNetworkInterface",
        "RequireSecuritySignature False",
        "-o rdma",
        "5445",
    ] {
        assert!(finding.cure.as_deref().unwrap().contains(words), "{words}");
    }
    facts.device = None;
    assert_eq!(about(&facts, "10.0.0.24").result, Verdict::Skipped);
}

#[test]
fn a_client_of_tcp_stays_there_for_a_reason() {
    let mut facts = facts();
    let noted = |more: serde_json::Value| -> Client {
        let mut noted = serde_json::json!({
            "address": "10.0.0.99", "at_seconds": 990.0, "dialect": "3.1.1", "multichannel": true,
        });
        let fields = more.as_object().expect("fields").clone();
        noted.as_object_mut().expect("fields").extend(fields);
        serde_json::from_value(noted).expect("a client")
    };
    for (more, why, cure) in [
        (
            serde_json::json!({"dialect": "2.1"}),
            "speaks SMB 2.1, but SMB Direct needs SMB 3",
            "Server 2012",
        ),
        (
            serde_json::json!({"multichannel": false}),
            "multichannel is off on the client",
            "EnableMultiChannel",
        ),
        (
            serde_json::json!({}),
            "never asked for the server's interfaces",
            "EnableMultiChannel",
        ),
        (
            serde_json::json!({"withheld": 2}),
            "does not support RDMA transforms",
            "Windows 11",
        ),
        (
            serde_json::json!({"asked": 1, "told": 0}),
            "none of them has RDMA",
            "addresses",
        ),
        (
            serde_json::json!({"asked": 3, "told": 2}),
            "got 2 addresses with RDMA, but has not logged in over SMB Direct",
            "Get-SmbClientNetworkInterface",
        ),
        (
            serde_json::json!({"told": 2, "refused": 3, "refusal": "0xc0000203"}),
            "refused 3 times to bind a connection to its session, last with 0xc0000203",
            "log of smbd",
        ),
        // The last answer of smbd decides. In the first case, smbd announced addresses and later withheld them; in the
        // second, the other way round.
        (
            serde_json::json!({"asked": 1, "told": null, "withheld": 10}),
            "does not support RDMA transforms",
            "Windows 11",
        ),
        (
            serde_json::json!({"asked": 2, "told": 2, "withheld": 1}),
            "got 2 addresses with RDMA",
            "Get-SmbClientNetworkInterface",
        ),
        (
            serde_json::json!({"dialect": "2.1", "refused": 1, "refusal": "0xc000006d"}),
            "speaks SMB 2.1",
            "Server 2012",
        ),
        // The client has used SMB Direct, but no longer can.
        (
            serde_json::json!({"direct": 5, "refused": 1, "refusal": "0xc000006d"}),
            "refused 1 times",
            "log of smbd",
        ),
    ] {
        of_device(&mut facts).clients = vec![noted(more)];
        let finding = about(&facts, "10.0.0.99");
        assert_eq!(finding.result, Verdict::Warn);
        assert!(finding.message.contains(why), "{finding:?}");
        assert!(
            finding.cure.as_deref().unwrap().contains(cure),
            "{finding:?}"
        );
        // The report about the server does not count this as a fault.
        let found = server(&facts);
        let finding = found
            .iter()
            .find(|it| it.check == "clients")
            .expect("a line");
        assert_eq!(finding.result, Verdict::Ok);
        assert!(
            finding
                .message
                .starts_with("10.0.0.99, 10 s ago: no SMB Direct connection: "),
            "{finding:?}"
        );
        assert!(finding.message.contains(why), "{finding:?}");
    }
    let says_nothing = |facts: &Facts| server(facts).iter().all(|it| it.check != "clients");
    // The client has an SMB Direct connection.
    of_device(&mut facts).clients[0].address = "10.0.0.24".to_owned();
    assert!(says_nothing(&facts));
    // At these addresses are the doctor itself, and other programs of this machine.
    for own in ["127.0.0.1", "::1", "10.0.1.1", "10.0.9.1"] {
        of_device(&mut facts).clients[0].address = own.to_owned();
        of_device(&mut facts).addresses[0].address = "10.0.9.1:5445".to_owned();
        assert!(says_nothing(&facts), "{own}");
    }
}

#[test]
fn a_client_that_has_used_smb_direct_does_not_stay_with_tcp() {
    let mut facts = facts();
    let noted = serde_json::json!({
        "address": "10.0.0.99", "at_seconds": 990.0, "dialect": "3.1.1", "multichannel": true, "asked": 1, "told": 2,
        "direct": 1, "direct_at_seconds": 940.0,
    });
    of_device(&mut facts).clients = vec![serde_json::from_value(noted).expect("a client")];
    assert!(server(&facts).iter().all(|it| it.check != "clients"));
    let finding = about(&facts, "10.0.0.99");
    assert_eq!(finding.result, Verdict::Ok);
    assert!(
        finding
            .message
            .ends_with("it last logged in over SMB Direct 60 s ago"),
        "{finding:?}"
    );
}
