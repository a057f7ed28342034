// SPDX-License-Identifier: GPL-2.0-or-later

//! SmbdNegotiate: the negotiation, [MS-SMBD] 3.1.5.2, 3.1.5.3 and 3.1.5.6.

use std::time::{Duration, Instant};

use smbdirect::proto::Config;

use super::harness::{Lab, usual, with_server};
use super::messages::{NegotiateRequest, NegotiateResponse, REQUEST};

const STATUS_NOT_SUPPORTED: u32 = 0xC000_00BB;

/// The server accepts the usual values, and the response has the server's values.
#[test]
fn BVT_SmbdNegotiate_Basic() {
    with_server(usual(), |lab| {
        let id = lab.connect();
        let response = lab.negotiate(id, &REQUEST);
        let expected = NegotiateResponse {
            min_version: 0x0100,
            max_version: 0x0100,
            negotiated_version: 0x0100,
            reserved: 0,
            credits_requested: 255,
            credits_granted: 255,
            status: 0,
            max_read_write_size: 8_388_608,
            preferred_send_size: 1364,
            max_receive_size: 1364,
            max_fragmented_size: 1_048_576,
        };
        assert_eq!(response, expected);
        lab.settle();
        let unasked = lab.take_messages(id);
        assert!(unasked.is_empty(), "the acceptor has no credit yet");
        lab.echo(id, 500);
    });
}

/// A client that prefers to send nothing may send 128 bytes, because the server must allow that.
#[test]
fn SmbdNegotiate_PreferredSendSizeWithZero() {
    with_server(usual(), |lab| prefers(lab, 0, 128));
}

/// A client that prefers less than 128 bytes may send 128 bytes, too. From 128 on, the client gets what it wants.
#[test]
fn SmbdNegotiate_PreferredSendSizeLessThan128() {
    with_server(usual(), |lab| {
        prefers(lab, 127, 128);
        prefers(lab, 128, 128);
        prefers(lab, 129, 129);
    });
}

/// A client that prefers to send 4 GiB at a time gets the server's receive size.
#[test]
fn SmbdNegotiate_PreferredSendSizeMaxValue() {
    let config = Config {
        max_receive_size: 8192,
        ..usual()
    };
    with_server(config, |lab| {
        prefers(lab, u32::MAX, 8192);
        prefers(lab, 8193, 8192);
    });
}

/// Checks that the server's maximum receive size becomes `expected`, and that it receives messages of that size.
#[track_caller]
fn prefers(lab: &mut Lab, preferred_send_size: u32, expected: u32) {
    let request = NegotiateRequest {
        preferred_send_size,
        ..REQUEST
    };
    let id = lab.connect();
    assert_eq!(lab.negotiate(id, &request).max_receive_size, expected);
    lab.echo(id, expected as usize - 24);
    lab.echo(id, 3000);
}

/// A request is 20 bytes long. The server ignores further bytes, up to a total of 512.
#[test]
fn SmbdNegotiate_Redundancy() {
    with_server(usual(), |lab| {
        for (filler, length) in [(0, 512), (0xa5, 512), (0xff, 21)] {
            let mut bytes = REQUEST.bytes();
            bytes.resize(length, filler);
            let id = lab.connect();
            let response = lab.negotiate_with(id, &REQUEST, &bytes, 255);
            assert_eq!(response.credits_granted, 255);
            lab.echo(id, 500);
        }
    });
}

/// A client that leaves after the negotiation leaves nothing behind.
#[test]
fn SmbdNegotiate_DisconnectAfterNegotiate() {
    with_server(usual(), |lab| {
        for _ in 0..10 {
            let id = lab.open(&REQUEST);
            lab.disconnect(id);
        }
        assert_eq!(
            lab.server.connections().count(),
            1,
            "only the harness's witness is still connected"
        );
    });
}

/// Fewer than 20 bytes are not a request: the connection ends without a response.
#[test]
fn SmbdNegotiate_UncompletedMessage() {
    with_server(usual(), |lab| {
        for length in [0, 1, 4, 19] {
            let id = lab.connect();
            lab.send(id, &REQUEST.bytes()[..length]);
            lab.ends(id, "too_short");
        }
        lab.open(&REQUEST);
    });
}

/// A client that speaks only later versions is told that they are not supported.
#[test]
fn SmbdNegotiate_VersionRangeNotCover0x0100_LessThanMinVersion() {
    with_server(usual(), |lab| {
        refuses_versions(lab, 0x0101, 0x0101);
        refuses_versions(lab, 0x0101, 0xffff);
    });
}

/// A client that speaks only earlier versions is told that they are not supported.
#[test]
fn SmbdNegotiate_VersionRangeNotCover0x0100_LargerThanMaxVersion() {
    with_server(usual(), |lab| {
        refuses_versions(lab, 0x00ff, 0x00ff);
        refuses_versions(lab, 0x0000, 0x00ff);
        refuses_versions(lab, 0x0000, 0x0001);
    });
}

/// Checks that the response has only the version and the status, and is the last message.
#[track_caller]
fn refuses_versions(lab: &mut Lab, min_version: u16, max_version: u16) {
    let id = lab.connect();
    let request = NegotiateRequest {
        min_version,
        max_version,
        ..REQUEST
    };
    lab.send(id, &request.bytes());
    let response = NegotiateResponse::parse(&lab.message(id));
    let expected = NegotiateResponse {
        min_version: 0x0100,
        max_version: 0x0100,
        negotiated_version: 0,
        reserved: 0,
        credits_requested: 0,
        credits_granted: 0,
        status: STATUS_NOT_SUPPORTED,
        max_read_write_size: 0,
        preferred_send_size: 0,
        max_receive_size: 0,
        max_fragmented_size: 0,
    };
    assert_eq!(response, expected);
    lab.ends(id, "negotiation_refused");
}

/// A range that begins with version 1.0 covers it.
#[test]
fn SmbdNegotiate_VersionRangeCover0x0100_EqualMinVersion() {
    with_server(usual(), |lab| {
        accepts_versions(lab, 0x0100, 0x0101);
        accepts_versions(lab, 0x0100, 0xffff);
    });
}

/// A range that ends with version 1.0 covers it.
#[test]
fn SmbdNegotiate_VersionRangeCover0x0100_EqualMaxVersion() {
    with_server(usual(), |lab| {
        accepts_versions(lab, 0x00ff, 0x0100);
        accepts_versions(lab, 0x0000, 0x0100);
    });
}

/// A range around version 1.0 covers it.
#[test]
fn SmbdNegotiate_VersionRangeCover0x0100_InMiddle() {
    with_server(usual(), |lab| {
        accepts_versions(lab, 0x00ff, 0x0101);
        accepts_versions(lab, 0x0000, 0xffff);
    });
}

/// The client speaks only version 1.0.
#[test]
fn SmbdNegotiate_VersionRangeCover0x0100_EqualMinVersionAndMaxVersion() {
    with_server(usual(), |lab| accepts_versions(lab, 0x0100, 0x0100));
}

/// Checks that the server negotiates version 1.0; `Lab::negotiate` checks the response.
#[track_caller]
fn accepts_versions(lab: &mut Lab, min_version: u16, max_version: u16) {
    let request = NegotiateRequest {
        min_version,
        max_version,
        ..REQUEST
    };
    let id = lab.open(&request);
    lab.echo(id, 500);
}

/// A client that asks for no credits could never send anything.
#[test]
fn SmbdNegotiate_NegativeParameter_CreditsRequested() {
    let asks = |credits_requested| NegotiateRequest {
        credits_requested,
        ..REQUEST
    };
    with_server(usual(), |lab| {
        ends_without_response(lab, &asks(0), "credits_requested_zero");
        let id = lab.connect();
        assert_eq!(lab.negotiate(id, &asks(1)).credits_granted, 1);
        let id = lab.connect();
        let granted = lab.negotiate(id, &asks(65_535)).credits_granted;
        assert_eq!(granted, 255, "not more than the server posts");
    });
}

/// A peer must receive at least 128 bytes at a time; if it does not, the connection ends.
#[test]
fn SmbdNegotiate_NegativeParameter_MaxReceiveSize() {
    let receives = |max_receive_size| NegotiateRequest {
        max_receive_size,
        ..REQUEST
    };
    with_server(usual(), |lab| {
        ends_without_response(lab, &receives(127), "max_receive_size_too_small");
        ends_without_response(lab, &receives(0), "max_receive_size_too_small");
        let id = lab.open(&receives(128));
        lab.echo(id, 1000);
        let id = lab.connect();
        let response = lab.negotiate(id, &receives(u32::MAX));
        assert_eq!(response.preferred_send_size, 1364, "what the server sends");
    });
}

/// A peer must reassemble at least 128 KiB; if it does not, the connection ends.
#[test]
fn SmbdNegotiate_NegativeParameter_MaxFragmentedSize() {
    let reassembles = |max_fragmented_size| NegotiateRequest {
        max_fragmented_size,
        ..REQUEST
    };
    with_server(usual(), |lab| {
        ends_without_response(lab, &reassembles(131_071), "max_fragmented_size_too_small");
        ends_without_response(lab, &reassembles(0), "max_fragmented_size_too_small");
        let id = lab.open(&reassembles(131_072));
        lab.echo(id, 131_072);
        let id = lab.open(&reassembles(u32::MAX));
        lab.echo(id, 131_072);
    });
}

#[track_caller]
fn ends_without_response(lab: &mut Lab, request: &NegotiateRequest, reason: &'static str) {
    let id = lab.connect();
    lab.send(id, &request.bytes());
    lab.ends(id, reason);
}

/// A client has 5 s to negotiate, and uses a little more than 4 of them. Afterwards the timer is off. The 4 s pass only
/// on the clock that both sides are given.
#[test]
fn SmbdNegotiate_NegotiationTimer() {
    with_server(usual(), |lab| {
        let id = lab.connect();
        lab.advance(Duration::from_secs(4));
        lab.lives(id);
        lab.negotiate(id, &REQUEST);
        lab.advance(Duration::from_secs(60));
        lab.lives(id);
        lab.echo(id, 500);
    });
}

/// A client that does not negotiate has 5 s, which pass in real time here: the server sleeps until its own timer wakes
/// it.
#[test]
fn SmbdNegotiate_NegotiationTimer_Timeout() {
    with_server(usual(), |lab| {
        let start = Instant::now();
        let id = lab.connect();
        while start.elapsed() < Duration::from_secs(4) {
            lab.sleep(Duration::from_millis(100));
            lab.turn();
        }
        lab.lives(id);
        while lab.status(id).is_some() && start.elapsed() < Duration::from_secs(20) {
            lab.sleep(Duration::from_secs(20));
            lab.turn();
        }
        let elapsed = start.elapsed();
        assert!(elapsed >= Duration::from_secs(5), "{elapsed:?}");
        assert!(elapsed < Duration::from_secs(15), "{elapsed:?}");
        lab.ends(id, "negotiation_timeout");
    });
}
