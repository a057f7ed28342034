// SPDX-License-Identifier: GPL-2.0-or-later

//! `libibverbs` and `librdmacm` behind types that cannot be misused: the place of this fabric where
//! `unsafe` is allowed.
//!
//! What the libraries make is owned by one value each and ends with it, in the order that they ask
//! for: events are acknowledged as they are taken, a queue pair ends before its completion queue
//! and its memory regions, those before their protection domain, and all of them before the
//! identifier that names the device. Every address that a device is given lies in a [`Memory`] that is
//! held until its registration has ended.
//!
//! Both libraries may be called from any thread; what is here may move between threads and is not
//! shared by them.
//!
//! [`Memory`]: crate::sys::Memory

mod abi;
mod cm;
mod endpoint;
#[cfg(test)]
mod layout;
mod library;
mod objects;

pub(super) use cm::{Channel, CmEvent, CmId, Depths, Device, Kind};
pub(super) use endpoint::{
    AsyncEvent, AsyncKind, Completed, Endpoint, Operation, Piece, WorkRequest,
};
