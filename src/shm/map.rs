// SPDX-License-Identifier: GPL-2.0-or-later

//! Mappings of sealed memory files, and a ring in one of them. This is the only part of `shm` that touches memory that
//! another process may write.
//!
//! This file offers two kinds of access. Bytes are a [`Memory`], which is copied in and out. The words of a ring,
//! including those of entries, are a [`RingMemory`], whose loads and stores are all atomic: a concurrent write by the
//! other process makes a value wrong, but never the program. No reference into the memory outlives the one atomic
//! access for which it is made.

use core::fmt;
use core::mem::offset_of;
use core::ptr::NonNull;
use core::sync::atomic::{self, AtomicU32, AtomicU64, Ordering};
#[cfg(feature = "shm")]
use std::io;
#[cfg(feature = "shm")]
use std::os::fd::AsFd;

#[cfg(feature = "shm")]
use memmap2::MmapOptions;

use super::layout::{
    ALIGNMENT, Constants, ENTRY_LENGTH, Entry, FIRST_INDEX, HEADER_LENGTH, Header, MAGIC, Side,
    VERSION, ring_length,
};
#[cfg(feature = "shm")]
use crate::sys::Memfd;
use crate::sys::{Memory, OutOfRange};

/// Maps all of a memory file, for reading and writing, shared with every other process that maps it.
///
/// # Errors
///
/// The error of the system call: there is no address space, or the file may not be written.
#[cfg(feature = "shm")]
pub fn map(file: &Memfd) -> io::Result<Memory> {
    // `Memfd` guarantees that the file has these bytes and keeps them: no access is SIGBUS.
    let map = MmapOptions::new().len(file.len()).map_raw(&file.as_fd())?;
    Ok(Memory::from_map(map))
}

/// Why a piece of memory does not hold a ring, or cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, thiserror::Error)]
#[strum(serialize_all = "snake_case")]
pub enum NoRing {
    /// The ring does not lie in the memory.
    #[error(transparent)]
    OutOfRange(#[from] OutOfRange),
    /// The ring does not begin at a multiple of 64 bytes.
    #[error("the ring does not begin at a multiple of 64 bytes")]
    Misaligned,
    /// The magic number is wrong.
    #[error("there is no ring in this memory")]
    BadMagic,
    /// The other side uses another version of the layout.
    #[error("the ring has version {0}, not {VERSION}")]
    BadVersion(u32),
    /// The entries have another length.
    #[error("the ring has entries of {0} bytes, not {ENTRY_LENGTH}")]
    BadEntryLength(u32),
    /// The capacity is not a power of two, or exceeds [`MAX_CAPACITY`](super::MAX_CAPACITY).
    #[error("a ring cannot have {0} entries")]
    BadCapacity(u32),
    /// A reserved word is not 0.
    #[error("a reserved word of the ring is not 0")]
    ReservedNotZero,
}

impl NoRing {
    /// Returns a stable name for counters and logs, in snake case.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.into()
    }
}

/// The words of a ring in shared memory; `layout` defines their places.
///
/// Clones share the ring. This type checks that everything lies in the memory, and nothing else: `ring` knows what the
/// words mean, and keeps to one producer and one consumer.
#[derive(Clone)]
pub struct RingMemory {
    /// The memory to which `start` points.
    memory: Memory,
    start: NonNull<u8>,
    /// A private copy of the capacity, which was checked and stays the same, whatever happens to the word in the
    /// memory.
    capacity: u32,
}

// SAFETY: `start` points into `memory`, which is `Send` and moves along; all access is atomic.
unsafe impl Send for RingMemory {}
// SAFETY: as for `Send`.
unsafe impl Sync for RingMemory {}

impl RingMemory {
    /// Makes an empty ring at the start of `memory`, before the other side knows about it.
    ///
    /// # Errors
    ///
    /// A ring cannot have this `capacity`, or such a ring does not fit.
    pub fn create(memory: &Memory, capacity: u32) -> Result<Self, NoRing> {
        let ring = Self::new(memory, capacity)?;
        // Nothing else reads the ring yet: the message that announces the memory to the other side also publishes these
        // stores.
        for offset in (0..HEADER_LENGTH).step_by(size_of::<u32>()) {
            ring.word(offset, |word| word.store(0, Ordering::Relaxed));
        }
        let words = [
            (index_of(Side::Producer), FIRST_INDEX),
            (index_of(Side::Consumer), FIRST_INDEX),
            (offset_of!(Constants, version), VERSION),
            (offset_of!(Constants, entry_length), ENTRY_LENGTH as u32),
            (offset_of!(Constants, capacity), capacity),
        ];
        for (offset, value) in words {
            ring.word(offset, |word| word.store(value, Ordering::Relaxed));
        }
        let magic = offset_of!(Constants, magic);
        ring.long_word(magic, |word| word.store(MAGIC, Ordering::Relaxed));
        Ok(ring)
    }

    /// Opens the ring that the other side made at the start of `memory`.
    ///
    /// # Errors
    ///
    /// The error says what is wrong with the ring, whose capacity is read once, and has to fit into the memory.
    pub fn open(memory: &Memory) -> Result<Self, NoRing> {
        // To read the constants, this treats the memory as a ring of one entry, for which any ring has room.
        let ring = Self::new(memory, 1)?;
        let word = |offset| ring.word(offset, |word| word.load(Ordering::Relaxed));
        let magic = offset_of!(Constants, magic);
        if ring.long_word(magic, |word| word.load(Ordering::Relaxed)) != MAGIC {
            return Err(NoRing::BadMagic);
        }
        match word(offset_of!(Constants, version)) {
            VERSION => {}
            other => return Err(NoRing::BadVersion(other)),
        }
        match word(offset_of!(Constants, entry_length)) {
            length if length as usize == ENTRY_LENGTH => {}
            other => return Err(NoRing::BadEntryLength(other)),
        }
        let reserved = offset_of!(Constants, reserved)..size_of::<Constants>();
        if reserved
            .step_by(size_of::<u32>())
            .any(|offset| word(offset) != 0)
        {
            return Err(NoRing::ReservedNotZero);
        }
        Self::new(memory, word(offset_of!(Constants, capacity)))
    }

    fn new(memory: &Memory, capacity: u32) -> Result<Self, NoRing> {
        let length = ring_length(capacity).ok_or(NoRing::BadCapacity(capacity))?;
        let start = memory.pointer(0, length)?;
        if start.addr() % ALIGNMENT != 0 {
            return Err(NoRing::Misaligned);
        }
        Ok(Self {
            memory: memory.clone(),
            start: NonNull::new(start).ok_or(NoRing::Misaligned)?,
            capacity,
        })
    }

    /// Returns the number of entries: a power of two.
    #[must_use]
    #[inline]
    pub const fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Returns the index of a side.
    #[must_use]
    #[inline]
    pub fn index(&self, side: Side, ordering: Ordering) -> u32 {
        self.word(index_of(side), |word| word.load(ordering))
    }

    /// Sets the index of a side.
    #[inline]
    pub fn set_index(&self, side: Side, index: u32, ordering: Ordering) {
        self.word(index_of(side), |word| word.store(index, ordering));
    }

    /// Returns the sleeping word of a side.
    #[must_use]
    #[inline]
    pub fn sleeping(&self, side: Side, ordering: Ordering) -> u64 {
        self.long_word(sleeping_of(side), |word| word.load(ordering))
    }

    /// Sets the sleeping word of a side.
    #[inline]
    pub fn set_sleeping(&self, side: Side, value: u64, ordering: Ordering) {
        self.long_word(sleeping_of(side), |word| word.store(value, ordering));
    }

    /// Returns a copy of the entry at an index. Its words are loaded one by one: a hostile producer can mix words of
    /// different entries.
    #[must_use]
    #[inline]
    pub fn entry(&self, index: u32) -> Entry {
        let offset = self.offset_of_entry(index);
        core::array::from_fn(|n| {
            self.long_word(offset + n * size_of::<u64>(), |word| {
                word.load(Ordering::Relaxed)
            })
        })
    }

    /// Writes the entry at an index.
    #[inline]
    pub fn set_entry(&self, index: u32, entry: &Entry) {
        let offset = self.offset_of_entry(index);
        for (n, value) in entry.iter().enumerate() {
            self.long_word(offset + n * size_of::<u64>(), |word| {
                word.store(*value, Ordering::Relaxed);
            });
        }
    }

    #[inline]
    const fn offset_of_entry(&self, index: u32) -> usize {
        // The capacity is a power of two.
        let slot = index & (self.capacity - 1);
        HEADER_LENGTH + slot as usize * ENTRY_LENGTH
    }

    /// Calls `access` with the word of 32 bits at `offset`, which is a multiple of 4 in the ring.
    #[inline]
    fn word<R>(&self, offset: usize, access: impl FnOnce(&AtomicU32) -> R) -> R {
        // SAFETY: every caller's offset lies in the header, which `new` checked to lie in the memory.
        let word = unsafe { self.start.add(offset) }.cast::<AtomicU32>();
        // SAFETY: `new` aligned the start to 64 and offsets in the header are multiples of 4; `self`
        // keeps the memory; atomic words may be written by others while they are referred to.
        access(unsafe { word.as_ref() })
    }

    /// Calls `access` with the word of 64 bits at `offset`, which is a multiple of 8 in the ring.
    #[inline]
    fn long_word<R>(&self, offset: usize, access: impl FnOnce(&AtomicU64) -> R) -> R {
        // SAFETY: every caller's offset lies in the header or, by `offset_of_entry`, in one of the
        // `capacity` entries, all of which `new` checked to lie in the memory.
        let word = unsafe { self.start.add(offset) }.cast::<AtomicU64>();
        // SAFETY: as in `word`; these offsets are multiples of 8.
        access(unsafe { word.as_ref() })
    }
}

impl fmt::Debug for RingMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "RingMemory({} entries in {:?})",
            self.capacity, self.memory
        )
    }
}

/// The fence of the ring's notification rule. It is here so that a model of the memory can replace it.
#[inline]
pub(super) fn fence(ordering: Ordering) {
    atomic::fence(ordering);
}

const fn index_of(side: Side) -> usize {
    match side {
        Side::Producer => offset_of!(Header, producer.word),
        Side::Consumer => offset_of!(Header, consumer.word),
    }
}

const fn sleeping_of(side: Side) -> usize {
    match side {
        Side::Producer => offset_of!(Header, producer_sleeping.word),
        Side::Consumer => offset_of!(Header, consumer_sleeping.word),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_the_bytes_of_a_file_between_two_mappings() {
        let file = Memfd::create("test", 10_000).unwrap();
        let (a, b) = (map(&file).unwrap(), map(&file).unwrap());
        assert_eq!(a.len(), 10_000);
        a.write(9_995, b"hello").unwrap();
        assert_eq!(b.to_vec(9_995, 5).unwrap(), b"hello");
    }

    #[test]
    fn opens_what_was_created() {
        let file = Memfd::create("test", 8192).unwrap();
        let (a, b) = (map(&file).unwrap(), map(&file).unwrap());
        // The earlier contents do not matter.
        a.write(0, &[0xff; 8192]).unwrap();
        let created = RingMemory::create(&a, 64).unwrap();
        let opened = RingMemory::open(&b).unwrap();
        assert_eq!(opened.capacity(), 64);
        for side in [Side::Producer, Side::Consumer] {
            assert_eq!(opened.index(side, Ordering::Relaxed), FIRST_INDEX);
            assert_eq!(opened.sleeping(side, Ordering::Relaxed), 0);
        }
        created.set_entry(63, &[1, 2, 3, 4, 5, 6, 7, 8]);
        created.set_entry(64, &[9; 8]);
        assert_eq!(opened.entry(63 + 64), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(b.to_vec(640, 8).unwrap(), 9u64.to_ne_bytes());
        assert_eq!(b.to_vec(640 + 64 * 64, 64).unwrap(), [0xff; 64]);
        created.set_index(Side::Producer, 5, Ordering::Relaxed);
        created.set_sleeping(Side::Consumer, 7, Ordering::Relaxed);
        assert_eq!(opened.index(Side::Producer, Ordering::Relaxed), 5);
        assert_eq!(opened.index(Side::Consumer, Ordering::Relaxed), FIRST_INDEX);
        assert_eq!(opened.sleeping(Side::Consumer, Ordering::Relaxed), 7);
        assert_eq!(opened.sleeping(Side::Producer, Ordering::Relaxed), 0);
    }

    #[test]
    fn writes_nothing_outside_its_own_ring() {
        let memory = Memory::zeroed(640 + 64 + 64);
        memory.write(0, &[0xaa; 768]).unwrap();
        let ring = RingMemory::create(&memory.part(0, 704).unwrap(), 1).unwrap();
        for index in [0, 1, 2, u32::MAX] {
            ring.set_entry(index, &[u64::MAX; 8]);
        }
        assert_eq!(memory.to_vec(704, 64).unwrap(), [0xaa; 64]);
    }

    #[test]
    fn refuses_a_ring_that_does_not_fit() {
        let memory = Memory::zeroed(704 + 63);
        for (memory, capacity, name) in [
            (memory.clone(), 2, "out_of_range"),
            (memory.clone(), 1 << 16, "out_of_range"),
            (memory.clone(), 0, "bad_capacity"),
            (memory.clone(), 3, "bad_capacity"),
            (memory.clone(), 1 << 17, "bad_capacity"),
            (memory.clone(), u32::MAX, "bad_capacity"),
            (memory.part(8, 704).unwrap(), 1, "misaligned"),
        ] {
            let error = RingMemory::create(&memory, capacity).unwrap_err();
            assert_eq!(error.name(), name, "{capacity}");
        }
        let error = RingMemory::open(&memory.part(0, 703).unwrap()).unwrap_err();
        assert_eq!(error.name(), "out_of_range");
    }

    #[test]
    fn refuses_a_header_with_any_word_wrong() {
        let memory = Memory::zeroed(8192);
        for (offset, value, name) in [
            (0, 0u32, "bad_magic"),
            (4, 0, "bad_magic"),
            (8, VERSION + 1, "bad_version"),
            (12, 128, "bad_entry_length"),
            (16, 0, "bad_capacity"),
            (16, 48, "bad_capacity"),
            (16, 128, "out_of_range"),
            (16, u32::MAX, "bad_capacity"),
            (20, 1, "reserved_not_zero"),
            (124, 1, "reserved_not_zero"),
        ] {
            RingMemory::create(&memory, 64).unwrap();
            memory.write(offset, &value.to_ne_bytes()).unwrap();
            let error = RingMemory::open(&memory).unwrap_err();
            assert_eq!(error.name(), name, "{offset}: {value}");
        }
    }
}
