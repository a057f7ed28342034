// SPDX-License-Identifier: GPL-2.0-or-later

//! Requests to the device as a whole: parameters, addresses, and which process owns a connection.

use std::ffi::c_void;

use super::convert::address_of;
use super::pointer::{Output, bytes, input, inputs, put, sixteen, with_device};
use super::types::*;
use crate::device::abi::{
    AllowedAddress, ClientNote, MAX_ADDRESSES, MAX_ALLOWED_ADDRESSES, SetParameters, encrypted,
    note, protection,
};
use crate::device::{Handle, Status};

const _: () = assert!(SMBDIRECT_ADDRESSES_MAX as usize == MAX_ADDRESSES);
const _: () = assert!(SMBDIRECT_ALLOWED_ADDRESSES_MAX as usize == MAX_ALLOWED_ADDRESSES);
const _: () = assert!(
    SMBDIRECT_NOTE_NEGOTIATED == note::NEGOTIATED
        && SMBDIRECT_NOTE_ASKED == note::ASKED
        && SMBDIRECT_NOTE_WITHHELD == note::WITHHELD
        && SMBDIRECT_NOTE_SESSION == note::SESSION
        && SMBDIRECT_NOTE_REFUSED == note::REFUSED
        && SMBDIRECT_NOTE_ENCRYPTED == note::ENCRYPTED
        && SMBDIRECT_NOTE_MULTICHANNEL == note::MULTICHANNEL
        && SMBDIRECT_PROTECTION_PLAIN == protection::PLAIN
        && SMBDIRECT_PROTECTION_SIGNED == protection::SIGNED
        && SMBDIRECT_PROTECTION_ENCRYPTED == protection::ENCRYPTED
        && SMBDIRECT_PROTECTION_SIGNED_IN_MESSAGES == protection::SIGNED_IN_MESSAGES
        && SMBDIRECT_PROTECTION_ENCRYPTED_IN_MESSAGES == protection::ENCRYPTED_IN_MESSAGES
        && SMBDIRECT_ENCRYPTED_BY_SHARE == encrypted::BY_SHARE
        && SMBDIRECT_ENCRYPTED_BY_CLIENT == encrypted::BY_CLIENT
        && SMBDIRECT_ENCRYPTED_IN_MESSAGES == encrypted::IN_MESSAGES
);

/// SET_SMBD_PARAMETERS, listeners only: sets parameters for connections that the device accepts from now on.
/// SMBDIRECT_EVENT_REPLY brings `cookie` back.
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
/// `device` is a live handle; `parameters` points to a structure whose `type_size` is set;
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
        // SAFETY: `parameters` points to a structure whose `type_size` is set, as `# Safety`
        // demands.
        let wanted = unsafe { input(parameters) }?;
        // SAFETY: `security_blob` points to `security_blob_length` bytes, as `# Safety` demands.
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
    // SAFETY: `device` is a live handle, as `# Safety` demands.
    unsafe { with_device(device, call) }
}

/// Listeners only: sets the server addresses that clients may use, instead of those that this or an earlier listener
/// set. With SMBDIRECT_ADDRESSES_ALL in `flags`, all addresses are allowed, and `count` must be 0; otherwise only the
/// `count` addresses are allowed, and none if `count` is 0. SMBDIRECT_EVENT_REPLY brings `cookie` back. From then on
/// the device refuses connections to other addresses before it reads anything, and smbdirect_device_get_addresses does
/// not return those addresses. Existing connections to other addresses end with SMBDIRECT_E_ADDRESS.
///
/// This may be called at any time, whenever something changes. The list stays in force when the listener detaches, and
/// the next listener begins with it. A device that was never given a list allows all addresses.
///
/// - Owns: everything is copied. The `type_size` of the first element must be set; an address may occur twice. With a
///   `count` of 0, `addresses` may be null.
/// - Threads: one at a time.
/// - Blocks: never.
/// - Fork: SMBDIRECT_E_FORKED.
/// - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_TOO_LONG (more than
///   SMBDIRECT_ALLOWED_ADDRESSES_MAX), SMBDIRECT_E_AGAIN, SMBDIRECT_E_DETACHED; in the event
///   SMBDIRECT_E_INVALID.
///
/// # Safety
///
/// `device` is a live handle; `addresses` points to `count` structures.
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
        // SAFETY: `addresses` points to `count` structures, as `# Safety` demands.
        let addresses = unsafe { inputs(addresses, count) }?;
        let allowed: Result<Vec<_>, Status> = addresses.map(allowed).collect();
        handle.set_addresses(cookie, Some(&allowed?))
    };
    // SAFETY: `device` is a live handle, as `# Safety` demands.
    unsafe { with_device(device, call) }
}

/// Listeners only: tells the device what smbd knows about a client, even one that uses only TCP. The device shows the
/// note in its status, so that administrators see why a client does not use RDMA. A note changes nothing else, is not
/// answered, and is lost if it cannot be sent now. A device that does not keep notes, such as the kernel's, ignores the
/// note.
///
/// - Owns: everything is copied.
/// - Threads: one at a time.
/// - Blocks: never.
/// - Fork: SMBDIRECT_E_FORKED.
/// - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_DETACHED; SMBDIRECT_E_AGAIN: the device has not
///   read many earlier messages, and SMBDIRECT_EVENT_ROOM does not follow.
///
/// # Safety
///
/// `device` is a live handle; `note` points to a structure whose `type_size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smbdirect_device_note_client(
    device: *mut smbdirect_device,
    note: *const smbdirect_client_note,
) -> i32 {
    let call = |handle: &mut Handle| {
        // SAFETY: `note` points to a structure whose `type_size` is set, as `# Safety` demands.
        let note = unsafe { input(note) }?;
        if note.note == 0 || note.reserved16 != 0 || note.reserved != [0; 2] {
            return Err(Status::Invalid);
        }
        handle.note_client(&ClientNote {
            address: note.address,
            note: note.note,
            port: note.port,
            value: note.value,
            local_address: note.local_address,
            local_port: note.local_port,
            reserved: 0,
        })
    };
    // SAFETY: `device` is a live handle, as `# Safety` demands.
    unsafe { with_device(device, call) }
}

/// SET_SMBD_SESSION_ID, workers only: registers this process for the connections of a client, or removes that
/// registration. SMBDIRECT_EVENT_REPLY brings `cookie` back.
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
/// `device` is a live handle; `session` points to a structure whose `type_size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smbdirect_device_set_session_id(
    device: *mut smbdirect_device,
    cookie: u64,
    session: *const smbdirect_session,
) -> i32 {
    let call = |handle: &mut Handle| {
        // SAFETY: `session` points to a structure whose `type_size` is set, as `# Safety` demands.
        let session = unsafe { input(session) }?;
        if session.remove > 1 || session.client_guid == [0; 16] || session.reserved != [0; 2] {
            return Err(Status::Invalid);
        }
        let remove = session.remove == 1;
        handle.set_session_id(cookie, session.client_guid, session.session_id, remove)
    };
    // SAFETY: `device` is a live handle, as `# Safety` demands.
    unsafe { with_device(device, call) }
}

/// Reads the token at `token`, and refuses an all-zero token.
///
/// # Safety
///
/// `token` is null or points to 16 bytes.
unsafe fn some_token(token: *const u8) -> Result<[u8; 16], Status> {
    // SAFETY: `token` is null or points to 16 bytes, as `# Safety` demands.
    let token = unsafe { sixteen(token) }?;
    if token == [0; 16] {
        return Err(Status::Invalid);
    }
    Ok(token)
}

/// Workers only, once attached: claims the connection that `token` (16 bytes) names. SMBDIRECT_EVENT_REPLY brings
/// `cookie` back; if it says SMBDIRECT_OK, SMBDIRECT_EVENT_CONNECTION follows or has come. The reply waits until the
/// device has memory to report the connection.
///
/// - Owns: everything is copied.
/// - Threads: one at a time.
/// - Blocks: never.
/// - Fork: SMBDIRECT_E_FORKED.
/// - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_AGAIN,
///   SMBDIRECT_E_DETACHED; in the event SMBDIRECT_E_NO_TOKEN, or the reason why the connection ended
///   first.
///
/// # Safety
///
/// `device` is a live handle; `token` points to 16 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smbdirect_device_claim(
    device: *mut smbdirect_device,
    cookie: u64,
    token: *const u8,
) -> i32 {
    let call = |handle: &mut Handle| {
        // SAFETY: `token` points to 16 bytes, as `# Safety` demands.
        let token = unsafe { some_token(token) }?;
        handle.claim(cookie, token)
    };
    // SAFETY: `device` is a live handle, as `# Safety` demands.
    unsafe { with_device(device, call) }
}

/// Listeners only: declines the connection that was offered with `token` (16 bytes), which the device closes at once.
/// SMBDIRECT_EVENT_REPLY brings `cookie` back.
///
/// - Owns: everything is copied.
/// - Threads: one at a time.
/// - Blocks: never.
/// - Fork: SMBDIRECT_E_FORKED.
/// - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_AGAIN, SMBDIRECT_E_DETACHED; in the event
///   SMBDIRECT_E_NO_TOKEN (no connection with that token is waiting).
///
/// # Safety
///
/// `device` is a live handle; `token` points to 16 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smbdirect_device_decline(
    device: *mut smbdirect_device,
    cookie: u64,
    token: *const u8,
) -> i32 {
    let call = |handle: &mut Handle| {
        // SAFETY: `token` points to 16 bytes, as `# Safety` demands.
        let token = unsafe { some_token(token) }?;
        handle.decline(cookie, token)
    };
    // SAFETY: `device` is a live handle, as `# Safety` demands.
    unsafe { with_device(device, call) }
}

/// Writes the addresses on which clients reach the device, for FSCTL_QUERY_NETWORK_INTERFACE_INFO ([MS-SMB2] 2.2.32.5).
/// These are the addresses known when the caller last took an event. `*count_out` says how many there are, at most
/// SMBDIRECT_ADDRESSES_MAX; `addresses` gets the first `count` of them. The list is complete once
/// SMBDIRECT_EVENT_ATTACHED has come, and changes without an event of its own.
///
/// - Owns: the array is the caller's; the `type_size` of its first element must be set. With a
///   `count` of 0 it may be null.
/// - Threads: one at a time.
/// - Blocks: never.
/// - Fork: SMBDIRECT_E_FORKED.
/// - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_DETACHED.
///
/// # Safety
///
/// `device` is a live handle; `addresses` points to `count` structures, `count_out` to a number.
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
        // The length is at most `MAX_ADDRESSES`.
        let total = known.len() as u32;
        if count > 0 {
            // SAFETY: `addresses` points to `count` structures, as `# Safety` demands.
            let mut output = unsafe { Output::new(addresses) }?;
            known = known.get(..count as usize).unwrap_or(known);
            for (n, address) in known.iter().enumerate() {
                output.write(n, address_of(output.type_size(), address));
            }
        }
        // SAFETY: `count_out` points to a number, as `# Safety` demands.
        unsafe { put(count_out, total) }
    };
    // SAFETY: `device` is a live handle, as `# Safety` demands.
    unsafe { with_device(device, call) }
}
