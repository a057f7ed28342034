// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests iWARP over TCP: data that goes straight to its target, a process without descriptors, and what tshark reads
//! from the wire. `tests/conformance` tests the rules for every fabric, and `tests/iwarp_hostile` breaks the protocol.

mod descriptors;
mod direct;
mod tshark;
