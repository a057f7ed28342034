// SPDX-License-Identifier: GPL-2.0-or-later

//! Bytes on the wire and the values they mean: the messages of [MS-SMBD] and the slice of SMB2
//! ([MS-SMB2]) that a device has to read.
//!
//! A peer that is not trusted wrote the bytes that arrive here. There are two levels:
//!
//! - A *value* is small and owned: [`NegotiateRequest`], [`NegotiateResponse`], [`DataTransfer`],
//!   [`BufferDescriptorV1`]. `parse` makes it from bytes, `emit` makes bytes from it.
//! - A *view* borrows the bytes and reads fields in place: [`BufferDescriptors`] and
//!   everything in [`smb2`]. It is checked as a whole when it is made; reading it cannot fail later.
//!
//! Both are made by `parse`, which checks every rule that can be judged from the bytes alone and names the first broken
//! one as a [`WireError`]. Rules that need more than the message (our role, what was agreed, what came before) belong
//! to [`proto`](crate::proto).
//!
//! Nothing here allocates, keeps state, reads a clock or panics on any input. Bytes must not change while a view of
//! them lives: copy them first if a peer or another process may write to their memory. Integers are little-endian
//! throughout.

mod buffer_descriptor;
mod data_transfer;
mod negotiate;
pub mod smb2;

pub use buffer_descriptor::{BufferDescriptorV1, BufferDescriptors, Piece, Pieces};
pub use data_transfer::DataTransfer;
pub use negotiate::{
    MIN_MAX_FRAGMENTED_SIZE, MIN_MAX_RECEIVE_SIZE, NegotiateRequest, NegotiateResponse,
    STATUS_INSUFFICIENT_RESOURCES, STATUS_NOT_SUPPORTED, STATUS_SUCCESS, VERSION,
};

/// The rule that bytes from a peer break. The names of the variants say which field of which message breaks it;
/// variants that begin with `Smb2` are rules of [MS-SMB2], the others of [MS-SMBD].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::IntoStaticStr, thiserror::Error)]
#[strum(serialize_all = "snake_case")]
pub enum WireError {
    /// The message ends before its fixed part does.
    #[error("the message is shorter than its fixed part")]
    TooShort,

    /// The version agreed on is not [`VERSION`] ([MS-SMBD] 3.1.5.7).
    #[error("NegotiatedVersion is not 0x0100")]
    NegotiatedVersion,
    /// `CreditsRequested` is 0, in any message ([MS-SMBD] 3.1.5.6 to 3.1.5.8).
    #[error("CreditsRequested is 0")]
    CreditsRequestedZero,
    /// A negotiate response grants nothing ([MS-SMBD] 3.1.5.7).
    #[error("CreditsGranted is 0 in a negotiate response")]
    CreditsGrantedZero,
    /// A negotiate response has another status than success ([MS-SMBD] 3.1.5.7).
    #[error("Status of the negotiate response is not success")]
    StatusNotSuccess,
    /// A negotiate response announces larger messages than were offered ([MS-SMBD] 3.1.5.7).
    #[error("PreferredSendSize is larger than our MaxReceiveSize")]
    PreferredSendSizeTooLarge,
    /// `MaxReceiveSize` is below [`MIN_MAX_RECEIVE_SIZE`] ([MS-SMBD] 3.1.5.6, 3.1.5.7).
    #[error("MaxReceiveSize is below 128")]
    MaxReceiveSizeTooSmall,
    /// `MaxFragmentedSize` is below [`MIN_MAX_FRAGMENTED_SIZE`] ([MS-SMBD] 3.1.5.6, 3.1.5.7).
    #[error("MaxFragmentedSize is below 131072")]
    MaxFragmentedSizeTooSmall,

    /// `DataOffset` is not a multiple of 8 ([MS-SMBD] 3.1.5.8).
    #[error("DataOffset is not a multiple of 8")]
    DataOffsetUnaligned,
    /// `DataOffset + DataLength` is beyond the end of the message ([MS-SMBD] 3.1.5.8).
    #[error("the data lies beyond the end of the message")]
    DataOutOfBounds,
    /// There is data, and it begins within the header. [MS-SMBD] does not state this rule explicitly.
    #[error("the data begins within the header")]
    DataOffsetInHeader,

    /// There is no buffer descriptor at all.
    #[error("the list of buffer descriptors is empty")]
    DescriptorListEmpty,
    /// The list is not a whole number of buffer descriptors.
    #[error("the list of buffer descriptors is not a multiple of 16 bytes")]
    DescriptorListUneven,
    /// A buffer descriptor describes nothing.
    #[error("a buffer descriptor has length 0")]
    DescriptorLengthZero,
    /// `Offset + Length` of a buffer descriptor exceeds 64 bits.
    #[error("the end of a buffer descriptor wraps around")]
    DescriptorWraps,
    /// The buffer descriptors together are smaller than the transfer.
    #[error("the buffer descriptors are smaller than the transfer")]
    DescriptorsTooSmall,

    /// The message is not an SMB2 message of any kind.
    #[error("the protocol id is not SMB2's")]
    Smb2ProtocolId,
    /// `StructureSize` of a header or a request body has another value than its definition.
    #[error("StructureSize is wrong")]
    Smb2StructureSize,
    /// The request is not the one that the reader expected.
    #[error("Command is not the expected one")]
    Smb2Command,
    /// `NextCommand` is not a multiple of 8.
    #[error("NextCommand is not a multiple of 8")]
    Smb2NextCommandUnaligned,
    /// `NextCommand` points into its own header.
    #[error("NextCommand points into the header")]
    Smb2NextCommandInHeader,
    /// There is no room for a header at the place to which `NextCommand` points.
    #[error("NextCommand points beyond the end of the message")]
    Smb2NextCommandOutOfBounds,

    /// NEGOTIATE offers no dialect.
    #[error("DialectCount is 0")]
    Smb2DialectCountZero,
    /// The dialects lie beyond the end of the request.
    #[error("the dialects lie beyond the end of the request")]
    Smb2DialectsOutOfBounds,
    /// `NegotiateContextOffset` is not a multiple of 8.
    #[error("NegotiateContextOffset is not a multiple of 8")]
    Smb2NegotiateContextUnaligned,
    /// `NegotiateContextOffset` points before the end of the dialects.
    #[error("the negotiate contexts overlap the dialects")]
    Smb2NegotiateContextOverlap,
    /// A negotiate context lies beyond the end of the request.
    #[error("a negotiate context lies beyond the end of the request")]
    Smb2NegotiateContextOutOfBounds,

    /// The security buffer begins before the end of the fixed part.
    #[error("the security buffer begins within the fixed part")]
    Smb2SecurityBufferOverlap,
    /// The security buffer lies beyond the end of the request.
    #[error("the security buffer lies beyond the end of the request")]
    Smb2SecurityBufferOutOfBounds,

    /// `Channel` is unknown, or one that the reader does not accept.
    #[error("Channel is not supported")]
    Smb2ChannelUnsupported,
    /// A READ over a channel asks for 0 bytes ([MS-SMB2] 3.3.5.12).
    #[error("Length is 0 in a READ over a channel")]
    Smb2ReadLengthZero,
    /// A WRITE over a channel also carries data ([MS-SMB2] 3.3.5.13).
    #[error("Length is not 0 in a WRITE over a channel")]
    Smb2WriteLengthNotZero,
    /// A WRITE over a channel also points at data ([MS-SMB2] 3.3.5.13).
    #[error("DataOffset is not 0 in a WRITE over a channel")]
    Smb2WriteDataOffsetNotZero,
    /// A WRITE over a channel has 0 bytes ([MS-SMB2] 3.3.5.13).
    #[error("RemainingBytes is 0 in a WRITE over a channel")]
    Smb2WriteRemainingBytesZero,
    /// The request has a channel but no channel information: offset or length is 0.
    #[error("the channel information is missing")]
    Smb2ChannelInfoMissing,
    /// The channel information begins before the end of the fixed part.
    #[error("the channel information begins within the fixed part")]
    Smb2ChannelInfoOverlap,
    /// The channel information lies beyond the end of the request.
    #[error("the channel information lies beyond the end of the request")]
    Smb2ChannelInfoOutOfBounds,

    /// An RDMA transform ends before its fixed part does.
    #[error("an RDMA transform is shorter than its fixed part")]
    TransformTooShort,
    /// `Channel` of an RDMA transform is not a channel with buffer descriptors in a WRITE, or not 0 in a READ response.
    #[error("Channel of an RDMA transform is wrong")]
    TransformChannel,
    /// `TransformCount` is not 1 ([MS-SMB2] 3.3.5.13): 0, or more than one transform.
    #[error("TransformCount of an RDMA transform is not 1")]
    TransformCount,
    /// `TransformType` is neither encryption nor signing.
    #[error("TransformType of an RDMA transform is unknown")]
    TransformType,
    /// The signature, the nonce or the buffer descriptors lie beyond the end of the channel information.
    #[error("an RDMA transform lies beyond the end of the channel information")]
    TransformOutOfBounds,
    /// The buffer descriptors do not begin at the first multiple of 8 after the transform ([MS-SMB2] 3.3.5.13).
    #[error(
        "the buffer descriptors do not begin at the first multiple of 8 after the RDMA transform"
    )]
    TransformDescriptorsMisplaced,
}

impl WireError {
    /// Returns a stable name for counters, in lower case, with words joined by `_`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// Returns the `length` bytes at `offset`; `None` if they do not all lie in `bytes`.
#[inline]
fn slice(bytes: &[u8], offset: u32, length: u32) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::try_from(length).ok()?)?;
    bytes.get(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_has_a_name_for_counters() {
        assert_eq!(
            WireError::CreditsRequestedZero.name(),
            "credits_requested_zero"
        );
        assert_eq!(
            WireError::Smb2ChannelInfoOverlap.name(),
            "smb2_channel_info_overlap"
        );
    }

    #[test]
    fn a_slice_never_wraps_around() {
        assert_eq!(slice(&[1, 2, 3], 1, 2), Some(&[2, 3][..]));
        assert_eq!(slice(&[1, 2, 3], 3, 0), Some(&[][..]));
        assert_eq!(slice(&[1, 2, 3], 2, 2), None);
        assert_eq!(slice(&[1, 2, 3], u32::MAX, u32::MAX), None);
    }
}
