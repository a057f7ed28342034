// SPDX-License-Identifier: GPL-2.0-or-later

//! The iWARP codecs: MPA, DDP, RDMAP.

use smbdirect::fabric::iwarp::IwarpError;
use smbdirect::fabric::iwarp::ddp::{Control, Tagged, Untagged};
use smbdirect::fabric::iwarp::mpa::{self, Frame, FrameKind, LegacyReadDepths, ReadDepths};
use smbdirect::fabric::iwarp::rdmap::{Opcode, ReadRequest, Terminate};

/// Checks the MPA handshake: a frame's length is known as soon as its header has arrived, and does not change
/// afterwards. A parsed frame is written back unchanged, except that reserved bits become zeros.
pub fn mpa(data: &[u8]) {
    for kind in [FrameKind::Request, FrameKind::Reply] {
        check_length(kind, data);
        check_frame(kind, data);
    }
    if let Some(depths) = LegacyReadDepths::parse(data) {
        assert!(data.len() == 8 && depths.ird <= 0xffff && depths.ord <= 0xffff);
        assert_eq!(LegacyReadDepths::parse(&depths.emit()), Some(depths));
    }
    if let Some(bytes) = data.first_chunk() {
        assert_eq!(ReadDepths::parse(*bytes).emit(), *bytes);
    }
    let length = data.len();
    let whole = mpa::fpdu_length(length);
    assert!(whole % 4 == 0 && whole >= length + 6 && whole < length + 10);
    assert_eq!(mpa::pad(length), whole - length - 6);
}

/// Feeds the frame in pieces of every length, as TCP might deliver it.
fn check_length(kind: FrameKind, data: &[u8]) {
    let mut known = None;
    for end in 0..=data.len().min(40) {
        match (Frame::length(kind, &data[..end]), known) {
            (Ok(Some(length)), None) => {
                assert!(end == 20 && (20..=532).contains(&length));
                known = Some(Ok(length));
            }
            (Ok(Some(length)), Some(expected)) => assert_eq!(Ok(length), expected),
            (Ok(None), _) => assert!(end < 20 && known.is_none()),
            (Err(error), None) => known = Some(Err(error)),
            (Err(error), Some(expected)) => {
                assert_eq!(Err(error), expected, "another error with more bytes")
            }
        }
    }
}

fn check_frame(kind: FrameKind, data: &[u8]) {
    let parsed = Frame::parse(kind, data);
    let Ok(Some(length)) = Frame::length(kind, data) else {
        return assert!(parsed.is_err());
    };
    if data.len() != length {
        return assert!(parsed.is_err());
    }
    let Ok(frame) = parsed else {
        let expected = [
            IwarpError::MpaUnsupportedRevision,
            IwarpError::MpaEnhancedTooShort,
        ];
        return assert!(parsed.is_err_and(|error| expected.contains(&error)));
    };
    let depths = if frame.enhanced.is_some() { 4 } else { 0 };
    assert_eq!(frame.private_data, &data[20 + depths..]);
    assert!(!(frame.reject && kind == FrameKind::Request));

    let mut expected = data.to_vec();
    let kept = if kind == FrameKind::Reply { 0xe0 } else { 0xc0 };
    expected[16] &= kept | if frame.enhanced.is_some() { 0x10 } else { 0 };
    let mut out = [0xaa; 532];
    assert_eq!(frame.emit(&mut out), Ok(length));
    assert_eq!(out[..length], expected);
    assert!(
        out[length..].iter().all(|byte| *byte == 0xaa),
        "wrote past its own length"
    );
    assert!(frame.emit(&mut out[..length - 1]).is_err());
}

/// Checks a DDP segment: control bytes and headers are written back as they were read, and a Terminate reports no more
/// than the segment contained.
pub fn ddp_rdmap(data: &[u8]) {
    if let Some(bytes) = data.first_chunk() {
        check_control(*bytes);
    }
    if let Some(bytes) = data.first_chunk() {
        assert_eq!(Tagged::parse(bytes).emit(), *bytes);
    }
    if let Some(bytes) = data.first_chunk() {
        assert_eq!(Untagged::parse(bytes).emit(), *bytes);
    }
    if let Some(bytes) = data.first_chunk() {
        assert_eq!(ReadRequest::parse(bytes).emit(), *bytes);
    }
    check_terminate(data);
}

fn check_control([ddp, rdmap]: [u8; 2]) {
    let tagged = matches!(rdmap & 0x0f, 0 | 2);
    let legal = ddp & 0x03 == 1 && rdmap >> 6 == 1 && rdmap & 0x0f < 8 && (ddp >> 7 == 1) == tagged;
    let parsed = Control::parse([ddp, rdmap]);
    assert_eq!(parsed.is_ok(), legal, "{parsed:?}");
    if let Ok(control) = parsed {
        assert_eq!(control.emit(), [ddp & 0xc3, rdmap & 0xcf]);
        assert_eq!(control.opcode.queue().is_none(), tagged);
        assert_eq!(control.opcode.is_send(), control.opcode.queue() == Some(0));
        assert!(control.opcode.is_send() || !control.opcode.invalidates());
        assert_eq!(Opcode::parse(control.opcode as u8), Ok(control.opcode));
    }
}

fn check_terminate(data: &[u8]) {
    let parsed = Terminate::parse(data);
    assert_eq!(parsed.is_ok(), data.len() >= 4);
    let Ok(code) = parsed else { return };
    assert_eq!([code.layer << 4 | code.etype, code.code], data[..2]);
    assert_eq!(code.swapped().swapped(), code);
    assert!(!IwarpError::from(code).to_string().is_empty());

    let segment = &data[4..];
    let segment_length = u16::try_from(segment.len()).unwrap_or(u16::MAX);
    for terminate in [
        Terminate::new(code),
        Terminate::on_segment(code, segment_length, segment),
    ] {
        let bytes = terminate.emit();
        assert!((Terminate::MIN_LENGTH..=Terminate::MAX_LENGTH).contains(&bytes.len()));
        assert_eq!(Terminate::parse(bytes), Ok(terminate.code()));
        let flags = bytes[2];
        assert_eq!((flags & 0x1f, bytes[3]), (0, 0), "reserved bits");
        let headers = bytes.get(6..).unwrap_or_default();
        assert!(segment.starts_with(headers));
        assert_eq!(bytes.len() > 4, flags & 0xc0 == 0xc0);
        assert_eq!(headers.len() > 18, flags & 0x20 != 0);
        assert!(
            headers.len() <= 18 || headers[1] & 0x0f == 1,
            "only a Read Request has another header"
        );
    }
}
