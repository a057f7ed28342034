// SPDX-License-Identifier: GPL-2.0-or-later

//! The iWARP fabric against raw sockets that break the rules.
//!
//! Each case ends with the same check: a good connection that was there all the time still carries
//! messages both ways, and of all other peers neither a descriptor nor a table entry is left.
#![allow(
    unreachable_pub,
    missing_docs,
    missing_debug_implementations,
    reason = "a test program has no users"
)]

mod answers;
mod fpdus;
mod handshake;
mod harness;
mod initiator;
mod sockets;
