// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests rules for the tree itself, and not what the code does: in which direction modules depend on each other, which
//! crates are built, in which versions, whether the documentation's links, spelling and names are right, and what a
//! script of a package says.

mod advisories;
mod documentation;
mod duplicates;
mod layering;
mod licences;
mod packaging;
