// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests the instruments themselves: checks with servers of its own that the clients do what their documentation says.

mod client;
mod peer;
