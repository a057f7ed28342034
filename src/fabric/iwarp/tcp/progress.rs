// SPDX-License-Identifier: GPL-2.0-or-later

//! Makes progress: handles what the sockets report, step by step for each connection, until its end.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::time::Duration;

use mio::Interest;
use mio::net::TcpStream;

use super::Iwarp;
use super::conn::{Conn, Progress, Stage, os};
use super::fpdu::crc32c;
use super::listen::Accepted;
use super::token::Target;
use crate::fabric::iwarp::IwarpError;
use crate::fabric::iwarp::handshake::Agreed;
use crate::fabric::iwarp::qp::{Completion, Done, Qp};
use crate::fabric::{
    CloseReason, ConnId, Event, FabricError, ListenerId, ReadLimits, Work, WrError, is_own,
};
use crate::sys::ACCEPT_PAUSE;
use crate::units::Instant;

/// Maximum number of connections taken from a listener before other sockets get their turn.
const ACCEPT_BATCH: usize = 64;

impl Iwarp {
    fn accept_connections(&mut self, id: ListenerId, events: &mut Vec<Event>) {
        for _ in 0..ACCEPT_BATCH {
            let Some(listener) = self.listeners.get(id) else {
                return;
            };
            match listener.accept() {
                Accepted::Connection(stream, peer) => self.admit(id, stream, peer, events),
                Accepted::Nobody => return,
                Accepted::Lost => {}
                Accepted::Exhausted(error) => {
                    tracing::debug!(%error, "accept failed");
                    if self.accept_again.is_none() {
                        // The peer's address is unknown, because its connection still waits.
                        events.push(Event::Refused {
                            peer: listener.address,
                            reason: os(&error),
                        });
                    }
                    self.accept_again = Some(self.now + ACCEPT_PAUSE);
                    return;
                }
            }
        }
        self.watch_listener(id);
    }

    /// Makes the next `poll` look at a listener even if no more connections come: some may be waiting, and they would
    /// not be announced again.
    fn watch_listener(&mut self, id: ListenerId) {
        if let Some(listener) = self.listeners.get_mut(id) {
            let token = Target::Listener(id).token();
            let registry = self.readiness.registry();
            let _ = registry.reregister(&mut listener.socket, token, Interest::READABLE);
        }
    }

    fn admit(
        &mut self,
        listener: ListenerId,
        stream: TcpStream,
        peer: SocketAddr,
        events: &mut Vec<Event>,
    ) {
        if !self.admitted.admit_conn(stream.local_addr().ok()) {
            reset(stream);
            events.push(Event::Refused {
                peer,
                reason: CloseReason::AddressNotAllowed,
            });
            return;
        }
        let _ = stream.set_nodelay(true);
        let mut conn = Conn::new(stream, peer, Stage::AwaitsRequest, self.config.max_ulpdu);
        conn.listener = Some(listener);
        let id = match self.add(conn) {
            Ok(id) => id,
            Err(error) => return tracing::debug!(%error, "connection dropped"),
        };
        let excess = self.pending.admit(id, peer.into(), self.pending_limits());
        if let Some((oldest, _)) = excess {
            self.end(oldest, CloseReason::TooManyPending, events);
        }
    }

    /// Records which sockets are ready, and serves listeners and closing sockets at once.
    pub(super) fn collect_readiness(&mut self, events: &mut Vec<Event>) -> Result<(), FabricError> {
        let found = self.readiness.take()?;
        for event in found.iter().filter(|event| is_own(event.token())) {
            match Target::of(event.token()) {
                Target::Listener(id) => self.accept_connections(id, events),
                Target::Linger(id) => {
                    let chunk = &mut self.scratch.input;
                    self.lingering
                        .drop_input(id, self.readiness.registry(), chunk);
                }
                Target::Conn(id) => {
                    let Some(conn) = self.conns.get_mut(id) else {
                        continue;
                    };
                    // An error shows in the next attempt.
                    conn.readable |= event.is_readable() || event.is_error();
                    conn.writable |= event.is_writable() || event.is_error();
                    conn.read_closed |= event.is_read_closed() || event.is_error();
                    enqueue(&mut self.work, id, conn);
                }
            }
        }
        self.readiness.put(found);
        Ok(())
    }

    /// Moves as much data as possible on one connection.
    pub(super) fn pump(&mut self, id: ConnId, events: &mut Vec<Event>) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        conn.queued = false;
        if conn.deadline.is_none() {
            // The deadline is set here, and not in the call that began the stage, because only `poll` knows the time.
            conn.deadline = match conn.stage {
                Stage::Established => None,
                Stage::Draining => Some(self.now + self.config.drain_timeout),
                _ => Some(self.now + self.config.connect_timeout),
            };
            self.deadlines
                .extend(conn.deadline.map(|deadline| Reverse((deadline, id))));
        }
        match conn.handshake() {
            Ok(Progress::None) => {}
            Ok(Progress::Requested) => {
                conn.qp = Some(Box::new(Qp::new(self.config.depths, crc32c)));
                let (peer, listener) = (conn.peer, conn.listener.unwrap_or_default());
                events.push(Event::ConnectRequest {
                    listener,
                    conn: id,
                    peer,
                });
            }
            Ok(Progress::Established(agreed)) => {
                conn.deadline = None;
                events.push(Event::Established {
                    conn: id,
                    limits: limits(&agreed),
                });
            }
            Err(reason) => return self.end(id, reason, events),
        }
        if let Some(reason) = conn.gave_up() {
            return self.end(id, reason, events);
        }
        let heard = conn.readable;
        let result = match conn.is_up() {
            true => conn.transfer(self.now, &mut self.scratch, &mut self.completions),
            false => Ok(()),
        };
        if let Some(unacknowledged) = &mut conn.unacknowledged {
            if heard && unacknowledged.has_many() {
                conn.ask_acknowledged(self.now, &mut self.completions);
            }
        }
        for completion in self.completions.drain(..) {
            events.push(completed(id, completion, Ok(())));
        }
        arm_question(&mut self.questions, id, conn, self.now);
        if let Err(reason) = result {
            self.end(id, reason, events);
        } else if matches!(conn.stage, Stage::Draining) && conn.is_drained() {
            self.end(id, CloseReason::Local, events);
        } else if conn.has_work() {
            enqueue(&mut self.work, id, conn);
        }
    }

    /// Ends a connection: flushes all posted work, and tells its owner.
    fn end(&mut self, id: ConnId, reason: CloseReason, events: &mut Vec<Event>) {
        let Some(mut conn) = self.conns.remove(id) else {
            return;
        };
        let mut reason = reason;
        match (conn.stage, IwarpError::of(&reason)) {
            // The close came first, whatever has happened since.
            (Stage::Draining, _) => reason = CloseReason::Local,
            (Stage::Established, Some(error)) => {
                conn.send_terminate(error, &mut self.scratch);
            }
            _ => {}
        }
        let announced = !matches!(conn.stage, Stage::AwaitsRequest);
        if conn.awaits_acknowledgement() {
            conn.ask_acknowledged(self.now, &mut self.completions);
            if matches!(conn.stage, Stage::Draining) {
                // The socket continues to send these SENDs, but we no longer check whether the peer acknowledges them.
                let rest = std::iter::from_fn(|| conn.flush_unacknowledged());
                self.completions.extend(rest);
            }
            for completion in self.completions.drain(..) {
                events.push(completed(id, completion, Ok(())));
            }
        }
        if let Some(mut qp) = conn.qp.take() {
            let mut errors = FlushErrors::new(&reason);
            let mut flush = || {
                let sent = conn.flush_unacknowledged();
                sent.or_else(|| conn.flush_output()).or_else(|| qp.flush())
            };
            while let Some(completion) = flush() {
                events.push(completed(id, completion, Err(errors.take(completion.done))));
            }
        }
        events.push(match announced {
            true => Event::Closed { conn: id, reason },
            false => Event::Refused {
                peer: conn.peer,
                reason,
            },
        });
        self.discard(id, conn);
    }

    /// Asks what is acknowledged on connections whose SENDs, or full sockets, have waited long enough.
    pub(super) fn ask_acknowledged(&mut self, events: &mut Vec<Event>) {
        while let Some(&Reverse((at, id))) = self.questions.peek() {
            if at > self.now {
                break;
            }
            self.questions.pop();
            let Some(conn) = self.conns.get_mut(id) else {
                continue;
            };
            let due = conn.unacknowledged.as_mut();
            let Some(due) = due.filter(|due| due.ask_at == Some(at)) else {
                continue;
            };
            due.ask_at = None;
            if conn.awaits_acknowledgement() || conn.is_full() {
                conn.ask_acknowledged(self.now, &mut self.completions);
                for completion in self.completions.drain(..) {
                    events.push(completed(id, completion, Ok(())));
                }
                arm_question(&mut self.questions, id, conn, self.now);
            }
        }
    }

    /// Gives up a connection's socket, and its place among the pending connections if it had one.
    pub(super) fn discard(&mut self, id: ConnId, mut conn: Conn) {
        self.pending.remove(&id);
        if let Stage::Requested(request) = conn.stage {
            let _ = conn.send_frame(&request.reject());
        }
        let _ = self.readiness.registry().deregister(&mut conn.stream);
        self.lingering.add(conn.stream, self.readiness.registry());
    }

    /// Ends connections that have taken too long.
    pub(super) fn expire(&mut self, events: &mut Vec<Event>) {
        while let Some(&Reverse((deadline, id))) = self.deadlines.peek() {
            if deadline > self.now {
                break;
            }
            self.deadlines.pop();
            let Some(conn) = self
                .conns
                .get(id)
                .filter(|conn| conn.deadline == Some(deadline))
            else {
                continue;
            };
            let reason = match conn.stage {
                Stage::Draining => CloseReason::Local,
                _ => CloseReason::ConnectTimeout,
            };
            self.end(id, reason, events);
        }
        self.lingering.expire(self.now);
        if self.accept_again.is_some_and(|at| at <= self.now) {
            self.accept_again = None;
            let listeners: Vec<ListenerId> = self.listeners.keys().collect();
            for id in listeners {
                self.watch_listener(id);
            }
        }
    }

    /// Ends a connection in a call that has no list of events.
    pub(super) fn end_now(&mut self, id: ConnId, reason: CloseReason) {
        let mut events = std::mem::take(&mut self.events);
        self.end(id, reason, &mut events);
        self.events = events;
    }
}

/// Closes a connection so that it looks refused to its peer, and nothing of it remains in the system.
fn reset(stream: TcpStream) {
    let at_once = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    if let Err(error) = at_once {
        tracing::debug!(%error, "cannot reset a connection: closing it instead");
    }
}

/// The error of the oldest work of each kind, if this error was the reason for the end; all other work is flushed.
struct FlushErrors {
    recv: WrError,
    read: WrError,
}

impl FlushErrors {
    fn new(reason: &CloseReason) -> Self {
        let mut errors = Self {
            recv: WrError::Flushed,
            read: WrError::Flushed,
        };
        match IwarpError::of(reason) {
            Some(IwarpError::DdpTooLong) => errors.recv = WrError::LocalLength,
            Some(IwarpError::PeerTerminated {
                layer: 0, etype: 1, ..
            }) => {
                errors.read = WrError::RemoteAccess;
            }
            _ => {}
        }
        errors
    }

    const fn take(&mut self, done: Done) -> WrError {
        match done {
            Done::Recv { .. } => std::mem::replace(&mut self.recv, WrError::Flushed),
            Done::Read => std::mem::replace(&mut self.read, WrError::Flushed),
            Done::Send | Done::Write => WrError::Flushed,
        }
    }
}

/// Records when to ask what is acknowledged on a connection.
fn arm_question(
    questions: &mut BinaryHeap<Reverse<(Instant, ConnId)>>,
    id: ConnId,
    conn: &mut Conn,
    now: Instant,
) {
    let is_full = conn.is_full();
    let at = conn
        .unacknowledged
        .as_mut()
        .and_then(|sends| sends.arm(now, is_full));
    questions.extend(at.map(|at| Reverse((at, id))));
}

pub(super) fn completed(
    conn: ConnId,
    completion: Completion,
    result: Result<(), WrError>,
) -> Event {
    let work = match completion.done {
        Done::Recv {
            length,
            invalidated,
        } => Work::Recv {
            length,
            invalidated,
        },
        Done::Send => Work::Send,
        Done::Write => Work::Write,
        Done::Read => Work::Read,
    };
    Event::Completion {
        conn,
        wr_id: completion.wr_id,
        work,
        result,
    }
}

pub(super) const fn limits(agreed: &Agreed) -> ReadLimits {
    ReadLimits {
        responder_resources: agreed.ird,
        initiator_depth: agreed.ord,
    }
}

pub(super) fn enqueue(work: &mut Vec<ConnId>, id: ConnId, conn: &mut Conn) {
    if !conn.queued {
        conn.queued = true;
        work.push(id);
    }
}
