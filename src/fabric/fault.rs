// SPDX-License-Identifier: GPL-2.0-or-later

//! [`Fault`]: adds the faults of a network, and a capture file, to any other fabric.
//!
//! Events come late, a connection is cut at a chosen operation, or a chosen completion fails. A test checks that the
//! layers above survive this. The faults are reproducible from a seed, and time is whatever the test passes to `poll`.
//! Events of the fabric below are held until they are due; faults are applied to an event when it is released. So an
//! owner may learn late that a connection has ended: until then, the work that it posts is accepted and flushed, as
//! with every fabric.
//!
//! `Fault` must never break the trait's promises: each posted request completes once, events of a connection keep their
//! order, and nothing succeeds after a failure.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::capture::Capture;
use super::forward_fabric;
use super::pcap::PcapWriter;
use super::{
    Access, CloseReason, ConnId, Event, Fabric, FabricError, ListenerId, ReadLimits, Region,
    RegionId, RemoteAddress, Sge, Waitable, Work, WrError, WrId,
};
use crate::sys::Memory;
use crate::units::{Instant, RemoteToken};

/// How a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The connection ends in an orderly way, after the operation: the peer sees [`CloseReason::Peer`].
    Close,
    /// The connection ends at once: everything not yet reported fails, here and, if the other end is in the same
    /// fabric, there too. Both ends see [`CloseReason::Injected`].
    Reset,
}

/// The faults to inject. By default there are none.
///
/// Operations and completions are numbered from 1 across all connections, so a test that tries each number in turn hits
/// every operation of both ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultPlan {
    /// The seed: the same seed gives the same faults.
    pub seed: u64,
    /// Each event is delayed by up to this much, but never comes before an earlier event of its connection.
    pub delay: Duration,
    /// The connection is cut at this operation, the n-th successful post.
    pub cut: Option<(u64, Cut)>,
    /// This completion, the n-th successful one, fails with [`WrError::Injected`] instead, and its
    /// connection ends with [`CloseReason::Injected`].
    pub fail_completion: Option<u64>,
}

/// The work that a peer does not do: see [`Fault::stall`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stall {
    /// Whether the peer takes no SENDs and no RDMA WRITEs.
    pub sends: bool,
    /// Whether the peer answers no RDMA READs.
    pub reads: bool,
}

impl Stall {
    const fn holds(self, work: Work) -> bool {
        match work {
            Work::Recv { .. } => false,
            Work::Send | Work::Write => self.sends,
            Work::Read => self.reads,
        }
    }
}

/// A fabric with faults. See the [module](self).
pub struct Fault<F> {
    inner: F,
    plan: FaultPlan,
    random: fastrand::Rng,
    conns: HashMap<ConnId, Conn>,
    /// Connections that are connecting, in the order of the calls.
    connecting: Vec<(ConnId, SocketAddr)>,
    /// Events that the owner has not been given yet, keyed by due time and then by order of arrival.
    held: BTreeMap<(Instant, u64), Event>,
    arrived: u64,
    operations: u64,
    completions: u64,
    capture: Option<Capture<Box<dyn Write + Send>>>,
    scratch: Vec<Event>,
}

/// A connection, until its owner is told that it has ended.
#[derive(Debug, Default)]
struct Conn {
    /// When the connection's latest event is released.
    last: Instant,
    /// The other end, if it is in this fabric, too.
    peer: Option<ConnId>,
    /// The listener that received the request, until it is answered.
    requested: Option<ListenerId>,
    /// The fabric below takes no more work, but the owner does not know that.
    ended: bool,
    closed_by_owner: bool,
    /// Nothing succeeds from now on.
    flushing: bool,
    /// Why the connection ends, instead of the reason that the fabric below gives.
    reason: Option<CloseReason>,
    /// Work of these kinds does not complete.
    stall: Stall,
    /// Work that was posted after the end, or that stalled. It is flushed last.
    late: Vec<(WrId, Work)>,
}

impl<F: Fabric> Fault<F> {
    /// Adds faults to the fabric `inner`.
    pub fn new(inner: F, plan: FaultPlan) -> Self {
        Self {
            inner,
            plan,
            random: fastrand::Rng::with_seed(plan.seed),
            conns: HashMap::new(),
            connecting: Vec::new(),
            held: BTreeMap::new(),
            arrived: 0,
            operations: 0,
            completions: 0,
            capture: None,
            scratch: Vec::new(),
        }
    }

    /// Returns the fabric below.
    pub const fn inner(&self) -> &F {
        &self.inner
    }

    /// Writes each operation of the connections made from now on to a capture file, as the iWARP frames that would
    /// carry it on a wire: each connection is a TCP stream with MPA's handshake, and each packet holds one FPDU with a
    /// CRC. If both ends are in this fabric, each operation is captured once. If only one end is, the peer's RDMA
    /// operations are missing, because nothing here sees them.
    ///
    /// SENDs and RDMA WRITEs are written when posted, the responses to READs when they complete,
    /// all with the time of the latest `poll`. The first error of the writer ends the capture.
    /// Fails if the header of the file cannot be written.
    pub fn capture(&mut self, writer: impl Write + Send + 'static) -> io::Result<()> {
        let writer: Box<dyn Write + Send> = Box::new(writer);
        self.capture = Some(Capture::new(PcapWriter::new(writer)?));
        Ok(())
    }

    /// Prevents SENDs, or RDMA READs, of a connection from completing until the connection ends: its owner sees a peer
    /// that takes or answers nothing.
    pub fn stall(&mut self, conn: ConnId, stall: Stall) {
        self.conns.entry(conn).or_default().stall = stall;
    }

    fn captured(
        &mut self,
        write: impl FnOnce(&mut Capture<Box<dyn Write + Send>>) -> io::Result<()>,
    ) {
        if let Some(Err(error)) = self.capture.as_mut().map(write) {
            tracing::warn!(%error, "cannot write the capture file: the capture ends here");
            self.capture = None;
        }
    }

    /// Returns the connection if it has ended in the fabric below, and its owner has neither learned of the end nor
    /// closed the connection.
    fn unknowing(&mut self, conn: ConnId) -> Option<&mut Conn> {
        self.conns
            .get_mut(&conn)
            .filter(|conn| conn.ended && !conn.closed_by_owner)
    }

    /// Posts work to the fabric below, and counts it. Returns whether the work was posted; if not, it will be flushed.
    fn post(
        &mut self,
        conn: ConnId,
        wr_id: WrId,
        work: Work,
        post: impl FnOnce(&mut F) -> Result<(), FabricError>,
    ) -> Result<bool, FabricError> {
        if let Some(conn) = self.unknowing(conn) {
            conn.late.push((wr_id, work));
            return Ok(false);
        }
        post(&mut self.inner)?;
        self.operations += 1;
        Ok(true)
    }

    /// Cuts `conn` if that is due at the latest operation.
    fn cut_if_due(&mut self, conn: ConnId) {
        let Some((_, cut)) = self.plan.cut.filter(|(at, _)| *at == self.operations) else {
            return;
        };
        self.plan.cut = None;
        let peer = self.conns.get(&conn).and_then(|conn| conn.peer);
        let ends = [Some(conn), peer.filter(|_| cut == Cut::Reset)];
        for end in ends.into_iter().flatten() {
            if let Some(end) = self.conns.get_mut(&end) {
                end.flushing |= cut == Cut::Reset;
                end.reason.get_or_insert(CloseReason::Injected);
            }
        }
        self.end(conn);
    }

    /// Ends a connection without its owner's knowledge.
    fn end(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.ended = true;
            conn.reason.get_or_insert(CloseReason::Injected);
        }
        self.inner.close(id);
    }

    /// Records what an event of the fabric below means, and when its owner will learn of it.
    fn hold(&mut self, now: Instant, event: Event) {
        let delay = u64::try_from(self.plan.delay.as_nanos()).unwrap_or(u64::MAX);
        let delay = if delay == 0 {
            0
        } else {
            self.random.u64(..=delay)
        };
        let mut due = now + Duration::from_nanos(delay);
        self.note(now, &event);
        if let Some(conn) = conn_of(&event).and_then(|conn| self.conns.get_mut(&conn)) {
            due = due.max(conn.last);
            conn.last = due;
        }
        self.arrived += 1;
        self.held.insert((due, self.arrived), event);
    }

    fn note(&mut self, now: Instant, event: &Event) {
        match event {
            Event::ConnectRequest {
                listener,
                conn,
                peer,
            } => {
                self.note_request(*listener, *conn, *peer);
            }
            Event::Established { conn, limits } => {
                self.connecting.retain(|(id, _)| id != conn);
                self.captured(|capture| capture.established(*conn, *limits));
            }
            Event::Completion {
                conn,
                wr_id,
                work,
                result,
            } => {
                let ended = (*wr_id, *work, result.is_ok());
                self.captured(|capture| capture.completed(*conn, ended));
            }
            Event::Closed { conn, .. } => {
                self.connecting.retain(|(id, _)| id != conn);
                if let Some(conn) = self.conns.get_mut(conn) {
                    conn.ended = true;
                }
                self.captured(|capture| capture.closed(*conn, now));
            }
            Event::Refused { .. } => {}
        }
    }

    /// Takes note of a request. If this fabric is connecting to the request's address, the request comes from this
    /// fabric, from the connection that has waited longest.
    fn note_request(&mut self, listener: ListenerId, id: ConnId, client: SocketAddr) {
        let address = self.inner.local_address(listener);
        let reaches = |to: &SocketAddr| {
            address.is_some_and(|at| {
                at.port() == to.port() && (at.ip() == to.ip() || at.ip().is_unspecified())
            })
        };
        let place = self.connecting.iter().position(|(_, to)| reaches(to));
        let from = place.map(|place| self.connecting.remove(place));
        let peer = from.map(|(peer, _)| peer);
        if let Some(peer) = peer.and_then(|peer| self.conns.get_mut(&peer)) {
            peer.peer = Some(id);
        }
        let requested = Some(listener);
        self.conns.insert(
            id,
            Conn {
                peer,
                requested,
                ..Conn::default()
            },
        );
        let server = from.map(|(_, to)| to).or(address);
        if let Some(server) = server {
            self.captured(|capture| {
                capture.requested(id, client, server, peer);
                Ok(())
            });
        }
    }

    /// Reports an event to the owner, with the faults that are due.
    fn let_go(&mut self, mut event: Event, events: &mut Vec<Event>) {
        match &mut event {
            Event::Completion {
                conn,
                wr_id,
                work,
                result,
            } => {
                let state = self.conns.get_mut(conn);
                if let Some(state) = state.filter(|state| state.stall.holds(*work)) {
                    state.late.push((*wr_id, *work));
                    return;
                }
                self.distort(*conn, work, result);
            }
            Event::Closed { conn, reason } => {
                if let Some(ended) = self.conns.remove(conn) {
                    events.extend(ended.late.into_iter().map(|(wr_id, work)| {
                        let result = Err(WrError::Flushed);
                        Event::Completion {
                            conn: *conn,
                            wr_id,
                            work,
                            result,
                        }
                    }));
                    if let Some(injected) = ended.reason {
                        *reason = injected;
                    }
                }
            }
            _ => {}
        }
        events.push(event);
    }

    fn distort(&mut self, conn: ConnId, work: &mut Work, result: &mut Result<(), WrError>) {
        let Some(state) = self.conns.get_mut(&conn) else {
            return;
        };
        if state.flushing {
            *result = Err(WrError::Flushed);
        } else if result.is_ok() {
            self.completions += 1;
            if self.plan.fail_completion == Some(self.completions) {
                state.flushing = true;
                *result = Err(WrError::Injected);
                self.end(conn);
            }
        }
        if let (
            Work::Recv {
                length,
                invalidated,
            },
            Err(_),
        ) = (work, result)
        {
            (*length, *invalidated) = (0, None);
        }
    }

    /// Forgets a request that was turned away: no further event names it.
    fn forget(&mut self, conn: ConnId) {
        self.conns.remove(&conn);
        self.held.retain(|_, event| conn_of(event) != Some(conn));
        self.captured(|capture| {
            capture.forget(conn);
            Ok(())
        });
    }
}

/// Returns the connection that an event is about.
const fn conn_of(event: &Event) -> Option<ConnId> {
    match event {
        Event::ConnectRequest { conn, .. }
        | Event::Established { conn, .. }
        | Event::Completion { conn, .. }
        | Event::Closed { conn, .. } => Some(*conn),
        Event::Refused { .. } => None,
    }
}

impl<F: fmt::Debug> fmt::Debug for Fault<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fault")
            .field("inner", &self.inner)
            .field("plan", &self.plan)
            .field("held", &self.held.len())
            .finish_non_exhaustive()
    }
}

impl<F: Fabric> Fabric for Fault<F> {
    forward_fabric!(self => self.inner;
        listen, local_address, conn_local_address, regions_may_be_invalidated, admit_at, moved);

    fn unlisten(&mut self, listener: ListenerId) {
        self.inner.unlisten(listener);
        let unanswered = self
            .conns
            .iter()
            .filter(|(_, conn)| conn.requested == Some(listener));
        let unanswered: Vec<ConnId> = unanswered.map(|(id, _)| *id).collect();
        for conn in unanswered {
            self.forget(conn);
        }
    }

    fn connect(&mut self, address: SocketAddr, limits: ReadLimits) -> Result<ConnId, FabricError> {
        let conn = self.inner.connect(address, limits)?;
        self.conns.insert(conn, Conn::default());
        self.connecting.push((conn, address));
        self.captured(|capture| {
            capture.connecting(conn, address, limits);
            Ok(())
        });
        Ok(conn)
    }

    fn accept(&mut self, conn: ConnId, limits: ReadLimits) -> Result<(), FabricError> {
        self.inner.accept(conn, limits)?;
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.requested = None;
        }
        self.captured(|capture| capture.accepted(conn, limits));
        Ok(())
    }

    fn reject(&mut self, conn: ConnId) {
        self.inner.reject(conn);
        if self
            .conns
            .get(&conn)
            .is_some_and(|conn| conn.requested.is_some())
        {
            self.forget(conn);
        }
    }

    fn close(&mut self, conn: ConnId) {
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.closed_by_owner = true;
        }
        self.inner.close(conn);
    }

    fn register(
        &mut self,
        conn: ConnId,
        memory: &Memory,
        access: Access,
    ) -> Result<Region, FabricError> {
        if self.unknowing(conn).is_some() {
            // A placeholder: all work that names this region is flushed.
            let remote = RemoteAddress {
                token: RemoteToken(0),
                address: 0,
            };
            return Ok(Region {
                id: RegionId(u32::MAX),
                remote,
            });
        }
        let region = self.inner.register(conn, memory, access)?;
        if let Some(capture) = &mut self.capture {
            capture.registered(conn, region, memory);
        }
        Ok(region)
    }

    fn deregister(&mut self, conn: ConnId, region: RegionId) -> Result<(), FabricError> {
        let result = self.inner.deregister(conn, region);
        if result.is_ok() {
            if let Some(capture) = &mut self.capture {
                capture.deregistered(conn, region);
            }
        } else if self.unknowing(conn).is_some() {
            return Ok(());
        }
        result
    }

    fn post_recv(&mut self, conn: ConnId, wr_id: WrId, memory: Sge) -> Result<(), FabricError> {
        let work = Work::Recv {
            length: 0,
            invalidated: None,
        };
        if self.post(conn, wr_id, work, |inner| {
            inner.post_recv(conn, wr_id, memory)
        })? {
            if let Some(capture) = &mut self.capture {
                capture.recv(conn, wr_id, memory);
            }
            self.cut_if_due(conn);
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
        let post = |inner: &mut F| inner.post_send(conn, wr_id, header, payload, invalidate);
        if self.post(conn, wr_id, Work::Send, post)? {
            self.captured(|capture| capture.send(conn, header, payload, invalidate));
            self.cut_if_due(conn);
        }
        Ok(())
    }

    fn post_write(
        &mut self,
        conn: ConnId,
        wr_id: WrId,
        source: Sge,
        target: RemoteAddress,
    ) -> Result<(), FabricError> {
        let post = |inner: &mut F| inner.post_write(conn, wr_id, source, target);
        if self.post(conn, wr_id, Work::Write, post)? {
            self.captured(|capture| capture.write(conn, wr_id, (source, target)));
            self.cut_if_due(conn);
        }
        Ok(())
    }

    fn post_read(
        &mut self,
        conn: ConnId,
        wr_id: WrId,
        sink: Sge,
        source: RemoteAddress,
    ) -> Result<(), FabricError> {
        let post = |inner: &mut F| inner.post_read(conn, wr_id, sink, source);
        if self.post(conn, wr_id, Work::Read, post)? {
            self.captured(|capture| capture.read(conn, sink, source));
            self.cut_if_due(conn);
        }
        Ok(())
    }

    fn poll(&mut self, now: Instant, events: &mut Vec<Event>) -> Result<(), FabricError> {
        if let Some(capture) = &mut self.capture {
            capture.set_time(now);
        }
        let mut arrived = std::mem::take(&mut self.scratch);
        let result = self.inner.poll(now, &mut arrived);
        for event in arrived.drain(..) {
            self.hold(now, event);
        }
        self.scratch = arrived;
        while let Some(first) = self.held.first_entry().filter(|first| first.key().0 <= now) {
            let event = first.remove();
            self.let_go(event, events);
        }
        result
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let held = self.held.first_key_value().map(|((due, _), _)| *due);
        self.inner.poll_timeout().into_iter().chain(held).min()
    }
}

impl<F: Waitable> Waitable for Fault<F> {
    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.event_fd()
    }
}
