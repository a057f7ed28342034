// SPDX-License-Identifier: GPL-2.0-or-later

//! A device that does what a test tells it to, on the same thread: the other side of [`Channel`].

#![allow(dead_code, clippy::expect_used)]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::time::Duration;

use smbdirect::device::abi::{self, Completion, ConnInfo, event, kind, region, role};
use smbdirect::device::channel::{Channel, Delivery};
use smbdirect::device::message::{Answer, Request, read_request};
use smbdirect::device::{Event, Handle, Role, Status};
use smbdirect::shm::{Consumer, Doorbell, Entry, Producer, RingMemory, ring_length};
use smbdirect::sys::{EventFd, Memory, wait_readable};
use zerocopy::{FromZeros, IntoBytes, transmute};

pub(crate) const SEND_UNIT: u32 = 4096;
pub(crate) const BULK_UNIT: u32 = 1 << 16;
pub(crate) const RECEIVE_UNIT: u32 = 1024;
pub(crate) const DEPTH: u32 = 16;
pub(crate) const OUTSTANDING: u32 = 8;

/// Returns the parameters of the device in these tests.
pub(crate) fn params() -> abi::Attached {
    let shape = |unit_length, units_per_segment, longest_run| abi::RegionShape {
        unit_length,
        units_per_segment,
        longest_run,
        max_segments: 2,
    };
    abi::Attached {
        version: abi::VERSION,
        worker: 7,
        memory: abi::MemParams {
            send: shape(SEND_UNIT, 64, 32),
            bulk: shape(BULK_UNIT, 4, 2),
            receive: shape(RECEIVE_UNIT, 8, 4),
            limit: 64 << 20,
            reserved: 0,
        },
        submissions_outstanding: OUTSTANDING,
        max_read_write_size: 1 << 20,
        features: 0,
        reserved: [0; 4],
    }
}

/// Returns the length of a segment of `shape`, in bytes.
pub(crate) fn segment_length(shape: abi::RegionShape) -> usize {
    shape.unit_length as usize * shape.units_per_segment as usize
}

/// A bell that counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Count(pub(crate) Rc<Cell<u32>>);

impl Doorbell for Count {
    fn ring(&self) {
        self.0.set(self.0.get() + 1);
    }
}

#[derive(Debug, Default)]
struct Shared {
    deliveries: VecDeque<Result<Delivery<Count>, Status>>,
    sent: VecDeque<Vec<u8>>,
    closed: bool,
    /// Whether the device has stopped receiving.
    full: bool,
    /// The number of calls of `receive`.
    received: u32,
}

/// The library's end.
#[derive(Debug)]
pub(crate) struct Script {
    shared: Rc<RefCell<Shared>>,
    readable: Rc<EventFd>,
}

impl Channel for Script {
    type Doorbell = Count;

    fn event_fd(&self) -> BorrowedFd<'_> {
        self.readable.as_fd()
    }

    fn wake(&mut self) {
        self.readable.ring().expect("rung");
    }

    fn send(&mut self, message: &[u8]) -> Result<(), Status> {
        let mut shared = self.shared.borrow_mut();
        if shared.full {
            return Err(Status::Again);
        }
        shared.sent.push_back(message.to_vec());
        Ok(())
    }

    fn receive(&mut self) -> Result<Option<Delivery<Count>>, Status> {
        let mut shared = self.shared.borrow_mut();
        shared.received += 1;
        match shared.deliveries.pop_front() {
            None => {
                self.readable.drain().expect("drained");
                Ok(None)
            }
            Some(delivery) => delivery.map(Some),
        }
    }

    fn close(&mut self) {
        self.shared.borrow_mut().closed = true;
    }
}

/// The device's end.
#[derive(Debug)]
pub(crate) struct Device {
    shared: Rc<RefCell<Shared>>,
    readable: Rc<EventFd>,
    pub(crate) queues: Vec<Queue>,
    /// SEND segments and BULK segments, shared with the library.
    pub(crate) send: Vec<Memory>,
    pub(crate) bulk: Vec<Memory>,
}

/// The device's side of a queue.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) number: u32,
    pub(crate) memory: Memory,
    pub(crate) submissions: Consumer<Count>,
    pub(crate) completions: Producer<Count>,
    /// How often the worker was woken, and how often it rang.
    pub(crate) wakes: Count,
    pub(crate) rung: Count,
    pub(crate) receive: Vec<Memory>,
    next_unit: u32,
}

pub(crate) type Worker = Handle<Script>;

/// Makes both ends.
pub(crate) fn ends() -> (Script, Device) {
    let shared = Rc::new(RefCell::new(Shared::default()));
    let readable = Rc::new(EventFd::new().expect("a descriptor"));
    let script = Script {
        shared: Rc::clone(&shared),
        readable: Rc::clone(&readable),
    };
    let device = Device {
        shared,
        readable,
        queues: Vec::new(),
        send: Vec::new(),
        bulk: Vec::new(),
    };
    (script, device)
}

/// Makes a handle that has asked to be attached, and its device.
pub(crate) fn attaching(role: Role) -> (Worker, Device) {
    let (script, device) = ends();
    let handle = Handle::over(script, role, None).expect("sent");
    (handle, device)
}

/// Makes a handle that is attached.
pub(crate) fn attached(role: Role) -> (Worker, Device) {
    attached_with(role, params())
}

pub(crate) fn attached_with(role: Role, params: abi::Attached) -> (Worker, Device) {
    let (mut handle, mut device) = attaching(role);
    let (cookie, request) = device.request();
    let wanted = match role {
        Role::Listener => role::LISTENER,
        Role::Worker => role::WORKER,
    };
    let Some(Request::Attach(attach)) = parsed(&request) else {
        panic!("{request:?}");
    };
    assert_eq!((attach.version, attach.role), (abi::VERSION, wanted));
    device.say(cookie, Answer::Attached(params));
    if role == Role::Worker {
        assert_eq!(handle.next_event(), Ok(None), "nothing to answer from");
        assert_eq!(device.grow(), region::SEND);
    }
    assert_eq!(handle.next_event(), Ok(Some(Event::Attached)));
    assert_eq!(handle.next_event(), Ok(None));
    (handle, device)
}

/// Makes a worker with one queue, one segment of each region, and one connection, `conn(1)`.
pub(crate) fn connected() -> (Worker, Device) {
    connected_with(params())
}

pub(crate) fn connected_with(params: abi::Attached) -> (Worker, Device) {
    let (mut handle, mut device) = attached_with(Role::Worker, params);
    device.share_queue(1);
    device.share_receive(1);
    device.connect(info(conn(1)));
    let event = handle.next_event();
    assert!(matches!(event, Ok(Some(Event::Connection { .. }))));
    assert_eq!(handle.allocate(1), Err(Status::Again));
    assert_eq!(device.grow(), region::BULK);
    assert_eq!(events(&mut handle), [Event::Room]);
    device.take(1);
    (handle, device)
}

/// Returns the number of a connection of queue 1.
pub(crate) const fn conn(number: u64) -> u64 {
    1 << 48 | number
}

pub(crate) fn info(conn: u64) -> ConnInfo {
    ConnInfo {
        conn,
        peer_port: 50_000,
        local_port: 5445,
        client_guid: [9; 16],
        max_fragmented_send_size: 1 << 17,
        max_fragmented_receive_size: 1 << 17,
        max_read_write_size: 1 << 20,
        initiator_depth: 16,
        peer_max_fragmented_size: 1 << 18,
        ..ConnInfo::new_zeroed()
    }
}

/// Takes all events that there are now.
pub(crate) fn events(handle: &mut Worker) -> Vec<Event> {
    let events = std::iter::from_fn(|| handle.next_event().expect("attached"));
    events.take(10_000).collect()
}

/// Takes all events up to the end of the attachment, and returns them and the reason.
pub(crate) fn last_events(handle: &mut Worker) -> (Vec<Event>, Status) {
    let mut events = Vec::new();
    loop {
        match handle.next_event() {
            Ok(Some(Event::Detached { status })) => {
                assert_eq!(handle.next_event(), Err(Status::Detached));
                return (events, status);
            }
            Ok(Some(event)) => events.push(event),
            // After this many messages, the caller gets its turn.
            Ok(None) if is_readable(handle) => {}
            other => panic!("{other:?} before the end, after {events:?}"),
        }
    }
}

pub(crate) fn is_readable(handle: &Worker) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let fd = handle.event_fd().expect("its own");
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).expect("polled") == 1
}

/// Waits for the descriptor as a process would. Panics if that would sleep for ever.
pub(crate) fn wait(handle: &Worker) {
    wait_readable(
        handle.event_fd().expect("its own"),
        Some(Duration::from_secs(10)),
    )
    .expect("waited");
    assert!(is_readable(handle), "nothing woke it");
}

pub(crate) fn parsed(message: &[u8]) -> Option<Request<'_>> {
    read_request(message).map(|(_, request)| request).ok()
}

/// Makes a completion of an event on a connection; all other fields are 0.
pub(crate) fn completion(event: u32, conn: u64) -> Completion {
    Completion {
        event,
        conn,
        ..Completion::new_zeroed()
    }
}

impl Device {
    /// Sends a message without memory.
    pub(crate) fn say(&mut self, cookie: u64, answer: Answer) {
        self.deliver(Ok(Delivery {
            cookie,
            answer,
            memory: None,
            doorbell: None,
            socket: None,
        }));
    }

    pub(crate) fn deliver(&mut self, delivery: Result<Delivery<Count>, Status>) {
        self.shared.borrow_mut().deliveries.push_back(delivery);
        self.readable.ring().expect("rung");
    }

    /// Makes the device die: all of its ends are closed.
    pub(crate) fn die(&mut self) {
        self.deliver(Err(Status::Detached));
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.shared.borrow().closed
    }

    pub(crate) fn receives(&mut self, receives: bool) {
        self.shared.borrow_mut().full = !receives;
    }

    /// Returns how often the library looked for messages.
    pub(crate) fn looked(&self) -> u32 {
        self.shared.borrow().received
    }

    /// Takes the oldest request: its cookie, and the message.
    pub(crate) fn request(&mut self) -> (u64, Vec<u8>) {
        self.try_request().expect("a request")
    }

    pub(crate) fn try_request(&mut self) -> Option<(u64, Vec<u8>)> {
        let message = self.shared.borrow_mut().sent.pop_front()?;
        let (cookie, _) = read_request(&message).expect("a request of good form");
        Some((cookie, message))
    }

    pub(crate) fn reply(&mut self, cookie: u64, kind: u32, status: Status) {
        let status = status.code();
        self.say(cookie, Answer::Reply(abi::Reply { status, kind }));
    }

    /// Takes the oldest request, which must ask a region to grow, and returns the region.
    pub(crate) fn asked_to_grow(&mut self) -> (u64, u32) {
        let (cookie, message) = self.request();
        match parsed(&message) {
            Some(Request::Grow(grow)) => (cookie, grow.region),
            other => panic!("{other:?}"),
        }
    }

    /// Grants a request to grow, and returns the region.
    pub(crate) fn grow(&mut self) -> u32 {
        let (cookie, region) = self.asked_to_grow();
        self.grant(cookie, region);
        region
    }

    pub(crate) fn grant(&mut self, cookie: u64, region: u32) {
        let memory = params().memory;
        let (shape, segments) = match region {
            region::SEND => (memory.send, &mut self.send),
            _ => (memory.bulk, &mut self.bulk),
        };
        let memory = Memory::zeroed(segment_length(shape));
        let segment = abi::Segment {
            region,
            number: segments.len() as u32,
            length: memory.len() as u64,
            ..abi::Segment::new_zeroed()
        };
        segments.push(memory.clone());
        self.share(cookie, segment, memory);
    }

    pub(crate) fn share(&mut self, cookie: u64, segment: abi::Segment, memory: Memory) {
        self.deliver(Ok(Delivery {
            cookie,
            answer: Answer::Segment(segment),
            memory: Some(memory),
            doorbell: None,
            socket: None,
        }));
    }

    pub(crate) fn refuse_to_grow(&mut self) -> u32 {
        let (cookie, region) = self.asked_to_grow();
        self.reply(cookie, kind::GROW, Status::NoMemory);
        region
    }

    /// Asks for a segment back.
    pub(crate) fn reclaim(&mut self, region: u32, queue: u32, number: u32) {
        self.say(
            0,
            Answer::Reclaim(abi::Reclaim {
                region,
                queue,
                number,
                reserved: 0,
            }),
        );
    }

    /// Takes the segment that the worker has given back: its region, queue and number.
    pub(crate) fn released(&mut self) -> (u32, u32, u32) {
        let (_, message) = self.request();
        match parsed(&message) {
            Some(Request::Release(release)) => (release.region, release.queue, release.number),
            other => panic!("{other:?}"),
        }
    }

    /// Shares a queue. Its index is the number of earlier queues.
    pub(crate) fn share_queue(&mut self, number: u32) {
        let length = ring_length(DEPTH).expect("a capacity");
        let memory = Memory::zeroed(2 * length);
        let part = |offset| memory.part(offset, length).expect("in range");
        let ring = |offset| RingMemory::create(&part(offset), DEPTH).expect("it fits");
        let (wakes, rung) = (Count::default(), Count::default());
        let queue = Queue {
            number,
            submissions: Consumer::new(ring(0), wakes.clone()),
            completions: Producer::new(ring(length), wakes.clone()),
            memory: memory.clone(),
            wakes,
            rung: rung.clone(),
            receive: Vec::new(),
            next_unit: 0,
        };
        self.queues.push(queue);
        self.deliver(Ok(Delivery {
            cookie: 0,
            answer: Answer::Queue(abi::Queue {
                queue: number,
                reserved: 0,
                length: memory.len() as u64,
                completion_offset: length as u64,
            }),
            memory: Some(memory),
            doorbell: Some(rung),
            socket: None,
        }));
    }

    /// Shares one more RECEIVE segment with a queue.
    pub(crate) fn share_receive(&mut self, queue: u32) {
        let memory = Memory::zeroed(segment_length(params().memory.receive));
        let of = self.queue(queue);
        let segment = abi::Segment {
            region: region::RECEIVE,
            queue,
            number: of.receive.len() as u32,
            length: memory.len() as u64,
            ..abi::Segment::new_zeroed()
        };
        of.receive.push(memory.clone());
        self.share(0, segment, memory);
    }

    pub(crate) fn queue(&mut self, number: u32) -> &mut Queue {
        let found = self.queues.iter_mut().find(|queue| queue.number == number);
        found.expect("shared before")
    }

    /// Puts an entry into a completion ring, and wakes the worker as a reactor does.
    pub(crate) fn complete(&mut self, entry: Completion) {
        let queue = self.queue(abi::queue_of(entry.conn));
        let before = queue.wakes.0.get();
        let pushed = queue.completions.push(&[transmute!(entry)]);
        assert_eq!(pushed, Ok(1));
        if queue.wakes.0.get() > before {
            self.say(0, Answer::Wake(abi::Wake { reserved: 0 }));
        }
    }

    /// Hands over a connection.
    pub(crate) fn connect(&mut self, info: ConnInfo) {
        let buffer = self.queue(abi::queue_of(info.conn)).fill(info.as_bytes());
        self.complete(Completion {
            buffer,
            length: size_of::<ConnInfo>() as u32,
            ..completion(event::CONNECTION, info.conn)
        });
    }

    /// Hands over a message.
    pub(crate) fn pdu(&mut self, conn: u64, bytes: &[u8]) {
        let buffer = self.queue(abi::queue_of(conn)).fill(bytes);
        self.complete(Completion {
            buffer,
            length: bytes.len() as u32,
            ..completion(event::PDU, conn)
        });
    }

    /// Answers a submission.
    pub(crate) fn answer(&mut self, submission: &abi::Submission, status: Status) {
        let event = match submission.op {
            abi::op::SEND_PDU => event::SENT,
            abi::op::TRANSFER => event::TRANSFERRED,
            _ => event::RDMA_DONE,
        };
        self.complete(Completion {
            status: status.code(),
            cookie: submission.cookie,
            ..completion(event, submission.conn)
        });
    }

    pub(crate) fn disconnected(&mut self, conn: u64, status: Status) {
        self.complete(Completion {
            status: status.code(),
            ..completion(event::DISCONNECTED, conn)
        });
    }

    /// Takes all submissions that a queue has.
    pub(crate) fn take(&mut self, queue: u32) -> Vec<abi::Submission> {
        let mut entries = [[0; 8]; DEPTH as usize];
        let before = self.queue(queue).wakes.0.get();
        let count = self.queue(queue).submissions.pop(&mut entries);
        if self.queue(queue).wakes.0.get() > before {
            self.say(0, Answer::Wake(abi::Wake { reserved: 0 }));
        }
        let entries = entries.iter().take(count.expect("a good ring"));
        entries.map(|entry: &Entry| transmute!(*entry)).collect()
    }
}

impl Queue {
    /// Fills a RECEIVE buffer with these bytes. Units are used in turn.
    pub(crate) fn fill(&mut self, bytes: &[u8]) -> u64 {
        let units = params().memory.receive.units_per_segment;
        let needed = (bytes.len() as u32).div_ceil(RECEIVE_UNIT).max(1);
        if self.next_unit % units + needed > units {
            self.next_unit += units - self.next_unit % units;
        }
        let all = units * self.receive.len() as u32;
        let unit = self.next_unit % all;
        self.next_unit += needed;
        let (segment, unit) = (unit / units, unit % units);
        let memory = self.receive.get(segment as usize).expect("shared before");
        let start = (unit * RECEIVE_UNIT) as usize;
        memory.write(start, bytes).expect("in range");
        1 << 32 | u64::from(segment) << 16 | u64::from(unit)
    }
}
