// SPDX-License-Identifier: GPL-2.0-or-later

//! [`Loopback`]: a fabric inside one object, for tests, simulations and measurements.
//!
//! Both ends of each connection live in the same instance, so "the network" is a copy: a SEND is copied straight into
//! the peer's receive and an RDMA WRITE into its region when they are posted; `poll` carries out RDMA READs, in one
//! call at most as many as may be outstanding, so that READs wait here, too. The end of a connection also takes effect
//! in `poll`: to its owner, a connection never changes between two calls.
//!
//! This fabric checks everything that a fabric with a hostile peer checks. It must never be slower than the code that
//! is measured on top of it: an operation does not need hashing or, once the queues have grown, allocation.

mod conn;
mod moving;

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use slotmap::{Key, SlotMap};

use self::conn::{Conn, Failure, Phase, Read, Receive};
use super::tokens;
use super::{
    Access, CloseReason, ConnId, Event, Fabric, FabricError, ListenerId, LocalAddresses,
    MAX_SEND_HEADER, ReadLimits, Region, RegionId, RemoteAddress, Sge, Waitable, Work, WrError,
    WrId,
};
use crate::sys::{Memory, OsError};
use crate::units::{Instant, RemoteToken};

/// The limits of each connection of a [`Loopback`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoopbackConfig {
    /// Maximum number of SENDs and RDMA WRITEs that are posted and not yet reported by `poll`.
    pub send_queue: usize,
    /// Maximum number of RDMA READs that are posted and not yet carried out.
    pub read_queue: usize,
    /// Maximum number of posted receives that no message has used yet.
    pub receive_queue: usize,
    /// Maximum number of memory regions.
    pub regions: usize,
}

impl Default for LoopbackConfig {
    /// Returns 4,096 of each: more than SMB Direct asks for by default, and as many as adapters allow.
    fn default() -> Self {
        Self {
            send_queue: 4096,
            read_queue: 4096,
            receive_queue: 4096,
            regions: 64,
        }
    }
}

/// A fabric inside one object. See the [module](self).
#[derive(Debug)]
pub struct Loopback {
    config: LoopbackConfig,
    listeners: SlotMap<ListenerId, SocketAddr>,
    admitted: Arc<LocalAddresses>,
    conns: SlotMap<ConnId, Conn>,
    /// The events that the next `poll` reports first.
    ready: Vec<Event>,
    /// Connections with READs to carry out.
    reading: Vec<ConnId>,
    /// Connections whose end has to be reported.
    ending: Vec<ConnId>,
    /// Connections that were taken out.
    away: Vec<ConnId>,
    /// The events of these connections.
    held_back: Vec<Event>,
    /// Number of calls of `poll`.
    round: u64,
    next_port: u16,
}

impl Loopback {
    /// Makes a fabric without connections.
    pub fn new(config: LoopbackConfig) -> Result<Self, FabricError> {
        Ok(Self {
            config,
            listeners: SlotMap::with_key(),
            admitted: Arc::default(),
            conns: SlotMap::with_key(),
            ready: Vec::new(),
            reading: Vec::new(),
            ending: Vec::new(),
            away: Vec::new(),
            held_back: Vec::new(),
            round: 1,
            next_port: 49152,
        })
    }

    fn conn(&mut self, conn: ConnId) -> Result<&mut Conn, FabricError> {
        self.conns.get_mut(conn).ok_or(FabricError::NotConnected)
    }

    /// Returns a port in the dynamic range that no listener uses.
    fn free_port(&mut self) -> u16 {
        loop {
            let port = self.next_port;
            self.next_port = port.checked_add(1).unwrap_or(49152);
            if self
                .listeners
                .values()
                .all(|address| address.port() != port)
            {
                return port;
            }
        }
    }

    fn listener_at(&self, address: SocketAddr) -> Option<ListenerId> {
        let matches = |bound: &SocketAddr| {
            bound.port() == address.port()
                && (bound.ip() == address.ip()
                    || bound.ip().is_unspecified() && bound.is_ipv4() == address.is_ipv4())
        };
        self.listeners
            .iter()
            .find(|(_, bound)| matches(bound))
            .map(|(id, _)| id)
    }

    /// Marks one end as ended; the first reason is kept.
    fn end(&mut self, id: ConnId, reason: CloseReason) {
        if let Some(conn) = self.conns.get_mut(id) {
            if conn.ended.is_none() {
                conn.ended = Some(reason);
                self.ending.push(id);
            }
        }
    }

    /// Carries out an operation between both ends at once, and queues its completion.
    #[inline]
    fn carry_out(
        &mut self,
        id: ConnId,
        wr_id: WrId,
        work: Work,
        operation: impl FnOnce(&Conn, &mut Conn, &mut Vec<Event>) -> Result<(), Failure>,
    ) {
        let peer = self
            .conns
            .get(id)
            .map_or_else(ConnId::null, |conn| conn.peer);
        let outcome = match self.conns.get_disjoint_mut([id, peer]) {
            Some([conn, peer]) if conn.ended.is_none() && peer.ended.is_none() => {
                operation(conn, peer, &mut self.ready)
            }
            _ => {
                let result = Err(WrError::Flushed);
                self.ready.push(Event::Completion {
                    conn: id,
                    wr_id,
                    work,
                    result,
                });
                return;
            }
        };
        let result = outcome
            .as_ref()
            .err()
            .map_or(Ok(()), |failure| Err(failure.result));
        self.ready.push(Event::Completion {
            conn: id,
            wr_id,
            work,
            result,
        });
        if let Err(failure) = outcome {
            self.end(id, failure.reason.clone());
            self.end(peer, failure.reason);
        }
    }

    /// Carries out as many READs of a connection as may be outstanding; returns whether some are
    /// left.
    fn run_reads(&mut self, id: ConnId) -> bool {
        let Some(conn) = self.conns.get(id) else {
            return false;
        };
        for _ in 0..conn.limits.initiator_depth {
            match self.conns.get_mut(id) {
                Some(conn) if conn.ended.is_none() => match conn.reads.pop_front() {
                    Some(read) => self.carry_out(id, read.wr_id, Work::Read, |conn, peer, _| {
                        conn.read(peer, &read)
                    }),
                    None => return false,
                },
                _ => return false,
            }
        }
        self.conns
            .get(id)
            .is_some_and(|conn| !conn.reads.is_empty() && conn.ended.is_none())
    }

    /// Flushes posted work and reports the end of a connection.
    fn report_end(&mut self, id: ConnId) {
        let Some(conn) = self.conns.remove(id) else {
            return;
        };
        let mut flush = |wr_id, work| {
            self.ready.push(Event::Completion {
                conn: id,
                wr_id,
                work,
                result: Err(WrError::Flushed),
            });
        };
        for receive in conn.receives {
            flush(
                receive.wr_id,
                Work::Recv {
                    length: 0,
                    invalidated: None,
                },
            );
        }
        for read in conn.reads {
            flush(read.wr_id, Work::Read);
        }
        self.ready.push(Event::Closed {
            conn: id,
            reason: conn.ended.unwrap_or(CloseReason::Local),
        });
    }
}

impl Fabric for Loopback {
    fn listen(&mut self, mut address: SocketAddr) -> Result<ListenerId, FabricError> {
        if address.port() == 0 {
            address.set_port(self.free_port());
        } else if self.listeners.values().any(|bound| *bound == address) {
            return Err(FabricError::Os {
                context: format!("listen on {address}"),
                source: OsError(libc::EADDRINUSE),
            });
        }
        Ok(self.listeners.insert(address))
    }

    fn local_address(&self, listener: ListenerId) -> Option<SocketAddr> {
        self.listeners.get(listener).copied()
    }

    fn conn_local_address(&self, conn: ConnId) -> Option<SocketAddr> {
        self.conns.get(conn)?.address
    }

    fn unlisten(&mut self, listener: ListenerId) {
        if self.listeners.remove(listener).is_none() {
            return;
        }
        let requested = |conn: &Conn| conn.phase == Phase::Requested(listener);
        let unanswered: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, conn)| requested(conn))
            .map(|(id, _)| id)
            .collect();
        for conn in unanswered {
            self.reject(conn);
        }
        self.ready.retain(
            |event| !matches!(event, Event::ConnectRequest { listener: of, .. } if *of == listener),
        );
    }

    fn admit_at(&mut self, addresses: &Arc<LocalAddresses>) {
        self.admitted = Arc::clone(addresses);
    }

    fn connect(&mut self, address: SocketAddr, limits: ReadLimits) -> Result<ConnId, FabricError> {
        let conn = self.conns.insert(Conn::new(
            ConnId::null(),
            Phase::Connecting,
            limits,
            &self.config,
        ));
        let Some(listener) = self.listener_at(address) else {
            self.end(conn, CloseReason::Refused);
            return Ok(conn);
        };
        if !self.admitted.admit(address) {
            self.ready.push(Event::Refused {
                peer: SocketAddr::new(address.ip(), 0),
                reason: CloseReason::AddressNotAllowed,
            });
            self.end(conn, CloseReason::Refused);
            return Ok(conn);
        }
        let other_end = self.conns.insert(Conn::new(
            conn,
            Phase::Requested(listener),
            limits,
            &self.config,
        ));
        self.conn(conn)?.peer = other_end;
        let peer = SocketAddr::new(address.ip(), self.free_port());
        self.conn(conn)?.address = Some(peer);
        self.conn(other_end)?.address = Some(address);
        self.ready.push(Event::ConnectRequest {
            listener,
            conn: other_end,
            peer,
        });
        Ok(conn)
    }

    fn accept(&mut self, conn: ConnId, limits: ReadLimits) -> Result<(), FabricError> {
        let peer = self.conn(conn)?.peer;
        let Some([acceptor, initiator]) = self.conns.get_disjoint_mut([conn, peer]) else {
            return Err(FabricError::NotConnected);
        };
        if !matches!(acceptor.phase, Phase::Requested(_)) || acceptor.ended.is_some() {
            return Err(FabricError::NotConnected);
        }
        acceptor.limits = ReadLimits {
            responder_resources: limits
                .responder_resources
                .min(initiator.limits.initiator_depth),
            initiator_depth: limits
                .initiator_depth
                .min(initiator.limits.responder_resources),
        };
        initiator.limits = ReadLimits {
            responder_resources: acceptor.limits.initiator_depth,
            initiator_depth: acceptor.limits.responder_resources,
        };
        acceptor.phase = Phase::Established;
        initiator.phase = Phase::Established;
        self.ready.push(Event::Established {
            conn,
            limits: acceptor.limits,
        });
        self.ready.push(Event::Established {
            conn: peer,
            limits: initiator.limits,
        });
        Ok(())
    }

    fn reject(&mut self, conn: ConnId) {
        let Some(Conn {
            phase: Phase::Requested(_),
            peer,
            ..
        }) = self.conns.get(conn)
        else {
            return;
        };
        let peer = *peer;
        // The request is removed without an event, even if the initiator has given up in the meantime and its end has
        // not been reported.
        self.conns.remove(conn);
        self.end(peer, CloseReason::Refused);
    }

    fn close(&mut self, conn: ConnId) {
        let Some(Conn { phase, peer, .. }) = self.conns.get(conn) else {
            return;
        };
        let (peer, unanswered) = (*peer, matches!(phase, Phase::Requested(_)));
        self.end(conn, CloseReason::Local);
        self.end(
            peer,
            if unanswered {
                CloseReason::Refused
            } else {
                CloseReason::Peer
            },
        );
    }

    fn register(
        &mut self,
        conn: ConnId,
        memory: &Memory,
        access: Access,
    ) -> Result<Region, FabricError> {
        let conn = self.conns.get_mut(conn).ok_or(FabricError::NotConnected)?;
        conn.check_open()?;
        tokens::register(&mut conn.regions, memory, access)
    }

    fn deregister(&mut self, conn: ConnId, region: RegionId) -> Result<(), FabricError> {
        let memory = self.conn(conn)?.regions.deregister(region);
        memory.map(drop).ok_or(FabricError::LocalProtection)
    }

    fn post_recv(&mut self, conn: ConnId, wr_id: WrId, memory: Sge) -> Result<(), FabricError> {
        let limit = self.config.receive_queue;
        let conn = self.conn(conn)?;
        conn.check_open()?;
        let memory = conn.look_up(memory)?;
        if conn.receives.len() >= limit {
            return Err(FabricError::QueueFull);
        }
        conn.receives.push_back(Receive { wr_id, memory });
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
        let (limit, round) = (self.config.send_queue, self.round);
        let sender = self.conn(conn)?;
        sender.check_established()?;
        if header.len() > MAX_SEND_HEADER {
            return Err(FabricError::HeaderTooLong);
        }
        let payload = payload.map(|sge| sender.look_up(sge)).transpose()?;
        sender.take_send_slot(round, limit)?;
        self.carry_out(conn, wr_id, Work::Send, |conn, peer, ready| {
            conn.send(peer, header, payload, invalidate, ready)
        });
        Ok(())
    }

    fn post_write(
        &mut self,
        conn: ConnId,
        wr_id: WrId,
        source: Sge,
        target: RemoteAddress,
    ) -> Result<(), FabricError> {
        let (limit, round) = (self.config.send_queue, self.round);
        let writer = self.conn(conn)?;
        writer.check_established()?;
        let source = writer.look_up(source)?;
        writer.take_send_slot(round, limit)?;
        self.carry_out(conn, wr_id, Work::Write, |conn, peer, _| {
            conn.write(peer, source, target)
        });
        Ok(())
    }

    fn post_read(
        &mut self,
        conn: ConnId,
        wr_id: WrId,
        sink: Sge,
        source: RemoteAddress,
    ) -> Result<(), FabricError> {
        let limit = self.config.read_queue;
        let reader = self.conn(conn)?;
        reader.check_established()?;
        let sink = reader.look_up(sink)?;
        if reader.reads.len() >= limit {
            return Err(FabricError::QueueFull);
        }
        let first = reader.reads.is_empty();
        reader.reads.push_back(Read {
            wr_id,
            sink,
            source,
        });
        // If the two ends agreed on no READs, a posted READ waits until the connection ends.
        if first && reader.limits.initiator_depth > 0 {
            self.reading.push(conn);
        }
        Ok(())
    }

    fn poll(&mut self, _now: Instant, events: &mut Vec<Event>) -> Result<(), FabricError> {
        self.round += 1;
        let mut reading = std::mem::take(&mut self.reading);
        reading.retain(|conn| self.run_reads(*conn));
        self.reading = reading;
        let mut ending = std::mem::take(&mut self.ending);
        ending.retain(|conn| {
            let is_away = self.away.contains(conn);
            if !is_away {
                self.report_end(*conn);
            }
            is_away
        });
        self.ending = ending;
        self.hold_back();
        events.append(&mut self.ready);
        Ok(())
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let ends = self.ending.iter().any(|conn| !self.away.contains(conn));
        let idle = self.ready.is_empty() && self.reading.is_empty() && !ends;
        if idle { None } else { Some(Instant::ZERO) }
    }
}

impl Waitable for Loopback {
    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Posts 100-byte SENDs in one direction, and posts each receive again; returns how many arrived.
    fn send_many(rounds: u64) -> u64 {
        let mut fabric = Loopback::new(LoopbackConfig::default()).unwrap();
        let listener = fabric.listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = fabric.local_address(listener).unwrap();
        let client = fabric.connect(address, ReadLimits::default()).unwrap();
        let mut events = Vec::new();
        fabric.poll(Instant::ZERO, &mut events).unwrap();
        let Some(Event::ConnectRequest { conn: server, .. }) = events.pop() else {
            panic!("{events:?}")
        };
        fabric.accept(server, ReadLimits::default()).unwrap();
        let memory = Memory::zeroed(128 * 256);
        let ours = fabric.register(client, &memory, Access::Local).unwrap().id;
        let theirs = fabric.register(server, &memory, Access::Local).unwrap().id;
        let receive = |fabric: &mut Loopback, slot: u64| {
            let memory = Sge {
                region: theirs,
                offset: slot as u32 * 128,
                length: 128,
            };
            fabric.post_recv(server, WrId(slot), memory).unwrap();
        };
        (0..256).for_each(|slot| receive(&mut fabric, slot));
        let mut received = 0;
        for _ in 0..rounds {
            for slot in 0..256 {
                let payload = Sge {
                    region: ours,
                    offset: slot * 128,
                    length: 76,
                };
                fabric
                    .post_send(client, WrId(slot.into()), &[1; 24], Some(payload), None)
                    .unwrap();
            }
            events.clear();
            fabric.poll(Instant::ZERO, &mut events).unwrap();
            for event in &events {
                if let Event::Completion {
                    wr_id,
                    work: Work::Recv { length: 100, .. },
                    result: Ok(()),
                    ..
                } = event
                {
                    received += 1;
                    receive(&mut fabric, wr_id.0);
                }
            }
        }
        received
    }

    #[test]
    fn carries_sends_into_receives_that_are_posted_again() {
        assert_eq!(send_many(100), 25_600);
    }

    #[test]
    #[ignore = "a measurement: run it optimized"]
    fn carries_five_million_sends_per_second() {
        let start = std::time::Instant::now();
        let sends = send_many(40_000);
        let rate = sends as f64 / start.elapsed().as_secs_f64();
        println!("{:.1} million SENDs per second", rate / 1e6);
        assert!(rate > 5e6, "{rate}");
    }

    #[test]
    fn a_request_that_is_withdrawn_may_be_rejected_silently() {
        let mut fabric = Loopback::new(LoopbackConfig::default()).unwrap();
        let listener = fabric.listen("[::]:7".parse().unwrap()).unwrap();
        let client = fabric
            .connect("[::1]:7".parse().unwrap(), ReadLimits::default())
            .unwrap();
        let mut events = Vec::new();
        fabric.poll(Instant::ZERO, &mut events).unwrap();
        let [Event::ConnectRequest { conn: server, .. }] = events[..] else {
            panic!("{events:?}")
        };
        fabric.close(client);
        fabric.reject(server);
        let second = fabric
            .connect("[::1]:7".parse().unwrap(), ReadLimits::default())
            .unwrap();
        fabric.unlisten(listener);
        events.clear();
        fabric.poll(Instant::ZERO, &mut events).unwrap();
        let closed = |conn, reason| Event::Closed { conn, reason };
        assert_eq!(
            events,
            [
                closed(client, CloseReason::Local),
                closed(second, CloseReason::Refused)
            ]
        );
        assert_eq!(fabric.poll_timeout(), None);
    }

    #[test]
    fn the_first_reason_of_either_end_stays() {
        let mut fabric = Loopback::new(LoopbackConfig::default()).unwrap();
        fabric.listen("127.0.0.1:7".parse().unwrap()).unwrap();
        let limits = ReadLimits::default();
        let client = fabric
            .connect("127.0.0.1:7".parse().unwrap(), limits)
            .unwrap();
        let mut events = Vec::new();
        fabric.poll(Instant::ZERO, &mut events).unwrap();
        let [Event::ConnectRequest { conn: server, .. }] = events[..] else {
            panic!("{events:?}")
        };
        fabric.accept(server, limits).unwrap();
        fabric.poll(Instant::ZERO, &mut events).unwrap();
        fabric.close(client);
        fabric.close(server);
        events.clear();
        fabric.poll(Instant::ZERO, &mut events).unwrap();
        let closed = |conn, reason| Event::Closed { conn, reason };
        let expected = [
            closed(client, CloseReason::Local),
            closed(server, CloseReason::Peer),
        ];
        assert_eq!(events, expected);
    }
}
