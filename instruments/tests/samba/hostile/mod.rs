// SPDX-License-Identifier: GPL-2.0-or-later

//! Sends requests that no client should send to a real smbd. Each ends in a named error or in the end of its
//! connection, and other clients notice nothing.

mod attacker;
mod fields;
mod messages;
