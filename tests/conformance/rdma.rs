// SPDX-License-Identifier: GPL-2.0-or-later

//! Cases about RDMA READ and RDMA WRITE.

use smbdirect::fabric::{Access, CloseReason, ReadLimits, RemoteAddress, Work, WrError, WrId};
use smbdirect::units::RemoteToken;

use crate::harness::{End, Harness, Mem, Outcome, Pair, Tells, World, assert_one_of, pattern};

const MIB: usize = 1 << 20;

/// Length, offset at the initiator, and offset at the peer.
const LARGE: [(usize, usize, usize); 5] = [
    (MIB, 0, 0),
    (MIB + 1, 3, 5),
    (4 * MIB - 5, 1, 4095),
    (65_537, 4097, 2),
    (16 * MIB, 7, 1),
];

/// Registers memory that is filled with 0xAA, with room for `length` bytes at `offset`.
fn framed<H: Harness>(
    w: &mut World<H>,
    end: End,
    (offset, length): (usize, usize),
    access: Access,
) -> Mem {
    w.register_bytes(end, &vec![0xAA; offset + length + 64], access)
}

/// Asserts that a frame holds `bytes` at `offset` and is untouched around them.
fn assert_framed(memory: &Mem, offset: usize, bytes: &[u8]) {
    let all = memory.bytes();
    assert!(&all[offset..offset + bytes.len()] == bytes, "wrong bytes");
    let around = all[..offset].iter().chain(&all[offset + bytes.len()..]);
    assert!(
        around.copied().all(|byte| byte == 0xAA),
        "bytes outside were written"
    );
}

pub fn large_writes_arrive_exactly<H: Harness>(h: H) {
    let mut w = World::new(h);
    let pair = w.pair();
    for (length, here, there) in LARGE {
        for (from, to) in pair.both_ways() {
            let bytes = pattern(length as u64, length);
            let source = framed(&mut w, from, (here, length), Access::Local);
            source.memory.write(here, &bytes).unwrap();
            let target = framed(&mut w, to, (there, length), Access::RemoteWrite);
            let write = w.post_write(from, source.sge(here, length), target.remote(there as u64));
            w.works(pair);
            w.succeeds(from, write);
            assert_framed(&target, there, &bytes);
            w.deregister(from, &source);
            w.deregister(to, &target);
        }
    }
    w.finish();
}

pub fn large_reads_arrive_exactly<H: Harness>(h: H) {
    let mut w = World::new(h);
    let pair = w.pair();
    for (length, here, there) in LARGE {
        for (from, to) in pair.both_ways() {
            let bytes = pattern(length as u64, length);
            let source = framed(&mut w, to, (there, length), Access::RemoteRead);
            source.memory.write(there, &bytes).unwrap();
            let sink = framed(&mut w, from, (here, length), Access::ReadSink);
            let read = w.post_read(from, sink.sge(here, length), source.remote(there as u64));
            w.succeeds(from, read);
            assert_framed(&sink, here, &bytes);
            w.deregister(from, &sink);
            w.deregister(to, &source);
        }
    }
    w.finish();
}

pub fn reads_and_writes_of_nothing_succeed<H: Harness>(h: H) {
    let mut w = World::new(h);
    let pair = w.pair();
    let own = w.register_bytes(pair.client, &[0xAA; 10], Access::ReadSink);
    let readable = w.register_bytes(pair.server, &[1; 10], Access::RemoteRead);
    let writable = w.register_bytes(pair.server, &[0xAA; 10], Access::RemoteWrite);
    for offset in [0, 5, 10] {
        let read = w.post_read(pair.client, own.sge(offset, 0), readable.remote(10));
        let write = w.post_write(pair.client, own.sge(5, 0), writable.remote(offset as u64));
        w.succeeds(pair.client, read);
        w.succeeds(pair.client, write);
    }
    w.works(pair);
    assert_eq!(
        (own.bytes(), writable.bytes()),
        (vec![0xAA; 10], vec![0xAA; 10])
    );
    w.finish();
}

pub fn written_data_is_there_when_a_later_send_arrives<H: Harness>(h: H) {
    const ROUNDS: usize = 100;
    const SIZE: usize = 20_000;
    let mut w = World::new(h);
    let pair = w.pair();
    for (from, to) in pair.both_ways() {
        let bytes = pattern(3, ROUNDS * SIZE);
        let source = w.register_bytes(from, &bytes, Access::Local);
        let target = w.register(to, ROUNDS * SIZE, Access::RemoteWrite);
        let buffer = w.register(to, 1, Access::Local);
        let receives: Vec<WrId> = (0..ROUNDS).map(|_| w.post_recv(to, buffer.all())).collect();
        for round in 0..ROUNDS {
            let at = round * SIZE;
            w.post_write(from, source.sge(at, SIZE), target.remote(at as u64));
            w.post_send(from, b".", None, None);
        }
        for (round, receive) in receives.into_iter().enumerate() {
            w.receives(to, receive, 1);
            let at = round * SIZE;
            assert!(target.memory.to_vec(at, SIZE).unwrap() == bytes[at..at + SIZE]);
        }
    }
    w.finish();
}

pub fn reads_beyond_the_initiator_depth_wait_and_complete_in_order<H: Harness>(h: H) {
    let mut w = World::new(h);
    for depth in [1, 2, 5] {
        let pair = w.pair_with(ReadLimits {
            responder_resources: depth,
            initiator_depth: depth,
        });
        for (from, to) in pair.both_ways() {
            assert_eq!(w.limits(from).unwrap().initiator_depth, depth);
            let bytes = pattern(depth.into(), 40 * 1000);
            let source = w.register_bytes(to, &bytes, Access::RemoteRead);
            let sink = w.register(from, 40 * 1000, Access::ReadSink);
            let reads: Vec<WrId> = (0..40)
                .map(|n| {
                    w.post_read(
                        from,
                        sink.sge(n * 1000, 1000),
                        source.remote(n as u64 * 1000),
                    )
                })
                .collect();
            for read in reads {
                w.succeeds(from, read);
            }
            assert!(sink.bytes() == bytes);
        }
    }
    w.finish();
}

pub fn waiting_reads_do_not_hold_up_sends_and_writes<H: Harness>(h: H) {
    const READS: usize = 30;
    let mut w = World::new(h);
    let pair = w.pair_with(ReadLimits {
        responder_resources: 1,
        initiator_depth: 1,
    });
    for (from, to) in pair.both_ways() {
        let source = w.register(to, MIB, Access::RemoteRead);
        let sink = w.register(from, MIB, Access::ReadSink);
        let target = w.register(to, 100, Access::RemoteWrite);
        let buffer = w.register(to, 10, Access::Local);
        let receive = w.post_recv(to, buffer.all());
        let reads: Vec<WrId> = (0..READS)
            .map(|_| w.post_read(from, sink.all(), source.remote(0)))
            .collect();
        let write = w.post_write(from, sink.sge(0, 100), target.remote(0));
        let send = w.post_send(from, b"fast", None, None);
        let last = reads[READS - 1];
        w.succeeds(from, last);
        w.receives(to, receive, 4);
        for quick in [write, send] {
            w.succeeds(from, quick);
            assert_eq!(w.first_of((from, quick), (from, last)), (from, quick));
        }
    }
    w.finish();
}

pub fn a_message_overtakes_waiting_reads<H: Harness>(h: H) {
    let mut w = World::new(h);
    let pair = w.pair_with(ReadLimits {
        responder_resources: 1,
        initiator_depth: 1,
    });
    let source = w.register(pair.server, MIB, Access::RemoteRead);
    let sink = w.register(pair.client, MIB, Access::ReadSink);
    let buffer = w.register(pair.server, 10, Access::Local);
    let receive = w.post_recv(pair.server, buffer.all());
    let reads: Vec<WrId> = (0..100)
        .map(|_| w.post_read(pair.client, sink.all(), source.remote(0)))
        .collect();
    w.post_send(pair.client, b"fast", None, None);
    w.receives(pair.server, receive, 4);
    assert_eq!(w.outcome(pair.client, reads[99]), None);
    w.succeeds(pair.client, reads[99]);
    w.finish();
}

/// An access to 100 bytes that must be refused.
#[derive(Clone, Copy, Debug)]
enum Forgery {
    Invalidated,
    Deregistered,
    InvalidatedAndDeregistered,
    /// Uses the token of a region that is gone, whose number probably belongs now to a new region that allows the
    /// access. The address is the old one or the new region's.
    Succeeded {
        at_new_address: bool,
    },
    Token(fn(u32) -> u32),
    /// Moves the access by this many bytes from where it may begin.
    Moved(i64),
    WrappingEnd,
    WrongKind,
    LocalMemory,
    AnotherConnection,
    WrongEnd,
}

const FORGERIES: [Forgery; 16] = [
    Forgery::Invalidated,
    Forgery::Deregistered,
    Forgery::InvalidatedAndDeregistered,
    Forgery::Succeeded {
        at_new_address: false,
    },
    Forgery::Succeeded {
        at_new_address: true,
    },
    Forgery::Token(|token| token ^ 1),
    Forgery::Token(|_| 0),
    Forgery::Moved(1),
    Forgery::Moved(-1),
    Forgery::Moved(100),
    Forgery::Moved(1 << 40),
    Forgery::WrappingEnd,
    Forgery::WrongKind,
    Forgery::LocalMemory,
    Forgery::AnotherConnection,
    Forgery::WrongEnd,
];

/// Makes the peer invalidate the server's token.
fn invalidate<H: Harness>(w: &mut World<H>, pair: Pair, token: RemoteToken) {
    let buffer = w.register(pair.server, 1, Access::Local);
    let receive = w.post_recv(pair.server, buffer.all());
    w.post_send(pair.client, b"", None, Some(token));
    w.succeeds(pair.server, receive);
}

/// Returns the target of a forged access to `memory`: 100 bytes of the server that are registered for `access`.
fn forge<H: Harness>(
    w: &mut World<H>,
    (pair, bystander): (Pair, Pair),
    (memory, access): (&Mem, Access),
    forgery: Forgery,
) -> RemoteAddress {
    let target = memory.remote(0);
    let other_kind = match access {
        Access::RemoteRead => Access::RemoteWrite,
        _ => Access::RemoteRead,
    };
    let registered =
        |w: &mut World<H>, end, access| w.register_memory(end, &memory.memory, access).remote(0);
    match forgery {
        Forgery::Invalidated => invalidate(w, pair, target.token),
        Forgery::Deregistered => w.deregister(pair.server, memory),
        Forgery::InvalidatedAndDeregistered => {
            invalidate(w, pair, target.token);
            w.deregister(pair.server, memory);
        }
        Forgery::Succeeded { at_new_address } => {
            w.deregister(pair.server, memory);
            let successor = w.register_memory(pair.server, &memory.memory, access);
            let address = if at_new_address {
                successor.remote(0).address
            } else {
                target.address
            };
            return RemoteAddress { address, ..target };
        }
        Forgery::Token(change) => {
            let token = RemoteToken(change(target.token.0));
            return RemoteAddress { token, ..target };
        }
        Forgery::Moved(by) => {
            let address = target.address.wrapping_add_signed(by);
            return RemoteAddress { address, ..target };
        }
        Forgery::WrappingEnd => {
            let address = u64::MAX - 50;
            return RemoteAddress { address, ..target };
        }
        Forgery::WrongKind => return registered(w, pair.server, other_kind),
        Forgery::LocalMemory => return registered(w, pair.server, Access::Local),
        Forgery::AnotherConnection => return registered(w, bystander.server, access),
        Forgery::WrongEnd => return registered(w, pair.client, access),
    }
    target
}

fn refuses_forgeries<H: Harness>(h: H, access: Access) {
    let mut w = World::new(h);
    let bystander = w.pair();
    for what in FORGERIES {
        let pair = w.pair();
        let invalidates = matches!(
            what,
            Forgery::Invalidated | Forgery::InvalidatedAndDeregistered
        );
        let allowed = matches!(what, Forgery::WrongKind)
            && access == Access::RemoteRead
            && !w.fidelity().checks_reads;
        if invalidates && !w.may_be_invalidated(pair.server) || allowed {
            continue;
        }
        let memory = w.register_bytes(pair.server, &[0xAA; 100], access);
        let own = w.register_bytes(pair.client, &[0xBB; 100], Access::ReadSink);
        let target = forge(&mut w, (pair, bystander), (&memory, access), what);
        if access == Access::RemoteWrite {
            let write = w.post_write(pair.client, own.all(), target);
            let (_, result) = w.completes(pair.client, write);
            // A WRITE may complete for its owner before the peer has seen it.
            let allowed = [Ok(()), Err(WrError::RemoteAccess), Err(WrError::Flushed)];
            assert_one_of(&result, &allowed);
        } else {
            let read = w.post_read(pair.client, own.all(), target);
            let outcome = w.completes(pair.client, read);
            assert_read_refused(&w, outcome);
        }
        w.assert_told([pair.server, pair.client], CloseReason::is_remote_access);
        assert_eq!(memory.bytes(), [0xAA; 100], "{what:?}");
        assert_eq!(own.bytes(), [0xBB; 100], "{what:?}");
        w.works(bystander);
    }
    w.finish();
}

pub fn refuses_forged_writes<H: Harness>(h: H) {
    refuses_forgeries(h, Access::RemoteWrite);
}

pub fn refuses_forged_reads<H: Harness>(h: H) {
    refuses_forgeries(h, Access::RemoteRead);
}

fn assert_read_refused<H: Harness>(w: &World<H>, (work, result): Outcome) {
    assert_eq!(work, Work::Read);
    match w.fidelity().tells {
        Tells::Nobody => assert!(result.is_err()),
        _ => assert_eq!(result, Err(WrError::RemoteAccess)),
    }
}

pub fn refuses_a_large_access_of_which_only_the_last_byte_lies_outside<H: Harness>(h: H) {
    let mut w = World::new(h);
    let pair = w.pair();
    let own = w.register_bytes(pair.client, &vec![1; MIB + 1], Access::ReadSink);
    let target = w.register_bytes(pair.server, &vec![2; MIB], Access::RemoteRead);
    let read = w.post_read(pair.client, own.all(), target.remote(0));
    let outcome = w.completes(pair.client, read);
    assert_read_refused(&w, outcome);
    w.assert_told([pair.server, pair.client], CloseReason::is_remote_access);
    assert!(own.bytes().iter().all(|byte| *byte == 1));
    w.finish();
}

pub fn reads_whose_sink_is_gone_fail_and_write_nothing<H: Harness>(h: H) {
    let mut w = World::new(h);
    let bystander = w.pair();
    let pair = w.pair();
    let source = w.register_bytes(pair.server, &[1; 1000], Access::RemoteRead);
    let gone = w.register_bytes(pair.client, &[0xAA; 1000], Access::ReadSink);
    let reads: Vec<WrId> = (0..40)
        .map(|_| w.post_read(pair.client, gone.all(), source.remote(0)))
        .collect();
    w.deregister(pair.client, &gone);
    // This region probably has the same number.
    let next = w.register_bytes(pair.client, &[0xBB; 1000], Access::ReadSink);
    for read in reads {
        assert!(w.completes(pair.client, read).1.is_err());
    }
    w.closes(pair.client);
    w.closes(pair.server);
    assert_eq!(gone.bytes(), [0xAA; 1000]);
    assert_eq!(next.bytes(), [0xBB; 1000]);
    w.works(bystander);
    w.finish();
}

pub fn deregistration_leaves_other_posted_work_alone<H: Harness>(h: H) {
    let mut w = World::new(h);
    let pair = w.pair();
    let unused = w.register(pair.client, 100, Access::RemoteRead);
    let source = w.register_bytes(pair.server, &[1; 100], Access::RemoteRead);
    let sink = w.register(pair.client, 100, Access::ReadSink);
    let receive = w.post_recv(pair.client, sink.sge(0, 10));
    let read = w.post_read(pair.client, sink.all(), source.remote(0));
    w.deregister(pair.client, &unused);
    w.succeeds(pair.client, read);
    w.post_send(pair.server, b"message", None, None);
    w.receives(pair.client, receive, 7);
    w.works(pair);
    w.finish();
}
