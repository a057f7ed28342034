// SPDX-License-Identifier: GPL-2.0-or-later

//! Decides how often the log warns about limits that clients reach.

use alloc::collections::BTreeMap;
use core::time::Duration;

use crate::units::Instant;

/// Time between two warnings about the same limit.
const QUIET: Duration = Duration::from_secs(60);

/// Decides when to warn about limits that were reached.
#[derive(Debug, Default)]
pub struct Warnings(BTreeMap<&'static str, (Instant, u64)>);

impl Warnings {
    /// Records that the limit of a configuration key was reached `times` times. If it is time to warn about that,
    /// returns how often it was reached since the last warning.
    pub fn met(&mut self, key: &'static str, times: u64, now: Instant) -> Option<u64> {
        let (at, count) = self.0.entry(key).or_insert((now, 0));
        *count += times;
        if now < *at {
            return None;
        }
        *at = now + QUIET;
        Some(core::mem::take(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warns_of_each_limit_once_a_minute() {
        let mut warnings = Warnings::default();
        let start = Instant::ZERO + Duration::from_secs(10);
        assert_eq!(warnings.met("a", 1, start), Some(1));
        assert_eq!(warnings.met("a", 5, start), None);
        assert_eq!(warnings.met("b", 2, start), Some(2));
        assert_eq!(warnings.met("a", 1, start + QUIET), Some(6));
    }
}
