// SPDX-License-Identifier: GPL-2.0-or-later

//! What no client should send, to a real smbd: each ends in an error with a name, or in the end of
//! its connection, and nobody else notices.

mod attacker;
mod fields;
mod messages;
