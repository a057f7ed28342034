// SPDX-License-Identifier: GPL-2.0-or-later

//! Does everything at once, in an order that a random number generator chooses. In any order, processes that keep the
//! rules are not faulted, sent messages arrive once and in order, and nothing is left at the end.

use std::collections::BTreeSet;
use std::time::Duration;

use smbdirect::device::abi::{self, Completion, Submission, event, op};
use smbdirect::engine::peer::Peer;
use zerocopy::FromZeros;

use crate::ahead::{SESSION, write};
use crate::process::Process;
use crate::scene::{Client, Scene, Seen};

/// A worker that answers each message with the same bytes, at once or later.
struct Echo {
    process: Process,
    /// Messages that the worker has not given back.
    kept: Vec<Completion>,
    conns: BTreeSet<u64>,
    /// Cookies of submissions that have not been answered.
    outstanding: BTreeSet<u64>,
    last_cookie: u64,
}

impl Echo {
    fn new(process: Process) -> Self {
        Self {
            process,
            kept: Vec::new(),
            conns: BTreeSet::new(),
            outstanding: BTreeSet::new(),
            last_cookie: 0,
        }
    }

    fn cookie(&mut self) -> u64 {
        self.last_cookie += 1;
        self.outstanding.insert(self.last_cookie);
        self.last_cookie
    }

    /// Handles the completions that have come.
    fn look(&mut self) {
        for completion in self.process.completions() {
            let conn = completion.conn;
            match completion.event {
                event::CONNECTION => {
                    self.process.take(&completion);
                    assert!(
                        self.conns.insert(conn),
                        "the worker learned of a connection twice"
                    );
                    self.process.call(op::AUTHENTICATED, conn);
                }
                event::PDU => self.kept.push(completion),
                event::DISCONNECTED => assert!(self.conns.remove(&conn), "a connection ends twice"),
                event::SENT | event::RDMA_DONE | event::FETCHED => {
                    // If the connection ended before the message was seen, its answers follow.
                    let cookie = completion.cookie;
                    assert!(
                        self.outstanding.remove(&cookie),
                        "a submission was answered twice"
                    );
                }
                other => panic!("event {other}"),
            }
        }
    }

    /// Answers the oldest message.
    fn answer(&mut self) {
        if self.kept.is_empty() || self.process.room(abi::queue_of(self.kept[0].conn)) < 4 {
            return;
        }
        let pdu = self.kept.remove(0);
        let message = self.process.take(&pdu);
        let cookie = self.cookie();
        self.process.send(pdu.conn, cookie, &message);
    }

    /// Lends memory for the next WRITE, or asks for it back.
    fn lend(&mut self, rng: &mut fastrand::Rng) {
        let conns: Vec<u64> = self.conns.iter().copied().collect();
        let Some(conn) = rng.choice(conns) else {
            return;
        };
        if self.process.room(abi::queue_of(conn)) < 4 {
            return;
        }
        match rng.u8(..4) {
            0 => self.process.call(op::RECALL, conn),
            _ => {
                let cookie = self.cookie();
                self.process.lend((conn, cookie), 5000);
            }
        }
    }

    /// Moves data, and sometimes tries to read memory that may only be written.
    fn rdma(&mut self, rng: &mut fastrand::Rng, client: &Client) {
        let conns: Vec<u64> = self.conns.iter().copied().collect();
        let Some(conn) = rng.choice(conns) else {
            return;
        };
        if self.process.room(abi::queue_of(conn)) < 4 {
            return;
        }
        let offset = rng.u64(..100_000);
        let (op, list) = match rng.u8(..8) {
            // An access that the memory does not allow is refused, and ends the connection.
            0 => (op::RDMA_READ, client.target(offset, 5000)),
            1..=3 => (op::RDMA_READ, client.source(offset, 5000)),
            _ => (op::RDMA_WRITE, client.target(offset, 5000)),
        };
        let cookie = self.cookie();
        self.process
            .rdma(op, (conn, cookie), rng.u32(1..=5000), &list);
    }
}

fn churn(seed: u64, steps: usize) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut scene = Scene::with(2, |_, _| ());
    let listener = scene.listener();
    let mut workers: Vec<Echo> = Vec::new();
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..steps {
        match rng.u8(..24) {
            0..=2 if clients.len() < 8 => {
                let (shard, guid) = (rng.usize(..2), rng.u8(1..4));
                clients.push(scene.client(shard, guid));
            }
            3 if workers.len() < 3 => {
                let process = scene.worker();
                process.bulk();
                process.send_region();
                let guid = rng.u8(1..4);
                let _ = scene.office_register(process.id(), [guid; 16], SESSION + u64::from(guid));
                workers.push(Echo::new(process));
            }
            4 if !workers.is_empty() && rng.u8(..4) == 0 => {
                let worker = workers.swap_remove(rng.usize(..workers.len()));
                scene.detach(worker.process.id());
            }
            5 if !clients.is_empty() => {
                let client = clients.swap_remove(rng.usize(..clients.len()));
                match rng.bool() {
                    true => scene.close(&client),
                    false => scene.abort(&client),
                }
            }
            6..=12 if !clients.is_empty() => {
                let client = &clients[rng.usize(..clients.len())];
                let message = vec![rng.u8(..); rng.usize(1..20_000)];
                scene.send(client, &message);
            }
            13..=17 if !workers.is_empty() => {
                let index = rng.usize(..workers.len());
                workers[index].look();
                workers[index].answer();
            }
            18..=19 if !workers.is_empty() && !clients.is_empty() => {
                let (worker, client) = (rng.usize(..workers.len()), rng.usize(..clients.len()));
                workers[worker].look();
                workers[worker].rdma(&mut rng, &clients[client]);
            }
            21 if !workers.is_empty() => {
                let index = rng.usize(..workers.len());
                workers[index].look();
                workers[index].lend(&mut rng);
            }
            22..=23 if !clients.is_empty() => {
                let client = &clients[rng.usize(..clients.len())];
                let list = match rng.u8(..8) {
                    0 => client.target(rng.u64(..100_000), 5000),
                    _ => client.source(rng.u64(..100_000), 5000),
                };
                let session = SESSION + rng.u64(1..4);
                let message = write(session, 1, rng.u32(1..=5000), &list);
                scene.begin_to_send(client, &message);
            }
            20 => scene.pass(Duration::from_millis(rng.u64(1..8000))),
            _ => {}
        }
        while let Some(offer) = listener.offer() {
            match workers.last() {
                Some(worker) => drop(scene.claim(&worker.process, offer.token)),
                None => break,
            }
        }
        if rng.bool() {
            scene.settle();
        }
        for worker in &workers {
            for reclaim in worker.process.give_back() {
                scene.shards[reclaim.queue as usize].unmapped(worker.process.id(), reclaim.number);
            }
        }
        clients.retain(|client| {
            let seen = scene.seen(client);
            !matches!(seen.last(), Some(Seen::Closed(_)))
        });
    }
    assert!(scene.faults.is_empty(), "seed {seed}: {:?}", scene.faults);
    for worker in &mut workers {
        worker.look();
    }
    for client in &clients {
        scene.abort(client);
    }
    scene.settle();
    for worker in &mut workers {
        worker.look();
        assert!(
            worker.conns.is_empty() && worker.outstanding.is_empty(),
            "seed {seed}"
        );
    }
    workers.clear();
    scene.leaves_nothing();
}

#[test]
fn nothing_is_left_whatever_happens() {
    let (seeds, steps) = match cfg!(miri) {
        true => (1, 60),
        false => (200, 300),
    };
    for seed in 0..seeds {
        churn(seed, steps);
    }
}

/// Does everything at once while the workers also submit whatever they like.
#[test]
fn garbage_from_a_worker_ends_only_that_worker() {
    let seeds = if cfg!(miri) { 3 } else { 300 };
    for seed in 0..seeds {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut scene = Scene::new();
        let (_client, worker, conn) = scene.pair(1);
        let (other, second, _) = scene.pair(2);
        worker.bulk();
        for _ in 0..8 {
            // Half of the fields are what a library would write.
            let mut pick = |likely: [u64; 3]| {
                let any = rng.u64(..);
                *rng.choice(&[likely[0], likely[1], likely[2], any]).unwrap()
            };
            let submission = Submission {
                op: pick([1, 2, 8]) as u32 % 11,
                flags: pick([0, 0, 1]) as u32,
                conn: pick([conn, conn, conn + 1]) & !(0xffff << 48),
                cookie: pick([0, 1, 2]),
                place: pick([0, 0, 100]),
                length: pick([0, 1, 5000]) as u32,
                token: pick([0, 1, 2]) as u32,
                descriptors: pick([0, 0, 16]),
                descriptor_count: pick([0, 1, 4095]) as u32,
                ..Submission::new_zeroed()
            };
            worker.submit(submission);
        }
        scene.settle();
        scene.send(&other, b"goes on");
        let pdu = second.expect(event::PDU);
        assert_eq!(second.take(&pdu), b"goes on", "seed {seed}");
        drop(worker);
        scene.leaves_nothing();
    }
}
