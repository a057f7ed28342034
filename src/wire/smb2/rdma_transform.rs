// SPDX-License-Identifier: GPL-2.0-or-later

//! RDMA transforms (SMB 3.1.1): how data that travels by RDMA is encrypted or signed.
//!
//! An `SMB2_RDMA_TRANSFORM` ([MS-SMB2] 2.2.43) says how many transforms follow it, and one `SMB2_RDMA_CRYPTO_TRANSFORM`
//! ([MS-SMB2] 2.2.43.1) has the signature and the nonce. In a WRITE request they are the channel information of channel
//! 3, followed by the buffer descriptors. In a READ response, the two structures fill the buffer; there are no
//! descriptors, because those came with the request.
//!
//! ```text
//!   0 RdmaDescriptorOffset    2 RdmaDescriptorLength    4 Channel
//!   8 TransformCount         10 Reserved               12 Reserved            16
//!  16 TransformType          18 SignatureLength        20 NonceLength
//!  22 Reserved               24 Signature, Nonce, zeros up to a multiple of 8
//!     the buffer descriptors of a WRITE
//! ```
//!
//! The owner has to check whether the lengths of signature and nonce fit the algorithm, and whether the connection
//! negotiated the transform: this module does not know keys or algorithms.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::super::{BufferDescriptorV1, BufferDescriptors, WireError, slice};
use super::Channel;
use crate::units::RemoteToken;

/// Length of an `SMB2_RDMA_TRANSFORM` in bytes.
const TRANSFORM_LENGTH: usize = size_of::<RawTransform>();
/// Number of bytes before the signature.
const FIXED_LENGTH: usize = TRANSFORM_LENGTH + size_of::<RawCrypto>();
/// Buffer descriptors begin at a multiple of this.
const ALIGNMENT: usize = 8;

/// What has been done to the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransformType {
    /// The data is encrypted; the signature is the tag.
    Encryption,
    /// The data is unchanged, and the signature covers it.
    Signing,
}

impl TransformType {
    /// Returns the type with this number in `TransformType`, which is also its number in the negotiate context
    /// ([MS-SMB2] 2.2.3.1.6).
    #[must_use]
    pub const fn of_number(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::Encryption),
            2 => Some(Self::Signing),
            _ => None,
        }
    }

    /// Returns the number on the wire.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Encryption => 1,
            Self::Signing => 2,
        }
    }
}

/// How a payload is protected: one `SMB2_RDMA_CRYPTO_TRANSFORM`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CryptoTransform<'a> {
    /// What has been done to the data.
    pub transform_type: TransformType,
    /// The tag or the signature, of any length.
    pub signature: &'a [u8],
    /// The nonce, of any length: AES-CMAC has none.
    pub nonce: &'a [u8],
}

impl<'a> CryptoTransform<'a> {
    /// Reads the transform of a READ response from its buffer ([MS-SMB2] 3.2.5.11).
    ///
    /// # Errors
    ///
    /// [`WireError::TransformTooShort`], [`WireError::TransformChannel`],
    /// [`WireError::TransformCount`], [`WireError::TransformType`], [`WireError::TransformOutOfBounds`].
    pub fn parse(buffer: &'a [u8]) -> Result<Self, WireError> {
        let (head, crypto, _) = split(buffer)?;
        if head.channel.get() != 0 {
            return Err(WireError::TransformChannel);
        }
        Ok(crypto)
    }

    /// Returns the number of bytes before the buffer descriptors: both structures and the zeros after them.
    #[must_use]
    pub const fn length(&self) -> usize {
        (FIXED_LENGTH + self.signature.len() + self.nonce.len()).next_multiple_of(ALIGNMENT)
    }

    /// Writes both structures and `descriptors` to the start of `out`, and returns the number of bytes written, or
    /// `None` if they do not fit into `out`, if a length does not fit into its field, or if `channel` is
    /// [`Channel::RdmaTransform`]. Use [`Channel::None`] for a READ response, which has no descriptors.
    #[must_use]
    pub fn emit(&self, channel: Channel, descriptors: &[u8], out: &mut [u8]) -> Option<usize> {
        let begin = self.length();
        let end = begin.checked_add(descriptors.len())?;
        let out = out.get_mut(..end)?;
        out.fill(0);
        let (offset, channel) = match channel {
            Channel::None => (0, 0),
            Channel::RdmaV1 => (begin, 1),
            Channel::RdmaV1Invalidate => (begin, 2),
            Channel::RdmaTransform => return None,
        };
        let number = |value: usize| u16::try_from(value).ok().map(U16::new);
        let head = RawTransform {
            rdma_descriptor_offset: number(offset)?,
            rdma_descriptor_length: number(descriptors.len())?,
            channel: U32::new(channel),
            transform_count: U16::new(1),
            reserved1: U16::ZERO,
            reserved2: U32::ZERO,
        };
        let crypto = RawCrypto {
            transform_type: U16::new(self.transform_type.number()),
            signature_length: number(self.signature.len())?,
            nonce_length: number(self.nonce.len())?,
            reserved: U16::ZERO,
        };
        let parts = [
            head.as_bytes(),
            crypto.as_bytes(),
            self.signature,
            self.nonce,
        ];
        let mut at = 0;
        for part in parts {
            out.get_mut(at..at + part.len())?.copy_from_slice(part);
            at += part.len();
        }
        out.get_mut(begin..)?.copy_from_slice(descriptors);
        Some(end)
    }
}

/// The channel information of a WRITE over channel 3.
#[derive(Clone, Copy, Debug)]
pub struct RdmaTransform<'a> {
    channel: Channel,
    crypto: CryptoTransform<'a>,
    descriptors: BufferDescriptors<'a>,
}

impl<'a> RdmaTransform<'a> {
    /// Checks the channel information of a WRITE ([MS-SMB2] 3.3.5.13). Bytes after the buffer descriptors are ignored.
    ///
    /// # Errors
    ///
    /// [`WireError::TransformTooShort`], [`WireError::TransformChannel`],
    /// [`WireError::TransformCount`], [`WireError::TransformType`],
    /// [`WireError::TransformOutOfBounds`], [`WireError::TransformDescriptorsMisplaced`], and what
    /// [`BufferDescriptors::parse`] reports.
    pub fn parse(info: &'a [u8]) -> Result<Self, WireError> {
        let (head, crypto, begin) = split(info)?;
        let channel = match head.channel.get() {
            1 => Channel::RdmaV1,
            2 => Channel::RdmaV1Invalidate,
            _ => return Err(WireError::TransformChannel),
        };
        if usize::from(head.rdma_descriptor_offset.get()) != begin {
            return Err(WireError::TransformDescriptorsMisplaced);
        }
        let descriptors = head
            .descriptors(info)
            .ok_or(WireError::TransformOutOfBounds)?;
        Ok(Self {
            channel,
            crypto,
            descriptors: BufferDescriptors::parse(descriptors)?,
        })
    }

    /// Returns the channel: [`Channel::RdmaV1`] or [`Channel::RdmaV1Invalidate`].
    #[must_use]
    pub const fn channel(&self) -> Channel {
        self.channel
    }

    /// Returns how the data is protected.
    #[must_use]
    pub const fn crypto(&self) -> CryptoTransform<'a> {
        self.crypto
    }

    /// Returns the buffer descriptors: where the data is in the client's memory.
    #[must_use]
    pub const fn descriptors(&self) -> BufferDescriptors<'a> {
        self.descriptors
    }

    /// Returns the token of the first descriptor if the client asks to invalidate it, whatever else is wrong with the
    /// channel information.
    #[must_use]
    pub fn token_to_invalidate(info: &[u8]) -> Option<RemoteToken> {
        let (head, _) = RawTransform::ref_from_prefix(info).ok()?;
        if head.channel.get() != 2 {
            return None;
        }
        let first = BufferDescriptorV1::parse(head.descriptors(info)?).ok()?;
        Some(first.token)
    }
}

/// Parses both structures, and returns the offset at which the descriptors after them begin.
fn split(bytes: &[u8]) -> Result<(&RawTransform, CryptoTransform<'_>, usize), WireError> {
    let (head, rest) =
        RawTransform::ref_from_prefix(bytes).map_err(|_| WireError::TransformTooShort)?;
    // The protocol defines only these transforms, and allows only one of them at a time.
    if head.transform_count.get() != 1 {
        return Err(WireError::TransformCount);
    }
    let (raw, rest) = RawCrypto::ref_from_prefix(rest).map_err(|_| WireError::TransformTooShort)?;
    let transform_type =
        TransformType::of_number(raw.transform_type.get()).ok_or(WireError::TransformType)?;
    let (signature, rest) = rest
        .split_at_checked(raw.signature_length.get().into())
        .ok_or(WireError::TransformOutOfBounds)?;
    let (nonce, _) = rest
        .split_at_checked(raw.nonce_length.get().into())
        .ok_or(WireError::TransformOutOfBounds)?;
    let crypto = CryptoTransform {
        transform_type,
        signature,
        nonce,
    };
    Ok((head, crypto, crypto.length()))
}

#[derive(Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct RawTransform {
    rdma_descriptor_offset: U16,
    rdma_descriptor_length: U16,
    channel: U32,
    transform_count: U16,
    reserved1: U16,
    reserved2: U32,
}

impl RawTransform {
    /// Returns the part of `bytes` that holds the descriptors. `bytes` starts with this transform, and the offset
    /// counts from there.
    fn descriptors<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        slice(
            bytes,
            self.rdma_descriptor_offset.get().into(),
            self.rdma_descriptor_length.get().into(),
        )
    }
}

#[derive(Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct RawCrypto {
    transform_type: U16,
    signature_length: U16,
    nonce_length: U16,
    reserved: U16,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::with;
    use super::*;

    const DESCRIPTOR: BufferDescriptorV1 = BufferDescriptorV1 {
        offset: 0x1_2345_6000,
        token: RemoteToken(0x1234_5601),
        length: 0x10_0000,
    };

    /// Makes a transform for AES-128-GCM: a tag of 16 bytes, a nonce of 12, and 4 bytes of padding.
    fn encrypted() -> Vec<u8> {
        let mut bytes = vec![56, 0, 16, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend([1, 0, 16, 0, 12, 0, 0, 0]);
        bytes.extend([0xaa; 16]);
        bytes.extend([0xbb; 12]);
        bytes.extend([0; 4]);
        bytes.extend(DESCRIPTOR.emit());
        bytes
    }

    fn error(bytes: &[u8]) -> Option<WireError> {
        RdmaTransform::parse(bytes).err()
    }

    #[test]
    fn reads_the_channel_information_of_a_write() {
        let bytes = encrypted();
        let transform = RdmaTransform::parse(&bytes).unwrap();
        let crypto = CryptoTransform {
            transform_type: TransformType::Encryption,
            signature: &[0xaa; 16],
            nonce: &[0xbb; 12],
        };
        assert_eq!(transform.crypto(), crypto);
        assert_eq!(transform.channel(), Channel::RdmaV1Invalidate);
        assert_eq!(transform.descriptors().first(), DESCRIPTOR);
        let token = RdmaTransform::token_to_invalidate(&bytes);
        assert_eq!(token, Some(DESCRIPTOR.token));
    }

    #[test]
    fn writes_the_channel_information_of_a_write() {
        let bytes = encrypted();
        let crypto = RdmaTransform::parse(&bytes).unwrap().crypto();
        let mut out = [0xff; 80];
        let length = crypto.emit(Channel::RdmaV1Invalidate, &DESCRIPTOR.emit(), &mut out);
        assert_eq!(length, Some(72));
        assert_eq!(out[..72], bytes);
        assert_eq!(out[72..], [0xff; 8]);
        let too_small = &mut out[..71];
        assert_eq!(
            crypto.emit(Channel::RdmaV1, &DESCRIPTOR.emit(), too_small),
            None
        );
        assert_eq!(crypto.emit(Channel::RdmaTransform, &[], &mut out), None);
    }

    #[test]
    fn the_transform_of_a_read_response_has_no_descriptors() {
        let crypto = CryptoTransform {
            transform_type: TransformType::Signing,
            signature: &[7; 16],
            nonce: &[],
        };
        let mut out = [0xff; 40];
        assert_eq!(crypto.emit(Channel::None, &[], &mut out), Some(40));
        assert_eq!(out[..10], [0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
        assert_eq!(CryptoTransform::parse(&out), Ok(crypto));
        assert_eq!(error(&out), Some(WireError::TransformChannel));
        assert_eq!(
            CryptoTransform::parse(&encrypted()),
            Err(WireError::TransformChannel)
        );
    }

    #[test]
    fn each_rule_is_checked() {
        assert_eq!(error(&encrypted()), None);
        assert_eq!(
            error(&encrypted()[..15]),
            Some(WireError::TransformTooShort)
        );
        assert_eq!(
            error(&encrypted()[..23]),
            Some(WireError::TransformTooShort)
        );
        for count in [0, 2, 255] {
            assert_eq!(
                error(&with(encrypted(), 8, &[count])),
                Some(WireError::TransformCount)
            );
        }
        for channel in [0, 3, 4] {
            assert_eq!(
                error(&with(encrypted(), 4, &[channel])),
                Some(WireError::TransformChannel)
            );
        }
        for kind in [0, 3] {
            assert_eq!(
                error(&with(encrypted(), 16, &[kind])),
                Some(WireError::TransformType)
            );
        }
        let out_of_bounds = Some(WireError::TransformOutOfBounds);
        assert_eq!(
            error(&with(encrypted(), 18, &[0xff, 0xff])),
            out_of_bounds,
            "signature"
        );
        assert_eq!(
            error(&with(encrypted(), 20, &[0xff, 0xff])),
            out_of_bounds,
            "nonce"
        );
        assert_eq!(
            error(&with(encrypted(), 2, &[32])),
            out_of_bounds,
            "descriptors"
        );
        assert_eq!(error(&encrypted()[..71]), out_of_bounds, "cut off");
        let descriptors = |length: u8| error(&with(encrypted(), 2, &[length]));
        assert_eq!(descriptors(0), Some(WireError::DescriptorListEmpty));
        assert_eq!(descriptors(15), Some(WireError::DescriptorListUneven));
        assert_eq!(
            error(&with(encrypted(), 68, &[0; 4])),
            Some(WireError::DescriptorLengthZero)
        );
    }

    #[test]
    fn descriptors_begin_at_the_first_multiple_of_8() {
        for offset in [0, 16, 48, 52, 55, 57, 64] {
            let moved = with(encrypted(), 0, &[offset]);
            assert_eq!(
                error(&moved),
                Some(WireError::TransformDescriptorsMisplaced),
                "{offset}"
            );
        }
        // There is no padding: the length is that of the signature and the nonce.
        let mut packed = with(encrypted(), 0, &[52]);
        packed.drain(52..56);
        assert_eq!(
            error(&packed),
            Some(WireError::TransformDescriptorsMisplaced)
        );
    }

    #[test]
    fn bytes_after_the_descriptors_are_ignored() {
        let mut bytes = encrypted();
        bytes.extend(encrypted());
        assert_eq!(error(&bytes), None);
    }

    #[test]
    fn a_refused_transform_still_has_its_token_invalidated() {
        let token = |bytes: &[u8]| RdmaTransform::token_to_invalidate(bytes);
        for wrong in [with(encrypted(), 8, &[0]), with(encrypted(), 16, &[9])] {
            assert!(error(&wrong).is_some());
            assert_eq!(token(&wrong), Some(DESCRIPTOR.token));
        }
        assert_eq!(token(&with(encrypted(), 4, &[1])), None);
        assert_eq!(token(&with(encrypted(), 2, &[15])), None);
        assert_eq!(token(&with(encrypted(), 0, &[57])), None);
        assert_eq!(token(&encrypted()[..15]), None);
    }

    fn channels() -> impl Strategy<Value = Channel> {
        prop_oneof![Just(Channel::RdmaV1), Just(Channel::RdmaV1Invalidate)]
    }

    proptest! {
        #[test]
        fn a_transform_that_is_written_is_read_again(
            number in 1u16..=2,
            signature in proptest::collection::vec(any::<u8>(), 0..40),
            nonce in proptest::collection::vec(any::<u8>(), 0..40),
            lengths in proptest::collection::vec(1u32.., 1..5),
            channel in channels(),
        ) {
            let crypto = CryptoTransform {
                transform_type: TransformType::of_number(number).unwrap(),
                signature: &signature,
                nonce: &nonce,
            };
            let descriptors: Vec<u8> = lengths
                .iter()
                .flat_map(|&length| BufferDescriptorV1 { length, ..DESCRIPTOR }.emit())
                .collect();
            let mut out = vec![0xff; 400];
            let length = crypto.emit(channel, &descriptors, &mut out).unwrap();
            prop_assert_eq!(length % 8, 0);
            let transform = RdmaTransform::parse(&out[..length]).unwrap();
            prop_assert_eq!(transform.crypto(), crypto);
            prop_assert_eq!(transform.channel(), channel);
            prop_assert_eq!(transform.descriptors().as_bytes(), &descriptors[..]);
        }

        #[test]
        fn no_bytes_make_the_parser_panic(
            changes in proptest::collection::vec((0usize..72, any::<u8>()), 0..6),
            length in 0usize..=72,
        ) {
            let mut bytes = encrypted();
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            let bytes = &bytes[..length];
            let _ = (CryptoTransform::parse(bytes), RdmaTransform::token_to_invalidate(bytes));
            if let Ok(transform) = RdmaTransform::parse(bytes) {
                prop_assert!(transform.crypto().length() + 16 <= length);
                prop_assert!(transform.descriptors().total_length() > 0);
            }
        }
    }
}
