// SPDX-License-Identifier: GPL-2.0-or-later

//! Decides how long to poll for work before sleeping.

use std::time::Duration;

/// Minimum and maximum number of times to sleep without polling after another thread wanted the processor.
const LEAST_PAUSE: u32 = 16;
const LONGEST_PAUSE: u32 = 1024;

/// The time for which it pays off to poll for work before sleeping: waking up takes longer, and much longer in a
/// virtual machine.
///
/// The time grows while a little more polling would have saved a sleep, and shrinks to zero if work is rare. The time
/// is zero while other threads want this processor: the work may have to come from one of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct BusyPoll {
    window: Duration,
    longest: Duration,
    /// The number of times that this thread had lost its processor, as last read.
    preempted: u64,
    /// How many more times to sleep without polling.
    pause: u32,
    /// How many times to sleep without polling after the next loss.
    next_pause: u32,
}

impl BusyPoll {
    /// Begins with the time `longest`, and never exceeds it; if `longest` is zero, the thread sleeps at once.
    pub(super) const fn new(longest: Duration) -> Self {
        Self {
            window: longest,
            longest,
            preempted: 0,
            pause: 0,
            next_pause: LEAST_PAUSE,
        }
    }

    /// Returns how long to poll now.
    pub(super) const fn window(&self) -> Duration {
        match self.pause {
            0 => self.window,
            _ => Duration::ZERO,
        }
    }

    /// Adjusts the window, depending on whether polling would have caught the work that came `slept` after the owner
    /// fell asleep. `preempted` returns how often this thread has lost its processor to another.
    pub(super) fn slept(&mut self, slept: Duration, preempted: impl FnOnce() -> u64) {
        if self.longest.is_zero() {
            return;
        }
        if self.pause > 0 {
            self.pause -= 1;
            if self.pause == 0 {
                self.preempted = preempted();
            }
            return;
        }
        let preempted = preempted();
        if preempted != self.preempted {
            self.preempted = preempted;
            self.pause = self.next_pause;
            self.next_pause = (self.next_pause * 2).min(LONGEST_PAUSE);
            return;
        }
        // Each sleep without a loss makes the next pause one sleep shorter.
        self.next_pause = self.next_pause.saturating_sub(1).max(LEAST_PAUSE);
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

    const LONGEST: Duration = Duration::from_micros(80);
    const SHORT: Duration = Duration::from_micros(20);

    #[test]
    fn looks_for_work_only_as_long_as_it_comes_soon() {
        let mut busy_poll = BusyPoll::new(LONGEST);
        for _ in 0..10 {
            busy_poll.slept(Duration::from_millis(1), || 0);
        }
        assert_eq!(busy_poll.window(), Duration::ZERO);
        busy_poll.slept(SHORT, || 0);
        assert_eq!(busy_poll.window(), Duration::from_micros(10));
        for _ in 0..10 {
            busy_poll.slept(SHORT, || 0);
        }
        assert_eq!(busy_poll.window(), LONGEST);
    }

    #[test]
    fn never_polls_if_it_was_told_not_to() {
        let mut busy_poll = BusyPoll::new(Duration::ZERO);
        busy_poll.slept(Duration::ZERO, || panic!("it does not matter"));
        busy_poll.slept(Duration::from_secs(1), || panic!("it does not matter"));
        assert_eq!(busy_poll.window(), Duration::ZERO);
    }

    #[test]
    fn does_not_look_while_others_want_the_processor() {
        let mut busy_poll = BusyPoll::new(LONGEST);
        busy_poll.slept(SHORT, || 0);
        assert_eq!(busy_poll.window(), LONGEST);
        for (lost, pause) in [(1, 16), (2, 32), (3, 64)] {
            busy_poll.slept(SHORT, || lost);
            for _ in 0..pause {
                assert_eq!(busy_poll.window(), Duration::ZERO);
                busy_poll.slept(SHORT, || lost);
            }
            assert_eq!(busy_poll.window(), LONGEST);
        }
        // Losses do not count while the thread does not poll.
        busy_poll.slept(SHORT, || 4);
        for _ in 0..128 {
            busy_poll.slept(SHORT, || 100);
        }
        busy_poll.slept(SHORT, || 100);
        assert_eq!(busy_poll.window(), LONGEST);
    }

    #[test]
    fn pauses_grow_to_a_limit_and_are_short_again_when_the_processor_is_idle() {
        let mut busy_poll = BusyPoll::new(LONGEST);
        let pause = |busy_poll: &mut BusyPoll, lost: u64| {
            busy_poll.slept(SHORT, || lost);
            let mut sleeps = 0;
            while busy_poll.window().is_zero() {
                busy_poll.slept(SHORT, || lost);
                sleeps += 1;
            }
            sleeps
        };
        for lost in 1..20 {
            assert!(pause(&mut busy_poll, lost) <= LONGEST_PAUSE);
        }
        assert_eq!(pause(&mut busy_poll, 20), LONGEST_PAUSE);
        for _ in 0..2000 {
            busy_poll.slept(SHORT, || 20);
        }
        assert_eq!(pause(&mut busy_poll, 21), LEAST_PAUSE);
    }
}
