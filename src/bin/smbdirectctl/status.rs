// SPDX-License-Identifier: GPL-2.0-or-later

//! The status of a device for people: tables of at most 100 columns.
//!
//! Only what is shown is read here, and what a device does not report counts as 0, so that a device that has been
//! running since before an upgrade is shown, too.

mod detail;
mod rates;
#[cfg(test)]
mod tests;
mod units;
pub(crate) mod words;

use std::collections::BTreeMap;
use std::fmt::{self, Display};

use serde::Deserialize;

pub(crate) use self::detail::{WITHOUT_TRANSFORMS, Wanted, endpoint};
use self::rates::Rates;
use self::units::Speed;
pub(crate) use self::units::{Age, Bytes};
use self::words::{short_fabric, short_user};
use super::utc::Utc;

/// How many of the connections that ended last are shown.
const CLOSES: usize = 10;
/// Columns of a client's address; a longer one has a line of its own.
const PEER: usize = 22;
/// Columns of a user's name.
const USER: usize = 11;
/// Columns of a time to the second.
const TIME: usize = 20;

/// A device.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Device {
    pub(crate) version: String,
    pub(crate) interface: u32,
    pub(crate) uptime_seconds: f64,
    /// When the device was started, which tells it from a device that was started later; `None` if the device does not
    /// report the time.
    pub(crate) start_time_seconds: Option<f64>,
    pub(crate) stopping: bool,
    pub(crate) listen: Vec<String>,
    pub(crate) addresses: Vec<Address>,
    pub(crate) missing: Vec<String>,
    pub(crate) allowed: Option<Vec<String>>,
    pub(crate) limits: Limits,
    pub(crate) totals: Totals,
    pub(crate) carried: BTreeMap<String, Carried>,
    pub(crate) connections: Vec<Connection>,
    pub(crate) processes: Vec<Process>,
    pub(crate) closes: Vec<Close>,
    pub(crate) clients: Vec<Client>,
    pub(crate) usage: Option<Usage>,
    /// The rates of each fabric, if the bytes of connections are bytes per second.
    #[serde(skip)]
    pub(crate) rates: Option<BTreeMap<String, Rates>>,
    /// Whether connections have the names of their users, or why they do not; `None` if nobody has asked for them.
    #[serde(skip)]
    pub(crate) users: Option<Result<(), String>>,
}

/// What smbdirectd uses.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Usage {
    pub(crate) cpu_seconds: f64,
    pub(crate) resident_bytes: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Address {
    pub(crate) address: String,
    pub(crate) interface: Option<String>,
    pub(crate) link_speed: u64,
    pub(crate) fabric: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Limits {
    pub(crate) connections: u64,
    pub(crate) undispatched: u64,
    pub(crate) unauthenticated: u64,
    pub(crate) workers: u64,
    pub(crate) memory: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Totals {
    pub(crate) connections: u64,
    pub(crate) dispatching: u64,
    pub(crate) unauthenticated: u64,
    pub(crate) memory: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Carried {
    connections: u64,
    messages_in: u64,
    messages_out: u64,
    inline_bytes_in: u64,
    inline_bytes_out: u64,
    rdma_reads: u64,
    rdma_read_bytes: u64,
    rdma_writes: u64,
    rdma_write_bytes: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Connection {
    pub(crate) id: Option<u64>,
    pub(crate) peer: String,
    pub(crate) local: Option<String>,
    pub(crate) fabric: String,
    pub(crate) worker: Option<u32>,
    pub(crate) pid: Option<i32>,
    pub(crate) state: String,
    pub(crate) send_credits: u32,
    pub(crate) receive_credits: u32,
    pub(crate) receives_posted: u32,
    /// Whether the connection has a session; `None` if the device does not report that, and the connection is then not
    /// marked.
    pub(crate) authenticated: Option<bool>,
    /// How file data is protected, if smbd has said so.
    pub(crate) protection: Option<String>,
    /// Who encrypts file data although the session does not demand that.
    pub(crate) encrypted_by: Vec<String>,
    pub(crate) inline_bytes_in: u64,
    pub(crate) inline_bytes_out: u64,
    pub(crate) rdma_read_bytes: u64,
    pub(crate) rdma_write_bytes: u64,
    pub(crate) messages_in: u64,
    pub(crate) messages_out: u64,
    /// Operations that are queued and not posted.
    pub(crate) queued: u64,
    /// Submissions of smbd that have not been answered.
    pub(crate) outstanding: u64,
    /// Received fragments that wait for memory of smbd.
    pub(crate) starved: u64,
    pub(crate) age_seconds: f64,
    /// The names of the users that are logged in on the connection, separated by ", ".
    #[serde(skip)]
    pub(crate) user: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Process {
    pub(crate) id: u32,
    pub(crate) pid: i32,
    pub(crate) role: String,
    pub(crate) invited: bool,
    pub(crate) connections: u64,
    pub(crate) sessions: u64,
    pub(crate) memory: u64,
    pub(crate) send_segments: u64,
    pub(crate) bulk_segments: u64,
    pub(crate) queues: Vec<Queue>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Queue {
    pub(crate) overflow: u64,
    pub(crate) completions: u64,
    pub(crate) outstanding: u64,
    pub(crate) receive_segments: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Close {
    pub(crate) peer: String,
    pub(crate) reason: String,
    pub(crate) at_seconds: f64,
    pub(crate) age_seconds: f64,
}

/// What smbd has said about a client.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Client {
    pub(crate) address: String,
    pub(crate) at_seconds: f64,
    pub(crate) dialect: Option<String>,
    pub(crate) multichannel: Option<bool>,
    pub(crate) asked: u64,
    pub(crate) told: Option<u32>,
    pub(crate) withheld: u64,
    pub(crate) refused: u64,
    pub(crate) refusal: Option<String>,
    /// Number of the client's SMB Direct sessions.
    pub(crate) direct: u64,
    /// When the last of these sessions was made.
    pub(crate) direct_at_seconds: Option<f64>,
}

impl Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.summary(f)?;
        if !self.connections.is_empty() {
            self.connections(f)?;
        }
        // Observers, such as this process, hold nothing.
        let processes: Vec<_> = self
            .processes
            .iter()
            .filter(|p| p.role != "observer")
            .collect();
        if !processes.is_empty() {
            show_processes(f, &processes)?;
        }
        if !self.closes.is_empty() {
            self.closes(f)?;
        }
        Ok(())
    }
}

impl Device {
    /// Returns the parent smbd, if it is attached.
    pub(crate) fn listener(&self) -> Option<&Process> {
        self.processes.iter().find(|p| p.role == "listener")
    }

    fn summary(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limits, totals, .. } = self;
        let stopping = if self.stopping { ", stopping" } else { "" };
        write!(
            f,
            "Device       smbdirect {}, interface {}, up {}",
            self.version,
            self.interface,
            Age(self.uptime_seconds)
        )?;
        if let Some(start) = self.start_time_seconds {
            write!(f, " since {}", Utc(start).to_the_second())?;
        }
        writeln!(f, "{stopping}")?;
        for (n, address) in self.listen.iter().enumerate() {
            let title = if n == 0 { "Listening" } else { "" };
            let missing = if self.missing.contains(address) {
                ", once this machine has that address"
            } else {
                ""
            };
            writeln!(f, "{title:<13}{address}{missing}")?;
        }
        self.allowed(f)?;
        for (n, address) in self.addresses.iter().enumerate() {
            let title = if n == 0 { "Addresses" } else { "" };
            let interface = address.interface.as_deref().unwrap_or("?");
            let speed = Speed(address.link_speed);
            write!(f, "{title:<13}{}, {interface}, {speed}", address.address)?;
            match address.fabric.as_str() {
                "" => writeln!(f)?,
                fabric => writeln!(f, ", {fabric}")?,
            }
        }
        writeln!(
            f,
            "Connections  {} of {}, {} of {} not logged in, {} of {} offered to smbd",
            totals.connections,
            limits.connections,
            totals.unauthenticated,
            limits.unauthenticated,
            totals.dispatching,
            limits.undispatched
        )?;
        self.workers(f)?;
        let (used, limit) = (Bytes(totals.memory), Bytes(limits.memory));
        writeln!(f, "Memory       {used} of {limit}")?;
        self.carried(f)?;
        match &self.users {
            Some(Err(reason)) => writeln!(f, "Users        unknown: {reason}"),
            _ => Ok(()),
        }
    }

    /// Shows the traffic of each fabric, in total or per second.
    fn carried(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(rates) = &self.rates {
            for (n, (fabric, rates)) in rates.iter().enumerate() {
                let title = if n == 0 { "Traffic" } else { "" };
                let bytes = |rate: f64| Bytes(rate.round() as u64);
                writeln!(
                    f,
                    "{title:<13}{fabric}: {}/s received, {}/s sent, {:.0} messages/s, {:.0} transfers/s",
                    bytes(rates.received),
                    bytes(rates.sent),
                    rates.messages,
                    rates.transfers
                )?;
            }
            return Ok(());
        }
        for (n, (fabric, carried)) in self.carried.iter().enumerate() {
            let title = if n == 0 { "Carried" } else { "" };
            writeln!(
                f,
                "{title:<13}{fabric}: {} received, {} sent, on {} connections since the start",
                Bytes(
                    carried
                        .inline_bytes_in
                        .saturating_add(carried.rdma_read_bytes)
                ),
                Bytes(
                    carried
                        .inline_bytes_out
                        .saturating_add(carried.rdma_write_bytes)
                ),
                carried.connections
            )?;
        }
        Ok(())
    }

    /// Shows the numbers of workers that count towards the limit and of those that do not, and the listener.
    fn workers(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let workers = self.processes.iter().filter(|p| p.role == "worker");
        let (invited, uninvited): (Vec<_>, Vec<_>) = workers.partition(|p| p.invited);
        let listener = match self.listener() {
            Some(listener) => format!("listener: process {}", process(listener.pid, listener.id)),
            None => "no listener".to_owned(),
        };
        writeln!(
            f,
            "Workers      {} of {}, and {} forked for a connection; {listener}",
            uninvited.len(),
            self.limits.workers,
            invited.len()
        )
    }

    /// Shows the addresses that smbd allows, if it does not allow all.
    fn allowed(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(allowed) = &self.allowed else {
            return Ok(());
        };
        if allowed.is_empty() {
            return writeln!(f, "Allowed      no address, by smbd");
        }
        for (n, address) in allowed.iter().enumerate() {
            let (title, by) = if n == 0 {
                ("Allowed", ", by smbd")
            } else {
                ("", "")
            };
            writeln!(f, "{title:<13}{address}{by}")?;
        }
        Ok(())
    }

    fn connections(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A table has room for 100 columns. So users take the place of credits.
        let has_users = self.users.is_some();
        let credits = match has_users {
            true => "",
            false => "credits: to send/granted; ",
        };
        match self.rates {
            None => writeln!(
                f,
                "\nConnections (state: * not logged in, S signed, E encrypted, e partly, ? unknown, m in messages;\n\
                 {credits}in, out: messages; read, written: RDMA)"
            )?,
            Some(_) => writeln!(
                f,
                "\nConnections, the busiest first (state: * not logged in, S signed, E encrypted, e partly, ? unknown,\n\
                 m in messages; in, out: messages; read, written: RDMA; all in bytes per second)"
            )?,
        }
        writeln!(
            f,
            "{:<PEER$} {:<5} {:>7} {:<8} {:>11} {:>8} {:>8} {:>8} {:>8} {:>6}",
            "client",
            "by",
            "process",
            "state",
            if has_users { "user" } else { "credits" },
            "in",
            "out",
            "read",
            "written",
            "age"
        )?;
        for connection in &self.connections {
            peer(f, &connection.peer)?;
            let fifth = match has_users {
                true => short_user(connection.user.as_deref(), USER),
                false => connection.credits(),
            };
            writeln!(
                f,
                " {:<5} {:>7} {:<8} {fifth:>USER$} {:>8} {:>8} {:>8} {:>8} {:>6}",
                short_fabric(&connection.fabric),
                connection.process(),
                connection.state(),
                Bytes(connection.inline_bytes_in),
                Bytes(connection.inline_bytes_out),
                Bytes(connection.rdma_read_bytes),
                Bytes(connection.rdma_write_bytes),
                Age(connection.age_seconds)
            )?;
        }
        Ok(())
    }

    fn closes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nConnections that ended last")?;
        let time = |at: &dyn Fn(f64) -> String| self.start_time_seconds.map(at).unwrap_or_default();
        let title = time(&|_| format!(" {:<TIME$}", "time"));
        writeln!(
            f,
            "{:<PEER$}{title} {:>7} {:>7}  reason",
            "client", "ago", "age"
        )?;
        for close in self.closes.iter().rev().take(CLOSES) {
            peer(f, &close.peer)?;
            let time = time(&|start| format!(" {}", Utc(start + close.at_seconds).to_the_second()));
            let ago = Age((self.uptime_seconds - close.at_seconds).max(0.0));
            let age = Age(close.age_seconds);
            writeln!(f, "{time} {ago:>7} {age:>7}  {}", close.reason)?;
        }
        Ok(())
    }
}

fn show_processes(f: &mut fmt::Formatter<'_>, processes: &[&Process]) -> fmt::Result {
    writeln!(
        f,
        "\nProcesses (send, bulk, receive: segments; submitted: not answered; unread: not yet taken)"
    )?;
    writeln!(
        f,
        "{:>7} {:<8} {:>11} {:>8} {:>8} {:>5} {:>5} {:>7} {:>6} {:>9} {:>6}",
        "process",
        "role",
        "connections",
        "sessions",
        "memory",
        "send",
        "bulk",
        "receive",
        "queues",
        "submitted",
        "unread"
    )?;
    for shown in processes {
        let sum = |of: fn(&Queue) -> u64| shown.queues.iter().map(of).fold(0, u64::saturating_add);
        writeln!(
            f,
            "{:>7} {:<8} {:>11} {:>8} {:>8} {:>5} {:>5} {:>7} {:>6} {:>9} {:>6}",
            process(shown.pid, shown.id),
            shown.role,
            shown.connections,
            shown.sessions,
            Bytes(shown.memory),
            shown.send_segments,
            shown.bulk_segments,
            sum(|queue| queue.receive_segments),
            shown.queues.len(),
            sum(|queue| queue.outstanding),
            sum(|queue| queue.completions.saturating_add(queue.overflow))
        )?;
    }
    Ok(())
}

/// Returns the id of a process, or the device's number for it if the process has no id here, because it is in a
/// container that the device cannot see into.
pub(crate) fn process(pid: i32, id: u32) -> String {
    match pid {
        0 => format!("#{id}"),
        pid => pid.to_string(),
    }
}

/// Writes the first column: a client's address.
fn peer(f: &mut fmt::Formatter<'_>, peer: &str) -> fmt::Result {
    if peer.len() > PEER {
        write!(f, "{peer}\n{:PEER$}", "")
    } else {
        write!(f, "{peer:<PEER$}")
    }
}
