// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests that the user of a handle sees the same, however the attachment ends.

use std::io::IoSlice;

use smbdirect::device::abi::{self, kind};
use smbdirect::device::channel::SocketChannel;
use smbdirect::device::message::{Answer, encode};
use smbdirect::device::{Direction, Event, Handle, Role, Status};
use smbdirect::shm::FIRST_INDEX;
use smbdirect::sys::SeqSocket;

use super::script::{
    Device, Worker, attached, attaching, conn, connected, events, is_readable, last_events, params,
    wait,
};

const SENT: Event = Event::Sent {
    conn: conn(1),
    cookie: 11,
    status: Status::Flushed,
    length: 1,
};
const RDMA_DONE: Event = Event::RdmaDone {
    conn: conn(1),
    cookie: 12,
    status: Status::Flushed,
};
const REPLY: Event = Event::Reply {
    cookie: 13,
    status: Status::Detached,
};
const DISCONNECTED: Event = Event::Disconnected {
    conn: conn(1),
    status: Status::Detached,
};

/// Makes a worker that has something of every kind under way.
fn busy() -> (Worker, Device) {
    let (mut handle, mut device) = connected();
    let buffer = handle.allocate(1).expect("room").number;
    send(&mut handle).expect("room");
    let descriptor = [[0; 8], [1, 0, 0, 0, 1, 0, 0, 0]].concat();
    let rdma = handle.rdma(Direction::Write, conn(1), 12, buffer, 0, 1, &descriptor);
    rdma.expect("room");
    handle.claim(13, [1; 16]).expect("sent");
    assert_eq!(device.take(1).len(), 2);
    assert_eq!(events(&mut handle), []);
    (handle, device)
}

fn send(handle: &mut Worker) -> Result<(), Status> {
    handle.send_pdu(conn(1), 11, &[IoSlice::new(b"x")], None)
}

/// Does what every user does to clean up: there is no other way.
fn ends_in_order(handle: &mut Worker, device: &Device, reason: Status) {
    wait(handle);
    let expected = vec![SENT, RDMA_DONE, DISCONNECTED, REPLY];
    assert_eq!(last_events(handle), (expected, reason));
    assert!(device.is_closed());
    for result in [
        handle.claim(1, [1; 16]),
        handle.set_session_id(1, [1; 16], 0, false),
        handle.allocate(1).map(|_| ()),
        handle.free(1),
        send(handle),
        handle.take_pdu(1, &mut []),
        handle.disconnect(conn(1)),
        handle.transfer(conn(1), 1, None, &[]),
        handle.mem_params().map(|_| ()),
        handle.conn_info(conn(1)).map(|_| ()),
        handle.conn_counts(conn(1)).map(|_| ()),
        handle.next_event().map(|_| ()),
    ] {
        assert_eq!(result, Err(Status::Detached));
    }
    assert!(is_readable(handle), "the end is reported again");
}

#[test]
fn the_device_dies() {
    let (mut handle, mut device) = busy();
    device.die();
    ends_in_order(&mut handle, &device, Status::Detached);
}

#[test]
fn the_device_detaches_the_worker() {
    for (code, reason) in [
        (Status::Stopping.code(), Status::Stopping),
        (Status::Ok.code(), Status::Detached),
        (-1, Status::Fabric),
    ] {
        let (mut handle, mut device) = busy();
        device.say(
            0,
            Answer::Detached(abi::Detached {
                status: code,
                version: 0,
            }),
        );
        ends_in_order(&mut handle, &device, reason);
    }
}

#[test]
fn the_device_is_corrupt() {
    let (mut handle, mut device) = busy();
    device.disconnected(conn(2), Status::Ok);
    ends_in_order(&mut handle, &device, Status::Corrupt);
}

#[test]
fn the_system_has_nothing_left() {
    let (mut handle, mut device) = busy();
    device.deliver(Err(Status::System));
    ends_in_order(&mut handle, &device, Status::System);
}

#[test]
fn a_call_finds_the_device_corrupt() {
    let (mut handle, device) = busy();
    // The index of the submission ring's consumer goes back.
    let index = (FIRST_INDEX - 1).to_ne_bytes();
    device.queues[0]
        .memory
        .write(256, &index)
        .expect("in range");
    for _ in 0..2 {
        assert_eq!(send(&mut handle), Err(Status::Detached));
    }
    ends_in_order(&mut handle, &device, Status::Corrupt);
}

#[test]
fn events_that_the_device_wrote_before_it_died_are_reported() {
    let (mut handle, mut device) = connected();
    send(&mut handle).expect("room");
    let submission = device.take(1)[0];
    device.die();
    device.answer(&submission, Status::Ok);
    device.pdu(conn(1), b"x");
    wait(&handle);
    let (told, reason) = last_events(&mut handle);
    assert_eq!(reason, Status::Detached);
    assert!(matches!(
        told[..],
        [
            Event::Sent {
                status: Status::Ok,
                ..
            },
            Event::Pdu { .. },
            DISCONNECTED
        ]
    ));
}

#[test]
fn the_end_of_a_connection_that_was_held_back_is_reported_once() {
    let (mut handle, mut device) = busy();
    device.disconnected(conn(1), Status::Reset);
    device.die();
    ends_in_order(&mut handle, &device, Status::Detached);
}

#[test]
fn a_transfer_under_way_is_reported_too() {
    let (mut handle, mut device) = connected();
    handle.transfer(conn(1), 5, None, b"x").expect("room");
    device.die();
    let transferred = Event::Transferred {
        conn: conn(1),
        cookie: 5,
        status: Status::Flushed,
        token: [0; 16],
    };
    let expected = vec![transferred, DISCONNECTED];
    assert_eq!(last_events(&mut handle), (expected, Status::Detached));
}

#[test]
fn an_attachment_that_is_refused_has_the_reason_of_the_device() {
    for reason in [
        Status::Version,
        Status::Denied,
        Status::Limit,
        Status::NoToken,
    ] {
        let (mut handle, mut device) = attaching(Role::Worker);
        let (cookie, _) = device.request();
        device.reply(cookie, kind::ATTACH, reason);
        assert_eq!(last_events(&mut handle), (vec![], reason));
        let (mut handle, mut device) = attaching(Role::Listener);
        let status = reason.code();
        let version = match reason {
            Status::Version => 9,
            _ => 0,
        };
        device.say(0, Answer::Detached(abi::Detached { status, version }));
        assert_eq!(last_events(&mut handle), (vec![], reason));
        let said = (reason == Status::Version).then_some(9);
        assert_eq!(handle.device_version(), said, "both can be said");
    }
}

#[test]
fn a_device_of_another_version_is_refused() {
    let (mut handle, mut device) = attaching(Role::Worker);
    let (cookie, _) = device.request();
    let mut other = params();
    other.version += 1;
    device.say(cookie, Answer::Attached(other));
    assert_eq!(last_events(&mut handle), (vec![], Status::Version));
    assert_eq!(handle.device_version(), Some(other.version));
}

#[test]
fn a_device_that_dies_before_it_answers_is_gone() {
    let (mut handle, mut device) = attaching(Role::Worker);
    device.die();
    assert_eq!(last_events(&mut handle), (vec![], Status::Detached));
}

#[test]
fn a_handle_that_is_dropped_ends_its_attachment() {
    let (handle, device) = attached(Role::Worker);
    assert!(!device.is_closed());
    drop(handle);
    assert!(device.is_closed());
}

#[test]
fn a_handle_may_go_to_another_thread() {
    const fn check<T: Send>() {}
    check::<Handle>();
}

#[test]
fn learns_why_the_device_refused_it_before_it_could_ask() {
    let (near, device) = SeqSocket::pair().unwrap();
    let detached = abi::Detached {
        status: Status::Denied.code(),
        version: 0,
    };
    let mut message = Vec::new();
    encode(0, &detached, &[], &mut message);
    device.send(&message, &[]).unwrap();
    drop(device);
    let channel = SocketChannel::new(near).unwrap();
    let mut handle = Handle::over(channel, Role::Worker, None).unwrap();
    let status = Status::Denied;
    assert_eq!(handle.next_event(), Ok(Some(Event::Detached { status })));
    assert_eq!(handle.next_event(), Err(Status::Detached));
}
