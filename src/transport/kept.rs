// SPDX-License-Identifier: GPL-2.0-or-later

//! Passes connections on to another process, which continues with the same clock.
//!
//! A connection is kept with whatever is under way on it: work that is queued or posted, and fragments that have
//! arrived. Of the memory for its receives, only the bytes that still matter are written down.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;
use std::os::fd::{BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use super::connection::Connection;
use super::incoming::{Fragment, Incoming, Pool};
use super::outgoing::{ReadQueue, SendQueue};
use super::{CloseReason, Event, MessageBuffers, Traffic, Transport, mark_dirty};
use crate::fabric::iwarp::KeptConn;
use crate::fabric::{ConnId, Keep, ListenerId, NotKept, ReadLimits, RegionId};
use crate::proto::{Endpoint, State};
use crate::sys::Memory;
use crate::units::Instant;

/// The state of a connection, with a message in reassembly as `Message`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KeptConnection<Message> {
    fabric: KeptConn,
    endpoint: Endpoint,
    peer: SocketAddr,
    since: Instant,
    limits: ReadLimits,
    sends: SendQueue,
    reads: ReadQueue,
    regions: Vec<RegionId>,
    pool: Option<KeptPool>,
    waiting: Vec<Fragment>,
    message: Option<Message>,
    slots: u16,
    patience: Duration,
    progress_timeout: Duration,
    traffic: Traffic,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct KeptPool {
    region: RegionId,
    slot_size: u32,
    stride: u32,
    slots: u16,
    free: Vec<u16>,
    /// The bytes of the fragments that wait, one after the other.
    #[serde(with = "crate::units::hex")]
    waiting: Vec<u8>,
}

/// Maximum number of bytes that a fragment's slot can have.
const LONGEST_SLOT: u32 = 1 << 17;

impl Pool {
    fn keep(&self, waiting: &VecDeque<Fragment>) -> Option<KeptPool> {
        let Self {
            memory,
            region,
            negotiated: _,
            slot_size,
            stride,
            free,
        } = self;
        let mut bytes = Vec::new();
        for fragment in waiting {
            let (offset, length) = place(fragment, *stride);
            memory.append_to(offset, length, &mut bytes).ok()?;
        }
        let slots = memory.len().checked_div(*stride as usize)?;
        Some(KeptPool {
            region: *region,
            slot_size: *slot_size,
            stride: *stride,
            slots: u16::try_from(slots).ok()?,
            free: free.clone(),
            waiting: bytes,
        })
    }
}

impl KeptPool {
    fn adopt(self, waiting: &[Fragment]) -> Option<Pool> {
        let lengths = 1..=LONGEST_SLOT;
        let is_sound = lengths.contains(&self.stride)
            && self.slot_size <= self.stride
            && self.free.len() <= usize::from(self.slots)
            && self.free.iter().all(|slot| *slot < self.slots);
        if !is_sound {
            return None;
        }
        let memory = Memory::zeroed(usize::from(self.slots) * self.stride as usize);
        let mut bytes = self.waiting.as_slice();
        for fragment in waiting {
            let (offset, length) = place(fragment, self.stride);
            let (first, rest) = bytes.split_at_checked(length)?;
            memory.write(offset, first).ok()?;
            bytes = rest;
        }
        Some(Pool {
            memory,
            region: self.region,
            negotiated: true,
            slot_size: self.slot_size,
            stride: self.stride,
            free: self.free,
        })
    }
}

/// Returns where a fragment is in the memory of its pool, and its length.
fn place(fragment: &Fragment, stride: u32) -> (usize, usize) {
    let offset = usize::from(fragment.slot) * stride as usize + fragment.start as usize;
    (offset, fragment.length as usize)
}

/// The end of an operation that was queued or posted on a connection that is not continued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Flushed {
    /// A message, with its cookie.
    Send(u64),
    /// An RDMA WRITE, with its cookie.
    Write(u64),
    /// An RDMA READ, with its cookie.
    Read(u64),
}

/// Returns what is in the queues, in the order in which its end has to be reported.
fn flushed(sends: &SendQueue, reads: &ReadQueue) -> Vec<Flushed> {
    let mut events: Vec<Event<()>> = Vec::new();
    let nothing = ConnId::default();
    sends.clone().flush(nothing, &mut events);
    reads.clone().flush(nothing, &mut events);
    let flushed = events.into_iter().filter_map(|event| match event {
        Event::Sent { cookie, .. } => Some(Flushed::Send(cookie)),
        Event::Written { cookie, .. } => Some(Flushed::Write(cookie)),
        Event::Read { cookie, .. } => Some(Flushed::Read(cookie)),
        _ => None,
    });
    flushed.collect()
}

impl<Message> KeptConnection<Message> {
    /// Returns what is under way, in the order in which its end has to be reported if the connection does not continue.
    pub(crate) fn flush(&self) -> Vec<Flushed> {
        flushed(&self.sends, &self.reads)
    }

    /// Returns what the connection has carried.
    pub(crate) const fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// Takes out the message in reassembly.
    pub(crate) const fn take_message(&mut self) -> Option<Message> {
        self.message.take()
    }
}

impl<F: Keep, B: MessageBuffers> Transport<F, B> {
    /// Returns whether a connection can be kept: it is established, and neither side is ending it as far as is known.
    pub(crate) fn may_keep(&self, conn: ConnId) -> bool {
        let found = self.conns.get(conn);
        let is_open = found.is_some_and(|conn| {
            conn.established && !conn.closing && conn.close_by.is_none() && !conn.is_failed()
        });
        let is_sound = found.is_some_and(|conn| {
            let pool = conn.incoming.pool.as_ref();
            conn.endpoint.state() == State::Established
                && conn.endpoint.may_keep()
                && conn.listener.is_some()
                && pool.is_none_or(|pool| pool.negotiated)
        });
        is_open && is_sound && self.fabric.may_keep(conn)
    }

    /// Ends a connection without waiting for anything; [`settle`](Self::settle) reports its end.
    pub(crate) fn end_at_once(&mut self, conn: ConnId) {
        self.abort(conn);
        self.fabric.end_at_once(conn);
    }

    /// Returns what is under way on a connection, as [`KeptConnection::flush`] does.
    pub(crate) fn flush(&self, conn: ConnId) -> Vec<Flushed> {
        let conn = self.conns.get(conn);
        conn.map_or_else(Vec::new, |conn| flushed(&conn.sends, &conn.reads))
    }

    /// Returns the buffer of a connection's message in reassembly.
    pub(crate) fn message(&self, conn: ConnId) -> Option<&B::Buffer> {
        self.conns.get(conn)?.incoming.message.as_ref()
    }

    /// Handles what has happened, without moving data.
    pub(crate) fn settle(&mut self, now: Instant, events: &mut Vec<Event<B::Buffer>>) {
        let mut fabric_events = Vec::new();
        self.fabric.take_events(&mut fabric_events);
        for event in fabric_events {
            self.handle(now, event, events);
        }
    }

    /// Returns the state of a connection that [may be kept](Self::may_keep), and its descriptor; `keep` writes down the
    /// buffer of a message in reassembly.
    pub(crate) fn keep<M>(
        &self,
        id: ConnId,
        keep: impl FnOnce(&B::Buffer) -> Option<M>,
    ) -> Option<(KeptConnection<M>, BorrowedFd<'_>)> {
        let conn = self.conns.get(id)?;
        let (fabric, descriptor) = self.fabric.keep(id)?;
        let Connection {
            endpoint,
            listener: _,
            peer,
            since,
            announced: _,
            established: _,
            closing: _,
            dirty: _,
            starved: _,
            close_by: _,
            armed: _,
            regions,
            limits,
            failed: _,
            sends,
            reads,
            incoming,
            slots,
            patience,
            progress_timeout,
            traffic,
        } = &**conn;
        let Incoming {
            pool,
            negotiated: _,
            waiting,
            message,
        } = incoming;
        let pool = match pool {
            Some(pool) if pool.negotiated => Some(pool.keep(waiting)?),
            // A pool for the negotiation would have been replaced when the next receive was posted.
            Some(_) => return None,
            None => None,
        };
        let message = match message {
            Some(buffer) => Some(keep(buffer)?),
            None => None,
        };
        let kept = KeptConnection {
            fabric,
            endpoint: endpoint.clone(),
            peer: *peer,
            since: *since,
            limits: (*limits)?,
            sends: sends.clone(),
            reads: reads.clone(),
            regions: regions.keys().copied().collect(),
            pool,
            waiting: waiting.iter().copied().collect(),
            message,
            slots: *slots,
            patience: *patience,
            progress_timeout: *progress_timeout,
            traffic: *traffic,
        };
        Some((kept, descriptor))
    }

    /// Continues a connection. `regions` has the memory that its owner had registered, and `message` is the buffer for
    /// the message in reassembly, which the owner has [taken](KeptConnection::take_message).
    ///
    /// # Errors
    ///
    /// [`NotKept`]. The peer's connection ends.
    pub(crate) fn adopt<M>(
        &mut self,
        kept: KeptConnection<M>,
        descriptor: OwnedFd,
        regions: &BTreeMap<RegionId, Memory>,
        message: Option<B::Buffer>,
    ) -> Result<ConnId, NotKept> {
        let is_sound = kept.endpoint.may_keep() && kept.sends.is_sound() && kept.reads.is_sound();
        let pool = match kept.pool {
            Some(pool) => pool.adopt(&kept.waiting).map(Some),
            None => kept.waiting.is_empty().then_some(None),
        };
        let adopted = pool.filter(|_| is_sound).and_then(|pool| {
            let mut memory = |region| {
                let own = pool.as_ref().filter(|pool| pool.region == region);
                let own = own.map(|pool| &pool.memory);
                own.or_else(|| regions.get(&region)).cloned()
            };
            let id = self.fabric.adopt(kept.fabric, descriptor, &mut memory);
            Some((id.ok()?, pool))
        });
        let Some((id, pool)) = adopted else {
            if let Some(message) = message {
                self.buffers.release(message);
            }
            return Err(NotKept);
        };
        let registered = kept.regions.into_iter();
        let registered = registered.filter_map(|id| Some((id, regions.get(&id)?.clone())));
        let mut conn = Connection {
            endpoint: kept.endpoint,
            // The listener itself may be gone.
            listener: Some(ListenerId::default()),
            peer: kept.peer,
            since: kept.since,
            announced: true,
            established: true,
            closing: false,
            dirty: false,
            starved: !kept.waiting.is_empty(),
            close_by: None,
            armed: None,
            regions: registered.collect(),
            limits: Some(kept.limits),
            failed: None,
            sends: kept.sends,
            reads: kept.reads,
            incoming: Incoming {
                pool,
                negotiated: true,
                waiting: kept.waiting.into(),
                message,
            },
            slots: kept.slots,
            patience: kept.patience,
            progress_timeout: kept.progress_timeout,
            traffic: kept.traffic,
        };
        if conn.starved {
            self.starved.push(id);
            self.retry_starved = true;
        }
        mark_dirty(&mut self.dirty, id, &mut conn);
        self.timers.arm(id, &mut conn);
        self.conns.insert(id, Box::new(conn));
        Ok(id)
    }

    /// Gives up a connection that was just continued, because its owner cannot continue it.
    pub(crate) fn refuse(&mut self, conn: ConnId) {
        if let Some(connection) = self.conns.get_mut(conn) {
            connection.fail(CloseReason::Aborted);
        }
        self.fabric.end_at_once(conn);
    }
}

#[cfg(test)]
mod tests;
