// SPDX-License-Identifier: GPL-2.0-or-later

//! A worker that has a connection and breaks the rules of its rings.
//!
//! ```text
//!   this thread      fills entries, legal and not; enters; grows, maps and releases memory
//!   another thread   overwrites words of the queue's memory at the same time: entries, indexes, all of it
//!   the client       sends, and lets the device read and write its windows
//! ```

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use smbdirect::device::Status;
use smbdirect::device::abi::{self, Control, Token, event, kind, op, region, role};
use smbdirect::device::uapi::{
    ALL_QUEUES, EnterCall, GetEventsCall, GrowCall, MAP_QUEUE, enter, map_offset, number,
};
use smbdirect::shm::{ENTRY_LENGTH, HEADER_LENGTH};
use smbdirect::wire::BufferDescriptorV1;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::Tokens;
use crate::client::Client;
use crate::file::{File, Mapping};
use crate::tally::{Tally, fail};

/// Offsets of words in a ring (`shm::layout`).
const CAPACITY: usize = 16;
const PRODUCER: usize = 128;
const CONSUMER: usize = 256;
const SLEEPING: [usize; 2] = [384, 512];

/// A control message: its kind, cookie and body.
type Message = (u32, u64, Vec<u8>);

/// A buffer for events.
pub(crate) struct Events(Vec<u64>);

impl Events {
    pub(crate) fn new() -> Self {
        Self(vec![0; 8192])
    }

    /// Reads the messages that wait. `None`: the file is no longer attached.
    pub(crate) fn read(&mut self, file: &File, tally: &Tally) -> Option<Vec<Message>> {
        let mut call = GetEventsCall {
            buffer: self.0.as_mut_ptr() as u64,
            length: size_of_val(&self.0[..]) as u32,
            ..GetEventsCall::new_zeroed()
        };
        file.make(tally, "get_events", &mut call).ok()?;
        let mut bytes = &self.0.as_bytes()[..call.filled as usize];
        let mut messages = Vec::new();
        for _ in 0..call.count {
            let (control, _) = Control::read_from_prefix(bytes).expect("a whole message");
            let (message, rest) = bytes.split_at(control.length as usize);
            let body = message[size_of::<Control>()..].to_vec();
            messages.push((control.kind, control.cookie, body));
            bytes = rest;
        }
        if !bytes.is_empty() {
            fail(&format!(
                "{} bytes follow {} messages",
                bytes.len(),
                call.count
            ));
        }
        Some(messages)
    }
}

/// Plays one worker after the other until it is time to end.
pub(crate) fn play(
    (device, server): (&Path, SocketAddr),
    tally: &Arc<Tally>,
    mut rng: Rng,
    (tokens, end): (&Tokens, Instant),
) {
    while Instant::now() < end {
        let client = Client::start(server, tally, rng.fork());
        let patience = Instant::now() + Duration::from_secs(4);
        let token = loop {
            let token = tokens.lock().expect("no thread fails").remove(&client.guid);
            if token.is_some() || Instant::now() > patience {
                break token;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let outcome = match token {
            Some(token) => one(device, tally, (&mut rng, &client, token)),
            None => "no token",
        };
        tally.count("worker", outcome);
    }
}

/// Serves a connection for as long as the device allows. Returns how it ended.
fn one(
    device: &Path,
    tally: &Tally,
    (rng, client, token): (&mut Rng, &Client, Token),
) -> &'static str {
    let file = File::open(device, tally, true);
    if file.attach(tally, role::WORKER, token) != Status::Ok.code() {
        // The client has gone.
        return "not attached";
    }
    let Some(mut worker) = Worker::begin(&file, tally, rng) else {
        return "no queue";
    };
    let windows = client.windows.recv_timeout(Duration::from_secs(2));
    worker.windows = windows.unwrap_or_default();
    let queue = Arc::clone(&worker.queue);
    let (place, ends) = ((&*queue, worker.completions), &AtomicBool::new(false));
    let mut random = rng.fork();
    // Mostly, the rings are sound for a while, so that what they say matters.
    let overwrites = rng.u8(..8);
    let state = std::thread::scope(|scope| {
        if overwrites < 3 {
            scope.spawn(move || overwrite(place, &mut random, (overwrites, ends)));
        }
        let state = worker.work(rng);
        // SYNC: pairs with the load in `overwrite`; nothing else is published.
        ends.store(true, Ordering::Release);
        state
    });
    drop(worker);
    if rng.u8(..3) == 0 {
        let _ = tally.timed("detach", || file.raw(number::DETACH, 0));
    }
    // The memory stays until it is unmapped, whatever becomes of the file.
    drop(file);
    touch(&queue);
    state
}

/// Touches all of a mapping.
fn touch(mapping: &Mapping) {
    for at in (0..mapping.length()).step_by(4096) {
        mapping.write(at, mapping.read(at));
    }
}

/// Overwrites words of the queue's memory: entries (0), what describes the rings (1), or anything.
fn overwrite(
    (queue, completions): (&Mapping, usize),
    rng: &mut Rng,
    (what, ends): (u8, &AtomicBool),
) {
    // SYNC: pairs with the store in `one`.
    while !ends.load(Ordering::Acquire) {
        let half = completions * usize::from(rng.bool());
        let at = match what {
            0 => rng.usize(HEADER_LENGTH..completions),
            1 => half + rng.usize(..HEADER_LENGTH),
            _ => rng.usize(..queue.length()),
        };
        let value = match rng.u8(..4) {
            0 => rng.u32(..8),
            1 => queue.read(at & !3).wrapping_add(1),
            2 => queue.read(at & !3) ^ 1 << rng.u32(..32),
            _ => rng.u32(..),
        };
        queue.write(at & !3, value);
        if rng.u8(..64) == 0 {
            std::thread::sleep(Duration::from_micros(rng.u64(..200)));
        }
    }
}

/// An attached worker with a connection.
struct Worker<'a> {
    file: &'a File,
    tally: &'a Tally,
    events: Events,
    queue: Arc<Mapping>,
    /// Offset of the completion ring.
    completions: usize,
    capacity: u32,
    pushed: u32,
    taken: u32,
    conn: u64,
    /// Places of messages that were received and not recycled.
    received: Vec<u64>,
    segments: Vec<((u32, u32), Mapping)>,
    windows: [Vec<BufferDescriptorV1>; 2],
}

impl<'a> Worker<'a> {
    /// Waits for the queue and the connection. `None`: they do not come.
    fn begin(file: &'a File, tally: &'a Tally, rng: &mut Rng) -> Option<Self> {
        let (mut events, patience) = (Events::new(), Instant::now() + Duration::from_secs(3));
        let mut early = Vec::new();
        let made = loop {
            early.extend(events.read(file, tally)?);
            let found = early.iter().find(|(kind, ..)| *kind == kind::QUEUE);
            if let Some((_, _, body)) = found {
                break abi::Queue::read_from_bytes(body).expect("a queue");
            }
            if Instant::now() > patience {
                return None;
            }
            file.wait(tally, 100);
        };
        let offset = map_offset(MAP_QUEUE, made.queue).expect("a small number");
        let length = (made.length as usize).next_multiple_of(4096);
        let queue = match file.map(length, offset) {
            Ok(queue) => queue,
            Err(_) if tally.faults => return None,
            Err(error) => fail(&format!("a queue cannot be mapped: {error}")),
        };
        let completions = made.completion_offset as usize;
        let mut worker = Self {
            file,
            tally,
            events,
            completions,
            capacity: queue.read(CAPACITY),
            pushed: queue.read(PRODUCER),
            taken: queue.read(completions + CONSUMER),
            queue: Arc::new(queue),
            conn: 0,
            received: Vec::new(),
            segments: Vec::new(),
            windows: Default::default(),
        };
        for (kind, cookie, body) in early {
            worker.message((kind, cookie, &body));
        }
        worker.grow((region::SEND, 1 + rng.u32(..20)));
        worker.grow((region::BULK, 1 + rng.u32(..4)));
        while worker.conn == 0 && Instant::now() < patience {
            worker.enter((enter::LOOK, 20_000_000)).ok()?;
            worker.take();
        }
        (worker.conn != 0).then_some(worker)
    }

    fn grow(&mut self, (region, units): (u32, u32)) {
        let mut call = GrowCall::new_zeroed();
        (call.cookie, call.grow) = (1, abi::Grow { region, units });
        let made = self.file.make(self.tally, "grow", &mut call);
        if made.is_ok() && call.status == Status::Ok.code() {
            self.map(call.segment);
        }
    }

    fn map(&mut self, segment: abi::Segment) {
        let place = (segment.region, segment.number);
        let offset = map_offset(place.0, place.1).expect("a small number");
        let length = (segment.length as usize).next_multiple_of(4096);
        // The worker may have been detached, or may have given the segment back.
        if let Ok(mapping) = self.file.map(length, offset) {
            self.segments.push((place, mapping));
        }
    }

    fn message(&mut self, (kind, _, body): (u32, u64, &[u8])) {
        match kind {
            kind::SEGMENT => {
                self.map(abi::Segment::read_from_bytes(body).expect("a segment"));
            }
            kind::DETACHED => {
                let detached = abi::Detached::read_from_bytes(body).expect("an end");
                let Some(status) = Status::from_code(detached.status) else {
                    fail(&format!("detached with status {}", detached.status));
                };
                self.tally.count("detached", status.name());
            }
            _ => {}
        }
    }

    fn enter(&self, (flags, wait_ns): (u32, u64)) -> Result<u32, i32> {
        let mut call = EnterCall {
            queue: ALL_QUEUES,
            flags,
            wait_ns,
            ..EnterCall::new_zeroed()
        };
        let entered = self.file.make(self.tally, "enter", &mut call);
        entered.map(|()| call.ready)
    }

    /// Takes all completions.
    fn take(&mut self) {
        let producer = self.queue.read(self.completions + PRODUCER);
        // Another thread may have overwritten the index.
        for _ in 0..self.capacity.min(producer.wrapping_sub(self.taken)) {
            let slot = (self.taken % self.capacity) as usize;
            let at = self.completions + HEADER_LENGTH + slot * ENTRY_LENGTH;
            let bytes = self.queue.read_all(at, ENTRY_LENGTH);
            let found = abi::Completion::read_from_bytes(&bytes).expect("its length");
            match found.event {
                event::CONNECTION => self.conn = found.conn,
                event::PDU => self.received.push(found.buffer),
                _ => {}
            }
            self.taken = self.taken.wrapping_add(1);
        }
        self.queue.write(self.completions + CONSUMER, self.taken);
    }

    /// Breaks rules until the device has had enough, or for a time. Returns how it ended.
    fn work(&mut self, rng: &mut Rng) -> &'static str {
        let is_careful = rng.bool();
        for _ in 0..rng.u32(20..400) {
            for _ in 0..[1, 1, 3, 40, 300][rng.usize(..5)] {
                let entry = self.entry(rng, is_careful);
                self.push(entry);
            }
            let flags = match rng.u8(..40) {
                0 => rng.u32(..4),
                1..12 => 0,
                _ => enter::LOOK,
            };
            let wait = if flags == enter::LOOK {
                rng.u64(..3_000_000)
            } else {
                0
            };
            match self.enter((flags, wait)) {
                Err(libc::ESHUTDOWN) => return "detached",
                Err(libc::EINVAL | libc::EINTR) | Ok(_) => {}
                Err(libc::EFAULT) if self.tally.faults => {}
                Err(other) => fail(&format!("entering failed: {}", crate::file::name(other))),
            }
            if rng.u8(..4) > 0 {
                self.take();
            }
            if rng.bool() {
                let Some(messages) = self.events.read(self.file, self.tally) else {
                    return "detached";
                };
                for (kind, cookie, body) in &messages {
                    self.message((*kind, *cookie, body));
                }
            }
            self.change_memory(rng);
            if !is_careful && rng.u8(..30) == 0 {
                let half = self.completions * usize::from(rng.bool());
                let word = *rng
                    .choice(&[PRODUCER, CONSUMER, SLEEPING[0], SLEEPING[1]])
                    .expect("four");
                self.queue.write(half + word, rng.u32(..));
            }
        }
        "served"
    }

    fn change_memory(&mut self, rng: &mut Rng) {
        match rng.u8(..60) {
            0 => self.grow((rng.u32(1..3), rng.u32(1..200))),
            1 => {
                // The device may be using it.
                if let Some(at) =
                    (!self.segments.is_empty()).then(|| rng.usize(..self.segments.len()))
                {
                    let ((region, number), mapping) = self.segments.swap_remove(at);
                    let mut call = abi::Release {
                        region,
                        number,
                        ..abi::Release::new_zeroed()
                    };
                    let _ = self.file.make(self.tally, "release", &mut call);
                    touch(&mapping);
                }
            }
            _ => {}
        }
    }

    /// Makes an entry. A careful worker's entries are legal, and others have one wrong field or many.
    fn entry(&mut self, rng: &mut Rng, is_careful: bool) -> abi::Submission {
        let place = |region: u32, rng: &mut Rng| {
            let of_region = self.segments.iter().filter(|((of, _), _)| *of == region);
            let found: Vec<_> = of_region
                .map(|((_, number), mapping)| (*number, mapping.length()))
                .collect();
            let (segment, length) = rng.choice(found).unwrap_or((0, 4096));
            let offset = rng.usize(..length / 4096) * 4096;
            (u64::from(segment) << 48 | offset as u64, length - offset)
        };
        let mut entry = abi::Submission::new_zeroed();
        (entry.conn, entry.cookie) = (self.conn, rng.u64(..));
        let kinds = [
            op::SEND_PDU,
            op::RDMA_READ,
            op::RDMA_WRITE,
            op::RECYCLE,
            op::AUTHENTICATED,
        ];
        entry.op = *rng.choice(&kinds).expect("there are some");
        match entry.op {
            op::SEND_PDU => {
                let (at, room) = place(region::SEND, rng);
                (entry.place, entry.length) = (at, 1 + rng.u32(..room.min(30_000) as u32));
            }
            op::RDMA_READ | op::RDMA_WRITE => {
                let windows = &self.windows[usize::from(entry.op == op::RDMA_WRITE)];
                let (at, room) = place(region::BULK, rng);
                let (list, _) = place(region::SEND, rng);
                let total: u32 = windows.iter().map(|window| window.length).sum();
                (entry.place, entry.length) = (at, 1 + rng.u32(..total.max(1).min(room as u32)));
                (entry.descriptors, entry.descriptor_count) = (list, windows.len() as u32);
                let bytes: Vec<u8> = windows.iter().flat_map(|window| window.emit()).collect();
                let segment = self.segments.iter().find(|((region, number), _)| {
                    (*region, *number) == (region::SEND, (list >> 48) as u32)
                });
                if let Some((_, mapping)) = segment {
                    mapping.write_all((list & 0xffff_ffff) as usize, &bytes);
                }
            }
            op::RECYCLE => match self.received.pop() {
                Some(place) => entry.place = place,
                None => entry.op = op::AUTHENTICATED,
            },
            _ => {}
        }
        if !is_careful && rng.u8(..12) == 0 {
            self.spoil(rng, &mut entry);
        }
        entry
    }

    fn spoil(&self, rng: &mut Rng, entry: &mut abi::Submission) {
        for _ in 0..[1, 1, 1, 4][rng.usize(..4)] {
            let long = [0, 1, 4095, 1 << 32, 1 << 48, u64::MAX, rng.u64(..)][rng.usize(..7)];
            let short = [0, 1, 4096, 1 << 20, u32::MAX, rng.u32(..)][rng.usize(..6)];
            match rng.u8(..10) {
                0 => entry.op = rng.u32(..16),
                1 => entry.flags = short,
                2 => entry.conn = [0, self.conn + 1, self.conn ^ 1 << 48, long][rng.usize(..4)],
                3 => entry.place = entry.place.wrapping_add(long),
                4 => entry.length = short,
                5 => entry.token = short,
                6 => entry.descriptors = long,
                7 => entry.descriptor_count = short,
                8 => entry.reserved[rng.usize(..3)] = short,
                _ => entry.op = op::TRANSFER,
            }
        }
    }

    fn push(&mut self, entry: abi::Submission) {
        let slot = (self.pushed % self.capacity) as usize;
        self.queue
            .write_all(HEADER_LENGTH + slot * ENTRY_LENGTH, entry.as_bytes());
        self.pushed = self.pushed.wrapping_add(1);
        self.queue.write(PRODUCER, self.pushed);
    }
}
