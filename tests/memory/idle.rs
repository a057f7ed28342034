// SPDX-License-Identifier: GPL-2.0-or-later

//! Measures what idle connections hold over the iWARP fabric, from the socket's bookkeeping to the receives: the
//! server's heap, without the heap of the peers' thread; and resident memory, which receives take only once they are
//! used.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use allocation_counter::measure;
use smbdirect::fabric::iwarp::{self, Iwarp};
use smbdirect::proto;
use smbdirect::transport::{Config, HeapBuffers, Transport};
use smbdirect::units::Instant;

const KIB: i64 = 1024;
const COUNT: u64 = 24;

type Link = Transport<Iwarp, HeapBuffers>;

fn link() -> Link {
    let fabric = Iwarp::new(iwarp::Config::default()).unwrap();
    let config = Config::new(proto::Config::default(), proto::Config::initiator_default());
    Transport::new(fabric, HeapBuffers::new(), config)
}

fn poll(link: &mut Link, start: std::time::Instant) {
    let mut events = Vec::new();
    link.poll(Instant::ZERO + start.elapsed(), &mut events)
        .unwrap();
    std::thread::sleep(Duration::from_micros(100));
}

/// What a server holds for a connection.
#[derive(Debug)]
struct Held {
    /// Bytes on the heap.
    heap: i64,
    /// Bytes of anonymous memory, including what its peer holds.
    resident: i64,
}

/// Returns the anonymous memory of this process, in bytes.
fn resident() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let number = line.unwrap().trim().trim_end_matches(" kB");
    number.parse::<i64>().unwrap() * KIB
}

/// Returns what a server holds for each of `COUNT` connections once `done` is true.
fn held(
    peers: impl FnOnce(SocketAddr, &mpsc::Receiver<()>) + Send + 'static,
    done: impl Fn(&Link) -> u64,
) -> Held {
    let _alone = super::alone();
    let start = std::time::Instant::now();
    let mut server = link();
    let listener = server.listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = server.local_address(listener).unwrap();
    poll(&mut server, start);
    let before = resident();
    let (stop, stopped) = mpsc::channel();
    let thread = std::thread::spawn(move || peers(address, &stopped));
    let memory = measure(|| {
        while done(&server) < COUNT {
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "the connections are not established"
            );
            poll(&mut server, start);
        }
        for _ in 0..100 {
            poll(&mut server, start);
        }
    });
    let after = resident();
    stop.send(()).unwrap();
    thread.join().unwrap();
    Held {
        heap: memory.bytes_current / COUNT as i64,
        resident: (after - before) / COUNT as i64,
    }
}

/// Connects by MPA, but does not negotiate SMB Direct.
fn silent_peers(server: SocketAddr, stop: &mpsc::Receiver<()>) {
    let peers: Vec<TcpStream> = (0..COUNT)
        .map(|_| {
            let mut peer = TcpStream::connect(server).unwrap();
            peer.write_all(b"MPA ID Req Frame\x10\x02\x00\x04\x00\x20\x00\x01")
                .unwrap();
            peer.read_exact(&mut [0; 24]).unwrap();
            peer
        })
        .collect();
    stop.recv().unwrap();
    drop(peers);
}

/// Negotiates, and then sends nothing.
fn idle_peers(server: SocketAddr, stop: &mpsc::Receiver<()>) {
    let start = std::time::Instant::now();
    let mut client = link();
    for _ in 0..COUNT {
        client.connect(Instant::ZERO, server).unwrap();
    }
    while stop.try_recv().is_err() {
        poll(&mut client, start);
    }
}

#[test]
fn a_connection_that_has_not_negotiated_holds_16_kib_at_most() {
    let held = held(silent_peers, |server| server.counters().requested);
    println!("{held:?} for a connection that has not negotiated");
    assert!(held.heap <= 16 * KIB, "{held:?}");
    assert!(held.heap > 500, "{held:?}: nothing was measured");
}

#[test]
fn an_idle_connection_holds_24_kib_at_most() {
    let held = held(idle_peers, |server| server.counters().established);
    println!("{held:?} for an idle connection with default credits, and its peer");
    assert!(held.heap <= 24 * KIB, "{held:?}");
    assert!(held.resident <= 2 * 24 * KIB, "{held:?}");
    assert!(
        held.resident > 2 * 2 * KIB,
        "{held:?}: nothing was measured"
    );
}
