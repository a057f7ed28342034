// SPDX-License-Identifier: GPL-2.0-or-later

//! Records which processes are attached, which of them has registered a client, which connections wait for an owner,
//! and what happened.
//!
//! A connection comes here when it begins, changes hands and ends, but messages, RDMA operations and completions never
//! do. A registry that is shared is protected by a lock, which is never held across anything that waits.

#[cfg(feature = "broker")]
mod kept;

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use super::admission::{Admission, Limit, Limits, Place};
use super::peer::{Peer, Role};
use super::warnings::Warnings;
use crate::device::Status;
use crate::device::abi::Token;
use crate::transport::Traffic;
use crate::units::Instant;

#[cfg(feature = "broker")]
pub(crate) use self::kept::{KeptCarried, KeptRegistry};

/// Maximum number of observers at a time.
const MAX_OBSERVERS: usize = 64;

/// How many past connections the status shows.
const KEPT_CLOSES: usize = 64;

/// The process to which a new connection goes.
#[derive(Debug)]
pub enum Route<P> {
    /// The worker that registered the connection's client.
    Worker(P),
    /// The listener, which finds a worker for the connection.
    Listener(P),
    /// There is no listener.
    Nobody,
}

/// The end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// The client's address.
    pub peer: SocketAddr,
    /// The server's address to which the client connected.
    pub local: Option<SocketAddr>,
    /// The fabric that carried the connection.
    pub fabric: &'static str,
    /// The worker that owned the connection.
    pub worker: Option<u32>,
    /// The reason's name.
    pub reason: &'static str,
    /// When the connection ended.
    pub at: Instant,
    /// How long the connection lasted.
    pub age: Duration,
    /// Bytes that came from the client, in messages and by RDMA READ.
    pub bytes_received: u64,
    /// Bytes that went to the client, in messages and by RDMA WRITE.
    pub bytes_sent: u64,
}

/// The number of connections, and their traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// How many connections asked to be accepted.
    pub requested: u64,
    /// How many connections there were.
    pub connections: u64,
    /// The traffic of these connections.
    pub traffic: Traffic,
    /// Number of WRITEs whose data was fetched before their owners got them.
    pub fetched_ahead: u64,
}

/// The registrations for a client.
#[derive(Debug)]
struct Client {
    process: u32,
    /// The registered sessions; 0 means that the process wants the client's connections.
    sessions: BTreeSet<u64>,
}

/// The registrations of a process.
#[derive(Debug, Default)]
struct Registered {
    clients: BTreeSet<[u8; 16]>,
    /// Number of sessions of all clients; a client that is registered without a session counts as one.
    sessions: usize,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Registry<P> {
    processes: BTreeMap<u32, P>,
    listener: Option<u32>,
    clients: BTreeMap<[u8; 16], Client>,
    sessions: BTreeMap<u64, u32>,
    /// The registrations of each process.
    registered: BTreeMap<u32, Registered>,
    tokens: BTreeMap<Token, Place>,
    connections: usize,
    /// Number of connections without an owner.
    undispatched: usize,
    admission: Admission,
    closes: VecDeque<Close>,
    counters: BTreeMap<&'static str, u64>,
    /// Number of connections that ended after they had negotiated, by fabric and reason.
    ends: BTreeMap<(&'static str, &'static str), u64>,
    /// Number of refused attachments, by the name of the status.
    refused: BTreeMap<&'static str, u64>,
    /// Decides when to warn about limits.
    pub warnings: Warnings,
    /// The numbers of the shards that have ended.
    ended: BTreeSet<usize>,
    /// What the ended shards carried, by fabric.
    carried: BTreeMap<&'static str, Carried>,
    /// The counters of the transports of the ended shards.
    transport: BTreeMap<&'static str, u64>,
}

impl<P: Peer> Registry<P> {
    /// Makes an empty registry with these limits on connections.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            processes: BTreeMap::new(),
            listener: None,
            clients: BTreeMap::new(),
            sessions: BTreeMap::new(),
            registered: BTreeMap::new(),
            tokens: BTreeMap::new(),
            connections: 0,
            undispatched: 0,
            admission: Admission::new(limits),
            closes: VecDeque::new(),
            counters: BTreeMap::new(),
            ends: BTreeMap::new(),
            refused: BTreeMap::new(),
            warnings: Warnings::default(),
            ended: BTreeSet::new(),
            carried: BTreeMap::new(),
            transport: BTreeMap::new(),
        }
    }

    /// Sets the limits on connections. Returns the waiting connections that may be offered now.
    pub fn set_limits(&mut self, limits: Limits) -> Vec<Place> {
        self.admission.set_limits(limits)
    }

    /// Checks whether a process without a token may attach. A process with a token always may, because connections have
    /// limits of their own.
    ///
    /// # Errors
    ///
    /// [`Status::Taken`]: there is already a listener. [`Status::Limit`]: there are already `limit` workers that
    /// attached without a token, or too many observers.
    pub fn may_attach(&self, role: Role, limit: usize) -> Result<(), Status> {
        let uninvited = |role| {
            let processes = self.processes.values();
            processes.filter(move |process| process.role() == role && !process.invited())
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

    /// Adds a process that [`may_attach`](Self::may_attach). A listener gets offers from now on.
    pub fn attach(&mut self, process: &P) {
        if process.role() == Role::Listener {
            self.listener = Some(process.id());
        }
        self.processes.insert(process.id(), process.clone());
    }

    /// Forgets a process and all that it registered.
    pub fn detach(&mut self, process: u32) {
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

    /// Returns the attached processes.
    pub fn processes(&self) -> impl Iterator<Item = &P> {
        self.processes.values()
    }

    /// Registers a session of a client (0: only the client) for a process.
    ///
    /// # Errors
    ///
    /// [`Status::Taken`]: another process has registered the client or the session, or the session belongs to another
    /// client. [`Status::Limit`]: this process has already registered `limit` sessions.
    pub fn register(
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
        // It is a mistake of the caller to register the same session for a second client.
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

    /// Returns the process that has registered a client, and the one that has registered a session.
    #[must_use]
    pub fn holders(&self, client_guid: &[u8; 16], session: u64) -> [Option<u32>; 2] {
        let client = self.clients.get(client_guid);
        let session = self.sessions.get(&session).copied();
        [client.map(|client| client.process), session]
    }

    /// Undoes `register`; with session 0, for all sessions of this client.
    ///
    /// # Errors
    ///
    /// [`Status::NoOwner`]: the client is not registered for this process.
    pub fn unregister(
        &mut self,
        process: u32,
        client_guid: [u8; 16],
        session: u64,
    ) -> Result<(), Status> {
        let owned = |client: &&mut Client| client.process == process;
        let client = self.clients.get_mut(&client_guid).filter(owned);
        let client = client.ok_or(Status::NoOwner)?;
        let mut gone = BTreeSet::new();
        match session {
            0 => gone = core::mem::take(&mut client.sessions),
            session => gone.extend(client.sessions.take(&session)),
        }
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

    /// Returns how many sessions a process has registered; a client that is registered without a session counts as one.
    #[must_use]
    pub fn registered(&self, process: u32) -> usize {
        let registered = self.registered.get(&process);
        registered.map_or(0, |registered| registered.sessions)
    }

    /// Returns where a connection of a client goes.
    #[must_use]
    pub fn route(&self, client_guid: &[u8; 16]) -> Route<P> {
        if let Some(process) = self.owner(client_guid) {
            return Route::Worker(process);
        }
        self.route_unknown()
    }

    /// Returns where a connection goes if its client is not registered.
    #[must_use]
    pub fn route_unknown(&self) -> Route<P> {
        let listener = self.listener.and_then(|id| self.processes.get(&id));
        listener.cloned().map_or(Route::Nobody, Route::Listener)
    }

    /// Returns the worker that registered a client.
    #[must_use]
    pub fn owner(&self, client_guid: &[u8; 16]) -> Option<P> {
        let client = self.clients.get(client_guid)?;
        self.processes.get(&client.process).cloned()
    }

    /// Counts a new connection. If there are now too many, returns the connection that has to end, which may be the new
    /// one.
    pub fn established(&mut self, place: Place, peer: SocketAddr) -> Option<(Place, Limit)> {
        self.connections += 1;
        self.undispatched += 1;
        self.count("established");
        self.admission.admit(place, peer.into())
    }

    /// Counts again a connection that had to end, but has got a session in the meantime.
    pub fn stays(&mut self, place: Place, peer: SocketAddr) {
        self.admission.stays(place, peer.into());
    }

    /// Notes that a connection, which is neither offered nor waiting to be offered, has moved to another shard. `false`:
    /// it had to end meanwhile, to make room for a newcomer.
    #[must_use]
    pub fn moved(&mut self, from: &Place, to: Place) -> bool {
        self.admission.moved(from, to)
    }

    /// Notes that a connection has a session now.
    pub fn authenticated(&mut self, place: Place) {
        self.admission.authenticated(place);
    }

    /// Returns whether a connection may be offered to the listener now. If not, it waits until
    /// [`dispatched`](Self::dispatched) or [`closed`](Self::closed) returns it.
    pub fn may_offer(&mut self, place: Place, peer: SocketAddr) -> bool {
        let may = self.admission.offer(place, peer.into());
        if !may {
            self.count("waited_for_offer");
        }
        may
    }

    /// Notes that a connection has an owner now. Returns the waiting connection that may be offered in its place.
    pub fn dispatched(&mut self, place: Place) -> Option<Place> {
        self.undispatched = self.undispatched.saturating_sub(1);
        self.admission.done(place)
    }

    /// Notes that a connection has lost its owner, and waits for another.
    pub fn undispatch(&mut self) {
        self.undispatched += 1;
    }

    /// Notes that a connection has ended. Returns the waiting connection that may be offered in its place.
    pub fn closed(
        &mut self,
        place: Place,
        close: Close,
        (was_dispatched, name): (bool, &'static str),
    ) -> Option<Place> {
        self.connections = self.connections.saturating_sub(1);
        if !was_dispatched {
            self.undispatched = self.undispatched.saturating_sub(1);
        }
        self.count(name);
        *self.ends.entry((close.fabric, name)).or_default() += 1;
        if self.closes.len() >= KEPT_CLOSES {
            self.closes.pop_front();
        }
        self.closes.push_back(close);
        self.admission.closed(place)
    }

    /// Lets a connection be claimed with `token`.
    pub fn offer(&mut self, token: Token, place: Place) {
        self.tokens.insert(token, place);
    }

    /// Returns the connection that a token names, and uses the token up.
    pub fn claim(&mut self, token: &Token) -> Option<Place> {
        self.tokens.remove(token)
    }

    /// Adds one to the counter with this name.
    pub fn count(&mut self, name: &'static str) {
        *self.counters.entry(name).or_default() += 1;
    }

    /// Counts a process that was not allowed to attach.
    pub fn refused_attach(&mut self, status: Status) {
        self.count("refused_attach");
        *self.refused.entry(status.name()).or_default() += 1;
    }

    /// Keeps the totals of a shard that has ended; `fabric` is its fabric. The shard can no longer be asked for them,
    /// and the totals that the status shows must not fall.
    pub fn shard_ended(
        &mut self,
        (shard, fabric): (usize, &'static str),
        carried: Carried,
        transport: impl Iterator<Item = (&'static str, u64)>,
    ) {
        self.ended.insert(shard);
        self.keep_totals(fabric, carried, transport);
    }

    /// Adds to the totals what a shard carried that is about to be forgotten.
    pub fn keep_totals(
        &mut self,
        fabric: &'static str,
        carried: Carried,
        transport: impl Iterator<Item = (&'static str, u64)>,
    ) {
        let sum = self.carried.entry(fabric).or_default();
        sum.requested += carried.requested;
        sum.connections += carried.connections;
        sum.traffic += carried.traffic;
        sum.fetched_ahead += carried.fetched_ahead;
        for (name, count) in transport {
            *self.transport.entry(name).or_default() += count;
        }
    }

    /// Returns the numbers of the shards that have ended.
    #[must_use]
    pub const fn ended_shards(&self) -> &BTreeSet<usize> {
        &self.ended
    }

    /// Returns the connections and traffic of all shards that have ended, by fabric.
    #[must_use]
    pub const fn carried_before(&self) -> &BTreeMap<&'static str, Carried> {
        &self.carried
    }

    /// Returns what the transports of all ended shards counted, by the name of the counter.
    #[must_use]
    pub const fn transport_before(&self) -> &BTreeMap<&'static str, u64> {
        &self.transport
    }

    /// Returns all counters.
    #[must_use]
    pub fn counters(&self) -> &BTreeMap<&'static str, u64> {
        &self.counters
    }

    /// Returns how many connections ended, by fabric and reason.
    #[must_use]
    pub const fn ends(&self) -> &BTreeMap<(&'static str, &'static str), u64> {
        &self.ends
    }

    /// Returns how many processes were not allowed to attach, by the name of the status.
    #[must_use]
    pub const fn refused(&self) -> &BTreeMap<&'static str, u64> {
        &self.refused
    }

    /// Returns the connections that ended last, the oldest first.
    pub fn closes(&self) -> impl Iterator<Item = &Close> {
        self.closes.iter()
    }

    /// Returns the number of connections that have negotiated.
    #[must_use]
    pub const fn connections(&self) -> usize {
        self.connections
    }

    /// Returns the number of connections that have negotiated and have no owner.
    #[must_use]
    pub const fn undispatched(&self) -> usize {
        self.undispatched
    }

    /// Returns the number of connections that are offered to the listener and have no owner yet.
    #[must_use]
    pub fn dispatching(&self) -> usize {
        self.admission.offered()
    }

    /// Returns the number of connections that have negotiated and have no session.
    #[must_use]
    pub fn unauthenticated(&self) -> usize {
        self.admission.strangers()
    }

    /// Returns the number of clients that are registered.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// Returns the number of sessions that are registered.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Returns the number of tokens that may be claimed.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens.len()
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::{Immutable, IntoBytes};

    use super::super::peer::Untold;
    use super::*;
    use crate::fabric::ConnId;

    #[derive(Clone, Debug)]
    struct Process(u32, Role);

    impl Peer for Process {
        fn id(&self) -> u32 {
            self.0
        }

        fn role(&self) -> Role {
            self.1
        }

        fn invited(&self) -> bool {
            false
        }

        fn tell<T: IntoBytes + Immutable>(&self, _: u32, _: u64, _: &T) -> Result<(), Untold> {
            Ok(())
        }
    }

    fn registry() -> Registry<Process> {
        Registry::new(Limits::default())
    }

    #[test]
    fn a_client_belongs_to_one_worker_until_it_removes_all_registrations() {
        let mut registry = registry();
        for id in [1, 2] {
            registry.attach(&Process(id, Role::Worker));
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
        assert_eq!(registry.owner(&guid).map(|process| process.id()), Some(1));
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
        let mut registry = registry();
        let attach = |registry: &mut Registry<Process>, id, role| {
            registry.may_attach(role, 1)?;
            registry.attach(&Process(id, role));
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
    fn keeps_only_the_last_closes() {
        let mut registry = registry();
        let peer = "192.0.2.1:1".parse().unwrap();
        let place = Place {
            shard: 0,
            conn: ConnId::default(),
        };
        for second in 0..100 {
            let close = Close {
                peer,
                local: None,
                fabric: "software",
                worker: None,
                reason: "peer",
                at: Instant::ZERO + Duration::from_secs(second),
                age: Duration::ZERO,
                bytes_received: 0,
                bytes_sent: 0,
            };
            registry.closed(place, close, (true, "peer"));
        }
        assert_eq!(registry.closes().count(), 64);
        assert_eq!(
            registry.ends()[&("software", "peer")],
            100,
            "all ends are counted"
        );
        let oldest = Instant::ZERO + Duration::from_secs(36);
        assert_eq!(registry.closes().next().unwrap().at, oldest);
        assert_eq!(registry.counters()["peer"], 100);
    }
}
