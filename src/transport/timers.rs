// SPDX-License-Identifier: GPL-2.0-or-later

//! Finds the connection whose deadline is next, with a heap that is corrected when an entry comes up.
//!
//! A message moves its connection's idle deadline into the future, and that must not cost anything. So the heap keeps
//! the earlier entry, and the connection is asked for its real deadline only when that entry comes up. A thousand idle
//! connections cost one entry each per idle time.

use alloc::boxed::Box;
use alloc::collections::BinaryHeap;
use core::cmp::Reverse;

use super::connection::Connection;
use super::table::ConnTable;
use crate::fabric::ConnId;
use crate::units::Instant;

#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, ConnId)>>,
}

impl Timers {
    /// Makes sure that `conn` comes up no later than its deadline.
    #[inline]
    pub(super) fn arm<Buffer>(&mut self, id: ConnId, conn: &mut Connection<Buffer>) {
        let Some(deadline) = conn.deadline() else {
            return;
        };
        if conn.armed.is_none_or(|armed| deadline < armed) {
            conn.armed = Some(deadline);
            self.heap.push(Reverse((deadline, id)));
        }
    }

    /// Takes out the next entry that is due. An entry that a later `arm` replaced, or whose connection has gone, no
    /// longer matches the connection's `armed`.
    pub(super) fn due(&mut self, now: Instant) -> Option<(Instant, ConnId)> {
        let Reverse((at, _)) = *self.heap.peek()?;
        if at > now {
            None
        } else {
            self.heap.pop().map(|Reverse(entry)| entry)
        }
    }

    /// Returns when the next entry comes up.
    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Drops stale entries once they are the majority.
    pub(super) fn tidy<Buffer>(&mut self, conns: &ConnTable<Box<Connection<Buffer>>>) {
        if self.heap.len() > 64 + 2 * conns.len() {
            self.heap.retain(|Reverse((at, id))| {
                conns.get(*id).is_some_and(|conn| conn.armed == Some(*at))
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use slotmap::SlotMap;

    use super::*;
    use crate::proto::{self, Config, Endpoint};
    use crate::transport;

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    /// Makes a connection whose negotiation must be over 5 s after `now`.
    fn connection(now: Instant) -> Connection<()> {
        let peer = "192.0.2.1:445".parse().unwrap();
        let config = transport::Config::new(proto::Config::default(), proto::Config::default());
        let mut conn = Connection::new(&config, None, peer, now);
        conn.endpoint = Endpoint::acceptor(Config::default(), now);
        conn
    }

    #[test]
    fn a_later_deadline_costs_nothing_and_an_earlier_one_counts() {
        let mut ids = SlotMap::<ConnId, ()>::with_key();
        let id = ids.insert(());
        let mut timers = Timers::default();
        let mut conn = connection(at(10));
        timers.arm(id, &mut conn);
        for seconds in 11..1000 {
            conn.endpoint = Endpoint::acceptor(Config::default(), at(seconds));
            timers.arm(id, &mut conn);
        }
        assert_eq!((timers.heap.len(), timers.next()), (1, Some(at(15))));
        conn.endpoint = Endpoint::acceptor(Config::default(), at(2));
        timers.arm(id, &mut conn);
        assert_eq!(timers.due(at(6)), None);
        assert_eq!(timers.due(at(7)), Some((at(7), id)));
    }

    #[test]
    fn connections_that_are_gone_leave_nothing_behind() {
        let mut ids = SlotMap::<ConnId, ()>::with_key();
        let mut conns = ConnTable::default();
        let mut timers = Timers::default();
        for seconds in 0..10_000 {
            let id = ids.insert(());
            let mut conn = connection(at(seconds));
            timers.arm(id, &mut conn);
            if seconds % 1000 == 0 {
                conns.insert(id, Box::new(conn));
            }
            timers.tidy(&conns);
            assert!(timers.heap.len() <= 64 + 2 * conns.len());
        }
        let due: Vec<_> = core::iter::from_fn(|| timers.due(at(100_000))).collect();
        assert!(
            conns
                .iter()
                .all(|(id, _)| due.iter().any(|(_, of)| *of == id))
        );
    }
}
