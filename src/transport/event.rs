// SPDX-License-Identifier: GPL-2.0-or-later

//! What a transport reports: events, reasons, errors, and the status of a connection.

use alloc::boxed::Box;
use core::net::SocketAddr;
use core::ops::AddAssign;

use crate::fabric::{self, ConnId, FabricError, ListenerId, ReadLimits, WrError};
use crate::proto::{Negotiated, ProtocolError, State};
use crate::sys::OsError;
use crate::units::{Credits, Instant, RemoteToken};

/// Something that happened on a transport.
///
/// Each `send`, `write` and `read` that was taken ends in exactly one event, before
/// [`Event::Closed`] of its connection.
#[derive(Debug)]
pub enum Event<Buffer> {
    /// The negotiation is complete: messages go both ways. This is the first event of an accepted connection.
    Established {
        /// The connection.
        conn: ConnId,
        /// The listener that accepted the connection; `None` if `connect` began it.
        listener: Option<ListenerId>,
        /// The peer's address.
        peer: SocketAddr,
    },
    /// A message of the upper layer arrived.
    Message {
        /// The connection.
        conn: ConnId,
        /// The message; give it back with `Transport::recycle`.
        buffer: Buffer,
        /// Length of the message in bytes.
        length: u32,
    },
    /// The peer invalidated a token of memory registered here, and can no longer access that memory. The event comes
    /// before the message with which the peer invalidated the token; the region still has to be deregistered.
    Invalidated {
        /// The connection.
        conn: ConnId,
        /// The token that `register` returned.
        token: RemoteToken,
    },
    /// A message was sent, or will never be sent: its memory is free again.
    Sent {
        /// The connection.
        conn: ConnId,
        /// The cookie given to `send`.
        cookie: u64,
        /// Whether all of the message was handed to the network.
        result: Result<(), WrError>,
    },
    /// An RDMA WRITE ended: its memory is free again.
    Written {
        /// The connection.
        conn: ConnId,
        /// The cookie given to `write`.
        cookie: u64,
        /// The first error among its pieces.
        result: Result<(), WrError>,
    },
    /// An RDMA READ ended: the data has arrived, or the memory is free again.
    Read {
        /// The connection.
        conn: ConnId,
        /// The cookie given to `read`.
        cookie: u64,
        /// The first error among its pieces.
        result: Result<(), WrError>,
    },
    /// The connection has ended. This is sent exactly once for each connection that was established or that `connect`
    /// returned.
    Closed {
        /// The connection; its number means nothing afterwards.
        conn: ConnId,
        /// The reason.
        reason: CloseReason,
        /// The connection's traffic.
        traffic: Box<Traffic>,
    },
}

/// Why a connection ended, or did not begin.
#[derive(Clone, Debug, PartialEq, Eq, strum::IntoStaticStr, thiserror::Error)]
#[strum(serialize_all = "snake_case")]
pub enum CloseReason {
    /// The fabric's reason, which may be an orderly close by this side or the peer.
    #[error(transparent)]
    Fabric(fabric::CloseReason),
    /// The peer broke a rule of [MS-SMBD], or failed to act in time.
    #[error("SMB Direct: {0}")]
    Protocol(#[from] ProtocolError),
    /// The fabric refused a call of the transport: see [`CallFailed`].
    #[error("the fabric refused: {0}")]
    Call(#[from] CallFailed),
    /// `Transport::abort` was called.
    #[error("aborted by this side")]
    Aborted,
    /// `Transport::close` was called, but the queued messages were not sent in time.
    #[error("closed by this side before everything queued was sent: the peer took it too slowly")]
    CloseTimeout,
    /// [`super::Config::progress_timeout`] passed, and the peer's network took none of the data that was sent.
    #[error("for too long, the peer took none of the data that was sent to it")]
    NotTaken,
    /// [`super::Config::progress_timeout`] passed, and the peer answered none of the posted RDMA READs.
    #[error("for too long, the peer answered no RDMA READ")]
    ReadsNotAnswered,
    /// The negotiation failed and the peer was told so ([MS-SMBD] 3.1.5.2).
    #[error("the negotiation was refused")]
    NegotiationRefused,
    /// This machine no longer has the address at which the peer had connected.
    #[error("this machine no longer has the local address of the connection")]
    AddressGone,
    /// The connection was turned away because of `Config::max_connections`.
    #[error("too many connections (max_connections)")]
    TooManyConnections,
    /// The connection ended to make room for a newer one, because of `Config::max_unnegotiated`.
    #[error("too many connections that have not negotiated (max_unnegotiated)")]
    TooManyUnnegotiated,
    /// The connection ended to make room for a newer one, because of `Config::max_unnegotiated_per_source`.
    #[error(
        "too many connections from this source that have not negotiated (max_unnegotiated_per_source)"
    )]
    TooManyUnnegotiatedOfSource,
}

impl CloseReason {
    /// Returns a stable name for counters, in lower case, with words joined by `_`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Fabric(reason) => reason.name(),
            Self::Protocol(error) => error.name(),
            Self::Call(error) => error.name(),
            other => other.into(),
        }
    }
}

/// A [`FabricError`] that ended a connection, reduced to data that can be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, thiserror::Error)]
#[strum(serialize_all = "snake_case")]
pub enum CallFailed {
    /// [`FabricError::LocalProtection`]: memory was deregistered while work was queued on it.
    #[error("the memory does not lie in a registered region")]
    LocalProtection,
    /// [`FabricError::TooManyRegions`].
    #[error("too many memory regions")]
    TooManyRegions,
    /// [`FabricError::Os`], with an `errno` value. Registering memory fails in this way if the limit of locked memory
    /// is low.
    #[error("{}", OsError(*.0))]
    Os(i32),
    /// The connection was in the wrong state for the call: a bug in this crate.
    #[strum(serialize = "call_failed")]
    #[error("the connection was in the wrong state for the call")]
    Other,
}

impl CallFailed {
    /// Returns a stable name for counters, in lower case, with words joined by `_`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}

impl From<FabricError> for CallFailed {
    fn from(error: FabricError) -> Self {
        match error {
            FabricError::LocalProtection => Self::LocalProtection,
            FabricError::TooManyRegions => Self::TooManyRegions,
            FabricError::Os { source, .. } => Self::Os(source.0),
            _ => Self::Other,
        }
    }
}

/// Why `connect` failed. The call had no effect.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// There are already `Config::max_connections` connections.
    #[error("too many connections")]
    TooManyConnections,
    /// The fabric's error.
    #[error(transparent)]
    Fabric(#[from] FabricError),
}

/// Why `send`, `write` or `read` did not take the work. The call had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, thiserror::Error)]
#[strum(serialize_all = "snake_case")]
pub enum SendError {
    /// The connection does not exist, has not negotiated, or is closing.
    #[error("the connection is not established")]
    NotEstablished,
    /// `Config::send_queue` calls are queued. Try again after an event.
    #[error("the queue is full")]
    QueueFull,
    /// The transfer is larger than a message that the peer reassembles, or than an RDMA request may be.
    #[error("larger than the connection may carry")]
    TooLong,
    /// There is nothing to carry.
    #[error("empty")]
    Empty,
    /// The piece of memory does not lie in a region that `register` returned.
    #[error("the memory does not lie in a registered region")]
    LocalProtection,
    /// The peer does not serve RDMA READs ([`ReadLimits::initiator_depth`] is 0), so it has to send the data instead.
    #[error("the peer does not serve RDMA READs")]
    NoReads,
    /// The descriptors hold fewer bytes than the transfer.
    #[error("the buffer descriptors hold fewer bytes than the transfer")]
    DescriptorsTooShort,
    /// There are more than [`super::MAX_DESCRIPTORS`] descriptors.
    #[error("too many buffer descriptors")]
    TooManyDescriptors,
    /// A descriptor runs past the end of the address space.
    #[error("a buffer descriptor runs past the end of the address space")]
    DescriptorWraps,
}

impl SendError {
    /// Returns a stable name for counters, in lower case, with words joined by `_`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// The messages, operations and bytes that a connection carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub struct Traffic {
    /// Number of messages of the upper layer that arrived whole.
    pub messages_in: u64,
    /// Number of messages of the upper layer that were handed to the network whole.
    pub messages_out: u64,
    /// Bytes of upper-layer messages that arrived, headers not counted.
    pub inline_bytes_in: u64,
    /// Bytes of upper-layer messages that were handed to the network, headers not counted.
    pub inline_bytes_out: u64,
    /// Number of fragments that had to wait for a buffer of the owner.
    pub buffer_waits: u64,
    /// Number of RDMA READs of this side that fetched all of their data.
    pub rdma_reads: u64,
    /// Bytes that RDMA READs of this side fetched.
    pub rdma_read_bytes: u64,
    /// Number of RDMA WRITEs of this side that carried all of their data.
    pub rdma_writes: u64,
    /// Bytes that RDMA WRITEs of this side carried.
    pub rdma_write_bytes: u64,
    /// Number of tokens of the peer that messages of this side invalidated.
    pub invalidations_out: u64,
}

impl Traffic {
    /// Returns how many bytes came from the peer, in messages and by RDMA READs.
    #[must_use]
    pub const fn bytes_received(&self) -> u64 {
        self.inline_bytes_in.saturating_add(self.rdma_read_bytes)
    }

    /// Returns how many bytes went to the peer, in messages and by RDMA WRITEs.
    #[must_use]
    pub const fn bytes_sent(&self) -> u64 {
        self.inline_bytes_out.saturating_add(self.rdma_write_bytes)
    }
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        for (sum, number) in [
            (&mut self.messages_in, other.messages_in),
            (&mut self.messages_out, other.messages_out),
            (&mut self.inline_bytes_in, other.inline_bytes_in),
            (&mut self.inline_bytes_out, other.inline_bytes_out),
            (&mut self.buffer_waits, other.buffer_waits),
            (&mut self.rdma_reads, other.rdma_reads),
            (&mut self.rdma_read_bytes, other.rdma_read_bytes),
            (&mut self.rdma_writes, other.rdma_writes),
            (&mut self.rdma_write_bytes, other.rdma_write_bytes),
            (&mut self.invalidations_out, other.invalidations_out),
        ] {
            *sum = sum.saturating_add(number);
        }
    }
}

/// The status of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnStatus {
    /// The peer's address.
    pub peer: SocketAddr,
    /// The listener that accepted it; `None` if `connect` began it.
    pub listener: Option<ListenerId>,
    /// When the connection was accepted or begun.
    pub since: Instant,
    /// The state of the connection; `Closed` when only its [`Event::Closed`] is outstanding.
    pub state: State,
    /// Number of messages that this side may send now.
    pub send_credits: Credits,
    /// Number of messages that the peer may send now.
    pub receive_credits: Credits,
    /// Number of receives that are posted: those granted to the peer, and those that can be granted at once.
    pub receives_posted: u16,
    /// The values on which both sides agreed, once they have agreed.
    pub negotiated: Option<Negotiated>,
    /// Limits on RDMA READs under way, once the fabric's connection is up.
    pub limits: Option<ReadLimits>,
    /// Number of messages and RDMA WRITEs that are queued but not posted.
    pub queued: usize,
    /// Number of RDMA READs that are queued but not posted.
    pub queued_reads: usize,
    /// Number of received fragments that wait for a buffer of the owner.
    pub starved: usize,
    /// Whether a part of a message has arrived, and is in a buffer of the owner.
    pub assembling: bool,
    /// The connection's traffic.
    pub traffic: Traffic,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operating_systems_reason_is_not_lost() {
        let error = FabricError::Os {
            context: "register 8 MiB".to_owned(),
            source: OsError(12),
        };
        let reason = CloseReason::Call(error.into());
        assert_eq!(reason.name(), "os");
        assert!(reason.to_string().contains("os error 12"), "{reason}");
    }
}
