// SPDX-License-Identifier: GPL-2.0-or-later

//! An attached process, with the state that the control thread and the reactors share.

mod kept;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use zerocopy::{Immutable, IntoBytes};

pub(super) use self::kept::{KeptProcess, MemoryFile};
use super::segment::pages;
use crate::device::Status;
use crate::device::abi::{self, Control, kind};
use crate::engine::memory::{Account, Segment, Segments};
use crate::engine::peer::{Peer, Role, Untold, Worker};
use crate::engine::pool;
use crate::shm::Doorbell;
use crate::sys::{Bell, Memfd, Memory, SeqSocket};

/// An attached process.
#[derive(Debug)]
pub(super) struct Process {
    /// The device's number for the process.
    pub(super) id: u32,
    /// The system's number for the process.
    pub(super) pid: i32,
    pub(super) role: Role,
    /// The process attached with the token of a connection.
    pub(super) invited: bool,
    pub(super) socket: Arc<SeqSocket>,
    /// The account for the memory of all its regions.
    pub(super) account: Arc<Account>,
    segments: Mutex<Segments>,
    /// A lock that is held while the process is told that it is attached, so that other threads send nothing before
    /// that message.
    greeting: Mutex<()>,
    /// How often a segment came or went.
    changes: AtomicU64,
    /// The memory files that the process maps, if they may have to be passed on.
    files: Option<Mutex<BTreeMap<MemoryFile, Arc<Memfd>>>>,
}

impl Peer for Arc<Process> {
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
        Process::hand_over(self, kind, cookie, body, &[])
    }
}

impl Worker for Arc<Process> {
    type Pages = Arc<Memfd>;
    type NewQueue = (Arc<Memfd>, [Bell; 2]);
    type Bell = Bell;
    type Doorbell = WakeProcess;

    fn account(&self) -> &Arc<Account> {
        &self.account
    }

    fn make_pages(&self, length: usize) -> Result<(Memory, Arc<Memfd>), Status> {
        let (memory, file) = pages("smbdirect-receive", length)?;
        Ok((memory, Arc::new(file)))
    }

    fn hand_over(&self, segment: &abi::Segment, pages: &Arc<Memfd>) -> Result<(), Untold> {
        Process::hand_over(self, kind::SEGMENT, 0, segment, &[pages.as_fd()])?;
        self.add_file(MemoryFile::receive(segment.queue, segment.number), pages);
        Ok(())
    }

    fn make_queue(&self, length: usize) -> Result<(Memory, Self::NewQueue), Status> {
        let (memory, file) = pages("smbdirect-queue", length)?;
        let (ours, theirs) = Bell::pair().map_err(|_| Status::System)?;
        Ok((memory, (Arc::new(file), [ours, theirs])))
    }

    fn hand_over_queue(
        &self,
        queue: &abi::Queue,
        (file, [ours, theirs]): Self::NewQueue,
    ) -> Result<Bell, Untold> {
        let descriptors = [file.as_fd(), theirs.as_fd()];
        Process::hand_over(self, kind::QUEUE, 0, queue, &descriptors)?;
        self.add_file(MemoryFile::queue(queue.queue), &file);
        Ok(ours)
    }

    fn doorbell(&self) -> WakeProcess {
        WakeProcess(Arc::clone(&self.socket))
    }

    fn segments(&self) -> Segments {
        Process::segments(self)
    }

    fn changes(&self) -> u64 {
        // SYNC: pairs with the `Release` in `changed`. A worker submits in a segment only after it has got the segment.
        self.changes.load(Ordering::Acquire)
    }
}

/// A reactor's memory for received messages.
pub(super) type Pool = pool::Pool<Arc<Process>>;

impl Process {
    pub(super) fn new(
        (id, pid): (u32, i32),
        (role, invited): (Role, bool),
        socket: Arc<SeqSocket>,
        memory_limit: u64,
    ) -> Self {
        Self {
            id,
            pid,
            role,
            invited,
            socket,
            account: Account::new(memory_limit),
            segments: Mutex::default(),
            greeting: Mutex::default(),
            changes: AtomicU64::new(0),
            files: None,
        }
    }

    /// Registers the process and tells it that it is attached. Whatever the process asks for or causes afterwards finds
    /// it registered, and a thread that finds it registered sends its messages after the one about the attachment.
    ///
    /// # Errors
    ///
    /// Fails as [`send`](Self::send) does. The process is registered even then.
    pub(super) fn greet(
        &self,
        cookie: u64,
        attached: &abi::Attached,
        register: impl FnOnce(),
    ) -> io::Result<()> {
        let _greeting = self.greeting();
        register();
        send(&self.socket, kind::ATTACHED, cookie, attached, &[])
    }

    /// Sends one control message; fails with [`io::ErrorKind::WouldBlock`] if the process has left too many unread.
    pub(super) fn send<T: IntoBytes + Immutable>(
        &self,
        kind: u32,
        cookie: u64,
        body: &T,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let _greeting = self.greeting();
        send(&self.socket, kind, cookie, body, descriptors)
    }

    /// Sends the process a message, with descriptors of the memory that it has to map.
    fn hand_over<T: IntoBytes + Immutable>(
        &self,
        kind: u32,
        cookie: u64,
        body: &T,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), Untold> {
        let sent = self.send(kind, cookie, body, descriptors);
        sent.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Untold::Gone,
            _ => Untold::Unread,
        })
    }

    /// Returns a copy of the list of segments, as it is now.
    pub(super) fn segments(&self) -> Segments {
        self.lock().clone()
    }

    fn changed(&self) {
        // SYNC: pairs with the `Acquire` in `changes`.
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// Adds a segment to a region of `region::*` and returns its number, if the region has fewer than `limit`.
    pub(super) fn add_segment(&self, region: u32, segment: Segment, limit: u32) -> Option<u32> {
        let mut all = self.lock();
        let segments = all.of_mut(region)?;
        let free = segments.iter().position(Option::is_none);
        let index = free.unwrap_or(segments.len());
        let number = u32::try_from(index).ok().filter(|number| *number < limit)?;
        match segments.get_mut(index) {
            Some(place) => *place = Some(Arc::new(segment)),
            None => segments.push(Some(Arc::new(segment))),
        }
        drop(all);
        self.changed();
        Some(number)
    }

    fn greeting(&self) -> MutexGuard<'_, ()> {
        // The lock only keeps an order, which a panic cannot break.
        self.greeting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes a segment of a region of `region::*` that the worker no longer uses. Returns whether it had that
    /// segment.
    pub(super) fn release(&self, region: u32, number: u32) -> bool {
        let mut all = self.lock();
        let segments = all.of_mut(region);
        let place = segments.and_then(|segments| segments.get_mut(number as usize));
        let released = place.and_then(Option::take);
        drop(all);
        self.remove_file(MemoryFile::segment(region, number));
        self.changed();
        released.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Segments> {
        // The list is consistent at any moment, even if a thread panicked while changing the list.
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends one control message.
pub(super) fn send<T: IntoBytes + Immutable>(
    socket: &SeqSocket,
    kind: u32,
    cookie: u64,
    body: &T,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let length = size_of::<Control>() + size_of::<T>();
    let control = Control {
        kind,
        // A message has at most a few hundred bytes.
        length: length as u32,
        cookie,
    };
    let mut bytes = Vec::with_capacity(length);
    bytes.extend_from_slice(control.as_bytes());
    bytes.extend_from_slice(body.as_bytes());
    socket.send(&bytes, descriptors)
}

/// Tells a process why it is detached. It does not matter if the process has gone or does not read.
pub(super) fn send_detached(socket: &SeqSocket, status: Status) {
    let detached = abi::Detached {
        status: status.code(),
        version: match status {
            Status::Version => abi::VERSION,
            _ => 0,
        },
    };
    let _ = send(socket, kind::DETACHED, 0, &detached, &[]);
}

/// Wakes a process that sleeps on its control socket.
#[derive(Clone, Debug)]
pub(super) struct WakeProcess(pub(super) Arc<SeqSocket>);

impl Doorbell for WakeProcess {
    fn ring(&self) {
        // If there is no room for the message, the process's socket is readable anyway; if the process has gone, the
        // control thread finds that out.
        let _ = send(&self.0, kind::WAKE, 0, &abi::Wake { reserved: 0 }, &[]);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use zerocopy::FromZeros;

    use super::*;
    use crate::device::message::{Answer, read_answer};

    #[test]
    fn a_process_is_registered_before_it_is_told_and_told_before_anything_else() {
        let (ours, theirs) = SeqSocket::pair().unwrap();
        let process = Process::new((1, 1), (Role::Listener, false), Arc::new(ours), 0);
        let offer = abi::Offer::new_zeroed();
        let mut buffer = [0; abi::MAX_CONTROL_LENGTH];
        let (sender, begins) = channel();
        std::thread::scope(|scope| {
            let register = || {
                scope.spawn(|| {
                    sender.send(()).unwrap();
                    process.send(kind::OFFER, 0, &offer, &[]).unwrap();
                });
                begins.recv().unwrap();
                for _ in 0..100 {
                    std::thread::yield_now();
                    let received = theirs.receive(&mut buffer);
                    assert!(received.unwrap_err().is_would_block());
                }
            };
            let attached = abi::Attached::new_zeroed();
            process.greet(7, &attached, register).unwrap();
        });
        let mut next = || {
            let length = theirs.receive(&mut buffer).unwrap().length;
            read_answer(&buffer[..length]).unwrap()
        };
        assert!(matches!(next(), (7, Answer::Attached(_))));
        assert!(matches!(next(), (0, Answer::Offer(_))));
    }
}
