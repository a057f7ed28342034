// SPDX-License-Identifier: GPL-2.0-or-later

//! SMB Direct for Samba.
//!
//! SMB Direct ([MS-SMBD]) carries SMB 3 messages over RDMA: small messages as SENDs under a credit scheme, file data by
//! RDMA READ and RDMA WRITE that the server directs at memory that the client has registered. This crate holds the
//! pieces that a server and a client need, each in its own layer:
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
//! The *smbdirect device* is built on these. SMB Direct connections cannot move between processes, and smbd forks a
//! process for each client; so one process owns the connections, and smbd's processes share memory with it:
//!
//! ```text
//!   clients == SMB Direct ==> broker <-- control messages --> device <-- ffi <-- smbd, in C
//!                               |                                |
//!                               '---- shm: rings and buffers ----'
//! ```
//!
//! [`broker`] is the device in user space (`smbdirectd`), [`device`] is the library that its users link, [`ffi`] is the
//! same library in C, and [`device::abi`] is everything that passes between the two. [`shm`] has the rings and buffers
//! in memory that two processes share without trusting each other. [`engine`] does the work of every device, in a
//! process or in a kernel: the broker is the engine with threads, sockets and fabrics. [`bridge`] uses only the
//! transport: it brings clients that speak only TCP to an SMB Direct server.
//!
//! The other end, an SMB client that places file data directly, is in the package `instruments`, with the test
//! and benchmark programs.
//!
//! The endpoint does not do I/O, the fabric does not know SMB, the broker does not know any rule of the protocol, and
//! smbd does not contain Rust. `wire`, `proto` and the iWARP codecs in [`fabric::iwarp`] do not need an operating
//! system, and allocate nothing after construction. The feature `engine` adds what a kernel needs, on `core` and
//! `alloc`: `engine`, `transport`, the trait of `fabric`, rings and buffers. smbd links only the feature `ffi`, which
//! has no fabric, thread or logging; the default adds the `broker`.
//!
//! `unsafe` is allowed only in `sys`, `shm::map`, `fabric::verbs::ffi` and `ffi`. These modules use copies, atomic
//! words and system calls to access memory that another process or an RDMA peer may write at any time, and never a
//! reference that lasts.

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
