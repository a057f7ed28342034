// SPDX-License-Identifier: GPL-2.0-or-later

//! The iWARP fabric against peers that are no fabric: raw sockets that keep no rule.
//!
//! Each case ends with the same claim: a good connection that was there all the time still carries
//! messages both ways, and of everybody else neither a descriptor nor an entry in a table is left.
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
