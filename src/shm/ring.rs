// SPDX-License-Identifier: GPL-2.0-or-later

//! A ring with one producer and one consumer, in memory that both sides can write although neither
//! trusts the other.
//!
//! ```text
//!   creator           RingMemory::create ---- descriptor ----> RingMemory::open     (refused: no ring)
//!                            |                                        |
//!                            v                                        v
//!   one side each     Producer::new                            Consumer::new
//!
//!                .--------- push ----------.              .---------- pop ----------.
//!                | fill free entries       |              | copy entries out        |
//!                | publish producer index -+-- Release -> | Acquire, CHECK, use     |
//!                | Acquire, CHECK, use    <+-- Release ---+ publish consumer index  |
//!                '--- full: announce_sleep-'              '- empty: announce_sleep -'
//!                            |                                        |
//!      index out of bounds or backwards: RingCorrupt, for ever; the owner closes the connection
//!
//!   word                  producer      consumer
//!   constants             reads once    reads once   (creator writes, before the other side looks)
//!   producer's index      WRITES        reads, checks
//!   consumer's index      reads, checks WRITES
//!   producer's sleeping   WRITES        reads
//!   consumer's sleeping   reads         WRITES
//!   entries               WRITES        copies out once, between the two indexes only
//! ```
//!
//! Every word has one writer, which keeps a private copy and never reads the shared word: if the other side overwrites
//! that word, it deceives only itself. Words of the other side are checked when they are read, in release builds, too:
//! an index must not move back, nor further than the capacity allows. If an index ever does, the ring is dead.
//!
//! # Doorbells
//!
//! A side that finds nothing to do announces that it sleeps, **looks again**, and only then waits for its doorbell. A
//! side that has published looks **afterwards** whether the other has announced sleep, and rings if so. A fence in each
//! side keeps its store before its load, so at least one of the two sees the other's store, and no wake-up is lost
//! (`push_deferred` leaves that to the next push or `wake`). An announcement is a number that is odd while the side
//! sleeps and is never reused, so a side rings only once for an announcement, and not with every push until the sleeper
//! runs again.
//!
//! A consumer may announce that it sleeps deeply (a number that is 3 modulo 4): entries that a producer pushes quietly
//! then do not wake it. Something else wakes the consumer later, or the producer does when it decides that it is time.
//!
//! A sleeping word that lies can do this:
//!
//! - it says *awake* while its writer sleeps: that side is not woken. There is no other harm: entries wait for that
//!   side in a ring that fills up, and the owner decides what a full ring means, by a time limit and not by trust;
//! - it says *asleep*, with a new number each time: this side makes one system call for each of its own `push` or `pop`
//!   calls, and the liar is woken needlessly;
//! - the other side overwrites this side's own word, which only the other side reads. Even without that, it could have
//!   failed to ring, or have rung needlessly. A side that must not sleep for ever sleeps with a time limit.
//!
//! This file has no `unsafe`, and does not know what entries mean. Validate the copies that [`Consumer::pop`] made,
//! never the entries in the ring.

use core::sync::atomic::Ordering;

use super::layout::{Entry, FIRST_INDEX, Side};
use super::map::{RingMemory, fence};

/// Wakes the other side.
pub trait Doorbell {
    /// Makes the descriptor on which the other side waits readable, without waiting itself.
    ///
    /// Ringing cannot fail in a way that matters to the caller: if a doorbell is broken, the side that listens to it
    /// broke it, or that side has gone, which its control socket shows.
    fn ring(&self);
}

/// An error: the other side wrote an index that an honest side never writes. The ring is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, thiserror::Error)]
#[strum(serialize_all = "snake_case")]
pub enum RingCorrupt {
    /// The producer's index went back, or further than the ring has room.
    #[error("the producer's index went from {seen} to {found}, with room for {limit} entries")]
    ProducerIndex {
        /// The last index that was found legal.
        seen: u32,
        /// The index now.
        found: u32,
        /// Number of entries by which it was allowed to advance.
        limit: u32,
    },
    /// The consumer's index went back, or past the producer's.
    #[error("the consumer's index went from {seen} to {found}, with {limit} entries in the ring")]
    ConsumerIndex {
        /// The last index that was found legal.
        seen: u32,
        /// The index now.
        found: u32,
        /// Number of entries by which it was allowed to advance.
        limit: u32,
    },
}

impl RingCorrupt {
    /// Returns a stable name for counters and logs, in snake case.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.into()
    }
}

/// The side that fills entries. A ring only ever has one producer.
#[derive(Debug)]
pub struct Producer<D>(Half<D>);

/// The side that takes entries out. A ring only ever has one consumer.
#[derive(Debug)]
pub struct Consumer<D>(Half<D>);

impl<D: Doorbell> Producer<D> {
    /// Makes the producer of a ring that no producer has used; it wakes the consumer with `doorbell`.
    pub fn new(memory: RingMemory, doorbell: D) -> Self {
        Self(Half::new(memory, Side::Producer, doorbell))
    }

    /// Returns the number of entries that the ring can hold.
    pub const fn capacity(&self) -> u32 {
        self.0.memory.capacity()
    }

    /// Returns how many entries fit now; at least as many will fit at the next [`push`](Self::push).
    ///
    /// # Errors
    ///
    /// [`RingCorrupt`], which was found now or earlier.
    pub fn room(&mut self) -> Result<u32, RingCorrupt> {
        self.0.refresh()?;
        Ok(self.0.available())
    }

    /// Puts as many of `entries` into the ring as fit, starting with the first, shows them to the consumer at once, and
    /// wakes it if it sleeps. Returns how many were put in.
    ///
    /// # Errors
    ///
    /// [`RingCorrupt`], which was found now or earlier; no entry was put in.
    pub fn push(&mut self, entries: &[Entry]) -> Result<usize, RingCorrupt> {
        self.fill(entries, Some(true))
    }

    /// Does what [`push`](Self::push) does, but does not wake a consumer that sleeps deeply: the next `push` does that,
    /// or [`wake`](Self::wake).
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push).
    pub fn push_quietly(&mut self, entries: &[Entry]) -> Result<usize, RingCorrupt> {
        self.fill(entries, Some(false))
    }

    /// Does what [`push`](Self::push) does, but does not wake the consumer: [`wake`](Self::wake) does that, or the next
    /// `push`.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push).
    pub fn push_deferred(&mut self, entries: &[Entry]) -> Result<usize, RingCorrupt> {
        self.fill(entries, None)
    }

    /// Fills entries, and wakes the consumer unless `wakes` is `None`; with `Some(false)`, only if it does not sleep
    /// deeply.
    fn fill(&mut self, entries: &[Entry], wakes: Option<bool>) -> Result<usize, RingCorrupt> {
        let count = self.0.begin(entries.len())?;
        let mut index = self.0.own;
        for entry in entries.iter().take(count as usize) {
            self.0.memory.set_entry(index, entry);
            index = index.wrapping_add(1);
        }
        if count > 0 {
            self.0.publish(index);
            if let Some(awaited) = wakes {
                self.0.wake(awaited);
            }
        }
        Ok(count as usize)
    }

    /// Wakes a consumer that sleeps while there are entries in the ring.
    ///
    /// # Errors
    ///
    /// [`RingCorrupt`], which was found now or earlier.
    pub fn wake(&mut self) -> Result<(), RingCorrupt> {
        if self.room()? < self.capacity() {
            self.0.wake(true);
        }
        Ok(())
    }

    /// Announces that this side will sleep until there is room. Returns whether it may sleep: `false` means that there
    /// is room.
    ///
    /// Drain your own doorbell first, then wait for it for a limited time. The announcement ends with the next
    /// [`push`](Self::push).
    ///
    /// # Errors
    ///
    /// [`RingCorrupt`], which was found now or earlier.
    pub fn announce_sleep(&mut self) -> Result<bool, RingCorrupt> {
        self.0.announce_sleep(false)
    }
}

impl<D: Doorbell> Consumer<D> {
    /// Makes the consumer of a ring that no consumer has used; it wakes the producer with `doorbell`.
    pub fn new(memory: RingMemory, doorbell: D) -> Self {
        Self(Half::new(memory, Side::Consumer, doorbell))
    }

    /// Returns the number of entries that the ring can hold.
    pub const fn capacity(&self) -> u32 {
        self.0.memory.capacity()
    }

    /// Copies entries to the start of `entries`, oldest first, as many as there are and fit; gives their room back at
    /// once, and wakes the producer if it sleeps. Returns how many were copied.
    ///
    /// The producer wrote the copies, so they may be anything. The rest of `entries` stays
    /// as it is.
    ///
    /// # Errors
    ///
    /// [`RingCorrupt`], which was found now or earlier; nothing was copied.
    pub fn pop(&mut self, entries: &mut [Entry]) -> Result<usize, RingCorrupt> {
        let count = self.0.begin(entries.len())?;
        let mut index = self.0.own;
        for entry in entries.iter_mut().take(count as usize) {
            *entry = self.0.memory.entry(index);
            index = index.wrapping_add(1);
        }
        if count > 0 {
            self.0.publish(index);
            self.0.wake(true);
        }
        Ok(count as usize)
    }

    /// Returns whether there are entries to take. Announcements stay as they are.
    ///
    /// # Errors
    ///
    /// [`RingCorrupt`], which was found now or earlier.
    #[inline]
    pub fn has_entries(&mut self) -> Result<bool, RingCorrupt> {
        self.0.refresh()?;
        Ok(self.0.available() > 0)
    }

    /// Announces that this side will sleep until there are entries. Returns whether it may sleep: `false` means that
    /// there are some.
    ///
    /// Drain your own doorbell first, then wait for it for a limited time. The announcement ends with the next
    /// [`pop`](Self::pop).
    ///
    /// # Errors
    ///
    /// [`RingCorrupt`], which was found now or earlier.
    pub fn announce_sleep(&mut self) -> Result<bool, RingCorrupt> {
        self.0.announce_sleep(false)
    }

    /// Announces sleep as [`announce_sleep`](Self::announce_sleep) does, but entries that the producer [pushes
    /// quietly](Producer::push_quietly) do not wake this side.
    ///
    /// # Errors
    ///
    /// [`RingCorrupt`], which was found now or earlier.
    pub fn announce_deep_sleep(&mut self) -> Result<bool, RingCorrupt> {
        self.0.announce_sleep(true)
    }
}

/// A side's private copies, with which another process continues it.
#[cfg(feature = "broker")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct KeptHalf {
    own: u32,
    peer: u32,
    announced: u64,
    rung: u64,
}

#[cfg(feature = "broker")]
impl<D: Doorbell> Producer<D> {
    /// Returns the private copies; `None` if the ring is dead.
    pub(crate) fn keep(&self) -> Option<KeptHalf> {
        self.0.keep()
    }

    /// Continues the producer of a ring; `None` if the copies cannot be right.
    pub(crate) fn adopt(kept: KeptHalf, memory: RingMemory, doorbell: D) -> Option<Self> {
        Half::adopt(kept, memory, Side::Producer, doorbell).map(Self)
    }
}

#[cfg(feature = "broker")]
impl<D: Doorbell> Consumer<D> {
    /// Returns the private copies; `None` if the ring is dead.
    pub(crate) fn keep(&self) -> Option<KeptHalf> {
        self.0.keep()
    }

    /// Continues the consumer of a ring; `None` if the copies cannot be right.
    pub(crate) fn adopt(kept: KeptHalf, memory: RingMemory, doorbell: D) -> Option<Self> {
        Half::adopt(kept, memory, Side::Consumer, doorbell).map(Self)
    }
}

#[cfg(feature = "broker")]
impl<D: Doorbell> Half<D> {
    fn keep(&self) -> Option<KeptHalf> {
        self.corrupt.is_none().then_some(KeptHalf {
            own: self.own,
            peer: self.peer,
            announced: self.announced,
            rung: self.rung,
        })
    }

    fn adopt(kept: KeptHalf, memory: RingMemory, side: Side, doorbell: D) -> Option<Self> {
        let KeptHalf {
            own,
            peer,
            announced,
            rung,
        } = kept;
        let used = match side {
            Side::Producer => own.wrapping_sub(peer),
            Side::Consumer => peer.wrapping_sub(own),
        };
        // An announcement grows by a few at a time and never wraps.
        let is_sound = used <= memory.capacity() && announced < u64::MAX / 2;
        is_sound.then_some(Self {
            memory,
            side,
            own,
            peer,
            announced,
            rung,
            corrupt: None,
            doorbell,
        })
    }
}

/// The work that both sides have in common: each owns a number of slots at a time, uses the first of them, and passes
/// them on to the other by advancing its index.
#[derive(Debug)]
struct Half<D> {
    memory: RingMemory,
    side: Side,
    /// This side's index. The index in the memory is a copy for the other side, and never read.
    own: u32,
    /// The other side's index when it was last read; it was legal then, so it is legal now.
    peer: u32,
    /// This side's sleeping word: odd while this side sleeps. The word in the memory is a copy for the other side, as
    /// with `own`.
    announced: u64,
    /// The other side's announcement for which this side rang last.
    rung: u64,
    /// What killed the ring, if anything did.
    corrupt: Option<RingCorrupt>,
    doorbell: D,
}

impl<D: Doorbell> Half<D> {
    fn new(memory: RingMemory, side: Side, doorbell: D) -> Self {
        Self {
            memory,
            side,
            own: FIRST_INDEX,
            peer: FIRST_INDEX,
            announced: 0,
            rung: 0,
            corrupt: None,
            doorbell,
        }
    }

    /// Returns the number of slots that belong to this side as far as it knows: free ones for a producer, ones with
    /// entries for a consumer. The number is at most the capacity, since `refresh` does not accept any other index.
    #[inline]
    const fn available(&self) -> u32 {
        match self.side {
            Side::Producer => self.memory.capacity() - self.own.wrapping_sub(self.peer),
            Side::Consumer => self.peer.wrapping_sub(self.own),
        }
    }

    /// Ends an announcement of sleep; returns how many of the wanted slots may be used.
    #[inline]
    fn begin(&mut self, wanted: usize) -> Result<u32, RingCorrupt> {
        if let Some(corrupt) = self.corrupt {
            return Err(corrupt);
        }
        if is_asleep(self.announced) {
            self.announced += 1;
            // SYNC: read by `wake` of the other side. Relaxed: if that side sees this store late, it rings once
            // needlessly.
            self.memory
                .set_sleeping(self.side, self.announced, Ordering::Relaxed);
        }
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        if self.available() < wanted {
            self.refresh()?;
        }
        Ok(self.available().min(wanted))
    }

    /// Reads the other side's index, checks it, and only then uses it.
    #[inline]
    fn refresh(&mut self) -> Result<(), RingCorrupt> {
        if let Some(corrupt) = self.corrupt {
            return Err(corrupt);
        }
        // SYNC: Acquire pairs with the Release in `publish` of the other side: that side filled the slots, or copied
        // them out, before this side uses them.
        let found = self.memory.index(self.side.other(), Ordering::Acquire);
        let (seen, step) = (self.peer, found.wrapping_sub(self.peer));
        // The slots that do not belong to this side belong to the other side, which can pass on only its own. An index
        // that goes back is, modulo 2^32, one that goes much too far.
        let limit = self.memory.capacity() - self.available();
        if step > limit {
            let corrupt = match self.side.other() {
                Side::Producer => RingCorrupt::ProducerIndex { seen, found, limit },
                Side::Consumer => RingCorrupt::ConsumerIndex { seen, found, limit },
            };
            self.corrupt = Some(corrupt);
            return Err(corrupt);
        }
        self.peer = found;
        Ok(())
    }

    /// Passes the slots before `index` on to the other side.
    #[inline]
    fn publish(&mut self, index: u32) {
        self.own = index;
        // SYNC: Release pairs with the Acquire in `refresh` of the other side.
        self.memory.set_index(self.side, index, Ordering::Release);
    }

    /// Wakes the other side if it sleeps, after `publish`; a side that sleeps deeply only if this is `awaited`.
    #[inline]
    fn wake(&mut self, awaited: bool) {
        // SYNC: pairs with the fence in `announce_sleep` of the other side. This fence keeps the load of the sleeping
        // word below after the store of the index in `publish`: otherwise this side could see the other awake, while
        // the other, looking again, sees an index without the new slots.
        fence(Ordering::SeqCst);
        // SYNC: pairs with the stores in `announce_sleep` and `begin` of the other side. Relaxed: the fences order this
        // load, and the value only decides whether to ring.
        let announcement = self.memory.sleeping(self.side.other(), Ordering::Relaxed);
        let wakes = awaited || !is_deep(announcement);
        if is_asleep(announcement) && wakes && announcement != self.rung {
            self.rung = announcement;
            self.doorbell.ring();
        }
    }

    fn announce_sleep(&mut self, deep: bool) -> Result<bool, RingCorrupt> {
        if let Some(corrupt) = self.corrupt {
            return Err(corrupt);
        }
        // This is the next odd number of its kind. No machine lasts long enough to run out of them.
        self.announced = (self.announced + 1) | 1;
        if is_deep(self.announced) != deep {
            self.announced += 2;
        }
        // SYNC: read by `wake` of the other side. Relaxed: the fence orders this store.
        self.memory
            .set_sleeping(self.side, self.announced, Ordering::Relaxed);
        // SYNC: pairs with the fence in `wake` of the other side. This fence keeps the load of the other's index in
        // `refresh` after the store of the announcement above: otherwise this side could miss what the other published,
        // and the other could miss that this side sleeps.
        fence(Ordering::SeqCst);
        self.refresh()?;
        Ok(self.available() == 0)
    }
}

const fn is_asleep(announcement: u64) -> bool {
    announcement % 2 == 1
}

/// Returns whether a side that announced this must not be woken for entries that were pushed quietly.
const fn is_deep(announcement: u64) -> bool {
    announcement % 4 == 3
}
