// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests READ and WRITE requests by RDMA.

use std::collections::HashMap;
use std::thread;

use smbdirect::device::Status;
use smbdirect::fabric::Access;
use smbdirect::wire::BufferDescriptorV1;

use crate::requests::{Io, command, fill, message_id, pattern, status};
use instruments::c::programs::Build;
use instruments::c::smbd::Smbd;
use instruments::peer::{Peer, Window};

/// The length of the longest transfer.
const LONGEST: usize = 8 << 20;
/// Bytes after the longest transfer that descriptors may name but that must stay untouched.
const SLACK: usize = 4096;

/// An outstanding request.
struct Asked {
    io: Io,
    window: Window,
}

/// A client that has several requests under way.
struct Client {
    peer: Peer,
    asked: HashMap<u64, Asked>,
    /// Windows that are not in use.
    readable: Vec<Window>,
    writable: Vec<Window>,
    message_id: u64,
    moved: usize,
    scratch: Vec<u8>,
}

impl Client {
    fn new(peer: Peer) -> Self {
        Self {
            peer,
            asked: HashMap::new(),
            readable: Vec::new(),
            writable: Vec::new(),
            message_id: 0,
            moved: 0,
            scratch: vec![0; LONGEST + SLACK],
        }
    }

    /// Requests a transfer over `pieces` pieces. The last piece is longer than needed.
    fn ask(&mut self, command: u16, channel: u32, length: usize, pieces: usize) {
        let is_read = command == command::READ;
        let (free, access) = if is_read {
            (&mut self.writable, Access::RemoteWrite)
        } else {
            (&mut self.readable, Access::RemoteRead)
        };
        let window = free
            .pop()
            .unwrap_or_else(|| self.peer.window(LONGEST + SLACK, access));
        self.message_id += 1;
        let io = Io {
            command,
            message_id: self.message_id,
            channel,
            // Each transfer has its own part of the file.
            offset: self.message_id << 24,
            length: length as u32,
        };
        if !is_read {
            fill(&mut self.scratch[..length], io.offset);
            window.memory.write(0, &self.scratch[..length]).unwrap();
        }
        let list = uneven(&window, length as u32, pieces as u32);
        self.peer.queue(&io.request(&list)).expect("room");
        self.asked.insert(io.message_id, Asked { io, window });
    }

    /// Waits for one response and checks its data.
    fn check_one(&mut self) {
        let answer = self.peer.receive();
        let Asked { io, window } = self.asked.remove(&message_id(&answer)).expect("asked");
        assert_eq!(status(&answer), 0, "{io:?}");
        let length = io.length as usize;
        if io.command == command::READ {
            self.check_read(&window, io.offset, length);
        }
        self.moved += length;
        if io.channel == 2 {
            // The response invalidated this window, so the next request needs another one.
            self.peer.wait_invalidated(window.token());
        } else if io.command == command::READ {
            self.writable.push(window);
        } else {
            self.readable.push(window);
        }
    }

    fn check_read(&mut self, window: &Window, offset: u64, length: usize) {
        let scratch = &mut self.scratch;
        window.memory.read(0, scratch).unwrap();
        let (words, rest) = scratch[..length].split_at(length & !7);
        let wrong = words.chunks_exact(8).enumerate().find(|(n, word)| {
            let expected = pattern(offset + 8 * *n as u64);
            **word != expected.to_le_bytes()
        });
        assert_eq!(wrong.map(|(n, _)| 8 * n), None, "{length}");
        let last = pattern(offset + words.len() as u64).to_le_bytes();
        assert_eq!(rest, &last[..rest.len()], "{length}");
        // The bytes after the READ's data may be of an earlier READ or the initial zeros, but not of this READ.
        let behind = pattern(offset + (length as u64).next_multiple_of(8)).to_le_bytes();
        let behind_at = length.next_multiple_of(8);
        assert_ne!(scratch[behind_at..behind_at + 8], behind, "{length}");
    }

    fn check_all(&mut self) {
        while !self.asked.is_empty() {
            self.check_one();
        }
        assert!(self.peer.take_invalidated().is_empty());
    }
}

/// Divides the first `length` bytes of a window into pieces of many lengths. The last piece is longer than needed.
fn uneven(window: &Window, length: u32, pieces: u32) -> Vec<BufferDescriptorV1> {
    let mut list = Vec::new();
    let mut start = 0;
    for n in 0..pieces.min(length) - 1 {
        // Choose from one byte to twice the average.
        let rest = length - start - (pieces.min(length) - 1 - n);
        let average = rest / (pieces - n);
        let piece = (1 + average * (n % 3)).min(rest);
        list.push(window.piece(start, piece));
        start += piece;
    }
    list.push(window.piece(start, length - start + 1234));
    list
}

/// Moves this many bytes each way, with many different lengths and numbers of pieces.
fn move_data(peer: Peer, bytes: usize) -> usize {
    let mut client = Client::new(peer);
    for command in [command::READ, command::WRITE] {
        for channel in [1, 2] {
            for pieces in [1, 2, 7, 64] {
                for length in [1, 7, 64, 4097, 131_072, LONGEST] {
                    client.ask(command, channel, length, pieces);
                    if client.asked.len() >= 4 {
                        client.check_one();
                    }
                }
            }
        }
    }
    client.check_all();
    while client.moved < bytes {
        for (command, pieces) in [(command::READ, 7), (command::WRITE, 64)] {
            client.ask(command, 1, LONGEST, pieces);
        }
        while client.asked.len() >= 4 {
            client.check_one();
        }
    }
    client.check_all();
    client.peer.close();
    client.moved
}

#[test]
fn gigabytes_move_by_read_and_write_and_every_byte_is_right() {
    for build in Build::ALL {
        let smbd = Smbd::start(build, "");
        let each = build.choose(1 << 30, 128 << 20);
        let clients = [1, 2].map(|guid| {
            let peer = smbd.client([guid; 16]);
            thread::spawn(move || move_data(peer, each))
        });
        let moved: usize = clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .sum();
        assert!(moved >= 2 * each);
        smbd.finish();
    }
}

#[test]
fn responses_with_errors_invalidate_the_token_as_well() {
    for build in Build::ALL {
        let smbd = Smbd::start(build, "");
        let mut peer = smbd.client([1; 16]);
        let none = |window: &Window| BufferDescriptorV1 {
            length: 0,
            ..window.piece(0, 1)
        };
        let wraps = |window: &Window| BufferDescriptorV1 {
            offset: u64::MAX,
            ..window.piece(0, 2)
        };
        let mut number = 0;
        for command in [command::READ, command::WRITE] {
            for (length, expected) in [
                (4097, Status::DescriptorsTooShort),
                (100, Status::Descriptors),
                (200, Status::Descriptors),
                (LONGEST as u32 + 1, Status::TooLong),
                (4096, Status::Ok),
            ] {
                let access = match command {
                    command::READ => Access::RemoteWrite,
                    _ => Access::RemoteRead,
                };
                let window = peer.window(4096, access);
                let mut bytes = [0; 4096];
                fill(&mut bytes, 0);
                window.memory.write(0, &bytes).unwrap();
                let list = match length {
                    100 => vec![window.piece(0, 100), none(&window)],
                    200 => vec![window.piece(0, 200), wraps(&window)],
                    _ if expected == Status::TooLong => {
                        vec![window.descriptor(), window.piece(0, length)]
                    }
                    _ => vec![window.descriptor()],
                };
                number += 1;
                let io = Io {
                    command,
                    message_id: number,
                    channel: 2,
                    offset: 0,
                    length,
                };
                peer.send(&io.request(&list));
                let answer = peer.receive();
                assert_eq!(message_id(&answer), number);
                assert_eq!(status(&answer), expected.code(), "{io:?}");
                peer.wait_invalidated(window.token());
            }
        }
        assert!(peer.take_invalidated().is_empty());
        peer.close();
        smbd.finish();
    }
}
