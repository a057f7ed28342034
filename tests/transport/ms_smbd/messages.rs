// SPDX-License-Identifier: GPL-2.0-or-later

//! The messages of [MS-SMBD] 2.2 as bytes, in which any field may be wrong.
//!
//! This is written a second time, apart from the crate's own `wire`: a test that used `wire` to make and read its bytes
//! would agree with any mistake in it.

/// [MS-SMBD] 2.2.1, 20 bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NegotiateRequest {
    pub(crate) min_version: u16,
    pub(crate) max_version: u16,
    pub(crate) reserved: u16,
    pub(crate) credits_requested: u16,
    pub(crate) preferred_send_size: u32,
    pub(crate) max_receive_size: u32,
    pub(crate) max_fragmented_size: u32,
}

/// The request that Windows sends.
pub(crate) const REQUEST: NegotiateRequest = NegotiateRequest {
    min_version: 0x0100,
    max_version: 0x0100,
    reserved: 0,
    credits_requested: 255,
    preferred_send_size: 1364,
    max_receive_size: 8192,
    max_fragmented_size: 1_048_576,
};

impl NegotiateRequest {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(20);
        bytes.extend(self.min_version.to_le_bytes());
        bytes.extend(self.max_version.to_le_bytes());
        bytes.extend(self.reserved.to_le_bytes());
        bytes.extend(self.credits_requested.to_le_bytes());
        bytes.extend(self.preferred_send_size.to_le_bytes());
        bytes.extend(self.max_receive_size.to_le_bytes());
        bytes.extend(self.max_fragmented_size.to_le_bytes());
        bytes
    }
}

/// [MS-SMBD] 2.2.2, 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NegotiateResponse {
    pub(crate) min_version: u16,
    pub(crate) max_version: u16,
    pub(crate) negotiated_version: u16,
    pub(crate) reserved: u16,
    pub(crate) credits_requested: u16,
    pub(crate) credits_granted: u16,
    pub(crate) status: u32,
    pub(crate) max_read_write_size: u32,
    pub(crate) preferred_send_size: u32,
    pub(crate) max_receive_size: u32,
    pub(crate) max_fragmented_size: u32,
}

impl NegotiateResponse {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        assert_eq!(bytes.len(), 32, "length of a negotiate response");
        Self {
            min_version: u16_at(bytes, 0),
            max_version: u16_at(bytes, 2),
            negotiated_version: u16_at(bytes, 4),
            reserved: u16_at(bytes, 6),
            credits_requested: u16_at(bytes, 8),
            credits_granted: u16_at(bytes, 10),
            status: u32_at(bytes, 12),
            max_read_write_size: u32_at(bytes, 16),
            preferred_send_size: u32_at(bytes, 20),
            max_receive_size: u32_at(bytes, 24),
            max_fragmented_size: u32_at(bytes, 28),
        }
    }

    /// Checks what a client may rely on, whatever the server's configuration is.
    pub(crate) fn check(&self, request: &NegotiateRequest) {
        assert_eq!(self.status, 0, "{self:x?}");
        let versions = (self.min_version, self.max_version, self.negotiated_version);
        assert_eq!(versions, (0x0100, 0x0100, 0x0100));
        assert_eq!(self.reserved, 0);
        // More than 255 is legal, but packet analysers mistake such a message for something else.
        assert!((1..=255).contains(&self.credits_requested), "{self:?}");
        assert!((1..=request.credits_requested).contains(&self.credits_granted));
        assert!(self.max_read_write_size >= 1_048_576, "{self:?}");
        assert!((128..=request.max_receive_size).contains(&self.preferred_send_size));
        let receive_sizes = 128..=request.preferred_send_size.max(128);
        assert!(receive_sizes.contains(&self.max_receive_size), "{self:?}");
        assert!(self.max_fragmented_size >= 131_072, "{self:?}");
    }
}

/// The header of a Data Transfer message, [MS-SMBD] 2.2.3: 20 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DataTransfer {
    pub(crate) credits_requested: u16,
    pub(crate) credits_granted: u16,
    pub(crate) flags: u16,
    pub(crate) reserved: u16,
    pub(crate) remaining_data_length: u32,
    pub(crate) data_offset: u32,
    pub(crate) data_length: u32,
}

pub(crate) const RESPONSE_REQUESTED: u16 = 1;

/// The bytes between the header and a payload at offset 24.
pub(crate) const PADDING: [u8; 4] = [0; 4];

/// Makes the header of a legal message with `data_length` bytes, to be followed by `remaining_data_length` bytes. It
/// grants nothing.
pub(crate) fn header(data_length: usize, remaining_data_length: usize) -> DataTransfer {
    DataTransfer {
        credits_requested: 255,
        credits_granted: 0,
        flags: 0,
        reserved: 0,
        remaining_data_length: remaining_data_length.try_into().unwrap(),
        data_offset: if data_length == 0 { 0 } else { 24 },
        data_length: data_length.try_into().unwrap(),
    }
}

impl DataTransfer {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(20);
        bytes.extend(self.credits_requested.to_le_bytes());
        bytes.extend(self.credits_granted.to_le_bytes());
        bytes.extend(self.flags.to_le_bytes());
        bytes.extend(self.reserved.to_le_bytes());
        bytes.extend(self.remaining_data_length.to_le_bytes());
        bytes.extend(self.data_offset.to_le_bytes());
        bytes.extend(self.data_length.to_le_bytes());
        bytes
    }

    pub(crate) fn parse(bytes: &[u8]) -> Self {
        assert!(bytes.len() >= 20, "a data transfer of {}", bytes.len());
        Self {
            credits_requested: u16_at(bytes, 0),
            credits_granted: u16_at(bytes, 2),
            flags: u16_at(bytes, 4),
            reserved: u16_at(bytes, 6),
            remaining_data_length: u32_at(bytes, 8),
            data_offset: u32_at(bytes, 12),
            data_length: u32_at(bytes, 16),
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}
