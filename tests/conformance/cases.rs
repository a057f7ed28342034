// SPDX-License-Identifier: GPL-2.0-or-later

//! The list of cases.

/// Makes a `#[test]` of each case for a fabric; `$make` is a function that makes its `Harness`.
macro_rules! conformance {
    ($fabric:ident, $make:expr) => {
        mod $fabric {
            use super::*;
            conformance! { @cases $make;
                connections::is_established_on_both_ends_with_agreed_limits,
                connections::knows_the_local_address_of_both_ends_of_a_connection,
                connections::is_refused_at_an_address_without_a_listener,
                connections::is_refused_at_an_address_that_is_not_admitted,
                connections::a_rejected_client_is_refused_and_the_server_gets_no_further_event,
                connections::unlisten_rejects_unanswered_requests_and_leaves_connections,
                connections::work_other_than_receives_needs_an_established_connection,
                connections::delivers_messages_posted_before_close_and_flushes_receives,
                connections::close_flushes_reads,
                connections::a_connection_may_be_given_up_before_it_is_answered,
                connections::completes_everything_once_whatever_ends_the_connection,
                connections::every_call_refuses_a_connection_that_has_ended,
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
