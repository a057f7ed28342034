// SPDX-License-Identifier: GPL-2.0-or-later

//! Checks whether posted work moves: whether the peer takes the data sent to it, and answers RDMA READs.
//!
//! This is not a rule of [MS-SMBD], whose timers watch what a peer sends: a peer that answers keepalives
//! could leave RDMA READs unanswered and data untaken for ever, and with them hold memory, files
//! and sessions.

use core::time::Duration;

use crate::units::Instant;

/// Work that the fabric carries out in order, and since when none of it has moved. Each kind of work has its own
/// record, so that the peer cannot restart the time of one kind by moving the other.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Progress {
    /// Number of work requests that have not ended.
    posted: u32,
    since: Instant,
}

impl Progress {
    /// Counts a work request that was posted.
    #[inline]
    pub(super) fn post(&mut self, now: Instant) {
        if self.posted == 0 {
            self.since = now;
        }
        self.posted += 1;
    }

    /// Counts a work request that has ended.
    #[inline]
    pub(super) fn end(&mut self, now: Instant) {
        self.posted = self.posted.saturating_sub(1);
        self.since = now;
    }

    /// Returns the number of work requests that have not ended.
    #[cfg(feature = "fabric")]
    pub(super) fn posted(&self) -> usize {
        self.posted as usize
    }

    /// Returns when the work will have stood still for `timeout`, unless it moves.
    #[inline]
    pub(super) fn deadline(&self, timeout: Duration) -> Option<Instant> {
        (self.posted > 0).then(|| self.since + timeout)
    }

    /// Returns whether the work has stood still for `timeout`; the fabric last saw bytes of it move at `moved`.
    pub(super) fn stands_still(&mut self, now: Instant, moved: Instant, timeout: Duration) -> bool {
        self.since = self.since.max(moved);
        let deadline = self.deadline(timeout);
        deadline.is_some_and(|deadline| deadline <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn time_runs_from_the_last_movement_while_something_is_posted() {
        let mut progress = Progress::default();
        assert_eq!(progress.deadline(TIMEOUT), None);
        assert!(!progress.stands_still(at(1000), at(0), TIMEOUT));
        progress.post(at(1000));
        progress.post(at(1030));
        assert_eq!(progress.deadline(TIMEOUT), Some(at(1060)));
        assert!(!progress.stands_still(at(1059), at(0), TIMEOUT));
        assert!(progress.stands_still(at(1060), at(0), TIMEOUT));
        // Bytes of the work move, or a request ends.
        assert!(!progress.stands_still(at(1060), at(1001), TIMEOUT));
        assert_eq!(progress.deadline(TIMEOUT), Some(at(1061)));
        progress.end(at(1061));
        assert_eq!(progress.deadline(TIMEOUT), Some(at(1121)));
        progress.end(at(1100));
        assert_eq!(progress.deadline(TIMEOUT), None);
    }
}
