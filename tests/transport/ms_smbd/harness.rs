// SPDX-License-Identifier: GPL-2.0-or-later

//! A server, initiators that may break every rule, and one clock for all of them.
//!
//! The server is what a user gets: [`Transport`] on [`Iwarp`], listening on 127.0.0.1, on real sockets. The initiators
//! use their own [`Iwarp`] and send bytes. Everything runs in one thread and is polled in turn, and time is real time
//! plus what a case adds with [`Lab::advance`].
//!
//! Cases check "the connection is closed" only with [`Lab::ends`] or [`Lab::ends_as`]. Each call checks that:
//!
//! - the initiator sees its connection end, in the expected way, and nothing came before the end;
//! - the server's counters name the expected reason, and no other counter has changed since the start;
//! - a witness, which connected before, still has its messages answered;
//! - a newcomer can connect, negotiate and have a message answered.
//!
//! [`with_server`] checks the last three once more at the end of every case.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use smbdirect::fabric::iwarp::{Config as IwarpConfig, Depths, Iwarp};
use smbdirect::fabric::{CloseReason, ConnId, Event, Fabric, ReadLimits, Work};
use smbdirect::proto;
use smbdirect::transport::{Config, ConnStatus, HeapBuffers, Transport};
use smbdirect::units::Instant;

use super::messages::{DataTransfer, NegotiateRequest, NegotiateResponse, PADDING, REQUEST};
use super::peer::{Peer, SLOTS, Session};
use super::upper::{self, Server, Upper};

/// How long to wait, in real time, before giving up.
const PATIENCE: Duration = Duration::from_secs(10);
/// The number of turns in a row without an event that count as rest: some milliseconds.
const QUIET_TURNS: u32 = 20;
const PAUSE: Duration = Duration::from_micros(100);

/// An initiator of a [`Lab`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Id(usize);

/// See the [module](self).
pub(crate) struct Lab {
    pub(crate) server: Server,
    pub(crate) upper: Upper,
    address: SocketAddr,
    client: Iwarp,
    peers: Vec<Peer>,
    start: std::time::Instant,
    skew: Duration,
    /// The number of connections that have ended, by the reason that the server must report.
    ended: BTreeMap<&'static str, u64>,
}

/// Returns the configuration that a user gets.
pub(crate) fn usual() -> proto::Config {
    proto::Config::default()
}

/// Runs a case with a server that has this configuration, and checks that the server is unharmed.
pub(crate) fn with_server(config: proto::Config, case: impl FnOnce(&mut Lab)) {
    let mut lab = Lab::new(config);
    let witness = lab.open(&REQUEST);
    assert_eq!(witness, Id::WITNESS);
    lab.session(witness).answers = true;
    lab.echo(witness, 100);
    case(&mut lab);
    lab.settle();
    lab.check_others();
    lab.settle();
    assert_eq!(lab.server.buffers().outstanding(), 0, "buffers were lost");
}

impl Id {
    const WITNESS: Self = Self(0);
}

impl Lab {
    fn new(config: proto::Config) -> Self {
        let config = Config::new(config, config);
        let fabric = Iwarp::new(IwarpConfig::default()).unwrap();
        let mut server = Transport::new(fabric, HeapBuffers::new(), config);
        let listener = server.listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = server.local_address(listener).unwrap();
        let client = Iwarp::new(IwarpConfig {
            depths: Depths {
                sends: SLOTS.into(),
                recvs: SLOTS.into(),
                reads: 1,
                responses: 1,
                regions: 1,
            },
            ..IwarpConfig::default()
        });
        Self {
            server,
            upper: Upper::default(),
            address,
            client: client.unwrap(),
            peers: Vec::new(),
            start: std::time::Instant::now(),
            skew: Duration::from_secs(1000),
            ended: BTreeMap::new(),
        }
    }
}

/// Methods that let time pass and run both sides.
impl Lab {
    fn now(&self) -> Instant {
        Instant::ZERO + self.start.elapsed() + self.skew
    }

    /// Lets both sides do what they can. `false`: nothing happened.
    pub(crate) fn turn(&mut self) -> bool {
        let mut events = Vec::new();
        self.server.poll(self.now(), &mut events).unwrap();
        let mut busy = !events.is_empty();
        for event in events {
            self.upper.handle(&mut self.server, event);
        }
        let mut events = Vec::new();
        self.client.poll(self.now(), &mut events).unwrap();
        busy |= !events.is_empty();
        for event in events {
            self.happened(event);
        }
        self.answer();
        if !busy {
            std::thread::sleep(PAUSE);
        }
        busy
    }

    fn happened(&mut self, event: Event) {
        let conn = match &event {
            Event::Established { conn, .. }
            | Event::Completion { conn, .. }
            | Event::Closed { conn, .. } => *conn,
            other => panic!("{other:?}"),
        };
        let peer = self.peers.iter_mut().find(|peer| peer.conn == conn);
        let peer = peer.unwrap();
        match event {
            Event::Established { .. } => peer.established = true,
            Event::Closed { reason, .. } => peer.closed = Some(reason),
            Event::Completion {
                wr_id,
                work,
                result,
                ..
            } => match (work, result) {
                (Work::Send, _) => peer.sent(wr_id),
                (Work::Recv { length, .. }, Ok(())) => {
                    peer.received(&mut self.client, wr_id, length);
                }
                _ => {}
            },
            _ => {}
        }
    }

    /// Lets initiators that answer send their answers.
    fn answer(&mut self) {
        for peer in &mut self.peers {
            if let Some(session) = &mut peer.session {
                if peer.closed.is_none() && session.owes_answer() {
                    let message = session.header(0, 0);
                    session.spend(&message);
                    peer.send(&mut self.client, &message.bytes());
                }
            }
        }
    }

    /// Lets both sides run until `done`.
    #[track_caller]
    pub(crate) fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let start = std::time::Instant::now();
        while !done(self) {
            self.turn();
            if start.elapsed() > PATIENCE {
                let counters: Vec<_> = self.server.counters().closed().collect();
                panic!("gave up waiting for: {what}; ended at the server: {counters:?}");
            }
        }
    }

    /// Lets both sides run until neither has anything to do.
    #[track_caller]
    pub(crate) fn settle(&mut self) {
        let mut quiet = 0;
        self.until("rest", |lab| {
            let rest = quiet == QUIET_TURNS;
            quiet = if lab.turn() { 0 } else { quiet + 1 };
            rest
        });
    }

    /// Finishes what can be done now, moves the clock forward, and finishes what is then due.
    pub(crate) fn advance(&mut self, time: Duration) {
        self.settle();
        self.skew += time;
        self.settle();
    }

    /// Sleeps, in real time, until the server itself wants to run.
    pub(crate) fn sleep(&self, most: Duration) {
        self.server.wait(self.now(), Some(most)).unwrap();
    }
}

/// Methods that make and examine connections.
impl Lab {
    /// Makes a connection of the fabric, on which nothing has been sent.
    pub(crate) fn connect(&mut self) -> Id {
        let before: Vec<ConnId> = self.server.connections().collect();
        let conn = self
            .client
            .connect(self.address, ReadLimits::default())
            .unwrap();
        let peer = Peer::new(&mut self.client, conn);
        self.peers.push(peer);
        let id = Id(self.peers.len() - 1);
        self.until("a connection", |lab| lab.peer(id).established);
        let mut new = self.server.connections().filter(|id| !before.contains(id));
        self.peers[id.0].server = new.next().unwrap();
        id
    }

    /// Negotiates, which must succeed, and posts as many receives as there is memory for.
    #[track_caller]
    pub(crate) fn negotiate(&mut self, id: Id, request: &NegotiateRequest) -> NegotiateResponse {
        self.negotiate_with(id, request, &request.bytes(), 255)
    }

    /// Negotiates by sending `bytes`, which mean `request` but may differ from its usual form, and posts `receives`
    /// receives.
    #[track_caller]
    pub(crate) fn negotiate_with(
        &mut self,
        id: Id,
        request: &NegotiateRequest,
        bytes: &[u8],
        receives: u16,
    ) -> NegotiateResponse {
        self.send(id, bytes);
        let response = NegotiateResponse::parse(&self.message(id));
        response.check(request);
        self.peers[id.0].begin(&mut self.client, *request, response, receives);
        response
    }

    /// Makes a negotiated connection.
    #[track_caller]
    pub(crate) fn open(&mut self, request: &NegotiateRequest) -> Id {
        let id = self.connect();
        self.negotiate(id, request);
        id
    }

    /// Ends a connection from this side.
    #[track_caller]
    pub(crate) fn disconnect(&mut self, id: Id) {
        self.client.close(self.peers[id.0].conn);
        self.until("the end of a connection", |lab| {
            lab.peer(id).closed.is_some() && lab.status(id).is_none()
        });
        *self.ended.entry(CloseReason::Peer.name()).or_default() += 1;
        self.check_counters();
    }

    /// Expects that the server ends the connection gracefully, for this reason. See the [module](self).
    #[track_caller]
    pub(crate) fn ends(&mut self, id: Id, reason: &'static str) {
        self.ends_as(id, reason, CloseReason::Peer.name());
    }

    /// Expects that the server ends the connection for this reason, and that the initiator's fabric reports `at_peer`.
    #[track_caller]
    pub(crate) fn ends_as(&mut self, id: Id, reason: &'static str, at_peer: &str) {
        self.until(&format!("the end of a connection by {reason}"), |lab| {
            lab.peer(id).closed.is_some() && lab.status(id).is_none()
        });
        let peer = self.peer(id);
        assert_eq!(peer.closed.as_ref().map(CloseReason::name), Some(at_peer));
        assert!(peer.messages.is_empty(), "{:?}", peer.messages);
        *self.ended.entry(reason).or_default() += 1;
        self.check_others();
    }

    /// Expects that the connection has not ended, on either side.
    #[track_caller]
    pub(crate) fn lives(&mut self, id: Id) {
        let closed = &self.peer(id).closed;
        assert!(closed.is_none(), "ended: {closed:?}");
        assert!(self.status(id).is_some());
        self.check_counters();
    }

    #[track_caller]
    fn check_others(&mut self) {
        self.check_counters();
        self.echo(Id::WITNESS, 500);
        let newcomer = self.open(&REQUEST);
        self.echo(newcomer, 500);
        self.disconnect(newcomer);
    }

    /// Checks that connections have ended only for the reasons that the case expects.
    #[track_caller]
    fn check_counters(&self) {
        let counters: BTreeMap<_, _> = self.server.counters().closed().collect();
        assert_eq!(counters, self.ended);
    }

    pub(crate) fn peer(&self, id: Id) -> &Peer {
        &self.peers[id.0]
    }

    /// Returns the state of a negotiated connection.
    pub(crate) fn session(&mut self, id: Id) -> &mut Session {
        self.peers[id.0].session.as_mut().unwrap()
    }

    /// Returns what the server knows about the connection; `None` once it has ended.
    pub(crate) fn status(&self, id: Id) -> Option<ConnStatus> {
        self.server.status(self.peer(id).server)
    }
}

/// Methods that send and expect messages.
impl Lab {
    /// Sends these bytes, whatever they are, and counts no credit.
    #[track_caller]
    pub(crate) fn send(&mut self, id: Id, bytes: &[u8]) {
        self.until("memory for a SEND", |lab| lab.peer(id).can_send());
        self.peers[id.0].send(&mut self.client, bytes);
    }

    /// Waits for the next message, and returns it as it arrived.
    #[track_caller]
    pub(crate) fn message(&mut self, id: Id) -> Vec<u8> {
        self.until("a message", |lab| !lab.peer(id).messages.is_empty());
        self.peers[id.0].messages.pop_front().unwrap()
    }

    /// Takes the messages that have arrived.
    pub(crate) fn take_messages(&mut self, id: Id) -> Vec<Vec<u8>> {
        self.peers[id.0].messages.drain(..).collect()
    }

    /// Sends a message with this header and what follows it, once there is a credit for it.
    #[track_caller]
    pub(crate) fn post(&mut self, id: Id, header: DataTransfer, rest: &[u8]) {
        self.until("a credit", |lab| lab.session(id).credits > 0);
        self.session(id).spend(&header);
        self.send(id, &[&header.bytes(), rest].concat());
    }

    /// Sends an empty message that grants everything that can be granted.
    #[track_caller]
    pub(crate) fn post_empty(&mut self, id: Id) {
        let header = self.session(id).header(0, 0);
        self.post(id, header, &[]);
    }

    /// Sends a legal fragment.
    #[track_caller]
    pub(crate) fn post_fragment(&mut self, id: Id, payload: &[u8], remaining: usize) {
        self.until("a credit", |lab| lab.session(id).credits > 0);
        let header = self.session(id).header(payload.len(), remaining);
        self.post(id, header, &[&PADDING, payload].concat());
    }

    /// Sends a message of the upper layer, in the largest fragments that are allowed.
    #[track_caller]
    pub(crate) fn ask(&mut self, id: Id, message: &[u8]) {
        let most = self.session(id).response.max_receive_size as usize - 24;
        self.ask_in(id, message, std::iter::repeat(most));
    }

    /// Sends a message of the upper layer, in fragments of these lengths.
    #[track_caller]
    pub(crate) fn ask_in(
        &mut self,
        id: Id,
        message: &[u8],
        lengths: impl IntoIterator<Item = usize>,
    ) {
        let mut rest = message;
        self.session(id).within_message = true;
        for length in lengths {
            let (payload, after) = rest.split_at(length.min(rest.len()));
            self.post_fragment(id, payload, after.len());
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        assert!(rest.is_empty(), "too few fragments");
        self.session(id).within_message = false;
    }

    /// Waits for the next message of the upper layer that comes back. Until it comes, this side grants credits and
    /// answers.
    #[track_caller]
    pub(crate) fn reply(&mut self, id: Id) -> Vec<u8> {
        let answers = std::mem::replace(&mut self.session(id).answers, true);
        self.until("a reply", |lab| !lab.peer(id).replies.is_empty());
        self.session(id).answers = answers;
        self.peers[id.0].messages.clear();
        self.peers[id.0].replies.pop_front().unwrap()
    }

    /// Sends a message of `length` bytes there and back.
    #[track_caller]
    pub(crate) fn echo(&mut self, id: Id, length: usize) {
        let message = upper::echo(length);
        self.ask(id, &message);
        let reply = self.reply(id);
        assert!(reply == message, "the echo of {length} bytes differs");
    }
}
