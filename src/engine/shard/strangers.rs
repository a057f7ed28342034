// SPDX-License-Identifier: GPL-2.0-or-later

//! Limits the number of connections whose clients have not logged in (*strangers*, see
//! [`admission`](crate::engine::admission)), and how long they may last.
//!
//! The limits apply to the connections of all shards together. So the connection that has to end, or the next one to be
//! offered, may belong to another shard; a notice tells the driver which connection it is.

use core::net::SocketAddr;

use super::connection::{Conn, Stage};
use super::{Host, Notice, Shard};
use crate::device::Status;
use crate::engine::admission::{Limit, Place};
use crate::engine::pool::QueueId;
use crate::fabric::{ConnId, Fabric};
use crate::units::Instant;

impl<F: Fabric, H: Host> Shard<F, H> {
    /// Admits a connection that has negotiated SMB Direct.
    pub(super) fn established(&mut self, id: ConnId, peer: SocketAddr) {
        let place = self.place(id);
        let excess = self.host.registry().established(place, peer);
        let deadline = self.now + self.rules.first_request_timeout;
        let local = self.transport.fabric().conn_local_address(id);
        let conn = Conn::new((peer, local), self.now);
        self.conns.insert(id, conn);
        self.set_deadline(id, Some(deadline));
        self.notice(Notice::Established { peer, local });
        if self.stop_by.is_some() {
            self.end(id, "stopping", Status::Limit);
        }
        if let Some((excess, limit)) = excess {
            self.notice(Notice::LimitMet(limit));
            self.notice(Notice::End(excess, limit));
        }
    }

    /// Returns the [`Place`] by which other shards refer to a connection of this shard.
    pub(super) const fn place(&self, conn: ConnId) -> Place {
        Place {
            shard: self.number,
            conn,
        }
    }

    /// Ends a connection to make room for a newcomer, unless it has got a session in the meantime.
    pub fn end_stranger(&mut self, id: ConnId, limit: Limit) {
        let Some(conn) = self.conns.get(id) else {
            return;
        };
        if conn.authenticated {
            let (place, peer) = (self.place(id), conn.peer);
            return self.host.registry().stays(place, peer);
        }
        self.end(id, limit.name(), Status::Limit);
    }

    /// Reports which connection may be offered next, if there is one.
    pub(super) fn offer_next(&mut self, next: Option<Place>) {
        self.notices.extend(next.map(Notice::Offer));
    }

    pub(super) fn set_deadline(&mut self, id: ConnId, deadline: Option<Instant>) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        if let Some(before) = core::mem::replace(&mut conn.deadline, deadline) {
            self.deadlines.remove(&(before, id));
        }
        self.deadlines.extend(deadline.map(|at| (at, id)));
    }

    /// Reports clients that were turned away before they had negotiated.
    pub(super) fn run_turned_away(&mut self) {
        let turned_away = self.transport.counters().turned_away;
        let times = turned_away.saturating_sub(self.turned_away);
        if times > 0 {
            self.turned_away = turned_away;
            self.notice(Notice::TurnedAway(times));
        }
    }

    /// Notes that a user has logged in on a connection, so that its client is no longer a stranger.
    pub(super) fn authenticated(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        if core::mem::replace(&mut conn.authenticated, true) {
            return;
        }
        self.set_deadline(id, None);
        self.host.registry().authenticated(self.place(id));
        self.transport.buffers_mut().authenticated(id);
        self.transport.raise_receives(id);
        self.count_receives(id);
    }

    /// Ends the stranger with the largest number of outstanding submissions if strangers together have too many in a
    /// queue, because a full queue keeps the worker's users waiting. Returns `true` if `id` may submit nothing more,
    /// because `id` is that stranger or the other strangers do not end fast enough.
    pub(super) fn is_too_much(&mut self, queue: QueueId, id: ConnId) -> bool {
        let is_stranger = |conn: &&Conn<H::Worker>| !conn.authenticated;
        let (Some(queue), Some(_)) = (
            self.queues.get(queue),
            self.conns.get(id).filter(is_stranger),
        ) else {
            return false;
        };
        let share = queue.share_of_strangers();
        let (mut all, mut most) = (0, None);
        for id in queue.conns() {
            let Some(conn) = self.conns.get(id).filter(is_stranger) else {
                continue;
            };
            all += conn.outstanding;
            if conn.end.is_none() {
                most = most.max(Some((conn.outstanding, id)));
            }
        }
        if all < share {
            return false;
        }
        let most = most.map_or(id, |(_, id)| id);
        let goes = [Some(most), (all >= 2 * share).then_some(id)];
        for id in goes.into_iter().flatten() {
            self.end(id, "too_many_unanswered", Status::Limit);
        }
        goes.contains(&Some(id))
    }

    /// Ends connections that have waited for too long.
    pub(super) fn run_deadlines(&mut self) {
        while let Some((at, id)) = self.deadlines.first().copied() {
            if at > self.now {
                return;
            }
            self.deadlines.pop_first();
            let name = match self.conns.get(id) {
                Some(conn) if matches!(conn.stage, Stage::Offered(_)) => "claim_timeout",
                Some(conn) if conn.stage == Stage::Fresh && conn.held.is_empty() => {
                    "first_request_timeout"
                }
                _ => "login_timeout",
            };
            self.end(id, name, Status::TimedOut);
        }
    }
}
