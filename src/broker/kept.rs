// SPDX-License-Identifier: GPL-2.0-or-later

//! Passes a broker on to the one that takes its place: sockets, memory files, and the state of everything else.
//!
//! ```text
//!   old   reactors, control --put--> Store: descriptors by name       service manager     new
//!                     '------------> state, as JSON                 --------------->  Kept -> resume
//! ```
//!
//! The state names the version of its form. The form is that of the structures in the program, so the version changes
//! whenever one of them does; `state_has_the_form_of_its_version` notices that. A broker does not continue a state of
//! another version, or one that does not fit its configuration.
//!
//! | name of a descriptor | is |
//! |---|---|
//! | `c<reactor>-<number>` | a client's connection |
//! | `l<reactor>-<number>` | a listener |
//! | `w<worker>`, `p<worker>` | the socket of a process, and its pidfd |
//! | `b<worker>-<queue>` | the bell of a queue |
//! | `m<worker>-<region>-<queue>-<number>` | a memory file |
//! | `control`, `status` | the sockets in the file system |

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use serde::{Deserialize, Serialize};

use super::config::Config;
use super::control::{KeptClients, KeptExchange, KeptPeer};
use super::events::KeptEvents;
use super::status::AddressStatus;
use crate::device::abi::{MemParams, RegionShape};
use crate::engine::registry::KeptRegistry;
use crate::engine::shard::KeptShard;
use crate::units::Instant;

/// The version of the form of the state.
pub(super) const VERSION: u32 = 2;

/// Holds descriptors while no broker runs.
pub trait Store: Send + Sync {
    /// Checks, before anything stands still, whether there is room for this many descriptors whose names have this many
    /// bytes together.
    ///
    /// # Errors
    ///
    /// There is not. The error names what is lacking and what helps.
    fn has_room(&self, descriptors: usize, name_bytes: usize) -> io::Result<()>;

    /// Takes a copy of a descriptor under a name that no other descriptor has. A name has at most 60 letters, digits
    /// and hyphens.
    ///
    /// # Errors
    ///
    /// The store is full, or cannot be reached.
    fn put(&self, name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()>;
}

/// Why a broker cannot continue where another one stopped.
#[derive(Debug, thiserror::Error)]
pub enum NotContinued {
    /// The state has another form.
    #[error("the state has version {0}, and this smbdirectd continues only version {VERSION}")]
    Version(u32),
    /// The state is damaged, or is not one.
    #[error("the state cannot be read: {0}")]
    Damaged(#[from] serde_json::Error),
    /// The file of the state cannot be read, or may still be changed.
    #[error("the state cannot be read: {0}")]
    File(#[from] io::Error),
}

/// Maximum number of bytes of a state.
const LONGEST: u64 = 1 << 30;

/// Seals against all changes.
const SEALS: SealFlags = SealFlags::SHRINK
    .union(SealFlags::GROW)
    .union(SealFlags::WRITE)
    .union(SealFlags::SEAL);

/// Makes a file of memory that holds a state and cannot be changed.
pub(super) fn write(state: &[u8]) -> io::Result<OwnedFd> {
    if state.len() as u64 > LONGEST {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = File::from(memfd_create("smbdirect-state", flags)?);
    file.write_all_at(state, 0)?;
    fcntl_add_seals(&file, SEALS)?;
    Ok(file.into())
}

fn read(file: OwnedFd) -> io::Result<Vec<u8>> {
    let seals = fcntl_get_seals(&file)?;
    let file = File::from(file);
    let length = file.metadata()?.len();
    if !seals.contains(SEALS) || length > LONGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut state = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.read_exact_at(&mut state, 0)?;
    Ok(state)
}

/// The state of a broker, and the descriptors that belong to it.
pub struct Kept {
    pub(super) state: State,
    pub(super) descriptors: Descriptors,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").finish_non_exhaustive()
    }
}

impl Kept {
    /// Reads the state that [`Broker::keep`](super::Broker::keep) returned. `descriptors` has what the [`Store`] took.
    ///
    /// # Errors
    ///
    /// The state cannot be continued. All sockets are shut down.
    pub fn read(
        state: OwnedFd,
        descriptors: BTreeMap<String, OwnedFd>,
    ) -> Result<Self, NotContinued> {
        #[derive(Deserialize)]
        struct Form {
            version: u32,
        }

        let descriptors = Descriptors(descriptors);
        // The version is read first, because another version may have another form.
        let state = read(state)?;
        let Form { version } = serde_json::from_slice(&state)?;
        if version != VERSION {
            return Err(NotContinued::Version(version));
        }
        Ok(Self {
            state: serde_json::from_slice(&state)?,
            descriptors,
        })
    }

    /// Returns whether a listener is passed on that serves this address of the configuration.
    #[must_use]
    pub fn listens_at(&self, address: SocketAddr) -> bool {
        let listeners = self.state.listeners.iter();
        let mut listeners = listeners.map(|listener| listener.address);
        listeners.any(|listening| serves(listening, address))
    }

    /// Closes the listeners that serve none of these addresses of the configuration. They would be in the way of others:
    /// as long as one listens at all addresses of the machine, none can listen at a single one with the same port.
    pub fn close_listeners_except(&mut self, addresses: &[SocketAddr]) {
        let Self { state, descriptors } = self;
        state.listeners.retain(|listener| {
            let mut addresses = addresses.iter();
            let is_served = addresses.any(|address| serves(listener.address, *address));
            if !is_served {
                drop(descriptors.take(&listener.name).map(Descriptors::one));
            }
            is_served
        });
    }

    /// Closes descriptors that nobody can continue, for everybody who has a copy.
    pub fn discard(descriptors: Vec<(String, OwnedFd)>) {
        let mut left = Descriptors::default();
        for (name, descriptor) in descriptors {
            // Descriptors may have the same name, and only one of them fits in here.
            drop(left.take(&name).map(Descriptors::one));
            left.0.insert(name, descriptor);
        }
    }

    /// Returns why a broker with this configuration cannot continue, if it cannot.
    pub(super) fn misfit(&self, config: &Config) -> Option<&'static str> {
        let (shapes, depth) = (&self.state.shapes, self.state.queue_depth);
        if *shapes != shapes_of(&config.memory) {
            return Some("the shapes of \"memory\" have changed");
        }
        (depth != config.queue_depth).then_some("queue_depth has changed")
    }

    /// Returns the number of reactors of software that the connections and queues need besides one for RDMA devices, if
    /// there `is_verbs`: the number of each reactor is part of the numbers that workers have.
    pub(super) fn reactors(&self, is_verbs: bool) -> usize {
        let shards = self.state.shards.iter();
        let needed = shards.map(
            |shard| match (shard.conns.is_empty(), shard.queues.is_empty()) {
                (false, _) => shard.number + 1,
                // Any reactor can have queues without connections.
                (true, false) => shard.number + usize::from(!is_verbs),
                (true, true) => 0,
            },
        );
        needed.max().unwrap_or(0)
    }

    /// Takes the listener of a reactor that serves an address of the configuration.
    pub(super) fn take_listener(&mut self, reactor: usize, address: SocketAddr) -> Option<OwnedFd> {
        let listeners = &mut self.state.listeners;
        let found = listeners.iter().position(|listener| {
            listener.reactor == reactor && serves(listener.address, address)
        })?;
        self.descriptors.take(&listeners.remove(found).name)
    }
}

/// Returns whether a listener with this address does what the configured address asks for; port 0 asks for any port.
fn serves(listening: SocketAddr, configured: SocketAddr) -> bool {
    let is_any = configured.port() == 0 && listening.ip() == configured.ip();
    listening == configured || is_any
}

/// Descriptors by name. Those that nobody takes are dropped with it, and sockets are then shut down for everybody who
/// has a copy: a child that the service manager is just starting has one for a moment, and would keep a listener alive.
#[derive(Debug, Default)]
pub(super) struct Descriptors(BTreeMap<String, OwnedFd>);

impl Drop for Descriptors {
    fn drop(&mut self) {
        for descriptor in self.0.values() {
            // Some are not sockets, and some sockets have ended already.
            let _ = rustix::net::shutdown(descriptor, rustix::net::Shutdown::Both);
        }
    }
}

impl Descriptors {
    fn one(descriptor: OwnedFd) -> Self {
        Self([(String::new(), descriptor)].into())
    }

    pub(super) fn take(&mut self, name: &str) -> Option<OwnedFd> {
        self.0.remove(name)
    }
}

/// The state of a broker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) version: u32,
    /// The clock, which stands still between the two brokers.
    pub(super) now: Instant,
    /// The shapes of SEND, BULK and RECEIVE.
    pub(super) shapes: [[u32; 4]; 3],
    pub(super) queue_depth: u32,
    pub(super) control: KeptSocket,
    pub(super) status: KeptSocket,
    pub(super) listeners: Vec<KeptListener>,
    pub(super) shards: Vec<KeptShard>,
    pub(super) last_id: u32,
    pub(super) peers: Vec<KeptPeer>,
    pub(super) registry: KeptRegistry,
    pub(super) exchange: KeptExchange,
    pub(super) clients: KeptClients,
    pub(super) events: KeptEvents,
    /// The bytes of the last [`SetParameters`](crate::device::abi::SetParameters) of a listener, or none.
    #[serde(with = "crate::units::hex")]
    pub(super) parameters: Vec<u8>,
    /// The addresses that a listener allows, with their scopes; `None` stands for all.
    pub(super) allowed: Option<Vec<(IpAddr, u32)>>,
    /// The addresses that the processes have been told.
    pub(super) addresses: Vec<AddressStatus>,
}

/// A socket in the file system, whose descriptor has the name of the field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeptSocket {
    pub(super) path: PathBuf,
    /// Device and inode number of the file.
    pub(super) file: (u64, u64),
}

impl KeptSocket {
    /// Returns whether this is the socket for `path`.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        self.path == path
    }
}

/// A listener of a reactor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct KeptListener {
    pub(super) reactor: usize,
    pub(super) address: SocketAddr,
    pub(super) name: String,
}

/// Returns the shapes of a worker's regions.
pub(super) fn shapes_of(memory: &MemParams) -> [[u32; 4]; 3] {
    let shape = |shape: &RegionShape| {
        [
            shape.unit_length,
            shape.units_per_segment,
            shape.longest_run,
            shape.max_segments,
        ]
    };
    [&memory.send, &memory.bulk, &memory.receive].map(shape)
}

/// The names of descriptors.
pub(super) mod names {
    pub(in crate::broker) const CONTROL: &str = "control";
    pub(in crate::broker) const STATUS: &str = "status";

    pub(in crate::broker) fn conn(reactor: usize, place: usize) -> String {
        format!("c{reactor}-{place}")
    }

    pub(in crate::broker) fn listener(reactor: usize, number: usize) -> String {
        format!("l{reactor}-{number}")
    }

    pub(in crate::broker) fn process(id: u32) -> String {
        format!("w{id}")
    }

    pub(in crate::broker) fn pidfd(id: u32) -> String {
        format!("p{id}")
    }

    pub(in crate::broker) fn bell(worker: u32, queue: u32) -> String {
        format!("b{worker}-{queue}")
    }
}

#[cfg(test)]
mod tests;
