// SPDX-License-Identifier: GPL-2.0-or-later

//! Checks that the library allocates nothing for an operation once its tables have grown.

use std::io::IoSlice;

use smbdirect::device::{Direction, Event, Status};

use crate::script::{Device, Worker, conn, connected};

/// Takes everything that was submitted and answers it. Allocations here belong to the test.
fn answer_all(device: &mut Device) {
    for submission in device.take(1) {
        if submission.cookie != 0 {
            device.answer(&submission, Status::Ok);
        }
    }
}

/// Does the operations for one READ of a client: a request comes, and its data and the response go out.
fn serve(handle: &mut Worker, device: &mut Device, cookie: u64) -> u64 {
    device.pdu(conn(1), b"request");
    let descriptors = [[0; 8], [1, 0, 0, 0, 200, 0, 0, 0]].concat();
    let response = [IoSlice::new(b"head"), IoSlice::new(b"body")];
    let mut buffer = 0;
    let calls = allocation_counter::measure(|| {
        let Ok(Some(Event::Pdu { pdu, .. })) = handle.next_event() else {
            panic!("a request");
        };
        handle.take_pdu(pdu, &mut [0; 7]).expect("held");
        buffer = handle.allocate(200).expect("room").number;
        let write = Direction::Write;
        let rdma = handle.rdma(write, conn(1), cookie, buffer, 0, 200, &descriptors);
        rdma.expect("room");
        handle
            .send_pdu(conn(1), cookie, &response, Some(1))
            .expect("room");
        assert_eq!(handle.free(buffer), Err(Status::Busy));
        assert_eq!(handle.next_event(), Ok(None));
    });
    answer_all(device);
    let events = allocation_counter::measure(|| {
        let done = handle.next_event();
        assert!(matches!(done, Ok(Some(Event::RdmaDone { .. }))), "{done:?}");
        let sent = handle.next_event();
        assert!(matches!(sent, Ok(Some(Event::Sent { .. }))), "{sent:?}");
        assert_eq!(handle.next_event(), Ok(None));
        handle.free(buffer).expect("no longer in use");
        handle.conn_counts(conn(1)).expect("there");
    });
    calls.count_total + events.count_total
}

#[test]
fn an_operation_allocates_nothing() {
    let (mut handle, mut device) = connected();
    let first = serve(&mut handle, &mut device, 0);
    assert!(first > 0, "the tables grow once");
    for cookie in 1..200 {
        assert_eq!(serve(&mut handle, &mut device, cookie), 0, "{cookie}");
    }
}
