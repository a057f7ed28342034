// SPDX-License-Identifier: GPL-2.0-or-later

//! Fetches the data of a WRITE before the connection's owner gets the WRITE.
//!
//! ```text
//!   owner   -- FETCH_AHEAD, a buffer --> Ahead, lent
//!                                          |
//!   client  -- WRITE, nothing else under way --> Ahead, fetching --RDMA READ--> client
//!                                          |          '-- later messages wait
//!   owner   <-- FETCHED, PDU, PDU ... -----+
//! ```
//!
//! This saves the owner a wake-up and the client a round trip through two processes. The owner lends the memory, so
//! this memory is bounded, counted and registered like the memory of any RDMA READ. The owner checks the request as
//! always, before it writes anything, so data that is fetched in vain does no harm.
//!
//! If there is any doubt, the message is delivered as if nothing had been lent. A message waits only for RDMA READs
//! that its own client serves, so a client that serves them slowly delays only itself.

use super::connection::Stage;
use super::{Host, NOTHING, Shard};
use crate::device::Status;
#[cfg(feature = "broker")]
use crate::device::abi::Place;
use crate::device::abi::{Completion, event, region};
use crate::engine::peer::Peer;
use crate::engine::pool::QueueId;
use crate::engine::reason;
use crate::engine::submission::{Piece, Violation};
use crate::fabric::{ConnId, Fabric, WrError};
use crate::sys::Memory;
use crate::wire::smb2::{Request, WriteRequest};

/// The cookie of the device's own RDMA READs. A worker may use the same number: no READ of a worker is under way when
/// the device's begins, and the fabric ends READs in the order in which they began.
pub(super) const COOKIE: u64 = u64::MAX;

/// Length of the longest request to look into, in bytes: a WRITE with 16 descriptors.
const LONGEST: usize = 64 + 48 + 16 * 16;

/// The memory that the owner of a connection has lent for the next WRITE.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ahead {
    /// The cookie of the owner's FETCH_AHEAD.
    cookie: u64,
    /// The memory into which the data may be fetched.
    sink: Piece,
    /// Number of bytes that are being fetched; 0 until the fetch begins.
    fetching: u32,
}

#[cfg(feature = "broker")]
impl Ahead {
    /// Returns the cookie, the place and the length of the memory, and the number of bytes that are being fetched.
    pub(super) const fn keep(&self) -> (u64, u64, u32, u32) {
        let Self {
            cookie,
            sink,
            fetching,
        } = *self;
        (cookie, sink.place.to_bits(), sink.length, fetching)
    }

    pub(super) const fn adopt((cookie, place, length, fetching): (u64, u64, u32, u32)) -> Self {
        let sink = Piece {
            place: Place::from_bits(place),
            length,
        };
        Self {
            cookie,
            sink,
            fetching,
        }
    }
}

impl Ahead {
    pub(super) const fn is_fetching(&self) -> bool {
        self.fetching > 0
    }
}

impl<F: Fabric, H: Host> Shard<F, H> {
    /// Takes a buffer that a worker lends.
    pub(super) fn lend(
        &mut self,
        queue: QueueId,
        number: u64,
        cookie: u64,
        sink: Piece,
    ) -> Result<(), Violation> {
        let Some(of) = self.queues.get_mut(queue) else {
            return Ok(());
        };
        if sink.length == 0 {
            return Err(sink.violation());
        }
        of.find(region::BULK, sink)?;
        let id = of.conn(number)?;
        of.outstanding += 1;
        // A lent buffer takes up room for submissions for as long as the client likes.
        let is_crowded = of.outstanding > of.share_of_strangers();
        let status = match id.and_then(|id| self.conns.get_mut(id)) {
            None => Status::Flushed,
            Some(conn) if conn.end.is_some() => Status::Flushed,
            Some(conn) if conn.ahead.is_some() || is_crowded => Status::Busy,
            Some(conn) => {
                conn.first = None;
                conn.ahead = Some(Ahead {
                    cookie,
                    sink,
                    fetching: 0,
                });
                return Ok(());
            }
        };
        self.answer_lent(queue, number, cookie, (status, 0));
        Ok(())
    }

    /// Gives back the buffer that a worker has lent, unless data is already being fetched into it.
    pub(super) fn recall(&mut self, queue: QueueId, id: ConnId) {
        let conn = self.conns.get_mut(id);
        let lent = conn.and_then(|conn| conn.ahead.take_if(|ahead| !ahead.is_fetching()));
        if let Some(ahead) = lent {
            self.give_back(queue, id, ahead, (Status::Flushed, 0));
        }
    }

    /// Begins to fetch a message's data if the message is a WRITE and nothing else is under way on its connection.
    /// Returns whether the message waits for data: its own, or that of an earlier message.
    pub(super) fn waits_for_data(
        &mut self,
        id: ConnId,
        queue: QueueId,
        message: (&Memory, u32),
    ) -> bool {
        let Some(conn) = self.conns.get(id) else {
            return false;
        };
        match conn.ahead {
            None => false,
            Some(ahead) if ahead.is_fetching() => true,
            // Whatever else is under way goes faster if it need not wait for this message's data.
            Some(_) if conn.reads > 0 || conn.unrecycled > 1 || conn.end.is_some() => false,
            Some(ahead) => self.begin(id, queue, message, ahead).is_some(),
        }
    }

    fn begin(
        &mut self,
        id: ConnId,
        queue: QueueId,
        (memory, length): (&Memory, u32),
        ahead: Ahead,
    ) -> Option<()> {
        let mut bytes = [0; LONGEST];
        let bytes = bytes.get_mut(..length as usize)?;
        memory.read(0, bytes).ok()?;
        let (request, rest) = Request::split_first(bytes).ok()?;
        if request.header().is_response() || rest.is_some() {
            return None;
        }
        let transfer = WriteRequest::parse(request).ok()?.transfer().ok()??;
        if transfer.length() > ahead.sink.length {
            return None;
        }
        let session = request.header().session_id();
        let worker = self.queues.get(queue)?.worker.id();
        let client_guid = self.conns.get(id)?.client_guid;
        let [_, owner] = self.host.registry().holders(&client_guid, session);
        if session == 0 || owner != Some(worker) {
            return None;
        }
        let sink = Piece {
            length: transfer.length(),
            ..ahead.sink
        };
        // The worker may have given the segment back since. That harms only the worker itself.
        let sink = self.register(queue, id, region::BULK, sink).ok()?.ok()?;
        let source = transfer.descriptors();
        let read = self.transport.read(id, COOKIE, sink, source.iter());
        read.ok()?;
        let conn = self.conns.get_mut(id)?;
        conn.ahead = Some(Ahead {
            fetching: sink.length,
            ..ahead
        });
        Some(())
    }

    /// Handles the end of the device's own RDMA READ.
    pub(super) fn fetched(&mut self, id: ConnId, result: Result<(), WrError>) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        conn.used = self.now;
        let (Some(ahead), Stage::Owned { queue, .. }) = (conn.ahead.take(), conn.stage) else {
            return;
        };
        self.fetched_ahead += u64::from(result.is_ok());
        let length = if result.is_ok() { ahead.fetching } else { 0 };
        self.give_back(queue, id, ahead, (reason::of_result(result), length));
    }

    /// Gives the lent buffer back without data, and delivers the messages that waited. They are the last messages that
    /// the owner of an ending connection gets before it learns of the end.
    pub(super) fn end_ahead(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        // Messages still waiting for memory are dropped: no worker will get them.
        conn.held.clear();
        if let (Some(ahead), Stage::Owned { queue, .. }) = (conn.ahead.take(), conn.stage) {
            self.give_back(queue, id, ahead, (Status::Flushed, 0));
        }
    }

    fn give_back(&mut self, queue: QueueId, id: ConnId, ahead: Ahead, how: (Status, u32)) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let Stage::Owned { number, .. } = conn.stage else {
            return;
        };
        let behind = core::mem::take(&mut conn.behind);
        let is_holding = !conn.held.is_empty();
        self.answer_lent(queue, number, ahead.cookie, how);
        for (buffer, length) in behind {
            self.deliver_pdu(queue, number, buffer, length);
        }
        if is_holding {
            self.deliver(id);
        }
    }

    pub(super) fn answer_lent(
        &mut self,
        queue: QueueId,
        number: u64,
        cookie: u64,
        (status, length): (Status, u32),
    ) {
        if let Some(of) = self.queues.get_mut(queue) {
            of.outstanding = of.outstanding.saturating_sub(1);
        }
        self.complete(
            queue,
            Completion {
                event: event::FETCHED,
                status: status.code(),
                conn: number,
                cookie,
                length,
                ..NOTHING
            },
        );
    }
}
