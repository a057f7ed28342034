// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests peers that answer RDMA READs and send other things in between. Large answers go from the socket straight to
//! their targets, but anything that comes instead must still be noticed.

use smbdirect::fabric::iwarp::IwarpError;
use smbdirect::fabric::{Access, CloseReason, Event, Fabric, RemoteAddress, Work, WrId};
use smbdirect::units::RemoteToken;

use crate::harness::{Mem, Peer, World, fpdu, on_both, quick, tagged, untagged};

const THERE: RemoteAddress = RemoteAddress {
    token: RemoteToken(7),
    address: 0,
};
/// Maximum payload of one segment of an answer, in bytes.
const LARGEST: usize = 60_000;

/// What a peer sends, and the result that is expected.
struct Script {
    crc: bool,
    rng: fastrand::Rng,
    stream: Vec<u8>,
    sends: u32,
}

impl Script {
    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.rng.fill(&mut bytes);
        bytes
    }

    fn push(&mut self, header: &[u8], payload: &[u8]) {
        self.stream.extend(fpdu(self.crc, &[header, payload]));
    }

    /// Adds a whole SEND in one FPDU, and returns its payload.
    fn send(&mut self, length: usize) -> Vec<u8> {
        self.sends += 1;
        let header = untagged([0x41, 0x43], 0, 0, self.sends, 0);
        let payload = self.bytes(length);
        self.push(&header, &payload);
        payload
    }

    /// Answers READ number `number` (from 1 on) in segments of any size.
    fn answer(&mut self, number: u32, bytes: &[u8], between: &mut impl FnMut(&mut Self)) {
        let usual = self.rng.usize(8_000..LARGEST);
        let mut at = 0;
        loop {
            let length = match self.rng.u8(0..8) {
                0 => self.rng.usize(1..LARGEST),
                _ => usual,
            };
            let length = length.min(bytes.len() - at);
            let last = at + length == bytes.len();
            let control = [if last { 0xc1 } else { 0x81 }, 0x42];
            let header = tagged(control, number, at as u64);
            self.push(&header, &bytes[at..at + length]);
            at += length;
            between(self);
            if last {
                return;
            }
        }
    }

    /// Waits until the peer has received this many READ requests, and then sends everything as fast as the fabric takes
    /// it.
    fn run(&self, world: &mut World, peer: &mut Peer, reads: usize) {
        world.read(peer, 52 * reads);
        let mut rest = &self.stream[..];
        world.wait("room for what the peer sends", |_| {
            rest = &rest[peer.try_send(rest)..];
            rest.is_empty()
        });
    }
}

/// Makes a peer that has sent its first FPDU, and a script for what it will send and write.
fn script(world: &mut World, seed: u64) -> (Peer, smbdirect::fabric::ConnId, Script) {
    let crc = seed % 2 == 1;
    let (mut peer, conn) = world.established(if crc { 0x50 } else { 0x10 });
    peer.send(&fpdu(crc, &[&tagged([0xc1, 0x40], 0, 0)]));
    let script = Script {
        crc,
        rng: fastrand::Rng::with_seed(seed),
        stream: Vec::new(),
        sends: 0,
    };
    (peer, conn, script)
}

fn wait_for_reads(world: &mut World, count: usize) {
    world.wait("answers", |world| {
        let done = |event: &&Event| {
            let Event::Completion { work, result, .. } = event else {
                panic!("{event:?}");
            };
            assert_eq!(*result, Ok(()));
            matches!(work, Work::Read)
        };
        world
            .events
            .retain(|event| !matches!(event, Event::Established { .. }));
        world.events.iter().filter(done).count() == count
    });
}

#[test]
fn messages_and_writes_between_answers_arrive_unchanged() {
    on_both(quick(), |world| {
        for seed in 0..40 {
            let (mut peer, conn, mut script) = script(world, seed);
            let target = world.register(conn, 1 << 16, Access::RemoteWrite);
            let inbox = world.register(conn, 1 << 16, Access::Local);
            let receives = 40;
            for n in 0..receives {
                let sge = inbox.sge(1_000 * n, 1_000);
                world.fabric.post_recv(conn, WrId(n.into()), sge).unwrap();
            }
            let lengths: Vec<usize> = (0..12)
                .map(|n| match n % 5 {
                    4 => script.rng.usize(0..3),
                    _ => script.rng.usize(1..300_000),
                })
                .collect();
            let mut answers = Vec::new();
            for (n, length) in (1..).zip(&lengths) {
                let sink = world.register_large(conn, *length);
                let sge = sink.sge(0, *length as u32);
                world.fabric.post_read(conn, WrId(n), sge, THERE).unwrap();
                answers.push((sink, script.bytes(*length)));
            }
            let (mut said, mut written) = (Vec::new(), vec![0; 1 << 16]);
            let rate = script.rng.u8(2..20);
            for (n, (_, bytes)) in (1..).zip(&answers) {
                script.answer(n, bytes, &mut |script| {
                    if script.rng.u8(0..rate) == 0 && said.len() < receives as usize {
                        let length = script.rng.usize(0..1_000);
                        said.push(script.send(length));
                    }
                });
                // Send RDMA WRITEs only between answers, because tagged messages do not interleave.
                if script.rng.bool() {
                    let at = script.rng.usize(0..10_000);
                    let length = script.rng.usize(0..50_000);
                    let payload = script.bytes(length);
                    let address = target.address() + at as u64;
                    let header = tagged([0xc1, 0x40], target.token(), address);
                    script.push(&header, &payload);
                    written[at..at + length].copy_from_slice(&payload);
                }
            }
            script.run(world, &mut peer, answers.len());
            wait_for_reads(world, answers.len());
            for (sink, bytes) in &answers {
                assert!(sink.bytes()[..bytes.len()] == bytes[..], "seed {seed}");
            }
            world.wait("messages", |world| {
                let received = |event: &&Event| {
                    matches!(
                        event,
                        Event::Completion {
                            work: Work::Recv { .. },
                            ..
                        }
                    )
                };
                world.events.iter().filter(received).count() == said.len()
            });
            for (n, message) in said.iter().enumerate() {
                let got = inbox.memory.to_vec(1_000 * n, message.len()).unwrap();
                assert!(&got == message, "seed {seed}, message {n}");
            }
            drop(peer);
            assert_eq!(world.closed(conn), CloseReason::Peer);
            assert!(target.bytes() == written, "seed {seed}");
            world.events.clear();
        }
    });
}

#[test]
fn reads_into_the_same_memory_leave_the_data_of_the_last_one() {
    on_both(quick(), |world| {
        for seed in 0..8 {
            let (mut peer, conn, mut script) = script(world, seed);
            let sink = world.register_large(conn, 200_000);
            // This is the same memory, registered again under another number.
            let alias = Mem {
                memory: sink.memory.clone(),
                region: world
                    .fabric
                    .register(conn, &sink.memory, Access::Local)
                    .unwrap(),
            };
            let inbox = world.register(conn, 1_000, Access::Local);
            let inbox_all = inbox.sge(0, 1_000);
            world.fabric.post_recv(conn, WrId(99), inbox_all).unwrap();
            let mut expected = vec![0; 200_000];
            let mut said = None;
            for n in 1..=12 {
                let of = if n % 2 == 0 { &sink } else { &alias };
                let at = script.rng.usize(0..60_000);
                let length = script.rng.usize(8_000..140_000);
                let sge = of.sge(at as u32, length as u32);
                world.fabric.post_read(conn, WrId(n), sge, THERE).unwrap();
                let bytes = script.bytes(length);
                script.answer(n as u32, &bytes, &mut |script| {
                    if n == 5 && said.is_none() {
                        said = Some(script.send(900));
                    }
                });
                expected[at..at + length].copy_from_slice(&bytes);
            }
            script.run(world, &mut peer, 12);
            wait_for_reads(world, 12);
            assert!(sink.bytes() == expected, "seed {seed}");
            assert_eq!(inbox.bytes()[..900], said.unwrap());
            drop(peer);
            assert_eq!(world.closed(conn), CloseReason::Peer);
            world.events.clear();
        }
    });
}

#[test]
fn an_error_in_the_middle_of_answers_is_found() {
    on_both(quick(), |world| {
        for seed in 0..20 {
            let (mut peer, conn, mut script) = script(world, seed);
            let sinks: Vec<Mem> = (0..4)
                .map(|_| world.register_large(conn, 200_000))
                .collect();
            let untouched = world.register_large(conn, 200_000);
            for (n, sink) in (1..).zip(&sinks) {
                let sge = sink.sge(0, 200_000);
                world.fabric.post_read(conn, WrId(n), sge, THERE).unwrap();
            }
            let answers: Vec<Vec<u8>> = (0..4).map(|_| script.bytes(200_000)).collect();
            let broken = script.rng.usize(1..20);
            let mut segments = 0;
            for (n, bytes) in (1..).zip(&answers) {
                script.answer(n, bytes, &mut |script| {
                    segments += 1;
                    if segments == broken {
                        // This is an answer without a READ.
                        let header = tagged([0xc1, 0x42], 77, 0);
                        script.push(&header, &[0xee; 10_000]);
                    }
                });
            }
            let is_broken = segments >= broken;
            world.read(&mut peer, 52 * 4);
            let mut rest = &script.stream[..];
            while !rest.is_empty() && world.fabric.counts().connections == 2 {
                match std::io::Write::write(&mut peer.stream, rest) {
                    Ok(sent) => rest = &rest[sent..],
                    Err(_) => world.poll(),
                }
            }
            if is_broken {
                let error = IwarpError::of(&world.closed(conn)).expect("no iWARP error");
                let expected = [
                    IwarpError::RdmapReadResponseMismatch,
                    IwarpError::RdmapUnexpectedReadResponse,
                ];
                assert!(expected.contains(&error));
            } else {
                drop(peer);
                assert_eq!(world.closed(conn), CloseReason::Peer);
            }
            let completions = world.completions(conn);
            assert_eq!(completions.len(), 4);
            for ((id, result), (sink, bytes)) in completions.iter().zip(sinks.iter().zip(&answers))
            {
                assert!(result.is_err() || &sink.bytes() == bytes, "READ {id}");
            }
            assert!(untouched.bytes().iter().all(|byte| *byte == 0));
            world.events.clear();
        }
    });
}
