// SPDX-License-Identifier: GPL-2.0-or-later

//! A worker's queue with one shard: the two rings, and the completions that wait to go into the second.

#[cfg(feature = "broker")]
mod kept;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use zerocopy::transmute;

use super::memory::{Account, Charge, Segment, Segments};
use super::peer::{Untold, Worker};
use super::submission::{Piece, Violation};
use crate::device::Status;
use crate::device::abi::{self, Completion, event, queue_of};
use crate::fabric::ConnId;
use crate::shm::{Consumer, Entry, Producer, RingCorrupt, RingMemory, ring_length};
use crate::units::Instant;

#[cfg(feature = "broker")]
pub(crate) use self::kept::KeptQueue;

/// Bits of a connection's number below those of the queue's number.
const SERIAL_BITS: u32 = 48;

/// How late a sleeping worker may learn that its message was sent, unless it waits for memory. Usually
/// the next request wakes it sooner.
const SENT_DELAY: Duration = Duration::from_millis(100);

/// A worker's queue with one shard.
#[derive(Debug)]
pub struct Queue<W: Worker> {
    /// The worker.
    pub worker: W,
    /// The worker's number for the queue.
    pub number: u32,
    submissions: Consumer<W::Doorbell>,
    completions: Producer<W::Doorbell>,
    /// The bell that the worker rings.
    pub bell: W::Bell,
    /// How often the bell has rung.
    pub rings: u32,
    /// Completions that the ring has not taken yet. Their number is bounded. Each answers one of the few submissions
    /// that can be outstanding, or holds a RECEIVE buffer, or reports the end of a connection; there are no more ends
    /// than connections, and each connection needed a RECEIVE buffer to begin.
    pending: VecDeque<Entry>,
    /// One of the completions in `pending` has to wake the worker.
    awaited: bool,
    /// When the worker has to be woken for what is in the ring.
    pub wake_at: Option<Instant>,
    /// Number of submissions that the transport has, each of which will get a completion.
    pub outstanding: u32,
    depth: u32,
    /// Connections by their number in this queue.
    conns: BTreeMap<u64, ConnId>,
    last_serial: u64,
    /// The worker's segments, as they were when [`Worker::changes`] was `seen`.
    segments: Segments,
    seen: u64,
    /// Connections that have something for the worker, but found no buffer for it.
    pub waiting: Vec<ConnId>,
    /// The queue is in the shard's list of queues to look at.
    pub active: bool,
    /// When the queue was last used.
    pub used: Instant,
    _charges: [Charge; 2],
}

impl<W: Worker> Queue<W> {
    /// Makes a queue and hands it over to the worker. The queue counts as memory of the worker and in `total`.
    ///
    /// # Errors
    ///
    /// [`Status::System`]: there is no memory, or no file descriptor. [`Status::Detached`]: the worker has gone.
    /// [`Status::Again`]: the worker does not read.
    pub fn create(
        worker: &W,
        total: &Arc<Account>,
        number: u32,
        depth: u32,
    ) -> Result<Self, Status> {
        // The length is a multiple of 64, so the second ring can begin there.
        let ring = ring_length(depth).ok_or(Status::System)?;
        let length = ring.checked_mul(2).ok_or(Status::System)?;
        let (memory, made) = worker.make_queue(length)?;
        let second = memory.part(ring, ring).map_err(|_| Status::System)?;
        let rings = [&memory, &second].map(|memory| RingMemory::create(memory, depth));
        let [Ok(submissions), Ok(completions)] = rings else {
            return Err(Status::System);
        };
        let message = abi::Queue {
            queue: number,
            reserved: 0,
            length: length as u64,
            completion_offset: ring as u64,
        };
        let told = worker.hand_over_queue(&message, made);
        let bell = told.map_err(|untold| match untold {
            Untold::Gone => Status::Detached,
            Untold::Unread => Status::Again,
        })?;
        let accounts = [worker.account(), total];
        Ok(Self {
            worker: worker.clone(),
            number,
            submissions: Consumer::new(submissions, worker.doorbell()),
            completions: Producer::new(completions, worker.doorbell()),
            bell,
            rings: 0,
            pending: VecDeque::new(),
            awaited: false,
            wake_at: None,
            outstanding: 0,
            depth,
            conns: BTreeMap::new(),
            last_serial: 0,
            segments: Segments::default(),
            seen: 0,
            waiting: Vec::new(),
            active: false,
            used: Instant::ZERO,
            _charges: accounts.map(|account| account.count(length as u64)),
        })
    }

    /// Adds a connection; returns its number.
    pub fn insert(&mut self, conn: ConnId) -> u64 {
        self.last_serial += 1;
        let number = u64::from(self.number) << SERIAL_BITS | self.last_serial;
        self.conns.insert(number, conn);
        number
    }

    /// Removes a connection.
    pub fn remove(&mut self, number: u64) {
        self.conns.remove(&number);
    }

    /// Returns the connections of the queue.
    pub fn conns(&self) -> impl Iterator<Item = ConnId> + '_ {
        self.conns.values().copied()
    }

    /// Returns how many connections the queue has.
    pub fn count(&self) -> usize {
        self.conns.len()
    }

    /// Returns the connection that a worker names; `None` if it has ended.
    #[inline]
    pub fn conn(&self, number: u64) -> Result<Option<ConnId>, Violation> {
        let serial = number & ((1 << SERIAL_BITS) - 1);
        if queue_of(number) != self.number || serial == 0 || serial > self.last_serial {
            return Err(Violation::Connection(number));
        }
        Ok(self.conns.get(&number).copied())
    }

    /// Copies submissions to the start of `entries`, and returns how many. Copies none while the worker does not take
    /// completions.
    #[inline]
    pub fn take(&mut self, entries: &mut [Entry]) -> Result<usize, RingCorrupt> {
        let room = self.depth.saturating_sub(self.outstanding) as usize;
        if room == 0 || !self.pending.is_empty() {
            return Ok(0);
        }
        let room = room.min(entries.len());
        self.submissions
            .pop(entries.get_mut(..room).unwrap_or_default())
    }

    /// Returns how many submissions all connections without a session may have outstanding together.
    pub const fn share_of_strangers(&self) -> u32 {
        self.depth / 4
    }

    /// Returns whether the worker has submitted something, or broken the ring.
    #[inline]
    pub fn has_submissions(&mut self) -> bool {
        self.submissions.has_entries().unwrap_or(true)
    }

    /// Queues a completion for the worker.
    #[inline]
    pub fn complete(&mut self, completion: Completion) {
        self.awaited |= completion.event != event::SENT || completion.status != Status::Ok.code();
        self.pending.push_back(transmute!(completion));
    }

    /// Puts completions into the ring; returns `true` if the ring took any. Completions for which a worker rarely waits
    /// (successful SENTs) do not wake it, but set `wake_at`.
    #[inline]
    pub fn flush(&mut self, now: Instant) -> Result<bool, RingCorrupt> {
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
        if core::mem::take(&mut self.awaited) {
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

    /// Wakes the worker if `at` is still the time to wake it.
    pub fn wake_late(&mut self, at: Instant) -> Result<(), RingCorrupt> {
        if self.wake_at != Some(at) {
            return Ok(());
        }
        self.wake_at = None;
        self.completions.wake()
    }

    /// Announces that this side will not look at the rings until the queue's bell rings; returns `false` if there is
    /// something to look at. The worker need not ring when it gives received messages back, unless the arena needs
    /// their room (`is_wanting`).
    pub fn announce_sleep(&mut self, is_wanting: bool) -> Result<bool, RingCorrupt> {
        if !self.pending.is_empty() {
            return self.completions.announce_sleep();
        }
        if self.outstanding >= self.depth {
            // A completion has to come first, and makes the queue active again.
            return Ok(true);
        }
        match is_wanting {
            true => self.submissions.announce_sleep(),
            false => self.submissions.announce_deep_sleep(),
        }
    }

    /// Returns how many completions wait for room, and how many are in the ring.
    pub fn backlog(&mut self) -> (usize, u32) {
        let room = self.completions.room().unwrap_or(0);
        (
            self.pending.len(),
            self.completions.capacity().saturating_sub(room),
        )
    }

    /// Updates the copy of the worker's segments, and drops those that are gone.
    #[inline]
    pub fn look_at_segments(&mut self) {
        let changes = self.worker.changes();
        if self.seen != changes {
            self.seen = changes;
            self.segments = self.worker.segments();
        }
    }

    /// Returns the worker's segments, as they were when last looked at.
    pub const fn segments(&self) -> &Segments {
        &self.segments
    }

    /// Returns the segment that contains the bytes of a piece, in the region with this `region::*` number, and their
    /// offset in that segment.
    #[inline]
    pub fn find(&mut self, region: u32, piece: Piece) -> Result<(&Arc<Segment>, u32), Violation> {
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

#[cfg(test)]
mod tests {
    use super::super::peer::fake::{Rings, Told};
    use super::*;
    use crate::device::abi::Submission;
    use crate::sys::Memory;
    use zerocopy::FromZeros;

    const DEPTH: u32 = 4;

    /// A queue, and the worker's side of it.
    struct Scene {
        queue: Queue<Told>,
        worker: Told,
        submissions: Producer<Rings>,
        completions: Consumer<Rings>,
        conns: slotmap::SlotMap<ConnId, ()>,
    }

    impl Scene {
        fn new() -> Self {
            let worker = Told::new(1 << 20);
            let total = Account::new(1 << 20);
            let queue = Queue::create(&worker, &total, 3, DEPTH).unwrap();
            let memory = worker.queue.borrow_mut().take().unwrap();
            let ring = ring_length(DEPTH).unwrap();
            assert_eq!(
                (worker.account().used(), total.used()),
                (2 * ring as u64, 2 * ring as u64)
            );
            let open = |memory: &Memory| RingMemory::open(memory).unwrap();
            let submissions = open(&memory.part(0, ring).unwrap());
            let completions = open(&memory.part(ring, ring).unwrap());
            Self {
                queue,
                worker,
                submissions: Producer::new(submissions, Rings::default()),
                completions: Consumer::new(completions, Rings::default()),
                conns: slotmap::SlotMap::with_key(),
            }
        }

        fn complete(&mut self, event: u32) {
            self.queue.complete(Completion {
                event,
                ..Completion::new_zeroed()
            });
        }

        /// Takes completions as the worker does; returns their events.
        fn taken(&mut self) -> Vec<u32> {
            let mut entries = [Entry::default(); 8];
            let count = self.completions.pop(&mut entries).unwrap();
            let events = entries[..count].iter().map(|entry| {
                let completion: Completion = transmute!(*entry);
                completion.event
            });
            events.collect()
        }

        fn rings(&self) -> usize {
            self.worker.rings.0.get()
        }
    }

    #[test]
    fn a_connection_has_a_unique_number_that_contains_the_queues() {
        let mut scene = Scene::new();
        let conn = scene.conns.insert(());
        let first = scene.queue.insert(conn);
        assert_eq!(queue_of(first), 3);
        assert_eq!(scene.queue.conn(first), Ok(Some(conn)));
        scene.queue.remove(first);
        assert_eq!(
            scene.queue.conn(first),
            Ok(None),
            "naming a connection that is gone is not a fault"
        );
        let second = scene.queue.insert(conn);
        assert_ne!(first, second);
        for never in [0, second + 1, 3 << 48, (4 << 48) | 1] {
            assert_eq!(scene.queue.conn(never), Err(Violation::Connection(never)));
        }
        assert_eq!(scene.queue.count(), 1);
    }

    #[test]
    fn a_sleeping_worker_is_woken_once_and_later_for_sent_messages() {
        let mut scene = Scene::new();
        let now = Instant::ZERO;
        assert_eq!(scene.queue.flush(now), Ok(false));
        assert_eq!(scene.completions.announce_deep_sleep(), Ok(true));
        scene.complete(event::SENT);
        assert_eq!(scene.queue.flush(now), Ok(true));
        assert_eq!(
            (scene.rings(), scene.queue.wake_at),
            (0, Some(now + SENT_DELAY))
        );
        scene.queue.wake_late(now).unwrap();
        assert_eq!(
            scene.rings(),
            0,
            "a worker was woken before its time to be woken"
        );
        scene.complete(event::PDU);
        scene.complete(event::RDMA_DONE);
        assert_eq!(scene.queue.flush(now), Ok(true));
        assert_eq!((scene.rings(), scene.queue.wake_at), (1, None));
        assert_eq!(scene.taken(), [event::SENT, event::PDU, event::RDMA_DONE]);
        assert_eq!(scene.completions.announce_deep_sleep(), Ok(true));
        scene.complete(event::SENT);
        scene.queue.flush(now).unwrap();
        scene.queue.wake_late(now + SENT_DELAY).unwrap();
        assert_eq!((scene.rings(), scene.queue.wake_at), (2, None));
    }

    #[test]
    fn no_submissions_are_taken_from_a_worker_that_takes_no_completions() {
        let mut scene = Scene::new();
        let entry: Entry = transmute!(Submission::new_zeroed());
        let mut taken = [Entry::default(); 8];
        for _ in 0..=DEPTH {
            scene.complete(event::PDU);
        }
        assert_eq!(scene.queue.flush(Instant::ZERO), Ok(true));
        assert_eq!(scene.queue.backlog(), (1, DEPTH));
        assert_eq!(scene.submissions.push(&[entry]), Ok(1));
        assert_eq!(scene.queue.take(&mut taken), Ok(0));
        assert_eq!(scene.taken().len(), DEPTH as usize);
        assert_eq!(scene.queue.flush(Instant::ZERO), Ok(true));
        assert_eq!(scene.queue.take(&mut taken), Ok(1));
        // The queue also takes no submission while the limit of outstanding submissions is reached.
        scene.queue.outstanding = DEPTH;
        assert_eq!(scene.submissions.push(&[entry]), Ok(1));
        assert_eq!(scene.queue.take(&mut taken), Ok(0));
    }
}
