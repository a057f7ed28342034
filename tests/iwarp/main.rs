// SPDX-License-Identifier: GPL-2.0-or-later

//! iWARP over TCP: data that is placed where it is expected, a process that has no descriptor left, and what tshark reads
//! from the wire. What every fabric does is `tests/conformance`, and what breaks the protocol `tests/iwarp_hostile`.

mod descriptors;
mod direct;
mod tshark;
