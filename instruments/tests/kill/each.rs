// SPDX-License-Identifier: GPL-2.0-or-later

//! Kills each process after each step, while the broker lives through all of it.

use std::net::SocketAddr;

use crate::actor::pattern;
use crate::bystander::Bystander;
use crate::exchange::{Cast, Exchange, STEPS, Stage, Who};
use crate::held::{Covered, During, Held, Left};
use instruments::daemon::{Daemon, Directory, Setup};
use instruments::peer::{Peer, smb2};

/// A broker, a bystander, and the processes of an exchange.
pub(crate) struct Scene {
    pub(crate) daemon: Daemon,
    /// What the broker holds before any process comes, and (`base`) what it holds once the bystander works.
    fresh: Held,
    pub(crate) base: Left,
    pub(crate) cast: Cast,
    bystander: Bystander,
}

/// Returns the address at which a newly started broker listens. Reads it from the log, because asking the broker would
/// take descriptors.
pub(crate) fn address(daemon: &Daemon) -> SocketAddr {
    let status = daemon
        .ready
        .lines()
        .find_map(|line| line.strip_prefix("STATUS=listening on "));
    let address = status.and_then(|addresses| addresses.split(", ").next());
    address
        .and_then(|address| address.parse().ok())
        .expect("an address")
}

impl Scene {
    pub(crate) fn start() -> Self {
        let directory = Directory::new();
        // If a dead owner never saw its connection, the connection is offered again, but no worker claims it.
        directory.file("smbdirectd.toml", "claim_timeout = \"3 s\"\n");
        let daemon = Daemon::start_in(directory, &Setup::default());
        let fresh = Held::of_new(&daemon);
        let server = address(&daemon);
        let mut bystander = Bystander::start(&daemon.control, server, 1);
        bystander.wait_for_rounds();
        Self {
            base: Left::settled(&daemon),
            fresh,
            cast: Cast::new(&daemon.control, server),
            bystander,
            daemon,
        }
    }

    /// Ends the bystander as well, and checks that the broker is as it was at the start.
    pub(crate) fn end(self) {
        self.bystander.stop();
        drop(self.cast);
        Left::empty(self.fresh).wait(&self.daemon, "at the end");
        let status = self.daemon.status();
        assert_eq!(status["connections"], serde_json::json!([]), "{status}");
        self.daemon.stop();
    }
}

/// Runs the exchange once for each step and victim.
pub(crate) fn run() -> Covered {
    let mut scene = Scene::start();
    let mut covered = Covered::default();
    for (at, step) in STEPS.iter().enumerate() {
        let before = covered.kills;
        for victim in Who::ALL {
            let when = format!("{victim:?} killed after {:?}", step.name);
            let number = at * Who::ALL.len() + victim as usize;
            let during = During(when);
            covered.kills += usize::from(kill_after(&mut scene, at, victim, number));
            scene.cast.reset();
            scene.base.wait(&scene.daemon, &during.0);
        }
        // No process is left to kill after the last step.
        let reached = covered.kills > before || at + 1 == STEPS.len();
        assert!(reached, "no process was killed after {:?}", step.name);
        covered.steps += 1;
    }
    scene.end();
    covered
}

/// Runs to a step and kills a process. `false`: the victim does not take part yet, or no longer does.
fn kill_after(scene: &mut Scene, at: usize, victim: Who, number: usize) -> bool {
    let mut exchange = Exchange::new(&scene.daemon, &mut scene.cast, number);
    for step in &STEPS[..=at] {
        exchange.run(step);
    }
    if !exchange.takes_part(victim) {
        return false;
    }
    exchange.kill(victim);
    scene.bystander.wait_for_rounds();
    exchange.check_ends(victim);
    exchange.check_survivors(victim);
    exchange.check_place(victim);
    true
}

impl Exchange<'_> {
    /// Checks that processes whose other end died learn of that.
    fn check_ends(&mut self, victim: Who) {
        self.receive_connections(victim);
        if victim == Who::Client {
            for who in [Who::Worker, Who::Heir] {
                if self.stages[&who] == Stage::Attached {
                    self.ask(who, "gone");
                }
            }
        }
        for at in 0..self.conns.len() {
            let conn = &mut self.conns[at];
            let is_owner = conn.owner.is_some_and(|(owner, _)| owner == victim);
            conn.is_gone |= is_owner || victim == Who::Client;
            // During a transfer, a living process may have the token of the connection.
            if is_owner && !conn.is_changing {
                self.ask(Who::Client, &format!("closed {at}"));
            }
        }
    }

    /// Makes survivors look at the connections that they have been given.
    fn receive_connections(&mut self, victim: Who) {
        for at in 0..self.conns.len() {
            match self.conns[at].owner {
                Some((owner, None)) if owner != victim => self.receive_connection(at, owner),
                _ => {}
            }
        }
    }

    /// Checks that operations between survivors succeed, and that the survivors go on.
    fn check_survivors(&mut self, victim: Who) {
        if victim == Who::Client {
            return;
        }
        for who in [Who::Worker, Who::Heir] {
            if who == victim || self.stages[&who] != Stage::Attached {
                continue;
            }
            self.finish(who);
            for conn in self.conns.clone() {
                match conn.owner {
                    Some((owner, Some(place))) if owner == who && !conn.is_changing => {
                        self.ask(who, &format!("send {place} 777"));
                    }
                    _ => {}
                }
            }
            self.finish(who);
        }
        for at in 0..self.conns.len() {
            if !self.conns[at].is_gone && !self.conns[at].is_changing {
                self.ask(Who::Client, &format!("alive {at}"));
            }
        }
    }

    /// Checks that a new process can take the place of the dead one at once.
    fn check_place(&mut self, victim: Who) {
        self.stages.insert(victim, Stage::Idle);
        let server = match victim {
            Who::Worker => Who::Worker,
            Who::Listener | Who::Heir | Who::Client => Who::Heir,
        };
        self.check_service(server);
        if victim == Who::Worker {
            let guid = self.guid.clone();
            for what in ["guid", "session"] {
                self.ask(Who::Worker, &format!("{what} {guid}"));
                self.ask(Who::Worker, "reply");
            }
        }
        let is_known = self.is_registered.0 && self.stages[&Who::Worker] == Stage::Attached;
        if victim == Who::Worker || (victim == Who::Client && is_known) {
            let peer = self.newcomer(&self.guid);
            self.serve(Who::Worker, peer);
        }
        let waiting = self
            .conns
            .iter()
            .find(|conn| !conn.is_gone && conn.token.is_some());
        if let Some(token) = waiting.and_then(|conn| conn.token.clone()) {
            self.ask(server, &format!("claim {token}"));
            self.ask(server, "reply");
            self.ask(server, "connection");
            self.ask(server, "take last");
            self.ask(server, "send last 1000");
            self.finish(server);
        }
    }

    /// Checks that a client which the broker does not know reaches this worker through the listener.
    pub(crate) fn check_service(&mut self, server: Who) {
        self.attach(Who::Listener);
        self.attach(server);
        const UNKNOWN: &str = "00112233445566778899aabbccddeeff";
        let peer = self.newcomer(UNKNOWN);
        let token = self.actor(Who::Listener).ask(&format!("offer {UNKNOWN}"));
        self.ask(server, &format!("claim {token}"));
        self.ask(server, "reply");
        self.serve(server, peer);
    }

    /// Attaches a process that has not attached yet.
    fn attach(&mut self, who: Who) {
        if self.stages[&who] < Stage::Attaching {
            self.begin(who, "");
        }
        if self.stages[&who] < Stage::Attached {
            self.attached(who);
        }
    }

    /// Makes a client in this process, which has sent its first request.
    fn newcomer(&self, guid: &str) -> Peer {
        let mut peer = Peer::connect(address(self.daemon));
        peer.negotiate(
            u128::from_str_radix(guid, 16)
                .expect("a GUID")
                .to_be_bytes(),
        );
        peer
    }

    fn serve(&mut self, server: Who, mut peer: Peer) {
        self.ask(server, "connection");
        let length = smb2::negotiate_request([1; 16]).len().to_string();
        assert_eq!(self.actor(server).ask("take last"), length);
        self.ask(server, "send last 20");
        assert_eq!(peer.receive(), pattern(20));
        self.ask(server, "finish");
        peer.close();
    }
}
