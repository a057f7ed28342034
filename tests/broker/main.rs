// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests a broker over the iWARP fabric, with clients that are real initiators, and processes that speak the interface
//! byte by byte.

mod addresses;
mod attach;
mod end_to_end;
mod hostile;
mod lifecycle;
mod limits;
mod metrics_socket;
mod observers;
mod peer;
mod raw;
mod reload;
mod routing;
mod scene;
mod strangers;
mod traffic;
