// SPDX-License-Identifier: GPL-2.0-or-later

//! Handles time, lack of buffers, and the events of the fabric.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::SocketAddr;

use super::connection::Connection;
use super::{CloseReason, Event, MessageBuffers, Transport, mark_dirty};
use crate::fabric::{self, ConnId, Fabric, ListenerId};
use crate::proto::State;
use crate::units::Instant;

impl<F: Fabric, B: MessageBuffers> Transport<F, B> {
    /// Retries fragments that found no buffer. The first connection that still waits moves to the end of the list, so
    /// that each connection comes first at some time.
    pub(super) fn retry_starved(&mut self, events: &mut Vec<Event<B::Buffer>>) {
        if !core::mem::take(&mut self.retry_starved) {
            return;
        }
        let first = self.starved.first().copied();
        let (conns, buffers, dirty) = (&mut self.conns, &mut self.buffers, &mut self.dirty);
        self.starved.retain(|&id| {
            let Some(conn) = conns.get_mut(id) else {
                return false;
            };
            let before = conn.waiting();
            let done = conn.retry(id, buffers, events);
            conn.starved = !done;
            // Thousands of connections may wait for one buffer: only the connection that got the buffer has receives to
            // post.
            if conn.waiting() < before {
                mark_dirty(dirty, id, conn);
            }
            !done
        });
        if first.is_some() && self.starved.first().copied() == first {
            self.starved.rotate_left(1);
        }
    }

    /// Lets every connection whose deadline has passed check the clock.
    pub(super) fn run_timers(&mut self, now: Instant) {
        while let Some((at, id)) = self.timers.due(now) {
            let Some(conn) = self.conns.get_mut(id) else {
                continue;
            };
            if conn.armed != Some(at) {
                continue;
            }
            conn.armed = None;
            if conn.deadline().is_some_and(|deadline| deadline <= now) {
                if let Err(reason) = conn.expire(now, self.fabric.moved(id)) {
                    conn.fail(reason);
                    self.fabric.close(id);
                    continue;
                }
                mark_dirty(&mut self.dirty, id, conn);
            }
            self.timers.arm(id, conn);
        }
    }

    /// Posts the work that is ready.
    pub(super) fn pump(&mut self, now: Instant, events: &mut Vec<Event<B::Buffer>>) {
        for id in self.dirty.drain(..) {
            let Some(conn) = self.conns.get_mut(id) else {
                continue;
            };
            conn.dirty = false;
            conn.pump(&mut self.fabric, id, now);
            self.timers.arm(id, conn);
            if !conn.established && conn.endpoint.state() == State::Established && !conn.is_failed()
            {
                conn.established = true;
                conn.announced = true;
                self.journal.counters.established += 1;
                self.admission.release(id);
                events.push(Event::Established {
                    conn: id,
                    listener: conn.listener,
                    peer: conn.peer,
                });
            }
        }
    }

    #[inline]
    pub(super) fn handle(
        &mut self,
        now: Instant,
        event: fabric::Event,
        events: &mut Vec<Event<B::Buffer>>,
    ) {
        match event {
            fabric::Event::Completion {
                conn: id,
                wr_id,
                work,
                result,
            } => {
                let Some(conn) = self.conns.get_mut(id) else {
                    return;
                };
                let failed = conn.is_failed();
                conn.complete(now, id, (wr_id, work, result), &mut self.buffers, events);
                if conn.is_failed() && !failed {
                    self.fabric.close(id);
                }
                if conn.waiting() > 0 && !conn.starved {
                    conn.starved = true;
                    self.starved.push(id);
                }
                mark_dirty(&mut self.dirty, id, conn);
            }
            fabric::Event::Established { conn: id, limits } => {
                let Some(conn) = self.conns.get_mut(id) else {
                    return;
                };
                conn.connected(limits);
                mark_dirty(&mut self.dirty, id, conn);
            }
            fabric::Event::ConnectRequest {
                listener,
                conn,
                peer,
            } => self.requested(now, listener, conn, peer),
            fabric::Event::Closed { conn, reason } => self.closed(now, conn, reason, events),
            fabric::Event::Refused { peer, reason } => {
                self.journal.closed(now, peer, &CloseReason::Fabric(reason));
            }
        }
    }

    /// Accepts a connection that a peer asks for, if there is room ([MS-SMBD] 3.1.7.1).
    fn requested(&mut self, now: Instant, listener: ListenerId, id: ConnId, peer: SocketAddr) {
        self.journal.counters.requested += 1;
        if let Err(reason) = self.accept(now, listener, id, peer) {
            self.fabric.reject(id);
            self.journal.closed(now, peer, &reason);
        }
    }

    fn accept(
        &mut self,
        now: Instant,
        listener: ListenerId,
        id: ConnId,
        peer: SocketAddr,
    ) -> Result<(), CloseReason> {
        if self.conns.len() >= self.config.max_connections {
            return Err(CloseReason::TooManyConnections);
        }
        let mut conn = Connection::new(&self.config, Some(listener), peer, now);
        conn.limit_receives(self.config.first_receive_credit_max);
        // The receive for the negotiate message has to be posted before the peer may send.
        let accepted = conn
            .post_receives(&mut self.fabric, id)
            .and_then(|()| self.fabric.accept(id, self.config.limits));
        accepted.map_err(|error| CloseReason::Call(error.into()))?;
        self.timers.arm(id, &mut conn);
        self.conns.insert(id, Box::new(conn));
        if let Some((oldest, reason)) = self.admission.admit(&self.config, id, peer) {
            if let Some(conn) = self.conns.get_mut(oldest) {
                conn.fail(reason);
                self.fabric.close(oldest);
            }
        }
        Ok(())
    }

    fn closed(
        &mut self,
        now: Instant,
        id: ConnId,
        reason: fabric::CloseReason,
        events: &mut Vec<Event<B::Buffer>>,
    ) {
        let Some(mut conn) = self.conns.remove(id) else {
            return;
        };
        self.admission.release(id);
        if conn.starved {
            self.starved.retain(|other| *other != id);
        }
        if conn.waiting() > 0 {
            self.buffers.last_call(id);
            conn.retry(id, &mut self.buffers, events);
        }
        let (announced, peer) = (conn.announced, conn.peer);
        let (reason, traffic) = conn.end(id, reason, &mut self.buffers, events);
        self.journal.counters.ended += traffic;
        if announced {
            // The owner knows more about the connection, and logs its end.
            self.journal.count_closed(&reason);
            events.push(Event::Closed {
                conn: id,
                reason,
                traffic: Box::new(traffic),
            });
        } else {
            self.journal.closed(now, peer, &reason);
        }
        self.timers.tidy(&self.conns);
    }
}
