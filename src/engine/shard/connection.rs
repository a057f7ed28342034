// SPDX-License-Identifier: GPL-2.0-or-later

//! The state that a shard keeps for a connection, in addition to the transport's.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use super::ConnReport;
use super::ahead::Ahead;
use super::moving::Leaving;
use crate::device::Status;
use crate::device::abi::{ClientNote, ConnInfo, Token};
use crate::engine::memory::{Charge, Segment};
use crate::engine::pool::QueueId;
use crate::fabric::RegionId;
use crate::transport::ConnStatus;
use crate::units::Instant;

/// The stages of a connection: which worker has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// No worker has it: its first request has not come.
    Fresh,
    /// No worker has it yet: the first worker that claims this token gets it.
    Offered(Token),
    /// The worker of `queue` has it, and knows it by `number`.
    Owned { queue: QueueId, number: u64 },
    /// It belongs to another shard, and is about to move there.
    Leaving,
    /// No worker has it: its worker has gone, and it is about to end.
    Orphan,
}

/// The claim of a worker that has named a connection's token and waits for the answer.
#[derive(Debug)]
pub struct Claim<W> {
    /// The worker.
    pub worker: W,
    /// The cookie of the request to answer; `None` if the worker attached for this connection alone.
    pub cookie: Option<u64>,
}

/// A message that waits for an owner, or for room in the owner's memory.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) bytes: Vec<u8>,
    /// The charges for the message, to its owner and to the total, once its connection has a session.
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
    /// The server's address to which the client connected.
    pub(super) local: Option<SocketAddr>,
    pub(super) since: Instant,
    /// When something was last submitted for the connection, ended on it, or came from the client.
    pub(super) used: Instant,
    pub(super) stage: Stage,
    /// The time by which the connection must have its first request, an owner or a session.
    pub(super) deadline: Option<Instant>,
    /// The owner has said that the connection has a session.
    pub(super) authenticated: bool,
    /// How smbd says that file data is protected: one of `protection::*`.
    pub(super) protection: Option<u32>,
    /// Who encrypts file data although the session does not demand that, as far as smbd has said so: bits of
    /// `encrypted::*`.
    pub(super) encrypted: u32,
    /// The ClientGuid of the connection's first request.
    pub(super) client_guid: [u8; 16],
    /// Messages that came before there was an owner, or memory for them.
    pub(super) held: VecDeque<Held>,
    /// A copy of the connection's first message, until the owner submits something or the client sends more.
    pub(super) first: Option<Vec<u8>>,
    /// The owner has not been told about the connection, for lack of memory.
    pub(super) info_due: bool,
    /// The claim to answer once the owner has been told about the connection.
    pub(super) claim: Option<Claim<W>>,
    /// Number of submissions that the transport has.
    pub(super) outstanding: u32,
    /// Number of RDMA READs among these submissions.
    pub(super) reads: u32,
    /// Number of messages that the owner has not given back, or has not received yet.
    pub(super) unrecycled: u32,
    /// The memory that the owner has lent for the data of the next WRITE.
    pub(super) ahead: Option<Ahead>,
    /// Messages, each a buffer and its length, that wait while the first one's data is fetched.
    pub(super) behind: VecDeque<(u64, u32)>,
    pub(super) regions: Regions,
    /// The charges for the connection's receives, to its owner and to the total.
    pub(super) receives: Option<[Charge; 2]>,
    /// The charges for long lists of descriptors that wait to be posted, also to the owner and to the total.
    pub(super) descriptors: Option<[Charge; 2]>,
    /// Why the device is ending the connection, if it is.
    pub(super) end: Option<(&'static str, Status)>,
    /// The connection's previous owner.
    pub(super) last_worker: Option<u32>,
    /// Where the connection goes and why, if it is leaving.
    pub(super) leaving: Option<Leaving<W>>,
}

/// The owner's segments that are registered with a connection, by number. The segments are kept until the connection
/// has ended, because its fabric may use the memory until then.
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
            protection: None,
            encrypted: 0,
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
            leaving: None,
        }
    }

    /// Returns whether the connection has an owner, or had one until its end or until it left.
    pub(super) const fn is_dispatched(&self) -> bool {
        matches!(
            self.stage,
            Stage::Owned { .. } | Stage::Leaving | Stage::Orphan
        )
    }

    /// Returns whether nothing is under way on the connection, as far as the device knows.
    pub(super) fn is_idle(&self) -> bool {
        self.outstanding == 0 && self.unrecycled == 0 && self.held.is_empty() && !self.info_due
    }

    /// Returns whether a note about one connection is about this one. If the note does not say to which address of the
    /// server the client connected, it is about all connections from the client's port.
    pub(super) fn is_named(&self, note: &ClientNote) -> bool {
        let is_at = |address: SocketAddr| {
            address.port() == note.local_port && octets(address.ip()) == note.local_address
        };
        self.peer.port() == note.port
            && octets(self.peer.ip()) == note.address
            && (note.local_address == [0; 16] || self.local.is_none_or(is_at))
    }

    pub(super) fn registrations(&self) -> usize {
        let all = self.regions.send.iter().chain(&self.regions.bulk);
        all.flatten().count()
    }

    /// Returns the description of the connection for its owner, or for the listener that has to find an owner.
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

    /// Returns the connection's part of a status report.
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
            protection: self.protection,
            encrypted: self.encrypted,
            since: self.since,
        }
    }

    const fn state(&self) -> &'static str {
        match self.stage {
            _ if self.end.is_some() => "ending",
            Stage::Fresh => "fresh",
            Stage::Offered(_) => "offered",
            // Whoever it moves to has it already.
            Stage::Owned { .. } | Stage::Leaving => "owned",
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
