// SPDX-License-Identifier: GPL-2.0-or-later

//! Counters, and the log of connections that end before their owner knows about them. No peer can flood the log.

use alloc::collections::BTreeMap;
use core::net::SocketAddr;
use core::time::Duration;

use super::{CloseReason, Traffic, log};
use crate::fabric;
use crate::units::Instant;

/// Maximum number of log lines for one reason in one [`WINDOW`]; further ends of connections are only counted.
const LINES: u64 = 5;
const WINDOW: Duration = Duration::from_secs(1);

/// Counts of what happened since the start.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Number of connections that asked to be accepted.
    pub requested: u64,
    /// Number of connections that negotiated, in either role.
    pub established: u64,
    /// Number of accepted connections that ended because there were too many that had not negotiated.
    pub turned_away: u64,
    /// The traffic of connections that have ended.
    pub ended: Traffic,
    reasons: BTreeMap<&'static str, Reason>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Reason {
    count: u64,
    window: Instant,
    lines: u64,
    suppressed: u64,
}

impl Counters {
    /// Returns how often connections ended or were turned away, by the reason's name ([`CloseReason::name`]), sorted by
    /// name.
    pub fn closed(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.reasons
            .iter()
            .map(|(name, reason)| (*name, reason.count))
    }

    /// Returns how often connections ended or were turned away for the reason with this name.
    #[must_use]
    pub fn closed_by(&self, name: &str) -> u64 {
        self.reasons.get(name).map_or(0, |reason| reason.count)
    }
}

#[derive(Debug, Default)]
pub(super) struct Journal {
    pub(super) counters: Counters,
    /// The end of the first window in which lines were suppressed.
    summary: Option<Instant>,
}

impl Journal {
    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Counts the end of a connection that its owner knows about.
    pub(super) fn count_closed(&mut self, reason: &CloseReason) {
        self.counters
            .reasons
            .entry(reason.name())
            .or_default()
            .count += 1;
    }

    /// Counts and logs the end of a connection that had not negotiated, or that was turned away.
    pub(super) fn closed(&mut self, now: Instant, peer: SocketAddr, reason: &CloseReason) {
        let too_many = matches!(
            reason,
            CloseReason::TooManyUnnegotiated
                | CloseReason::TooManyUnnegotiatedOfSource
                | CloseReason::Fabric(fabric::CloseReason::TooManyPending)
        );
        self.counters.turned_away += u64::from(too_many);
        if self.count(now, reason.name()) {
            log::ended(peer, reason);
        }
    }

    /// Counts one event, and returns whether its line is one of the few to log.
    fn count(&mut self, now: Instant, name: &'static str) -> bool {
        let reason = self.counters.reasons.entry(name).or_default();
        reason.count += 1;
        if reason.suppressed == 0 && now >= reason.window + WINDOW {
            (reason.window, reason.lines) = (now, 0);
        }
        if reason.lines < LINES {
            reason.lines += 1;
            return true;
        }
        reason.suppressed += 1;
        let end = reason.window + WINDOW;
        self.summary = Some(self.summary.map_or(end, |summary| summary.min(end)));
        false
    }

    /// Logs how many lines were left out in the windows that are over.
    pub(super) fn report(&mut self, now: Instant) {
        if self.summary.is_some_and(|summary| now >= summary) {
            self.summarize(now, log::more_ended);
        }
    }

    fn summarize(&mut self, now: Instant, mut log: impl FnMut(&'static str, u64)) {
        self.summary = None;
        for (name, reason) in self
            .counters
            .reasons
            .iter_mut()
            .filter(|(_, reason)| reason.suppressed > 0)
        {
            let end = reason.window + WINDOW;
            if now >= end {
                log(name, core::mem::take(&mut reason.suppressed));
                (reason.window, reason.lines) = (now, 0);
            } else {
                self.summary = Some(self.summary.map_or(end, |summary| summary.min(end)));
            }
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.summary
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(milliseconds)
    }

    #[test]
    fn logs_a_few_lines_of_each_reason_and_then_their_number() {
        let mut journal = Journal::default();
        let logged = (0..100)
            .filter(|i| journal.count(at(5000 + i), "a"))
            .count();
        assert_eq!(logged, 5);
        assert!(
            journal.count(at(5100), "b"),
            "another reason has lines of its own"
        );
        assert_eq!(journal.poll_timeout(), Some(at(6000)));

        let mut summaries = Vec::new();
        journal.summarize(at(6000), |name, suppressed| {
            summaries.push((name, suppressed))
        });
        assert_eq!(summaries, [("a", 95)]);
        assert_eq!(journal.poll_timeout(), None);
        assert!(journal.count(at(6001), "a"), "a new second has new lines");
        assert_eq!(journal.counters().closed_by("a"), 101);
        assert_eq!(
            journal.counters().closed().collect::<Vec<_>>(),
            [("a", 101), ("b", 1)]
        );
    }

    #[test]
    fn a_summary_waits_for_the_end_of_its_own_second() {
        let mut journal = Journal::default();
        for _ in 0..6 {
            journal.count(at(5000), "a");
        }
        for _ in 0..6 {
            journal.count(at(5500), "b");
        }
        let mut names = Vec::new();
        journal.summarize(at(6000), |name, _| names.push(name));
        assert_eq!((names, journal.poll_timeout()), (vec!["a"], Some(at(6500))));
    }
}
