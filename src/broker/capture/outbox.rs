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

/// An error: the socket never takes a message of this many bytes, so waiting would not help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the socket takes no message of {0} bytes (sysctl net.core.wmem_default)")]
pub(super) struct MessageTooLong(usize);

/// Blocks for a process, whole and in order; blocks for which there is no room are dropped and counted. Nothing here
/// waits.
#[derive(Debug)]
pub(super) struct Outbox {
    socket: Arc<SeqSocket>,
    batches: VecDeque<Batch>,
    /// Number of bytes in `batches`.
    waiting: usize,
    received: u64,
    dropped: u64,
    /// The end, until the process has been told of it.
    last: Option<Last>,
    /// The process has closed the socket.
    is_closed: bool,
}

/// Blocks that go in one message.
#[derive(Debug)]
struct Batch {
    bytes: Vec<u8>,
    blocks: u64,
}

/// What the last block says besides the numbers, which are known only when it is sent.
#[derive(Debug)]
struct Last {
    interface: u32,
    reason: String,
    at: Duration,
}

/// What became of a message.
enum Sent {
    Yes,
    /// The next round tries again.
    Later,
    TooLong,
    Closed,
}

impl Outbox {
    pub(super) fn new(socket: Arc<SeqSocket>) -> Self {
        Self {
            socket,
            batches: VecDeque::new(),
            waiting: 0,
            received: 0,
            dropped: 0,
            last: None,
            is_closed: false,
        }
    }

    /// Adds the last block, for which there is always room: the statistics of `interface`, with the reason why its
    /// packets end at the time `at` since 1970.
    pub(super) fn finish(&mut self, interface: u32, reason: &str, at: Duration) {
        let reason = reason.to_owned();
        self.last = Some(Last {
            interface,
            reason,
            at,
        });
    }

    fn add(&mut self, block: &[u8]) {
        self.waiting += block.len();
        match self.batches.back_mut() {
            Some(batch) if batch.bytes.len() + block.len() <= BATCH => {
                batch.bytes.extend_from_slice(block);
                batch.blocks += 1;
            }
            _ => self.batches.push_back(Batch {
                bytes: block.to_vec(),
                blocks: 1,
            }),
        }
    }

    /// Sends as much as the socket takes now.
    ///
    /// # Errors
    ///
    /// The socket never takes the next message. Everything that waited, except the last block, is dropped and counted.
    pub(super) fn deliver(&mut self) -> Result<(), MessageTooLong> {
        for _ in 0..ROUND {
            let Some(batch) = self.batches.front() else {
                self.deliver_last();
                return Ok(());
            };
            let length = batch.bytes.len();
            match self.send(&batch.bytes) {
                Sent::Yes => {
                    self.waiting -= length;
                    self.batches.pop_front();
                }
                Sent::Later => return Ok(()),
                Sent::TooLong => {
                    let dropped = self.batches.drain(..).map(|batch| batch.blocks);
                    self.dropped += dropped.sum::<u64>();
                    self.waiting = 0;
                    return Err(MessageTooLong(length));
                }
                Sent::Closed => {
                    self.is_closed = true;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn deliver_last(&mut self) {
        let Some(last) = &self.last else {
            return;
        };
        let statistics = Statistics {
            interface: last.interface,
            received: self.received,
            dropped: self.dropped,
            comment: last.reason.clone(),
        };
        match self.send(&statistics.emit(last.at)) {
            Sent::Yes => self.last = None,
            Sent::Later => {}
            // This block is shorter than what the smallest socket takes.
            Sent::TooLong | Sent::Closed => self.is_closed = true,
        }
    }

    fn send(&self, message: &[u8]) -> Sent {
        let Err(error) = self.socket.send(message, &[]) else {
            return Sent::Yes;
        };
        match error.raw_os_error() {
            _ if error.kind() == io::ErrorKind::WouldBlock => Sent::Later,
            // Memory may be short for a moment.
            Some(libc::ENOBUFS) => Sent::Later,
            Some(libc::EMSGSIZE) => Sent::TooLong,
            _ => Sent::Closed,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.last.is_none()
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
            outbox.deliver().unwrap();
        }
        assert!(outbox.waiting <= MOST && outbox.dropped > 0);
        outbox.finish(3, "because", Duration::ZERO);
        let (mut length, mut last) = (0, Vec::new());
        while !outbox.is_empty() {
            outbox.deliver().unwrap();
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
        outbox.deliver().unwrap();
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
        outbox.deliver().unwrap();
        assert!(outbox.is_closed());
    }

    #[test]
    fn what_the_socket_never_takes_is_counted_and_makes_room_for_the_last_block() {
        let (mut outbox, theirs) = outbox();
        // The smallest that Linux allows.
        rustix::net::sockopt::set_socket_send_buffer_size(&*outbox.socket, 1).unwrap();
        outbox.write_all(&[0; BLOCK]).unwrap();
        outbox.deliver().unwrap();
        for _ in 0..10 {
            outbox.write_all(&[0; BLOCK]).unwrap();
        }
        assert_eq!(outbox.deliver(), Err(MessageTooLong(10 * BLOCK)));
        outbox.finish(1, "why", Duration::ZERO);
        let mut last = Vec::new();
        while !outbox.is_empty() {
            outbox.deliver().unwrap();
            let (_, found) = read(&theirs);
            last.extend(found.iter().map(|it| (it.received, it.dropped)));
        }
        assert_eq!(last, [(11, 10)]);
        assert_eq!((outbox.waiting, outbox.is_closed()), (0, false));
    }
}
