// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests the engine in one thread and in virtual time: shards, processes and clients on a network inside one object.
//! Only sockets, threads and a clock are left out, and a kernel has its own in their place.
//!
//! `make miri` runs these tests under Miri.

mod ahead;
mod churn;
mod data;
mod hostile;
mod moving;
mod network;
mod process;
mod routing;
mod scene;
mod time;
