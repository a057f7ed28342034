// SPDX-License-Identifier: GPL-2.0-or-later

//! The device: which processes are attached, their memory, and the [cells](crate::cell) that have the connections.
//!
//! ```text
//!   a call of a worker --> its cell ------.                 .--> another cell's mail
//!   a claim, an offer ---> the lobby ------+--> errands ----+--> detach a process
//!   a work item ---------> its own cell --'
//! ```
//!
//! Each worker has a cell with the connections that it owns; the lobby has all others. A worker that enters does its own
//! work in its own context: it submits, posts and takes completions, and meets no other worker there. Processes attach
//! and detach one at a time, and so do changes of where the device listens.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::net::Ipv6Addr;

use smbdirect::device::Status;
use smbdirect::device::abi::{self, Address, MemParams, Token, region};
use smbdirect::device::uapi::status as records;
use smbdirect::engine::memory::{Account, Reserve, Segment, next_length};
use smbdirect::engine::parameters::reduced;
use smbdirect::engine::peer::Role;
use smbdirect::engine::pool::Pool;
use smbdirect::engine::registry::{Registry, Route};
use smbdirect::engine::shard::Claim;
use smbdirect::fabric::{ConnId, LocalAddress, LocalAddresses};
use smbdirect::units::Instant;
use zerocopy::FromZeros;

use crate::cell::{Cell, Core, Errand, LOBBY, Letter, Office};
use crate::config::{Config, QUEUE_DEPTH};
use crate::ffi::{self, Dead, Guard, Kind, Lock, Pages, log};
use crate::process::{Attached, Client, Process};
use crate::status;

/// Maximum number of sessions and clients that one worker may register.
const MOST_SESSIONS: usize = 1024;

/// What the control lock guards.
#[derive(Debug)]
struct Control {
    last_id: u32,
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
    office: Arc<Office>,
    control: Lock<Control>,
    lobby: Arc<Cell>,
    /// The cells of workers, by the number of the worker.
    cells: Lock<BTreeMap<usize, Arc<Cell>>>,
    /// When the module was loaded.
    loaded: Instant,
}

/// What the answer tells a process that has attached: its number, its memory, and the depth of its queue.
pub(crate) type Admitted = (u32, MemParams, u32);

impl Device {
    /// Makes the device. `None` never happens.
    pub(crate) fn new() -> Option<Self> {
        let config = Config::new();
        let (total, reserve) = (Account::new(config.total), config.reserve());
        let office = Arc::new(Office::new(Registry::new(config.limits.clone())));
        let control = Control {
            last_id: 0,
            is_stopping: false,
            allowed: Arc::default(),
        };
        let lobby = cell(LOBBY, &office, (&config, &total, reserve), &control.allowed)?;
        Some(Self {
            config,
            total,
            reserve,
            office,
            control: Lock::new(Kind::Control, control),
            lobby,
            cells: Lock::new(Kind::Leaf, BTreeMap::new()),
            loaded: ffi::now(),
        })
    }

    fn registry(&self) -> Guard<'_, Registry<Attached>> {
        self.office.registry()
    }

    /// Returns the cell with this number, unless it has been forgotten.
    fn cell(&self, number: usize) -> Option<Arc<Cell>> {
        match number {
            LOBBY => Some(Arc::clone(&self.lobby)),
            number => self.cells.always().get(&number).cloned(),
        }
    }

    /// Returns all cells of workers.
    fn cells(&self) -> Vec<Arc<Cell>> {
        self.cells.always().values().cloned().collect()
    }

    /// Does whatever is due in a cell.
    pub(crate) fn run(&self, number: usize) {
        if let Some(cell) = self.cell(number) {
            let _ = self.at(&cell, |_| ());
        }
    }

    /// Calls `act` on a cell, lets the cell do whatever is due, and runs its errands.
    fn at<T>(&self, cell: &Cell, act: impl FnOnce(&mut Core) -> T) -> Result<T, Dead> {
        let (result, errands) = cell.with(act)?;
        self.run_errands(cell.number, errands)?;
        Ok(result)
    }

    /// Carries out what a cell has left to do. No lock is held.
    fn run_errands(&self, from: usize, errands: Vec<Errand>) -> Result<(), Dead> {
        let mut errands = VecDeque::from(errands);
        while let Some(errand) = errands.pop_front() {
            match errand {
                Errand::Send(to, letter) => {
                    // If the cell is gone, so is everything that the letter could be about.
                    let _ = self.cell(to).map(|cell| cell.post(letter));
                }
                Errand::Forward(traveller) => {
                    let owner = traveller.owner().map(|owner| owner.0.number() as usize);
                    let to = self.cell(owner.unwrap_or(LOBBY));
                    let refused = match to {
                        Some(to) => to.post(Letter::Put(traveller)).err(),
                        None => Some(Letter::Put(traveller)),
                    };
                    // The lobby takes all mail.
                    if let Some(Letter::Put(mut traveller)) = refused {
                        traveller.refuse(Status::Detached);
                        errands.push_back(Errand::Forward(traveller));
                    }
                }
                Errand::ReclaimAll => {
                    for cell in self.cells() {
                        let _ = cell.post(Letter::Reclaim);
                    }
                }
                Errand::Detach(worker, status, why) => {
                    if let Some(process) = self.office.process(worker) {
                        self.detach_process(&process, status, &why)?;
                    }
                }
                Errand::Forget => {
                    let forgotten = self.cells.always().remove(&from);
                    drop(forgotten);
                }
            }
        }
        Ok(())
    }

    /// Ends all connections, as far as they have ended. Processes no longer attach.
    pub(crate) fn stop(&self) {
        if let Ok(mut control) = self.control.lock() {
            control.is_stopping = true;
        }
        let _ = self.at(&self.lobby, Core::stop);
        for cell in self.cells() {
            let _ = self.at(&cell, Core::stop);
        }
    }

    /// Keeps work items from running.
    pub(crate) fn quiet(&self) {
        self.lobby.quiet();
        for cell in self.cells() {
            cell.quiet();
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
        let mut control = self.control.lock()?;
        let admitted = self.admit(&mut control, client, (role, token), &addresses);
        drop(control);
        let (admitted, claim) = match admitted {
            Ok(admitted) => admitted,
            Err(status) => {
                self.registry().refused_attach(status);
                return Ok(Err(status));
            }
        };
        if let Some((conn, claim)) = claim {
            self.at(&self.lobby, |core| core.shard.claim(conn, claim))?;
            self.enter(client)?;
        }
        Ok(Ok(admitted))
    }

    /// Admits a process. Also returns its claim, if it attaches for one connection.
    #[allow(clippy::type_complexity)]
    fn admit(
        &self,
        control: &mut Control,
        client: &Client,
        (role, token): (Role, Token),
        addresses: &[Address],
    ) -> Result<(Admitted, Option<(ConnId, Claim<Attached>)>), Status> {
        if control.is_stopping {
            return Err(Status::Stopping);
        }
        let has_token = token != Token::default();
        let mut registry = self.registry();
        // Connections come in only in the listener's network namespace.
        if has_token && !is_near(&registry, client.file.net()) {
            return Err(Status::NoToken);
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
        let id = self.free_id(control);
        let identity = (id, role, offered.is_some());
        let process = Process::new(identity, &client.file, self.config.memory.limit);
        let process = Arc::new(process);
        let own = match role {
            Role::Worker => {
                let shape = (&self.config, &self.total, self.reserve);
                let cell = cell(id as usize, &self.office, shape, &control.allowed);
                Some(cell.ok_or(Status::System)?)
            }
            Role::Listener | Role::Observer => None,
        };
        if !client.set_process(&process, own.as_ref()) {
            if role == Role::Listener {
                ffi::unlisten();
            }
            return Err(Status::Busy);
        }
        if let Some(cell) = own {
            self.cells.always().insert(cell.number, cell);
        }
        let attached = Attached(process);
        if role != Role::Observer {
            // A new inbox is empty, so this does not fail.
            let _ = attached.0.tell_addresses(&control.reached(addresses));
        }
        let mut registry = self.registry();
        registry.attach(&attached);
        registry.count("attached");
        drop(registry);
        if role != Role::Observer && self.office.may_log(ffi::now()) {
            log!(
                Info,
                "process {} attached as {}",
                client.file.pid(),
                role.name()
            );
        }
        let claim = offered.map(|offered| {
            let claim = Claim {
                worker: attached,
                cookie: None,
            };
            (offered.conn, claim)
        });
        Ok(((id, self.config.memory, QUEUE_DEPTH), claim))
    }

    /// Returns a number that no process has, nor the cell of a worker whose connections are still ending.
    fn free_id(&self, control: &mut Control) -> u32 {
        let (registry, cells) = (self.registry(), self.cells.always());
        loop {
            control.last_id = control.last_id.checked_add(1).unwrap_or(1);
            let id = control.last_id;
            let mut processes = registry.processes();
            let is_free = processes.all(|process| process.0.number() != id);
            if is_free && !cells.contains_key(&(id as usize)) {
                return id;
            }
        }
    }

    /// Returns the length of the longest RDMA transfer.
    pub(crate) const fn max_read_write_size(&self) -> u32 {
        self.config.acceptor.max_read_write_size
    }

    /// Claims, for a worker, the connection that `token` names. The answer comes later.
    pub(crate) fn claim(
        &self,
        client: &Client,
        process: &Arc<Process>,
        (token, cookie): (Token, u64),
    ) -> Result<Result<(), Status>, Dead> {
        let mut registry = self.registry();
        let offered = match is_near(&registry, process.file().net()) {
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
        self.at(&self.lobby, |core| core.shard.claim(offered.conn, claim))?;
        self.enter(client)?;
        Ok(Ok(()))
    }

    /// Declines, for the listener, the connection that `token` names.
    pub(crate) fn decline(&self, token: Token) -> Result<Result<(), Status>, Dead> {
        let offered = self.registry().claim(&token);
        let Some(offered) = offered else {
            return Ok(Err(Status::NoToken));
        };
        self.at(&self.lobby, |core| core.shard.decline(offered.conn))?;
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
        // Connections negotiate in the lobby.
        self.at(&self.lobby, |core| core.shard.set_acceptor(acceptor))?;
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
        let mut control = self.control.lock()?;
        if *control.allowed == allowed {
            return Ok(Ok(()));
        }
        control.allowed = Arc::new(allowed);
        let allowed = &control.allowed;
        for cell in self.cells() {
            let _ = cell.post(Letter::AdmitAt(Arc::clone(allowed)));
        }
        let (_, errands) = self.lobby.with(|core| core.admit_at(Arc::clone(allowed)))?;
        let reached = control.reached(&addresses);
        for process in self
            .registry()
            .processes()
            .filter(|process| !process.0.is(Role::Observer))
        {
            // A process that does not read its messages learns of this when it attaches again.
            let _ = process.0.tell_addresses(&reached);
        }
        drop(control);
        self.run_errands(LOBBY, errands)?;
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
    pub(crate) fn release(&self, client: &Client, release: &abi::Release) -> Result<bool, Dead> {
        let Some((process, cell)) = client.worker() else {
            return Ok(false);
        };
        let id = process.number();
        if release.queue != 0 {
            return Ok(false);
        }
        if release.region == region::RECEIVE {
            process.unmap(region::RECEIVE, release.number);
            self.at(&cell, |core| core.shard.unmapped(id, release.number))?;
        } else {
            if !process.release(release.region, release.number) {
                return Ok(false);
            }
            self.at(&cell, |core| core.shard.released(id))?;
        }
        Ok(true)
    }

    /// Makes the records of the status.
    pub(crate) fn status(&self, client: &Client) -> Result<Vec<u8>, Dead> {
        let addresses = client.file.addresses();
        let mut reports = Vec::new();
        let mut cells = self.cells();
        cells.push(Arc::clone(&self.lobby));
        for cell in cells {
            let (report, errands) = cell.report()?;
            // The report may have found a fault.
            self.run_errands(cell.number, errands)?;
            reports.push(report);
        }
        let control = self.control.lock()?;
        let (is_stopping, reached) = (control.is_stopping, control.reached(&addresses));
        let allowed = Arc::clone(&control.allowed);
        drop(control);
        let (config, limits) = (&self.config, &self.config.limits);
        let narrow = |number| u32::try_from(number).unwrap_or(u32::MAX);
        let device = records::Device {
            version: records::name(env!("CARGO_PKG_VERSION")),
            interface: abi::VERSION,
            flags: if is_stopping {
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
            addresses: &reached,
            allowed: &allowed,
            registry: &self.registry(),
            reports,
            loaded: self.loaded,
            now: ffi::now(),
        };
        Ok(status::records(sources))
    }

    /// Serves a worker that has rung its bell or asked what is ready (`enter::LOOK`). Nothing that another worker does
    /// holds this up.
    pub(crate) fn enter(&self, client: &Client) -> Result<(), Dead> {
        let Some((process, cell)) = client.worker() else {
            return Ok(());
        };
        self.at(&cell, |core| {
            let queue = core.shard.queue_of(process.number());
            if let Some(queue) = queue.map(|(queue, _)| queue) {
                core.shard.rung(queue);
            }
        })
    }

    /// Detaches the process of an open file.
    pub(crate) fn detach(&self, client: &Client) -> Result<(), Dead> {
        match client.process() {
            Some(process) => self.detach_process(&process, None, &"it closed the device"),
            None => Ok(()),
        }
    }

    /// Detaches a process that has broken a rule.
    pub(crate) fn refuse(
        &self,
        process: &Process,
        status: Status,
        why: &dyn fmt::Display,
    ) -> Result<(), Dead> {
        self.detach_process(process, Some(status), why)
    }

    /// Detaches a process. A work item ends its connections, so that a process that exits does not wait for them.
    fn detach_process(
        &self,
        process: &Process,
        status: Option<Status>,
        why: &dyn fmt::Display,
    ) -> Result<(), Dead> {
        let control = self.control.lock()?;
        if !process.close(status) {
            return Ok(());
        }
        let id = process.number();
        let mut registry = self.registry();
        registry.detach(id);
        registry.count("detached");
        drop(registry);
        if process.is(Role::Listener) {
            ffi::unlisten();
        }
        if let Some(cell) = self.cell(id as usize) {
            let _ = cell.post(Letter::Gone);
        }
        drop(control);
        let pid = process.file().pid();
        match status {
            Some(status) if self.office.may_log(ffi::now()) => {
                log!(
                    Warning,
                    "process {pid} was detached ({}): {why}",
                    status.name()
                );
            }
            None if !process.is(Role::Observer) && self.office.may_log(ffi::now()) => {
                log!(Info, "process {pid} detached: {why}");
            }
            Some(_) | None => {}
        }
        Ok(())
    }
}

/// Makes a cell.
fn cell(
    number: usize,
    office: &Arc<Office>,
    (config, total, reserve): (&Config, &Arc<Account>, Reserve),
    allowed: &Arc<LocalAddresses>,
) -> Option<Arc<Cell>> {
    let pool = Pool::new(config.memory.receive, Arc::clone(total), reserve.worker);
    let parts = (config.rules(total), config.transport(), pool);
    Cell::new(number, office, parts, allowed).map(Arc::new)
}

/// Returns whether a process may have connections: it has to be in the network namespace of the listener, if there is
/// one.
fn is_near(registry: &Registry<Attached>, net: u64) -> bool {
    match registry.route_unknown() {
        Route::Listener(listener) => listener.0.file().net() == net,
        Route::Worker(_) | Route::Nobody => true,
    }
}

impl Control {
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
}
