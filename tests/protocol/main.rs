// SPDX-License-Identifier: GPL-2.0-or-later

//! The protocol layers without any I/O: endpoints against each other and against a hostile peer in virtual time, and the
//! bodies of the fuzz targets.

mod corpus;
mod simulation;
