// SPDX-License-Identifier: GPL-2.0-or-later

//! Throughput and latency in each tenth of a second of a run.

use std::time::Duration;

use serde::Serialize;

use crate::histogram::Histogram;

/// The length of an interval. It doubles when there are [`MOST`] of them.
const INTERVAL: Duration = Duration::from_millis(100);
/// Maximum number of intervals, an even number. In intervals of 100 ms, this is five minutes.
const MOST: usize = 3000;

/// An interval that has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Interval {
    bytes: u64,
    /// `None` if no response came.
    p99: Option<Duration>,
}

impl Interval {
    /// Returns the interval that consists of these two. The percentile is the longer of the two, because the latencies
    /// themselves are no longer known.
    fn and(self, next: Self) -> Self {
        Self {
            bytes: self.bytes + next.bytes,
            p99: self.p99.max(next.p99),
        }
    }
}

/// A run that is under way.
#[derive(Debug)]
pub(crate) struct Timeline {
    interval: Duration,
    ended: Vec<Interval>,
    /// The bytes and latencies of the interval that has not ended.
    bytes: u64,
    latencies: Histogram,
}

/// The intervals of a run, in the form of JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Series {
    /// The length of each interval but the last, which ends with the run.
    pub(crate) interval_seconds: f64,
    pub(crate) megabytes_per_second: Vec<f64>,
    /// `null` if no response came in the interval.
    pub(crate) latency_p99_microseconds: Vec<Option<f64>>,
}

impl Timeline {
    pub(crate) fn new() -> Self {
        Self {
            interval: INTERVAL,
            ended: Vec::new(),
            bytes: 0,
            latencies: Histogram::new(),
        }
    }

    /// Adds a response that came at this time after the start. The times never decrease.
    pub(crate) fn add(&mut self, at: Duration, bytes: u64, latency: Duration) {
        while at >= self.start_of_current() + self.interval {
            self.end_current();
        }
        self.bytes += bytes;
        self.latencies.record(latency);
    }

    fn start_of_current(&self) -> Duration {
        self.interval * u32::try_from(self.ended.len()).unwrap_or(u32::MAX)
    }

    fn end_current(&mut self) {
        let current = self.take_current();
        self.ended.push(current);
        if self.ended.len() < MOST {
            return;
        }
        let pairs = self.ended.chunks(2);
        self.ended = pairs
            .map(|pair| {
                pair.iter()
                    .fold(Interval::default(), |all, one| all.and(*one))
            })
            .collect();
        self.interval *= 2;
    }

    fn take_current(&mut self) -> Interval {
        let p99 = (self.latencies.total() > 0).then(|| self.latencies.percentile(990));
        self.latencies.clear();
        Interval {
            bytes: std::mem::take(&mut self.bytes),
            p99,
        }
    }

    /// Ends the run, which took this long. What came in less than half an interval before the end belongs to the
    /// interval before it, because the speed of so short a time says nothing.
    pub(crate) fn finish(mut self, time: Duration) -> Series {
        let rest = time.saturating_sub(self.start_of_current());
        let current = self.take_current();
        let mut last = rest;
        match self.ended.last_mut() {
            Some(before) if rest < self.interval / 2 => {
                *before = before.and(current);
                last += self.interval;
            }
            _ => self.ended.push(current),
        }
        let count = self.ended.len();
        let speed = |(at, one): (usize, &Interval)| {
            let length = if at + 1 == count { last } else { self.interval };
            one.bytes as f64 / 1e6 / length.as_secs_f64().max(1e-9)
        };
        let p99 = self.ended.iter().map(|one| one.p99);
        Series {
            interval_seconds: self.interval.as_secs_f64(),
            megabytes_per_second: self.ended.iter().enumerate().map(speed).collect(),
            latency_p99_microseconds: p99
                .map(|p99| p99.map(|p99| p99.as_secs_f64() * 1e6))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn rounded(values: &[f64]) -> Vec<u64> {
        values.iter().map(|value| value.round() as u64).collect()
    }

    #[test]
    fn responses_belong_to_the_interval_in_which_they_came() {
        let mut timeline = Timeline::new();
        for (at, bytes, latency) in [
            (ms(0), 1_000_000, ms(1)),
            (ms(99), 1_000_000, ms(3)),
            (ms(100), 5_000_000, ms(5)),
            // No response comes in the third interval.
            (ms(310), 2_000_000, ms(200)),
        ] {
            timeline.add(at, bytes, latency);
        }
        let series = timeline.finish(ms(380));
        assert_eq!(rounded(&series.megabytes_per_second), [20, 50, 0, 25]);
        let p99 = &series.latency_p99_microseconds;
        assert_eq!(p99[2], None);
        let known: Vec<f64> = p99.iter().filter_map(|p99| *p99).collect();
        for (found, wanted) in known.iter().zip([3e3, 5e3, 200e3]) {
            assert!((found / wanted - 1.0).abs() < 0.003, "{known:?}");
        }
        assert_eq!((p99.len(), known.len()), (4, 3));
    }

    #[test]
    fn a_short_rest_belongs_to_the_interval_before_it() {
        let mut timeline = Timeline::new();
        timeline.add(ms(50), 10_000_000, ms(1));
        timeline.add(ms(101), 1_000_000, ms(9));
        let series = timeline.finish(ms(110));
        assert_eq!(rounded(&series.megabytes_per_second), [100]);
        assert!(series.latency_p99_microseconds[0] > Some(8900.0));
        let mut short = Timeline::new();
        short.add(ms(5), 1_000_000, ms(1));
        let short = short.finish(ms(10));
        assert_eq!(rounded(&short.megabytes_per_second), [100]);
        let nothing = Timeline::new().finish(Duration::ZERO);
        assert_eq!(nothing.megabytes_per_second, [0.0]);
    }

    #[test]
    fn a_long_run_has_longer_intervals_and_keeps_all_its_bytes() {
        let mut timeline = Timeline::new();
        let end = ms(100) * MOST as u32 * 5;
        let mut at = Duration::ZERO;
        while at < end {
            timeline.add(at, 1_000_000, ms(1));
            at += ms(100);
        }
        let series = timeline.finish(end);
        assert_eq!(series.interval_seconds, 0.8);
        let count = series.megabytes_per_second.len();
        assert!(count < MOST && count == MOST * 5 / 8, "{count}");
        assert!(
            rounded(&series.megabytes_per_second)
                .iter()
                .all(|speed| *speed == 10)
        );
    }
}
