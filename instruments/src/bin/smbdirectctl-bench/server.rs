// SPDX-License-Identifier: GPL-2.0-or-later

//! What this machine knows about the server if the server is this machine: the port of its device, and the processor
//! time of its processes.
//!
//! All of it is optional: the server may be another machine, its device may be the kernel's, and users who are not
//! root may not look into smbd.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use smbdirect::device;
use smbdirect::fabric::FabricKind;

use crate::report::printable;

/// How long the device may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The parts of the device's status that matter here. smbdirectctl(8) describes all of it.
#[derive(Debug, Default, Deserialize)]
struct Status {
    version: String,
    #[serde(default)]
    addresses: Vec<Address>,
    #[serde(default)]
    listen: Vec<SocketAddr>,
}

#[derive(Debug, Deserialize)]
struct Address {
    address: SocketAddr,
    fabric: String,
}

/// The server's processes, as far as they are known.
#[derive(Debug, Default)]
pub(crate) struct Server {
    status: Option<Status>,
    smbdirectd: Option<u32>,
    /// The smbd that serves the TCP connection, and all connections of its client.
    smbd: Option<u32>,
}

/// Processor time of the server's processes; `None` if it is not known.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Used {
    pub(crate) smbd: Option<Duration>,
    pub(crate) smbdirectd: Option<Duration>,
}

impl Used {
    /// Returns what was used after `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        let since =
            |now: Option<Duration>, before: Option<Duration>| Some(now?.saturating_sub(before?));
        Self {
            smbd: since(self.smbd, before.smbd),
            smbdirectd: since(self.smbdirectd, before.smbdirectd),
        }
    }
}

impl Server {
    /// Looks for the server of a TCP connection from `client`, and for the device whose socket is at `control`.
    pub(crate) fn find(server: SocketAddr, client: Option<SocketAddr>, control: &Path) -> Self {
        if !is_local(server.ip()) {
            return Self::default();
        }
        let observed = device::observe_process(control, TIMEOUT).ok();
        let (status, smbdirectd) = match observed {
            Some((json, process)) => (serde_json::from_str(&json).ok(), process),
            None => (None, None),
        };
        Self {
            status,
            smbdirectd,
            smbd: client.and_then(|client| socket_of(server, client).and_then(holder)),
        }
    }

    /// Returns the version of the device, which comes from another process.
    pub(crate) fn device_version(&self) -> Option<String> {
        self.status
            .as_ref()
            .map(|status| printable(&status.version))
    }

    /// Returns the port at which the device serves an address of this machine, by this fabric if one is asked for.
    pub(crate) fn port(&self, address: IpAddr, fabric: Option<FabricKind>) -> Option<u16> {
        let status = self.status.as_ref().filter(|_| is_local(address))?;
        port_in(status, address, fabric)
    }

    /// Returns the processor time that the processes have used so far.
    pub(crate) fn used(&self) -> Used {
        Used {
            smbd: self.smbd.and_then(cpu),
            smbdirectd: self.smbdirectd.and_then(cpu),
        }
    }
}

fn port_in(status: &Status, address: IpAddr, fabric: Option<FabricKind>) -> Option<u16> {
    let announced = status.addresses.iter().filter(|one| {
        let is_asked_for = fabric.is_none_or(|fabric| fabric.name() == one.fabric);
        one.address.ip() == address && is_asked_for
    });
    // The device may listen at more addresses than it announces, such as those of the loopback interface.
    let listening = status.listen.iter().filter(|one| {
        let any = one.ip().is_unspecified() && one.is_ipv4() == address.is_ipv4();
        one.ip() == address || any
    });
    let ports = announced.map(|one| one.address.port());
    let mut ports = ports.chain(listening.map(SocketAddr::port));
    ports.find(|port| *port != 0)
}

/// Returns whether this machine has an address.
fn is_local(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// Returns the number of the server's socket of a TCP connection.
fn socket_of(server: SocketAddr, client: SocketAddr) -> Option<u64> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(fs::read_to_string);
    let mut tables = tables.iter().flatten();
    tables.find_map(|table| socket_in(table, server, client))
}

/// Finds the socket with these two addresses in a table of the kernel (proc(5), `/proc/net/tcp`).
fn socket_in(table: &str, local: SocketAddr, remote: SocketAddr) -> Option<u64> {
    let is = |found: SocketAddr, wanted: SocketAddr| {
        found.port() == wanted.port() && found.ip().to_canonical() == wanted.ip().to_canonical()
    };
    table.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let (first, second) = (address(words.next()?)?, address(words.next()?)?);
        // Between the addresses and the number of the socket are the state, the queues, timers, and the user.
        let socket = words.nth(6)?.parse().ok()?;
        (is(first, local) && is(second, remote)).then_some(socket)
    })
}

/// Parses an address of the kernel's table: words of 32 bits in this machine's byte order, a colon, and the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let digits = ip.get(8 * at..8 * at + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    let ip: IpAddr = match ip.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let octets: [u8; 16] = words.as_flattened().try_into().ok()?;
            Ipv6Addr::from(octets).into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Returns the process that has a socket open, the newest if there are several.
fn holder(socket: u64) -> Option<u32> {
    let wanted = PathBuf::from(format!("socket:[{socket}]"));
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let processes = processes.filter_map(|entry| {
        let process: u32 = entry.file_name().to_str()?.parse().ok()?;
        let mut open = fs::read_dir(entry.path().join("fd")).ok()?.flatten();
        let holds = open.any(|file| fs::read_link(file.path()).is_ok_and(|file| file == wanted));
        holds.then_some(process)
    });
    processes.max()
}

/// Returns the processor time of all threads of a process.
fn cpu(process: u32) -> Option<Duration> {
    let ticks = ticks(&fs::read_to_string(format!("/proc/{process}/stat")).ok()?)?;
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Some(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

/// Returns user and system time from the text of `/proc/PID/stat`. The name of the program, in parentheses, may
/// contain anything.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    // The first word here is the third field in proc(5), the times are the fields 14 and 15.
    let mut words = rest.split_ascii_whitespace().skip(11);
    let (user, system): (u64, u64) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    user.checked_add(system)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    const STATUS: &str = r#"{"version": "1.2.3", "uptime_seconds": 5.0,
        "listen": ["127.0.0.1:7001", "[::1]:0", "10.0.0.9:7009"],
        "addresses": [
            {"address": "10.0.0.1:445", "interface": "a", "link_speed": 1, "fabric": "verbs"},
            {"address": "10.0.0.1:5445", "interface": "a", "link_speed": 1, "fabric": "software"}
        ]}"#;

    #[test]
    fn the_port_is_that_of_the_address_and_of_the_fabric() {
        let status: Status = serde_json::from_str(STATUS).unwrap();
        let port = |address: &str, fabric| port_in(&status, address.parse().unwrap(), fabric);
        assert_eq!(port("10.0.0.1", None), Some(445));
        assert_eq!(port("10.0.0.1", Some(FabricKind::Verbs)), Some(445));
        assert_eq!(port("10.0.0.1", Some(FabricKind::Software)), Some(5445));
        assert_eq!(port("127.0.0.1", None), Some(7001));
        assert_eq!(port("10.0.0.9", None), Some(7009));
        assert_eq!(port("10.0.0.2", None), None);
        assert_eq!(port("::1", None), None, "port 0 is not a port");
    }

    #[test]
    fn a_device_that_listens_everywhere_listens_at_each_address_of_that_kind() {
        let status = r#"{"version": "", "listen": ["0.0.0.0:7000"]}"#;
        let status: Status = serde_json::from_str(status).unwrap();
        let port = |address: &str| port_in(&status, address.parse().unwrap(), None);
        assert_eq!((port("10.1.2.3"), port("::1")), (Some(7000), None));
    }

    #[test]
    fn the_version_of_the_device_cannot_control_a_terminal() {
        let status = r#"{"version": "1\u001b[2J\u009b2J\u202e3"}"#;
        let server = Server {
            status: serde_json::from_str(status).unwrap(),
            ..Server::default()
        };
        assert_eq!(server.device_version().unwrap(), "1?[2J?2J?3");
    }

    #[test]
    fn only_addresses_of_this_machine_are_local() {
        assert!(is_local("127.0.0.1".parse().unwrap()));
        // An address for documentation (RFC 5737).
        let elsewhere = "192.0.2.1".parse().unwrap();
        assert!(!is_local(elsewhere));
        let server = Server::find(SocketAddr::new(elsewhere, 445), None, Path::new("/nowhere"));
        assert!(server.device_version().is_none() && server.used().smbd.is_none());
    }

    #[test]
    fn the_process_at_the_other_end_of_a_connection_is_found_and_its_time_grows() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).unwrap();
        let (_accepted, _) = listener.accept().unwrap();
        let client = client.local_addr().unwrap();
        let server = Server::find(address, Some(client), Path::new("/nowhere"));
        assert_eq!(server.smbd, Some(std::process::id()));
        assert_eq!(server.smbdirectd, None);
        let before = server.used();
        let enough = Duration::from_millis(50);
        let used = loop {
            let used = server.used().since(before).smbd.unwrap();
            if used >= enough {
                break used;
            }
        };
        assert!(used < Duration::from_secs(60), "{used:?}");
        assert!(server.used().since(before).smbdirectd.is_none());
    }

    #[test]
    fn addresses_of_both_kinds_are_found_in_the_tables() {
        let hex = |octets: &[u8]| {
            let words = octets.chunks(4);
            let words = words.map(|word| u32::from_ne_bytes(word.try_into().unwrap()));
            words.map(|word| format!("{word:08X}")).collect::<String>()
        };
        let mapped = Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped();
        let line = |local: &[u8], remote: &[u8], socket: u64| {
            let (local, remote) = (hex(local), hex(remote));
            format!(
                "  1: {local}:01BD {remote}:C001 01 00000000:00000000 00:00000000 00000000  0 0 {socket} 1 ffff\n"
            )
        };
        let heading = "  sl  local_address rem_address st tx_queue rx_queue tr tm->when retrnsmt uid timeout inode\n";
        let four = line(&[10, 0, 0, 1], &[10, 0, 0, 2], 44);
        let six = line(&mapped.octets(), &Ipv6Addr::LOCALHOST.octets(), 66);
        let table = format!("{heading}{four}{six}  9: nonsense\n");
        let find = |local: &str, remote: &str| {
            socket_in(&table, local.parse().unwrap(), remote.parse().unwrap())
        };
        assert_eq!(find("10.0.0.1:445", "10.0.0.2:49153"), Some(44));
        assert_eq!(find("10.0.0.1:445", "[::1]:49153"), Some(66));
        assert_eq!(find("10.0.0.1:445", "10.0.0.2:49154"), None);
        assert_eq!(
            find("10.0.0.2:49153", "10.0.0.1:445"),
            None,
            "the client's end"
        );
    }

    #[test]
    fn times_of_a_process_are_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 9 9 20 0 1 0 100 1 1";
        assert_eq!(ticks(stat), Some(200));
        assert_eq!(ticks("7 (smbd"), None);
        assert_eq!(ticks("7 (smbd) S 1 2"), None);
    }
}
