// SPDX-License-Identifier: GPL-2.0-or-later

//! Decides which connections are allowed: limits apply to all connections, to strangers, and to connections that are
//! offered to the listener at a time.
//!
//! A *stranger* is a client without a session: any client that can reach the port. If there are too many strangers, or
//! too many connections, the source with the largest number of strangers loses its oldest stranger, and the newcomer
//! stays. So a client that logs in at once gets in, however many others do nothing. A source may have a quarter of the
//! strangers and of all connections, unless it is a gateway that many clients share.
//!
//! Offers are limited for the sake of the listener, which forks a process for each. A connection beyond that limit
//! waits. When an offered connection has found its owner, the device offers a waiting connection of the source with the
//! fewest offers.

use alloc::vec::Vec;

use crate::fabric::{ConnId, Source, Sources};

/// A connection of any shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The number of the shard that has it.
    pub shard: usize,
    /// The connection's number in that shard.
    pub conn: ConnId,
}

/// The limits on connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of connections.
    pub max_connections: usize,
    /// Maximum number of connections of strangers.
    pub max_unauthenticated: usize,
    /// Maximum number of connections that are offered to the listener at a time.
    pub max_undispatched: usize,
    /// Sources that many clients share.
    pub gateways: Vec<Source>,
}

impl Limits {
    fn is_gateway(&self, source: Source) -> bool {
        self.gateways.contains(&source)
    }
}

/// A limit that makes a connection end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Limit {
    /// A source has more than its share of [`Limits::max_connections`].
    #[strum(serialize = "too_many_connections_of_source")]
    ConnectionsOfSource,
    /// A source has more than its share of [`Limits::max_unauthenticated`].
    #[strum(serialize = "too_many_unauthenticated_of_source")]
    UnauthenticatedOfSource,
    /// There are more connections than [`Limits::max_connections`].
    #[strum(serialize = "too_many_connections")]
    Connections,
    /// There are more strangers than [`Limits::max_unauthenticated`].
    #[strum(serialize = "too_many_unauthenticated")]
    Unauthenticated,
}

impl Limit {
    /// Returns the limit's name as a reason and a counter.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Returns whether a single source exceeded its share.
    #[must_use]
    pub const fn is_of_source(self) -> bool {
        matches!(
            self,
            Self::ConnectionsOfSource | Self::UnauthenticatedOfSource
        )
    }
}

/// See the [module](self).
#[derive(Debug, Default)]
pub struct Admission {
    limits: Limits,
    connections: Sources<Place>,
    strangers: Sources<Place>,
    offered: Sources<Place>,
    waiting: Sources<Place>,
}

impl Admission {
    /// Makes an admission with these limits, and without connections.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Sets the limits. No connection ends because of lower ones: they count when the next one begins. Returns the
    /// waiting connections that may be offered now, which count as offered from now on.
    pub fn set_limits(&mut self, limits: Limits) -> Vec<Place> {
        self.limits = limits;
        core::iter::from_fn(|| self.next_offer()).collect()
    }

    /// Adds a new connection. If there are now too many connections, removes one and returns it, and the caller has to
    /// end it. The newcomer itself is removed only if there is no other stranger to remove.
    pub fn admit(&mut self, place: Place, source: Source) -> Option<(Place, Limit)> {
        self.connections.add(place, source);
        self.strangers.add(place, source);
        let limit = self.exceeded(source)?;
        let stranger = match limit.is_of_source() {
            true => self.strangers.oldest_of(source),
            false => self.strangers.oldest_of_greediest(),
        };
        let stranger = stranger?;
        self.connections.remove(&stranger);
        self.strangers.remove(&stranger);
        Some((stranger, limit))
    }

    /// Adds a connection that an earlier device admitted, and perhaps offered, whatever the limits are now.
    #[cfg(feature = "broker")]
    pub(super) fn adopt(
        &mut self,
        place: Place,
        source: Source,
        (is_stranger, is_offered): (bool, bool),
    ) {
        self.connections.add(place, source);
        if is_stranger {
            self.strangers.add(place, source);
        }
        if is_offered {
            self.offered.add(place, source);
        }
    }

    fn exceeded(&self, source: Source) -> Option<Limit> {
        let (connections, strangers) =
            (self.limits.max_connections, self.limits.max_unauthenticated);
        let is_gateway = self.limits.is_gateway(source);
        let of_source = |sources: &Sources<Place>, limit: usize| {
            !is_gateway && sources.of(source) > quarter(limit)
        };
        if of_source(&self.connections, connections) {
            Some(Limit::ConnectionsOfSource)
        } else if of_source(&self.strangers, strangers) {
            Some(Limit::UnauthenticatedOfSource)
        } else if self.connections.total() > connections {
            Some(Limit::Connections)
        } else if self.strangers.total() > strangers {
            Some(Limit::Unauthenticated)
        } else {
            None
        }
    }

    /// Adds a connection again that was removed, but got a session before it ended. So there may be one connection too
    /// many until another one ends.
    pub fn stays(&mut self, place: Place, source: Source) {
        self.connections.add(place, source);
    }

    /// Notes that a connection, which is not offered and does not wait, has moved. `false`: it was removed, and the
    /// caller has to end it.
    pub fn moved(&mut self, from: &Place, to: Place) -> bool {
        self.strangers.rename(from, to);
        self.connections.rename(from, to)
    }

    /// Notes that a connection has a session now.
    pub fn authenticated(&mut self, place: Place) {
        self.strangers.remove(&place);
    }

    /// Returns whether a connection may be offered now. If not, it waits, and [`done`](Self::done) returns it when it
    /// may be offered.
    pub fn offer(&mut self, place: Place, source: Source) -> bool {
        if self.offered.contains(&place) {
            return true;
        }
        let may = self.has_offer(source);
        let sources = if may {
            &mut self.offered
        } else {
            &mut self.waiting
        };
        sources.add(place, source);
        may
    }

    fn has_offer(&self, source: Source) -> bool {
        let limit = self.limits.max_undispatched;
        let of_source = if self.limits.is_gateway(source) {
            limit
        } else {
            quarter(limit)
        };
        self.offered.total() < limit && self.offered.of(source) < of_source
    }

    /// Notes that a connection no longer waits, because it has an owner or has ended. Returns the waiting connection
    /// that may be offered in its place, which counts as offered from now on.
    pub fn done(&mut self, place: Place) -> Option<Place> {
        self.waiting.remove(&place);
        if !self.offered.remove(&place) {
            return None;
        }
        self.next_offer()
    }

    /// Returns the waiting connection that is offered next, if one may be offered now.
    fn next_offer(&mut self) -> Option<Place> {
        let (source, _, next) = self
            .waiting
            .oldest()
            .filter(|(source, ..)| self.has_offer(*source))
            .min_by_key(|(source, number, _)| (self.offered.of(*source), *number))?;
        self.waiting.remove(&next);
        self.offered.add(next, source);
        Some(next)
    }

    /// Removes a connection that has ended, and does what [`done`](Self::done) does.
    pub fn closed(&mut self, place: Place) -> Option<Place> {
        self.connections.remove(&place);
        self.strangers.remove(&place);
        self.done(place)
    }

    /// Returns the number of strangers of all sources.
    #[must_use]
    pub fn strangers(&self) -> usize {
        self.strangers.total()
    }

    /// Returns the number of connections that are offered to the listener.
    #[must_use]
    pub fn offered(&self) -> usize {
        self.offered.total()
    }
}

/// Returns one source's share of a limit.
const fn quarter(limit: usize) -> usize {
    let quarter = limit / 4;
    if quarter == 0 { 1 } else { quarter }
}

#[cfg(test)]
mod tests {
    use slotmap::SlotMap;

    use super::*;

    struct Scene {
        admission: Admission,
        conns: SlotMap<ConnId, ()>,
    }

    impl Scene {
        fn new(max_connections: usize, max_unauthenticated: usize) -> Self {
            Self {
                admission: Admission::new(Limits {
                    max_connections,
                    max_unauthenticated,
                    max_undispatched: 8,
                    gateways: vec![Source::of("10.0.0.1".parse().unwrap())],
                }),
                conns: SlotMap::with_key(),
            }
        }

        fn place(&mut self) -> Place {
            Place {
                shard: 0,
                conn: self.conns.insert(()),
            }
        }

        fn admit(&mut self, address: &str) -> (Place, Option<(Place, Limit)>) {
            let (place, source) = (self.place(), Source::of(address.parse().unwrap()));
            (place, self.admission.admit(place, source))
        }

        /// Offers a new connection. Returns `true` if it is offered, and `false` if it waits.
        fn offer(&mut self, address: &str) -> (Place, bool) {
            let (place, source) = (self.place(), Source::of(address.parse().unwrap()));
            (place, self.admission.offer(place, source))
        }
    }

    #[test]
    fn a_source_may_have_a_quarter_and_a_gateway_everything() {
        let mut scene = Scene::new(100, 8);
        let (oldest, _) = scene.admit("10.0.0.2");
        assert_eq!(scene.admit("10.0.0.2").1, None);
        let (_, excess) = scene.admit("10.0.0.2");
        assert_eq!(excess, Some((oldest, Limit::UnauthenticatedOfSource)));
        for _ in 0..6 {
            assert_eq!(scene.admit("10.0.0.1").1, None);
        }
        let (_, excess) = scene.admit("10.0.0.3");
        assert_eq!(excess.unwrap().1, Limit::Unauthenticated);
        assert_eq!(scene.admission.strangers(), 8);
    }

    #[test]
    fn no_connection_that_has_logged_in_ends_for_a_newcomer() {
        let mut scene = Scene::new(8, 8);
        for _ in 0..2 {
            let (place, _) = scene.admit("10.0.0.2");
            scene.admission.authenticated(place);
        }
        let (newcomer, excess) = scene.admit("10.0.0.2");
        assert_eq!(excess, Some((newcomer, Limit::ConnectionsOfSource)));
        let (stranger, _) = scene.admit("10.0.0.1");
        for _ in 0..5 {
            let (place, _) = scene.admit("10.0.0.1");
            scene.admission.authenticated(place);
        }
        let (_, excess) = scene.admit("10.0.0.3");
        assert_eq!(excess, Some((stranger, Limit::Connections)));
    }

    #[test]
    fn a_removed_connection_that_logs_in_before_its_end_counts_again() {
        let mut scene = Scene::new(8, 8);
        let (oldest, _) = scene.admit("10.0.0.2");
        scene.admit("10.0.0.2");
        let (_, excess) = scene.admit("10.0.0.2");
        assert_eq!(excess, Some((oldest, Limit::ConnectionsOfSource)));
        scene.admission.authenticated(oldest);
        let source = Source::of("10.0.0.2".parse().unwrap());
        scene.admission.stays(oldest, source);
        assert_eq!(scene.admission.connections.of(source), 3);
        assert_eq!(scene.admission.strangers(), 2);
        scene.admission.closed(oldest);
        assert_eq!(scene.admission.connections.of(source), 2);
    }

    #[test]
    fn new_limits_offer_what_waited_and_end_nothing_by_themselves() {
        let mut scene = Scene::new(100, 100);
        let greedy: Vec<_> = (0..5).map(|_| scene.offer("10.0.0.2")).collect();
        let waited: Vec<Place> = greedy.iter().filter(|it| !it.1).map(|it| it.0).collect();
        assert_eq!(waited.len(), 3, "a quarter of 8 may be offered");
        let limits = |max_connections, max_undispatched, gateways: &[&str]| Limits {
            max_connections,
            max_unauthenticated: 100,
            max_undispatched,
            gateways: gateways
                .iter()
                .map(|address| Source::of(address.parse().unwrap()))
                .collect(),
        };
        let admission = &mut scene.admission;
        assert_eq!(admission.set_limits(limits(100, 12, &[])), waited[..1]);
        // A gateway may have all offers.
        let more = admission.set_limits(limits(100, 12, &["10.0.0.2"]));
        assert_eq!(more, waited[1..]);
        assert_eq!(admission.set_limits(limits(100, 1, &[])), []);

        let all: Vec<Place> = ["10.0.0.4", "10.0.0.5"].map(|ip| scene.admit(ip).0).into();
        assert_eq!(scene.admission.set_limits(limits(2, 1, &[])), []);
        assert_eq!(scene.admission.strangers(), 2);
        let (_, excess) = scene.admit("10.0.0.6");
        assert_eq!(excess, Some((all[0], Limit::Connections)));
    }

    #[test]
    fn waiting_connections_are_offered_in_turn_and_first_those_of_the_source_with_fewest_offers() {
        let mut scene = Scene::new(100, 100);
        let greedy: Vec<_> = (0..4).map(|_| scene.offer("10.0.0.2")).collect();
        assert_eq!(
            [true, true, false, false],
            [0, 1, 2, 3].map(|n| greedy[n].1)
        );
        let gateway: Vec<_> = (0..6).map(|_| scene.offer("10.0.0.1")).collect();
        assert!(gateway.iter().all(|(_, offered)| *offered));
        let (other, offered) = scene.offer("10.0.0.3");
        assert!(!offered, "the limit of offers is reached");
        let admission = &mut scene.admission;
        assert_eq!(admission.done(gateway[0].0), Some(other));
        assert_eq!(
            admission.done(gateway[1].0),
            None,
            "the next waiting source has its share"
        );
        // A waiting connection ends, and the next one gets its turn.
        assert_eq!(admission.closed(greedy[2].0), None);
        assert_eq!(admission.done(greedy[0].0), Some(greedy[3].0));
        assert_eq!(
            admission.done(greedy[0].0),
            None,
            "this connection was done before"
        );
    }
}
