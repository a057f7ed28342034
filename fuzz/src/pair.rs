// SPDX-License-Identifier: GPL-2.0-or-later

//! Two SMB Direct endpoints that talk to each other on a lossless network.

use std::collections::VecDeque;

use smbdirect::proto::{Endpoint, Received, State};
use smbdirect::units::Instant;

use super::endpoint::config;
use super::input::Input;

/// The number of messages that a run may take to come to rest once it starts nothing new.
const PATIENCE: usize = 200_000;

struct Side {
    endpoint: Endpoint,
    /// The sizes of the posted receives, in the order of posting.
    receives: VecDeque<u32>,
    /// Messages on their way to this side.
    arriving: VecDeque<Vec<u8>>,
    /// The lengths of the upper-layer messages on their way to this side.
    expected: VecDeque<u32>,
    /// The bytes of the first of them that have arrived.
    arrived: u32,
}

/// Runs a list of operations on two endpoints that both keep the rules. Neither ever reports an error, no message meets
/// a missing or short receive, everything that was started arrives complete and in order, and then both endpoints fall
/// silent.
pub fn endpoint_pair(data: &[u8]) {
    let mut input = Input::new(data);
    let start = Instant::ZERO;
    let [a, b] = [0, 1].map(|_| {
        let mut config = config(&mut input);
        // Messages of gigabytes in fragments of 100 bytes would only take a long time.
        config.max_fragmented_size %= 1 << 22;
        config
    });
    let side = |endpoint| Side {
        endpoint,
        receives: VecDeque::new(),
        arriving: VecDeque::new(),
        expected: VecDeque::new(),
        arrived: 0,
    };
    let mut sides = [
        side(Endpoint::initiator(a, start)),
        side(Endpoint::acceptor(b, start)),
    ];
    // The acceptor's first receive must be posted before the connection exists.
    post(&mut sides[1], 1);
    while !input.is_empty() {
        let operation = input.u8();
        step(
            &mut sides,
            usize::from(operation & 1),
            operation >> 1,
            &mut input,
        );
    }
    rest(&mut sides);
}

fn step(sides: &mut [Side; 2], which: usize, operation: u8, input: &mut Input<'_>) {
    match operation % 8 {
        0 | 1 => drop(post(&mut sides[which], u16::from(input.u8()))),
        2 | 3 => drop(transmit(sides, which)),
        4 | 5 => drop(deliver(&mut sides[which])),
        6 => {
            let length = 1 + u32::from(input.u16());
            start(sides, which, length);
        }
        _ if input.u8() == 0 => sides[which].endpoint.close(),
        _ => while transmit(sides, which) {},
    }
}

/// Posts as many receives as are wanted, but at most `most`.
fn post(side: &mut Side, most: u16) -> bool {
    let count = side.endpoint.receives_wanted().min(most);
    let size = side.endpoint.receive_size();
    side.receives.extend((0..count).map(|_| size));
    side.endpoint.handle_receives_posted(count);
    count > 0
}

fn start(sides: &mut [Side; 2], which: usize, length: u32) {
    if sides[which].endpoint.start_message(length, None).is_ok() {
        sides[1 - which].expected.push_back(length);
    }
}

/// Sends one message, if there is one to send.
fn transmit(sides: &mut [Side; 2], which: usize) -> bool {
    let Some(transmit) = sides[which].endpoint.poll_transmit(Instant::ZERO) else {
        return false;
    };
    let peer = &mut sides[1 - which];
    let mut message = transmit.header().to_vec();
    message.resize(message.len() + transmit.payload.len(), 0);
    peer.arriving.push_back(message);
    let ready = peer.arriving.len() <= peer.receives.len();
    assert!(
        ready || peer.endpoint.state() == State::Closed,
        "a message without a receive"
    );
    true
}

/// Lets the next message arrive, if there is one.
fn deliver(side: &mut Side) -> bool {
    let Some(message) = side.arriving.pop_front() else {
        return false;
    };
    if side.endpoint.state() == State::Closed {
        return true;
    }
    let room = side.receives.pop_front().expect("a receive is posted");
    assert!(
        message.len() <= room as usize,
        "{} bytes into a receive of {room}",
        message.len()
    );
    let received = side.endpoint.handle_message(Instant::ZERO, &message);
    if let Received::Fragment {
        payload,
        offset,
        total,
    } = received.expect("a peer that keeps the rules")
    {
        assert_eq!(
            (Some(&total), offset),
            (side.expected.front(), side.arrived)
        );
        side.arrived += payload.len() as u32;
        if side.arrived == total {
            side.expected.pop_front();
            side.arrived = 0;
        }
    }
    true
}

/// Serves both sides until neither has anything to do. Then everything must have arrived.
fn rest(sides: &mut [Side; 2]) {
    let mut turns = 0..PATIENCE;
    let mut busy = true;
    while busy {
        assert!(turns.next().is_some(), "they talk for ever");
        busy = false;
        for which in 0..2 {
            post(&mut sides[which], u16::MAX);
            busy |= transmit(sides, which);
            busy |= deliver(&mut sides[1 - which]);
        }
    }
    if sides
        .iter()
        .any(|side| side.endpoint.state() == State::Closed)
    {
        return;
    }
    for side in sides {
        assert_eq!(side.endpoint.state(), State::Established);
        assert!(
            side.expected.is_empty() && !side.endpoint.is_sending(),
            "a message did not arrive"
        );
        assert!(side.receives.len() >= side.arriving.len());
    }
}
