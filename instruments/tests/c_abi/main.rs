// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests the C ABI end to end: C programs use a real `smbdirectd` over real TCP, with clients that are built on the
//! initiator. Each program is built twice, plain and with sanitizers.

mod arguments;
mod ends;
mod errors;
mod example;
mod installed;
mod pdus;
mod rdma;
mod requests;
mod routing;
mod transfer;
