//! The conformance suite of [`Fabric`](smbdirect::fabric::Fabric): what every fabric does.
//!
//! Each case is a sentence about the trait, written once and run on each fabric. A fabric joins
//! with one line at the end of this file.
#![cfg(feature = "fabric")]
#![allow(
    unreachable_pub,
    missing_docs,
    missing_debug_implementations,
    reason = "a test program has no users"
)]

mod capture;
mod connections;
mod faults;
mod halves;
mod harness;
mod rdma;
mod sends;

use std::time::Duration;

use harness::Rig;
use std::net::SocketAddr;

use smbdirect::fabric::fault::{Fault, FaultPlan};
use smbdirect::fabric::iwarp::{self, Iwarp};
use smbdirect::fabric::loopback::{Loopback, LoopbackConfig};

/// Makes a `#[test]` of each case for a fabric; `$make` is a function that makes its `Harness`.
macro_rules! conformance {
    ($fabric:ident, $make:expr) => {
        mod $fabric {
            use super::*;
            conformance! { @cases $make;
                connections::is_established_on_both_ends_with_agreed_limits,
                connections::knows_the_local_address_of_both_ends_of_a_connection,
                connections::is_refused_where_nobody_listens,
                connections::is_refused_by_rejection_which_no_event_of_the_server_names,
                connections::unlisten_rejects_unanswered_requests_and_leaves_connections,
                connections::work_other_than_receives_needs_an_established_connection,
                connections::delivers_what_was_posted_before_close_and_flushes_the_rest,
                connections::close_flushes_reads,
                connections::a_connection_may_be_given_up_before_it_is_answered,
                connections::completes_everything_once_whatever_ends_the_connection,
                connections::a_stale_connection_is_an_error_everywhere,
                connections::carries_sixty_four_connections_at_once,
                connections::an_idle_fabric_does_not_ask_to_be_polled_at_once,
                sends::a_send_arrives_whole,
                sends::a_send_with_an_empty_payload_arrives,
                sends::a_header_may_be_used_again_as_soon_as_it_is_posted,
                sends::receives_are_consumed_in_order,
                sends::many_sends_both_ways_complete_in_order,
                sends::both_ends_may_send_at_the_same_time,
                sends::an_invalidation_revokes_exactly_that_region_and_is_reported,
                sends::an_invalidation_of_an_unknown_token_ends_the_connection,
                sends::a_send_without_a_posted_receive_ends_the_connection,
                sends::a_message_larger_than_its_receive_ends_the_connection,
                sends::a_full_queue_is_reported_and_recovers,
                sends::wrong_local_calls_are_errors_and_do_nothing,
                sends::a_receive_whose_region_is_gone_takes_nothing,
                rdma::large_writes_arrive_exactly,
                rdma::large_reads_arrive_exactly,
                rdma::reads_and_writes_of_nothing_succeed,
                rdma::written_data_is_there_when_a_later_send_arrives,
                rdma::reads_beyond_the_initiator_depth_wait_and_complete_in_order,
                rdma::waiting_reads_do_not_hold_up_sends_and_writes,
                rdma::a_message_overtakes_waiting_reads,
                rdma::refuses_forged_writes,
                rdma::refuses_forged_reads,
                rdma::refuses_a_large_access_of_which_only_the_last_byte_lies_outside,
                rdma::reads_whose_sink_is_gone_fail_and_write_nothing,
                rdma::deregistration_leaves_other_posted_work_alone,
            }
        }
    };
    (@cases $make:expr; $($module:ident::$case:ident,)*) => {
        $(
            #[test]
            fn $case() {
                crate::$module::$case(($make)());
            }
        )*
    };
}

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

// Shows that no case takes both ends to be in one fabric.
conformance!(loopback_in_halves, || {
    let (server, client) = halves::halves();
    Rig::in_virtual_time_with_two("loopback in halves", server, client)
});

// As fabrics on sockets are run.
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
