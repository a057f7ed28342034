//! What all threads of a broker share: who is attached, whose a client is, what waits for an owner,
//! and what happened.
//!
//! One mutex, which is held for a look-up or a change and never across a system call, and which no
//! message, RDMA operation or completion touches: connections come here when they begin, change
//! hands and end.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::config::Config;
use super::memory::Account;
use super::process::{Process, Role};
use super::status::CloseStatus;
use crate::device::Status;
use crate::device::abi::Token;
use crate::fabric::ConnId;
use crate::transport::Sources;
use crate::units::Instant;

/// Ends of connections that the status shows.
const KEPT_CLOSES: usize = 64;

/// What all threads of a broker share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Config,
    /// Memory of all workers.
    pub(super) memory: Arc<Account>,
    start: std::time::Instant,
    registry: Mutex<Registry>,
}

impl Shared {
    pub(super) fn new(config: Config) -> Self {
        Self {
            memory: Account::new(config.memory_limit),
            config,
            start: std::time::Instant::now(),
            registry: Mutex::default(),
        }
    }

    /// The time since the broker started, by the clock of all its threads.
    pub(super) fn now(&self) -> Instant {
        Instant::ZERO + self.start.elapsed()
    }

    /// Access to the registry; not to be held across anything that waits.
    pub(super) fn registry(&self) -> MutexGuard<'_, Registry> {
        // Its methods leave nothing half done: there is nothing in them that panics.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that waits to be claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offered {
    pub(super) reactor: usize,
    pub(super) conn: ConnId,
}

/// Where a new connection goes.
#[derive(Debug)]
pub(super) enum Route {
    /// To the worker that registered its client.
    Worker(Arc<Process>),
    /// To whoever the listener finds.
    Listener(Arc<Process>),
    Nobody,
}

/// What is registered for a client.
#[derive(Debug)]
struct Client {
    process: u32,
    /// 0 stands for the wish to have its connections.
    sessions: BTreeSet<u64>,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Registry {
    processes: BTreeMap<u32, Arc<Process>>,
    listener: Option<u32>,
    clients: HashMap<[u8; 16], Client>,
    sessions: HashMap<u64, u32>,
    /// Sessions and clients that each process has registered.
    registered: HashMap<u32, usize>,
    tokens: HashMap<Token, Offered>,
    connections: usize,
    /// Connections without an owner.
    undispatched: Sources,
    closes: VecDeque<CloseStatus>,
    counters: BTreeMap<&'static str, u64>,
}

impl Registry {
    /// Whether there is a place for a process.
    ///
    /// # Errors
    ///
    /// [`Status::Taken`]: there is a listener. [`Status::Limit`]: there are `limit` workers.
    pub(super) fn may_attach(&self, role: Role, limit: usize) -> Result<(), Status> {
        match role {
            Role::Listener if self.listener.is_some() => Err(Status::Taken),
            Role::Worker if self.workers().count() >= limit => Err(Status::Limit),
            Role::Listener | Role::Worker | Role::Observer => Ok(()),
        }
    }

    /// Takes a process in, which [`may_attach`](Self::may_attach). A listener gets offers from now
    /// on.
    pub(super) fn attach(&mut self, process: &Arc<Process>) {
        if process.role == Role::Listener {
            self.listener = Some(process.id);
        }
        self.processes.insert(process.id, Arc::clone(process));
    }

    /// Forgets a process and all that it registered.
    pub(super) fn detach(&mut self, process: u32) {
        self.processes.remove(&process);
        if self.listener == Some(process) {
            self.listener = None;
        }
        self.clients.retain(|_, client| client.process != process);
        self.sessions.retain(|_, owner| *owner != process);
        self.registered.remove(&process);
    }

    pub(super) fn workers(&self) -> impl Iterator<Item = &Arc<Process>> {
        let is_worker = |process: &&Arc<Process>| process.role == Role::Worker;
        self.processes.values().filter(is_worker)
    }

    pub(super) fn processes(&self) -> impl Iterator<Item = &Arc<Process>> {
        self.processes.values()
    }

    /// Registers a session of a client (0: only the client) for a process.
    ///
    /// # Errors
    ///
    /// [`Status::Taken`]: another's. [`Status::Limit`]: it has registered `limit` already.
    pub(super) fn register(
        &mut self,
        process: u32,
        client_guid: [u8; 16],
        session: u64,
        limit: usize,
    ) -> Result<(), Status> {
        let client = self.clients.get(&client_guid);
        let owner = self.sessions.get(&session);
        if client.is_some_and(|client| client.process != process)
            || owner.is_some_and(|owner| *owner != process)
        {
            return Err(Status::Taken);
        }
        if client.is_some_and(|client| client.sessions.contains(&session)) {
            return Ok(());
        }
        // The same session with another client is a mistake of the caller.
        if owner.is_some() {
            return Err(Status::Taken);
        }
        if self.registered(process) >= limit {
            return Err(Status::Limit);
        }
        let new = || Client {
            process,
            sessions: BTreeSet::new(),
        };
        let client = self.clients.entry(client_guid).or_insert_with(new);
        client.sessions.insert(session);
        *self.registered.entry(process).or_default() += 1;
        if session != 0 {
            self.sessions.insert(session, process);
        }
        Ok(())
    }

    /// Who has registered a client, and who a session.
    pub(super) fn holders(&self, client_guid: &[u8; 16], session: u64) -> [Option<u32>; 2] {
        let client = self.clients.get(client_guid);
        let session = self.sessions.get(&session).copied();
        [client.map(|client| client.process), session]
    }

    /// Takes back what `register` did; session 0: all of this client.
    ///
    /// # Errors
    ///
    /// [`Status::NoOwner`]: the client is not registered for this process.
    pub(super) fn unregister(
        &mut self,
        process: u32,
        client_guid: [u8; 16],
        session: u64,
    ) -> Result<(), Status> {
        let owned = |client: &&mut Client| client.process == process;
        let client = self.clients.get_mut(&client_guid).filter(owned);
        let client = client.ok_or(Status::NoOwner)?;
        let gone = match session {
            0 => std::mem::take(&mut client.sessions),
            session => BTreeSet::from_iter(client.sessions.take(&session)),
        };
        if client.sessions.is_empty() {
            self.clients.remove(&client_guid);
        }
        if let Some(registered) = self.registered.get_mut(&process) {
            *registered = registered.saturating_sub(gone.len());
        }
        for session in gone {
            self.sessions.remove(&session);
        }
        Ok(())
    }

    /// Sessions and clients that a process has registered.
    pub(super) fn registered(&self, process: u32) -> usize {
        self.registered.get(&process).copied().unwrap_or(0)
    }

    /// Where a connection of a client goes.
    pub(super) fn route(&self, client_guid: &[u8; 16]) -> Route {
        if let Some(process) = self.owner(client_guid) {
            return Route::Worker(process);
        }
        self.route_unknown()
    }

    /// Where a connection goes of whose client nobody knows anything.
    pub(super) fn route_unknown(&self) -> Route {
        let listener = self.listener.and_then(|id| self.processes.get(&id));
        listener.map_or(Route::Nobody, |process| {
            Route::Listener(Arc::clone(process))
        })
    }

    /// The worker that registered a client.
    pub(super) fn owner(&self, client_guid: &[u8; 16]) -> Option<Arc<Process>> {
        let client = self.clients.get(client_guid)?;
        self.processes.get(&client.process).map(Arc::clone)
    }

    /// Counts a new connection.
    ///
    /// # Errors
    ///
    /// Which limit it meets.
    pub(super) fn established(
        &mut self,
        config: &Config,
        peer: SocketAddr,
    ) -> Result<(), &'static str> {
        let (undispatched, of_source) = self.undispatched.count(peer);
        // Counted in any case: its end is counted in any case.
        self.connections += 1;
        self.undispatched.add(peer);
        self.count("established");
        if self.connections > config.max_connections {
            return Err("too_many_connections");
        }
        if undispatched >= config.max_undispatched {
            return Err("too_many_undispatched");
        }
        if of_source >= config.max_undispatched_per_source() {
            return Err("too_many_undispatched_of_source");
        }
        Ok(())
    }

    /// A connection of `peer` has an owner now.
    pub(super) fn dispatched(&mut self, peer: SocketAddr) {
        self.undispatched.remove(peer);
    }

    /// A connection of `peer` has lost its owner, and will wait for another; `false`: too many do.
    pub(super) fn undispatch(&mut self, config: &Config, peer: SocketAddr) -> bool {
        let (total, of_source) = self.undispatched.count(peer);
        let room = total < config.max_undispatched;
        let room = room && of_source < config.max_undispatched_per_source();
        if room {
            self.undispatched.add(peer);
        }
        room
    }

    /// A connection is gone.
    pub(super) fn closed(&mut self, close: CloseStatus, was_dispatched: bool, name: &'static str) {
        self.connections = self.connections.saturating_sub(1);
        if !was_dispatched {
            self.undispatched.remove(close.peer);
        }
        self.count(name);
        if self.closes.len() >= KEPT_CLOSES {
            self.closes.pop_front();
        }
        self.closes.push_back(close);
    }

    /// Lets a connection be claimed with `token`.
    pub(super) fn offer(&mut self, token: Token, offered: Offered) {
        self.tokens.insert(token, offered);
    }

    /// Takes the connection of a token, which is used up then.
    pub(super) fn claim(&mut self, token: &Token) -> Option<Offered> {
        self.tokens.remove(token)
    }

    /// Counts something that has a name.
    pub(super) fn count(&mut self, name: &'static str) {
        *self.counters.entry(name).or_default() += 1;
    }

    pub(super) fn counters(&self) -> &BTreeMap<&'static str, u64> {
        &self.counters
    }

    pub(super) fn closes(&self) -> impl Iterator<Item = &CloseStatus> {
        self.closes.iter()
    }

    pub(super) const fn connections(&self) -> usize {
        self.connections
    }

    pub(super) const fn undispatched(&self) -> usize {
        self.undispatched.total()
    }

    pub(super) fn clients(&self) -> usize {
        self.clients.len()
    }

    pub(super) fn sessions(&self) -> usize {
        self.sessions.len()
    }

    pub(super) fn tokens(&self) -> usize {
        self.tokens.len()
    }
}

/// A record of an end for the status.
pub(super) fn close_status(
    now: Instant,
    peer: SocketAddr,
    (worker, reason): (Option<u32>, &str),
    age: Duration,
) -> CloseStatus {
    CloseStatus {
        peer,
        worker,
        reason: reason.to_owned(),
        at_seconds: now.saturating_since(Instant::ZERO).as_secs_f64(),
        age_seconds: age.as_secs_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::SeqSocket;

    fn process(id: u32, role: Role) -> Arc<Process> {
        let socket = Arc::new(SeqSocket::pair().unwrap().0);
        Arc::new(Process::new(id, 1, role, socket, 0))
    }

    #[test]
    fn a_client_belongs_to_one_worker_until_all_of_it_is_taken_back() {
        let mut registry = Registry::default();
        for id in [1, 2] {
            registry.attach(&process(id, Role::Worker));
        }
        let guid = [7; 16];
        assert!(registry.owner(&guid).is_none());
        assert_eq!(registry.register(1, guid, 10, 3), Ok(()));
        assert_eq!(registry.register(1, guid, 11, 3), Ok(()));
        assert_eq!(registry.register(1, guid, 11, 3), Ok(()));
        assert_eq!(registry.register(2, guid, 12, 3), Err(Status::Taken));
        assert_eq!(registry.register(2, [8; 16], 10, 3), Err(Status::Taken));
        assert_eq!(registry.register(1, [8; 16], 10, 3), Err(Status::Taken));
        assert_eq!(registry.register(1, guid, 0, 3), Ok(()));
        assert_eq!(registry.register(1, guid, 13, 3), Err(Status::Limit));
        assert_eq!((registry.registered(1), registry.registered(2)), (3, 0));
        assert_eq!(registry.unregister(2, guid, 0), Err(Status::NoOwner));
        assert_eq!(registry.unregister(1, guid, 10), Ok(()));
        assert_eq!(registry.unregister(1, guid, 10), Ok(()));
        assert_eq!(registry.registered(1), 2);
        assert_eq!(registry.register(2, [8; 16], 10, 3), Ok(()));
        assert_eq!(registry.owner(&guid).map(|process| process.id), Some(1));
        assert_eq!(registry.unregister(1, guid, 0), Ok(()));
        assert!(registry.owner(&guid).is_none());
        assert_eq!((registry.clients(), registry.sessions()), (1, 1));
        assert_eq!((registry.registered(1), registry.registered(2)), (0, 1));
        registry.detach(2);
        assert_eq!(registry.registered(2), 0);
        assert_eq!((registry.clients(), registry.sessions()), (0, 0));
    }

    #[test]
    fn there_is_one_listener_and_a_limit_of_workers() {
        let mut registry = Registry::default();
        let attach = |registry: &mut Registry, id, role| {
            registry.may_attach(role, 1)?;
            registry.attach(&process(id, role));
            Ok(())
        };
        assert_eq!(attach(&mut registry, 1, Role::Listener), Ok(()));
        assert_eq!(attach(&mut registry, 2, Role::Listener), Err(Status::Taken));
        assert_eq!(attach(&mut registry, 3, Role::Worker), Ok(()));
        assert_eq!(attach(&mut registry, 4, Role::Worker), Err(Status::Limit));
        assert_eq!(attach(&mut registry, 5, Role::Observer), Ok(()));
        registry.detach(1);
        assert_eq!(attach(&mut registry, 6, Role::Listener), Ok(()));
    }

    #[test]
    fn keeps_the_last_closes_only() {
        let mut registry = Registry::default();
        let peer = "192.0.2.1:1".parse().unwrap();
        for second in 0..100 {
            let now = Instant::ZERO + Duration::from_secs(second);
            let close = close_status(now, peer, (None, "peer"), Duration::ZERO);
            registry.closed(close, true, "peer");
        }
        assert_eq!(registry.closes().count(), 64);
        assert_eq!(registry.closes().next().unwrap().at_seconds, 36.0);
        assert_eq!(registry.counters()["peer"], 100);
    }
}
