// SPDX-License-Identifier: GPL-2.0-or-later

//! A channel to a device in the kernel ([`uapi`]).
//!
//! The messages are those of the socket. Sending one makes a call, whose answer [`receive`](Channel::receive) then
//! returns, as it returns the events that the device has for this process. Memory is mapped when a message announces
//! it, and the bell of a queue is a call.
//!
//! Whenever this process enters the device, the device looks at everything: submissions, completions, events. Whatever
//! comes later makes the file readable, and it stays readable. So the channel does not enter the device again only to
//! learn that there is nothing ([`has_just_looked`](Channel::has_just_looked)): that would be half of all calls.
//!
//! Every answer of the device is checked, like everything that smbdirectd sends: a module of another version, or a bug
//! in it, becomes an error with a name. Only root can make a device node, so no other user can pose as the device.

use std::collections::VecDeque;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::Status;
use super::abi::{self, Attach, Control, MAX_CONTROL_LENGTH, Reply};
use super::channel::{Channel, Delivery};
use super::message::{Answer, Body, Request, read_answer, read_request};
use super::uapi::{
    self, ALL_QUEUES, AttachCall, Call, ClaimCall, DeclineCall, EnterCall, GetEventsCall, GrowCall,
    MAP_QUEUE, SetAddressesCall, SetParametersCall, SetSessionIdCall, StatusCall, answer, enter,
    map_offset, ready,
};
use crate::shm::Doorbell;
use crate::sys::{Buffer, BufferField, CharDevice, Memory, Waker};

#[cfg(test)]
mod tests;

/// How many bytes of events are read at a time.
const EVENTS_LENGTH: usize = 8 * MAX_CONTROL_LENGTH;

/// Length of the longest status, in bytes: enough for a hundred thousand connections.
const LONGEST_STATUS: u32 = 64 << 20;

/// The system calls on an open file of the device, which a test can answer itself.
pub trait Kernel: AsFd + fmt::Debug {
    /// Makes an `ioctl`, as [`CharDevice::call`] does.
    ///
    /// # Errors
    ///
    /// The device's.
    fn call(
        &self,
        number: u32,
        argument: &mut [u8],
        buffer: Option<(BufferField, Buffer<'_>)>,
    ) -> io::Result<()>;

    /// Maps memory with `mmap`, as [`CharDevice::map`] does.
    ///
    /// # Errors
    ///
    /// The device's.
    fn map(&self, offset: u64, length: usize) -> io::Result<Memory>;
}

impl Kernel for CharDevice {
    fn call(
        &self,
        number: u32,
        argument: &mut [u8],
        buffer: Option<(BufferField, Buffer<'_>)>,
    ) -> io::Result<()> {
        Self::call(self, number, argument, buffer)
    }

    fn map(&self, offset: u64, length: usize) -> io::Result<Memory> {
        Self::map(self, offset, length)
    }
}

/// Returns whether there is a character device at `path`. If there is not, the device is looked for behind a socket.
#[must_use]
pub fn is_char_device(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.file_type().is_char_device())
}

/// Makes a call, and repeats it if a signal came first: in that case, nothing was done. Returns the device's error as a
/// number.
fn call<C: Call>(
    kernel: &impl Kernel,
    argument: &mut C,
    mut buffer: Option<(BufferField, Buffer<'_>)>,
) -> Result<(), i32> {
    loop {
        let again = buffer.as_mut().map(|(field, buffer)| {
            let buffer = match buffer {
                Buffer::Read(bytes) => Buffer::Read(bytes),
                Buffer::Written(bytes) => Buffer::Written(bytes),
            };
            (*field, buffer)
        });
        match kernel.call(C::NUMBER, argument.as_mut_bytes(), again) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map_err(|error| error.raw_os_error().unwrap_or(libc::EINVAL)),
        }
    }
}

/// Returns what an error of a call means to an attached process.
const fn meaning(errno: i32) -> Status {
    match errno {
        // The process is no longer attached, the device has failed, or the module is being removed.
        libc::ESHUTDOWN | libc::EIO | libc::ENODEV => Status::Detached,
        libc::ENOMEM => Status::System,
        // The versions are the same, but one side has a call that the other lacks.
        libc::ENOTTY | libc::EOPNOTSUPP => Status::Version,
        libc::EACCES | libc::EPERM => Status::Denied,
        // The device says that this side broke the interface.
        _ => Status::Corrupt,
    }
}

/// Returns what an error means to a process that wants to attach: every version of the device has the attach call.
const fn meaning_of_attach(errno: i32) -> Status {
    match errno {
        libc::ENOTTY | libc::EINVAL | libc::EOPNOTSUPP => Status::NoDevice,
        other => meaning(other),
    }
}

/// Rings a queue's bell: the device takes its submissions, in this process's context.
#[derive(Debug)]
pub struct Kick<K> {
    kernel: Arc<K>,
    queue: u32,
    has_entered: Arc<AtomicBool>,
}

impl<K: Kernel> Doorbell for Kick<K> {
    fn ring(&self) {
        let mut argument = EnterCall {
            queue: self.queue,
            ..EnterCall::new_zeroed()
        };
        // If this fails, the file is readable, and the next look reports why.
        let _ = call(&*self.kernel, &mut argument, None);
        // SYNC: only the thread that has the handle uses it.
        self.has_entered.store(true, Ordering::Relaxed);
    }
}

/// A channel to the device in the kernel.
#[derive(Debug)]
pub struct CharChannel<K = CharDevice> {
    kernel: Arc<K>,
    waker: Waker,
    /// Answers that calls have given, and messages that the device sent before them.
    answers: VecDeque<(u64, Answer)>,
    /// Events that were read: the bytes from `next` to `filled`.
    events: Box<[u8]>,
    next: usize,
    filled: usize,
    /// The reason why the attachment has to end: a call failed that must not fail.
    failed: Option<Status>,
    /// The device has looked at everything, and events are not to be read.
    has_entered: Arc<AtomicBool>,
}

impl CharChannel {
    /// Opens the device at `path`, for a process that serves connections.
    ///
    /// # Errors
    ///
    /// [`Status::NoDevice`], [`Status::Denied`], [`Status::System`].
    pub fn open(path: &Path) -> Result<Self, Status> {
        Self::new(open(path, true)?).map_err(|error| match error.raw_os_error() {
            // This is another kind of device, which cannot be polled.
            Some(libc::EPERM) => Status::NoDevice,
            _ => Status::System,
        })
    }
}

fn open(path: &Path, is_writer: bool) -> Result<CharDevice, Status> {
    CharDevice::open(path, is_writer).map_err(|error| match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM | libc::EROFS) => Status::Denied,
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM) => Status::System,
        // No module has that number, or the device has failed.
        _ => Status::NoDevice,
    })
}

impl<K: Kernel> CharChannel<K> {
    /// Makes a channel from an open file.
    ///
    /// # Errors
    ///
    /// The system has no descriptors left, or the file cannot be polled.
    pub fn new(kernel: K) -> io::Result<Self> {
        Ok(Self {
            waker: Waker::new(kernel.as_fd())?,
            kernel: Arc::new(kernel),
            answers: VecDeque::new(),
            events: vec![0; EVENTS_LENGTH].into_boxed_slice(),
            next: 0,
            filled: 0,
            failed: None,
            has_entered: Arc::default(),
        })
    }

    fn has_more(&self) -> bool {
        !self.answers.is_empty() || self.next < self.filled || self.failed.is_some()
    }

    fn answer(&mut self, cookie: u64, answer: Answer) {
        self.answers.push_back((cookie, answer));
        self.waker.wake();
    }

    /// Makes a call for a request. An error ends the attachment: this returns [`Status::Detached`], and the next
    /// message gives the reason.
    fn request<C: Call>(
        &mut self,
        argument: &mut C,
        buffer: Option<(BufferField, Buffer<'_>)>,
    ) -> Result<(), Status> {
        match call(&*self.kernel, argument, buffer) {
            Ok(()) => Ok(()),
            Err(errno) => {
                self.fail(meaning(errno));
                Err(Status::Detached)
            }
        }
    }

    /// Ends the attachment once everything that came before has been received.
    fn fail(&mut self, status: Status) {
        self.failed = self.failed.or(Some(status));
        self.waker.wake();
    }

    /// Answers a request with the status that the device gave. `is_slow` says whether the answer may come later.
    fn reply(&mut self, cookie: u64, kind: u32, status: i32, is_slow: bool) {
        match status {
            answer::LATER if is_slow => {}
            answer::LATER => self.fail(Status::Corrupt),
            _ => self.answer(cookie, Answer::Reply(Reply { status, kind })),
        }
    }

    fn attach(&mut self, cookie: u64, attach: Attach) -> Result<(), Status> {
        let attached = attach_with(&*self.kernel, attach)?;
        match attached {
            Ok(attached) => {
                // The addresses come first, so that an attached process always knows them.
                match self.read_events() {
                    Ok(true) => {
                        if let Ok((told, Answer::Addresses(list))) = self.peek() {
                            self.answer(told, Answer::Addresses(list));
                            self.next = self.next_end();
                        }
                    }
                    Ok(false) => {}
                    Err(status) => self.fail(status),
                }
                self.answer(cookie, Answer::Attached(attached));
            }
            Err(refused) if refused.version != 0 => self.answer(0, Answer::Detached(refused)),
            Err(refused) => self.reply(cookie, abi::kind::ATTACH, refused.status, false),
        }
        Ok(())
    }

    fn grow(&mut self, cookie: u64, grow: abi::Grow) -> Result<(), Status> {
        let mut argument = GrowCall {
            cookie,
            grow,
            ..GrowCall::new_zeroed()
        };
        self.request(&mut argument, None)?;
        match argument.status {
            status if status == Status::Ok.code() => {
                if argument.segment.reserved_is_zero() {
                    self.answer(cookie, Answer::Segment(argument.segment));
                } else {
                    self.fail(Status::Corrupt);
                }
            }
            status => self.reply(cookie, abi::kind::GROW, status, true),
        }
        Ok(())
    }

    /// Makes the device take the submissions of all queues and the network's completions, and reads events if there are
    /// any.
    fn look(&mut self) -> Result<bool, Status> {
        let mut argument = EnterCall {
            queue: ALL_QUEUES,
            flags: enter::LOOK,
            ..EnterCall::new_zeroed()
        };
        call(&*self.kernel, &mut argument, None).map_err(meaning)?;
        if argument.ready & ready::EVENTS == 0 {
            // SYNC: as in `Kick::ring`.
            self.has_entered.store(true, Ordering::Relaxed);
            return Ok(false);
        }
        self.read_events()
    }

    /// Reads events if none are left; returns whether there are any now.
    fn read_events(&mut self) -> Result<bool, Status> {
        (self.next, self.filled) = (0, 0);
        let mut argument = GetEventsCall {
            length: self.events.len() as u32,
            ..GetEventsCall::new_zeroed()
        };
        let field = BufferField {
            address_at: 0,
            count_at: 8,
            element: 1,
        };
        let buffer = Buffer::Written(&mut self.events);
        call(&*self.kernel, &mut argument, Some((field, buffer))).map_err(meaning)?;
        let filled = usize::try_from(argument.filled).map_err(|_| Status::Corrupt)?;
        let events = self.events.get(..filled).ok_or(Status::Corrupt)?;
        if count(events) != Some(argument.count) {
            return Err(Status::Corrupt);
        }
        self.filled = filled;
        Ok(filled > 0)
    }

    /// Returns the end of the next event.
    fn next_end(&self) -> usize {
        let rest = self.events.get(self.next..self.filled).unwrap_or_default();
        self.next + length_of_first(rest).unwrap_or(rest.len())
    }

    /// Returns the next event without taking it.
    fn peek(&self) -> Result<(u64, Answer), Status> {
        let event = self.events.get(self.next..self.next_end());
        read_answer(event.unwrap_or_default()).map_err(|_| Status::Corrupt)
    }

    /// Maps the memory that a message announces.
    fn deliver(&self, cookie: u64, answer: Answer) -> Result<Delivery<Kick<K>>, Status> {
        let place = match &answer {
            Answer::Segment(segment) if segment.region < MAP_QUEUE => {
                Some((segment.region, segment.number, segment.length))
            }
            Answer::Queue(queue) => Some((MAP_QUEUE, queue.queue, queue.length)),
            // The device sends none of them as an event: the segment's region does not exist, a status is the answer to
            // a call, and a capture is not available.
            Answer::Segment(_) | Answer::Status(_) | Answer::Capture(_) => {
                return Err(Status::Corrupt);
            }
            _ => None,
        };
        let memory = place.map(|place| self.map(place)).transpose()?;
        let doorbell = match &answer {
            Answer::Queue(queue) => Some(Kick {
                kernel: Arc::clone(&self.kernel),
                queue: queue.queue,
                has_entered: Arc::clone(&self.has_entered),
            }),
            _ => None,
        };
        Ok(Delivery {
            cookie,
            answer,
            memory,
            doorbell,
            socket: None,
        })
    }

    fn map(&self, (region, number, length): (u32, u32, u64)) -> Result<Memory, Status> {
        let offset = map_offset(region, number).ok_or(Status::Corrupt)?;
        let length = usize::try_from(length).map_err(|_| Status::Corrupt)?;
        // Memory of such a length could not be mapped, or would reach into the next segment's place.
        if length == 0 || length > 1 << 32 {
            return Err(Status::Corrupt);
        }
        let memory = self.kernel.map(offset, length);
        memory.map_err(|error| match error.raw_os_error() {
            Some(libc::ENOMEM | libc::EAGAIN | libc::EMFILE) => Status::System,
            Some(errno) => match meaning(errno) {
                Status::Version => Status::Corrupt,
                status => status,
            },
            None => Status::System,
        })
    }
}

/// Counts consecutive control messages. Returns `None` if the last one does not end where the bytes end.
fn count(mut events: &[u8]) -> Option<u32> {
    let mut count = 0;
    while !events.is_empty() {
        events = events.get(length_of_first(events)?..)?;
        count += 1;
    }
    Some(count)
}

/// Returns the length of the first message; `None` if it is shorter than its head, or longer than the bytes.
fn length_of_first(events: &[u8]) -> Option<usize> {
    let (control, _) = Control::read_from_prefix(events).ok()?;
    let length = usize::try_from(control.length).ok()?;
    (length >= size_of::<Control>() && length <= events.len()).then_some(length)
}

/// Makes the first call. The inner error is the device's answer if it does not attach the process.
fn attach_with(
    kernel: &impl Kernel,
    attach: Attach,
) -> Result<Result<abi::Attached, abi::Detached>, Status> {
    let mut argument = AttachCall {
        attach,
        ..AttachCall::new_zeroed()
    };
    call(kernel, &mut argument, None).map_err(meaning_of_attach)?;
    let AttachCall {
        attached,
        status,
        version,
        ..
    } = argument;
    if status != Status::Ok.code() {
        return Ok(Err(abi::Detached { status, version }));
    }
    if !attached.reserved_is_zero() {
        return Err(Status::Corrupt);
    }
    Ok(Ok(attached))
}

impl<K: Kernel> Channel for CharChannel<K> {
    type Doorbell = Kick<K>;

    fn event_fd(&self) -> BorrowedFd<'_> {
        self.waker.as_fd()
    }

    fn wake(&mut self) {
        self.waker.wake();
    }

    fn send(&mut self, message: &[u8]) -> Result<(), Status> {
        // This side has made the message itself.
        let (cookie, request) = read_request(message).map_err(|_| Status::Corrupt)?;
        match request {
            Request::Attach(attach) => self.attach(cookie, attach),
            Request::SetParameters(parameters, blob) => {
                let mut argument = SetParametersCall {
                    parameters,
                    ..SetParametersCall::new_zeroed()
                };
                let field = BufferField {
                    address_at: 64,
                    count_at: 40,
                    element: 1,
                };
                self.request(&mut argument, Some((field, Buffer::Read(blob))))?;
                let kind = abi::kind::SET_PARAMETERS;
                self.reply(cookie, kind, argument.status, false);
                Ok(())
            }
            Request::SetAddresses(set, list) => {
                let mut argument = SetAddressesCall {
                    set,
                    ..SetAddressesCall::new_zeroed()
                };
                let field = BufferField {
                    address_at: 8,
                    count_at: 0,
                    element: size_of::<abi::AllowedAddress>(),
                };
                let list = Buffer::Read(list.as_bytes());
                self.request(&mut argument, Some((field, list)))?;
                let kind = abi::kind::SET_ADDRESSES;
                self.reply(cookie, kind, argument.status, false);
                Ok(())
            }
            Request::SetSessionId(session) => {
                let mut argument = SetSessionIdCall {
                    session,
                    ..SetSessionIdCall::new_zeroed()
                };
                self.request(&mut argument, None)?;
                let kind = abi::kind::SET_SESSION_ID;
                self.reply(cookie, kind, argument.status, false);
                Ok(())
            }
            Request::Claim(claim) => {
                let mut argument = ClaimCall {
                    cookie,
                    claim,
                    ..ClaimCall::new_zeroed()
                };
                self.request(&mut argument, None)?;
                self.reply(cookie, abi::kind::CLAIM, argument.status, true);
                Ok(())
            }
            Request::Decline(decline) => {
                let mut argument = DeclineCall {
                    decline,
                    ..DeclineCall::new_zeroed()
                };
                self.request(&mut argument, None)?;
                self.reply(cookie, abi::kind::DECLINE, argument.status, false);
                Ok(())
            }
            Request::Grow(grow) => self.grow(cookie, grow),
            Request::Release(mut release) => self.request(&mut release, None),
            // A device in the kernel keeps no notes.
            Request::ClientNote(_) => Ok(()),
            // An observer has no channel: see `observe`.
            Request::Status(_) | Request::Events(_) | Request::Capture(_) => Err(Status::Invalid),
            Request::Skipped => Ok(()),
        }
    }

    fn receive(&mut self) -> Result<Option<Delivery<Kick<K>>>, Status> {
        if !self.has_more() {
            self.waker.calm();
            if !self.look()? {
                return Ok(None);
            }
        }
        let next = match self.answers.pop_front() {
            Some(answer) => answer,
            None if self.next < self.filled => {
                let event = self.peek()?;
                self.next = self.next_end();
                event
            }
            None => return Err(self.failed.unwrap_or(Status::Corrupt)),
        };
        if self.has_more() {
            // The remaining messages have already been taken from the device, whose file therefore need not be
            // readable.
            self.waker.wake();
        }
        self.deliver(next.0, next.1).map(Some)
    }

    fn has_just_looked(&mut self) -> bool {
        // SYNC: as in `Kick::ring`.
        let has_entered = self.has_entered.swap(false, Ordering::Relaxed);
        // Answers of calls make the file readable, too, but need not wait for that.
        has_entered && !self.has_more()
    }

    fn close(&mut self) {
        // This fails only if the process is already detached.
        let _ = self.kernel.call(uapi::number::DETACH, &mut [], None);
    }
}

/// Asks the device at `path` for its status, and returns the records that [`uapi::status`] describes. This function
/// does not wait.
///
/// # Errors
///
/// [`Status::NoDevice`], [`Status::Denied`], [`Status::Corrupt`], [`Status::Detached`], [`Status::System`];
/// [`Status::Version`], with the device's version if the device has named it.
pub fn observe(path: &Path) -> Result<Vec<u8>, super::NotObserved> {
    observe_with(&open(path, false)?)
}

fn observe_with(kernel: &impl Kernel) -> Result<Vec<u8>, super::NotObserved> {
    let attach = Attach::new(abi::role::OBSERVER, [0; 16]);
    match attach_with(kernel, attach)? {
        Ok(attached) if attached.is_understood() => {}
        Ok(abi::Attached { version, .. }) | Err(abi::Detached { version, .. }) if version != 0 => {
            return Err(super::NotObserved {
                status: Status::Version,
                device_version: Some(version),
            });
        }
        Ok(_) => return Err(Status::Corrupt.into()),
        Err(refused) => {
            let status = Status::from_code(refused.status);
            return Err(status.unwrap_or(Status::Corrupt).into());
        }
    }
    let mut length = 64 << 10;
    while length <= LONGEST_STATUS {
        let mut records = vec![0; length as usize];
        let mut argument = StatusCall {
            length,
            ..StatusCall::new_zeroed()
        };
        let field = BufferField {
            address_at: 0,
            count_at: 8,
            element: 1,
        };
        let buffer = Buffer::Written(&mut records);
        call(kernel, &mut argument, Some((field, buffer))).map_err(meaning)?;
        if argument.needed > length {
            // The status may grow before the next call.
            length = argument.needed.saturating_add(argument.needed / 4);
            continue;
        }
        if argument.filled > length {
            return Err(Status::Corrupt.into());
        }
        records.truncate(argument.filled as usize);
        return Ok(records);
    }
    Err(Status::Corrupt.into())
}
