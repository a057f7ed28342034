// SPDX-License-Identifier: GPL-2.0-or-later

//! Finds out whether this machine has an address.
//!
//! This machine has the addresses of its interfaces, and those that its routing table calls local: all of 127.0.0.0/8,
//! and networks that are routed to it. The system is asked when something may have changed, never per message.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::net::{recv, send, socket_with};

use crate::fabric::LocalAddress;

/// The addresses of this machine at one moment. If the system does not answer, an address counts as present, so that no
/// client loses its connection because the answer is missing.
#[derive(Debug)]
pub(super) struct Presence {
    interfaces: Arc<BTreeSet<LocalAddress>>,
    routes: BTreeMap<LocalAddress, bool>,
}

impl Presence {
    /// Makes the record of a machine whose interfaces have these addresses.
    pub(super) const fn new(interfaces: Arc<BTreeSet<LocalAddress>>) -> Self {
        Self {
            interfaces,
            routes: BTreeMap::new(),
        }
    }

    /// Returns whether this machine has `address`.
    pub(super) fn has(&mut self, address: LocalAddress) -> bool {
        // A link-local address is routed only on its own interface.
        let is_routed = || address.scope_id() == 0 && is_routed_here(address.ip()).unwrap_or(true);
        self.interfaces.contains(&address) || *self.routes.entry(address).or_insert_with(is_routed)
    }
}

/// Messages of `rtnetlink(7)`.
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const RTA_DST: u16 = 1;
/// Length of `struct nlmsghdr`, and offset of a route's type in the `struct rtmsg` that follows.
const HEADER: usize = 16;
const ROUTE_TYPE: usize = HEADER + 7;
const RTN_LOCAL: u8 = 2;

/// Returns whether the routing table delivers `ip` to this machine itself.
fn is_routed_here(ip: IpAddr) -> Result<bool, Errno> {
    let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // `None` stands for the first protocol, which is NETLINK_ROUTE.
    let socket: OwnedFd = socket_with(family, kind, flags, None)?;
    send(&socket, &route_request(ip), SendFlags::empty())?;
    // The kernel answers before `send` returns.
    let mut answer = [0; 4096];
    let (length, _) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
    read_route(answer.get(..length).unwrap_or_default())
}

fn route_request(ip: IpAddr) -> Vec<u8> {
    let (family, address) = match ip {
        IpAddr::V4(ip) => (AddressFamily::INET, ip.octets().to_vec()),
        IpAddr::V6(ip) => (AddressFamily::INET6, ip.octets().to_vec()),
    };
    // The request has a header, `struct rtmsg` of 12 bytes, and one attribute.
    let attribute = 4 + address.len();
    let length = HEADER + 12 + attribute;
    let mut request = Vec::with_capacity(length);
    request.extend((length as u32).to_ne_bytes());
    request.extend(RTM_GETROUTE.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    request.extend([0; 8]);
    request.extend([family.as_raw() as u8, address.len() as u8 * 8]);
    request.extend([0; 10]);
    request.extend((attribute as u16).to_ne_bytes());
    request.extend(RTA_DST.to_ne_bytes());
    request.extend(address);
    request
}

fn read_route(answer: &[u8]) -> Result<bool, Errno> {
    let bytes = |at: usize, length| answer.get(at..at + length).ok_or(Errno::BADMSG);
    let kind = bytes(4, 2)?;
    match u16::from_ne_bytes([kind[0], kind[1]]) {
        RTM_NEWROUTE => Ok(bytes(ROUTE_TYPE, 1)? == [RTN_LOCAL]),
        NLMSG_ERROR => {
            let error = bytes(HEADER, 4)?;
            let error = i32::from_ne_bytes([error[0], error[1], error[2], error[3]]);
            match Errno::from_raw_os_error(error.saturating_neg()) {
                error @ (Errno::NOMEM | Errno::NOBUFS) => Err(error),
                // There is no route, or one that rejects the address.
                _ => Ok(false),
            }
        }
        _ => Err(Errno::BADMSG),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(ip: &str) -> LocalAddress {
        LocalAddress::new(ip.parse().unwrap(), 0)
    }

    #[test]
    fn this_machine_has_what_is_routed_to_it_and_not_what_is_documentation() {
        let mut presence = Presence::new(Arc::new([address("192.0.2.9")].into()));
        for ip in ["127.0.0.1", "::ffff:127.0.0.1", "127.9.9.9", "192.0.2.9"] {
            assert!(presence.has(address(ip)), "{ip}");
        }
        for ip in ["192.0.2.7", "2001:db8::7"] {
            assert!(!presence.has(address(ip)), "{ip}");
        }
        let link_local = LocalAddress::new("fe80::dead:1".parse().unwrap(), 1);
        assert!(!presence.has(link_local));
    }

    #[test]
    fn reads_what_the_kernel_says() {
        let mut answer = vec![0; 60];
        answer[4..6].copy_from_slice(&RTM_NEWROUTE.to_ne_bytes());
        assert_eq!(read_route(&answer), Ok(false));
        answer[ROUTE_TYPE] = RTN_LOCAL;
        assert_eq!(read_route(&answer), Ok(true));
        assert!(read_route(&answer[..20]).is_err());
        answer[4..6].copy_from_slice(&100_u16.to_ne_bytes());
        assert!(read_route(&answer).is_err());
        answer[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        for (error, expected) in [
            (libc::ENETUNREACH, Ok(false)),
            (libc::ENOMEM, Err(Errno::NOMEM)),
        ] {
            answer[16..20].copy_from_slice(&(-error).to_ne_bytes());
            assert_eq!(read_route(&answer), expected);
        }
    }
}
