// SPDX-License-Identifier: GPL-2.0-or-later

//! What a shard knows about a connection, beyond what the transport knows.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use super::ConnReport;
use super::ahead::Ahead;
use crate::device::Status;
use crate::device::abi::{ConnInfo, Token};
use crate::engine::memory::{Charge, Segment};
use crate::engine::pool::QueueId;
use crate::fabric::RegionId;
use crate::transport::ConnStatus;
use crate::units::Instant;

/// Which worker has a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// None: its first request has not come.
    Fresh,
    /// None yet: the first worker to claim this token gets it.
    Offered(Token),
    /// The worker of `queue`, which knows it by `number`.
    Owned { queue: QueueId, number: u64 },
    /// None: its worker is gone, and it is about to end.
    Orphan,
}

/// A worker has named the token of a connection, and waits to hear whether it gets it.
#[derive(Debug)]
pub struct Claim<W> {
    /// The worker.
    pub worker: W,
    /// The request to answer; `None`: the worker attached for this connection alone.
    pub cookie: Option<u64>,
}

/// A message that waits for an owner, or for room in the owner's memory.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) bytes: Vec<u8>,
    /// What it counts for its owner and in total, once its connection has a session.
    pub(super) charges: Option<[Charge; 3]>,
}

impl From<Vec<u8>> for Held {
    fn from(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            charges: None,
        }
    }
}

/// A connection that has negotiated.
#[derive(Debug)]
pub(super) struct Conn<W> {
    pub(super) peer: SocketAddr,
    /// The address at which it came in.
    pub(super) local: Option<SocketAddr>,
    pub(super) since: Instant,
    /// When something was last submitted for it, ended, or came from the client.
    pub(super) used: Instant,
    pub(super) stage: Stage,
    /// When it will have waited long enough for its first request, an owner or a session.
    pub(super) deadline: Option<Instant>,
    /// It has a session, as its owner said.
    pub(super) authenticated: bool,
    /// From its first request.
    pub(super) client_guid: [u8; 16],
    /// Messages that came before there was an owner, or memory for them.
    pub(super) held: VecDeque<Held>,
    /// A copy of its first message, until the owner submits something or the client sends more.
    pub(super) first: Option<Vec<u8>>,
    /// The owner has not been told of it, for lack of memory.
    pub(super) info_due: bool,
    /// The claim to answer once its owner has been told of it.
    pub(super) claim: Option<Claim<W>>,
    /// Submissions that the transport has.
    pub(super) outstanding: u32,
    /// How many of them are RDMA READs.
    pub(super) reads: u32,
    /// Messages that the owner has not given back, or has not been told of.
    pub(super) unrecycled: u32,
    /// What the owner has lent for the data of the next WRITE.
    pub(super) ahead: Option<Ahead>,
    /// Messages, each a buffer and its length, that wait while the first one's data is fetched.
    pub(super) behind: VecDeque<(u64, u32)>,
    pub(super) regions: Regions,
    /// What its receives count for its owner and in total.
    pub(super) receives: Option<[Charge; 2]>,
    /// The same for long lists of descriptors that wait to be posted.
    pub(super) descriptors: Option<[Charge; 2]>,
    /// Why the device is ending it, if it is.
    pub(super) end: Option<(&'static str, Status)>,
    /// Its previous owner.
    pub(super) last_worker: Option<u32>,
}

/// The owner's segments that are registered with a connection, by number. They are kept until the
/// connection is gone, because its fabric may use the memory until then.
#[derive(Debug, Default)]
pub(super) struct Regions {
    pub(super) send: Vec<Option<(Arc<Segment>, RegionId)>>,
    pub(super) bulk: Vec<Option<(Arc<Segment>, RegionId)>>,
}

impl<W> Conn<W> {
    pub(super) fn new((peer, local): (SocketAddr, Option<SocketAddr>), now: Instant) -> Self {
        Self {
            peer,
            local,
            since: now,
            used: now,
            stage: Stage::Fresh,
            deadline: None,
            authenticated: false,
            client_guid: [0; 16],
            held: VecDeque::new(),
            first: None,
            info_due: false,
            claim: None,
            outstanding: 0,
            reads: 0,
            unrecycled: 0,
            ahead: None,
            behind: VecDeque::new(),
            regions: Regions::default(),
            receives: None,
            descriptors: None,
            end: None,
            last_worker: None,
        }
    }

    /// Whether it has an owner, or had one until its end.
    pub(super) const fn is_dispatched(&self) -> bool {
        matches!(self.stage, Stage::Owned { .. } | Stage::Orphan)
    }

    /// Whether the device knows of nothing under way on it.
    pub(super) fn is_idle(&self) -> bool {
        self.outstanding == 0 && self.unrecycled == 0 && self.held.is_empty() && !self.info_due
    }

    pub(super) fn registrations(&self) -> usize {
        let all = self.regions.send.iter().chain(&self.regions.bulk);
        all.flatten().count()
    }

    /// What its owner is told, or the listener that is to find one.
    pub(super) fn info(
        &self,
        conn: u64,
        status: &ConnStatus,
        local: Option<SocketAddr>,
        longest_send: u32,
    ) -> ConnInfo {
        let negotiated = status.negotiated;
        let peer_max_fragmented_size = negotiated.map_or(0, |n| n.max_fragmented_send_size);
        let scope_id = match (self.peer, local) {
            (SocketAddr::V6(peer), _) if peer.scope_id() != 0 => peer.scope_id(),
            (_, Some(SocketAddr::V6(local))) => local.scope_id(),
            _ => 0,
        };
        ConnInfo {
            conn,
            peer_address: octets(self.peer.ip()),
            local_address: local.map_or([0; 16], |local| octets(local.ip())),
            peer_port: self.peer.port(),
            local_port: local.map_or(0, |local| local.port()),
            scope_id,
            client_guid: self.client_guid,
            max_fragmented_send_size: peer_max_fragmented_size.min(longest_send),
            max_fragmented_receive_size: negotiated.map_or(0, |n| n.max_fragmented_receive_size),
            max_read_write_size: negotiated.map_or(0, |n| n.max_read_write_size),
            initiator_depth: status
                .limits
                .map_or(0, |limits| limits.initiator_depth.into()),
            peer_max_fragmented_size,
            reserved: [0; 7],
        }
    }

    /// For a status.
    pub(super) const fn report(
        &self,
        transport: ConnStatus,
        owner: Option<(W, u64)>,
    ) -> ConnReport<W> {
        ConnReport {
            owner,
            peer: self.peer,
            local: self.local,
            state: self.state(),
            transport,
            outstanding: self.outstanding,
            authenticated: self.authenticated,
            since: self.since,
        }
    }

    const fn state(&self) -> &'static str {
        match self.stage {
            _ if self.end.is_some() => "ending",
            Stage::Fresh => "fresh",
            Stage::Offered(_) => "offered",
            Stage::Owned { .. } => "owned",
            Stage::Orphan => "ending",
        }
    }
}

const fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}
