// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests `smbdirectctl bridge` between TCP clients and SMB Direct servers: messages, back-pressure, and all the ways in
//! which a connection ends.

mod device;
mod ends;
mod messages;
mod pressure;
mod scene;
mod server;
