// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests the faults of [`Fault`]. The suite itself uses [`Fault`] only without faults, or with delays.

use std::time::Duration;

use smbdirect::fabric::fault::{Cut, Fault, FaultPlan};
use smbdirect::fabric::loopback::{Loopback, LoopbackConfig};
use smbdirect::fabric::{CloseReason, Event, Fabric, ReadLimits, WrError};
use smbdirect::units::Instant;

use crate::connections::load;
use crate::harness::{Pair, Rig, World};

/// Number of operations of a pair before the load, which is also the number of their completions.
const BEFORE: u64 = 2;
/// Number of operations of the load, which is also the number of their completions.
const LOAD: u64 = 2 * (20 + 20 + 20 + 10);

fn loaded(name: &str, plan: FaultPlan) -> (World<Rig>, Pair) {
    let inner = Loopback::new(LoopbackConfig::default()).unwrap();
    let rig = Rig::in_virtual_time(format!("{name} {plan:?}"), Fault::new(inner, plan));
    let mut w = World::new(rig);
    let pair = w.pair();
    load(&mut w, pair);
    (w, pair)
}

/// Waits for the end of a connection. Returns the reason that the end with the fault reports, and the reason that the
/// other end reports.
fn hit(w: &mut World<Rig>, pair: Pair) -> (CloseReason, CloseReason) {
    let (client, server) = (w.closes(pair.client), w.closes(pair.server));
    if client == CloseReason::Injected {
        (client, server)
    } else {
        (server, client)
    }
}

#[test]
fn a_cut_at_any_operation_ends_the_connection_and_loses_no_completion() {
    for at in BEFORE + 1..=BEFORE + LOAD {
        for delay in [Duration::ZERO, Duration::from_micros(100)] {
            for (cut, other_end) in [
                (Cut::Close, CloseReason::Peer),
                (Cut::Reset, CloseReason::Injected),
            ] {
                let plan = FaultPlan {
                    seed: at,
                    delay,
                    cut: Some((at, cut)),
                    ..FaultPlan::default()
                };
                let (mut w, pair) = loaded("cut", plan);
                assert_eq!(hit(&mut w, pair), (CloseReason::Injected, other_end));
                let next = w.pair();
                w.works(next);
                w.finish();
            }
        }
    }
}

#[test]
fn after_a_reset_nothing_more_succeeds_at_either_end() {
    let plan = FaultPlan {
        cut: Some((BEFORE + LOAD, Cut::Reset)),
        ..FaultPlan::default()
    };
    let (mut w, pair) = loaded("reset", plan);
    hit(&mut w, pair);
    let successes = w
        .log()
        .iter()
        .filter(|(_, event)| matches!(event, Event::Completion { result: Ok(()), .. }));
    assert_eq!(successes.count() as u64, BEFORE);
    w.finish();
}

#[test]
fn any_completion_may_fail_and_ends_its_connection() {
    for at in BEFORE + 1..=BEFORE + LOAD {
        for delay in [Duration::ZERO, Duration::from_micros(100)] {
            let plan = FaultPlan {
                seed: at,
                delay,
                fail_completion: Some(at),
                ..FaultPlan::default()
            };
            let (mut w, pair) = loaded("fail", plan);
            // If no message comes for a receive, the receive completes only when the connection ends.
            w.go_on(100);
            w.close(pair.client);
            w.closes(pair.client);
            w.closes(pair.server);
            let failed = w.log().iter().filter(|(_, event)| {
                matches!(
                    event,
                    Event::Completion {
                        result: Err(WrError::Injected),
                        ..
                    }
                )
            });
            // 20 of the receives of the load get no message.
            let expected = u64::from(at <= BEFORE + LOAD - 20);
            assert_eq!(failed.count() as u64, expected, "{plan:?}");
            w.finish();
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_events_and_another_seed_another_order() {
    let run = |seed| {
        let plan = FaultPlan {
            seed,
            delay: Duration::from_millis(1),
            ..FaultPlan::default()
        };
        let (mut w, pair) = loaded("seed", plan);
        w.go_on(1000);
        w.close(pair.server);
        w.closes(pair.client);
        let log = format!("{:?}", w.log());
        w.finish();
        log
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn an_event_comes_within_its_delay_and_poll_timeout_says_when() {
    let delay = Duration::from_secs(1);
    let plan = FaultPlan {
        seed: 5,
        delay,
        ..FaultPlan::default()
    };
    let mut fabric = Fault::new(Loopback::new(LoopbackConfig::default()).unwrap(), plan);
    let mut now = Instant::from_nanos(77);
    let mut events = Vec::new();
    for _ in 0..100 {
        let nobody = "127.0.0.1:9".parse().unwrap();
        let conn = fabric.connect(nobody, ReadLimits::default()).unwrap();
        let start = now;
        events.clear();
        fabric.poll(now, &mut events).unwrap();
        assert_eq!(events, [], "only one event in a billion comes at once");
        now = fabric.poll_timeout().unwrap();
        assert!(now > start && now - start <= delay);
        fabric
            .poll(Instant::from_nanos(now.as_nanos() - 1), &mut events)
            .unwrap();
        assert_eq!(events, []);
        fabric.poll(now, &mut events).unwrap();
        assert_eq!(
            events,
            [Event::Closed {
                conn,
                reason: CloseReason::Refused
            }]
        );
        assert_eq!(fabric.poll_timeout(), None);
    }
}
