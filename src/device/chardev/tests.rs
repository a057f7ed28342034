// SPDX-License-Identifier: GPL-2.0-or-later

//! The channel against a kernel that follows the test's script.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::super::abi::{
    Address, AllowedAddress, Attached, Claim, ConnInfo, Decline, Detached, Grow, Offer, Queue,
    Release, Segment, SetAddresses, SetParameters, SetSessionId, StatusReport, Wake, kind, region,
    role,
};
use super::super::message::{encode, encode_addresses};
use super::super::uapi::number;
use super::super::{Event, Handle, Role};
use super::*;
use crate::sys::{EventFd, wait_readable};

const PAGE: usize = 4096;

/// What a call does.
type Answerer = Box<dyn FnMut(&mut [u8], Option<Buffer<'_>>) -> io::Result<()>>;

#[derive(Default)]
struct State {
    /// Calls that were made, with their arguments before the answer.
    calls: Vec<(u32, Vec<u8>)>,
    /// Answers by the number of the call, each used once, in turn; a call without an answer here succeeds and changes
    /// nothing.
    answers: Vec<(u32, Answerer)>,
    /// What `GET_EVENTS` returns.
    events: Vec<Vec<u8>>,
    /// Where something was mapped.
    maps: Vec<(u64, usize)>,
    /// What `mmap` fails with.
    map_error: Option<i32>,
}

#[derive(Clone)]
struct Script {
    state: Rc<RefCell<State>>,
    /// How many calls a signal interrupts first.
    signals: Rc<Cell<u32>>,
    file: Rc<EventFd>,
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Script")
    }
}

impl AsFd for Script {
    fn as_fd(&self) -> BorrowedFd<'_> {
        (*self.file).as_fd()
    }
}

fn error(errno: i32) -> io::Result<()> {
    Err(io::Error::from_raw_os_error(errno))
}

impl Kernel for Script {
    fn call(
        &self,
        number: u32,
        argument: &mut [u8],
        buffer: Option<(BufferField, Buffer<'_>)>,
    ) -> io::Result<()> {
        assert_eq!((number >> 16 & 0x3fff) as usize, argument.len());
        if self.signals.get() > 0 {
            self.signals.set(self.signals.get() - 1);
            return error(libc::EINTR);
        }
        if let Some((field, _)) = &buffer {
            assert!(field.address_at % 8 == 0 && field.address_at + 8 <= argument.len());
        }
        let mut state = self.state.borrow_mut();
        state.calls.push((number, argument.to_vec()));
        let buffer = buffer.map(|(_, buffer)| buffer);
        let scripted = state.answers.iter().position(|(of, _)| *of == number);
        if let Some(scripted) = scripted {
            let (_, mut answer) = state.answers.remove(scripted);
            return answer(argument, buffer);
        }
        match (number, buffer) {
            (number::ENTER, _) => {
                let (call, _) = EnterCall::mut_from_prefix(argument).unwrap();
                let is_look = call.flags == enter::LOOK;
                call.ready = u32::from(is_look && !state.events.is_empty()) * ready::EVENTS;
            }
            (number::GET_EVENTS, Some(Buffer::Written(buffer))) => {
                let (call, _) = GetEventsCall::mut_from_prefix(argument).unwrap();
                assert!(call.length as usize >= MAX_CONTROL_LENGTH);
                assert_eq!(call.length as usize, buffer.len());
                let events: Vec<_> = state.events.drain(..).collect();
                let bytes = events.concat();
                buffer[..bytes.len()].copy_from_slice(&bytes);
                (call.filled, call.count) = (bytes.len() as u32, events.len() as u32);
            }
            _ => {}
        }
        Ok(())
    }

    fn map(&self, offset: u64, length: usize) -> io::Result<Memory> {
        let mut state = self.state.borrow_mut();
        if let Some(errno) = state.map_error {
            return Err(io::Error::from_raw_os_error(errno));
        }
        state.maps.push((offset, length));
        Ok(Memory::zeroed(length))
    }
}

impl Script {
    fn new() -> Self {
        Self {
            state: Rc::default(),
            signals: Rc::default(),
            file: Rc::new(EventFd::new().unwrap()),
        }
    }

    fn channel(&self) -> CharChannel<Self> {
        CharChannel::new(self.clone()).unwrap()
    }

    /// Answers the next call whose argument has this type, with the argument as `answer` leaves it.
    fn answer<C: Call>(&self, answer: impl Fn(&mut C) + 'static) {
        self.answer_with(move |call, _| {
            answer(call);
            Ok(())
        });
    }

    fn answer_with<C: Call>(
        &self,
        answer: impl Fn(&mut C, Option<Buffer<'_>>) -> io::Result<()> + 'static,
    ) {
        let answerer = move |argument: &mut [u8], buffer: Option<Buffer<'_>>| {
            let mut call = C::read_from_bytes(argument).unwrap();
            assert!(call.reserved_is_zero());
            answer(&mut call, buffer)?;
            argument.copy_from_slice(call.as_bytes());
            Ok(())
        };
        let answers = &mut self.state.borrow_mut().answers;
        answers.push((C::NUMBER, Box::new(answerer)));
    }

    fn refuse<C: Call>(&self, errno: i32) {
        self.answer_with(move |_: &mut C, _| error(errno));
    }

    fn event<B: Body>(&self, cookie: u64, body: &B) {
        self.event_bytes(message(cookie, body, &[]));
    }

    fn event_bytes(&self, bytes: Vec<u8>) {
        self.state.borrow_mut().events.push(bytes);
    }

    fn numbers(&self) -> Vec<u32> {
        let calls = std::mem::take(&mut self.state.borrow_mut().calls);
        calls.into_iter().map(|(number, _)| number).collect()
    }
}

fn message<B: Body>(cookie: u64, body: &B, blob: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(cookie, body, blob, &mut bytes);
    bytes
}

fn is_readable(channel: &CharChannel<Script>) -> bool {
    let mut fds = [rustix::event::PollFd::from_borrowed_fd(
        channel.event_fd(),
        rustix::event::PollFlags::IN,
    )];
    let now = rustix::event::Timespec::default();
    rustix::event::poll(&mut fds, Some(&now)).unwrap() == 1
}

fn attached() -> Attached {
    let shape = abi::RegionShape {
        unit_length: PAGE as u32,
        units_per_segment: 1,
        longest_run: 1,
        max_segments: 1,
    };
    let mut attached = Attached::new_zeroed();
    attached.version = abi::VERSION;
    attached.submissions_outstanding = 8;
    attached.memory.limit = 1 << 20;
    (attached.memory.send, attached.memory.bulk) = (shape, shape);
    attached.memory.receive = shape;
    attached
}

fn segment(region: u32, number: u32, length: u64) -> Segment {
    Segment {
        region,
        number,
        length,
        ..Segment::new_zeroed()
    }
}

/// Returns the next message and its cookie.
fn next(channel: &mut CharChannel<Script>) -> Option<(u64, Answer)> {
    let delivery = channel.receive().unwrap();
    delivery.map(|delivery| (delivery.cookie, delivery.answer))
}

#[test]
fn an_attached_process_knows_the_addresses_and_then_reads_the_other_events() {
    let script = Script::new();
    let mut channel = script.channel();
    let address = Address {
        port: 445,
        link_speed: 1,
        ..Address::new_zeroed()
    };
    let mut addresses = Vec::new();
    encode_addresses(0, &[address], &mut addresses);
    script.event_bytes(addresses);
    let offer = Offer {
        token: [3; 16],
        info: ConnInfo::new_zeroed(),
    };
    script.event(0, &offer);
    script.answer(|call: &mut AttachCall| {
        assert_eq!(call.attach, Attach::new(role::LISTENER, [0; 16]));
        call.attached = attached();
    });
    let attach = Attach::new(role::LISTENER, [0; 16]);
    channel.send(&message(9, &attach, &[])).unwrap();
    // The kernel's file is not readable, but this side's descriptor is.
    for expected in [
        (0, Answer::Addresses(vec![address])),
        (9, Answer::Attached(attached())),
        (0, Answer::Offer(offer)),
    ] {
        assert!(is_readable(&channel));
        assert_eq!(next(&mut channel), Some(expected));
    }
    assert_eq!(next(&mut channel), None);
    assert!(!is_readable(&channel));
}

#[test]
fn each_request_is_a_call_and_its_answer_a_message() {
    let script = Script::new();
    let mut channel = script.channel();
    let reply = |kind, status| Some((5, Answer::Reply(Reply { status, kind })));

    let mut parameters = SetParameters::new_zeroed();
    parameters.security_blob_length = 3;
    script.answer_with(move |call: &mut SetParametersCall, buffer| {
        assert_eq!(call.parameters, parameters);
        assert!(matches!(buffer, Some(Buffer::Read(b"abc"))), "{buffer:?}");
        call.status = 1;
        Ok(())
    });
    channel.send(&message(5, &parameters, b"abc")).unwrap();
    assert_eq!(next(&mut channel), reply(kind::SET_PARAMETERS, 1));

    let list = [AllowedAddress {
        address: [7; 16],
        ..AllowedAddress::new_zeroed()
    }];
    let set = SetAddresses { count: 1, all: 0 };
    script.answer_with(move |call: &mut SetAddressesCall, buffer| {
        assert_eq!(call.set, set);
        let Some(Buffer::Read(bytes)) = buffer else {
            panic!("no addresses")
        };
        assert_eq!(bytes, list.as_bytes());
        Ok(())
    });
    channel.send(&message(5, &set, list.as_bytes())).unwrap();
    assert_eq!(next(&mut channel), reply(kind::SET_ADDRESSES, 0));

    let session = SetSessionId {
        session_id: 4,
        client_guid: [1; 16],
        remove: 0,
        reserved: 0,
    };
    script.answer(move |call: &mut SetSessionIdCall| {
        assert_eq!(call.session, session);
        call.status = 21;
    });
    channel.send(&message(5, &session, &[])).unwrap();
    assert_eq!(next(&mut channel), reply(kind::SET_SESSION_ID, 21));

    script.answer(|call: &mut DeclineCall| call.status = i32::from(call.decline.token == [2; 16]));
    let decline = Decline { token: [2; 16] };
    channel.send(&message(5, &decline, &[])).unwrap();
    assert_eq!(next(&mut channel), reply(kind::DECLINE, 1));

    let claim = Claim { token: [8; 16] };
    script.answer(move |call: &mut ClaimCall| {
        assert_eq!((call.cookie, call.claim), (5, claim));
        call.status = 19;
    });
    channel.send(&message(5, &claim, &[])).unwrap();
    assert_eq!(next(&mut channel), reply(kind::CLAIM, 19));
    script.answer(|call: &mut ClaimCall| call.status = answer::LATER);
    channel.send(&message(6, &claim, &[])).unwrap();
    assert_eq!(next(&mut channel), None, "the answer comes later");
    let granted = Reply {
        status: 0,
        kind: kind::CLAIM,
    };
    script.event(6, &granted);
    assert_eq!(next(&mut channel), Some((6, Answer::Reply(granted))));

    let release = Release {
        region: region::BULK,
        number: 2,
        ..Release::new_zeroed()
    };
    script.answer(move |call: &mut Release| assert_eq!(*call, release));
    channel.send(&message(0, &release, &[])).unwrap();
    assert_eq!(next(&mut channel), None, "it has no answer");
}

#[test]
fn a_segment_is_mapped_at_its_place_whenever_the_answer_comes() {
    let script = Script::new();
    let mut channel = script.channel();
    let grow = Grow {
        region: region::BULK,
        units: 1,
    };
    let at_once = segment(region::BULK, 3, 8192);
    script.answer(move |call: &mut GrowCall| {
        assert_eq!((call.cookie, call.grow), (5, grow));
        call.segment = at_once;
    });
    channel.send(&message(5, &grow, &[])).unwrap();
    script.answer(|call: &mut GrowCall| call.status = answer::LATER);
    channel.send(&message(6, &grow, &[])).unwrap();
    let later = segment(region::RECEIVE, 255, 1 << 20);
    script.event(6, &later);
    for (cookie, expected) in [(5, at_once), (6, later)] {
        let delivery = channel.receive().unwrap().unwrap();
        assert_eq!(
            (delivery.cookie, delivery.answer),
            (cookie, Answer::Segment(expected))
        );
        let memory = delivery.memory.unwrap();
        assert_eq!(memory.len() as u64, expected.length);
    }
    let maps = [(0x0203_0000_0000, 8192), (0x03ff_0000_0000, 1 << 20)];
    assert_eq!(script.state.borrow().maps, maps);

    script.answer(|call: &mut GrowCall| call.status = Status::NoMemory.code());
    channel.send(&message(7, &grow, &[])).unwrap();
    let refused = Reply {
        status: Status::NoMemory.code(),
        kind: kind::GROW,
    };
    assert_eq!(next(&mut channel), Some((7, Answer::Reply(refused))));
}

#[test]
fn the_bell_of_a_queue_enters_it_without_looking() {
    let script = Script::new();
    let mut channel = script.channel();
    let queue = Queue {
        queue: 2,
        length: 5000,
        completion_offset: 64,
        reserved: 0,
    };
    script.event(0, &queue);
    let delivery = channel.receive().unwrap().unwrap();
    assert_eq!(delivery.memory.unwrap().len(), 5000);
    assert_eq!(script.state.borrow().maps, [(0x0402_0000_0000, 5000)]);
    script.numbers();
    let bell = delivery.doorbell.unwrap();
    script.answer(|call: &mut EnterCall| {
        assert_eq!((call.queue, call.flags, call.wait_ns), (2, 0, 0))
    });
    bell.ring();
    script.refuse::<EnterCall>(libc::ESHUTDOWN);
    bell.ring();
    assert_eq!(script.numbers(), [number::ENTER; 2]);
}

#[test]
fn a_device_that_was_just_entered_has_nothing_new() {
    let script = Script::new();
    let mut channel = script.channel();
    assert!(!channel.has_just_looked());
    assert!(channel.receive().unwrap().is_none());
    assert!(channel.has_just_looked());
    assert!(!channel.has_just_looked(), "once");
    let queue = Queue {
        queue: 2,
        length: 5000,
        completion_offset: 64,
        reserved: 0,
    };
    script.event(0, &queue);
    let bell = channel.receive().unwrap().unwrap().doorbell.unwrap();
    assert!(!channel.has_just_looked(), "there were events");
    bell.ring();
    assert!(channel.has_just_looked());
    // The answer of a call is not the device's news.
    channel
        .send(&message(3, &Claim { token: [1; 16] }, &[]))
        .unwrap();
    bell.ring();
    assert!(!channel.has_just_looked());
    assert!(channel.receive().unwrap().is_some());
}

#[test]
fn a_signal_repeats_the_call() {
    let script = Script::new();
    let mut channel = script.channel();
    script.signals.set(3);
    script.event(0, &Wake::new_zeroed());
    assert_eq!(
        next(&mut channel),
        Some((0, Answer::Wake(Wake { reserved: 0 })))
    );
    assert_eq!(script.signals.get(), 0);
    assert_eq!(script.numbers(), [number::ENTER, number::GET_EVENTS]);
}

#[test]
fn refuses_events_that_are_not_whole_messages() {
    let wake = message(0, &Wake::new_zeroed(), &[]);
    let with_length = |length: u32| {
        let mut bytes = wake.clone();
        bytes[4..8].copy_from_slice(&length.to_ne_bytes());
        bytes
    };
    let unknown = {
        let mut bytes = wake.clone();
        bytes[..4].copy_from_slice(&99u32.to_ne_bytes());
        bytes
    };
    let mut reserved = wake.clone();
    reserved[16] = 1;
    let report = message(1, &StatusReport::new_zeroed(), &[]);
    for (bytes, count) in [
        (wake[..23].to_vec(), 1),
        (wake[..15].to_vec(), 1),
        (with_length(25), 1),
        (with_length(15), 1),
        (with_length(0), 1),
        (with_length(u32::MAX), 1),
        (with_length(16), 1),
        (wake.clone(), 0),
        (wake.clone(), 2),
        (Vec::new(), 1),
        (unknown, 1),
        (reserved, 1),
        (report, 1),
    ] {
        let script = Script::new();
        script.event(0, &Wake::new_zeroed());
        let given = bytes.clone();
        script.answer_with(move |call: &mut GetEventsCall, buffer| {
            let Some(Buffer::Written(buffer)) = buffer else {
                panic!("no buffer")
            };
            buffer[..given.len()].copy_from_slice(&given);
            (call.filled, call.count) = (given.len() as u32, count);
            Ok(())
        });
        let received = script.channel().receive();
        assert_eq!(
            received.map(drop),
            Err(Status::Corrupt),
            "{bytes:?} {count}"
        );
    }
    for filled in [EVENTS_LENGTH as u32 + 1, u32::MAX] {
        let script = Script::new();
        script.event(0, &Wake::new_zeroed());
        script.answer(move |call: &mut GetEventsCall| (call.filled, call.count) = (filled, 1));
        let received = script.channel().receive();
        assert_eq!(received.map(drop), Err(Status::Corrupt), "{filled}");
    }
    // The device says that there are events, but there are none: nothing is lost by going on.
    let script = Script::new();
    script.answer(|call: &mut EnterCall| call.ready = u32::MAX);
    assert!(script.channel().receive().unwrap().is_none());
}

#[test]
fn refuses_memory_that_has_no_place() {
    for announced in [
        segment(0, 0, 4096),
        segment(MAP_QUEUE, 0, 4096),
        segment(u32::MAX, 0, 4096),
        segment(region::SEND, 256, 4096),
        segment(region::SEND, 0, 0),
        segment(region::SEND, 0, (1 << 32) + 1),
        segment(region::SEND, 0, u64::MAX),
    ] {
        let script = Script::new();
        script.event(0, &announced);
        let received = script.channel().receive();
        assert_eq!(received.map(drop), Err(Status::Corrupt), "{announced:?}");
        assert!(script.state.borrow().maps.is_empty());
    }
    for (errno, status) in [
        (libc::EINVAL, Status::Corrupt),
        (libc::EOPNOTSUPP, Status::Corrupt),
        (libc::ENOMEM, Status::System),
        (libc::EAGAIN, Status::System),
        (libc::EIO, Status::Detached),
    ] {
        let script = Script::new();
        script.state.borrow_mut().map_error = Some(errno);
        script.event(0, &segment(region::SEND, 0, 4096));
        let received = script.channel().receive();
        assert_eq!(received.map(drop), Err(status), "{errno}");
    }
}

#[test]
fn says_why_it_cannot_attach() {
    let attach = message(1, &Attach::new(role::WORKER, [0; 16]), &[]);
    for (errno, status) in [
        (libc::ENOTTY, Status::NoDevice),
        (libc::EINVAL, Status::NoDevice),
        (libc::EACCES, Status::Denied),
        (libc::EPERM, Status::Denied),
        (libc::ENOMEM, Status::System),
        (libc::EIO, Status::Detached),
        (libc::EBUSY, Status::Corrupt),
        (libc::EFAULT, Status::Corrupt),
    ] {
        let script = Script::new();
        script.refuse::<AttachCall>(errno);
        assert_eq!(script.channel().send(&attach), Err(status), "{errno}");
    }
    let refusal = |status: Status, version| {
        let script = Script::new();
        script.answer(move |call: &mut AttachCall| {
            (call.status, call.version) = (status.code(), version);
        });
        let mut channel = script.channel();
        channel.send(&attach).unwrap();
        assert!(is_readable(&channel));
        next(&mut channel)
    };
    let reply = Reply {
        status: Status::Taken.code(),
        kind: kind::ATTACH,
    };
    assert_eq!(refusal(Status::Taken, 0), Some((1, Answer::Reply(reply))));
    let detached = Detached {
        status: Status::Version.code(),
        version: 4,
    };
    assert_eq!(
        refusal(Status::Version, 4),
        Some((0, Answer::Detached(detached)))
    );

    let script = Script::new();
    script.answer(|call: &mut AttachCall| call.attached.reserved[3] = 1);
    assert_eq!(script.channel().send(&attach), Err(Status::Corrupt));
    let script = Script::new();
    script.answer(|call: &mut AttachCall| call.status = answer::LATER);
    let mut channel = script.channel();
    channel.send(&attach).unwrap();
    assert_eq!(channel.receive().map(drop), Err(Status::Corrupt));
}

#[test]
fn a_call_that_must_not_fail_ends_the_attachment_with_the_reason() {
    let decline = message(1, &Decline { token: [1; 16] }, &[]);
    for (errno, status) in [
        (libc::ESHUTDOWN, Status::Detached),
        (libc::EIO, Status::Detached),
        (libc::ENODEV, Status::Detached),
        (libc::ENOTTY, Status::Version),
        (libc::EOPNOTSUPP, Status::Version),
        (libc::EINVAL, Status::Corrupt),
        (libc::EBADF, Status::Corrupt),
        (libc::EFAULT, Status::Corrupt),
        (libc::ENOMEM, Status::System),
    ] {
        let script = Script::new();
        let mut channel = script.channel();
        script.refuse::<DeclineCall>(errno);
        assert_eq!(channel.send(&decline), Err(Status::Detached));
        assert!(is_readable(&channel));
        assert_eq!(channel.receive().map(drop), Err(status), "{errno}");
        script.refuse::<EnterCall>(errno);
        let received = script.channel().receive();
        assert_eq!(received.map(drop), Err(status), "{errno}");
    }
    // An answer that may not come later, and a segment with something in a reserved field.
    let script = Script::new();
    let mut channel = script.channel();
    script.answer(|call: &mut DeclineCall| call.status = answer::LATER);
    channel.send(&decline).unwrap();
    assert_eq!(channel.receive().map(drop), Err(Status::Corrupt));
    let script = Script::new();
    let mut channel = script.channel();
    script.answer(|call: &mut GrowCall| call.segment.reserved = 1);
    let grow = Grow {
        region: region::SEND,
        units: 1,
    };
    channel.send(&message(1, &grow, &[])).unwrap();
    assert_eq!(channel.receive().map(drop), Err(Status::Corrupt));
}

#[test]
fn a_handle_attaches_works_and_learns_of_its_end() {
    let script = Script::new();
    script.answer(|call: &mut AttachCall| call.attached = attached());
    script.answer(|call: &mut GrowCall| call.segment = segment(region::SEND, 0, PAGE as u64));
    let mut handle = Handle::over(script.channel(), Role::Worker, None).unwrap();
    wait_readable(handle.event_fd().unwrap(), None).unwrap();
    assert_eq!(handle.next_event(), Ok(Some(Event::Attached)));
    assert_eq!(handle.next_event(), Ok(None));
    assert!(
        script
            .numbers()
            .starts_with(&[number::ATTACH, number::GET_EVENTS, number::GROW,])
    );
    handle.set_session_id(7, [1; 16], 1, false).unwrap();
    let reply = Event::Reply {
        cookie: 7,
        status: Status::Ok,
    };
    assert_eq!(handle.next_event(), Ok(Some(reply)));
    let detached = Detached {
        status: Status::Stopping.code(),
        version: 0,
    };
    script.event(0, &detached);
    let end = Event::Detached {
        status: Status::Stopping,
    };
    assert_eq!(handle.next_event(), Ok(Some(end)));
    assert_eq!(handle.next_event(), Err(Status::Detached));
    script.numbers();
    drop(handle);
    assert_eq!(
        script.numbers(),
        [number::DETACH],
        "a child may have a copy"
    );
}

#[test]
fn a_handle_knows_the_version_of_another_device() {
    let script = Script::new();
    script.answer(|call: &mut AttachCall| {
        (call.status, call.version) = (Status::Version.code(), abi::VERSION + 1);
    });
    let mut handle = Handle::over(script.channel(), Role::Listener, None).unwrap();
    let status = Status::Version;
    assert_eq!(handle.next_event(), Ok(Some(Event::Detached { status })));
    assert_eq!(handle.device_version(), Some(abi::VERSION + 1));
}

#[test]
fn an_observer_reads_a_status_of_any_length() {
    let script = Script::new();
    let attach = || {
        script.answer(|call: &mut AttachCall| {
            assert_eq!(call.attach.role, role::OBSERVER);
            call.attached.version = abi::VERSION;
        });
    };
    attach();
    for (needed, written) in [(100_000u32, 0), (200_000, 0), (16, 16)] {
        script.answer_with(move |call: &mut StatusCall, buffer| {
            let Some(Buffer::Written(buffer)) = buffer else {
                panic!("no buffer")
            };
            assert_eq!(buffer.len(), call.length as usize);
            assert!(needed == 100_000 || call.length >= 125_000);
            buffer[..written].fill(7);
            (call.filled, call.needed) = (written as u32, needed);
            Ok(())
        });
    }
    assert_eq!(observe_with(&script), Ok(vec![7; 16]));

    let failure = |script: &Script| observe_with(script).unwrap_err();
    for (filled, needed) in [(u32::MAX, 0), (0, u32::MAX), (65_537, 65_536)] {
        attach();
        script.answer(move |call: &mut StatusCall| (call.filled, call.needed) = (filled, needed));
        assert_eq!(
            failure(&script).status,
            Status::Corrupt,
            "{filled} {needed}"
        );
    }
    attach();
    script.refuse::<StatusCall>(libc::EOPNOTSUPP);
    assert_eq!(failure(&script).status, Status::Version);
    script.answer(|call: &mut AttachCall| call.attached.version = 2);
    assert_eq!(failure(&script).device_version, Some(2));
    script.answer(|call: &mut AttachCall| (call.status, call.version) = (6, 9));
    assert_eq!(failure(&script).device_version, Some(9));
    script.answer(|call: &mut AttachCall| call.status = Status::Stopping.code());
    assert_eq!(failure(&script).status, Status::Stopping);
    script.answer(|call: &mut AttachCall| call.status = -7);
    assert_eq!(failure(&script).status, Status::Corrupt);
    script.refuse::<AttachCall>(libc::EACCES);
    assert_eq!(failure(&script).status, Status::Denied);
    assert_eq!(failure(&script).status, Status::Corrupt, "version 0");
}
