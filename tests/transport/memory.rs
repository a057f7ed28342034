// SPDX-License-Identifier: GPL-2.0-or-later

use allocation_counter::measure;
use smbdirect::transport::Event;

use crate::pair::{End, Net};

const KIB: i64 = 1024;
/// The memory that [`Net::establish`] registers for each end.
const END_MEMORY: i64 = 2 << 20;

/// Returns the bytes that each of `count` calls of `f` takes.
fn bytes_each(count: i64, mut f: impl FnMut()) -> i64 {
    measure(|| (0..count).for_each(|_| f())).bytes_current / count
}

#[test]
fn a_peer_that_has_not_negotiated_costs_little() {
    let mut net = Net::new();
    net.raw_peer();
    // This includes both ends of the fabric's connection, and the 4 KiB that the peer registers.
    let bytes = bytes_each(16, || drop(net.raw_peer()));
    println!("{bytes} bytes for two ends and 4 KiB of the peer");
    assert!(bytes - 4 * KIB <= 16 * KIB, "{bytes}");
}

#[test]
fn an_idle_connection_costs_little_more_than_its_receives() {
    let mut net = Net::new();
    net.establish();
    let both_ends = bytes_each(16, || {
        net.transport.connect(net.now, net.address).unwrap();
        net.settle();
        net.events.clear();
    });
    println!("{both_ends} bytes for two ends");
    assert!(both_ends / 2 <= 360 * KIB, "{both_ends}");
}

#[test]
fn an_idle_connection_costs_little_after_a_burst_in_both_directions() {
    let mut net = Net::new();
    // The message buffers and the list of events do not belong to a connection.
    burst(&mut net);
    let both_ends = bytes_each(8, || burst(&mut net)) - 2 * END_MEMORY;
    println!("{both_ends} bytes for two ends");
    assert!(both_ends / 2 <= 360 * KIB, "{both_ends}");
}

/// Fills the queues of a new connection in both directions, one after the other.
fn burst(net: &mut Net) {
    let (client, server) = net.establish();
    for (from, to) in [(&client, &server), (&server, &client)] {
        for cookie in 0..256 {
            net.transport
                .send(from.conn, cookie, from.at(0, 3000), None)
                .unwrap();
        }
        net.settle();
        assert_eq!(net.take_messages(to).len(), 256);
        assert_eq!(net.take_sent().len(), 256);
    }
}

#[test]
fn messages_cost_no_allocation() {
    let mut net = Net::new();
    let (client, server) = net.establish();
    // At first the queues grow.
    exchange(&mut net, &client, &server);
    let allocations = measure(|| {
        for _ in 0..50 {
            exchange(&mut net, &client, &server);
        }
    });
    assert_eq!(allocations.count_total, 0);
}

fn exchange(net: &mut Net, client: &End, server: &End) {
    for (from, to) in [(client, server), (server, client)] {
        for cookie in 0..100 {
            net.transport
                .send(from.conn, cookie, from.at(0, 100), None)
                .unwrap();
        }
        let mut messages = 0;
        while messages < 100 {
            net.transport.poll(net.now, &mut net.events).unwrap();
            for event in net.events.drain(..) {
                if let Event::Message { conn, buffer, .. } = event {
                    assert_eq!(conn, to.conn);
                    messages += 1;
                    net.transport.recycle(buffer);
                }
            }
        }
    }
}
