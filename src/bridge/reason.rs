// SPDX-License-Identifier: GPL-2.0-or-later

//! The reasons why a bridge ended a connection, or did not start.

use std::io;

use super::framing::MAX_MESSAGE;
use crate::fabric::FabricError;
use crate::proto::ConfigError;
use crate::transport::{self, ConnectError};

/// Why a connection ended: the first reason of either side.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("closed by the client")]
    Client,
    #[error("closed by the client in the middle of a message")]
    ClientMidMessage,
    #[error("the client's connection failed: {0}")]
    ClientFailed(io::Error),
    #[error("closed by the server")]
    Server,
    #[error("the connection to the server failed: {0}")]
    ServerFailed(transport::CloseReason),
    #[error("no connection to the server: {0}")]
    NotConnected(transport::CloseReason),
    #[error("no connection to the server: {0}")]
    CannotConnect(#[from] ConnectError),
    #[error("cannot carry a message: {0}")]
    Memory(#[from] FabricError),
    #[error("cannot carry a message: {0}")]
    Send(#[from] transport::SendError),
    #[error(
        "the client sent a message of {length} bytes, but the server takes at most {limit} (its \
         max_fragmented_size)"
    )]
    TooLong { length: u32, limit: u32 },
    #[error("client spoke SMB1; set 'client min protocol = SMB2'")]
    Smb1,
    #[error("the client does not speak SMB: {0:02x?} is not a message header")]
    NotSmb([u8; 4]),
    #[error("the client sent no message in time")]
    Silent,
    #[error("the client did not take what the server had sent before closing")]
    DoesNotRead,
    #[error("the bridge was stopped")]
    Stopped,
}

impl End {
    /// Returns whether connections end in this way when all is well.
    pub(super) const fn is_normal(&self) -> bool {
        matches!(self, Self::Client | Self::Server | Self::Stopped)
    }
}

/// Why a bridge did not start, or did not continue.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BridgeError {
    /// There is no address to listen on.
    #[error("there is no address to listen on")]
    NoListener,
    /// There is no address of the server.
    #[error("there is no address of the server")]
    NoTarget,
    /// A value of `Config::endpoint` is out of range.
    #[error(transparent)]
    Endpoint(#[from] ConfigError),
    /// `max_fragmented_size` exceeds [`MAX_MESSAGE`], the longest message that the framing of SMB over TCP can carry.
    #[error(
        "max_fragmented_size must be at most {MAX_MESSAGE} bytes, the most that SMB over TCP carries"
    )]
    MaxFragmentedSize,
    /// `max_connections` is 0.
    #[error("max_connections must be at least 1")]
    MaxConnections,
    /// The operating system refused.
    #[error("{context}: {source}")]
    Os {
        /// What was being done, and with what.
        context: String,
        /// The system's error.
        source: io::Error,
    },
    /// The fabric as a whole failed.
    #[error(transparent)]
    Fabric(#[from] FabricError),
}

/// Returns a function that makes an `Os` error, with what was being done.
pub(super) fn failed(context: impl Into<String>) -> impl FnOnce(io::Error) -> BridgeError {
    let context = context.into();
    |source| BridgeError::Os { context, source }
}
