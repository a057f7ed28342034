// SPDX-License-Identifier: GPL-2.0-or-later

//! What a bridge carried.

use serde::Serialize;

/// What a bridge did since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Statistics {
    /// Clients.
    pub connections: Connections,
    /// What was handed to the network for the server.
    pub to_server: Traffic,
    /// What the clients' sockets took.
    pub to_client: Traffic,
}

/// Clients, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Connections {
    /// Taken.
    pub accepted: u64,
    /// Turned away: there were `Config::max_connections` already.
    pub turned_away: u64,
    /// Those accepted that had an SMB Direct connection to the server.
    pub carried: u64,
    /// Those accepted that neither side closed in order.
    pub failed: u64,
}

/// Messages one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Messages that went whole.
    pub messages: u64,
    /// Their bytes, without headers.
    pub bytes: u64,
}

impl Traffic {
    pub(super) fn count(&mut self, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes as u64;
    }
}
