// SPDX-License-Identifier: GPL-2.0-or-later

//! A process' attachment to a device: what smbd's parent and children hold.
//!
//! ```text
//!   attach --> Attaching --Attached--> Attached --Detached, the device's end--> Leaving
//!                  |                      |      events in the rings go on        |
//!                  '----------------------+--------- Corrupt, rings empty --------+--> Ended
//! ```
//!
//! However an attachment ends, its user sees the same: [`Event::Sent`], [`Event::RdmaDone`] or
//! [`Event::Transferred`] with [`Status::Flushed`] for each operation under way,
//! [`Event::Disconnected`] with [`Status::Detached`] for each connection, [`Event::Reply`] with
//! [`Status::Detached`] for each request without an answer, and [`Event::Detached`] with the reason.
//! Calls fail with [`Status::Detached`] from the moment at which the handle notices.
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
    self, Address, AllowedAddress, Attach, Attached, Claim, ConnInfo, Decline,
    MAX_ALLOWED_ADDRESSES, MAX_SECURITY_BLOB, MemParams, SetAddresses, SetParameters, SetSessionId,
    Token,
};
use super::channel::{Channel, SocketChannel};
use super::completion::Next;
use super::control::Asked;
use super::event::{BulkBuffer, ConnCounts, Direction, Event, Role};
use super::queue::Notify;
use super::slots::Slots;
use super::worker::Worker;
use crate::sys::Maker;

/// Control messages that are read in one call of [`Handle::next_event`].
const MESSAGES: usize = 64;

/// Events after which answers that are waited for are looked for, however much there is in the rings.
const EVENTS: u32 = 64;

/// Control messages that may be before one that an entry of a ring announced: more than a socket
/// holds.
const EARLY_MESSAGES: usize = 4096;

/// What has become of the attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The device has not answered yet.
    Attaching,
    Attached,
    /// The device has nothing to do with this process any more. What it wrote before counts.
    Leaving(Status),
    /// Only what is pending is still to be told.
    Ended,
}

/// An attachment. One thread, one process; nothing blocks.
///
/// In a child of the process that made it every call fails with [`Status::Forked`], and to drop it
/// has no effect on the maker's attachment. A child does drop it soon: it holds copies of the maker's
/// descriptors and mappings. The device notices the maker's end all the same.
#[derive(Debug)]
pub struct Handle<C: Channel = SocketChannel> {
    maker: Maker,
    pub(super) channel: C,
    pub(super) role: Role,
    pub(super) state: State,
    pub(super) params: Option<Attached>,
    /// The version that the device speaks, if it is another one and the device has said so.
    pub(super) device_version: u32,
    /// Where clients reach the device: the last that it said.
    pub(super) addresses: Vec<Address>,
    pub(super) worker: Option<Worker<C::Doorbell>>,
    /// Requests without an answer.
    pub(super) requests: Slots<Asked>,
    /// Somebody could not send a request and was not told yet that it may be tried again.
    pub(super) request_refused: bool,
    /// Somebody who was refused may try again.
    pub(super) room: bool,
    /// Events that come before all others.
    pub(super) pending: VecDeque<Event>,
    /// Events that were told since the channel was looked at.
    events: u32,
    /// The last control message did nothing but wake this side. If there is one more, `event_fd` says so.
    pub(super) woken: bool,
    /// Of the control message that is being sent.
    pub(super) message: Vec<u8>,
    /// Of one thread at a time.
    not_sync: PhantomData<Cell<()>>,
}

impl Handle {
    /// Presents this process to the device at `path`. [`Event::Attached`] or [`Event::Detached`]
    /// follows; for a worker with a `token`, its connection's [`Event::Connection`] as well.
    ///
    /// # Errors
    ///
    /// [`Status::NoDevice`], [`Status::Denied`], [`Status::Untrusted`], [`Status::System`];
    /// [`Status::Again`]: more wait for the device than it allows; [`Status::Invalid`]: a listener with a token, or a token of zeros.
    pub fn attach(path: &Path, role: Role, token: Option<Token>) -> Result<Self, Status> {
        Self::over(SocketChannel::connect(path)?, role, token)
    }
}

impl<C: Channel> Handle<C> {
    /// As [`attach`](Handle::attach), to the device that `channel` leads to.
    ///
    /// # Errors
    ///
    /// [`Status::System`], [`Status::Invalid`]; [`Status::Again`]: the device has to receive first.
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
            // It has gone, or did not want to hear that: why, it may have said, and an event will.
            Ok(()) | Err(Status::Detached) => Ok(handle),
            Err(status) => Err(status),
        }
    }

    /// The version of the interface that the device speaks, where it is not that of this library and the attachment has
    /// ended for that ([`Status::Version`]): both can be said then.
    #[must_use]
    pub fn device_version(&self) -> Option<u32> {
        (self.device_version != 0).then_some(self.device_version)
    }

    /// Readable whenever [`next_event`](Self::next_event) may have something after it had nothing, for
    /// as long as that is so: to be watched level-triggered.
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

    /// The next event, for which a system call is made once in a while only; `None`: none, but
    /// `event_fd` does not tell when there is. For who looks again soon, before it sleeps by [`next_event`](Self::next_event).
    ///
    /// # Errors
    ///
    /// As [`next_event`](Self::next_event).
    pub fn peek_event(&mut self) -> Result<Option<Event>, Status> {
        self.take_event(Self::ready)
    }

    /// The next event; `None`: none now, and `event_fd` will tell.
    ///
    /// No system call as long as there is something in the rings and no request is unanswered.
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

    /// Has the device use other parameters for connections that it accepts from now on; its
    /// [`Event::Reply`] says whether it does. `security_blob_length` is set here.
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
            // At most `MAX_SECURITY_BLOB`.
            security_blob_length: security_blob.len() as u32,
            ..parameters
        };
        let kind = abi::kind::SET_PARAMETERS;
        self.request(Asked::Call { cookie, kind }, &parameters, security_blob)
    }

    /// Has the device allow only these addresses of the server from now on (`None`: all of them), in
    /// place of what it was told before; its [`Event::Reply`] says whether it does. An empty list allows
    /// none. The device ends connections at other addresses, and [`addresses`](Self::addresses) will
    /// not have them.
    ///
    /// # Errors
    ///
    /// [`Status::TooLong`]: more than [`MAX_ALLOWED_ADDRESSES`]. [`Status::Invalid`]: an address that is
    /// not one host's, or its scope ([`AllowedAddress`]). [`Status::Again`]. [`Status::NotAttached`]:
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
            // At most `MAX_ALLOWED_ADDRESSES`.
            count: list.len() as u32,
            all: allowed.is_none().into(),
        };
        let kind = abi::kind::SET_ADDRESSES;
        self.request(Asked::Call { cookie, kind }, &set, list.as_bytes())
    }

    /// Registers a client's GUID and, unless `session_id` is 0, a session of it; or takes that back.
    /// [`Event::Reply`] follows.
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

    /// Asks for the connection of a token. [`Event::Reply`] follows and, if that is `Ok`, before or
    /// after it [`Event::Connection`].
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

    /// Has the device close the connection of an offer; [`Event::Reply`] says whether it was still there.
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

    /// Where clients reach the device, as of the last event: at most [`abi::MAX_ADDRESSES`].
    ///
    /// # Errors
    ///
    /// [`Status::NotAttached`]: not yet.
    pub fn addresses(&self) -> Result<&[Address], Status> {
        self.check(self.role)?;
        Ok(&self.addresses)
    }

    /// The memory that a worker may come to map.
    ///
    /// # Errors
    ///
    /// [`Status::NotAttached`]: not yet.
    pub fn mem_params(&self) -> Result<MemParams, Status> {
        self.check(self.role)?;
        let params = self.params.ok_or(Status::NotAttached)?;
        Ok(params.memory)
    }

    /// A buffer of at least `length` bytes.
    ///
    /// # Errors
    ///
    /// [`Status::Again`]: the device was asked for memory, or all that it allows is in use;
    /// [`Event::Room`] follows. [`Status::NoMemory`]: the device refused, no buffer of this process is
    /// in use, and no event follows. [`Status::Invalid`]: no bytes. [`Status::TooLong`]: longer than any buffer.
    pub fn allocate(&mut self, length: usize) -> Result<BulkBuffer, Status> {
        self.call(|worker| worker.allocate(length))
    }

    /// Takes a buffer back.
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
    /// [`Status::Invalid`]: no bytes. [`Status::TooLong`]: more than `max_fragmented_send_size` of the
    /// connection. [`Status::NoConnection`]; [`Status::Busy`]: it is being transferred.
    /// [`Status::Again`]: [`Event::Room`] follows. [`Status::NoMemory`]: no room for it, and no message
    /// of this process is under way: no event follows.
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
    /// the client's request as they came ([MS-SMBD] 2.2.3.1). [`Event::RdmaDone`] follows.
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

    /// As [`rdma`](Self::rdma), but does not wake the device for it: the next call that hands something
    /// to the same connection does, [`flush`](Self::flush), or [`next_event`](Self::next_event) before it has
    /// nothing. For an operation that a message follows at once.
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

    /// Wakes the device for what was deferred. Without a system call if nothing was, or it is awake.
    ///
    /// # Errors
    ///
    /// [`Status::NotAttached`], [`Status::Detached`], [`Status::Forked`].
    pub fn flush(&mut self) -> Result<(), Status> {
        self.call(Worker::flush)
    }

    /// Copies a received message into `target`, which has at least its length, and gives its
    /// memory back to the device. An empty `target`: only gives it back.
    ///
    /// # Errors
    ///
    /// [`Status::NoBuffer`]: no such message, or taken before. [`Status::Invalid`]: `target` is too
    /// short, and nothing happened.
    pub fn take_pdu(&mut self, pdu: u64, target: &mut [u8]) -> Result<(), Status> {
        self.call(|worker| worker.take_pdu(pdu, target))
    }

    /// Ends a connection in order. [`Event::Disconnected`] follows, unless it was being transferred
    /// and [`Event::Transferred`] says `Ok`. Once more has no effect.
    ///
    /// # Errors
    ///
    /// [`Status::NoConnection`].
    pub fn disconnect(&mut self, conn: u64) -> Result<(), Status> {
        self.call(|worker| worker.disconnect(conn))
    }

    /// Says that a session is on a connection: its client has logged in. Until then the device gives it
    /// little time and memory. Once more has no effect.
    ///
    /// # Errors
    ///
    /// [`Status::NoConnection`].
    pub fn set_authenticated(&mut self, conn: u64) -> Result<(), Status> {
        self.call(|worker| worker.set_authenticated(conn))
    }

    /// Gives a connection to who registered `client_guid`, or to who claims the token of
    /// [`Event::Transferred`] (`None`); `pdu` becomes the first message there.
    ///
    /// # Errors
    ///
    /// [`Status::Busy`]: operations are under way on it. [`Status::Invalid`]: a GUID of zeros.
    /// Others as [`send_pdu`](Self::send_pdu).
    pub fn transfer(
        &mut self,
        conn: u64,
        cookie: u64,
        client_guid: Option<[u8; 16]>,
        pdu: &[u8],
    ) -> Result<(), Status> {
        self.call(|worker| worker.transfer(conn, cookie, client_guid, pdu))
    }

    /// What is known about a connection.
    ///
    /// # Errors
    ///
    /// [`Status::NoConnection`].
    pub fn conn_info(&self, conn: u64) -> Result<ConnInfo, Status> {
        self.check(Role::Worker)?;
        let worker = self.worker.as_ref().ok_or(Status::NotAttached)?;
        Ok(worker.conn(conn)?.info)
    }

    /// What a connection has carried.
    ///
    /// # Errors
    ///
    /// [`Status::NoConnection`].
    pub fn conn_counts(&self, conn: u64) -> Result<ConnCounts, Status> {
        self.check(Role::Worker)?;
        let worker = self.worker.as_ref().ok_or(Status::NotAttached)?;
        Ok(worker.conn(conn)?.counts)
    }

    /// Whether a call of `role` is legal now.
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

    /// A worker's call.
    fn call<T>(
        &mut self,
        call: impl FnOnce(&mut Worker<C::Doorbell>) -> Result<T, Status>,
    ) -> Result<T, Status> {
        self.check(Role::Worker)?;
        let worker = self.worker.as_mut().ok_or(Status::NotAttached)?;
        let result = call(worker);
        if worker.room || worker.waits_for_ring() {
            // Nothing that the device does makes the descriptor readable, before `next_event` has
            // said that this side sleeps.
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

    /// The next event. Every error is the end.
    fn poll(&mut self) -> Result<Option<Event>, Status> {
        for _ in 0..MESSAGES {
            if let Some(event) = self.ready()? {
                return Ok(Some(event));
            }
            self.events = 0;
            if let State::Leaving(status) = self.state {
                return Err(status);
            }
            if !std::mem::take(&mut self.woken) && self.read_message()? {
                continue;
            }
            let may_sleep = match &mut self.worker {
                Some(worker) if self.state != State::Attaching => worker.announce_sleep()?,
                _ => true,
            };
            if may_sleep {
                return Ok(None);
            }
        }
        // Let the caller do something else, and come back.
        self.channel.wake();
        Ok(None)
    }

    /// The next event of those that need no system call; but the channel has its turn, too, where
    /// there is always something in the rings.
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
                // What an entry names was sent before the entry was written.
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

    /// Ends the attachment: all that there is to tell is pending then.
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
    /// In the process that made it: ends the attachment, whoever holds copies of its descriptors. In
    /// another: gives back the copies of that process, and nothing else.
    fn drop(&mut self) {
        if self.maker.is_here() {
            self.channel.close();
        }
    }
}
