// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests what a process is told, in which order, and what wakes it.

use std::io::IoSlice;

use smbdirect::device::abi::{self, Completion, event, op};
use smbdirect::device::message::Answer;
use smbdirect::device::{Direction, Event, Role, Status};

use super::script::{
    DEPTH, OUTSTANDING, RECEIVE_UNIT, Worker, attached, attaching, completion, conn, connected,
    events, info, is_readable, last_events, params, wait,
};

#[test]
fn a_listener_learns_of_connections_without_an_owner() {
    let (mut handle, mut device) = attached(Role::Listener);
    for token in [[1; 16], [2; 16]] {
        let info = info(0);
        device.say(0, Answer::Offer(abi::Offer { token, info }));
    }
    wait(&handle);
    let offer = |token| Event::Offer {
        token,
        info: info(0),
    };
    assert_eq!(events(&mut handle), [offer([1; 16]), offer([2; 16])]);
    assert!(!is_readable(&handle));
}

#[test]
fn the_last_addresses_that_the_device_named_are_known() {
    let address = |last: u8| abi::Address {
        address: [last; 16],
        link_speed: 25_000_000_000,
        interface: 3,
        scope_id: 0,
        port: 5445,
        reserved: [0; 3],
    };
    for role in [Role::Listener, Role::Worker] {
        let (mut handle, mut device) = attaching(role);
        assert_eq!(handle.addresses(), Err(Status::NotAttached));
        device.say(0, Answer::Addresses(vec![address(1), address(2)]));
        let (cookie, _) = device.request();
        device.say(cookie, Answer::Attached(params()));
        if role == Role::Worker {
            wait(&handle);
            assert_eq!(events(&mut handle), []);
            assert_eq!(handle.addresses(), Err(Status::NotAttached));
            assert_eq!(device.grow(), abi::region::SEND);
        }
        wait(&handle);
        assert_eq!(handle.next_event(), Ok(Some(Event::Attached)));
        assert_eq!(handle.addresses(), Ok(&[address(1), address(2)][..]));
        assert_eq!(handle.next_event(), Ok(None));
        for last in [vec![address(3)], vec![]] {
            device.say(0, Answer::Addresses(last.clone()));
            wait(&handle);
            assert_eq!(handle.next_event(), Ok(None), "no event");
            assert_eq!(handle.addresses(), Ok(&last[..]));
        }
        device.die();
        wait(&handle);
        last_events(&mut handle);
        assert_eq!(handle.addresses(), Err(Status::Detached));
    }
}

#[test]
fn does_not_look_for_messages_while_the_rings_hold_something() {
    let (mut handle, mut device) = connected();
    for number in 2..10 {
        device.connect(info(conn(number)));
    }
    let before = device.looked();
    for _ in 2..10 {
        let event = handle.next_event();
        assert!(matches!(event, Ok(Some(Event::Connection { .. }))));
    }
    assert_eq!(device.looked(), before);
    assert_eq!(handle.next_event(), Ok(None));
    assert!(device.looked() > before);
}

#[test]
fn a_sleeping_process_is_woken_once() {
    let (mut handle, mut device) = connected();
    for round in 1..=3 {
        assert_eq!(handle.next_event(), Ok(None));
        assert!(!is_readable(&handle));
        let before = device.queue(1).wakes.0.get();
        device.pdu(conn(1), b"one");
        device.pdu(conn(1), b"two");
        assert_eq!(device.queue(1).wakes.0.get(), before + 1, "{round}");
        wait(&handle);
        let told = events(&mut handle);
        assert_eq!(told.len(), 2, "{told:?}");
        for event in told {
            let Event::Pdu { pdu, .. } = event else {
                panic!("{event:?}");
            };
            handle.take_pdu(pdu, &mut [0; 3]).expect("held");
        }
        device.take(1);
    }
}

#[test]
fn a_sleeping_device_is_woken_once() {
    let (mut handle, mut device) = connected();
    let rung = device.queue(1).rung.clone();
    let before = rung.0.get();
    assert_eq!(device.queue(1).submissions.announce_sleep(), Ok(true));
    for cookie in 0..3 {
        let pieces = [IoSlice::new(b"x")];
        handle
            .send_pdu(conn(1), cookie, &pieces, None)
            .expect("room");
    }
    assert_eq!(rung.0.get(), before + 1);
    assert_eq!(device.take(1).len(), 3);
    handle.disconnect(conn(1)).expect("there");
    assert_eq!(rung.0.get(), before + 1, "awake");
}

/// Submits RDMA WRITEs without waking the device.
fn defer(handle: &mut Worker, buffer: u64, count: u64) {
    // Each WRITE has one descriptor of 100 bytes.
    let mut descriptor = [0; 16];
    descriptor[12..].copy_from_slice(&100_u32.to_le_bytes());
    for cookie in 0..count {
        let write = Direction::Write;
        handle
            .rdma_deferred(write, conn(1), cookie, buffer, 0, 100, &descriptor)
            .expect("room");
    }
}

#[test]
fn the_device_is_woken_for_deferred_work_by_the_next_call_or_before_sleep() {
    let (mut handle, mut device) = connected();
    let buffer = handle.allocate(100).expect("room").number;
    let rung = device.queue(1).rung.clone();
    let mut before = rung.0.get();
    type Follow = fn(&mut Worker);
    let ways: [(&str, Follow); 3] = [
        ("a message", |handle| {
            let sent = handle.send_pdu(conn(1), 9, &[IoSlice::new(b"x")], None);
            sent.expect("room");
        }),
        ("flush", |handle| handle.flush().expect("attached")),
        ("sleep", |handle| assert_eq!(handle.next_event(), Ok(None))),
    ];
    for (name, follow) in ways {
        assert_eq!(device.queue(1).submissions.announce_sleep(), Ok(true));
        defer(&mut handle, buffer, 2);
        assert_eq!(handle.peek_event(), Ok(None));
        assert_eq!(rung.0.get(), before, "{name}");
        follow(&mut handle);
        before += 1;
        assert_eq!(rung.0.get(), before, "{name}");
        handle.flush().expect("attached");
        assert_eq!(rung.0.get(), before, "{name}: once");
        let submissions = device.take(1);
        assert_eq!(
            (submissions[0].op, submissions[1].op),
            (op::RDMA_WRITE, op::RDMA_WRITE)
        );
        for submission in submissions {
            device.answer(&submission, Status::Ok);
        }
        events(&mut handle);
        device.take(1);
    }
}

#[test]
fn the_device_is_woken_for_deferred_work_when_the_next_operation_finds_no_room() {
    let (mut handle, mut device) = connected();
    let buffer = handle.allocate(100).expect("room").number;
    let rung = device.queue(1).rung.clone();
    let before = rung.0.get();
    assert_eq!(device.queue(1).submissions.announce_sleep(), Ok(true));
    defer(&mut handle, buffer, OUTSTANDING.into());
    assert_eq!(rung.0.get(), before);
    let refused = handle.send_pdu(conn(1), 9, &[IoSlice::new(b"x")], None);
    assert_eq!(refused, Err(Status::Again));
    assert_eq!(rung.0.get(), before + 1);
}

#[test]
fn a_flush_lets_the_worker_sleep_although_the_ring_is_full() {
    let (mut handle, mut device) = connected();
    // Give back more messages than the ring has room for, while the device takes none.
    for _ in 0..=DEPTH {
        device.pdu(conn(1), b"one");
        let [Event::Pdu { pdu, .. }] = events(&mut handle)[..] else {
            panic!("a message");
        };
        handle.take_pdu(pdu, &mut [0; 3]).expect("held");
    }
    assert_eq!(events(&mut handle), []);
    for _ in 0..3 {
        handle.flush().expect("attached");
        assert!(!is_readable(&handle));
    }
    assert_eq!(device.take(1).len(), DEPTH as usize);
}

#[test]
fn a_device_that_wants_no_room_is_not_woken_for_messages_that_go_back() {
    let (mut handle, mut device) = connected();
    let rung = device.queue(1).rung.clone();
    let mut expected = rung.0.get();
    for wants_room in [false, true, false] {
        let submissions = &mut device.queue(1).submissions;
        let asleep = match wants_room {
            true => submissions.announce_sleep(),
            false => submissions.announce_deep_sleep(),
        };
        assert_eq!(asleep, Ok(true));
        device.pdu(conn(1), b"one");
        let [Event::Pdu { pdu, .. }] = events(&mut handle)[..] else {
            panic!("a message");
        };
        handle.take_pdu(pdu, &mut [0; 3]).expect("held");
        expected += u32::from(wants_room);
        assert_eq!(rung.0.get(), expected);
        handle
            .send_pdu(conn(1), 1, &[IoSlice::new(b"x")], None)
            .expect("room");
        expected += u32::from(!wants_room);
        assert_eq!(rung.0.get(), expected, "what is submitted brings it along");
        let taken: Vec<_> = device.take(1).iter().map(|entry| entry.op).collect();
        assert_eq!(taken, [op::RECYCLE, op::SEND_PDU]);
    }
}

#[test]
fn a_sleeping_device_is_woken_when_messages_that_go_back_find_no_room() {
    let (mut handle, mut device) = connected();
    let rung = device.queue(1).rung.clone();
    let before = rung.0.get();
    assert_eq!(device.queue(1).submissions.announce_deep_sleep(), Ok(true));
    for taken in 0..=DEPTH {
        assert_eq!(rung.0.get(), before, "{taken}");
        if taken == 8 {
            device.share_receive(1);
        }
        device.pdu(conn(1), b"one");
        let [Event::Pdu { pdu, .. }] = events(&mut handle)[..] else {
            panic!("a message");
        };
        handle.take_pdu(pdu, &mut [0; 3]).expect("held");
    }
    assert_eq!(rung.0.get(), before + 1);
}

#[test]
fn an_entry_may_be_seen_before_the_segment_that_it_names() {
    let (mut handle, mut device) = connected();
    let token = Answer::Wake(abi::Wake { reserved: 0 });
    for _ in 0..100 {
        device.say(0, token.clone());
    }
    device.share_receive(1);
    device.queue(1).fill(&vec![0; 4 * RECEIVE_UNIT as usize]);
    device.queue(1).fill(&vec![0; 4 * RECEIVE_UNIT as usize]);
    device.pdu(conn(1), b"in the second segment");
    let Ok(Some(Event::Pdu { pdu, length, .. })) = handle.next_event() else {
        panic!("a message");
    };
    let mut target = vec![0; length as usize];
    handle.take_pdu(pdu, &mut target).expect("held");
    assert_eq!(target, b"in the second segment");
}

#[test]
fn queues_take_turns() {
    let (mut handle, mut device) = connected();
    device.share_queue(2);
    device.share_receive(2);
    let other = 2 << 48 | 1;
    device.connect(info(other));
    assert_eq!(events(&mut handle).len(), 1);
    for bytes in [b"a", b"b"] {
        device.pdu(conn(1), bytes);
        device.pdu(other, bytes);
    }
    let mut conns = Vec::new();
    for event in events(&mut handle) {
        let Event::Pdu { conn, .. } = event else {
            panic!("{event:?}");
        };
        conns.push(conn);
    }
    conns.dedup();
    assert_eq!(conns.len(), 2, "each queue in one go: {conns:x?}");
}

#[test]
fn the_end_of_a_connection_is_reported_after_everything_on_it() {
    let (mut handle, mut device) = connected();
    let pieces = [IoSlice::new(b"x")];
    handle.send_pdu(conn(1), 5, &pieces, None).expect("room");
    device.disconnected(conn(1), Status::Reset);
    assert_eq!(events(&mut handle), []);
    let late = handle.send_pdu(conn(1), 6, &pieces, None);
    assert_eq!(late, Err(Status::NoConnection));
    assert_eq!(handle.disconnect(conn(1)), Ok(()));
    let submissions = device.take(1);
    assert_eq!(submissions.len(), 1, "nothing for an ended connection");
    device.answer(&submissions[0], Status::Flushed);
    let sent = Event::Sent {
        conn: conn(1),
        cookie: 5,
        status: Status::Flushed,
        length: 1,
    };
    let gone = Event::Disconnected {
        conn: conn(1),
        status: Status::Reset,
    };
    assert_eq!(events(&mut handle), [sent, gone]);
    device.connect(info(conn(1)));
    assert_eq!(events(&mut handle).len(), 1, "the number is free again");
}

#[test]
fn a_message_outlives_its_connection() {
    let (mut handle, mut device) = connected();
    device.pdu(conn(1), b"last words");
    device.disconnected(conn(1), Status::ClosedByPeer);
    let told = events(&mut handle);
    let [Event::Pdu { pdu, .. }, Event::Disconnected { .. }] = told[..] else {
        panic!("{told:?}");
    };
    let mut target = [0; 10];
    handle.take_pdu(pdu, &mut target).expect("held");
    assert_eq!(&target, b"last words");
}

#[test]
fn a_status_of_a_later_version_is_a_failure_of_the_fabric() {
    let (mut handle, mut device) = connected();
    device.complete(Completion {
        status: 1000,
        ..completion(event::DISCONNECTED, conn(1))
    });
    let gone = Event::Disconnected {
        conn: conn(1),
        status: Status::Fabric,
    };
    assert_eq!(events(&mut handle), [gone]);
}

#[test]
fn a_flood_of_messages_leaves_the_caller_its_turn() {
    let (mut handle, mut device) = attached(Role::Worker);
    for _ in 0..1000 {
        device.say(0, Answer::Wake(abi::Wake { reserved: 0 }));
    }
    let before = device.looked();
    assert_eq!(handle.next_event(), Ok(None));
    assert!(device.looked() - before < 100);
    assert!(is_readable(&handle), "there is more");
    while is_readable(&handle) {
        assert_eq!(handle.next_event(), Ok(None));
    }
    assert!(device.looked() > 1000);
}

#[test]
fn an_answer_is_reported_although_the_rings_are_never_empty() {
    let (mut handle, mut device) = connected();
    handle.claim(3, [1; 16]).expect("sent");
    let (cookie, _) = device.request();
    device.reply(cookie, abi::kind::CLAIM, Status::NoToken);
    let before = device.looked();
    for number in 0..1000 {
        device.pdu(conn(1), b"message");
        match handle.next_event() {
            Ok(Some(Event::Pdu { pdu, .. })) => handle.take_pdu(pdu, &mut []).expect("held"),
            Ok(Some(Event::Reply { cookie: 3, .. })) => {
                assert!(device.looked() - before < 5);
                return;
            }
            other => panic!("{other:?} at {number}"),
        }
        device.take(1);
    }
    panic!("no answer");
}

/// A client's second connection may arrive at another reactor while the first one's queue is busy.
#[test]
fn another_queue_is_served_although_the_first_is_never_empty() {
    for peeks in [false, true] {
        let (mut handle, mut device) = connected();
        device.share_queue(2);
        device.share_receive(2);
        device.connect(info(2 << 48 | 1));
        let mut messages = 0;
        loop {
            device.pdu(conn(1), b"message");
            let next = if peeks {
                handle.peek_event()
            } else {
                handle.next_event()
            };
            match next {
                Ok(Some(Event::Pdu { pdu, .. })) => handle.take_pdu(pdu, &mut []).expect("held"),
                Ok(Some(Event::Connection { .. })) => break,
                other => panic!("{other:?} after {messages}"),
            }
            device.take(1);
            messages += 1;
            assert!(messages < 1000, "the other queue is not served");
        }
    }
}
