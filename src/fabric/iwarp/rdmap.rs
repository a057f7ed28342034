// SPDX-License-Identifier: GPL-2.0-or-later

//! RDMAP: the opcodes, and the two messages that have a header of their own.
//!
//! RFC 5040. Sends and RDMA WRITEs consist of payload only; RDMA Read Request and Terminate carry the headers below
//! after their untagged DDP header.
//!
//! RDMA Read Request (section 4.4), 28 bytes, always one segment:
//!
//! ```text
//!   0        4                 12       16       20                28
//!   +--------+-----------------+--------+--------+-----------------+
//!   | sink   | sink            | length | source | source          |
//!   | STag   | tagged offset   |        | STag   | tagged offset   |
//!   +--------+-----------------+--------+--------+-----------------+
//! ```
//!
//! Terminate (section 4.8), 4 to 52 bytes; M, D and R say which of the optional parts are present:
//!
//! ```text
//!   0                 1      2                     4            6            20/24      +28
//!   +--------+--------+------+---+---+---+---------+------------+------------+----------+
//!   | layer  | etype  | code | M | D | R | 0 (13)  | DDP segment| DDP header | RDMA Read|
//!   | 4 bits | 4 bits |      |   |   |   |         | length     | 14 or 18   | Request  |
//!   +--------+--------+------+---+---+---+---------+------------+------------+----------+
//!                                                     if M         if D         if R
//! ```
//!
//! A Terminate is written as the RFC defines it, but a peer's Terminate is never trusted: it ends the connection,
//! whatever it says. Linux's siw swaps `etype` and `layer` on little-endian hosts, so the text shows both readings.

use core::fmt;

use zerocopy::{BE, FromBytes, Immutable, IntoBytes, U32, U64, Unaligned, transmute};

use super::IwarpError;
use super::ddp;

/// The kind of an RDMAP message (RFC 5040 section 4.1): the low four bits of the second control byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub enum Opcode {
    /// RDMA Write.
    Write = 0,
    /// RDMA Read Request.
    ReadRequest = 1,
    /// RDMA Read Response.
    ReadResponse = 2,
    /// Send.
    Send = 3,
    /// Send with Invalidate.
    SendInvalidate = 4,
    /// Send with Solicited Event.
    SendSolicited = 5,
    /// Send with Solicited Event and Invalidate.
    SendSolicitedInvalidate = 6,
    /// Terminate.
    Terminate = 7,
}

impl Opcode {
    /// Returns the opcode with this number.
    ///
    /// # Errors
    ///
    /// [`IwarpError::RdmapOpcode`] for 8 and more.
    pub const fn parse(number: u8) -> Result<Self, IwarpError> {
        Ok(match number {
            0 => Self::Write,
            1 => Self::ReadRequest,
            2 => Self::ReadResponse,
            3 => Self::Send,
            4 => Self::SendInvalidate,
            5 => Self::SendSolicited,
            6 => Self::SendSolicitedInvalidate,
            7 => Self::Terminate,
            _ => return Err(IwarpError::RdmapOpcode),
        })
    }

    /// Returns whether messages with this opcode go to memory named by an STag, and not to the buffers of a queue.
    #[must_use]
    pub const fn is_tagged(self) -> bool {
        matches!(self, Self::Write | Self::ReadResponse)
    }

    /// Returns whether the opcode is one of the four Sends.
    #[must_use]
    pub const fn is_send(self) -> bool {
        matches!(
            self,
            Self::Send | Self::SendInvalidate | Self::SendSolicited | Self::SendSolicitedInvalidate
        )
    }

    /// Returns whether the opcode is that of a Send that also invalidates an STag.
    #[must_use]
    pub const fn invalidates(self) -> bool {
        matches!(self, Self::SendInvalidate | Self::SendSolicitedInvalidate)
    }

    /// Returns the DDP queue of messages with this opcode; `None` for tagged messages (RFC 5040 section 4.2).
    #[must_use]
    pub const fn queue(self) -> Option<u32> {
        match self {
            Self::Write | Self::ReadResponse => None,
            Self::ReadRequest => Some(ddp::QUEUE_READ_REQUEST),
            Self::Terminate => Some(ddp::QUEUE_TERMINATE),
            Self::Send
            | Self::SendInvalidate
            | Self::SendSolicited
            | Self::SendSolicitedInvalidate => Some(ddp::QUEUE_SEND),
        }
    }
}

/// The header of an RDMA Read Request (RFC 5040 section 4.4): read `length` bytes from the source,
/// in the receiver's memory, to the sink, in the sender's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReadRequest {
    /// The STag for the responses.
    pub sink_stag: u32,
    /// The tagged offset for the first response.
    pub sink_offset: u64,
    /// Number of bytes to read; 0 is legal.
    pub length: u32,
    /// The STag of the memory to read from.
    pub source_stag: u32,
    /// The tagged offset at which to begin.
    pub source_offset: u64,
}

#[derive(FromBytes, Immutable, IntoBytes, Unaligned)]
#[repr(C)]
struct ReadRequestLayout {
    sink_stag: U32<BE>,
    sink_offset: U64<BE>,
    length: U32<BE>,
    source_stag: U32<BE>,
    source_offset: U64<BE>,
}

impl ReadRequest {
    /// Length on the wire, in bytes.
    pub const LENGTH: usize = 28;

    /// Parses the header. Any 28 bytes are legal.
    #[must_use]
    pub fn parse(bytes: &[u8; Self::LENGTH]) -> Self {
        let layout: ReadRequestLayout = transmute!(*bytes);
        Self {
            sink_stag: layout.sink_stag.get(),
            sink_offset: layout.sink_offset.get(),
            length: layout.length.get(),
            source_stag: layout.source_stag.get(),
            source_offset: layout.source_offset.get(),
        }
    }

    /// Returns the bytes of the header.
    #[must_use]
    pub fn emit(&self) -> [u8; Self::LENGTH] {
        transmute!(ReadRequestLayout {
            sink_stag: self.sink_stag.into(),
            sink_offset: self.sink_offset.into(),
            length: self.length.into(),
            source_stag: self.source_stag.into(),
            source_offset: self.source_offset.into(),
        })
    }
}

/// Why a stream is terminated (RFC 5040 section 4.8): numbers that have a meaning only together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TerminateCode {
    /// The layer, 0 to 15: 0 is RDMAP, 1 DDP, 2 MPA.
    pub layer: u8,
    /// The error type within the layer, 0 to 15.
    pub etype: u8,
    /// The error code within the type.
    pub code: u8,
}

impl TerminateCode {
    /// Returns the code with layer and type swapped, as siw means it.
    #[must_use]
    pub const fn swapped(self) -> Self {
        Self {
            layer: self.etype,
            etype: self.layer,
            code: self.code,
        }
    }

    /// Returns the registry's text; `None` if the number is not assigned.
    #[must_use]
    pub const fn meaning(self) -> Option<&'static str> {
        Some(match (self.layer, self.etype, self.code) {
            (0, 0, _) => "RDMAP: local catastrophic error",
            (0, 1, 0x00) => "RDMAP remote protection: invalid STag",
            (0, 1, 0x01) => "RDMAP remote protection: base or bounds violation",
            (0, 1, 0x02) => "RDMAP remote protection: access rights violation",
            (0, 1, 0x03) => "RDMAP remote protection: STag of another stream",
            (0, 1, 0x04) => "RDMAP remote protection: tagged offset wrap",
            (0, 1, 0x09) => "RDMAP remote protection: STag cannot be invalidated",
            (0, 1, 0xff) => "RDMAP remote protection: unspecified",
            (0, 2, 0x05) => "RDMAP remote operation: invalid version",
            (0, 2, 0x06) => "RDMAP remote operation: unexpected opcode",
            (0, 2, 0x07) => "RDMAP remote operation: catastrophic for the stream",
            (0, 2, 0x08) => "RDMAP remote operation: catastrophic for all streams",
            (0, 2, 0x09) => "RDMAP remote operation: STag cannot be invalidated",
            (0, 2, 0xff) => "RDMAP remote operation: unspecified",
            (1, 0, 0x00) => "DDP: local catastrophic error",
            (1, 1, 0x00) => "DDP tagged buffer: invalid STag",
            (1, 1, 0x01) => "DDP tagged buffer: base or bounds violation",
            (1, 1, 0x02) => "DDP tagged buffer: STag of another stream",
            (1, 1, 0x03) => "DDP tagged buffer: tagged offset wrap",
            (1, 1, 0x04) => "DDP tagged buffer: invalid version",
            (1, 2, 0x01) => "DDP untagged buffer: invalid queue number",
            (1, 2, 0x02) => "DDP untagged buffer: no buffer available",
            (1, 2, 0x03) => "DDP untagged buffer: MSN out of range",
            (1, 2, 0x04) => "DDP untagged buffer: invalid message offset",
            (1, 2, 0x05) => "DDP untagged buffer: message too long",
            (1, 2, 0x06) => "DDP untagged buffer: invalid version",
            (2, 0, 0x01) => "MPA: TCP connection lost",
            (2, 0, 0x02) => "MPA: CRC error",
            (2, 0, 0x03) => "MPA: marker and length disagree",
            (2, 0, 0x04) => "MPA: invalid request or reply frame",
            (2, 0, 0x05) => "MPA: local catastrophic error",
            (2, 0, 0x06) => "MPA: insufficient IRD",
            (2, 0, 0x07) => "MPA: no matching ready-to-receive",
            _ => return None,
        })
    }

    /// Returns a text for the log: this reading, and the one that siw would mean.
    pub(super) const fn both_readings(self) -> BothReadings {
        BothReadings(self)
    }
}

impl fmt::Display for TerminateCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let meaning = self.meaning().unwrap_or("not assigned");
        write!(
            f,
            "layer {} type {} code {:#04x}, {meaning}",
            self.layer, self.etype, self.code
        )
    }
}

/// A received [`TerminateCode`], as text.
pub(super) struct BothReadings(TerminateCode);

impl fmt::Display for BothReadings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)?;
        if self.0.layer == self.0.etype {
            return Ok(());
        }
        write!(f, "; from siw: {}", self.0.swapped())
    }
}

/// The payload of a Terminate message that we send (RFC 5040 section 4.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terminate {
    code: TerminateCode,
    bytes: [u8; Self::MAX_LENGTH],
    length: usize,
}

impl Terminate {
    /// Length of the control field in bytes, which each Terminate has.
    pub const MIN_LENGTH: usize = 4;
    /// Length with everything that may follow: segment length, untagged DDP header, RDMA Read Request.
    pub const MAX_LENGTH: usize =
        Self::MIN_LENGTH + 2 + ddp::Control::LENGTH + ddp::Untagged::LENGTH + ReadRequest::LENGTH;

    /// Flag: the segment length is present.
    const M: u8 = 0x80;
    /// Flag: the DDP header is present.
    const D: u8 = 0x40;
    /// Flag: the RDMA Read Request header is present.
    const R: u8 = 0x20;

    /// Makes a report that does not copy anything back, for errors that do not belong to one segment.
    #[must_use]
    pub fn new(code: TerminateCode) -> Self {
        let mut terminate = Self {
            code,
            bytes: [0; Self::MAX_LENGTH],
            length: 0,
        };
        terminate.append(&[(code.layer << 4) | (code.etype & 0x0f), code.code, 0, 0]);
        terminate
    }

    /// Makes a report of an error in a DDP segment.
    ///
    /// `segment_length` is the ULPDU length of its FPDU; `start` is the segment, beginning with its control bytes, as
    /// far as it is available (at most 46 bytes are used). Headers that are incomplete in `start` are left out, and all
    /// of them are left out if the code is not about a segment (MPA errors, local catastrophic errors).
    #[must_use]
    pub fn on_segment(code: TerminateCode, segment_length: u16, start: &[u8]) -> Self {
        let tagged = start
            .first()
            .is_some_and(|control| control & ddp::Control::TAGGED != 0);
        let mut terminate = Self::new(match code {
            TerminateCode {
                layer: 1,
                etype: 2,
                code: 6,
            } if tagged => TerminateCode {
                layer: 1,
                etype: 1,
                code: 4,
            },
            other => other,
        });
        let header_length = ddp::Control::LENGTH
            + if tagged {
                ddp::Tagged::LENGTH
            } else {
                ddp::Untagged::LENGTH
            };
        let Some((header, payload)) = start.split_at_checked(header_length) else {
            return terminate;
        };
        if code.layer > 1 || code.etype == 0 {
            return terminate;
        }
        let read_request = header
            .get(1)
            .is_some_and(|c| c & 0x0f == Opcode::ReadRequest as u8);
        let request = match payload.first_chunk::<{ ReadRequest::LENGTH }>() {
            Some(request) if code.layer == 0 && !tagged && read_request => request.as_slice(),
            _ => &[],
        };
        let headers = Self::M | Self::D | if request.is_empty() { 0 } else { Self::R };
        let [_, _, flags, ..] = &mut terminate.bytes;
        *flags = headers;
        terminate.append(&segment_length.to_be_bytes());
        terminate.append(header);
        terminate.append(request);
        terminate
    }

    /// Returns the code that this message reports.
    #[must_use]
    pub const fn code(&self) -> TerminateCode {
        self.code
    }

    /// Returns the payload, 4 to 52 bytes.
    #[must_use]
    pub fn emit(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&self.bytes)
    }

    /// Reads a peer's Terminate as the RFC defines it. Bytes after the control field are ignored: siw puts M, D and R
    /// elsewhere, so their meaning is unknown.
    ///
    /// # Errors
    ///
    /// [`IwarpError::RdmapTerminateLength`] if there are fewer than 4 bytes.
    pub fn parse(payload: &[u8]) -> Result<TerminateCode, IwarpError> {
        let &[kind, code, _, _] = payload
            .first_chunk::<{ Self::MIN_LENGTH }>()
            .ok_or(IwarpError::RdmapTerminateLength)?;
        Ok(TerminateCode {
            layer: kind >> 4,
            etype: kind & 0x0f,
            code,
        })
    }

    /// Appends bytes that the caller knows to fit; bytes that did not fit would be left out.
    fn append(&mut self, part: &[u8]) {
        for (to, from) in self.bytes.iter_mut().skip(self.length).zip(part) {
            *to = *from;
            self.length += 1;
        }
    }
}

impl From<TerminateCode> for IwarpError {
    /// Makes the error for a peer's report.
    fn from(TerminateCode { layer, etype, code }: TerminateCode) -> Self {
        Self::PeerTerminated { layer, etype, code }
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const REQUEST: &[u8; 28] = b"\x01\x02\x03\x04\x11\x12\x13\x14\x15\x16\x17\x18\
        \x00\x10\x00\x00\x05\x06\x07\x08\x21\x22\x23\x24\x25\x26\x27\x28";
    const UNTAGGED: &[u8; 18] = b"\x41\x41\0\0\0\0\0\0\0\x01\0\0\0\x01\0\0\0\0";
    const TAGGED: &[u8; 14] = b"\xc1\x40\x01\x02\x03\x04\x11\x12\x13\x14\x15\x16\x17\x18";

    const fn code(error: IwarpError) -> TerminateCode {
        error.terminate_code().unwrap()
    }

    #[test]
    fn knows_for_each_opcode_the_queue_and_whether_it_is_tagged() {
        for number in 0..8 {
            let opcode = Opcode::parse(number).unwrap();
            assert_eq!(opcode as u8, number);
            assert_eq!(opcode.is_tagged(), [0, 2].contains(&number));
            assert_eq!(opcode.is_send(), (3..=6).contains(&number));
            assert_eq!(opcode.invalidates(), [4, 6].contains(&number));
            let queue = [
                None,
                Some(1),
                None,
                Some(0),
                Some(0),
                Some(0),
                Some(0),
                Some(2),
            ];
            assert_eq!(opcode.queue(), queue[usize::from(number)]);
        }
        assert_eq!(Opcode::parse(8), Err(IwarpError::RdmapOpcode));
    }

    #[test]
    fn reads_and_writes_a_read_request() {
        let request = ReadRequest {
            sink_stag: 0x0102_0304,
            sink_offset: 0x1112_1314_1516_1718,
            length: 0x10_0000,
            source_stag: 0x0506_0708,
            source_offset: 0x2122_2324_2526_2728,
        };
        assert_eq!(ReadRequest::parse(REQUEST), request);
        assert_eq!(&request.emit(), REQUEST);
    }

    #[test]
    fn reports_an_error_of_a_tagged_segment_with_its_header() {
        let segment = [TAGGED, &b"payload"[..]].concat();
        let terminate = Terminate::on_segment(code(IwarpError::DdpBaseOrBounds), 1_000, &segment);
        let expected = [b"\x11\x01\xc0\x00\x03\xe8", &TAGGED[..]].concat();
        assert_eq!(terminate.emit(), expected);
    }

    #[test]
    fn reports_an_error_of_a_read_request_with_both_headers() {
        let segment = [&UNTAGGED[..], REQUEST].concat();
        let terminate = Terminate::on_segment(code(IwarpError::RdmapAccess), 46, &segment);
        assert_eq!(
            terminate.emit(),
            [b"\x01\x02\xe0\x00\x00\x2e", &segment[..]].concat()
        );
        assert_eq!(terminate.emit().len(), Terminate::MAX_LENGTH);
        let terminate = Terminate::on_segment(code(IwarpError::DdpMsnRange), 46, &segment);
        assert_eq!(
            terminate.emit(),
            [b"\x12\x03\xc0\x00\x00\x2e", &UNTAGGED[..]].concat()
        );
    }

    #[test]
    fn reports_only_headers_that_are_whole() {
        let cut = [&UNTAGGED[..], &REQUEST[..27]].concat();
        let terminate = Terminate::on_segment(code(IwarpError::RdmapAccess), 45, &cut);
        assert_eq!(
            terminate.emit(),
            [b"\x01\x02\xc0\x00\x00\x2d", &UNTAGGED[..]].concat()
        );
        let terminate = Terminate::on_segment(code(IwarpError::RdmapAccess), 17, &UNTAGGED[..17]);
        assert_eq!(terminate.emit(), b"\x01\x02\x00\x00");
        let terminate = Terminate::on_segment(code(IwarpError::RdmapAccess), 0, &[]);
        assert_eq!(terminate.emit(), b"\x01\x02\x00\x00");
    }

    #[test]
    fn reports_no_header_if_the_segment_is_not_at_fault() {
        for (error, bytes) in [
            (IwarpError::MpaCrc, *b"\x20\x02\0\0"),
            (IwarpError::DdpSegmentTooShort, *b"\x10\0\0\0"),
        ] {
            assert_eq!(
                Terminate::on_segment(code(error), 18, UNTAGGED).emit(),
                bytes
            );
            assert_eq!(Terminate::new(code(error)).emit(), bytes);
        }
    }

    #[test]
    fn reports_a_wrong_version_by_whether_the_segment_is_tagged() {
        let untagged = Terminate::on_segment(code(IwarpError::DdpVersion), 18, b"\x42\x43");
        assert_eq!(
            untagged.code(),
            TerminateCode {
                layer: 1,
                etype: 2,
                code: 6
            }
        );
        let tagged = Terminate::on_segment(code(IwarpError::DdpVersion), 18, b"\xc2\x40");
        assert_eq!(
            tagged.code(),
            TerminateCode {
                layer: 1,
                etype: 1,
                code: 4
            }
        );
        assert_eq!(tagged.emit(), b"\x11\x04\0\0");
    }

    #[test]
    fn reads_a_terminate_as_the_rfc_defines_it() {
        let received = Terminate::parse(b"\x12\x02\xc0\x00\x00\x26").unwrap();
        assert_eq!(received, code(IwarpError::DdpNoBuffer));
        let error = IwarpError::from(received);
        assert_eq!(
            error,
            IwarpError::PeerTerminated {
                layer: 1,
                etype: 2,
                code: 2
            }
        );
        assert!(
            error
                .to_string()
                .contains("layer 1 type 2 code 0x02, DDP untagged buffer: no buffer")
        );
    }

    #[test]
    fn also_shows_what_siw_would_mean() {
        let received = Terminate::parse(b"\x21\x02\x03\x00").unwrap();
        assert_eq!(
            received,
            TerminateCode {
                layer: 2,
                etype: 1,
                code: 2
            }
        );
        assert_eq!(received.swapped(), code(IwarpError::DdpNoBuffer));
        let text = IwarpError::from(received).to_string();
        assert!(
            text.contains("layer 2 type 1 code 0x02, not assigned"),
            "{text}"
        );
        assert!(
            text.contains("from siw: layer 1 type 2 code 0x02, DDP untagged"),
            "{text}"
        );
    }

    #[test]
    fn refuses_a_terminate_without_a_control_field() {
        for length in 0..=3 {
            let result = Terminate::parse(&b"\x12\x02\xc0"[..length]);
            assert_eq!(result, Err(IwarpError::RdmapTerminateLength));
        }
    }

    proptest! {
        #[test]
        fn writes_back_any_read_request(bytes in any::<[u8; 28]>()) {
            prop_assert_eq!(ReadRequest::parse(&bytes).emit(), bytes);
        }

        #[test]
        fn reads_and_shows_any_terminate_without_panic(bytes in vec(any::<u8>(), 0..64)) {
            if let Ok(received) = Terminate::parse(&bytes) {
                prop_assert!(!IwarpError::from(received).to_string().is_empty());
            }
        }

        #[test]
        fn reads_back_the_code_of_each_terminate_that_it_writes(
            (layer, etype, number) in (0..16u8, 0..16u8, any::<u8>()),
            segment_length in any::<u16>(),
            start in vec(any::<u8>(), 0..64),
        ) {
            let code = TerminateCode { layer, etype, code: number };
            let terminate = Terminate::on_segment(code, segment_length, &start);
            let bytes = terminate.emit();
            prop_assert_eq!(Terminate::parse(bytes), Ok(terminate.code()));
            let headers = bytes.get(6..).unwrap_or_default();
            prop_assert!(start.starts_with(headers));
        }
    }
}
