// SPDX-License-Identifier: GPL-2.0-or-later

//! Passes the registrations of workers, and what was counted, on to a device that continues with the workers.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Carried, Close, Peer, Registry};
use crate::engine::admission::Place;
use crate::transport::Traffic;
use crate::units::Instant;

/// The state of a registry, without the processes, connections and tokens that others know.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct KeptRegistry {
    /// For each client: its ClientGuid, its process, and its registered sessions.
    clients: Vec<([u8; 16], u32, Vec<u64>)>,
    closes: Vec<KeptClose>,
    counters: BTreeMap<String, u64>,
    /// Numbers of ends, with their fabric and reason.
    ends: Vec<(String, String, u64)>,
    refused: BTreeMap<String, u64>,
    carried: BTreeMap<String, KeptCarried>,
    transport: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptClose {
    peer: SocketAddr,
    local: Option<SocketAddr>,
    fabric: String,
    worker: Option<u32>,
    reason: String,
    at: Instant,
    age: Duration,
    bytes_received: u64,
    bytes_sent: u64,
}

/// What a shard has carried, or all shards of a fabric.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct KeptCarried {
    pub(crate) requested: u64,
    pub(crate) connections: u64,
    pub(crate) traffic: Traffic,
    pub(crate) fetched_ahead: u64,
}

/// Returns the text of a name that the program knows, or knew before the restart. There are only a few dozen, and they
/// are needed until the program ends.
fn name(names: &mut BTreeMap<String, &'static str>, text: String) -> &'static str {
    match names.get(&text) {
        Some(known) => known,
        None => {
            let new: &'static str = String::leak(text.clone());
            names.insert(text, new);
            new
        }
    }
}

impl<P: Peer> Registry<P> {
    /// Returns the state of the registry.
    pub(crate) fn keep(&self) -> KeptRegistry {
        let Self {
            processes: _,
            listener: _,
            clients,
            sessions: _,
            registered: _,
            tokens: _,
            connections: _,
            undispatched: _,
            admission: _,
            closes,
            counters,
            ends,
            refused,
            warnings: _,
            ended: _,
            carried,
            transport,
        } = self;
        let texts = |counts: &BTreeMap<&'static str, u64>| {
            let text = |(name, count): (&&'static str, &u64)| (name.to_string(), *count);
            counts.iter().map(text).collect()
        };
        let client = |(guid, client): (&[u8; 16], &super::Client)| {
            let sessions = client.sessions.iter().copied().collect();
            (*guid, client.process, sessions)
        };
        let ended = |((fabric, reason), count): (&(&'static str, &'static str), &u64)| {
            (fabric.to_string(), reason.to_string(), *count)
        };
        let carried = carried.iter().map(|(fabric, carried)| {
            let Carried {
                requested,
                connections,
                traffic,
                fetched_ahead,
            } = *carried;
            let kept = KeptCarried {
                requested,
                connections,
                traffic,
                fetched_ahead,
            };
            (fabric.to_string(), kept)
        });
        KeptRegistry {
            clients: clients.iter().map(client).collect(),
            closes: closes.iter().map(KeptClose::of).collect(),
            counters: texts(counters),
            ends: ends.iter().map(ended).collect(),
            refused: texts(refused),
            carried: carried.collect(),
            transport: texts(transport),
        }
    }

    /// Continues with what an earlier device had counted, and with the registrations of the processes that are
    /// attached.
    pub(crate) fn adopt(&mut self, kept: KeptRegistry) {
        let mut names = BTreeMap::new();
        let mut name = |text: String| name(&mut names, text);
        for (guid, process, sessions) in kept.clients {
            if !self.processes.contains_key(&process) {
                continue;
            }
            for session in sessions {
                // Whatever was registered together before can be registered together again.
                let _ = self.register(process, guid, session, usize::MAX);
            }
        }
        self.closes
            .extend(kept.closes.into_iter().map(|close| Close {
                peer: close.peer,
                local: close.local,
                fabric: name(close.fabric),
                worker: close.worker,
                reason: name(close.reason),
                at: close.at,
                age: close.age,
                bytes_received: close.bytes_received,
                bytes_sent: close.bytes_sent,
            }));
        for (counter, count) in kept.counters {
            *self.counters.entry(name(counter)).or_default() += count;
        }
        for (fabric, reason, count) in kept.ends {
            *self.ends.entry((name(fabric), name(reason))).or_default() += count;
        }
        for (status, count) in kept.refused {
            *self.refused.entry(name(status)).or_default() += count;
        }
        for (fabric, carried) in kept.carried {
            self.carry(name(fabric), carried);
        }
        for (counter, count) in kept.transport {
            *self.transport.entry(name(counter)).or_default() += count;
        }
    }

    /// Adds what a shard of an earlier device had carried and counted.
    pub(crate) fn adopt_shard(
        &mut self,
        fabric: &'static str,
        carried: KeptCarried,
        transport: BTreeMap<String, u64>,
    ) {
        self.carry(fabric, carried);
        let mut names = BTreeMap::new();
        for (counter, count) in transport {
            let counter = name(&mut names, counter);
            *self.transport.entry(counter).or_default() += count;
        }
    }

    fn carry(&mut self, fabric: &'static str, carried: KeptCarried) {
        let sum = self.carried.entry(fabric).or_default();
        sum.requested += carried.requested;
        sum.connections += carried.connections;
        sum.traffic += carried.traffic;
        sum.fetched_ahead += carried.fetched_ahead;
    }

    /// Counts a connection that an earlier device had admitted.
    pub(crate) fn adopt_conn(
        &mut self,
        place: Place,
        peer: SocketAddr,
        (is_owned, is_stranger, is_offered): (bool, bool, bool),
    ) {
        self.connections += 1;
        self.undispatched += usize::from(!is_owned);
        self.admission
            .adopt(place, peer.into(), (is_stranger, is_offered));
    }
}

impl KeptClose {
    fn of(close: &Close) -> Self {
        let Close {
            peer,
            local,
            fabric,
            worker,
            reason,
            at,
            age,
            bytes_received,
            bytes_sent,
        } = *close;
        Self {
            peer,
            local,
            fabric: fabric.to_owned(),
            worker,
            reason: reason.to_owned(),
            at,
            age,
            bytes_received,
            bytes_sent,
        }
    }
}
