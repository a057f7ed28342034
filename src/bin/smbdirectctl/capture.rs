// SPDX-License-Identifier: GPL-2.0-or-later

//! `smbdirectctl capture`: writes the traffic of a client to a file for Wireshark.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use serde::Deserialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use smbdirect::device::capture::{Capture, Next, Wanted};
use smbdirect::device::chardev::is_char_device;
use smbdirect::device::{DEFAULT_PATH, NotObserved, Status};
use smbdirect::fabric::pcapng::Statistics;

use super::{FAILED, Failure, TIMEOUT, ask, failed, printable, read, unreadable, with_cure};

/// Time between two checks for a signal, which may come just before the wait for blocks begins.
const LOOK: Duration = Duration::from_millis(200);
/// Time that the device has for its last blocks.
const LAST: Duration = Duration::from_secs(10);

#[derive(Args)]
pub(crate) struct Options {
    /// Capture this client, or, with its port, one connection that smbdirectctl status lists
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = parse_peer)]
    peer: Peer,
    /// Write the capture to this file; - stands for standard output
    #[arg(long, short, value_name = "FILE")]
    write: PathBuf,
    /// Capture this many bytes of what RDMA moves for each request, and of the file data in each message, or all
    #[arg(long, value_name = "COUNT", default_value = "128", value_parser = parse_bytes)]
    bytes: u32,
    /// End the capture after this time
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    seconds: Option<Duration>,
    /// Path of smbdirectd's control socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_PATH)]
    control: PathBuf,
}

/// A client, or one of its connections.
#[derive(Clone, Copy)]
struct Peer {
    address: IpAddr,
    port: Option<u16>,
}

impl Peer {
    fn has(&self, connection: &Connection) -> bool {
        let of_port = self.port.is_none_or(|port| port == connection.peer.port());
        of_port && self.is_client_of(connection)
    }

    fn is_client_of(&self, connection: &Connection) -> bool {
        connection.peer.ip().to_canonical() == self.address
    }
}

fn parse_peer(text: &str) -> Result<Peer, String> {
    let (address, port) = match text.parse::<SocketAddr>() {
        Ok(peer) => (Ok(peer.ip()), Some(peer.port())),
        Err(_) => {
            let bare = text.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
            (bare.unwrap_or(text).parse::<IpAddr>(), None)
        }
    };
    match address {
        Ok(address) if port != Some(0) => Ok(Peer {
            address: address.to_canonical(),
            port,
        }),
        _ => Err(
            "a peer is an IP address, with or without a port, such as 10.0.0.5:49152".to_owned(),
        ),
    }
}

fn parse_bytes(text: &str) -> Result<u32, String> {
    match text {
        "all" => Ok(u32::MAX),
        _ => text
            .parse()
            .map_err(|_| format!("a number from 0 to {}, or all", u32::MAX)),
    }
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok();
    let seconds = seconds.filter(|seconds| (0.1..=86_400.0).contains(seconds));
    let seconds = seconds.ok_or("a time is a number of seconds from 0.1 to 86400")?;
    Ok(Duration::from_secs_f64(seconds))
}

/// The part of the status that a capture needs.
#[derive(Deserialize)]
struct Device {
    connections: Vec<Connection>,
}

#[derive(Deserialize)]
struct Connection {
    peer: SocketAddr,
}

pub(crate) fn run(options: &Options) -> ExitCode {
    let control = &options.control;
    let to_stdout = options.write == Path::new("-");
    if is_char_device(control) {
        let message = "the kernel's device has no capture: capture at the client or at the switch, or let \
                       smbdirectd serve this client meanwhile";
        return failed(control, &(Status::Invalid, message.to_owned()));
    }
    if to_stdout && io::stdout().is_terminal() {
        return fail(
            "a capture is not text: give a file with --write, or pipe the output into tshark -r -",
        );
    }
    let json = match ask(control) {
        Ok(json) => json,
        Err((Status::Denied, _)) => return failed(control, &denied()),
        Err(failure) => return failed(control, &failure),
    };
    let device: Device = match read(&json) {
        Ok(device) => device,
        Err(error) => return unreadable(control, &error),
    };
    let found = device.connections.iter();
    let found = found.filter(|it| options.peer.has(it)).count();
    if found == 0 {
        if let Some(port) = options.peer.port {
            return fail(&no_connection(&device, options.peer, port));
        }
        let address = options.peer.address;
        eprintln!("smbdirectctl: {address} has no connection now: waiting for one");
    }
    // A signal ends the capture, not this program, which then writes the last blocks. A second one ends this program.
    let signalled = Arc::new(AtomicBool::new(false));
    let watched = [SIGINT, SIGTERM].map(|signal| {
        let code = FAILED.into();
        flag::register_conditional_shutdown(signal, code, Arc::clone(&signalled))?;
        flag::register(signal, Arc::clone(&signalled))
    });
    if let Some(error) = watched.into_iter().find_map(Result::err) {
        return fail(&format!("signals: {error}"));
    }
    let wanted = Wanted {
        address: options.peer.address,
        port: options.peer.port,
        bytes: options.bytes,
    };
    let capture = match Capture::begin(control, &wanted, TIMEOUT) {
        Ok(capture) => capture,
        Err(error) => return failed(control, &not_begun(control, error)),
    };
    let output: Result<Box<dyn Write>, io::Error> = match to_stdout {
        true => Ok(Box::new(io::stdout().lock())),
        false => create(&options.write).map(|file| Box::new(file) as Box<dyn Write>),
    };
    let mut writer = match output {
        Ok(output) => Writer {
            output,
            capture,
            ends: Vec::new(),
            stopped: None,
        },
        Err(error) => return fail(&format!("{}: {error}", options.write.display())),
    };
    let until = options.seconds.map(|time| Instant::now() + time);
    match writer.run(until, &signalled) {
        Ok(()) => writer.report(options.peer.port.is_some()),
        Err(Failed::Output(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(Failed::Output(error)) => fail(&format!("{}: {error}", options.write.display())),
        Err(Failed::Device(status)) => failed(control, &(status, status.to_string())),
    }
}

fn fail(message: &str) -> ExitCode {
    eprintln!("smbdirectctl: {message}");
    FAILED.into()
}

/// Opens the file. A new file can be read by its owner only, because it holds data of clients.
fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path)
}

fn denied() -> Failure {
    let message = "a capture holds data of clients, so status_group does not allow it: run this as root, or as the user \
                   that smbdirectd runs as";
    (Status::Denied, message.to_owned())
}

fn not_begun(control: &Path, error: NotObserved) -> Failure {
    let message = match error.status {
        Status::Denied => return denied(),
        Status::Limit => "two captures are running already: end one of them first",
        Status::Corrupt => {
            "this smbdirectd is older than this program, and cannot capture: restart it after the upgrade"
        }
        _ => return with_cure(control, error),
    };
    (error.status, message.to_owned())
}

/// Says that there is no such connection, and which connections the client has.
fn no_connection(device: &Device, wanted: Peer, port: u16) -> String {
    let asked = SocketAddr::new(wanted.address, port);
    let all = device.connections.iter();
    let others: Vec<String> = all
        .filter(|it| wanted.is_client_of(it))
        .map(|it| it.peer.port().to_string())
        .collect();
    if others.is_empty() {
        return format!(
            "there is no connection from {asked}: smbdirectctl status lists them, and without a port this waits for one"
        );
    }
    let others = others.join(", ");
    format!(
        "there is no connection from {asked}: that client's connections have the ports {others}"
    )
}

/// Why a capture failed.
enum Failed {
    Output(io::Error),
    Device(Status),
}

/// Writes the blocks of a capture to the output.
struct Writer {
    output: Box<dyn Write>,
    capture: Capture,
    /// What each reactor that took part said at its end.
    ends: Vec<Statistics>,
    /// When this program has ended the capture.
    stopped: Option<Instant>,
}

impl Writer {
    /// Writes until the end, or until `until` or a signal.
    fn run(&mut self, until: Option<Instant>, signalled: &AtomicBool) -> Result<(), Failed> {
        loop {
            let now = Instant::now();
            let is_due = until.is_some_and(|until| until <= now);
            if self.stopped.is_none() && (is_due || signalled.load(Ordering::Relaxed)) {
                self.capture.stop();
                self.stopped = Some(now);
            }
            if self.stopped.is_some_and(|at| now >= at + LAST) {
                return Ok(());
            }
            let left = until.map_or(LOOK, |until| until.saturating_duration_since(now));
            let time = match self.stopped {
                None => left.min(LOOK),
                Some(_) => LOOK,
            };
            match self.capture.next(time).map_err(Failed::Device)? {
                Next::Blocks(blocks) => {
                    self.ends.extend(Statistics::all_in(blocks));
                    let written = self.output.write_all(blocks);
                    // A program that reads the capture sees each packet at once.
                    let written = written.and_then(|()| self.output.flush());
                    written.map_err(Failed::Output)?;
                }
                Next::Nothing => {}
                Next::End => return Ok(()),
            }
        }
    }

    /// Says what was captured, and why it ended.
    fn report(&self, one_connection: bool) -> ExitCode {
        let dropped: u64 = self.ends.iter().map(|end| end.dropped).sum();
        let received: u64 = self.ends.iter().map(|end| end.received).sum();
        let captured = received.saturating_sub(dropped);
        if self.ends.is_empty() {
            return match (one_connection, self.stopped) {
                (true, None) => fail("the connection ended before the capture began"),
                _ => fail("the device ended first: the last packets may be missing"),
            };
        }
        eprintln!("smbdirectctl: {captured} packets captured");
        if dropped > 0 {
            eprintln!(
                "smbdirectctl: {dropped} packets are missing, because they came faster than they could be written: \
                 write to a faster disk, or give fewer --bytes"
            );
        }
        if let (None, Some(end)) = (self.stopped, self.ends.first()) {
            eprintln!("smbdirectctl: {}", printable(&end.comment));
        }
        ExitCode::SUCCESS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_an_address_with_or_without_a_port() {
        let parsed = |text| parse_peer(text).map(|peer| (peer.address.to_string(), peer.port));
        let of = |address: &str, port| Ok((address.to_owned(), port));
        assert_eq!(parsed("10.0.0.1"), of("10.0.0.1", None));
        assert_eq!(parsed("10.0.0.1:445"), of("10.0.0.1", Some(445)));
        assert_eq!(parsed("2001:db8::1"), of("2001:db8::1", None));
        assert_eq!(parsed("[2001:db8::1]"), of("2001:db8::1", None));
        assert_eq!(parsed("[2001:db8::1]:445"), of("2001:db8::1", Some(445)));
        assert_eq!(parsed("::ffff:10.0.0.1"), of("10.0.0.1", None));
        for wrong in ["", "client", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:65536"] {
            assert!(parse_peer(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_wrong_port_is_answered_with_the_right_ones() {
        let connection = |peer: &str| Connection {
            peer: peer.parse().unwrap(),
        };
        let device = Device {
            connections: vec![connection("10.0.0.1:7"), connection("[::ffff:10.0.0.1]:8")],
        };
        let asked = |address: &str| no_connection(&device, parse_peer(address).unwrap(), 9);
        assert!(
            asked("10.0.0.1")
                .ends_with("10.0.0.1:9: that client's connections have the ports 7, 8")
        );
        assert!(asked("10.0.0.2").contains("smbdirectctl status"));
    }

    #[test]
    fn a_capture_that_is_refused_is_explained() {
        let control = Path::new("/nowhere");
        let explained = |status: Status| not_begun(control, status.into()).1;
        assert!(explained(Status::Denied).contains("as root"));
        assert!(explained(Status::Limit).contains("end one"));
        assert!(explained(Status::Corrupt).contains("restart it"));
    }
}
