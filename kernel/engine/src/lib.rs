// SPDX-License-Identifier: GPL-2.0-or-later

//! The smbdirect device in Linux's kernel: the engine that smbdirectd uses too, with what a kernel provides.
//!
//! ```text
//!   process --ioctl, mmap, poll--> glue/dev.c --> calls --> device --> cell --> Shard --> fabric --> glue/conn.c --> ib_verbs
//!   ib_verbs, rdma_cm --> glue/shard.c --> work item --------^                    '--> process (its inbox, its memory)
//! ```
//!
//! | module | is |
//! |---|---|
//! | `ffi` | the C side, in both directions; the only place with `unsafe` |
//! | `fabric` | connections of RDMA devices |
//! | `process` | an attached process |
//! | `cell` | a shard with its lock and its mail; which lock guards what |
//! | `config` | what the device allows |
//! | `device` | the device: attaching, detaching, memory, and which cells there are |
//! | `calls` | the `ioctl`s |
//! | `status` | the records of the status |
//!
//! Everything runs in process context, a shard under its lock. Small allocations do not fail there, so the engine
//! may use collections. Memory whose length a peer or a process chooses comes from `ffi::Pages`, which may fail.

#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod calls;
mod cell;
mod config;
mod device;
mod fabric;
#[allow(unsafe_code)]
mod ffi;
#[cfg(test)]
#[allow(unsafe_code)]
mod host;
mod process;
mod status;
#[cfg(test)]
#[allow(unsafe_code)]
mod tests;
