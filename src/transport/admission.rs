//! Limits on connections that cost a peer little, in total and per source.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::{CloseReason, Config};

/// Connections that a peer can have without much effort, in total and by source, so that neither one
/// source nor all of them together take all places.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    total: usize,
    by_source: HashMap<IpAddr, usize>,
}

impl Sources {
    /// Connections of all peers, and those of the source of `peer`.
    pub(crate) fn count(&self, peer: SocketAddr) -> (usize, usize) {
        let of_source = self.by_source.get(&source_of(peer));
        (self.total, of_source.copied().unwrap_or(0))
    }

    /// Connections of all peers.
    #[cfg(feature = "broker")]
    pub(crate) const fn total(&self) -> usize {
        self.total
    }

    pub(crate) fn add(&mut self, peer: SocketAddr) {
        *self.by_source.entry(source_of(peer)).or_default() += 1;
        self.total += 1;
    }

    pub(crate) fn remove(&mut self, peer: SocketAddr) {
        let source = source_of(peer);
        self.total = self.total.saturating_sub(1);
        match self.by_source.get_mut(&source) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                self.by_source.remove(&source);
            }
        }
    }
}

/// Accepted connections that have not negotiated: a peer can open them without sending a byte of
/// SMB Direct.
#[derive(Debug, Default)]
pub(super) struct Admission(Sources);

impl Admission {
    /// Counts a connection of `peer`, or says why there is no place for it.
    pub(super) fn admit(&mut self, config: &Config, peer: SocketAddr) -> Result<(), CloseReason> {
        let (total, of_source) = self.0.count(peer);
        if total >= config.max_unnegotiated {
            return Err(CloseReason::TooManyUnnegotiated);
        }
        if of_source >= config.max_unnegotiated_per_source {
            return Err(CloseReason::TooManyUnnegotiatedOfSource);
        }
        self.0.add(peer);
        Ok(())
    }

    /// Gives the place back: the connection has negotiated, or is gone.
    pub(super) fn release(&mut self, peer: SocketAddr) {
        self.0.remove(peer);
    }
}

/// What counts as one source: an IPv4 address, or the /64 that one host of IPv6 commonly has.
fn source_of(peer: SocketAddr) -> IpAddr {
    match peer.ip().to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
        ip @ IpAddr::V4(_) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> IpAddr {
        source_of(SocketAddr::new(text.parse().unwrap(), 445))
    }

    #[test]
    fn a_source_is_an_address_or_a_prefix() {
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:0:0:1"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
    }
}
