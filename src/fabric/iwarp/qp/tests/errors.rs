// SPDX-License-Identifier: GPL-2.0-or-later

//! Breaks each rule once, with an FPDU made by hand.

use alloc::collections::BTreeSet;

use super::*;

const TOKEN: u32 = 0x1001;
const ADDRESS: u64 = (TOKEN as u64) << 20;
const READABLE: u32 = 0x1002;
const READABLE_ADDRESS: u64 = (READABLE as u64) << 20;
const LOCAL: u32 = 0x1003;

const SEND: [u8; 2] = [0x41, 0x43];
const MORE_SEND: [u8; 2] = [0x01, 0x43];
const SEND_INVALIDATE: [u8; 2] = [0x41, 0x44];
const MORE_SEND_INVALIDATE: [u8; 2] = [0x01, 0x44];
const WRITE: [u8; 2] = [0xc1, 0x40];
const MORE_WRITE: [u8; 2] = [0x81, 0x40];
const READ_REQUEST: [u8; 2] = [0x41, 0x41];
const READ_RESPONSE: [u8; 2] = [0xc1, 0x42];
const MORE_READ_RESPONSE: [u8; 2] = [0x81, 0x42];
const TERMINATE: [u8; 2] = [0x41, 0x47];

/// Makes an end with 100 bytes of memory for each access, a receive, and a READ of 10 bytes whose request was sent.
fn victim() -> (End, [Region; 3]) {
    let mut end = End::new(Agreed { ird: 2, ..AGREED }, 1440);
    let accesses = [Access::RemoteWrite, Access::RemoteRead, Access::Local];
    let regions = accesses.map(|access| end.register(100, access));
    let local = &regions[2];
    end.qp.post_recv(WrId(1), local.sge(0, 10)).unwrap();
    end.qp
        .post_read(WrId(2), local.sge(50, 10), local.remote)
        .unwrap();
    assert_eq!(end.send_all(), [1]);
    (end, regions)
}

fn send(control: [u8; 2], (msn, mo): (u32, u32), payload: &[u8]) -> Vec<u8> {
    fpdu(&[&untagged(control, 0, 0, msn, mo), payload])
}

fn send_invalidate(control: [u8; 2], token: u32, mo: u32) -> Vec<u8> {
    fpdu(&[&untagged(control, token, 0, 1, mo), b"1234"])
}

fn write(control: [u8; 2], stag: u32, offset: u64, payload: &[u8]) -> Vec<u8> {
    fpdu(&[&tagged(control, stag, offset), payload])
}

fn response(control: [u8; 2], stag: u32, offset: u64, length: usize) -> Vec<u8> {
    write(control, stag, offset, &[1; 20][..length])
}

fn read(msn: u32, length: u32, stag: u32, offset: u64) -> Vec<u8> {
    read_to(msn, 0, (length, stag, offset))
}

fn read_to(msn: u32, sink: u64, (length, stag, offset): (u32, u32, u64)) -> Vec<u8> {
    let body = [
        &7_u32.to_be_bytes()[..],
        &sink.to_be_bytes(),
        &length.to_be_bytes(),
        &stag.to_be_bytes(),
        &offset.to_be_bytes(),
    ];
    fpdu(&[&untagged(READ_REQUEST, 0, 1, msn, 0), &body.concat()])
}

fn terminate(body: &[u8]) -> Vec<u8> {
    fpdu(&[&untagged(TERMINATE, 0, 2, 1, 0), body])
}

/// Returns FPDUs that each break a rule, with the rule.
fn broken_rules() -> Vec<(Vec<u8>, IwarpError)> {
    let ok = read(1, 1, READABLE, READABLE_ADDRESS);
    let again = read(2, 1, READABLE, READABLE_ADDRESS);
    let too_many = read(3, 1, READABLE, READABLE_ADDRESS);
    vec![
        (fpdu(&[]), IwarpError::DdpSegmentTooShort),
        (fpdu(&[b"A"]), IwarpError::DdpSegmentTooShort),
        (fpdu(&[&SEND, &[0; 15]]), IwarpError::DdpSegmentTooShort),
        (fpdu(&[&WRITE, &[0; 11]]), IwarpError::DdpSegmentTooShort),
        (send([0x42, 0x43], (1, 0), b""), IwarpError::DdpVersion),
        (send([0x41, 0x83], (1, 0), b""), IwarpError::RdmapVersion),
        (send([0x41, 0x48], (1, 0), b""), IwarpError::RdmapOpcode),
        (send([0xc1, 0x43], (1, 0), b""), IwarpError::DdpNotTagged),
        (
            write([0x41, 0x40], TOKEN, ADDRESS, b"1"),
            IwarpError::DdpNotTagged,
        ),
        // These are Sends.
        (
            fpdu(&[&untagged(SEND, 0, 1, 1, 0)]),
            IwarpError::DdpInvalidQueue,
        ),
        (send(SEND, (0, 0), b"1"), IwarpError::DdpMsnRange),
        (send(SEND, (2, 0), b"1"), IwarpError::DdpMsnRange),
        (send(SEND, (1, 1), b"1"), IwarpError::DdpInvalidMo),
        (
            [send(MORE_SEND, (1, 0), b"12"), send(SEND, (1, 1), b"3")].concat(),
            IwarpError::DdpInvalidMo,
        ),
        (send(SEND, (1, 0), &[0; 11]), IwarpError::DdpTooLong),
        (
            [send(MORE_SEND, (1, 0), &[0; 10]), send(SEND, (1, 10), b"3")].concat(),
            IwarpError::DdpTooLong,
        ),
        (
            [send(SEND, (1, 0), b""), send(SEND, (2, 0), b"")].concat(),
            IwarpError::DdpNoBuffer,
        ),
        (
            [
                send(MORE_SEND, (1, 0), b"12"),
                fpdu(&[&untagged([0x41, 0x45], 0, 0, 1, 2)]),
            ]
            .concat(),
            IwarpError::RdmapInterleaved,
        ),
        (
            [
                send_invalidate(MORE_SEND_INVALIDATE, TOKEN, 0),
                send_invalidate(SEND_INVALIDATE, READABLE, 4),
            ]
            .concat(),
            IwarpError::RdmapInterleaved,
        ),
        (
            send_invalidate(SEND_INVALIDATE, 0, 0),
            IwarpError::RdmapCannotInvalidate,
        ),
        (
            send_invalidate(SEND_INVALIDATE, LOCAL, 0),
            IwarpError::RdmapCannotInvalidate,
        ),
        (
            send_invalidate(SEND_INVALIDATE, TOKEN + 9, 0),
            IwarpError::RdmapCannotInvalidate,
        ),
        // These are RDMA WRITEs.
        (
            write(WRITE, TOKEN + 9, ADDRESS, b"1"),
            IwarpError::DdpInvalidStag,
        ),
        (
            write(WRITE, LOCAL, ADDRESS, b"1"),
            IwarpError::DdpInvalidStag,
        ),
        (write(WRITE, 0, ADDRESS, b"1"), IwarpError::DdpInvalidStag),
        (
            write(WRITE, READABLE, READABLE_ADDRESS, b"1"),
            IwarpError::RdmapAccess,
        ),
        (
            write(WRITE, TOKEN, ADDRESS - 1, b"1"),
            IwarpError::DdpBaseOrBounds,
        ),
        (
            write(WRITE, TOKEN, ADDRESS + 99, b"12"),
            IwarpError::DdpBaseOrBounds,
        ),
        (
            write(WRITE, TOKEN, ADDRESS + 100, b"1"),
            IwarpError::DdpBaseOrBounds,
        ),
        (
            write(WRITE, TOKEN, ADDRESS + (1 << 32), b"1"),
            IwarpError::DdpBaseOrBounds,
        ),
        (
            write(WRITE, TOKEN, u64::MAX, b"1"),
            IwarpError::DdpOffsetWrap,
        ),
        (
            [
                write(MORE_WRITE, TOKEN, ADDRESS, b"1"),
                write(WRITE, TOKEN, ADDRESS + 2, b"1"),
            ]
            .concat(),
            IwarpError::RdmapInterleaved,
        ),
        (
            [
                write(MORE_WRITE, TOKEN, ADDRESS, b"1"),
                response(READ_RESPONSE, 1, 0, 10),
            ]
            .concat(),
            IwarpError::RdmapInterleaved,
        ),
        (
            [
                response(MORE_READ_RESPONSE, 1, 0, 5),
                write(WRITE, TOKEN, ADDRESS, b"1"),
            ]
            .concat(),
            IwarpError::RdmapInterleaved,
        ),
        // These are RDMA Read Responses.
        (
            response(READ_RESPONSE, 2, 0, 10),
            IwarpError::RdmapReadResponseMismatch,
        ),
        (
            response(READ_RESPONSE, 1, 1, 9),
            IwarpError::RdmapReadResponseMismatch,
        ),
        (
            response(READ_RESPONSE, 1, 0, 9),
            IwarpError::RdmapReadResponseMismatch,
        ),
        (
            response(READ_RESPONSE, 1, 0, 11),
            IwarpError::RdmapReadResponseMismatch,
        ),
        (
            response(MORE_READ_RESPONSE, 1, 0, 10),
            IwarpError::RdmapReadResponseMismatch,
        ),
        (
            [
                response(MORE_READ_RESPONSE, 1, 0, 5),
                response(READ_RESPONSE, 1, 5, 6),
            ]
            .concat(),
            IwarpError::RdmapReadResponseMismatch,
        ),
        (
            [
                response(READ_RESPONSE, 1, 0, 10),
                response(READ_RESPONSE, 1, 0, 0),
            ]
            .concat(),
            IwarpError::RdmapUnexpectedReadResponse,
        ),
        // These are RDMA Read Requests.
        (
            fpdu(&[&untagged(READ_REQUEST, 0, 1, 1, 0), &[0; 27]]),
            IwarpError::RdmapReadRequestLength,
        ),
        (
            fpdu(&[&untagged(READ_REQUEST, 0, 1, 1, 0), &[0; 29]]),
            IwarpError::RdmapReadRequestLength,
        ),
        (
            fpdu(&[&untagged(READ_REQUEST, 0, 0, 1, 0), &[0; 28]]),
            IwarpError::DdpInvalidQueue,
        ),
        (
            read(2, 1, READABLE, READABLE_ADDRESS),
            IwarpError::DdpMsnRange,
        ),
        (
            fpdu(&[&untagged(READ_REQUEST, 0, 1, 1, 1), &[0; 28]]),
            IwarpError::DdpInvalidMo,
        ),
        (
            fpdu(&[&untagged([0x01, 0x41], 0, 1, 1, 0), &[0; 28]]),
            IwarpError::DdpInvalidMo,
        ),
        (
            read(1, 1, READABLE + 9, READABLE_ADDRESS),
            IwarpError::RdmapInvalidStag,
        ),
        (
            read(1, 1, LOCAL, READABLE_ADDRESS),
            IwarpError::RdmapInvalidStag,
        ),
        (read(1, 1, TOKEN, ADDRESS), IwarpError::RdmapAccess),
        (
            read(1, 101, READABLE, READABLE_ADDRESS),
            IwarpError::RdmapBounds,
        ),
        (
            read(1, u32::MAX, READABLE, READABLE_ADDRESS),
            IwarpError::RdmapBounds,
        ),
        (
            read(1, 1, READABLE, READABLE_ADDRESS - 1),
            IwarpError::RdmapBounds,
        ),
        (read(1, 2, READABLE, u64::MAX), IwarpError::RdmapBounds),
        (
            read_to(1, u64::MAX, (1, READABLE, READABLE_ADDRESS)),
            IwarpError::DdpOffsetWrap,
        ),
        (
            [ok, again, too_many].concat(),
            IwarpError::RdmapTooManyReads,
        ),
        // These are Terminates.
        (terminate(b"123"), IwarpError::RdmapTerminateLength),
        (terminate(&[0; 53]), IwarpError::RdmapTerminateLength),
        (
            terminate(b"\x12\x05\xc0\x00\x01\x02"),
            IwarpError::PeerTerminated {
                layer: 1,
                etype: 2,
                code: 5,
            },
        ),
    ]
}

#[test]
fn each_broken_rule_has_its_error_however_the_stream_is_cut() {
    for (bytes, error) in broken_rules() {
        for piece in [1, 2, 7, 1_000] {
            let (mut end, regions) = victim();
            let mut pieces = bytes.chunks(piece);
            let failed = pieces.find_map(|piece| end.receive(piece, 3).err());
            assert_eq!(failed, Some(error), "{bytes:02x?} by {piece}");
            // The error stays, in both directions.
            assert_eq!(end.receive(&bytes, 100), Err(error));
            assert_eq!(end.qp.target(), Err(error));
            assert_eq!(end.next_fpdu(), Err(error));
            let flushed = end.flush().len() + end.take_done().len();
            assert_eq!(flushed, 2, "{error}");
            let [writable, readable, local] = regions.map(|region| region.bytes());
            assert_eq!(readable, [UNTOUCHED; 100]);
            assert_eq!(writable[1..], [UNTOUCHED; 99]);
            assert_eq!([&local[10..50], &local[60..]].concat(), [UNTOUCHED; 80]);
        }
    }
}

#[test]
fn an_fpdu_that_breaks_a_rule_is_placed_nowhere() {
    for (bytes, error) in broken_rules() {
        let ulpdu_length = u16::from_be_bytes([bytes[0], bytes[1]]);
        let alone = mpa::fpdu_length(ulpdu_length.into()) == bytes.len();
        // An invalidation is handled when the message is complete.
        if alone && error != IwarpError::RdmapCannotInvalidate {
            let (mut end, regions) = victim();
            assert_eq!(end.receive(&bytes, 100), Err(error));
            for region in regions {
                region.holds(0, &[]);
            }
        }
    }
}

#[test]
fn the_failed_segment_is_kept_for_a_terminate() {
    let (mut end, _) = victim();
    assert_eq!(end.qp.failed_segment(), (0, &[][..]));
    let bytes = write(WRITE, TOKEN, ADDRESS + 100, b"payload");
    assert!(end.receive(&bytes, 100).is_err());
    assert_eq!(end.qp.failed_segment(), (21, &bytes[2..16]));
    let (mut end, _) = victim();
    let bytes = read(1, 101, READABLE, READABLE_ADDRESS);
    assert!(end.receive(&bytes, 100).is_err());
    assert_eq!(end.qp.failed_segment(), (46, &bytes[2..48]));
    let (mut end, _) = victim();
    assert!(end.receive(&send([0x42, 0x43], (1, 0), b""), 1).is_err());
    assert_eq!(end.qp.failed_segment(), (18, &[0x42, 0x43][..]));
}

#[test]
fn a_wrong_crc_is_an_error_wherever_the_flipped_bit_is() {
    for place in 0..4 {
        let agreed = Agreed {
            crc: true,
            ..AGREED
        };
        let mut client = End::new(agreed, 1440);
        let mut server = End::new(agreed, 1440);
        let buffer = server.register(100, Access::Local);
        server.qp.post_recv(WrId(1), buffer.all()).unwrap();
        client
            .qp
            .post_send(WrId(1), b"message", None, None)
            .unwrap();
        let mut bytes = client.next_fpdu().unwrap().unwrap();
        // This changes a reserved field, the payload, the padding, or the CRC.
        bytes[[4, 20, 27, 31][place]] ^= 0x10;
        let error = Err(IwarpError::MpaCrc);
        assert_eq!(server.receive(&bytes, 3), error, "{place}");
        assert_eq!(server.take_done(), []);
        assert_eq!(server.flush(), [1]);
    }
}

/// Returns whether a peer's FPDUs, or its owner's deregistration, make a queue pair return the error. There is no
/// wildcard, so that a new error has to be added here.
fn is_of_the_queue_pair(error: IwarpError) -> bool {
    match error {
        IwarpError::MpaBadKey
        | IwarpError::MpaMarkers
        | IwarpError::MpaUnsupportedRevision
        | IwarpError::MpaPrivateDataTooLong
        | IwarpError::MpaEnhancedTooShort
        | IwarpError::MpaRejected
        | IwarpError::MpaRevisionMismatch
        | IwarpError::MpaUnexpectedBytes
        | IwarpError::MpaFrameTooShort
        // Each connection has its own table, so tokens of other connections are as invalid as any other number.
        | IwarpError::DdpStagNotAssociated => false,
        IwarpError::MpaCrc
        | IwarpError::DdpVersion
        | IwarpError::DdpSegmentTooShort
        | IwarpError::DdpInvalidStag
        | IwarpError::DdpBaseOrBounds
        | IwarpError::DdpOffsetWrap
        | IwarpError::DdpInvalidQueue
        | IwarpError::DdpNoBuffer
        | IwarpError::DdpMsnRange
        | IwarpError::DdpInvalidMo
        | IwarpError::DdpTooLong
        | IwarpError::DdpNotTagged
        | IwarpError::RdmapVersion
        | IwarpError::RdmapOpcode
        | IwarpError::RdmapAccess
        | IwarpError::RdmapInvalidStag
        | IwarpError::RdmapBounds
        | IwarpError::RdmapCannotInvalidate
        | IwarpError::RdmapTooManyReads
        | IwarpError::RdmapUnexpectedReadResponse
        | IwarpError::RdmapReadResponseMismatch
        | IwarpError::RdmapInterleaved
        | IwarpError::RdmapReadRequestLength
        | IwarpError::RdmapTerminateLength
        | IwarpError::LocalRegionGone
        | IwarpError::PeerTerminated { .. } => true,
    }
}

#[test]
fn each_error_of_the_queue_pair_is_provoked_by_some_test() {
    let mut provoked: BTreeSet<&str> = broken_rules()
        .into_iter()
        .map(|(_, error)| {
            assert!(is_of_the_queue_pair(error));
            error.name()
        })
        .collect();
    // The tests above, and those in `regions.rs`, provoke these.
    provoked.extend([
        IwarpError::MpaCrc.name(),
        IwarpError::LocalRegionGone.name(),
    ]);
    assert_eq!(provoked.len(), 26, "{provoked:?}");
}
