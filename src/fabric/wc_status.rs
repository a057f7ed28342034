// SPDX-License-Identifier: GPL-2.0-or-later

//! [`WcStatus`]: what an RDMA device reports about a work request that failed.

use core::fmt;

use super::{Cause, CauseKind, Causes, CloseReason};

/// Why an RDMA device did not carry out a work request (`enum ibv_wc_status`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WcStatus(pub u32);

impl WcStatus {
    /// The peer made an invalid request; no work request of this side failed.
    pub const INVALID_REQUEST: Self = Self(9);
    /// The queue pair failed, not a work request.
    pub const FATAL: Self = Self(19);

    /// A name for counters: lower case, words joined by `_`, stable.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            0 => "wc_success",
            1 => "wc_local_length",
            2 => "wc_local_qp_operation",
            4 => "wc_local_protection",
            5 => "wc_flushed",
            7 => "wc_bad_response",
            8 => "wc_local_access",
            9 => "wc_remote_invalid_request",
            10 => "wc_remote_access",
            11 => "wc_remote_operation",
            12 => "wc_retries_exceeded",
            13 => "wc_receiver_not_ready",
            15 => "wc_remote_invalid_read_request",
            16 => "wc_remote_abort",
            19 => "wc_fatal",
            20 => "wc_response_timeout",
            21 => "wc_general",
            _ => "wc_other",
        }
    }
}

impl fmt::Display for WcStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.0)
    }
}

impl From<WcStatus> for CloseReason {
    fn from(status: WcStatus) -> Self {
        Self::Provider(Cause::new(&WcStatuses, status.0))
    }
}

struct WcStatuses;

impl Causes for WcStatuses {
    fn name(&self, code: u32) -> &'static str {
        WcStatus(code).name()
    }

    fn kind(&self, _: u32) -> CauseKind {
        CauseKind::Device
    }

    fn describe(&self, code: u32, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = WcStatus(code);
        write!(f, "the RDMA device failed a work request: {status}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_a_reason_with_its_own_name_and_number() {
        let reason = CloseReason::from(WcStatus(21));
        assert_eq!(reason.name(), "wc_general");
        assert_eq!(
            reason.to_string(),
            "the RDMA device failed a work request: wc_general (21)"
        );
        assert!(!reason.is_remote_access() && !reason.is_receiver_not_ready());
        // These have the same name.
        assert_ne!(
            CloseReason::from(WcStatus(100)),
            CloseReason::from(WcStatus(101))
        );
    }
}
