// SPDX-License-Identifier: GPL-2.0-or-later

//! The values with which each side negotiates, and the results of the negotiation.
//!
//! The values are here, and not in the transport, because the protocol defines the minimum values and the timers
//! ([MS-SMBD] 3.1.1, 3.1.2, 3.1.3), and because an endpoint must never put one of its own values on the wire that its
//! peer has to refuse.

use core::time::Duration;

use super::credits::MIN_RECEIVES;
use crate::units::Credits;
use crate::wire::{MIN_MAX_FRAGMENTED_SIZE, MIN_MAX_RECEIVE_SIZE};

/// Number of bytes that a receive for a negotiate message must hold. The messages have 20 and 32 bytes; some peers pad
/// them to 512.
pub const NEGOTIATE_RECEIVE_SIZE: u32 = 512;

/// The slowest network, in bytes per second, on which a long message arrives in time: a message gets one second for
/// each `SLOWEST_RATE` bytes, in addition to [`Config::message_timeout`].
pub const SLOWEST_RATE: u32 = 64 << 10;

/// The values with which one side negotiates ([MS-SMBD] 3.1.1.1).
///
/// [`Config::validate`] names the first value that is out of range; an endpoint made from such a
/// configuration uses the nearest legal value instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub struct Config {
    /// Maximum number of receives that this side posts, and so of credits that the peer can hold: 1 to 65,535. Less
    /// than 4 counts as 4: with very few receives, two peers can starve each other (see [the module](super) on
    /// credits).
    pub receive_credit_max: Credits,
    /// Number of credits that this side asks the peer for: 1 to 65,535. Beyond 255, a packet analyser may no longer
    /// recognise the protocol.
    pub send_credit_target: Credits,
    /// Length of the largest message that this side sends, header included, in bytes: at least 128.
    pub max_send_size: u32,
    /// Length of the largest message that this side receives, header included, in bytes: at least 128.
    pub max_receive_size: u32,
    /// Length of the largest upper-layer message that this side reassembles, in bytes: at least 131,072.
    pub max_fragmented_size: u32,
    /// Length of the largest transfer of one RDMA READ or WRITE request, in bytes: not 0.
    pub max_read_write_size: u32,
    /// Time for the negotiation. [MS-SMBD] has 5 s for an acceptor and 120 s for an initiator.
    pub negotiation_timeout: Duration,
    /// Time without a message from the peer after which this side asks for one.
    pub idle_timeout: Duration,
    /// Time within which the peer must send a message once it has been asked, unless it cannot because this side lacks
    /// receives.
    pub keepalive_timeout: Duration,
    /// Time that a message may wait for send credits.
    pub credit_timeout: Duration,
    /// Time within which the peer must send all fragments of a message, counted from the first, plus one second for
    /// each [`SLOWEST_RATE`] bytes of the message. The time does not run while the peer cannot send because this side
    /// lacks receives. This is not a rule of [MS-SMBD].
    pub message_timeout: Duration,
}

impl Default for Config {
    /// Returns an acceptor's values: 255 credits each way, messages of 1,364 bytes, 1 MiB reassembled, 8 MiB moved by
    /// RDMA, 5 s to negotiate, 120 s idle, 5 s to answer, 120 s to grant credits, and 30 s to complete a message.
    fn default() -> Self {
        Self {
            receive_credit_max: Credits(255),
            send_credit_target: Credits(255),
            max_send_size: 1364,
            max_receive_size: 1364,
            max_fragmented_size: 1 << 20,
            max_read_write_size: 8 << 20,
            negotiation_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(120),
            keepalive_timeout: Duration::from_secs(5),
            credit_timeout: Duration::from_secs(120),
            message_timeout: Duration::from_secs(30),
        }
    }
}

impl Config {
    /// Returns the default of an initiator: [`Config::default`], with 120 s to negotiate and to complete a message.
    #[must_use]
    pub fn initiator_default() -> Self {
        Self {
            negotiation_timeout: Duration::from_secs(120),
            message_timeout: Duration::from_secs(120),
            ..Self::default()
        }
    }

    /// Checks all values, and names the first one, in the order of the fields, that is out of range.
    ///
    /// # Errors
    ///
    /// Every variant of [`ConfigError`].
    pub fn validate(&self) -> Result<(), ConfigError> {
        let rules = [
            (
                self.receive_credit_max > Credits::ZERO,
                ConfigError::ReceiveCreditMax,
            ),
            (
                self.send_credit_target > Credits::ZERO,
                ConfigError::SendCreditTarget,
            ),
            (
                self.max_send_size >= MIN_MAX_RECEIVE_SIZE,
                ConfigError::MaxSendSize,
            ),
            (
                self.max_receive_size >= MIN_MAX_RECEIVE_SIZE,
                ConfigError::MaxReceiveSize,
            ),
            (
                self.max_fragmented_size >= MIN_MAX_FRAGMENTED_SIZE,
                ConfigError::MaxFragmentedSize,
            ),
            (self.max_read_write_size > 0, ConfigError::MaxReadWriteSize),
            (
                !self.negotiation_timeout.is_zero(),
                ConfigError::NegotiationTimeout,
            ),
            (!self.idle_timeout.is_zero(), ConfigError::IdleTimeout),
            (
                !self.keepalive_timeout.is_zero(),
                ConfigError::KeepaliveTimeout,
            ),
            (!self.credit_timeout.is_zero(), ConfigError::CreditTimeout),
            (!self.message_timeout.is_zero(), ConfigError::MessageTimeout),
        ];
        rules
            .into_iter()
            .try_for_each(|(kept, error)| if kept { Ok(()) } else { Err(error) })
    }

    /// Returns the time within which the peer must send all fragments of a message of `length` bytes.
    pub(super) fn message_time(&self, length: u32) -> Duration {
        let longer = Duration::from_secs(u64::from(length / SLOWEST_RATE));
        self.message_timeout.saturating_add(longer)
    }

    /// Returns the same configuration with every value raised to its legal minimum, so that the arithmetic below does
    /// not need checks, and no timer is due at the moment at which it starts.
    pub(super) fn raised(self) -> Self {
        let least = Duration::from_nanos(1);
        Self {
            receive_credit_max: self.receive_credit_max.max(Credits(MIN_RECEIVES)),
            send_credit_target: self.send_credit_target.max(Credits(1)),
            max_send_size: self.max_send_size.max(MIN_MAX_RECEIVE_SIZE),
            max_receive_size: self.max_receive_size.max(MIN_MAX_RECEIVE_SIZE),
            max_fragmented_size: self.max_fragmented_size.max(MIN_MAX_FRAGMENTED_SIZE),
            max_read_write_size: self.max_read_write_size.max(1),
            negotiation_timeout: self.negotiation_timeout.max(least),
            idle_timeout: self.idle_timeout.max(least),
            keepalive_timeout: self.keepalive_timeout.max(least),
            credit_timeout: self.credit_timeout.max(least),
            message_timeout: self.message_timeout.max(least),
        }
    }
}

/// The values on which both sides agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub struct Negotiated {
    /// Length of the largest message to send, header included, in bytes: at least 128.
    pub max_send_size: u32,
    /// Length of the largest message to receive, header included, in bytes: at least 128.
    pub max_receive_size: u32,
    /// Length of the largest upper-layer message to send, in bytes: at least 131,072.
    pub max_fragmented_send_size: u32,
    /// Length of the largest upper-layer message to receive, in bytes: at least 131,072.
    pub max_fragmented_receive_size: u32,
    /// Length of the largest RDMA READ or WRITE request, in bytes. An initiator's may be 0, if its peer says so.
    pub max_read_write_size: u32,
}

/// Which value of a [`Config`] is out of range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, thiserror::Error)]
#[strum(serialize_all = "snake_case")]
pub enum ConfigError {
    /// The value is 0.
    #[error("receive_credit_max must be at least 1")]
    ReceiveCreditMax,
    /// The value is 0.
    #[error("send_credit_target must be at least 1")]
    SendCreditTarget,
    /// The value is below [`MIN_MAX_RECEIVE_SIZE`].
    #[error("max_send_size must be at least 128 bytes")]
    MaxSendSize,
    /// The value is below [`MIN_MAX_RECEIVE_SIZE`].
    #[error("max_receive_size must be at least 128 bytes")]
    MaxReceiveSize,
    /// The value is below [`MIN_MAX_FRAGMENTED_SIZE`].
    #[error("max_fragmented_size must be at least 131,072 bytes")]
    MaxFragmentedSize,
    /// The value is 0.
    #[error("max_read_write_size must be at least 1 byte")]
    MaxReadWriteSize,
    /// The value is 0.
    #[error("negotiation_timeout must not be zero")]
    NegotiationTimeout,
    /// The value is 0.
    #[error("idle_timeout must not be zero")]
    IdleTimeout,
    /// The value is 0.
    #[error("keepalive_timeout must not be zero")]
    KeepaliveTimeout,
    /// The value is 0.
    #[error("credit_timeout must not be zero")]
    CreditTimeout,
    /// The value is 0.
    #[error("message_timeout must not be zero")]
    MessageTimeout,
}

impl ConfigError {
    /// Returns the name of the field, in lower case, with words joined by `_`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_legal() {
        assert_eq!(Config::default().validate(), Ok(()));
        assert_eq!(Config::initiator_default().validate(), Ok(()));
        assert_eq!(Config::default().raised(), Config::default());
        assert_eq!(
            Config::default().negotiation_timeout,
            Duration::from_secs(5)
        );
        assert_eq!(
            Config::initiator_default().negotiation_timeout,
            Duration::from_secs(120)
        );
    }

    #[test]
    fn every_value_out_of_range_is_named() {
        let good = Config::default();
        let zero = Duration::ZERO;
        for (config, error) in [
            (
                Config {
                    receive_credit_max: Credits(0),
                    ..good
                },
                ConfigError::ReceiveCreditMax,
            ),
            (
                Config {
                    send_credit_target: Credits(0),
                    ..good
                },
                ConfigError::SendCreditTarget,
            ),
            (
                Config {
                    max_send_size: 127,
                    ..good
                },
                ConfigError::MaxSendSize,
            ),
            (
                Config {
                    max_receive_size: 127,
                    ..good
                },
                ConfigError::MaxReceiveSize,
            ),
            (
                Config {
                    max_fragmented_size: 131_071,
                    ..good
                },
                ConfigError::MaxFragmentedSize,
            ),
            (
                Config {
                    max_read_write_size: 0,
                    ..good
                },
                ConfigError::MaxReadWriteSize,
            ),
            (
                Config {
                    negotiation_timeout: zero,
                    ..good
                },
                ConfigError::NegotiationTimeout,
            ),
            (
                Config {
                    idle_timeout: zero,
                    ..good
                },
                ConfigError::IdleTimeout,
            ),
            (
                Config {
                    keepalive_timeout: zero,
                    ..good
                },
                ConfigError::KeepaliveTimeout,
            ),
            (
                Config {
                    credit_timeout: zero,
                    ..good
                },
                ConfigError::CreditTimeout,
            ),
            (
                Config {
                    message_timeout: zero,
                    ..good
                },
                ConfigError::MessageTimeout,
            ),
        ] {
            assert_eq!(config.validate(), Err(error));
        }
        assert_eq!(ConfigError::MaxFragmentedSize.name(), "max_fragmented_size");
    }

    #[test]
    fn a_configuration_out_of_range_is_raised_not_obeyed() {
        let config = Config {
            receive_credit_max: Credits(1),
            send_credit_target: Credits(0),
            max_send_size: 0,
            max_receive_size: 0,
            max_fragmented_size: 0,
            max_read_write_size: 0,
            negotiation_timeout: Duration::ZERO,
            idle_timeout: Duration::ZERO,
            keepalive_timeout: Duration::ZERO,
            credit_timeout: Duration::ZERO,
            message_timeout: Duration::ZERO,
        };
        assert_eq!(config.raised().validate(), Ok(()));
        assert_eq!(config.raised().receive_credit_max, Credits(4));
    }
}
