// SPDX-License-Identifier: GPL-2.0-or-later

//! A real smbd and this repository's client: over TCP, and over SMB Direct by the smbdirect device.
//!
//! Not among the tests that `cargo test` runs, for Samba has to be there first:
//!
//! ```text
//!   cargo build --workspace
//!   SMBDIRECT_SAMBA=<build tree> cargo test -p instruments --test samba      # built with SMB Direct
//!   SMBDIRECT_SAMBA=/usr cargo test -p instruments --test samba              # as installed by a distribution
//! ```
//!
//! An smbd that does not know `smb direct` is put behind a forwarder (`instruments::forwarder`): all but the
//! channels of READ and WRITE, and failures, is tested with it, too. Tests that need the device have
//! nothing to test then, and say so. Failures need root: they mount a small file system.

mod addresses;
mod bench;
mod bridge;
mod channel;
mod channels;
mod compounds;
mod failover;
mod failures;
mod fairness;
mod files;
mod hostile;
mod ms_channel;
mod path;
mod protected;
mod reads;
mod sessions;
mod threads;
mod waiting;
mod writes;
