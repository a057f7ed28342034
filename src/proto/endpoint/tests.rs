// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests one rule at a time, against a peer that is played by hand.

use alloc::vec::Vec;
use core::time::Duration;

use super::*;
use crate::wire::{STATUS_SUCCESS, VERSION, WireError};

const START: Instant = Instant::from_nanos(1_000_000_000);
const SECOND: Duration = Duration::from_secs(1);

fn config() -> Config {
    Config::default()
}

fn good_request() -> NegotiateRequest {
    negotiate::request(&config())
}

fn good_response() -> NegotiateResponse {
    NegotiateResponse {
        min_version: VERSION,
        max_version: VERSION,
        negotiated_version: VERSION,
        credits_requested: Credits(255),
        credits_granted: Credits(100),
        status: STATUS_SUCCESS,
        max_read_write_size: 8 << 20,
        preferred_send_size: 1364,
        max_receive_size: 1364,
        max_fragmented_size: 1 << 20,
    }
}

/// Makes an acceptor that has agreed with `request`, has `posted` receives and owes the response.
fn responding(request: NegotiateRequest, posted: u16) -> Endpoint {
    let mut endpoint = Endpoint::acceptor(config(), START);
    endpoint.handle_receives_posted(1);
    assert_eq!(
        endpoint.handle_message(START, &request.emit()),
        Ok(Received::Negotiate)
    );
    endpoint.handle_receives_posted(posted);
    endpoint
}

/// Makes an established acceptor: the peer holds all of its `posted` receives and has granted nothing.
fn acceptor(posted: u16) -> Endpoint {
    let mut endpoint = responding(good_request(), posted);
    assert!(endpoint.poll_transmit(START).is_some());
    assert_eq!(endpoint.state(), State::Established);
    endpoint
}

/// Makes an initiator whose request has been sent.
fn requesting() -> Endpoint {
    let mut endpoint = Endpoint::initiator(Config::initiator_default(), START);
    endpoint.handle_receives_posted(1);
    assert!(endpoint.poll_transmit(START).is_some());
    endpoint
}

/// Makes an established initiator that holds `granted` credits and has posted nothing.
fn initiator(granted: u16) -> Endpoint {
    let mut endpoint = requesting();
    let response = NegotiateResponse {
        credits_granted: Credits(granted),
        ..good_response()
    };
    assert_eq!(
        endpoint.handle_message(START, &response.emit()),
        Ok(Received::Negotiate)
    );
    assert_eq!(endpoint.state(), State::Established);
    endpoint
}

/// Makes a message as bytes, with a payload of zeros.
fn message(granted: u16, flags: u16, length: u32, remaining: u32) -> Vec<u8> {
    let data = DataTransfer {
        credits_requested: Credits(255),
        credits_granted: Credits(granted),
        flags,
        remaining_data_length: remaining,
        payload: DataTransfer::payload_of(length),
    };
    let (header, header_length) = data.emit();
    let mut bytes = header[..header_length].to_vec();
    bytes.resize(header_length + length as usize, 0);
    bytes
}

fn empty(granted: u16) -> Vec<u8> {
    message(granted, 0, 0, 0)
}

/// Reads a transmit as its receiver does.
fn read(transmit: &Transmit) -> DataTransfer {
    let mut bytes = transmit.header().to_vec();
    bytes.resize(bytes.len() + transmit.payload.len(), 0);
    DataTransfer::parse(&bytes).unwrap()
}

fn sent(endpoint: &mut Endpoint, now: Instant) -> DataTransfer {
    read(&endpoint.poll_transmit(now).expect("a message is due"))
}

#[test]
fn an_endpoint_is_small() {
    assert!(
        size_of::<Endpoint>() < 256,
        "{} bytes",
        size_of::<Endpoint>()
    );
}

mod negotiation {
    use super::*;

    #[test]
    fn an_acceptor_says_nothing_before_it_is_asked() {
        let mut endpoint = Endpoint::acceptor(config(), START);
        assert_eq!(
            (endpoint.receives_wanted(), endpoint.receive_size()),
            (1, 512)
        );
        endpoint.handle_receives_posted(1);
        assert_eq!(endpoint.receives_wanted(), 0);
        assert_eq!(endpoint.poll_transmit(START), None);
        assert_eq!(endpoint.state(), State::Negotiating);
        assert_eq!(
            endpoint.start_message(1, None),
            Err(SendError::NotEstablished)
        );
    }

    #[test]
    fn the_response_waits_for_a_receive() {
        let mut endpoint = responding(good_request(), 0);
        assert_eq!(
            (endpoint.receives_wanted(), endpoint.receive_size()),
            (255, 1364)
        );
        assert_eq!(endpoint.poll_transmit(START), None);
        assert_eq!(
            (endpoint.state(), endpoint.negotiated()),
            (State::Negotiating, None)
        );
        endpoint.handle_receives_posted(3);
        let transmit = endpoint.poll_transmit(START).unwrap();
        let response = NegotiateResponse::parse(transmit.header()).unwrap();
        assert_eq!(response.credits_granted, Credits(3));
        assert_eq!(response.credits_requested, Credits(255));
        assert_eq!(endpoint.receive_credits(), Credits(3));
        assert_eq!(
            endpoint.negotiated().map(|agreed| agreed.max_receive_size),
            Some(1364)
        );
        assert_eq!(endpoint.receives_wanted(), 252);
    }

    #[test]
    fn the_response_grants_no_more_than_requested() {
        for requested in [1, 2, 10, 300] {
            let credits_requested = Credits(requested);
            let mut endpoint = responding(
                NegotiateRequest {
                    credits_requested,
                    ..good_request()
                },
                0,
            );
            let wanted = endpoint.receives_wanted();
            assert_eq!(wanted, requested.clamp(4, 255));
            endpoint.handle_receives_posted(wanted);
            let transmit = endpoint.poll_transmit(START).unwrap();
            let response = NegotiateResponse::parse(transmit.header()).unwrap();
            assert_eq!(response.credits_granted, Credits(requested.min(255)));
        }
    }

    #[test]
    fn a_padded_request_is_accepted() {
        let mut request = good_request().emit().to_vec();
        request.resize(512, 0xff);
        let mut endpoint = Endpoint::acceptor(config(), START);
        assert_eq!(
            endpoint.handle_message(START, &request),
            Ok(Received::Negotiate)
        );
    }

    #[test]
    fn a_wrong_version_is_refused_and_the_connection_closed() {
        let request = NegotiateRequest {
            min_version: 0x0101,
            max_version: 0x0200,
            ..good_request()
        };
        let mut endpoint = responding(request, 0);
        assert_eq!(endpoint.state(), State::Closing);
        assert_eq!(endpoint.receives_wanted(), 0);
        endpoint.close();
        assert_eq!(
            endpoint.state(),
            State::Closing,
            "the refusal still goes out"
        );
        let transmit = endpoint.poll_transmit(START).unwrap();
        let response = NegotiateResponse::parse(transmit.header()).unwrap();
        assert_eq!(response, NegotiateResponse::refusal(0xC000_00BB));
        assert_eq!(endpoint.state(), State::Closed);
        assert_eq!(
            (endpoint.poll_transmit(START), endpoint.poll_timeout()),
            (None, None)
        );
    }

    #[test]
    fn a_wrong_request_ends_the_connection_without_a_response() {
        let good = good_request();
        let short = good.emit()[..19].to_vec();
        for (bytes, error) in [
            (short, WireError::TooShort),
            (
                NegotiateRequest {
                    credits_requested: Credits(0),
                    ..good
                }
                .emit()
                .to_vec(),
                WireError::CreditsRequestedZero,
            ),
            (
                NegotiateRequest {
                    max_receive_size: 127,
                    ..good
                }
                .emit()
                .to_vec(),
                WireError::MaxReceiveSizeTooSmall,
            ),
            (
                NegotiateRequest {
                    max_fragmented_size: 131_071,
                    ..good
                }
                .emit()
                .to_vec(),
                WireError::MaxFragmentedSizeTooSmall,
            ),
        ] {
            let mut endpoint = Endpoint::acceptor(config(), START);
            endpoint.handle_receives_posted(1);
            assert_eq!(
                endpoint.handle_message(START, &bytes),
                Err(ProtocolError::Wire(error))
            );
            endpoint.handle_receives_posted(10);
            assert_eq!(endpoint.state(), State::Closed);
            assert_eq!(endpoint.poll_transmit(START), None);
        }
    }

    #[test]
    fn refuses_data_before_the_response() {
        let mut endpoint = responding(good_request(), 0);
        assert_eq!(
            endpoint.handle_message(START, &empty(1)),
            Err(ProtocolError::OutOfTurn)
        );
        assert_eq!(endpoint.state(), State::Closed);
    }

    #[test]
    fn reads_data_before_the_request_as_a_request() {
        let mut endpoint = Endpoint::acceptor(config(), START);
        let result = endpoint.handle_message(START, &message(1, 0, 100, 0));
        // Read as a request, the data has MinVersion 255 and MaxVersion 1, a range that covers nothing.
        assert_eq!(result, Ok(Received::Negotiate));
        assert_eq!(endpoint.state(), State::Closing);
    }

    #[test]
    fn reads_a_second_request_as_data() {
        let mut endpoint = acceptor(10);
        // The request's MaxReceiveSize of 1,364 is in the place of a data transfer's DataOffset.
        let result = endpoint.handle_message(START, &good_request().emit());
        assert_eq!(
            result,
            Err(ProtocolError::Wire(WireError::DataOffsetUnaligned))
        );
        assert_eq!(endpoint.state(), State::Closed);
    }

    #[test]
    fn an_initiator_asks_once_it_can_receive_the_response() {
        let mut endpoint = Endpoint::initiator(Config::initiator_default(), START);
        assert_eq!(
            (endpoint.receives_wanted(), endpoint.receive_size()),
            (1, 512)
        );
        assert_eq!(endpoint.poll_transmit(START), None);
        endpoint.handle_receives_posted(1);
        let transmit = endpoint.poll_transmit(START).unwrap();
        assert_eq!(
            NegotiateRequest::parse(transmit.header()),
            Ok(good_request())
        );
        assert_eq!(
            (
                transmit.header_length,
                transmit.payload,
                transmit.ends_message
            ),
            (20, 0..0, false)
        );
        assert_eq!(endpoint.poll_transmit(START), None);
    }

    #[test]
    fn refuses_a_message_before_the_request() {
        let mut endpoint = Endpoint::initiator(config(), START);
        let result = endpoint.handle_message(START, &good_response().emit());
        assert_eq!(result, Err(ProtocolError::OutOfTurn));
    }

    #[test]
    fn an_initiator_takes_over_the_agreed_values() {
        let endpoint = initiator(100);
        assert_eq!(endpoint.send_credits(), Credits(100));
        assert_eq!(
            (endpoint.receives_wanted(), endpoint.receive_size()),
            (255, 1364)
        );
    }

    #[test]
    fn an_initiator_ends_the_connection_on_a_wrong_response() {
        let good = good_response();
        let short = good.emit()[..31].to_vec();
        let emit = |response: NegotiateResponse| response.emit().to_vec();
        for (bytes, error) in [
            (short, WireError::TooShort.into()),
            (
                emit(NegotiateResponse::refusal(STATUS_NOT_SUPPORTED)),
                ProtocolError::Refused(STATUS_NOT_SUPPORTED),
            ),
            (
                emit(NegotiateResponse {
                    negotiated_version: 0x0101,
                    ..good
                }),
                WireError::NegotiatedVersion.into(),
            ),
            (
                emit(NegotiateResponse {
                    credits_requested: Credits(0),
                    ..good
                }),
                WireError::CreditsRequestedZero.into(),
            ),
            (
                emit(NegotiateResponse {
                    credits_granted: Credits(0),
                    ..good
                }),
                WireError::CreditsGrantedZero.into(),
            ),
            (
                emit(NegotiateResponse {
                    preferred_send_size: 1365,
                    ..good
                }),
                WireError::PreferredSendSizeTooLarge.into(),
            ),
            (
                emit(NegotiateResponse {
                    max_receive_size: 127,
                    ..good
                }),
                WireError::MaxReceiveSizeTooSmall.into(),
            ),
            (
                emit(NegotiateResponse {
                    max_fragmented_size: 131_071,
                    ..good
                }),
                WireError::MaxFragmentedSizeTooSmall.into(),
            ),
        ] {
            let mut endpoint = requesting();
            assert_eq!(endpoint.handle_message(START, &bytes), Err(error));
            assert_eq!(endpoint.state(), State::Closed);
        }
    }

    #[test]
    fn the_first_message_of_an_initiator_grants() {
        let mut endpoint = initiator(100);
        endpoint.start_message(10, None).unwrap();
        assert_eq!(endpoint.poll_transmit(START), None, "nothing is posted");
        endpoint.handle_receives_posted(20);
        assert_eq!(
            sent(&mut endpoint, START).credits_granted,
            Credits(19),
            "everything is granted but the reserve"
        );
    }

    #[test]
    fn an_initiator_without_data_grants_at_once() {
        let mut endpoint = initiator(100);
        endpoint.handle_receives_posted(255);
        let data = sent(&mut endpoint, START);
        assert_eq!(
            (data.credits_granted, data.data_length(), data.flags),
            (Credits(254), 0, 0)
        );
        assert_eq!(endpoint.poll_transmit(START), None);
    }
}

mod receiving {
    use super::*;

    #[test]
    fn refuses_messages_that_break_a_rule_of_their_own() {
        let offset = |offset: u32| {
            let mut bytes = message(1, 0, 100, 0);
            bytes[12..16].copy_from_slice(&offset.to_le_bytes());
            bytes
        };
        let no_credits_requested = [&[0, 0], &empty(1)[2..]].concat();
        for (bytes, error) in [
            (empty(1)[..19].to_vec(), WireError::TooShort),
            (no_credits_requested, WireError::CreditsRequestedZero),
            (offset(25), WireError::DataOffsetUnaligned),
            (offset(28), WireError::DataOffsetUnaligned),
            (offset(32), WireError::DataOutOfBounds),
            (offset(u32::MAX - 7), WireError::DataOutOfBounds),
            (offset(0), WireError::DataOffsetInHeader),
            (offset(16), WireError::DataOffsetInHeader),
        ] {
            let mut endpoint = acceptor(10);
            assert_eq!(endpoint.handle_message(START, &bytes), Err(error.into()));
            assert_eq!(endpoint.state(), State::Closed);
        }
    }

    #[test]
    fn refuses_a_message_longer_than_agreed() {
        let mut endpoint = acceptor(10);
        assert!(
            endpoint
                .handle_message(START, &message(1, 0, 1340, 0))
                .is_ok()
        );
        let result = endpoint.handle_message(START, &message(1, 0, 1341, 0));
        assert_eq!(result, Err(ProtocolError::MessageTooLong));
    }

    #[test]
    fn refuses_an_upper_layer_message_larger_than_agreed() {
        let mut endpoint = acceptor(10);
        let whole = (1 << 20) - 1340;
        assert!(
            endpoint
                .handle_message(START, &message(1, 0, 1340, whole))
                .is_ok()
        );
        let mut endpoint = acceptor(10);
        let result = endpoint.handle_message(START, &message(1, 0, 1340, whole + 1));
        assert_eq!(result, Err(ProtocolError::FragmentedSizeExceeded));
        let mut endpoint = acceptor(10);
        let result = endpoint.handle_message(START, &message(1, 0, 1340, u32::MAX));
        assert_eq!(result, Err(ProtocolError::FragmentedSizeExceeded));
    }

    #[test]
    fn refuses_a_fragment_that_does_not_continue_the_message() {
        for (length, remaining) in [(100, 0), (100, 1000), (1340, 0)] {
            let mut endpoint = acceptor(10);
            assert!(
                endpoint
                    .handle_message(START, &message(1, 0, 100, 200))
                    .is_ok()
            );
            let result = endpoint.handle_message(START, &message(1, 0, length, remaining));
            assert_eq!(result, Err(ProtocolError::RemainingMismatch));
        }
    }

    #[test]
    fn ignores_bytes_behind_a_message_in_memory() {
        let mut endpoint = Endpoint::acceptor(config(), START);
        let result = endpoint.handle_head(START, &good_request().emit(), 19);
        assert_eq!(result, Err(ProtocolError::Wire(WireError::TooShort)));
        let mut endpoint = acceptor(10);
        let result = endpoint.handle_head(START, &empty(1), 19);
        assert_eq!(result, Err(ProtocolError::Wire(WireError::TooShort)));
    }

    #[test]
    fn takes_credits_in_the_middle_of_a_message() {
        let mut endpoint = acceptor(10);
        let fragment = |payload, offset| {
            Ok(Received::Fragment {
                payload,
                offset,
                total: 300,
            })
        };
        let mut take = |bytes: &[u8]| endpoint.handle_message(START, bytes);
        assert_eq!(take(&message(1, 0, 100, 200)), fragment(24..124, 0));
        assert_eq!(take(&empty(1)), Ok(Received::Credits));
        assert_eq!(take(&message(1, 0, 200, 0)), fragment(24..224, 100));
        assert_eq!(take(&message(1, 0, 300, 0)), fragment(24..324, 0));
    }

    #[test]
    fn takes_fragments_without_bytes() {
        let mut endpoint = acceptor(10);
        for (length, remaining, offset) in
            [(0, 300, 0), (100, 200, 0), (0, 200, 100), (200, 0, 100)]
        {
            let received = endpoint.handle_message(START, &message(1, 0, length, remaining));
            let expected = match length {
                0 => Received::Credits,
                _ => Received::Fragment {
                    payload: 24..24 + length,
                    offset,
                    total: 300,
                },
            };
            assert_eq!(received, Ok(expected));
        }
        assert_eq!(endpoint.send_credits(), Credits(4));
    }

    #[test]
    fn refuses_a_fragment_without_bytes_that_does_not_fit() {
        // [MS-SMBD] 3.1.5.8: the message is larger than agreed, or the fragment is not the rest.
        let mut endpoint = acceptor(10);
        let result = endpoint.handle_message(START, &message(1, 0, 0, (1 << 20) + 1));
        assert_eq!(result, Err(ProtocolError::FragmentedSizeExceeded));
        for remaining in [199, 201] {
            let mut endpoint = acceptor(10);
            assert!(
                endpoint
                    .handle_message(START, &message(1, 0, 100, 200))
                    .is_ok()
            );
            let result = endpoint.handle_message(START, &message(1, 0, 0, remaining));
            assert_eq!(result, Err(ProtocolError::RemainingMismatch));
        }
    }

    #[test]
    fn takes_a_payload_that_begins_late_and_ignores_what_follows_it() {
        let mut endpoint = acceptor(10);
        let mut bytes = message(1, 0, 100, 0);
        bytes[12] = 40;
        bytes.resize(1000, 0xff);
        assert_eq!(
            endpoint.handle_message(START, &bytes),
            Ok(Received::Fragment {
                payload: 40..140,
                offset: 0,
                total: 100
            })
        );
    }

    #[test]
    fn refuses_a_message_beyond_the_grant() {
        let mut endpoint = acceptor(2);
        assert!(endpoint.handle_message(START, &empty(0)).is_ok());
        endpoint.handle_receives_posted(1);
        assert!(endpoint.handle_message(START, &empty(0)).is_ok());
        // The receive was posted, but never granted.
        let result = endpoint.handle_message(START, &empty(0));
        assert_eq!(result, Err(ProtocolError::CreditsExceeded));
    }

    #[test]
    fn refuses_more_credits_than_can_be_counted() {
        let mut endpoint = acceptor(10);
        assert!(endpoint.handle_message(START, &empty(65_535)).is_ok());
        let result = endpoint.handle_message(START, &empty(1));
        assert_eq!(result, Err(ProtocolError::SendCreditsOverflow));
    }

    #[test]
    fn ignores_messages_that_arrive_after_the_end() {
        let mut endpoint = acceptor(10);
        endpoint.close();
        assert_eq!(endpoint.state(), State::Closed);
        assert_eq!(endpoint.handle_message(START, b"x"), Ok(Received::Credits));
        assert_eq!(endpoint.handle_timeout(START + SECOND * 1000), Ok(()));
        assert_eq!(endpoint.receives_wanted(), 0);
    }
}

mod sending {
    use super::*;

    /// Makes an established acceptor with plenty of credits on both sides and nothing to send.
    fn ready() -> Endpoint {
        let mut endpoint = acceptor(255);
        assert!(endpoint.handle_message(START, &empty(200)).is_ok());
        endpoint.handle_receives_posted(1);
        assert_eq!(endpoint.poll_transmit(START), None);
        endpoint
    }

    #[test]
    fn a_short_message_is_one_transmit() {
        let mut endpoint = ready();
        assert_eq!(endpoint.start_message(100, Some(RemoteToken(7))), Ok(()));
        assert!(endpoint.is_sending());
        let transmit = endpoint.poll_transmit(START).unwrap();
        assert_eq!(
            (transmit.header_length, transmit.payload.clone()),
            (24, 0..100)
        );
        assert_eq!(
            (transmit.invalidate, transmit.ends_message),
            (Some(RemoteToken(7)), true)
        );
        let data = read(&transmit);
        assert_eq!((data.remaining_data_length, data.flags), (0, 0));
        assert_eq!(data.credits_requested, Credits(255));
        assert!(!endpoint.is_sending());
        assert_eq!(endpoint.send_credits(), Credits(199));
    }

    #[test]
    fn fragments_fill_the_message_size_and_the_last_one_invalidates() {
        let mut endpoint = ready();
        endpoint.start_message(3000, Some(RemoteToken(7))).unwrap();
        for (payload, remaining, last) in [
            (0..1340, 1660, false),
            (1340..2680, 320, false),
            (2680..3000, 0, true),
        ] {
            let transmit = endpoint.poll_transmit(START).unwrap();
            assert_eq!((&transmit.payload, transmit.ends_message), (&payload, last));
            assert_eq!(transmit.invalidate, last.then_some(RemoteToken(7)));
            assert_eq!(read(&transmit).remaining_data_length, remaining);
        }
        assert_eq!(endpoint.poll_transmit(START), None);
    }

    #[test]
    fn messages_that_cannot_be_sent_are_not_taken() {
        let mut endpoint = ready();
        assert_eq!(endpoint.start_message(0, None), Err(SendError::Empty));
        assert_eq!(
            endpoint.start_message((1 << 20) + 1, None),
            Err(SendError::TooLong)
        );
        assert_eq!(endpoint.start_message(1 << 20, None), Ok(()));
        assert_eq!(endpoint.start_message(1, None), Err(SendError::Busy));
        endpoint.close();
        assert_eq!(
            endpoint.start_message(1, None),
            Err(SendError::NotEstablished)
        );
    }

    #[test]
    fn close_finishes_the_message_in_progress() {
        let mut endpoint = ready();
        endpoint.start_message(2000, None).unwrap();
        assert!(!endpoint.poll_transmit(START).unwrap().ends_message);
        endpoint.close();
        assert_eq!(endpoint.state(), State::Closing);
        assert!(endpoint.handle_message(START, &empty(1)).is_ok());
        assert!(endpoint.poll_transmit(START).unwrap().ends_message);
        assert_eq!(endpoint.state(), State::Closed);
        assert_eq!(
            (endpoint.poll_transmit(START), endpoint.poll_timeout()),
            (None, None)
        );
        assert!(endpoint.negotiated().is_some());
    }

    #[test]
    fn close_ends_a_negotiation_at_once() {
        let mut endpoint = responding(good_request(), 10);
        endpoint.close();
        assert_eq!(
            (endpoint.state(), endpoint.poll_transmit(START)),
            (State::Closed, None)
        );
    }
}

mod credits {
    use super::*;

    #[test]
    fn nothing_is_sent_without_a_credit() {
        let mut endpoint = acceptor(10);
        endpoint.start_message(1, None).unwrap();
        assert_eq!(endpoint.poll_transmit(START), None);
        assert!(endpoint.handle_message(START, &empty(1)).is_ok());
        assert!(
            endpoint.poll_transmit(START).is_none(),
            "there is no receive to grant with the last credit"
        );
        endpoint.handle_receives_posted(1);
        let data = sent(&mut endpoint, START);
        assert_eq!((data.credits_granted, data.data_length()), (Credits(1), 1));
        assert_eq!(endpoint.send_credits(), Credits::ZERO);
    }

    #[test]
    fn grants_nothing_while_nothing_is_posted() {
        let mut endpoint = acceptor(4);
        for _ in 0..4 {
            assert!(endpoint.handle_message(START, &empty(10)).is_ok());
        }
        assert_eq!(endpoint.receive_credits(), Credits::ZERO);
        assert_eq!(endpoint.receives_wanted(), 255);
        assert_eq!(
            endpoint.poll_transmit(START),
            None,
            "the peer starves, but there is nothing to grant"
        );
        endpoint.start_message(1, None).unwrap();
        assert_eq!(sent(&mut endpoint, START).credits_granted, Credits::ZERO);
        endpoint.handle_receives_posted(2);
        assert_eq!(
            sent(&mut endpoint, START).credits_granted,
            Credits(1),
            "the peer gets a credit at once"
        );
    }

    #[test]
    fn receives_posted_are_granted_with_the_next_message() {
        let mut endpoint = acceptor(10);
        assert!(endpoint.handle_message(START, &empty(100)).is_ok());
        endpoint.handle_receives_posted(246);
        // The peer is low on credits, so it gets some at once; after that it is not low.
        assert_eq!(sent(&mut endpoint, START).credits_granted, Credits(245));
        for _ in 0..5 {
            assert!(endpoint.handle_message(START, &empty(0)).is_ok());
            endpoint.handle_receives_posted(1);
        }
        assert_eq!(endpoint.poll_transmit(START), None);
        endpoint.start_message(1, None).unwrap();
        assert_eq!(sent(&mut endpoint, START).credits_granted, Credits(5));
    }

    #[test]
    fn an_empty_message_goes_out_when_the_peer_is_down_to_a_quarter() {
        let mut endpoint = acceptor(255);
        assert!(endpoint.handle_message(START, &empty(100)).is_ok());
        endpoint.handle_receives_posted(1);
        for granted in (63..254).rev() {
            assert_eq!(endpoint.poll_transmit(START), None);
            assert!(
                endpoint
                    .handle_message(START, &message(0, 0, 100, 0))
                    .is_ok()
            );
            assert_eq!(endpoint.receive_credits(), Credits(granted));
            endpoint.handle_receives_posted(1);
        }
        let data = sent(&mut endpoint, START);
        assert_eq!(
            (data.credits_granted, data.data_length()),
            (Credits(191), 0)
        );
        assert_eq!(endpoint.poll_transmit(START), None);
    }

    #[test]
    fn a_peer_that_asks_for_one_credit_is_never_left_with_its_last() {
        let credits_requested = Credits(1);
        let mut endpoint = responding(
            NegotiateRequest {
                credits_requested,
                ..good_request()
            },
            4,
        );
        assert!(endpoint.poll_transmit(START).is_some());
        assert_eq!(
            endpoint.receive_credits(),
            Credits(1),
            "the response grants no more than was requested"
        );
        for _ in 0..10 {
            let mut bytes = message(2, 0, 100, 0);
            bytes[0] = 1;
            assert!(endpoint.handle_message(START, &bytes).is_ok());
            assert_eq!(endpoint.receives_wanted(), 1);
            endpoint.handle_receives_posted(1);
            while endpoint.poll_transmit(START).is_some() {}
            assert!(endpoint.receive_credits() >= Credits(2));
        }
    }

    #[test]
    fn the_peers_request_is_a_target_not_an_increment() {
        let mut endpoint = acceptor(255);
        let mut bytes = empty(1);
        bytes[0] = 10;
        for _ in 0..100 {
            assert!(endpoint.handle_message(START, &bytes).is_ok());
        }
        assert_eq!(
            (endpoint.receives_posted(), endpoint.receives_wanted()),
            (155, 1),
            "only the reserve is missing, since all receives are granted"
        );
        bytes[0] = 200;
        assert!(endpoint.handle_message(START, &bytes).is_ok());
        assert_eq!(endpoint.receives_wanted(), 200 - 154);
        bytes[1] = 200;
        assert!(endpoint.handle_message(START, &bytes).is_ok());
        assert_eq!(
            endpoint.receives_wanted(),
            255 - 153,
            "the number is limited to what this side may post"
        );
    }

    #[test]
    fn a_peer_that_lowers_its_target_is_granted_no_more_than_that() {
        let mut endpoint = acceptor(255);
        let mut bytes = message(10, 0, 100, 0);
        bytes[0] = 10;
        // After this loop the peer holds 60 credits and all 255 receives are posted. The loop after it posts no
        // receives again.
        for _ in 0..195 {
            assert!(endpoint.handle_message(START, &bytes).is_ok());
            endpoint.handle_receives_posted(1);
            assert_eq!(endpoint.poll_transmit(START), None);
        }
        endpoint.start_message(1, None).unwrap();
        assert_eq!(sent(&mut endpoint, START).credits_granted, Credits(0));
        for _ in 0..55 {
            assert!(endpoint.handle_message(START, &bytes).is_ok());
        }
        endpoint.start_message(1, None).unwrap();
        assert_eq!(sent(&mut endpoint, START).credits_granted, Credits(5));
    }

    #[test]
    fn a_peer_that_lowers_its_target_can_still_be_answered() {
        let mut endpoint = acceptor(255);
        let mut bytes = message(1, 0, 100, 0);
        bytes[0] = 10;
        assert!(endpoint.handle_message(START, &bytes).is_ok());
        // The peer holds 254 credits and wants 10. Even so, one more receive is needed: the message that spends this
        // side's only send credit has to grant a credit.
        assert_eq!(endpoint.receives_wanted(), 1);
        endpoint.handle_receives_posted(1);
        endpoint.start_message(1, None).unwrap();
        assert_eq!(sent(&mut endpoint, START).credits_granted, Credits(1));
    }

    /// Plays two endpoints against each other until neither has anything to send; returns the number of messages until
    /// then.
    fn settle(ends: &mut [Endpoint; 2]) -> usize {
        for count in 0..1000 {
            let mut quiet = true;
            for from in 0..2 {
                let wanted = ends[from].receives_wanted();
                ends[from].handle_receives_posted(wanted);
                if let Some(transmit) = ends[from].poll_transmit(START) {
                    quiet = false;
                    let mut bytes = transmit.header().to_vec();
                    bytes.resize(bytes.len() + transmit.payload.len(), 0);
                    ends[1 - from].handle_message(START, &bytes).unwrap();
                }
            }
            if quiet {
                return count;
            }
        }
        panic!("the two ends never stop sending");
    }

    #[test]
    fn two_endpoints_fall_silent_and_can_both_speak_again_whatever_their_credits() {
        for a in [1, 2, 3, 4, 5, 8, 255] {
            for b in [1, 2, 3, 4, 5, 8, 255] {
                let config = |credits| Config {
                    receive_credit_max: Credits(credits),
                    send_credit_target: Credits(credits),
                    ..Config::default()
                };
                let mut ends = [
                    Endpoint::initiator(config(a), START),
                    Endpoint::acceptor(config(b), START),
                ];
                assert!(settle(&mut ends) <= 6, "{a} and {b}");
                for turn in 0..50 {
                    // One side speaks, then the other, then both at once.
                    for (end, speaks) in ends.iter_mut().zip([turn % 3 != 0, turn % 3 != 1]) {
                        if speaks {
                            end.start_message(5000, None).unwrap();
                        }
                    }
                    settle(&mut ends);
                    assert!(
                        !ends[0].is_sending() && !ends[1].is_sending(),
                        "{a} and {b}"
                    );
                }
            }
        }
    }
}

/// A peer that follows [MS-SMBD] 3.1.5.9 to the letter and does no more: it never posts more than its maximum, grants
/// only with the messages that it sends, and sends an empty message only when this side has no credits left. With its
/// maximum granted and one credit left, it is stuck until it is granted another. Such clients exist; test suites use
/// them.
mod strict_peer {
    use super::*;

    struct Strict {
        max: u16,
        send: u16,
        /// Number of credits that the peer has granted.
        receive: u16,
        /// Number of bytes of requests to send, one for each message.
        queue: u32,
        answers: u32,
    }

    impl Strict {
        /// Sends what the peer can send; returns whether it sent anything.
        fn speak(&mut self, to: &mut Endpoint) -> bool {
            let mut granted = 0;
            let before = self.queue;
            while self.queue > 0 && self.send > 0 {
                if granted == 0 {
                    granted = self.max - self.receive;
                    self.receive += granted;
                } else {
                    granted = 0;
                }
                if self.send == 1 && granted == 0 {
                    break;
                }
                self.send -= 1;
                self.queue -= 1;
                to.handle_message(START, &self.message(granted, 1, self.queue))
                    .unwrap();
            }
            if self.receive == 0 && self.send > 0 {
                self.send -= 1;
                self.receive = self.max;
                to.handle_message(START, &self.message(self.max, 0, 0))
                    .unwrap();
                return true;
            }
            self.queue < before
        }

        fn message(&self, granted: u16, length: u32, remaining: u32) -> Vec<u8> {
            let mut bytes = message(granted, 0, length, remaining);
            bytes[..2].copy_from_slice(&self.max.to_le_bytes());
            bytes
        }

        fn hear(&mut self, transmit: &Transmit) {
            let data = read(transmit);
            self.receive = self.receive.checked_sub(1).expect("the peer granted it");
            self.send += data.credits_granted.0;
            self.answers += u32::from(transmit.ends_message);
        }
    }

    /// Exchanges requests and answers: each request has `length` fragments of one byte, and each answer has `answer`
    /// bytes.
    fn converse(max: u16, length: u32, answer: u32) {
        let credits_requested = Credits(max);
        let mut endpoint = responding(
            NegotiateRequest {
                credits_requested,
                ..good_request()
            },
            0,
        );
        endpoint.handle_receives_posted(endpoint.receives_wanted());
        assert!(endpoint.poll_transmit(START).is_some());
        let send = endpoint.receive_credits().0;
        let mut peer = Strict {
            max,
            send,
            receive: 0,
            queue: 0,
            answers: 0,
        };
        for round in 0..10 {
            peer.queue = length;
            let mut answered = false;
            for step in 0.. {
                assert!(step < 10_000, "the two ends never stop sending");
                let mut quiet = !peer.speak(&mut endpoint);
                endpoint.handle_receives_posted(endpoint.receives_wanted());
                while let Some(transmit) = endpoint.poll_transmit(START) {
                    peer.hear(&transmit);
                    quiet = false;
                }
                if quiet && answered {
                    break;
                }
                if quiet {
                    assert_eq!(peer.queue, 0, "stuck with {max} credits in round {round}");
                    endpoint.start_message(answer, None).unwrap();
                    answered = true;
                }
            }
            assert_eq!(peer.answers, round + 1, "stuck with {max} credits");
        }
    }

    #[test]
    fn a_strict_peer_never_gets_stuck() {
        for max in 1..=64 {
            for length in [1, 2, 49] {
                converse(max, length, 10);
                converse(max, length, 65_536);
            }
        }
    }
}

mod time {
    use super::*;

    fn expect_timeout(endpoint: &mut Endpoint, at: Instant, error: ProtocolError) {
        assert_eq!(endpoint.poll_timeout(), Some(at));
        let before = Instant::from_nanos(at.as_nanos() - 1);
        assert_eq!(endpoint.handle_timeout(before), Ok(()));
        assert_eq!(endpoint.handle_timeout(at), Err(error));
        assert_eq!(
            (endpoint.state(), endpoint.poll_timeout()),
            (State::Closed, None)
        );
    }

    #[test]
    fn an_acceptor_waits_five_seconds_for_the_negotiation() {
        let error = ProtocolError::NegotiationTimeout;
        let mut endpoint = Endpoint::acceptor(config(), START);
        expect_timeout(&mut endpoint, START + SECOND * 5, error);
        // This side's own owner may not be late with receives for ever, either.
        let mut endpoint = responding(good_request(), 0);
        expect_timeout(&mut endpoint, START + SECOND * 5, error);
    }

    #[test]
    fn an_initiator_waits_two_minutes_for_the_negotiation() {
        let mut endpoint = requesting();
        expect_timeout(
            &mut endpoint,
            START + SECOND * 120,
            ProtocolError::NegotiationTimeout,
        );
    }

    #[test]
    fn a_silent_peer_is_asked_and_then_given_up() {
        let mut endpoint = acceptor(10);
        let heard = START + SECOND * 50;
        assert!(endpoint.handle_message(heard, &empty(10)).is_ok());
        endpoint.handle_receives_posted(1);
        assert_eq!(endpoint.poll_transmit(heard), None);
        let idle = heard + SECOND * 120;
        assert_eq!(endpoint.poll_timeout(), Some(idle));
        assert_eq!(endpoint.handle_timeout(idle), Ok(()));
        let data = sent(&mut endpoint, idle);
        assert_eq!((data.flags, data.data_length()), (1, 0));
        assert_eq!(
            endpoint.poll_transmit(idle),
            None,
            "this side asks only once"
        );
        expect_timeout(
            &mut endpoint,
            idle + SECOND * 5,
            ProtocolError::KeepaliveTimeout,
        );
    }

    #[test]
    fn any_message_answers_a_keepalive() {
        let mut endpoint = acceptor(10);
        assert!(endpoint.handle_message(START, &empty(10)).is_ok());
        let idle = START + SECOND * 120;
        assert_eq!(endpoint.handle_timeout(idle), Ok(()));
        assert!(endpoint.poll_transmit(idle).is_some());
        let heard = idle + SECOND * 4;
        assert!(
            endpoint
                .handle_message(heard, &message(0, 0, 10, 0))
                .is_ok()
        );
        assert_eq!(endpoint.poll_timeout(), Some(heard + SECOND * 120));
    }

    #[test]
    fn a_late_owner_does_not_shorten_the_peers_time() {
        let mut endpoint = acceptor(10);
        assert!(endpoint.handle_message(START, &empty(10)).is_ok());
        let late = START + SECOND * 500;
        assert_eq!(endpoint.handle_timeout(late), Ok(()));
        assert_eq!(endpoint.poll_timeout(), Some(late + SECOND * 5));
    }

    #[test]
    fn a_message_that_arrives_before_the_question_is_out_makes_the_question_needless() {
        let mut endpoint = acceptor(10);
        assert!(endpoint.handle_message(START, &empty(10)).is_ok());
        let idle = START + SECOND * 120;
        assert_eq!(endpoint.handle_timeout(idle), Ok(()));
        assert!(endpoint.handle_message(idle, &empty(1)).is_ok());
        assert_eq!(endpoint.poll_transmit(idle), None);
    }

    #[test]
    fn the_question_goes_out_with_a_message_in_progress() {
        let mut endpoint = acceptor(10);
        assert!(endpoint.handle_message(START, &empty(10)).is_ok());
        let idle = START + SECOND * 120;
        endpoint.start_message(2000, None).unwrap();
        assert_eq!(endpoint.handle_timeout(idle), Ok(()));
        assert_eq!(sent(&mut endpoint, idle).flags, 1);
        assert_eq!(sent(&mut endpoint, idle).flags, 0);
    }

    #[test]
    fn the_time_runs_even_if_the_question_cannot_be_asked() {
        let mut endpoint = acceptor(10);
        let idle = START + SECOND * 120;
        assert_eq!(endpoint.handle_timeout(idle), Ok(()));
        assert_eq!(endpoint.poll_transmit(idle), None);
        expect_timeout(
            &mut endpoint,
            idle + SECOND * 5,
            ProtocolError::KeepaliveTimeout,
        );
    }

    #[test]
    fn a_peer_that_may_not_speak_is_not_given_up() {
        let mut endpoint = acceptor(2);
        for _ in 0..2 {
            assert!(endpoint.handle_message(START, &empty(10)).is_ok());
        }
        // The owner has no receives for half an hour: the peer has no credit to answer with, and has to learn that this
        // side lives.
        for minute in 1..30 {
            let now = START + SECOND * 60 * minute;
            assert_eq!(endpoint.handle_timeout(now), Ok(()));
            let question = endpoint.poll_transmit(now);
            assert_eq!(question.is_some(), minute % 2 == 0);
            if let Some(question) = question {
                let data = read(&question);
                assert_eq!((data.flags, data.credits_granted), (1, Credits::ZERO));
            }
            assert!(endpoint.poll_timeout() > Some(now));
        }
        let later = START + SECOND * 1800;
        endpoint.handle_receives_posted(2);
        assert_eq!(sent(&mut endpoint, later).credits_granted, Credits(1));
        // From now on the peer's silence counts.
        let idle = endpoint.poll_timeout().unwrap();
        assert!(idle <= later + SECOND * 120);
        assert_eq!(endpoint.handle_timeout(idle), Ok(()));
        assert_eq!(sent(&mut endpoint, idle).flags, 1);
        expect_timeout(
            &mut endpoint,
            idle + SECOND * 5,
            ProtocolError::KeepaliveTimeout,
        );
    }

    #[test]
    fn a_peer_that_cannot_be_asked_for_want_of_receives_is_not_given_up() {
        let mut endpoint = acceptor(2);
        assert!(endpoint.handle_message(START, &empty(1)).is_ok());
        // The last send credit needs a receive to grant.
        for minute in 1..60 {
            let now = START + SECOND * 60 * minute;
            assert_eq!(endpoint.handle_timeout(now), Ok(()));
            assert_eq!(endpoint.poll_transmit(now), None);
        }
        let idle = endpoint.poll_timeout().unwrap();
        endpoint.handle_receives_posted(1);
        assert_eq!(endpoint.handle_timeout(idle), Ok(()));
        assert_eq!(sent(&mut endpoint, idle).flags, 1);
    }

    #[test]
    fn two_sides_without_a_credit_end_the_connection() {
        let mut endpoint = acceptor(1);
        // The peer spends its last credit, and grants nothing with it.
        assert!(endpoint.handle_message(START, &empty(0)).is_ok());
        endpoint.handle_receives_posted(255);
        let idle = START + SECOND * 120;
        assert_eq!(endpoint.handle_timeout(idle), Ok(()));
        expect_timeout(
            &mut endpoint,
            idle + SECOND * 5,
            ProtocolError::KeepaliveTimeout,
        );
    }

    #[test]
    fn a_question_is_answered_at_once_and_without_another_question() {
        let mut endpoint = acceptor(255);
        assert!(
            endpoint
                .handle_message(START, &message(10, 1, 0, 0))
                .is_ok()
        );
        let data = sent(&mut endpoint, START);
        assert_eq!((data.flags, data.data_length()), (0, 0));
        assert_eq!(endpoint.poll_transmit(START), None);
    }

    #[test]
    fn a_message_waits_for_credits_for_two_minutes() {
        let mut endpoint = acceptor(10);
        assert!(endpoint.handle_message(START, &empty(2)).is_ok());
        endpoint.handle_receives_posted(1);
        endpoint.start_message(10_000, None).unwrap();
        assert!(endpoint.poll_transmit(START).is_some());
        assert!(endpoint.poll_transmit(START).is_some());
        assert_eq!(endpoint.poll_transmit(START), None);
        // The peer lives, but grants nothing.
        for second in 1..120 {
            let now = START + SECOND * second;
            assert_eq!(endpoint.handle_timeout(now), Ok(()));
            if second % 30 == 0 {
                assert!(endpoint.handle_message(now, &empty(0)).is_ok());
            }
            assert_eq!(endpoint.poll_transmit(now), None);
        }
        expect_timeout(
            &mut endpoint,
            START + SECOND * 120,
            ProtocolError::CreditTimeout,
        );
    }

    #[test]
    fn a_message_has_thirty_seconds_from_its_first_fragment() {
        // The first fragment may even be without bytes.
        for first in [message(1, 0, 100, 900), message(1, 0, 0, 900)] {
            let mut endpoint = acceptor(200);
            let mut remaining = 900;
            assert!(endpoint.handle_message(START, &first).is_ok());
            for second in 1..30 {
                let now = START + SECOND * second;
                assert_eq!(endpoint.handle_timeout(now), Ok(()));
                // Neither fragments nor empty messages give the peer more time.
                remaining -= 1;
                let fragment = message(1, 0, 1, remaining);
                assert!(endpoint.handle_message(now, &fragment).is_ok());
                assert!(endpoint.handle_message(now, &empty(1)).is_ok());
                endpoint.handle_receives_posted(2);
                while endpoint.poll_transmit(now).is_some() {}
            }
            expect_timeout(
                &mut endpoint,
                START + SECOND * 30,
                ProtocolError::MessageTimeout,
            );
        }
    }

    #[test]
    fn each_message_has_its_own_time_limit() {
        let mut endpoint = acceptor(100);
        for minute in 0..10 {
            let now = START + SECOND * 60 * minute;
            assert_eq!(endpoint.handle_timeout(now), Ok(()));
            assert!(endpoint.handle_message(now, &message(1, 0, 10, 10)).is_ok());
            let later = now + SECOND * 29;
            assert_eq!(endpoint.handle_timeout(later), Ok(()));
            assert!(
                endpoint
                    .handle_message(later, &message(1, 0, 10, 0))
                    .is_ok()
            );
            endpoint.handle_receives_posted(2);
            while endpoint.poll_transmit(later).is_some() {}
        }
    }

    #[test]
    fn a_long_message_has_a_second_more_for_each_64_kib() {
        let mut endpoint = acceptor(200);
        let length = (1 << 20) - 1;
        assert!(
            endpoint
                .handle_message(START, &message(1, 0, 100, length - 100))
                .is_ok()
        );
        let late = START + SECOND * (30 + 15);
        assert_eq!(endpoint.poll_timeout(), Some(late));
        let before = START + SECOND * 44;
        assert_eq!(endpoint.handle_timeout(before), Ok(()));
        // The bytes that have arrived do not shorten the time.
        let fragment = message(1, 0, 1000, length - 1100);
        assert!(endpoint.handle_message(before, &fragment).is_ok());
        assert_eq!(endpoint.poll_timeout(), Some(late));
        expect_timeout(&mut endpoint, late, ProtocolError::MessageTimeout);
    }

    #[test]
    fn a_peer_that_may_go_on_with_its_message_has_the_time_that_was_left() {
        let mut endpoint = acceptor(2);
        let begin = message(10, 0, 10, 20);
        assert!(endpoint.handle_message(START, &begin).is_ok());
        let silent = START + SECOND * 10;
        let go_on = message(10, 0, 10, 10);
        assert!(endpoint.handle_message(silent, &go_on).is_ok());
        // The peer holds no credit, and there is no memory for its next fragment for 29 s.
        assert_eq!(endpoint.poll_transmit(silent), None);
        let later = silent + SECOND * 29;
        assert_eq!(endpoint.handle_timeout(later), Ok(()));
        endpoint.handle_receives_posted(2);
        assert!(sent(&mut endpoint, later).credits_granted > Credits(0));
        assert_eq!(endpoint.poll_timeout(), Some(later + SECOND * 20));
        expect_timeout(
            &mut endpoint,
            later + SECOND * 20,
            ProtocolError::MessageTimeout,
        );
    }

    #[test]
    fn a_peer_that_cannot_complete_a_message_for_want_of_receives_is_not_given_up() {
        let mut endpoint = acceptor(1);
        assert!(
            endpoint
                .handle_message(START, &message(10, 0, 10, 10))
                .is_ok()
        );
        for second in 1..80 {
            assert_eq!(endpoint.handle_timeout(START + SECOND * second), Ok(()));
        }
        endpoint.handle_receives_posted(2);
        let later = START + SECOND * 80;
        assert!(sent(&mut endpoint, later).credits_granted > Credits(0));
        // From now on the peer can send.
        let late = later + SECOND * 30;
        assert_eq!(endpoint.poll_timeout(), Some(late));
        expect_timeout(&mut endpoint, late, ProtocolError::MessageTimeout);
    }

    #[test]
    fn each_credit_starts_the_wait_anew() {
        let mut endpoint = acceptor(10);
        endpoint.start_message(10_000, None).unwrap();
        assert_eq!(endpoint.poll_transmit(START), None);
        let later = START + SECOND * 100;
        assert!(endpoint.handle_message(later, &empty(1)).is_ok());
        endpoint.handle_receives_posted(1);
        assert!(endpoint.poll_transmit(later).is_some());
        assert_eq!(endpoint.poll_transmit(later), None);
        assert_eq!(endpoint.poll_timeout(), Some(later + SECOND * 120));
        assert_eq!(endpoint.handle_timeout(START + SECOND * 120), Ok(()));
    }

    #[test]
    fn an_owner_without_receives_is_not_the_peers_fault() {
        let mut endpoint = acceptor(10);
        assert!(endpoint.handle_message(START, &empty(1)).is_ok());
        endpoint.start_message(10, None).unwrap();
        assert_eq!(endpoint.poll_transmit(START), None);
        assert_eq!(
            endpoint.poll_timeout(),
            Some(START + SECOND * 120),
            "the deadline is that of the idle timer, not of the credits"
        );
        assert_eq!(endpoint.handle_timeout(START + SECOND * 120), Ok(()));
    }
}
