// SPDX-License-Identifier: GPL-2.0-or-later

//! A queue: the two rings that a worker shares with one reactor, and the received messages in it.

use std::collections::VecDeque;
use std::sync::Arc;

use zerocopy::transmute;

use super::Status;
use super::abi::{self, Completion, Segment, Submission, op};
use crate::shm::buffers::Shape;
use crate::shm::{Buffer, Consumer, Doorbell, Entry, Producer, RingCorrupt, RingMemory};
use crate::sys::Memory;

/// Maximum number of completions that are copied out at a time.
const BATCH: usize = 32;

/// Maximum number of submissions that may be deferred before the device is woken.
const DEFERRED: u32 = 32;

/// When a sleeping device is woken for a submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notify {
    Now,
    /// The device is woken with the next submission that is `Now`, by [`Queue::notify`], when many submissions wait, or
    /// when there is no room.
    Later,
}

impl From<RingCorrupt> for Status {
    fn from(_: RingCorrupt) -> Self {
        Self::Corrupt
    }
}

/// The worker's side of a queue.
#[derive(Debug)]
pub(super) struct Queue<D> {
    pub(super) number: u32,
    submissions: Producer<Arc<D>>,
    completions: Consumer<Arc<D>>,
    /// Number of submissions without a completion.
    unanswered: u32,
    /// Maximum number of submissions that may be unanswered.
    outstanding: u32,
    /// Number of submissions for which the device was not woken, and which it may not have seen.
    deferred: u32,
    /// Entries without an answer for which there was no room: at most a RECYCLE for each RECEIVE unit, and an
    /// AUTHENTICATED and a DISCONNECT for each connection.
    backlog: VecDeque<Entry>,
    /// A caller found no room, and has not yet been told that there is some again.
    refused: bool,
    /// Completions that were copied out; those before `next` are done.
    batch: [Entry; BATCH],
    next: usize,
    filled: usize,
    shape: Shape,
    /// The RECEIVE segments, by number.
    segments: Vec<Option<Received>>,
}

/// A RECEIVE segment.
#[derive(Debug)]
struct Received {
    memory: Memory,
    /// For each unit, whether the worker has a message that begins in it.
    held: Box<[bool]>,
}

impl<D: Doorbell> Queue<D> {
    /// Opens the queue that the device made in `memory`.
    pub(super) fn new(
        queue: &abi::Queue,
        memory: &Memory,
        doorbell: D,
        outstanding: u32,
        shape: Shape,
    ) -> Result<Self, Status> {
        let offset = usize::try_from(queue.completion_offset).map_err(|_| Status::Corrupt)?;
        let rest = memory.len().checked_sub(offset).ok_or(Status::Corrupt)?;
        let ring = |offset, length| {
            let part = memory.part(offset, length).map_err(|_| Status::Corrupt)?;
            RingMemory::open(&part).map_err(|_| Status::Corrupt)
        };
        if u16::try_from(queue.queue).is_err() {
            return Err(Status::Corrupt);
        }
        let doorbell = Arc::new(doorbell);
        Ok(Self {
            number: queue.queue,
            submissions: Producer::new(ring(0, offset)?, Arc::clone(&doorbell)),
            completions: Consumer::new(ring(offset, rest)?, doorbell),
            unanswered: 0,
            outstanding,
            deferred: 0,
            backlog: VecDeque::new(),
            refused: false,
            batch: [[0; 8]; BATCH],
            next: 0,
            filled: 0,
            shape,
            segments: Vec::new(),
        })
    }

    /// Adds a RECEIVE segment. The channel has checked that its `length` is that of `memory`.
    pub(super) fn add(&mut self, segment: &Segment, memory: Memory) -> Result<(), Status> {
        let units = self.shape.units_of(memory.len()).ok_or(Status::Corrupt)?;
        if segment.number >= self.shape.max_segments {
            return Err(Status::Corrupt);
        }
        let index = segment.number as usize;
        if self.segments.len() <= index {
            self.segments.resize_with(index + 1, || None);
        }
        match self.segments.get_mut(index) {
            Some(place @ None) => {
                *place = Some(Received {
                    memory,
                    held: vec![false; units as usize].into_boxed_slice(),
                });
                Ok(())
            }
            _ => Err(Status::Corrupt),
        }
    }

    /// Gives the device back a segment in which the worker has no message. Returns the segment's memory.
    pub(super) fn remove(&mut self, number: u32) -> Result<Memory, Status> {
        let place = self.segments.get_mut(number as usize);
        let place = place.ok_or(Status::Corrupt)?;
        let is_unused = |segment: &mut Received| segment.held.iter().all(|held| !held);
        let segment = place.take_if(is_unused).ok_or(Status::Corrupt)?;
        Ok(segment.memory)
    }

    /// Returns the oldest completion, which remains the oldest until [`done`](Self::done).
    pub(super) fn completion(&mut self) -> Result<Option<Completion>, Status> {
        if self.next == self.filled {
            self.next = 0;
            self.filled = self.completions.pop(&mut self.batch)?;
        }
        let batch = self.batch.get(..self.filled).unwrap_or_default();
        Ok(batch.get(self.next).map(|entry| transmute!(*entry)))
    }

    /// Marks the oldest completion as taken.
    pub(super) const fn done(&mut self) {
        self.next += 1;
    }

    /// Returns whether there are completions that were copied out and not taken.
    pub(super) const fn has_more(&self) -> bool {
        self.next < self.filled
    }

    /// Returns whether there is room for one more submission. If not, the caller learns later when there is.
    pub(super) fn has_room(&mut self) -> Result<bool, Status> {
        self.flush()?;
        let free = self.backlog.is_empty()
            && self.unanswered < self.outstanding
            && self.submissions.room()? > 0;
        if !free {
            self.refused = true;
            self.notify()?;
        }
        Ok(free)
    }

    /// Adds a submission for which [`has_room`](Self::has_room) has just found room.
    pub(super) fn submit(&mut self, entry: Entry, notify: Notify) -> Result<(), Status> {
        let pushed = match notify {
            Notify::Now => self.submissions.push(&[entry])?,
            Notify::Later => self.submissions.push_deferred(&[entry])?,
        };
        if pushed != 1 {
            // The device's index cannot have gone back, because `push` would have failed then.
            return Err(Status::Corrupt);
        }
        self.unanswered += 1;
        match notify {
            Notify::Now => self.deferred = 0,
            Notify::Later => self.deferred += 1,
        }
        if self.deferred >= DEFERRED {
            self.notify()?;
        }
        Ok(())
    }

    /// Wakes the device for deferred submissions.
    pub(super) fn notify(&mut self) -> Result<(), Status> {
        if std::mem::take(&mut self.deferred) > 0 {
            self.submissions.wake()?;
        }
        Ok(())
    }

    /// Counts the answer to a submission.
    pub(super) const fn answered(&mut self) {
        self.unanswered = self.unanswered.saturating_sub(1);
    }

    /// Adds an entry without an answer, now or as soon as there is room.
    pub(super) fn post(&mut self, submission: Submission) -> Result<(), Status> {
        self.backlog.push_back(transmute!(submission));
        self.flush()
    }

    /// Adds the entries that had to wait. RECYCLE entries alone wake the device only if there is no room for all of
    /// them: otherwise the next submission wakes the device.
    fn flush(&mut self) -> Result<(), Status> {
        let mut awaited = false;
        while !self.backlog.is_empty() {
            let (first, _) = self.backlog.as_slices();
            let pushed = self.submissions.push_quietly(first)?;
            if pushed == 0 {
                awaited = true;
                break;
            }
            for entry in self.backlog.drain(..pushed) {
                let submission: Submission = transmute!(entry);
                awaited |= submission.op != op::RECYCLE;
                // The device may use the buffer again only from now on, so the number of its buffers bounds the entries
                // that can wait here.
                if submission.op == op::RECYCLE {
                    let buffer = Buffer::from_bits(submission.place);
                    if let Some(held) = held(&mut self.segments, buffer) {
                        *held = false;
                    }
                }
            }
        }
        if awaited {
            self.submissions.wake()?;
        }
        Ok(())
    }

    /// Adds the entries that had to wait; returns whether a caller that was refused may try again.
    pub(super) fn found_room(&mut self) -> Result<bool, Status> {
        if !self.refused {
            return self.flush().map(|()| false);
        }
        self.refused = false;
        self.has_room()
    }

    /// Returns whether something waits until the device takes submissions, rather than for its answers.
    pub(super) fn waits_for_ring(&self) -> bool {
        !self.backlog.is_empty() || (self.refused && self.unanswered < self.outstanding)
    }

    /// Announces that this side will sleep until there is something to do, and returns whether it may sleep.
    /// Completions of sent messages count only if a caller waits for room.
    pub(super) fn announce_sleep(&mut self, wants_room: bool) -> Result<bool, Status> {
        self.notify()?;
        let full = !self.waits_for_ring() || self.submissions.announce_sleep()?;
        let empty = if wants_room || self.refused {
            self.completions.announce_sleep()
        } else {
            self.completions.announce_deep_sleep()
        };
        Ok(full && empty?)
    }

    /// Gives the worker the `length` bytes at `buffer`: a received message, or a description of a connection. Returns
    /// `None` if their segment has not arrived yet.
    pub(super) fn hold(&mut self, buffer: u64, length: u32) -> Result<Option<()>, Status> {
        let buffer = Buffer::from_bits(buffer);
        if u32::from(buffer.segment()) >= self.shape.max_segments {
            return Err(Status::Corrupt);
        }
        let unit_length = self.shape.unit_length;
        let longest = unit_length.saturating_mul(self.shape.longest_run as usize);
        let segment = self.segments.get_mut(usize::from(buffer.segment()));
        let Some(segment) = segment.and_then(Option::as_mut) else {
            return Ok(None);
        };
        let start = usize::from(buffer.unit()).saturating_mul(unit_length);
        let room = segment.memory.len().saturating_sub(start).min(longest);
        if length == 0 || length as usize > room {
            return Err(Status::Corrupt);
        }
        match segment.held.get_mut(usize::from(buffer.unit())) {
            Some(held) if !*held => *held = true,
            _ => return Err(Status::Corrupt),
        }
        Ok(Some(()))
    }

    /// Copies the start of a message that the worker holds.
    pub(super) fn read(&self, buffer: u64, target: &mut [u8]) -> Result<(), Status> {
        let buffer = Buffer::from_bits(buffer);
        let segment = self.segments.get(usize::from(buffer.segment()));
        let segment = segment.and_then(Option::as_ref);
        let start = usize::from(buffer.unit()).saturating_mul(self.shape.unit_length);
        segment
            .and_then(|segment| segment.memory.read(start, target).ok())
            .ok_or(Status::Corrupt)
    }

    /// Gives a message that the worker holds back to the device.
    pub(super) fn recycle(&mut self, buffer: u64) -> Result<(), Status> {
        self.post(Submission {
            op: op::RECYCLE,
            flags: 0,
            conn: u64::from(self.number) << 48,
            cookie: 0,
            place: buffer,
            length: 0,
            token: 0,
            descriptors: 0,
            descriptor_count: 0,
            reserved: [0; 3],
        })
    }
}

fn held(segments: &mut [Option<Received>], buffer: Buffer) -> Option<&mut bool> {
    segments
        .get_mut(usize::from(buffer.segment()))?
        .as_mut()?
        .held
        .get_mut(usize::from(buffer.unit()))
}
