// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests the iWARP fabric when the process has no descriptors left.

use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use smbdirect::fabric::iwarp::{Config, Iwarp};
use smbdirect::fabric::{CloseReason, Event, Fabric, Waitable};
use smbdirect::sys::wait_readable;
use smbdirect::units::Instant;

const EMFILE: i32 = 24;

#[test]
fn a_process_without_descriptors_neither_spins_nor_forgets_waiting_clients() {
    // The limit applies to a whole process, so the test runs in a separate one.
    let status = Command::new("sh")
        .args([
            "-c",
            "ulimit -n 40 && exec \"$0\" --exact --ignored descriptors::has_few_descriptors",
        ])
        .arg(std::env::current_exe().unwrap())
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
#[ignore = "the test above runs it with a limit"]
fn has_few_descriptors() {
    let config = Config {
        connect_timeout: Duration::from_secs(3600),
        ..Config::default()
    };
    let mut fabric = Iwarp::new(config).unwrap();
    let listener = fabric.listen(([127, 0, 0, 1], 0).into()).unwrap();
    let address = fabric.local_address(listener).unwrap();
    // At first a peer can get a descriptor. In the end none is left.
    let mut peers = Vec::new();
    while let Ok(peer) = TcpStream::connect(address) {
        peers.push(peer);
        assert!(peers.len() < 100, "this test has to be run with a limit");
    }
    let waiting = peers.len() - 4;
    peers.truncate(waiting);

    let start = Instant::from_nanos(1_000_000);
    let mut events = Vec::new();
    fabric.poll(start, &mut events).unwrap();
    let refusals = |events: &[Event]| {
        let out = |event: &&Event| {
            matches!(
                event,
                Event::Refused {
                    reason: CloseReason::Os(EMFILE),
                    ..
                }
            )
        };
        events.iter().filter(out).count()
    };
    assert_eq!(refusals(&events), 1, "{events:?}");
    let accepted = fabric.counts().connections;
    assert!(accepted < waiting);
    // The fabric waits, and is not woken for connections that it cannot have.
    let due = fabric.poll_timeout().unwrap();
    assert!(due > start && due - start < Duration::from_secs(1));
    let clock = std::time::Instant::now();
    for _ in 0..3 {
        let fd = fabric.event_fd().unwrap();
        wait_readable(fd, Some(Duration::from_millis(20))).unwrap();
        fabric.poll(start, &mut events).unwrap();
    }
    assert!(
        clock.elapsed() >= Duration::from_millis(40),
        "the fabric spins"
    );
    // There are still no descriptors, so the fabric tries again, and reports
    // the refusal again.
    fabric.poll(due, &mut events).unwrap();
    fabric.poll(due, &mut events).unwrap();
    assert_eq!(refusals(&events), 2, "{events:?}");
    // Some connections end, and all others come in.
    for _ in 0..waiting / 2 {
        peers.remove(0);
    }
    let mut now = due;
    for _ in 0..100 {
        now = now + Duration::from_millis(100);
        fabric.poll(now, &mut events).unwrap();
    }
    assert_eq!(fabric.counts().connections, peers.len());
}
