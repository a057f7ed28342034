// SPDX-License-Identifier: GPL-2.0-or-later

//! READ and WRITE requests, whose data goes in the message or by RDMA ([MS-SMB2] 2.2.19, 2.2.21).

use super::header::HEADER_LENGTH;
use super::{Command, FileId, Request, Transform};
use smbdirect::wire::BufferDescriptorV1;

/// Bytes of the fixed part of either body.
const FIXED: usize = 48;
/// The offset of the buffer after the fixed part, counted from the header.
const BUFFER_AT: u16 = (HEADER_LENGTH + FIXED) as u16;

/// `Channel` of a WRITE whose data is encrypted or signed.
pub(super) const RDMA_TRANSFORM: u32 = 3;

/// `Channel` of a READ or WRITE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// 0: the data goes in the message.
    None,
    /// 1: the data goes by RDMA.
    RdmaV1,
    /// 2: the data goes by RDMA, and the response invalidates the token of the first descriptor.
    RdmaV1Invalidate,
}

impl Channel {
    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::None => 0,
            Self::RdmaV1 => 1,
            Self::RdmaV1Invalidate => 2,
        }
    }
}

/// All fields of a READ request; they may contradict each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// The offset in the response at which the client would like the data.
    pub padding: u8,
    /// `Flags`.
    pub flags: u8,
    /// Bytes to read.
    pub length: u32,
    /// The offset in the file.
    pub offset: u64,
    /// The file.
    pub file: FileId,
    /// The request fails if fewer bytes can be read.
    pub minimum_count: u32,
    /// `Channel`.
    pub channel: u32,
    /// Bytes that the caller will read after this request.
    pub remaining_bytes: u32,
    /// The offset of the descriptors, counted from the header; 0 without descriptors.
    pub channel_info_offset: u16,
    /// Bytes of the descriptors.
    pub channel_info_length: u16,
    /// The bytes after the fixed part: the descriptors, or one byte.
    pub buffer: Vec<u8>,
}

impl Read {
    /// Makes a READ whose data comes in the response.
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

    /// Makes a READ that places the data in the memory that `descriptors` name, in their order.
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

    /// Makes the request, with the credits that its length takes.
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

/// All fields of a WRITE request; they may contradict each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write<'a> {
    /// The offset of the data, counted from the header.
    pub data_offset: u16,
    /// Bytes of data in the message.
    pub length: u32,
    /// The offset in the file.
    pub offset: u64,
    /// The file.
    pub file: FileId,
    /// `Channel`.
    pub channel: u32,
    /// With a channel, the bytes to write.
    pub remaining_bytes: u32,
    /// The offset of the descriptors, counted from the header; 0 without descriptors.
    pub channel_info_offset: u16,
    /// Bytes of the descriptors.
    pub channel_info_length: u16,
    /// `Flags`: 1 is write-through.
    pub flags: u32,
    /// The bytes after the fixed part: the descriptors.
    pub buffer: Vec<u8>,
    /// The bytes after the descriptors: the data.
    pub data: &'a [u8],
}

impl<'a> Write<'a> {
    /// Makes a WRITE whose data goes in the request.
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

    /// Makes a WRITE for which the server fetches `length` bytes from the memory that `descriptors` name, in their
    /// order.
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

    /// Makes a WRITE like [`direct`](Self::direct), but for data that is encrypted or signed.
    #[must_use]
    pub fn transformed(
        file: FileId,
        offset: u64,
        length: u32,
        transform: &Transform,
        channel: Channel,
        descriptors: &[BufferDescriptorV1],
    ) -> Self {
        let buffer = transform.channel_info(channel, descriptors);
        Self {
            channel: RDMA_TRANSFORM,
            channel_info_length: u16::try_from(buffer.len()).unwrap_or(u16::MAX),
            buffer,
            ..Self::direct(file, offset, length, channel, descriptors)
        }
    }

    /// Makes the request, with the credits that its length takes.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Header, NtStatus, TransformType};
    use smbdirect::units::RemoteToken;
    use smbdirect::wire::smb2;

    const FILE: FileId = FileId(*b"0123456789abcdef");

    fn descriptor(token: u32, length: u32) -> BufferDescriptorV1 {
        BufferDescriptorV1 {
            offset: 0x1000,
            token: RemoteToken(token),
            length,
        }
    }

    /// Returns the bytes of a request after the header, as they would be sent.
    fn message(request: &Request<'_>) -> Vec<u8> {
        let header = Header {
            credit_charge: request.credit_charge,
            status: NtStatus::SUCCESS,
            command: request.command,
            credits: 1,
            flags: 0,
            next_command: 0,
            message_id: 1,
            async_id: 0,
            session_id: 1,
            signature: [0; 16],
        };
        [&header.emit()[..], &request.body, request.data].concat()
    }

    #[test]
    fn the_devices_decoder_reads_a_read_with_its_descriptors() {
        let list = [descriptor(7, 0xfffc0), descriptor(8, 0x40)];
        let read = Read::direct(FILE, 4096, 1 << 20, Channel::RdmaV1Invalidate, &list);
        let message = message(&read.request(3));
        assert_eq!(message.len(), 112 + 32);
        assert_eq!(message[6], 16, "credits");
        let request = smb2::Request::of_element(&message).expect("a request");
        let read = smb2::ReadRequest::parse(request).expect("a READ");
        assert_eq!((read.length(), read.offset()), (1 << 20, 4096));
        assert_eq!(read.token_to_invalidate(), Some(RemoteToken(7)));
        let transfer = read.transfer().expect("legal").expect("by RDMA");
        assert_eq!(transfer.descriptors().iter().collect::<Vec<_>>(), list);
    }

    #[test]
    fn the_devices_decoder_reads_a_write_with_its_descriptors() {
        let list = [descriptor(7, 70_000)];
        let write = Write::direct(FILE, 5, 70_000, Channel::RdmaV1, &list);
        let message = message(&write.request(3));
        assert_eq!(message[6], 2, "credits");
        let request = smb2::Request::of_element(&message).expect("a request");
        let write = smb2::WriteRequest::parse(request).expect("a WRITE");
        assert_eq!(write.token_to_invalidate(), None);
        let transfer = write.transfer().expect("legal").expect("by RDMA");
        assert_eq!(transfer.length(), 70_000);
    }

    #[test]
    fn the_devices_decoder_reads_a_write_with_a_transform() {
        let transform = Transform {
            transform_type: TransformType::Encryption,
            signature: vec![7; 16],
            nonce: vec![8; 11],
        };
        let channel = Channel::RdmaV1Invalidate;
        let list = [descriptor(7, 70_000)];
        let write = Write::transformed(FILE, 5, 70_000, &transform, channel, &list);
        let message = message(&write.request(3));
        assert_eq!(message[6], 2, "credits");
        let request = smb2::Request::of_element(&message).expect("a request");
        let write = smb2::WriteRequest::parse(request).expect("a WRITE");
        assert_eq!(write.token_to_invalidate(), Some(RemoteToken(7)));
        let transfer = write.transform().expect("legal");
        assert_eq!(transfer.length(), 70_000);
        assert_eq!(transfer.crypto().nonce, [8; 11]);
        assert_eq!(transfer.descriptors().iter().collect::<Vec<_>>(), list);
    }

    #[test]
    fn without_a_channel_the_data_goes_with_the_message() {
        let write = Write::inline(FILE, 5, b"some data");
        let sent = message(&write.request(3));
        assert_eq!(sent[112..], *b"some data");
        let request = smb2::Request::of_element(&sent).expect("a request");
        let write = smb2::WriteRequest::parse(request).expect("a WRITE");
        assert!(write.transfer().expect("legal").is_none());

        let read = message(&Read::inline(FILE, 5, 100).request(3));
        let request = smb2::Request::of_element(&read).expect("a request");
        let read = smb2::ReadRequest::parse(request).expect("a READ");
        assert!(read.transfer().expect("legal").is_none());
    }

    #[test]
    fn fields_that_contradict_each_other_are_sent_as_they_are() {
        let wrong = Write {
            length: 9,
            data_offset: 112,
            ..Write::direct(FILE, 5, 100, Channel::RdmaV1, &[descriptor(7, 100)])
        };
        let message = message(&wrong.request(3));
        let request = smb2::Request::of_element(&message).expect("a request");
        let write = smb2::WriteRequest::parse(request).expect("a WRITE");
        assert!(write.transfer().is_err());
    }
}
