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
//! An FPDU (RFC 5044 section 4.1) is a multiple of 4 bytes long. Its CRC32C covers everything in
//! front of the CRC and is stored little-endian; without an agreement on CRCs it is there too, and
//! zero:
//!
//! ```text
//!   0              2                2+n     2+n+pad(n)        fpdu_length(n)
//!   +--------------+----------------+-------+-----------------+
//!   | ULPDU length | ULPDU, n bytes | zeros | CRC32C          |
//!   +--------------+----------------+-------+-----------------+
//! ```
//!
//! This module reads what a frame says. What follows from it (markers refused, a reply that does
//! not fit its request) is for the handshake's owner to decide; the errors for that are named here.

use zerocopy::{BE, FromBytes, Immutable, IntoBytes, U16, Unaligned, transmute};

use super::IwarpError;

/// Bytes of a handshake frame in front of its private data.
pub const FRAME_HEADER_LENGTH: usize = 20;
/// Bytes of private data at most, IRD and ORD included (RFC 5044 section 7.1.1).
pub const MAX_PRIVATE_DATA: usize = 512;
/// Bytes of the CRC at the end of each FPDU.
pub const CRC_LENGTH: usize = 4;
/// Bytes of the ULPDU length at the start of each FPDU.
pub const LENGTH_LENGTH: usize = 2;

/// The owner's CRC32C: the checksum of some bytes, given that of all bytes before them (0 at the
/// start). Its result is stored by `to_le_bytes`.
pub type Crc32c = fn(crc: u32, bytes: &[u8]) -> u32;

/// Zero bytes between a ULPDU of this length and the CRC: 0 to 3.
#[must_use]
pub const fn pad(ulpdu_length: usize) -> usize {
    LENGTH_LENGTH.wrapping_sub(ulpdu_length) % 4
}

/// Bytes of the whole FPDU around a ULPDU of this length (0 to 65,535).
#[must_use]
pub const fn fpdu_length(ulpdu_length: usize) -> usize {
    ulpdu_length.saturating_add(LENGTH_LENGTH + pad(ulpdu_length) + CRC_LENGTH)
}

/// Which of the two handshake frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrameKind {
    /// From the initiator.
    Request,
    /// From the responder.
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
    /// RDMA Read Requests that the sender of the frame serves at a time, 0 to 0x3fff.
    pub ird: u16,
    /// RDMA Read Requests that it will have outstanding at a time, 0 to 0x3fff.
    pub ord: u16,
    /// [`PEER_TO_PEER`](Self::PEER_TO_PEER) and the `RTR_` bits; others must not be set.
    pub control: u16,
}

impl ReadDepths {
    /// Bytes on the wire.
    pub const LENGTH: usize = 4;
    /// As `ird` or `ord`: the sender does not negotiate this depth.
    pub const NOT_NEGOTIATED: u16 = 0x3fff;
    /// In `control`, A: the responder may send first, after a ready-to-receive of the initiator.
    pub const PEER_TO_PEER: u16 = 0x8000;
    /// In `control`, B: an empty Send is (offered as) the ready-to-receive.
    pub const RTR_SEND: u16 = 0x4000;
    /// In `control`, C: an empty RDMA Write is.
    pub const RTR_WRITE: u16 = 0x2000;
    /// In `control`, D: an empty RDMA Read is.
    pub const RTR_READ: u16 = 0x1000;

    const NUMBER: u16 = 0x3fff;
    const FLAGS: u16 = 0xc000;
    /// How far `control` has the two flags of the ORD field further right.
    const ORD_FLAGS_SHIFT: u32 = 2;

    /// Takes the four bytes apart. Any four bytes are legal.
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

    /// The four bytes. Depths that do not fit are sent as the largest that does, 0x3ffe.
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
    /// Request or reply.
    pub kind: FrameKind,
    /// M: its sender wants markers in what it receives.
    pub markers: bool,
    /// C: its sender wants CRCs; where either side does, both send them.
    pub crc: bool,
    /// R: the responder turns the connection down. Always false in a request.
    pub reject: bool,
    /// 1 or 2.
    pub revision: u8,
    /// S and its RDMA READ depths. Revision 2 only.
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

    /// How long the frame is that begins with the bytes of `start`, in bytes; `None` as long as
    /// that cannot be told. At most 532.
    ///
    /// # Errors
    ///
    /// [`IwarpError::MpaBadKey`] with the first byte that cannot belong to such a frame, so
    /// that nobody waits for the rest of something else; [`IwarpError::MpaPrivateDataTooLong`].
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

    /// Takes a frame apart: `bytes` is exactly one, as long as [`Frame::length`] said.
    ///
    /// Flags that RFC 5044 reserves are ignored, and so is S before revision 2.
    ///
    /// # Errors
    ///
    /// Those of [`Frame::length`]; [`IwarpError::MpaFrameTooShort`] and
    /// [`IwarpError::MpaUnexpectedBytes`] where `bytes` is shorter or longer than it says;
    /// [`IwarpError::MpaUnsupportedRevision`]; [`IwarpError::MpaEnhancedTooShort`].
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
    /// [`IwarpError::MpaPrivateDataTooLong`] where the private data, IRD and ORD included, exceeds
    /// 512 bytes or the room in `out`; [`IwarpError::MpaUnsupportedRevision`] for a revision other
    /// than 1 and 2, and for an enhanced frame of revision 1.
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
    /// RDMA Read Requests that the sender serves at a time.
    pub ird: u32,
    /// RDMA Read Requests that it will have outstanding at a time.
    pub ord: u32,
}

impl LegacyReadDepths {
    /// Bytes on the wire.
    pub const LENGTH: usize = 8;

    /// The depths in the private data of a frame; `None` where it is something else, which is not
    /// an error: it may hold anything.
    ///
    /// Linux before 7.x wrote them little-endian. No depth needs more than 16 bits, so only one of
    /// the byte orders makes sense of anything but zeros.
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

    /// The bytes, big-endian.
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
