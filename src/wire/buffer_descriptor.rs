// SPDX-License-Identifier: GPL-2.0-or-later

//! Buffer Descriptor V1 ([MS-SMBD] 2.2.3.1), which names a place in the peer's memory for an RDMA READ or RDMA WRITE.
//! SMB2 READ and WRITE requests carry a list of descriptors as channel information.
//!
//! The peer decides with the list where bytes go, so the list is checked as a whole before the first operation is
//! posted: one refused access ends the connection, and the descriptors after the end of the data must not be used at
//! all.

use core::iter::FusedIterator;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, transmute};

use super::WireError;
use crate::units::RemoteToken;

/// A piece of the peer's memory.
///
/// ```text
///   0 Offset                                8 Token            12 Length            16
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferDescriptorV1 {
    /// The address within the region that `token` names; it need not count from the start of the region.
    pub offset: u64,
    /// The token of the region.
    pub token: RemoteToken,
    /// Number of bytes.
    pub length: u32,
}

impl BufferDescriptorV1 {
    /// Length of a descriptor in bytes.
    pub const LENGTH: usize = size_of::<RawDescriptor>();

    /// Reads one descriptor without judging its values. Further bytes are ignored.
    ///
    /// # Errors
    ///
    /// [`WireError::TooShort`].
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let (raw, _) = RawDescriptor::ref_from_prefix(bytes).map_err(|_| WireError::TooShort)?;
        Ok(raw.into())
    }

    /// Returns the descriptor as bytes.
    #[must_use]
    pub fn emit(&self) -> [u8; Self::LENGTH] {
        transmute!(RawDescriptor {
            offset: self.offset.into(),
            token: self.token.0.into(),
            length: self.length.into(),
        })
    }

    /// Checks that the descriptor names at least one byte, and that the address after its last byte fits into 64 bits.
    fn check(self) -> Result<(), WireError> {
        if self.length == 0 {
            return Err(WireError::DescriptorLengthZero);
        }
        match self.offset.checked_add(u64::from(self.length)) {
            Some(_) => Ok(()),
            None => Err(WireError::DescriptorWraps),
        }
    }
}

impl From<&RawDescriptor> for BufferDescriptorV1 {
    #[inline]
    fn from(raw: &RawDescriptor) -> Self {
        Self {
            offset: raw.offset.get(),
            token: RemoteToken(raw.token.get()),
            length: raw.length.get(),
        }
    }
}

/// A view of a list of buffer descriptors: at least one, each of them checked.
#[derive(Clone, Copy, Debug)]
pub struct BufferDescriptors<'a> {
    first: BufferDescriptorV1,
    raw: &'a [RawDescriptor],
    total_length: u64,
}

impl<'a> BufferDescriptors<'a> {
    /// Checks a list that fills `bytes`.
    ///
    /// # Errors
    ///
    /// [`WireError::DescriptorListUneven`], [`WireError::DescriptorListEmpty`],
    /// [`WireError::DescriptorLengthZero`], [`WireError::DescriptorWraps`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        let raw = <[RawDescriptor]>::ref_from_bytes(bytes)
            .map_err(|_| WireError::DescriptorListUneven)?;
        let first = raw.first().ok_or(WireError::DescriptorListEmpty)?.into();
        let mut total_length: u64 = 0;
        for descriptor in raw.iter().map(BufferDescriptorV1::from) {
            descriptor.check()?;
            // It would take 2^32 descriptors to reach the end of 64 bits.
            total_length = total_length.saturating_add(u64::from(descriptor.length));
        }
        Ok(Self {
            first,
            raw,
            total_length,
        })
    }

    /// Returns the first descriptor, whose token is the one that channel 2 asks to invalidate.
    #[must_use]
    pub const fn first(&self) -> BufferDescriptorV1 {
        self.first
    }

    /// Returns the number of descriptors, at least 1.
    #[must_use]
    #[allow(clippy::len_without_is_empty)]
    pub const fn len(&self) -> usize {
        self.raw.len()
    }

    /// Returns how many bytes all descriptors together describe.
    #[must_use]
    pub const fn total_length(&self) -> u64 {
        self.total_length
    }

    /// Returns the descriptors as they came.
    #[must_use]
    pub fn as_bytes(&self) -> &'a [u8] {
        IntoBytes::as_bytes(self.raw)
    }

    /// Returns the descriptors in order.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = BufferDescriptorV1> + use<'a> {
        self.raw.iter().map(BufferDescriptorV1::from)
    }

    /// Distributes a transfer of `length` bytes over the descriptors: each is filled to its own length before the next,
    /// and descriptors after the end of the data are not used at all.
    ///
    /// # Errors
    ///
    /// [`WireError::DescriptorsTooSmall`].
    pub fn pieces(&self, length: u32) -> Result<Pieces<'a>, WireError> {
        if self.total_length < u64::from(length) {
            return Err(WireError::DescriptorsTooSmall);
        }
        Ok(Pieces {
            raw: self.raw.iter(),
            position: 0,
            left: length,
        })
    }
}

/// A part of a transfer that is contiguous in the peer's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Offset of the piece in the transfer, in bytes.
    pub position: u32,
    /// The piece's place in the peer's memory, and its length, which is not 0.
    pub remote: BufferDescriptorV1,
}

/// The pieces of a transfer, in order and without a gap. [`BufferDescriptors::pieces`] makes them.
#[derive(Clone, Debug)]
pub struct Pieces<'a> {
    raw: core::slice::Iter<'a, RawDescriptor>,
    position: u32,
    left: u32,
}

impl Iterator for Pieces<'_> {
    type Item = Piece;

    #[inline]
    fn next(&mut self) -> Option<Piece> {
        if self.left == 0 {
            return None;
        }
        let mut remote = BufferDescriptorV1::from(self.raw.next()?);
        remote.length = remote.length.min(self.left);
        let piece = Piece {
            position: self.position,
            remote,
        };
        // `position + left` is the length of the transfer throughout: neither can wrap.
        self.left -= remote.length;
        self.position += remote.length;
        Some(piece)
    }
}

impl FusedIterator for Pieces<'_> {}

#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawDescriptor {
    offset: U64,
    token: U32,
    length: U32,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BYTES: [u8; 16] = [
        0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01, 0xdd, 0xcc, 0xbb, 0xaa, 0x00, 0x00, 0x10,
        0x00,
    ];
    const DESCRIPTOR: BufferDescriptorV1 = BufferDescriptorV1 {
        offset: 0x0102_0304_0506_0708,
        token: RemoteToken(0xaabb_ccdd),
        length: 1 << 20,
    };

    fn list(descriptors: &[(u64, u32, u32)]) -> Vec<u8> {
        let emit = |&(offset, token, length)| {
            BufferDescriptorV1 {
                offset,
                token: RemoteToken(token),
                length,
            }
            .emit()
        };
        descriptors.iter().flat_map(emit).collect()
    }

    fn pieces(bytes: &[u8], length: u32) -> Vec<(u32, u64, u32, u32)> {
        let pieces = BufferDescriptors::parse(bytes)
            .unwrap()
            .pieces(length)
            .unwrap();
        pieces
            .map(|p| {
                (
                    p.position,
                    p.remote.offset,
                    p.remote.token.0,
                    p.remote.length,
                )
            })
            .collect()
    }

    #[test]
    fn reads_and_writes_a_descriptor() {
        assert_eq!(BufferDescriptorV1::parse(&BYTES), Ok(DESCRIPTOR));
        assert_eq!(DESCRIPTOR.emit(), BYTES);
        assert_eq!(
            BufferDescriptorV1::parse(&BYTES[..15]),
            Err(WireError::TooShort)
        );
    }

    #[test]
    fn a_list_knows_its_first_token_and_its_total() {
        // Windows describes 1 MiB like this.
        let bytes = list(&[(0x1000, 7, 0xfffc0), (0x9000, 8, 0x40)]);
        let descriptors = BufferDescriptors::parse(&bytes).unwrap();
        assert_eq!(descriptors.first().token, RemoteToken(7));
        assert_eq!(descriptors.total_length(), 1 << 20);
        assert_eq!(descriptors.len(), 2);
        assert_eq!(descriptors.iter().last().map(|d| d.offset), Some(0x9000));
    }

    #[test]
    fn each_rule_of_the_list_is_checked() {
        let refusal = |bytes: &[u8]| BufferDescriptors::parse(bytes).err();
        assert_eq!(refusal(&[]), Some(WireError::DescriptorListEmpty));
        assert_eq!(refusal(&BYTES[..15]), Some(WireError::DescriptorListUneven));
        assert_eq!(refusal(&[0; 17]), Some(WireError::DescriptorListUneven));
        let bytes = list(&[(0, 1, 1), (0, 1, 0)]);
        assert_eq!(refusal(&bytes), Some(WireError::DescriptorLengthZero));
        let bytes = list(&[(0, 1, 1), (u64::MAX, 1, 1)]);
        assert_eq!(refusal(&bytes), Some(WireError::DescriptorWraps));
        assert_eq!(refusal(&list(&[(u64::MAX - 1, 1, 1)])), None);
    }

    #[test]
    fn the_total_does_not_wrap_around() {
        let bytes = list(&[(0, 1, u32::MAX); 4095]);
        let descriptors = BufferDescriptors::parse(&bytes).unwrap();
        assert_eq!(descriptors.total_length(), 4095 * u64::from(u32::MAX));
        assert_eq!(descriptors.pieces(u32::MAX).unwrap().count(), 1);
    }

    #[test]
    fn a_short_transfer_stops_within_the_first_descriptor() {
        let bytes = list(&[(0x1000, 7, 0xfffc0), (0x9000, 8, 0x40)]);
        assert_eq!(pieces(&bytes, 100), [(0, 0x1000, 7, 100)]);
    }

    #[test]
    fn a_transfer_that_ends_with_a_descriptor_uses_no_further_descriptor() {
        let bytes = list(&[(0x1000, 7, 10), (0x9000, 8, 10), (0xf000, 9, 10)]);
        assert_eq!(
            pieces(&bytes, 20),
            [(0, 0x1000, 7, 10), (10, 0x9000, 8, 10)]
        );
    }

    #[test]
    fn the_last_descriptor_is_cut_to_the_data() {
        let bytes = list(&[(0x1000, 7, 10), (0x9000, 8, u32::MAX), (0xf000, 9, 10)]);
        assert_eq!(pieces(&bytes, 13), [(0, 0x1000, 7, 10), (10, 0x9000, 8, 3)]);
    }

    #[test]
    fn a_transfer_of_nothing_has_no_pieces() {
        assert!(pieces(&BYTES, 0).is_empty());
    }

    #[test]
    fn refuses_a_transfer_that_is_larger_than_the_list() {
        let bytes = list(&[(0x1000, 7, 10), (0x9000, 8, 10)]);
        let descriptors = BufferDescriptors::parse(&bytes).unwrap();
        assert_eq!(
            descriptors.pieces(21).err(),
            Some(WireError::DescriptorsTooSmall)
        );
        assert!(descriptors.pieces(20).is_ok());
    }

    proptest! {
        #[test]
        fn any_descriptor_survives_emit_and_parse(bytes: [u8; 16]) {
            prop_assert_eq!(BufferDescriptorV1::parse(&bytes).unwrap().emit(), bytes);
        }

        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let whole = !bytes.is_empty() && bytes.len() % 16 == 0;
            let descriptors = BufferDescriptors::parse(&bytes);
            prop_assert!(whole || descriptors.is_err());
            prop_assert_eq!(BufferDescriptorV1::parse(&bytes).is_ok(), bytes.len() >= 16);
        }

        #[test]
        fn pieces_cover_a_transfer_exactly_and_within_the_descriptors(
            list_of in proptest::collection::vec((0..u64::MAX / 2, any::<u32>(), 1u32..50_000), 1..9),
            length in 0u32..100_000,
        ) {
            let bytes = list(&list_of);
            let descriptors = BufferDescriptors::parse(&bytes).unwrap();
            let total_length = list_of.iter().map(|descriptor| u64::from(descriptor.2)).sum::<u64>();
            prop_assert_eq!(descriptors.total_length(), total_length);
            let Ok(pieces) = descriptors.pieces(length) else {
                prop_assert!(total_length < u64::from(length));
                return Ok(());
            };
            let mut position = 0;
            for (piece, descriptor) in pieces.zip(descriptors.iter()) {
                prop_assert_eq!(piece.position, position);
                prop_assert_eq!(piece.remote.offset, descriptor.offset);
                prop_assert_eq!(piece.remote.token, descriptor.token);
                prop_assert!(0 < piece.remote.length && piece.remote.length <= descriptor.length);
                position += piece.remote.length;
            }
            prop_assert_eq!(position, length);
        }
    }
}
