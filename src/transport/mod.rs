// SPDX-License-Identifier: GPL-2.0-or-later

//! SMB Direct connections on a fabric: messages in and out, RDMA, timers and limits.
//!
//! [`Transport`] ties one [`proto::Endpoint`] to each connection of a [`Fabric`]. The transport owns everything that
//! neither the endpoint nor the fabric knows: the receive slots, the queues (which let its owner go on without
//! waiting), the deadlines, and the limits against peers that connect and do not negotiate.
//!
//! ```text
//!    owner          send, write, read              poll -> Message, Sent, Written, Read ...
//!                       |                                ^
//!    per connection  SendQueue, ReadQueue           Incoming: slots, reassembly
//!                       |     \         Endpoint     /   ^
//!    fabric         post_send  post_write  post_read    Recv completion
//! ```
//!
//! The rules ([MS-SMBD] 3.1.4.2, 3.1.5.x) are these: the endpoint cuts a message of the upper layer into fragments as
//! credits allow; messages and RDMA WRITEs leave in the order in which they were queued, so a response never overtakes
//! its data. A received fragment is copied once, from its slot into the owner's buffer. If the owner has no buffer, the
//! slot is not posted again: the peer runs out of credits, and no other connection notices.
//!
//! A transport must never end a connection because of what another connection did, hold more than a few KiB for a peer
//! that has not negotiated, log for each message, or allocate for each message once its queues have grown.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use crate::fabric::{
    self, Access, ConnId, Fabric, FabricError, ListenerId, LocalAddresses, ReadLimits, Region,
    RegionId, Sge,
};
use crate::proto;
use crate::sys::Memory;
use crate::units::{Credits, Instant, RemoteToken};
use crate::wire::BufferDescriptorV1;

mod admission;
mod buffers;
mod connection;
mod event;
mod handle;
#[cfg(feature = "broker")]
mod hash;
mod incoming;
mod journal;
#[cfg(feature = "broker")]
mod kept;
mod lines;
mod log;
mod moving;
mod outgoing;
mod progress;
mod table;
mod timers;
#[cfg(feature = "fabric")]
mod underway;
#[cfg(feature = "fabric")]
mod wait;

pub use buffers::{HeapBuffers, MessageBuffers};
pub use event::{CallFailed, CloseReason, ConnStatus, ConnectError, Event, SendError, Traffic};
pub use journal::Counters;
pub use lines::Lines;
pub use moving::Moving;
#[cfg(feature = "broker")]
pub(crate) use outgoing::ends_call;

use admission::Admission;
use connection::Connection;
#[cfg(feature = "broker")]
pub(crate) use hash::PlainHasher;
use journal::Journal;
#[cfg(feature = "broker")]
pub(crate) use kept::{Flushed, KeptConnection};
pub(crate) use table::ConnTable;
use timers::Timers;
#[cfg(feature = "fabric")]
pub use underway::Underway;

/// The configuration of a transport: the values for its connections, and their limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The values for connections that a listener accepts.
    pub acceptor: proto::Config,
    /// Number of credits that the peer of an accepted connection may hold before [`Transport::raise_receives`] is
    /// called, if `acceptor` allows more.
    pub first_receive_credit_max: Credits,
    /// The values for connections that `connect` begins.
    pub initiator: proto::Config,
    /// Limits on RDMA READs under way, for both kinds of connections.
    pub limits: ReadLimits,
    /// Maximum number of accepted connections that have not negotiated yet. If there are more, the source with the
    /// largest number of them loses its oldest connection.
    pub max_unnegotiated: usize,
    /// The same limit for one source address (one /64 of IPv6).
    pub max_unnegotiated_per_source: usize,
    /// Maximum number of connections at a time.
    pub max_connections: usize,
    /// Maximum number of messages and RDMA WRITEs, and of RDMA READs, that may be queued on a connection. Each call
    /// counts as one, however many descriptors it has (at most [`MAX_DESCRIPTORS`]).
    pub send_queue: usize,
    /// Time after which a connection ends if its posted SENDs and RDMA WRITEs, or its RDMA READs, stand still: none of
    /// them ended, and the fabric saw none of their bytes move.
    pub progress_timeout: Duration,
}

impl Config {
    /// Makes a configuration with these values for both kinds of connections, and the usual limits: 256 connections
    /// that have not negotiated, 32 of them from one source, 4096 connections, 256 queued messages and RDMA WRITEs on
    /// each, and 60 s without progress.
    #[must_use]
    pub fn new(acceptor: proto::Config, initiator: proto::Config) -> Self {
        Self {
            acceptor,
            first_receive_credit_max: Credits(u16::MAX),
            initiator,
            limits: ReadLimits::default(),
            max_unnegotiated: 256,
            max_unnegotiated_per_source: 32,
            max_connections: 4096,
            send_queue: 256,
            progress_timeout: Duration::from_secs(60),
        }
    }
}

/// Maximum number of buffer descriptors of one RDMA READ or RDMA WRITE: as many as fit into 65,535 bytes ([MS-SMB2]
/// 2.2.19, `ReadChannelInfoLength`).
pub const MAX_DESCRIPTORS: usize = 4095;

/// SMB Direct connections on one fabric. See the [module](self).
///
/// Calls queue work; [`poll`](Self::poll) carries it out and reports what happened. Nothing blocks, and nothing reads a
/// clock: the caller passes the time.
#[derive(Debug)]
pub struct Transport<F, B: MessageBuffers> {
    fabric: F,
    buffers: B,
    config: Config,
    conns: ConnTable<Box<Connection<B::Buffer>>>,
    admission: Admission,
    journal: Journal,
    timers: Timers,
    /// Connections that have something to post, each at most once ([`Connection::dirty`]).
    dirty: Vec<ConnId>,
    /// Connections with a fragment that found no buffer, each at most once.
    starved: Vec<ConnId>,
    retry_starved: bool,
    fabric_events: Vec<crate::fabric::Event>,
}

impl<F: Fabric, B: MessageBuffers> Transport<F, B> {
    /// Makes a transport without connections.
    pub fn new(fabric: F, buffers: B, config: Config) -> Self {
        Self {
            fabric,
            buffers,
            config,
            conns: ConnTable::default(),
            admission: Admission::default(),
            journal: Journal::default(),
            timers: Timers::default(),
            dirty: Vec::new(),
            starved: Vec::new(),
            retry_starved: false,
            fabric_events: Vec::new(),
        }
    }

    /// Accepts connections on `address`; port 0 stands for any free port.
    pub fn listen(&mut self, address: SocketAddr) -> Result<ListenerId, FabricError> {
        self.fabric.listen(address)
    }

    /// Returns the address to which a listener is bound, with its real port.
    pub fn local_address(&self, listener: ListenerId) -> Option<SocketAddr> {
        self.fabric.local_address(listener)
    }

    /// Ends a listener. Its connections continue.
    pub fn unlisten(&mut self, listener: ListenerId) {
        self.fabric.unlisten(listener);
    }

    /// Accepts connections only on these local addresses from now on, and ends connections that were accepted on
    /// others: [`Event::Closed`] follows.
    pub fn admit_at(&mut self, addresses: &Arc<LocalAddresses>) {
        self.fabric.admit_at(addresses);
        let reason = CloseReason::Fabric(fabric::CloseReason::AddressNotAllowed);
        self.end_unless(&reason, |address| addresses.admit_conn(address));
    }

    /// Ends the connections that were accepted on addresses for which `has_gone` returns `true`: [`Event::Closed`]
    /// follows.
    pub fn end_gone(&mut self, mut has_gone: impl FnMut(SocketAddr) -> bool) {
        self.end_unless(&CloseReason::AddressGone, |address| {
            !address.is_some_and(&mut has_gone)
        });
    }

    fn end_unless(
        &mut self,
        reason: &CloseReason,
        mut may_live: impl FnMut(Option<SocketAddr>) -> bool,
    ) {
        for (id, conn) in self.conns.iter_mut() {
            if conn.listener.is_some() && !may_live(self.fabric.conn_local_address(id)) {
                conn.fail(reason.clone());
                self.fabric.close(id);
            }
        }
    }

    /// Sets the configuration: the limits from now on, and the values of connections that begin from now on.
    pub fn set_config(&mut self, config: Config) {
        self.config = config;
    }

    /// Sets the values for connections that are accepted from now on.
    pub fn set_acceptor(&mut self, acceptor: proto::Config) {
        self.config.acceptor = acceptor;
    }

    /// Lets the peer of an accepted connection hold as many credits as its [`Config::acceptor`] allowed.
    pub fn raise_receives(&mut self, conn: ConnId) {
        if let Some(connection) = self.conns.get_mut(conn) {
            connection.raise_receives();
            mark_dirty(&mut self.dirty, conn, connection);
        }
    }

    /// Begins a connection ([MS-SMBD] 3.1.4.1): [`Event::Established`] or [`Event::Closed`] follows.
    pub fn connect(&mut self, now: Instant, address: SocketAddr) -> Result<ConnId, ConnectError> {
        if self.conns.len() >= self.config.max_connections {
            return Err(ConnectError::TooManyConnections);
        }
        let id = self.fabric.connect(address, self.config.limits)?;
        let mut conn = Connection::new(&self.config, None, address, now);
        if let Err(error) = conn.post_receives(&mut self.fabric, id) {
            conn.fail(CloseReason::Call(error.into()));
            self.fabric.close(id);
        }
        self.timers.arm(id, &mut conn);
        self.conns.insert(id, Box::new(conn));
        Ok(id)
    }

    /// Ends a connection gracefully: first sends what is queued, if that is possible within `credit_timeout` of its
    /// [`proto::Config`]; RDMA READs still under way fail. [`Event::Closed`] follows.
    pub fn close(&mut self, conn: ConnId) {
        if let Some(connection) = self.conns.get_mut(conn) {
            connection.closing = true;
            mark_dirty(&mut self.dirty, conn, connection);
        }
    }

    /// Ends a connection at once: work that is queued and not yet posted fails. [`Event::Closed`] follows.
    pub fn abort(&mut self, conn: ConnId) {
        if let Some(connection) = self.conns.get_mut(conn) {
            connection.fail(CloseReason::Aborted);
            self.fabric.close(conn);
        }
    }

    /// Registers memory with a connection, for `send`, `write` and `read`, or for the peer.
    pub fn register(
        &mut self,
        conn: ConnId,
        memory: &Memory,
        access: Access,
    ) -> Result<Region, FabricError> {
        let connection = self.conns.get_mut(conn).ok_or(FabricError::NotConnected)?;
        let region = self.fabric.register(conn, memory, access)?;
        connection.regions.insert(region.id, memory.clone());
        Ok(region)
    }

    /// Ends a registration. A connection with work queued on that memory ends.
    pub fn deregister(&mut self, conn: ConnId, region: RegionId) -> Result<(), FabricError> {
        let connection = self.conns.get_mut(conn).ok_or(FabricError::NotConnected)?;
        if connection.regions.remove(&region).is_none() {
            return Err(FabricError::LocalProtection);
        }
        self.fabric.deregister(conn, region)
    }

    /// Queues one message of the upper layer; its last fragment asks the peer to invalidate `invalidate`. The memory is
    /// in use until [`Event::Sent`] returns `cookie`.
    pub fn send(
        &mut self,
        conn: ConnId,
        cookie: u64,
        source: Sge,
        invalidate: Option<RemoteToken>,
    ) -> Result<(), SendError> {
        let connection = self.conns.get_mut(conn).ok_or(SendError::NotEstablished)?;
        connection.queue_message(cookie, source, invalidate, self.config.send_queue)?;
        mark_dirty(&mut self.dirty, conn, connection);
        Ok(())
    }

    /// Queues an RDMA WRITE of `source` to consecutive pieces of the peer's memory, filling each before the next;
    /// pieces after the end of the data are not touched. Messages queued later arrive after the data. The memory is in
    /// use until the single [`Event::Written`] of this call.
    pub fn write(
        &mut self,
        conn: ConnId,
        cookie: u64,
        source: Sge,
        target: impl IntoIterator<Item = BufferDescriptorV1>,
    ) -> Result<(), SendError> {
        let connection = self.conns.get_mut(conn).ok_or(SendError::NotEstablished)?;
        connection.queue_write(cookie, source, target, self.config.send_queue)?;
        mark_dirty(&mut self.dirty, conn, connection);
        Ok(())
    }

    /// Queues an RDMA READ of consecutive pieces of the peer's memory into `sink`, which sets the length. One
    /// [`Event::Read`] follows when all of it has arrived. A READ does not wait for messages and RDMA WRITEs, and they
    /// do not wait for a READ.
    pub fn read(
        &mut self,
        conn: ConnId,
        cookie: u64,
        sink: Sge,
        source: impl IntoIterator<Item = BufferDescriptorV1>,
    ) -> Result<(), SendError> {
        let connection = self.conns.get_mut(conn).ok_or(SendError::NotEstablished)?;
        connection.queue_read(cookie, sink, source, self.config.send_queue)?;
        mark_dirty(&mut self.dirty, conn, connection);
        Ok(())
    }

    /// Gives back the buffer of an [`Event::Message`], and retries fragments that found no buffer.
    pub fn recycle(&mut self, buffer: B::Buffer) {
        self.buffers.release(buffer);
        self.buffers_available();
    }

    /// Makes the next `poll` ask again for the buffers that `MessageBuffers::allocate` could not supply.
    pub fn buffers_available(&mut self) {
        self.retry_starved = !self.starved.is_empty();
    }

    /// Does all the work that can be done without waiting, and appends to `events` what happened. An error concerns the
    /// whole fabric, not one connection.
    pub fn poll(
        &mut self,
        now: Instant,
        events: &mut Vec<Event<B::Buffer>>,
    ) -> Result<(), FabricError> {
        self.retry_starved(events);
        self.pump(now, events);
        let mut fabric_events = core::mem::take(&mut self.fabric_events);
        let result = self.fabric.poll(now, &mut fabric_events);
        for event in fabric_events.drain(..) {
            self.handle(now, event, events);
        }
        self.fabric_events = fabric_events;
        self.pump(now, events);
        // The timers run after the messages are handled, because a message that arrived in time may have been waiting
        // for this call.
        self.run_timers(now);
        self.pump(now, events);
        self.journal.report(now);
        result
    }

    /// Returns when `poll` must be called at the latest if nothing else happens. `None`: call it only after an event. A
    /// time in the past: call it at once.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if !self.dirty.is_empty() || self.retry_starved {
            return Some(Instant::ZERO);
        }
        [
            self.fabric.poll_timeout(),
            self.timers.next(),
            self.journal.poll_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Returns the status of a connection; `None` after its [`Event::Closed`].
    pub fn status(&self, conn: ConnId) -> Option<ConnStatus> {
        self.conns.get(conn).map(|conn| conn.status())
    }

    /// Returns the maximum number of bytes for a connection's receives. Pages that no message has reached are not in
    /// use yet.
    pub fn receive_memory(&self, conn: ConnId) -> usize {
        let connection = self.conns.get(conn);
        connection.map_or(0, |connection| connection.receive_memory())
    }

    /// Returns the number of bytes of heap that a connection's queued work occupies, until the fabric takes it. Work in
    /// more pieces occupies more.
    #[inline]
    pub fn queue_memory(&self, conn: ConnId) -> usize {
        let connection = self.conns.get(conn);
        connection.map_or(0, |connection| connection.queue_memory())
    }

    /// Returns all connections, including those that have not negotiated.
    pub fn connections(&self) -> impl Iterator<Item = ConnId> + '_ {
        self.conns.iter().map(|(id, _)| id)
    }

    /// Returns the counts of what happened since the start.
    pub fn counters(&self) -> &Counters {
        self.journal.counters()
    }

    /// Returns the fabric below.
    pub fn fabric(&self) -> &F {
        &self.fabric
    }

    /// Returns the fabric below, for things that a transport does not cover, such as faults and captures. Work that is
    /// posted directly to the fabric confuses the transport.
    pub fn fabric_mut(&mut self) -> &mut F {
        &mut self.fabric
    }

    /// The owner's buffers.
    pub fn buffers(&self) -> &B {
        &self.buffers
    }

    /// The owner's buffers.
    pub fn buffers_mut(&mut self) -> &mut B {
        &mut self.buffers
    }
}

fn mark_dirty<Buffer>(dirty: &mut Vec<ConnId>, id: ConnId, connection: &mut Connection<Buffer>) {
    if !connection.dirty {
        connection.dirty = true;
        dirty.push(id);
    }
}
