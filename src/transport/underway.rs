// SPDX-License-Identifier: GPL-2.0-or-later

//! What is under way on a connection, for a capture that begins in the middle of it.

use alloc::vec::Vec;

use super::{ConnStatus, MessageBuffers, Transport};
use crate::fabric::{ConnId, Fabric, RegionId, Sge, WrId};
use crate::sys::Memory;

/// What is under way on a connection.
#[derive(Debug)]
pub struct Underway {
    /// The connection.
    pub conn: ConnId,
    /// Its status.
    pub status: ConnStatus,
    /// The regions that this side has registered for its own work.
    pub regions: Vec<(RegionId, Memory)>,
    /// The receives that are posted.
    pub receives: Vec<(WrId, Sge)>,
    /// Number of RDMA READs that are posted.
    pub reads: usize,
    /// Whether the peer's negotiate message has arrived.
    pub has_heard: bool,
    /// Whether the next fragment from the peer continues a message.
    pub is_receiving: bool,
    /// Whether the next fragment to the peer may continue a message.
    pub is_sending: bool,
}

impl<F: Fabric, B: MessageBuffers> Transport<F, B> {
    /// Returns what is under way on a connection; `None` if there is no such connection, or it is ending.
    #[must_use]
    pub fn underway(&self, conn: ConnId) -> Option<Underway> {
        let connection = self.conns.get(conn)?;
        connection.underway(conn)
    }
}
