// SPDX-License-Identifier: GPL-2.0-or-later

//! Runs the conformance suite of [`Fabric`](smbdirect::fabric::Fabric) on an RDMA device. Both ends are on the device
//! whose address, such as 10.9.0.1, is in `SMBDIRECT_TEST_VERBS`.
#![allow(
    unreachable_pub,
    missing_docs,
    missing_debug_implementations,
    reason = "a test program has no users"
)]

#[macro_use]
mod cases;

mod connections;
#[allow(dead_code, reason = "only fabrics in software use it")]
mod harness;
mod rdma;
mod sends;

use std::net::{IpAddr, SocketAddr};

use harness::{Fidelity, Rig, Tells};
use smbdirect::fabric::verbs::{Config, Verbs, device_of};

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
    let device = device_of(address).unwrap();
    let device = device.unwrap_or_else(|| panic!("{address} is not the address of an RDMA device"));
    // A hardware device that does better passes, too.
    let fidelity = match device.is_iwarp {
        true => Fidelity {
            tells: Tells::Nobody,
            names_invalidated: false,
            checks_reads: false,
        },
        false => Fidelity {
            tells: Tells::OneEnd,
            ..Fidelity::FULL
        },
    };
    let fabric = || Verbs::new(config).unwrap();
    let address = SocketAddr::new(address, 0);
    Rig::in_real_time(device.name, fabric(), fabric(), address).with(fidelity)
}

conformance!(verbs_fabric, verbs);
