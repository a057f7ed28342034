// SPDX-License-Identifier: GPL-2.0-or-later

//! One connection: the work posted on its queue pair, and the work that waits to be posted.
//!
//! ```text
//!   post_send, post_write -> outgoing --\
//!   post_read             -> reads ------+- flush -> send queue -> completions, in order of each kind
//!                            (initiator_depth at a time)
//!   post_recv -------------------------------------> receive queue -> completions
//! ```

use std::collections::VecDeque;
use std::io;

use super::Config;
use super::ffi::{Completed, Depths, Device, Endpoint, Operation, Piece, WorkRequest};
use crate::fabric::{
    Access, CloseReason, ConnId, Event, FabricError, ListenerId, Outcome, ReadLimits, RegionId,
    RemoteAddress, Sge, WcStatus, Work, WrError, WrId,
};
use crate::sys::Memory;
use crate::units::{Instant, RemoteToken};

/// The stage of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The peer's address is being resolved.
    ResolvesAddress(ReadLimits),
    /// The route to the peer is being resolved.
    ResolvesRoute(ReadLimits),
    /// The peer has been asked for the connection.
    Connecting,
    /// The owner has to accept or reject.
    Requested {
        /// The peer's own depths, as it named them.
        peer: Depths,
        /// Whether the peer named its depths in private data as well; if so, the reply names ours there, too.
        legacy: bool,
    },
    /// This side has accepted the connection, and the peer has not confirmed it.
    Accepting,
    /// The connection is established.
    Established,
    /// The owner closed the connection: posted work is still sent.
    Draining,
}

/// The kinds of work, each of which completes in the order of posting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
enum Kind {
    Recv,
    Send,
    Write,
    Read,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Recv, Self::Send, Self::Write, Self::Read];

    const fn work(self) -> Work {
        match self {
            Self::Recv => Work::Recv {
                length: 0,
                invalidated: None,
            },
            Self::Send => Work::Send,
            Self::Write => Work::Write,
            Self::Read => Work::Read,
        }
    }
}

/// A request for the send queue. Its memory is looked up again when the request is posted, and is not found if the
/// memory was deregistered in between.
#[derive(Clone, Copy, Debug)]
struct Queued {
    kind: Kind,
    operation: Operation,
    header: Option<(u32, u32)>,
    memory: Option<(Piece, u32)>,
}

/// The state of a region number: how often it was given out, and the access of the region that has it now.
#[derive(Clone, Copy, Debug)]
struct Slot {
    generation: u32,
    access: Option<Access>,
}

/// Returns the sizes of the queues: for SENDs and WRITEs, for receives, and for READs under way.
pub(super) fn queues(config: &Config, device: &Device) -> (u32, u32, u32) {
    let most = device.max_qp_wr.max(2);
    let reads = config.reads.min(device.max_depths.initiator_depth.into());
    let reads = reads.clamp(1, most / 2);
    let sends = config.sends.min(most - reads);
    let recvs = config.recvs.min(device.max_qp_wr);
    let room = device.max_cqe.saturating_sub(sends + reads);
    (sends, recvs.min(room), reads)
}

pub(super) fn limits(depths: Depths) -> ReadLimits {
    ReadLimits {
        responder_resources: depths.responder_resources.into(),
        initiator_depth: depths.initiator_depth.into(),
    }
}

#[derive(Debug)]
pub(super) struct Conn {
    pub(super) endpoint: Endpoint,
    pub(super) device: Device,
    pub(super) listener: Option<ListenerId>,
    pub(super) stage: Stage,
    pub(super) limits: ReadLimits,
    pub(super) deadline: Option<Instant>,
    /// Why the connection has to end, if that is already known.
    pub(super) reason: Option<CloseReason>,
    /// Whether work was flushed, so that an event that says why will follow.
    pub(super) is_suspect: bool,
    /// Whether the connection is in the list of connections with something to do.
    queued: bool,
    /// Whether there may be completions.
    pub(super) has_completions: bool,
    sends: u32,
    recvs: u32,
    reads: u32,
    slots: Vec<Slot>,
    /// The work that has not completed, by kind.
    posted: [VecDeque<WrId>; 4],
    outgoing: VecDeque<Queued>,
    waiting_reads: VecDeque<Queued>,
    reads_under_way: u32,
    next_header: u32,
    batch: Vec<Queued>,
}

impl Conn {
    pub(super) fn new(
        endpoint: Endpoint,
        device: Device,
        stage: Stage,
        (sends, recvs, reads): (u32, u32, u32),
    ) -> Self {
        Self {
            endpoint,
            device,
            listener: None,
            stage,
            limits: limits(Depths::default()),
            deadline: None,
            reason: None,
            is_suspect: false,
            queued: false,
            has_completions: false,
            sends,
            recvs,
            reads,
            slots: Vec::new(),
            posted: std::array::from_fn(|_| VecDeque::new()),
            outgoing: VecDeque::new(),
            waiting_reads: VecDeque::new(),
            reads_under_way: 0,
            next_header: 0,
            batch: Vec::new(),
        }
    }

    /// Queues the connection for the next `poll`.
    pub(super) fn enqueue(&mut self, id: ConnId, work: &mut Vec<ConnId>) {
        work.extend(self.due(id));
    }

    /// Returns the connection, for the list of connections with something to do, unless it is already in that list.
    pub(super) fn due(&mut self, id: ConnId) -> Option<ConnId> {
        let is_new = !std::mem::replace(&mut self.queued, true);
        is_new.then_some(id)
    }

    pub(super) const fn dequeued(&mut self) {
        self.queued = false;
    }

    /// Returns whether work may be under way.
    pub(super) const fn is_up(&self) -> bool {
        matches!(self.stage, Stage::Established | Stage::Draining)
    }

    /// Returns whether all posted SENDs and RDMA WRITEs have been sent.
    pub(super) fn is_drained(&self) -> bool {
        let posted = |kind| self.posted(kind) == 0;
        posted(Kind::Send) && posted(Kind::Write)
    }

    fn posted(&self, kind: Kind) -> u32 {
        self.posted[kind as usize].len() as u32
    }

    /// Returns the READ depths that this side may offer.
    pub(super) fn own_depths(&self, limits: ReadLimits) -> Depths {
        let narrow = |depth: u16, most: u8| most.min(u8::try_from(depth).unwrap_or(u8::MAX)).max(1);
        let most = self.device.max_depths;
        let reads = u8::try_from(self.reads).unwrap_or(u8::MAX);
        Depths {
            responder_resources: narrow(limits.responder_resources, most.responder_resources),
            initiator_depth: narrow(limits.initiator_depth, most.initiator_depth.min(reads)),
        }
    }

    /// Turns the request away.
    pub(super) fn reject(self) {
        let rejected = self.endpoint.id().reject();
        if let Err(error) = rejected {
            tracing::debug!(%error, "rdma_reject");
        }
    }

    /// Returns the number of registrations.
    pub(super) fn regions(&self) -> usize {
        self.endpoint.regions()
    }

    /// Registers memory; returns its number, and the token and address by which the peer names it.
    pub(super) fn register(
        &mut self,
        memory: &Memory,
        access: Access,
    ) -> io::Result<(RegionId, (u32, u64))> {
        let number = self.endpoint.register(memory, access)?;
        if self.slots.len() <= number {
            let unused = Slot {
                generation: 0,
                access: None,
            };
            self.slots.resize(number + 1, unused);
        }
        if let Some(slot) = self.slots.get_mut(number) {
            slot.generation = slot.generation.wrapping_add(1);
            slot.access = Some(access);
        }
        let region = self.endpoint.region(number);
        let remote = region.map_or((0, 0), |mr| (mr.remote_key(), mr.remote_address()));
        Ok((RegionId(number as u32), remote))
    }

    /// Ends a registration; returns `false` if there is none.
    pub(super) fn deregister(&mut self, id: RegionId) -> bool {
        if let Some(slot) = self.slots.get_mut(id.0 as usize) {
            slot.access = None;
        }
        self.endpoint.deregister(id.0 as usize)
    }

    /// Checks that `sge` lies in a registered region.
    fn check(&self, sge: Sge) -> Result<(Piece, u32), FabricError> {
        let number = sge.region.0 as usize;
        let region = self.endpoint.region(number);
        let length = region.ok_or(FabricError::LocalProtection)?.len() as u64;
        let generation = self.slots.get(number).map_or(0, |slot| slot.generation);
        if u64::from(sge.offset) + u64::from(sge.length) > length {
            return Err(FabricError::LocalProtection);
        }
        let piece = Piece {
            region: number,
            offset: sge.offset,
            length: sge.length,
        };
        Ok((piece, generation))
    }

    pub(super) fn post_recv(&mut self, wr_id: WrId, memory: Sge) -> Result<(), FabricError> {
        let (piece, _) = self.check(memory)?;
        if self.posted(Kind::Recv) >= self.recvs {
            return Err(FabricError::QueueFull);
        }
        if let Err(error) = self.endpoint.post_recv(Kind::Recv as u64, piece) {
            // The queue pair takes no more work: the connection is ending, and this receive will be flushed.
            tracing::debug!(%error, "post_recv");
            self.is_suspect = true;
        }
        self.posted[Kind::Recv as usize].push_back(wr_id);
        Ok(())
    }

    pub(super) fn post_send(
        &mut self,
        wr_id: WrId,
        header: &[u8],
        payload: Option<Sge>,
        invalidate: Option<RemoteToken>,
    ) -> Result<(), FabricError> {
        let memory = payload.map(|sge| self.check(sge)).transpose()?;
        self.has_room()?;
        let length = header.len() as u32;
        let header = match length {
            0 => None,
            _ => {
                // The slots in use become free in the order in which they were given out.
                let slot = self.next_header % self.sends;
                self.next_header = (slot + 1) % self.sends;
                let written = self.endpoint.write_header(slot, header);
                written.map_err(|_| FabricError::HeaderTooLong)?;
                Some((slot, length))
            }
        };
        // A device that cannot invalidate sends a plain SEND: see the module `verbs`.
        let invalidate = invalidate.filter(|_| self.device.sends_invalidate);
        self.posted[Kind::Send as usize].push_back(wr_id);
        self.outgoing.push_back(Queued {
            kind: Kind::Send,
            operation: Operation::Send {
                invalidate: invalidate.map(|token| token.0),
            },
            header,
            memory,
        });
        Ok(())
    }

    pub(super) fn post_write(
        &mut self,
        wr_id: WrId,
        source: Sge,
        target: RemoteAddress,
    ) -> Result<(), FabricError> {
        let memory = Some(self.check(source)?);
        self.has_room()?;
        self.posted[Kind::Write as usize].push_back(wr_id);
        self.outgoing.push_back(Queued {
            kind: Kind::Write,
            operation: Operation::Write {
                address: target.address,
                key: target.token.0,
            },
            header: None,
            memory,
        });
        Ok(())
    }

    pub(super) fn post_read(
        &mut self,
        most: u32,
        wr_id: WrId,
        sink: Sge,
        source: RemoteAddress,
    ) -> Result<(), FabricError> {
        let memory = Some(self.check(sink)?);
        let slot = self.slots.get(sink.region.0 as usize);
        let access = slot.and_then(|slot| slot.access);
        let is_sink = matches!(access, Some(Access::ReadSink | Access::RemoteWrite));
        if self.device.is_iwarp && !is_sink {
            // iWARP NICs refuse a READ into other memory, and end the connection.
            return Err(FabricError::LocalProtection);
        }
        if self.posted(Kind::Read) >= most {
            return Err(FabricError::QueueFull);
        }
        self.posted[Kind::Read as usize].push_back(wr_id);
        self.waiting_reads.push_back(Queued {
            kind: Kind::Read,
            operation: Operation::Read {
                address: source.address,
                key: source.token.0,
            },
            header: None,
            memory,
        });
        Ok(())
    }

    fn has_room(&self) -> Result<(), FabricError> {
        let posted = self.posted(Kind::Send) + self.posted(Kind::Write);
        if posted < self.sends {
            Ok(())
        } else {
            Err(FabricError::QueueFull)
        }
    }

    /// Passes waiting work to the queue pair.
    pub(super) fn flush(&mut self) -> Result<(), CloseReason> {
        let depth = u32::from(self.limits.initiator_depth).min(self.reads);
        self.batch.clear();
        while self.stage == Stage::Established && self.reads_under_way < depth {
            let Some(read) = self.waiting_reads.pop_front() else {
                break;
            };
            self.reads_under_way += 1;
            self.batch.push(read);
        }
        self.batch.extend(self.outgoing.drain(..));
        if self.batch.is_empty() {
            return Ok(());
        }
        let is_there = |(piece, generation): (Piece, u32)| {
            let slot = self.slots.get(piece.region);
            slot.is_some_and(|slot| slot.access.is_some() && slot.generation == generation)
        };
        if !self
            .batch
            .iter()
            .filter_map(|queued| queued.memory)
            .all(is_there)
        {
            return Err(CloseReason::LocalProtection);
        }
        self.open_sinks()?;
        let requests = self.batch.iter().map(|queued| WorkRequest {
            wr_id: queued.kind as u64,
            operation: queued.operation,
            header: queued.header,
            memory: queued.memory.map(|(piece, _)| piece),
        });
        if let Err(failed) = self.endpoint.post_send(requests) {
            // The queue pair takes no more work: an event says why, or the wait for the event times out.
            tracing::debug!(error = %failed.error, posted = failed.posted, "post_send");
            self.is_suspect = true;
        }
        Ok(())
    }

    /// Lets an iWARP peer write to the sinks of the RDMA READs in the batch, until they end.
    fn open_sinks(&mut self) -> Result<(), CloseReason> {
        let reads = self
            .batch
            .iter()
            .filter(|queued| self.device.is_iwarp && queued.kind == Kind::Read);
        for (sink, _) in reads.filter_map(|read| read.memory) {
            let opened = self.endpoint.open_sink(sink);
            opened.map_err(|error| CloseReason::Os(error.raw_os_error().unwrap_or(0)))?;
        }
        Ok(())
    }

    /// Turns a completion into an event for the owner. The first failure is the reason for the end; everything after it
    /// is flushed.
    pub(super) fn complete(&mut self, id: ConnId, completed: Completed) -> Option<Event> {
        let kind = Kind::ALL
            .get(usize::try_from(completed.wr_id).ok()?)
            .copied()?;
        let wr_id = self.posted[kind as usize].pop_front()?;
        if kind == Kind::Read {
            self.reads_under_way = self.reads_under_way.saturating_sub(1);
            self.endpoint.close_sink();
        }
        let mut work = kind.work();
        let outcome = match self.reason {
            None => WcStatus(completed.status).outcome(&work),
            Some(_) => Outcome::Flushed,
        };
        let result = match outcome {
            Outcome::Success => {
                if let Work::Recv {
                    length,
                    invalidated,
                } = &mut work
                {
                    *length = completed.length;
                    *invalidated = completed.invalidated.map(RemoteToken);
                }
                Ok(())
            }
            Outcome::Flushed => {
                self.is_suspect = true;
                Err(WrError::Flushed)
            }
            Outcome::Failed(error, reason) => {
                self.reason = Some(reason);
                Err(error)
            }
        };
        Some(Event::Completion {
            conn: id,
            wr_id,
            work,
            result,
        })
    }

    /// Takes the next request that was posted and will no longer complete.
    pub(super) fn flush_posted(&mut self, id: ConnId) -> Option<Event> {
        Kind::ALL.into_iter().find_map(|kind| {
            let wr_id = self.posted[kind as usize].pop_front()?;
            Some(Event::Completion {
                conn: id,
                wr_id,
                work: kind.work(),
                result: Err(WrError::Flushed),
            })
        })
    }
}
