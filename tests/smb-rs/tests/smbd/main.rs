// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests the crate `smb` with a real smbd. SMB Direct connects them, without TCP: see src/lib.rs.

mod files;
mod login;
mod user;
