// SPDX-License-Identifier: GPL-2.0-or-later

//! Memory for received messages: heap while a connection has no owner, and then the owner's RECEIVE region.
//!
//! ```text
//!   first message     heap, one at a time and of bounded length; the connection is `Held`
//!   Held              nothing: the client runs out of credits
//!   Queue             a buffer of that queue's arena, which grows within the limits; else nothing
//! ```
//!
//! Connections that do not trust each other share an arena, because any client may send the GUID of the worker's
//! client. So no single connection holds more than a quarter of the arena, and neither do all strangers together. A
//! message that is not complete is assembled in heap of its own unless there is plenty of room, and is copied to the
//! arena when it is complete, so messages that never complete take nothing from others. Some units are also left to
//! messages of one unit, such as the first messages of every connection.
//!
//! An arena keeps its messages while its worker does not take them, for example because the worker waits for a client
//! that takes no responses. So beyond a small length, an arena grows only while its worker has no more memory than the
//! worker leaves to others. After that, the arena gets just one more segment, for messages that are too long for all
//! its other segments.
//!
//! An arena begins small and doubles. Segments that were not used for a while are taken back, except for the shortest
//! one: no more messages are put into them, and the worker is asked to unmap them and says when it has done so.

#[cfg(feature = "broker")]
mod kept;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use slotmap::{SecondaryMap, new_key_type};

use super::memory::{Account, Charge, Segment, most_units, next_length, shape_of};
use super::peer::{Untold, Worker};
use crate::device::Status;
use crate::device::abi::{self, RegionShape, kind, region};
use crate::fabric::ConnId;
use crate::shm::buffers::{AllocateError, BadShape, BufferError};
use crate::shm::{Buffer as Number, Buffers};
use crate::sys::Memory;
use crate::transport::{ConnTable, MessageBuffers};

#[cfg(feature = "broker")]
pub(crate) use self::kept::{KeptArena, KeptBuffer};

/// Length of the longest message of a connection without an owner, or without a session, in bytes.
pub const MAX_HELD_LENGTH: u32 = 64 * 1024;

/// Number of bytes that an arena may have no matter how much memory its worker has.
const SMALL_LENGTH: u64 = 2 << 20;

/// One in this many units is left to messages of one unit.
const LEFT_TO_SMALL: u32 = 16;

new_key_type! {
    /// A queue of a shard.
    pub struct QueueId;
}

/// A received message.
#[derive(Debug)]
pub enum Buffer {
    /// The message is in heap.
    Heap {
        /// The message.
        bytes: Vec<u8>,
        /// The charges for the bytes, kept for as long as the bytes.
        charges: Option<[Charge; 3]>,
    },
    /// The message is in the arena of a queue. The bytes stay mapped even if the arena goes.
    Shared {
        /// The queue.
        queue: QueueId,
        /// The buffer's number.
        number: Number,
        /// The buffer.
        memory: Memory,
    },
}

impl Buffer {
    fn heap(length: u32, charges: Option<[Charge; 3]>) -> Self {
        Self::Heap {
            // The system provides only the pages that the peer fills.
            bytes: Vec::with_capacity(length as usize),
            charges,
        }
    }
}

/// The pool's record of a connection.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// The queue that gets the connection's messages; `None` while messages are held, so that no further message gets a
    /// buffer.
    queue: Option<QueueId>,
    /// The connection has a session.
    authenticated: bool,
}

/// A fault in a call that could not return an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A message is too long for any buffer.
    TooLong(ConnId),
    /// A message about memory could not be sent to a worker.
    Untold(QueueId, Untold),
}

/// Why an arena did not get another segment.
#[derive(Debug)]
enum NotGrown {
    Status(Status),
    Untold(Untold),
}

impl From<Status> for NotGrown {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<Untold> for NotGrown {
    fn from(untold: Untold) -> Self {
        Self::Untold(untold)
    }
}

/// The RECEIVE region of a queue.
#[derive(Debug)]
struct Arena<W> {
    worker: W,
    number: u32,
    shape: RegionShape,
    /// Maximum number of units.
    most: u32,
    buffers: Buffers,
    /// The segments of `buffers` with their charges, by number.
    segments: Vec<Option<Held>>,
    /// Number of units that the messages of each connection take; connections without messages are absent.
    shares: BTreeMap<ConnId, u32>,
    /// Number of units that messages of strangers take.
    of_strangers: u32,
    /// Number of units of incomplete messages.
    begun: u32,
    /// The account for messages in heap.
    in_heap: Arc<Account>,
    /// A buffer was asked for, and there was none.
    wanting: bool,
    /// A segment could not be handed over to the worker, which will soon be gone: it gets no more segments.
    is_deaf: bool,
}

/// A segment of an arena.
#[derive(Debug)]
struct Held {
    segment: Segment,
    /// The message in each buffer, by the buffer's first unit.
    holders: Box<[Option<Hold>]>,
}

/// A message in a buffer, as far as shares depend on it.
#[derive(Clone, Copy, Debug)]
struct Hold {
    conn: ConnId,
    units: u32,
    is_stranger: bool,
    is_whole: bool,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Pool<W> {
    shape: RegionShape,
    total: Arc<Account>,
    /// Number of bytes of the total that are not for received messages.
    spare: u64,
    conns: ConnTable<Known>,
    arenas: SecondaryMap<QueueId, Arena<W>>,
    /// A buffer of some arena was asked for, and there was none.
    wanting: bool,
    /// The total of all workers was used up, not the share of one worker or connection.
    short: bool,
    /// An arena has got a segment in addition to its first.
    grown: bool,
    faults: Vec<Fault>,
}

impl<W: Worker> Pool<W> {
    /// Makes a pool without arenas. Arenas will have this shape. Their memory counts in `total`, and the pool leaves
    /// `spare` bytes of the total to others.
    #[must_use]
    pub fn new(shape: RegionShape, total: Arc<Account>, spare: u64) -> Self {
        Self {
            shape,
            total,
            spare,
            conns: ConnTable::default(),
            arenas: SecondaryMap::new(),
            wanting: false,
            short: false,
            grown: false,
            faults: Vec::new(),
        }
    }

    /// Makes the arena of a queue, without any memory yet.
    pub fn add(&mut self, queue: QueueId, number: u32, worker: &W) -> Result<(), BadShape> {
        let arena = Arena {
            worker: worker.clone(),
            number,
            shape: self.shape,
            most: most_units(&self.shape),
            buffers: Buffers::new(shape_of(&self.shape))?,
            segments: Vec::new(),
            shares: BTreeMap::new(),
            of_strangers: 0,
            begun: 0,
            in_heap: Account::new(u64::MAX),
            wanting: false,
            is_deaf: false,
        };
        self.arenas.insert(queue, arena);
        Ok(())
    }

    /// Returns the account of a queue's messages in heap.
    pub fn in_heap(&self, queue: QueueId) -> Option<Arc<Account>> {
        let arena = self.arenas.get(queue)?;
        Some(Arc::clone(&arena.in_heap))
    }

    /// Forgets a queue that has gone.
    pub fn remove(&mut self, queue: QueueId) {
        self.arenas.remove(queue);
    }

    /// Puts the messages of a connection into a queue's arena from now on.
    pub fn set_queue(&mut self, conn: ConnId, queue: QueueId) {
        if let Some(known) = self.conns.get_or_default(conn) {
            known.queue = Some(queue);
        }
    }

    /// Stops putting the messages of a connection into an arena.
    pub fn hold(&mut self, conn: ConnId) {
        if let Some(known) = self.conns.get_or_default(conn) {
            known.queue = None;
        }
    }

    /// Notes that a connection has a session now.
    pub fn authenticated(&mut self, conn: ConnId) {
        if let Some(known) = self.conns.get_or_default(conn) {
            known.authenticated = true;
        }
    }

    /// Forgets a connection that has ended.
    pub fn forget(&mut self, conn: ConnId) {
        self.conns.remove(conn);
    }

    /// Puts `bytes`, a message of `holder` or of the device itself, into a buffer of a queue. Returns the buffer's
    /// number, or `None` if no buffer is free.
    pub fn put(&mut self, queue: QueueId, bytes: &[u8], holder: Option<ConnId>) -> Option<u64> {
        let number = self.allocate_shared(queue, holder, (bytes.len(), true))?;
        let arena = self.arenas.get_mut(queue)?;
        // This never fails, because the buffer was allocated for this length.
        let written = arena
            .buffers
            .memory(number)
            .is_ok_and(|memory| memory.write(0, bytes).is_ok());
        if !written {
            let _ = arena.free(number);
            return None;
        }
        Some(number.to_bits())
    }

    /// Notes that the message in a buffer is complete.
    #[inline]
    pub fn complete(&mut self, queue: QueueId, number: Number) {
        if let Some(arena) = self.arenas.get_mut(queue) {
            arena.complete(number);
        }
    }

    /// Takes a buffer back from a worker. Returns the connection whose message was in it.
    #[inline]
    pub fn recycle(&mut self, queue: QueueId, bits: u64) -> Result<Option<ConnId>, BufferError> {
        let number = Number::from_bits(bits);
        let arena = self.arenas.get_mut(queue).ok_or(BufferError::Foreign)?;
        arena.free(number)
    }

    /// Asks the workers for segments that are empty and were not used since the last call. Returns whether
    /// other segments might be taken back later.
    pub fn reclaim(&mut self) -> bool {
        let mut more = false;
        for arena in self.arenas.values_mut() {
            more |= arena.reclaim();
        }
        more
    }

    /// Removes a segment of a queue's region that the worker has unmapped. Returns `false` if the worker had not been
    /// asked to do so.
    pub fn released(&mut self, queue: QueueId, number: u32) -> bool {
        let arena = self.arenas.get_mut(queue);
        arena.is_some_and(|arena| arena.released(number))
    }

    /// Returns whether a request for a buffer of the queue has failed since [`take_wanting`](Self::take_wanting).
    #[inline]
    pub fn is_wanting(&self, queue: QueueId) -> bool {
        self.arenas.get(queue).is_some_and(|arena| arena.wanting)
    }

    /// Returns whether a request for a buffer of the queue has failed since the last call.
    #[inline]
    pub fn take_wanting(&mut self, queue: QueueId) -> bool {
        let arena = self.arenas.get_mut(queue);
        arena.is_some_and(|arena| core::mem::take(&mut arena.wanting))
    }

    /// Returns whether a request for a buffer of any queue has failed since the last call.
    #[inline]
    pub fn take_any_wanting(&mut self) -> bool {
        core::mem::take(&mut self.wanting)
    }

    /// Returns whether the total of all workers has run out since the last call. Other workers may have memory to give
    /// back.
    #[inline]
    pub fn take_short(&mut self) -> bool {
        core::mem::take(&mut self.short)
    }

    /// Returns whether a segment that could later be taken back was added since the last call.
    #[inline]
    pub fn take_grown(&mut self) -> bool {
        core::mem::take(&mut self.grown)
    }

    /// Returns one of the faults since the last call, if any are left.
    pub fn take_fault(&mut self) -> Option<Fault> {
        self.faults.pop()
    }

    /// Returns the number of segments in a queue's region, and of units in use.
    pub fn usage(&self, queue: QueueId) -> (u32, u32) {
        let arena = self.arenas.get(queue).map(|arena| &arena.buffers);
        arena.map_or((0, 0), |buffers| (buffers.segments(), buffers.used_units()))
    }

    /// Returns whether an incomplete message of `length` bytes may have a buffer of the arena, which saves a copy
    /// later.
    fn may_assemble(&self, queue: QueueId, length: u32, conn: Known) -> bool {
        let arena = self.arenas.get(queue);
        conn.authenticated
            && arena
                .is_some_and(|arena| arena.begun + arena.units(length as usize) <= arena.quarter())
    }

    /// Makes a buffer in heap for an incomplete message. Messages of strangers are short and few, and are not charged.
    fn begin_in_heap(&mut self, queue: QueueId, length: u32, conn: Known) -> Option<Buffer> {
        let charges = match conn.authenticated {
            false => None,
            true => {
                let charges = self.charge_heap(queue, length.into());
                self.wanting |= charges.is_none();
                Some(charges?)
            }
        };
        Some(Buffer::heap(length, charges))
    }

    /// Charges a message in heap. A worker that has more memory than it leaves to others may have only one message in
    /// heap.
    fn charge_heap(&mut self, queue: QueueId, bytes: u64) -> Option<[Charge; 3]> {
        let arena = self.arenas.get(queue)?;
        let (worker, in_heap) = (arena.worker.account(), &arena.in_heap);
        if in_heap.used() > 0 && !worker.leaves_as_much(bytes, (&self.total, self.spare)) {
            return None;
        }
        let (worker, in_heap) = (worker.charge(bytes, 0)?, in_heap.charge(bytes, 0)?);
        let total = self.total.charge(bytes, self.spare);
        self.short |= total.is_none();
        Some([worker, in_heap, total?])
    }

    /// Allocates a buffer in an arena for a message of `conn`, which is complete if `is_whole`.
    fn allocate_shared(
        &mut self,
        queue: QueueId,
        conn: Option<ConnId>,
        (length, is_whole): (usize, bool),
    ) -> Option<Number> {
        let arena = self.arenas.get_mut(queue)?;
        let known = conn.and_then(|conn| self.conns.get(conn));
        let hold = conn.map(|conn| Hold {
            conn,
            units: arena.units(length),
            is_stranger: known.is_none_or(|known| !known.authenticated),
            is_whole,
        });
        if hold.is_none_or(|hold| arena.has_share(hold)) {
            let number = match arena.allocate(length) {
                Err(AllocateError::Full) => match arena.grow(length, (&self.total, self.spare)) {
                    Ok(()) => {
                        self.grown |= arena.buffers.segments() > 1;
                        arena.allocate(length).ok()
                    }
                    Err(NotGrown::Untold(untold)) => {
                        self.faults.push(Fault::Untold(queue, untold));
                        None
                    }
                    Err(NotGrown::Status(status)) => {
                        // Every other status stands for a limit of the worker itself.
                        self.short |= matches!(status, Status::Again | Status::System);
                        None
                    }
                },
                other => other.ok(),
            };
            if let Some(number) = number {
                arena.hold(number, hold);
                return Some(number);
            }
        }
        arena.wanting = true;
        self.wanting = true;
        None
    }
}

impl<W: Worker> Arena<W> {
    #[inline]
    fn held(&mut self, segment: u32) -> Option<&mut Held> {
        self.segments.get_mut(segment as usize)?.as_mut()
    }

    /// Returns the record of which message is in a buffer.
    #[inline]
    fn holder(&mut self, number: Number) -> Option<&mut Option<Hold>> {
        let held = self.held(number.segment().into())?;
        held.holders.get_mut(usize::from(number.unit()))
    }

    /// Returns how many units `length` bytes take.
    #[inline]
    fn units(&self, length: usize) -> u32 {
        self.buffers.units_of(length)
    }

    /// Returns a quarter of the units that the arena may have.
    #[inline]
    fn quarter(&self) -> u32 {
        self.most / 4
    }

    /// Returns whether a connection may have one more message in this arena and, if the connection is a stranger's,
    /// whether all strangers together may. The first message is always allowed.
    #[inline]
    fn has_share(&self, hold: Hold) -> bool {
        let fits = |used: u32| used == 0 || used.saturating_add(hold.units) <= self.quarter();
        let share = self.shares.get(&hold.conn).copied().unwrap_or(0);
        fits(share) && (!hold.is_stranger || fits(self.of_strangers))
    }

    /// Allocates a buffer. A buffer of several units is given only if units remain for messages of one unit, or if
    /// nothing is in use.
    #[inline]
    fn allocate(&mut self, length: usize) -> Result<Number, AllocateError> {
        let units = self.units(length);
        if units > 1 {
            let (used, there) = (self.buffers.used_units(), self.buffers.units());
            let left = there.saturating_sub(used).saturating_sub(units);
            if used > 0 && left < there / LEFT_TO_SMALL {
                return match self.buffers.free_number() {
                    Some(_) => Err(AllocateError::Full),
                    None => Err(AllocateError::Exhausted),
                };
            }
        }
        let number = self.buffers.allocate(length)?;
        if let Some(held) = self.held(number.segment().into()) {
            held.segment.touch();
        }
        Ok(number)
    }

    /// Records which message is in a buffer.
    #[inline]
    fn hold(&mut self, number: Number, hold: Option<Hold>) {
        if let Some(place) = self.holder(number) {
            *place = hold;
        }
        if let Some(hold) = hold {
            *self.shares.entry(hold.conn).or_default() += hold.units;
            self.of_strangers += if hold.is_stranger { hold.units } else { 0 };
            self.begun += if hold.is_whole { 0 } else { hold.units };
        }
    }

    /// Notes that the message in a buffer is complete.
    #[inline]
    fn complete(&mut self, number: Number) {
        let Some(Some(hold)) = self.holder(number) else {
            return;
        };
        let (units, was_whole) = (hold.units, core::mem::replace(&mut hold.is_whole, true));
        if !was_whole {
            self.begun = self.begun.saturating_sub(units);
        }
    }

    /// Takes a buffer back. Returns the connection whose message was in it.
    #[inline]
    fn free(&mut self, number: Number) -> Result<Option<ConnId>, BufferError> {
        self.buffers.free(number)?;
        self.complete(number);
        let Some(hold) = self.holder(number).and_then(Option::take) else {
            return Ok(None);
        };
        if hold.is_stranger {
            self.of_strangers = self.of_strangers.saturating_sub(hold.units);
        }
        match self.shares.get_mut(&hold.conn) {
            Some(share) if *share > hold.units => *share -= hold.units,
            _ => {
                self.shares.remove(&hold.conn);
            }
        }
        Ok(Some(hold.conn))
    }

    /// Adds a segment with room for `length` bytes. The worker gets the segment before it can learn of a buffer in it.
    fn grow(&mut self, length: usize, total: (&Arc<Account>, u64)) -> Result<(), NotGrown> {
        let number = self.buffers.free_number().ok_or(Status::Limit)?;
        if self.is_deaf {
            return Err(Status::Limit.into());
        }
        let (segment, pages) = self.create(length, total)?;
        let length = segment.memory.len();
        let message = abi::Segment {
            region: region::RECEIVE,
            queue: self.number,
            number,
            reserved: 0,
            length: length as u64,
        };
        let told = self.worker.hand_over(&message, &pages);
        self.is_deaf = told.is_err();
        told?;
        let units = self.buffers.shape().units_of(length);
        let added = self.buffers.add(number, segment.memory.clone());
        added.map_err(|_| Status::Limit)?;
        let index = number as usize;
        if self.segments.len() <= index {
            self.segments.resize_with(index + 1, || None);
        }
        if let Some(place) = self.segments.get_mut(index) {
            let holders = vec![None; units.unwrap_or(0) as usize].into_boxed_slice();
            *place = Some(Held { segment, holders });
        }
        Ok(())
    }

    /// Returns whether a message of `length` bytes would fit if the arena were empty.
    fn could_hold(&self, length: usize) -> bool {
        let mut held = self.segments.iter().flatten();
        held.any(|held| !held.segment.is_reclaimed() && held.segment.memory.len() >= length)
    }

    /// Makes a segment of the length that the region should have next or, if there is not enough memory, of the length
    /// that it must have. If the worker has more memory than it leaves to others, makes a segment only for a message
    /// that is longer than all segments. That segment has room for the longest message.
    fn create(
        &self,
        length: usize,
        total: (&Arc<Account>, u64),
    ) -> Result<(Segment, W::Pages), Status> {
        let shape = self.buffers.shape();
        let wanted = self.buffers.units_of(length);
        let all = u64::from(self.buffers.units()) * shape.unit_length as u64;
        let mut lengths = next_length(&self.shape, (self.buffers.segments(), all), wanted);
        let (next, account) = (lengths[0] as u64, self.worker.account());
        if all + next > SMALL_LENGTH && !account.leaves_as_much(next, (total.0, total.1)) {
            if self.could_hold(length) {
                return Err(Status::NoMemory);
            }
            // This includes the units that are left to messages of one unit.
            let units = shape.longest_run + shape.longest_run / (LEFT_TO_SMALL / 2);
            let units = units.min(shape.units_per_segment);
            lengths = [units as usize * shape.unit_length; 2];
        }
        let pages = |length| self.worker.make_pages(length);
        let create = |length| Segment::create(length, account, total, pages);
        let [should, must] = lengths;
        create(should).or_else(|_| create(must))
    }

    /// See [`Pool::reclaim`].
    fn reclaim(&mut self) -> bool {
        let mut open: Vec<u32> = self.buffers.numbers().collect();
        open.retain(|number| {
            self.held(*number)
                .is_some_and(|held| !held.segment.is_reclaimed())
        });
        let length = |number: &u32| self.buffers.segment(*number).map_or(0, Memory::len);
        let Some(kept) = open.iter().copied().min_by_key(length) else {
            return false;
        };
        let mut more = false;
        for number in open.into_iter().filter(|number| *number != kept) {
            let is_unused = self.buffers.is_unused(number);
            let was_touched = self
                .held(number)
                .is_none_or(|held| held.segment.take_touched());
            if was_touched || !is_unused || !self.ask_for(number) {
                more = true;
            }
        }
        more
    }

    /// Asks the worker for an unused segment; returns whether it could be asked.
    fn ask_for(&mut self, number: u32) -> bool {
        let message = abi::Reclaim {
            region: region::RECEIVE,
            queue: self.number,
            number,
            reserved: 0,
        };
        if self.worker.tell(kind::RECLAIM, 0, &message).is_err() {
            return false;
        }
        self.buffers.retire(number);
        if let Some(held) = self.held(number) {
            held.segment.set_reclaimed();
        }
        true
    }

    /// See [`Pool::released`].
    fn released(&mut self, number: u32) -> bool {
        let was_asked = self
            .held(number)
            .is_some_and(|held| held.segment.is_reclaimed());
        if !was_asked || self.buffers.remove(number).is_none() {
            return false;
        }
        if let Some(place) = self.segments.get_mut(number as usize) {
            *place = None;
        }
        true
    }
}

impl<W: Worker> Pool<W> {
    /// Returns a buffer for a message of `length` bytes, which is complete if `is_whole`.
    fn buffer(&mut self, conn: ConnId, length: u32, is_whole: bool) -> Option<Buffer> {
        let Some(known) = self.conns.get(conn).copied() else {
            // This is the connection's first message.
            self.hold(conn);
            if length <= MAX_HELD_LENGTH {
                return Some(Buffer::heap(length, None));
            }
            self.faults.push(Fault::TooLong(conn));
            return None;
        };
        let queue = known.queue?;
        let longest = match known.authenticated {
            true => self
                .shape
                .unit_length
                .saturating_mul(self.shape.longest_run),
            false => MAX_HELD_LENGTH,
        };
        if length > longest {
            self.faults.push(Fault::TooLong(conn));
            return None;
        }
        if !is_whole && !self.may_assemble(queue, length, known) {
            return self.begin_in_heap(queue, length, known);
        }
        let number = self.allocate_shared(queue, Some(conn), (length as usize, is_whole))?;
        let memory = self.arenas.get(queue)?.buffers.memory(number).ok()?;
        Some(Buffer::Shared {
            queue,
            number,
            memory,
        })
    }
}

impl<W: Worker> MessageBuffers for Pool<W> {
    type Buffer = Buffer;

    #[inline]
    fn allocate(&mut self, conn: ConnId, length: u32) -> Option<Buffer> {
        self.buffer(conn, length, true)
    }

    #[inline]
    fn begin(&mut self, conn: ConnId, length: u32) -> Option<Buffer> {
        self.buffer(conn, length, false)
    }

    #[inline]
    fn fill(
        &mut self,
        buffer: &mut Buffer,
        offset: u32,
        source: &Memory,
        source_offset: usize,
        length: usize,
    ) {
        // The transport only copies bytes of one of its slots, up to the length that was allocated.
        let copied = match buffer {
            Buffer::Heap { bytes, .. } => source.append_to(source_offset, length, bytes),
            Buffer::Shared { memory, .. } => {
                source.copy_to(source_offset, memory, offset as usize, length)
            }
        };
        debug_assert!(copied.is_ok(), "a fragment lies in its slot and its buffer");
    }

    #[inline]
    fn release(&mut self, buffer: Buffer) {
        if let Buffer::Shared { queue, number, .. } = buffer {
            if let Some(arena) = self.arenas.get_mut(queue) {
                // The worker never had the buffer, so the buffer is still in use here.
                let _ = arena.free(number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::peer::fake::Told;
    use slotmap::SlotMap;

    const UNIT: u32 = 4096;
    const SHAPE: RegionShape = RegionShape {
        unit_length: UNIT,
        units_per_segment: 32,
        longest_run: 16,
        max_segments: 2,
    };

    struct Scene {
        pool: Pool<Told>,
        queue: QueueId,
        conns: SlotMap<ConnId, ()>,
        total: Arc<Account>,
        queues: SlotMap<QueueId, ()>,
    }

    impl Scene {
        fn new() -> Self {
            Self::with(SHAPE, 1 << 20)
        }

        /// Makes a scene with one worker, which alone may use the whole total.
        fn with(shape: RegionShape, limit: u64) -> Self {
            let total = Account::new(limit);
            let mut scene = Self {
                pool: Pool::new(shape, Arc::clone(&total), 0),
                queue: QueueId::default(),
                conns: SlotMap::with_key(),
                total,
                queues: SlotMap::with_key(),
            };
            scene.add_worker();
            scene
        }

        /// Adds a worker, which gets the connections that follow.
        fn add_worker(&mut self) {
            let worker = Told::new(self.total.limit());
            self.queue = self.queues.insert(());
            self.pool.add(self.queue, 0, &worker).unwrap();
        }

        fn conn(&mut self, authenticated: bool) -> ConnId {
            let conn = self.conns.insert(());
            self.pool.set_queue(conn, self.queue);
            if authenticated {
                self.pool.authenticated(conn);
            }
            conn
        }

        /// Allocates buffers for messages of `units` units until none is left; returns the number of buffers.
        fn fill(&mut self, conn: ConnId, units: u32) -> usize {
            let allocate = || self.pool.allocate(conn, units * UNIT);
            core::iter::from_fn(allocate).count()
        }

        fn used(&self) -> u32 {
            self.pool.usage(self.queue).1
        }
    }

    #[test]
    fn a_connection_may_have_a_quarter_and_always_one_message() {
        let mut scene = Scene::new();
        let [user, other] = [true; 2].map(|authenticated| scene.conn(authenticated));
        assert_eq!(scene.fill(user, 1), 16);
        assert_eq!(scene.fill(other, 5), 3);
        assert_eq!(scene.fill(other, 1), 1);
        let third = scene.conn(true);
        assert_eq!(scene.fill(third, 16), 1);
    }

    #[test]
    fn all_strangers_together_may_have_a_quarter() {
        let mut scene = Scene::new();
        let strangers: Vec<ConnId> = (0..8).map(|_| scene.conn(false)).collect();
        assert_eq!(scene.fill(strangers[0], 3), 5);
        assert_eq!(scene.fill(strangers[1], 1), 1);
        assert_eq!(scene.fill(strangers[2], 1), 0);
        let user = scene.conn(true);
        assert_eq!(scene.fill(user, 1), 16);
        // A client that logs in keeps what it has, and gets a share of its own.
        scene.pool.authenticated(strangers[2]);
        assert_eq!(scene.fill(strangers[2], 1), 16);
    }

    #[test]
    fn buffers_that_are_given_back_are_there_for_others() {
        let mut scene = Scene::new();
        let (stranger, user) = (scene.conn(false), scene.conn(true));
        let begun = scene.pool.begin(user, 8 * UNIT).unwrap();
        let held = scene.pool.allocate(stranger, 16 * UNIT).unwrap();
        let Buffer::Shared { number, .. } = held else {
            panic!("the buffer is not in the arena");
        };
        let holder = scene.pool.recycle(scene.queue, number.to_bits());
        assert_eq!(holder, Ok(Some(stranger)));
        scene.pool.release(begun);
        assert_eq!(scene.used(), 0);
        let arena = &scene.pool.arenas[scene.queue];
        assert_eq!((arena.of_strangers, arena.begun), (0, 0));
        assert!(arena.shares.is_empty());
    }

    #[test]
    fn some_units_are_left_to_messages_of_one_unit() {
        let mut scene = Scene::new();
        let users: Vec<ConnId> = (0..8).map(|_| scene.conn(true)).collect();
        let long: usize = users.iter().map(|user| scene.fill(*user, 5)).sum();
        assert_eq!(long, 12);
        let late = scene.conn(true);
        assert_eq!(scene.fill(late, 1), 4);
        assert!(scene.pool.put(scene.queue, &[0; 100], None).is_none());
    }

    #[test]
    fn incomplete_messages_take_little_of_the_arena() {
        let mut scene = Scene::new();
        let users: Vec<ConnId> = (0..8).map(|_| scene.conn(true)).collect();
        let begun: Vec<Buffer> = users
            .iter()
            .map(|user| scene.pool.begin(*user, 8 * UNIT).unwrap())
            .collect();
        assert_eq!(scene.used(), 16);
        // The other messages are in heap, and are charged as long as they exist.
        let segment = u64::from(SHAPE.units_per_segment * UNIT);
        assert_eq!(scene.total.used(), segment + 6 * 8 * u64::from(UNIT));
        for buffer in begun {
            scene.pool.release(buffer);
        }
        assert_eq!((scene.used(), scene.total.used()), (0, segment));
    }

    const LONG: RegionShape = RegionShape {
        unit_length: UNIT,
        units_per_segment: 1024,
        longest_run: 512,
        max_segments: 12,
    };

    #[test]
    fn a_worker_that_takes_no_messages_leaves_as_much_memory_as_it_has() {
        let mut scene = Scene::with(LONG, 16 << 20);
        let fill = |scene: &mut Scene| {
            let before = scene.total.used();
            for _ in 0..4 {
                let user = scene.conn(true);
                scene.fill(user, 1);
            }
            assert!(!scene.pool.take_short(), "the total has not run out");
            scene.total.used() - before
        };
        assert_eq!(fill(&mut scene), 8 << 20);
        scene.add_worker();
        assert_eq!(fill(&mut scene), 4 << 20);
        // The next worker gets a small arena, and beside it room for one message of any length.
        scene.add_worker();
        let user = scene.conn(true);
        assert!(scene.pool.allocate(user, UNIT).is_some());
        assert!(scene.pool.allocate(user, 512 * UNIT).is_some());
    }

    #[test]
    fn a_small_arena_gets_one_long_message_through_when_memory_is_short() {
        let mut scene = Scene::with(LONG, 16 << 20);
        let _others = scene.total.count(11 << 20);
        let users: Vec<ConnId> = (0..4).map(|_| scene.conn(true)).collect();
        let short: usize = users.iter().map(|user| scene.fill(*user, 1)).sum();
        assert_eq!(short as u64 * u64::from(UNIT), SMALL_LENGTH);
        let user = scene.conn(true);
        assert_eq!(
            scene.fill(user, 512),
            0,
            "some units are left to short messages"
        );
        let used = scene.total.used();
        assert_eq!(used, (11 << 20) + SMALL_LENGTH + 576 * u64::from(UNIT));
        assert_eq!(scene.fill(user, 300), 1);
        assert_eq!(scene.fill(users[0], 512), 0);
        assert_eq!(scene.total.used(), used, "no second long segment was made");
    }

    #[test]
    fn a_worker_with_more_memory_than_it_leaves_may_have_one_message_in_heap() {
        let mut scene = Scene::new();
        let users: Vec<ConnId> = (0..16).map(|_| scene.conn(true)).collect();
        // The arena has 128 KiB, and a message in heap 64 KiB.
        for (of_others, in_heap) in [(1 << 19, 2), (3 << 18, 1)] {
            let _others = scene.total.count(of_others);
            let begin = |user: &ConnId| scene.pool.begin(*user, 16 * UNIT);
            let begun: Vec<Buffer> = users.iter().map_while(begin).collect();
            let is_in_heap = |buffer: &&Buffer| matches!(buffer, Buffer::Heap { .. });
            assert_eq!(begun.iter().filter(is_in_heap).count(), in_heap);
            for buffer in begun {
                scene.pool.release(buffer);
            }
        }
    }

    #[test]
    fn a_strangers_message_is_not_long_and_begins_in_heap() {
        let mut scene = Scene::new();
        let stranger = scene.conn(false);
        assert!(matches!(
            scene.pool.begin(stranger, 16 * UNIT),
            Some(Buffer::Heap { .. })
        ));
        assert_eq!(scene.used(), 0);
        assert!(scene.pool.begin(stranger, MAX_HELD_LENGTH + 1).is_none());
        assert_eq!(scene.pool.take_fault(), Some(Fault::TooLong(stranger)));
    }
}
