// SPDX-License-Identifier: GPL-2.0-or-later

//! The configuration of a fabric, and its counts.

use std::time::Duration;

use crate::fabric::iwarp;

/// The configuration of a [`Verbs`](super::Verbs) fabric.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Maximum number of SENDs and RDMA WRITEs posted on a connection at a time; fewer if the device has less room.
    pub sends: u32,
    /// Maximum number of receives posted on a connection at a time; fewer if the device has less room.
    pub recvs: u32,
    /// Maximum number of RDMA READs posted on a connection at a time, including those that wait.
    pub reads: u32,
    /// Maximum number of memory regions of a connection.
    pub regions: usize,
    /// Maximum number of incoming connections that are not established, in total.
    pub max_pending: usize,
    /// The same limit for each source address.
    pub max_pending_per_source: usize,
    /// Whether to listen on addresses that no device has yet: peers can connect as soon as a device has one.
    pub free_bind: bool,
    /// Time limit for a connection to be established, and for each step of looking for a peer.
    pub connect_timeout: Duration,
    /// Time within which posted work must be sent after [`Fabric::close`](crate::fabric::Fabric::close).
    pub drain_timeout: Duration,
    /// Time within which the peer must answer once the connection has ended here.
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
    /// Takes the limits of a software fabric.
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

/// How many listeners, connections and regions a fabric holds; peers can increase most of these numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Number of listeners.
    pub listeners: usize,
    /// Number of connections, whatever their state.
    pub connections: usize,
    /// Number of incoming connections among them that are not established.
    pub pending: usize,
    /// Number of connections that have ended here, until their peers have answered.
    pub lingering: usize,
    /// Number of memory regions that are registered.
    pub regions: usize,
}
