// SPDX-License-Identifier: GPL-2.0-or-later

//! Processes that keep what the device tells them, and see memory and rings as real processes do.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use smbdirect::device::Status;
use smbdirect::device::abi::{self, Completion, Place, Submission, event, kind, op, region};
use smbdirect::engine::memory::{Account, Segment, Segments};
use smbdirect::engine::peer::{Peer, Role, Untold, Worker};
use smbdirect::shm::{Consumer, Doorbell, Entry, Producer, RingMemory};
use smbdirect::sys::Memory;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, transmute};

/// Bytes of a unit of each region.
pub(crate) const UNIT: u32 = 4096;

/// The length of a worker's SEND segment and of its BULK segment, in bytes.
const SEGMENT: usize = 256 << 10;

/// The offset in SEND at which a worker puts descriptors.
const DESCRIPTORS: u64 = 128 << 10;

/// A doorbell that counts how often it was rung.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rings(Rc<Cell<usize>>);

impl Rings {
    /// Returns whether the doorbell was rung since the last call.
    pub(crate) fn take(&self) -> bool {
        self.0.take() > 0
    }
}

impl Doorbell for Rings {
    fn ring(&self) {
        self.0.set(self.0.get() + 1);
    }
}

#[derive(Debug)]
struct Queue {
    submissions: Producer<Rings>,
    completions: Consumer<Rings>,
    memory: Memory,
}

/// What the device and the process share.
#[derive(Debug)]
pub(crate) struct Shared {
    id: u32,
    role: Role,
    invited: bool,
    pub(crate) account: Arc<Account>,
    total: Arc<Account>,
    segments: RefCell<Segments>,
    changes: Cell<u64>,
    messages: RefCell<VecDeque<(u32, u64, Vec<u8>)>>,
    queues: RefCell<BTreeMap<u32, Queue>>,
    receive: RefCell<BTreeMap<(u32, u32), Memory>>,
    /// Why the process takes no messages; `None` if it takes them.
    pub(crate) deaf: Cell<Option<Untold>>,
    doorbell: Rings,
}

/// A process. All clones are the same process.
#[derive(Clone, Debug)]
pub(crate) struct Process(Rc<Shared>);

impl std::ops::Deref for Process {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Peer for Process {
    fn id(&self) -> u32 {
        self.id
    }

    fn role(&self) -> Role {
        self.role
    }

    fn invited(&self) -> bool {
        self.invited
    }

    fn tell<T: IntoBytes + Immutable>(
        &self,
        kind: u32,
        cookie: u64,
        body: &T,
    ) -> Result<(), Untold> {
        self.hears()?;
        let message = (kind, cookie, body.as_bytes().to_vec());
        self.messages.borrow_mut().push_back(message);
        Ok(())
    }
}

impl Worker for Process {
    type Pages = Memory;
    type NewQueue = Memory;
    type Bell = Rings;
    type Doorbell = Rings;

    fn account(&self) -> &Arc<Account> {
        &self.0.account
    }

    fn make_pages(&self, length: usize) -> Result<(Memory, Memory), Status> {
        let memory = Memory::zeroed(length);
        Ok((memory.clone(), memory))
    }

    fn hand_over(&self, segment: &abi::Segment, pages: &Memory) -> Result<(), Untold> {
        self.hears()?;
        let place = (segment.queue, segment.number);
        let before = self.receive.borrow_mut().insert(place, pages.clone());
        assert!(before.is_none(), "{place:?} is there already");
        Ok(())
    }

    fn make_queue(&self, length: usize) -> Result<(Memory, Memory), Status> {
        self.make_pages(length)
    }

    fn hand_over_queue(&self, queue: &abi::Queue, memory: Memory) -> Result<Rings, Untold> {
        self.hears()?;
        let offset = queue.completion_offset as usize;
        let second = memory.part(offset, memory.len() - offset).unwrap();
        let [submissions, completions] = [&memory, &second].map(|m| RingMemory::open(m).unwrap());
        let bell = Rings::default();
        let opened = Queue {
            submissions: Producer::new(submissions, bell.clone()),
            completions: Consumer::new(completions, bell.clone()),
            memory,
        };
        let before = self.queues.borrow_mut().insert(queue.queue, opened);
        assert!(before.is_none(), "queue {} is there already", queue.queue);
        Ok(bell)
    }

    fn doorbell(&self) -> Rings {
        self.doorbell.clone()
    }

    fn segments(&self) -> Segments {
        self.segments.borrow().clone()
    }

    fn changes(&self) -> u64 {
        self.changes.get()
    }
}

impl Process {
    pub(crate) fn new(
        (id, role, invited): (u32, Role, bool),
        limit: u64,
        total: &Arc<Account>,
    ) -> Self {
        Self(Rc::new(Shared {
            id,
            role,
            invited,
            account: Account::new(limit),
            total: Arc::clone(total),
            segments: RefCell::default(),
            changes: Cell::new(0),
            messages: RefCell::default(),
            queues: RefCell::default(),
            receive: RefCell::default(),
            deaf: Cell::new(None),
            doorbell: Rings::default(),
        }))
    }

    /// Announces, on each of the process's queues (all of which must be empty), that the process goes to sleep, and
    /// that a sent message alone is no reason to wake it.
    pub(crate) fn announces_sleep(&self) {
        for queue in self.queues.borrow_mut().values_mut() {
            assert!(queue.completions.announce_deep_sleep().unwrap());
        }
    }

    /// Returns how often the process was woken since the last call.
    pub(crate) fn rings(&self) -> usize {
        self.doorbell.0.take()
    }

    fn hears(&self) -> Result<(), Untold> {
        self.deaf.get().map_or(Ok(()), Err)
    }

    /// Returns the process's only segment of a region, which the first call creates.
    fn segment(&self, region: u32) -> Memory {
        let mut segments = self.segments.borrow_mut();
        let of = segments.of_mut(region).unwrap();
        if of.is_empty() {
            let make = |length| Ok((Memory::zeroed(length), ()));
            let made = Segment::create(SEGMENT, &self.0.account, (&self.total, 0), make);
            of.push(Some(Arc::new(made.unwrap().0)));
            self.changes.set(self.changes.get() + 1);
        }
        of[0].as_ref().unwrap().memory.clone()
    }

    pub(crate) fn bulk(&self) -> Memory {
        self.segment(region::BULK)
    }

    pub(crate) fn send_region(&self) -> Memory {
        self.segment(region::SEND)
    }

    /// Gives back all SEND and BULK memory of the process.
    pub(crate) fn release(&self) {
        self.segments.take();
        self.changes.set(self.changes.get() + 1);
    }

    /// Takes the next message of this kind. Other messages stay.
    pub(crate) fn message<T: FromBytes + KnownLayout + Immutable>(&self, kind: u32) -> Option<T> {
        let mut messages = self.messages.borrow_mut();
        let index = messages.iter().position(|(of, ..)| *of == kind)?;
        let (.., body) = messages.remove(index)?;
        Some(T::read_from_bytes(&body).unwrap())
    }

    pub(crate) fn offer(&self) -> Option<abi::Offer> {
        self.message(kind::OFFER)
    }

    /// Takes the answer to the process's claim.
    pub(crate) fn claimed(&self) -> Option<Status> {
        let reply: abi::Reply = self.message(kind::REPLY)?;
        assert_eq!(reply.kind, kind::CLAIM);
        Status::from_code(reply.status)
    }

    /// Gives back the RECEIVE segments that the device has asked for, and returns the requests.
    pub(crate) fn give_back(&self) -> Vec<abi::Reclaim> {
        let asked = std::iter::from_fn(|| self.message::<abi::Reclaim>(kind::RECLAIM));
        asked
            .inspect(|reclaim| {
                let place = (reclaim.queue, reclaim.number);
                assert!(self.receive.borrow_mut().remove(&place).is_some());
            })
            .collect()
    }

    /// Takes all completions that are there.
    pub(crate) fn completions(&self) -> Vec<Completion> {
        let mut all = Vec::new();
        for queue in self.queues.borrow_mut().values_mut() {
            let mut entries = [Entry::default(); 16];
            loop {
                let count = queue.completions.pop(&mut entries).unwrap();
                if count == 0 {
                    break;
                }
                all.extend(
                    entries[..count]
                        .iter()
                        .map(|e| -> Completion { transmute!(*e) }),
                );
            }
        }
        all
    }

    /// Takes the only completion, which must be this event.
    pub(crate) fn expect(&self, event: u32) -> Completion {
        let all = self.completions();
        let [one] = &all[..] else {
            panic!("{all:?}");
        };
        assert_eq!(one.event, event, "{one:?}");
        *one
    }

    /// Takes the only completion, which must be a new connection, and returns what it says about the client.
    pub(crate) fn connection(&self) -> abi::ConnInfo {
        let completion = self.expect(event::CONNECTION);
        let info = abi::ConnInfo::read_from_bytes(&self.take(&completion)).unwrap();
        assert_eq!(info.conn, completion.conn);
        info
    }

    /// Takes a new connection with its first message.
    pub(crate) fn connection_and_message(&self) -> (u64, Vec<u8>) {
        let all = self.completions();
        let [connection, pdu] = &all[..] else {
            panic!("{all:?}");
        };
        assert_eq!(
            (connection.event, pdu.event),
            (event::CONNECTION, event::PDU)
        );
        self.take(connection);
        (connection.conn, self.take(pdu))
    }

    /// Copies the buffer of a completion.
    pub(crate) fn peek(&self, completion: &Completion) -> Vec<u8> {
        let (segment, unit) = (completion.buffer >> 16 & 0xffff, completion.buffer & 0xffff);
        let place = (abi::queue_of(completion.conn), segment as u32);
        let receive = self.receive.borrow();
        let offset = unit as usize * UNIT as usize;
        receive[&place]
            .to_vec(offset, completion.length as usize)
            .unwrap()
    }

    /// Copies the buffer of a completion, and gives the buffer back.
    pub(crate) fn take(&self, completion: &Completion) -> Vec<u8> {
        let bytes = self.peek(completion);
        self.submit(Submission {
            op: op::RECYCLE,
            conn: completion.conn >> 48 << 48,
            place: completion.buffer,
            ..Submission::new_zeroed()
        });
        bytes
    }

    pub(crate) fn submit(&self, submission: Submission) {
        self.submit_to(abi::queue_of(submission.conn), transmute!(submission));
    }

    pub(crate) fn submit_to(&self, queue: u32, entry: Entry) {
        let mut queues = self.queues.borrow_mut();
        let queue = queues.get_mut(&queue).unwrap();
        assert_eq!(
            queue.submissions.push(&[entry]).unwrap(),
            1,
            "the ring is full"
        );
    }

    /// Returns the room in the submission ring of a queue.
    pub(crate) fn room(&self, queue: u32) -> u32 {
        let mut queues = self.queues.borrow_mut();
        queues.get_mut(&queue).unwrap().submissions.room().unwrap()
    }

    /// Returns the memory of the process's queue with this number.
    pub(crate) fn queue_memory(&self, queue: u32) -> Memory {
        self.queues.borrow()[&queue].memory.clone()
    }

    /// Submits an operation that takes only a connection's number.
    pub(crate) fn call(&self, op: u32, conn: u64) {
        self.submit(Submission {
            op,
            conn,
            ..Submission::new_zeroed()
        });
    }

    pub(crate) fn send(&self, conn: u64, cookie: u64, message: &[u8]) {
        self.send_region().write(0, message).unwrap();
        self.submit(Submission {
            op: op::SEND_PDU,
            conn,
            cookie,
            length: message.len() as u32,
            ..Submission::new_zeroed()
        });
    }

    /// Lends the first `length` bytes of BULK for the next WRITE.
    pub(crate) fn lend(&self, (conn, cookie): (u64, u64), length: u32) {
        self.bulk();
        self.submit(Submission {
            op: op::FETCH_AHEAD,
            conn,
            cookie,
            length,
            ..Submission::new_zeroed()
        });
    }

    /// Submits an RDMA operation on `length` bytes at the start of BULK.
    pub(crate) fn rdma(&self, op: u32, (conn, cookie): (u64, u64), length: u32, list: &[u8]) {
        self.bulk();
        self.segment(region::SEND)
            .write(DESCRIPTORS as usize, list)
            .unwrap();
        self.submit(Submission {
            op,
            conn,
            cookie,
            length,
            descriptors: Place {
                segment: 0,
                offset: DESCRIPTORS,
            }
            .to_bits(),
            descriptor_count: (list.len() / 16) as u32,
            ..Submission::new_zeroed()
        });
    }
}
