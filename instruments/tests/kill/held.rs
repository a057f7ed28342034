// SPDX-License-Identifier: GPL-2.0-or-later

//! Records what a process holds of the system, and what a broker holds of its clients and workers, because nothing may
//! be left.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use smbdirect::broker::status::{Status, Totals};
use smbdirect::device::observe;

use instruments::daemon::{Daemon, TIMEOUT};

/// What a test has covered.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Covered {
    /// Steps of an exchange after which a process was killed.
    pub(crate) steps: usize,
    pub(crate) kills: usize,
}

/// What the test is doing; printed if any thread fails.
pub(crate) struct During(pub(crate) String);

impl Drop for During {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed during: {}", self.0);
        }
    }
}

/// Descriptors by kind, mappings of memory files by name, and threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    descriptors: BTreeMap<String, usize>,
    mappings: BTreeMap<String, usize>,
    threads: usize,
}

impl Held {
    /// Returns the holdings of a broker without clients or processes. The broker has just reported that it is ready, on
    /// a socket that it closes before it waits for signals.
    pub(crate) fn of_new(daemon: &Daemon) -> Self {
        let id = daemon.id().to_string();
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let path = format!("/proc/{id}/task/{id}/stat");
            let stat = fs::read_to_string(path).expect("a process that lives");
            if stat.contains(") S ") {
                return Self::of(&id);
            }
            assert!(
                Instant::now() < deadline,
                "the broker does not wait for signals: {stat}"
            );
        }
    }

    /// Returns the holdings of a process, or of this one (`self`).
    pub(crate) fn of(process: &str) -> Self {
        let path = |what| format!("/proc/{process}/{what}");
        let list = |what| fs::read_dir(path(what)).expect("a process that lives");
        let mut held = Self {
            descriptors: BTreeMap::new(),
            mappings: BTreeMap::new(),
            threads: list("task").count(),
        };
        for descriptor in list("fd").flatten() {
            // The descriptor may have been closed in the meantime.
            if let Ok(target) = fs::read_link(descriptor.path()) {
                *held.descriptors.entry(kind(&target)).or_default() += 1;
            }
        }
        let maps = fs::read_to_string(path("maps")).expect("a process that lives");
        for line in maps.lines() {
            if let Some(at) = line.find("/memfd:") {
                *held.mappings.entry(line[at..].to_owned()).or_default() += 1;
            }
        }
        held
    }

    /// Subtracts mappings of memory files.
    fn forget(&mut self, region: &str, count: usize) {
        let name = format!("/memfd:smbdirect-{region} (deleted)");
        let found = self.mappings.remove(&name).unwrap_or_default();
        // Too many mappings are as wrong as too few.
        if found != count {
            self.mappings.insert(name, found.wrapping_sub(count));
        }
    }
}

/// Returns the target of a descriptor, without the number of the object.
fn kind(target: &Path) -> String {
    let name = target.to_string_lossy();
    match name.split_once(":[") {
        Some((kind, _)) if kind != "anon_inode" => kind.to_owned(),
        _ => name.into_owned(),
    }
}

/// An attached process, without anything that changes while it works: role, connections, sessions and queues.
type Attached = (String, usize, usize, usize);

/// What a broker holds, without the memory of attached processes, which grows and shrinks with use. Any other memory
/// that is left has no owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Left {
    pub(crate) held: Held,
    totals: Totals,
    connections: usize,
    processes: Vec<Attached>,
}

impl Left {
    /// Makes the record of a broker that holds `held` of the system. The caller reads `held` first, because asking for
    /// the status takes descriptors.
    pub(crate) fn of(daemon: &Daemon, held: Held) -> Self {
        let mut this = Self::empty(held);
        let status = status(daemon);
        this.totals = status.totals;
        this.connections = status.connections.len();
        for process in status.processes {
            let queues = &process.queues;
            let receive = queues.iter().map(|queue| queue.receive_segments as usize);
            let (send, bulk) = (process.send_segments, process.bulk_segments);
            this.held.forget("send", send);
            this.held.forget("bulk", bulk);
            this.held.forget("receive", receive.sum());
            this.totals.memory = this.totals.memory.wrapping_sub(process.memory);
            // A segment is registered with a connection when the connection first uses the segment.
            let registrations = (send + bulk) * process.connections;
            this.totals.registrations = this.totals.registrations.saturating_sub(registrations);
            if process.role != "observer" {
                let (connections, sessions) = (process.connections, process.sessions);
                let attached = (process.role, connections, sessions, process.queues.len());
                this.processes.push(attached);
            }
        }
        this
    }

    /// Makes the record once all memory and all registrations have owners: a working process changes them while the
    /// broker is asked.
    pub(crate) fn settled(daemon: &Daemon) -> Self {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let this = Self::of(daemon, Held::of(&daemon.id().to_string()));
            let (totals, mappings) = (&this.totals, &this.held.mappings);
            let is_queue = |name: &String| name.contains("smbdirect-queue");
            if (totals.memory, totals.registrations) == (0, 0) && mappings.keys().all(is_queue) {
                return this;
            }
            assert!(Instant::now() < deadline, "it never settles: {this:#?}");
        }
    }

    /// Makes the record of a broker without clients and processes.
    pub(crate) fn empty(held: Held) -> Self {
        Self {
            held,
            totals: Totals::default(),
            connections: 0,
            processes: Vec::new(),
        }
    }

    /// Waits until a broker holds exactly this.
    pub(crate) fn wait(&self, daemon: &Daemon, when: &str) {
        let deadline = Instant::now() + TIMEOUT;
        let id = daemon.id().to_string();
        loop {
            let held = Held::of(&id);
            // Ask the expensive question only after the cheap one has the right answer.
            let found =
                (held.descriptors == self.held.descriptors).then(|| Self::of(daemon, held.clone()));
            if found.as_ref() == Some(self) {
                return;
            }
            if Instant::now() > deadline {
                let found = Self::of(daemon, held);
                panic!("{when}: left over are {found:#?}\nand not {self:#?}");
            }
            // No event reports what another process closes, so poll.
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Returns the status of a broker.
pub(crate) fn status(daemon: &Daemon) -> Status {
    let json = observe(&daemon.control, TIMEOUT).unwrap_or_else(|status| {
        panic!("no status: {status}; the log:\n{}", daemon.log());
    });
    serde_json::from_str(&json).expect("a status")
}

/// Waits until the status of a broker is as wanted.
pub(crate) fn until(daemon: &Daemon, what: &str, wanted: impl Fn(&Status) -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let status = status(daemon);
        if wanted(&status) {
            return;
        }
        assert!(Instant::now() < deadline, "never: {what}: {status:#?}");
    }
}
