// SPDX-License-Identifier: GPL-2.0-or-later

use std::time::Duration;

use smbdirect::fabric::loopback::LoopbackConfig;
use smbdirect::fabric::{Fabric, WrError, WrId};
use smbdirect::proto::State;
use smbdirect::transport::{Event, HeapBuffers, SendError};
use smbdirect::units::Credits;

use crate::pair::{Net, config};

#[test]
fn negotiates_and_reports_both_ends() {
    let mut net = Net::new();
    let (client, server) = net.establish();
    for end in [&client, &server] {
        let status = net.transport.status(end.conn).unwrap();
        assert_eq!(status.state, State::Established);
        assert_eq!(status.negotiated.unwrap().max_send_size, 1364);
        assert!(status.limits.is_some());
    }
    let status = net.transport.status(client.conn).unwrap();
    assert!(status.send_credits > Credits::ZERO);
    assert_eq!(net.transport.counters().requested, 1);
    assert_eq!(net.transport.counters().established, 2);
}

#[test]
fn carries_messages_of_all_sizes_both_ways() {
    let mut net = Net::new();
    let (client, server) = net.establish();
    for (cookie, length) in [1, 2, 100, 1340, 1341, 2680, 5000, 131_072, 1 << 20]
        .into_iter()
        .enumerate()
    {
        let data: Vec<u8> = (0..length).map(|i: u32| (i * 7 + length) as u8).collect();
        client.memory.write(3, &data).unwrap();
        let source = client.at(3, length);
        net.transport
            .send(client.conn, cookie as u64, source, None)
            .unwrap();
        net.settle();
        assert_eq!(net.take_messages(&server), std::slice::from_ref(&data));
        server.memory.write(0, &data).unwrap();
        net.transport
            .send(server.conn, cookie as u64, server.at(0, length), None)
            .unwrap();
        net.settle();
        assert_eq!(net.take_messages(&client), [data]);
        assert_eq!(net.take_sent(), [cookie as u64; 2]);
    }
    assert!(net.events.is_empty(), "{:?}", net.events);
    assert_eq!(net.transport.buffers().outstanding(), 0);
    let (there, back) = (client.conn, server.conn);
    let there = net.transport.status(there).unwrap().traffic;
    let back = net.transport.status(back).unwrap().traffic;
    assert_eq!((there.messages_out, there.messages_in), (9, 9));
    assert_eq!(there.inline_bytes_out, back.inline_bytes_in);
    assert_eq!(there.inline_bytes_in, back.inline_bytes_out);
}

#[test]
fn a_queue_longer_than_the_credits_goes_out_in_order() {
    let mut net = Net::new();
    let (client, server) = net.establish();
    let mut messages = Vec::new();
    let mut cookie = 0;
    for round in 0..20_u32 {
        client.memory.write(0, &[round as u8; 4096]).unwrap();
        loop {
            let length = 1 + (cookie as u32 * 37) % 4000;
            match net
                .transport
                .send(client.conn, cookie, client.at(0, length), None)
            {
                Ok(()) => cookie += 1,
                Err(error) => {
                    assert_eq!(error, SendError::QueueFull);
                    break;
                }
            }
        }
        net.settle();
        messages.append(&mut net.take_messages(&server));
    }
    assert_eq!(messages.len() as u64, cookie);
    for (index, message) in messages.iter().enumerate() {
        assert_eq!(message.len(), 1 + (index * 37) % 4000);
    }
    assert!(net.take_sent().into_iter().eq(0..cookie));
}

#[test]
fn refuses_messages_that_cannot_be_sent() {
    let mut net = Net::new();
    let unestablished = net.transport.connect(net.now, net.address).unwrap();
    let (client, _) = {
        net.settle();
        net.events.clear();
        net.establish()
    };
    let mut send = |conn, memory| net.transport.send(conn, 0, memory, None).unwrap_err();
    assert_eq!(send(client.conn, client.at(0, 0)), SendError::Empty);
    assert_eq!(
        send(client.conn, client.at(0, (1 << 20) + 1)),
        SendError::TooLong
    );
    assert_eq!(
        send(client.conn, client.at(2 << 20, 1)),
        SendError::LocalProtection
    );
    assert_eq!(
        send(client.conn, client.at(u32::MAX, 1)),
        SendError::LocalProtection
    );
    let mut foreign = client.at(0, 1);
    foreign.region.0 += 1000;
    assert_eq!(send(client.conn, foreign), SendError::LocalProtection);
    // The pool of receives is a region too, but it does not belong to the owner.
    for region in 0..10 {
        foreign.region.0 = region;
        if foreign.region != client.region.id {
            assert_eq!(send(client.conn, foreign), SendError::LocalProtection);
        }
    }
    net.transport.close(unestablished);
    assert_eq!(
        net.transport
            .send(unestablished, 0, client.at(0, 1), None)
            .unwrap_err(),
        SendError::NotEstablished
    );
    net.settle();
    assert_eq!(net.take_closed().len(), 2);
}

#[test]
fn grants_no_credits_without_buffers_and_recovers() {
    let mut net = Net::with(
        config(),
        LoopbackConfig::default(),
        HeapBuffers::with_limit(3),
    );
    let (client, server) = net.establish();
    let mut sent = 0_u64;
    let mut received = Vec::new();
    for _ in 0..10 {
        while net
            .transport
            .send(client.conn, sent, client.at(0, 100 + sent as u32), None)
            .is_ok()
        {
            sent += 1;
        }
        net.settle();
    }
    let status = net.transport.status(client.conn).unwrap();
    assert!(status.queued > 0);
    assert!(status.send_credits <= Credits(1), "{status:?}");
    let status = net.transport.status(server.conn).unwrap();
    assert!((100..=255).contains(&status.starved), "{status:?}");
    assert_eq!(status.traffic.buffer_waits, status.starved as u64);
    assert!(status.receives_posted < 150, "{status:?}");

    // The other direction, and other connections, notice nothing.
    net.transport
        .send(server.conn, 9999, server.at(0, 7), None)
        .unwrap();
    net.settle();
    while received.len() < sent as usize {
        let before = received.len();
        received.append(&mut net.take_messages(&server));
        assert!(
            received.len() > before,
            "stops after {before} of {sent} messages"
        );
        net.settle();
    }
    for (index, message) in received.iter().enumerate() {
        assert_eq!(message.len(), 100 + index);
    }
    net.settle();
    assert_eq!(net.take_messages(&client).len(), 1);
    assert_eq!(net.transport.buffers().outstanding(), 0);
    assert_eq!(net.take_sent().len() as u64, sent + 1);
}

#[test]
fn buffers_that_come_back_are_shared_among_all_waiting_connections() {
    let mut net = Net::with(
        config(),
        LoopbackConfig::default(),
        HeapBuffers::with_limit(1),
    );
    let ends: Vec<_> = (0..5).map(|_| net.establish()).collect();
    for cookie in 0..100 {
        for (client, _) in &ends {
            net.transport
                .send(client.conn, cookie, client.at(0, 10), None)
                .unwrap();
        }
    }
    net.settle();
    for _ in 0..50 {
        for (_, server) in &ends {
            net.take_messages(server);
        }
        net.settle();
    }
    for (_, server) in &ends {
        let traffic = net.transport.status(server.conn).unwrap().traffic;
        assert!(traffic.messages_in >= 8, "{traffic:?}");
    }
}

#[test]
fn a_peer_without_buffers_for_too_long_is_given_up() {
    let mut net = Net::with(
        config(),
        LoopbackConfig::default(),
        HeapBuffers::with_limit(0),
    );
    let (client, _) = net.establish();
    for cookie in 0..256 {
        let source = client.at(0, 2000);
        net.transport
            .send(client.conn, cookie, source, None)
            .unwrap();
    }
    net.pass(Duration::from_secs(100));
    assert!(net.take_closed().is_empty());
    net.pass(Duration::from_secs(30));
    let closed = net.take_closed();
    assert_eq!(closed.len(), 2, "{closed:?}");
    let ended = net
        .events
        .iter()
        .filter(|event| matches!(event, Event::Sent { conn, .. } if *conn == client.conn));
    assert_eq!(ended.count(), 256, "every message ends in one event");
}

#[test]
fn an_owner_without_buffers_for_a_minute_loses_no_connection() {
    let mut config = config();
    config.acceptor.idle_timeout = Duration::from_secs(20);
    let mut net = Net::with(
        config,
        LoopbackConfig::default(),
        HeapBuffers::with_limit(2),
    );
    let (client, server) = net.establish();
    for cookie in 0..256 {
        net.transport
            .send(client.conn, cookie, client.at(0, 2000), None)
            .unwrap();
    }
    net.pass(Duration::from_secs(60));
    assert_eq!(net.take_closed(), []);
    let mut messages = 0;
    while messages < 256 {
        let taken = net.take_messages(&server).len();
        assert!(taken > 0, "stops after {messages} messages");
        messages += taken;
        net.settle();
    }
    assert_eq!(net.take_sent().len(), 256);
    net.pass(Duration::from_secs(600));
    assert_eq!(net.take_closed(), []);
}

#[test]
fn close_delivers_queued_messages_first() {
    let mut net = Net::with(
        config(),
        LoopbackConfig {
            send_queue: 3,
            ..LoopbackConfig::default()
        },
        HeapBuffers::new(),
    );
    let (client, server) = net.establish();
    for cookie in 0..200 {
        client.memory.write(0, &[7; 3000]).unwrap();
        net.transport
            .send(client.conn, cookie, client.at(0, 3000), None)
            .unwrap();
    }
    net.transport.close(client.conn);
    let status = net.transport.status(client.conn).unwrap();
    assert_eq!((status.state, status.queued), (State::Closing, 200));
    assert_eq!(
        net.transport.send(client.conn, 0, client.at(0, 1), None),
        Err(SendError::NotEstablished)
    );
    net.settle();
    assert_eq!(net.take_messages(&server).len(), 200);
    assert_eq!(net.take_sent().len(), 200);
    let mut closed = net.take_closed();
    closed.sort_unstable_by_key(|(_, name)| *name);
    assert_eq!(closed, [(client.conn, "local"), (server.conn, "peer")]);
    assert_eq!(net.transport.counters().closed_by("local"), 1);
    assert_eq!(net.transport.counters().closed_by("peer"), 1);
    assert!(net.transport.status(client.conn).is_none());
}

#[test]
fn abort_ends_each_queued_send_exactly_once() {
    let mut net = Net::new();
    let (client, server) = net.establish();
    for cookie in 0..5 {
        net.transport
            .send(client.conn, cookie, client.at(0, 10), None)
            .unwrap();
    }
    net.transport.abort(client.conn);
    net.transport.abort(client.conn);
    let status = net.transport.status(client.conn).unwrap();
    assert_eq!(status.state, State::Closed);
    net.settle();
    let cookies: Vec<_> = net
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Sent {
                cookie,
                result: Err(WrError::Flushed),
                ..
            } => Some(*cookie),
            _ => None,
        })
        .collect();
    assert_eq!(cookies, [0, 1, 2, 3, 4]);
    let mut closed = net.take_closed();
    closed.sort_unstable_by_key(|(_, name)| *name);
    assert_eq!(closed, [(client.conn, "aborted"), (server.conn, "peer")]);
}

#[test]
fn an_idle_connection_lives_by_keepalives() {
    let mut net = Net::new();
    let (client, server) = net.establish();
    net.pass(Duration::from_secs(3 * 3600));
    assert!(net.events.is_empty(), "{:?}", net.events);
    net.transport
        .send(client.conn, 1, client.at(0, 100), None)
        .unwrap();
    net.settle();
    assert_eq!(net.take_messages(&server).len(), 1);
}

#[test]
fn an_incomplete_message_gives_its_buffer_back() {
    let mut net = Net::new();
    let raw = net.raw_peer();
    raw.memory.write(0, &NEGOTIATE_REQUEST).unwrap();
    let fabric = net.transport.fabric_mut();
    // Post two receives: one for the response, and one for credits that the other end may have to grant.
    for slot in 0..2 {
        let mut receive = raw.at(1024 + slot * 512, 512);
        receive.region = raw.region.id;
        fabric
            .post_recv(raw.conn, WrId(slot.into()), receive)
            .unwrap();
    }
    fabric
        .post_send(raw.conn, WrId(0), &NEGOTIATE_REQUEST, None, None)
        .unwrap();
    net.settle();
    // Send 8 of 100 bytes, and grant enough credits to answer.
    let mut fragment = [0; 32];
    fragment[0] = 10;
    fragment[2] = 1;
    fragment[8] = 92;
    fragment[12] = 24;
    fragment[16] = 8;
    net.transport
        .fabric_mut()
        .post_send(raw.conn, WrId(0), &fragment, None, None)
        .unwrap();
    net.settle();
    assert_eq!(net.transport.buffers().outstanding(), 1);
    net.transport.fabric_mut().close(raw.conn);
    net.settle();
    assert_eq!(net.transport.buffers().outstanding(), 0);
    assert_eq!(net.take_closed().len(), 1);
}

/// [MS-SMBD] 2.2.1: versions 1.0, 10 credits, 1364 bytes each way, 128 KiB fragmented.
pub(crate) const NEGOTIATE_REQUEST: [u8; 20] = [
    0x00, 0x01, 0x00, 0x01, 0, 0, 10, 0, 0x54, 0x05, 0, 0, 0x54, 0x05, 0, 0, 0, 0, 2, 0,
];
