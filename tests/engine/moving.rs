// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests shards of single workers, between which connections move.

use std::time::Duration;

use smbdirect::device::Status;
use smbdirect::device::abi::{Completion, event, op};
use smbdirect::engine::peer::{Peer, Untold};

use crate::process::Process;
use crate::routing::{submit_transfer, transfer};
use crate::scene::{Client, Scene, Seen, negotiate};

fn apart() -> Scene {
    Scene::apart(|_, _| ())
}

/// Returns the numbers of the shards that have a connection.
fn places(scene: &mut Scene) -> Vec<usize> {
    let shards = scene.shards.iter_mut().enumerate();
    let with = shards.filter_map(|(number, shard)| {
        let count = shard.report().connections.len();
        (count > 0).then_some(number)
    });
    with.collect()
}

/// Checks that messages go both ways, and that each message arrives once.
fn talks(scene: &mut Scene, client: &Client, worker: &Process, conn: u64) {
    scene.send(client, b"a request");
    let message = worker.expect(event::PDU);
    assert_eq!(
        (message.conn, worker.take(&message)),
        (conn, b"a request".to_vec())
    );
    worker.send(conn, 5, b"a response");
    assert_eq!(scene.seen(client), [Seen::Message(b"a response".to_vec())]);
    let sent = worker.expect(event::SENT);
    assert_eq!((sent.conn, sent.cookie, sent.status), (conn, 5, 0));
}

#[test]
fn a_registered_client_goes_to_its_workers_shard() {
    let mut scene = apart();
    let (client, worker, conn) = scene.pair(1);
    let home = scene.homes.as_ref().unwrap()[&worker.id()];
    assert_eq!(places(&mut scene), [home]);
    talks(&mut scene, &client, &worker, conn);
    scene.close(&client);
    let end = worker.expect(event::DISCONNECTED);
    assert_eq!(Status::from_code(end.status), Some(Status::ClosedByPeer));
    assert_eq!(scene.office_counts(), (0, 0));
    scene.leaves_nothing();
}

#[test]
fn a_claimed_connection_goes_to_its_workers_shard() {
    let mut scene = apart();
    let (listener, worker) = (scene.listener(), scene.worker());
    let client = scene.client(0, 9);
    assert_eq!(places(&mut scene), [0]);
    let offer = listener.offer().unwrap();
    scene.claim(&worker, offer.token).unwrap();
    assert_eq!(worker.claimed(), Some(Status::Ok));
    let (conn, first) = worker.connection_and_message();
    assert_eq!((first, places(&mut scene)), (negotiate(9), vec![1]));
    talks(&mut scene, &client, &worker, conn);
    scene.leaves_nothing();
}

/// What the client sends while its connection is in no shard waits, and so does what the endpoint has to send.
#[test]
fn what_happens_while_a_connection_moves_waits() {
    let mut scene = Scene::apart(|rules, _| rules.login_timeout = Duration::from_secs(1000));
    let worker = scene.worker_of(1);
    let client = scene.connect(0);
    scene.is_holding = true;
    scene.send(&client, &negotiate(1));
    assert_eq!((scene.moving.len(), places(&mut scene)), (1, vec![]));
    for message in [b"second", b"third "] {
        scene.send(&client, message);
    }
    // The client asks whether the other side is there.
    scene.pass(Duration::from_secs(121));
    assert_eq!(scene.seen(&client), [Seen::Established]);
    scene.is_holding = false;
    scene.settle();
    let all = worker.completions();
    let events: Vec<_> = all.iter().map(|completion| completion.event).collect();
    assert_eq!(
        events,
        [event::CONNECTION, event::PDU, event::PDU, event::PDU]
    );
    let bytes: Vec<_> = all[1..].iter().map(|pdu| worker.take(pdu)).collect();
    assert_eq!(
        bytes,
        [negotiate(1), b"second".to_vec(), b"third ".to_vec()]
    );
    let conn = all[0].conn;
    worker.take(&all[0]);
    worker.call(op::AUTHENTICATED, conn);
    // Without an answer to its question, the client would give up.
    scene.pass(Duration::from_secs(30));
    talks(&mut scene, &client, &worker, conn);
    scene.leaves_nothing();
}

#[test]
fn the_end_of_a_connection_that_moves_is_not_lost() {
    let mut scene = apart();
    let worker = scene.worker_of(1);
    let client = scene.connect(0);
    scene.is_holding = true;
    scene.send(&client, &negotiate(1));
    scene.close(&client);
    scene.is_holding = false;
    scene.settle();
    let all = worker.completions();
    let events: Vec<_> = all.iter().map(|completion| completion.event).collect();
    assert_eq!(events, [event::CONNECTION, event::PDU, event::DISCONNECTED]);
    assert_eq!(scene.ends, ["peer"]);
    scene.leaves_nothing();
}

#[test]
fn a_connection_moves_by_guid_and_by_token() {
    let mut scene = apart();
    let (client, first, conn) = scene.pair(1);
    let second = scene.worker_of(2);
    let listener = scene.listener();
    assert_eq!(transfer(&mut scene, &first, conn, [2; 16]).status, 0);
    assert_eq!(places(&mut scene), [2]);
    let moved = second.connection().conn;
    talks(&mut scene, &client, &second, moved);
    let done = transfer(&mut scene, &second, moved, [0; 16]);
    assert_eq!((done.status, places(&mut scene)), (0, vec![0]));
    assert!(listener.offer().is_none(), "the token is the worker's");
    // A client that was logged in still is.
    assert_eq!(scene.office_counts(), (1, 0));
    scene.claim(&first, done.token).unwrap();
    let again = first.connection().conn;
    assert_ne!(again, conn, "numbers are not used twice");
    talks(&mut scene, &client, &first, again);
    let nobody = transfer(&mut scene, &first, again, [9; 16]);
    assert_eq!(Status::from_code(nobody.status), Some(Status::NoOwner));
    scene.leaves_nothing();
}

/// A transfer is refused as long as something would be lost.
#[test]
fn a_connection_with_something_under_way_stays() {
    let mut scene = apart();
    let (first, second) = (scene.worker_of(1), scene.worker_of(2));
    let client = scene.client(0, 1);
    let (conn, _) = first.connection_and_message();
    let is_busy = |scene: &mut Scene, done: &Completion| {
        assert_eq!(done.event, event::TRANSFERRED);
        assert_eq!(Status::from_code(done.status), Some(Status::Busy));
        assert_eq!(places(scene), [1]);
    };
    // A message that the worker has not given back.
    scene.send(&client, b"a request");
    let message = first.expect(event::PDU);
    let done = transfer(&mut scene, &first, conn, [2; 16]);
    is_busy(&mut scene, &done);
    first.take(&message);
    // A message of which only a part has arrived, because a stranger has few credits.
    scene.begin_to_send(&client, &[7; 60 << 10]);
    while !scene.shards[1].report().connections[0].transport.assembling {
        scene.round();
    }
    submit_transfer(&first, conn, [2; 16]);
    scene.settle();
    let all = first.completions();
    is_busy(&mut scene, &all[0]);
    assert_eq!((all.len(), first.take(&all[1]).len()), (2, 60 << 10));
    // A response that has not been sent.
    first.send(conn, 1, &[9; 60 << 10]);
    submit_transfer(&first, conn, [2; 16]);
    scene.settle();
    let all = first.completions();
    is_busy(&mut scene, &all[0]);
    assert_eq!(
        (all.len(), all[1].event, all[1].cookie),
        (2, event::SENT, 1)
    );
    assert_eq!(scene.seen(&client), [Seen::Message(vec![9; 60 << 10])]);
    // A buffer that the worker has lent.
    first.lend((conn, 3), 4096);
    let done = transfer(&mut scene, &first, conn, [2; 16]);
    is_busy(&mut scene, &done);
    first.call(op::RECALL, conn);
    scene.settle();
    assert_eq!(first.expect(event::FETCHED).cookie, 3);
    assert_eq!(transfer(&mut scene, &first, conn, [2; 16]).status, 0);
    let moved = second.connection().conn;
    talks(&mut scene, &client, &second, moved);
    scene.leaves_nothing();
}

#[test]
fn a_connection_that_its_worker_has_not_touched_goes_back_when_the_worker_ends() {
    let mut scene = apart();
    let (listener, worker) = (scene.listener(), scene.worker_of(1));
    let client = scene.client(0, 1);
    worker.connection_and_message();
    assert_eq!(places(&mut scene), [1]);
    scene.detach(worker.id());
    scene.settle();
    assert_eq!(places(&mut scene), [0]);
    let offer = listener.offer().unwrap();
    let other = scene.worker();
    scene.claim(&other, offer.token).unwrap();
    let (conn, message) = other.connection_and_message();
    assert_eq!((message, places(&mut scene)), (negotiate(1), vec![2]));
    // A connection that has been answered ends with its worker.
    other.send(conn, 1, b"a response");
    scene.settle();
    scene.detach(other.id());
    assert!(scene.is_closed(&client));
    assert_eq!(scene.ends, ["worker_gone"]);
    assert!(listener.offer().is_none());
    scene.leaves_nothing();
}

#[test]
fn a_connection_on_its_way_to_a_worker_that_ends_finds_another() {
    let mut scene = apart();
    let (listener, worker) = (scene.listener(), scene.worker_of(1));
    let client = scene.connect(0);
    scene.is_holding = true;
    scene.send(&client, &negotiate(1));
    assert_eq!(scene.moving.len(), 1);
    scene.detach(worker.id());
    scene.is_holding = false;
    scene.settle();
    let offer = listener.offer().unwrap();
    assert_eq!(offer.info.client_guid, [1; 16]);
    let other = scene.worker();
    scene.claim(&other, offer.token).unwrap();
    assert_eq!(other.connection_and_message().1, negotiate(1));
    scene.leaves_nothing();
}

#[test]
fn a_claimed_connection_whose_worker_ends_meanwhile_ends() {
    let mut scene = apart();
    let (listener, worker) = (scene.listener(), scene.worker());
    let client = scene.client(0, 1);
    let offer = listener.offer().unwrap();
    scene.is_holding = true;
    scene.claim(&worker, offer.token).unwrap();
    scene.detach(worker.id());
    scene.is_holding = false;
    assert!(scene.is_closed(&client));
    assert_eq!(scene.ends, ["worker_gone"]);
    scene.leaves_nothing();
}

#[test]
fn a_worker_that_does_not_take_its_queue_loses_the_connection_to_another_worker() {
    for untold in [Untold::Gone, Untold::Unread] {
        let mut scene = apart();
        let (listener, worker) = (scene.listener(), scene.worker_of(1));
        worker.deaf.set(Some(untold));
        let _client = scene.client(0, 1);
        assert!(listener.offer().is_some());
        let expected = match untold {
            Untold::Gone => vec![],
            Untold::Unread => vec![(worker.id(), Status::Again)],
        };
        let faults = scene.faults.drain(..);
        let faults: Vec<_> = faults.map(|(id, status, _)| (id, status)).collect();
        assert_eq!(faults, expected);
        drop(worker);
        scene.leaves_nothing();
    }
}

/// A worker whose connection ends on the way to the shard of connections without an owner gets an answer, and learns
/// of the end.
#[test]
fn a_transfer_of_a_connection_that_ends_meanwhile_is_answered() {
    let mut scene = apart();
    let (client, worker, conn) = scene.pair(1);
    scene.is_holding = true;
    submit_transfer(&worker, conn, [0; 16]);
    scene.settle();
    assert!(worker.completions().is_empty());
    scene.abort(&client);
    scene.settle();
    scene.is_holding = false;
    scene.settle();
    let all = worker.completions();
    // The token was made before the end was seen; nobody can claim it any longer.
    assert_eq!(
        (all.len(), all[0].event, all[0].status),
        (1, event::TRANSFERRED, 0)
    );
    assert_eq!(scene.claim(&worker, all[0].token), Err(Status::NoToken));
    assert_eq!(scene.office_counts(), (0, 0));
    scene.leaves_nothing();
}

/// A newcomer may take the place of a stranger that is in no shard.
#[test]
fn a_stranger_that_has_to_end_while_it_moves_ends() {
    let mut scene = Scene::apart(|_, limits| limits.max_unauthenticated = 1);
    let workers = [scene.worker_of(1), scene.worker_of(2)];
    let client = scene.connect(0);
    scene.is_holding = true;
    scene.send(&client, &negotiate(1));
    let next = scene.connect(0);
    assert_eq!(scene.office_counts().1, 1);
    assert!(!scene.is_closed(&client));
    scene.is_holding = false;
    assert!(scene.is_closed(&client));
    assert_eq!(scene.ends, ["too_many_unauthenticated"]);
    assert!(
        workers[0].completions().is_empty(),
        "it never had the connection"
    );
    scene.send(&next, &negotiate(2));
    workers[1].connection_and_message();
    // A connection that has moved is as old as it was: it goes, and the newcomer stays.
    let _third = scene.connect(0);
    assert!(scene.is_closed(&next));
    scene.leaves_nothing();
}

#[test]
fn a_login_must_come_in_time_after_a_move_too() {
    let mut scene = apart();
    let worker = scene.worker_of(1);
    let client = scene.client(0, 1);
    worker.connection_and_message();
    scene.pass(Duration::from_secs(59));
    assert!(!scene.is_closed(&client));
    scene.pass(Duration::from_secs(2));
    assert!(scene.is_closed(&client));
    assert_eq!(scene.ends, ["login_timeout"]);
    scene.leaves_nothing();
}
