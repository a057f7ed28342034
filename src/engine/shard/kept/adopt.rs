// SPDX-License-Identifier: GPL-2.0-or-later

//! Continues what another shard has written down, and ends what cannot be continued.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use std::os::fd::OwnedFd;

use super::super::ahead::{self, Ahead};
use super::super::connection::{Claim, Conn, Held, Regions, Stage};
use super::super::{Host, NOTHING, Notice, Shard, Why};
use super::{Bytes, KeptConn, KeptEnd, KeptShard, KeptStage, KeptState, Source};
use crate::device::Status;
use crate::device::abi::{Completion, event};
use crate::engine::memory::{Numbered, Segment};
use crate::engine::peer::{Peer, Worker};
use crate::engine::pool::{KeptBuffer, QueueId};
use crate::engine::queue::{KeptQueue, Queue};
use crate::engine::registry::Close;
use crate::fabric::{ConnId, Keep, NotKept, RegionId};
use crate::sys::Memory;
use crate::transport::{Flushed, KeptConnection, Traffic};

impl<F: Keep, H: Host> Shard<F, H> {
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
        let is_own = |end: &Flushed| is_fetching && *end == Flushed::Read(ahead::COOKIE);
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
