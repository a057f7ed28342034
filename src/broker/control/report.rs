// SPDX-License-Identifier: GPL-2.0-or-later

//! Puts the status together: asks all reactors, and completes the status when the last reactor has answered.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::sync::Arc;

use crossbeam_channel::Sender;

use super::Control;
use crate::broker::STATUS_TIMEOUT;
use crate::broker::config::Config;
use crate::broker::machine::usage;
use crate::broker::process::{Process, send};
use crate::broker::reactor::{Command, Report};
use crate::broker::status::{
    Carried, CloseStatus, ConnectionStatus, Limits, ProcessStatus, QueueStatus, Status, Totals,
};
use crate::device::{self, abi};
use crate::engine::peer::Role;
use crate::engine::registry::{self, Close, Registry};
use crate::shm;
use crate::sys::{Memfd, SeqSocket};
use crate::units::Instant;

/// The receiver of a status.
#[derive(Debug)]
pub(super) enum Asker {
    /// Threads of the program in which the broker runs.
    Owner(Vec<Sender<Status>>),
    /// An observer.
    Process { id: u32, cookie: u64 },
}

/// A status that is being put together.
#[derive(Debug)]
struct Pending {
    asker: Asker,
    since: Instant,
    /// Number of reactors that have not answered.
    missing: usize,
    reports: Vec<Report>,
}

/// All statuses that are being put together: at most one for each observer, and one for threads of the program.
#[derive(Debug, Default)]
pub(super) struct Reports {
    last: u64,
    pending: BTreeMap<u64, Pending>,
    /// The threads that have asked while the status for others was being put together; they get the next status.
    waiting: Vec<Sender<Status>>,
}

impl Reports {
    /// Returns whether an observer is already waiting for an answer.
    pub(super) fn has_asked(&self, process: u32) -> bool {
        let of = |asker: &Asker| matches!(asker, Asker::Process { id, .. } if *id == process);
        self.pending.values().any(|pending| of(&pending.asker))
    }
}

impl Control {
    /// Gets the status for a thread of the program.
    pub(super) fn report_to(&mut self, thread: Sender<Status>) {
        self.reports.waiting.push(thread);
        self.report_to_waiting();
    }

    /// Gets the status for the threads that wait, unless one for other threads is being put together.
    fn report_to_waiting(&mut self) {
        let of_threads = |pending: &Pending| matches!(pending.asker, Asker::Owner(_));
        let is_asking = self.reports.pending.values().any(of_threads);
        if !is_asking && !self.reports.waiting.is_empty() {
            let waiting = std::mem::take(&mut self.reports.waiting);
            self.report(Asker::Owner(waiting));
        }
    }

    /// Forgets a status if a reactor does not answer and the threads that asked no longer wait: the incomplete status
    /// holds the reports of all other reactors, and with them processes that have ended.
    pub(super) fn expire_reports(&mut self) {
        let now = self.now;
        self.reports
            .pending
            .retain(|_, pending| match pending.asker {
                Asker::Owner(_) => now < pending.since + STATUS_TIMEOUT,
                Asker::Process { .. } => true,
            });
        self.report_to_waiting();
    }

    /// Asks all reactors for their reports.
    pub(super) fn report(&mut self, asker: Asker) {
        self.reports.last += 1;
        let number = self.reports.last;
        let pending = Pending {
            asker,
            since: self.now,
            missing: self.running,
            reports: Vec::new(),
        };
        self.reports.pending.insert(number, pending);
        self.command_all(|| Command::Report(number));
        self.complete(number);
    }

    /// Adds the report of a reactor that has answered.
    pub(super) fn reported(&mut self, number: u64, report: Report) {
        let Some(pending) = self.reports.pending.get_mut(&number) else {
            return;
        };
        pending.reports.push(report);
        pending.missing = pending.missing.saturating_sub(1);
        self.complete(number);
    }

    /// Waits no longer for a reactor that has ended: the registry has what this reactor carried and counted.
    pub(super) fn reactor_ended(&mut self, reactor: usize) {
        let numbers: Vec<u64> = self.reports.pending.keys().copied().collect();
        for number in numbers {
            if let Some(pending) = self.reports.pending.get_mut(&number) {
                let mut reports = pending.reports.iter();
                if !reports.any(|report| report.reactor == reactor) {
                    pending.missing = pending.missing.saturating_sub(1);
                }
            }
            self.complete(number);
        }
    }

    /// Answers if no report is missing.
    fn complete(&mut self, number: u64) {
        let pending = self.reports.pending.get(&number);
        if pending.is_none_or(|pending| pending.missing > 0) {
            return;
        }
        if let Some(pending) = self.reports.pending.remove(&number) {
            self.answer(pending);
        }
    }

    /// Forgets a process that has gone and does not need an answer.
    pub(super) fn forget_asker(&mut self, process: u32) {
        let pending = &mut self.reports.pending;
        pending.retain(
            |_, pending| !matches!(pending.asker, Asker::Process { id, .. } if id == process),
        );
    }

    fn answer(&mut self, pending: Pending) {
        let status = self.status(pending.reports);
        match pending.asker {
            Asker::Owner(mut threads) => {
                // If a thread no longer waits, that is fine.
                if let Some(last) = threads.pop() {
                    for thread in threads {
                        let _ = thread.try_send(status.clone());
                    }
                    let _ = last.try_send(status);
                }
                self.report_to_waiting();
            }
            Asker::Process { id, cookie } => {
                let process = self.peers.get(&id).and_then(|peer| peer.process.clone());
                let Some(process) = process else {
                    return;
                };
                if send_status(&process.socket, cookie, &status).is_err() {
                    let why = "the status could not be sent to it";
                    self.detach(id, Some(device::Status::System), why);
                }
            }
        }
    }

    fn status(&self, reports: Vec<Report>) -> Status {
        let config = self.shared.config();
        let registered = Registered::copy(&self.shared.registry());
        let name = |(name, count): (&&'static str, &u64)| ((*name).to_owned(), *count);
        let mut counters: BTreeMap<String, u64> = registered.counters.iter().map(name).collect();
        let mut totals = Totals {
            memory: self.shared.memory.used(),
            ..registered.totals
        };
        let processes = registered.processes.iter();
        let mut processes: Vec<ProcessStatus> = processes.map(process_status).collect();
        let mut connections = Vec::new();
        let mut ends: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
        for ((fabric, reason), count) in registered.ends {
            let of_fabric = ends.entry(fabric.to_owned()).or_default();
            of_fabric.insert(reason.to_owned(), count);
        }
        let before = registered.carried_before.iter();
        let before = before.map(|(fabric, carried)| ((*fabric).to_owned(), carried.into()));
        let mut carried: BTreeMap<String, Carried> = before.collect();
        let mut fetched_ahead = 0;
        let mut of_transport = |name: &str, count: u64| {
            *counters.entry(format!("transport_{name}")).or_default() += count;
        };
        for carried in registered.carried_before.values() {
            fetched_ahead += carried.fetched_ahead;
            of_transport("requested", carried.requested);
        }
        for (name, count) in registered.transport_before {
            of_transport(name, count);
        }
        for Report {
            reactor,
            fabric,
            shard,
        } in reports
        {
            // What such a reactor said before its end is in the registry now.
            if registered.ended_shards.contains(&reactor) {
                continue;
            }
            let of_fabric = carried.entry(fabric.to_string()).or_default();
            of_fabric.add(shard.established, &shard.traffic);
            totals.queues += shard.queues.len();
            totals.registrations += shard.registrations;
            let of_shard = shard.connections.into_iter();
            let of = (reactor, fabric);
            connections.extend(of_shard.map(|conn| ConnectionStatus::new(conn, of, self.now)));
            for queue in shard.queues {
                // The registry has the processes in the order of their numbers.
                let owner = processes.binary_search_by_key(&queue.worker, |process| process.id);
                if let Some(process) = owner.ok().and_then(|owner| processes.get_mut(owner)) {
                    process.connections += queue.connections;
                    process.queues.push(QueueStatus::new(&queue, reactor));
                }
            }
            fetched_ahead += shard.fetched_ahead;
            for (name, count) in shard.counters {
                if name == "requested" {
                    of_fabric.requested += count;
                }
                of_transport(name, count);
            }
        }
        if fetched_ahead > 0 {
            counters.insert("fetched_ahead".to_owned(), fetched_ahead);
        }
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            interface: abi::VERSION,
            uptime_seconds: self.now.saturating_since(Instant::ZERO).as_secs_f64(),
            start_time_seconds: self.shared.start_time_seconds(),
            usage: Some(usage()),
            stopping: self.stopping,
            listen: self.listen.clone(),
            addresses: self.known.reach.addresses.clone(),
            missing: self.known.reach.missing.clone(),
            allowed: self.known.allowed(),
            limits: limits(&config, self.shared.memory.limit()),
            totals,
            carried,
            connections,
            processes,
            closes: registered.closes.iter().map(CloseStatus::from).collect(),
            clients: self.clients.status(),
            ends,
            refused: registered.refused.iter().map(name).collect(),
            counters,
        }
    }
}

/// What the registry contributes to a status. The reactors need the registry, too, so the registry is not locked while
/// texts are made of its contribution.
struct Registered {
    /// The numbers that the registry knows.
    totals: Totals,
    /// The processes, and how many sessions and clients each has registered.
    processes: Vec<(Arc<Process>, usize)>,
    counters: BTreeMap<&'static str, u64>,
    ends: BTreeMap<(&'static str, &'static str), u64>,
    refused: BTreeMap<&'static str, u64>,
    closes: Vec<Close>,
    ended_shards: BTreeSet<usize>,
    carried_before: BTreeMap<&'static str, registry::Carried>,
    transport_before: BTreeMap<&'static str, u64>,
}

impl Registered {
    fn copy(registry: &Registry<Arc<Process>>) -> Self {
        let registered = |process: &Arc<Process>| registry.registered(process.id);
        let processes = registry.processes();
        Self {
            totals: Totals {
                connections: registry.connections(),
                undispatched: registry.undispatched(),
                dispatching: registry.dispatching(),
                unauthenticated: registry.unauthenticated(),
                offered: registry.tokens(),
                clients: registry.clients(),
                sessions: registry.sessions(),
                ..Totals::default()
            },
            processes: processes
                .map(|process| (Arc::clone(process), registered(process)))
                .collect(),
            counters: registry.counters().clone(),
            ends: registry.ends().clone(),
            refused: registry.refused().clone(),
            closes: registry.closes().cloned().collect(),
            ended_shards: registry.ended_shards().clone(),
            carried_before: registry.carried_before().clone(),
            transport_before: registry.transport_before().clone(),
        }
    }
}

/// Returns the status of a process and of what it has registered, without its queues, which only the reactors know.
fn process_status((process, registered): &(Arc<Process>, usize)) -> ProcessStatus {
    let segments = process.segments();
    ProcessStatus {
        id: process.id,
        pid: process.pid,
        role: process.role.name().to_owned(),
        invited: process.invited,
        connections: 0,
        sessions: match process.role {
            Role::Worker => *registered,
            Role::Listener | Role::Observer => 0,
        },
        memory: process.account.used(),
        send_segments: segments.send.iter().flatten().count(),
        bulk_segments: segments.bulk.iter().flatten().count(),
        queues: Vec::new(),
    }
}

fn limits(config: &Config, memory: u64) -> Limits {
    Limits {
        connections: config.max_connections,
        undispatched: config.max_undispatched,
        unauthenticated: config.max_unauthenticated,
        workers: config.max_workers,
        sessions_of_worker: config.max_sessions,
        memory_of_worker: config.memory.limit,
        memory,
        queue_depth: config.queue_depth,
    }
}

/// Sends a status as JSON.
fn send_status(socket: &SeqSocket, cookie: u64, status: &Status) -> std::io::Result<()> {
    send_json(socket, cookie, &serde_json::to_vec(status)?)
}

/// Sends JSON in a memory file of its own.
pub(super) fn send_json(socket: &SeqSocket, cookie: u64, json: &[u8]) -> std::io::Result<()> {
    let file = Memfd::create("smbdirect-status", json.len()).map_err(std::io::Error::other)?;
    let memory = shm::map(&file)?;
    memory.write(0, json).map_err(std::io::Error::other)?;
    send_report(socket, cookie, &file, json.len())
}

/// Sends a memory file that begins with this many bytes of JSON.
pub(in crate::broker) fn send_report(
    socket: &SeqSocket,
    cookie: u64,
    file: &Memfd,
    json_length: usize,
) -> std::io::Result<()> {
    let report = abi::StatusReport {
        length: file.len() as u64,
        json_length: json_length as u64,
    };
    send(
        socket,
        abi::kind::STATUS_REPORT,
        cookie,
        &report,
        &[file.as_fd()],
    )
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use crossbeam_channel::{Receiver, bounded};

    use super::super::{Message, Notice};
    use super::*;
    use crate::broker::control::request::tests::control;
    use crate::engine::shard;
    use crate::fabric::FabricKind;
    use crate::transport::Traffic;

    /// A control thread with reactors that answer when the test says so.
    struct Scene {
        control: Control,
        directory: PathBuf,
    }

    impl Scene {
        fn new(reactors: usize) -> Self {
            let (mut control, _, directory) = control();
            control.running = reactors;
            Self { control, directory }
        }

        /// Asks for the status, as a thread of the program does.
        fn ask(&mut self) -> Receiver<Status> {
            let (sender, answer) = bounded(1);
            self.control.handle(Message::Status(sender));
            answer
        }

        /// Makes a reactor answer request `number`: `connections` connections have asked to be accepted, and have
        /// negotiated.
        fn report(&mut self, number: u64, reactor: usize, connections: u64) {
            let shard = shard::Report {
                connections: Vec::new(),
                queues: Vec::new(),
                registrations: 0,
                established: connections,
                traffic: Traffic::default(),
                fetched_ahead: connections,
                counters: vec![("peer", connections), ("requested", connections)],
            };
            let report = Report {
                reactor,
                fabric: FabricKind::Software,
                shard,
            };
            self.control
                .handle(Message::Notice(Notice::Report(number, report)));
        }

        /// Returns the number of statuses that are being put together, and of threads that wait for the next one.
        fn pending(&self) -> (usize, usize) {
            let reports = &self.control.reports;
            (reports.pending.len(), reports.waiting.len())
        }
    }

    impl Drop for Scene {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }

    /// Returns how many connections negotiated, if the status has come.
    fn negotiated(answer: &Receiver<Status>) -> Option<u64> {
        let status = answer.try_recv().ok()?;
        Some(status.carried["software"].connections)
    }

    #[test]
    fn threads_that_ask_meanwhile_get_the_next_status() {
        let mut scene = Scene::new(2);
        let first = scene.ask();
        scene.report(1, 0, 1);
        let others = [scene.ask(), scene.ask()];
        assert_eq!(scene.pending(), (1, 2));
        scene.report(1, 1, 1);
        assert_eq!(negotiated(&first), Some(2));
        assert_eq!(others.each_ref().map(negotiated), [None, None]);
        scene.report(2, 1, 10);
        scene.report(2, 0, 10);
        assert_eq!(others.each_ref().map(negotiated), [Some(20), Some(20)]);
        assert_eq!(scene.pending(), (0, 0));
    }

    #[test]
    fn a_status_that_a_reactor_does_not_complete_is_forgotten() {
        let mut scene = Scene::new(2);
        let _answers = [scene.ask(), scene.ask(), scene.ask()];
        scene.report(1, 0, 1);
        assert_eq!(scene.pending(), (1, 2));
        scene.control.now = scene.control.now + STATUS_TIMEOUT;
        scene.control.expire();
        assert_eq!(
            scene.pending(),
            (1, 0),
            "the next status is for the other two threads"
        );
        scene.control.now = scene.control.now + STATUS_TIMEOUT;
        scene.control.expire();
        assert_eq!(scene.pending(), (0, 0));
        // The answer of a reactor that was late changes nothing.
        scene.report(1, 1, 1);
    }

    /// Returns what a status says of the numbers that [`Scene::report`] sets.
    fn numbers(answer: &Receiver<Status>) -> [u64; 5] {
        let status = answer.try_recv().expect("a status");
        let carried = &status.carried["software"];
        [
            carried.connections,
            carried.requested,
            status.counters["transport_requested"],
            status.counters["transport_peer"],
            status.counters["fetched_ahead"],
        ]
    }

    #[test]
    fn a_reactor_that_has_ended_counts_once() {
        let mut scene = Scene::new(2);
        let before = scene.ask();
        scene.report(1, 0, 5);
        scene.report(1, 1, 10);
        assert_eq!(numbers(&before), [15; 5]);
        // One reactor reports, and then ends before the other has reported.
        let meanwhile = scene.ask();
        scene.report(2, 0, 5);
        let carried = registry::Carried {
            requested: 7,
            connections: 7,
            traffic: Traffic::default(),
            fetched_ahead: 7,
        };
        let mut registry = scene.control.shared.registry();
        registry.shard_ended((0, "software"), carried, [("peer", 7)].into_iter());
        drop(registry);
        scene.report(2, 1, 10);
        assert_eq!(numbers(&meanwhile), [17; 5]);
        let after = scene.ask();
        scene.report(3, 1, 10);
        assert_eq!(
            scene.pending(),
            (1, 0),
            "the end of the other reactor is not known yet"
        );
        let ended = |reactor| Message::Notice(Notice::Ended(reactor));
        scene.control.stopping = true;
        scene.control.handle(ended(0));
        assert_eq!(numbers(&after), [17; 5]);
    }

    #[test]
    fn a_status_waits_for_the_reactors_that_go_on() {
        let mut scene = Scene::new(3);
        scene.control.stopping = true;
        let answer = scene.ask();
        scene.report(1, 2, 10);
        let ended = |reactor| Message::Notice(Notice::Ended(reactor));
        // The first reactor has reported, and the second has not.
        scene.control.handle(ended(2));
        scene.control.handle(ended(1));
        assert_eq!(negotiated(&answer), None);
        scene.report(1, 0, 5);
        assert_eq!(negotiated(&answer), Some(15));
    }
}
