// SPDX-License-Identifier: GPL-2.0-or-later

//! Fabrics, which move bytes between two hosts, and into registered memory.
//!
//! A [`Fabric`] is what verbs calls a device with its connection manager, reduced to the things that SMB Direct needs:
//! reliable connections, SENDs into posted receives, RDMA READ and RDMA WRITE, and send-with-invalidate. Each posted
//! work request ends in exactly one completion; nothing here blocks. The fabric does not know SMB.
//!
//! | fabric | how it moves bytes |
//! |---|---|
//! | `loopback` | copying, inside one process |
//! | `iwarp` | MPA, DDP and RDMAP on a TCP socket, in user space |
//! | `verbs` | RDMA devices: InfiniBand, RoCE, iWARP NICs (through rdma-core, if it is installed) |
//! | `fault` | another fabric, with delays, cuts, failed completions and a capture file |
//!
//! Each of them passes the same conformance suite (`tests/conformance`), which defines the meaning of the trait.
//! `capture` shows the operations of any fabric as iWARP; `pcap` and `pcapng` write capture files of them, or of real
//! streams.

use crate::units::RemoteToken;

pub mod iwarp;

#[cfg(feature = "fabric")]
mod any;
#[cfg(feature = "fabric")]
pub(crate) mod capture;
#[cfg(feature = "fabric")]
pub mod fault;
#[cfg(feature = "fabric")]
mod forward;
#[cfg(feature = "broker")]
mod kept;
#[cfg(feature = "engine")]
mod local;
#[cfg(feature = "fabric")]
pub mod loopback;
#[cfg(feature = "fabric")]
pub mod pcap;
#[cfg(feature = "fabric")]
pub mod pcapng;
#[cfg(feature = "engine")]
mod pending;
#[cfg(feature = "fabric")]
mod readiness;
pub mod regions;
#[cfg(feature = "fabric")]
mod tokens;
#[cfg(feature = "engine")]
mod traits;
#[cfg(feature = "fabric")]
pub mod verbs;
#[cfg(feature = "fabric")]
mod wait;
#[cfg(feature = "engine")]
mod wc_status;
#[cfg(feature = "fabric")]
pub use any::{AnyFabric, FabricChoice, FabricKind, NoFabric, Reconfigure};
#[cfg(feature = "fabric")]
pub use forward::forward_fabric;
#[cfg(feature = "broker")]
pub use kept::{Keep, NotKept};
#[cfg(feature = "engine")]
pub use local::{LocalAddress, LocalAddresses};
#[cfg(feature = "engine")]
pub use pending::Source;
#[cfg(feature = "engine")]
pub(crate) use pending::{Limit, Limits, Sources};
#[cfg(feature = "fabric")]
pub use readiness::{Readiness, SharedEpoll, is_own, owner_token};
#[cfg(feature = "engine")]
pub use traits::*;
#[cfg(feature = "fabric")]
pub use wait::Waitable;
#[cfg(feature = "engine")]
pub use wc_status::{Outcome, WcStatus};

/// Maximum number of bytes that a SEND may carry before its payload.
pub const MAX_SEND_HEADER: usize = 32;

/// A memory region of one connection. Numbers are small and are reused after deregistration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub struct RegionId(pub u32);

/// A piece of local memory that an operation reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub struct Sge {
    /// The region, of the same connection, that holds the memory.
    pub region: RegionId,
    /// Offset from the start of the region, in bytes.
    pub offset: u32,
    /// Number of bytes; 0 is legal.
    pub length: u32,
}

/// The number that the owner of a work request gave it; its completion carries it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub struct WrId(pub u64);

/// The place in the peer's memory where an RDMA READ or RDMA WRITE begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub struct RemoteAddress {
    /// The peer's token (rkey, STag).
    pub token: RemoteToken,
    /// The address within the token's region: the `Offset` of a buffer descriptor, or the tagged offset of iWARP.
    pub address: u64,
}

/// What the peer may do with a region by RDMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub enum Access {
    /// The peer may do nothing: the region serves only local work requests, and is not a sink for RDMA READs.
    Local,
    /// The peer may not ask for anything. RDMA READs place their data in the region, and some devices (iWARP NICs) can
    /// do that only if the peer is allowed to write there: do not use this access for memory whose content must be safe
    /// from the peer.
    ReadSink,
    /// The peer may read the region by RDMA READ.
    RemoteRead,
    /// The peer may write the region by RDMA WRITE.
    RemoteWrite,
}

impl Access {
    /// Returns whether the peer may name the region.
    #[must_use]
    pub const fn is_remote(self) -> bool {
        matches!(self, Self::RemoteRead | Self::RemoteWrite)
    }
}

/// Why a work request did not succeed (compare `enum ibv_wc_status`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, thiserror::Error)]
#[strum(serialize_all = "snake_case")]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub enum WrError {
    /// The connection ended before the request was carried out.
    #[error("flushed: the connection ended first")]
    Flushed,
    /// The peer refused the access; the connection ends.
    #[error("the peer refused the remote access")]
    RemoteAccess,
    /// A message was larger than the receive posted for it; the connection ends.
    #[error("the message is larger than the posted receive")]
    LocalLength,
    /// A fault that was injected for a test.
    #[error("injected fault")]
    Injected,
}
