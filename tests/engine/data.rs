// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests messages and file data.

use std::time::Duration;

use smbdirect::device::Status;
use smbdirect::device::abi::{event, op};
use smbdirect::engine::peer::Peer;

use crate::scene::{Scene, Seen};

#[test]
fn messages_of_many_lengths_go_both_ways() {
    let mut scene = Scene::new();
    let (client, worker, conn) = scene.pair(1);
    let longest = if cfg!(miri) { 5000 } else { 60_000 };
    for length in [1, 1000, 1340, 1341, 4096, longest] {
        let message: Vec<u8> = (0..length).map(|n| n as u8).collect();
        scene.send(&client, &message);
        let pdu = worker.expect(event::PDU);
        assert_eq!(worker.take(&pdu), message);
        worker.send(conn, length, &message);
        assert_eq!(scene.seen(&client).pop(), Some(Seen::Message(message)));
        assert_eq!(worker.expect(event::SENT).cookie, length);
    }
    scene.leaves_nothing();
}

#[test]
fn rdma_moves_data_by_several_descriptors() {
    let mut scene = Scene::new();
    let (client, worker, conn) = scene.pair(1);
    let list = [client.source(100_000, 3000), client.source(8, 1000)].concat();
    client.memory.write(100_000, &[1; 3000]).unwrap();
    client.memory.write(8, &[2; 1000]).unwrap();
    worker.rdma(op::RDMA_READ, (conn, 1), 4000, &list);
    scene.settle();
    let read = worker.expect(event::RDMA_DONE);
    assert_eq!((read.cookie, read.status), (1, 0));
    let expected = [vec![1; 3000], vec![2; 1000]].concat();
    assert_eq!(worker.bulk().to_vec(0, 4000).unwrap(), expected);

    worker.bulk().write(0, &[3; 4000]).unwrap();
    let list = [client.target(100_000, 3000), client.target(8, 1000)].concat();
    worker.rdma(op::RDMA_WRITE, (conn, 2), 4000, &list);
    scene.settle();
    assert_eq!(worker.expect(event::RDMA_DONE).status, 0);
    assert_eq!(client.memory.to_vec(100_000, 3000).unwrap(), [3; 3000]);
    assert_eq!(client.memory.to_vec(8, 1000).unwrap(), [3; 1000]);
    scene.leaves_nothing();
}

#[test]
fn a_false_descriptor_ends_only_its_own_connection() {
    let mut scene = Scene::new();
    let (client, worker, conn) = scene.pair(1);
    let (other, _, _) = scene.pair(2);
    let list = client.source(255 << 10, 2048);
    worker.rdma(op::RDMA_READ, (conn, 1), 2048, &list);
    scene.settle();
    let all = worker.completions();
    let events: Vec<u32> = all.iter().map(|completion| completion.event).collect();
    assert_eq!(events, [event::RDMA_DONE, event::DISCONNECTED]);
    assert_eq!(Status::from_code(all[0].status), Some(Status::RemoteAccess));
    assert!(!scene.is_closed(&other));
    assert!(scene.faults.is_empty());
    scene.leaves_nothing();
}

#[test]
#[cfg_attr(miri, ignore = "moves megabytes")]
fn memory_for_messages_grows_and_comes_back() {
    let mut scene = Scene::new();
    let (client, worker, _) = scene.pair(1);
    let before = worker.account.used();
    let message = vec![5; 60_000];
    let mut kept = Vec::new();
    for _ in 0..8 {
        scene.send(&client, &message);
        kept.extend(worker.completions());
    }
    assert!(kept.iter().all(|pdu| worker.peek(pdu) == message));
    assert!(worker.account.used() > before);
    let mut taken = 0;
    while let Some(pdu) = kept.pop() {
        worker.take(&pdu);
        taken += 1;
        scene.settle();
        kept.extend(worker.completions());
    }
    assert_eq!(taken, 8);
    let mut given = 0;
    for _ in 0..4 {
        scene.pass(Duration::from_secs(6));
        for reclaim in worker.give_back() {
            scene.shards[reclaim.queue as usize].unmapped(worker.id(), reclaim.number);
            given += 1;
        }
    }
    assert!(given > 0);
    assert!(worker.account.used() <= before, "{}", worker.account.used());
    scene.send(&client, &message);
    let pdu = worker.expect(event::PDU);
    assert_eq!(worker.take(&pdu), message);
    scene.leaves_nothing();
}

#[test]
#[cfg_attr(miri, ignore = "moves megabytes")]
fn a_worker_that_keeps_its_messages_holds_up_its_own_client_and_loses_none() {
    let mut scene = Scene::new();
    let (client, worker, _) = scene.pair(1);
    let (other, second, _) = scene.pair(2);
    let mut kept = Vec::new();
    for number in 0..100 {
        scene.send(&client, &vec![number; 50_000]);
        kept.extend(worker.completions());
    }
    assert!(kept.len() < 100, "the arena has room for all messages");
    scene.send(&other, b"of another");
    let pdu = second.expect(event::PDU);
    assert_eq!(second.take(&pdu), b"of another");
    let mut next = 0;
    while !kept.is_empty() {
        for pdu in kept.drain(..) {
            let message = worker.take(&pdu);
            // If the client lacked the credits to send a message, the next one overwrote that message in the client's
            // memory. No other message may be missing.
            assert!(message[0] >= next, "{next}");
            next = message[0];
        }
        scene.pass(Duration::from_millis(200));
        kept.extend(worker.completions());
    }
    assert_eq!(next, 99);
    scene.leaves_nothing();
}
