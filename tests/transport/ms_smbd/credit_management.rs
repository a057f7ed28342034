// SPDX-License-Identifier: GPL-2.0-or-later

//! SmbdCreditManagement: credits in both directions, [MS-SMBD] 3.1.5.1, 3.1.5.8 and 3.1.5.9.
//!
//! For each message of every case, [`Session`](super::peer::Session) checks that neither side ever sends without a
//! credit, and that neither spends the last credit without a grant.

use std::time::Duration;

use smbdirect::proto::Config;
use smbdirect::units::Credits;

use super::harness::{Id, Lab, usual, with_server};
use super::messages::{DataTransfer, NegotiateRequest, PADDING, REQUEST, header};
use super::upper::{self, poison, replies, silence};

const SECOND: Duration = Duration::from_secs(1);

/// The initiator asks for one credit and grants one at a time, and everything works. The same holds if the server has
/// no more credits to give and asks for no more.
#[test]
fn BVT_SmbdCreditMgmt_OperationWithMinimumCredits() {
    let poor = Config {
        receive_credit_max: Credits(1),
        send_credit_target: Credits(1),
        ..usual()
    };
    for config in [usual(), poor] {
        with_server(config, |lab| {
            let (id, granted) = open_with(lab, 1, 1);
            assert_eq!(granted, 1);
            for length in [1, 500, 1340, 1341, 20_000] {
                lab.echo(id, length);
            }
            lab.ask(id, &replies(20, 500));
            for index in 0..20 {
                assert!(lab.reply(id) == upper::reply(index, 500));
            }
        });
    }
}

/// The initiator asks for ten credits, never holds more, and can use all of them. If it asks for
/// more later, it gets more.
#[test]
fn SmbdCreditMgmt_OperationWithLimitedCredits() {
    with_server(usual(), |lab| {
        let (id, granted) = open_with(lab, 10, 10);
        assert_eq!(granted, 10);
        for length in [500, 65_536] {
            lab.echo(id, length);
            burst(lab, id);
        }
        lab.session(id).credits_requested = 20;
        lab.echo(id, 500);
        lab.echo(id, 500);
        let credits = lab.session(id).credits;
        assert!((11..=20).contains(&credits), "{credits}");
        burst(lab, id);
        lab.echo(id, 65_536);
    });
}

/// The initiator sends until it has no credit left, while the server has nothing to send. The server still grants
/// credits, in an empty message, without being asked.
#[test]
fn SmbdCreditMgmt_ConsumeAllSendCredits() {
    with_server(usual(), |lab| {
        for credits in [1, 2, 10, 255] {
            let (id, granted) = open_with(lab, credits, 10);
            assert_eq!(granted, credits);
            for _ in 0..5 {
                burst(lab, id);
            }
            // Empty messages use up credits, too.
            while lab.session(id).credits > 0 {
                let header = lab.session(id).header(0, 0);
                lab.post(id, header, &[]);
            }
            lab.settle();
            let messages = lab.take_messages(id);
            assert!(messages.iter().all(|message| message.len() == 20));
            assert!(lab.session(id).credits > 0, "no credits were granted");
            lab.echo(id, 500);
        }
    });
}

/// Uses up all credits before the server can do anything, so that the server must really have posted the receives that
/// it granted. Then waits for new credits, with which a message can be sent.
#[track_caller]
fn burst(lab: &mut Lab, id: Id) {
    lab.settle();
    lab.take_messages(id);
    while lab.session(id).credits > 0 {
        lab.ask(id, &silence(100));
    }
    assert_eq!(lab.take_messages(id).len(), 0, "the server has not run yet");
    lab.settle();
    let messages = lab.take_messages(id);
    assert!(!messages.is_empty(), "no credits were granted");
    for message in &messages {
        assert_eq!(message.len(), 20, "an empty message");
        let message = DataTransfer::parse(message);
        assert_eq!(message.flags, 0);
        assert!(message.credits_granted > 0);
    }
    assert!(lab.session(id).credits > 0);
}

/// The initiator grants few credits: the server uses them all, waits as long as it has to, and continues when it is
/// granted more. The same holds if the initiator asks for a single credit, and the server could run out of receives to
/// grant with its last message.
#[test]
fn SmbdCreditMgmt_ConsumeAllReceiveCredits() {
    with_server(usual(), |lab| {
        for credits_requested in [255, 1] {
            let (id, _) = open_with(lab, credits_requested, 255);
            uses_what_it_is_granted(lab, id);
            lab.echo(id, 500);
            lab.disconnect(id);
        }
    });
}

#[track_caller]
fn uses_what_it_is_granted(lab: &mut Lab, id: Id) {
    const FRAGMENTS: u32 = 50;
    let length = FRAGMENTS * 1340;
    ask_granting(lab, id, 5, &replies(1, length));
    let mut messages = Vec::new();
    for granted in [5, 1, 1, 2, 10] {
        if !messages.is_empty() {
            grant(lab, id, granted);
        }
        lab.settle();
        let sent = lab.take_messages(id);
        assert_eq!(sent.len(), usize::from(granted));
        messages.extend(sent);
        assert_eq!(lab.session(id).server_credits, 0);
        assert_eq!(lab.status(id).unwrap().send_credits, Credits(0));
        lab.advance(50 * SECOND);
        lab.lives(id);
        assert_eq!(lab.take_messages(id).len(), 0, "sent without a credit");
    }
    grant(lab, id, 200);
    lab.settle();
    messages.extend(lab.take_messages(id));
    // An initiator with a single credit must be given another one before and after the reply.
    messages.retain(|message| message.len() > 20);
    assert_eq!(messages.len(), FRAGMENTS as usize);
    assert!(lab.reply(id) == upper::reply(0, length));
}

/// The initiator grants no credit while the server has something to send. That ends the connection after 120 s,
/// although the initiator is not idle and sends other messages.
#[test]
fn SmbdCreditMgmt_ConsumeAllCreditServer_Timeout() {
    with_server(usual(), |lab| {
        // Grant no credit, or three that are used up.
        for granted in [0, 3] {
            let id = lab.open(&REQUEST);
            ask_granting(lab, id, granted, &replies(1, 10_000));
            lab.settle();
            assert_eq!(lab.take_messages(id).len(), usize::from(granted));
            for _ in 0..2 {
                lab.advance(55 * SECOND);
                lab.lives(id);
                lab.post(id, header(0, 0), &[]);
            }
            lab.settle();
            lab.lives(id);
            lab.advance(11 * SECOND);
            lab.ends(id, "credit_timeout");
        }
    });
    // Credits that come in time restart the timer.
    with_server(usual(), |lab| {
        let id = lab.open(&REQUEST);
        ask_granting(lab, id, 1, &replies(1, 10_000));
        for _ in 0..2 {
            lab.advance(110 * SECOND);
            lab.lives(id);
            grant(lab, id, 1);
        }
        lab.settle();
        assert_eq!(lab.take_messages(id).len(), 3);
        lab.advance(110 * SECOND);
        lab.lives(id);
        lab.advance(11 * SECOND);
        lab.ends(id, "credit_timeout");
    });
}

/// No message may ask for zero credits, whether it is empty or not, and whether it is the first or a later one.
#[test]
fn SmbdCreditMgmt_NegativeParameter_CreditRequested() {
    with_server(usual(), |lab| {
        for length in [0, 100] {
            for later in [false, true] {
                let id = lab.open(&REQUEST);
                if later {
                    lab.echo(id, 100);
                }
                let message = DataTransfer {
                    credits_requested: 0,
                    ..header(length, 0)
                };
                let padding = &PADDING[..length.min(4)];
                lab.post(id, message, &[padding, &poison(length)].concat());
                lab.ends(id, "credits_requested_zero");
            }
        }
        let id = lab.open(&REQUEST);
        lab.session(id).credits_requested = 1;
        lab.ask(id, &silence(100));
        lab.settle();
        lab.lives(id);
    });
}

/// Opens a connection that asks for these credits, and posts these receives. Returns the credits that it got.
#[track_caller]
fn open_with(lab: &mut Lab, credits_requested: u16, receives: u16) -> (Id, u16) {
    let request = NegotiateRequest {
        credits_requested,
        ..REQUEST
    };
    let id = lab.connect();
    let response = lab.negotiate_with(id, &request, &request.bytes(), receives);
    (id, response.credits_granted)
}

/// Sends a message of one fragment that grants no more than this.
#[track_caller]
fn ask_granting(lab: &mut Lab, id: Id, credits_granted: u16, message: &[u8]) {
    let header = DataTransfer {
        credits_granted,
        ..lab.session(id).header(message.len(), 0)
    };
    lab.post(id, header, &[&PADDING, message].concat());
}

/// Sends an empty message that grants no more than this.
#[track_caller]
fn grant(lab: &mut Lab, id: Id, credits_granted: u16) {
    let header = DataTransfer {
        credits_granted,
        ..lab.session(id).header(0, 0)
    };
    lab.post(id, header, &[]);
}
