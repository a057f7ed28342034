// SPDX-License-Identifier: GPL-2.0-or-later

//! [`WcStatus`]: the report of an RDMA device about a work request, and its meaning for the connection.

use core::fmt;

use super::{Cause, CauseKind, Causes, CloseReason, Work, WrError};

const SUCCESS: u32 = 0;
const LOCAL_LENGTH: u32 = 1;
const LOCAL_QP_OPERATION: u32 = 2;
const LOCAL_PROTECTION: u32 = 4;
const FLUSHED: u32 = 5;
const LOCAL_ACCESS: u32 = 8;
const REMOTE_INVALID_REQUEST: u32 = 9;
const REMOTE_ACCESS: u32 = 10;
const RETRIES_EXCEEDED: u32 = 12;
const RECEIVER_NOT_READY: u32 = 13;
const RESPONSE_TIMEOUT: u32 = 20;

/// How a work request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The request was carried out.
    Success,
    /// Something else was the reason for the end of the connection.
    Flushed,
    /// The request is the reason for the end of the connection.
    Failed(WrError, CloseReason),
}

/// Why an RDMA device did not carry out a work request (`enum ibv_wc_status`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WcStatus(pub u32);

impl WcStatus {
    /// The peer made an invalid request; no work request of this side failed.
    pub const INVALID_REQUEST: Self = Self(9);
    /// The queue pair failed, not a work request.
    pub const FATAL: Self = Self(19);

    /// Returns what the status means for work of this kind.
    #[must_use]
    pub fn outcome(self, work: &Work) -> Outcome {
        let flushed = |reason| Outcome::Failed(WrError::Flushed, reason);
        match (self.0, work) {
            (SUCCESS, _) => Outcome::Success,
            (FLUSHED, _) => Outcome::Flushed,
            // Receives lie in registered memory, so either status can only mean that a message does not fit into its
            // receive. Which one it is depends on the provider.
            (LOCAL_LENGTH | LOCAL_QP_OPERATION, Work::Recv { .. }) => {
                Outcome::Failed(WrError::LocalLength, CloseReason::ReceiverNotReady)
            }
            (LOCAL_PROTECTION | LOCAL_ACCESS, _) => flushed(CloseReason::LocalProtection),
            // The peer's receive was too small, or the peer had none.
            (REMOTE_INVALID_REQUEST | RECEIVER_NOT_READY, Work::Send) => {
                flushed(CloseReason::ReceiverNotReady)
            }
            (REMOTE_ACCESS, Work::Send) => flushed(CloseReason::RemoteAccess),
            (REMOTE_ACCESS | REMOTE_INVALID_REQUEST, Work::Read | Work::Write) => {
                Outcome::Failed(WrError::RemoteAccess, CloseReason::RemoteAccess)
            }
            (RETRIES_EXCEEDED | RESPONSE_TIMEOUT, _) => flushed(CloseReason::Reset),
            (other, _) => flushed(Self(other).into()),
        }
    }

    /// Returns a stable name for counters, in lower case, with words joined by `_`.
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
    fn the_meaning_of_a_status_depends_on_the_kind_of_work() {
        let recv = Work::Recv {
            length: 0,
            invalidated: None,
        };
        assert_eq!(WcStatus(0).outcome(&Work::Read), Outcome::Success);
        assert_eq!(WcStatus(5).outcome(&recv), Outcome::Flushed);
        let too_long = Outcome::Failed(WrError::LocalLength, CloseReason::ReceiverNotReady);
        assert_eq!(WcStatus(1).outcome(&recv), too_long);
        let refused = Outcome::Failed(WrError::RemoteAccess, CloseReason::RemoteAccess);
        assert_eq!(WcStatus(10).outcome(&Work::Write), refused);
        assert_eq!(WcStatus(10).outcome(&Work::Read), refused);
        let not_ready = Outcome::Failed(WrError::Flushed, CloseReason::ReceiverNotReady);
        assert_eq!(WcStatus(13).outcome(&Work::Send), not_ready);
        assert_eq!(WcStatus(9).outcome(&Work::Send), not_ready);
        let reset = Outcome::Failed(WrError::Flushed, CloseReason::Reset);
        assert_eq!(WcStatus(12).outcome(&Work::Send), reset);
        let other = Outcome::Failed(WrError::Flushed, WcStatus(21).into());
        assert_eq!(WcStatus(21).outcome(&Work::Send), other);
    }

    #[test]
    fn a_status_is_a_reason_with_its_own_name_and_number() {
        let reason = CloseReason::from(WcStatus(21));
        assert_eq!(reason.name(), "wc_general");
        assert_eq!(
            reason.to_string(),
            "the RDMA device failed a work request: wc_general (21)"
        );
        assert!(!reason.is_remote_access() && !reason.is_receiver_not_ready());
        // These two statuses have the same name.
        assert_ne!(
            CloseReason::from(WcStatus(100)),
            CloseReason::from(WcStatus(101))
        );
    }
}
