// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests peers that end, stall or dribble.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use smbdirect::fabric::iwarp::{Config, IwarpError};
use smbdirect::fabric::{
    Access, CloseReason, ConnId, Event, Fabric, RegionId, RemoteAddress, Work, WrError, WrId,
};
use smbdirect::units::RemoteToken;

use crate::harness::{LATE, Mem, Peer, World, fpdu, on_both, quick, read, send, tagged, untagged};

const MIB: usize = 1 << 20;

/// Makes an established peer that has sent its first FPDU, so that the fabric may send.
fn spoken(world: &mut World) -> (Peer, ConnId) {
    let (mut peer, conn) = world.established(0x10);
    peer.send(&fpdu(false, &[&tagged([0xc1, 0x40], 0, 0)]));
    (peer, conn)
}

/// Posts `count` RDMA WRITEs of 1 MiB each, numbered from 100 on, and lets as many as fit go out.
fn write_much(world: &mut World, conn: ConnId, count: u64) -> Mem {
    let memory = world.register(conn, MIB, Access::Local);
    let mut bytes = vec![0; MIB];
    fastrand::Rng::with_seed(1).fill(&mut bytes);
    memory.memory.write(0, &bytes).unwrap();
    let target = RemoteAddress {
        token: RemoteToken(7),
        address: 0,
    };
    for n in 0..count {
        let sge = memory.sge(0, MIB as u32);
        world
            .fabric
            .post_write(conn, WrId(100 + n), sge, target)
            .unwrap();
    }
    // Poll until nothing moves.
    for _ in 0..200 {
        world.poll();
    }
    memory
}

/// Checks that all numbers come in order, the successful ones first, and returns how many succeeded.
fn succeeded(completions: &[(u64, Result<(), WrError>)], count: u64) -> usize {
    let ids: Vec<u64> = completions.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, (100..100 + count).collect::<Vec<_>>());
    let good = completions.iter().take_while(|(_, result)| result.is_ok());
    let good = good.count();
    let flushed = |(_, result): &(u64, _)| *result == Err(WrError::Flushed);
    assert!(completions[good..].iter().all(flushed));
    good
}

#[test]
fn a_peer_that_never_reads_is_cut_off_after_the_drain_timeout() {
    on_both(quick(), |world| {
        let (peer, conn) = spoken(world);
        write_much(world, conn, 64);
        let start = std::time::Instant::now();
        world.fabric.close(conn);
        assert_eq!(world.closed(conn), CloseReason::Local);
        let (elapsed, limit) = (start.elapsed(), quick().drain_timeout);
        assert!(elapsed >= limit - Duration::from_millis(50), "{elapsed:?}");
        assert!(elapsed < limit + LATE, "{elapsed:?}");
        let good = succeeded(&world.completions(conn), 64);
        assert!(good < 60, "the case needs more than the kernel takes");
        drop(peer);
    });
}

#[test]
fn a_peer_that_reads_late_gets_what_was_posted_before_closing() {
    let patient = Config {
        drain_timeout: Duration::from_secs(3600),
        ..quick()
    };
    on_both(patient, |world| {
        let (mut peer, conn) = spoken(world);
        write_much(world, conn, 20);
        world.fabric.close(conn);
        // The peer even sends something, but that is no longer read.
        peer.send(&send(1, b"hello?"));
        let bytes = world.read_to_end(&mut peer);
        assert_eq!(world.closed(conn), CloseReason::Local);
        assert_eq!(succeeded(&world.completions(conn), 20), 20);
        let payload: usize = segments(&bytes).map(|segment| segment.payload.len()).sum();
        assert_eq!(payload, 20 * MIB);
    });
}

#[test]
fn two_peers_that_close_with_much_to_send_do_not_wait_for_each_other() {
    let patient = Config {
        drain_timeout: Duration::from_secs(3600),
        ..quick()
    };
    on_both(patient, |world| {
        let (mut peer, conn) = spoken(world);
        write_much(world, conn, 20);
        world.fabric.close(conn);
        // The peer reads only once it has sent its own 20 MiB.
        let mut rest = 20 * MIB;
        let zeros = vec![0; 1 << 16];
        world.wait("room for what the peer sends", |_| {
            rest -= peer.try_send(&zeros[..rest.min(zeros.len())]);
            rest == 0
        });
        world.read_to_end(&mut peer);
        assert_eq!(world.closed(conn), CloseReason::Local);
        succeeded(&world.completions(conn), 20);
    });
}

struct Segment<'a> {
    control: [u8; 2],
    offset: u64,
    payload: &'a [u8],
}

/// Takes apart a stream of tagged segments, which must be complete.
fn segments(mut bytes: &[u8]) -> impl Iterator<Item = Segment<'_>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let ulpdu = usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
        let (fpdu, rest) = bytes.split_at((2 + ulpdu).next_multiple_of(4) + 4);
        bytes = rest;
        assert_eq!(fpdu[2] & 0x80, 0x80);
        Some(Segment {
            control: [fpdu[2], fpdu[3]],
            offset: u64::from_be_bytes(fpdu[8..16].try_into().unwrap()),
            payload: &fpdu[16..2 + ulpdu],
        })
    })
}

#[test]
fn a_peer_that_reads_in_small_pieces_gets_every_byte_once() {
    on_both(quick(), |world| {
        let (mut peer, conn) = spoken(world);
        let memory = write_much(world, conn, 8);
        let mut rng = fastrand::Rng::with_seed(3);
        let mut bytes = Vec::new();
        // The payload alone is this long.
        while bytes.len() < 8 * MIB {
            let most = *rng.choice(&[1, 7, 1_000, 100_000]).unwrap();
            let rest = 8 * MIB - bytes.len();
            bytes.extend(world.read(&mut peer, rng.usize(1..=most).min(rest)));
        }
        world.wait("completions", |world| {
            let done = |event: &Event| matches!(event, Event::Completion { .. });
            world.events.iter().filter(|event| done(event)).count() == 8
        });
        assert_eq!(succeeded(&world.completions(conn), 8), 8);
        world.fabric.close(conn);
        bytes.extend(world.read_to_end(&mut peer));
        world.closed(conn);
        let mut expected = 0;
        let source = memory.bytes();
        for segment in segments(&bytes) {
            let at = expected % MIB;
            assert_eq!(segment.offset, at as u64);
            assert!(segment.payload == &source[at..at + segment.payload.len()]);
            expected += segment.payload.len();
            let last = if expected % MIB == 0 { 0xc1 } else { 0x81 };
            assert_eq!(segment.control, [last, 0x40]);
        }
        assert_eq!(expected, 8 * MIB);
    });
}

#[test]
fn a_peer_that_never_takes_its_read_data_costs_no_other_peer() {
    on_both(quick(), |world| {
        let (mut peer, conn) = world.established(0x10);
        let memory = world.register(conn, MIB, Access::RemoteRead);
        let (token, address) = (memory.token(), memory.address());
        for msn in 1..=16 {
            peer.send(&read(msn, MIB as u32, token, address));
        }
        for _ in 0..50 {
            world.echo();
        }
        // Data that the peer has not received by now is no longer sent to it.
        world.fabric.deregister(conn, memory.region.id).unwrap();
        let mut bytes = Vec::new();
        bytes.extend(world.read_to_end(&mut peer));
        assert!(bytes.len() < 15 * MIB);
        let reason = CloseReason::from(IwarpError::RdmapInvalidStag);
        assert_eq!(world.closed(conn), reason);
    });
}

#[test]
fn a_peer_that_reads_fast_does_not_have_the_fabric_for_itself() {
    on_both(quick(), |world| {
        let (mut peer, conn) = world.established(0x10);
        let memory = world.register(conn, 64 * MIB, Access::RemoteRead);
        for msn in 1..=16 {
            let (token, address) = (memory.token(), memory.address());
            peer.send(&read(msn, 64 * MIB as u32, token, address));
        }
        let mut stream = peer.stream.try_clone().unwrap();
        stream.set_nonblocking(false).unwrap();
        let counter = Arc::new(AtomicUsize::new(0));
        let received = counter.clone();
        let reader = std::thread::spawn(move || {
            let mut chunk = vec![0; MIB];
            while let Ok(n @ 1..) = std::io::Read::read(&mut stream, &mut chunk) {
                received.fetch_add(n, Ordering::Relaxed);
            }
        });
        let total = || counter.load(Ordering::Relaxed);
        while total() < 256 * MIB {
            let before = total();
            world.poll();
            // The limit covers the budgets of one turn, and the contents of the kernel's buffers.
            assert!(total() - before < 40 * MIB);
        }
        world.echo();
        world.fabric.close(conn);
        assert_eq!(world.closed(conn), CloseReason::Local);
        reader.join().unwrap();
    });
}

#[test]
fn a_half_closed_stream_counts_as_closed() {
    on_both(quick(), |world| {
        let (mut peer, conn) = world.established(0x10);
        peer.half_close();
        assert_eq!(world.closed(conn), CloseReason::Peer);
        assert_eq!(world.read_to_end(&mut peer), b"");
        // Cut in the middle of an FPDU, at any offset.
        let message = send(1, b"hello");
        for length in 1..message.len() {
            let (mut peer, conn) = world.established(0x10);
            let memory = world.register(conn, 10, Access::Local);
            let sge = memory.sge(0, 10);
            world.fabric.post_recv(conn, WrId(1), sge).unwrap();
            peer.send(&message[..length]);
            peer.half_close();
            assert_eq!(world.closed(conn), CloseReason::Reset, "{length}");
            assert_eq!(world.completions(conn), [(1, Err(WrError::Flushed))]);
        }
    });
}

#[test]
fn messages_sent_before_the_end_are_received_before_the_end() {
    on_both(quick(), |world| {
        for (length, early) in [(0, true), (10, false), (10, true), (60_000, true)] {
            let (mut peer, conn) = world.established(0x10);
            let memory = world.register(conn, 60_000, Access::Local);
            for n in 1..=3 {
                let sge = memory.sge(0, 60_000);
                world.fabric.post_recv(conn, WrId(n), sge).unwrap();
            }
            if !early {
                world.poll();
            }
            peer.send(&send(1, &vec![1; length]));
            peer.send(&send(2, &vec![2; length]));
            peer.half_close();
            assert_eq!(world.closed(conn), CloseReason::Peer);
            let completions = [(1, Ok(())), (2, Ok(())), (3, Err(WrError::Flushed))];
            assert_eq!(world.completions(conn), completions);
            assert_eq!(memory.bytes()[..length], vec![2; length]);
        }
    });
}

#[test]
fn a_message_larger_than_a_budget_arrives_with_the_end_behind_it() {
    on_both(quick(), |world| {
        const SIZE: usize = 9 * MIB;
        let (mut peer, conn) = world.established(0x10);
        let memory = world.register(conn, SIZE, Access::RemoteWrite);
        let mut stream = Vec::new();
        for at in (0..SIZE).step_by(60_000) {
            let length = (SIZE - at).min(60_000);
            let last = if at + length == SIZE { 0xc1 } else { 0x81 };
            let header = tagged([last, 0x40], memory.token(), memory.address() + at as u64);
            stream.extend(fpdu(false, &[&header, &vec![(at >> 8) as u8; length]]));
        }
        let mut sent = 0;
        while sent < stream.len() {
            sent += peer.try_send(&stream[sent..]);
            // Now and then, the fabric lags behind.
            if fastrand::u8(0..20) == 0 {
                world.poll();
            }
            if sent < stream.len() && peer.try_send(b"") == 0 {
                world.poll();
            }
        }
        peer.half_close();
        assert_eq!(world.closed(conn), CloseReason::Peer);
        let bytes = memory.bytes();
        for at in (0..SIZE).step_by(60_000) {
            let length = (SIZE - at).min(60_000);
            assert!(
                bytes[at..at + length]
                    .iter()
                    .all(|byte| *byte == (at >> 8) as u8)
            );
        }
    });
}

#[test]
fn small_segments_behind_a_large_one_take_more_than_one_turn() {
    on_both(quick(), |world| {
        let (mut peer, conn) = world.established(0x10);
        let memory = world.register(conn, MIB, Access::RemoteWrite);
        let header = |at| tagged([0x81, 0x40], memory.token(), memory.address() + at);
        peer.send(&fpdu(false, &[&header(0), &[1; 10_000]]));
        world.wait("the large message", |_| memory.bytes()[9_999] == 1);
        // Send SENDs of zero bytes, as many as the window takes.
        peer.send(&fpdu(false, &[&header(10_000)]).repeat(2_000));
        peer.half_close();
        std::thread::sleep(Duration::from_millis(20));
        let mut turns = 0;
        world.wait("end", |world| {
            turns += 1;
            world.fabric.counts().connections == 1
        });
        assert!(turns > 3, "{turns}");
        assert_eq!(world.closed(conn), CloseReason::Peer);
    });
}

#[test]
fn a_reset_at_any_time_flushes_everything_once() {
    on_both(quick(), |world| {
        for polls in 0..6 {
            let (mut peer, conn) = spoken(world);
            let memory = world.register(conn, MIB, Access::Local);
            for n in 1..=3 {
                let sge = memory.sge(0, 10);
                world.fabric.post_recv(conn, WrId(n), sge).unwrap();
                let sge = memory.sge(0, MIB as u32);
                let there = memory.region.remote;
                world
                    .fabric
                    .post_read(conn, WrId(10 + n), sge, there)
                    .unwrap();
                world
                    .fabric
                    .post_send(conn, WrId(20 + n), b"", Some(sge), None)
                    .unwrap();
            }
            peer.send(&send(1, b"one")[..10 + polls]);
            for _ in 0..polls {
                world.poll();
            }
            peer.reset();
            assert_eq!(world.closed(conn), CloseReason::Reset);
            let mut completions = world.completions(conn);
            completions.sort_by_key(|(id, _)| *id);
            let ids: Vec<u64> = completions.iter().map(|(id, _)| *id).collect();
            assert_eq!(ids, [1, 2, 3, 11, 12, 13, 21, 22, 23]);
        }
    });
}

#[test]
fn a_terminate_is_read_even_if_the_stream_broke_behind_it() {
    on_both(quick(), |world| {
        let (mut peer, conn) = spoken(world);
        let post = |world: &mut World, id| {
            let posted = world.fabric.post_send(conn, WrId(id), b"hello", None, None);
            posted.unwrap();
        };
        post(world, 1);
        world.wait("SEND", |world| world.completions(conn) == [(1, Ok(()))]);
        let header = untagged([0x41, 0x47], 0, 2, 1, 0);
        peer.send(&fpdu(false, &[&header, b"\x11\0\0\0"]));
        // The peer has not read the SEND, so this sends an RST: sending fails, and the Terminate stays unread.
        drop(peer);
        post(world, 2);
        let error = IwarpError::PeerTerminated {
            layer: 1,
            etype: 1,
            code: 0,
        };
        assert_eq!(world.closed(conn), CloseReason::from(error));
        assert_eq!(world.completions(conn), [(2, Err(WrError::Flushed))]);
    });
}

#[test]
fn the_first_close_is_the_reason_for_the_end() {
    // This timeout is far longer than closing takes if there is no peer to wait for.
    let config = Config {
        drain_timeout: 2 * LATE,
        ..quick()
    };
    on_both(config, |world| {
        for reset in [false, true] {
            let (peer, conn) = spoken(world);
            write_much(world, conn, 20);
            world.fabric.close(conn);
            world.poll();
            match reset {
                true => peer.reset(),
                false => peer.half_close(),
            }
            let clock = std::time::Instant::now();
            assert_eq!(world.closed(conn), CloseReason::Local);
            assert!(
                clock.elapsed() < LATE,
                "the fabric waited for a peer that has gone"
            );
            succeeded(&world.completions(conn), 20);
        }
    });
}

#[test]
fn closing_twice_or_after_the_end_does_no_harm() {
    on_both(quick(), |world| {
        let (mut peer, conn) = spoken(world);
        world.fabric.close(conn);
        world.fabric.close(conn);
        assert_eq!(world.closed(conn), CloseReason::Local);
        world.fabric.close(conn);
        world.fabric.reject(conn);
        assert_eq!(world.read_to_end(&mut peer), b"");
        // The slot in the map has another connection by now.
        let (mut next, other) = spoken(world);
        world.fabric.close(conn);
        assert!(world.fabric.deregister(conn, RegionId(0)).is_err());
        let memory = world.register(other, 10, Access::Local);
        let sge = memory.sge(0, 10);
        world.fabric.post_recv(other, WrId(1), sge).unwrap();
        next.send(&send(1, b"works"));
        world.wait("message", |world| {
            world.events.iter().any(|event| {
                matches!(event, Event::Completion { conn, work: Work::Recv { length: 5, .. }, .. } if *conn == other)
            })
        });
        drop(next);
        assert_eq!(world.closed(other), CloseReason::Peer);
        world.events.clear();
    });
}
