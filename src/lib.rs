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
//!    |      |          fabric: who moves bytes: loopback, iWARP in user space (and faults on top)
//!  wire    sys         wire:   bytes <-> values: MS-SMBD messages and the slice of SMB2 a device reads
//!     \    /           sys:    memory that others may write, and the system calls on it
//!     units
//! ```
//!
//! Beside them, [`shm`] on `sys`: rings and buffers in memory that two processes share, of which
//! neither trusts the other.
//!
//! The endpoint knows no I/O and the fabric knows no SMB. `wire`, `proto` and the iWARP codecs in
//! [`fabric::iwarp`] need no operating system and allocate nothing after construction; `shm`
//! is behind the feature `shm`, everything else behind `fabric`.
//!
//! `unsafe` is allowed in `sys` and `shm::map` alone: memory that another process or an RDMA peer
//! may write at any time is reached by copies, atomic words and system calls there, never through a
//! reference that lasts.

#![cfg_attr(not(any(feature = "fabric", feature = "shm", test)), no_std)]
#![deny(unsafe_code)]

#[cfg_attr(any(feature = "fabric", feature = "shm"), allow(unused_extern_crates))]
extern crate alloc;

#[cfg(feature = "broker")]
pub mod broker;
#[cfg(feature = "shm")]
pub mod device;
pub mod fabric;
#[cfg(feature = "ffi")]
#[allow(non_camel_case_types, unsafe_code)]
pub mod ffi;
pub mod proto;
#[cfg(feature = "shm")]
pub mod shm;
#[cfg(any(feature = "fabric", feature = "shm"))]
#[allow(unsafe_code)]
pub mod sys;
#[cfg(feature = "fabric")]
pub mod transport;
pub mod units;
pub mod wire;
