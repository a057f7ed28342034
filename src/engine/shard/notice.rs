// SPDX-License-Identifier: GPL-2.0-or-later

//! What a shard tells its driver.

use alloc::vec::Vec;
use core::net::SocketAddr;

use crate::device::Status;
use crate::engine::admission::{Limit, Place};
use crate::engine::pool::QueueId;
use crate::engine::registry::Close;
use crate::engine::submission::Violation;
use crate::fabric::ConnId;
use crate::transport::{CloseReason, ConnStatus, Traffic};
use crate::units::Instant;

/// What a shard tells its driver.
#[derive(Debug)]
pub enum Notice<W> {
    /// A worker has to be detached and told why.
    Fault {
        /// The worker's number.
        worker: u32,
        /// The reason, as a status.
        status: Status,
        /// The reason in words.
        why: Why,
    },
    /// The worker with this number takes no more messages: it has gone, or is about to go.
    Gone(u32),
    /// A queue was made, and its bell has to be watched.
    QueueMade(QueueId),
    /// A connection, perhaps another shard's, has to end to make room for a newcomer.
    End(Place, Limit),
    /// A connection, perhaps another shard's, may be offered now.
    Offer(Place),
    /// A connection belongs to another shard: [take](super::Shard::take) it, and put it in there.
    Leaving(ConnId),
    /// There was no memory for a received message, but other workers may have some. The shard will
    /// try again.
    NoMemory,
    /// A connection had to end because this limit was reached.
    LimitMet(Limit),
    /// This many clients were turned away before they had negotiated.
    TurnedAway(u64),
    /// A client has negotiated SMB Direct.
    Established {
        /// The client's address.
        peer: SocketAddr,
        /// The server's address to which the client connected.
        local: Option<SocketAddr>,
    },
    /// A connection has an owner.
    Assigned {
        /// The connection.
        conn: ConnId,
        /// The client's address.
        peer: SocketAddr,
        /// The owner.
        worker: W,
    },
    /// A connection has ended.
    Ended {
        /// The registry's record of this end.
        close: Close,
        /// The connection's owner.
        worker: Option<W>,
        /// The cause, unless the device itself ended the connection; then [`Close::reason`] is the whole reason.
        cause: Option<CloseReason>,
    },
}

/// Why a worker has to be detached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// The worker broke a rule of the rings.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// The worker gave back a RECEIVE segment that the device had not asked for.
    #[error("gave back a segment that the device had not asked for")]
    NotAsked,
    /// The worker does not read messages: [`Untold::Unread`](crate::engine::peer::Untold::Unread).
    #[error("does not read the device's messages")]
    Unread,
    /// There was no room for the message that tells the worker about its connection.
    #[error("its claim could not be answered")]
    ClaimNotAnswered,
    /// The worker attached for one connection, which had already ended.
    #[error("the connection that its token names has ended")]
    NoConnection,
    /// The shape that the device has chosen for RECEIVE is invalid.
    #[error("its memory for messages has an invalid shape")]
    Shape,
    /// The device has restarted, and the worker's queue does not fit what the device wrote down about it.
    #[error("its queue could not be continued after a restart of the device")]
    NotKept,
    /// The shard's driver cannot watch the bell of the worker's queue.
    #[error("its queue cannot be watched")]
    NotWatched,
}

/// A shard's part of a status report.
#[derive(Debug)]
pub struct Report<W> {
    /// The connections that have negotiated.
    pub connections: Vec<ConnReport<W>>,
    /// The queues of workers.
    pub queues: Vec<QueueReport>,
    /// Number of segments that are registered with connections, each counted once per connection.
    pub registrations: usize,
    /// Number of connections that negotiated since the start.
    pub established: u64,
    /// The traffic of all connections, including those that have ended.
    pub traffic: Traffic,
    /// Number of WRITEs whose data was fetched before their owners got them.
    pub fetched_ahead: u64,
    /// The transport's counters, including ends of connections that never negotiated.
    pub counters: Vec<(&'static str, u64)>,
}

/// A connection.
#[derive(Debug)]
pub struct ConnReport<W> {
    /// The connection's owner, and the owner's number for the connection.
    pub owner: Option<(W, u64)>,
    /// The client's address.
    pub peer: SocketAddr,
    /// The server's address to which the client connected.
    pub local: Option<SocketAddr>,
    /// `fresh`, `offered`, `owned` or `ending`.
    pub state: &'static str,
    /// The status of the connection in the transport.
    pub transport: ConnStatus,
    /// Number of submissions that have not been answered.
    pub outstanding: u32,
    /// The connection has a session.
    pub authenticated: bool,
    /// How file data is protected, one of `protection::*`, if smbd has said so.
    pub protection: Option<u32>,
    /// Who encrypts file data although the session does not demand that, as far as smbd has said so: bits of
    /// `encrypted::*`.
    pub encrypted: u32,
    /// When the connection finished negotiating.
    pub since: Instant,
}

/// A queue.
#[derive(Debug)]
pub struct QueueReport {
    /// The number of its worker.
    pub worker: u32,
    /// Number of connections.
    pub connections: usize,
    /// Number of completions for which there was no room in the ring.
    pub overflow: usize,
    /// Number of completions in the ring.
    pub completions: u32,
    /// Number of submissions that have not been answered.
    pub outstanding: u32,
    /// Number of RECEIVE segments.
    pub receive_segments: u32,
    /// Number of RECEIVE units in use.
    pub receive_units_used: u32,
}
