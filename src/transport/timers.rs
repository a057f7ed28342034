//! Which connection's deadline is next: a heap that is corrected when an entry comes up.
//!
//! A message moves its connection's idle deadline into the future, which must cost nothing. So the
//! heap keeps the earlier entry, and only when that comes up is the endpoint asked for its real
//! deadline. A thousand idle connections cost one entry each per idle time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use slotmap::SecondaryMap;

use super::connection::Connection;
use crate::fabric::ConnId;
use crate::units::Instant;

#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, ConnId)>>,
}

impl Timers {
    /// Makes sure that `conn` comes up no later than its endpoint's deadline.
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

    /// The next entry that is due, taken out. An entry that a later `arm` replaced, or whose
    /// connection is gone, is not the connection's `armed` any more.
    pub(super) fn due(&mut self, now: Instant) -> Option<(Instant, ConnId)> {
        let Reverse((at, _)) = *self.heap.peek()?;
        if at > now {
            None
        } else {
            self.heap.pop().map(|Reverse(entry)| entry)
        }
    }

    /// When the next entry comes up.
    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Forgets entries that mean nothing any more, once they are the most.
    pub(super) fn tidy<Buffer>(&mut self, conns: &SecondaryMap<ConnId, Box<Connection<Buffer>>>) {
        if self.heap.len() > 64 + 2 * conns.len() {
            self.heap.retain(|Reverse((at, id))| {
                conns.get(*id).is_some_and(|conn| conn.armed == Some(*at))
            });
        }
    }
}
