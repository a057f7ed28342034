// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests WRITE by RDMA in detail ([MS-SMB2] 3.3.5.13).

use instruments::client::{Channel, Config, Create, Disposition, NtStatus, Request, Write};
use smbdirect::wire::BufferDescriptorV1;

use crate::channel::{Client, device, disk, pattern, place, refusal, room, sink, source, uneven};
use crate::failures::client::wait_until;
use crate::sessions::GUID;
use instruments::samba::{Server, Setup};

const BOTH: [Channel; 2] = [Channel::RdmaV1, Channel::RdmaV1Invalidate];

fn start() -> (Server, Client) {
    let server = device(Setup::default());
    let client = Client::connect_with(&server, Config::new(GUID));
    (server, client)
}

/// Returns the number of bytes that the device has fetched from the client.
fn fetched(server: &Server) -> u64 {
    let status = server.device().status();
    let connections = status["connections"].as_array().expect("connections");
    let bytes = |connection: &serde_json::Value| connection["rdma_read_bytes"].as_u64();
    connections.iter().filter_map(bytes).sum()
}

#[test]
fn any_length_is_written_at_any_offset_from_any_pieces() {
    let (server, mut client) = start();
    let file = client.open("file");
    let mut expected = Vec::new();
    let lengths = [8 << 20, (1 << 20) + 1, 65_537, 65_535, 4096, 511, 2, 1];
    let offsets = [777_777, 4095, 1, 0];
    for (n, length) in lengths.into_iter().enumerate() {
        for (m, offset) in offsets.into_iter().enumerate() {
            let memory = pattern(room(length), (n * 4 + m) as u64);
            let from = source(&mut client.direct, &memory);
            let pieces = uneven(&from, length);
            let channel = BOTH[(n + m) % 2];
            let written = client.put(file, offset, length, channel, &pieces);
            assert_eq!(written.expect("a WRITE"), length, "at {offset}");
            let (data, _) = crate::channel::gather(&from, &pieces);
            let (start, end) = (offset as usize, offset as usize + length as usize);
            expected.resize(expected.len().max(end), 0);
            expected[start..end].copy_from_slice(&data);
            assert!(
                disk(&server, "file") == expected,
                "{length} bytes at {offset}"
            );
            client.direct.deregister(&from).ok();
        }
    }
}

#[test]
fn a_file_is_overwritten_and_grows_with_a_hole() {
    let (server, mut client) = start();
    let old = pattern(10_000, 1);
    place(&server, "file", &old);
    let file = client.open("file");
    let new = pattern(1000, 2);
    let from = source(&mut client.direct, &new);
    for offset in [5000, 20_000] {
        let written = client.put(file, offset, 1000, Channel::RdmaV1, &from.pieces(3));
        assert_eq!(written.expect("a WRITE"), 1000);
    }
    let parts = [&old[..5000], &new, &old[6000..], &[0; 10_000], &new];
    assert!(disk(&server, "file") == parts.concat());
    let end = client.tcp.end_of_file(client.tree, file);
    assert_eq!(end.expect("its size"), 21_000);
}

#[test]
fn data_that_is_written_through_is_in_the_file_once_the_write_is_answered() {
    let (server, mut client) = start();
    let data = pattern(1 << 20, 3);
    let from = source(&mut client.direct, &data);
    let file = client.open("flag");
    let write = Write {
        flags: 1,
        ..Write::direct(file, 0, 1 << 20, Channel::RdmaV1, &from.pieces(2))
    };
    let response = client.direct.call(&write.request(client.tree));
    let written = response.and_then(|response| response.written());
    assert_eq!(written.expect("a WRITE"), 1 << 20);
    assert!(disk(&server, "flag") == data);

    let how = Create {
        options: Create::NON_DIRECTORY | Create::WRITE_THROUGH,
        ..Create::file(Disposition::Create)
    };
    let file = client.direct.create(client.tree, "option", &how);
    let file = file.expect("a file").file;
    let written = client.put(file, 0, 1 << 20, Channel::RdmaV1, &from.pieces(2));
    assert_eq!(written.expect("a WRITE"), 1 << 20);
    assert!(disk(&server, "option") == data);
    client.direct.flush(client.tree, file).expect("a flush");
}

#[test]
fn a_handle_with_append_access_alone_can_append() {
    let (server, mut client) = start();
    let old = pattern(10_000, 4);
    place(&server, "file", &old);
    // FILE_APPEND_DATA, FILE_READ_ATTRIBUTES, SYNCHRONIZE
    let how = Create {
        access: 0x0010_0084,
        ..Create::file(Disposition::Open)
    };
    let file = client.tcp.create(client.tree, "file", &how);
    let file = file.expect("a file").file;
    let new = pattern(5000, 5);
    let from = source(&mut client.direct, &new);
    let written = client.put(file, 10_000, 5000, Channel::RdmaV1, &from.pieces(2));
    assert_eq!(written.expect("a WRITE"), 5000);
    assert!(disk(&server, "file") == [old, new].concat());
}

#[test]
fn data_for_a_handle_without_write_access_is_not_fetched() {
    let (server, mut client) = start();
    let old = pattern(10_000, 6);
    place(&server, "file", &old);
    let how = Create {
        access: Create::READ,
        ..Create::file(Disposition::Open)
    };
    let file = client.tcp.create(client.tree, "file", &how);
    let file = file.expect("a file").file;
    for channel in BOTH {
        let from = source(&mut client.direct, &pattern(8192, 7));
        let written = client.put(file, 0, 8192, channel, &from.pieces(2));
        assert_eq!(refusal(written), NtStatus::ACCESS_DENIED);
        let invalidated = client.direct.take_invalidated(from.token());
        assert_eq!(invalidated, channel == Channel::RdmaV1Invalidate);
    }
    client.tcp.close(client.tree, file).expect("a close");
    let from = source(&mut client.direct, &pattern(8192, 7));
    let written = client.put(file, 0, 8192, Channel::RdmaV1Invalidate, &from.pieces(2));
    assert_eq!(refusal(written), NtStatus::FILE_CLOSED);
    assert!(client.direct.take_invalidated(from.token()));
    assert_eq!(fetched(&server), 0);
    assert!(disk(&server, "file") == old);
    client.is_alive();
}

#[test]
fn fields_that_contradict_each_other_are_invalid_parameters() {
    let (server, mut client) = start();
    let old = pattern(10_000, 8);
    place(&server, "file", &old);
    let file = client.open("file");
    let largest = client.direct.max_direct().expect("SMB Direct");
    let data = pattern(largest as usize + 1, 9);
    let from = source(&mut client.direct, &data);
    let two = [from.piece(0, 4096), from.piece(4096, 4096)];
    let empty = [from.piece(0, 0), from.piece(0, 8192)];
    let good = Write::direct(file, 0, 8192, Channel::RdmaV1, &two);
    let direct = |length: u32, pieces: &[BufferDescriptorV1]| {
        Write::direct(file, 0, length, Channel::RdmaV1, pieces)
    };
    let with = |change: fn(&mut Write<'static>)| {
        let mut write = good.clone();
        change(&mut write);
        write
    };
    let wrong = [
        ("Length", with(|write| write.length = 32)),
        ("DataOffset", with(|write| write.data_offset = 112)),
        ("RemainingBytes 0", with(|write| write.remaining_bytes = 0)),
        ("no offset", with(|write| write.channel_info_offset = 0)),
        ("no length", with(|write| write.channel_info_length = 0)),
        (
            "half a descriptor",
            with(|write| write.channel_info_length -= 8),
        ),
        (
            "behind the end",
            with(|write| write.channel_info_length += 16),
        ),
        (
            "in the header",
            with(|write| write.channel_info_offset = 48),
        ),
        ("RDMA transform", with(|write| write.channel = 3)),
        ("no such channel", with(|write| write.channel = 99)),
        ("more than the descriptors", direct(8193, &two)),
        ("an empty descriptor", direct(8192, &empty)),
        (
            "more than the largest",
            direct(largest + 1, &[from.descriptor()]),
        ),
    ];
    for (what, write) in &wrong {
        let response = client.direct.call(&write.request(client.tree));
        assert_eq!(refusal(response), NtStatus::INVALID_PARAMETER, "{what}");
    }
    assert_eq!(fetched(&server), 0);
    assert!(disk(&server, "file") == old);
    let response = client.direct.call(&good.request(client.tree));
    assert_eq!(
        response.expect("a legal WRITE").written().expect("a WRITE"),
        8192
    );
    assert!(disk(&server, "file")[..8192] == data[..8192]);
    assert_eq!(fetched(&server), 8192);
}

#[test]
fn a_write_with_too_small_a_credit_charge_is_refused() {
    let (server, mut client) = start();
    let file = client.open("file");
    let from = source(&mut client.direct, &pattern(65_537, 10));
    let write = Write::direct(file, 0, 65_537, Channel::RdmaV1, &from.pieces(1));
    let request = write.request(client.tree);
    assert_eq!(request.credit_charge, 2);
    let cheap = Request {
        credit_charge: 1,
        ..request.clone()
    };
    let response = client.direct.call(&cheap);
    assert_eq!(refusal(response), NtStatus::INVALID_PARAMETER);
    assert_eq!(fetched(&server), 0);
    client.direct.call(&request).expect("a right charge");
    assert_eq!(disk(&server, "file").len(), 65_537);
}

#[test]
fn the_profile_counts_what_rdma_has_moved() {
    let server = device(Setup {
        global: &["smbd profiling level = count"],
        ..Setup::default()
    });
    let mut client = Client::connect_with(&server, Config::new(GUID));
    let file = client.open("file");
    let data = pattern(300_000, 9);
    let from = source(&mut client.direct, &data);
    let written = client.put(file, 0, 300_000, Channel::RdmaV1, &from.pieces(1));
    assert_eq!(written.expect("a WRITE"), 300_000);
    let into = sink(&mut client.direct, 100_000);
    let read = client.get(file, 0, 100_000, Channel::RdmaV1, &into.pieces(1));
    assert_eq!(read.expect("a READ"), 100_000);
    // From the server's view: RDMA READ brings the data of a WRITE.
    wait_until("the counters", || {
        let section = &server.profile()["SMB Direct"];
        let bytes = |name: &str| section[name]["bytes"].as_u64();
        bytes("smbdirect_rdma_read") == Some(300_000)
            && bytes("smbdirect_rdma_write") == Some(100_000)
    });
}
