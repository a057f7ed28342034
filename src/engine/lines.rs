//! Log lines that clients can cause, a few in a second, and limits that they meet, once in a while.

use alloc::collections::BTreeMap;
use core::time::Duration;

use crate::units::Instant;

const LINES: u32 = 10;
const WINDOW: Duration = Duration::from_secs(1);

/// Says which lines to log.
#[derive(Debug, Default)]
pub struct Lines {
    window: Instant,
    lines: u32,
    suppressed: u64,
}

impl Lines {
    /// Whether to log a line now; if so, with the number of those left out before.
    pub fn admit(&mut self, now: Instant) -> Option<u64> {
        if now >= self.window + WINDOW {
            (self.window, self.lines) = (now, 0);
        }
        if self.lines >= LINES {
            self.suppressed += 1;
            return None;
        }
        self.lines += 1;
        Some(core::mem::take(&mut self.suppressed))
    }
}

/// Time in which a limit is warned of once.
const QUIET: Duration = Duration::from_secs(60);

/// Says when to warn of limits that were met.
#[derive(Debug, Default)]
pub struct Warnings(BTreeMap<&'static str, (Instant, u64)>);

impl Warnings {
    /// Takes note that the limit of a key of the configuration was met so many times. If it is time to warn
    /// of it, says how often that was since the last warning.
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
    fn logs_a_few_lines_in_a_second_and_then_how_many_more_there_were() {
        let mut lines = Lines::default();
        let start = Instant::ZERO + Duration::from_secs(10);
        let logged = (0..100).filter_map(|_| lines.admit(start)).count();
        assert_eq!(logged, 10);
        assert_eq!(lines.admit(start + WINDOW), Some(90));
        assert_eq!(lines.admit(start + WINDOW), Some(0));
    }

    #[test]
    fn warns_of_each_limit_once_in_a_while() {
        let mut warnings = Warnings::default();
        let start = Instant::ZERO + Duration::from_secs(10);
        assert_eq!(warnings.met("a", 1, start), Some(1));
        assert_eq!(warnings.met("a", 5, start), None);
        assert_eq!(warnings.met("b", 2, start), Some(2));
        assert_eq!(warnings.met("a", 1, start + QUIET), Some(6));
    }
}
