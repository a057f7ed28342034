// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests rules for the tree itself, and not what the code does: in which direction modules depend on each other, which
//! crates are built, in which versions, and whether the documentation's links, spelling and names are right.

mod advisories;
mod documentation;
mod duplicates;
mod layering;
mod licences;
