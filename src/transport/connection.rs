// SPDX-License-Identifier: GPL-2.0-or-later

//! One connection: its endpoint, its outgoing work and its incoming messages.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use super::incoming::{Fragment, Incoming};
use super::outgoing::{ReadQueue, SendQueue};
#[cfg(feature = "fabric")]
use super::underway::Underway;
use super::{CloseReason, Config, ConnStatus, Event, MessageBuffers, SendError, Traffic};
use crate::fabric::{
    self, ConnId, Fabric, FabricError, ListenerId, Moved, ReadLimits, RegionId, Sge, Work, WrError,
    WrId,
};
use crate::proto::{Endpoint, HEAD_LENGTH, Received, State};
use crate::sys::Memory;
use crate::units::{Credits, Instant, RemoteToken};
use crate::wire::BufferDescriptorV1;

/// A connection that the fabric knows. It has *failed* once this side has given up on it: the fabric has been told to
/// close it, and only the completions of posted work still matter.
#[derive(Debug)]
pub(super) struct Connection<Buffer> {
    pub(super) endpoint: Endpoint,
    pub(super) listener: Option<ListenerId>,
    pub(super) peer: SocketAddr,
    pub(super) since: Instant,
    /// The owner knows about the connection: it is established, or the owner began it.
    pub(super) announced: bool,
    /// [`Event::Established`] was sent.
    pub(super) established: bool,
    /// The owner wants the connection to be closed once the queue is empty.
    pub(super) closing: bool,
    /// The connection is in the transport's list of connections that have something to post.
    pub(super) dirty: bool,
    /// The connection is in the transport's list of connections with a fragment that has no buffer.
    pub(super) starved: bool,
    /// The deadline for closing, once the connection is being closed.
    pub(super) close_by: Option<Instant>,
    /// The deadline that the timers hold for the connection.
    pub(super) armed: Option<Instant>,
    /// The regions that the owner registered. This is a map, because no fabric promises small
    /// numbers while a connection ends.
    pub(super) regions: BTreeMap<RegionId, Memory>,
    /// The limits, which are known once the fabric's connection is up.
    pub(super) limits: Option<ReadLimits>,
    pub(super) failed: Option<CloseReason>,
    pub(super) sends: SendQueue,
    pub(super) reads: ReadQueue,
    pub(super) incoming: Incoming<Buffer>,
    /// Number of receives to hold memory for.
    pub(super) slots: u16,
    /// How long closing may take.
    pub(super) patience: Duration,
    /// How long posted work may stand still.
    pub(super) progress_timeout: Duration,
    pub(super) traffic: Traffic,
}

impl<Buffer> Connection<Buffer> {
    /// Makes a connection that `listener` accepted or, if that is `None`, that this side begins.
    pub(super) fn new(
        config: &Config,
        listener: Option<ListenerId>,
        peer: SocketAddr,
        now: Instant,
    ) -> Self {
        let progress_timeout = config.progress_timeout;
        let (config, endpoint) = match listener {
            Some(_) => (&config.acceptor, Endpoint::acceptor(config.acceptor, now)),
            None => (
                &config.initiator,
                Endpoint::initiator(config.initiator, now),
            ),
        };
        Self {
            endpoint,
            listener,
            peer,
            since: now,
            announced: listener.is_none(),
            established: false,
            closing: false,
            dirty: false,
            starved: false,
            close_by: None,
            armed: None,
            regions: BTreeMap::new(),
            limits: None,
            failed: None,
            sends: SendQueue::default(),
            reads: ReadQueue::default(),
            incoming: Incoming::new(),
            slots: config.receive_credit_max.0,
            patience: config.credit_timeout,
            progress_timeout,
            traffic: Traffic::default(),
        }
    }

    /// Lets the peer hold at most `max` credits until `raise_receives`.
    pub(super) fn limit_receives(&mut self, max: Credits) {
        let max = max.min(Credits(self.slots));
        self.endpoint.set_receive_credit_max(max);
    }

    /// Lets the peer hold as many credits as there are slots.
    pub(super) fn raise_receives(&mut self) {
        self.endpoint.set_receive_credit_max(Credits(self.slots));
    }

    /// Takes note that the fabric's connection is up.
    pub(super) fn connected(&mut self, limits: ReadLimits) {
        self.limits = Some(limits);
    }

    /// Gives up the connection; the caller closes the fabric's connection. The first reason is kept.
    pub(super) fn fail(&mut self, reason: CloseReason) {
        self.failed.get_or_insert(reason);
    }

    /// Returns the time at which `expire` has to be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        if self.failed.is_some() {
            return None;
        }
        let deadlines = [
            self.endpoint.poll_timeout(),
            self.close_by,
            self.sends.progress.deadline(self.progress_timeout),
            self.reads.progress.deadline(self.progress_timeout),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Checks the deadlines, and when the fabric last saw data move; an error ends the connection.
    pub(super) fn expire(&mut self, now: Instant, moved: Moved) -> Result<(), CloseReason> {
        if self.close_by.is_some_and(|close_by| close_by <= now) {
            return Err(CloseReason::CloseTimeout);
        }
        let timeout = self.progress_timeout;
        let (sends, reads) = (&mut self.sends.progress, &mut self.reads.progress);
        if sends.stands_still(now, moved.sends, timeout) {
            return Err(CloseReason::NotTaken);
        }
        if reads.stands_still(now, moved.reads, timeout) {
            return Err(CloseReason::ReadsNotAnswered);
        }
        Ok(self.endpoint.handle_timeout(now)?)
    }

    #[inline]
    pub(super) fn queue_message(
        &mut self,
        cookie: u64,
        source: Sge,
        invalidate: Option<RemoteToken>,
        limit: usize,
    ) -> Result<(), SendError> {
        let most = self
            .endpoint
            .negotiated()
            .map_or(0, |negotiated| negotiated.max_fragmented_send_size);
        self.check(source, most, self.sends.len() < limit)?;
        self.sends.push_message(cookie, source, invalidate);
        Ok(())
    }

    pub(super) fn queue_write(
        &mut self,
        cookie: u64,
        source: Sge,
        target: impl IntoIterator<Item = BufferDescriptorV1>,
        limit: usize,
    ) -> Result<(), SendError> {
        let most = self
            .endpoint
            .negotiated()
            .map_or(0, |negotiated| negotiated.max_read_write_size);
        self.check(source, most, self.sends.len() < limit)?;
        self.sends.push_write(cookie, source, target)
    }

    pub(super) fn queue_read(
        &mut self,
        cookie: u64,
        sink: Sge,
        source: impl IntoIterator<Item = BufferDescriptorV1>,
        limit: usize,
    ) -> Result<(), SendError> {
        let most = self
            .endpoint
            .negotiated()
            .map_or(0, |negotiated| negotiated.max_read_write_size);
        self.check(sink, most, self.reads.len() < limit)?;
        // Without this check, the READs would wait in the fabric for ever.
        if self.limits.is_none_or(|limits| limits.initiator_depth == 0) {
            return Err(SendError::NoReads);
        }
        self.reads.push(cookie, sink, source)
    }

    #[inline]
    fn check(&self, memory: Sge, most: u32, room: bool) -> Result<(), SendError> {
        if !self.established || self.closing || self.failed.is_some() {
            Err(SendError::NotEstablished)
        } else if memory.length == 0 {
            Err(SendError::Empty)
        } else if memory.length > most {
            Err(SendError::TooLong)
        } else if !self.holds(memory) {
            Err(SendError::LocalProtection)
        } else if !room {
            Err(SendError::QueueFull)
        } else {
            Ok(())
        }
    }

    /// Returns whether the owner registered this memory.
    #[inline]
    fn holds(&self, memory: Sge) -> bool {
        // Memory whose end exceeds 32 bits cannot be cut into pieces.
        match (
            self.regions.get(&memory.region),
            memory.offset.checked_add(memory.length),
        ) {
            (Some(of), Some(end)) => end as usize <= of.len(),
            _ => false,
        }
    }

    pub(super) fn post_receives<F: Fabric>(
        &mut self,
        fabric: &mut F,
        id: ConnId,
    ) -> Result<(), FabricError> {
        self.incoming
            .post(fabric, id, &mut self.endpoint, self.slots)
    }

    /// Posts whatever can be posted now, and closes the connection if it is done.
    #[inline]
    pub(super) fn pump<F: Fabric>(&mut self, fabric: &mut F, id: ConnId, now: Instant) {
        if self.failed.is_some() {
            return;
        }
        if let Err(error) = self.post(fabric, id, now) {
            self.fail(CloseReason::Call(error.into()));
            fabric.close(id);
            return;
        }
        let closed = self.endpoint.state() == State::Closed;
        if closed && !self.sends.is_stalled() {
            let reason = if self.closing {
                CloseReason::Fabric(fabric::CloseReason::Local)
            } else {
                CloseReason::NegotiationRefused
            };
            self.fail(reason);
            fabric.close(id);
        } else if closed || self.closing {
            // A peer that grants little, an owner without receives to grant, or a fabric that accepts no work must not
            // hold the connection for ever.
            self.close_by.get_or_insert(now + self.patience);
        }
    }

    #[inline]
    fn post<F: Fabric>(
        &mut self,
        fabric: &mut F,
        id: ConnId,
        now: Instant,
    ) -> Result<(), FabricError> {
        if self.limits.is_none() {
            if self.closing {
                self.endpoint.close();
            }
            return Ok(());
        }
        self.post_receives(fabric, id)?;
        self.reads.post(fabric, id, now)?;
        self.sends.post(fabric, id, &mut self.endpoint, now)?;
        if self.closing && self.sends.is_empty() {
            self.endpoint.close();
            // The endpoint may still have something to send.
            self.sends.post(fabric, id, &mut self.endpoint, now)?;
        }
        Ok(())
    }

    /// Handles the end of a work request.
    #[inline]
    pub(super) fn complete<B: MessageBuffers<Buffer = Buffer>>(
        &mut self,
        now: Instant,
        id: ConnId,
        (wr_id, work, result): (WrId, Work, Result<(), WrError>),
        buffers: &mut B,
        events: &mut Vec<Event<Buffer>>,
    ) {
        match work {
            Work::Recv { .. } => {}
            Work::Send | Work::Write => self.sends.progress.end(now),
            Work::Read => self.reads.progress.end(now),
        }
        match work {
            Work::Recv {
                length,
                invalidated,
            } if result.is_ok() && self.failed.is_none() => {
                events.extend(invalidated.map(|token| Event::Invalidated { conn: id, token }));
                self.receive(now, id, wr_id, length, buffers, events);
            }
            Work::Recv { .. } => {}
            Work::Send => self
                .sends
                .sent(id, wr_id, result, &mut self.traffic, events),
            Work::Write => self
                .sends
                .written(id, wr_id, result, &mut self.traffic, events),
            Work::Read => self
                .reads
                .read(id, wr_id, result, &mut self.traffic, events),
        }
    }

    #[inline]
    fn receive<B: MessageBuffers<Buffer = Buffer>>(
        &mut self,
        now: Instant,
        id: ConnId,
        wr_id: WrId,
        length: u32,
        buffers: &mut B,
        events: &mut Vec<Event<Buffer>>,
    ) {
        // `post_recv` was given a 16-bit slot number, so nothing is lost.
        let slot = wr_id.0 as u16;
        let mut head = [0; HEAD_LENGTH];
        let Some(head) = self.incoming.peek(slot, length, &mut head) else {
            return;
        };
        match self.endpoint.handle_head(now, head, length) {
            Ok(Received::Fragment {
                payload,
                offset,
                total,
            }) => {
                let fragment = Fragment {
                    slot,
                    start: payload.start,
                    length: payload.end.saturating_sub(payload.start),
                    offset,
                    total,
                };
                self.incoming
                    .take(id, fragment, buffers, &mut self.traffic, events);
            }
            Ok(Received::Credits) => self.incoming.free(slot),
            Ok(Received::Negotiate) => self.incoming.end_negotiation(),
            Err(error) => self.fail(error.into()),
        }
    }

    /// Returns how many fragments wait for a buffer.
    #[inline]
    pub(super) fn waiting(&self) -> usize {
        self.incoming.waiting()
    }

    /// Tries again to find buffers; returns `false` if a fragment still waits.
    pub(super) fn retry<B: MessageBuffers<Buffer = Buffer>>(
        &mut self,
        id: ConnId,
        buffers: &mut B,
        events: &mut Vec<Event<Buffer>>,
    ) -> bool {
        self.failed.is_some() || self.incoming.retry(id, buffers, &mut self.traffic, events)
    }

    /// Ends a connection that has gone: ends all unfinished work, then returns why it ended and its traffic.
    pub(super) fn end<B: MessageBuffers<Buffer = Buffer>>(
        mut self,
        id: ConnId,
        reason: fabric::CloseReason,
        buffers: &mut B,
        events: &mut Vec<Event<Buffer>>,
    ) -> (CloseReason, Traffic) {
        self.incoming.discard(buffers);
        self.sends.flush(id, events);
        self.reads.flush(id, events);
        let reason = self.failed.unwrap_or(CloseReason::Fabric(reason));
        (reason, self.traffic)
    }

    /// Returns whether this side gave up on the connection.
    #[inline]
    pub(super) fn is_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// Returns the number of bytes of memory for the receives.
    pub(super) fn receive_memory(&self) -> usize {
        self.incoming.memory()
    }

    /// Returns the number of bytes of heap that hold work waiting to be posted.
    pub(super) fn queue_memory(&self) -> usize {
        self.sends.memory() + self.reads.memory()
    }

    #[cfg(feature = "fabric")]
    pub(super) fn underway(&self, conn: ConnId) -> Option<Underway> {
        if self.failed.is_some() {
            return None;
        }
        let regions = self.regions.iter();
        let regions = regions.map(|(region, memory)| (*region, memory.clone()));
        Some(Underway {
            conn,
            status: self.status(),
            regions: regions.chain(self.incoming.region()).collect(),
            receives: self.incoming.posted().collect(),
            reads: self.reads.progress.posted(),
            has_heard: self.incoming.has_negotiated(),
            is_receiving: self.endpoint.is_receiving(),
            is_sending: self.sends.is_sending(),
        })
    }

    pub(super) fn status(&self) -> ConnStatus {
        ConnStatus {
            peer: self.peer,
            listener: self.listener,
            since: self.since,
            state: match self.endpoint.state() {
                _ if self.failed.is_some() => State::Closed,
                State::Negotiating | State::Established if self.closing => State::Closing,
                state => state,
            },
            send_credits: self.endpoint.send_credits(),
            receive_credits: self.endpoint.receive_credits(),
            receives_posted: self.endpoint.receives_posted(),
            negotiated: self.endpoint.negotiated().copied(),
            limits: self.limits,
            queued: self.sends.len(),
            queued_reads: self.reads.len(),
            starved: self.incoming.waiting(),
            assembling: self.incoming.is_assembling(),
            traffic: self.traffic,
        }
    }
}
