// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests a fabric that connects to a hostile responder.

use std::net::TcpListener;
use std::time::Duration;

use smbdirect::fabric::iwarp::IwarpError;
use smbdirect::fabric::{Access, CloseReason, ConnId, Event, Fabric, ReadLimits, WrError, WrId};

use crate::harness::{Peer, World, on_both, quick, send};

/// What the fabric sends first: revision 2, enhanced, with its read limits again in the private data.
const REQUEST: &[u8; 32] =
    b"MPA ID Req Frame\x10\x02\x00\x0c\x00\x20\x00\x10\x00\x00\x00\x20\x00\x00\x00\x10";

/// Makes a connection to a peer, which has received the fabric's request.
fn asked(world: &mut World) -> (Peer, ConnId, TcpListener) {
    let listener = TcpListener::bind((world.address.ip(), 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let conn = world
        .fabric
        .connect(address, ReadLimits::default())
        .unwrap();
    let mut peer = Peer::of(listener.accept().unwrap().0);
    let request = world.read(&mut peer, REQUEST.len());
    assert_eq!(&request, REQUEST);
    (peer, conn, listener)
}

fn reply(flags: u8, revision: u8, private_data: &[u8]) -> Vec<u8> {
    let length = (private_data.len() as u16).to_be_bytes();
    [
        &b"MPA ID Rep Frame"[..],
        &[flags, revision],
        &length,
        private_data,
    ]
    .concat()
}

#[test]
fn replies_that_do_not_fit_are_errors_and_the_request_is_not_repeated() {
    on_both(quick(), |world| {
        for (bytes, error) in [
            (reply(0x00, 1, b""), IwarpError::MpaRevisionMismatch),
            (
                reply(0x00, 1, &[0, 0, 0, 1, 0, 0, 0, 1]),
                IwarpError::MpaRevisionMismatch,
            ),
            (reply(0x00, 2, b""), IwarpError::MpaRevisionMismatch),
            (
                reply(0x10, 1, &[0, 1, 0, 1]),
                IwarpError::MpaRevisionMismatch,
            ),
            (
                reply(0x10, 3, &[0, 1, 0, 1]),
                IwarpError::MpaUnsupportedRevision,
            ),
            (reply(0x90, 2, &[0, 1, 0, 1]), IwarpError::MpaMarkers),
            (reply(0x10, 2, &[0, 1, 0]), IwarpError::MpaEnhancedTooShort),
            (reply(0x10, 2, &[0; 513]), IwarpError::MpaPrivateDataTooLong),
            (b"MPA ID Req".to_vec(), IwarpError::MpaBadKey),
            (b"220 ready\r\n".to_vec(), IwarpError::MpaBadKey),
        ] {
            let (mut peer, conn, listener) = asked(world);
            peer.send(&bytes);
            assert_eq!(world.closed(conn), CloseReason::from(error));
            assert_eq!(world.read_to_end(&mut peer), b"");
            listener.set_nonblocking(true).unwrap();
            assert!(listener.accept().is_err(), "the fabric connected again");
        }
    });
}

#[test]
fn a_rejection_is_a_refusal_in_any_revision() {
    on_both(quick(), |world| {
        for bytes in [
            reply(0x20, 1, b""),
            reply(0x20, 2, b""),
            reply(0x30, 2, &[0; 4]),
            reply(0xb0, 2, &[0; 100]),
        ] {
            let (mut peer, conn, _listener) = asked(world);
            peer.send(&bytes);
            assert_eq!(world.closed(conn), CloseReason::Refused);
        }
    });
}

#[test]
fn a_reply_that_is_incomplete_or_late_ends_the_connection() {
    on_both(quick(), |world| {
        let (peer, conn, _listener) = asked(world);
        drop(peer);
        assert_eq!(world.closed(conn), CloseReason::Peer);
        let (mut peer, conn, _listener) = asked(world);
        peer.send(b"MPA ID Rep");
        drop(peer);
        assert_eq!(world.closed(conn), CloseReason::Reset);
        let (peer, conn, _listener) = asked(world);
        peer.reset();
        assert_eq!(world.closed(conn), CloseReason::Reset);
        let start = std::time::Instant::now();
        let (mut peer, conn, _listener) = asked(world);
        peer.send(b"MPA ID Rep Frame\x10\x02\x00");
        assert_eq!(world.closed(conn), CloseReason::ConnectTimeout);
        assert!(start.elapsed() >= quick().connect_timeout - Duration::from_millis(50));
        assert_eq!(world.read_to_end(&mut peer), b"");
    });
}

#[test]
fn a_port_without_a_listener_is_a_refusal() {
    on_both(quick(), |world| {
        let address = TcpListener::bind((world.address.ip(), 0))
            .unwrap()
            .local_addr()
            .unwrap();
        let conn = world
            .fabric
            .connect(address, ReadLimits::default())
            .unwrap();
        let memory = world.register(conn, 10, Access::Local);
        let sge = memory.sge(0, 10);
        world.fabric.post_recv(conn, WrId(1), sge).unwrap();
        assert_eq!(world.closed(conn), CloseReason::Refused);
        assert_eq!(world.completions(conn), [(1, Err(WrError::Flushed))]);
    });
}

#[test]
fn fpdus_directly_after_the_reply_are_received_like_any_others() {
    on_both(quick(), |world| {
        let (mut peer, conn, _listener) = asked(world);
        let memory = world.register(conn, 10, Access::Local);
        let sge = memory.sge(0, 10);
        world.fabric.post_recv(conn, WrId(1), sge).unwrap();
        let early = [
            reply(0x10, 2, &[0, 3, 0, 2]),
            send(1, b"early"),
            send(2, b"more"),
        ]
        .concat();
        // The reply, both messages, and the end of the stream arrive in one read.
        peer.send(&early);
        peer.half_close();
        let reason = CloseReason::from(IwarpError::DdpNoBuffer);
        assert_eq!(world.closed(conn), reason);
        assert_eq!(world.completions(conn), [(1, Ok(()))]);
        assert_eq!(memory.bytes()[..5], *b"early");
        let limits = world.take(|event| match event {
            Event::Established { limits, .. } => Some(*limits),
            _ => None,
        });
        let expected = ReadLimits {
            responder_resources: 32,
            initiator_depth: 3,
        };
        assert_eq!(limits, Some(expected));
    });
}
