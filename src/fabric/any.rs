// SPDX-License-Identifier: GPL-2.0-or-later

//! [`AnyFabric`]: any one of the fabrics that connect machines.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::str::FromStr;
use std::time::Duration;

use super::forward_fabric;
use super::iwarp::{self, Iwarp};
use super::verbs::{self, Verbs};
use super::{Fabric, FabricError, SharedEpoll, Waitable};

/// The fabrics that connect machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FabricKind {
    /// iWARP in user space, on TCP sockets.
    Software,
    /// RDMA devices.
    Verbs,
}

impl FabricKind {
    /// Returns the name as users write it: `software`, `verbs`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Software => "software",
            Self::Verbs => "verbs",
        }
    }
}

impl fmt::Display for FabricKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The fabric that is asked for; `None`, written `auto`, stands for an RDMA device if there is one, otherwise software.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FabricChoice(pub Option<FabricKind>);

/// An error: the text is not the name of a fabric.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\": a fabric is \"auto\", \"software\" or \"verbs\"")]
pub struct NoFabric(String);

impl FromStr for FabricChoice {
    type Err = NoFabric;

    fn from_str(text: &str) -> Result<Self, NoFabric> {
        match text {
            "auto" => Ok(Self(None)),
            "software" => Ok(Self(Some(FabricKind::Software))),
            "verbs" => Ok(Self(Some(FabricKind::Verbs))),
            _ => Err(NoFabric(text.to_owned())),
        }
    }
}

impl fmt::Display for FabricChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.map_or("auto", FabricKind::name))
    }
}

/// A fabric whose limits can change while it has connections.
pub trait Reconfigure: SharedEpoll {
    /// Sets the configuration: the limits from now on, and the values of connections that begin from now on. Listeners
    /// stay as they are.
    fn set_config(&mut self, config: &iwarp::Config);
}

/// What [`AnyFabric`] needs from a fabric besides the traits.
#[cfg(feature = "broker")]
trait Provider: super::Keep + Reconfigure + fmt::Debug + Send {
    /// See [`AnyFabric::connections`].
    fn connections(&self) -> usize;
}

/// What [`AnyFabric`] needs from a fabric besides the traits.
#[cfg(not(feature = "broker"))]
trait Provider: Reconfigure + fmt::Debug + Send {
    /// See [`AnyFabric::connections`].
    fn connections(&self) -> usize;
}

impl Provider for Iwarp {
    fn connections(&self) -> usize {
        let counts = self.counts();
        counts.connections + counts.lingering
    }
}

impl Provider for Verbs {
    fn connections(&self) -> usize {
        let counts = self.counts();
        counts.connections + counts.lingering
    }
}

/// One of the fabrics.
#[derive(Debug)]
pub struct AnyFabric {
    kind: FabricKind,
    fabric: Box<dyn Provider>,
}

impl From<Iwarp> for AnyFabric {
    fn from(fabric: Iwarp) -> Self {
        Self {
            kind: FabricKind::Software,
            fabric: Box::new(fabric),
        }
    }
}

impl From<Verbs> for AnyFabric {
    fn from(fabric: Verbs) -> Self {
        Self {
            kind: FabricKind::Verbs,
            fabric: Box::new(fabric),
        }
    }
}

impl AnyFabric {
    /// Makes a fabric for connections to `address`, with the limits in `config`. If `kind` is `None`, uses verbs if
    /// this side reaches `address` through an RDMA device, and software otherwise.
    ///
    /// # Errors
    ///
    /// RDMA devices were asked for, but cannot be used.
    pub fn towards(
        address: SocketAddr,
        kind: Option<FabricKind>,
        config: iwarp::Config,
    ) -> Result<Self, FabricError> {
        match kind.unwrap_or_else(|| kind_towards(address)) {
            FabricKind::Software => Iwarp::new(config).map(Self::from),
            FabricKind::Verbs => Verbs::new((&config).into()).map(Self::from),
        }
    }

    /// Returns the number of connections, including those that have ended here but not yet at their peers.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.fabric.connections()
    }

    /// Returns the kind of the fabric.
    #[must_use]
    pub const fn kind(&self) -> FabricKind {
        self.kind
    }
}

fn kind_towards(address: SocketAddr) -> FabricKind {
    let source = verbs::source_for(address);
    let device = source.map(verbs::device_of);
    match device {
        Ok(Ok(Some(_))) => FabricKind::Verbs,
        // If something is wrong, the error appears when the software fabric connects.
        _ => FabricKind::Software,
    }
}

impl Fabric for AnyFabric {
    forward_fabric!(self => self.fabric;
        listen, local_address, conn_local_address, regions_may_be_invalidated, unlisten, admit_at, connect, accept,
        reject, close, register, deregister, post_recv, post_send, post_write, post_read, moved, poll, poll_timeout);
}

impl Reconfigure for AnyFabric {
    fn set_config(&mut self, config: &iwarp::Config) {
        self.fabric.set_config(config);
    }
}

impl Waitable for AnyFabric {
    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.fabric.event_fd()
    }
}

impl SharedEpoll for AnyFabric {
    fn registry(&self) -> &mio::Registry {
        self.fabric.registry()
    }

    fn wait(&mut self, time: Option<Duration>) -> Result<(), FabricError> {
        self.fabric.wait(time)
    }

    fn ready(&mut self, keys: &mut Vec<u64>) {
        self.fabric.ready(keys);
    }
}

#[cfg(feature = "broker")]
mod kept {
    use std::os::fd::{BorrowedFd, OwnedFd};

    use super::AnyFabric;
    use crate::fabric::iwarp::KeptConn;
    use crate::fabric::{ConnId, Event, FabricError, Keep, ListenerId, NotKept, RegionId};
    use crate::sys::Memory;

    impl Keep for AnyFabric {
        fn may_keep(&self, conn: ConnId) -> bool {
            self.fabric.may_keep(conn)
        }

        fn keep(&self, conn: ConnId) -> Option<(KeptConn, BorrowedFd<'_>)> {
            self.fabric.keep(conn)
        }

        fn adopt(
            &mut self,
            kept: KeptConn,
            descriptor: OwnedFd,
            memory: &mut dyn FnMut(RegionId) -> Option<Memory>,
        ) -> Result<ConnId, NotKept> {
            self.fabric.adopt(kept, descriptor, memory)
        }

        fn listener(&self, listener: ListenerId) -> Option<BorrowedFd<'_>> {
            self.fabric.listener(listener)
        }

        fn adopt_listener(&mut self, descriptor: OwnedFd) -> Result<ListenerId, FabricError> {
            self.fabric.adopt_listener(descriptor)
        }

        fn end_at_once(&mut self, conn: ConnId) {
            self.fabric.end_at_once(conn);
        }

        fn take_events(&mut self, events: &mut Vec<Event>) {
            self.fabric.take_events(events);
        }
    }
}
