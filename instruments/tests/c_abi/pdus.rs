// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests messages both ways, with hundreds under way at a time, on several connections of several workers.

use std::thread;

use crate::requests::{command, fill, message_id, status};
use instruments::c::programs::Build;
use instruments::c::smbd::Smbd;
use instruments::peer::{Peer, smb2};

/// Lengths from a bare header to the longest message, and just below and above what one SEND carries.
const LENGTHS: [usize; 9] = [
    64,
    100,
    1340,
    1341,
    8192,
    8193,
    64 << 10,
    (256 << 10) + 5,
    1 << 20,
];

/// Makes message `number` of client `client`.
fn message(client: u64, number: u64) -> Vec<u8> {
    let length = LENGTHS[number as usize % LENGTHS.len()];
    let mut body = vec![0; length - 64];
    fill(&mut body, client << 40 | number << 21);
    smb2::request(command::ECHO, number, 0, &body)
}

/// Sends `count` messages, all under way at once, and expects their echoes. Does that several times.
fn echo(mut peer: Peer, client: u64, count: u64) {
    for round in 0..2 {
        let numbers = round * count..(round + 1) * count;
        for number in numbers.clone() {
            let taken = peer.queue(&message(client, number));
            taken.unwrap_or_else(|error| panic!("{number}: {error}; {peer:?}"));
        }
        let mut expected: Vec<u64> = numbers.collect();
        while !expected.is_empty() {
            let answer = peer.receive();
            let number = message_id(&answer);
            let at = expected.iter().position(|expected| *expected == number);
            expected.remove(at.unwrap_or_else(|| panic!("{number} once more")));
            assert_eq!(status(&answer), 0);
            assert!(answer == message(client, number), "{client}: {number}");
        }
        peer.flush();
    }
    peer.close();
}

/// Sends `count` messages at a time on two connections of one client, and on one connection of another.
fn echo_on_three(smbd: Smbd, count: usize) {
    let clients: Vec<_> = [(0, 1), (1, 1), (2, 2)]
        .into_iter()
        .map(|(client, guid)| {
            let peer = smbd.client([guid; 16]);
            thread::spawn(move || echo(peer, client, count as u64))
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    smbd.finish();
}

#[test]
fn messages_of_all_lengths_go_both_ways_hundreds_at_a_time() {
    for build in Build::ALL {
        echo_on_three(Smbd::start(build, ""), build.choose(200, 60));
    }
}

#[test]
fn messages_go_both_ways_if_events_are_taken_in_batches() {
    for build in Build::ALL {
        echo_on_three(Smbd::start_taking_batches(build), build.choose(100, 30));
    }
}
