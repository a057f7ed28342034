// SPDX-License-Identifier: GPL-2.0-or-later

use smbdirect::fabric::loopback::LoopbackConfig;
use smbdirect::fabric::{Access, RemoteAddress, WrError};
use smbdirect::transport::{Event, HeapBuffers, MAX_DESCRIPTORS, SendError};
use smbdirect::units::RemoteToken;
use smbdirect::wire::BufferDescriptorV1;

use crate::pair::{End, Net, config};

pub(crate) fn piece(end: &End, offset: u64, length: u32) -> BufferDescriptorV1 {
    let RemoteAddress { token, address } = end.region.remote;
    BufferDescriptorV1 {
        offset: address + offset,
        token,
        length,
    }
}

/// Makes a fabric whose queues are always full.
fn narrow() -> Net {
    let loopback = LoopbackConfig {
        send_queue: 2,
        read_queue: 2,
        ..LoopbackConfig::default()
    };
    Net::with(config(), loopback, HeapBuffers::new())
}

#[test]
fn a_message_does_not_overtake_the_data_queued_before_it() {
    let mut net = narrow();
    let (client, server) = net.establish();
    for round in 1..=50_u8 {
        server.memory.write(0, &[round; 1000]).unwrap();
        let target: Vec<_> = (0..10)
            .map(|i| piece(&client, u64::from(round) * 1000 + i * 100, 100))
            .collect();
        let cookie = u64::from(round);
        net.transport
            .write(server.conn, cookie, server.at(0, 1000), target)
            .unwrap();
        net.transport
            .send(server.conn, cookie, server.at(0, 5), None)
            .unwrap();
        // Poll by hand: the data must be there when the message arrives, not only at the end.
        while net.take_messages(&client).is_empty() {
            net.transport.poll(net.now, &mut net.events).unwrap();
        }
        let there = client
            .memory
            .to_vec(usize::from(round) * 1000, 1000)
            .unwrap();
        assert_eq!(there, [round; 1000]);
    }
    net.settle();
    let written: Vec<_> = net
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Written {
                cookie,
                result: Ok(()),
                ..
            } => Some(*cookie),
            _ => None,
        })
        .collect();
    assert!(written.into_iter().eq(1..=50), "each WRITE ends once");
    let traffic = net.transport.status(server.conn).unwrap().traffic;
    assert_eq!(traffic.rdma_write_bytes, 50_000);
}

#[test]
fn the_limit_counts_calls_however_many_descriptors_they_have() {
    for count in [256, MAX_DESCRIPTORS as u32] {
        let config = smbdirect::transport::Config {
            send_queue: 2,
            ..config()
        };
        let mut net = Net::with(config, LoopbackConfig::default(), HeapBuffers::new());
        let (client, server) = net.establish();
        for _ in 0..3 {
            let target = (0..count).map(|i| piece(&client, i.into(), 1));
            let memory = server.at(0, count);
            let full = Err(SendError::QueueFull);
            let transport = &mut net.transport;
            let written = transport.write(server.conn, 1, memory, target.clone());
            assert_eq!(written, Ok(()));
            let mut send = || transport.send(server.conn, 2, server.at(0, 5), None);
            assert_eq!((send(), send()), (Ok(()), full));
            assert_eq!(transport.status(server.conn).unwrap().queued, 2);
            net.settle();
            assert_eq!(net.transport.status(server.conn).unwrap().queued, 0);
            assert_eq!(net.take_messages(&client).len(), 1);
        }
        let transport = &mut net.transport;
        let source: Vec<_> = (0..count).map(|i| piece(&client, i.into(), 1)).collect();
        let mut read = || transport.read(server.conn, 3, server.at(0, count), source.clone());
        assert_eq!((read(), read()), (Ok(()), Ok(())));
        assert_eq!(read(), Err(SendError::QueueFull));
        assert_eq!(transport.status(server.conn).unwrap().queued_reads, 2);
    }
}

#[test]
fn descriptors_are_used_up_in_order_and_never_past_the_data() {
    for queues in [Net::new, narrow] {
        let mut net = queues();
        let (client, server) = net.establish();
        let data: Vec<u8> = (0..250).collect();
        server.memory.write(10, &data).unwrap();
        let target = [
            piece(&client, 100, 100),
            piece(&client, 0, 0),
            piece(&client, 1000, 149),
            piece(&client, 2000, 500),
            piece(&client, 3000, 500),
        ];
        net.transport
            .write(server.conn, 1, server.at(10, 250), target)
            .unwrap();
        net.settle();
        assert_eq!(client.memory.to_vec(100, 100).unwrap(), data[..100]);
        assert_eq!(
            client.memory.to_vec(1000, 150).unwrap(),
            [&data[100..249], &[0]].concat()
        );
        assert_eq!(client.memory.to_vec(2000, 2).unwrap(), [data[249], 0]);
        assert_eq!(client.memory.to_vec(3000, 500).unwrap(), [0; 500]);
        assert!(matches!(
            net.events[..],
            [Event::Written { cookie: 1, result: Ok(()), conn }] if conn == server.conn
        ));
    }
}

#[test]
fn a_read_collects_data_from_many_descriptors() {
    for queues in [Net::new, narrow] {
        let mut net = queues();
        let (client, server) = net.establish();
        let readable = smbdirect::sys::Memory::zeroed(10_000);
        let data: Vec<u8> = (0..10_000_u32).map(|i| (i % 251) as u8).collect();
        readable.write(0, &data).unwrap();
        let region = net
            .transport
            .register(client.conn, &readable, Access::RemoteRead)
            .unwrap();
        let source = End {
            conn: client.conn,
            memory: readable,
            region,
        };
        // The last descriptor is longer than the rest of the data.
        let pieces: Vec<_> = (0..100).map(|i| piece(&source, i * 100, 100)).collect();
        net.transport
            .read(server.conn, 7, server.at(5, 9950), pieces.iter().copied())
            .unwrap();
        net.transport
            .read(server.conn, 8, server.at(20_000, 10), pieces)
            .unwrap();
        net.settle();
        assert_eq!(
            server.memory.to_vec(5, 9951).unwrap(),
            [&data[..9950], &[0]].concat()
        );
        assert_eq!(
            server.memory.to_vec(20_000, 11).unwrap(),
            [&data[..10], &[0]].concat()
        );
        assert!(matches!(
            net.events[..],
            [
                Event::Read {
                    cookie: 7,
                    result: Ok(()),
                    ..
                },
                Event::Read {
                    cookie: 8,
                    result: Ok(()),
                    ..
                }
            ]
        ));
        let traffic = net.transport.status(server.conn).unwrap().traffic;
        assert_eq!(traffic.rdma_read_bytes, 9960);
    }
}

#[test]
fn refuses_descriptors_that_do_not_hold_the_data() {
    let mut net = Net::new();
    let (client, server) = net.establish();
    let overflowing = BufferDescriptorV1 {
        offset: u64::MAX,
        token: RemoteToken(1),
        length: 100,
    };
    let whole = piece(&client, 0, 100);
    for (pieces, error) in [
        (vec![], SendError::DescriptorsTooShort),
        (vec![piece(&client, 0, 99)], SendError::DescriptorsTooShort),
        (
            vec![piece(&client, 0, 50), overflowing],
            SendError::DescriptorWraps,
        ),
        (
            vec![piece(&client, 0, 0); MAX_DESCRIPTORS + 1],
            SendError::TooManyDescriptors,
        ),
    ] {
        let memory = server.at(0, 100);
        assert_eq!(
            net.transport
                .write(server.conn, 1, memory, pieces.iter().copied()),
            Err(error)
        );
        assert_eq!(
            net.transport.read(server.conn, 1, memory, pieces),
            Err(error)
        );
    }
    for memory in [server.at(0, 0), server.at(2 << 20, 1)] {
        assert!(
            net.transport
                .write(server.conn, 1, memory, [whole])
                .is_err()
        );
        assert!(net.transport.read(server.conn, 1, memory, [whole]).is_err());
    }
    net.settle();
    assert!(net.events.is_empty(), "nothing happened: {:?}", net.events);
}

#[test]
fn refuses_reads_from_a_peer_that_serves_no_reads() {
    let mut config = config();
    config.limits.responder_resources = 0;
    let mut net = Net::with(config, LoopbackConfig::default(), HeapBuffers::new());
    let (client, server) = net.establish();
    let read = net
        .transport
        .read(server.conn, 1, server.at(0, 10), [piece(&client, 0, 10)]);
    assert_eq!(read, Err(SendError::NoReads));
    net.transport
        .write(server.conn, 2, server.at(0, 10), [piece(&client, 0, 10)])
        .unwrap();
    net.settle();
    assert!(matches!(
        net.events[..],
        [Event::Written { result: Ok(()), .. }]
    ));
}

#[test]
fn an_access_that_the_peer_refuses_is_reported_with_its_reason() {
    let mut net = narrow();
    let (client, server) = net.establish();
    let mut wrong = piece(&client, 0, 100);
    wrong.token.0 ^= 0x5555;
    let good = piece(&client, 0, 100);
    net.transport
        .write(server.conn, 1, server.at(0, 300), [good, wrong, good])
        .unwrap();
    net.transport
        .write(server.conn, 2, server.at(0, 300), [good; 3])
        .unwrap();
    net.transport
        .send(server.conn, 3, server.at(0, 5), None)
        .unwrap();
    net.transport
        .read(server.conn, 4, server.at(0, 300), [good; 3])
        .unwrap();
    net.settle();
    assert!(net.take_messages(&client).is_empty());
    let mut results: Vec<_> = net
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Written { cookie, result, .. }
            | Event::Sent { cookie, result, .. }
            | Event::Read { cookie, result, .. } => Some((*cookie, *result)),
            _ => None,
        })
        .collect();
    results.sort_unstable_by_key(|(cookie, _)| *cookie);
    let cookies: Vec<_> = results.iter().map(|(cookie, _)| *cookie).collect();
    assert_eq!(cookies, [1, 2, 3, 4]);
    assert_eq!(results[0].1, Err(WrError::RemoteAccess));
    assert!(results.iter().all(|(_, result)| result.is_err()));
    let closed = net.take_closed();
    assert_eq!(closed.len(), 2);
    assert!(
        closed.iter().all(|(_, name)| *name == "remote_access"),
        "{closed:?}"
    );
}

#[test]
fn a_message_invalidates_the_token_that_it_names() {
    let mut net = Net::new();
    let (client, server) = net.establish();
    let token = client.region.remote.token;
    net.transport
        .send(server.conn, 1, server.at(0, 5000), Some(token))
        .unwrap();
    net.settle();
    net.take_sent();
    // The owner of the memory learns of the invalidation no later than when the message arrives.
    assert!(matches!(
        net.events[..],
        [Event::Invalidated { conn, token: told }, Event::Message { .. }]
            if conn == client.conn && told == token
    ));
    assert_eq!(net.take_messages(&client).len(), 1);
    net.events.clear();
    net.transport
        .write(server.conn, 2, server.at(0, 10), [piece(&client, 0, 10)])
        .unwrap();
    net.settle();
    assert!(matches!(
        net.events[0],
        Event::Written {
            result: Err(WrError::RemoteAccess),
            ..
        }
    ));
}

#[test]
fn memory_deregistered_under_queued_work_ends_only_that_connection() {
    let mut net = Net::new();
    let (client, _) = net.establish();
    let (_, other) = net.establish();
    net.transport
        .send(client.conn, 1, client.at(0, 10), None)
        .unwrap();
    net.transport
        .deregister(client.conn, client.region.id)
        .unwrap();
    assert!(
        net.transport
            .deregister(client.conn, client.region.id)
            .is_err()
    );
    net.settle();
    let closed = net.take_closed();
    assert!(
        closed.contains(&(client.conn, "local_protection")),
        "{closed:?}"
    );
    assert_eq!(closed.len(), 2);
    assert!(net.transport.status(other.conn).is_some());
}
