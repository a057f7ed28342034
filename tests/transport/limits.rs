// SPDX-License-Identifier: GPL-2.0-or-later

use std::time::Duration;

use smbdirect::fabric::loopback::LoopbackConfig;
use smbdirect::fabric::{Fabric, WrId};
use smbdirect::transport::{Config, ConnectError, Event, HeapBuffers, Transport};
use smbdirect::units::Instant;

use crate::messages::NEGOTIATE_REQUEST;
use crate::mute::Mute;
use crate::pair::{Net, config};

fn net(config: Config) -> Net {
    Net::with(config, LoopbackConfig::default(), HeapBuffers::new())
}

fn connections(net: &Net) -> usize {
    net.transport.connections().count()
}

#[test]
fn the_unnegotiated_connections_of_one_source_are_limited() {
    let mut net = net(config());
    for _ in 0..40 {
        net.raw_peer();
    }
    assert_eq!(connections(&net), 32);
    assert_eq!(
        net.transport
            .counters()
            .closed_by("too_many_unnegotiated_of_source"),
        8
    );
    // The places are free again once the negotiation timer has expired.
    net.pass(Duration::from_millis(5100));
    assert_eq!(connections(&net), 0);
    let names: Vec<_> = net.transport.counters().closed().collect();
    assert_eq!(names.iter().map(|(_, count)| count).sum::<u64>(), 40);
    assert!(
        net.take_closed().is_empty(),
        "the owner never learned of these connections"
    );
    net.establish();
}

#[test]
fn the_unnegotiated_connections_of_all_sources_are_limited() {
    let mut net = net(Config {
        max_unnegotiated: 5,
        ..config()
    });
    for _ in 0..8 {
        net.raw_peer();
    }
    assert_eq!(connections(&net), 5);
    assert_eq!(
        net.transport.counters().closed_by("too_many_unnegotiated"),
        3
    );
}

#[test]
fn negotiated_connections_do_not_count_as_unnegotiated() {
    let mut net = net(Config {
        max_unnegotiated: 1,
        max_unnegotiated_per_source: 1,
        ..config()
    });
    for _ in 0..10 {
        net.establish();
    }
    assert_eq!(connections(&net), 20);
    // Connections that have ended are not listed either.
    let all: Vec<_> = net.transport.connections().collect();
    for conn in all {
        net.transport.close(conn);
    }
    net.settle();
    net.events.clear();
    net.establish();
}

#[test]
fn takes_no_more_connections_than_configured() {
    let mut net = net(Config {
        max_connections: 3,
        ..config()
    });
    net.establish();
    net.raw_peer();
    net.raw_peer();
    assert_eq!(connections(&net), 3);
    assert_eq!(
        net.transport.counters().closed_by("too_many_connections"),
        1
    );
    assert!(matches!(
        net.transport.connect(net.now, net.address),
        Err(ConnectError::TooManyConnections)
    ));
}

#[test]
fn silence_ends_a_connection_after_five_seconds() {
    let mut net = net(config());
    net.raw_peer();
    net.pass(Duration::from_millis(4990));
    assert_eq!(connections(&net), 1);
    net.pass(Duration::from_millis(20));
    assert_eq!(connections(&net), 0);
    let (name, count) = net.transport.counters().closed().next().unwrap();
    assert!(name.contains("negotiat") && count == 1, "{name}");
}

#[test]
fn a_negotiation_after_four_seconds_is_in_time() {
    let mut net = net(config());
    let raw = net.raw_peer();
    net.pass(Duration::from_secs(4));
    let fabric = net.transport.fabric_mut();
    fabric.post_recv(raw.conn, WrId(0), raw.at(0, 512)).unwrap();
    fabric
        .post_send(raw.conn, WrId(0), &NEGOTIATE_REQUEST, None, None)
        .unwrap();
    net.pass(Duration::from_secs(100));
    assert_eq!(connections(&net), 1);
    assert_eq!(raw.memory.to_vec(4, 2).unwrap(), [0x00, 0x01]);
}

#[test]
fn messages_that_arrive_in_time_count_however_late_the_owner_polls() {
    let mut net = net(config());
    let raw = net.raw_peer();
    let fabric = net.transport.fabric_mut();
    for slot in 0..4 {
        fabric
            .post_recv(raw.conn, WrId(slot), raw.at(0, 512))
            .unwrap();
    }
    // The owner sleeps past the end of the negotiation timer, and later past the end of the keepalive timer.
    net.now = net.now + Duration::from_secs(4);
    let fabric = net.transport.fabric_mut();
    fabric
        .post_send(raw.conn, WrId(0), &NEGOTIATE_REQUEST, None, None)
        .unwrap();
    net.now = net.now + Duration::from_secs(60);
    net.settle();
    assert_eq!(connections(&net), 1);
    for _ in 0..2 {
        // This grants two credits, and answers the keepalive.
        let mut empty = [0; 20];
        (empty[0], empty[2]) = (10, 2);
        net.transport
            .fabric_mut()
            .post_send(raw.conn, WrId(0), &empty, None, None)
            .unwrap();
        net.now = net.now + Duration::from_secs(60);
        net.settle();
        net.pass(Duration::from_secs(120));
        assert_eq!(
            connections(&net),
            1,
            "the server has asked, and waits for an answer"
        );
    }
}

#[test]
fn a_wrong_first_message_ends_only_its_connection() {
    let mut net = net(config());
    let (client, server) = net.establish();
    for message in [&[0_u8; 0][..], &[0; 19], &[0xff; 32], &[0; 20]] {
        let raw = net.raw_peer();
        let before = net
            .transport
            .counters()
            .closed()
            .map(|(_, n)| n)
            .sum::<u64>();
        let fabric = net.transport.fabric_mut();
        for slot in 0..2 {
            fabric
                .post_recv(raw.conn, WrId(slot), raw.at(0, 512))
                .unwrap();
        }
        fabric
            .post_send(raw.conn, WrId(0), message, None, None)
            .unwrap();
        net.settle();
        let after = net
            .transport
            .counters()
            .closed()
            .map(|(_, n)| n)
            .sum::<u64>();
        assert_eq!(after, before + 1, "{message:?}");
        assert_eq!(connections(&net), 2);
    }
    let names: Vec<_> = net.transport.counters().closed().collect();
    assert!(names.iter().all(|(name, _)| *name != "local"), "{names:?}");
    assert!(net.events.is_empty());
    net.transport
        .send(client.conn, 1, client.at(0, 10), None)
        .unwrap();
    net.settle();
    assert_eq!(net.take_messages(&server).len(), 1);
}

#[test]
fn a_malformed_message_ends_only_its_connection_with_the_endpoints_error() {
    let mut net = net(config());
    let (client, server) = net.establish();
    let raw = net.raw_peer();
    let fabric = net.transport.fabric_mut();
    for slot in 0..4 {
        fabric
            .post_recv(raw.conn, WrId(slot), raw.at(0, 512))
            .unwrap();
    }
    fabric
        .post_send(raw.conn, WrId(0), &NEGOTIATE_REQUEST, None, None)
        .unwrap();
    net.settle();
    net.events.clear();
    // DataOffset is far beyond the end of the message.
    let mut message = [0; 32];
    message[0] = 1;
    message[2] = 1;
    message[12..20].copy_from_slice(&[0xf8, 0xff, 0xff, 0xff, 0x10, 0, 0, 0]);
    net.transport
        .fabric_mut()
        .post_send(raw.conn, WrId(0), &message, None, None)
        .unwrap();
    net.settle();
    let closed = net.take_closed();
    assert_eq!(closed.len(), 1);
    assert!(!["local", "peer"].contains(&closed[0].1), "{closed:?}");
    assert_eq!(net.transport.counters().closed_by(closed[0].1), 1);
    net.transport
        .send(client.conn, 1, client.at(0, 10), None)
        .unwrap();
    net.settle();
    assert_eq!(net.take_messages(&server).len(), 1);
}

#[test]
fn a_version_that_is_refused_is_counted_as_such() {
    let mut net = net(config());
    let raw = net.raw_peer();
    let mut request = NEGOTIATE_REQUEST;
    (request[1], request[3]) = (2, 2);
    let fabric = net.transport.fabric_mut();
    fabric.post_recv(raw.conn, WrId(0), raw.at(0, 512)).unwrap();
    fabric
        .post_send(raw.conn, WrId(0), &request, None, None)
        .unwrap();
    net.settle();
    assert_eq!(connections(&net), 0);
    let names: Vec<_> = net.transport.counters().closed().collect();
    assert_eq!(names, [("negotiation_refused", 1)]);
    // STATUS_NOT_SUPPORTED has reached the peer.
    assert_eq!(raw.memory.to_vec(12, 4).unwrap(), [0xbb, 0, 0, 0xc0]);
}

#[test]
fn an_unanswered_connection_attempt_is_reported() {
    let mut net = net(config());
    let nobody = "127.0.0.1:1".parse().unwrap();
    let conn = net.transport.connect(net.now, nobody).unwrap();
    net.settle();
    assert_eq!(net.take_closed(), [(conn, "refused")]);
}

#[test]
fn a_request_that_is_never_established_loses_its_place_after_five_seconds() {
    let mut transport = Transport::new(Mute::default(), HeapBuffers::new(), config());
    let at = |milliseconds| Instant::ZERO + Duration::from_millis(milliseconds);
    let mut events = Vec::new();
    transport.poll(at(0), &mut events).unwrap();
    assert_eq!(transport.connections().count(), 1);
    assert_eq!(transport.poll_timeout(), Some(at(5000)));
    transport.poll(at(4999), &mut events).unwrap();
    assert_eq!(transport.connections().count(), 1);
    transport.poll(at(5000), &mut events).unwrap();
    assert_eq!(transport.poll_timeout(), Some(Instant::ZERO));
    transport.poll(at(5000), &mut events).unwrap();
    assert_eq!(transport.connections().count(), 0);
    let names: Vec<_> = transport.counters().closed().collect();
    assert_eq!(names, [("negotiation_timeout", 1)]);
    assert!(events.is_empty());
}

#[test]
fn a_thousand_idle_connections_are_visited_only_when_they_are_due() {
    let mut net = net(config());
    for _ in 0..500 {
        net.transport.connect(net.now, net.address).unwrap();
        net.settle();
        net.now = net.now + Duration::from_millis(1);
    }
    net.events.clear();
    assert_eq!(connections(&net), 1000);
    let mut polls = 0;
    let end = net.now + Duration::from_secs(600);
    while let Some(at) = net.transport.poll_timeout().filter(|at| *at <= end) {
        net.now = net.now.max(at);
        net.transport.poll(net.now, &mut net.events).unwrap();
        polls += 1;
    }
    // Each pair asks and answers every two minutes, each time in a few calls.
    assert!(polls < 5 * 500 * 10, "{polls}");
    assert!(net.events.is_empty());
    assert_eq!(connections(&net), 1000);
}

#[test]
fn a_connection_is_not_forgotten_for_a_new_one_in_its_place() {
    let mut transport = Transport::new(Mute::clogged(), HeapBuffers::new(), config());
    let nobody = "127.0.0.1:1".parse().unwrap();
    let first = transport.connect(Instant::ZERO, nobody).unwrap();
    transport.abort(first);
    let second = transport.connect(Instant::ZERO, nobody).unwrap();
    let mut events = Vec::new();
    transport.poll(Instant::ZERO, &mut events).unwrap();
    assert!(
        matches!(events[..], [Event::Closed { conn, .. }] if conn == first),
        "{events:?}"
    );
    assert!(transport.connections().eq([second]));
}

#[test]
fn close_ends_in_time_whatever_the_peer_does() {
    let mut net = net(config());
    let raw = net.raw_peer();
    raw.negotiate(&mut net, 60);
    let Some(Event::Established { conn, .. }) = net.events.pop() else {
        panic!("{:?}", net.events)
    };
    let server = net.end(conn, 2 << 20);
    raw.grant(&mut net, 2);
    for cookie in 0..10 {
        net.transport
            .send(conn, cookie, server.at(0, 100_000), None)
            .unwrap();
    }
    net.transport.close(conn);
    // One credit a minute is not enough for 750 messages.
    for _ in 0..3 {
        net.pass(Duration::from_secs(59));
        raw.grant(&mut net, 1);
    }
    assert_eq!(net.take_closed(), [(conn, "close_timeout")]);
    assert_eq!(
        net.events.len(),
        10,
        "each message ends once: {:?}",
        net.events
    );
    assert_eq!(connections(&net), 0);
}

#[test]
fn close_ends_in_time_even_if_the_owner_lacks_buffers() {
    let loopback = LoopbackConfig::default();
    let mut net = Net::with(config(), loopback, HeapBuffers::with_limit(0));
    let (client, server) = net.establish();
    // All receives of both sides hold messages, so none can be granted, and both sides are out of credits.
    for end in [&client, &server] {
        for cookie in 0..256 {
            net.transport
                .send(end.conn, cookie, end.at(0, 2000), None)
                .unwrap();
        }
    }
    net.settle();
    net.transport.close(server.conn);
    net.pass(Duration::from_secs(119));
    assert_eq!(net.take_closed(), []);
    net.pass(Duration::from_secs(2));
    assert_eq!(net.take_closed().len(), 2);
    assert_eq!(net.events.len(), 512, "each message ends once");
}

#[test]
fn close_ends_in_time_even_if_the_fabric_takes_nothing() {
    let mut transport = Transport::new(Mute::clogged(), HeapBuffers::new(), config());
    let at = |seconds| Instant::ZERO + Duration::from_secs(seconds);
    let mut events = Vec::new();
    let nobody = "127.0.0.1:1".parse().unwrap();
    let conn = transport.connect(at(0), nobody).unwrap();
    transport.poll(at(0), &mut events).unwrap();
    transport.close(conn);
    transport.poll(at(0), &mut events).unwrap();
    let deadline = transport.poll_timeout().unwrap();
    assert!(deadline <= at(120));
    transport.poll(deadline, &mut events).unwrap();
    transport.poll(deadline, &mut events).unwrap();
    assert!(matches!(events[..], [Event::Closed { .. }]), "{events:?}");
}

#[test]
fn waits_until_the_next_deadline_and_not_at_all_without_one() {
    let mut net = net(config());
    let start = std::time::Instant::now();
    net.transport.wait(net.now, None).unwrap();
    net.raw_peer();
    let late = net.now + Duration::from_millis(4970);
    net.transport.wait(late, None).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(30));
    net.transport
        .wait(net.now, Some(Duration::from_millis(10)))
        .unwrap();
    assert!(start.elapsed() < Duration::from_secs(4));
}
