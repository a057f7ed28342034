// SPDX-License-Identifier: GPL-2.0-or-later

//! The engine in one thread and in virtual time: shards, processes and clients on a network inside one object, without
//! sockets, threads or a clock. What a kernel has instead of those is not tested here; everything else is.
//!
//! `make miri` runs it under Miri.

mod ahead;
mod churn;
mod data;
mod hostile;
mod network;
mod process;
mod routing;
mod scene;
mod time;
