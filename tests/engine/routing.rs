// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests which process gets a connection, and what becomes of it.

use std::net::{IpAddr, SocketAddr};

use smbdirect::device::Status;
use smbdirect::device::abi::{
    ClientNote, Completion, TransferSubmission, encrypted, event, note, op, protection,
};
use smbdirect::engine::peer::{Peer, Untold};
use zerocopy::transmute;

use crate::process::Process;
use crate::scene::{Scene, Seen, negotiate};

#[test]
fn a_registered_client_goes_to_its_worker() {
    let mut scene = Scene::new();
    let (client, worker, conn) = scene.pair(1);
    worker.send(conn, 7, b"a response");
    assert_eq!(scene.seen(&client), [Seen::Message(b"a response".to_vec())]);
    let sent = worker.expect(event::SENT);
    assert_eq!((sent.conn, sent.cookie, sent.status), (conn, 7, 0));
    scene.close(&client);
    let end = worker.expect(event::DISCONNECTED);
    assert_eq!(Status::from_code(end.status), Some(Status::ClosedByPeer));
    scene.leaves_nothing();
}

#[test]
fn an_unregistered_client_is_offered_and_goes_to_the_process_that_names_the_token() {
    let mut scene = Scene::with(2, |_, _| ());
    let (listener, worker) = (scene.listener(), scene.worker());
    let _client = scene.client(1, 9);
    let offer = listener.offer().unwrap();
    assert_eq!((offer.info.client_guid, offer.info.conn), ([9; 16], 0));
    scene.claim(&worker, offer.token).unwrap();
    assert_eq!(worker.claimed(), Some(Status::Ok));
    assert_eq!(worker.connection_and_message().1, negotiate(9));
    assert_eq!(scene.claim(&worker, offer.token), Err(Status::NoToken));
    scene.leaves_nothing();
}

#[test]
fn what_smbd_says_about_a_connection_is_not_said_about_the_next_one() {
    let mut scene = Scene::new();
    let (client, ..) = scene.pair(1);
    let said = |scene: &mut Scene| -> Vec<(SocketAddr, Option<u32>)> {
        let connections = scene.shards[0].report().connections.into_iter();
        connections.map(|it| (it.peer, it.protection)).collect()
    };
    let peer = said(&mut scene)[0].0;
    let next = SocketAddr::new(peer.ip(), peer.port() + 1);
    for peer in [peer, next] {
        let said = about(peer, None, note::SESSION, protection::ENCRYPTED);
        scene.shards[0].set_protection(&said);
    }
    let encrypted = Some(protection::ENCRYPTED);
    assert_eq!(said(&mut scene), [(peer, encrypted)]);
    let _next = scene.connect(0);
    let mut both = said(&mut scene);
    both.sort_unstable();
    assert_eq!(both, [(peer, encrypted), (next, None)]);
    scene.close(&client);
    assert_eq!(said(&mut scene), [(next, None)]);
    scene.leaves_nothing();
}

/// Makes a note about the connection from a client's port, and to this address of the server if there is one.
fn about(peer: SocketAddr, local: Option<SocketAddr>, note: u16, value: u32) -> ClientNote {
    let octets = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    };
    ClientNote {
        address: octets(peer),
        note,
        port: peer.port(),
        value,
        local_address: local.map_or([0; 16], octets),
        local_port: local.map_or(0, |local| local.port()),
        reserved: 0,
    }
}

/// A client may connect to two addresses of the server from the same port.
#[test]
fn what_smbd_says_about_a_connection_to_one_address_is_not_said_about_one_to_another() {
    let mut scene = Scene::new();
    let (client, ..) = scene.pair(1);
    let report = |scene: &mut Scene| scene.shards[0].report().connections.remove(0);
    let before = report(&mut scene);
    let (peer, local) = (before.peer, before.local.expect("the server's address"));
    let mut other = local;
    other.set_port(local.port() ^ 1);
    let elsewhere: SocketAddr = (IpAddr::from([192, 0, 2, 1]), local.port()).into();
    for local in [other, elsewhere] {
        for (note, value) in [(note::SESSION, protection::SIGNED), (note::ENCRYPTED, 1)] {
            scene.shards[0].set_protection(&about(peer, Some(local), note, value));
        }
    }
    let now = report(&mut scene);
    assert_eq!((now.protection, now.encrypted), (None, 0));
    let said = about(peer, Some(local), note::SESSION, protection::SIGNED);
    scene.shards[0].set_protection(&said);
    assert_eq!(report(&mut scene).protection, Some(protection::SIGNED));
    scene.close(&client);
    scene.leaves_nothing();
}

#[test]
fn what_is_encrypted_on_a_connection_adds_up_and_does_not_change_its_session() {
    let mut scene = Scene::new();
    let (client, ..) = scene.pair(1);
    let peer = scene.shards[0].report().connections[0].peer;
    for (note, value) in [
        (note::ENCRYPTED, encrypted::BY_SHARE),
        (note::SESSION, protection::PLAIN),
        (note::ENCRYPTED, encrypted::BY_CLIENT),
        // This device does not know the kind of this note.
        (99, 7),
    ] {
        scene.shards[0].set_protection(&about(peer, None, note, value));
    }
    let now = scene.shards[0].report().connections.remove(0);
    let both = encrypted::BY_SHARE | encrypted::BY_CLIENT;
    assert_eq!(
        (now.protection, now.encrypted),
        (Some(protection::PLAIN), both)
    );
    scene.close(&client);
    scene.leaves_nothing();
}

#[test]
fn without_a_listener_an_unknown_client_is_closed() {
    let mut scene = Scene::new();
    let client = scene.client(0, 1);
    assert!(scene.is_closed(&client));
    assert_eq!(scene.ends, ["no_listener"]);
    scene.leaves_nothing();
}

#[test]
fn a_first_message_that_is_not_a_negotiate_request_ends_the_connection() {
    let mut scene = Scene::new();
    scene.listener();
    for message in [&b"no SMB2 at all"[..], &negotiate(1)[..70]] {
        let client = scene.connect(0);
        scene.send(&client, message);
        assert!(scene.is_closed(&client));
        assert_eq!(scene.ends.pop(), Some("first_request"));
    }
    scene.leaves_nothing();
}

#[test]
fn a_connection_whose_worker_ends_before_it_does_anything_finds_another_worker() {
    let mut scene = Scene::new();
    let (listener, worker) = (scene.listener(), scene.worker_of(1));
    let client = scene.client(0, 1);
    worker.connection_and_message();
    scene.detach(worker.id());
    scene.settle();
    let offer = listener.offer().unwrap();
    let other = scene.worker();
    scene.claim(&other, offer.token).unwrap();
    let (conn, message) = other.connection_and_message();
    assert_eq!(message, negotiate(1));
    // A connection that has been answered ends with its worker.
    other.send(conn, 1, b"a response");
    scene.settle();
    scene.detach(other.id());
    assert!(scene.is_closed(&client));
    assert_eq!(scene.ends, ["worker_gone"]);
    assert!(listener.offer().is_none());
    scene.leaves_nothing();
}

#[test]
fn a_worker_that_does_not_take_its_queue_loses_the_connection_to_another_worker() {
    for untold in [Untold::Gone, Untold::Unread] {
        let mut scene = Scene::new();
        let (listener, worker) = (scene.listener(), scene.worker_of(1));
        worker.deaf.set(Some(untold));
        let _client = scene.client(0, 1);
        assert!(
            listener.offer().is_some(),
            "the connection is offered to find another worker"
        );
        let expected = match untold {
            Untold::Gone => vec![],
            Untold::Unread => vec![(worker.id(), Status::Again)],
        };
        let faults = scene.faults.drain(..);
        let faults: Vec<_> = faults.map(|(id, status, _)| (id, status)).collect();
        assert_eq!(faults, expected);
        drop(worker);
        scene.leaves_nothing();
    }
}

#[test]
fn a_listener_that_does_not_read_loses_the_client_and_stays() {
    let mut scene = Scene::new();
    let listener = scene.listener();
    listener.deaf.set(Some(Untold::Unread));
    let client = scene.client(0, 1);
    assert!(scene.is_closed(&client));
    listener.deaf.set(None);
    let _client = scene.client(0, 2);
    assert!(listener.offer().is_some());
    assert!(scene.faults.is_empty());
    scene.leaves_nothing();
}

pub(crate) fn submit_transfer(worker: &Process, conn: u64, client_guid: [u8; 16]) {
    let transfer = TransferSubmission {
        op: op::TRANSFER,
        flags: 0,
        conn,
        cookie: 77,
        place: 0,
        length: 0,
        reserved: 0,
        client_guid,
        reserved2: 0,
    };
    worker.submit_to(smbdirect::device::abi::queue_of(conn), transmute!(transfer));
}

pub(crate) fn transfer(
    scene: &mut Scene,
    worker: &Process,
    conn: u64,
    client_guid: [u8; 16],
) -> Completion {
    submit_transfer(worker, conn, client_guid);
    scene.settle();
    let done = worker.expect(event::TRANSFERRED);
    assert_eq!(done.cookie, 77);
    done
}

#[test]
fn a_connection_is_transferred_by_guid_and_by_token() {
    let mut scene = Scene::new();
    let (client, first, conn) = scene.pair(1);
    let second = scene.worker_of(2);
    assert_eq!(transfer(&mut scene, &first, conn, [2; 16]).status, 0);
    let info = second.connection();
    scene.send(&client, b"to the second");
    let message = second.expect(event::PDU);
    assert_eq!(second.peek(&message), b"to the second");
    let busy = transfer(&mut scene, &second, info.conn, [1; 16]);
    assert_eq!(Status::from_code(busy.status), Some(Status::Busy));
    second.take(&message);
    let done = transfer(&mut scene, &second, info.conn, [0; 16]);
    assert_eq!(done.status, 0);
    scene.claim(&first, done.token).unwrap();
    let again = first.connection();
    assert_ne!(again.conn, conn, "numbers are not used twice");
    // A client that was logged in still is.
    assert_eq!(scene.office_counts(), (1, 0));
    let nobody = transfer(&mut scene, &first, again.conn, [9; 16]);
    assert_eq!(Status::from_code(nobody.status), Some(Status::NoOwner));
    scene.leaves_nothing();
}

#[test]
fn the_oldest_stranger_of_another_shard_ends_for_a_newcomer() {
    let mut scene = Scene::with(2, |_, limits| limits.max_unauthenticated = 2);
    let workers = [scene.worker_of(1), scene.worker_of(2), scene.worker_of(3)];
    let clients = [scene.client(0, 1), scene.client(1, 2), scene.client(1, 3)];
    assert_eq!(scene.ends, ["too_many_unauthenticated"]);
    assert!(scene.is_closed(&clients[0]));
    assert_eq!(
        workers[0].completions().last().unwrap().event,
        event::DISCONNECTED
    );
    // A client that has logged in is not a stranger.
    let (conn, _) = workers[1].connection_and_message();
    workers[1].call(op::AUTHENTICATED, conn);
    scene.settle();
    let _fourth = scene.client(0, 1);
    assert_eq!(scene.ends.len(), 1);
    drop(workers);
    scene.leaves_nothing();
}

#[test]
fn beyond_the_limit_of_offers_a_connection_waits_until_another_has_an_owner() {
    let mut scene = Scene::with(2, |_, limits| limits.max_undispatched = 1);
    let (listener, worker) = (scene.listener(), scene.worker());
    let _clients = [scene.client(0, 1), scene.client(1, 2)];
    let offer = listener.offer().unwrap();
    assert!(listener.offer().is_none());
    scene.claim(&worker, offer.token).unwrap();
    let next = listener.offer().unwrap();
    assert_eq!(next.info.client_guid, [2; 16]);
    scene.leaves_nothing();
}
