//! What a broker is told before it starts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::device::abi::MemParams;
use crate::proto;

/// What a broker is told before it starts.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it accepts SMB Direct; port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// Path of the control socket.
    pub control: PathBuf,
    /// Users besides root and the broker's own that may attach.
    pub users: Vec<u32>,
    /// Reactor threads, 1 to 64.
    pub reactors: usize,
    /// How long a reactor looks for work before it sleeps; zero: not at all.
    pub busy_poll: Duration,
    /// What accepted connections bring to the negotiation.
    pub acceptor: proto::Config,
    /// Connections at a time, of all reactors together.
    pub max_connections: usize,
    /// Connections of a reactor that have not negotiated, and of one source address.
    pub max_unnegotiated: usize,
    /// The same of one source address.
    pub max_unnegotiated_per_source: usize,
    /// Connections that have negotiated and belong to no worker yet.
    pub max_undispatched: usize,
    /// Time that a client has for its first request once it has negotiated SMB Direct.
    pub first_request_timeout: Duration,
    /// Time in which an offered connection must be claimed.
    pub claim_timeout: Duration,
    /// Processes attached at a time.
    pub max_workers: usize,
    /// Sessions and client GUIDs that one worker may register.
    pub max_sessions: usize,
    /// Each worker's memory.
    pub memory: MemParams,
    /// Bytes of memory of all workers together.
    pub memory_limit: u64,
    /// Entries of a submission ring; the completion ring has as many. A power of two.
    pub queue_depth: u32,
    /// Time that connections have to finish what is under way when the broker is stopped.
    pub drain_timeout: Duration,
}
