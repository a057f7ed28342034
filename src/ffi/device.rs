// SPDX-License-Identifier: GPL-2.0-or-later

//! What is done to an attachment: its beginning and end, its events, its memory, and its work.

use std::ffi::{c_char, c_void};
use std::os::fd::AsRawFd;
use std::path::Path;

use super::convert::{event_of, mem_params_of};
use super::pointer::{
    Output, bytes, bytes_mut, fence, input, inputs, into_pointer, path, pieces, put, release,
    with_device,
};
use super::types::*;
use crate::device::abi::VERSION;
use crate::device::{DEFAULT_PATH, Direction, Handle, Role, Status};

/// Attaches this process to the smbdirect device at `path` (null: the usual place).
///
/// Nothing else works before SMBDIRECT_EVENT_ATTACHED; instead of it, SMBDIRECT_EVENT_DETACHED may
/// come, which says why (SMBDIRECT_E_DENIED, SMBDIRECT_E_VERSION, SMBDIRECT_E_TAKEN: there is a
/// listener, SMBDIRECT_E_LIMIT, SMBDIRECT_E_STOPPING ...). A worker with a token in `args` gets SMBDIRECT_EVENT_CONNECTION for it as well, or
/// SMBDIRECT_EVENT_DETACHED with SMBDIRECT_E_NO_TOKEN.
///
/// - Owns: `*device_out` is the caller's, to be freed with smbdirect_device_free.
/// - Threads: any; the device is for one thread at a time.
/// - Blocks: never.
/// - Fork: the handle is of this process; a child attaches for itself.
/// - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NO_DEVICE, SMBDIRECT_E_DENIED, SMBDIRECT_E_UNTRUSTED (the
///   process that listens there runs neither as root nor as this user, nor as the owner of a directory
///   that only root, or this user, can have made), SMBDIRECT_E_SYSTEM, SMBDIRECT_E_AGAIN (too many
///   attach at this moment).
///
/// # Safety
///
/// `path` is null or a string; `args` leads to a structure whose `type_size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smbdirect_device_new(
    path_or_null: *const c_char,
    args: *const smbdirect_attach,
    device_out: *mut *mut smbdirect_device,
) -> i32 {
    fence(|| {
        if device_out.is_null() {
            return Err(Status::Invalid);
        }
        // SAFETY: the caller's promise.
        let place = unsafe { path(path_or_null) }?.unwrap_or_else(|| Path::new(DEFAULT_PATH));
        // SAFETY: the caller's promise.
        let args = unsafe { input(args) }?;
        let token = (args.token != [0; 16]).then_some(args.token);
        let role = match args.role {
            SMBDIRECT_ROLE_LISTENER if token.is_none() => Role::Listener,
            SMBDIRECT_ROLE_WORKER => Role::Worker,
            _ => return Err(Status::Invalid),
        };
        if args.reserved != [0; 4] {
            return Err(Status::Invalid);
        }
        let handle = Handle::attach(place, role, token)?;
        // SAFETY: the caller's promise.
        unsafe { put(device_out, into_pointer(handle)) }
    })
}

/// The versions of the interface that this library and the device speak, after SMBDIRECT_EVENT_DETACHED with
/// SMBDIRECT_E_VERSION: for a log that says which of the two has to be exchanged, or restarted.
/// `*device_version_out` is 0 where the device has not said its version, or speaks that of the library.
///
/// - Owns: nothing.
/// - Threads: one at a time.
/// - Blocks: never.
/// - Fork: SMBDIRECT_E_FORKED.
/// - Errors: SMBDIRECT_E_INVALID.
///
/// # Safety
///
/// `device` is a live handle; the others lead to a `uint32_t` each.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smbdirect_device_versions(
    device: *mut smbdirect_device,
    own_version_out: *mut u32,
    device_version_out: *mut u32,
) -> i32 {
    let call = |handle: &mut Handle| {
        if device_version_out.is_null() {
            return Err(Status::Invalid);
        }
        let version = handle.device_version().unwrap_or(0);
        // SAFETY: the caller's promise.
        unsafe { put(own_version_out, VERSION) }?;
        // SAFETY: the caller's promise.
        unsafe { put(device_version_out, version) }
    };
    // SAFETY: the caller's promise.
    unsafe { with_device(device, call) }
}

/// Frees an attachment: the device breaks off what connections this process still has, with what
/// is under way on them, and takes all its memory back. A null pointer is ignored.
///
/// - Owns: the handle is gone, and buffers are not mapped any more: nothing may read or write
///   them, no thread in a system call either.
/// - Threads: none other uses it.
/// - Blocks: never.
/// - Fork: in a child this is the one call that may be used on its parent's handle: it frees the
///   child's copy, and the parent's attachment goes on. A child does that soon, or its parent's
///   memory lives as long as the child.
/// - Errors: none.
///
/// # Safety
///
/// `device` is null, or from smbdirect_device_new and was not freed before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smbdirect_device_free(device: *mut smbdirect_device) {
    fence(|| {
        // SAFETY: the caller's promise.
        unsafe { release(device) };
        Ok(())
    });
}

/// A file descriptor that is readable whenever smbdirect_device_get_events may have something after
/// it had nothing, for as long as that is so: for tevent, poll, or epoll without EPOLLET. It is
/// neither to be read nor closed.
///
/// - Owns: the device does.
/// - Threads: one at a time.
/// - Blocks: never.
/// - Fork: SMBDIRECT_E_FORKED.
/// - Errors: SMBDIRECT_E_INVALID.
///
/// # Safety
///
/// `device` is a live handle, `fd_out` leads to an int.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smbdirect_device_event_fd(
    device: *mut smbdirect_device,
    fd_out: *mut i32,
) -> i32 {
    let call = |handle: &mut Handle| {
        let descriptor = handle.event_fd()?.as_raw_fd();
        // SAFETY: the caller's promise.
        unsafe { put(fd_out, descriptor) }
    };
    // SAFETY: the caller's promise.
    unsafe { with_device(device, call) }
}

/// GET_SMBD_EVENT: up to `count` things that happened, in order. `*count_out` says how many; fewer
/// than `count` means that there are no more now, and that the event descriptor will tell when there are.
///
/// Call it until it returns fewer than asked for, whenever the event descriptor is readable. To wake
/// up takes tens of microseconds: a caller that expects something soon may look for it for a while
/// with SMBDIRECT_EVENTS_PEEK in `flags`, which are 0 otherwise.
///
/// - Owns: the array is the caller's; the first element's `type_size` has to be set.
/// - Threads: one at a time.
/// - Blocks: never.
/// - Fork: SMBDIRECT_E_FORKED.
/// - Errors: SMBDIRECT_E_INVALID; SMBDIRECT_E_DETACHED: SMBDIRECT_EVENT_DETACHED has been
///   returned before.
///
/// # Safety
///
/// `device` is a live handle; `events` leads to `count` structures.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smbdirect_device_get_events(
    device: *mut smbdirect_device,
    flags: u32,
    events: *mut smbdirect_event,
    count: u32,
    count_out: *mut u32,
) -> i32 {
    let call = |handle: &mut Handle| {
        if count == 0 || count_out.is_null() {
            return Err(Status::Invalid);
        }
        let next = match flags {
            0 => Handle::next_event,
            SMBDIRECT_EVENTS_PEEK => Handle::peek_event,
            _ => return Err(Status::Invalid),
        };
        // SAFETY: the caller's promise.
        let mut output = unsafe { Output::new(events) }?;
        let mut written = 0;
        while written < count {
            let event = match next(handle) {
                Ok(Some(event)) => event,
                Ok(None) => break,
                Err(_) if written > 0 => break,
                Err(status) => return Err(status),
            };
            let value = event_of(output.type_size(), event);
            output.write(written as usize, value);
            written += 1;
        }
        // SAFETY: the caller's promise.
        unsafe { put(count_out, written) }
    };
    // SAFETY: the caller's promise.
    unsafe { with_device(device, call) }
}

/// GET_MEM_PARAMS: what memory a worker may use.
///
/// - Owns: `params_out` is the caller's.
/// - Threads: one at a time.
/// - Blocks: never.
/// - Fork: SMBDIRECT_E_FORKED.
/// - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_DETACHED.
///
/// # Safety
///
/// `device` is a live handle; `params_out` leads to a structure whose `type_size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smbdirect_device_get_mem_params(
    device: *mut smbdirect_device,
    params_out: *mut smbdirect_mem_params,
) -> i32 {
    let call = |handle: &mut Handle| {
        // SAFETY: the caller's promise.
        let mut output = unsafe { Output::new(params_out) }?;
        let params = handle.mem_params()?;
        output.write(0, mem_params_of(output.type_size(), &params));
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { with_device(device, call) }
}

/// SEND_PDU: takes as many of the messages as there is room for, in order; `*taken_out` says how
/// many. For each, SMBDIRECT_EVENT_SENT follows. Fewer than `count`: the next one could not be taken,
/// and a call that begins with it says why.
///
/// - Owns: everything is copied before the call returns.
/// - Threads: one at a time.
/// - Blocks: never.
/// - Fork: SMBDIRECT_E_FORKED.
/// - Errors: of the first one, SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED,
///   SMBDIRECT_E_NO_CONNECTION, SMBDIRECT_E_BUSY (it is being transferred), SMBDIRECT_E_TOO_LONG,
///   SMBDIRECT_E_AGAIN, SMBDIRECT_E_NO_MEMORY, SMBDIRECT_E_DETACHED.
///
/// # Safety
///
/// `device` is a live handle; `pdus` leads to `count` structures, and their pieces to readable memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smbdirect_device_send_pdus(
    device: *mut smbdirect_device,
    pdus: *const smbdirect_pdu,
    count: u32,
    taken_out: *mut u32,
) -> i32 {
    let call = |handle: &mut Handle| {
        // SAFETY: the caller's promise.
        let pdus = unsafe { inputs(pdus, count) }?;
        let each = |pdu: Result<smbdirect_pdu, Status>| {
            let pdu = pdu?;
            if pdu.flags & !SMBDIRECT_PDU_INVALIDATE != 0 || pdu.reserved != [0; 2] {
                return Err(Status::Invalid);
            }
            // SAFETY: the caller's promise.
            let pieces = unsafe { pieces(pdu.pieces, pdu.piece_count) }?;
            let invalidate = (pdu.flags & SMBDIRECT_PDU_INVALIDATE != 0).then_some(pdu.token);
            handle.send_pdu(pdu.conn, pdu.cookie, pieces, invalidate)
        };
        // SAFETY: the caller's promise.
        unsafe { take_all(pdus, each, taken_out) }
    };
    // SAFETY: the caller's promise.
    unsafe { with_device(device, call) }
}

/// RDMA_READ_WRITE: takes as many of the operations as there is room for, in order; `*taken_out`
/// says how many. For each, SMBDIRECT_EVENT_RDMA_DONE follows; until then its buffer is in use. An RDMA
/// WRITE goes out before the messages that are taken after it: the response to a READ may be sent
/// at once.
///
/// - Owns: descriptors are copied before the call returns.
/// - Threads: one at a time.
/// - Blocks: never.
/// - Fork: SMBDIRECT_E_FORKED.
/// - Errors: of the first one, SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED,
///   SMBDIRECT_E_NO_CONNECTION, SMBDIRECT_E_BUSY (it is being transferred), SMBDIRECT_E_NO_BUFFER,
///   SMBDIRECT_E_OUT_OF_BOUNDS, SMBDIRECT_E_DESCRIPTORS, SMBDIRECT_E_DESCRIPTORS_TOO_SHORT,
///   SMBDIRECT_E_TOO_LONG, SMBDIRECT_E_NO_READS, SMBDIRECT_E_AGAIN, SMBDIRECT_E_NO_MEMORY, SMBDIRECT_E_DETACHED.
///
/// # Safety
///
/// `device` is a live handle; `operations` leads to `count` structures, and their descriptors to
/// readable memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smbdirect_device_rdma_read_write(
    device: *mut smbdirect_device,
    operations: *const smbdirect_rdma,
    count: u32,
    taken_out: *mut u32,
) -> i32 {
    let call = |handle: &mut Handle| {
        // SAFETY: the caller's promise.
        let operations = unsafe { inputs(operations, count) }?;
        let each = |operation: Result<smbdirect_rdma, Status>| {
            let operation = operation?;
            let direction = match operation.direction {
                SMBDIRECT_RDMA_READ => Direction::Read,
                SMBDIRECT_RDMA_WRITE => Direction::Write,
                _ => return Err(Status::Invalid),
            };
            let submit = match operation.flags {
                0 => Handle::rdma,
                SMBDIRECT_RDMA_DEFER => Handle::rdma_deferred,
                _ => return Err(Status::Invalid),
            };
            if operation.reserved32 != 0 || operation.reserved != [0; 1] {
                return Err(Status::Invalid);
            }
            // SAFETY: the caller's promise.
            let descriptors =
                unsafe { bytes(operation.descriptors, operation.descriptors_length) }?;
            let number = |value: u64| usize::try_from(value).map_err(|_| Status::OutOfBounds);
            submit(
                handle,
                direction,
                operation.conn,
                operation.cookie,
                operation.buffer,
                number(operation.offset)?,
                number(operation.length)?,
                descriptors,
            )
        };
        // SAFETY: the caller's promise.
        unsafe { take_all(operations, each, taken_out) }
    };
    // SAFETY: the caller's promise.
    unsafe { with_device(device, call) }
}

/// Wakes the device for the operations with SMBDIRECT_RDMA_DEFER that it was not woken for. It makes no
/// system call if there are none: for a caller to use whenever it is about to sleep.
///
/// - Owns: nothing.
/// - Threads: one at a time.
/// - Blocks: never.
/// - Fork: SMBDIRECT_E_FORKED.
/// - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_DETACHED.
///
/// # Safety
///
/// `device` is a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smbdirect_device_flush(device: *mut smbdirect_device) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { with_device(device, Handle::flush) }
}

/// Copies the message of an SMBDIRECT_EVENT_PDU to `target`, which has `length` bytes, at least those of
/// the event, and gives its memory back to the device. With `length` 0 it is only given back. As long as
/// messages are not taken, their client runs out of credits: nobody else notices.
///
/// - Owns: `target` is the caller's; `pdu` means nothing afterwards.
/// - Threads: one at a time.
/// - Blocks: never.
/// - Fork: SMBDIRECT_E_FORKED.
/// - Errors: SMBDIRECT_E_INVALID (`length` is less than the message's: nothing happened),
///   SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_NO_BUFFER, SMBDIRECT_E_DETACHED.
///
/// # Safety
///
/// `device` is a live handle; `target` leads to `length` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smbdirect_device_take_pdu(
    device: *mut smbdirect_device,
    pdu: u64,
    target: *mut c_void,
    length: u64,
) -> i32 {
    let call = |handle: &mut Handle| {
        // SAFETY: the caller's promise.
        let target = unsafe { bytes_mut(target, length) }?;
        handle.take_pdu(pdu, target)
    };
    // SAFETY: the caller's promise.
    unsafe { with_device(device, call) }
}

/// A buffer of at least `length` bytes for RDMA. What was in it before is still there: nobody
/// but this process and the device has seen it.
///
/// - Owns: the caller, until smbdirect_buffer_free.
/// - Threads: one at a time.
/// - Blocks: never.
/// - Fork: SMBDIRECT_E_FORKED.
/// - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_TOO_LONG, SMBDIRECT_E_NOT_ATTACHED,
///   SMBDIRECT_E_DETACHED; SMBDIRECT_E_AGAIN: no room now, SMBDIRECT_EVENT_ROOM follows;
///   SMBDIRECT_E_NO_MEMORY: the device refused, no buffer of this process is in use, and no event
///   follows.
///
/// # Safety
///
/// `device` is a live handle; `buffer_out` leads to a structure whose `type_size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smbdirect_buffer_alloc(
    device: *mut smbdirect_device,
    length: u64,
    buffer_out: *mut smbdirect_buffer,
) -> i32 {
    let call = |handle: &mut Handle| {
        // SAFETY: the caller's promise.
        let mut output = unsafe { Output::new(buffer_out) }?;
        let length = usize::try_from(length).map_err(|_| Status::TooLong)?;
        let buffer = handle.allocate(length)?;
        let value = smbdirect_buffer {
            type_size: output.type_size(),
            reserved32: 0,
            number: buffer.number,
            start: buffer.start.cast(),
            length: buffer.length as u64,
            reserved: [0; 2],
        };
        output.write(0, value);
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { with_device(device, call) }
}

/// Gives a buffer back, which no thread of this process reads or writes any more: it may be unmapped.
///
/// - Owns: the library again.
/// - Threads: one at a time.
/// - Blocks: never.
/// - Fork: SMBDIRECT_E_FORKED.
/// - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_NO_BUFFER,
///   SMBDIRECT_E_DETACHED; SMBDIRECT_E_BUSY: an RDMA operation uses it, and
///   SMBDIRECT_EVENT_RDMA_DONE will say when that ended.
///
/// # Safety
///
/// `device` is a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smbdirect_buffer_free(device: *mut smbdirect_device, number: u64) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { with_device(device, |handle| handle.free(number)) }
}

/// Calls `each` until one fails, and says how many did not; fails as the first one does.
///
/// # Safety
///
/// `taken_out` is null or may be written.
unsafe fn take_all<T>(
    all: impl Iterator<Item = Result<T, Status>>,
    mut each: impl FnMut(Result<T, Status>) -> Result<(), Status>,
    taken_out: *mut u32,
) -> Result<(), Status> {
    if taken_out.is_null() {
        return Err(Status::Invalid);
    }
    let mut taken = 0;
    for one in all {
        match each(one) {
            Ok(()) => taken += 1,
            Err(status) if taken == 0 => return Err(status),
            Err(_) => break,
        }
    }
    // SAFETY: the caller's promise.
    unsafe { put(taken_out, taken) }
}
