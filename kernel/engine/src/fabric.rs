// SPDX-License-Identifier: GPL-2.0-or-later

//! [`Kernel`]: the fabric of RDMA devices, through `ib_verbs` and `rdma_cm`.
//!
//! ```text
//!   requested -> Requested --accept--> Accepting -> Established --close--> Draining --> Ending --CLOSED--> gone
//!                    '-- reject, or the peer or the device ends it ---------------------^
//! ```
//!
//! - Local work uses the key of the protection domain, so registering memory only maps it for DMA. Only the sink of an
//!   iWARP READ is registered, in C, and only for that READ.
//! - Work of one kind completes in the order of posting, so posted work is remembered by kind. If the queue pair
//!   refuses work, the device never reports that work; it is flushed when the connection has ended.
//! - If memory is deregistered while posted work uses it, the memory stays mapped until that work has ended, because
//!   nothing can keep a device from using it.
//! - `CLOSED` comes when no work is posted. Only then does the connection's owner learn of its end.
//! - Each shard has a fabric of its own. A connection that moves gets a new number, which its events carry from then
//!   on; all events that carry the old number have been handled, because [`poll`](Fabric::poll) handles all that it takes.

use alloc::collections::{BTreeSet, VecDeque};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use core::time::Duration;

use slotmap::{Key, KeyData, SlotMap};
use smbdirect::fabric::iwarp::mpa::LegacyReadDepths;
use smbdirect::fabric::{
    Access, CloseReason, ConnId, Event, Fabric, FabricError, ListenerId, LocalAddresses, Movable,
    Outcome, ReadLimits, Region, RegionId, RemoteAddress, Sge, WcStatus, Work, WrError, WrId,
};
use smbdirect::sys::{Memory, OsError};
use smbdirect::units::{Instant, RemoteToken};

use crate::ffi::{self, Conn as Raw, Errno, Events, FileRef, Map, down, kind};

/// How long a connection may take to be established.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long posted work may take to go out after `close`.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait for an event that says why work was flushed.
const EXPLANATION: Duration = Duration::from_secs(1);
/// Maximum number of mappings of a connection.
const MOST_REGIONS: usize = 64;
/// Maximum number of events that are taken from C at a time.
const BATCH: usize = 16;
/// Maximum number of batches in one poll, so that other work gets its turn.
const MOST_BATCHES: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Requested,
    Accepting,
    Established,
    Draining,
    /// C has been told to end the connection.
    Ending,
}

/// The kinds of work, by their numbers in C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
enum Kind {
    Recv,
    Send,
    Write,
    Read,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Recv, Self::Send, Self::Write, Self::Read];

    const fn work(self) -> Work {
        match self {
            Self::Recv => Work::Recv {
                length: 0,
                invalidated: None,
            },
            Self::Send => Work::Send,
            Self::Write => Work::Write,
            Self::Read => Work::Read,
        }
    }
}

/// Memory that is mapped for a connection.
#[derive(Debug)]
struct Mapped {
    map: Map,
    /// Number of posted operations that use the memory.
    users: u32,
    /// The memory has been deregistered.
    is_gone: bool,
}

/// Work that is posted, and the number of the memory that it uses.
type Posted = (WrId, Option<usize>);

#[derive(Clone, Copy, Debug)]
struct WaitingRead {
    wr_id: WrId,
    sink: Sge,
    source: RemoteAddress,
}

pub(crate) struct Conn {
    /// Stands before `raw`, so that mappings are dropped before their connection.
    regions: Vec<Option<Mapped>>,
    raw: Raw,
    local: SocketAddr,
    /// The peer's depths, from its point of view.
    peer: ReadLimits,
    /// The peer also stated its depths in private data, so the answer states ours there, too.
    is_legacy: bool,
    depths: ffi::Depths,
    limits: ReadLimits,
    stage: Stage,
    deadline: Option<Instant>,
    reason: Option<CloseReason>,
    /// Work was flushed or refused, and an event that says why will follow.
    is_suspect: bool,
    was_rejected: bool,
    posted: [VecDeque<Posted>; 4],
    waiting_reads: VecDeque<WaitingRead>,
    reads_under_way: u32,
}

impl fmt::Debug for Conn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conn")
            .field("local", &self.local)
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}

impl Conn {
    fn new(raw: Raw, request: &ffi::Request, depths: ffi::Depths) -> Self {
        let legacy = match request.is_iwarp {
            0 => None,
            _ => LegacyReadDepths::parse(request.private_data()),
        };
        let least = |depth: u8, named: Option<u32>| {
            let named = named.map_or(u16::MAX, |named| u16::try_from(named).unwrap_or(u16::MAX));
            u16::from(depth).min(named)
        };
        // The event states the depths from this side's point of view.
        let peer = ReadLimits {
            responder_resources: least(request.initiator_depth, legacy.map(|legacy| legacy.ird)),
            initiator_depth: least(request.responder_resources, legacy.map(|legacy| legacy.ord)),
        };
        let local = address(request.local, request.local_port, request.local_scope);
        Self {
            regions: Vec::new(),
            raw,
            local,
            peer,
            is_legacy: legacy.is_some(),
            depths,
            limits: ReadLimits {
                responder_resources: 0,
                initiator_depth: 0,
            },
            stage: Stage::Requested,
            deadline: None,
            reason: None,
            is_suspect: false,
            was_rejected: false,
            posted: core::array::from_fn(|_| VecDeque::new()),
            waiting_reads: VecDeque::new(),
            reads_under_way: 0,
        }
    }

    fn count(&self, kind: Kind) -> u32 {
        self.posted[kind as usize].len() as u32
    }

    /// Returns the number of the mapped memory that contains a piece.
    fn check(&self, sge: Sge) -> Result<usize, FabricError> {
        let number = sge.region.0 as usize;
        let mapped = self.regions.get(number).and_then(Option::as_ref);
        let mapped = mapped.filter(|mapped| !mapped.is_gone);
        let mapped = mapped.ok_or(FabricError::LocalProtection)?;
        match u64::from(sge.offset) + u64::from(sge.length) <= mapped.map.length() {
            true => Ok(number),
            false => Err(FabricError::LocalProtection),
        }
    }

    /// Returns a piece in C's terms. The piece has been checked.
    fn piece(&self, sge: Sge) -> Option<(&Map, u32, u32)> {
        let mapped = self.regions.get(sge.region.0 as usize)?.as_ref()?;
        Some((&mapped.map, sge.offset, sge.length))
    }

    /// Remembers work that was posted or that the queue pair refused.
    fn remember(
        &mut self,
        kind: Kind,
        wr_id: WrId,
        region: Option<usize>,
        posted: Result<(), Errno>,
    ) {
        if posted.is_err() {
            self.is_suspect = true;
        }
        if let Some(Some(mapped)) = region.and_then(|number| self.regions.get_mut(number)) {
            mapped.users += 1;
        }
        self.posted[kind as usize].push_back((wr_id, region));
    }

    /// Takes the oldest work of a kind. That work has ended.
    fn take(&mut self, kind: Kind) -> Option<WrId> {
        let (wr_id, region) = self.posted[kind as usize].pop_front()?;
        let place = region.and_then(|number| self.regions.get_mut(number));
        if let Some(place) = place {
            if let Some(mapped) = place {
                mapped.users = mapped.users.saturating_sub(1);
            }
            place.take_if(|mapped| mapped.is_gone && mapped.users == 0);
        }
        Some(wr_id)
    }

    /// Returns whether more work can be posted. `false`: the work is only remembered, because the connection is ending.
    fn may_post(&self) -> Result<bool, FabricError> {
        match self.stage {
            // Work completes in order, and refused work never completes: nothing may be posted after it.
            Stage::Established => Ok(!self.is_suspect),
            Stage::Draining | Stage::Ending => Ok(false),
            Stage::Requested | Stage::Accepting => Err(FabricError::NotConnected),
        }
    }

    fn has_room(&self) -> Result<(), FabricError> {
        match self.count(Kind::Send) + self.count(Kind::Write) < self.depths.sends {
            true => Ok(()),
            false => Err(FabricError::QueueFull),
        }
    }

    /// Posts waiting RDMA READs, as many as may be outstanding.
    fn post_reads(&mut self) {
        let depth = u32::from(self.limits.initiator_depth).min(self.depths.reads);
        while self.stage == Stage::Established && !self.is_suspect && self.reads_under_way < depth {
            let Some(read) = self.waiting_reads.front().copied() else {
                return;
            };
            let Ok(number) = self.check(read.sink) else {
                self.reason = Some(CloseReason::LocalProtection);
                return;
            };
            let Some(piece) = self.piece(read.sink) else {
                return;
            };
            let posted = self
                .raw
                .post_rdma(true, piece, read.source.address, read.source.token.0);
            if posted == Err(ffi::EAGAIN) {
                return;
            }
            self.waiting_reads.pop_front();
            self.reads_under_way += 1;
            self.remember(Kind::Read, read.wr_id, Some(number), posted);
        }
    }

    /// Turns a completion into an event. The first failure is the reason for the end; everything after it is flushed.
    fn complete(&mut self, id: ConnId, event: &ffi::Event) -> Option<Event> {
        let kind = Kind::ALL.get(event.work as usize).copied()?;
        let wr_id = self.take(kind)?;
        if kind == Kind::Read {
            self.reads_under_way = self.reads_under_way.saturating_sub(1);
        }
        let mut work = kind.work();
        let outcome = match self.reason {
            None => WcStatus(event.status.unsigned_abs()).outcome(&work),
            Some(_) => Outcome::Flushed,
        };
        let result = match outcome {
            Outcome::Success => {
                if let Work::Recv {
                    length,
                    invalidated,
                } = &mut work
                {
                    *length = event.length;
                    *invalidated = (event.has_token != 0).then_some(RemoteToken(event.token));
                }
                Ok(())
            }
            Outcome::Flushed => {
                self.is_suspect = true;
                Err(WrError::Flushed)
            }
            Outcome::Failed(error, reason) => {
                self.reason = Some(reason);
                Err(error)
            }
        };
        Some(Event::Completion {
            conn: id,
            wr_id,
            work,
            result,
        })
    }

    /// Takes the next work that will no longer complete.
    fn flush(&mut self, id: ConnId) -> Option<Event> {
        let (kind, wr_id) = Kind::ALL
            .into_iter()
            .find_map(|kind| {
                let wr_id = self.take(kind)?;
                Some((kind, wr_id))
            })
            .or_else(|| {
                let read = self.waiting_reads.pop_front()?;
                Some((Kind::Read, read.wr_id))
            })?;
        Some(Event::Completion {
            conn: id,
            wr_id,
            work: kind.work(),
            result: Err(WrError::Flushed),
        })
    }

    /// Tells C to end the connection. The first reason counts.
    fn end(&mut self, reason: CloseReason) {
        self.reason.get_or_insert(reason);
        if self.stage != Stage::Ending {
            self.stage = Stage::Ending;
            self.deadline = None;
            self.raw.close();
        }
    }
}

/// See the [module](self).
pub(crate) struct Kernel {
    /// Stands before `shard`, so that connections are dropped before the shard.
    conns: SlotMap<ConnId, Conn>,
    listeners: SlotMap<ListenerId, SocketAddr>,
    admitted: Arc<LocalAddresses>,
    /// Connections that may have work to do.
    work: Vec<ConnId>,
    deadlines: BTreeSet<(Instant, ConnId)>,
    now: Instant,
    shard: Arc<Events>,
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel")
            .field("connections", &self.conns.len())
            .finish_non_exhaustive()
    }
}

fn address(ip: [u8; 16], port: u16, scope_id: u32) -> SocketAddr {
    let ip = Ipv6Addr::from(ip);
    match ip.to_ipv4_mapped() {
        Some(ip) => SocketAddr::new(IpAddr::V4(ip), port),
        None => SocketAddrV6::new(ip, port, 0, scope_id).into(),
    }
}

fn os(context: &str, errno: Errno) -> FabricError {
    FabricError::Os {
        context: String::from(context),
        source: OsError(errno),
    }
}

fn of_errno(errno: Errno) -> CloseReason {
    match errno {
        ffi::ECONNREFUSED => CloseReason::Refused,
        ffi::ECONNRESET | ffi::ECONNABORTED | ffi::EPIPE => CloseReason::Reset,
        ffi::ETIMEDOUT => CloseReason::ConnectTimeout,
        ffi::ENODEV => CloseReason::DeviceGone,
        errno => CloseReason::Os(errno),
    }
}

impl Kernel {
    /// Makes the fabric of a shard.
    pub(crate) fn new(shard: Arc<Events>) -> Self {
        Self {
            conns: SlotMap::with_key(),
            listeners: SlotMap::with_key(),
            admitted: Arc::default(),
            work: Vec::new(),
            deadlines: BTreeSet::new(),
            now: Instant::ZERO,
            shard,
        }
    }

    /// Makes the completions of a connection wake this process from now on.
    pub(crate) fn own(&self, conn: ConnId, file: &FileRef) {
        if let Some(conn) = self.conns.get(conn) {
            conn.raw.own(Some(file));
        }
    }

    /// Makes the completions of these connections wake no process from now on.
    pub(crate) fn disown(&self, conns: impl IntoIterator<Item = ConnId>) {
        for conn in conns {
            if let Some(conn) = self.conns.get(conn) {
                conn.raw.own(None);
            }
        }
    }

    fn requested(&mut self, event: &ffi::Event, events: &mut Vec<Event>) {
        let Some(raw) = event.conn() else {
            return;
        };
        let request = raw.request();
        let peer = address(request.peer, request.peer_port, request.peer_scope);
        let local = address(request.local, request.local_port, request.local_scope);
        let listener = self.listeners.keys().next();
        let refused = match listener {
            None => Some(CloseReason::Refused),
            Some(_) if !self.admitted.admit_conn(Some(local)) => {
                Some(CloseReason::AddressNotAllowed)
            }
            Some(_) => None,
        };
        let id = self
            .conns
            .insert(Conn::new(raw, &request, ffi::Depths::default()));
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let setup = match refused {
            Some(reason) => Err(reason),
            None => conn.raw.setup(id.data().as_ffi()).map_err(of_errno),
        };
        match (setup, listener) {
            (Ok(depths), Some(listener)) => {
                conn.depths = depths;
                self.work.push(id);
                events.push(Event::ConnectRequest {
                    listener,
                    conn: id,
                    peer,
                });
            }
            (Ok(_), None) => {}
            (Err(reason), _) => {
                conn.was_rejected = true;
                conn.stage = Stage::Ending;
                conn.raw.reject();
                events.push(Event::Refused { peer, reason });
            }
        }
    }

    fn establish(&mut self, id: ConnId, events: &mut Vec<Event>) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        if conn.stage != Stage::Accepting {
            return;
        }
        conn.stage = Stage::Established;
        if let Some(at) = conn.deadline.take() {
            self.deadlines.remove(&(at, id));
        }
        events.push(Event::Established {
            conn: id,
            limits: conn.limits,
        });
    }

    fn handle(&mut self, event: &ffi::Event, events: &mut Vec<Event>) {
        if event.kind == kind::REQUEST {
            return self.requested(event, events);
        }
        // Connections that could not be set up have no key.
        let id = match event.key {
            0 => self.unnamed(event),
            key => Some(ConnId::from(KeyData::from_ffi(key))),
        };
        let Some(id) = id else {
            return;
        };
        match event.kind {
            kind::ESTABLISHED => self.establish(id, events),
            kind::DONE => {
                if event.status == 0 {
                    // Data may arrive before the event that says that the peer is ready.
                    self.establish(id, events);
                }
                if let Some(conn) = self.conns.get_mut(id) {
                    events.extend(conn.complete(id, event));
                    self.work.push(id);
                }
            }
            kind::DOWN => {
                let reason = match event.status {
                    down::PEER => CloseReason::Peer,
                    down::REJECTED => CloseReason::Peer,
                    down::DEVICE => CloseReason::DeviceGone,
                    errno => of_errno(errno.saturating_neg()),
                };
                if let Some(conn) = self.conns.get_mut(id) {
                    let reason = match conn.stage {
                        // The close came first, so that is the reason, whatever has happened since.
                        Stage::Draining => CloseReason::Local,
                        _ => reason,
                    };
                    conn.end(reason);
                }
            }
            kind::CLOSED => self.closed(id, events),
            _ => {}
        }
    }

    /// Finds a connection that has no key in C.
    fn unnamed(&self, event: &ffi::Event) -> Option<ConnId> {
        let mut conns = self.conns.iter();
        let found = conns.find(|(_, conn)| event.is_of(&conn.raw))?;
        Some(found.0)
    }

    fn closed(&mut self, id: ConnId, events: &mut Vec<Event>) {
        let Some(mut conn) = self.conns.remove(id) else {
            return;
        };
        if let Some(at) = conn.deadline {
            self.deadlines.remove(&(at, id));
        }
        while let Some(event) = conn.flush(id) {
            if !conn.was_rejected {
                events.push(event);
            }
        }
        if !conn.was_rejected {
            let reason = conn.reason.take().unwrap_or(CloseReason::Local);
            events.push(Event::Closed { conn: id, reason });
        }
    }

    /// Does what is due on a connection.
    fn pump(&mut self, id: ConnId) {
        let now = self.now;
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        conn.post_reads();
        if conn.stage != Stage::Draining {
            if let Some(reason) = conn.reason.clone() {
                conn.end(reason);
            }
        }
        if conn.stage == Stage::Draining && conn.count(Kind::Send) + conn.count(Kind::Write) == 0 {
            conn.end(CloseReason::Local);
        }
        if conn.deadline.is_none() {
            conn.deadline = match conn.stage {
                Stage::Established if conn.is_suspect => Some(now + EXPLANATION),
                Stage::Established | Stage::Ending => None,
                Stage::Draining => Some(now + DRAIN_TIMEOUT),
                Stage::Requested | Stage::Accepting => Some(now + CONNECT_TIMEOUT),
            };
            self.deadlines.extend(conn.deadline.map(|at| (at, id)));
        }
    }

    fn run_deadlines(&mut self) {
        while let Some((at, id)) = self.deadlines.first().copied() {
            if at > self.now {
                return;
            }
            self.deadlines.pop_first();
            let Some(conn) = self.conns.get_mut(id) else {
                continue;
            };
            conn.deadline = None;
            match conn.stage {
                Stage::Requested | Stage::Accepting => conn.end(CloseReason::ConnectTimeout),
                Stage::Established => conn.end(CloseReason::Reset),
                Stage::Draining => conn.end(CloseReason::Local),
                Stage::Ending => {}
            }
        }
    }
}

impl Fabric for Kernel {
    /// C listens; this side only keeps the address.
    fn listen(&mut self, address: SocketAddr) -> Result<ListenerId, FabricError> {
        Ok(self.listeners.insert(address))
    }

    fn local_address(&self, listener: ListenerId) -> Option<SocketAddr> {
        self.listeners.get(listener).copied()
    }

    fn conn_local_address(&self, conn: ConnId) -> Option<SocketAddr> {
        Some(self.conns.get(conn)?.local)
    }

    fn unlisten(&mut self, listener: ListenerId) {
        self.listeners.remove(listener);
    }

    fn admit_at(&mut self, addresses: &Arc<LocalAddresses>) {
        self.admitted = Arc::clone(addresses);
        for (_, conn) in &mut self.conns {
            let is_announced = matches!(
                conn.stage,
                Stage::Established | Stage::Draining | Stage::Ending
            );
            if !is_announced && !addresses.admit_conn(Some(conn.local)) {
                conn.end(CloseReason::AddressNotAllowed);
            }
        }
    }

    /// The device only accepts connections.
    fn connect(&mut self, _: SocketAddr, _: ReadLimits) -> Result<ConnId, FabricError> {
        Err(os("connect from the kernel's device", ffi::EOPNOTSUPP))
    }

    fn accept(&mut self, id: ConnId, limits: ReadLimits) -> Result<(), FabricError> {
        let conn = self.conns.get_mut(id).ok_or(FabricError::NotConnected)?;
        if conn.stage != Stage::Requested {
            return Err(FabricError::NotConnected);
        }
        let narrow = |own: u16, most: u32, peer: u16| {
            let most = u16::try_from(most.min(255)).unwrap_or(255);
            own.min(most).min(peer)
        };
        let depths = &conn.depths;
        conn.limits = ReadLimits {
            responder_resources: narrow(
                limits.responder_resources,
                depths.responder_resources,
                conn.peer.initiator_depth,
            ),
            initiator_depth: narrow(
                limits.initiator_depth,
                depths.initiator_depth.min(depths.reads),
                conn.peer.responder_resources,
            ),
        };
        let (ird, ord) = (conn.limits.responder_resources, conn.limits.initiator_depth);
        let legacy = LegacyReadDepths {
            ird: ird.into(),
            ord: ord.into(),
        };
        let data = conn.is_legacy.then(|| legacy.emit());
        let data = data.as_ref().map_or(&[][..], |data| data);
        // Set this first: the connection manager may report at once that the connection is established.
        conn.stage = Stage::Accepting;
        if let Err(errno) = conn.raw.accept(ird, ord, data) {
            conn.end(of_errno(errno));
        }
        Ok(())
    }

    fn reject(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id) {
            conn.was_rejected = true;
            if conn.stage != Stage::Ending {
                conn.stage = Stage::Ending;
                conn.raw.reject();
            }
        }
    }

    fn close(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        match conn.stage {
            Stage::Established => {
                conn.stage = Stage::Draining;
                // The reason stays, whatever happens from now on.
                conn.reason.get_or_insert(CloseReason::Local);
                if let Some(at) = conn.deadline.take() {
                    self.deadlines.remove(&(at, id));
                }
                self.work.push(id);
            }
            Stage::Requested | Stage::Accepting => conn.end(CloseReason::Local),
            Stage::Draining | Stage::Ending => {}
        }
    }

    fn register(&mut self, id: ConnId, memory: &Memory, _: Access) -> Result<Region, FabricError> {
        let conn = self.conns.get_mut(id).ok_or(FabricError::NotConnected)?;
        let free = conn.regions.iter().position(Option::is_none);
        let number = free.unwrap_or(conn.regions.len());
        if number >= MOST_REGIONS {
            return Err(FabricError::TooManyRegions);
        }
        let map = conn.raw.map(memory);
        let map = map.map_err(|errno| os("map memory for an RDMA device", errno))?;
        let mapped = Some(Mapped {
            map,
            users: 0,
            is_gone: false,
        });
        match conn.regions.get_mut(number) {
            Some(place) => *place = mapped,
            None => conn.regions.push(mapped),
        }
        // Peers cannot name any of this memory.
        let remote = RemoteAddress {
            token: RemoteToken(0),
            address: 0,
        };
        Ok(Region {
            id: RegionId(number as u32),
            remote,
        })
    }

    fn deregister(&mut self, id: ConnId, region: RegionId) -> Result<(), FabricError> {
        let conn = self.conns.get_mut(id).ok_or(FabricError::NotConnected)?;
        let place = conn.regions.get_mut(region.0 as usize);
        let place = place.ok_or(FabricError::LocalProtection)?;
        let mapped = place.as_mut().filter(|mapped| !mapped.is_gone);
        mapped.ok_or(FabricError::LocalProtection)?.is_gone = true;
        place.take_if(|mapped| mapped.users == 0);
        Ok(())
    }

    fn post_recv(&mut self, id: ConnId, wr_id: WrId, memory: Sge) -> Result<(), FabricError> {
        let conn = self.conns.get_mut(id).ok_or(FabricError::NotConnected)?;
        let number = conn.check(memory)?;
        if conn.count(Kind::Recv) >= conn.depths.recvs {
            return Err(FabricError::QueueFull);
        }
        let piece = conn.piece(memory).ok_or(FabricError::LocalProtection)?;
        let posted = match conn.stage {
            Stage::Ending => Err(ffi::ECONNRESET),
            _ if conn.is_suspect && conn.stage != Stage::Draining => Err(ffi::ECONNRESET),
            _ => conn.raw.post_recv(piece),
        };
        conn.remember(Kind::Recv, wr_id, Some(number), posted);
        if posted.is_err() {
            self.work.push(id);
        }
        Ok(())
    }

    fn post_send(
        &mut self,
        id: ConnId,
        wr_id: WrId,
        header: &[u8],
        payload: Option<Sge>,
        invalidate: Option<RemoteToken>,
    ) -> Result<(), FabricError> {
        let conn = self.conns.get_mut(id).ok_or(FabricError::NotConnected)?;
        let number = payload.map(|sge| conn.check(sge)).transpose()?;
        conn.has_room()?;
        // A device that cannot invalidate sends a plain SEND.
        let invalidate = invalidate.filter(|_| conn.depths.sends_invalidate != 0);
        let posted = match conn.may_post()? {
            false => Err(ffi::ECONNRESET),
            true => {
                let piece = payload.and_then(|sge| conn.piece(sge));
                conn.raw
                    .post_send(header, piece, invalidate.map(|token| token.0))
            }
        };
        if posted == Err(ffi::EAGAIN) {
            return Err(FabricError::QueueFull);
        }
        conn.remember(Kind::Send, wr_id, number, posted);
        if posted.is_err() {
            self.work.push(id);
        }
        Ok(())
    }

    fn post_write(
        &mut self,
        id: ConnId,
        wr_id: WrId,
        source: Sge,
        target: RemoteAddress,
    ) -> Result<(), FabricError> {
        let conn = self.conns.get_mut(id).ok_or(FabricError::NotConnected)?;
        let number = conn.check(source)?;
        conn.has_room()?;
        let piece = conn.piece(source).ok_or(FabricError::LocalProtection)?;
        let posted = match conn.may_post()? {
            false => Err(ffi::ECONNRESET),
            true => conn
                .raw
                .post_rdma(false, piece, target.address, target.token.0),
        };
        if posted == Err(ffi::EAGAIN) {
            return Err(FabricError::QueueFull);
        }
        conn.remember(Kind::Write, wr_id, Some(number), posted);
        if posted.is_err() {
            self.work.push(id);
        }
        Ok(())
    }

    fn post_read(
        &mut self,
        id: ConnId,
        wr_id: WrId,
        sink: Sge,
        source: RemoteAddress,
    ) -> Result<(), FabricError> {
        let conn = self.conns.get_mut(id).ok_or(FabricError::NotConnected)?;
        conn.check(sink)?;
        conn.may_post()?;
        let waiting = conn.waiting_reads.len() as u32;
        if conn.count(Kind::Read) + waiting >= conn.depths.reads {
            return Err(FabricError::QueueFull);
        }
        conn.waiting_reads.push_back(WaitingRead {
            wr_id,
            sink,
            source,
        });
        conn.post_reads();
        if conn.reason.is_some() || conn.is_suspect {
            self.work.push(id);
        }
        Ok(())
    }

    fn poll(&mut self, now: Instant, events: &mut Vec<Event>) -> Result<(), FabricError> {
        self.now = now;
        let mut batch = [ffi::Event::EMPTY; BATCH];
        for _ in 0..MOST_BATCHES {
            let (count, more) = self.shard.take(&mut batch);
            for event in batch.iter().take(count) {
                self.handle(event, events);
            }
            if !more {
                break;
            }
        }
        while let Some(id) = self.work.pop() {
            self.pump(id);
        }
        self.run_deadlines();
        Ok(())
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if !self.work.is_empty() {
            return Some(Instant::ZERO);
        }
        self.deadlines.first().map(|(at, _)| *at)
    }
}

impl Movable for Kernel {
    type Moving = Conn;

    fn take(&mut self, id: ConnId) -> Option<Conn> {
        let is_up = |conn: &&Conn| conn.stage == Stage::Established;
        self.conns.get(id).filter(is_up)?;
        let mut conn = self.conns.remove(id)?;
        if let Some(at) = conn.deadline.take() {
            self.deadlines.remove(&(at, id));
        }
        conn.raw.leave();
        Some(conn)
    }

    fn put(&mut self, conn: Conn) -> ConnId {
        let id = self.conns.insert(conn);
        if let Some(conn) = self.conns.get(id) {
            conn.raw.join(&self.shard, id.data().as_ffi());
        }
        // There may be work to do, and a deadline to set again.
        self.work.push(id);
        id
    }
}
