// SPDX-License-Identifier: GPL-2.0-or-later

//! The device: which processes are attached, their memory, and the shard that has all connections.
//!
//! ```text
//!   a call of a process ----.
//!   a work item, a timer ----+--> lock --> Shard: step until there is nothing to do --> notices: detach, log, wake
//! ```
//!
//! A worker that enters does its own work here: it submits, posts and takes completions in its own context. A work item
//! runs only for completions that no worker looks at.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::net::{Ipv6Addr, SocketAddr};
use core::ops::DerefMut;
use core::time::Duration;

use smbdirect::device::Status;
use smbdirect::device::abi::{self, Address, MemParams, RegionShape, Token, region};
use smbdirect::device::uapi::status as records;
use smbdirect::engine::admission::{Limit, Limits, Place};
use smbdirect::engine::memory::{Account, Reserve, Segment, next_length};
use smbdirect::engine::parameters::reduced;
use smbdirect::engine::peer::Role;
use smbdirect::engine::pool::Pool;
use smbdirect::engine::registry::Registry;
use smbdirect::engine::shard::{Claim, Host, Notice, Rules, Shard};
use smbdirect::fabric::{LocalAddress, LocalAddresses, ReadLimits};
use smbdirect::proto;
use smbdirect::transport::{self, Lines, Transport};
use smbdirect::units::{Credits, Instant};
use zerocopy::FromZeros;

use crate::fabric::Kernel;
use crate::ffi::{self, Dead, Guard, Level, Lock, Pages, parameter};
use crate::process::{Attached, Client, Process};
use crate::status;

/// Maximum number of sessions and clients that one worker may register.
const MOST_SESSIONS: usize = 1024;
/// Number of entries of a ring.
const QUEUE_DEPTH: u32 = 256;
/// Maximum number of credits of a client that has not logged in.
const RECEIVES_OF_STRANGERS: Credits = Credits(8);
/// Maximum number of steps in one run, so that other tasks get their turn.
const MOST_STEPS: u32 = 64;

macro_rules! log {
    ($level:ident, $($arguments:tt)*) => {
        ffi::log(Level::$level, format_args!($($arguments)*))
    };
}

/// What the device allows.
#[derive(Debug)]
pub(crate) struct Config {
    acceptor: proto::Config,
    limits: Limits,
    max_workers: usize,
    pub(crate) memory: MemParams,
    total: u64,
}

impl Config {
    fn new() -> Self {
        let number = |number| usize::try_from(ffi::module_parameter(number)).unwrap_or(usize::MAX);
        let messages = RegionShape {
            unit_length: 8 << 10,
            units_per_segment: 2048,
            longest_run: 1152,
            max_segments: 10,
        };
        Self {
            // Clients that do not use RDMA for data put as much into a message as RDMA would carry: 8 MiB and a header.
            acceptor: proto::Config {
                max_fragmented_size: 9 << 20,
                ..proto::Config::default()
            },
            limits: Limits {
                max_connections: number(parameter::MAX_CONNECTIONS),
                max_unauthenticated: number(parameter::MAX_UNAUTHENTICATED),
                max_undispatched: number(parameter::MAX_UNDISPATCHED),
                gateways: Vec::new(),
            },
            max_workers: number(parameter::MAX_WORKERS),
            memory: MemParams {
                send: messages,
                bulk: RegionShape {
                    unit_length: 64 << 10,
                    units_per_segment: 1024,
                    longest_run: 128,
                    max_segments: 16,
                },
                receive: messages,
                limit: ffi::module_parameter(parameter::WORKER_MEMORY),
                reserved: 0,
            },
            total: ffi::module_parameter(parameter::MEMORY),
        }
    }

    /// Computes the part of all memory that is set aside so that no worker waits for ever.
    fn reserve(&self) -> Reserve {
        let longest =
            |shape: &RegionShape| u64::from(shape.unit_length) * u64::from(shape.longest_run);
        Reserve {
            worker: longest(&self.memory.send) + longest(&self.memory.bulk),
            received: longest(&self.memory.receive),
        }
    }

    fn rules(&self, memory: &Arc<Account>) -> Rules {
        let send = &self.memory.send;
        Rules {
            first_request_timeout: Duration::from_secs(5),
            login_timeout: Duration::from_secs(45),
            claim_timeout: Duration::from_secs(10),
            memory_idle_timeout: Duration::from_secs(5),
            queue_depth: QUEUE_DEPTH,
            longest_send: send.unit_length.saturating_mul(send.longest_run),
            memory: Arc::clone(memory),
        }
    }

    fn transport(&self) -> transport::Config {
        transport::Config {
            acceptor: self.acceptor,
            first_receive_credit_max: RECEIVES_OF_STRANGERS,
            initiator: proto::Config::initiator_default(),
            limits: ReadLimits::default(),
            max_unnegotiated: 1024,
            max_unnegotiated_per_source: 256,
            max_connections: self.limits.max_connections.saturating_add(1024),
            send_queue: QUEUE_DEPTH as usize,
            progress_timeout: Duration::from_secs(60),
        }
    }
}

/// What the shard shares with the calls.
pub(crate) struct Shared {
    registry: Lock<Registry<Attached>>,
}

impl Shared {
    /// Returns the attached process with this number.
    fn process(&self, id: u32) -> Option<Arc<Process>> {
        let registry = self.registry.always();
        let mut processes = registry.processes();
        let found = processes.find(|process| process.0.number() == id)?;
        Some(Arc::clone(&found.0))
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared")
    }
}

/// The shard's view of [`Shared`].
#[derive(Clone, Debug)]
pub(crate) struct Ours(Arc<Shared>);

impl Host for Ours {
    type Worker = Attached;

    fn registry(&self) -> impl DerefMut<Target = Registry<Attached>> {
        self.0.registry.always()
    }

    fn token(&self) -> Option<Token> {
        Some(ffi::random())
    }
}

/// What the device's lock protects.
#[derive(Debug)]
pub(crate) struct Core {
    shard: Shard<Kernel, Ours>,
    shared: Arc<Shared>,
    last_id: u32,
    lines: Lines,
    now: Instant,
    is_stopping: bool,
    /// The addresses that clients may use.
    allowed: Arc<LocalAddresses>,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) config: Config,
    total: Arc<Account>,
    reserve: Reserve,
    shared: Arc<Shared>,
    core: Lock<Core>,
    /// When the module was loaded.
    loaded: Instant,
}

/// What the answer tells a process that has attached: its number, its memory, and the depth of its queue.
pub(crate) type Admitted = (u32, MemParams, u32);

impl Device {
    pub(crate) fn new() -> Self {
        let config = Config::new();
        let (total, reserve) = (Account::new(config.total), config.reserve());
        let shared = Arc::new(Shared {
            registry: Lock::new(Registry::new(config.limits.clone())),
        });
        let pool = Pool::new(config.memory.receive, Arc::clone(&total), reserve.worker);
        let mut transport = Transport::new(Kernel::default(), pool, config.transport());
        // The C side chooses the addresses.
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let listeners = transport.listen(any).into_iter().collect();
        let host = (Ours(Arc::clone(&shared)), config.rules(&total));
        let core = Core {
            shard: Shard::new((0, status::FABRIC), host, (transport, listeners)),
            shared: Arc::clone(&shared),
            last_id: 0,
            lines: Lines::default(),
            now: Instant::ZERO,
            is_stopping: false,
            allowed: Arc::default(),
        };
        Self {
            config,
            total,
            reserve,
            shared,
            core: Lock::new(core),
            loaded: ffi::now(),
        }
    }

    fn registry(&self) -> Guard<'_, Registry<Attached>> {
        self.shared.registry.always()
    }

    /// Locks the core, and sets its clock.
    pub(crate) fn core(&self) -> Result<Guard<'_, Core>, Dead> {
        let mut core = self.core.lock()?;
        core.look_at_clock();
        Ok(core)
    }

    /// Does whatever is due.
    pub(crate) fn run(&self) {
        if let Ok(mut core) = self.core() {
            core.run();
        }
    }

    /// Ends all connections.
    pub(crate) fn stop(&self) {
        if let Ok(mut core) = self.core() {
            core.is_stopping = true;
            let now = core.now;
            core.shard.stop(now);
            core.run();
        }
    }

    /// Attaches the process of an open file.
    pub(crate) fn attach(
        &self,
        client: &Client,
        role: Role,
        token: Token,
    ) -> Result<Result<Admitted, Status>, Dead> {
        let addresses = client.file.addresses();
        let mut core = self.core()?;
        let admitted = self.admit(&mut core, client, (role, token), &addresses);
        if let Err(status) = &admitted {
            self.registry().refused_attach(*status);
        }
        core.run();
        Ok(admitted)
    }

    fn admit(
        &self,
        core: &mut Core,
        client: &Client,
        (role, token): (Role, Token),
        addresses: &[Address],
    ) -> Result<Admitted, Status> {
        if core.is_stopping {
            return Err(Status::Stopping);
        }
        let has_token = token != Token::default();
        let mut registry = self.registry();
        if let Some(listener) = has_token
            .then(|| registry.route_unknown())
            .and_then(listener_of)
        {
            // Connections come in only in the listener's network namespace.
            if listener.0.file().net() != client.file.net() {
                return Err(Status::NoToken);
            }
        }
        let offered = registry.claim(&token).filter(|_| has_token);
        match (has_token, offered) {
            (true, None) => return Err(Status::NoToken),
            (false, _) => registry.may_attach(role, self.config.max_workers)?,
            (true, Some(_)) => {}
        }
        drop(registry);
        if role == Role::Listener {
            ffi::listen(&client.file).map_err(|_| Status::Address)?;
        }
        let id = core.free_id(&self.registry());
        let identity = (id, role, offered.is_some());
        let process = Arc::new(Process::new(
            identity,
            &client.file,
            self.config.memory.limit,
        ));
        if !client.set_process(&process) {
            if role == Role::Listener {
                ffi::unlisten();
            }
            return Err(Status::Busy);
        }
        let attached = Attached(process);
        if role != Role::Observer {
            // A new inbox is empty, so this does not fail.
            let _ = attached.0.tell_addresses(&core.reached(addresses));
        }
        let mut registry = self.registry();
        registry.attach(&attached);
        registry.count("attached");
        drop(registry);
        if role != Role::Observer && core.lines.admit(core.now).is_some() {
            log!(
                Info,
                "process {} attached as {}",
                client.file.pid(),
                role.name()
            );
        }
        if let Some(offered) = offered {
            let claim = Claim {
                worker: attached,
                cookie: None,
            };
            core.shard.claim(offered.conn, claim);
        }
        Ok((id, self.config.memory, QUEUE_DEPTH))
    }

    /// Returns the length of the longest RDMA transfer.
    pub(crate) const fn max_read_write_size(&self) -> u32 {
        self.config.acceptor.max_read_write_size
    }

    /// Claims, for a process, the connection that `token` names. The answer comes later.
    pub(crate) fn claim(
        &self,
        process: &Arc<Process>,
        token: Token,
        cookie: u64,
    ) -> Result<Result<(), Status>, Dead> {
        let mut core = self.core()?;
        let mut registry = self.registry();
        let listener = listener_of(registry.route_unknown());
        let is_near =
            listener.is_none_or(|listener| listener.0.file().net() == process.file().net());
        let offered = match is_near {
            true => registry.claim(&token),
            false => None,
        };
        drop(registry);
        let Some(offered) = offered else {
            return Ok(Err(Status::NoToken));
        };
        let claim = Claim {
            worker: Attached(Arc::clone(process)),
            cookie: Some(cookie),
        };
        core.shard.claim(offered.conn, claim);
        core.run();
        Ok(Ok(()))
    }

    /// Declines, for the listener, the connection that `token` names.
    pub(crate) fn decline(&self, token: Token) -> Result<Result<(), Status>, Dead> {
        let mut core = self.core()?;
        let offered = self.registry().claim(&token);
        let Some(offered) = offered else {
            return Ok(Err(Status::NoToken));
        };
        core.shard.decline(offered.conn);
        core.run();
        Ok(Ok(()))
    }

    pub(crate) fn set_session_id(
        &self,
        process: &Process,
        set: &abi::SetSessionId,
    ) -> Result<(), Status> {
        if set.client_guid == [0; 16] {
            return Err(Status::Invalid);
        }
        let mut registry = self.registry();
        // `detach` first closes the process, and then takes the registry's lock and removes what the process has
        // registered. So whatever is registered here is removed, too.
        if process.is_closed() {
            return Err(Status::Detached);
        }
        match set.remove {
            0 => registry.register(
                process.number(),
                set.client_guid,
                set.session_id,
                MOST_SESSIONS,
            ),
            1 => registry.unregister(process.number(), set.client_guid, set.session_id),
            _ => Err(Status::Invalid),
        }
    }

    pub(crate) fn set_parameters(
        &self,
        set: &abi::SetParameters,
    ) -> Result<Result<(), Status>, Dead> {
        let acceptor = reduced(&self.config.acceptor, set);
        if acceptor.validate().is_err() {
            return Ok(Err(Status::Invalid));
        }
        self.core()?.shard.set_acceptor(acceptor);
        Ok(Ok(()))
    }

    /// Sets, for the listener, the addresses that clients may use. Before the listener gets its answer, all listeners
    /// and workers are told where clients reach the device from then on.
    pub(crate) fn set_addresses(
        &self,
        client: &Client,
        set: abi::SetAddresses,
        list: &[abi::AllowedAddress],
    ) -> Result<Result<(), Status>, Dead> {
        let allowed = match set.all {
            0 if list.iter().all(abi::AllowedAddress::is_valid) => {
                let address = |allowed: &abi::AllowedAddress| {
                    LocalAddress::new(Ipv6Addr::from(allowed.address).into(), allowed.scope_id)
                };
                // Inserts them one by one: `collect` would sort them first, which takes a page of stack.
                let mut allowed = BTreeSet::new();
                for one in list {
                    allowed.insert(address(one));
                }
                LocalAddresses::Only(allowed)
            }
            1 if list.is_empty() => LocalAddresses::All,
            _ => return Ok(Err(Status::Invalid)),
        };
        let addresses = client.file.addresses();
        let mut core = self.core()?;
        if *core.allowed != allowed {
            core.allowed = Arc::new(allowed);
            let allowed = Arc::clone(&core.allowed);
            core.shard.admit_at(&allowed);
            let reached = core.reached(&addresses);
            for process in self
                .registry()
                .processes()
                .filter(|process| !process.0.is(Role::Observer))
            {
                // A process that does not read its messages learns of this when it attaches again.
                let _ = process.0.tell_addresses(&reached);
            }
        }
        core.run();
        Ok(Ok(()))
    }

    /// Gives a worker one more segment.
    pub(crate) fn grow(&self, process: &Process, grow: abi::Grow) -> Result<abi::Segment, Status> {
        let memory = &self.config.memory;
        let shape = match grow.region {
            region::SEND => memory.send,
            region::BULK => memory.bulk,
            _ => return Err(Status::Invalid),
        };
        if !(1..=shape.longest_run).contains(&grow.units) {
            return Err(Status::Invalid);
        }
        let (worker, segments) = process.memory();
        let extent = segments.extent(grow.region);
        if extent.0 >= shape.max_segments {
            return Err(Status::NoMemory);
        }
        let [should, must] = next_length(&shape, extent, grow.units);
        let make = |length| {
            let (pages, memory) = Pages::make(length).ok_or(Status::System)?;
            Ok((memory, pages))
        };
        let total = (&self.total, self.reserve.received);
        let create = |length| Segment::create(length, worker, total, make);
        let created = create(should).or_else(|_| create(must));
        let (segment, pages) = created.map_err(|_| Status::NoMemory)?;
        let length = segment.memory.len() as u64;
        let number = process.add_segment(grow.region, segment, &pages, shape.max_segments);
        Ok(abi::Segment {
            region: grow.region,
            queue: 0,
            number: number.ok_or(Status::NoMemory)?,
            reserved: 0,
            length,
        })
    }

    /// Takes back a segment that a worker no longer uses. `false`: the worker does not have that segment.
    pub(crate) fn release(&self, process: &Process, release: &abi::Release) -> Result<bool, Dead> {
        let mut core = self.core()?;
        let id = process.number();
        if release.region == region::RECEIVE {
            if release.queue != 0 {
                return Ok(false);
            }
            process.unmap(region::RECEIVE, release.number);
            core.shard.unmapped(id, release.number);
        } else {
            if release.queue != 0 || !process.release(release.region, release.number) {
                return Ok(false);
            }
            core.shard.released(id);
        }
        core.run();
        Ok(true)
    }

    /// Makes the records of the status.
    pub(crate) fn status(&self, client: &Client) -> Result<Vec<u8>, Dead> {
        let addresses = client.file.addresses();
        let mut core = self.core()?;
        let shard = core.shard.report();
        // The report may have found a fault.
        core.run();
        let (config, limits) = (&self.config, &self.config.limits);
        let narrow = |number| u32::try_from(number).unwrap_or(u32::MAX);
        let device = records::Device {
            version: records::name(env!("CARGO_PKG_VERSION")),
            interface: abi::VERSION,
            flags: if core.is_stopping {
                records::device_flags::STOPPING
            } else {
                0
            },
            max_connections: narrow(limits.max_connections),
            max_undispatched: narrow(limits.max_undispatched),
            max_unauthenticated: narrow(limits.max_unauthenticated),
            max_workers: narrow(config.max_workers),
            max_sessions_of_worker: narrow(MOST_SESSIONS),
            queue_depth: QUEUE_DEPTH,
            max_memory_of_worker: config.memory.limit,
            max_memory: self.total.limit(),
            memory: self.total.used(),
            ..records::Device::new_zeroed()
        };
        let sources = status::Sources {
            device,
            addresses: &core.reached(&addresses),
            allowed: &core.allowed,
            registry: &self.registry(),
            shard,
            loaded: self.loaded,
            now: core.now,
        };
        Ok(status::records(sources))
    }

    /// Serves a worker that has rung its bell or asked what is ready (`enter::LOOK`).
    pub(crate) fn enter(&self, process: &Process) -> Result<(), Dead> {
        let mut core = self.core()?;
        let queue = core
            .shard
            .queue_of(process.number())
            .map(|(queue, _)| queue);
        if let Some(queue) = queue {
            core.shard.rung(queue);
        }
        core.run();
        Ok(())
    }

    /// Detaches the process of an open file.
    pub(crate) fn detach(&self, client: &Client) {
        let Some(process) = client.process() else {
            return;
        };
        if let Ok(mut core) = self.core() {
            core.detach(&process, None, &"it closed the device");
            core.run();
        }
    }

    /// Detaches a process that has broken a rule.
    pub(crate) fn refuse(
        &self,
        process: &Arc<Process>,
        status: Status,
        why: &dyn fmt::Display,
    ) -> Result<(), Dead> {
        let mut core = self.core()?;
        core.detach(process, Some(status), why);
        core.run();
        Ok(())
    }
}

fn listener_of(route: smbdirect::engine::registry::Route<Attached>) -> Option<Attached> {
    match route {
        smbdirect::engine::registry::Route::Listener(listener) => Some(listener),
        _ => None,
    }
}

impl Core {
    fn look_at_clock(&mut self) {
        self.now = ffi::now();
        self.shard.set_now(self.now);
    }

    /// Returns the addresses in this list that clients may use.
    fn reached(&self, addresses: &[Address]) -> Vec<Address> {
        let may_use = |address: &&Address| {
            self.allowed.admit(LocalAddress::new(
                Ipv6Addr::from(address.address).into(),
                address.scope_id,
            ))
        };
        addresses.iter().filter(may_use).copied().collect()
    }

    /// Returns a number that no process has.
    fn free_id(&mut self, registry: &Registry<Attached>) -> u32 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            let mut processes = registry.processes();
            if processes.all(|process| process.0.number() != self.last_id) {
                return self.last_id;
            }
        }
    }

    /// Steps until there is nothing to do, and sets the timer for the next deadline.
    fn run(&mut self) {
        for _ in 0..MOST_STEPS {
            let stepped = self.shard.step();
            let had_notices = self.run_notices();
            let is_busy = match stepped {
                Ok(busy) => busy || had_notices || self.shard.is_due(),
                Err(error) => {
                    log!(Warning, "{error}");
                    false
                }
            };
            // From now on a worker rings its bell when it submits something, because nothing looks at its ring.
            if !is_busy && self.shard.announce_sleep() {
                let next = self.shard.next_deadline();
                if let Some(next) = next {
                    ffi::run_after(next.saturating_since(self.now));
                }
                return;
            }
            self.look_at_clock();
        }
        ffi::run_after(Duration::ZERO);
    }

    /// Handles the shard's notices. Returns whether there were any.
    fn run_notices(&mut self) -> bool {
        let mut any = false;
        while let Some(notice) = self.shard.next_notice() {
            any = true;
            match notice {
                Notice::Fault {
                    worker,
                    status,
                    why,
                } => self.detach_worker(worker, Some(status), &why),
                Notice::Gone(worker) => self.detach_worker(worker, None, &"it is gone"),
                Notice::QueueMade(_) | Notice::Established { .. } => {}
                Notice::End(place, limit) => self.shard.end_stranger(place.conn, limit),
                Notice::Offer(Place { conn, .. }) => self.shard.route(conn),
                Notice::NoMemory => self.shard.reclaim(),
                Notice::LimitMet(limit) => self.limit_met(limit.name(), parameter_of(limit), 1),
                Notice::TurnedAway(times) => {
                    self.limit_met("max_unnegotiated", "a limit of 1024", times)
                }
                Notice::Assigned { conn, peer, worker } => {
                    self.shard.fabric().own(conn, worker.0.file());
                    if self.lines.admit(self.now).is_some() {
                        log!(
                            Info,
                            "{peer}: process {} has the connection",
                            worker.0.file().pid()
                        );
                    }
                }
                Notice::Ended { close, cause, .. } => {
                    if self.lines.admit(self.now).is_some() {
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
        }
        any
    }

    fn limit_met(&mut self, key: &'static str, what: &str, times: u64) {
        let met = self
            .shared
            .registry
            .always()
            .warnings
            .met(key, times, self.now);
        if let Some(times) = met {
            log!(Warning, "{what} was reached {times} times ({key})");
        }
    }

    fn detach_worker(&mut self, worker: u32, status: Option<Status>, why: &dyn fmt::Display) {
        let process = self.shared.process(worker);
        if let Some(process) = process {
            self.detach(&process, status, why);
        }
    }

    fn detach(&mut self, process: &Arc<Process>, status: Option<Status>, why: &dyn fmt::Display) {
        if !process.close(status) {
            return;
        }
        let id = process.number();
        let mut registry = self.shared.registry.always();
        registry.detach(id);
        registry.count("detached");
        drop(registry);
        if process.is(Role::Listener) {
            ffi::unlisten();
        }
        if process.is(Role::Worker) {
            let conns: Vec<_> = self
                .shard
                .queue_of(id)
                .map(|(_, conns)| conns.collect())
                .unwrap_or_default();
            self.shard.fabric().disown(conns);
            self.shard.gone(id);
        }
        let pid = process.file().pid();
        match status {
            Some(status) if self.lines.admit(self.now).is_some() => {
                log!(
                    Warning,
                    "process {pid} was detached ({}): {why}",
                    status.name()
                );
            }
            None if !process.is(Role::Observer) && self.lines.admit(self.now).is_some() => {
                log!(Info, "process {pid} detached: {why}");
            }
            Some(_) | None => {}
        }
    }
}

/// Returns the module parameter that sets a limit.
const fn parameter_of(limit: Limit) -> &'static str {
    match limit {
        Limit::Connections | Limit::ConnectionsOfSource => "max_connections",
        Limit::Unauthenticated | Limit::UnauthenticatedOfSource => "max_unauthenticated",
    }
}
