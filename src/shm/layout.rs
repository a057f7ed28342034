// SPDX-License-Identifier: GPL-2.0-or-later

//! The bytes of a ring: the place of each word, and which side may write it.
//!
//! ```text
//!  offset
//!       0  magic, version, entry length, capacity, 0 ...   the creator, before the other side looks
//!     128  producer's index      u32                       the producer
//!     256  consumer's index      u32                       the consumer
//!     384  producer's sleeping   u64                       the producer
//!     512  consumer's sleeping   u64                       the consumer
//!     640  entry 0               [u64; 8]                  the producer
//!     704  entry 1
//!     ...  entry capacity - 1
//! ```
//!
//! Words are in the byte order of the machine: both processes run on it. Each word of the header that changes has 128
//! bytes of its own, a pair of cache lines, because processors fetch them in pairs. Index `n` of an entry, counted
//! without end modulo 2^32, is in slot `n % capacity`.

use core::mem::offset_of;

/// A message from one side to the other: 64 bytes whose meaning the ring does not know.
pub type Entry = [u64; 8];

/// Number of bytes of an entry.
pub const ENTRY_LENGTH: usize = size_of::<Entry>();

/// Number of words of an entry.
pub const ENTRY_WORDS: usize = 8;

/// Maximum number of entries of a ring. Like every capacity, it is a power of two.
pub const MAX_CAPACITY: u32 = 1 << 16;

/// The version of this layout. A ring of another version is refused.
pub const VERSION: u32 = 1;

/// The index with which both sides begin: near the end of the numbers, so that every ring, in service or under test,
/// soon wraps around.
pub const FIRST_INDEX: u32 = u32::MAX - 255;

/// One of the two sides of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The side that fills entries.
    Producer,
    /// The side that takes entries out.
    Consumer,
}

impl Side {
    /// Returns the side with which this one shares the ring.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Producer => Self::Consumer,
            Self::Consumer => Self::Producer,
        }
    }
}

/// The magic number, which is `SMBDRING` in the memory of a little-endian machine.
pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"SMBDRING");

/// Alignment of a ring's start in memory, in bytes. The memory may be aligned to less than the pair
/// of cache lines that keeps the words apart: that costs speed only.
pub(super) const ALIGNMENT: usize = 64;

/// The words that never change once the creator has written them.
#[repr(C)]
pub(super) struct Constants {
    pub(super) magic: u64,
    pub(super) version: u32,
    /// Number of bytes of an entry.
    pub(super) entry_length: u32,
    /// Number of entries.
    pub(super) capacity: u32,
    /// Must be 0.
    pub(super) reserved: [u32; 27],
}

/// An index in a pair of cache lines of its own.
#[repr(C)]
pub(super) struct Index {
    pub(super) word: u32,
    unused: [u32; 31],
}

/// A sleeping word in a pair of cache lines of its own.
#[repr(C)]
pub(super) struct Sleeping {
    pub(super) word: u64,
    unused: [u64; 15],
}

/// The start of a ring. This structure is never made or referred to, and only names the offsets.
#[repr(C)]
pub(super) struct Header {
    pub(super) constants: Constants,
    pub(super) producer: Index,
    pub(super) consumer: Index,
    pub(super) producer_sleeping: Sleeping,
    pub(super) consumer_sleeping: Sleeping,
}

/// Length of the header in bytes; the entries follow.
pub const HEADER_LENGTH: usize = size_of::<Header>();

const _: () = {
    assert!(size_of::<Constants>() == 128);
    assert!(size_of::<Index>() == 128);
    assert!(size_of::<Sleeping>() == 128);
    // There is no padding: the parts fill the whole.
    assert!(HEADER_LENGTH == 5 * 128);
    assert!(offset_of!(Constants, version) == 8);
    assert!(offset_of!(Constants, entry_length) == 12);
    assert!(offset_of!(Constants, capacity) == 16);
    assert!(offset_of!(Constants, reserved) == 20);
    assert!(offset_of!(Header, producer) == 128);
    assert!(offset_of!(Header, consumer) == 256);
    assert!(offset_of!(Header, producer_sleeping) == 384);
    assert!(offset_of!(Header, consumer_sleeping) == 512);
    assert!(HEADER_LENGTH % ALIGNMENT == 0);
    assert!(ENTRY_LENGTH == 64 && ENTRY_LENGTH == ENTRY_WORDS * size_of::<u64>());
};

/// Returns whether a ring can have this many entries: a power of two, at most [`MAX_CAPACITY`].
#[must_use]
pub const fn is_capacity(capacity: u32) -> bool {
    capacity.is_power_of_two() && capacity <= MAX_CAPACITY
}

/// Returns the length of a ring of `capacity` entries, in bytes; `None` if a ring cannot have so many.
#[must_use]
pub const fn ring_length(capacity: u32) -> Option<usize> {
    if is_capacity(capacity) {
        // The length is at most 4 MiB and a header.
        Some(HEADER_LENGTH + capacity as usize * ENTRY_LENGTH)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_length_of_its_header_and_entries() {
        assert_eq!(ring_length(1), Some(704));
        assert_eq!(ring_length(256), Some(640 + 16_384));
        assert_eq!(ring_length(MAX_CAPACITY), Some(640 + (4 << 20)));
        for capacity in [0, 3, 100, MAX_CAPACITY + 1, MAX_CAPACITY * 2, u32::MAX] {
            assert_eq!(ring_length(capacity), None, "{capacity}");
        }
    }
}
