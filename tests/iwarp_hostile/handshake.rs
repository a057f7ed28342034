// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests peers that connect: the answers that they get, and how long they may wait.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use smbdirect::fabric::iwarp::{Config, IwarpError};
use smbdirect::fabric::{CloseReason, Event, Fabric};

use crate::harness::{LATE, Peer, World, on_both, quick, request};

/// `cifs.ko` sends this over siw.
const ENHANCED: &[u8] = &[0, 32, 0, 1];
const LEGACY: &[u8] = &[0, 0, 0, 32, 0, 0, 0, 1];

fn linux() -> Vec<u8> {
    request(0x10, 2, &[ENHANCED, LEGACY].concat())
}

/// Makes a peer send only `bytes`, and checks that the peer is refused at once and without an answer.
fn refuses(world: &mut World, bytes: &[u8], error: IwarpError) {
    let mut peer = Peer::connect(world.address);
    peer.send(bytes);
    let (address, reason) = world.refused();
    assert_eq!(address, peer.stream.local_addr().unwrap());
    assert_eq!(reason, CloseReason::from(error), "{bytes:02x?}");
    assert_eq!(world.read_to_end(&mut peer), b"", "{bytes:02x?}");
}

#[test]
fn a_wrong_key_is_refused_at_its_first_wrong_byte() {
    on_both(quick(), |world| {
        for right in 0..16 {
            let mut bytes = b"MPA ID Req Frame"[..=right].to_vec();
            bytes[right] ^= 0x20;
            refuses(world, &bytes, IwarpError::MpaBadKey);
        }
        refuses(world, b"GET / HTTP/1.1\r\n\r\n", IwarpError::MpaBadKey);
        refuses(
            world,
            b"MPA ID Rep Frame\x10\x02\x00\x04",
            IwarpError::MpaBadKey,
        );
    });
}

#[test]
fn other_revisions_and_lengths_are_refused_without_an_answer() {
    on_both(quick(), |world| {
        for revision in [0, 3, 255] {
            let bytes = request(0x10, revision, ENHANCED);
            refuses(world, &bytes, IwarpError::MpaUnsupportedRevision);
        }
        // The request is refused as soon as the length has arrived.
        for length in [[2, 1], [255, 255]] {
            let bytes = [&b"MPA ID Req Frame\x10\x02"[..], &length].concat();
            refuses(world, &bytes, IwarpError::MpaPrivateDataTooLong);
        }
        for length in 0..4 {
            let bytes = request(0x10, 2, &ENHANCED[..length]);
            refuses(world, &bytes, IwarpError::MpaEnhancedTooShort);
        }
    });
}

#[test]
fn markers_are_rejected_in_the_revision_of_the_request() {
    on_both(quick(), |world| {
        for (flags, revision, private_data, reply) in [
            (0x80, 1, &b""[..], &b"MPA ID Rep Frame\x20\x01\x00\x00"[..]),
            (0xc0, 1, LEGACY, b"MPA ID Rep Frame\x20\x01\x00\x00"),
            (0x80, 2, b"", b"MPA ID Rep Frame\x20\x02\x00\x00"),
            (
                0x90,
                2,
                ENHANCED,
                b"MPA ID Rep Frame\x30\x02\x00\x04\0\0\0\0",
            ),
        ] {
            let mut peer = Peer::connect(world.address);
            peer.send(&request(flags, revision, private_data));
            let reason = CloseReason::from(IwarpError::MpaMarkers);
            assert_eq!(world.refused().1, reason);
            assert_eq!(world.read_to_end(&mut peer), reply);
        }
    });
}

/// Replies of the fabric, which serves up to 32 READs and asks for up to 16.
const REPLIES: [(u8, u8, &[u8], &[u8]); 14] = [
    // Revision 1, with and without depths.
    (0x00, 1, b"", b"\x00\x01\x00\x00"),
    (0x40, 1, b"", b"\x40\x01\x00\x00"),
    (0x00, 1, LEGACY, b"\x00\x01\x00\x08\0\0\0\x01\0\0\0\x10"),
    (
        0x00,
        1,
        b"\x04\0\0\0\x02\0\0\0",
        b"\x00\x01\x00\x08\0\0\0\x02\0\0\0\x04",
    ),
    (0x00, 1, b"neither", b"\x00\x01\x00\x00"),
    // The flag S has no meaning in this revision.
    (0x10, 1, b"", b"\x00\x01\x00\x00"),
    // Revision 2, not enhanced.
    (0x00, 2, b"", b"\x00\x02\x00\x00"),
    (0x00, 2, LEGACY, b"\x00\x02\x00\x08\0\0\0\x01\0\0\0\x10"),
    // Enhanced; the reply does not mirror siw's own flag.
    (0x10, 2, ENHANCED, b"\x10\x02\x00\x04\x00\x01\x00\x10"),
    (0x58, 2, ENHANCED, b"\x50\x02\x00\x04\x00\x01\x00\x10"),
    (
        0x10,
        2,
        b"\x00\x01\x00\x00 and eighteen bytes",
        b"\x10\x02\x00\x04\x00\x01\x00\x01",
    ),
    (
        0x10,
        2,
        b"\x3f\xff\x3f\xff",
        b"\x10\x02\x00\x04\x00\x20\x00\x01",
    ),
    // Peer to peer: of the kinds that are offered, the fabric chooses a WRITE, a READ or a SEND, in this order.
    (
        0x10,
        2,
        b"\xc0\x20\xc0\x01",
        b"\x10\x02\x00\x04\x80\x01\x80\x10",
    ),
    (
        0x10,
        2,
        b"\xc0\x20\x00\x01",
        b"\x10\x02\x00\x04\xc0\x01\x00\x10",
    ),
];

#[test]
fn replies_come_in_the_revision_of_the_request_byte_for_byte() {
    on_both(quick(), |world| {
        for (flags, revision, private_data, reply) in REPLIES {
            let mut peer = Peer::connect(world.address);
            let bytes = request(flags, revision, private_data);
            // Send the request in two pieces, cut anywhere.
            let (first, second) = bytes.split_at(private_data.len() + 7);
            peer.send(first);
            world.poll();
            peer.send(second);
            let conn = world.requested();
            world.poll();
            world.accept(conn);
            let expected = [b"MPA ID Rep Frame", reply].concat();
            assert_eq!(world.read(&mut peer, expected.len()), expected);
            drop(peer);
            assert_eq!(world.closed(conn), CloseReason::Peer);
        }
    });
}

#[test]
fn the_largest_private_data_is_taken() {
    on_both(quick(), |world| {
        let mut peer = Peer::connect(world.address);
        peer.send(&request(0x10, 2, &[ENHANCED, &[7; 508]].concat()));
        let conn = world.requested();
        world.accept(conn);
        world.read(&mut peer, 24);
        drop(peer);
        world.closed(conn);
    });
}

#[test]
fn nothing_follows_the_reply_until_the_peer_has_spoken() {
    on_both(quick(), |world| {
        let (mut peer, conn) = world.established(0x10);
        let post = |world: &mut World, id| {
            let posted =
                world
                    .fabric
                    .post_send(conn, smbdirect::fabric::WrId(id), b"early", None, None);
            posted.unwrap();
        };
        post(world, 1);
        for _ in 0..50 {
            world.poll();
        }
        assert_eq!(world.completions(conn), []);
        peer.stream.set_nonblocking(true).unwrap();
        let silence = std::io::Read::read(&mut peer.stream, &mut [0; 1]).unwrap_err();
        assert_eq!(silence.kind(), std::io::ErrorKind::WouldBlock);
        // This is an RDMA WRITE of zero bytes.
        peer.send(&crate::harness::fpdu(
            false,
            &[&crate::harness::tagged([0xc1, 0x40], 0, 0)],
        ));
        assert_eq!(world.read(&mut peer, 32)[20..25], *b"early");
        drop(peer);
        world.closed(conn);
    });
}

/// Measures how long it takes until a slow peer is refused.
fn times_out(world: &mut World, mut between: impl FnMut(&mut World)) -> Duration {
    let start = std::time::Instant::now();
    let mut reason = None;
    while reason.is_none() {
        between(world);
        world.poll();
        reason = world.take(|event| match event {
            Event::Refused { reason, .. } | Event::Closed { reason, .. } => Some(reason.clone()),
            _ => None,
        });
    }
    assert_eq!(reason, Some(CloseReason::ConnectTimeout));
    start.elapsed()
}

fn within(elapsed: Duration, limit: Duration) {
    // The clock of the connection starts a little later than the test's.
    let earliest = limit - Duration::from_millis(50);
    let latest = limit + LATE;
    assert!((earliest..latest).contains(&elapsed), "{elapsed:?}");
}

#[test]
fn a_silent_peer_is_refused_after_five_seconds() {
    let world = &mut World::new(
        ([127, 0, 0, 1], 0).into(),
        Config::default(),
        Default::default(),
    );
    let mut silent = Peer::connect(world.address);
    let elapsed = times_out(world, |_| std::thread::sleep(Duration::from_millis(1)));
    within(elapsed, Duration::from_secs(5));
    assert_eq!(world.read_to_end(&mut silent), b"");
    world.echo();
}

#[test]
fn a_request_that_trickles_in_gets_no_more_time() {
    on_both(quick(), |world| {
        let mut peer = Peer::connect(world.address);
        let bytes = request(0x10, 2, &[0; 500]);
        let mut bytes = bytes.iter();
        let elapsed = times_out(world, |_| {
            std::thread::sleep(Duration::from_millis(3));
            peer.send(&[*bytes.next().unwrap()]);
        });
        within(elapsed, quick().connect_timeout);
    });
}

#[test]
fn an_unanswered_request_is_rejected_in_the_end() {
    on_both(quick(), |world| {
        let mut peer = Peer::connect(world.address);
        peer.send(&linux());
        let elapsed = times_out(world, |_| {});
        within(elapsed, quick().connect_timeout);
        let reply = world.read_to_end(&mut peer);
        assert_eq!(reply, b"MPA ID Rep Frame\x30\x02\x00\x04\0\0\0\0");
        world.events.clear();
    });
}

#[test]
fn a_rejected_peer_has_time_to_close_however_long_the_owner_did_not_poll() {
    on_both(quick(), |world| {
        let mut peer = Peer::connect(world.address);
        peer.send(&linux());
        let conn = world.requested();
        std::thread::sleep(2 * quick().linger_timeout);
        world.fabric.reject(conn);
        let due = world.fabric.poll_timeout();
        assert!(
            due.is_some_and(|due| due <= world.now()),
            "a poll is due at once, since `reject` does not know the time"
        );
        world.poll();
        assert_eq!(world.fabric.counts().lingering, 1);
        let due = world.fabric.poll_timeout();
        assert!(due.is_some_and(|due| due > world.now()));
        let reply = world.read_to_end(&mut peer);
        assert_eq!(reply, b"MPA ID Rep Frame\x30\x02\x00\x04\0\0\0\0");
    });
}

#[test]
fn a_request_whose_peer_has_gone_ends_at_once() {
    let patient = Config {
        connect_timeout: Duration::from_secs(3600),
        ..quick()
    };
    on_both(patient, |world| {
        for reset in [false, true] {
            let mut peer = Peer::connect(world.address);
            peer.send(&linux());
            let conn = world.requested();
            let reason = if reset {
                peer.reset();
                CloseReason::Reset
            } else {
                drop(peer);
                CloseReason::Peer
            };
            assert_eq!(world.closed(conn), reason);
            // The request and the end arrive together.
            let mut peer = Peer::connect(world.address);
            peer.send(&linux());
            drop(peer);
            let conn = world.requested();
            assert_eq!(world.closed(conn), CloseReason::Peer);
        }
    });
}

#[test]
fn a_handshake_cut_off_anywhere_is_refused() {
    let patient = Config {
        connect_timeout: Duration::from_secs(3600),
        ..quick()
    };
    on_both(patient, |world| {
        let bytes = linux();
        for length in 0..bytes.len() {
            for reset in [false, true] {
                let mut peer = Peer::connect(world.address);
                peer.send(&bytes[..length]);
                world.poll();
                let reason = match (reset, length) {
                    (false, 0) => CloseReason::Peer,
                    _ => CloseReason::Reset,
                };
                match reset {
                    true => peer.reset(),
                    false => drop(peer),
                }
                assert_eq!(world.refused().1, reason);
            }
        }
    });
}

#[test]
fn waiting_peers_are_limited_by_source() {
    let limited = Config {
        max_pending: 100,
        max_pending_per_source: 4,
        connect_timeout: Duration::from_secs(3600),
        ..quick()
    };
    on_both(limited, |world| {
        let mut waiting: VecDeque<Peer> = (0..4).map(|_| Peer::connect(world.address)).collect();
        world.wait("peers", |world| world.fabric.counts().pending == 4);
        // For each newcomer, the oldest connection is closed.
        for _ in 0..3 {
            waiting.push_back(Peer::connect(world.address));
            let mut oldest = waiting.pop_front().expect("four of them");
            let (address, reason) = world.refused();
            assert_eq!(address, oldest.stream.local_addr().unwrap());
            assert_eq!(reason, CloseReason::TooManyPending);
            assert_eq!(world.read_to_end(&mut oldest), b"");
        }
        // A place that is given back is free for others.
        drop(waiting.pop_back());
        assert_eq!(world.refused().1, CloseReason::Peer);
        waiting.push_back(Peer::connect(world.address));
        for mut peer in waiting {
            peer.send(&linux());
            let conn = world.requested();
            world.accept(conn);
            world.read(&mut peer, 24);
            drop(peer);
            world.closed(conn);
        }
        assert_eq!(world.fabric.counts().pending, 0);
    });
}

#[test]
fn waiting_peers_are_limited_in_total() {
    let limited = Config {
        max_pending: 6,
        max_pending_per_source: 4,
        connect_timeout: Duration::from_secs(3600),
        ..quick()
    };
    let local = |n| IpAddr::V4(Ipv4Addr::new(127, 0, 0, n));
    let world = &mut World::new((local(1), 0).into(), limited, Default::default());
    let mut waiting: Vec<Peer> = (0..6)
        .map(|n| Peer::connect_from(local(2 + n), world.address))
        .collect();
    world.wait("peers", |world| world.fabric.counts().pending == 6);
    // All sources are equal, so the oldest connection is closed.
    let newcomer = Peer::connect_from(local(99), world.address);
    let refused = (
        waiting[0].stream.local_addr().unwrap(),
        CloseReason::TooManyPending,
    );
    assert_eq!(world.refused(), refused);
    waiting[3].send(&linux());
    let conn = world.requested();
    world.fabric.reject(conn);
    let reply = world.read_to_end(&mut waiting[3]);
    assert_eq!(reply, b"MPA ID Rep Frame\x30\x02\x00\x04\0\0\0\0");
    let more = Peer::connect_from(local(98), world.address);
    world.wait("peer", |world| world.fabric.counts().pending == 6);
    drop((waiting, newcomer, more));
    world.wait("end", |world| world.fabric.counts().connections == 1);
    world.echo();
}

#[test]
fn two_hundred_connections_come_and_go_in_every_way() {
    let roomy = Config {
        max_pending: 300,
        max_pending_per_source: 300,
        connect_timeout: Duration::from_secs(3600),
        ..quick()
    };
    on_both(roomy, |world| {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut peers: Vec<Peer> = (0..200).map(|_| Peer::connect(world.address)).collect();
        world.wait("peers", |world| world.fabric.counts().pending == 200);
        let bytes = linux();
        for peer in &mut peers {
            peer.send(&bytes[..rng.usize(0..=bytes.len())]);
        }
        let mut answered = 0;
        rng.shuffle(&mut peers);
        for peer in peers {
            if rng.bool() {
                world.poll();
            }
            while let Some(conn) = world.take(|event| match event {
                Event::ConnectRequest { conn, .. } => Some(*conn),
                _ => None,
            }) {
                match answered % 3 {
                    0 => world.accept(conn),
                    1 => world.fabric.reject(conn),
                    _ => world.fabric.close(conn),
                }
                answered += 1;
            }
            match rng.u8(0..3) {
                0 => peer.reset(),
                1 => peer.half_close(),
                _ => drop(peer),
            }
        }
        world.wait("end", |world| world.fabric.counts().connections == 1);
        world.events.clear();
    });
}
