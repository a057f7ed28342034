// SPDX-License-Identifier: GPL-2.0-or-later

//! [`Verbs`]: the fabric of RDMA devices, through `libibverbs` and `librdmacm`.
//!
//! ```text
//!   rdma_cm event channel ----\                                   / connection: rdma_cm_id, PD, QP, CQ
//!   completion channel of each >--- epoll: `Readiness`      ---<  connection
//!   async fd of each device --/                                   \ ...
//! ```
//!
//! One `Verbs` belongs to one thread. Each connection has its own protection domain, completion queue and notification
//! channel, so that one connection cannot reach another's memory, and all its objects end with it. Nothing blocks:
//! connecting proceeds from event to event.
//!
//! | file | contents |
//! |---|---|
//! | `ffi` | the two libraries behind safe types |
//! | `conn` | a connection: posted work, and work that waits to be posted |
//! | `progress` | the effects of events and completions, until the end of a connection |
//! | `listen` | listeners, and requests for connections |
//! | `status` | how connections ended, in the terms of the trait |
//!
//! # What a device does, and what it does not
//!
//! - Completions: every request is signalled, because its owner waits for it. When a connection ends, its posted work
//!   is flushed here once its queue pair has gone: no device is trusted to report each request.
//! - RDMA READs: at most `initiator_depth` are posted to the queue pair; more wait here, so that they do not hold up
//!   later SENDs and RDMA WRITEs.
//! - [`Fabric::post_send`] with a token to invalidate sends a plain SEND if the device cannot invalidate
//!   (`IBV_DEVICE_MEM_MGT_EXTENSIONS`); all devices known to be in use can.
//! - [`Work::Recv`](super::Work::Recv) names the token that the peer has invalidated if the device reports it: libsiw's
//!   devices never do. Most devices, Soft-RoCE among them, refuse to invalidate memory that user space has registered,
//!   and end the connection: see [`Fabric::regions_may_be_invalidated`].
//! - A device delivers each asynchronous event once for all of its users in a process, to the `Verbs` that takes it
//!   first: if a process has two of them, a connection may end without the event, for a less specific reason.
//! - If a peer asks for memory that it may not access, this side learns of it on some devices (RoCE and InfiniBand, by
//!   an asynchronous event); on other devices it only sees that the connection ends.

mod config;
mod conn;
mod devices;
#[allow(unsafe_code)]
mod ffi;
mod listen;
mod progress;
mod status;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use mio::Interest;
use mio::unix::SourceFd;
use slotmap::{Key, KeyData, SlotMap};

pub use self::config::{Config, Counts};
pub use self::devices::{
    DeviceKind, check, device_names, device_of, memory_lock_limit, source_for,
};

use self::conn::{Conn, Stage};
use self::ffi::{Channel, CmId, Depths, Endpoint};
use self::listen::Listener;
use super::iwarp::mpa::LegacyReadDepths;
use super::pending::{Limits, Sources};
use super::wait::failed;
use crate::fabric::{
    Access, CloseReason, ConnId, Event, Fabric, FabricError, ListenerId, LocalAddresses,
    MAX_SEND_HEADER, ReadLimits, Readiness, Reconfigure, Region, RegionId, RemoteAddress, Sge,
    SharedEpoll, Waitable, WrId,
};
use crate::sys::Memory;
use crate::units::{Instant, RemoteToken};

/// The token for readiness of the event channel.
const CHANNEL: mio::Token = mio::Token(1);
/// The token for readiness of any device's asynchronous events.
const DEVICES: mio::Token = mio::Token(2);

/// The owner of an identifier of the connection manager.
#[derive(Clone, Copy, Debug)]
enum Owner {
    Listener(ListenerId),
    Conn(ConnId),
}

/// The fabric of RDMA devices. See the [module](self).
pub struct Verbs {
    config: Config,
    readiness: Readiness,
    listeners: SlotMap<ListenerId, Listener>,
    admitted: Arc<LocalAddresses>,
    conns: SlotMap<ConnId, Conn>,
    /// The owners of identifiers, by [`CmId::key`].
    owners: HashMap<usize, Owner>,
    /// Number of connections of each device, by [`Endpoint::device_key`].
    devices: HashMap<usize, usize>,
    /// Identifiers of connections that have ended here, by their keys.
    lingering: HashMap<usize, (CmId, Instant)>,
    /// Connections with something to do.
    work: Vec<ConnId>,
    /// Deadlines of connections; those that are no longer valid are skipped.
    deadlines: BinaryHeap<Reverse<(Instant, ConnId)>>,
    /// Incoming connections that are not established.
    pending: Sources<ConnId>,
    /// Events that happened in calls other than `poll`.
    events: Vec<Event>,
    completed: Vec<ffi::Completed>,
    has_cm_events: bool,
    has_async_events: bool,
    /// Whether a warning about memory that was not registered has been logged.
    has_warned: bool,
    now: Instant,
    /// The event channel, which each identifier holds, too.
    channel: Arc<Channel>,
}

impl fmt::Debug for Verbs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verbs")
            .field("listeners", &self.listeners.len())
            .field("connections", &self.conns.len())
            .finish_non_exhaustive()
    }
}

impl Verbs {
    /// Makes a fabric without connections.
    ///
    /// # Errors
    ///
    /// The system has no RDMA device, or does not let this process use it.
    pub fn new(config: Config) -> Result<Self, FabricError> {
        let channel = devices::channel()?;
        let readiness = Readiness::new()?;
        let fd = channel.as_fd().as_raw_fd();
        readiness
            .registry()
            .register(&mut SourceFd(&fd), CHANNEL, Interest::READABLE)
            .map_err(|source| failed("watch the event channel", source))?;
        Ok(Self {
            config,
            readiness,
            listeners: SlotMap::with_key(),
            admitted: Arc::default(),
            conns: SlotMap::with_key(),
            owners: HashMap::new(),
            devices: HashMap::new(),
            lingering: HashMap::new(),
            work: Vec::new(),
            deadlines: BinaryHeap::new(),
            pending: Sources::default(),
            events: Vec::new(),
            completed: Vec::new(),
            has_cm_events: false,
            has_async_events: false,
            has_warned: false,
            now: Instant::ZERO,
            channel,
        })
    }

    const fn pending_limits(&self) -> Limits {
        Limits {
            total: self.config.max_pending,
            per_source: self.config.max_pending_per_source,
        }
    }

    /// Returns the current numbers.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            listeners: self.listeners.len(),
            connections: self.conns.len(),
            pending: self.pending.total(),
            lingering: self.lingering.len(),
            regions: self.conns.values().map(Conn::regions).sum(),
        }
    }

    /// Returns the name of a connection's device, such as `mlx5_0`.
    #[must_use]
    pub fn device(&self, conn: ConnId) -> Option<&str> {
        Some(&self.conns.get(conn)?.device.name)
    }

    /// Makes the queues of a connection whose device is known, and watches them.
    fn add(&mut self, id: CmId, stage: Stage) -> io::Result<ConnId> {
        let device = id.device()?;
        let (sends, recvs, reads) = conn::queues(&self.config, &device);
        let endpoint = Endpoint::new(id, &device, sends + reads, recvs)?;
        let (fd, async_fd) = (
            endpoint.completion_fd().as_raw_fd(),
            endpoint.async_fd().as_raw_fd(),
        );
        let (key, device_key) = (endpoint.id().key(), endpoint.device_key());
        let conn = Conn::new(endpoint, device, stage, (sends, recvs, reads));
        let registry = self.readiness.registry();
        let id = self.conns.try_insert_with_key(|id| {
            registry.register(&mut SourceFd(&fd), token(id), Interest::READABLE)?;
            Ok::<Conn, io::Error>(conn)
        })?;
        self.owners.insert(key, Owner::Conn(id));
        let users = self.devices.entry(device_key).or_insert(0);
        if *users == 0 {
            let watched = registry.register(&mut SourceFd(&async_fd), DEVICES, Interest::READABLE);
            if let Err(error) = watched {
                tracing::warn!(%error, "cannot watch an RDMA device for asynchronous events");
            }
        }
        *users += 1;
        if let Some(conn) = self.conns.get_mut(id) {
            conn.enqueue(id, &mut self.work);
        }
        Ok(id)
    }

    /// Stops watching a connection that was removed.
    fn forget(&mut self, id: ConnId, conn: &Conn) {
        self.pending.remove(&id);
        let endpoint = &conn.endpoint;
        let registry = self.readiness.registry();
        let fd = endpoint.completion_fd().as_raw_fd();
        let _ = registry.deregister(&mut SourceFd(&fd));
        self.owners.remove(&endpoint.id().key());
        let key = endpoint.device_key();
        if let Some(users) = self.devices.get_mut(&key) {
            *users -= 1;
            if *users == 0 {
                self.devices.remove(&key);
                let fd = endpoint.async_fd().as_raw_fd();
                let _ = registry.deregister(&mut SourceFd(&fd));
            }
        }
    }

    fn start_connecting(&mut self, address: SocketAddr, limits: ReadLimits) -> io::Result<ConnId> {
        // Binding to the address that the system would choose selects the device, so memory can be registered before
        // the peer has been found.
        let source = devices::source_for(address)?;
        let id = CmId::new(&self.channel)?;
        id.bind(SocketAddr::new(source, 0))?;
        let conn = self.add(id, Stage::ResolvesAddress(limits))?;
        let time = self.config.connect_timeout;
        let id = self.conns.get(conn).map(|conn| conn.endpoint.id());
        match id.map(|id| id.resolve_address(address, time)) {
            Some(Err(error)) => {
                if let Some(removed) = self.conns.remove(conn) {
                    self.forget(conn, &removed);
                }
                Err(error)
            }
            _ => Ok(conn),
        }
    }

    fn start_accepting(&mut self, id: ConnId, limits: ReadLimits) -> Result<(), FabricError> {
        let conn = self.conns.get_mut(id).ok_or(FabricError::NotConnected)?;
        let Stage::Requested { peer, legacy } = conn.stage else {
            return Err(FabricError::NotConnected);
        };
        let own = conn.own_depths(limits);
        let depths = Depths {
            responder_resources: own.responder_resources.min(peer.initiator_depth),
            initiator_depth: own.initiator_depth.min(peer.responder_resources),
        };
        conn.limits = conn::limits(depths);
        let reply = legacy.then_some(LegacyReadDepths {
            ird: depths.responder_resources.into(),
            ord: depths.initiator_depth.into(),
        });
        let reply = reply.map(LegacyReadDepths::emit);
        let private_data = reply.as_ref().map_or(&[][..], |bytes| bytes);
        match conn.endpoint.id().accept(depths, private_data) {
            Ok(()) => {
                conn.stage = Stage::Accepting;
                conn.enqueue(id, &mut self.work);
            }
            Err(error) => self.end_now(id, status::of_error(&error)),
        }
        Ok(())
    }
}

impl Fabric for Verbs {
    fn listen(&mut self, address: SocketAddr) -> Result<ListenerId, FabricError> {
        let context = |source| failed(&format!("listen on {address} by RDMA"), source);
        let listener = self.new_listener(address).map_err(context)?;
        let key = listener.key();
        let id = self.listeners.insert(listener);
        self.owners
            .extend(key.map(|key| (key, Owner::Listener(id))));
        Ok(id)
    }

    fn local_address(&self, listener: ListenerId) -> Option<SocketAddr> {
        Some(self.listeners.get(listener)?.address)
    }

    fn conn_local_address(&self, conn: ConnId) -> Option<SocketAddr> {
        self.conns.get(conn)?.endpoint.id().local_address()
    }

    /// iWARP devices are the only ones known to allow invalidation of user-space memory.
    fn regions_may_be_invalidated(&self, conn: ConnId) -> bool {
        let conn = self.conns.get(conn);
        conn.is_some_and(|conn| conn.device.is_iwarp)
    }

    fn unlisten(&mut self, listener: ListenerId) {
        if let Some(listener) = self.listeners.remove(listener) {
            if let Some(key) = listener.key() {
                self.owners.remove(&key);
            }
        }
        let unanswered = self.conns.iter().filter(|(_, conn)| {
            conn.listener == Some(listener) && matches!(conn.stage, Stage::Requested { .. })
        });
        let unanswered: Vec<ConnId> = unanswered.map(|(id, _)| id).collect();
        for id in unanswered {
            self.reject(id);
        }
    }

    fn admit_at(&mut self, addresses: &Arc<LocalAddresses>) {
        self.admitted = Arc::clone(addresses);
    }

    fn connect(&mut self, address: SocketAddr, limits: ReadLimits) -> Result<ConnId, FabricError> {
        let connected = self.start_connecting(address, limits);
        connected.map_err(|source| failed(&format!("connect to {address} by RDMA"), source))
    }

    fn accept(&mut self, conn: ConnId, limits: ReadLimits) -> Result<(), FabricError> {
        self.start_accepting(conn, limits)
    }

    fn reject(&mut self, conn: ConnId) {
        let requested = self.conns.get(conn).map(|conn| conn.stage);
        if !matches!(requested, Some(Stage::Requested { .. })) {
            return;
        }
        let id = conn;
        if let Some(conn) = self.conns.remove(id) {
            self.forget(id, &conn);
            conn.reject();
        }
    }

    fn close(&mut self, conn: ConnId) {
        let id = conn;
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        match conn.stage {
            Stage::Draining => {}
            Stage::Established => {
                conn.stage = Stage::Draining;
                conn.enqueue(id, &mut self.work);
            }
            _ => self.end_now(id, CloseReason::Local),
        }
    }

    fn register(
        &mut self,
        conn: ConnId,
        memory: &Memory,
        access: Access,
    ) -> Result<Region, FabricError> {
        let limit = self.config.regions;
        let conn = self.open(conn)?;
        if conn.regions() >= limit {
            return Err(FabricError::TooManyRegions);
        }
        u32::try_from(memory.len()).map_err(|_| FabricError::LocalProtection)?;
        let registered = conn.register(memory, access);
        let registered = registered.map_err(|error| devices::not_registered(memory, error));
        let (id, remote) = registered.inspect_err(|error| {
            // The owner may not report the error, but an administrator has to know of it. One warning is enough.
            if !std::mem::replace(&mut self.has_warned, true) {
                tracing::warn!("{error}");
            }
        })?;
        let token = if access.is_remote() { remote.0 } else { 0 };
        let remote = RemoteAddress {
            token: RemoteToken(token),
            address: remote.1,
        };
        Ok(Region { id, remote })
    }

    fn deregister(&mut self, conn: ConnId, region: RegionId) -> Result<(), FabricError> {
        let conn = self.conns.get_mut(conn).ok_or(FabricError::NotConnected)?;
        match conn.deregister(region) {
            true => Ok(()),
            false => Err(FabricError::LocalProtection),
        }
    }

    fn post_recv(&mut self, conn: ConnId, wr_id: WrId, memory: Sge) -> Result<(), FabricError> {
        let open = self.open(conn)?;
        open.post_recv(wr_id, memory)?;
        if open.is_suspect {
            // An event will say why the receive was not taken, or the wait for the event times out.
            self.work
                .extend(self.conns.get_mut(conn).and_then(|open| open.due(conn)));
        }
        Ok(())
    }

    fn post_send(
        &mut self,
        conn: ConnId,
        wr_id: WrId,
        header: &[u8],
        payload: Option<Sge>,
        invalidate: Option<RemoteToken>,
    ) -> Result<(), FabricError> {
        if header.len() > MAX_SEND_HEADER {
            return Err(FabricError::HeaderTooLong);
        }
        self.post(conn, |conn| {
            conn.post_send(wr_id, header, payload, invalidate)
        })
    }

    fn post_write(
        &mut self,
        conn: ConnId,
        wr_id: WrId,
        source: Sge,
        target: RemoteAddress,
    ) -> Result<(), FabricError> {
        self.post(conn, |conn| conn.post_write(wr_id, source, target))
    }

    fn post_read(
        &mut self,
        conn: ConnId,
        wr_id: WrId,
        sink: Sge,
        source: RemoteAddress,
    ) -> Result<(), FabricError> {
        let most = self.config.reads;
        self.post(conn, |conn| conn.post_read(most, wr_id, sink, source))
    }

    fn poll(&mut self, now: Instant, events: &mut Vec<Event>) -> Result<(), FabricError> {
        self.now = now;
        events.append(&mut self.events);
        self.collect_readiness()?;
        self.handle_cm_events(events)?;
        self.handle_async_events(events);
        let mut work = std::mem::take(&mut self.work);
        for id in work.drain(..) {
            self.pump(id, events);
        }
        // Work that came up in the meantime gets its turn in the next call.
        work.append(&mut self.work);
        self.work = work;
        self.expire(events);
        Ok(())
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if !self.work.is_empty() || !self.events.is_empty() || self.has_cm_events {
            return Some(self.now);
        }
        let deadline = self.deadlines.peek().map(|Reverse((at, _))| *at);
        let lingering = self.lingering.values().map(|(_, at)| *at).min();
        let listeners = self.listeners.values();
        let listeners = listeners.filter_map(|listener| listener.again_at).min();
        [deadline, lingering, listeners].into_iter().flatten().min()
    }
}

impl Reconfigure for Verbs {
    fn set_config(&mut self, config: &super::iwarp::Config) {
        self.config = config.into();
    }
}

impl Waitable for Verbs {
    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.readiness.registry().as_fd())
    }
}

/// A queue pair cannot be passed on to another process.
#[cfg(feature = "broker")]
impl super::Keep for Verbs {}

impl SharedEpoll for Verbs {
    fn registry(&self) -> &mio::Registry {
        self.readiness.registry()
    }

    fn wait(&mut self, time: Option<Duration>) -> Result<(), FabricError> {
        self.readiness.wait(time)
    }

    fn ready(&mut self, keys: &mut Vec<u64>) {
        self.readiness.ready(keys);
    }
}

impl Verbs {
    /// Returns a connection that its owner has not closed.
    fn open(&mut self, id: ConnId) -> Result<&mut Conn, FabricError> {
        let conn = self.conns.get_mut(id).ok_or(FabricError::NotConnected)?;
        match conn.stage {
            Stage::Draining => Err(FabricError::NotConnected),
            _ => Ok(conn),
        }
    }

    /// Posts work to send, which the next `poll` passes to the device.
    fn post(
        &mut self,
        id: ConnId,
        post: impl FnOnce(&mut Conn) -> Result<(), FabricError>,
    ) -> Result<(), FabricError> {
        let conn = self.conns.get_mut(id).ok_or(FabricError::NotConnected)?;
        if conn.stage != Stage::Established {
            return Err(FabricError::NotConnected);
        }
        post(conn)?;
        conn.enqueue(id, &mut self.work);
        Ok(())
    }
}

/// Returns the token for readiness of a connection's completion channel.
fn token(id: ConnId) -> mio::Token {
    // A key could be mistaken for one of the other tokens only after its version had used up 32 bits.
    mio::Token(id.data().as_ffi() as usize)
}

fn conn_of(token: mio::Token) -> ConnId {
    KeyData::from_ffi(token.0 as u64).into()
}
