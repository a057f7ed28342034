// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests READ and WRITE requests with illegal fields ([MS-SMB2] 3.3.5.12, 3.3.5.13).

use instruments::client::{Channel, FileId, NtStatus, Read, Registration, Request, Write};
use smbdirect::fabric::Access;
use smbdirect::sys::Memory;
use smbdirect::units::RemoteToken;
use smbdirect::wire::BufferDescriptorV1;

use super::attacker::{Attacker, SIZE, expect_unharmed, pattern};

/// Bytes that a legal request moves.
const LENGTH: u32 = 64 << 10;
/// The largest number of descriptors for which the length of the list fits into its field.
const MOST: u32 = 4095;

/// The result of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// The request is refused with `STATUS_INVALID_PARAMETER`, and the connection continues.
    Refused,
    /// Any error, or the end of the connection, because the client's side refuses the access.
    RefusedOrEnded,
    /// The data moves, because the request is odd but legal.
    Served,
}
use Expected::{Refused, RefusedOrEnded, Served};

/// The fields that both requests have. A case changes them.
struct Fields<'a> {
    length: u32,
    channel: u32,
    info_offset: u16,
    info_length: u16,
    descriptors: Vec<BufferDescriptorV1>,
    /// Offset and length of the data in the message; WRITE only.
    data: (u16, u32),
    memory: &'a Registration,
}

impl<'a> Fields<'a> {
    /// Makes the fields of a legal request.
    fn new(channel: Channel, memory: &'a Registration) -> Self {
        Self {
            length: LENGTH,
            channel: channel.number(),
            info_offset: 112,
            info_length: 16,
            descriptors: vec![memory.piece(0, LENGTH)],
            data: (0, 0),
            memory,
        }
    }

    fn list(&mut self, descriptors: Vec<BufferDescriptorV1>) {
        self.info_length = u16::try_from(descriptors.len() * 16).expect("a list");
        self.descriptors = descriptors;
    }
}

fn read(fields: &Fields<'_>, file: FileId, tree: u32) -> Request<'static> {
    let right = Read::direct(file, 0, fields.length, Channel::RdmaV1, &fields.descriptors);
    let read = Read {
        channel: fields.channel,
        channel_info_offset: fields.info_offset,
        channel_info_length: fields.info_length,
        ..right
    };
    let mut request = read.request(tree);
    request.credit_charge = request.credit_charge.min(16);
    request
}

fn write(fields: &Fields<'_>, file: FileId, tree: u32) -> Request<'static> {
    let right = Write::direct(file, 0, fields.length, Channel::RdmaV1, &fields.descriptors);
    let write = Write {
        channel: fields.channel,
        channel_info_offset: fields.info_offset,
        channel_info_length: fields.info_length,
        data_offset: fields.data.0,
        length: fields.data.1,
        ..right
    };
    let mut request = write.request(tree);
    request.credit_charge = request.credit_charge.min(16);
    request
}

type Case = (&'static str, Expected, fn(&mut Fields<'_>));

/// The cases for both requests.
const CASES: &[Case] = &[
    ("a right request", Served, |_| {}),
    ("no bytes", Refused, |f| f.length = 0),
    ("4 GiB", Refused, |f| f.length = u32::MAX),
    ("more than is negotiated", Refused, |f| {
        f.length = (8 << 20) + 1;
        f.descriptors[0].length = f.length;
    }),
    ("a byte more than the descriptors hold", Refused, |f| {
        f.length += 1;
    }),
    ("channel 3", Refused, |f| f.channel = 3),
    ("channel 4", Refused, |f| f.channel = 4),
    ("the last channel", Refused, |f| f.channel = u32::MAX),
    ("the list at offset 0", Refused, |f| f.info_offset = 0),
    ("the list in the header", Refused, |f| f.info_offset = 16),
    ("the list in the request", Refused, |f| f.info_offset = 111),
    ("the list a byte past the end", Refused, |f| {
        f.info_offset = 113;
    }),
    ("the list far away", Refused, |f| f.info_offset = u16::MAX),
    ("no list", Refused, |f| f.info_length = 0),
    ("less than a descriptor", Refused, |f| f.info_length = 15),
    ("a bit of a descriptor", Refused, |f| f.info_length = 17),
    ("a list of 64 KiB in a short message", Refused, |f| {
        f.info_length = MOST as u16 * 16;
    }),
    ("a list and more", Refused, |f| f.info_length = u16::MAX),
    ("a descriptor of nothing", Refused, |f| {
        f.descriptors[0].length = 0;
    }),
    ("4095 descriptors of nothing", Refused, |f| {
        let nothing = f.memory.piece(0, 0);
        f.list(vec![nothing; MOST as usize]);
    }),
    ("a descriptor past the end of addresses", Refused, |f| {
        f.descriptors[0].offset = u64::MAX - 10;
    }),
    ("4095 descriptors past that end", Refused, |f| {
        let mut last = f.memory.piece(0, LENGTH);
        last.offset = u64::MAX;
        f.list(vec![last; MOST as usize]);
    }),
    ("an unknown token", RefusedOrEnded, |f| {
        f.descriptors[0].token = RemoteToken(f.descriptors[0].token.0 ^ 0x5a5a_5a5a);
    }),
    ("an address below the memory", RefusedOrEnded, |f| {
        f.descriptors[0].offset = f.descriptors[0].offset.wrapping_sub(1);
    }),
    ("memory that ends before the data", RefusedOrEnded, |f| {
        f.descriptors[0].offset += SIZE as u64 - u64::from(LENGTH) + 1;
    }),
    ("an unknown second token", RefusedOrEnded, |f| {
        let mut pieces = f.memory.pieces(32);
        pieces.truncate(2);
        pieces[1].token = RemoteToken(!pieces[1].token.0);
        f.list(pieces);
    }),
    ("4095 descriptors", Served, |f| {
        f.length = MOST * 16;
        let pieces = (0..MOST).map(|n| f.memory.piece(n * 16, 16)).collect();
        f.list(pieces);
    }),
    ("lengths whose sum exceeds 32 bits", Served, |f| {
        let mut piece = f.memory.piece(0, u32::MAX);
        piece.length = u32::MAX;
        f.list(vec![piece; 3]);
    }),
];

/// Cases for WRITE only: there is data in the message as well as by RDMA.
const BOTH_WAYS: &[Case] = &[
    ("a byte in the message, too", Refused, |f| f.data = (112, 1)),
    ("a length without a place", Refused, |f| f.data = (0, 1)),
    ("a place without a length", Refused, |f| f.data = (112, 0)),
    ("4 GiB in the message", Refused, |f| {
        f.data = (112, u32::MAX)
    }),
    ("a place far away", Refused, |f| f.data = (u16::MAX, 16)),
];

/// Sends each case with each channel, and compares the result with the expected one.
fn provoke(
    cases: &[Case],
    access: Access,
    request: fn(&Fields<'_>, FileId, u32) -> Request<'static>,
) -> Vec<String> {
    let server = Attacker::server();
    let mut attacker = Attacker::new(&server);
    let mut wrong = Vec::new();
    for channel in [Channel::RdmaV1, Channel::RdmaV1Invalidate] {
        for (name, expected, change) in cases {
            let memory = Memory::zeroed(SIZE);
            if access == Access::RemoteRead {
                memory.write(0, &pattern()).expect("in range");
            }
            let memory = attacker.connection.register(&memory, access);
            let memory = memory.expect("memory");
            let mut fields = Fields::new(channel, &memory);
            change(&mut fields);
            let request = request(&fields, attacker.file, attacker.tree);
            let status = attacker.ask(&request);
            let good = match (expected, status) {
                (Refused, Some(status)) => {
                    status == NtStatus::INVALID_PARAMETER && attacker.is_served()
                }
                (RefusedOrEnded, Some(status)) => status.is_error(),
                (RefusedOrEnded, None) => true,
                (Served, Some(status)) => {
                    let moved = memory.memory.to_vec(0, fields.length as usize);
                    status == NtStatus::SUCCESS
                        && moved.expect("in range") == pattern()[..fields.length as usize]
                }
                (_, None) => false,
            };
            if !good {
                wrong.push(format!("{name}, {channel:?}: {status:?}, not {expected:?}"));
            }
            if !attacker.is_served() {
                attacker = Attacker::new(&server);
            } else if let Err(error) = attacker.connection.deregister(&memory) {
                wrong.push(format!("{name}, {channel:?}: {error}"));
            }
        }
    }
    drop(attacker);
    expect_unharmed(&server);
    wrong
}

#[test]
fn a_read_whose_fields_are_wrong_is_refused() {
    let wrong = provoke(CASES, Access::RemoteWrite, read);
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn a_write_whose_fields_are_wrong_is_refused_and_changes_nothing() {
    let cases = [CASES, BOTH_WAYS].concat();
    let wrong = provoke(&cases, Access::RemoteRead, write);
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Here even the legal requests are refused, because they would move data in the wrong direction.
const FORBIDDEN: &[Case] = &[("memory for the other direction", RefusedOrEnded, |_| {})];

#[test]
fn memory_is_not_accessed_in_a_direction_that_it_is_not_registered_for() {
    for wrong in [
        provoke(FORBIDDEN, Access::RemoteRead, read),
        provoke(FORBIDDEN, Access::RemoteWrite, write),
    ] {
        assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    }
}

#[test]
fn a_write_in_the_message_whose_data_is_not_there_is_refused() {
    let server = Attacker::server();
    let mut attacker = Attacker::new(&server);
    let data = [0x55; 100];
    for (data_offset, length) in [
        (112, 101),
        (112, u32::MAX),
        (113, 100),
        (0, 100),
        (64, 100),
        (u16::MAX, 100),
        (u16::MAX, u32::MAX),
    ] {
        let write = Write {
            data_offset,
            length,
            ..Write::inline(attacker.file, 0, &data)
        };
        let mut request = write.request(attacker.tree);
        request.credit_charge = 1;
        let status = attacker.ask(&request);
        let refused = status.is_none_or(NtStatus::is_error);
        assert!(refused, "{data_offset}, {length}: {status:?}");
        if !attacker.is_served() {
            attacker = Attacker::new(&server);
        }
    }
    drop(attacker);
    expect_unharmed(&server);
}
