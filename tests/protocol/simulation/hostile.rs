// SPDX-License-Identifier: GPL-2.0-or-later

//! An endpoint with a peer that sends anything at all.

use fastrand::Rng;
use smbdirect::proto::{Config, Endpoint, State};
use smbdirect::units::{Credits, Instant};
use smbdirect::wire::{NegotiateRequest, NegotiateResponse};

/// Sends nearly correct messages, in any order and at any time. The endpoint must not panic, must not send without
/// credits, and must not grant receives that are not posted.
pub(crate) fn attack(seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let credits = |rng: &mut Rng| {
        Credits(if rng.bool() {
            rng.u16(..)
        } else {
            rng.u16(..4)
        })
    };
    let config = Config {
        receive_credit_max: credits(&mut rng),
        send_credit_target: credits(&mut rng),
        max_send_size: if rng.bool() { rng.u32(..) } else { 1364 },
        max_receive_size: if rng.bool() { rng.u32(..) } else { 1364 },
        ..Config::default()
    };
    let mut now = Instant::ZERO;
    let mut endpoint = if rng.bool() {
        Endpoint::acceptor(config, now)
    } else {
        Endpoint::initiator(config, now)
    };
    for _ in 0..rng.u8(..) {
        let negotiating = endpoint.state() == State::Negotiating;
        match rng.u8(..8) {
            0 => endpoint.handle_receives_posted(rng.u16(..)),
            1 => {
                now = now + std::time::Duration::from_millis(rng.u64(..100_000));
                let _ = endpoint.handle_timeout(now);
            }
            2 => drop(endpoint.start_message(rng.u32(..), None)),
            3 if rng.u8(..32) == 0 => endpoint.close(),
            4 => endpoint.handle_receives_posted(endpoint.receives_wanted()),
            _ => {
                let message = message(&mut rng, negotiating);
                let state = endpoint.state();
                if endpoint.handle_message(now, &message).is_err() {
                    assert_ne!(state, State::Closed, "an error after the end");
                    assert_eq!(endpoint.state(), State::Closed);
                }
            }
        }
        for _ in 0..rng.u8(..4) {
            let (state, before) = (endpoint.state(), endpoint.send_credits());
            let Some(transmit) = endpoint.poll_transmit(now) else {
                break;
            };
            assert_ne!(state, State::Closed);
            if transmit.header_length != 32 && endpoint.negotiated().is_some() {
                assert_eq!(endpoint.send_credits().0 + 1, before.0);
            }
        }
        assert!(endpoint.receive_credits().0 <= endpoint.receives_posted());
        assert!(endpoint.receives_posted() <= config.receive_credit_max.0.max(4));
    }
}

fn message(rng: &mut Rng, negotiating: bool) -> Vec<u8> {
    let mut bytes = if negotiating && rng.u8(..8) != 0 {
        negotiate(rng)
    } else {
        data(rng)
    };
    if rng.u8(..4) == 0 {
        let at = rng.usize(..bytes.len());
        bytes[at] = rng.u8(..);
    }
    if rng.u8(..16) == 0 {
        bytes.truncate(rng.usize(..=bytes.len()));
    }
    bytes
}

/// Makes bytes that serve as a request and, if they are long enough, as a response.
fn negotiate(rng: &mut Rng) -> Vec<u8> {
    if rng.bool() {
        let request = NegotiateRequest {
            min_version: 0x0100,
            max_version: 0x0100,
            credits_requested: Credits(rng.u16(..)),
            preferred_send_size: rng.u32(..),
            max_receive_size: rng.u32(128..),
            max_fragmented_size: rng.u32(131_072..),
        };
        return request.emit().to_vec();
    }
    let response = NegotiateResponse {
        min_version: 0x0100,
        max_version: 0x0100,
        negotiated_version: 0x0100,
        credits_requested: Credits(rng.u16(..)),
        credits_granted: Credits(rng.u16(..)),
        status: 0,
        max_read_write_size: rng.u32(..),
        preferred_send_size: rng.u32(..1364),
        max_receive_size: rng.u32(128..),
        max_fragmented_size: rng.u32(131_072..),
    };
    response.emit().to_vec()
}

fn data(rng: &mut Rng) -> Vec<u8> {
    let length = if rng.bool() { 0 } else { rng.u32(..100) };
    let remaining = if rng.bool() { 0 } else { rng.u32(..200) };
    let mut bytes = Vec::new();
    bytes.extend(rng.u16(1..).to_le_bytes());
    bytes.extend(
        (if rng.u8(..4) == 0 {
            rng.u16(..)
        } else {
            rng.u16(..4)
        })
        .to_le_bytes(),
    );
    bytes.extend([rng.u8(..2), 0, 0, 0]);
    bytes.extend(remaining.to_le_bytes());
    bytes.extend((if length == 0 { 0_u32 } else { 24 }).to_le_bytes());
    bytes.extend(length.to_le_bytes());
    if length > 0 {
        bytes.resize(24 + length as usize, 0xaa);
    }
    bytes
}
