// SPDX-License-Identifier: GPL-2.0-or-later

//! Cases about connections themselves.

use std::sync::Arc;

use slotmap::Key;
use smbdirect::fabric::{
    Access, CloseReason, ConnId, Event, LocalAddress, LocalAddresses, ReadLimits, WrError,
};
use smbdirect::units::RemoteToken;

use crate::assert_refused;
use crate::harness::{End, Harness, Pair, World};

pub fn is_established_on_both_ends_with_agreed_limits<H: Harness>(h: H) {
    let mut w = World::new(h);
    let pair = w.request(ReadLimits {
        responder_resources: 5,
        initiator_depth: 7,
    });
    w.accept(
        pair,
        ReadLimits {
            responder_resources: 3,
            initiator_depth: 100,
        },
    );
    let server = ReadLimits {
        responder_resources: 3,
        initiator_depth: 5,
    };
    let client = ReadLimits {
        responder_resources: 5,
        initiator_depth: 3,
    };
    assert_eq!(w.limits(pair.server), Some(server));
    assert_eq!(w.limits(pair.client), Some(client));
    w.finish();
}

pub fn knows_the_local_address_of_both_ends_of_a_connection<H: Harness>(h: H) {
    let mut w = World::new(h);
    let pair = w.pair();
    let peer = w.log().iter().find_map(|(_, event)| match event {
        Event::ConnectRequest { peer, .. } => Some(*peer),
        _ => None,
    });
    let local = |w: &mut World<H>, end: End| w.fabric(end).conn_local_address(end.conn);
    let server = local(&mut w, pair.server).unwrap();
    assert_eq!(local(&mut w, pair.client), peer);
    assert_eq!(Some(server.ip()), peer.map(|peer| peer.ip()));
    assert_ne!(Some(server.port()), peer.map(|peer| peer.port()));
    assert_eq!(
        w.fabric(pair.server).conn_local_address(ConnId::null()),
        None
    );
    w.close(pair.client);
    w.closes(pair.server);
    w.closes(pair.client);
    assert_eq!(local(&mut w, pair.server), None);
    w.finish();
}

pub fn is_refused_at_an_address_without_a_listener<H: Harness>(h: H) {
    let mut w = World::new(h);
    let (listener, address) = w.listen();
    w.server_fabric().unlisten(listener);
    w.turn();
    assert_eq!(w.server_fabric().local_address(listener), None);
    let client = w.connect(address, ReadLimits::default());
    let buffer = w.register(client, 100, Access::Local);
    let receive = w.post_recv(client, buffer.all());
    assert_eq!(w.closes(client), CloseReason::Refused);
    assert_eq!(w.outcome(client, receive).unwrap().1, Err(WrError::Flushed));
    assert_eq!(w.limits(client), None);
    w.finish();
}

pub fn is_refused_at_an_address_that_is_not_admitted<H: Harness>(h: H) {
    let mut w = World::new(h);
    let established = w.pair();
    let (_, address) = w.listen();
    let only = |ip: &str| {
        let ip = LocalAddress::new(ip.parse().unwrap(), 0);
        Arc::new(LocalAddresses::Only([ip].into()))
    };
    w.server_fabric().admit_at(&only("192.0.2.1"));
    let client = w.connect(address, ReadLimits::default());
    let reason = w.closes(client);
    assert!(matches!(reason, CloseReason::Refused | CloseReason::Reset));
    let refused = |event: &Event| {
        let reason = CloseReason::AddressNotAllowed;
        matches!(event, Event::Refused { reason: why, .. } if *why == reason)
    };
    w.go_on(100);
    assert!(w.log().iter().any(|(_, event)| refused(event)));
    w.works(established);
    w.server_fabric().admit_at(&only(&address.ip().to_string()));
    let admitted = w.pair();
    w.works(admitted);
    w.finish();
}

pub fn a_rejected_client_is_refused_and_the_server_gets_no_further_event<H: Harness>(h: H) {
    let mut w = World::new(h);
    let pair = w.request(ReadLimits::default());
    let buffer = w.register(pair.server, 100, Access::Local);
    w.post_recv(pair.server, buffer.all());
    w.reject(pair.server);
    assert_eq!(w.closes(pair.client), CloseReason::Refused);
    w.go_on(20);
    assert!(!w.is_named(pair.server));
    calls_are_refused(&mut w, pair.server);
    let next = w.pair();
    w.works(next);
    w.finish();
}

pub fn unlisten_rejects_unanswered_requests_and_leaves_connections<H: Harness>(h: H) {
    let mut w = World::new(h);
    let established = w.pair();
    let (listener, _) = w.listen();
    let unanswered = w.request(ReadLimits::default());
    w.server_fabric().unlisten(listener);
    assert_eq!(w.closes(unanswered.client), CloseReason::Refused);
    assert_refused!(
        w.fabric(unanswered.server)
            .accept(unanswered.server.conn, ReadLimits::default()),
        NotConnected
    );
    // Tell the model that the server has rejected the request.
    w.reject(unanswered.server);
    w.works(established);
    w.finish();
}

pub fn work_other_than_receives_needs_an_established_connection<H: Harness>(h: H) {
    let mut w = World::new(h);
    let pair = w.request(ReadLimits::default());
    for end in [pair.client, pair.server] {
        let buffer = w.register(end, 100, Access::RemoteWrite);
        w.post_recv(end, buffer.all());
        assert_refused!(w.try_send(end, b"", None, None), NotConnected);
        assert_refused!(
            w.try_write(end, buffer.all(), buffer.remote(0)),
            NotConnected
        );
        assert_refused!(
            w.try_read(end, buffer.all(), buffer.remote(0)),
            NotConnected
        );
    }
    w.accept(pair, ReadLimits::default());
    let again = w
        .fabric(pair.server)
        .accept(pair.server.conn, ReadLimits::default());
    assert_refused!(again, NotConnected);
    let initiator = w
        .fabric(pair.client)
        .accept(pair.client.conn, ReadLimits::default());
    assert_refused!(initiator, NotConnected);
    w.finish();
}

pub fn delivers_messages_posted_before_close_and_flushes_receives<H: Harness>(h: H) {
    let mut w = World::new(h);
    let pair = w.pair();
    let buffer = w.register(pair.server, 60 * 1000, Access::Local);
    let target = w.register(pair.server, 1000, Access::RemoteWrite);
    let source = w.register_bytes(pair.client, &[7; 1000], Access::Local);
    let receives: Vec<_> = (0..60)
        .map(|n| w.post_recv(pair.server, buffer.sge(n * 1000, 1000)))
        .collect();
    let unmet = w.post_recv(pair.client, source.all());
    let write = w.post_write(pair.client, source.all(), target.remote(0));
    let sends: Vec<_> = (0..50)
        .map(|n| w.post_send(pair.client, &[n; 24], Some(source.sge(0, 976)), None))
        .collect();
    w.close(pair.client);
    w.close(pair.client);
    assert_refused!(w.try_send(pair.client, b"", None, None), NotConnected);
    assert_refused!(w.try_recv(pair.client, source.all()), NotConnected);

    assert_eq!(w.closes(pair.client), CloseReason::Local);
    assert_eq!(w.closes(pair.server), CloseReason::Peer);
    w.succeeds(pair.client, write);
    assert_eq!(target.bytes(), [7; 1000]);
    for (n, (send, receive)) in sends.iter().zip(&receives).enumerate() {
        w.succeeds(pair.client, *send);
        w.receives(pair.server, *receive, 1000);
        let mut message = vec![7; 1000];
        message[..24].fill(n as u8);
        assert_eq!(buffer.memory.to_vec(n * 1000, 1000).unwrap(), message);
    }
    for receive in &receives[50..] {
        assert_eq!(
            w.outcome(pair.server, *receive).unwrap().1,
            Err(WrError::Flushed)
        );
    }
    assert_eq!(
        w.outcome(pair.client, unmet).unwrap().1,
        Err(WrError::Flushed)
    );
    w.finish();
}

pub fn close_flushes_reads<H: Harness>(h: H) {
    let mut w = World::new(h);
    let pair = w.pair();
    let source = w.register(pair.server, 100, Access::RemoteRead);
    let sink = w.register(pair.client, 100, Access::ReadSink);
    let reads: Vec<_> = (0..100)
        .map(|_| w.post_read(pair.client, sink.all(), source.remote(0)))
        .collect();
    w.close(pair.client);
    w.closes(pair.client);
    w.closes(pair.server);
    let last = w.outcome(pair.client, reads[99]).unwrap();
    assert_eq!(last.1, Err(WrError::Flushed));
    w.finish();
}

pub fn a_connection_may_be_given_up_before_it_is_answered<H: Harness>(h: H) {
    let mut w = World::new(h);
    let by_client = w.request(ReadLimits::default());
    w.close(by_client.client);
    assert_eq!(w.closes(by_client.client), CloseReason::Local);
    w.closes(by_client.server);
    let by_server = w.request(ReadLimits::default());
    w.close(by_server.server);
    assert_eq!(w.closes(by_server.server), CloseReason::Local);
    assert_eq!(w.closes(by_server.client), CloseReason::Refused);
    let (_, address) = w.listen();
    let at_once = w.connect(address, ReadLimits::default());
    w.close(at_once);
    assert_eq!(w.closes(at_once), CloseReason::Local);
    w.finish();
}

/// What ends a connection in [`completes_everything_once_whatever_ends_the_connection`].
#[derive(Clone, Copy, Debug)]
enum Ender {
    CloseClient,
    CloseServer,
    CloseBoth,
    GuessedToken,
    NoReceive,
    UnknownInvalidation,
}

const ENDERS: [Ender; 6] = [
    Ender::CloseClient,
    Ender::CloseServer,
    Ender::CloseBoth,
    Ender::GuessedToken,
    Ender::NoReceive,
    Ender::UnknownInvalidation,
];

pub fn completes_everything_once_whatever_ends_the_connection<H: Harness>(h: H) {
    let mut w = World::new(h);
    for ender in ENDERS {
        // End the connection at once, and after some progress.
        for turns in [0, 1, 2, 5] {
            let pair = w.pair();
            load(&mut w, pair);
            w.go_on(turns);
            finish_with(&mut w, pair, ender);
            w.closes(pair.client);
            w.closes(pair.server);
        }
    }
    // The world checks that each request completes once.
    w.finish();
}

/// Posts some of everything in both directions.
pub fn load<H: Harness>(w: &mut World<H>, pair: Pair) {
    for (from, to) in pair.both_ways() {
        let buffer = w.register(to, 100_000, Access::Local);
        let readable = w.register(to, 100_000, Access::RemoteRead);
        let writable = w.register(to, 100_000, Access::RemoteWrite);
        let own = w.register(from, 100_000, Access::ReadSink);
        for n in 0..20 {
            w.post_recv(to, buffer.sge(n * 1000, 1000));
        }
        for n in 0..20 {
            w.post_read(from, own.sge(50_000, 5000), readable.remote(n));
            w.post_write(from, own.sge(0, 5000), writable.remote(n));
            if n < 10 {
                w.post_send(from, &[1; 20], Some(own.sge(0, 500)), None);
            }
        }
    }
}

fn finish_with<H: Harness>(w: &mut World<H>, pair: Pair, ender: Ender) {
    match ender {
        Ender::CloseClient => w.close(pair.client),
        Ender::CloseServer => w.close(pair.server),
        Ender::CloseBoth => {
            w.close(pair.client);
            w.close(pair.server);
        }
        Ender::GuessedToken => {
            let own = w.register(pair.client, 8, Access::RemoteWrite);
            w.post_write(pair.client, own.all(), own.remote(0));
            w.post_write(pair.client, own.all(), own.remote(0));
        }
        Ender::NoReceive => {
            for _ in 0..30 {
                w.post_send(pair.client, b"too many", None, None);
            }
        }
        Ender::UnknownInvalidation => {
            let token = Some(RemoteToken(0));
            w.post_send(pair.client, b"", None, token);
        }
    }
}

pub fn every_call_refuses_a_connection_that_has_ended<H: Harness>(h: H) {
    let mut w = World::new(h);
    let pair = w.pair();
    w.close(pair.server);
    w.closes(pair.server);
    w.closes(pair.client);
    // If the fabric reuses the entry of an ended connection, this new connection gets it. The old number must still be
    // refused.
    let next = w.pair();
    calls_are_refused(&mut w, pair.client);
    calls_are_refused(&mut w, pair.server);
    let never = End {
        conn: ConnId::null(),
        ..pair.server
    };
    calls_are_refused(&mut w, never);
    w.go_on(20);
    w.works(next);
    w.finish();
}

fn calls_are_refused<H: Harness>(w: &mut World<H>, end: End) {
    let memory = smbdirect::sys::Memory::zeroed(10);
    let registered = w.fabric(end).register(end.conn, &memory, Access::Local);
    assert_refused!(registered, NotConnected);
    let region = smbdirect::fabric::RegionId(0);
    let deregistered = w.fabric(end).deregister(end.conn, region);
    assert_refused!(deregistered, NotConnected);
    let accepted = w.fabric(end).accept(end.conn, ReadLimits::default());
    assert_refused!(accepted, NotConnected);
    let sge = smbdirect::fabric::Sge {
        region,
        offset: 0,
        length: 0,
    };
    let remote = smbdirect::fabric::RemoteAddress {
        token: RemoteToken(1),
        address: 0,
    };
    assert_refused!(w.try_recv(end, sge), NotConnected);
    assert_refused!(w.try_send(end, b"", None, None), NotConnected);
    assert_refused!(w.try_write(end, sge, remote), NotConnected);
    assert_refused!(w.try_read(end, sge, remote), NotConnected);
    w.fabric(end).reject(end.conn);
    w.fabric(end).close(end.conn);
}

pub fn carries_sixty_four_connections_at_once<H: Harness>(h: H) {
    let mut w = World::new(h);
    let pairs: Vec<Pair> = (0..64).map(|_| w.pair()).collect();
    let mut awaited = Vec::new();
    for round in 0..10 {
        for (n, pair) in pairs.iter().enumerate() {
            for (from, to) in pair.both_ways() {
                let buffer = w.register(to, 40, Access::Local);
                let receive = w.post_recv(to, buffer.all());
                let message = [n as u8, round, u8::from(from == pair.client)];
                w.post_send(from, &message, None, None);
                awaited.push((to, receive, buffer, message));
            }
        }
    }
    for (to, receive, buffer, message) in awaited {
        w.receives(to, receive, 3);
        assert_eq!(buffer.memory.to_vec(0, 3).unwrap(), message);
    }
    for pair in pairs.iter().step_by(2) {
        w.close(pair.client);
    }
    for (n, pair) in pairs.iter().enumerate() {
        if n % 2 == 0 {
            w.closes(pair.server);
        } else {
            w.works(*pair);
        }
    }
    w.finish();
}

pub fn an_idle_fabric_does_not_ask_to_be_polled_at_once<H: Harness>(h: H) {
    let mut w = World::new(h);
    let pair = w.pair();
    w.works(pair);
    w.go_on(1000);
    let now = w.now();
    for end in [pair.client, pair.server] {
        let next = w.fabric(end).poll_timeout();
        assert!(next.is_none_or(|next| next > now), "{next:?} at {now:?}");
    }
    w.finish();
}
