// SPDX-License-Identifier: GPL-2.0-or-later

//! `libibverbs` and `librdmacm` behind types that cannot be misused: the only place in this fabric where `unsafe` is
//! allowed.
//!
//! Each object that the libraries make is owned by one value and ends with it, in the order that the libraries require:
//! events are acknowledged as they are taken, a queue pair ends before its completion queue and its memory regions,
//! these end before their protection domain, and all of them before the identifier that names the device. Every address
//! that a device is given lies in a [`Memory`] that is held until its registration has ended.
//!
//! Both libraries may be called from any thread; the values here may move between threads, but threads do not share
//! them.
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
