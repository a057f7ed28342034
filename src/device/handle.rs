// SPDX-License-Identifier: GPL-2.0-or-later

//! A process's attachment to a device, as the parent smbd and its children hold it.
//!
//! ```text
//!   attach --> Attaching --Attached--> Attached --Detached, the device's end--> Leaving
//!                  |                      |      events in the rings go on        |
//!                  '----------------------+--------- Corrupt, rings empty --------+--> Ended
//! ```
//!
//! However an attachment ends, its user sees the same events: [`Event::Sent`], [`Event::RdmaDone`] or
//! [`Event::Transferred`] with [`Status::Flushed`] for each operation under way, [`Event::Disconnected`] with
//! [`Status::Detached`] for each connection, [`Event::Reply`] with [`Status::Detached`] for each unanswered request,
//! and [`Event::Detached`] with the reason. Calls fail with [`Status::Detached`] as soon as the handle notices the end.
//!
//! Nothing here waits, logs, or trusts what the device writes.

use std::cell::Cell;
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::ops::Deref;
use std::os::fd::BorrowedFd;
use std::path::Path;

use zerocopy::IntoBytes;

use super::Status;
use super::abi::{
    self, Address, AllowedAddress, Attach, Attached, Claim, ClientNote, ConnInfo, Decline,
    MAX_ALLOWED_ADDRESSES, MAX_SECURITY_BLOB, MemParams, SetAddresses, SetParameters, SetSessionId,
    Token,
};
use super::any::AnyChannel;
use super::channel::Channel;
use super::completion::Next;
use super::control::Asked;
use super::event::{BulkBuffer, ConnCounts, Direction, Event, Role};
use super::queue::Notify;
use super::slots::Slots;
use super::worker::Worker;
use crate::sys::Maker;

/// Maximum number of control messages that one call of [`Handle::next_event`] reads.
const MESSAGES: usize = 64;

/// The number of events after which the handle reads control messages, however much is in the rings.
const EVENTS: u32 = 64;

/// Maximum number of control messages that may precede one that a ring entry requires: more than a socket holds.
const EARLY_MESSAGES: usize = 4096;

/// The state of the attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The device has not answered yet.
    Attaching,
    Attached,
    /// The device has ended the attachment. The entries that it wrote into the rings before are still valid.
    Leaving(Status),
    /// Only the pending events are left.
    Ended,
}

/// An attachment, for one thread of one process. No call blocks.
///
/// In a child of the process that made the attachment, every call fails with [`Status::Forked`], and dropping the
/// handle does not affect the parent's attachment. A child should drop the handle soon, because the child holds copies
/// of the parent's descriptors and mappings. Even so, the device notices when the parent ends.
#[derive(Debug)]
pub struct Handle<C: Channel = AnyChannel> {
    maker: Maker,
    pub(super) channel: C,
    pub(super) role: Role,
    pub(super) state: State,
    pub(super) params: Option<Attached>,
    /// The version that the device speaks, if it differs from this library's and the device has named it; otherwise 0.
    pub(super) device_version: u32,
    /// The addresses on which clients reach the device, as it last reported them.
    pub(super) addresses: Vec<Address>,
    pub(super) worker: Option<Worker<C::Doorbell>>,
    /// Unanswered requests.
    pub(super) requests: Slots<Asked>,
    /// A request was refused, and [`Event::Room`] is not due yet.
    pub(super) request_refused: bool,
    /// [`Event::Room`] is due: a call that was refused may be tried again.
    pub(super) room: bool,
    /// Events that come before all others.
    pub(super) pending: VecDeque<Event>,
    /// Number of events from the rings since the channel was last read.
    events: u32,
    /// The last control message did nothing but wake this side. If there is another, `event_fd` is readable.
    pub(super) woken: bool,
    /// The bytes of the control message that is being sent.
    pub(super) message: Vec<u8>,
    /// Makes the handle usable by only one thread at a time.
    not_sync: PhantomData<Cell<()>>,
}

impl Handle {
    /// Attaches this process to the device at `path`: to the kernel's device, if `path` is a character device,
    /// otherwise to smbdirectd. [`Event::Attached`] or [`Event::Detached`] follows; for a worker with a `token`,
    /// [`Event::Connection`] follows as well.
    ///
    /// # Errors
    ///
    /// [`Status::NoDevice`], [`Status::Denied`], [`Status::Untrusted`], [`Status::System`]; [`Status::Again`]: too many
    /// processes are waiting for the device; [`Status::Invalid`]: a listener with a token, or a token of zeros.
    pub fn attach(path: &Path, role: Role, token: Option<Token>) -> Result<Self, Status> {
        Self::over(AnyChannel::connect(path)?, role, token)
    }
}

impl<C: Channel> Handle<C> {
    /// Attaches as [`attach`](Handle::attach) does, to the device at the other end of `channel`.
    ///
    /// # Errors
    ///
    /// [`Status::System`], [`Status::Invalid`]; [`Status::Again`]: the device must receive first.
    pub fn over(channel: C, role: Role, token: Option<Token>) -> Result<Self, Status> {
        if token == Some([0; 16]) || (role == Role::Listener && token.is_some()) {
            return Err(Status::Invalid);
        }
        let mut handle = Self {
            maker: Maker::new().map_err(|_| Status::System)?,
            channel,
            role,
            state: State::Attaching,
            params: None,
            device_version: 0,
            addresses: Vec::new(),
            worker: None,
            requests: Slots::new(),
            request_refused: false,
            room: false,
            pending: VecDeque::new(),
            events: 0,
            woken: false,
            message: Vec::new(),
            not_sync: PhantomData,
        };
        let role = match role {
            Role::Listener => abi::role::LISTENER,
            Role::Worker => abi::role::WORKER,
        };
        let attach = Attach::new(role, token.unwrap_or_default());
        match handle.request(Asked::Attach, &attach, &[]) {
            // The device has gone or refused. It may have given a reason, which an event will report.
            Ok(()) | Err(Status::Detached) => Ok(handle),
            Err(status) => Err(status),
        }
    }

    /// Returns the version of the interface that the device speaks, if the attachment has ended because that version is
    /// not this library's ([`Status::Version`]). A log can then name both versions.
    #[must_use]
    pub fn device_version(&self) -> Option<u32> {
        (self.device_version != 0).then_some(self.device_version)
    }

    /// Returns a descriptor to watch level-triggered: after [`next_event`](Self::next_event) has returned `None`, it is
    /// readable for as long as there may be an event.
    ///
    /// # Errors
    ///
    /// [`Status::Forked`].
    pub fn event_fd(&self) -> Result<BorrowedFd<'_>, Status> {
        if self.maker.is_here() {
            Ok(self.channel.event_fd())
        } else {
            Err(Status::Forked)
        }
    }

    /// Returns the next event, with only an occasional system call. After `None`, which means that there is no event
    /// now, `event_fd` does not show when there is one. This is for callers that poll briefly before they sleep with
    /// [`next_event`](Self::next_event).
    ///
    /// # Errors
    ///
    /// As [`next_event`](Self::next_event).
    pub fn peek_event(&mut self) -> Result<Option<Event>, Status> {
        self.take_event(Self::ready)
    }

    /// Returns the next event. `None` means that there is no event now, and that `event_fd` becomes readable when there
    /// may be one.
    ///
    /// It makes only an occasional system call as long as the rings have something.
    ///
    /// # Errors
    ///
    /// [`Status::Forked`]; [`Status::Detached`]: after [`Event::Detached`].
    pub fn next_event(&mut self) -> Result<Option<Event>, Status> {
        self.take_event(Self::poll)
    }

    fn take_event(
        &mut self,
        poll: fn(&mut Self) -> Result<Option<Event>, Status>,
    ) -> Result<Option<Event>, Status> {
        if !self.maker.is_here() {
            return Err(Status::Forked);
        }
        if self.state != State::Ended {
            match poll(self) {
                Err(status) => self.end(status),
                result => return result,
            }
        }
        let event = self.pending.pop_front();
        event.map(Some).ok_or(Status::Detached)
    }

    /// Asks the device to use other parameters for connections that it accepts from now on; [`Event::Reply`] says
    /// whether it does. This function sets `security_blob_length`.
    ///
    /// # Errors
    ///
    /// [`Status::TooLong`]: a blob of more than [`MAX_SECURITY_BLOB`] bytes. [`Status::Again`].
    /// [`Status::NotAttached`]: not a listener.
    pub fn set_parameters(
        &mut self,
        cookie: u64,
        parameters: SetParameters,
        security_blob: &[u8],
    ) -> Result<(), Status> {
        self.check(Role::Listener)?;
        if parameters.reserved != [0; 5] {
            return Err(Status::Invalid);
        }
        if security_blob.len() > MAX_SECURITY_BLOB {
            return Err(Status::TooLong);
        }
        let parameters = SetParameters {
            // The length is at most `MAX_SECURITY_BLOB`.
            security_blob_length: security_blob.len() as u32,
            ..parameters
        };
        let kind = abi::kind::SET_PARAMETERS;
        self.request(Asked::Call { cookie, kind }, &parameters, security_blob)
    }

    /// Asks the device to allow only these addresses of the server from now on, instead of earlier ones, or all of them
    /// with `None`; [`Event::Reply`] says whether it does. An empty list allows none. The device ends connections to
    /// other addresses, and [`addresses`](Self::addresses) does not return those.
    ///
    /// # Errors
    ///
    /// [`Status::TooLong`]: more than [`MAX_ALLOWED_ADDRESSES`]. [`Status::Invalid`]: not the address of
    /// one host, or the wrong scope ([`AllowedAddress`]). [`Status::Again`]. [`Status::NotAttached`]:
    /// not a listener.
    pub fn set_addresses(
        &mut self,
        cookie: u64,
        allowed: Option<&[AllowedAddress]>,
    ) -> Result<(), Status> {
        self.check(Role::Listener)?;
        let list = allowed.unwrap_or_default();
        if list.len() > MAX_ALLOWED_ADDRESSES {
            return Err(Status::TooLong);
        }
        if !list.iter().all(AllowedAddress::is_valid) {
            return Err(Status::Invalid);
        }
        let set = SetAddresses {
            // The length is at most `MAX_ALLOWED_ADDRESSES`.
            count: list.len() as u32,
            all: allowed.is_none().into(),
        };
        let kind = abi::kind::SET_ADDRESSES;
        self.request(Asked::Call { cookie, kind }, &set, list.as_bytes())
    }

    /// Tells the device what smbd knows about a client, for the device's status. A device that does not keep such notes
    /// skips this one.
    ///
    /// # Errors
    ///
    /// [`Status::Again`]: the device has not read many earlier messages, and the note is lost; [`Event::Room`] does not
    /// follow. [`Status::NotAttached`]: not a listener.
    pub fn note_client(&mut self, note: &ClientNote) -> Result<(), Status> {
        self.check(Role::Listener)?;
        // Only an administrator misses a note, but connections depend on requests.
        if !self.channel.is_mostly_free() {
            return Err(Status::Again);
        }
        self.tell(note)
    }

    /// Registers a client's GUID and, unless `session_id` is 0, one of its sessions; or removes the
    /// registration. [`Event::Reply`] follows.
    ///
    /// # Errors
    ///
    /// [`Status::Invalid`]: a GUID of zeros. [`Status::Again`]. [`Status::NotAttached`]: not a worker.
    pub fn set_session_id(
        &mut self,
        cookie: u64,
        client_guid: [u8; 16],
        session_id: u64,
        remove: bool,
    ) -> Result<(), Status> {
        self.check(Role::Worker)?;
        if client_guid == [0; 16] {
            return Err(Status::Invalid);
        }
        let session = SetSessionId {
            session_id,
            client_guid,
            remove: remove.into(),
            reserved: 0,
        };
        let kind = abi::kind::SET_SESSION_ID;
        self.request(Asked::Call { cookie, kind }, &session, &[])
    }

    /// Asks for the connection that `token` names. [`Event::Reply`] follows; if it says `Ok`, [`Event::Connection`]
    /// comes before or after it.
    ///
    /// # Errors
    ///
    /// [`Status::Invalid`]: a token of zeros. [`Status::Again`]. [`Status::NotAttached`]: not a worker.
    pub fn claim(&mut self, cookie: u64, token: Token) -> Result<(), Status> {
        self.check(Role::Worker)?;
        if token == [0; 16] {
            return Err(Status::Invalid);
        }
        let kind = abi::kind::CLAIM;
        self.request(Asked::Call { cookie, kind }, &Claim { token }, &[])
    }

    /// Asks the device to close the connection that was offered with `token`; [`Event::Reply`] says whether it still
    /// existed.
    ///
    /// # Errors
    ///
    /// [`Status::Invalid`]: a token of zeros. [`Status::Again`]. [`Status::NotAttached`]: not a listener.
    pub fn decline(&mut self, cookie: u64, token: Token) -> Result<(), Status> {
        self.check(Role::Listener)?;
        if token == [0; 16] {
            return Err(Status::Invalid);
        }
        let kind = abi::kind::DECLINE;
        self.request(Asked::Call { cookie, kind }, &Decline { token }, &[])
    }

    /// Returns the addresses on which clients reach the device, at most [`abi::MAX_ADDRESSES`]: those known when the
    /// last event was taken.
    ///
    /// # Errors
    ///
    /// [`Status::NotAttached`]: not yet.
    pub fn addresses(&self) -> Result<&[Address], Status> {
        self.check(self.role)?;
        Ok(&self.addresses)
    }

    /// Returns how much memory a worker may map over time, and in what pieces.
    ///
    /// # Errors
    ///
    /// [`Status::NotAttached`]: not yet.
    pub fn mem_params(&self) -> Result<MemParams, Status> {
        self.check(self.role)?;
        let params = self.params.ok_or(Status::NotAttached)?;
        Ok(params.memory)
    }

    /// Allocates a buffer of at least `length` bytes.
    ///
    /// # Errors
    ///
    /// [`Status::Again`]: the device was asked for memory, or all the memory that it allows is in use; [`Event::Room`]
    /// follows. [`Status::NoMemory`]: the device refused, no buffer of this process is in use, and no event follows.
    /// [`Status::Invalid`]: `length` is 0. [`Status::TooLong`]: longer than any buffer.
    pub fn allocate(&mut self, length: usize) -> Result<BulkBuffer, Status> {
        self.call(|worker| worker.allocate(length))
    }

    /// Returns a buffer that this side has, by its number.
    ///
    /// # Errors
    ///
    /// [`Status::NoBuffer`].
    pub fn buffer(&mut self, number: u64) -> Result<BulkBuffer, Status> {
        self.call(|worker| worker.buffer(number))
    }

    /// Frees a buffer.
    ///
    /// # Errors
    ///
    /// [`Status::Busy`] while an RDMA operation uses it. [`Status::NoBuffer`].
    pub fn free(&mut self, buffer: u64) -> Result<(), Status> {
        self.call(|worker| worker.free(buffer))
    }

    /// Queues one message, gathered from `pieces`, which are copied before this returns.
    /// [`Event::Sent`] follows.
    ///
    /// # Errors
    ///
    /// [`Status::Invalid`]: no bytes. [`Status::TooLong`]: longer than the connection's `max_fragmented_send_size`.
    /// [`Status::NoConnection`]; [`Status::Busy`]: the connection is being transferred. [`Status::Again`]:
    /// [`Event::Room`] follows. [`Status::NoMemory`]: there is no room and no message of this process is under way, so
    /// no event follows.
    pub fn send_pdu(
        &mut self,
        conn: u64,
        cookie: u64,
        pieces: &[impl Deref<Target = [u8]>],
        invalidate: Option<u32>,
    ) -> Result<(), Status> {
        self.call(|worker| worker.send_pdu(conn, cookie, pieces, invalidate))
    }

    /// Queues an RDMA operation on `length` bytes at `offset` of `buffer`, with the descriptors of
    /// the client's request, unchanged ([MS-SMBD] 2.2.3.1). [`Event::RdmaDone`] follows.
    ///
    /// # Errors
    ///
    /// [`Status::Invalid`]: no bytes. [`Status::TooLong`], [`Status::NoBuffer`],
    /// [`Status::OutOfBounds`], [`Status::Descriptors`], [`Status::DescriptorsTooShort`],
    /// [`Status::NoReads`]. Others as [`send_pdu`](Self::send_pdu).
    #[allow(clippy::too_many_arguments)]
    pub fn rdma(
        &mut self,
        direction: Direction,
        conn: u64,
        cookie: u64,
        buffer: u64,
        offset: usize,
        length: usize,
        descriptors: &[u8],
    ) -> Result<(), Status> {
        self.rdma_with(
            Notify::Now,
            direction,
            (conn, cookie),
            (buffer, offset, length),
            descriptors,
        )
    }

    /// Queues an operation as [`rdma`](Self::rdma) does, but usually does not wake the device. The device is then woken
    /// by the next call that submits something on the same connection, by [`flush`](Self::flush), or by
    /// [`next_event`](Self::next_event) before that returns `None` (not by [`peek_event`](Self::peek_event)). Use it if
    /// a message follows the operation at once.
    ///
    /// # Errors
    ///
    /// As [`rdma`](Self::rdma).
    #[allow(clippy::too_many_arguments)]
    pub fn rdma_deferred(
        &mut self,
        direction: Direction,
        conn: u64,
        cookie: u64,
        buffer: u64,
        offset: usize,
        length: usize,
        descriptors: &[u8],
    ) -> Result<(), Status> {
        self.rdma_with(
            Notify::Later,
            direction,
            (conn, cookie),
            (buffer, offset, length),
            descriptors,
        )
    }

    fn rdma_with(
        &mut self,
        notify: Notify,
        direction: Direction,
        (conn, cookie): (u64, u64),
        (buffer, offset, length): (u64, usize, usize),
        descriptors: &[u8],
    ) -> Result<(), Status> {
        self.call(|worker| {
            worker.rdma(
                notify,
                direction,
                conn,
                cookie,
                buffer,
                offset,
                length,
                descriptors,
            )
        })
    }

    /// Lends a buffer to the device: if the next request on the connection is a WRITE by RDMA, if nothing else is under
    /// way, and if the buffer is long enough, the device fetches the data before [`Event::Pdu`] announces the request,
    /// and gives the buffer back with that event. Until then the buffer does not belong to the worker; when the
    /// connection ends, or memory is short, the library frees it. Like [`rdma_deferred`](Self::rdma_deferred), this
    /// does not wake the device.
    ///
    /// # Errors
    ///
    /// [`Status::Busy`]: a buffer at least as long is lent already, or an RDMA operation uses this one, or the device
    /// wants its memory back. [`Status::NoReads`]: the device or the client does not support fetching ahead.
    /// [`Status::NoBuffer`]. Others as [`send_pdu`](Self::send_pdu). After an error, the buffer still belongs to the
    /// worker.
    pub fn fetch_ahead(&mut self, conn: u64, buffer: u64) -> Result<(), Status> {
        self.call(|worker| worker.fetch_ahead(conn, buffer))
    }

    /// Wakes the device for deferred operations. It makes no system call if there are none, or if the
    /// device is awake.
    ///
    /// # Errors
    ///
    /// [`Status::NotAttached`], [`Status::Detached`], [`Status::Forked`].
    pub fn flush(&mut self) -> Result<(), Status> {
        self.check(Role::Worker)?;
        let worker = self.worker.as_mut().ok_or(Status::NotAttached)?;
        // Unlike the work that goes through `call`, a flush gives this side nothing to wait for. So it does not make
        // the descriptor readable: otherwise a caller that flushes before each sleep would never sleep while the ring
        // is full.
        match worker.flush() {
            Err(Status::Corrupt) => {
                self.end(Status::Corrupt);
                Err(Status::Detached)
            }
            result => result,
        }
    }

    /// Copies a received message into `target`, which must be at least as long, and gives its memory
    /// back to the device. An empty `target` only gives the memory back.
    ///
    /// # Errors
    ///
    /// [`Status::NoBuffer`]: no such message, or it was taken before. [`Status::Invalid`]: `target` is too
    /// short; the message stays.
    pub fn take_pdu(&mut self, pdu: u64, target: &mut [u8]) -> Result<(), Status> {
        self.call(|worker| worker.take_pdu(pdu, target))
    }

    /// Ends a connection gracefully. [`Event::Disconnected`] follows, unless the connection was being transferred and
    /// [`Event::Transferred`] says `Ok`. A second call has no effect.
    ///
    /// # Errors
    ///
    /// [`Status::NoConnection`].
    pub fn disconnect(&mut self, conn: u64) -> Result<(), Status> {
        self.call(|worker| worker.disconnect(conn))
    }

    /// Tells the device that a connection has a session: its client has logged in. Until then the device
    /// allows it little time and memory. A second call has no effect.
    ///
    /// # Errors
    ///
    /// [`Status::NoConnection`].
    pub fn set_authenticated(&mut self, conn: u64) -> Result<(), Status> {
        self.call(|worker| worker.set_authenticated(conn))
    }

    /// Gives a connection to the worker that registered `client_guid` or, with `None`, to the one that
    /// claims the token in [`Event::Transferred`]; `pdu` is the first message that the new owner receives.
    ///
    /// # Errors
    ///
    /// [`Status::Busy`]: operations are under way on the connection. [`Status::Invalid`]: a GUID of zeros. Others as
    /// [`send_pdu`](Self::send_pdu).
    pub fn transfer(
        &mut self,
        conn: u64,
        cookie: u64,
        client_guid: Option<[u8; 16]>,
        pdu: &[u8],
    ) -> Result<(), Status> {
        self.call(|worker| worker.transfer(conn, cookie, client_guid, pdu))
    }

    /// Returns the description of a connection.
    ///
    /// # Errors
    ///
    /// [`Status::NoConnection`].
    pub fn conn_info(&self, conn: u64) -> Result<ConnInfo, Status> {
        self.check(Role::Worker)?;
        let worker = self.worker.as_ref().ok_or(Status::NotAttached)?;
        Ok(worker.conn(conn)?.info)
    }

    /// Returns what a connection has carried, and what is under way on it.
    ///
    /// # Errors
    ///
    /// [`Status::NoConnection`].
    pub fn conn_counts(&self, conn: u64) -> Result<ConnCounts, Status> {
        self.check(Role::Worker)?;
        let worker = self.worker.as_ref().ok_or(Status::NotAttached)?;
        Ok(worker.conn(conn)?.counts)
    }

    /// Checks that a call for `role` is legal now.
    fn check(&self, role: Role) -> Result<(), Status> {
        if !self.maker.is_here() {
            return Err(Status::Forked);
        }
        match self.state {
            State::Attaching => Err(Status::NotAttached),
            State::Attached if self.role != role => Err(Status::NotAttached),
            State::Attached => Ok(()),
            State::Leaving(_) | State::Ended => Err(Status::Detached),
        }
    }

    /// Makes a call that only a worker may make.
    fn call<T>(
        &mut self,
        call: impl FnOnce(&mut Worker<C::Doorbell>) -> Result<T, Status>,
    ) -> Result<T, Status> {
        self.check(Role::Worker)?;
        let worker = self.worker.as_mut().ok_or(Status::NotAttached)?;
        let result = call(worker);
        if worker.room || worker.waits_for_ring() {
            // The device does not make the descriptor readable until `next_event` has announced that this side sleeps.
            self.channel.wake();
        }
        match result {
            Err(Status::Corrupt) => {
                self.end(Status::Corrupt);
                Err(Status::Detached)
            }
            result => {
                self.trade_memory();
                result
            }
        }
    }

    /// Returns the next event. Every error ends the attachment.
    fn poll(&mut self) -> Result<Option<Event>, Status> {
        for _ in 0..MESSAGES {
            if let Some(event) = self.ready()? {
                return Ok(Some(event));
            }
            self.events = 0;
            if let State::Leaving(status) = self.state {
                return Err(status);
            }
            let may_wait = std::mem::take(&mut self.woken) | self.channel.has_just_looked();
            if !may_wait && self.read_message()? {
                continue;
            }
            let may_sleep = match &mut self.worker {
                Some(worker) if self.state != State::Attaching => worker.announce_sleep()?,
                _ => true,
            };
            if may_sleep {
                // What the device has looked at so far says nothing about what comes after the sleep.
                self.channel.has_just_looked();
                return Ok(None);
            }
        }
        // The caller may do something else and come back.
        self.channel.wake();
        Ok(None)
    }

    /// Returns the next event that does not need a system call. It still reads the channel now and then if the rings
    /// are never empty.
    fn ready(&mut self) -> Result<Option<Event>, Status> {
        if self.events >= EVENTS {
            self.events = 0;
            for _ in 0..MESSAGES {
                if !self.read_message()? {
                    break;
                }
            }
        }
        let event = self.told();
        if event.is_some() || self.state == State::Attaching {
            return Ok(event);
        }
        for _ in 0..EARLY_MESSAGES {
            let Some(worker) = &mut self.worker else {
                return Ok(None);
            };
            match worker.next_event()? {
                Next::Event(event) => {
                    self.events += 1;
                    self.trade_memory();
                    return Ok(Some(event));
                }
                // The device sends a segment before it writes an entry that names it.
                Next::NeedsSegment if self.read_message()? => {}
                Next::NeedsSegment => break,
                Next::Nothing => return Ok(self.told()),
            }
        }
        Err(Status::Corrupt)
    }

    fn told(&mut self) -> Option<Event> {
        if let Some(event) = self.pending.pop_front() {
            return Some(event);
        }
        let worker = self.worker.as_mut();
        self.room |= worker.is_some_and(|worker| std::mem::take(&mut worker.room));
        std::mem::take(&mut self.room).then_some(Event::Room)
    }

    /// Ends the attachment, and leaves everything that is still to be reported pending.
    fn end(&mut self, status: Status) {
        self.state = State::Ended;
        self.channel.close();
        self.channel.wake();
        if let Some(worker) = &mut self.worker {
            self.pending.extend(worker.end());
        }
        let requests = self.requests.drain();
        self.pending
            .extend(requests.filter_map(|asked| match asked {
                Asked::Call { cookie, .. } => Some(Event::Reply {
                    cookie,
                    status: Status::Detached,
                }),
                Asked::Attach | Asked::Grow(_) => None,
            }));
        self.pending.push_back(Event::Detached { status });
    }
}

impl<C: Channel> Drop for Handle<C> {
    /// In the process that made the attachment, ends it, even if other processes hold copies of that process's
    /// descriptors. In another process, only gives back the copies that this other process holds.
    fn drop(&mut self) {
        if self.maker.is_here() {
            self.channel.close();
        }
    }
}
