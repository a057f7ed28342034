// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests messages that are not requests; compounds; and requests with random bits changed.

use instruments::client::{Channel, Command, NtStatus, Read, Registration, Request, Write};
use smbdirect::fabric::Access;
use smbdirect::sys::Memory;

use super::attacker::{Attacker, SIZE, expect_unharmed, pattern};

/// Bytes that a request moves by RDMA.
const LENGTH: u32 = 64 << 10;
/// The number of messages with changed bits.
const MUTANTS: usize = 400;

fn echo() -> Request<'static> {
    Request::raw(Command::ECHO, 0, vec![4, 0, 0, 0])
}

/// Replaces the bytes of a message at an offset.
fn with(mut message: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    message[at..at + bytes.len()].copy_from_slice(bytes);
    message
}

/// Makes messages that smbd must survive without understanding them.
fn nonsense(right: &[u8]) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = [1, 3, 4, 5, 16, 32, 52, 63, 64, 65, 67]
        .into_iter()
        .map(|length| right[..length].to_vec())
        .collect();
    // NextCommand points into the header, to an unaligned place, to the end, past it, or is negative.
    for next in [1, 8, 63, 64, 65, 68, 72, 1 << 20, 0xffff_fff8, u32::MAX] {
        all.push(with(right.to_vec(), 20, &u32::to_le_bytes(next)));
    }
    // The protocol ids of SMB 1, encrypted and compressed messages, and one that does not exist.
    for id in [b"\xffSMB", b"\xfdSMB", b"\xfcSMB", b"\0\0\0\0"] {
        all.push(with(right.to_vec(), 0, id));
        all.push([&id[..], &[0xff; 1000]].concat());
        all.push(id.to_vec());
    }
    // Change the structure size, credit charge, command, flags, message id and session.
    all.push(with(right.to_vec(), 4, &[65, 0]));
    all.push(with(right.to_vec(), 6, &[0xff, 0xff]));
    all.push(with(right.to_vec(), 12, &[19, 0]));
    all.push(with(right.to_vec(), 12, &[0xff, 0xff]));
    all.push(with(right.to_vec(), 16, &[0xff; 4]));
    all.push(with(right.to_vec(), 24, &[0xff; 8]));
    all.push(with(right.to_vec(), 24, &[0; 8]));
    all.push(with(right.to_vec(), 40, &[0xee; 8]));
    all.push(vec![0; 128 << 10]);
    all.push((0..10_000_u32).map(|n| (n * n >> 3) as u8).collect());
    all
}

#[test]
fn a_message_that_is_not_a_request_is_answered_or_ends_its_connection() {
    let server = Attacker::server();
    let mut attacker = Attacker::new(&server);
    let count = nonsense(&[0; 68]).len();
    let mut ended = 0;
    for n in 0..count {
        let (_, right) = attacker.message(&echo());
        let message = nonsense(&right).swap_remove(n);
        // Wait until smbd has seen the message: then it has answered the ECHO after it, or the connection has ended.
        if !(attacker.send(&message) && attacker.is_served()) {
            ended += 1;
            attacker = Attacker::new(&server);
        }
    }
    assert!(ended > 10, "only {ended} of {count} ended a connection");
    drop(attacker);
    expect_unharmed(&server);
}

/// Registers memory of an attacker. `None`: its connection has ended.
fn register(attacker: &mut Attacker, access: Access) -> Option<Registration> {
    let memory = Memory::zeroed(SIZE);
    memory.write(0, &pattern()).expect("in range");
    attacker.connection.register(&memory, access).ok()
}

/// Joins two requests into one message.
fn compound(mut first: Vec<u8>, second: &[u8]) -> Vec<u8> {
    first.resize(first.len().next_multiple_of(8), 0);
    let next = u32::try_from(first.len()).expect("short");
    [&with(first, 20, &next.to_le_bytes()), second].concat()
}

#[test]
fn two_requests_of_a_compound_may_both_go_by_rdma() {
    const RELATED: u32 = 0x4;
    let server = Attacker::server();
    for flags in [0, RELATED] {
        for write_first in [false, true] {
            let mut attacker = Attacker::new(&server);
            let (file, tree) = (attacker.file, attacker.tree);
            let source = register(&mut attacker, Access::RemoteRead).expect("memory");
            let sinks =
                [(); 2].map(|()| register(&mut attacker, Access::RemoteWrite).expect("memory"));
            let channel = Channel::RdmaV1Invalidate;
            let read = |n: usize, offset: u64| {
                let piece = [sinks[n].piece(0, LENGTH)];
                Read::direct(file, offset, LENGTH, channel, &piece).request(tree)
            };
            let first = if write_first {
                let piece = [source.piece(0, LENGTH)];
                Write::direct(file, 0, LENGTH, channel, &piece).request(tree)
            } else {
                read(0, u64::from(LENGTH))
            };
            let mut second = read(1, 2 * u64::from(LENGTH));
            second.flags |= flags;
            let (first_id, first) = attacker.message(&first);
            let (second_id, second) = attacker.message(&second);
            assert!(attacker.send(&compound(first, &second)));
            let case = format!("flags {flags}, WRITE first: {write_first}");
            for id in [first_id, second_id] {
                assert_eq!(attacker.answer(id), Some(NtStatus::SUCCESS), "{case}");
            }
            let came = |n: usize, at: usize| {
                let data = sinks[n].memory.to_vec(0, LENGTH as usize);
                data.expect("in range") == pattern()[at..at + LENGTH as usize]
            };
            assert!(write_first || came(0, LENGTH as usize), "{case}");
            assert!(came(1, 2 * LENGTH as usize), "{case}");
            let token = if write_first { &source } else { &sinks[0] }.token();
            assert!(attacker.connection.take_invalidated(token), "{case}");
            assert!(attacker.is_served(), "{case}");
        }
    }
    expect_unharmed(&server);
}

#[test]
fn requests_with_bits_changed_at_random_harm_no_other_client() {
    let server = Attacker::server();
    let mut random = fastrand::Rng::with_seed(4);
    let mut attacker = Attacker::new(&server);
    let mut ended = 0;
    for n in 0..MUTANTS {
        let (file, tree) = (attacker.file, attacker.tree);
        let channel = [Channel::RdmaV1, Channel::RdmaV1Invalidate][random.usize(..2)];
        let pieces = random.u32(1..5);
        let is_read = random.bool();
        let access = if is_read {
            Access::RemoteWrite
        } else {
            Access::RemoteRead
        };
        // The effect of the previous message may show only now.
        let Some(memory) = register(&mut attacker, access) else {
            ended += 1;
            attacker = Attacker::new(&server);
            continue;
        };
        let pieces = memory.pieces(pieces);
        let request = if is_read {
            Read::direct(file, 0, LENGTH, channel, &pieces).request(tree)
        } else {
            Write::direct(file, 0, LENGTH, channel, &pieces).request(tree)
        };
        let (_, mut message) = attacker.message(&request);
        for _ in 0..random.usize(1..4) {
            // Change mostly the request and its descriptors: most changes of a header end the connection at once.
            let from = if random.u8(..4) == 0 { 4 } else { 64 };
            let at = random.usize(from..message.len());
            message[at] ^= 1 << random.u8(..8);
        }
        if random.u8(..8) == 0 {
            message.truncate(random.usize(1..message.len()));
        }
        if !(attacker.send(&message) && attacker.is_served()) {
            ended += 1;
            attacker = Attacker::new(&server);
        }
        assert_eq!(
            server.panics(),
            Vec::<String>::new(),
            "message {n}: {message:x?}"
        );
    }
    assert!(ended < MUTANTS, "none was answered");
    drop(attacker);
    // A WRITE to another offset is legal, so the contents of the file may have changed.
    let path = server.files.join(super::attacker::NAME);
    std::fs::write(path, pattern()).expect("a file");
    expect_unharmed(&server);
}
