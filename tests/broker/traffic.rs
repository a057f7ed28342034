// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests messages and RDMA through the device.

use smbdirect::device::Status;
use smbdirect::device::abi::{Place, Submission, event, flags, op, region};
use smbdirect::fabric::Access;

use crate::peer::Happened;
use crate::raw::NOTHING;
use crate::scene::Scene;

#[test]
fn messages_of_any_length_go_both_ways() {
    let scene = Scene::new();
    let (mut worker, conn, client) = scene.pair(1);
    for length in [1, 1000, 5000, 65_536, 65_537, 1 << 20] {
        let message: Vec<u8> = (0..length).map(|i| (i * 7 % 251) as u8).collect();
        client.send(&message);
        assert!(worker.pdu(conn) == message, "{length}");
        worker.reply(conn, &message);
        assert!(client.message() == message, "{length}");
    }
    let status = scene.status();
    assert_eq!(status.connections[0].messages_in, 7);
    assert_eq!(status.connections[0].messages_out, 6);
}

#[test]
fn rdma_moves_data_by_several_descriptors() {
    let scene = Scene::new();
    let (mut worker, conn, client) = scene.pair(1);
    assert_eq!(worker.grow(region::BULK), Status::Ok);
    let data: Vec<u8> = (0..300_000u32).map(|i| (i % 253) as u8).collect();

    let source = client.register(1 << 20, Access::RemoteRead);
    source.memory.write(100, &data[..200_000]).unwrap();
    source.memory.write(500_000, &data[200_000..]).unwrap();
    let place = Place {
        segment: 0,
        offset: 12_345,
    };
    let list = [source.part(100, 200_000), source.part(500_000, 400_000)];
    worker.rdma(op::RDMA_READ, (conn, 3), (place, 300_000), &list);
    let (done, status) = worker.expect(event::RDMA_DONE);
    assert_eq!((done.cookie, status), (3, Status::Ok));
    assert!(worker.bulk[0].to_vec(12_345, 300_000).unwrap() == data);

    let target = client.register(1 << 20, Access::RemoteWrite);
    let list = [
        target.part(7, 1),
        target.part(100_000, 199_999),
        target.part(400_000, 200_000),
    ];
    worker.rdma(op::RDMA_WRITE, (conn, 4), (place, 300_000), &list);
    worker.send_pdu(conn, 5, b"written");
    let (done, status) = worker.expect(event::RDMA_DONE);
    assert_eq!((done.cookie, status), (4, Status::Ok));
    worker.expect(event::SENT);
    assert_eq!(client.message(), b"written");
    assert_eq!(target.memory.to_vec(7, 1).unwrap(), data[..1]);
    assert!(target.memory.to_vec(100_000, 199_999).unwrap() == data[1..200_000]);
    assert!(target.memory.to_vec(400_000, 100_000).unwrap() == data[200_000..]);
    assert_eq!(target.memory.to_vec(500_000, 1).unwrap(), [0]);
    let connection = &scene.status().connections[0];
    assert_eq!(connection.rdma_read_bytes, 300_000);
    assert_eq!(connection.rdma_write_bytes, 300_000);
}

#[test]
fn a_response_follows_its_data_however_many_descriptors_that_has() {
    let scene = Scene::new();
    let (mut worker, conn, client) = scene.pair(1);
    assert_eq!(worker.grow(region::BULK), Status::Ok);
    let target = client.register(1 << 20, Access::RemoteWrite);
    let place = Place {
        segment: 0,
        offset: 0,
    };
    for count in [256, 4095] {
        let list: Vec<_> = (0..count).map(|i| target.part(i * 2, 1)).collect();
        let length = list.len() as u32;
        worker.rdma(op::RDMA_WRITE, (conn, 1), (place, length), &list);
        worker.send_pdu(conn, 2, b"written");
        let (done, status) = worker.expect(event::RDMA_DONE);
        assert_eq!((done.cookie, status), (1, Status::Ok), "{count}");
        let (sent, status) = worker.expect(event::SENT);
        assert_eq!((sent.cookie, status), (2, Status::Ok), "{count}");
        assert_eq!(client.message(), b"written");
    }
    // Submit as many operations as may be under way.
    let list: Vec<_> = (0..16).map(|i| target.part(i * 100, 64)).collect();
    for cookie in 0..32 {
        worker.rdma(op::RDMA_WRITE, (conn, cookie), (place, 1024), &list);
        worker.send_pdu(conn, cookie, b"written");
    }
    for _ in 0..64 {
        let completion = worker.completion();
        assert_eq!(completion.status, 0, "{completion:?}");
    }
    for _ in 0..32 {
        assert_eq!(client.message(), b"written");
    }
}

#[test]
fn long_lists_of_descriptors_count_as_memory() {
    let scene = Scene::new();
    let (mut worker, conn, client) = scene.pair(1);
    // The connection's receives count only once there is a session on it. Once this message has arrived, the device
    // knows of the session.
    worker.reply(conn, b"hello");
    assert_eq!(client.message(), b"hello");
    assert_eq!(worker.grow(region::BULK), Status::Ok);
    assert_eq!(worker.grow(region::SEND), Status::Ok);
    let source = client.register(1 << 20, Access::RemoteRead);
    let place = Place {
        segment: 0,
        offset: 0,
    };
    let list: Vec<_> = (0..4095).map(|i| source.part(i * 2, 1)).collect();
    let before = scene.status().totals.memory;
    for cookie in 0..16 {
        worker.rdma(op::RDMA_READ, (conn, cookie), (place, 4095), &list);
    }
    scene.until("the lists count", |status| {
        status.totals.memory > before + (1 << 20)
            && status.processes[0].memory == status.totals.memory
    });
    for _ in 0..16 {
        assert_eq!(worker.expect(event::RDMA_DONE).1, Status::Ok);
    }
    // The queues themselves remain.
    scene.until("the lists take no more memory", |status| {
        status.totals.memory < before + (64 << 10)
    });
}

#[test]
fn a_message_invalidates_a_token() {
    let scene = Scene::new();
    let (mut worker, conn, client) = scene.pair(1);
    let target = client.register(4096, Access::RemoteWrite);
    let token = target.part(0, 1).token;
    assert_eq!(worker.grow(region::SEND), Status::Ok);
    worker.submit(Submission {
        op: op::SEND_PDU,
        flags: flags::INVALIDATE,
        conn,
        cookie: 1,
        length: 10,
        token: token.0,
        ..NOTHING
    });
    worker.expect(event::SENT);
    assert_eq!(client.next(), Happened::Invalidated(token));
    assert_eq!(client.message().len(), 10);
}

#[test]
fn either_side_may_disconnect() {
    let scene = Scene::new();
    let (mut worker, conn, client) = scene.pair(1);
    worker.send_pdu(conn, 1, b"last");
    worker.disconnect(conn);
    assert_eq!(client.message(), b"last");
    client.closed();
    worker.expect(event::SENT);
    let (gone, status) = worker.expect(event::DISCONNECTED);
    assert_eq!((gone.conn, status), (conn, Status::ClosedLocally));
    // Both operations are too late, and the message is answered with FLUSHED.
    worker.disconnect(conn);
    worker.send_pdu(conn, 2, b"late");
    let (sent, status) = worker.expect(event::SENT);
    assert_eq!((sent.cookie, status), (2, Status::Flushed));

    let client = scene.client(1);
    let conn = worker.connection().conn;
    worker.pdu(conn);
    client.close();
    let (gone, status) = worker.expect(event::DISCONNECTED);
    assert_eq!((gone.conn, status), (conn, Status::ClosedByPeer));
}

#[test]
fn rdma_that_is_wrong_or_refused_by_the_peer_is_answered_with_a_status() {
    let scene = Scene::new();
    let (mut worker, conn, client) = scene.pair(1);
    assert_eq!(worker.grow(region::BULK), Status::Ok);
    let target = client.register(1000, Access::RemoteWrite);
    let place = Place {
        segment: 0,
        offset: 0,
    };
    let mut wrong = target.part(0, 10);
    wrong.offset = u64::MAX;
    for (list, length, expected) in [
        (vec![], 10, Status::Descriptors),
        (vec![target.part(0, 0)], 10, Status::Descriptors),
        (vec![wrong], 10, Status::Descriptors),
        (vec![target.part(0, 9)], 10, Status::DescriptorsTooShort),
        (vec![target.part(0, 9)], 0, Status::Invalid),
    ] {
        worker.rdma(op::RDMA_WRITE, (conn, 1), (place, length), &list);
        assert_eq!(worker.expect(event::RDMA_DONE).1, expected);
    }
    // The peer refuses a well-formed request.
    worker.rdma(
        op::RDMA_WRITE,
        (conn, 1),
        (place, 1001),
        &[target.part(0, 1001)],
    );
    worker.expect(event::RDMA_DONE);
    let (_, status) = worker.expect(event::DISCONNECTED);
    assert_eq!(status, Status::RemoteAccess);
}
