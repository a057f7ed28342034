// SPDX-License-Identifier: GPL-2.0-or-later

//! The memory for received messages.

use alloc::vec::Vec;

use crate::fabric::ConnId;
use crate::sys::Memory;

/// The memory into which incoming messages of the upper layer are put: heap, or an arena shared with another process.
pub trait MessageBuffers {
    /// A buffer, which is lost if it is dropped without [`release`](Self::release).
    type Buffer;

    /// Returns a buffer for a message of `length` bytes: the length that the peer announced, from 1 to
    /// `max_fragmented_size`. After `None`, the message waits, and the peer's credits with it, until
    /// `Transport::buffers_available` or `Transport::recycle` is called.
    fn allocate(&mut self, conn: ConnId, length: u32) -> Option<Self::Buffer>;

    /// Returns a buffer as [`allocate`](Self::allocate) does, for a message of which only the first fragment has
    /// arrived. The rest may take long or never come, so an owner whose memory many connections share may put such a
    /// message elsewhere.
    fn begin(&mut self, conn: ConnId, length: u32) -> Option<Self::Buffer> {
        self.allocate(conn, length)
    }

    /// Copies `length` bytes at `source_offset` of `source` to `offset` of the message. Fragments
    /// come in order and without gaps, and end at the length that was allocated.
    fn fill(
        &mut self,
        buffer: &mut Self::Buffer,
        offset: u32,
        source: &Memory,
        source_offset: usize,
        length: usize,
    );

    /// Says that the peer has gone. Messages that arrived before and wait for a buffer will ask for a buffer a last
    /// time, and are lost if they get none; the memory that holds them is about to be given up.
    fn last_call(&mut self, _conn: ConnId) {}

    /// Takes a buffer back, because the owner no longer needs the message, or because it will never be complete.
    fn release(&mut self, buffer: Self::Buffer);
}

/// Buffers on the heap, which are reused.
#[derive(Debug)]
pub struct HeapBuffers {
    small: Vec<Vec<u8>>,
    large: Vec<Vec<u8>>,
    out: usize,
    limit: usize,
}

/// A buffer whose capacity is at most this is kept for small messages.
const SMALL: usize = 8 * 1024;
/// Number of free small buffers to keep: 8 MiB at most.
const KEPT_SMALL: usize = 1024;
/// Number of free large buffers to keep.
const KEPT_LARGE: usize = 16;

impl HeapBuffers {
    /// Makes buffers without a limit on their number.
    #[must_use]
    pub fn new() -> Self {
        Self::with_limit(usize::MAX)
    }

    /// Makes buffers of which at most `limit` are given out at a time.
    #[must_use]
    pub fn with_limit(limit: usize) -> Self {
        Self {
            small: Vec::new(),
            large: Vec::new(),
            out: 0,
            limit,
        }
    }

    /// Returns the number of buffers that were allocated and not yet released.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.out
    }
}

impl Default for HeapBuffers {
    fn default() -> Self {
        Self::new()
    }
}

impl MessageBuffers for HeapBuffers {
    type Buffer = Vec<u8>;

    #[inline]
    fn allocate(&mut self, _: ConnId, length: u32) -> Option<Vec<u8>> {
        if self.out >= self.limit {
            return None;
        }
        self.out += 1;
        let free = if length as usize <= SMALL {
            &mut self.small
        } else {
            &mut self.large
        };
        let mut buffer = free.pop().unwrap_or_default();
        buffer.reserve_exact(length as usize);
        Some(buffer)
    }

    #[inline]
    fn fill(
        &mut self,
        buffer: &mut Vec<u8>,
        _: u32,
        source: &Memory,
        source_offset: usize,
        length: usize,
    ) {
        // Fragments come in order, so this fragment always belongs at the end of the buffer. The range lies in the
        // receive slot in which the fragment arrived, so the copy cannot fail.
        let copied = source.append_to(source_offset, length, buffer);
        debug_assert!(copied.is_ok(), "a fragment lies in its slot");
    }

    #[inline]
    fn release(&mut self, mut buffer: Vec<u8>) {
        self.out = self.out.saturating_sub(1);
        buffer.clear();
        let (free, kept) = if buffer.capacity() <= SMALL {
            (&mut self.small, KEPT_SMALL)
        } else {
            (&mut self.large, KEPT_LARGE)
        };
        if free.len() < kept {
            free.push(buffer);
        }
    }
}
