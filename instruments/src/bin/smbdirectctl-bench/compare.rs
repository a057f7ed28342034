// SPDX-License-Identifier: GPL-2.0-or-later

//! Compares the results with those of an earlier run, which `--json` wrote into a file.
//!
//! The file may come from anywhere. Only what is compared is read from it, and each number is checked first. Control
//! characters in its texts are replaced, so that they cannot control a terminal.

mod changes;

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use serde::de::{Error as _, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::histogram::Histogram;
use crate::options::{Operation, Transport};
use crate::report::{self, Parameters, Report, Row, SCHEMA_VERSION, printable};

pub(crate) use changes::{Change, Compared, Comparison, Verdict};

/// The length of the longest file that is read, in bytes. A run with the default options makes less than one MiB.
const LONGEST_FILE: u64 = 16 << 20;
/// The largest number of cases in it. However short a case is in the file, its histogram takes 70 KiB of memory.
const MOST_CASES: usize = 1024;
/// Maximum value of the numbers that are compared: speeds in MB/s, latencies in microseconds.
const MOST: f64 = 1e12;
/// Why results of a different form cannot be compared.
const OTHER_VERSION: &str = "measure again with this version of smbdirectctl";

/// The results of an earlier run.
#[derive(Clone, Debug)]
pub(crate) struct Earlier {
    file: String,
    results: Results,
}

#[derive(Deserialize)]
struct Version {
    schema_version: Option<u64>,
}

#[derive(Clone, Debug, Deserialize)]
struct Results {
    time_seconds: u64,
    share: String,
    dialect: String,
    signed: bool,
    encrypted: bool,
    parameters: Parameters,
    #[serde(deserialize_with = "cases")]
    cases: Vec<Case>,
}

#[derive(Clone, Debug, Deserialize)]
struct Case {
    transport: Transport,
    operation: Operation,
    channel: u32,
    size: u32,
    size_requested: u32,
    depth: u16,
    requests: u64,
    megabytes_per_second: f64,
    latency_p50_microseconds: f64,
    latency_p99_microseconds: f64,
    client_cpu_seconds_per_gib: f64,
    latency_histogram: Histogram,
    runs: Vec<Run>,
}

#[derive(Clone, Debug, Deserialize)]
struct Run {
    megabytes_per_second: f64,
    latency_p50_microseconds: f64,
    latency_p99_microseconds: f64,
}

/// Reads cases up to the first that is too many.
fn cases<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Case>, D::Error> {
    struct Cases;
    impl<'de> Visitor<'de> for Cases {
        type Value = Vec<Case>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {MOST_CASES} cases")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Vec<Case>, A::Error> {
            let mut cases = Vec::new();
            while cases.len() < MOST_CASES {
                match all.next_element()? {
                    Some(case) => cases.push(case),
                    None => return Ok(cases),
                }
            }
            match all.next_element::<IgnoredAny>()? {
                Some(_) => Err(A::Error::invalid_length(MOST_CASES + 1, &self)),
                None => Ok(cases),
            }
        }
    }
    deserializer.deserialize_seq(Cases)
}

/// What distinguishes a case from others.
type Key = (Operation, u32, u16, Transport, u32, u32);

const fn key_of(row: &Row) -> Key {
    let requested = row.size_requested;
    (
        row.operation,
        requested,
        row.depth,
        row.transport,
        row.channel,
        row.size,
    )
}

impl Case {
    const fn key(&self) -> Key {
        let requested = self.size_requested;
        (
            self.operation,
            requested,
            self.depth,
            self.transport,
            self.channel,
            self.size,
        )
    }

    /// Returns why this case cannot be the result of a run.
    fn check(&self) -> Result<(), &'static str> {
        let own = [
            self.megabytes_per_second,
            self.latency_p50_microseconds,
            self.latency_p99_microseconds,
            self.client_cpu_seconds_per_gib,
        ];
        let of_runs = self.runs.iter().flat_map(|run| {
            [
                run.megabytes_per_second,
                run.latency_p50_microseconds,
                run.latency_p99_microseconds,
            ]
        });
        if !own
            .into_iter()
            .chain(of_runs)
            .all(|number| (0.0..MOST).contains(&number))
        {
            return Err("has a number that is out of range");
        }
        if self.runs.is_empty() {
            return Err("has no runs");
        }
        if self.latency_histogram.total() != self.requests {
            return Err("has a histogram with another number of requests");
        }
        Ok(())
    }
}

impl Earlier {
    /// Reads a file, whose results must be from a run with these options.
    pub(crate) fn read(path: &Path, parameters: &Parameters) -> Result<Self, String> {
        let name = printable(&path.display().to_string());
        let failed = |why: String| format!("--compare: {name}: {}", printable(&why));
        let file = File::open(path).map_err(|error| failed(error.to_string()))?;
        let mut text = String::new();
        let read = file.take(LONGEST_FILE + 1).read_to_string(&mut text);
        read.map_err(|error| failed(error.to_string()))?;
        if text.len() as u64 > LONGEST_FILE {
            return Err(failed(format!(
                "longer than the {} MiB that results may have",
                LONGEST_FILE >> 20
            )));
        }
        let earlier = Self {
            results: parse(&text).map_err(failed)?,
            file: name.clone(),
        };
        let differences = earlier.results.parameters.differences(parameters);
        if !differences.is_empty() {
            return Err(failed(format!(
                "measured with other options: {}; repeat the run with the same options",
                differences.join("; ")
            )));
        }
        Ok(earlier)
    }

    /// Returns why a session differs too much from the earlier one: what is measured is then something else.
    pub(crate) fn check_session(&self, report: &Report) -> Result<(), String> {
        let results = &self.results;
        let earlier = (results.dialect.as_str(), results.signed, results.encrypted);
        if earlier == (report.dialect, report.signed, report.encrypted) {
            return Ok(());
        }
        let words = |(dialect, signed, encrypted): (&str, bool, bool)| {
            let protection = match (encrypted, signed) {
                (true, _) => "encrypted",
                (false, true) => "signed",
                (false, false) => "not protected",
            };
            format!("SMB {}, {protection}", printable(dialect))
        };
        Err(format!(
            "--compare: {}: measured with {}, but this session is {}: see --dialect, --sign and --seal",
            self.file,
            words(earlier),
            words((report.dialect, report.signed, report.encrypted))
        ))
    }

    /// Compares all cases that both runs have.
    pub(crate) fn compare(&self, report: &Report) -> Comparison {
        let earlier = &self.results.cases;
        let find = |row: &&Row| earlier.iter().find(|case| case.key() == key_of(row));
        let both = report
            .cases
            .iter()
            .filter_map(|row| Some((row, find(&row)?)));
        let new = report.cases.iter().filter(|row| find(row).is_none());
        let gone = earlier.iter().filter(|case| {
            let mut rows = report.cases.iter();
            rows.all(|row| key_of(row) != case.key())
        });
        Comparison {
            file: self.file.clone(),
            time_seconds: self.results.time_seconds,
            share: printable(&self.results.share),
            cases: both.map(|(row, case)| Compared::new(row, case)).collect(),
            only_now: new.map(|row| name(&key_of(row))).collect(),
            only_earlier: gone.map(|case| name(&case.key())).collect(),
        }
    }
}

fn parse(text: &str) -> Result<Results, String> {
    let version: Version = serde_json::from_str(text)
        .map_err(|error| format!("not the output of smbdirectctl bench --json: {error}"))?;
    match version.schema_version {
        Some(version) if version == u64::from(SCHEMA_VERSION) => {}
        Some(version) => {
            return Err(format!(
                "written in form {version} of the JSON, not {SCHEMA_VERSION}: {OTHER_VERSION}"
            ));
        }
        None => return Err(format!("has no schema_version: {OTHER_VERSION}")),
    }
    let results: Results = serde_json::from_str(text)
        .map_err(|error| format!("not the output of smbdirectctl bench --json: {error}"))?;
    for case in &results.cases {
        let checked = case.check();
        checked.map_err(|why| format!("the case {} {why}", name(&case.key())))?;
    }
    Ok(results)
}

/// Names a case.
fn name((operation, requested, depth, transport, channel, size): &Key) -> String {
    let less = match size == requested {
        true => String::new(),
        false => format!(" (in requests of {size})"),
    };
    format!(
        "{} {} channel {channel}, {} x {depth}{less}",
        transport.name(),
        operation.name(),
        report::size((*requested).into())
    )
}

impl Parameters {
    /// Names the options that differ from those of a later run.
    fn differences(&self, now: &Self) -> Vec<String> {
        let number = |number: &Option<f64>| number.map_or_else(none, |number| number.to_string());
        let bytes = |bytes: &Option<u64>| bytes.map_or_else(none, report::size);
        let switch = |on: &bool| if *on { "given" } else { "not given" }.to_owned();
        let of = |all: &Self| {
            [
                (
                    "--transport",
                    list(&all.transport, |one| one.name().to_owned()),
                ),
                (
                    "--operations",
                    list(&all.operations, |one| one.name().to_owned()),
                ),
                ("--size", list(&all.size, |one| report::size(*one))),
                ("--depth", list(&all.depth, u16::to_string)),
                ("--channel", list(&all.channel, u8::to_string)),
                ("--seconds", number(&all.seconds)),
                ("--bytes", bytes(&all.bytes)),
                ("--file-size", report::size(all.file_size)),
                ("--verify", switch(&all.verify)),
                ("--no-bind", switch(&all.no_bind)),
            ]
        };
        let pairs = of(self).into_iter().zip(of(now));
        let differing = pairs.filter(|(then, now)| then != now);
        differing
            .map(|((option, then), (_, now))| format!("{option} {then}, now {now}"))
            .collect()
    }
}

/// Stands for an option without a value.
fn none() -> String {
    "none".to_owned()
}

/// Lists the values of an option. Their order does not matter.
fn list<T: Ord>(values: &[T], name: impl Fn(&T) -> String) -> String {
    let mut values: Vec<&T> = values.iter().collect();
    values.sort_unstable();
    values.dedup();
    match values.is_empty() {
        true => "by default".to_owned(),
        false => values.into_iter().map(name).collect::<Vec<_>>().join(","),
    }
}

#[cfg(test)]
pub(crate) mod tests;
