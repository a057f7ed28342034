// SPDX-License-Identifier: GPL-2.0-or-later

//! `smbdirectctl bench`: reads and writes a file on a share, over TCP and over SMB Direct.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use instruments::client::{
    Channel, Connection, Create, Credentials, Dialect, Disposition, Error, NtStatus,
};
use smbdirect::fabric::FabricKind;

use crate::compare::{Earlier, Verdict};
use crate::measure::{self, Case, File};
use crate::options::{self, End, Operation, Options, SMB_DIRECT_PORT, Target, Transport};
use crate::pattern::Pattern;
use crate::progress::Line;
use crate::report::{self, Report, Sample};
use crate::server::Server;
use crate::{html, json};

/// The size of the requests that fill and check the file, in bytes, and how many of them are outstanding at a time.
const BULK: (u32, u16) = (1 << 20, 8);
/// After a round of this length, the SMB Direct connection is replaced, because perhaps it was not served during the
/// round, and after two minutes servers ask whether a client is alive.
const LONG_ROUND: Duration = Duration::from_secs(60);

/// Why nothing can be measured: the server has announced 0 as the size of the largest request.
const NO_DATA: &str = "the server allows no data in a READ or WRITE request";

/// Why there are no results.
pub(crate) enum Failure {
    /// The command line is wrong.
    Usage(String),
    /// Anything else.
    Failed(String),
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self::Failed(message)
    }
}

/// The results in the forms that the command line asks for.
pub(crate) struct Results {
    /// What to print.
    pub(crate) text: String,
    /// The page to write, and where.
    pub(crate) page: Option<(PathBuf, String)>,
    /// Whether the throughput of a case has become worse: see `Verdict::Worse`.
    pub(crate) is_worse: bool,
}

/// Measures, and returns the results.
pub(crate) fn run(options: &Options) -> Result<Results, Failure> {
    let target = options.target().map_err(Failure::Usage)?;
    let credentials = options.credentials().map_err(Failure::Usage)?;
    let largest = options.size.iter().max().copied().unwrap_or(0);
    if options.file_size < largest {
        return Err(Failure::Usage(
            "--file-size must be at least --size".to_owned(),
        ));
    }
    options.check_page().map_err(Failure::Usage)?;
    let parameters = options.parameters();
    let earlier = options.compare.as_deref();
    let earlier = earlier.map(|file| Earlier::read(file, &parameters));
    let earlier = earlier.transpose()?;
    let mut bench = Bench::start(options, credentials, &target)?;
    let mut report = Report::new(
        &format!("//{}/{}", target.host, target.share),
        (&bench.tcp, bench.is_encrypted()),
        &bench.server,
        (options.command(), parameters),
    );
    let comparable = earlier
        .as_ref()
        .map(|earlier| earlier.check_session(&report));
    let measured = match comparable {
        Some(Err(why)) => Err(why),
        _ => bench.measure_all(&mut report),
    };
    // Even after a failure, the file must not stay.
    let ended = bench.end();
    measured?;
    ended?;
    let comparison = earlier.map(|earlier| earlier.compare(&report));
    let comparison = comparison.as_ref();
    let text = match options.json {
        true => json::text(&report, comparison)?,
        false => {
            let compared = comparison.map_or_else(String::new, ToString::to_string);
            format!("{report}{compared}")
        }
    };
    let page = options.html.clone();
    Ok(Results {
        text,
        page: page.map(|file| (file, html::page(&report, comparison))),
        is_worse: comparison.is_some_and(|comparison| comparison.count(Verdict::Worse) > 0),
    })
}

/// A file on a server, and the TCP connection over which it was made.
struct Bench<'a> {
    options: &'a Options,
    credentials: Credentials,
    tcp: Connection,
    path: String,
    name: String,
    file: File,
    server: Server,
}

impl<'a> Bench<'a> {
    /// Logs in over TCP and makes the file.
    fn start(
        options: &'a Options,
        credentials: Credentials,
        target: &Target,
    ) -> Result<Self, String> {
        let address = options::resolve_host(&target.host, target.port)?;
        let mut guid = [0; 16];
        let mut seed = [0; 8];
        for bytes in [&mut guid[..], &mut seed] {
            getrandom::fill(bytes).map_err(|error| format!("random numbers: {error}"))?;
        }
        let path = format!(r"\\{}\{}", target.host, target.share);
        let seed = u64::from_le_bytes(seed);
        let name = format!("smbdirect-bench-{seed:016x}.tmp");
        let mut tcp = Connection::tcp(address, options.config(guid)).map_err(text)?;
        tcp.log_in(&credentials).map_err(text)?;
        let server = Server::find(address, tcp.client(), &options.control);
        let tree = tcp
            .tree_connect(&path)
            .map_err(|error| format!("{path}: {error}"))?;
        // However this process ends, the server deletes the file.
        let how = Create {
            options: Create::NON_DIRECTORY | Create::DELETE_ON_CLOSE,
            ..Create::file(Disposition::Create)
        };
        let created = tcp.create(tree, &name, &how);
        let created = created.map_err(|error| format!("{path}\\{name}: {error}"))?;
        let file = File {
            tree,
            id: created.file,
            size: options.file_size,
            pattern: Pattern::new(seed),
        };
        let mut bench = Self {
            options,
            credentials,
            tcp,
            path,
            name,
            file,
            server,
        };
        bench.bulk(Operation::Write, "filling the file")?;
        Ok(bench)
    }

    /// Writes or checks the whole file over TCP.
    fn bulk(&mut self, operation: Operation, doing: &str) -> Result<(), String> {
        let (size, depth) = BULK;
        let size = u32::try_from(self.file.size).unwrap_or(size).min(size);
        let size = match operation {
            Operation::Read => size.min(self.tcp.max_inline_read()),
            Operation::Write => size.min(self.tcp.max_inline_write()),
        };
        if size == 0 {
            return Err(NO_DATA.to_owned());
        }
        let case = Case {
            operation,
            channel: Channel::None,
            size,
            depth,
            end: End::Bytes(self.file.size - self.file.size % u64::from(size)),
            verify: true,
        };
        let mut line = Line::new(doing.to_owned());
        let done = measure::run(&mut self.tcp, self.file, case, |bytes, time| {
            line.show(bytes, time)
        });
        line.clear();
        done.map(drop).map_err(|error| format!("{doing}: {error}"))
    }

    /// Measures all cases. Cases that are to be compared (same operation, size and depth) take turns, so that other
    /// work on the machine and the contents of its caches affect all of them alike.
    fn measure_all(&mut self, report: &mut Report) -> Result<(), String> {
        let mut direct = None;
        for group in self.groups() {
            let ways = self.ways(group.size);
            let mut rows: Vec<(Case, Vec<Sample>)> = Vec::new();
            rows.resize_with(ways.len(), || (group, Vec::new()));
            for round in 0..self.options.rounds {
                let mut order: Vec<usize> = (0..ways.len()).collect();
                // Reverse the order in every other round, so that no case is always first.
                if round % 2 == 1 {
                    order.reverse();
                }
                for at in order {
                    let (Some(way), Some((case, samples))) = (ways.get(at), rows.get_mut(at))
                    else {
                        continue;
                    };
                    case.channel = way.1;
                    samples.push(self.measure(way.0, case, round, &mut direct, report)?);
                }
            }
            for ((transport, _), (case, samples)) in ways.iter().zip(&rows) {
                report.add(*transport, (case, group.size), samples);
            }
        }
        match direct {
            Some((connection, _)) => self.leave(connection),
            None => Ok(()),
        }
    }

    /// Measures one case once. Reduces its size to what the connection can carry in one request.
    fn measure(
        &mut self,
        transport: Transport,
        case: &mut Case,
        round: u16,
        direct: &mut Option<(Connection, File)>,
        report: &mut Report,
    ) -> Result<Sample, String> {
        if transport == Transport::SmbDirect && direct.is_none() {
            // Connect only now: a connection that is not served is lost.
            let mut made = self.smb_direct()?;
            report.has_smb_direct(&mut made.0, !self.options.no_bind);
            *direct = Some(made);
        }
        let what = report::describe(transport, case);
        let (connection, file) = match (transport, direct.as_mut()) {
            (Transport::SmbDirect, Some((connection, file))) => (connection, *file),
            _ => (&mut self.tcp, self.file),
        };
        case.size = case.size.min(limit(connection, case));
        if case.size == 0 {
            return Err(NO_DATA.to_owned());
        }
        let mut line = Line::new(format!("{what}, round {}", round + 1));
        let before = self.server.used();
        let measured = measure::run(connection, file, *case, |bytes, time| {
            line.show(bytes, time)
        });
        let mut used = self.server.used().since(before);
        if transport == Transport::SmbDirect && self.options.no_bind {
            // Another smbd serves the other session, and it is not known which.
            used.smbd = None;
        }
        line.clear();
        let measured = measured.map_err(|error| format!("{what}: {error}"))?;
        if case.verify && case.operation == Operation::Write {
            self.bulk(Operation::Read, "checking what was written")?;
        }
        // Perhaps the SMB Direct connection was not served during that time, and the server has asked whether the
        // client is alive.
        if measured.time >= LONG_ROUND {
            if let Some((connection, _)) = direct.take() {
                self.leave(connection)?;
            }
        }
        Ok((measured, used))
    }

    /// Ends an SMB Direct connection.
    fn leave(&self, mut connection: Connection) -> Result<(), String> {
        if self.options.no_bind {
            connection.log_off().map_err(text)?;
        }
        Ok(())
    }

    /// Returns the cases that are measured in each of the [`ways`](Self::ways).
    fn groups(&self) -> Vec<Case> {
        let options = self.options;
        let mut groups = Vec::new();
        for operation in &options.operations {
            for size in &options.size {
                for depth in &options.depth {
                    groups.push(Case {
                        operation: *operation,
                        channel: Channel::None,
                        size: u32::try_from(*size).unwrap_or(u32::MAX),
                        depth: *depth,
                        end: options.end(),
                        verify: options.verify,
                    });
                }
            }
        }
        groups
    }

    /// Returns whether messages are encrypted, for the session or for this share.
    fn is_encrypted(&self) -> bool {
        self.tcp.is_tree_sealed(self.file.tree)
    }

    /// Returns whether servers refuse RDMA, because messages are signed or encrypted and no negotiated RDMA transform
    /// protects the data in the same way.
    fn in_messages_only(&self) -> bool {
        !self.tcp.may_place(self.file.tree)
    }

    /// Returns the transports and channels that may carry requests of this size.
    fn ways(&self, size: u32) -> Vec<(Transport, Channel)> {
        let mut ways = Vec::new();
        for transport in &self.options.transport {
            match transport {
                Transport::Tcp => ways.push((*transport, Channel::None)),
                Transport::SmbDirect => {
                    let channels = self.options.channels(size.into(), self.in_messages_only());
                    ways.extend(channels.into_iter().map(|channel| (*transport, channel)));
                }
            }
        }
        ways
    }

    /// Makes an SMB Direct connection, bound to the session or with its own session, and opens the file on it.
    fn smb_direct(&mut self) -> Result<(Connection, File), String> {
        let in_messages_only = self.in_messages_only();
        let channels = self.options.channels(u64::MAX, in_messages_only);
        let old = self.tcp.negotiated().dialect == Dialect::Smb300;
        if old && channels.contains(&Channel::RdmaV1Invalidate) {
            return Err("SMB 3.0 has no channel 2: use --channel 1".to_owned());
        }
        let places = channels.iter().any(|channel| *channel != Channel::None);
        if in_messages_only && places {
            return Err(refused_rdma());
        }
        let (address, is_assumed) = self.smb_direct_address()?;
        let mut config = self.tcp.config().clone();
        // All channels of a session must speak the same version.
        config.dialects = vec![self.tcp.negotiated().dialect];
        if self.options.no_bind {
            // To the server, this is a different client.
            getrandom::fill(&mut config.client_guid).map_err(|error| error.to_string())?;
        }
        let connected = Connection::smb_direct(address, config);
        let mut connection = connected.map_err(|error| match error {
            // Only if SMB Direct could not connect, another port may help.
            Error::ConnectSmbDirect { .. } if is_assumed => format!(
                "{error} The server announces no port: if SMB Direct has another, use --address HOST:PORT"
            ),
            error => text(error),
        })?;
        let has_device = connection.fabric() == Some(FabricKind::Verbs);
        if has_device && channels.contains(&Channel::RdmaV1Invalidate) {
            return Err(
                "an RDMA device does not let the server invalidate the memory of a program: use \
                 --channel 1, or --fabric software"
                    .to_owned(),
            );
        }
        if !self.options.no_bind {
            let bound = connection.bind(&self.tcp, &self.credentials);
            bound.map_err(|error| not_bound(&error))?;
            if places && !connection.may_place(self.file.tree) {
                return Err(refused_rdma());
            }
            return Ok((connection, self.file));
        }
        connection.log_in(&self.credentials).map_err(text)?;
        let tree = connection.tree_connect(&self.path).map_err(text)?;
        if places && !connection.may_place(tree) {
            return Err(refused_rdma());
        }
        let how = Create::file(Disposition::Open);
        let created = connection.create(tree, &self.name, &how);
        let created = created.map_err(|error| format!("{}\\{}: {error}", self.path, self.name))?;
        let file = File {
            tree,
            id: created.file,
            ..self.file
        };
        Ok((connection, file))
    }

    /// Returns the address that was given or that the server announces, and whether its port is only assumed.
    fn smb_direct_address(&mut self) -> Result<(SocketAddr, bool), String> {
        let fabric = self.options.fabric.0;
        let given = |address| self.server.port(address, fabric).unwrap_or(SMB_DIRECT_PORT);
        if let Some(address) = self.options.smb_direct_address(given)? {
            return Ok((address, false));
        }
        let advice = "give --address HOST:PORT, or have the server announce it (smbd: smb direct = yes, smbdirectd \
                      running, and \"interfaces\" of smb.conf, if it is set, with an address that smbdirectd serves)";
        let interfaces = match self.tcp.network_interfaces(self.file.tree) {
            Ok(interfaces) => interfaces,
            Err(Error::Status {
                status: NtStatus::NOT_SUPPORTED | NtStatus::INVALID_DEVICE_REQUEST,
                ..
            }) => {
                return Err(format!(
                    "the server does not say where it serves SMB Direct: {advice}"
                ));
            }
            Err(error) => return Err(text(error)),
        };
        let server = self.tcp.server().ip();
        let rdma = interfaces.iter().filter(|interface| interface.rdma);
        // Prefer the address that TCP goes to, or else one of the same family.
        let best = rdma.max_by_key(|interface| {
            let kind = interface.address.is_ipv4() == server.is_ipv4();
            (interface.address == server, kind, interface.speed)
        });
        match best {
            Some(interface) => {
                // The announcement has no port, but a device on this machine knows its own.
                let port = self.server.port(interface.address, fabric);
                let address = SocketAddr::new(interface.address, port.unwrap_or(SMB_DIRECT_PORT));
                Ok((address, port.is_none()))
            }
            None if self.in_messages_only() && (self.tcp.is_sealed() || self.tcp.is_signed()) => {
                Err(not_announced_to_protected())
            }
            None => Err(format!("the server does not announce SMB Direct: {advice}")),
        }
    }

    /// Closes the file, which deletes it.
    fn end(mut self) -> Result<(), String> {
        let (tree, id) = (self.file.tree, self.file.id);
        let closed = self.tcp.close(tree, id).map_err(|error| {
            format!(
                "{}\\{} could not be closed and deleted: {error}",
                self.path, self.name
            )
        });
        closed?;
        self.tcp.log_off().map_err(text)
    }
}

/// Explains why signed or encrypted data cannot go by RDMA.
fn refused_rdma() -> String {
    "the server has no RDMA transform that signs or encrypts the data, and refuses to move unprotected data by RDMA if \
     protection is required: use --channel 0 with --sign, --seal or --no-transforms, or if the server signs or encrypts"
        .to_owned()
}

/// Explains why a server does not announce SMB Direct to a session whose data cannot go by RDMA.
fn not_announced_to_protected() -> String {
    "the server does not announce SMB Direct to this session: smbd does not announce RDMA to sessions that sign or \
     encrypt all messages without RDMA transforms; give --address HOST:PORT to use SMB Direct with data in messages"
        .to_owned()
}

/// Explains why SMB Direct cannot become a channel of the TCP session. A denied access usually means missing rights,
/// but not here, because the session exists.
fn not_bound(error: &Error) -> String {
    let cause = match error {
        Error::Status { command, status } if *status == NtStatus::ACCESS_DENIED => {
            format!(
                "{command}: {status}: smbd refuses it if the whole server has smb encrypt = required"
            )
        }
        error => error.to_string(),
    };
    format!(
        "binding the SMB Direct channel to the session: {cause}; --no-bind uses a separate session for SMB Direct"
    )
}

/// Returns the longest request that a connection can carry, in bytes.
fn limit(connection: &Connection, case: &Case) -> u32 {
    match (case.channel, case.operation) {
        // A server announces only the longest message that it receives; the messages that it sends are not longer.
        (Channel::None, Operation::Read) => connection
            .max_inline_read()
            .min(connection.max_inline_write()),
        (Channel::None, Operation::Write) => connection.max_inline_write(),
        _ => connection.max_direct().unwrap_or(u32::MAX),
    }
}

fn text(error: Error) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use instruments::client::Command;

    #[test]
    fn the_advice_for_a_refused_bind_names_neither_permissions_nor_encryption() {
        let denied = not_bound(&Error::Status {
            command: Command::SESSION_SETUP,
            status: NtStatus::ACCESS_DENIED,
        });
        assert!(
            denied.contains("SESSION_SETUP: STATUS_ACCESS_DENIED: smbd refuses"),
            "{denied}"
        );
        assert!(denied.contains("; --no-bind uses"), "{denied}");
        for beside_the_point in ["--seal", "permissions"] {
            assert!(!denied.contains(beside_the_point), "{denied}");
        }
        let other = not_bound(&Error::Closed("peer".to_owned()));
        assert!(
            other.contains("the connection ended: peer; --no-bind"),
            "{other}"
        );
    }
}
