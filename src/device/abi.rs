// SPDX-License-Identifier: GPL-2.0-or-later

//! The seven operations of the smbdirect device as data, version [`VERSION`].
//!
//! Only data: what a process and a device say to each other, by whatever means. `smbdirectd`
//! carries control messages on a socket and shares memory by descriptors; a device in the kernel
//! carries the same structures by `ioctl` and `mmap` ([`uapi`](super::uapi)). Everything is in the byte order of the machine
//! and without padding, and reserved fields are 0 and checked to be 0.
//!
//! # Who says what
//!
//! | operation | says it | as |
//! |---|---|---|
//! | SET_SMBD_PARAMETERS | listener | control [`SetParameters`], the security blob behind it |
//! | (set the allowed addresses) | listener | control [`SetAddresses`], the addresses behind it |
//! | SET_SMBD_SESSION_ID | worker | control [`SetSessionId`] |
//! | GET_MEM_PARAMS | device | [`MemParams`] in control [`Attached`]; memory itself by [`Grow`], [`Segment`], [`Reclaim`], [`Release`] |
//! | GET_SMBD_EVENT | device | [`Completion`] in a queue; a listener gets control [`Offer`] |
//! | SEND_PDU | worker | [`Submission`] [`op::SEND_PDU`] |
//! | RDMA_READ_WRITE | worker | [`Submission`] [`op::RDMA_READ`], [`op::RDMA_WRITE`] |
//! | SET_SMBD_DISCONNECT | worker | [`Submission`] [`op::DISCONNECT`] |
//!
//! In addition, a worker says with [`op::AUTHENTICATED`] that a connection has a session. Until then the
//! device treats the client as a stranger, and allows it little time and little memory.
//!
//! # Control messages
//!
//! Each begins with a [`Control`], whose `kind` names the structure that follows (`kind::*`), and ends
//! with that structure, except that the blob of [`SetParameters`] and the elements of [`SetAddresses`] and
//! [`Addresses`] come behind it. The device answers a request with one message that carries its `cookie`:
//! [`Attached`], [`Segment`], [`StatusReport`], or [`Reply`] for the others and for all that fail. Messages
//! that the device sends on its own have cookie 0, and so has [`Release`], which is not answered.
//! The first message of a process is [`Attach`]; the device ends a connection that begins otherwise.
//! [`Attach`] says which versions the process speaks and which features it has, and [`Attached`] which of
//! them are used. If there is no common version, the answer is [`Detached`] with the device's version.
//!
//! Later versions add kinds, operations, events, and fields in place of reserved ones. What the other side may skip has
//! the bit [`OPTIONAL`]; everything else that a side does not know breaks the interface.
//! The device answers a [`Claim`] when the completion that reports the connection is on its way, or when
//! the connection ended before that. If the token of such a connection came with [`Attach`], the device
//! detaches the process.
//!
//! ```text
//!   listener    Attach -> Addresses, Attached   SetParameters -> Reply   SetAddresses -> Reply
//!               <- Offer ...   Decline -> Reply
//!   worker      Attach (with the token of an offer, or without) -> Addresses, Attached
//!               SetSessionId -> Reply    Claim -> Reply    Grow -> Segment + memory file
//!               <- Queue + memory file + doorbell, with the worker's first connection of a reactor
//!               <- Segment + memory file (received messages of a queue)   <- Wake   <- Detached
//!               <- Reclaim   Release
//!               <- Addresses, when they have changed; to a listener, too
//!   observer    Attach -> Attached       StatusRequest -> StatusReport + memory file with JSON
//!               EventsRequest -> StatusReport + memory file with JSON
//! ```
//!
//! # Queues
//!
//! A worker has a queue with each reactor of the device that drives one of its connections: one
//! memory file with two rings of [`crate::shm`], the submission ring (worker produces) at its start,
//! the completion ring (device produces) at [`Queue::completion_offset`]. The upper 16 bits of a
//! connection's number are its queue. The worker wakes a sleeping reactor by the doorbell that came with
//! [`Queue`]; a reactor wakes a sleeping worker by [`Wake`] on the control channel, so that a worker
//! sleeps on one descriptor, which also tells it that the device has gone. [`event::SENT`] alone may wake
//! a deep sleeper up to 0.1 s late; usually the next request wakes it first. [`op::RECYCLE`] alone does
//! not wake a reactor that sleeps deeply, because such a reactor does not need the room.
//!
//! The device answers each submission with exactly one completion that carries its `cookie`, except
//! [`op::RECYCLE`], [`op::DISCONNECT`], [`op::AUTHENTICATED`] and [`op::RECALL`]. On one connection, the device carries out
//! SEND_PDU and RDMA_WRITE in the order of submission, so that a response never overtakes its data;
//! RDMA_READ is not ordered with them. After [`event::DISCONNECTED`] only the answers to submissions made
//! before the worker saw it still name the connection: the worker could not know that the connection had
//! ended, and each submission is answered in any case. While there is no room for completions, the device
//! takes no submissions. So a worker that waits for room in the submission ring, even to recycle, must
//! take completions meanwhile.
//!
//! # Memory
//!
//! A worker has three regions, each made of segments (memory files that both sides map). Segments are
//! made on demand up to a limit ([`RegionShape`]), and given back:
//!
//! | region | its buffers are given out by | holds |
//! |---|---|---|
//! | [`region::SEND`] | the worker | messages to send, and lists of buffer descriptors |
//! | [`region::BULK`] | the worker | data of RDMA READ and RDMA WRITE: the only region that a peer can ever reach |
//! | [`region::RECEIVE`] | the device | received messages, until [`op::RECYCLE`]; each queue has its own |
//!
//! Places in SEND and BULK are [`Place`]s; received messages are named by buffer numbers
//! ([`crate::shm::Buffer::to_bits`]), which contain segment and unit.
//!
//! Segments differ in length: a region begins with a short one, and grows by longer ones. The device
//! answers [`Grow`] when it has memory. If other workers have all of it, that may take a while, in which
//! the device takes back what they do not use. It asks for a segment back with [`Reclaim`]; from then on
//! the worker gives out nothing in it, and says [`Release`] once nothing in it is in use. After that
//! neither side uses the segment: no submission names it, and another segment may get its number.
//!
//! ```text
//!   SEND, BULK   Grow -> Segment ... in use ... <- Reclaim, nothing new ... last buffer freed -> Release
//!   RECEIVE      <- Segment ... in use ... all recycled, then <- Reclaim -> Release
//! ```

use core::net::Ipv6Addr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The newest version of this interface that this side speaks.
pub const VERSION: u32 = 3;

/// The oldest version that this side speaks. When you add a version, keep the older ones that the other side may
/// still speak: smbd and the device are installed and restarted at different times.
pub const OLDEST_VERSION: u32 = 3;

/// The optional features of [`VERSION`].
pub mod feature {
    /// [`FETCH_AHEAD`](super::op::FETCH_AHEAD), [`RECALL`](super::op::RECALL) and
    /// [`FETCHED`](super::event::FETCHED).
    pub const FETCH_AHEAD: u64 = 1;
}

/// The optional features of [`VERSION`] that this side has, one bit each.
pub const FEATURES: u64 = feature::FETCH_AHEAD;

/// A side that does not know a [`Control::kind`], [`Submission::op`] or [`Completion::event`] with this bit skips it.
/// It is not answered, asks for nothing and holds nothing: no cookie, no buffer. A process sends no descriptors with
/// it; a process closes those that a device sends with it.
pub const OPTIONAL: u32 = 1 << 31;

/// The version that two sides speak with each other: the newest that both know, or `None`.
#[must_use]
pub const fn common_version(newest: u32, oldest: u32) -> Option<u32> {
    let version = if newest < VERSION { newest } else { VERSION };
    if version < OLDEST_VERSION || version < oldest {
        return None;
    }
    Some(version)
}

/// Longest control message, in bytes: enough for the longest blob or list of addresses.
pub const MAX_CONTROL_LENGTH: usize = 4096;

/// The most addresses in an [`Addresses`].
pub const MAX_ADDRESSES: usize = 64;

/// The most addresses in a [`SetAddresses`].
pub const MAX_ALLOWED_ADDRESSES: usize = 128;

/// Longest security blob of [`SetParameters`], in bytes.
pub const MAX_SECURITY_BLOB: usize = 2048;

/// A one-time token: the worker that names it gets the connection it was made for. All 0: no token.
pub type Token = [u8; 16];

/// [`Control::kind`].
pub mod kind {
    /// [`Attach`](super::Attach).
    pub const ATTACH: u32 = 1;
    /// [`SetParameters`](super::SetParameters).
    pub const SET_PARAMETERS: u32 = 2;
    /// [`SetSessionId`](super::SetSessionId).
    pub const SET_SESSION_ID: u32 = 3;
    /// [`Claim`](super::Claim).
    pub const CLAIM: u32 = 4;
    /// [`Grow`](super::Grow).
    pub const GROW: u32 = 5;
    /// [`StatusRequest`](super::StatusRequest).
    pub const STATUS_REQUEST: u32 = 6;
    /// [`Decline`](super::Decline).
    pub const DECLINE: u32 = 7;
    /// [`SetAddresses`](super::SetAddresses).
    pub const SET_ADDRESSES: u32 = 8;
    /// [`Release`](super::Release).
    pub const RELEASE: u32 = 9;
    /// [`EventsRequest`](super::EventsRequest).
    pub const EVENTS_REQUEST: u32 = 10;
    /// [`Attached`](super::Attached).
    pub const ATTACHED: u32 = 101;
    /// [`Reply`](super::Reply).
    pub const REPLY: u32 = 102;
    /// [`Segment`](super::Segment).
    pub const SEGMENT: u32 = 103;
    /// [`Queue`](super::Queue).
    pub const QUEUE: u32 = 104;
    /// [`Offer`](super::Offer).
    pub const OFFER: u32 = 105;
    /// [`Wake`](super::Wake).
    pub const WAKE: u32 = 106;
    /// [`StatusReport`](super::StatusReport).
    pub const STATUS_REPORT: u32 = 107;
    /// [`Detached`](super::Detached).
    pub const DETACHED: u32 = 108;
    /// [`Addresses`](super::Addresses).
    pub const ADDRESSES: u32 = 109;
    /// [`Reclaim`](super::Reclaim).
    pub const RECLAIM: u32 = 110;
}

/// [`Attach::role`].
pub mod role {
    /// The parent smbd: gets offers, and sets parameters. One at a time.
    pub const LISTENER: u32 = 1;
    /// A child smbd: owns connections.
    pub const WORKER: u32 = 2;
    /// An administrator's tool: asks for the status.
    pub const OBSERVER: u32 = 3;
}

/// [`Grow::region`], [`Segment::region`].
pub mod region {
    /// Messages to send.
    pub const SEND: u32 = 1;
    /// Data of RDMA READ and RDMA WRITE.
    pub const BULK: u32 = 2;
    /// Received messages.
    pub const RECEIVE: u32 = 3;
}

/// [`Submission::op`].
pub mod op {
    /// Sends one SMB2 message: `length` bytes at `place` in SEND. With `INVALIDATE` in `flags`, it
    /// invalidates `token` at the peer. Answered by `SENT`.
    pub const SEND_PDU: u32 = 1;
    /// Reads `length` bytes of the peer's memory, which `descriptors` name, to `place` in BULK.
    /// Answered by `RDMA_DONE`.
    pub const RDMA_READ: u32 = 2;
    /// Writes `length` bytes at `place` in BULK to the peer's memory. Answered by `RDMA_DONE`.
    pub const RDMA_WRITE: u32 = 3;
    /// Ends a connection gracefully: what was submitted before is sent first. `DISCONNECTED` follows.
    pub const DISCONNECT: u32 = 4;
    /// Gives a connection to the worker that has registered `client_guid`
    /// ([`TransferSubmission`](super::TransferSubmission)) or, if that is 0, to the worker that claims the
    /// token in the answer, with a first message for it: `length` bytes at `place` in SEND. Answered
    /// by `TRANSFERRED`; if its status is OK, the connection no longer belongs to this worker.
    pub const TRANSFER: u32 = 5;
    /// Gives the buffer of a received message back: its number is in `place`. `conn` is 0 except for the
    /// queue.
    pub const RECYCLE: u32 = 6;
    /// The connection has a session: its client has logged in. A second one has no effect. A connection that
    /// is transferred later stays authenticated.
    pub const AUTHENTICATED: u32 = 7;
    /// Lends `length` bytes at `place` in BULK for the data of the next WRITE on this connection
    /// ([`feature::FETCH_AHEAD`](super::feature::FETCH_AHEAD)). Answered by `FETCHED`.
    pub const FETCH_AHEAD: u32 = 8;
    /// Wants back what was lent with `FETCH_AHEAD` on this connection. If that is still unused, it is answered
    /// now, with the status FLUSHED.
    pub const RECALL: u32 = 9;
}

/// [`Submission::flags`].
pub mod flags {
    /// `token` is to be invalidated (SEND with Invalidate).
    pub const INVALIDATE: u32 = 1;
}

/// [`Completion::event`].
pub mod event {
    /// A connection belongs to this worker now. `buffer` holds a [`ConnInfo`](super::ConnInfo) of `length`
    /// bytes; recycle it.
    pub const CONNECTION: u32 = 1;
    /// A message arrived: `length` bytes in `buffer`; recycle it.
    pub const PDU: u32 = 2;
    /// SEND_PDU ended: its memory is free. Status OK means that the peer's network has acknowledged all of
    /// the message: the peer's TCP with software iWARP, its adapter with InfiniBand or RoCE. An iWARP
    /// adapter's completion does not promise this, and after DISCONNECT status OK means only that this
    /// side's network has taken the message. It may come about 0.1 s after the acknowledgement.
    pub const SENT: u32 = 3;
    /// RDMA_READ or RDMA_WRITE ended: the data has arrived, or its memory is free.
    pub const RDMA_DONE: u32 = 4;
    /// The connection is gone; `status` says why.
    pub const DISCONNECTED: u32 = 5;
    /// TRANSFER ended; `token` is set if one was asked for.
    pub const TRANSFERRED: u32 = 6;
    /// FETCH_AHEAD ended. Status OK: `length` bytes were fetched for the WRITE in the connection's next `PDU`,
    /// which follows at once. Otherwise nothing was, and the memory is free: BUSY if something is lent on this
    /// connection already or a quarter of the queue's depth is under way, FLUSHED if it was wanted back or the
    /// connection has ended, or why the fetch failed.
    pub const FETCHED: u32 = 7;
}

/// What every control message begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Control {
    /// `kind::*`.
    pub kind: u32,
    /// Bytes of the whole message.
    pub length: u32,
    /// Chosen by the side that asks, and repeated in the answer. Not 0 in a request.
    pub cookie: u64,
}

/// A process presents itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Attach {
    /// The newest version that the process speaks. This field is here in every version.
    pub version: u32,
    /// `role::*`.
    pub role: u32,
    /// For a worker: the token of the connection that it was forked for, or 0.
    pub token: Token,
    /// The oldest version that the process speaks.
    pub oldest_version: u32,
    /// 0.
    pub reserved: u32,
    /// Its features, one bit each. Those that the device does not know are not used.
    pub features: u64,
}

impl Attach {
    /// Makes the message with this side's versions and features.
    #[must_use]
    pub const fn new(role: u32, token: Token) -> Self {
        Self {
            version: VERSION,
            role,
            token,
            oldest_version: OLDEST_VERSION,
            reserved: 0,
            features: FEATURES,
        }
    }
}

/// Parameters that the listener sets for connections accepted from now on ([MS-SMBD] 3.1.1.1). 0 selects
/// the device's own value, and a larger value is reduced to that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetParameters {
    /// The most credits that a peer is granted. 1 to 65,535.
    pub receive_credit_max: u16,
    /// Credits to request from peers. 1 to 65,535.
    pub send_credit_target: u16,
    /// Longest message to send, in bytes, header included. At least 128.
    pub max_send_size: u32,
    /// Longest message to receive, in bytes, header included. At least 128.
    pub max_receive_size: u32,
    /// Longest upper-layer message to receive, in bytes. At least 131,072.
    pub max_fragmented_size: u32,
    /// Largest RDMA transfer, in bytes.
    pub max_read_write_size: u32,
    /// Milliseconds without a message from the peer after which it is asked for one.
    pub keepalive_interval_ms: u32,
    /// The server's GUID: for a device that answers NEGOTIATE itself.
    pub server_guid: [u8; 16],
    /// Length in bytes of the NEGOTIATE response's security blob, which follows this structure.
    pub security_blob_length: u32,
    /// 0.
    pub reserved: [u32; 5],
}

/// The listener sets the server addresses that clients may use, in place of those that it or an
/// earlier listener set; `count` [`AllowedAddress`]es follow. The device refuses new connections at other
/// addresses, ends existing ones, and leaves those addresses out of [`Addresses`]. The list holds until
/// the next one, even after the listener has gone. Before the first, all addresses are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetAddresses {
    /// At most [`MAX_ALLOWED_ADDRESSES`]; 0 with `all`.
    pub count: u32,
    /// 0: only those that follow, and none if none follow. 1: all addresses.
    pub all: u32,
}

/// An address of the server that clients may use. Duplicates have no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AllowedAddress {
    /// The address of one host, not unspecified or multicast. IPv4 mapped into IPv6.
    pub address: [u8; 16],
    /// Scope of link-local IPv6 addresses, not 0; 0 for all others.
    pub scope_id: u32,
    /// 0.
    pub reserved: u32,
}

impl AllowedAddress {
    /// Whether this can be the address of a server.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let ip = Ipv6Addr::from(self.address);
        let is_host = match ip.to_ipv4_mapped() {
            Some(ip) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast(),
            None => !ip.is_unspecified() && !ip.is_multicast(),
        };
        is_host && self.reserved == 0 && (self.scope_id != 0) == ip.is_unicast_link_local()
    }
}

/// A worker registers a client's GUID and one of its sessions, or removes the registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetSessionId {
    /// The session, or 0 to register only for connections with this GUID.
    pub session_id: u64,
    /// The ClientGuid of the client's NEGOTIATE requests. Not 0.
    pub client_guid: [u8; 16],
    /// 0: register. 1: remove (with session 0: the GUID and all its sessions).
    pub remove: u32,
    /// 0.
    pub reserved: u32,
}

/// A worker wants the connection of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Claim {
    /// The token of an offer or a transfer.
    pub token: Token,
}

/// The listener declines the connection of a token, which the device closes at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Decline {
    /// The token of an offer.
    pub token: Token,
}

/// A worker needs one more segment. At most one request for each region is unanswered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Grow {
    /// `region::SEND` or `region::BULK`.
    pub region: u32,
    /// The fewest units that the segment may have: 1 to [`RegionShape::longest_run`].
    pub units: u32,
}

/// A worker no longer uses a segment, and has unmapped it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Release {
    /// `region::*`.
    pub region: u32,
    /// For RECEIVE, its queue; otherwise 0.
    pub queue: u32,
    /// As in [`Segment`].
    pub number: u32,
    /// 0.
    pub reserved: u32,
}

/// An observer asks for the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StatusRequest {
    /// 0.
    pub reserved: u64,
}

/// An observer asks what has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EventsRequest {
    /// The number of the last event that it knows, or 0.
    pub after: u64,
}

/// The process is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Attached {
    /// The version that is spoken from now on: one of those that [`Attach`] named.
    pub version: u32,
    /// The device's number for this process.
    pub worker: u32,
    /// GET_MEM_PARAMS.
    pub memory: MemParams,
    /// The most submissions of a queue that may be unanswered: the device leaves others in the ring until then.
    pub submissions_outstanding: u32,
    /// Largest RDMA transfer, in bytes.
    pub max_read_write_size: u32,
    /// Those features named by [`Attach`] that are used.
    pub features: u64,
    /// 0.
    pub reserved: [u32; 4],
}

impl Attached {
    /// Whether the device answers in a version, and with features, that this side named.
    #[must_use]
    pub const fn is_understood(&self) -> bool {
        matches!(self.version, OLDEST_VERSION..=VERSION) && self.features & !FEATURES == 0
    }
}

/// The memory that a worker may map over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemParams {
    /// `region::SEND`.
    pub send: RegionShape,
    /// `region::BULK`.
    pub bulk: RegionShape,
    /// `region::RECEIVE`, of each queue.
    pub receive: RegionShape,
    /// Bytes that a worker may have in all regions together.
    pub limit: u64,
    /// 0.
    pub reserved: u64,
}

/// A region's segments and buffers: see [`crate::shm::buffers::Shape`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RegionShape {
    /// Bytes of a unit.
    pub unit_length: u32,
    /// Units of the longest segment: 1 to 65,536.
    pub units_per_segment: u32,
    /// Units of the longest buffer.
    pub longest_run: u32,
    /// Segments at a time: 1 to 65,536.
    pub max_segments: u32,
}

/// The answer to a request that has no other answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Reply {
    /// A [`Status`](crate::device::Status) as a number.
    pub status: i32,
    /// The kind of the request.
    pub kind: u32,
}

/// A segment, with its memory file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Segment {
    /// `region::*`.
    pub region: u32,
    /// For RECEIVE, its queue; otherwise 0.
    pub queue: u32,
    /// Its number, less than [`RegionShape::max_segments`]. It is unique in SEND, in BULK, and in RECEIVE of
    /// each queue.
    pub number: u32,
    /// 0.
    pub reserved: u32,
    /// Its length in bytes: whole units, at most [`RegionShape::units_per_segment`] of them.
    pub length: u64,
}

/// The device wants a segment back. The worker gives out nothing in it from now on, and says [`Release`]
/// once nothing in it is in use. In a segment of RECEIVE, nothing is in use by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Reclaim {
    /// `region::*`.
    pub region: u32,
    /// For RECEIVE, its queue; otherwise 0.
    pub queue: u32,
    /// As in [`Segment`].
    pub number: u32,
    /// 0.
    pub reserved: u32,
}

/// A queue, with its memory file and the doorbell of its reactor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Queue {
    /// Its number: the upper 16 bits of its connections' numbers.
    pub queue: u32,
    /// 0.
    pub reserved: u32,
    /// Bytes of the memory file.
    pub length: u64,
    /// Where in it the completion ring begins: a multiple of 64. The submission ring is at 0.
    pub completion_offset: u64,
}

/// A connection without an owner: the worker that claims it first, within the time that the device
/// allows, gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Offer {
    /// For [`Attach`] or [`Claim`].
    pub token: Token,
    /// The connection. Only its owner can use its number.
    pub info: ConnInfo,
}

/// What is known about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ConnInfo {
    /// Its number.
    pub conn: u64,
    /// The client's address; IPv4 mapped into IPv6.
    pub peer_address: [u8; 16],
    /// The server's address, at which the connection came in.
    pub local_address: [u8; 16],
    /// The client's port.
    pub peer_port: u16,
    /// The server's port.
    pub local_port: u16,
    /// Scope of link-local addresses, or 0.
    pub scope_id: u32,
    /// The ClientGuid of its first request.
    pub client_guid: [u8; 16],
    /// Longest upper-layer message to send, in bytes.
    pub max_fragmented_send_size: u32,
    /// Longest upper-layer message to receive, in bytes.
    pub max_fragmented_receive_size: u32,
    /// Largest RDMA transfer, in bytes.
    pub max_read_write_size: u32,
    /// RDMA READs that the peer serves at a time, or 0.
    pub initiator_depth: u32,
    /// Longest upper-layer message that the client reassembles, in bytes: the MaxFragmentedSize of its
    /// own negotiate message ([MS-SMBD] 2.2.1). `max_fragmented_send_size` is the lesser of this and what
    /// fits into SEND.
    pub peer_max_fragmented_size: u32,
    /// 0.
    pub reserved: [u32; 7],
}

/// Wakes a worker that announced that it sleeps: there is something in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Wake {
    /// 0.
    pub reserved: u64,
}

/// The status of the device, or its events, with a memory file that holds `json_length` bytes of JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StatusReport {
    /// Bytes of the memory file.
    pub length: u64,
    /// Bytes of JSON at its start.
    pub json_length: u64,
}

/// Where clients reach the device; `count` [`Address`]es follow. The device sends it to listeners and
/// workers before [`Attached`], and again whenever the list changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Addresses {
    /// At most [`MAX_ADDRESSES`].
    pub count: u32,
    /// 0.
    pub reserved: u32,
}

/// An address at which clients reach the device.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Address {
    /// IPv4 mapped into IPv6.
    pub address: [u8; 16],
    /// Bits per second of its interface.
    pub link_speed: u64,
    /// The system's index of its interface, or 0.
    pub interface: u32,
    /// Scope of link-local addresses, or 0.
    pub scope_id: u32,
    /// Port.
    pub port: u16,
    /// 0.
    pub reserved: [u16; 3],
}

/// The last message: the device has ended the attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Detached {
    /// Why: a [`Status`](crate::device::Status) as a number.
    pub status: i32,
    /// If versions are the reason, the device's newest version, so that both sides can report it; otherwise 0. This
    /// message has this form in every version.
    pub version: u32,
}

/// An entry of a submission ring, except for TRANSFER.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Submission {
    /// `op::*`.
    pub op: u32,
    /// `flags::*`.
    pub flags: u32,
    /// The connection.
    pub conn: u64,
    /// Chosen by the worker, and repeated in the completion.
    pub cookie: u64,
    /// A [`Place`]; RECYCLE: a buffer number.
    pub place: u64,
    /// Bytes.
    pub length: u32,
    /// The token to invalidate at the peer, if `flags` says so.
    pub token: u32,
    /// Where in SEND the buffer descriptors are, 16 bytes each as on the wire.
    pub descriptors: u64,
    /// Number of descriptors: 1 to 4095.
    pub descriptor_count: u32,
    /// 0.
    pub reserved: [u32; 3],
}

/// An entry of a submission ring: TRANSFER.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TransferSubmission {
    /// [`op::TRANSFER`].
    pub op: u32,
    /// 0.
    pub flags: u32,
    /// The connection.
    pub conn: u64,
    /// Chosen by the worker, and repeated in the completion.
    pub cookie: u64,
    /// Where in SEND the new owner's first message is.
    pub place: u64,
    /// Length of that message, or 0 if there is none.
    pub length: u32,
    /// 0.
    pub reserved: u32,
    /// The client GUID that the new owner has registered, or 0.
    pub client_guid: [u8; 16],
    /// 0.
    pub reserved2: u64,
}

/// An entry of a completion ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Completion {
    /// `event::*`.
    pub event: u32,
    /// A [`Status`](crate::device::Status) as a number.
    pub status: i32,
    /// The connection.
    pub conn: u64,
    /// As submitted, or 0.
    pub cookie: u64,
    /// The number of a buffer in RECEIVE, or 0.
    pub buffer: u64,
    /// Bytes.
    pub length: u32,
    /// 0.
    pub reserved: u32,
    /// TRANSFERRED: the token, or 0.
    pub token: Token,
    /// 0.
    pub reserved2: u64,
}

// `IntoBytes` refuses padding; the lengths are part of the interface.
const _: () = {
    assert!(size_of::<Control>() == 16);
    assert!(size_of::<Attach>() == 40);
    assert!(size_of::<SetParameters>() == 64);
    assert!(size_of::<SetAddresses>() == 8);
    assert!(size_of::<AllowedAddress>() == 24);
    assert!(size_of::<SetSessionId>() == 32);
    assert!(size_of::<Claim>() == 16);
    assert!(size_of::<Grow>() == 8);
    assert!(size_of::<StatusRequest>() == 8);
    assert!(size_of::<EventsRequest>() == 8);
    assert!(size_of::<Attached>() == 104);
    assert!(size_of::<MemParams>() == 64);
    assert!(size_of::<RegionShape>() == 16);
    assert!(size_of::<Reply>() == 8);
    assert!(size_of::<Release>() == 16);
    assert!(size_of::<Reclaim>() == 16);
    assert!(size_of::<Segment>() == 24);
    assert!(size_of::<Queue>() == 24);
    assert!(size_of::<Offer>() == 128);
    assert!(size_of::<ConnInfo>() == 112);
    assert!(size_of::<Wake>() == 8);
    assert!(size_of::<StatusReport>() == 16);
    assert!(size_of::<Detached>() == 8);
    assert!(size_of::<Submission>() == 64);
    assert!(size_of::<TransferSubmission>() == 64);
    assert!(size_of::<Completion>() == 64);
};

/// A byte of SEND or BULK, as a number: the segment in the upper 16 bits, the offset in the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The segment.
    pub segment: u16,
    /// Bytes from its start: less than 2^48.
    pub offset: u64,
}

impl Place {
    const OFFSET_BITS: u32 = 48;

    /// The number.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        (self.segment as u64) << Self::OFFSET_BITS | self.offset
    }

    /// Decodes a number, without checking that such a place exists.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self {
            segment: (bits >> Self::OFFSET_BITS) as u16,
            offset: bits & ((1 << Self::OFFSET_BITS) - 1),
        }
    }
}

/// The queue that a connection's number belongs to.
#[must_use]
pub const fn queue_of(conn: u64) -> u32 {
    (conn >> 48) as u32
}
