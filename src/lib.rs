// SPDX-License-Identifier: GPL-2.0-or-later

//! SMB Direct for Samba.
//!
//! SMB Direct ([MS-SMBD]) carries SMB 3 messages over RDMA: small messages as SENDs under a credit
//! scheme, file data by RDMA READ and RDMA WRITE that the server directs at memory the client has
//! registered. This crate holds the pieces a server and a client need, each in its own layer:
//!
//! ```text
//!   transport   SMB Direct connections on a fabric: messages in and out, RDMA, timers, limits
//!    |      |
//!  proto   fabric      proto:  the SMB Direct endpoint, without I/O and without a clock
//!    |      |          fabric: moves bytes: loopback, iWARP in user space (and faults on top)
//!  wire    sys         wire:   bytes <-> values: MS-SMBD messages and the slice of SMB2 a device reads
//!     \    /           sys:    memory that others may write, and the system calls on it
//!     units
//! ```
//!
//! On these stands the *smbdirect device*. SMB Direct connections cannot move between processes, and
//! smbd forks one for each client; so one process owns the connections, and smbd's share memory with it:
//!
//! ```text
//!   clients == SMB Direct ==> broker <-- control messages --> device <-- ffi <-- smbd, in C
//!                               |                                |
//!                               '---- shm: rings and buffers ----'
//! ```
//!
//! [`broker`] is the device in user space (`smbdirectd`), [`device`] the library that its users link, [`ffi`] the same
//! in C, and [`device::abi`] everything that passes between the two. [`shm`] has the rings and buffers in memory that
//! two processes share without trusting each other. What every device has to do, whatever it runs in, is in [`engine`]:
//! the broker is the engine with threads, sockets and software fabrics.
//! [`bridge`] stands on the transport alone: it brings clients that speak only TCP to an SMB Direct server.
//!
//! The other end, an SMB client that places file data directly, is in the package `instruments`, with the test
//! and benchmark programs.
//!
//! The endpoint knows no I/O, the fabric knows no SMB, the broker knows no rule of the protocol, and
//! smbd knows no Rust. `wire`, `proto` and the iWARP codecs in [`fabric::iwarp`] need no operating
//! system and allocate nothing after construction. The feature `engine` adds what a kernel needs, on `core` and
//! `alloc`: `engine`, `transport`, the trait of `fabric`, rings and buffers. smbd links the feature `ffi` alone,
//! which has no fabric, thread or logging; the default adds the `broker`.
//!
//! `unsafe` is allowed in `sys`, `shm::map`, `fabric::verbs::ffi` and `ffi` alone: memory that another
//! process or an RDMA peer may write at any time is reached by copies, atomic words and system calls there,
//! never through a reference that lasts.

#![cfg_attr(not(any(feature = "std", test)), no_std)]
#![deny(unsafe_code)]

extern crate alloc;

#[cfg(feature = "broker")]
pub mod bridge;
#[cfg(feature = "broker")]
pub mod broker;
#[cfg(any(feature = "engine", feature = "shm"))]
pub mod device;
#[cfg(feature = "engine")]
pub mod engine;
pub mod fabric;
#[cfg(feature = "ffi")]
#[allow(non_camel_case_types, unsafe_code)]
pub mod ffi;
pub mod proto;
#[cfg(any(feature = "engine", feature = "shm"))]
pub mod shm;
#[cfg(any(feature = "engine", feature = "shm"))]
#[allow(unsafe_code)]
pub mod sys;
#[cfg(feature = "engine")]
pub mod transport;
pub mod units;
pub mod wire;
