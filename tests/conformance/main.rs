// SPDX-License-Identifier: GPL-2.0-or-later

//! The conformance suite of [`Fabric`](smbdirect::fabric::Fabric): checks what every fabric must do.
//!
//! Each case is a sentence about the trait, written once and run on each fabric. To add a fabric, add one line at the
//! end of this file.
#![cfg(feature = "fabric")]
#![allow(
    unreachable_pub,
    missing_docs,
    missing_debug_implementations,
    reason = "a test program has no users"
)]

#[macro_use]
mod cases;

mod capture;
mod connections;
mod faults;
mod halves;
#[allow(dead_code, reason = "only RDMA devices use it")]
mod harness;
mod rdma;
mod sends;

use std::time::Duration;

use harness::Rig;
use std::net::SocketAddr;

use smbdirect::fabric::fault::{Fault, FaultPlan};
use smbdirect::fabric::iwarp::{self, Iwarp};
use smbdirect::fabric::loopback::{Loopback, LoopbackConfig};

fn loopback() -> Rig {
    Rig::in_virtual_time(
        "loopback",
        Loopback::new(LoopbackConfig::default()).unwrap(),
    )
}

conformance!(loopback_fabric, loopback);

fn iwarp(name: &str, address: [u16; 8], crc: bool, max_ulpdu: Option<u16>) -> Rig {
    let address = std::net::Ipv6Addr::from(address);
    let address = address
        .to_ipv4_mapped()
        .map_or_else(|| address.into(), Into::into);
    let depths = iwarp::Depths {
        sends: 1024,
        recvs: 1024,
        reads: 256,
        responses: 32,
        regions: 64,
    };
    let config = iwarp::Config {
        crc,
        max_ulpdu,
        depths,
        ..iwarp::Config::default()
    };
    let fabric = || Iwarp::new(config).unwrap();
    Rig::in_real_time(name, fabric(), fabric(), SocketAddr::new(address, 0))
}

const IPV4: [u16; 8] = [0, 0, 0, 0, 0, 0xffff, 0x7f00, 1];
const IPV6: [u16; 8] = [0, 0, 0, 0, 0, 0, 0, 1];

conformance!(iwarp_fabric, || iwarp("iwarp", IPV4, false, None));
conformance!(iwarp_fabric_with_crc, || iwarp(
    "iwarp with CRC",
    IPV4,
    true,
    None
));
conformance!(iwarp_fabric_on_ipv6, || iwarp(
    "iwarp on IPv6",
    IPV6,
    true,
    Some(1444)
));

// This shows that no case relies on both ends being in one fabric.
conformance!(loopback_in_halves, || {
    let (server, client) = halves::halves();
    Rig::in_virtual_time_with_two("loopback in halves", server, client)
});

// Fabrics on sockets are driven in this way.
conformance!(loopback_in_real_time, || {
    let (server, client) = halves::halves();
    let address = ([127, 0, 0, 1], 0).into();
    Rig::in_real_time("loopback in real time", server, client, address)
});

fn fault(name: &str, plan: FaultPlan) -> Rig {
    let inner = Loopback::new(LoopbackConfig::default()).unwrap();
    Rig::in_virtual_time(name, Fault::new(inner, plan))
}

conformance!(fault_without_faults, || fault(
    "fault over loopback, no faults",
    FaultPlan::default()
));

fn delays(seed: u64) -> Rig {
    let delay = Duration::from_millis(10);
    let plan = FaultPlan {
        seed,
        delay,
        ..FaultPlan::default()
    };
    fault(&format!("fault over loopback, delays of seed {seed}"), plan)
}

conformance!(fault_with_delays_1, || delays(1));
conformance!(fault_with_delays_2, || delays(2));
conformance!(fault_with_delays_3, || delays(3));
