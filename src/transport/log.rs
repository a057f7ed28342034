// SPDX-License-Identifier: GPL-2.0-or-later

//! Writes the lines of the [`journal`](super::journal) in builds that have a log; other builds have only its counters.

#[cfg(feature = "fabric")]
pub(super) use hosted::{ended, more_ended};
#[cfg(not(feature = "fabric"))]
pub(super) use silent::{ended, more_ended};

#[cfg(feature = "fabric")]
mod hosted {
    use core::net::SocketAddr;

    use crate::transport::CloseReason;

    pub(in crate::transport) fn ended(peer: SocketAddr, reason: &CloseReason) {
        tracing::info!(
            target: "smbdirect::transport::journal",
            %peer,
            reason = reason.name(),
            "SMB Direct connection ended: {reason}"
        );
    }

    pub(in crate::transport) fn more_ended(reason: &'static str, suppressed: u64) {
        tracing::info!(
            target: "smbdirect::transport::journal",
            reason,
            suppressed,
            "more SMB Direct connections ended"
        );
    }
}

#[cfg(not(feature = "fabric"))]
mod silent {
    use core::net::SocketAddr;

    use crate::transport::CloseReason;

    pub(in crate::transport) const fn ended(_: SocketAddr, _: &CloseReason) {}

    pub(in crate::transport) const fn more_ended(_: &'static str, _: u64) {}
}
