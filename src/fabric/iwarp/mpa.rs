// SPDX-License-Identifier: GPL-2.0-or-later

//! MPA: the handshake that turns a TCP connection into an iWARP stream, and the frames on it.
//!
//! RFC 5044, with the enhanced handshake of RFC 6581. The initiator sends a request frame, the
//! responder a reply frame, and the initiator the first FPDU:
//!
//! ```text
//!   0                  16      17         18             20
//!   +------------------+-------+----------+--------------+-----------+---------------------+
//!   | MPA ID Req Frame | flags | revision | private data | IRD | ORD | other private data  |
//!   | MPA ID Rep Frame |       | 1 or 2   | length 0-512 | (if S)    |                     |
//!   +------------------+-------+----------+--------------+-----------+---------------------+
//!
//!   flags:  M 0x80 markers   C 0x40 CRC   R 0x20 reject (replies)   S 0x10 enhanced (revision 2)
//!   IRD:    A 0x8000 peer to peer   B 0x4000 ready by Send          14 bits of number
//!   ORD:    C 0x8000 ready by Write D 0x4000 ready by Read          14 bits of number
//! ```
//!
//! An FPDU (RFC 5044 section 4.1) is a multiple of 4 bytes long. Its CRC32C covers everything before the CRC and is
//! stored little-endian; if the sides did not agree on CRCs, the field still exists, and is zero:
//!
//! ```text
//!   0              2                2+n     2+n+pad(n)        fpdu_length(n)
//!   +--------------+----------------+-------+-----------------+
//!   | ULPDU length | ULPDU, n bytes | zeros | CRC32C          |
//!   +--------------+----------------+-------+-----------------+
//! ```
//!
//! This module reads what a frame says. The handshake's owner decides what follows (it refuses markers, or a reply that
//! does not fit its request); this module only names the errors for such frames.

use zerocopy::{BE, FromBytes, Immutable, IntoBytes, U16, Unaligned, transmute};

use super::IwarpError;

/// Number of bytes of a handshake frame before its private data.
pub const FRAME_HEADER_LENGTH: usize = 20;
/// Maximum number of bytes of private data, including IRD and ORD (RFC 5044 section 7.1.1).
pub const MAX_PRIVATE_DATA: usize = 512;
/// Length of the CRC at the end of each FPDU, in bytes.
pub const CRC_LENGTH: usize = 4;
/// Length of the ULPDU length field at the start of each FPDU, in bytes.
pub const FPDU_HEADER_LENGTH: usize = 2;

/// The owner's CRC32C: it returns the checksum of some bytes, given the checksum of all bytes before them (0 at the
/// start). Its result is stored with `to_le_bytes`.
pub type Crc32c = fn(crc: u32, bytes: &[u8]) -> u32;

/// Returns the number of zero bytes between a ULPDU of this length and the CRC: 0 to 3.
#[must_use]
pub const fn pad(ulpdu_length: usize) -> usize {
    FPDU_HEADER_LENGTH.wrapping_sub(ulpdu_length) % 4
}

/// Returns the length of the whole FPDU around a ULPDU of this length (0 to 65,535), in bytes.
#[must_use]
pub const fn fpdu_length(ulpdu_length: usize) -> usize {
    ulpdu_length.saturating_add(FPDU_HEADER_LENGTH + pad(ulpdu_length) + CRC_LENGTH)
}

/// The two kinds of handshake frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrameKind {
    /// The frame of the initiator.
    Request,
    /// The frame of the responder.
    Reply,
}

impl FrameKind {
    const fn key(self) -> &'static [u8; 16] {
        match self {
            Self::Request => b"MPA ID Req Frame",
            Self::Reply => b"MPA ID Rep Frame",
        }
    }
}

/// The RDMA READ depths of an enhanced frame, as its sender sees them (RFC 6581 sections 6 and 9).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ReadDepths {
    /// Number of RDMA Read Requests that the sender of the frame serves at a time, 0 to 0x3fff.
    pub ird: u16,
    /// Number of RDMA Read Requests that the sender will have outstanding at a time, 0 to 0x3fff.
    pub ord: u16,
    /// [`PEER_TO_PEER`](Self::PEER_TO_PEER) and the `RTR_` bits; other bits must not be set.
    pub control: u16,
}

impl ReadDepths {
    /// Length on the wire, in bytes.
    pub const LENGTH: usize = 4;
    /// A value of `ird` or `ord`: the sender does not negotiate this depth.
    pub const NOT_NEGOTIATED: u16 = 0x3fff;
    /// Bit A in `control`: once the initiator's ready-to-receive has arrived, the responder may send, even if the
    /// initiator has sent nothing else.
    pub const PEER_TO_PEER: u16 = 0x8000;
    /// Bit B in `control`: an empty Send is, or is offered as, the ready-to-receive.
    pub const RTR_SEND: u16 = 0x4000;
    /// Bit C in `control`: an empty RDMA Write is, or is offered as, the ready-to-receive.
    pub const RTR_WRITE: u16 = 0x2000;
    /// Bit D in `control`: an empty RDMA Read is, or is offered as, the ready-to-receive.
    pub const RTR_READ: u16 = 0x1000;

    const NUMBER: u16 = 0x3fff;
    const FLAGS: u16 = 0xc000;
    /// The two flags of the ORD field are this many bits further to the right in `control` than in the field.
    const ORD_FLAGS_SHIFT: u32 = 2;

    /// Parses the four bytes. Any four bytes are legal.
    #[must_use]
    pub const fn parse(bytes: [u8; Self::LENGTH]) -> Self {
        let [ird_high, ird_low, ord_high, ord_low] = bytes;
        let ird = u16::from_be_bytes([ird_high, ird_low]);
        let ord = u16::from_be_bytes([ord_high, ord_low]);
        Self {
            ird: ird & Self::NUMBER,
            ord: ord & Self::NUMBER,
            control: (ird & Self::FLAGS) | ((ord & Self::FLAGS) >> Self::ORD_FLAGS_SHIFT),
        }
    }

    /// Returns the four bytes. Depths that do not fit are sent as the largest that fits, 0x3ffe.
    #[must_use]
    pub const fn emit(self) -> [u8; Self::LENGTH] {
        const fn number(depth: u16) -> u16 {
            if depth > ReadDepths::NUMBER {
                ReadDepths::NUMBER - 1
            } else {
                depth
            }
        }
        let ird = number(self.ird) | (self.control & Self::FLAGS);
        let ord = number(self.ord) | ((self.control << Self::ORD_FLAGS_SHIFT) & Self::FLAGS);
        let [ird_high, ird_low] = ird.to_be_bytes();
        let [ord_high, ord_low] = ord.to_be_bytes();
        [ird_high, ird_low, ord_high, ord_low]
    }
}

/// A handshake frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The kind: request or reply.
    pub kind: FrameKind,
    /// Bit M: the sender wants markers in the stream that it receives.
    pub markers: bool,
    /// Bit C: the sender wants CRCs; if either side does, both send them.
    pub crc: bool,
    /// Bit R: the responder rejects the connection. It is always false in a request.
    pub reject: bool,
    /// The revision: 1 or 2.
    pub revision: u8,
    /// Bit S with its RDMA READ depths, only in revision 2.
    pub enhanced: Option<ReadDepths>,
    /// The private data without the four bytes of `enhanced`.
    pub private_data: &'a [u8],
}

#[derive(FromBytes, Immutable, IntoBytes, Unaligned)]
#[repr(C)]
struct FrameLayout {
    key: [u8; 16],
    flags: u8,
    revision: u8,
    private_data_length: U16<BE>,
}

impl<'a> Frame<'a> {
    const MARKERS: u8 = 0x80;
    const CRC: u8 = 0x40;
    const REJECT: u8 = 0x20;
    const ENHANCED: u8 = 0x10;
    const FIRST_REVISION: u8 = 1;
    const ENHANCED_REVISION: u8 = 2;

    /// Returns the length in bytes, at most 532, of the frame that begins with `start`; `None` as long as it is
    /// unknown.
    ///
    /// # Errors
    ///
    /// [`IwarpError::MpaBadKey`] as soon as one byte differs from the key of such a frame, so that no caller waits for
    /// the rest of something that is not such a frame; [`IwarpError::MpaPrivateDataTooLong`].
    pub fn length(kind: FrameKind, start: &[u8]) -> Result<Option<usize>, IwarpError> {
        if start.iter().zip(kind.key()).any(|(byte, key)| byte != key) {
            return Err(IwarpError::MpaBadKey);
        }
        let Ok((layout, _)) = FrameLayout::read_from_prefix(start) else {
            return Ok(None);
        };
        let private_data_length = usize::from(layout.private_data_length.get());
        if private_data_length > MAX_PRIVATE_DATA {
            return Err(IwarpError::MpaPrivateDataTooLong);
        }
        Ok(Some(FRAME_HEADER_LENGTH + private_data_length))
    }

    /// Parses a frame: `bytes` is exactly one frame, as long as [`Frame::length`] said.
    ///
    /// Flags that RFC 5044 reserves are ignored, and so is S before revision 2.
    ///
    /// # Errors
    ///
    /// The errors of [`Frame::length`]; [`IwarpError::MpaFrameTooShort`] and [`IwarpError::MpaUnexpectedBytes`] if
    /// `bytes` is shorter or longer than that length; [`IwarpError::MpaUnsupportedRevision`];
    /// [`IwarpError::MpaEnhancedTooShort`].
    pub fn parse(kind: FrameKind, bytes: &'a [u8]) -> Result<Self, IwarpError> {
        let length = Self::length(kind, bytes)?.ok_or(IwarpError::MpaFrameTooShort)?;
        let (layout, private_data) =
            FrameLayout::read_from_prefix(bytes).map_err(|_| IwarpError::MpaFrameTooShort)?;
        if bytes.len() < length {
            return Err(IwarpError::MpaFrameTooShort);
        }
        if bytes.len() > length {
            return Err(IwarpError::MpaUnexpectedBytes);
        }
        if !(Self::FIRST_REVISION..=Self::ENHANCED_REVISION).contains(&layout.revision) {
            return Err(IwarpError::MpaUnsupportedRevision);
        }
        let is = |flag| layout.flags & flag != 0;
        let (enhanced, private_data) =
            if is(Self::ENHANCED) && layout.revision >= Self::ENHANCED_REVISION {
                let (depths, rest) = private_data
                    .split_first_chunk()
                    .ok_or(IwarpError::MpaEnhancedTooShort)?;
                (Some(ReadDepths::parse(*depths)), rest)
            } else {
                (None, private_data)
            };
        Ok(Self {
            kind,
            markers: is(Self::MARKERS),
            crc: is(Self::CRC),
            reject: is(Self::REJECT) && kind == FrameKind::Reply,
            revision: layout.revision,
            enhanced,
            private_data,
        })
    }

    /// Writes the frame to the start of `out` and returns its length; 532 bytes are always enough.
    ///
    /// # Errors
    ///
    /// [`IwarpError::MpaPrivateDataTooLong`] if the private data, IRD and ORD included, exceeds 512
    /// bytes or the room in `out`; [`IwarpError::MpaUnsupportedRevision`] for a revision other than
    /// 1 and 2, and for an enhanced frame of revision 1.
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, IwarpError> {
        let revisions = match self.enhanced {
            Some(_) => Self::ENHANCED_REVISION..=Self::ENHANCED_REVISION,
            None => Self::FIRST_REVISION..=Self::ENHANCED_REVISION,
        };
        if !revisions.contains(&self.revision) {
            return Err(IwarpError::MpaUnsupportedRevision);
        }
        let depths = self.enhanced.map(ReadDepths::emit);
        let depths = depths.as_ref().map_or(&[][..], |bytes| bytes);
        let private_data_length =
            u16::try_from(depths.len().saturating_add(self.private_data.len()))
                .ok()
                .filter(|length| usize::from(*length) <= MAX_PRIVATE_DATA)
                .ok_or(IwarpError::MpaPrivateDataTooLong)?;
        let header: [u8; FRAME_HEADER_LENGTH] = transmute!(FrameLayout {
            key: *self.kind.key(),
            flags: self.flags(),
            revision: self.revision,
            private_data_length: private_data_length.into(),
        });
        let mut rest = out;
        for part in [&header[..], depths, self.private_data] {
            let (to, after) = rest
                .split_at_mut_checked(part.len())
                .ok_or(IwarpError::MpaPrivateDataTooLong)?;
            to.copy_from_slice(part);
            rest = after;
        }
        Ok(FRAME_HEADER_LENGTH + usize::from(private_data_length))
    }

    fn flags(&self) -> u8 {
        let reject = self.reject && self.kind == FrameKind::Reply;
        [
            (self.markers, Self::MARKERS),
            (self.crc, Self::CRC),
            (reject, Self::REJECT),
            (self.enhanced.is_some(), Self::ENHANCED),
        ]
        .into_iter()
        .fold(
            0,
            |flags, (set, flag)| if set { flags | flag } else { flags },
        )
    }
}

/// The RDMA READ depths that SMB Direct peers put into the private data, from before RFC 6581
/// ([MS-SMBD] appendix): IRD and ORD as two 32-bit numbers, 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LegacyReadDepths {
    /// Number of RDMA Read Requests that the sender serves at a time.
    pub ird: u32,
    /// Number of RDMA Read Requests that the sender will have outstanding at a time.
    pub ord: u32,
}

impl LegacyReadDepths {
    /// Length on the wire, in bytes.
    pub const LENGTH: usize = 8;

    /// Returns the depths in the private data of a frame; `None` if the private data is something else, which is not an
    /// error, because private data may hold anything.
    ///
    /// Linux before 7.x wrote the depths little-endian. No depth needs more than 16 bits, so only one of the byte
    /// orders makes sense, except for zeros.
    #[must_use]
    pub fn parse(private_data: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LENGTH] = private_data.try_into().ok()?;
        let &[i0, i1, i2, i3, o0, o1, o2, o3] = bytes;
        let (ird, ord) = ([i0, i1, i2, i3], [o0, o1, o2, o3]);
        let big = Self {
            ird: u32::from_be_bytes(ird),
            ord: u32::from_be_bytes(ord),
        };
        let little = Self {
            ird: u32::from_le_bytes(ird),
            ord: u32::from_le_bytes(ord),
        };
        [big, little]
            .into_iter()
            .find(|depths| depths.are_plausible())
    }

    /// Returns the bytes, big-endian.
    #[must_use]
    pub const fn emit(self) -> [u8; Self::LENGTH] {
        let [i0, i1, i2, i3] = self.ird.to_be_bytes();
        let [o0, o1, o2, o3] = self.ord.to_be_bytes();
        [i0, i1, i2, i3, o0, o1, o2, o3]
    }

    fn are_plausible(self) -> bool {
        self.ird.max(self.ord) <= u32::from(u16::MAX)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// The request of cifs.ko of Linux 7.2, over siw.
    const REQUEST_7_2: [u8; 32] = *b"MPA ID Req Frame\x10\x02\x00\x0c\x00\x20\x00\x01\
        \x00\x00\x00\x20\x00\x00\x00\x01";
    /// The request of cifs.ko of Linux 6.12, over siw.
    const REQUEST_6_12: [u8; 32] = *b"MPA ID Req Frame\x10\x02\x00\x0c\x00\x20\x00\x00\
        \x20\x00\x00\x00\x01\x00\x00\x00";
    /// The reply of ksmbd of Linux 7.2, over siw.
    const REPLY: [u8; 24] = *b"MPA ID Rep Frame\x10\x02\x00\x04\x00\x10\x00\x08";

    fn depths(ird: u16, ord: u16) -> Option<ReadDepths> {
        Some(ReadDepths {
            ird,
            ord,
            control: 0,
        })
    }

    fn emit(frame: &Frame<'_>) -> Result<Vec<u8>, IwarpError> {
        let mut out = [0xee; FRAME_HEADER_LENGTH + MAX_PRIVATE_DATA];
        let length = frame.emit(&mut out)?;
        Ok(out[..length].to_vec())
    }

    /// Parses `REQUEST_7_2` with one byte changed.
    fn parse_with(offset: usize, value: u8) -> Result<(), IwarpError> {
        let mut bytes = REQUEST_7_2;
        bytes[offset] = value;
        Frame::parse(FrameKind::Request, &bytes).map(|_| ())
    }

    fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!crc, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
            })
        })
    }

    #[test]
    fn reads_and_writes_the_request_of_a_linux_client() {
        let frame = Frame {
            kind: FrameKind::Request,
            markers: false,
            crc: false,
            reject: false,
            revision: 2,
            enhanced: depths(32, 1),
            private_data: &REQUEST_7_2[24..],
        };
        assert_eq!(
            Frame::length(FrameKind::Request, &REQUEST_7_2),
            Ok(Some(32))
        );
        assert_eq!(Frame::parse(FrameKind::Request, &REQUEST_7_2), Ok(frame));
        assert_eq!(emit(&frame).as_deref(), Ok(&REQUEST_7_2[..]));
        let legacy = LegacyReadDepths { ird: 32, ord: 1 };
        assert_eq!(LegacyReadDepths::parse(frame.private_data), Some(legacy));
        assert_eq!(legacy.emit(), REQUEST_7_2[24..]);
    }

    #[test]
    fn reads_the_little_endian_depths_of_older_linux_clients() {
        let frame = Frame::parse(FrameKind::Request, &REQUEST_6_12).unwrap();
        assert_eq!(frame.enhanced, depths(32, 0));
        let legacy = LegacyReadDepths { ird: 32, ord: 1 };
        assert_eq!(LegacyReadDepths::parse(frame.private_data), Some(legacy));
    }

    #[test]
    fn reads_and_writes_the_reply_of_a_linux_server() {
        let frame = Frame {
            kind: FrameKind::Reply,
            markers: false,
            crc: false,
            reject: false,
            revision: 2,
            enhanced: depths(16, 8),
            private_data: &[],
        };
        assert_eq!(Frame::parse(FrameKind::Reply, &REPLY), Ok(frame));
        assert_eq!(emit(&frame).as_deref(), Ok(&REPLY[..]));
    }

    #[test]
    fn reads_and_writes_revision_1_with_every_flag() {
        let bytes = *b"MPA ID Rep Frame\xe0\x01\x00\x08\x00\x00\x00\x01\x00\x00\x00\x08";
        let frame = Frame {
            kind: FrameKind::Reply,
            markers: true,
            crc: true,
            reject: true,
            revision: 1,
            enhanced: None,
            private_data: &bytes[20..],
        };
        assert_eq!(Frame::parse(FrameKind::Reply, &bytes), Ok(frame));
        assert_eq!(emit(&frame).as_deref(), Ok(&bytes[..]));
        let legacy = LegacyReadDepths { ird: 1, ord: 8 };
        assert_eq!(LegacyReadDepths::parse(frame.private_data), Some(legacy));
    }

    #[test]
    fn keeps_each_bit_of_the_enhanced_part_in_its_place() {
        for (bytes, control) in [
            ([0x80, 0x20, 0x00, 0x01], ReadDepths::PEER_TO_PEER),
            ([0x40, 0x20, 0x00, 0x01], ReadDepths::RTR_SEND),
            ([0x00, 0x20, 0x80, 0x01], ReadDepths::RTR_WRITE),
            ([0x00, 0x20, 0x40, 0x01], ReadDepths::RTR_READ),
        ] {
            let depths = ReadDepths {
                ird: 32,
                ord: 1,
                control,
            };
            assert_eq!(ReadDepths::parse(bytes), depths);
            assert_eq!(depths.emit(), bytes);
        }
    }

    #[test]
    fn sends_depths_that_do_not_fit_as_the_largest_that_does() {
        let depths = ReadDepths {
            ird: u16::MAX,
            ord: 0x4000,
            control: 0,
        };
        assert_eq!(depths.emit(), [0x3f, 0xfe, 0x3f, 0xfe]);
        let depths = ReadDepths {
            ird: ReadDepths::NOT_NEGOTIATED,
            ord: 0,
            control: 0,
        };
        assert_eq!(depths.emit(), [0x3f, 0xff, 0, 0]);
    }

    #[test]
    fn waits_for_a_whole_header_before_it_knows_a_length() {
        for end in 0..FRAME_HEADER_LENGTH {
            assert_eq!(
                Frame::length(FrameKind::Request, &REQUEST_7_2[..end]),
                Ok(None)
            );
        }
        for end in FRAME_HEADER_LENGTH..=REQUEST_7_2.len() {
            assert_eq!(
                Frame::length(FrameKind::Request, &REQUEST_7_2[..end]),
                Ok(Some(32))
            );
        }
    }

    #[test]
    fn refuses_a_wrong_key_at_its_first_wrong_byte() {
        for offset in 0..16 {
            let mut start = REQUEST_7_2[..=offset].to_vec();
            start[offset] ^= 0x20;
            assert_eq!(
                Frame::length(FrameKind::Request, &start),
                Err(IwarpError::MpaBadKey)
            );
            assert_eq!(
                parse_with(offset, start[offset]),
                Err(IwarpError::MpaBadKey)
            );
        }
        assert_eq!(
            Frame::parse(FrameKind::Request, &REPLY),
            Err(IwarpError::MpaBadKey)
        );
        assert_eq!(
            Frame::length(FrameKind::Request, b"GET"),
            Err(IwarpError::MpaBadKey)
        );
    }

    #[test]
    fn refuses_revisions_other_than_1_and_2() {
        for revision in [0, 3, 255] {
            assert_eq!(
                parse_with(17, revision),
                Err(IwarpError::MpaUnsupportedRevision)
            );
        }
        assert_eq!(parse_with(17, 1), Ok(()));
    }

    #[test]
    fn refuses_more_private_data_than_512_bytes() {
        let mut start = REPLY;
        start[18..20].copy_from_slice(&513u16.to_be_bytes());
        assert_eq!(
            Frame::length(FrameKind::Reply, &start),
            Err(IwarpError::MpaPrivateDataTooLong)
        );
        start[18..20].copy_from_slice(&512u16.to_be_bytes());
        assert_eq!(Frame::length(FrameKind::Reply, &start), Ok(Some(532)));
    }

    #[test]
    fn refuses_an_enhanced_frame_without_room_for_depths() {
        let bytes = *b"MPA ID Req Frame\x10\x02\x00\x03\x00\x20\x00";
        let result = Frame::parse(FrameKind::Request, &bytes);
        assert_eq!(result, Err(IwarpError::MpaEnhancedTooShort));
    }

    #[test]
    fn refuses_a_frame_whose_length_is_not_the_one_it_states() {
        assert_eq!(parse_with(19, 13), Err(IwarpError::MpaFrameTooShort));
        assert_eq!(parse_with(19, 11), Err(IwarpError::MpaUnexpectedBytes));
        let short = Frame::parse(FrameKind::Reply, &REPLY[..19]);
        assert_eq!(short, Err(IwarpError::MpaFrameTooShort));
    }

    #[test]
    fn ignores_reserved_flags_and_flags_of_other_frames() {
        let mut bytes = REQUEST_7_2;
        bytes[16] = 0x3f;
        let frame = Frame::parse(FrameKind::Request, &bytes).unwrap();
        assert!(!frame.reject && frame.enhanced.is_some());
        bytes[17] = 1;
        let frame = Frame::parse(FrameKind::Request, &bytes).unwrap();
        assert_eq!((frame.enhanced, frame.private_data.len()), (None, 12));
    }

    #[test]
    fn does_not_write_frames_that_it_would_not_read() {
        let data = [0; MAX_PRIVATE_DATA + 1];
        let frame = Frame::parse(FrameKind::Reply, &REPLY).unwrap();
        let too_long = Frame {
            private_data: &data[..509],
            ..frame
        };
        assert_eq!(emit(&too_long), Err(IwarpError::MpaPrivateDataTooLong));
        let too_long = Frame {
            private_data: &data,
            enhanced: None,
            ..frame
        };
        assert_eq!(emit(&too_long), Err(IwarpError::MpaPrivateDataTooLong));
        assert_eq!(
            frame.emit(&mut [0; 23]),
            Err(IwarpError::MpaPrivateDataTooLong)
        );
        let enhanced_revision_1 = Frame {
            revision: 1,
            ..frame
        };
        assert_eq!(
            emit(&enhanced_revision_1),
            Err(IwarpError::MpaUnsupportedRevision)
        );
        let revision_0 = Frame {
            revision: 0,
            enhanced: None,
            ..frame
        };
        assert_eq!(emit(&revision_0), Err(IwarpError::MpaUnsupportedRevision));
    }

    #[test]
    fn does_not_mistake_other_private_data_for_depths() {
        assert_eq!(LegacyReadDepths::parse(&[]), None);
        assert_eq!(LegacyReadDepths::parse(&[0; 18]), None);
        assert_eq!(LegacyReadDepths::parse(b"\x20\0\0\0\0\0\0\x01"), None);
        let zero = LegacyReadDepths { ird: 0, ord: 0 };
        assert_eq!(LegacyReadDepths::parse(&[0; 8]), Some(zero));
    }

    #[test]
    fn frames_a_segment_as_linux_does() {
        let fpdu = *b"\x00\x26\x41\x43\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\
            \x00\x01\x00\x01\x00\x00\xff\x00\x54\x05\x00\x00\x54\x05\x00\x00\x56\xa7\x02\x00\
            \xe3\x96\x9c\x3a";
        let (covered, crc) = fpdu.split_at(fpdu.len() - CRC_LENGTH);
        assert_eq!(fpdu_length(0x26), fpdu.len());
        assert_eq!(pad(0x26), 0);
        let checksum: Crc32c = crc32c;
        let halves = covered.split_at(7);
        assert_eq!(checksum(checksum(0, halves.0), halves.1).to_le_bytes(), crc);
    }

    #[test]
    fn pads_each_fpdu_to_a_multiple_of_four_bytes() {
        assert_eq!([0, 1, 2, 3, 4].map(pad), [2, 1, 0, 3, 2]);
        assert_eq!([0, 1, 2, 3, 4].map(fpdu_length), [8, 8, 8, 12, 12]);
        assert_eq!(fpdu_length(65_535), 65_544);
    }

    fn kinds() -> impl Strategy<Value = FrameKind> {
        prop_oneof![Just(FrameKind::Request), Just(FrameKind::Reply)]
    }

    /// Makes frames with a valid key, because arbitrary bytes get no further than the key.
    fn frames() -> impl Strategy<Value = (FrameKind, Vec<u8>)> {
        (kinds(), any::<[u8; 2]>(), vec(any::<u8>(), 0..40), 0..64u16).prop_map(
            |(kind, flags, data, length)| {
                let bytes = [kind.key(), &flags[..], &length.to_be_bytes(), &data].concat();
                (kind, bytes)
            },
        )
    }

    proptest! {
        #[test]
        fn reads_arbitrary_bytes_without_panic(kind in kinds(), bytes in vec(any::<u8>(), 0..600)) {
            let _ = Frame::length(kind, &bytes);
            let _ = Frame::parse(kind, &bytes);
            let _ = LegacyReadDepths::parse(&bytes);
        }

        #[test]
        fn reads_arbitrary_headers_without_panic((kind, bytes) in frames(), cut in 0..64usize) {
            let bytes = &bytes[..cut.min(bytes.len())];
            let parsed = Frame::parse(kind, bytes);
            if parsed.is_ok() {
                prop_assert_eq!(Frame::length(kind, bytes), Ok(Some(bytes.len())));
            }
        }

        #[test]
        fn reads_back_each_frame_that_it_writes(
            kind in kinds(),
            flags in any::<[bool; 3]>(),
            depths in any::<Option<[u8; 4]>>(),
            revision in 1..=2u8,
            private_data in vec(any::<u8>(), 0..=508),
        ) {
            let enhanced = depths.map(ReadDepths::parse);
            let [markers, crc, reject] = flags;
            let frame = Frame {
                kind,
                markers,
                crc,
                reject: reject && kind == FrameKind::Reply,
                revision: if enhanced.is_some() { 2 } else { revision },
                enhanced,
                private_data: &private_data,
            };
            let bytes = emit(&frame).unwrap();
            prop_assert_eq!(Frame::length(kind, &bytes), Ok(Some(bytes.len())));
            prop_assert_eq!(Frame::parse(kind, &bytes), Ok(frame));
        }

        #[test]
        fn reads_back_depths(bytes in any::<[u8; 4]>(), ird in any::<u16>(), ord in any::<u16>()) {
            prop_assert_eq!(ReadDepths::parse(bytes).emit(), bytes);
            let legacy = LegacyReadDepths { ird: ird.into(), ord: ord.into() };
            prop_assert_eq!(LegacyReadDepths::parse(&legacy.emit()), Some(legacy));
        }

        #[test]
        fn each_fpdu_is_as_long_as_its_parts(ulpdu_length in 0..=65_535usize) {
            let length = fpdu_length(ulpdu_length);
            prop_assert_eq!(length % 4, 0);
            prop_assert_eq!(length, 2 + ulpdu_length + pad(ulpdu_length) + CRC_LENGTH);
            prop_assert!(pad(ulpdu_length) < 4);
        }
    }
}
