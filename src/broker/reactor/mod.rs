// SPDX-License-Identifier: GPL-2.0-or-later

//! A reactor: a thread that drives a [`Shard`] on a fabric of user space.
//!
//! ```text
//!   control thread -- Command --> Reactor -- calls --> Shard
//!   control thread <-- Notice ---    '   <-- notices --'
//!                                    '-- sleeps on one epoll instance: commands, bells of queues, the fabric
//! ```
//!
//! Before it sleeps, a reactor polls for work for a while. This time grows when polling pays off, and shrinks when it
//! does not.

mod busy_poll;
mod capture;
mod kept;
mod rest;

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

pub(super) use self::kept::KeptReactor;
use self::rest::Sleeper;
pub(super) use self::rest::WAKER;
use super::capture::{Order, Tap};
use super::config::Listen;
use super::events::What;
use super::kept::Store;
use super::listen_at;
use super::presence::Presence;
use super::process::{Pool, Process};
use super::shared::Shared;
use super::words;
use crate::device::Status;
use crate::device::abi::ClientNote;
use crate::engine::admission::{Limit, Place};
use crate::engine::registry::Close;
use crate::engine::shard::{self, Claim, Rules, Shard, Why};
use crate::fabric::{
    ConnId, FabricError, FabricKind, Keep, ListenerId, LocalAddress, LocalAddresses, Reconfigure,
    iwarp,
};
use crate::proto;
use crate::transport::{self, CloseReason, Lines, Transport};
use crate::units::Instant;

/// A message from the control thread to a reactor.
#[derive(Debug)]
pub(super) enum Command {
    /// A worker has named the token of a connection.
    Claim {
        conn: ConnId,
        claim: Claim<Arc<Process>>,
    },
    /// The listener has named the token of a connection that it does not want.
    Decline(ConnId),
    /// A connection that waited may be offered to the listener.
    Offer(ConnId),
    /// A connection has to end, because there are too many.
    End(ConnId, Limit),
    /// A worker is no longer attached.
    Gone(u32),
    /// A worker has given back SEND or BULK segments.
    Released(u32),
    /// A worker has unmapped RECEIVE segment `number` of the queue between worker `id` and this reactor.
    Unmapped { id: u32, number: u32 },
    /// Other workers need memory: ask for idle RECEIVE memory.
    Reclaim,
    /// smbd has said how file data is protected on the connection that this note names.
    SetProtection(ClientNote),
    /// Negotiate future connections with these values.
    SetAcceptor(proto::Config),
    /// The configuration has changed.
    Configure(Box<Tuning>),
    /// Listen on this address as well, and send back the address with its real port.
    Listen(Listen, Sender<Result<SocketAddr, FabricError>>),
    /// Stop listening on the address that an earlier `Listen` has sent back too late.
    TakeBack(Receiver<Result<SocketAddr, FabricError>>),
    /// Stop listening on these addresses; their connections continue.
    Unlisten(Vec<SocketAddr>),
    /// Clients may use these addresses of the machine, for existing and for future connections.
    AdmitAt(Arc<LocalAddresses>),
    /// The machine's interfaces have these addresses: end the connections to other addresses, unless those are routed
    /// here.
    EndGone(Arc<BTreeSet<LocalAddress>>),
    /// Send a report with this number.
    Report(u64),
    /// Begin a capture.
    Capture(Arc<Order>),
    /// End the capture of the process with this number.
    EndCapture(u32),
    /// Accept no more connections, and end the existing ones by this time.
    Stop(Instant),
    /// Stand still, and pass everything on to another broker. A reactor whose connections cannot be passed on first
    /// ends them by this time.
    Keep(ToStore, Instant),
    /// Nothing was passed on: go on.
    GoOn,
}

/// A store that reactors use.
#[derive(Clone)]
pub(super) struct ToStore(pub(super) Arc<dyn Store>);

impl fmt::Debug for ToStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ToStore")
    }
}

/// The part of a configuration that a reactor can change.
#[derive(Clone, Debug)]
pub(super) struct Tuning {
    pub(super) rules: Rules,
    pub(super) transport: transport::Config,
    pub(super) fabric: iwarp::Config,
    pub(super) busy_poll: Duration,
}

/// A message from a reactor to the control thread.
#[derive(Debug)]
pub(super) enum Notice {
    /// A process has to be detached.
    Fault {
        process: u32,
        status: Status,
        why: String,
    },
    /// A process has closed its control socket, or has shut down its end of the socket.
    Closed(u32),
    /// A command for another reactor, or for this reactor in a later round.
    Relay(usize, Command),
    /// The answer to [`Command::Report`].
    Report(u64, Report),
    /// There was no memory for a received message, but other workers may have some. The shard will try again.
    NoMemory,
    /// The reactor stands still and has written down its state, or cannot do so for this reason.
    Kept(usize, Result<Box<KeptReactor>, String>),
    /// The reactor has ended.
    Ended(usize),
}

/// A reactor's part of the status.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) reactor: usize,
    /// The fabric that carries the reactor's connections.
    pub(super) fabric: FabricKind,
    pub(super) shard: shard::Report<Arc<Process>>,
}

/// A channel for messages to the control thread.
#[derive(Clone, Debug)]
pub(super) struct ToControl {
    pub(super) sender: Sender<super::control::Message>,
    pub(super) waker: Arc<mio::Waker>,
}

impl ToControl {
    pub(super) fn send(&self, message: super::control::Message) {
        // A control thread that has ended does not need messages.
        let _ = self.sender.send(message);
        let _ = self.waker.wake();
    }

    fn notice(&self, notice: Notice) {
        self.send(super::control::Message::Notice(notice));
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Reactor<F: Keep> {
    number: usize,
    fabric: FabricKind,
    shared: Arc<Shared>,
    shard: Shard<Tap<F>, Arc<Shared>>,
    commands: Receiver<Command>,
    control: ToControl,
    sleeper: Sleeper,
    lines: Lines,
    /// Where to pass everything on as soon as the connections have ended.
    keeps: Option<ToStore>,
    now: Instant,
}

impl<F: Keep + Reconfigure> Reactor<F> {
    /// Makes a reactor whose transport already listens.
    pub(super) fn new(
        (number, fabric): (usize, FabricKind),
        shared: Arc<Shared>,
        transport: (Transport<Tap<F>, Pool>, Vec<ListenerId>),
        commands: Receiver<Command>,
        control: ToControl,
    ) -> Self {
        let host = (Arc::clone(&shared), shared.rules());
        Self {
            number,
            fabric,
            shard: Shard::new((number, fabric.name()), host, transport),
            commands,
            control,
            sleeper: Sleeper::new(shared.config().busy_poll),
            lines: Lines::default(),
            keeps: None,
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
            self.look_at_clock();
            self.run_bells();
            let mut busy = self.run_commands();
            let stepped = self.shard.step();
            self.run_notices();
            busy |= stepped?;
            if self.shard.has_stopped() {
                if let Some(ToStore(store)) = self.keeps.take() {
                    // The queues of the workers go on.
                    self.keep(&*store);
                }
                return Ok(());
            }
            // The step may have made queues whose bells have rung: look at them before sleeping.
            self.run_bells();
            self.rest(busy)?;
        }
    }

    fn look_at_clock(&mut self) {
        self.now = self.shared.now();
        self.shard.set_now(self.now);
    }

    fn run_commands(&mut self) -> bool {
        let mut busy = false;
        // Commands that come in the meantime get their turn in the next round.
        for _ in 0..self.commands.len() {
            let Ok(command) = self.commands.try_recv() else {
                break;
            };
            busy = true;
            self.run_command(command);
        }
        busy
    }

    fn run_command(&mut self, command: Command) {
        let shard = &mut self.shard;
        match command {
            Command::Claim { conn, claim } => shard.claim(conn, claim),
            Command::Decline(conn) => shard.decline(conn),
            Command::Offer(conn) => shard.route(conn),
            Command::End(conn, limit) => shard.end_stranger(conn, limit),
            Command::Gone(process) => shard.gone(process),
            Command::Released(process) => shard.released(process),
            Command::Unmapped { id, number } => shard.unmapped(id, number),
            Command::Reclaim => shard.reclaim(),
            Command::SetProtection(note) => shard.set_protection(&note),
            Command::SetAcceptor(acceptor) => shard.set_acceptor(acceptor),
            Command::Configure(tuning) => {
                shard.fabric_mut().set_config(&tuning.fabric);
                shard.set_config(tuning.rules, tuning.transport);
                self.sleeper = Sleeper::new(tuning.busy_poll);
            }
            Command::Listen(listen, answer) => {
                // A thread that no longer waits for the answer sends it back with `TakeBack`.
                let _ = answer.try_send(listen_at(&listen, |address| shard.listen(address)));
            }
            Command::TakeBack(answer) => {
                if let Ok(Ok(real)) = answer.try_recv() {
                    shard.unlisten(&[real]);
                }
            }
            Command::Unlisten(addresses) => shard.unlisten(&addresses),
            Command::AdmitAt(addresses) => shard.admit_at(&addresses),
            Command::EndGone(interfaces) => {
                let mut presence = Presence::new(interfaces);
                shard.end_gone(|address| !presence.has(address.into()));
            }
            Command::Report(number) => {
                let report = Report {
                    reactor: self.number,
                    fabric: self.fabric,
                    shard: shard.report(),
                };
                // The shard may have found a fault, which the control thread has to learn first.
                self.run_notices();
                self.control.notice(Notice::Report(number, report));
            }
            Command::Capture(order) => self.begin_capture(order),
            Command::EndCapture(process) => self.end_capture(process),
            Command::Stop(by) => shard.stop(by),
            Command::Keep(store, by) => match self.fabric {
                FabricKind::Software => self.keep(&*store.0),
                FabricKind::Verbs => {
                    self.keeps = Some(store);
                    shard.stop(by);
                }
            },
            // This reactor does not stand still.
            Command::GoOn => self.keeps = None,
        }
    }

    /// Passes on the shard's notices.
    fn run_notices(&mut self) {
        use shard::Notice as Said;
        while let Some(notice) = self.shard.next_notice() {
            match notice {
                Said::Fault {
                    worker,
                    status,
                    why,
                } => self.control.notice(Notice::Fault {
                    process: worker,
                    status,
                    why: why.to_string(),
                }),
                Said::Gone(worker) => self.control.notice(Notice::Closed(worker)),
                Said::QueueMade(queue) => {
                    if self.watch(queue).is_err() {
                        self.shard.fault(queue, Status::System, Why::NotWatched);
                    }
                }
                Said::End(place, limit) => self.relay(place, Command::End(place.conn, limit)),
                Said::Offer(place) => self.relay(place, Command::Offer(place.conn)),
                // The shard has all connections.
                Said::Leaving(_) => {}
                Said::NoMemory => self.control.notice(Notice::NoMemory),
                Said::LimitMet(limit) => {
                    let config = self.shared.config();
                    let (key, value, what) = words::of_limit(limit, &config);
                    self.shared.limit_met(key, value, (1, what));
                }
                Said::TurnedAway(times) => {
                    let what = "connections that had not negotiated were ended for newer ones (one source may \
                                have max_unnegotiated_per_source of them)";
                    let limit = self.shared.config().max_unnegotiated;
                    self.shared
                        .limit_met("max_unnegotiated", limit, (times, what));
                }
                Said::Established { peer, local } => self.shared.record(What::Established {
                    peer,
                    local,
                    fabric: self.fabric.name().into(),
                }),
                Said::Assigned { peer, worker, .. } => {
                    self.shared.record(What::Assigned {
                        peer,
                        worker: worker.id,
                        pid: worker.pid,
                    });
                    if let Some(suppressed) = self.lines.admit(self.now) {
                        let (worker, pid) = (worker.id, worker.pid);
                        let suppressed = (suppressed > 0).then_some(suppressed);
                        tracing::info!(%peer, worker, pid, suppressed, "connection assigned");
                    }
                }
                Said::Ended {
                    close,
                    worker,
                    cause,
                } => self.ended(&close, worker.as_deref(), cause),
            }
        }
    }

    /// Sends a command to the reactor of a connection.
    fn relay(&self, place: Place, command: Command) {
        self.control.notice(Notice::Relay(place.shard, command));
    }

    /// Records the end of a connection as an event, and logs it unless many lines were logged just before.
    fn ended(&mut self, close: &Close, worker: Option<&Process>, cause: Option<CloseReason>) {
        let words = match cause {
            Some(cause) => cause.to_string(),
            None => words::of_reason(close.reason, &self.shared.config()),
        };
        let pid = worker.map(|worker| worker.pid);
        self.shared.record(What::Ended {
            peer: close.peer,
            local: close.local,
            fabric: close.fabric.into(),
            worker: close.worker,
            pid,
            reason: close.reason.into(),
            words: words.clone(),
            age_seconds: close.age.as_secs_f64(),
            bytes_received: close.bytes_received,
            bytes_sent: close.bytes_sent,
        });
        let Some(suppressed) = self.lines.admit(self.now) else {
            return;
        };
        let suppressed = (suppressed > 0).then_some(suppressed);
        let (peer, local) = (close.peer, close.local.map(tracing::field::display));
        let Close {
            worker,
            reason,
            bytes_received,
            bytes_sent,
            ..
        } = close;
        let seconds = (close.age.as_secs_f64() * 1e3).round() / 1e3;
        tracing::info!(
            %peer, local, worker, pid, seconds, bytes_received, bytes_sent, reason, suppressed,
            "connection ended: {words}"
        );
    }
}
