// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests the protocol layers without any I/O: endpoints with each other and with a hostile peer in virtual time, and
//! the bodies of the fuzz targets.

mod corpus;
mod simulation;
