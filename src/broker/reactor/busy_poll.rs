//! How long to look for work before sleeping.

use std::time::Duration;

/// A time for which it was worth while to look for work before sleeping: waking up takes longer than
/// that, in a virtual machine much longer.
///
/// It grows while a little more patience would have spared a sleep, and shrinks to nothing where
/// work comes seldom.
#[derive(Clone, Copy, Debug)]
pub(super) struct BusyPoll {
    window: Duration,
    longest: Duration,
}

impl BusyPoll {
    /// Begins with `longest`, and never exceeds it; zero: sleep at once.
    pub(super) const fn new(longest: Duration) -> Self {
        Self {
            window: longest,
            longest,
        }
    }

    /// Time to look now.
    pub(super) const fn window(&self) -> Duration {
        self.window
    }

    /// Work came `slept` after the owner fell asleep: to look for so long would have been enough,
    /// or not.
    pub(super) fn slept(&mut self, slept: Duration) {
        self.window = if slept < self.longest {
            (self.window * 2).clamp(self.longest / 8, self.longest)
        } else if self.window > self.longest / 16 {
            self.window / 2
        } else {
            Duration::ZERO
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_for_work_only_as_long_as_it_comes_soon() {
        let longest = Duration::from_micros(80);
        let mut busy_poll = BusyPoll::new(longest);
        for _ in 0..10 {
            busy_poll.slept(Duration::from_millis(1));
        }
        assert_eq!(busy_poll.window(), Duration::ZERO);
        busy_poll.slept(Duration::from_micros(20));
        assert_eq!(busy_poll.window(), Duration::from_micros(10));
        for _ in 0..10 {
            busy_poll.slept(Duration::from_micros(20));
        }
        assert_eq!(busy_poll.window(), longest);
    }

    #[test]
    fn never_looks_where_it_was_told_not_to() {
        let mut busy_poll = BusyPoll::new(Duration::ZERO);
        busy_poll.slept(Duration::ZERO);
        busy_poll.slept(Duration::from_secs(1));
        assert_eq!(busy_poll.window(), Duration::ZERO);
    }
}
