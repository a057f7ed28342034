// SPDX-License-Identifier: GPL-2.0-or-later

//! The sending side of a connection: messages and RDMA WRITEs in one queue, RDMA READs in another.
//!
//! ```text
//!   queue: message, write piece, write piece*, message ...      * the last of its WRITE
//!     | start_message           | post_write
//!   current -> Transmit -> post_send
//!     |                         |
//!   sending: cookies          writing: cookies      (completions come in the order of posting)
//! ```

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::progress::Progress;
use super::{Event, MAX_DESCRIPTORS, SendError, Traffic};
use crate::fabric::{ConnId, Fabric, FabricError, RemoteAddress, Sge, WrError, WrId};
use crate::proto::{Endpoint, Transmit};
use crate::units::{Instant, RemoteToken};
use crate::wire::BufferDescriptorV1;

/// Returns the number of a work request, which holds the number of bytes carried (bits 1 to 32) and whether the request
/// ends a call of the owner (bit 0), so that the completion tells both.
fn wr_id(length: u32, last: bool) -> WrId {
    WrId(u64::from(length) << 1 | u64::from(last))
}

/// Number of pieces for which an empty queue keeps its memory.
const KEPT_PIECES: usize = 256;

/// Set in the completion of a SEND that invalidated a token of the peer.
const INVALIDATED: u64 = 1 << 33;

fn length(wr_id: WrId) -> u64 {
    (wr_id.0 & !INVALIDATED) >> 1
}

/// Returns whether a work request, except a receive, is the last one of a call of the owner: the last fragment of a
/// message, or the last transfer of an RDMA READ or WRITE with many descriptors.
pub(crate) fn ends_call(wr_id: WrId) -> bool {
    wr_id.0 & 1 != 0
}

#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
enum Outgoing {
    Message {
        cookie: u64,
        source: Sge,
        invalidate: Option<RemoteToken>,
    },
    Write {
        cookie: u64,
        source: Sge,
        target: RemoteAddress,
        last: bool,
    },
}

/// Messages and RDMA WRITEs in the order in which the owner queued them.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct SendQueue {
    queue: VecDeque<Outgoing>,
    /// Number of calls of the owner that are in `queue`, however many pieces they have.
    calls: usize,
    /// The message that the endpoint has in progress.
    current: Option<Sge>,
    /// A message that the endpoint gave out, but for which the fabric had no room.
    stalled: Option<Transmit>,
    /// Cookies of messages given to the endpoint.
    sending: VecDeque<u64>,
    /// Cookies of RDMA WRITEs whose last piece was posted.
    writing: VecDeque<u64>,
    write_error: Option<WrError>,
    /// Progress of the posted work.
    pub(super) progress: Progress,
}

impl SendQueue {
    /// Returns whether nothing waits to be posted. Posted work goes out even if the fabric is closed.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.stalled.is_some()
    }

    /// Returns whether every message and RDMA WRITE of the owner has ended.
    pub(super) fn is_done(&self) -> bool {
        self.queue.is_empty()
            && self.current.is_none()
            && self.sending.is_empty()
            && self.writing.is_empty()
    }

    /// Returns whether the endpoint has a message in progress.
    #[cfg(feature = "fabric")]
    pub(super) fn is_sending(&self) -> bool {
        self.current.is_some()
    }

    /// Returns how many messages and RDMA WRITEs wait to be posted.
    pub(super) fn len(&self) -> usize {
        self.calls
    }

    /// Returns the number of bytes of heap that hold work waiting to be posted.
    #[inline]
    pub(super) fn memory(&self) -> usize {
        self.queue.capacity() * size_of::<Outgoing>()
    }

    #[inline]
    pub(super) fn push_message(
        &mut self,
        cookie: u64,
        source: Sge,
        invalidate: Option<RemoteToken>,
    ) {
        self.calls += 1;
        self.queue.push_back(Outgoing::Message {
            cookie,
            source,
            invalidate,
        });
    }

    pub(super) fn push_write(
        &mut self,
        cookie: u64,
        source: Sge,
        target: impl IntoIterator<Item = BufferDescriptorV1>,
    ) -> Result<(), SendError> {
        let queued = self.queue.len();
        let result = cut(source, target, |source, target, last| {
            self.queue.push_back(Outgoing::Write {
                cookie,
                source,
                target,
                last,
            });
        });
        match result {
            Ok(()) => self.calls += 1,
            Err(_) => self.queue.truncate(queued),
        }
        result
    }

    /// Posts as much as credits and the fabric's queue allow.
    #[inline]
    pub(super) fn post<F: Fabric>(
        &mut self,
        fabric: &mut F,
        id: ConnId,
        endpoint: &mut Endpoint,
        now: Instant,
    ) -> Result<(), FabricError> {
        if let Some(transmit) = self.stalled.take() {
            if !self.transmit(fabric, id, transmit, now)? {
                return Ok(());
            }
        }
        loop {
            if self.current.is_none() && !self.start_next(fabric, id, endpoint, now)? {
                return Ok(());
            }
            // If no message of the owner is in progress, the endpoint sends a message of its own: credits, a keepalive,
            // or the negotiation.
            let Some(transmit) = endpoint.poll_transmit(now) else {
                return Ok(());
            };
            if !self.transmit(fabric, id, transmit, now)? {
                return Ok(());
            }
        }
    }

    /// Posts the RDMA WRITEs at the front and gives the endpoint the message after them; returns `false` if the
    /// fabric's queue is full.
    #[inline]
    fn start_next<F: Fabric>(
        &mut self,
        fabric: &mut F,
        id: ConnId,
        endpoint: &mut Endpoint,
        now: Instant,
    ) -> Result<bool, FabricError> {
        while let Some(front) = self.queue.front() {
            match *front {
                Outgoing::Message {
                    cookie,
                    source,
                    invalidate,
                } => {
                    // The length was checked when the message was queued. A closing endpoint takes no more messages, so
                    // the rest ends with the connection.
                    if endpoint.start_message(source.length, invalidate).is_ok() {
                        self.queue.pop_front();
                        self.calls -= 1;
                        self.current = Some(source);
                        self.sending.push_back(cookie);
                    }
                    return Ok(true);
                }
                Outgoing::Write {
                    cookie,
                    source,
                    target,
                    last,
                } => {
                    match fabric.post_write(id, wr_id(source.length, last), source, target) {
                        Ok(()) => self.progress.post(now),
                        Err(FabricError::QueueFull) => return Ok(false),
                        Err(error) => return Err(error),
                    }
                    self.queue.pop_front();
                    if last {
                        self.calls -= 1;
                        self.writing.push_back(cookie);
                    }
                }
            }
        }
        if self.queue.capacity() > KEPT_PIECES {
            self.queue.shrink_to(KEPT_PIECES);
        }
        Ok(true)
    }

    /// Posts one SMB Direct message; if the fabric's queue is full, keeps the message and returns `false`.
    #[inline]
    fn transmit<F: Fabric>(
        &mut self,
        fabric: &mut F,
        id: ConnId,
        transmit: Transmit,
        now: Instant,
    ) -> Result<bool, FabricError> {
        let header = transmit
            .header
            .get(..usize::from(transmit.header_length))
            .unwrap_or(&transmit.header);
        let payload = match self.current {
            Some(source) if !transmit.payload.is_empty() => Some(Sge {
                region: source.region,
                offset: source.offset + transmit.payload.start,
                length: transmit.payload.end - transmit.payload.start,
            }),
            _ => None,
        };
        let last = transmit.ends_message;
        let mut wr_id = wr_id(payload.map_or(0, |payload| payload.length), last);
        if transmit.invalidate.is_some() {
            wr_id.0 |= INVALIDATED;
        }
        match fabric.post_send(id, wr_id, header, payload, transmit.invalidate) {
            Ok(()) => self.progress.post(now),
            Err(FabricError::QueueFull) => {
                self.stalled = Some(transmit);
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        if last {
            self.current = None;
        }
        Ok(true)
    }

    /// Handles the end of a SEND.
    #[inline]
    pub(super) fn sent<Buffer>(
        &mut self,
        conn: ConnId,
        wr_id: WrId,
        result: Result<(), WrError>,
        traffic: &mut Traffic,
        events: &mut Vec<Event<Buffer>>,
    ) {
        if result.is_ok() {
            traffic.inline_bytes_out += length(wr_id);
            traffic.messages_out += u64::from(ends_call(wr_id));
            traffic.invalidations_out += u64::from(wr_id.0 & INVALIDATED != 0);
        }
        if !ends_call(wr_id) {
            return;
        }
        let Some(cookie) = self.sending.pop_front() else {
            return;
        };
        events.push(Event::Sent {
            conn,
            cookie,
            result,
        });
    }

    /// Handles the end of a piece of an RDMA WRITE.
    pub(super) fn written<Buffer>(
        &mut self,
        conn: ConnId,
        wr_id: WrId,
        result: Result<(), WrError>,
        traffic: &mut Traffic,
        events: &mut Vec<Event<Buffer>>,
    ) {
        let result = first_error(&mut self.write_error, result);
        if result.is_ok() {
            traffic.rdma_write_bytes += length(wr_id);
        }
        if ends_call(wr_id) {
            let Some(cookie) = self.writing.pop_front() else {
                return;
            };
            traffic.rdma_writes += u64::from(result.is_ok());
            events.push(Event::Written {
                conn,
                cookie,
                result,
            });
        }
    }

    /// Ends all unfinished work, because the connection has ended.
    pub(super) fn flush<Buffer>(&mut self, conn: ConnId, events: &mut Vec<Event<Buffer>>) {
        let result = Err(WrError::Flushed);
        for cookie in self.sending.drain(..) {
            events.push(Event::Sent {
                conn,
                cookie,
                result,
            });
        }
        for cookie in self.writing.drain(..) {
            events.push(Event::Written {
                conn,
                cookie,
                result: first_error(&mut self.write_error, result),
            });
        }
        self.calls = 0;
        for outgoing in self.queue.drain(..) {
            match outgoing {
                Outgoing::Message { cookie, .. } => events.push(Event::Sent {
                    conn,
                    cookie,
                    result,
                }),
                Outgoing::Write {
                    cookie, last: true, ..
                } => {
                    let result = first_error(&mut self.write_error, result);
                    events.push(Event::Written {
                        conn,
                        cookie,
                        result,
                    });
                }
                Outgoing::Write { .. } => {}
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
struct ReadPiece {
    cookie: u64,
    sink: Sge,
    source: RemoteAddress,
    last: bool,
}

/// RDMA READs in the order in which the owner queued them.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct ReadQueue {
    queue: VecDeque<ReadPiece>,
    /// Number of calls of the owner that are in `queue`, however many pieces they have.
    calls: usize,
    /// Cookies of RDMA READs whose last piece was posted.
    reading: VecDeque<u64>,
    read_error: Option<WrError>,
    /// Progress of the posted work.
    pub(super) progress: Progress,
}

impl ReadQueue {
    /// Returns whether every RDMA READ of the owner has ended.
    pub(super) fn is_done(&self) -> bool {
        self.queue.is_empty() && self.reading.is_empty()
    }

    /// Returns how many RDMA READs wait to be posted.
    pub(super) fn len(&self) -> usize {
        self.calls
    }

    /// Returns the number of bytes of heap that hold work waiting to be posted.
    #[inline]
    pub(super) fn memory(&self) -> usize {
        self.queue.capacity() * size_of::<ReadPiece>()
    }

    pub(super) fn push(
        &mut self,
        cookie: u64,
        sink: Sge,
        source: impl IntoIterator<Item = BufferDescriptorV1>,
    ) -> Result<(), SendError> {
        let queued = self.queue.len();
        let result = cut(sink, source, |sink, source, last| {
            self.queue.push_back(ReadPiece {
                cookie,
                sink,
                source,
                last,
            });
        });
        match result {
            Ok(()) => self.calls += 1,
            Err(_) => self.queue.truncate(queued),
        }
        result
    }

    /// Posts as much as the fabric's queue allows.
    #[inline]
    pub(super) fn post<F: Fabric>(
        &mut self,
        fabric: &mut F,
        id: ConnId,
        now: Instant,
    ) -> Result<(), FabricError> {
        while let Some(piece) = self.queue.front() {
            match fabric.post_read(
                id,
                wr_id(piece.sink.length, piece.last),
                piece.sink,
                piece.source,
            ) {
                Ok(()) => self.progress.post(now),
                Err(FabricError::QueueFull) => return Ok(()),
                Err(error) => return Err(error),
            }
            if piece.last {
                self.calls -= 1;
                self.reading.push_back(piece.cookie);
            }
            self.queue.pop_front();
        }
        if self.queue.capacity() > KEPT_PIECES {
            self.queue.shrink_to(KEPT_PIECES);
        }
        Ok(())
    }

    /// Handles the end of a piece of an RDMA READ.
    pub(super) fn read<Buffer>(
        &mut self,
        conn: ConnId,
        wr_id: WrId,
        result: Result<(), WrError>,
        traffic: &mut Traffic,
        events: &mut Vec<Event<Buffer>>,
    ) {
        let result = first_error(&mut self.read_error, result);
        if result.is_ok() {
            traffic.rdma_read_bytes += length(wr_id);
        }
        if ends_call(wr_id) {
            let Some(cookie) = self.reading.pop_front() else {
                return;
            };
            traffic.rdma_reads += u64::from(result.is_ok());
            events.push(Event::Read {
                conn,
                cookie,
                result,
            });
        }
    }

    /// Ends all unfinished work, because the connection has ended.
    pub(super) fn flush<Buffer>(&mut self, conn: ConnId, events: &mut Vec<Event<Buffer>>) {
        self.calls = 0;
        let unposted = self
            .queue
            .drain(..)
            .filter(|piece| piece.last)
            .map(|piece| piece.cookie);
        for cookie in self.reading.drain(..).chain(unposted) {
            let result = first_error(&mut self.read_error, Err(WrError::Flushed));
            events.push(Event::Read {
                conn,
                cookie,
                result,
            });
        }
    }
}

#[cfg(feature = "broker")]
impl SendQueue {
    /// Returns whether the numbers of a queue that was written down can be right.
    pub(super) fn is_sound(&self) -> bool {
        let ends = |outgoing: &&Outgoing| !matches!(outgoing, Outgoing::Write { last: false, .. });
        self.calls == self.queue.iter().filter(ends).count()
    }
}

#[cfg(feature = "broker")]
impl ReadQueue {
    /// Returns whether the numbers of a queue that was written down can be right.
    pub(super) fn is_sound(&self) -> bool {
        self.calls == self.queue.iter().filter(|piece| piece.last).count()
    }
}

/// Keeps the first error of a connection's requests. Everything after the error is flushed, so the request that failed
/// is the first to report the error, and later requests report it as well.
fn first_error(first: &mut Option<WrError>, result: Result<(), WrError>) -> Result<(), WrError> {
    result.map_err(|error| *first.get_or_insert(error))
}

/// Distributes `local` over consecutive descriptors, filling each before the next, until its end; calls `take` with
/// each piece and whether it is the last.
fn cut(
    local: Sge,
    descriptors: impl IntoIterator<Item = BufferDescriptorV1>,
    mut take: impl FnMut(Sge, RemoteAddress, bool),
) -> Result<(), SendError> {
    let mut rest = local;
    for (index, descriptor) in descriptors.into_iter().enumerate() {
        if rest.length == 0 {
            break;
        }
        if index == MAX_DESCRIPTORS {
            return Err(SendError::TooManyDescriptors);
        }
        let length = rest.length.min(descriptor.length);
        if length == 0 {
            continue;
        }
        if descriptor.offset.checked_add(u64::from(length)).is_none() {
            return Err(SendError::DescriptorWraps);
        }
        let remote = RemoteAddress {
            token: descriptor.token,
            address: descriptor.offset,
        };
        take(Sge { length, ..rest }, remote, length == rest.length);
        rest.length -= length;
        // The end of `local` lies in its region, so this offset fits; nothing after that end is used.
        rest.offset = rest.offset.saturating_add(length);
    }
    if rest.length > 0 {
        Err(SendError::DescriptorsTooShort)
    } else {
        Ok(())
    }
}
