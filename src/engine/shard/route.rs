// SPDX-License-Identifier: GPL-2.0-or-later

//! Finds the worker, if any, that gets a connection: by the connection's first request, or by a token.
//!
//! ```text
//!   Established -> Fresh --NEGOTIATE, client registered--------------------------> Owned
//!                    |    --otherwise, offered to the listener--> Offered --token--^  |
//!                    |                                               ^---- TRANSFER --'
//!                    '-- no valid request in time, or no listener: closed
//! ```
//!
//! If workers have shards of their own, a connection leaves for its owner's shard with the step to `Owned`, and for the
//! shard of connections without an owner when it loses its owner.
//!
//! A client that ends its last connection and makes a new one at once is still registered for a
//! worker that is about to end. If that worker goes before it has done anything with the connection, the
//! connection becomes `Fresh` again, and its first message finds another owner.
//!
//! Messages that a connection received before it had an owner go to the owner first, in the order in which they came.

use zerocopy::IntoBytes;

use super::ahead::Ahead;
use super::connection::{Claim, Held, Stage};
use super::moving::Leaving;
use super::{Host, NOTHING, Notice, Scope, Shard, Why};
use crate::device::Status;
use crate::device::abi::{self, Completion, Token, event, kind};
use crate::engine::peer::{Peer, Worker};
use crate::engine::pool::{Buffer, QueueId};
use crate::engine::queue::Queue;
use crate::engine::registry::Route;
use crate::fabric::{ConnId, Fabric};
use crate::wire::WireError;
use crate::wire::smb2::{NegotiateRequest, Request};

impl<F: Fabric, H: Host> Shard<F, H> {
    /// Handles a message that has arrived.
    #[inline]
    pub(super) fn received(&mut self, id: ConnId, buffer: Buffer, length: u32) {
        let Some(conn) = self.conns.get_mut(id) else {
            self.transport.recycle(buffer);
            return;
        };
        conn.used = self.now;
        if let (
            Stage::Owned { queue, number },
            Buffer::Shared {
                queue: of,
                number: place,
                memory,
            },
        ) = (conn.stage, &buffer)
        {
            if queue == *of && !conn.info_due && conn.held.is_empty() {
                conn.unrecycled += 1;
                conn.first = None;
                let place = *place;
                self.transport.buffers_mut().complete(queue, place);
                if self.waits_for_data(id, queue, (memory, length)) {
                    if let Some(conn) = self.conns.get_mut(id) {
                        conn.behind.push_back((place.to_bits(), length));
                    }
                    return;
                }
                self.deliver_pdu(queue, number, place.to_bits(), length);
                return;
            }
        }
        self.hold(id, buffer, length);
    }

    /// Keeps a message that cannot go to its owner as it is: there is no owner yet, or the message arrived
    /// in an earlier owner's memory.
    fn hold(&mut self, id: ConnId, buffer: Buffer, length: u32) {
        let held = match buffer {
            Buffer::Heap { bytes, charges } => Held { bytes, charges },
            Buffer::Shared { ref memory, .. } => {
                // The memory has at least this length, because the transport filled it.
                let bytes = memory.to_vec(0, length as usize).unwrap_or_default();
                self.transport.recycle(buffer);
                bytes.into()
            }
        };
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        if conn.end.is_some() {
            return;
        }
        let is_first = conn.stage == Stage::Fresh && conn.held.is_empty();
        conn.held.push_back(held);
        conn.first = None;
        match conn.stage {
            Stage::Fresh if is_first => self.route(id),
            Stage::Owned { .. } => self.deliver(id),
            Stage::Fresh | Stage::Offered(_) | Stage::Leaving | Stage::Orphan => {}
        }
    }

    /// Finds the owner of a connection by its first message. This is done again after the connection has waited to be
    /// offered, because a worker may have registered its client in the meantime.
    pub fn route(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        if conn.stage != Stage::Fresh || conn.end.is_some() {
            return;
        }
        let first = conn
            .held
            .front()
            .map_or(&[][..], |held| held.bytes.as_slice());
        let client_guid = match client_guid(first) {
            Ok(client_guid) => client_guid,
            Err(_) => return self.end(id, "first_request", Status::Request),
        };
        conn.client_guid = client_guid;
        let (peer, login_by) = (conn.peer, conn.since + self.rules.login_timeout);
        let last_worker = conn.last_worker;
        let mut route = self.host.registry().route(&client_guid);
        if let Route::Worker(worker) = &route {
            let is_lost = match self.scope {
                Scope::All => matches!(self.queue(worker), Err(Status::Detached | Status::Again)),
                // The connection comes from there.
                Scope::Unowned | Scope::Worker => last_worker == Some(worker.id()),
            };
            // If the worker has gone or does not read, it is about to be forgotten.
            if is_lost {
                route = self.host.registry().route_unknown();
            }
        }
        match route {
            Route::Worker(worker) => self.assign(id, &worker),
            Route::Listener(listener) => {
                let may = self.host.registry().may_offer(self.place(id), peer);
                match may {
                    true => self.offer(id, &listener),
                    false => self.set_deadline(id, Some(login_by)),
                }
            }
            Route::Nobody => self.end(id, "no_listener", Status::NoOwner),
        }
    }

    /// Takes a connection from `worker`, which has gone, if the worker has done nothing with the connection. Returns
    /// whether it has: then the connection finds another owner.
    pub(super) fn recover(&mut self, id: ConnId, worker: u32) -> bool {
        let status = self.transport.status(id);
        let Some(conn) = self.conns.get_mut(id) else {
            return false;
        };
        let quiet = conn.end.is_none() && conn.outstanding == 0;
        if !quiet || status.is_none_or(|status| status.assembling) {
            return false;
        }
        let Some(first) = conn.first.take() else {
            return false;
        };
        conn.held = [first.into()].into();
        conn.unrecycled = 0;
        conn.last_worker = Some(worker);
        (conn.receives, conn.descriptors) = (None, None);
        self.transport.buffers_mut().hold(id);
        self.deregister_all(id);
        true
    }

    /// Lets a connection that has lost its owner, but not its first message, find another one.
    pub(super) fn become_fresh(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        conn.stage = Stage::Fresh;
        conn.info_due = false;
        let mut registry = self.host.registry();
        registry.undispatch();
        registry.count("recovered");
        drop(registry);
        let deadline = self.now + self.rules.first_request_timeout;
        self.set_deadline(id, Some(deadline));
    }

    /// Asks the listener to find an owner.
    fn offer(&mut self, id: ConnId, listener: &H::Worker) {
        // If the connection has ended, the next event says so.
        let Some(status) = self.transport.status(id) else {
            return;
        };
        let Some(token) = self.make_token(id) else {
            return self.end(id, "no_random_numbers", Status::System);
        };
        let local = self.transport.fabric().conn_local_address(id);
        let Some(conn) = self.conns.get(id) else {
            return;
        };
        let info = conn.info(0, &status, local, self.rules.longest_send);
        let offer = abi::Offer { token, info };
        // Many clients are enough to fill the listener's socket, so a full socket is not a reason to detach the
        // listener. If the listener has gone, the driver learns of it elsewhere.
        if listener.tell(kind::OFFER, 0, &offer).is_err() {
            self.end(id, "listener_busy", Status::NoOwner);
        }
    }

    /// Makes a token with which a connection can be claimed for a limited time.
    pub(super) fn make_token(&mut self, id: ConnId) -> Option<Token> {
        let token = self.host.token()?;
        let conn = self.conns.get_mut(id)?;
        conn.stage = Stage::Offered(token);
        let deadline = self.now + self.rules.claim_timeout;
        self.set_deadline(id, Some(deadline));
        let place = self.place(id);
        self.host.registry().offer(token, place);
        Some(token)
    }

    /// Handles the claim of a worker that has named a connection's token. The connection may have ended since. The
    /// worker gets its answer when it is told about the connection, or when the connection ends before that.
    pub fn claim(&mut self, id: ConnId, claim: Claim<H::Worker>) {
        let conn = self.conns.get_mut(id).filter(|conn| {
            // The connection must not belong to another worker, or be ending.
            matches!(conn.stage, Stage::Offered(_)) && conn.end.is_none()
        });
        let Some(conn) = conn else {
            return self.answer(&claim, Status::NoToken);
        };
        let worker = claim.worker.clone();
        conn.claim = Some(claim);
        self.assign(id, &worker);
    }

    /// Ends a connection that the listener does not want. Its token is used up.
    pub fn decline(&mut self, id: ConnId) {
        let conn = self.conns.get(id);
        if conn.is_some_and(|conn| matches!(conn.stage, Stage::Offered(_))) {
            self.end(id, "declined", Status::NoOwner);
        }
    }

    /// Answers a worker's claim.
    pub(super) fn answer(&mut self, claim: &Claim<H::Worker>, status: Status) {
        let fault = match claim.cookie {
            Some(cookie) => {
                let reply = abi::Reply {
                    status: status.code(),
                    kind: kind::CLAIM,
                };
                let told = claim.worker.tell(kind::REPLY, cookie, &reply);
                told.err().map(|_| (Status::Again, Why::ClaimNotAnswered))
            }
            None if status == Status::Ok => None,
            None => Some((status, Why::NoConnection)),
        };
        if let Some((status, why)) = fault {
            self.notice(Notice::Fault {
                worker: claim.worker.id(),
                status,
                why,
            });
        }
    }

    /// Gives a connection to a worker.
    pub(super) fn assign(&mut self, id: ConnId, worker: &H::Worker) {
        let queue = match self.scope {
            Scope::All => match self.queue(worker) {
                Ok(queue) => Some(queue),
                Err(status) => return self.end(id, "no_queue", status),
            },
            // The worker's own shard makes its queue.
            Scope::Unowned | Scope::Worker => None,
        };
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let was_dispatched = conn.is_dispatched();
        let before = core::mem::replace(&mut conn.stage, Stage::Leaving);
        // A worker that claims a token wants the connection now, so the connection need not be recovered.
        conn.first = match (before, conn.held.len()) {
            (Stage::Offered(_), _) => None,
            (_, 1) => conn.held.front().map(|held| held.bytes.clone()),
            _ => None,
        };
        conn.info_due = true;
        let login_by = (!conn.authenticated).then(|| conn.since + self.rules.login_timeout);
        self.set_deadline(id, login_by);
        let mut registry = self.host.registry();
        let next = match was_dispatched {
            true => None,
            false => registry.dispatched(self.place(id)),
        };
        if let Stage::Offered(token) = before {
            registry.claim(&token);
        }
        registry.count("assigned");
        drop(registry);
        self.offer_next(next);
        match queue {
            Some(queue) => self.own(id, queue),
            None => self.leave(id, Leaving::Assigned(worker.clone())),
        }
    }

    /// Makes the worker of a queue the owner of an assigned connection.
    pub(super) fn own(&mut self, id: ConnId, queue_id: QueueId) {
        let (Some(queue), Some(conn)) = (self.queues.get_mut(queue_id), self.conns.get_mut(id))
        else {
            return;
        };
        conn.stage = Stage::Owned {
            queue: queue_id,
            number: queue.insert(id),
        };
        let (peer, worker) = (conn.peer, queue.worker.clone());
        self.notice(Notice::Assigned {
            conn: id,
            peer,
            worker,
        });
        self.count_receives(id);
        self.deliver(id);
    }

    /// Returns a worker's queue with this shard. The queue is made when it is first needed.
    pub(super) fn queue(&mut self, worker: &H::Worker) -> Result<QueueId, Status> {
        if let Some(id) = self.queue_of.get(&worker.id()) {
            return Ok(*id);
        }
        let number = match self.scope {
            // There are a few shards, or one for each processor: the number fits.
            Scope::All => self.number as u32,
            // The worker has no other queue.
            Scope::Unowned | Scope::Worker => 0,
        };
        let created = Queue::create(worker, &self.rules.memory, number, self.rules.queue_depth);
        let queue = created.inspect_err(|status| {
            self.notices.extend(match *status {
                status @ Status::Again => Some(Notice::Fault {
                    worker: worker.id(),
                    status,
                    why: Why::Unread,
                }),
                Status::Detached => Some(Notice::Gone(worker.id())),
                _ => None,
            });
        })?;
        let id = self.queues.insert(queue);
        let added = self.transport.buffers_mut().add(id, number, worker);
        self.queue_of.insert(worker.id(), id);
        if added.is_err() {
            // The worker already has the queue.
            self.fault(id, Status::System, Why::Shape);
            return Err(Status::System);
        }
        self.notice(Notice::QueueMade(id));
        self.activate(id);
        Ok(id)
    }

    /// Tells the owner about its connection, and gives it the messages received before, as far as there is memory.
    /// After that, messages go to the owner directly.
    pub(super) fn deliver(&mut self, id: ConnId) {
        let longest_send = self.rules.longest_send;
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let Stage::Owned { queue, number } = conn.stage else {
            return;
        };
        if conn.end.is_some() {
            return;
        }
        if conn.ahead.as_ref().is_some_and(Ahead::is_fetching) {
            // The held messages have to come after those that wait for data.
            return;
        }
        if conn.info_due {
            // If the connection has ended, the next event says so. A worker never hears of the end of a connection that
            // was not announced to it.
            let Some(status) = self.transport.status(id) else {
                return;
            };
            let local = self.transport.fabric().conn_local_address(id);
            let info = conn.info(number, &status, local, longest_send);
            let Some(buffer) = self
                .transport
                .buffers_mut()
                .put(queue, info.as_bytes(), None)
            else {
                return self.wait_for_memory(queue, id);
            };
            conn.info_due = false;
            if let Some(claim) = conn.claim.take() {
                self.answer(&claim, Status::Ok);
            }
            self.complete(
                queue,
                Completion {
                    event: event::CONNECTION,
                    conn: number,
                    buffer,
                    length: size_of::<abi::ConnInfo>() as u32,
                    ..NOTHING
                },
            );
        }
        while let Some(conn) = self.conns.get_mut(id) {
            let Some(held) = conn.held.front_mut() else {
                break;
            };
            // The length of a received message fits in 32 bits.
            let length = held.bytes.len() as u32;
            // The bytes that are charged for the message in heap may be exactly those that its buffer in the arena
            // needs.
            held.charges = None;
            let buffers = self.transport.buffers_mut();
            let Some(buffer) = buffers.put(queue, &held.bytes, Some(id)) else {
                self.count_held(queue, id);
                return self.wait_for_memory(queue, id);
            };
            conn.held.pop_front();
            conn.unrecycled += 1;
            self.deliver_pdu(queue, number, buffer, length);
        }
        self.transport.buffers_mut().set_queue(id, queue);
        self.transport.buffers_available();
    }

    /// Charges the messages of a connection that wait for a buffer, if it has a session: messages of strangers are
    /// short and few. The charge is never refused, because the messages have already been received.
    pub(super) fn count_held(&mut self, queue: QueueId, id: ConnId) {
        let conn = self.conns.get_mut(id).filter(|conn| conn.authenticated);
        let in_heap = self.transport.buffers_mut().in_heap(queue);
        let (Some(queue), Some(conn), Some(in_heap)) = (self.queues.get(queue), conn, in_heap)
        else {
            return;
        };
        let accounts = [queue.worker.account(), &in_heap, &self.rules.memory];
        for held in &mut conn.held {
            let bytes = held.bytes.len() as u64;
            held.charges
                .get_or_insert_with(|| accounts.map(|account| account.count(bytes)));
        }
    }

    pub(super) fn deliver_pdu(&mut self, queue: QueueId, conn: u64, buffer: u64, length: u32) {
        self.complete(
            queue,
            Completion {
                event: event::PDU,
                conn,
                buffer,
                length,
                ..NOTHING
            },
        );
    }

    /// Lets a connection wait until the worker has given memory back. Later messages must not overtake those that wait.
    fn wait_for_memory(&mut self, queue: QueueId, id: ConnId) {
        self.transport.buffers_mut().hold(id);
        if let Some(queue) = self.queues.get_mut(queue) {
            if !queue.waiting.contains(&id) {
                queue.waiting.push(id);
            }
        }
    }
}

/// Returns the ClientGuid of a NEGOTIATE request, which a connection's first message must be.
fn client_guid(message: &[u8]) -> Result<[u8; 16], WireError> {
    let (request, _) = Request::split_first(message)?;
    if request.header().is_response() {
        return Err(WireError::Smb2Command);
    }
    Ok(NegotiateRequest::parse(request)?.client_guid())
}
