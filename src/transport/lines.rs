// SPDX-License-Identifier: GPL-2.0-or-later

//! Limits log lines that clients can cause to a few per second.

use core::time::Duration;

use crate::units::Instant;

const LINES: u32 = 10;
const WINDOW: Duration = Duration::from_secs(1);

/// Decides which lines are logged.
#[derive(Debug, Default)]
pub struct Lines {
    window: Instant,
    lines: u32,
    suppressed: u64,
}

impl Lines {
    /// Returns the number of lines left out before this one if it may be logged now, and `None` otherwise.
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
}
