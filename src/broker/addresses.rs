// SPDX-License-Identifier: GPL-2.0-or-later

//! Finds the addresses on which clients reach the device, and notices when they change. smbd announces these addresses
//! to its clients ([MS-SMB2] 3.3.5.15.11), which find SMB Direct that way.
//!
//! An unspecified address in `listen` stands for all addresses of its family that are up, except for loopback
//! addresses, which no other machine can reach. Any other address stands for itself, once this machine has it.
//! Link-local IPv6 addresses are never announced, because their scope means nothing to another machine, and smbd could
//! not pass the scope on.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::{InterfaceFlags, if_nametoindex};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

use super::config::{Config, Listen};
use super::presence::Presence;
use super::status::AddressStatus;
use crate::device::abi::{Address, MAX_ADDRESSES};
use crate::fabric::{FabricKind, LocalAddress, LocalAddresses};

/// Speed, in bits per second, of interfaces that do not report one, such as loopback and virtual interfaces.
const DEFAULT_SPEED: u64 = 10_000_000_000;

/// Maximum number of notifications taken in one round.
const NOTIFICATIONS: usize = 1024;

/// An address of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Local {
    pub(super) ip: IpAddr,
    /// The scope of a link-local address, or 0.
    pub(super) scope_id: u32,
    pub(super) interface: String,
    pub(super) index: u32,
    /// The speed in bits per second, if the system reports one.
    pub(super) speed: Option<u64>,
    pub(super) is_up: bool,
}

/// What the broker knows about the addresses on which it listens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reach {
    /// The addresses on which clients reach the broker, with real ports: at most [`MAX_ADDRESSES`], in the order of
    /// `listen`, except that addresses that `listen` names come before those for which an unspecified address stands.
    pub(super) addresses: Vec<AddressStatus>,
    /// Addresses that `listen` names, but that this machine does not have.
    pub(super) missing: Vec<SocketAddr>,
    /// The addresses of all interfaces.
    pub(super) interfaces: Arc<BTreeSet<LocalAddress>>,
}

impl Local {
    fn address(&self) -> LocalAddress {
        LocalAddress::new(self.ip, self.scope_id)
    }
}

/// Finds the addresses on which clients reach a broker that listens on `listen`, if they may use `allowed` addresses.
///
/// # Errors
///
/// The system does not list its addresses.
pub(super) fn reach(listen: &[Listen], allowed: &LocalAddresses) -> io::Result<Reach> {
    let locals = locals()?;
    let interfaces = locals.iter().map(Local::address).collect();
    let mut presence = Presence::new(Arc::new(interfaces));
    let mut is_here = |address| presence.has(address);
    Ok(reach_of(listen, allowed, &locals, &mut is_here))
}

impl Config {
    /// Returns the addresses of `listen` that this machine does not have now; the broker serves clients there as soon
    /// as the machine has them. The list is empty if the system does not list its addresses.
    #[must_use]
    pub fn missing_addresses(&self) -> Vec<SocketAddr> {
        let reach = reach(&self.listen, &LocalAddresses::All);
        reach.map_or_else(|_| Vec::new(), |reach| reach.missing)
    }
}

/// Returns the addresses of this machine.
pub(super) fn locals() -> io::Result<Vec<Local>> {
    Ok(getifaddrs()?.filter_map(|entry| local(&entry)).collect())
}

fn reach_of(
    listen: &[Listen],
    allowed: &LocalAddresses,
    locals: &[Local],
    is_here: &mut dyn FnMut(LocalAddress) -> bool,
) -> Reach {
    let (every, given): (Vec<Listen>, Vec<Listen>) = listen
        .iter()
        .partition(|listen| listen.address.ip().is_unspecified());
    let (given, missing): (Vec<Listen>, Vec<Listen>) = given.iter().partition(|listen| {
        locals.iter().any(|local| is_it(listen, local)) || is_here(listen.address.into())
    });
    let given = given.iter().filter_map(|listen| itself(listen, locals));
    let every = every.iter().flat_map(|listen| {
        let of_family = |local: &&Local| local.ip.is_ipv4() == listen.address.is_ipv4();
        let locals = locals.iter().filter(of_family);
        let locals = locals.filter(|local| local.is_up && !is_near(local.ip));
        locals.map(|local| status(listen, local.ip, Some(local)))
    });
    let mut addresses: Vec<AddressStatus> = Vec::new();
    for found in given.chain(every) {
        let is_known = addresses.iter().any(|known| known.address == found.address);
        let is_told = allowed.admit(found.address) && !is_link_local(found.address.ip());
        if is_told && !is_known && addresses.len() < MAX_ADDRESSES {
            addresses.push(found);
        }
    }
    Reach {
        addresses,
        missing: missing.iter().map(|listen| listen.address).collect(),
        interfaces: Arc::new(locals.iter().map(Local::address).collect()),
    }
}

/// Returns whether an address that `listen` names is this address of the machine.
fn is_it(listen: &Listen, local: &Local) -> bool {
    let scope_id = scope_of(&listen.address);
    local.ip == listen.address.ip() && (scope_id == 0 || scope_id == local.scope_id)
}

/// Returns the status of an address that `listen` names; `None` if the address's interface is down. An address that no
/// interface has may still belong to this machine, if the address is routed here.
fn itself(listen: &Listen, locals: &[Local]) -> Option<AddressStatus> {
    let local = locals.iter().find(|local| is_it(listen, local));
    if local.is_some_and(|local| !local.is_up) {
        return None;
    }
    Some(status(listen, listen.address.ip(), local))
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

/// Returns whether an address has a meaning only on this machine or on one of its networks.
pub(super) const fn is_near(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(address) => address.is_loopback() || is_link_local(ip),
    }
}

const fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

fn local(entry: &InterfaceAddress) -> Option<Local> {
    let address = entry.address.as_ref()?;
    let (ip, scope_id) = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
        (Some(address), _) => (address.ip().into(), 0),
        (None, Some(address)) => (address.ip().into(), address.scope_id()),
        (None, None) => return None,
    };
    // An IPv4 address may have a label of its own: eth0:1.
    let name = entry.interface_name.split(':').next().unwrap_or_default();
    let up = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
    Some(Local {
        ip,
        scope_id,
        interface: name.to_owned(),
        // The index is 0 if the interface has gone in the meantime; a notification will report its end.
        index: if_nametoindex(name).unwrap_or(0),
        speed: speed(name),
        is_up: entry.flags.contains(up),
    })
}

/// Returns the speed of an interface in bits per second; `None` if the interface does not report one. The system may
/// show an unreported speed as -1.
fn speed(interface: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/sys/class/net/{interface}/speed")).ok()?;
    let megabits: u64 = text.trim().parse().ok()?;
    megabits.checked_mul(1_000_000).filter(|speed| *speed > 0)
}

impl AddressStatus {
    /// Returns the address in the form that workers get.
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

/// A socket that is readable when interfaces or their addresses may have changed.
#[derive(Debug)]
pub(super) struct Watch(OwnedFd);

impl Watch {
    /// Begins to watch.
    ///
    /// # Errors
    ///
    /// The system does not have such sockets, or has none left.
    pub(super) fn new() -> io::Result<Self> {
        let groups = libc::RTMGRP_LINK | libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
        // `None` stands for the first protocol, which is NETLINK_ROUTE.
        let socket = socket_with(family, kind, flags, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, groups as u32))?;
        Ok(Self(socket))
    }

    /// Takes all notifications. Their contents do not matter, because the addresses are read again; nor does it matter
    /// if some are lost because the socket had no room for them.
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

    /// Returns the addresses found, with their interfaces.
    fn found(listen: &[&str]) -> Vec<(String, u32)> {
        let listen: Vec<Listen> = listen.iter().map(|text| text.parse().unwrap()).collect();
        let shown = |a: &AddressStatus| (a.address.to_string(), a.interface_index);
        told(&listen, &LocalAddresses::All, &machine())
            .iter()
            .map(shown)
            .collect()
    }

    /// Finds the addresses on a machine to which 127.0.0.0/8 is routed.
    fn reached(listen: &[Listen], allowed: &LocalAddresses, locals: &[Local]) -> Reach {
        let mut is_here = |address: LocalAddress| address.ip().is_loopback();
        reach_of(listen, allowed, locals, &mut is_here)
    }

    fn told(listen: &[Listen], allowed: &LocalAddresses, locals: &[Local]) -> Vec<AddressStatus> {
        reached(listen, allowed, locals).addresses
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
            // No interface has this address, but its network is routed to this machine.
            ("127.0.0.2:5445", 0),
        ] {
            assert_eq!(found(&[listen]), expect(&[(listen, index)]));
        }
        assert_eq!(found(&["10.0.2.1:5445"]), [], "down");
        for link_local in ["[fe80::1]:5445", "[fe80::1%3]:5445"] {
            assert_eq!(found(&[link_local]), [], "its scope is local");
        }
    }

    #[test]
    fn only_what_is_allowed_is_told() {
        let allowed = ["10.0.1.1", "127.0.0.1", "192.0.2.1"];
        let allowed = allowed.map(|ip| LocalAddress::new(ip.parse().unwrap(), 0));
        let allowed = LocalAddresses::Only(allowed.into());
        for (listen, expected) in [
            (&["0.0.0.0:5445", "[::]:5445"][..], &["10.0.1.1:5445"][..]),
            (&["127.0.0.1:7", "10.0.0.1:7"], &["127.0.0.1:7"]),
        ] {
            let listen: Vec<Listen> = listen.iter().map(|text| text.parse().unwrap()).collect();
            let found = told(&listen, &allowed, &machine());
            let found: Vec<_> = found.iter().map(|a| a.address.to_string()).collect();
            assert_eq!(found, expected);
            let none = LocalAddresses::Only([].into());
            assert_eq!(told(&listen, &none, &machine()), []);
        }
    }

    #[test]
    fn an_address_that_this_machine_does_not_have_is_missing() {
        let listen = [
            "10.0.0.1",
            "10.0.9.1",
            "127.0.0.2",
            "[fe80::1%9]:5445",
            "0.0.0.0",
        ];
        let listen = listen.map(|text| text.parse::<Listen>().unwrap());
        let reached = reached(&listen, &LocalAddresses::All, &machine());
        let missing: Vec<_> = reached.missing.iter().map(ToString::to_string).collect();
        assert_eq!(missing, ["10.0.9.1:5445", "[fe80::1%9]:5445"]);
        let told: Vec<_> = reached.addresses.iter().map(|a| a.address.ip()).collect();
        let expected = ["10.0.0.1", "127.0.0.2", "10.0.1.1"];
        assert_eq!(told, expected.map(|ip| ip.parse::<IpAddr>().unwrap()));
    }

    #[test]
    fn an_address_is_named_once_and_a_given_one_has_its_own_speed() {
        let mut listen: Vec<Listen> = ["0.0.0.0:5445", "10.0.0.1:5445", "10.0.0.1:7"]
            .map(|text| text.parse().unwrap())
            .into();
        listen[1].link_speed = Some(1_000_000);
        let found = told(&listen, &LocalAddresses::All, &machine());
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
        let found = told(&listen, &LocalAddresses::All, &machine());
        assert_eq!(found[2].link_speed, 2_000_000);
    }

    #[test]
    fn there_are_at_most_as_many_as_fit_a_message() {
        let locals: Vec<Local> = (0..100)
            .map(|n| local(&format!("10.0.0.{n}"), "eth0", 2))
            .collect();
        let found = told(
            &["0.0.0.0:5445".parse().unwrap()],
            &LocalAddresses::All,
            &locals,
        );
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
        let listen = ["127.0.0.1:5445".parse().unwrap()];
        let found = reach(&listen, &LocalAddresses::All).unwrap();
        assert_eq!(found.missing, []);
        let [loopback] = found.addresses.as_slice() else {
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
