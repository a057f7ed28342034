// SPDX-License-Identifier: GPL-2.0-or-later

//! Measures RDMA WRITEs of 1 MiB to a client process: from a worker through a broker, and by the fabric alone.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant as Clock};

use smbdirect::device::{BulkBuffer, Direction, Event, Status};
use smbdirect::fabric::iwarp::{Config, Iwarp};
use smbdirect::fabric::{Access, ConnId, Region, Sge};
use smbdirect::proto;
use smbdirect::sys::Memory;
use smbdirect::transport::{self, HeapBuffers, Transport};
use smbdirect::units::Instant;
use smbdirect::wire::BufferDescriptorV1;

use super::process::{BUSY_POLL, BrokerProcess, CLIENT_GUID, Process, Worker};
use super::{Figure, Goal};

const CHUNK: usize = 1 << 20;
const OUTSTANDING: usize = 8;
const ROUNDS: u32 = 3;
pub(crate) fn measure(time: Duration) -> Vec<Figure> {
    let time = time * 2 / ROUNDS;
    let (mut alone, mut through) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        alone.push(by_fabric(time));
        through.push(by_broker(time));
    }
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let (alone, through) = (median(alone), median(through));
    let figure = |what: &str, value, ratio, goal| Figure {
        what: what.into(),
        value,
        unit: "GB/s",
        ratio,
        goal,
    };
    vec![
        figure(
            "RDMA WRITE of 1 MiB, the fabric alone",
            alone / 1e9,
            None,
            None,
        ),
        figure(
            "RDMA WRITE of 1 MiB, worker and broker",
            through / 1e9,
            Some(through / alone),
            Some(Goal::AtLeast(0.9)),
        ),
    ]
}

/// Makes an SMB2 NEGOTIATE request of [`CLIENT_GUID`] for one dialect.
pub(crate) fn first_request() -> Vec<u8> {
    let mut request = vec![0; 64 + 36 + 2];
    request[..4].copy_from_slice(b"\xfeSMB");
    request[4] = 64;
    request[64] = 36;
    request[66] = 1;
    request[76..92].copy_from_slice(&CLIENT_GUID);
    request[100..].copy_from_slice(&0x0302_u16.to_le_bytes());
    request
}

type IwarpTransport = Transport<Iwarp, HeapBuffers>;

fn iwarp() -> IwarpTransport {
    let fabric = Iwarp::new(Config::default()).expect("a fabric");
    let (acceptor, initiator) = (proto::Config::default(), proto::Config::initiator_default());
    let config = transport::Config::new(acceptor, initiator);
    Transport::new(fabric, HeapBuffers::new(), config)
}

/// An end of a connection, in its own thread.
pub(crate) struct End {
    pub(crate) transport: IwarpTransport,
    events: VecDeque<transport::Event<Vec<u8>>>,
    polled: Vec<transport::Event<Vec<u8>>>,
    start: Clock,
    looks_until: Clock,
}

impl End {
    pub(crate) fn new() -> Self {
        let start = Clock::now();
        Self {
            transport: iwarp(),
            events: VecDeque::new(),
            polled: Vec::new(),
            start,
            looks_until: start,
        }
    }

    pub(crate) fn next(&mut self) -> transport::Event<Vec<u8>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                self.looks_until = Clock::now() + BUSY_POLL;
                return event;
            }
            let now = Instant::ZERO + self.start.elapsed();
            self.transport
                .poll(now, &mut self.polled)
                .expect("progress");
            self.events.extend(self.polled.drain(..));
            if self.events.is_empty() && Clock::now() > self.looks_until {
                self.transport.wait(now, None).expect("poll");
            }
        }
    }

    /// Begins a connection.
    pub(crate) fn connect(&mut self, address: SocketAddr) -> ConnId {
        let now = Instant::ZERO + self.start.elapsed();
        self.transport.connect(now, address).expect("a socket")
    }

    /// Waits for the next message.
    fn message(&mut self) -> (ConnId, Vec<u8>) {
        loop {
            if let transport::Event::Message { conn, buffer, .. } = self.next() {
                let bytes = buffer.clone();
                self.transport.recycle(buffer);
                return (conn, bytes);
            }
        }
    }

    /// Sends a message, from memory that is registered for this message.
    pub(crate) fn send(&mut self, conn: ConnId, message: &[u8]) {
        let memory = Memory::zeroed(message.len());
        memory.write(0, message).expect("room");
        let region = self.transport.register(conn, &memory, Access::Local);
        let source = Sge {
            region: region.expect("a region").id,
            offset: 0,
            length: message.len() as u32,
        };
        self.transport.send(conn, 0, source, None).expect("room");
    }
}

/// Plays the client: names its memory, and sends back each message that it gets.
pub(crate) fn client(address: SocketAddr) {
    let mut end = End::new();
    let conn = end.connect(address);
    while !matches!(end.next(), transport::Event::Established { .. }) {}
    let memory = Memory::zeroed(CHUNK * OUTSTANDING);
    let region = end.transport.register(conn, &memory, Access::RemoteWrite);
    let remote = region.expect("a region").remote;
    end.send(conn, &first_request());
    let descriptors: Vec<u8> = (0..OUTSTANDING)
        .flat_map(|n| {
            let descriptor = BufferDescriptorV1 {
                offset: remote.address + (n * CHUNK) as u64,
                token: remote.token,
                length: CHUNK as u32,
            };
            descriptor.emit()
        })
        .collect();
    end.send(conn, &descriptors);
    loop {
        match end.next() {
            transport::Event::Message { buffer, .. } => {
                let message = buffer.clone();
                end.transport.recycle(buffer);
                end.send(conn, &message);
            }
            transport::Event::Closed { .. } => return,
            _ => {}
        }
    }
}

fn descriptors(message: &[u8]) -> Vec<BufferDescriptorV1> {
    let all = message.chunks(BufferDescriptorV1::LENGTH);
    all.map(|bytes| BufferDescriptorV1::parse(bytes).expect("a descriptor"))
        .collect()
}

/// Returns the bytes per second that the fabric carries by itself.
fn by_fabric(time: Duration) -> f64 {
    let mut end = End::new();
    let any = "127.0.0.1:0".parse().expect("an address");
    let listener = end.transport.listen(any).expect("a listener");
    let address = end.transport.local_address(listener).expect("bound");
    let _client = Process::start(&["--client", &address.to_string()]);
    let (conn, _first) = end.message();
    let (_, message) = end.message();
    let targets = descriptors(&message);
    let memory = Memory::zeroed(CHUNK * OUTSTANDING);
    for n in 0..OUTSTANDING {
        memory.write(n * CHUNK, &[7; CHUNK]).expect("room");
    }
    let region = end.transport.register(conn, &memory, Access::Local);
    let region: Region = region.expect("a region");
    let write = |end: &mut End, n: usize| {
        let source = Sge {
            region: region.id,
            offset: (n * CHUNK) as u32,
            length: CHUNK as u32,
        };
        let target = [targets[n]];
        end.transport
            .write(conn, n as u64, source, target)
            .expect("room");
    };
    let start = Clock::now();
    let mut bytes = 0_u64;
    (0..OUTSTANDING).for_each(|n| write(&mut end, n));
    let mut under_way = OUTSTANDING;
    while under_way > 0 {
        if let transport::Event::Written {
            cookie,
            result: Ok(()),
            ..
        } = end.next()
        {
            bytes += CHUNK as u64;
            under_way -= 1;
            if start.elapsed() < time {
                write(&mut end, cookie as usize);
                under_way += 1;
            }
        }
    }
    // The echo arrives after everything that was sent before it.
    end.send(conn, b"is it there?");
    let _ = end.message();
    let rate = bytes as f64 / start.elapsed().as_secs_f64();
    end.transport.close(conn);
    while !matches!(end.next(), transport::Event::Closed { .. }) {}
    rate
}

/// Returns the bytes per second that a worker's buffers carry through a broker.
fn by_broker(time: Duration) -> f64 {
    let broker = BrokerProcess::start("iwarp");
    let mut worker = broker.worker();
    // Three processes share few processors, so the one with the least work sleeps.
    let _client = Process::start(&["--client", &broker.address.to_string()]);
    let (conn, _first) = message(&mut worker);
    let (_, list) = message(&mut worker);
    let targets: Vec<&[u8]> = list.chunks(BufferDescriptorV1::LENGTH).collect();
    let buffers: Vec<BulkBuffer> = (0..OUTSTANDING).map(|_| buffer(&mut worker)).collect();
    let write = |worker: &mut Worker, n: usize| {
        let number = buffers[n].number;
        let write = Direction::Write;
        let result = worker
            .handle
            .rdma(write, conn, n as u64, number, 0, CHUNK, targets[n]);
        result.expect("room");
    };
    let start = Clock::now();
    let mut bytes = 0_u64;
    (0..OUTSTANDING).for_each(|n| write(&mut worker, n));
    let mut under_way = OUTSTANDING;
    while under_way > 0 {
        if let Event::RdmaDone {
            cookie,
            status: Status::Ok,
            ..
        } = worker.next()
        {
            bytes += CHUNK as u64;
            under_way -= 1;
            if start.elapsed() < time {
                write(&mut worker, cookie as usize);
                under_way += 1;
            }
        }
    }
    let question = std::io::IoSlice::new(b"is it there?");
    worker
        .handle
        .send_pdu(conn, 0, &[question], None)
        .expect("room");
    let _ = message(&mut worker);
    let rate = bytes as f64 / start.elapsed().as_secs_f64();
    worker.handle.disconnect(conn).expect("connected");
    while !matches!(worker.next(), Event::Disconnected { .. }) {}
    rate
}

/// Waits for the next message of a worker.
pub(crate) fn message(worker: &mut Worker) -> (u64, Vec<u8>) {
    loop {
        if let Event::Pdu {
            conn, pdu, length, ..
        } = worker.next()
        {
            let mut bytes = vec![0; length as usize];
            worker.handle.take_pdu(pdu, &mut bytes).expect("a message");
            return (conn, bytes);
        }
    }
}

/// Allocates a buffer, and touches its memory.
pub(crate) fn buffer(worker: &mut Worker) -> BulkBuffer {
    loop {
        match worker.handle.allocate(CHUNK) {
            Ok(buffer) => {
                // SAFETY: the library has mapped this many bytes there, and nothing uses the buffer yet.
                unsafe { buffer.start.write_bytes(7, buffer.length) };
                return buffer;
            }
            Err(Status::Again) => while worker.next() != Event::Room {},
            Err(status) => panic!("{status}"),
        }
    }
}
