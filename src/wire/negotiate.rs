// SPDX-License-Identifier: GPL-2.0-or-later

//! The messages that open an SMB Direct connection: Negotiate Request ([MS-SMBD] 2.2.1) and
//! Negotiate Response ([MS-SMBD] 2.2.2).
//!
//! `parse` judges the length alone, because the consequence of a wrong value differs by field: a version is refused
//! with a response, everything else ends the connection without one. `check` and [`NegotiateRequest::offers_version`]
//! judge the values; the endpoint has to call them. Bytes after the fixed part are ignored: peers pad negotiate
//! messages up to 512 bytes.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, transmute};

use super::WireError;
use crate::units::Credits;

/// The only version of the protocol: 1.0.
pub const VERSION: u16 = 0x0100;

/// The smallest `MaxReceiveSize` that a peer may have, in bytes.
pub const MIN_MAX_RECEIVE_SIZE: u32 = 128;

/// The smallest `MaxFragmentedSize` that a peer may have, in bytes.
pub const MIN_MAX_FRAGMENTED_SIZE: u32 = 131_072;

/// NTSTATUS: the negotiation succeeded.
pub const STATUS_SUCCESS: u32 = 0;

/// NTSTATUS: [`VERSION`] is not among the versions that the initiator offers.
pub const STATUS_NOT_SUPPORTED: u32 = 0xC000_00BB;

/// NTSTATUS: the acceptor has no memory for a single receive.
pub const STATUS_INSUFFICIENT_RESOURCES: u32 = 0xC000_009A;

/// The first message of the initiator ([MS-SMBD] 2.2.1).
///
/// ```text
///   0 MinVersion        2 MaxVersion        4 Reserved (0)      6 CreditsRequested
///   8 PreferredSendSize                    12 MaxReceiveSize
///  16 MaxFragmentedSize                    20
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NegotiateRequest {
    /// Lowest version that the initiator speaks.
    pub min_version: u16,
    /// Highest version that the initiator speaks.
    pub max_version: u16,
    /// Number of credits that the initiator would like to hold: at least 1.
    pub credits_requested: Credits,
    /// Length of the largest message that the initiator would like to send, header included, in bytes: any value.
    pub preferred_send_size: u32,
    /// Length of the largest message that the initiator receives, header included, in bytes: at least
    /// [`MIN_MAX_RECEIVE_SIZE`].
    pub max_receive_size: u32,
    /// Length of the largest upper-layer message that the initiator reassembles, in bytes: at least
    /// [`MIN_MAX_FRAGMENTED_SIZE`].
    pub max_fragmented_size: u32,
}

impl NegotiateRequest {
    /// Length of the message in bytes.
    pub const LENGTH: usize = size_of::<RawRequest>();

    /// Reads the message; the values may be anything.
    ///
    /// # Errors
    ///
    /// [`WireError::TooShort`].
    pub fn parse(message: &[u8]) -> Result<Self, WireError> {
        let (raw, _) = RawRequest::ref_from_prefix(message).map_err(|_| WireError::TooShort)?;
        Ok(Self {
            min_version: raw.min_version.get(),
            max_version: raw.max_version.get(),
            credits_requested: Credits(raw.credits_requested.get()),
            preferred_send_size: raw.preferred_send_size.get(),
            max_receive_size: raw.max_receive_size.get(),
            max_fragmented_size: raw.max_fragmented_size.get(),
        })
    }

    /// Returns the message as bytes.
    #[must_use]
    pub fn emit(&self) -> [u8; Self::LENGTH] {
        transmute!(RawRequest {
            min_version: self.min_version.into(),
            max_version: self.max_version.into(),
            reserved: U16::ZERO,
            credits_requested: self.credits_requested.0.into(),
            preferred_send_size: self.preferred_send_size.into(),
            max_receive_size: self.max_receive_size.into(),
            max_fragmented_size: self.max_fragmented_size.into(),
        })
    }

    /// Returns whether [`VERSION`] is among the versions offered. If not, the acceptor answers
    /// [`STATUS_NOT_SUPPORTED`], before it looks at anything else ([MS-SMBD] 3.1.5.6).
    #[must_use]
    pub const fn offers_version(&self) -> bool {
        self.min_version <= VERSION && VERSION <= self.max_version
    }

    /// Checks the values for which an acceptor ends the connection without a response
    /// ([MS-SMBD] 3.1.5.6).
    ///
    /// # Errors
    ///
    /// [`WireError::CreditsRequestedZero`], [`WireError::MaxReceiveSizeTooSmall`],
    /// [`WireError::MaxFragmentedSizeTooSmall`].
    pub fn check(&self) -> Result<(), WireError> {
        check_common(
            self.credits_requested,
            self.max_receive_size,
            self.max_fragmented_size,
        )
    }
}

/// The answer of the acceptor ([MS-SMBD] 2.2.2).
///
/// ```text
///   0 MinVersion        2 MaxVersion        4 NegotiatedVersion 6 Reserved (0)
///   8 CreditsRequested 10 CreditsGranted   12 Status
///  16 MaxReadWriteSize                     20 PreferredSendSize
///  24 MaxReceiveSize                       28 MaxFragmentedSize
///  32
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NegotiateResponse {
    /// Lowest version that the acceptor speaks.
    pub min_version: u16,
    /// Highest version that the acceptor speaks.
    pub max_version: u16,
    /// The version of this connection; 0 if the negotiation failed.
    pub negotiated_version: u16,
    /// Number of credits that the acceptor would like to hold: at least 1.
    pub credits_requested: Credits,
    /// Number of credits that the initiator holds from now on: at least 1.
    pub credits_granted: Credits,
    /// NTSTATUS of the negotiation; if it is an error, everything except the versions is 0.
    pub status: u32,
    /// Length of the largest transfer of one RDMA READ or WRITE request, in bytes.
    pub max_read_write_size: u32,
    /// Length of the largest message that the acceptor will send, header included, in bytes: at most the request's
    /// `max_receive_size`.
    pub preferred_send_size: u32,
    /// Length of the largest message that the acceptor receives, header included, in bytes: at least
    /// [`MIN_MAX_RECEIVE_SIZE`].
    pub max_receive_size: u32,
    /// Length of the largest upper-layer message that the acceptor reassembles, in bytes: at least
    /// [`MIN_MAX_FRAGMENTED_SIZE`].
    pub max_fragmented_size: u32,
}

impl NegotiateResponse {
    /// Length of the message in bytes.
    pub const LENGTH: usize = size_of::<RawResponse>();

    /// Makes the response that refuses a negotiation with `status`, an NTSTATUS ([MS-SMBD] 3.1.5.3).
    #[must_use]
    pub const fn refusal(status: u32) -> Self {
        Self {
            min_version: VERSION,
            max_version: VERSION,
            negotiated_version: 0,
            credits_requested: Credits::ZERO,
            credits_granted: Credits::ZERO,
            status,
            max_read_write_size: 0,
            preferred_send_size: 0,
            max_receive_size: 0,
            max_fragmented_size: 0,
        }
    }

    /// Reads the message; the values may be anything.
    ///
    /// # Errors
    ///
    /// [`WireError::TooShort`].
    pub fn parse(message: &[u8]) -> Result<Self, WireError> {
        let (raw, _) = RawResponse::ref_from_prefix(message).map_err(|_| WireError::TooShort)?;
        Ok(Self {
            min_version: raw.min_version.get(),
            max_version: raw.max_version.get(),
            negotiated_version: raw.negotiated_version.get(),
            credits_requested: Credits(raw.credits_requested.get()),
            credits_granted: Credits(raw.credits_granted.get()),
            status: raw.status.get(),
            max_read_write_size: raw.max_read_write_size.get(),
            preferred_send_size: raw.preferred_send_size.get(),
            max_receive_size: raw.max_receive_size.get(),
            max_fragmented_size: raw.max_fragmented_size.get(),
        })
    }

    /// Returns the message as bytes.
    #[must_use]
    pub fn emit(&self) -> [u8; Self::LENGTH] {
        transmute!(RawResponse {
            min_version: self.min_version.into(),
            max_version: self.max_version.into(),
            negotiated_version: self.negotiated_version.into(),
            reserved: U16::ZERO,
            credits_requested: self.credits_requested.0.into(),
            credits_granted: self.credits_granted.0.into(),
            status: self.status.into(),
            max_read_write_size: self.max_read_write_size.into(),
            preferred_send_size: self.preferred_send_size.into(),
            max_receive_size: self.max_receive_size.into(),
            max_fragmented_size: self.max_fragmented_size.into(),
        })
    }

    /// Checks the values for which an initiator ends the connection ([MS-SMBD] 3.1.5.7); `own_max_receive_size` is the
    /// value in the initiator's request. The status comes first, because a refusal has no other values.
    ///
    /// # Errors
    ///
    /// [`WireError::StatusNotSuccess`], [`WireError::NegotiatedVersion`],
    /// [`WireError::CreditsRequestedZero`], [`WireError::CreditsGrantedZero`],
    /// [`WireError::PreferredSendSizeTooLarge`], [`WireError::MaxReceiveSizeTooSmall`],
    /// [`WireError::MaxFragmentedSizeTooSmall`].
    pub fn check(&self, own_max_receive_size: u32) -> Result<(), WireError> {
        if self.status != STATUS_SUCCESS {
            return Err(WireError::StatusNotSuccess);
        }
        if self.negotiated_version != VERSION {
            return Err(WireError::NegotiatedVersion);
        }
        if self.credits_granted == Credits::ZERO {
            return Err(WireError::CreditsGrantedZero);
        }
        if self.preferred_send_size > own_max_receive_size {
            return Err(WireError::PreferredSendSizeTooLarge);
        }
        check_common(
            self.credits_requested,
            self.max_receive_size,
            self.max_fragmented_size,
        )
    }
}

/// Checks the rules that request and response share.
fn check_common(
    credits_requested: Credits,
    max_receive_size: u32,
    max_fragmented_size: u32,
) -> Result<(), WireError> {
    if credits_requested == Credits::ZERO {
        return Err(WireError::CreditsRequestedZero);
    }
    if max_receive_size < MIN_MAX_RECEIVE_SIZE {
        return Err(WireError::MaxReceiveSizeTooSmall);
    }
    if max_fragmented_size < MIN_MAX_FRAGMENTED_SIZE {
        return Err(WireError::MaxFragmentedSizeTooSmall);
    }
    Ok(())
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawRequest {
    min_version: U16,
    max_version: U16,
    reserved: U16,
    credits_requested: U16,
    preferred_send_size: U32,
    max_receive_size: U32,
    max_fragmented_size: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawResponse {
    min_version: U16,
    max_version: U16,
    negotiated_version: U16,
    reserved: U16,
    credits_requested: U16,
    credits_granted: U16,
    status: U32,
    max_read_write_size: U32,
    preferred_send_size: U32,
    max_receive_size: U32,
    max_fragmented_size: U32,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A request that Linux 6.12's cifs.ko sent.
    const REQUEST_BYTES: [u8; 20] = [
        0x00, 0x01, 0x00, 0x01, 0x00, 0x00, 0xff, 0x00, 0x54, 0x05, 0x00, 0x00, 0x54, 0x05, 0x00,
        0x00, 0x56, 0xa7, 0x02, 0x00,
    ];
    const REQUEST: NegotiateRequest = NegotiateRequest {
        min_version: 0x0100,
        max_version: 0x0100,
        credits_requested: Credits(255),
        preferred_send_size: 1364,
        max_receive_size: 1364,
        max_fragmented_size: 173_910,
    };

    /// The answer of Linux 6.12's ksmbd to that request.
    const RESPONSE_BYTES: [u8; 32] = [
        0x00, 0x01, 0x00, 0x01, 0x00, 0x01, 0x00, 0x00, 0xff, 0x00, 0xfe, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x80, 0x00, 0x54, 0x05, 0x00, 0x00, 0x54, 0x05, 0x00, 0x00, 0x56, 0xa7,
        0x02, 0x00,
    ];
    const RESPONSE: NegotiateResponse = NegotiateResponse {
        min_version: 0x0100,
        max_version: 0x0100,
        negotiated_version: 0x0100,
        credits_requested: Credits(255),
        credits_granted: Credits(254),
        status: STATUS_SUCCESS,
        max_read_write_size: 8 << 20,
        preferred_send_size: 1364,
        max_receive_size: 1364,
        max_fragmented_size: 173_910,
    };

    #[test]
    fn reads_and_writes_the_request_of_linux() {
        assert_eq!(NegotiateRequest::parse(&REQUEST_BYTES), Ok(REQUEST));
        assert_eq!(REQUEST.emit(), REQUEST_BYTES);
        assert!(REQUEST.offers_version());
        assert_eq!(REQUEST.check(), Ok(()));
    }

    #[test]
    fn reads_and_writes_the_response_of_linux() {
        assert_eq!(NegotiateResponse::parse(&RESPONSE_BYTES), Ok(RESPONSE));
        assert_eq!(RESPONSE.emit(), RESPONSE_BYTES);
        assert_eq!(RESPONSE.check(1364), Ok(()));
    }

    #[test]
    fn tolerates_padding_after_the_message() {
        let mut padded = [0xa5; 512];
        padded[..20].copy_from_slice(&REQUEST_BYTES);
        assert_eq!(NegotiateRequest::parse(&padded), Ok(REQUEST));
        padded[..32].copy_from_slice(&RESPONSE_BYTES);
        assert_eq!(NegotiateResponse::parse(&padded), Ok(RESPONSE));
    }

    #[test]
    fn refuses_a_message_that_is_cut_short() {
        assert_eq!(
            NegotiateRequest::parse(&REQUEST_BYTES[..19]),
            Err(WireError::TooShort)
        );
        assert_eq!(
            NegotiateResponse::parse(&RESPONSE_BYTES[..31]),
            Err(WireError::TooShort)
        );
    }

    #[test]
    fn versions_are_a_range_that_has_to_include_ours() {
        let offers = |min_version, max_version| {
            NegotiateRequest {
                min_version,
                max_version,
                ..REQUEST
            }
            .offers_version()
        };
        assert!(offers(0, 0xffff));
        assert!(!offers(0x0101, 0x0200));
        assert!(!offers(0, 0x00ff));
        assert!(!offers(0x0200, 0x0000));
    }

    #[test]
    fn each_rule_of_the_request_is_checked() {
        let request = NegotiateRequest {
            credits_requested: Credits(0),
            ..REQUEST
        };
        assert_eq!(request.check(), Err(WireError::CreditsRequestedZero));
        let request = NegotiateRequest {
            max_receive_size: 127,
            ..REQUEST
        };
        assert_eq!(request.check(), Err(WireError::MaxReceiveSizeTooSmall));
        let request = NegotiateRequest {
            max_fragmented_size: 131_071,
            ..REQUEST
        };
        assert_eq!(request.check(), Err(WireError::MaxFragmentedSizeTooSmall));
    }

    #[test]
    fn any_preferred_send_size_is_legal_in_a_request() {
        for preferred_send_size in [0, 127, u32::MAX] {
            assert_eq!(
                NegotiateRequest {
                    preferred_send_size,
                    ..REQUEST
                }
                .check(),
                Ok(())
            );
        }
    }

    #[test]
    fn each_rule_of_the_response_is_checked() {
        let refuses = |response: NegotiateResponse, error| {
            assert_eq!(response.check(1364), Err(error));
        };
        let refusal = NegotiateResponse::refusal(STATUS_NOT_SUPPORTED);
        refuses(refusal, WireError::StatusNotSuccess);
        let response = NegotiateResponse {
            negotiated_version: 0x0200,
            ..RESPONSE
        };
        refuses(response, WireError::NegotiatedVersion);
        let response = NegotiateResponse {
            credits_requested: Credits(0),
            ..RESPONSE
        };
        refuses(response, WireError::CreditsRequestedZero);
        let response = NegotiateResponse {
            credits_granted: Credits(0),
            ..RESPONSE
        };
        refuses(response, WireError::CreditsGrantedZero);
        let response = NegotiateResponse {
            preferred_send_size: 1365,
            ..RESPONSE
        };
        refuses(response, WireError::PreferredSendSizeTooLarge);
        let response = NegotiateResponse {
            max_receive_size: 127,
            ..RESPONSE
        };
        refuses(response, WireError::MaxReceiveSizeTooSmall);
        let response = NegotiateResponse {
            max_fragmented_size: 131_071,
            ..RESPONSE
        };
        refuses(response, WireError::MaxFragmentedSizeTooSmall);
    }

    #[test]
    fn a_refusal_has_versions_and_status_and_is_zero_elsewhere() {
        let mut expected = [0; 32];
        expected[..4].copy_from_slice(&[0x00, 0x01, 0x00, 0x01]);
        expected[12..16].copy_from_slice(&[0xbb, 0x00, 0x00, 0xc0]);
        assert_eq!(
            NegotiateResponse::refusal(STATUS_NOT_SUPPORTED).emit(),
            expected
        );
    }

    proptest! {
        #[test]
        fn any_request_survives_emit_and_parse(bytes: [u8; 20]) {
            let request = NegotiateRequest::parse(&bytes).unwrap();
            prop_assert_eq!(NegotiateRequest::parse(&request.emit()), Ok(request));
        }

        #[test]
        fn any_response_survives_emit_and_parse(bytes: [u8; 32]) {
            let response = NegotiateResponse::parse(&bytes).unwrap();
            prop_assert_eq!(NegotiateResponse::parse(&response.emit()), Ok(response));
        }

        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert_eq!(NegotiateRequest::parse(&bytes).is_ok(), bytes.len() >= 20);
            prop_assert_eq!(NegotiateResponse::parse(&bytes).is_ok(), bytes.len() >= 32);
            let _ = NegotiateRequest::parse(&bytes).map(|request| request.check());
            let _ = NegotiateResponse::parse(&bytes).map(|response| response.check(8192));
        }
    }
}
