// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests a real smbd with this repository's client, over TCP and, through the smbdirect device, over SMB Direct.
//!
//! Plain `cargo test` does not run these tests, because they need Samba:
//!
//! ```text
//!   cargo build --workspace
//!   SMBDIRECT_SAMBA=<build tree> cargo test -p instruments --test samba      # built with SMB Direct
//!   SMBDIRECT_SAMBA=/usr cargo test -p instruments --test samba              # as installed by a distribution
//! ```
//!
//! An smbd that does not know `smb direct` runs behind a forwarder (`instruments::forwarder`), which allows all tests
//! except those of failures and those of READ and WRITE with a channel. Tests that need the device then have nothing to
//! test, and say so. The tests of failures need root, because they mount a small file system.

mod addresses;
mod ahead;
mod bench;
mod bridge;
mod channel;
mod channels;
mod compounds;
mod doctor;
mod failover;
mod failures;
mod fairness;
mod files;
mod guides;
mod hostile;
mod ms_channel;
mod ms_transform;
mod notes;
mod path;
mod protected;
mod reads;
mod sessions;
mod threads;
mod transforms;
mod users;
mod waiting;
mod writes;
