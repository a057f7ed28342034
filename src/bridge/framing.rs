// SPDX-License-Identifier: GPL-2.0-or-later

//! The framing of SMB over TCP ([MS-SMB2] 2.1, RFC 1002 4.3).
//!
//! ```text
//!    0        1        2        3        4
//!   +--------+--------------------------+---------- - -
//!   | type   | length, big-endian       | message
//!   +--------+--------------------------+---------- - -
//! ```
//!
//! Type 0 is a message; the other types belong to NetBIOS, and old clients use the two that are known here. SMB
//! directly over TCP uses all 24 bits of the length, and NetBIOS uses 17.

/// Number of bytes before each message.
pub(super) const HEADER_LENGTH: usize = 4;

/// Length of the largest message that a header can announce, in bytes.
pub const MAX_MESSAGE: u32 = 0xFF_FFFF;

/// Length of the largest session request: two encoded names take 68 bytes, and scopes make them longer (RFC 1002
/// 4.3.2).
const MAX_SESSION_REQUEST: u32 = 1024;

/// The positive session response, which is a header alone (RFC 1002 4.3.3).
pub(super) const SESSION_RESPONSE: [u8; HEADER_LENGTH] = [0x82, 0, 0, 0];

/// The first bytes of an SMB1 message ([MS-CIFS] 2.2.3.1).
pub(super) const SMB1: [u8; 4] = *b"\xFFSMB";

/// What a header announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// A message of this many bytes.
    Message(u32),
    /// A NetBIOS session request, with this many bytes of names.
    SessionRequest(u32),
    /// A NetBIOS keepalive.
    KeepAlive,
}

impl Frame {
    /// Returns what this header announces; `None` if no SMB client sends such a header.
    pub(super) const fn parse(header: [u8; HEADER_LENGTH]) -> Option<Self> {
        let length = u32::from_be_bytes([0, header[1], header[2], header[3]]);
        match header[0] {
            0x00 => Some(Self::Message(length)),
            0x81 if length <= MAX_SESSION_REQUEST => Some(Self::SessionRequest(length)),
            0x85 if length == 0 => Some(Self::KeepAlive),
            _ => None,
        }
    }
}

/// Returns the header of a message, whose length has 24 bits.
pub(super) const fn header(length: u32) -> [u8; HEADER_LENGTH] {
    debug_assert!(length <= MAX_MESSAGE);
    let [_, a, b, c] = length.to_be_bytes();
    [0, a, b, c]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_they_are_written() {
        for length in [0, 1, 0x1_0000, 0x12_3456, MAX_MESSAGE] {
            assert_eq!(Frame::parse(header(length)), Some(Frame::Message(length)));
        }
        assert_eq!(header(0x12_3456), [0, 0x12, 0x34, 0x56]);
    }

    #[test]
    fn accepts_no_netbios_packets_but_session_requests_and_keepalives() {
        assert_eq!(Frame::parse([0x85, 0, 0, 0]), Some(Frame::KeepAlive));
        assert_eq!(
            Frame::parse([0x81, 0, 0, 68]),
            Some(Frame::SessionRequest(68))
        );
        for header in [
            *b"GET ",
            [0x85, 0, 0, 1],
            [0x81, 0, 4, 1],
            [0x82, 0, 0, 0],
            [0xFF; 4],
        ] {
            assert_eq!(Frame::parse(header), None, "{header:?}");
        }
    }
}
