// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests the instruments themselves, with servers of its own: the clients must do what their documentation says.

#[cfg(feature = "bench")]
mod bench;
mod client;
mod peer;
