// SPDX-License-Identifier: GPL-2.0-or-later

//! The bridge: SMB over TCP on one side, SMB Direct on the other, for clients that speak only TCP.
//!
//! ```text
//!   client == TCP ==> Upload   -> Transport == SMB Direct on iWARP ==> server
//!   client <== TCP == Download <- Transport
//! ```
//!
//! Each client has an SMB Direct connection of its own, made when its first message arrives. Messages are opaque and
//! stay in order. The bridge does not parse SMB2, so there is no RDMA READ or WRITE: file data goes in messages. SMB1,
//! which SMB Direct cannot carry, ends a connection with a log line that says so.
//!
//! One thread does all the work. Memory is bounded on each connection, and back-pressure passes through: if a server
//! grants no credits, its client's socket is not read (`upload`); if a client does not read, its server is granted no
//! credits (`download`). The bridge must never end a connection because of what another one did, wait for a connection,
//! or hold memory that it does not need.

mod connection;
mod download;
mod framing;
mod reason;
mod statistics;
mod upload;

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant as Clock};

use mio::net::{TcpListener, TcpStream};
use mio::unix::SourceFd;
use mio::{Interest, Token};
use slotmap::{Key as _, KeyData, SlotMap};

use self::connection::{Connection, Context, Turn};
use self::download::{Buffers, Message};
pub use self::framing::MAX_MESSAGE;
pub use self::reason::BridgeError;
use self::reason::{End, failed};
pub use self::statistics::{Connections, Statistics, Traffic};
use crate::fabric::ConnId;
use crate::fabric::{AnyFabric, FabricKind, iwarp};
use crate::proto;
use crate::sys::ACCEPT_PAUSE;
use crate::transport::{self, Event, Lines, PlainHasher, Transport};
use crate::units::Instant;

const WAKER: Token = Token(usize::MAX);
const TRANSPORT: Token = Token(usize::MAX - 1);
/// Number of clients to accept from a listener before others get their turn.
const ACCEPT_BATCH: usize = 64;
/// Time within which connections must end gracefully.
const STOP_TIME: Duration = Duration::from_secs(5);
/// Maximum number of regions of a connection: the window, large messages under way, memory kept for later ones, and
/// receives.
const REGIONS: usize = 64;
slotmap::new_key_type! {
    /// A client.
    struct Key;
}

/// The configuration of a bridge.
#[derive(Clone, Debug)]
pub struct Config {
    /// The addresses to which clients connect; port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// Addresses of the server, in the order in which they are tried for each client.
    pub target: Vec<SocketAddr>,
    /// The values with which the bridge negotiates SMB Direct; `max_fragmented_size` is at most [`MAX_MESSAGE`].
    pub endpoint: proto::Config,
    /// The fabric that carries SMB Direct. With `None`, it is an RDMA device if the server is reached through one, and
    /// software otherwise.
    pub fabric: Option<FabricKind>,
    /// Whether to ask for CRCs in FPDUs.
    pub crc: bool,
    /// Maximum number of clients at a time. Further ones are closed at once.
    pub max_connections: usize,
}

impl Config {
    /// Makes the configuration of a bridge from `listen` to `target`, with the largest messages that SMB over TCP
    /// carries, received 8 KiB at a time, and 1024 clients.
    #[must_use]
    pub fn new(listen: Vec<SocketAddr>, target: Vec<SocketAddr>) -> Self {
        Self {
            listen,
            target,
            endpoint: proto::Config {
                max_send_size: 8192,
                max_receive_size: 8192,
                max_fragmented_size: MAX_MESSAGE,
                ..proto::Config::initiator_default()
            },
            fabric: None,
            crc: false,
            max_connections: 1024,
        }
    }

    fn validate(&self) -> Result<(), BridgeError> {
        self.endpoint.validate()?;
        if self.endpoint.max_fragmented_size > MAX_MESSAGE {
            return Err(BridgeError::MaxFragmentedSize);
        }
        if self.max_connections == 0 {
            return Err(BridgeError::MaxConnections);
        }
        if self.listen.is_empty() {
            return Err(BridgeError::NoListener);
        }
        if self.target.is_empty() {
            return Err(BridgeError::NoTarget);
        }
        Ok(())
    }
}

/// Ends a bridge, from any thread.
#[derive(Clone, Debug)]
pub struct Stopper {
    stop: Arc<AtomicBool>,
    waker: Arc<mio::Waker>,
}

impl Stopper {
    /// Stops accepting clients, and ends the connections gracefully, within seconds.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        // If the bridge has ended, there is nothing to wake.
        let _ = self.waker.wake();
    }
}

#[derive(Debug)]
struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    /// More clients may be waiting.
    ready: bool,
}

/// A bridge that listens. See the [module](self).
#[derive(Debug)]
pub struct Bridge {
    poll: mio::Poll,
    ready: mio::Events,
    listeners: Vec<Listener>,
    /// When to try listeners again, after the system ran out of descriptors.
    accept_again: Option<Instant>,
    max_connections: usize,
    clients: SlotMap<Key, Box<Connection>>,
    /// The client of each SMB Direct connection.
    links: HashMap<ConnId, Key, BuildHasherDefault<PlainHasher>>,
    /// Clients with something to do; each at most once.
    work: Vec<Key>,
    /// Clients that wait because too many connections are being made, once each.
    awaiting_place: VecDeque<Key>,
    /// When to look at the deadlines.
    check_at: Option<Instant>,
    context: Context,
    events: Vec<Event<Message>>,
    start: Clock,
    stopper: Stopper,
    stop_at: Option<Instant>,
    lines: Lines,
}

impl Bridge {
    /// Makes a bridge that listens, but does not accept clients yet.
    ///
    /// # Errors
    ///
    /// A value of the configuration is out of range, or the system refuses an address.
    pub fn bind(config: Config) -> Result<Self, BridgeError> {
        config.validate()?;
        let poll = mio::Poll::new().map_err(failed("cannot create an epoll instance"))?;
        let waker =
            mio::Waker::new(poll.registry(), WAKER).map_err(failed("cannot create a waker"))?;
        let mut listeners = Vec::new();
        for (number, address) in config.listen.iter().enumerate() {
            let bound = TcpListener::bind(*address).and_then(|mut socket| {
                let registry = poll.registry();
                registry.register(&mut socket, Token(number), Interest::READABLE)?;
                Ok(Listener {
                    address: socket.local_addr()?,
                    socket,
                    ready: false,
                })
            });
            listeners.push(bound.map_err(failed(format!("cannot listen on {address}")))?);
        }
        let transport = transport(&config)?;
        if let Some(fd) = transport.event_fd().map(|fd| fd.as_raw_fd()) {
            let registry = poll.registry();
            let watched = registry.register(&mut SourceFd(&fd), TRANSPORT, Interest::READABLE);
            watched.map_err(failed("cannot watch the fabric"))?;
        }
        Ok(Self {
            poll,
            ready: mio::Events::with_capacity(256),
            listeners,
            accept_again: None,
            max_connections: config.max_connections,
            clients: SlotMap::with_key(),
            links: HashMap::default(),
            work: Vec::new(),
            check_at: None,
            context: Context::new(transport, config.target),
            awaiting_place: VecDeque::new(),
            events: Vec::new(),
            start: Clock::now(),
            stopper: Stopper {
                stop: Arc::default(),
                waker: Arc::new(waker),
            },
            stop_at: None,
            lines: Lines::default(),
        })
    }

    /// Returns the addresses on which it listens, with the real ports.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let addresses = self.listeners.iter().map(|listener| listener.address);
        addresses.collect()
    }

    /// Returns a handle that ends the bridge.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Carries messages until it is stopped.
    ///
    /// # Errors
    ///
    /// The system or the fabric as a whole has failed; a single connection's failure is only logged.
    pub fn run(mut self) -> Result<Statistics, BridgeError> {
        while !self.is_over() {
            self.wait()?;
            self.now();
            if self.stopper.stop.load(Ordering::Acquire) && self.stop_at.is_none() {
                self.stop();
            }
            self.accept();
            self.turns();
            self.poll_transport()?;
            self.give_places();
            self.turns();
            self.expire();
        }
        Ok(self.context.statistics)
    }

    fn now(&mut self) {
        self.context.now = Instant::ZERO + self.start.elapsed();
    }

    fn stop(&mut self) {
        self.listeners.clear();
        for key in self.clients.keys().collect::<Vec<_>>() {
            if let Some(client) = self.clients.get_mut(key) {
                client.stop_reading(End::Stopped);
            }
            self.enqueue(key);
        }
        self.stop_at = Some(self.context.now + STOP_TIME);
    }

    fn is_over(&self) -> bool {
        let Some(stop_at) = self.stop_at else {
            return false;
        };
        let connections = self.context.transport.fabric().connections();
        let ended = connections == 0 && self.clients.is_empty();
        ended || self.context.now >= stop_at
    }

    /// Sleeps until there is something to do, and records which clients have something to do.
    fn wait(&mut self) -> Result<(), BridgeError> {
        self.now();
        let accepts = self.listeners.iter().any(|listener| listener.ready);
        let time = if !self.work.is_empty() || (accepts && self.accept_again.is_none()) {
            Some(Duration::ZERO)
        } else {
            let transport = self.context.transport.poll_timeout();
            let all = [transport, self.check_at, self.accept_again, self.stop_at];
            let next = all.into_iter().flatten().min();
            next.map(|at| at.saturating_since(self.context.now))
        };
        if time != Some(Duration::ZERO) {
            self.watch_transport()
                .map_err(failed("cannot watch the fabric"))?;
        }
        match self.poll.poll(&mut self.ready, time) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            result => result.map_err(failed("cannot wait for sockets"))?,
        }
        let ready = std::mem::replace(&mut self.ready, mio::Events::with_capacity(0));
        for event in ready.iter() {
            match event.token() {
                // Both are looked at in each round.
                WAKER | TRANSPORT => {}
                Token(number) if number < self.listeners.len() => {
                    if let Some(listener) = self.listeners.get_mut(number) {
                        listener.ready = true;
                    }
                }
                Token(number) => {
                    let key = Key::from(KeyData::from_ffi(number as u64));
                    if let Some(client) = self.clients.get_mut(key) {
                        client.ready(event);
                        self.enqueue(key);
                    }
                }
            }
        }
        self.ready = ready;
        Ok(())
    }

    /// Makes the next wait report the transport even if it was ready before, because readiness is reported only once.
    fn watch_transport(&self) -> io::Result<()> {
        let Some(fd) = self.context.transport.event_fd().map(|fd| fd.as_raw_fd()) else {
            return Ok(());
        };
        let registry = self.poll.registry();
        registry.reregister(&mut SourceFd(&fd), TRANSPORT, Interest::READABLE)
    }

    fn enqueue(&mut self, key: Key) {
        if let Some(client) = self.clients.get_mut(key) {
            if !std::mem::replace(&mut client.queued, true) {
                self.work.push(key);
            }
        }
    }

    /// Accepts clients that are waiting.
    fn accept(&mut self) {
        if self.accept_again.is_some_and(|at| at > self.context.now) {
            return;
        }
        self.accept_again = None;
        for number in 0..self.listeners.len() {
            for _ in 0..ACCEPT_BATCH {
                let Some(listener) = self.listeners.get_mut(number).filter(|it| it.ready) else {
                    break;
                };
                match listener.socket.accept() {
                    Ok((stream, peer)) => self.admit(stream, peer),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => listener.ready = false,
                    Err(error) if is_of_client(&error) => {}
                    Err(error) => {
                        tracing::warn!("cannot accept a client: {error}");
                        self.accept_again = Some(self.context.now + ACCEPT_PAUSE);
                        break;
                    }
                }
            }
        }
    }

    fn admit(&mut self, mut stream: TcpStream, peer: SocketAddr) {
        let now = self.context.now;
        let connections = &mut self.context.statistics.connections;
        if self.clients.len() >= self.max_connections {
            connections.turned_away += 1;
            if let Some(suppressed) = self.lines.admit(now) {
                let most = self.max_connections;
                let suppressed = (suppressed > 0).then_some(suppressed);
                tracing::warn!(%peer, suppressed, "turned away: {most} clients are connected already");
            }
            return;
        }
        connections.accepted += 1;
        // Neither failure is a reason to drop the client.
        let _ = stream.set_nodelay(true);
        let _ = socket2::SockRef::from(&stream).set_keepalive(true);
        let registry = self.poll.registry();
        let both = Interest::READABLE | Interest::WRITABLE;
        let added = self.clients.try_insert_with_key(|key| {
            let token = Token(key.data().as_ffi() as usize);
            registry.register(&mut stream, token, both)?;
            Ok::<_, io::Error>(Box::new(Connection::new(stream, peer, now)))
        });
        match added {
            Ok(key) => {
                self.enqueue(key);
                self.note_deadline(key);
            }
            Err(error) => tracing::warn!(%peer, "cannot watch a client: {error}"),
        }
    }

    /// Gives each client with something to do a turn.
    fn turns(&mut self) {
        for key in std::mem::take(&mut self.work) {
            let Some(client) = self.clients.get_mut(key) else {
                continue;
            };
            client.queued = false;
            let turn = client.turn(&mut self.context);
            if let Some(conn) = client.link() {
                self.links.insert(conn, key);
            }
            match turn {
                Turn::Rest => self.note_deadline(key),
                Turn::Again => self.enqueue(key),
                Turn::AwaitPlace => {
                    if !std::mem::replace(&mut client.in_line, true) {
                        self.awaiting_place.push_back(key);
                    }
                }
                Turn::Done => self.remove(key),
            }
        }
    }

    /// Wakes clients that were waiting for a connect permit.
    fn give_places(&mut self) {
        let mut places = self.context.places();
        while places > 0 {
            let Some(key) = self.awaiting_place.pop_front() else {
                return;
            };
            if let Some(client) = self.clients.get_mut(key) {
                client.in_line = false;
                places -= 1;
                self.enqueue(key);
            }
        }
    }

    fn poll_transport(&mut self) -> Result<(), BridgeError> {
        let mut events = std::mem::take(&mut self.events);
        let polled = self.context.transport.poll(self.context.now, &mut events);
        for event in events.drain(..) {
            self.handle(event);
        }
        self.events = events;
        Ok(polled?)
    }

    fn handle(&mut self, event: Event<Message>) {
        let conn = match &event {
            Event::Established { conn, .. }
            | Event::Message { conn, .. }
            | Event::Sent { conn, .. }
            | Event::Closed { conn, .. } => *conn,
            // No memory is registered for the server, and the bridge does not read or write the server's memory.
            Event::Invalidated { .. } | Event::Written { .. } | Event::Read { .. } => return,
        };
        let cx = &mut self.context;
        let Some(key) = self.links.get(&conn).copied() else {
            if let Event::Message { buffer, .. } = event {
                cx.transport.recycle(buffer);
            }
            return;
        };
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        match event {
            Event::Established { .. } => {
                cx.statistics.connections.carried += 1;
                client.established(conn, cx);
            }
            Event::Message { buffer, .. } => client.message(buffer, cx),
            Event::Sent { result, .. } => client.sent(conn, result, cx),
            Event::Closed { reason, .. } => {
                self.links.remove(&conn);
                if let Some(next) = client.closed(reason, cx) {
                    self.links.insert(next, key);
                }
            }
            Event::Invalidated { .. } | Event::Written { .. } | Event::Read { .. } => {}
        }
        self.enqueue(key);
    }

    fn note_deadline(&mut self, key: Key) {
        let deadline = self.clients.get(key).and_then(|client| client.deadline);
        self.check_at = [self.check_at, deadline].into_iter().flatten().min();
    }

    /// Looks at the deadlines, once the first of them has passed.
    fn expire(&mut self) {
        let now = self.context.now;
        if self.check_at.is_none_or(|at| at > now) {
            return;
        }
        self.check_at = None;
        for key in self.clients.keys().collect::<Vec<_>>() {
            let Some(client) = self.clients.get_mut(key) else {
                continue;
            };
            if client.deadline.is_some_and(|at| at <= now) {
                client.expire(&mut self.context);
                self.enqueue(key);
            }
            self.note_deadline(key);
        }
    }

    /// Removes a client that has gone, with its SMB Direct connection.
    fn remove(&mut self, key: Key) {
        let Some(mut client) = self.clients.remove(key) else {
            return;
        };
        client.give_up(&mut self.context);
        let _ = self.poll.registry().deregister(&mut client.stream);
        let Some(end) = client.end() else {
            return;
        };
        let is_normal = end.is_normal();
        if !is_normal {
            self.context.statistics.connections.failed += 1;
        }
        let Some(suppressed) = self.lines.admit(self.context.now) else {
            return;
        };
        let suppressed = (suppressed > 0).then_some(suppressed);
        let (peer, to_server, to_client) = (client.peer, client.to_server, client.to_client);
        let carried = format!(
            "carried {} messages ({} bytes) to the server, {} ({} bytes) to the client",
            to_server.messages, to_server.bytes, to_client.messages, to_client.bytes
        );
        if is_normal {
            tracing::info!(%peer, suppressed, "{end}; {carried}");
        } else {
            tracing::warn!(%peer, suppressed, "{end}; {carried}");
        }
    }
}

fn transport(config: &Config) -> Result<Transport<AnyFabric, Buffers>, BridgeError> {
    let mut fabric = iwarp::Config {
        crc: config.crc,
        ..iwarp::Config::default()
    };
    fabric.depths.regions = REGIONS;
    fabric.depths.recvs = usize::from(config.endpoint.receive_credit_max.0) + 1;
    let mut transport = transport::Config::new(proto::Config::default(), config.endpoint);
    // Each client has at most one connection.
    transport.max_connections = config.max_connections;
    // All addresses of one server are reached in the same way.
    let target = config.target.first().ok_or(BridgeError::NoTarget)?;
    let fabric = AnyFabric::towards(*target, config.fabric, fabric)?;
    Ok(Transport::new(fabric, Buffers::default(), transport))
}

/// Returns whether an error of `accept` concerns the connection, and not the listener (accept(2)).
fn is_of_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Interrupted | ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset
    )
}
