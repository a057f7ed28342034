// SPDX-License-Identifier: GPL-2.0-or-later

//! Captures of connections, for administrators.
//!
//! ```text
//!   smbdirectctl --CaptureRequest--> control thread --Order--> each reactor
//!        ^                                                        |  its Tap sees posts and completions
//!        '------------- one socket: blocks of pcapng ------- Outbox of each Tap
//! ```
//!
//! Each reactor has a [`Tap`] around its fabric, which shows the operations of any fabric as iWARP. A tap that captures
//! nothing costs one branch for each operation. The blocks go through a socket, whose other end the capturing process
//! has. No reactor waits for that process: blocks for which there is no room are dropped and counted (`Outbox`).
//!
//! A capture ends when the process detaches, or when its only connection ends. Each reactor that took part then sends
//! the statistics of its interface as its last block.

mod conceal;
mod outbox;
mod tap;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

pub(super) use self::tap::Tap;
use crate::sys::SeqSocket;

/// The connections to capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// The client's address; IPv4 is not mapped into IPv6.
    pub(super) address: IpAddr,
    /// The port of the client's only connection to capture; `None` stands for all its connections, now and later.
    pub(super) port: Option<u16>,
}

impl Target {
    /// Returns whether connections of this peer are captured.
    pub(super) fn admits(&self, peer: SocketAddr) -> bool {
        let of_port = self.port.is_none_or(|port| port == peer.port());
        of_port && peer.ip().to_canonical() == self.address
    }
}

/// A capture that all reactors have to begin.
#[derive(Clone, Debug)]
pub(super) struct Order {
    /// The number of the process that asked for the capture.
    pub(super) process: u32,
    pub(super) target: Target,
    /// Number of bytes to capture of what RDMA moves for each request, and of the file data in each message.
    pub(super) shown: u32,
    /// The time since 1970 at the broker's start.
    pub(super) epoch: Duration,
    /// The socket to the process. The process sees the end of the capture when all copies are closed.
    pub(super) socket: Arc<SeqSocket>,
}
