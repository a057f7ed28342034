// SPDX-License-Identifier: GPL-2.0-or-later

//! A process of smbd that obeys commands and does nothing on its own.
//!
//! It checks that everything under way is reported once, before the end of its connection, and that this end comes
//! before the end of the attachment; and that none of its descriptors and mappings are left after the attachment.
//! `Process::perform` is long because it is the list of commands.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::IoSlice;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use smbdirect::device::abi::SetParameters;
use smbdirect::device::channel::SocketChannel;
use smbdirect::device::{BulkBuffer, Direction, Event, Handle, Role, Status};
use smbdirect::sys::{SeqSocket, wait_readable};
use zerocopy::FromZeros;

use crate::actor::{bytes16, hex16, number, obey, pattern};
use crate::held::Held;
use instruments::daemon::TIMEOUT;

/// Returns the session that a worker registers with a GUID: the GUID's lower half, which must not be 0.
fn session_of(guid: [u8; 16]) -> u64 {
    u128::from_be_bytes(guid) as u64
}

struct Process {
    path: PathBuf,
    role: Role,
    socket: Option<SeqSocket>,
    handle: Option<Handle>,
    /// Connections in the order of their arrival. Connections that have ended keep their index.
    conns: Vec<u64>,
    live: BTreeSet<u64>,
    /// Operations that have not been reported yet, by cookie, with their connections.
    under_way: BTreeMap<u64, u64>,
    /// How many operations have failed.
    failed: usize,
    requests: BTreeSet<u64>,
    cookie: u64,
    buffer: Option<BulkBuffer>,
    /// Events that no command has asked for yet.
    events: VecDeque<Event>,
    /// The last message that was taken.
    message: Vec<u8>,
    /// What this process held before the first command.
    empty: Option<Held>,
}

/// Obeys commands until the input ends.
pub(crate) fn play(path: PathBuf, role: Role) {
    let mut process = Process {
        path,
        role,
        socket: None,
        handle: None,
        conns: Vec::new(),
        live: BTreeSet::new(),
        under_way: BTreeMap::new(),
        failed: 0,
        requests: BTreeSet::new(),
        cookie: 0,
        buffer: None,
        events: VecDeque::new(),
        message: Vec::new(),
        empty: None,
    };
    obey(|words| process.perform(words));
}

impl Process {
    fn perform(&mut self, words: &[&str]) -> String {
        self.empty.get_or_insert_with(|| Held::of("self"));
        let conn = |this: &Self| match words.get(1) {
            Some(&"last") => *this.conns.last().expect("a connection"),
            _ => this.conns[number(words, 1)],
        };
        match words[0] {
            "connect" => self.socket = Some(SeqSocket::connect(&self.path).expect("a device")),
            "closed" => self.wait_closed(),
            "begin" => self.begin((words.len() > 1).then(|| bytes16(words, 1))),
            "attached" => self.expect("attached", |event| *event == Event::Attached),
            "parameters" => self.ask(|handle, cookie| {
                handle.set_parameters(cookie, SetParameters::new_zeroed(), &[])
            }),
            "guid" => self.register(bytes16(words, 1), false, false),
            "session" => self.register(bytes16(words, 1), true, false),
            "remove-session" => self.register(bytes16(words, 1), true, true),
            "remove-guid" => self.register(bytes16(words, 1), false, true),
            "claim" => self.ask(|handle, cookie| handle.claim(cookie, bytes16(words, 1))),
            "reply" => self.expect(
                "success",
                |event| matches!(event, Event::Reply { status, .. } if *status == Status::Ok),
            ),
            "offer" => return self.offer(bytes16(words, 1)),
            "connection" => {
                self.find("connection", |event| {
                    matches!(event, Event::Connection { .. })
                });
            }
            "arrived" => self.wait_arrived(conn(self)),
            "take" => return self.take(conn(self)),
            "ask-memory" => self.ask_for_memory(),
            "allocate" => self.allocate(),
            "free" => self.free(),
            "read" => self.rdma(Direction::Read, conn(self), number(words, 2)),
            "write" => self.rdma(Direction::Write, conn(self), number(words, 2)),
            "check" => self.check(number(words, 1)),
            "send" => self.send(conn(self), number(words, 2), words.get(3).is_some()),
            "transfer" => self.transfer(conn(self)),
            "transferred" => return self.transferred(),
            "disconnect" => {
                let conn = conn(self);
                self.handle()
                    .disconnect(conn)
                    .expect("a connection that this worker owns");
            }
            "unfinished" => self.check_unfinished(conn(self)),
            "finish" => self.finish(),
            "gone" => self.wait_gone(),
            "last" => self.last(),
            "fork" => return super::inherit::fork().to_string(),
            "reset" => self.reset(),
            other => panic!("what is {other:?}?"),
        }
        "ok".to_owned()
    }

    fn handle(&mut self) -> &mut Handle {
        self.handle.as_mut().expect("attached")
    }

    fn begin(&mut self, token: Option<[u8; 16]>) {
        let socket = self.socket.take();
        let socket = socket.unwrap_or_else(|| SeqSocket::connect(&self.path).expect("a device"));
        let channel = SocketChannel::new(socket).expect("descriptors");
        self.handle = Some(Handle::over(channel.into(), self.role, token).expect("a device"));
    }

    /// Waits for the end of a socket on which nothing has been sent.
    fn wait_closed(&mut self) {
        use std::os::fd::AsFd;
        let socket = self.socket.take().expect("connected");
        wait_readable(socket.as_fd(), Some(TIMEOUT)).expect("waited");
        let error = socket.receive(&mut [0; 8]).expect_err("nothing was said");
        assert_eq!(error.name(), "closed");
    }

    /// Waits for the next event, and sleeps on the handle's descriptor until then.
    fn next(&mut self) -> Event {
        self.next_looking_each(TIMEOUT)
    }

    /// Waits likewise, but also looks for events each time this interval has passed.
    fn next_looking_each(&mut self, time: Duration) -> Event {
        let start = Instant::now();
        loop {
            if let Some(event) = self.handle().next_event().expect("attached") {
                self.note(&event);
                return event;
            }
            let left = TIMEOUT.checked_sub(start.elapsed());
            let left = left.unwrap_or_else(|| panic!("no event; {:?}", self.events));
            let descriptor = self
                .handle()
                .event_fd()
                .expect("a handle that this process attached");
            wait_readable(descriptor, Some(left.min(time))).expect("waited");
        }
    }

    /// Checks that the event is allowed now.
    fn note(&mut self, event: &Event) {
        match *event {
            Event::Connection { info } => {
                assert!(self.live.insert(info.conn), "{event:?} twice");
                self.conns.push(info.conn);
            }
            Event::Sent {
                conn,
                cookie,
                status,
                ..
            }
            | Event::RdmaDone {
                conn,
                cookie,
                status,
            }
            | Event::Transferred {
                conn,
                cookie,
                status,
                ..
            } => {
                let reported = self.under_way.remove(&cookie);
                assert_eq!(reported, Some(conn), "{event:?}");
                self.failed += usize::from(status != Status::Ok);
                if matches!(event, Event::Transferred { .. }) && status == Status::Ok {
                    self.live.remove(&conn);
                }
            }
            Event::Disconnected { conn, .. } => {
                let rest = self.under_way.values().filter(|of| **of == conn).count();
                assert_eq!(rest, 0, "operations without a report: {:?}", self.under_way);
                assert!(self.live.remove(&conn), "{event:?} twice");
            }
            Event::Reply { cookie, .. } => {
                assert!(self.requests.remove(&cookie), "{event:?} twice");
            }
            Event::Detached { .. } => {
                assert!(self.live.is_empty(), "connections without an end");
                assert!(self.under_way.is_empty(), "operations without a report");
                assert!(self.requests.is_empty(), "requests without an answer");
            }
            Event::Attached | Event::Offer { .. } | Event::Pdu { .. } | Event::Room => {}
        }
    }

    /// Waits for the first event of this kind that no command has asked for.
    fn find(&mut self, what: &str, wanted: impl Fn(&Event) -> bool) -> Event {
        if let Some(at) = self.events.iter().position(&wanted) {
            return self.events.remove(at).expect("there");
        }
        loop {
            let event = self.next();
            if wanted(&event) {
                return event;
            }
            let ended = matches!(event, Event::Detached { .. });
            assert!(!ended, "waited for {what}: {event:?}");
            self.events.push_back(event);
        }
    }

    fn expect(&mut self, what: &str, wanted: impl Fn(&Event) -> bool) {
        self.find(what, wanted);
    }

    fn new_cookie(&mut self) -> u64 {
        self.cookie += 1;
        self.cookie
    }

    fn ask(&mut self, ask: impl FnOnce(&mut Handle, u64) -> Result<(), Status>) {
        let cookie = self.new_cookie();
        ask(self.handle(), cookie).expect("sent");
        self.requests.insert(cookie);
    }

    fn register(&mut self, guid: [u8; 16], has_session: bool, remove: bool) {
        let session = if has_session { session_of(guid) } else { 0 };
        self.ask(|handle, cookie| handle.set_session_id(cookie, guid, session, remove));
    }

    fn offer(&mut self, guid: [u8; 16]) -> String {
        let of_client =
            |event: &Event| matches!(event, Event::Offer { info, .. } if info.client_guid == guid);
        match self.find("an offer", of_client) {
            Event::Offer { token, .. } => hex16(&token),
            other => unreachable!("{other:?}"),
        }
    }

    /// Waits for a message, and does not take it.
    fn wait_arrived(&mut self, conn: u64) {
        let event = self.find("a message", of(conn));
        self.events.push_front(event);
    }

    fn take(&mut self, conn: u64) -> String {
        let Event::Pdu { pdu, length, .. } = self.find("a message", of(conn)) else {
            unreachable!("asked for");
        };
        let mut message = vec![0; length as usize];
        self.handle().take_pdu(pdu, &mut message).expect("held");
        self.message = message;
        // The client sends more than an unauthenticated one may send.
        self.handle()
            .set_authenticated(conn)
            .expect("a connection that this worker owns");
        length.to_string()
    }

    fn ask_for_memory(&mut self) {
        let length = self.handle().mem_params().expect("attached").bulk;
        let length = length.unit_length as usize * length.longest_run as usize;
        assert_eq!(self.handle().allocate(length), Err(Status::Again));
    }

    /// Allocates the longest buffer that is possible.
    fn allocate(&mut self) {
        let shape = self.handle().mem_params().expect("attached").bulk;
        let length = shape.unit_length as usize * shape.longest_run as usize;
        let buffer = loop {
            match self.handle().allocate(length) {
                Ok(buffer) => break buffer,
                Err(status) => assert_eq!(status, Status::Again),
            }
            self.expect("room", |event| *event == Event::Room);
        };
        self.buffer = Some(buffer);
    }

    fn free(&mut self) {
        let buffer = self.buffer.take().expect("allocated");
        self.handle().free(buffer.number).expect("idle");
    }

    /// Submits an operation with the descriptors of the last message that was taken.
    fn rdma(&mut self, direction: Direction, conn: u64, length: usize) {
        let buffer = self.buffer.expect("allocated");
        if direction == Direction::Write {
            fill(&buffer, &pattern(length));
        }
        let cookie = self.new_cookie();
        let descriptors = std::mem::take(&mut self.message);
        loop {
            let number = buffer.number;
            match self
                .handle()
                .rdma(direction, conn, cookie, number, 0, length, &descriptors)
            {
                Ok(()) => break,
                Err(status) => assert_eq!(status, Status::Again),
            }
            self.expect("room", |event| *event == Event::Room);
        }
        self.message = descriptors;
        self.under_way.insert(cookie, conn);
    }

    fn check(&mut self, length: usize) {
        let found = bytes(&self.buffer.expect("allocated"), length);
        assert!(found == pattern(length), "other bytes were read");
    }

    /// Submits a message; with `invalidate`, it invalidates the first token of the last message that was taken.
    fn send(&mut self, conn: u64, length: usize, invalidate: bool) {
        let cookie = self.new_cookie();
        let message = pattern(length);
        let token = invalidate.then(|| {
            let bytes = self.message.get(8..12).expect("a descriptor");
            u32::from_le_bytes(bytes.try_into().expect("four"))
        });
        loop {
            let pieces = [IoSlice::new(&message)];
            match self.handle().send_pdu(conn, cookie, &pieces, token) {
                Ok(()) => break,
                Err(status) => assert_eq!(status, Status::Again),
            }
            self.expect("room", |event| *event == Event::Room);
        }
        self.under_way.insert(cookie, conn);
    }

    fn transfer(&mut self, conn: u64) {
        let cookie = self.new_cookie();
        let message = pattern(100);
        let submitted = self.handle().transfer(conn, cookie, None, &message);
        submitted.expect("room");
        self.under_way.insert(cookie, conn);
    }

    fn transferred(&mut self) -> String {
        match self.find("a transfer's end", |event| {
            matches!(event, Event::Transferred { .. })
        }) {
            Event::Transferred {
                status: Status::Ok,
                token,
                ..
            } => hex16(&token),
            other => panic!("{other:?}"),
        }
    }

    /// Checks that something is still under way on a connection.
    fn check_unfinished(&mut self, conn: u64) {
        let counts = self
            .handle()
            .conn_counts(conn)
            .expect("a connection that this worker owns");
        assert!(counts.rdma_operations > 0 || counts.unsent_bytes > 0);
        assert!(!self.under_way.is_empty());
    }

    /// Waits until nothing is under way, and checks that everything succeeded. Polls, because the device wakes a worker
    /// for sent messages only after 0.1 s, which would be most of the time that this test takes.
    fn finish(&mut self) {
        const LOOK: Duration = Duration::from_millis(2);
        while !self.under_way.is_empty() {
            let event = self.next_looking_each(LOOK);
            self.events.push_back(event);
        }
        assert_eq!(self.failed, 0, "{:?}", self.events);
        let is_report =
            |event: &Event| matches!(event, Event::Sent { .. } | Event::RdmaDone { .. });
        self.events.retain(|event| !is_report(event));
    }

    /// Waits for the end of all connections.
    fn wait_gone(&mut self) {
        while !self.live.is_empty() {
            let event = self.next();
            self.events.push_back(event);
        }
        self.events.clear();
        self.conns.clear();
        self.failed = 0;
    }

    /// Waits for the end of the attachment.
    fn last(&mut self) {
        loop {
            match self.next() {
                Event::Detached { status } => return assert_eq!(status, Status::Detached),
                event => self.events.push_back(event),
            }
        }
    }

    /// Returns to the initial state.
    fn reset(&mut self) {
        self.handle = None;
        self.socket = None;
        self.conns.clear();
        self.live.clear();
        self.under_way.clear();
        self.failed = 0;
        self.requests.clear();
        self.buffer = None;
        self.events.clear();
        assert_eq!(Some(Held::of("self")), self.empty, "something is left");
    }
}

/// Makes a condition: an event is a message of this connection.
fn of(conn: u64) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::Pdu { conn: of, .. } if *of == conn)
}

pub(crate) fn fill(buffer: &BulkBuffer, bytes: &[u8]) {
    assert!(bytes.len() <= buffer.length);
    // SAFETY: this process owns the buffer until it is freed, it has these bytes, and `bytes` lie elsewhere.
    unsafe {
        buffer
            .start
            .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len())
    }
}

pub(crate) fn bytes(buffer: &BulkBuffer, length: usize) -> Vec<u8> {
    assert!(length <= buffer.length);
    let mut bytes = vec![0; length];
    // SAFETY: as in `fill`.
    unsafe {
        buffer
            .start
            .copy_to_nonoverlapping(bytes.as_mut_ptr(), length)
    }
    bytes
}
