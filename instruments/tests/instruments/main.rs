// SPDX-License-Identifier: GPL-2.0-or-later

//! The instruments themselves: the clients do what they say, beside servers of the tests' own.

mod client;
mod peer;
