// SPDX-License-Identifier: GPL-2.0-or-later

//! The basis of the cases: fabrics to test, and a world that drives them and checks all the time.
//!
//! A case contains only what is special about it. At each event of each case, [`World`] checks what is true of every
//! connection: order, exactly one completion for each posted request, exactly one end, and silence afterwards.

use std::collections::{HashMap, VecDeque};
use std::fmt::Debug;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use smbdirect::fabric::{
    Access, CauseKind, CloseReason, ConnId, Event, FabricError, ListenerId, ReadLimits, Region,
    RemoteAddress, Sge, Waitable, Work, WrError, WrId,
};
use smbdirect::sys::Memory;
use smbdirect::units::{Instant, RemoteToken};

/// Which ends learn why a connection ended, after one of them broke a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tells {
    /// Both ends, with the fabric's reason.
    BothEnds,
    /// At least one of the two ends; the other end only sees that its peer has gone. Soft-RoCE reports nothing to an
    /// end whose memory was accessed, and no failure after a message has been acknowledged.
    OneEnd,
    /// Possibly neither end: siw has a reason in its Terminate message, but does not pass it to user space.
    Nobody,
}

/// What the device below the fabric supports of all that the `Fabric` trait promises. Software RDMA devices (siw,
/// Soft-RoCE) lack some of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fidelity {
    pub tells: Tells,
    /// Whether two things hold: a receive reports the token that its message invalidated, and local work may still use
    /// the region afterwards. siw's token also covers local work, and siw's interface has no field for the invalidated
    /// token.
    pub names_invalidated: bool,
    /// Whether RDMA READs need permission. siw serves them from all memory that is registered with the connection.
    pub checks_reads: bool,
}

impl Fidelity {
    pub const FULL: Self = Self {
        tells: Tells::BothEnds,
        names_invalidated: true,
        checks_reads: true,
    };
}

/// One or two fabrics under test, and their time.
pub trait Harness {
    /// Returns how much of the `Fabric` trait to expect.
    fn fidelity(&self) -> Fidelity {
        Fidelity::FULL
    }

    /// Returns the name to print if a case fails.
    fn name(&self) -> &str;

    /// Returns the fabrics. The first listens, and the last connects. One fabric may do both.
    fn fabrics(&mut self) -> &mut [Box<dyn Waitable>];

    /// Returns the address at which the first fabric listens, with port 0.
    fn address(&self) -> SocketAddr;

    /// Returns the time for `poll`.
    fn now(&self) -> Instant;

    /// Lets time pass until a fabric has something to do. `false`: no fabric will ever have anything to do.
    fn wait(&mut self) -> bool;
}

/// The usual [`Harness`].
pub struct Rig {
    name: String,
    fabrics: Vec<Box<dyn Waitable>>,
    address: SocketAddr,
    clock: Clock,
    fidelity: Fidelity,
}

enum Clock {
    Virtual(Instant),
    Real(std::time::Instant),
}

/// How long a fabric in real time may be idle while a case waits for something.
const PATIENCE: Duration = Duration::from_secs(5);

impl Rig {
    /// Puts both ends into one fabric. Time passes as fast as it can.
    pub fn in_virtual_time(name: impl Into<String>, fabric: impl Waitable + 'static) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let clock = Clock::Virtual(Instant::from_nanos(1_000_000_000));
        Self {
            name: name.into(),
            fabrics: vec![Box::new(fabric)],
            address,
            clock,
            fidelity: Fidelity::FULL,
        }
    }

    /// Puts an end into each of two fabrics. Time passes as fast as it can.
    pub fn in_virtual_time_with_two(
        name: impl Into<String>,
        server: impl Waitable + 'static,
        client: impl Waitable + 'static,
    ) -> Self {
        let mut rig = Self::in_virtual_time(name, server);
        rig.fabrics.push(Box::new(client));
        rig
    }

    /// Makes the rig listen at `address`.
    pub fn at(mut self, address: SocketAddr) -> Self {
        self.address = address;
        self
    }

    /// Puts an end into each of two fabrics, which wake up through their `event_fd`s.
    pub fn in_real_time(
        name: impl Into<String>,
        server: impl Waitable + 'static,
        client: impl Waitable + 'static,
        address: SocketAddr,
    ) -> Self {
        let clock = Clock::Real(std::time::Instant::now());
        Self {
            name: name.into(),
            fabrics: vec![Box::new(server), Box::new(client)],
            address,
            clock,
            fidelity: Fidelity::FULL,
        }
    }

    /// Lowers what the cases expect, for devices that need not do all that the trait allows.
    pub fn with(mut self, fidelity: Fidelity) -> Self {
        self.fidelity = fidelity;
        self
    }

    /// Waits for the descriptors, as an otherwise idle owner would. They are registered again each time, so that a
    /// descriptor that is already readable counts.
    fn wait_readable(&self, timeout: Duration) -> bool {
        let mut poll = mio::Poll::new().unwrap();
        for fabric in &self.fabrics {
            if let Some(fd) = fabric.event_fd() {
                let fd = fd.as_raw_fd();
                let mut source = mio::unix::SourceFd(&fd);
                let registry = poll.registry();
                registry
                    .register(&mut source, mio::Token(0), mio::Interest::READABLE)
                    .unwrap();
            }
        }
        let mut ready = mio::Events::with_capacity(4);
        match poll.poll(&mut ready, Some(timeout)) {
            Ok(()) => !ready.is_empty(),
            Err(error) => error.kind() == std::io::ErrorKind::Interrupted,
        }
    }
}

impl Harness for Rig {
    fn fidelity(&self) -> Fidelity {
        self.fidelity
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn fabrics(&mut self) -> &mut [Box<dyn Waitable>] {
        &mut self.fabrics
    }

    fn address(&self) -> SocketAddr {
        self.address
    }

    fn now(&self) -> Instant {
        match &self.clock {
            Clock::Virtual(now) => *now,
            Clock::Real(start) => Instant::ZERO + start.elapsed(),
        }
    }

    fn wait(&mut self) -> bool {
        let now = self.now();
        let next = self
            .fabrics
            .iter()
            .filter_map(|fabric| fabric.poll_timeout())
            .min();
        match (&mut self.clock, next) {
            (_, Some(next)) if next <= now => true,
            (Clock::Virtual(now), Some(next)) => {
                *now = next;
                true
            }
            (Clock::Virtual(_), None) => false,
            (Clock::Real(_), next) => {
                let timeout = next.map_or(PATIENCE, |next| (next - now).min(PATIENCE));
                // Wait one millisecond more than asked for, because the system's timer is not finer.
                self.wait_readable(timeout + Duration::from_millis(1))
                    || next.is_some_and(|next| next - now <= PATIENCE)
            }
        }
    }
}

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct End {
    pub fabric: usize,
    pub conn: ConnId,
}

/// Both ends of an established connection.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    pub client: End,
    pub server: End,
}

impl Pair {
    /// Returns the pair in both directions.
    pub fn both_ways(self) -> [(End, End); 2] {
        [(self.client, self.server), (self.server, self.client)]
    }
}

/// Registered memory.
#[derive(Clone, Debug)]
pub struct Mem {
    pub memory: Memory,
    pub region: Region,
}

impl Mem {
    pub fn sge(&self, offset: usize, length: usize) -> Sge {
        let [offset, length] = [offset, length].map(|n| u32::try_from(n).unwrap());
        Sge {
            region: self.region.id,
            offset,
            length,
        }
    }

    pub fn all(&self) -> Sge {
        self.sge(0, self.memory.len())
    }

    /// Returns the address by which the peer names `offset`.
    pub fn remote(&self, offset: u64) -> RemoteAddress {
        let RemoteAddress { token, address } = self.region.remote;
        RemoteAddress {
            token,
            address: address.wrapping_add(offset),
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.memory.to_vec(0, self.memory.len()).unwrap()
    }
}

/// Makes random bytes, which are the same for the same seed.
pub fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// How a work request ended.
pub type Outcome = (Work, Result<(), WrError>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
enum Kind {
    Recv,
    Send,
    Write,
    Read,
}

impl From<&Work> for Kind {
    fn from(work: &Work) -> Self {
        match work {
            Work::Recv { .. } => Self::Recv,
            Work::Send => Self::Send,
            Work::Write => Self::Write,
            Work::Read => Self::Read,
        }
    }
}

/// The state of an end.
#[derive(Default)]
struct Record {
    posted: [VecDeque<WrId>; 4],
    done: HashMap<WrId, Outcome>,
    established: Option<ReadLimits>,
    closed: Option<CloseReason>,
    rejected: bool,
    /// Whether an operation has failed without being flushed.
    failed: bool,
    /// The kinds that have had an operation flushed.
    flushed: [bool; 4],
}

/// Fabrics, a record of what was done with them, and what they have reported.
pub struct World<H: Harness> {
    harness: H,
    records: HashMap<End, Record>,
    /// Everything that was reported, in order, with completions in short form.
    log: Vec<(usize, Event)>,
    requests: VecDeque<(ListenerId, End)>,
    listener: Option<(ListenerId, SocketAddr)>,
    next_wr_id: u64,
    finished: bool,
}

impl<H: Harness> Drop for World<H> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let from = self.log.len().saturating_sub(20);
            eprintln!(
                "fabric: {}; last of {} events:",
                self.harness.name(),
                self.log.len()
            );
            for (fabric, event) in &self.log[from..] {
                eprintln!("  {fabric}: {event:?}");
            }
        } else {
            assert!(self.finished, "a case must end with finish()");
        }
    }
}

/// Calls for connections.
impl<H: Harness> World<H> {
    pub fn new(harness: H) -> Self {
        Self {
            harness,
            records: HashMap::new(),
            log: Vec::new(),
            requests: VecDeque::new(),
            listener: None,
            next_wr_id: 1,
            finished: false,
        }
    }

    pub fn server_fabric(&mut self) -> &mut dyn Waitable {
        &mut *self.harness.fabrics()[0]
    }

    pub fn fabric(&mut self, end: End) -> &mut dyn Waitable {
        &mut *self.harness.fabrics()[end.fabric]
    }

    /// Makes the listener of this world.
    pub fn listen(&mut self) -> (ListenerId, SocketAddr) {
        if let Some(listener) = self.listener {
            return listener;
        }
        let address = self.harness.address();
        let listener = self.server_fabric().listen(address).unwrap();
        let bound = self.server_fabric().local_address(listener).unwrap();
        assert_ne!(bound.port(), 0, "a listener has a real port");
        *self.listener.insert((listener, bound))
    }

    pub fn connect(&mut self, address: SocketAddr, limits: ReadLimits) -> End {
        let fabric = self.harness.fabrics().len() - 1;
        let conn = self.harness.fabrics()[fabric]
            .connect(address, limits)
            .unwrap();
        let end = End { fabric, conn };
        assert!(
            self.records.insert(end, Record::default()).is_none(),
            "the number of a connection was used again: {end:?}"
        );
        end
    }

    /// Makes a connection request that waits for its answer.
    pub fn request(&mut self, limits: ReadLimits) -> Pair {
        let (listener, address) = self.listen();
        let client = self.connect(address, limits);
        self.run_until("a connect request", |world| !world.requests.is_empty());
        let (of, server) = self.requests.pop_front().unwrap();
        assert_eq!(of, listener);
        Pair { client, server }
    }

    pub fn accept(&mut self, pair: Pair, limits: ReadLimits) {
        self.fabric(pair.server)
            .accept(pair.server.conn, limits)
            .unwrap();
        self.run_until("established on both ends", |world| {
            world.limits(pair.client).is_some() && world.limits(pair.server).is_some()
        });
    }

    pub fn reject(&mut self, end: End) {
        self.fabric(end).reject(end.conn);
        self.record(end).rejected = true;
    }

    /// Makes an established connection on which the client has spoken, because with MPA the server may not speak before
    /// the client (RFC 5044, 7.1).
    pub fn pair(&mut self) -> Pair {
        self.pair_with(ReadLimits::default())
    }

    /// Does what [`pair`](Self::pair) does, with `limits` as the client's limits for READs.
    pub fn pair_with(&mut self, limits: ReadLimits) -> Pair {
        let pair = self.request(limits);
        let buffer = self.register(pair.server, 1, Access::Local);
        let received = self.post_recv(pair.server, buffer.all());
        self.accept(pair, ReadLimits::default());
        self.post_send(pair.client, b"!", None, None);
        self.succeeds(pair.server, received);
        self.deregister(pair.server, &buffer);
        pair
    }

    /// Makes an established connection on which nothing has been sent yet. The client must send first.
    pub fn pair_in_silence(&mut self) -> Pair {
        let pair = self.request(ReadLimits::default());
        self.accept(pair, ReadLimits::default());
        pair
    }

    /// Returns the limits that were agreed on when the connection was established.
    pub fn limits(&self, end: End) -> Option<ReadLimits> {
        self.records[&end].established
    }

    pub fn close(&mut self, end: End) {
        self.fabric(end).close(end.conn);
    }

    pub fn reason(&self, end: End) -> Option<&CloseReason> {
        self.records[&end].closed.as_ref()
    }

    /// Asserts that a connection has ended for a reason, and that the right ends learned the reason.
    pub fn assert_told(&mut self, ends: [End; 2], is: impl Fn(&CloseReason) -> bool) {
        let reasons = ends.map(|end| self.closes(end));
        let told = reasons.iter().filter(|reason| is(reason)).count();
        let ended = |reason: &CloseReason| {
            let failed = match reason {
                CloseReason::Provider(cause) => cause.kind() == CauseKind::Device,
                reason => matches!(reason, CloseReason::Peer | CloseReason::Reset),
            };
            is(reason) || failed
        };
        let as_expected = match self.harness.fidelity().tells {
            Tells::BothEnds => told == 2,
            Tells::OneEnd => told >= 1 && reasons.iter().all(ended),
            Tells::Nobody => reasons.iter().all(ended),
        };
        assert!(as_expected, "{reasons:?}");
    }

    /// Returns how much of the `Fabric` trait to expect.
    pub fn fidelity(&self) -> Fidelity {
        self.harness.fidelity()
    }

    /// Returns whether an end's peer may invalidate regions of that end.
    pub fn may_be_invalidated(&mut self, end: End) -> bool {
        self.fabric(end).regions_may_be_invalidated(end.conn)
    }

    /// Waits for the end of a connection.
    pub fn closes(&mut self, end: End) -> CloseReason {
        self.run_until("the end of a connection", |world| {
            world.reason(end).is_some()
        });
        self.reason(end).unwrap().clone()
    }

    /// Checks that both ends carry messages.
    pub fn works(&mut self, pair: Pair) {
        for (from, to) in pair.both_ways() {
            let buffer = self.register(to, 8, Access::Local);
            let receive = self.post_recv(to, buffer.all());
            self.post_send(from, b"it works", None, None);
            self.receives(to, receive, 8);
            assert_eq!(buffer.bytes(), b"it works");
            self.deregister(to, &buffer);
        }
    }

    fn record(&mut self, end: End) -> &mut Record {
        self.records.get_mut(&end).unwrap()
    }
}

/// Calls for memory and work.
impl<H: Harness> World<H> {
    pub fn register(&mut self, end: End, length: usize, access: Access) -> Mem {
        self.register_memory(end, &Memory::zeroed(length), access)
    }

    /// Registers memory that holds `bytes`.
    pub fn register_bytes(&mut self, end: End, bytes: &[u8], access: Access) -> Mem {
        let memory = Memory::zeroed(bytes.len());
        memory.write(0, bytes).unwrap();
        self.register_memory(end, &memory, access)
    }

    pub fn register_memory(&mut self, end: End, memory: &Memory, access: Access) -> Mem {
        let region = self.fabric(end).register(end.conn, memory, access).unwrap();
        Mem {
            memory: memory.clone(),
            region,
        }
    }

    pub fn deregister(&mut self, end: End, memory: &Mem) {
        self.fabric(end)
            .deregister(end.conn, memory.region.id)
            .unwrap();
    }

    fn posted(
        &mut self,
        end: End,
        kind: Kind,
        post: impl FnOnce(&mut dyn Waitable, WrId) -> Result<(), FabricError>,
    ) -> Result<WrId, FabricError> {
        let wr_id = WrId(self.next_wr_id);
        self.next_wr_id += 1;
        post(self.fabric(end), wr_id)?;
        self.record(end).posted[kind as usize].push_back(wr_id);
        Ok(wr_id)
    }

    pub fn try_recv(&mut self, end: End, memory: Sge) -> Result<WrId, FabricError> {
        self.posted(end, Kind::Recv, |fabric, wr_id| {
            fabric.post_recv(end.conn, wr_id, memory)
        })
    }

    pub fn try_send(
        &mut self,
        end: End,
        header: &[u8],
        payload: Option<Sge>,
        invalidate: Option<RemoteToken>,
    ) -> Result<WrId, FabricError> {
        self.posted(end, Kind::Send, |fabric, wr_id| {
            fabric.post_send(end.conn, wr_id, header, payload, invalidate)
        })
    }

    pub fn try_write(
        &mut self,
        end: End,
        source: Sge,
        target: RemoteAddress,
    ) -> Result<WrId, FabricError> {
        self.posted(end, Kind::Write, |fabric, wr_id| {
            fabric.post_write(end.conn, wr_id, source, target)
        })
    }

    pub fn try_read(
        &mut self,
        end: End,
        sink: Sge,
        source: RemoteAddress,
    ) -> Result<WrId, FabricError> {
        self.posted(end, Kind::Read, |fabric, wr_id| {
            fabric.post_read(end.conn, wr_id, sink, source)
        })
    }

    pub fn post_recv(&mut self, end: End, memory: Sge) -> WrId {
        self.try_recv(end, memory).unwrap()
    }

    pub fn post_send(
        &mut self,
        end: End,
        header: &[u8],
        payload: Option<Sge>,
        invalidate: Option<RemoteToken>,
    ) -> WrId {
        self.try_send(end, header, payload, invalidate).unwrap()
    }

    pub fn post_write(&mut self, end: End, source: Sge, target: RemoteAddress) -> WrId {
        self.try_write(end, source, target).unwrap()
    }

    pub fn post_read(&mut self, end: End, sink: Sge, source: RemoteAddress) -> WrId {
        self.try_read(end, sink, source).unwrap()
    }

    /// Returns how a request ended, if it has ended.
    pub fn outcome(&self, end: End, wr_id: WrId) -> Option<Outcome> {
        self.records[&end].done.get(&wr_id).copied()
    }

    /// Waits for the completion of a request.
    pub fn completes(&mut self, end: End, wr_id: WrId) -> Outcome {
        self.run_until("a completion", |world| world.outcome(end, wr_id).is_some());
        self.outcome(end, wr_id).unwrap()
    }

    /// Waits for the completion of a request that must succeed.
    pub fn succeeds(&mut self, end: End, wr_id: WrId) {
        let (work, result) = self.completes(end, wr_id);
        assert_eq!(result, Ok(()), "{work:?}");
    }

    /// Waits for a message of `length` bytes in a receive.
    pub fn receives(&mut self, end: End, wr_id: WrId, length: usize) {
        let length = u32::try_from(length).unwrap();
        let work = Work::Recv {
            length,
            invalidated: None,
        };
        assert_eq!(self.completes(end, wr_id), (work, Ok(())));
    }

    /// Returns which of two completions was reported first. Both must have been reported.
    pub fn first_of(&self, one: (End, WrId), other: (End, WrId)) -> (End, WrId) {
        let place = |(end, id): (End, WrId)| {
            let is = |(fabric, event): &(usize, Event)| {
                *fabric == end.fabric
                    && matches!(event, Event::Completion { conn, wr_id, .. } if *conn == end.conn && *wr_id == id)
            };
            self.log.iter().position(is).unwrap()
        };
        if place(one) < place(other) {
            one
        } else {
            other
        }
    }

    /// Returns everything that was reported, with the fabric's number.
    pub fn log(&self) -> &[(usize, Event)] {
        &self.log
    }

    /// Returns whether any event names an end.
    pub fn is_named(&self, end: End) -> bool {
        let Record {
            established,
            closed,
            done,
            ..
        } = &self.records[&end];
        established.is_some() || closed.is_some() || !done.is_empty()
    }
}

/// Calls that make progress, and the rules that always hold.
impl<H: Harness> World<H> {
    pub fn now(&self) -> Instant {
        self.harness.now()
    }

    /// Polls each fabric once, and returns whether something was reported.
    pub fn turn(&mut self) -> bool {
        let now = self.now();
        let before = self.log.len();
        for fabric in 0..self.harness.fabrics().len() {
            let mut events = Vec::new();
            self.harness.fabrics()[fabric]
                .poll(now, &mut events)
                .unwrap();
            for event in events {
                self.log.push((fabric, event.clone()));
                self.check(fabric, event);
            }
        }
        self.log.len() > before
    }

    /// Runs until `done` holds, and fails if that never happens.
    pub fn run_until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let start = self.now();
        for _ in 0..1_000_000 {
            if done(self) {
                return;
            }
            let late = self.now() - start > Duration::from_secs(60);
            if !self.turn() && !done(self) {
                let waits = self.harness.wait();
                assert!(waits && !late, "waiting for {what}: nothing more happens");
            }
        }
        panic!("waiting for {what}: a million turns were not enough");
    }

    /// Lets pending work happen: for `turns` turns, or until there is none.
    pub fn go_on(&mut self, turns: usize) {
        for _ in 0..turns {
            if !self.turn() {
                let now = self.now();
                let soon = now + Duration::from_secs(1);
                let due = self
                    .harness
                    .fabrics()
                    .iter()
                    .any(|fabric| fabric.poll_timeout().is_some_and(|at| at <= soon));
                if !due || !self.harness.wait() {
                    return;
                }
            }
        }
    }

    /// Ends a case: closes what is open, and waits for every outstanding event.
    pub fn finish(mut self) {
        let open = |world: &Self| -> Vec<End> {
            let open = world
                .records
                .iter()
                .filter(|(_, record)| record.closed.is_none() && !record.rejected);
            open.map(|(end, _)| *end).collect()
        };
        for end in open(&self) {
            self.close(end);
        }
        self.run_until("the end of every connection", |world| {
            open(world).is_empty()
        });
        // This catches late events that should not come at all.
        self.go_on(100);
        self.finished = true;
    }

    fn check(&mut self, fabric: usize, event: Event) {
        match event {
            Event::ConnectRequest { listener, conn, .. } => {
                let end = End { fabric, conn };
                assert!(
                    self.records.insert(end, Record::default()).is_none(),
                    "the number of a connection was used again: {end:?}"
                );
                self.requests.push_back((listener, end));
            }
            Event::Established { conn, limits } => {
                let record = self.living(End { fabric, conn });
                assert_eq!(record.established, None, "established twice");
                assert!(
                    record.done.is_empty(),
                    "a completion before being established"
                );
                record.established = Some(limits);
            }
            Event::Completion {
                conn,
                wr_id,
                work,
                result,
            } => self.check_completion(End { fabric, conn }, wr_id, work, result),
            Event::Closed { conn, reason } => {
                let record = self.living(End { fabric, conn });
                let owed: usize = record.posted.iter().map(VecDeque::len).sum();
                assert_eq!(owed, 0, "closed before all posted requests had completed");
                assert!(!reason.name().is_empty());
                record.closed = Some(reason);
            }
            Event::Refused { .. } => {}
        }
    }

    fn check_completion(&mut self, end: End, wr_id: WrId, work: Work, result: Result<(), WrError>) {
        let record = self.living(end);
        let kind = Kind::from(&work);
        let expected = record.posted[kind as usize].pop_front();
        assert_eq!(
            expected,
            Some(wr_id),
            "completions of a kind come once each, in order of posting"
        );
        match result {
            Ok(()) => {
                assert!(!record.failed, "{wr_id:?} succeeded after a failure");
                assert!(
                    !record.flushed[kind as usize],
                    "{wr_id:?} succeeded after its kind was flushed"
                );
            }
            Err(WrError::Flushed) => record.flushed[kind as usize] = true,
            Err(_) => {
                assert!(!record.failed, "a second failure: it should be flushed");
                record.failed = true;
            }
        }
        if let (Work::Recv { length, .. }, Err(_)) = (&work, &result) {
            assert_eq!(*length, 0, "a receive that failed has no length");
        }
        record.done.insert(wr_id, (work, result));
    }

    /// Returns the record of an end that may still have events.
    fn living(&mut self, end: End) -> &mut Record {
        let Some(record) = self.records.get_mut(&end) else {
            panic!("{end:?} is unknown")
        };
        assert!(!record.rejected, "an event after rejection");
        assert_eq!(record.closed, None, "an event after the end");
        record
    }
}

/// Asserts that a call failed as `error`.
#[macro_export]
macro_rules! assert_refused {
    ($call:expr, $error:ident) => {
        match $call {
            Err(smbdirect::fabric::FabricError::$error) => {}
            other => panic!(
                "{} should be refused as {}: {:?}",
                stringify!($call),
                stringify!($error),
                other.map(|_| "not refused")
            ),
        }
    };
}

/// Asserts that a value is one of the values that the trait allows.
pub fn assert_one_of<T: Debug + PartialEq>(value: &T, allowed: &[T]) {
    assert!(
        allowed.contains(value),
        "{value:?} is not one of {allowed:?}"
    );
}
