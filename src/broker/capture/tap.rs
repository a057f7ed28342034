// SPDX-License-Identifier: GPL-2.0-or-later

//! [`Tap`]: a fabric whose operations can be captured.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::Order;
use super::conceal::{Conceal, Next};
use super::outbox::Outbox;
use crate::fabric::capture::{Capture, Edit, Joined};
use crate::fabric::pcap::{Direction, PcapWriter};
use crate::fabric::{
    Access, ConnId, Event, Fabric, FabricError, Keep, ListenerId, NotKept, ReadLimits, Reconfigure,
    Region, RegionId, RemoteAddress, Sge, SharedEpoll, Waitable, WrId, forward_fabric, iwarp,
};
use crate::sys::Memory;
use crate::transport::{Underway, ends_call};
use crate::units::{Credits, Instant, RemoteToken};
use crate::wire::{NegotiateRequest, NegotiateResponse, STATUS_SUCCESS, VERSION};

/// Time between two attempts to send the blocks that wait.
const PAUSE: Duration = Duration::from_millis(5);
/// Time that a process has to take the last blocks after the end of the capture.
const LAST: Duration = Duration::from_secs(10);

/// The comment on packets that were not on the wire, or that were there before the capture began.
const MADE_UP: &str =
    "Made up by smbdirectd from what both sides had agreed on: the capture began later.";

/// See the [module](self).
pub(in crate::broker) struct Tap<F> {
    inner: F,
    captures: Vec<Running>,
    now: Instant,
}

/// A capture that has not ended, or whose last blocks are on their way.
struct Running {
    order: Arc<Order>,
    /// The number of the interface.
    interface: u32,
    capture: Capture<Outbox>,
    /// The capture has ended; its blocks are given up at this time.
    until: Option<Instant>,
}

impl Running {
    /// Adds an operation, unless the capture has ended.
    fn add(&mut self, now: Instant, add: impl FnOnce(&mut Capture<Outbox>) -> io::Result<()>) {
        if self.until.is_some() {
            return;
        }
        // The outbox never fails, so this is an operation that cannot be shown as iWARP.
        if let Err(error) = add(&mut self.capture) {
            self.finish(now, &format!("An operation cannot be shown: {error}."));
        }
    }

    fn finish(&mut self, now: Instant, reason: &str) {
        if self.until.is_none() {
            self.until = Some(now + LAST);
            let at = self.order.epoch + Duration::from_nanos(now.as_nanos());
            let outbox = self.capture.writer_mut();
            outbox.finish(self.interface, reason, at);
        }
    }

    /// Sends what waits, and returns whether the capture goes on.
    fn deliver(&mut self, now: Instant) -> bool {
        // The process learns why there is nothing more, instead of waiting for what cannot come.
        if let Err(error) = self.capture.writer_mut().deliver() {
            self.finish(now, &format!("The capture cannot go on: {error}."));
        }
        let outbox = self.capture.writer();
        let is_over = self
            .until
            .is_some_and(|until| until <= now || outbox.is_empty());
        !outbox.is_closed() && !is_over
    }

    fn edit(&self, from_client: Next, from_server: Next) -> Edit {
        let mut conceal = Conceal::new(self.order.shown, from_client, from_server);
        Box::new(move |direction, message| conceal.edit(direction, message))
    }

    /// Adds an event of the fabric; `local` returns this side's address of a connection.
    fn event(
        &mut self,
        now: Instant,
        event: &Event,
        local: impl FnOnce(ConnId) -> Option<SocketAddr>,
    ) {
        match event {
            Event::ConnectRequest { conn, peer, .. } => {
                // A single connection exists when its capture begins.
                if self.order.target.port.is_none() && self.order.target.admits(*peer) {
                    let (client, server) = addresses(*peer, local(*conn));
                    let edit = self.edit(Next::Negotiation, Next::Negotiation);
                    self.add(now, |capture| {
                        capture.requested(*conn, client, server, None);
                        capture.set_edit(*conn, edit);
                        Ok(())
                    });
                }
            }
            Event::Established { conn, limits } => {
                self.add(now, |capture| capture.established(*conn, *limits));
            }
            Event::Completion {
                conn,
                wr_id,
                work,
                result,
            } => {
                let ended = (*wr_id, *work, result.is_ok());
                self.add(now, |capture| capture.completed(*conn, ended));
            }
            Event::Closed { conn, reason } if self.capture.has(*conn) => {
                self.add(now, |capture| capture.closed(*conn, now));
                if self.order.target.port.is_some() {
                    self.finish(now, &format!("The connection has ended: {reason}."));
                }
            }
            Event::Closed { .. } | Event::Refused { .. } => {}
        }
    }
}

/// Returns the addresses of a connection, both of one family.
fn addresses(client: SocketAddr, server: Option<SocketAddr>) -> (SocketAddr, SocketAddr) {
    let canonical =
        |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let client = canonical(client);
    let server = server.map(canonical);
    let server = server.filter(|server| server.is_ipv4() == client.is_ipv4());
    // The fabric may not say which address the server has.
    let unknown = SocketAddr::new(
        match client {
            SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        },
        0,
    );
    (client, server.unwrap_or(unknown))
}

/// Returns messages with which a client and this side would have agreed on what they did agree on.
fn negotiation(underway: &Underway) -> Vec<(Direction, Vec<u8>)> {
    let status = &underway.status;
    let Some(agreed) = status.negotiated else {
        return Vec::new();
    };
    let at_least_one = |credits: Credits| credits.max(Credits(1));
    let request = NegotiateRequest {
        min_version: VERSION,
        max_version: VERSION,
        credits_requested: at_least_one(status.receive_credits),
        preferred_send_size: agreed.max_receive_size,
        max_receive_size: agreed.max_send_size,
        max_fragmented_size: agreed.max_fragmented_send_size,
    };
    let response = NegotiateResponse {
        min_version: VERSION,
        max_version: VERSION,
        negotiated_version: VERSION,
        credits_requested: at_least_one(status.send_credits),
        credits_granted: at_least_one(status.receive_credits),
        status: STATUS_SUCCESS,
        max_read_write_size: agreed.max_read_write_size,
        preferred_send_size: agreed.max_send_size,
        max_receive_size: agreed.max_receive_size,
        max_fragmented_size: agreed.max_fragmented_receive_size,
    };
    vec![
        (Direction::ToServer, request.emit().to_vec()),
        (Direction::ToClient, response.emit().to_vec()),
    ]
}

impl<F: Fabric> Tap<F> {
    pub(in crate::broker) const fn new(inner: F) -> Self {
        Self {
            inner,
            captures: Vec::new(),
            now: Instant::ZERO,
        }
    }

    /// Begins a capture with the connections that are under way, if there is anything to capture.
    pub(in crate::broker) fn begin(
        &mut self,
        order: Arc<Order>,
        interface: u32,
        now: Instant,
        underway: Vec<Underway>,
    ) {
        if order.target.port.is_some() && underway.is_empty() {
            return;
        }
        let outbox = Outbox::new(Arc::clone(&order.socket));
        let pcap = PcapWriter::blocks(outbox, interface, order.epoch);
        let mut running = Running {
            capture: Capture::new(pcap).limit(order.shown, ends_call),
            order,
            interface,
            until: None,
        };
        self.now = now;
        running.capture.set_time(now);
        for found in underway {
            let next = |is_within| match found.status.negotiated {
                _ if is_within => Next::unseen(),
                Some(_) => Next::Start,
                None => Next::Negotiation,
            };
            let from_client = match found.status.negotiated {
                // The request has come, and the response has not been sent.
                None if found.has_heard => Next::Start,
                _ => next(found.is_receiving),
            };
            let edit = running.edit(from_client, next(found.is_sending));
            let messages = negotiation(&found);
            let local = self.inner.conn_local_address(found.conn);
            let (client, server) = addresses(found.status.peer, local);
            let joined = Joined {
                client,
                server,
                limits: found.status.limits,
                regions: found.regions,
                receives: found.receives,
                reads: found.reads,
                edit,
            };
            running.add(now, |capture| {
                capture.join(found.conn, joined, &messages, MADE_UP)
            });
        }
        self.captures.push(running);
    }

    /// Ends the capture of a process that has detached.
    pub(in crate::broker) fn end(&mut self, process: u32, now: Instant) {
        for running in &mut self.captures {
            if running.order.process == process {
                running.finish(now, "The capture was ended.");
            }
        }
    }

    /// Adds an operation to all captures.
    #[inline]
    fn note(&mut self, add: impl FnMut(&mut Capture<Outbox>) -> io::Result<()>) {
        if !self.captures.is_empty() {
            self.add(add);
        }
    }

    #[cold]
    fn add(&mut self, mut add: impl FnMut(&mut Capture<Outbox>) -> io::Result<()>) {
        for running in &mut self.captures {
            running.add(self.now, &mut add);
        }
    }

    /// Adds what happened to all captures, and sends what waits.
    #[cold]
    fn observe(&mut self, now: Instant, events: &[Event]) {
        let Self {
            inner, captures, ..
        } = self;
        for running in captures.iter_mut() {
            running.capture.set_time(now);
            for event in events {
                running.event(now, event, |conn| inner.conn_local_address(conn));
            }
        }
        captures.retain_mut(|running| running.deliver(now));
    }
}

impl<F: fmt::Debug> fmt::Debug for Tap<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tap")
            .field("inner", &self.inner)
            .field("captures", &self.captures.len())
            .finish_non_exhaustive()
    }
}

impl<F: Fabric> Fabric for Tap<F> {
    forward_fabric!(self => self.inner;
        listen, local_address, conn_local_address, regions_may_be_invalidated, unlisten, admit_at, connect, close,
        moved);

    fn accept(&mut self, conn: ConnId, limits: ReadLimits) -> Result<(), FabricError> {
        self.inner.accept(conn, limits)?;
        self.note(|capture| capture.accepted(conn, limits));
        Ok(())
    }

    fn reject(&mut self, conn: ConnId) {
        self.inner.reject(conn);
        self.note(|capture| {
            capture.forget(conn);
            Ok(())
        });
    }

    fn register(
        &mut self,
        conn: ConnId,
        memory: &Memory,
        access: Access,
    ) -> Result<Region, FabricError> {
        let region = self.inner.register(conn, memory, access)?;
        self.note(|capture| {
            capture.registered(conn, region, memory);
            Ok(())
        });
        Ok(region)
    }

    fn deregister(&mut self, conn: ConnId, region: RegionId) -> Result<(), FabricError> {
        self.inner.deregister(conn, region)?;
        self.note(|capture| {
            capture.deregistered(conn, region);
            Ok(())
        });
        Ok(())
    }

    #[inline]
    fn post_recv(&mut self, conn: ConnId, wr_id: WrId, memory: Sge) -> Result<(), FabricError> {
        self.inner.post_recv(conn, wr_id, memory)?;
        self.note(|capture| {
            capture.recv(conn, wr_id, memory);
            Ok(())
        });
        Ok(())
    }

    #[inline]
    fn post_send(
        &mut self,
        conn: ConnId,
        wr_id: WrId,
        header: &[u8],
        payload: Option<Sge>,
        invalidate: Option<RemoteToken>,
    ) -> Result<(), FabricError> {
        self.inner
            .post_send(conn, wr_id, header, payload, invalidate)?;
        self.note(|capture| capture.send(conn, header, payload, invalidate));
        Ok(())
    }

    #[inline]
    fn post_write(
        &mut self,
        conn: ConnId,
        wr_id: WrId,
        source: Sge,
        target: RemoteAddress,
    ) -> Result<(), FabricError> {
        self.inner.post_write(conn, wr_id, source, target)?;
        self.note(|capture| capture.write(conn, wr_id, (source, target)));
        Ok(())
    }

    #[inline]
    fn post_read(
        &mut self,
        conn: ConnId,
        wr_id: WrId,
        sink: Sge,
        source: RemoteAddress,
    ) -> Result<(), FabricError> {
        self.inner.post_read(conn, wr_id, sink, source)?;
        self.note(|capture| capture.read(conn, sink, source));
        Ok(())
    }

    #[inline]
    fn poll(&mut self, now: Instant, events: &mut Vec<Event>) -> Result<(), FabricError> {
        let before = events.len();
        let result = self.inner.poll(now, events);
        if !self.captures.is_empty() {
            self.now = now;
            self.observe(now, events.get(before..).unwrap_or_default());
        }
        result
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let mut captures = self.captures.iter();
        let waits = captures.any(|running| !running.capture.writer().is_empty());
        let due = waits.then(|| self.now + PAUSE);
        self.inner.poll_timeout().into_iter().chain(due).min()
    }
}

impl<F: Waitable> Waitable for Tap<F> {
    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.event_fd()
    }
}

impl<F: Reconfigure> Reconfigure for Tap<F> {
    fn set_config(&mut self, config: &iwarp::Config) {
        self.inner.set_config(config);
    }
}

impl<F: Keep> Keep for Tap<F> {
    fn may_keep(&self, conn: ConnId) -> bool {
        self.inner.may_keep(conn)
    }

    fn keep(&self, conn: ConnId) -> Option<(iwarp::KeptConn, BorrowedFd<'_>)> {
        self.inner.keep(conn)
    }

    fn adopt(
        &mut self,
        kept: iwarp::KeptConn,
        descriptor: OwnedFd,
        memory: &mut dyn FnMut(RegionId) -> Option<Memory>,
    ) -> Result<ConnId, NotKept> {
        self.inner.adopt(kept, descriptor, memory)
    }

    fn listener(&self, listener: ListenerId) -> Option<BorrowedFd<'_>> {
        self.inner.listener(listener)
    }

    fn adopt_listener(&mut self, descriptor: OwnedFd) -> Result<ListenerId, FabricError> {
        self.inner.adopt_listener(descriptor)
    }

    fn end_at_once(&mut self, conn: ConnId) {
        self.inner.end_at_once(conn);
    }

    fn take_events(&mut self, events: &mut Vec<Event>) {
        let before = events.len();
        self.inner.take_events(events);
        if !self.captures.is_empty() {
            self.observe(self.now, events.get(before..).unwrap_or_default());
        }
    }
}

impl<F: SharedEpoll> SharedEpoll for Tap<F> {
    fn registry(&self) -> &mio::Registry {
        self.inner.registry()
    }

    fn wait(&mut self, time: Option<Duration>) -> Result<(), FabricError> {
        self.inner.wait(time)
    }

    fn ready(&mut self, keys: &mut Vec<u64>) {
        self.inner.ready(keys);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::Ipv4Addr;

    use super::super::Target;
    use super::*;
    use crate::fabric::pcapng::Statistics;
    use crate::sys::SeqSocket;

    #[test]
    fn a_capture_that_cannot_be_sent_ends_and_says_why() {
        let (ours, theirs) = SeqSocket::pair().unwrap();
        rustix::net::sockopt::set_socket_send_buffer_size(&ours, 1).unwrap();
        let socket = Arc::new(ours);
        let outbox = Outbox::new(Arc::clone(&socket));
        let mut running = Running {
            capture: Capture::new(PcapWriter::blocks(outbox, 0, Duration::ZERO)),
            order: Arc::new(Order {
                process: 1,
                target: Target {
                    address: Ipv4Addr::LOCALHOST.into(),
                    port: None,
                },
                shown: 128,
                epoch: Duration::ZERO,
                socket,
            }),
            interface: 0,
            until: None,
        };
        let block = [0; 10_000];
        running.capture.writer_mut().write_all(&block).unwrap();
        let now = Instant::ZERO;
        assert!(running.deliver(now), "the last block is still to come");
        assert!(!running.deliver(now));
        let mut buffer = [0; 1000];
        let received = theirs.receive(&mut buffer).unwrap();
        let found: Vec<Statistics> = Statistics::all_in(&buffer[..received.length]).collect();
        assert_eq!((found.len(), found[0].dropped), (1, 1));
        let why = "no message of 10000 bytes (sysctl net.core.wmem_default)";
        assert!(found[0].comment.contains(why), "{}", found[0].comment);
    }
}
