// SPDX-License-Identifier: GPL-2.0-or-later

//! Passes a shard on to a device that takes the place of this one, with the same clock.
//!
//! ```text
//!   old   freeze -> keep ---- KeptShard, descriptors, memory ----> adopt   new
//!           '-- what cannot be kept ends                             '-- what cannot be continued ends
//! ```
//!
//! A connection is kept with everything that is under way on it. Submissions that the shard has not taken stay in their
//! rings, and completions for which there was no room are written down. After [`freeze`](Shard::freeze), the shard must
//! not take a step until it is clear whether another device continues; if none does, it just goes on.
//!
//! What cannot be continued ends as if it had ended here: its worker gets the answers that are due, and then learns of
//! the end.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use super::ahead::Ahead;
use super::connection::{Claim, Conn, Held, Regions, Stage};
use super::{Host, NOTHING, Notice, Shard, Why};
use crate::device::Status;
use crate::device::abi::{Completion, Token, event};
use crate::engine::memory::{Numbered, Segment};
use crate::engine::peer::{Peer, Worker};
use crate::engine::pool::{KeptBuffer, QueueId};
use crate::engine::queue::{KeptQueue, Queue};
use crate::engine::registry::{Close, KeptCarried};
use crate::fabric::{ConnId, Keep, NotKept, RegionId};
use crate::sys::Memory;
use crate::transport::{Flushed, KeptConnection, Traffic};
use crate::units::Instant;

/// The state of a shard.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KeptShard {
    pub(crate) number: usize,
    pub(crate) conns: Vec<KeptConn>,
    pub(crate) queues: Vec<KeptQueue>,
    /// Connections that had not ended yet, but cannot be kept.
    ended: Vec<KeptEnd>,
    /// The numbers of workers whose queues cannot be kept.
    lost: Vec<u32>,
    carried: KeptCarried,
    /// The counters of the transport.
    counters: BTreeMap<String, u64>,
}

/// A connection.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KeptConn {
    transport: KeptConnection<KeptBuffer>,
    state: KeptState,
}

/// A connection that the next device does not continue, but has to end for its worker: only once this process has
/// ended, nothing can touch the worker's memory any longer.
#[derive(Debug, Serialize, Deserialize)]
struct KeptEnd {
    state: KeptState,
    flushed: Vec<Flushed>,
    /// The message in reassembly.
    message: Option<KeptBuffer>,
    traffic: Traffic,
}

/// The shard's own state of a connection.
#[derive(Debug, Serialize, Deserialize)]
struct KeptState {
    peer: SocketAddr,
    local: Option<SocketAddr>,
    since: Instant,
    used: Instant,
    stage: KeptStage,
    deadline: Option<Instant>,
    authenticated: bool,
    protection: Option<u32>,
    encrypted: u32,
    client_guid: [u8; 16],
    held: Vec<Bytes>,
    first: Option<Bytes>,
    info_due: bool,
    /// The worker of a claim, and the cookie of its request.
    claim: Option<(u32, Option<u64>)>,
    outstanding: u32,
    reads: u32,
    unrecycled: u32,
    ahead: Option<(u64, u64, u32, u32)>,
    behind: Vec<(u64, u32)>,
    send: Vec<Option<RegionId>>,
    bulk: Vec<Option<RegionId>>,
    /// Whether messages go to the worker's arena; `None` before the first message.
    is_direct: Option<bool>,
    last_worker: Option<u32>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum KeptStage {
    Fresh,
    Offered(Token),
    Owned { worker: u32, number: u64 },
}

#[derive(Debug, Serialize, Deserialize)]
struct Bytes(#[serde(with = "crate::units::hex")] Vec<u8>);

/// What a shard needs, besides its state, to continue.
pub(crate) trait Source<W: Worker> {
    /// Returns the worker with this number, if it is still attached.
    fn worker(&mut self, id: u32) -> Option<W>;

    /// Returns the memory and the bell of a queue.
    fn queue(&mut self, queue: &KeptQueue) -> Option<(Memory, W::Bell)>;

    /// Returns the memory, of this length, of a segment for a queue's received messages.
    fn segment(&mut self, queue: &KeptQueue, number: u32, length: usize) -> Option<Memory>;

    /// Returns the descriptor of the connection at a place of [`KeptShard::conns`].
    fn conn(&mut self, place: usize) -> Option<OwnedFd>;
}

impl<F: Keep, H: Host> Shard<F, H> {
    /// Ends what cannot be kept, and lets everything else stand still. Connections whose fabric takes time to end them
    /// are left out of [`keep`](Self::keep).
    pub(crate) fn freeze(&mut self) {
        let mut ending = BTreeSet::new();
        loop {
            for id in self.not_kept(&ending) {
                self.end(id, "restarting", Status::Stopping);
                self.transport.end_at_once(id);
                ending.insert(id);
            }
            self.transport.settle(self.now, &mut self.events);
            self.run_events();
            self.run_faults();
            self.flush_queues();
            // A worker that broke a rule takes its connections with it.
            if self.not_kept(&ending).is_empty() {
                break;
            }
        }
    }

    /// Returns the connections that may not be kept, and that are not `ending`.
    fn not_kept(&self, ending: &BTreeSet<ConnId>) -> Vec<ConnId> {
        let all = self.transport.connections();
        all.filter(|id| !self.may_keep(*id) && !ending.contains(id))
            .collect()
    }

    fn may_keep(&self, id: ConnId) -> bool {
        let conn = self.conns.get(id);
        let is_open = |conn: &Conn<H::Worker>| conn.end.is_none() && conn.stage != Stage::Orphan;
        conn.is_some_and(is_open) && self.transport.may_keep(id)
    }

    /// Returns the state of a frozen shard, the descriptors of its connections in the order of their states, and its
    /// queues in the order of theirs.
    pub(crate) fn keep(&self) -> (KeptShard, Vec<BorrowedFd<'_>>, Vec<QueueId>) {
        let mut places = BTreeMap::new();
        let (mut conns, mut descriptors, mut ended) = (Vec::new(), Vec::new(), Vec::new());
        for (id, _) in self.conns.iter() {
            let kept = self.may_keep(id).then(|| self.keep_conn(id)).flatten();
            match kept {
                Some((conn, descriptor)) => {
                    places.insert(id, conns.len());
                    conns.push(conn);
                    descriptors.push(descriptor);
                }
                None => ended.extend(self.keep_end(id)),
            }
        }
        let place = |id: ConnId| places.get(&id).copied();
        let (mut queues, mut numbers, mut lost) = (Vec::new(), Vec::new(), Vec::new());
        for (id, queue) in &self.queues {
            let arena = self.transport.buffers().keep(id, place);
            match arena.and_then(|arena| queue.keep(arena)) {
                Some(kept) => {
                    queues.push(kept);
                    numbers.push(id);
                }
                None => lost.push(queue.worker.id()),
            }
        }
        let counters = self.transport.counters();
        // The connections that are kept bring along what they have carried themselves.
        let carried = KeptCarried {
            requested: if self.has_stopped {
                0
            } else {
                counters.requested
            },
            connections: if self.has_stopped {
                0
            } else {
                counters.established
            },
            traffic: if self.has_stopped {
                Default::default()
            } else {
                counters.ended
            },
            fetched_ahead: if self.has_stopped {
                0
            } else {
                self.fetched_ahead
            },
        };
        let named = counters.closed().filter(|_| !self.has_stopped);
        let kept = KeptShard {
            number: self.number,
            carried,
            counters: named
                .map(|(name, count)| (name.to_string(), count))
                .collect(),
            queues,
            conns,
            ended,
            lost,
        };
        (kept, descriptors, numbers)
    }

    /// Returns what the next device has to know of a connection in order to end it.
    fn keep_end(&self, id: ConnId) -> Option<KeptEnd> {
        let conn = self.conns.get(id)?;
        let owner = match conn.stage {
            Stage::Owned { queue, .. } => Some(queue),
            Stage::Fresh | Stage::Offered(_) | Stage::Leaving | Stage::Orphan => None,
        };
        let message = self.transport.message(id);
        Some(KeptEnd {
            state: self.keep_state(id)?,
            flushed: self.transport.flush(id),
            message: message.and_then(|message| message.keep(owner)),
            traffic: self.transport.status(id)?.traffic,
        })
    }

    fn keep_conn(&self, id: ConnId) -> Option<(KeptConn, BorrowedFd<'_>)> {
        let owner = match self.conns.get(id)?.stage {
            Stage::Owned { queue, .. } => Some(queue),
            Stage::Fresh | Stage::Offered(_) | Stage::Leaving | Stage::Orphan => None,
        };
        let keep = |buffer: &_| crate::engine::pool::Buffer::keep(buffer, owner);
        let (transport, descriptor) = self.transport.keep(id, keep)?;
        let state = self.keep_state(id)?;
        Some((KeptConn { transport, state }, descriptor))
    }

    fn keep_state(&self, id: ConnId) -> Option<KeptState> {
        let conn = self.conns.get(id)?;
        let Conn {
            peer,
            local,
            since,
            used,
            stage,
            deadline,
            authenticated,
            protection,
            encrypted,
            client_guid,
            held,
            first,
            info_due,
            claim,
            outstanding,
            reads,
            unrecycled,
            ahead,
            behind,
            regions,
            // The charges follow from the memory.
            receives: _,
            descriptors: _,
            end: _,
            last_worker,
            // A shard that can be kept has all connections, and none leaves it.
            leaving: _,
        } = conn;
        let owner = match *stage {
            Stage::Owned { queue, .. } => Some(self.queues.get(queue)?),
            Stage::Fresh | Stage::Offered(_) | Stage::Leaving | Stage::Orphan => None,
        };
        let stage = match *stage {
            // An orphan is ending, and nobody has to learn of that.
            Stage::Fresh | Stage::Leaving | Stage::Orphan => KeptStage::Fresh,
            Stage::Offered(token) => KeptStage::Offered(token),
            Stage::Owned { number, .. } => KeptStage::Owned {
                worker: owner?.worker.id(),
                number,
            },
        };
        // A segment that its worker has given back since it was registered has gone.
        let segments = owner
            .map(|queue| queue.worker.segments())
            .unwrap_or_default();
        let bytes = |bytes: &Vec<u8>| Bytes(bytes.clone());
        Some(KeptState {
            peer: *peer,
            local: *local,
            since: *since,
            used: *used,
            stage,
            deadline: *deadline,
            authenticated: *authenticated,
            protection: *protection,
            encrypted: *encrypted,
            client_guid: *client_guid,
            held: held.iter().map(|held| bytes(&held.bytes)).collect(),
            first: first.as_ref().map(bytes),
            info_due: *info_due,
            claim: claim
                .as_ref()
                .map(|claim| (claim.worker.id(), claim.cookie)),
            outstanding: *outstanding,
            reads: *reads,
            unrecycled: *unrecycled,
            ahead: ahead.as_ref().map(Ahead::keep),
            behind: behind.iter().copied().collect(),
            send: current(&regions.send, &segments.send),
            bulk: current(&regions.bulk, &segments.bulk),
            is_direct: self.transport.buffers().is_direct(id),
            last_worker: *last_worker,
        })
    }

    /// Returns the listeners that can be passed on, with their addresses.
    pub(crate) fn listeners(&self) -> impl Iterator<Item = (SocketAddr, BorrowedFd<'_>)> {
        self.listeners.iter().filter_map(|listener| {
            let address = self.transport.local_address(*listener)?;
            Some((address, self.transport.fabric().listener(*listener)?))
        })
    }

    /// Continues a shard, before this one takes its first step. Returns how many connections go on.
    pub(crate) fn adopt(&mut self, kept: KeptShard, source: &mut impl Source<H::Worker>) -> usize {
        let mut queues = Vec::new();
        for queue in &kept.queues {
            let Some(worker) = source.worker(queue.worker) else {
                continue;
            };
            match self.adopt_queue(&worker, queue, source) {
                Some(id) => queues.push((id, queue)),
                None => self.not_continued(queue.worker),
            }
        }
        let mut ids = Vec::new();
        for (place, conn) in kept.conns.into_iter().enumerate() {
            let descriptor = source.conn(place);
            ids.push(self.adopt_conn(conn, descriptor, source));
        }
        for end in kept.ended {
            self.adopt_end(end, source);
        }
        for worker in kept.lost {
            self.not_continued(worker);
        }
        for (id, queue) in queues {
            let conn = |place: usize| ids.get(place).copied().flatten();
            self.transport
                .buffers_mut()
                .adopt_holds(id, &queue.arena, conn);
        }
        let mut registry = self.host.registry();
        registry.adopt_shard(self.fabric, kept.carried, kept.counters);
        drop(registry);
        for id in ids.iter().flatten() {
            let conn = self.conns.get(*id);
            // Connections whose first request has come, and that have no owner, look for one again.
            if conn.is_some_and(|conn| !conn.held.is_empty()) {
                self.route(*id);
            }
        }
        self.retry_at = Some(self.now);
        self.look_at = Some(self.now + self.rules.memory_idle_timeout);
        ids.iter().flatten().count()
    }

    fn adopt_queue(
        &mut self,
        worker: &H::Worker,
        kept: &KeptQueue,
        source: &mut impl Source<H::Worker>,
    ) -> Option<QueueId> {
        if kept.number as usize != self.number || self.queue_of.contains_key(&worker.id()) {
            return None;
        }
        let (memory, bell) = source.queue(kept)?;
        let queue = Queue::adopt(worker, &self.rules.memory, kept, (&memory, bell))?;
        let lengths: Vec<_> = kept
            .arena
            .segments
            .iter()
            .map(|segment| segment.length)
            .collect();
        let segment = |number: u32| {
            let length = lengths.get(number as usize).copied().flatten()?;
            source.segment(kept, number, length)
        };
        let id = self.queues.insert(queue);
        let buffers = self.transport.buffers_mut();
        if buffers
            .adopt((id, kept.number), worker, &kept.arena, segment)
            .is_none()
        {
            self.queues.remove(id);
            return None;
        }
        self.queue_of.insert(worker.id(), id);
        self.notice(Notice::QueueMade(id));
        self.activate(id);
        Some(id)
    }

    /// Reports a worker whose queue cannot be continued; the shard's driver detaches the worker.
    fn not_continued(&mut self, worker: u32) {
        self.notice(Notice::Fault {
            worker,
            status: Status::System,
            why: Why::NotKept,
        });
    }

    /// Returns the queue of a connection's owner, if it has been continued, and the connection's number there.
    fn owner_of(&self, state: &KeptState) -> Option<(QueueId, u64)> {
        match state.stage {
            KeptStage::Owned { worker, number } => {
                let queue = self.queue_of.get(&worker).copied();
                queue.map(|queue| (queue, number))
            }
            KeptStage::Fresh | KeptStage::Offered(_) => None,
        }
    }

    /// Continues a connection, or ends it if that is not possible.
    fn adopt_conn(
        &mut self,
        kept: KeptConn,
        descriptor: Option<OwnedFd>,
        source: &mut impl Source<H::Worker>,
    ) -> Option<ConnId> {
        let KeptConn { transport, state } = kept;
        let owner = self.owner_of(&state);
        let (flushed, traffic) = (transport.flush(), transport.traffic());
        match self.try_adopt(transport, &state, owner, descriptor) {
            Ok((id, regions)) => {
                let claim = claim_of(&state, source);
                self.continued(id, state, owner, (regions, claim));
                Some(id)
            }
            Err(NotKept) => {
                self.ended_between(&state, (flushed, traffic), source);
                None
            }
        }
    }

    /// Ends a connection that could not be kept.
    fn adopt_end(&mut self, end: KeptEnd, source: &mut impl Source<H::Worker>) {
        let KeptEnd {
            state,
            flushed,
            message,
            traffic,
        } = end;
        let queue = self.owner_of(&state).map(|(queue, _)| queue);
        let buffers = self.transport.buffers();
        let message =
            message.and_then(|kept| buffers.adopt_buffer(queue, kept, state.authenticated));
        if let Some(message) = message {
            self.transport.recycle(message);
        }
        self.ended_between(&state, (flushed, traffic), source);
    }

    /// Tells everybody that a connection is not continued. `flushed` was under way on it.
    fn ended_between(
        &mut self,
        state: &KeptState,
        (flushed, traffic): (Vec<Flushed>, Traffic),
        source: &mut impl Source<H::Worker>,
    ) {
        self.lost(state, self.owner_of(state), flushed);
        if let Some(claim) = claim_of(state, source) {
            self.answer(&claim, Status::Stopping);
        }
        self.host.registry().count("not_kept");
        let close = Close {
            peer: state.peer,
            local: state.local,
            fabric: self.fabric,
            worker: state.owner().or(state.last_worker),
            reason: "not_kept",
            at: self.now,
            age: self.now.saturating_since(state.since),
            bytes_received: traffic.bytes_received(),
            bytes_sent: traffic.bytes_sent(),
        };
        let worker = state.owner().and_then(|worker| source.worker(worker));
        self.notice(Notice::Ended {
            close,
            worker,
            cause: None,
        });
    }

    /// Continues a connection in the transport; returns it with the registrations of its owner's segments.
    fn try_adopt(
        &mut self,
        mut transport: KeptConnection<KeptBuffer>,
        state: &KeptState,
        owner: Option<(QueueId, u64)>,
        descriptor: Option<OwnedFd>,
    ) -> Result<(ConnId, Regions), NotKept> {
        let queue = owner.map(|(queue, _)| queue);
        let message = match transport.take_message() {
            Some(kept) => {
                let buffers = self.transport.buffers();
                let buffer = buffers.adopt_buffer(queue, kept, state.authenticated);
                Some(buffer.ok_or(NotKept)?)
            }
            None => None,
        };
        let is_whole = state.owner().is_some() == owner.is_some();
        let Some(descriptor) = descriptor.filter(|_| is_whole) else {
            if let Some(message) = message {
                self.transport.recycle(message);
            }
            return Err(NotKept);
        };
        let mut memory = BTreeMap::new();
        let worker = queue
            .and_then(|queue| self.queues.get(queue))
            .map(|queue| &queue.worker);
        let segments = worker.map(Worker::segments).unwrap_or_default();
        let regions = Regions {
            send: registered(&state.send, &segments.send, &mut memory),
            bulk: registered(&state.bulk, &segments.bulk, &mut memory),
        };
        let id = self
            .transport
            .adopt(transport, descriptor, &memory, message)?;
        if let Some((queue, number)) = owner {
            let queue = self.queues.get_mut(queue);
            if !queue.is_some_and(|queue| queue.adopt_conn(number, id)) {
                self.transport.refuse(id);
                return Err(NotKept);
            }
        }
        Ok((id, regions))
    }

    /// Continues a connection that the transport has continued.
    fn continued(
        &mut self,
        id: ConnId,
        state: KeptState,
        owner: Option<(QueueId, u64)>,
        (regions, claim): (Regions, Option<Claim<H::Worker>>),
    ) {
        let bytes = |Bytes(bytes): Bytes| bytes;
        let held = state.held.into_iter();
        let conn = Conn {
            peer: state.peer,
            local: state.local,
            since: state.since,
            used: state.used,
            stage: match (state.stage, owner) {
                (_, Some((queue, number))) => Stage::Owned { queue, number },
                (KeptStage::Offered(token), None) => Stage::Offered(token),
                (_, None) => Stage::Fresh,
            },
            deadline: None,
            authenticated: state.authenticated,
            protection: state.protection,
            encrypted: state.encrypted,
            client_guid: state.client_guid,
            held: held.map(|held| Held::from(bytes(held))).collect(),
            first: state.first.map(bytes),
            info_due: state.info_due,
            claim,
            outstanding: state.outstanding,
            reads: state.reads,
            unrecycled: state.unrecycled,
            ahead: state.ahead.map(Ahead::adopt),
            behind: VecDeque::from(state.behind),
            regions,
            receives: None,
            descriptors: None,
            end: None,
            last_worker: state.last_worker,
            leaving: None,
        };
        self.conns.insert(id, conn);
        self.set_deadline(id, state.deadline);
        let place = self.place(id);
        let mut registry = self.host.registry();
        let token = match state.stage {
            KeptStage::Offered(token) => Some(token),
            KeptStage::Fresh | KeptStage::Owned { .. } => None,
        };
        let is_offered = token.is_some();
        let kind = (owner.is_some(), !state.authenticated, is_offered);
        registry.adopt_conn(place, state.peer, kind);
        if let Some(token) = token {
            registry.offer(token, place);
        }
        drop(registry);
        let buffers = self.transport.buffers_mut();
        if state.authenticated {
            buffers.authenticated(id);
        }
        match (state.is_direct, owner) {
            (Some(true), Some((queue, _))) => buffers.set_queue(id, queue),
            (Some(_), _) => buffers.hold(id),
            (None, _) => {}
        }
        let Some((queue, _)) = owner else {
            return;
        };
        self.count_receives(id);
        self.count_descriptors(queue, id);
        if state.is_direct != Some(true) {
            // The next round tries to deliver what waits for the owner.
            self.count_held(queue, id);
            if let Some(queue) = self.queues.get_mut(queue) {
                queue.waiting.push(id);
            }
        }
    }

    /// Answers everything that the owner of a connection waits for, and tells it of the end.
    fn lost(&mut self, state: &KeptState, owner: Option<(QueueId, u64)>, flushed: Vec<Flushed>) {
        let Some((queue, conn)) = owner else {
            return;
        };
        let is_fetching = state
            .ahead
            .is_some_and(|ahead| Ahead::adopt(ahead).is_fetching());
        let is_own = |end: &Flushed| is_fetching && *end == Flushed::Read(super::ahead::COOKIE);
        for end in flushed.into_iter().filter(|end| !is_own(end)) {
            let (event, cookie) = match end {
                Flushed::Send(cookie) => (event::SENT, cookie),
                Flushed::Write(cookie) | Flushed::Read(cookie) => (event::RDMA_DONE, cookie),
            };
            if let Some(of) = self.queues.get_mut(queue) {
                of.outstanding = of.outstanding.saturating_sub(1);
            }
            let status = Status::Flushed.code();
            let answer = Completion {
                event,
                status,
                conn,
                cookie,
                ..NOTHING
            };
            self.complete(queue, answer);
        }
        if let Some((cookie, ..)) = state.ahead {
            self.answer_lent(queue, conn, cookie, (Status::Flushed, 0));
        }
        for (buffer, length) in state.behind.iter().copied() {
            self.deliver_pdu(queue, conn, buffer, length);
        }
        if !state.info_due {
            let disconnected = Completion {
                event: event::DISCONNECTED,
                status: Status::Stopping.code(),
                conn,
                ..NOTHING
            };
            self.complete(queue, disconnected);
        }
    }
}

/// Returns the claim of a connection, if the claiming worker is still attached.
fn claim_of<W: Worker>(state: &KeptState, source: &mut impl Source<W>) -> Option<Claim<W>> {
    let (worker, cookie) = state.claim?;
    let worker = source.worker(worker)?;
    Some(Claim { worker, cookie })
}

impl KeptShard {
    /// Returns the workers that have a queue or a connection in the shard, or claim one.
    pub(crate) fn workers(&self) -> BTreeSet<u32> {
        let of_queues = self.queues.iter().map(|queue| queue.worker);
        let conns = self.conns.iter().map(|conn| &conn.state);
        let states = conns.chain(self.ended.iter().map(|end| &end.state));
        let of_conns = states.flat_map(|state| {
            let claim = state.claim.map(|(worker, _)| worker);
            state.owner().into_iter().chain(claim)
        });
        of_queues
            .chain(of_conns)
            .chain(self.lost.iter().copied())
            .collect()
    }
}

impl KeptState {
    const fn owner(&self) -> Option<u32> {
        match self.stage {
            KeptStage::Owned { worker, .. } => Some(worker),
            KeptStage::Fresh | KeptStage::Offered(_) => None,
        }
    }
}

/// Finds the segments that are registered with a connection, and adds their memory to `memory`.
fn registered(
    kept: &[Option<RegionId>],
    segments: &Numbered,
    memory: &mut BTreeMap<RegionId, Memory>,
) -> Vec<Option<(Arc<Segment>, RegionId)>> {
    let numbered = kept.iter().enumerate();
    let found = numbered.map(|(number, region)| {
        let segment = segments.get(number).and_then(Option::as_ref)?;
        let region = (*region)?;
        memory.insert(region, segment.memory.clone());
        Some((Arc::clone(segment), region))
    });
    found.collect()
}

/// Returns the registrations whose segments are still the worker's, by number.
fn current(regions: &[Option<(Arc<Segment>, RegionId)>], now: &Numbered) -> Vec<Option<RegionId>> {
    let numbered = regions.iter().enumerate();
    let region = numbered.map(|(number, region)| {
        let (segment, region) = region.as_ref()?;
        let current = now.get(number).and_then(Option::as_ref);
        current.filter(|current| Arc::ptr_eq(current, segment))?;
        Some(*region)
    });
    region.collect()
}

#[cfg(test)]
mod tests;
