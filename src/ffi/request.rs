// SPDX-License-Identifier: GPL-2.0-or-later

//! What an SMB2 request says about RDMA.

use std::ffi::c_void;

use super::pointer::{Output, bytes, fence, put};
use super::types::{smbdirect_transfer, smbdirect_transform};
use crate::device::{Status, request};

/// Parses an SMB2 READ or WRITE request, and returns where in the client's memory its data is.
///
/// `request` is a decrypted message, or one element of a compound, and begins with its SMB2 header.
/// The caller must check that the dialect allows the channel, and that the transfer's `length` is
/// within the negotiated limits.
///
/// - Owns: `transfer_out` is the caller's; the library keeps nothing.
/// - Threads: any.
/// - Blocks: never.
/// - Fork: works in the child.
/// - Errors: SMBDIRECT_E_INVALID; SMBDIRECT_E_REQUEST: not a READ or WRITE, a channel that is not
///   supported, or fields that contradict each other; SMBDIRECT_E_DESCRIPTORS;
///   SMBDIRECT_E_DESCRIPTORS_TOO_SHORT.
///
/// # Safety
///
/// `request` points to `length` bytes; `transfer_out` to a structure whose `type_size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smbdirect_request_transfer(
    request: *const c_void,
    length: u64,
    transfer_out: *mut smbdirect_transfer,
) -> i32 {
    fence(|| {
        // SAFETY: `request` points to `length` bytes, as `# Safety` demands.
        let request = unsafe { bytes(request, length) }?;
        // SAFETY: `transfer_out` points to a structure whose `type_size` is set, as `# Safety`
        // demands.
        let mut output = unsafe { Output::new(transfer_out) }?;
        let transfer = request::transfer(request)?;
        let number = |value: usize| u32::try_from(value).map_err(|_| Status::Invalid);
        let mut value = smbdirect_transfer {
            type_size: output.type_size(),
            channel: 0,
            length: 0,
            descriptors_offset: 0,
            descriptors_length: 0,
            reserved32: 0,
            reserved: [0; 2],
        };
        if let Some(transfer) = transfer {
            value.channel = transfer.channel;
            value.length = transfer.length;
            value.descriptors_offset = number(transfer.descriptors_offset)?;
            value.descriptors_length = number(transfer.descriptors_length)?;
        }
        output.write(0, value);
        Ok(())
    })
}

/// Parses an SMB2 WRITE request over channel 3, and returns how its data is protected ([MS-SMB2] 2.2.43) and where in
/// the client's memory it is.
///
/// `request` is as in smbdirect_request_transfer, which refuses channel 3. The caller must check that the connection
/// negotiated the transform, that the message was protected in the same way, that signature and nonce have the lengths
/// that the algorithm needs, and that `length` is within the negotiated limits.
///
/// - Owns: `transform_out` is the caller's; the library keeps nothing.
/// - Threads: any.
/// - Blocks: never.
/// - Fork: works in the child.
/// - Errors: SMBDIRECT_E_INVALID; SMBDIRECT_E_REQUEST: not a WRITE over channel 3, a malformed transform, not
///   exactly one transform, or fields that contradict each other; SMBDIRECT_E_DESCRIPTORS;
///   SMBDIRECT_E_DESCRIPTORS_TOO_SHORT.
///
/// # Safety
///
/// `request` points to `length` bytes; `transform_out` to a structure whose `type_size` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smbdirect_request_transform(
    request: *const c_void,
    length: u64,
    transform_out: *mut smbdirect_transform,
) -> i32 {
    fence(|| {
        // SAFETY: `request` points to `length` bytes, as `# Safety` demands.
        let request = unsafe { bytes(request, length) }?;
        // SAFETY: `transform_out` points to a structure whose `type_size` is set, as `# Safety`
        // demands.
        let mut output = unsafe { Output::new(transform_out) }?;
        let transform = request::transform(request)?;
        let number = |value: usize| u32::try_from(value).map_err(|_| Status::Invalid);
        let value = smbdirect_transform {
            type_size: output.type_size(),
            transform_type: transform.transform_type.into(),
            length: transform.length,
            descriptors_offset: number(transform.descriptors_offset)?,
            descriptors_length: number(transform.descriptors_length)?,
            signature_offset: number(transform.signature_offset)?,
            signature_length: number(transform.signature_length)?,
            nonce_offset: number(transform.nonce_offset)?,
            nonce_length: number(transform.nonce_length)?,
            reserved32: 0,
            reserved: [0; 2],
        };
        output.write(0, value);
        Ok(())
    })
}

/// Parses an SMB2 request, and returns whether each final response to it, including an error, must invalidate a token
/// (channel 2, or channel 3 with a transform that asks for this, [MS-SMB2] 3.3.4.1.7). If so, `*invalidate_out` is 1
/// and `*token_out` is the token; otherwise, and for anything but a READ or WRITE request, both are 0.
///
/// - Owns: the library keeps nothing.
/// - Threads: any.
/// - Blocks: never.
/// - Fork: works in the child.
/// - Errors: SMBDIRECT_E_INVALID: a null pointer.
///
/// # Safety
///
/// `request` points to `length` bytes; each of the others to a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smbdirect_request_invalidate(
    request: *const c_void,
    length: u64,
    invalidate_out: *mut u32,
    token_out: *mut u32,
) -> i32 {
    fence(|| {
        // SAFETY: `request` points to `length` bytes, as `# Safety` demands.
        let request = unsafe { bytes(request, length) }?;
        if invalidate_out.is_null() || token_out.is_null() {
            return Err(Status::Invalid);
        }
        let token = request::token_to_invalidate(request);
        // SAFETY: `invalidate_out` points to a number, as `# Safety` demands.
        unsafe { put(invalidate_out, u32::from(token.is_some())) }?;
        // SAFETY: `token_out` points to a number, as `# Safety` demands.
        unsafe { put(token_out, token.map_or(0, |token| token.0)) }
    })
}

/// Checks a list of buffer descriptors ([MS-SMBD] 2.2.3.1) and adds up their lengths.
///
/// - Owns: the library keeps nothing.
/// - Threads: any.
/// - Blocks: never.
/// - Fork: works in the child.
/// - Errors: SMBDIRECT_E_INVALID: a null pointer; SMBDIRECT_E_DESCRIPTORS: none, not a multiple
///   of 16 bytes, one of length 0, or one that runs past the end of the address space.
///
/// # Safety
///
/// `descriptors` points to `length` bytes, `total_out` to a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smbdirect_descriptors_check(
    descriptors: *const c_void,
    length: u64,
    total_out: *mut u64,
) -> i32 {
    fence(|| {
        // SAFETY: `descriptors` points to `length` bytes, as `# Safety` demands.
        let descriptors = unsafe { bytes(descriptors, length) }?;
        if total_out.is_null() {
            return Err(Status::Invalid);
        }
        let total = request::described_length(descriptors)?;
        // SAFETY: `total_out` points to a number, as `# Safety` demands.
        unsafe { put(total_out, total) }
    })
}
