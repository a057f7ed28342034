//! A program without an operating system that uses the crate's protocol layers.
//!
//! It brings the two things that a kernel would: a panic handler and an allocator (one that has no
//! memory: the program is linked, never run). `check.sh` refuses every symbol that is then left
//! undefined. Code that is not generic is in the library whether it is called or not; the calls
//! below are there for what is.

#![no_std]

use core::alloc::{GlobalAlloc, Layout};
use core::panic::PanicInfo;
use core::ptr::null_mut;

use smbdirect::units::Instant;

struct NoMemory;

// SAFETY: null is what an allocator without memory returns, so there is nothing to free.
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

/// What `check.sh` must find.
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
pub unsafe extern "C" fn no_os(start: *const u8, length: usize, now: u64) -> u64 {
    // SAFETY: the caller's promise.
    let bytes = unsafe { core::slice::from_raw_parts(start, length) };
    let now = Instant::from_nanos(now);
    bytes.len() as u64 ^ now.as_nanos()
}
