// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests that the device fetches the data of a WRITE before it tells the worker
//! of the request.

use smbdirect::device::Status;
use smbdirect::device::abi::{Completion, TransferSubmission, event, op, queue_of};
use smbdirect::engine::peer::Peer;
use zerocopy::FromZeros;

use crate::process::Process;
use crate::scene::{Client, Scene};

/// The SessionId of the client here; `churn` uses the numbers that follow it.
pub(crate) const SESSION: u64 = 0x1234;

/// Makes a WRITE of `length` bytes by RDMA.
pub(crate) fn write(session: u64, channel: u32, length: u32, descriptors: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 64 + 48];
    bytes[..6].copy_from_slice(b"\xfeSMB\x40\x00");
    bytes[12] = 9;
    bytes[40..48].copy_from_slice(&session.to_le_bytes());
    bytes[64] = 49;
    bytes[96..100].copy_from_slice(&channel.to_le_bytes());
    bytes[100..104].copy_from_slice(&length.to_le_bytes());
    bytes[104] = 112;
    bytes[106] = descriptors.len() as u8;
    bytes.extend_from_slice(descriptors);
    bytes
}

/// Makes a client with a session, and its worker.
fn scene() -> (Scene, Client, Process, u64) {
    let mut scene = Scene::new();
    let (client, worker, conn) = scene.pair(1);
    let registered = scene.office_register(worker.id(), [1; 16], SESSION);
    assert_eq!(registered, Ok(()));
    (scene, client, worker, conn)
}

fn events(all: &[Completion]) -> Vec<u32> {
    all.iter().map(|completion| completion.event).collect()
}

#[test]
fn the_data_of_a_write_is_fetched_before_the_write_is_delivered() {
    let (mut scene, client, worker, conn) = scene();
    for (cookie, length) in [(7, 1), (8, 4096), (9, 65_536)] {
        let data: Vec<u8> = (0..length).map(|n| (n + cookie as u32) as u8).collect();
        client.memory.write(100_000, &data).unwrap();
        worker.lend((conn, cookie), 65_536);
        let list = [client.source(100_000, 1), client.source(100_001, length)].concat();
        let request = write(SESSION, 1 + cookie as u32 % 2, length, &list);
        scene.send(&client, &request);
        let [fetched, pdu] = &worker.completions()[..] else {
            panic!("not two completions");
        };
        assert_eq!((fetched.event, pdu.event), (event::FETCHED, event::PDU));
        assert_eq!((fetched.cookie, fetched.status), (cookie, 0));
        assert_eq!(fetched.length, length);
        assert_eq!(worker.bulk().to_vec(0, length as usize).unwrap(), data);
        assert_eq!(worker.take(pdu), request);
        scene.settle();
    }
    let report = scene.shards[0].report();
    assert_eq!(report.fetched_ahead, 3);
    scene.leaves_nothing();
}

#[test]
fn other_requests_are_delivered_without_a_fetch() {
    let (mut scene, client, worker, conn) = scene();
    worker.lend((conn, 1), 4096);
    let list = client.source(0, 8192);
    let mut compound = write(SESSION, 1, 100, &list);
    compound[20] = 128;
    compound.extend_from_within(..);
    let mut response = write(SESSION, 1, 100, &list);
    response[16] = 1;
    let mut other = write(SESSION, 1, 100, &list);
    other[12] = 8;
    let outside = [client.source(0, 100), vec![0xff; 16]].concat();
    for (what, request) in [
        ("of another session", write(SESSION + 1, 1, 100, &list)),
        ("without a session", write(0, 1, 100, &list)),
        ("without a channel", write(SESSION, 0, 100, &list)),
        ("with a transform", write(SESSION, 3, 100, &list)),
        ("longer than the buffer", write(SESSION, 1, 4097, &list)),
        (
            "longer than its descriptors",
            write(SESSION, 1, 8193, &list),
        ),
        ("of no bytes", write(SESSION, 1, 0, &list)),
        ("with a range that wraps", write(SESSION, 1, 100, &outside)),
        ("with half a descriptor", write(SESSION, 1, 100, &list[..8])),
        ("in a compound", compound),
        ("that is a response", response),
        ("that is a READ", other),
        ("encrypted", b"\xfdSMB".repeat(40)),
        ("of a byte", vec![1]),
        (
            "longer than a WRITE",
            write(SESSION, 1, 100, &list.repeat(15)).repeat(3),
        ),
    ] {
        scene.send(&client, &request);
        let all = worker.completions();
        assert_eq!(events(&all), [event::PDU], "{what}");
        assert_eq!(worker.take(&all[0]), request, "{what}");
        scene.settle();
    }
    // The buffer is still lent.
    scene.send(&client, &write(SESSION, 1, 4096, &list));
    let all = worker.completions();
    assert_eq!(events(&all), [event::FETCHED, event::PDU]);
    scene.leaves_nothing();
}

#[test]
fn nothing_is_fetched_while_something_else_is_under_way() {
    let (mut scene, client, worker, conn) = scene();
    let list = client.source(0, 4096);
    let request = write(SESSION, 1, 4096, &list);
    worker.lend((conn, 1), 4096);
    // The worker has not given this message back.
    scene.send(&client, b"an earlier request");
    let earlier = worker.expect(event::PDU);
    scene.send(&client, &request);
    let all = worker.completions();
    assert_eq!(events(&all), [event::PDU]);
    for pdu in [&earlier, &all[0]] {
        worker.take(pdu);
    }
    scene.settle();
    scene.send(&client, &request);
    assert_eq!(events(&worker.completions()), [event::FETCHED, event::PDU]);
    scene.leaves_nothing();
}

#[test]
fn a_failed_fetch_is_reported_before_its_message_and_the_end_of_the_connection() {
    let (mut scene, client, worker, conn) = scene();
    let (other, _, _) = scene.pair(2);
    worker.lend((conn, 5), 4096);
    // The data lies beyond the end of what the client has registered.
    let request = write(SESSION, 1, 2048, &client.source(255 << 10, 2048));
    scene.send(&client, &request);
    let all = worker.completions();
    let expected = [event::FETCHED, event::PDU, event::DISCONNECTED];
    assert_eq!(events(&all), expected);
    assert_eq!(Status::from_code(all[0].status), Some(Status::RemoteAccess));
    assert_eq!((all[0].cookie, all[0].length), (5, 0));
    assert_eq!(worker.take(&all[1]), request);
    assert!(!scene.is_closed(&other));
    scene.leaves_nothing();
}

#[test]
fn lent_memory_comes_back_when_it_is_recalled_or_the_connection_ends() {
    let (mut scene, client, worker, conn) = scene();
    worker.lend((conn, 1), 4096);
    worker.lend((conn, 2), 4096);
    scene.settle();
    let busy = worker.expect(event::FETCHED);
    assert_eq!((busy.cookie, busy.length), (2, 0));
    assert_eq!(Status::from_code(busy.status), Some(Status::Busy));
    worker.call(op::RECALL, conn);
    worker.call(op::RECALL, conn);
    scene.settle();
    let back = worker.expect(event::FETCHED);
    assert_eq!((back.cookie, back.length), (1, 0));
    assert_eq!(Status::from_code(back.status), Some(Status::Flushed));

    worker.lend((conn, 3), 4096);
    scene.settle();
    scene.close(&client);
    let all = worker.completions();
    assert_eq!(events(&all), [event::FETCHED, event::DISCONNECTED]);
    assert_eq!(all[0].cookie, 3);
    // The connection ends before the worker lends more.
    worker.lend((conn, 4), 4096);
    scene.settle();
    let late = worker.expect(event::FETCHED);
    assert_eq!(Status::from_code(late.status), Some(Status::Flushed));
    scene.leaves_nothing();
}

#[test]
fn a_connection_with_lent_memory_is_not_transferred() {
    let (mut scene, _client, worker, conn) = scene();
    let other = scene.worker_of(2);
    worker.lend((conn, 1), 4096);
    let transfer = TransferSubmission {
        op: op::TRANSFER,
        conn,
        cookie: 2,
        client_guid: [2; 16],
        ..TransferSubmission::new_zeroed()
    };
    let entry = zerocopy::transmute!(transfer);
    worker.submit_to(queue_of(conn), entry);
    scene.settle();
    let refused = worker.expect(event::TRANSFERRED);
    assert_eq!(Status::from_code(refused.status), Some(Status::Busy));
    worker.call(op::RECALL, conn);
    worker.submit_to(queue_of(conn), entry);
    scene.settle();
    let all = worker.completions();
    assert_eq!(events(&all), [event::FETCHED, event::TRANSFERRED]);
    assert_eq!(all[1].status, 0);
    assert_eq!(events(&other.completions()), [event::CONNECTION]);
    scene.leaves_nothing();
}

#[test]
fn lent_memory_that_the_worker_has_given_back_is_not_used() {
    let (mut scene, client, worker, conn) = scene();
    worker.lend((conn, 1), 4096);
    scene.settle();
    worker.release();
    let request = write(SESSION, 1, 4096, &client.source(0, 4096));
    scene.send(&client, &request);
    let pdu = worker.expect(event::PDU);
    assert_eq!(worker.take(&pdu), request);
    assert!(scene.faults.is_empty());
    scene.leaves_nothing();
}

#[test]
fn a_worker_that_lends_memory_that_it_does_not_have_is_detached() {
    for length in [0, 512 << 10, u32::MAX] {
        let (mut scene, client, worker, conn) = scene();
        worker.lend((conn, 1), length);
        scene.settle();
        assert_eq!(scene.faults.len(), 1, "{length}");
        assert!(scene.is_closed(&client));
        scene.leaves_nothing();
    }
}

/// Runs `end` after each possible number of steps of a fetch.
fn at_each_step(mut end: impl FnMut(&mut Scene, &Client, &Process)) {
    for steps in 0..20 {
        let (mut scene, client, worker, conn) = scene();
        worker.lend((conn, 1), 4096);
        scene.settle();
        let request = write(SESSION, 1, 4096, &client.source(0, 4096));
        scene.begin_to_send(&client, &request);
        for _ in 0..steps {
            scene.round();
        }
        end(&mut scene, &client, &worker);
        scene.settle();
        assert!(scene.faults.is_empty());
        scene.leaves_nothing();
    }
}

#[test]
fn a_worker_may_go_at_any_time() {
    at_each_step(|scene, client, worker| {
        scene.detach(worker.id());
        assert!(scene.is_closed(client));
    });
}

#[test]
fn a_client_may_go_at_any_time_and_lent_memory_comes_back_once() {
    let mut ends = Vec::new();
    at_each_step(|scene, client, worker| {
        let mut all = worker.completions();
        scene.abort(client);
        scene.settle();
        all.extend(worker.completions());
        let fetched: Vec<bool> = all
            .iter()
            .filter(|completion| completion.event == event::FETCHED)
            .map(|completion| completion.status == Status::Ok.code())
            .collect();
        let events = events(&all);
        ends.push(match (&events[..], &fetched[..]) {
            ([event::FETCHED, event::DISCONNECTED], [false]) => "lent",
            // The client had gone when its message was looked at.
            ([event::PDU, event::FETCHED, event::DISCONNECTED], [false]) => "lent",
            ([event::FETCHED, event::PDU, event::DISCONNECTED], [false]) => "fetching",
            ([event::FETCHED, event::PDU, event::DISCONNECTED], [true]) => "fetched",
            _ => panic!("{events:?} {fetched:?}"),
        });
    });
    ends.dedup();
    assert_eq!(ends, ["lent", "fetching", "fetched"]);
}
