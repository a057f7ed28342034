// SPDX-License-Identifier: GPL-2.0-or-later

//! Writes down the state of a shard, and ends what cannot be kept.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::SocketAddr;
use std::os::fd::BorrowedFd;

use super::super::ahead::Ahead;
use super::super::connection::{Conn, Stage};
use super::super::{Host, Shard};
use super::{Bytes, KeptConn, KeptEnd, KeptShard, KeptStage, KeptState};
use crate::device::Status;
use crate::engine::memory::{Numbered, Segment};
use crate::engine::peer::{Peer, Worker};
use crate::engine::pool::QueueId;
use crate::engine::registry::KeptCarried;
use crate::fabric::{ConnId, Keep, RegionId};

impl<F: Keep, H: Host> Shard<F, H> {
    /// Ends what cannot be kept, and lets everything else stand still. Connections whose fabric takes time to end them
    /// are left out of [`keep`](Self::keep).
    pub(crate) fn freeze(&mut self) {
        let mut ending = BTreeSet::new();
        loop {
            for id in self.not_kept(&ending) {
                self.end(id, "restarting", Status::Stopping);
                self.transport.end_at_once(id);
                ending.insert(id);
            }
            self.transport.settle(self.now, &mut self.events);
            self.run_events();
            self.run_faults();
            self.flush_queues();
            // A worker that broke a rule takes its connections with it.
            if self.not_kept(&ending).is_empty() {
                break;
            }
        }
    }

    /// Returns the connections that may not be kept, and that are not `ending`.
    fn not_kept(&self, ending: &BTreeSet<ConnId>) -> Vec<ConnId> {
        let all = self.transport.connections();
        all.filter(|id| !self.may_keep(*id) && !ending.contains(id))
            .collect()
    }

    fn may_keep(&self, id: ConnId) -> bool {
        let conn = self.conns.get(id);
        let is_open = |conn: &Conn<H::Worker>| conn.end.is_none() && conn.stage != Stage::Orphan;
        conn.is_some_and(is_open) && self.transport.may_keep(id)
    }

    /// Returns the state of a frozen shard, the descriptors of its connections in the order of their states, and its
    /// queues in the order of theirs.
    pub(crate) fn keep(&self) -> (KeptShard, Vec<BorrowedFd<'_>>, Vec<QueueId>) {
        let mut places = BTreeMap::new();
        let (mut conns, mut descriptors, mut ended) = (Vec::new(), Vec::new(), Vec::new());
        for (id, _) in self.conns.iter() {
            let kept = self.may_keep(id).then(|| self.keep_conn(id)).flatten();
            match kept {
                Some((conn, descriptor)) => {
                    places.insert(id, conns.len());
                    conns.push(conn);
                    descriptors.push(descriptor);
                }
                None => ended.extend(self.keep_end(id)),
            }
        }
        let place = |id: ConnId| places.get(&id).copied();
        let (mut queues, mut numbers, mut lost) = (Vec::new(), Vec::new(), Vec::new());
        for (id, queue) in &self.queues {
            let arena = self.transport.buffers().keep(id, place);
            match arena.and_then(|arena| queue.keep(arena)) {
                Some(kept) => {
                    queues.push(kept);
                    numbers.push(id);
                }
                None => lost.push(queue.worker.id()),
            }
        }
        let counters = self.transport.counters();
        // The connections that are kept bring along what they have carried themselves.
        let carried = KeptCarried {
            requested: if self.has_stopped {
                0
            } else {
                counters.requested
            },
            connections: if self.has_stopped {
                0
            } else {
                counters.established
            },
            traffic: if self.has_stopped {
                Default::default()
            } else {
                counters.ended
            },
            fetched_ahead: if self.has_stopped {
                0
            } else {
                self.fetched_ahead
            },
        };
        let named = counters.closed().filter(|_| !self.has_stopped);
        let kept = KeptShard {
            number: self.number,
            carried,
            counters: named
                .map(|(name, count)| (name.to_string(), count))
                .collect(),
            queues,
            conns,
            ended,
            lost,
        };
        (kept, descriptors, numbers)
    }

    /// Returns what the next device has to know of a connection in order to end it.
    fn keep_end(&self, id: ConnId) -> Option<KeptEnd> {
        let conn = self.conns.get(id)?;
        let owner = match conn.stage {
            Stage::Owned { queue, .. } => Some(queue),
            Stage::Fresh | Stage::Offered(_) | Stage::Leaving | Stage::Orphan => None,
        };
        let message = self.transport.message(id);
        Some(KeptEnd {
            state: self.keep_state(id)?,
            flushed: self.transport.flush(id),
            message: message.and_then(|message| message.keep(owner)),
            traffic: self.transport.status(id)?.traffic,
        })
    }

    fn keep_conn(&self, id: ConnId) -> Option<(KeptConn, BorrowedFd<'_>)> {
        let owner = match self.conns.get(id)?.stage {
            Stage::Owned { queue, .. } => Some(queue),
            Stage::Fresh | Stage::Offered(_) | Stage::Leaving | Stage::Orphan => None,
        };
        let keep = |buffer: &_| crate::engine::pool::Buffer::keep(buffer, owner);
        let (transport, descriptor) = self.transport.keep(id, keep)?;
        let state = self.keep_state(id)?;
        Some((KeptConn { transport, state }, descriptor))
    }

    fn keep_state(&self, id: ConnId) -> Option<KeptState> {
        let conn = self.conns.get(id)?;
        let Conn {
            peer,
            local,
            since,
            used,
            stage,
            deadline,
            authenticated,
            protection,
            encrypted,
            client_guid,
            held,
            first,
            info_due,
            claim,
            outstanding,
            reads,
            unrecycled,
            ahead,
            behind,
            regions,
            // The charges follow from the memory.
            receives: _,
            descriptors: _,
            end: _,
            last_worker,
            // A shard that can be kept has all connections, and none leaves it.
            leaving: _,
        } = conn;
        let owner = match *stage {
            Stage::Owned { queue, .. } => Some(self.queues.get(queue)?),
            Stage::Fresh | Stage::Offered(_) | Stage::Leaving | Stage::Orphan => None,
        };
        let stage = match *stage {
            // An orphan is ending, and nobody has to learn of that.
            Stage::Fresh | Stage::Leaving | Stage::Orphan => KeptStage::Fresh,
            Stage::Offered(token) => KeptStage::Offered(token),
            Stage::Owned { number, .. } => KeptStage::Owned {
                worker: owner?.worker.id(),
                number,
            },
        };
        // A segment that its worker has given back since it was registered has gone.
        let segments = owner
            .map(|queue| queue.worker.segments())
            .unwrap_or_default();
        let bytes = |bytes: &Vec<u8>| Bytes(bytes.clone());
        Some(KeptState {
            peer: *peer,
            local: *local,
            since: *since,
            used: *used,
            stage,
            deadline: *deadline,
            authenticated: *authenticated,
            protection: *protection,
            encrypted: *encrypted,
            client_guid: *client_guid,
            held: held.iter().map(|held| bytes(&held.bytes)).collect(),
            first: first.as_ref().map(bytes),
            info_due: *info_due,
            claim: claim
                .as_ref()
                .map(|claim| (claim.worker.id(), claim.cookie)),
            outstanding: *outstanding,
            reads: *reads,
            unrecycled: *unrecycled,
            ahead: ahead.as_ref().map(Ahead::keep),
            behind: behind.iter().copied().collect(),
            send: current(&regions.send, &segments.send),
            bulk: current(&regions.bulk, &segments.bulk),
            is_direct: self.transport.buffers().is_direct(id),
            last_worker: *last_worker,
        })
    }

    /// Returns the listeners that can be passed on, with their addresses.
    pub(crate) fn listeners(&self) -> impl Iterator<Item = (SocketAddr, BorrowedFd<'_>)> {
        self.listeners.iter().filter_map(|listener| {
            let address = self.transport.local_address(*listener)?;
            Some((address, self.transport.fabric().listener(*listener)?))
        })
    }
}

/// Returns the registrations whose segments are still the worker's, by number.
fn current(regions: &[Option<(Arc<Segment>, RegionId)>], now: &Numbered) -> Vec<Option<RegionId>> {
    let numbered = regions.iter().enumerate();
    let region = numbered.map(|(number, region)| {
        let (segment, region) = region.as_ref()?;
        let current = now.get(number).and_then(Option::as_ref);
        current.filter(|current| Arc::ptr_eq(current, segment))?;
        Some(*region)
    });
    region.collect()
}
