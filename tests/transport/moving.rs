// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests that a connection can be taken out of its transport and put in again, and when it cannot.

use std::time::Duration;

use smbdirect::fabric::Access;
use smbdirect::transport::Event;

use crate::pair::{End, Net};
use crate::rdma::piece;

/// Moves a connection out and in again. Its number changes.
fn move_it(net: &mut Net, end: &mut End) {
    let before = net.transport.connections().count();
    let moving = net.transport.take(end.conn).expect("nothing is under way");
    assert_eq!(net.transport.connections().count(), before - 1);
    assert!(net.transport.status(end.conn).is_none());
    let conn = net.transport.put(moving);
    assert_ne!(conn, end.conn);
    end.conn = conn;
}

fn send(net: &mut Net, from: &End, cookie: u64, length: u32) {
    let sent = net
        .transport
        .send(from.conn, cookie, from.at(0, length), None);
    sent.unwrap();
}

#[test]
fn messages_go_both_ways_after_each_move() {
    let mut net = Net::new();
    let (mut client, mut server) = net.establish();
    for round in 1..=20 {
        move_it(&mut net, &mut server);
        move_it(&mut net, &mut client);
        client.memory.write(0, &[round; 100]).unwrap();
        server.memory.write(0, &[round + 100; 100]).unwrap();
        send(&mut net, &client, 1, 50_000);
        send(&mut net, &server, 2, 100);
        net.settle();
        let mut sent = net.take_sent();
        sent.sort_unstable();
        assert_eq!(sent, [1, 2]);
        let (there, back) = (net.take_messages(&server), net.take_messages(&client));
        assert_eq!(
            (there.len(), there[0].len(), there[0][0]),
            (1, 50_000, round)
        );
        assert_eq!(
            (back.len(), back[0].len(), back[0][0]),
            (1, 100, round + 100)
        );
        assert!(net.events.is_empty());
    }
}

#[test]
fn operations_that_are_queued_or_posted_keep_a_connection() {
    let mut net = Net::new();
    let (client, mut server) = net.establish();
    send(&mut net, &server, 1, 100);
    assert!(
        net.transport.take(server.conn).is_none(),
        "a queued message"
    );
    let sink = server.at(0, 100);
    net.settle();
    assert_eq!(net.take_sent(), [1]);
    assert_eq!(net.take_messages(&client).len(), 1);
    let readable = net.end_with(client.conn, 4096, Access::RemoteRead);
    let source = piece(&readable, 0, 100);
    net.transport.read(server.conn, 2, sink, [source]).unwrap();
    assert!(
        net.transport.take(server.conn).is_none(),
        "a queued RDMA READ"
    );
    net.settle();
    assert!(matches!(
        net.events.remove(0),
        Event::Read {
            cookie: 2,
            result: Ok(()),
            ..
        }
    ));
    let target = piece(&client, 0, 100);
    net.transport.write(server.conn, 3, sink, [target]).unwrap();
    assert!(
        net.transport.take(server.conn).is_none(),
        "a queued RDMA WRITE"
    );
    net.settle();
    assert!(matches!(
        net.events.remove(0),
        Event::Written {
            cookie: 3,
            result: Ok(()),
            ..
        }
    ));
    move_it(&mut net, &mut server);
    net.transport.close(server.conn);
    assert!(
        net.transport.take(server.conn).is_none(),
        "it is being closed"
    );
    net.settle();
    assert_eq!(net.take_closed().len(), 2);
    assert!(net.transport.take(server.conn).is_none(), "it has gone");
}

/// A connection that has not negotiated counts against limits of its transport.
#[test]
fn a_connection_that_has_not_negotiated_stays() {
    let mut net = Net::new();
    let _peer = net.raw_peer();
    let conn = net.transport.connections().next().unwrap();
    assert!(net.transport.take(conn).is_none());
}

/// What the endpoint itself has to send moves along: here the answer to a keepalive that arrives in between.
#[test]
fn a_keepalive_is_answered_by_the_transport_that_the_connection_moves_to() {
    let mut net = Net::new();
    let (client, mut server) = net.establish();
    let idle = Duration::from_secs(120);
    for _ in 0..3 {
        let moving = net.transport.take(server.conn).unwrap();
        // The client asks, and gets no answer yet.
        net.pass(idle);
        assert!(net.events.is_empty());
        server.conn = net.transport.put(moving);
        net.settle();
        assert!(net.events.is_empty());
    }
    send(&mut net, &client, 1, 100);
    net.settle();
    assert_eq!(
        (net.take_messages(&server).len(), net.take_sent()),
        (1, vec![1])
    );
}

/// A connection that asks whether its peer is there, and moves before the answer comes, does not ask in vain.
#[test]
fn a_keepalive_that_awaits_its_answer_moves_along() {
    let mut net = Net::new();
    let (mut client, server) = net.establish();
    net.now = net.now + Duration::from_secs(120);
    // The question is posted. The answer is on its way.
    net.transport.poll(net.now, &mut net.events).unwrap();
    move_it(&mut net, &mut client);
    net.pass(Duration::from_secs(30));
    assert!(net.events.is_empty());
    send(&mut net, &server, 1, 100);
    net.settle();
    assert_eq!(
        (net.take_messages(&client).len(), net.take_sent()),
        (1, vec![1])
    );
    // The deadlines moved along, too: a peer that is silent is noticed.
    let moving = net.transport.take(server.conn).unwrap();
    net.pass(Duration::from_secs(1000));
    let closed = net.take_closed();
    assert_eq!(closed.len(), 1);
    assert_eq!(closed[0].0, client.conn);
    let server = net.transport.put(moving);
    net.settle();
    assert_eq!(net.take_closed(), [(server, "peer")]);
}
