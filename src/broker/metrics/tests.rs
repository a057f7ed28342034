// SPDX-License-Identifier: GPL-2.0-or-later

use std::collections::BTreeSet;

use super::*;

/// Returns the status of a device with connections on both fabrics.
fn status() -> Status {
    let connection = |peer: &str, fabric: &str, state: &str| {
        serde_json::json!({
            "id": 1, "reactor": 0, "peer": peer, "local": null, "fabric": fabric, "worker": null, "pid": null,
            "state": state, "send_credits": 1, "receive_credits": 1, "receives_posted": 1, "inline_bytes_in": 10,
            "inline_bytes_out": 20, "rdma_read_bytes": 30, "rdma_write_bytes": 40, "messages_in": 1,
            "messages_out": 1, "invalidations_out": 0, "queued": 0, "outstanding": 0, "starved": 0,
            "authenticated": true, "age_seconds": 1.0,
        })
    };
    let process = |role: &str, invited: bool| {
        serde_json::json!({
            "id": 1, "pid": 1, "role": role, "invited": invited, "connections": 0, "sessions": 0, "memory": 0,
            "send_segments": 0, "bulk_segments": 0, "queues": [],
        })
    };
    let carried = |n: u64| {
        serde_json::json!({
            "requested": n, "connections": n + 1, "messages_in": n + 2, "messages_out": n + 3,
            "inline_bytes_in": n + 4, "inline_bytes_out": n + 5, "rdma_reads": n + 6, "rdma_read_bytes": n + 7,
            "rdma_writes": n + 8, "rdma_write_bytes": n + 9, "invalidations_out": n + 10, "buffer_waits": n + 11,
        })
    };
    serde_json::from_value(serde_json::json!({
        "version": "0.1.0", "interface": 1, "uptime_seconds": 5.0, "start_time_seconds": 1_700_000_000.25,
        "usage": {"cpu_seconds": 0.5, "open_descriptors": 9, "max_descriptors": 1024, "resident_bytes": 4096},
        "stopping": false, "listen": [], "addresses": [],
        "limits": {"connections": 4096, "undispatched": 64, "unauthenticated": 512, "workers": 1024,
                   "sessions_of_worker": 1, "memory_of_worker": 1, "memory": 8192, "queue_depth": 16},
        "totals": {"connections": 3, "undispatched": 2, "dispatching": 1, "unauthenticated": 1, "offered": 0,
                   "clients": 0, "sessions": 0, "memory": 77, "queues": 0, "registrations": 0},
        "carried": {"software": carried(100), "verbs": carried(200)},
        "connections": [
            connection("10.0.0.1:1", "software", "owned"),
            connection("10.0.0.2:1", "verbs", "owned"),
            connection("10.0.0.3:1", "verbs", "owned"),
        ],
        "processes": [process("listener", false), process("worker", true), process("worker", false)],
        "closes": [],
        "ends": {"software": {"peer": 3, "worker_gone": 1, "login_timeout": 5}},
        "refused": {"limit": 2},
        "counters": {},
    }))
    .unwrap()
}

#[test]
fn has_what_the_status_says() {
    let text = of(&status(), PerConnection::LeftOut);
    for line in [
        "smbdirect_up 1",
        "smbdirect_build_info{version=\"0.1.0\",interface=\"1\",fabrics=\"software,verbs\"} 1",
        "smbdirect_start_time_seconds 1700000000.25",
        "smbdirect_listener_attached 1",
        "smbdirect_attach_refused_total{status=\"limit\"} 2",
        "smbdirect_attach_refused_total{status=\"version\"} 0",
        "smbdirect_attach_refused_total{status=\"timed_out\"} 0",
        "smbdirect_limit{resource=\"workers\"} 1024",
        "smbdirect_used{resource=\"workers\"} 1",
        "smbdirect_limit{resource=\"undispatched\"} 64",
        "smbdirect_used{resource=\"undispatched\"} 1",
        "smbdirect_limit{resource=\"memory_bytes\"} 8192",
        "smbdirect_used{resource=\"memory_bytes\"} 77",
        "smbdirect_worker_memory_bytes 77",
        "smbdirect_connections{fabric=\"software\",state=\"fresh\"} 0",
        "smbdirect_connections{fabric=\"verbs\",state=\"owned\"} 2",
        "smbdirect_connections_accepted_total{fabric=\"software\"} 100",
        "smbdirect_connections_negotiated_total{fabric=\"verbs\"} 201",
        "smbdirect_connections_closed_total{fabric=\"software\",reason=\"peer\"} 3",
        "smbdirect_connections_closed_total{fabric=\"software\",reason=\"login_timeout\"} 5",
        "smbdirect_connections_closed_total{fabric=\"verbs\",reason=\"login_timeout\"} 0",
        "smbdirect_received_bytes_total{fabric=\"software\",via=\"message\"} 104",
        "smbdirect_received_bytes_total{fabric=\"software\",via=\"rdma\"} 107",
        "smbdirect_sent_bytes_total{fabric=\"verbs\",via=\"message\"} 205",
        "smbdirect_sent_bytes_total{fabric=\"verbs\",via=\"rdma\"} 209",
        "smbdirect_messages_total{fabric=\"verbs\",direction=\"in\"} 202",
        "smbdirect_rdma_operations_total{fabric=\"verbs\",operation=\"write\",result=\"ok\"} 208",
        "smbdirect_remote_invalidations_total{fabric=\"verbs\"} 210",
        "smbdirect_stalls_total{cause=\"worker_memory\"} 322",
        "process_cpu_seconds_total 0.5",
        "process_open_fds 9",
        "process_max_fds 1024",
        "process_resident_memory_bytes 4096",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "no {line} in\n{text}"
        );
    }
    assert!(!text.contains("peer=\""), "unbounded labels are left out");
}

#[test]
fn connections_are_counted_by_how_their_data_is_protected() {
    let mut status = status();
    status.connections[0].protection = Some("encrypted".to_owned());
    status.connections[2].encrypted_by = vec!["share in messages".to_owned()];
    // Nobody has logged in on this connection yet.
    status.connections[1].authenticated = false;
    let text = of(&status, PerConnection::LeftOut);
    for (protection, count) in [("encrypted", 1), ("unknown", 1), ("plain", 0)] {
        let line =
            format!("smbdirect_protected_connections{{protection=\"{protection}\"}} {count}");
        assert!(
            text.lines().any(|found| found == line),
            "no {line} in\n{text}"
        );
    }
    for (by, count) in [("client", 0), ("share", 1)] {
        let line = format!("smbdirect_partly_encrypted_connections{{by=\"{by}\"}} {count}");
        assert!(
            text.lines().any(|found| found == line),
            "no {line} in\n{text}"
        );
    }
}

#[test]
fn two_connections_from_one_port_to_two_addresses_have_series_of_their_own() {
    let mut status = status();
    for (connection, local) in status
        .connections
        .iter_mut()
        .zip(["192.0.2.1:445", "192.0.2.2:445"])
    {
        connection.fabric = "verbs".to_owned();
        connection.peer = "10.0.0.1:1".parse().unwrap();
        connection.local = Some(local.parse().unwrap());
    }
    let text = of(&status, PerConnection::Included);
    let of_peer = text
        .lines()
        .filter(|line| line.contains("peer=\"10.0.0.1:1\",via=\"rdma\""));
    let keys: BTreeSet<&str> = of_peer
        .filter_map(|line| line.rsplit(' ').next_back())
        .collect();
    assert_eq!(keys.len(), 4, "{text}");
}

/// The number of clients must change only digits: a scrape each second has to stay cheap with many clients.
#[test]
fn the_metrics_do_not_grow_with_the_number_of_connections() {
    let mut status = status();
    let few = of(&status, PerConnection::LeftOut);
    let one = status.connections[1].clone();
    status.connections.extend(vec![one; 1000]);
    let many = of(&status, PerConnection::LeftOut);
    assert_eq!(many.lines().count(), few.lines().count());
    // Two numbers grow from one digit to four.
    assert!(many.len() <= few.len() + 6, "{many}");
}

#[test]
fn connections_have_series_only_on_request() {
    let text = of(&status(), PerConnection::Included);
    for line in [
        "smbdirect_connection_received_bytes_total{fabric=\"verbs\",local=\"\",peer=\"10.0.0.2:1\",via=\"rdma\"} 30",
        "smbdirect_connection_sent_bytes_total{fabric=\"software\",local=\"\",peer=\"10.0.0.1:1\",via=\"message\"} 20",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "no {line} in\n{text}"
        );
    }
}

/// Checks the rules of the format that do not depend on values, and those of Prometheus' guide on names.
#[test]
fn is_well_formed() {
    let silent = of_silence();
    assert!(silent.ends_with("\nsmbdirect_up 0\n"), "{silent}");
    for text in [silent, of(&status(), PerConnection::Included)] {
        assert!(text.ends_with('\n'));
        let (mut families, mut series) = (BTreeSet::new(), BTreeSet::new());
        let mut current = "";
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').unwrap();
                assert!(help.ends_with('.'), "{help}");
                assert!(families.insert(name), "{name} twice");
                let (same, kind) = lines
                    .next()
                    .and_then(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
                    .unwrap();
                assert_eq!(name, same);
                assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
                current = name;
                continue;
            }
            let (key, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert!(series.insert(key), "{key} twice");
            assert_eq!(key.split('{').next(), Some(current), "{line}");
        }
    }
}

#[test]
fn the_dashboard_and_the_alerts_use_what_there_is() {
    let dashboard = include_str!("../../../contrib/smbdirect.grafana.json");
    let json: serde_json::Value = serde_json::from_str(dashboard).unwrap();
    let targets = json["panels"].as_array().unwrap().iter();
    let targets = targets.flat_map(|panel| panel["targets"].as_array().unwrap());
    let shown = targets.map(|target| target["expr"].as_str().unwrap());
    let alerts = include_str!("../../../contrib/smbdirect.rules.yml").lines();
    let alerts = alerts.filter_map(|line| line.trim_start().strip_prefix("expr: "));
    for (least, expressions) in [(15, shown.collect::<Vec<_>>()), (6, alerts.collect())] {
        let is_other = |c: char| !c.is_ascii_alphanumeric() && c != '_';
        let words = expressions.iter().flat_map(|e| e.split(is_other));
        let is_metric = |w: &&str| w.starts_with("smbdirect_") || w.starts_with("process_");
        let names: BTreeSet<&str> = words.filter(is_metric).collect();
        assert!(names.len() > least, "{names:?}");
        let text = of(&status(), PerConnection::LeftOut);
        for name in names {
            assert!(text.contains(&format!("\n# TYPE {name} ")), "no {name}");
        }
    }
}

#[test]
fn the_ends_that_alerts_look_for_have_names_that_exist() {
    let described = include_str!("../../../docs/counters.md");
    for reason in TIMEOUTS {
        assert!(described.contains(&format!("| `{reason}` |")), "{reason}");
    }
}

/// Checks that what a device does not report, because it is older or not a process, is left out or 0.
#[test]
fn a_device_that_says_less_has_fewer_series() {
    let mut status = status();
    (status.usage, status.start_time_seconds) = (None, None);
    status.refused.clear();
    status.ends.clear();
    let text = of(&status, PerConnection::LeftOut);
    assert!(
        !text.contains("\nsmbdirect_attach_refused_total{"),
        "{text}"
    );
    assert!(
        !text.contains("\nsmbdirect_connections_closed_total{"),
        "{text}"
    );
    status.carried.clear();
    status.connections.clear();
    let text = of(&status, PerConnection::LeftOut);
    assert!(!text.contains("process_"), "{text}");
    assert!(!text.contains("start_time"), "{text}");
    assert!(text.contains("\nsmbdirect_used{"), "{text}");
}
