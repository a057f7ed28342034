// SPDX-License-Identifier: GPL-2.0-or-later

//! The rules of the smbdirect device, whatever it runs in: a process with threads and sockets (`broker`), or a kernel.
//!
//! | module | is |
//! |---|---|
//! | [`admission`] | which connections may be there, and which wait for an owner |
//! | [`memory`] | accounts of the memory that is shared with workers |
//! | [`peer`] | a process that is attached |
//! | [`pool`] | where received messages are put |
//! | [`queue`] | a worker's two rings, and what waits to go into the second |
//! | [`reason`] | why something ended, as a worker is told |
//! | [`registry`] | whose a client is, which connections are there, what happened |
//! | [`shard`] | connections with one owner, and all that becomes of them |
//! | [`submission`] | what a worker wants: the entries of its ring, judged |
//! | [`warnings`] | when the log says that a limit was met |
//!
//! With these go the [`transport`](crate::transport), the rings and buffers of [`shm`](crate::shm), and what
//! [`device`](crate::device) says of the interface to workers.
//!
//! Nothing here knows a thread, a socket, a file or a clock, nor how a status is written: time comes in as an
//! argument, and what has to be done goes out as a value.

pub mod admission;
pub mod memory;
pub mod peer;
pub mod pool;
pub mod queue;
pub mod reason;
pub mod registry;
pub mod shard;
pub mod submission;
pub mod warnings;
