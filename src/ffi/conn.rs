// SPDX-License-Identifier: GPL-2.0-or-later

//! What is done to one connection.

use std::ffi::c_void;

use super::convert::conn_info_of;
use super::pointer::{Output, bytes, sixteen, with_device};
use super::types::{smbdirect_conn_info, smbdirect_device};
use crate::device::Status;

/// What is known about a connection, and what is under way on it.
///
/// `unsent_bytes` is what the peer's network has not acknowledged: what a server asks TCP for with
/// SIOCOUTQ.
///
/// - Owns: `info_out` is the caller's.
/// - Threads: one at a time.
/// - Blocks: never.
/// - Fork: SMBDIRECT_E_FORKED.
/// - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_NO_CONNECTION,
///   SMBDIRECT_E_DETACHED.
///
/// # Safety
///
/// `device` is a live handle; `info_out` leads to a structure whose `type_size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smbdirect_conn_get_info(
    device: *mut smbdirect_device,
    conn: u64,
    info_out: *mut smbdirect_conn_info,
) -> i32 {
    let call = |handle: &mut crate::device::Handle| {
        // SAFETY: the caller's promise.
        let mut output = unsafe { Output::new(info_out) }?;
        let (known, counts) = (handle.conn_info(conn)?, handle.conn_counts(conn)?);
        output.write(0, conn_info_of(output.type_size(), &known, counts));
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { with_device(device, call) }
}

/// Ends a connection in order: what was taken to be sent goes first. SMBDIRECT_EVENT_DISCONNECTED
/// follows; until then its number is known, and messages may still come. A second call has no effect.
///
/// - Owns: nothing.
/// - Threads: one at a time.
/// - Blocks: never.
/// - Fork: SMBDIRECT_E_FORKED.
/// - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_NO_CONNECTION,
///   SMBDIRECT_E_DETACHED.
///
/// # Safety
///
/// `device` is a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smbdirect_conn_disconnect(
    device: *mut smbdirect_device,
    conn: u64,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { with_device(device, |handle| handle.disconnect(conn)) }
}

/// Says that a user is on a connection: call it after each successful SESSION_SETUP with credentials on
/// it, also one that binds the connection to a session, and when a share lets a guest in. An anonymous
/// session alone is no user. Until the first call the device treats the client as a stranger: few of them
/// are let in from one address, each for a short time (`login_timeout` in the device's configuration),
/// with messages of at most 64 KiB and a few credits. A second call has no effect, and a connection that
/// is transferred afterwards stays authenticated.
///
/// - Owns: nothing.
/// - Threads: one at a time.
/// - Blocks: never.
/// - Fork: SMBDIRECT_E_FORKED.
/// - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_NO_CONNECTION,
///   SMBDIRECT_E_DETACHED.
///
/// # Safety
///
/// `device` is a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smbdirect_conn_set_authenticated(
    device: *mut smbdirect_device,
    conn: u64,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { with_device(device, |handle| handle.set_authenticated(conn)) }
}

/// Gives a connection to the worker that has registered `client_guid` (16 bytes), or, with a null
/// pointer, to whoever claims the token that SMBDIRECT_EVENT_TRANSFERRED brings. The message at `pdu`
/// becomes the first that the new owner receives: the NEGOTIATE request that told whose it is.
/// Nothing else may be under way on the connection (SMBDIRECT_E_BUSY). If the event says anything but
/// SMBDIRECT_OK, the connection is still this process'.
///
/// - Owns: `pdu` is copied before the call returns.
/// - Threads: one at a time.
/// - Blocks: never.
/// - Fork: SMBDIRECT_E_FORKED.
/// - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_NO_CONNECTION,
///   SMBDIRECT_E_BUSY, SMBDIRECT_E_TOO_LONG, SMBDIRECT_E_AGAIN, SMBDIRECT_E_NO_MEMORY,
///   SMBDIRECT_E_DETACHED; in the event SMBDIRECT_E_NO_OWNER, SMBDIRECT_E_INVALID (this process is
///   the owner), SMBDIRECT_E_BUSY (a message has not been taken), SMBDIRECT_E_TOO_LONG (more than
///   64 KiB), SMBDIRECT_E_LIMIT, SMBDIRECT_E_FLUSHED.
///
/// # Safety
///
/// `device` is a live handle; `client_guid` is null or leads to 16 bytes; `pdu` leads to `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smbdirect_conn_transfer(
    device: *mut smbdirect_device,
    conn: u64,
    cookie: u64,
    client_guid: *const u8,
    pdu: *const c_void,
    length: u64,
) -> i32 {
    let call = |handle: &mut crate::device::Handle| {
        let client_guid = if client_guid.is_null() {
            None
        } else {
            // SAFETY: the caller's promise.
            Some(unsafe { sixteen(client_guid) }?)
        };
        if client_guid == Some([0; 16]) {
            return Err(Status::Invalid);
        }
        // SAFETY: the caller's promise.
        let pdu = unsafe { bytes(pdu, length) }?;
        handle.transfer(conn, cookie, client_guid, pdu)
    };
    // SAFETY: the caller's promise.
    unsafe { with_device(device, call) }
}
