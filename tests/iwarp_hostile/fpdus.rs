// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests established peers whose FPDUs break rules, and the Terminate that they get, byte for byte.

use smbdirect::fabric::iwarp::{Config, IwarpError};
use smbdirect::fabric::{Access, CloseReason, ConnId, Fabric, RemoteAddress, WrError, WrId};
use smbdirect::units::RemoteToken;

use crate::harness::{
    LATE, Mem, Peer, World, crc32c, fpdu, on_both, quick, read, send, tagged, untagged,
};

/// The memory of a victim: 100 bytes that the peer may write, 100 that it may read, and 100 that it may not access,
/// with a receive of 10 bytes in the last 100.
struct Victim {
    peer: Peer,
    conn: ConnId,
    writable: Mem,
    readable: Mem,
    local: Mem,
}

fn victim(world: &mut World, crc: bool) -> Victim {
    let (peer, conn) = world.established(if crc { 0x50 } else { 0x10 });
    let writable = world.register(conn, 100, Access::RemoteWrite);
    let readable = world.register(conn, 100, Access::RemoteRead);
    let local = world.register(conn, 100, Access::Local);
    let inbox = local.sge(0, 10);
    world.fabric.post_recv(conn, WrId(1), inbox).unwrap();
    Victim {
        peer,
        conn,
        writable,
        readable,
        local,
    }
}

/// The headers that a Terminate returns.
#[derive(Clone, Copy)]
enum Back {
    Nothing,
    Ddp,
    DdpAndRead,
}
use Back::{Ddp, DdpAndRead, Nothing};

/// Makes the Terminate for an FPDU, as RFC 5040 4.8 draws it.
fn terminate(crc: bool, (layer, etype, code): (u8, u8, u8), broken: &[u8], back: Back) -> Vec<u8> {
    let tagged = broken[2] & 0x80 != 0;
    let ddp = if tagged { 14 } else { 18 };
    let (flags, length, headers) = match back {
        Nothing => (0, &[][..], &[][..]),
        Ddp => (0xc0, &broken[..2], &broken[2..2 + ddp]),
        DdpAndRead => (0xe0, &broken[..2], &broken[2..48]),
    };
    let control = [layer << 4 | etype, code, flags, 0];
    fpdu(
        crc,
        &[
            &untagged([0x41, 0x47], 0, 2, 1, 0),
            &control,
            length,
            headers,
        ],
    )
}

type Broken = (Vec<u8>, IwarpError, (u8, u8, u8), Back);

/// Makes an FPDU for each broken rule, with the error on this side and the code that the peer receives.
fn broken(victim: &Victim) -> Vec<Broken> {
    let (stag, at) = (victim.writable.token(), victim.writable.address());
    let (source, from) = (victim.readable.token(), victim.readable.address());
    let local = victim.local.token();
    // Guess a number other than these three, whatever they are.
    let guessed = (1..)
        .find(|token| ![stag, source, local].contains(token))
        .unwrap();
    let write = |stag, at| fpdu(false, &[&tagged([0xc1, 0x40], stag, at), b"payload"]);
    let invalidate = |token| fpdu(false, &[&untagged([0x41, 0x44], token, 0, 1, 0), b"now"]);
    let untagged = |control, queue, msn, mo| {
        let header = untagged(control, 0, queue, msn, mo);
        fpdu(false, &[&header, b"payload"])
    };
    let response = fpdu(false, &[&tagged([0xc1, 0x42], 1, 0), b"payload"]);
    let no_request = fpdu(
        false,
        &[&crate::harness::untagged([0x41, 0x41], 0, 1, 1, 0)],
    );
    vec![
        (
            fpdu(false, &[]),
            IwarpError::DdpSegmentTooShort,
            (1, 0, 0),
            Nothing,
        ),
        (
            fpdu(false, &[&[0x41, 0x43], &[0; 15]]),
            IwarpError::DdpSegmentTooShort,
            (1, 0, 0),
            Nothing,
        ),
        // Send only as much of the header as is needed to see the error.
        (
            untagged([0x40, 0x43], 0, 1, 0),
            IwarpError::DdpVersion,
            (1, 2, 6),
            Nothing,
        ),
        (
            untagged([0xc3, 0x40], 0, 1, 0),
            IwarpError::DdpVersion,
            (1, 1, 4),
            Nothing,
        ),
        (
            untagged([0x41, 0xc3], 0, 1, 0),
            IwarpError::RdmapVersion,
            (0, 2, 5),
            Nothing,
        ),
        (
            untagged([0x41, 0x4f], 0, 1, 0),
            IwarpError::RdmapOpcode,
            (0, 2, 6),
            Nothing,
        ),
        (
            untagged([0xc1, 0x43], 0, 1, 0),
            IwarpError::DdpNotTagged,
            (0, 2, 6),
            Nothing,
        ),
        (
            untagged([0x41, 0x43], 2, 1, 0),
            IwarpError::DdpInvalidQueue,
            (1, 2, 1),
            Ddp,
        ),
        (
            untagged([0x41, 0x43], 0, 2, 0),
            IwarpError::DdpMsnRange,
            (1, 2, 3),
            Ddp,
        ),
        (
            untagged([0x41, 0x43], 0, 1, 9),
            IwarpError::DdpInvalidMo,
            (1, 2, 4),
            Ddp,
        ),
        (send(1, &[0; 11]), IwarpError::DdpTooLong, (1, 2, 5), Ddp),
        (
            write(guessed, at),
            IwarpError::DdpInvalidStag,
            (1, 1, 0),
            Ddp,
        ),
        (write(0, at), IwarpError::DdpInvalidStag, (1, 1, 0), Ddp),
        (write(local, at), IwarpError::DdpInvalidStag, (1, 1, 0), Ddp),
        (
            write(stag, at - 1),
            IwarpError::DdpBaseOrBounds,
            (1, 1, 1),
            Ddp,
        ),
        (
            write(stag, at + 94),
            IwarpError::DdpBaseOrBounds,
            (1, 1, 1),
            Ddp,
        ),
        (
            write(stag, u64::MAX),
            IwarpError::DdpOffsetWrap,
            (1, 1, 3),
            Ddp,
        ),
        (write(source, from), IwarpError::RdmapAccess, (0, 1, 2), Ddp),
        (
            invalidate(guessed),
            IwarpError::RdmapCannotInvalidate,
            (0, 1, 9),
            Ddp,
        ),
        (
            response,
            IwarpError::RdmapUnexpectedReadResponse,
            (0, 2, 6),
            Ddp,
        ),
        (
            no_request,
            IwarpError::RdmapReadRequestLength,
            (0, 2, 0xff),
            Nothing,
        ),
        (
            read(2, 1, source, from),
            IwarpError::DdpMsnRange,
            (1, 2, 3),
            Ddp,
        ),
        (
            read(1, 1, guessed, from),
            IwarpError::RdmapInvalidStag,
            (0, 1, 0),
            DdpAndRead,
        ),
        (
            read(1, 101, source, from),
            IwarpError::RdmapBounds,
            (0, 1, 1),
            DdpAndRead,
        ),
        (
            read(1, 1, stag, at),
            IwarpError::RdmapAccess,
            (0, 1, 2),
            DdpAndRead,
        ),
    ]
}

#[test]
fn each_broken_rule_is_answered_with_its_terminate() {
    on_both(quick(), |world| {
        let mut case = 0;
        loop {
            let mut victim = victim(world, false);
            let Some((bytes, error, code, back)) = broken(&victim).into_iter().nth(case) else {
                drop(victim.peer);
                world.closed(victim.conn);
                break;
            };
            // Send the FPDU in two TCP segments.
            let (first, second) = bytes.split_at(bytes.len() / 2);
            victim.peer.send(first);
            world.poll();
            victim.peer.send(second);
            assert_eq!(world.closed(victim.conn), CloseReason::from(error));
            let expected = terminate(false, code, &bytes, back);
            let answer = world.read_to_end(&mut victim.peer);
            assert_eq!(answer, expected, "{error}");
            let flushed = match error {
                IwarpError::DdpTooLong => WrError::LocalLength,
                _ => WrError::Flushed,
            };
            assert_eq!(world.completions(victim.conn), [(1, Err(flushed))]);
            assert_eq!(victim.writable.bytes(), [0; 100]);
            assert_eq!(victim.readable.bytes(), [0; 100]);
            case += 1;
        }
    });
}

#[test]
fn with_crcs_the_terminate_has_a_crc_and_a_wrong_crc_is_answered() {
    on_both(quick(), |world| {
        let mut victim = victim(world, true);
        let mut bytes = fpdu(true, &[&untagged([0x41, 0x43], 0, 0, 1, 0), b"hello"]);
        bytes[22] ^= 1;
        victim.peer.send(&bytes);
        let error = CloseReason::from(IwarpError::MpaCrc);
        assert_eq!(world.closed(victim.conn), error);
        let answer = world.read_to_end(&mut victim.peer);
        let expected = b"\x00\x16\x41\x47\0\0\0\0\0\0\0\x02\0\0\0\x01\0\0\0\0\x20\x02\0\0";
        assert_eq!(answer[..24], *expected);
        assert_eq!(answer[24..], crc32c(expected).to_le_bytes());
        assert_eq!(world.completions(victim.conn), [(1, Err(WrError::Flushed))]);
    });
}

#[test]
fn a_terminate_is_believed_and_not_answered() {
    let error =
        |layer, etype, code| CloseReason::from(IwarpError::PeerTerminated { layer, etype, code });
    on_both(quick(), |world| {
        for (body, reason) in [
            (&b"\x12\x02\xc0\0"[..], error(1, 2, 2)),
            // siw writes a Terminate like this: it announces parts that are missing.
            (b"\x21\x02\x07\0", error(2, 1, 2)),
            (
                b"\x12\x02",
                CloseReason::from(IwarpError::RdmapTerminateLength),
            ),
        ] {
            let mut victim = victim(world, false);
            let header = untagged([0x41, 0x47], 0, 2, 1, 0);
            victim.peer.send(&fpdu(false, &[&header, body]));
            assert_eq!(world.closed(victim.conn), reason);
            assert_eq!(world.read_to_end(&mut victim.peer), b"");
            world.events.clear();
        }
    });
}

#[test]
fn a_revoked_token_is_as_invalid_as_an_unknown_token() {
    on_both(quick(), |world| {
        for reads in [false, true] {
            let mut victim = victim(world, false);
            let memory = if reads {
                &victim.readable
            } else {
                &victim.writable
            };
            let (token, address) = (memory.token(), memory.address());
            let revoke = untagged([0x41, 0x44], token, 0, 1, 0);
            let (access, error) = match reads {
                true => (read(1, 1, token, address), IwarpError::RdmapInvalidStag),
                false => (
                    fpdu(false, &[&tagged([0xc1, 0x40], token, address), b"x"]),
                    IwarpError::DdpInvalidStag,
                ),
            };
            victim
                .peer
                .send(&[fpdu(false, &[&revoke]), access].concat());
            assert_eq!(world.closed(victim.conn), CloseReason::from(error));
            assert_eq!(world.completions(victim.conn), [(1, Ok(()))]);
            assert_eq!(victim.writable.bytes(), [0; 100]);
            world.events.clear();
        }
    });
}

#[test]
fn a_deregistered_token_is_invalid_even_in_the_middle_of_an_fpdu() {
    on_both(quick(), |world| {
        let mut victim = victim(world, false);
        let (token, address) = (victim.writable.token(), victim.writable.address());
        let write = fpdu(false, &[&tagged([0xc1, 0x40], token, address), &[7; 100]]);
        victim.peer.send(&write[..50]);
        let written = |memory: &Mem| memory.bytes().iter().filter(|byte| **byte == 7).count();
        world.wait("bytes", |_| written(&victim.writable) == 34);
        let gone = victim.writable.region.id;
        world.fabric.deregister(victim.conn, gone).unwrap();
        let next = world.register(victim.conn, 100, Access::RemoteWrite);
        assert_eq!(
            next.region.id, gone,
            "the test needs a new region with the old number"
        );
        victim.peer.send(&write[50..]);
        let error = IwarpError::DdpInvalidStag;
        assert_eq!(world.closed(victim.conn), CloseReason::from(error));
        assert_eq!((written(&victim.writable), written(&next)), (34, 0));
        world.events.clear();
    });
}

#[test]
fn posted_work_without_its_memory_ends_the_connection() {
    on_both(quick(), |world| {
        let mut victim = victim(world, false);
        victim.peer.send(&send(1, b"hello"));
        world.wait("message", |world| world.completions(victim.conn).len() == 1);
        let gone = world.register(victim.conn, 100, Access::Local);
        let fabric = &mut world.fabric;
        let target = RemoteAddress {
            token: RemoteToken(1),
            address: 0,
        };
        for n in 2..4 {
            let sge = gone.sge(0, 100);
            fabric
                .post_write(victim.conn, WrId(n), sge, target)
                .unwrap();
            fabric.post_recv(victim.conn, WrId(n + 8), sge).unwrap();
        }
        fabric.deregister(victim.conn, gone.region.id).unwrap();
        let error = IwarpError::LocalRegionGone;
        assert_eq!(world.closed(victim.conn), CloseReason::from(error));
        let mut completions = world.completions(victim.conn);
        completions.sort_by_key(|(id, _)| *id);
        assert_eq!(
            completions,
            [2, 3, 10, 11].map(|id| (id, Err(WrError::Flushed)))
        );
        let answer = world.read_to_end(&mut victim.peer);
        assert_eq!(answer, terminate(false, (0, 0, 0), &[0; 8], Nothing));
    });
}

#[test]
fn more_reads_than_agreed_are_refused_and_as_many_are_served() {
    on_both(quick(), |world| {
        // The peer asked for 16 READs at a time, and they were granted.
        for extra in [0, 1] {
            let mut victim = victim(world, false);
            let (token, address) = (victim.readable.token(), victim.readable.address());
            let reads = (1..=16 + extra).map(|msn| read(msn, 100, token, address));
            victim.peer.send(&reads.collect::<Vec<_>>().concat());
            if extra == 0 {
                let responses = world.read(&mut victim.peer, 16 * (16 + 100 + 4));
                assert_eq!(responses[2..4], [0xc1, 0x42]);
                drop(victim.peer);
                assert_eq!(world.closed(victim.conn), CloseReason::Peer);
            } else {
                let error = IwarpError::RdmapTooManyReads;
                assert_eq!(world.closed(victim.conn), CloseReason::from(error));
                let answer = world.read_to_end(&mut victim.peer);
                let broken = read(17, 100, token, address);
                let expected = terminate(false, (0, 2, 7), &broken, DdpAndRead);
                assert_eq!(answer, expected);
            }
            world.events.clear();
        }
    });
}

/// Sends these bytes again and again, as fast as the other side takes them, until the connection ends.
fn flood(peer: &Peer, bytes: Vec<u8>) -> std::thread::JoinHandle<()> {
    let mut stream = peer.stream.try_clone().unwrap();
    std::thread::spawn(move || {
        stream.set_nonblocking(false).unwrap();
        while std::io::Write::write_all(&mut stream, &bytes).is_ok() {}
    })
}

#[test]
fn a_flood_of_unexpected_messages_ends_with_the_first() {
    on_both(quick(), |world| {
        let (peer, conn) = world.established(0x10);
        let flood = flood(&peer, send(1, &[1; 1000]).repeat(100));
        let error = IwarpError::DdpNoBuffer;
        assert_eq!(world.closed(conn), CloseReason::from(error));
        // Until the peer is cut off, the friend gets its turn all the time.
        let start = std::time::Instant::now();
        while !flood.is_finished() {
            world.echo();
        }
        assert!(start.elapsed() < quick().linger_timeout + LATE);
        flood.join().unwrap();
    });
}

#[test]
fn a_flood_of_empty_messages_keeps_no_other_peer_waiting() {
    on_both(quick(), |world| {
        let (peer, conn) = world.established(0x10);
        // RDMA WRITEs of zero bytes are legal, in any number.
        let nothing = fpdu(false, &[&tagged([0xc1, 0x40], 0, 0)]);
        let flood = flood(&peer, nothing.repeat(20_000));
        for _ in 0..50 {
            world.echo();
        }
        world.fabric.close(conn);
        for _ in 0..10 {
            world.echo();
        }
        assert_eq!(world.closed(conn), CloseReason::Local);
        world.wait("end of the flood", |_| flood.is_finished());
        flood.join().unwrap();
    });
}

#[test]
fn crcs_are_used_if_only_the_configuration_asks_for_them() {
    let config = Config {
        crc: true,
        ..quick()
    };
    on_both(config, |world| {
        let mut peer = Peer::connect(world.address);
        peer.send(&crate::harness::request(0x10, 2, &[0, 1, 0, 1]));
        let conn = world.requested();
        world.accept(conn);
        let reply = world.read(&mut peer, 24);
        assert_eq!(reply[16..20], *b"\x50\x02\x00\x04");
        peer.send(&send(1, b"without one"));
        let error = CloseReason::from(IwarpError::DdpNoBuffer);
        assert_eq!(world.closed(conn), error);
        world.events.clear();
    });
}
