// SPDX-License-Identifier: GPL-2.0-or-later

//! The addresses on which a broker listens, and how they differ from those of another configuration.

use std::net::SocketAddr;

use crate::broker::config::Listen;
use crate::fabric::FabricKind;

/// An address on which all reactors of a fabric listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::broker) struct Listening {
    /// The address as it was placed: its port may be 0.
    pub(in crate::broker) asked: SocketAddr,
    /// The address with its real port.
    pub(in crate::broker) at: Listen,
}

/// What has to be done to listen on other addresses.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Difference {
    /// What stays, with the speeds of the new configuration.
    pub(super) stay: Vec<Listening>,
    /// What ends.
    pub(super) end: Vec<Listening>,
    /// The entries of `listen` that are new, and have to be placed.
    pub(super) begin: Vec<Listen>,
}

/// Compares what a broker listens on, because of the entries `before` of `listen`, with other entries; `default` is the
/// fabric of those that do not name one.
///
/// Entries that were there before are not placed anew: the machine may have other addresses and devices now, and
/// addresses that are served must not change their fabric.
pub(super) fn difference(
    listening: &[Listening],
    (before, wanted): (&[Listen], &[Listen]),
    default: Option<FabricKind>,
) -> Difference {
    // Port 0 may occur more than once, so each entry counts once.
    let mut old = before.to_vec();
    let (mut named, mut begin) = (Vec::new(), Vec::new());
    for entry in wanted {
        match old.iter().position(|old| old.address == entry.address) {
            Some(same) => {
                old.swap_remove(same);
                named.push(*entry);
            }
            None => begin.push(*entry),
        }
    }
    let wild = named.clone();
    let (mut stay, mut end) = (Vec::new(), Vec::new());
    for it in listening {
        let is_it = |entry: &Listen| {
            entry.address == it.asked && (entry.fabric.is_none() || entry.fabric == it.at.fabric)
        };
        let entry = match named.iter().position(is_it) {
            Some(entry) => Some(named.swap_remove(entry)),
            None => wild
                .iter()
                .find(|entry| stands_for(entry, default, it, listening))
                .copied(),
        };
        match entry {
            Some(entry) => {
                let mut it = *it;
                it.at.link_speed = entry.link_speed;
                stay.push(it);
            }
            None => end.push(*it),
        }
    }
    Difference { stay, end, begin }
}

/// Returns whether an entry with an unspecified address is served by `it`, among other addresses.
fn stands_for(
    entry: &Listen,
    default: Option<FabricKind>,
    it: &Listening,
    listening: &[Listening],
) -> bool {
    let (every, one) = (entry.address, it.asked);
    let has_family = every.is_ipv4() == one.is_ipv4() && every.port() == one.port();
    if !every.ip().is_unspecified() || !has_family {
        return false;
    }
    if it.at.fabric == Some(FabricKind::Verbs) {
        return entry.fabric.or(default) != Some(FabricKind::Software);
    }
    // Software listens on the unspecified address itself, unless that would take the ports of an iWARP device.
    let is_every = |it: &Listening| it.asked == every && it.at.fabric != Some(FabricKind::Verbs);
    !listening.iter().any(is_every)
}

/// Returns whether two addresses cannot belong to different programs: they have the same port, and are equal, or one
/// of them stands for all addresses.
pub(super) fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let is_every = one.ip().is_unspecified() || other.ip().is_unspecified();
    let is_same = one.ip() == other.ip() || (is_every && one.is_ipv4() == other.is_ipv4());
    is_same && one.port() == other.port() && one.port() != 0
}
