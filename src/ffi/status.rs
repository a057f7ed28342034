// SPDX-License-Identifier: GPL-2.0-or-later

//! Versions, and the meaning of status numbers.

use std::ffi::c_char;

use crate::device::Status;

/// The major part of the library's version.
pub const SMBDIRECT_VERSION_MAJOR: u32 = 0;
/// The minor part of the library's version.
pub const SMBDIRECT_VERSION_MINOR: u32 = 1;
/// The patch level of the library's version.
pub const SMBDIRECT_VERSION_PATCH: u32 = 0;

/// The number in the name of the shared library, libsmbdirect.so.0. It changes whenever a program that was compiled
/// with an earlier header would not work with this library.
pub const SMBDIRECT_ABI_VERSION: u32 = 0;

/// Returns the SMBDIRECT_ABI_VERSION that the library was built with.
///
/// - Owns: nothing.
/// - Threads: any.
/// - Blocks: never.
/// - Fork: works in the child.
/// - Errors: none.
#[unsafe(no_mangle)]
pub extern "C" fn smbdirect_abi_version() -> u32 {
    SMBDIRECT_ABI_VERSION
}

/// Returns the meaning of a status, in English, for a log, or "unknown status" for a number that is not a status.
///
/// - Owns: the library keeps the string, which stays valid for ever.
/// - Threads: any.
/// - Blocks: never.
/// - Fork: works in the child.
/// - Errors: none.
#[unsafe(no_mangle)]
pub extern "C" fn smbdirect_status_str(status: i32) -> *const c_char {
    let text = match Status::from_code(status) {
        Some(status) => status.text(),
        None => c"unknown status",
    };
    text.as_ptr()
}

/// Returns the errno value nearest to a status: 0 for SMBDIRECT_OK, and EIO for a number that is not a status.
///
/// - Owns: nothing.
/// - Threads: any.
/// - Blocks: never.
/// - Fork: works in the child.
/// - Errors: none.
#[unsafe(no_mangle)]
pub extern "C" fn smbdirect_status_errno(status: i32) -> i32 {
    Status::from_code(status).map_or(libc::EIO, Status::errno)
}
