// SPDX-License-Identifier: GPL-2.0-or-later

//! DDP, which says where the bytes of a message go.
//!
//! RFC 5041. A segment begins with one control byte of DDP and one of RDMAP, which are one value here because neither
//! is useful without the other:
//!
//! ```text
//!     7   6   5 4 3 2   1 0     7 6   5 4   3 2 1 0
//!   +---+---+---------+-------+------+-----+---------+
//!   | T | L | 0       | 1     | 1    | 0   | opcode  |     byte 0: DDP (section 4.1)
//!   +---+---+---------+-------+------+-----+---------+     byte 1: RDMAP (RFC 5040 section 4.1)
//!     |   last segment  version version
//!     tagged
//! ```
//!
//! A tagged segment (section 4.2) goes to memory that the receiver has registered:
//!
//! ```text
//!   2        6                 14
//!   +--------+-----------------+
//!   | STag   | tagged offset   |
//!   +--------+-----------------+
//! ```
//!
//! An untagged segment (section 4.3) goes to the next buffer of a queue; the first field belongs to RDMAP:
//!
//! ```text
//!   2            6        10       14               18
//!   +------------+--------+--------+----------------+
//!   | invalidate | queue  | MSN    | message offset |
//!   | STag, or 0 | number |        |                |
//!   +------------+--------+--------+----------------+
//! ```
//!
//! Offsets count from the start of the segment. Reserved bits are sent as zero and ignored on
//! receipt. This module does not know whether an STag exists or which MSN is due.

use zerocopy::{BE, FromBytes, Immutable, IntoBytes, U32, U64, Unaligned, transmute};

use super::IwarpError;
use super::rdmap::Opcode;

/// The queue of Sends (RFC 5040 section 4.2).
pub const QUEUE_SEND: u32 = 0;
/// The queue of RDMA Read Requests.
pub const QUEUE_READ_REQUEST: u32 = 1;
/// The queue of the Terminate message.
pub const QUEUE_TERMINATE: u32 = 2;

/// Both control bytes of a segment. The tagged bit follows from the opcode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub struct Control {
    /// The kind of the message.
    pub opcode: Opcode,
    /// Whether this segment is the last of its message.
    pub last: bool,
}

impl Control {
    /// Length on the wire, in bytes.
    pub const LENGTH: usize = 2;

    /// The bit of byte 0 that marks a tagged segment.
    pub(super) const TAGGED: u8 = 0x80;
    const LAST: u8 = 0x40;
    const DDP_VERSION_MASK: u8 = 0x03;
    const DDP_VERSION: u8 = 0x01;
    const RDMAP_VERSION_MASK: u8 = 0xc0;
    const RDMAP_VERSION: u8 = 0x40;
    const OPCODE_MASK: u8 = 0x0f;

    /// Parses the control bytes.
    ///
    /// # Errors
    ///
    /// In this order: [`IwarpError::DdpVersion`], [`IwarpError::RdmapVersion`],
    /// [`IwarpError::RdmapOpcode`], and [`IwarpError::DdpNotTagged`] if the tagged bit contradicts
    /// the opcode.
    pub const fn parse(bytes: [u8; Self::LENGTH]) -> Result<Self, IwarpError> {
        let [ddp, rdmap] = bytes;
        if ddp & Self::DDP_VERSION_MASK != Self::DDP_VERSION {
            return Err(IwarpError::DdpVersion);
        }
        if rdmap & Self::RDMAP_VERSION_MASK != Self::RDMAP_VERSION {
            return Err(IwarpError::RdmapVersion);
        }
        let opcode = match Opcode::parse(rdmap & Self::OPCODE_MASK) {
            Ok(opcode) => opcode,
            Err(error) => return Err(error),
        };
        if (ddp & Self::TAGGED != 0) != opcode.is_tagged() {
            return Err(IwarpError::DdpNotTagged);
        }
        Ok(Self {
            opcode,
            last: ddp & Self::LAST != 0,
        })
    }

    /// Returns the control bytes.
    #[must_use]
    pub const fn emit(self) -> [u8; Self::LENGTH] {
        let tagged = if self.opcode.is_tagged() {
            Self::TAGGED
        } else {
            0
        };
        let last = if self.last { Self::LAST } else { 0 };
        [
            tagged | last | Self::DDP_VERSION,
            Self::RDMAP_VERSION | self.opcode as u8,
        ]
    }
}

/// The header of a tagged segment after its control bytes (RFC 5041 section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub struct Tagged {
    /// The STag of the receiver's memory.
    pub stag: u32,
    /// The offset of this segment's payload in that memory. It may be any number, because the receiver chose the base.
    pub offset: u64,
}

#[derive(FromBytes, Immutable, IntoBytes, Unaligned)]
#[repr(C)]
struct TaggedLayout {
    stag: U32<BE>,
    offset: U64<BE>,
}

impl Tagged {
    /// Length on the wire, in bytes.
    pub const LENGTH: usize = 12;

    /// Parses the header. Any 12 bytes are legal.
    #[must_use]
    pub fn parse(bytes: &[u8; Self::LENGTH]) -> Self {
        let layout: TaggedLayout = transmute!(*bytes);
        Self {
            stag: layout.stag.get(),
            offset: layout.offset.get(),
        }
    }

    /// Returns the bytes of the header.
    #[must_use]
    pub fn emit(&self) -> [u8; Self::LENGTH] {
        transmute!(TaggedLayout {
            stag: self.stag.into(),
            offset: self.offset.into()
        })
    }
}

/// The header of an untagged segment after its control bytes (RFC 5041 section 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub struct Untagged {
    /// The receiver's STag to invalidate, in each segment of a Send with Invalidate (RFC 5040 section 4.1); in all
    /// other segments this field is sent as 0 and ignored.
    pub invalidate: u32,
    /// The queue number.
    pub queue: u32,
    /// The message's number in its queue: the first is 1, and 0 follows 4,294,967,295.
    pub msn: u32,
    /// The offset of this segment's payload in the message, in bytes.
    pub mo: u32,
}

#[derive(FromBytes, Immutable, IntoBytes, Unaligned)]
#[repr(C)]
struct UntaggedLayout {
    invalidate: U32<BE>,
    queue: U32<BE>,
    msn: U32<BE>,
    mo: U32<BE>,
}

impl Untagged {
    /// Length on the wire, in bytes.
    pub const LENGTH: usize = 16;

    /// Parses the header. Any 16 bytes are legal.
    #[must_use]
    pub fn parse(bytes: &[u8; Self::LENGTH]) -> Self {
        let layout: UntaggedLayout = transmute!(*bytes);
        Self {
            invalidate: layout.invalidate.get(),
            queue: layout.queue.get(),
            msn: layout.msn.get(),
            mo: layout.mo.get(),
        }
    }

    /// Returns the bytes of the header.
    #[must_use]
    pub fn emit(&self) -> [u8; Self::LENGTH] {
        transmute!(UntaggedLayout {
            invalidate: self.invalidate.into(),
            queue: self.queue.into(),
            msn: self.msn.into(),
            mo: self.mo.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_and_writes_the_control_bytes_of_each_segment() {
        for (bytes, opcode, last) in [
            ([0xc1, 0x40], Opcode::Write, true),
            ([0x81, 0x40], Opcode::Write, false),
            ([0x41, 0x41], Opcode::ReadRequest, true),
            ([0xc1, 0x42], Opcode::ReadResponse, true),
            ([0x81, 0x42], Opcode::ReadResponse, false),
            ([0x41, 0x43], Opcode::Send, true),
            ([0x01, 0x43], Opcode::Send, false),
            ([0x41, 0x44], Opcode::SendInvalidate, true),
            ([0x41, 0x45], Opcode::SendSolicited, true),
            ([0x41, 0x46], Opcode::SendSolicitedInvalidate, true),
            ([0x41, 0x47], Opcode::Terminate, true),
        ] {
            let control = Control { opcode, last };
            assert_eq!(Control::parse(bytes), Ok(control));
            assert_eq!(control.emit(), bytes);
        }
    }

    #[test]
    fn refuses_a_ddp_version_other_than_1() {
        for first in [0x40, 0x42, 0x43] {
            assert_eq!(Control::parse([first, 0x43]), Err(IwarpError::DdpVersion));
        }
    }

    #[test]
    fn refuses_an_rdmap_version_other_than_1() {
        for second in [0x03, 0x83, 0xc3] {
            assert_eq!(
                Control::parse([0x41, second]),
                Err(IwarpError::RdmapVersion)
            );
        }
    }

    #[test]
    fn refuses_reserved_opcodes() {
        for second in 0x48..=0x4f {
            assert_eq!(Control::parse([0x41, second]), Err(IwarpError::RdmapOpcode));
        }
    }

    #[test]
    fn refuses_a_tagged_bit_that_does_not_fit_the_opcode() {
        for second in [0x40, 0x42] {
            assert_eq!(
                Control::parse([0x41, second]),
                Err(IwarpError::DdpNotTagged)
            );
        }
        for second in [0x41, 0x43, 0x44, 0x45, 0x46, 0x47] {
            assert_eq!(
                Control::parse([0xc1, second]),
                Err(IwarpError::DdpNotTagged)
            );
        }
    }

    #[test]
    fn ignores_reserved_control_bits() {
        let control = Control {
            opcode: Opcode::Send,
            last: true,
        };
        assert_eq!(Control::parse([0x41 | 0x3c, 0x43 | 0x30]), Ok(control));
    }

    #[test]
    fn reads_and_writes_the_untagged_header_of_a_linux_client() {
        let bytes = *b"\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0";
        let header = Untagged {
            invalidate: 0,
            queue: QUEUE_SEND,
            msn: 1,
            mo: 0,
        };
        assert_eq!(Untagged::parse(&bytes), header);
        assert_eq!(header.emit(), bytes);
    }

    #[test]
    fn keeps_each_field_in_its_place() {
        let bytes = *b"\x01\x02\x03\x04\x00\x00\x00\x01\x05\x06\x07\x08\x09\x0a\x0b\x0c";
        let queue = QUEUE_READ_REQUEST;
        let header = Untagged {
            invalidate: 0x0102_0304,
            queue,
            msn: 0x0506_0708,
            mo: 0x090a_0b0c,
        };
        assert_eq!(Untagged::parse(&bytes), header);
        assert_eq!(header.emit(), bytes);

        let bytes = *b"\x01\x02\x03\x04\x11\x12\x13\x14\x15\x16\x17\x18";
        let header = Tagged {
            stag: 0x0102_0304,
            offset: 0x1112_1314_1516_1718,
        };
        assert_eq!(Tagged::parse(&bytes), header);
        assert_eq!(header.emit(), bytes);
    }

    proptest! {
        #[test]
        fn writes_back_what_it_reads_of_any_control_bytes(bytes in any::<[u8; 2]>()) {
            if let Ok(control) = Control::parse(bytes) {
                let [ddp, rdmap] = bytes;
                prop_assert_eq!(control.emit(), [ddp & 0xc3, rdmap & 0xcf]);
                prop_assert_eq!(Control::parse(control.emit()), Ok(control));
            }
        }

        #[test]
        fn writes_back_any_header(tagged in any::<[u8; 12]>(), untagged in any::<[u8; 16]>()) {
            prop_assert_eq!(Tagged::parse(&tagged).emit(), tagged);
            prop_assert_eq!(Untagged::parse(&untagged).emit(), untagged);
        }
    }
}
