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
    /// The worker of this number is to be detached and told why.
    Fault {
        /// Its number.
        worker: u32,
        /// Why.
        status: Status,
        /// The same in words.
        why: Why,
    },
    /// The worker of this number takes no more messages: it has gone, or is about to.
    Gone(u32),
    /// A queue was made: its bell is to be watched.
    QueueMade(QueueId),
    /// For the shard of a connection: it has to end to make room for a newcomer.
    End(Place, Limit),
    /// For the shard of a connection: it may be offered now.
    Offer(Place),
    /// There was no memory for a received message, but other workers may have some. The shard will
    /// try again.
    NoMemory,
    /// A connection had to end because this limit was met.
    LimitMet(Limit),
    /// This many clients were turned away before they had negotiated.
    TurnedAway(u64),
    /// A client has negotiated SMB Direct.
    Established {
        /// The client's address.
        peer: SocketAddr,
        /// The address at which it came in.
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
    /// A connection is gone.
    Ended {
        /// What the registry keeps of it.
        close: Close,
        /// Its owner.
        worker: Option<W>,
        /// Why, unless the device itself ended it; then [`Close::reason`] says it all.
        cause: Option<CloseReason>,
    },
}

/// Why a worker is to be detached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// It broke a rule of the rings.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// It gave back a segment of RECEIVE.
    #[error("gave back a segment that it was not asked for")]
    NotAsked,
    /// [`Untold::Unread`](crate::engine::peer::Untold::Unread).
    #[error("does not read the device's messages")]
    Unread,
    /// There was no room for the message that it has the connection.
    #[error("its claim could not be answered")]
    ClaimNotAnswered,
    /// It attached for one connection, which had already ended.
    #[error("the connection of its token has ended")]
    NoConnection,
    /// The shape that the device has chosen for RECEIVE is invalid.
    #[error("its memory for messages has an invalid shape")]
    Shape,
    /// The shard's driver cannot watch its bell.
    #[error("its queue cannot be watched")]
    NotWatched,
}

/// What a shard knows for a status.
#[derive(Debug)]
pub struct Report<W> {
    /// The connections that have negotiated.
    pub connections: Vec<ConnReport<W>>,
    /// The queues of workers.
    pub queues: Vec<QueueReport>,
    /// Segments that are registered with connections, each counted once per connection.
    pub registrations: usize,
    /// Connections that negotiated since the start.
    pub established: u64,
    /// What all connections carried, including those that have ended.
    pub traffic: Traffic,
    /// WRITEs whose data was fetched before their owners were told of them.
    pub fetched_ahead: u64,
    /// The transport's, including ends of connections that never negotiated.
    pub counters: Vec<(&'static str, u64)>,
}

/// A connection.
#[derive(Debug)]
pub struct ConnReport<W> {
    /// Its owner, and the owner's number for it.
    pub owner: Option<(W, u64)>,
    /// The client's address.
    pub peer: SocketAddr,
    /// The address at which it came in.
    pub local: Option<SocketAddr>,
    /// `fresh`, `offered`, `owned` or `ending`.
    pub state: &'static str,
    /// What the transport knows.
    pub transport: ConnStatus,
    /// Submissions that have not been answered.
    pub outstanding: u32,
    /// It has a session.
    pub authenticated: bool,
    /// When it finished negotiating.
    pub since: Instant,
}

/// A queue.
#[derive(Debug)]
pub struct QueueReport {
    /// The number of its worker.
    pub worker: u32,
    /// Connections.
    pub connections: usize,
    /// Completions that found no room in the ring.
    pub overflow: usize,
    /// Completions in the ring.
    pub completions: u32,
    /// Submissions that have not been answered.
    pub outstanding: u32,
    /// Segments of RECEIVE.
    pub receive_segments: u32,
    /// Units of RECEIVE in use.
    pub receive_units_used: u32,
}
