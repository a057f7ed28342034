// SPDX-License-Identifier: GPL-2.0-or-later

//! The blocks on their way to the process that captures.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use crate::fabric::pcapng::Statistics;
use crate::sys::SeqSocket;

/// Maximum number of bytes that wait for the process, besides those in the socket.
const MOST: usize = 4 << 20;
/// Number of bytes in one message of the socket, unless a single block has more.
const BATCH: usize = 32 << 10;
/// Maximum number of messages sent in one round.
const ROUND: usize = 16;

/// Blocks for a process, whole and in order; blocks for which there is no room are dropped and counted. Nothing here
/// waits.
#[derive(Debug)]
pub(super) struct Outbox {
    socket: Arc<SeqSocket>,
    batches: VecDeque<Vec<u8>>,
    /// Number of bytes in `batches`.
    waiting: usize,
    received: u64,
    dropped: u64,
    /// The process has closed the socket.
    is_closed: bool,
}

impl Outbox {
    pub(super) fn new(socket: Arc<SeqSocket>) -> Self {
        Self {
            socket,
            batches: VecDeque::new(),
            waiting: 0,
            received: 0,
            dropped: 0,
            is_closed: false,
        }
    }

    /// Adds the last block, for which there is always room: the statistics of `interface`, with the reason why its
    /// packets end at the time `at` since 1970.
    pub(super) fn finish(&mut self, interface: u32, reason: &str, at: Duration) {
        let statistics = Statistics {
            interface,
            received: self.received,
            dropped: self.dropped,
            comment: reason.to_owned(),
        };
        self.add(&statistics.emit(at));
    }

    fn add(&mut self, block: &[u8]) {
        self.waiting += block.len();
        match self.batches.back_mut() {
            Some(batch) if batch.len() + block.len() <= BATCH => batch.extend_from_slice(block),
            _ => self.batches.push_back(block.to_vec()),
        }
    }

    /// Sends as much as the socket takes now.
    pub(super) fn deliver(&mut self) {
        for _ in 0..ROUND {
            let Some(batch) = self.batches.front() else {
                return;
            };
            match self.socket.send(batch, &[]) {
                Ok(()) => {
                    self.waiting -= batch.len();
                    self.batches.pop_front();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Memory may be short for a moment: the next round tries again.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return,
                Err(_) => {
                    self.is_closed = true;
                    return;
                }
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    pub(super) const fn is_closed(&self) -> bool {
        self.is_closed
    }
}

impl Write for Outbox {
    /// Takes one block, or drops it.
    fn write(&mut self, block: &[u8]) -> io::Result<usize> {
        self.received += 1;
        if self.waiting + block.len() > MOST {
            self.dropped += 1;
        } else {
            self.add(block);
        }
        Ok(block.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: usize = 1000;

    fn outbox() -> (Outbox, SeqSocket) {
        let (ours, theirs) = SeqSocket::pair().unwrap();
        (Outbox::new(Arc::new(ours)), theirs)
    }

    /// Reads all that has come, and returns the number of bytes and the statistics among them.
    fn read(theirs: &SeqSocket) -> (usize, Vec<Statistics>) {
        let mut buffer = vec![0; 128 << 10];
        let (mut length, mut found) = (0, Vec::new());
        while let Ok(received) = theirs.receive(&mut buffer) {
            length += received.length;
            found.extend(Statistics::all_in(&buffer[..received.length]));
        }
        (length, found)
    }

    #[test]
    fn a_reader_that_is_too_slow_loses_whole_blocks_and_learns_how_many() {
        let (mut outbox, theirs) = outbox();
        let blocks = 2 * MOST / BLOCK;
        for _ in 0..blocks {
            // A block of another kind than statistics.
            outbox.write_all(&[0; BLOCK]).unwrap();
            outbox.deliver();
        }
        assert!(outbox.waiting <= MOST && outbox.dropped > 0);
        outbox.finish(3, "because", Duration::ZERO);
        let (mut length, mut last) = (0, Vec::new());
        while !outbox.is_empty() {
            outbox.deliver();
            let (read, _) = read(&theirs);
            length += read;
        }
        last.push(outbox.dropped);
        let statistics = Statistics {
            interface: 3,
            received: blocks as u64,
            dropped: last[0],
            comment: "because".to_owned(),
        };
        let kept = blocks - usize::try_from(last[0]).unwrap();
        assert_eq!(length, kept * BLOCK + statistics.emit(Duration::ZERO).len());
        assert_eq!((outbox.waiting, outbox.is_closed()), (0, false));
    }

    #[test]
    fn the_last_block_is_the_statistics() {
        let (mut outbox, theirs) = outbox();
        outbox.finish(1, "why", Duration::ZERO);
        outbox.deliver();
        let (_, found) = read(&theirs);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].interface, &*found[0].comment), (1, "why"));
    }

    #[test]
    fn a_reader_that_has_gone_is_noticed() {
        let (mut outbox, theirs) = outbox();
        drop(theirs);
        outbox.write_all(&[0; BLOCK]).unwrap();
        assert!(!outbox.is_closed());
        outbox.deliver();
        assert!(outbox.is_closed());
    }
}
