// SPDX-License-Identifier: GPL-2.0-or-later

//! [`Client`]: an open file. [`Process`]: an attached process, as the shard knows it.
//!
//! Messages for a process wait in its inbox until it reads them. The process has a list of the memory that it may map,
//! by the offsets that it passes to `mmap`.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use smbdirect::device::Status;
use smbdirect::device::abi::{self, Address, Control, Detached, kind};
use smbdirect::device::message::encode_addresses;
use smbdirect::device::uapi::{MAP_QUEUE, map_offset};
use smbdirect::engine::memory::{Account, Segment, Segments};
use smbdirect::engine::peer::{Peer, Role, Untold, Worker};
use smbdirect::sys::Memory;
use zerocopy::{Immutable, IntoBytes};

use crate::cell::Cell;
use crate::ffi::{FileRef, Kind, Lock, Pages};

/// Maximum number of messages that may wait for a process.
const MOST_MESSAGES: usize = 256;

/// An open file of the device.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) file: FileRef,
    attached: Lock<Option<(Arc<Process>, Option<Arc<Cell>>)>>,
}

impl Client {
    pub(crate) fn new(file: FileRef) -> Self {
        Self {
            file,
            attached: Lock::new(Kind::Leaf, None),
        }
    }

    /// Returns the process that attached through this file; it may have been detached since.
    pub(crate) fn process(&self) -> Option<Arc<Process>> {
        let attached = self.attached.always();
        attached.as_ref().map(|(process, _)| Arc::clone(process))
    }

    /// Returns the process that attached through this file, if it is a worker, and its shard.
    pub(crate) fn worker(&self) -> Option<(Arc<Process>, Arc<Cell>)> {
        let attached = self.attached.always();
        let (process, cell) = attached.as_ref()?;
        Some((Arc::clone(process), Arc::clone(cell.as_ref()?)))
    }

    /// Keeps the process that has attached, and the shard of a worker. `false`: another call has already attached one.
    pub(crate) fn set_process(&self, process: &Arc<Process>, cell: Option<&Arc<Cell>>) -> bool {
        let mut kept = self.attached.always();
        let is_first = kept.is_none();
        if is_first {
            *kept = Some((Arc::clone(process), cell.cloned()));
        }
        is_first
    }

    /// Returns the pages that `mmap` may map at an offset.
    pub(crate) fn pages(&self, offset: u64, length: u64) -> Option<Pages> {
        self.process()?.pages(offset, length)
    }
}

/// Messages for a process.
#[derive(Debug, Default)]
struct Inbox {
    messages: VecDeque<Vec<u8>>,
    /// From now on no message is added.
    closed: bool,
}

/// Memory that a process may map.
#[derive(Debug)]
struct Mapped {
    offset: u64,
    length: u64,
    pages: Pages,
}

/// An attached process.
#[derive(Debug)]
pub(crate) struct Process {
    id: u32,
    role: Role,
    invited: bool,
    file: FileRef,
    account: Arc<Account>,
    segments: Lock<Segments>,
    /// How many times a segment was added or removed.
    changes: AtomicU64,
    mapped: Lock<Vec<Mapped>>,
    /// The memory of its queues, which `poll` reads for as long as the file is open.
    queues: Lock<Vec<Memory>>,
    inbox: Lock<Inbox>,
}

impl Process {
    pub(crate) fn new(
        (id, role, invited): (u32, Role, bool),
        file: &FileRef,
        memory_limit: u64,
    ) -> Self {
        Self {
            id,
            role,
            invited,
            file: file.clone(),
            account: Account::new(memory_limit),
            segments: Lock::new(Kind::Leaf, Segments::default()),
            changes: AtomicU64::new(0),
            mapped: Lock::new(Kind::Leaf, Vec::new()),
            queues: Lock::new(Kind::Leaf, Vec::new()),
            inbox: Lock::new(Kind::Leaf, Inbox::default()),
        }
    }

    pub(crate) fn number(&self) -> u32 {
        self.id
    }

    /// Returns the system's id of the process.
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.file.pid()).unwrap_or(0)
    }

    pub(crate) const fn is(&self, role: Role) -> bool {
        matches!(
            (self.role, role),
            (Role::Listener, Role::Listener)
                | (Role::Worker, Role::Worker)
                | (Role::Observer, Role::Observer)
        )
    }

    pub(crate) const fn file(&self) -> &FileRef {
        &self.file
    }

    /// Returns the account of its memory, and its segments.
    pub(crate) fn memory(&self) -> (&Arc<Account>, Segments) {
        (&self.account, self.segments.always().clone())
    }

    /// Adds a message for the process to its inbox.
    fn say(&self, message: Vec<u8>) -> Result<(), Untold> {
        let mut inbox = self.inbox.always();
        if inbox.closed {
            return Err(Untold::Gone);
        }
        if inbox.messages.len() >= MOST_MESSAGES {
            return Err(Untold::Unread);
        }
        inbox.messages.push_back(message);
        self.file.set_messages(inbox.messages.len());
        Ok(())
    }

    /// Tells the process where clients reach the device.
    pub(crate) fn tell_addresses(&self, list: &[Address]) -> Result<(), Untold> {
        let mut message = Vec::new();
        encode_addresses(0, list, &mut message);
        self.say(message)
    }

    /// Takes the oldest messages, as many as fit in `room` bytes, and returns them and their number.
    pub(crate) fn read(&self, room: usize) -> (Vec<u8>, u32) {
        let mut inbox = self.inbox.always();
        let (mut bytes, mut count) = (Vec::new(), 0);
        while let Some(message) = inbox.messages.front() {
            if bytes.len() + message.len() > room {
                break;
            }
            bytes.extend_from_slice(message);
            count += 1;
            inbox.messages.pop_front();
        }
        self.file.set_messages(inbox.messages.len());
        (bytes, count)
    }

    /// Returns whether the process is detached and has read everything.
    pub(crate) fn is_over(&self) -> bool {
        let inbox = self.inbox.always();
        inbox.closed && inbox.messages.is_empty()
    }

    /// Returns whether the process is being detached, or was detached.
    pub(crate) fn is_closed(&self) -> bool {
        self.inbox.always().closed
    }

    /// Takes no more messages for the process. With a status, the last message says why. `false`: it was closed before.
    pub(crate) fn close(&self, status: Option<Status>) -> bool {
        let mut inbox = self.inbox.always();
        if inbox.closed {
            return false;
        }
        inbox.closed = true;
        if let Some(status) = status {
            let detached = Detached {
                status: status.code(),
                version: 0,
            };
            inbox
                .messages
                .push_back(encode(kind::DETACHED, 0, &detached));
        }
        self.file.set_messages(inbox.messages.len());
        drop(inbox);
        self.file.set_detached();
        self.mapped.always().clear();
        true
    }

    /// Adds a segment to `region::*` if the region has fewer than `limit`. The process may map it from now on. Returns
    /// the segment's number.
    pub(crate) fn add_segment(
        &self,
        region: u32,
        segment: Segment,
        pages: &Pages,
        limit: u32,
    ) -> Option<u32> {
        let length = segment.memory.len();
        let mut all = self.segments.always();
        let segments = all.of_mut(region)?;
        let free = segments.iter().position(Option::is_none);
        let index = free.unwrap_or(segments.len());
        let number = u32::try_from(index).ok().filter(|number| *number < limit)?;
        match segments.get_mut(index) {
            Some(place) => *place = Some(Arc::new(segment)),
            None => segments.push(Some(Arc::new(segment))),
        }
        drop(all);
        self.map((region, number), length, pages);
        self.changed();
        Some(number)
    }

    /// Takes away a segment of `region::*` that the process no longer uses. Returns whether it had that segment.
    pub(crate) fn release(&self, region: u32, number: u32) -> bool {
        let mut all = self.segments.always();
        let segments = all.of_mut(region);
        let place = segments.and_then(|segments| segments.get_mut(number as usize));
        let released = place.and_then(Option::take);
        drop(all);
        self.unmap(region, number);
        self.changed();
        released.is_some()
    }

    /// Keeps the process from mapping a segment from now on.
    pub(crate) fn unmap(&self, region: u32, number: u32) {
        if let Some(offset) = map_offset(region, number) {
            self.mapped
                .always()
                .retain(|mapped| mapped.offset != offset);
        }
    }

    fn map(&self, (region, number): (u32, u32), length: usize, pages: &Pages) {
        let Some(offset) = map_offset(region, number) else {
            return;
        };
        let mut mapped = self.mapped.always();
        mapped.retain(|mapped| mapped.offset != offset);
        mapped.push(Mapped {
            offset,
            length: length as u64,
            pages: pages.clone(),
        });
    }

    fn pages(&self, offset: u64, length: u64) -> Option<Pages> {
        const PAGE: u64 = 4096;
        let mapped = self.mapped.always();
        let found = mapped.iter().find(|mapped| mapped.offset == offset)?;
        let fits = length <= found.length.next_multiple_of(PAGE);
        fits.then(|| found.pages.clone())
    }

    fn changed(&self) {
        // SYNC: pairs with the load in `changes`.
        self.changes.fetch_add(1, Ordering::Release);
    }
}

/// Returns the bytes of a message.
fn encode<T: IntoBytes + Immutable>(kind: u32, cookie: u64, body: &T) -> Vec<u8> {
    let length = size_of::<Control>() + size_of::<T>();
    let control = Control {
        kind,
        // Messages are at most a few hundred bytes long.
        length: length as u32,
        cookie,
    };
    let mut bytes = Vec::with_capacity(length);
    bytes.extend_from_slice(control.as_bytes());
    bytes.extend_from_slice(body.as_bytes());
    bytes
}

/// An attached process, as the engine sees it.
#[derive(Clone, Debug)]
pub(crate) struct Attached(pub(crate) Arc<Process>);

impl Peer for Attached {
    fn id(&self) -> u32 {
        self.0.id
    }

    fn role(&self) -> Role {
        self.0.role
    }

    fn invited(&self) -> bool {
        self.0.invited
    }

    fn tell<T: IntoBytes + Immutable>(
        &self,
        kind: u32,
        cookie: u64,
        body: &T,
    ) -> Result<(), Untold> {
        self.0.say(encode(kind, cookie, body))
    }
}

impl Worker for Attached {
    type Pages = Pages;
    type NewQueue = (Pages, Memory);
    type Bell = ();
    type Doorbell = FileRef;

    fn account(&self) -> &Arc<Account> {
        &self.0.account
    }

    fn make_pages(&self, length: usize) -> Result<(Memory, Pages), Status> {
        let (pages, memory) = Pages::make(length).ok_or(Status::System)?;
        Ok((memory, pages))
    }

    fn hand_over(&self, segment: &abi::Segment, pages: &Pages) -> Result<(), Untold> {
        let place = (segment.region, segment.number);
        let length = usize::try_from(segment.length).unwrap_or(0);
        self.0.map(place, length, pages);
        self.tell(kind::SEGMENT, 0, segment)
    }

    fn make_queue(&self, length: usize) -> Result<(Memory, (Pages, Memory)), Status> {
        let (memory, pages) = self.make_pages(length)?;
        Ok((memory.clone(), (pages, memory)))
    }

    fn hand_over_queue(
        &self,
        queue: &abi::Queue,
        (pages, memory): (Pages, Memory),
    ) -> Result<(), Untold> {
        let offset = usize::try_from(queue.completion_offset).unwrap_or(usize::MAX);
        // This fails only for a ring that the engine never makes.
        let set = self.0.file.set_queue(queue.queue, &memory, offset);
        set.map_err(|_| Untold::Gone)?;
        self.0.map((MAP_QUEUE, queue.queue), memory.len(), &pages);
        self.0.queues.always().push(memory);
        self.tell(kind::QUEUE, 0, queue)
    }

    fn doorbell(&self) -> FileRef {
        self.0.file.clone()
    }

    fn segments(&self) -> Segments {
        self.0.segments.always().clone()
    }

    fn changes(&self) -> u64 {
        // SYNC: pairs with the increment in `changed`. A worker submits from a segment only after it was told of the
        // segment.
        self.0.changes.load(Ordering::Acquire)
    }
}
