//! [`Iwarp`]: the iWARP fabric on TCP sockets.
//!
//! Any program can be an RDMA endpoint with it: Linux's siw driver and iWARP NICs connect to it as
//! to any other iWARP peer. One `Iwarp` belongs to one thread; its sockets do not block and are
//! watched by one epoll instance, whose descriptor is [`Fabric::event_fd`].
//!
//! Every byte a peer sends goes through the queue pair's checks. A peer that breaks a rule gets a
//! Terminate, if the stream can carry one, and loses its own connection.

mod conn;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Token};
use slotmap::{Key, KeyData, SlotMap};

use self::conn::{Conn, Progress, Scratch, Stage, os};
use super::IwarpError;
use super::handshake::{Agreed, Offer};
use super::qp::{Completion, Depths, Done, PostError, Qp};
use crate::fabric::{
    Access, CloseReason, ConnId, Event, Fabric, FabricError, ListenerId, ReadLimits, Region,
    RegionId, RemoteAddress, Sge, Work, WrError, WrId,
};
use crate::sys::Memory;
use crate::units::{Instant, RemoteToken};

/// Sockets that are being closed: their peers have this many more before they are cut off.
const MAX_LINGERING: usize = 1024;
/// Bytes read and dropped from a socket that is being closed, at a time.
const LINGER_CHUNK: usize = 64 * 1024;
/// Connections taken from a listener before others have their turn.
const ACCEPT_BATCH: usize = 64;
/// Tries to find a free random token.
const TOKEN_TRIES: usize = 8;

/// How an [`Iwarp`] fabric behaves.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Whether this side asks for CRCs in FPDUs. They are used where either side asks.
    pub crc: bool,
    /// Largest ULPDU to send, in bytes, 128 to 65,532. `None`: as much as fits into one TCP
    /// segment, which RNICs expect.
    pub max_ulpdu: Option<u16>,
    /// Queues and regions of each connection.
    pub depths: Depths,
    /// Connections that have not finished the MPA handshake, in total.
    pub max_pending: usize,
    /// The same of one source address.
    pub max_pending_per_source: usize,
    /// Time that a peer has for TCP and MPA to connect.
    pub connect_timeout: Duration,
    /// Time that posted work has to go out after [`Fabric::close`].
    pub drain_timeout: Duration,
    /// Time that the peer then has to close as well.
    pub linger_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            crc: false,
            max_ulpdu: None,
            depths: Depths {
                sends: 64,
                recvs: 256,
                reads: 32,
                responses: 32,
                regions: 16,
            },
            max_pending: 256,
            max_pending_per_source: 32,
            connect_timeout: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(5),
            linger_timeout: Duration::from_secs(2),
        }
    }
}

slotmap::new_key_type! {
    /// A socket that is being closed.
    struct LingerId;
}

struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

/// A socket whose connection is gone: what the peer still sends is dropped until it closes too,
/// as closing with bytes unread would take back what was sent last.
struct Linger {
    stream: TcpStream,
    deadline: Instant,
}

/// The iWARP fabric. See [the module](super) for what it speaks.
pub struct Iwarp {
    config: Config,
    poll: mio::Poll,
    ready: mio::Events,
    listeners: SlotMap<ListenerId, Listener>,
    conns: SlotMap<ConnId, Conn>,
    lingering: SlotMap<LingerId, Linger>,
    /// By deadline: all linger for the same time.
    linger_order: VecDeque<LingerId>,
    /// Connections with something to do.
    work: Vec<ConnId>,
    /// Deadlines of connections; those that no longer hold are skipped.
    deadlines: BinaryHeap<Reverse<(Instant, ConnId)>>,
    /// Connections that have not finished the handshake, by source.
    pending: HashMap<IpAddr, usize>,
    pending_total: usize,
    /// What happened in calls other than `poll`.
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
    /// A fabric without connections.
    pub fn new(config: Config) -> Result<Self, FabricError> {
        Ok(Self {
            config,
            poll: mio::Poll::new().map_err(|source| failed("create an epoll instance", source))?,
            ready: mio::Events::with_capacity(256),
            listeners: SlotMap::with_key(),
            conns: SlotMap::with_key(),
            lingering: SlotMap::with_key(),
            linger_order: VecDeque::new(),
            work: Vec::new(),
            deadlines: BinaryHeap::new(),
            pending: HashMap::new(),
            pending_total: 0,
            events: Vec::new(),
            scratch: Scratch::new(),
            completions: Vec::with_capacity(256),
            now: Instant::ZERO,
        })
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

    /// Watches a new connection's socket.
    fn add(&mut self, conn: Conn) -> Result<ConnId, FabricError> {
        let registry = self.poll.registry();
        let id = self.conns.insert(conn);
        if let Some(conn) = self.conns.get_mut(id) {
            enqueue(&mut self.work, id, conn);
            let both = Interest::READABLE | Interest::WRITABLE;
            if let Err(source) = registry.register(&mut conn.stream, conn_token(id), both) {
                self.conns.remove(id);
                return Err(failed("watch a socket", source));
            }
        }
        Ok(id)
    }

    fn accept_connections(&mut self, id: ListenerId, events: &mut Vec<Event>) {
        for _ in 0..ACCEPT_BATCH {
            let Some(listener) = self.listeners.get(id) else {
                return;
            };
            let (stream, peer) = match listener.socket.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    // The peer gave up, or descriptors ran out; either way this one is lost.
                    tracing::debug!(%error, "accept failed");
                    events.push(Event::Refused {
                        peer: listener.address,
                        reason: os(&error),
                    });
                    continue;
                }
            };
            if !self.take_pending(peer.ip()) {
                events.push(Event::Refused {
                    peer,
                    reason: CloseReason::TooManyPending,
                });
                continue;
            }
            let _ = stream.set_nodelay(true);
            let mut conn = Conn::new(stream, peer, Stage::AwaitsRequest, self.config.max_ulpdu);
            conn.listener = Some(id);
            if let Err(error) = self.add(conn) {
                self.give_pending(peer.ip());
                tracing::debug!(%error, "connection dropped");
            }
        }
        // More may wait, and nothing will say so again.
        if let Some(listener) = self.listeners.get_mut(id) {
            let _ = self.poll.registry().reregister(
                &mut listener.socket,
                listener_token(id),
                Interest::READABLE,
            );
        }
    }

    fn take_pending(&mut self, source: IpAddr) -> bool {
        let of_source = self.pending.get(&source).copied().unwrap_or(0);
        if self.pending_total >= self.config.max_pending
            || of_source >= self.config.max_pending_per_source
        {
            return false;
        }
        self.pending_total += 1;
        self.pending.insert(source, of_source + 1);
        true
    }

    fn give_pending(&mut self, source: IpAddr) {
        self.pending_total = self.pending_total.saturating_sub(1);
        if let Some(of_source) = self.pending.get_mut(&source) {
            *of_source -= 1;
            if *of_source == 0 {
                self.pending.remove(&source);
            }
        }
    }

    /// Notes which sockets are ready, and serves listeners and closing sockets at once.
    fn collect_readiness(&mut self, events: &mut Vec<Event>) -> Result<(), FabricError> {
        let mut ready = std::mem::replace(&mut self.ready, mio::Events::with_capacity(0));
        let polled = self.poll.poll(&mut ready, Some(Duration::ZERO));
        for event in ready.iter() {
            match target(event.token()) {
                Target::Listener(id) => self.accept_connections(id, events),
                Target::Linger(id) => self.drop_input(id),
                Target::Conn(id) => {
                    let Some(conn) = self.conns.get_mut(id) else {
                        continue;
                    };
                    conn.readable |= event.is_readable();
                    conn.writable |= event.is_writable();
                    conn.read_closed |= event.is_read_closed() || event.is_error();
                    enqueue(&mut self.work, id, conn);
                }
            }
        }
        self.ready = ready;
        match polled {
            Err(error) if error.kind() != ErrorKind::Interrupted => {
                Err(failed("wait for sockets", error))
            }
            _ => Ok(()),
        }
    }

    /// Moves whatever can be moved on one connection.
    fn pump(&mut self, id: ConnId, events: &mut Vec<Event>) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        conn.queued = false;
        if conn.deadline.is_none() {
            // Set here and not in the call that began it: only `poll` knows the time.
            conn.deadline = match conn.stage {
                Stage::Established => None,
                Stage::Draining => Some(self.now + self.config.drain_timeout),
                _ => Some(self.now + self.config.connect_timeout),
            };
            self.deadlines
                .extend(conn.deadline.map(|deadline| Reverse((deadline, id))));
        }
        match conn.handshake() {
            Ok(Progress::None) => {}
            Ok(Progress::Requested) => {
                conn.qp = Some(Box::new(Qp::new(self.config.depths, conn::crc32c)));
                let (peer, listener) = (conn.peer, conn.listener.unwrap_or_default());
                events.push(Event::ConnectRequest {
                    listener,
                    conn: id,
                    peer,
                });
            }
            Ok(Progress::Established(agreed)) => {
                conn.deadline = None;
                events.push(Event::Established {
                    conn: id,
                    limits: limits(&agreed),
                });
            }
            Err(reason) => return self.end(id, reason, events),
        }
        let result = self.transfer(id, events);
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        if let Err(reason) = result {
            self.end(id, reason, events);
        } else if matches!(conn.stage, Stage::Draining) && conn.is_drained() {
            self.end(id, CloseReason::Local, events);
        } else if conn.has_work() {
            enqueue(&mut self.work, id, conn);
        }
    }

    /// Sends, receives, and sends what that caused.
    fn transfer(&mut self, id: ConnId, events: &mut Vec<Event>) -> Result<(), CloseReason> {
        let Some(conn) = self.conns.get_mut(id) else {
            return Ok(());
        };
        let mut result = Ok(());
        if conn.sends() {
            result = conn.send(&mut self.scratch, &mut self.completions);
        }
        if result.is_ok() && matches!(conn.stage, Stage::Established) && conn.readable {
            result = conn.receive(&mut self.scratch, &mut self.completions);
            if result.is_ok() && conn.writable {
                result = conn.send(&mut self.scratch, &mut self.completions);
            }
        }
        for completion in self.completions.drain(..) {
            events.push(completed(id, completion, Ok(())));
        }
        result
    }

    /// Ends a connection: everything posted is flushed and its owner told.
    fn end(&mut self, id: ConnId, reason: CloseReason, events: &mut Vec<Event>) {
        let Some(mut conn) = self.conns.remove(id) else {
            return;
        };
        if matches!(conn.stage, Stage::AwaitsRequest | Stage::Requested(_))
            && conn.listener.is_some()
        {
            self.give_pending(conn.peer.ip());
        }
        if let CloseReason::Iwarp(error) = reason {
            conn.send_terminate(error);
        }
        let announced = !matches!(conn.stage, Stage::AwaitsRequest);
        if let Some(mut qp) = conn.qp.take() {
            let mut errors = FlushErrors::new(&reason);
            while let Some(completion) = conn.flush_output().or_else(|| qp.flush()) {
                events.push(completed(id, completion, Err(errors.take(completion.done))));
            }
        }
        events.push(match announced {
            true => Event::Closed { conn: id, reason },
            false => Event::Refused {
                peer: conn.peer,
                reason,
            },
        });
        self.linger(conn.stream);
    }

    /// Ends the sending half and drops what the peer still sends until it ends the other.
    fn linger(&mut self, mut stream: TcpStream) {
        let _ = self.poll.registry().deregister(&mut stream);
        if stream.shutdown(Shutdown::Write).is_err() || self.lingering.len() >= MAX_LINGERING {
            return;
        }
        let deadline = self.now + self.config.linger_timeout;
        let id = self.lingering.insert(Linger { stream, deadline });
        self.linger_order.push_back(id);
        if let Some(linger) = self.lingering.get_mut(id) {
            let registered = self.poll.registry().register(
                &mut linger.stream,
                linger_token(id),
                Interest::READABLE,
            );
            if registered.is_err() {
                self.lingering.remove(id);
            }
        }
    }

    fn drop_input(&mut self, id: LingerId) {
        let Some(linger) = self.lingering.get_mut(id) else {
            return;
        };
        let mut chunk = vec![0; LINGER_CHUNK];
        loop {
            match linger.stream.read(&mut chunk) {
                Ok(n) if n > 0 => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                _ => {
                    self.lingering.remove(id);
                    return;
                }
            }
        }
    }

    /// Ends what has taken too long.
    fn expire(&mut self, events: &mut Vec<Event>) {
        while let Some(&Reverse((deadline, id))) = self.deadlines.peek() {
            if deadline > self.now {
                break;
            }
            self.deadlines.pop();
            let Some(conn) = self
                .conns
                .get(id)
                .filter(|conn| conn.deadline == Some(deadline))
            else {
                continue;
            };
            let reason = match conn.stage {
                Stage::Draining => CloseReason::Local,
                _ => CloseReason::ConnectTimeout,
            };
            self.end(id, reason, events);
        }
        while let Some(&id) = self.linger_order.front() {
            if self
                .lingering
                .get(id)
                .is_some_and(|linger| linger.deadline > self.now)
            {
                break;
            }
            self.linger_order.pop_front();
            self.lingering.remove(id);
        }
    }

    /// Ends a connection in a call that has no list of events.
    fn end_now(&mut self, id: ConnId, reason: CloseReason) {
        let mut events = std::mem::take(&mut self.events);
        self.end(id, reason, &mut events);
        self.events = events;
    }

    fn qp(&mut self, id: ConnId) -> Result<&mut Qp, FabricError> {
        let conn = self.conns.get_mut(id).ok_or(FabricError::NotConnected)?;
        match (&conn.stage, &mut conn.qp) {
            (Stage::Draining, _) | (_, None) => Err(FabricError::NotConnected),
            (_, Some(qp)) => Ok(qp),
        }
    }

    /// Posts work other than receives, and has the next `poll` look at the connection.
    fn post(
        &mut self,
        id: ConnId,
        post: impl FnOnce(&mut Qp) -> Result<(), PostError>,
    ) -> Result<(), FabricError> {
        match self.conns.get_mut(id).map(|conn| conn.stage) {
            Some(Stage::Established) => {}
            _ => return Err(FabricError::NotConnected),
        }
        post(self.qp(id)?).map_err(post_failed)?;
        if let Some(conn) = self.conns.get_mut(id) {
            enqueue(&mut self.work, id, conn);
        }
        Ok(())
    }
}

impl Fabric for Iwarp {
    fn listen(&mut self, address: SocketAddr) -> Result<ListenerId, FabricError> {
        let context = |source| failed(&format!("listen on {address}"), source);
        let mut socket = listening_socket(address).map_err(context)?;
        let address = socket.local_addr().map_err(context)?;
        let registry = self.poll.registry();
        let id = self.listeners.try_insert_with_key(|id| {
            registry.register(&mut socket, listener_token(id), Interest::READABLE)?;
            Ok(Listener { socket, address })
        });
        id.map_err(context)
    }

    fn local_address(&self, listener: ListenerId) -> Option<SocketAddr> {
        self.listeners
            .get(listener)
            .map(|listener| listener.address)
    }

    fn unlisten(&mut self, listener: ListenerId) {
        if let Some(mut listener) = self.listeners.remove(listener) {
            let _ = self.poll.registry().deregister(&mut listener.socket);
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

    fn connect(&mut self, address: SocketAddr, limits: ReadLimits) -> Result<ConnId, FabricError> {
        let stream = TcpStream::connect(address)
            .map_err(|source| failed(&format!("connect to {address}"), source))?;
        let _ = stream.set_nodelay(true);
        let stage = Stage::Connecting(self.offer(limits));
        let mut conn = Conn::new(stream, address, stage, self.config.max_ulpdu);
        conn.qp = Some(Box::new(Qp::new(self.config.depths, conn::crc32c)));
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
        let source = conn.peer.ip();
        enqueue(&mut self.work, id, conn);
        self.give_pending(source);
        self.events.push(Event::Established {
            conn: id,
            limits: self::limits(&agreed),
        });
        Ok(())
    }

    fn reject(&mut self, conn: ConnId) {
        let Some(Stage::AwaitsRequest | Stage::Requested(_)) =
            self.conns.get(conn).map(|conn| conn.stage)
        else {
            return;
        };
        let Some(mut conn) = self.conns.remove(conn) else {
            return;
        };
        if let Stage::Requested(request) = conn.stage {
            let _ = conn.send_frame(&request.reject());
        }
        self.give_pending(conn.peer.ip());
        self.linger(conn.stream);
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
            (Stage::Requested(request), _) => {
                let _ = conn.send_frame(&request.reject());
                self.end_now(id, CloseReason::Local);
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
        let qp = self.qp(conn)?;
        let length = u32::try_from(memory.len()).map_err(|_| FabricError::LocalProtection)?;
        if !qp.regions().has_room() {
            return Err(FabricError::TooManyRegions);
        }
        for _ in 0..TOKEN_TRIES {
            let remote = RemoteAddress {
                token: RemoteToken(random_u32()?),
                // Page-aligned, far from both ends of the address space.
                address: u64::from(random_u32()?) << 12,
            };
            if let Some(id) = qp.regions().register(length, access, remote) {
                let memories = &mut self
                    .conns
                    .get_mut(conn)
                    .ok_or(FabricError::NotConnected)?
                    .memories;
                let index = id.0 as usize;
                if memories.len() <= index {
                    memories.resize(index + 1, None);
                }
                if let Some(slot) = memories.get_mut(index) {
                    *slot = Some(memory.clone());
                }
                return Ok(Region { id, remote });
            }
        }
        Err(FabricError::TooManyRegions)
    }

    fn deregister(&mut self, conn: ConnId, region: RegionId) -> Result<(), FabricError> {
        let conn = self.conns.get_mut(conn).ok_or(FabricError::NotConnected)?;
        let qp = conn.qp.as_mut().ok_or(FabricError::NotConnected)?;
        if !qp.regions().deregister(region) {
            return Err(FabricError::LocalProtection);
        }
        if let Some(slot) = conn.memories.get_mut(region.0 as usize) {
            *slot = None;
        }
        Ok(())
    }

    fn post_recv(&mut self, conn: ConnId, wr_id: WrId, memory: Sge) -> Result<(), FabricError> {
        self.qp(conn)?.post_recv(wr_id, memory).map_err(post_failed)
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
        let sink_stag = random_u32()?;
        self.post(conn, |qp| qp.post_read(wr_id, sink, source, sink_stag))
    }

    fn poll(&mut self, now: Instant, events: &mut Vec<Event>) -> Result<(), FabricError> {
        self.now = now;
        events.append(&mut self.events);
        self.collect_readiness(events)?;
        let mut work = std::mem::take(&mut self.work);
        for id in work.drain(..) {
            self.pump(id, events);
        }
        // What came up meanwhile has its turn in the next call.
        work.append(&mut self.work);
        self.work = work;
        self.expire(events);
        Ok(())
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if !self.work.is_empty() || !self.events.is_empty() {
            return Some(self.now);
        }
        let deadline = self
            .deadlines
            .peek()
            .map(|Reverse((deadline, _))| *deadline);
        let linger = self
            .linger_order
            .front()
            .and_then(|&id| self.lingering.get(id));
        deadline
            .into_iter()
            .chain(linger.map(|linger| linger.deadline))
            .min()
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.poll.registry().as_fd())
    }
}

/// What each kind of work that was posted first ended with, where it was the reason; what else was
/// posted is flushed.
struct FlushErrors {
    recv: WrError,
    read: WrError,
}

impl FlushErrors {
    const fn new(reason: &CloseReason) -> Self {
        let mut errors = Self {
            recv: WrError::Flushed,
            read: WrError::Flushed,
        };
        match reason {
            CloseReason::Iwarp(IwarpError::DdpTooLong) => errors.recv = WrError::LocalLength,
            CloseReason::Iwarp(IwarpError::PeerTerminated {
                layer: 0, etype: 1, ..
            }) => {
                errors.read = WrError::RemoteAccess;
            }
            _ => {}
        }
        errors
    }

    const fn take(&mut self, done: Done) -> WrError {
        match done {
            Done::Recv { .. } => std::mem::replace(&mut self.recv, WrError::Flushed),
            Done::Read => std::mem::replace(&mut self.read, WrError::Flushed),
            Done::Send | Done::Write => WrError::Flushed,
        }
    }
}

const fn post_failed(error: PostError) -> FabricError {
    match error {
        PostError::QueueFull => FabricError::QueueFull,
        PostError::LocalProtection => FabricError::LocalProtection,
        PostError::TooLong => FabricError::HeaderTooLong,
    }
}

fn completed(conn: ConnId, completion: Completion, result: Result<(), WrError>) -> Event {
    let work = match completion.done {
        Done::Recv {
            length,
            invalidated,
        } => Work::Recv {
            length,
            invalidated,
        },
        Done::Send => Work::Send,
        Done::Write => Work::Write,
        Done::Read => Work::Read,
    };
    Event::Completion {
        conn,
        wr_id: completion.wr_id,
        work,
        result,
    }
}

const fn limits(agreed: &Agreed) -> ReadLimits {
    ReadLimits {
        responder_resources: agreed.ird,
        initiator_depth: agreed.ord,
    }
}

fn enqueue(work: &mut Vec<ConnId>, id: ConnId, conn: &mut Conn) {
    if !conn.queued {
        conn.queued = true;
        work.push(id);
    }
}

fn listening_socket(address: SocketAddr) -> io::Result<TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM.nonblocking(), None)?;
    if address.is_ipv6() {
        // IPv4 has listeners of its own.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    Ok(TcpListener::from_std(socket.into()))
}

fn random_u32() -> Result<u32, FabricError> {
    getrandom::u32()
        .map_err(|error| failed("get random bytes", io::Error::other(error.to_string())))
}

fn failed(what: &str, source: io::Error) -> FabricError {
    FabricError::Os {
        context: format!("cannot {what}"),
        source,
    }
}

/// Slot numbers of the three maps stay below this bit, which memory would end before.
const LISTENER_BIT: u64 = 1 << 31;
const LINGER_BIT: u64 = 1 << 30;

enum Target {
    Listener(ListenerId),
    Linger(LingerId),
    Conn(ConnId),
}

fn conn_token(id: ConnId) -> Token {
    Token(id.data().as_ffi() as usize)
}

fn listener_token(id: ListenerId) -> Token {
    Token((id.data().as_ffi() | LISTENER_BIT) as usize)
}

fn linger_token(id: LingerId) -> Token {
    Token((id.data().as_ffi() | LINGER_BIT) as usize)
}

fn target(token: Token) -> Target {
    let data = token.0 as u64;
    let key = KeyData::from_ffi(data & !(LISTENER_BIT | LINGER_BIT));
    match data {
        data if data & LISTENER_BIT != 0 => Target::Listener(key.into()),
        data if data & LINGER_BIT != 0 => Target::Linger(key.into()),
        _ => Target::Conn(key.into()),
    }
}

#[cfg(not(target_pointer_width = "64"))]
compile_error!("a mio Token must hold a 64-bit key");
