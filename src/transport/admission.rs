// SPDX-License-Identifier: GPL-2.0-or-later

//! Limits accepted connections that have not negotiated, which a peer can open without sending a byte of SMB Direct.

use core::net::SocketAddr;

use super::{CloseReason, Config};
use crate::fabric::{ConnId, Limit, Limits, Sources};

#[derive(Debug, Default)]
pub(super) struct Admission(Sources<ConnId>);

impl Admission {
    /// Counts a connection of `peer`; returns the connection that has to end to make room, if any, and why.
    pub(super) fn admit(
        &mut self,
        config: &Config,
        conn: ConnId,
        peer: SocketAddr,
    ) -> Option<(ConnId, CloseReason)> {
        let limits = Limits {
            total: config.max_unnegotiated,
            per_source: config.max_unnegotiated_per_source,
        };
        let (oldest, limit) = self.0.admit(conn, peer.into(), limits)?;
        let reason = match limit {
            Limit::Total => CloseReason::TooManyUnnegotiated,
            Limit::PerSource => CloseReason::TooManyUnnegotiatedOfSource,
        };
        Some((oldest, reason))
    }

    /// Stops counting a connection that has negotiated or ended.
    pub(super) fn release(&mut self, conn: ConnId) {
        self.0.remove(&conn);
    }
}
