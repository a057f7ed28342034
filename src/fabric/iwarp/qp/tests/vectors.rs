// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests bytes from Linux peers, and bytes as the RFCs show them.

use super::*;

/// Returns the first FPDU of cifs.ko over siw: the negotiate request of SMB Direct.
fn negotiate_request(crc: [u8; 4]) -> Vec<u8> {
    let mut bytes = b"\x00\x26\x41\x43\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\
        \x00\x01\x00\x01\x00\x00\xff\x00\x54\x05\0\0\x54\x05\0\0\x56\xa7\x02\0"
        .to_vec();
    bytes.extend(crc);
    bytes
}

#[test]
fn reads_and_makes_the_first_fpdu_of_a_linux_client() {
    for (crc, bytes) in [
        (false, negotiate_request([0; 4])),
        (true, negotiate_request([0xe3, 0x96, 0x9c, 0x3a])),
    ] {
        let agreed = Agreed { crc, ..AGREED };
        let mut client = End::new(agreed, 1440);
        client
            .qp
            .post_send(WrId(1), &bytes[20..40], None, None)
            .unwrap();
        assert_eq!(client.next_fpdu().unwrap().unwrap(), bytes);
        let mut server = End::new(agreed, 1440);
        let buffer = server.register(20, Access::Local);
        server.qp.post_recv(WrId(2), buffer.all()).unwrap();
        server.receive(&bytes, 100).unwrap();
        assert_eq!(buffer.bytes(), &bytes[20..40]);
        assert!(matches!(
            server.take_done()[..],
            [(
                2,
                Done::Recv {
                    length: 20,
                    invalidated: None
                }
            )]
        ));
    }
}

#[test]
fn without_agreement_crcs_are_sent_as_zero_and_not_checked() {
    let mut server = End::new(AGREED, 1440);
    let buffer = server.register(20, Access::Local);
    server.qp.post_recv(WrId(2), buffer.all()).unwrap();
    let bytes = negotiate_request(*b"none");
    server.receive(&bytes, 100).unwrap();
    assert_eq!(server.take_done().len(), 1);
}

#[test]
fn makes_the_segments_of_a_long_send() {
    let mut end = End::new(AGREED, 128);
    let payload = end.register_bytes((0..110).collect(), Access::Local);
    let token = Some(RemoteToken(0x0102_0304));
    let qp = &mut end.qp;
    qp.post_send(WrId(1), b"head", Some(payload.all()), token)
        .unwrap();
    qp.post_send(WrId(2), b"", None, None).unwrap();
    let bytes: Vec<u8> = (0..110).collect();
    let first = [
        b"\x00\x80\x01\x44\x01\x02\x03\x04\0\0\0\0\0\0\0\x01\0\0\0\0head",
        &bytes[..106],
        &[0; 2 + 4],
    ];
    assert_eq!(end.next_fpdu().unwrap().unwrap(), first.concat());
    let last = [
        b"\x00\x16\x41\x44\x01\x02\x03\x04\0\0\0\0\0\0\0\x01\0\0\0\x6e",
        &bytes[106..],
        &[0; 4],
    ];
    assert_eq!(end.next_fpdu().unwrap().unwrap(), last.concat());
    let empty = b"\x00\x12\x41\x43\0\0\0\0\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\0";
    assert_eq!(end.next_fpdu().unwrap().unwrap(), empty);
}

#[test]
fn makes_the_segments_of_a_long_write() {
    let mut end = End::new(AGREED, 128);
    let source = end.register_bytes((0..120).collect(), Access::Local);
    let target = RemoteAddress {
        token: RemoteToken(0x0a0b_0c0d),
        address: 0x0102_0304_0506_0700,
    };
    end.qp.post_write(WrId(1), source.all(), target).unwrap();
    let bytes: Vec<u8> = (0..120).collect();
    let first = [
        b"\x00\x80\x81\x40\x0a\x0b\x0c\x0d\x01\x02\x03\x04\x05\x06\x07\x00",
        &bytes[..114],
        &[0; 2 + 4],
    ];
    assert_eq!(end.next_fpdu().unwrap().unwrap(), first.concat());
    let last = [
        b"\x00\x14\xc1\x40\x0a\x0b\x0c\x0d\x01\x02\x03\x04\x05\x06\x07\x72",
        &bytes[114..],
        &[0; 2 + 4],
    ];
    assert_eq!(end.next_fpdu().unwrap().unwrap(), last.concat());
}

#[test]
fn asks_for_a_read_and_answers_it() {
    let mut end = End::new(AGREED, 1440);
    let sink = end.register(5, Access::Local);
    let source = RemoteAddress {
        token: RemoteToken(0x0102_0304),
        address: 0x1112_1314_1516_1718,
    };
    end.qp.post_read(WrId(1), sink.all(), source).unwrap();
    let request = b"\x00\x2e\x41\x41\0\0\0\0\0\0\0\x01\0\0\0\x01\0\0\0\0\
        \0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\x05\x01\x02\x03\x04\
        \x11\x12\x13\x14\x15\x16\x17\x18\0\0\0\0";
    assert_eq!(end.next_fpdu().unwrap().unwrap(), request);
    let response = b"\x00\x13\xc1\x42\0\0\0\x01\0\0\0\0\0\0\0\0hello\0\0\0\0\0\0\0";
    end.receive(response, 100).unwrap();
    assert_eq!(end.take_done(), [(1, Done::Read)]);
    sink.holds(0, b"hello");

    let mut server = End::new(AGREED, 1440);
    let remote = RemoteAddress {
        token: source.token,
        address: 0x1112_1314_1516_1700,
    };
    let bytes = [&[0; 0x18], &b"hello"[..]].concat();
    let length = bytes.len() as u32;
    let memory = Mem(Rc::new(RefCell::new(bytes)));
    let regions = server.qp.regions_mut();
    regions
        .register(memory, length, Access::RemoteRead, remote)
        .unwrap();
    server.receive(request, 100).unwrap();
    assert_eq!(server.next_fpdu().unwrap().unwrap(), response);
}

#[test]
fn takes_sends_with_a_solicited_event_and_reserved_bits_set() {
    let mut end = End::new(AGREED, 1440);
    let buffer = end.register(10, Access::Local);
    for n in 1..=2 {
        end.qp.post_recv(WrId(n), buffer.all()).unwrap();
    }
    let first = fpdu(&[&untagged([0x3d, 0x75], 7, 0, 1, 0), b"solic"]);
    let last = fpdu(&[&untagged([0x41, 0x45], 9, 0, 1, 5), b"ited"]);
    end.receive(&[first, last].concat(), 100).unwrap();
    buffer.holds(0, b"solicited");
    let revoked = end.register(10, Access::RemoteRead).remote.token;
    let both = fpdu(&[&untagged([0x41, 0x46], revoked.0, 0, 2, 0)]);
    end.receive(&both, 100).unwrap();
    let [length, empty] = [9, 0];
    let done = [
        (
            1,
            Done::Recv {
                length,
                invalidated: None,
            },
        ),
        (
            2,
            Done::Recv {
                length: empty,
                invalidated: Some(revoked),
            },
        ),
    ];
    assert_eq!(end.take_done(), done);
}
