// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests a device that writes what it likes. The library may return results that an honest device could have caused
//! too, or the end of the attachment; a cookie comes back at most once.

use std::collections::HashSet;
use std::io::IoSlice;

use proptest::prelude::*;
use smbdirect::device::abi::{self, Completion, event, kind, region};
use smbdirect::device::channel::Delivery;
use smbdirect::device::message::Answer;
use smbdirect::device::{Direction, Event, Role, Status};
use smbdirect::sys::Memory;
use zerocopy::{FromBytes, FromZeros};

use super::script::{
    Count, DEPTH, Device, RECEIVE_UNIT, Worker, attached, attaching, completion, conn, connected,
    events, info, last_events, params, segment_length,
};

/// Makes the device break a rule. The attachment must end because of that, whatever events come first.
fn breaks(what: &str, rule: impl FnOnce(&mut Worker, &mut Device)) {
    let (mut handle, mut device) = connected();
    rule(&mut handle, &mut device);
    assert_eq!(last_events(&mut handle).1, Status::Corrupt, "{what}");
}

fn completes(what: &str, change: impl FnOnce(&mut Device, &mut Completion)) {
    breaks(what, |handle, device| {
        let pieces = [IoSlice::new(b"x")];
        handle.send_pdu(conn(1), 1, &pieces, None).expect("room");
        let cookie = device.take(1)[0].cookie;
        let mut entry = Completion {
            cookie,
            ..completion(event::SENT, conn(1))
        };
        change(device, &mut entry);
        device.complete(entry);
    });
}

#[test]
fn a_completion_names_what_is_there() {
    completes("unknown event", |_, entry| entry.event = 7);
    completes("no event", |_, entry| entry.event = 0);
    completes("reserved", |_, entry| entry.reserved = 1);
    completes("reserved", |_, entry| entry.reserved2 = 1 << 63);
    completes("no cookie", |_, entry| entry.cookie = 0);
    completes("another's cookie", |_, entry| entry.cookie += 1);
    completes("an old cookie", |_, entry| entry.cookie -= 1 << 32);
    completes("wrong answer", |_, entry| entry.event = event::RDMA_DONE);
    completes("wrong answer", |_, entry| entry.event = event::TRANSFERRED);
    completes("two answers", |device, entry| device.complete(*entry));
    completes("wrong connection", |device, entry| {
        device.connect(info(conn(2)));
        entry.conn = conn(2);
    });
    completes("unknown connection", |_, entry| {
        *entry = completion(event::DISCONNECTED, conn(2));
    });
    completes("gone twice", |device, entry| {
        *entry = completion(event::DISCONNECTED, conn(1));
        device.complete(*entry);
    });
    completes("a message without a connection", |device, entry| {
        device.disconnected(conn(1), Status::Reset);
        entry.event = event::PDU;
        (entry.buffer, entry.length) = (1 << 32, 1);
    });
}

#[test]
fn a_connection_is_of_the_queue_in_which_it_is_named() {
    breaks("connection of another queue", |_, device| {
        device.share_queue(2);
        device.share_receive(2);
        device.connect(info(2 << 48 | 1));
        let entry = completion(event::DISCONNECTED, 2 << 48 | 1);
        let pushed = device
            .queue(1)
            .completions
            .push(&[zerocopy::transmute!(entry)]);
        assert_eq!(pushed, Ok(1));
    });
}

#[test]
fn a_transfer_does_not_succeed_twice_or_too_late() {
    breaks("transferred after its end", |handle, device| {
        handle.transfer(conn(1), 1, None, &[]).expect("room");
        let submission = device.take(1)[0];
        device.disconnected(conn(1), Status::Reset);
        device.answer(&submission, Status::Ok);
    });
    breaks("transferred twice", |handle, device| {
        handle.transfer(conn(1), 1, None, &[]).expect("room");
        let submission = device.take(1)[0];
        device.answer(&submission, Status::Ok);
        device.answer(&submission, Status::Ok);
    });
}

#[test]
fn a_received_message_lies_in_its_segment() {
    let longest = 4 * RECEIVE_UNIT;
    let units = u64::from(params().memory.receive.units_per_segment);
    for (buffer, length) in [
        (1 << 32, 0),
        (1 << 32, longest + 1),
        (1 << 32, u32::MAX),
        (1 << 32 | (units - 1), RECEIVE_UNIT + 1),
        (1 << 32 | units, 1),
        (1 << 32 | 0xffff, 1),
        (1 << 32 | 1 << 16, 1),
        (1 << 32 | 2 << 16, 1),
        (u64::MAX, 1),
    ] {
        breaks("a message", |_, device| {
            device.complete(Completion {
                buffer,
                length,
                ..completion(event::PDU, conn(1))
            });
        });
    }
    breaks("a buffer that the worker holds", |_, device| {
        let entry = Completion {
            buffer: 1 << 32 | 5,
            length: 1,
            ..completion(event::PDU, conn(1))
        };
        device.complete(entry);
        device.complete(entry);
    });
}

#[test]
fn a_connection_is_handed_over_whole_and_once() {
    let hand_over = |what, change: fn(&mut abi::ConnInfo)| {
        breaks(what, |_, device| {
            let mut info = info(conn(2));
            change(&mut info);
            let bytes = zerocopy::IntoBytes::as_bytes(&info);
            let buffer = device.queue(1).fill(bytes);
            device.complete(Completion {
                buffer,
                length: bytes.len() as u32,
                ..completion(event::CONNECTION, conn(2))
            });
        });
    };
    hand_over("another number", |info| info.conn += 1);
    hand_over("reserved", |info| info.reserved[6] = 1);
    breaks("a connection twice", |_, device| {
        device.connect(info(conn(1)))
    });
    breaks("half a connection", |_, device| {
        device.complete(Completion {
            buffer: 1 << 32 | 5,
            length: 111,
            ..completion(event::CONNECTION, conn(2))
        });
    });
}

fn says(what: &str, cookie: u64, answer: Answer) {
    breaks(what, |_, device| device.say(cookie, answer));
}

fn shares(what: &str, segment: abi::Segment, length: usize) {
    breaks(what, |_, device| {
        device.share(0, segment, Memory::zeroed(length));
    });
}

#[test]
fn a_message_answers_a_request_or_comes_by_itself() {
    let reply = |kind| {
        let status = Status::Ok.code();
        Answer::Reply(abi::Reply { status, kind })
    };
    let token = [1; 16];
    let info = info(conn(9));
    says("attached twice", 0, Answer::Attached(params()));
    says("an answer to nothing", 77, reply(kind::CLAIM));
    says("a reply by itself", 0, reply(kind::CLAIM));
    says(
        "an offer to a worker",
        0,
        Answer::Offer(abi::Offer { token, info }),
    );
    let report = abi::StatusReport::new_zeroed();
    says("a report without a request", 0, Answer::Status(report));
    let address = abi::Address {
        port: 5445,
        link_speed: 1,
        ..abi::Address::new_zeroed()
    };
    says(
        "addresses that were asked for",
        1,
        Answer::Addresses(vec![address]),
    );
    let no_port = abi::Address { port: 0, ..address };
    let no_speed = abi::Address {
        link_speed: 0,
        ..address
    };
    for wrong in [no_port, no_speed] {
        let list = vec![address, wrong];
        says("an impossible address", 0, Answer::Addresses(list));
    }
    says(
        "an answer of the wrong kind",
        1,
        Answer::Wake(abi::Wake { reserved: 0 }),
    );
    breaks("a reply of another kind", |handle, device| {
        handle.claim(1, [1; 16]).expect("sent");
        let (cookie, _) = device.request();
        device.reply(cookie, kind::SET_SESSION_ID, Status::Ok);
    });
    breaks("a request answered twice", |handle, device| {
        handle.claim(1, [1; 16]).expect("sent");
        let (cookie, _) = device.request();
        device.reply(cookie, kind::CLAIM, Status::Ok);
        device.reply(cookie, kind::CLAIM, Status::Ok);
    });
    breaks("a segment instead of a reply", |handle, device| {
        handle.claim(1, [1; 16]).expect("sent");
        let (cookie, _) = device.request();
        device.grant(cookie, region::BULK);
    });
    breaks("growth that is fine without a segment", |handle, device| {
        while handle.allocate(1).is_ok() {}
        let (cookie, _) = device.request();
        device.reply(cookie, kind::GROW, Status::Ok);
    });
    let (mut listener, mut device) = attached(Role::Listener);
    device.say(
        0,
        Answer::Offer(abi::Offer {
            token: [0; 16],
            info,
        }),
    );
    assert_eq!(last_events(&mut listener).1, Status::Corrupt);
    let (mut listener, mut device) = attached(Role::Listener);
    device.share_queue(1);
    assert_eq!(last_events(&mut listener).1, Status::Corrupt);
    let (mut early, mut device) = attaching(Role::Listener);
    device.say(0, Answer::Offer(abi::Offer { token, info }));
    assert_eq!(last_events(&mut early).1, Status::Corrupt);
}

#[test]
fn memory_comes_in_order_and_within_its_limits() {
    let length = segment_length(params().memory.receive);
    let next = abi::Segment {
        region: region::RECEIVE,
        queue: 1,
        number: 1,
        reserved: 0,
        length: length as u64,
    };
    shares(
        "a queue that does not exist",
        abi::Segment { queue: 2, ..next },
        length,
    );
    shares(
        "a segment twice",
        abi::Segment { number: 0, ..next },
        length,
    );
    shares(
        "not the next segment",
        abi::Segment { number: 2, ..next },
        length,
    );
    shares("too short", next, length - 1);
    shares("unknown region", abi::Segment { region: 4, ..next }, length);
    let bulk = segment_length(params().memory.bulk);
    let unwanted = abi::Segment {
        region: region::BULK,
        queue: 0,
        ..next
    };
    shares("a segment without a request", unwanted, bulk);
    breaks("more segments than there may be", |_, device| {
        device.share_receive(1);
        device.share_receive(1);
    });
    breaks("a queue twice", |_, device| device.share_queue(1));
    breaks("a queue without connections", |_, device| {
        device.share_queue(1 << 16)
    });
    breaks("more queues than a device has reactors", |_, device| {
        (2..300).for_each(|number| device.share_queue(number));
    });
    for offset in [0, 8, 1 << 40, u64::MAX] {
        breaks("rings elsewhere", |_, device| {
            device.share_queue(2);
            let queue = device.queues.pop().expect("shared");
            device.deliver(Ok(Delivery {
                cookie: 0,
                answer: Answer::Queue(abi::Queue {
                    queue: 3,
                    reserved: 0,
                    length: queue.memory.len() as u64,
                    completion_offset: offset,
                }),
                memory: Some(queue.memory),
                doorbell: Some(Count::default()),
                socket: None,
            }));
        });
    }
    let (mut handle, mut device) = attaching(Role::Worker);
    let mut small = params();
    small.memory.limit = length as u64 * 2 - 1;
    let (cookie, _) = device.request();
    device.say(cookie, Answer::Attached(small));
    device.share_queue(1);
    device.share_receive(1);
    device.share_receive(1);
    let (told, reason) = last_events(&mut handle);
    assert_eq!((told.len(), reason), (0, Status::Corrupt));
}

#[test]
fn the_device_wants_back_what_it_gave() {
    for (region, queue, number) in [
        (0, 0, 0),
        (4, 0, 0),
        (region::SEND, 0, 1),
        (region::BULK, 0, u32::MAX),
        (region::BULK, 1, 0),
        (region::RECEIVE, 0, 0),
        (region::RECEIVE, 1, 1),
    ] {
        breaks("a segment that it never gave", |_, device| {
            device.reclaim(region, queue, number);
        });
    }
    breaks("a segment twice", |handle, device| {
        handle.allocate(1).expect("room");
        device.reclaim(region::BULK, 0, 0);
        device.reclaim(region::BULK, 0, 0);
    });
    breaks("a segment with unread messages", |_, device| {
        device.pdu(conn(1), b"x");
        device.reclaim(region::RECEIVE, 1, 0);
    });
    breaks("a message in a segment that went", |_, device| {
        device.reclaim(region::RECEIVE, 1, 0);
        device.pdu(conn(1), b"x");
    });
}

/// A device may be newer than the library, and send more than the library knows.
#[test]
fn messages_and_events_that_may_be_skipped_are_skipped() {
    let (mut handle, mut device) = connected();
    device.complete(Completion {
        event: 77 | abi::OPTIONAL,
        status: -5,
        reserved: 9,
        ..completion(0, conn(1))
    });
    device.say(0, Answer::Skipped);
    device.pdu(conn(1), b"x");
    let told = events(&mut handle);
    assert!(matches!(told[..], [Event::Pdu { .. }]), "{told:?}");
    breaks("an unknown event that may not be skipped", |_, device| {
        device.complete(completion(77, conn(1)));
    });
}

/// The device has versions and features that the library did not ask for.
#[test]
fn a_device_that_speaks_another_version_or_has_other_features_is_refused() {
    for change in [
        |params: &mut abi::Attached| params.version = abi::OLDEST_VERSION - 1,
        |params: &mut abi::Attached| params.version = abi::VERSION + 1,
        |params: &mut abi::Attached| params.features = 1 << 63,
    ] {
        let (mut handle, mut device) = attaching(Role::Worker);
        let (cookie, _) = device.request();
        let mut wrong = params();
        change(&mut wrong);
        device.say(cookie, Answer::Attached(wrong));
        assert_eq!(last_events(&mut handle), (vec![], Status::Version));
    }
}

#[test]
fn a_device_with_invalid_shapes_or_without_submissions_is_refused() {
    for change in [
        |params: &mut abi::Attached| params.memory.send.unit_length = 0,
        |params: &mut abi::Attached| params.memory.bulk.longest_run = 5,
        |params: &mut abi::Attached| params.memory.receive.units_per_segment = 1 << 17,
        |params: &mut abi::Attached| params.submissions_outstanding = 0,
    ] {
        let (mut handle, mut device) = attaching(Role::Worker);
        let (cookie, _) = device.request();
        let mut wrong = params();
        change(&mut wrong);
        device.say(cookie, Answer::Attached(wrong));
        assert_eq!(last_events(&mut handle), (vec![], Status::Corrupt));
    }
}

/// Something that a device or a caller does.
#[derive(Clone, Debug)]
enum Step {
    Send,
    Rdma,
    Transfer,
    Disconnect,
    Claim,
    TakePdus,
    Allocate,
    Free,
    Events,
    /// The device answers properly.
    Answer(Status),
    Pdu,
    Connect(u64),
    Reply,
    Grow,
    Receive,
    /// The device must not take these steps.
    Completion(Vec<u8>),
    Mixture {
        event: u32,
        conn: u64,
        cookie: u64,
        buffer: u64,
        length: u32,
    },
    Word {
        offset: usize,
        value: u32,
    },
    Receives(bool),
    Say(u64, u32, Vec<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    let status = prop_oneof![Just(Status::Ok), Just(Status::Flushed), Just(Status::Busy)];
    let small = || prop_oneof![8 => 0..4u64, 1 => any::<u64>()];
    let mixture = (0..8u32, 0..4u64, small(), small(), 0..5000u32);
    let honest = prop_oneof![
        4 => Just(Step::Send),
        3 => Just(Step::Rdma),
        1 => Just(Step::Transfer),
        1 => Just(Step::Disconnect),
        1 => Just(Step::Claim),
        3 => Just(Step::TakePdus),
        2 => Just(Step::Allocate),
        2 => Just(Step::Free),
        6 => Just(Step::Events),
        4 => status.prop_map(Step::Answer),
        3 => Just(Step::Pdu),
        1 => (1..4u64).prop_map(Step::Connect),
        1 => Just(Step::Reply),
        1 => Just(Step::Grow),
        1 => Just(Step::Receive),
        1 => any::<bool>().prop_map(Step::Receives),
    ];
    let hostile = prop_oneof![
        1 => prop::collection::vec(any::<u8>(), 64).prop_map(Step::Completion),
        4 => mixture.prop_map(|(event, number, cookie, buffer, length)| Step::Mixture {
            event,
            conn: conn(number),
            cookie: 1 << 32 | cookie,
            buffer: 1 << 32 | buffer,
            length,
        }),
        2 => (0..200usize, any::<u32>()).prop_map(|(word, value)| Step::Word {
            offset: word * 4,
            value,
        }),
        1 => (small(), 101..110u32, prop::collection::vec(any::<u8>(), 128))
            .prop_map(|(cookie, kind, bytes)| Step::Say(cookie, kind, bytes)),
    ];
    prop_oneof![12 => honest, 1 => hostile]
}

/// Checks what must be true whatever the device does.
struct Watch {
    handle: Worker,
    device: Device,
    next_cookie: u64,
    /// Cookies that were given to the library and have not come back.
    given: HashSet<u64>,
    conns: HashSet<u64>,
    pdus: Vec<(u64, u32)>,
    buffers: Vec<u64>,
    submissions: Vec<abi::Submission>,
    /// The device has written where it may not, so from now on its reports cannot be relied on.
    over: bool,
}

impl Watch {
    fn new() -> Self {
        let (handle, device) = connected();
        Self {
            handle,
            device,
            next_cookie: 1 << 60,
            given: HashSet::new(),
            conns: HashSet::from([conn(1)]),
            pdus: Vec::new(),
            buffers: Vec::new(),
            submissions: Vec::new(),
            over: false,
        }
    }

    fn given(&mut self, result: Result<(), Status>) {
        if result.is_ok() {
            assert!(self.given.insert(self.next_cookie));
        }
        self.next_cookie += 1;
    }

    fn came_back(&mut self, cookie: u64) {
        assert!(self.given.remove(&cookie), "{cookie:#x}");
    }

    fn told(&mut self, event: Event) {
        match event {
            Event::Sent { cookie, conn, .. } | Event::RdmaDone { cookie, conn, .. } => {
                assert!(self.conns.contains(&conn));
                self.came_back(cookie);
            }
            Event::Transferred {
                cookie,
                conn,
                status,
                ..
            } => {
                self.came_back(cookie);
                assert!(self.conns.contains(&conn));
                if status == Status::Ok {
                    self.conns.remove(&conn);
                }
            }
            Event::Reply { cookie, .. } => self.came_back(cookie),
            Event::Connection { info } => assert!(self.conns.insert(info.conn)),
            Event::Disconnected { conn, .. } => assert!(self.conns.remove(&conn)),
            Event::Pdu {
                conn, pdu, length, ..
            } => {
                assert!(self.conns.contains(&conn));
                assert!(length <= 4 * RECEIVE_UNIT);
                self.pdus.push((pdu, length));
            }
            Event::Room => {}
            Event::Detached { status } => {
                assert!(!self.over);
                assert!(
                    matches!(status, Status::Corrupt | Status::Fabric | Status::Detached)
                        || Status::from_code(status.code()).is_some()
                );
                assert!(self.given.is_empty() && self.conns.is_empty());
                self.over = true;
            }
            Event::Attached | Event::Offer { .. } => panic!("{event:?}"),
        }
    }

    fn events(&mut self) {
        for _ in 0..10_000 {
            match self.handle.next_event() {
                Ok(Some(event)) => self.told(event),
                Ok(None) => return,
                Err(status) => {
                    assert_eq!(status, Status::Detached);
                    assert!(self.over);
                    return;
                }
            }
        }
        panic!("no end of events");
    }

    fn call(&mut self, step: &Step) {
        let cookie = self.next_cookie;
        let open = self.conns.iter().next().copied().unwrap_or(conn(3));
        match step {
            Step::Send => {
                let result = self
                    .handle
                    .send_pdu(open, cookie, &[IoSlice::new(b"x")], None);
                self.given(result);
            }
            Step::Rdma => {
                let buffer = self.buffers.first().copied().unwrap_or(0);
                let descriptor = [[0; 8], [1, 0, 0, 0, 1, 0, 0, 0]].concat();
                let direction = Direction::Read;
                let result = self
                    .handle
                    .rdma(direction, open, cookie, buffer, 0, 1, &descriptor);
                self.given(result);
            }
            Step::Transfer => {
                let result = self.handle.transfer(open, cookie, None, b"x");
                self.given(result);
            }
            Step::Claim => {
                let result = self.handle.claim(cookie, [1; 16]);
                self.given(result);
            }
            Step::Disconnect => drop(self.handle.disconnect(open)),
            Step::TakePdus => {
                for (pdu, length) in self.pdus.drain(..) {
                    let mut target = vec![0; length as usize];
                    let result = self.handle.take_pdu(pdu, &mut target);
                    assert!(
                        matches!(result, Ok(()) | Err(Status::Detached)),
                        "{result:?}"
                    );
                }
            }
            Step::Allocate => {
                let buffer = self.handle.allocate(1);
                self.buffers.extend(buffer.map(|buffer| buffer.number));
            }
            Step::Free => {
                let handle = &mut self.handle;
                self.buffers.retain(|buffer| handle.free(*buffer).is_err());
            }
            _ => self.events(),
        }
    }

    fn push(&mut self, entry: Completion) {
        // The ring is full or corrupt: a device that cannot write does no harm.
        let queue = &mut self.device.queue(1).completions;
        let _ = queue.push(&[zerocopy::transmute!(entry)]);
    }

    fn device(&mut self, step: &Step) {
        let mut entries = [[0; 8]; DEPTH as usize];
        if let Ok(count) = self.device.queue(1).submissions.pop(&mut entries) {
            let entries = entries.iter().take(count);
            let submissions =
                entries.map(|entry| -> abi::Submission { zerocopy::transmute!(*entry) });
            self.submissions.extend(submissions);
        }
        match step {
            Step::Answer(status) if !self.submissions.is_empty() => {
                let submission = self.submissions.remove(0);
                let event = match submission.op {
                    abi::op::SEND_PDU => event::SENT,
                    abi::op::TRANSFER => event::TRANSFERRED,
                    abi::op::DISCONNECT => event::DISCONNECTED,
                    abi::op::RECYCLE | abi::op::AUTHENTICATED => return,
                    _ => event::RDMA_DONE,
                };
                self.push(Completion {
                    status: status.code(),
                    cookie: submission.cookie,
                    ..completion(event, submission.conn)
                });
            }
            Step::Pdu => {
                let buffer = self.device.queue(1).fill(b"message");
                self.push(Completion {
                    buffer,
                    length: 7,
                    ..completion(event::PDU, conn(1))
                });
            }
            Step::Connect(number) => {
                let info = info(conn(*number));
                let bytes = zerocopy::IntoBytes::as_bytes(&info);
                let buffer = self.device.queue(1).fill(bytes);
                self.push(Completion {
                    buffer,
                    length: bytes.len() as u32,
                    ..completion(event::CONNECTION, info.conn)
                });
            }
            Step::Reply => {
                if let Some((cookie, _)) = self.device.try_request() {
                    self.device.reply(cookie, kind::CLAIM, Status::NoToken);
                }
            }
            Step::Grow => {
                if let Some((cookie, _)) = self.device.try_request() {
                    self.device.grant(cookie, region::BULK);
                }
            }
            Step::Receive => self.device.share_receive(1),
            Step::Receives(receives) => self.device.receives(*receives),
            Step::Completion(bytes) => {
                let entry = Completion::read_from_bytes(bytes).expect("64 bytes");
                self.push(entry);
            }
            &Step::Mixture {
                event,
                conn,
                cookie,
                buffer,
                length,
            } => self.push(Completion {
                cookie,
                buffer,
                length,
                ..completion(event, conn)
            }),
            Step::Word { offset, value } => {
                let memory = &self.device.queue(1).memory;
                memory.write(*offset, &value.to_ne_bytes()).expect("there");
            }
            Step::Say(cookie, kind, bytes) => self.say(*cookie, *kind, bytes),
            _ => {}
        }
    }

    /// Sends a well-formed message: a channel delivers no others.
    fn say(&mut self, cookie: u64, kind: u32, bytes: &[u8]) {
        let answer = match kind {
            kind::ATTACHED => read(bytes).map(Answer::Attached),
            kind::REPLY => read(bytes).map(Answer::Reply),
            kind::SEGMENT => read(bytes).map(Answer::Segment),
            kind::QUEUE => read(bytes).map(Answer::Queue),
            kind::OFFER => read(bytes).map(Answer::Offer),
            kind::WAKE => read(bytes).map(Answer::Wake),
            kind::STATUS_REPORT => read(bytes).map(Answer::Status),
            kind::ADDRESSES => Some(Answer::Addresses(read(bytes).into_iter().collect())),
            _ => read(bytes).map(Answer::Detached),
        };
        let answer = answer.expect("enough bytes");
        let has_memory = answer.descriptors() > Some(0);
        let has_doorbell = answer.descriptors() > Some(1);
        self.device.deliver(Ok(Delivery {
            cookie,
            answer,
            memory: has_memory.then(|| Memory::zeroed(8192)),
            doorbell: has_doorbell.then(Count::default),
            socket: None,
        }));
    }
}

fn read<T: FromBytes>(bytes: &[u8]) -> Option<T> {
    T::read_from_prefix(bytes).map(|(value, _)| value).ok()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn whatever_the_device_writes_becomes_a_possible_event_or_the_end(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut watch = Watch::new();
        for step in &steps {
            watch.device(step);
            watch.call(step);
        }
        watch.events();
        if !watch.over {
            watch.device.die();
            watch.events();
        }
        prop_assert!(watch.over);
    }
}
