//! The conformance suite of [`Fabric`](smbdirect::fabric::Fabric) on an RDMA device: both ends on the one
//! that `SMBDIRECT_TEST_VERBS` names by its address, such as 10.9.0.1.
#![allow(
    unreachable_pub,
    missing_docs,
    missing_debug_implementations,
    reason = "a test program has no users"
)]

#[macro_use]
mod cases;

mod connections;
mod harness;
mod rdma;
mod sends;

use std::net::{IpAddr, SocketAddr};

use harness::Rig;
use smbdirect::fabric::verbs::{Config, Verbs};

/// The variable with the address.
const ADDRESS: &str = "SMBDIRECT_TEST_VERBS";

fn verbs() -> Rig {
    let address = std::env::var(ADDRESS).unwrap_or_else(|_| {
        panic!("{ADDRESS} has to be the address of an RDMA device of this machine")
    });
    let address: IpAddr = address.parse().expect("an address");
    let config = Config {
        sends: 1024,
        recvs: 1024,
        reads: 256,
        regions: 64,
        ..Config::default()
    };
    let fabric = || Verbs::new(config).unwrap();
    let address = SocketAddr::new(address, 0);
    Rig::in_real_time("verbs", fabric(), fabric(), address)
}

conformance!(verbs_fabric, verbs);
