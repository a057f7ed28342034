// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests buffers that the library lends for the data of WRITEs.

use smbdirect::device::abi::{self, Completion, event, feature, op, region};
use smbdirect::device::{BulkBuffer, Event, Status};

use super::script::{
    BULK_UNIT, Device, Worker, completion, conn, connected, connected_with, events, info,
    last_events, params,
};

/// Makes a worker as [`connected`] does, with a device that can fetch ahead.
fn able() -> (Worker, Device) {
    let able = abi::Attached {
        features: feature::FETCH_AHEAD,
        ..params()
    };
    connected_with(able)
}

/// Lends a buffer, and returns it and the cookie of the operation.
fn lent(handle: &mut Worker, device: &mut Device) -> (BulkBuffer, u64) {
    let buffer = handle.allocate(1).expect("room");
    assert_eq!(handle.fetch_ahead(conn(1), buffer.number), Ok(()));
    let [lend] = device.take(1)[..] else {
        panic!("one submission");
    };
    assert_eq!((lend.op, lend.conn), (op::FETCH_AHEAD, conn(1)));
    assert_eq!(lend.length, BULK_UNIT);
    assert_eq!(handle.free(buffer.number), Err(Status::Busy));
    (buffer, lend.cookie)
}

fn fetched(cookie: u64, status: Status, length: u32) -> Completion {
    Completion {
        cookie,
        length,
        status: status.code(),
        ..completion(event::FETCHED, conn(1))
    }
}

#[test]
fn a_lent_buffer_comes_back_with_its_message() {
    let (mut handle, mut device) = able();
    let (buffer, cookie) = lent(&mut handle, &mut device);
    device.bulk[0].write(0, b"data").expect("in range");
    device.complete(fetched(cookie, Status::Ok, 4));
    assert_eq!(events(&mut handle), [], "the message follows");
    device.pdu(conn(1), b"a WRITE");
    let [
        Event::Pdu {
            data: Some(data), ..
        },
    ] = events(&mut handle)[..]
    else {
        panic!("a message with its data");
    };
    assert_eq!((data.buffer, data.length), (buffer.number, 4));
    assert_eq!(handle.buffer(data.buffer), Ok(buffer));
    device.pdu(conn(1), b"another");
    let [Event::Pdu { data: None, .. }] = events(&mut handle)[..] else {
        panic!("a message without data");
    };
    // The buffer can be lent again, or freed.
    assert_eq!(handle.fetch_ahead(conn(1), buffer.number), Ok(()));
    assert_eq!(
        handle.fetch_ahead(conn(1), buffer.number),
        Err(Status::Busy)
    );
}

#[test]
fn a_buffer_that_comes_back_empty_is_freed() {
    let (mut handle, mut device) = able();
    let (buffer, cookie) = lent(&mut handle, &mut device);
    device.complete(fetched(cookie, Status::RemoteAccess, 0));
    device.pdu(conn(1), b"a WRITE");
    let all = events(&mut handle);
    assert!(
        matches!(all[..], [Event::Pdu { data: None, .. }]),
        "{all:?}"
    );
    assert_eq!(handle.free(buffer.number), Err(Status::NoBuffer));
}

#[test]
fn a_lent_buffer_is_recalled_once_when_memory_is_short() {
    let (mut handle, mut device) = able();
    let (_, cookie) = lent(&mut handle, &mut device);
    let mut others = Vec::new();
    let refused = loop {
        match handle.allocate(1) {
            Ok(buffer) => others.push(buffer),
            Err(status) => break status,
        }
    };
    assert_eq!(refused, Status::Again);
    assert_eq!(handle.allocate(1), Err(Status::Again));
    let recalls = device.take(1);
    assert_eq!(recalls.len(), 1);
    assert_eq!((recalls[0].op, recalls[0].conn), (op::RECALL, conn(1)));
    device.complete(fetched(cookie, Status::Flushed, 0));
    assert_eq!(events(&mut handle), [Event::Room]);
    assert!(handle.allocate(1).is_ok());
}

#[test]
fn a_longer_buffer_takes_the_place_of_a_short_one() {
    let (mut handle, mut device) = able();
    let (short, first) = lent(&mut handle, &mut device);
    let same = handle.allocate(1).expect("room");
    let refused = handle.fetch_ahead(conn(1), same.number);
    assert_eq!(refused, Err(Status::Busy));
    let long = handle.allocate(2 * BULK_UNIT as usize).expect("room");
    assert_eq!(handle.fetch_ahead(conn(1), long.number), Ok(()));
    let [recall, lend] = device.take(1)[..] else {
        panic!("two submissions");
    };
    assert_eq!((recall.op, lend.op), (op::RECALL, op::FETCH_AHEAD));
    device.complete(fetched(first, Status::Flushed, 0));
    assert_eq!(events(&mut handle), []);
    assert_eq!(handle.free(short.number), Err(Status::NoBuffer));
    device.complete(fetched(lend.cookie, Status::Ok, BULK_UNIT + 1));
    device.pdu(conn(1), b"a WRITE");
    let [
        Event::Pdu {
            data: Some(data), ..
        },
    ] = events(&mut handle)[..]
    else {
        panic!("a message with its data");
    };
    assert_eq!((data.buffer, data.length), (long.number, BULK_UNIT + 1));
}

#[test]
fn a_lent_buffer_is_recalled_from_a_segment_that_the_device_wants_back() {
    let (mut handle, mut device) = able();
    let (_, cookie) = lent(&mut handle, &mut device);
    device.reclaim(region::BULK, 0, 0);
    assert_eq!(events(&mut handle), []);
    let recalls = device.take(1);
    assert_eq!((recalls.len(), recalls[0].op), (1, op::RECALL));
    device.complete(fetched(cookie, Status::Flushed, 0));
    assert_eq!(events(&mut handle), []);
    assert_eq!(device.released(), (region::BULK, 0, 0));
}

#[test]
fn nothing_is_lent_in_a_segment_that_the_device_wants_back() {
    let (mut handle, mut device) = able();
    let buffer = handle.allocate(1).expect("room");
    device.reclaim(region::BULK, 0, 0);
    assert_eq!(events(&mut handle), []);
    let refused = handle.fetch_ahead(conn(1), buffer.number);
    assert_eq!(refused, Err(Status::Busy));
    assert_eq!(handle.free(buffer.number), Ok(()));
    assert_eq!(device.released(), (region::BULK, 0, 0));
}

#[test]
fn a_connection_ends_after_its_lent_buffer_came_back() {
    let (mut handle, mut device) = able();
    let (buffer, cookie) = lent(&mut handle, &mut device);
    device.complete(completion(event::DISCONNECTED, conn(1)));
    assert_eq!(events(&mut handle), []);
    device.complete(fetched(cookie, Status::Flushed, 0));
    let all = events(&mut handle);
    assert!(matches!(all[..], [Event::Disconnected { .. }]), "{all:?}");
    assert_eq!(handle.free(buffer.number), Err(Status::NoBuffer));
    let other = handle.allocate(1).expect("room");
    let refused = handle.fetch_ahead(conn(1), other.number);
    assert_eq!(refused, Err(Status::NoConnection));
}

#[test]
fn no_buffer_is_lent_if_the_device_or_the_client_cannot_use_it() {
    let (mut handle, _device) = connected();
    let buffer = handle.allocate(1).expect("room");
    let refused = handle.fetch_ahead(conn(1), buffer.number);
    assert_eq!(refused, Err(Status::NoReads));
    assert_eq!(handle.free(buffer.number), Ok(()));

    let (mut handle, mut device) = able();
    device.connect(abi::ConnInfo {
        initiator_depth: 0,
        ..info(conn(2))
    });
    assert_eq!(events(&mut handle).len(), 1);
    let buffer = handle.allocate(1).expect("room");
    let refused = handle.fetch_ahead(conn(2), buffer.number);
    assert_eq!(refused, Err(Status::NoReads));
    let refused = handle.fetch_ahead(conn(1), buffer.number + 1);
    assert_eq!(refused, Err(Status::NoBuffer));
}

#[test]
fn an_answer_to_what_was_not_asked_ends_the_attachment() {
    type Lie = fn(u64) -> Vec<Completion>;
    let lies: [(&str, Lie); 6] = [
        ("an unknown operation", |cookie| {
            vec![fetched(cookie + 1, Status::Ok, 1)]
        }),
        ("more than the buffer holds", |cookie| {
            vec![fetched(cookie, Status::Ok, BULK_UNIT + 1)]
        }),
        ("nothing, successfully", |cookie| {
            vec![fetched(cookie, Status::Ok, 0)]
        }),
        ("data in spite of a failure", |cookie| {
            vec![fetched(cookie, Status::Flushed, 1)]
        }),
        ("another event", |cookie| {
            let event = event::RDMA_DONE;
            vec![Completion {
                event,
                ..fetched(cookie, Status::Ok, 0)
            }]
        }),
        ("data without a message", |cookie| {
            vec![
                fetched(cookie, Status::Ok, 1),
                completion(event::DISCONNECTED, conn(1)),
            ]
        }),
    ];
    for (what, lie) in lies {
        let (mut handle, mut device) = able();
        let (_, cookie) = lent(&mut handle, &mut device);
        lie(cookie)
            .into_iter()
            .for_each(|entry| device.complete(entry));
        let (told, reason) = last_events(&mut handle);
        assert_eq!(reason, Status::Corrupt, "{what}");
        assert!(
            matches!(told[..], [Event::Disconnected { .. }]),
            "{what}: {told:?}"
        );
    }
}
