// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests which keys change, which need a restart, and which addresses come and go.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::time::{Duration, Instant};

use super::listening::{Difference, difference, overlap};
use super::*;
use crate::broker::{Broker, Config, iwarp_config};
use crate::fabric::{FabricKind, iwarp};

fn settings(text: &str) -> Settings {
    Settings::parse(text).unwrap()
}

fn plan(before: &str, wanted: &str) -> Plan {
    Plan::new(&settings(before), &settings(wanted))
}

fn shown<T: ToString>(lines: &[T]) -> Vec<String> {
    lines.iter().map(ToString::to_string).collect()
}

/// A new key has to be classified here before it can be used.
#[test]
fn every_key_of_a_configuration_is_classified_once() {
    let table = table(&Settings::default());
    let keys: Vec<String> = flat(&table).into_keys().collect();
    let classified: BTreeSet<String> = KEYS.iter().map(|(key, _)| (*key).to_owned()).collect();
    assert_eq!(classified.len(), KEYS.len(), "a key occurs twice");
    assert_eq!(classified, keys.into_iter().collect());
}

/// A valid value for each key that differs from the default, and needs no other value to differ.
const OTHERS: &[(&str, &str)] = &[
    ("log", "\"debug\""),
    ("log_format", "\"json\""),
    ("listen", "[\"127.0.0.9\"]"),
    ("fabric", "\"software\""),
    ("control", "\"/tmp/control\""),
    ("status_group", "\"0\""),
    ("reactors", "63"),
    ("busy_poll", "\"7 us\""),
    ("max_connections", "7"),
    ("max_unnegotiated", "7"),
    ("max_unnegotiated_per_source", "7"),
    ("max_unauthenticated", "7"),
    ("max_undispatched", "7"),
    ("gateways", "[\"192.0.2.1\"]"),
    ("max_workers", "7"),
    ("max_sessions", "7"),
    ("memory_limit", "\"15 TiB\""),
    ("memory_idle_timeout", "\"7 s\""),
    ("first_request_timeout", "\"7 s\""),
    ("login_timeout", "\"7 s\""),
    ("claim_timeout", "\"7 s\""),
    ("progress_timeout", "\"7 s\""),
    ("queue_depth", "512"),
    ("drain_timeout", "\"7 s\""),
    ("metrics.listen", "\"127.0.0.1:7\""),
    ("metrics.socket", "\"/run/smbdirect/metrics\""),
    ("iwarp.crc", "true"),
    ("acceptor.receive_credit_max", "7"),
    ("acceptor.send_credit_target", "7"),
    ("acceptor.max_send_size", "\"2 KiB\""),
    ("acceptor.max_receive_size", "\"2 KiB\""),
    ("acceptor.max_fragmented_size", "\"1 MiB\""),
    ("acceptor.max_read_write_size", "\"1 MiB\""),
    ("acceptor.negotiation_timeout", "\"7 s\""),
    ("acceptor.idle_timeout", "\"7 s\""),
    ("acceptor.keepalive_timeout", "\"7 s\""),
    ("acceptor.credit_timeout", "\"7 s\""),
    ("acceptor.message_timeout", "\"7 s\""),
    ("memory.limit", "\"15 TiB\""),
    ("memory.send.unit_length", "\"12 KiB\""),
    ("memory.send.units_per_segment", "2047"),
    ("memory.send.longest_run", "1153"),
    ("memory.send.max_segments", "7"),
    ("memory.bulk.unit_length", "\"68 KiB\""),
    ("memory.bulk.units_per_segment", "1023"),
    ("memory.bulk.longest_run", "129"),
    ("memory.bulk.max_segments", "7"),
    ("memory.receive.unit_length", "\"12 KiB\""),
    ("memory.receive.units_per_segment", "2047"),
    ("memory.receive.longest_run", "1153"),
    ("memory.receive.max_segments", "7"),
];

/// Every other key keeps its value: a plan cannot put one value into another's place.
#[test]
fn each_key_changes_alone_or_is_refused_by_name() {
    let before = Settings::default();
    let listed: BTreeSet<&str> = OTHERS.iter().map(|(key, _)| *key).collect();
    assert_eq!(listed, KEYS.iter().map(|(key, _)| *key).collect());
    for (key, value) in OTHERS {
        let wanted = settings(&format!("{key} = {value}"));
        assert_ne!(wanted, before, "{key} = {value} is the default");
        let plan = Plan::new(&before, &wanted);
        let (changes, refusals) = (shown(plan.changes()), shown(plan.refusals()));
        match applies(key) {
            AtRestart => {
                assert_eq!(plan.settings(), &before, "{key}");
                assert_eq!((changes.len(), refusals.len()), (0, 1), "{key}");
                let says = format!("{key} = ");
                assert!(refusals[0].starts_with(&says), "{}", refusals[0]);
                assert!(
                    refusals[0].contains(" needs a restart; "),
                    "{}",
                    refusals[0]
                );
            }
            AtOnce | NewConnections => {
                assert_eq!(plan.settings(), &wanted, "{key}");
                assert_eq!(refusals, [""; 0], "{key}");
                // The broker itself says which addresses it has added.
                let changed = plan.changes().iter().map(|change| change.key.as_str());
                let expected = Some(*key).filter(|key| *key != "listen");
                assert!(changed.eq(expected), "{key}: {changes:?}");
            }
        }
    }
}

#[test]
fn the_lines_name_the_key_and_both_values() {
    let plan = plan(
        "log = \"info\"\nlogin_timeout = \"45 s\"\nreactors = 2",
        "log = \"debug\"\nlogin_timeout = \"1 min\"\nreactors = 4\niwarp.crc = true\ngateways = [\"192.0.2.1\"]",
    );
    assert_eq!(
        shown(plan.changes()),
        [
            "log: info -> debug",
            "gateways: [] -> [\"192.0.2.1\"]",
            "login_timeout: 45 s -> 1 min",
            "iwarp.crc: false -> true, for new connections",
        ]
    );
    let refusals = shown(plan.refusals());
    assert_eq!(
        refusals,
        ["reactors = 4 needs a restart; 2 stays in effect"]
    );
    let again = Plan::new(plan.settings(), plan.settings());
    assert_eq!((again.changes().len(), again.refusals().len()), (0, 0));
}

/// The buffers of the running broker are too small for such messages, and their shape cannot change.
#[test]
fn a_value_that_needs_others_to_change_at_a_restart_waits_for_it_too() {
    let plan = plan(
        "",
        "max_workers = 7\nacceptor.max_fragmented_size = \"18 MiB\"\nacceptor.idle_timeout = \"7 s\"",
    );
    let acceptor = &plan.settings().broker.acceptor;
    assert_eq!(acceptor.max_fragmented_size, 9 << 20);
    assert_eq!(acceptor.idle_timeout.as_secs(), 7);
    assert_eq!(plan.settings().broker.max_workers, 7);
    assert_eq!(plan.settings().validate(), Ok(()));
    let refusals = shown(plan.refusals());
    let found = refusals.iter().find(|line| line.starts_with("acceptor."));
    let line = found.unwrap_or_else(|| panic!("{refusals:?}"));
    let says =
        "acceptor.max_fragmented_size = 18 MiB needs a restart; 9 MiB stays in effect (memory.";
    assert!(line.starts_with(says), "{line}");
    // The units that such messages need.
    let units = refusals.iter().filter(|line| line.contains("unit_length"));
    assert_eq!(units.count(), 2, "{refusals:?}");
}

#[test]
fn the_fabric_of_an_address_in_use_stays() {
    let plan = plan(
        "listen = [\"127.0.0.1\", {address = \"127.0.0.2\", fabric = \"software\"}]",
        "listen = [{address = \"127.0.0.1\", fabric = \"verbs\", link_speed = \"1 Gbit/s\"}, \"127.0.0.2\", \"127.0.0.3\"]",
    );
    assert_eq!(
        shown(plan.refusals()),
        [
            "fabric of 127.0.0.1:5445 = verbs needs a restart; auto stays in effect",
            "fabric of 127.0.0.2:5445 = auto needs a restart; software stays in effect",
        ]
    );
    let [first, second, third] = plan.settings().broker.listen[..] else {
        panic!("{plan:?}");
    };
    assert_eq!(
        (first.fabric, first.link_speed),
        (None, Some(1_000_000_000))
    );
    assert_eq!(second.fabric, Some(FabricKind::Software));
    assert_eq!(third.address, "127.0.0.3:5445".parse().unwrap());
}

const SOFTWARE: FabricKind = FabricKind::Software;
const VERBS: FabricKind = FabricKind::Verbs;

fn entries(texts: &[&str]) -> Vec<Listen> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn listening(all: &[(&str, FabricKind)]) -> Vec<Listening> {
    let each = all.iter().map(|(text, fabric)| {
        let listen: Listen = text.parse().unwrap();
        let mut at = Listen {
            fabric: Some(*fabric),
            ..listen
        };
        if at.address.port() == 0 {
            at.address.set_port(1234);
        }
        Listening {
            asked: listen.address,
            at,
        }
    });
    each.collect()
}

/// Returns the addresses that stay, end and begin.
fn differ(
    now: &[(&str, FabricKind)],
    before: &[&str],
    wanted: &[&str],
    default: Option<FabricKind>,
) -> [Vec<String>; 3] {
    let (before, wanted) = (entries(before), entries(wanted));
    let Difference { stay, end, begin } = difference(&listening(now), (&before, &wanted), default);
    let asked = |all: Vec<Listening>| all.iter().map(|it| it.asked.to_string()).collect();
    let begin = begin.iter().map(|entry| entry.address.to_string());
    [asked(stay), asked(end), begin.collect()]
}

#[test]
fn addresses_begin_and_end_one_by_one() {
    let [stay, end, begin] = differ(
        &[("10.0.0.1", SOFTWARE), ("10.0.0.2", VERBS)],
        &["10.0.0.1", "10.0.0.2"],
        &["10.0.0.3", "10.0.0.1"],
        None,
    );
    assert_eq!(stay, ["10.0.0.1:5445"]);
    assert_eq!(end, ["10.0.0.2:5445"]);
    assert_eq!(begin, ["10.0.0.3:5445"]);
}

#[test]
fn an_unspecified_address_keeps_what_it_was_placed_on() {
    let all = [
        ("10.0.0.1", VERBS),
        ("0.0.0.0", SOFTWARE),
        ("[::]", SOFTWARE),
    ];
    let both = &["0.0.0.0", "[::]"];
    let [stay, end, begin] = differ(&all, both, &["0.0.0.0"], None);
    assert_eq!(stay, ["10.0.0.1:5445", "0.0.0.0:5445"]);
    assert_eq!(end, ["[::]:5445"]);
    assert_eq!(begin, [""; 0]);
    // Beside an iWARP device, software has the other addresses one by one.
    let all = [("10.1.0.1", VERBS), ("10.2.0.1", SOFTWARE)];
    let [stay, end, begin] = differ(&all, &["0.0.0.0"], &["0.0.0.0", "10.3.0.1"], None);
    assert_eq!(stay, ["10.1.0.1:5445", "10.2.0.1:5445"]);
    assert_eq!(
        (end.len(), begin.as_slice()),
        (0, &["10.3.0.1:5445".to_owned()][..])
    );
    let [stay, end, begin] = differ(&all, &["0.0.0.0"], &["10.2.0.1"], None);
    assert_eq!(
        (stay.as_slice(), end.as_slice()),
        (
            &[][..],
            &["10.1.0.1:5445".to_owned(), "10.2.0.1:5445".to_owned()][..]
        )
    );
    assert_eq!(begin, ["10.2.0.1:5445"], "it is placed anew, and found");
}

#[test]
fn an_address_within_an_unspecified_one_ends_without_it_and_begins_with_it() {
    let all = [("0.0.0.0", SOFTWARE), ("10.0.0.1", SOFTWARE)];
    let [stay, end, begin] = differ(&all, &["0.0.0.0", "10.0.0.1"], &["0.0.0.0"], None);
    assert_eq!(
        (stay.as_slice(), end.as_slice()),
        (
            &["0.0.0.0:5445".to_owned()][..],
            &["10.0.0.1:5445".to_owned()][..]
        )
    );
    assert_eq!(begin, [""; 0]);
    let [stay, end, begin] = differ(&all[1..], &["10.0.0.1"], &["0.0.0.0"], None);
    assert_eq!(
        (stay.len(), end.as_slice()),
        (0, &["10.0.0.1:5445".to_owned()][..])
    );
    assert_eq!(begin, ["0.0.0.0:5445"]);
    // A device's address does not belong to a software address.
    let all = [("0.0.0.0", SOFTWARE), ("10.0.0.1", VERBS)];
    let before = &["0.0.0.0", "10.0.0.1"];
    let [_, end, _] = differ(&all, before, &["0.0.0.0"], Some(SOFTWARE));
    assert_eq!(end, ["10.0.0.1:5445"]);
    let [_, end, _] = differ(&all, before, &["0.0.0.0"], None);
    assert_eq!(end, [""; 0]);
}

#[test]
fn each_free_port_counts() {
    let now = [("127.0.0.1:0", SOFTWARE), ("127.0.0.1:0", SOFTWARE)];
    let one = &["127.0.0.1:0"][..];
    let two = &["127.0.0.1:0", "127.0.0.1:0"][..];
    let [stay, end, begin] = differ(&now, two, one, None);
    assert_eq!((stay.len(), end.len(), begin.len()), (1, 1, 0));
    let [stay, end, begin] = differ(&now[..1], one, two, None);
    assert_eq!((stay.len(), end.len(), begin.len()), (1, 0, 1));
}

#[test]
fn what_stays_has_the_speed_of_its_entry() {
    let now = listening(&[("10.0.0.1", SOFTWARE), ("10.1.0.1", VERBS)]);
    let before = entries(&["10.0.0.1", "0.0.0.0"]);
    let mut wanted = before.clone();
    wanted[0].link_speed = Some(1_000_000);
    wanted[1].link_speed = Some(2_000_000);
    let Difference { stay, .. } = difference(&now, (&before, &wanted), None);
    let speeds: Vec<_> = stay.iter().map(|it| it.at.link_speed).collect();
    assert_eq!(speeds, [Some(1_000_000), Some(2_000_000)]);
}

#[test]
fn only_addresses_that_share_a_port_can_be_taken_for_those_of_others() {
    for (one, other, expected) in [
        ("10.0.0.1:1", "10.0.0.1:1", true),
        ("0.0.0.0:1", "10.0.0.1:1", true),
        ("10.0.0.1:1", "0.0.0.0:1", true),
        ("10.0.0.1:1", "10.0.0.1:2", false),
        ("10.0.0.1:1", "10.0.0.2:1", false),
        ("[::]:1", "10.0.0.1:1", false),
        ("127.0.0.1:0", "127.0.0.1:0", false),
    ] {
        let [one, other] = [one, other].map(|text| text.parse().unwrap());
        assert_eq!(overlap(one, other), expected, "{one} {other}");
    }
}

/// Returns whether any socket of this machine listens on an address, whatever its port.
fn is_listened_on(address: Ipv4Addr) -> bool {
    // The kernel shows the address as the number that its bytes are in memory.
    let shown = format!("{:08X}:", u32::from_ne_bytes(address.octets()));
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let mut lines = table.lines().map(|line| line.split_whitespace());
    // The columns are: number, local address, remote address, state; 0A is LISTEN.
    lines.any(|mut line| {
        let is_local = line.nth(1).is_some_and(|local| local.starts_with(&shown));
        is_local && line.nth(1) == Some("0A")
    })
}

#[test]
fn a_reactor_that_is_late_to_listen_on_a_free_port_stops_again() {
    let name = format!("smbdirect-late-{}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    let mut builder = std::fs::DirBuilder::new();
    builder.mode(0o700).create(&directory).unwrap();
    let config = Config {
        listen: vec![Listen::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))],
        control: directory.join("control"),
        reactors: 2,
        ..Config::default()
    };
    let iwarp = iwarp_config(&config);
    let fabric = move |_| iwarp::Iwarp::new(iwarp).map_err(std::io::Error::other);
    let broker = Broker::start(config, fabric).unwrap();
    // No other test uses this address.
    let address = Ipv4Addr::new(127, 77, 3, 9);
    let listen = Listen::from(SocketAddr::from((address, 0)));
    let listen = Listen {
        fabric: Some(FabricKind::Software),
        ..listen
    };
    let mut may_listen = |_: SocketAddr| Ok(());
    let by = Instant::now() + Duration::from_secs(30);
    let began = broker.listen_as_well(listen, (&mut may_listen, by));
    assert_eq!(began.unwrap().asked, listen.address);
    assert!(is_listened_on(address), "the test sees listeners");
    let address = Ipv4Addr::new(127, 77, 3, 10);
    let listen = Listen {
        address: SocketAddr::from((address, 0)),
        ..listen
    };
    // Nothing answers by a time that has passed, unless it is quicker than this thread.
    let by = Instant::now() - Duration::from_secs(1);
    if broker
        .listen_as_well(listen, (&mut may_listen, by))
        .is_err()
    {
        // The reactors answer after they have obeyed.
        broker.status().unwrap();
        assert!(!is_listened_on(address));
    }
    drop(broker);
    std::fs::remove_dir_all(&directory).unwrap();
}
