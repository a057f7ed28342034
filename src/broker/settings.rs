// SPDX-License-Identifier: GPL-2.0-or-later

//! The configuration file of `smbdirectd`: TOML, smbdirectd.toml(5).
//!
//! Keys that the file leaves out have the values of [`Config::default`]. [`Settings::to_toml`] writes a
//! file with all keys, which parses to the same settings.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use toml::de::{DeTable, DeValue};

use super::config::{Config, Listen, METRICS_PORT, OutOfRange, PAGE, PORT};
use super::log::{LogFormat, log_filter};
use super::quantity::{Length, Size, Speed, Time};
use super::suggest::nearest;
use crate::device::abi::{MemParams, RegionShape};
use crate::fabric::{FabricChoice, FabricKind, NoFabric};
use crate::proto;
use crate::units::Credits;

#[cfg(test)]
mod tests;

/// The contents of a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The configuration of the broker.
    pub broker: Config,
    /// Which messages are logged, in the syntax of `tracing_subscriber::EnvFilter`.
    pub log: String,
    /// The form of the lines of the log.
    pub log_format: LogFormat,
    /// Whether iWARP asks its peers for CRCs (MPA, RFC 5044); they are used if either side asks for them.
    pub crc: bool,
}

impl Default for Settings {
    /// Logs at level `info`, and does not ask for CRCs.
    fn default() -> Self {
        Self {
            broker: Config::default(),
            log: "info".to_owned(),
            log_format: LogFormat::Text,
            crc: false,
        }
    }
}

/// What is wrong with a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The file is not TOML, a key is unknown, or a value is of another type.
    #[error("line {line} (`{text}`): {message}")]
    Syntax {
        /// The number of the line, counted from 1.
        line: usize,
        /// The text of that line.
        text: String,
        /// What is wrong in it, and what is allowed.
        message: String,
    },
    /// A value is out of range.
    #[error("line {line}: {error}")]
    OutOfRange {
        /// The number of the line with its key, counted from 1.
        line: usize,
        /// Which value is out of range, and what is allowed.
        error: OutOfRange,
    },
    /// A default is out of range because of values in the file.
    #[error("{0}")]
    Default(OutOfRange),
    /// The file is longer than [`Settings::LONGEST_FILE`].
    #[error("the file is longer than {} MiB, so it is not a configuration of smbdirectd", Settings::LONGEST_FILE >> 20)]
    TooLong,
    /// The file is not UTF-8.
    #[error("line {line}: this is not text in UTF-8")]
    NotText {
        /// The number of the line, counted from 1.
        line: usize,
    },
}

impl Settings {
    /// Length of the longest configuration file, in bytes: many times what all keys with all addresses need.
    pub const LONGEST_FILE: usize = 1 << 20;

    /// Reads the bytes of a configuration file, as [`parse`](Self::parse) does. A caller need not read more than one
    /// byte beyond [`LONGEST_FILE`](Self::LONGEST_FILE).
    ///
    /// # Errors
    ///
    /// Those of [`parse`](Self::parse). [`SettingsError::TooLong`], [`SettingsError::NotText`].
    pub fn parse_file(bytes: &[u8]) -> Result<Self, SettingsError> {
        if bytes.len() > Self::LONGEST_FILE {
            return Err(SettingsError::TooLong);
        }
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let text = bytes.iter().take(error.valid_up_to());
            let line = 1 + text.filter(|byte| **byte == b'\n').count();
            SettingsError::NotText { line }
        })?;
        Self::parse(text)
    }

    /// Reads the text of a configuration file and checks all values.
    ///
    /// # Errors
    ///
    /// The first error, with its line.
    pub fn parse(text: &str) -> Result<Self, SettingsError> {
        let settings = Self::parse_unchecked(text)?;
        settings
            .validate()
            .map_err(|error| match line_of_key(text, &error.key) {
                Some(line) => SettingsError::OutOfRange { line, error },
                None => SettingsError::Default(error),
            })?;
        Ok(settings)
    }

    /// Checks all values.
    ///
    /// # Errors
    ///
    /// The error names the first value that is out of range, and what is allowed.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        log_filter(&self.log).map_err(|allowed| OutOfRange {
            key: "log".to_owned(),
            value: format!("\"{}\"", self.log),
            allowed,
        })?;
        self.broker.validate()
    }

    /// Returns all settings, including defaults, as a configuration file.
    #[must_use]
    pub fn to_toml(&self) -> String {
        // Writing can fail only for numbers that TOML cannot hold, and those are out of range.
        toml::to_string(&File::from(self)).unwrap_or_else(|error| format!("# {error}\n"))
    }

    fn parse_unchecked(text: &str) -> Result<Self, SettingsError> {
        let file: File = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let (line, shown) = line_at(text, at);
            SettingsError::Syntax {
                line,
                text: shown.trim().to_owned(),
                message: without_unit(error.message(), shown)
                    .unwrap_or_else(|| plain(error.message())),
            }
        })?;
        Ok(file.into())
    }
}

/// Returns the message about a time that is a whole number without a unit, in a line such as `login_timeout = 5`;
/// `None` if something else is wrong.
fn without_unit(message: &str, line: &str) -> Option<String> {
    let rest = message.strip_prefix("invalid type: integer `")?;
    let (number, expected) = rest.split_once("`, expected ")?;
    let (key, value) = line.split_once('=')?;
    let is_time = expected.starts_with("a time ") && value.trim_start().starts_with(number);
    if !is_time || number.starts_with('-') {
        return None;
    }
    let key = key.trim();
    let unit = match key {
        "busy_poll" => "us",
        _ => "s",
    };
    Some(format!(
        "{key} is {number}, and must be a time with its unit, such as \"{number} {unit}\""
    ))
}

/// Rewrites a message of the TOML parser for people who write configuration files.
fn plain(message: &str) -> String {
    if let Some((key, known)) = unknown_key(message) {
        let all = || known.join(", ");
        return match nearest(key, &known) {
            Some(meant) => format!("unknown key {key}: did you mean {meant}?"),
            None => format!("unknown key {key}: the valid keys here are {}", all()),
        };
    }
    let is_about_types = message.starts_with("invalid ");
    let parts = message
        .rsplit_once(", expected ")
        .filter(|_| is_about_types);
    let Some((found, expected)) = parts else {
        return message.to_owned();
    };
    let expected = match expected {
        "usize" | "u64" | "u32" | "u16" | "u8" => "a whole number, without quotes",
        "a sequence" => "a list, such as [\"10.0.0.1\"]",
        "a string" | "path string" => "a quoted string",
        "a boolean" => "true or false",
        other if other.starts_with("struct ") => "a table",
        other => other,
    };
    format!("{found}, and must be {expected}")
}

/// Returns the unknown key and the valid keys in a message such as "unknown field `a`, expected one of `b`, `c`".
fn unknown_key(message: &str) -> Option<(&str, Vec<&str>)> {
    let rest = message.strip_prefix("unknown field `")?;
    let (key, rest) = rest.split_once('`')?;
    Some((key, rest.split('`').skip(1).step_by(2).collect()))
}

/// Parses an address to listen on; `port` is its port if the text does not name one.
fn parse_address(text: &str, port: u16) -> Result<SocketAddr, NoAddress> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let without_port = bare.unwrap_or(text).parse::<IpAddr>();
    match without_port {
        Ok(address) => Ok((address, port).into()),
        Err(_) => text.parse().map_err(|_| NoAddress(text.to_owned())),
    }
}

impl FromStr for Listen {
    type Err = NoAddress;

    /// Parses an address, with the port of SMB Direct if the text does not name one: `10.0.0.1`, `[::]:5445`.
    fn from_str(text: &str) -> Result<Self, NoAddress> {
        parse_address(text, PORT).map(Self::from)
    }
}

/// An error: the text is not an address to listen on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\": an address is numeric, with or without a port: \"0.0.0.0:5445\", \"[::]:5445\", \"10.0.0.1\""
)]
pub struct NoAddress(String);

/// Returns the line of the byte at `offset`, counted from 1, and its text.
fn line_at(text: &str, offset: usize) -> (usize, &str) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count();
    (line + 1, text.lines().nth(line).unwrap_or_default())
}

/// Returns the line of a key such as `memory.bulk.longest_run`; `None` if the file does not have that key.
fn line_of_key(text: &str, key: &str) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let mut table = document.get_ref();
    let mut parts = key.split('.').peekable();
    while let Some(part) = parts.next() {
        let (name, value) = table.iter().find(|(name, _)| name.get_ref() == part)?;
        if parts.peek().is_none() {
            return Some(line_at(text, name.span().start).0);
        }
        let DeValue::Table(inner) = value.get_ref() else {
            return None;
        };
        table = inner;
    }
    None
}

/// The file as it is written on disk.
#[derive(Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    log: String,
    log_format: Format,
    fabric: Fabric,
    listen: Vec<ListenAt>,
    control: PathBuf,
    status_group: String,
    reactors: usize,
    busy_poll: Time,
    max_connections: usize,
    max_unnegotiated: usize,
    max_unnegotiated_per_source: usize,
    max_unauthenticated: usize,
    max_undispatched: usize,
    gateways: Vec<Gateway>,
    first_request_timeout: Time,
    login_timeout: Time,
    claim_timeout: Time,
    progress_timeout: Time,
    max_workers: usize,
    max_sessions: usize,
    memory_limit: Size,
    memory_idle_timeout: Time,
    queue_depth: u32,
    drain_timeout: Time,
    metrics: Metrics,
    iwarp: Iwarp,
    acceptor: Acceptor,
    memory: Memory,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
struct Address(SocketAddr);

/// An address of `gateways`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
struct Gateway(IpAddr);

impl TryFrom<String> for Gateway {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| {
            format!(
                "\"{text}\": a gateway is a numeric address without a port, \"192.0.2.1\"; networks and names \
                 cannot be given"
            )
        })
    }
}

impl From<Gateway> for String {
    fn from(gateway: Gateway) -> Self {
        gateway.0.to_string()
    }
}

/// An address alone, or a table with an address and more.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
enum ListenAt {
    Address(Address),
    Table(ListenTable),
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct ListenTable {
    address: Address,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    link_speed: Option<Speed>,
    #[serde(default, skip_serializing_if = "Fabric::is_auto")]
    fabric: Fabric,
}

/// The value of `fabric`, which is `auto` if no fabric is chosen.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
struct Fabric(Option<FabricKind>);

impl Fabric {
    const fn is_auto(&self) -> bool {
        self.0.is_none()
    }
}

impl TryFrom<String> for Fabric {
    type Error = NoFabric;

    fn try_from(text: String) -> Result<Self, NoFabric> {
        let FabricChoice(kind) = text.parse()?;
        Ok(Self(kind))
    }
}

impl From<Fabric> for String {
    fn from(fabric: Fabric) -> Self {
        FabricChoice(fabric.0).to_string()
    }
}

/// The value of `log_format`.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
struct Format(LogFormat);

impl TryFrom<String> for Format {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "text" => Ok(Self(LogFormat::Text)),
            "json" => Ok(Self(LogFormat::Json)),
            _ => Err(format!(
                "\"{text}\": the log format is \"text\" or \"json\""
            )),
        }
    }
}

impl From<Format> for String {
    fn from(Format(format): Format) -> Self {
        match format {
            LogFormat::Text => "text".to_owned(),
            LogFormat::Json => "json".to_owned(),
        }
    }
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Metrics {
    listen: MetricsAddress,
    /// An empty path stands for none.
    socket: PathBuf,
}

/// The address of the metrics; an empty string stands for none.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
struct MetricsAddress(Option<SocketAddr>);

impl TryFrom<String> for MetricsAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let address = parse_address(&text, METRICS_PORT);
        address.map(|address| Self(Some(address))).map_err(|_| {
            format!(
                "\"{text}\": the address of the metrics is numeric, with or without a port: \"127.0.0.1:{METRICS_PORT}\", \
                 \"[::1]:{METRICS_PORT}\", or empty"
            )
        })
    }
}

impl From<MetricsAddress> for String {
    fn from(MetricsAddress(address): MetricsAddress) -> Self {
        address.map_or_else(Self::new, |address| address.to_string())
    }
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Iwarp {
    crc: bool,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Acceptor {
    receive_credit_max: u16,
    send_credit_target: u16,
    max_send_size: Length,
    max_receive_size: Length,
    max_fragmented_size: Length,
    max_read_write_size: Length,
    negotiation_timeout: Time,
    idle_timeout: Time,
    keepalive_timeout: Time,
    credit_timeout: Time,
    message_timeout: Time,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Memory {
    limit: Size,
    send: Region,
    bulk: Region,
    receive: Region,
}

/// A region's table. Keys that the file leaves out have the defaults of the region, which differ between regions.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Region {
    unit_length: Option<Length>,
    units_per_segment: Option<u32>,
    longest_run: Option<u32>,
    max_segments: Option<u32>,
}

impl Default for File {
    fn default() -> Self {
        let mut file = Self::from(&Settings::default());
        file.memory = Memory::default();
        file
    }
}

impl Default for Acceptor {
    fn default() -> Self {
        (&Config::default().acceptor).into()
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            limit: Size(Config::default().memory.limit),
            send: Region::default(),
            bulk: Region::default(),
            receive: Region::default(),
        }
    }
}

impl TryFrom<String> for Address {
    type Error = NoAddress;

    fn try_from(text: String) -> Result<Self, NoAddress> {
        parse_address(&text, PORT).map(Self)
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.0.to_string()
    }
}

/// Written by hand, because a derived untagged enumeration would not say what is wrong within a table.
impl<'de> Deserialize<'de> for ListenAt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListenVisitor;

        impl<'de> Visitor<'de> for ListenVisitor {
            type Value = ListenAt;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address, or a table with address, link_speed and fabric")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<ListenAt, E> {
                let address = parse_address(text, PORT).map_err(E::custom)?;
                Ok(ListenAt::Address(Address(address)))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ListenAt, A::Error> {
                let table = ListenTable::deserialize(MapAccessDeserializer::new(map))?;
                Ok(ListenAt::Table(table))
            }
        }

        deserializer.deserialize_any(ListenVisitor)
    }
}

impl From<Listen> for ListenAt {
    fn from(listen: Listen) -> Self {
        let address = Address(listen.address);
        match (listen.link_speed.map(Speed), Fabric(listen.fabric)) {
            (None, Fabric(None)) => Self::Address(address),
            (link_speed, fabric) => Self::Table(ListenTable {
                address,
                link_speed,
                fabric,
            }),
        }
    }
}

impl From<ListenAt> for Listen {
    fn from(at: ListenAt) -> Self {
        match at {
            ListenAt::Address(address) => address.0.into(),
            ListenAt::Table(table) => Self {
                address: table.address.0,
                link_speed: table.link_speed.map(|speed| speed.0),
                fabric: table.fabric.0,
            },
        }
    }
}

impl From<&Settings> for File {
    fn from(settings: &Settings) -> Self {
        let broker = &settings.broker;
        Self {
            log: settings.log.clone(),
            log_format: Format(settings.log_format),
            listen: broker.listen.iter().copied().map(ListenAt::from).collect(),
            fabric: Fabric(broker.fabric),
            control: broker.control.clone(),
            status_group: broker.status_group.clone(),
            reactors: broker.reactors,
            busy_poll: Time(broker.busy_poll),
            max_connections: broker.max_connections,
            max_unnegotiated: broker.max_unnegotiated,
            max_unnegotiated_per_source: broker.max_unnegotiated_per_source,
            max_unauthenticated: broker.max_unauthenticated,
            max_undispatched: broker.max_undispatched,
            gateways: broker.gateways.iter().copied().map(Gateway).collect(),
            first_request_timeout: Time(broker.first_request_timeout),
            login_timeout: Time(broker.login_timeout),
            claim_timeout: Time(broker.claim_timeout),
            progress_timeout: Time(broker.progress_timeout),
            max_workers: broker.max_workers,
            max_sessions: broker.max_sessions,
            memory_limit: Size(broker.memory_limit),
            memory_idle_timeout: Time(broker.memory_idle_timeout),
            queue_depth: broker.queue_depth,
            drain_timeout: Time(broker.drain_timeout),
            metrics: Metrics {
                listen: MetricsAddress(broker.metrics),
                socket: broker.metrics_socket.clone().unwrap_or_default(),
            },
            iwarp: Iwarp { crc: settings.crc },
            acceptor: (&broker.acceptor).into(),
            memory: (&broker.memory).into(),
        }
    }
}

impl From<File> for Settings {
    fn from(file: File) -> Self {
        let socket = file.metrics.socket;
        let broker = Config {
            listen: file.listen.into_iter().map(Listen::from).collect(),
            fabric: file.fabric.0,
            control: file.control,
            status_group: file.status_group,
            metrics: file.metrics.listen.0,
            metrics_socket: (!socket.as_os_str().is_empty()).then_some(socket),
            reactors: file.reactors,
            busy_poll: file.busy_poll.0,
            acceptor: (&file.acceptor).into(),
            max_connections: file.max_connections,
            max_unnegotiated: file.max_unnegotiated,
            max_unnegotiated_per_source: file.max_unnegotiated_per_source,
            max_unauthenticated: file.max_unauthenticated,
            max_undispatched: file.max_undispatched,
            gateways: file.gateways.into_iter().map(|gateway| gateway.0).collect(),
            first_request_timeout: file.first_request_timeout.0,
            login_timeout: file.login_timeout.0,
            claim_timeout: file.claim_timeout.0,
            progress_timeout: file.progress_timeout.0,
            max_workers: file.max_workers,
            max_sessions: file.max_sessions,
            memory: file.memory.for_connections(&file.acceptor),
            memory_limit: file.memory_limit.0,
            memory_idle_timeout: file.memory_idle_timeout.0,
            queue_depth: file.queue_depth,
            drain_timeout: file.drain_timeout.0,
            // The service manager decides this, not the file.
            keep_connections: false,
        };
        Self {
            broker,
            log: file.log,
            log_format: file.log_format.0,
            crc: file.iwarp.crc,
        }
    }
}

impl From<&proto::Config> for Acceptor {
    fn from(config: &proto::Config) -> Self {
        Self {
            receive_credit_max: config.receive_credit_max.0,
            send_credit_target: config.send_credit_target.0,
            max_send_size: Length(config.max_send_size),
            max_receive_size: Length(config.max_receive_size),
            max_fragmented_size: Length(config.max_fragmented_size),
            max_read_write_size: Length(config.max_read_write_size),
            negotiation_timeout: Time(config.negotiation_timeout),
            idle_timeout: Time(config.idle_timeout),
            keepalive_timeout: Time(config.keepalive_timeout),
            credit_timeout: Time(config.credit_timeout),
            message_timeout: Time(config.message_timeout),
        }
    }
}

impl From<&Acceptor> for proto::Config {
    fn from(acceptor: &Acceptor) -> Self {
        Self {
            receive_credit_max: Credits(acceptor.receive_credit_max),
            send_credit_target: Credits(acceptor.send_credit_target),
            max_send_size: acceptor.max_send_size.0,
            max_receive_size: acceptor.max_receive_size.0,
            max_fragmented_size: acceptor.max_fragmented_size.0,
            max_read_write_size: acceptor.max_read_write_size.0,
            negotiation_timeout: acceptor.negotiation_timeout.0,
            idle_timeout: acceptor.idle_timeout.0,
            keepalive_timeout: acceptor.keepalive_timeout.0,
            credit_timeout: acceptor.credit_timeout.0,
            message_timeout: acceptor.message_timeout.0,
        }
    }
}

impl From<&MemParams> for Memory {
    fn from(memory: &MemParams) -> Self {
        let region = |shape: &RegionShape| Region {
            unit_length: Some(Length(shape.unit_length)),
            units_per_segment: Some(shape.units_per_segment),
            longest_run: Some(shape.longest_run),
            max_segments: Some(shape.max_segments),
        };
        Self {
            limit: Size(memory.limit),
            send: region(&memory.send),
            bulk: region(&memory.bulk),
            receive: region(&memory.receive),
        }
    }
}

impl Memory {
    /// Fills in the keys that the file leaves out, as `acceptor` needs them.
    fn for_connections(self, acceptor: &Acceptor) -> MemParams {
        let default = Config::default().memory;
        let message = acceptor.max_fragmented_size.0;
        let transfer = acceptor.max_read_write_size.0;
        MemParams {
            send: self.send.or(default.send, message),
            bulk: self.bulk.or(default.bulk, transfer),
            receive: self.receive.or(default.receive, message),
            limit: self.limit.0,
            reserved: 0,
        }
    }
}

impl Region {
    /// Fills in the keys that the file leaves out from `default`. If the file sets neither `unit_length` nor
    /// `longest_run`, units become long enough for the longest buffer, which is at most a segment, to hold `longest`
    /// bytes.
    fn or(self, default: RegionShape, longest: u32) -> RegionShape {
        let units_per_segment = self.units_per_segment.unwrap_or(default.units_per_segment);
        let by_default = default.longest_run.min(units_per_segment.max(1));
        let longest_run = self.longest_run.unwrap_or(by_default);
        let unit_length = match (self.unit_length, self.longest_run) {
            (Some(length), _) => length.0,
            (None, Some(_)) => default.unit_length,
            (None, None) => {
                let needed = longest.div_ceil(longest_run);
                let pages = needed.checked_next_multiple_of(PAGE).unwrap_or(needed);
                default.unit_length.max(pages)
            }
        };
        RegionShape {
            unit_length,
            units_per_segment,
            longest_run,
            max_segments: self.max_segments.unwrap_or(default.max_segments),
        }
    }
}
