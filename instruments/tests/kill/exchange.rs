// SPDX-License-Identifier: GPL-2.0-or-later

//! Runs a complete exchange between a listener, two workers and a client, step by step.
//!
//! Between two steps all processes are idle, so the broker stays as the step left it. A client takes data only when it
//! is told to serve, so large operations stay half done.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ChildStdin;

use crate::actor::Actor;
use crate::client::first_request_length;
use crate::held::until;
use instruments::daemon::Daemon;

/// The length of an RDMA transfer that ends as soon as the client serves.
const SHORT: usize = 1 << 20;
/// The length of a transfer that does not end before the client serves: two such transfers are more than the sockets in
/// between can hold.
const LONG: usize = 8 << 20;
/// A message that needs more credits than a peer has.
const MESSAGE: usize = 1 << 20;

/// The processes that may be killed, besides the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    Listener,
    Worker,
    /// The worker that takes over a connection.
    Heir,
    Client,
}

impl Who {
    pub(crate) const ALL: [Self; 4] = [Self::Listener, Self::Worker, Self::Heir, Self::Client];

    const fn part(self) -> &'static str {
        match self {
            Self::Listener => "listener",
            Self::Worker | Self::Heir => "worker",
            Self::Client => "client",
        }
    }
}

/// How far a process of smbd has come; this decides which process notices what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// It has sent nothing.
    Idle,
    Connected,
    /// It has asked to be attached.
    Attaching,
    Attached,
}

/// A connection of the client. It has the same index in `Exchange::conns` as in the client's list.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conn {
    /// Its owner, and the connection's index in the owner's list, once the owner has looked.
    pub(crate) owner: Option<(Who, Option<usize>)>,
    /// The token, if it has not been used yet.
    pub(crate) token: Option<String>,
    /// Whether its owner is unknown at present.
    pub(crate) is_changing: bool,
    pub(crate) is_gone: bool,
}

/// The processes of an exchange, and their states.
pub(crate) struct Exchange<'a> {
    pub(crate) daemon: &'a Daemon,
    actors: &'a mut Cast,
    /// The client's GUID.
    pub(crate) guid: String,
    pub(crate) stages: BTreeMap<Who, Stage>,
    pub(crate) conns: Vec<Conn>,
    /// Whether GUID and session are registered for the worker.
    pub(crate) is_registered: (bool, bool),
}

/// Processes that take part in one exchange after the other.
pub(crate) struct Cast {
    control: std::path::PathBuf,
    server: SocketAddr,
    actors: BTreeMap<Who, Actor>,
}

impl Cast {
    pub(crate) fn new(control: &Path, server: SocketAddr) -> Self {
        let mut cast = Self {
            control: control.to_owned(),
            server,
            actors: BTreeMap::new(),
        };
        for who in Who::ALL {
            cast.actors.insert(who, cast.start(who));
        }
        cast
    }

    fn start(&self, who: Who) -> Actor {
        match who {
            Who::Client => Actor::start(who.part(), self.server.to_string()),
            Who::Listener | Who::Worker | Who::Heir => Actor::start(who.part(), &self.control),
        }
    }

    pub(crate) fn actor(&mut self, who: Who) -> &mut Actor {
        self.actors.get_mut(&who).expect("one of each")
    }

    /// Kills a process. Another one takes its place, and has done nothing yet.
    pub(crate) fn kill(&mut self, who: Who) -> Option<ChildStdin> {
        let new = self.start(who);
        let old = self.actors.insert(who, new);
        old.expect("one of each").kill()
    }

    /// Makes all processes end their connections and attachments, and check that nothing of these is left.
    pub(crate) fn reset(&mut self) {
        for actor in self.actors.values_mut() {
            actor.tell("reset");
        }
        for actor in self.actors.values_mut() {
            actor.answer("reset");
        }
    }
}

/// A step, and what it changes.
pub(crate) struct Step {
    pub(crate) name: &'static str,
    run: fn(&mut Exchange<'_>),
}

use Stage::{Attached, Attaching, Connected, Idle};
use Who::{Client, Heir, Listener, Worker};

const fn step(name: &'static str, run: fn(&mut Exchange<'_>)) -> Step {
    Step { name, run }
}

/// All steps, in order.
pub(crate) const STEPS: &[Step] = &[
    step("listener connected", |e| e.connect(Listener)),
    step("listener asked to attach", |e| e.begin(Listener, "")),
    step("listener attached", |e| e.attached(Listener)),
    step("parameters asked for", |e| e.ask(Listener, "parameters")),
    step("parameters set", |e| e.ask(Listener, "reply")),
    step("client connected by TCP", |e| e.open()),
    step("SMB Direct negotiated", |e| e.ask(Client, "established 0")),
    step("connection offered", |e| e.negotiate_to_listener()),
    step("offer received", |e| e.receive_offer()),
    step("worker connected", |e| e.connect(Worker)),
    step("worker asked to attach with the token", |e| {
        let token = e.use_token();
        e.begin(Worker, &token);
    }),
    step("worker attached", |e| {
        e.attached(Worker);
        e.wait_assigned(0, Worker);
    }),
    step("connection received", |e| e.receive_connection(0, Worker)),
    step("first message arrived", |e| e.ask(Worker, "arrived 0")),
    step("first message taken", |e| {
        let length = first_request_length().to_string();
        assert_eq!(e.actor(Worker).ask("take 0"), length);
    }),
    step("GUID asked for", |e| e.ask_guid(Worker, "guid")),
    step("GUID registered", |e| e.registered(true, false)),
    step("session asked for", |e| e.ask_guid(Worker, "session")),
    step("session registered", |e| e.registered(true, true)),
    step("message submitted", |e| e.ask(Worker, "send 0 1000")),
    step("message sent", |e| {
        e.finish(Worker);
        e.ask(Client, "receive 0 1000");
    }),
    step("second connection negotiated", |e| {
        e.open();
        e.ask(Client, "established 1");
    }),
    step("second connection routed by its GUID", |e| {
        e.ask_guid(Client, "negotiate 1");
        e.wait_assigned(1, Worker);
    }),
    step("second connection received", |e| {
        e.receive_connection(1, Worker);
        e.ask(Worker, "take 1");
    }),
    step("request for RDMA READ arrived", |e| {
        e.ask(Client, &format!("request-read 0 {SHORT}"));
        e.ask(Worker, "arrived 0");
    }),
    step("memory asked for", |e| {
        e.ask(Worker, "take 0");
        e.ask(Worker, "ask-memory");
    }),
    step("memory allocated", |e| e.ask(Worker, "allocate")),
    step("RDMA READ submitted", |e| {
        e.ask(Worker, &format!("read 0 {SHORT}"));
        e.ask(Worker, "unfinished 0");
    }),
    step("RDMA READ done", |e| {
        e.finish(Worker);
        e.ask(Worker, &format!("check {SHORT}"));
    }),
    step("RDMA WRITE half done", |e| {
        e.ask(Client, &format!("request-write 0 {LONG}"));
        e.ask(Worker, "take 0");
        for _ in 0..2 {
            e.ask(Worker, &format!("write 0 {LONG}"));
        }
        e.ask(Worker, "unfinished 0");
    }),
    step("RDMA WRITE done", |e| {
        e.finish(Worker);
        e.ask(Client, "check");
    }),
    step("large message half sent", |e| {
        e.ask(Worker, &format!("send 0 {MESSAGE}"));
        e.ask(Worker, "unfinished 0");
    }),
    step("large message sent", |e| {
        e.ask(Client, &format!("receive 0 {MESSAGE}"));
        e.finish(Worker);
    }),
    step("large message half received", |e| {
        e.ask(Client, &format!("half 0 {MESSAGE}"));
    }),
    step("large message arrived", |e| {
        e.ask(Client, "flush 0");
        e.ask(Worker, "arrived 0");
    }),
    step("message with invalidation submitted", |e| {
        assert_eq!(e.actor(Worker).ask("take 0"), MESSAGE.to_string());
        e.ask(Client, &format!("request-write 0 {SHORT}"));
        e.ask(Worker, "take 0");
        e.ask(Worker, "send 0 100 invalidate");
    }),
    step("token invalidated", |e| {
        e.ask(Client, "receive 0 100");
        e.ask(Client, "invalidated 0");
        e.finish(Worker);
    }),
    step("several of all under way", |e| e.submit_several()),
    step("several of all done", |e| {
        e.finish(Worker);
        for message in 0..12 {
            e.ask(Client, &format!("receive {} 50000", message % 2));
        }
    }),
    step("memory freed", |e| e.ask(Worker, "free")),
    step("heir attached", |e| {
        e.connect(Heir);
        e.begin(Heir, "");
        e.attached(Heir);
    }),
    step("transfer submitted", |e| {
        e.conns[0].is_changing = true;
        e.ask(Worker, "transfer 0");
    }),
    step("transferred", |e| {
        let token = e.actor(Worker).ask("transferred");
        e.conns[0] = Conn {
            token: Some(token),
            ..Default::default()
        };
    }),
    step("transferred connection claimed", |e| {
        let token = e.use_token();
        e.ask(Heir, &format!("claim {token}"));
        e.wait_assigned(0, Heir);
    }),
    step("transferred connection received", |e| {
        e.ask(Heir, "reply");
        e.receive_connection(0, Heir);
        assert_eq!(e.actor(Heir).ask("take 0"), "100");
    }),
    step("heir serves the client", |e| {
        e.ask(Heir, "send 0 5000");
        e.ask(Client, "receive 0 5000");
        e.finish(Heir);
    }),
    step("disconnect submitted", |e| {
        e.conns[1].is_changing = true;
        e.ask(Worker, "disconnect 1");
    }),
    step("disconnected", |e| {
        e.ask(Client, "closed 1");
        e.ask(Worker, "gone");
        e.conns.truncate(1);
    }),
    step("session taken back", |e| {
        e.ask_guid(Worker, "remove-session");
        e.registered(true, false);
    }),
    step("GUID taken back", |e| {
        e.ask_guid(Worker, "remove-guid");
        e.registered(false, false);
    }),
    step("closed by the client", |e| {
        e.ask(Client, "close 0");
        e.ask(Heir, "gone");
        e.conns.clear();
    }),
    step("heir freed", |e| e.reset(Heir)),
    step("worker freed", |e| e.reset(Worker)),
    step("listener freed", |e| e.reset(Listener)),
];

impl<'a> Exchange<'a> {
    pub(crate) fn new(daemon: &'a Daemon, actors: &'a mut Cast, number: usize) -> Self {
        Self {
            daemon,
            actors,
            guid: format!(
                "{:032x}",
                0x5abe_0000_0000_0000_0000_0000_0001_0000_u128 + number as u128
            ),
            stages: Who::ALL.into_iter().map(|who| (who, Idle)).collect(),
            conns: Vec::new(),
            is_registered: (false, false),
        }
    }

    pub(crate) fn run(&mut self, step: &Step) {
        (step.run)(self);
    }

    pub(crate) fn actor(&mut self, who: Who) -> &mut Actor {
        self.actors.actor(who)
    }

    pub(crate) fn kill(&mut self, who: Who) -> Option<ChildStdin> {
        self.actors.kill(who)
    }

    /// Returns whether a process has done anything.
    pub(crate) fn takes_part(&self, who: Who) -> bool {
        match who {
            Client => !self.conns.is_empty(),
            _ => self.stages[&who] > Idle,
        }
    }

    pub(crate) fn ask(&mut self, who: Who, command: &str) {
        let answer = self.actor(who).ask(command);
        assert!(!answer.is_empty());
    }

    /// Gives a command to a process while the client serves.
    pub(crate) fn ask_served(&mut self, who: Who, command: &str) {
        self.actor(Client).tell("serve");
        self.ask(who, command);
        self.actor(Client).tell("stop");
        for command in ["serve", "stop"] {
            self.actor(Client).answer(command);
        }
    }

    pub(crate) fn finish(&mut self, who: Who) {
        self.ask_served(who, "finish");
    }

    pub(crate) fn connect(&mut self, who: Who) {
        self.ask(who, "connect");
        self.stages.insert(who, Connected);
    }

    pub(crate) fn begin(&mut self, who: Who, token: &str) {
        self.ask(who, &format!("begin {token}"));
        self.stages.insert(who, Attaching);
    }

    pub(crate) fn attached(&mut self, who: Who) {
        self.ask(who, "attached");
        self.stages.insert(who, Attached);
    }

    fn reset(&mut self, who: Who) {
        self.ask(who, "reset");
        self.stages.insert(who, Idle);
    }

    fn ask_guid(&mut self, who: Who, command: &str) {
        let command = format!("{command} {}", self.guid);
        self.ask(who, &command);
    }

    fn registered(&mut self, guid: bool, session: bool) {
        self.ask(Worker, "reply");
        self.is_registered = (guid, session);
    }

    fn open(&mut self) {
        self.ask(Client, "begin");
        self.conns.push(Conn::default());
    }

    fn negotiate_to_listener(&mut self) {
        self.ask_guid(Client, "negotiate 0");
        until(self.daemon, "an offer", |status| status.totals.offered == 1);
    }

    fn receive_offer(&mut self) {
        let command = format!("offer {}", self.guid);
        let token = self.actor(Listener).ask(&command);
        self.conns[0].token = Some(token);
    }

    /// Takes the token of the first connection. It can be used only once.
    fn use_token(&mut self) -> String {
        self.conns[0].is_changing = true;
        self.conns[0].token.take().expect("a token")
    }

    /// Waits until the broker's status shows one more connection as owned by this worker, which has not read the event
    /// about it yet.
    fn wait_assigned(&mut self, conn: usize, who: Who) {
        let worker = i32::try_from(self.actor(who).id()).expect("a process");
        let owned = self
            .conns
            .iter()
            .filter(|conn| conn.owner.is_some_and(|owner| owner.0 == who));
        let expected = owned.count() + 1;
        until(self.daemon, "a connection is assigned", |status| {
            let of_worker = |conn: &&_| is_of(conn, worker);
            status.connections.iter().filter(of_worker).count() == expected
        });
        self.conns[conn] = Conn {
            owner: Some((who, None)),
            ..Conn::default()
        };
    }

    pub(crate) fn receive_connection(&mut self, conn: usize, who: Who) {
        self.ask(who, "connection");
        let received = self
            .conns
            .iter()
            .filter(|conn| matches!(conn.owner, Some((of, Some(_))) if of == who));
        let place = received.count();
        self.conns[conn].owner = Some((who, Some(place)));
    }

    /// Submits RDMA on the first connection of the client, and messages on both connections. The `LONG` transfers do
    /// not end before the client serves.
    fn submit_several(&mut self) {
        self.ask(Client, &format!("request-read 0 {SHORT}"));
        self.ask(Worker, "take 0");
        for _ in 0..3 {
            self.ask(Worker, &format!("read 0 {SHORT}"));
            self.ask(Worker, "send 0 50000");
            self.ask(Worker, "send 1 50000");
        }
        self.ask(Client, &format!("request-write 0 {LONG}"));
        self.ask(Worker, "take 0");
        for _ in 0..3 {
            self.ask(Worker, &format!("write 0 {LONG}"));
            self.ask(Worker, "send 0 50000");
            self.ask(Worker, "send 1 50000");
        }
        self.ask(Worker, "unfinished 0");
    }
}

fn is_of(conn: &smbdirect::broker::status::ConnectionStatus, process: i32) -> bool {
    conn.pid == Some(process)
}
