// SPDX-License-Identifier: GPL-2.0-or-later

//! A fabric with a well-behaved friend, and peers that are bare sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use smbdirect::fabric::iwarp::{Config, Counts, Iwarp};
use smbdirect::fabric::{
    Access, CloseReason, ConnId, Event, Fabric, ReadLimits, Region, Sge, Work, WrError, WrId,
};
use smbdirect::sys::Memory;
use smbdirect::units::Instant;

/// Descriptors are counted for the whole process, so tests run one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Longer than any expected event takes.
const PATIENCE: Duration = Duration::from_secs(30);
/// How late a busy machine may be.
pub const LATE: Duration = Duration::from_secs(10);

/// Returns a configuration with time limits that keep every test short.
pub fn quick() -> Config {
    Config {
        connect_timeout: Duration::from_millis(300),
        drain_timeout: Duration::from_millis(300),
        linger_timeout: Duration::from_millis(200),
        ..Config::default()
    }
}

/// Runs a test on IPv4 with a clock that starts at 0, and on IPv6 with a clock that has been running for a long time.
pub fn on_both(config: Config, test: impl Fn(&mut World)) {
    for (address, start) in [("127.0.0.1:0", 0), ("[::1]:0", u64::MAX / 2)] {
        let mut world = World::new(address.parse().unwrap(), config, Instant::from_nanos(start));
        test(&mut world);
        world.finish();
    }
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Memory registered with a connection of the fabric under test.
pub struct Mem {
    pub memory: Memory,
    pub region: Region,
}

impl Mem {
    pub fn sge(&self, offset: u32, length: u32) -> Sge {
        Sge {
            region: self.region.id,
            offset,
            length,
        }
    }

    pub fn token(&self) -> u32 {
        self.region.remote.token.0
    }

    pub fn address(&self) -> u64 {
        self.region.remote.address
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.memory.to_vec(0, self.memory.len()).unwrap()
    }
}

/// One end of the connection that must never notice anything.
struct Friend {
    conn: ConnId,
    region: Region,
    memory: Memory,
}

/// The fabric under test, and its friend: another fabric, connected throughout.
pub struct World {
    pub fabric: Iwarp,
    pub address: SocketAddr,
    other: Iwarp,
    /// The two ends of the friendly connection.
    friends: Option<(Friend, Friend)>,
    start: Instant,
    clock: std::time::Instant,
    /// The events that were reported, without the friend's.
    pub events: Vec<Event>,
    friendly: Vec<Event>,
    descriptors: usize,
    counts: Counts,
    echoes: u8,
    _alone: MutexGuard<'static, ()>,
}

impl World {
    pub fn new(address: SocketAddr, config: Config, start: Instant) -> Self {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fabric = Iwarp::new(config).unwrap();
        let listener = fabric.listen(address).unwrap();
        let address = fabric.local_address(listener).unwrap();
        let mut world = Self {
            fabric,
            address,
            other: Iwarp::new(config).unwrap(),
            friends: None,
            start,
            clock: std::time::Instant::now(),
            events: Vec::new(),
            friendly: Vec::new(),
            descriptors: 0,
            counts: Counts::default(),
            echoes: 0,
            _alone: alone,
        };
        world.make_friends();
        world.descriptors = descriptors();
        world.counts = world.fabric.counts();
        world
    }

    fn make_friends(&mut self) {
        let there = self
            .other
            .connect(self.address, ReadLimits::default())
            .unwrap();
        let here = self.requested();
        self.accept(here);
        let befriend = |fabric: &mut Iwarp, conn| {
            let memory = Memory::zeroed(64);
            let region = fabric.register(conn, &memory, Access::Local).unwrap();
            Friend {
                conn,
                region,
                memory,
            }
        };
        let friends = (
            befriend(&mut self.fabric, here),
            befriend(&mut self.other, there),
        );
        self.friends = Some(friends);
        self.wait("friendship", |world| {
            let established = |event: &Event| matches!(event, Event::Established { .. });
            world.friendly.iter().any(established)
        });
        self.events.clear();
        self.echo();
    }

    pub fn now(&self) -> Instant {
        self.start + self.clock.elapsed()
    }

    /// Lets both fabrics do what they can.
    pub fn poll(&mut self) {
        let now = self.now();
        let mut events = Vec::new();
        self.fabric.poll(now, &mut events).unwrap();
        let friend = self.friends.as_ref().map(|(here, _)| here.conn);
        for event in events {
            match event {
                Event::Completion { conn, .. } if Some(conn) == friend => self.friendly.push(event),
                event => self.events.push(event),
            }
        }
        self.other.poll(now, &mut self.friendly).unwrap();
    }

    pub fn wait(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let start = std::time::Instant::now();
        while !done(self) {
            let late = start.elapsed() > PATIENCE;
            assert!(!late, "no {what}: {:?}, {:?}", self.fabric, self.events);
            self.poll();
        }
    }

    /// Sends a message there and back on the friendly connection.
    pub fn echo(&mut self) {
        let (here, there) = self.friends.as_ref().unwrap();
        self.echoes = self.echoes.wrapping_add(1);
        let message = [self.echoes; 64];
        there.memory.write(0, &message).unwrap();
        here.memory.write(0, &[0; 64]).unwrap();
        let sge = |friend: &Friend| Sge {
            region: friend.region.id,
            offset: 0,
            length: 64,
        };
        let (here, there) = ((here.conn, sge(here)), (there.conn, sge(there)));
        self.friendly.clear();
        self.fabric.post_recv(here.0, WrId(1), here.1).unwrap();
        self.other
            .post_send(there.0, WrId(2), b"", Some(there.1), None)
            .unwrap();
        self.wait("message of the friend", |world| world.friend_received());
        self.friendly.clear();
        let (_, memory) = self.friends.as_ref().unwrap();
        memory.memory.write(0, &[0; 64]).unwrap();
        self.other.post_recv(there.0, WrId(3), there.1).unwrap();
        self.fabric
            .post_send(here.0, WrId(4), b"", Some(here.1), None)
            .unwrap();
        self.wait("echo to the friend", |world| world.friend_received());
        let (_, there) = self.friends.as_ref().unwrap();
        assert_eq!(there.memory.to_vec(0, 64).unwrap(), message);
    }

    fn friend_received(&self) -> bool {
        self.friendly.iter().any(|event| match event {
            Event::Completion { work, result, .. } => {
                assert_eq!(*result, Ok(()));
                matches!(work, Work::Recv { length: 64, .. })
            }
            event => panic!("the friend must not see this event: {event:?}"),
        })
    }

    /// Checks that the friend noticed nothing, and that nothing is left of other peers.
    pub fn finish(mut self) {
        self.echo();
        let (counts, before) = (self.counts, self.descriptors);
        self.wait("end of every trace", |world| {
            world.fabric.counts() == counts && descriptors() == before
        });
        self.echo();
    }
}

/// Calls for connections of the fabric under test.
impl World {
    /// Waits for a request.
    pub fn requested(&mut self) -> ConnId {
        let mut requested = None;
        self.wait("request", |world| {
            requested = world.take(|event| match event {
                Event::ConnectRequest { conn, .. } => Some(*conn),
                _ => None,
            });
            requested.is_some()
        });
        requested.unwrap()
    }

    pub fn accept(&mut self, conn: ConnId) {
        self.fabric.accept(conn, ReadLimits::default()).unwrap();
    }

    /// Waits for the end of a connection. Its flushed requests are in `events`.
    pub fn closed(&mut self, conn: ConnId) -> CloseReason {
        let mut closed = None;
        self.wait("end", |world| {
            closed = world.take(|event| match event {
                Event::Closed { conn: id, reason } if *id == conn => Some(reason.clone()),
                _ => None,
            });
            closed.is_some()
        });
        closed.unwrap()
    }

    /// Waits until a peer is turned away before it is announced.
    pub fn refused(&mut self) -> (SocketAddr, CloseReason) {
        let mut refused = None;
        self.wait("refusal", |world| {
            refused = world.take(|event| match event {
                Event::Refused { peer, reason } => Some((*peer, reason.clone())),
                _ => None,
            });
            refused.is_some()
        });
        refused.unwrap()
    }

    /// Removes the first event for which `find` has a result.
    pub fn take<T>(&mut self, find: impl Fn(&Event) -> Option<T>) -> Option<T> {
        let index = self.events.iter().position(|event| find(event).is_some())?;
        find(&self.events.remove(index))
    }

    /// Removes the completions of a connection, and returns their numbers and results.
    pub fn completions(&mut self, of: ConnId) -> Vec<(u64, Result<(), WrError>)> {
        let mut completions = Vec::new();
        while let Some(completion) = self.take(|event| match event {
            Event::Completion {
                conn,
                wr_id,
                result,
                ..
            } if *conn == of => Some((wr_id.0, *result)),
            _ => None,
        }) {
            completions.push(completion);
        }
        completions
    }

    pub fn register(&mut self, conn: ConnId, length: usize, access: Access) -> Mem {
        let memory = Memory::zeroed(length);
        let region = self.fabric.register(conn, &memory, access).unwrap();
        Mem { memory, region }
    }

    /// Registers memory for a READ, of at least one byte.
    pub fn register_large(&mut self, conn: ConnId, length: usize) -> Mem {
        self.register(conn, length.max(1), Access::Local)
    }

    /// Makes a peer, and the established connection to that peer. `flags` are the flags of the peer's MPA request.
    pub fn established(&mut self, flags: u8) -> (Peer, ConnId) {
        let mut peer = Peer::connect(self.address);
        peer.send(&request(flags, 2, &[0, 32, 0, 16]));
        let conn = self.requested();
        self.accept(conn);
        let reply = self.read(&mut peer, 24);
        assert_eq!(reply[16], flags);
        self.events.clear();
        (peer, conn)
    }
}

/// Calls for what a peer receives.
impl World {
    /// Waits until the peer has received this many bytes.
    pub fn read(&mut self, peer: &mut Peer, length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.wait("bytes for the peer", |_| {
            assert!(
                !peer.receive(&mut bytes, length),
                "ended after {bytes:02x?}"
            );
            bytes.len() == length
        });
        bytes
    }

    /// Waits until the stream to the peer has ended, and returns the rest of it.
    pub fn read_to_end(&mut self, peer: &mut Peer) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.wait("end of the stream to the peer", |_| {
            peer.receive(&mut bytes, usize::MAX)
        });
        bytes
    }
}

/// A bare socket, which enforces no rules.
pub struct Peer {
    pub stream: TcpStream,
}

impl Peer {
    pub fn connect(address: SocketAddr) -> Self {
        Self::of(TcpStream::connect(address).unwrap())
    }

    pub fn connect_from(source: IpAddr, address: SocketAddr) -> Self {
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(source, 0).into()).unwrap();
        socket.connect(&address.into()).unwrap();
        Self::of(socket.into())
    }

    pub fn of(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_nonblocking(true).unwrap();
        Self { stream }
    }

    /// Sends as much as the kernel has room for, which is everything if the test does not send much.
    pub fn send(&mut self, bytes: &[u8]) {
        assert_eq!(self.try_send(bytes), bytes.len());
    }

    pub fn try_send(&mut self, bytes: &[u8]) -> usize {
        match self.stream.write(bytes) {
            Ok(sent) => sent,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => panic!("{error}"),
        }
    }

    /// Appends what has arrived, up to `length` bytes in total, and returns whether the stream has ended.
    fn receive(&mut self, bytes: &mut Vec<u8>, length: usize) -> bool {
        let mut chunk = vec![0; 1 << 16];
        while bytes.len() < length {
            let room = chunk.len().min(length - bytes.len());
            match self.stream.read(&mut chunk[..room]) {
                Ok(0) => return true,
                Ok(n) => bytes.extend_from_slice(&chunk[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return true,
                Err(error) => panic!("{error}"),
            }
        }
        false
    }

    /// Ends the sending half of the connection.
    pub fn half_close(&self) {
        self.stream.shutdown(std::net::Shutdown::Write).unwrap();
    }

    /// Ends the connection with an RST.
    pub fn reset(self) {
        let socket = socket2::SockRef::from(&self.stream);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }
}

/// Makes an MPA request.
pub fn request(flags: u8, revision: u8, private_data: &[u8]) -> Vec<u8> {
    let length = (private_data.len() as u16).to_be_bytes();
    [
        &b"MPA ID Req Frame"[..],
        &[flags, revision],
        &length,
        private_data,
    ]
    .concat()
}

/// Computes CRC32C, bit by bit.
pub fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    })
}

/// Makes an FPDU with this ULPDU.
pub fn fpdu(crc: bool, ulpdu: &[&[u8]]) -> Vec<u8> {
    let ulpdu = ulpdu.concat();
    let mut bytes = (ulpdu.len() as u16).to_be_bytes().to_vec();
    bytes.extend(ulpdu);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    let sum = if crc { crc32c(&bytes) } else { 0 };
    bytes.extend(sum.to_le_bytes());
    bytes
}

/// Makes the headers of an untagged segment.
pub fn untagged(control: [u8; 2], token: u32, queue: u32, msn: u32, mo: u32) -> Vec<u8> {
    let numbers = [token, queue, msn, mo].map(u32::to_be_bytes);
    [&control[..], numbers.as_flattened()].concat()
}

/// Makes the headers of a tagged segment.
pub fn tagged(control: [u8; 2], stag: u32, offset: u64) -> Vec<u8> {
    [&control[..], &stag.to_be_bytes(), &offset.to_be_bytes()].concat()
}

/// Makes a whole SEND without a CRC.
pub fn send(msn: u32, payload: &[u8]) -> Vec<u8> {
    fpdu(false, &[&untagged([0x41, 0x43], 0, 0, msn, 0), payload])
}

/// Makes an RDMA Read Request without a CRC.
pub fn read(msn: u32, length: u32, stag: u32, offset: u64) -> Vec<u8> {
    let body = [
        &[0; 12][..],
        &length.to_be_bytes(),
        &stag.to_be_bytes(),
        &offset.to_be_bytes(),
    ];
    fpdu(
        false,
        &[&untagged([0x41, 0x41], 0, 1, msn, 0), &body.concat()],
    )
}
