// SPDX-License-Identifier: GPL-2.0-or-later

//! Checks what workers submit, field by field, and passes it to the transport.
//!
//! A submission that no correct library makes is a [`Violation`]. A submission that a correct library may make in good
//! faith (for a connection that has ended in the meantime, or for more than the peer accepts) is answered with a
//! status.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::connection::Stage;
use super::{Host, NOTHING, Scope, Shard};
use crate::device::Status;
use crate::device::abi::{Completion, Token, event, queue_of, region};
use crate::engine::memory::Numbered;
use crate::engine::memory::Segment;
use crate::engine::peer::{Peer, Worker};
use crate::engine::pool::{MAX_HELD_LENGTH, QueueId};
use crate::engine::reason;
use crate::engine::submission::{Descriptors, Piece, Request, Submitted, Violation, parse};
use crate::fabric::{Access, ConnId, Fabric, RegionId, Sge};
use crate::transport::MAX_DESCRIPTORS;
use crate::wire::{BufferDescriptorV1, BufferDescriptors};

/// Maximum number of submissions taken from a queue in one round.
pub(super) const BATCH: usize = 64;

/// Minimum number of an operation's descriptors that are charged as memory.
const MANY_DESCRIPTORS: usize = 64;

impl<F: Fabric, H: Host> Shard<F, H> {
    /// Carries out some submissions of a queue; returns whether there were any.
    pub(super) fn run_queue(&mut self, id: QueueId) -> Result<bool, Violation> {
        let flushed = self.flush_queue(id)?;
        let Some(queue) = self.queues.get_mut(id) else {
            return Ok(false);
        };
        let count = queue.take(&mut *self.entries)?;
        if count == 0 {
            return Ok(flushed);
        }
        queue.used = self.now;
        let mut recycled = false;
        for index in 0..count {
            let entry = self.entries.get(index).copied().unwrap_or_default();
            match parse(entry)? {
                Submitted::Recycle { conn, buffer } => {
                    self.recycle(id, conn, buffer)?;
                    recycled = true;
                }
                Submitted::Request {
                    conn,
                    cookie,
                    request,
                } => self.submit(id, conn, cookie, request)?,
                Submitted::Skipped => {}
            }
        }
        if recycled && self.transport.buffers_mut().take_wanting(id) {
            self.retry_queue(id);
        }
        Ok(true)
    }

    fn recycle(&mut self, id: QueueId, conn: u64, buffer: u64) -> Result<(), Violation> {
        let number = self.queues.get(id).map(|queue| queue.number);
        if number != Some(queue_of(conn)) {
            return Err(Violation::Connection(conn));
        }
        let holder = self.transport.buffers_mut().recycle(id, buffer);
        let holder = holder.map_err(|_| Violation::Buffer(buffer))?;
        if let Some(conn) = holder.and_then(|holder| self.conns.get_mut(holder)) {
            conn.unrecycled = conn.unrecycled.saturating_sub(1);
            conn.used = self.now;
        }
        Ok(())
    }

    /// Retries the connections that waited for memory, because memory is free again.
    fn retry_queue(&mut self, id: QueueId) {
        let waiting = self.queues.get_mut(id);
        let waiting = waiting.map(|queue| core::mem::take(&mut queue.waiting));
        for conn in waiting.into_iter().flatten() {
            self.deliver(conn);
        }
        self.transport.buffers_available();
    }

    fn submit(
        &mut self,
        queue: QueueId,
        number: u64,
        cookie: u64,
        request: Request,
    ) -> Result<(), Violation> {
        let Some(of) = self.queues.get(queue) else {
            return Ok(());
        };
        let conn = of.conn(number)?;
        let known = conn.and_then(|id| self.conns.get(id));
        if known.is_some_and(|conn| conn.info_due) {
            // The worker was never given this number, so the worker can only have guessed it.
            return Err(Violation::Connection(number));
        }
        let event = match request {
            Request::Send { .. } => event::SENT,
            Request::Read { .. } | Request::Write { .. } => event::RDMA_DONE,
            Request::Transfer { .. } => event::TRANSFERRED,
            Request::FetchAhead { sink } => return self.lend(queue, number, cookie, sink),
            Request::Recall => {
                if let Some(id) = conn {
                    self.recall(queue, id);
                }
                return Ok(());
            }
            Request::Disconnect => {
                if let Some(id) = conn {
                    self.disconnect(id);
                }
                return Ok(());
            }
            Request::Authenticated => {
                if let Some(id) = conn {
                    self.authenticated(id);
                }
                return Ok(());
            }
        };
        let mut token = Token::default();
        let result = match (conn, request) {
            // The connection ended before this submission was seen.
            (None, _) => Err(Status::Flushed),
            (
                Some(id),
                Request::Transfer {
                    client_guid,
                    message,
                },
            ) => match self.transfer(queue, (id, number, cookie), client_guid, message)? {
                Ok(Some(found)) => {
                    token = found;
                    Ok(())
                }
                Ok(None) => return Ok(()),
                Err(status) => Err(status),
            },
            (Some(id), _) if self.is_too_much(queue, id) => Err(Status::Flushed),
            (Some(id), request) => match self.carry_out(queue, id, cookie, request)? {
                Ok(()) => {
                    self.taken(queue, id, &request);
                    return Ok(());
                }
                Err(status) => Err(status),
            },
        };
        let status = result.err().unwrap_or(Status::Ok);
        self.complete(
            queue,
            Completion {
                event,
                status: status.code(),
                conn: number,
                cookie,
                token,
                ..NOTHING
            },
        );
        Ok(())
    }

    /// Counts an operation that the transport has taken, and whose end it will report.
    fn taken(&mut self, queue: QueueId, id: ConnId, request: &Request) {
        if let Some(queue) = self.queues.get_mut(queue) {
            queue.outstanding += 1;
        }
        if let Some(conn) = self.conns.get_mut(id) {
            conn.outstanding += 1;
            conn.reads += u32::from(matches!(request, Request::Read { .. }));
            conn.first = None;
            conn.used = self.now;
        }
    }

    fn disconnect(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id) {
            conn.end
                .get_or_insert(("disconnected", Status::ClosedLocally));
        }
        self.transport.close(id);
    }

    /// Passes an operation to the transport.
    fn carry_out(
        &mut self,
        queue: QueueId,
        id: ConnId,
        cookie: u64,
        request: Request,
    ) -> Result<Result<(), Status>, Violation> {
        let (region, piece, list) = match request {
            Request::Send { source, .. } => (region::SEND, source, None),
            Request::Read { sink, descriptors } => (region::BULK, sink, Some(descriptors)),
            Request::Write {
                source,
                descriptors,
            } => (region::BULK, source, Some(descriptors)),
            Request::Disconnect
            | Request::Authenticated
            | Request::Transfer { .. }
            | Request::FetchAhead { .. }
            | Request::Recall => return Ok(Ok(())),
        };
        if let Some(list) = list {
            if !self.copy_descriptors(queue, list)? {
                return Ok(Err(Status::Descriptors));
            }
        }
        let memory = match self.register(queue, id, region, piece)? {
            Ok(memory) => memory,
            Err(status) => return Ok(Err(status)),
        };
        let result = match request {
            Request::Send { invalidate, .. } => self.transport.send(id, cookie, memory, invalidate),
            _ => {
                let Ok(list) = BufferDescriptors::parse(&self.descriptors) else {
                    return Ok(Err(Status::Descriptors));
                };
                if matches!(request, Request::Read { .. }) {
                    self.transport.read(id, cookie, memory, list.iter())
                } else {
                    self.transport.write(id, cookie, memory, list.iter())
                }
            }
        };
        if list.is_some_and(|list| list.count as usize >= MANY_DESCRIPTORS) {
            self.count_descriptors(queue, id);
        }
        Ok(result.map_err(reason::of_send_error))
    }

    /// Charges the receives of a connection to its owner, once it has a session. The charge is never refused, because
    /// the number of connections is limited.
    pub(super) fn count_receives(&mut self, id: ConnId) {
        let bytes = self.transport.receive_memory(id) as u64;
        let Some(conn) = self.conns.get_mut(id).filter(|conn| conn.authenticated) else {
            return;
        };
        let Stage::Owned { queue, .. } = conn.stage else {
            return;
        };
        if let Some(queue) = self.queues.get(queue) {
            let accounts = [queue.worker.account(), &self.rules.memory];
            conn.receives = Some(accounts.map(|account| account.count(bytes)));
        }
    }

    /// Charges the memory of long lists of descriptors until they are posted. The charge is never refused, because the
    /// room in a queue limits the lists.
    pub(super) fn count_descriptors(&mut self, queue: QueueId, id: ConnId) {
        let (Some(queue), Some(conn)) = (self.queues.get(queue), self.conns.get_mut(id)) else {
            return;
        };
        let bytes = self.transport.queue_memory(id) as u64;
        let few = (MANY_DESCRIPTORS * BufferDescriptorV1::LENGTH) as u64;
        // The old charge is dropped before the new one is taken.
        conn.descriptors = None;
        if bytes > few {
            let accounts = [queue.worker.account(), &self.rules.memory];
            conn.descriptors = Some(accounts.map(|account| account.count(bytes)));
        }
    }

    /// Copies a list of descriptors out of SEND, once; returns `false` if a list cannot have this length.
    fn copy_descriptors(&mut self, queue: QueueId, list: Descriptors) -> Result<bool, Violation> {
        if list.count == 0 || list.count as usize > MAX_DESCRIPTORS {
            return Ok(false);
        }
        let length = list.count as usize * BufferDescriptorV1::LENGTH;
        let piece = Piece {
            place: list.place,
            // The length is at most 65,520.
            length: length as u32,
        };
        self.descriptors.clear();
        let Some(queue) = self.queues.get_mut(queue) else {
            return Ok(false);
        };
        let (segment, offset) = queue.find(region::SEND, piece)?;
        let copied = segment
            .memory
            .append_to(offset as usize, length, &mut self.descriptors);
        copied.map_err(|_| piece.violation())?;
        Ok(true)
    }

    /// Returns the transport's name for a piece of the owner's memory. Registers the piece's segment with the
    /// connection when it is first used there. The peer does not get access to any of this memory.
    pub(super) fn register(
        &mut self,
        queue: QueueId,
        id: ConnId,
        region: u32,
        piece: Piece,
    ) -> Result<Result<Sge, Status>, Violation> {
        let (Some(queue), Some(conn)) = (self.queues.get_mut(queue), self.conns.get_mut(id)) else {
            return Ok(Err(Status::Flushed));
        };
        let (segment, offset) = queue.find(region, piece)?;
        // A peer cannot reach a message, even if a device lets the peer write to the sink of an RDMA READ.
        let (regions, access) = match region {
            region::SEND => (&mut conn.regions.send, Access::Local),
            _ => (&mut conn.regions.bulk, Access::ReadSink),
        };
        let index = usize::from(piece.place.segment);
        if regions.len() <= index {
            regions.resize_with(index + 1, || None);
        }
        let Some(place) = regions.get_mut(index) else {
            return Ok(Err(Status::System));
        };
        // An earlier segment had this number.
        let is_earlier = |found: &mut (Arc<Segment>, _)| !Arc::ptr_eq(&found.0, segment);
        if let Some((_, region)) = place.take_if(is_earlier) {
            let _ = self.transport.deregister(id, region);
        }
        let region = match place {
            Some((_, region)) => *region,
            None => match self.transport.register(id, &segment.memory, access) {
                Ok(registered) => {
                    *place = Some((Arc::clone(segment), registered.id));
                    registered.id
                }
                Err(error) => return Ok(Err(reason::of_fabric_error(&error))),
            },
        };
        Ok(Ok(Sge {
            region,
            offset,
            length: piece.length,
        }))
    }

    /// Gives a connection to another worker, or makes the token with which it can be claimed. `None`: another shard
    /// makes the token, and [`transferred`](Self::transferred) is the answer.
    fn transfer(
        &mut self,
        queue: QueueId,
        (id, number, cookie): (ConnId, u64, u64),
        client_guid: Option<[u8; 16]>,
        message: Option<Piece>,
    ) -> Result<Result<Option<Token>, Status>, Violation> {
        let message = match self.copy_message(queue, message)? {
            Ok(message) => message,
            Err(status) => return Ok(Err(status)),
        };
        let Some(conn) = self.conns.get(id) else {
            return Ok(Err(Status::Flushed));
        };
        if conn.end.is_some() {
            return Ok(Err(Status::Flushed));
        }
        let status = self.transport.status(id);
        let assembling = status.is_some_and(|status| status.assembling);
        // If messages were still held, each transfer would hold them again, and one more. Memory that this worker has
        // lent must not go to the next worker, either.
        if !conn.is_idle() || conn.ahead.is_some() || assembling {
            return Ok(Err(Status::Busy));
        }
        let owner = match client_guid {
            None => None,
            Some(client_guid) => match self.host.registry().owner(&client_guid) {
                None => return Ok(Err(Status::NoOwner)),
                Some(worker) if self.queue_of.get(&worker.id()) == Some(&queue) => {
                    return Ok(Err(Status::Invalid));
                }
                Some(worker) => Some(worker),
            },
        };
        if let (Some(worker), Scope::All) = (&owner, self.scope) {
            // If the new owner cannot have a queue, the connection still belongs to this worker.
            if let Err(status) = self.queue(worker) {
                return Ok(Err(status));
            }
        }
        self.disown(queue, id, message);
        let Some(worker) = owner else {
            if self.scope != Scope::All {
                self.leave_for_token(queue, id, (number, cookie));
                return Ok(Ok(None));
            }
            let token = self.make_token(id);
            match token {
                Some(_) => self.host.registry().undispatch(),
                None => self.end(id, "no_random_numbers", Status::System),
            }
            return Ok(token.map(Some).ok_or(Status::System));
        };
        self.assign(id, &worker);
        Ok(Ok(Some(Token::default())))
    }

    /// Copies the message of a transfer out of SEND.
    fn copy_message(
        &mut self,
        queue: QueueId,
        message: Option<Piece>,
    ) -> Result<Result<Option<Vec<u8>>, Status>, Violation> {
        let (Some(piece), Some(queue)) = (message, self.queues.get_mut(queue)) else {
            return Ok(Ok(None));
        };
        let (segment, offset) = queue.find(region::SEND, piece)?;
        if piece.length > MAX_HELD_LENGTH {
            return Ok(Err(Status::TooLong));
        }
        let bytes = segment
            .memory
            .to_vec(offset as usize, piece.length as usize);
        Ok(Ok(Some(bytes.map_err(|_| piece.violation())?)))
    }

    /// Takes an idle connection from its owner.
    fn disown(&mut self, queue: QueueId, id: ConnId, message: Option<Vec<u8>>) {
        self.transport.buffers_mut().hold(id);
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        if let (Stage::Owned { number, .. }, Some(queue)) = (conn.stage, self.queues.get_mut(queue))
        {
            queue.remove(number);
            queue.waiting.retain(|waiting| *waiting != id);
            conn.last_worker = Some(queue.worker.id());
        }
        conn.stage = Stage::Orphan;
        (conn.receives, conn.descriptors) = (None, None);
        if let Some(message) = message {
            // The message goes in front of those that the owner has not seen.
            conn.held.push_front(message.into());
        }
        self.deregister_all(id);
    }

    /// Drops everything here that holds segments that a worker no longer uses. Operations that the worker has submitted
    /// in these segments, and that have not ended, fail.
    pub fn released(&mut self, worker: u32) {
        let id = self.queue_of.get(&worker).copied();
        let Some(queue) = id.and_then(|id| self.queues.get_mut(id)) else {
            return;
        };
        queue.look_at_segments();
        let segments = queue.segments();
        for id in queue.conns() {
            let Some(conn) = self.conns.get_mut(id) else {
                continue;
            };
            let regions = &mut conn.regions;
            let send = stale(&mut regions.send, &segments.send);
            for region in send.chain(stale(&mut regions.bulk, &segments.bulk)) {
                let _ = self.transport.deregister(id, region);
            }
        }
    }

    /// Ends the registrations of an owner's memory with a connection.
    pub(super) fn deregister_all(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let regions = core::mem::take(&mut conn.regions);
        for (_, region) in regions.send.into_iter().chain(regions.bulk).flatten() {
            // If this fails, the registration ends with the connection.
            let _ = self.transport.deregister(id, region);
        }
    }
}

/// Takes the registrations out of `regions` whose segments are not in `now`.
fn stale(
    regions: &mut [Option<(Arc<Segment>, RegionId)>],
    now: &Numbered,
) -> impl Iterator<Item = RegionId> {
    let numbered = regions.iter_mut().enumerate();
    numbered.filter_map(|(number, place)| {
        let current = now.get(number).and_then(Option::as_ref);
        let is_stale = |found: &mut (Arc<Segment>, RegionId)| {
            current.is_none_or(|current| !Arc::ptr_eq(current, &found.0))
        };
        place.take_if(is_stale).map(|(_, region)| region)
    })
}
