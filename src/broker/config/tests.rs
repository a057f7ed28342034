// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests, for each value of a configuration, that an error names the value if it is out of range.

use super::*;
use crate::units::Credits;

/// Returns why the defaults with one change are refused.
fn refusal(change: impl FnOnce(&mut Config)) -> OutOfRange {
    let mut config = Config::default();
    change(&mut config);
    config.validate().unwrap_err()
}

#[test]
fn the_defaults_are_legal_on_any_machine() {
    for reactors in [1, 8, 64] {
        let config = Config {
            reactors,
            ..Config::default()
        };
        assert_eq!(config.validate(), Ok(()));
    }
    let config = Config::default();
    assert!((1..=8).contains(&config.reactors));
    assert!(config.memory_limit >= config.least_memory());
}

#[test]
fn numbers_out_of_range_are_named() {
    type Change = fn(&mut Config, usize);
    let cases: [(&str, Change, [usize; 2]); 7] = [
        ("reactors", |c, n| c.reactors = n, [0, 65]),
        ("max_connections", |c, n| c.max_connections = n, [0, 65_537]),
        (
            "max_unnegotiated",
            |c, n| c.max_unnegotiated = n,
            [0, 65_537],
        ),
        (
            "max_unnegotiated_per_source",
            |c, n| c.max_unnegotiated_per_source = n,
            [0, 65_537],
        ),
        (
            "max_undispatched",
            |c, n| c.max_undispatched = n,
            [0, 65_537],
        ),
        ("max_workers", |c, n| c.max_workers = n, [0, 65_537]),
        ("max_sessions", |c, n| c.max_sessions = n, [0, 65_537]),
    ];
    for (key, change, [low, high]) in cases {
        for (bad, legal) in [(low, low + 1), (high, high - 1)] {
            let error = refusal(|config| change(config, bad));
            assert_eq!((error.key.as_str(), error.value), (key, bad.to_string()));
            assert_eq!(error.allowed, format!("{} to {}", low + 1, high - 1));
            let mut config = Config {
                // 64 reactors may need more memory than this machine's default allows.
                memory_limit: 1 << 40,
                ..Config::default()
            };
            change(&mut config, legal);
            assert_eq!(config.validate(), Ok(()), "{key} {legal}");
        }
    }
}

#[test]
fn times_out_of_range_are_named() {
    type Change = fn(&mut Config, Duration);
    let timers: [(&str, Change); 9] = [
        ("login_timeout", |c, t| c.login_timeout = t),
        ("first_request_timeout", |c, t| c.first_request_timeout = t),
        ("claim_timeout", |c, t| c.claim_timeout = t),
        ("progress_timeout", |c, t| c.progress_timeout = t),
        ("acceptor.negotiation_timeout", |c, t| {
            c.acceptor.negotiation_timeout = t
        }),
        ("acceptor.idle_timeout", |c, t| c.acceptor.idle_timeout = t),
        ("acceptor.keepalive_timeout", |c, t| {
            c.acceptor.keepalive_timeout = t
        }),
        ("acceptor.credit_timeout", |c, t| {
            c.acceptor.credit_timeout = t
        }),
        ("acceptor.message_timeout", |c, t| {
            c.acceptor.message_timeout = t
        }),
    ];
    for (key, change) in timers {
        for bad in [Duration::ZERO, Duration::from_secs(3601)] {
            let error = refusal(|config| change(config, bad));
            assert_eq!(
                (error.key.as_str(), error.allowed.as_str()),
                (key, "1 ms to 1 h")
            );
        }
    }
    let error = refusal(|config| config.busy_poll = Duration::from_millis(11));
    assert_eq!(
        error.to_string(),
        "busy_poll is 11 ms, and must be 0 s to 10 ms"
    );
    let error = refusal(|config| config.drain_timeout = Duration::from_secs(7200));
    assert_eq!(
        error.to_string(),
        "drain_timeout is 2 h, and must be 0 s to 1 h"
    );
    let mut config = Config::default();
    (config.busy_poll, config.drain_timeout) = (Duration::ZERO, Duration::ZERO);
    assert_eq!(config.validate(), Ok(()));
}

#[test]
fn addresses_paths_and_users_are_checked() {
    let address: Listen = "10.0.0.1:5445".parse().unwrap();
    assert_eq!(refusal(|c| c.listen.clear()).allowed, "1 to 64 addresses");
    assert_eq!(refusal(|c| c.listen = vec![address; 65]).value, "65");
    let error = refusal(|c| c.listen = vec![address; 2]);
    assert_eq!(
        (error.key.as_str(), error.value.as_str()),
        ("listen", "10.0.0.1:5445 twice")
    );
    for link_speed in [0, 999_999, 100_000_000_000_001] {
        let link_speed = Some(link_speed);
        let error = refusal(|c| {
            c.listen = vec![Listen {
                link_speed,
                ..address
            }]
        });
        assert_eq!(error.allowed, "1 Mbit/s to 100 Tbit/s");
        assert!(
            error
                .value
                .starts_with("10.0.0.1:5445 with a link_speed of")
        );
    }
    let any_port = Config {
        listen: vec!["127.0.0.1:0".parse().unwrap(); 2],
        ..Config::default()
    };
    assert_eq!(any_port.validate(), Ok(()));
    for path in ["", "control", &format!("/{}", "x".repeat(100)), "/a\0b"] {
        let error = refusal(|c| c.control = path.into());
        assert_eq!(error.key, "control", "{path}");
        let error = refusal(|c| c.metrics_socket = Some(path.into()));
        assert_eq!(error.key, "metrics.socket", "{path}");
    }
    let control = Config::default().control;
    for taken in [control.clone(), device::status_path(&control)] {
        let error = refusal(|c| c.metrics_socket = Some(taken));
        assert!(error.allowed.starts_with("another path than"), "{error}");
    }
    let error = refusal(|c| c.status_group = "no such group".to_owned());
    let expected =
        "status_group is \"no such group\", and must be the name or the number of a group";
    assert!(error.to_string().starts_with(expected), "{error}");
    for (group, id) in [("root", 0), ("4242", 4242)] {
        let config = Config {
            status_group: group.to_owned(),
            ..Config::default()
        };
        assert_eq!(
            (config.validate(), config.status_group_id()),
            (Ok(()), Some(id))
        );
    }
}

#[test]
fn root_and_members_can_give_sockets_to_a_group() {
    let of = |group: &str| Config {
        status_group: group.to_owned(),
        ..Config::default()
    };
    let own = rustix::process::getegid().as_raw().to_string();
    assert!(!of("").lacks_status_group() && !of(&own).lacks_status_group());
    let is_root = rustix::process::geteuid().is_root();
    assert_eq!(of("4242").lacks_status_group(), !is_root);
}

#[test]
fn what_smb_direct_does_not_allow_is_named_with_its_value() {
    type Change = fn(&mut proto::Config);
    let cases: [(&str, Change, &str, &str); 6] = [
        (
            "receive_credit_max",
            |a| a.receive_credit_max = Credits(0),
            "0",
            "at least 1",
        ),
        (
            "send_credit_target",
            |a| a.send_credit_target = Credits(0),
            "0",
            "at least 1",
        ),
        (
            "max_send_size",
            |a| a.max_send_size = 127,
            "127 B",
            "at least 128 bytes",
        ),
        (
            "max_receive_size",
            |a| a.max_receive_size = 65_537,
            "65537 B",
            "at most 64 KiB",
        ),
        (
            "max_fragmented_size",
            |a| a.max_fragmented_size = 64 << 10,
            "64 KiB",
            "at least 131,072 bytes",
        ),
        (
            "max_read_write_size",
            |a| a.max_read_write_size = 0,
            "0 B",
            "at least 1 byte",
        ),
    ];
    for (name, change, value, allowed) in cases {
        let error = refusal(|config| change(&mut config.acceptor));
        assert_eq!(error.key, format!("acceptor.{name}"));
        assert_eq!(
            (error.value.as_str(), error.allowed.as_str()),
            (value, allowed)
        );
    }
}

#[test]
fn buffers_hold_the_largest_message_and_transfer() {
    let error = refusal(|config| config.memory.send.longest_run = 1151);
    assert_eq!(
        error.to_string(),
        "memory.send.longest_run is 1151, and must be at least 1152, for a buffer to hold \
         acceptor.max_fragmented_size of 9 MiB"
    );
    let error = refusal(|config| config.acceptor.max_fragmented_size = (9 << 20) + 1);
    assert_eq!(error.key, "memory.send.longest_run");
    let error = refusal(|config| config.memory.receive.longest_run = 1);
    assert_eq!(error.key, "memory.receive.longest_run");
    let error = refusal(|config| config.acceptor.max_read_write_size = (8 << 20) + 1);
    assert_eq!(
        error.to_string(),
        "memory.bulk.longest_run is 128, and must be at least 129, for a buffer to hold \
         acceptor.max_read_write_size of 8388609 B"
    );
}

#[test]
fn shapes_that_are_none_are_named() {
    type Change = fn(&mut RegionShape);
    let cases: [(&str, Change); 9] = [
        ("unit_length", |s| s.unit_length = 0),
        ("unit_length", |s| s.unit_length = 4095),
        ("units_per_segment", |s| s.units_per_segment = 0),
        ("units_per_segment", |s| s.units_per_segment = 65_537),
        ("units_per_segment", |s| {
            (s.unit_length, s.units_per_segment) = (1 << 20, 2049)
        }),
        ("longest_run", |s| s.longest_run = 0),
        ("longest_run", |s| s.longest_run = s.units_per_segment + 1),
        ("max_segments", |s| s.max_segments = 0),
        ("max_segments", |s| s.max_segments = 65_537),
    ];
    for (name, change) in cases {
        type Of = fn(&mut MemParams) -> &mut RegionShape;
        let regions: [(&str, Of); 3] = [
            ("send", |memory| &mut memory.send),
            ("bulk", |memory| &mut memory.bulk),
            ("receive", |memory| &mut memory.receive),
        ];
        for (region, of) in regions {
            let error = refusal(|config| change(of(&mut config.memory)));
            assert_eq!(error.key, format!("memory.{region}.{name}"));
        }
    }
}

#[test]
fn memory_is_enough_for_one_worker() {
    let config = Config {
        reactors: 2,
        ..Config::default()
    };
    let least = 2 * ((9 << 20) + (8 << 20) + 2 * (9 << 20));
    assert_eq!(config.least_memory(), least);
    for key in ["memory.limit", "memory_limit"] {
        let mut config = config.clone();
        for limit in [least, least - 1] {
            match key {
                "memory_limit" => config.memory_limit = limit,
                _ => config.memory.limit = limit,
            }
            let error = config.validate().err();
            let named = (limit < least).then_some(key);
            assert_eq!(error.as_ref().map(|error| error.key.as_str()), named);
        }
    }
}

#[test]
fn queues_have_a_power_of_two_of_entries() {
    for bad in [0, 8, 100, 1 << 17] {
        assert_eq!(
            refusal(|config| config.queue_depth = bad).key,
            "queue_depth"
        );
    }
    for depth in [16, 1 << 16] {
        let config = Config {
            queue_depth: depth,
            ..Config::default()
        };
        assert_eq!(config.validate(), Ok(()));
    }
}
