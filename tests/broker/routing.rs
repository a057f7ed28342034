// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests which process gets a connection.

use smbdirect::device::Status;
use smbdirect::device::abi::{self, event, role};
use smbdirect::proto;

use zerocopy::FromBytes;

use crate::peer::Peers;
use crate::raw::Raw;
use crate::scene::{Scene, negotiate};

#[test]
fn a_client_that_is_registered_goes_to_its_worker() {
    let scene = Scene::new();
    let mut other = Raw::worker(scene.path());
    assert_eq!(other.register([2; 16], 0), Status::Ok);
    let (mut worker, conn, client) = scene.pair(1);
    let status = scene.status();
    assert_eq!(status.connections.len(), 1);
    let connection = &status.connections[0];
    assert_eq!(connection.id, Some(conn));
    assert_eq!(connection.worker, Some(worker.id()));
    assert_eq!(connection.state, "owned");
    assert_eq!(connection.local, Some(scene.address()));
    assert_eq!(status.totals.undispatched, 0);
    worker.reply(conn, b"hello");
    assert_eq!(client.message(), b"hello");
    assert!(other.try_completion().is_none());
}

#[test]
fn a_worker_learns_what_is_known_about_its_connection() {
    let scene = Scene::new();
    let mut worker = Raw::worker(scene.path());
    assert_eq!(worker.register([1; 16], 0), Status::Ok);
    let _client = scene.client(1);
    let info = worker.connection();
    let mapped = std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets();
    assert_eq!(info.peer_address, mapped);
    assert_eq!(info.local_address, mapped);
    assert_eq!(info.local_port, scene.address().port());
    assert_ne!(info.peer_port, 0);
    assert_eq!(info.client_guid, [1; 16]);
    assert_eq!(info.max_fragmented_receive_size, 1 << 20);
    assert_eq!(info.max_read_write_size, 1 << 20);
    assert!(info.initiator_depth > 0);
    assert_eq!(abi::queue_of(info.conn), 0);
}

#[test]
fn a_worker_learns_what_the_client_reassembles_beside_what_can_be_sent() {
    let scene = Scene::new();
    let mut worker = Raw::worker(scene.path());
    let reassembling = |max_fragmented_size| {
        Peers::with(proto::Config {
            max_fragmented_size,
            ..proto::Config::initiator_default()
        })
    };
    let (small, large) = (reassembling(173_910), reassembling(8 << 20));
    for (guid, peers, max_fragmented_size, max_fragmented_send_size) in
        [(1, &small, 173_910, 173_910), (2, &large, 8 << 20, 1 << 20)]
    {
        assert_eq!(worker.register([guid; 16], 0), Status::Ok);
        let client = peers.connect(scene.address());
        client.send(&negotiate(guid));
        let info = worker.connection();
        assert_eq!(info.peer_max_fragmented_size, max_fragmented_size);
        assert_eq!(info.max_fragmented_send_size, max_fragmented_send_size);
        assert_eq!(worker.pdu(info.conn), negotiate(guid));
    }
}

#[test]
fn no_process_is_given_a_connection_without_its_description() {
    let scene = Scene::new();
    let mut worker = Raw::worker(scene.path());
    assert_eq!(worker.register([1; 16], 0), Status::Ok);
    let mut listener = Raw::attach(scene.path(), role::LISTENER);
    for round in 0..200 {
        let client = scene.peers.connect(scene.address());
        // The worker or the listener may get the connection, if the device sees the request before the end.
        client.send_last(&negotiate(1 + round % 2));
        client.closed();
        scene.until("none is left", |status| status.totals.connections == 0);
        worker.read_socket();
        while let Some(completion) = worker.try_completion() {
            if completion.event == event::CONNECTION {
                let info = worker.take(&completion);
                let info = abi::ConnInfo::read_from_bytes(&info).unwrap();
                assert_eq!(info.max_fragmented_send_size, 1 << 20, "round {round}");
            } else if completion.event == event::PDU {
                worker.recycle(&completion);
            }
        }
        if let Some(offer) = listener.try_offer() {
            let length = offer.info.max_fragmented_send_size;
            assert_eq!(length, 1 << 20, "round {round}");
        }
    }
}

#[test]
fn another_client_is_offered_to_the_listener_and_goes_to_the_process_that_names_the_token() {
    let scene = Scene::new();
    let mut listener = Raw::attach(scene.path(), role::LISTENER);
    let client = scene.client(1);
    let offer = listener.offer();
    assert_eq!(offer.info.client_guid, [1; 16]);
    assert_ne!(offer.token, [0; 16]);
    assert_eq!(scene.status().totals.undispatched, 1);
    let mut worker = Raw::attach_with(scene.path(), role::WORKER, offer.token);
    let info = worker.connection();
    assert_eq!(worker.pdu(info.conn), negotiate(1));
    worker.reply(info.conn, b"hello");
    assert_eq!(client.message(), b"hello");
    assert_eq!(scene.status().totals.undispatched, 0);
}

#[test]
fn a_token_is_good_for_one_claim() {
    let scene = Scene::new();
    let mut listener = Raw::attach(scene.path(), role::LISTENER);
    let _client = scene.client(1);
    let token = listener.offer().token;
    let mut worker = Raw::worker(scene.path());
    assert_eq!(worker.claim([9; 16]), Status::NoToken);
    assert_eq!(worker.claim([0; 16]), Status::NoToken);
    assert_eq!(worker.claim(token), Status::Ok);
    worker.connection();
    assert_eq!(worker.claim(token), Status::NoToken);
    let mut late = Raw::connect(scene.path());
    let answer = late.try_attach(abi::VERSION, role::WORKER, token);
    assert_eq!(answer.status(), Status::NoToken);
    assert_eq!(late.detached(), Status::NoToken);
}

#[test]
fn without_a_listener_an_unknown_client_is_closed() {
    let scene = Scene::new();
    let client = scene.client(1);
    client.closed();
    let status = scene.until("closed", |status| status.totals.connections == 0);
    assert_eq!(status.counters["no_listener"], 1);
    assert_eq!(status.closes[0].reason, "no_listener");
    assert_eq!(status.totals.undispatched, 0);
}

#[test]
fn a_first_message_that_is_not_a_negotiate_request_ends_the_connection() {
    let scene = Scene::new();
    let _listener = Raw::attach(scene.path(), role::LISTENER);
    let mut response = negotiate(1);
    response[16] = 1;
    let mut read = negotiate(1);
    read[12] = 8;
    for message in [&b"hello"[..], &[0; 200], &response, &read] {
        let client = scene.peers.connect(scene.address());
        client.send(message);
        client.closed();
    }
    let status = scene.until("closed", |status| status.totals.connections == 0);
    assert_eq!(status.counters["first_request"], 4);
}

#[test]
fn a_client_that_ends_before_it_has_an_owner_leaves_nothing_behind() {
    let scene = Scene::new();
    let mut listener = Raw::attach(scene.path(), role::LISTENER);
    let client = scene.client(1);
    let token = listener.offer().token;
    client.close();
    scene.until("gone", |status| {
        status.totals.connections == 0 && status.totals.undispatched == 0
    });
    assert_eq!(scene.status().totals.offered, 0);
    let mut worker = Raw::worker(scene.path());
    assert_eq!(worker.claim(token), Status::NoToken);
}

/// A client ends its last connection and at once makes a new one. The new connection comes to a worker that is about to
/// end, but cannot have said so yet.
#[test]
fn a_connection_whose_worker_ends_before_it_does_anything_finds_another_worker() {
    for told in [false, true] {
        let scene = Scene::new();
        let mut listener = Raw::attach(scene.path(), role::LISTENER);
        let mut worker = Raw::worker(scene.path());
        assert_eq!(worker.register([1; 16], 0), Status::Ok);
        let client = scene.client(1);
        scene.until("it has an owner", |status| {
            status.connections.iter().any(|conn| conn.state == "owned")
        });
        if told {
            let info = worker.connection();
            assert_eq!(worker.pdu(info.conn), negotiate(1));
        }
        drop(worker);
        let token = listener.offer().token;
        let mut second = Raw::attach_with(scene.path(), role::WORKER, token);
        let info = second.connection();
        assert_eq!(second.pdu(info.conn), negotiate(1));
        second.reply(info.conn, b"answer");
        assert_eq!(client.message(), b"answer");
        client.send(b"next");
        assert_eq!(second.pdu(info.conn), b"next");
        let status = scene.status();
        assert_eq!(status.totals.undispatched, 0);
        assert_eq!(status.counters.get("recovered"), Some(&1));
    }
}

/// The client connects at every moment between the end of a worker and the time when nothing of the worker is left. It
/// connects to reactors that the worker knows as well as to others.
#[test]
fn a_client_that_comes_while_its_worker_ends_finds_another_worker() {
    let scene = Scene::with(|config| config.reactors = 2);
    let mut listener = Raw::attach(scene.path(), role::LISTENER);
    for _ in 0..30 {
        let (mut worker, conn, before) = scene.pair(1);
        worker.reply(conn, b"used");
        assert_eq!(before.message(), b"used");
        drop(worker);
        let client = scene.client(1);
        let token = listener.offer().token;
        let mut second = Raw::attach_with(scene.path(), role::WORKER, token);
        let info = second.connection();
        assert_eq!(second.pdu(info.conn), negotiate(1));
        second.reply(info.conn, b"answer");
        assert_eq!(client.message(), b"answer");
    }
}

/// No memory is left in which to tell the worker of the connection, and the worker can get no more.
#[test]
fn a_client_that_comes_while_its_worker_ends_with_memory_used_up_finds_another_worker() {
    let scene = Scene::new();
    let mut listener = Raw::attach(scene.path(), role::LISTENER);
    for round in 0..64 {
        let (mut worker, conn, before) = scene.pair(1);
        worker.reply(conn, b"used");
        assert_eq!(before.message(), b"used");
        for _ in 0..round % 8 {
            before.send(b"never given back");
            worker.expect(event::PDU);
        }
        let client = scene.peers.connect(scene.address());
        drop(worker);
        client.send(&negotiate(1));
        let token = listener.offer().token;
        let mut second = Raw::attach_with(scene.path(), role::WORKER, token);
        let info = second.connection();
        assert_eq!(second.pdu(info.conn), negotiate(1));
        second.reply(info.conn, b"answer");
        assert_eq!(client.message(), b"answer");
    }
}

/// The worker lives and its socket is open, but messages of the device no longer reach it.
#[test]
fn a_worker_that_has_closed_its_half_of_the_socket_is_detached() {
    let scene = Scene::new();
    let mut listener = Raw::attach(scene.path(), role::LISTENER);
    let (mut worker, conn, client) = scene.pair(1);
    worker.reply(conn, b"used");
    assert_eq!(client.message(), b"used");
    rustix::net::shutdown(&worker.socket, rustix::net::Shutdown::Read).unwrap();
    // This message is longer than all of the memory.
    client.send(&[7; 256 << 10]);
    client.closed();
    scene.until("the listener alone is there", |status| {
        status.processes.len() == 1
    });
    let _next = scene.client(1);
    listener.offer();
}

#[test]
fn a_connection_on_which_something_was_done_ends_with_its_worker() {
    for client_goes_on in [false, true] {
        let scene = Scene::new();
        let mut listener = Raw::attach(scene.path(), role::LISTENER);
        let (mut worker, conn, client) = scene.pair(1);
        if client_goes_on {
            client.send(b"before there was an answer");
            worker.expect(event::PDU);
        } else {
            worker.reply(conn, b"answer");
            assert_eq!(client.message(), b"answer");
        }
        drop(worker);
        client.closed();
        assert!(listener.try_offer().is_none());
        assert_eq!(scene.status().totals.undispatched, 0);
    }
}

#[test]
fn a_connection_is_transferred_by_guid_with_a_first_message() {
    let scene = Scene::new();
    let (mut first, conn, client) = scene.pair(1);
    let mut second = Raw::worker(scene.path());
    assert_eq!(second.register([2; 16], 0), Status::Ok);
    let done = first.transfer(conn, [2; 16], b"carried");
    assert_eq!(done.status, 0);
    let info = second.connection();
    assert_eq!(second.pdu(info.conn), b"carried");
    client.send(b"next");
    assert_eq!(second.pdu(info.conn), b"next");
    second.reply(info.conn, b"answer");
    assert_eq!(client.message(), b"answer");
    // The connection no longer belongs to the first worker, and using it late is not a fault.
    first.send_pdu(conn, 5, b"late");
    let (sent, status) = first.expect(event::SENT);
    assert_eq!((sent.cookie, status), (5, Status::Flushed));
    second.disconnect(info.conn);
    client.closed();
    second.expect(event::DISCONNECTED);
    assert!(first.try_completion().is_none());
}

#[test]
fn a_connection_is_transferred_by_token() {
    let scene = Scene::new();
    let (mut first, conn, client) = scene.pair(1);
    let done = first.transfer(conn, [0; 16], b"carried");
    assert_eq!(done.status, 0);
    assert_ne!(done.token, [0; 16]);
    assert_eq!(scene.status().totals.undispatched, 1);
    client.send(b"meanwhile");
    let mut second = Raw::attach_with(scene.path(), role::WORKER, done.token);
    let info = second.connection();
    assert_eq!(second.pdu(info.conn), b"carried");
    assert_eq!(second.pdu(info.conn), b"meanwhile");
    assert_eq!(scene.status().totals.undispatched, 0);
}

#[test]
fn a_transfer_needs_an_owner_and_a_quiet_connection() {
    let scene = Scene::new();
    let (mut worker, conn, client) = scene.pair(1);
    let status = |done: abi::Completion| Status::from_code(done.status).unwrap();
    let done = worker.transfer(conn, [9; 16], b"carried");
    assert_eq!(status(done), Status::NoOwner);
    let done = worker.transfer(conn, [1; 16], b"carried");
    assert_eq!(status(done), Status::Invalid);
    client.send(b"held by the worker");
    let (pdu, _) = worker.expect(event::PDU);
    let done = worker.transfer(conn, [0; 16], b"carried");
    assert_eq!(status(done), Status::Busy);
    worker.recycle(&pdu);
    let done = worker.transfer(conn, [0; 16], b"carried");
    assert_eq!(status(done), Status::Ok);
}

#[test]
fn a_connection_is_not_transferred_while_a_message_is_put_together() {
    let scene = Scene::new();
    let (mut worker, conn, client) = scene.pair(1);
    let message = vec![7; 1 << 20];
    let go_on = client.send_partly(&message);
    scene.until("it has a part", |status| {
        status.connections[0].inline_bytes_in > 5_000
    });
    assert_eq!(scene.status().connections[0].messages_in, 1);
    let done = worker.transfer(conn, [0; 16], b"carried");
    assert_eq!(Status::from_code(done.status), Some(Status::Busy));
    drop(go_on);
    assert!(worker.pdu(conn) == message);
    scene.until("it is given back", |status| {
        status.processes[0].queues[0].receive_units_used == 0
    });
    let done = worker.transfer(conn, [0; 16], b"carried");
    assert_eq!(Status::from_code(done.status), Some(Status::Ok));
}

/// If a connection could be transferred then, each transfer would add a message to those that the worker holds.
#[test]
fn a_connection_is_not_transferred_while_messages_are_held() {
    let scene = Scene::new();
    let mut listener = Raw::attach(scene.path(), role::LISTENER);
    let (mut worker, conn, client) = scene.pair(1);
    let _held = scene.client(2);
    let token = listener.offer().token;
    // A connection may have a quarter of the memory for messages.
    let mut clients = vec![client];
    for _ in 0..3 {
        clients.push(scene.client(1));
        let conn = worker.connection().conn;
        worker.pdu(conn);
    }
    // Use all of it except one unit.
    let mut pdus = Vec::new();
    for n in 0..31u8 {
        clients[usize::from(n) % 4].send(&[n]);
        pdus.push(worker.expect(event::PDU).0);
    }
    assert_eq!(worker.claim(token), Status::Ok);
    let (connection, _) = worker.expect(event::CONNECTION);
    let number = connection.conn;
    assert_ne!(number, conn);
    for _ in 0..3 {
        let done = worker.transfer(number, [0; 16], &[1; 1000]);
        assert_eq!(Status::from_code(done.status), Some(Status::Busy));
    }
    for pdu in &pdus {
        worker.recycle(pdu);
    }
    assert_eq!(worker.pdu(number), negotiate(2));
    scene.until("it is given back", |status| {
        status.processes.iter().all(|process| {
            let mut queues = process.queues.iter();
            queues.all(|queue| queue.receive_units_used <= 1)
        })
    });
    let done = worker.transfer(number, [0; 16], &[1; 1000]);
    assert_eq!(Status::from_code(done.status), Some(Status::Ok));
}
