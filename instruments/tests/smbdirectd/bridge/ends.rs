// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests all the ways in which a connection ends without affecting others.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use socket2::SockRef;

use super::scene::{Bridge, Client, framed, wait_for};
use super::server::{Server, hash, pattern};

#[test]
fn messages_that_a_client_sent_before_it_closed_its_half_reach_the_server() {
    let server = Server::start();
    let bridge = Bridge::to(server.address);
    let mut client = bridge.client();
    client.send(b"!sink");
    let messages: Vec<_> = (1..200).map(|n| pattern(n, 1 + n * n * 11)).collect();
    for message in &messages {
        client.send(message);
    }
    client.shut();
    client.expect_end_in_order();
    wait_for(
        || !server.closed().is_empty(),
        || "the server does not see the end".to_owned(),
    );
    let expected: Vec<_> = messages.iter().map(|it| (it.len(), hash(it))).collect();
    assert!(
        server.sunk() == expected,
        "{} messages",
        server.sunk().len()
    );
    assert_eq!(server.closed(), ["closed by the peer"]);
    bridge.wait_for_log("INFO closed by the client; carried 200 messages");
    assert_eq!(bridge.stop()["connections"]["failed"], 0);
}

#[test]
fn messages_that_the_server_sent_before_it_closed_reach_a_client_that_reads_late() {
    let server = Server::start();
    let bridge = Bridge::to(server.address);
    let mut client = bridge.client();
    // First send more than the bridge holds, and then the rest, which stays in the client's socket.
    client.write(&[framed(b"!send 300 30000"), framed(b"!close")].concat());
    for n in 0..150 {
        assert!(client.receive() == pattern(n, 30_000), "message {n}");
    }
    std::thread::sleep(Duration::from_millis(300));
    for n in 150..300 {
        assert!(client.receive() == pattern(n, 30_000), "message {n}");
    }
    client.expect_end_in_order();
    bridge.wait_for_log("INFO closed by the server; ");
    bridge.stop();
}

#[test]
fn a_client_that_breaks_off_in_the_middle_of_a_message_ends_only_its_own_connection() {
    let server = Server::start();
    let bridge = Bridge::to(server.address);
    let mut other = bridge.client();
    other.echo(b"before");
    for reset in [false, true] {
        let mut client = bridge.client();
        client.echo(b"whole");
        client.write(&framed(&[0xFE; 2_000_000])[..1_500_000]);
        client.write(b"");
        if reset {
            let time = Some(Duration::ZERO);
            SockRef::from(&client.0).set_linger(time).expect("linger");
        }
        wait_for(
            || server.connections() == 2,
            || "no second connection".to_owned(),
        );
        drop(client);
        wait_for(
            || server.connections() == 1,
            || "the connection is still there".to_owned(),
        );
    }
    bridge.wait_for_log("closed by the client in the middle of a message; carried 1 messages");
    other.echo(b"after");
    let statistics = bridge.stop();
    assert_eq!(statistics["to_server"]["messages"], 4);
    assert_eq!(statistics["connections"]["failed"], 2);
}

#[test]
fn a_client_that_leaves_while_it_holds_its_server_up_ends_only_its_own_connection() {
    let server = Server::start();
    let bridge = Bridge::to(server.address);
    let mut other = bridge.client();
    other.echo(b"before");
    for in_order in [true, false] {
        let mut client = bridge.client();
        client.send(b"!send 1000 100000");
        assert!(client.receive() == pattern(0, 100_000));
        if in_order {
            client.shut();
            wait_for(
                || server.connections() == 1,
                || "the connection is still there".to_owned(),
            );
        }
        // Some input is left unread, so the connection is reset.
        drop(client);
        wait_for(
            || server.connections() == 1,
            || "the connection is still there".to_owned(),
        );
    }
    other.echo(b"after");
    drop(other);
    wait_for(
        || server.connections() == 0,
        || "the connection is still there".to_owned(),
    );
    assert_eq!(bridge.stop()["connections"]["carried"], 3);
}

#[test]
fn a_server_that_breaks_off_ends_only_its_clients_connection() {
    let server = Server::start();
    let bridge = Bridge::to(server.address);
    let mut other = bridge.client();
    other.echo(b"before");
    let mut client = bridge.client();
    client.echo(b"whole");
    // Close while the server sends.
    client.send(b"!send 100 100000");
    assert!(client.receive() == pattern(0, 100_000));
    client.send(b"!abort");
    let mut rest = Vec::new();
    let _ = client.0.read_to_end(&mut rest);
    bridge.wait_for_log("the server");
    other.echo(b"after");
    bridge.client().echo(b"a new one");
    bridge.stop();
}

#[test]
fn a_message_that_the_server_does_not_take_ends_the_connection_with_both_sizes_in_the_log() {
    let server = Server::with_max_fragmented_size(200_000);
    let bridge = Bridge::to(server.address);
    let mut client = bridge.client();
    client.echo(&[0xFE; 200_000]);
    client.write(&framed(&[0xFE; 300_000])[..1000]);
    client.expect_end_in_order();
    bridge.wait_for_log("a message of 300000 bytes, but the server takes at most 200000");
    assert_eq!(bridge.stop()["connections"]["failed"], 1);
}

#[test]
fn a_client_of_a_server_that_is_not_there_is_closed_with_one_line() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let target = free.local_addr().expect("an address");
    drop(free);
    let bridge = Bridge::to(target);
    let mut client = bridge.client();
    client.send(b"\xFESMB");
    client.expect_end_in_order();
    let end = "WARN no connection to the server: connection refused";
    // This side closes first, because the bridge waits for the client before it logs the end.
    drop(client);
    bridge.wait_for_log(end);
    let log = bridge.log();
    assert_eq!(log.lines().count(), 1, "{log}");
    let statistics = bridge.stop();
    assert_eq!(statistics["connections"]["accepted"], 1);
    assert_eq!(statistics["connections"]["carried"], 0);
}

#[test]
fn a_server_that_does_not_speak_iwarp_ends_only_its_clients_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let bridge = Bridge::to(listener.local_addr().expect("an address"));
    for said in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], &[0; 4096], b""] {
        let mut client = bridge.client();
        client.send(b"\xFESMB");
        let (mut server, _) = listener.accept().expect("the bridge connects");
        server.write_all(said).expect("it is taken");
        server.shutdown(std::net::Shutdown::Write).expect("open");
        client.expect_end();
    }
    bridge.stop();
}

#[test]
fn a_client_of_smb1_is_told_in_the_log_what_to_set() {
    let server = Server::start();
    let bridge = Bridge::to(server.address);
    let mut client = bridge.client();
    // Send SMB_COM_NEGOTIATE, in pieces.
    client.write(&[0, 0, 0, 47, 0xFF, b'S']);
    std::thread::sleep(Duration::from_millis(20));
    client.write(&[b'M', b'B', 0x72]);
    client.expect_end_in_order();
    drop(client);
    bridge.wait_for_log("client spoke SMB1; set 'client min protocol = SMB2'");
    assert_eq!(server.connections(), 0, "the server is not bothered");
    assert!(server.closed().is_empty(), "{:?}", server.closed());
    bridge.stop();
}

#[test]
fn garbage_ends_its_own_connection_whenever_it_comes() {
    let server = Server::start();
    let bridge = Bridge::to(server.address);
    let mut other = bridge.client();
    other.echo(b"before");
    for seed in 0..100 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut client = bridge.client();
        if seed % 2 == 0 {
            client.echo(b"first");
        }
        let length = random.usize(4..100_000);
        let mut garbage: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
        garbage[0] |= 0x02; // Neither a message nor anything else that is known.
        // The bridge may close before it has taken all of this.
        let _ = client.0.write_all(&garbage);
        client.expect_end();
    }
    other.echo(b"after");
    bridge.wait_for_log("the client does not speak SMB");
    assert_eq!(bridge.stop()["connections"]["accepted"], 101);
}

#[test]
fn more_clients_than_are_allowed_are_turned_away() {
    let server = Server::start();
    let bridge = Bridge::with(&server.address.to_string(), &["--max-connections", "2"]);
    let (mut a, mut b) = (bridge.client(), bridge.client());
    a.echo(b"a");
    b.echo(b"b");
    bridge.client().expect_end();
    bridge.wait_for_log("turned away: 2 clients are connected already");
    drop(a);
    wait_for(
        || server.connections() == 1,
        || "the connection is still there".to_owned(),
    );
    // The client's place is free once the bridge knows that the server has closed.
    bridge.wait_for_log("closed by the client;");
    bridge.client().echo(b"c");
    b.echo(b"b");
    assert_eq!(bridge.stop()["connections"]["turned_away"], 1);
}

#[test]
fn a_stopped_bridge_ends_its_connections_gracefully() {
    let server = Server::start();
    let bridge = Bridge::to(server.address);
    // Connections are accepted in order, so the bridge has accepted this one once it serves the others.
    let idle = bridge.client();
    let mut clients: Vec<_> = (0..10).map(|_| bridge.client()).collect();
    for client in &mut clients {
        client.echo(b"hello");
    }
    let stopped = std::thread::spawn(move || bridge.stop());
    for client in clients.iter_mut() {
        client.expect_end_in_order();
    }
    drop((clients, idle));
    let statistics = stopped.join().expect("a graceful end");
    assert_eq!(statistics["connections"]["accepted"], 11);
    assert_eq!(statistics["connections"]["carried"], 10);
    assert_eq!(statistics["connections"]["failed"], 0);
    wait_for(
        || server.closed().len() == 10,
        || format!("{:?}", server.closed()),
    );
    let in_order = server.closed().iter().all(|it| it == "closed by the peer");
    assert!(in_order, "{:?}", server.closed());
}

/// Makes a bridge that was told to stop, but cannot end yet because its server does not take its data.
fn stopping(server: &Server) -> (Bridge, Client) {
    let bridge = Bridge::to(server.address);
    let mut client = bridge.client();
    client.send(b"!sink");
    client.send(b"!stall");
    wait_for(|| server.is_stalled(), || "it does not stall".to_owned());
    // Send more messages than there are credits for.
    client.send(&pattern(0, 1 << 20));
    std::thread::sleep(Duration::from_millis(100));
    bridge.signal(Signal::TERM);
    (bridge, client)
}

#[test]
fn a_second_signal_ends_at_once() {
    let server = Server::start();
    let (bridge, client) = stopping(&server);
    bridge.wait_for_log("stopping; a second signal ends at once");
    // A second signal does not count if it comes at the same time as the first.
    bridge.signal(Signal::INT);
    std::thread::sleep(Duration::from_millis(600));
    assert!(!bridge.log().contains("ended at once"), "{}", bridge.log());
    bridge.signal(Signal::TERM);
    let (status, log, output) = bridge.ended();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("ended at once by a second signal"), "{log}");
    assert_eq!(output, "");
    server.resume();
    drop(client);
}

/// timeout(1) sends one signal to its child and one to the process group.
#[test]
fn signals_that_come_together_are_one() {
    let server = Server::start();
    let (bridge, client) = stopping(&server);
    let begin = Instant::now();
    bridge.signal(Signal::INT);
    if begin.elapsed() > Duration::from_millis(250) {
        eprintln!("a machine too busy to send two signals together");
        return;
    }
    server.resume();
    let (status, log, _) = bridge.ended();
    assert!(status.success(), "{status}; {log}");
    drop(client);
    wait_for(
        || !server.sunk().is_empty(),
        || "the message is lost".to_owned(),
    );
}
