// SPDX-License-Identifier: GPL-2.0-or-later

//! An SMB 3 client with direct placement: for `smbdirectctl bench` and for tests.
//!
//! A [`Connection`] carries requests over TCP or SMB Direct, many at a time, in one thread, and its calls block. A
//! session is made on one connection ([`Connection::log_in`]) and may then be used on others ([`Connection::bind`]):
//! trees and files belong to the session, so a file opened over TCP can be read by RDMA.
//!
//! ```text
//!   let mut tcp = Connection::tcp(address, config.clone())?;       // NEGOTIATE is done
//!   tcp.log_in(&credentials)?;
//!   let tree = tcp.tree_connect(r"\\host\share")?;
//!   let file = tcp.create(tree, "name", &Create::file(Disposition::OpenIf))?.file;
//!   let rdma_address = tcp.network_interfaces(tree)?;              // ... one with `rdma`
//!   let mut rdma = Connection::smb_direct(rdma_address, config)?;
//!   rdma.bind(&tcp, &credentials)?;
//!   let sink = rdma.register(&Memory::zeroed(1 << 20), Access::RemoteWrite)?;
//!   let read = Read::direct(file, 0, 1 << 20, Channel::RdmaV1, &[sink.descriptor()]);
//!   let id = rdma.send(&read.request(tree))?;                      // and more of them
//!   let bytes = rdma.wait(id)?.ok()?.read()?.direct;               // they are in sink.memory
//! ```
//!
//! Requests are plain data until they are sent, and every field is public, so a test can send what no client should.
//! Whatever a server answers is checked before it is used: lengths, signatures, encryption. The crate `smb-msg` builds
//! messages, except READ and WRITE, because it does not know their channels; the crate `ntlmssp` does NTLMv2, and
//! RustCrypto provides the ciphers and hashes.
//!
//! Supports SMB 3.0, 3.0.2 and 3.1.1, but not Kerberos, compression, durable handles or DFS.

mod bytes;
mod calls;
mod config;
mod connection;
mod error;
mod header;
mod keys;
mod link;
mod negotiate;
mod read_write;
mod request;
mod response;
mod sealing;
mod session;
mod signing;
mod status;
mod transform;

pub use config::Config;
pub use connection::Connection;
pub use error::{Error, Result};
pub use header::{Command, HEADER_LENGTH, Header};
pub use link::Registration;
pub use negotiate::{Dialect, Negotiated};
pub use read_write::{Channel, Read, Write};
pub use request::{Create, Disposition, Lease, Protection, Request, credits_for};
pub use response::{Created, Entry, FileId, Interface, ReadDone, Response};
pub use sealing::CipherAlgorithm;
pub use session::Credentials;
pub use signing::SigningAlgorithm;
pub use status::NtStatus;
pub use transform::Transform;

pub use smbdirect::sys::Memory;
pub use smbdirect::wire::smb2::TransformType;
