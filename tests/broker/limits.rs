// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests every limit, and that reaching it affects no other process.

use std::collections::BTreeSet;
use std::time::Duration;

use smbdirect::broker::status::Status as Report;
use smbdirect::device::Status;
use smbdirect::device::abi;
use smbdirect::device::abi::{Place, Submission, event, kind, op, region, role};
use smbdirect::fabric::Access;

use crate::peer::{Client, Peers};
use crate::raw::{NOTHING, Raw};
use crate::scene::{Scene, negotiate};

#[test]
fn a_client_without_a_first_request_is_closed() {
    let scene = Scene::with(|config| config.first_request_timeout = Duration::from_millis(50));
    let client = scene.peers.connect(scene.address());
    client.closed();
    let status = scene.until("closed", |status| status.totals.connections == 0);
    assert_eq!(status.counters["first_request_timeout"], 1);
}

#[test]
fn an_unclaimed_connection_is_closed() {
    let scene = Scene::with(|config| config.claim_timeout = Duration::from_millis(50));
    let mut listener = Raw::attach(scene.path(), role::LISTENER);
    let client = scene.client(1);
    let token = listener.offer().token;
    client.closed();
    let status = scene.until("closed", |status| status.totals.connections == 0);
    assert_eq!(status.counters["claim_timeout"], 1);
    assert_eq!(status.totals.offered, 0);
    let mut late = Raw::worker(scene.path());
    assert_eq!(late.claim(token), Status::NoToken);
}

#[test]
fn a_connection_that_the_listener_declines_is_closed_at_once() {
    // This is far longer than the test takes.
    let scene = Scene::with(|config| config.claim_timeout = Duration::from_secs(3600));
    let mut listener = Raw::attach(scene.path(), role::LISTENER);
    let (first, second) = (scene.client(1), scene.client(2));
    let tokens = [listener.offer().token, listener.offer().token];
    assert_eq!(listener.decline([9; 16]), Status::NoToken);
    assert_eq!(listener.decline(tokens[0]), Status::Ok);
    assert_eq!(listener.decline(tokens[0]), Status::NoToken, "used up");
    let status = scene.until("closed", |status| status.totals.connections == 1);
    assert_eq!(status.counters["declined"], 1);
    assert_eq!((status.totals.offered, status.totals.undispatched), (1, 1));
    let mut worker = Raw::worker(scene.path());
    assert_eq!(worker.claim(tokens[0]), Status::NoToken);
    // The other connection is served, and a claimed connection can no longer be declined.
    assert_eq!(worker.claim(tokens[1]), Status::Ok);
    let info = worker.connection();
    assert_eq!(listener.decline(tokens[1]), Status::NoToken);
    worker.pdu(info.conn);
    worker.reply(info.conn, b"answer");
    let [first, second] = match info.client_guid {
        [1, ..] => [second, first],
        _ => [first, second],
    };
    assert_eq!(second.message(), b"answer");
    first.closed();
}

#[test]
fn a_first_message_may_not_be_too_long() {
    let scene = Scene::new();
    let _listener = Raw::attach(scene.path(), role::LISTENER);
    let client = scene.peers.connect(scene.address());
    let mut message = negotiate(1);
    message.resize(65_537, 0);
    client.send(&message);
    client.closed();
    let status = scene.until("closed", |status| status.totals.connections == 0);
    assert_eq!(status.counters["message_too_long"], 1);
}

#[test]
fn a_client_without_an_owner_is_held_after_its_first_message() {
    let scene = Scene::new();
    let mut listener = Raw::attach(scene.path(), role::LISTENER);
    let client = scene.client(1);
    let token = listener.offer().token;
    let messages: Vec<Vec<u8>> = (0..50u8).map(|n| vec![n; 5000]).collect();
    client.send(&messages[0]);
    scene.until("a client waits", |status| status.connections[0].starved > 0);
    let mut worker = Raw::attach_with(scene.path(), role::WORKER, token);
    let conn = worker.connection().conn;
    assert_eq!(worker.pdu(conn), negotiate(1));
    assert!(worker.pdu(conn) == messages[0]);
    for message in &messages[1..] {
        client.send(message);
        assert!(&worker.pdu(conn) == message);
    }
}

#[test]
fn memory_is_limited_by_segments_by_worker_and_in_total() {
    let segment = 1 << 20;
    let scene = Scene::with(|config| {
        (
            config.memory.send.max_segments,
            config.memory.bulk.max_segments,
        ) = (4, 4);
        config.memory.limit = 6 * segment;
        config.memory_limit = 12 * segment;
    });
    let mut worker = Raw::worker(scene.path());
    assert_eq!(worker.grow_by(0, 1), Status::Invalid);
    assert_eq!(worker.grow_by(region::RECEIVE, 1), Status::Invalid);
    for units in [0, 17] {
        assert_eq!(worker.grow_by(region::SEND, units), Status::Invalid);
    }
    for _ in 0..4 {
        assert_eq!(worker.grow(region::SEND), Status::Ok);
    }
    // A region may have four segments.
    assert_eq!(worker.grow(region::SEND), Status::NoMemory);
    assert_eq!(scene.status().counters["refused_memory"], 1);
    for _ in 0..2 {
        assert_eq!(worker.grow(region::BULK), Status::Ok);
    }
    // A worker may have six segments.
    assert_eq!(worker.grow(region::BULK), Status::NoMemory);
    let mut other = Raw::worker(scene.path());
    for _ in 0..3 {
        assert_eq!(other.grow(region::BULK), Status::Ok);
    }
    assert_eq!(scene.status().totals.memory, 9 * segment);
    // Three of the twelve segments are reserved: two of them for the worker that has waited longest.
    assert_eq!(other.grow(region::BULK), Status::Ok);
    assert_eq!(other.grow(region::SEND), Status::Ok);
    let mut third = Raw::worker(scene.path());
    let cookie = third.ask_for_bulk();
    scene.until("waits", |status| status.counters["waited_for_memory"] == 3);
    assert_eq!(scene.status().totals.memory, 11 * segment);
    assert_eq!(scene.status().counters["refused_memory"], 2);
    drop(worker);
    let answer = third.message(|message| message.cookie == cookie);
    assert_eq!(answer.kind, kind::SEGMENT);
    assert_eq!(scene.status().totals.memory, 6 * segment);
}

/// A region begins with 128 KiB, and doubles each time.
#[test]
fn memory_begins_small_and_grows() {
    let scene = Scene::with(|config| config.memory.bulk.max_segments = 8);
    let mut worker = Raw::worker(scene.path());
    for kibibytes in [128, 256, 512, 1024, 2048] {
        assert_eq!(worker.grow_by(region::BULK, 1), Status::Ok);
        assert_eq!(scene.status().totals.memory, kibibytes << 10);
    }
    assert_eq!(scene.status().processes[0].bulk_segments, 5);
}

#[test]
fn memory_that_is_not_used_comes_back() {
    let scene = Scene::with(|config| {
        config.memory_idle_timeout = Duration::from_millis(50);
        config.memory.bulk.max_segments = 8;
    });
    let (mut worker, conn, client) = scene.pair(1);
    worker.reply(conn, b"hello");
    assert_eq!(client.message(), b"hello");
    let before = scene.status().totals.memory;
    let target = client.register(1 << 20, Access::RemoteWrite);
    assert_eq!(worker.grow_by(region::BULK, 1), Status::Ok);
    assert_eq!(worker.grow(region::BULK), Status::Ok);
    // Send long messages, so that RECEIVE grows.
    for _ in 0..2 {
        client.send(&vec![7; 900_000]);
        assert_eq!(worker.pdu(conn).len(), 900_000);
    }
    assert!(scene.status().totals.memory > before + (1 << 20));
    let mut wanted = BTreeSet::new();
    while wanted.len() < 3 {
        let reclaim = worker.reclaimed();
        worker.release(&reclaim);
        assert!(wanted.insert((reclaim.region, reclaim.number)));
    }
    let expected = [(region::BULK, 0), (region::BULK, 1), (region::RECEIVE, 1)];
    assert_eq!(wanted, BTreeSet::from(expected));
    // Before, a message may still have been charged.
    scene.until("all of it is back", |status| status.totals.memory <= before);
    // Another segment has this number now.
    assert_eq!(worker.grow(region::BULK), Status::Ok);
    worker.bulk[0].write(0, &[5; 4096]).unwrap();
    let place = Place {
        segment: 0,
        offset: 0,
    };
    worker.rdma(
        op::RDMA_WRITE,
        (conn, 1),
        (place, 4096),
        &[target.part(0, 4096)],
    );
    assert_eq!(worker.expect(event::RDMA_DONE).1, Status::Ok);
    // The data must be there once a message that was sent after it has arrived.
    worker.reply(conn, b"behind");
    assert_eq!(client.message(), b"behind");
    assert_eq!(target.memory.to_vec(0, 4096).unwrap(), [5; 4096]);
}

/// A worker that has more than an equal share gives memory to workers that have less.
#[test]
fn a_waiting_worker_gets_memory_of_which_others_have_too_much() {
    let segment = 1 << 20;
    let scene = Scene::with(|config| {
        config.memory.bulk.max_segments = 16;
        config.memory.limit = 16 * segment;
        config.memory_limit = 12 * segment;
    });
    let mut greedy = Raw::worker(scene.path());
    // Nine segments are for all workers, and two more are for the worker that has waited longest.
    for _ in 0..11 {
        assert_eq!(greedy.grow(region::BULK), Status::Ok);
    }
    let mut other = Raw::worker(scene.path());
    let cookie = other.ask_for_bulk();
    let reclaim = greedy.reclaimed();
    assert_eq!(reclaim.region, region::BULK);
    greedy.release(&reclaim);
    let reclaim = greedy.reclaimed();
    greedy.release(&reclaim);
    let answer = other.message(|message| message.cookie == cookie);
    assert_eq!(answer.kind, kind::SEGMENT);
}

/// A worker that has used up its share does not make others give up their memory.
#[test]
fn a_worker_that_does_not_take_its_messages_takes_no_memory_from_others() {
    let scene = Scene::new();
    let mut other = Raw::worker(scene.path());
    assert_eq!(other.grow(region::BULK), Status::Ok);
    let (mut worker, conn, client) = scene.pair(1);
    for n in 0..12 {
        client.send(&[n; 70_000]);
    }
    scene.until("its share is used up", |status| {
        status.connections[0].starved > 0
    });
    std::thread::sleep(Duration::from_millis(500));
    other.read_socket();
    assert_eq!(other.asked_for(), 0, "memory is there");
    for n in 0..12 {
        assert_eq!(worker.pdu(conn), [n; 70_000]);
    }
}

/// Returns a worker that has a connection, but no memory in which to learn of it, and the worker that has all the
/// memory.
fn without_memory(scene: &Scene) -> (Raw, Raw, Client) {
    let mut hog = Raw::worker(scene.path());
    for region in [region::BULK, region::BULK, region::SEND, region::SEND] {
        assert_eq!(hog.grow(region), Status::Ok);
    }
    let mut worker = Raw::worker(scene.path());
    assert_eq!(worker.register([1; 16], 0), Status::Ok);
    let client = scene.client(1);
    scene.until("assigned", |status| {
        let mut connections = status.connections.iter();
        connections.any(|connection| connection.worker == Some(worker.id()))
    });
    (hog, worker, client)
}

#[test]
fn a_worker_may_not_name_a_connection_that_it_was_not_told_of() {
    let scene = Scene::with(|config| config.memory_limit = 6 << 20);
    let (_hog, mut worker, client) = without_memory(&scene);
    assert!(worker.read_socket());
    // The worker has guessed the connection's number.
    worker.submit(Submission {
        op: op::TRANSFER,
        conn: 1,
        ..NOTHING
    });
    assert_eq!(worker.detached(), Status::Corrupt);
    client.closed();
    assert_eq!(scene.status().counters["connection"], 1);
}

#[test]
fn a_worker_without_memory_is_told_of_its_connection_once_there_is_memory() {
    let scene = Scene::with(|config| config.memory_limit = 6 << 20);
    let (hog, mut worker, client) = without_memory(&scene);
    assert!(worker.is_quiet(Duration::from_millis(20)));
    drop(hog);
    let conn = worker.connection().conn;
    assert_eq!(worker.pdu(conn), negotiate(1));
    client.send(b"next");
    assert_eq!(worker.pdu(conn), b"next");
}

/// The memory of a dead worker becomes free when its connections do, and no message reports that.
#[test]
fn memory_that_a_connection_of_a_dead_worker_held_goes_to_waiting_workers() {
    let scene = Scene::with(|config| config.memory_limit = 6 << 20);
    let (mut hog, conn, hogs) = scene.pair(2);
    // The message registers the segment with the connection.
    hog.reply(conn, b"hello");
    assert_eq!(hogs.message(), b"hello");
    for region in [region::SEND, region::BULK, region::BULK] {
        assert_eq!(hog.grow(region), Status::Ok);
    }
    let mut worker = Raw::worker(scene.path());
    assert_eq!(worker.register([1; 16], 0), Status::Ok);
    let _client = scene.client(1);
    scene.until("assigned", |status| {
        let mut connections = status.connections.iter();
        connections.any(|connection| connection.worker == Some(worker.id()))
    });
    assert!(worker.is_quiet(Duration::from_millis(20)));
    drop(hog);
    let conn = worker.connection().conn;
    assert_eq!(worker.pdu(conn), negotiate(1));
}

#[test]
fn a_claim_is_answered_when_the_connection_ends_before_there_was_memory_for_it() {
    let scene = Scene::with(|config| config.memory_limit = 6 << 20);
    let (_hog, mut worker, _client) = without_memory(&scene);
    let mut listener = Raw::attach(scene.path(), role::LISTENER);
    let client = scene.client(2);
    let token = listener.offer().token;
    let cookie = worker.request(kind::CLAIM, &abi::Claim { token });
    let is_owned = |status: &Report| {
        let owned = status.connections.iter().filter(|c| c.state == "owned");
        owned.count() == 2
    };
    scene.until("assigned", is_owned);
    client.close();
    let answer = worker.message(|message| message.cookie == cookie);
    assert_eq!(answer.status(), Status::ClosedByPeer);
    // The process that attaches for this connection has nothing else to do.
    let client = scene.client(3);
    let mut forked = Raw::attach_with(scene.path(), role::WORKER, listener.offer().token);
    scene.until("assigned", is_owned);
    client.close();
    assert_eq!(forked.detached(), Status::ClosedByPeer);
}

/// A worker waits for a client that takes no responses. Meanwhile the worker takes no messages, and the client goes on
/// sending.
#[test]
fn messages_that_a_worker_does_not_take_leave_memory_for_the_messages_of_others() {
    let scene = Scene::with(|config| {
        // So many segments would need much more than all the memory.
        config.memory.receive.max_segments = 24;
        config.memory_limit = 10 << 20;
    });
    let (mut other, other_conn, other_client) = scene.pair(2);
    let (mut worker, conn, client) = scene.pair(1);
    let mut conns = vec![conn];
    let mut clients = vec![client];
    for _ in 1..4 {
        clients.push(scene.client(1));
        conns.push(worker.connection().conn);
        assert_eq!(worker.pdu(*conns.last().unwrap()), negotiate(1));
    }
    let messages: Vec<Vec<u8>> = (0..60u8).map(|n| vec![n; 40_000]).collect();
    for client in &clients {
        client.send_all(&messages);
    }
    scene.until("they all wait", |status| {
        let starved = status.connections.iter().filter(|conn| conn.starved > 0);
        starved.count() == clients.len()
    });
    for n in 0..3 {
        other_client.send(&[n; 900_000]);
        assert_eq!(other.pdu(other_conn), [n; 900_000]);
    }
    // None of the waiting messages is lost.
    let mut next = vec![0; conns.len()];
    while next.iter().any(|next| *next < messages.len()) {
        let (completion, _) = worker.expect(event::PDU);
        let of = conns
            .iter()
            .position(|conn| *conn == completion.conn)
            .unwrap();
        assert_eq!(worker.take(&completion), messages[next[of]]);
        next[of] += 1;
    }
}

#[test]
fn a_listener_that_does_not_read_its_offers_loses_them_and_stays_attached() {
    let scene = Scene::with(|config| {
        config.max_connections = 10_000;
        config.max_undispatched = 10_000;
        config.max_unnegotiated = 10_000;
        config.max_unnegotiated_per_source = 10_000;
    });
    let mut listener = Raw::attach(scene.path(), role::LISTENER);
    let is_busy = |status: &Report| status.counters.contains_key("listener_busy");
    let mut clients = 0;
    while !is_busy(&scene.status()) {
        clients += 1;
        assert!(clients < 5000, "there is room for all of them");
        let client = scene.client(1);
        client.close();
        client.closed();
    }
    let status = scene.status();
    assert_eq!(status.processes.len(), 1);
    let close = status.closes.last().unwrap();
    assert_eq!(close.reason, "listener_busy");
    assert!(listener.read_socket());
    let _client = scene.client(2);
    while listener.offer().info.client_guid != [2; 16] {}
}

/// A worker that keeps all its messages holds up its own client until it gives them back, but no other client. In the
/// meantime its client's keepalives are answered.
#[test]
fn a_worker_that_does_not_give_messages_back_holds_up_its_own_client_only() {
    let mut scene = Scene::new();
    let initiator = smbdirect::proto::Config {
        idle_timeout: Duration::from_millis(100),
        // This is the time that the device has to answer, and a busy machine needs some of it.
        keepalive_timeout: Duration::from_secs(4),
        ..smbdirect::proto::Config::initiator_default()
    };
    scene.peers = Peers::with(initiator);
    let (mut worker, conn, client) = scene.pair(1);
    let (mut other, other_conn, other_client) = scene.pair(2);
    // These messages leave some of the client's credits.
    let messages: Vec<Vec<u8>> = (0..15u8).map(|n| vec![n; 40_000]).collect();
    client.send_all(&messages);
    // The messages occupy a quarter of both segments.
    let status = scene.until("it waits", |status| {
        status
            .connections
            .iter()
            .any(|connection| connection.starved > 0)
    });
    let process = status
        .processes
        .iter()
        .find(|process| process.id == worker.id());
    assert_eq!(process.unwrap().queues[0].receive_units_used, 8);
    other.reply(other_conn, b"hello");
    assert_eq!(other_client.message(), b"hello");
    assert!(
        client.is_quiet(Duration::from_millis(4500)),
        "it is answered"
    );
    for message in &messages {
        assert!(&worker.pdu(conn) == message);
    }
    worker.reply(conn, b"done");
    assert_eq!(client.message(), b"done");
}

#[test]
fn a_worker_that_takes_no_completions_is_not_served_further_and_loses_none() {
    let scene = Scene::with(|config| config.memory.receive.max_segments = 11);
    let (mut worker, conn, client) = scene.pair(1);
    let depth = u64::from(scene.config.queue_depth);
    worker.send_pdu(conn, 0, b"x");
    worker.expect(event::SENT);
    for n in 0..30u8 {
        client.send(&[n]);
    }
    scene.until("they are in the ring", |status| {
        status.processes[0].queues[0].completions == 30
    });
    let send = |cookie| Submission {
        op: op::SEND_PDU,
        conn,
        cookie,
        length: 1,
        ..NOTHING
    };
    for cookie in 1..=depth {
        worker.submit(send(cookie));
    }
    let status = scene.until("it overflows", |status| {
        let queue = &status.processes[0].queues[0];
        queue.completions == 64 && queue.overflow == 30 && queue.outstanding == 0
    });
    assert_eq!(status.connections[0].messages_out, depth + 1);
    // The device leaves these submissions in the ring.
    for cookie in depth + 1..=2 * depth {
        worker.submit(send(cookie));
    }
    let mut cookies = Vec::new();
    let (mut messages, mut pdus) = (Vec::new(), Vec::new());
    while cookies.len() < 2 * depth as usize || messages.len() < 30 {
        let completion = worker.completion();
        match completion.event {
            event::SENT => cookies.push(completion.cookie),
            // The ring for giving buffers back is still full.
            event::PDU => {
                messages.extend(worker.peek(&completion));
                pdus.push(completion);
            }
            other => panic!("{other}"),
        }
    }
    for pdu in &pdus {
        worker.recycle(pdu);
    }
    assert!(cookies.into_iter().eq(1..=2 * depth));
    assert!(messages.into_iter().eq(0..30));
    scene.until("all is taken", |status| {
        let queue = &status.processes[0].queues[0];
        queue.completions == 0 && queue.overflow == 0 && queue.receive_units_used == 0
    });
}

#[test]
fn a_process_that_does_not_read_its_answers_is_detached() {
    let scene = Scene::new();
    let (mut worker, conn, client) = scene.pair(1);
    let mut mute = Raw::worker(scene.path());
    let set = abi::SetSessionId {
        session_id: 0,
        client_guid: [9; 16],
        remove: 0,
        reserved: 0,
    };
    scene.until("detached", |status| {
        // Send as many requests as there is room for.
        while mute.try_request(kind::SET_SESSION_ID, &set).is_ok() {}
        status.processes.len() == 1
    });
    worker.reply(conn, b"hello");
    assert_eq!(client.message(), b"hello");
}

#[test]
fn a_listener_lowers_the_parameters_of_later_connections() {
    let scene = Scene::new();
    let (_worker, _, _client) = scene.pair(1);
    let mut listener = Raw::attach(scene.path(), role::LISTENER);
    let set = abi::SetParameters {
        receive_credit_max: 20,
        send_credit_target: 0,
        max_send_size: 0,
        max_receive_size: 0,
        max_fragmented_size: 200_000,
        max_read_write_size: 1 << 30,
        keepalive_interval_ms: 0,
        server_guid: [0; 16],
        security_blob_length: 0,
        reserved: [0; 5],
    };
    assert_eq!(
        listener.ask(kind::SET_PARAMETERS, &set).status(),
        Status::Ok
    );
    let wrong = abi::SetParameters {
        max_fragmented_size: 1000,
        ..set
    };
    let answer = listener.ask(kind::SET_PARAMETERS, &wrong);
    assert_eq!(answer.status(), Status::Invalid);
    let mut worker = Raw::worker(scene.path());
    assert_eq!(worker.register([2; 16], 0), Status::Ok);
    let _client = scene.client(2);
    let info = worker.connection();
    assert_eq!(info.max_fragmented_receive_size, 200_000);
    assert_eq!(info.max_read_write_size, 1 << 20);
    let status = scene.status();
    let connection = status
        .connections
        .iter()
        .find(|c| c.id == Some(info.conn) && c.worker == Some(worker.id()));
    assert!(connection.unwrap().receives_posted <= 20);
}
