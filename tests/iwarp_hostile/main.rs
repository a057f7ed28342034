// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests the iWARP fabric with raw sockets that break the rules.
//!
//! Each case ends with the same check: a good connection that has been there all the time still carries messages both
//! ways, and no descriptor or table entry of any other peer is left.
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
