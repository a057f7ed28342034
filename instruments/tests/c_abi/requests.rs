// SPDX-License-Identifier: GPL-2.0-or-later

//! Makes SMB2 READ and WRITE requests over a channel ([MS-SMB2] 2.2.19, 2.2.21), and the contents of the file that they
//! access.

use smbdirect::wire::BufferDescriptorV1;

use instruments::peer::{emit, smb2};

/// Commands of `tests/c/common.h`.
pub(crate) mod command {
    pub(crate) const LOGOFF: u16 = 0x02;
    pub(crate) const READ: u16 = 0x08;
    pub(crate) const WRITE: u16 = 0x09;
    pub(crate) const ECHO: u16 = 0x0d;
    pub(crate) const TRANSFER: u16 = 0xf0;
    pub(crate) const TRANSFER_TOKEN: u16 = 0xf1;
    pub(crate) const CLAIM: u16 = 0xf2;
}

/// A READ or WRITE request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Io {
    pub(crate) command: u16,
    pub(crate) message_id: u64,
    /// 1 or 2.
    pub(crate) channel: u32,
    pub(crate) offset: u64,
    pub(crate) length: u32,
}

impl Io {
    pub(crate) fn request(&self, descriptors: &[BufferDescriptorV1]) -> Vec<u8> {
        let list = emit(descriptors);
        let is_read = self.command == command::READ;
        let mut body = Vec::new();
        body.extend(49_u16.to_le_bytes());
        body.extend([0; 2]); // Padding, Flags; DataOffset
        body.extend(if is_read { self.length } else { 0 }.to_le_bytes());
        body.extend(self.offset.to_le_bytes());
        body.extend([0; 16]); // FileId
        if is_read {
            body.extend(0_u32.to_le_bytes()); // MinimumCount
        }
        body.extend(self.channel.to_le_bytes());
        body.extend(if is_read { 0 } else { self.length }.to_le_bytes()); // RemainingBytes
        body.extend(112_u16.to_le_bytes());
        body.extend((list.len() as u16).to_le_bytes());
        if !is_read {
            body.extend(0_u32.to_le_bytes()); // Flags
        }
        assert_eq!(body.len(), 48);
        body.extend(list);
        smb2::request(self.command, self.message_id, 0, &body)
    }
}

/// Returns the MessageId of a message.
pub(crate) fn message_id(message: &[u8]) -> u64 {
    u64::from_le_bytes(message[24..32].try_into().expect("8 bytes"))
}

/// Returns the Status of a message, which holds a status of `smbdirect.h`.
pub(crate) fn status(message: &[u8]) -> i32 {
    i32::from_le_bytes(message[8..12].try_into().expect("4 bytes"))
}

/// Returns the word of the file at `offset`, which is a multiple of 8.
pub(crate) const fn pattern(offset: u64) -> u64 {
    (offset / 8 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Fills `target` with the bytes of the file from `offset` on, which is a multiple of 8.
pub(crate) fn fill(target: &mut [u8], offset: u64) {
    let mut words = target.chunks_exact_mut(8);
    let mut at = offset;
    for word in &mut words {
        word.copy_from_slice(&pattern(at).to_le_bytes());
        at += 8;
    }
    let rest = words.into_remainder();
    rest.copy_from_slice(&pattern(at).to_le_bytes()[..rest.len()]);
}
