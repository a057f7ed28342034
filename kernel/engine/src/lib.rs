// SPDX-License-Identifier: GPL-2.0-or-later

//! The smbdirect device in Linux's kernel: the engine that smbdirectd uses too, with what a kernel provides.
//!
//! ```text
//!   process --ioctl, mmap, poll--> glue/dev.c  --> calls --> device --> Shard ---> fabric --> glue/conn.c --> ib_verbs
//!   ib_verbs, rdma_cm --> glue/conn.c --> work item --------^               '--> process (its inbox, its memory)
//! ```
//!
//! | module | is |
//! |---|---|
//! | `ffi` | the C side, in both directions; the only place with `unsafe` |
//! | `fabric` | connections of RDMA devices |
//! | `process` | an attached process |
//! | `device` | the device: attaching, detaching, memory, and the one shard |
//! | `calls` | the `ioctl`s |
//! | `status` | the records of the status |
//!
//! Everything runs in process context, under one lock for the shard. Small allocations do not fail there, so the engine
//! may use collections. Memory whose length a peer or a process chooses comes from `ffi::Pages`, which may fail.

#![no_std]

extern crate alloc;

mod calls;
mod device;
mod fabric;
#[allow(unsafe_code)]
mod ffi;
mod process;
mod status;
