// SPDX-License-Identifier: GPL-2.0-or-later

//! The reasons why a connection ends, and why a message is not taken.
//!
//! A [`ProtocolError`] is always fatal to its connection and to nothing else; the rule that was broken is for counters
//! and logs, never for the peer.

use crate::wire::WireError;

/// Why the connection has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, thiserror::Error)]
#[strum(serialize_all = "snake_case")]
pub enum ProtocolError {
    /// A message breaks a rule that holds at any time ([MS-SMBD] 3.1.5.6 to 3.1.5.8).
    #[error("{0}")]
    Wire(#[from] WireError),
    /// The acceptor refused the negotiation with this NTSTATUS ([MS-SMBD] 3.1.5.7).
    #[error("the negotiation was refused with status {0:#010x}")]
    Refused(u32),
    /// A message came before this side had sent its own part of the negotiation: an acceptor spoke first, or an
    /// initiator did not wait for the response.
    #[error("a message came out of turn during the negotiation")]
    OutOfTurn,
    /// A message is longer than the maximum receive size that was agreed on.
    #[error("the message is longer than the agreed maximum")]
    MessageTooLong,
    /// The peer sent a message without holding a credit ([MS-SMBD] 3.1.5.1).
    #[error("the peer sent more messages than it was granted credits")]
    CreditsExceeded,
    /// The credits that the peer has granted add up to more than 65,535.
    #[error("the peer granted more credits than can be counted")]
    SendCreditsOverflow,
    /// `DataLength + RemainingDataLength` is larger than the longest message that this side reassembles ([MS-SMBD]
    /// 3.1.5.8).
    #[error("the upper-layer message is larger than the agreed maximum")]
    FragmentedSizeExceeded,
    /// `DataLength + RemainingDataLength` is not the number of bytes that the previous fragment left ([MS-SMBD]
    /// 3.1.5.8).
    #[error("a fragment does not continue the upper-layer message")]
    RemainingMismatch,
    /// The negotiation took too long ([MS-SMBD] 3.1.6).
    #[error("the negotiation was not complete in time")]
    NegotiationTimeout,
    /// The peer was silent for the idle time and did not answer when asked ([MS-SMBD] 3.1.6).
    #[error("the peer did not answer a keepalive")]
    KeepaliveTimeout,
    /// A message waited too long for send credits ([MS-SMBD] 3.1.6).
    #[error("the peer granted no credits in time")]
    CreditTimeout,
    /// The peer began a message and did not complete it in time. This is not a rule of [MS-SMBD].
    #[error("the peer began a message and did not complete it in time")]
    MessageTimeout,
}

impl ProtocolError {
    /// Returns a stable name for counters, in lower case, with words joined by `_`. For [`ProtocolError::Wire`], it is
    /// the name of the rule.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Wire(error) => error.name(),
            other => other.into(),
        }
    }
}

/// Why a message was not taken. The call had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, thiserror::Error)]
#[strum(serialize_all = "snake_case")]
pub enum SendError {
    /// The connection is not established, or is closing.
    #[error("the connection is not established")]
    NotEstablished,
    /// The previous message is still in progress.
    #[error("a message is in progress")]
    Busy,
    /// The message is larger than the longest that the peer reassembles.
    #[error("the message is larger than the peer reassembles")]
    TooLong,
    /// The message is empty, and cannot be sent.
    #[error("the message is empty")]
    Empty,
}

impl SendError {
    /// Returns a stable name for counters, in lower case, with words joined by `_`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_stable_names() {
        assert_eq!(ProtocolError::CreditsExceeded.name(), "credits_exceeded");
        assert_eq!(ProtocolError::Refused(1).name(), "refused");
        assert_eq!(ProtocolError::Wire(WireError::TooShort).name(), "too_short");
        assert_eq!(SendError::TooLong.name(), "too_long");
    }
}
