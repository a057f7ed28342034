// SPDX-License-Identifier: GPL-2.0-or-later

//! A program without an operating system that uses the crate's protocol layers and the engine.
//!
//! It provides the two things that a kernel would provide: a panic handler and an allocator (one without memory,
//! because the program is linked, but never run). `check.sh` refuses every symbol that is then left undefined. Code
//! that is not generic is in the library whether it is called or not; the calls below bring in the generic code.

#![no_std]

extern crate alloc;

mod engine;
mod shard;

use core::alloc::{GlobalAlloc, Layout};
use core::panic::PanicInfo;
use core::ptr::null_mut;

use smbdirect::fabric::WrId;
use smbdirect::fabric::iwarp::handshake::{Offer, Request};
use smbdirect::fabric::iwarp::mpa::{Frame, FrameKind};
use smbdirect::fabric::iwarp::qp::{Depths, Qp};
use smbdirect::fabric::iwarp::rdmap::Terminate;
use smbdirect::proto::{Config, Endpoint};
use smbdirect::units::Instant;
use smbdirect::wire::{BufferDescriptors, DataTransfer, smb2};

struct NoMemory;

// SAFETY: an allocator without memory returns null, so there is nothing to free.
unsafe impl GlobalAlloc for NoMemory {
    unsafe fn alloc(&self, _: Layout) -> *mut u8 {
        null_mut()
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static ALLOCATOR: NoMemory = NoMemory;

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {}
}

/// The symbol that `check.sh` must find.
#[cfg(feature = "import")]
#[unsafe(no_mangle)]
pub extern "C" fn import() -> i32 {
    unsafe extern "C" {
        safe fn getpid() -> i32;
    }
    getpid()
}

/// Feeds `length` bytes at `start` to each layer; the result depends on all of them.
///
/// # Safety
///
/// The bytes must be readable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn no_os(start: *const u8, length: usize, now: u64) -> usize {
    // SAFETY: the caller's promise.
    let bytes = unsafe { core::slice::from_raw_parts(start, length) };
    let now = Instant::from_nanos(now);
    wire(bytes) ^ iwarp(bytes) ^ queue_pair(bytes) ^ proto(bytes, now) ^ engine::engine(bytes, now)
}

fn wire(bytes: &[u8]) -> usize {
    let data = DataTransfer::parse(bytes).map_or(0, |data| data.emit().1);
    let pieces = BufferDescriptors::parse(bytes)
        .and_then(|list| Ok(list.pieces(bytes.len() as u32)?.count()))
        .unwrap_or_else(|error| error.name().len());
    let requests = smb2::Requests::new(bytes).flatten().map(|request| {
        smb2::NegotiateRequest::parse(request).map_or(0, |negotiate| negotiate.contexts().count())
            + smb2::ReadRequest::parse(request).map_or(0, |read| read.length() as usize)
    });
    data ^ pieces ^ requests.sum::<usize>()
}

fn iwarp(bytes: &[u8]) -> usize {
    let mut out = [0; 532];
    let frame = Frame::parse(FrameKind::Request, bytes).and_then(|frame| frame.emit(&mut out));
    let terminate = Terminate::parse(bytes).map(|code| {
        Terminate::on_segment(code, bytes.len() as u16, bytes)
            .emit()
            .len()
    });
    frame.unwrap_or_else(|error| error.name().len()) ^ terminate.unwrap_or_default()
}

fn queue_pair(bytes: &[u8]) -> usize {
    let depths = Depths {
        sends: 4,
        recvs: 4,
        reads: 4,
        responses: 4,
        regions: 4,
    };
    let offer = Offer {
        crc: true,
        ird: 4,
        ord: 4,
    };
    let mut qp = Qp::<()>::new(depths, |crc, bytes| crc ^ bytes.len() as u32);
    if let Ok(request) =
        Frame::parse(FrameKind::Request, bytes).and_then(|frame| Request::new(&frame))
    {
        qp.establish(request.accept(offer).1, 1460);
    }
    let posted = qp.post_send(WrId(1), bytes, None, None);
    let received = qp.receive(&mut &*bytes);
    let sent = qp
        .next_segment()
        .ok()
        .flatten()
        .map_or(0, |segment| segment.ulpdu_length());
    sent ^ usize::from(posted.is_ok())
        ^ usize::from(received.is_ok())
        ^ usize::from(qp.flush().is_some())
}

fn proto(bytes: &[u8], now: Instant) -> usize {
    let mut endpoint = Endpoint::acceptor(Config::default(), now);
    endpoint.handle_receives_posted(endpoint.receives_wanted());
    let received = endpoint.handle_message(now, bytes);
    let started = endpoint.start_message(bytes.len() as u32, None);
    let sent = endpoint
        .poll_transmit(now)
        .map_or(0, |transmit| transmit.header().len());
    let expired = endpoint
        .handle_timeout(now)
        .map_err(|error| error.name().len());
    endpoint.close();
    sent ^ usize::from(received.is_ok())
        ^ usize::from(started.is_ok())
        ^ expired.err().unwrap_or_default()
}
