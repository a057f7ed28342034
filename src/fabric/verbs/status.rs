// SPDX-License-Identifier: GPL-2.0-or-later

//! Says how connections ended, in the terms of the trait.

use std::io;

use crate::fabric::CloseReason;

/// Returns why a connection was not established, or ended, from the status of an event of the connection manager.
pub(super) fn of_event(status: i32, otherwise: CloseReason) -> CloseReason {
    match status {
        // The transport's own reasons are positive.
        0.. => otherwise,
        errno => of_error(&io::Error::from_raw_os_error(errno.saturating_neg())),
    }
}

pub(super) fn of_error(error: &io::Error) -> CloseReason {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => CloseReason::Refused,
        Some(libc::ECONNRESET | libc::ECONNABORTED | libc::EPIPE) => CloseReason::Reset,
        Some(libc::ETIMEDOUT) => CloseReason::ConnectTimeout,
        Some(libc::ENODEV) => CloseReason::DeviceGone,
        code => CloseReason::Os(code.unwrap_or(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_without_an_errno_keeps_its_own_reason() {
        assert_eq!(of_event(28, CloseReason::Refused), CloseReason::Refused);
        assert_eq!(of_event(0, CloseReason::Peer), CloseReason::Peer);
        assert_eq!(of_event(-111, CloseReason::Reset), CloseReason::Refused);
        assert_eq!(of_event(-104, CloseReason::Peer), CloseReason::Reset);
        assert_eq!(
            of_event(i32::MIN, CloseReason::Peer),
            CloseReason::Os(i32::MAX)
        );
    }
}
