// SPDX-License-Identifier: GPL-2.0-or-later

//! SENDs that the socket took, but that the peer's TCP has not acknowledged.
//!
//! An owner may need to know which SENDs have reached its peer's machine, not which SENDs its own machine took
//! ([`acknowledged_sends`](super::Config::acknowledged_sends)). The kernel says how many bytes of the stream are not
//! acknowledged, at the cost of a system call. So we ask the kernel when many SENDs wait and we have just heard from
//! the peer, or when a SEND has waited for a while, but not for each SEND. We also ask about a full socket: a peer that
//! takes an RDMA WRITE slowly must not lose its connection.

use std::collections::VecDeque;
use std::time::Duration;

use crate::fabric::WrId;
use crate::fabric::iwarp::qp::{Completion, Done};
use crate::units::Instant;

/// Once this many SENDs are unacknowledged, we ask the kernel as soon as we hear from the peer.
const MANY: usize = 16;
/// The same limit in bytes. Once it is reached, we also wait only `SOON` instead of `LATER` if we do not hear from the
/// peer, because the owner may be waiting for the memory.
const LARGE: usize = 64 * 1024;
/// Time until the kernel is asked: `SOON` if much is unacknowledged, `LATER` if little is.
const SOON: Duration = Duration::from_millis(1);
const LATER: Duration = Duration::from_millis(20);
/// The maximum pause between two questions.
const LATEST: Duration = Duration::from_millis(100);
/// Number of SENDs for which an idle connection keeps room.
const ROOM: usize = 64;

/// See the [module](self).
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Unacknowledged {
    /// For each SEND, its end in the stream and its length in bytes.
    sends: VecDeque<(u64, usize, WrId)>,
    /// Number of bytes of all SENDs.
    held: usize,
    /// Number of bytes of the stream that are acknowledged, as far as is known.
    acknowledged: u64,
    /// When to ask the kernel.
    pub(super) ask_at: Option<Instant>,
    /// The minimum pause before the next question. It doubles, up to `LATEST`, each time the answer is the same as
    /// before.
    pause: Duration,
}

impl Unacknowledged {
    /// Adds a SEND of `length` bytes, which the socket has taken whole, and which ends at `end` in the stream.
    pub(super) fn push(&mut self, end: u64, length: usize, wr_id: WrId) {
        self.sends.push_back((end, length, wr_id));
        self.held += length;
    }

    /// Returns whether it is worth asking the kernel now that we have heard from the peer.
    pub(super) fn has_many(&self) -> bool {
        self.sends.len() >= MANY || self.held >= LARGE
    }

    /// Returns when to ask the kernel, if that time has changed. The kernel is asked about a full socket even without
    /// SENDs: by itself, the socket reports progress only once much of it is free again.
    pub(super) fn arm(&mut self, now: Instant, is_full: bool) -> Option<Instant> {
        if self.sends.is_empty() && !is_full {
            return None;
        }
        let wait = if self.held >= LARGE { SOON } else { LATER };
        let at = now + wait.max(self.pause);
        if self.ask_at.is_some_and(|before| before <= at) {
            return None;
        }
        self.ask_at = Some(at);
        Some(at)
    }

    /// Completes the SENDs that end within the first `acknowledged` bytes of the stream; returns whether more is
    /// acknowledged than before.
    pub(super) fn acknowledge(
        &mut self,
        acknowledged: u64,
        completions: &mut Vec<Completion>,
    ) -> bool {
        let news = acknowledged > self.acknowledged;
        self.acknowledged = self.acknowledged.max(acknowledged);
        self.pause = match news {
            true => Duration::ZERO,
            false => (self.pause.max(SOON) * 2).min(LATEST),
        };
        while self
            .sends
            .front()
            .is_some_and(|(end, ..)| *end <= acknowledged)
        {
            completions.extend(self.flush());
        }
        if self.sends.is_empty() && self.sends.capacity() > ROOM {
            self.sends = VecDeque::new();
        }
        news
    }

    /// Takes the oldest SEND.
    pub(super) fn flush(&mut self) -> Option<Completion> {
        let (_, length, wr_id) = self.sends.pop_front()?;
        self.held = self.held.saturating_sub(length);
        Some(Completion {
            wr_id,
            done: Done::Send,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sends.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(milliseconds)
    }

    fn completed(unacknowledged: &mut Unacknowledged, acknowledged: u64) -> Vec<u64> {
        let mut completions = Vec::new();
        unacknowledged.acknowledge(acknowledged, &mut completions);
        completions.iter().map(|done| done.wr_id.0).collect()
    }

    #[test]
    fn a_send_ends_once_all_of_it_is_acknowledged() {
        let mut unacknowledged = Unacknowledged::default();
        for (end, number) in [(100, 1), (200, 2), (300, 3)] {
            unacknowledged.push(end, 100, WrId(number));
        }
        assert_eq!(completed(&mut unacknowledged, 99), [0; 0]);
        assert_eq!(completed(&mut unacknowledged, 200), [1, 2]);
        assert_eq!(completed(&mut unacknowledged, 200), [0; 0]);
        assert_eq!(unacknowledged.flush().map(|done| done.wr_id), Some(WrId(3)));
        assert!(unacknowledged.is_empty());
    }

    #[test]
    fn asks_seldom_and_without_news_ever_more_seldom() {
        let mut unacknowledged = Unacknowledged::default();
        assert_eq!(
            unacknowledged.arm(at(0), false),
            None,
            "there is nothing to ask about"
        );
        // The distance between the two SENDs in the stream does not matter.
        unacknowledged.push(100, 100, WrId(1));
        assert_eq!(unacknowledged.arm(at(0), false), Some(at(20)));
        unacknowledged.push(1 << 30, 100, WrId(2));
        assert_eq!(
            unacknowledged.arm(at(5), false),
            None,
            "the question is noted already"
        );
        assert!(!unacknowledged.has_many());
        let mut now = at(20);
        for wait in [20, 20, 20, 20, 32, 64, 100, 100] {
            unacknowledged.ask_at = None;
            assert_eq!(completed(&mut unacknowledged, 0), [0; 0]);
            let next = now + Duration::from_millis(wait);
            assert_eq!(unacknowledged.arm(now, false), Some(next));
            now = next;
        }
        unacknowledged.ask_at = None;
        assert_eq!(completed(&mut unacknowledged, 100), [1]);
        assert_eq!(
            unacknowledged.arm(at(0), false),
            Some(at(20)),
            "after news, the pause is short again"
        );
    }

    #[test]
    fn asks_about_a_full_socket_even_without_sends() {
        let mut unacknowledged = Unacknowledged::default();
        assert_eq!(unacknowledged.arm(at(0), true), Some(at(20)));
        assert_eq!(
            unacknowledged.arm(at(5), true),
            None,
            "the question is noted already"
        );
        unacknowledged.ask_at = None;
        assert!(unacknowledged.acknowledge(100, &mut Vec::new()));
        assert_eq!(unacknowledged.arm(at(20), true), Some(at(40)));
        unacknowledged.ask_at = None;
        assert!(!unacknowledged.acknowledge(100, &mut Vec::new()));
        assert_eq!(unacknowledged.arm(at(40), false), None);
    }

    #[test]
    fn asks_sooner_if_much_is_unacknowledged() {
        let mut unacknowledged = Unacknowledged::default();
        unacknowledged.push(100, 100, WrId(1));
        unacknowledged.arm(at(0), false);
        unacknowledged.push(100 + LARGE as u64, LARGE, WrId(2));
        assert!(unacknowledged.has_many());
        assert_eq!(unacknowledged.arm(at(3), false), Some(at(4)));
        assert_eq!(completed(&mut unacknowledged, 1 << 20), [1, 2]);
        assert!(!unacknowledged.has_many());
        for number in 0..MANY as u64 {
            unacknowledged.push((1 << 20) + number, 1, WrId(number));
        }
        assert!(unacknowledged.has_many());
    }
}
