// SPDX-License-Identifier: GPL-2.0-or-later

//! A client for the other end of a real TCP connection: an SMB Direct initiator on iWARP.
//!
//! A [`Peer`] runs in the thread that calls it. While a call waits, the peer also serves the server's RDMA to its
//! memory; a caller that wants this served all the time moves the peer to a thread of its own. Each wait ends after
//! [`TIMEOUT`] with a panic that says what did not come, and what did.
//!
//! ```text
//!   let mut peer = Peer::connect(address);
//!   peer.negotiate([7; 16]);                          // an SMB2 NEGOTIATE request
//!   let window = peer.window(1 << 20, Access::RemoteRead);
//!   peer.send(&request_with(&window.descriptors(4)));
//!   let response = peer.receive();
//!   peer.wait_invalidated(window.token());
//!   peer.close();
//! ```

pub mod smb2;

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant as Clock};

use smbdirect::fabric::iwarp::{self, Iwarp};
use smbdirect::fabric::{Access, ConnId, Region, Sge};
use smbdirect::proto;
use smbdirect::sys::Memory;
use smbdirect::transport::{
    CloseReason, Config, ConnStatus, Event, HeapBuffers, SendError, Transport,
};
use smbdirect::units::{Instant, RemoteToken};
use smbdirect::wire::BufferDescriptorV1;

/// How long a call waits on a busy machine.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// How a peer behaves.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What it offers in the SMB Direct negotiation.
    pub endpoint: proto::Config,
    /// Whether it asks for CRCs.
    pub crc: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            endpoint: proto::Config::initiator_default(),
            crc: false,
        }
    }
}

/// A client with one connection.
pub struct Peer {
    transport: Transport<Iwarp, HeapBuffers>,
    conn: ConnId,
    start: Clock,
    established: bool,
    closed: Option<CloseReason>,
    messages: VecDeque<Vec<u8>>,
    invalidated: Vec<RemoteToken>,
    /// Messages that are being sent, with the registered memory that holds each.
    sending: Vec<(u64, Region)>,
    cookie: u64,
}

/// Memory of a peer that the server may read or write.
pub struct Window {
    pub memory: Memory,
    pub region: Region,
}

impl Window {
    /// Returns the descriptor by which a request names all of this memory.
    pub fn descriptor(&self) -> BufferDescriptorV1 {
        let length = self.memory.len() as u32;
        self.piece(0, length)
    }

    /// Returns a descriptor of `length` bytes at `offset`.
    pub fn piece(&self, offset: u32, length: u32) -> BufferDescriptorV1 {
        BufferDescriptorV1 {
            offset: self.region.remote.address + u64::from(offset),
            token: self.region.remote.token,
            length,
        }
    }

    /// Returns descriptors of all of this memory in `count` adjacent pieces; the last piece takes the remainder.
    pub fn descriptors(&self, count: u32) -> Vec<BufferDescriptorV1> {
        let length = self.memory.len() as u32;
        let each = length / count;
        assert!(count > 0 && each > 0, "{count} pieces of {length} bytes");
        let last = count - 1;
        let mut pieces: Vec<_> = (0..last).map(|n| self.piece(n * each, each)).collect();
        pieces.push(self.piece(last * each, length - last * each));
        pieces
    }

    /// The token by which the server may invalidate it.
    pub fn token(&self) -> RemoteToken {
        self.region.remote.token
    }

    /// Returns its contents.
    pub fn bytes(&self) -> Vec<u8> {
        self.memory.to_vec(0, self.memory.len()).expect("in range")
    }
}

/// Encodes descriptors as they appear in a request ([MS-SMBD] 2.2.3.1).
pub fn emit(descriptors: &[BufferDescriptorV1]) -> Vec<u8> {
    descriptors.iter().flat_map(|piece| piece.emit()).collect()
}

impl Peer {
    /// Connects and negotiates SMB Direct.
    pub fn connect(address: SocketAddr) -> Self {
        let peer = Self::try_connect(address, Options::default());
        peer.unwrap_or_else(|reason| panic!("no connection to {address}: {reason}"))
    }

    /// Connects as [`connect`](Self::connect) does, but returns the reason if the server refuses the connection.
    pub fn try_connect(address: SocketAddr, options: Options) -> Result<Self, CloseReason> {
        let mut peer = Self::begin(address, options);
        peer.wait_established()?;
        Ok(peer)
    }

    /// Waits until SMB Direct is negotiated, or the server refuses the connection.
    pub fn wait_established(&mut self) -> Result<(), CloseReason> {
        self.drive(TIMEOUT, |peer| peer.established || peer.closed.is_some());
        self.closed.clone().map_or(Ok(()), Err)
    }

    /// Begins to connect, without waiting.
    pub fn begin(address: SocketAddr, options: Options) -> Self {
        let mut fabric = iwarp::Config {
            crc: options.crc,
            ..iwarp::Config::default()
        };
        fabric.depths.regions = 512;
        fabric.depths.recvs = usize::from(options.endpoint.receive_credit_max.0) + 1;
        let fabric = Iwarp::new(fabric).expect("a fabric");
        let config = Config::new(proto::Config::default(), options.endpoint);
        let mut transport = Transport::new(fabric, HeapBuffers::new(), config);
        let conn = transport.connect(Instant::ZERO, address);
        Self {
            conn: conn.unwrap_or_else(|error| panic!("cannot connect to {address}: {error}")),
            transport,
            start: Clock::now(),
            established: false,
            closed: None,
            messages: VecDeque::new(),
            invalidated: Vec::new(),
            sending: Vec::new(),
            cookie: 0,
        }
    }

    /// Sends an SMB2 NEGOTIATE request, by which the device finds the connection's owner.
    pub fn negotiate(&mut self, client_guid: [u8; 16]) {
        self.send(&smb2::negotiate_request(client_guid));
    }

    /// Sends one message of any bytes, and waits until the network has taken it.
    pub fn send(&mut self, message: &[u8]) {
        self.queue(message).expect("the message is taken");
        self.flush();
    }

    /// Queues one message; the next wait for anything sends it.
    pub fn queue(&mut self, message: &[u8]) -> Result<(), SendError> {
        // The server may not access it: its bytes are only sent.
        let window = self.window(message.len(), Access::Local);
        window.memory.write(0, message).expect("in range");
        self.cookie += 1;
        let sge = Sge {
            region: window.region.id,
            offset: 0,
            length: message.len() as u32,
        };
        self.transport.send(self.conn, self.cookie, sge, None)?;
        self.sending.push((self.cookie, window.region));
        Ok(())
    }

    /// Returns the number of messages that the network has not taken yet.
    pub fn unsent(&self) -> usize {
        self.sending.len()
    }

    /// Waits until all queued messages are sent.
    pub fn flush(&mut self) {
        self.wait_for("messages to be sent", |peer| {
            peer.sending.is_empty().then_some(())
        });
    }

    /// Waits for the next message.
    pub fn receive(&mut self) -> Vec<u8> {
        self.wait_for("a message", |peer| peer.messages.pop_front())
    }

    /// Waits for the next message. `None`: it did not arrive within `time`, on a live connection.
    pub fn receive_within(&mut self, time: Duration) -> Option<Vec<u8>> {
        self.drive(time, |peer| {
            !peer.messages.is_empty() || peer.closed.is_some()
        });
        self.messages.pop_front()
    }

    /// Registers zeroed memory.
    pub fn window(&mut self, length: usize, access: Access) -> Window {
        let memory = Memory::zeroed(length);
        let region = self.transport.register(self.conn, &memory, access);
        let region = region.unwrap_or_else(|error| panic!("cannot register: {error}; {self:?}"));
        Window { memory, region }
    }

    /// Ends a registration: an access by the server from now on ends the connection.
    pub fn deregister(&mut self, window: &Window) {
        let result = self.transport.deregister(self.conn, window.region.id);
        result.expect("a registered window");
    }

    /// Waits until the server has invalidated a token.
    pub fn wait_invalidated(&mut self, token: RemoteToken) {
        self.wait_for("an invalidation", |peer| {
            let at = peer.invalidated.iter().position(|found| *found == token)?;
            peer.invalidated.remove(at);
            Some(())
        });
    }

    /// Returns the tokens that the server has invalidated since the last call.
    pub fn take_invalidated(&mut self) -> Vec<RemoteToken> {
        std::mem::take(&mut self.invalidated)
    }

    /// Serves the server's RDMA until `done` holds, and returns whether it did within `time`.
    pub fn drive(&mut self, time: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now() + time;
        loop {
            self.poll();
            if done(self) {
                return true;
            }
            let now = self.now();
            if now >= end {
                return false;
            }
            self.transport
                .wait(now, Some(end - now))
                .expect("wait for the fabric");
        }
    }

    /// Closes gracefully, and waits for the end.
    pub fn close(mut self) -> CloseReason {
        self.transport.close(self.conn);
        self.wait_closed()
    }

    /// Waits until the other side ends the connection.
    pub fn wait_closed(&mut self) -> CloseReason {
        let came = self.drive(TIMEOUT, |peer| peer.closed.is_some());
        assert!(came, "still connected after {TIMEOUT:?}; {self:?}");
        self.closed.clone().expect("closed")
    }

    /// Returns why the connection ended, if it has.
    pub fn closed(&mut self) -> Option<CloseReason> {
        self.poll();
        self.closed.clone()
    }

    /// Returns the status of the connection while it lives.
    pub fn status(&self) -> Option<ConnStatus> {
        self.transport.status(self.conn)
    }

    fn wait_for<T>(&mut self, what: &str, mut found: impl FnMut(&mut Self) -> Option<T>) -> T {
        let mut result = None;
        self.drive(TIMEOUT, |peer| {
            result = found(peer);
            result.is_some() || peer.closed.is_some()
        });
        match (result, &self.closed) {
            (Some(result), _) => result,
            (None, Some(reason)) => panic!("waited for {what}; connection ended: {reason}"),
            (None, None) => panic!("waited for {what} for {TIMEOUT:?}; {self:?}"),
        }
    }

    fn now(&self) -> Instant {
        Instant::ZERO + self.start.elapsed()
    }

    fn poll(&mut self) {
        let mut events = Vec::new();
        let now = self.now();
        self.transport.poll(now, &mut events).expect("the fabric");
        for event in events {
            match event {
                Event::Established { .. } => self.established = true,
                Event::Message { buffer, length, .. } => {
                    assert_eq!(buffer.len(), length as usize);
                    self.messages.push_back(buffer.clone());
                    self.transport.recycle(buffer);
                }
                Event::Invalidated { token, .. } => self.invalidated.push(token),
                Event::Sent { cookie, .. } => self.sent(cookie),
                Event::Closed { reason, .. } => self.closed = Some(reason),
                other => panic!("unexpected event for a client: {other:?}"),
            }
        }
    }

    /// Forgets a message that was sent or given up: when the connection ends, all are given up.
    fn sent(&mut self, cookie: u64) {
        let at = self.sending.iter().position(|(sent, _)| *sent == cookie);
        let (_, region) = self.sending.remove(at.expect("a message that was queued"));
        let _ = self.transport.deregister(self.conn, region.id);
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("established", &self.established)
            .field("closed", &self.closed)
            .field("messages", &self.messages.len())
            .field("invalidated", &self.invalidated)
            .field("sending", &self.sending.len())
            .field("status", &self.status())
            .finish()
    }
}
