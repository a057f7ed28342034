// SPDX-License-Identifier: GPL-2.0-or-later

//! The results, for people and for programs.

mod table;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use instruments::client::{Channel, Connection, Dialect};
use serde::{Deserialize, Serialize};
use smbdirect::fabric::FabricKind;

use crate::histogram::Histogram;
use crate::machine::Machine;
use crate::measure::{Case, Measured};
use crate::options::{Operation, Transport};
use crate::server::{Server, Used};
use crate::timeline::Series;

/// Replaces characters that control a terminal, or the direction in which it shows a text.
pub(crate) fn printable(text: &str) -> String {
    let is_foreign =
        |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.replace(is_foreign, "?")
}

/// The version of the form of the JSON. It rises if a member changes its meaning or goes away, not if one is added.
pub(crate) const SCHEMA_VERSION: u32 = 1;

/// The results of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) schema_version: u32,
    /// When the run began, in seconds since 1970.
    pub(crate) time_seconds: u64,
    /// The version of this program.
    pub(crate) version: &'static str,
    /// The command line, without the password.
    pub(crate) command: String,
    pub(crate) machine: Machine,
    pub(crate) server: String,
    pub(crate) share: String,
    pub(crate) smb_direct: Option<String>,
    /// The client's fabric for SMB Direct.
    pub(crate) fabric: Option<&'static str>,
    /// The version of the server's device, if it runs on this machine.
    pub(crate) smbdirectd_version: Option<String>,
    pub(crate) dialect: &'static str,
    pub(crate) signed: bool,
    pub(crate) encrypted: bool,
    /// Whether SMB Direct was bound to the session over TCP.
    pub(crate) bound: bool,
    pub(crate) file_size: u64,
    pub(crate) verified: bool,
    pub(crate) parameters: Parameters,
    pub(crate) cases: Vec<Row>,
}

/// The options that decide what is measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Parameters {
    pub(crate) transport: Vec<Transport>,
    pub(crate) operations: Vec<Operation>,
    pub(crate) size: Vec<u64>,
    pub(crate) depth: Vec<u16>,
    /// Empty if the channel depends on the size and on the protection.
    pub(crate) channel: Vec<u8>,
    pub(crate) seconds: Option<f64>,
    pub(crate) bytes: Option<u64>,
    pub(crate) file_size: u64,
    pub(crate) verify: bool,
    pub(crate) no_bind: bool,
}

/// One case.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) transport: Transport,
    pub(crate) operation: Operation,
    pub(crate) channel: u32,
    /// Bytes per request.
    pub(crate) size: u32,
    /// The size that was asked for; a connection may not carry that much at a time.
    pub(crate) size_requested: u32,
    pub(crate) depth: u16,
    pub(crate) rounds: usize,
    pub(crate) bytes: u64,
    pub(crate) requests: u64,
    pub(crate) seconds: f64,
    /// The median of the rounds; the latencies up to p99 are medians as well.
    pub(crate) megabytes_per_second: f64,
    pub(crate) megabytes_per_second_least: f64,
    pub(crate) megabytes_per_second_most: f64,
    pub(crate) latency_p50_microseconds: f64,
    pub(crate) latency_p90_microseconds: f64,
    pub(crate) latency_p99_microseconds: f64,
    /// Of the requests of all rounds together, because a single round may have too few for it.
    pub(crate) latency_p99_9_microseconds: f64,
    /// The longest of all rounds.
    pub(crate) latency_max_microseconds: f64,
    pub(crate) client_cpu_seconds: f64,
    pub(crate) client_cpu_seconds_per_gib: f64,
    /// `null` if the server's processes are not visible from here.
    pub(crate) smbd_cpu_seconds_per_gib: Option<f64>,
    pub(crate) smbdirectd_cpu_seconds_per_gib: Option<f64>,
    /// The latencies of all rounds.
    pub(crate) latency_histogram: Histogram,
    /// The rounds, in the order in which they ran.
    pub(crate) runs: Vec<Run>,
}

/// One case in one round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Run {
    pub(crate) bytes: u64,
    pub(crate) requests: u64,
    pub(crate) seconds: f64,
    pub(crate) megabytes_per_second: f64,
    pub(crate) latency_p50_microseconds: f64,
    pub(crate) latency_p90_microseconds: f64,
    pub(crate) latency_p99_microseconds: f64,
    pub(crate) latency_p99_9_microseconds: f64,
    pub(crate) latency_max_microseconds: f64,
    pub(crate) client_cpu_seconds: f64,
    pub(crate) smbd_cpu_seconds: Option<f64>,
    pub(crate) smbdirectd_cpu_seconds: Option<f64>,
    pub(crate) timeline: Series,
}

/// One case in one round, as it was measured: by the client, and in the server's processes.
pub(crate) type Sample = (Measured, Used);

impl Report {
    pub(crate) fn new(
        share: &str,
        (tcp, encrypted): (&Connection, bool),
        server: &Server,
        (command, parameters): (String, Parameters),
    ) -> Self {
        let time = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            schema_version: SCHEMA_VERSION,
            time_seconds: time.unwrap_or_default().as_secs(),
            version: env!("CARGO_PKG_VERSION"),
            command,
            machine: Machine::this(),
            server: tcp.server().to_string(),
            share: share.to_owned(),
            smb_direct: None,
            fabric: None,
            smbdirectd_version: server.device_version(),
            dialect: match tcp.negotiated().dialect {
                Dialect::Smb300 => "3.0",
                Dialect::Smb302 => "3.0.2",
                Dialect::Smb311 => "3.1.1",
            },
            signed: tcp.is_signed(),
            encrypted,
            bound: false,
            file_size: parameters.file_size,
            verified: parameters.verify,
            parameters,
            cases: Vec::new(),
        }
    }

    pub(crate) fn has_smb_direct(&mut self, connection: &mut Connection, bound: bool) {
        self.smb_direct = Some(connection.server().to_string());
        self.fabric = connection.fabric().map(FabricKind::name);
        self.bound = bound;
    }

    /// Adds a case with the results of its rounds. `size_requested` is the size that was asked for.
    pub(crate) fn add(
        &mut self,
        transport: Transport,
        (case, size_requested): (&Case, u32),
        samples: &[Sample],
    ) {
        self.cases
            .push(Row::new(transport, (case, size_requested), samples));
    }

    /// Says how messages are protected.
    pub(crate) const fn protection(&self) -> &'static str {
        match (self.encrypted, self.signed) {
            (true, _) => "encrypted",
            (false, true) => "signed",
            (false, false) => "neither signed nor encrypted",
        }
    }

    /// Says how SMB Direct belongs to the session.
    pub(crate) const fn session(&self) -> &'static str {
        match self.bound {
            true => "as a channel of the same session",
            false => "with its own session",
        }
    }
}

impl Row {
    fn new(transport: Transport, (case, size_requested): (&Case, u32), samples: &[Sample]) -> Self {
        let runs: Vec<Run> = samples.iter().map(Run::new).collect();
        let mut all = Histogram::new();
        for (measured, _) in samples {
            all.merge(&measured.latencies);
        }
        let speeds = sorted(&runs, |run| run.megabytes_per_second);
        let bytes: u64 = runs.iter().map(|run| run.bytes).sum();
        let per_gib = |seconds: f64| seconds / (bytes as f64 / (1_u64 << 30) as f64).max(1e-9);
        let cpu: f64 = runs.iter().map(|run| run.client_cpu_seconds).sum();
        let smbd: Option<f64> = runs.iter().map(|run| run.smbd_cpu_seconds).sum();
        let smbdirectd: Option<f64> = runs.iter().map(|run| run.smbdirectd_cpu_seconds).sum();
        Self {
            transport,
            operation: case.operation,
            channel: case.channel.number(),
            size: case.size,
            size_requested,
            depth: case.depth,
            rounds: runs.len(),
            bytes,
            requests: runs.iter().map(|run| run.requests).sum(),
            seconds: runs.iter().map(|run| run.seconds).sum(),
            megabytes_per_second: median(&speeds),
            megabytes_per_second_least: speeds.first().copied().unwrap_or(0.0),
            megabytes_per_second_most: speeds.last().copied().unwrap_or(0.0),
            latency_p50_microseconds: median(&sorted(&runs, |run| run.latency_p50_microseconds)),
            latency_p90_microseconds: median(&sorted(&runs, |run| run.latency_p90_microseconds)),
            latency_p99_microseconds: median(&sorted(&runs, |run| run.latency_p99_microseconds)),
            latency_p99_9_microseconds: microseconds(all.percentile(999)),
            latency_max_microseconds: microseconds(all.longest()),
            client_cpu_seconds: cpu,
            client_cpu_seconds_per_gib: per_gib(cpu),
            smbd_cpu_seconds_per_gib: smbd.map(per_gib),
            smbdirectd_cpu_seconds_per_gib: smbdirectd.map(per_gib),
            latency_histogram: all,
            runs,
        }
    }

    /// Returns the percentiles of the latency and their names, in ascending order.
    pub(crate) const fn latencies(&self) -> [(&'static str, f64); 5] {
        [
            ("p50", self.latency_p50_microseconds),
            ("p90", self.latency_p90_microseconds),
            ("p99", self.latency_p99_microseconds),
            ("p99.9", self.latency_p99_9_microseconds),
            ("max", self.latency_max_microseconds),
        ]
    }

    /// Returns the processor seconds per GiB of the processes whose time is known, and their names.
    pub(crate) fn cpu(&self) -> Vec<(&'static str, f64)> {
        let all = [
            ("client", Some(self.client_cpu_seconds_per_gib)),
            ("smbdirectd", self.smbdirectd_cpu_seconds_per_gib),
            ("smbd", self.smbd_cpu_seconds_per_gib),
        ];
        let known = all.into_iter().filter_map(|(name, cpu)| Some((name, cpu?)));
        known.collect()
    }
}

impl Run {
    fn new((measured, used): &Sample) -> Self {
        let latencies = &measured.latencies;
        let percentile = |per_mille| microseconds(latencies.percentile(per_mille));
        Self {
            bytes: measured.bytes,
            requests: latencies.total(),
            seconds: measured.time.as_secs_f64(),
            megabytes_per_second: measured.megabytes_per_second(),
            latency_p50_microseconds: percentile(500),
            latency_p90_microseconds: percentile(900),
            latency_p99_microseconds: percentile(990),
            latency_p99_9_microseconds: percentile(999),
            latency_max_microseconds: microseconds(latencies.longest()),
            client_cpu_seconds: measured.cpu.as_secs_f64(),
            smbd_cpu_seconds: used.smbd.map(|cpu| cpu.as_secs_f64()),
            smbdirectd_cpu_seconds: used.smbdirectd.map(|cpu| cpu.as_secs_f64()),
            timeline: measured.timeline.clone(),
        }
    }
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Returns the value of each run, in ascending order.
pub(crate) fn sorted<T>(runs: &[T], of: impl Fn(&T) -> f64) -> Vec<f64> {
    let mut values: Vec<f64> = runs.iter().map(of).collect();
    values.sort_unstable_by(f64::total_cmp);
    values
}

/// Returns the middle one of the sorted values, or the mean of the two in the middle.
pub(crate) fn median(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    let upper = sorted.get(half).copied().unwrap_or(0.0);
    match sorted.len() % 2 {
        1 => upper,
        _ => (sorted.get(half.saturating_sub(1)).copied().unwrap_or(upper) + upper) / 2.0,
    }
}

/// Formats bytes in the largest unit that divides them evenly.
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0 => "0".to_owned(),
        n if n % (1 << 30) == 0 => format!("{}G", n >> 30),
        n if n % (1 << 20) == 0 => format!("{}M", n >> 20),
        n if n % (1 << 10) == 0 => format!("{}K", n >> 10),
        n => n.to_string(),
    }
}

/// Describes a case in a few words.
pub(crate) fn describe(transport: Transport, case: &Case) -> String {
    let how = match (transport, case.channel) {
        (Transport::Tcp, _) => "",
        (Transport::SmbDirect, Channel::None) => " in messages",
        (Transport::SmbDirect, _) => " by RDMA",
    };
    format!(
        "{} {}{how}, {} x {}",
        transport.name(),
        case.operation.name(),
        size(case.size.into()),
        case.depth
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::options::End;
    use crate::timeline::Timeline;

    /// Makes a case with this speed, in MB/s, in each of its rounds: requests of 1 MB, one after the other for a second.
    pub(crate) fn row(transport: Transport, channel: Channel, speeds: &[u64]) -> Row {
        let case = Case {
            operation: Operation::Read,
            channel,
            size: 1_000_000,
            depth: 1,
            end: End::After(Duration::from_secs(1)),
            verify: false,
        };
        let samples: Vec<Sample> = speeds.iter().map(|speed| sample(*speed)).collect();
        Row::new(transport, (&case, 1_000_000), &samples)
    }

    fn sample(speed: u64) -> Sample {
        let (mut latencies, mut timeline) = (Histogram::new(), Timeline::new());
        let latency = Duration::from_secs(1) / u32::try_from(speed).unwrap();
        for at in 1..=speed {
            latencies.record(latency);
            timeline.add(latency * u32::try_from(at - 1).unwrap(), 1_000_000, latency);
        }
        let measured = Measured {
            bytes: speed * 1_000_000,
            time: Duration::from_secs(1),
            cpu: Duration::from_millis(250),
            latencies,
            timeline: timeline.finish(Duration::from_secs(1)),
        };
        let used = Used {
            smbd: Some(Duration::from_millis(500)),
            smbdirectd: None,
        };
        (measured, used)
    }

    /// Makes a report of a read over TCP at 100, 110 and 120 MB/s, and of one by RDMA at 200, 210 and 220 MB/s.
    pub(crate) fn report() -> Report {
        Report {
            schema_version: SCHEMA_VERSION,
            time_seconds: 1_767_225_599,
            version: "1.2.3",
            command: "smbdirectctl bench //server/share".to_owned(),
            machine: Machine {
                host: "client".to_owned(),
                kernel: "Linux 6.12".to_owned(),
                architecture: "x86_64".to_owned(),
                processor: "Some CPU".to_owned(),
                processors: 2,
            },
            server: "10.0.0.1:445".to_owned(),
            share: "//server/share".to_owned(),
            smb_direct: Some("10.0.0.1:5445".to_owned()),
            fabric: Some("software"),
            smbdirectd_version: None,
            dialect: "3.1.1",
            signed: false,
            encrypted: false,
            bound: true,
            file_size: 1 << 28,
            verified: false,
            parameters: parameters(),
            cases: vec![
                row(Transport::Tcp, Channel::None, &[110, 100, 120]),
                row(Transport::SmbDirect, Channel::RdmaV1, &[220, 200, 210]),
            ],
        }
    }

    pub(crate) fn parameters() -> Parameters {
        Parameters {
            transport: vec![Transport::Tcp, Transport::SmbDirect],
            operations: vec![Operation::Read],
            size: vec![1_000_000],
            depth: vec![1],
            channel: Vec::new(),
            seconds: Some(1.0),
            bytes: None,
            file_size: 1 << 28,
            verify: false,
            no_bind: false,
        }
    }

    #[test]
    fn the_median_is_in_the_middle() {
        for (values, expected) in [
            (&[][..], 0.0),
            (&[3.0], 3.0),
            (&[1.0, 3.0], 2.0),
            (&[1.0, 2.0, 90.0], 2.0),
            (&[1.0, 2.0, 4.0, 90.0], 3.0),
        ] {
            assert_eq!(median(values), expected, "{values:?}");
        }
    }

    #[test]
    fn sizes_are_shown_as_they_are_given() {
        assert_eq!(size(1 << 20), "1M");
        assert_eq!(size(4096), "4K");
        assert_eq!(size(1_048_320), "1048320");
        assert_eq!(size(2 << 30), "2G");
        assert_eq!(size(0), "0");
    }

    #[test]
    fn a_case_sums_its_rounds_up_and_has_their_median() {
        let row = row(Transport::Tcp, Channel::None, &[110, 100, 120]);
        assert_eq!((row.rounds, row.requests, row.runs.len()), (3, 330, 3));
        assert_eq!(row.bytes, 330_000_000);
        assert_eq!(row.latency_histogram.total(), 330);
        let speeds = [
            row.megabytes_per_second_least,
            row.megabytes_per_second,
            row.megabytes_per_second_most,
        ];
        assert_eq!(speeds.map(f64::round), [100.0, 110.0, 120.0]);
        let p50 = row.latency_p50_microseconds;
        assert!((p50 / (1e6 / 110.0) - 1.0).abs() < 0.003, "{p50}");
        assert_eq!(row.latency_max_microseconds, 10_000.0);
        // The processor time of smbdirectd is not known.
        assert_eq!(
            row.cpu().iter().map(|cpu| cpu.0).collect::<Vec<_>>(),
            ["client", "smbd"]
        );
        let gib = 330_000_000.0 / (1_u64 << 30) as f64;
        assert!((row.cpu()[1].1 - 1.5 / gib).abs() < 1e-6);
    }

    #[test]
    fn json_keeps_its_older_members() {
        let json = serde_json::to_value(report()).unwrap();
        for name in [
            "server",
            "share",
            "smb_direct",
            "dialect",
            "signed",
            "encrypted",
            "bound",
            "file_size",
            "verified",
        ] {
            assert!(json.get(name).is_some(), "{name}");
        }
        assert_eq!(json["schema_version"], 1);
        let case = &json["cases"][1];
        for name in [
            "channel",
            "size",
            "depth",
            "rounds",
            "bytes",
            "requests",
            "seconds",
            "megabytes_per_second",
            "megabytes_per_second_least",
            "megabytes_per_second_most",
            "latency_p50_microseconds",
            "latency_p99_microseconds",
            "client_cpu_seconds",
            "client_cpu_seconds_per_gib",
        ] {
            assert!(case[name].is_number(), "{name}: {case}");
        }
        assert_eq!(case["transport"], "smbdirect");
        assert_eq!(case["operation"], "read");
        assert!(case["smbdirectd_cpu_seconds_per_gib"].is_null());
        assert_eq!(case["runs"][0]["timeline"]["interval_seconds"], 0.1);
    }
}
