// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests failures: a client gets the right error or its data, other clients notice nothing, and nothing is left over.

pub(crate) mod client;
mod closing;
mod device;
mod gone;
mod messaging;
mod pressure;
mod processes;
mod start;
mod storage;

pub(crate) use client::wait_until;
