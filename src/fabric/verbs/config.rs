// SPDX-License-Identifier: GPL-2.0-or-later

//! A fabric's configuration, and its counts.

use std::time::Duration;

use crate::fabric::iwarp;

/// How a [`Verbs`](super::Verbs) fabric behaves.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// SENDs and RDMA WRITEs posted on a connection at a time; fewer if the device has less room.
    pub sends: u32,
    /// Receives posted on a connection at a time, as above.
    pub recvs: u32,
    /// RDMA READs posted on a connection at a time, including those that wait.
    pub reads: u32,
    /// Memory regions of a connection.
    pub regions: usize,
    /// Incoming connections that are not established, in total.
    pub max_pending: usize,
    /// The same for each source address.
    pub max_pending_per_source: usize,
    /// Whether to listen at addresses that no device has yet: peers can connect as soon as one does.
    pub free_bind: bool,
    /// Time limit for a connection to be established, and for each step of looking for a peer.
    pub connect_timeout: Duration,
    /// Time that posted work has to go out after [`Fabric::close`](crate::fabric::Fabric::close).
    pub drain_timeout: Duration,
    /// Time that the peer then has to answer.
    pub linger_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            sends: 64,
            recvs: 256,
            reads: 32,
            regions: 16,
            max_pending: 256,
            max_pending_per_source: 32,
            free_bind: false,
            connect_timeout: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(5),
            linger_timeout: Duration::from_secs(2),
        }
    }
}

impl From<&iwarp::Config> for Config {
    /// The same limits as those of a fabric in software.
    fn from(software: &iwarp::Config) -> Self {
        let narrow = |depth: usize| u32::try_from(depth).unwrap_or(u32::MAX);
        Self {
            sends: narrow(software.depths.sends),
            recvs: narrow(software.depths.recvs),
            reads: narrow(software.depths.reads),
            regions: software.depths.regions,
            max_pending: software.max_pending,
            max_pending_per_source: software.max_pending_per_source,
            free_bind: software.free_bind,
            connect_timeout: software.connect_timeout,
            drain_timeout: software.drain_timeout,
            linger_timeout: software.linger_timeout,
        }
    }
}

/// How many listeners, connections and regions a fabric holds; peers can drive most of these numbers up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Listeners.
    pub listeners: usize,
    /// Connections, whatever their state.
    pub connections: usize,
    /// Incoming connections among them that are not established.
    pub pending: usize,
    /// Connections that have ended here, until their peers have answered.
    pub lingering: usize,
    /// Memory regions that are registered.
    pub regions: usize,
}
