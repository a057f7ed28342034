// SPDX-License-Identifier: GPL-2.0-or-later

//! Checks, with a plain acceptor, that the client that other tests use does what its documentation says.

use std::net::SocketAddr;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant as Clock};

use instruments::peer::{Options, Peer, Window, emit, smb2};
use smbdirect::fabric::iwarp::{self, Iwarp};
use smbdirect::fabric::{Access, ConnId, Region, Sge};
use smbdirect::proto;
use smbdirect::sys::Memory;
use smbdirect::transport::{Config, Event, HeapBuffers, Transport};
use smbdirect::units::Instant;
use smbdirect::wire::smb2::{NegotiateRequest, Request};
use smbdirect::wire::{BufferDescriptorV1, BufferDescriptors};

/// Bytes of the server's memory for messages and RDMA.
const LENGTH: usize = 1 << 20;

/// What the server does with a message: the message's first byte chooses.
mod order {
    /// Sends the message back.
    pub(crate) const ECHO: u8 = 0xfe;
    /// Reads what the first half of the descriptors names, inverts each byte, writes the result to the other half, and
    /// answers with an invalidation of the first token.
    pub(crate) const TURN: u8 = 1;
    /// Closes the connection.
    pub(crate) const CLOSE: u8 = 2;
    /// Sends no answer.
    pub(crate) const IGNORE: u8 = 3;
}

/// A server for one connection. The server ends with the connection.
struct Server {
    transport: Transport<Iwarp, HeapBuffers>,
    start: Clock,
    memory: Memory,
    region: Option<Region>,
    /// The descriptors of the client's memory to which a `TURN` writes once everything has been read.
    target: Vec<BufferDescriptorV1>,
    first: Option<BufferDescriptorV1>,
    received: Sender<Vec<u8>>,
}

/// Starts a server, and returns its address, the messages that it receives, and its thread.
fn start() -> (SocketAddr, Receiver<Vec<u8>>, JoinHandle<()>) {
    let fabric = Iwarp::new(iwarp::Config::default()).unwrap();
    let acceptor = proto::Config::default();
    let mut transport = Transport::new(fabric, HeapBuffers::new(), Config::new(acceptor, acceptor));
    let listener = transport.listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = transport.local_address(listener).unwrap();
    let (received, messages) = mpsc::channel();
    let server = Server {
        transport,
        start: Clock::now(),
        memory: Memory::zeroed(LENGTH),
        region: None,
        target: Vec::new(),
        first: None,
        received,
    };
    (address, messages, thread::spawn(|| server.run()))
}

impl Server {
    fn run(mut self) {
        let mut events = Vec::new();
        let end = Duration::from_secs(60);
        loop {
            let now = Instant::ZERO + self.start.elapsed();
            assert!(self.start.elapsed() < end, "the connection was not closed");
            self.transport.poll(now, &mut events).unwrap();
            for event in std::mem::take(&mut events) {
                match event {
                    Event::Established { conn, .. } => {
                        let access = Access::Local;
                        let region = self.transport.register(conn, &self.memory, access);
                        self.region = Some(region.unwrap());
                    }
                    Event::Message { conn, buffer, .. } => {
                        self.obey(conn, &buffer);
                        let _ = self.received.send(buffer.clone());
                        self.transport.recycle(buffer);
                    }
                    Event::Read { conn, result, .. } => {
                        result.unwrap();
                        self.write_turned(conn);
                    }
                    Event::Closed { .. } => return,
                    _ => {}
                }
            }
            self.transport.wait(now, Some(end)).unwrap();
        }
    }

    fn sge(&self, length: usize) -> Sge {
        Sge {
            region: self.region.unwrap().id,
            offset: 0,
            length: length as u32,
        }
    }

    fn obey(&mut self, conn: ConnId, message: &[u8]) {
        match message[0] {
            order::ECHO => {
                self.memory.write(0, message).unwrap();
                let sge = self.sge(message.len());
                self.transport.send(conn, 1, sge, None).unwrap();
            }
            order::TURN => {
                let all = BufferDescriptors::parse(&message[1..]).unwrap();
                let all: Vec<_> = all.iter().collect();
                let (source, target) = all.split_at(all.len() / 2);
                self.target = target.to_vec();
                self.first = source.first().copied();
                let length: u32 = source.iter().map(|piece| piece.length).sum();
                let sge = self.sge(length as usize);
                let source = source.to_vec();
                self.transport.read(conn, 2, sge, source).unwrap();
            }
            order::CLOSE => self.transport.close(conn),
            _ => {}
        }
    }

    fn write_turned(&mut self, conn: ConnId) {
        let length: u32 = self.target.iter().map(|piece| piece.length).sum();
        let bytes = self.memory.to_vec(0, length as usize).unwrap();
        let turned: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
        self.memory.write(0, &turned).unwrap();
        let sge = self.sge(turned.len());
        let target = std::mem::take(&mut self.target);
        self.transport.write(conn, 3, sge, target).unwrap();
        let token = self.first.unwrap().token;
        let sge = self.sge(1);
        self.transport.send(conn, 4, sge, Some(token)).unwrap();
    }
}

#[test]
fn its_negotiate_request_is_legal_and_names_the_client() {
    let message = smb2::negotiate_request([7; 16]);
    let (request, rest) = Request::split_first(&message).unwrap();
    assert!(rest.is_none());
    let negotiate = NegotiateRequest::parse(request).unwrap();
    assert_eq!(negotiate.client_guid(), [7; 16]);
    assert_eq!(negotiate.dialects().last(), Some(0x0311));
    let context = negotiate.contexts().next().unwrap();
    assert_eq!((context.context_type, context.data.len()), (1, 38));
}

#[test]
fn sends_and_receives_messages_of_any_length() {
    let (address, received, server) = start();
    let mut peer = Peer::connect(address);
    peer.negotiate([9; 16]);
    assert_eq!(received.recv().unwrap(), smb2::negotiate_request([9; 16]));
    assert_eq!(peer.receive(), smb2::negotiate_request([9; 16]));
    for length in [1, 1340, 1341, LENGTH] {
        let message: Vec<u8> = (0..length).map(|n| order::ECHO ^ (n % 251) as u8).collect();
        peer.send(&message);
        assert!(peer.receive() == message, "{length}");
    }
    for n in 0..20 {
        peer.queue(&[order::IGNORE, n]).unwrap();
    }
    peer.flush();
    assert_eq!(peer.receive_within(Duration::from_millis(1)), None);
    assert_eq!(peer.close().name(), "local");
    server.join().unwrap();
    let rest: Vec<_> = received.iter().skip(4).map(|message| message[1]).collect();
    assert!(rest.into_iter().eq(0..20), "in order");
}

#[test]
fn serves_rdma_over_several_descriptors_and_reports_invalidations() {
    let (address, _received, server) = start();
    let options = Options {
        crc: true,
        ..Options::default()
    };
    let mut peer = Peer::try_connect(address, options).unwrap();
    let source: Window = peer.window(LENGTH / 2 + 3, Access::RemoteRead);
    let target = peer.window(LENGTH / 2 + 3, Access::RemoteWrite);
    let content: Vec<u8> = (0..source.memory.len()).map(|n| (n % 253) as u8).collect();
    source.memory.write(0, &content).unwrap();

    let pieces = [source.descriptors(7), target.descriptors(7)].concat();
    peer.send(&[&[order::TURN], &emit(&pieces)[..]].concat());
    assert_eq!(peer.receive().len(), 1);
    peer.wait_invalidated(source.token());
    let turned: Vec<u8> = content.iter().map(|byte| !byte).collect();
    assert!(target.bytes() == turned);
    assert!(peer.take_invalidated().is_empty());
    peer.deregister(&source);
    peer.close();
    server.join().unwrap();
}

#[test]
fn learns_that_the_server_closed() {
    let (address, _received, server) = start();
    let mut peer = Peer::connect(address);
    assert!(peer.closed().is_none() && peer.status().is_some());
    peer.send(&[order::CLOSE]);
    assert_eq!(peer.wait_closed().name(), "peer");
    assert!(peer.status().is_none());
    server.join().unwrap();
}

#[test]
#[should_panic(expected = "waited for a message; connection ended: closed by the peer")]
fn does_not_wait_for_a_message_of_a_server_that_has_closed() {
    let (address, _received, _server) = start();
    let mut peer = Peer::connect(address);
    peer.send(&[order::CLOSE]);
    peer.receive();
}

#[test]
fn says_why_its_connection_was_refused() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let reason = Peer::try_connect(address, Options::default()).unwrap_err();
    assert_eq!(reason.name(), "refused");
}

#[test]
fn serves_the_server_in_a_thread_of_its_own() {
    let (address, _received, server) = start();
    let mut peer = Peer::connect(address);
    let serving = thread::spawn(move || {
        peer.send(&[order::CLOSE]);
        peer.wait_closed()
    });
    assert_eq!(serving.join().unwrap().name(), "peer");
    server.join().unwrap();
}
