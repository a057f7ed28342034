// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests workers that break the rules of the interface: each ends only itself.

use smbdirect::device::Status;
use smbdirect::device::abi::{self, Place, Submission, TransferSubmission, event, op, region};
use smbdirect::fabric::Access;
use zerocopy::transmute;

use crate::peer::Client;
use crate::raw::{NOTHING, Raw};
use crate::scene::Scene;

/// Two workers with a connection each. The first worker breaks a rule.
struct Trial {
    scene: Scene,
    worker: Raw,
    conn: u64,
    client: Client,
    other: (Raw, u64, Client),
}

impl Trial {
    fn new() -> Self {
        let scene = Scene::new();
        let other = scene.pair(2);
        let (mut worker, conn, client) = scene.pair(1);
        assert_eq!(worker.grow(region::SEND), Status::Ok);
        assert_eq!(worker.grow(region::BULK), Status::Ok);
        Self {
            scene,
            worker,
            conn,
            client,
            other,
        }
    }

    /// Checks that the worker is detached, its connection is closed, and everything that it had is gone.
    fn ends(mut self, counter: &str) {
        assert_eq!(self.worker.detached(), Status::Corrupt);
        self.client.closed();
        drop(self.worker);
        let (other, conn, client) = &mut self.other;
        other.reply(*conn, b"hello");
        assert_eq!(client.message(), b"hello");
        let status = self.scene.until("all of it is gone", |status| {
            status.processes.len() == 1
                && status.totals.connections == 1
                && status.totals.memory == status.processes[0].memory
        });
        assert_eq!(status.counters[counter], 1);
        let close = status.closes.last().unwrap();
        assert_eq!(close.reason, "worker_gone");
    }

    fn submits(mut self, submission: Submission, counter: &str) {
        self.worker.submit_to(0, transmute!(submission));
        self.ends(counter);
    }

    fn send(&self) -> Submission {
        Submission {
            op: op::SEND_PDU,
            conn: self.conn,
            length: 100,
            ..NOTHING
        }
    }
}

#[test]
fn an_unknown_operation() {
    let trial = Trial::new();
    let submission = Submission {
        op: 99,
        ..trial.send()
    };
    trial.submits(submission, "operation");
}

#[test]
fn unknown_flags() {
    let trial = Trial::new();
    let submission = Submission {
        flags: 4,
        ..trial.send()
    };
    trial.submits(submission, "flags");
}

#[test]
fn a_reserved_field() {
    let trial = Trial::new();
    let submission = Submission {
        reserved: [1, 0, 0],
        ..trial.send()
    };
    trial.submits(submission, "reserved");
}

#[test]
fn a_connection_that_never_was_its_own() {
    for conn in [0, 2, 1 << 48 | 1, u64::MAX] {
        let trial = Trial::new();
        let submission = Submission {
            conn,
            ..trial.send()
        };
        trial.submits(submission, "connection");
    }
}

#[test]
fn memory_that_is_not_its_own() {
    let place = |segment, offset| Place { segment, offset }.to_bits();
    for place in [
        place(1, 0),
        place(0, (1 << 20) - 99),
        place(0, 1 << 20),
        place(0, (1 << 48) - 1),
        u64::MAX,
    ] {
        for op in [op::SEND_PDU, op::TRANSFER] {
            let trial = Trial::new();
            let submission = Submission {
                op,
                place,
                ..trial.send()
            };
            trial.submits(submission, "out_of_bounds");
        }
        for (op, place, descriptors) in [
            (op::RDMA_READ, place, 0),
            (op::RDMA_WRITE, place, 0),
            (op::RDMA_WRITE, 0, place),
        ] {
            let trial = Trial::new();
            let target = trial
                .client
                .register(4096, smbdirect::fabric::Access::RemoteWrite);
            trial.worker.send[0]
                .write(0, &target.part(0, 4096).emit())
                .unwrap();
            let submission = Submission {
                op,
                place,
                descriptors,
                descriptor_count: 10,
                ..trial.send()
            };
            // Ten descriptors, nine of them empty: the device must not even look at them.
            let submission = match descriptors {
                0 => Submission {
                    descriptor_count: 1,
                    ..submission
                },
                _ => submission,
            };
            trial.submits(submission, "out_of_bounds");
        }
    }
}

#[test]
fn a_message_given_back_twice() {
    let mut trial = Trial::new();
    trial.client.send(b"hello");
    let (pdu, _) = trial.worker.expect(event::PDU);
    trial.worker.recycle(&pdu);
    trial.worker.recycle(&pdu);
    trial.ends("buffer");
}

#[test]
fn a_buffer_that_never_existed() {
    let trial = Trial::new();
    let submission = Submission {
        op: op::RECYCLE,
        place: 12_345,
        length: 0,
        conn: 0,
        ..NOTHING
    };
    trial.submits(submission, "buffer");
}

#[test]
fn a_transfer_with_a_reserved_field() {
    let mut trial = Trial::new();
    let transfer = TransferSubmission {
        op: op::TRANSFER,
        flags: 0,
        conn: trial.conn,
        cookie: 0,
        place: 0,
        length: 0,
        reserved: 0,
        client_guid: [0; 16],
        reserved2: 1,
    };
    trial.worker.submit_to(0, transmute!(transfer));
    trial.ends("reserved");
}

#[test]
fn corrupt_indexes_of_either_ring() {
    // Offsets of the indexes of the producer and the consumer in a ring.
    let second = 640 + 64 * 64;
    for offset in [128, second + 256] {
        let mut trial = Trial::new();
        let send = transmute!(Submission {
            length: 1,
            ..trial.send()
        });
        let queue = trial.worker.queues.get_mut(&0).unwrap();
        queue
            .memory
            .write(offset, &0x1234_5678u32.to_ne_bytes())
            .unwrap();
        // The device reads the index of the completion consumer only when it needs it: at the latest when the ring is
        // full.
        let mut sends = if offset == 128 { 0 } else { 100 };
        while sends > 0 && trial.worker.read_socket() {
            let queue = trial.worker.queues.get_mut(&0).unwrap();
            sends -= queue.submissions.push(&[send]).unwrap();
        }
        trial.worker.bell().ring().unwrap();
        trial.ends("ring");
    }
}

/// Random bytes are written all over the rings, again and again, while a client sends.
#[test]
fn garbage_all_over_the_rings() {
    for seed in 0..20 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut trial = Trial::new();
        let memory = trial.worker.queues[&0].memory.clone();
        let bell = trial.worker.bell();
        let is_gone = |worker: &mut Raw| !worker.read_socket();
        while !is_gone(&mut trial.worker) {
            let offset = random.usize(..memory.len() / 4) * 4;
            let word = random.u32(..) >> random.u32(..32);
            memory.write(offset, &word.to_ne_bytes()).unwrap();
            if random.u8(..8) == 0 {
                // Write indexes within a plausible range.
                let index = (u32::MAX - 255).wrapping_add(random.u32(..80));
                let offset = [128, 256, 640 + 4096 + 128, 640 + 4096 + 256][random.usize(..4)];
                memory.write(offset, &index.to_ne_bytes()).unwrap();
            }
            bell.ring().unwrap();
        }
        trial.client.closed();
        let (other, conn, client) = &mut trial.other;
        other.reply(*conn, b"hello");
        assert_eq!(client.message(), b"hello", "seed {seed}");
        trial.scene.until("all of it is gone", |status| {
            status.processes.len() == 1 && status.totals.memory == status.processes[0].memory
        });
    }
}

/// A worker gives back a segment while an operation uses it. The operation fails, but no other process is harmed.
#[test]
fn memory_that_is_given_back_while_it_is_used() {
    let Trial {
        scene,
        mut worker,
        conn,
        client,
        other: (mut other, others, others_client),
    } = Trial::new();
    let before = scene.status().totals.memory;
    let source = client.register(1 << 20, Access::RemoteRead);
    let place = Place {
        segment: 0,
        offset: 0,
    };
    for cookie in 0..8 {
        let piece = [source.part(0, 1 << 20)];
        worker.rdma(op::RDMA_READ, (conn, cookie), (place, 1 << 20), &piece);
    }
    let bulk = abi::Reclaim {
        region: region::BULK,
        queue: 0,
        number: 0,
        reserved: 0,
    };
    worker.release(&bulk);
    scene.until("less is counted", |status| status.totals.memory < before);
    // The answers come, good or bad, unless the remaining entries name memory that is gone.
    drop(worker);
    other.reply(others, b"hello");
    assert_eq!(others_client.message(), b"hello");
    scene.until("all of it is gone", |status| status.processes.len() == 1);
}

#[test]
fn memory_that_it_does_not_have() {
    for (region, queue, number) in [
        (region::BULK, 0, 1),
        (region::BULK, 1, 0),
        (region::SEND, 0, u32::MAX),
        (region::RECEIVE, 0, 0),
        (region::RECEIVE, 9, 0),
        (0, 0, 0),
    ] {
        let Trial {
            scene,
            mut worker,
            client,
            other: (mut other, others, others_client),
            ..
        } = Trial::new();
        let reclaim = abi::Reclaim {
            region,
            queue,
            number,
            reserved: 0,
        };
        worker.release(&reclaim);
        assert_eq!(worker.detached(), Status::Corrupt, "{region} {number}");
        client.closed();
        other.reply(others, b"hello");
        assert_eq!(others_client.message(), b"hello");
        drop(scene);
    }
}

#[test]
fn a_place_in_memory_that_was_given_back() {
    let mut trial = Trial::new();
    let send = abi::Reclaim {
        region: region::SEND,
        queue: 0,
        number: 0,
        reserved: 0,
    };
    trial.worker.release(&send);
    let conn = trial.conn;
    // The answer shows that the device has read the release.
    assert_eq!(trial.worker.register([9; 16], 0), Status::Ok);
    trial.submits(
        Submission {
            op: op::SEND_PDU,
            conn,
            length: 100,
            ..NOTHING
        },
        "out_of_bounds",
    );
}
