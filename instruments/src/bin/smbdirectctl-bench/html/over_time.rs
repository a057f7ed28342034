// SPDX-License-Identifier: GPL-2.0-or-later

//! How throughput changed during the rounds.

use super::{Page, Table, class, legend, way_of};
use crate::chart::{self, Axis, Line};
use crate::report::{Row, Run, median};

/// Maximum number of points of a line, because more cannot be told apart, and would make a long table.
const MOST_POINTS: usize = 60;

/// Throughput and latency of a case's rounds, at the same time after their start.
#[derive(Debug, PartialEq)]
struct Point {
    /// Throughput: the least, the median and the most of the rounds.
    least: f64,
    median: f64,
    most: f64,
    /// The longest p99 of the rounds; `None` if no response came.
    p99: Option<f64>,
}

impl Page {
    pub(super) fn over_time(&mut self, name: &str, group: &[&Row]) {
        let step = step(group);
        let cases: Vec<(&Row, Vec<Point>)> =
            group.iter().map(|row| (*row, points(row, step))).collect();
        let count = cases
            .iter()
            .map(|(_, points)| points.len())
            .max()
            .unwrap_or(0);
        let mut numbers = Vec::new();
        for (row, _) in &cases {
            let way = way_of(row.transport, row.channel);
            let names = ["MB/s", "least", "most", "longest p99"];
            numbers.extend(names.map(|name| format!("{way}: {name}")));
        }
        let numbers: Vec<&str> = numbers.iter().map(String::as_str).collect();
        let mut table = Table::new(&["Seconds"], &numbers);
        for at in 0..count {
            let mut cells = vec![chart::number(at as f64 * step)];
            for (_, points) in &cases {
                cells.extend(cells_of(points.get(at)));
            }
            table.row(cells);
        }
        let all = cases.iter().flat_map(|(_, points)| points);
        let fastest = all.map(|point| point.most).fold(0.0, f64::max);
        // Each point stands in the middle of its time.
        let time = |at: usize| (at as f64 + 0.5) * step;
        let lines: Vec<Line> = cases
            .iter()
            .map(|(row, points)| {
                let points = || points.iter().enumerate();
                let band = points().map(|(at, point)| (time(at), point.least, point.most));
                Line {
                    class: class(row),
                    points: points()
                        .map(|(at, point)| (time(at), point.median))
                        .collect(),
                    band: band.collect(),
                }
            })
            .collect();
        let title = format!("{name}: throughput over time");
        let description = "Lines with the median throughput of the rounds at each time after their start, and the area \
                           between the slowest and the fastest round. The table below has the numbers.";
        let head = self.head(title.clone(), description);
        let x = Axis::linear("seconds", count as f64 * step);
        let y = Axis::linear("MB/s", fastest);
        let graph = chart::lines(&head, (&x, &y), &lines);
        self.figure(&title, &legend(group), &graph, &table);
    }
}

fn cells_of(point: Option<&Point>) -> Vec<String> {
    let Some(point) = point else {
        return vec![super::dash(); 4];
    };
    let speeds = [point.median, point.least, point.most].map(|speed| format!("{speed:.1}"));
    let p99 = point.p99.map_or_else(super::dash, chart::time);
    speeds.into_iter().chain([p99]).collect()
}

/// Returns the time between two points, in seconds: the longest interval of any run, or a multiple of it.
fn step(group: &[&Row]) -> f64 {
    let runs = || group.iter().flat_map(|row| &row.runs);
    let lengths = runs().map(|run| run.timeline.interval_seconds);
    let interval = lengths.fold(0.0, f64::max);
    let counts = runs().map(|run| {
        let series = &run.timeline;
        let length = series.megabytes_per_second.len() as f64 * series.interval_seconds;
        (length / interval).ceil() as usize
    });
    let count = counts.max().unwrap_or(0);
    interval * count.div_ceil(MOST_POINTS).max(1) as f64
}

/// Returns the points of a case.
fn points(row: &Row, step: f64) -> Vec<Point> {
    let runs: Vec<_> = row.runs.iter().map(|run| combined(run, step)).collect();
    let count = runs.iter().map(Vec::len).max().unwrap_or(0);
    let points = (0..count).map(|at| {
        let at_once = runs.iter().filter_map(|run| run.get(at));
        let mut speeds: Vec<f64> = at_once.clone().map(|(speed, _)| *speed).collect();
        speeds.sort_unstable_by(f64::total_cmp);
        Point {
            least: speeds.first().copied().unwrap_or(0.0),
            median: median(&speeds),
            most: speeds.last().copied().unwrap_or(0.0),
            p99: at_once.filter_map(|(_, p99)| *p99).max_by(f64::total_cmp),
        }
    });
    points.collect()
}

/// Combines the intervals of a run that lie in the same step: the mean of their speeds, and the longest p99.
fn combined(run: &Run, step: f64) -> Vec<(f64, Option<f64>)> {
    let series = &run.timeline;
    // Intervals are 100 ms times a power of two, and a step is a multiple of the longest, so this is a whole number.
    let each = (step / series.interval_seconds).round().max(1.0) as usize;
    let speeds = series.megabytes_per_second.chunks(each);
    let latencies = series.latency_p99_microseconds.chunks(each);
    let pairs = speeds.zip(latencies).map(|(speeds, latencies)| {
        let mean = speeds.iter().sum::<f64>() / speeds.len() as f64;
        (
            mean,
            latencies.iter().flatten().copied().max_by(f64::total_cmp),
        )
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use instruments::client::Channel;

    use super::*;
    use crate::options::Transport;
    use crate::report::tests::row;
    use crate::timeline::Series;

    fn with_series(interval: f64, runs: &[&[f64]]) -> Row {
        let mut row = row(Transport::Tcp, Channel::None, &vec![10; runs.len()]);
        for (run, speeds) in row.runs.iter_mut().zip(runs) {
            run.timeline = Series {
                interval_seconds: interval,
                megabytes_per_second: speeds.to_vec(),
                latency_p99_microseconds: speeds.iter().map(|speed| Some(speed * 2.0)).collect(),
            };
        }
        row
    }

    #[test]
    fn a_point_is_of_all_rounds_that_lasted_so_long() {
        let row = with_series(0.1, &[&[1.0, 10.0], &[3.0, 20.0, 5.0], &[2.0, 60.0]]);
        let step = step(&[&row]);
        assert_eq!(step, 0.1);
        let found = points(&row, step);
        let of = |least, median, most| Point {
            least,
            median,
            most,
            p99: Some(most * 2.0),
        };
        assert_eq!(
            found,
            [of(1.0, 2.0, 3.0), of(10.0, 20.0, 60.0), of(5.0, 5.0, 5.0)]
        );
    }

    #[test]
    fn a_long_run_has_few_points_and_runs_of_other_intervals_fit_to_it() {
        let long = with_series(0.2, &[&[4.0; 300]]);
        let speeds = [2.0, 6.0].repeat(50);
        let short = with_series(0.1, &[&speeds[..]]);
        let step = step(&[&long, &short]);
        assert!((step - 1.0).abs() < 1e-9, "{step}");
        let (long, short) = (points(&long, step), points(&short, step));
        assert_eq!((long.len(), short.len()), (60, 10));
        assert!(
            long.iter()
                .chain(&short)
                .all(|point| (point.median - 4.0).abs() < 1e-9)
        );
    }
}
