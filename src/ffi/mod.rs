// SPDX-License-Identifier: GPL-2.0-or-later

//! The C ABI: all `extern "C"` functions that the crate exports.
//!
//! | file | holds |
//! |---|---|
//! | `types` | the structures and constants that C sees |
//! | `convert` | the conversion of the library's values to these structures |
//! | `pointer` | every conversion of a pointer from C, and every panic fence |
//! | `device`, `ask`, `conn`, `request`, `status` | the functions, by object; `ask` has requests to the device |
//!
//! `include/smbdirect.h` is generated from this module and checked in; `instruments/tests/header` compares the two
//! and checks that the libraries do what the header says.
//!
//! These rules hold: a null pointer leads to `SMBDIRECT_E_INVALID`, except for `smbdirect_device_free`; outputs are
//! written on success only; structures begin with their size, so that both sides may add fields; a panic poisons its
//! handle and becomes `SMBDIRECT_E_PANIC`. Nothing here blocks, starts a thread, installs a signal handler, calls back
//! into C, or keeps state of its own.

mod ask;
mod conn;
mod convert;
mod device;
mod pointer;
mod request;
mod status;
mod types;

pub use ask::*;
pub use conn::*;
pub use device::*;
pub use request::*;
pub use status::*;
pub use types::*;
