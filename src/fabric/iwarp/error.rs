// SPDX-License-Identifier: GPL-2.0-or-later

//! The rules of iWARP that a peer can break, and how this side reports that.
//!
//! There is one variant for each rule, so that a counter or a log line names the rule that was broken. Each broken rule
//! ends the connection; if the stream can carry a Terminate message, such a message reports the rule first
//! ([`IwarpError::terminate_code`]). The numbers are those of RFC 5040 section 4.8, RFC 5041 section 7.2 and RFC 5044
//! section 8, which IANA keeps as "RDDP" (RFC 6580).

use super::rdmap::TerminateCode;
use crate::fabric::regions::AccessFault;

/// A rule of MPA, DDP or RDMAP that the peer broke; or, as [`PeerTerminated`](Self::PeerTerminated), the peer's report
/// that we broke a rule; or, as [`LocalRegionGone`](Self::LocalRegionGone), a mistake of our own side.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, strum::EnumIter, strum::IntoStaticStr, thiserror::Error,
)]
#[strum(serialize_all = "snake_case")]
pub enum IwarpError {
    /// The handshake frame does not begin with the key of its kind.
    #[error("the MPA key is wrong (RFC 5044 7.1.1)")]
    MpaBadKey,
    /// The peer wants markers in the stream, which are not supported.
    #[error("the peer asks for MPA markers, which are not supported (RFC 5044 7.1.1)")]
    MpaMarkers,
    /// The revision is neither 1 nor 2.
    #[error("the MPA revision is not supported (RFC 5044 7.1.1, RFC 6581 6)")]
    MpaUnsupportedRevision,
    /// There are more than 512 bytes of private data.
    #[error("the MPA private data is too long (RFC 5044 7.1.1)")]
    MpaPrivateDataTooLong,
    /// The enhanced flag is set, and the private data cannot hold IRD and ORD.
    #[error("the enhanced MPA frame has no room for IRD and ORD (RFC 6581 6)")]
    MpaEnhancedTooShort,
    /// The responder turned the connection down.
    #[error("the peer rejected the connection (RFC 5044 7.1.1)")]
    MpaRejected,
    /// The reply has another revision than the request, or lost its enhanced flag.
    #[error("the MPA reply does not match the revision of the request (RFC 6581 6)")]
    MpaRevisionMismatch,
    /// Bytes follow a handshake frame before the peer may send any.
    #[error("unexpected bytes after the MPA handshake frame (RFC 5044 7.1.2)")]
    MpaUnexpectedBytes,
    /// The handshake frame is shorter than the length that it states.
    #[error("the MPA frame is too short (RFC 5044 7.1.1)")]
    MpaFrameTooShort,
    /// The CRC of an FPDU does not match its bytes.
    #[error("the CRC of the FPDU is wrong (RFC 5044 4.4)")]
    MpaCrc,

    /// The DDP version is not 1.
    #[error("the DDP version is not 1 (RFC 5041 4.1)")]
    DdpVersion,
    /// The DDP segment is shorter than its header.
    #[error("the DDP segment is shorter than its header (RFC 5041 4)")]
    DdpSegmentTooShort,
    /// A tagged segment names an STag that does not exist.
    #[error("a tagged segment has an invalid STag (RFC 5041 7.1)")]
    DdpInvalidStag,
    /// A tagged segment names an STag of another connection.
    #[error("a tagged segment has an STag of another stream (RFC 5041 7.1)")]
    DdpStagNotAssociated,
    /// A tagged segment reaches outside the memory of its STag.
    #[error("a tagged segment lies outside its memory (RFC 5041 7.1)")]
    DdpBaseOrBounds,
    /// The tagged offset plus the length exceeds 64 bits.
    #[error("the tagged offset of a segment wraps (RFC 5041 7.1)")]
    DdpOffsetWrap,
    /// The queue number does not belong to the opcode.
    #[error("an untagged segment has an invalid queue number (RFC 5041 7.1)")]
    DdpInvalidQueue,
    /// An untagged message arrived, but no buffer was posted for it.
    #[error("no buffer is available for an untagged message (RFC 5041 7.1)")]
    DdpNoBuffer,
    /// The message sequence number is not the expected one.
    #[error("the MSN of an untagged segment is out of range (RFC 5041 7.1)")]
    DdpMsnRange,
    /// The message offset is not the one at which the message continues.
    #[error("the MO of an untagged segment is invalid (RFC 5041 7.1)")]
    DdpInvalidMo,
    /// An untagged message is larger than the buffer posted for it.
    #[error("an untagged message is too long for its buffer (RFC 5041 7.1)")]
    DdpTooLong,
    /// The tagged bit contradicts the opcode.
    #[error("the tagged bit contradicts the RDMAP opcode (RFC 5040 4.2)")]
    DdpNotTagged,

    /// The RDMAP version is not 1.
    #[error("the RDMAP version is not 1 (RFC 5040 4.1)")]
    RdmapVersion,
    /// The opcode is reserved.
    #[error("the RDMAP opcode is reserved (RFC 5040 4.1)")]
    RdmapOpcode,
    /// The memory does not allow this access.
    #[error("the memory does not allow this access (RFC 5040 7.2)")]
    RdmapAccess,
    /// An RDMA Read Request names a source STag that does not exist.
    #[error("an RDMA Read Request has an invalid source STag (RFC 5040 7.2)")]
    RdmapInvalidStag,
    /// An RDMA Read Request reaches outside the source memory.
    #[error("an RDMA Read Request lies outside its source memory (RFC 5040 7.2)")]
    RdmapBounds,
    /// The STag that a Send invalidates does not exist, or the peer may not invalidate it.
    #[error("the STag cannot be invalidated (RFC 5040 7.2)")]
    RdmapCannotInvalidate,
    /// There are more RDMA Read Requests at a time than the agreed IRD.
    #[error("more RDMA Read Requests than the agreed IRD (RFC 5040 5.2.1, RFC 6581 9.1)")]
    RdmapTooManyReads,
    /// An RDMA Read Response arrived for which there was no request.
    #[error("an RDMA Read Response without a request (RFC 5040 5.2.2)")]
    RdmapUnexpectedReadResponse,
    /// An RDMA Read Response has another STag, offset or length than its request.
    #[error("an RDMA Read Response does not match its request (RFC 5040 5.2.2)")]
    RdmapReadResponseMismatch,
    /// Another message began before the last segment of the current one.
    #[error("another message began inside an unfinished one (RFC 5041 5.3)")]
    RdmapInterleaved,
    /// An RDMA Read Request is not one segment with a header of 28 bytes.
    #[error("the RDMA Read Request is not 28 bytes long (RFC 5040 4.4)")]
    RdmapReadRequestLength,
    /// A Terminate message is shorter than its control field.
    #[error("the Terminate message is too short (RFC 5040 4.8)")]
    RdmapTerminateLength,

    /// It was the turn of posted work whose memory had been deregistered. The peer did nothing wrong, and receives a
    /// Terminate for a local catastrophic error.
    #[error("posted work names memory that was deregistered (RFC 5040 4.8)")]
    LocalRegionGone,

    /// The peer sent a Terminate message, decoded as RFC 5040 defines it; the text shows both readings.
    #[error("the peer terminated the stream: {} (RFC 5040 4.8)",
        TerminateCode { layer: *layer, etype: *etype, code: *code }.both_readings())]
    PeerTerminated {
        /// The layer, 0 to 15: 0 is RDMAP, 1 DDP, 2 MPA.
        layer: u8,
        /// The error type within the layer, 0 to 15.
        etype: u8,
        /// The error code within the type.
        code: u8,
    },
}

impl IwarpError {
    /// Returns a stable name for counters, in lower case, with words joined by `_`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Returns whether one side accessed the other's memory without permission. A peer's report counts only if it
    /// cannot mean anything else.
    #[must_use]
    pub const fn is_remote_access(self) -> bool {
        matches!(
            self,
            Self::DdpInvalidStag
                | Self::DdpStagNotAssociated
                | Self::DdpBaseOrBounds
                | Self::DdpOffsetWrap
                | Self::RdmapAccess
                | Self::RdmapInvalidStag
                | Self::RdmapBounds
                | Self::RdmapCannotInvalidate
                | Self::PeerTerminated {
                    layer: 0 | 1,
                    etype: 1,
                    ..
                }
        )
    }

    /// Returns the code of our Terminate message for this error; `None` if no Terminate may be sent: during the
    /// handshake there is no RDMAP stream yet, and a Terminate is not answered (RFC 5040 5.4).
    ///
    /// Rules without a number of their own are reported by the nearest number, or as unspecified.
    /// [`DdpVersion`](Self::DdpVersion) has one number for tagged and one for untagged segments: this function returns
    /// the one for untagged segments, and [`Terminate::on_segment`](super::rdmap::Terminate::on_segment) corrects that.
    #[must_use]
    pub const fn terminate_code(self) -> Option<TerminateCode> {
        let (layer, etype, code) = match self {
            Self::MpaBadKey
            | Self::MpaMarkers
            | Self::MpaUnsupportedRevision
            | Self::MpaPrivateDataTooLong
            | Self::MpaEnhancedTooShort
            | Self::MpaRejected
            | Self::MpaRevisionMismatch
            | Self::MpaUnexpectedBytes
            | Self::MpaFrameTooShort
            | Self::RdmapTerminateLength
            | Self::PeerTerminated { .. } => return None,

            Self::MpaCrc => (2, 0, 0x02),

            Self::DdpSegmentTooShort => (1, 0, 0x00),
            Self::DdpInvalidStag => (1, 1, 0x00),
            Self::DdpBaseOrBounds => (1, 1, 0x01),
            Self::DdpStagNotAssociated => (1, 1, 0x02),
            Self::DdpOffsetWrap => (1, 1, 0x03),
            Self::DdpInvalidQueue => (1, 2, 0x01),
            Self::DdpNoBuffer => (1, 2, 0x02),
            Self::DdpMsnRange => (1, 2, 0x03),
            Self::DdpInvalidMo => (1, 2, 0x04),
            Self::DdpTooLong => (1, 2, 0x05),
            Self::DdpVersion => (1, 2, 0x06),

            Self::LocalRegionGone => (0, 0, 0x00),
            Self::RdmapInvalidStag => (0, 1, 0x00),
            Self::RdmapBounds => (0, 1, 0x01),
            Self::RdmapAccess => (0, 1, 0x02),
            Self::RdmapCannotInvalidate => (0, 1, 0x09),
            Self::RdmapVersion => (0, 2, 0x05),
            Self::RdmapOpcode
            | Self::DdpNotTagged
            | Self::RdmapUnexpectedReadResponse
            | Self::RdmapInterleaved => (0, 2, 0x06),
            Self::RdmapTooManyReads => (0, 2, 0x07),
            Self::RdmapReadResponseMismatch | Self::RdmapReadRequestLength => (0, 2, 0xff),
        };
        Some(TerminateCode { layer, etype, code })
    }
}

impl From<AccessFault> for IwarpError {
    fn from(fault: AccessFault) -> Self {
        match fault {
            AccessFault::Token => Self::DdpInvalidStag,
            AccessFault::Access => Self::RdmapAccess,
            AccessFault::Wrap => Self::DdpOffsetWrap,
            AccessFault::Bounds => Self::DdpBaseOrBounds,
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    const HANDSHAKE: [IwarpError; 9] = [
        IwarpError::MpaBadKey,
        IwarpError::MpaMarkers,
        IwarpError::MpaUnsupportedRevision,
        IwarpError::MpaPrivateDataTooLong,
        IwarpError::MpaEnhancedTooShort,
        IwarpError::MpaRejected,
        IwarpError::MpaRevisionMismatch,
        IwarpError::MpaUnexpectedBytes,
        IwarpError::MpaFrameTooShort,
    ];
    const UNANSWERED: [IwarpError; 2] = [
        IwarpError::RdmapTerminateLength,
        IwarpError::PeerTerminated {
            layer: 0,
            etype: 1,
            code: 2,
        },
    ];
    const REPORTED: [(IwarpError, (u8, u8, u8)); 25] = [
        (IwarpError::MpaCrc, (2, 0, 2)),
        (IwarpError::DdpVersion, (1, 2, 6)),
        (IwarpError::DdpSegmentTooShort, (1, 0, 0)),
        (IwarpError::DdpInvalidStag, (1, 1, 0)),
        (IwarpError::DdpStagNotAssociated, (1, 1, 2)),
        (IwarpError::DdpBaseOrBounds, (1, 1, 1)),
        (IwarpError::DdpOffsetWrap, (1, 1, 3)),
        (IwarpError::DdpInvalidQueue, (1, 2, 1)),
        (IwarpError::DdpNoBuffer, (1, 2, 2)),
        (IwarpError::DdpMsnRange, (1, 2, 3)),
        (IwarpError::DdpInvalidMo, (1, 2, 4)),
        (IwarpError::DdpTooLong, (1, 2, 5)),
        (IwarpError::DdpNotTagged, (0, 2, 6)),
        (IwarpError::RdmapVersion, (0, 2, 5)),
        (IwarpError::RdmapOpcode, (0, 2, 6)),
        (IwarpError::LocalRegionGone, (0, 0, 0)),
        (IwarpError::RdmapAccess, (0, 1, 2)),
        (IwarpError::RdmapInvalidStag, (0, 1, 0)),
        (IwarpError::RdmapBounds, (0, 1, 1)),
        (IwarpError::RdmapCannotInvalidate, (0, 1, 9)),
        (IwarpError::RdmapTooManyReads, (0, 2, 7)),
        (IwarpError::RdmapUnexpectedReadResponse, (0, 2, 6)),
        (IwarpError::RdmapReadResponseMismatch, (0, 2, 0xff)),
        (IwarpError::RdmapInterleaved, (0, 2, 6)),
        (IwarpError::RdmapReadRequestLength, (0, 2, 0xff)),
    ];

    fn all() -> impl Iterator<Item = IwarpError> {
        HANDSHAKE
            .into_iter()
            .chain(UNANSWERED)
            .chain(REPORTED.map(|(error, _)| error))
    }

    #[test]
    fn sends_no_terminate_in_the_handshake_nor_for_a_terminate() {
        for error in HANDSHAKE.into_iter().chain(UNANSWERED) {
            assert_eq!(error.terminate_code(), None, "{error}");
        }
    }

    #[test]
    fn reports_each_other_error_by_an_assigned_number() {
        for (error, (layer, etype, code)) in REPORTED {
            let expected = TerminateCode { layer, etype, code };
            assert_eq!(error.terminate_code(), Some(expected), "{error}");
            assert!(expected.meaning().is_some(), "{error}");
        }
    }

    #[test]
    fn names_each_error_once_and_its_section() {
        for (n, error) in all().enumerate() {
            assert!(
                error
                    .name()
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
            );
            assert!(error.to_string().contains("(RFC "), "{error}");
            assert!(
                all().skip(n + 1).all(|other| other.name() != error.name()),
                "{error}"
            );
        }
        assert_eq!(IwarpError::MpaBadKey.name(), "mpa_bad_key");
        assert_eq!(IwarpError::RdmapTooManyReads.name(), "rdmap_too_many_reads");
    }
}
