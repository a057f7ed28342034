//! Where received messages are put: heap as long as a connection has no owner, then the owner's
//! RECEIVE region.
//!
//! ```text
//!   first message     heap, one at a time and of bounded length; the connection is `Held`
//!   Held              nothing: the client runs out of credits
//!   Queue             a buffer of that queue's arena, which grows within the limits; else nothing
//! ```

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::os::fd::AsFd;
use std::sync::Arc;

use slotmap::{SecondaryMap, new_key_type};

use super::memory::{Account, Segment, shape_of};
use super::process::Process;
use crate::device::Status;
use crate::device::abi::{self, RegionShape, kind, region};
use crate::fabric::ConnId;
use crate::shm::buffers::{AllocateError, BadShape, BufferError};
use crate::shm::{Buffer as Number, Buffers};
use crate::sys::Memory;
use crate::transport::{MessageBuffers, PlainHasher};

/// Bytes of a message that the broker holds for a connection without an owner.
pub(super) const MAX_HELD_LENGTH: u32 = 64 * 1024;

new_key_type! {
    /// A queue of a reactor.
    pub(super) struct QueueId;
}

/// A received message.
#[derive(Debug)]
pub(super) enum Buffer {
    Heap(Vec<u8>),
    /// In the arena of a queue. The bytes stay mapped whatever becomes of the arena.
    Shared {
        queue: QueueId,
        number: Number,
        memory: Memory,
    },
}

/// Who gets the messages of a connection that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// Nobody now: a message is held.
    Held,
    Queue(QueueId),
}

/// What went wrong in a call that could not say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// A message that no buffer can hold.
    TooLong(ConnId),
    /// A worker that does not read its control socket.
    Unread(QueueId),
}

/// The RECEIVE region of a queue.
#[derive(Debug)]
struct Arena {
    process: Arc<Process>,
    number: u32,
    buffers: Buffers,
    /// Keeps what `buffers` count.
    segments: Vec<Segment>,
    /// Whose message is in a buffer, by segment and unit.
    holders: Vec<Option<ConnId>>,
    /// A buffer was asked for, and there was none.
    wanting: bool,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Pool {
    shape: RegionShape,
    total: Arc<Account>,
    owners: HashMap<ConnId, Owner, BuildHasherDefault<PlainHasher>>,
    arenas: SecondaryMap<QueueId, Arena>,
    /// A buffer was asked for, and there was none, in any arena.
    wanting: bool,
    faults: Vec<Fault>,
}

impl Pool {
    pub(super) fn new(shape: RegionShape, total: Arc<Account>) -> Self {
        Self {
            shape,
            total,
            owners: HashMap::default(),
            arenas: SecondaryMap::new(),
            wanting: false,
            faults: Vec::new(),
        }
    }

    /// Makes the arena of a queue, without memory as yet.
    pub(super) fn add(
        &mut self,
        queue: QueueId,
        number: u32,
        process: &Arc<Process>,
    ) -> Result<(), BadShape> {
        let arena = Arena {
            process: Arc::clone(process),
            number,
            buffers: Buffers::new(shape_of(&self.shape))?,
            segments: Vec::new(),
            holders: Vec::new(),
            wanting: false,
        };
        self.arenas.insert(queue, arena);
        Ok(())
    }

    /// The queue is gone.
    pub(super) fn remove(&mut self, queue: QueueId) {
        self.arenas.remove(queue);
    }

    /// The messages of a connection go to a queue from now on.
    pub(super) fn set_queue(&mut self, conn: ConnId, queue: QueueId) {
        self.owners.insert(conn, Owner::Queue(queue));
    }

    /// The messages of a connection stay where they are from now on.
    pub(super) fn hold(&mut self, conn: ConnId) {
        self.owners.insert(conn, Owner::Held);
    }

    /// The connection is gone.
    pub(super) fn forget(&mut self, conn: ConnId) {
        self.owners.remove(&conn);
    }

    /// Puts `bytes` into a buffer of a queue; its number, or `None` where there is none now.
    /// `holder` is told of by [`recycle`](Self::recycle).
    pub(super) fn put(
        &mut self,
        queue: QueueId,
        bytes: &[u8],
        holder: Option<ConnId>,
    ) -> Option<u64> {
        let number = self.allocate_shared(queue, bytes.len())?;
        let arena = self.arenas.get_mut(queue)?;
        // Fails never: the buffer was allocated for this length.
        let written = arena
            .buffers
            .memory(number)
            .is_ok_and(|memory| memory.write(0, bytes).is_ok());
        if !written {
            let _ = arena.buffers.free(number);
            return None;
        }
        self.set_holder(queue, number, holder);
        Some(number.to_bits())
    }

    /// Notes whose message is in a buffer.
    #[inline]
    pub(super) fn set_holder(&mut self, queue: QueueId, number: Number, holder: Option<ConnId>) {
        let Some(arena) = self.arenas.get_mut(queue) else {
            return;
        };
        let index = arena.index(number);
        if arena.holders.len() <= index {
            arena.holders.resize(index + 1, None);
        }
        if let Some(place) = arena.holders.get_mut(index) {
            *place = holder;
        }
    }

    /// Takes a buffer back from a worker, and says whose message was in it.
    #[inline]
    pub(super) fn recycle(
        &mut self,
        queue: QueueId,
        bits: u64,
    ) -> Result<Option<ConnId>, BufferError> {
        let number = Number::from_bits(bits);
        let arena = self.arenas.get_mut(queue).ok_or(BufferError::Foreign)?;
        arena.buffers.free(number)?;
        let index = arena.index(number);
        Ok(arena.holders.get_mut(index).and_then(Option::take))
    }

    /// Whether a buffer of the queue was missing since this was last asked.
    #[inline]
    pub(super) fn take_wanting(&mut self, queue: QueueId) -> bool {
        let arena = self.arenas.get_mut(queue);
        arena.is_some_and(|arena| std::mem::take(&mut arena.wanting))
    }

    /// Whether a buffer of any queue was missing since this was last asked.
    #[inline]
    pub(super) fn take_any_wanting(&mut self) -> bool {
        std::mem::take(&mut self.wanting)
    }

    /// What went wrong since this was last asked.
    pub(super) fn take_fault(&mut self) -> Option<Fault> {
        self.faults.pop()
    }

    /// Segments of a queue's region, and units in use.
    pub(super) fn usage(&self, queue: QueueId) -> (u32, u32) {
        let arena = self.arenas.get(queue).map(|arena| &arena.buffers);
        arena.map_or((0, 0), |buffers| (buffers.segments(), buffers.used_units()))
    }

    fn allocate_shared(&mut self, queue: QueueId, length: usize) -> Option<Number> {
        let arena = self.arenas.get_mut(queue)?;
        match arena.buffers.allocate(length) {
            Ok(number) => return Some(number),
            Err(AllocateError::Full) => match arena.grow(&self.shape, &self.total) {
                Ok(()) => {
                    if let Ok(number) = arena.buffers.allocate(length) {
                        return Some(number);
                    }
                }
                Err(Status::Detached) => self.faults.push(Fault::Unread(queue)),
                Err(_) => {}
            },
            Err(
                AllocateError::Exhausted | AllocateError::Empty | AllocateError::TooLong { .. },
            ) => {}
        }
        arena.wanting = true;
        self.wanting = true;
        None
    }
}

impl Arena {
    #[inline]
    fn index(&self, number: Number) -> usize {
        // A buffer that is in use lies in a segment that is there: its unit is one of these.
        let bits = number.to_bits();
        let (segment, unit) = (bits >> 16 & 0xffff, bits & 0xffff);
        segment as usize * self.buffers.shape().units_per_segment as usize + unit as usize
    }

    /// Adds a segment, and tells the worker of it before it can hear of a buffer there.
    fn grow(&mut self, shape: &RegionShape, total: &Arc<Account>) -> Result<(), Status> {
        let accounts = [&self.process.account, total];
        let (segment, file) = Segment::create("smbdirect-receive", shape, accounts)?;
        let message = abi::Segment {
            region: region::RECEIVE,
            queue: self.number,
            number: self.buffers.segments(),
            reserved: 0,
            length: file.len() as u64,
        };
        let sent = self
            .process
            .send(kind::SEGMENT, 0, &message, &[file.as_fd()]);
        sent.map_err(|_| Status::Detached)?;
        let added = self.buffers.add(segment.memory.clone());
        added.map_err(|_| Status::Limit)?;
        self.segments.push(segment);
        Ok(())
    }
}

impl MessageBuffers for Pool {
    type Buffer = Buffer;

    #[inline]
    fn allocate(&mut self, conn: ConnId, length: u32) -> Option<Buffer> {
        match self.owners.get(&conn) {
            Some(Owner::Queue(queue)) => {
                let queue = *queue;
                if length
                    > self
                        .shape
                        .unit_length
                        .saturating_mul(self.shape.longest_run)
                {
                    self.faults.push(Fault::TooLong(conn));
                    return None;
                }
                let number = self.allocate_shared(queue, length as usize)?;
                let memory = self.arenas.get(queue)?.buffers.memory(number).ok()?;
                Some(Buffer::Shared {
                    queue,
                    number,
                    memory,
                })
            }
            Some(Owner::Held) => None,
            // Its first message.
            None if length <= MAX_HELD_LENGTH => {
                self.hold(conn);
                Some(Buffer::Heap(Vec::with_capacity(length as usize)))
            }
            None => {
                self.hold(conn);
                self.faults.push(Fault::TooLong(conn));
                None
            }
        }
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
        // The transport asks for what it has in a slot, up to the length that was allocated.
        let copied = match buffer {
            Buffer::Heap(bytes) => source.append_to(source_offset, length, bytes),
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
                // It was never given away, so it is in use.
                let _ = arena.buffers.free(number);
            }
        }
    }
}
