// SPDX-License-Identifier: GPL-2.0-or-later

//! Passes the broker on to the one that takes its place: asks the reactors to stand still, and puts their states and
//! that of this thread together.
//!
//! ```text
//!   reactors of RDMA devices     end their connections, then stand still       as long as a stop may take
//!   reactors of software         stand still                                   from here on, nothing moves
//!   control                      the state                                     -> owner of the broker
//! ```
//!
//! While the reactors stand still, this thread reads nothing from processes either, so no request gets lost: requests
//! wait in the sockets for the next broker.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant as Clock};

use crossbeam_channel::{RecvTimeoutError, Sender};
use serde::{Deserialize, Serialize};
use zerocopy::{FromBytes, IntoBytes};

use super::{Control, Message, Peer};
use crate::broker::kept::{Descriptors, KeptListener, State, Store, VERSION, names, shapes_of};
use crate::broker::process::{KeptProcess, Process, send_detached};
use crate::broker::reactor::{Command, KeptReactor, Notice, ToStore};
use crate::broker::shared::Shared;
use crate::device::Status;
use crate::device::abi::SetParameters;
use crate::engine::parameters::reduced;
use crate::engine::peer::Role;
use crate::engine::registry::KeptRegistry;
use crate::fabric::{FabricKind, LocalAddress, LocalAddresses};
use crate::proto;
use crate::sys::SeqSocket;

/// Time within which the reactors of software stand still and have passed on their descriptors. The store gives up
/// earlier.
const STANDSTILL: Duration = Duration::from_secs(12);

/// The owner of the broker, which wants to pass it on.
#[derive(Debug)]
pub(in crate::broker) struct Keeper {
    pub(in crate::broker) store: ToStore,
    pub(in crate::broker) answer: Sender<Result<Vec<u8>, String>>,
}

/// The progress of passing the broker on.
#[derive(Debug)]
pub(super) struct Keeping {
    keeper: Keeper,
    /// The reactors that have not reported yet.
    missing: BTreeSet<usize>,
    kept: BTreeMap<usize, KeptReactor>,
}

/// A process that has connected.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::broker) struct KeptPeer {
    id: u32,
    pid: i32,
    /// The process, or `None` until it has attached.
    process: Option<KeptProcess>,
    addresses_due: bool,
}

/// A process of an earlier broker, which is attached again.
#[derive(Debug)]
pub(in crate::broker) struct Continued {
    id: u32,
    pid: i32,
    socket: Arc<SeqSocket>,
    pidfd: Option<OwnedFd>,
    process: Option<Arc<Process>>,
    addresses_due: bool,
}

impl Control {
    /// Begins to pass the broker on.
    pub(super) fn keep(&mut self, keeper: Keeper) {
        if self.stopping || self.keeping.is_some() {
            let _ = keeper
                .answer
                .send(Err("the device is already stopping".to_owned()));
            return;
        }
        let (descriptors, name_bytes) = self.count();
        if let Err(error) = keeper.store.0.has_room(descriptors, name_bytes) {
            let _ = keeper.answer.send(Err(error.to_string()));
            return;
        }
        let missing: BTreeSet<usize> = (0..self.reactors.len()).collect();
        let by = self.now + self.shared.config().drain_timeout;
        for reactor in self
            .reactors
            .iter()
            .filter(|reactor| !reactor.is_software())
        {
            reactor.send(Command::Keep(keeper.store.clone(), by));
        }
        self.keeping = Some(Keeping {
            keeper,
            missing,
            kept: BTreeMap::new(),
        });
        self.keep_rest();
    }

    /// Returns how many descriptors have to be passed on, and the number of bytes of their names: at most, because
    /// connections that cannot be kept count as well.
    fn count(&self) -> (usize, usize) {
        let (mut descriptors, mut name_bytes) = (0, 0);
        let mut add = |count: usize, longest: &str| {
            descriptors += count;
            name_bytes += count * longest.len();
        };
        add(1, names::CONTROL);
        add(1, names::STATUS);
        let reactors = self.reactors.len();
        add(
            reactors * self.listen.len(),
            &names::listener(reactors, self.listen.len()),
        );
        let connections = self.shared.registry().connections();
        add(connections, &names::conn(reactors, connections));
        for (id, peer) in &self.peers {
            let process = peer.process.as_ref();
            if process.is_some_and(|process| process.role == Role::Observer) {
                continue;
            }
            add(1, &names::process(*id));
            add(usize::from(peer.pidfd.is_some()), &names::pidfd(*id));
            for name in process.iter().flat_map(|process| process.names_of_files()) {
                add(1, &name);
            }
            // A queue has one bell.
            let queues = process.map_or(0, |process| process.count_queues());
            add(queues, &names::bell(*id, reactors as u32));
        }
        (descriptors, name_bytes)
    }

    /// Handles the report of a reactor of an RDMA device.
    pub(super) fn kept(&mut self, reactor: usize, kept: Result<Box<KeptReactor>, String>) {
        let Some(keeping) = &mut self.keeping else {
            return;
        };
        keeping.missing.remove(&reactor);
        match kept {
            Ok(kept) => {
                keeping.kept.insert(reactor, *kept);
                self.keep_rest();
            }
            Err(why) => self.not_kept(why),
        }
    }

    /// Lets the reactors of software stand still once the others do, and answers the owner of the broker.
    fn keep_rest(&mut self) {
        let Some(keeping) = &self.keeping else {
            return;
        };
        let is_software = |number: &usize| {
            let reactor = self.reactors.get(*number);
            reactor.is_some_and(super::ToReactor::is_software)
        };
        if !keeping.missing.iter().all(is_software) {
            return;
        }
        let store = keeping.keeper.store.clone();
        for number in &keeping.missing {
            if let Some(reactor) = self.reactors.get(*number) {
                reactor.send(Command::Keep(store.clone(), self.now));
            }
        }
        let end = Clock::now() + STANDSTILL;
        let kept = loop {
            match &self.keeping {
                Some(keeping) if keeping.missing.is_empty() => break Ok(()),
                Some(_) => {}
                // A reactor could not stand still, and the owner knows.
                None => return,
            }
            match self.messages.recv_deadline(end) {
                Ok(Message::Notice(Notice::Kept(reactor, Ok(kept)))) => {
                    if let Some(keeping) = &mut self.keeping {
                        keeping.missing.remove(&reactor);
                        keeping.kept.insert(reactor, *kept);
                    }
                }
                Ok(Message::Notice(Notice::Kept(_, Err(why)))) => break Err(why),
                Ok(message) => self.handle(message),
                Err(RecvTimeoutError::Timeout) => {
                    break Err("a reactor does not stand still in time".to_owned());
                }
                Err(RecvTimeoutError::Disconnected) => {
                    break Err("the threads of the device have ended".to_owned());
                }
            }
        };
        if let Err(why) = kept.and_then(|()| self.answer_keeper(&*store.0)) {
            self.not_kept(why);
        }
    }

    fn answer_keeper(&mut self, store: &dyn Store) -> Result<(), String> {
        let Some(keeping) = &mut self.keeping else {
            return Ok(());
        };
        let kept = std::mem::take(&mut keeping.kept);
        let state = self.write_down(kept, store)?;
        let state = serde_json::to_vec(&state).map_err(|error| error.to_string())?;
        if let Some(keeping) = &self.keeping {
            let _ = keeping.keeper.answer.send(Ok(state));
        }
        Ok(())
    }

    fn write_down(
        &self,
        kept: BTreeMap<usize, KeptReactor>,
        store: &dyn Store,
    ) -> Result<State, String> {
        let cannot = |error: std::io::Error| format!("a descriptor is not taken: {error}");
        let mut peers = Vec::new();
        for (id, peer) in &self.peers {
            let process = peer.process.as_ref();
            if process.is_some_and(|process| process.role == Role::Observer) {
                continue;
            }
            store
                .put(&names::process(*id), peer.socket.as_fd())
                .map_err(cannot)?;
            if let Some(pidfd) = &peer.pidfd {
                store
                    .put(&names::pidfd(*id), pidfd.as_fd())
                    .map_err(cannot)?;
            }
            let process = match process {
                Some(process) => Some(process.keep(store).map_err(cannot)?),
                None => None,
            };
            peers.push(KeptPeer {
                id: *id,
                pid: peer.pid,
                process,
                addresses_due: peer.addresses_due,
            });
        }
        let (control, status) = (&self.socket, &self.status_socket);
        store.put(names::CONTROL, control.as_fd()).map_err(cannot)?;
        store.put(names::STATUS, status.as_fd()).map_err(cannot)?;
        let (mut shards, mut listeners) = (Vec::new(), Vec::<KeptListener>::new());
        for kept in kept.into_values() {
            shards.push(kept.shard);
            listeners.extend(kept.listeners);
        }
        let allowed = match &*self.known.allowed {
            LocalAddresses::All => None,
            LocalAddresses::Only(addresses) => {
                let addresses = addresses.iter();
                Some(
                    addresses
                        .map(|address| (address.ip(), address.scope_id()))
                        .collect(),
                )
            }
        };
        let parameters = self.parameters.as_ref().map(IntoBytes::as_bytes);
        Ok(State {
            version: VERSION,
            now: self.shared.now(),
            shapes: shapes_of(&self.shared.config().memory),
            queue_depth: self.shared.config().queue_depth,
            control: control.keep(),
            status: status.keep(),
            listeners,
            shards,
            last_id: self.last_id,
            peers,
            registry: self.shared.registry().keep(),
            exchange: self.exchange.keep(),
            clients: self.clients.keep(),
            events: self.shared.keep_events(),
            parameters: parameters.unwrap_or_default().to_vec(),
            allowed,
            addresses: self.known.reach.addresses.clone(),
        })
    }

    /// Tells the owner of the broker why it cannot be passed on. Everything goes on.
    fn not_kept(&mut self, why: String) {
        // The owner is about to stop the broker. Reactors of RDMA devices may have ended by then.
        self.stopping = true;
        if let Some(keeping) = self.keeping.take() {
            let _ = keeping.keeper.answer.send(Err(why));
        }
        self.resume();
    }

    /// Goes on, because the owner of the broker could not pass it on.
    pub(super) fn go_on(&mut self) {
        self.stopping = true;
        self.keeping = None;
        self.resume();
    }

    fn resume(&mut self) {
        self.command_all(|| Command::GoOn);
        // Events of these sockets may have been left aside.
        self.readable = self.peers.keys().copied().collect();
        self.accept();
    }

    /// Returns whether nothing may move, because the next broker continues from what was written down.
    pub(super) fn stands_still(&self) -> bool {
        let keeping = self.keeping.as_ref();
        keeping.is_some_and(|keeping| keeping.missing.is_empty())
    }

    /// Continues with the processes and the state of an earlier broker.
    pub(in crate::broker) fn adopt(&mut self, peers: Vec<Continued>, state: KeptControl) {
        self.last_id = state.last_id;
        for continued in peers {
            let Continued {
                id,
                pid,
                socket,
                pidfd,
                process,
                addresses_due,
            } = continued;
            let peer = Peer {
                socket,
                pid,
                pidfd,
                process,
                addresses_due,
            };
            if let Err(error) = peer.watch(self.poll.registry(), id) {
                tracing::warn!(pid, %error, "detached after the restart: its socket cannot be watched");
                peer.unwatch(self.poll.registry());
                send_detached(&peer.socket, Status::System);
                self.shared.registry().detach(id);
                self.command_all(|| Command::Gone(id));
                continue;
            }
            if peer.process.is_none() {
                self.unattached
                    .push_back((self.now + super::ATTACH_TIMEOUT, id));
            }
            self.peers.insert(id, peer);
            self.readable.push_back(id);
        }
        self.parameters = state.parameters;
        self.clients.adopt(state.clients);
        self.adopt_exchange(state.exchange);
        self.known.allowed = state.allowed;
        self.adopt_addresses(&state.addresses);
    }
}

/// What the control thread continues with, besides the processes.
#[derive(Debug)]
pub(in crate::broker) struct KeptControl {
    last_id: u32,
    exchange: super::KeptExchange,
    clients: super::KeptClients,
    parameters: Option<SetParameters>,
    allowed: Arc<LocalAddresses>,
    addresses: Vec<crate::broker::status::AddressStatus>,
}

impl KeptControl {
    /// Returns the addresses that clients may use.
    pub(in crate::broker) const fn allowed(&self) -> &Arc<LocalAddresses> {
        &self.allowed
    }

    /// Returns the values with which the reactors negotiate, if a listener has lowered the configured ones.
    pub(in crate::broker) fn acceptor(&self, own: &proto::Config) -> Option<proto::Config> {
        let acceptor = reduced(own, self.parameters.as_ref()?);
        acceptor.validate().ok()?;
        Some(acceptor)
    }
}

/// Attaches the processes of an earlier broker again, and takes over what was registered and counted.
pub(in crate::broker) fn continue_with(
    state: &mut State,
    descriptors: &mut Descriptors,
    shared: &Shared,
) -> (Vec<Continued>, KeptControl) {
    let mut continued = Vec::new();
    for peer in std::mem::take(&mut state.peers) {
        continued.extend(continue_peer(&peer, descriptors, shared));
    }
    let mut registry = shared.registry();
    for process in continued.iter().filter_map(|peer| peer.process.as_ref()) {
        registry.attach(process);
    }
    let kept: KeptRegistry = std::mem::take(&mut state.registry);
    registry.adopt(kept);
    drop(registry);
    let allowed = match state.allowed.take() {
        None => LocalAddresses::All,
        Some(list) => {
            let addresses = list
                .into_iter()
                .map(|(ip, scope)| LocalAddress::new(ip, scope));
            LocalAddresses::Only(addresses.collect())
        }
    };
    let control = KeptControl {
        last_id: state.last_id,
        exchange: std::mem::take(&mut state.exchange),
        clients: std::mem::take(&mut state.clients),
        parameters: SetParameters::read_from_bytes(&state.parameters).ok(),
        allowed: Arc::new(allowed),
        addresses: std::mem::take(&mut state.addresses),
    };
    (continued, control)
}

fn continue_peer(
    peer: &KeptPeer,
    descriptors: &mut Descriptors,
    shared: &Shared,
) -> Option<Continued> {
    let (id, pid) = (peer.id, peer.pid);
    let socket = Arc::new(SeqSocket::from(descriptors.take(&names::process(id))?));
    let pidfd = descriptors.take(&names::pidfd(id));
    let process = match &peer.process {
        None => None,
        Some(kept) => {
            let files = (&mut *descriptors, shared.config().keep_connections);
            let again = Process::adopt((id, pid), Arc::clone(&socket), kept, &shared.memory, files);
            if again.is_none() {
                tracing::warn!(
                    worker = id,
                    pid,
                    "detached after the restart: its memory is missing"
                );
                send_detached(&socket, Status::System);
            }
            Some(Arc::new(again?))
        }
    };
    Some(Continued {
        id,
        pid,
        socket,
        pidfd,
        process,
        addresses_due: peer.addresses_due,
    })
}

impl super::ToReactor {
    /// Returns whether the connections of the reactor can be passed on.
    pub(super) fn is_software(&self) -> bool {
        self.kind == FabricKind::Software
    }
}
