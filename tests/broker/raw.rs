// SPDX-License-Identifier: GPL-2.0-or-later

//! An attached process at the lowest level: control messages, rings and segments.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smbdirect::device::Status;
use smbdirect::device::abi::{
    self, Completion, ConnInfo, Place, Submission, Token, TransferSubmission, event, kind, op,
    region,
};
use smbdirect::device::message::encode;
use smbdirect::shm::{self, Consumer, Producer, RingMemory};
use smbdirect::sys::{Bell, Memfd, Memory, SeqSocket, wait_readable};
use smbdirect::wire::BufferDescriptorV1;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, transmute};

use crate::scene::PATIENCE;

/// A control message.
pub(crate) struct Message {
    pub(crate) kind: u32,
    pub(crate) cookie: u64,
    body: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Message {
    pub(crate) fn read<T: FromBytes + KnownLayout + Immutable>(&self) -> T {
        T::read_from_bytes(&self.body).expect("a structure of the length of its kind")
    }

    /// Takes the descriptor that came with the message.
    pub(crate) fn descriptor(&mut self) -> OwnedFd {
        self.descriptors.pop().expect("a descriptor")
    }

    /// Returns the status in an [`abi::Reply`] or [`abi::Detached`].
    pub(crate) fn status(&self) -> Status {
        let code = match self.kind {
            kind::REPLY => self.read::<abi::Reply>().status,
            kind::DETACHED => self.read::<abi::Detached>().status,
            other => panic!("kind {other} has no status"),
        };
        Status::from_code(code).unwrap()
    }
}

pub(crate) struct Queue {
    pub(crate) memory: Memory,
    pub(crate) submissions: Producer<Arc<Bell>>,
    pub(crate) completions: Consumer<Arc<Bell>>,
    bell: Arc<Bell>,
}

/// A process that has connected to the device.
pub(crate) struct Raw {
    pub(crate) socket: SeqSocket,
    last_cookie: u64,
    pub(crate) attached: Option<abi::Attached>,
    pub(crate) queues: HashMap<u32, Queue>,
    pub(crate) send: Vec<Memory>,
    pub(crate) bulk: Vec<Memory>,
    pub(crate) receive: HashMap<(u32, u32), Memory>,
    /// Every list of addresses that the device has sent.
    pub(crate) addresses: Vec<Vec<abi::Address>>,
    /// Messages that no call has asked for yet.
    messages: VecDeque<Message>,
    completions: VecDeque<Completion>,
}

impl Raw {
    pub(crate) fn connect(path: &Path) -> Self {
        Self {
            socket: SeqSocket::connect(path).unwrap(),
            last_cookie: 0,
            attached: None,
            queues: HashMap::new(),
            send: Vec::new(),
            bulk: Vec::new(),
            receive: HashMap::new(),
            addresses: Vec::new(),
            messages: VecDeque::new(),
            completions: VecDeque::new(),
        }
    }

    pub(crate) fn attach(path: &Path, role: u32) -> Self {
        Self::attach_with(path, role, Token::default())
    }

    pub(crate) fn worker(path: &Path) -> Self {
        Self::attach(path, abi::role::WORKER)
    }

    pub(crate) fn attach_with(path: &Path, role: u32, token: Token) -> Self {
        let mut raw = Self::connect(path);
        let answer = raw.try_attach(abi::VERSION, role, token);
        assert_eq!(answer.kind, kind::ATTACHED, "{:?}", answer.body);
        raw.attached = Some(answer.read());
        raw
    }

    pub(crate) fn try_attach(&mut self, version: u32, role: u32, token: Token) -> Message {
        let attach = abi::Attach {
            version,
            oldest_version: version,
            ..abi::Attach::new(role, token)
        };
        self.ask(kind::ATTACH, &attach)
    }

    pub(crate) fn id(&self) -> u32 {
        self.attached.unwrap().worker
    }

    /// Returns the bell that wakes the reactor of the only queue.
    pub(crate) fn bell(&self) -> Arc<Bell> {
        Arc::clone(&self.queues[&0].bell)
    }

    /// Sends a request if there is room.
    pub(crate) fn try_request<T: IntoBytes + Immutable>(
        &mut self,
        kind: u32,
        body: &T,
    ) -> std::io::Result<u64> {
        self.last_cookie += 1;
        let control = abi::Control {
            kind,
            length: (size_of::<abi::Control>() + size_of::<T>()) as u32,
            cookie: self.last_cookie,
        };
        let bytes = [control.as_bytes(), body.as_bytes()].concat();
        self.socket.send(&bytes, &[])?;
        Ok(self.last_cookie)
    }

    /// Sends a request and returns its cookie.
    pub(crate) fn request<T: IntoBytes + Immutable>(&mut self, kind: u32, body: &T) -> u64 {
        self.try_request(kind, body).unwrap()
    }

    /// Sends a request and waits for the answer.
    pub(crate) fn ask<T: IntoBytes + Immutable>(&mut self, kind: u32, body: &T) -> Message {
        let cookie = self.request(kind, body);
        self.message(|message| message.cookie == cookie)
    }

    pub(crate) fn register(&mut self, client_guid: [u8; 16], session_id: u64) -> Status {
        self.set_session(client_guid, session_id, 0)
    }

    pub(crate) fn set_session(
        &mut self,
        client_guid: [u8; 16],
        session_id: u64,
        remove: u32,
    ) -> Status {
        let set = abi::SetSessionId {
            session_id,
            client_guid,
            remove,
            reserved: 0,
        };
        self.ask(kind::SET_SESSION_ID, &set).status()
    }

    /// Allows these addresses, as a listener, and returns the device's answer.
    pub(crate) fn allow(&mut self, list: &[(&str, u32)]) -> Status {
        let allowed = |(ip, scope_id): &(&str, u32)| abi::AllowedAddress {
            address: ip.parse::<std::net::Ipv6Addr>().unwrap().octets(),
            scope_id: *scope_id,
            reserved: 0,
        };
        let list: Vec<abi::AllowedAddress> = list.iter().map(allowed).collect();
        self.set_addresses(0, &list)
    }

    pub(crate) fn allow_all(&mut self) -> Status {
        self.set_addresses(1, &[])
    }

    pub(crate) fn set_addresses(&mut self, all: u32, list: &[abi::AllowedAddress]) -> Status {
        let cookie = self.send_addresses(all, list);
        self.message(|message| message.cookie == cookie).status()
    }

    pub(crate) fn send_addresses(&mut self, all: u32, list: &[abi::AllowedAddress]) -> u64 {
        self.last_cookie += 1;
        let count = list.len() as u32;
        let set = abi::SetAddresses { count, all };
        let mut bytes = Vec::new();
        encode(self.last_cookie, &set, list.as_bytes(), &mut bytes);
        self.socket.send(&bytes, &[]).unwrap();
        self.last_cookie
    }

    /// Tells the device, as a listener, what smbd knows about a client.
    pub(crate) fn note(&self, client: SocketAddr, note: u16, value: u32) {
        let address = match client.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let note = abi::ClientNote {
            address: address.octets(),
            note,
            port: client.port(),
            value,
            local_address: [0; 16],
            local_port: 0,
            reserved: 0,
        };
        let mut bytes = Vec::new();
        encode(0, &note, &[], &mut bytes);
        self.socket.send(&bytes, &[]).unwrap();
    }

    pub(crate) fn decline(&mut self, token: Token) -> Status {
        self.ask(kind::DECLINE, &abi::Decline { token }).status()
    }

    pub(crate) fn claim(&mut self, token: Token) -> Status {
        self.ask(kind::CLAIM, &abi::Claim { token }).status()
    }

    /// Asks for one more segment, with room for the longest buffer, and returns the device's answer.
    pub(crate) fn grow(&mut self, region: u32) -> Status {
        let memory = self.attached.unwrap().memory;
        let units = match region {
            region::SEND => memory.send.longest_run,
            _ => memory.bulk.longest_run,
        };
        self.grow_by(region, units)
    }

    /// Asks for one more segment of at least this many units, and returns the device's answer.
    pub(crate) fn grow_by(&mut self, region: u32, units: u32) -> Status {
        let answer = self.ask(kind::GROW, &abi::Grow { region, units });
        if answer.kind == kind::REPLY {
            return answer.status();
        }
        self.map_segment(answer);
        Status::Ok
    }

    /// Asks for a segment with room for the longest BULK buffer, without waiting for the answer.
    pub(crate) fn ask_for_bulk(&mut self) -> u64 {
        let units = self.attached.unwrap().memory.bulk.longest_run;
        let region = region::BULK;
        self.request(kind::GROW, &abi::Grow { region, units })
    }

    /// Waits for the next segment that the device wants back.
    pub(crate) fn reclaimed(&mut self) -> abi::Reclaim {
        self.message(|message| message.kind == kind::RECLAIM).read()
    }

    /// Returns the number of segments that the device wants back, as far as its messages have been read.
    pub(crate) fn asked_for(&self) -> usize {
        let is_reclaim = |message: &&Message| message.kind == kind::RECLAIM;
        self.messages.iter().filter(is_reclaim).count()
    }

    /// Gives a segment back.
    pub(crate) fn release(&mut self, reclaim: &abi::Reclaim) {
        let release = abi::Release {
            region: reclaim.region,
            queue: reclaim.queue,
            number: reclaim.number,
            reserved: 0,
        };
        self.receive.remove(&(reclaim.queue, reclaim.number));
        self.request(kind::RELEASE, &release);
    }

    /// Waits for the next message for which `wanted` holds. Others stay.
    pub(crate) fn message(&mut self, wanted: impl Fn(&Message) -> bool) -> Message {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(index) = self.messages.iter().position(&wanted) {
                return self.messages.remove(index).unwrap();
            }
            let is_open = self.read_socket();
            if !self.messages.iter().any(&wanted) {
                assert!(is_open, "the device has closed the socket");
                self.wait(deadline);
            }
        }
    }

    /// Waits for the next offer.
    pub(crate) fn offer(&mut self) -> abi::Offer {
        self.message(|message| message.kind == kind::OFFER).read()
    }

    /// Returns the next offer, if there is one now.
    pub(crate) fn try_offer(&mut self) -> Option<abi::Offer> {
        self.read_socket();
        let is_offer = |message: &Message| message.kind == kind::OFFER;
        let index = self.messages.iter().position(is_offer)?;
        self.messages.remove(index).map(|message| message.read())
    }

    /// Waits for the last message, and the end of the socket.
    pub(crate) fn detached(&mut self) -> Status {
        let status = self
            .message(|message| message.kind == kind::DETACHED)
            .status();
        self.closed();
        status
    }

    /// Waits for the end of the socket.
    pub(crate) fn closed(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.read_socket() {
            self.wait(deadline);
        }
    }

    fn wait(&self, deadline: Instant) {
        let time = deadline.saturating_duration_since(Instant::now());
        assert!(!time.is_zero(), "nothing came in time");
        wait_readable(self.socket.as_fd(), Some(time)).unwrap();
    }

    /// Reads what the device has sent. `false`: the socket has ended.
    pub(crate) fn read_socket(&mut self) -> bool {
        let mut buffer = [0; abi::MAX_CONTROL_LENGTH];
        loop {
            let received = match self.socket.receive(&mut buffer) {
                Ok(received) => received,
                Err(error) if error.is_would_block() => return true,
                Err(error) => {
                    assert_eq!(error.name(), "closed");
                    return false;
                }
            };
            let bytes = &buffer[..received.length];
            let (control, body) = abi::Control::read_from_prefix(bytes).unwrap();
            assert_eq!(control.length as usize, bytes.len());
            let message = Message {
                kind: control.kind,
                cookie: control.cookie,
                body: body.to_vec(),
                descriptors: received.descriptors,
            };
            match message.kind {
                kind::QUEUE => self.open_queue(message),
                kind::SEGMENT if message.cookie == 0 => self.map_segment(message),
                kind::WAKE => {}
                kind::ADDRESSES => self.addresses.push(addresses(&message.body)),
                _ => self.messages.push_back(message),
            }
        }
    }

    fn open_queue(&mut self, mut message: Message) {
        let queue: abi::Queue = message.read();
        let bell = Arc::new(Bell::from(message.descriptors.pop().unwrap()));
        let file = message.descriptors.pop().unwrap();
        let file = Memfd::verify(file, queue.length as usize).unwrap();
        let memory = shm::map(&file).unwrap();
        let offset = queue.completion_offset as usize;
        let second = memory.part(offset, memory.len() - offset).unwrap();
        let submissions = RingMemory::open(&memory).unwrap();
        let completions = RingMemory::open(&second).unwrap();
        let opened = Queue {
            memory,
            submissions: Producer::new(submissions, Arc::clone(&bell)),
            completions: Consumer::new(completions, Arc::clone(&bell)),
            bell,
        };
        assert!(self.queues.insert(queue.queue, opened).is_none());
    }

    fn map_segment(&mut self, mut message: Message) {
        let segment: abi::Segment = message.read();
        let file = message.descriptors.pop().unwrap();
        let file = Memfd::verify(file, segment.length as usize).unwrap();
        let memory = shm::map(&file).unwrap();
        let number = segment.number as usize;
        match segment.region {
            region::SEND => put(&mut self.send, number, memory),
            region::BULK => put(&mut self.bulk, number, memory),
            _ => {
                let place = (segment.queue, segment.number);
                assert!(self.receive.insert(place, memory).is_none());
            }
        }
    }

    /// Returns the next completion, if there is one now.
    pub(crate) fn try_completion(&mut self) -> Option<Completion> {
        self.read_socket();
        for queue in self.queues.values_mut() {
            let mut entries = [[0; 8]; 16];
            let count = queue.completions.pop(&mut entries).unwrap();
            let found = entries[..count]
                .iter()
                .map(|entry| -> Completion { transmute!(*entry) });
            self.completions.extend(found);
        }
        self.completions.pop_front()
    }

    /// Waits for the next completion, and sleeps until it comes.
    pub(crate) fn completion(&mut self) -> Completion {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(completion) = self.try_completion() {
                return completion;
            }
            let mut may_sleep = true;
            for queue in self.queues.values_mut() {
                may_sleep &= queue.completions.announce_sleep().unwrap();
            }
            if may_sleep {
                self.wait(deadline);
            }
        }
    }

    /// Returns whether no completion comes for this time.
    pub(crate) fn is_quiet(&mut self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            if self.try_completion().is_some() {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// Waits for the next completion, which must be this event. Returns it with its status.
    pub(crate) fn expect(&mut self, event: u32) -> (Completion, Status) {
        let completion = self.completion();
        assert_eq!(completion.event, event, "{completion:?}");
        (completion, Status::from_code(completion.status).unwrap())
    }

    /// Waits for the next completion of this event, and returns it with its status. Others stay.
    pub(crate) fn find(&mut self, event: u32) -> (Completion, Status) {
        let mut others = Vec::new();
        let found = loop {
            let completion = self.completion();
            if completion.event == event {
                break completion;
            }
            others.push(completion);
        };
        for completion in others.into_iter().rev() {
            self.completions.push_front(completion);
        }
        (found, Status::from_code(found.status).unwrap())
    }

    /// Waits for the next completion, which must be a new connection, and logs its client in.
    pub(crate) fn connection(&mut self) -> ConnInfo {
        let info = self.stranger();
        self.authenticate(info.conn);
        info
    }

    pub(crate) fn authenticate(&mut self, conn: u64) {
        self.submit(Submission {
            op: op::AUTHENTICATED,
            conn,
            ..NOTHING
        });
    }

    /// Waits for the next completion, which must be a new connection.
    pub(crate) fn stranger(&mut self) -> ConnInfo {
        let (completion, _) = self.expect(event::CONNECTION);
        let bytes = self.take(&completion);
        let info = ConnInfo::read_from_bytes(&bytes).unwrap();
        assert_eq!(info.conn, completion.conn);
        info
    }

    /// Waits for the next completion, which must be a message of `conn`.
    pub(crate) fn pdu(&mut self, conn: u64) -> Vec<u8> {
        let (completion, _) = self.expect(event::PDU);
        assert_eq!(completion.conn, conn);
        self.take(&completion)
    }

    /// Copies the buffer of a completion, without giving the buffer back.
    pub(crate) fn peek(&mut self, completion: &Completion) -> Vec<u8> {
        let queue = abi::queue_of(completion.conn);
        let buffer = shm::Buffer::from_bits(completion.buffer).to_bits();
        let (segment, unit) = (buffer >> 16 & 0xffff, buffer & 0xffff);
        let shape = self.attached.unwrap().memory.receive;
        // The message about this segment came before the completion.
        self.read_socket();
        let memory = &self.receive[&(queue, segment as u32)];
        let offset = unit as usize * shape.unit_length as usize;
        memory.to_vec(offset, completion.length as usize).unwrap()
    }

    /// Copies the buffer of a completion, and gives the buffer back.
    pub(crate) fn take(&mut self, completion: &Completion) -> Vec<u8> {
        let bytes = self.peek(completion);
        self.recycle(completion);
        bytes
    }

    pub(crate) fn recycle(&mut self, completion: &Completion) {
        self.submit(Submission {
            op: op::RECYCLE,
            conn: completion.conn >> 48 << 48,
            place: completion.buffer,
            ..NOTHING
        });
    }

    /// Puts one entry into the ring of its connection's queue, once that ring has room.
    pub(crate) fn submit(&mut self, submission: Submission) {
        self.submit_to(abi::queue_of(submission.conn), transmute!(submission));
    }

    pub(crate) fn submit_to(&mut self, queue: u32, entry: shm::Entry) {
        let queue = self.queues.get_mut(&queue).expect("the queue is there");
        let deadline = Instant::now() + PATIENCE;
        while queue.submissions.push(&[entry]).unwrap() == 0 {
            assert!(Instant::now() < deadline, "the ring stays full");
            std::thread::yield_now();
        }
    }

    /// Sends `message` from the start of SEND.
    pub(crate) fn send_pdu(&mut self, conn: u64, cookie: u64, message: &[u8]) {
        if self.send.is_empty() {
            assert_eq!(self.grow(region::SEND), Status::Ok);
        }
        self.send[0].write(0, message).unwrap();
        self.submit(Submission {
            op: op::SEND_PDU,
            conn,
            cookie,
            length: message.len() as u32,
            ..NOTHING
        });
    }

    /// Sends `message` and waits until it has been sent.
    pub(crate) fn reply(&mut self, conn: u64, message: &[u8]) {
        self.send_pdu(conn, 99, message);
        let (sent, status) = self.expect(event::SENT);
        assert_eq!((sent.cookie, status), (99, Status::Ok));
    }

    /// Submits an RDMA operation on `length` bytes at `place` of BULK. Its descriptors go to SEND, between offsets 64
    /// KiB and 320 KiB; if there are more than a few, they go to offset 512 KiB, so that they do not overwrite those of
    /// earlier operations.
    pub(crate) fn rdma(
        &mut self,
        op: u32,
        (conn, cookie): (u64, u64),
        (place, length): (Place, u32),
        descriptors: &[BufferDescriptorV1],
    ) {
        if self.send.is_empty() {
            assert_eq!(self.grow(region::SEND), Status::Ok);
        }
        let list: Vec<u8> = descriptors.iter().flat_map(|d| d.emit()).collect();
        self.last_cookie += 1;
        let offset = match list.len() {
            0..=256 => (1 << 16) + self.last_cookie % 1000 * 256,
            _ => 1 << 19,
        };
        let at = Place { segment: 0, offset };
        self.send[0].write(at.offset as usize, &list).unwrap();
        self.submit(Submission {
            op,
            conn,
            cookie,
            place: place.to_bits(),
            length,
            descriptors: at.to_bits(),
            descriptor_count: descriptors.len() as u32,
            ..NOTHING
        });
    }

    /// Submits a transfer, after putting the message at the start of SEND.
    pub(crate) fn transfer(
        &mut self,
        conn: u64,
        client_guid: [u8; 16],
        message: &[u8],
    ) -> Completion {
        if self.send.is_empty() {
            assert_eq!(self.grow(region::SEND), Status::Ok);
        }
        self.send[0].write(0, message).unwrap();
        let transfer = TransferSubmission {
            op: op::TRANSFER,
            flags: 0,
            conn,
            cookie: 77,
            place: 0,
            length: message.len() as u32,
            reserved: 0,
            client_guid,
            reserved2: 0,
        };
        self.submit_to(abi::queue_of(conn), transmute!(transfer));
        let (completion, _) = self.expect(event::TRANSFERRED);
        assert_eq!(completion.cookie, 77);
        completion
    }

    pub(crate) fn disconnect(&mut self, conn: u64) {
        self.submit(Submission {
            op: op::DISCONNECT,
            conn,
            ..NOTHING
        });
    }
}

pub(crate) const NOTHING: Submission = Submission {
    op: 0,
    flags: 0,
    conn: 0,
    cookie: 0,
    place: 0,
    length: 0,
    token: 0,
    descriptors: 0,
    descriptor_count: 0,
    reserved: [0; 3],
};

/// Returns the list of an [`abi::Addresses`].
fn addresses(body: &[u8]) -> Vec<abi::Address> {
    let (head, list) = abi::Addresses::read_from_prefix(body).unwrap();
    let list = list.chunks(size_of::<abi::Address>());
    assert_eq!(head.count as usize, list.len());
    list.map(|one| abi::Address::read_from_bytes(one).unwrap())
        .collect()
}

/// Stores a segment under the next number, or under the number of a segment that was given back.
fn put(segments: &mut Vec<Memory>, number: usize, memory: Memory) {
    match segments.get_mut(number) {
        Some(place) => *place = memory,
        None => {
            assert_eq!(number, segments.len());
            segments.push(memory);
        }
    }
}
