//! A worker that serves on its own, and clients that compare what they are served.
//!
//! A message that begins with [`ORDER`] holds descriptors: the worker reads the first half of them,
//! turns every byte around, writes that to the second half, and answers with an invalidation of the
//! first token. Any other message comes back as it is.

use std::collections::HashMap;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use smbdirect::device::{BulkBuffer, Direction, Event, Handle, Role, Status};
use smbdirect::fabric::Access;
use smbdirect::transport::CloseReason;

use crate::actor::{bytes16, has_input, hex16, pattern, say};
use crate::daemon::TIMEOUT;
use crate::peer::{Options, Peer, emit, smb2};
use crate::process::{bytes, fill};

const ORDER: u8 = 1;
/// Bytes of an RDMA transfer.
const LENGTH: usize = 200_000;
const ANSWER: [u8; 4] = *b"done";

/// A message, until it is answered.
#[derive(Debug)]
struct Work {
    conn: u64,
    message: Vec<u8>,
    buffer: Option<BulkBuffer>,
    /// What was read is ready to be written.
    is_turned: bool,
    next: Next,
    /// Operations that were submitted for it.
    under_way: u32,
}

/// What is to be done with it when nothing is under way.
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

/// Serves a client GUID or the connection of a token, as it is told, until it is told to end; one of
/// a token alone ends with its connection.
pub(crate) fn play_server(path: &Path) {
    let (words, mut server) = loop {
        let line = read_line();
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let argument = words
            .get(1)
            .map(|_| bytes16(&words.iter().map(String::as_str).collect::<Vec<_>>(), 1));
        match (words[0].as_str(), argument) {
            ("serve", Some(guid)) => break (Some(guid), Server::registered(path, guid)),
            ("claim", token) => break (None, Server::attached(path, token)),
            other => panic!("what is {other:?}?"),
        }
    };
    say("ok");
    loop {
        let detached = server.run(words.is_none());
        match (words, detached) {
            (Some(guid), true) => server = Server::registered(path, guid),
            // It was told to end, or has nobody to serve.
            _ => break,
        }
    }
    drop(server);
    say("ok");
}

/// A line of the input, of which nothing more is read.
fn read_line() -> String {
    use std::io::Read;
    let input = std::io::stdin().as_fd().try_clone_to_owned();
    let mut input = std::fs::File::from(input.expect("a descriptor"));
    let (mut line, mut byte) = (Vec::new(), [0]);
    while input.read(&mut byte).expect("its input") > 0 && byte != *b"\n" {
        line.extend(byte);
    }
    String::from_utf8(line).expect("UTF-8")
}

impl Server {
    /// Attaches, as soon as there is a device.
    fn attached(path: &Path, token: Option<[u8; 16]>) -> Self {
        let start = Instant::now();
        let handle = loop {
            match Handle::attach(path, Role::Worker, token) {
                Ok(handle) => break handle,
                Err(status) => {
                    assert_absent(status);
                    assert!(start.elapsed() < TIMEOUT, "no device");
                    // A device that comes back tells nobody.
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

    /// The same for the connections of a client.
    fn registered(path: &Path, guid: [u8; 16]) -> Self {
        loop {
            let mut server = Self::attached(path, None);
            if server.register(guid).is_some() {
                return server;
            }
        }
    }

    /// `None`: the device has gone meanwhile.
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

    /// The next event; `None`: the last.
    fn wait(&mut self) -> Option<Event> {
        let start = Instant::now();
        loop {
            match self.handle.next_event().expect("attached") {
                Some(Event::Detached { .. }) => return None,
                Some(event) => return Some(event),
                None => {}
            }
            let left = TIMEOUT.checked_sub(start.elapsed()).expect("an answer");
            let fd = self.handle.event_fd().expect("its own");
            smbdirect::sys::wait_readable(fd, Some(left)).expect("waited");
        }
    }

    /// Serves until there is input (`false`), or the attachment has ended (`true`). `once`: or the
    /// first connection has.
    fn run(&mut self, once: bool) -> bool {
        while !has_input(std::io::stdin()) {
            let mut event = self.handle.next_event().expect("attached");
            if event.is_none() {
                wait_for_either(self.handle.event_fd().expect("its own"));
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
            Event::Connection { .. } => {
                self.connections += 1;
                self.had_connection = true;
            }
            Event::Pdu { conn, pdu, length } => {
                let mut message = vec![0; length as usize];
                match self.handle.take_pdu(pdu, &mut message) {
                    Ok(()) => self.begin(conn, message),
                    Err(status) => assert_eq!(status, Status::Detached),
                }
            }
            Event::Sent { cookie, .. } | Event::RdmaDone { cookie, .. } => {
                // The upper bits are the message's.
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

    /// Goes on with a message that nothing is under way for, as far as there is room.
    fn advance(&mut self, id: u64) {
        let Some(mut work) = self.works.remove(&id) else {
            return;
        };
        // What is queued last arrives last: an answer waits for nothing.
        while work.next == Next::Answer || work.under_way == 0 && work.next != Next::Nothing {
            match self.submit(id, &mut work) {
                Ok(()) => {}
                Err(Status::Again | Status::NoMemory) => break,
                // Its end is told in an event.
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
                // Once, however often there is no room.
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
fn wait_for_either(fd: impl AsFd) {
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

/// A client that compares what it is served.
pub(crate) struct Rounds {
    peer: Peer,
    number: usize,
}

/// The connection has ended, which is no fault where its worker was killed.
#[derive(Debug)]
pub(crate) struct Ended(#[allow(dead_code)] pub(crate) Option<CloseReason>);

impl Rounds {
    pub(crate) fn begin(server: SocketAddr, guid: [u8; 16]) -> Result<Self, Ended> {
        let peer = Peer::try_connect(server, Options::default());
        let mut this = Self {
            peer: peer.map_err(|reason| Ended(Some(reason)))?,
            number: 0,
        };
        let request = smb2::negotiate_request(guid);
        this.send(&request)?;
        assert!(this.receive()? == request, "other bytes came back");
        Ok(this)
    }

    /// Messages of all lengths, and RDMA in both directions.
    pub(crate) fn next(&mut self) -> Result<(), Ended> {
        self.number += 1;
        let mut message = pattern(1 + self.number * 7919 % 100_000);
        message[0] = 0xfe;
        self.send(&message)?;
        self.turn()?;
        Ok(())
    }

    fn turn(&mut self) -> Result<(), Ended> {
        if let Some(reason) = self.peer.closed() {
            return Err(Ended(Some(reason)));
        }
        let source = self.peer.window(LENGTH, Access::RemoteRead);
        let target = self.peer.window(LENGTH, Access::RemoteWrite);
        let content = pattern(LENGTH);
        source.memory.write(0, &content).expect("in range");
        let pieces = [source.descriptors(3), target.descriptors(3)].concat();
        self.send(&[&[ORDER], &emit(&pieces)[..]].concat())?;
        let mut echo = pattern(1 + self.number * 7919 % 100_000);
        echo[0] = 0xfe;
        assert!(self.receive()? == echo, "other bytes came back");
        assert_eq!(self.receive()?, ANSWER);
        let turned: Vec<u8> = content.iter().map(|byte| !byte).collect();
        assert!(target.bytes() == turned, "other bytes were written");
        assert_eq!(self.peer.take_invalidated(), [source.token()]);
        if self.peer.status().is_some() {
            self.peer.deregister(&target);
            self.peer.deregister(&source);
        }
        Ok(())
    }

    fn send(&mut self, message: &[u8]) -> Result<(), Ended> {
        match self.peer.closed() {
            None => self.peer.queue(message).map_err(|_| Ended(None)),
            reason => Err(Ended(reason)),
        }
    }

    fn receive(&mut self) -> Result<Vec<u8>, Ended> {
        match self.peer.receive_within(TIMEOUT) {
            Some(message) => Ok(message),
            None => {
                let closed = self.peer.closed();
                assert!(closed.is_some(), "no answer; {:?}", self.peer);
                Err(Ended(closed))
            }
        }
    }

    /// Serves nobody's work for a time.
    pub(crate) fn rest(&mut self, time: Duration) {
        self.peer.drive(time, |_| false);
    }

    pub(crate) fn end(self) {
        self.peer.close();
    }
}

/// A client that connects again and again; it says `ok` for each line of its input after a round
/// that began behind it.
pub(crate) fn play_client(server: SocketAddr) {
    let line = read_line();
    let guid = bytes16(&["", &line], 1);
    say("ok");
    let mut connection = None;
    loop {
        let start = Instant::now();
        let asked = has_input(std::io::stdin());
        if asked && read_line().is_empty() {
            return;
        }
        let mut is_served = false;
        while !is_served {
            assert!(start.elapsed() < 2 * TIMEOUT, "nobody serves");
            let served = match &mut connection {
                None => Rounds::begin(server, guid).map(|rounds| connection = Some(rounds)),
                Some(rounds) => {
                    let served = rounds.next();
                    is_served = served.is_ok();
                    served
                }
            };
            if served.is_err() {
                connection = None;
                // Nobody tells when its server is back.
                std::thread::sleep(Duration::from_millis(1));
            }
            is_served |= !asked;
        }
        if asked {
            say("ok");
        }
    }
}

/// There is no device now; there may have been one a moment ago.
fn assert_absent(status: Status) {
    let is_absent = matches!(status, Status::NoDevice | Status::Detached);
    assert!(is_absent, "{status}");
}

/// A listener that writes down its offers.
pub(crate) fn play_listener(path: PathBuf) {
    loop {
        let handle = Handle::attach(&path, Role::Listener, None);
        match handle {
            Ok(handle) => offers(handle),
            Err(status) => {
                assert_absent(status);
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        if has_input(std::io::stdin()) {
            return;
        }
    }
}

fn offers(mut handle: Handle) {
    let mut attached = false;
    while !has_input(std::io::stdin()) {
        match handle.next_event().expect("attached") {
            Some(Event::Offer { token, .. }) => say(&hex16(&token)),
            Some(Event::Attached) => attached = true,
            Some(Event::Detached { status }) => {
                assert!(attached || status == Status::Detached, "{status}");
                return;
            }
            Some(other) => panic!("{other:?}"),
            None => wait_for_either(handle.event_fd().expect("its own")),
        }
    }
}
