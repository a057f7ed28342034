// SPDX-License-Identifier: GPL-2.0-or-later

//! Measures what a connection holds on the heap before its peer is known.

use std::io::{Read, Write};
use std::net::TcpStream;

use smbdirect::fabric::iwarp::{Config, Counts, Iwarp};
use smbdirect::fabric::{Event, Fabric, ReadLimits};
use smbdirect::units::Instant;

/// With this many connections, the maps have no spare room.
const CONNECTIONS: usize = 255;

/// `cifs.ko` sends this over siw.
const REQUEST: &[u8] =
    b"MPA ID Req Frame\x10\x02\x00\x0c\x00\x20\x00\x01\x00\x00\x00\x20\x00\x00\x00\x01";

struct Server {
    fabric: Iwarp,
    events: Vec<Event>,
    clock: std::time::Instant,
}

impl Server {
    fn new() -> Self {
        let config = Config {
            max_pending: CONNECTIONS,
            max_pending_per_source: CONNECTIONS,
            ..Config::default()
        };
        Self {
            fabric: Iwarp::new(config).unwrap(),
            events: Vec::with_capacity(4 * CONNECTIONS),
            clock: std::time::Instant::now(),
        }
    }

    fn poll(&mut self) {
        let now = Instant::ZERO + self.clock.elapsed();
        self.fabric.poll(now, &mut self.events).unwrap();
        for event in self.events.drain(..) {
            if let Event::ConnectRequest { conn, .. } = event {
                self.fabric.accept(conn, ReadLimits::default()).unwrap();
            }
        }
    }

    fn poll_until(&mut self, done: impl Fn(Counts) -> bool) {
        while !done(self.fabric.counts()) {
            assert!(self.clock.elapsed().as_secs() < 60, "{:?}", self.fabric);
            self.poll();
        }
    }
}

/// Connects peers that do this much of the handshake, and returns the bytes on the heap for each.
fn bytes_for_each(handshake: &[u8], reply: &mut [u8]) -> u64 {
    let mut server = Server::new();
    let listener = server.fabric.listen(([127, 0, 0, 1], 0).into()).unwrap();
    let address = server.fabric.local_address(listener).unwrap();
    let mut peers = Vec::with_capacity(CONNECTIONS);
    let pending = if reply.is_empty() { CONNECTIONS } else { 0 };
    let allocated = allocation_counter::measure(|| {
        for _ in 0..CONNECTIONS {
            let mut peer = TcpStream::connect(address).unwrap();
            peer.write_all(handshake).unwrap();
            peers.push(peer);
        }
        server.poll_until(|counts| counts.connections == CONNECTIONS && counts.pending == pending);
        for peer in &mut peers {
            peer.read_exact(reply).unwrap();
        }
        for _ in 0..100 {
            server.poll();
        }
    });
    drop(peers);
    server.poll_until(|counts| (counts.connections, counts.lingering) == (0, 0));
    u64::try_from(allocated.bytes_current).unwrap() / CONNECTIONS as u64
}

#[test]
fn a_connection_that_only_finished_mpa_holds_little_memory() {
    let _alone = super::alone();
    let connected = bytes_for_each(b"", &mut []);
    let established = bytes_for_each(REQUEST, &mut [0; 24]);
    println!("{connected} bytes when connected, {established} after MPA");
    assert!(connected <= 1024, "{connected} bytes");
    assert!(established <= 14 * 1024, "{established} bytes");
}
