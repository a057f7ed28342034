// SPDX-License-Identifier: GPL-2.0-or-later

//! What holds for the tree itself, and not for what it does: which way modules depend, and what the crates that are built
//! may be.

mod advisories;
mod layering;
mod licences;
