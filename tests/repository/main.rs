// SPDX-License-Identifier: GPL-2.0-or-later

//! Rules for the tree itself, rather than for what it does: in which direction modules depend on each other, and which
//! crates are built, in which versions.

mod advisories;
mod duplicates;
mod layering;
mod licences;
