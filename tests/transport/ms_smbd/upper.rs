// SPDX-License-Identifier: GPL-2.0-or-later

//! The upper layer of the acceptor. It does what the first byte of a message asks for.
//!
//! This layer knows what every message must look like, so it notices a wrongly assembled message when the message
//! arrives, not only in an echo.

use std::collections::{HashMap, VecDeque};

use smbdirect::fabric::iwarp::Iwarp;
use smbdirect::fabric::{Access, ConnId, Region, Sge};
use smbdirect::sys::Memory;
use smbdirect::transport::{Event, HeapBuffers, SendError, Transport};

pub(crate) type Server = Transport<Iwarp, HeapBuffers>;

/// The memory for the replies of one connection: one reply of the largest size, and some small ones.
const MEMORY: usize = 2 << 20;

/// Makes a message that is sent back unchanged.
pub(crate) fn echo(length: usize) -> Vec<u8> {
    message(b'E', length)
}

/// Makes a message that gets no reply.
pub(crate) fn silence(length: usize) -> Vec<u8> {
    message(b'S', length)
}

/// Makes a message that must never be delivered.
pub(crate) fn poison(length: usize) -> Vec<u8> {
    message(b'!', length)
}

/// Makes a message that gets `count` replies of `length` bytes: see [`reply`].
pub(crate) fn replies(count: u32, length: u32) -> Vec<u8> {
    [&[b'R'][..], &count.to_le_bytes(), &length.to_le_bytes()].concat()
}

/// Makes the reply with this index.
pub(crate) fn reply(index: u32, length: u32) -> Vec<u8> {
    pattern(u64::from(index), length as usize)
}

fn message(kind: u8, length: usize) -> Vec<u8> {
    let mut bytes = pattern(length as u64, length);
    if let Some(first) = bytes.first_mut() {
        *first = kind;
    }
    bytes
}

fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// The acceptor's connections, and what they still have to send.
#[derive(Default)]
pub(crate) struct Upper {
    ends: HashMap<ConnId, End>,
}

struct End {
    memory: Memory,
    region: Region,
    /// The bytes of the memory that is used by replies under way.
    used: u32,
    under_way: usize,
    replies: VecDeque<Vec<u8>>,
}

impl Upper {
    pub(crate) fn handle(&mut self, server: &mut Server, event: Event<Vec<u8>>) {
        match event {
            Event::Established { conn, .. } => {
                let memory = Memory::zeroed(MEMORY);
                let region = server.register(conn, &memory, Access::Local).unwrap();
                let end = End {
                    memory,
                    region,
                    used: 0,
                    under_way: 0,
                    replies: VecDeque::new(),
                };
                assert!(self.ends.insert(conn, end).is_none());
            }
            Event::Message {
                conn,
                buffer,
                length,
            } => {
                assert_eq!(buffer.len(), length as usize);
                let end = self.ends.get_mut(&conn).unwrap();
                end.ask(&buffer);
                server.recycle(buffer);
                end.send(server, conn);
            }
            Event::Sent { conn, result, .. } => {
                let end = self.ends.get_mut(&conn).unwrap();
                end.under_way -= 1;
                if result.is_ok() {
                    end.send(server, conn);
                }
            }
            Event::Closed { conn, .. } => {
                let end = self.ends.remove(&conn).unwrap();
                assert_eq!(end.under_way, 0, "a reply that never ended");
            }
            other => panic!("{other:?}"),
        }
    }
}

impl End {
    fn ask(&mut self, message: &[u8]) {
        match message[0] {
            b'E' => {
                assert!(message == echo(message.len()), "a message arrived damaged");
                self.replies.push_back(message.to_vec());
            }
            b'S' => assert!(
                message == silence(message.len()),
                "a message arrived damaged"
            ),
            b'R' => {
                let number =
                    |at: usize| u32::from_le_bytes(message[at..at + 4].try_into().unwrap());
                let (count, length) = (number(1), number(5));
                assert_eq!(message, replies(count, length));
                self.replies
                    .extend((0..count).map(|index| reply(index, length)));
            }
            _ => panic!("a message was delivered that had to end its connection"),
        }
    }

    /// Sends as many replies as fit into the memory.
    fn send(&mut self, server: &mut Server, conn: ConnId) {
        if self.under_way == 0 {
            self.used = 0;
        }
        while let Some(reply) = self.replies.front() {
            let length = u32::try_from(reply.len()).unwrap();
            if self.used as usize + reply.len() > MEMORY {
                return;
            }
            self.memory.write(self.used as usize, reply).unwrap();
            let source = Sge {
                region: self.region.id,
                offset: self.used,
                length,
            };
            match server.send(conn, 0, source, None) {
                Ok(()) => {}
                // Whatever followed the message has ended the connection.
                Err(SendError::NotEstablished) => return,
                Err(error) => panic!("{error}"),
            }
            self.used += length;
            self.under_way += 1;
            self.replies.pop_front();
        }
    }
}
