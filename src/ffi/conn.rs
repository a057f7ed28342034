// SPDX-License-Identifier: GPL-2.0-or-later

//! Calls on one connection.

use std::ffi::c_void;

use super::convert::conn_info_of;
use super::pointer::{Output, bytes, sixteen, with_device};
use super::types::{smbdirect_conn_info, smbdirect_device};
use crate::device::Status;

/// Writes what is known about a connection, and what is under way on it.
///
/// `unsent_bytes` counts the bytes that the peer's network has not acknowledged, as SIOCOUTQ does for TCP.
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
/// `device` is a live handle; `info_out` points to a structure whose `type_size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smbdirect_conn_get_info(
    device: *mut smbdirect_device,
    conn: u64,
    info_out: *mut smbdirect_conn_info,
) -> i32 {
    let call = |handle: &mut crate::device::Handle| {
        // SAFETY: `info_out` points to a structure whose `type_size` is set, as `# Safety` demands.
        let mut output = unsafe { Output::new(info_out) }?;
        let (known, counts) = (handle.conn_info(conn)?, handle.conn_counts(conn)?);
        output.write(0, conn_info_of(output.type_size(), &known, counts));
        Ok(())
    };
    // SAFETY: `device` is a live handle, as `# Safety` demands.
    unsafe { with_device(device, call) }
}

/// Ends a connection gracefully: messages that were already taken are sent first.
/// SMBDIRECT_EVENT_DISCONNECTED follows; until then the connection's number stays valid, and messages may
/// still arrive. A second call has no effect.
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
    // SAFETY: `device` is a live handle, as `# Safety` demands.
    unsafe { with_device(device, |handle| handle.disconnect(conn)) }
}

/// Lends a buffer for the data of the next WRITE on a connection. If the next request is a WRITE by RDMA whose session
/// is registered, if the buffer is long enough, and if nothing else is under way, the device fetches the data before
/// SMBDIRECT_EVENT_PDU announces the request; the event then names the buffer, and the caller need not fetch anything.
/// In all other cases requests come as usual, and the buffer stays lent. One buffer can be lent for each connection; a
/// longer one replaces a shorter one.
///
/// The device is not woken for this: a message on the same connection, or smbdirect_device_flush, wakes it.
///
/// - Owns: the library owns the buffer until an event names it. It frees the buffer when the connection
///   ends, or when memory is short. No thread of this process may read or write it meanwhile.
/// - Threads: one at a time.
/// - Blocks: never.
/// - Fork: SMBDIRECT_E_FORKED.
/// - Errors: after each, the buffer still belongs to the caller. SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED,
///   SMBDIRECT_E_NO_CONNECTION, SMBDIRECT_E_NO_BUFFER, SMBDIRECT_E_BUSY (a buffer at least as long is lent already, or
///   an RDMA operation uses this one, or the connection is being transferred), SMBDIRECT_E_NO_READS (the device is
///   older than this library, or the client does not serve RDMA READs), SMBDIRECT_E_AGAIN, SMBDIRECT_E_DETACHED.
///
/// # Safety
///
/// `device` is a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smbdirect_conn_fetch_ahead(
    device: *mut smbdirect_device,
    conn: u64,
    buffer: u64,
) -> i32 {
    // SAFETY: `device` is a live handle, as `# Safety` demands.
    unsafe { with_device(device, |handle| handle.fetch_ahead(conn, buffer)) }
}

/// Tells the device that a user has logged in on a connection. Call it after each successful SESSION_SETUP with
/// credentials, including one that binds the connection to a session, and when a share lets a guest in. An anonymous
/// session alone does not count. Until the first call, the device treats the client as a stranger: it accepts few of
/// them from one address, each for a short time (`login_timeout` in the device's configuration), with messages of at
/// most 64 KiB and a few credits. A second call has no effect, and a connection that is transferred afterwards stays
/// authenticated.
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
    // SAFETY: `device` is a live handle, as `# Safety` demands.
    unsafe { with_device(device, |handle| handle.set_authenticated(conn)) }
}

/// Gives a connection to the worker that has registered `client_guid` (16 bytes), or, with a null pointer, to the
/// worker that claims the token in SMBDIRECT_EVENT_TRANSFERRED. The new owner first receives the message at `pdu`: the
/// NEGOTIATE request that named the client. Nothing else may be under way on the connection (SMBDIRECT_E_BUSY). Unless
/// the event says SMBDIRECT_OK, the connection still belongs to this process.
///
/// - Owns: `pdu` is copied before the call returns.
/// - Threads: one at a time.
/// - Blocks: never.
/// - Fork: SMBDIRECT_E_FORKED.
/// - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_NO_CONNECTION,
///   SMBDIRECT_E_BUSY, SMBDIRECT_E_TOO_LONG, SMBDIRECT_E_AGAIN, SMBDIRECT_E_NO_MEMORY,
///   SMBDIRECT_E_DETACHED; in the event SMBDIRECT_E_NO_OWNER, SMBDIRECT_E_INVALID (this process
///   registered it), SMBDIRECT_E_BUSY (a message has not been taken), SMBDIRECT_E_TOO_LONG (more than
///   64 KiB), SMBDIRECT_E_LIMIT, SMBDIRECT_E_FLUSHED.
///
/// # Safety
///
/// `device` is a live handle; `client_guid` is null or points to 16 bytes; `pdu` points to `length` bytes.
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
            // SAFETY: `client_guid` points to 16 bytes, as `# Safety` demands; it is not null.
            Some(unsafe { sixteen(client_guid) }?)
        };
        if client_guid == Some([0; 16]) {
            return Err(Status::Invalid);
        }
        // SAFETY: `pdu` points to `length` bytes, as `# Safety` demands.
        let pdu = unsafe { bytes(pdu, length) }?;
        handle.transfer(conn, cookie, client_guid, pdu)
    };
    // SAFETY: `device` is a live handle, as `# Safety` demands.
    unsafe { with_device(device, call) }
}
