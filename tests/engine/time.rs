// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests what the time limits end.

use std::time::Duration;

use smbdirect::device::abi::{event, op};
use smbdirect::engine::shard::Host;

use crate::scene::Scene;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn there_are_time_limits_for_the_first_request_for_the_claim_and_for_the_login() {
    for (seconds, name) in [
        (20, "first_request_timeout"),
        (30, "claim_timeout"),
        (60, "login_timeout"),
    ] {
        let mut scene = Scene::new();
        let _listener = scene.listener();
        let worker = scene.worker_of(2);
        let client = match name {
            "first_request_timeout" => scene.connect(0),
            "claim_timeout" => scene.client(0, 1),
            _ => scene.client(0, 2),
        };
        worker.completions();
        scene.pass(SECOND * (seconds - 1));
        assert!(scene.ends.is_empty(), "{name}");
        scene.pass(SECOND * 2);
        assert_eq!(scene.ends, [name]);
        assert!(scene.is_closed(&client));
        scene.leaves_nothing();
    }
}

#[test]
fn a_client_that_has_logged_in_stays() {
    let mut scene = Scene::new();
    let (client, _, _) = scene.pair(1);
    scene.pass(SECOND * 3600);
    assert!(!scene.is_closed(&client));
    scene.leaves_nothing();
}

#[test]
fn a_shard_that_stops_waits_for_requests_under_way() {
    let mut scene = Scene::new();
    let (client, worker, conn) = scene.pair(1);
    scene.send(&client, b"a request");
    let by = scene.now + SECOND * 30;
    scene.shards[0].stop(by);
    scene.pass(SECOND * 10);
    assert!(!scene.is_closed(&client) && !scene.shards[0].has_stopped());
    let pdu = worker.expect(event::PDU);
    worker.take(&pdu);
    worker.send(conn, 1, b"its response");
    scene.settle();
    assert_eq!(worker.expect(event::SENT).status, 0);
    scene.pass(SECOND * 3);
    assert_eq!(scene.ends, ["stopping"]);
    assert!(scene.is_closed(&client) && scene.shards[0].has_stopped());
    let carried = scene.carried();
    assert_eq!((carried.requested, carried.connections), (1, 1));
    assert_eq!(carried.traffic.messages_in, 2);
    let registry = scene.office.registry();
    assert!(registry.ended_shards().contains(&0));
    assert_eq!(registry.transport_before().values().sum::<u64>(), 1);
}

#[test]
fn a_shard_that_stops_does_not_wait_for_ever() {
    let mut scene = Scene::new();
    let (client, worker, _) = scene.pair(1);
    scene.send(&client, b"a request without an answer");
    let by = scene.now + SECOND * 5;
    scene.shards[0].stop(by);
    scene.pass(SECOND * 7);
    assert!(scene.is_closed(&client) && scene.shards[0].has_stopped());
    assert_eq!(
        worker.completions().last().unwrap().event,
        event::DISCONNECTED
    );
}

#[test]
fn a_worker_sleeps_until_there_is_something_for_it() {
    let mut scene = Scene::new();
    let (client, worker, conn) = scene.pair(1);
    worker.announces_sleep();
    worker.rings();
    scene.pass(SECOND * 10);
    assert_eq!(worker.rings(), 0);
    scene.send(&client, b"wakes it");
    assert_eq!(worker.rings(), 1);
    let pdu = worker.expect(event::PDU);
    worker.take(&pdu);
    // The end of a send does not wake the worker at once.
    worker.send(conn, 1, b"a response");
    worker.announces_sleep();
    scene.settle();
    assert_eq!(worker.rings(), 0);
    scene.pass(SECOND);
    assert_eq!(worker.rings(), 1);
    assert_eq!(worker.expect(event::SENT).status, 0);
    worker.call(op::DISCONNECT, conn);
    assert!(scene.is_closed(&client));
    scene.leaves_nothing();
}
