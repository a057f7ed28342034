// SPDX-License-Identifier: GPL-2.0-or-later

//! Passes a queue on to a device that continues with its worker.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::{Queue, SERIAL_BITS};
use crate::device::abi::queue_of;
use crate::engine::memory::{Account, Segments};
use crate::engine::peer::Worker;
use crate::engine::pool::KeptArena;
use crate::fabric::ConnId;
use crate::shm::{Consumer, Entry, KeptHalf, Producer, RingMemory, ring_length};
use crate::sys::Memory;
use crate::units::Instant;

/// The state of a queue, and of the memory for its received messages.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KeptQueue {
    pub(crate) worker: u32,
    pub(crate) number: u32,
    depth: u32,
    submissions: KeptHalf,
    completions: KeptHalf,
    pending: Vec<Entry>,
    outstanding: u32,
    last_serial: u64,
    pub(crate) arena: KeptArena,
}

impl KeptQueue {
    /// Returns the length of the queue's memory, in bytes.
    pub(crate) fn length(&self) -> Option<usize> {
        ring_length(self.depth)?.checked_mul(2)
    }
}

impl<W: Worker> Queue<W> {
    /// Returns the state of the queue; `None` if one of its rings is dead.
    pub(crate) fn keep(&self, arena: KeptArena) -> Option<KeptQueue> {
        let Self {
            worker,
            number,
            submissions,
            completions,
            bell: _,
            rings: _,
            pending,
            awaited: _,
            wake_at: _,
            outstanding,
            depth,
            // The connections know their numbers, and whether they wait.
            conns: _,
            last_serial,
            segments: _,
            seen: _,
            waiting: _,
            active: _,
            used: _,
            _charges,
        } = self;
        Some(KeptQueue {
            worker: worker.id(),
            number: *number,
            depth: *depth,
            submissions: submissions.keep()?,
            completions: completions.keep()?,
            pending: pending.iter().copied().collect(),
            outstanding: *outstanding,
            last_serial: *last_serial,
            arena,
        })
    }

    /// Continues a queue, without its connections. The worker may have written anything into its memory. Returns `None`
    /// if the state does not fit the memory.
    pub(crate) fn adopt(
        worker: &W,
        total: &Arc<Account>,
        kept: &KeptQueue,
        (memory, bell): (&Memory, W::Bell),
    ) -> Option<Self> {
        let length = kept.length().filter(|length| *length == memory.len())?;
        let ring = length / 2;
        let parts = [memory.part(0, ring).ok()?, memory.part(ring, ring).ok()?];
        let [Ok(submissions), Ok(completions)] = parts.map(|part| RingMemory::open(&part)) else {
            return None;
        };
        if [submissions.capacity(), completions.capacity()] != [kept.depth; 2] {
            return None;
        }
        let accounts = [worker.account(), total];
        Some(Self {
            worker: worker.clone(),
            number: kept.number,
            submissions: Consumer::adopt(kept.submissions, submissions, worker.doorbell())?,
            completions: Producer::adopt(kept.completions, completions, worker.doorbell())?,
            bell,
            rings: 0,
            pending: VecDeque::from(kept.pending.clone()),
            // The worker may have to be woken for what is in the ring.
            awaited: true,
            wake_at: None,
            outstanding: kept.outstanding.min(kept.depth),
            depth: kept.depth,
            conns: BTreeMap::new(),
            last_serial: kept.last_serial,
            segments: Segments::default(),
            seen: 0,
            waiting: Vec::new(),
            active: false,
            used: Instant::ZERO,
            _charges: accounts.map(|account| account.count(length as u64)),
        })
    }

    /// Adds a connection with the number that it had; returns whether it can have that number.
    pub(crate) fn adopt_conn(&mut self, number: u64, conn: ConnId) -> bool {
        let serial = number & ((1 << SERIAL_BITS) - 1);
        let is_own = queue_of(number) == self.number && (1..=self.last_serial).contains(&serial);
        is_own && self.conns.insert(number, conn).is_none()
    }
}
