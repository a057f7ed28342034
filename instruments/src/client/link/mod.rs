// SPDX-License-Identifier: GPL-2.0-or-later

//! The transports of messages: TCP or SMB Direct.

mod smb_direct;
mod tcp;

use std::net::SocketAddr;
use std::time::Instant as Clock;

use super::{Error, Result};
use smbdirect::units::RemoteToken;

pub use smb_direct::Registration;
pub(super) use smb_direct::SmbDirect;
pub(super) use tcp::Tcp;

/// When a call gives up, and the error that it then returns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    pub(super) at: Clock,
    pub(super) after: std::time::Duration,
}

impl Deadline {
    pub(super) fn new(after: std::time::Duration) -> Self {
        Self {
            at: Clock::now() + after,
            after,
        }
    }

    pub(super) fn left(&self) -> std::time::Duration {
        self.at.saturating_duration_since(Clock::now())
    }

    pub(super) const fn error(&self, doing: &'static str) -> Error {
        Error::TimedOut(self.after, doing)
    }
}

/// A connection to a server, which carries whole messages.
#[derive(Debug)]
pub(super) enum Link {
    Tcp(Tcp),
    SmbDirect(Box<SmbDirect>),
}

impl Link {
    /// Sends one message, made up of `parts`.
    pub(super) fn send(&mut self, parts: &[&[u8]], deadline: Deadline) -> Result<()> {
        match self {
            Self::Tcp(tcp) => tcp.send(parts, deadline),
            Self::SmbDirect(link) => link.send(parts, deadline),
        }
    }

    /// Waits for the next message.
    pub(super) fn receive(&mut self, deadline: Deadline) -> Result<Vec<u8>> {
        match self {
            Self::Tcp(tcp) => tcp.receive(deadline),
            Self::SmbDirect(link) => link.receive(deadline),
        }
    }

    /// Gives back a message, so that its memory may be used again.
    pub(super) fn recycle(&mut self, message: Vec<u8>) {
        match self {
            Self::Tcp(tcp) => tcp.recycle(message),
            Self::SmbDirect(link) => link.recycle(message),
        }
    }

    /// The server's address.
    pub(super) const fn server(&self) -> SocketAddr {
        match self {
            Self::Tcp(tcp) => tcp.server(),
            Self::SmbDirect(link) => link.server(),
        }
    }

    /// The client's own address, if the socket belongs to the system.
    pub(super) fn client(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(tcp) => tcp.client(),
            Self::SmbDirect(_) => None,
        }
    }

    /// Returns the lengths of the longest message that can be sent and of the longest that can be received, in bytes.
    pub(super) fn message_limits(&self) -> (u32, u32) {
        match self {
            Self::Tcp(_) => (tcp::MAX_MESSAGE, tcp::MAX_MESSAGE),
            Self::SmbDirect(link) => link.message_limits(),
        }
    }

    pub(super) fn rdma(&mut self) -> Result<&mut SmbDirect> {
        match self {
            Self::SmbDirect(link) => Ok(link),
            Self::Tcp(_) => Err(Error::NoRdma),
        }
    }

    /// Returns whether the server has invalidated a token, and then forgets the token.
    pub(super) fn take_invalidated(&mut self, token: RemoteToken) -> bool {
        match self {
            Self::SmbDirect(link) => link.take_invalidated(token),
            Self::Tcp(_) => false,
        }
    }
}
