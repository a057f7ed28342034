//! A reactor: one thread that drives connections, and the queues of their owners.
//!
//! ```text
//!   fabric -> Transport -> events  ->  connections -> completions -> Queue -> worker
//!   fabric <- Transport <- send, read, write <-  submissions  <-  Queue <- worker
//!                              ^
//!   control thread  -> Command-'        faults, reports -> control thread
//! ```
//!
//! All data of a connection stays in its reactor: a worker has a queue with each reactor that has
//! connections of its own. A queue in use is looked at in turn with the others; one that was idle
//! for a while has announced sleep and is not looked at before its bell rings. Before it sleeps, a
//! reactor looks for work for a while, which grows when that was worth it and shrinks when not.
//!
//! What a worker writes ends that worker at most: a violation is reported to the control
//! thread, and its connections are closed at once.

mod busy_poll;
mod connection;
mod end;
mod rest;
mod route;
mod strangers;
mod submit;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use slotmap::SlotMap;

pub(super) use self::connection::Claim;
use self::connection::{Conn, Stage};
use self::rest::Sleeper;
pub(super) use self::rest::WAKER;
use self::submit::BATCH;

use super::process::{Pool, Queue, UNREAD};
use super::shared::Shared;
use super::status::{ConnectionStatus, QueueStatus};
use crate::device::Status;
use crate::device::abi::{Completion, event};
use crate::engine::admission::Limit;
use crate::engine::lines::Lines;
use crate::engine::peer::Untold;
use crate::engine::pool::{Buffer, Fault, QueueId};
use crate::engine::reason;
use crate::fabric::{
    ConnId, Fabric, FabricError, FabricKind, ListenerId, LocalAddress, LocalAddresses, SharedEpoll,
};
use crate::proto;
use crate::shm::{Entry, RingCorrupt};
use crate::transport::{ConnTable, Event, Traffic, Transport};
use crate::units::Instant;

/// Time after which those that found no memory try again.
const RETRY: Duration = Duration::from_millis(100);

/// What the control thread tells a reactor.
#[derive(Debug)]
pub(super) enum Command {
    /// A worker has named the token of a connection.
    Claim { conn: ConnId, claim: Claim },
    /// The listener has named the token of a connection that it does not want.
    Decline(ConnId),
    /// A connection that waited may be offered to the listener.
    Offer(ConnId),
    /// A connection has to go, for there are too many.
    End(ConnId, Limit),
    /// A worker is not attached any more.
    Gone(u32),
    /// A worker has given segments of its SEND or BULK back.
    Released(u32),
    /// A worker has unmapped this segment of its RECEIVE with the reactor.
    Unmapped { id: u32, number: u32 },
    /// Others need memory: ask workers for what is idle of RECEIVE.
    Reclaim,
    /// For connections to come.
    SetAcceptor(proto::Config),
    /// Clients may use these addresses of the machine: for connections to come, and for those that are
    /// there.
    AdmitAt(Arc<LocalAddresses>),
    /// The machine's interfaces have these addresses: end the connections that came in at others, unless
    /// they are routed here.
    EndGone(Arc<BTreeSet<LocalAddress>>),
    /// Report, with this number.
    Report(u64),
    /// Take no more connections; end those that are there, at the latest then.
    Stop(Instant),
}

/// What a reactor tells the control thread.
#[derive(Debug)]
pub(super) enum Notice {
    /// A process is to be detached.
    Fault {
        process: u32,
        status: Status,
        why: String,
    },
    /// A process has closed its control socket, or its half.
    Closed(u32),
    /// For another reactor, or for this one in another round.
    Relay(usize, Command),
    /// The answer to [`Command::Report`].
    Report(u64, Report),
    /// There was no memory for a received message, which others may have. It is tried for again.
    NoMemory,
    /// The reactor has ended.
    Ended(usize),
}

/// What a reactor knows for the status.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) connections: Vec<ConnectionStatus>,
    /// With the worker.
    pub(super) queues: Vec<(u32, QueueStatus)>,
    pub(super) registrations: usize,
    /// What carries its connections.
    pub(super) fabric: FabricKind,
    /// Connections that negotiated since the start.
    pub(super) established: u64,
    /// What all connections carried, those that have ended among them.
    pub(super) traffic: Traffic,
    /// Of the transport: ends of connections that never negotiated among them.
    pub(super) counters: Vec<(&'static str, u64)>,
}

/// The way to the control thread.
#[derive(Clone, Debug)]
pub(super) struct ToControl {
    pub(super) sender: Sender<super::control::Message>,
    pub(super) waker: Arc<mio::Waker>,
}

impl ToControl {
    pub(super) fn send(&self, message: super::control::Message) {
        // Where it has ended, nobody needs to know any more.
        let _ = self.sender.send(message);
        let _ = self.waker.wake();
    }

    fn notice(&self, notice: Notice) {
        self.send(super::control::Message::Notice(notice));
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Reactor<F: Fabric> {
    number: usize,
    fabric: FabricKind,
    shared: Arc<Shared>,
    transport: Transport<F, Pool>,
    listeners: Vec<ListenerId>,
    commands: Receiver<Command>,
    control: ToControl,
    sleeper: Sleeper,
    conns: ConnTable<Conn>,
    /// When connections without an owner or a session have waited long enough.
    deadlines: BTreeSet<(Instant, ConnId)>,
    queues: SlotMap<QueueId, Queue>,
    queue_of: BTreeMap<u32, QueueId>,
    /// Queues to look at.
    active: Vec<QueueId>,
    events: Vec<Event<Buffer>>,
    /// Copies of submissions, a batch of one queue at a time. Not made anew for each look at a queue:
    /// most find nothing.
    entries: Box<[Entry; BATCH]>,
    /// Copies of descriptors, one submission's at a time.
    descriptors: Vec<u8>,
    lines: Lines,
    /// Workers that are to be woken at a time, the next first, unless they were meanwhile.
    late: VecDeque<(Instant, QueueId)>,
    /// Clients that were turned away before they had negotiated, as of the last warning.
    turned_away: u64,
    /// When to try again for what found no memory.
    retry_at: Option<Instant>,
    /// When to look for idle memory of RECEIVE; `None`: there is none that could be taken back.
    look_at: Option<Instant>,
    /// When everything has to be over.
    stop_by: Option<Instant>,
    now: Instant,
}

impl<F: SharedEpoll> Reactor<F> {
    /// A reactor that listens already.
    pub(super) fn new(
        (number, fabric): (usize, FabricKind),
        shared: Arc<Shared>,
        (transport, listeners): (Transport<F, Pool>, Vec<ListenerId>),
        commands: Receiver<Command>,
        control: ToControl,
    ) -> Self {
        let sleeper = Sleeper::new(shared.config.busy_poll);
        Self {
            number,
            fabric,
            transport,
            listeners,
            commands,
            control,
            sleeper,
            conns: ConnTable::default(),
            deadlines: BTreeSet::new(),
            queues: SlotMap::with_key(),
            queue_of: BTreeMap::new(),
            active: Vec::new(),
            events: Vec::new(),
            entries: Box::new([Entry::default(); BATCH]),
            descriptors: Vec::new(),
            lines: Lines::default(),
            late: VecDeque::new(),
            turned_away: 0,
            retry_at: None,
            look_at: None,
            stop_by: None,
            now: shared.now(),
            shared,
        }
    }

    /// Works until it is told to stop.
    ///
    /// # Errors
    ///
    /// The fabric has failed as a whole.
    pub(super) fn run(&mut self) -> Result<(), FabricError> {
        loop {
            self.now = self.shared.now();
            self.run_bells();
            let mut busy = self.run_commands();
            busy |= self.run_queues();
            self.transport.poll(self.now, &mut self.events)?;
            // What they rang for is found by the next round.
            self.run_bells();
            busy |= self.run_events();
            self.run_turned_away();
            self.run_faults();
            self.run_deadlines();
            self.run_waiting();
            self.flush_queues();
            self.wake_late();
            if self.stop() {
                // Nobody can ask this reactor any more, and totals do not fall.
                let (established, traffic) = self.carried();
                let mut registry = self.shared.registry();
                let carried = registry.carried(self.fabric.name());
                carried.connections += established;
                carried.traffic += traffic;
                return Ok(());
            }
            self.rest(busy)?;
        }
    }

    fn run_commands(&mut self) -> bool {
        let mut busy = false;
        // What comes meanwhile has its turn in the next round.
        for _ in 0..self.commands.len() {
            let Ok(command) = self.commands.try_recv() else {
                break;
            };
            busy = true;
            match command {
                Command::Claim { conn, claim } => self.claim(conn, claim),
                Command::Decline(conn) => self.decline(conn),
                Command::Offer(conn) => self.route(conn),
                Command::End(conn, limit) => self.end_stranger(conn, limit),
                Command::Gone(process) => self.drop_process(process, true),
                Command::Released(process) => self.released(process),
                Command::Unmapped { id, number } => self.unmapped(id, number),
                Command::Reclaim => self.look(),
                Command::SetAcceptor(acceptor) => self.transport.set_acceptor(acceptor),
                Command::AdmitAt(addresses) => self.transport.admit_at(&addresses),
                Command::EndGone(interfaces) => self.end_gone(interfaces),
                Command::Report(number) => {
                    // Workers do not ring for all that they submit.
                    self.activate_all();
                    self.run_queues();
                    let report = self.report();
                    self.control.notice(Notice::Report(number, report));
                }
                Command::Stop(by) => self.begin_to_stop(by),
            }
        }
        busy
    }

    /// Looks at each active queue once.
    fn run_queues(&mut self) -> bool {
        let mut busy = false;
        for index in 0..self.active.len() {
            let Some(id) = self.active.get(index).copied() else {
                break;
            };
            match self.run_queue(id) {
                Ok(done) => busy |= done,
                Err(violation) => self.violated(id, violation),
            }
        }
        busy
    }

    fn run_events(&mut self) -> bool {
        let mut events = std::mem::take(&mut self.events);
        let busy = !events.is_empty();
        for event in events.drain(..) {
            match event {
                Event::Established { conn, peer, .. } => self.established(conn, peer),
                Event::Message {
                    conn,
                    buffer,
                    length,
                } => self.received(conn, buffer, length),
                Event::Sent {
                    conn,
                    cookie,
                    result,
                } => self.ended(conn, event::SENT, cookie, reason::of_result(result)),
                Event::Written {
                    conn,
                    cookie,
                    result,
                }
                | Event::Read {
                    conn,
                    cookie,
                    result,
                } => self.ended(conn, event::RDMA_DONE, cookie, reason::of_result(result)),
                // Nothing is registered here that a peer may reach.
                Event::Invalidated { .. } => {}
                Event::Closed {
                    conn,
                    reason,
                    traffic,
                } => self.closed(conn, &reason, &traffic),
            }
        }
        self.events = events;
        busy
    }

    /// Something that a worker had submitted ended.
    #[inline]
    fn ended(&mut self, id: ConnId, event: u32, cookie: u64, status: Status) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        conn.outstanding = conn.outstanding.saturating_sub(1);
        conn.used = self.now;
        let Stage::Owned { queue, number } = conn.stage else {
            return;
        };
        let has_descriptors = conn.descriptors.is_some();
        if let Some(of) = self.queues.get_mut(queue) {
            of.outstanding = of.outstanding.saturating_sub(1);
        }
        if has_descriptors {
            self.count_descriptors(queue, id);
        }
        self.complete(
            queue,
            Completion {
                event,
                status: status.code(),
                conn: number,
                cookie,
                ..NOTHING
            },
        );
    }

    /// Has a completion for a worker.
    #[inline]
    fn complete(&mut self, id: QueueId, completion: Completion) {
        if let Some(queue) = self.queues.get_mut(id) {
            queue.complete(completion);
        }
        self.activate(id);
    }

    /// Looks at all queues from the next round on.
    fn activate_all(&mut self) {
        let all: Vec<QueueId> = self.queues.keys().collect();
        all.into_iter().for_each(|id| self.activate(id));
    }

    /// Looks at a queue from the next round on.
    #[inline]
    fn activate(&mut self, id: QueueId) {
        if let Some(queue) = self.queues.get_mut(id) {
            queue.used = self.now;
            if !queue.active {
                queue.active = true;
                self.active.push(id);
            }
        }
    }

    /// Shows completions to their workers, all of a round at once.
    fn flush_queues(&mut self) {
        for index in 0..self.active.len() {
            let Some(id) = self.active.get(index).copied() else {
                break;
            };
            if let Err(corrupt) = self.flush_queue(id) {
                self.violated(id, corrupt.into());
            }
        }
    }

    /// Shows completions to a worker; whether there were some, and room for any.
    #[inline]
    fn flush_queue(&mut self, id: QueueId) -> Result<bool, RingCorrupt> {
        let Some(queue) = self.queues.get_mut(id) else {
            return Ok(false);
        };
        let before = queue.wake_at;
        let flushed = queue.flush(self.now)?;
        if let (None, Some(at)) = (before, queue.wake_at) {
            self.late.push_back((at, id));
        }
        Ok(flushed)
    }

    /// When a worker is to be woken.
    fn next_wake(&mut self) -> Option<Instant> {
        while let Some((at, id)) = self.late.front().copied() {
            if self
                .queues
                .get(id)
                .is_some_and(|queue| queue.wake_at == Some(at))
            {
                return Some(at);
            }
            self.late.pop_front();
        }
        None
    }

    /// Wakes those workers that have waited long enough.
    fn wake_late(&mut self) {
        while let Some((at, id)) = self.late.front().copied() {
            if at > self.now {
                break;
            }
            self.late.pop_front();
            let queue = self.queues.get_mut(id);
            if let Some(Err(corrupt)) = queue.map(|queue| queue.wake_late(at)) {
                self.violated(id, corrupt.into());
            }
        }
    }

    fn run_faults(&mut self) {
        while let Some(fault) = self.transport.buffers_mut().take_fault() {
            match fault {
                Fault::TooLong(conn) => self.end(conn, "message_too_long", Status::TooLong),
                Fault::Untold(queue, Untold::Unread) => self.fault(queue, Status::Again, UNREAD),
                Fault::Untold(queue, Untold::Gone) => {
                    let process = self.queues.get(queue).map(|queue| queue.worker.id);
                    if let Some(process) = process {
                        self.control.notice(Notice::Closed(process));
                    }
                }
            }
        }
    }

    /// Tries again for everything that found no memory, if it is time to. A worker's own memory comes
    /// back through its queue; that of others, of which all have a share, says nothing when it does.
    fn run_waiting(&mut self) {
        let is_due = self.retry_at.is_some_and(|at| at <= self.now);
        if is_due {
            self.retry_at = None;
            self.retry_waiting();
        }
        let buffers = self.transport.buffers_mut();
        let (is_wanting, is_short) = (buffers.take_any_wanting(), buffers.take_short());
        if is_wanting {
            // There may be room that its worker did not ring for, and has to ring for from now on.
            self.activate_all();
        }
        if is_wanting && self.retry_at.is_none() {
            self.retry_at = Some(self.now + RETRY);
            if is_short {
                self.control.notice(Notice::NoMemory);
            }
        }
        if self.transport.buffers_mut().take_grown() && self.look_at.is_none() {
            self.look_at = Some(self.now + self.shared.config.memory_idle_timeout);
        }
        if self.look_at.is_some_and(|at| at <= self.now) {
            self.look();
        }
    }

    /// Asks workers for what is idle of RECEIVE, apart from what they gave back and did not ring for.
    fn look(&mut self) {
        self.activate_all();
        let more = self.transport.buffers_mut().reclaim();
        self.look_at = more.then(|| self.now + self.shared.config.memory_idle_timeout);
    }

    /// A worker has unmapped a segment of its RECEIVE.
    fn unmapped(&mut self, process: u32, number: u32) {
        let Some(id) = self.queue_of.get(&process).copied() else {
            return;
        };
        if !self.transport.buffers_mut().released(id, number) {
            self.fault(id, Status::Corrupt, "gives back what it was not asked for");
        }
    }

    fn retry_waiting(&mut self) {
        let all: Vec<ConnId> = self
            .queues
            .values_mut()
            .flat_map(|queue| std::mem::take(&mut queue.waiting))
            .collect();
        for conn in all {
            self.deliver(conn);
        }
        self.transport.buffers_available();
    }

    /// Connections that negotiated since the start, and what all of them carried.
    fn carried(&self) -> (u64, Traffic) {
        let counters = self.transport.counters();
        let mut traffic = counters.ended;
        let living = self
            .conns
            .iter()
            .filter_map(|(id, _)| self.transport.status(id));
        living.for_each(|status| traffic += status.traffic);
        (counters.established, traffic)
    }

    fn report(&mut self) -> Report {
        let (established, traffic) = self.carried();
        let mut report = Report {
            connections: Vec::new(),
            queues: Vec::new(),
            registrations: 0,
            fabric: self.fabric,
            established,
            traffic,
            counters: Vec::new(),
        };
        for (id, conn) in self.conns.iter() {
            let owner = match conn.stage {
                Stage::Owned { queue, number } => {
                    let queue = self.queues.get(queue);
                    queue.map(|queue| (number, &*queue.worker))
                }
                Stage::Fresh | Stage::Offered(_) | Stage::Orphan => None,
            };
            let Some(status) = self.transport.status(id) else {
                continue;
            };
            let local = self.transport.fabric().conn_local_address(id);
            let of = (self.number, self.fabric);
            let connection = conn.status(&status, of, (self.now, local), owner);
            report.registrations += conn.registrations();
            report.connections.push(connection);
        }
        for (id, queue) in &mut self.queues {
            let (overflow, completions) = queue.backlog();
            let (receive_segments, receive_units_used) = self.transport.buffers().usage(id);
            let status = QueueStatus {
                reactor: self.number,
                connections: queue.count(),
                overflow,
                completions,
                outstanding: queue.outstanding,
                receive_segments,
                receive_units_used,
            };
            report.queues.push((queue.worker.id, status));
        }
        let counters = self.transport.counters();
        report.counters = counters.closed().collect();
        report.counters.push(("requested", counters.requested));
        report
    }
}

/// What a completion is before anything is said in it.
const NOTHING: Completion = Completion {
    event: 0,
    status: 0,
    conn: 0,
    cookie: 0,
    buffer: 0,
    length: 0,
    reserved: 0,
    token: [0; 16],
    reserved2: 0,
};
