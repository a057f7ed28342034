// SPDX-License-Identifier: GPL-2.0-or-later

//! Makes the messages of the negotiation, and judges those of the peer ([MS-SMBD] 3.1.5.6,
//! 3.1.5.7).
//!
//! These are pure functions of a configuration and a message; the endpoint handles the order of events.

use super::config::{Config, Negotiated};
use super::error::ProtocolError;
use crate::units::Credits;
use crate::wire::{
    MIN_MAX_RECEIVE_SIZE, NegotiateRequest, NegotiateResponse, STATUS_SUCCESS, VERSION,
};

/// Makes the first message of an initiator.
pub(super) fn request(config: &Config) -> NegotiateRequest {
    NegotiateRequest {
        min_version: VERSION,
        max_version: VERSION,
        credits_requested: config.send_credit_target,
        preferred_send_size: config.max_send_size,
        max_receive_size: config.max_receive_size,
        max_fragmented_size: config.max_fragmented_size,
    }
}

/// Judges a request for an acceptor: returns `None` if it has to refuse the versions offered, and an error if
/// it has to end the connection without a response.
///
/// The initiator may prefer to send any size at all: the size that it asks for is raised to 128 bytes, the
/// minimum that both sides must be able to receive, and cut to the size that this side receives.
pub(super) fn accept_request(
    config: &Config,
    request: &NegotiateRequest,
) -> Result<Option<Negotiated>, ProtocolError> {
    if !request.offers_version() {
        return Ok(None);
    }
    request.check()?;
    Ok(Some(Negotiated {
        max_send_size: config.max_send_size.min(request.max_receive_size),
        max_receive_size: receive_size(config, request.preferred_send_size),
        max_fragmented_send_size: request.max_fragmented_size,
        max_fragmented_receive_size: config.max_fragmented_size,
        max_read_write_size: config.max_read_write_size,
    }))
}

/// Makes the response that agrees, and grants credits.
pub(super) fn response(config: &Config, agreed: &Negotiated, granted: u16) -> NegotiateResponse {
    NegotiateResponse {
        min_version: VERSION,
        max_version: VERSION,
        negotiated_version: VERSION,
        credits_requested: config.send_credit_target,
        credits_granted: Credits(granted),
        status: STATUS_SUCCESS,
        max_read_write_size: agreed.max_read_write_size,
        preferred_send_size: agreed.max_send_size,
        max_receive_size: agreed.max_receive_size,
        max_fragmented_size: agreed.max_fragmented_receive_size,
    }
}

/// Judges the response for an initiator.
pub(super) fn accept_response(
    config: &Config,
    response: &NegotiateResponse,
) -> Result<Negotiated, ProtocolError> {
    // The status is checked before all other values, because the others are 0 in a refusal, and their errors would hide
    // the reason.
    if response.status != STATUS_SUCCESS {
        return Err(ProtocolError::Refused(response.status));
    }
    response.check(config.max_receive_size)?;
    Ok(Negotiated {
        max_send_size: config.max_send_size.min(response.max_receive_size),
        max_receive_size: receive_size(config, response.preferred_send_size),
        max_fragmented_send_size: response.max_fragmented_size,
        max_fragmented_receive_size: config.max_fragmented_size,
        max_read_write_size: config.max_read_write_size.min(response.max_read_write_size),
    })
}

fn receive_size(config: &Config, preferred_send_size: u32) -> u32 {
    config
        .max_receive_size
        .min(preferred_send_size)
        .max(MIN_MAX_RECEIVE_SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::WireError;

    fn good_response() -> NegotiateResponse {
        let config = Config::default();
        let agreed = accept_request(&config, &request(&config)).unwrap().unwrap();
        response(&config, &agreed, 10)
    }

    #[test]
    fn versions_are_a_range_that_must_cover_1_0() {
        let good = request(&Config::default());
        for (min_version, max_version, accepted) in [
            (0x0100, 0x0100, true),
            (0x0000, 0x0100, true),
            (0x0100, 0x0200, true),
            (0x0000, 0xffff, true),
            (0x0101, 0x0200, false),
            (0x0000, 0x00ff, false),
            (0x0200, 0x0000, false),
        ] {
            let request = NegotiateRequest {
                min_version,
                max_version,
                ..good
            };
            let answer = accept_request(&Config::default(), &request).unwrap();
            assert_eq!(
                answer.is_some(),
                accepted,
                "{min_version:#06x} to {max_version:#06x}"
            );
        }
    }

    #[test]
    fn a_wrong_version_is_refused_before_anything_else_is_looked_at() {
        let request = NegotiateRequest {
            min_version: 0x0200,
            max_version: 0x0200,
            credits_requested: Credits(0),
            preferred_send_size: 0,
            max_receive_size: 0,
            max_fragmented_size: 0,
        };
        assert_eq!(accept_request(&Config::default(), &request), Ok(None));
    }

    #[test]
    fn requests_out_of_range_end_the_connection() {
        let good = request(&Config::default());
        for (request, error) in [
            (
                NegotiateRequest {
                    credits_requested: Credits(0),
                    ..good
                },
                WireError::CreditsRequestedZero,
            ),
            (
                NegotiateRequest {
                    max_receive_size: 127,
                    ..good
                },
                WireError::MaxReceiveSizeTooSmall,
            ),
            (
                NegotiateRequest {
                    max_fragmented_size: 131_071,
                    ..good
                },
                WireError::MaxFragmentedSizeTooSmall,
            ),
        ] {
            assert_eq!(
                accept_request(&Config::default(), &request),
                Err(ProtocolError::Wire(error))
            );
        }
    }

    #[test]
    fn any_preferred_send_size_is_met() {
        let config = Config {
            max_receive_size: 8192,
            ..Config::default()
        };
        let good = request(&config);
        for (preferred_send_size, max_receive_size) in [
            (0, 128),
            (127, 128),
            (128, 128),
            (1364, 1364),
            (8192, 8192),
            (u32::MAX, 8192),
        ] {
            let request = NegotiateRequest {
                preferred_send_size,
                ..good
            };
            let agreed = accept_request(&config, &request).unwrap().unwrap();
            assert_eq!(agreed.max_receive_size, max_receive_size);
            assert_eq!(
                response(&config, &agreed, 1).max_receive_size,
                max_receive_size
            );
        }
    }

    #[test]
    fn both_sides_agree_on_sizes() {
        let acceptor = Config {
            max_send_size: 1000,
            max_receive_size: 8192,
            max_fragmented_size: 200_000,
            max_read_write_size: 1 << 20,
            ..Config::default()
        };
        let initiator = Config {
            max_receive_size: 4000,
            ..Config::initiator_default()
        };
        let there = accept_request(&acceptor, &request(&initiator))
            .unwrap()
            .unwrap();
        let here = accept_response(&initiator, &response(&acceptor, &there, 7)).unwrap();
        assert_eq!(
            there,
            Negotiated {
                max_send_size: 1000,
                max_receive_size: 1364,
                max_fragmented_send_size: 1 << 20,
                max_fragmented_receive_size: 200_000,
                max_read_write_size: 1 << 20,
            }
        );
        assert_eq!(
            here,
            Negotiated {
                max_send_size: 1364,
                max_receive_size: 1000,
                max_fragmented_send_size: 200_000,
                max_fragmented_receive_size: 1 << 20,
                max_read_write_size: 1 << 20,
            }
        );
    }

    #[test]
    fn responses_out_of_range_end_the_connection() {
        let good = good_response();
        assert!(accept_response(&Config::default(), &good).is_ok());
        for (response, error) in [
            (
                NegotiateResponse {
                    negotiated_version: 0,
                    ..good
                },
                WireError::NegotiatedVersion,
            ),
            (
                NegotiateResponse {
                    negotiated_version: 0x0200,
                    ..good
                },
                WireError::NegotiatedVersion,
            ),
            (
                NegotiateResponse {
                    credits_requested: Credits(0),
                    ..good
                },
                WireError::CreditsRequestedZero,
            ),
            (
                NegotiateResponse {
                    credits_granted: Credits(0),
                    ..good
                },
                WireError::CreditsGrantedZero,
            ),
            (
                NegotiateResponse {
                    preferred_send_size: 1365,
                    ..good
                },
                WireError::PreferredSendSizeTooLarge,
            ),
            (
                NegotiateResponse {
                    max_receive_size: 127,
                    ..good
                },
                WireError::MaxReceiveSizeTooSmall,
            ),
            (
                NegotiateResponse {
                    max_fragmented_size: 131_071,
                    ..good
                },
                WireError::MaxFragmentedSizeTooSmall,
            ),
        ] {
            assert_eq!(
                accept_response(&Config::default(), &response),
                Err(ProtocolError::Wire(error))
            );
        }
    }

    #[test]
    fn a_refusal_is_reported_with_its_status() {
        let refusal = NegotiateResponse::refusal(0xC000_00BB);
        assert_eq!(
            accept_response(&Config::default(), &refusal),
            Err(ProtocolError::Refused(0xC000_00BB))
        );
    }

    #[test]
    fn a_small_preferred_send_size_in_a_response_still_means_128() {
        let response = NegotiateResponse {
            preferred_send_size: 0,
            ..good_response()
        };
        let agreed = accept_response(&Config::default(), &response).unwrap();
        assert_eq!(agreed.max_receive_size, 128);
    }
}
