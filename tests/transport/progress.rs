// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests peers that answer keepalives, but take or answer nothing that was posted.

use std::time::Duration;

use smbdirect::fabric::fault::{Fault, Stall};
use smbdirect::fabric::loopback::Loopback;
use smbdirect::fabric::{Access, WrError};
use smbdirect::transport::Event;
use smbdirect::wire::BufferDescriptorV1;

use crate::pair::{End, Net};

type Faulty = Net<Fault<Loopback>>;

const SECOND: Duration = Duration::from_secs(1);
const NOTHING: Stall = Stall {
    sends: true,
    reads: false,
};
const NO_READS: Stall = Stall {
    sends: false,
    reads: true,
};

fn first(of: &End, length: u32) -> BufferDescriptorV1 {
    BufferDescriptorV1 {
        offset: of.region.remote.address,
        token: of.region.remote.token,
        length,
    }
}

/// Lets time pass while the client keeps sending messages.
fn pass(net: &mut Faulty, client: &End, server: &End, seconds: u32) {
    for _ in 0..seconds {
        net.pass(SECOND);
        let _ = net.transport.send(client.conn, 1, client.at(0, 1), None);
        net.settle();
        net.take_messages(server);
    }
}

#[test]
fn a_peer_that_takes_nothing_is_given_up_after_a_minute() {
    let mut net = Net::with_faults();
    let (client, server) = net.establish();
    pass(&mut net, &client, &server, 100);
    let fabric = net.transport.fabric_mut();
    fabric.stall(server.conn, NOTHING);
    net.transport
        .send(server.conn, 7, server.at(0, 1), None)
        .unwrap();
    pass(&mut net, &client, &server, 59);
    net.events
        .retain(|event| matches!(event, Event::Closed { .. }));
    assert_eq!(net.take_closed(), []);
    pass(&mut net, &client, &server, 1);
    let flushed = net.events.iter().any(|event| {
        matches!(
            event,
            Event::Sent {
                cookie: 7,
                result: Err(WrError::Flushed),
                ..
            }
        )
    });
    assert!(flushed, "{:?}", net.events);
    assert!(net.take_closed().contains(&(server.conn, "not_taken")));
}

#[test]
fn a_peer_that_answers_no_reads_is_given_up_after_a_minute_whatever_else_it_does() {
    let mut net = Net::with_faults();
    let (client, server) = net.establish();
    let source = net.end_with(client.conn, 100, Access::RemoteRead);
    net.transport.fabric_mut().stall(server.conn, NO_READS);
    net.transport
        .read(server.conn, 7, server.at(0, 100), [first(&source, 100)])
        .unwrap();
    for _ in 0..59 {
        // The client takes messages, and also RDMA WRITEs.
        net.transport
            .write(server.conn, 1, server.at(0, 100), [first(&client, 100)])
            .unwrap();
        net.transport
            .send(server.conn, 1, server.at(0, 1), None)
            .unwrap();
        pass(&mut net, &client, &server, 1);
        net.take_messages(&client);
    }
    assert_eq!(net.take_closed(), []);
    pass(&mut net, &client, &server, 1);
    let closed = net.take_closed();
    assert!(closed.contains(&(server.conn, "reads_not_answered")));
}

#[test]
fn each_answer_gives_the_next_answer_a_minute() {
    let mut net = Net::with_faults();
    let (client, server) = net.establish();
    let source = net.end_with(client.conn, 100, Access::RemoteRead);
    for _ in 0..10 {
        pass(&mut net, &client, &server, 50);
        net.transport
            .read(server.conn, 7, server.at(0, 100), [first(&source, 100)])
            .unwrap();
        net.settle();
    }
    net.transport.fabric_mut().stall(server.conn, NO_READS);
    net.transport
        .read(server.conn, 7, server.at(0, 100), [first(&source, 100)])
        .unwrap();
    pass(&mut net, &client, &server, 59);
    assert_eq!(net.take_closed(), []);
    pass(&mut net, &client, &server, 1);
    assert!(!net.take_closed().is_empty());
}
