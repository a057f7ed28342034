// SPDX-License-Identifier: GPL-2.0-or-later

//! The messages that processes and the device send each other on the control channel.

use smbdirect::device::abi::{AllowedAddress, MAX_ADDRESSES};
use smbdirect::device::message::{
    Answer, Body, Request, encode, encode_addresses, read_answer, read_request,
};

/// Checks that a message that was parsed is encoded to the same bytes, and only a message that may be skipped is both a
/// request and an answer.
pub fn device_message(bytes: &[u8]) {
    let (request, answer) = (read_request(bytes), read_answer(bytes));
    let skipped = (Ok((0, Request::Skipped)), Ok((0, Answer::Skipped)));
    if (&request, &answer) == (&skipped.0, &skipped.1) {
        return;
    }
    assert!(request.is_err() || answer.is_err() || answer == skipped.1);
    if let Ok((cookie, request)) = request {
        match request {
            Request::Attach(body) => check(bytes, cookie, &body, &[]),
            Request::SetParameters(body, blob) => check(bytes, cookie, &body, blob),
            Request::SetAddresses(body, list) => {
                let element = |allowed: &AllowedAddress| {
                    let numbers = [allowed.scope_id, allowed.reserved].map(u32::to_ne_bytes);
                    [&allowed.address[..], numbers.as_flattened()].concat()
                };
                let elements: Vec<u8> = list.iter().flat_map(element).collect();
                check(bytes, cookie, &body, &elements);
            }
            Request::SetSessionId(body) => check(bytes, cookie, &body, &[]),
            Request::Claim(body) => check(bytes, cookie, &body, &[]),
            Request::Decline(body) => check(bytes, cookie, &body, &[]),
            Request::Grow(body) => check(bytes, cookie, &body, &[]),
            Request::Release(body) => check(bytes, cookie, &body, &[]),
            Request::ClientNote(body) => check(bytes, cookie, &body, &[]),
            Request::Status(body) => check(bytes, cookie, &body, &[]),
            Request::Events(body) => check(bytes, cookie, &body, &[]),
            Request::Capture(body) => check(bytes, cookie, &body, &[]),
            Request::Skipped => panic!("for one side only"),
        }
    }
    if let Ok((cookie, answer)) = answer {
        assert!(answer.descriptors() <= Some(2));
        match answer {
            Answer::Attached(body) => check(bytes, cookie, &body, &[]),
            Answer::Reply(body) => check(bytes, cookie, &body, &[]),
            Answer::Segment(body) => check(bytes, cookie, &body, &[]),
            Answer::Reclaim(body) => check(bytes, cookie, &body, &[]),
            Answer::Queue(body) => check(bytes, cookie, &body, &[]),
            Answer::Offer(body) => check(bytes, cookie, &body, &[]),
            Answer::Wake(body) => check(bytes, cookie, &body, &[]),
            Answer::Status(body) => check(bytes, cookie, &body, &[]),
            Answer::Capture(body) => check(bytes, cookie, &body, &[]),
            Answer::Detached(body) => check(bytes, cookie, &body, &[]),
            // An optional request.
            Answer::Skipped => {}
            Answer::Addresses(list) => {
                assert!(list.len() <= MAX_ADDRESSES);
                let mut again = Vec::new();
                encode_addresses(cookie, &list, &mut again);
                assert_eq!(again, bytes);
            }
        }
    }
}

fn check<B: Body>(bytes: &[u8], cookie: u64, body: &B, blob: &[u8]) {
    let mut again = Vec::new();
    encode(cookie, body, blob, &mut again);
    assert_eq!(again, bytes);
}
