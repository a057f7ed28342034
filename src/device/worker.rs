// SPDX-License-Identifier: GPL-2.0-or-later

//! The state of a worker: queues, memory, connections, and operations under way.
//!
//! Submissions are made here; [`completion`](super::completion) checks the device's answers.
//! Every [`Status::Corrupt`] that leaves this module ends the attachment.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Deref;

use zerocopy::transmute;

use super::abi::{
    Attached, ConnInfo, Reclaim, Release, Segment, Submission, Token, TransferSubmission, feature,
    flags, op, region,
};
use super::event::{BulkBuffer, ConnCounts, Direction, Fetched};
use super::queue::{Notify, Queue};
use super::regions::{Growth, Region, shape};
use super::slots::Slots;
use super::{Status, abi};
use crate::shm::{Buffer, Doorbell};
use crate::sys::Memory;
use crate::wire::BufferDescriptors;

/// Maximum number of queues: more than any device has reactors.
const MAX_QUEUES: usize = 256;

/// Maximum number of connections.
pub(super) const MAX_CONNECTIONS: usize = 1 << 16;

/// Maximum number of buffer descriptors of an operation.
const MAX_DESCRIPTORS: usize = 4095;

/// The state of a worker.
#[derive(Debug)]
pub(super) struct Worker<D> {
    params: Attached,
    pub(super) send: Region,
    pub(super) bulk: Region,
    pub(super) queues: Vec<Queue<D>>,
    /// The queue whose turn it is.
    pub(super) turn: usize,
    pub(super) conns: BTreeMap<u64, Conn>,
    /// A connection on which an operation ended: the end of the connection may have been held back until then.
    pub(super) ending: Option<u64>,
    pub(super) operations: Slots<Operation>,
    pub(super) pdus: Slots<Pdu>,
    /// Number of bytes mapped in all regions.
    mapped: u64,
    /// Messages for the device about segments that were unmapped.
    pub(super) releases: VecDeque<Release>,
    /// A caller that was refused may try again.
    pub(super) room: bool,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) info: ConnInfo,
    /// The place of the connection's queue in [`Worker::queues`].
    pub(super) queue: usize,
    pub(super) counts: ConnCounts,
    /// Number of submissions without a completion.
    pub(super) operations: u32,
    /// The worker has disconnected the connection.
    pub(super) closing: bool,
    /// The device has been told that the connection has a session.
    pub(super) authenticated: bool,
    /// A transfer to another worker is under way.
    pub(super) transferring: bool,
    /// The buffer that is lent to the device for the next WRITE's data.
    pub(super) lent: Option<Lent>,
    /// A lent buffer that has come back with data for the next message.
    pub(super) fetched: Option<Fetched>,
    /// The device said that the connection has ended; submissions that came too late are still unanswered.
    pub(super) ended: Option<Status>,
}

/// A buffer that is lent to the device for the data of a connection's next WRITE.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lent {
    /// Number of the operation.
    pub(super) number: u64,
    length: u32,
    /// The device has been asked to give the buffer back.
    recalled: bool,
}

/// An operation under way. The device learns only its number.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) conn: u64,
    /// The caller's cookie.
    pub(super) cookie: u64,
    pub(super) work: Work,
}

/// What an operation does, and the memory that it uses.
#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    Send {
        message: Buffer,
        length: u32,
    },
    Rdma {
        data: Buffer,
        descriptors: Buffer,
    },
    Transfer {
        message: Option<Buffer>,
        wants_token: bool,
    },
    FetchAhead {
        data: Buffer,
        length: u32,
    },
}

/// A message that the caller has not taken yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pdu {
    pub(super) queue: usize,
    pub(super) buffer: u64,
    pub(super) length: u32,
}

/// An empty entry.
const NOTHING: Submission = Submission {
    op: 0,
    flags: 0,
    conn: 0,
    cookie: 0,
    place: 0,
    length: 0,
    token: 0,
    descriptors: 0,
    descriptor_count: 0,
    reserved: [0; 3],
};

impl<D: Doorbell> Worker<D> {
    pub(super) fn new(params: Attached) -> Result<Self, Status> {
        let memory = params.memory;
        shape(memory.receive)
            .segment_length()
            .filter(|_| params.submissions_outstanding > 0)
            .ok_or(Status::Corrupt)?;
        Ok(Self {
            params,
            send: Region::new(region::SEND, memory.send)?,
            bulk: Region::new(region::BULK, memory.bulk)?,
            queues: Vec::new(),
            turn: 0,
            conns: BTreeMap::new(),
            ending: None,
            operations: Slots::new(),
            pdus: Slots::new(),
            mapped: 0,
            releases: VecDeque::new(),
            room: false,
        })
    }

    /// Returns whether something waits for room in a ring, which the device reports only to a side that sleeps.
    pub(super) fn waits_for_ring(&self) -> bool {
        self.queues.iter().any(Queue::waits_for_ring)
    }

    /// Adds a queue that the device shares.
    pub(super) fn add_queue(
        &mut self,
        queue: &abi::Queue,
        memory: &Memory,
        doorbell: D,
    ) -> Result<(), Status> {
        let is_known = self.queues.iter().any(|known| known.number == queue.queue);
        if is_known || self.queues.len() >= MAX_QUEUES {
            return Err(Status::Corrupt);
        }
        let outstanding = self.params.submissions_outstanding;
        let shape = shape(self.params.memory.receive);
        let queue = Queue::new(queue, memory, doorbell, outstanding, shape)?;
        self.queues.push(queue);
        Ok(())
    }

    /// Adds a segment that the device shares; `asked` is the region for which the device was asked for a segment, if
    /// any.
    pub(super) fn add_segment(
        &mut self,
        segment: &Segment,
        asked: Option<u32>,
        memory: Memory,
    ) -> Result<(), Status> {
        let mapped = self.mapped.checked_add(memory.len() as u64);
        self.mapped = mapped
            .filter(|mapped| *mapped <= self.params.memory.limit)
            .ok_or(Status::Corrupt)?;
        match asked {
            Some(number) => {
                self.room |= self.region(number)?.add(segment, memory)?;
                Ok(())
            }
            None if segment.region == region::RECEIVE => self
                .queues
                .iter_mut()
                .find(|queue| queue.number == segment.queue)
                .ok_or(Status::Corrupt)?
                .add(segment, memory),
            None => Err(Status::Corrupt),
        }
    }

    /// Handles the device's request to get a segment back, which is done as soon as nothing uses the segment.
    pub(super) fn reclaim(&mut self, reclaim: &Reclaim) -> Result<(), Status> {
        if reclaim.region == region::RECEIVE {
            let mut queues = self.queues.iter_mut();
            let queue = queues.find(|queue| queue.number == reclaim.queue);
            let memory = queue.ok_or(Status::Corrupt)?.remove(reclaim.number)?;
            let release = Release {
                region: reclaim.region,
                queue: reclaim.queue,
                number: reclaim.number,
                reserved: 0,
            };
            self.unmap(release, memory);
            return Ok(());
        }
        if reclaim.queue != 0 {
            return Err(Status::Corrupt);
        }
        self.region(reclaim.region)?.reclaim(reclaim.number)?;
        self.release_unused();
        if reclaim.region == region::BULK {
            // A lent buffer may be in that segment.
            self.recall_all()?;
        }
        Ok(())
    }

    /// Unmaps the segments that the device wants back and nothing uses.
    fn release_unused(&mut self) {
        while let Some((release, memory)) = self.send.take_unused() {
            self.room |= self.send.has_changed();
            self.unmap(release, memory);
        }
        while let Some((release, memory)) = self.bulk.take_unused() {
            self.room |= self.bulk.has_changed();
            self.unmap(release, memory);
        }
    }

    fn unmap(&mut self, release: Release, memory: Memory) {
        self.mapped = self.mapped.saturating_sub(memory.len() as u64);
        drop(memory);
        self.releases.push_back(release);
    }

    pub(super) fn region(&mut self, number: u32) -> Result<&mut Region, Status> {
        match number {
            region::SEND => Ok(&mut self.send),
            region::BULK => Ok(&mut self.bulk),
            _ => Err(Status::Corrupt),
        }
    }

    /// Returns a region for which the device should be asked for a segment.
    pub(super) fn growing(&mut self) -> Option<(u32, &mut Region)> {
        if self.send.growth == Growth::Wanted {
            Some((region::SEND, &mut self.send))
        } else if self.bulk.growth == Growth::Wanted {
            Some((region::BULK, &mut self.bulk))
        } else {
            None
        }
    }

    pub(super) fn allocate(&mut self, length: usize) -> Result<BulkBuffer, Status> {
        let buffer = match self.bulk.allocate(length) {
            Err(Status::Again) => {
                // A lent buffer may hold the memory that is missing.
                self.recall_all()?;
                return Err(Status::Again);
            }
            allocated => allocated?,
        };
        self.buffer(buffer.to_bits())
    }

    pub(super) fn buffer(&self, number: u64) -> Result<BulkBuffer, Status> {
        let memory = self.bulk.memory(Buffer::from_bits(number))?;
        let start = memory.pointer(0, memory.len());
        Ok(BulkBuffer {
            number,
            start: start.map_err(|_| Status::NoBuffer)?,
            length: memory.len(),
        })
    }

    pub(super) fn free(&mut self, buffer: u64) -> Result<(), Status> {
        self.room |= self.bulk.free(Buffer::from_bits(buffer))?;
        self.freed();
        Ok(())
    }

    /// Frees SEND memory that no operation uses any longer.
    pub(super) fn free_send(&mut self, buffer: Buffer) -> Result<(), Status> {
        self.room |= self.send.free(buffer).map_err(|_| Status::Corrupt)?;
        self.freed();
        Ok(())
    }

    /// Takes note that something was freed: the device may have memory again, or may want the segment back.
    fn freed(&mut self) {
        self.bulk.forget_refusal();
        self.send.forget_refusal();
        self.release_unused();
    }

    /// Finds a connection on which something may be submitted.
    fn open(&self, conn: u64) -> Result<&Conn, Status> {
        match self.conns.get(&conn) {
            Some(conn) if conn.transferring => Err(Status::Busy),
            Some(conn) if !conn.closing && conn.ended.is_none() => Ok(conn),
            _ => Err(Status::NoConnection),
        }
    }

    fn has_room(&mut self, queue: usize) -> Result<(), Status> {
        let queue = self.queues.get_mut(queue).ok_or(Status::Corrupt)?;
        if queue.has_room()? {
            Ok(())
        } else {
            Err(Status::Again)
        }
    }

    pub(super) fn send_pdu(
        &mut self,
        conn: u64,
        cookie: u64,
        pieces: &[impl Deref<Target = [u8]>],
        invalidate: Option<u32>,
    ) -> Result<(), Status> {
        let open = self.open(conn)?;
        let (queue, longest) = (open.queue, open.info.max_fragmented_send_size);
        let mut pieces = pieces.iter().map(|piece| &**piece);
        let length = pieces
            .clone()
            .try_fold(0_usize, |sum, piece| sum.checked_add(piece.len()))
            .ok_or(Status::TooLong)?;
        let wire_length = u32::try_from(length).map_err(|_| Status::TooLong)?;
        if length == 0 {
            return Err(Status::Invalid);
        }
        if wire_length > longest {
            return Err(Status::TooLong);
        }
        self.has_room(queue)?;
        let message = self.send.fill(length, &mut pieces)?;
        let submission = Submission {
            op: op::SEND_PDU,
            flags: invalidate.map_or(0, |_| flags::INVALIDATE),
            place: self.send.place(message, 0, length)?,
            length: wire_length,
            token: invalidate.unwrap_or(0),
            ..NOTHING
        };
        let work = Work::Send {
            message,
            length: wire_length,
        };
        self.submit(conn, cookie, work, submission, Notify::Now)
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn rdma(
        &mut self,
        notify: Notify,
        direction: Direction,
        conn: u64,
        cookie: u64,
        buffer: u64,
        offset: usize,
        length: usize,
        descriptors: &[u8],
    ) -> Result<(), Status> {
        let open = self.open(conn)?;
        let (queue, info) = (open.queue, open.info);
        if direction == Direction::Read && info.initiator_depth == 0 {
            return Err(Status::NoReads);
        }
        let longest = info
            .max_read_write_size
            .min(self.params.max_read_write_size);
        let wire_length = u32::try_from(length).map_err(|_| Status::TooLong)?;
        if wire_length == 0 {
            return Err(Status::Invalid);
        }
        if wire_length > longest {
            return Err(Status::TooLong);
        }
        let data = Buffer::from_bits(buffer);
        let place = self.bulk.place(data, offset, length)?;
        let (list, count) = used_descriptors(descriptors, wire_length)?;
        self.has_room(queue)?;
        let descriptors = self.send.fill(list.len(), std::iter::once(list))?;
        let submission = Submission {
            op: match direction {
                Direction::Read => op::RDMA_READ,
                Direction::Write => op::RDMA_WRITE,
            },
            place,
            length: wire_length,
            descriptors: self.send.place(descriptors, 0, list.len())?,
            descriptor_count: count,
            ..NOTHING
        };
        self.bulk.hold(data);
        let work = Work::Rdma { data, descriptors };
        self.submit(conn, cookie, work, submission, notify)
    }

    pub(super) fn fetch_ahead(&mut self, conn: u64, buffer: u64) -> Result<(), Status> {
        let open = self.open(conn)?;
        let (queue, info) = (open.queue, open.info);
        let (lent, is_filled) = (open.lent, open.fetched.is_some());
        if self.params.features & feature::FETCH_AHEAD == 0 || info.initiator_depth == 0 {
            return Err(Status::NoReads);
        }
        let data = Buffer::from_bits(buffer);
        // The buffer is not longer than a segment.
        let length = self.bulk.memory(data)?.len() as u32;
        let is_long_enough = lent.is_some_and(|lent| lent.length >= length || lent.recalled);
        let is_wanted_back = self.bulk.is_wanted_back(data);
        if is_filled || is_long_enough || is_wanted_back || self.bulk.is_held(data) {
            return Err(Status::Busy);
        }
        let place = self.bulk.place(data, 0, length as usize)?;
        self.has_room(queue)?;
        if let Some(conn) = self.conns.get_mut(&conn).filter(|conn| conn.lent.is_some()) {
            recall(&mut self.queues, conn.info.conn, conn)?;
        }
        let submission = Submission {
            op: op::FETCH_AHEAD,
            place,
            length,
            ..NOTHING
        };
        self.bulk.hold(data);
        let work = Work::FetchAhead { data, length };
        self.submit(conn, 0, work, submission, Notify::Later)
    }

    /// Asks for all lent buffers back, because their data may never come.
    fn recall_all(&mut self) -> Result<(), Status> {
        for (number, conn) in &mut self.conns {
            recall(&mut self.queues, *number, conn)?;
        }
        Ok(())
    }

    pub(super) fn transfer(
        &mut self,
        conn: u64,
        cookie: u64,
        client_guid: Option<Token>,
        pdu: &[u8],
    ) -> Result<(), Status> {
        let open = self.open(conn)?;
        let (queue, is_busy) = (open.queue, open.operations > 0);
        if client_guid == Some([0; 16]) {
            return Err(Status::Invalid);
        }
        if is_busy {
            return Err(Status::Busy);
        }
        let length = u32::try_from(pdu.len()).map_err(|_| Status::TooLong)?;
        self.has_room(queue)?;
        let message = if pdu.is_empty() {
            None
        } else {
            Some(self.send.fill(pdu.len(), std::iter::once(pdu))?)
        };
        let place = message.map(|message| self.send.place(message, 0, pdu.len()));
        let submission = TransferSubmission {
            op: op::TRANSFER,
            flags: 0,
            conn,
            cookie: 0,
            place: place.transpose()?.unwrap_or(0),
            length,
            reserved: 0,
            client_guid: client_guid.unwrap_or_default(),
            reserved2: 0,
        };
        let work = Work::Transfer {
            message,
            wants_token: client_guid.is_none(),
        };
        self.submit(conn, cookie, work, transmute!(submission), Notify::Now)
    }

    /// Submits an operation for which there is room. The connection and the cookie are in the same place in all
    /// submissions.
    fn submit(
        &mut self,
        conn: u64,
        cookie: u64,
        work: Work,
        submission: Submission,
        notify: Notify,
    ) -> Result<(), Status> {
        let open = self.conns.get_mut(&conn).ok_or(Status::NoConnection)?;
        let queue = self.queues.get_mut(open.queue).ok_or(Status::Corrupt)?;
        let number = self.operations.insert(Operation { conn, cookie, work });
        let submission = Submission {
            conn,
            cookie: number,
            ..submission
        };
        let submitted = queue.submit(transmute!(submission), notify);
        if submitted.is_err() {
            // The caller learns of the failure now, so the end of the attachment must not report it.
            self.operations.remove(number);
            return submitted;
        }
        open.operations += 1;
        match work {
            Work::Send { length, .. } => open.counts.unsent_bytes += u64::from(length),
            Work::Rdma { .. } => open.counts.rdma_operations += 1,
            Work::Transfer { .. } => open.transferring = true,
            Work::FetchAhead { length, .. } => {
                open.lent = Some(Lent {
                    number,
                    length,
                    recalled: false,
                });
            }
        }
        Ok(())
    }

    /// Wakes the device for deferred operations.
    pub(super) fn flush(&mut self) -> Result<(), Status> {
        self.queues.iter_mut().try_for_each(Queue::notify)
    }

    /// Ends a connection gracefully. A connection that is being transferred ends only if the transfer fails.
    pub(super) fn disconnect(&mut self, conn: u64) -> Result<(), Status> {
        let open = self.conns.get_mut(&conn).ok_or(Status::NoConnection)?;
        let is_first = !std::mem::replace(&mut open.closing, true);
        if is_first && !open.transferring && open.ended.is_none() {
            let queue = open.queue;
            self.post_disconnect(conn, queue)?;
        }
        Ok(())
    }

    pub(super) fn post_disconnect(&mut self, conn: u64, queue: usize) -> Result<(), Status> {
        self.post(op::DISCONNECT, conn, queue)
    }

    /// Tells the device, once, that a connection has a session.
    pub(super) fn set_authenticated(&mut self, conn: u64) -> Result<(), Status> {
        let open = self.conns.get_mut(&conn).ok_or(Status::NoConnection)?;
        let is_first = !std::mem::replace(&mut open.authenticated, true);
        if is_first && !open.closing && open.ended.is_none() {
            let queue = open.queue;
            self.post(op::AUTHENTICATED, conn, queue)?;
        }
        Ok(())
    }

    /// Submits an entry that concerns a connection as a whole and has no answer.
    fn post(&mut self, op: u32, conn: u64, queue: usize) -> Result<(), Status> {
        let queue = self.queues.get_mut(queue).ok_or(Status::Corrupt)?;
        queue.post(Submission {
            op,
            conn,
            ..NOTHING
        })
    }

    pub(super) fn take_pdu(&mut self, pdu: u64, target: &mut [u8]) -> Result<(), Status> {
        let found = *self.pdus.get(pdu).ok_or(Status::NoBuffer)?;
        let queue = self.queues.get_mut(found.queue).ok_or(Status::Corrupt)?;
        if !target.is_empty() {
            let target = target.get_mut(..found.length as usize);
            queue.read(found.buffer, target.ok_or(Status::Invalid)?)?;
        }
        self.pdus.remove(pdu);
        queue.recycle(found.buffer)
    }

    pub(super) fn conn(&self, conn: u64) -> Result<&Conn, Status> {
        self.conns.get(&conn).ok_or(Status::NoConnection)
    }
}

/// Asks the device to return the buffer that is lent to it for a connection.
fn recall<D: Doorbell>(
    queues: &mut [Queue<D>],
    number: u64,
    conn: &mut Conn,
) -> Result<(), Status> {
    let Some(lent) = conn.lent.as_mut().filter(|lent| !lent.recalled) else {
        return Ok(());
    };
    lent.recalled = true;
    let queue = queues.get_mut(conn.queue).ok_or(Status::Corrupt)?;
    queue.post(Submission {
        op: op::RECALL,
        conn: number,
        ..NOTHING
    })
}

/// Returns the descriptors that a transfer of `length` bytes needs, as bytes, and their number.
fn used_descriptors(bytes: &[u8], length: u32) -> Result<(&[u8], u32), Status> {
    let list = BufferDescriptors::parse(bytes).map_err(|_| Status::Descriptors)?;
    if list.len() > MAX_DESCRIPTORS {
        return Err(Status::Descriptors);
    }
    let pieces = list.pieces(length);
    let count = pieces.map_err(|_| Status::DescriptorsTooShort)?.count();
    let used = bytes.get(..count * (bytes.len() / list.len()));
    Ok((used.ok_or(Status::Descriptors)?, count as u32))
}
