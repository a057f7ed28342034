// SPDX-License-Identifier: GPL-2.0-or-later

//! What has changed between two runs, and whether the change exceeds the spread of the rounds.

use std::fmt::{self, Display};

use serde::Serialize;

use super::{Case, Run};
use crate::options::{Operation, Transport};
use crate::report::{self, Row, sorted};
use crate::utc::Utc;

/// How a number has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// Better, and the rounds do not overlap.
    Better,
    /// Worse, and the rounds do not overlap.
    Worse,
    /// The rounds overlap.
    Same,
    /// A single round does not show how much rounds differ.
    Unknown,
}

impl Verdict {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::Same => "same",
            Self::Unknown => "unknown",
        }
    }

    /// Compares the sorted values of the rounds.
    fn of(earlier: &[f64], now: &[f64], more_is_better: bool) -> Self {
        let ([least, .., most], [now_least, .., now_most]) = (earlier, now) else {
            return Self::Unknown;
        };
        let (more, less) = match more_is_better {
            true => (Self::Better, Self::Worse),
            false => (Self::Worse, Self::Better),
        };
        if now_least > most {
            more
        } else if now_most < least {
            less
        } else {
            Self::Same
        }
    }
}

/// A number of both runs.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Change {
    pub(crate) earlier: f64,
    pub(crate) now: f64,
    /// `now` divided by `earlier`; `null` if that is 0.
    pub(crate) ratio: Option<f64>,
    /// `null` if the number does not exist for each round.
    pub(crate) verdict: Option<Verdict>,
}

impl Change {
    fn new(earlier: f64, now: f64, verdict: Option<Verdict>) -> Self {
        Self {
            earlier,
            now,
            ratio: (earlier > 0.0).then(|| now / earlier),
            verdict,
        }
    }

    /// Returns the ratio as text.
    pub(crate) fn ratio(&self) -> String {
        self.ratio
            .map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"))
    }
}

/// A case of both runs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Compared {
    pub(crate) transport: Transport,
    pub(crate) operation: Operation,
    pub(crate) channel: u32,
    pub(crate) size: u32,
    pub(crate) depth: u16,
    pub(crate) megabytes_per_second: Change,
    pub(crate) latency_p50_microseconds: Change,
    pub(crate) latency_p99_microseconds: Change,
    pub(crate) latency_p99_9_microseconds: Change,
    pub(crate) client_cpu_seconds_per_gib: Change,
}

impl Compared {
    pub(super) fn new(row: &Row, case: &Case) -> Self {
        let verdict = |then: fn(&Run) -> f64, now: fn(&report::Run) -> f64, more_is_better| {
            let (then, now) = (sorted(&case.runs, then), sorted(&row.runs, now));
            Some(Verdict::of(&then, &now, more_is_better))
        };
        let p99_9 = case.latency_histogram.percentile(999).as_secs_f64() * 1e6;
        Self {
            transport: row.transport,
            operation: row.operation,
            channel: row.channel,
            size: row.size,
            depth: row.depth,
            megabytes_per_second: Change::new(
                case.megabytes_per_second,
                row.megabytes_per_second,
                verdict(
                    |run| run.megabytes_per_second,
                    |run| run.megabytes_per_second,
                    true,
                ),
            ),
            latency_p50_microseconds: Change::new(
                case.latency_p50_microseconds,
                row.latency_p50_microseconds,
                verdict(
                    |run| run.latency_p50_microseconds,
                    |run| run.latency_p50_microseconds,
                    false,
                ),
            ),
            latency_p99_microseconds: Change::new(
                case.latency_p99_microseconds,
                row.latency_p99_microseconds,
                verdict(
                    |run| run.latency_p99_microseconds,
                    |run| run.latency_p99_microseconds,
                    false,
                ),
            ),
            latency_p99_9_microseconds: Change::new(p99_9, row.latency_p99_9_microseconds, None),
            client_cpu_seconds_per_gib: Change::new(
                case.client_cpu_seconds_per_gib,
                row.client_cpu_seconds_per_gib,
                None,
            ),
        }
    }
}

/// The comparison of all cases.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Comparison {
    pub(crate) file: String,
    pub(crate) time_seconds: u64,
    pub(crate) share: String,
    pub(crate) cases: Vec<Compared>,
    /// Names of the cases that only one of the runs has, because a connection carried less at a time in the other.
    pub(crate) only_now: Vec<String>,
    pub(crate) only_earlier: Vec<String>,
}

impl Comparison {
    /// Returns the number of cases whose throughput has this verdict.
    pub(crate) fn count(&self, verdict: Verdict) -> usize {
        let cases = self.cases.iter();
        let verdicts = cases.filter_map(|case| case.megabytes_per_second.verdict);
        verdicts.filter(|found| *found == verdict).count()
    }

    /// Sums the verdicts up.
    pub(crate) fn summary(&self) -> String {
        let count = |verdict| self.count(verdict);
        let mut text = format!(
            "Throughput of {} cases: {} better and {} worse beyond the spread of the rounds, {} the same",
            self.cases.len(),
            count(Verdict::Better),
            count(Verdict::Worse),
            count(Verdict::Same)
        );
        match count(Verdict::Unknown) {
            0 => {}
            unknown => text += &format!(", {unknown} unknown because there was a single round"),
        }
        text
    }

    /// Returns when the earlier results were measured.
    pub(crate) fn date(&self) -> Utc {
        Utc(self.time_seconds as f64)
    }
}

impl Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\nCompared with {} of {}, {}",
            self.file,
            self.date(),
            self.share
        )?;
        writeln!(
            f,
            "{:<10} {:<5} {:>7} {:>7} {:>5} {:>9} {:>8} {:>5} {:<7} {:>8} {:>8} {:>5} {:<7}",
            "transport",
            "what",
            "channel",
            "size",
            "depth",
            "MB/s then",
            "now",
            "ratio",
            "",
            "p99 then",
            "now",
            "ratio",
            "",
        )?;
        for case in &self.cases {
            let (speed, p99) = (case.megabytes_per_second, case.latency_p99_microseconds);
            let line = format!(
                "{:<10} {:<5} {:>7} {:>7} {:>5} {:>9.1} {:>8.1} {:>5} {:<7} {:>8.0} {:>8.0} {:>5} {:<7}",
                case.transport.name(),
                case.operation.name(),
                case.channel,
                report::size(case.size.into()),
                case.depth,
                speed.earlier,
                speed.now,
                speed.ratio(),
                speed.verdict.map_or("", Verdict::name),
                p99.earlier,
                p99.now,
                p99.ratio(),
                p99.verdict.map_or("", Verdict::name),
            );
            writeln!(f, "{}", line.trim_end())?;
        }
        for (names, whose) in [
            (&self.only_now, "only in this run"),
            (&self.only_earlier, "only in the earlier run"),
        ] {
            for name in names {
                writeln!(f, "{name}: {whose}")?;
            }
        }
        writeln!(f, "{}", self.summary())
    }
}
