// SPDX-License-Identifier: GPL-2.0-or-later

//! Turns the records that a device in the kernel writes into a [`Status`], so that tools read the same form whichever
//! device they ask.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use super::status::{
    AddressStatus, Carried, CloseStatus, ConnectionStatus, Limits, ProcessStatus, QueueStatus,
    Status, Totals,
};
use crate::device::abi::{Address, AllowedAddress};
use crate::device::uapi::status::{
    self, Close, Connection, Counter, Device, Process, Queue, Record, SocketAddress, close_flags,
    connection_flags, device_flags, process_flags, record, split_first, text,
};
use crate::engine::peer::Role;

/// The records are not a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// The first record is not that of the device.
    #[error("the status of the kernel's device does not begin with the device")]
    NoDevice,
    /// A record is longer than what is left, or shorter than its head.
    #[error("the status of the kernel's device ends within a record, {0} bytes before its end")]
    Torn(usize),
    /// A record of a known kind is shorter than it has ever been.
    #[error("a record of kind {kind} in the status of the kernel's device has only {length} bytes")]
    Short {
        /// The record's kind.
        kind: u32,
        /// Bytes after its head.
        length: usize,
    },
}

/// Reads the records. Kinds that this version does not know are skipped. `name_of` finds the name of a network
/// interface.
///
/// # Errors
///
/// [`Unreadable`].
pub fn read(
    mut records: &[u8],
    name_of: impl Fn(u32) -> Option<String>,
) -> Result<Status, Unreadable> {
    let (record::DEVICE, body, rest) = split_first(records).ok_or(Unreadable::NoDevice)? else {
        return Err(Unreadable::NoDevice);
    };
    let mut status = of_device(&read_record(body)?);
    records = rest;
    while !records.is_empty() {
        let (kind, body, rest) = split_first(records).ok_or(Unreadable::Torn(records.len()))?;
        records = rest;
        match kind {
            record::LISTEN => status.listen.push(of_address(&read_record(body)?)),
            record::ADDRESS => {
                let address: Address = read_record(body)?;
                status.addresses.push(AddressStatus {
                    address: socket_address(address.address, address.scope_id, address.port),
                    interface: name_of(address.interface),
                    interface_index: address.interface,
                    link_speed: address.link_speed,
                    fabric: "verbs".to_owned(),
                });
            }
            record::ALLOWED => {
                let allowed: AllowedAddress = read_record(body)?;
                let list = status.allowed.get_or_insert_default();
                list.push(allowed_text(&allowed));
            }
            record::CARRIED => {
                let (fabric, carried) = of_carried(&read_record(body)?);
                status.carried.insert(fabric, carried);
            }
            record::CONNECTION => status.connections.push(of_connection(&read_record(body)?)),
            record::PROCESS => status.processes.push(of_process(&read_record(body)?)),
            record::QUEUE => {
                let queue: Queue = read_record(body)?;
                let mut owners = status.processes.iter_mut();
                if let Some(owner) = owners.find(|process| process.id == queue.worker) {
                    owner.queues.push(of_queue(&queue));
                }
            }
            record::CLOSE => status.closes.push(of_close(&read_record(body)?)),
            record::COUNTER => {
                let counter: Counter = read_record(body)?;
                status
                    .counters
                    .insert(text(&counter.name).collect(), counter.count);
            }
            _ => {}
        }
    }
    let requested = status.counters.get("transport_requested").copied();
    // The kernel's device has one fabric, so all requests belong to it.
    if let Some(carried) = status.carried.values_mut().next() {
        carried.requested = requested.unwrap_or_default();
    }
    Ok(status)
}

fn read_record<R: Record>(body: &[u8]) -> Result<R, Unreadable> {
    status::read(body).ok_or(Unreadable::Short {
        kind: R::KIND,
        length: body.len(),
    })
}

fn of_device(device: &Device) -> Status {
    let restricted = device.flags & device_flags::RESTRICTED != 0;
    Status {
        version: text(&device.version).collect(),
        interface: device.interface,
        uptime_seconds: seconds(device.uptime_ns),
        start_time_seconds: None,
        usage: None,
        stopping: device.flags & device_flags::STOPPING != 0,
        listen: Vec::new(),
        addresses: Vec::new(),
        missing: Vec::new(),
        allowed: restricted.then(Vec::new),
        limits: Limits {
            connections: device.max_connections as usize,
            undispatched: device.max_undispatched as usize,
            unauthenticated: device.max_unauthenticated as usize,
            workers: device.max_workers as usize,
            sessions_of_worker: device.max_sessions_of_worker as usize,
            memory_of_worker: device.max_memory_of_worker,
            memory: device.max_memory,
            queue_depth: device.queue_depth,
        },
        totals: Totals {
            connections: device.connections as usize,
            undispatched: device.undispatched as usize,
            // The device does not report this number. Besides offers, only a few transfers have tokens.
            dispatching: device.offered as usize,
            unauthenticated: device.unauthenticated as usize,
            offered: device.offered as usize,
            clients: device.clients as usize,
            sessions: device.sessions as usize,
            memory: device.memory,
            queues: device.queues as usize,
            registrations: device.registrations as usize,
        },
        carried: BTreeMap::new(),
        connections: Vec::new(),
        processes: Vec::new(),
        closes: Vec::new(),
        clients: Vec::new(),
        ends: BTreeMap::new(),
        refused: BTreeMap::new(),
        counters: BTreeMap::new(),
    }
}

fn of_carried(carried: &status::Carried) -> (String, Carried) {
    let of = Carried {
        // The device reports this number as a counter, which `read` copies.
        requested: 0,
        connections: carried.connections,
        messages_in: carried.messages_in,
        messages_out: carried.messages_out,
        inline_bytes_in: carried.inline_bytes_in,
        inline_bytes_out: carried.inline_bytes_out,
        rdma_reads: carried.rdma_reads,
        rdma_read_bytes: carried.rdma_read_bytes,
        rdma_writes: carried.rdma_writes,
        rdma_write_bytes: carried.rdma_write_bytes,
        invalidations_out: carried.invalidations_out,
        buffer_waits: carried.buffer_waits,
    };
    (text(&carried.fabric).collect(), of)
}

fn of_connection(connection: &Connection) -> ConnectionStatus {
    let flags = connection.flags;
    let is_owned = flags & connection_flags::OWNED != 0;
    ConnectionStatus {
        id: is_owned.then_some(connection.id),
        // A worker has one queue.
        reactor: 0,
        peer: of_address(&connection.peer),
        local: (flags & connection_flags::LOCAL != 0).then(|| of_address(&connection.local)),
        fabric: text(&connection.fabric).collect(),
        worker: is_owned.then_some(connection.worker),
        pid: is_owned.then_some(connection.pid),
        state: text(&connection.state).collect(),
        send_credits: connection.send_credits,
        receive_credits: connection.receive_credits,
        receives_posted: u16::try_from(connection.receives_posted).unwrap_or(u16::MAX),
        inline_bytes_in: connection.inline_bytes_in,
        inline_bytes_out: connection.inline_bytes_out,
        rdma_read_bytes: connection.rdma_read_bytes,
        rdma_write_bytes: connection.rdma_write_bytes,
        messages_in: connection.messages_in,
        messages_out: connection.messages_out,
        invalidations_out: connection.invalidations_out,
        queued: connection.queued as usize,
        outstanding: connection.outstanding,
        starved: connection.starved as usize,
        authenticated: flags & connection_flags::AUTHENTICATED != 0,
        protection: None,
        encrypted_by: Vec::new(),
        age_seconds: seconds(connection.age_ns),
    }
}

fn of_process(process: &Process) -> ProcessStatus {
    ProcessStatus {
        id: process.id,
        pid: process.pid,
        role: Role::of(process.role)
            .map_or("unknown", Role::name)
            .to_owned(),
        invited: process.flags & process_flags::INVITED != 0,
        connections: process.connections as usize,
        sessions: process.sessions as usize,
        memory: process.memory,
        send_segments: process.send_segments as usize,
        bulk_segments: process.bulk_segments as usize,
        queues: Vec::new(),
    }
}

const fn of_queue(queue: &Queue) -> QueueStatus {
    QueueStatus {
        reactor: queue.queue as usize,
        connections: queue.connections as usize,
        overflow: queue.overflow as usize,
        completions: queue.completions,
        outstanding: queue.outstanding,
        receive_segments: queue.receive_segments,
        receive_units_used: queue.receive_units_used,
    }
}

fn of_close(close: &Close) -> CloseStatus {
    CloseStatus {
        peer: of_address(&close.peer),
        local: (close.flags & close_flags::LOCAL != 0).then(|| of_address(&close.local)),
        fabric: text(&close.fabric).collect(),
        worker: (close.flags & close_flags::OWNED != 0).then_some(close.worker),
        reason: text(&close.reason).collect(),
        at_seconds: seconds(close.at_ns),
        age_seconds: seconds(close.age_ns),
        bytes_received: close.bytes_received,
        bytes_sent: close.bytes_sent,
    }
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

fn of_address(address: &SocketAddress) -> SocketAddr {
    socket_address(address.address, address.scope_id, address.port)
}

fn socket_address(address: [u8; 16], scope_id: u32, port: u16) -> SocketAddr {
    match Ipv6Addr::from(address).to_canonical() {
        IpAddr::V4(ip) => (ip, port).into(),
        IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, scope_id).into(),
    }
}

/// Returns an address as smbdirectd writes it.
fn allowed_text(allowed: &AllowedAddress) -> String {
    let ip = Ipv6Addr::from(allowed.address).to_canonical();
    match allowed.scope_id {
        0 => ip.to_string(),
        scope => format!("{ip}%{scope}"),
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::{FromZeros, IntoBytes};

    use super::*;
    use crate::device::abi;
    use crate::device::uapi::status::{Carried as CarriedRecord, name, push};

    fn records() -> Vec<u8> {
        let mut records = Vec::new();
        let mut device = Device::new_zeroed();
        device.version = name("0.1.0");
        (device.interface, device.flags) = (abi::VERSION, 3);
        (device.uptime_ns, device.max_memory, device.sessions) = (1_500_000_000, 7, 2);
        push(&mut records, &device);
        let v4 = Ipv6Addr::from([0, 0, 0, 0, 0, 0xffff, 0x0a00, 1]).octets();
        let peer = SocketAddress {
            address: v4,
            port: 49152,
            ..SocketAddress::new_zeroed()
        };
        push(&mut records, &SocketAddress { port: 445, ..peer });
        let address = Address {
            address: Ipv6Addr::from([0xfe80, 0, 0, 0, 0, 0, 0, 1]).octets(),
            link_speed: 100,
            interface: 2,
            scope_id: 2,
            port: 5445,
            reserved: [0; 3],
        };
        push(&mut records, &address);
        let allowed = AllowedAddress {
            address: address.address,
            scope_id: 2,
            reserved: 0,
        };
        push(&mut records, &allowed);
        let mut carried = CarriedRecord::new_zeroed();
        (carried.fabric, carried.buffer_waits) = (name("verbs"), 9);
        push(&mut records, &carried);
        let mut connection = Connection::new_zeroed();
        (connection.peer, connection.local) = (peer, peer);
        (connection.id, connection.worker, connection.pid) = (5, 3, 77);
        connection.state = name("offered");
        push(&mut records, &connection);
        connection.flags = 7;
        connection.age_ns = 250_000_000;
        push(&mut records, &connection);
        let mut process = Process::new_zeroed();
        (process.id, process.role, process.flags) = (3, abi::role::WORKER, 1);
        push(&mut records, &process);
        let mut queue = Queue::new_zeroed();
        (queue.worker, queue.receive_units_used) = (3, 8);
        push(&mut records, &queue);
        queue.worker = 4; // No process has this number.
        push(&mut records, &queue);
        let mut close = Close::new_zeroed();
        (close.peer, close.reason) = (peer, name("keepalive_timeout"));
        push(&mut records, &close);
        let counter = Counter {
            name: name("attached"),
            count: 4,
        };
        push(&mut records, &counter);
        // A record of a later version.
        records.extend_from_slice([99u32, 12, 5].as_bytes());
        records
    }

    #[test]
    fn the_records_become_what_smbdirectd_reports() {
        let name_of = |index| (index == 2).then(|| "eth0".to_owned());
        let status = read(&records(), name_of).unwrap();
        let json = serde_json::to_value(&status).unwrap();
        for (pointer, value) in [
            ("/version", serde_json::json!("0.1.0")),
            ("/interface", abi::VERSION.into()),
            ("/uptime_seconds", 1.5.into()),
            ("/stopping", true.into()),
            ("/limits/memory", 7.into()),
            ("/totals/sessions", 2.into()),
            ("/listen/0", "10.0.0.1:445".into()),
            ("/addresses/0/address", "[fe80::1%2]:5445".into()),
            ("/addresses/0/interface", "eth0".into()),
            ("/allowed/0", "fe80::1%2".into()),
            ("/carried/verbs/buffer_waits", 9.into()),
            ("/connections/0/peer", "10.0.0.1:49152".into()),
            ("/connections/0/state", "offered".into()),
            ("/connections/0/pid", serde_json::Value::Null),
            ("/connections/0/local", serde_json::Value::Null),
            ("/connections/1/id", 5.into()),
            ("/connections/1/pid", 77.into()),
            ("/connections/1/authenticated", true.into()),
            ("/connections/1/age_seconds", 0.25.into()),
            ("/processes/0/role", "worker".into()),
            ("/processes/0/invited", true.into()),
            ("/processes/0/queues/0/receive_units_used", 8.into()),
            ("/processes/0/queues/1", serde_json::Value::Null),
            ("/closes/0/reason", "keepalive_timeout".into()),
            ("/closes/0/worker", serde_json::Value::Null),
            ("/counters/attached", 4.into()),
        ] {
            let found = json.pointer(pointer).cloned().unwrap_or_default();
            assert_eq!(found, value, "{pointer}");
        }
    }

    #[test]
    fn refuses_what_is_not_a_status() {
        let records = records();
        let failure = |records: &[u8]| read(records, |_| None).map(drop).unwrap_err();
        assert_eq!(failure(&[]), Unreadable::NoDevice);
        assert_eq!(failure(&records[120..]), Unreadable::NoDevice, "no device");
        assert_eq!(failure(&records[..119]), Unreadable::NoDevice);
        assert_eq!(failure(&records[..records.len() - 1]), Unreadable::Torn(11));
        assert_eq!(failure(&records[..120 + 31]), Unreadable::Torn(31));
        for kind in record::LISTEN..=record::COUNTER {
            let mut short = records[..120].to_vec();
            short.extend_from_slice([kind, 16, 0, 0].as_bytes());
            assert_eq!(failure(&short), Unreadable::Short { kind, length: 8 });
        }
        // An empty list, which allows no address, differs from a missing one, which allows all.
        let only_device = read(&records[..120], |_| None).unwrap();
        assert_eq!(only_device.allowed, Some(Vec::new()));
    }
}
