//! How connections end, workers are dropped, and the reactor itself stops.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::connection::{Conn, Stage};
use super::rest::unwatch;
use super::{NOTHING, Notice, Reactor};
use crate::broker::presence::Presence;
use crate::device::Status;
use crate::device::abi::{Completion, event};
use crate::engine::pool::QueueId;
use crate::engine::reason;
use crate::engine::registry::Close;
use crate::engine::submission::Violation;
use crate::fabric::{ConnId, LocalAddress, SharedEpoll};
use crate::transport::{CloseReason, Traffic};
use crate::units::Instant;

/// Time without a submission, a completion or a message after which a connection is taken to be idle
/// when the reactor stops. That a worker has given all messages back says little: it does when it has
/// read them, and answers later. The manual, smbdirectd(8), names it.
const QUIET: Duration = Duration::from_secs(1);

/// Time that connections have to end after they were told to, when the reactor stops.
const END_TIMEOUT: Duration = Duration::from_secs(1);

impl<F: SharedEpoll> Reactor<F> {
    /// A connection is gone, and carried `traffic` before.
    pub(super) fn closed(&mut self, id: ConnId, reason: &CloseReason, traffic: &Traffic) {
        self.transport.buffers_mut().forget(id);
        let Some(mut conn) = self.conns.remove(id) else {
            return;
        };
        if let Some(deadline) = conn.deadline {
            self.deadlines.remove(&(deadline, id));
        }
        let (name, status) = conn
            .end
            .unwrap_or_else(|| (reason.name(), reason::of_close(reason)));
        let process = match conn.stage {
            Stage::Owned { queue, .. } => self.queues.get(queue).map(|queue| &queue.worker),
            Stage::Fresh | Stage::Offered(_) | Stage::Orphan => None,
        };
        let pid = process.map(|process| process.pid);
        let close = Close {
            peer: conn.peer,
            local: conn.local,
            fabric: self.fabric.name(),
            worker: process.map(|process| process.id).or(conn.last_worker),
            reason: name,
            at: self.now,
            age: self.now.saturating_since(conn.since),
            bytes_received: traffic.bytes_received(),
            bytes_sent: traffic.bytes_sent(),
        };
        let words = match conn.end {
            Some((name, _)) => reason::words(name, &self.shared.limits),
            None => reason.to_string(),
        };
        self.log_closed(&close, pid, &words);
        let mut registry = self.shared.registry();
        if let Stage::Offered(token) = &conn.stage {
            registry.claim(token);
        }
        let was_dispatched = conn.is_dispatched();
        let next = registry.closed(self.place(id), close, (was_dispatched, name));
        drop(registry);
        self.offer_next(next);
        if let Some(claim) = conn.claim.take() {
            self.answer(&claim, status);
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

    /// Logs the end of a connection, unless there were many just now.
    fn log_closed(&mut self, close: &Close, pid: Option<i32>, words: &str) {
        let Some(suppressed) = self.lines.admit(self.now) else {
            return;
        };
        let suppressed = (suppressed > 0).then_some(suppressed);
        let (peer, local) = (close.peer, close.local.map(tracing::field::display));
        let Close {
            worker,
            reason,
            bytes_received,
            bytes_sent,
            ..
        } = close;
        let seconds = (close.age.as_secs_f64() * 1e3).round() / 1e3;
        tracing::info!(
            %peer, local, worker, pid, seconds, bytes_received, bytes_sent, reason, suppressed,
            "connection ended: {words}"
        );
    }

    /// Ends a connection at once, for a reason of the broker's own. The first reason stays.
    pub(super) fn end(&mut self, id: ConnId, name: &'static str, status: Status) {
        if let Some(conn) = self.conns.get_mut(id) {
            conn.end.get_or_insert((name, status));
            conn.held.clear();
        }
        self.transport.abort(id);
    }

    /// Ends the connections of addresses that this machine no longer has.
    pub(super) fn end_gone(&mut self, interfaces: Arc<BTreeSet<LocalAddress>>) {
        let mut presence = Presence::new(interfaces);
        self.transport
            .end_gone(|address| !presence.has(address.into()));
    }

    /// A worker broke the rules of the interface.
    pub(super) fn violated(&mut self, queue: QueueId, violation: Violation) {
        self.shared.registry().count(violation.name());
        self.fault(queue, Status::Corrupt, &violation.to_string());
    }

    /// A worker is to be detached: its connections end at once, the rest is the control thread's.
    pub(super) fn fault(&mut self, queue: QueueId, status: Status, why: &str) {
        let Some(queue) = self.queues.get(queue) else {
            return;
        };
        let process = queue.worker.id;
        self.control.notice(Notice::Fault {
            process,
            status,
            why: why.to_owned(),
        });
        self.drop_process(process, false);
    }

    /// Forgets a worker and aborts its connections; but with `recover`, where nothing of it is
    /// registered any more, those with which it has done nothing find another.
    pub(super) fn drop_process(&mut self, process: u32, recover: bool) {
        let Some(id) = self.queue_of.remove(&process) else {
            return;
        };
        let Some(queue) = self.queues.remove(id) else {
            return;
        };
        unwatch(self.transport.fabric().registry(), &queue.bell);
        self.active.retain(|active| *active != id);
        let mut recovered = Vec::new();
        for conn in queue.conns() {
            if recover && self.recover(conn, process) {
                recovered.push(conn);
                continue;
            }
            if let Some(conn) = self.conns.get_mut(conn) {
                conn.stage = Stage::Orphan;
                conn.claim = None;
                conn.last_worker = Some(process);
            }
            self.end(conn, "worker_gone", Status::Detached);
        }
        self.transport.buffers_mut().remove(id);
        for conn in recovered {
            self.route(conn);
        }
    }

    pub(super) fn begin_to_stop(&mut self, by: Instant) {
        self.stop_by = Some(self.stop_by.map_or(by, |earlier| earlier.min(by)));
        for listener in std::mem::take(&mut self.listeners) {
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

    /// When `stop` has something to do at the latest.
    pub(super) fn next_stop(&self) -> Option<Instant> {
        let by = self.stop_by?;
        if self.now >= by {
            return Some(by);
        }
        let quiet = |conn: &Conn| (conn.end.is_none() && conn.is_idle()).then(|| conn.used + QUIET);
        let first = self.conns.iter().filter_map(|(_, conn)| quiet(conn)).min();
        Some(first.map_or(by, |first| first.min(by)))
    }

    /// Ends connections once nothing is under way on them; whether the reactor is done.
    pub(super) fn stop(&mut self) -> bool {
        let Some(by) = self.stop_by else {
            return false;
        };
        let late = self.now >= by;
        let is_over = |conn: &Conn| {
            let quiet = self.now.saturating_since(conn.used) >= QUIET;
            late || conn.end.is_none() && conn.is_idle() && quiet
        };
        let ids: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, conn)| is_over(conn))
            .map(|(id, _)| id)
            .collect();
        for id in ids {
            if late {
                self.end(id, "stopping", Status::Stopping);
                continue;
            }
            if let Some(conn) = self.conns.get_mut(id) {
                conn.end = Some(("stopping", Status::Stopping));
            }
            self.transport.close(id);
        }
        self.conns.len() == 0 || self.now >= by + END_TIMEOUT
    }
}
