//! A worker's queue with one reactor: the two rings, and what waits to go into the second.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use zerocopy::transmute;

use super::process::{Process, Segments, WakeProcess};
use crate::device::Status;
use crate::device::abi::{self, Completion, event, kind, queue_of};
use crate::engine::memory::{Account, Charge, Segment};
use crate::engine::peer::Untold;
use crate::engine::submission::{Piece, Violation};
use crate::fabric::ConnId;
use crate::shm::{self, Consumer, Entry, Producer, RingCorrupt, RingMemory, ring_length};
use crate::sys::{Bell, Memfd};
use crate::transport::PlainHasher;
use crate::units::Instant;

/// Numbers of connections of a queue: what is below the number of the queue.
const SERIAL_BITS: u32 = 48;

/// How long a worker that does not wait for memory sleeps on at most after a message of its was sent.
/// Mostly, it is woken sooner by the next request.
const SENT_DELAY: Duration = Duration::from_millis(100);

/// A worker's queue with one reactor.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) process: Arc<Process>,
    /// The worker's number for it.
    pub(super) number: u32,
    submissions: Consumer<WakeProcess>,
    completions: Producer<WakeProcess>,
    /// Rung by the worker.
    pub(super) bell: Bell,
    /// How often that has rung.
    pub(super) rings: u32,
    /// Completions that the ring has not taken yet. Each of them is the answer to a submission, of
    /// which few can be outstanding; or holds a buffer of RECEIVE, of which there are so many; or is
    /// the end of a connection, which held one at its beginning.
    pending: VecDeque<Entry>,
    /// One of them is to wake the worker.
    awaited: bool,
    /// When the worker is to be woken for what is in the ring.
    pub(super) wake_at: Option<Instant>,
    /// Submissions that the transport has, and so their completions.
    pub(super) outstanding: u32,
    depth: u32,
    /// Connections by their number in this queue.
    conns: HashMap<u64, ConnId, BuildHasherDefault<PlainHasher>>,
    last_serial: u64,
    /// The worker's segments, as they were when [`Process::changes`] was `seen`.
    segments: Segments,
    seen: u64,
    /// Connections that have something for the worker and found no buffer for it.
    pub(super) waiting: Vec<ConnId>,
    /// It is in the reactor's list of queues to look at.
    pub(super) active: bool,
    /// When something was last done for it.
    pub(super) used: Instant,
    _charges: [Charge; 2],
}

impl Queue {
    /// Makes a queue, which counts as memory of the worker and in `total`, and tells the worker of it.
    ///
    /// # Errors
    ///
    /// [`Status::System`]: no memory or descriptors. [`Status::Detached`]: the worker has gone.
    /// [`Status::Again`]: it does not read.
    pub(super) fn create(
        process: &Arc<Process>,
        total: &Arc<Account>,
        number: u32,
        depth: u32,
    ) -> Result<Self, Status> {
        let system = |_| Status::System;
        // A multiple of 64, and so a place for the second ring.
        let ring = ring_length(depth).ok_or(Status::System)?;
        let length = ring.checked_mul(2).ok_or(Status::System)?;
        let file = Memfd::create("smbdirect-queue", length).map_err(|_| Status::System)?;
        let memory = shm::map(&file).map_err(system)?;
        let second = memory.part(ring, ring).map_err(|_| Status::System)?;
        let rings = [&memory, &second].map(|memory| RingMemory::create(memory, depth));
        let [Ok(submissions), Ok(completions)] = rings else {
            return Err(Status::System);
        };
        let (bell, theirs) = Bell::pair().map_err(system)?;
        let message = abi::Queue {
            queue: number,
            reserved: 0,
            length: length as u64,
            completion_offset: ring as u64,
        };
        let descriptors = [file.as_fd(), theirs.as_fd()];
        let told = process.hand_over(kind::QUEUE, &message, &descriptors);
        told.map_err(|untold| match untold {
            Untold::Gone => Status::Detached,
            Untold::Unread => Status::Again,
        })?;
        let wake = WakeProcess(Arc::clone(&process.socket));
        let accounts = [&process.account, total];
        Ok(Self {
            process: Arc::clone(process),
            number,
            submissions: Consumer::new(submissions, wake.clone()),
            completions: Producer::new(completions, wake),
            bell,
            rings: 0,
            pending: VecDeque::new(),
            awaited: false,
            wake_at: None,
            outstanding: 0,
            depth,
            conns: HashMap::default(),
            last_serial: 0,
            segments: Segments::default(),
            seen: 0,
            waiting: Vec::new(),
            active: false,
            used: Instant::ZERO,
            _charges: accounts.map(|account| account.count(length as u64)),
        })
    }

    /// Takes a connection in; its number.
    pub(super) fn insert(&mut self, conn: ConnId) -> u64 {
        self.last_serial += 1;
        let number = u64::from(self.number) << SERIAL_BITS | self.last_serial;
        self.conns.insert(number, conn);
        number
    }

    /// A connection is not this queue's any more.
    pub(super) fn remove(&mut self, number: u64) {
        self.conns.remove(&number);
    }

    pub(super) fn conns(&self) -> impl Iterator<Item = ConnId> + '_ {
        self.conns.values().copied()
    }

    pub(super) fn len(&self) -> usize {
        self.conns.len()
    }

    /// The connection that a worker names; `None` where it is gone.
    #[inline]
    pub(super) fn conn(&self, number: u64) -> Result<Option<ConnId>, Violation> {
        let serial = number & ((1 << SERIAL_BITS) - 1);
        if queue_of(number) != self.number || serial == 0 || serial > self.last_serial {
            return Err(Violation::Connection(number));
        }
        Ok(self.conns.get(&number).copied())
    }

    /// Copies submissions to the start of `entries`; how many. None while the worker does not take
    /// completions.
    #[inline]
    pub(super) fn take(&mut self, entries: &mut [Entry]) -> Result<usize, RingCorrupt> {
        let room = self.depth.saturating_sub(self.outstanding) as usize;
        if room == 0 || !self.pending.is_empty() {
            return Ok(0);
        }
        let room = room.min(entries.len());
        self.submissions
            .pop(entries.get_mut(..room).unwrap_or_default())
    }

    /// Submissions that all connections without a session may have outstanding together.
    pub(super) const fn share_of_strangers(&self) -> u32 {
        self.depth / 4
    }

    /// Whether the worker has submitted something, or broken the ring.
    #[inline]
    pub(super) fn has_submissions(&mut self) -> bool {
        self.submissions.has_entries().unwrap_or(true)
    }

    /// Has a completion for the worker.
    #[inline]
    pub(super) fn complete(&mut self, completion: Completion) {
        self.awaited |= completion.event != event::SENT || completion.status != Status::Ok.code();
        self.pending.push_back(transmute!(completion));
    }

    /// Puts completions into the ring; `true` if there were some, and it took any. Those that a worker
    /// hardly waits for do not wake it, but set `wake_at`.
    #[inline]
    pub(super) fn flush(&mut self, now: Instant) -> Result<bool, RingCorrupt> {
        let mut done = 0;
        while !self.pending.is_empty() {
            let (first, _) = self.pending.as_slices();
            let count = self.completions.push_quietly(first)?;
            if count == 0 {
                self.awaited = true;
                break;
            }
            self.pending.drain(..count);
            done += count;
        }
        if std::mem::take(&mut self.awaited) {
            self.wake_at = None;
            self.completions.wake()?;
        } else if done > 0 && self.wake_at.is_none() {
            self.wake_at = Some(now + SENT_DELAY);
        }
        if self.pending.is_empty() && self.pending.capacity() > 4 * self.depth as usize {
            self.pending.shrink_to(self.depth as usize);
        }
        Ok(done > 0)
    }

    /// Wakes the worker if `at` is still the time for it.
    pub(super) fn wake_late(&mut self, at: Instant) -> Result<(), RingCorrupt> {
        if self.wake_at != Some(at) {
            return Ok(());
        }
        self.wake_at = None;
        self.completions.wake()
    }

    /// Announces that this side will not look at the rings before its bell rings; `false`: there is
    /// something to look at. The worker need not ring for received messages that it gives back unless
    /// one `is_wanting` their room.
    pub(super) fn announce_sleep(&mut self, is_wanting: bool) -> Result<bool, RingCorrupt> {
        if !self.pending.is_empty() {
            return self.completions.announce_sleep();
        }
        if self.outstanding >= self.depth {
            // A completion has to come first, which makes it active again.
            return Ok(true);
        }
        match is_wanting {
            true => self.submissions.announce_sleep(),
            false => self.submissions.announce_deep_sleep(),
        }
    }

    /// Completions that wait for room, and those in the ring.
    pub(super) fn backlog(&mut self) -> (usize, u32) {
        let room = self.completions.room().unwrap_or(0);
        (
            self.pending.len(),
            self.completions.capacity().saturating_sub(room),
        )
    }

    /// Knows the worker's segments as they are now, and holds no others.
    #[inline]
    pub(super) fn look_at_segments(&mut self) {
        let changes = self.process.changes();
        if self.seen != changes {
            self.seen = changes;
            self.segments = self.process.segments();
        }
    }

    /// The worker's segments, as they were when last looked at.
    pub(super) const fn segments(&self) -> &Segments {
        &self.segments
    }

    /// The segment of `region::*` in which `length` bytes at a place lie, and its offset there.
    #[inline]
    pub(super) fn find(
        &mut self,
        region: u32,
        piece: Piece,
    ) -> Result<(&Arc<Segment>, u32), Violation> {
        self.look_at_segments();
        let index = usize::from(piece.place.segment);
        let segment = self.segments.of(region).and_then(|list| list.get(index));
        let segment = segment.and_then(Option::as_ref);
        let segment = segment.ok_or_else(|| piece.violation())?;
        segment.touch();
        let end = piece.place.offset.checked_add(piece.length.into());
        match (u32::try_from(piece.place.offset), end) {
            (Ok(offset), Some(end)) if end <= segment.memory.len() as u64 => Ok((segment, offset)),
            _ => Err(piece.violation()),
        }
    }
}
