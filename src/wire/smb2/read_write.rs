// SPDX-License-Identifier: GPL-2.0-or-later

//! SMB2 READ Request ([MS-SMB2] 2.2.19) and WRITE Request ([MS-SMB2] 2.2.21), as far as they direct
//! RDMA: the channel and its buffer descriptors.
//!
//! `transfer` is strict: its result can be posted. `token_to_invalidate` is not strict, because a client that asked for
//! invalidation relies on the invalidation even if its request is refused: without the invalidation, the client would
//! register memory under a token that is still in use, and lose the connection.
//!
//! The owner has to check whether the dialect allows the channel, and whether the transfer is within the negotiated
//! sizes.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::super::{BufferDescriptorV1, BufferDescriptors, Pieces, WireError, slice};
use super::{Body, CryptoTransform, Header, RdmaTransform, Request};
use crate::units::RemoteToken;

/// The lowest offset of the channel information.
const BUFFER_OFFSET: u16 = 64 + 48;

/// How the data of a READ or WRITE travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// The data is in the message.
    None,
    /// The data goes by RDMA.
    RdmaV1,
    /// The data goes by RDMA, and the response invalidates the token of the first buffer descriptor.
    RdmaV1Invalidate,
    /// The data goes by RDMA, encrypted or signed (SMB 3.1.1, only if both sides negotiated it).
    RdmaTransform,
}

impl Channel {
    /// Returns the channel with the number `channel`.
    ///
    /// # Errors
    ///
    /// [`WireError::Smb2ChannelUnsupported`] if there is none.
    pub const fn parse(channel: u32) -> Result<Self, WireError> {
        match channel {
            0 => Ok(Self::None),
            1 => Ok(Self::RdmaV1),
            2 => Ok(Self::RdmaV1Invalidate),
            3 => Ok(Self::RdmaTransform),
            _ => Err(WireError::Smb2ChannelUnsupported),
        }
    }
}

/// Data that travels by RDMA, and where it is in the client's memory. The descriptors are large enough.
#[derive(Clone, Copy, Debug)]
pub struct ChannelTransfer<'a> {
    channel: Channel,
    length: u32,
    descriptors: BufferDescriptors<'a>,
}

impl<'a> ChannelTransfer<'a> {
    /// Returns the channel: [`Channel::RdmaV1`] or [`Channel::RdmaV1Invalidate`].
    #[must_use]
    pub const fn channel(&self) -> Channel {
        self.channel
    }

    /// Returns the number of bytes to read or write, at least 1. A READ may turn out to be shorter.
    #[must_use]
    pub const fn length(&self) -> u32 {
        self.length
    }

    /// Returns the buffer descriptors: where the data is in the client's memory.
    #[must_use]
    pub const fn descriptors(&self) -> BufferDescriptors<'a> {
        self.descriptors
    }

    /// Returns the pieces of the first `length` bytes: all bytes of a WRITE or, for a READ, the bytes that were read
    /// from the file.
    ///
    /// # Errors
    ///
    /// [`WireError::DescriptorsTooSmall`], which cannot happen if `length` is at most [`Self::length`].
    pub fn pieces(&self, length: u32) -> Result<Pieces<'a>, WireError> {
        self.descriptors.pieces(length)
    }
}

/// Data of a WRITE that travels by RDMA encrypted or signed. The descriptors are large enough.
#[derive(Clone, Copy, Debug)]
pub struct TransformTransfer<'a> {
    length: u32,
    transform: RdmaTransform<'a>,
}

impl<'a> TransformTransfer<'a> {
    /// Returns the number of bytes to write, at least 1.
    #[must_use]
    pub const fn length(&self) -> u32 {
        self.length
    }

    /// Returns the channel: [`Channel::RdmaV1`] or [`Channel::RdmaV1Invalidate`].
    #[must_use]
    pub const fn channel(&self) -> Channel {
        self.transform.channel()
    }

    /// Returns how the data is protected.
    #[must_use]
    pub const fn crypto(&self) -> CryptoTransform<'a> {
        self.transform.crypto()
    }

    /// Returns the buffer descriptors: where the data is in the client's memory.
    #[must_use]
    pub const fn descriptors(&self) -> BufferDescriptors<'a> {
        self.transform.descriptors()
    }
}

/// A READ request.
///
/// ```text
///  64 StructureSize (49)                   66 Padding          67 Flags
///  68 Length           72 Offset           80 FileId           96 MinimumCount
/// 100 Channel         104 RemainingBytes  108 ReadChannelInfoOffset
/// 110 ReadChannelInfoLength               112 Buffer
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ReadRequest<'a> {
    request: Request<'a>,
    body: &'a ReadBody,
}

impl<'a> ReadRequest<'a> {
    /// Reads the fixed part of a READ request; its values may be anything.
    ///
    /// # Errors
    ///
    /// [`WireError::Smb2Command`], [`WireError::TooShort`], [`WireError::Smb2StructureSize`].
    pub fn parse(request: Request<'a>) -> Result<Self, WireError> {
        Ok(Self {
            request,
            body: request.body()?,
        })
    }

    /// Returns the number of bytes to read.
    #[must_use]
    pub fn length(&self) -> u32 {
        self.body.length.get()
    }

    /// Returns the offset in the file at which to begin, in bytes.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.body.offset.get()
    }

    /// Returns the minimum number of bytes: with fewer, the READ fails.
    #[must_use]
    pub fn minimum_count(&self) -> u32 {
        self.body.minimum_count.get()
    }

    /// Returns the request's Channel field as a number, whether valid or not; [`Channel::parse`] gives its meaning.
    #[must_use]
    pub fn channel(&self) -> u32 {
        self.body.channel.get()
    }

    /// Returns `RemainingBytes`, a hint.
    #[must_use]
    pub fn remaining_bytes(&self) -> u32 {
        self.body.remaining_bytes.get()
    }

    /// Returns the transfer to make by RDMA WRITE, once the file has been read; `None` if the data goes into the
    /// response ([MS-SMB2] 3.3.5.12).
    ///
    /// # Errors
    ///
    /// [`WireError::Smb2ChannelUnsupported`], [`WireError::Smb2ReadLengthZero`], [`WireError::DescriptorsTooSmall`];
    /// the errors of [`BufferDescriptors::parse`]; and, if the buffer descriptors are missing or out of place,
    /// [`WireError::Smb2ChannelInfoMissing`], [`WireError::Smb2ChannelInfoOverlap`] or
    /// [`WireError::Smb2ChannelInfoOutOfBounds`].
    pub fn transfer(&self) -> Result<Option<ChannelTransfer<'a>>, WireError> {
        let Some(channel) = descriptor_channel(self.channel())? else {
            return Ok(None);
        };
        if self.length() == 0 {
            return Err(WireError::Smb2ReadLengthZero);
        }
        self.channel_info()
            .transfer(channel, self.length())
            .map(Some)
    }

    /// Returns the token that each final response, including an error, has to invalidate. With channel 2, this is the
    /// token of the first descriptor, whatever else is wrong with the request.
    #[must_use]
    pub fn token_to_invalidate(&self) -> Option<RemoteToken> {
        self.channel_info().token_to_invalidate(self.channel())
    }

    fn channel_info(&self) -> ChannelInfo<'a> {
        ChannelInfo {
            request: self.request.bytes(),
            offset: self.body.read_channel_info_offset.get(),
            length: self.body.read_channel_info_length.get(),
        }
    }
}

/// A WRITE request.
///
/// ```text
///  64 StructureSize (49)                   66 DataOffset       68 Length
///  72 Offset           80 FileId           96 Channel         100 RemainingBytes
/// 104 WriteChannelInfoOffset              106 WriteChannelInfoLength
/// 108 Flags           112 Buffer
/// ```
#[derive(Clone, Copy, Debug)]
pub struct WriteRequest<'a> {
    request: Request<'a>,
    body: &'a WriteBody,
}

impl<'a> WriteRequest<'a> {
    /// Reads the fixed part of a WRITE request; its values may be anything.
    ///
    /// # Errors
    ///
    /// [`WireError::Smb2Command`], [`WireError::TooShort`], [`WireError::Smb2StructureSize`].
    pub fn parse(request: Request<'a>) -> Result<Self, WireError> {
        Ok(Self {
            request,
            body: request.body()?,
        })
    }

    /// Returns the offset of the data in the request, in bytes from its header. The offset has not been checked.
    #[must_use]
    pub fn data_offset(&self) -> u16 {
        self.body.data_offset.get()
    }

    /// Returns the number of bytes of data in the request, which is 0 with a channel.
    #[must_use]
    pub fn length(&self) -> u32 {
        self.body.length.get()
    }

    /// Returns the offset in the file at which to begin, in bytes.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.body.offset.get()
    }

    /// Returns the request's Channel field as a number, whether valid or not; [`Channel::parse`] gives its meaning.
    #[must_use]
    pub fn channel(&self) -> u32 {
        self.body.channel.get()
    }

    /// Returns the number of bytes to write over the channel; without a channel, the number is only a hint.
    #[must_use]
    pub fn remaining_bytes(&self) -> u32 {
        self.body.remaining_bytes.get()
    }

    /// Returns the transfer to make by RDMA READ; `None` if the data is in the request ([MS-SMB2] 3.3.5.13).
    ///
    /// # Errors
    ///
    /// [`WireError::Smb2ChannelUnsupported`], [`WireError::Smb2WriteLengthNotZero`],
    /// [`WireError::Smb2WriteDataOffsetNotZero`], [`WireError::Smb2WriteRemainingBytesZero`],
    /// [`WireError::DescriptorsTooSmall`]; the errors of [`BufferDescriptors::parse`]; and, if the buffer descriptors
    /// are missing or out of place, [`WireError::Smb2ChannelInfoMissing`], [`WireError::Smb2ChannelInfoOverlap`] or
    /// [`WireError::Smb2ChannelInfoOutOfBounds`].
    pub fn transfer(&self) -> Result<Option<ChannelTransfer<'a>>, WireError> {
        let Some(channel) = descriptor_channel(self.channel())? else {
            return Ok(None);
        };
        self.check_data()?;
        self.channel_info()
            .transfer(channel, self.remaining_bytes())
            .map(Some)
    }

    /// Returns the transfer to make by RDMA READ for a WRITE over channel 3, and how its data is protected.
    ///
    /// # Errors
    ///
    /// [`WireError::Smb2ChannelUnsupported`] for another channel; the errors of [`Self::transfer`] for the rest of the
    /// request; and those of [`RdmaTransform::parse`].
    pub fn transform(&self) -> Result<TransformTransfer<'a>, WireError> {
        if Channel::parse(self.channel())? != Channel::RdmaTransform {
            return Err(WireError::Smb2ChannelUnsupported);
        }
        self.check_data()?;
        let transform = RdmaTransform::parse(self.channel_info().bytes()?)?;
        let length = self.remaining_bytes();
        if transform.descriptors().total_length() < u64::from(length) {
            return Err(WireError::DescriptorsTooSmall);
        }
        Ok(TransformTransfer { length, transform })
    }

    /// Checks that the data of a WRITE over a channel is not in the request.
    fn check_data(&self) -> Result<(), WireError> {
        if self.length() != 0 {
            return Err(WireError::Smb2WriteLengthNotZero);
        }
        if self.data_offset() != 0 {
            return Err(WireError::Smb2WriteDataOffsetNotZero);
        }
        if self.remaining_bytes() == 0 {
            return Err(WireError::Smb2WriteRemainingBytesZero);
        }
        Ok(())
    }

    /// Returns the token that each final response, including an error, has to invalidate. With channel 2, and with
    /// channel 3 if its transform says so, this is the token of the first descriptor, whatever else is wrong with the
    /// request.
    #[must_use]
    pub fn token_to_invalidate(&self) -> Option<RemoteToken> {
        let info = self.channel_info();
        if Channel::parse(self.channel()) == Ok(Channel::RdmaTransform) {
            return RdmaTransform::token_to_invalidate(info.bytes().ok()?);
        }
        info.token_to_invalidate(self.channel())
    }

    fn channel_info(&self) -> ChannelInfo<'a> {
        ChannelInfo {
            request: self.request.bytes(),
            offset: self.body.write_channel_info_offset.get(),
            length: self.body.write_channel_info_length.get(),
        }
    }
}

/// Returns the channel, which has to be one with buffer descriptors; `None` if there is no channel.
fn descriptor_channel(channel: u32) -> Result<Option<Channel>, WireError> {
    match Channel::parse(channel)? {
        Channel::None => Ok(None),
        Channel::RdmaTransform => Err(WireError::Smb2ChannelUnsupported),
        channel @ (Channel::RdmaV1 | Channel::RdmaV1Invalidate) => Ok(Some(channel)),
    }
}

/// The place that a request names for its channel information.
struct ChannelInfo<'a> {
    request: &'a [u8],
    offset: u16,
    length: u16,
}

impl<'a> ChannelInfo<'a> {
    fn bytes(&self) -> Result<&'a [u8], WireError> {
        if self.offset == 0 || self.length == 0 {
            return Err(WireError::Smb2ChannelInfoMissing);
        }
        if self.offset < BUFFER_OFFSET {
            return Err(WireError::Smb2ChannelInfoOverlap);
        }
        slice(self.request, self.offset.into(), self.length.into())
            .ok_or(WireError::Smb2ChannelInfoOutOfBounds)
    }

    fn transfer(&self, channel: Channel, length: u32) -> Result<ChannelTransfer<'a>, WireError> {
        let descriptors = BufferDescriptors::parse(self.bytes()?)?;
        if descriptors.total_length() < u64::from(length) {
            return Err(WireError::DescriptorsTooSmall);
        }
        Ok(ChannelTransfer {
            channel,
            length,
            descriptors,
        })
    }

    fn token_to_invalidate(&self, channel: u32) -> Option<RemoteToken> {
        if Channel::parse(channel) != Ok(Channel::RdmaV1Invalidate) {
            return None;
        }
        let first = BufferDescriptorV1::parse(self.bytes().ok()?).ok()?;
        Some(first.token)
    }
}

#[derive(Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ReadBody {
    structure_size: U16,
    padding: u8,
    flags: u8,
    length: U32,
    offset: U64,
    file_id: [u8; 16],
    minimum_count: U32,
    channel: U32,
    remaining_bytes: U32,
    read_channel_info_offset: U16,
    read_channel_info_length: U16,
}

impl Body for ReadBody {
    const COMMAND: u16 = Header::READ;
    const STRUCTURE_SIZE: u16 = 49;

    fn structure_size(&self) -> u16 {
        self.structure_size.get()
    }
}

#[derive(Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct WriteBody {
    structure_size: U16,
    data_offset: U16,
    length: U32,
    offset: U64,
    file_id: [u8; 16],
    channel: U32,
    remaining_bytes: U32,
    write_channel_info_offset: U16,
    write_channel_info_length: U16,
    flags: U32,
}

impl Body for WriteBody {
    const COMMAND: u16 = Header::WRITE;
    const STRUCTURE_SIZE: u16 = 49;

    fn structure_size(&self) -> u16 {
        self.structure_size.get()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{header, request, with};
    use super::*;

    const DESCRIPTOR: BufferDescriptorV1 = BufferDescriptorV1 {
        offset: 0x1_2345_6000,
        token: RemoteToken(0x1234_5601),
        length: 0x10_0000,
    };

    /// Makes a READ of 1 MiB at 2 MiB as cifs.ko sends it: one descriptor at 112, 128 bytes in all.
    fn read() -> Vec<u8> {
        let mut bytes = header(Header::READ);
        bytes.extend([49, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0x20, 0, 0, 0, 0, 0]);
        bytes.extend([0xf1; 16]);
        bytes.extend([1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 112, 0, 16, 0]);
        bytes.extend(DESCRIPTOR.emit());
        bytes
    }

    /// Makes the same request as a WRITE.
    fn write() -> Vec<u8> {
        let mut bytes = header(Header::WRITE);
        bytes.extend([49, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0]);
        bytes.extend([0xf1; 16]);
        bytes.extend([2, 0, 0, 0, 0, 0, 0x10, 0, 112, 0, 16, 0, 0, 0, 0, 0]);
        bytes.extend(DESCRIPTOR.emit());
        bytes
    }

    fn read_error(bytes: &[u8]) -> Option<WireError> {
        ReadRequest::parse(request(bytes))
            .and_then(|read| read.transfer())
            .err()
    }

    fn write_error(bytes: &[u8]) -> Option<WireError> {
        WriteRequest::parse(request(bytes))
            .and_then(|write| write.transfer())
            .err()
    }

    fn read_token(bytes: &[u8]) -> Option<RemoteToken> {
        ReadRequest::parse(request(bytes))
            .unwrap()
            .token_to_invalidate()
    }

    #[test]
    fn reads_a_read_over_a_channel() {
        let bytes = read();
        assert_eq!(bytes.len(), 128);
        let read = ReadRequest::parse(request(&bytes)).unwrap();
        assert_eq!((read.length(), read.offset()), (1 << 20, 2 << 20));
        assert_eq!(
            (read.minimum_count(), read.remaining_bytes(), read.channel()),
            (1, 0, 2)
        );
        let transfer = read.transfer().unwrap().unwrap();
        assert_eq!(transfer.channel(), Channel::RdmaV1Invalidate);
        assert_eq!(transfer.length(), 1 << 20);
        assert_eq!(transfer.descriptors().first(), DESCRIPTOR);
        let pieces: Vec<_> = transfer.pieces(4096).unwrap().collect();
        assert_eq!(pieces.len(), 1);
        assert_eq!(
            pieces[0].remote,
            BufferDescriptorV1 {
                length: 4096,
                ..DESCRIPTOR
            }
        );
        assert_eq!(read.token_to_invalidate(), Some(DESCRIPTOR.token));
    }

    #[test]
    fn reads_a_write_over_a_channel() {
        let bytes = write();
        assert_eq!(bytes.len(), 128);
        let write = WriteRequest::parse(request(&bytes)).unwrap();
        assert_eq!(
            (write.length(), write.data_offset(), write.offset()),
            (0, 0, 2 << 20)
        );
        assert_eq!((write.remaining_bytes(), write.channel()), (1 << 20, 2));
        let transfer = write.transfer().unwrap().unwrap();
        assert_eq!(transfer.length(), 1 << 20);
        assert_eq!(transfer.descriptors().first(), DESCRIPTOR);
        assert_eq!(write.token_to_invalidate(), Some(DESCRIPTOR.token));
    }

    #[test]
    fn without_a_channel_the_other_fields_mean_nothing() {
        let bytes = with(with(read(), 100, &[0]), 108, &[0xff; 4]);
        let read = ReadRequest::parse(request(&bytes)).unwrap();
        assert!(matches!(read.transfer(), Ok(None)));
        assert_eq!(read.token_to_invalidate(), None);
        let bytes = with(with(write(), 96, &[0]), 66, &[112, 0, 16]);
        let write = WriteRequest::parse(request(&bytes)).unwrap();
        assert!(matches!(write.transfer(), Ok(None)));
        assert_eq!(write.token_to_invalidate(), None);
    }

    #[test]
    fn channel_1_invalidates_nothing() {
        let bytes = with(read(), 100, &[1]);
        let read = ReadRequest::parse(request(&bytes)).unwrap();
        assert_eq!(read.transfer().unwrap().unwrap().channel(), Channel::RdmaV1);
        assert_eq!(read.token_to_invalidate(), None);
    }

    #[test]
    fn each_rule_of_a_read_is_checked() {
        assert_eq!(read_error(&read()), None);
        assert_eq!(read_error(&read()[..111]), Some(WireError::TooShort));
        assert_eq!(read_error(&write()), Some(WireError::Smb2Command));
        assert_eq!(
            read_error(&with(read(), 64, &[48])),
            Some(WireError::Smb2StructureSize)
        );
        assert_eq!(
            read_error(&with(read(), 100, &[3])),
            Some(WireError::Smb2ChannelUnsupported)
        );
        assert_eq!(
            read_error(&with(read(), 100, &[4])),
            Some(WireError::Smb2ChannelUnsupported)
        );
        assert_eq!(
            read_error(&with(read(), 70, &[0])),
            Some(WireError::Smb2ReadLengthZero)
        );
        assert_eq!(
            read_error(&with(read(), 68, &[1])),
            Some(WireError::DescriptorsTooSmall)
        );
    }

    #[test]
    fn each_rule_of_a_write_is_checked() {
        assert_eq!(write_error(&write()), None);
        assert_eq!(write_error(&write()[..111]), Some(WireError::TooShort));
        assert_eq!(write_error(&read()), Some(WireError::Smb2Command));
        assert_eq!(
            write_error(&with(write(), 64, &[48])),
            Some(WireError::Smb2StructureSize)
        );
        assert_eq!(
            write_error(&with(write(), 96, &[3])),
            Some(WireError::Smb2ChannelUnsupported)
        );
        assert_eq!(
            write_error(&with(write(), 68, &[1])),
            Some(WireError::Smb2WriteLengthNotZero)
        );
        let refusal = Some(WireError::Smb2WriteDataOffsetNotZero);
        assert_eq!(write_error(&with(write(), 66, &[112])), refusal);
        let refusal = Some(WireError::Smb2WriteRemainingBytesZero);
        assert_eq!(write_error(&with(write(), 102, &[0])), refusal);
        assert_eq!(
            write_error(&with(write(), 100, &[1])),
            Some(WireError::DescriptorsTooSmall)
        );
    }

    #[test]
    fn each_rule_of_the_channel_information_is_checked() {
        let info = |offset: u16, length: u16| {
            let [a, b] = offset.to_le_bytes();
            let [c, d] = length.to_le_bytes();
            let error = read_error(&with(read(), 108, &[a, b, c, d]));
            assert_eq!(error, write_error(&with(write(), 104, &[a, b, c, d])));
            error
        };
        assert_eq!(info(0, 16), Some(WireError::Smb2ChannelInfoMissing));
        assert_eq!(info(112, 0), Some(WireError::Smb2ChannelInfoMissing));
        assert_eq!(info(111, 16), Some(WireError::Smb2ChannelInfoOverlap));
        assert_eq!(info(113, 16), Some(WireError::Smb2ChannelInfoOutOfBounds));
        assert_eq!(info(112, 32), Some(WireError::Smb2ChannelInfoOutOfBounds));
        assert_eq!(
            info(0xffff, 0xffff),
            Some(WireError::Smb2ChannelInfoOutOfBounds)
        );
        assert_eq!(info(112, 15), Some(WireError::DescriptorListUneven));
    }

    #[test]
    fn channel_information_ends_with_its_element_of_a_compound() {
        let mut bytes = with(with(read(), 20, &[112]), 110, &[16]);
        bytes.truncate(112);
        bytes.extend(header(Header::READ));
        let (first, _) = Request::split_first(&bytes).unwrap();
        let read = ReadRequest::parse(first).unwrap();
        assert_eq!(
            read.transfer().err(),
            Some(WireError::Smb2ChannelInfoOutOfBounds)
        );
        assert_eq!(read.token_to_invalidate(), None);
    }

    #[test]
    fn a_refused_request_still_has_its_token_invalidated() {
        let token = Some(DESCRIPTOR.token);
        let length_zero = with(read(), 70, &[0]);
        assert_eq!(read_token(&length_zero), token);
        let descriptor_length_zero = with(read(), 124, &[0; 4]);
        assert_eq!(
            read_error(&descriptor_length_zero),
            Some(WireError::DescriptorLengthZero)
        );
        assert_eq!(read_token(&descriptor_length_zero), token);
        let mut uneven = with(read(), 110, &[17]);
        uneven.push(0);
        assert_eq!(read_error(&uneven), Some(WireError::DescriptorListUneven));
        assert_eq!(read_token(&uneven), token);
        assert_eq!(read_token(&with(read(), 110, &[15])), None);
        assert_eq!(read_token(&with(read(), 108, &[100])), None);
    }

    /// Makes a WRITE over channel 3, with a signature of 16 bytes and no nonce.
    fn transformed() -> Vec<u8> {
        let mut info = vec![40, 0, 16, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        info.extend([2, 0, 16, 0, 0, 0, 0, 0]);
        info.extend([0xaa; 16]);
        info.extend(DESCRIPTOR.emit());
        let mut bytes = with(with(write(), 96, &[3]), 106, &[56]);
        bytes.truncate(112);
        bytes.extend(info);
        bytes
    }

    fn transform_error(bytes: &[u8]) -> Option<WireError> {
        WriteRequest::parse(request(bytes))
            .and_then(|write| write.transform())
            .err()
    }

    #[test]
    fn reads_a_write_with_a_transform() {
        let bytes = transformed();
        let write = WriteRequest::parse(request(&bytes)).unwrap();
        let transfer = write.transform().unwrap();
        assert_eq!(transfer.length(), 1 << 20);
        assert_eq!(transfer.channel(), Channel::RdmaV1Invalidate);
        assert_eq!(transfer.crypto().signature, [0xaa; 16]);
        assert_eq!(transfer.descriptors().first(), DESCRIPTOR);
        assert_eq!(write.token_to_invalidate(), Some(DESCRIPTOR.token));
        assert_eq!(
            write.transfer().err(),
            Some(WireError::Smb2ChannelUnsupported)
        );
        let plain = with(transformed(), 116, &[1]);
        let write = WriteRequest::parse(request(&plain)).unwrap();
        assert_eq!(write.token_to_invalidate(), None);
    }

    #[test]
    fn each_rule_of_a_write_with_a_transform_is_checked() {
        assert_eq!(transform_error(&transformed()), None);
        for channel in [0, 1, 2, 4] {
            assert_eq!(
                transform_error(&with(transformed(), 96, &[channel])),
                Some(WireError::Smb2ChannelUnsupported)
            );
        }
        assert_eq!(
            transform_error(&with(transformed(), 68, &[1])),
            Some(WireError::Smb2WriteLengthNotZero)
        );
        assert_eq!(
            transform_error(&with(transformed(), 66, &[112])),
            Some(WireError::Smb2WriteDataOffsetNotZero)
        );
        assert_eq!(
            transform_error(&with(transformed(), 102, &[0])),
            Some(WireError::Smb2WriteRemainingBytesZero)
        );
        assert_eq!(
            transform_error(&with(transformed(), 100, &[1])),
            Some(WireError::DescriptorsTooSmall)
        );
        assert_eq!(
            transform_error(&with(transformed(), 104, &[0])),
            Some(WireError::Smb2ChannelInfoMissing)
        );
        assert_eq!(
            transform_error(&with(transformed(), 106, &[15])),
            Some(WireError::TransformTooShort)
        );
        let refused = with(transformed(), 120, &[0]);
        assert_eq!(transform_error(&refused), Some(WireError::TransformCount));
        let write = WriteRequest::parse(request(&refused)).unwrap();
        assert_eq!(write.token_to_invalidate(), Some(DESCRIPTOR.token));
    }

    proptest! {
        #[test]
        fn an_accepted_transfer_can_be_posted(
            changes in proptest::collection::vec((64usize..128, any::<u8>()), 0..4),
            extra in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            for mut bytes in [read(), write()] {
                for &(at, byte) in &changes {
                    bytes[at] = byte;
                }
                bytes.extend(&extra);
                let transfer = match bytes[12] {
                    8 => ReadRequest::parse(request(&bytes)).and_then(|read| read.transfer()),
                    _ => WriteRequest::parse(request(&bytes)).and_then(|write| write.transfer()),
                };
                let Ok(Some(transfer)) = transfer else { continue };
                prop_assert!(transfer.length() > 0);
                let pieces = transfer.pieces(transfer.length()).unwrap();
                let total: u64 = pieces.map(|piece| u64::from(piece.remote.length)).sum();
                prop_assert_eq!(total, u64::from(transfer.length()));
            }
        }
    }
}
