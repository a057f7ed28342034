//! Where clients reach the device, and when that is somewhere else: what smbd tells its clients
//! ([MS-SMB2] 3.3.5.15.11), which find SMB Direct by it.
//!
//! An unspecified address that is listened at stands for all addresses of its family that are up,
//! without those that no other machine can name: loopback, and link-local IPv6. Any other stands for
//! itself.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::{InterfaceFlags, if_nametoindex};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

use super::config::Listen;
use super::status::AddressStatus;
use crate::device::abi::{Address, MAX_ADDRESSES};
use crate::fabric::FabricKind;

/// Bits per second of what has no speed, such as loopback and virtual interfaces.
const DEFAULT_SPEED: u64 = 10_000_000_000;

/// Notifications that are taken in one round.
const NOTIFICATIONS: usize = 1024;

/// An address of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Local {
    pub(super) ip: IpAddr,
    /// Of link-local addresses, or 0.
    pub(super) scope_id: u32,
    pub(super) interface: String,
    pub(super) index: u32,
    /// Bits per second, where the system knows.
    pub(super) speed: Option<u64>,
    pub(super) is_up: bool,
}

/// Where clients reach those that listen at `listen`, with real ports: at most [`MAX_ADDRESSES`], in the
/// order of `listen`, but what is listened at by itself first.
///
/// # Errors
///
/// The system does not say which addresses it has.
pub(super) fn reachable(listen: &[Listen]) -> io::Result<Vec<AddressStatus>> {
    Ok(reachable_of(listen, &locals()?))
}

/// The addresses of this machine.
pub(super) fn locals() -> io::Result<Vec<Local>> {
    Ok(getifaddrs()?.filter_map(|entry| local(&entry)).collect())
}

fn reachable_of(listen: &[Listen], locals: &[Local]) -> Vec<AddressStatus> {
    let (every, given): (Vec<Listen>, Vec<Listen>) = listen
        .iter()
        .partition(|listen| listen.address.ip().is_unspecified());
    let given = given.iter().filter_map(|listen| itself(listen, locals));
    let every = every.iter().flat_map(|listen| {
        let of_family = |local: &&Local| local.ip.is_ipv4() == listen.address.is_ipv4();
        let locals = locals.iter().filter(of_family);
        let locals = locals.filter(|local| local.is_up && !is_near(local.ip));
        locals.map(|local| status(listen, local.ip, Some(local)))
    });
    let mut all: Vec<AddressStatus> = Vec::new();
    for found in given.chain(every) {
        let is_known = all.iter().any(|known| known.address == found.address);
        if !is_known && all.len() < MAX_ADDRESSES {
            all.push(found);
        }
    }
    all
}

/// A given address, unless its interface is down. One that no interface has may be of this machine all
/// the same: it is being listened at.
fn itself(listen: &Listen, locals: &[Local]) -> Option<AddressStatus> {
    let ip = listen.address.ip();
    let scope_id = scope_of(&listen.address);
    let is_it = |local: &&Local| local.ip == ip && (scope_id == 0 || scope_id == local.scope_id);
    let local = locals.iter().find(is_it);
    if local.is_some_and(|local| !local.is_up) {
        return None;
    }
    Some(status(listen, ip, local))
}

fn status(listen: &Listen, ip: IpAddr, local: Option<&Local>) -> AddressStatus {
    let port = listen.address.port();
    let address = match ip {
        IpAddr::V4(ip) => (ip, port).into(),
        IpAddr::V6(ip) => {
            let scope_id = local.map_or_else(|| scope_of(&listen.address), |local| local.scope_id);
            SocketAddrV6::new(ip, port, 0, scope_id).into()
        }
    };
    let speed = local.and_then(|local| local.speed);
    AddressStatus {
        address,
        interface: local.map(|local| local.interface.clone()),
        interface_index: local.map_or(0, |local| local.index),
        link_speed: listen.link_speed.or(speed).unwrap_or(DEFAULT_SPEED),
        fabric: listen.fabric.unwrap_or(FabricKind::Software).to_string(),
    }
}

const fn scope_of(address: &SocketAddr) -> u32 {
    match address {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(address) => address.scope_id(),
    }
}

/// Whether an address means something on this machine, or on one of its networks, only.
pub(super) const fn is_near(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
    }
}

fn local(entry: &InterfaceAddress) -> Option<Local> {
    let address = entry.address.as_ref()?;
    let (ip, scope_id) = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
        (Some(address), _) => (address.ip().into(), 0),
        (None, Some(address)) => (address.ip().into(), address.scope_id()),
        (None, None) => return None,
    };
    // An address of IPv4 may have a label of its own: eth0:1.
    let name = entry.interface_name.split(':').next().unwrap_or_default();
    let up = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
    Some(Local {
        ip,
        scope_id,
        interface: name.to_owned(),
        // It has gone meanwhile, and that will be told.
        index: if_nametoindex(name).unwrap_or(0),
        speed: speed(name),
        is_up: entry.flags.contains(up),
    })
}

/// Bits per second of an interface; `None`: it has none, or says so by -1.
fn speed(interface: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/sys/class/net/{interface}/speed")).ok()?;
    let megabits: u64 = text.trim().parse().ok()?;
    megabits.checked_mul(1_000_000).filter(|speed| *speed > 0)
}

impl AddressStatus {
    /// As workers are told.
    pub(super) fn to_abi(&self) -> Address {
        let ip = match self.address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        Address {
            address: Ipv6Addr::octets(&ip),
            link_speed: self.link_speed,
            interface: self.interface_index,
            scope_id: scope_of(&self.address),
            port: self.address.port(),
            reserved: [0; 3],
        }
    }
}

/// Readable when interfaces or their addresses may have changed.
#[derive(Debug)]
pub(super) struct Watch(OwnedFd);

impl Watch {
    /// Watches from now on.
    ///
    /// # Errors
    ///
    /// The system has no such sockets, or none left.
    pub(super) fn new() -> io::Result<Self> {
        let groups = libc::RTMGRP_LINK | libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
        // None: the first protocol, which is NETLINK_ROUTE.
        let socket = socket_with(family, kind, flags, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, groups as u32))?;
        Ok(Self(socket))
    }

    /// Takes what there is. What it says does not matter, for the addresses are read anew: nor does
    /// it that more was to be said than the socket holds.
    pub(super) fn calm(&self) {
        for _ in 0..NOTIFICATIONS {
            let taken = recv(&self.0, &mut [0_u8; 1][..], RecvFlags::empty());
            if !matches!(taken, Ok(_) | Err(Errno::NOBUFS | Errno::INTR)) {
                return;
            }
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(ip: &str, interface: &str, index: u32) -> Local {
        Local {
            ip: ip.parse().unwrap(),
            scope_id: if ip.starts_with("fe80") { index } else { 0 },
            interface: interface.to_owned(),
            index,
            speed: None,
            is_up: true,
        }
    }

    fn machine() -> Vec<Local> {
        vec![
            local("127.0.0.1", "lo", 1),
            local("10.0.0.1", "eth0", 2),
            Local {
                speed: Some(25_000_000_000),
                ..local("10.0.1.1", "eth1", 3)
            },
            Local {
                is_up: false,
                ..local("10.0.2.1", "eth2", 4)
            },
            local("::1", "lo", 1),
            local("fe80::1", "eth0", 2),
            local("fe80::1", "eth1", 3),
            local("2001:db8::1", "eth0", 2),
        ]
    }

    /// Addresses with their interfaces.
    fn found(listen: &[&str]) -> Vec<(String, u32)> {
        let listen: Vec<Listen> = listen.iter().map(|text| text.parse().unwrap()).collect();
        let found = reachable_of(&listen, &machine());
        let shown = |a: &AddressStatus| (a.address.to_string(), a.interface_index);
        found.iter().map(shown).collect()
    }

    fn expect(expected: &[(&str, u32)]) -> Vec<(String, u32)> {
        let owned = |(address, index): &(&str, u32)| ((*address).to_owned(), *index);
        expected.iter().map(owned).collect()
    }

    #[test]
    fn an_unspecified_address_stands_for_what_other_machines_can_name_and_is_up() {
        let both = found(&["0.0.0.0:5445", "[::]:1"]);
        let expected = [
            ("10.0.0.1:5445", 2),
            ("10.0.1.1:5445", 3),
            ("[2001:db8::1]:1", 2),
        ];
        assert_eq!(both, expect(&expected));
    }

    #[test]
    fn a_given_address_stands_for_itself() {
        for (listen, index) in [
            ("127.0.0.1:5445", 1),
            ("[::1]:5445", 1),
            ("10.0.1.1:7", 3),
            ("[fe80::1%3]:5445", 3),
            // Nobody's by name, as any address of a network that is routed to this machine.
            ("127.0.0.2:5445", 0),
        ] {
            assert_eq!(found(&[listen]), expect(&[(listen, index)]));
        }
        assert_eq!(found(&["10.0.2.1:5445"]), [], "down");
        assert_eq!(
            found(&["[fe80::1]:5445"]),
            expect(&[("[fe80::1%2]:5445", 2)])
        );
    }

    #[test]
    fn an_address_is_named_once_and_a_given_one_has_its_own_speed() {
        let mut listen: Vec<Listen> = ["0.0.0.0:5445", "10.0.0.1:5445", "10.0.0.1:7"]
            .map(|text| text.parse().unwrap())
            .into();
        listen[1].link_speed = Some(1_000_000);
        let found = reachable_of(&listen, &machine());
        let speeds: Vec<_> = found
            .iter()
            .map(|a| (a.address.to_string(), a.link_speed))
            .collect();
        let expected = [
            ("10.0.0.1:5445".to_owned(), 1_000_000),
            ("10.0.0.1:7".to_owned(), DEFAULT_SPEED),
            ("10.0.1.1:5445".to_owned(), 25_000_000_000),
        ];
        assert_eq!(speeds, expected);
        listen[0].link_speed = Some(2_000_000);
        let found = reachable_of(&listen, &machine());
        assert_eq!(found[2].link_speed, 2_000_000);
    }

    #[test]
    fn there_are_at_most_as_many_as_fit_a_message() {
        let locals: Vec<Local> = (0..100)
            .map(|n| local(&format!("10.0.0.{n}"), "eth0", 2))
            .collect();
        let found = reachable_of(&["0.0.0.0:5445".parse().unwrap()], &locals);
        assert_eq!(found.len(), MAX_ADDRESSES);
        assert_eq!(found[63].address.to_string(), "10.0.0.63:5445");
    }

    #[test]
    fn addresses_are_told_in_one_form() {
        let status = |text: &str| AddressStatus {
            address: text.parse().unwrap(),
            interface: None,
            interface_index: 3,
            link_speed: 5,
            fabric: "software".to_owned(),
        };
        let four = status("10.0.0.1:5445").to_abi();
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 0, 0, 1];
        assert_eq!((four.address, four.port), (mapped, 5445));
        assert_eq!((four.interface, four.link_speed), (3, 5));
        let six = status("[fe80::1%7]:5445").to_abi();
        assert_eq!(
            (six.address[0], six.address[15], six.scope_id),
            (0xfe, 1, 7)
        );
    }

    #[test]
    fn this_machine_has_a_loopback_interface() {
        let found = reachable(&["127.0.0.1:5445".parse().unwrap()]).unwrap();
        let [loopback] = found.as_slice() else {
            panic!("{found:?}");
        };
        assert_eq!(loopback.interface.as_deref(), Some("lo"));
        assert!(loopback.interface_index > 0 && loopback.link_speed > 0);
    }

    #[test]
    fn watching_begins_and_waits_for_nothing() {
        let watch = Watch::new().unwrap();
        watch.calm();
        watch.calm();
    }
}
