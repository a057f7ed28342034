// SPDX-License-Identifier: GPL-2.0-or-later

//! Passes a shard on to a device that takes the place of this one, with the same clock.
//!
//! ```text
//!   old   freeze -> keep ---- KeptShard, descriptors, memory ----> adopt   new
//!           '-- what cannot be kept ends                             '-- what cannot be continued ends
//! ```
//!
//! A connection is kept with everything that is under way on it. Submissions that the shard has not taken stay in their
//! rings, and completions for which there was no room are written down. After [`freeze`](super::Shard::freeze), the shard
//! must not take a step until it is clear whether another device continues; if none does, it just goes on.
//!
//! What cannot be continued ends as if it had ended here: its worker gets the answers that are due, and then learns of
//! the end.

mod adopt;
mod keep;
#[cfg(test)]
mod tests;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;
use core::net::SocketAddr;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use crate::device::abi::Token;
use crate::engine::peer::Worker;
use crate::engine::pool::KeptBuffer;
use crate::engine::queue::KeptQueue;
use crate::engine::registry::KeptCarried;
use crate::fabric::RegionId;
use crate::sys::Memory;
use crate::transport::{Flushed, KeptConnection, Traffic};
use crate::units::Instant;

/// The state of a shard.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KeptShard {
    pub(crate) number: usize,
    pub(crate) conns: Vec<KeptConn>,
    pub(crate) queues: Vec<KeptQueue>,
    /// Connections that had not ended yet, but cannot be kept.
    ended: Vec<KeptEnd>,
    /// The numbers of workers whose queues cannot be kept.
    lost: Vec<u32>,
    carried: KeptCarried,
    /// The counters of the transport.
    counters: BTreeMap<String, u64>,
}

/// A connection.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KeptConn {
    transport: KeptConnection<KeptBuffer>,
    state: KeptState,
}

/// A connection that the next device does not continue, but has to end for its worker: only once this process has
/// ended, nothing can touch the worker's memory any longer.
#[derive(Debug, Serialize, Deserialize)]
struct KeptEnd {
    state: KeptState,
    flushed: Vec<Flushed>,
    /// The message in reassembly.
    message: Option<KeptBuffer>,
    traffic: Traffic,
}

/// The shard's own state of a connection.
#[derive(Debug, Serialize, Deserialize)]
struct KeptState {
    peer: SocketAddr,
    local: Option<SocketAddr>,
    since: Instant,
    used: Instant,
    stage: KeptStage,
    deadline: Option<Instant>,
    authenticated: bool,
    protection: Option<u32>,
    encrypted: u32,
    client_guid: [u8; 16],
    held: Vec<Bytes>,
    first: Option<Bytes>,
    info_due: bool,
    /// The worker of a claim, and the cookie of its request.
    claim: Option<(u32, Option<u64>)>,
    outstanding: u32,
    reads: u32,
    unrecycled: u32,
    ahead: Option<(u64, u64, u32, u32)>,
    behind: Vec<(u64, u32)>,
    send: Vec<Option<RegionId>>,
    bulk: Vec<Option<RegionId>>,
    /// Whether messages go to the worker's arena; `None` before the first message.
    is_direct: Option<bool>,
    last_worker: Option<u32>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum KeptStage {
    Fresh,
    Offered(Token),
    Owned { worker: u32, number: u64 },
}

#[derive(Debug, Serialize, Deserialize)]
struct Bytes(#[serde(with = "crate::units::hex")] Vec<u8>);

/// What a shard needs, besides its state, to continue.
pub(crate) trait Source<W: Worker> {
    /// Returns the worker with this number, if it is still attached.
    fn worker(&mut self, id: u32) -> Option<W>;

    /// Returns the memory and the bell of a queue.
    fn queue(&mut self, queue: &KeptQueue) -> Option<(Memory, W::Bell)>;

    /// Returns the memory, of this length, of a segment for a queue's received messages.
    fn segment(&mut self, queue: &KeptQueue, number: u32, length: usize) -> Option<Memory>;

    /// Returns the descriptor of the connection at a place of [`KeptShard::conns`].
    fn conn(&mut self, place: usize) -> Option<OwnedFd>;
}

impl KeptShard {
    /// Returns the workers that have a queue or a connection in the shard, or claim one.
    pub(crate) fn workers(&self) -> BTreeSet<u32> {
        let of_queues = self.queues.iter().map(|queue| queue.worker);
        let conns = self.conns.iter().map(|conn| &conn.state);
        let states = conns.chain(self.ended.iter().map(|end| &end.state));
        let of_conns = states.flat_map(|state| {
            let claim = state.claim.map(|(worker, _)| worker);
            state.owner().into_iter().chain(claim)
        });
        of_queues
            .chain(of_conns)
            .chain(self.lost.iter().copied())
            .collect()
    }
}

impl KeptState {
    const fn owner(&self) -> Option<u32> {
        match self.stage {
            KeptStage::Owned { worker, .. } => Some(worker),
            KeptStage::Fresh | KeptStage::Offered(_) => None,
        }
    }
}
