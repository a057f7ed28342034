// SPDX-License-Identifier: GPL-2.0-or-later

//! The configuration of a broker.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::Group;

use super::machine;
use super::quantity::{Size, Speed, Time};
use crate::device;
use crate::device::abi::{MemParams, RegionShape};
use crate::engine::admission::Limits;
use crate::engine::memory::Reserve;
use crate::fabric::{FabricKind, Source};
use crate::proto::{self, ConfigError};
use crate::shm::buffers::Shape;

#[cfg(test)]
mod tests;

/// The port of SMB Direct over iWARP ([MS-SMBD] 2.1).
pub const PORT: u16 = 5445;

/// The port of the metrics if the configuration names only their address.
pub const METRICS_PORT: u16 = 9445;

/// The configuration of a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The addresses on which the broker accepts SMB Direct: 1 to 64; port 0 stands for a free port.
    pub listen: Vec<Listen>,
    /// The fabric of those addresses in `listen` that do not name a fabric. With `None`, RDMA devices serve their own
    /// addresses, and software serves the others.
    pub fabric: Option<FabricKind>,
    /// Path of the control socket: absolute, and at most 100 bytes long. The status socket is beside it
    /// ([`device::status_path`]).
    pub control: PathBuf,
    /// Name or number of the group whose members may ask for the status, and for the metrics at `metrics_socket`; if it
    /// is empty, the broker's own group.
    pub status_group: String,
    /// The loopback address on which Prometheus gets the metrics by HTTP; port 0 stands for a free port. With `None`,
    /// the metrics are not served.
    pub metrics: Option<SocketAddr>,
    /// Path of the socket on which members of `status_group` get the metrics by HTTP: absolute, and at most 100 bytes
    /// long. With `None`, there is no such socket.
    pub metrics_socket: Option<PathBuf>,
    /// Number of reactor threads: 1 to 64.
    pub reactors: usize,
    /// How long a reactor polls for work before it sleeps: up to 10 ms; with zero it does not poll.
    pub busy_poll: Duration,
    /// The values with which this side negotiates accepted connections.
    pub acceptor: proto::Config,
    /// Maximum number of connections at a time, of all reactors together: 1 to 65,536. One source (an IPv4 address, or
    /// a /64 of IPv6) may have a quarter of this number, and of `max_unauthenticated` and `max_undispatched`, unless
    /// the source is one of `gateways`.
    pub max_connections: usize,
    /// Maximum number of a reactor's connections that have not negotiated: 1 to 65,536.
    pub max_unnegotiated: usize,
    /// Maximum number of one source's connections in a reactor that have not negotiated.
    pub max_unnegotiated_per_source: usize,
    /// Maximum number of connections without a session, of all reactors together: 1 to 65,536. If there are more, the
    /// source with the largest number of them loses its oldest such connection.
    pub max_unauthenticated: usize,
    /// Maximum number of connections that are offered to the listener at a time; others wait. 1 to 65,536.
    pub max_undispatched: usize,
    /// Addresses that many clients share, at most 1024. An IPv6 address stands for its /64.
    pub gateways: Vec<IpAddr>,
    /// Time within which a client must send its first request after it has negotiated SMB Direct: 1 ms to 1 h.
    pub first_request_timeout: Duration,
    /// Time within which a client must log in after it has negotiated SMB Direct: 1 ms to 1 h.
    pub login_timeout: Duration,
    /// Time within which an offered connection must be claimed: 1 ms to 1 h.
    pub claim_timeout: Duration,
    /// Time after which a connection ends if its client takes none of the data sent to it, or answers no RDMA READ: 1
    /// ms to 1 h.
    pub progress_timeout: Duration,
    /// Maximum number of workers attached at a time, not counting those that attached with the token of a connection: 1
    /// to 65,536.
    pub max_workers: usize,
    /// Maximum number of sessions and client GUIDs that one worker may register: 1 to 65,536.
    pub max_sessions: usize,
    /// Each worker's memory. A RECEIVE or SEND buffer holds the largest message of `acceptor`, and a BULK buffer holds
    /// the largest RDMA transfer.
    pub memory: MemParams,
    /// Maximum number of bytes of memory of all workers together, at least [`Config::least_memory`].
    pub memory_limit: u64,
    /// Time after which memory that a worker does not use is taken back; the worker may keep the memory for twice this
    /// time. 10 ms to 1 h.
    pub memory_idle_timeout: Duration,
    /// Number of entries of a submission ring, and of a completion ring: a power of two, 16 to 65,536.
    pub queue_depth: u32,
    /// Time that connections get to finish what is under way when the broker is stopped, up to 1 h.
    pub drain_timeout: Duration,
    /// Whether the broker may be asked to [keep](super::Broker::keep) its connections for the broker that takes its
    /// place. If so, it holds a descriptor of each memory file of a worker.
    pub keep_connections: bool,
}

/// An address on which a broker accepts SMB Direct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The address and port; an unspecified address stands for all addresses of its family.
    pub address: SocketAddr,
    /// The network's speed, as it is announced to clients, in bits per second: 1 Mbit/s to 100 Tbit/s. With `None`, the
    /// speed that the system reports is announced.
    pub link_speed: Option<u64>,
    /// The fabric that serves the address; with `None`, [`Config::fabric`] decides.
    pub fabric: Option<FabricKind>,
}

impl From<SocketAddr> for Listen {
    fn from(address: SocketAddr) -> Self {
        Self {
            address,
            link_speed: None,
            fabric: None,
        }
    }
}

/// A value of a [`Config`] that is out of range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} is {value}, and must be {allowed}")]
pub struct OutOfRange {
    /// The field, as in the configuration file: `memory.bulk.longest_run`.
    pub key: String,
    /// Its value.
    pub value: String,
    /// The values that are allowed.
    pub allowed: String,
}

/// The largest allowed value of each limit on what peers and processes can make a broker hold.
const MOST: usize = 1 << 16;
/// Length of the longest path of a control socket. A socket address holds 107 bytes, and the path of the status socket
/// may be longer than that of the control socket.
const LONGEST_PATH: usize = 100;
/// The longest allowed timeout.
const LONGEST_TIME: Duration = Duration::from_secs(3600);
/// The slowest network, in bits per second.
const SLOWEST: u64 = 1_000_000;
/// The fastest network, in bits per second.
const FASTEST: u64 = 100_000_000_000_000;
/// Buffers begin at page boundaries, so that two connections never share a page.
pub(super) const PAGE: u32 = 4096;
/// The length of a registered region is a 32-bit number.
const LONGEST_SEGMENT: u64 = 1 << 31;
/// Larger receives would save some fragments, but too few to be worth the memory.
const LARGEST_RECEIVE: u32 = 1 << 16;

impl Default for Config {
    /// See the manual, smbdirectd.toml(5).
    fn default() -> Self {
        // Clients that do not use RDMA for data put as much into a message as RDMA would carry: 8 MiB, and a header.
        let acceptor = proto::Config {
            max_fragmented_size: 9 << 20,
            ..proto::Config::default()
        };
        let messages = RegionShape {
            unit_length: 8 << 10,
            units_per_segment: 2048,
            longest_run: 1152,
            max_segments: 10,
        };
        let memory = MemParams {
            send: messages,
            bulk: RegionShape {
                unit_length: 64 << 10,
                units_per_segment: 1024,
                longest_run: 128,
                max_segments: 16,
            },
            receive: messages,
            limit: 2 << 30,
            reserved: 0,
        };
        let mut config = Self {
            listen: vec![
                SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)).into(),
                SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)).into(),
            ],
            fabric: None,
            control: device::DEFAULT_PATH.into(),
            status_group: String::new(),
            metrics: None,
            metrics_socket: None,
            reactors: std::thread::available_parallelism().map_or(1, |count| count.get().min(8)),
            busy_poll: Duration::from_micros(50),
            acceptor,
            max_connections: 4096,
            max_unnegotiated: 1024,
            max_unnegotiated_per_source: 256,
            max_unauthenticated: 1024,
            max_undispatched: 64,
            gateways: Vec::new(),
            first_request_timeout: Duration::from_secs(5),
            login_timeout: Duration::from_secs(45),
            claim_timeout: Duration::from_secs(10),
            progress_timeout: Duration::from_secs(60),
            max_workers: 1024,
            max_sessions: 1024,
            memory,
            memory_limit: 0,
            memory_idle_timeout: Duration::from_secs(5),
            queue_depth: 256,
            drain_timeout: Duration::from_secs(10),
            keep_connections: false,
        };
        let half = machine::memory() / 2;
        // A number of whole MiB is easier to read.
        config.memory_limit = config.least_memory().max(half >> 20 << 20);
        config
    }
}

impl Config {
    /// Checks all values.
    ///
    /// # Errors
    ///
    /// The error names the first value that is out of range, and what is allowed.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        self.validate_access()?;
        within("reactors", self.reactors, 1, 64)?;
        time(
            "busy_poll",
            self.busy_poll,
            Duration::ZERO,
            Duration::from_millis(10),
        )?;
        self.validate_acceptor()?;
        for (key, value) in [
            ("max_connections", self.max_connections),
            ("max_unnegotiated", self.max_unnegotiated),
            (
                "max_unnegotiated_per_source",
                self.max_unnegotiated_per_source,
            ),
            ("max_unauthenticated", self.max_unauthenticated),
            ("max_undispatched", self.max_undispatched),
            ("max_workers", self.max_workers),
            ("max_sessions", self.max_sessions),
        ] {
            within(key, value, 1, MOST)?;
        }
        let least = Duration::from_millis(1);
        time(
            "first_request_timeout",
            self.first_request_timeout,
            least,
            LONGEST_TIME,
        )?;
        for (key, value) in [
            ("login_timeout", self.login_timeout),
            ("claim_timeout", self.claim_timeout),
            ("progress_timeout", self.progress_timeout),
        ] {
            time(key, value, least, LONGEST_TIME)?;
        }
        time(
            "memory_idle_timeout",
            self.memory_idle_timeout,
            Duration::from_millis(10),
            LONGEST_TIME,
        )?;
        self.validate_memory()?;
        let depths = 16..=crate::shm::MAX_CAPACITY;
        let allowed = || "a power of two from 16 to 65536";
        let is_depth = depths.contains(&self.queue_depth) && self.queue_depth.is_power_of_two();
        require(is_depth, "queue_depth", self.queue_depth, allowed)?;
        time(
            "drain_timeout",
            self.drain_timeout,
            Duration::ZERO,
            LONGEST_TIME,
        )
    }

    /// Returns the number of bytes with which one worker can do everything, even if slowly. A lower
    /// [`Config::memory_limit`] is useless.
    #[must_use]
    pub fn least_memory(&self) -> u64 {
        self.reserve().all().saturating_mul(2)
    }

    /// Returns the part of [`Config::memory_limit`] that is kept for workers that wait.
    pub(super) fn reserve(&self) -> Reserve {
        let longest = |shape: &RegionShape| {
            u64::from(shape.unit_length).saturating_mul(shape.longest_run.into())
        };
        let memory = &self.memory;
        Reserve {
            worker: longest(&memory.send).saturating_add(longest(&memory.bulk)),
            received: longest(&memory.receive).saturating_mul(self.reactors as u64),
        }
    }

    /// Returns the limits on connections.
    pub(super) fn limits(&self) -> Limits {
        Limits {
            max_connections: self.max_connections,
            max_unauthenticated: self.max_unauthenticated,
            max_undispatched: self.max_undispatched,
            gateways: self.gateways.iter().copied().map(Source::of).collect(),
        }
    }

    fn validate_access(&self) -> Result<(), OutOfRange> {
        within("listen", self.listen.len(), 1, 64).map_err(|error| OutOfRange {
            allowed: "1 to 64 addresses".into(),
            ..error
        })?;
        for (n, listen) in self.listen.iter().enumerate() {
            let address = listen.address;
            let mut others = self.listen.iter().skip(n + 1);
            let twice = address.port() != 0 && others.any(|other| other.address == address);
            require(
                !twice,
                "listen",
                format!("{address} twice"),
                || "different addresses",
            )?;
            require(
                is_of_one_link(address),
                "listen",
                format!("{address} without an interface"),
                || "written with the number of its interface (ip link), because it is link-local: \"[fe80::1%2]:5445\"",
            )?;
            let speed = listen.link_speed.unwrap_or(SLOWEST);
            require(
                (SLOWEST..=FASTEST).contains(&speed),
                "listen",
                format!("{address} with a link_speed of {}", Speed(speed)),
                || format!("{} to {}", Speed(SLOWEST), Speed(FASTEST)),
            )?;
        }
        self.validate_paths()?;
        if let Some(address) = self.metrics {
            require(
                address.ip().is_loopback(),
                "metrics.listen",
                format!("\"{address}\""),
                || {
                    format!(
                        "a loopback address, such as \"127.0.0.1:{METRICS_PORT}\", because every user who can reach it \
                         may read the metrics: for other machines, put an HTTPS proxy before it, or use node_exporter \
                         with smbdirectctl metrics --textfile"
                    )
                },
            )?;
        }
        within("gateways", self.gateways.len(), 0, 1024).map_err(|error| OutOfRange {
            allowed: "at most 1024 addresses".into(),
            ..error
        })?;
        require(
            self.status_group_id().is_some(),
            "status_group",
            format!("\"{}\"", self.status_group),
            || "the name or the number of a group of this machine (getent group), or empty",
        )
    }

    fn validate_paths(&self) -> Result<(), OutOfRange> {
        let allowed = "an absolute path of at most 100 bytes";
        let shown = |path: &Path| format!("\"{}\"", path.display());
        let control = &self.control;
        require(is_path(control), "control", shown(control), || allowed)?;
        let Some(metrics) = &self.metrics_socket else {
            return Ok(());
        };
        let key = "metrics.socket";
        require(is_path(metrics), key, shown(metrics), || {
            format!("{allowed}, or empty")
        })?;
        let is_other = metrics != control && *metrics != device::status_path(control);
        require(
            is_other,
            key,
            shown(metrics),
            || "another path than those of the control socket and the status socket",
        )
    }

    /// Returns the number of [`Config::status_group`]; `None` if the machine does not have that group.
    pub(super) fn status_group_id(&self) -> Option<u32> {
        let group = self.status_group.as_str();
        if group.is_empty() {
            return Some(rustix::process::getegid().as_raw());
        }
        let number = group.parse().ok();
        number.or_else(|| Some(Group::from_name(group).ok()??.gid.as_raw()))
    }

    /// Returns whether the user of this process cannot give sockets to [`Config::status_group`]: that takes root or a
    /// member of the group.
    #[must_use]
    pub fn lacks_status_group(&self) -> bool {
        use rustix::process::{getegid, geteuid, getgroups};
        let Some(group) = self.status_group_id() else {
            return false;
        };
        let others = getgroups().unwrap_or_default();
        let mut groups = [getegid()].into_iter().chain(others);
        !geteuid().is_root() && !groups.any(|it| it.as_raw() == group)
    }

    fn validate_acceptor(&self) -> Result<(), OutOfRange> {
        let acceptor = &self.acceptor;
        // These are checked before SMB Direct's own rules, which have no upper limits.
        for (key, value) in [
            ("acceptor.negotiation_timeout", acceptor.negotiation_timeout),
            ("acceptor.idle_timeout", acceptor.idle_timeout),
            ("acceptor.keepalive_timeout", acceptor.keepalive_timeout),
            ("acceptor.credit_timeout", acceptor.credit_timeout),
            ("acceptor.message_timeout", acceptor.message_timeout),
        ] {
            time(key, value, Duration::from_millis(1), LONGEST_TIME)?;
        }
        acceptor
            .validate()
            .map_err(|error| illegal(acceptor, error))?;
        for (key, value) in [
            ("acceptor.max_send_size", acceptor.max_send_size),
            ("acceptor.max_receive_size", acceptor.max_receive_size),
        ] {
            let allowed = || format!("at most {}", Size(LARGEST_RECEIVE.into()));
            require(value <= LARGEST_RECEIVE, key, Size(value.into()), allowed)?;
        }
        Ok(())
    }

    fn validate_memory(&self) -> Result<(), OutOfRange> {
        let MemParams {
            send,
            bulk,
            receive,
            limit,
            ..
        } = &self.memory;
        let message = (
            "acceptor.max_fragmented_size",
            self.acceptor.max_fragmented_size,
        );
        let transfer = (
            "acceptor.max_read_write_size",
            self.acceptor.max_read_write_size,
        );
        validate_region("send", send, message)?;
        validate_region("bulk", bulk, transfer)?;
        validate_region("receive", receive, message)?;
        let least = self.least_memory();
        for (key, value) in [
            ("memory.limit", *limit),
            ("memory_limit", self.memory_limit),
        ] {
            let allowed = || {
                format!(
                    "at least {}: twice the longest buffers of one worker (counting a RECEIVE buffer for each reactor)",
                    Size(least)
                )
            };
            require(value >= least, key, Size(value), allowed)?;
        }
        Ok(())
    }
}

/// Checks that the shape of a region is valid, and that its longest buffer can hold `largest`.
fn validate_region(
    region: &str,
    shape: &RegionShape,
    largest: (&str, u32),
) -> Result<(), OutOfRange> {
    let key = |name: &str| format!("memory.{region}.{name}");
    let unit = shape.unit_length;
    let is_unit = unit > 0 && unit % PAGE == 0;
    require(
        is_unit,
        &key("unit_length"),
        Size(unit.into()),
        || "a multiple of 4 KiB, not 0",
    )?;
    for (name, value, most) in [
        ("units_per_segment", shape.units_per_segment, MOST),
        (
            "longest_run",
            shape.longest_run,
            shape.units_per_segment as usize,
        ),
        ("max_segments", shape.max_segments, MOST),
    ] {
        within(&key(name), value as usize, 1, most)?;
    }
    let segment = segment_length(shape);
    let allowed = || format!("at most {} divided by unit_length", Size(LONGEST_SEGMENT));
    require(
        segment <= LONGEST_SEGMENT,
        &key("units_per_segment"),
        shape.units_per_segment,
        allowed,
    )?;
    let (name, length) = largest;
    let longest = u64::from(unit).saturating_mul(shape.longest_run.into());
    let allowed = || {
        format!(
            "at least {}, for a buffer to hold {name} of {}",
            length.div_ceil(unit),
            Size(length.into())
        )
    };
    require(
        longest >= length.into(),
        &key("longest_run"),
        shape.longest_run,
        allowed,
    )
}

/// Returns the number of bytes of a segment; `u64::MAX` if the shape is invalid.
fn segment_length(shape: &RegionShape) -> u64 {
    let shape = Shape {
        unit_length: shape.unit_length as usize,
        units_per_segment: shape.units_per_segment,
        longest_run: shape.longest_run,
        max_segments: shape.max_segments,
    };
    shape
        .segment_length()
        .map_or(u64::MAX, |length| length as u64)
}

/// Returns the error for a value that SMB Direct itself does not allow.
fn illegal(acceptor: &proto::Config, error: ConfigError) -> OutOfRange {
    let size = |bytes: u32| Size(bytes.into()).to_string();
    let time = |time| Time(time).to_string();
    let value = match error {
        ConfigError::ReceiveCreditMax => acceptor.receive_credit_max.to_string(),
        ConfigError::SendCreditTarget => acceptor.send_credit_target.to_string(),
        ConfigError::MaxSendSize => size(acceptor.max_send_size),
        ConfigError::MaxReceiveSize => size(acceptor.max_receive_size),
        ConfigError::MaxFragmentedSize => size(acceptor.max_fragmented_size),
        ConfigError::MaxReadWriteSize => size(acceptor.max_read_write_size),
        ConfigError::NegotiationTimeout => time(acceptor.negotiation_timeout),
        ConfigError::IdleTimeout => time(acceptor.idle_timeout),
        ConfigError::KeepaliveTimeout => time(acceptor.keepalive_timeout),
        ConfigError::CreditTimeout => time(acceptor.credit_timeout),
        ConfigError::MessageTimeout => time(acceptor.message_timeout),
    };
    let text = error.to_string();
    let allowed = text
        .split_once(" must be ")
        .map_or("legal", |(_, allowed)| allowed);
    OutOfRange {
        key: format!("acceptor.{}", error.name()),
        value,
        allowed: allowed.to_owned(),
    }
}

/// Returns whether an address shows which network it is in. An IPv6 link-local address does so only with a scope,
/// because all networks have the same link-local addresses.
fn is_of_one_link(address: SocketAddr) -> bool {
    match address {
        SocketAddr::V6(address) => !address.ip().is_unicast_link_local() || address.scope_id() != 0,
        SocketAddr::V4(_) => true,
    }
}

/// Returns whether a socket can be at this path.
fn is_path(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    path.is_absolute() && bytes.len() <= LONGEST_PATH && !bytes.contains(&0)
}

fn require<A: Display>(
    kept: bool,
    key: &str,
    value: impl Display,
    allowed: impl FnOnce() -> A,
) -> Result<(), OutOfRange> {
    if kept {
        return Ok(());
    }
    Err(OutOfRange {
        key: key.to_owned(),
        value: value.to_string(),
        allowed: allowed().to_string(),
    })
}

fn within(key: &str, value: usize, least: usize, most: usize) -> Result<(), OutOfRange> {
    let allowed = || format!("{least} to {most}");
    require((least..=most).contains(&value), key, value, allowed)
}

fn time(key: &str, value: Duration, least: Duration, most: Duration) -> Result<(), OutOfRange> {
    let allowed = || format!("{} to {}", Time(least), Time(most));
    require((least..=most).contains(&value), key, Time(value), allowed)
}
