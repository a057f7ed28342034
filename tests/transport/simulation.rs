// SPDX-License-Identifier: GPL-2.0-or-later

//! Runs several connections at once in virtual time, on a fabric with faults: messages, RDMA WRITEs and READs both
//! ways, owners without buffers, ends that close or just vanish. Everything follows from a seed.
//!
//! Whatever happens, each accepted operation ends in exactly one event, and so does each connection; messages arrive as
//! they were sent, in order and after the data that was written before them, and nothing is left at the end.
//!
//! `SMBDIRECT_SEED=n cargo test --test transport simulation -- --nocapture` runs one seed and
//! prints what happens in it; `SMBDIRECT_SEEDS=n` sets how many are run.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::panic::catch_unwind;
use std::time::Duration;

use fastrand::Rng;
use smbdirect::fabric::fault::{Cut, Fault, FaultPlan};
use smbdirect::fabric::loopback::{Loopback, LoopbackConfig};
use smbdirect::fabric::{Access, ConnId, Sge};
use smbdirect::proto;
use smbdirect::sys::Memory;
use smbdirect::transport::{Config, Event, HeapBuffers, SendError, Transport};
use smbdirect::units::{Credits, Instant};
use smbdirect::wire::BufferDescriptorV1;

use crate::scene::{CONTENT, End, Expected, Operation, Piece, SINK, Scarce, Sum, check};

const SEEDS: u64 = 300;

/// More calls of `poll` than any seed needs.
const POLLS: usize = 200_000;

#[test]
fn everything_ends_once_and_arrives_whole_whatever_happens() {
    let number = |variable: &str| -> Option<u64> { std::env::var(variable).ok()?.parse().ok() };
    if let Some(seed) = number("SMBDIRECT_SEED") {
        Simulation::new(seed, true).run();
        return;
    }
    let mut sum = Sum::default();
    for seed in 0..number("SMBDIRECT_SEEDS").unwrap_or(SEEDS) {
        match catch_unwind(|| Simulation::new(seed, false).run()) {
            Ok(one) => sum.add(&one),
            Err(panic) => {
                eprintln!("seed {seed} failed: SMBDIRECT_SEED={seed} cargo test --test transport");
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{sum:?}");
    // A simulation in which nothing happens would find nothing.
    let Sum {
        messages,
        written,
        read,
        flushed,
        injected,
        waits,
        refused,
        aborted,
    } = sum;
    assert!(messages > 10_000 && written > 5_000 && read > 5_000);
    assert!(flushed > 500 && injected > 50 && waits > 1000 && refused > 1000 && aborted > 50);
}

struct Simulation {
    transport: Transport<Fault<Loopback>, Scarce>,
    rng: Rng,
    now: Instant,
    address: SocketAddr,
    events: Vec<Event<Vec<u8>>>,
    ends: HashMap<ConnId, End>,
    /// The connections, in a fixed order, so that a seed always leads to the same run.
    order: Vec<ConnId>,
    /// A connection that is not established at both ends yet: the initiator, and each end once it is established.
    connecting: Option<ConnId>,
    fresh: Vec<ConnId>,
    closed: HashSet<ConnId>,
    /// Message buffers, and the times until which they are held.
    held: Vec<(Instant, Vec<u8>)>,
    shortage_until: Option<Instant>,
    faulty: bool,
    cookie: u64,
    polls: usize,
    sum: Sum,
    verbose: bool,
}

fn endpoint(rng: &mut Rng, base: proto::Config) -> proto::Config {
    let credits = |rng: &mut Rng| Credits([1, 2, 3, 8, 255, 255][rng.usize(..6)]);
    let size = |rng: &mut Rng| [128, 200, 1364, 1364, 8192][rng.usize(..5)];
    proto::Config {
        receive_credit_max: credits(rng),
        send_credit_target: credits(rng),
        max_send_size: size(rng),
        max_receive_size: size(rng),
        ..base
    }
}

impl Simulation {
    fn new(seed: u64, verbose: bool) -> Self {
        let mut rng = Rng::with_seed(seed);
        let config = Config {
            send_queue: rng.usize(1..64),
            ..Config::new(
                endpoint(&mut rng, proto::Config::default()),
                endpoint(&mut rng, proto::Config::initiator_default()),
            )
        };
        let queue = |rng: &mut Rng| [1, 2, 5, 4096][rng.usize(..4)];
        let loopback = LoopbackConfig {
            send_queue: queue(&mut rng),
            read_queue: queue(&mut rng),
            ..LoopbackConfig::default()
        };
        let (fault, at) = (rng.u8(..4), rng.u64(1..3000));
        let kind = if rng.bool() { Cut::Close } else { Cut::Reset };
        let plan = FaultPlan {
            seed,
            delay: Duration::from_micros([0, 0, 50, 5000][rng.usize(..4)]),
            cut: (fault == 0).then_some((at, kind)),
            fail_completion: (fault == 1).then_some(at),
        };
        if verbose {
            println!("{config:#?}\n{loopback:?}\n{plan:?}");
        }
        let buffers = Scarce {
            heap: HeapBuffers::new(),
            shortage: false,
            refused: 0,
        };
        let fabric = Fault::new(Loopback::new(loopback).unwrap(), plan);
        let mut transport = Transport::new(fabric, buffers, config);
        let listener = transport.listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = transport.local_address(listener).unwrap();
        Self {
            transport,
            rng,
            now: Instant::ZERO + Duration::from_secs(1),
            address,
            events: Vec::new(),
            ends: HashMap::new(),
            order: Vec::new(),
            connecting: None,
            fresh: Vec::new(),
            closed: HashSet::new(),
            held: Vec::new(),
            shortage_until: None,
            faulty: fault < 2,
            cookie: 0,
            polls: 0,
            sum: Sum::default(),
            verbose,
        }
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.verbose {
            println!("{:10} us {}", self.now.as_nanos() / 1000, what());
        }
    }

    fn run(mut self) -> Sum {
        for _ in 0..self.rng.u32(100..400) {
            self.act();
            let step = [0, 1, 100, 10_000][self.rng.usize(..4)];
            let until = self.now + Duration::from_micros(self.rng.u64(..=step));
            self.pass(until);
        }
        // Whatever is under way ends by itself, long before any timer expires.
        self.pass(self.now + Duration::from_secs(60));
        for (id, end) in &self.ends {
            let status = self.transport.status(*id);
            assert!(
                end.outstanding.is_empty(),
                "{id:?} stands still: {status:?}"
            );
            assert!(
                end.expected.is_empty(),
                "{id:?} misses messages: {status:?}"
            );
        }
        for id in self.order.clone() {
            if self.rng.bool() {
                self.transport.close(id);
            }
        }
        self.pass(self.now + Duration::from_secs(1));
        for id in self.transport.connections().collect::<Vec<_>>() {
            self.transport.close(id);
        }
        self.pass(self.now + Duration::from_secs(1));
        assert_eq!(self.transport.connections().count(), 0);
        assert!(self.ends.is_empty() && self.connecting.is_none());
        assert_eq!(self.transport.buffers().heap.outstanding(), 0);
        // Timers of ended connections expire, and nothing starts them again.
        self.pass(self.now + Duration::from_secs(3600));
        assert_eq!(self.transport.poll_timeout(), None, "something is left");
        self.sum.waits = self.transport.buffers().refused;
        self.sum
    }

    /// Does one random thing that an owner may do.
    fn act(&mut self) {
        match self.rng.u8(..100) {
            0..4 if self.connecting.is_none() && self.order.len() < 8 => {
                let conn = self.transport.connect(self.now, self.address).unwrap();
                self.say(|| format!("connects {conn:?}"));
                self.connecting = Some(conn);
            }
            4 if self.shortage_until.is_none() => {
                let time = Duration::from_millis(self.rng.u64(1..2000));
                self.say(|| format!("has no buffers for {time:?}"));
                self.shortage_until = Some(self.now + time);
                self.transport.buffers_mut().shortage = true;
            }
            action => {
                let Some(id) = self.pick() else { return };
                match action {
                    5 => self.close(id),
                    6 => self.abort(id),
                    _ => {
                        for _ in 0..self.rng.u8(1..8) {
                            match self.rng.u8(..4) {
                                0 | 1 => self.send(id),
                                2 => self.write(id),
                                _ => self.read(id),
                            }
                        }
                    }
                }
            }
        }
    }

    fn pick(&mut self) -> Option<ConnId> {
        if self.order.is_empty() {
            return None;
        }
        Some(self.order[self.rng.usize(..self.order.len())])
    }

    fn close(&mut self, id: ConnId) {
        self.say(|| format!("closes {id:?}"));
        self.transport.close(id);
        if let Some(end) = self.ends.get_mut(&id) {
            end.reliable = false;
        }
    }

    fn abort(&mut self, id: ConnId) {
        self.say(|| format!("aborts {id:?}"));
        self.transport.abort(id);
        self.sum.aborted += 1;
        for id in [id, self.ends[&id].peer] {
            if let Some(end) = self.ends.get_mut(&id) {
                end.reliable = false;
            }
        }
    }

    fn length(&mut self) -> usize {
        match self.rng.u8(..8) {
            0..4 => self.rng.usize(1..200),
            4..7 => self.rng.usize(1..5_000),
            _ => self.rng.usize(1..40_000),
        }
    }

    /// Returns a piece of this end's memory, with content of some length, and the offset of the content.
    fn source(&mut self, id: ConnId) -> (Sge, usize, usize) {
        let length = self.length();
        let content = self.rng.usize(..CONTENT.len() - length);
        let sge = Sge {
            region: self.ends[&id].source.id,
            offset: content as u32,
            length: length as u32,
        };
        (sge, content, length)
    }

    /// Returns whether an operation was accepted. A refusal must have a reason.
    fn taken(&mut self, id: ConnId, result: Result<(), SendError>, operation: Operation) -> bool {
        match result {
            Ok(()) => {
                let cookie = self.cookie;
                let end = self.ends.get_mut(&id).unwrap();
                assert!(end.outstanding.insert(cookie, operation).is_none());
                self.cookie += 1;
                true
            }
            Err(SendError::QueueFull | SendError::NotEstablished) => {
                self.sum.refused += 1;
                false
            }
            // The region was registered after the end, which Fault conceals.
            Err(SendError::LocalProtection) if self.faulty => false,
            Err(error) => panic!("{error}"),
        }
    }

    fn send(&mut self, id: ConnId) {
        let (sge, content, length) = self.source(id);
        let result = self.transport.send(id, self.cookie, sge, None);
        if !self.taken(id, result, Operation::Send) {
            return;
        }
        let end = self.ends.get_mut(&id).unwrap();
        let expected = Expected {
            content,
            length,
            written: std::mem::take(&mut end.writing),
        };
        let peer = end.peer;
        if let Some(peer) = self.ends.get_mut(&peer) {
            peer.expected.push_back(expected);
        }
    }

    /// Cuts `length` bytes of content into pieces of a sink, with gaps between them.
    fn cut(&mut self, mut unused: u32, content: usize, length: usize) -> Option<(u32, Vec<Piece>)> {
        let (mut done, mut pieces) = (0, Vec::new());
        while done < length {
            unused += 1 + self.rng.u32(..3);
            let left = length - done;
            let some = if pieces.len() < 3 {
                self.rng.usize(1..=left)
            } else {
                left
            };
            let at = unused as usize;
            pieces.push(Piece {
                content: content + done,
                at,
                length: some,
            });
            done += some;
            unused += some as u32;
        }
        (unused < SINK).then_some((unused, pieces))
    }

    fn write(&mut self, id: ConnId) {
        let (sge, content, length) = self.source(id);
        let Some(peer) = self.ends.get(&self.ends[&id].peer) else {
            return;
        };
        let (remote, unused) = (peer.sink_region.remote, peer.unused);
        let Some((unused, pieces)) = self.cut(unused, content, length) else {
            return;
        };
        let descriptors = pieces.iter().map(|piece| BufferDescriptorV1 {
            offset: remote.address + piece.at as u64,
            token: remote.token,
            length: piece.length as u32,
        });
        let result = self.transport.write(id, self.cookie, sge, descriptors);
        if self.taken(id, result, Operation::Write) {
            let end = self.ends.get_mut(&id).unwrap();
            end.writing.extend(pieces);
            let peer = end.peer;
            self.ends.get_mut(&peer).unwrap().unused = unused;
        }
    }

    fn read(&mut self, id: ConnId) {
        let (_, content, length) = self.source(id);
        let end = &self.ends[&id];
        let (region, at) = (end.sink_region.id, end.unused + 1);
        let Some(peer) = self.ends.get(&end.peer) else {
            return;
        };
        let remote = peer.source.remote;
        let Some((_, pieces)) = self.cut(0, content, length) else {
            return;
        };
        if at + length as u32 >= SINK {
            return;
        }
        let descriptors = pieces.iter().map(|piece| BufferDescriptorV1 {
            offset: remote.address + piece.content as u64,
            token: remote.token,
            length: piece.length as u32,
        });
        let sink = Sge {
            region,
            offset: at,
            length: length as u32,
        };
        let result = self.transport.read(id, self.cookie, sink, descriptors);
        let whole = Piece {
            content,
            at: at as usize,
            length,
        };
        if self.taken(id, result, Operation::Read(vec![whole])) {
            self.ends.get_mut(&id).unwrap().unused = at + length as u32;
        }
    }

    /// Lets time pass until `until`, and stops whenever there is something to do.
    fn pass(&mut self, until: Instant) {
        loop {
            self.housekeep();
            self.transport.poll(self.now, &mut self.events).unwrap();
            self.polls += 1;
            assert!(self.polls < POLLS, "the connections do not come to rest");
            self.look();
            let held = self.held.iter().map(|(until, _)| *until);
            let next = self.transport.poll_timeout().into_iter();
            let next = next.chain(held).chain(self.shortage_until).min();
            match next {
                Some(at) if at <= until => self.now = self.now.max(at),
                _ => break,
            }
        }
        self.now = self.now.max(until);
    }

    fn housekeep(&mut self) {
        if self.shortage_until.is_some_and(|until| until <= self.now) {
            self.shortage_until = None;
            self.transport.buffers_mut().shortage = false;
            self.transport.buffers_available();
        }
        let now = self.now;
        let (due, held) = self.held.drain(..).partition(|(until, _)| *until <= now);
        self.held = held;
        for (_, buffer) in due {
            self.transport.recycle(buffer);
        }
    }

    fn look(&mut self) {
        for event in std::mem::take(&mut self.events) {
            self.say(|| match &event {
                Event::Message { conn, length, .. } => format!("{conn:?} has {length} bytes"),
                event => format!("{event:?}"),
            });
            match event {
                Event::Established { conn, .. } => self.established(conn),
                Event::Message {
                    conn,
                    buffer,
                    length,
                } => self.message(conn, buffer, length),
                Event::Invalidated { .. } => panic!("no peer invalidates"),
                Event::Sent {
                    conn,
                    cookie,
                    result,
                } => {
                    let operation = self.ended(conn, cookie, result.is_ok());
                    assert!(matches!(operation, Operation::Send));
                }
                Event::Written {
                    conn,
                    cookie,
                    result,
                } => {
                    let operation = self.ended(conn, cookie, result.is_ok());
                    assert!(matches!(operation, Operation::Write));
                    self.sum.written += u64::from(result.is_ok());
                }
                Event::Read {
                    conn,
                    cookie,
                    result,
                } => {
                    let operation = self.ended(conn, cookie, result.is_ok());
                    let Operation::Read(pieces) = operation else {
                        panic!("{operation:?}")
                    };
                    if result.is_ok() {
                        self.sum.read += 1;
                        check(&self.ends[&conn].sink, &pieces);
                    }
                }
                Event::Closed { conn, reason, .. } => self.gone(conn, reason.name()),
            }
        }
    }

    fn established(&mut self, conn: ConnId) {
        self.fresh.push(conn);
        let [a, b] = self.fresh[..] else { return };
        (self.connecting, self.fresh) = (None, Vec::new());
        for (id, peer) in [(a, b), (b, a)] {
            let source = Memory::zeroed(CONTENT.len());
            source.write(0, &CONTENT).unwrap();
            let sink = Memory::zeroed(SINK as usize);
            let mut register = |memory, access| self.transport.register(id, memory, access);
            let (Ok(source), Ok(sink_region)) = (
                register(&source, Access::RemoteRead),
                register(&sink, Access::RemoteWrite),
            ) else {
                panic!("an established connection takes no regions");
            };
            let end = End {
                peer,
                source,
                sink,
                sink_region,
                unused: 0,
                expected: VecDeque::new(),
                writing: Vec::new(),
                outstanding: HashMap::new(),
                reliable: !self.faulty,
            };
            self.ends.insert(id, end);
            self.order.push(id);
        }
    }

    fn message(&mut self, conn: ConnId, buffer: Vec<u8>, length: u32) {
        let end = self
            .ends
            .get_mut(&conn)
            .expect("a message before the connection");
        let expected = end
            .expected
            .pop_front()
            .expect("a message that was not sent");
        assert_eq!(
            (buffer.len(), length as usize),
            (expected.length, expected.length)
        );
        assert!(
            buffer == CONTENT[expected.content..][..expected.length],
            "wrong bytes"
        );
        check(&end.sink, &expected.written);
        self.sum.messages += 1;
        let time = self.rng.u64(..2000) * self.rng.u64(..2);
        self.held
            .push((self.now + Duration::from_micros(time), buffer));
    }

    fn ended(&mut self, conn: ConnId, cookie: u64, well: bool) -> Operation {
        self.sum.flushed += u64::from(!well);
        let end = self.ends.get_mut(&conn).expect("an event after the end");
        let operation = end.outstanding.remove(&cookie);
        operation.expect("an event without an operation, or a second one")
    }

    fn gone(&mut self, conn: ConnId, reason: &str) {
        assert!(self.closed.insert(conn), "closed twice");
        self.sum.injected += u64::from(reason == "injected");
        let harmless = ["local", "peer", "aborted"].contains(&reason);
        assert!(
            harmless || self.faulty && reason == "injected",
            "ended by {reason}"
        );
        if self.connecting == Some(conn) || self.fresh.contains(&conn) {
            self.connecting = None;
            self.fresh.clear();
        }
        self.order.retain(|id| *id != conn);
        let Some(end) = self.ends.remove(&conn) else {
            return;
        };
        assert!(end.outstanding.is_empty(), "{:?}", end.outstanding);
        if end.reliable && reason == "peer" && self.shortage_until.is_none() {
            assert!(end.expected.is_empty(), "cut off by a graceful close");
        }
    }
}
