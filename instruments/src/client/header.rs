// SPDX-License-Identifier: GPL-2.0-or-later

//! The header of SMB2 messages ([MS-SMB2] 2.2.1), with every field as on the wire.

use std::fmt;

use super::NtStatus;
use super::bytes::{u16_at, u32_at, u64_at};

/// Bytes of a header.
pub const HEADER_LENGTH: usize = 64;

/// Where the signature begins.
pub(super) const SIGNATURE_AT: usize = 48;

/// The kind of a message; any number may be sent.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Command(pub u16);

macro_rules! commands {
    ($($name:ident = $value:literal,)+) => {
        impl Command {
            $(
                #[doc = concat!("`", stringify!($name), "`.")]
                pub const $name: Self = Self($value);
            )+
        }

        impl fmt::Display for Command {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.0 {
                    $($value => f.write_str(stringify!($name)),)+
                    other => write!(f, "command {other:#x}"),
                }
            }
        }
    };
}

commands! {
    NEGOTIATE = 0,
    SESSION_SETUP = 1,
    LOGOFF = 2,
    TREE_CONNECT = 3,
    TREE_DISCONNECT = 4,
    CREATE = 5,
    CLOSE = 6,
    FLUSH = 7,
    READ = 8,
    WRITE = 9,
    LOCK = 10,
    IOCTL = 11,
    CANCEL = 12,
    ECHO = 13,
    QUERY_DIRECTORY = 14,
    CHANGE_NOTIFY = 15,
    QUERY_INFO = 16,
    SET_INFO = 17,
    OPLOCK_BREAK = 18,
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A header, of a request or a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Credits that the request takes.
    pub credit_charge: u16,
    /// The status; only in a response.
    pub status: NtStatus,
    /// The kind of the message.
    pub command: Command,
    /// Credits asked for, or granted.
    pub credits: u16,
    /// Flags; see the constants.
    pub flags: u32,
    /// Bytes to the next message of a compound; 0 in the last.
    pub next_command: u32,
    /// Ties a response to its request.
    pub message_id: u64,
    /// The tree id and a reserved field; with [`Header::ASYNC`] both form the async id.
    pub async_id: u64,
    /// The session.
    pub session_id: u64,
    /// The signature of the message.
    pub signature: [u8; 16],
}

impl Header {
    /// In `flags`: this is a response.
    pub const RESPONSE: u32 = 0x1;
    /// In `flags`: the header has an async id instead of a tree id.
    pub const ASYNC: u32 = 0x2;
    /// In `flags`: the request uses the session, the tree and the file of the request before it.
    pub const RELATED: u32 = 0x4;
    /// In `flags`: the message is signed.
    pub const SIGNED: u32 = 0x8;
    /// The message id of oplock and lease breaks, which answer no request.
    pub const UNASKED: u64 = u64::MAX;

    /// Returns the tree id. The header must not have an async id instead.
    #[must_use]
    pub const fn tree_id(&self) -> u32 {
        (self.async_id >> 32) as u32
    }

    /// Reads the header at the start of `message`.
    pub(super) fn parse(message: &[u8]) -> Option<Self> {
        let fixed = message.get(..HEADER_LENGTH)?;
        if fixed.get(..4)? != b"\xfeSMB" || u16_at(fixed, 4)? != 64 {
            return None;
        }
        Some(Self {
            credit_charge: u16_at(fixed, 6)?,
            status: NtStatus(u32_at(fixed, 8)?),
            command: Command(u16_at(fixed, 12)?),
            credits: u16_at(fixed, 14)?,
            flags: u32_at(fixed, 16)?,
            next_command: u32_at(fixed, 20)?,
            message_id: u64_at(fixed, 24)?,
            async_id: u64_at(fixed, 32)?,
            session_id: u64_at(fixed, 40)?,
            signature: fixed.get(SIGNATURE_AT..)?.try_into().ok()?,
        })
    }

    /// Returns the bytes of the header.
    #[must_use]
    pub fn emit(&self) -> [u8; HEADER_LENGTH] {
        let mut bytes = [0; HEADER_LENGTH];
        let mut at = 0;
        let mut put = |value: &[u8]| {
            bytes[at..at + value.len()].copy_from_slice(value);
            at += value.len();
        };
        put(b"\xfeSMB");
        put(&64_u16.to_le_bytes());
        put(&self.credit_charge.to_le_bytes());
        put(&self.status.0.to_le_bytes());
        put(&self.command.0.to_le_bytes());
        put(&self.credits.to_le_bytes());
        put(&self.flags.to_le_bytes());
        put(&self.next_command.to_le_bytes());
        put(&self.message_id.to_le_bytes());
        put(&self.async_id.to_le_bytes());
        put(&self.session_id.to_le_bytes());
        put(&self.signature);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_lies_where_the_specification_has_it() {
        let header = Header {
            credit_charge: 0x0102,
            status: NtStatus(0x0304_0506),
            command: Command(0x0708),
            credits: 0x090a,
            flags: 0x0b0c_0d0e,
            next_command: 0x0f10_1112,
            message_id: 0x1314_1516_1718_191a,
            async_id: 0x1b1c_1d1e_0000_0000,
            session_id: 0x2324_2526_2728_292a,
            signature: *b"0123456789abcdef",
        };
        let bytes = header.emit();
        assert_eq!(bytes[..8], *b"\xfeSMB\x40\x00\x02\x01");
        assert_eq!(bytes[8..16], [6, 5, 4, 3, 8, 7, 10, 9]);
        assert_eq!(bytes[36..40], [0x1e, 0x1d, 0x1c, 0x1b]);
        assert_eq!(header.tree_id(), 0x1b1c_1d1e);
        assert_eq!(Header::parse(&bytes), Some(header));
        assert_eq!(Header::parse(&bytes[..63]), None);
        let mut other = bytes;
        other[0] = 0xfd;
        assert_eq!(Header::parse(&other), None);
    }
}
