// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests each operation, in both directions, at the sizes at which something changes.

use super::*;

/// Returns the sizes around the lengths that fit into FPDUs of `room` bytes of payload.
fn sizes(room: usize) -> [usize; 8] {
    [
        0,
        1,
        room - 1,
        room,
        room + 1,
        2 * room - 1,
        2 * room + 1,
        5 * room + 7,
    ]
}

fn each_size(headers: usize, test: impl Fn(Pair, bool, usize)) {
    for (seed, max_ulpdu) in (1..).zip([128, 130, 1440, 65_532, u16::MAX]) {
        for crc in [false, true] {
            for client_acts in [false, true] {
                let room = usize::from(max_ulpdu.min(65_532) & !3) - headers;
                for size in sizes(room) {
                    test(Pair::new(seed, crc, max_ulpdu), client_acts, size);
                }
            }
        }
    }
}

#[test]
fn sends_arrive_whole_at_every_size() {
    for header_length in [0, 1, 24, 32] {
        each_size(18 + header_length, |mut pair, client_acts, size| {
            let (from, to) = pair.ends(client_acts);
            let payload = from.register_bytes(pattern(1, size + 10), Access::Local);
            let buffer = to.register(size + 100, Access::Local);
            let header = pattern(2, header_length);
            to.qp.post_recv(WrId(7), buffer.sge(3, size + 50)).unwrap();
            from.qp
                .post_send(WrId(8), &header, Some(payload.sge(5, size)), None)
                .unwrap();
            pair.run();
            let (from, to) = pair.ends(client_acts);
            assert_eq!(from.take_done(), [(8, Done::Send)]);
            let message = [header, payload.bytes()[5..5 + size].to_vec()].concat();
            let length = message.len() as u32;
            let invalidated = None;
            let recv = Done::Recv {
                length,
                invalidated,
            };
            assert_eq!(to.take_done(), [(7, recv)]);
            buffer.holds(3, &message);
        });
    }
}

#[test]
fn a_send_may_fill_its_receive_to_the_last_byte() {
    each_size(18, |mut pair, client_acts, size| {
        let (from, to) = pair.ends(client_acts);
        let payload = from.register_bytes(pattern(1, size), Access::Local);
        let buffer = to.register(size, Access::Local);
        to.qp.post_recv(WrId(1), buffer.all()).unwrap();
        let all = Some(payload.all());
        from.qp.post_send(WrId(2), b"", all, None).unwrap();
        pair.run();
        buffer.holds(0, &payload.bytes());
    });
}

#[test]
fn writes_arrive_exactly_at_every_size() {
    each_size(14, |mut pair, client_acts, size| {
        let (from, to) = pair.ends(client_acts);
        let source = from.register_bytes(pattern(3, size + 10), Access::Local);
        let target = to.register(size + 100, Access::RemoteWrite);
        from.qp
            .post_write(WrId(8), source.sge(5, size), target.remote(9))
            .unwrap();
        pair.run();
        let (from, to) = pair.ends(client_acts);
        assert_eq!(from.take_done(), [(8, Done::Write)]);
        assert_eq!(to.take_done(), []);
        target.holds(9, &source.bytes()[5..5 + size]);
    });
}

#[test]
fn reads_arrive_exactly_at_every_size() {
    each_size(14, |mut pair, client_acts, size| {
        let (from, to) = pair.ends(client_acts);
        let source = to.register_bytes(pattern(4, size + 10), Access::RemoteRead);
        let sink = from.register(size + 100, Access::Local);
        from.qp
            .post_read(WrId(8), sink.sge(9, size), source.remote(5))
            .unwrap();
        pair.run();
        let (from, to) = pair.ends(client_acts);
        assert_eq!(from.take_done(), [(8, Done::Read)]);
        assert_eq!(to.take_done(), []);
        sink.holds(9, &source.bytes()[5..5 + size]);
    });
}

#[test]
fn no_fpdu_is_larger_than_agreed() {
    for max_ulpdu in [0, 128, 131, 1440, 65_532, u16::MAX] {
        let mut pair = Pair::new(1, false, max_ulpdu);
        let limit = usize::from(max_ulpdu.clamp(128, 65_532)) & !3;
        let source = pair.client.register(300_000, Access::Local);
        let target = pair.server.register(300_000, Access::RemoteWrite);
        let qp = &mut pair.client.qp;
        qp.post_write(WrId(1), source.all(), target.remote(0))
            .unwrap();
        qp.post_send(WrId(2), &[1; 32], Some(source.all()), None)
            .unwrap();
        let mut largest = 0;
        while let Some(fpdu) = pair.client.next_fpdu().unwrap() {
            assert_eq!(fpdu.len() % 4, 0);
            assert!(fpdu.len() <= mpa::fpdu_length(limit));
            largest = largest.max(fpdu.len());
        }
        assert_eq!(largest, mpa::fpdu_length(limit));
    }
}

#[test]
fn an_invalidation_revokes_the_region_and_is_reported() {
    for (size, max_ulpdu) in [(0, 1440), (10_000, 128)] {
        let mut pair = Pair::new(9, true, max_ulpdu);
        let revoked = pair.server.register(10, Access::RemoteWrite);
        let kept = pair.server.register(10, Access::RemoteWrite);
        let buffer = pair.server.register(size, Access::Local);
        let payload = pair.client.register(size, Access::Local);
        pair.server.qp.post_recv(WrId(1), buffer.all()).unwrap();
        let token = revoked.remote.token;
        let all = Some(payload.all());
        let qp = &mut pair.client.qp;
        qp.post_send(WrId(2), b"", all, Some(token)).unwrap();
        pair.run();
        let recv = Done::Recv {
            length: size as u32,
            invalidated: Some(token),
        };
        assert_eq!(pair.server.take_done(), [(1, recv)]);
        let regions = pair.server.qp.regions();
        let resolve = |region: &Region| {
            let RemoteAddress { token, address } = region.remote;
            regions.resolve(token.0, address, 1, Access::RemoteWrite)
        };
        assert_eq!(resolve(&revoked), Err(AccessFault::Token));
        assert!(resolve(&kept).is_ok());
    }
}

#[test]
fn an_owner_cannot_post_more_than_memory_and_queues_hold() {
    let mut end = End::new(AGREED, 1440);
    let region = end.register(10, Access::Local);
    let post = super::super::PostError::TooLong;
    assert_eq!(end.qp.post_send(WrId(1), &[0; 33], None, None), Err(post));
    for (offset, length) in [(11, 0), (0, 11), (10, 1), (usize::MAX, 2), (1, usize::MAX)] {
        let sge = region.sge(offset, length);
        let error = Err(super::super::PostError::LocalProtection);
        assert_eq!(end.qp.post_recv(WrId(1), sge), error);
        assert_eq!(end.qp.post_send(WrId(1), b"", Some(sge), None), error);
        assert_eq!(end.qp.post_write(WrId(1), sge, region.remote), error);
        assert_eq!(end.qp.post_read(WrId(1), sge, region.remote), error);
    }
    let error = Err(super::super::PostError::QueueFull);
    for n in 0..16 {
        end.qp.post_recv(WrId(n), region.all()).unwrap();
        end.qp
            .post_write(WrId(100 + n), region.all(), region.remote)
            .unwrap();
        end.qp
            .post_read(WrId(200 + n), region.all(), region.remote)
            .unwrap();
    }
    assert_eq!(end.qp.post_recv(WrId(1), region.all()), error);
    assert_eq!(end.qp.post_send(WrId(1), b"", None, None), error);
    assert_eq!(
        end.qp.post_write(WrId(1), region.all(), region.remote),
        error
    );
    assert_eq!(
        end.qp.post_read(WrId(1), region.all(), region.remote),
        error
    );
    let flushed = (0..16).chain(200..216).chain(100..116);
    assert_eq!(end.flush(), flushed.collect::<Vec<u64>>());
}
