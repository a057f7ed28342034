// SPDX-License-Identifier: GPL-2.0-or-later

//! Makes an [`IwarpError`] the reason for the end of a connection.

use core::fmt;
use core::mem::discriminant;

use strum::IntoEnumIterator;

use super::IwarpError;
use crate::fabric::{Cause, CauseKind, Causes, CloseReason};

struct IwarpErrors;

impl Causes for IwarpErrors {
    fn name(&self, code: u32) -> &'static str {
        decode(code).map_or("iwarp", IwarpError::name)
    }

    fn kind(&self, code: u32) -> CauseKind {
        match decode(code) {
            Some(error) if error.is_remote_access() => CauseKind::RemoteAccess,
            Some(IwarpError::DdpNoBuffer | IwarpError::DdpTooLong) => CauseKind::ReceiverNotReady,
            _ => CauseKind::Protocol,
        }
    }

    fn describe(&self, code: u32, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match decode(code) {
            Some(error) => write!(f, "iWARP: {error}"),
            None => write!(f, "iWARP: {code:#x}"),
        }
    }
}

impl From<IwarpError> for CloseReason {
    fn from(error: IwarpError) -> Self {
        Self::Provider(Cause::new(&IwarpErrors, encode(error)))
    }
}

impl IwarpError {
    /// Returns the error with which a connection ended, if it was an error of iWARP.
    #[must_use]
    pub fn of(reason: &CloseReason) -> Option<Self> {
        let CloseReason::Provider(cause) = reason else {
            return None;
        };
        // Another provider may have the same number, but not the same name.
        decode(cause.code()).filter(|error| error.name() == cause.name())
    }
}

/// Returns a number whose lowest byte is the index of the error in the list of all errors; the bytes above hold the
/// codes of the peer's Terminate.
fn encode(error: IwarpError) -> u32 {
    let place = IwarpError::iter().position(|other| discriminant(&other) == discriminant(&error));
    let said = match error {
        IwarpError::PeerTerminated { layer, etype, code } => [layer, etype, code],
        _ => [0; 3],
    };
    let [layer, etype, code] = said;
    u32::from_be_bytes([layer, etype, code, place.unwrap_or_default() as u8])
}

fn decode(number: u32) -> Option<IwarpError> {
    let [layer, etype, code, place] = number.to_be_bytes();
    Some(match IwarpError::iter().nth(place.into())? {
        IwarpError::PeerTerminated { .. } => IwarpError::PeerTerminated { layer, etype, code },
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::WcStatus;

    #[test]
    fn a_close_reason_gives_its_error_back_unchanged() {
        assert!(IwarpError::iter().count() <= 256);
        let terminated = IwarpError::PeerTerminated {
            layer: 1,
            etype: 2,
            code: 0xfe,
        };
        for error in IwarpError::iter().chain([terminated]) {
            let reason = CloseReason::from(error);
            assert_eq!(IwarpError::of(&reason), Some(error));
            assert_eq!(reason.name(), error.name());
            assert_eq!(reason.to_string(), format!("iWARP: {error}"));
            assert_eq!(reason.is_remote_access(), error.is_remote_access());
        }
    }

    #[test]
    fn errors_of_another_provider_are_not_those_of_iwarp() {
        let reason = CloseReason::from(WcStatus(3));
        assert_eq!(IwarpError::of(&reason), None);
        assert_ne!(reason, CloseReason::from(decode(3).unwrap()));
    }
}
