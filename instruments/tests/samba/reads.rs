// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests READ by RDMA in detail ([MS-SMB2] 3.3.5.12).

use instruments::client::{Channel, Config, Create, Disposition, NtStatus, Read, Request};

use crate::channel::{
    Client, UNTOUCHED, contents, device, gather, pattern, place, refusal, room, sink, uneven,
};
use crate::sessions::GUID;
use instruments::samba::{Server, Setup};

const BOTH: [Channel; 2] = [Channel::RdmaV1, Channel::RdmaV1Invalidate];

/// Starts a server with a file.
fn start(data: &[u8]) -> (Server, Client) {
    let server = device(Setup::default());
    place(&server, "file", data);
    let client = Client::connect_with(&server, Config::new(GUID));
    (server, client)
}

#[test]
fn any_length_is_read_at_any_offset_into_any_pieces() {
    let data = pattern(9 << 20, 1);
    let (_server, mut client) = start(&data);
    let file = client.open("file");
    let lengths = [1, 2, 511, 4096, 65_535, 65_537, (1 << 20) + 1, 8 << 20];
    let offsets = [0, 1, 4095, 777_777];
    for (n, length) in lengths.into_iter().enumerate() {
        for (m, offset) in offsets.into_iter().enumerate() {
            let into = sink(&mut client.direct, room(length));
            let pieces = uneven(&into, length);
            let channel = BOTH[(n + m) % 2];
            let read = client.get(file, offset, length, channel, &pieces);
            assert_eq!(read.expect("a READ"), length, "at {offset}");
            let (read, others) = gather(&into, &pieces);
            let start = offset as usize;
            assert!(
                read == data[start..start + length as usize],
                "{length} bytes at {offset}"
            );
            assert!(
                others.iter().all(|byte| *byte == UNTOUCHED),
                "bytes outside the pieces were written"
            );
            client.direct.deregister(&into).ok();
        }
    }
}

#[test]
fn the_response_has_a_count_and_no_data() {
    let data = pattern(100_000, 2);
    let (_server, mut client) = start(&data);
    let file = client.open("file");
    let into = sink(&mut client.direct, 100_000);
    let read = Read::direct(file, 0, 100_000, Channel::RdmaV1, &into.pieces(1));
    let response = client.direct.call(&read.request(client.tree));
    let response = response.expect("a READ");
    let body = response.body();
    assert_eq!(body[2], 80, "DataOffset");
    assert_eq!(body[4..8], [0; 4], "DataLength");
    assert_eq!(body[8..12], 100_000_u32.to_le_bytes(), "DataRemaining");
    assert_eq!(body[12..16], [0; 4], "Flags");
    assert_eq!(body.len(), 16);
}

#[test]
fn a_read_across_the_end_of_a_file_returns_the_data_before_the_end() {
    let data = pattern(10_000, 3);
    let (_server, mut client) = start(&data);
    let file = client.open("file");
    for channel in BOTH {
        let into = sink(&mut client.direct, 8192);
        let pieces = into.pieces(3);
        let read = client.get(file, 5001, 8192, channel, &pieces);
        assert_eq!(read.expect("a READ"), 4999);
        let memory = contents(&into);
        assert!(memory[..4999] == data[5001..]);
        assert!(memory[4999..].iter().all(|byte| *byte == UNTOUCHED));
    }
}

#[test]
fn a_read_beyond_the_end_of_a_file_touches_no_memory_but_invalidates_the_token() {
    let (_server, mut client) = start(&pattern(10_000, 4));
    let file = client.open("file");
    for channel in BOTH {
        for offset in [10_000, 10_001, 1 << 40] {
            let into = sink(&mut client.direct, 8192);
            let read = client.get(file, offset, 8192, channel, &into.pieces(2));
            assert_eq!(refusal(read), NtStatus::END_OF_FILE, "at {offset}");
            assert!(contents(&into).iter().all(|byte| *byte == UNTOUCHED));
            let invalidated = client.direct.take_invalidated(into.token());
            assert_eq!(invalidated, channel == Channel::RdmaV1Invalidate);
        }
    }
    client.is_alive();
}

#[test]
fn a_read_that_would_return_less_than_its_minimum_fails_with_end_of_file() {
    let data = pattern(10_000, 5);
    let (_server, mut client) = start(&data);
    let file = client.open("file");
    for (minimum, enough) in [(4999, true), (5000, true), (5001, false), (8192, false)] {
        let into = sink(&mut client.direct, 8192);
        let read = Read {
            minimum_count: minimum,
            ..Read::direct(file, 5000, 8192, Channel::RdmaV1, &into.pieces(2))
        };
        let response = client.direct.call(&read.request(client.tree));
        if enough {
            let response = response.expect("a READ");
            assert_eq!(response.read().expect("a READ").direct, 5000);
            assert!(contents(&into)[..5000] == data[5000..]);
        } else {
            assert_eq!(refusal(response), NtStatus::END_OF_FILE, "{minimum}");
            assert!(contents(&into).iter().all(|byte| *byte == UNTOUCHED));
        }
    }
}

#[test]
fn holes_are_read_as_zeros() {
    let (_server, mut client) = start(b"");
    let file = client.open("file");
    let end = (4 << 20) + 5;
    client
        .tcp
        .set_end_of_file(client.tree, file, end)
        .expect("longer");
    let island = pattern(5000, 6);
    client
        .tcp
        .write(client.tree, file, 2_000_001, &island)
        .expect("a write");
    let into = sink(&mut client.direct, 8 << 20);
    let read = client.get(file, 0, 8 << 20, Channel::RdmaV1, &into.pieces(7));
    assert_eq!(u64::from(read.expect("a READ")), end);
    let mut expected = vec![0; end as usize];
    expected[2_000_001..2_005_001].copy_from_slice(&island);
    let memory = contents(&into);
    assert!(memory[..end as usize] == expected);
    assert!(memory[end as usize..].iter().all(|byte| *byte == UNTOUCHED));
}

#[test]
fn a_handle_without_read_access_gets_nothing() {
    let (_server, mut client) = start(&pattern(10_000, 7));
    let how = Create {
        access: Create::WRITE,
        ..Create::file(Disposition::Open)
    };
    let file = client.tcp.create(client.tree, "file", &how);
    let file = file.expect("a file").file;
    for channel in BOTH {
        let into = sink(&mut client.direct, 8192);
        let read = client.get(file, 0, 8192, channel, &into.pieces(2));
        assert_eq!(refusal(read), NtStatus::ACCESS_DENIED);
        assert!(contents(&into).iter().all(|byte| *byte == UNTOUCHED));
        let invalidated = client.direct.take_invalidated(into.token());
        assert_eq!(invalidated, channel == Channel::RdmaV1Invalidate);
    }
    client.tcp.close(client.tree, file).expect("a close");
    let into = sink(&mut client.direct, 8192);
    let read = client.get(file, 0, 8192, Channel::RdmaV1Invalidate, &into.pieces(2));
    assert_eq!(refusal(read), NtStatus::FILE_CLOSED);
    assert!(client.direct.take_invalidated(into.token()));
    client.is_alive();
}

#[test]
fn fields_that_contradict_each_other_are_invalid_parameters() {
    let (_server, mut client) = start(&pattern(10_000, 8));
    let file = client.open("file");
    let into = sink(&mut client.direct, 8192);
    let good = Read::direct(file, 0, 8192, Channel::RdmaV1, &into.pieces(2));
    let largest = client.direct.max_direct().expect("SMB Direct");
    let with = |change: fn(&mut Read)| {
        let mut read = good.clone();
        change(&mut read);
        read
    };
    let wrong = [
        ("Length 0", with(|read| read.length = 0)),
        ("more than the descriptors", with(|read| read.length += 1)),
        ("no offset", with(|read| read.channel_info_offset = 0)),
        ("no length", with(|read| read.channel_info_length = 0)),
        (
            "half a descriptor",
            with(|read| read.channel_info_length -= 8),
        ),
        (
            "behind the end",
            with(|read| read.channel_info_length += 16),
        ),
        ("in the header", with(|read| read.channel_info_offset = 48)),
        ("RDMA transform", with(|read| read.channel = 3)),
        ("no such channel", with(|read| read.channel = 99)),
        (
            "more than the largest",
            Read {
                length: largest + 1,
                ..good.clone()
            },
        ),
    ];
    for (what, read) in &wrong {
        let response = client.direct.call(&read.request(client.tree));
        assert_eq!(refusal(response), NtStatus::INVALID_PARAMETER, "{what}");
    }
    assert!(contents(&into).iter().all(|byte| *byte == UNTOUCHED));
    let response = client.direct.call(&good.request(client.tree));
    assert_eq!(
        response
            .expect("a legal READ")
            .read()
            .expect("a READ")
            .direct,
        8192
    );
}

#[test]
fn a_read_with_too_small_a_credit_charge_is_refused() {
    let (_server, mut client) = start(&pattern(100_000, 9));
    let file = client.open("file");
    let into = sink(&mut client.direct, 100_000);
    let read = Read::direct(file, 0, 65_537, Channel::RdmaV1, &into.pieces(1));
    let request = read.request(client.tree);
    assert_eq!(request.credit_charge, 2);
    let cheap = Request {
        credit_charge: 1,
        ..request.clone()
    };
    let response = client.direct.call(&cheap);
    assert_eq!(refusal(response), NtStatus::INVALID_PARAMETER);
    assert!(contents(&into).iter().all(|byte| *byte == UNTOUCHED));
    client.direct.call(&request).expect("a right charge");
}
