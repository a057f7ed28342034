// SPDX-License-Identifier: GPL-2.0-or-later

//! [`Cell`]: a shard with its lock, its mail, and its work items.
//!
//! ```text
//!   a call of the shard's worker --.                                       .--> Errand: detach a process
//!   a work item, a timer -----------+--> lock --> mail, step, notices -----+--> Errand: mail for another cell
//!   a claim, a status --------------'             until nothing is left    '--> log
//! ```
//!
//! Whoever has a reason steps a shard, under its lock: its worker, in a call; the cell's own work item; or a call that
//! concerns it, such as a claim. What a step means for others is carried out without the lock, as an [`Errand`]. A cell
//! never waits for another one: what concerns another cell is put into that cell's mail, and that cell's work item takes
//! it. So a worker that keeps its cell busy holds up nobody else, and no task ever holds the locks of two cells.
//!
//! | lock | guards |
//! |---|---|
//! | control | who attaches and detaches, where the device listens |
//! | shard, one per cell | the connections of that cell, their queue pairs, the worker's queue and the memory for what it receives |
//! | registry | which processes, clients, tokens and connections there are, and who may have how many |
//! | leaf | the mail of a cell, the list of cells, a process's messages, segments and mappings, the limit of log lines |
//!
//! A task takes them in this order, at most one of each kind. None is held while memory of a process is copied, or while
//! anything waits for a peer. The memory accounts are numbers that change atomically. In C, the event lock comes after
//! all of these; handlers of events take no other.

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::DerefMut;

use smbdirect::device::Status;
use smbdirect::device::abi::Token;
use smbdirect::engine::admission::{Limit, Place};
use smbdirect::engine::pool::Pool;
use smbdirect::engine::registry::Registry;
use smbdirect::engine::shard::{Host, Moving, Notice, Report, Rules, Scope, Shard, Transferred};
use smbdirect::fabric::{ConnId, ListenerId, LocalAddresses, Movable};
use smbdirect::transport::{self, Lines, Transport};
use smbdirect::units::Instant;

use crate::config::parameter_of;
use crate::fabric::Kernel;
use crate::ffi::{self, Dead, Events, Guard, Kind, Lock, RawLock, log};
use crate::process::{Attached, Process};
use crate::status;

/// Maximum number of steps in one run, so that other tasks get their turn.
const MOST_STEPS: u32 = 64;

/// The number of the cell whose connections have no owner.
pub(crate) const LOBBY: usize = 0;

/// What all cells and calls share.
pub(crate) struct Office {
    registry: Lock<Registry<Attached>>,
    lines: Lock<Lines>,
}

impl Office {
    pub(crate) fn new(registry: Registry<Attached>) -> Self {
        Self {
            registry: Lock::new(Kind::Registry, registry),
            lines: Lock::new(Kind::Leaf, Lines::default()),
        }
    }

    pub(crate) fn registry(&self) -> Guard<'_, Registry<Attached>> {
        self.registry.always()
    }

    /// Returns the attached process with this number.
    pub(crate) fn process(&self, id: u32) -> Option<Arc<Process>> {
        let registry = self.registry();
        let mut processes = registry.processes();
        let found = processes.find(|process| process.0.number() == id)?;
        Some(Arc::clone(&found.0))
    }

    /// Returns whether one more line may be logged now.
    pub(crate) fn may_log(&self, now: Instant) -> bool {
        self.lines.always().admit(now).is_some()
    }

    fn limit_met(&self, key: &'static str, what: &str, times: u64) {
        let met = self.registry().warnings.met(key, times, ffi::now());
        if let Some(times) = met {
            log!(Warning, "{what} was reached {times} times ({key})");
        }
    }
}

impl fmt::Debug for Office {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Office")
    }
}

/// A shard's view of the [`Office`].
#[derive(Clone, Debug)]
pub(crate) struct Ours(Arc<Office>);

impl Host for Ours {
    type Worker = Attached;

    fn registry(&self) -> impl DerefMut<Target = Registry<Attached>> {
        self.0.registry()
    }

    fn token(&self) -> Option<Token> {
        Some(ffi::random())
    }
}

/// A connection on its way to another cell.
pub(crate) type Traveller = Moving<<Kernel as Movable>::Moving, Attached>;

/// What another cell, or a call, has for a cell.
#[derive(Debug)]
pub(crate) enum Letter {
    /// A connection.
    Put(Traveller),
    /// The answer to a TRANSFER of the cell's worker.
    Transferred(Transferred),
    /// A connection has to end to make room for a newcomer.
    End(ConnId, Limit),
    /// A connection may be offered now.
    Offer(ConnId),
    /// The cell's worker is no longer attached.
    Gone,
    /// Other workers need memory: ask for idle RECEIVE memory.
    Reclaim,
    /// Clients may use these addresses only.
    AdmitAt(Arc<LocalAddresses>),
}

/// Something to do without the lock of the cell that asks for it.
#[derive(Debug)]
pub(crate) enum Errand {
    /// Put this into a cell's mail.
    Send(usize, Letter),
    /// Put this connection into the mail of its owner's cell, or of the lobby.
    Forward(Traveller),
    /// Ask all workers for idle RECEIVE memory.
    ReclaimAll,
    /// Detach a process, with this status for it, and this reason for the log.
    Detach(u32, Option<Status>, String),
    /// Forget this cell: its worker has gone, it has no connections, and it takes no more mail.
    Forget,
}

#[derive(Debug, Default)]
struct Mail {
    letters: Vec<Letter>,
    /// A `Reclaim` is among the letters. More of them would say nothing new.
    asks_for_memory: bool,
    is_closed: bool,
}

/// What a cell's lock guards.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) shard: Shard<Kernel, Ours>,
    pub(crate) now: Instant,
    /// The addresses that clients may use.
    allowed: Arc<LocalAddresses>,
    /// The worker is no longer attached.
    is_left: bool,
    is_forgotten: bool,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) number: usize,
    office: Arc<Office>,
    core: Lock<Core>,
    mail: Lock<Mail>,
    events: Arc<Events>,
}

impl Cell {
    /// Makes a cell: the lobby, which listens, or the cell of the worker that has this number.
    pub(crate) fn new(
        number: usize,
        office: &Arc<Office>,
        (rules, config, pool): (Rules, transport::Config, Pool<Attached>),
        allowed: &Arc<LocalAddresses>,
    ) -> Option<Self> {
        let lock = RawLock::new(Kind::Shard);
        let events = Arc::new(Events::new(number as u64, &lock)?);
        let mut transport = Transport::new(Kernel::new(Arc::clone(&events)), pool, config);
        let (scope, listeners) = match number {
            LOBBY => (Scope::Unowned, listen(&mut transport)),
            _ => (Scope::Worker, Vec::new()),
        };
        let host = (Ours(Arc::clone(office)), rules);
        let shard = Shard::new((number, status::FABRIC), host, (transport, listeners));
        let core = Core {
            shard: shard.with_scope(scope),
            now: ffi::now(),
            allowed: Arc::clone(allowed),
            is_left: false,
            is_forgotten: false,
        };
        Some(Self {
            number,
            office: Arc::clone(office),
            core: Lock::with(lock, core),
            mail: Lock::new(Kind::Leaf, Mail::default()),
            events,
        })
    }

    /// Puts a letter into the mail; a work item takes it. Returns it if the cell takes no more mail.
    pub(crate) fn post(&self, letter: Letter) -> Result<(), Letter> {
        let mut mail = self.mail.always();
        if mail.is_closed {
            return Err(letter);
        }
        if matches!(letter, Letter::Reclaim) && core::mem::replace(&mut mail.asks_for_memory, true)
        {
            return Ok(());
        }
        mail.letters.push(letter);
        drop(mail);
        self.events.run();
        Ok(())
    }

    /// Calls `act` on the shard, and then does whatever is due. Returns the result, and what is left to do without the
    /// lock.
    pub(crate) fn with<T>(
        &self,
        act: impl FnOnce(&mut Core) -> T,
    ) -> Result<(T, Vec<Errand>), Dead> {
        let mut errands = Vec::new();
        let mut core = self.core.lock()?;
        core.look_at_clock();
        let result = act(&mut core);
        self.run(&mut core, &mut errands);
        drop(core);
        Ok((result, errands))
    }

    /// Returns the shard's part of the status.
    pub(crate) fn report(&self) -> Result<(Report<Attached>, Vec<Errand>), Dead> {
        self.with(|core| core.shard.report())
    }

    /// Keeps work items from running the cell.
    pub(crate) fn quiet(&self) {
        self.events.stop();
    }

    /// Steps until there is nothing to do, and sets the timer for the next deadline.
    fn run(&self, core: &mut Core, errands: &mut Vec<Errand>) {
        if core.is_forgotten {
            return;
        }
        for _ in 0..MOST_STEPS {
            let had_mail = self.read_mail(core, errands);
            let stepped = core.shard.step();
            let had_notices = self.read_notices(core, errands);
            let is_busy = match stepped {
                Ok(busy) => busy || had_mail || had_notices || core.shard.is_due(),
                Err(error) => {
                    log!(Warning, "{error}");
                    false
                }
            };
            // From now on a worker rings its bell when it submits something, because nothing looks at its ring.
            if !is_busy && core.shard.announce_sleep() {
                if core.is_left && core.shard.is_empty() && self.close() {
                    core.is_forgotten = true;
                    core.shard.leave_totals();
                    errands.push(Errand::Forget);
                    return;
                }
                if let Some(next) = core.shard.next_deadline() {
                    self.events.run_after(next.saturating_since(core.now));
                }
                return;
            }
            core.look_at_clock();
        }
        self.events.run();
    }

    /// Takes no more mail, if there is none.
    fn close(&self) -> bool {
        let mut mail = self.mail.always();
        mail.is_closed = mail.letters.is_empty();
        mail.is_closed
    }

    /// Reads the mail; returns whether there was any.
    fn read_mail(&self, core: &mut Core, errands: &mut Vec<Errand>) -> bool {
        let mut mail = self.mail.always();
        mail.asks_for_memory = false;
        let letters = core::mem::take(&mut mail.letters);
        drop(mail);
        let any = !letters.is_empty();
        for letter in letters {
            core.read(self.number, letter, errands);
        }
        any
    }

    /// Handles the shard's notices; returns whether there were any.
    fn read_notices(&self, core: &mut Core, errands: &mut Vec<Errand>) -> bool {
        let mut any = false;
        while let Some(notice) = core.shard.next_notice() {
            any = true;
            match notice {
                Notice::Fault {
                    worker,
                    status,
                    why,
                } => errands.push(Errand::Detach(worker, Some(status), why.to_string())),
                Notice::Gone(worker) => {
                    errands.push(Errand::Detach(worker, None, String::from("it is gone")));
                }
                Notice::QueueMade(_) | Notice::Established { .. } => {}
                Notice::End(Place { shard, conn }, limit) => {
                    errands.push(Errand::Send(shard, Letter::End(conn, limit)));
                }
                Notice::Offer(Place { shard, conn }) => {
                    errands.push(Errand::Send(shard, Letter::Offer(conn)));
                }
                Notice::Leaving(conn) => {
                    let taken = core.shard.take(conn);
                    errands.extend(taken.map(Errand::Forward));
                }
                Notice::NoMemory => errands.push(Errand::ReclaimAll),
                Notice::LimitMet(limit) => {
                    self.office.limit_met(limit.name(), parameter_of(limit), 1);
                }
                Notice::TurnedAway(times) => {
                    self.office
                        .limit_met("max_unnegotiated", "a limit of 1024", times);
                }
                Notice::Assigned { conn, peer, worker } => {
                    core.shard.fabric().own(conn, worker.0.file());
                    if self.office.may_log(core.now) {
                        let pid = worker.0.file().pid();
                        log!(Info, "{peer}: process {pid} has the connection");
                    }
                }
                Notice::Ended { close, cause, .. } => {
                    if !self.office.may_log(core.now) {
                        continue;
                    }
                    let (received, sent) = (close.bytes_received, close.bytes_sent);
                    match cause {
                        Some(cause) => log!(
                            Info,
                            "{}: ended, {received} bytes received, {sent} sent: {cause}",
                            close.peer
                        ),
                        None => log!(
                            Info,
                            "{}: ended, {received} bytes received, {sent} sent: {}",
                            close.peer,
                            close.reason
                        ),
                    }
                }
            }
        }
        any
    }
}

/// The C side chooses the addresses, and whether to listen.
fn listen(transport: &mut Transport<Kernel, Pool<Attached>>) -> Vec<ListenerId> {
    let any = (core::net::Ipv6Addr::UNSPECIFIED, 0).into();
    transport.listen(any).into_iter().collect()
}

impl Core {
    fn look_at_clock(&mut self) {
        self.now = ffi::now();
        self.shard.set_now(self.now);
    }

    /// Sets the addresses that clients may use.
    pub(crate) fn admit_at(&mut self, allowed: Arc<LocalAddresses>) {
        self.shard.admit_at(&allowed);
        self.allowed = allowed;
    }

    /// Ends all connections.
    pub(crate) fn stop(&mut self) {
        self.shard.stop(self.now);
    }

    fn read(&mut self, number: usize, letter: Letter, errands: &mut Vec<Errand>) {
        match letter {
            Letter::Put(traveller) => self.put(number, traveller, errands),
            Letter::Transferred(transferred) => self.shard.transferred(transferred),
            Letter::End(conn, limit) => self.shard.end_stranger(conn, limit),
            Letter::Offer(conn) => self.shard.route(conn),
            Letter::Gone => self.leave(number),
            Letter::Reclaim => self.shard.reclaim(),
            Letter::AdmitAt(allowed) => self.admit_at(allowed),
        }
    }

    fn put(&mut self, number: usize, mut traveller: Traveller, errands: &mut Vec<Errand>) {
        if number == LOBBY {
            let answer = self.shard.put_unowned(traveller);
            errands.extend(
                answer.map(|answer| {
                    Errand::Send(answer.worker() as usize, Letter::Transferred(answer))
                }),
            );
        } else if self.is_left {
            traveller.refuse(Status::Detached);
            errands.push(Errand::Forward(traveller));
        } else if let Err(refused) = self.shard.put(traveller) {
            errands.push(Errand::Forward(refused));
        }
        // The addresses may have changed while the connection was in no shard.
        if *self.allowed != LocalAddresses::All {
            let allowed = Arc::clone(&self.allowed);
            self.shard.admit_at(&allowed);
        }
    }

    /// Drops the worker, which is no longer attached.
    fn leave(&mut self, number: usize) {
        self.is_left = true;
        // The number is that of a process, so it fits.
        let worker = number as u32;
        let queue = self.shard.queue_of(worker);
        let conns: Vec<_> = queue.map(|(_, conns)| conns.collect()).unwrap_or_default();
        self.shard.fabric().disown(conns);
        self.shard.gone(worker);
    }
}
