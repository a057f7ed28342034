// SPDX-License-Identifier: GPL-2.0-or-later

//! SmbdDataTransfer: fragments and timers, [MS-SMBD] 3.1.5.1, 3.1.5.8 and 3.1.6.

use std::time::Duration;

use smbdirect::proto::Config;

use super::harness::{Id, Lab, usual, with_server};
use super::messages::{
    DataTransfer, NegotiateRequest, PADDING, REQUEST, RESPONSE_REQUESTED, header,
};
use super::upper::{self, poison, replies, silence};

const SECOND: Duration = Duration::from_secs(1);
/// A little less than the 120 s of the idle timer.
const NEARLY_IDLE: Duration = Duration::from_secs(110);
/// Together with [`NEARLY_IDLE`], a little more than the 120 s.
const REST: Duration = Duration::from_secs(11);

/// Sends messages of one fragment: the header says exactly what follows.
#[test]
fn BVT_SmbdDataTransfer_Basic_SendSmallBytesOfData() {
    with_server(usual(), |lab| {
        let id = lab.open(&REQUEST);
        for length in [1, 8, 100, 500, 1340] {
            let message = upper::echo(length);
            lab.ask(id, &message);
            let bytes = lab.message(id);
            let expected = DataTransfer {
                credits_granted: DataTransfer::parse(&bytes).credits_granted,
                ..header(length, 0)
            };
            assert_eq!(DataTransfer::parse(&bytes), expected);
            assert_eq!(bytes[20..24], PADDING);
            assert!(bytes[24..] == message);
            assert!(lab.reply(id) == message);
        }
    });
}

/// Sends messages of many fragments in both directions, up to the largest that either side takes.
#[test]
fn BVT_SmbdDataTransfer_Basic_SendModerateBytesData() {
    with_server(usual(), |lab| {
        let id = lab.open(&REQUEST);
        for length in [1341, 65_536, 1_024_000, 1_048_576] {
            lab.echo(id, length);
        }
    });
}

/// Fragments of one message may have any length, even zero. The first fragment is empty and announces the whole
/// message. Two more are empty, because the lengths then go from 128 bytes down to zero and up again from zero.
#[test]
fn SmbdDataTransfer_VariableLengthSegment() {
    with_server(usual(), |lab| {
        let id = lab.open(&REQUEST);
        let message = upper::echo(50_000);
        let announcement = lab.session(id).header(0, message.len());
        lab.post(id, announcement, &[]);
        let mut rest = &message[..];
        for length in (0..=128).rev().chain(0..) {
            let (payload, behind) = rest.split_at(rest.len().min(length));
            rest = behind;
            // The offset is that of data, even though there is no data.
            let header = DataTransfer {
                data_offset: 24,
                ..lab.session(id).header(payload.len(), rest.len())
            };
            lab.post(id, header, &[&PADDING, payload].concat());
            if rest.is_empty() {
                break;
            }
        }
        assert!(lab.reply(id) == message);

        let mut random = fastrand::Rng::with_seed(42);
        lab.ask_in(id, &message, 1..);
        assert!(lab.reply(id) == message);
        lab.ask_in(id, &message, (1..=1340).rev());
        assert!(lab.reply(id) == message);
        lab.ask_in(id, &message, [1, 1340, 7, 8, 9].into_iter().cycle());
        assert!(lab.reply(id) == message);
        lab.ask_in(
            id,
            &message,
            std::iter::repeat_with(|| random.usize(1..=1340)),
        );
        assert!(lab.reply(id) == message);
    });
}

/// Sends a message in fragments of one byte, several times as many as there are credits. Also pads each fragment to the
/// largest message that the server receives.
#[test]
fn SmbdDataTransfer_SmallLengthSegment() {
    with_server(usual(), |lab| {
        let id = lab.open(&REQUEST);
        let message = upper::echo(1000);
        lab.ask_in(id, &message, std::iter::repeat(1));
        assert!(lab.reply(id) == message);
        for (index, byte) in message.iter().enumerate() {
            let header = lab.session(id).header(1, message.len() - 1 - index);
            lab.post(id, header, &[&PADDING[..], &[*byte], &[0; 1339]].concat());
        }
        assert!(lab.reply(id) == message);
    });
}

/// The server ignores bytes around the payload, in each fragment and in an empty message.
#[test]
fn SmbdDataTransfer_Redundancy() {
    const JUNK: [u8; 200] = [0xa5; 200];
    with_server(usual(), |lab| {
        let id = lab.open(&REQUEST);
        let message = upper::echo(1000);
        for (rest, payload) in [900, 600, 1, 0].into_iter().zip([
            &message[..100],
            &message[100..400],
            &message[400..999],
            &message[999..],
        ]) {
            let header = lab.session(id).header(payload.len(), rest);
            lab.post(id, header, &[&PADDING, payload, &JUNK].concat());
        }
        assert!(lab.reply(id) == message);

        let header = lab.session(id).header(0, 0);
        lab.post(id, header, &JUNK);
        for data_offset in [32, 64] {
            let message = upper::echo(100);
            let header = DataTransfer {
                data_offset,
                ..lab.session(id).header(100, 0)
            };
            let before = &JUNK[..data_offset as usize - 20];
            lab.post(id, header, &[before, &message, &JUNK].concat());
            assert!(lab.reply(id) == message);
        }
    });
}

/// The server fills the messages that its client receives, and takes what it has agreed to take.
#[test]
fn SmbdDataTransfer_ReceiveMaxReceiveSize() {
    let config = Config {
        max_send_size: 8192,
        max_receive_size: 8192,
        ..usual()
    };
    with_server(config, |lab| {
        for size in [128, 1000, 1364, 8192] {
            let request = NegotiateRequest {
                preferred_send_size: size,
                max_receive_size: size,
                ..REQUEST
            };
            let id = lab.connect();
            let response = lab.negotiate(id, &request);
            assert_eq!(response.preferred_send_size, size);
            assert_eq!(response.max_receive_size, size);
            let full = size - 24;
            for last in [1, full] {
                lab.ask(id, &replies(1, 3 * full + last));
                let lengths: Vec<_> = (0..4).map(|_| data_lengths(&lab.message(id))).collect();
                let expected = [
                    (full, 2 * full + last),
                    (full, full + last),
                    (full, last),
                    (last, 0),
                ];
                assert_eq!(lengths, expected);
                assert!(lab.reply(id) == upper::reply(0, 3 * full + last));
            }
            lab.echo(id, full as usize);
        }
    });
}

/// Returns `DataLength` and `RemainingDataLength`.
fn data_lengths(message: &[u8]) -> (u32, u32) {
    let message = DataTransfer::parse(message);
    (message.data_length, message.remaining_data_length)
}

/// Fewer than 20 bytes are not a message.
#[test]
fn SmbdDataTransfer_UncompletedMessage() {
    with_server(usual(), |lab| {
        for length in [0, 1, 16, 19] {
            let id = ready(lab, &REQUEST);
            lab.send(id, &header(0, 0).bytes()[..length]);
            lab.ends(id, "too_short");
        }
        let id = ready(lab, &REQUEST);
        lab.send(id, &header(0, 0).bytes());
        lab.settle();
        lab.lives(id);
    });
}

/// `DataOffset` must be a multiple of 8, whatever it points to.
#[test]
fn SmbdDataTransfer_NegativeParameter_DataOffset_Against8ByteAligned() {
    with_server(usual(), |lab| {
        for data_offset in [23, 25, 28, 31, 20, 1, u32::MAX] {
            let message = DataTransfer {
                data_offset,
                ..header(100, 0)
            };
            ends_by(lab, message, &poison(200), "data_offset_unaligned");
        }
        // The rule holds even if there is no data to which `DataOffset` could point.
        let message = DataTransfer {
            data_offset: 12,
            ..header(0, 0)
        };
        ends_by(lab, message, &[], "data_offset_unaligned");
    });
}

/// `DataOffset` must lie within the message, after the header, and leave room for the data.
#[test]
fn SmbdDataTransfer_NegativeParameter_DataOffset_AgainstMessageLength() {
    with_server(usual(), |lab| {
        let at = |data_offset| DataTransfer {
            data_offset,
            ..header(100, 0)
        };
        // There are 124 bytes in total. The last three are sums of more than 32 bits, or nearly so.
        let rest = [&PADDING[..], &poison(100)].concat();
        for data_offset in [32, 120, 128, 8192, 0x7fff_fff8, 0xffff_ff98, 0xffff_fff8] {
            ends_by(lab, at(data_offset), &rest, "data_out_of_bounds");
        }
        for data_offset in [0, 8, 16] {
            ends_by(lab, at(data_offset), &rest, "data_offset_in_header");
        }
        let id = ready(lab, &REQUEST);
        let good = [&PADDING[..], &silence(100)].concat();
        lab.post(id, at(24), &good);
        lab.echo(id, 100);
    });
}

/// `DataLength` must end within the message.
#[test]
fn SmbdDataTransfer_NegativeParameter_DataLength_AgainstMessageLength() {
    with_server(usual(), |lab| {
        let rest = [&PADDING[..], &poison(100)].concat();
        for data_length in [101, 8192, 0x7fff_ffff, 0xffff_ffe8, u32::MAX] {
            let message = DataTransfer {
                data_length,
                ..header(100, 0)
            };
            ends_by(lab, message, &rest, "data_out_of_bounds");
        }
        // The same holds for a message that fills its receive.
        let rest = [&PADDING[..], &poison(1340)].concat();
        ends_by(lab, header(1341, 0), &rest, "data_out_of_bounds");
    });
}

/// No message may be longer than the maximum receive size, whether it only claims to be longer or really is. A message
/// that really is does not fit in its receive, so iWARP refuses it.
#[test]
fn SmbdDataTransfer_NegativeParameter_DataLength_AgainstMaxReceiveSize() {
    let config = Config {
        max_receive_size: 8192,
        ..usual()
    };
    with_server(config, |lab| {
        for size in [128, 1364, 8192] {
            let request = NegotiateRequest {
                preferred_send_size: size as u32,
                ..REQUEST
            };
            let id = ready(lab, &request);
            lab.echo(id, size - 24);
            let rest = [&PADDING[..], &poison(100)].concat();
            lab.post(id, header(size - 24 + 1, 0), &rest);
            lab.ends(id, "data_out_of_bounds");

            let id = ready(lab, &request);
            let rest = [&PADDING[..], &poison(size - 24 + 1)].concat();
            lab.post(id, header(size - 24 + 1, 0), &rest);
            lab.ends_as(id, "ddp_too_long", "peer_terminated");
        }
    });
}

/// A message of the upper layer may have the maximum fragmented size, but not a byte more, even if its fragments
/// announce one byte less than they contain.
#[test]
fn SmbdDataTransfer_NegativeParameter_AgainstMaxFragmentedSize() {
    for max_fragmented_size in [131_072, 200_000] {
        let config = Config {
            max_fragmented_size,
            ..usual()
        };
        with_server(config, |lab| {
            let id = ready(lab, &REQUEST);
            lab.echo(id, max_fragmented_size as usize);
            let id = ready(lab, &REQUEST);
            lab.ask(id, &poison(max_fragmented_size as usize + 1));
            lab.ends(id, "fragmented_size_exceeded");
            let id = ready(lab, &REQUEST);
            let mut remaining = max_fragmented_size as usize + 1;
            while remaining > 0 {
                let length = remaining.min(1340);
                remaining -= length;
                lab.post_fragment(id, &poison(length), remaining.saturating_sub(1));
            }
            lab.ends(id, "remaining_mismatch");
        });
    }
}

/// A first fragment may not even announce more than the maximum fragmented size.
#[test]
fn SmbdDataTransfer_NegativeParameter_RemainingDataLength_AgainstMaxFragmentedSize() {
    const MAX: u32 = 131_072;
    let config = Config {
        max_fragmented_size: MAX,
        ..usual()
    };
    with_server(config, |lab| {
        let rest = [&PADDING[..], &poison(100)].concat();
        // The last two are sums of more than 32 bits.
        for remaining_data_length in [MAX - 99, MAX, MAX + 1, 0xffff_ff9c, u32::MAX] {
            let message = DataTransfer {
                remaining_data_length,
                ..header(100, 0)
            };
            ends_by(lab, message, &rest, "fragmented_size_exceeded");
        }
        for remaining_data_length in [MAX + 1, u32::MAX] {
            let message = header(0, remaining_data_length as usize);
            ends_by(lab, message, &[], "fragmented_size_exceeded");
        }
        let id = ready(lab, &REQUEST);
        let lengths = std::iter::once(100).chain(std::iter::repeat(1340));
        lab.ask_in(id, &silence(MAX as usize), lengths);
        lab.echo(id, 100);
    });
}

/// A fragment claims to be the last one while more is due: the second fragment, or the last but one.
#[test]
fn SmbdDataTransfer_NegativeParameter_RemainingDataLength_Zero() {
    with_server(usual(), |lab| {
        for length in [1, 100, 199] {
            second_fragment_ends(lab, header(length, 0), "remaining_mismatch");
        }
        let id = ready(lab, &REQUEST);
        for remaining in (2..50).rev() {
            lab.post_fragment(id, &poison(1340), 1340 * remaining);
        }
        lab.post_fragment(id, &poison(1340), 0);
        lab.ends(id, "remaining_mismatch");
    });
}

/// A fragment does not continue the message as the one before it announced: less is left, or more, or the message
/// begins again, or there is more than is due.
#[test]
fn SmbdDataTransfer_NegativeParameter_RemainingDataLength_AgainstFragmentReassemblyRemaining() {
    with_server(usual(), |lab| {
        for (length, remaining) in [
            (100, 99),
            (100, 101),
            (100, 200),
            (100, 1),
            (200, 1),
            (201, 0),
            (300, 0),
        ] {
            let message = header(length, remaining);
            second_fragment_ends(lab, message, "remaining_mismatch");
        }
        // An empty fragment must not change the number of bytes that were announced, either.
        for remaining in [199, 201] {
            second_fragment_ends(lab, header(0, remaining), "remaining_mismatch");
        }

        let id = ready(lab, &REQUEST);
        lab.ask_in(id, &silence(300), [100, 0, 100, 99, 0, 1]);
        lab.echo(id, 100);
    });
}

/// Checks that `message` ends the connection after 100 bytes of a message of 300.
#[track_caller]
fn second_fragment_ends(lab: &mut Lab, message: DataTransfer, reason: &'static str) {
    let id = ready(lab, &REQUEST);
    lab.post_fragment(id, &poison(100), 200);
    lab.settle();
    lab.lives(id);
    let rest = match message.data_length as usize {
        0 => Vec::new(),
        length => [&PADDING[..], &poison(length)].concat(),
    };
    lab.post(id, message, &rest);
    lab.ends(id, reason);
}

/// Makes a connection on which messages have gone both ways.
#[track_caller]
fn ready(lab: &mut Lab, request: &NegotiateRequest) -> Id {
    let id = lab.open(request);
    lab.echo(id, 100);
    id
}

#[track_caller]
fn ends_by(lab: &mut Lab, message: DataTransfer, rest: &[u8], reason: &'static str) {
    let id = ready(lab, &REQUEST);
    lab.post(id, message, rest);
    lab.ends(id, reason);
}

/// A client that asks for a message gets one at once, and only one. The server does not ask in turn, because otherwise
/// two sides would ask each other for ever.
#[test]
fn SmbdDataTransfer_IdleConnection_Client() {
    with_server(usual(), |lab| {
        let id = lab.open(&REQUEST);
        lab.post_empty(id);
        lab.settle();
        assert_eq!(lab.take_messages(id).len(), 0, "the client did not ask");
        for payload in [vec![], silence(100)] {
            let padding = &PADDING[..payload.len().min(4)];
            let header = DataTransfer {
                flags: RESPONSE_REQUESTED,
                ..lab.session(id).header(payload.len(), 0)
            };
            lab.post(id, header, &[padding, &payload].concat());
            lab.settle();
            let answers = lab.take_messages(id);
            assert_eq!(answers.len(), 1);
            let answer = DataTransfer::parse(&answers[0]);
            assert_eq!((answer.data_length, answer.flags), (0, 0));
        }
        // This client asks shortly before the server would, and grants nothing.
        lab.advance(NEARLY_IDLE);
        let header = DataTransfer {
            flags: RESPONSE_REQUESTED,
            credits_granted: 0,
            ..lab.session(id).header(0, 0)
        };
        lab.post(id, header, &[]);
        lab.settle();
        let answers = lab.take_messages(id);
        assert_eq!(answers.len(), 1);
        let answer = DataTransfer::parse(&answers[0]);
        assert_eq!((answer.data_length, answer.flags), (0, 0));
        assert!(answer.credits_granted > 0);
    });
}

/// A server that has heard nothing for 120 s asks once. Any message is an answer, and restarts the timer.
#[test]
fn SmbdDataTransfer_IdleConnection_Server() {
    with_server(usual(), |lab| {
        let id = lab.open(&REQUEST);
        lab.post_empty(id);
        // If a message comes before the timer expires, even one without credits, the client is not idle.
        lab.advance(NEARLY_IDLE);
        lab.ask(id, &silence(1));
        lab.advance(NEARLY_IDLE);
        assert_eq!(lab.take_messages(id).len(), 0);
        for answer in [0, RESPONSE_REQUESTED] {
            lab.advance(REST);
            let questions = lab.take_messages(id);
            assert_eq!(questions.len(), 1);
            let question = DataTransfer::parse(&questions[0]);
            assert_eq!(
                (question.data_length, question.flags),
                (0, RESPONSE_REQUESTED)
            );
            lab.advance(3 * SECOND);
            // An answer that asks in turn is answered, without another question.
            let header = DataTransfer {
                flags: answer,
                ..lab.session(id).header(0, 0)
            };
            lab.post(id, header, &[]);
            lab.settle();
            let replies = lab.take_messages(id);
            assert_eq!(replies.len(), usize::from(answer));
            assert!(replies.iter().all(|r| DataTransfer::parse(r).flags == 0));
            lab.advance(NEARLY_IDLE);
            lab.lives(id);
            assert_eq!(lab.take_messages(id).len(), 0);
        }
        lab.echo(id, 500);
    });
}

/// A server that gets no answer within 5 s ends the connection, even if it had no credit with which to ask. A
/// connection that answers, here the witness, stays.
#[test]
fn SmbdDataTransfer_IdleConnection_Server_Timeout() {
    with_server(usual(), |lab| {
        let id = lab.open(&REQUEST);
        lab.post_empty(id);
        let mute = lab.open(&REQUEST);
        lab.advance(NEARLY_IDLE);
        lab.advance(REST);
        assert_eq!(lab.take_messages(id).len(), 1);
        assert_eq!(lab.take_messages(mute).len(), 0, "there was no credit");
        lab.advance(3 * SECOND);
        lab.lives(id);
        lab.lives(mute);
        lab.disconnect(mute);
        lab.advance(3 * SECOND);
        lab.ends(id, "keepalive_timeout");

        let mute = lab.open(&REQUEST);
        lab.advance(NEARLY_IDLE);
        lab.advance(REST);
        lab.lives(mute);
        lab.advance(6 * SECOND);
        lab.ends(mute, "keepalive_timeout");
    });
}
