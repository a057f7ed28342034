// SPDX-License-Identifier: GPL-2.0-or-later

//! Statistics of what a bridge carried.

use serde::Serialize;

/// What a bridge has done since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Statistics {
    /// Numbers of clients.
    pub connections: Connections,
    /// The traffic that was handed to the network for the server.
    pub to_server: Traffic,
    /// The traffic that the clients' sockets took.
    pub to_client: Traffic,
}

/// Numbers of clients, by how their connections went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Connections {
    /// Clients that were accepted.
    pub accepted: u64,
    /// Clients that were turned away, because there were already `Config::max_connections`.
    pub turned_away: u64,
    /// Accepted clients that had an SMB Direct connection to the server.
    pub carried: u64,
    /// Accepted clients whose connection neither side closed gracefully.
    pub failed: u64,
}

/// The messages in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Number of messages that were carried whole.
    pub messages: u64,
    /// Number of their bytes, without headers.
    pub bytes: u64,
}

impl Traffic {
    pub(super) fn count(&mut self, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes as u64;
    }
}
