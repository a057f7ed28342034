// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests what a process may ask for, and what the device refuses.

use std::io::IoSlice;

use smbdirect::device::abi::{
    self, Completion, Place, SetParameters, event, flags, kind, op, region,
};
use smbdirect::device::message::{Answer, Request};
use smbdirect::device::{ConnCounts, Direction, Event, Handle, Role, Status};
use smbdirect::units::RemoteToken;
use smbdirect::wire::BufferDescriptorV1;
use zerocopy::FromZeros;

use super::script::{
    BULK_UNIT, DEPTH, Device, OUTSTANDING, SEND_UNIT, Worker, attached, attached_with, attaching,
    completion, conn, connected, events, info, is_readable, last_events, params, parsed, wait,
};

fn send(handle: &mut Worker, cookie: u64, bytes: &[u8]) -> Result<(), Status> {
    handle.send_pdu(conn(1), cookie, &[IoSlice::new(bytes)], None)
}

fn list(lengths: &[u32]) -> Vec<u8> {
    let emit = |&length| {
        BufferDescriptorV1 {
            offset: 0x1000,
            token: RemoteToken(5),
            length,
        }
        .emit()
    };
    lengths.iter().flat_map(emit).collect()
}

fn bytes_at(device: &Device, place: u64, length: usize) -> Vec<u8> {
    let Place { segment, offset } = Place::from_bits(place);
    let memory = &device.send[usize::from(segment)];
    memory.to_vec(offset as usize, length).expect("in range")
}

#[test]
fn calls_before_the_answer_to_attach_are_refused() {
    let (mut handle, mut device) = attaching(Role::Worker);
    assert_eq!(handle.next_event(), Ok(None));
    assert_eq!(handle.mem_params(), Err(Status::NotAttached));
    assert_eq!(handle.claim(1, [1; 16]), Err(Status::NotAttached));
    assert_eq!(handle.decline(1, [1; 16]), Err(Status::NotAttached));
    assert_eq!(handle.allocate(1), Err(Status::NotAttached));
    let (cookie, _) = device.request();
    device.say(cookie, Answer::Attached(params()));
    wait(&handle);
    assert_eq!(events(&mut handle), []);
    assert_eq!(handle.mem_params(), Err(Status::NotAttached));
    assert_eq!(device.grow(), region::SEND);
    wait(&handle);
    assert_eq!(events(&mut handle), [Event::Attached]);
    assert_eq!(handle.mem_params(), Ok(params().memory));
    assert_eq!(
        device.try_request(),
        None,
        "an idle worker asks for nothing else"
    );
}

#[test]
fn a_worker_that_could_not_answer_is_not_attached() {
    let (mut handle, mut device) = attaching(Role::Worker);
    let (cookie, _) = device.request();
    device.say(cookie, Answer::Attached(params()));
    // A connection may arrive before the worker is attached, but it is not reported.
    device.share_queue(1);
    device.share_receive(1);
    device.connect(info(conn(1)));
    assert_eq!(events(&mut handle), []);
    let (cookie, _) = device.request();
    device.reply(cookie, kind::GROW, Status::Limit);
    let (told, reason) = last_events(&mut handle);
    assert_eq!((told, reason), (vec![], Status::Limit));
}

#[test]
fn each_role_has_its_own_calls() {
    let (mut listener, _device) = attached(Role::Listener);
    let (mut worker, _device) = attached(Role::Worker);
    let parameters = SetParameters::new_zeroed();
    assert_eq!(
        worker.set_parameters(1, parameters, &[]),
        Err(Status::NotAttached)
    );
    assert_eq!(listener.set_parameters(1, parameters, &[]), Ok(()));
    assert_eq!(listener.claim(1, [1; 16]), Err(Status::NotAttached));
    assert_eq!(
        listener.set_session_id(1, [1; 16], 0, false),
        Err(Status::NotAttached)
    );
    assert_eq!(listener.allocate(1), Err(Status::NotAttached));
    assert_eq!(listener.conn_info(conn(1)), Err(Status::NotAttached));
    assert_eq!(listener.mem_params(), Ok(params().memory));
}

#[test]
fn requests_say_what_was_asked_and_their_replies_come_back() {
    let (mut listener, mut device) = attached(Role::Listener);
    let mut parameters = SetParameters::new_zeroed();
    parameters.receive_credit_max = 100;
    parameters.security_blob_length = 77;
    listener
        .set_parameters(5, parameters, b"blob")
        .expect("sent");
    let (cookie, message) = device.request();
    parameters.security_blob_length = 4;
    let request = Request::SetParameters(parameters, b"blob");
    assert_eq!(parsed(&message), Some(request));
    assert_ne!(cookie, 5, "the caller's cookie stays here");
    device.reply(cookie, kind::SET_PARAMETERS, Status::Invalid);
    let reply = Event::Reply {
        cookie: 5,
        status: Status::Invalid,
    };
    assert_eq!(events(&mut listener), [reply]);
    let long = vec![0; abi::MAX_SECURITY_BLOB + 1];
    let refusal = listener.set_parameters(5, parameters, &long);
    assert_eq!(refusal, Err(Status::TooLong));
    parameters.reserved[1] = 1;
    let refusal = listener.set_parameters(5, parameters, &[]);
    assert_eq!(refusal, Err(Status::Invalid));

    let (mut worker, mut device) = attached(Role::Worker);
    assert_eq!(worker.claim(1, [0; 16]), Err(Status::Invalid));
    let zeros = worker.set_session_id(1, [0; 16], 3, false);
    assert_eq!(zeros, Err(Status::Invalid));
    worker
        .set_session_id(u64::MAX, [4; 16], 3, true)
        .expect("sent");
    worker.claim(u64::MAX, [8; 16]).expect("sent");
    let (session, message) = device.request();
    assert_eq!(
        parsed(&message),
        Some(Request::SetSessionId(abi::SetSessionId {
            session_id: 3,
            client_guid: [4; 16],
            remove: 1,
            reserved: 0,
        }))
    );
    let (claim, message) = device.request();
    let expected = Request::Claim(abi::Claim { token: [8; 16] });
    assert_eq!(parsed(&message), Some(expected));
    device.reply(claim, kind::CLAIM, Status::NoToken);
    device.reply(session, kind::SET_SESSION_ID, Status::Ok);
    let reply = |status| Event::Reply {
        cookie: u64::MAX,
        status,
    };
    let expected = [reply(Status::NoToken), reply(Status::Ok)];
    assert_eq!(events(&mut worker), expected);
}

#[test]
fn a_token_of_zeros_or_with_a_listener_is_refused() {
    let (spare, _device) = super::script::ends();
    let refusal = Handle::over(spare, Role::Worker, Some([0; 16])).map(|_| ());
    assert_eq!(refusal, Err(Status::Invalid));
    let (spare, _device) = super::script::ends();
    let refusal = Handle::over(spare, Role::Listener, Some([1; 16])).map(|_| ());
    assert_eq!(refusal, Err(Status::Invalid));
}

#[test]
fn a_process_whose_request_finds_no_room_is_told_when_there_is_room() {
    let (mut handle, mut device) = attached(Role::Worker);
    let sent = (0..1000).take_while(|n| handle.claim(*n, [1; 16]).is_ok());
    let sent = sent.count();
    assert!((16..1000).contains(&sent), "{sent} without an answer");
    assert_eq!(handle.claim(0, [1; 16]), Err(Status::Again));
    assert_eq!(events(&mut handle), []);
    let (cookie, _) = device.request();
    device.reply(cookie, kind::CLAIM, Status::NoToken);
    let told = events(&mut handle);
    assert!(matches!(
        told[..],
        [Event::Reply { cookie: 0, .. }, Event::Room]
    ));
    assert_eq!(handle.claim(0, [1; 16]), Ok(()));
    device.receives(false);
    let (cookie, _) = device.request();
    device.reply(cookie, kind::CLAIM, Status::NoToken);
    assert_eq!(events(&mut handle).len(), 1, "no call was refused");
    assert_eq!(handle.claim(0, [1; 16]), Err(Status::Again));
    device.receives(true);
    let (cookie, _) = device.request();
    device.reply(cookie, kind::CLAIM, Status::NoToken);
    assert_eq!(events(&mut handle).pop(), Some(Event::Room));
}

#[test]
fn a_message_is_copied_into_shared_memory_and_its_cookie_is_not() {
    let (mut handle, mut device) = connected();
    let cookie = 0x7fff_1234_5678;
    let pieces = [&b"head"[..], b"", b"body"].map(IoSlice::new);
    handle
        .send_pdu(conn(1), cookie, &pieces, Some(99))
        .expect("room");
    let [submission] = device.take(1)[..] else {
        panic!("one submission");
    };
    assert_eq!(submission.op, op::SEND_PDU);
    assert_eq!((submission.conn, submission.length), (conn(1), 8));
    assert_eq!(
        (submission.flags, submission.token),
        (flags::INVALIDATE, 99)
    );
    assert_ne!(submission.cookie, cookie);
    assert_eq!(bytes_at(&device, submission.place, 8), b"headbody");
    let counts = |sent_bytes, unsent_bytes| ConnCounts {
        sent_bytes,
        unsent_bytes,
        rdma_operations: 0,
    };
    assert_eq!(handle.conn_counts(conn(1)), Ok(counts(0, 8)));
    device.answer(&submission, Status::Ok);
    let sent = |status| Event::Sent {
        conn: conn(1),
        cookie,
        status,
        length: 8,
    };
    assert_eq!(events(&mut handle), [sent(Status::Ok)]);
    assert_eq!(handle.conn_counts(conn(1)), Ok(counts(8, 0)));

    handle
        .send_pdu(conn(1), cookie, &pieces, None)
        .expect("room");
    let [submission] = device.take(1)[..] else {
        panic!("one submission");
    };
    assert_eq!((submission.flags, submission.token), (0, 0));
    device.answer(&submission, Status::Flushed);
    assert_eq!(events(&mut handle), [sent(Status::Flushed)]);
    assert_eq!(handle.conn_counts(conn(1)), Ok(counts(8, 0)));
}

#[test]
fn a_message_has_a_length_that_the_connection_allows() {
    let (mut handle, mut device) = connected();
    let longest = info(conn(1)).max_fragmented_send_size as usize;
    assert_eq!(send(&mut handle, 1, &[]), Err(Status::Invalid));
    assert_eq!(
        handle.send_pdu(conn(1), 1, &[IoSlice::new(b"")], None),
        Err(Status::Invalid)
    );
    let long = vec![1; longest + 1];
    assert_eq!(send(&mut handle, 1, &long), Err(Status::TooLong));
    assert_eq!(send(&mut handle, 1, &long[1..]), Ok(()));
    let [submission] = device.take(1)[..] else {
        panic!("one submission");
    };
    assert_eq!(bytes_at(&device, submission.place, longest), &long[1..]);

    // The region's longest buffer is shorter than the connection allows.
    device.connect(abi::ConnInfo {
        max_fragmented_send_size: u32::MAX,
        ..info(conn(2))
    });
    events(&mut handle);
    let too_long = vec![0; (SEND_UNIT * 32 + 1) as usize];
    let refusal = handle.send_pdu(conn(2), 1, &[IoSlice::new(&too_long)], None);
    assert_eq!(refusal, Err(Status::TooLong));
}

#[test]
fn submissions_without_an_answer_are_bounded_and_room_is_reported_once() {
    let (mut handle, mut device) = connected();
    for cookie in 0..OUTSTANDING.into() {
        send(&mut handle, cookie, b"x").expect("room");
    }
    for _ in 0..3 {
        assert_eq!(send(&mut handle, 9, b"x"), Err(Status::Again));
    }
    assert_eq!(events(&mut handle), []);
    let submissions = device.take(1);
    assert_eq!(submissions.len(), OUTSTANDING as usize);
    assert_eq!(events(&mut handle), [], "taken, but not answered");
    device.answer(&submissions[3], Status::Ok);
    device.answer(&submissions[0], Status::Ok);
    wait(&handle);
    let told = events(&mut handle);
    assert!(
        matches!(
            told[..],
            [
                Event::Sent { cookie: 3, .. },
                Event::Room,
                Event::Sent { cookie: 0, .. }
            ]
        ),
        "{told:?}"
    );
    assert_eq!(send(&mut handle, 9, b"x"), Ok(()));
    device.answer(&submissions[1], Status::Ok);
    assert_eq!(events(&mut handle).len(), 1, "no call was refused since");
}

#[test]
fn a_full_ring_refuses_until_the_device_takes_something_out() {
    let mut large = params();
    large.submissions_outstanding = 1000;
    let (mut handle, mut device) = attached_with(Role::Worker, large);
    device.share_queue(1);
    device.share_receive(1);
    device.connect(info(conn(1)));
    events(&mut handle);
    device.take(1);
    for cookie in 0..DEPTH.into() {
        send(&mut handle, cookie, b"x").expect("room");
    }
    assert_eq!(events(&mut handle), []);
    assert_eq!(send(&mut handle, 99, b"x"), Err(Status::Again));
    wait(&handle);
    assert_eq!(events(&mut handle), []);
    assert!(!is_readable(&handle));
    assert_eq!(device.take(1).len(), DEPTH as usize);
    wait(&handle);
    assert_eq!(events(&mut handle), [Event::Room]);
    assert_eq!(send(&mut handle, 99, b"x"), Ok(()));
}

#[test]
fn messages_wait_for_memory_which_is_asked_for_once() {
    let (mut handle, mut device) = attached(Role::Worker);
    device.share_queue(1);
    device.share_receive(1);
    device.connect(info(conn(1)));
    events(&mut handle);
    // Two such messages fill a segment.
    let half = vec![7; SEND_UNIT as usize * 32];
    assert_eq!(send(&mut handle, 1, &half), Ok(()));
    assert_eq!(send(&mut handle, 2, &half), Ok(()));
    assert_eq!(send(&mut handle, 3, b"x"), Err(Status::Again));
    assert_eq!(send(&mut handle, 3, b"x"), Err(Status::Again));
    assert_eq!(events(&mut handle), []);
    assert_eq!(device.grow(), region::SEND);
    assert_eq!(device.try_request(), None);
    assert_eq!(events(&mut handle), [Event::Room]);
    assert_eq!(send(&mut handle, 3, b"x"), Ok(()));
}

#[test]
fn buffers_grow_on_demand_up_to_the_limit() {
    let (mut handle, mut device) = attached(Role::Worker);
    assert_eq!(handle.allocate(0), Err(Status::Invalid));
    let longest = 2 * BULK_UNIT as usize;
    assert_eq!(handle.allocate(longest + 1), Err(Status::TooLong));
    assert_eq!(device.try_request(), None);
    let mut buffers = Vec::new();
    for segment in 0..2 {
        assert_eq!(handle.allocate(longest), Err(Status::Again));
        assert_eq!(handle.allocate(longest), Err(Status::Again));
        assert_eq!(device.grow(), region::BULK, "{segment}");
        assert_eq!(device.try_request(), None);
        assert_eq!(events(&mut handle), [Event::Room]);
        buffers.extend([(); 2].map(|()| handle.allocate(longest - 5).expect("room")));
    }
    assert_eq!(handle.allocate(1), Err(Status::Again));
    assert_eq!(device.try_request(), None);
    let starts: Vec<_> = buffers.iter().map(|buffer| buffer.start.addr()).collect();
    assert_eq!(starts[1] - starts[0], longest);
    assert_eq!(buffers[3].length, longest);

    assert_eq!(events(&mut handle), []);
    handle.free(buffers[2].number).expect("in use");
    wait(&handle);
    assert_eq!(events(&mut handle), [Event::Room]);
    assert_eq!(handle.free(buffers[2].number), Err(Status::NoBuffer));
    assert_eq!(handle.free(0), Err(Status::NoBuffer));
    handle.free(buffers[1].number).expect("in use");
    assert_eq!(events(&mut handle), [], "no call was refused since");
}

#[test]
fn memory_that_the_device_refuses_is_asked_for_again_when_something_was_freed() {
    let (mut handle, mut device) = connected();
    let buffers = [(); 2].map(|()| handle.allocate(2 * BULK_UNIT as usize).expect("room"));
    assert_eq!(handle.allocate(1), Err(Status::Again));
    assert_eq!(device.refuse_to_grow(), region::BULK);
    assert_eq!(events(&mut handle), [Event::Room]);
    assert_eq!(handle.allocate(1), Err(Status::Again));
    assert_eq!(handle.allocate(1), Err(Status::Again));
    assert_eq!(device.try_request(), None);
    handle.free(buffers[0].number).expect("in use");
    assert_eq!(events(&mut handle), [Event::Room]);
    handle.allocate(2 * BULK_UNIT as usize).expect("room");
    assert_eq!(handle.allocate(1), Err(Status::Again));
    assert_eq!(device.asked_to_grow().1, region::BULK);
}

#[test]
fn memory_that_the_device_wants_goes_back_once_it_is_free() {
    let (mut handle, mut device) = connected();
    let buffers = [(); 2].map(|()| handle.allocate(1).expect("room"));
    device.reclaim(region::BULK, 0, 0);
    assert_eq!(events(&mut handle), []);
    assert_eq!(device.try_request(), None, "the segment is in use");
    // No new buffer is put into the segment.
    assert_eq!(handle.allocate(1), Err(Status::Again));
    let (cookie, _) = device.asked_to_grow();
    handle.free(buffers[0].number).expect("in use");
    assert_eq!(device.try_request(), None);
    handle.free(buffers[1].number).expect("in use");
    assert_eq!(device.released(), (region::BULK, 0, 0));
    assert_eq!(handle.free(buffers[1].number), Err(Status::NoBuffer));
    // The number of the segment is free again, so the next segment gets it.
    device.bulk.clear();
    device.grant(cookie, region::BULK);
    wait(&handle);
    assert!(events(&mut handle).contains(&Event::Room));
    let buffer = handle.allocate(1).expect("room");
    assert_ne!(buffer.number, buffers[0].number);
    assert_eq!(handle.free(buffers[0].number), Err(Status::NoBuffer));
    // Segments for messages go back in the same way, once the sent messages have gone.
    send(&mut handle, 3, b"x").expect("room");
    device.reclaim(region::SEND, 0, 0);
    assert_eq!(events(&mut handle), []);
    assert_eq!(device.try_request(), None);
    let submission = device.take(1)[0];
    device.answer(&submission, Status::Ok);
    assert_eq!(events(&mut handle).len(), 1);
    assert_eq!(device.released(), (region::SEND, 0, 0));
    // A segment for received messages goes back at once, because this side holds no such message.
    device.reclaim(region::RECEIVE, 1, 0);
    assert_eq!(events(&mut handle), []);
    assert_eq!(device.released(), (region::RECEIVE, 1, 0));
}

#[test]
fn memory_goes_back_later_if_the_device_does_not_listen() {
    let (mut handle, mut device) = connected();
    device.receives(false);
    device.reclaim(region::BULK, 0, 0);
    assert_eq!(events(&mut handle), []);
    assert_eq!(device.try_request(), None);
    device.receives(true);
    assert_eq!(handle.allocate(1), Err(Status::Again));
    assert_eq!(device.released(), (region::BULK, 0, 0));
    assert_eq!(device.grow(), region::BULK, "after it");
}

#[test]
fn memory_that_will_never_come_is_distinguished_from_memory_that_may_come() {
    let (mut handle, mut device) = attached(Role::Worker);
    for _ in 0..2 {
        assert_eq!(handle.allocate(1), Err(Status::Again));
        assert_eq!(device.refuse_to_grow(), region::BULK);
        assert_eq!(events(&mut handle), [Event::Room]);
        assert_eq!(handle.allocate(1), Err(Status::NoMemory));
        assert_eq!(events(&mut handle), [], "there is nothing to wait for");
    }
}

#[test]
fn an_rdma_operation_names_its_buffer_and_the_descriptors_that_it_needs() {
    let (mut handle, mut device) = connected();
    handle.allocate(1).expect("room");
    let buffer = handle.allocate(BULK_UNIT as usize).expect("room");
    let descriptors = list(&[100, 200, 300]);
    let mut rdma = |direction, cookie| {
        handle.rdma(
            direction,
            conn(1),
            cookie,
            buffer.number,
            50,
            300,
            &descriptors,
        )
    };
    rdma(Direction::Read, 1).expect("room");
    rdma(Direction::Write, 2).expect("room");
    let submissions = device.take(1);
    let [read, write] = submissions[..] else {
        panic!("{submissions:?}");
    };
    assert_eq!((read.op, write.op), (op::RDMA_READ, op::RDMA_WRITE));
    for submission in [read, write] {
        let place = Place::from_bits(submission.place);
        assert_eq!(
            (place.segment, place.offset),
            (0, u64::from(BULK_UNIT) + 50)
        );
        assert_eq!((submission.length, submission.descriptor_count), (300, 2));
        let bytes = bytes_at(&device, submission.descriptors, 32);
        assert_eq!(bytes, &descriptors[..32]);
    }
    let running = |handle: &Worker| handle.conn_counts(conn(1)).expect("there").rdma_operations;
    assert_eq!(running(&handle), 2);
    assert_eq!(handle.free(buffer.number), Err(Status::Busy));
    device.answer(&write, Status::Ok);
    device.answer(&read, Status::RemoteAccess);
    let done = |cookie, status| Event::RdmaDone {
        conn: conn(1),
        cookie,
        status,
    };
    let expected = [done(2, Status::Ok), done(1, Status::RemoteAccess)];
    assert_eq!(events(&mut handle), expected);
    assert_eq!(running(&handle), 0);
    assert_eq!(handle.free(buffer.number), Ok(()));
}

#[test]
fn an_rdma_operation_is_checked_before_anything_happens() {
    let (mut handle, mut device) = connected();
    let buffer = handle.allocate(1).expect("room").number;
    let mut small = info(conn(2));
    (small.initiator_depth, small.max_read_write_size) = (0, 1000);
    device.connect(small);
    events(&mut handle);
    let unit = BULK_UNIT as usize;
    let good = list(&[u32::MAX]);
    let mut wraps = good.clone();
    wraps[..8].copy_from_slice(&[0xff; 8]);
    let (write, read) = (Direction::Write, Direction::Read);
    for (direction, conn, buffer, offset, length, descriptors, expected) in [
        (write, conn(3), buffer, 0, 1, &good, Status::NoConnection),
        (read, conn(2), buffer, 0, 1, &good, Status::NoReads),
        (write, conn(2), buffer, 0, 1001, &good, Status::TooLong),
        (write, conn(1), buffer, 0, 0, &good, Status::Invalid),
        (write, conn(1), buffer + 1, 0, 1, &good, Status::NoBuffer),
        (write, conn(1), 0, 0, 1, &good, Status::NoBuffer),
        (
            write,
            conn(1),
            buffer,
            0,
            unit + 1,
            &good,
            Status::OutOfBounds,
        ),
        (write, conn(1), buffer, unit, 1, &good, Status::OutOfBounds),
        (
            read,
            conn(1),
            buffer,
            usize::MAX,
            1,
            &good,
            Status::OutOfBounds,
        ),
        (
            write,
            conn(1),
            buffer,
            0,
            usize::MAX,
            &good,
            Status::TooLong,
        ),
        (write, conn(1), buffer, 0, 1, &vec![], Status::Descriptors),
        (
            write,
            conn(1),
            buffer,
            0,
            1,
            &vec![1; 17],
            Status::Descriptors,
        ),
        (
            write,
            conn(1),
            buffer,
            0,
            1,
            &list(&[1, 0]),
            Status::Descriptors,
        ),
        (
            write,
            conn(1),
            buffer,
            0,
            1,
            &list(&[1; 4096]),
            Status::Descriptors,
        ),
        (write, conn(1), buffer, 0, 1, &wraps, Status::Descriptors),
        (
            write,
            conn(1),
            buffer,
            0,
            3,
            &list(&[1, 1]),
            Status::DescriptorsTooShort,
        ),
    ] {
        let result = handle.rdma(direction, conn, 1, buffer, offset, length, descriptors);
        assert_eq!(result, Err(expected), "{offset} {length}");
    }
    let most = list(&[1; 4095]);
    assert_eq!(
        handle.rdma(write, conn(1), 1, buffer, 0, 4095, &most),
        Ok(())
    );
    device.take(1);
    assert_eq!(events(&mut handle), []);
}

#[test]
fn a_message_is_copied_out_once_and_its_memory_goes_back() {
    let (mut handle, mut device) = connected();
    device.pdu(conn(1), b"message");
    let [
        Event::Pdu {
            conn: 0x1_0000_0000_0001,
            pdu,
            length: 7,
            data: None,
        },
    ] = events(&mut handle)[..]
    else {
        panic!("a message");
    };
    let mut target = [0; 10];
    assert_eq!(handle.take_pdu(pdu, &mut target[..6]), Err(Status::Invalid));
    assert_eq!(device.take(1), []);
    assert_eq!(handle.take_pdu(pdu, &mut target), Ok(()));
    assert_eq!(&target, b"message\0\0\0");
    let [recycle] = device.take(1)[..] else {
        panic!("one submission");
    };
    assert_eq!((recycle.op, recycle.conn), (op::RECYCLE, 1 << 48));
    for pdu in [pdu, 0, pdu + 1, recycle.place] {
        assert_eq!(handle.take_pdu(pdu, &mut target), Err(Status::NoBuffer));
    }
    device.pdu(conn(1), b"unwanted");
    let [Event::Pdu { pdu, .. }] = events(&mut handle)[..] else {
        panic!("a message");
    };
    assert_eq!(handle.take_pdu(pdu, &mut []), Ok(()));
    assert_eq!(device.take(1).len(), 1);
}

#[test]
fn buffers_that_find_no_room_in_the_ring_go_back_later() {
    let (mut handle, mut device) = connected();
    for cookie in 0..OUTSTANDING.into() {
        send(&mut handle, cookie, b"x").expect("room");
    }
    let mut taken = OUTSTANDING;
    while taken < DEPTH + 4 {
        device.pdu(conn(1), b"message");
        let [Event::Pdu { pdu, .. }] = events(&mut handle)[..] else {
            panic!("a message");
        };
        handle.take_pdu(pdu, &mut [0; 7]).expect("held");
        taken += 1;
        // The device may hand out a buffer again when it has found the buffer's number in the ring. Here it does not
        // look, and the ring has room for 8.
        if taken == OUTSTANDING + 8 {
            device.share_receive(1);
        }
    }
    assert_eq!(handle.disconnect(conn(1)), Ok(()));
    wait(&handle);
    assert_eq!(events(&mut handle), []);
    assert_eq!(device.take(1).len(), DEPTH as usize);
    wait(&handle);
    assert_eq!(events(&mut handle), []);
    let rest: Vec<_> = device.take(1).iter().map(|entry| entry.op).collect();
    assert_eq!(
        rest,
        [
            op::RECYCLE,
            op::RECYCLE,
            op::RECYCLE,
            op::RECYCLE,
            op::DISCONNECT
        ]
    );
}

#[test]
fn a_connection_that_is_ended_takes_nothing_more() {
    let (mut handle, mut device) = connected();
    let buffer = handle.allocate(1).expect("room").number;
    assert_eq!(handle.disconnect(conn(2)), Err(Status::NoConnection));
    assert_eq!(handle.disconnect(conn(1)), Ok(()));
    assert_eq!(handle.disconnect(conn(1)), Ok(()));
    let submissions = device.take(1);
    assert_eq!(submissions.len(), 1);
    assert_eq!(
        (submissions[0].op, submissions[0].conn),
        (op::DISCONNECT, conn(1))
    );
    assert_eq!(send(&mut handle, 1, b"x"), Err(Status::NoConnection));
    let rdma = handle.rdma(Direction::Write, conn(1), 1, buffer, 0, 1, &list(&[1]));
    assert_eq!(rdma, Err(Status::NoConnection));
    assert_eq!(
        handle.transfer(conn(1), 1, None, b"x"),
        Err(Status::NoConnection)
    );
    assert_eq!(handle.conn_info(conn(1)), Ok(info(conn(1))));
    device.disconnected(conn(1), Status::ClosedLocally);
    let gone = Event::Disconnected {
        conn: conn(1),
        status: Status::ClosedLocally,
    };
    assert_eq!(events(&mut handle), [gone]);
    assert_eq!(handle.conn_info(conn(1)), Err(Status::NoConnection));
    assert_eq!(handle.conn_counts(conn(1)), Err(Status::NoConnection));
    assert_eq!(handle.disconnect(conn(1)), Err(Status::NoConnection));
}

#[test]
fn says_once_that_a_session_is_on_a_connection() {
    let (mut handle, mut device) = connected();
    assert_eq!(handle.set_authenticated(conn(2)), Err(Status::NoConnection));
    assert_eq!(handle.set_authenticated(conn(1)), Ok(()));
    assert_eq!(handle.set_authenticated(conn(1)), Ok(()));
    let [submission] = device.take(1)[..] else {
        panic!("one submission");
    };
    assert_eq!(
        (submission.op, submission.conn),
        (op::AUTHENTICATED, conn(1))
    );
    assert_eq!(handle.disconnect(conn(1)), Ok(()));
    assert_eq!(handle.set_authenticated(conn(1)), Ok(()));
    device.disconnected(conn(1), Status::ClosedLocally);
    events(&mut handle);
    assert_eq!(handle.set_authenticated(conn(1)), Err(Status::NoConnection));
}

#[test]
fn a_transfer_takes_the_connection_away_if_it_succeeds() {
    let (mut handle, mut device) = connected();
    assert_eq!(
        handle.transfer(conn(1), 1, Some([0; 16]), b""),
        Err(Status::Invalid)
    );
    send(&mut handle, 1, b"x").expect("room");
    assert_eq!(handle.transfer(conn(1), 1, None, b""), Err(Status::Busy));
    let sent = device.take(1);
    device.answer(&sent[0], Status::Ok);
    events(&mut handle);

    handle
        .transfer(conn(1), 5, Some([3; 16]), b"first")
        .expect("room");
    assert_eq!(send(&mut handle, 1, b"x"), Err(Status::Busy));
    let [submission] = device.take(1)[..] else {
        panic!("one submission");
    };
    assert_eq!(bytes_at(&device, submission.place, 5), b"first");
    let transfer: abi::TransferSubmission = zerocopy::transmute!(submission);
    assert_eq!((transfer.client_guid, transfer.length), ([3; 16], 5));
    device.answer(&submission, Status::NoOwner);
    let answer = |status, token| Event::Transferred {
        conn: conn(1),
        cookie: 5,
        status,
        token,
    };
    assert_eq!(events(&mut handle), [answer(Status::NoOwner, [0; 16])]);
    assert_eq!(send(&mut handle, 1, b"x"), Ok(()), "still its own");
    let sent = device.take(1);
    device.answer(&sent[0], Status::Ok);
    events(&mut handle);

    handle.transfer(conn(1), 5, None, b"").expect("room");
    let [submission] = device.take(1)[..] else {
        panic!("one submission");
    };
    assert_eq!((submission.place, submission.length), (0, 0));
    device.complete(Completion {
        cookie: submission.cookie,
        token: [6; 16],
        ..completion(event::TRANSFERRED, conn(1))
    });
    assert_eq!(events(&mut handle), [answer(Status::Ok, [6; 16])]);
    assert_eq!(handle.conn_info(conn(1)), Err(Status::NoConnection));
}

#[test]
fn a_disconnect_during_a_transfer_that_fails_ends_the_connection() {
    let (mut handle, mut device) = connected();
    handle.transfer(conn(1), 5, None, b"").expect("room");
    handle.disconnect(conn(1)).expect("there");
    let [submission] = device.take(1)[..] else {
        panic!("only the transfer");
    };
    device.answer(&submission, Status::Busy);
    events(&mut handle);
    let submissions = device.take(1);
    assert_eq!(submissions.len(), 1);
    assert_eq!(submissions[0].op, op::DISCONNECT);
}
