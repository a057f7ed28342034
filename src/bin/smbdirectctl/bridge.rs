// SPDX-License-Identifier: GPL-2.0-or-later

//! `smbdirectctl bridge`: options, signals and output.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::process;
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use smbdirect::bridge::{Bridge, Config, MAX_MESSAGE, Stopper};
use smbdirect::broker::{LogFormat, PORT};
use smbdirect::fabric::FabricChoice;
use smbdirect::proto::Config as Endpoint;
use tracing::{info, warn};

use super::{FAILED, log, print};

#[derive(Args)]
pub(crate) struct Options {
    /// The SMB Direct server: a name or an address, with a port if it is not 5445
    #[arg(value_name = "TARGET", value_parser = parse_target)]
    target: Target,
    /// Accept SMB over TCP on this address; may be given more than once
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4450", value_parser = parse_listen)]
    listen: Vec<SocketAddr>,
    /// Largest message to reassemble from the server, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = MAX_MESSAGE)]
    #[arg(value_parser = clap::value_parser!(u32).range(131_072..=i64::from(MAX_MESSAGE)))]
    max_fragmented_size: u32,
    /// Largest SMB Direct message in either direction, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 8192)]
    #[arg(value_parser = clap::value_parser!(u32).range(128..=1 << 20))]
    max_receive_size: u32,
    /// Maximum number of SMB Direct messages under way in each direction
    #[arg(long, value_name = "COUNT", default_value_t = 255)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    credits: u16,
    /// Maximum number of clients at a time
    #[arg(long, value_name = "COUNT", default_value_t = 1024)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: u32,
    /// Fabric of SMB Direct: software, verbs (an RDMA device), or auto: an RDMA device if the server is reached through
    /// one, otherwise software
    #[arg(long, value_name = "FABRIC", default_value = "auto", value_parser = FabricChoice::from_str)]
    fabric: FabricChoice,
    /// Ask the server for CRCs
    #[arg(long)]
    crc: bool,
    /// Print statistics as JSON at the end
    #[arg(long)]
    json: bool,
    /// What to log: a level (error, warn, info, debug, trace), or levels for modules
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log: String,
}

/// A server, as the user named it.
#[derive(Clone)]
struct Target {
    name: String,
    port: u16,
}

/// Runs the bridge until a signal ends it.
///
/// # Errors
///
/// The error says what is wrong, as a message for people.
pub(crate) fn run(options: &Options) -> Result<process::ExitCode, String> {
    let _ = log::start(log::filter(&options.log)?, LogFormat::Text);
    let signals = Signals::new([SIGTERM, SIGINT]).map_err(|error| format!("signals: {error}"))?;
    raise_descriptors();
    let config = options.config()?;
    let target = config.target.clone();
    let bridge = Bridge::bind(config).map_err(|error| format!("bridge: {error}"))?;
    let stopper = bridge.stopper();
    let thread = thread::Builder::new().name("signals".to_owned());
    let started = thread.spawn(move || stop_at_signal(signals, &stopper));
    started.map_err(|error| format!("signals: {error}"))?;

    let listen = listed(&bridge.addresses());
    let first = listed(target.get(..1).unwrap_or_default());
    print(&format!("listening on {listen}, carrying to {first}\n"));
    if target.len() > 1 {
        info!(
            "if this address does not answer, trying {}",
            listed(&target[1..])
        );
    }
    let statistics = bridge.run().map_err(|error| format!("bridge: {error}"))?;
    if !options.json {
        return Ok(process::ExitCode::SUCCESS);
    }
    let json = serde_json::to_string(&statistics).map_err(|error| format!("JSON: {error}"))?;
    Ok(print(&format!("{json}\n")))
}

impl Options {
    fn config(&self) -> Result<Config, String> {
        let mut config = Config::new(self.listen.clone(), self.target.resolve()?);
        config.endpoint = Endpoint {
            receive_credit_max: smbdirect::units::Credits(self.credits),
            send_credit_target: smbdirect::units::Credits(self.credits),
            max_send_size: self.max_receive_size,
            max_receive_size: self.max_receive_size,
            max_fragmented_size: self.max_fragmented_size,
            ..config.endpoint
        };
        config.fabric = self.fabric.0;
        config.crc = self.crc;
        config.max_connections = self.max_connections as usize;
        Ok(config)
    }
}

impl Target {
    fn resolve(&self) -> Result<Vec<SocketAddr>, String> {
        let named = (self.name.as_str(), self.port).to_socket_addrs();
        let addresses: Vec<_> = named
            .map_err(|error| format!("no address of {}: {error}", self.name))?
            .collect();
        if addresses.is_empty() {
            return Err(format!("{} does not have an address", self.name));
        }
        Ok(addresses)
    }
}

/// Parses an address on which to accept clients.
fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!(
            "\"{text}\": an address is numeric, with a port: \"127.0.0.1:4450\", \"[::1]:4450\""
        )
    })
}

/// Parses `name`, `name:port`, or an IPv4 or IPv6 address, the latter in brackets if a port follows.
fn parse_target(text: &str) -> Result<Target, String> {
    let target = |name: &str, port| Target {
        name: name.to_owned(),
        port,
    };
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let bare = bare.unwrap_or(text);
    if bare.parse::<IpAddr>().is_ok() {
        return Ok(target(bare, PORT));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(target(&address.ip().to_string(), address.port()));
    }
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => (name, port.parse().ok()),
        None => (text, Some(PORT)),
    };
    match port {
        Some(port) if !name.is_empty() && !name.contains([':', '[', ']', '/']) => {
            Ok(target(name, port))
        }
        _ => Err("a name or an address, with or without a port: server, [::1]:5445".to_owned()),
    }
}

fn listed(addresses: &[SocketAddr]) -> String {
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    addresses.join(", ")
}

/// Raises the limit of descriptors as far as this process may, because each client takes two.
fn raise_descriptors() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        let error = io::Error::from(error);
        warn!("cannot raise the limit of open files: {error}");
    }
}

/// Signals within this time count as one: some senders send two at once, as timeout(1) and shells do.
const TOGETHER: Duration = Duration::from_millis(500);

fn stop_at_signal(mut signals: Signals, stopper: &Stopper) {
    let mut signals = signals.forever();
    if signals.next().is_some() {
        info!("stopping; a second signal ends at once");
        stopper.stop();
    }
    let first = Instant::now();
    if signals.any(|_| first.elapsed() >= TOGETHER) {
        warn!("ended at once by a second signal");
        process::exit(FAILED.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_names_and_addresses_with_and_without_ports() {
        for (text, name, port) in [
            ("server", "server", 5445),
            ("server.example:445", "server.example", 445),
            ("192.0.2.1", "192.0.2.1", 5445),
            ("192.0.2.1:1", "192.0.2.1", 1),
            ("::1", "::1", 5445),
            ("[::1]", "::1", 5445),
            ("[2001:db8::1]:445", "2001:db8::1", 445),
        ] {
            let target = parse_target(text);
            let target = target.unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((target.name.as_str(), target.port), (name, port));
        }
        for text in [
            "",
            ":445",
            "server:",
            "server:smb",
            "//server/share",
            "a:b:1",
        ] {
            assert!(parse_target(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_to_listen_at_is_numeric_and_has_a_port() {
        assert!(parse_listen("[::1]:0").is_ok());
        for text in ["localhost:1", "127.0.0.1", "4450", ""] {
            let error = parse_listen(text).unwrap_err();
            assert!(error.contains(&format!("\"{text}\"")), "{error}");
            assert!(error.contains("numeric, with a port"), "{error}");
        }
    }

    #[test]
    fn names_are_resolved() {
        let target = parse_target("localhost:7").unwrap();
        let addresses = target.resolve().unwrap();
        assert!(addresses.iter().all(|address| address.ip().is_loopback()));
        assert!(!addresses.is_empty());
    }
}
