// SPDX-License-Identifier: GPL-2.0-or-later

//! Checks the entries of the device's completion rings against what was submitted.
//!
//! This module sees only copies of entries. An entry may name only what the worker has: a connection of the entry's
//! queue, an operation under way on that connection, a buffer that the device holds. Anything else is
//! [`Status::Corrupt`].

use zerocopy::{FromZeros, IntoBytes};

use super::Status;
use super::abi::{Completion, ConnInfo, OPTIONAL, event, queue_of};
use super::event::{ConnCounts, Event, Fetched};
use super::worker::{Conn, MAX_CONNECTIONS, Operation, Pdu, Work, Worker};
use crate::shm::Doorbell;

/// The result of a look at the rings.
#[derive(Debug)]
pub(super) enum Next {
    /// An event to report.
    Event(Event),
    /// An entry names a segment that has not arrived: read control messages first.
    NeedsSegment,
    /// The rings have nothing for the caller.
    Nothing,
}

/// What to do with an entry.
enum Judged {
    Tell(Event),
    /// The entry is done, and there is nothing to report yet.
    Silent,
    NeedsSegment,
}

impl<D: Doorbell> Worker<D> {
    /// Returns the next event from the rings; the queues take turns.
    pub(super) fn next_event(&mut self) -> Result<Next, Status> {
        if let Some(event) = self.ended() {
            return Ok(Next::Event(event));
        }
        let mut idle = 0;
        while idle < self.queues.len() {
            if self.turn >= self.queues.len() {
                self.turn = 0;
            }
            let Some(queue) = self.queues.get_mut(self.turn) else {
                break;
            };
            self.room |= queue.found_room()?;
            let (number, entry) = (queue.number, queue.completion()?);
            let Some(entry) = entry else {
                idle += 1;
                self.turn += 1;
                continue;
            };
            let judged = self.judge(self.turn, number, &entry)?;
            if matches!(judged, Judged::NeedsSegment) {
                return Ok(Next::NeedsSegment);
            }
            idle = 0;
            if let Some(queue) = self.queues.get_mut(self.turn) {
                queue.done();
                self.turn += usize::from(!queue.has_more());
            }
            if let Judged::Tell(event) = judged {
                return Ok(Next::Event(event));
            }
        }
        Ok(Next::Nothing)
    }

    /// Announces in every ring that this side will sleep, and returns whether it may sleep.
    pub(super) fn announce_sleep(&mut self) -> Result<bool, Status> {
        let mut may = true;
        let wants_room = self.send.is_wanted() || self.bulk.is_wanted();
        for queue in &mut self.queues {
            may &= queue.announce_sleep(wants_room)?;
        }
        Ok(may)
    }

    fn judge(&mut self, queue: usize, number: u32, entry: &Completion) -> Result<Judged, Status> {
        let is_own = queue_of(entry.conn) == number;
        // The fields of an unknown event cannot be checked.
        let is_known = entry.event & OPTIONAL == 0;
        if !is_own || is_known && (entry.reserved != 0 || entry.reserved2 != 0) {
            return Err(Status::Corrupt);
        }
        let status = Status::from_code(entry.status).unwrap_or(Status::Fabric);
        match entry.event {
            event::CONNECTION => self.connection(queue, entry),
            event::PDU => self.pdu(queue, entry),
            event::SENT | event::RDMA_DONE | event::TRANSFERRED => self.done(entry, status),
            event::FETCHED => self.fetched(entry, status),
            event::DISCONNECTED => self.disconnected(entry.conn, status),
            other if other & OPTIONAL != 0 => Ok(Judged::Silent),
            _ => Err(Status::Corrupt),
        }
    }

    fn connection(&mut self, queue: usize, entry: &Completion) -> Result<Judged, Status> {
        let mut info = ConnInfo::new_zeroed();
        let is_new = !self.conns.contains_key(&entry.conn) && self.conns.len() < MAX_CONNECTIONS;
        if !is_new || entry.length as usize != size_of::<ConnInfo>() {
            return Err(Status::Corrupt);
        }
        let ring = self.queues.get_mut(queue).ok_or(Status::Corrupt)?;
        if ring.hold(entry.buffer, entry.length)?.is_none() {
            return Ok(Judged::NeedsSegment);
        }
        ring.read(entry.buffer, info.as_mut_bytes())?;
        ring.recycle(entry.buffer)?;
        if info.conn != entry.conn || info.reserved != [0; 7] {
            return Err(Status::Corrupt);
        }
        let conn = Conn {
            info,
            queue,
            counts: ConnCounts::default(),
            operations: 0,
            closing: false,
            authenticated: false,
            transferring: false,
            lent: None,
            fetched: None,
            ended: None,
        };
        self.conns.insert(entry.conn, conn);
        Ok(Judged::Tell(Event::Connection { info }))
    }

    fn pdu(&mut self, queue: usize, entry: &Completion) -> Result<Judged, Status> {
        self.live(entry.conn)?;
        let ring = self.queues.get_mut(queue).ok_or(Status::Corrupt)?;
        if ring.hold(entry.buffer, entry.length)?.is_none() {
            return Ok(Judged::NeedsSegment);
        }
        let pdu = self.pdus.insert(Pdu {
            queue,
            buffer: entry.buffer,
            length: entry.length,
        });
        let data = self.live(entry.conn)?.fetched.take();
        let event = Event::Pdu {
            conn: entry.conn,
            pdu,
            length: entry.length,
            data,
        };
        Ok(Judged::Tell(event))
    }

    /// Takes a lent buffer back, with the data of the next message or empty.
    fn fetched(&mut self, entry: &Completion, status: Status) -> Result<Judged, Status> {
        let operation = self.operations.get(entry.cookie).ok_or(Status::Corrupt)?;
        let Work::FetchAhead { data, length } = operation.work else {
            return Err(Status::Corrupt);
        };
        let is_filled = status == Status::Ok;
        let is_possible = match is_filled {
            true => (1..=length).contains(&entry.length),
            false => entry.length == 0,
        };
        if operation.conn != entry.conn || !is_possible {
            return Err(Status::Corrupt);
        }
        let operation = self.operations.remove(entry.cookie);
        self.finish(&operation.ok_or(Status::Corrupt)?, status)?;
        self.ending = Some(entry.conn);
        let conn = self.conns.get_mut(&entry.conn).ok_or(Status::Corrupt)?;
        // By now, another buffer may be lent instead.
        conn.lent.take_if(|lent| lent.number == entry.cookie);
        match is_filled {
            true => {
                conn.fetched = Some(Fetched {
                    buffer: data.to_bits(),
                    length: entry.length,
                });
            }
            false => self.free(data.to_bits())?,
        }
        Ok(Judged::Silent)
    }

    /// Returns a connection that the device has not ended.
    fn live(&mut self, conn: u64) -> Result<&mut Conn, Status> {
        let conn = self.conns.get_mut(&conn);
        conn.filter(|conn| conn.ended.is_none())
            .ok_or(Status::Corrupt)
    }

    fn disconnected(&mut self, number: u64, status: Status) -> Result<Judged, Status> {
        let conn = self.live(number)?;
        if conn.fetched.is_some() {
            // The message for which data was fetched would have come first.
            return Err(Status::Corrupt);
        }
        if conn.operations > 0 {
            conn.ended = Some(status);
            return Ok(Judged::Silent);
        }
        self.conns.remove(&number);
        Ok(Judged::Tell(Event::Disconnected {
            conn: number,
            status,
        }))
    }

    /// Handles the answer to a submission.
    fn done(&mut self, entry: &Completion, status: Status) -> Result<Judged, Status> {
        let operation = self.operations.get(entry.cookie).ok_or(Status::Corrupt)?;
        let is_its_answer = matches!(
            (operation.work, entry.event),
            (Work::Send { .. }, event::SENT)
                | (Work::Rdma { .. }, event::RDMA_DONE)
                | (Work::Transfer { .. }, event::TRANSFERRED)
        );
        if operation.conn != entry.conn || !is_its_answer {
            return Err(Status::Corrupt);
        }
        let operation = self.operations.remove(entry.cookie);
        let operation = operation.ok_or(Status::Corrupt)?;
        let finished = self.finish(&operation, status);
        if finished.is_err() {
            // The operation has not been reported: the end of the attachment reports it with all the others.
            self.operations.insert(operation);
            return finished.map(|()| Judged::Silent);
        }
        self.ending = Some(entry.conn);
        let event = answer(&operation, status, entry.token);
        Ok(event.map_or(Judged::Silent, Judged::Tell))
    }

    /// Gives back the memory that an operation used.
    fn finish(&mut self, operation: &Operation, status: Status) -> Result<(), Status> {
        let conn = self.conns.get_mut(&operation.conn);
        let conn = conn.ok_or(Status::Corrupt)?;
        conn.operations = conn.operations.saturating_sub(1);
        let queue = self.queues.get_mut(conn.queue).ok_or(Status::Corrupt)?;
        queue.answered();
        self.room |= queue.found_room()?;
        match operation.work {
            Work::Send { message, length } => {
                let length = u64::from(length);
                conn.counts.unsent_bytes = conn.counts.unsent_bytes.saturating_sub(length);
                if status == Status::Ok {
                    conn.counts.sent_bytes = conn.counts.sent_bytes.saturating_add(length);
                }
                self.free_send(message)
            }
            Work::Rdma { data, descriptors } => {
                let count = &mut conn.counts.rdma_operations;
                *count = count.saturating_sub(1);
                self.bulk.release(data);
                self.free_send(descriptors)
            }
            Work::Transfer { message, .. } => {
                if let Some(message) = message {
                    self.free_send(message)?;
                }
                self.transferred(operation.conn, status)
            }
            Work::FetchAhead { data, .. } => {
                self.bulk.release(data);
                Ok(())
            }
        }
    }

    fn transferred(&mut self, number: u64, status: Status) -> Result<(), Status> {
        let conn = self.conns.get_mut(&number).ok_or(Status::Corrupt)?;
        conn.transferring = false;
        if status == Status::Ok {
            // A connection that has ended cannot be handed over.
            if conn.operations > 0 || conn.ended.is_some() {
                return Err(Status::Corrupt);
            }
            self.conns.remove(&number);
        } else if conn.closing && conn.ended.is_none() {
            let queue = conn.queue;
            self.post_disconnect(number, queue)?;
        }
        Ok(())
    }

    /// If the end of a connection was held back because of its operations, and the last of them has now been reported,
    /// returns that end.
    fn ended(&mut self) -> Option<Event> {
        let conn = self.ending.take()?;
        let found = self.conns.get(&conn)?;
        let status = found.ended.filter(|_| found.operations == 0)?;
        self.conns.remove(&conn);
        Some(Event::Disconnected { conn, status })
    }

    /// Ends everything: reports first the operations, and then the connections.
    pub(super) fn end(&mut self) -> impl Iterator<Item = Event> + use<D> {
        let operations = self.operations.drain();
        let operations =
            operations.filter_map(|operation| answer(&operation, Status::Flushed, [0; 16]));
        let conns = std::mem::take(&mut self.conns);
        operations.chain(conns.into_keys().map(|conn| Event::Disconnected {
            conn,
            status: Status::Detached,
        }))
    }
}

/// Returns the event that tells the caller how an operation ended; `None` if the caller does not wait for one.
fn answer(operation: &Operation, status: Status, token: [u8; 16]) -> Option<Event> {
    let &Operation { conn, cookie, work } = operation;
    match work {
        Work::Send { length, .. } => Some(Event::Sent {
            conn,
            cookie,
            status,
            length,
        }),
        Work::Rdma { .. } => Some(Event::RdmaDone {
            conn,
            cookie,
            status,
        }),
        Work::Transfer { wants_token, .. } => Some(Event::Transferred {
            conn,
            cookie,
            status,
            token: if wants_token && status == Status::Ok {
                token
            } else {
                [0; 16]
            },
        }),
        Work::FetchAhead { .. } => None,
    }
}
