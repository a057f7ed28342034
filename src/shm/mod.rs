// SPDX-License-Identifier: GPL-2.0-or-later

//! Memory that two processes share, and through which they communicate without trusting each other.
//!
//! A device and the processes that use it share two kinds of memory that both have mapped, each a sealed memory
//! file (`Memfd`) or pages of a kernel:
//!
//! | | made by | holds |
//! |---|---|---|
//! | [`ring`] | [`RingMemory::create`] | a [`Producer`] and a [`Consumer`] of 64-byte entries, which wake each other by a [`Doorbell`] |
//! | [`buffers`] | the device, [`Buffers::add`] | bulk data and messages; who may use which part is private to the side that gives it out |
//!
//! ```text
//!        one process                     shared                       the other
//!   Producer, private indexes  --->  ring (map, layout)  --->  Consumer, private indexes
//!   Consumer                   <---  another ring        <---  Producer
//!   Buffers, private bitmaps         segments of bytes         learns of buffers by entries
//! ```
//!
//! Everything in shared memory is read once, checked, and then used from the private copy, in release builds, too. Only
//! `map` has `unsafe`. This module does not know what entries mean, which processes connect, or what happens to a
//! process whose ring is corrupt. It must never wait, and must never rely on state that the other side can write.

pub mod buffers;
#[cfg(feature = "shm")]
mod doorbell;
mod layout;
#[allow(unsafe_code)]
mod map;
pub mod ring;

#[cfg(feature = "broker")]
pub(crate) use buffers::KeptSegment;
pub use buffers::{Buffer, Buffers};
pub use layout::{
    ENTRY_LENGTH, ENTRY_WORDS, Entry, FIRST_INDEX, HEADER_LENGTH, MAX_CAPACITY, Side, VERSION,
    is_capacity, ring_length,
};
#[cfg(feature = "shm")]
pub use map::map;
pub use map::{NoRing, RingMemory};
#[cfg(feature = "broker")]
pub(crate) use ring::KeptHalf;
pub use ring::{Consumer, Doorbell, Producer, RingCorrupt};
