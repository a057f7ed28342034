// SPDX-License-Identifier: GPL-2.0-or-later

//! The sentences of the log about what a shard did.

use super::config::Config;
use crate::engine::admission::Limit;

/// Returns, for the name of a reason for which the device itself ended a connection, the reason in words.
pub(super) fn of_reason(name: &str, config: &Config) -> String {
    match name {
        "too_many_connections" | "too_many_connections_of_source" => format!(
            "a newer one came, and max_connections = {} was reached",
            config.max_connections
        ),
        "too_many_unauthenticated" | "too_many_unauthenticated_of_source" => format!(
            "a newer one came, no client had logged in on this one, and max_unauthenticated = {} was reached",
            config.max_unauthenticated
        ),
        "login_timeout" => "no client logged in on it in time".to_owned(),
        "no_listener" => {
            "no smbd is attached: is smbd running, with smb direct = yes in smb.conf?".to_owned()
        }
        "first_request" => "its first message is not an SMB2 NEGOTIATE request".to_owned(),
        "first_request_timeout" => "its first request did not come in time".to_owned(),
        "claim_timeout" => "no smbd took it in time: see the log of smbd".to_owned(),
        "declined" => "smbd refused it: see the log of smbd".to_owned(),
        "listener_busy" => "smbd does not read its offers".to_owned(),
        "message_too_long" => "a message is too long for the memory of its smbd".to_owned(),
        "too_many_unanswered" => {
            "its client has not logged in, and takes none of the data sent to it".to_owned()
        }
        "no_queue" => "the device could not make a queue for its smbd".to_owned(),
        "no_random_numbers" => "the system has no random numbers".to_owned(),
        "worker_gone" => "its smbd has ended".to_owned(),
        "disconnected" => "smbd closed it".to_owned(),
        "stopping" => "smbdirectd stops".to_owned(),
        "restarting" => "smbdirectd restarts, and could not keep it".to_owned(),
        "not_kept" => "smbdirectd has restarted, and could not continue it".to_owned(),
        other => other.replace('_', " "),
    }
}

/// Returns the key of the configuration that sets a limit, its value, and what was done when it was reached.
pub(super) const fn of_limit(limit: Limit, config: &Config) -> (&'static str, usize, &'static str) {
    let (key, value) = match limit {
        Limit::Connections | Limit::ConnectionsOfSource => {
            ("max_connections", config.max_connections)
        }
        Limit::Unauthenticated | Limit::UnauthenticatedOfSource => {
            ("max_unauthenticated", config.max_unauthenticated)
        }
    };
    let consequence = match limit.is_of_source() {
        true => {
            "a single source had its share (a quarter, unless \"gateways\" lists it), and its oldest connection \
             without a session was ended"
        }
        false => "the oldest connection without a session was ended",
    };
    (key, value, consequence)
}
