//! READ and WRITE requests, whose data goes with the message or by RDMA ([MS-SMB2] 2.2.19, 2.2.21).

use super::header::HEADER_LENGTH;
use super::{Command, FileId, Request};
use crate::wire::BufferDescriptorV1;

/// Bytes of the fixed part of either body.
const FIXED: usize = 48;
/// Where the buffer behind the fixed part begins, from the header on.
const BUFFER_AT: u16 = (HEADER_LENGTH + FIXED) as u16;

/// `Channel` of a READ or WRITE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// 0: the data goes with the message.
    None,
    /// 1: by RDMA.
    RdmaV1,
    /// 2: by RDMA; the response invalidates the token of the first descriptor.
    RdmaV1Invalidate,
}

impl Channel {
    /// As on the wire.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::None => 0,
            Self::RdmaV1 => 1,
            Self::RdmaV1Invalidate => 2,
        }
    }
}

/// The fields of a READ request, all of them: also those that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Where in the response a client would like the data.
    pub padding: u8,
    /// `Flags`.
    pub flags: u8,
    /// Bytes to read.
    pub length: u32,
    /// From where on.
    pub offset: u64,
    /// Of which file.
    pub file: FileId,
    /// With less than this it fails.
    pub minimum_count: u32,
    /// `Channel`.
    pub channel: u32,
    /// Bytes that the caller will still read.
    pub remaining_bytes: u32,
    /// Of the descriptors, from the header on; 0 without.
    pub channel_info_offset: u16,
    /// Bytes of the descriptors.
    pub channel_info_length: u16,
    /// Behind the fixed part: the descriptors, or one byte.
    pub buffer: Vec<u8>,
}

impl Read {
    /// The data comes with the response.
    #[must_use]
    pub fn inline(file: FileId, offset: u64, length: u32) -> Self {
        Self {
            padding: 0x50,
            flags: 0,
            length,
            offset,
            file,
            minimum_count: 0,
            channel: 0,
            remaining_bytes: 0,
            channel_info_offset: 0,
            channel_info_length: 0,
            buffer: vec![0],
        }
    }

    /// The server puts the data into the memory that `descriptors` name, in their order.
    #[must_use]
    pub fn direct(
        file: FileId,
        offset: u64,
        length: u32,
        channel: Channel,
        descriptors: &[BufferDescriptorV1],
    ) -> Self {
        let buffer = emit(descriptors);
        Self {
            channel: channel.number(),
            channel_info_offset: BUFFER_AT,
            channel_info_length: u16::try_from(buffer.len()).unwrap_or(u16::MAX),
            buffer,
            ..Self::inline(file, offset, length)
        }
    }

    /// The request, with the credits that its length takes.
    #[must_use]
    pub fn request(&self, tree_id: u32) -> Request<'static> {
        let mut body = Vec::with_capacity(FIXED + self.buffer.len());
        body.extend(49_u16.to_le_bytes());
        body.extend([self.padding, self.flags]);
        body.extend(self.length.to_le_bytes());
        body.extend(self.offset.to_le_bytes());
        body.extend(self.file.0);
        body.extend(self.minimum_count.to_le_bytes());
        body.extend(self.channel.to_le_bytes());
        body.extend(self.remaining_bytes.to_le_bytes());
        body.extend(self.channel_info_offset.to_le_bytes());
        body.extend(self.channel_info_length.to_le_bytes());
        body.extend(&self.buffer);
        Request::raw(Command::READ, tree_id, body).charged_for(self.length)
    }
}

/// The fields of a WRITE request, all of them: also those that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write<'a> {
    /// Of the data, from the header on.
    pub data_offset: u16,
    /// Bytes of data in the message.
    pub length: u32,
    /// To where.
    pub offset: u64,
    /// Of which file.
    pub file: FileId,
    /// `Channel`.
    pub channel: u32,
    /// With a channel: bytes to write.
    pub remaining_bytes: u32,
    /// Of the descriptors, from the header on; 0 without.
    pub channel_info_offset: u16,
    /// Bytes of the descriptors.
    pub channel_info_length: u16,
    /// `Flags`: 1 write through.
    pub flags: u32,
    /// Behind the fixed part: the descriptors.
    pub buffer: Vec<u8>,
    /// Behind that: the data.
    pub data: &'a [u8],
}

impl<'a> Write<'a> {
    /// The data goes with the request.
    #[must_use]
    pub fn inline(file: FileId, offset: u64, data: &'a [u8]) -> Self {
        Self {
            data_offset: BUFFER_AT,
            length: u32::try_from(data.len()).unwrap_or(u32::MAX),
            offset,
            file,
            channel: 0,
            remaining_bytes: 0,
            channel_info_offset: 0,
            channel_info_length: 0,
            flags: 0,
            buffer: Vec::new(),
            data,
        }
    }

    /// The server fetches `length` bytes from the memory that `descriptors` name, in their order.
    #[must_use]
    pub fn direct(
        file: FileId,
        offset: u64,
        length: u32,
        channel: Channel,
        descriptors: &[BufferDescriptorV1],
    ) -> Self {
        let buffer = emit(descriptors);
        Self {
            data_offset: 0,
            channel: channel.number(),
            remaining_bytes: length,
            channel_info_offset: BUFFER_AT,
            channel_info_length: u16::try_from(buffer.len()).unwrap_or(u16::MAX),
            buffer,
            ..Self::inline(file, offset, &[])
        }
    }

    /// The request, with the credits that its length takes.
    #[must_use]
    pub fn request(&self, tree_id: u32) -> Request<'a> {
        let mut body = Vec::with_capacity(FIXED + self.buffer.len());
        body.extend(49_u16.to_le_bytes());
        body.extend(self.data_offset.to_le_bytes());
        body.extend(self.length.to_le_bytes());
        body.extend(self.offset.to_le_bytes());
        body.extend(self.file.0);
        body.extend(self.channel.to_le_bytes());
        body.extend(self.remaining_bytes.to_le_bytes());
        body.extend(self.channel_info_offset.to_le_bytes());
        body.extend(self.channel_info_length.to_le_bytes());
        body.extend(self.flags.to_le_bytes());
        body.extend(&self.buffer);
        let request = Request {
            data: self.data,
            ..Request::raw(Command::WRITE, tree_id, body)
        };
        request.charged_for(self.length.max(self.remaining_bytes))
    }
}

fn emit(descriptors: &[BufferDescriptorV1]) -> Vec<u8> {
    descriptors.iter().flat_map(|piece| piece.emit()).collect()
}
