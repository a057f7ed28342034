use allocation_counter::measure;
use smbdirect::transport::Event;

use crate::pair::{End, Net};

const KIB: i64 = 1024;

/// Bytes for each of `count` times `f`.
fn bytes_each(count: i64, mut f: impl FnMut()) -> i64 {
    measure(|| (0..count).for_each(|_| f())).bytes_current / count
}

#[test]
fn a_peer_that_has_not_negotiated_costs_little() {
    let mut net = Net::new();
    net.raw_peer();
    // With both ends of the fabric's connection, and the 4 KiB that the peer registers.
    let bytes = bytes_each(16, || drop(net.raw_peer()));
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
    assert!(both_ends / 2 <= 360 * KIB, "{both_ends}");
}

#[test]
fn messages_cost_no_allocation() {
    let mut net = Net::new();
    let (client, server) = net.establish();
    // The queues grow at first.
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
