//! The results, for people and for programs.

use std::fmt::{self, Display};

use serde::Serialize;
use smbdirect::client::{Channel, Connection, Dialect};

use super::measure::{Case, Measured};
use super::options::{Operation, Transport};

/// All of a run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    server: String,
    share: String,
    smb_direct: Option<String>,
    dialect: &'static str,
    signed: bool,
    encrypted: bool,
    /// SMB Direct was a channel of the session over TCP.
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
    bytes: u64,
    requests: usize,
    seconds: f64,
    megabytes_per_second: f64,
    latency_p50_microseconds: f64,
    latency_p99_microseconds: f64,
    client_cpu_seconds: f64,
    client_cpu_seconds_per_gib: f64,
}

impl Report {
    pub(super) fn new(share: &str, tcp: &Connection, file_size: u64, verified: bool) -> Self {
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
            encrypted: tcp.is_sealed(),
            bound: false,
            file_size,
            verified,
            cases: Vec::new(),
        }
    }

    pub(super) fn has_smb_direct(&mut self, connection: &Connection, bound: bool) {
        self.smb_direct = Some(connection.server().to_string());
        self.bound = bound;
    }

    pub(super) fn add(&mut self, transport: Transport, case: &Case, measured: &Measured) {
        let microseconds = |share| measured.latency(share).as_secs_f64() * 1e6;
        self.cases.push(Row {
            transport: transport_name(transport),
            operation: operation_name(case.operation),
            channel: case.channel.number(),
            size: case.size,
            depth: case.depth,
            bytes: measured.bytes,
            requests: measured.latencies.len(),
            seconds: measured.time.as_secs_f64(),
            megabytes_per_second: measured.megabytes_per_second(),
            latency_p50_microseconds: microseconds(0.5),
            latency_p99_microseconds: microseconds(0.99),
            client_cpu_seconds: measured.cpu.as_secs_f64(),
            client_cpu_seconds_per_gib: measured.cpu_per_gib(),
        });
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

/// Bytes, in the largest unit that leaves no rest.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        n if n % (1 << 30) == 0 => format!("{}G", n >> 30),
        n if n % (1 << 20) == 0 => format!("{}M", n >> 20),
        n if n % (1 << 10) == 0 => format!("{}K", n >> 10),
        n => n.to_string(),
    }
}

/// A case in a few words.
pub(super) fn describe(transport: Transport, case: &Case) -> String {
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
                "a channel of the same session"
            } else {
                "a session of its own"
            };
            writeln!(f, "SMB Direct at {address}, {session}")?;
        }
        writeln!(
            f,
            "\n{:<10} {:<6} {:>7} {:>9} {:>6} {:>10} {:>10} {:>10} {:>10}",
            "transport", "what", "channel", "size", "depth", "MB/s", "p50", "p99", "CPU s/GiB"
        )?;
        for row in &self.cases {
            writeln!(
                f,
                "{:<10} {:<6} {:>7} {:>9} {:>6} {:>10.1} {:>7.0} us {:>7.0} us {:>10.3}",
                row.transport,
                row.operation,
                row.channel,
                size(row.size.into()),
                row.depth,
                row.megabytes_per_second,
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
    fn sizes_are_shown_as_they_are_given() {
        assert_eq!(size(1 << 20), "1M");
        assert_eq!(size(4096), "4K");
        assert_eq!(size(1_048_320), "1048320");
        assert_eq!(size(2 << 30), "2G");
    }
}
