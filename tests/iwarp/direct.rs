// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests that the answers to RDMA READs go straight to their targets, and that everything that arrives between them is
//! still handled correctly.

use std::time::Duration;

use smbdirect::fabric::iwarp::{Config, Depths, Iwarp};
use smbdirect::fabric::{
    Access, ConnId, Event, Fabric, ReadLimits, RemoteAddress, Sge, Waitable, Work, WrId,
};
use smbdirect::sys::{Memory, wait_readable};
use smbdirect::units::Instant;

const READ: u32 = 300_001;
const READS: u32 = 24;
const MESSAGE: u32 = 20_000;
const MESSAGES: u32 = 60;

struct End {
    fabric: Iwarp,
    conn: Option<ConnId>,
    done: Vec<Work>,
}

impl End {
    fn new(crc: bool, max_ulpdu: u16) -> Self {
        let depths = Depths {
            sends: 128,
            reads: 64,
            ..Config::default().depths
        };
        let config = Config {
            crc,
            max_ulpdu: Some(max_ulpdu),
            depths,
            ..Config::default()
        };
        Self {
            fabric: Iwarp::new(config).unwrap(),
            conn: None,
            done: Vec::new(),
        }
    }

    fn poll(&mut self, start: std::time::Instant) {
        let mut events = Vec::new();
        self.fabric
            .poll(Instant::ZERO + start.elapsed(), &mut events)
            .unwrap();
        for event in events {
            match event {
                Event::ConnectRequest { conn, .. } => {
                    self.fabric.accept(conn, ReadLimits::default()).unwrap();
                }
                Event::Established { conn, .. } => self.conn = Some(conn),
                Event::Completion { work, result, .. } => {
                    result.unwrap();
                    self.done.push(work);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

fn until(ends: &mut [End; 2], done: impl Fn(&[End; 2]) -> bool) {
    let start = std::time::Instant::now();
    while !done(ends) {
        assert!(start.elapsed() < Duration::from_secs(30), "waited in vain");
        for end in ends.iter_mut() {
            end.poll(start);
        }
        let fd = ends[0].fabric.event_fd().unwrap();
        wait_readable(fd, Some(Duration::from_micros(50))).unwrap();
    }
}

fn pattern(length: u32, seed: u32) -> Vec<u8> {
    (0..length)
        .map(|n| (n.wrapping_mul(31).wrapping_add(n >> 8).wrapping_add(seed)) as u8)
        .collect()
}

/// The client reads while the server sends, so that both kinds of traffic mix.
fn reads_between_messages(crc: bool, max_ulpdu: u16) {
    let mut ends = [End::new(crc, max_ulpdu), End::new(crc, max_ulpdu)];
    let listener = ends[1]
        .fabric
        .listen("127.0.0.1:0".parse().unwrap())
        .unwrap();
    let address = ends[1].fabric.local_address(listener).unwrap();
    ends[0]
        .fabric
        .connect(address, ReadLimits::default())
        .unwrap();
    until(&mut ends, |ends| ends.iter().all(|end| end.conn.is_some()));
    let [client, server] = [0, 1].map(|end: usize| ends[end].conn.unwrap());

    let source = Memory::zeroed((READ + READS) as usize);
    source.write(0, &pattern(READ + READS, 0)).unwrap();
    let readable = ends[1]
        .fabric
        .register(server, &source, Access::RemoteRead)
        .unwrap()
        .remote;
    let text = Memory::zeroed((MESSAGE * MESSAGES) as usize);
    text.write(0, &pattern(MESSAGE * MESSAGES, 7)).unwrap();
    let text = ends[1]
        .fabric
        .register(server, &text, Access::Local)
        .unwrap()
        .id;
    let sinks = Memory::zeroed((READ * READS) as usize);
    let sink = ends[0]
        .fabric
        .register(client, &sinks, Access::Local)
        .unwrap()
        .id;
    let inbox = Memory::zeroed((MESSAGE * MESSAGES) as usize);
    let slot = ends[0]
        .fabric
        .register(client, &inbox, Access::Local)
        .unwrap()
        .id;

    for n in 0..MESSAGES {
        let memory = Sge {
            region: slot,
            offset: n * MESSAGE,
            length: MESSAGE,
        };
        ends[0]
            .fabric
            .post_recv(client, WrId(n.into()), memory)
            .unwrap();
    }
    // The responder waits for the first FPDU of the initiator. Then both send much.
    for n in 0..READS {
        let memory = Sge {
            region: sink,
            offset: n * READ,
            length: READ,
        };
        let from = RemoteAddress {
            address: readable.address + u64::from(n),
            ..readable
        };
        ends[0]
            .fabric
            .post_read(client, WrId(n.into()), memory, from)
            .unwrap();
    }
    for n in 0..MESSAGES {
        // The lengths differ: some messages fit into an FPDU, some do not.
        let length = if n % 3 == 0 { 10 + n } else { MESSAGE };
        let memory = Sge {
            region: text,
            offset: n * MESSAGE,
            length,
        };
        ends[1]
            .fabric
            .post_send(server, WrId(n.into()), &[], Some(memory), None)
            .unwrap();
    }
    until(&mut ends, |ends| {
        ends[0].done.len() == (READS + MESSAGES) as usize
    });

    for n in 0..READS {
        let expected = pattern(READ + READS, 0);
        let got = sinks.to_vec((n * READ) as usize, READ as usize).unwrap();
        assert!(got == expected[n as usize..][..READ as usize], "READ {n}");
    }
    let expected = pattern(MESSAGE * MESSAGES, 7);
    let mut received = ends[0]
        .done
        .iter()
        .filter(|work| matches!(work, Work::Recv { .. }));
    for n in 0..MESSAGES {
        let length = if n % 3 == 0 { 10 + n } else { MESSAGE };
        assert_eq!(
            received.next(),
            Some(&Work::Recv {
                length,
                invalidated: None
            })
        );
        let start = (n * MESSAGE) as usize;
        let got = inbox.to_vec(start, length as usize).unwrap();
        assert!(got == expected[start..][..length as usize], "message {n}");
    }
    // The server's messages came in between the READs, not all before or after them.
    let first_read = ends[0]
        .done
        .iter()
        .position(|work| *work == Work::Read)
        .unwrap();
    let last_message = ends[0]
        .done
        .iter()
        .rposition(|work| *work != Work::Read)
        .unwrap();
    assert!(
        first_read < last_message,
        "no message came between the READs"
    );
}

#[test]
fn answers_arrive_exactly_between_messages() {
    for max_ulpdu in [9000, 16_384, 65_532] {
        reads_between_messages(false, max_ulpdu);
    }
}

#[test]
fn answers_arrive_exactly_between_messages_with_crcs() {
    for max_ulpdu in [9000, 65_532] {
        reads_between_messages(true, max_ulpdu);
    }
}
