// SPDX-License-Identifier: GPL-2.0-or-later

//! The Data Transfer message ([MS-SMBD] 2.2.3): credits, and a piece of an upper-layer message.
//!
//! After the negotiation there are only messages of this kind, several million of them a second. So reading the header
//! takes one length check, six loads and the comparisons of [MS-SMBD] 3.1.5.8.

use core::ops::Range;

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, transmute};

use super::WireError;
use crate::units::Credits;

/// A Data Transfer message without its payload.
///
/// ```text
///   0 CreditsRequested  2 CreditsGranted    4 Flags             6 Reserved (0)
///   8 RemainingDataLength                  12 DataOffset
///  16 DataLength                           20 Padding (0)
///  24 payload
/// ```
///
/// A message without payload ends after `DataLength`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataTransfer {
    /// Number of credits that the sender would like to hold altogether: at least 1.
    pub credits_requested: Credits,
    /// Number of additional credits that the receiver holds from now on.
    pub credits_granted: Credits,
    /// [`Self::RESPONSE_REQUESTED`] or 0; other bits have no meaning.
    pub flags: u16,
    /// Number of bytes of the upper-layer message that are still to come after this payload.
    pub remaining_data_length: u32,
    /// The range of the payload in the message, in bytes from its start; `0..0` if there is none.
    pub payload: Range<u32>,
}

impl DataTransfer {
    /// Length of a message without payload, in bytes.
    pub const EMPTY_LENGTH: usize = 20;

    /// Number of bytes before the payload in a message that is sent: `DataOffset`. A payload that is received may begin
    /// later.
    pub const PAYLOAD_OFFSET: u32 = 24;

    /// Flag: the peer should send a message soon, whatever it is (`SMB_DIRECT_RESPONSE_REQUESTED`).
    pub const RESPONSE_REQUESTED: u16 = 0x0001;

    /// Returns the range of a payload of `length` bytes in a message that is sent, for [`Self::payload`]. The length is
    /// cut if the end of the message would exceed 32 bits.
    #[inline]
    #[must_use]
    pub const fn payload_of(length: u32) -> Range<u32> {
        match length {
            0 => 0..0,
            _ => Self::PAYLOAD_OFFSET..Self::PAYLOAD_OFFSET.saturating_add(length),
        }
    }

    /// Reads a received message and checks everything that [MS-SMBD] 3.1.5.8 asks for, except the size of the
    /// upper-layer message and rules that depend on earlier messages. Bytes after the payload are ignored.
    ///
    /// # Errors
    ///
    /// [`WireError::TooShort`], [`WireError::CreditsRequestedZero`],
    /// [`WireError::DataOffsetUnaligned`], [`WireError::DataOutOfBounds`],
    /// [`WireError::DataOffsetInHeader`]. Any of them ends the connection.
    #[inline]
    pub fn parse(message: &[u8]) -> Result<Self, WireError> {
        Self::parse_head(message, u32::try_from(message.len()).unwrap_or(u32::MAX))
    }

    /// Reads a message of `length` bytes. `head` holds at least its first [`Self::EMPTY_LENGTH`] bytes, or all bytes of
    /// a shorter message: the payload itself is not looked at.
    ///
    /// # Errors
    ///
    /// The errors of [`Self::parse`].
    #[inline]
    pub fn parse_head(head: &[u8], length: u32) -> Result<Self, WireError> {
        let (raw, _) = RawHeader::ref_from_prefix(head).map_err(|_| WireError::TooShort)?;
        if raw.credits_requested == U16::ZERO {
            return Err(WireError::CreditsRequestedZero);
        }
        let data_offset = raw.data_offset.get();
        let data_length = raw.data_length.get();
        let remaining_data_length = raw.remaining_data_length.get();
        if data_offset % 8 != 0 {
            return Err(WireError::DataOffsetUnaligned);
        }
        // No message is 4 GiB long, so an end that needs more than 32 bits is out of bounds.
        let end = data_offset
            .checked_add(data_length)
            .ok_or(WireError::DataOutOfBounds)?;
        if end > length {
            return Err(WireError::DataOutOfBounds);
        }
        let payload = if data_length == 0 {
            0..0
        } else {
            if data_offset < Self::PAYLOAD_OFFSET {
                return Err(WireError::DataOffsetInHeader);
            }
            data_offset..end
        };
        Ok(Self {
            credits_requested: Credits(raw.credits_requested.get()),
            credits_granted: Credits(raw.credits_granted.get()),
            flags: raw.flags.get(),
            remaining_data_length,
            payload,
        })
    }

    /// Returns the header as bytes, and how many of them are valid: [`Self::EMPTY_LENGTH`], or [`Self::PAYLOAD_OFFSET`]
    /// before a payload. Of `payload`, only its length is used.
    #[inline]
    #[must_use]
    pub fn emit(&self) -> ([u8; Self::PAYLOAD_OFFSET as usize], usize) {
        let data_length = self.data_length();
        let (data_offset, length) = match data_length {
            0 => (0, Self::EMPTY_LENGTH),
            _ => (Self::PAYLOAD_OFFSET, Self::PAYLOAD_OFFSET as usize),
        };
        let header = RawHeader {
            credits_requested: self.credits_requested.0.into(),
            credits_granted: self.credits_granted.0.into(),
            flags: self.flags.into(),
            reserved: U16::ZERO,
            remaining_data_length: self.remaining_data_length.into(),
            data_offset: data_offset.into(),
            data_length: data_length.into(),
        };
        (
            transmute!(RawPaddedHeader {
                header,
                padding: U32::ZERO
            }),
            length,
        )
    }

    /// Returns the length of the payload in bytes.
    #[inline]
    #[must_use]
    pub const fn data_length(&self) -> u32 {
        self.payload.end.saturating_sub(self.payload.start)
    }

    /// Returns the number of bytes of the upper-layer message from the start of this payload to its end, which
    /// [MS-SMBD] 3.1.5.8 limits to the maximum fragmented size. The number has up to 33 bits.
    #[inline]
    #[must_use]
    pub const fn total_length(&self) -> u64 {
        self.data_length() as u64 + self.remaining_data_length as u64
    }

    /// Returns whether the peer asks for a message soon.
    #[inline]
    #[must_use]
    pub const fn response_requested(&self) -> bool {
        self.flags & Self::RESPONSE_REQUESTED != 0
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    credits_requested: U16,
    credits_granted: U16,
    flags: U16,
    reserved: U16,
    remaining_data_length: U32,
    data_offset: U32,
    data_length: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawPaddedHeader {
    header: RawHeader,
    padding: U32,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EMPTY_BYTES: [u8; 20] = [
        0xff, 0x00, 0x10, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00,
    ];

    const FRAGMENT_BYTES: [u8; 28] = [
        0xff, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x2c, 0x01, 0x00, 0x00, 0x18, 0x00, 0x00,
        0x00, 0x04, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xfe, b'S', b'M', b'B',
    ];

    fn empty() -> DataTransfer {
        DataTransfer {
            credits_requested: Credits(255),
            credits_granted: Credits(16),
            flags: DataTransfer::RESPONSE_REQUESTED,
            remaining_data_length: 0,
            payload: 0..0,
        }
    }

    fn fragment() -> DataTransfer {
        DataTransfer {
            credits_requested: Credits(255),
            credits_granted: Credits(0),
            flags: 0,
            remaining_data_length: 300,
            payload: DataTransfer::payload_of(4),
        }
    }

    /// Returns [`FRAGMENT_BYTES`] with the 32-bit field at `at` replaced.
    fn fragment_with(at: usize, value: u32) -> [u8; 28] {
        let mut bytes = FRAGMENT_BYTES;
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        bytes
    }

    #[test]
    fn an_empty_message_is_20_bytes() {
        assert_eq!(DataTransfer::parse(&EMPTY_BYTES), Ok(empty()));
        assert!(empty().response_requested());
        let (bytes, length) = empty().emit();
        assert_eq!(bytes[..length], EMPTY_BYTES);
    }

    #[test]
    fn a_fragment_has_its_data_at_24() {
        assert_eq!(DataTransfer::parse(&FRAGMENT_BYTES), Ok(fragment()));
        assert_eq!(fragment().payload, 24..28);
        assert_eq!(fragment().total_length(), 304);
        assert!(!fragment().response_requested());
        let (bytes, length) = fragment().emit();
        assert_eq!(length, 24);
        assert_eq!(bytes, FRAGMENT_BYTES[..24]);
    }

    #[test]
    fn data_may_begin_later_and_end_earlier_than_the_message() {
        let mut bytes = [0; 64];
        bytes[..28].copy_from_slice(&fragment_with(12, 40));
        assert_eq!(
            DataTransfer::parse(&bytes).map(|message| message.payload),
            Ok(40..44)
        );
    }

    #[test]
    fn an_offset_without_data_means_nothing() {
        let mut bytes = EMPTY_BYTES;
        bytes[12] = 16;
        assert_eq!(DataTransfer::parse(&bytes), Ok(empty()));
    }

    #[test]
    fn refuses_a_message_that_is_cut_short() {
        assert_eq!(DataTransfer::parse(&[]), Err(WireError::TooShort));
        assert_eq!(
            DataTransfer::parse(&EMPTY_BYTES[..19]),
            Err(WireError::TooShort)
        );
    }

    #[test]
    fn refuses_a_request_for_no_credits() {
        let mut bytes = EMPTY_BYTES;
        bytes[0] = 0;
        assert_eq!(
            DataTransfer::parse(&bytes),
            Err(WireError::CreditsRequestedZero)
        );
    }

    #[test]
    fn refuses_an_unaligned_data_offset_with_and_without_data() {
        let bytes = fragment_with(12, 23);
        assert_eq!(
            DataTransfer::parse(&bytes),
            Err(WireError::DataOffsetUnaligned)
        );
        let mut bytes = EMPTY_BYTES;
        bytes[12] = 4;
        assert_eq!(
            DataTransfer::parse(&bytes),
            Err(WireError::DataOffsetUnaligned)
        );
    }

    #[test]
    fn refuses_data_within_the_header() {
        for offset in [0, 8, 16] {
            let bytes = fragment_with(12, offset);
            assert_eq!(
                DataTransfer::parse(&bytes),
                Err(WireError::DataOffsetInHeader)
            );
        }
    }

    #[test]
    fn refuses_data_beyond_the_message() {
        let cases = [
            fragment_with(16, 5),
            fragment_with(16, u32::MAX),
            fragment_with(12, 32),
            fragment_with(12, u32::MAX - 7),
        ];
        for bytes in cases {
            assert_eq!(DataTransfer::parse(&bytes), Err(WireError::DataOutOfBounds));
        }
        let mut bytes = EMPTY_BYTES;
        bytes[12] = 24;
        assert_eq!(DataTransfer::parse(&bytes), Err(WireError::DataOutOfBounds));
    }

    #[test]
    fn a_fragment_may_be_without_data() {
        let message = DataTransfer::parse(&fragment_with(16, 0)).unwrap();
        assert_eq!(message.payload, 0..0);
        assert_ne!(message.remaining_data_length, 0);
        let (header, length) = message.emit();
        assert_eq!(length, 20);
        assert_eq!(DataTransfer::parse(&header[..length]), Ok(message));
    }

    #[test]
    fn the_total_length_does_not_wrap_around() {
        let message = DataTransfer::parse(&fragment_with(8, u32::MAX)).unwrap();
        assert_eq!(message.total_length(), u64::from(u32::MAX) + 4);
    }

    proptest! {
        #[test]
        fn any_message_survives_emit_and_parse(
            (credits_requested, credits_granted, flags) in (1u16.., any::<u16>(), any::<u16>()),
            data_length in 0u32..200,
            remaining_data_length: u32,
        ) {
            let message = DataTransfer {
                credits_requested: Credits(credits_requested),
                credits_granted: Credits(credits_granted),
                flags,
                remaining_data_length,
                payload: DataTransfer::payload_of(data_length),
            };
            let (header, length) = message.emit();
            let mut bytes = header[..length].to_vec();
            bytes.resize(length + data_length as usize, 0xa5);
            prop_assert_eq!(DataTransfer::parse(&bytes), Ok(message));
        }

        #[test]
        fn no_bytes_make_the_parser_panic_or_return_data_outside_the_message(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..100),
            small: bool,
        ) {
            if small {
                // Lengths and offsets are below 256, so that the later checks are reached, too.
                for (at, byte) in bytes.iter_mut().enumerate() {
                    *byte = if (8..20).contains(&at) && at % 4 != 0 { 0 } else { *byte };
                }
            }
            if let Ok(message) = DataTransfer::parse(&bytes) {
                prop_assert!(message.payload.end as usize <= bytes.len());
                prop_assert!(message.payload == (0..0) || message.payload.start >= 24);
            }
        }
    }
}
