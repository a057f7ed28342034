// SPDX-License-Identifier: GPL-2.0-or-later

use super::*;

/// Makes a device that has something in every table.
fn device(peer: &str) -> Device {
    let json = serde_json::json!({
        "version": "0.1.0", "interface": 1, "uptime_seconds": 11_520.0, "stopping": false,
        "listen": ["0.0.0.0:5445", "[::]:5445", "10.0.9.1:5445"],
        "missing": ["10.0.9.1:5445"],
        "allowed": ["10.0.0.1", "fe80::1%2"],
        "addresses": [
            {"address": "10.0.0.1:5445", "interface": "eth0", "link_speed": 25_000_000_000_u64, "fabric": "verbs"},
            {"address": "10.0.1.1:5445", "interface": "eth1", "link_speed": 2_500_000_000_u64, "fabric": "software"},
            {"address": "[2001:db8:1234:5678:9abc:def0:1234:5678]:49152", "link_speed": 100_000_000},
        ],
        "limits": {"connections": 4096, "undispatched": 64, "unauthenticated": 512, "workers": 1024, "memory": 8_u64 << 30},
        "totals": {"connections": 2, "undispatched": 2, "dispatching": 1, "unauthenticated": 3, "memory": 76 << 20},
        "carried": {"verbs": {"connections": 9, "inline_bytes_in": 1 << 10, "rdma_read_bytes": 1 << 10}},
        "connections": [
            {"peer": peer, "fabric": "verbs", "pid": 4_194_304, "state": "owned",
             "send_credits": 65_535, "receive_credits": 65_535,
             "inline_bytes_in": 1_023_999, "inline_bytes_out": u64::MAX,
             "rdma_read_bytes": 5_u64 << 40, "rdma_write_bytes": 0, "age_seconds": 11_000.0,
             "protection": "encrypted in messages"},
            {"peer": "10.0.0.6:1", "fabric": "software", "pid": null, "state": "offered", "age_seconds": 0.25,
             "authenticated": false},
            {"peer": "10.0.0.8:1", "fabric": "software", "pid": 102, "state": "owned", "authenticated": false},
            {"peer": "10.0.0.9:1", "fabric": "software", "pid": 103, "state": "owned", "authenticated": true,
             "protection": "signed"},
            {"peer": "10.0.0.10:1", "fabric": "software", "pid": 104, "state": "owned", "authenticated": true},
            {"peer": "10.0.0.11:1", "fabric": "software", "pid": 105, "state": "owned", "authenticated": true,
             "protection": "plain"},
            {"peer": "10.0.0.12:1", "fabric": "software", "pid": 106, "state": "owned", "authenticated": true,
             "protection": "signed", "encrypted_by": ["share"]},
            {"peer": "10.0.0.13:1", "fabric": "software", "pid": 107, "state": "owned", "authenticated": true,
             "protection": "plain", "encrypted_by": ["share in messages", "client in messages"]},
        ],
        "processes": [
            {"pid": 100, "role": "listener"},
            {"pid": 101, "role": "observer"},
            {"pid": 102, "role": "worker", "invited": true},
            {"pid": 103, "role": "worker", "invited": true},
            {"pid": 4_194_304, "role": "worker", "connections": 1, "sessions": 2,
             "memory": 76 << 20, "send_segments": 1, "bulk_segments": 1,
             "queues": [{"overflow": 3, "completions": 4, "outstanding": 5, "receive_segments": 1},
                        {"overflow": 0, "completions": 1, "outstanding": 2, "receive_segments": 4}]},
        ],
        "closes": [
            {"peer": "10.0.0.7:9", "reason": "old", "at_seconds": 0.0, "age_seconds": 1.0},
            {"peer": peer, "reason": "keepalive_timeout", "at_seconds": 11_400.0, "age_seconds": 60.0},
        ],
        "something new": {"that": "is not shown"},
    });
    serde_json::from_value(json).unwrap()
}

#[test]
fn shows_everything_that_an_administrator_asks_for() {
    let shown = device("10.0.0.5:49152").to_string();
    let lines: Vec<&str> = shown.lines().map(str::trim_end).collect();
    assert_eq!(
        lines[..13],
        [
            "Device       smbdirect 0.1.0, interface 1, up 3 h",
            "Listening    0.0.0.0:5445",
            "             [::]:5445",
            "             10.0.9.1:5445, once this machine has that address",
            "Allowed      10.0.0.1, by smbd",
            "             fe80::1%2",
            "Addresses    10.0.0.1:5445, eth0, 25 Gbit/s, verbs",
            "             10.0.1.1:5445, eth1, 2.5 Gbit/s, software",
            "             [2001:db8:1234:5678:9abc:def0:1234:5678]:49152, ?, 100 Mbit/s",
            "Connections  2 of 4096, 3 of 512 not logged in, 1 of 64 offered to smbd",
            "Workers      1 of 1024, and 2 forked for a connection; listener: process 100",
            "Memory       76.0 MiB of 8.0 GiB",
            "Carried      verbs: 2.0 KiB received, 0 B sent, on 9 connections since the start",
        ]
    );
    for row in [
        "10.0.0.5:49152         verbs 4194304 owned Em 65535/65535  1.0 MiB 16.0 EiB  5.0 TiB      0 B    3 h",
        "10.0.0.6:1             soft        - offered          0/0      0 B      0 B      0 B      0 B  0.2 s",
        "10.0.0.8:1             soft      102 owned*           0/0      0 B      0 B      0 B      0 B  0.0 s",
        "10.0.0.9:1             soft      103 owned S          0/0      0 B      0 B      0 B      0 B  0.0 s",
        "10.0.0.10:1            soft      104 owned ?          0/0      0 B      0 B      0 B      0 B  0.0 s",
        "10.0.0.11:1            soft      105 owned            0/0      0 B      0 B      0 B      0 B  0.0 s",
        "10.0.0.12:1            soft      106 owned e          0/0      0 B      0 B      0 B      0 B  0.0 s",
        "10.0.0.13:1            soft      107 owned em         0/0      0 B      0 B      0 B      0 B  0.0 s",
        "4194304 worker             1        2 76.0 MiB     1     1       5      2         7      8",
    ] {
        assert!(lines.contains(&row), "no {row:?} in\n{shown}");
    }
    assert!(!shown.contains("observer"), "of no interest");
    assert_eq!(
        lines[lines.len() - 2..],
        [
            "10.0.0.5:49152           2 min    60 s  keepalive_timeout",
            "10.0.0.7:9                 3 h   1.0 s  old",
        ],
        "the last first"
    );
}

/// Every process in another namespace has the number 0 here.
#[test]
fn processes_of_containers_are_told_from_each_other() {
    let json = serde_json::json!({
        "connections": [{"peer": "10.0.0.6:1", "worker": 7, "pid": 0, "state": "owned"}],
        "processes": [{"id": 3, "pid": 0, "role": "listener"}, {"id": 7, "pid": 0, "role": "worker"}],
    });
    let device: Device = serde_json::from_value(json).unwrap();
    let shown = device.to_string();
    assert!(shown.contains("listener: process #3"), "{shown}");
    assert!(shown.contains("     #7 owned "), "{shown}");
    assert!(shown.contains("\n     #7 worker "), "{shown}");
}

#[test]
fn fits_in_100_columns_whatever_the_address() {
    let longest = "[2001:db8:1234:5678:9abc:def0:1234:5678]:49152";
    let shown = device(longest).to_string();
    assert!(shown.contains(&format!("\n{longest}\n")));
    for line in shown.lines() {
        assert!(line.len() <= 100, "{line}");
    }
}

#[test]
fn shows_a_device_that_says_little() {
    let device: Device = serde_json::from_str("{}").unwrap();
    let shown = device.to_string();
    assert!(shown.contains("no listener"));
    assert!(!shown.contains("\n\n"), "no empty tables: {shown}");
}
