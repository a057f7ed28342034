// SPDX-License-Identifier: GPL-2.0-or-later

//! Moves connections between shards, if each worker has a shard of its own.
//!
//! ```text
//!   Scope::Unowned  -- assigned -------------------------------> Scope::Worker
//!                   <-- lost its owner, or waits for a token --
//!                      Scope::Worker -- TRANSFER by ClientGuid -> Scope::Worker of another worker
//! ```
//!
//! The shard that a connection leaves marks it, and says so in a [`Notice::Leaving`]. The driver [takes](Shard::take)
//! the connection, and passes it to the other shard when it is that shard's turn: nobody needs both shards at once. In
//! between, the connection belongs to no shard; what happens to it waits in the fabric. Only the registry has to know
//! that it exists: [`Registry::moved`](crate::engine::registry::Registry::moved).
//!
//! A connection moves only when nothing of a worker is under way on it: when it has no owner yet, when its owner may
//! give it away by TRANSFER, and when an owner goes that has not touched it.

use alloc::boxed::Box;

use super::connection::{Conn, Stage};
use super::{Host, NOTHING, Notice, Shard};
use crate::device::Status;
use crate::device::abi::{Completion, Token, event};
use crate::engine::admission::{Limit, Place};
use crate::engine::peer::Peer;
use crate::engine::pool::{Buffer, QueueId};
use crate::fabric::{ConnId, Fabric, Movable};
use crate::transport;

/// Where a connection goes, and why.
#[derive(Debug)]
pub(super) enum Leaving<W> {
    /// To this worker, its new owner.
    Assigned(W),
    /// Back, because the owner to which it was to go cannot have it.
    Refused(Status),
    /// Back, because its owner has gone, and has not touched it.
    Recovered,
    /// To wait for the worker that names its token, which its owner has asked for.
    ForToken(Transfer),
}

/// A TRANSFER that awaits its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    worker: u32,
    /// The worker's number for the connection.
    number: u64,
    cookie: u64,
}

/// The answer to a TRANSFER, for the shard of the worker that asked for it.
#[derive(Debug)]
pub struct Transferred {
    transfer: Transfer,
    result: Result<Token, Status>,
}

impl Transferred {
    /// Returns the number of the worker.
    #[must_use]
    pub const fn worker(&self) -> u32 {
        self.transfer.worker
    }
}

impl<W> Leaving<W> {
    /// Returns the answer to the TRANSFER for which the connection was leaving, if it ends before it has left.
    pub(super) const fn failed(&self, status: Status) -> Option<Transferred> {
        match *self {
            Self::ForToken(transfer) => Some(Transferred {
                transfer,
                result: Err(status),
            }),
            Self::Assigned(_) | Self::Refused(_) | Self::Recovered => None,
        }
    }
}

/// A connection that is in neither of two shards. It is small, because its parts are in memory of their own.
#[derive(Debug)]
pub struct Moving<C, W>(Box<Parts<C, W>>);

#[derive(Debug)]
struct Parts<C, W> {
    transport: transport::Moving<C, Buffer>,
    conn: Conn<W>,
    from: Place,
}

impl<C, W: Peer> Moving<C, W> {
    /// Returns the worker to whose shard the connection goes; `None`: to the shard of connections without an owner.
    pub fn owner(&self) -> Option<&W> {
        match &self.0.conn.leaving {
            Some(Leaving::Assigned(worker)) => Some(worker),
            _ => None,
        }
    }

    /// Sends the connection back, because its new owner cannot have it.
    pub fn refuse(&mut self, status: Status) {
        if let Some(worker) = self.owner().map(Peer::id) {
            self.0.conn.last_worker = Some(worker);
        }
        self.0.conn.leaving = Some(Leaving::Refused(status));
    }
}

impl<F: Fabric, H: Host> Shard<F, H> {
    /// Marks a connection as one of another shard.
    pub(super) fn leave(&mut self, id: ConnId, leaving: Leaving<H::Worker>) {
        if let Some(conn) = self.conns.get_mut(id) {
            conn.stage = Stage::Leaving;
            conn.leaving = Some(leaving);
            self.notice(Notice::Leaving(id));
        }
    }

    /// Marks a connection that its owner has given up for a token, which another shard makes.
    pub(super) fn leave_for_token(
        &mut self,
        queue: QueueId,
        id: ConnId,
        (number, cookie): (u64, u64),
    ) {
        let Some(queue) = self.queues.get_mut(queue) else {
            return;
        };
        queue.outstanding += 1;
        let transfer = Transfer {
            worker: queue.worker.id(),
            number,
            cookie,
        };
        self.leave(id, Leaving::ForToken(transfer));
    }

    /// Answers a worker's TRANSFER.
    pub fn transferred(&mut self, Transferred { transfer, result }: Transferred) {
        let Some(queue) = self.queue_of.get(&transfer.worker).copied() else {
            return;
        };
        if let Some(of) = self.queues.get_mut(queue) {
            of.outstanding = of.outstanding.saturating_sub(1);
        }
        let status = result.err().unwrap_or(Status::Ok).code();
        let answer = Completion {
            event: event::TRANSFERRED,
            status,
            conn: transfer.number,
            cookie: transfer.cookie,
            token: result.unwrap_or_default(),
            ..NOTHING
        };
        self.complete(queue, answer);
        if result.is_err() {
            // The worker did not lose the connection by its TRANSFER, so it has to learn of the end.
            let disconnected = Completion {
                event: event::DISCONNECTED,
                status,
                conn: transfer.number,
                ..NOTHING
            };
            self.complete(queue, disconnected);
        }
    }
}

impl<F: Movable, H: Host> Shard<F, H> {
    /// Takes out a connection that a [`Notice::Leaving`] named. `None`: it is ending, and does so here.
    pub fn take(&mut self, id: ConnId) -> Option<Moving<F::Moving, H::Worker>> {
        let is_leaving = |conn: &&Conn<_>| conn.stage == Stage::Leaving && conn.end.is_none();
        self.conns.get(id).filter(is_leaving)?;
        let Some(transport) = self.transport.take(id) else {
            self.transport.abort(id);
            return None;
        };
        let conn = self.conns.remove(id)?;
        if let Some(deadline) = conn.deadline {
            self.deadlines.remove(&(deadline, id));
        }
        self.transport.buffers_mut().forget(id);
        Some(Moving(Box::new(Parts {
            transport,
            conn,
            from: self.place(id),
        })))
    }

    /// Puts a connection in and gives it to its owner, whose shard this is.
    ///
    /// # Errors
    ///
    /// The owner cannot have it: it goes back to the shard of connections without an owner.
    pub fn put(
        &mut self,
        mut moving: Moving<F::Moving, H::Worker>,
    ) -> Result<(), Moving<F::Moving, H::Worker>> {
        let queue = match moving.owner() {
            Some(worker) => self.queue(&worker.clone()),
            None => return Err(moving),
        };
        match queue {
            Ok(queue) => {
                let (id, _, is_ending) = self.arrive(moving);
                if !is_ending {
                    self.own(id, queue);
                }
                Ok(())
            }
            Err(status) => {
                moving.refuse(status);
                Err(moving)
            }
        }
    }

    /// Puts in a connection without an owner. If its last owner waits for a token, returns the answer.
    pub fn put_unowned(&mut self, moving: Moving<F::Moving, H::Worker>) -> Option<Transferred> {
        let (id, leaving, is_ending) = self.arrive(moving);
        match leaving? {
            leaving if is_ending => leaving.failed(Status::Flushed),
            Leaving::ForToken(transfer) => {
                let token = self.make_token(id);
                match token {
                    Some(_) => self.host.registry().undispatch(),
                    None => self.end(id, "no_random_numbers", Status::System),
                }
                let result = token.ok_or(Status::System);
                Some(Transferred { transfer, result })
            }
            Leaving::Recovered => {
                self.find_another(id);
                None
            }
            Leaving::Refused(status) => {
                let conn = self.conns.get_mut(id);
                // As if the worker had had it and gone, without touching it.
                let is_untouched = conn.is_some_and(|conn| conn.first.take().is_some());
                match status {
                    Status::Detached | Status::Again if is_untouched => self.find_another(id),
                    Status::Detached => self.end(id, "worker_gone", status),
                    status => self.end(id, "no_queue", status),
                }
                None
            }
            Leaving::Assigned(worker) => {
                self.assign(id, &worker);
                None
            }
        }
    }

    fn find_another(&mut self, id: ConnId) {
        self.become_fresh(id);
        self.route(id);
    }

    /// Puts a connection in. Returns its new number, why it came, and whether it had to end meanwhile.
    fn arrive(
        &mut self,
        moving: Moving<F::Moving, H::Worker>,
    ) -> (ConnId, Option<Leaving<H::Worker>>, bool) {
        let Parts {
            transport,
            mut conn,
            from,
        } = *moving.0;
        let (leaving, deadline) = (conn.leaving.take(), conn.deadline.take());
        let (authenticated, peer) = (conn.authenticated, conn.peer);
        conn.stage = Stage::Orphan;
        let id = self.transport.put(transport);
        self.conns.insert(id, conn);
        self.set_deadline(id, deadline);
        let buffers = self.transport.buffers_mut();
        buffers.hold(id);
        if authenticated {
            buffers.authenticated(id);
        }
        let place = self.place(id);
        let mut registry = self.host.registry();
        let was_removed = !registry.moved(&from, place);
        if was_removed && authenticated {
            registry.stays(place, peer);
        }
        drop(registry);
        let is_ending = was_removed && !authenticated;
        if is_ending {
            self.end(id, Limit::Unauthenticated.name(), Status::Limit);
        }
        (id, leaving, is_ending)
    }
}
