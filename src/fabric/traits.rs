// SPDX-License-Identifier: GPL-2.0-or-later

//! The [`Fabric`] trait, its events and its errors.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::net::SocketAddr;

use super::{Access, LocalAddresses, RegionId, RemoteAddress, Sge, WrError, WrId};
use crate::sys::{Memory, OsError};
use crate::units::{Instant, RemoteToken};

slotmap::new_key_type! {
    /// A connection of one fabric. Never used again for another connection.
    pub struct ConnId;
    /// A listener of one fabric.
    pub struct ListenerId;
}

/// How many RDMA READs may be under way on one connection, seen from this side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadLimits {
    /// RDMA READs of the peer that this side serves at a time (IRD; `responder_resources`).
    pub responder_resources: u16,
    /// RDMA READs that this side has outstanding at a time (ORD; `initiator_depth`). More may be
    /// posted: they wait in the fabric.
    pub initiator_depth: u16,
}

impl Default for ReadLimits {
    /// 32 and 16: what Linux's and Windows' clients offer is at most 32.
    fn default() -> Self {
        Self {
            responder_resources: 32,
            initiator_depth: 16,
        }
    }
}

/// A region as registered: what local work requests and the peer call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// For local work requests.
    pub id: RegionId,
    /// For the peer; meaningless with [`Access::Local`] and [`Access::ReadSink`].
    pub remote: RemoteAddress,
}

/// What a completed work request was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A posted receive: `length` bytes arrived; the SEND also invalidated this local token.
    Recv {
        /// Bytes that the message has.
        length: u32,
        /// The region's token that the peer's send-with-invalidate revoked, where the device says it. The
        /// region stays known until it is deregistered; but on an iWARP device local work that uses it fails.
        invalidated: Option<RemoteToken>,
    },
    /// A SEND: header and payload may be used again.
    Send,
    /// An RDMA WRITE: the local memory may be used again. The data has not necessarily arrived,
    /// but a SEND posted later arrives after it.
    Write,
    /// An RDMA READ: the data is in the local memory.
    Read,
}

/// When bytes of posted work last moved on a connection, as far as a fabric sees more of that than
/// completions; [`Instant::ZERO`] where it does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Of SENDs and RDMA WRITEs: the network took them.
    pub sends: Instant,
    /// Of RDMA READs: they arrived.
    pub reads: Instant,
}

/// Something that happened on a fabric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A peer wants a connection: [`Fabric::accept`] or [`Fabric::reject`] it.
    ConnectRequest {
        /// Where it came in.
        listener: ListenerId,
        /// The new connection. Memory may be registered and receives posted before it is accepted.
        conn: ConnId,
        /// The peer's address.
        peer: SocketAddr,
    },
    /// The connection is up. Sent once, before any completion of that connection.
    Established {
        /// The connection.
        conn: ConnId,
        /// As both sides agreed.
        limits: ReadLimits,
    },
    /// A work request ended. Completions of the same kind on a connection come in the order of
    /// posting.
    Completion {
        /// The connection.
        conn: ConnId,
        /// As posted.
        wr_id: WrId,
        /// What it was; where it failed, `Recv` has length 0.
        work: Work,
        /// Whether it succeeded. After the first failure everything else is flushed.
        result: Result<(), WrError>,
    },
    /// The connection is gone, after the completion of everything that was posted. Sent exactly
    /// once for each connection that `connect` returned or `ConnectRequest` announced, unless it
    /// was rejected; its [`ConnId`] means nothing afterwards.
    Closed {
        /// The connection.
        conn: ConnId,
        /// Why: the first reason that either side had.
        reason: CloseReason,
    },
    /// A peer was turned away before it became a connection.
    Refused {
        /// The peer's address; the listener's where the peer's is not known.
        peer: SocketAddr,
        /// Why.
        reason: CloseReason,
    },
}

/// What a [`Cause`] is about, for those who have to react to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CauseKind {
    /// One side accessed memory of the other that it may not.
    RemoteAccess,
    /// A message found no receive that was posted and large enough.
    ReceiverNotReady,
    /// The peer broke a rule of the fabric's protocol, or reported that we did.
    Protocol,
    /// This side's device failed.
    Device,
}

/// What the codes of a [`Cause`] mean: one such object for each provider of connections.
pub trait Causes: Sync {
    /// A name for counters: lower case, words joined by `_`, stable. No other provider has it.
    fn name(&self, code: u32) -> &'static str;

    /// What it is about.
    fn kind(&self, code: u32) -> CauseKind;

    /// Says it to people.
    fn describe(&self, code: u32, f: &mut fmt::Formatter<'_>) -> fmt::Result;
}

/// Why a connection ended, as its provider calls it: a code, and what it means.
#[derive(Clone, Copy)]
pub struct Cause {
    causes: &'static dyn Causes,
    code: u32,
}

impl Cause {
    /// A code of a provider.
    #[must_use]
    pub const fn new(causes: &'static dyn Causes, code: u32) -> Self {
        Self { causes, code }
    }

    /// The provider's number for it.
    #[must_use]
    pub const fn code(self) -> u32 {
        self.code
    }

    /// A name for counters: lower case, words joined by `_`, stable.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.causes.name(self.code)
    }

    /// What it is about.
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
    /// The peer closed in order.
    #[error("closed by the peer")]
    Peer,
    /// The peer, or the network, broke the connection off.
    #[error("connection reset")]
    Reset,
    /// Nobody listens there, or the peer rejected the connection.
    #[error("connection refused")]
    Refused,
    /// The peer did not finish connecting in time.
    #[error("timed out while connecting")]
    ConnectTimeout,
    /// Too many connections, or too many of this source address, have not finished connecting.
    #[error("too many connections are not established yet")]
    TooManyPending,
    /// Peers may not connect at this address of this side ([`Fabric::admit_at`]).
    #[error("connections to this local address are not allowed")]
    AddressNotAllowed,
    /// The peer accessed memory that it may not.
    #[error("remote access refused")]
    RemoteAccess,
    /// A message arrived and no receive was posted, or one too small.
    #[error("no receive was posted for a message, or the receive was too small")]
    ReceiverNotReady,
    /// Posted work used memory whose registration this side has ended.
    #[error("memory that was in use was deregistered")]
    LocalProtection,
    /// The RDMA device was removed, or has failed as a whole.
    #[error("the RDMA device is gone")]
    DeviceGone,
    /// Anything else that the provider has a number for.
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
    /// Whether one side accessed memory of the other that it may not.
    #[must_use]
    pub fn is_remote_access(&self) -> bool {
        *self == Self::RemoteAccess || self.is_provided(CauseKind::RemoteAccess)
    }

    /// Whether a message found no receive that was posted and large enough.
    #[must_use]
    pub fn is_receiver_not_ready(&self) -> bool {
        *self == Self::ReceiverNotReady || self.is_provided(CauseKind::ReceiverNotReady)
    }

    fn is_provided(&self, kind: CauseKind) -> bool {
        matches!(self, Self::Provider(cause) if cause.kind() == kind)
    }

    /// A name for counters: lower case, words joined by `_`, stable.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Provider(cause) => cause.name(),
            other => other.into(),
        }
    }
}

/// Why a call on a fabric failed. Nothing happened then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FabricError {
    /// The connection is not one, or is not in the state that the call needs.
    #[error("no such connection, or its state does not allow this call")]
    NotConnected,
    /// The queue is full: post again after a completion.
    #[error("the queue is full")]
    QueueFull,
    /// The piece of memory does not lie in the region, or the region is not registered.
    #[error("the memory does not lie in a registered region")]
    LocalProtection,
    /// Too many regions on the connection.
    #[error("too many memory regions")]
    TooManyRegions,
    /// The header is longer than [`super::MAX_SEND_HEADER`].
    #[error("the header of the SEND is too long")]
    HeaderTooLong,
    /// The operating system refused.
    #[error("cannot {context}: {source}")]
    Os {
        /// What was being done, and to what.
        context: String,
        /// As reported.
        source: OsError,
    },
    /// A library that it needs refused, or is not there: what cannot be done, and why.
    #[error("cannot {0}")]
    Library(String),
}

/// A provider of RDMA connections. See the [module](super) for what it is.
///
/// Calls are of four kinds. *Connections*: `listen`, `connect`, `accept`, `reject`, `close`.
/// *Memory*: `register`, `deregister`. *Work*: `post_*`; each successful post ends in exactly one
/// [`Event::Completion`], before [`Event::Closed`]. *Progress*: `poll` does whatever can be done
/// without waiting and reports it, and `poll_timeout` says when it has to be called at the latest. In a
/// program, an owner that sleeps has a fabric that is `Waitable` and waits for its `event_fd`.
///
/// Receives may be posted as soon as there is a connection, everything else once it is established.
/// Posted SENDs and RDMA WRITEs are carried out in the order of posting, RDMA READs in theirs; a
/// READ that waits for its turn does not hold up SENDs and WRITEs posted after it.
pub trait Fabric {
    /// Accepts connections at `address`; port 0 takes a free one.
    fn listen(&mut self, address: SocketAddr) -> Result<ListenerId, FabricError>;

    /// The address a listener is bound to, with its real port.
    fn local_address(&self, listener: ListenerId) -> Option<SocketAddr>;

    /// This side's address of a connection, at which the peer reached it; `None` where there is no
    /// such connection or the fabric does not know.
    fn conn_local_address(&self, conn: ConnId) -> Option<SocketAddr>;

    /// Whether the peer of a connection may invalidate regions of this side. Where it may not, an
    /// attempt ends the connection: an initiator does not ask for it then.
    fn regions_may_be_invalidated(&self, _conn: ConnId) -> bool {
        true
    }

    /// Ends a listener. Its connections live on; unanswered requests are rejected.
    fn unlisten(&mut self, listener: ListenerId);

    /// From now on, peers may connect at these addresses of this side only, whatever listeners there are.
    /// Others are refused before anything of theirs is read ([`Event::Refused`]), as are those that were
    /// not announced yet; announced connections live on. Without a call, all addresses are admitted.
    fn admit_at(&mut self, addresses: &Arc<LocalAddresses>);

    /// Begins a connection; [`Event::Established`] or [`Event::Closed`] follows. Memory may be
    /// registered and receives posted at once.
    fn connect(&mut self, address: SocketAddr, limits: ReadLimits) -> Result<ConnId, FabricError>;

    /// Accepts a requested connection; each limit becomes at most what the peer allows.
    fn accept(&mut self, conn: ConnId, limits: ReadLimits) -> Result<(), FabricError>;

    /// Turns a requested connection away. No further event names it.
    fn reject(&mut self, conn: ConnId);

    /// Ends a connection in order: SENDs and RDMA WRITEs posted so far still go out (for a bounded
    /// time), receives and RDMA READs are flushed, [`Event::Closed`] follows. Again: no effect.
    fn close(&mut self, conn: ConnId);

    /// Registers memory with a connection (each connection has a protection domain of its own).
    /// The memory stays alive until it is deregistered or the connection is gone.
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

    /// Sends `header` (copied at once) and `payload` as one message, and has the peer invalidate
    /// `invalidate`, a token of its own.
    fn post_send(
        &mut self,
        conn: ConnId,
        wr_id: WrId,
        header: &[u8],
        payload: Option<Sge>,
        invalidate: Option<RemoteToken>,
    ) -> Result<(), FabricError>;

    /// Writes local memory to the peer's.
    fn post_write(
        &mut self,
        conn: ConnId,
        wr_id: WrId,
        source: Sge,
        target: RemoteAddress,
    ) -> Result<(), FabricError>;

    /// Reads the peer's memory into local memory, which is registered with [`Access::ReadSink`] or
    /// [`Access::RemoteWrite`]: some devices can do without that, and some cannot. At most `initiator_depth` are under way; more
    /// wait in order.
    fn post_read(
        &mut self,
        conn: ConnId,
        wr_id: WrId,
        sink: Sge,
        source: RemoteAddress,
    ) -> Result<(), FabricError>;

    /// When bytes of what was posted last moved.
    fn moved(&self, _conn: ConnId) -> Moved {
        Moved::default()
    }

    /// Makes progress without waiting and appends what happened to `events`.
    fn poll(&mut self, now: Instant, events: &mut Vec<Event>) -> Result<(), FabricError>;

    /// When `poll` must be called at the latest, whatever happens; `None`: only after an event.
    /// A moment that has passed means at once.
    fn poll_timeout(&self) -> Option<Instant>;
}
