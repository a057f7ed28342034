//! [`AnyFabric`]: one of the fabrics that connect machines, whichever it is.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::str::FromStr;

use super::iwarp::Iwarp;
#[cfg(feature = "verbs")]
use super::verbs::Verbs;
use super::{
    Access, ConnId, Event, Fabric, FabricError, ListenerId, ReadLimits, Region, RegionId,
    RemoteAddress, Sge, WrId,
};
use crate::sys::Memory;
use crate::units::{Instant, RemoteToken};

/// The fabrics that connect machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FabricKind {
    /// iWARP in user space, on TCP sockets.
    Software,
    /// RDMA devices. Known by name also to programs that were built without them.
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

/// A text names no fabric.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\": a fabric is \"software\" or \"verbs\"")]
pub struct NoFabric(String);

impl FromStr for FabricKind {
    type Err = NoFabric;

    fn from_str(text: &str) -> Result<Self, NoFabric> {
        let all = [Self::Software, Self::Verbs];
        let found = all.into_iter().find(|kind| kind.name() == text);
        found.ok_or_else(|| NoFabric(text.to_owned()))
    }
}

/// One of the fabrics.
#[derive(Debug)]
pub enum AnyFabric {
    /// iWARP in user space.
    Software(Box<Iwarp>),
    /// RDMA devices.
    #[cfg(feature = "verbs")]
    Verbs(Box<Verbs>),
}

impl From<Iwarp> for AnyFabric {
    fn from(fabric: Iwarp) -> Self {
        Self::Software(Box::new(fabric))
    }
}

#[cfg(feature = "verbs")]
impl From<Verbs> for AnyFabric {
    fn from(fabric: Verbs) -> Self {
        Self::Verbs(Box::new(fabric))
    }
}

/// The same expression on whichever it is.
macro_rules! on {
    ($self:expr, $fabric:ident => $call:expr) => {
        match $self {
            AnyFabric::Software($fabric) => $call,
            #[cfg(feature = "verbs")]
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

    fn poll(&mut self, now: Instant, events: &mut Vec<Event>) -> Result<(), FabricError> {
        on!(self, fabric => fabric.poll(now, events))
    }

    fn poll_timeout(&self) -> Option<Instant> {
        on!(self, fabric => fabric.poll_timeout())
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        on!(self, fabric => fabric.event_fd())
    }
}
