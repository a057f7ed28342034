//! `smbdirectctl bridge` between clients of TCP and SMB Direct servers: messages, back-pressure, and
//! all the ways in which a connection ends.

#[path = "../c/build.rs"]
mod build;
#[allow(dead_code)]
#[path = "../smbdirectd/daemon.rs"]
mod daemon;
mod device;
mod ends;
mod messages;
#[path = "../peer/mod.rs"]
mod peer;
mod pressure;
#[allow(dead_code)]
#[path = "../c_abi/programs.rs"]
mod programs;
mod scene;
mod server;
#[allow(dead_code)]
#[path = "../c_abi/smbd.rs"]
mod smbd;
