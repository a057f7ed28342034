// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests that messages arrive complete, in order, and on the right connection.

use std::io::Read;

use super::scene::{Bridge, framed};
use super::server::Server;

/// Makes random bytes; all messages are parts of them.
fn noise() -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(1);
    (0..9 << 20).map(|_| random.u8(..)).collect()
}

/// Returns a part of the noise that does not begin like a command.
fn part<'a>(noise: &'a [u8], random: &mut fastrand::Rng, most: usize) -> &'a [u8] {
    let length = random.usize(1..=most);
    let mut start = random.usize(..1 << 20);
    while noise[start] == b'!' {
        start += 1;
    }
    &noise[start..start + length]
}

#[test]
fn thousands_of_messages_of_all_sizes_go_both_ways_at_once() {
    const COUNT: usize = 4000;
    let server = Server::start();
    let bridge = Bridge::to(server.address);
    let noise = noise();
    let size = |random: &mut fastrand::Rng, n: usize| match n {
        // The largest length, and lengths at which the bridge changes its behaviour.
        17 => 8 << 20,
        n if n % 400 == 0 => random.usize(1..=8 << 20),
        n if n % 10 == 0 => random.usize(60_000..=300_000),
        n if n % 3 == 0 => random.usize(1..=10_000),
        _ => random.usize(1..=300),
    };
    let mut client = bridge.client();
    let mut writer = client.0.try_clone().expect("a second handle");
    let mut bytes = 0;
    std::thread::scope(|scope| {
        let noise = &noise;
        scope.spawn(move || {
            let mut random = fastrand::Rng::with_seed(2);
            for n in 0..COUNT {
                let most = size(&mut random, n);
                let message = part(noise, &mut random, most);
                std::io::Write::write_all(&mut writer, &framed(message)).expect("it is taken");
            }
        });
        let mut random = fastrand::Rng::with_seed(2);
        for n in 0..COUNT {
            let most = size(&mut random, n);
            let message = part(noise, &mut random, most);
            assert!(client.receive() == message, "message {n}");
            bytes += message.len();
        }
    });
    drop(client);
    bridge.wait_for_log("closed by the client;");
    let statistics = bridge.stop();
    for way in ["to_server", "to_client"] {
        assert_eq!(statistics[way]["messages"], COUNT);
        assert_eq!(statistics[way]["bytes"], bytes);
    }
    assert_eq!(statistics["connections"]["carried"], 1);
    assert_eq!(statistics["connections"]["failed"], 0);
}

#[test]
fn fifty_connections_at_once_do_not_mix() {
    let server = Server::start();
    let bridge = Bridge::to(server.address);
    let noise = noise();
    std::thread::scope(|scope| {
        for seed in 0..50 {
            let (bridge, noise) = (&bridge, &noise);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                let mut client = bridge.client();
                for n in 0..60 {
                    let most = if n % 20 == 0 { 400_000 } else { 5_000 };
                    client.echo(part(noise, &mut random, most));
                }
            });
        }
    });
    let statistics = bridge.stop();
    assert_eq!(statistics["connections"]["carried"], 50);
    assert_eq!(statistics["to_client"]["messages"], 50 * 60);
}

#[test]
fn messages_stay_the_same_with_crcs_and_the_smallest_limits() {
    let server = Server::start();
    let limits = [
        "--max-receive-size=128",
        "--credits=1",
        "--max-fragmented-size=131072",
        "--crc",
    ];
    let bridge = Bridge::with(&server.address.to_string(), &limits);
    let noise = noise();
    let mut client = bridge.client();
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..50 {
        client.echo(part(&noise, &mut random, 131_072));
    }
    assert_eq!(bridge.stop()["to_server"]["messages"], 50);
}

#[test]
fn the_next_address_of_a_name_is_tried_if_the_first_does_not_answer() {
    let server = Server::start();
    // localhost names this machine's IPv6 addresses, if it has any, and its IPv4 addresses.
    let target = format!("localhost:{}", server.address.port());
    let bridge = Bridge::with(&target, &[]);
    bridge.client().echo(b"hello");
    bridge.stop();
}

#[test]
fn a_netbios_session_is_granted_and_keepalives_are_ignored() {
    let server = Server::start();
    let bridge = Bridge::to(server.address);
    let mut client = bridge.client();
    client.write(&[&[0x81, 0, 0, 68][..], &[b'A'; 68]].concat());
    let mut answer = [0; 4];
    client.0.read_exact(&mut answer).expect("an answer");
    assert_eq!(answer, [0x82, 0, 0, 0], "a positive session response");
    assert_eq!(server.connections(), 0, "no message, no connection");
    let keepalive = [0x85, 0, 0, 0];
    client.write(&[&keepalive[..], &framed(b"one"), &keepalive, &framed(b"two")].concat());
    assert_eq!(
        (client.receive(), client.receive()),
        (b"one".to_vec(), b"two".to_vec())
    );
    assert_eq!(bridge.stop()["to_client"]["messages"], 2);
}
