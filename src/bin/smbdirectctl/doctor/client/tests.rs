// SPDX-License-Identifier: GPL-2.0-or-later

//! Each test changes one thing in the report of a client with which all is well, and finds the line that says so.
//!
//! The file is long because each check has its lines in a table.

use std::process::Command;

use serde_json::json;

use super::super::Verdict;
use super::super::facts::{Interface, Port};
use super::super::machine::{Machine, alone};
use super::*;

/// Makes the report of a Windows client that uses RDMA.
fn windows() -> Value {
    json!({
        "smbdirect_client_report": 1, "script": "0.1.0", "system": "windows", "time": "2026-11-30T12:00:00Z",
        "host": "PC1", "privileged": true, "edition": "Enterprise", "release": "24H2", "build": 26100,
        "name": "Microsoft Windows 11 Enterprise", "is_server": false, "feature": "Enabled",
        "network_direct": "Enabled", "across_subnets": "Blocked",
        "configuration": {"multichannel": true, "require_signing": true, "require_encryption": false},
        "interfaces": [
            {"name": "RDMA1", "index": 12, "speed": 100_000_000_000_u64, "rdma": true, "rss": true,
             "addresses": ["10.0.0.21", "fe80::21%12"]},
            {"name": "Ethernet", "index": 5, "speed": 1_000_000_000, "rdma": false, "rss": true,
             "addresses": ["192.168.1.21"]},
        ],
        "adapters": [
            {"name": "RDMA1", "description": "Mellanox ConnectX-5", "enabled": true, "operational": true,
             "technology": "4"},
        ],
        "channels": [
            {"server": "fs1", "client_address": "10.0.0.21", "server_address": "10.0.0.1", "client_rdma": true,
             "server_rdma": true, "selected": true, "failed": false, "failures": 0, "channels": 2,
             "rdma_channels": null},
        ],
        "firewall": [{"profile": "Domain", "enabled": "True", "outbound": "NotConfigured"}],
        "events": [],
        "unread": [],
    })
}

/// Makes the report of a Linux client that uses RDMA.
fn linux() -> Value {
    json!({
        "smbdirect_client_report": 1, "script": "0.1.0", "system": "linux", "time": "2026-11-30T12:00:00Z",
        "host": "pc2", "privileged": true, "name": "Fedora Linux 43", "kernel": "6.17.4-200.fc43", "smb_direct": "y",
        "cifs": "loaded", "modules": ["cifs", "rdma_cm", "mlx5_ib"],
        "devices": [
            {"name": "mlx5_0", "port": "1", "state": "4: ACTIVE", "link_layer": "Ethernet", "node_type": "1: CA",
             "interface": "eth1"},
        ],
        "mounts": [
            {"source": "//10.0.0.1/share", "options": "vers=3.1.1,sec=ntlmssp,addr=10.0.0.1,rdma",
             "address": "10.0.0.1", "interface": "eth1"},
            {"source": "//10.7.0.1/other", "options": "vers=3.1.1,sec=ntlmssp,addr=10.7.0.1",
             "address": "10.7.0.1", "interface": "eth0"},
        ],
        "addresses": ["10.0.0.22"],
        "debug_data": ["Features: DFS,SMB_DIRECT,STATS", "SMBDirect protocol version: 0x100 transport status: CONNECTED"],
        "unread": [],
    })
}

/// Makes the facts of a server that serves one address by RoCE.
fn server() -> Facts {
    let device = json!({
        "addresses": [{"address": "10.0.0.1:5445", "interface": "eth0", "fabric": "verbs"}],
    });
    let interface = Interface {
        addresses: vec![[10, 0, 0, 1].into(), [192, 168, 1, 1].into()],
        ..Interface::default()
    };
    Facts {
        device: Some(serde_json::from_value(device).expect("a device")),
        ports: vec![Port {
            device: "mlx5_0".to_owned(),
            interface: Some("eth0".to_owned()),
            kind: Kind::Roce,
            ..Port::default()
        }],
        interfaces: [("eth0".to_owned(), interface)].into(),
        ..Facts::default()
    }
}

/// Judges a report on that server.
fn judge_value(value: &Value) -> Vec<Finding> {
    let report = Report::parse(value.to_string().as_bytes()).expect("a report");
    judge(&report, &server(), None)
}

fn complaints(value: &Value) -> Vec<Finding> {
    let mut found = judge_value(value);
    found.retain(|finding| finding.result != Verdict::Ok);
    found
}

/// Sets the value at a JSON pointer.
fn set(report: &mut Value, pointer: &str, value: Value) {
    let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
    match report.pointer_mut(parent).expect("it is there") {
        Value::Array(items) => items[name.parse::<usize>().expect("an index")] = value,
        parent => drop(
            parent
                .as_object_mut()
                .expect("an object")
                .insert(name.to_owned(), value),
        ),
    }
}

type Break<'a> = (&'a [(&'a str, Value)], Verdict, &'a str, &'a str, &'a str);

/// Makes each change, and expects one complaint with this result, check, message and cure.
fn each_breaks(healthy: fn() -> Value, cases: &[Break<'_>]) {
    for (changes, result, check, message, cure) in cases {
        let mut report = healthy();
        for (pointer, value) in *changes {
            set(&mut report, pointer, value.clone());
        }
        let found = complaints(&report);
        let [finding] = &found[..] else {
            panic!("one complaint about {message:?}, not {found:#?}");
        };
        assert_eq!(
            (finding.check, finding.result),
            (*check, *result),
            "{finding:?}"
        );
        assert!(finding.message.contains(message), "{message}: {finding:?}");
        let given = finding.cure.as_deref().unwrap_or_default();
        assert!(given.contains(cure), "{cure}: {finding:?}");
        assert_eq!(given.is_empty(), *result == Verdict::Skipped, "{finding:?}");
    }
}

#[test]
fn clients_with_which_all_is_well_have_no_complaints() {
    for report in [windows(), linux()] {
        assert!(complaints(&report).is_empty(), "{:#?}", complaints(&report));
    }
    let found = judge_value(&windows());
    let said: Vec<&str> = found.iter().map(|it| it.message.as_str()).collect();
    for words in [
        "about PC1, as of 2026-11-30T12:00:00Z: Microsoft Windows 11 Enterprise, 24H2, build 26100",
        "Microsoft Windows 11 Enterprise has an SMB Direct client",
        "requires signing, and has RDMA transforms",
        "RDMA for SMB on RDMA1 (10.0.0.21, fe80::21)",
        "both the client and this server use RoCE",
        "uses RDMA from 10.0.0.21 to 10.0.0.1",
    ] {
        assert!(
            said.iter().any(|it| it.contains(words)),
            "{words}: {said:#?}"
        );
    }
    let found = judge_value(&linux());
    let said: Vec<&str> = found.iter().map(|it| it.message.as_str()).collect();
    for words in [
        "about pc2, as of 2026-11-30T12:00:00Z: Fedora Linux 43, Linux 6.17.4-200.fc43",
        "kernel 6.17.4-200.fc43 has SMB Direct",
        "mlx5_0 port 1 on eth1 is active",
        "//10.0.0.1/share is mounted with rdma, SMB 3.1.1",
        "has 1 SMB Direct connections",
    ] {
        assert!(
            said.iter().any(|it| it.contains(words)),
            "{words}: {said:#?}"
        );
    }
    // A share of another server is nothing to this one.
    assert!(said.iter().all(|it| !it.contains("10.7.0.1")), "{said:#?}");
}

#[test]
fn says_what_keeps_windows_from_rdma() {
    let feature = "client feature";
    each_breaks(
        windows,
        &[
            (
                &[
                    ("/edition", json!("Professional")),
                    ("/name", json!("Microsoft Windows 11 Pro")),
                ],
                Verdict::Warn,
                "client edition",
                "Microsoft Windows 11 Pro has the Windows feature SMBDirect, but",
                "Pro for Workstations",
            ),
            (
                &[("/edition", Value::Null)],
                Verdict::Skipped,
                "client edition",
                "was not read",
                "",
            ),
            (
                &[("/feature", json!("Disabled"))],
                Verdict::Fail,
                feature,
                "is off",
                "Enable-WindowsOptionalFeature",
            ),
            (
                &[("/feature", json!("Absent"))],
                Verdict::Fail,
                feature,
                "does not have",
                "Enable-WindowsOptionalFeature",
            ),
            (
                &[("/feature", json!(7))],
                Verdict::Skipped,
                feature,
                "was not read",
                "",
            ),
            (
                &[("/network_direct", json!("Disabled"))],
                Verdict::Fail,
                feature,
                "NetworkDirect",
                "Set-NetOffload",
            ),
            (
                &[("/configuration/multichannel", json!(false))],
                Verdict::Fail,
                "client multichannel",
                "multichannel is off on the client",
                "EnableMultiChannel $true",
            ),
            (
                &[("/configuration", Value::Null)],
                Verdict::Skipped,
                "client multichannel",
                "was not read",
                "",
            ),
            (
                &[("/build", json!(19045))],
                Verdict::Warn,
                "client signing",
                "requires signing, but has no RDMA transforms (build 19045)",
                "RequireSecuritySignature $false",
            ),
            (
                &[
                    ("/build", json!(19045)),
                    ("/configuration/require_encryption", json!("True")),
                ],
                Verdict::Warn,
                "client signing",
                "requires encryption, but",
                "RequireEncryption $false",
            ),
            (
                &[("/build", json!("?"))],
                Verdict::Skipped,
                "client signing",
                "build of Windows",
                "",
            ),
            (
                &[("/adapters", json!([]))],
                Verdict::Fail,
                "client rdma",
                "no network adapter",
                "vendor's driver",
            ),
            (
                &[("/adapters", Value::Null)],
                Verdict::Skipped,
                "client rdma",
                "adapters were not read",
                "",
            ),
            (
                &[("/adapters/0/enabled", json!(false))],
                Verdict::Fail,
                "client rdma",
                "RDMA is off on the client's adapter RDMA1",
                "Enable-NetAdapterRdma",
            ),
            (
                &[("/adapters/0/operational", json!(false))],
                Verdict::Fail,
                "client rdma",
                "adapter RDMA1: it is not operational",
                "link and driver",
            ),
            (
                &[("/interfaces/0/rdma", json!(false))],
                Verdict::Fail,
                "client rdma",
                "no interface of the client has RDMA for SMB: RDMA1 (10.0.0.21, fe80::21), Ethernet (192.168.1.21)",
                "virtual switch",
            ),
            (
                &[("/interfaces", Value::Null)],
                Verdict::Skipped,
                "client rdma",
                "interfaces of the SMB",
                "",
            ),
            (
                &[("/adapters/0/technology", json!("1"))],
                Verdict::Fail,
                "client protocol",
                "RDMA devices use iWARP, but the addresses of this server use RoCE",
                "docs/iwarp.md",
            ),
            (
                &[("/channels/0/server_rdma", json!(false))],
                Verdict::Warn,
                "client channels",
                "was told that 10.0.0.1 has no RDMA",
                "announced",
            ),
            (
                &[
                    ("/channels/0/client_rdma", json!(false)),
                    ("/channels/0/client_address", json!("192.168.1.21")),
                ],
                Verdict::Fail,
                "client channels",
                "reaches 10.0.0.1 from 192.168.1.21, whose interface has no RDMA",
                "this network",
            ),
            (
                &[
                    ("/channels/0/failed", json!(true)),
                    ("/channels/0/failures", json!(4)),
                ],
                Verdict::Fail,
                "client channels",
                "failed to connect from 10.0.0.21 to 10.0.0.1",
                "firewall",
            ),
            (
                &[("/channels/0/channels", json!(0))],
                Verdict::Warn,
                "client channels",
                "no RDMA connection from 10.0.0.21 to 10.0.0.1 yet",
                "large file",
            ),
            (
                &[("/channels/0/rdma_channels", json!(0))],
                Verdict::Warn,
                "client channels",
                "no RDMA connection",
                "large file",
            ),
            (
                &[("/channels/0/server_address", json!("10.7.0.1"))],
                Verdict::Skipped,
                "client channels",
                "no SMB multichannel connection to this server",
                "",
            ),
            (
                &[("/channels", Value::Null)],
                Verdict::Skipped,
                "client channels",
                "were not read",
                "",
            ),
            (
                &[("/firewall/0/outbound", json!("Block"))],
                Verdict::Warn,
                "client firewall",
                "blocks outgoing connections by default, in its profile Domain",
                "5445",
            ),
            (
                &[(
                    "/events",
                    json!([{"log": "Microsoft-Windows-SmbClient/Connectivity", "id": 30818, "count": 3,
                                      "last": "2026-11-30T11:00:00Z"}]),
                )],
                Verdict::Warn,
                "client events",
                "used TCP (3 times, last at 2026-11-30T11:00:00Z, event 30818)",
                "troubleshooting.md",
            ),
            (
                &[(
                    "/events",
                    json!([{"log": "Microsoft-Windows-SMBDirect/Admin", "id": 10, "count": 2},
                                     {"log": "Microsoft-Windows-SmbClient/Connectivity", "id": 30803}]),
                )],
                Verdict::Warn,
                "client events",
                "warnings or errors of the last 7 days: 2 x 10",
                "Get-WinEvent",
            ),
            (
                &[
                    (
                        "/unread",
                        json!(["Get-SmbClientConfiguration: Access is denied."]),
                    ),
                    ("/privileged", json!(false)),
                ],
                Verdict::Skipped,
                "client report",
                "could not read Get-SmbClientConfiguration: Access is denied. (run the script as root, or",
                "",
            ),
        ],
    );
}

#[test]
fn editions_without_the_feature_have_no_client() {
    for (edition, name) in [
        ("Professional", "Microsoft Windows 10 Pro"),
        ("Core", "Microsoft Windows 11 Home"),
    ] {
        for feature in [json!("Absent"), Value::Null] {
            let mut report = windows();
            set(&mut report, "/edition", json!(edition));
            set(&mut report, "/name", json!(name));
            set(&mut report, "/feature", feature);
            let found = complaints(&report);
            assert_eq!(
                (found[0].check, found[0].result),
                ("client edition", Verdict::Fail),
                "{found:?}"
            );
            assert_eq!(found[0].message, format!("{name} has no SMB Direct client"));
        }
    }
    for edition in [
        "EnterpriseS",
        "EducationN",
        "ProfessionalWorkstation",
        "ServerStandard",
        "ServerDatacenter",
    ] {
        let mut report = windows();
        set(&mut report, "/edition", json!(edition));
        assert!(
            complaints(&report).is_empty(),
            "{edition}: {:?}",
            complaints(&report)
        );
    }
    let mut report = windows();
    set(&mut report, "/edition", json!("ProfessionalEducation"));
    assert_eq!(complaints(&report)[0].check, "client edition");
}

#[test]
fn one_adapter_of_two_is_enough() {
    let mut report = windows();
    let mut second = report["adapters"][0].clone();
    set(&mut second, "/enabled", json!(false));
    set(&mut second, "/name", json!("RDMA2"));
    let first = report["adapters"][0].clone();
    set(&mut report, "/adapters", json!([first, second]));
    let found = complaints(&report);
    assert_eq!(
        (found.len(), found[0].result),
        (1, Verdict::Warn),
        "{found:?}"
    );
    assert!(found[0].message.contains("RDMA2"), "{found:?}");
}

#[test]
fn one_connection_of_two_is_enough() {
    let mut report = windows();
    let first = report["channels"][0].clone();
    let mut second = first.clone();
    set(&mut second, "/failed", json!(true));
    set(&mut report, "/channels", json!([second, first]));
    let found = complaints(&report);
    assert_eq!(
        (found.len(), found[0].result),
        (1, Verdict::Warn),
        "{found:?}"
    );
    assert!(found[0].message.contains("failed to connect"), "{found:?}");
}

#[test]
fn says_what_keeps_linux_from_rdma() {
    let plain = "vers=3.1.1,sec=ntlmssp,addr=10.0.0.1";
    let kernel = "client kernel";
    each_breaks(
        linux,
        &[
            (
                &[("/smb_direct", json!("n")), ("/debug_data", json!([]))],
                Verdict::Fail,
                kernel,
                "6.17.4-200.fc43 was built without CONFIG_CIFS_SMB_DIRECT",
                "docs/linux-clients.md",
            ),
            (
                &[("/debug_data", json!(["Features: DFS,STATS"]))],
                Verdict::Fail,
                kernel,
                "was built without",
                "kernel",
            ),
            (
                &[("/cifs", json!("absent")), ("/debug_data", json!([]))],
                Verdict::Fail,
                kernel,
                "does not have the module cifs",
                "linux-modules-extra",
            ),
            (
                &[("/smb_direct", json!("")), ("/debug_data", json!([]))],
                Verdict::Skipped,
                kernel,
                "the script could not read",
                "",
            ),
            (
                &[("/devices", json!([]))],
                Verdict::Fail,
                "client rdma",
                "no RDMA device",
                "type siw",
            ),
            (
                &[("/devices", Value::Null)],
                Verdict::Skipped,
                "client rdma",
                "were not read",
                "",
            ),
            (
                &[("/devices/0/state", json!("1: DOWN"))],
                Verdict::Warn,
                "client rdma",
                "mlx5_0 port 1 is DOWN",
                "the cable",
            ),
            (
                &[("/devices/0/node_type", json!("4: RNIC"))],
                Verdict::Fail,
                "client protocol",
                "use iWARP, but the addresses of this server use RoCE",
                "siw",
            ),
            (
                &[("/devices/0/link_layer", json!("InfiniBand"))],
                Verdict::Fail,
                "client protocol",
                "use InfiniBand, but",
                "one kind",
            ),
            (
                &[("/mounts/0/options", json!(plain))],
                Verdict::Fail,
                "client mount",
                "//10.0.0.1/share is mounted without the option rdma",
                "-o rdma",
            ),
            (
                &[("/mounts", json!([]))],
                Verdict::Warn,
                "client mount",
                "has mounted no share of this server",
                "-o rdma",
            ),
            (
                &[("/mounts", Value::Null)],
                Verdict::Skipped,
                "client mount",
                "were not read",
                "",
            ),
            (
                &[("/mounts/0/options", json!(format!("{plain},rdma,seal")))],
                Verdict::Warn,
                "client mount",
                "its data is encrypted, and therefore goes in messages",
                "rsize=131072",
            ),
            (
                &[(
                    "/mounts/0/options",
                    json!(format!("{plain},rdma,seal,rsize=131072")),
                )],
                Verdict::Warn,
                "client mount",
                "its data is encrypted",
                "leave sign and seal out",
            ),
            (
                &[("/mounts/0/options", json!("vers=3.0,sec=ntlmsspi,rdma"))],
                Verdict::Warn,
                "client mount",
                "its data is signed",
                "leave sign and seal out",
            ),
            (
                &[("/debug_data/1", json!("SMBDirect transport not available"))],
                Verdict::Warn,
                "client connections",
                "1 mounts of the client have lost",
                "dmesg",
            ),
            (
                &[("/kernel", json!("6.12.48+deb13-amd64"))],
                Verdict::Warn,
                "client faults",
                "buffered writes at offsets that are not a multiple of 4 KiB",
                "docs/linux-clients.md",
            ),
            (
                &[("/kernel", json!("7.2.0"))],
                Verdict::Warn,
                "client faults",
                "with seal",
                "docs/linux-clients.md",
            ),
        ],
    );
    // This client takes the wrong way to the server.
    let mut report = linux();
    set(&mut report, "/mounts/0/options", json!(plain));
    set(&mut report, "/mounts/0/interface", json!("eth0"));
    let found = complaints(&report);
    assert_eq!(found.len(), 2, "{found:#?}");
    let words = "reaches 10.0.0.1 over eth0, which has no RDMA device (those are on eth1)";
    assert!(found[1].message.contains(words), "{found:#?}");
}

#[test]
fn says_whether_the_client_reaches_the_port() {
    let try_port = |of: fn() -> Value, answer: &str, facts: &Facts| {
        let mut report = of();
        let server = json!({"address": "10.0.0.1", "tcp_445": "open", "tcp_5445": answer});
        set(&mut report, "/server", server);
        let report = Report::parse(report.to_string().as_bytes()).expect("a report");
        let mut found = judge(&report, facts, None);
        found.retain(|it| it.check == "client port");
        found
    };
    let mut facts = server();
    // A RoCE adapter serves this address, and does not use TCP.
    assert!(try_port(windows, "silent", &facts).is_empty());
    facts.ports[0].kind = Kind::Iwarp;
    for of in [windows, linux] {
        for (answer, result, words) in [
            ("open", Verdict::Ok, "reaches TCP port 5445 of 10.0.0.1"),
            ("silent", Verdict::Fail, "a firewall drops its packets"),
            ("refused", Verdict::Fail, "refuses the client's connection"),
            ("unresolved", Verdict::Fail, "cannot resolve the name"),
            ("", Verdict::Skipped, "did not try"),
        ] {
            let found = try_port(of, answer, &facts);
            let [finding] = &found[..] else {
                panic!("{found:?}")
            };
            assert_eq!(finding.result, result, "{finding:?}");
            assert!(finding.message.contains(words), "{finding:?}");
        }
    }
}

#[test]
fn the_report_of_another_machine_is_noticed() {
    for (value, address) in [
        (windows(), "10.0.0.21"),
        (windows(), "::ffff:10.0.0.21"),
        (linux(), "10.0.0.22"),
    ] {
        let report = Report::parse(value.to_string().as_bytes()).expect("a report");
        let warned = |address: &str| {
            let found = judge(
                &report,
                &server(),
                Some(address.parse().expect("an address")),
            );
            found.iter().any(|it| {
                it.result == Verdict::Warn && it.message.contains("does not have the address")
            })
        };
        assert!(!warned(address), "{address}");
        assert!(warned("10.0.0.99"));
    }
}

#[test]
fn reads_every_encoding_that_powershell_writes() {
    let text = windows()
        .to_string()
        .replace("RDMA1", "Gr\u{f6}\u{df}e \u{1f4be}");
    let le: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let be: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
    for bytes in [
        text.as_bytes().to_vec(),
        [b"\xef\xbb\xbf", text.as_bytes()].concat(),
        [b"\xff\xfe", &le[..]].concat(),
        [b"\xfe\xff", &be[..]].concat(),
        le.clone(),
        be,
        // The end of a line in the middle of a unit, as if the file had been copied as text.
        [b"\xff\xfe", &le[..], b"\r\0\n\0\n"].concat(),
    ] {
        let report = Report::parse(&bytes).expect("a report");
        let found = judge(&report, &server(), None);
        let name = "Gr\u{f6}\u{df}e \u{1f4be} (10.0.0.21";
        assert!(
            found.iter().any(|it| it.message.contains(name)),
            "{found:?}"
        );
    }
    // An older code page cannot be told from UTF-8, but loses only the letters that it has of its own.
    let latin: Vec<u8> = windows()
        .to_string()
        .replace("RDMA1", "Gr#e")
        .bytes()
        .collect();
    let latin: Vec<u8> = latin
        .into_iter()
        .map(|byte| if byte == b'#' { 0xf6 } else { byte })
        .collect();
    assert!(Report::parse(&latin).is_ok());
}

#[test]
fn lists_of_powershell_may_lose_their_brackets() {
    let mut report = windows();
    let interfaces = report["interfaces"].clone();
    set(
        &mut report,
        "/interfaces",
        json!({"value": interfaces, "Count": 2}),
    );
    for name in ["/adapters", "/channels", "/firewall"] {
        let only = report.pointer(name).expect("a list")[0].clone();
        set(&mut report, name, only);
    }
    assert!(complaints(&report).is_empty(), "{:#?}", complaints(&report));
    set(&mut report, "/adapters/enabled", json!("False"));
    assert_eq!(complaints(&report)[0].check, "client rdma");
}

#[test]
fn refuses_what_is_no_report() {
    let refused = |bytes: &[u8]| Report::parse(bytes).expect_err("no report");
    for (bytes, words) in [
        (&b""[..], "not JSON"),
        (b"Get-SmbClientConfiguration : Access is denied", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"\0\0\0", "not JSON"),
        (b"[1]", "not the report of a client"),
        (b"{\"system\": \"linux\"}", "not the report of a client"),
        (
            b"{\"smbdirect_client_report\": 2, \"system\": \"linux\"}",
            "has form 2",
        ),
        (
            b"{\"smbdirect_client_report\": 1, \"system\": \"\\u001b[2J\"}",
            "does not name the client's system",
        ),
    ] {
        let said = refused(bytes);
        assert!(said.contains(words), "{words}: {said}");
        assert!(!said.contains('\u{1b}'), "{said:?}");
    }
    let deep = "[".repeat(100_000);
    assert!(
        refused(deep.as_bytes()).contains("recursion limit"),
        "{}",
        refused(deep.as_bytes())
    );
    let large = vec![b' '; (1 << 20) + 1];
    assert!(refused(&large).contains("larger than 1048576 bytes"));
}

#[test]
fn a_report_is_bounded_and_does_not_control_the_terminal() {
    let nasty = "\u{1b}[2J\n ok    smbdirectd runs".repeat(20);
    for healthy in [windows, linux] {
        // Each value in turn is hostile: a long text, a list, an object, a number, or nothing.
        let mut pointers = vec![String::new()];
        let mut next = 0;
        while let Some(pointer) = pointers.get(next).cloned() {
            next += 1;
            let report = healthy();
            let names: Vec<String> = match report.pointer(&pointer).expect("it is there") {
                Value::Object(members) => members.keys().cloned().collect(),
                Value::Array(items) => (0..items.len()).map(|index| index.to_string()).collect(),
                _ => continue,
            };
            pointers.extend(names.into_iter().map(|name| format!("{pointer}/{name}")));
        }
        assert!(pointers.len() >= 40, "{pointers:?}");
        let many = Value::Array(vec![json!({"name": nasty, "source": nasty}); 300]);
        for pointer in &pointers[1..] {
            for value in [
                json!(nasty),
                many.clone(),
                json!({}),
                json!(-1),
                Value::Null,
            ] {
                let mut report = healthy();
                set(&mut report, pointer, value);
                let Ok(report) = Report::parse(report.to_string().as_bytes()) else {
                    assert!(
                        ["/smbdirect_client_report", "/system"].contains(&pointer.as_str()),
                        "{pointer}"
                    );
                    continue;
                };
                let found = judge(&report, &server(), Some([10, 0, 0, 1].into()));
                assert!(found.len() < 200, "{pointer}: {}", found.len());
                for finding in found {
                    let texts = [Some(finding.message.clone()), finding.cure.clone()];
                    for text in texts.into_iter().flatten() {
                        assert!(text.len() < 20_000, "{pointer}: {}", text.len());
                        assert!(!text.contains(char::is_control), "{pointer}: {text:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn the_scripts_are_plain_and_name_their_version() {
    for system in [System::Windows, System::Linux] {
        let script = system.script();
        assert!(script.is_ascii(), "{system:?}");
        assert!(!script.contains("@VERSION@") && script.contains(env!("CARGO_PKG_VERSION")));
        assert!(script.lines().all(|line| line.len() <= 120), "{system:?}");
        let changes = [
            "Set-",
            "Enable-",
            "Disable-",
            "New-NetFirewall",
            "Remove-",
            " rm ",
            "modprobe",
        ];
        let code = script
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'));
        // This holds only for the script itself.
        for line in code.filter(|line| *line != "Set-StrictMode -Off") {
            assert!(!changes.iter().any(|it| line.contains(it)), "{line}");
        }
    }
}

/// There is no Windows here, so this compares what the script writes with what is judged.
#[test]
fn the_script_for_windows_writes_all_that_is_judged() {
    let script = System::Windows.script();
    for (open, close) in [('{', '}'), ('(', ')'), ('[', ']')] {
        let count = |wanted: char| script.chars().filter(|it| *it == wanted).count();
        assert_eq!(count(open), count(close), "{open}");
    }
    // Nothing depends on the settings of the client's users.
    assert!(script.contains("\nSet-StrictMode -Off\n"));
    assert_eq!(
        script.matches(".ToString('").count(),
        1,
        "only Format-Time writes times"
    );
    assert!(script.contains(".ToString('yyyy-MM-ddTHH:mm:ssZ', $culture)"));
    let written = |name: &str| {
        let assigned = [format!("    {name} = "), format!("$report.{name} = ")];
        assigned.iter().any(|it| script.contains(it))
    };
    for source in [include_str!("windows.rs"), include_str!("../client.rs")] {
        for name in source
            .split(".at(\"")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
        {
            // The script for Linux writes these.
            if !["addresses", "kernel"].contains(&name) {
                assert!(written(name), "{name}");
            }
        }
    }
}

/// Runs the script for Linux in an imaginary machine.
fn run_script(machine: &Machine, arguments: &[&str]) -> String {
    run_changed_script(machine, arguments, |script| script)
}

/// Runs the script as `run_script` does, after another change.
fn run_changed_script(
    machine: &Machine,
    arguments: &[&str],
    change: impl Fn(String) -> String,
) -> String {
    let root = machine.0.display().to_string();
    let mut script = change(System::Linux.script());
    for path in [
        "/sys/class/infiniband",
        "/proc/fs/cifs",
        "/proc/mounts",
        "/proc/config.gz",
        "/boot/config",
        "/etc/os",
    ] {
        assert!(script.contains(path), "{path}");
        script = script.replace(path, &format!("{root}{path}"));
    }
    let path = machine.file("check.sh", &script);
    let output = Command::new("sh").arg(path).args(arguments).output();
    let output = output.expect("sh runs");
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn the_script_for_linux_gathers_what_is_judged() {
    let _alone = alone();
    let machine = Machine::new("script");
    let kernel = Command::new("uname").arg("-r").output().expect("uname");
    let kernel = String::from_utf8(kernel.stdout).expect("UTF-8");
    let config = format!("boot/config-{}", kernel.trim());
    machine.file(&config, "CONFIG_CIFS=y\nCONFIG_CIFS_SMB_DIRECT=y\n");
    machine.file("etc/os-release", "NAME=x\nPRETTY_NAME=\"Te\\st\"\n");
    machine.file(
        "proc/mounts",
        "//10.0.0.1/a\\040b /mnt cifs rw,vers=3.1.1,sec=ntlmssp,username=bob,password=x,addr=127.0.0.1,rdma,seal 0 0\n\
         proc /proc proc rw,addr=1 0 0\n",
    );
    machine.file(
        "proc/fs/cifs/DebugData",
        "Display\nFeatures: DFS,SMB_DIRECT\n\"SMBDirect\" \\ \t\u{1b}x\nother\n",
    );
    let port = "sys/class/infiniband/siw0/ports/1";
    machine.file("sys/class/infiniband/siw0/node_type", "4: RNIC\n");
    machine.file(&format!("{port}/state"), "4: ACTIVE\n");
    machine.file(&format!("{port}/link_layer"), "Ethernet\n");
    machine.file(&format!("{port}/gid_attrs/ndevs/0"), "eth7\n");
    let text = run_script(&machine, &[]);
    let report = Report::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error}: {text}"));
    let value = &report.value;
    assert_eq!(value["kernel"], kernel.trim());
    assert_eq!(value["name"], "Te\\st");
    assert_eq!(
        (&value["smb_direct"], &value["cifs"]),
        (&json!("y"), &json!("builtin"))
    );
    assert_eq!(value["devices"][0]["interface"], "eth7");
    assert_eq!(
        value["debug_data"],
        json!(["Features: DFS,SMB_DIRECT", "\"SMBDirect\" \\  x"])
    );
    let mount = &value["mounts"][0];
    assert_eq!(mount["source"], "//10.0.0.1/a\\040b");
    assert_eq!(
        mount["options"],
        "vers=3.1.1,sec=ntlmssp,addr=127.0.0.1,rdma,seal"
    );
    assert_eq!(value["mounts"].as_array().map(Vec::len), Some(1), "{text}");
    assert!(
        !text.contains("bob") && !text.contains("password"),
        "{text}"
    );
    // The same keys as in the report that the other tests judge.
    for name in linux().as_object().expect("an object").keys() {
        assert!(value.get(name).is_some(), "{name}");
    }
    let found = judge(&report, &Facts::default(), None);
    let has = |words: &str| found.iter().any(|it| it.message.contains(words));
    for words in [
        "has SMB Direct",
        "siw0 port 1 on eth7 is active",
        "its data is encrypted",
    ] {
        assert!(has(words), "{words}: {found:#?}");
    }
    // Nothing is there: no share, no device, and no option of the kernel.
    machine.file(
        &config,
        "CONFIG_CIFS=m\n# CONFIG_CIFS_SMB_DIRECT is not set\n",
    );
    machine.file("proc/mounts", "");
    std::fs::remove_dir_all(machine.0.join("sys")).expect("a directory");
    std::fs::remove_dir_all(machine.0.join("proc/fs")).expect("a directory");
    let text = run_script(&machine, &[]);
    let report = Report::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(report.value["smb_direct"], "n");
    let found = judge(&report, &Facts::default(), None);
    let fails = found.iter().filter(|it| it.result == Verdict::Fail);
    let fails: Vec<&str> = fails.map(|it| it.check).collect();
    assert_eq!(fails, ["client kernel", "client rdma"], "{found:#?}");
}

#[test]
fn the_script_for_linux_tries_the_ports_of_a_server() {
    let _alone = alone();
    let machine = Machine::new("script-port");
    let has = |name: &str| Command::new(name).arg("--version").output().is_ok();
    if !has("bash") || !has("timeout") {
        // Do not use a macro: the test harness captures its output.
        let text =
            b"\nSKIPPED: the ports that the script tries: bash or timeout is not installed\n";
        std::io::Write::write_all(&mut std::io::stderr(), text).expect("standard error");
        return;
    }
    machine.file("proc/mounts", "");
    // Port 5445 belongs to this test, or to somebody else, who keeps it open as well.
    let _listener = std::net::TcpListener::bind("127.0.0.1:5445");
    let text = run_script(&machine, &["127.0.0.1"]);
    let report = Report::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(report.value["server"]["address"], "127.0.0.1");
    assert_eq!(report.value["server"]["tcp_5445"], "open", "{text}");
}

#[test]
fn the_script_for_linux_knows_how_each_timeout_says_that_nothing_answers() {
    let _alone = alone();
    let machine = Machine::new("script-timeout");
    machine.file("proc/mounts", "");
    machine.program("bin/bash", "exit 1");
    let path = machine.0.join("bin").display().to_string();
    for (how, wanted) in [
        ("exit 124", "silent"),
        ("exit 143", "silent"),
        ("exit 1", "refused"),
        ("exit 0", "open"),
    ] {
        machine.program("bin/timeout", how);
        let with_path =
            |script: String| script.replace("PATH=$PATH:", &format!("PATH={path}:$PATH:"));
        let text = run_changed_script(&machine, &["192.0.2.1"], with_path);
        let report =
            Report::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert_eq!(report.value["server"]["tcp_5445"], wanted, "{how}");
    }
}
