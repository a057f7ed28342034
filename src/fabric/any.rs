//! [`AnyFabric`]: one of the fabrics that connect machines, whichever it is.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::iwarp::{self, Iwarp};
use super::verbs::{self, Verbs};
use super::{
    Access, ConnId, Event, Fabric, FabricError, ListenerId, LocalAddresses, Moved, ReadLimits,
    Region, RegionId, RemoteAddress, Sge, SharedEpoll, Waitable, WrId,
};
use crate::sys::Memory;
use crate::units::{Instant, RemoteToken};

/// The fabrics that connect machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FabricKind {
    /// iWARP in user space, on TCP sockets.
    Software,
    /// RDMA devices.
    Verbs,
}

impl FabricKind {
    /// As it is written: `software`, `verbs`.
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

/// Which fabric is asked for; `None`, written `auto`: that of an RDMA device where there is one, and else
/// software.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FabricChoice(pub Option<FabricKind>);

/// A text names no choice of a fabric.
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

/// One of the fabrics.
#[derive(Debug)]
pub enum AnyFabric {
    /// iWARP in user space.
    Software(Box<Iwarp>),
    /// RDMA devices.
    Verbs(Box<Verbs>),
}

impl From<Iwarp> for AnyFabric {
    fn from(fabric: Iwarp) -> Self {
        Self::Software(Box::new(fabric))
    }
}

impl From<Verbs> for AnyFabric {
    fn from(fabric: Verbs) -> Self {
        Self::Verbs(Box::new(fabric))
    }
}

impl AnyFabric {
    /// A fabric for connections to `address`, with limits as `config` has them; without a `kind`, that of
    /// an RDMA device if this side reaches `address` by one.
    ///
    /// # Errors
    ///
    /// RDMA devices are asked for and cannot be used.
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

    /// Connections, those among them that have ended here and not at their peers.
    #[must_use]
    pub fn connections(&self) -> usize {
        match self {
            Self::Software(fabric) => {
                let counts = fabric.counts();
                counts.connections + counts.lingering
            }
            Self::Verbs(fabric) => {
                let counts = fabric.counts();
                counts.connections + counts.lingering
            }
        }
    }

    /// Which it is.
    #[must_use]
    pub const fn kind(&self) -> FabricKind {
        match self {
            Self::Software(_) => FabricKind::Software,
            Self::Verbs(_) => FabricKind::Verbs,
        }
    }
}

fn kind_towards(address: SocketAddr) -> FabricKind {
    let source = verbs::source_for(address);
    let device = source.map(verbs::device_of);
    match device {
        Ok(Ok(Some(_))) => FabricKind::Verbs,
        // What is wrong then shows when software connects.
        _ => FabricKind::Software,
    }
}

/// The same expression on whichever it is.
macro_rules! on {
    ($self:expr, $fabric:ident => $call:expr) => {
        match $self {
            AnyFabric::Software($fabric) => $call,
            AnyFabric::Verbs($fabric) => $call,
        }
    };
}

impl Fabric for AnyFabric {
    fn listen(&mut self, address: SocketAddr) -> Result<ListenerId, FabricError> {
        on!(self, fabric => fabric.listen(address))
    }

    fn local_address(&self, listener: ListenerId) -> Option<SocketAddr> {
        on!(self, fabric => fabric.local_address(listener))
    }

    fn conn_local_address(&self, conn: ConnId) -> Option<SocketAddr> {
        on!(self, fabric => fabric.conn_local_address(conn))
    }

    fn regions_may_be_invalidated(&self, conn: ConnId) -> bool {
        on!(self, fabric => fabric.regions_may_be_invalidated(conn))
    }

    fn unlisten(&mut self, listener: ListenerId) {
        on!(self, fabric => fabric.unlisten(listener));
    }

    fn admit_at(&mut self, addresses: &Arc<LocalAddresses>) {
        on!(self, fabric => fabric.admit_at(addresses));
    }

    fn connect(&mut self, address: SocketAddr, limits: ReadLimits) -> Result<ConnId, FabricError> {
        on!(self, fabric => fabric.connect(address, limits))
    }

    fn accept(&mut self, conn: ConnId, limits: ReadLimits) -> Result<(), FabricError> {
        on!(self, fabric => fabric.accept(conn, limits))
    }

    fn reject(&mut self, conn: ConnId) {
        on!(self, fabric => fabric.reject(conn));
    }

    fn close(&mut self, conn: ConnId) {
        on!(self, fabric => fabric.close(conn));
    }

    fn register(
        &mut self,
        conn: ConnId,
        memory: &Memory,
        access: Access,
    ) -> Result<Region, FabricError> {
        on!(self, fabric => fabric.register(conn, memory, access))
    }

    fn deregister(&mut self, conn: ConnId, region: RegionId) -> Result<(), FabricError> {
        on!(self, fabric => fabric.deregister(conn, region))
    }

    #[inline]
    fn post_recv(&mut self, conn: ConnId, wr_id: WrId, memory: Sge) -> Result<(), FabricError> {
        on!(self, fabric => fabric.post_recv(conn, wr_id, memory))
    }

    #[inline]
    fn post_send(
        &mut self,
        conn: ConnId,
        wr_id: WrId,
        header: &[u8],
        payload: Option<Sge>,
        invalidate: Option<RemoteToken>,
    ) -> Result<(), FabricError> {
        on!(self, fabric => fabric.post_send(conn, wr_id, header, payload, invalidate))
    }

    #[inline]
    fn post_write(
        &mut self,
        conn: ConnId,
        wr_id: WrId,
        source: Sge,
        target: RemoteAddress,
    ) -> Result<(), FabricError> {
        on!(self, fabric => fabric.post_write(conn, wr_id, source, target))
    }

    #[inline]
    fn post_read(
        &mut self,
        conn: ConnId,
        wr_id: WrId,
        sink: Sge,
        source: RemoteAddress,
    ) -> Result<(), FabricError> {
        on!(self, fabric => fabric.post_read(conn, wr_id, sink, source))
    }

    fn moved(&self, conn: ConnId) -> Moved {
        on!(self, fabric => fabric.moved(conn))
    }

    fn poll(&mut self, now: Instant, events: &mut Vec<Event>) -> Result<(), FabricError> {
        on!(self, fabric => fabric.poll(now, events))
    }

    fn poll_timeout(&self) -> Option<Instant> {
        on!(self, fabric => fabric.poll_timeout())
    }
}

impl Waitable for AnyFabric {
    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        on!(self, fabric => fabric.event_fd())
    }
}

impl SharedEpoll for AnyFabric {
    fn registry(&self) -> &mio::Registry {
        on!(self, fabric => fabric.registry())
    }

    fn wait(&mut self, time: Option<Duration>) -> Result<(), FabricError> {
        on!(self, fabric => fabric.wait(time))
    }

    fn ready(&mut self, keys: &mut Vec<u64>) {
        on!(self, fabric => fabric.ready(keys));
    }
}
