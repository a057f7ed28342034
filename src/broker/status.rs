// SPDX-License-Identifier: GPL-2.0-or-later

//! What a broker reports about itself, for people and their tools.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::process::Process;
use crate::device::abi::{encrypted, protection};
use crate::engine::registry::{self, Close};
use crate::engine::shard::{ConnReport, QueueReport};
use crate::fabric::FabricKind;
use crate::transport::Traffic;
use crate::units::Instant;

/// The status of a broker at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The version of the program.
    pub version: String,
    /// The version of the interface to workers.
    pub interface: u32,
    /// Time since the broker started.
    pub uptime_seconds: f64,
    /// The time at which the broker started, in seconds since 1970; `null` if the broker does not know that time.
    #[serde(default)]
    pub start_time_seconds: Option<f64>,
    /// What the broker's own process uses; `null` for a device that is not a process.
    #[serde(default)]
    pub usage: Option<Usage>,
    /// Whether the broker is stopping: it accepts no more connections and processes, and ends once the existing
    /// connections have ended.
    pub stopping: bool,
    /// The addresses on which the broker accepts SMB Direct.
    pub listen: Vec<SocketAddr>,
    /// The addresses on which clients reach the broker, and which smbd announces.
    pub addresses: Vec<AddressStatus>,
    /// The addresses of `listen` that this machine does not have; the broker serves clients there as soon as the
    /// machine has them.
    #[serde(default)]
    pub missing: Vec<SocketAddr>,
    /// The addresses of this machine that the listener allows clients to use; `null` stands for all.
    #[serde(default)]
    pub allowed: Option<Vec<String>>,
    /// The limits.
    pub limits: Limits,
    /// The current numbers.
    pub totals: Totals,
    /// The traffic of each fabric since the start, by the fabric's name, including connections that have ended.
    pub carried: BTreeMap<String, Carried>,
    /// The connections that have negotiated.
    pub connections: Vec<ConnectionStatus>,
    /// The processes that are attached.
    pub processes: Vec<ProcessStatus>,
    /// The connections that ended last, the oldest end first.
    pub closes: Vec<CloseStatus>,
    /// What smbd has said about its clients; the client about which it said something last comes first. A device in the
    /// kernel leaves this empty.
    #[serde(default)]
    pub clients: Vec<ClientStatus>,
    /// Number of connections that ended since the start, by fabric and reason.
    #[serde(default)]
    pub ends: BTreeMap<String, BTreeMap<String, u64>>,
    /// Number of processes that were not allowed to attach since the start, by the name of the status that they got.
    #[serde(default)]
    pub refused: BTreeMap<String, u64>,
    /// Counts of events by name: ends of connections by reason, refusals, attachments.
    pub counters: BTreeMap<String, u64>,
}

/// What the process of a device uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Processor time of all its threads since the start.
    pub cpu_seconds: f64,
    /// Number of open descriptors.
    pub open_descriptors: u64,
    /// Maximum number of open descriptors; `null` stands for no limit.
    pub max_descriptors: Option<u64>,
    /// Number of resident bytes of memory, including shared ones.
    pub resident_bytes: u64,
}

/// An address on which clients reach the broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressStatus {
    /// The address with its port.
    pub address: SocketAddr,
    /// The name of the address's interface, if known.
    pub interface: Option<String>,
    /// The system's index of the address's interface, or 0.
    pub interface_index: u32,
    /// The speed in bits per second.
    pub link_speed: u64,
    /// The fabric that serves the address: `software` or `verbs`.
    pub fabric: String,
}

/// The limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Maximum number of connections.
    pub connections: usize,
    /// Maximum number of connections that are offered to the listener at a time.
    pub undispatched: usize,
    /// Maximum number of connections without a session.
    pub unauthenticated: usize,
    /// Maximum number of workers.
    pub workers: usize,
    /// Maximum number of sessions and clients of one worker.
    pub sessions_of_worker: usize,
    /// Maximum number of bytes of memory of one worker.
    pub memory_of_worker: u64,
    /// Maximum number of bytes of memory of all workers together.
    pub memory: u64,
    /// Number of entries of a ring.
    pub queue_depth: u32,
}

/// The current numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Number of connections that have negotiated.
    pub connections: usize,
    /// Number of connections that have negotiated and have no owner.
    pub undispatched: usize,
    /// Number of connections that are offered to the listener and have no owner yet, which is what
    /// [`Limits::undispatched`] limits.
    #[serde(default)]
    pub dispatching: usize,
    /// Number of connections that have negotiated and have no session.
    pub unauthenticated: usize,
    /// Number of tokens that may be claimed.
    pub offered: usize,
    /// Number of client GUIDs that are registered.
    pub clients: usize,
    /// Number of sessions that are registered.
    pub sessions: usize,
    /// Number of bytes of memory of all workers.
    pub memory: u64,
    /// Number of queues of all workers.
    pub queues: usize,
    /// Number of segments that are registered with connections, each counted once per connection.
    pub registrations: usize,
}

/// The traffic of a fabric since the start. None of the numbers ever falls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// Number of connections that asked to be accepted.
    #[serde(default)]
    pub requested: u64,
    /// Number of connections that negotiated.
    pub connections: u64,
    /// Number of messages received.
    pub messages_in: u64,
    /// Number of messages sent.
    pub messages_out: u64,
    /// Bytes of messages received.
    pub inline_bytes_in: u64,
    /// Bytes of messages sent.
    pub inline_bytes_out: u64,
    /// Number of RDMA READs that fetched all of their data.
    pub rdma_reads: u64,
    /// Bytes that RDMA READs fetched.
    pub rdma_read_bytes: u64,
    /// Number of RDMA WRITEs that carried all of their data.
    pub rdma_writes: u64,
    /// Bytes that RDMA WRITEs carried.
    pub rdma_write_bytes: u64,
    /// Number of clients' tokens that messages invalidated.
    pub invalidations_out: u64,
    /// How often a received fragment had to wait for memory of the connection's owner.
    pub buffer_waits: u64,
}

impl Carried {
    /// Adds the traffic of some connections.
    pub(super) fn add(&mut self, established: u64, traffic: &Traffic) {
        for (sum, number) in [
            (&mut self.connections, established),
            (&mut self.messages_in, traffic.messages_in),
            (&mut self.messages_out, traffic.messages_out),
            (&mut self.inline_bytes_in, traffic.inline_bytes_in),
            (&mut self.inline_bytes_out, traffic.inline_bytes_out),
            (&mut self.rdma_reads, traffic.rdma_reads),
            (&mut self.rdma_read_bytes, traffic.rdma_read_bytes),
            (&mut self.rdma_writes, traffic.rdma_writes),
            (&mut self.rdma_write_bytes, traffic.rdma_write_bytes),
            (&mut self.invalidations_out, traffic.invalidations_out),
            (&mut self.buffer_waits, traffic.buffer_waits),
        ] {
            *sum = sum.saturating_add(number);
        }
    }
}

impl From<&registry::Carried> for Carried {
    fn from(carried: &registry::Carried) -> Self {
        let mut sum = Self {
            requested: carried.requested,
            ..Self::default()
        };
        sum.add(carried.connections, &carried.traffic);
        sum
    }
}

/// A connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnectionStatus {
    /// The number by which the owner knows the connection.
    pub id: Option<u64>,
    /// The reactor that drives it.
    pub reactor: usize,
    /// The client's address.
    pub peer: SocketAddr,
    /// The server's address to which the client connected.
    pub local: Option<SocketAddr>,
    /// The fabric that carries it: `software` or `verbs`.
    pub fabric: String,
    /// The worker that owns it.
    pub worker: Option<u32>,
    /// The system's number for that worker's process.
    pub pid: Option<i32>,
    /// `fresh`, `offered`, `owned` or `ending`.
    pub state: String,
    /// Number of messages that may be sent to the client now.
    pub send_credits: u16,
    /// Number of messages that the client may send now.
    pub receive_credits: u16,
    /// Number of receives that are posted.
    pub receives_posted: u16,
    /// Bytes of messages received.
    pub inline_bytes_in: u64,
    /// Bytes of messages sent.
    pub inline_bytes_out: u64,
    /// Bytes that RDMA READs fetched.
    pub rdma_read_bytes: u64,
    /// Bytes that RDMA WRITEs carried.
    pub rdma_write_bytes: u64,
    /// Number of messages received.
    pub messages_in: u64,
    /// Number of messages sent.
    pub messages_out: u64,
    /// Number of the client's tokens that messages invalidated, in answers to requests with channel 2.
    pub invalidations_out: u64,
    /// Number of operations that are queued and not posted.
    pub queued: usize,
    /// Submissions that have not been answered.
    pub outstanding: u32,
    /// Number of received fragments that wait for memory of the owner.
    pub starved: usize,
    /// Whether the connection's worker said that a user has logged in on it, or that a share has let a guest in.
    pub authenticated: bool,
    /// How file data is protected in the session of the last login, if smbd has said so: `plain`, `signed`,
    /// `encrypted`, `signed in messages` or `encrypted in messages`. Data that is not in messages may go by RDMA.
    #[serde(default)]
    pub protection: Option<String>,
    /// Who has encrypted file data on the connection although the session does not demand that: `share` or `client`, or
    /// `share in messages` or `client in messages` if the connection has no RDMA transform for encrypted data.
    #[serde(default)]
    pub encrypted_by: Vec<String>,
    /// Time since the connection was accepted.
    pub age_seconds: f64,
}

impl ConnectionStatus {
    /// Makes the status of a reactor's connection at the time `now`.
    pub(super) fn new(
        conn: ConnReport<Arc<Process>>,
        (reactor, fabric): (usize, FabricKind),
        now: Instant,
    ) -> Self {
        let (status, owner) = (conn.transport, conn.owner.as_ref());
        let traffic = status.traffic;
        Self {
            id: owner.map(|(_, number)| *number),
            reactor,
            peer: conn.peer,
            local: conn.local,
            fabric: fabric.to_string(),
            worker: owner.map(|(process, _)| process.id),
            pid: owner.map(|(process, _)| process.pid),
            state: conn.state.to_owned(),
            send_credits: status.send_credits.0,
            receive_credits: status.receive_credits.0,
            receives_posted: status.receives_posted,
            inline_bytes_in: traffic.inline_bytes_in,
            inline_bytes_out: traffic.inline_bytes_out,
            rdma_read_bytes: traffic.rdma_read_bytes,
            rdma_write_bytes: traffic.rdma_write_bytes,
            messages_in: traffic.messages_in,
            messages_out: traffic.messages_out,
            invalidations_out: traffic.invalidations_out,
            queued: status.queued + status.queued_reads,
            outstanding: conn.outstanding,
            starved: status.starved,
            authenticated: conn.authenticated,
            protection: conn.protection.and_then(protection_name).map(str::to_owned),
            encrypted_by: encrypted_by(conn.encrypted),
            age_seconds: now.saturating_since(conn.since).as_secs_f64(),
        }
    }
}

/// Returns the name of one of `protection::*`; `None` if the value is not known here.
const fn protection_name(value: u32) -> Option<&'static str> {
    match value {
        protection::PLAIN => Some("plain"),
        protection::SIGNED => Some("signed"),
        protection::ENCRYPTED => Some("encrypted"),
        protection::SIGNED_IN_MESSAGES => Some("signed in messages"),
        protection::ENCRYPTED_IN_MESSAGES => Some("encrypted in messages"),
        _ => None,
    }
}

/// Returns the names of the bits of `encrypted::*`. Bits that are not known here have no name.
fn encrypted_by(bits: u32) -> Vec<String> {
    let how = match bits & encrypted::IN_MESSAGES {
        0 => "",
        _ => " in messages",
    };
    let all = [
        (encrypted::BY_SHARE, "share"),
        (encrypted::BY_CLIENT, "client"),
    ];
    let set = all.into_iter().filter(|(bit, _)| bits & bit != 0);
    set.map(|(_, name)| format!("{name}{how}")).collect()
}

/// An attached process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// The device's number for the process.
    pub id: u32,
    /// The system's number for the process.
    pub pid: i32,
    /// `listener`, `worker` or `observer`.
    pub role: String,
    /// Whether the process attached with the token of a connection; such a process does not count towards
    /// `limits.workers`.
    #[serde(default)]
    pub invited: bool,
    /// Number of connections that the process owns.
    pub connections: usize,
    /// Number of sessions and clients that the process has registered.
    pub sessions: usize,
    /// Number of bytes of the process's memory.
    pub memory: u64,
    /// Number of SEND segments.
    pub send_segments: usize,
    /// Number of BULK segments.
    pub bulk_segments: usize,
    /// Its queues.
    pub queues: Vec<QueueStatus>,
}

/// A queue of a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStatus {
    /// The queue's reactor, whose number is also the queue's number.
    pub reactor: usize,
    /// Number of connections.
    pub connections: usize,
    /// Number of completions for which there was no room in the ring.
    pub overflow: usize,
    /// Number of completions in the ring.
    pub completions: u32,
    /// Submissions that have not been answered.
    pub outstanding: u32,
    /// Number of RECEIVE segments.
    pub receive_segments: u32,
    /// Number of RECEIVE units in use.
    pub receive_units_used: u32,
}

impl QueueStatus {
    /// Makes the status of a queue with a reactor.
    pub(super) const fn new(queue: &QueueReport, reactor: usize) -> Self {
        Self {
            reactor,
            connections: queue.connections,
            overflow: queue.overflow,
            completions: queue.completions,
            outstanding: queue.outstanding,
            receive_segments: queue.receive_segments,
            receive_units_used: queue.receive_units_used,
        }
    }
}

/// The end of a connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CloseStatus {
    /// The client's address.
    pub peer: SocketAddr,
    /// The server's address to which the client connected.
    pub local: Option<SocketAddr>,
    /// The fabric that carried it: `software` or `verbs`.
    pub fabric: String,
    /// The worker that owned it.
    pub worker: Option<u32>,
    /// The reason's name.
    pub reason: String,
    /// Time from the broker's start to the end of the connection.
    pub at_seconds: f64,
    /// Time that the connection lasted.
    pub age_seconds: f64,
    /// Bytes that came from the client, in messages and by RDMA READ.
    pub bytes_received: u64,
    /// Bytes that went to the client, in messages and by RDMA WRITE.
    pub bytes_sent: u64,
}

/// What smbd has said about a client, which is an address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClientStatus {
    /// The client's address.
    pub address: IpAddr,
    /// Time from the broker's start to the last note of smbd about the client.
    pub at_seconds: f64,
    /// The version of SMB that the client negotiated last, over TCP or SMB Direct, such as `3.1.1`.
    pub dialect: Option<String>,
    /// Whether the client supports multichannel.
    pub multichannel: Option<bool>,
    /// How often the client asked for the server's interfaces and was answered.
    pub asked: u64,
    /// The number of RDMA-capable addresses in the last answer; `null` also if the last question counts as `withheld`.
    pub told: Option<u32>,
    /// How often the answer announced no RDMA-capable address because the client's session is signed or encrypted and
    /// its connection has no RDMA transform for that.
    pub withheld: u64,
    /// Number of SMB Direct sessions of the client: logins on an SMB Direct connection, and connections on which a share
    /// has let a guest in. An anonymous session alone does not count.
    #[serde(default)]
    pub direct: u64,
    /// Time from the broker's start to the last such login.
    #[serde(default)]
    pub direct_at_seconds: Option<f64>,
    /// How often the client could not bind an SMB Direct connection to its session.
    pub refused: u64,
    /// The NTSTATUS of the last such failure, in hexadecimal; `null` if there has been an SMB Direct session since.
    pub refusal: Option<String>,
}

/// Returns a time as seconds since the broker's start.
pub(super) fn seconds(at: Instant) -> f64 {
    at.saturating_since(Instant::ZERO).as_secs_f64()
}

impl From<&Close> for CloseStatus {
    fn from(close: &Close) -> Self {
        Self {
            peer: close.peer,
            local: close.local,
            fabric: close.fabric.to_owned(),
            worker: close.worker,
            reason: close.reason.to_owned(),
            at_seconds: seconds(close.at),
            age_seconds: close.age.as_secs_f64(),
            bytes_received: close.bytes_received,
            bytes_sent: close.bytes_sent,
        }
    }
}
