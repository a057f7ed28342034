// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests illegal values that a worker may write into memory that the device reads.

use std::time::Duration;

use smbdirect::device::Status;
use smbdirect::device::abi::{Place, Submission, event, op};
use smbdirect::engine::peer::Peer;
use zerocopy::FromZeros;

use crate::process::Process;
use crate::scene::Scene;

fn nothing() -> Submission {
    Submission::new_zeroed()
}

/// Checks that `break_rule` makes the device detach the worker for the reason `why`, and that another worker goes on.
#[track_caller]
fn is_detached(why: &str, break_rule: impl FnOnce(&Process, u64)) {
    let mut scene = Scene::new();
    let (client, worker, conn) = scene.pair(1);
    let (other, second, _) = scene.pair(2);
    break_rule(&worker, conn);
    assert!(scene.is_closed(&client));
    let faults = std::mem::take(&mut scene.faults);
    let [(id, Status::Corrupt, found)] = &faults[..] else {
        panic!("{faults:?}");
    };
    assert_eq!(*id, worker.id());
    assert!(found.contains(why), "{found}");
    scene.send(&other, b"goes on");
    let pdu = second.expect(event::PDU);
    assert_eq!(second.take(&pdu), b"goes on");
    scene.leaves_nothing();
}

#[test]
fn a_worker_that_submits_what_no_library_does_is_detached() {
    is_detached("unknown operation", |worker, conn| worker.call(99, conn));
    is_detached("does not belong to this worker", |worker, conn| {
        worker.call(op::DISCONNECT, conn + 1);
    });
    is_detached("is not in use", |worker, conn| {
        worker.submit(Submission {
            op: op::RECYCLE,
            conn: conn >> 48 << 48,
            place: 0x1_0000_0000,
            ..nothing()
        });
    });
    is_detached("do not lie in its memory", |worker, conn| {
        worker.bulk();
        worker.submit(Submission {
            op: op::SEND_PDU,
            conn,
            length: 1,
            ..nothing()
        });
    });
    is_detached("do not lie in its memory", |worker, conn| {
        worker.send(conn, 1, b"there is SEND now");
        worker.submit(Submission {
            op: op::SEND_PDU,
            conn,
            place: Place {
                segment: 0,
                offset: (256 << 10) - 1,
            }
            .to_bits(),
            length: 2,
            ..nothing()
        });
    });
    is_detached("flags", |worker, conn| {
        worker.submit(Submission {
            op: op::SEND_PDU,
            flags: 8,
            conn,
            length: 1,
            ..nothing()
        });
    });
}

#[test]
fn corrupt_rings_harm_only_their_own_worker() {
    for place in [0, 64, 128] {
        let mut scene = Scene::new();
        let (client, worker, conn) = scene.pair(1);
        worker.queue_memory(0).write(place, &[0xa5; 8]).unwrap();
        worker.call(op::AUTHENTICATED, conn);
        // Whatever the device finds there, it may detach only this worker, and no other process is affected.
        scene.send(&client, b"something");
        scene.pair(2);
        scene.leaves_nothing();
    }
}

#[test]
fn a_worker_that_names_memory_that_it_gave_back_is_detached() {
    is_detached("do not lie in its memory", |worker, conn| {
        worker.bulk();
        worker.release();
        worker.rdma(op::RDMA_WRITE, (conn, 1), 10, &[0; 16]);
        worker.release();
    });
}

#[test]
fn a_worker_cannot_name_a_connection_before_it_learns_of_it() {
    let mut scene = Scene::new();
    let worker = scene.worker_of(1);
    let all = worker.account.charge(worker.account.limit(), 0);
    let client = scene.client(0, 1);
    assert!(worker.completions().is_empty());
    // The number 1 would be that of the first connection of the worker's first queue.
    worker.call(op::DISCONNECT, 1);
    assert!(scene.is_closed(&client));
    let (_, status, why) = scene.faults.pop().unwrap();
    assert_eq!(status, Status::Corrupt);
    assert!(why.contains("does not belong to this worker"), "{why}");
    drop(all);
    scene.leaves_nothing();
}

#[test]
fn a_worker_learns_of_its_connection_once_there_is_memory() {
    let mut scene = Scene::new();
    let worker = scene.worker_of(1);
    let all = worker.account.charge(worker.account.limit(), 0);
    let _client = scene.client(0, 1);
    assert!(worker.completions().is_empty());
    drop(all);
    scene.pass(Duration::from_millis(100));
    worker.connection_and_message();
    scene.leaves_nothing();
}
