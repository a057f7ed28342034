// SPDX-License-Identifier: GPL-2.0-or-later

//! SMB over SMB Direct: an initiator on iWARP, and memory that the server may access.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant as Clock};

use super::super::{Error, Result};
use super::Deadline;
use smbdirect::fabric::iwarp;
use smbdirect::fabric::{Access, AnyFabric, ConnId, FabricKind, Region, Sge};
use smbdirect::proto;
use smbdirect::sys::Memory;
use smbdirect::transport::{
    CloseReason, Config, Event, HeapBuffers, SendError, Traffic, Transport,
};
use smbdirect::units::{Instant, RemoteToken};
use smbdirect::wire::BufferDescriptorV1;

/// Maximum number of memory regions at a time.
const REGIONS: usize = 1024;
/// Maximum number of free send buffers that are kept.
const KEPT: usize = 64;
/// How long the acceptor may take to answer the negotiation before another connection is tried.
const ANSWER: Duration = Duration::from_secs(3);
/// How long a graceful close may take.
const CLOSE: Duration = Duration::from_secs(2);

/// Memory that the server may read or write while it is registered.
#[derive(Debug)]
pub struct Registration {
    /// Its contents.
    pub memory: Memory,
    region: Region,
}

impl Registration {
    /// Returns the descriptor by which a request names all of this memory.
    #[must_use]
    pub fn descriptor(&self) -> BufferDescriptorV1 {
        // Registered memory has a length of at most 32 bits.
        self.piece(0, u32::try_from(self.memory.len()).unwrap_or(u32::MAX))
    }

    /// Returns a descriptor of `length` bytes at `offset`. The range may lie outside of the memory.
    #[must_use]
    pub fn piece(&self, offset: u32, length: u32) -> BufferDescriptorV1 {
        BufferDescriptorV1 {
            offset: self.region.remote.address.wrapping_add(offset.into()),
            token: self.region.remote.token,
            length,
        }
    }

    /// Returns descriptors of all of this memory in `count` adjacent pieces; the last piece takes the remainder.
    #[must_use]
    pub fn pieces(&self, count: u32) -> Vec<BufferDescriptorV1> {
        let whole = self.descriptor().length;
        let each = whole / count.max(1);
        let length = |n| {
            if n + 1 == count {
                whole - n * each
            } else {
                each
            }
        };
        (0..count)
            .map(|n| self.piece(n * each, length(n)))
            .collect()
    }

    /// The token by which the server may invalidate it.
    #[must_use]
    pub const fn token(&self) -> RemoteToken {
        self.region.remote.token
    }
}

/// A connection.
pub(in super::super) struct SmbDirect {
    transport: Transport<AnyFabric, HeapBuffers>,
    conn: ConnId,
    server: SocketAddr,
    start: Clock,
    established: bool,
    closed: Option<CloseReason>,
    messages: VecDeque<Vec<u8>>,
    invalidated: Vec<RemoteToken>,
    sending: Vec<(u64, Buffer)>,
    free: Vec<Buffer>,
    events: Vec<Event<Vec<u8>>>,
    cookie: u64,
}

/// Memory that messages are sent from.
struct Buffer {
    memory: Memory,
    region: Region,
}

impl SmbDirect {
    pub(in super::super) fn connect(
        address: SocketAddr,
        how: (Option<FabricKind>, proto::Config),
        timeout: Duration,
    ) -> Result<Self> {
        // Some acceptors miss data that arrives too soon after the connection is made (docs/interop.md, siw). If the
        // negotiation is not answered soon, a second connection gets an answer long before the first one does.
        let link = match Self::try_connect(address, how, timeout.min(ANSWER))? {
            None if timeout > ANSWER => Self::try_connect(address, how, timeout - ANSWER)?,
            link => link,
        };
        link.ok_or_else(|| Error::ConnectSmbDirect {
            address,
            reason: "the negotiation did not finish in time".to_owned(),
        })
    }

    /// Tries once. `None`: the connection did not come up in time.
    fn try_connect(
        address: SocketAddr,
        (kind, endpoint): (Option<FabricKind>, proto::Config),
        timeout: Duration,
    ) -> Result<Option<Self>> {
        let mut config = iwarp::Config {
            // The connection must not time out before this function gives up.
            connect_timeout: timeout * 2,
            ..iwarp::Config::default()
        };
        config.depths.regions = REGIONS;
        config.depths.recvs = usize::from(endpoint.receive_credit_max.0) + 1;
        let fabric = AnyFabric::towards(address, kind, config)?;
        let config = Config::new(proto::Config::default(), endpoint);
        let mut transport = Transport::new(fabric, HeapBuffers::new(), config);
        let refused = |reason: String| Error::ConnectSmbDirect { address, reason };
        let conn = transport
            .connect(Instant::ZERO, address)
            .map_err(|error| refused(error.to_string()))?;
        let mut link = Self {
            transport,
            conn,
            server: address,
            start: Clock::now(),
            established: false,
            closed: None,
            messages: VecDeque::new(),
            invalidated: Vec::new(),
            sending: Vec::new(),
            free: Vec::new(),
            events: Vec::new(),
            cookie: 0,
        };
        let deadline = Deadline::new(timeout);
        let came = link.drive(deadline, |link| link.established || link.closed.is_some())?;
        match link.closed.take() {
            Some(reason) => Err(refused(reason.to_string())),
            None => Ok(came.then_some(link)),
        }
    }

    pub(super) const fn server(&self) -> SocketAddr {
        self.server
    }

    /// Returns the lengths of the longest message that can be sent and of the longest that can be received, in bytes.
    pub(super) fn message_limits(&self) -> (u32, u32) {
        self.negotiated().map_or((0, 0), |n| {
            (n.max_fragmented_send_size, n.max_fragmented_receive_size)
        })
    }

    /// The fabric that carries it.
    pub(in super::super) fn fabric(&self) -> FabricKind {
        self.transport.fabric().kind()
    }

    /// What both sides agreed on.
    pub(in super::super) fn negotiated(&self) -> Option<proto::Negotiated> {
        self.transport.status(self.conn)?.negotiated
    }

    /// The connection's traffic.
    pub(in super::super) fn traffic(&self) -> Traffic {
        self.transport
            .status(self.conn)
            .map_or_else(Traffic::default, |status| status.traffic)
    }

    pub(super) fn send(&mut self, parts: &[&[u8]], deadline: Deadline) -> Result<()> {
        let length = parts.iter().map(|part| part.len()).sum();
        let buffer = self.buffer(length)?;
        let mut at = 0;
        for part in parts {
            // In range: the buffer is at least as long as all parts together.
            let _ = buffer.memory.write(at, part);
            at += part.len();
        }
        let sge = Sge {
            region: buffer.region.id,
            offset: 0,
            length: u32::try_from(length).unwrap_or(u32::MAX),
        };
        self.cookie += 1;
        loop {
            match self.transport.send(self.conn, self.cookie, sge, None) {
                Ok(()) => break,
                Err(SendError::QueueFull) => {
                    let queued = self.sending.len();
                    if !self.drive(deadline, |link| {
                        link.sending.len() < queued || link.closed.is_some()
                    })? {
                        self.free.push(buffer);
                        return Err(deadline.error("sending a request"));
                    }
                }
                Err(SendError::NotEstablished) => {
                    self.poll()?;
                    return Err(self.gone());
                }
                Err(reason) => {
                    self.keep(buffer);
                    return Err(Error::Send { length, reason });
                }
            }
        }
        self.sending.push((self.cookie, buffer));
        // Whatever the credits allow goes out at once.
        self.poll()
    }

    pub(super) fn receive(&mut self, deadline: Deadline) -> Result<Vec<u8>> {
        if let Some(message) = self.messages.pop_front() {
            return Ok(message);
        }
        let came = self.drive(deadline, |link| {
            !link.messages.is_empty() || link.closed.is_some()
        })?;
        match self.messages.pop_front() {
            Some(message) => Ok(message),
            None if came => Err(self.gone()),
            None => Err(deadline.error("waiting for a response")),
        }
    }

    pub(super) fn recycle(&mut self, message: Vec<u8>) {
        self.transport.recycle(message);
    }

    /// Registers memory for the server.
    pub(in super::super) fn register(
        &mut self,
        memory: &Memory,
        access: Access,
    ) -> Result<Registration> {
        let region = self.transport.register(self.conn, memory, access)?;
        Ok(Registration {
            memory: memory.clone(),
            region,
        })
    }

    /// Ends a registration: an access by the server from now on ends the connection.
    pub(in super::super) fn deregister(&mut self, registration: &Registration) -> Result<()> {
        self.invalidated
            .retain(|token| *token != registration.token());
        Ok(self
            .transport
            .deregister(self.conn, registration.region.id)?)
    }

    pub(super) fn take_invalidated(&mut self, token: RemoteToken) -> bool {
        let found = self.invalidated.iter().position(|other| *other == token);
        found.is_some_and(|at| {
            self.invalidated.swap_remove(at);
            true
        })
    }

    /// Serves the connection for a time: answers keepalives, and lets the server access memory.
    pub(in super::super) fn serve(&mut self, time: Duration) -> Result<()> {
        self.drive(Deadline::new(time), |link| link.closed.is_some())?;
        if self.closed.is_some() {
            Err(self.gone())
        } else {
            Ok(())
        }
    }

    /// Returns why the connection ended, if it has.
    pub(in super::super) fn close_reason(&self) -> Option<&CloseReason> {
        self.closed.as_ref()
    }

    fn gone(&self) -> Error {
        match &self.closed {
            Some(reason) => Error::closed(reason),
            None => Error::Closed("it is not established".to_owned()),
        }
    }

    /// Takes or makes a buffer of at least `length` bytes.
    fn buffer(&mut self, length: usize) -> Result<Buffer> {
        let fits = self
            .free
            .iter()
            .position(|buffer| buffer.memory.len() >= length);
        if let Some(at) = fits {
            return Ok(self.free.swap_remove(at));
        }
        if let Some(small) = self.free.pop() {
            self.transport.deregister(self.conn, small.region.id)?;
        }
        let memory = Memory::zeroed(length.next_power_of_two().max(4096));
        let region = self.transport.register(self.conn, &memory, Access::Local)?;
        Ok(Buffer { memory, region })
    }

    /// Keeps a buffer for later messages.
    fn keep(&mut self, buffer: Buffer) {
        if self.free.len() < KEPT {
            self.free.push(buffer);
        } else {
            let _ = self.transport.deregister(self.conn, buffer.region.id);
        }
    }

    /// Serves the connection until `done` holds, and returns whether it did in time.
    fn drive(
        &mut self,
        deadline: Deadline,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> Result<bool> {
        loop {
            self.poll()?;
            if done(self) {
                return Ok(true);
            }
            let left = deadline.left();
            if left.is_zero() {
                return Ok(false);
            }
            self.transport.wait(self.now(), Some(left))?;
        }
    }

    fn now(&self) -> Instant {
        Instant::ZERO + self.start.elapsed()
    }

    fn poll(&mut self) -> Result<()> {
        let mut events = std::mem::take(&mut self.events);
        let now = self.now();
        let result = self.transport.poll(now, &mut events);
        for event in events.drain(..) {
            match event {
                Event::Established { .. } => self.established = true,
                Event::Message { buffer, .. } => self.messages.push_back(buffer),
                Event::Invalidated { token, .. } => self.invalidated.push(token),
                Event::Sent { cookie, .. } => {
                    let sent = self.sending.iter().position(|(other, _)| *other == cookie);
                    if let Some(at) = sent {
                        let (_, buffer) = self.sending.swap_remove(at);
                        self.keep(buffer);
                    }
                }
                Event::Closed { reason, .. } => self.closed = Some(reason),
                // A client posts no RDMA of its own.
                Event::Written { .. } | Event::Read { .. } => {}
            }
        }
        self.events = events;
        Ok(result?)
    }
}

impl Drop for SmbDirect {
    /// Closes gracefully, so that the messages that were sent arrive.
    fn drop(&mut self) {
        self.transport.close(self.conn);
        let _ = self.drive(Deadline::new(CLOSE), |link| link.closed.is_some());
    }
}

impl fmt::Debug for SmbDirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmbDirect")
            .field("server", &self.server)
            .field("closed", &self.closed)
            .field("sending", &self.sending.len())
            .finish_non_exhaustive()
    }
}
