// SPDX-License-Identifier: GPL-2.0-or-later

//! How work and connections ended, in the words of the trait.

use std::io;

use crate::fabric::{CloseReason, WcStatus, Work, WrError};

/// `enum ibv_wc_status`.
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
pub(super) enum Outcome {
    Success,
    /// Something else was the reason for the end of its connection.
    Flushed,
    /// It is the reason for the end of its connection.
    Failed(WrError, CloseReason),
}

/// What a status means for work of this kind.
pub(super) fn of_work(work: &Work, status: u32) -> Outcome {
    let flushed = |reason| Outcome::Failed(WrError::Flushed, reason);
    match (status, work) {
        (SUCCESS, _) => Outcome::Success,
        (FLUSHED, _) => Outcome::Flushed,
        // Receives lie in registered memory, so this can only mean that a message does not fit: rxe reports it so.
        (LOCAL_LENGTH | LOCAL_QP_OPERATION, Work::Recv { .. }) => {
            Outcome::Failed(WrError::LocalLength, CloseReason::ReceiverNotReady)
        }
        (LOCAL_PROTECTION | LOCAL_ACCESS, _) => flushed(CloseReason::LocalProtection),
        // The peer's receive was too small, or it had none.
        (REMOTE_INVALID_REQUEST | RECEIVER_NOT_READY, Work::Send) => {
            flushed(CloseReason::ReceiverNotReady)
        }
        (REMOTE_ACCESS, Work::Send) => flushed(CloseReason::RemoteAccess),
        (REMOTE_ACCESS | REMOTE_INVALID_REQUEST, Work::Read | Work::Write) => {
            Outcome::Failed(WrError::RemoteAccess, CloseReason::RemoteAccess)
        }
        (RETRIES_EXCEEDED | RESPONSE_TIMEOUT, _) => flushed(CloseReason::Reset),
        (other, _) => flushed(WcStatus(other).into()),
    }
}

/// Why a connection was not established, or ended, by the status of an event of the connection manager.
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
    fn a_status_means_what_the_work_was() {
        let recv = Work::Recv {
            length: 0,
            invalidated: None,
        };
        assert_eq!(of_work(&Work::Read, 0), Outcome::Success);
        assert_eq!(of_work(&recv, 5), Outcome::Flushed);
        let too_long = Outcome::Failed(WrError::LocalLength, CloseReason::ReceiverNotReady);
        assert_eq!(of_work(&recv, 1), too_long);
        let refused = Outcome::Failed(WrError::RemoteAccess, CloseReason::RemoteAccess);
        assert_eq!(of_work(&Work::Write, 10), refused);
        assert_eq!(of_work(&Work::Read, 10), refused);
        let not_ready = Outcome::Failed(WrError::Flushed, CloseReason::ReceiverNotReady);
        assert_eq!(of_work(&Work::Send, 13), not_ready);
        assert_eq!(of_work(&Work::Send, 9), not_ready);
        let reset = Outcome::Failed(WrError::Flushed, CloseReason::Reset);
        assert_eq!(of_work(&Work::Send, 12), reset);
        let other = Outcome::Failed(WrError::Flushed, WcStatus(21).into());
        assert_eq!(of_work(&Work::Send, 21), other);
    }

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
