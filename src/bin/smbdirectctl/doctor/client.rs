// SPDX-License-Identifier: GPL-2.0-or-later

//! Judges what a client reports about itself. A script that runs on the client gathers the report, which is JSON, and
//! the doctor reads it on the server.
//!
//! Anyone may have changed the report on its way. So its size is limited, unknown fields are ignored, and a value that
//! is missing, or has another type than the script writes, counts as not read.

mod fact;
mod linux;
#[cfg(test)]
mod tests;
mod windows;

use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::Path;

use clap::ValueEnum;
use serde_json::Value;

use self::fact::Fact;
use super::Finding;
use super::checks::{Findings, ip_of, ports_of};
use super::facts::{Facts, Kind};

/// Number of bytes of the largest report that is read. Those of the scripts have a few KiB.
const MOST_BYTES: u64 = 1 << 20;
/// The version of the form of the reports.
const FORM: u64 = 1;
/// Where the guides describe clients and their networks.
const GUIDES: &str = "docs/troubleshooting.md, steps 4 and 5";

/// The system of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum System {
    Windows,
    Linux,
}

impl System {
    /// Returns the script that gathers a report on a client with this system.
    pub(super) fn script(self) -> String {
        let script = match self {
            Self::Windows => include_str!("client/windows.ps1"),
            Self::Linux => include_str!("client/linux.sh"),
        };
        script.replace("@VERSION@", env!("CARGO_PKG_VERSION"))
    }
}

/// The report of a client.
#[derive(Debug)]
pub(super) struct Report {
    system: System,
    value: Value,
}

impl Report {
    /// Reads a report from a file, or from standard input if the path is `-`.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is not the report of a client; the error is a message for people.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let mut bytes = Vec::new();
        let read = match path.as_os_str() == "-" {
            true => io::stdin().take(MOST_BYTES + 1).read_to_end(&mut bytes),
            false => {
                File::open(path).and_then(|file| file.take(MOST_BYTES + 1).read_to_end(&mut bytes))
            }
        };
        read.map_err(|error| error.to_string())?;
        Self::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        const CURE: &str =
            "(it must be the output of the script that smbdirectctl doctor --client-script prints)";
        if bytes.len() as u64 > MOST_BYTES {
            return Err(format!(
                "the report is larger than {MOST_BYTES} bytes {CURE}"
            ));
        }
        let value: Value = serde_json::from_str(&decode(bytes))
            .map_err(|error| format!("the report is not JSON: {error} {CURE}"))?;
        let fact = Fact::new(&value);
        match fact.at("smbdirect_client_report").number() {
            Some(FORM) => {}
            Some(form) => {
                return Err(format!(
                    "the report has form {form}, but this smbdirectctl reads form {FORM}: use the script that it prints"
                ));
            }
            None => return Err(format!("this is not the report of a client {CURE}")),
        }
        let system = match fact.at("system").text().as_deref() {
            Some("windows") => System::Windows,
            Some("linux") => System::Linux,
            _ => {
                return Err(format!(
                    "the report does not name the client's system {CURE}"
                ));
            }
        };
        Ok(Self { system, value })
    }
}

/// Returns the text of a file that Windows or Linux wrote: in UTF-8, or in UTF-16 as by `>` of PowerShell, with or
/// without a byte order mark.
fn decode(bytes: &[u8]) -> String {
    let of = |unit: fn([u8; 2]) -> u16, bytes: &[u8]| {
        let units = bytes
            .chunks_exact(2)
            .filter_map(|pair| pair.try_into().ok());
        let units: Vec<u16> = units.map(unit).collect();
        String::from_utf16_lossy(&units)
    };
    match bytes {
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8_lossy(rest).into_owned(),
        [0xff, 0xfe, rest @ ..] => of(u16::from_le_bytes, rest),
        [0xfe, 0xff, rest @ ..] => of(u16::from_be_bytes, rest),
        // The first character of JSON is an ASCII character.
        [_, 0, ..] => of(u16::from_le_bytes, bytes),
        [0, _, ..] => of(u16::from_be_bytes, bytes),
        _ => String::from_utf8_lossy(bytes).into_owned(),
    }
}

/// Judges a report. `client` is the address of the client that the user asks about, if there is one.
pub(super) fn judge(report: &Report, facts: &Facts, client: Option<IpAddr>) -> Vec<Finding> {
    let mut found = Findings::default();
    let fact = Fact::new(&report.value);
    origin(fact, client, &mut found);
    match report.system {
        System::Windows => windows::judge(fact, facts, &mut found),
        System::Linux => linux::judge(fact, facts, &mut found),
    }
    port(fact, facts, &mut found);
    found.0
}

/// Says which machine the report is about, and what the script could not read.
fn origin(report: Fact<'_>, client: Option<IpAddr>, found: &mut Findings) {
    const CHECK: &str = "client report";
    let text = |name: &str| report.at(name).text();
    let host = text("host").unwrap_or_else(|| "?".to_owned());
    let build = report
        .at("build")
        .number()
        .map(|build| format!("build {build}"));
    let kernel = text("kernel").map(|kernel| format!("Linux {kernel}"));
    let system = [text("name"), text("release"), build, kernel];
    let system: Vec<String> = system
        .into_iter()
        .flatten()
        .filter(|it| !it.is_empty())
        .collect();
    let time = text("time").unwrap_or_else(|| "an unknown time".to_owned());
    let message = format!(
        "the report is about {host}, as of {time}: {}",
        system.join(", ")
    );
    found.ok(CHECK, message);
    let own: Vec<IpAddr> = match report.at("interfaces").items() {
        Some(interfaces) => interfaces
            .iter()
            .flat_map(|it| it.at("addresses").addresses())
            .collect(),
        None => report.at("addresses").addresses(),
    };
    if let Some(client) =
        client.filter(|client| !own.is_empty() && !own.contains(&client.to_canonical()))
    {
        found.warn(
            CHECK,
            format!("{host} does not have the address {client}"),
            "run the script on the machine that has this address, or give another address with --client",
        );
    }
    let unread = report.at("unread").items().unwrap_or_default();
    let unread: Vec<String> = unread.iter().filter_map(Fact::text).collect();
    if !unread.is_empty() {
        let cure = match report.at("privileged").flag() {
            Some(true) => "",
            _ => " (run the script as root, or as an administrator)",
        };
        found.skip(
            CHECK,
            format!("the script could not read {}{cure}", unread.join("; ")),
        );
    }
}

/// Returns whether an address is one of this server's. If this server's addresses are not known, every address counts
/// as one.
fn is_this_server(ip: IpAddr, facts: &Facts) -> bool {
    let announced = facts.device.iter().flat_map(|device| &device.addresses);
    let announced = announced.filter_map(|it| ip_of(&it.address));
    let of_interfaces = facts
        .interfaces
        .values()
        .flat_map(|it| it.addresses.iter().copied());
    facts.device.is_none()
        || announced
            .chain(of_interfaces)
            .any(|own| own.to_canonical() == ip)
}

fn name_of(kind: Kind) -> &'static str {
    match kind {
        Kind::InfiniBand => "InfiniBand",
        Kind::Roce => "RoCE",
        Kind::Iwarp => "iWARP",
    }
}

/// Returns the protocols below SMB Direct at the addresses that this server announces; `None` if one is not known.
fn protocols(facts: &Facts) -> Option<Vec<Kind>> {
    let addresses = facts.device.iter().flat_map(|device| &device.addresses);
    let kinds = addresses.map(|address| match address.fabric.as_str() {
        "verbs" => ports_of(address, facts).first().map(|port| port.kind),
        _ => Some(Kind::Iwarp),
    });
    kinds.collect()
}

/// Checks that the client's RDMA devices speak a protocol that this server speaks.
fn protocol(client: &[Kind], facts: &Facts, found: &mut Findings) {
    const CHECK: &str = "client protocol";
    let Some(server) = protocols(facts).filter(|server| !server.is_empty()) else {
        return;
    };
    if client.is_empty() {
        return;
    }
    if let Some(common) = client.iter().find(|kind| server.contains(kind)) {
        let name = name_of(*common);
        return found.ok(CHECK, format!("both the client and this server use {name}"));
    }
    let list = |kinds: &[Kind]| {
        let mut names: Vec<&str> = kinds.iter().map(|kind| name_of(*kind)).collect();
        names.sort_unstable();
        names.dedup();
        names.join(" and ")
    };
    found.fail(
        CHECK,
        format!(
            "the client's RDMA devices use {}, but the addresses of this server use {}: they cannot connect to \
             each other",
            list(client),
            list(&server)
        ),
        "use adapters of one kind in both; docs/iwarp.md and docs/roce.md say what reaches software iWARP, siw and rxe",
    );
}

/// Reports whether the client could connect to TCP port 5445 of the server.
fn port(report: Fact<'_>, facts: &Facts, found: &mut Findings) {
    const CHECK: &str = "client port";
    let attempts = report.at("server");
    let Some(server) = attempts.at("address").text() else {
        return;
    };
    // RoCE and InfiniBand adapters do not use TCP.
    let ip: Option<IpAddr> = server.parse().ok();
    let device = facts.device.iter();
    let at = device
        .flat_map(|device| &device.addresses)
        .find(|at| ip.is_some() && ip_of(&at.address) == ip);
    let is_tcp = |kind: Kind| kind == Kind::Iwarp;
    if at.is_some_and(|at| {
        at.fabric == "verbs" && !ports_of(at, facts).iter().any(|it| is_tcp(it.kind))
    }) {
        return;
    }
    match attempts.at("tcp_5445").text().as_deref() {
        Some("open") => found.ok(CHECK, format!("the client reaches TCP port 5445 of {server}")),
        Some("silent") => found.fail(
            CHECK,
            format!("nothing answers the client at TCP port 5445 of {server}: a firewall drops its packets"),
            "open TCP port 5445 on this server, on the client, and between them (docs/firewall.md)",
        ),
        Some("refused") => found.fail(
            CHECK,
            format!("TCP port 5445 of {server} refuses the client's connection"),
            "if smbdirectd listens at this address (smbdirectctl status), a firewall rejects the connection: open the \
             port (docs/firewall.md)",
        ),
        Some("unresolved") => found.fail(
            CHECK,
            format!("the client cannot resolve the name {server}"),
            "run the script with the address of the server",
        ),
        _ => found.skip(CHECK, format!("the script did not try TCP port 5445 of {server}")),
    }
}
