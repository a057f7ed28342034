// SPDX-License-Identifier: GPL-2.0-or-later

//! A model of `src/shm/map.rs` for loom, with the same functions, as far as `ring` calls them.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::sync::atomic::{self, AtomicU32, AtomicU64, Ordering};

use super::layout::{Entry, FIRST_INDEX, Side};

/// What to remove from the ring, to see whether loom notices.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    None,
    /// Fences do nothing.
    NoFence,
    /// All atomic accesses are relaxed.
    AllRelaxed,
}

thread_local! {
    /// loom runs all threads of a model on the thread of its test.
    static FLAW: Cell<Flaw> = const { Cell::new(Flaw::None) };
}

impl Flaw {
    pub(crate) fn set(self) {
        FLAW.set(self);
    }
}

fn weakened(ordering: Ordering) -> Ordering {
    if FLAW.get() == Flaw::AllRelaxed {
        Ordering::Relaxed
    } else {
        ordering
    }
}

pub(crate) fn fence(ordering: Ordering) {
    if FLAW.get() != Flaw::NoFence {
        atomic::fence(ordering);
    }
}

#[derive(Clone)]
pub(crate) struct RingMemory {
    words: Arc<Words>,
    capacity: u32,
}

struct Words {
    indexes: [AtomicU32; 2],
    sleeping: [AtomicU64; 2],
    entries: Vec<UnsafeCell<Entry>>,
}

// SAFETY: loom checks that only one thread uses an entry at a time.
unsafe impl Send for Words {}
// SAFETY: as for `Send`.
unsafe impl Sync for Words {}

impl RingMemory {
    pub(crate) fn new(capacity: u32) -> Self {
        let index = || AtomicU32::new(FIRST_INDEX);
        let entries = (0..capacity).map(|_| UnsafeCell::new([0; 8]));
        let words = Words {
            indexes: [index(), index()],
            sleeping: [AtomicU64::new(0), AtomicU64::new(0)],
            entries: entries.collect(),
        };
        Self {
            words: Arc::new(words),
            capacity,
        }
    }

    pub(crate) const fn capacity(&self) -> u32 {
        self.capacity
    }

    pub(crate) fn index(&self, side: Side, ordering: Ordering) -> u32 {
        self.words.indexes[side as usize].load(weakened(ordering))
    }

    pub(crate) fn set_index(&self, side: Side, index: u32, ordering: Ordering) {
        self.words.indexes[side as usize].store(index, weakened(ordering));
    }

    pub(crate) fn sleeping(&self, side: Side, ordering: Ordering) -> u64 {
        self.words.sleeping[side as usize].load(weakened(ordering))
    }

    pub(crate) fn set_sleeping(&self, side: Side, value: u64, ordering: Ordering) {
        self.words.sleeping[side as usize].store(value, weakened(ordering));
    }

    pub(crate) fn entry(&self, index: u32) -> Entry {
        // SAFETY: loom fails the test if another thread writes at the same time.
        self.cell(index).with(|entry| unsafe { *entry })
    }

    pub(crate) fn set_entry(&self, index: u32, entry: &Entry) {
        // SAFETY: loom fails the test if another thread reads or writes at the same time.
        self.cell(index).with_mut(|cell| unsafe { *cell = *entry });
    }

    fn cell(&self, index: u32) -> &UnsafeCell<Entry> {
        &self.words.entries[index as usize % self.words.entries.len()]
    }
}

impl fmt::Debug for RingMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RingMemory({} entries)", self.capacity())
    }
}
