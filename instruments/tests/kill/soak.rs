// SPDX-License-Identifier: GPL-2.0-or-later

//! Kills processes at random, including the broker, while clients are served; or those of a device in the kernel, which
//! cannot be killed itself.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fastrand::Rng;
use smbdirect::device::{Event, Handle, Role, Status};

use crate::actor::{Actor, has_input, hex16, say};
use crate::bystander::Bystander;
use crate::each::address;
use crate::held::{Covered, Held, Left, status};
use crate::load::{assert_absent, wait_for_either};
use instruments::daemon::{Daemon, Directory, Setup, TIMEOUT};

/// The number of processes to kill, unless the environment says otherwise.
const KILLS: usize = 200;
const KILLS_WANTED: &str = "SMBDIRECT_TEST_KILLS";
/// On average, one kill in this many hits the broker.
const BROKERS: usize = 20;
/// The number of workers, each of which registers the client of the same number, and the number of clients. No worker
/// registers the clients beyond `WORKERS`.
const WORKERS: u8 = 3;
const CLIENTS: u8 = 5;
/// The variable with a seed, which repeats a run.
const SEED: &str = "SMBDIRECT_TEST_SEED";
/// The variables with the path of a device in the kernel, and with the address and port at which clients reach it.
const DEVICE: &str = "SMBDIRECT_TEST_DEVICE";
const SERVER: &str = "SMBDIRECT_TEST_SERVER";
/// How often a client tries to connect to a device in the kernel, before it is an error: siw misses one first message in
/// about twenty (docs/interop.md).
const TRIES: usize = 5;

struct Soak {
    rng: Rng,
    /// `None`: a device in the kernel.
    daemon: Option<Daemon>,
    control: PathBuf,
    server: SocketAddr,
    listener: Actor,
    workers: Vec<Actor>,
    clients: Vec<Actor>,
    /// Workers for connections that the listener has been offered.
    children: Vec<Actor>,
    /// The number of connections that have had an owner.
    assigned: u64,
}

/// Returns the random numbers of a run, and how many processes to kill.
fn choices() -> (Rng, usize) {
    let set = |name| {
        std::env::var(name)
            .ok()
            .and_then(|value| value.parse().ok())
    };
    let seed = set(SEED).unwrap_or_else(|| Rng::new().u64(..));
    let kills = set(KILLS_WANTED).map_or(KILLS, |kills| kills as usize);
    println!("{SEED}={seed}");
    (Rng::with_seed(seed), kills)
}

/// Kills processes, and compares what is left at the end with what there was at the start.
pub(crate) fn run() -> Covered {
    let (rng, kills) = choices();
    let directory = Directory::new();
    // This limits the life of a connection whose token died with its listener or worker.
    directory.file("smbdirectd.toml", "claim_timeout = \"1s\"\n");
    let daemon = Daemon::start_in(directory, &Setup::default());
    let empty = Left::empty(Held::of_new(&daemon));
    let place = (daemon.control.clone(), address(&daemon));
    let mut soak = Soak::start(Some(daemon), place, rng);
    for _ in 0..kills {
        let pause = Duration::from_micros(soak.rng.u64(..10_000));
        soak.spend(pause);
        soak.kill();
    }
    soak.end();
    let daemon = soak.take_broker().expect("it runs");
    println!("{} connections were served", soak.assigned);
    drop(soak);
    empty.wait(&daemon, "at the end");
    daemon.stop();
    Covered { steps: 0, kills }
}

/// Kills processes of a device in the kernel. After each kill, a bystander must be served. What is left at the end, the
/// module says when it is unloaded.
pub(crate) fn run_in_kernel() -> Covered {
    let set = |name| std::env::var(name).unwrap_or_else(|_| panic!("{name} must be set"));
    let place = (
        PathBuf::from(set(DEVICE)),
        set(SERVER).parse().expect("an address"),
    );
    let (rng, kills) = choices();
    // The device lets clients in only while it has a listener.
    let mut soak = Soak::start(None, place.clone(), rng);
    let mut bystander = Bystander::start(&place.0, place.1, TRIES);
    bystander.wait_for_rounds();
    for _ in 0..kills {
        let pause = Duration::from_micros(soak.rng.u64(..100_000));
        soak.spend(pause);
        soak.kill();
        bystander.wait_for_rounds();
    }
    soak.end();
    drop(soak);
    bystander.stop();
    Covered { steps: 0, kills }
}

/// Returns whether [`run_in_kernel`] has a device.
pub(crate) fn has_kernel() -> bool {
    std::env::var_os(DEVICE).is_some()
}

fn worker(control: &Path, number: u8) -> Actor {
    let mut worker = Actor::start("server", control);
    worker.tell(&format!("serve {:032x}", u32::from(number) + 1));
    worker
}

fn client(server: SocketAddr, number: u8) -> Actor {
    let mut client = Actor::start("load-client", server.to_string());
    client.tell(&format!("{:032x}", u32::from(number) + 1));
    client
}

impl Soak {
    fn start(daemon: Option<Daemon>, (control, server): (PathBuf, SocketAddr), rng: Rng) -> Self {
        Self {
            rng,
            listener: Actor::start("load-listener", &control),
            workers: (0..WORKERS).map(|n| worker(&control, n)).collect(),
            clients: (0..CLIENTS).map(|n| client(server, n)).collect(),
            children: Vec::new(),
            assigned: 0,
            daemon,
            control,
            server,
        }
    }

    /// Lets time pass, so that workers can claim offers.
    fn spend(&mut self, time: Duration) {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if let Some(token) = self.listener.line_within(left) {
                let mut child = Actor::start("server", &self.control);
                child.tell(&format!("claim {token}"));
                self.children.push(child);
            }
            if left.is_zero() {
                break;
            }
        }
        self.children.retain_mut(|child| match child.ended() {
            None => true,
            Some(is_well) => {
                assert!(is_well, "a worker that was started for a token failed");
                false
            }
        });
        let others = self.workers.iter_mut().chain(&mut self.clients);
        for actor in others.chain([&mut self.listener]) {
            assert_eq!(actor.ended(), None, "{}", actor.part);
        }
    }

    fn kill(&mut self) {
        if self.daemon.is_some() && self.rng.usize(..BROKERS) == 0 {
            return self.kill_broker();
        }
        let (workers, clients) = (self.workers.len(), self.clients.len());
        match self.rng.usize(..=workers + clients + self.children.len()) {
            0 => {
                self.listener.kill();
                self.listener = Actor::start("load-listener", &self.control);
            }
            n if n <= workers => {
                let at = n - 1;
                self.workers[at].kill();
                self.workers[at] = worker(&self.control, at as u8);
            }
            n if n <= workers + clients => {
                let at = n - 1 - workers;
                self.clients[at].kill();
                self.clients[at] = client(self.server, at as u8);
            }
            n => {
                self.children.remove(n - 1 - workers - clients).kill();
            }
        }
    }

    /// Takes the broker out, after adding up its counters.
    fn take_broker(&mut self) -> Option<Daemon> {
        let daemon = self.daemon.take()?;
        let status = status(&daemon);
        self.assigned += status.counters.get("assigned").copied().unwrap_or(0);
        Some(daemon)
    }

    fn kill_broker(&mut self) {
        let daemon = self.take_broker().expect("it runs");
        let setup = Setup {
            listen: Some(self.server),
            ..Setup::default()
        };
        self.daemon = Some(Daemon::start_in(daemon.kill(), &setup));
    }

    /// Checks that every client is served once more.
    fn end(&mut self) {
        for client in &mut self.clients {
            client.tell("once more");
        }
        let deadline = Instant::now() + 2 * TIMEOUT;
        // Each client answers twice: to its GUID at the start, and to "once more". The first answer may be unread or
        // still to come, so wait for two.
        let mut answers = vec![0; self.clients.len()];
        while answers.iter().any(|answers| *answers < 2) {
            assert!(Instant::now() < deadline, "not served: {answers:?}");
            self.spend(Duration::from_millis(1));
            for (client, answers) in self.clients.iter_mut().zip(&mut answers) {
                *answers += usize::from(client.line_within(Duration::ZERO).is_some());
            }
        }
    }
}

/// Plays a listener that records its offers.
pub(crate) fn play_listener(path: &Path) {
    loop {
        let handle = Handle::attach(path, Role::Listener, None);
        match handle {
            Ok(handle) => offers(handle),
            Err(status) => {
                assert_absent(status);
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        if has_input(std::io::stdin()) {
            return;
        }
    }
}

fn offers(mut handle: Handle) {
    let mut attached = false;
    while !has_input(std::io::stdin()) {
        match handle.next_event().expect("attached") {
            Some(Event::Offer { token, .. }) => say(&hex16(&token)),
            Some(Event::Attached) => attached = true,
            Some(Event::Detached { status }) => {
                assert!(attached || status == Status::Detached, "{status}");
                return;
            }
            Some(other) => panic!("{other:?}"),
            None => wait_for_either(
                handle
                    .event_fd()
                    .expect("a handle that this process attached"),
            ),
        }
    }
}
