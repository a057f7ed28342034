// SPDX-License-Identifier: GPL-2.0-or-later

//! iWARP: RDMA on TCP, in user space.
//!
//! Three protocols on top of each other make a TCP connection behave like a queue pair:
//!
//! ```text
//!   RDMAP  RFC 5040   what a message means: Send, RDMA Write, RDMA Read, Terminate    rdmap
//!   DDP    RFC 5041   where its bytes go: an STag and an offset, or a queue's buffer   ddp
//!   MPA    RFC 5044   where it begins and ends in the TCP stream, and its CRC          mpa
//!          RFC 6581   MPA's handshake, which also agrees on RDMA READ depths           mpa
//!   TCP
//! ```
//!
//! Once the handshake is over, the stream is a sequence of FPDUs, each with one DDP segment:
//!
//! ```text
//!   0        2          4                   16 or 20
//!   +--------+----------+-------------------+---------+-----------+--------+
//!   | ULPDU  | DDP and  | tagged (12) or    | payload | pad, 0..3 | CRC32C |
//!   | length | RDMAP    | untagged (16)     |         | zeros     | 4      |
//!   |        | control  | header            |         |           |        |
//!   +--------+----------+-------------------+---------+-----------+--------+
//!            |<----------- ULPDU = DDP segment ------>|
//! ```
//!
//! | file | contents |
//! |---|---|
//! | [`mpa`] | handshake frames, the legacy private data, the sizes of FPDUs |
//! | [`ddp`] | control bytes, tagged and untagged header, queue numbers |
//! | [`rdmap`] | opcodes, RDMA Read Request, Terminate |
//! | [`handshake`] | the answer to an MPA request, and the agreement of both sides |
//! | [`qp`] | the queue pair: work requests and FPDUs, both ways |
//! | `tcp` | sockets under queue pairs: the [`Fabric`](super::Fabric) |
//! | `cause` | an [`IwarpError`] as the end of a connection |
//! | `error.rs` | [`IwarpError`]: every rule a peer can break, and the Terminate that reports it |
//!
//! Everything except `tcp` works without I/O, a clock or an operating system, and allocates nothing after construction.
//! The codecs turn bytes into values and back, and check once that a value is legal. The queue pair's state machine
//! judges whether a legal value is allowed *now*. All numbers are big-endian on the wire, except for the CRC.
//!
//! Markers, MPA revision 0, atomics and immediate data (RFC 7306) are not supported.

#[cfg(feature = "fabric")]
mod cause;
pub mod ddp;
mod error;
pub mod handshake;
pub mod mpa;
pub mod qp;
pub mod rdmap;
#[cfg(feature = "fabric")]
mod tcp;

pub use error::IwarpError;
pub use qp::Depths;
#[cfg(feature = "broker")]
pub use tcp::KeptConn;
#[cfg(feature = "fabric")]
pub use tcp::{Config, Counts, Iwarp};
