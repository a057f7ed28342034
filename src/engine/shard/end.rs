// SPDX-License-Identifier: GPL-2.0-or-later

//! Ends connections, drops workers, and stops the shard itself.

use alloc::vec::Vec;
use core::time::Duration;

use super::connection::{Conn, Stage};
use super::moving::Leaving;
use super::{Host, NOTHING, Notice, Scope, Shard, Why};
use crate::device::Status;
use crate::device::abi::{Completion, event};
use crate::engine::peer::Peer;
use crate::engine::pool::QueueId;
use crate::engine::reason;
use crate::engine::registry::{Carried, Close};
use crate::engine::submission::Violation;
use crate::fabric::{ConnId, Fabric};
use crate::transport::{CloseReason, Traffic};
use crate::units::Instant;

/// Time without a submission, a completion or a message after which a connection counts as idle when the shard stops. A
/// worker that has given all messages back may still be busy: it gives them back once it has read them, and answers
/// later. The manual, smbdirectd(8), names this time.
const QUIET: Duration = Duration::from_secs(1);

/// Time that connections get for ending, once the stopping shard has told them to end.
const END_TIMEOUT: Duration = Duration::from_secs(1);

impl<F: Fabric, H: Host> Shard<F, H> {
    /// Forgets a connection that has ended; it carried `traffic`.
    pub(super) fn closed(&mut self, id: ConnId, reason: CloseReason, traffic: &Traffic) {
        self.end_ahead(id);
        self.transport.buffers_mut().forget(id);
        let Some(mut conn) = self.conns.remove(id) else {
            return;
        };
        if let Some(deadline) = conn.deadline {
            self.deadlines.remove(&(deadline, id));
        }
        let (name, status) = conn
            .end
            .unwrap_or_else(|| (reason.name(), reason::of_close(&reason)));
        let worker = match conn.stage {
            Stage::Owned { queue, .. } => self.queues.get(queue).map(|queue| &queue.worker),
            Stage::Fresh | Stage::Offered(_) | Stage::Leaving | Stage::Orphan => None,
        };
        let worker = worker.cloned();
        let close = Close {
            peer: conn.peer,
            local: conn.local,
            fabric: self.fabric,
            worker: worker.as_ref().map(Peer::id).or(conn.last_worker),
            reason: name,
            at: self.now,
            age: self.now.saturating_since(conn.since),
            bytes_received: traffic.bytes_received(),
            bytes_sent: traffic.bytes_sent(),
        };
        let mut registry = self.host.registry();
        if let Stage::Offered(token) = &conn.stage {
            registry.claim(token);
        }
        let was_dispatched = conn.is_dispatched();
        let next = registry.closed(self.place(id), close.clone(), (was_dispatched, name));
        drop(registry);
        let cause = conn.end.is_none().then_some(reason);
        self.notice(Notice::Ended {
            close,
            worker,
            cause,
        });
        self.offer_next(next);
        if let Some(claim) = conn.claim.take() {
            self.answer(&claim, status);
        }
        if let Some(transferred) = conn.leaving.and_then(|leaving| leaving.failed(status)) {
            self.transferred(transferred);
        }
        if let Stage::Owned { queue, number } = conn.stage {
            if let Some(of) = self.queues.get_mut(queue) {
                of.remove(number);
                of.waiting.retain(|waiting| *waiting != id);
            }
            if !conn.info_due {
                self.complete(
                    queue,
                    Completion {
                        event: event::DISCONNECTED,
                        status: status.code(),
                        conn: number,
                        ..NOTHING
                    },
                );
            }
        }
    }

    /// Ends a connection at once, for one of the device's own reasons. The first reason is kept.
    pub(super) fn end(&mut self, id: ConnId, name: &'static str, status: Status) {
        if let Some(conn) = self.conns.get_mut(id) {
            conn.end.get_or_insert((name, status));
            conn.held.clear();
        }
        self.transport.abort(id);
    }

    /// Handles a worker that broke the rules of the interface.
    pub(super) fn violated(&mut self, queue: QueueId, violation: Violation) {
        self.host.registry().count(violation.name());
        self.fault(queue, Status::Corrupt, violation.into());
    }

    /// Ends a faulty worker's connections at once; the shard's driver detaches the worker.
    pub fn fault(&mut self, queue: QueueId, status: Status, why: Why) {
        let Some(queue) = self.queues.get(queue) else {
            return;
        };
        let worker = queue.worker.id();
        self.notice(Notice::Fault {
            worker,
            status,
            why,
        });
        self.drop_worker(worker, false);
    }

    /// Drops a worker that is no longer attached, and has nothing registered.
    pub fn gone(&mut self, worker: u32) {
        self.drop_worker(worker, true);
    }

    /// Forgets a worker and aborts its connections. With `recover`, which requires that the worker has nothing
    /// registered, connections that it has not used yet find another worker.
    fn drop_worker(&mut self, worker: u32, recover: bool) {
        let Some(id) = self.queue_of.remove(&worker) else {
            return;
        };
        let Some(queue) = self.queues.remove(id) else {
            return;
        };
        self.active.retain(|active| *active != id);
        let mut recovered = Vec::new();
        for conn in queue.conns() {
            if recover && self.recover(conn, worker) {
                recovered.push(conn);
                continue;
            }
            if let Some(conn) = self.conns.get_mut(conn) {
                conn.stage = Stage::Orphan;
                conn.claim = None;
                conn.last_worker = Some(worker);
            }
            self.end(conn, "worker_gone", Status::Detached);
        }
        self.transport.buffers_mut().remove(id);
        for conn in recovered {
            match self.scope {
                Scope::Worker => self.leave(conn, Leaving::Recovered),
                Scope::All | Scope::Unowned => {
                    self.become_fresh(conn);
                    self.route(conn);
                }
            }
        }
    }

    /// Stops accepting connections, and ends each existing connection once nothing is under way on it, at `by` at the
    /// latest.
    pub fn stop(&mut self, by: Instant) {
        self.stop_by = Some(self.stop_by.map_or(by, |earlier| earlier.min(by)));
        for listener in core::mem::take(&mut self.listeners) {
            self.transport.unlisten(listener);
        }
        let unowned: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, conn)| !conn.is_dispatched())
            .map(|(id, _)| id)
            .collect();
        for id in unowned {
            self.end(id, "stopping", Status::Stopping);
        }
    }

    /// Returns the time by which a stopping shard has to run again.
    pub(super) fn next_stop(&self) -> Option<Instant> {
        let by = self.stop_by?;
        if self.is_late {
            return (!self.has_stopped).then_some(by + END_TIMEOUT);
        }
        let quiet = |conn: &Conn<H::Worker>| {
            (conn.end.is_none() && conn.is_idle()).then(|| conn.used + QUIET)
        };
        let first = self.conns.iter().filter_map(|(_, conn)| quiet(conn)).min();
        Some(first.map_or(by, |first| first.min(by)))
    }

    /// Ends connections that have nothing under way, if the shard has to stop.
    pub(super) fn run_stop(&mut self) {
        let Some(by) = self.stop_by else {
            return;
        };
        let late = self.now >= by;
        self.is_late = late;
        let is_over = |conn: &Conn<H::Worker>| {
            let quiet = self.now.saturating_since(conn.used) >= QUIET;
            late || conn.end.is_none() && conn.is_idle() && quiet
        };
        let conns = self.conns.iter();
        let over = conns.filter(|(_, conn)| is_over(conn)).map(|(id, _)| id);
        for id in over.collect::<Vec<_>>() {
            if late {
                self.end(id, "stopping", Status::Stopping);
                continue;
            }
            if let Some(conn) = self.conns.get_mut(id) {
                conn.end = Some(("stopping", Status::Stopping));
            }
            self.transport.close(id);
        }
        if self.has_stopped || (self.conns.len() > 0 && self.now < by + END_TIMEOUT) {
            return;
        }
        self.has_stopped = true;
        let shard = (self.number, self.fabric);
        let counters = self.transport.counters();
        let mut registry = self.host.registry();
        registry.shard_ended(shard, self.totals(), counters.closed());
    }

    fn totals(&self) -> Carried {
        let (connections, traffic) = self.carried();
        Carried {
            requested: self.transport.counters().requested,
            connections,
            traffic,
            fetched_ahead: self.fetched_ahead,
        }
    }

    /// Leaves the totals of this shard, which has no connections and gets no more, to the registry.
    pub fn leave_totals(&self) {
        let counters = self.transport.counters();
        let mut registry = self.host.registry();
        registry.keep_totals(self.fabric, self.totals(), counters.closed());
    }

    /// Returns whether the shard has no connections, not even ones that have not negotiated.
    pub fn is_empty(&self) -> bool {
        self.transport.connections().next().is_none()
    }

    /// Returns whether the shard was told to stop, and has stopped.
    pub const fn has_stopped(&self) -> bool {
        self.has_stopped
    }
}
