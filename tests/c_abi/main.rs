//! The C ABI end to end: programs in C against a real `smbdirectd`, over real TCP, with clients built
//! on the initiator. Each program is built twice, plain and with sanitizers.

mod arguments;
#[path = "../c/build.rs"]
mod build;
#[allow(dead_code)]
#[path = "../smbdirectd/daemon.rs"]
mod daemon;
mod ends;
mod errors;
mod example;
mod pdus;
#[path = "../peer/mod.rs"]
mod peer;
mod programs;
mod rdma;
mod requests;
mod routing;
mod smbd;
mod transfer;
