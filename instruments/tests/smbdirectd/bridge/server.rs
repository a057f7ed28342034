// SPDX-License-Identifier: GPL-2.0-or-later

//! An SMB Direct server that its clients control: it sends back what it receives, except messages that begin with `!`.
//!
//! | message | does |
//! |---|---|
//! | `!send COUNT LENGTH` | sends this many messages, which are [`pattern`]s of this length |
//! | `!sink` | stops sending messages back |
//! | `!close` | closes gracefully |
//! | `!abort` | aborts the connection |
//! | `!stall` | does nothing at all until [`Server::resume`] |

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant as Clock};

use smbdirect::fabric::iwarp::{self, Iwarp};
use smbdirect::fabric::{Access, ConnId, RegionId, Sge};
use smbdirect::proto;
use smbdirect::sys::Memory;
use smbdirect::transport::{Config, Event, HeapBuffers, SendError, Transport};
use smbdirect::units::Instant;

/// What a running server has seen.
#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    stalled: AtomicBool,
    connections: AtomicUsize,
    /// Lengths and hashes of all messages that were not sent back.
    sunk: Mutex<Vec<(usize, u64)>>,
    closed: Mutex<Vec<String>>,
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    seen: Arc<Seen>,
    thread: Option<JoinHandle<()>>,
}

/// Makes bytes that show at each offset to which message they belong, and that are not a command.
pub(crate) fn pattern(number: usize, length: usize) -> Vec<u8> {
    (0..length)
        .map(|i| (i.wrapping_mul(31) ^ number.wrapping_mul(7)) as u8 | 0x80)
        .collect()
}

/// Computes FNV-1a.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}

impl Server {
    /// Starts a server that takes messages of almost 16 MiB.
    pub(crate) fn start() -> Self {
        Self::with_max_fragmented_size(0xFF_FFFF)
    }

    pub(crate) fn with_max_fragmented_size(max_fragmented_size: u32) -> Self {
        let endpoint = proto::Config {
            max_send_size: 8192,
            max_receive_size: 8192,
            max_fragmented_size,
            ..proto::Config::default()
        };
        let mut fabric = iwarp::Config::default();
        fabric.depths.regions = 2048;
        let fabric = Iwarp::new(fabric).expect("a fabric");
        let mut config = Config::new(endpoint, proto::Config::initiator_default());
        (config.max_unnegotiated_per_source, config.send_queue) = (256, 1024);
        let mut transport = Transport::new(fabric, HeapBuffers::new(), config);
        let listener = transport.listen("127.0.0.1:0".parse().unwrap());
        let address = transport.local_address(listener.expect("a listener"));
        let seen = Arc::new(Seen::default());
        let worker = Worker {
            transport,
            conns: HashMap::new(),
            seen: Arc::clone(&seen),
            start: Clock::now(),
        };
        Self {
            address: address.expect("an address"),
            seen,
            thread: Some(std::thread::spawn(move || worker.run())),
        }
    }

    pub(crate) fn resume(&self) {
        self.seen.stalled.store(false, Ordering::Release);
    }

    pub(crate) fn is_stalled(&self) -> bool {
        self.seen.stalled.load(Ordering::Acquire)
    }

    pub(crate) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::Acquire)
    }

    /// Returns the lengths and hashes of the messages that were not sent back.
    pub(crate) fn sunk(&self) -> Vec<(usize, u64)> {
        self.seen.sunk.lock().unwrap().clone()
    }

    /// Returns the reasons why connections ended.
    pub(crate) fn closed(&self) -> Vec<String> {
        self.seen.closed.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.seen.stop.store(true, Ordering::Release);
        self.resume();
        let joined = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            joined.expect("a thread").expect("the server has no fault");
        }
    }
}

#[derive(Default)]
struct Conn {
    /// Messages to send.
    queue: VecDeque<Vec<u8>>,
    sending: VecDeque<RegionId>,
    sink: bool,
    close: bool,
}

struct Worker {
    transport: Transport<Iwarp, HeapBuffers>,
    conns: HashMap<ConnId, Conn>,
    seen: Arc<Seen>,
    start: Clock,
}

impl Worker {
    fn run(mut self) {
        let mut events = Vec::new();
        while !self.seen.stop.load(Ordering::Acquire) {
            if self.seen.stalled.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            let now = Instant::ZERO + self.start.elapsed();
            self.transport.poll(now, &mut events).expect("the fabric");
            for event in events.drain(..) {
                self.handle(event);
            }
            let ids: Vec<_> = self.conns.keys().copied().collect();
            ids.into_iter().for_each(|id| self.send(id));
            let time = Some(Duration::from_millis(10));
            self.transport.wait(now, time).expect("wait");
        }
    }

    fn handle(&mut self, event: Event<Vec<u8>>) {
        match event {
            Event::Established { conn, .. } => {
                self.conns.insert(conn, Conn::default());
                let count = self.conns.len();
                self.seen.connections.store(count, Ordering::Release);
            }
            Event::Message { conn, buffer, .. } => {
                self.message(conn, &buffer);
                self.transport.recycle(buffer);
            }
            Event::Sent { conn, .. } => {
                let region = self.conns.get_mut(&conn).unwrap().sending.pop_front();
                let _ = self.transport.deregister(conn, region.unwrap());
            }
            Event::Closed { conn, reason, .. } => {
                self.conns.remove(&conn);
                self.seen.closed.lock().unwrap().push(reason.to_string());
                let count = self.conns.len();
                self.seen.connections.store(count, Ordering::Release);
            }
            other => panic!("unexpected: {other:?}"),
        }
    }

    fn message(&mut self, id: ConnId, message: &[u8]) {
        let conn = self.conns.get_mut(&id).expect("a connection");
        let Some(command) = message.strip_prefix(b"!") else {
            if conn.sink {
                let mut sunk = self.seen.sunk.lock().unwrap();
                sunk.push((message.len(), hash(message)));
            } else {
                conn.queue.push_back(message.to_vec());
            }
            return;
        };
        let command = std::str::from_utf8(command).expect("words");
        let words: Vec<_> = command.split(' ').collect();
        match words[..] {
            ["send", count, length] => {
                let (count, length): (usize, usize) =
                    (count.parse().unwrap(), length.parse().unwrap());
                conn.queue.extend((0..count).map(|n| pattern(n, length)));
            }
            ["sink"] => conn.sink = true,
            ["close"] => conn.close = true,
            ["abort"] => self.transport.abort(id),
            ["stall"] => self.seen.stalled.store(true, Ordering::Release),
            _ => panic!("unknown: {command}"),
        }
    }

    fn send(&mut self, id: ConnId) {
        let conn = self.conns.get_mut(&id).expect("a connection");
        while let Some(message) = conn.queue.front() {
            let memory = Memory::zeroed(message.len());
            memory.write(0, message).expect("room");
            let Ok(region) = self.transport.register(id, &memory, Access::Local) else {
                return;
            };
            let sge = Sge {
                region: region.id,
                offset: 0,
                length: message.len() as u32,
            };
            match self.transport.send(id, 0, sge, None) {
                Ok(()) => {
                    conn.sending.push_back(region.id);
                    conn.queue.pop_front();
                }
                Err(SendError::QueueFull | SendError::NotEstablished) => {
                    let _ = self.transport.deregister(id, region.id);
                    return;
                }
                Err(error) => panic!("{error}"),
            }
        }
        if std::mem::take(&mut conn.close) {
            self.transport.close(id);
        }
    }
}
