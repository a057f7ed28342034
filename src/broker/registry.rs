//! What all threads of a broker share: who is attached, whose a client is, what waits for an owner,
//! and what happened.
//!
//! One mutex, which is held for a look-up or a change and never across a system call, and which no
//! message, RDMA operation or completion touches: connections come here when they begin, change
//! hands and end.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::config::Config;
use super::process::{Process, Role};
use super::status::{Carried, CloseStatus};
use crate::device::Status;
use crate::device::abi::Token;
use crate::engine::admission::{Admission, Limit, Limits, Place};
use crate::engine::lines::Warnings;
use crate::engine::memory::{Account, Reserve};
use crate::fabric::FabricKind;
use crate::units::Instant;

/// Observers at a time.
const MAX_OBSERVERS: usize = 64;

/// Ends of connections that the status shows.
const KEPT_CLOSES: usize = 64;

/// What all threads of a broker share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Config,
    /// Memory of all workers.
    pub(super) memory: Arc<Account>,
    /// What is kept of it for those that wait.
    pub(super) reserve: Reserve,
    /// Connections that there may be.
    pub(super) limits: Limits,
    start: std::time::Instant,
    registry: Mutex<Registry>,
}

impl Shared {
    pub(super) fn new(config: Config) -> Self {
        let limits = config.limits();
        Self {
            memory: Account::new(config.memory_limit),
            reserve: config.reserve(),
            registry: Mutex::new(Registry::new(limits.clone())),
            limits,
            config,
            start: std::time::Instant::now(),
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

    /// Warns, once in a while, that clients or processes have met a limit.
    pub(super) fn limit_met(&self, key: &'static str, limit: usize, (times, what): (u64, &str)) {
        let met = self.registry().warnings.met(key, times, self.now());
        if let Some(times) = met {
            tracing::warn!(times, "{key} = {limit} was met: {what}");
        }
    }
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

/// What a process has registered.
#[derive(Debug, Default)]
struct Registered {
    clients: HashSet<[u8; 16]>,
    /// Of all clients, the wish to have their connections counted as one.
    sessions: usize,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Registry {
    processes: BTreeMap<u32, Arc<Process>>,
    listener: Option<u32>,
    clients: HashMap<[u8; 16], Client>,
    sessions: HashMap<u64, u32>,
    /// What each process has registered.
    registered: HashMap<u32, Registered>,
    tokens: HashMap<Token, Place>,
    connections: usize,
    /// Connections without an owner.
    undispatched: usize,
    admission: Admission,
    closes: VecDeque<CloseStatus>,
    counters: BTreeMap<&'static str, u64>,
    warnings: Warnings,
    /// What reactors carried that have ended, by their fabric.
    carried: BTreeMap<&'static str, Carried>,
}

impl Registry {
    /// Nobody and nothing; of connections there may be so many.
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            admission: Admission::new(limits),
            ..Self::default()
        }
    }

    /// Whether there is a place for a process without a token: one that has a token is always let in,
    /// since connections have limits of their own.
    ///
    /// # Errors
    ///
    /// [`Status::Taken`]: there is a listener. [`Status::Limit`]: there are `limit` workers that came without
    /// a token, or too many observers.
    pub(super) fn may_attach(&self, role: Role, limit: usize) -> Result<(), Status> {
        let uninvited = |role| {
            let processes = self.processes.values();
            processes.filter(move |process| process.role == role && !process.invited)
        };
        let full = match role {
            Role::Listener if self.listener.is_some() => return Err(Status::Taken),
            Role::Listener => false,
            Role::Worker => uninvited(role).count() >= limit,
            Role::Observer => uninvited(role).count() >= MAX_OBSERVERS,
        };
        match full {
            true => Err(Status::Limit),
            false => Ok(()),
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
        let registered = self.registered.remove(&process).unwrap_or_default();
        for client_guid in registered.clients {
            let client = self.clients.remove(&client_guid);
            for session in client.into_iter().flat_map(|client| client.sessions) {
                self.sessions.remove(&session);
            }
        }
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
        let registered = self.registered.entry(process).or_default();
        registered.clients.insert(client_guid);
        registered.sessions += 1;
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
        let is_gone = client.sessions.is_empty();
        if is_gone {
            self.clients.remove(&client_guid);
        }
        if let Some(registered) = self.registered.get_mut(&process) {
            registered.sessions = registered.sessions.saturating_sub(gone.len());
            if is_gone {
                registered.clients.remove(&client_guid);
            }
        }
        for session in gone {
            self.sessions.remove(&session);
        }
        Ok(())
    }

    /// Sessions and clients that a process has registered.
    pub(super) fn registered(&self, process: u32) -> usize {
        let registered = self.registered.get(&process);
        registered.map_or(0, |registered| registered.sessions)
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

    /// Counts a new connection. If that makes too many, names the one that has to end, which may be
    /// itself.
    pub(super) fn established(&mut self, place: Place, peer: SocketAddr) -> Option<(Place, Limit)> {
        self.connections += 1;
        self.undispatched += 1;
        self.count("established");
        self.admission.admit(place, peer.into())
    }

    /// A connection that had to end stays: a session has come on it meanwhile.
    pub(super) fn stays(&mut self, place: Place, peer: SocketAddr) {
        self.admission.stays(place, peer.into());
    }

    /// A session is on a connection.
    pub(super) fn authenticated(&mut self, place: Place) {
        self.admission.authenticated(place);
    }

    /// Whether a connection may be offered to the listener now. Otherwise it waits until
    /// [`dispatched`](Self::dispatched) or [`closed`](Self::closed) of another names it.
    pub(super) fn may_offer(&mut self, place: Place, peer: SocketAddr) -> bool {
        let may = self.admission.offer(place, peer.into());
        if !may {
            self.count("waited_for_offer");
        }
        may
    }

    /// A connection has an owner now. Names the one that may be offered in its place.
    pub(super) fn dispatched(&mut self, place: Place) -> Option<Place> {
        self.undispatched = self.undispatched.saturating_sub(1);
        self.admission.done(place)
    }

    /// A connection has lost its owner, and will have another.
    pub(super) fn undispatch(&mut self) {
        self.undispatched += 1;
    }

    /// A connection is gone. Names the one that may be offered in its place.
    pub(super) fn closed(
        &mut self,
        place: Place,
        close: CloseStatus,
        (was_dispatched, name): (bool, &'static str),
    ) -> Option<Place> {
        self.connections = self.connections.saturating_sub(1);
        if !was_dispatched {
            self.undispatched = self.undispatched.saturating_sub(1);
        }
        self.count(name);
        if self.closes.len() >= KEPT_CLOSES {
            self.closes.pop_front();
        }
        self.closes.push_back(close);
        self.admission.closed(place)
    }

    /// Lets a connection be claimed with `token`.
    pub(super) fn offer(&mut self, token: Token, place: Place) {
        self.tokens.insert(token, place);
    }

    /// Takes the connection of a token, which is used up then.
    pub(super) fn claim(&mut self, token: &Token) -> Option<Place> {
        self.tokens.remove(token)
    }

    /// Counts something that has a name.
    pub(super) fn count(&mut self, name: &'static str) {
        *self.counters.entry(name).or_default() += 1;
    }

    /// What reactors of a fabric carried that have ended.
    pub(super) fn carried(&mut self, fabric: FabricKind) -> &mut Carried {
        self.carried.entry(fabric.name()).or_default()
    }

    pub(super) fn carried_before(&self) -> &BTreeMap<&'static str, Carried> {
        &self.carried
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
        self.undispatched
    }

    pub(super) fn unauthenticated(&self) -> usize {
        self.admission.strangers()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::ConnId;
    use crate::sys::SeqSocket;

    fn process(id: u32, role: Role) -> Arc<Process> {
        let socket = Arc::new(SeqSocket::pair().unwrap().0);
        Arc::new(Process::new((id, 1), (role, false), socket, 0))
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
        let place = Place {
            reactor: 0,
            conn: ConnId::default(),
        };
        for second in 0..100 {
            let close = CloseStatus {
                peer,
                local: None,
                fabric: "software".to_owned(),
                worker: None,
                reason: "peer".to_owned(),
                at_seconds: second.into(),
                age_seconds: 0.0,
                bytes_received: 0,
                bytes_sent: 0,
            };
            registry.closed(place, close, (true, "peer"));
        }
        assert_eq!(registry.closes().count(), 64);
        assert_eq!(registry.closes().next().unwrap().at_seconds, 36.0);
        assert_eq!(registry.counters()["peer"], 100);
    }
}
