// SPDX-License-Identifier: GPL-2.0-or-later

//! [`Iwarp`]: the iWARP fabric on TCP sockets.
//!
//! With this fabric, any program can be an RDMA endpoint: Linux's siw driver and iWARP NICs connect to it as to any
//! other iWARP peer. One `Iwarp` belongs to one thread; its sockets do not block and are watched by one epoll instance,
//! whose descriptor is [`Waitable::event_fd`].
//!
//! Every byte that a peer sends goes through the queue pair's checks. A peer that breaks a rule gets a Terminate, if
//! the stream can carry one, and loses its own connection.

mod acknowledge;
mod conn;
mod direct;
mod fpdu;
#[cfg(feature = "broker")]
mod kept;
mod linger;
mod listen;
mod progress;
mod token;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use mio::Interest;
use mio::net::TcpStream;
use slotmap::SlotMap;

use self::acknowledge::Unacknowledged;
use self::conn::{Conn, Scratch, Stage};
use self::fpdu::crc32c;
#[cfg(feature = "broker")]
pub use self::kept::KeptConn;
use self::linger::Lingering;
use self::listen::Listener;
use self::progress::{completed, enqueue};
use self::token::Target;
use super::handshake::Offer;
use super::qp::{Completion, Depths, PostError, Qp};
use crate::fabric::pending::{Limits, Sources};
use crate::fabric::tokens;
use crate::fabric::wait::failed;
use crate::fabric::{
    Access, CloseReason, ConnId, Event, Fabric, FabricError, ListenerId, LocalAddresses, Moved,
    ReadLimits, Readiness, Reconfigure, Region, RegionId, RemoteAddress, Sge, SharedEpoll,
    Waitable, WrError, WrId,
};
use crate::sys::Memory;
use crate::units::{Instant, RemoteToken};

/// The configuration of an [`Iwarp`] fabric.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Whether this side asks for CRCs in FPDUs. They are used if either side asks.
    pub crc: bool,
    /// Length of the largest ULPDU to send, in bytes: 128 to 65,532. With `None`, it is as long as fits into one TCP
    /// segment, which RNICs expect.
    pub max_ulpdu: Option<u16>,
    /// Whether a SEND ends only once the peer's TCP has acknowledged it, and not as soon as this side's TCP has taken
    /// it. For SENDs that have not ended at [`Fabric::close`], it is only known that this side's TCP has taken them.
    pub acknowledged_sends: bool,
    /// The sizes of each connection's queues, and its number of regions.
    pub depths: Depths,
    /// Maximum number of connections that have not finished the MPA handshake, in total. If there are more, the source
    /// with the largest number of them loses its oldest connection.
    pub max_pending: usize,
    /// The same limit for each source address (each /64 with IPv6).
    pub max_pending_per_source: usize,
    /// Whether other fabrics of this user may listen on the same addresses: the kernel then distributes new connections
    /// among them (`SO_REUSEPORT`).
    pub reuse_port: bool,
    /// Whether to listen on addresses that this machine does not have yet: peers can connect as soon as it has them
    /// (`IP_FREEBIND`).
    pub free_bind: bool,
    /// Time within which TCP and MPA must connect to a peer.
    pub connect_timeout: Duration,
    /// Time within which posted work must be sent after [`Fabric::close`].
    pub drain_timeout: Duration,
    /// Time within which the peer must close, too, once this side has shut down its half.
    pub linger_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            crc: false,
            max_ulpdu: None,
            acknowledged_sends: false,
            depths: Depths {
                sends: 64,
                recvs: 256,
                reads: 32,
                responses: 32,
                regions: 16,
            },
            max_pending: 256,
            max_pending_per_source: 32,
            reuse_port: false,
            free_bind: false,
            connect_timeout: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(5),
            linger_timeout: Duration::from_secs(2),
        }
    }
}

/// How many listeners and connections a fabric holds; peers can increase most of these numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Number of listeners.
    pub listeners: usize,
    /// Number of connections, whatever their state.
    pub connections: usize,
    /// Number of incoming connections among them that have not finished the handshake.
    pub pending: usize,
    /// Number of sockets whose connection has ended, until their peers close them, too.
    pub lingering: usize,
}

/// The iWARP fabric. See [the module](super) for its protocols.
pub struct Iwarp {
    config: Config,
    readiness: Readiness,
    listeners: SlotMap<ListenerId, Listener>,
    admitted: Arc<LocalAddresses>,
    conns: SlotMap<ConnId, Conn>,
    lingering: Lingering,
    /// Connections with something to do.
    work: Vec<ConnId>,
    /// The last call of `poll` had something to send, and did not look at the sockets.
    posted: bool,
    /// Deadlines of connections; those that are no longer valid are skipped.
    deadlines: BinaryHeap<Reverse<(Instant, ConnId)>>,
    /// When to ask the kernel what is acknowledged; times that are no longer valid are skipped.
    questions: BinaryHeap<Reverse<(Instant, ConnId)>>,
    /// Incoming connections that have not finished the handshake.
    pending: Sources<ConnId>,
    /// When to try the listeners again, after the system had no descriptor left.
    accept_again: Option<Instant>,
    /// Events that happened in calls other than `poll`.
    events: Vec<Event>,
    scratch: Scratch,
    completions: Vec<Completion>,
    now: Instant,
}

impl fmt::Debug for Iwarp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iwarp")
            .field("listeners", &self.listeners.len())
            .field("connections", &self.conns.len())
            .finish_non_exhaustive()
    }
}

impl Iwarp {
    /// Makes a fabric without connections.
    pub fn new(config: Config) -> Result<Self, FabricError> {
        Ok(Self {
            config,
            readiness: Readiness::new()?,
            listeners: SlotMap::with_key(),
            admitted: Arc::default(),
            conns: SlotMap::with_key(),
            lingering: Lingering::new(config.linger_timeout),
            work: Vec::new(),
            posted: false,
            deadlines: BinaryHeap::new(),
            questions: BinaryHeap::new(),
            pending: Sources::default(),
            accept_again: None,
            events: Vec::new(),
            scratch: Scratch::new(),
            completions: Vec::with_capacity(256),
            now: Instant::ZERO,
        })
    }

    /// Returns the current numbers.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            listeners: self.listeners.len(),
            connections: self.conns.len(),
            pending: self.pending.total(),
            lingering: self.lingering.len(),
        }
    }

    const fn pending_limits(&self) -> Limits {
        Limits {
            total: self.config.max_pending,
            per_source: self.config.max_pending_per_source,
        }
    }

    fn offer(&self, limits: ReadLimits) -> Offer {
        let clamp = |depth: u16, most: usize| {
            let depth = if depth as usize > most {
                most as u16
            } else {
                depth
            };
            if depth == 0 { 1 } else { depth }
        };
        Offer {
            crc: self.config.crc,
            ird: clamp(limits.responder_resources, self.config.depths.responses),
            ord: clamp(limits.initiator_depth, self.config.depths.reads),
        }
    }

    /// Watches a new listener's socket.
    fn watch(&mut self, mut listener: Listener) -> io::Result<ListenerId> {
        let registry = self.readiness.registry();
        self.listeners.try_insert_with_key(|id| {
            let token = Target::Listener(id).token();
            registry.register(&mut listener.socket, token, Interest::READABLE)?;
            Ok(listener)
        })
    }

    /// Watches a new connection's socket.
    fn add(&mut self, mut conn: Conn) -> Result<ConnId, FabricError> {
        if self.config.acknowledged_sends {
            conn.unacknowledged = Some(Unacknowledged::default());
        }
        let registry = self.readiness.registry();
        let both = Interest::READABLE | Interest::WRITABLE;
        let added = self.conns.try_insert_with_key(|id| {
            registry.register(&mut conn.stream, Target::Conn(id).token(), both)?;
            Ok(conn)
        });
        let id = added.map_err(|source| failed("watch a socket", source))?;
        if let Some(conn) = self.conns.get_mut(id) {
            enqueue(&mut self.work, id, conn);
        }
        Ok(id)
    }

    /// Returns the queue pair of a connection that its owner has not closed.
    fn qp(&mut self, id: ConnId) -> Result<&mut Qp<Memory>, FabricError> {
        let conn = self.conns.get_mut(id).ok_or(FabricError::NotConnected)?;
        match (&conn.stage, &mut conn.qp) {
            (Stage::Draining, _) | (_, None) => Err(FabricError::NotConnected),
            (_, Some(qp)) => Ok(qp),
        }
    }

    /// Posts work to send, and queues the connection for the next `poll`.
    fn post(
        &mut self,
        id: ConnId,
        post: impl FnOnce(&mut Qp<Memory>) -> Result<(), PostError>,
    ) -> Result<(), FabricError> {
        let conn = self.conns.get_mut(id).ok_or(FabricError::NotConnected)?;
        let (Stage::Established, Some(qp)) = (&conn.stage, &mut conn.qp) else {
            return Err(FabricError::NotConnected);
        };
        post(qp).map_err(not_posted)?;
        enqueue(&mut self.work, id, conn);
        Ok(())
    }
}

impl Fabric for Iwarp {
    fn listen(&mut self, address: SocketAddr) -> Result<ListenerId, FabricError> {
        let context = |source| failed(&format!("listen on {address}"), source);
        let listener = Listener::bind(address, &self.config).map_err(context)?;
        self.watch(listener).map_err(context)
    }

    fn local_address(&self, listener: ListenerId) -> Option<SocketAddr> {
        self.listeners
            .get(listener)
            .map(|listener| listener.address)
    }

    fn conn_local_address(&self, conn: ConnId) -> Option<SocketAddr> {
        self.conns.get(conn)?.local_address()
    }

    fn unlisten(&mut self, listener: ListenerId) {
        if let Some(mut listener) = self.listeners.remove(listener) {
            let _ = self.readiness.registry().deregister(&mut listener.socket);
        }
        let unanswered: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, conn)| {
                conn.listener == Some(listener)
                    && matches!(conn.stage, Stage::AwaitsRequest | Stage::Requested(_))
            })
            .map(|(id, _)| id)
            .collect();
        for id in unanswered {
            self.reject(id);
        }
    }

    fn admit_at(&mut self, addresses: &Arc<LocalAddresses>) {
        self.admitted = Arc::clone(addresses);
        let waits = |conn: &Conn| matches!(conn.stage, Stage::AwaitsRequest);
        let refused = self.conns.iter().filter(|(_, conn)| waits(conn));
        let refused = refused.filter(|(_, conn)| !addresses.admit_conn(conn.local_address()));
        let refused: Vec<(ConnId, SocketAddr)> =
            refused.map(|(id, conn)| (id, conn.peer)).collect();
        for (id, peer) in refused {
            self.reject(id);
            let reason = CloseReason::AddressNotAllowed;
            self.events.push(Event::Refused { peer, reason });
        }
    }

    fn connect(&mut self, address: SocketAddr, limits: ReadLimits) -> Result<ConnId, FabricError> {
        let stream = TcpStream::connect(address)
            .map_err(|source| failed(&format!("connect to {address}"), source))?;
        let _ = stream.set_nodelay(true);
        let stage = Stage::Connecting(self.offer(limits));
        let mut conn = Conn::new(stream, address, stage, self.config.max_ulpdu);
        conn.qp = Some(Box::new(Qp::new(self.config.depths, crc32c)));
        self.add(conn)
    }

    fn accept(&mut self, conn: ConnId, limits: ReadLimits) -> Result<(), FabricError> {
        let offer = self.offer(limits);
        let id = conn;
        let conn = self.conns.get_mut(id).ok_or(FabricError::NotConnected)?;
        let Stage::Requested(request) = conn.stage else {
            return Err(FabricError::NotConnected);
        };
        let (reply, agreed) = request.accept(offer);
        if let Err(reason) = conn.send_frame(&reply) {
            self.end_now(id, reason);
            return Ok(());
        }
        conn.establish(agreed);
        conn.deadline = None;
        enqueue(&mut self.work, id, conn);
        self.pending.remove(&id);
        self.events.push(Event::Established {
            conn: id,
            limits: progress::limits(&agreed),
        });
        Ok(())
    }

    fn reject(&mut self, conn: ConnId) {
        let Some(Stage::AwaitsRequest | Stage::Requested(_)) =
            self.conns.get(conn).map(|conn| conn.stage)
        else {
            return;
        };
        let id = conn;
        if let Some(conn) = self.conns.remove(id) {
            self.discard(id, conn);
        }
    }

    fn close(&mut self, conn: ConnId) {
        let id = conn;
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        match (conn.stage, &mut conn.qp) {
            (Stage::Draining, _) => {}
            (Stage::Established, Some(qp)) => {
                while let Some(completion) = qp.flush_reads() {
                    self.events
                        .push(completed(id, completion, Err(WrError::Flushed)));
                }
                conn.stage = Stage::Draining;
                enqueue(&mut self.work, id, conn);
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
        tokens::register(self.qp(conn)?.regions_mut(), memory, access)
    }

    fn deregister(&mut self, conn: ConnId, region: RegionId) -> Result<(), FabricError> {
        let conn = self.conns.get_mut(conn).ok_or(FabricError::NotConnected)?;
        let qp = conn.qp.as_mut().ok_or(FabricError::NotConnected)?;
        match qp.regions_mut().deregister(region) {
            Some(_) => Ok(()),
            None => Err(FabricError::LocalProtection),
        }
    }

    fn post_recv(&mut self, conn: ConnId, wr_id: WrId, memory: Sge) -> Result<(), FabricError> {
        let qp = self.qp(conn)?;
        qp.post_recv(wr_id, memory).map_err(not_posted)
    }

    fn post_send(
        &mut self,
        conn: ConnId,
        wr_id: WrId,
        header: &[u8],
        payload: Option<Sge>,
        invalidate: Option<RemoteToken>,
    ) -> Result<(), FabricError> {
        self.post(conn, |qp| qp.post_send(wr_id, header, payload, invalidate))
    }

    fn post_write(
        &mut self,
        conn: ConnId,
        wr_id: WrId,
        source: Sge,
        target: RemoteAddress,
    ) -> Result<(), FabricError> {
        self.post(conn, |qp| qp.post_write(wr_id, source, target))
    }

    fn post_read(
        &mut self,
        conn: ConnId,
        wr_id: WrId,
        sink: Sge,
        source: RemoteAddress,
    ) -> Result<(), FabricError> {
        self.post(conn, |qp| qp.post_read(wr_id, sink, source))
    }

    fn moved(&self, conn: ConnId) -> Moved {
        self.conns
            .get(conn)
            .map_or_else(Moved::default, |conn| conn.moved)
    }

    fn poll(&mut self, now: Instant, events: &mut Vec<Event>) -> Result<(), FabricError> {
        self.now = now;
        events.append(&mut self.events);
        // Work that was just posted goes first: sockets are looked at in the next call, unless a wait has already done
        // so.
        let has_found = self.readiness.has_found();
        self.posted = !self.work.is_empty() && !self.posted && !has_found;
        if !self.posted {
            self.collect_readiness(events)?;
        }
        let mut work = std::mem::take(&mut self.work);
        for id in work.drain(..) {
            self.pump(id, events);
        }
        // Work that came up in the meantime gets its turn in the next call.
        work.append(&mut self.work);
        self.work = work;
        self.ask_acknowledged(events);
        self.expire(events);
        Ok(())
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if !self.work.is_empty() || !self.events.is_empty() {
            return Some(self.now);
        }
        let deadline = self.deadlines.peek().map(|Reverse((at, _))| *at);
        let question = self.questions.peek().map(|Reverse((at, _))| *at);
        let lingering = self.lingering.deadline(self.now);
        let all = [deadline, question, lingering, self.accept_again];
        all.into_iter().flatten().min()
    }
}

impl Reconfigure for Iwarp {
    fn set_config(&mut self, config: &Config) {
        self.config = *config;
    }
}

impl Waitable for Iwarp {
    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.readiness.registry().as_fd())
    }
}

impl SharedEpoll for Iwarp {
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

const fn not_posted(error: PostError) -> FabricError {
    match error {
        PostError::QueueFull => FabricError::QueueFull,
        PostError::LocalProtection => FabricError::LocalProtection,
        PostError::TooLong => FabricError::HeaderTooLong,
    }
}
