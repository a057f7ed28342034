// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests of the instruments themselves: the clients do what their documentation says, beside
//! servers of the tests' own.

mod client;
mod peer;
