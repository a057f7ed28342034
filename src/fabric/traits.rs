// SPDX-License-Identifier: GPL-2.0-or-later

//! The [`Fabric`] trait, its events and its errors.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::net::SocketAddr;

use super::{Access, LocalAddresses, RegionId, RemoteAddress, Sge, WrError, WrId};
pub use crate::sys::Memory;
use crate::sys::OsError;
use crate::units::{Instant, RemoteToken};

slotmap::new_key_type! {
    /// A connection of one fabric. The key is never reused for another connection.
    pub struct ConnId;
    /// A listener of one fabric.
    pub struct ListenerId;
}

/// How many RDMA READs may be outstanding on one connection, as this side sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub struct ReadLimits {
    /// Number of the peer's RDMA READs that this side serves at a time (IRD; `responder_resources`).
    pub responder_resources: u16,
    /// Number of RDMA READs that this side has outstanding at a time (ORD; `initiator_depth`). Further READs may be
    /// posted; they wait in the fabric.
    pub initiator_depth: u16,
}

impl Default for ReadLimits {
    /// Returns 32 and 16: Linux and Windows clients offer at most 32.
    fn default() -> Self {
        Self {
            responder_resources: 32,
            initiator_depth: 16,
        }
    }
}

/// A registered region: its names for local work requests and for the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// The name for local work requests.
    pub id: RegionId,
    /// The name for the peer, which has no meaning with [`Access::Local`] and [`Access::ReadSink`].
    pub remote: RemoteAddress,
}

/// The kind of a completed work request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A posted receive: `length` bytes arrived, and the SEND may also have invalidated a local token.
    Recv {
        /// Length of the message in bytes.
        length: u32,
        /// The token of the region that the peer's send-with-invalidate revoked, if the device reports it. The region
        /// stays registered until it is deregistered, but on an iWARP device local work that uses it fails.
        invalidated: Option<RemoteToken>,
    },
    /// A SEND: its header and payload may be reused.
    Send,
    /// An RDMA WRITE: the local memory may be reused. The data has not necessarily arrived, but a SEND posted later
    /// arrives after it.
    Write,
    /// An RDMA READ: the data is in the local memory.
    Read,
}

/// When bytes of posted work last moved on a connection; [`Instant::ZERO`] if the fabric sees only completions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub struct Moved {
    /// SENDs and RDMA WRITEs: when the network last took bytes.
    pub sends: Instant,
    /// RDMA READs: when bytes last arrived.
    pub reads: Instant,
}

/// Something that happened on a fabric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A peer wants a connection: [`Fabric::accept`] or [`Fabric::reject`] it.
    ConnectRequest {
        /// The listener that received the request.
        listener: ListenerId,
        /// The new connection. Memory may be registered and receives posted before the connection is accepted.
        conn: ConnId,
        /// The peer's address.
        peer: SocketAddr,
    },
    /// The connection is up. This is sent once, before any completion of that connection.
    Established {
        /// The connection.
        conn: ConnId,
        /// The limits that both sides agreed on.
        limits: ReadLimits,
    },
    /// A work request ended. Completions of the same kind on a connection come in the order of
    /// posting.
    Completion {
        /// The connection.
        conn: ConnId,
        /// The number with which the work request was posted.
        wr_id: WrId,
        /// The kind of the work; if it failed, `Recv` has length 0.
        work: Work,
        /// Whether the work request succeeded. After the first failure, everything else is flushed.
        result: Result<(), WrError>,
    },
    /// The connection has ended, and all posted work has completed. This is sent exactly once for each connection that
    /// `connect` returned or `ConnectRequest` announced, unless it was rejected; its [`ConnId`] has no meaning
    /// afterwards.
    Closed {
        /// The connection.
        conn: ConnId,
        /// The first reason that arose on either side.
        reason: CloseReason,
    },
    /// A peer was turned away before it became a connection.
    Refused {
        /// The peer's address, or the listener's if the peer's is unknown.
        peer: SocketAddr,
        /// The reason.
        reason: CloseReason,
    },
}

/// The kind of a [`Cause`], for callers that have to react to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CauseKind {
    /// One side accessed the other side's memory without permission.
    RemoteAccess,
    /// No receive large enough was posted for a message.
    ReceiverNotReady,
    /// The peer broke a rule of the fabric's protocol, or reported that we did.
    Protocol,
    /// This side's device failed.
    Device,
}

/// The meaning of the codes of a [`Cause`]: each provider of connections has one such object.
pub trait Causes: Sync {
    /// Returns a stable name for counters, in lower case, with words joined by `_`. No other provider uses it.
    fn name(&self, code: u32) -> &'static str;

    /// Returns the kind of the cause.
    fn kind(&self, code: u32) -> CauseKind;

    /// Writes the cause as text for people.
    fn describe(&self, code: u32, f: &mut fmt::Formatter<'_>) -> fmt::Result;
}

/// Why a connection ended, in its provider's terms: a code and its meaning.
#[derive(Clone, Copy)]
pub struct Cause {
    causes: &'static dyn Causes,
    code: u32,
}

impl Cause {
    /// Makes the cause for which a provider's `code` stands.
    #[must_use]
    pub const fn new(causes: &'static dyn Causes, code: u32) -> Self {
        Self { causes, code }
    }

    /// Returns the provider's code for the cause.
    #[must_use]
    pub const fn code(self) -> u32 {
        self.code
    }

    /// Returns a stable name for counters, in lower case, with words joined by `_`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.causes.name(self.code)
    }

    /// Returns the kind of the cause.
    #[must_use]
    pub fn kind(self) -> CauseKind {
        self.causes.kind(self.code)
    }
}

impl PartialEq for Cause {
    fn eq(&self, other: &Self) -> bool {
        (self.code, self.name()) == (other.code, other.name())
    }
}

impl Eq for Cause {}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cause({}, {:#x})", self.name(), self.code)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.causes.describe(self.code, f)
    }
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq, strum::IntoStaticStr, thiserror::Error)]
#[strum(serialize_all = "snake_case")]
pub enum CloseReason {
    /// [`Fabric::close`] was called.
    #[error("closed by this side")]
    Local,
    /// The peer closed the connection in an orderly way.
    #[error("closed by the peer")]
    Peer,
    /// The peer or the network aborted the connection.
    #[error("connection reset")]
    Reset,
    /// Nothing listens on the peer's address, or the peer rejected the connection.
    #[error("connection refused")]
    Refused,
    /// The peer did not finish connecting in time.
    #[error("timed out while connecting")]
    ConnectTimeout,
    /// Too many connections, in total or from this source address, have not finished connecting.
    #[error("too many connections are not established yet")]
    TooManyPending,
    /// Peers may not connect to this address of this side ([`Fabric::admit_at`]).
    #[error("connections to this local address are not allowed")]
    AddressNotAllowed,
    /// The peer accessed memory without permission.
    #[error("remote access refused")]
    RemoteAccess,
    /// A message arrived for which no receive was posted, or only one that was too small.
    #[error("no receive was posted for a message, or the receive was too small")]
    ReceiverNotReady,
    /// Posted work used memory that this side has deregistered.
    #[error("memory that was in use was deregistered")]
    LocalProtection,
    /// The RDMA device was removed, or has failed as a whole.
    #[error("the RDMA device is gone")]
    DeviceGone,
    /// Any other reason for which the provider has a number.
    #[error("{0}")]
    Provider(Cause),
    /// A fault that was injected for a test.
    #[error("injected fault")]
    Injected,
    /// The operating system reported an error (an `errno` value).
    #[error("{}", OsError(*.0))]
    Os(i32),
}

impl CloseReason {
    /// Returns whether one side accessed the other side's memory without permission.
    #[must_use]
    pub fn is_remote_access(&self) -> bool {
        *self == Self::RemoteAccess || self.is_provided(CauseKind::RemoteAccess)
    }

    /// Returns whether no receive large enough was posted for a message.
    #[must_use]
    pub fn is_receiver_not_ready(&self) -> bool {
        *self == Self::ReceiverNotReady || self.is_provided(CauseKind::ReceiverNotReady)
    }

    fn is_provided(&self, kind: CauseKind) -> bool {
        matches!(self, Self::Provider(cause) if cause.kind() == kind)
    }

    /// Returns a stable name for counters, in lower case, with words joined by `_`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Provider(cause) => cause.name(),
            other => other.into(),
        }
    }
}

/// Why a call on a fabric failed. A call that fails changes nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FabricError {
    /// There is no such connection, or it is not in the state that the call needs.
    #[error("no such connection, or its state does not allow this call")]
    NotConnected,
    /// The queue is full. Post again after a completion.
    #[error("the queue is full")]
    QueueFull,
    /// The piece of memory does not lie in the region, or the region is not registered.
    #[error("the memory does not lie in a registered region")]
    LocalProtection,
    /// There are too many regions on the connection.
    #[error("too many memory regions")]
    TooManyRegions,
    /// The header is longer than [`super::MAX_SEND_HEADER`].
    #[error("the header of the SEND is too long")]
    HeaderTooLong,
    /// The operating system refused.
    #[error("cannot {context}: {source}")]
    Os {
        /// What was being done, and with what.
        context: String,
        /// The error that the system reported.
        source: OsError,
    },
    /// A library that the fabric needs is missing or has refused; the text says what cannot be done, and why.
    #[error("cannot {0}")]
    Library(String),
}

/// A provider of RDMA connections. See the [module](super) for its purpose.
///
/// Calls are of four kinds. *Connections*: `listen`, `connect`, `accept`, `reject`, `close`. *Memory*: `register`,
/// `deregister`. *Work*: `post_*`; each successful post ends in exactly one [`Event::Completion`], before
/// [`Event::Closed`]. *Progress*: `poll` does all the work that can be done without waiting and reports it, and
/// `poll_timeout` says when it must be called again at the latest. In a program, an owner that sleeps uses a fabric
/// that is `Waitable`, and waits for its `event_fd`.
///
/// Receives may be posted as soon as there is a connection, everything else once it is established. SENDs and RDMA
/// WRITEs are carried out in the order of posting, and so are RDMA READs among themselves; a READ that waits for its
/// turn does not hold up SENDs and WRITEs posted after it.
pub trait Fabric {
    /// Listens on `address`; port 0 selects a free port.
    fn listen(&mut self, address: SocketAddr) -> Result<ListenerId, FabricError>;

    /// Returns the address to which a listener is bound, with its real port.
    fn local_address(&self, listener: ListenerId) -> Option<SocketAddr>;

    /// Returns this side's address of a connection (the one to which the peer connected, if the connection is
    /// incoming); `None` if there is no such connection or the fabric does not know the address.
    fn conn_local_address(&self, conn: ConnId) -> Option<SocketAddr>;

    /// Returns whether the peer of a connection may invalidate regions of this side. If the peer may not, an attempt
    /// ends the connection, so an initiator does not ask for invalidation.
    fn regions_may_be_invalidated(&self, _conn: ConnId) -> bool {
        true
    }

    /// Ends a listener. Its connections continue; unanswered requests are rejected.
    fn unlisten(&mut self, listener: ListenerId);

    /// Lets peers connect only to these addresses of this side from now on, whatever listeners there are. Connections
    /// to other addresses are refused before any of their bytes are read ([`Event::Refused`]), and so are existing ones
    /// that were not announced yet; announced connections continue. Until the first call, all addresses are admitted.
    fn admit_at(&mut self, addresses: &Arc<LocalAddresses>);

    /// Begins a connection; [`Event::Established`] or [`Event::Closed`] follows. Memory may be
    /// registered and receives posted at once.
    fn connect(&mut self, address: SocketAddr, limits: ReadLimits) -> Result<ConnId, FabricError>;

    /// Accepts a requested connection; each limit is capped at the number that the peer allows.
    fn accept(&mut self, conn: ConnId, limits: ReadLimits) -> Result<(), FabricError>;

    /// Turns a requested connection away. No further event names it.
    fn reject(&mut self, conn: ConnId);

    /// Closes a connection in an orderly way: SENDs and RDMA WRITEs posted so far are still sent (for a bounded time),
    /// receives and RDMA READs are flushed, and [`Event::Closed`] follows. A second call has no effect.
    fn close(&mut self, conn: ConnId);

    /// Registers memory with a connection (each connection has a protection domain of its own). The memory stays alive
    /// until it is deregistered or the connection has ended.
    fn register(
        &mut self,
        conn: ConnId,
        memory: &Memory,
        access: Access,
    ) -> Result<Region, FabricError>;

    /// Ends a registration. Posted work that uses the region fails, as does the peer's access.
    fn deregister(&mut self, conn: ConnId, region: RegionId) -> Result<(), FabricError>;

    /// Posts memory for one incoming SEND. Receives are consumed in the order of posting.
    fn post_recv(&mut self, conn: ConnId, wr_id: WrId, memory: Sge) -> Result<(), FabricError>;

    /// Sends `header` (copied at once) and `payload` as one message, and asks the peer to invalidate `invalidate`, one
    /// of the peer's tokens.
    fn post_send(
        &mut self,
        conn: ConnId,
        wr_id: WrId,
        header: &[u8],
        payload: Option<Sge>,
        invalidate: Option<RemoteToken>,
    ) -> Result<(), FabricError>;

    /// Writes local memory to the peer's memory.
    fn post_write(
        &mut self,
        conn: ConnId,
        wr_id: WrId,
        source: Sge,
        target: RemoteAddress,
    ) -> Result<(), FabricError>;

    /// Reads the peer's memory into local memory, which should be registered with [`Access::ReadSink`] or
    /// [`Access::RemoteWrite`], because some devices require that. At most `initiator_depth` READs are outstanding; the
    /// others wait, in order.
    fn post_read(
        &mut self,
        conn: ConnId,
        wr_id: WrId,
        sink: Sge,
        source: RemoteAddress,
    ) -> Result<(), FabricError>;

    /// Returns when bytes of posted work last moved.
    fn moved(&self, _conn: ConnId) -> Moved {
        Moved::default()
    }

    /// Makes progress without waiting, and appends to `events` what happened.
    fn poll(&mut self, now: Instant, events: &mut Vec<Event>) -> Result<(), FabricError>;

    /// Returns the latest time at which `poll` must be called, even if nothing happens. `None`: call it only after an
    /// event. A time in the past: call it at once.
    fn poll_timeout(&self) -> Option<Instant>;
}

/// A fabric whose connections can move to another fabric of the same kind.
pub trait Movable: Fabric {
    /// A connection that is in neither of two fabrics.
    type Moving: fmt::Debug;

    /// Takes an established connection out. Its work stays posted, and what happens to the connection from now on is
    /// reported by the fabric that it is put into. `None`: there is no such connection.
    fn take(&mut self, conn: ConnId) -> Option<Self::Moving>;

    /// Puts in a connection that was taken out of another fabric. Returns its new number.
    fn put(&mut self, conn: Self::Moving) -> ConnId;
}
