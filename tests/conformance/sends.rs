// SPDX-License-Identifier: GPL-2.0-or-later

//! Cases about SENDs and receives.

use smbdirect::fabric::{
    Access, CloseReason, FabricError, MAX_SEND_HEADER, RegionId, Sge, Work, WrError, WrId,
};
use smbdirect::units::RemoteToken;

use crate::assert_refused;
use crate::harness::{End, Harness, World, assert_one_of, pattern};

pub fn a_send_arrives_whole<H: Harness>(h: H) {
    let mut w = World::new(h);
    let pair = w.pair();
    let sizes = [
        (24, 100),
        (20, 0),
        (0, 100),
        (0, 0),
        (1, 1),
        (MAX_SEND_HEADER, 4096),
        (MAX_SEND_HEADER, 65_536),
        (3, 1_000_001),
    ];
    for (header, payload) in sizes {
        for (from, to) in pair.both_ways() {
            let bytes = pattern(1, header + payload);
            let source = w.register(from, payload + 13, Access::Local);
            source.memory.write(13, &bytes[header..]).unwrap();
            let buffer = w.register_bytes(to, &vec![0xAA; bytes.len() + 20], Access::Local);
            let receive = w.post_recv(to, buffer.sge(7, bytes.len()));
            let payload = (payload > 0).then(|| source.sge(13, payload));
            let send = w.post_send(from, &bytes[..header], payload, None);
            w.receives(to, receive, bytes.len());
            w.succeeds(from, send);
            let all = buffer.bytes();
            assert_eq!(&all[7..7 + bytes.len()], bytes);
            assert!(all[..7].iter().all(|byte| *byte == 0xAA));
            assert!(all[7 + bytes.len()..].iter().all(|byte| *byte == 0xAA));
            w.deregister(from, &source);
            w.deregister(to, &buffer);
        }
    }
    w.finish();
}

pub fn a_send_with_an_empty_payload_arrives<H: Harness>(h: H) {
    let mut w = World::new(h);
    let pair = w.pair();
    let source = w.register(pair.client, 10, Access::Local);
    let buffer = w.register(pair.server, 10, Access::Local);
    for header in [&b"head"[..], b""] {
        let receive = w.post_recv(pair.server, buffer.all());
        w.post_send(pair.client, header, Some(source.sge(10, 0)), None);
        w.receives(pair.server, receive, header.len());
    }
    w.finish();
}

pub fn a_header_may_be_used_again_as_soon_as_it_is_posted<H: Harness>(h: H) {
    let mut w = World::new(h);
    let pair = w.pair();
    let buffer = w.register(pair.server, 8, Access::Local);
    let receive = w.post_recv(pair.server, buffer.all());
    let mut header = *b"original";
    w.post_send(pair.client, &header, None, None);
    header.fill(0);
    w.receives(pair.server, receive, 8);
    assert_eq!(buffer.bytes(), b"original");
    w.finish();
}

pub fn receives_are_consumed_in_order<H: Harness>(h: H) {
    let mut w = World::new(h);
    let pair = w.pair();
    let buffer = w.register(pair.server, 16 * 64, Access::Local);
    let receives: Vec<WrId> = (0..16)
        .map(|n| w.post_recv(pair.server, buffer.sge((15 - n) * 64, 64)))
        .collect();
    for n in 0..16 {
        w.post_send(pair.client, &vec![n + 1; usize::from(n) + 1], None, None);
    }
    for (n, receive) in receives.into_iter().enumerate() {
        w.receives(pair.server, receive, n + 1);
        let message = buffer.memory.to_vec((15 - n) * 64, n + 2).unwrap();
        assert!(message[..=n].iter().all(|byte| usize::from(*byte) == n + 1));
        assert_eq!(message[n + 1], 0);
    }
    w.finish();
}

pub fn many_sends_both_ways_complete_in_order<H: Harness>(h: H) {
    const SENDS: u32 = 2000;
    const WINDOW: u32 = 64;
    let mut w = World::new(h);
    let pair = w.pair();
    for (from, to) in pair.both_ways() {
        let buffer = w.register(to, WINDOW as usize * 8, Access::Local);
        let slot = |n: u32| buffer.sge((n % WINDOW) as usize * 8, 8);
        let mut receives: Vec<WrId> = (0..WINDOW).map(|n| w.post_recv(to, slot(n))).collect();
        let source = w.register(from, 4 * SENDS as usize, Access::Local);
        let mut sent = 0;
        for next in 0..SENDS {
            while sent < SENDS && sent < next + WINDOW {
                let payload = source.sge(4 * sent as usize, 4);
                source
                    .memory
                    .write(4 * sent as usize, &sent.to_be_bytes())
                    .unwrap();
                w.post_send(from, &(!sent).to_be_bytes(), Some(payload), None);
                sent += 1;
            }
            w.receives(to, receives[next as usize], 8);
            let bytes = buffer
                .memory
                .to_vec((next % WINDOW) as usize * 8, 8)
                .unwrap();
            let expected = [(!next).to_be_bytes(), next.to_be_bytes()].concat();
            assert_eq!(bytes, expected);
            receives.push(w.post_recv(to, slot(next)));
        }
    }
    w.finish();
}

pub fn both_ends_may_send_at_the_same_time<H: Harness>(h: H) {
    let mut w = World::new(h);
    let pair = w.pair();
    let buffers = pair
        .both_ways()
        .map(|(_, to)| w.register(to, 100 * 5000, Access::Local));
    let sources = pair
        .both_ways()
        .map(|(from, _)| w.register_bytes(from, &pattern(9, 5000), Access::Local));
    let mut awaited: Vec<(End, WrId)> = Vec::new();
    for n in 0..100 {
        for (way, (_, to)) in pair.both_ways().into_iter().enumerate() {
            let memory = buffers[way].sge(n * 5000, 5000);
            awaited.push((to, w.post_recv(to, memory)));
        }
    }
    for _ in 0..100 {
        for (way, (from, _)) in pair.both_ways().into_iter().enumerate() {
            w.post_send(from, b"", Some(sources[way].all()), None);
        }
    }
    for (end, receive) in awaited {
        w.receives(end, receive, 5000);
    }
    for buffer in buffers {
        let expected = pattern(9, 5000);
        assert!(buffer.bytes().chunks(5000).all(|got| got == expected));
    }
    w.finish();
}

pub fn an_invalidation_revokes_exactly_that_region_and_is_reported<H: Harness>(h: H) {
    let mut w = World::new(h);
    let pair = w.pair();
    for (from, to) in pair.both_ways() {
        let [before, revoked, after] =
            [1, 2, 3].map(|n| w.register_bytes(to, &[n; 50], Access::RemoteRead));
        let buffer = w.register(to, 50, Access::Local);
        let receive = w.post_recv(to, buffer.all());
        let token = revoked.region.remote.token;
        w.post_send(from, b"bye", None, Some(token));
        if !w.may_be_invalidated(to) {
            // The invalidation fails, and that ends the connection, as an unknown token does.
            assert!(w.completes(to, receive).1.is_err());
            w.closes(from);
            w.closes(to);
            break;
        }
        let work = Work::Recv {
            length: 3,
            invalidated: w.fidelity().names_invalidated.then_some(token),
        };
        assert_eq!(w.completes(to, receive), (work, Ok(())));
        assert_eq!(&buffer.bytes()[..3], b"bye");

        let sink = w.register(from, 50, Access::ReadSink);
        for (memory, byte) in [(&before, 1), (&after, 3)] {
            let read = w.post_read(from, sink.all(), memory.remote(0));
            w.succeeds(from, read);
            assert_eq!(sink.bytes(), [byte; 50]);
        }
        // The owner of the region may still use it.
        if w.fidelity().names_invalidated {
            let target = w.register(from, 50, Access::Local);
            let receive = w.post_recv(from, target.all());
            w.post_send(to, b"", Some(revoked.all()), None);
            w.receives(from, receive, 50);
            assert_eq!(target.bytes(), [2; 50]);
        }
        w.deregister(to, &revoked);
    }
    if w.may_be_invalidated(pair.server) {
        w.works(pair);
    }
    w.finish();
}

pub fn an_invalidation_of_an_unknown_token_ends_the_connection<H: Harness>(h: H) {
    let mut w = World::new(h);
    let bystander = w.pair();
    let local_only = w.register(bystander.server, 50, Access::RemoteWrite);
    for token in [0, 1, local_only.region.remote.token.0] {
        let pair = w.pair();
        let buffer = w.register(pair.server, 50, Access::Local);
        let receive = w.post_recv(pair.server, buffer.all());
        w.post_send(pair.client, b"bye", None, Some(RemoteToken(token)));
        w.assert_told([pair.server, pair.client], |reason| {
            !matches!(reason, CloseReason::Local | CloseReason::Peer)
        });
        assert!(w.outcome(pair.server, receive).unwrap().1.is_err());
    }
    let source = w.register(bystander.client, 50, Access::Local);
    let write = w.post_write(bystander.client, source.all(), local_only.remote(0));
    w.succeeds(bystander.client, write);
    w.works(bystander);
    w.finish();
}

/// Returns whether this end, or the peer's report, says that no receive was posted.
fn is_not_ready(reason: &CloseReason) -> bool {
    matches!(
        reason,
        CloseReason::ReceiverNotReady | CloseReason::Provider(_)
    )
}

pub fn a_send_without_a_posted_receive_ends_the_connection<H: Harness>(h: H) {
    let mut w = World::new(h);
    for way in [0, 1] {
        let bystander = w.pair();
        let pair = w.pair();
        let (from, to) = pair.both_ways()[way];
        let buffer = w.register(to, 50, Access::Local);
        let receive = w.post_recv(to, buffer.all());
        w.post_send(from, b"met", None, None);
        w.post_send(from, b"unmet", None, None);
        w.assert_told([to, from], is_not_ready);
        w.receives(to, receive, 3);
        w.works(bystander);
    }
    w.finish();
}

pub fn a_message_larger_than_its_receive_ends_the_connection<H: Harness>(h: H) {
    let mut w = World::new(h);
    for (header, payload) in [(11, 0), (0, 11), (5, 6), (0, 1_000_000)] {
        let bystander = w.pair();
        let pair = w.pair();
        let buffer = w.register_bytes(pair.server, &[0xAA; 1_000_100], Access::Local);
        let receive = w.post_recv(pair.server, buffer.sge(10, 10));
        let next = w.post_recv(pair.server, buffer.sge(50, 1_000_000));
        let source = w.register(pair.client, payload, Access::Local);
        w.post_send(pair.client, &[0; 11][..header], Some(source.all()), None);
        let failed = Work::Recv {
            length: 0,
            invalidated: None,
        };
        assert_eq!(
            w.completes(pair.server, receive),
            (failed, Err(WrError::LocalLength))
        );
        assert_eq!(
            w.completes(pair.server, next),
            (failed, Err(WrError::Flushed))
        );
        let reason = w.closes(pair.server);
        assert!(reason.is_receiver_not_ready(), "{reason:?}");
        w.assert_told([pair.server, pair.client], is_not_ready);
        let bytes = buffer.bytes();
        assert!(bytes[..10].iter().chain(&bytes[20..]).all(|b| *b == 0xAA));
        w.works(bystander);
    }
    w.finish();
}

/// Posts until the queue is full, and returns the number of posts.
fn fill<H: Harness>(
    w: &mut World<H>,
    mut post: impl FnMut(&mut World<H>) -> Result<WrId, FabricError>,
) -> Vec<WrId> {
    let mut posted = Vec::new();
    for _ in 0..200_000 {
        match post(w) {
            Ok(wr_id) => posted.push(wr_id),
            Err(FabricError::QueueFull) => return posted,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("no queue is that long");
}

pub fn a_full_queue_is_reported_and_recovers<H: Harness>(h: H) {
    let mut w = World::new(h);
    let pair = w.pair();
    let (from, to) = (pair.client, pair.server);
    let own = w.register(from, 8, Access::ReadSink);
    let theirs = w.register(to, 8, Access::RemoteWrite);
    let readable = w.register(to, 8, Access::RemoteRead);
    let buffer = w.register(to, 8, Access::Local);

    for _ in 0..2 {
        let writes = fill(&mut w, |w| w.try_write(from, own.all(), theirs.remote(0)));
        assert!(writes.len() >= 16);
        w.succeeds(from, *writes.last().unwrap());
    }
    for _ in 0..2 {
        let reads = fill(&mut w, |w| w.try_read(from, own.all(), readable.remote(0)));
        assert!(reads.len() >= 16);
        w.succeeds(from, *reads.last().unwrap());
    }
    let receives = fill(&mut w, |w| w.try_recv(to, buffer.all()));
    assert!(receives.len() >= 16);
    w.post_send(from, b"one", None, None);
    w.receives(to, receives[0], 3);
    w.post_recv(to, buffer.all());
    w.finish();
}

pub fn wrong_local_calls_are_errors_and_do_nothing<H: Harness>(h: H) {
    let mut w = World::new(h);
    let pair = w.pair();
    let (from, to) = (pair.client, pair.server);
    let own = w.register(from, 100, Access::Local);
    let gone = w.register(from, 100, Access::Local);
    w.deregister(from, &gone);
    let target = w.register_bytes(to, &[0xAA; 100], Access::RemoteWrite);
    let long = [0; MAX_SEND_HEADER + 1];
    assert_refused!(w.try_send(from, &long, None, None), HeaderTooLong);
    let id = own.region.id;
    let outside =
        [(101, 0), (1, 100), (0, 101), (u32::MAX, u32::MAX)].map(|(offset, length)| Sge {
            region: id,
            offset,
            length,
        });
    let unknown = Sge {
        region: RegionId(u32::MAX),
        offset: 0,
        length: 0,
    };
    for sge in outside.into_iter().chain([unknown, gone.all()]) {
        assert_refused!(w.try_recv(from, sge), LocalProtection);
        assert_refused!(w.try_send(from, b"", Some(sge), None), LocalProtection);
        assert_refused!(w.try_write(from, sge, target.remote(0)), LocalProtection);
        assert_refused!(w.try_read(from, sge, target.remote(0)), LocalProtection);
    }
    let again = w.fabric(from).deregister(from.conn, gone.region.id);
    assert_refused!(again, LocalProtection);
    w.works(pair);
    assert_eq!(target.bytes(), [0xAA; 100]);
    w.finish();
}

pub fn a_receive_whose_region_is_gone_takes_nothing<H: Harness>(h: H) {
    let mut w = World::new(h);
    let bystander = w.pair();
    let pair = w.pair();
    let gone = w.register_bytes(pair.server, &[0xAA; 100], Access::Local);
    let receive = w.post_recv(pair.server, gone.all());
    w.deregister(pair.server, &gone);
    // This region probably has the same number.
    let next = w.register_bytes(pair.server, &[0xBB; 100], Access::Local);
    w.post_send(pair.client, b"message", None, None);
    assert_one_of(
        &w.completes(pair.server, receive).1,
        &[Err(WrError::Flushed), Err(WrError::LocalLength)],
    );
    for end in [pair.server, pair.client] {
        w.closes(end);
    }
    assert_eq!(gone.bytes(), [0xAA; 100]);
    assert_eq!(next.bytes(), [0xBB; 100]);
    w.works(bystander);
    w.finish();
}
