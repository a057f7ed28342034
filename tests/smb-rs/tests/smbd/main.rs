// SPDX-License-Identifier: GPL-2.0-or-later

//! The crate `smb` and a real smbd, with SMB Direct between them and no TCP: see src/lib.rs.

mod files;
mod login;
mod user;
