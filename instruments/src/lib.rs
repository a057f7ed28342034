// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests and measures SMB Direct for Samba from outside; a server runs none of this.
//!
//! [`client`] is an SMB client that can move file data by RDMA. `smbdirectctl bench`, the demo and the tests with a
//! real smbd use it; like everything here, it is built on the product's transport. The rest is what several test
//! programs start:
//!
//! ```text
//!   daemon      smbdirectd, with a directory, a socket and ports of its own
//!   samba       smbd with smbdirectd, or with the forwarder if smbd does not know SMB Direct
//!   c           libsmbdirect.a as smbd links it, and programs in C that use it; one plays smbd
//!   install     what `make install` installs
//!   guides      the commands in the guides of `docs`
//!   peer        a client that sends any bytes: an SMB Direct initiator over iWARP
//! ```
//!
//! All of these panic with a message for the test's log if something is not as it should be.

/// The directory of the product's package, which is the repository.
pub const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

#[cfg(feature = "client")]
pub mod client;

#[allow(
    missing_docs,
    missing_debug_implementations,
    reason = "tests are their only users"
)]
pub mod c;
#[allow(
    missing_docs,
    missing_debug_implementations,
    reason = "tests are their only users"
)]
pub mod daemon;
#[allow(
    missing_docs,
    missing_debug_implementations,
    reason = "tests are their only users"
)]
pub mod forwarder;
#[allow(
    missing_docs,
    missing_debug_implementations,
    reason = "tests are their only users"
)]
pub mod guides;
#[allow(
    missing_docs,
    missing_debug_implementations,
    reason = "tests are their only users"
)]
pub mod install;
#[allow(
    missing_docs,
    missing_debug_implementations,
    reason = "tests are their only users"
)]
pub mod peer;
#[allow(
    missing_docs,
    missing_debug_implementations,
    reason = "tests are their only users"
)]
pub mod samba;
