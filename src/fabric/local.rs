// SPDX-License-Identifier: GPL-2.0-or-later

//! [`LocalAddresses`]: the addresses of this side that peers may connect to.

use alloc::collections::BTreeSet;
use core::fmt;
use core::net::{IpAddr, SocketAddr};

/// Addresses of this side that peers may connect to.
///
/// An IPv4 address and its IPv4-mapped IPv6 form are the same address. Link-local IPv6 addresses are the same only if
/// their scopes are the same, too; other addresses have no scope.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LocalAddresses {
    /// Peers may connect to all addresses.
    #[default]
    All,
    /// Peers may connect only to these addresses.
    Only(BTreeSet<LocalAddress>),
}

/// An address of one host, without a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalAddress {
    ip: IpAddr,
    scope_id: u32,
}

impl LocalAddress {
    /// Makes an address; `scope_id` matters only for link-local IPv6 addresses.
    #[must_use]
    pub fn new(ip: IpAddr, scope_id: u32) -> Self {
        let ip = ip.to_canonical();
        let is_scoped = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        Self {
            ip,
            scope_id: if is_scoped { scope_id } else { 0 },
        }
    }

    /// Returns the address, which is never an IPv4-mapped IPv6 address.
    #[must_use]
    pub const fn ip(&self) -> IpAddr {
        self.ip
    }

    /// Returns the scope of a link-local IPv6 address; 0 for others.
    #[must_use]
    pub const fn scope_id(&self) -> u32 {
        self.scope_id
    }
}

impl fmt::Display for LocalAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scope_id {
            0 => self.ip.fmt(f),
            scope_id => write!(f, "{}%{scope_id}", self.ip),
        }
    }
}

impl From<SocketAddr> for LocalAddress {
    fn from(address: SocketAddr) -> Self {
        let scope_id = match address {
            SocketAddr::V4(_) => 0,
            SocketAddr::V6(address) => address.scope_id(),
        };
        Self::new(address.ip(), scope_id)
    }
}

impl LocalAddresses {
    /// Returns whether peers may connect to `address`.
    #[must_use]
    pub fn admit(&self, address: impl Into<LocalAddress>) -> bool {
        match self {
            Self::All => true,
            Self::Only(addresses) => addresses.contains(&address.into()),
        }
    }

    /// Returns whether peers may connect to the local address of a connection. If the system does not know that
    /// address, the connection is admitted only if all addresses are.
    #[must_use]
    pub fn admit_conn(&self, address: Option<SocketAddr>) -> bool {
        match address {
            Some(address) => self.admit(address),
            None => *self == Self::All,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(addresses: &[(&str, u32)]) -> LocalAddresses {
        let address = |(ip, scope): &(&str, u32)| LocalAddress::new(ip.parse().unwrap(), *scope);
        LocalAddresses::Only(addresses.iter().map(address).collect())
    }

    fn admits(addresses: &LocalAddresses, address: &str) -> bool {
        addresses.admit(address.parse::<SocketAddr>().unwrap())
    }

    #[test]
    fn all_admits_every_address_and_an_empty_list_none() {
        assert!(admits(&LocalAddresses::default(), "10.0.0.1:5445"));
        assert!(!admits(&only(&[]), "127.0.0.1:5445"));
        assert!(LocalAddresses::All.admit_conn(None));
        assert!(!only(&[("10.0.0.1", 0)]).admit_conn(None));
    }

    #[test]
    fn an_address_is_the_same_in_both_forms_and_at_every_port() {
        let some = only(&[("::ffff:10.0.0.1", 0), ("2001:db8::1", 7)]);
        for address in [
            "10.0.0.1:1",
            "[::ffff:10.0.0.1]:2",
            "[2001:db8::1]:3",
            "[2001:db8::1%9]:4",
        ] {
            assert!(admits(&some, address), "{address}");
        }
        for address in ["10.0.0.2:1", "[::10.0.0.1]:1", "[2001:db8::2]:1"] {
            assert!(!admits(&some, address), "{address}");
        }
    }

    #[test]
    fn a_link_local_address_is_one_with_its_scope() {
        let some = only(&[("fe80::1", 3)]);
        assert!(admits(&some, "[fe80::1%3]:5445"));
        assert!(!admits(&some, "[fe80::1%4]:5445"));
        assert!(!admits(&some, "[fe80::1]:5445"));
    }
}
