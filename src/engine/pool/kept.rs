// SPDX-License-Identifier: GPL-2.0-or-later

//! Passes the messages that workers hold, and those in reassembly, on to a device that continues with the workers.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::{Arena, Buffer, Held, Hold, Pool, QueueId};
use crate::engine::memory::{Account, Segment, most_units, shape_of};
use crate::engine::peer::Worker;
use crate::fabric::ConnId;
use crate::shm::{Buffer as Number, Buffers, KeptSegment};
use crate::sys::Memory;

/// The RECEIVE region of a queue.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KeptArena {
    /// The segments, by number. The worker has been asked for those in which nothing is given out any longer.
    pub(crate) segments: Vec<KeptSegment>,
    holds: Vec<KeptHold>,
    wanting: bool,
    is_deaf: bool,
}

/// A message in a buffer.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct KeptHold {
    segment: u32,
    unit: u32,
    /// The place of its connection among those that are kept; `None` if the connection has ended.
    conn: Option<usize>,
    units: u32,
    is_stranger: bool,
    is_whole: bool,
}

/// A message in reassembly.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum KeptBuffer {
    /// Its bytes so far, and the number of bytes for which there is room.
    Heap(#[serde(with = "crate::units::hex")] Vec<u8>, usize),
    /// The number of its buffer in the arena of its connection's queue.
    Shared(u64),
}

impl<W: Worker> Pool<W> {
    /// Returns the state of a queue's region; `place` returns the place of a connection among those that are kept.
    pub(crate) fn keep(
        &self,
        queue: QueueId,
        place: impl Fn(ConnId) -> Option<usize>,
    ) -> Option<KeptArena> {
        let Arena {
            worker: _,
            number: _,
            shape: _,
            most: _,
            buffers,
            segments,
            // The numbers of units follow from the messages.
            shares: _,
            of_strangers: _,
            begun: _,
            in_heap: _,
            wanting,
            is_deaf,
        } = self.arenas.get(queue)?;
        let mut holds = Vec::new();
        for (segment, held) in (0..).zip(segments) {
            for (unit, hold) in (0..).zip(held.iter().flat_map(|held| &held.holders)) {
                let Some(hold) = hold else { continue };
                holds.push(KeptHold {
                    segment,
                    unit,
                    conn: place(hold.conn),
                    units: hold.units,
                    is_stranger: hold.is_stranger,
                    is_whole: hold.is_whole,
                });
            }
        }
        Some(KeptArena {
            segments: buffers.keep(),
            holds,
            wanting: *wanting,
            is_deaf: *is_deaf,
        })
    }

    /// Returns whether the messages of a connection go to an arena; `None` if it has not had its first message.
    pub(crate) fn is_direct(&self, conn: ConnId) -> Option<bool> {
        self.conns.get(conn).map(|known| known.queue.is_some())
    }

    /// Makes the arena of a queue again; `memory` returns the memory of each segment.
    /// [`adopt_holds`](Self::adopt_holds) follows. Returns `None` if the state does not fit the shape, or memory is
    /// missing.
    pub(crate) fn adopt(
        &mut self,
        (queue, number): (QueueId, u32),
        worker: &W,
        kept: &KeptArena,
        memory: impl FnMut(u32) -> Option<Memory>,
    ) -> Option<()> {
        let buffers = Buffers::adopt(shape_of(&self.shape), &kept.segments, memory)?;
        let mut segments = Vec::new();
        for (number, kept) in (0..).zip(&kept.segments) {
            let held = buffers.segment(number).map(|memory| {
                let units = buffers.shape().units_of(memory.len()).unwrap_or(0);
                let accounts = [worker.account(), &self.total];
                Held {
                    segment: Segment::adopt(memory.clone(), accounts, !kept.is_open),
                    holders: vec![None; units as usize].into_boxed_slice(),
                }
            });
            segments.push(held);
        }
        let arena = Arena {
            worker: worker.clone(),
            number,
            shape: self.shape,
            most: most_units(&self.shape),
            buffers,
            segments,
            shares: BTreeMap::new(),
            of_strangers: 0,
            begun: 0,
            in_heap: Account::new(u64::MAX),
            wanting: kept.wanting,
            is_deaf: kept.is_deaf,
        };
        self.wanting |= kept.wanting;
        self.grown = true;
        self.arenas.insert(queue, arena);
        Some(())
    }

    /// Records which messages are in the buffers of a queue, once its connections have been continued; `conn` returns
    /// the connection at a place, unless it has ended.
    pub(crate) fn adopt_holds(
        &mut self,
        queue: QueueId,
        kept: &KeptArena,
        conn: impl Fn(usize) -> Option<ConnId>,
    ) {
        let Some(arena) = self.arenas.get_mut(queue) else {
            return;
        };
        for kept in &kept.holds {
            let hold = Hold {
                // The default is the number of no connection.
                conn: kept.conn.and_then(&conn).unwrap_or_default(),
                units: kept.units,
                is_stranger: kept.is_stranger,
                is_whole: kept.is_whole,
            };
            arena.adopt_hold((kept.segment, kept.unit), hold);
        }
    }

    /// Returns the buffer of a message in reassembly again; `None` if the queue does not have it.
    pub(crate) fn adopt_buffer(
        &self,
        queue: Option<QueueId>,
        kept: KeptBuffer,
        authenticated: bool,
    ) -> Option<Buffer> {
        match kept {
            KeptBuffer::Heap(mut bytes, room) => {
                let longest = self
                    .shape
                    .unit_length
                    .saturating_mul(self.shape.longest_run);
                let room = room.min(longest as usize);
                bytes.reserve_exact(room.saturating_sub(bytes.len()));
                let arena = queue.and_then(|queue| self.arenas.get(queue));
                let charges = arena.filter(|_| authenticated).map(|arena| {
                    let accounts = [arena.worker.account(), &arena.in_heap, &self.total];
                    accounts.map(|account| account.count(room as u64))
                });
                Some(Buffer::Heap { bytes, charges })
            }
            KeptBuffer::Shared(bits) => {
                let number = Number::from_bits(bits);
                let queue = queue?;
                let memory = self.arenas.get(queue)?.buffers.memory(number).ok()?;
                Some(Buffer::Shared {
                    queue,
                    number,
                    memory,
                })
            }
        }
    }
}

impl Buffer {
    /// Writes down a message in reassembly, whose connection belongs to `owner`.
    pub(crate) fn keep(&self, owner: Option<QueueId>) -> Option<KeptBuffer> {
        match self {
            Self::Heap { bytes, .. } => Some(KeptBuffer::Heap(bytes.clone(), bytes.capacity())),
            Self::Shared { queue, number, .. } => {
                (Some(*queue) == owner).then(|| KeptBuffer::Shared(number.to_bits()))
            }
        }
    }
}

impl<W: Worker> Arena<W> {
    /// Records which message is in a buffer, unless the buffer is free: its message may have ended with a connection that
    /// is not continued.
    fn adopt_hold(&mut self, (segment, unit): (u32, u32), hold: Hold) {
        if !self.buffers.is_used(segment, unit) {
            return;
        }
        let held = self.held(segment);
        let Some(place) = held.and_then(|held| held.holders.get_mut(unit as usize)) else {
            return;
        };
        *place = Some(hold);
        let share = self.shares.entry(hold.conn).or_default();
        *share = share.saturating_add(hold.units);
        let of = |counts: bool| if counts { hold.units } else { 0 };
        self.of_strangers = self.of_strangers.saturating_add(of(hold.is_stranger));
        self.begun = self.begun.saturating_add(of(!hold.is_whole));
    }
}
