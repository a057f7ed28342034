// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests a handle after `fork`: the child's calls are refused, and the parent's attachment goes on unharmed.
//!
//! This is a separate program with one thread, because only such a process can fork safely.

use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use smbdirect::device::abi::{self, Attached, SetParameters};
use smbdirect::device::channel::{Channel, SocketChannel};
use smbdirect::device::chardev::{CharChannel, Kernel};
use smbdirect::device::message::{encode, read_request};
use smbdirect::device::uapi::{AttachCall, GrowCall, number};
use smbdirect::device::{Direction, Event, Handle, Role, Status};
use smbdirect::sys::{Buffer, BufferField, Maker, Memfd, Memory, SeqSocket, wait_readable};
use zerocopy::{FromBytes, FromZeros};

/// Makes all calls; a child does nothing else.
fn calls<C: Channel>(handle: &mut Handle<C>) -> Vec<Result<(), Status>> {
    let write = Direction::Write;
    vec![
        handle.next_event().map(|_| ()),
        handle.peek_event().map(|_| ()),
        handle.event_fd().map(|_| ()),
        handle.set_parameters(1, SetParameters::new_zeroed(), &[]),
        handle.set_session_id(1, [1; 16], 1, false),
        handle.claim(1, [1; 16]),
        handle.mem_params().map(|_| ()),
        handle.allocate(1).map(|_| ()),
        handle.free(1),
        handle.send_pdu(1, 1, &[IoSlice::new(b"x")], None),
        handle.rdma(write, 1, 1, 1, 0, 1, &[0; 16]),
        handle.take_pdu(1, &mut []),
        handle.disconnect(1),
        handle.transfer(1, 1, None, &[]),
        handle.conn_info(1).map(|_| ()),
        handle.conn_counts(1).map(|_| ()),
    ]
}

/// Runs `child` in a child process. Its exit status says whether all went well.
fn begin(child: impl FnOnce() -> bool) -> libc::pid_t {
    // SAFETY: this process has one thread, so the child may call anything.
    match unsafe { libc::fork() } {
        -1 => panic!("no child: {}", std::io::Error::last_os_error()),
        0 => {
            let code = i32::from(!child());
            // SAFETY: ends the child without running the parent's destructors and exit handlers.
            unsafe { libc::_exit(code) }
        }
        process => process,
    }
}

/// Returns whether a child reported that all went well.
fn end(process: libc::pid_t) -> bool {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    let waited = unsafe { libc::waitpid(process, &raw mut status, 0) };
    assert_eq!(waited, process);
    status == 0
}

fn fork(child: impl FnOnce() -> bool) -> bool {
    end(begin(child))
}

fn next_event<C: Channel>(handle: &mut Handle<C>) -> Event {
    let mut waited = Duration::ZERO;
    loop {
        if let Some(event) = handle.next_event().expect("its maker") {
            return event;
        }
        assert!(waited < Duration::from_secs(20), "nothing happened");
        let start = Instant::now();
        let limit = Some(Duration::from_secs(20));
        wait_readable(handle.event_fd().expect("its own"), limit).expect("waited");
        waited += start.elapsed();
    }
}

/// A kernel that carries out every call and writes the call's number into a pipe; a child's copy does the same.
#[derive(Debug)]
struct Pipe(UnixStream);

impl AsFd for Pipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Kernel for Pipe {
    fn call(
        &self,
        number: u32,
        argument: &mut [u8],
        _: Option<(BufferField, Buffer<'_>)>,
    ) -> io::Result<()> {
        (&self.0).write_all(&number.to_ne_bytes())?;
        if let (number::ATTACH, Ok((call, _))) = (number, AttachCall::mut_from_prefix(argument)) {
            call.attached = attached();
        }
        if let (number::GROW, Ok((call, _))) = (number, GrowCall::mut_from_prefix(argument)) {
            (call.segment.region, call.segment.length) = (call.grow.region, 4096);
        }
        Ok(())
    }

    fn map(&self, _: u64, length: usize) -> io::Result<Memory> {
        Ok(Memory::zeroed(length))
    }
}

/// Returns the numbers of the calls that were made since the last time.
fn made(mut calls: &UnixStream) -> Vec<u32> {
    let mut bytes = Vec::new();
    // The read ends with WouldBlock.
    let _ = calls.read_to_end(&mut bytes);
    bytes
        .chunks_exact(4)
        .map(|number| u32::from_ne_bytes(number.try_into().expect("four")))
        .collect()
}

/// On the kernel's device, a child makes no call, and the parent ends with DETACH although the child has the file.
fn a_character_device() {
    let (near, far) = UnixStream::pair().expect("descriptors");
    far.set_nonblocking(true).expect("set");
    let channel = CharChannel::new(Pipe(near)).expect("descriptors");
    let mut handle = Handle::over(channel, Role::Worker, None).expect("attached");
    assert_eq!(next_event(&mut handle), Event::Attached);
    assert!(made(&far).starts_with(&[number::ATTACH]));
    let mut handle = Some(handle);
    let dropped = fork(|| {
        let mut copy = handle.take().expect("there");
        let results = calls(&mut copy);
        results.iter().all(|result| *result == Err(Status::Forked))
    });
    assert!(dropped);
    assert_eq!(made(&far), [0; 0], "the child called");
    let (mut near, other) = UnixStream::pair().expect("descriptors");
    let holder = begin(|| near.read(&mut [0]).is_ok_and(|length| length == 1));
    drop(handle);
    assert_eq!(made(&far), [number::DETACH]);
    (&other).write_all(b"x").expect("written");
    assert!(end(holder));
}

fn attached() -> Attached {
    let shape = abi::RegionShape {
        unit_length: 4096,
        units_per_segment: 1,
        longest_run: 1,
        max_segments: 1,
    };
    let mut attached = Attached::new_zeroed();
    attached.version = abi::VERSION;
    attached.submissions_outstanding = 1;
    attached.memory.limit = 1 << 20;
    attached.memory.send = shape;
    attached.memory.bulk = shape;
    attached.memory.receive = shape;
    attached
}

fn main() -> ExitCode {
    a_character_device();

    let maker = Maker::new().expect("memory");
    assert!(maker.is_here());
    assert!(fork(|| !maker.is_here()), "the child is another process");
    assert!(fork(|| fork(|| !maker.is_here())), "a grandchild as well");
    assert!(maker.is_here(), "the parent is the maker");

    let (near, device) = SeqSocket::pair().expect("descriptors");
    let channel = SocketChannel::new(near).expect("descriptors");
    let mut handle = Handle::over(channel.into(), Role::Worker, None).expect("sent");
    let mut buffer = [0; abi::MAX_CONTROL_LENGTH];
    let length = device.receive(&mut buffer).expect("a request").length;
    let (cookie, _) = read_request(&buffer[..length]).expect("of good form");
    let mut message = Vec::new();
    encode(cookie, &attached(), &[], &mut message);
    device.send(&message, &[]).expect("sent");

    // The child of a process that waits for its answer leaves that answer to its parent.
    let refused = |handle: &mut Handle| {
        let results = calls(handle);
        results.iter().all(|result| *result == Err(Status::Forked))
    };
    assert!(fork(|| refused(&mut handle)), "before it is attached");
    assert_eq!(handle.next_event(), Ok(None), "nothing to answer from");
    let length = device.receive(&mut buffer).expect("a request").length;
    let (cookie, _) = read_request(&buffer[..length]).expect("of good form");
    let mut segment = abi::Segment::new_zeroed();
    (segment.region, segment.length) = (abi::region::SEND, 4096);
    encode(cookie, &segment, &[], &mut message);
    let file = Memfd::create("segment", 4096).expect("memory");
    device.send(&message, &[file.as_fd()]).expect("sent");
    assert_eq!(next_event(&mut handle), Event::Attached);
    assert!(fork(|| refused(&mut handle)), "while it is attached");
    let mut handle = Some(handle);
    let dropped = fork(|| {
        let mut copy = handle.take().expect("there");
        let refused = refused(&mut copy);
        drop(copy);
        refused
    });
    assert!(dropped);

    // The device heard nothing from the child, and the parent's attachment works.
    let mut handle = handle.take().expect("the parent's");
    let nothing = device.receive(&mut buffer).expect_err("nothing was said");
    assert!(nothing.is_would_block(), "{nothing}");
    handle.claim(5, [1; 16]).expect("attached");
    let length = device.receive(&mut buffer).expect("a request").length;
    let (cookie, _) = read_request(&buffer[..length]).expect("of good form");
    let reply = abi::Reply {
        status: Status::NoToken.code(),
        kind: abi::kind::CLAIM,
    };
    encode(cookie, &reply, &[], &mut message);
    device.send(&message, &[]).expect("sent");
    let expected = Event::Reply {
        cookie: 5,
        status: Status::NoToken,
    };
    assert_eq!(next_event(&mut handle), expected);

    // When the parent ends, so does the attachment, although a child holds a copy of every descriptor.
    let (mut near, far) = UnixStream::pair().expect("descriptors");
    let holder = begin(|| near.read(&mut [0]).is_ok_and(|length| length == 1));
    drop(handle);
    let closed = device.receive(&mut buffer).expect_err("no message");
    assert_eq!(closed.name(), "closed");
    (&far).write_all(b"x").expect("written");
    assert!(end(holder));
    ExitCode::SUCCESS
}
