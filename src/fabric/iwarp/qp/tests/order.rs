// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests which side may send which message, and when.

use super::*;

const WRITE: u8 = 0;
const READ_REQUEST: u8 = 1;
const READ_RESPONSE: u8 = 2;
const SEND: u8 = 3;

/// Returns the first opcode of each message.
fn first_of_each(opcodes: &[u8]) -> Vec<u8> {
    let mut opcodes = opcodes.to_vec();
    opcodes.dedup();
    opcodes
}

#[test]
fn a_responder_is_silent_until_the_initiator_has_spoken() {
    let responder = Agreed {
        peer_speaks_first: true,
        ..AGREED
    };
    let mut server = End::new(responder, 1440);
    let buffer = server.register(10, Access::Local);
    server.qp.post_recv(WrId(0), buffer.all()).unwrap();
    let read = RemoteAddress {
        token: RemoteToken(5),
        address: 0,
    };
    server.qp.post_send(WrId(1), b"late", None, None).unwrap();
    server.qp.post_read(WrId(2), buffer.all(), read).unwrap();
    assert!(!server.qp.has_segment());
    assert_eq!(server.next_fpdu(), Ok(None));
    let first = fpdu(&[&untagged([0x41, 0x43], 0, 0, 1, 0), b"hello"]);
    for byte in &first[..first.len() - 1] {
        server.receive(&[*byte], 1).unwrap();
        assert_eq!(server.next_fpdu(), Ok(None));
    }
    server.receive(&first[first.len() - 1..], 1).unwrap();
    assert!(server.qp.has_segment());
    assert_eq!(server.send_all(), [READ_REQUEST, SEND]);
}

#[test]
fn a_closed_responder_sends_posted_work_once_the_initiator_has_spoken() {
    let responder = Agreed {
        peer_speaks_first: true,
        ..AGREED
    };
    let mut server = End::new(responder, 1440);
    server.qp.post_send(WrId(1), b"bye", None, None).unwrap();
    assert_eq!(server.qp.flush_reads(), None);
    assert_eq!(server.next_fpdu(), Ok(None));
    server.receive(b"", 1).unwrap();
    assert_eq!(server.next_fpdu(), Ok(None));
    server.receive(b"whatever this is", 1).unwrap();
    assert_eq!(server.send_all(), [SEND]);
}

/// Makes a responder whose initiator announced a SEND as ready-to-receive, and a receive for the message that follows.
fn expects_ready_to_receive() -> (End, Region) {
    let responder = Agreed {
        peer_speaks_first: true,
        ready_to_receive_send: true,
        ..AGREED
    };
    let mut server = End::new(responder, 1440);
    let buffer = server.register(100, Access::Local);
    server.qp.post_send(WrId(1), b"go", None, None).unwrap();
    (server, buffer)
}

#[test]
fn the_ready_to_receive_send_uses_no_receive() {
    let (mut server, buffer) = expects_ready_to_receive();
    let ready = fpdu(&[&untagged([0x41, 0x43], 0, 0, 1, 0)]);
    server.receive(&ready, 100).unwrap();
    assert_eq!(server.send_all(), [SEND], "now the responder may send");
    server.qp.post_recv(WrId(2), buffer.all()).unwrap();
    // A second empty SEND is an ordinary message without bytes.
    for (msn, id) in [(2, 2), (3, 3)] {
        let empty = fpdu(&[&untagged([0x41, 0x43], 0, 0, msn, 0)]);
        let _ = server.qp.post_recv(WrId(3), buffer.all());
        server.take_done();
        server.receive(&empty, 100).unwrap();
        assert!(
            matches!(server.take_done()[..], [(done, Done::Recv { length: 0, .. })] if done == id)
        );
    }
}

#[test]
fn a_message_whose_last_fpdu_is_empty_is_not_taken_for_the_ready_to_receive() {
    let (mut server, buffer) = expects_ready_to_receive();
    server.qp.post_recv(WrId(2), buffer.all()).unwrap();
    let begin = fpdu(&[&untagged([0x01, 0x43], 0, 0, 1, 0), b"data"]);
    let end = fpdu(&[&untagged([0x41, 0x43], 0, 0, 1, 4)]);
    server.receive(&[begin, end].concat(), 100).unwrap();
    assert!(matches!(
        server.take_done()[..],
        [(2, Done::Recv { length: 4, .. })]
    ));
    buffer.holds(0, b"data");
}

#[test]
fn an_empty_send_that_invalidates_is_not_taken_for_the_ready_to_receive() {
    let (mut server, buffer) = expects_ready_to_receive();
    let target = server.register(1, Access::RemoteWrite);
    server.qp.post_recv(WrId(2), buffer.all()).unwrap();
    let token = target.remote.token.0;
    let empty = fpdu(&[&untagged([0x41, 0x44], token, 0, 1, 0)]);
    server.receive(&empty, 100).unwrap();
    assert!(matches!(
        server.take_done()[..],
        [(
            2,
            Done::Recv {
                invalidated: Some(_),
                ..
            }
        )]
    ));
}

#[test]
fn other_ready_to_receive_messages_need_nothing_posted() {
    let responder = Agreed {
        peer_speaks_first: true,
        ..AGREED
    };
    let write = fpdu(&[&tagged([0xc1, 0x40], 0, 0)]);
    let read = fpdu(&[&untagged([0x41, 0x41], 0, 1, 1, 0), &[0; 28]]);
    for (ready, answer) in [(write, &[SEND][..]), (read, &[SEND, READ_RESPONSE])] {
        let mut server = End::new(responder, 1440);
        server.qp.post_send(WrId(1), b"go", None, None).unwrap();
        server.receive(&ready, 100).unwrap();
        assert_eq!(server.send_all(), answer);
    }
}

#[test]
fn reads_wait_for_their_turn_and_complete_in_order() {
    for ord in [1, 2, 5] {
        let mut client = End::new(Agreed { ord, ..AGREED }, 1440);
        let mut server = End::new(Agreed { ird: ord, ..AGREED }, 1440);
        let source = server.register_bytes(pattern(6, 12_000), Access::RemoteRead);
        let sink = client.register(12_000, Access::Local);
        for n in 0..12 {
            let at = n * 1_000;
            client
                .qp
                .post_read(WrId(n as u64), sink.sge(at, 1_000), source.remote(at))
                .unwrap();
        }
        for done in 0..12 {
            let requests = client.send_all().len();
            let due = if done == 0 { ord.into() } else { 1 };
            let waiting = 12_usize.saturating_sub(done + usize::from(ord) - 1);
            assert_eq!(requests, due.min(waiting), "{done} of {ord}");
            let bytes = core::mem::take(&mut client.sent);
            server.receive(&bytes, 1_000).unwrap();
            let fpdu = server.next_fpdu().unwrap().unwrap();
            client.receive(&fpdu, 1_000).unwrap();
            assert_eq!(client.take_done(), [(done as u64, Done::Read)]);
        }
        sink.holds(0, &source.bytes());
    }
}

#[test]
fn waiting_reads_do_not_hold_up_other_work() {
    let mut client = End::new(Agreed { ord: 1, ..AGREED }, 1440);
    let region = client.register(100, Access::Local);
    let there = region.remote;
    for n in 0..4 {
        client.qp.post_read(WrId(n), region.all(), there).unwrap();
    }
    client.qp.post_write(WrId(8), region.all(), there).unwrap();
    client.qp.post_send(WrId(9), b"fast", None, None).unwrap();
    assert_eq!(client.send_all(), [READ_REQUEST, WRITE, SEND]);
    assert_eq!(client.take_done(), [(8, Done::Write), (9, Done::Send)]);
}

#[test]
fn no_read_is_sent_if_none_may_be_outstanding() {
    let mut client = End::new(Agreed { ord: 0, ..AGREED }, 1440);
    let region = client.register(100, Access::Local);
    let there = region.remote;
    client.qp.post_read(WrId(1), region.all(), there).unwrap();
    assert!(!client.qp.has_segment());
    assert!(client.send_all().is_empty());
    assert_eq!(client.flush(), [1]);
}

#[test]
fn responses_and_posted_work_take_turns_message_by_message() {
    let mut pair = Pair::new(1, false, 128);
    let source = pair.server.register(1_000, Access::RemoteRead);
    let sink = pair.client.register(1_000, Access::Local);
    let target = pair.client.register(1_000, Access::RemoteWrite);
    for n in 0..3 {
        let qp = &mut pair.client.qp;
        qp.post_read(WrId(n), sink.all(), source.remote(0)).unwrap();
    }
    pair.client.send_all();
    let bytes = core::mem::take(&mut pair.client.sent);
    pair.server.receive(&bytes, 1_000).unwrap();
    let qp = &mut pair.server.qp;
    for n in 0..2 {
        qp.post_write(WrId(n), source.all(), target.remote(0))
            .unwrap();
        qp.post_send(WrId(n + 8), b"x", Some(source.all()), None)
            .unwrap();
    }
    let opcodes = pair.server.send_all();
    assert_eq!(
        first_of_each(&opcodes),
        [
            WRITE,
            READ_RESPONSE,
            SEND,
            READ_RESPONSE,
            WRITE,
            READ_RESPONSE,
            SEND
        ]
    );
}

/// Returns the opcodes that a client with room for 8 READs sends if it posts a READ after the first FPDU of other work.
fn read_posted_after_one_fpdu(post: impl FnOnce(&mut End, &Region)) -> Vec<u8> {
    let mut client = End::new(AGREED, 128);
    let region = client.register(300, Access::RemoteRead);
    post(&mut client, &region);
    let first = client.next_fpdu().unwrap().unwrap();
    let there = region.remote;
    client.qp.post_read(WrId(9), region.all(), there).unwrap();
    let mut opcodes = vec![first[3] & 0x0f];
    opcodes.extend(client.send_all());
    opcodes
}

#[test]
fn read_requests_go_between_tagged_segments() {
    let opcodes = read_posted_after_one_fpdu(|client, region| {
        client
            .qp
            .post_write(WrId(1), region.all(), region.remote)
            .unwrap();
    });
    assert_eq!(opcodes, [WRITE, READ_REQUEST, WRITE, WRITE]);
    let opcodes = read_posted_after_one_fpdu(|client, region| {
        let RemoteAddress { token, address } = region.remote;
        let request = [
            &[0; 12][..],
            &300_u32.to_be_bytes(),
            &token.0.to_be_bytes(),
            &address.to_be_bytes(),
        ];
        let request = fpdu(&[&untagged([0x41, 0x41], 0, 1, 1, 0), &request.concat()]);
        client.receive(&request, 100).unwrap();
    });
    assert_eq!(
        opcodes,
        [READ_RESPONSE, READ_REQUEST, READ_RESPONSE, READ_RESPONSE]
    );
}

#[test]
fn read_requests_do_not_go_between_the_segments_of_a_send() {
    // siw distinguishes unfinished messages only as tagged and untagged.
    for token in [None, Some(RemoteToken(1))] {
        let opcodes = read_posted_after_one_fpdu(|client, region| {
            let payload = Some(region.all());
            client.qp.post_send(WrId(1), b"", payload, token).unwrap();
        });
        let send = if token.is_some() { 4 } else { SEND };
        assert_eq!(opcodes, [send, send, send, READ_REQUEST]);
    }
}

#[test]
fn after_closing_posted_work_goes_out_and_nothing_comes_in() {
    let mut pair = Pair::new(3, true, 128);
    let (client, server) = (&mut pair.client, &mut pair.server);
    let region = client.register(1_000, Access::Local);
    let buffer = server.register(2_000, Access::Local);
    server.qp.post_recv(WrId(1), buffer.all()).unwrap();
    client.qp.post_recv(WrId(2), region.all()).unwrap();
    client
        .qp
        .post_send(WrId(3), b"last", Some(region.all()), None)
        .unwrap();
    client
        .qp
        .post_read(WrId(4), region.all(), buffer.remote)
        .unwrap();
    // The client is closed in the middle of an incoming message.
    server
        .qp
        .post_send(WrId(5), b"", Some(buffer.sge(0, 500)), None)
        .unwrap();
    let incoming = server.next_fpdu().unwrap().unwrap();
    client.receive(&incoming[..50], 100).unwrap();
    assert!(client.qp.target().unwrap().is_some());
    let before = region.bytes();
    let flushed = core::iter::from_fn(|| client.qp.flush_reads());
    assert_eq!(flushed.map(|c| c.wr_id.0).collect::<Vec<_>>(), [2, 4]);
    client.receive(&incoming[50..], 100).unwrap();
    server.send_all();
    let bytes = core::mem::take(&mut server.sent);
    client.receive(&bytes, 100).unwrap();
    assert_eq!((client.take_done(), region.bytes()), (vec![], before));
    pair.client.send_all();
    let bytes = core::mem::take(&mut pair.client.sent);
    pair.server.receive(&bytes, 100).unwrap();
    assert!(matches!(
        pair.server.take_done()[..],
        [(5, Done::Send), (1, Done::Recv { length: 1_004, .. })]
    ));
}
