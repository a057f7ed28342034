// SPDX-License-Identifier: GPL-2.0-or-later

//! Counts latencies in buckets, so that a run of any length needs the same memory.
//!
//! Bucket `i` below 512 has the latency of `i` nanoseconds. Above that, each power of two has 256 buckets of equal width:
//! bucket `256 s + m`, with `m` from 256 to 511, has the latencies from `m << s` to the one before `(m + 1) << s`. So a
//! percentile, which is the middle of its bucket, is at most 0.2 % away from the latency that it stands for.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// log2 of the number of buckets of each power of two.
const FINE: u32 = 8;
/// The longest latency that is told apart from longer ones, in nanoseconds: 73 minutes, because no request may take
/// longer than an hour.
const LONGEST: u64 = (1 << 42) - 1;
const BUCKETS: usize = bucket(LONGEST) + 1;

/// Returns the bucket of a latency of up to [`LONGEST`] nanoseconds.
const fn bucket(nanoseconds: u64) -> usize {
    if nanoseconds < 2 << FINE {
        return nanoseconds as usize;
    }
    let shift = nanoseconds.ilog2() - FINE;
    ((shift as usize) << FINE) + (nanoseconds >> shift) as usize
}

/// Returns the middle of a bucket, in nanoseconds.
const fn middle(bucket: usize) -> u64 {
    if bucket < 2 << FINE {
        return bucket as u64;
    }
    let shift = (bucket >> FINE) - 1;
    let first = ((bucket - (shift << FINE)) as u64) << shift;
    first + ((1 << shift) - 1) / 2
}

/// Latencies of requests. In JSON it is a [`Compact`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Compact", into = "Compact")]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    longest: u64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self {
            counts: vec![0; BUCKETS],
            total: 0,
            longest: 0,
        }
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(LONGEST);
        let nanoseconds = nanoseconds.min(LONGEST);
        if let Some(count) = self.counts.get_mut(bucket(nanoseconds)) {
            *count += 1;
            self.total += 1;
            self.longest = self.longest.max(nanoseconds);
        }
    }

    /// Adds the latencies of another histogram.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
        self.longest = self.longest.max(other.longest);
    }

    pub(crate) fn clear(&mut self) {
        self.counts.fill(0);
        self.total = 0;
        self.longest = 0;
    }

    /// Returns the number of latencies.
    pub(crate) const fn total(&self) -> u64 {
        self.total
    }

    /// Returns the longest latency, or zero if there are no latencies.
    pub(crate) const fn longest(&self) -> Duration {
        Duration::from_nanos(self.longest)
    }

    /// Returns the shortest latency that at least this many of 1000 latencies do not exceed, or zero if there are no
    /// latencies.
    pub(crate) fn percentile(&self, per_mille: u32) -> Duration {
        let rank = (u128::from(self.total) * u128::from(per_mille)).div_ceil(1000);
        let mut counted = 0;
        let mut found = self.counts.iter().position(|count| {
            counted += u128::from(*count);
            *count > 0 && counted >= rank
        });
        if self.total == 0 {
            found = None;
        }
        let nanoseconds = found.map_or(0, middle).min(self.longest);
        Duration::from_nanos(nanoseconds)
    }
}

/// The form of a histogram in JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Compact {
    /// The longest latency; the other latencies are known only by their buckets.
    longest_nanoseconds: u64,
    /// The buckets that are not empty, in ascending order, with spaces between them: the distance from the bucket
    /// before (the first one's from bucket 0), and, if the bucket has more than one latency, `x` and how many.
    buckets: String,
}

impl From<Histogram> for Compact {
    fn from(histogram: Histogram) -> Self {
        let mut before = 0;
        let mut buckets = Vec::new();
        let filled = histogram.counts.iter().enumerate();
        for (at, count) in filled.filter(|(_, count)| **count > 0) {
            let gap = at - before;
            buckets.push(match count {
                1 => gap.to_string(),
                count => format!("{gap}x{count}"),
            });
            before = at;
        }
        Self {
            longest_nanoseconds: histogram.longest,
            buckets: buckets.join(" "),
        }
    }
}

impl TryFrom<Compact> for Histogram {
    type Error = &'static str;

    fn try_from(compact: Compact) -> Result<Self, Self::Error> {
        let mut histogram = Self::new();
        let mut last = None;
        for term in compact.buckets.split_ascii_whitespace() {
            let (gap, count) = term.split_once('x').unwrap_or((term, "1"));
            let gap: usize = gap.parse().map_err(|_| "a bucket is not a number")?;
            let count: u64 = count.parse().map_err(|_| "a count is not a number")?;
            let at = match last {
                None => Some(gap),
                Some(_) if gap == 0 => return Err("a bucket comes twice"),
                Some(last) => gap.checked_add(last),
            };
            let place = at.and_then(|at| histogram.counts.get_mut(at));
            let place = place.ok_or("a bucket is out of range")?;
            if count == 0 {
                return Err("a bucket is empty");
            }
            *place = count;
            let total = histogram.total.checked_add(count);
            histogram.total = total.ok_or("there are too many latencies")?;
            last = at;
        }
        let longest = compact.longest_nanoseconds;
        let is_in_last = match last {
            None => longest == 0,
            Some(last) => longest <= LONGEST && bucket(longest) == last,
        };
        if !is_in_last {
            return Err("the longest latency is not in the last bucket");
        }
        histogram.longest = longest;
        Ok(histogram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns latencies from nanoseconds to minutes, each power of two as often as the others.
    fn latencies(count: u64) -> Vec<u64> {
        let mut state = 1_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        (0..count).map(|_| next() >> (24 + next() % 40)).collect()
    }

    fn histogram(latencies: &[u64]) -> Histogram {
        let mut histogram = Histogram::new();
        for latency in latencies {
            histogram.record(Duration::from_nanos(*latency));
        }
        histogram
    }

    #[test]
    fn each_latency_is_in_one_bucket_and_near_its_middle() {
        for power in 0..42 {
            for nanoseconds in [
                1_u64 << power,
                (2 << power) - 1,
                (1 << power) + (1 << power) / 3,
            ] {
                let middle = middle(bucket(nanoseconds));
                let distance = middle.abs_diff(nanoseconds);
                assert!(distance * 500 <= nanoseconds, "{nanoseconds}: {middle}");
                let next = bucket((nanoseconds + 1).min(LONGEST));
                assert!(next - bucket(nanoseconds) <= 1, "{nanoseconds}");
            }
        }
        for at in 0..BUCKETS {
            assert_eq!(bucket(middle(at)), at);
        }
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_latencies() {
        for count in [1, 2, 3, 9, 10, 11, 99, 100, 101, 1000, 12_345] {
            let mut exact = latencies(count);
            let histogram = histogram(&exact);
            exact.sort_unstable();
            for per_mille in [1, 500, 900, 990, 999, 1000] {
                // The nearest rank: as many of the latencies as asked for are not longer.
                let rank = (count * u64::from(per_mille)).div_ceil(1000).max(1);
                let wanted = exact[rank as usize - 1];
                let found = histogram.percentile(per_mille).as_nanos() as u64;
                let distance = found.abs_diff(wanted);
                assert!(
                    distance * 500 <= wanted,
                    "{per_mille} of {count}: {found} instead of {wanted}"
                );
            }
            let longest = Duration::from_nanos(exact[exact.len() - 1]);
            assert_eq!(histogram.longest(), longest);
            assert_eq!(histogram.total(), count);
        }
    }

    #[test]
    fn percentiles_of_none_one_and_equal_latencies_are_plain() {
        let none = Histogram::new();
        assert_eq!(none.percentile(500), Duration::ZERO);
        assert_eq!(none.longest(), Duration::ZERO);
        for count in [1, 1000] {
            let equal = histogram(&vec![1_000_003; count]);
            for per_mille in [1, 500, 999, 1000] {
                let found = equal.percentile(per_mille).as_nanos();
                // Never longer than the longest.
                assert!((999_000..=1_000_003).contains(&found), "{found}");
            }
        }
        // One slow request of a thousand is beyond p99.9, one of 999 is not.
        let with_one_slow = |count: usize| {
            let mut latencies = vec![100; count - 1];
            latencies.push(5_000_000);
            histogram(&latencies).percentile(999)
        };
        assert_eq!(with_one_slow(1000), Duration::from_nanos(100));
        assert!(with_one_slow(999) > Duration::from_millis(4));
    }

    #[test]
    fn a_latency_beyond_the_longest_is_counted_as_the_longest() {
        let mut histogram = Histogram::new();
        histogram.record(Duration::MAX);
        histogram.record(Duration::from_secs(1 << 20));
        assert_eq!(histogram.total(), 2);
        assert_eq!(histogram.longest(), Duration::from_nanos(LONGEST));
    }

    #[test]
    fn merged_histograms_are_one_of_all_latencies() {
        let all = latencies(500);
        let (first, second) = all.split_at(123);
        let mut merged = histogram(first);
        merged.merge(&histogram(second));
        assert_eq!(merged, histogram(&all));
        merged.clear();
        assert_eq!(merged, Histogram::new());
    }

    #[test]
    fn json_keeps_every_bucket_and_is_short() {
        for latencies in [
            vec![],
            vec![0],
            vec![0, 0, 511, 512, 513, 514],
            latencies(5000),
        ] {
            let histogram = histogram(&latencies);
            let json = serde_json::to_string(&histogram).unwrap();
            let read: Histogram = serde_json::from_str(&json).unwrap();
            assert_eq!(read, histogram, "{json}");
        }
        let json = serde_json::to_string(&histogram(&[3, 3, 3, 7, 600])).unwrap();
        assert_eq!(json, r#"{"longest_nanoseconds":600,"buckets":"3x3 4 549"}"#);
    }

    #[test]
    fn json_that_cannot_be_of_a_histogram_is_refused() {
        let read = |longest: &str, buckets: &str| {
            let json = format!(r#"{{"longest_nanoseconds":{longest},"buckets":"{buckets}"}}"#);
            serde_json::from_str::<Histogram>(&json).map(|histogram| histogram.total())
        };
        assert_eq!(read("7", "3x2 4").unwrap(), 3);
        let huge = u64::MAX.to_string();
        for (longest, buckets, why) in [
            ("7", "3x2 0 4", "comes twice"),
            ("7", "7x0", "empty"),
            ("7", "8", "not in the last bucket"),
            ("7", "", "not in the last bucket"),
            (huge.as_str(), "7", "not in the last bucket"),
            ("7", "9999999", "out of range"),
            ("7", format!("1 {huge}").as_str(), "out of range"),
            ("7", "-7", "not a number"),
            ("7", "7x", "not a number"),
            ("7", "x7", "not a number"),
            ("7", "7x1.5", "not a number"),
            ("7", format!("3x{huge} 4x2").as_str(), "too many"),
        ] {
            let error = read(longest, buckets).unwrap_err().to_string();
            assert!(error.contains(why), "{buckets}: {error}");
        }
        assert!(read("-1", "7").is_err() && read("1e99", "7").is_err());
    }
}
