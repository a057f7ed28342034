// SPDX-License-Identifier: GPL-2.0-or-later

//! What a broker says about itself, for people and their tools.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::process::Process;
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
    /// Time since it started.
    pub uptime_seconds: f64,
    /// When it started, in seconds since 1970; `null` if it does not know.
    #[serde(default)]
    pub start_time_seconds: Option<f64>,
    /// What its own process uses; `null` for a device that is not a process.
    #[serde(default)]
    pub usage: Option<Usage>,
    /// It takes no more connections and processes, and ends once the existing connections have ended.
    pub stopping: bool,
    /// Where it accepts SMB Direct.
    pub listen: Vec<SocketAddr>,
    /// Where clients reach it: what smbd tells them.
    pub addresses: Vec<AddressStatus>,
    /// The addresses of `listen` that this machine does not have: they are served as soon as it does.
    #[serde(default)]
    pub missing: Vec<SocketAddr>,
    /// The addresses of this machine that the listener allows clients to use; `null`: all.
    #[serde(default)]
    pub allowed: Option<Vec<String>>,
    /// The limits.
    pub limits: Limits,
    /// What there is now.
    pub totals: Totals,
    /// What each fabric has carried since the start, by its name, including connections that have ended.
    pub carried: BTreeMap<String, Carried>,
    /// The connections that have negotiated.
    pub connections: Vec<ConnectionStatus>,
    /// The processes that are attached.
    pub processes: Vec<ProcessStatus>,
    /// The connections that ended last, the oldest end first.
    pub closes: Vec<CloseStatus>,
    /// How many connections ended since the start, by fabric and reason.
    #[serde(default)]
    pub ends: BTreeMap<String, BTreeMap<String, u64>>,
    /// How many processes were not allowed to attach since the start, by the name of the status that they got.
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
    /// Descriptors that are open.
    pub open_descriptors: u64,
    /// Descriptors that may be open; `null`: any number.
    pub max_descriptors: Option<u64>,
    /// Bytes of memory that are resident, shared ones included.
    pub resident_bytes: u64,
}

/// An address at which clients reach the broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressStatus {
    /// With the port.
    pub address: SocketAddr,
    /// The name of its interface, if known.
    pub interface: Option<String>,
    /// The system's index of its interface, or 0.
    pub interface_index: u32,
    /// Bits per second.
    pub link_speed: u64,
    /// The fabric that serves it: `software` or `verbs`.
    pub fabric: String,
}

/// The limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Connections.
    pub connections: usize,
    /// Connections that are offered to the listener at a time.
    pub undispatched: usize,
    /// Connections without a session.
    pub unauthenticated: usize,
    /// Workers.
    pub workers: usize,
    /// Sessions and clients of one worker.
    pub sessions_of_worker: usize,
    /// Bytes of memory of one worker.
    pub memory_of_worker: u64,
    /// Bytes of memory of all workers.
    pub memory: u64,
    /// Entries of a ring.
    pub queue_depth: u32,
}

/// What there is now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Connections that have negotiated.
    pub connections: usize,
    /// Those of them without an owner.
    pub undispatched: usize,
    /// Those of them without a session.
    pub unauthenticated: usize,
    /// Tokens that may be claimed.
    pub offered: usize,
    /// Client GUIDs that are registered.
    pub clients: usize,
    /// Sessions that are registered.
    pub sessions: usize,
    /// Bytes of memory of all workers.
    pub memory: u64,
    /// Queues of all workers.
    pub queues: usize,
    /// Segments that are registered with connections, each counted once per connection.
    pub registrations: usize,
}

/// What a fabric has carried since the start. None of the numbers ever falls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// Connections that asked to be accepted.
    #[serde(default)]
    pub requested: u64,
    /// Connections that negotiated.
    pub connections: u64,
    /// Messages received.
    pub messages_in: u64,
    /// Messages sent.
    pub messages_out: u64,
    /// Bytes of messages received.
    pub inline_bytes_in: u64,
    /// Bytes of messages sent.
    pub inline_bytes_out: u64,
    /// RDMA READs that brought all of their data.
    pub rdma_reads: u64,
    /// Bytes that RDMA READ brought.
    pub rdma_read_bytes: u64,
    /// RDMA WRITEs that carried all of their data.
    pub rdma_writes: u64,
    /// Bytes that RDMA WRITE carried.
    pub rdma_write_bytes: u64,
    /// Clients' tokens that messages invalidated.
    pub invalidations_out: u64,
    /// How often a received fragment had to wait for its owner's memory.
    pub buffer_waits: u64,
}

impl Carried {
    /// Adds what some connections carried.
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
        let mut sum = Self::default();
        sum.add(carried.connections, &carried.traffic);
        sum
    }
}

/// A connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnectionStatus {
    /// The number that its owner knows it by.
    pub id: Option<u64>,
    /// The reactor that drives it.
    pub reactor: usize,
    /// The client's address.
    pub peer: SocketAddr,
    /// The address at which it came in.
    pub local: Option<SocketAddr>,
    /// The fabric that carries it: `software` or `verbs`.
    pub fabric: String,
    /// The worker that owns it.
    pub worker: Option<u32>,
    /// That worker's process.
    pub pid: Option<i32>,
    /// `fresh`, `offered`, `owned` or `ending`.
    pub state: String,
    /// Messages that may be sent to the client now.
    pub send_credits: u16,
    /// Messages that the client may send now.
    pub receive_credits: u16,
    /// Receives that are posted.
    pub receives_posted: u16,
    /// Bytes of messages received.
    pub inline_bytes_in: u64,
    /// Bytes of messages sent.
    pub inline_bytes_out: u64,
    /// Bytes that RDMA READ brought.
    pub rdma_read_bytes: u64,
    /// Bytes that RDMA WRITE carried.
    pub rdma_write_bytes: u64,
    /// Messages received.
    pub messages_in: u64,
    /// Messages sent.
    pub messages_out: u64,
    /// The client's tokens that messages invalidated, in answers to requests with channel 2.
    pub invalidations_out: u64,
    /// Operations queued and not posted.
    pub queued: usize,
    /// Submissions that have not been answered.
    pub outstanding: u32,
    /// Received fragments that wait for the owner's memory.
    pub starved: usize,
    /// Its worker said that a user has logged in on it, or that a share has let a guest in.
    pub authenticated: bool,
    /// Time since it was accepted.
    pub age_seconds: f64,
}

impl ConnectionStatus {
    /// The status of a reactor's connection at the time `now`.
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
            age_seconds: now.saturating_since(conn.since).as_secs_f64(),
        }
    }
}

/// An attached process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// The device's number for it.
    pub id: u32,
    /// The system's number for it.
    pub pid: i32,
    /// `listener`, `worker` or `observer`.
    pub role: String,
    /// It came with the token of a connection, and does not count towards `limits.workers`.
    #[serde(default)]
    pub invited: bool,
    /// Connections that it owns.
    pub connections: usize,
    /// Sessions and clients that it has registered.
    pub sessions: usize,
    /// Bytes of all its memory.
    pub memory: u64,
    /// Segments of SEND.
    pub send_segments: usize,
    /// Segments of BULK.
    pub bulk_segments: usize,
    /// Its queues.
    pub queues: Vec<QueueStatus>,
}

/// A queue of a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStatus {
    /// Its reactor, whose number is also the queue's.
    pub reactor: usize,
    /// Connections.
    pub connections: usize,
    /// Completions that found no room in the ring.
    pub overflow: usize,
    /// Completions in the ring.
    pub completions: u32,
    /// Submissions that have not been answered.
    pub outstanding: u32,
    /// Segments of RECEIVE.
    pub receive_segments: u32,
    /// Units of RECEIVE in use.
    pub receive_units_used: u32,
}

impl QueueStatus {
    /// The status of a queue with a reactor.
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
    /// The address at which it came in.
    pub local: Option<SocketAddr>,
    /// The fabric that carried it: `software` or `verbs`.
    pub fabric: String,
    /// The worker that owned it.
    pub worker: Option<u32>,
    /// The reason's name.
    pub reason: String,
    /// When it ended, counted from the broker's start.
    pub at_seconds: f64,
    /// How old it was.
    pub age_seconds: f64,
    /// Bytes that came from the client, in messages and by RDMA READ.
    pub bytes_received: u64,
    /// Bytes that went to the client, in messages and by RDMA WRITE.
    pub bytes_sent: u64,
}

impl From<&Close> for CloseStatus {
    fn from(close: &Close) -> Self {
        Self {
            peer: close.peer,
            local: close.local,
            fabric: close.fabric.to_owned(),
            worker: close.worker,
            reason: close.reason.to_owned(),
            at_seconds: close.at.saturating_since(Instant::ZERO).as_secs_f64(),
            age_seconds: close.age.as_secs_f64(),
            bytes_received: close.bytes_received,
            bytes_sent: close.bytes_sent,
        }
    }
}
