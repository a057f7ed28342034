// SPDX-License-Identifier: GPL-2.0-or-later

//! A shard: connections that have one driver, and the queues of the workers that own them.
//!
//! ```text
//!   fabric -> Transport -> events  ->  connections -> completions -> Queue -> worker
//!   fabric <- Transport <- send, read, write <-  submissions  <-  Queue <- worker
//!                              ^
//!   driver   -- calls -------------'      Notice --> driver
//! ```
//!
//! All data of a connection is in its shard. Whether the connection stays there is a matter of the shard's [`Scope`]: a
//! driver with one shard per thread leaves it where it began, and a worker has one queue with each shard that carries
//! any of its connections; a driver with one shard per worker [moves](Shard::take) it to its owner. The shard polls the queues in use one after another. Once a queue has been idle for a while, the shard
//! announces sleep on it and does not look at it until its bell rings.
//!
//! The driver tells a shard the time ([`set_now`](Shard::set_now)), passes other processes' requests (such as claims)
//! on to it, lets it take a [`step`](Shard::step), and takes its [notices](Shard::next_notice). Before the driver
//! sleeps (until [`next_deadline`](Shard::next_deadline) at the latest), it calls
//! [`announce_sleep`](Shard::announce_sleep), so that the shard tells the workers to ring.
//!
//! The worst that a worker's writes can do is to end that worker: a violation becomes a [`Notice::Fault`], and the
//! worker's connections are closed at once.

mod ahead;
mod connection;
mod end;
#[cfg(feature = "broker")]
mod kept;
mod moving;
mod notice;
mod route;
mod strangers;
mod submit;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::ops::DerefMut;
use core::time::Duration;

use slotmap::SlotMap;

use self::ahead::Ahead;
pub use self::connection::Claim;
use self::connection::{Conn, Stage};
#[cfg(feature = "broker")]
pub(crate) use self::kept::{KeptShard, Source};
pub use self::moving::{Moving, Transferred};
pub use self::notice::{ConnReport, Notice, QueueReport, Report, Why};
use self::submit::BATCH;

use super::memory::Account;
use super::peer::{Peer, Untold, Worker};
use super::pool::{Buffer, Fault, Pool, QueueId};
use super::queue::Queue;
use super::reason;
use super::registry::Registry;
use crate::device::Status;
use crate::device::abi::{ClientNote, Completion, Token, event, note};
use crate::fabric::{ConnId, Fabric, FabricError, ListenerId, LocalAddresses, WrError};
use crate::proto;
use crate::shm::{Entry, RingCorrupt};
use crate::transport::{self, ConnTable, Event, Traffic, Transport};
use crate::units::Instant;

/// Time between attempts to find memory.
const RETRY: Duration = Duration::from_millis(100);

/// Time after which a queue without work is no longer polled, even if the shard has other work.
const QUEUE_IDLE: Duration = Duration::from_micros(200);

/// The services that all shards share.
pub trait Host {
    /// The type of the processes that own connections.
    type Worker: Worker;

    /// Returns the registry for one change or look-up; a shard must not block while it holds the guard.
    fn registry(&self) -> impl DerefMut<Target = Registry<Self::Worker>>;

    /// Returns a token that cannot be guessed; `None` if the system has no random numbers.
    fn token(&self) -> Option<Token>;
}

/// The timeouts and sizes that a shard obeys.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Time within which a client must send its first request after it has negotiated.
    pub first_request_timeout: Duration,
    /// Time within which a client must log in after it has negotiated.
    pub login_timeout: Duration,
    /// Time for which a token may be claimed.
    pub claim_timeout: Duration,
    /// Time for which RECEIVE memory must be unused before the worker is asked to give it back.
    pub memory_idle_timeout: Duration,
    /// Number of entries of each ring of a queue.
    pub queue_depth: u32,
    /// Length of the longest message that a worker can send, in bytes.
    pub longest_send: u32,
    /// The account for the memory of all workers together.
    pub memory: Arc<Account>,
}

/// Which connections a shard has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Those that began here, with and without an owner.
    All,
    /// Those without an owner. A connection that finds one leaves.
    Unowned,
    /// Those of one worker. A connection that loses it leaves, or ends.
    Worker,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Shard<F: Fabric, H: Host> {
    number: usize,
    scope: Scope,
    /// The name of the fabric that carries its connections.
    fabric: &'static str,
    host: H,
    rules: Rules,
    transport: Transport<F, Pool<H::Worker>>,
    listeners: Vec<ListenerId>,
    conns: ConnTable<Conn<H::Worker>>,
    /// The deadlines of connections that have no owner or no session yet.
    deadlines: BTreeSet<(Instant, ConnId)>,
    queues: SlotMap<QueueId, Queue<H::Worker>>,
    queue_of: BTreeMap<u32, QueueId>,
    /// Queues to poll.
    active: Vec<QueueId>,
    events: Vec<Event<Buffer>>,
    /// Copies of submissions, a batch of one queue at a time. The memory is kept between polls, most of which find
    /// nothing.
    entries: Box<[Entry; BATCH]>,
    /// Copies of descriptors, one submission's at a time.
    descriptors: Vec<u8>,
    /// Times at which to wake workers, soonest first. An entry is stale if the worker has been woken since.
    late: VecDeque<(Instant, QueueId)>,
    notices: VecDeque<Notice<H::Worker>>,
    /// Number of clients that were turned away before they had negotiated, as of the last notice.
    turned_away: u64,
    /// Number of WRITEs whose data was fetched before their owners got them.
    fetched_ahead: u64,
    /// When to retry everything that found no memory.
    retry_at: Option<Instant>,
    /// When to look for idle RECEIVE memory; `None` if there is none that could be taken back.
    look_at: Option<Instant>,
    /// The time by which all connections must have ended.
    stop_by: Option<Instant>,
    /// Whether `stop_by` has passed and the remaining connections were told to end.
    is_late: bool,
    has_stopped: bool,
    now: Instant,
}

impl<F: Fabric, H: Host> Shard<F, H> {
    /// Makes the shard with this number, for all connections. Its transport is already listening.
    pub fn new(
        (number, fabric): (usize, &'static str),
        (host, rules): (H, Rules),
        (transport, listeners): (Transport<F, Pool<H::Worker>>, Vec<ListenerId>),
    ) -> Self {
        Self {
            number,
            scope: Scope::All,
            fabric,
            host,
            rules,
            transport,
            listeners,
            conns: ConnTable::default(),
            deadlines: BTreeSet::new(),
            queues: SlotMap::with_key(),
            queue_of: BTreeMap::new(),
            active: Vec::new(),
            events: Vec::new(),
            entries: Box::new([Entry::default(); BATCH]),
            descriptors: Vec::new(),
            late: VecDeque::new(),
            notices: VecDeque::new(),
            turned_away: 0,
            fetched_ahead: 0,
            retry_at: None,
            look_at: None,
            stop_by: None,
            is_late: false,
            has_stopped: false,
            now: Instant::ZERO,
        }
    }

    /// Sets which connections the shard has, before the first one begins.
    #[must_use]
    pub fn with_scope(self, scope: Scope) -> Self {
        Self { scope, ..self }
    }

    /// Sets the time for all calls that follow.
    pub const fn set_now(&mut self, now: Instant) {
        self.now = now;
    }

    /// Does all work that is ready; returns whether there was any.
    ///
    /// # Errors
    ///
    /// The fabric has failed as a whole.
    pub fn step(&mut self) -> Result<bool, FabricError> {
        let mut busy = self.run_queues();
        self.transport.poll(self.now, &mut self.events)?;
        busy |= self.run_events();
        self.run_turned_away();
        self.run_faults();
        self.run_deadlines();
        self.run_waiting();
        self.flush_queues();
        self.wake_late();
        self.run_stop();
        Ok(busy)
    }

    /// Returns the oldest notice of something that the driver has to know or do.
    pub fn next_notice(&mut self) -> Option<Notice<H::Worker>> {
        self.notices.pop_front()
    }

    /// Returns whether the transport has work that is due now.
    pub fn is_due(&self) -> bool {
        self.transport
            .poll_timeout()
            .is_some_and(|at| at <= self.now)
    }

    /// Returns the time by which the shard has to run again, even if nothing arrives.
    pub fn next_deadline(&mut self) -> Option<Instant> {
        let all = [
            self.transport.poll_timeout(),
            self.deadlines.first().map(|(at, _)| *at),
            self.retry_at,
            self.look_at,
            self.next_wake(),
            self.next_stop(),
        ];
        all.into_iter().flatten().min()
    }

    /// Returns whether a worker has submitted anything that the next step will find. Does not make a system call.
    pub fn has_submissions(&mut self) -> bool {
        let (queues, active) = (&mut self.queues, &self.active);
        // A corrupt ring counts as having submissions; the next step reports it.
        let mut active = active.iter();
        active.any(|id| queues.get_mut(*id).is_some_and(Queue::has_submissions))
    }

    /// Returns the bell of the queue that a [`Notice::QueueMade`] named.
    pub fn bell(&self, queue: QueueId) -> Option<&<H::Worker as Worker>::Bell> {
        Some(&self.queues.get(queue)?.bell)
    }

    /// Polls a queue again, because its worker has rung. Returns how often it has rung.
    pub fn rung(&mut self, queue: QueueId) -> u32 {
        self.activate(queue);
        let Some(queue) = self.queues.get_mut(queue) else {
            return 0;
        };
        queue.rings = queue.rings.wrapping_add(1);
        queue.rings
    }

    /// Returns a worker's queue with this shard and the connections of that queue, or `None` if the worker has no queue
    /// here.
    pub fn queue_of(&self, worker: u32) -> Option<(QueueId, impl Iterator<Item = ConnId> + '_)> {
        let id = self.queue_of.get(&worker).copied()?;
        Some((id, self.queues.get(id)?.conns()))
    }

    /// Returns the fabric that carries the connections.
    pub fn fabric(&self) -> &F {
        self.transport.fabric()
    }

    /// Returns the fabric that carries the connections, to wait on it or to query it.
    pub fn fabric_mut(&mut self) -> &mut F {
        self.transport.fabric_mut()
    }

    /// Returns what is under way on the connections of all peers that `wants` names, for a capture that begins now.
    #[cfg(feature = "fabric")]
    pub fn underway(
        &self,
        wants: impl Fn(core::net::SocketAddr) -> bool,
    ) -> Vec<crate::transport::Underway> {
        let transport = &self.transport;
        // All else about a connection costs much more than its status.
        let wanted = transport
            .connections()
            .filter(|conn| transport.status(*conn).is_some_and(|it| wants(it.peer)));
        wanted.filter_map(|conn| transport.underway(conn)).collect()
    }

    /// Sets the rules, and the configuration of the transport. What has begun already, such as the time for a login,
    /// stays as it was.
    pub fn set_config(&mut self, rules: Rules, transport: transport::Config) {
        let look_by = self.now + rules.memory_idle_timeout;
        self.look_at = self.look_at.map(|at| at.min(look_by));
        self.rules = rules;
        self.transport.set_config(transport);
    }

    /// Listens on `address` as well; port 0 stands for any free port. Returns the address with its real port.
    ///
    /// # Errors
    ///
    /// The error of the fabric.
    pub fn listen(&mut self, address: SocketAddr) -> Result<SocketAddr, FabricError> {
        let listener = self.transport.listen(address)?;
        self.listeners.push(listener);
        Ok(self.transport.local_address(listener).unwrap_or(address))
    }

    /// Stops listening on these addresses, which have real ports. Their connections continue.
    pub fn unlisten(&mut self, addresses: &[SocketAddr]) {
        let transport = &mut self.transport;
        self.listeners.retain(|listener| {
            let address = transport.local_address(*listener);
            let ends = address.is_some_and(|address| addresses.contains(&address));
            if ends {
                transport.unlisten(*listener);
            }
            !ends
        });
    }

    /// Sets how future connections are negotiated.
    pub fn set_acceptor(&mut self, acceptor: proto::Config) {
        self.transport.set_acceptor(acceptor);
    }

    /// Sets the addresses of the machine that clients may use, for existing and for future connections.
    pub fn admit_at(&mut self, addresses: &Arc<LocalAddresses>) {
        self.transport.admit_at(addresses);
    }

    /// Ends the connections to addresses that the machine no longer has.
    pub fn end_gone(&mut self, has_gone: impl FnMut(SocketAddr) -> bool) {
        self.transport.end_gone(has_gone);
    }

    /// Keeps what smbd says in a [`note::SESSION`] or a [`note::ENCRYPTED`] about the connection that the note names.
    pub fn set_protection(&mut self, note: &ClientNote) {
        let conns = self.conns.iter_mut().map(|(_, conn)| conn);
        for conn in conns.filter(|conn| conn.is_named(note)) {
            match note.note {
                note::SESSION => conn.protection = Some(note.value),
                note::ENCRYPTED => conn.encrypted |= note.value,
                _ => {}
            }
        }
    }

    fn notice(&mut self, notice: Notice<H::Worker>) {
        self.notices.push_back(notice);
    }

    /// Polls each active queue once.
    fn run_queues(&mut self) -> bool {
        let mut busy = false;
        for index in 0..self.active.len() {
            let Some(id) = self.active.get(index).copied() else {
                break;
            };
            match self.run_queue(id) {
                Ok(done) => busy |= done,
                Err(violation) => self.violated(id, violation),
            }
        }
        busy
    }

    fn run_events(&mut self) -> bool {
        let mut events = core::mem::take(&mut self.events);
        let busy = !events.is_empty();
        for event in events.drain(..) {
            match event {
                Event::Established { conn, peer, .. } => self.established(conn, peer),
                Event::Message {
                    conn,
                    buffer,
                    length,
                } => self.received(conn, buffer, length),
                Event::Sent {
                    conn,
                    cookie,
                    result,
                } => self.ended(conn, event::SENT, cookie, reason::of_result(result)),
                Event::Written {
                    conn,
                    cookie,
                    result,
                } => self.ended(conn, event::RDMA_DONE, cookie, reason::of_result(result)),
                Event::Read {
                    conn,
                    cookie,
                    result,
                } => self.read(conn, cookie, result),
                // A peer cannot reach anything that is registered here.
                Event::Invalidated { .. } => {}
                Event::Closed {
                    conn,
                    reason,
                    traffic,
                } => self.closed(conn, reason, &traffic),
            }
        }
        self.events = events;
        busy
    }

    /// Handles the end of an RDMA READ.
    #[inline]
    fn read(&mut self, id: ConnId, cookie: u64, result: Result<(), WrError>) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let is_fetching = conn.ahead.as_ref().is_some_and(Ahead::is_fetching);
        if is_fetching && cookie == ahead::COOKIE {
            return self.fetched(id, result);
        }
        conn.reads = conn.reads.saturating_sub(1);
        self.ended(id, event::RDMA_DONE, cookie, reason::of_result(result));
    }

    /// Handles the end of something that a worker submitted.
    #[inline]
    fn ended(&mut self, id: ConnId, event: u32, cookie: u64, status: Status) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        conn.outstanding = conn.outstanding.saturating_sub(1);
        conn.used = self.now;
        let Stage::Owned { queue, number } = conn.stage else {
            return;
        };
        let has_descriptors = conn.descriptors.is_some();
        if let Some(of) = self.queues.get_mut(queue) {
            of.outstanding = of.outstanding.saturating_sub(1);
        }
        if has_descriptors {
            self.count_descriptors(queue, id);
        }
        self.complete(
            queue,
            Completion {
                event,
                status: status.code(),
                conn: number,
                cookie,
                ..NOTHING
            },
        );
    }

    /// Queues a completion for a worker.
    #[inline]
    fn complete(&mut self, id: QueueId, completion: Completion) {
        if let Some(queue) = self.queues.get_mut(id) {
            queue.complete(completion);
        }
        self.activate(id);
    }

    /// Polls all queues from the next round on.
    fn activate_all(&mut self) {
        let all: Vec<QueueId> = self.queues.keys().collect();
        all.into_iter().for_each(|id| self.activate(id));
    }

    /// Polls a queue from the next round on.
    #[inline]
    fn activate(&mut self, id: QueueId) {
        if let Some(queue) = self.queues.get_mut(id) {
            queue.used = self.now;
            if !queue.active {
                queue.active = true;
                self.active.push(id);
            }
        }
    }

    /// Shows completions to their workers, all completions of a round at once.
    fn flush_queues(&mut self) {
        for index in 0..self.active.len() {
            let Some(id) = self.active.get(index).copied() else {
                break;
            };
            if let Err(corrupt) = self.flush_queue(id) {
                self.violated(id, corrupt.into());
            }
        }
    }

    /// Shows completions to a worker; returns whether at least one completion was put into the ring.
    #[inline]
    fn flush_queue(&mut self, id: QueueId) -> Result<bool, RingCorrupt> {
        let Some(queue) = self.queues.get_mut(id) else {
            return Ok(false);
        };
        let before = queue.wake_at;
        let flushed = queue.flush(self.now)?;
        if let (None, Some(at)) = (before, queue.wake_at) {
            self.late.push_back((at, id));
        }
        Ok(flushed)
    }

    /// Returns the time at which the next worker has to be woken.
    fn next_wake(&mut self) -> Option<Instant> {
        while let Some((at, id)) = self.late.front().copied() {
            if self
                .queues
                .get(id)
                .is_some_and(|queue| queue.wake_at == Some(at))
            {
                return Some(at);
            }
            self.late.pop_front();
        }
        None
    }

    /// Wakes the workers whose time has come.
    fn wake_late(&mut self) {
        while let Some((at, id)) = self.late.front().copied() {
            if at > self.now {
                break;
            }
            self.late.pop_front();
            let queue = self.queues.get_mut(id);
            if let Some(Err(corrupt)) = queue.map(|queue| queue.wake_late(at)) {
                self.violated(id, corrupt.into());
            }
        }
    }

    fn run_faults(&mut self) {
        while let Some(fault) = self.transport.buffers_mut().take_fault() {
            match fault {
                Fault::TooLong(conn) => self.end(conn, "message_too_long", Status::TooLong),
                Fault::Untold(queue, Untold::Unread) => {
                    self.fault(queue, Status::Again, Why::Unread)
                }
                Fault::Untold(queue, Untold::Gone) => {
                    let worker = self.queues.get(queue).map(|queue| queue.worker.id());
                    self.notices.extend(worker.map(Notice::Gone));
                }
            }
        }
    }

    /// Retries everything that found no memory, once it is time to. A worker's own memory comes back through its queue,
    /// but nothing tells the shard when memory of the total, which all workers share, comes back.
    fn run_waiting(&mut self) {
        let is_due = self.retry_at.is_some_and(|at| at <= self.now);
        if is_due {
            self.retry_at = None;
            self.retry_waiting();
        }
        let buffers = self.transport.buffers_mut();
        let (is_wanting, is_short) = (buffers.take_any_wanting(), buffers.take_short());
        if is_wanting {
            // A worker may have made room without ringing; from now on it has to ring when it makes room.
            self.activate_all();
        }
        if is_wanting && self.retry_at.is_none() {
            self.retry_at = Some(self.now + RETRY);
            if is_short {
                self.notice(Notice::NoMemory);
            }
        }
        if self.transport.buffers_mut().take_grown() && self.look_at.is_none() {
            self.look_at = Some(self.now + self.rules.memory_idle_timeout);
        }
        if self.look_at.is_some_and(|at| at <= self.now) {
            self.reclaim();
        }
    }

    /// Takes back what workers returned without ringing, and asks them to return the RECEIVE memory that is still idle.
    pub fn reclaim(&mut self) {
        self.activate_all();
        let more = self.transport.buffers_mut().reclaim();
        self.look_at = more.then(|| self.now + self.rules.memory_idle_timeout);
    }

    /// Removes a RECEIVE segment that a worker has unmapped.
    pub fn unmapped(&mut self, worker: u32, number: u32) {
        let Some(id) = self.queue_of.get(&worker).copied() else {
            return;
        };
        if !self.transport.buffers_mut().released(id, number) {
            self.fault(id, Status::Corrupt, Why::NotAsked);
        }
    }

    fn retry_waiting(&mut self) {
        let all: Vec<ConnId> = self
            .queues
            .values_mut()
            .flat_map(|queue| core::mem::take(&mut queue.waiting))
            .collect();
        for conn in all {
            self.deliver(conn);
        }
        self.transport.buffers_available();
    }

    /// Returns how many connections negotiated since the start, and what all of them carried.
    fn carried(&self) -> (u64, Traffic) {
        let counters = self.transport.counters();
        let mut traffic = counters.ended;
        let living = self
            .conns
            .iter()
            .filter_map(|(id, _)| self.transport.status(id));
        living.for_each(|status| traffic += status.traffic);
        (counters.established, traffic)
    }

    /// Returns this shard's part of a status report.
    pub fn report(&mut self) -> Report<H::Worker> {
        // Workers do not ring for everything that they submit.
        self.activate_all();
        self.run_queues();
        let (established, traffic) = self.carried();
        let transport = self.transport.counters();
        let requested = [("requested", transport.requested)];
        let mut report = Report {
            connections: Vec::new(),
            queues: Vec::new(),
            registrations: 0,
            established,
            traffic,
            fetched_ahead: self.fetched_ahead,
            counters: transport.closed().chain(requested).collect(),
        };
        for (id, conn) in self.conns.iter() {
            let Some(status) = self.transport.status(id) else {
                continue;
            };
            let owner = match conn.stage {
                Stage::Owned { queue, number } => {
                    let queue = self.queues.get(queue);
                    queue.map(|queue| (queue.worker.clone(), number))
                }
                Stage::Fresh | Stage::Offered(_) | Stage::Leaving | Stage::Orphan => None,
            };
            report.registrations += conn.registrations();
            report.connections.push(conn.report(status, owner));
        }
        for (id, queue) in &mut self.queues {
            let (overflow, completions) = queue.backlog();
            let (receive_segments, receive_units_used) = self.transport.buffers().usage(id);
            report.queues.push(QueueReport {
                worker: queue.worker.id(),
                connections: queue.count(),
                overflow,
                completions,
                outstanding: queue.outstanding,
                receive_segments,
                receive_units_used,
            });
        }
        report
    }

    /// Stops polling queues that were not used for a while.
    pub fn retire_queues(&mut self) {
        let now = self.now;
        let (queues, buffers) = (&mut self.queues, self.transport.buffers());
        let mut corrupt = Vec::new();
        self.active.retain(|&id| {
            let Some(queue) = queues.get_mut(id) else {
                return false;
            };
            if now.saturating_since(queue.used) < QUEUE_IDLE {
                return true;
            }
            match queue.announce_sleep(buffers.is_wanting(id)) {
                Ok(asleep) => queue.active = !asleep,
                Err(error) => corrupt.push((id, error)),
            }
            queue.active
        });
        for (id, error) in corrupt {
            self.violated(id, error.into());
        }
    }

    /// Announces sleep to all workers; returns `false` if one of them has something for the shard to do.
    pub fn announce_sleep(&mut self) -> bool {
        for id in &self.active {
            if let Some(queue) = self.queues.get_mut(*id) {
                queue.used = Instant::ZERO;
            }
        }
        self.retire_queues();
        self.active.is_empty()
    }
}

/// An empty completion.
const NOTHING: Completion = Completion {
    event: 0,
    status: 0,
    conn: 0,
    cookie: 0,
    buffer: 0,
    length: 0,
    reserved: 0,
    token: [0; 16],
    reserved2: 0,
};
