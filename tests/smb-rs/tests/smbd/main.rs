//! The crate `smb` and a real smbd, with SMB Direct between them and no TCP: see src/lib.rs.

#[allow(dead_code)] // Other tests use the rest of it.
#[path = "../../../smbdirectd/daemon.rs"]
mod daemon;
mod files;
#[path = "../../../samba/forwarder.rs"]
mod forwarder;
mod login;
#[allow(dead_code)] // Other tests use the rest of it.
#[path = "../../../samba/server.rs"]
mod server;
mod user;
