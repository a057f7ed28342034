// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests that a side which does not take its data holds up only its own connection, and costs a limited amount of
//! memory.

use std::io::Write;
use std::time::Duration;

use super::scene::{Bridge, framed, wait_for};
use super::server::{Server, hash, pattern};

/// Maximum memory of a bridge with few connections: its own, its windows, and its buffers.
const BOUND: usize = 64 << 20;

#[test]
fn a_client_that_does_not_read_stops_only_its_own_server() {
    let server = Server::start();
    let bridge = Bridge::to(server.address);
    let mut client = bridge.client();
    client.send(b"!send 3000 100000");
    let mut other = bridge.client();
    for n in 0..200 {
        other.echo(&pattern(n, 20_000));
        if n % 20 == 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let resident = bridge.resident();
    assert!(resident < BOUND, "{resident} bytes");
    for n in 0..3000 {
        assert!(client.receive() == pattern(n, 100_000), "message {n}");
    }
    assert_eq!(bridge.stop()["to_client"]["messages"], 3200);
}

#[test]
fn a_server_that_grants_no_credits_stops_its_client() {
    let server = Server::start();
    let bridge = Bridge::to(server.address);
    let mut client = bridge.client();
    client.send(b"!sink");
    client.send(b"!stall");
    wait_for(|| server.is_stalled(), || "it does not stall".to_owned());
    let message = pattern(0, 1 << 20);
    let stream = framed(&message);
    client.0.set_nonblocking(true).expect("a socket");
    let (mut taken, mut quiet) = (0, 0);
    // The system decides how much the sockets hold, but the bridge must stop reading at some time.
    while quiet < 50 {
        let at = taken % stream.len();
        match client.0.write(&stream[at..]) {
            Ok(n) => (taken, quiet) = (taken + n, 0),
            Err(_) => {
                quiet += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        assert!(taken < 256 << 20, "the bridge takes all of it");
    }
    let resident = bridge.resident();
    assert!(resident < BOUND, "{resident} bytes");
    server.resume();
    client.0.set_nonblocking(false).expect("a socket");
    client.write(&stream[taken % stream.len()..]);
    client.shut();
    client.expect_end_in_order();
    let count = taken / stream.len() + 1;
    wait_for(
        || server.sunk().len() == count,
        || format!("{} of {count}", server.sunk().len()),
    );
    let expected = (message.len(), hash(&message));
    assert!(server.sunk().iter().all(|it| *it == expected));
    bridge.stop();
}

#[test]
fn many_clients_that_do_not_read_take_bounded_memory_each() {
    let server = Server::start();
    let bridge = Bridge::to(server.address);
    let mut clients: Vec<_> = (0..20).map(|_| bridge.client()).collect();
    for client in &mut clients {
        // Send small messages, which cost more than their length.
        client.send(b"!send 20000 10");
        client.send(b"!send 10 5000000");
    }
    let mut other = bridge.client();
    for n in 0..100 {
        other.echo(&pattern(n, 1000));
        std::thread::sleep(Duration::from_millis(5));
    }
    // Receives take 2 MiB, the limit is 1 MiB, and there is one message for each connection.
    let resident = bridge.resident();
    assert!(resident < 20 * (10 << 20), "{resident} bytes");
    for client in &mut clients {
        for n in 0..20_000 {
            assert!(client.receive() == pattern(n, 10), "message {n}");
        }
    }
    for mut client in clients {
        for n in 0..10 {
            assert!(client.receive() == pattern(n, 5_000_000), "message {n}");
        }
    }
    bridge.stop();
}
