// SPDX-License-Identifier: GPL-2.0-or-later

//! What an attachment asks of the device as a whole: who owns what, and what there is.

use std::ffi::c_void;

use super::convert::address_of;
use super::pointer::{Output, bytes, input, inputs, put, sixteen, with_device};
use super::types::*;
use crate::device::abi::{AllowedAddress, MAX_ADDRESSES, MAX_ALLOWED_ADDRESSES, SetParameters};
use crate::device::{Handle, Status};

const _: () = assert!(SMBDIRECT_ADDRESSES_MAX as usize == MAX_ADDRESSES);
const _: () = assert!(SMBDIRECT_ALLOWED_ADDRESSES_MAX as usize == MAX_ALLOWED_ADDRESSES);

/// SET_SMBD_PARAMETERS, of a listener. SMBDIRECT_EVENT_REPLY brings `cookie` back.
///
/// `security_blob` is the SPNEGO token of the server's NEGOTIATE response, up to 2048 bytes, or null.
///
/// - Owns: everything is copied.
/// - Threads: one at a time.
/// - Blocks: never.
/// - Fork: SMBDIRECT_E_FORKED.
/// - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_TOO_LONG,
///   SMBDIRECT_E_AGAIN, SMBDIRECT_E_DETACHED; in the event SMBDIRECT_E_INVALID.
///
/// # Safety
///
/// `device` is a live handle; `parameters` leads to a structure whose `type_size` is set;
/// `security_blob` to `security_blob_length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smbdirect_device_set_parameters(
    device: *mut smbdirect_device,
    cookie: u64,
    parameters: *const smbdirect_parameters,
    security_blob: *const c_void,
    security_blob_length: u64,
) -> i32 {
    let call = |handle: &mut Handle| {
        // SAFETY: the caller's promise.
        let wanted = unsafe { input(parameters) }?;
        // SAFETY: the caller's promise.
        let blob = unsafe { bytes(security_blob, security_blob_length) }?;
        if wanted.reserved != [0; 4] || wanted.reserved32 != 0 {
            return Err(Status::Invalid);
        }
        let parameters = SetParameters {
            receive_credit_max: wanted.receive_credit_max,
            send_credit_target: wanted.send_credit_target,
            max_send_size: wanted.max_send_size,
            max_receive_size: wanted.max_receive_size,
            max_fragmented_size: wanted.max_fragmented_size,
            max_read_write_size: wanted.max_read_write_size,
            keepalive_interval_ms: wanted.keepalive_interval_ms,
            server_guid: wanted.server_guid,
            security_blob_length: 0,
            reserved: [0; 5],
        };
        handle.set_parameters(cookie, parameters, blob)
    };
    // SAFETY: the caller's promise.
    unsafe { with_device(device, call) }
}

/// The addresses of the server that clients may use, of a listener, in place of those that it or an
/// earlier listener named before: with SMBDIRECT_ADDRESSES_ALL in `flags` all of them (`count` is 0
/// then), without it the `count` addresses, and none if `count` is 0. SMBDIRECT_EVENT_REPLY brings
/// `cookie` back: from then on the device refuses connections at other addresses before it reads
/// anything, and smbdirect_device_get_addresses has none of them. Connections that came in at other
/// addresses end with SMBDIRECT_E_ADDRESS.
///
/// It may be called at any time and as often as something changes. The list stays in force when the
/// listener goes away, so that the next one begins with it; a device that was never told allows all
/// addresses.
///
/// - Owns: everything is copied. The first element's `type_size` has to be set; an address may be
///   there twice. With a `count` of 0 `addresses` may be null.
/// - Threads: one at a time.
/// - Blocks: never.
/// - Fork: SMBDIRECT_E_FORKED.
/// - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_TOO_LONG (more than
///   SMBDIRECT_ALLOWED_ADDRESSES_MAX), SMBDIRECT_E_AGAIN, SMBDIRECT_E_DETACHED; in the event
///   SMBDIRECT_E_INVALID.
///
/// # Safety
///
/// `device` is a live handle; `addresses` leads to `count` structures.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smbdirect_device_set_addresses(
    device: *mut smbdirect_device,
    cookie: u64,
    flags: u32,
    addresses: *const smbdirect_allowed_address,
    count: u32,
) -> i32 {
    let call = |handle: &mut Handle| {
        if flags & !SMBDIRECT_ADDRESSES_ALL != 0 || (flags != 0 && count != 0) {
            return Err(Status::Invalid);
        }
        if count > SMBDIRECT_ALLOWED_ADDRESSES_MAX {
            return Err(Status::TooLong);
        }
        if count == 0 {
            let none = (flags == 0).then_some(&[][..]);
            return handle.set_addresses(cookie, none);
        }
        let allowed = |address: Result<smbdirect_allowed_address, Status>| {
            let address = address?;
            if address.reserved != [0; 2] {
                return Err(Status::Invalid);
            }
            Ok(AllowedAddress {
                address: address.address,
                scope_id: address.scope_id,
                reserved: 0,
            })
        };
        // SAFETY: the caller's promise.
        let addresses = unsafe { inputs(addresses, count) }?;
        let allowed: Result<Vec<_>, Status> = addresses.map(allowed).collect();
        handle.set_addresses(cookie, Some(&allowed?))
    };
    // SAFETY: the caller's promise.
    unsafe { with_device(device, call) }
}

/// SET_SMBD_SESSION_ID, of a worker: connections of this client are for this process from now on, or
/// not any more. SMBDIRECT_EVENT_REPLY brings `cookie` back.
///
/// - Owns: everything is copied.
/// - Threads: one at a time.
/// - Blocks: never.
/// - Fork: SMBDIRECT_E_FORKED.
/// - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_AGAIN,
///   SMBDIRECT_E_DETACHED; in the event SMBDIRECT_E_TAKEN, SMBDIRECT_E_LIMIT,
///   SMBDIRECT_E_NO_OWNER.
///
/// # Safety
///
/// `device` is a live handle; `session` leads to a structure whose `type_size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smbdirect_device_set_session_id(
    device: *mut smbdirect_device,
    cookie: u64,
    session: *const smbdirect_session,
) -> i32 {
    let call = |handle: &mut Handle| {
        // SAFETY: the caller's promise.
        let session = unsafe { input(session) }?;
        if session.remove > 1 || session.client_guid == [0; 16] || session.reserved != [0; 2] {
            return Err(Status::Invalid);
        }
        let remove = session.remove == 1;
        handle.set_session_id(cookie, session.client_guid, session.session_id, remove)
    };
    // SAFETY: the caller's promise.
    unsafe { with_device(device, call) }
}

/// The token at `token`, which is not 0.
///
/// # Safety
///
/// `token` is null or leads to 16 bytes.
unsafe fn some_token(token: *const u8) -> Result<[u8; 16], Status> {
    // SAFETY: the caller's promise.
    let token = unsafe { sixteen(token) }?;
    if token == [0; 16] {
        return Err(Status::Invalid);
    }
    Ok(token)
}

/// Claims the connection of a token (16 bytes), of a worker that is attached already.
/// SMBDIRECT_EVENT_REPLY brings `cookie` back; if it says SMBDIRECT_OK, SMBDIRECT_EVENT_CONNECTION
/// follows or has come. The reply may take as long as the device has no memory to tell of it.
///
/// - Owns: everything is copied.
/// - Threads: one at a time.
/// - Blocks: never.
/// - Fork: SMBDIRECT_E_FORKED.
/// - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_AGAIN,
///   SMBDIRECT_E_DETACHED; in the event SMBDIRECT_E_NO_TOKEN, or why the connection ended first.
///
/// # Safety
///
/// `device` is a live handle; `token` leads to 16 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smbdirect_device_claim(
    device: *mut smbdirect_device,
    cookie: u64,
    token: *const u8,
) -> i32 {
    let call = |handle: &mut Handle| {
        // SAFETY: the caller's promise.
        let token = unsafe { some_token(token) }?;
        handle.claim(cookie, token)
    };
    // SAFETY: the caller's promise.
    unsafe { with_device(device, call) }
}

/// Declines a connection that was offered with `token` (16 bytes), of a listener: the device closes
/// it at once. SMBDIRECT_EVENT_REPLY brings `cookie` back.
///
/// - Owns: everything is copied.
/// - Threads: one at a time.
/// - Blocks: never.
/// - Fork: SMBDIRECT_E_FORKED.
/// - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_AGAIN,
///   SMBDIRECT_E_DETACHED; in the event SMBDIRECT_E_NO_TOKEN: nothing waits for that token any more.
///
/// # Safety
///
/// `device` is a live handle; `token` leads to 16 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smbdirect_device_decline(
    device: *mut smbdirect_device,
    cookie: u64,
    token: *const u8,
) -> i32 {
    let call = |handle: &mut Handle| {
        // SAFETY: the caller's promise.
        let token = unsafe { some_token(token) }?;
        handle.decline(cookie, token)
    };
    // SAFETY: the caller's promise.
    unsafe { with_device(device, call) }
}

/// The addresses at which clients reach the device, as of the last event that was taken: for
/// FSCTL_QUERY_NETWORK_INTERFACE_INFO ([MS-SMB2] 2.2.32.5). `*count_out` says how many there are,
/// at most SMBDIRECT_ADDRESSES_MAX; `addresses` gets the first `count` of them. They are there with
/// SMBDIRECT_EVENT_ATTACHED, and change without an event of their own.
///
/// - Owns: the array is the caller's; the first element's `type_size` has to be set. With a `count`
///   of 0 it may be null.
/// - Threads: one at a time.
/// - Blocks: never.
/// - Fork: SMBDIRECT_E_FORKED.
/// - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_DETACHED.
///
/// # Safety
///
/// `device` is a live handle; `addresses` leads to `count` structures, `count_out` to a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smbdirect_device_get_addresses(
    device: *mut smbdirect_device,
    addresses: *mut smbdirect_address,
    count: u32,
    count_out: *mut u32,
) -> i32 {
    let call = |handle: &mut Handle| {
        if count_out.is_null() {
            return Err(Status::Invalid);
        }
        let mut known = handle.addresses()?;
        // At most `MAX_ADDRESSES`.
        let total = known.len() as u32;
        if count > 0 {
            // SAFETY: the caller's promise.
            let mut output = unsafe { Output::new(addresses) }?;
            known = known.get(..count as usize).unwrap_or(known);
            for (n, address) in known.iter().enumerate() {
                output.write(n, address_of(output.type_size(), address));
            }
        }
        // SAFETY: the caller's promise.
        unsafe { put(count_out, total) }
    };
    // SAFETY: the caller's promise.
    unsafe { with_device(device, call) }
}
