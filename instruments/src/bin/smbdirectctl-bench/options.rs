// SPDX-License-Identifier: GPL-2.0-or-later

//! The command line.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use instruments::client::{Channel, Config, Credentials, Dialect};
use serde::{Deserialize, Serialize};
use smbdirect::device::DEFAULT_PATH;
use smbdirect::fabric::FabricChoice;

use crate::report::Parameters;

/// The port of SMB over TCP.
const SMB_PORT: u16 = 445;
/// The port of SMB Direct over iWARP.
pub(crate) const SMB_DIRECT_PORT: u16 = 5445;

/// Requests up to this size are measured in messages, too, because an RDMA transfer takes more steps than a message.
const SMALL: u64 = 4096;

/// Measures how fast a share is read and written, over TCP and over SMB Direct
#[derive(Parser)]
#[command(
    name = "smbdirectctl bench",
    bin_name = "smbdirectctl bench",
    max_term_width = 100
)]
pub(crate) struct Options {
    /// The share
    #[arg(value_name = "//HOST[:PORT]/SHARE")]
    share: String,
    /// User and password (visible in the process list)
    #[arg(short = 'U', long, value_name = "[DOMAIN/]USER%PASSWORD")]
    user: Option<String>,
    /// A file with lines username = ..., password = ..., domain = ...
    #[arg(short = 'A', long, value_name = "FILE", conflicts_with = "user")]
    authentication_file: Option<PathBuf>,
    /// The transports to measure
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "tcp,smbdirect"
    )]
    pub(crate) transport: Vec<Transport>,
    /// Where SMB Direct is served; by default the address that the server announces, at the port that the device
    /// of this machine names, if the server is this machine, or else 5445
    #[arg(long, value_name = "HOST[:PORT]")]
    address: Option<String>,
    /// Path of smbdirectd's control socket, for a server on this machine
    #[arg(long, value_name = "PATH", default_value = DEFAULT_PATH)]
    pub(crate) control: PathBuf,
    /// What carries SMB Direct: software, verbs (an RDMA device), or auto: an RDMA device if one reaches the server
    #[arg(long, value_name = "FABRIC", default_value = "auto", value_parser = FabricChoice::from_str)]
    pub(crate) fabric: FabricChoice,
    /// A separate session for SMB Direct, instead of a channel of the session over TCP
    #[arg(long)]
    pub(crate) no_bind: bool,
    /// The operations to measure
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "write,read"
    )]
    pub(crate) operations: Vec<Operation>,
    /// Bytes of a request, with K, M or G for 1024 and its powers
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1M,64K,4K", value_parser = size)]
    pub(crate) size: Vec<u64>,
    /// Requests at a time
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,8", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) depth: Vec<u16>,
    /// How often each case is measured, in turn with the others of its operation, size and depth
    #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) rounds: u16,
    /// Seconds that a case takes in each round
    #[arg(long, value_name = "SECONDS", default_value = "1", conflicts_with = "bytes", value_parser = seconds)]
    seconds: Duration,
    /// Bytes that a case moves in each round, instead of a time
    #[arg(long, value_name = "BYTES", value_parser = size)]
    bytes: Option<u64>,
    /// How SMB Direct moves file data: 0 in messages, 1 by RDMA, 2 by RDMA with the memory invalidated by
    /// the server [default: 1, and 0 for requests of up to 4 KiB; 0 if messages are signed or encrypted and there is
    /// no RDMA transform for that]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = clap::value_parser!(u8).range(0..=2))]
    channel: Vec<u8>,
    /// Signs all messages
    #[arg(long)]
    sign: bool,
    /// Encrypts all messages
    #[arg(long)]
    seal: bool,
    /// Offers no RDMA transforms: data that is signed or encrypted goes in messages
    #[arg(long)]
    no_transforms: bool,
    /// The version of SMB; by default the newest that the server knows
    #[arg(long, value_name = "VERSION")]
    dialect: Option<Version>,
    /// Bytes of the temporary file
    #[arg(long, value_name = "BYTES", default_value = "256M", value_parser = size)]
    pub(crate) file_size: u64,
    /// Compares data that is read, or read back after writing, with the expected data (slower)
    #[arg(long)]
    pub(crate) verify: bool,
    /// Seconds that the server may take to answer
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    /// Prints the results as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Also writes the results to this file, as a page with graphs
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Compares the results with those of an earlier run with the same options, which --json printed
    #[arg(long, value_name = "FILE")]
    pub(crate) compare: Option<PathBuf>,
}

/// What carries requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Transport {
    Tcp,
    #[value(name = "smbdirect")]
    SmbDirect,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Operation {
    Read,
    Write,
}

impl Transport {
    /// Returns the name with which the transport is asked for.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::SmbDirect => "smbdirect",
        }
    }
}

impl Operation {
    /// Returns the name with which the operation is asked for.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// A version of SMB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Version {
    #[value(name = "3.0")]
    Smb300,
    #[value(name = "3.0.2")]
    Smb302,
    #[value(name = "3.1.1")]
    Smb311,
}

/// Says when a case ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    After(Duration),
    Bytes(u64),
}

/// The parts of the share's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) share: String,
}

impl Options {
    pub(crate) fn target(&self) -> Result<Target, String> {
        target(&self.share)
    }

    pub(crate) fn end(&self) -> End {
        self.bytes.map_or(End::After(self.seconds), End::Bytes)
    }

    /// Returns the ways in which SMB Direct moves the data of requests of this size.
    pub(crate) fn channels(&self, size: u64, in_messages_only: bool) -> Vec<Channel> {
        if self.channel.is_empty() && in_messages_only {
            return vec![Channel::None];
        }
        if self.channel.is_empty() {
            let in_messages = (size <= SMALL).then_some(Channel::None);
            return [Channel::RdmaV1].into_iter().chain(in_messages).collect();
        }
        let channels = self.channel.iter().map(|number| match number {
            0 => Channel::None,
            1 => Channel::RdmaV1,
            _ => Channel::RdmaV1Invalidate,
        });
        channels.collect()
    }

    /// Returns the address of SMB Direct, if the command line gives one; `port_at` returns its port if the command
    /// line does not.
    pub(crate) fn smb_direct_address(
        &self,
        port_at: impl FnOnce(IpAddr) -> u16,
    ) -> Result<Option<SocketAddr>, String> {
        let Some(address) = self.address.as_deref() else {
            return Ok(None);
        };
        let wrong = || format!("{address}: an address is HOST or HOST:PORT");
        // Nothing is served at port 0.
        let (host, port) = split_port(address, 0).ok_or_else(wrong)?;
        let mut found = resolve_host(&host, port)?;
        if port == 0 {
            found.set_port(port_at(found.ip()));
        }
        Ok(Some(found))
    }

    /// Returns what results have to have in common to be compared.
    pub(crate) fn parameters(&self) -> Parameters {
        Parameters {
            transport: self.transport.clone(),
            operations: self.operations.clone(),
            size: self.size.clone(),
            depth: self.depth.clone(),
            channel: self.channel.clone(),
            seconds: self.bytes.is_none().then_some(self.seconds.as_secs_f64()),
            bytes: self.bytes,
            file_size: self.file_size,
            verify: self.verify,
            no_bind: self.no_bind,
        }
    }

    /// Checks that the page can be written before anything is measured.
    pub(crate) fn check_page(&self) -> Result<(), String> {
        let Some(file) = &self.html else {
            return Ok(());
        };
        let shown = file.display();
        let directory = file.parent().filter(|it| !it.as_os_str().is_empty());
        if file.is_dir() {
            return Err(format!("--html: {shown} is a directory: name a file"));
        }
        if !directory.is_none_or(Path::is_dir) {
            return Err(format!("--html: {shown}: its directory does not exist"));
        }
        Ok(())
    }

    /// Returns the command line without the password.
    pub(crate) fn command(&self) -> String {
        let words = std::env::args_os().skip(1);
        let words = words.map(|word| self.without_password(&word.to_string_lossy()));
        let words: Vec<String> = words.map(|word| quoted(&word)).collect();
        format!("smbdirectctl bench {}", words.join(" "))
    }

    fn without_password(&self, word: &str) -> String {
        let Some(user) = &self.user else {
            return word.to_owned();
        };
        let name = user.split_once('%').map_or(user.as_str(), |(name, _)| name);
        // The user is a word of its own, or the end of one: -UUSER%PASSWORD, --user=USER%PASSWORD.
        match word.strip_suffix(user.as_str()) {
            Some(option) => format!("{option}{name}%..."),
            None => word.to_owned(),
        }
    }

    pub(crate) fn config(&self, client_guid: [u8; 16]) -> Config {
        let mut config = Config {
            sign: self.sign,
            seal: self.seal,
            timeout: Duration::from_secs(self.timeout),
            fabric: self.fabric.0,
            ..Config::new(client_guid)
        };
        if self.no_transforms {
            config.transforms.clear();
        }
        if let Some(version) = self.dialect {
            config.dialects = vec![match version {
                Version::Smb300 => Dialect::Smb300,
                Version::Smb302 => Dialect::Smb302,
                Version::Smb311 => Dialect::Smb311,
            }];
        }
        config
    }

    pub(crate) fn credentials(&self) -> Result<Credentials, String> {
        let missing = "no user: give -U USER%PASSWORD or --authentication-file FILE";
        match (&self.user, &self.authentication_file) {
            (Some(user), _) => from_user(user),
            (None, Some(file)) => from_file(file),
            (None, None) => Err(missing.to_owned()),
        }
    }
}

fn target(share: &str) -> Result<Target, String> {
    let wrong = || format!("{share}: a share is //HOST/SHARE or //HOST:PORT/SHARE");
    let slashes = share.replace('\\', "/");
    let rest = slashes.strip_prefix("//").ok_or_else(wrong)?;
    let (server, share) = rest.split_once('/').ok_or_else(wrong)?;
    let share = share.trim_end_matches('/');
    if server.is_empty() || share.is_empty() || share.contains('/') {
        return Err(wrong());
    }
    let (host, port) = split_port(server, SMB_PORT).ok_or_else(wrong)?;
    Ok(Target {
        host,
        port,
        share: share.to_owned(),
    })
}

/// Splits a server into name or address, and port. An IPv6 address with a port is in brackets.
fn split_port(server: &str, default: u16) -> Option<(String, u16)> {
    if let Some(rest) = server.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        let port = match rest.strip_prefix(':') {
            Some(port) => port.parse().ok()?,
            None if rest.is_empty() => default,
            None => return None,
        };
        return Some((host.to_owned(), port));
    }
    match server.split_once(':') {
        Some((host, port)) if !port.contains(':') => Some((host.to_owned(), port.parse().ok()?)),
        _ => Some((server.to_owned(), default)),
    }
}

pub(crate) fn resolve_host(host: &str, port: u16) -> Result<SocketAddr, String> {
    let mut found = (host, port)
        .to_socket_addrs()
        .map_err(|error| format!("{host}: {error}"))?;
    found.next().ok_or_else(|| format!("{host} has no address"))
}

/// Quotes a word for the shell, if it needs that.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "%+,-./:=@_[]".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Parses `USER%PASSWORD`, optionally preceded by `DOMAIN/` or `DOMAIN\`.
fn from_user(text: &str) -> Result<Credentials, String> {
    let (name, password) = text
        .split_once('%')
        .ok_or("-U: the password is missing: give USER%PASSWORD, or use --authentication-file")?;
    let (domain, user) = name.split_once(['/', '\\']).unwrap_or(("", name));
    Ok(Credentials {
        user: user.to_owned(),
        password: password.to_owned(),
        domain: domain.to_owned(),
    })
}

/// Parses a file with the same lines as smbclient's: `username = …`, `password = …`, `domain = …`.
fn from_file(path: &Path) -> Result<Credentials, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| format!("{shown}: {error}"))?;
    let value = |name: &str| {
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        let mut values = pairs.filter(|(key, _)| key.trim().eq_ignore_ascii_case(name));
        values.next().map(|(_, value)| value.trim().to_owned())
    };
    let missing = |name: &str| format!("{shown}: the line {name} = ... is missing");
    Ok(Credentials {
        user: value("username").ok_or_else(|| missing("username"))?,
        password: value("password").ok_or_else(|| missing("password"))?,
        domain: value("domain").unwrap_or_default(),
    })
}

/// Parses seconds, which may have a fraction.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: Option<f64> = text.parse().ok();
    let seconds = seconds.filter(|seconds| (0.01..=86_400.0).contains(seconds));
    let duration = seconds.map(Duration::from_secs_f64);
    duration.ok_or_else(|| format!("{text}: must be a number of seconds from 0.01 to 86400"))
}

/// Parses bytes, with a unit of 1024 or its powers.
fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text}: a size is a number above 0, optionally with K, M or G");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text.split_at(digits.len()).1.to_ascii_uppercase().as_str() {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let bytes = number
        .checked_mul(1 << shift)
        .filter(|bytes| *bytes > 0 && *bytes < 1 << 44);
    bytes.ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_host_port_and_name() {
        let of = |host: &str, port, share: &str| {
            Ok(Target {
                host: host.to_owned(),
                port,
                share: share.to_owned(),
            })
        };
        assert_eq!(target("//server/share"), of("server", 445, "share"));
        assert_eq!(target(r"\\server\share\"), of("server", 445, "share"));
        assert_eq!(target("//127.0.0.1:1445/a b"), of("127.0.0.1", 1445, "a b"));
        assert_eq!(target("//[::1]:1445/x"), of("::1", 1445, "x"));
        assert_eq!(target("//::1/x"), of("::1", 445, "x"));
        for wrong in [
            "server/share",
            "//server",
            "//server/",
            "///x",
            "//h:p/x",
            "//h/a/b",
            "//[::1/x",
        ] {
            assert!(target(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_address_without_a_port_gets_the_one_that_is_found() {
        let address = |address: &str| {
            let options = Options::parse_from(["bench", "//server/share", "--address", address]);
            options.smb_direct_address(|ip| if ip.is_loopback() { 7001 } else { 7002 })
        };
        for (given, expected) in [
            ("127.0.0.1", "127.0.0.1:7001"),
            ("10.0.0.1", "10.0.0.1:7002"),
            ("127.0.0.1:445", "127.0.0.1:445"),
            ("[::1]", "[::1]:7001"),
            ("[::1]:445", "[::1]:445"),
        ] {
            assert_eq!(address(given), Ok(expected.parse().ok()), "{given}");
        }
        assert!(address("127.0.0.1:port").is_err());
        let none = Options::parse_from(["bench", "//server/share"]);
        assert_eq!(none.smb_direct_address(|_| 1), Ok(None));
    }

    #[test]
    fn the_command_line_is_shown_without_its_password() {
        for words in [
            &["-U", "DOM/me%se%cret"][..],
            &["-UDOM/me%se%cret"],
            &["--user=DOM/me%se%cret"],
            &["--user", "DOM/me%se%cret"],
        ] {
            let line = [&["bench", "//server/share"], words].concat();
            let options = Options::parse_from(line);
            let shown: Vec<String> = words
                .iter()
                .map(|word| options.without_password(word))
                .collect();
            let shown = shown.join(" ");
            assert!(shown.ends_with("DOM/me%..."), "{shown}");
            assert!(!shown.contains("cret"), "{shown}");
        }
        let file = Options::parse_from(["bench", "//server/share", "-A", "file"]);
        assert_eq!(file.without_password("-A"), "-A");
    }

    #[test]
    fn words_are_quoted_for_the_shell_if_they_need_it() {
        for (word, expected) in [
            ("--size=4K,1M", "--size=4K,1M"),
            ("//h:445/s", "//h:445/s"),
            ("a b", "'a b'"),
            ("$(id)", "'$(id)'"),
            ("it's", r"'it'\''s'"),
            ("", "''"),
        ] {
            assert_eq!(quoted(word), expected);
        }
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("4K"), Ok(4096));
        assert_eq!(size("1m"), Ok(1 << 20));
        assert_eq!(size("512"), Ok(512));
        for wrong in ["", "K", "0", "1T", "-1", "1.5M", "99999999G"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn seconds_may_have_a_fraction() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(seconds("10"), Ok(Duration::from_secs(10)));
        for wrong in ["", "0", "-1", "nan", "inf", "1e9", "5s"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_user_may_have_a_domain_and_must_have_a_password() {
        let found = from_user(r"DOM\me%a%b").expect("whole");
        assert_eq!((found.domain.as_str(), found.user.as_str()), ("DOM", "me"));
        assert_eq!(found.password, "a%b");
        assert!(from_user("me").is_err());
    }
}
