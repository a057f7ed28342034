// SPDX-License-Identifier: GPL-2.0-or-later

//! The memory of a simulation: what is under way, and what must arrive where.

use std::collections::{HashMap, VecDeque};
use std::sync::LazyLock;

use fastrand::Rng;
use smbdirect::fabric::{ConnId, Region};
use smbdirect::sys::Memory;
use smbdirect::transport::{HeapBuffers, MessageBuffers};

/// Everything that is sent, written or read is a piece of these bytes.
pub(crate) static CONTENT: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut rng = Rng::with_seed(1);
    (0..1 << 17).map(|_| rng.u8(..)).collect()
});

/// The memory for the peer's writes or this side's reads, in bytes. No byte is used twice.
pub(crate) const SINK: u32 = 1 << 20;

#[derive(Debug, Default)]
pub(crate) struct Sum {
    pub(crate) messages: u64,
    pub(crate) written: u64,
    pub(crate) read: u64,
    pub(crate) flushed: u64,
    pub(crate) injected: u64,
    pub(crate) waits: u64,
    pub(crate) refused: u64,
    pub(crate) aborted: u64,
}

impl Sum {
    pub(crate) fn add(&mut self, other: &Self) {
        self.messages += other.messages;
        self.written += other.written;
        self.read += other.read;
        self.flushed += other.flushed;
        self.injected += other.injected;
        self.waits += other.waits;
        self.refused += other.refused;
        self.aborted += other.aborted;
    }
}

/// Buffers on the heap that are sometimes unavailable.
pub(crate) struct Scarce {
    pub(crate) heap: HeapBuffers,
    pub(crate) shortage: bool,
    pub(crate) refused: u64,
}

impl MessageBuffers for Scarce {
    type Buffer = Vec<u8>;

    fn allocate(&mut self, conn: ConnId, length: u32) -> Option<Vec<u8>> {
        if self.shortage {
            self.refused += 1;
            return None;
        }
        self.heap.allocate(conn, length)
    }

    fn fill(&mut self, buffer: &mut Vec<u8>, offset: u32, source: &Memory, at: usize, n: usize) {
        assert_eq!(buffer.len(), offset as usize, "a gap between fragments");
        self.heap.fill(buffer, offset, source, at, n);
    }

    fn release(&mut self, buffer: Vec<u8>) {
        self.heap.release(buffer);
    }
}

/// A piece of [`CONTENT`] and its target in a sink.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) content: usize,
    pub(crate) at: usize,
    pub(crate) length: usize,
}

#[derive(Debug)]
pub(crate) enum Operation {
    Send,
    Write,
    Read(Vec<Piece>),
}

/// A message to come: the offset in [`CONTENT`] at which it begins, and what was written before it.
#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) content: usize,
    pub(crate) length: usize,
    pub(crate) written: Vec<Piece>,
}

/// One end of an established connection.
pub(crate) struct End {
    pub(crate) peer: ConnId,
    /// [`CONTENT`], which the peer may read.
    pub(crate) source: Region,
    pub(crate) sink: Memory,
    pub(crate) sink_region: Region,
    /// The offset of the unused part of the sink.
    pub(crate) unused: u32,
    /// What the peer has queued, in order.
    pub(crate) expected: VecDeque<Expected>,
    /// What was queued for writing to the peer since the last message.
    pub(crate) writing: Vec<Piece>,
    pub(crate) outstanding: HashMap<u64, Operation>,
    /// Whether everything that the peer has queued must arrive: neither end vanishes, and this one does not close.
    pub(crate) reliable: bool,
}

pub(crate) fn check(sink: &Memory, pieces: &[Piece]) {
    for Piece {
        content,
        at,
        length,
    } in pieces
    {
        let there = sink.to_vec(*at, *length).unwrap();
        assert!(
            there == CONTENT[*content..][..*length],
            "wrong bytes in the sink"
        );
        let around = [sink.to_vec(at - 1, 1), sink.to_vec(at + length, 1)];
        assert!(
            around.iter().all(|byte| *byte == Ok(vec![0])),
            "bytes were written beyond the data"
        );
    }
}
