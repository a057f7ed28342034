// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests clients that have not logged in: how many there may be, for how long, and with how much memory.

use std::time::Duration;

use smbdirect::device::Status;
use smbdirect::device::abi::{self, event, role};

use crate::peer::{Client, Peers};
use crate::raw::Raw;
use crate::reload::reload;
use crate::scene::{Scene, negotiate};

/// A source that differs from the source of the scene's clients, and is not a gateway.
const OTHER: &str = "[::1]:0";

/// Makes a scene whose clients have two sources, one of which is [`OTHER`].
fn two_sources(change: impl FnOnce(&mut smbdirect::broker::Config)) -> Scene {
    Scene::with(|config| {
        config.listen.push(OTHER.parse().unwrap());
        change(config);
    })
}

/// Makes a worker that has registered client number `guid`.
fn worker(scene: &Scene, guid: u8) -> Raw {
    let mut worker = Raw::worker(scene.path());
    assert_eq!(worker.register([guid; 16], 0), Status::Ok);
    worker
}

/// Connects a client of the other source, whose first request is under way.
fn other_client(scene: &Scene, guid: u8) -> Client {
    let client = scene.peers.connect(scene.broker().addresses()[1]);
    client.send(&negotiate(guid));
    client
}

/// Serves the first request of the next connection of a worker.
fn serve(worker: &mut Raw) -> u64 {
    let (connection, _) = worker.find(event::CONNECTION);
    worker.take(&connection);
    let (pdu, _) = worker.find(event::PDU);
    assert_eq!(pdu.conn, connection.conn);
    worker.take(&pdu);
    worker.send_pdu(pdu.conn, 1, b"served");
    assert_eq!(worker.find(event::SENT).1, Status::Ok);
    pdu.conn
}

fn is_served(client: &Client) {
    assert_eq!(client.message(), b"served");
}

#[test]
fn a_client_has_a_time_to_log_in() {
    let mut scene = Scene::new();
    // However slow this machine is, this one logs in in time: only what comes later has little time.
    let (mut user, conn, of_user) = scene.pair(1);
    let mut worker = worker(&scene, 2);
    reload(&mut scene, |config| {
        config.login_timeout = Duration::from_secs(2);
    });
    let stranger = scene.client(2);
    let late = worker.stranger().conn;
    worker.pdu(late);
    stranger.closed();
    let (gone, status) = worker.expect(event::DISCONNECTED);
    assert_eq!((gone.conn, status), (late, Status::TimedOut));
    assert_eq!(scene.status().counters["login_timeout"], 1);
    user.reply(conn, b"hello");
    assert_eq!(of_user.message(), b"hello");
}

#[test]
fn a_stranger_has_few_receives_and_a_user_all_of_them() {
    let scene = Scene::new();
    let mut worker = worker(&scene, 1);
    let client = scene.client(1);
    let conn = serve(&mut worker);
    is_served(&client);
    assert_eq!(scene.status().connections[0].receives_posted, 8);
    assert!(!scene.status().connections[0].authenticated);
    // The client continues with so few credits.
    for n in 0..20 {
        client.send(&[n; 20_000]);
        assert_eq!(worker.pdu(conn), [n; 20_000]);
    }
    worker.authenticate(conn);
    let status = scene.until("more", |status| {
        status.connections[0].receives_posted == 255
    });
    assert!(status.connections[0].authenticated);
    assert_eq!(status.totals.unauthenticated, 0);
}

#[test]
fn a_message_of_a_stranger_may_not_be_too_long() {
    let scene = Scene::new();
    let mut worker = worker(&scene, 1);
    let client = scene.client(1);
    let conn = serve(&mut worker);
    is_served(&client);
    client.send(&vec![1; 65_536]);
    assert_eq!(worker.pdu(conn).len(), 65_536);
    client.send(&vec![1; 65_537]);
    client.closed();
    assert_eq!(scene.status().counters["message_too_long"], 1);
    let client = scene.client(1);
    worker.expect(event::DISCONNECTED);
    let conn = worker.connection().conn;
    worker.pdu(conn);
    client.send(&vec![1; 100_000]);
    assert_eq!(worker.pdu(conn).len(), 100_000);
}

#[test]
fn for_a_newcomer_the_device_closes_the_oldest_stranger_of_the_greediest_source() {
    let scene = two_sources(|config| {
        config.max_unauthenticated = 3;
        config.gateways.push("::1".parse().unwrap());
    });
    let mut worker = worker(&scene, 1);
    let mut strangers: Vec<Client> = (0..2).map(|_| scene.client(1)).collect();
    strangers.push(other_client(&scene, 1));
    for _ in 0..3 {
        serve(&mut worker);
    }
    let newcomer = other_client(&scene, 1);
    serve(&mut worker);
    is_served(&newcomer);
    strangers[0].closed();
    let status = scene.until("it ends", |status| status.totals.connections == 3);
    assert_eq!(status.counters["too_many_unauthenticated"], 1);
}

#[test]
fn the_device_closes_the_oldest_stranger_of_a_source_with_too_many() {
    let scene = two_sources(|config| config.max_unauthenticated = 8);
    let mut worker = worker(&scene, 1);
    let strangers: Vec<Client> = (0..2).map(|_| other_client(&scene, 1)).collect();
    let conn = serve(&mut worker);
    serve(&mut worker);
    strangers.iter().for_each(is_served);
    let _gateway: Vec<Client> = (0..3).map(|_| scene.client(1)).collect();
    for _ in 0..3 {
        serve(&mut worker);
    }
    let newcomer = other_client(&scene, 1);
    strangers[0].closed();
    let (gone, status) = worker.find(event::DISCONNECTED);
    assert_eq!((gone.conn, status), (conn, Status::Limit));
    serve(&mut worker);
    is_served(&newcomer);
    let status = scene.status();
    assert_eq!(status.counters["too_many_unauthenticated_of_source"], 1);
    assert_eq!(status.totals.unauthenticated, 5);
}

#[test]
fn no_source_takes_all_connections_even_if_its_clients_have_logged_in() {
    let scene = two_sources(|config| config.max_connections = 8);
    let mut worker = worker(&scene, 1);
    let users: Vec<Client> = (0..2).map(|_| other_client(&scene, 1)).collect();
    for _ in &users {
        let conn = serve(&mut worker);
        worker.authenticate(conn);
    }
    users.iter().for_each(is_served);
    scene.until("logged in", |status| status.totals.unauthenticated == 0);
    // This source has no stranger left that could be closed.
    let third = scene.peers.dial(scene.broker().addresses()[1]);
    third.closed();
    let client = scene.client(1);
    serve(&mut worker);
    is_served(&client);
    let status = scene.status();
    assert_eq!(status.counters["too_many_connections_of_source"], 1);
}

#[test]
fn a_user_takes_the_place_of_a_stranger_when_there_are_too_many_connections() {
    let scene = Scene::with(|config| config.max_connections = 2);
    let (mut worker, conn, user) = scene.pair(1);
    let stranger = scene.peers.connect(scene.address());
    let newcomer = scene.client(1);
    stranger.closed();
    serve(&mut worker);
    is_served(&newcomer);
    worker.reply(conn, b"hello");
    assert_eq!(user.message(), b"hello");
    assert_eq!(scene.status().counters["too_many_connections"], 1);
}

#[test]
fn a_burst_of_one_source_waits_and_is_served() {
    let scene = two_sources(|config| {
        config.max_undispatched = 8;
        config.claim_timeout = Duration::from_secs(60);
    });
    let mut listener = Raw::attach(scene.path(), role::LISTENER);
    let mut clients: Vec<Client> = (0..20).map(|n| other_client(&scene, n)).collect();
    let waits = |status: &smbdirect::broker::status::Status| {
        status.totals.undispatched == 20 && status.totals.offered == 2
    };
    scene.until("most wait", waits);
    // Other clients do not wait for these.
    let other = scene.client(100);
    let offers = [listener.offer(), listener.offer(), listener.offer()];
    let of_other = offers
        .iter()
        .find(|offer| offer.info.client_guid == [100; 16]);
    let mut worker = Raw::attach_with(scene.path(), role::WORKER, of_other.unwrap().token);
    serve(&mut worker);
    is_served(&other);
    let mut tokens: Vec<_> = offers
        .iter()
        .filter(|offer| offer.info.client_guid != [100; 16])
        .map(|offer| offer.token)
        .collect();
    // A waiting client may leave. Then it is not offered.
    clients.pop().unwrap().close();
    scene.until("it has gone", |status| status.totals.undispatched == 19);
    for _ in 0..19 {
        let token = tokens.pop().unwrap_or_else(|| listener.offer().token);
        assert_eq!(worker.claim(token), Status::Ok);
        serve(&mut worker);
    }
    clients.iter().for_each(is_served);
    assert_eq!(listener.try_offer().map(|offer| offer.token), None);
    assert_eq!(scene.status().totals.undispatched, 0);
}

/// Clients that have not sent a request yet, and those that wait for their turn, do not use up the limit of offers.
#[test]
fn the_status_compares_offers_with_the_limit_of_offers() {
    let scene = Scene::with(|config| config.max_undispatched = 8);
    let _silent: Vec<Client> = (0..20)
        .map(|_| scene.peers.connect(scene.address()))
        .collect();
    let status = scene.until("all are there", |status| status.totals.undispatched == 20);
    assert_eq!(
        (status.limits.undispatched, status.totals.dispatching),
        (8, 0)
    );
    let mut listener = Raw::attach(scene.path(), role::LISTENER);
    let _clients: Vec<Client> = (0..10).map(|n| scene.client(n)).collect();
    let status = scene.until("two wait", |status| {
        status.counters.get("waited_for_offer") == Some(&2)
    });
    assert_eq!(status.totals.dispatching, 8);
    let token = listener.offer().token;
    assert_eq!(listener.decline(token), Status::Ok);
    scene.until("the next one is offered", |status| {
        status.totals.dispatching == 8 && status.totals.undispatched == 29
    });
}

#[test]
fn a_connection_that_waited_goes_to_the_worker_that_its_client_has_meanwhile() {
    let scene = Scene::with(|config| config.max_undispatched = 1);
    let mut listener = Raw::attach(scene.path(), role::LISTENER);
    let first = scene.client(1);
    let token = listener.offer().token;
    let second = scene.client(1);
    scene.until("it waits", |status| {
        status.counters.contains_key("waited_for_offer")
    });
    let mut worker = worker(&scene, 1);
    assert_eq!(worker.claim(token), Status::Ok);
    for client in [first, second] {
        serve(&mut worker);
        is_served(&client);
    }
    assert!(listener.try_offer().is_none());
}

#[test]
fn messages_that_are_begun_and_never_ended_take_nothing_from_others() {
    for has_logged_in in [false, true] {
        let scene = Scene::new();
        let (mut worker, conn, victim) = scene.pair(1);
        let attackers = Peers::start();
        let length = if has_logged_in { 1 << 20 } else { 60_000 };
        let mut clients = Vec::new();
        for _ in 0..8 {
            let client = attackers.connect(scene.address());
            client.send(&negotiate(1));
            let conn = serve(&mut worker);
            is_served(&client);
            if has_logged_in {
                worker.authenticate(conn);
            }
            clients.push(client);
        }
        let begun = Client::begin_all(&clients, &vec![7; length]);
        scene.until("they are begun", |status| {
            let begun = status
                .connections
                .iter()
                .filter(|conn| conn.inline_bytes_in > 5000);
            begun.count() == 8
        });
        // At least three quarters of the memory for messages must be left.
        let used = scene.status().processes[0].queues[0].receive_units_used;
        assert!(used <= 8, "{used} units");
        for n in 0..10 {
            victim.send(&[n; 100_000]);
            assert_eq!(worker.pdu(conn), [n; 100_000]);
        }
        drop(begun);
        for _ in 0..8 {
            let (pdu, _) = worker.find(event::PDU);
            assert_eq!(pdu.length as usize, length);
            assert!(worker.take(&pdu) == vec![7; length]);
        }
    }
}

#[test]
fn a_stranger_that_takes_no_answers_keeps_no_answers_from_others() {
    let scene = Scene::new();
    let (mut worker, conn, user) = scene.pair(1);
    let attackers = Peers::start();
    let stranger = attackers.connect(scene.address());
    stranger.send(&negotiate(1));
    let silent = serve(&mut worker);
    is_served(&stranger);
    // Stop its thread, so that it grants no more credits.
    let strangers = [stranger];
    let stopped = Client::begin_all(&strangers, &[7; 60_000]);
    for cookie in 0..scene.config.queue_depth {
        worker.send_pdu(silent, cookie.into(), &[1; 20_000]);
    }
    let status = scene.until("it ends", |status| status.totals.connections == 1);
    assert_eq!(status.counters["too_many_unanswered"], 1);
    // Wait until all answers to the stranger have ended.
    let (mut answers, mut is_gone) = (0, false);
    while answers < scene.config.queue_depth || !is_gone {
        let completion = worker.completion();
        match completion.event {
            event::SENT if completion.conn == silent => answers += 1,
            event::DISCONNECTED => is_gone = true,
            _ => {}
        }
    }
    worker.reply(conn, b"hello");
    assert_eq!(user.message(), b"hello");
    drop(stopped);
}

#[test]
fn messages_that_wait_for_room_count_as_memory() {
    let scene = Scene::new();
    let (mut worker, ..) = scene.pair(1);
    let clients: Vec<Client> = (0..8).map(|_| scene.client(1)).collect();
    for _ in &clients {
        let conn = serve(&mut worker);
        worker.authenticate(conn);
    }
    clients.iter().for_each(is_served);
    scene.until("they are users", |status| {
        status.totals.unauthenticated == 0
    });
    let before = scene.status().totals.memory;
    let length = 8 * (64 << 10);
    drop(Client::begin_all(&clients, &vec![7; length]));
    scene.until("all are there", |status| {
        let whole = status
            .connections
            .iter()
            .filter(|conn| conn.messages_in == 2);
        whole.count() == 8
    });
    // Three fit into the memory that is shared with the worker. The others wait.
    let used = scene.status().processes[0].queues[0].receive_units_used;
    assert_eq!(used, 24);
    let waiting = 5 * length as u64;
    let memory = scene.status().totals.memory;
    assert!(memory >= before + waiting, "{memory}, {before} before");
    for _ in 0..8 {
        let (pdu, _) = worker.find(event::PDU);
        assert!(worker.take(&pdu) == vec![7; length]);
    }
    scene.until("nothing waits", |status| {
        status.totals.memory == memory - waiting
    });
}

#[test]
fn a_process_with_a_token_may_attach_even_if_there_is_no_room_for_others() {
    let scene = Scene::with(|config| config.max_workers = 1);
    let mut listener = Raw::attach(scene.path(), role::LISTENER);
    let _idle = Raw::worker(scene.path());
    for n in 0..3 {
        let client = scene.client(n);
        let token = listener.offer().token;
        let mut worker = Raw::attach_with(scene.path(), role::WORKER, token);
        serve(&mut worker);
        is_served(&client);
        let mut other = Raw::connect(scene.path());
        let answer = other.try_attach(abi::VERSION, role::WORKER, [0; 16]);
        assert_eq!(answer.status(), Status::Limit);
    }
}

#[test]
fn sockets_that_do_not_attach_keep_no_process_out() {
    let scene = Scene::new();
    let mut silent: Vec<Raw> = (0..100).map(|_| Raw::connect(scene.path())).collect();
    Raw::worker(scene.path());
    assert_eq!(silent[0].detached(), Status::Limit, "the oldest has gone");
    let answer = silent[99].try_attach(abi::VERSION, role::OBSERVER, [0; 16]);
    assert_eq!(answer.kind, abi::kind::ATTACHED);
}
