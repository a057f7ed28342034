// SPDX-License-Identifier: GPL-2.0-or-later

//! Calls on an attachment: its beginning and end, its events, its memory, and its work.

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
use crate::device::{DEFAULT_PATH, Direction, Event, Fetched, Handle, Role, Status};

/// Attaches this process to the smbdirect device at `path_or_null` (null: the default path).
///
/// Other calls work only after SMBDIRECT_EVENT_ATTACHED. If the device refuses, SMBDIRECT_EVENT_DETACHED comes instead
/// and says why: SMBDIRECT_E_DENIED, SMBDIRECT_E_VERSION, SMBDIRECT_E_TAKEN (another process is the listener),
/// SMBDIRECT_E_LIMIT, SMBDIRECT_E_STOPPING and others. A worker with a token in `args` gets SMBDIRECT_EVENT_CONNECTION
/// for it as well, or SMBDIRECT_EVENT_DETACHED with SMBDIRECT_E_NO_TOKEN.
///
/// - Owns: the caller owns `*device_out`, and frees it with smbdirect_device_free.
/// - Threads: any may call this; one thread at a time may use the device.
/// - Blocks: never.
/// - Fork: the handle belongs to this process; a child makes its own attachment.
/// - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NO_DEVICE, SMBDIRECT_E_DENIED, SMBDIRECT_E_UNTRUSTED (the
///   process that listens there runs neither as root nor as this user, nor as the owner of a directory
///   that only root or this user can have made), SMBDIRECT_E_SYSTEM, SMBDIRECT_E_AGAIN (too many
///   processes are attaching at this moment).
///
/// # Safety
///
/// `path_or_null` is null or a string; `args` points to a structure whose `type_size` is set,
/// `device_out` to a pointer.
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
        // SAFETY: `path_or_null` is null or a string, as `# Safety` demands.
        let place = unsafe { path(path_or_null) }?.unwrap_or_else(|| Path::new(DEFAULT_PATH));
        // SAFETY: `args` points to a structure whose `type_size` is set, as `# Safety` demands.
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
        // SAFETY: `device_out` points to a pointer, as `# Safety` demands.
        unsafe { put(device_out, into_pointer(handle)) }
    })
}

/// Writes the versions of the interface that this library and the device speak, after
/// SMBDIRECT_EVENT_DETACHED with SMBDIRECT_E_VERSION, so that a log can say which of the two to replace
/// or restart. `*device_version_out` is 0 if the device speaks the library's version or has not said its own.
///
/// - Owns: nothing.
/// - Threads: one at a time.
/// - Blocks: never.
/// - Fork: SMBDIRECT_E_FORKED.
/// - Errors: SMBDIRECT_E_INVALID.
///
/// # Safety
///
/// `device` is a live handle; each of the others points to a `uint32_t`.
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
        // SAFETY: `own_version_out` points to a `uint32_t`, as `# Safety` demands.
        unsafe { put(own_version_out, VERSION) }?;
        // SAFETY: `device_version_out` points to a `uint32_t`, as `# Safety` demands.
        unsafe { put(device_version_out, version) }
    };
    // SAFETY: `device` is a live handle, as `# Safety` demands.
    unsafe { with_device(device, call) }
}

/// Frees an attachment: the device aborts the connections that this process still has, together with all work
/// under way on them, and takes all its memory back. A null pointer is ignored.
///
/// - Owns: the handle no longer exists and its buffers are unmapped: nothing may read or write them, not
///   even a thread in a system call.
/// - Threads: no other thread may use the handle.
/// - Blocks: never.
/// - Fork: this is the one call that a child may make on its parent's handle: it frees the child's copy,
///   and the parent's attachment continues. A child should call it soon, because the parent's memory
///   lives as long as that copy.
/// - Errors: none.
///
/// # Safety
///
/// `device` is null, or came from smbdirect_device_new and was not freed before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smbdirect_device_free(device: *mut smbdirect_device) {
    fence(|| {
        // SAFETY: `device` is null, or came from `into_pointer` in smbdirect_device_new and was not
        // freed before, as `# Safety` demands.
        unsafe { release(device) };
        Ok(())
    });
}

/// Writes a file descriptor for tevent, poll, or epoll without EPOLLET. After smbdirect_device_get_events has run out
/// of events, the descriptor is readable for as long as there may be more. The caller must neither read nor close it.
///
/// - Owns: the device owns the descriptor.
/// - Threads: one at a time.
/// - Blocks: never.
/// - Fork: SMBDIRECT_E_FORKED.
/// - Errors: SMBDIRECT_E_INVALID.
///
/// # Safety
///
/// `device` is a live handle, `fd_out` points to an int.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smbdirect_device_event_fd(
    device: *mut smbdirect_device,
    fd_out: *mut i32,
) -> i32 {
    let call = |handle: &mut Handle| {
        let descriptor = handle.event_fd()?.as_raw_fd();
        // SAFETY: `fd_out` points to an int, as `# Safety` demands.
        unsafe { put(fd_out, descriptor) }
    };
    // SAFETY: `device` is a live handle, as `# Safety` demands.
    unsafe { with_device(device, call) }
}

/// GET_SMBD_EVENT: writes up to `count` events, in order, and their number to `*count_out`. If this number is less than
/// `count`, there are no more events now, and the event descriptor becomes readable when there are.
///
/// Whenever the event descriptor is readable, call this until it returns fewer events than it was asked for. Waking
/// up takes tens of microseconds: a caller that expects an event soon may poll for a while with
/// SMBDIRECT_EVENTS_PEEK in `flags`, which is 0 otherwise.
///
/// - Owns: the array is the caller's; the `type_size` of its first element must be set.
/// - Threads: one at a time.
/// - Blocks: never.
/// - Fork: SMBDIRECT_E_FORKED.
/// - Errors: SMBDIRECT_E_INVALID; SMBDIRECT_E_DETACHED: SMBDIRECT_EVENT_DETACHED has already been
///   returned.
///
/// # Safety
///
/// `device` is a live handle; `events` points to `count` structures, `count_out` to a number.
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
        // SAFETY: `events` points to `count` structures, as `# Safety` demands.
        let mut output = unsafe { Output::new(events) }?;
        let mut written = 0;
        while written < count {
            let event = match next(handle) {
                Ok(Some(event)) => event,
                Ok(None) => break,
                Err(_) if written > 0 => break,
                Err(status) => return Err(status),
            };
            let data = match event {
                Event::Pdu {
                    data: Some(Fetched { buffer, .. }),
                    ..
                } => handle.buffer(buffer)?.start.cast(),
                _ => std::ptr::null_mut(),
            };
            let value = event_of(output.type_size(), event, data);
            output.write(written as usize, value);
            written += 1;
        }
        // SAFETY: `count_out` points to a number, as `# Safety` demands.
        unsafe { put(count_out, written) }
    };
    // SAFETY: `device` is a live handle, as `# Safety` demands.
    unsafe { with_device(device, call) }
}

/// GET_MEM_PARAMS: writes how much memory a worker may use.
///
/// - Owns: `params_out` is the caller's.
/// - Threads: one at a time.
/// - Blocks: never.
/// - Fork: SMBDIRECT_E_FORKED.
/// - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_DETACHED.
///
/// # Safety
///
/// `device` is a live handle; `params_out` points to a structure whose `type_size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smbdirect_device_get_mem_params(
    device: *mut smbdirect_device,
    params_out: *mut smbdirect_mem_params,
) -> i32 {
    let call = |handle: &mut Handle| {
        // SAFETY: `params_out` points to a structure whose `type_size` is set, as `# Safety`
        // demands.
        let mut output = unsafe { Output::new(params_out) }?;
        let params = handle.mem_params()?;
        output.write(0, mem_params_of(output.type_size(), &params));
        Ok(())
    };
    // SAFETY: `device` is a live handle, as `# Safety` demands.
    unsafe { with_device(device, call) }
}

/// SEND_PDU: takes as many of the messages as there is room for, in order, and writes their number to `*taken_out`.
/// SMBDIRECT_EVENT_SENT follows for each. If fewer than `count` were taken, a call that begins with the next message
/// returns the reason.
///
/// - Owns: everything is copied before the call returns.
/// - Threads: one at a time.
/// - Blocks: never.
/// - Fork: SMBDIRECT_E_FORKED.
/// - Errors: those of the first message: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED,
///   SMBDIRECT_E_NO_CONNECTION, SMBDIRECT_E_BUSY (the connection is being transferred),
///   SMBDIRECT_E_TOO_LONG, SMBDIRECT_E_AGAIN, SMBDIRECT_E_NO_MEMORY, SMBDIRECT_E_DETACHED.
///
/// # Safety
///
/// `device` is a live handle; `pdus` points to `count` structures, their pieces to readable memory,
/// `taken_out` to a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smbdirect_device_send_pdus(
    device: *mut smbdirect_device,
    pdus: *const smbdirect_pdu,
    count: u32,
    taken_out: *mut u32,
) -> i32 {
    let call = |handle: &mut Handle| {
        // SAFETY: `pdus` points to `count` structures, as `# Safety` demands.
        let pdus = unsafe { inputs(pdus, count) }?;
        let each = |pdu: Result<smbdirect_pdu, Status>| {
            let pdu = pdu?;
            if pdu.flags & !SMBDIRECT_PDU_INVALIDATE != 0 || pdu.reserved != [0; 2] {
                return Err(Status::Invalid);
            }
            // SAFETY: the pieces of each message are readable memory, as `# Safety` demands.
            let pieces = unsafe { pieces(pdu.pieces, pdu.piece_count) }?;
            let invalidate = (pdu.flags & SMBDIRECT_PDU_INVALIDATE != 0).then_some(pdu.token);
            handle.send_pdu(pdu.conn, pdu.cookie, pieces, invalidate)
        };
        // SAFETY: `taken_out` points to a number, as `# Safety` demands.
        unsafe { take_all(pdus, each, taken_out) }
    };
    // SAFETY: `device` is a live handle, as `# Safety` demands.
    unsafe { with_device(device, call) }
}

/// RDMA_READ_WRITE: takes as many of the operations as there is room for, in order, and writes their
/// number to `*taken_out`. SMBDIRECT_EVENT_RDMA_DONE follows for each; until then its buffer is in use.
/// An RDMA WRITE goes out before messages that are taken after it, so the response to a READ may be
/// sent at once.
///
/// - Owns: descriptors are copied before the call returns.
/// - Threads: one at a time.
/// - Blocks: never.
/// - Fork: SMBDIRECT_E_FORKED.
/// - Errors: those of the first operation: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED,
///   SMBDIRECT_E_NO_CONNECTION, SMBDIRECT_E_BUSY (the connection is being transferred),
///   SMBDIRECT_E_NO_BUFFER, SMBDIRECT_E_OUT_OF_BOUNDS, SMBDIRECT_E_DESCRIPTORS,
///   SMBDIRECT_E_DESCRIPTORS_TOO_SHORT, SMBDIRECT_E_TOO_LONG, SMBDIRECT_E_NO_READS,
///   SMBDIRECT_E_AGAIN, SMBDIRECT_E_NO_MEMORY, SMBDIRECT_E_DETACHED.
///
/// # Safety
///
/// `device` is a live handle; `operations` points to `count` structures, their descriptors to
/// readable memory, `taken_out` to a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smbdirect_device_rdma_read_write(
    device: *mut smbdirect_device,
    operations: *const smbdirect_rdma,
    count: u32,
    taken_out: *mut u32,
) -> i32 {
    let call = |handle: &mut Handle| {
        // SAFETY: `operations` points to `count` structures, as `# Safety` demands.
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
            // SAFETY: the descriptors of each operation are readable memory, as `# Safety` demands.
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
        // SAFETY: `taken_out` points to a number, as `# Safety` demands.
        unsafe { take_all(operations, each, taken_out) }
    };
    // SAFETY: `device` is a live handle, as `# Safety` demands.
    unsafe { with_device(device, call) }
}

/// Wakes the device for operations with SMBDIRECT_RDMA_DEFER for which it has not been woken. If there are none, this
/// does not make a system call, so a caller can use it whenever it is about to sleep.
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
    // SAFETY: `device` is a live handle, as `# Safety` demands.
    unsafe { with_device(device, Handle::flush) }
}

/// Copies the message of an SMBDIRECT_EVENT_PDU to `target` and gives its memory back to the device. `length`, the size
/// of `target`, must be at least the event's `length`; 0 only gives the memory back. If messages are not taken, their
/// client runs out of credits; no other client is affected.
///
/// - Owns: `target` is the caller's; `pdu` is not valid afterwards.
/// - Threads: one at a time.
/// - Blocks: never.
/// - Fork: SMBDIRECT_E_FORKED.
/// - Errors: SMBDIRECT_E_INVALID (`length` is less than the message's; the message stays),
///   SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_NO_BUFFER, SMBDIRECT_E_DETACHED.
///
/// # Safety
///
/// `device` is a live handle; `target` points to `length` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smbdirect_device_take_pdu(
    device: *mut smbdirect_device,
    pdu: u64,
    target: *mut c_void,
    length: u64,
) -> i32 {
    let call = |handle: &mut Handle| {
        // SAFETY: `target` points to `length` writable bytes, as `# Safety` demands.
        let target = unsafe { bytes_mut(target, length) }?;
        handle.take_pdu(pdu, target)
    };
    // SAFETY: `device` is a live handle, as `# Safety` demands.
    unsafe { with_device(device, call) }
}

/// Allocates a buffer of at least `length` bytes for RDMA. It is not cleared: it may hold old data,
/// which only this process and the device have seen.
///
/// - Owns: the caller owns the buffer until smbdirect_buffer_free.
/// - Threads: one at a time.
/// - Blocks: never.
/// - Fork: SMBDIRECT_E_FORKED.
/// - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_TOO_LONG, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_DETACHED;
///   SMBDIRECT_E_AGAIN: there is no room now, and SMBDIRECT_EVENT_ROOM follows; SMBDIRECT_E_NO_MEMORY: the device
///   refused, no buffer of this process is in use, and no event follows.
///
/// # Safety
///
/// `device` is a live handle; `buffer_out` points to a structure whose `type_size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smbdirect_buffer_alloc(
    device: *mut smbdirect_device,
    length: u64,
    buffer_out: *mut smbdirect_buffer,
) -> i32 {
    let call = |handle: &mut Handle| {
        // SAFETY: `buffer_out` points to a structure whose `type_size` is set, as `# Safety`
        // demands.
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
    // SAFETY: `device` is a live handle, as `# Safety` demands.
    unsafe { with_device(device, call) }
}

/// Gives a buffer back. No thread of this process may read or write it afterwards, because it may be unmapped.
///
/// - Owns: the library owns the buffer again.
/// - Threads: one at a time.
/// - Blocks: never.
/// - Fork: SMBDIRECT_E_FORKED.
/// - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_NO_BUFFER,
///   SMBDIRECT_E_DETACHED; SMBDIRECT_E_BUSY: an RDMA operation uses the buffer until its
///   SMBDIRECT_EVENT_RDMA_DONE.
///
/// # Safety
///
/// `device` is a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smbdirect_buffer_free(device: *mut smbdirect_device, number: u64) -> i32 {
    // SAFETY: `device` is a live handle, as `# Safety` demands.
    unsafe { with_device(device, |handle| handle.free(number)) }
}

/// Calls `each` on one element after the other until one fails, and writes how many succeeded. Fails only if the first
/// element does.
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
    // SAFETY: `taken_out` may be written, as `# Safety` demands; it is not null.
    unsafe { put(taken_out, taken) }
}
