// SPDX-License-Identifier: GPL-2.0-or-later

//! The results, for people and for programs.

use std::fmt::{self, Display};
use std::time::Duration;

use instruments::client::{Channel, Connection, Dialect};
use serde::Serialize;

use crate::measure::{Case, Measured};
use crate::options::{Operation, Transport};

/// The results of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    server: String,
    share: String,
    smb_direct: Option<String>,
    dialect: &'static str,
    signed: bool,
    encrypted: bool,
    /// Whether SMB Direct was bound to the session over TCP.
    bound: bool,
    file_size: u64,
    verified: bool,
    cases: Vec<Row>,
}

/// One case.
#[derive(Debug, Serialize)]
struct Row {
    transport: &'static str,
    operation: &'static str,
    channel: u32,
    size: u32,
    depth: u16,
    rounds: usize,
    bytes: u64,
    requests: usize,
    seconds: f64,
    /// The median of the rounds; the latencies are medians as well.
    megabytes_per_second: f64,
    megabytes_per_second_least: f64,
    megabytes_per_second_most: f64,
    latency_p50_microseconds: f64,
    latency_p99_microseconds: f64,
    client_cpu_seconds: f64,
    client_cpu_seconds_per_gib: f64,
}

impl Report {
    pub(crate) fn new(
        share: &str,
        (tcp, encrypted): (&Connection, bool),
        file_size: u64,
        verified: bool,
    ) -> Self {
        Self {
            server: tcp.server().to_string(),
            share: share.to_owned(),
            smb_direct: None,
            dialect: match tcp.negotiated().dialect {
                Dialect::Smb300 => "3.0",
                Dialect::Smb302 => "3.0.2",
                Dialect::Smb311 => "3.1.1",
            },
            signed: tcp.is_signed(),
            encrypted,
            bound: false,
            file_size,
            verified,
            cases: Vec::new(),
        }
    }

    pub(crate) fn has_smb_direct(&mut self, connection: &Connection, bound: bool) {
        self.smb_direct = Some(connection.server().to_string());
        self.bound = bound;
    }

    /// Adds a case with the results of its rounds.
    pub(crate) fn add(&mut self, transport: Transport, case: &Case, rounds: &[Measured]) {
        let microseconds = |share| sorted(rounds, |one| one.latency(share).as_secs_f64() * 1e6);
        let speeds = sorted(rounds, Measured::megabytes_per_second);
        let bytes: u64 = rounds.iter().map(|one| one.bytes).sum();
        let cpu: Duration = rounds.iter().map(|one| one.cpu).sum();
        let time: Duration = rounds.iter().map(|one| one.time).sum();
        self.cases.push(Row {
            transport: transport_name(transport),
            operation: operation_name(case.operation),
            channel: case.channel.number(),
            size: case.size,
            depth: case.depth,
            rounds: rounds.len(),
            bytes,
            requests: rounds.iter().map(Measured::requests).sum(),
            seconds: time.as_secs_f64(),
            megabytes_per_second: median(&speeds),
            megabytes_per_second_least: speeds.first().copied().unwrap_or(0.0),
            megabytes_per_second_most: speeds.last().copied().unwrap_or(0.0),
            latency_p50_microseconds: median(&microseconds(0.5)),
            latency_p99_microseconds: median(&microseconds(0.99)),
            client_cpu_seconds: cpu.as_secs_f64(),
            client_cpu_seconds_per_gib: cpu.as_secs_f64()
                / (bytes as f64 / (1_u64 << 30) as f64).max(1e-9),
        });
    }
}

/// Returns the value of each round, in ascending order.
fn sorted(rounds: &[Measured], of: impl Fn(&Measured) -> f64) -> Vec<f64> {
    let mut values: Vec<f64> = rounds.iter().map(of).collect();
    values.sort_unstable_by(f64::total_cmp);
    values
}

/// Returns the middle one of the sorted values, or the mean of the two in the middle.
fn median(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    let upper = sorted.get(half).copied().unwrap_or(0.0);
    match sorted.len() % 2 {
        1 => upper,
        _ => (sorted.get(half.saturating_sub(1)).copied().unwrap_or(upper) + upper) / 2.0,
    }
}

const fn transport_name(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "tcp",
        Transport::SmbDirect => "smbdirect",
    }
}

const fn operation_name(operation: Operation) -> &'static str {
    match operation {
        Operation::Read => "read",
        Operation::Write => "write",
    }
}

/// Formats bytes in the largest unit that divides them evenly.
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
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
        transport_name(transport),
        operation_name(case.operation),
        size(case.size.into()),
        case.depth
    )
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protection = match (self.encrypted, self.signed) {
            (true, _) => "encrypted",
            (false, true) => "signed",
            (false, false) => "neither signed nor encrypted",
        };
        writeln!(
            f,
            "SMB {}, {protection}; TCP at {}",
            self.dialect, self.server
        )?;
        if let Some(address) = &self.smb_direct {
            let session = if self.bound {
                "as a channel of the same session"
            } else {
                "with its own session"
            };
            writeln!(f, "SMB Direct at {address}, {session}")?;
        }
        writeln!(
            f,
            "\n{:<10} {:<6} {:>7} {:>8} {:>5} {:>8} {:>15} {:>9} {:>9} {:>9}",
            "transport",
            "what",
            "channel",
            "size",
            "depth",
            "MB/s",
            "least - most",
            "p50",
            "p99",
            "CPU s/GiB"
        )?;
        for row in &self.cases {
            writeln!(
                f,
                "{:<10} {:<6} {:>7} {:>8} {:>5} {:>8.1} {:>15} {:>6.0} us {:>6.0} us {:>9.3}",
                row.transport,
                row.operation,
                row.channel,
                size(row.size.into()),
                row.depth,
                row.megabytes_per_second,
                format!(
                    "{:.1} - {:.1}",
                    row.megabytes_per_second_least, row.megabytes_per_second_most
                ),
                row.latency_p50_microseconds,
                row.latency_p99_microseconds,
                row.client_cpu_seconds_per_gib,
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    }
}
