// SPDX-License-Identifier: GPL-2.0-or-later

//! A worker that serves without commands.
//!
//! If a message begins with [`ORDER`], it contains descriptors: the worker reads the first half of them, inverts every
//! byte, writes the result to the second half, and answers with an invalidation of the first token. The worker sends
//! any other message back unchanged.

use std::collections::HashMap;
use std::io::IoSlice;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use smbdirect::device::{BulkBuffer, Direction, Event, Handle, Role, Status};

use crate::actor::{bytes16, has_input, read_line, say};
use crate::process::{bytes, fill};
use instruments::daemon::TIMEOUT;

/// The first byte of a message that must not be echoed.
pub(crate) const ORDER: u8 = 1;
/// Bytes of an RDMA transfer.
pub(crate) const LENGTH: usize = 200_000;
/// The answer to a message that begins with `ORDER`.
pub(crate) const ANSWER: [u8; 4] = *b"done";

/// The state of a message until it is answered.
#[derive(Debug)]
struct Work {
    conn: u64,
    message: Vec<u8>,
    buffer: Option<BulkBuffer>,
    /// Whether the data that was read is ready to be written.
    is_turned: bool,
    next: Next,
    /// The number of its operations under way.
    under_way: u32,
}

/// What to do with the message when nothing is under way for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Answer,
    Read,
    Write,
    Nothing,
}

/// A worker that serves.
struct Server {
    handle: Handle,
    works: HashMap<u64, Work>,
    cookie: u64,
    had_connection: bool,
    connections: usize,
}

/// Serves a client's GUID or the connection that a token names, as the first line of the input says, until there is
/// more input or the input ends. A worker for a token also ends with its connection.
pub(crate) fn play_server(path: &Path) {
    let line = read_line().expect("whom to serve");
    let words: Vec<&str> = line.split_whitespace().collect();
    let whom = bytes16(&words, 1);
    let guid = (words[0] == "serve").then_some(whom);
    let mut server = match guid {
        Some(guid) => Server::registered(path, guid),
        None => Server::attached(path, Some(whom)),
    };
    say("ok");
    loop {
        let detached = server.run(guid.is_none());
        match (guid, detached) {
            (Some(guid), true) => server = Server::registered(path, guid),
            // There is more input, or the connection has ended.
            _ => break,
        }
    }
    drop(server);
    say("ok");
}

impl Server {
    /// Attaches as soon as there is a device.
    fn attached(path: &Path, token: Option<[u8; 16]>) -> Self {
        let start = Instant::now();
        let handle = loop {
            match Handle::attach(path, Role::Worker, token) {
                Ok(handle) => break handle,
                Err(status) => {
                    assert_absent(status);
                    assert!(start.elapsed() < TIMEOUT, "no device");
                    // A device that returns does not announce itself, so poll.
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        };
        Self {
            handle,
            works: HashMap::new(),
            cookie: 0,
            had_connection: false,
            connections: 0,
        }
    }

    /// Attaches likewise, and registers a client's GUID for its connections.
    fn registered(path: &Path, guid: [u8; 16]) -> Self {
        loop {
            let mut server = Self::attached(path, None);
            if server.register(guid).is_some() {
                return server;
            }
        }
    }

    /// Registers a client's GUID. `None`: the device has gone in the meantime.
    fn register(&mut self, guid: [u8; 16]) -> Option<()> {
        assert_eq!(self.wait()?, Event::Attached);
        self.handle.set_session_id(1, guid, 0, false).ok()?;
        match self.wait()? {
            Event::Reply { status, .. } if status != Status::Detached => {
                assert_eq!(status, Status::Ok, "the place of a dead worker is free");
                Some(())
            }
            _ => None,
        }
    }

    /// Waits for the next event. `None`: there are no more.
    fn wait(&mut self) -> Option<Event> {
        let start = Instant::now();
        loop {
            match self.handle.next_event().expect("attached") {
                Some(Event::Detached { .. }) => return None,
                Some(event) => return Some(event),
                None => {}
            }
            let left = TIMEOUT.checked_sub(start.elapsed()).expect("an answer");
            let fd = self
                .handle
                .event_fd()
                .expect("a handle that this process attached");
            smbdirect::sys::wait_readable(fd, Some(left)).expect("waited");
        }
    }

    /// Serves until there is input (`false`), or the attachment has ended (`true`). With `once`, also stops after the
    /// end of the first connection.
    fn run(&mut self, once: bool) -> bool {
        while !has_input(std::io::stdin()) {
            let mut event = self.handle.next_event().expect("attached");
            if event.is_none() {
                wait_for_either(
                    self.handle
                        .event_fd()
                        .expect("a handle that this process attached"),
                );
                event = self.handle.next_event().expect("attached");
            }
            match event {
                Some(Event::Detached { .. }) => {
                    assert!(self.works.is_empty(), "work without an end");
                    return true;
                }
                Some(event) => self.handle_event(event),
                None => {}
            }
            if once && self.had_connection && self.connections == 0 {
                return false;
            }
        }
        false
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Connection { info } => {
                self.connections += 1;
                self.had_connection = true;
                // The clients have no sessions, but they send long messages.
                match self.handle.set_authenticated(info.conn) {
                    Ok(()) | Err(Status::Detached) => {}
                    Err(status) => panic!("{status}"),
                }
            }
            Event::Pdu {
                conn, pdu, length, ..
            } => {
                let mut message = vec![0; length as usize];
                match self.handle.take_pdu(pdu, &mut message) {
                    Ok(()) => self.begin(conn, message),
                    Err(status) => assert_eq!(status, Status::Detached),
                }
            }
            Event::Sent { cookie, .. } | Event::RdmaDone { cookie, .. } => {
                // The upper bits are the message's id.
                let id = cookie >> 8;
                let work = self.works.get_mut(&id).expect("submitted");
                work.under_way -= 1;
                self.advance(id);
            }
            Event::Room => {
                for id in self.works.keys().copied().collect::<Vec<_>>() {
                    self.advance(id);
                }
            }
            Event::Disconnected { conn, .. } => {
                self.connections -= 1;
                let ended: Vec<u64> = self.works_of(conn);
                for id in ended {
                    let work = self.works.remove(&id).expect("there");
                    assert_eq!(work.under_way, 0, "no report of {work:?}");
                    self.free(&work);
                }
            }
            Event::Attached | Event::Reply { .. } => {}
            Event::Detached { .. } | Event::Offer { .. } | Event::Transferred { .. } => {
                panic!("{event:?}");
            }
        }
    }

    fn works_of(&self, conn: u64) -> Vec<u64> {
        let of_conn = self.works.iter().filter(|(_, work)| work.conn == conn);
        of_conn.map(|(id, _)| *id).collect()
    }

    fn begin(&mut self, conn: u64, message: Vec<u8>) {
        self.cookie += 1;
        let next = match message.first() {
            Some(&ORDER) => Next::Read,
            _ => Next::Answer,
        };
        let work = Work {
            conn,
            message,
            buffer: None,
            is_turned: false,
            next,
            under_way: 0,
        };
        self.works.insert(self.cookie, work);
        self.advance(self.cookie);
    }

    /// Continues with a message that has nothing under way, as far as there is room.
    fn advance(&mut self, id: u64) {
        let Some(mut work) = self.works.remove(&id) else {
            return;
        };
        // Messages arrive in the order in which they are queued, so an answer need not wait.
        while work.next == Next::Answer || work.under_way == 0 && work.next != Next::Nothing {
            match self.submit(id, &mut work) {
                Ok(()) => {}
                Err(Status::Again) => break,
                // An event reports the end.
                Err(Status::NoConnection | Status::Detached) => work.next = Next::Nothing,
                Err(status) => panic!("{status}: {work:?}"),
            }
        }
        let is_done = work.under_way == 0 && work.next == Next::Nothing;
        if is_done {
            self.free(&work);
        } else {
            self.works.insert(id, work);
        }
    }

    fn submit(&mut self, id: u64, work: &mut Work) -> Result<(), Status> {
        let (conn, cookie) = (work.conn, id << 8);
        let descriptors = work.message.get(1..).unwrap_or_default();
        let (source, target) = descriptors.split_at(descriptors.len() / 2);
        match work.next {
            Next::Read => {
                let buffer = match work.buffer {
                    Some(buffer) => buffer,
                    None => *work.buffer.insert(self.handle.allocate(LENGTH)?),
                };
                let (read, number) = (Direction::Read, buffer.number);
                self.handle
                    .rdma(read, conn, cookie, number, 0, LENGTH, source)?;
                work.next = Next::Write;
            }
            Next::Write => {
                let buffer = work.buffer.expect("allocated");
                // Turn the data only once, however often there is no room.
                if !std::mem::replace(&mut work.is_turned, true) {
                    let turned: Vec<u8> = bytes(&buffer, LENGTH).iter().map(|b| !b).collect();
                    fill(&buffer, &turned);
                }
                let (write, number) = (Direction::Write, buffer.number);
                self.handle
                    .rdma(write, conn, cookie | 1, number, 0, LENGTH, target)?;
                work.next = Next::Answer;
            }
            Next::Answer => {
                let token = work.buffer.map(|_| {
                    let token = source.get(8..12).expect("a descriptor");
                    u32::from_le_bytes(token.try_into().expect("four"))
                });
                let message = if token.is_some() {
                    &ANSWER[..]
                } else {
                    &work.message
                };
                let pieces = [IoSlice::new(message)];
                self.handle.send_pdu(conn, cookie | 2, &pieces, token)?;
                work.next = Next::Nothing;
            }
            Next::Nothing => unreachable!("all is submitted"),
        }
        work.under_way += 1;
        Ok(())
    }

    fn free(&mut self, work: &Work) {
        if let Some(buffer) = work.buffer {
            match self.handle.free(buffer.number) {
                Ok(()) | Err(Status::Detached) => {}
                Err(status) => panic!("{status}: {work:?}"),
            }
        }
    }
}

/// Sleeps until there is an event or input.
pub(crate) fn wait_for_either(fd: impl AsFd) {
    use rustix::event::{PollFd, PollFlags, poll};
    let input = std::io::stdin();
    let mut fds = [
        PollFd::new(&fd, PollFlags::IN),
        PollFd::new(&input, PollFlags::IN),
    ];
    match poll(&mut fds, None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => panic!("{error}"),
    }
}

/// Checks that there is no device now. There may have been one a moment ago.
pub(crate) fn assert_absent(status: Status) {
    let is_absent = matches!(status, Status::NoDevice | Status::Detached);
    assert!(is_absent, "{status}");
}
