// SPDX-License-Identifier: GPL-2.0-or-later

//! Proves which path data takes: the counters of the device and of the client match the requests, to the byte.

use instruments::client::{Channel, Config, HEADER_LENGTH, Read, Write};
use smbdirect::transport::Traffic;

use crate::channel::{Client, contents, device, disk, pattern, sink, source};
use crate::sessions::GUID;
use instruments::samba::{Server, Setup};

/// Bytes of a request before its buffer.
const REQUEST: u64 = (HEADER_LENGTH + 48) as u64;
/// Bytes of a response before its buffer.
const RESPONSE: u64 = (HEADER_LENGTH + 16) as u64;
/// Bytes of a descriptor.
const DESCRIPTOR: u64 = 16;
/// Bytes of an interim response, which says that the final one will take longer.
const INTERIM: u64 = (HEADER_LENGTH + 9) as u64;
/// Bytes that precede an encrypted message.
const TRANSFORM: u64 = 52;

/// The traffic of the only SMB Direct connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Bytes {
    messages_out: u64,
    inline_in: u64,
    inline_out: u64,
    rdma_read: u64,
    rdma_write: u64,
    invalidations: u64,
}

impl Bytes {
    /// Reads the device's counters, once it has counted the `messages` that the client has received.
    fn of(server: &Server, messages: u64) -> Self {
        let status = server.device().wait_for_status(|status| {
            let connections = status["connections"].as_array().expect("connections");
            assert_eq!(connections.len(), 1, "{status}");
            connections[0]["messages_out"].as_u64() >= Some(messages)
        });
        let count = |name: &str| status["connections"][0][name].as_u64().expect(name);
        Self {
            messages_out: count("messages_out"),
            inline_in: count("inline_bytes_in"),
            inline_out: count("inline_bytes_out"),
            rdma_read: count("rdma_read_bytes"),
            rdma_write: count("rdma_write_bytes"),
            invalidations: count("invalidations_out"),
        }
    }

    const fn since(self, before: Self) -> Self {
        Self {
            messages_out: self.messages_out - before.messages_out,
            inline_in: self.inline_in - before.inline_in,
            inline_out: self.inline_out - before.inline_out,
            rdma_read: self.rdma_read - before.rdma_read,
            rdma_write: self.rdma_write - before.rdma_write,
            invalidations: self.invalidations - before.invalidations,
        }
    }

    /// Leaves out interim responses, which a slow server may have sent.
    fn of_response(mut self, header: u64) -> Self {
        while self.messages_out > 1 {
            self.messages_out -= 1;
            self.inline_out -= header + INTERIM;
        }
        self
    }
}

/// Returns the traffic that `action` causes on the connection; device and client must agree.
fn carried(server: &Server, client: &mut Client, action: impl FnOnce(&mut Client)) -> Bytes {
    let seen: Traffic = client.direct.traffic();
    let before = Bytes::of(server, seen.messages_in);
    action(client);
    let now = client.direct.traffic();
    let carried = Bytes::of(server, now.messages_in).since(before);
    assert_eq!(
        (carried.inline_in, carried.inline_out),
        (
            now.inline_bytes_out - seen.inline_bytes_out,
            now.inline_bytes_in - seen.inline_bytes_in
        ),
        "device and client differ"
    );
    carried
}

/// Lengths with no common divisor, and the largest length.
const LENGTHS: [u32; 5] = [1, 4097, 65_537, 1_000_003, 8 << 20];

#[test]
fn data_of_a_channel_write_is_in_the_count_of_rdma_read_alone() {
    let server = device(Setup::default());
    let mut client = Client::connect(&server);
    let file = client.open("written");
    for (pieces, length) in (1..).zip(LENGTHS) {
        let data = pattern(length as usize, length.into());
        let from = source(&mut client.direct, &data);
        for channel in [Channel::RdmaV1, Channel::RdmaV1Invalidate] {
            let bytes = carried(&server, &mut client, |client| {
                let pieces = from.pieces(pieces.min(length));
                let written = client.put(file, 0, length, channel, &pieces);
                assert_eq!(written.expect("a WRITE"), length);
            });
            let expected = Bytes {
                messages_out: 1,
                inline_in: REQUEST + DESCRIPTOR * u64::from(pieces.min(length)),
                inline_out: RESPONSE,
                rdma_read: length.into(),
                rdma_write: 0,
                invalidations: u64::from(matches!(channel, Channel::RdmaV1Invalidate)),
            };
            let bytes = bytes.of_response(0);
            assert_eq!(bytes, expected, "{length} bytes by {channel:?}");
        }
        assert!(disk(&server, "written").starts_with(&data));
    }
}

#[test]
fn data_of_a_channel_read_is_in_the_count_of_rdma_write_alone() {
    let server = device(Setup::default());
    let mut client = Client::connect(&server);
    let data = pattern(8 << 20, 1);
    crate::channel::place(&server, "read", &data);
    let file = client.open("read");
    for (pieces, length) in (1..).zip(LENGTHS) {
        let into = sink(&mut client.direct, length as usize);
        for channel in [Channel::RdmaV1, Channel::RdmaV1Invalidate] {
            let bytes = carried(&server, &mut client, |client| {
                let pieces = into.pieces(pieces.min(length));
                let read = client.get(file, 0, length, channel, &pieces);
                assert_eq!(read.expect("a READ"), length);
            });
            let expected = Bytes {
                messages_out: 1,
                inline_in: REQUEST + DESCRIPTOR * u64::from(pieces.min(length)),
                inline_out: RESPONSE,
                rdma_read: 0,
                rdma_write: length.into(),
                invalidations: u64::from(matches!(channel, Channel::RdmaV1Invalidate)),
            };
            let bytes = bytes.of_response(0);
            assert_eq!(bytes, expected, "{length} bytes by {channel:?}");
        }
        assert!(contents(&into) == data[..length as usize]);
    }
}

#[test]
fn data_that_goes_with_messages_is_in_the_counts_of_messages_alone() {
    let server = device(Setup::default());
    for (sign, seal) in [(false, false), (true, false), (false, true)] {
        let config = Config {
            sign,
            seal,
            ..Config::new(GUID)
        };
        let mut client = Client::connect_with(&server, config);
        let file = client.open("inline");
        let sealed = if seal { TRANSFORM } else { 0 };
        for length in LENGTHS {
            // Take only as much data as fits in the largest message.
            let length = length.min(client.direct.max_inline_write());
            let data = pattern(length as usize, length.into());
            let bytes = carried(&server, &mut client, |client| {
                let request = Write::inline(file, 0, &data);
                let written = client.direct.call(&request.request(client.tree));
                let written = written.and_then(|response| response.written());
                assert_eq!(written.expect("a WRITE"), length);
            });
            let expected = Bytes {
                messages_out: 1,
                inline_in: sealed + REQUEST + u64::from(length),
                inline_out: sealed + RESPONSE,
                ..Bytes::default()
            };
            let bytes = bytes.of_response(sealed);
            assert_eq!(bytes, expected, "{length} bytes, {sign}, {seal}");

            let length = length.min(client.direct.max_inline_read());
            let bytes = carried(&server, &mut client, |client| {
                let request = Read::inline(file, 0, length).request(client.tree);
                let response = client.direct.call(&request).expect("a READ");
                let read = response.read().expect("a READ");
                assert!(read.data == &data[..length as usize]);
                assert_eq!(read.direct, 0, "DataRemaining");
            });
            let expected = Bytes {
                messages_out: 1,
                // The buffer of a READ has one byte.
                inline_in: sealed + REQUEST + 1,
                inline_out: sealed + RESPONSE + u64::from(length),
                ..Bytes::default()
            };
            let bytes = bytes.of_response(sealed);
            assert_eq!(bytes, expected, "{length} bytes, {sign}, {seal}");
        }
        // The next connection has to be the only one again.
        drop(client);
        server
            .device()
            .wait_for_status(|status| status["connections"].as_array().is_some_and(Vec::is_empty));
    }
}

#[test]
fn the_device_does_not_count_data_over_tcp() {
    let server = device(Setup::default());
    let mut client = Client::connect(&server);
    let file = client.open("tcp");
    let data = pattern(1 << 20, 3);
    let bytes = carried(&server, &mut client, |client| {
        let written = client.tcp.write(client.tree, file, 0, &data);
        assert_eq!(written.expect("a write"), 1 << 20);
        let read = client.tcp.read(client.tree, file, 0, 1 << 20);
        assert!(read.expect("a read") == data);
    });
    assert_eq!(bytes, Bytes::default());
}
