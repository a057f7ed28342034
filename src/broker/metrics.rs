// SPDX-License-Identifier: GPL-2.0-or-later

//! Makes the metrics of a device from its [`Status`], in Prometheus' text format (version 0.0.4).
//!
//! The device's own metrics have the prefix `smbdirect_` and use base units. Those that begin with `process_` have the
//! names that every Prometheus client library uses. Labels take few values: fabrics, states, reasons. Clients'
//! addresses, which are unbounded, are a label only of the series that the caller asks for with [`PerConnection`].

mod encode;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use self::encode::Text;
use super::status::{Carried, ConnectionStatus, Status};
use crate::device;

/// The value of the `Content-Type` of an answer in this format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The states of a connection, as [`ConnectionStatus`] names them: each has a series
/// even if no connection is in it.
const STATES: [&str; 4] = ["fresh", "offered", "owned", "ending"];

/// The statuses with which processes are refused. Each has a series even if no process has got it: without a 0, a rate
/// would miss the first refusal.
const REFUSALS: [device::Status; 7] = [
    device::Status::Corrupt,
    device::Status::Denied,
    device::Status::Limit,
    device::Status::NoToken,
    device::Status::Taken,
    device::Status::TimedOut,
    device::Status::Version,
];

/// The reasons of those connection ends for which something took too long. Each reason has a series for each fabric
/// even if no connection has ended for this reason: without a 0, a rate would miss the first end.
const TIMEOUTS: [&str; 7] = [
    "claim_timeout",
    "close_timeout",
    "credit_timeout",
    "first_request_timeout",
    "keepalive_timeout",
    "login_timeout",
    "message_timeout",
];

/// How file data may be protected; what smbd has not said is unknown.
const PROTECTIONS: [&str; 6] = [
    "encrypted",
    "encrypted in messages",
    "plain",
    "signed",
    "signed in messages",
    UNKNOWN,
];

const UNKNOWN: &str = "unknown";

const UP: (&str, &str) = (
    "smbdirect_up",
    "Whether the device and all of its reactors answer.",
);

/// Whether there are series for each connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PerConnection {
    /// Each connection has series, with the label `peer`.
    Included,
    /// There are no such series.
    LeftOut,
}

/// Returns the metrics for a device that does not answer: only `smbdirect_up 0`.
#[must_use]
pub fn of_silence() -> String {
    let mut text = Text::default();
    text.gauge(UP).sample(&[], 0);
    text.finish()
}

/// Returns the metrics of a device.
#[must_use]
pub fn of(status: &Status, per_connection: PerConnection) -> String {
    let mut text = Text::default();
    device(&mut text, status);
    limits(&mut text, status);
    connections(&mut text, status);
    traffic(&mut text, &status.carried);
    if per_connection == PerConnection::Included {
        each_connection(&mut text, status);
    }
    process(&mut text, status);
    text.finish()
}

/// Adds the metrics of the device as a whole.
fn device(text: &mut Text, status: &Status) {
    text.gauge(UP).sample(&[], 1);
    let fabrics: Vec<&str> = status.carried.keys().map(String::as_str).collect();
    let (interface, fabrics) = (status.interface.to_string(), fabrics.join(","));
    text.gauge((
        "smbdirect_build_info",
        "Version of the device and of its interface to smbd, and its fabrics.",
    ))
    .sample(
        &[
            ("version", &status.version),
            ("interface", &interface),
            ("fabrics", &fabrics),
        ],
        1,
    );
    if let Some(started) = status.start_time_seconds {
        text.gauge((
            "smbdirect_start_time_seconds",
            "When the device started, in seconds since 1970.",
        ))
        .sample(&[], started);
    }
    let is_listener = |role: &str| role == "listener";
    let listener = status.processes.iter().any(|p| is_listener(&p.role));
    text.gauge((
        "smbdirect_listener_attached",
        "Whether smbd's parent process is attached. Without it, no client is served.",
    ))
    .sample(&[], u8::from(listener));
    let mut refused = text.counter((
        "smbdirect_attach_refused_total",
        "Processes that were not allowed to attach, by the status that they got.",
    ));
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    if reports_refusals(status) {
        counts.extend(REFUSALS.map(|refusal| (refusal.name(), 0)));
    }
    counts.extend(status.refused.iter().map(|(name, n)| (name.as_str(), *n)));
    for (name, count) in counts {
        refused.sample(&[("status", name)], count);
    }
}

/// Returns whether the device reports refused processes and ends by reason. A device in the kernel, which is not a
/// process, does not.
const fn reports_refusals(status: &Status) -> bool {
    status.usage.is_some()
}

/// Adds each limit, and how much of it is in use. The two families have the same label, so that an alert can divide one
/// by the other.
fn limits(text: &mut Text, status: &Status) {
    let (limits, totals) = (&status.limits, &status.totals);
    let of_workers = status.processes.iter();
    let workers = of_workers.filter(|p| p.role == "worker" && !p.invited);
    let all = [
        (
            "connections",
            totals.connections as u64,
            limits.connections as u64,
        ),
        (
            "unauthenticated",
            totals.unauthenticated as u64,
            limits.unauthenticated as u64,
        ),
        (
            "undispatched",
            totals.dispatching as u64,
            limits.undispatched as u64,
        ),
        ("workers", workers.count() as u64, limits.workers as u64),
        ("memory_bytes", totals.memory, limits.memory),
    ];
    let mut family = text.gauge(("smbdirect_limit", "The device's limits, by resource."));
    for (resource, _, limit) in all {
        family.sample(&[("resource", resource)], limit);
    }
    let mut family = text.gauge((
        "smbdirect_used",
        "How much of each limit in smbdirect_limit is in use.",
    ));
    for (resource, used, _) in all {
        family.sample(&[("resource", resource)], used);
    }
    text.gauge((
        "smbdirect_worker_memory_bytes",
        "Memory of all processes of smbd together.",
    ))
    .sample(&[], totals.memory);
}

/// Adds the numbers of connections by how file data is protected.
fn by_protection(text: &mut Text, connections: &[ConnectionStatus]) {
    let mut counts: BTreeMap<&str, u64> = PROTECTIONS.map(|name| (name, 0)).into();
    for connection in connections.iter().filter(|it| it.authenticated) {
        let name = connection.protection.as_deref().unwrap_or(UNKNOWN);
        *counts.entry(name).or_default() += 1;
    }
    let mut family = text.gauge((
        "smbdirect_protected_connections",
        "Connections on which a user has logged in, by the protection of file data in the session.",
    ));
    for (name, count) in counts {
        family.sample(&[("protection", name)], count);
    }
    let mut family = text.gauge((
        "smbdirect_partly_encrypted_connections",
        "Connections on which a share or the client encrypts file data although the session does not demand that.",
    ));
    for by in ["client", "share"] {
        let is_so = |it: &&ConnectionStatus| it.encrypted_by.iter().any(|who| who.starts_with(by));
        let count = connections.iter().filter(is_so).count();
        family.sample(&[("by", by)], count);
    }
}

/// Adds the numbers of connections.
fn connections(text: &mut Text, status: &Status) {
    let mut counts: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for fabric in status.carried.keys() {
        counts.extend(STATES.map(|state| ((fabric.as_str(), state), 0)));
    }
    for connection in &status.connections {
        let key = (connection.fabric.as_str(), connection.state.as_str());
        *counts.entry(key).or_default() += 1;
    }
    let mut family = text.gauge((
        "smbdirect_connections",
        "Connections that have negotiated SMB Direct, by fabric and state.",
    ));
    for ((fabric, state), count) in counts {
        family.sample(&[("fabric", fabric), ("state", state)], count);
    }
    by_protection(text, &status.connections);
    let carried = &status.carried;
    of_fabrics(
        text,
        carried,
        (
            "smbdirect_connections_accepted_total",
            "Connections that clients asked the device to accept, even if it rejected them.",
        ),
        |carried| carried.requested,
    );
    of_fabrics(
        text,
        carried,
        (
            "smbdirect_connections_negotiated_total",
            "Connections that negotiated SMB Direct.",
        ),
        |carried| carried.connections,
    );
    let mut family = text.counter((
        "smbdirect_connections_closed_total",
        "Ends of connections that had negotiated SMB Direct, by fabric and reason.",
    ));
    let mut counts: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    if reports_refusals(status) {
        for fabric in status.carried.keys() {
            counts.extend(TIMEOUTS.map(|reason| ((fabric.as_str(), reason), 0)));
        }
    }
    for (fabric, reasons) in &status.ends {
        let of_fabric = reasons.iter();
        counts.extend(of_fabric.map(|(reason, n)| ((fabric.as_str(), reason.as_str()), *n)));
    }
    for ((fabric, reason), count) in counts {
        family.sample(&[("fabric", fabric), ("reason", reason)], count);
    }
}

/// A field of [`Carried`], and the labels of its series besides the fabric.
type Part = (&'static [(&'static str, &'static str)], fn(&Carried) -> u64);

/// Adds the traffic of each fabric.
fn traffic(text: &mut Text, carried: &BTreeMap<String, Carried>) {
    let families: [(_, &[Part]); 4] = [
        (
            (
                "smbdirect_received_bytes_total",
                "Bytes that came from clients, in messages and by RDMA READ.",
            ),
            &[
                (&[("via", "message")], |c| c.inline_bytes_in),
                (&[("via", "rdma")], |c| c.rdma_read_bytes),
            ],
        ),
        (
            (
                "smbdirect_sent_bytes_total",
                "Bytes that went to clients, in messages and by RDMA WRITE.",
            ),
            &[
                (&[("via", "message")], |c| c.inline_bytes_out),
                (&[("via", "rdma")], |c| c.rdma_write_bytes),
            ],
        ),
        (
            (
                "smbdirect_messages_total",
                "SMB messages from clients (in) and to clients (out).",
            ),
            &[
                (&[("direction", "in")], |c| c.messages_in),
                (&[("direction", "out")], |c| c.messages_out),
            ],
        ),
        (
            (
                "smbdirect_rdma_operations_total",
                "RDMA READs and WRITEs that moved all of their data; one that fails ends its connection.",
            ),
            &[
                (&[("operation", "read"), ("result", "ok")], |c| c.rdma_reads),
                (&[("operation", "write"), ("result", "ok")], |c| {
                    c.rdma_writes
                }),
            ],
        ),
    ];
    for (name, parts) in families {
        let mut family = text.counter(name);
        for (fabric, carried) in carried {
            for (labels, number) in parts {
                let labels = [&[("fabric", fabric.as_str())], *labels].concat();
                family.sample(&labels, number(carried));
            }
        }
    }
    of_fabrics(
        text,
        carried,
        (
            "smbdirect_remote_invalidations_total",
            "Clients' memory registrations that a reply of the server invalidated.",
        ),
        |carried| carried.invalidations_out,
    );
    let waits: u64 = carried.values().map(|carried| carried.buffer_waits).sum();
    text.counter((
        "smbdirect_stalls_total",
        "How often data had to wait, by cause.",
    ))
    .sample(&[("cause", "worker_memory")], waits);
}

/// Adds a counter with a series for each fabric.
fn of_fabrics(
    text: &mut Text,
    carried: &BTreeMap<String, Carried>,
    name: (&str, &str),
    number: fn(&Carried) -> u64,
) {
    let mut family = text.counter(name);
    for (fabric, carried) in carried {
        family.sample(&[("fabric", fabric)], number(carried));
    }
}

/// Adds the traffic of each connection.
fn each_connection(text: &mut Text, status: &Status) {
    of_connections(
        text,
        &status.connections,
        (
            "smbdirect_connection_received_bytes_total",
            "Bytes that came from the client of a connection, in messages and by RDMA READ.",
        ),
        |connection| [connection.inline_bytes_in, connection.rdma_read_bytes],
    );
    of_connections(
        text,
        &status.connections,
        (
            "smbdirect_connection_sent_bytes_total",
            "Bytes that went to the client of a connection, in messages and by RDMA WRITE.",
        ),
        |connection| [connection.inline_bytes_out, connection.rdma_write_bytes],
    );
}

/// Adds a counter with two series for each connection: the bytes in messages, and by RDMA. A client may connect to two
/// addresses of the server from the same port, so the server's address is a label as well.
fn of_connections(
    text: &mut Text,
    connections: &[ConnectionStatus],
    name: (&str, &str),
    bytes: fn(&ConnectionStatus) -> [u64; 2],
) {
    let mut family = text.counter(name);
    for connection in connections {
        let peer = connection.peer.to_string();
        let local = connection
            .local
            .map_or_else(String::new, |it| it.to_string());
        for (via, bytes) in ["message", "rdma"].into_iter().zip(bytes(connection)) {
            let labels = [
                ("fabric", connection.fabric.as_str()),
                ("local", &local),
                ("peer", &peer),
                ("via", via),
            ];
            family.sample(&labels, bytes);
        }
    }
}

/// Adds what the process of smbdirectd uses; a device in the kernel does not have a process.
fn process(text: &mut Text, status: &Status) {
    let Some(usage) = &status.usage else {
        return;
    };
    text.counter((
        "process_cpu_seconds_total",
        "Processor time of smbdirectd, in seconds.",
    ))
    .sample(&[], usage.cpu_seconds);
    text.gauge(("process_open_fds", "Open file descriptors of smbdirectd."))
        .sample(&[], usage.open_descriptors);
    if let Some(limit) = usage.max_descriptors {
        text.gauge((
            "process_max_fds",
            "Maximum number of file descriptors that smbdirectd may have open.",
        ))
        .sample(&[], limit);
    }
    text.gauge((
        "process_resident_memory_bytes",
        "Resident memory of smbdirectd, in bytes.",
    ))
    .sample(&[], usage.resident_bytes);
    if let Some(started) = status.start_time_seconds {
        text.gauge((
            "process_start_time_seconds",
            "When smbdirectd started, in seconds since 1970.",
        ))
        .sample(&[], started);
    }
}
