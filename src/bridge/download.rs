// SPDX-License-Identifier: GPL-2.0-or-later

//! Messages from the server to the client, unchanged, each after a header of four bytes.
//!
//! A message is assembled directly after its header, so that one system call sends many messages without copying them
//! first. The memory of a connection is limited here, because this module gives out buffers: a client that does not
//! read gives none back, so its server runs out of credits, and no other client notices.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;
use std::io;
use std::os::fd::BorrowedFd;

use super::framing::{HEADER_LENGTH, header};
use crate::fabric::ConnId;
use crate::sys::{IoVecs, Memory};
use crate::transport::{HeapBuffers, MessageBuffers, PlainHasher};

/// A connection that holds fewer bytes of buffers than this gets another buffer, of any size.
const LIMIT: usize = 1 << 20;
/// The cost of a message besides its bytes.
const OVERHEAD: usize = 64;

/// A message for the client, after its header.
#[derive(Debug)]
pub(super) struct Message {
    bytes: Vec<u8>,
    /// The connection for which the message's memory is counted, and the number of bytes. A message of the bridge
    /// itself is not counted.
    payer: Option<(ConnId, usize)>,
}

impl Message {
    /// Makes a message of the bridge itself, header included.
    pub(super) fn own(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.to_vec(),
            payer: None,
        }
    }

    /// Returns whether the server sent the message.
    pub(super) const fn is_of_server(&self) -> bool {
        self.payer.is_some()
    }
}

/// Buffers, and how many bytes of them each connection holds.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    heap: HeapBuffers,
    /// The connection whose server has gone. [`LIMIT`] no longer applies to it: its last messages are already in
    /// memory, so their number is bounded.
    last_call: Option<ConnId>,
    held: HashMap<ConnId, usize, BuildHasherDefault<PlainHasher>>,
}

impl MessageBuffers for Buffers {
    type Buffer = Message;

    fn allocate(&mut self, conn: ConnId, length: u32) -> Option<Message> {
        let held = self.held.entry(conn).or_default();
        if *held >= LIMIT && self.last_call != Some(conn) {
            return None;
        }
        let whole = length.saturating_add(HEADER_LENGTH as u32);
        let mut bytes = self.heap.allocate(conn, whole)?;
        bytes.extend_from_slice(&header(length));
        let cost = bytes.capacity() + OVERHEAD;
        *held += cost;
        Some(Message {
            bytes,
            payer: Some((conn, cost)),
        })
    }

    fn fill(
        &mut self,
        buffer: &mut Message,
        offset: u32,
        source: &Memory,
        source_offset: usize,
        length: usize,
    ) {
        // The bytes are appended, because the header is already there.
        self.heap
            .fill(&mut buffer.bytes, offset, source, source_offset, length);
    }

    fn last_call(&mut self, conn: ConnId) {
        self.last_call = Some(conn);
    }

    fn release(&mut self, buffer: Message) {
        let Some((conn, cost)) = buffer.payer else {
            return;
        };
        if let Some(held) = self.held.get_mut(&conn) {
            *held = held.saturating_sub(cost);
            if *held == 0 {
                self.held.remove(&conn);
            }
        }
        self.heap.release(buffer.bytes);
    }
}

/// The messages that a client has not taken yet.
#[derive(Debug, Default)]
pub(super) struct Download {
    queue: VecDeque<Message>,
    /// Number of bytes of the first message that have been sent.
    done: usize,
}

/// The result of [`Download::send`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sent {
    /// Number of bytes that the socket took.
    pub(super) bytes: usize,
    /// Whether the socket takes no more for now.
    pub(super) full: bool,
}

impl Download {
    pub(super) fn push(&mut self, message: Message) {
        self.queue.push_back(message);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Sends in one system call as much as the socket takes.
    pub(super) fn send(&self, vecs: &mut IoVecs, socket: BorrowedFd<'_>) -> io::Result<Sent> {
        let mut out = vecs.send();
        let mut done = self.done;
        for message in &self.queue {
            if out.room() == 0 {
                break;
            }
            out.push(message.bytes.get(done..).unwrap_or_default());
            done = 0;
        }
        match out.send(socket) {
            // The socket may take more, even if it did not take everything.
            Ok(bytes) => Ok(Sent { bytes, full: false }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Sent {
                bytes: 0,
                full: true,
            }),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Sent::default()),
            Err(error) => Err(error),
        }
    }

    /// Counts up to `bytes` more bytes of the first message as sent. If that completes the message, takes it out, and
    /// returns it with the number of its bytes that the server sent.
    pub(super) fn take_sent(&mut self, bytes: &mut usize) -> Option<(Message, usize)> {
        let first = self.queue.front()?;
        let rest = first.bytes.len() - self.done;
        if *bytes < rest {
            self.done += std::mem::take(bytes);
            return None;
        }
        *bytes -= rest;
        self.done = 0;
        let message = self.queue.pop_front()?;
        let payload = message.bytes.len().saturating_sub(HEADER_LENGTH);
        Some((message, payload))
    }

    /// Takes out the first message, whether it has been sent or not.
    pub(super) fn discard(&mut self) -> Option<Message> {
        self.done = 0;
        self.queue.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use slotmap::SlotMap;

    use super::*;

    #[test]
    fn a_connection_that_holds_too_much_memory_gets_no_more_while_others_do() {
        let mut ids = SlotMap::<ConnId, ()>::with_key();
        let (a, b) = (ids.insert(()), ids.insert(()));
        let mut buffers = Buffers::default();
        let first = buffers.allocate(a, 8 << 20).unwrap();
        assert!(buffers.allocate(a, 1).is_none());
        assert!(buffers.allocate(b, 1).is_some());
        buffers.last_call(a);
        let last = buffers.allocate(a, 1).unwrap();
        buffers.release(first);
        buffers.release(last);
        assert!(buffers.allocate(a, 1).is_some());
    }

    #[test]
    fn small_messages_count_with_their_overhead() {
        let mut ids = SlotMap::<ConnId, ()>::with_key();
        let conn = ids.insert(());
        let mut buffers = Buffers::default();
        let mut held = Vec::new();
        while let Some(message) = buffers.allocate(conn, 1) {
            held.push(message);
        }
        assert!(held.len() <= LIMIT / OVERHEAD, "{}", held.len());
        held.drain(..).for_each(|message| buffers.release(message));
        assert!(buffers.held.is_empty());
    }

    #[test]
    fn messages_leave_whole_and_in_order_however_little_the_socket_takes() {
        let (a, mut b) = UnixStream::pair().unwrap();
        a.set_nonblocking(true).unwrap();
        b.set_nonblocking(true).unwrap();
        let (mut download, mut expected) = (Download::default(), Vec::new());
        for n in 0..600u32 {
            let bytes: Vec<u8> = (0..n * 7).map(|i| (i + n) as u8).collect();
            expected.extend_from_slice(&header(bytes.len() as u32));
            expected.extend_from_slice(&bytes);
            download.push(Message {
                bytes: [&header(bytes.len() as u32)[..], &bytes].concat(),
                payer: None,
            });
        }
        let (mut vecs, mut received, mut payload) = (IoVecs::new(), Vec::new(), 0);
        while !download.is_empty() {
            let mut sent = download.send(&mut vecs, a.as_fd()).unwrap();
            while let Some((_, bytes)) = download.take_sent(&mut sent.bytes) {
                payload += bytes;
            }
            let mut chunk = [0; 10_000];
            if let Ok(n) = b.read(&mut chunk) {
                received.extend_from_slice(&chunk[..n]);
            }
        }
        b.set_nonblocking(false).unwrap();
        drop(a);
        b.read_to_end(&mut received).unwrap();
        assert!(received == expected);
        assert_eq!(payload, expected.len() - 600 * HEADER_LENGTH);
    }
}
