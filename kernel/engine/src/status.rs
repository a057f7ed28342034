// SPDX-License-Identifier: GPL-2.0-or-later

//! The status of the device, as the records of [`uapi::status`](smbdirect::device::uapi::status).

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use smbdirect::device::abi::{self, Address, AllowedAddress};
use smbdirect::device::uapi::status::{
    Carried, Close, Connection, Counter, Device, Process, Queue, SocketAddress, close_flags,
    connection_flags, device_flags, name, process_flags, push,
};
use smbdirect::engine::peer::{Peer, Role};
use smbdirect::engine::registry::{self, Registry};
use smbdirect::engine::shard::{ConnReport, Report};
use smbdirect::fabric::LocalAddresses;
use smbdirect::transport::Traffic;
use smbdirect::units::Instant;

use crate::process::Attached;

/// The fabric's name; smbdirectd uses it for RDMA devices as well.
pub(crate) const FABRIC: &str = "verbs";

/// What the records are made from.
pub(crate) struct Sources<'a> {
    /// Limits and what the device itself knows; `records` fills in the rest.
    pub(crate) device: Device,
    pub(crate) addresses: &'a [Address],
    pub(crate) allowed: &'a LocalAddresses,
    pub(crate) registry: &'a Registry<Attached>,
    /// The parts of all cells.
    pub(crate) reports: Vec<Report<Attached>>,
    pub(crate) loaded: Instant,
    pub(crate) now: Instant,
}

/// Makes the records.
pub(crate) fn records(sources: Sources<'_>) -> Vec<u8> {
    let Sources {
        mut device,
        addresses,
        allowed,
        registry,
        reports,
        loaded,
        now,
    } = sources;
    let mut records = Vec::new();
    let shard = sum(reports, registry);
    device.uptime_ns = nanoseconds(now.saturating_since(loaded));
    if *allowed != LocalAddresses::All {
        device.flags |= device_flags::RESTRICTED;
    }
    device.connections = narrow(registry.connections());
    device.undispatched = narrow(registry.undispatched());
    device.unauthenticated = narrow(registry.unauthenticated());
    device.offered = narrow(registry.tokens());
    device.clients = narrow(registry.clients());
    device.sessions = narrow(registry.sessions());
    device.queues = narrow(shard.queues.len());
    device.registrations = narrow(shard.registrations);
    push(&mut records, &device);
    for address in addresses {
        push(&mut records, address);
    }
    if let LocalAddresses::Only(list) = allowed {
        for address in list {
            let allowed = AllowedAddress {
                address: octets(address.ip()),
                scope_id: address.scope_id(),
                reserved: 0,
            };
            push(&mut records, &allowed);
        }
    }
    push(&mut records, &carried(shard.established, &shard.traffic));
    for conn in &shard.connections {
        push(&mut records, &connection(conn, now));
    }
    for process in registry.processes() {
        let queue = shard
            .queues
            .iter()
            .find(|queue| queue.worker == process.id());
        let connections = queue.map_or(0, |queue| narrow(queue.connections));
        push(&mut records, &of_process(process, registry, connections));
        let Some(queue) = queue else {
            continue;
        };
        let queue = Queue {
            worker: queue.worker,
            queue: 0,
            connections,
            overflow: narrow(queue.overflow),
            completions: queue.completions,
            outstanding: queue.outstanding,
            receive_segments: queue.receive_segments,
            receive_units_used: queue.receive_units_used,
        };
        push(&mut records, &queue);
    }
    for close in registry.closes() {
        push(&mut records, &of_close(close, loaded));
    }
    let counters = registry
        .counters()
        .iter()
        .map(|(name, count)| (*name, *count));
    for (text, count) in counters.chain(shard.counters) {
        let counter = Counter {
            name: name(text),
            count,
        };
        push(&mut records, &counter);
    }
    records
}

/// Puts the parts of all cells together, and adds what cells carried that have been forgotten.
fn sum(reports: Vec<Report<Attached>>, registry: &Registry<Attached>) -> Report<Attached> {
    let mut sum = Report {
        connections: Vec::new(),
        queues: Vec::new(),
        registrations: 0,
        established: 0,
        traffic: Traffic::default(),
        fetched_ahead: 0,
        counters: Vec::new(),
    };
    let before = registry.transport_before().iter();
    let mut counters: BTreeMap<&'static str, u64> =
        before.map(|(name, count)| (*name, *count)).collect();
    for carried in registry.carried_before().values() {
        sum.established += carried.connections;
        sum.traffic += carried.traffic;
        sum.fetched_ahead += carried.fetched_ahead;
    }
    for report in reports {
        sum.connections.extend(report.connections);
        sum.queues.extend(report.queues);
        sum.registrations += report.registrations;
        sum.established += report.established;
        sum.traffic += report.traffic;
        sum.fetched_ahead += report.fetched_ahead;
        for (name, count) in report.counters {
            *counters.entry(name).or_default() += count;
        }
    }
    sum.counters = counters.into_iter().collect();
    sum
}

fn narrow(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

const fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

fn socket_address(address: SocketAddr) -> SocketAddress {
    SocketAddress {
        address: octets(address.ip()),
        scope_id: match address {
            SocketAddr::V4(_) => 0,
            SocketAddr::V6(address) => address.scope_id(),
        },
        port: address.port(),
        reserved: 0,
    }
}

/// Converts an address that may be unknown.
fn optional(address: Option<SocketAddr>) -> SocketAddress {
    let none = SocketAddr::from(([0; 16], 0));
    socket_address(address.unwrap_or(none))
}

fn carried(connections: u64, traffic: &Traffic) -> Carried {
    Carried {
        fabric: name(FABRIC),
        connections,
        messages_in: traffic.messages_in,
        messages_out: traffic.messages_out,
        inline_bytes_in: traffic.inline_bytes_in,
        inline_bytes_out: traffic.inline_bytes_out,
        rdma_reads: traffic.rdma_reads,
        rdma_read_bytes: traffic.rdma_read_bytes,
        rdma_writes: traffic.rdma_writes,
        rdma_write_bytes: traffic.rdma_write_bytes,
        invalidations_out: traffic.invalidations_out,
        buffer_waits: traffic.buffer_waits,
    }
}

fn connection(conn: &ConnReport<Attached>, now: Instant) -> Connection {
    let (owner, transport) = (conn.owner.as_ref(), &conn.transport);
    let traffic = &transport.traffic;
    let flags = [
        (owner.is_some(), connection_flags::OWNED),
        (conn.authenticated, connection_flags::AUTHENTICATED),
        (conn.local.is_some(), connection_flags::LOCAL),
    ];
    Connection {
        id: owner.map_or(0, |(_, id)| *id),
        peer: socket_address(conn.peer),
        local: optional(conn.local),
        fabric: name(FABRIC),
        state: name(conn.state),
        flags: flags
            .into_iter()
            .filter(|(is, _)| *is)
            .map(|(_, flag)| flag)
            .sum(),
        worker: owner.map_or(0, |(worker, _)| worker.id()),
        pid: owner.map_or(0, |(worker, _)| worker.0.pid()),
        send_credits: transport.send_credits.0,
        receive_credits: transport.receive_credits.0,
        receives_posted: transport.receives_posted.into(),
        queued: narrow(transport.queued + transport.queued_reads),
        outstanding: conn.outstanding,
        starved: narrow(transport.starved),
        age_ns: nanoseconds(now.saturating_since(conn.since)),
        inline_bytes_in: traffic.inline_bytes_in,
        inline_bytes_out: traffic.inline_bytes_out,
        rdma_read_bytes: traffic.rdma_read_bytes,
        rdma_write_bytes: traffic.rdma_write_bytes,
        messages_in: traffic.messages_in,
        messages_out: traffic.messages_out,
        invalidations_out: traffic.invalidations_out,
    }
}

fn of_process(process: &Attached, registry: &Registry<Attached>, connections: u32) -> Process {
    let (account, segments) = process.0.memory();
    Process {
        id: process.id(),
        pid: process.0.pid(),
        role: match process.role() {
            Role::Listener => abi::role::LISTENER,
            Role::Worker => abi::role::WORKER,
            Role::Observer => abi::role::OBSERVER,
        },
        flags: match process.invited() {
            true => process_flags::INVITED,
            false => 0,
        },
        connections,
        sessions: match process.role() {
            Role::Worker => narrow(registry.registered(process.id())),
            Role::Listener | Role::Observer => 0,
        },
        send_segments: narrow(segments.send.iter().flatten().count()),
        bulk_segments: narrow(segments.bulk.iter().flatten().count()),
        memory: account.used(),
    }
}

fn of_close(close: &registry::Close, loaded: Instant) -> Close {
    let flags = [
        (close.worker.is_some(), close_flags::OWNED),
        (close.local.is_some(), close_flags::LOCAL),
    ];
    Close {
        peer: socket_address(close.peer),
        local: optional(close.local),
        fabric: name(close.fabric),
        reason: name(close.reason),
        flags: flags
            .into_iter()
            .filter(|(is, _)| *is)
            .map(|(_, flag)| flag)
            .sum(),
        worker: close.worker.unwrap_or(0),
        at_ns: nanoseconds(close.at.saturating_since(loaded)),
        age_ns: nanoseconds(close.age),
        bytes_received: close.bytes_received,
        bytes_sent: close.bytes_sent,
    }
}
