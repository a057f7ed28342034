// SPDX-License-Identifier: GPL-2.0-or-later

//! The rules of the smbdirect device, which runs in a process with threads and sockets (`broker`), or in a kernel.
//!
//! | module | describes |
//! |---|---|
//! | [`admission`] | which connections are allowed, and which wait for an owner |
//! | [`memory`] | accounts of the memory that is shared with workers |
//! | [`parameters`] | what a listener may set for negotiations |
//! | [`peer`] | a process that is attached |
//! | [`pool`] | the memory for received messages |
//! | [`queue`] | a worker's two rings, and what waits to go into the second |
//! | [`reason`] | the status that tells a worker why something ended |
//! | [`registry`] | which worker has registered a client, which connections exist, what happened |
//! | [`shard`] | connections that have one driver, and everything that happens to them |
//! | [`submission`] | what a worker asks for: the entries of its ring, checked |
//! | [`warnings`] | when the log says that a limit was reached |
//!
//! The engine is built on the [`transport`](crate::transport), the rings and buffers of [`shm`](crate::shm), and the
//! interface to workers that [`device`](crate::device) defines.
//!
//! Nothing here uses a thread, a socket, a file or a clock, or knows how a status is written: time comes in as an
//! argument, and work for others goes out as a value.

pub mod admission;
pub mod memory;
pub mod parameters;
pub mod peer;
pub mod pool;
pub mod queue;
pub mod reason;
pub mod registry;
pub mod shard;
pub mod submission;
pub mod warnings;
