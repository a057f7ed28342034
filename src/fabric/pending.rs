// SPDX-License-Identifier: GPL-2.0-or-later

//! Keeps track of connections of unknown peers: the source of each, and which is dropped when there are too many.
//!
//! Any host that reaches a port can open such connections, so their number is limited, in total and for each source. A
//! newcomer is always admitted: if there are now too many, the oldest connection of the source with the largest number
//! of connections is dropped. The connection of a client that does its part at once no longer counts here before it can
//! become the oldest, however many other clients do nothing.
//!
//! Only this module defines a source. Each stage of a connection that has such limits counts sources with this module.

use alloc::collections::{BTreeMap, BTreeSet};
use core::cmp::Reverse;
use core::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The limits on connections, in total and of each source.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) total: usize,
    pub(crate) per_source: usize,
}

/// The limit because of which a connection was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    Total,
    PerSource,
}

/// Connections by source, each identified by a key.
#[derive(Debug)]
pub(crate) struct Sources<K> {
    places: BTreeMap<K, (Source, u64)>,
    /// The connections of each source, the oldest first.
    by_source: BTreeMap<Source, BTreeMap<u64, K>>,
    /// The sources in order: the last has the largest number of connections and, among several such, the oldest
    /// connection.
    ranks: BTreeSet<Rank>,
    last: u64,
}

type Rank = (usize, Reverse<u64>, Source);

/// Peers whose connections are counted together: an IPv4 address, or the /64 that one IPv6 host commonly has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source(IpAddr);

impl Source {
    /// Returns the source of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
            ip @ IpAddr::V4(_) => ip,
        })
    }
}

impl From<SocketAddr> for Source {
    fn from(peer: SocketAddr) -> Self {
        Self::of(peer.ip())
    }
}

impl<K> Default for Sources<K> {
    fn default() -> Self {
        Self {
            places: BTreeMap::new(),
            by_source: BTreeMap::new(),
            ranks: BTreeSet::new(),
            last: 0,
        }
    }
}

impl<K: Copy + Ord> Sources<K> {
    /// Returns the number of connections of all sources.
    pub(crate) fn total(&self) -> usize {
        self.places.len()
    }

    /// Returns the number of connections of one source.
    pub(crate) fn of(&self, source: Source) -> usize {
        self.by_source.get(&source).map_or(0, BTreeMap::len)
    }

    pub(crate) fn contains(&self, key: &K) -> bool {
        self.places.contains_key(key)
    }

    /// Adds a connection, which is now the youngest.
    pub(crate) fn add(&mut self, key: K, source: Source) {
        self.remove(&key);
        self.last += 1;
        let number = self.last;
        self.places.insert(key, (source, number));
        self.change(source, |conns| conns.insert(number, key));
    }

    /// Removes a connection; returns whether it existed.
    pub(crate) fn remove(&mut self, key: &K) -> bool {
        let Some((source, number)) = self.places.remove(key) else {
            return false;
        };
        self.change(source, |conns| conns.remove(&number));
        true
    }

    /// Gives a connection another key; it stays as old as it is. Returns whether it existed.
    pub(crate) fn rename(&mut self, key: &K, to: K) -> bool {
        let Some((source, number)) = self.places.remove(key) else {
            return false;
        };
        self.places.insert(to, (source, number));
        self.change(source, |conns| conns.insert(number, to));
        true
    }

    /// Adds a connection. If there are now too many, removes the one that has to be dropped and returns it.
    pub(crate) fn admit(&mut self, key: K, source: Source, limits: Limits) -> Option<(K, Limit)> {
        self.add(key, source);
        let (victim, limit) = if self.of(source) > limits.per_source {
            (self.oldest_of(source), Limit::PerSource)
        } else if self.total() > limits.total {
            (self.oldest_of_greediest(), Limit::Total)
        } else {
            return None;
        };
        let victim = victim?;
        self.remove(&victim);
        Some((victim, limit))
    }

    /// Returns the oldest connection of one source.
    pub(crate) fn oldest_of(&self, source: Source) -> Option<K> {
        let (_, key) = self.by_source.get(&source)?.first_key_value()?;
        Some(*key)
    }

    /// Returns the oldest connection of the source with the largest number of connections.
    pub(crate) fn oldest_of_greediest(&self) -> Option<K> {
        let (_, _, source) = self.ranks.last()?;
        self.oldest_of(*source)
    }

    /// Returns the oldest connection of each source, with a number that is smaller the older it is.
    pub(crate) fn oldest(&self) -> impl Iterator<Item = (Source, u64, K)> + '_ {
        self.by_source.iter().filter_map(|(source, conns)| {
            let (number, key) = conns.first_key_value()?;
            Some((*source, *number, *key))
        })
    }

    fn change<T>(&mut self, source: Source, change: impl FnOnce(&mut BTreeMap<u64, K>) -> T) {
        let conns = self.by_source.entry(source).or_default();
        if let Some(rank) = rank(source, conns) {
            self.ranks.remove(&rank);
        }
        change(conns);
        match rank(source, conns) {
            Some(rank) => {
                self.ranks.insert(rank);
            }
            None => {
                self.by_source.remove(&source);
            }
        }
    }
}

fn rank<K>(source: Source, conns: &BTreeMap<u64, K>) -> Option<Rank> {
    let (oldest, _) = conns.first_key_value()?;
    Some((conns.len(), Reverse(*oldest), source))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        total: 4,
        per_source: 3,
    };

    fn source(text: &str) -> Source {
        Source::of(text.parse().unwrap())
    }

    /// Admits connections 1, 2, ... of these peers, and returns which of them were dropped.
    fn admit_all<const N: usize>(peers: [&str; N]) -> [Option<(usize, Limit)>; N] {
        let mut sources = Sources::default();
        let mut number = 0;
        peers.map(|text| {
            number += 1;
            sources.admit(number, source(text), LIMITS)
        })
    }

    #[test]
    fn a_source_with_too_many_connections_loses_its_oldest() {
        let went = admit_all(["10.0.0.1", "10.0.0.2", "10.0.0.1", "10.0.0.1", "10.0.0.1"]);
        assert_eq!(went, [None, None, None, None, Some((1, Limit::PerSource))]);
    }

    #[test]
    fn at_the_total_limit_the_source_with_most_connections_loses_its_oldest() {
        let went = admit_all(["10.0.0.1", "10.0.0.2", "10.0.0.2", "::1", "10.0.0.3"]);
        assert_eq!(went, [None, None, None, None, Some((2, Limit::Total))]);
    }

    #[test]
    fn among_equal_sources_the_oldest_connection_is_dropped() {
        let went = admit_all(["10.0.0.4", "10.0.0.3", "10.0.0.1", "10.0.0.2", "10.0.0.9"]);
        assert_eq!(went[4], Some((1, Limit::Total)));
    }

    #[test]
    fn removed_connections_leave_nothing_behind() {
        let mut sources = Sources::default();
        for number in 0..10 {
            let text = if number % 2 == 0 { "::1" } else { "10.0.0.1" };
            sources.add(number, source(text));
        }
        assert_eq!((sources.total(), sources.of(source("::1"))), (10, 5));
        for number in 0..10 {
            assert!(sources.remove(&number) && !sources.remove(&number));
        }
        assert_eq!((sources.total(), sources.oldest_of_greediest()), (0, None));
        assert!(sources.by_source.is_empty() && sources.ranks.is_empty());
    }

    #[test]
    fn a_renamed_connection_stays_as_old_as_it_is() {
        let mut sources = Sources::default();
        for number in 1..=3 {
            sources.add(number, source("::1"));
        }
        assert!(sources.rename(&1, 9) && !sources.rename(&1, 8));
        assert_eq!(sources.oldest_of_greediest(), Some(9));
        for number in [9, 2, 3] {
            assert!(sources.remove(&number));
        }
        assert!(sources.by_source.is_empty() && sources.ranks.is_empty());
    }

    #[test]
    fn a_source_is_an_address_or_a_prefix() {
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:0:0:1"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
    }
}
