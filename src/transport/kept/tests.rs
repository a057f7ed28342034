// SPDX-License-Identifier: GPL-2.0-or-later

//! Passes one end of a connection on again and again, in the middle of whatever is under way.

use fastrand::Rng;

use super::*;
use crate::fabric::iwarp::{self, Iwarp};
use crate::fabric::{Access, Region, Sge};
use crate::proto;
use crate::transport::{Config, HeapBuffers};
use crate::wire::BufferDescriptorV1;

/// Number of bytes of each end's memory.
const SIZE: usize = 1 << 20;
/// Maximum number of bytes of a message or a transfer.
const LONGEST: usize = 60_000;

type Ends = Transport<Iwarp, HeapBuffers>;

/// One end. Its memory has room for what it sends, and then for what it gets by RDMA.
struct End {
    transport: Ends,
    conn: ConnId,
    memory: Memory,
    region: Region,
    messages: Vec<Vec<u8>>,
    /// Cookies of what has ended.
    ended: Vec<u64>,
}

fn fabric(crc: bool, max_ulpdu: Option<u16>) -> iwarp::Config {
    let mut config = iwarp::Config {
        crc,
        max_ulpdu,
        acknowledged_sends: true,
        ..iwarp::Config::default()
    };
    config.depths.reads = 4;
    config
}

fn transport(fabric: iwarp::Config) -> Ends {
    let config = Config::new(proto::Config::default(), proto::Config::initiator_default());
    Transport::new(Iwarp::new(fabric).unwrap(), HeapBuffers::new(), config)
}

impl End {
    fn new(mut transport: Ends, conn: ConnId, access: Access) -> Self {
        let memory = Memory::zeroed(SIZE);
        let region = transport.register(conn, &memory, access).unwrap();
        Self {
            transport,
            conn,
            memory,
            region,
            messages: Vec::new(),
            ended: Vec::new(),
        }
    }

    fn poll(&mut self, now: Instant) {
        let mut events = Vec::new();
        self.transport.poll(now, &mut events).unwrap();
        self.take(events);
    }

    fn take(&mut self, events: Vec<Event<Vec<u8>>>) {
        for event in events {
            match event {
                Event::Message { buffer, length, .. } => {
                    assert_eq!(buffer.len(), length as usize);
                    self.messages.push(buffer.clone());
                    self.transport.recycle(buffer);
                }
                Event::Sent { cookie, result, .. }
                | Event::Written { cookie, result, .. }
                | Event::Read { cookie, result, .. } => {
                    assert_eq!(result, Ok(()));
                    self.ended.push(cookie);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn sge(&self, offset: usize, length: usize) -> Sge {
        Sge {
            region: self.region.id,
            offset: offset as u32,
            length: length as u32,
        }
    }

    fn descriptor(&self, offset: usize, length: usize) -> BufferDescriptorV1 {
        BufferDescriptorV1 {
            offset: self.region.remote.address + offset as u64,
            token: self.region.remote.token,
            length: length as u32,
        }
    }

    /// Passes the end on to another transport.
    fn again(mut self, now: Instant, config: iwarp::Config) -> Self {
        let mut events = Vec::new();
        self.transport.settle(now, &mut events);
        self.take(events);
        assert!(self.transport.may_keep(self.conn));
        let keep = |buffer: &Vec<u8>| Some(buffer.clone());
        let (kept, descriptor) = self.transport.keep(self.conn, keep).unwrap();
        let text = serde_json::to_string(&kept).unwrap();
        let descriptor = descriptor.try_clone_to_owned().unwrap();
        let mut kept: KeptConnection<Vec<u8>> = serde_json::from_str(&text).unwrap();
        let message = kept.take_message();
        let mut transport = transport(config);
        let regions = BTreeMap::from([(self.region.id, self.memory.clone())]);
        let conn = transport
            .adopt(kept, descriptor, &regions, message)
            .unwrap();
        let status = |transport: &Ends, conn| {
            let status = transport.status(conn).unwrap();
            crate::transport::ConnStatus {
                listener: None,
                ..status
            }
        };
        let before = status(&self.transport, self.conn);
        assert_eq!(status(&transport, conn), before);
        Self {
            transport,
            conn,
            ..self
        }
    }
}

/// Connects two ends; returns the server, which may read and write the client's memory, and the client.
fn connect(config: iwarp::Config) -> (End, End) {
    let (mut server, mut client) = (transport(config), transport(config));
    let listener = server.listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = server.local_address(listener).unwrap();
    let of_client = client.connect(Instant::ZERO, address).unwrap();
    let (mut of_server, mut events) = (None, Vec::new());
    while of_server.is_none() {
        server.poll(Instant::ZERO, &mut events).unwrap();
        client.poll(Instant::ZERO, &mut Vec::new()).unwrap();
        of_server = events.iter().find_map(|event| match event {
            Event::Established { conn, .. } => Some(*conn),
            _ => None,
        });
    }
    // The client is established once it has the server's answer.
    let mut events = Vec::new();
    while events.is_empty() {
        server.poll(Instant::ZERO, &mut Vec::new()).unwrap();
        client.poll(Instant::ZERO, &mut events).unwrap();
    }
    let server = End::new(server, of_server.unwrap(), Access::ReadSink);
    (server, End::new(client, of_client, Access::RemoteWrite))
}

/// Sends messages both ways and moves data by RDMA, while the server is passed on at random moments.
fn run(seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let max_ulpdu = *rng.choice(&[None, Some(128), Some(1440)]).unwrap();
    let config = fabric(rng.bool(), max_ulpdu);
    let (mut server, mut client) = connect(config);
    // What the server reads is in a region of its own, because a region has one kind of access.
    let readable = Memory::zeroed(SIZE);
    let source = client
        .transport
        .register(client.conn, &readable, Access::RemoteRead)
        .unwrap();
    let start = std::time::Instant::now();
    let mut cookie = 0;
    let mut passed_on = 0;
    for _ in 0..6 {
        let mut bytes = vec![0; SIZE];
        rng.fill(&mut bytes);
        for memory in [&server.memory, &client.memory, &readable] {
            memory.write(0, &bytes).unwrap();
        }
        let mut expected = [Vec::new(), Vec::new()];
        let half = SIZE / 2;
        let mut moved = Vec::new();
        for slot in 0..8 {
            let (at, length) = (rng.usize(..half - LONGEST), rng.usize(1..LONGEST));
            let place = half + slot * LONGEST;
            cookie += 1;
            let of = server.conn;
            match rng.u8(..4) {
                0 => {
                    let sge = server.sge(at, length);
                    server.transport.send(of, cookie, sge, None).unwrap();
                    expected[0].push(bytes[at..][..length].to_vec());
                }
                1 => {
                    let sge = client.sge(at, length);
                    client
                        .transport
                        .send(client.conn, cookie, sge, None)
                        .unwrap();
                    expected[1].push(bytes[at..][..length].to_vec());
                }
                2 => {
                    let (sink, first) = (server.sge(place, length), length / 3);
                    let piece = |offset: usize, length: usize| BufferDescriptorV1 {
                        offset: source.remote.address + offset as u64,
                        token: source.remote.token,
                        length: length as u32,
                    };
                    let list = [piece(at, first), piece(at + first, length - first)];
                    server.transport.read(of, cookie, sink, list).unwrap();
                    moved.push((server.memory.clone(), place, at, length));
                }
                _ => {
                    let (sge, target) = (server.sge(at, length), client.descriptor(place, length));
                    server.transport.write(of, cookie, sge, [target]).unwrap();
                    moved.push((client.memory.clone(), place, at, length));
                }
            }
        }
        let begun = start.elapsed();
        loop {
            let elapsed = start.elapsed();
            assert!(
                elapsed - begun < Duration::from_secs(20),
                "seed {seed}: it does not end"
            );
            let now = Instant::ZERO + elapsed;
            if rng.u8(..3) == 0 {
                server = server.again(now, config);
                passed_on += 1;
            }
            if rng.bool() {
                server.poll(now);
            }
            if rng.bool() {
                client.poll(now);
            }
            let ended = server.ended.len() + client.ended.len();
            let arrived = client.messages.len() + server.messages.len();
            if ended == 8 && arrived == expected[0].len() + expected[1].len() {
                break;
            }
        }
        assert!(client.messages == expected[0], "seed {seed}");
        assert!(server.messages == expected[1], "seed {seed}");
        for (memory, place, at, length) in moved {
            let there = memory.to_vec(place, length).unwrap();
            assert!(there == bytes[at..][..length], "seed {seed}");
        }
        for end in [&mut server, &mut client] {
            end.messages.clear();
            end.ended.clear();
        }
    }
    assert!(passed_on > 6);
    server.transport.end_at_once(server.conn);
    assert!(!server.transport.may_keep(server.conn));
}

#[test]
fn an_end_that_is_passed_on_at_any_moment_loses_and_changes_nothing() {
    (0..24).for_each(run);
}

#[test]
fn a_state_that_does_not_fit_ends_the_connection() {
    let (server, mut client) = connect(fabric(true, None));
    let (kept, descriptor) = server.transport.keep(server.conn, |_| Some(0_u8)).unwrap();
    let good = serde_json::to_value(&kept).unwrap();
    let adopt = |value: serde_json::Value, descriptor: OwnedFd| {
        let kept: KeptConnection<u8> = serde_json::from_value(value).unwrap();
        let regions = BTreeMap::from([(server.region.id, server.memory.clone())]);
        let adopted = transport(fabric(true, None)).adopt(kept, descriptor, &regions, None);
        adopted.map(drop)
    };
    let socket = || descriptor.try_clone_to_owned().unwrap();
    let changed = |pointer: &str, value: serde_json::Value| {
        let mut changed = good.clone();
        *changed
            .pointer_mut(pointer)
            .unwrap_or_else(|| panic!("{pointer}")) = value;
        changed
    };
    assert_eq!(adopt(good.clone(), socket()), Ok(()));
    for (pointer, value) in [
        ("/endpoint/credits/granted", 60_000.into()),
        ("/endpoint/phase", "Closed".into()),
        ("/endpoint/reassembly/remaining", u32::MAX.into()),
        ("/sends/calls", 1.into()),
        ("/reads/calls", 1.into()),
        ("/pool/stride", 0.into()),
        ("/pool/slots", 1.into()),
        ("/fabric/qp/outstanding", 1.into()),
        ("/fabric/qp/max_ulpdu", 3.into()),
        ("/fabric/qp/stash", "00".repeat(500).into()),
        ("/fabric/qp/trailer_length", 9.into()),
        ("/fabric/qp/stage", "Closed".into()),
        ("/fabric/qp/send_offset", u32::MAX.into()),
    ] {
        let changed = changed(pointer, value);
        assert_eq!(adopt(changed, socket()), Err(NotKept), "{pointer}");
    }
    let other = std::os::unix::net::UnixStream::pair().unwrap().0;
    assert_eq!(adopt(good.clone(), other.into()), Err(NotKept));
    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    assert_eq!(adopt(good, datagrams.into()), Err(NotKept));
    client.poll(Instant::ZERO);
}

#[test]
fn what_was_under_way_is_known_if_the_connection_does_not_go_on() {
    let (mut server, client) = connect(fabric(false, None));
    let (of, sge) = (server.conn, server.sge(0, 50_000));
    server.transport.send(of, 1, sge, None).unwrap();
    server
        .transport
        .write(of, 2, sge, [client.descriptor(0, 50_000)])
        .unwrap();
    server
        .transport
        .read(of, 3, sge, [client.descriptor(0, 50_000)])
        .unwrap();
    server.transport.send(of, 4, sge, None).unwrap();
    let (kept, _) = server.transport.keep(of, |_| Some(())).unwrap();
    let mut flushed = kept.flush();
    flushed.sort_by_key(|end| match end {
        Flushed::Send(cookie) | Flushed::Write(cookie) | Flushed::Read(cookie) => *cookie,
    });
    let all = [
        Flushed::Send(1),
        Flushed::Write(2),
        Flushed::Read(3),
        Flushed::Send(4),
    ];
    assert_eq!(flushed, all);
}
