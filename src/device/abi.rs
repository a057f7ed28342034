// SPDX-License-Identifier: GPL-2.0-or-later

//! The seven operations of the smbdirect device as data, version [`VERSION`].
//!
//! Only data: what a process and a device say to each other, whoever carries it. `smbdirectd`
//! carries control messages on a socket and shares memory by descriptors; a kernel device would
//! carry the same structures by `ioctl` and `mmap`. Everything is in the byte order of the machine,
//! has no padding, and has reserved fields that are 0 and checked to be 0.
//!
//! # Who says what
//!
//! | operation | says it | as |
//! |---|---|---|
//! | SET_SMBD_PARAMETERS | listener | control [`SetParameters`], the security blob behind it |
//! | (which addresses are allowed) | listener | control [`SetAddresses`], the addresses behind it |
//! | SET_SMBD_SESSION_ID | worker | control [`SetSessionId`] |
//! | GET_MEM_PARAMS | device | [`MemParams`] in control [`Attached`]; memory itself by [`Grow`], [`Segment`], [`Reclaim`], [`Release`] |
//! | GET_SMBD_EVENT | device | [`Completion`] in a queue; a listener gets control [`Offer`] |
//! | SEND_PDU | worker | [`Submission`] [`op::SEND_PDU`] |
//! | RDMA_READ_WRITE | worker | [`Submission`] [`op::RDMA_READ`], [`op::RDMA_WRITE`] |
//! | SET_SMBD_DISCONNECT | worker | [`Submission`] [`op::DISCONNECT`] |
//!
//! Beside them, a worker says by [`op::AUTHENTICATED`] that a session is on a connection. Until then the
//! device treats its client as a stranger: it has little time, and little of the device's memory.
//!
//! # Control messages
//!
//! Each begins with a [`Control`], whose `kind` names the structure that follows (`kind::*`), and has
//! exactly that length, except [`SetParameters`], which has its blob behind it, and [`SetAddresses`]
//! and [`Addresses`], which have their elements behind them. A request is answered by one message that carries its `cookie`:
//! [`Attached`], [`Segment`], [`StatusReport`], or [`Reply`] for the others and for all that fail. What the device says by itself has cookie 0,
//! and so has [`Release`], which is not answered.
//! The first message of a process is [`Attach`]; the device ends a connection that begins otherwise. It says which
//! versions the process speaks, and which features it has; [`Attached`] says which of them are used. Where there is no
//! common version, the answer is [`Detached`], which says which version the device speaks.
//!
//! Later versions add kinds, operations, events and fields in place of reserved ones. What the other side may skip has
//! the bit [`OPTIONAL`]; everything else that a side does not know breaks the interface.
//! A [`Claim`] is answered when the completion that tells of its connection is on its way, or when
//! the connection ended before that; where the token came with [`Attach`], the process is detached then.
//!
//! ```text
//!   listener    Attach -> Addresses, Attached   SetParameters -> Reply   SetAddresses -> Reply
//!               <- Offer ...   Decline -> Reply
//!   worker      Attach (with the token of an offer, or without) -> Addresses, Attached
//!               SetSessionId -> Reply    Claim -> Reply    Grow -> Segment + memory file
//!               <- Queue + memory file + doorbell, when the first connection of a reactor is its own
//!               <- Segment + memory file (received messages of a queue)   <- Wake   <- Detached
//!               <- Reclaim   Release
//!               <- Addresses, when they are others than before; to a listener, too
//!   observer    Attach -> Attached       StatusRequest -> StatusReport + memory file with JSON
//! ```
//!
//! # Queues
//!
//! A worker has a queue with each reactor of the device that drives connections of its own: one
//! memory file with two rings of [`crate::shm`], the submission ring (worker produces) at its start,
//! the completion ring (device produces) at [`Queue::completion_offset`]. The upper 16 bits of a
//! connection's number are its queue. The worker wakes a sleeping reactor by the doorbell that came with
//! [`Queue`]; a reactor wakes a sleeping worker by [`Wake`] on the control channel, so that a worker
//! sleeps on one descriptor, which tells of the device's end, too. For [`event::SENT`] alone one that
//! sleeps deeply is woken up to 0.1 s late: mostly, the next request comes before. For [`op::RECYCLE`]
//! alone a reactor that sleeps deeply is not woken: it does so while it does not want the room.
//!
//! A submission is answered by exactly one completion with its `cookie`, unless it is
//! [`op::RECYCLE`], [`op::DISCONNECT`] or [`op::AUTHENTICATED`]. Of one connection, SEND_PDU and RDMA_WRITE are carried out in
//! the order of submission, so that a response never overtakes its data; RDMA_READ is not ordered
//! with them. After [`event::DISCONNECTED`] nothing names the connection any more but the answers to
//! what was submitted before the worker saw it: that the connection went meanwhile is no fault of
//! the worker's, and each submission is answered in any case. While there is no room for completions
//! the device takes no submissions: who waits for room in the submission ring, be it to recycle,
//! takes completions meanwhile.
//!
//! # Memory
//!
//! A worker has three regions, each of segments (memory files that both sides map) that are made on
//! demand up to a limit ([`RegionShape`]), and given back:
//!
//! | region | who gives out its buffers | holds |
//! |---|---|---|
//! | [`region::SEND`] | the worker | messages to send, and lists of buffer descriptors |
//! | [`region::BULK`] | the worker | data of RDMA READ and RDMA WRITE: the only one a peer may ever reach |
//! | [`region::RECEIVE`] | the device | received messages, until [`op::RECYCLE`]; each queue has its own |
//!
//! Places in SEND and BULK are [`Place`]s; received messages are buffer numbers
//! ([`crate::shm::Buffer::to_bits`]), in which segment and unit are written.
//!
//! Segments differ in length: a region begins with a short one, and grows by longer ones. [`Grow`] is
//! answered when there is memory, which may take a while if others have all of it: meanwhile the device
//! takes back what they do not use. It asks for a segment by [`Reclaim`]; the worker gives nothing out in
//! it from then on and says [`Release`] once nothing in it is in use. After that neither side uses the
//! segment: no submission names it, and its number may become that of another one.
//!
//! ```text
//!   SEND, BULK   Grow -> Segment ... in use ... <- Reclaim, nothing new ... last buffer freed -> Release
//!   RECEIVE      <- Segment ... in use ... all recycled, then <- Reclaim -> Release
//! ```

use core::net::Ipv6Addr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The newest version of all that is in this module that this side speaks.
pub const VERSION: u32 = 3;

/// The oldest version that this side speaks, too. Who adds a version keeps it where the other side can be of it: smbd
/// and the device are installed and started again at different times.
pub const OLDEST_VERSION: u32 = 3;

/// The optional features of [`VERSION`] that this side has, a bit each. There are none yet.
pub const FEATURES: u64 = 0;

/// Who does not know a [`Control::kind`], [`Submission::op`] or [`Completion::event`] with this bit skips it. It is
/// not answered, asks for nothing and holds nothing: no cookie, no buffer. A process sends no descriptors with it; what a
/// device sends with it is closed.
pub const OPTIONAL: u32 = 1 << 31;

/// The version that two sides speak with each other: the newest of both; `None` where there is none.
#[must_use]
pub const fn common_version(newest: u32, oldest: u32) -> Option<u32> {
    let version = if newest < VERSION { newest } else { VERSION };
    if version < OLDEST_VERSION || version < oldest {
        return None;
    }
    Some(version)
}

/// Bytes of a control message at most: a [`SetParameters`] with the longest blob.
pub const MAX_CONTROL_LENGTH: usize = 4096;

/// Addresses of an [`Addresses`] at most.
pub const MAX_ADDRESSES: usize = 64;

/// Addresses of a [`SetAddresses`] at most.
pub const MAX_ALLOWED_ADDRESSES: usize = 128;

/// Bytes of the security blob of [`SetParameters`] at most.
pub const MAX_SECURITY_BLOB: usize = 2048;

/// A one-time token: whoever names it gets the connection it was made for. All 0: none.
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
    /// smbd's parent: gets offers, and sets parameters. One at a time.
    pub const LISTENER: u32 = 1;
    /// smbd's child: owns connections.
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
    /// Sends one SMB2 message: `length` bytes at `place` in SEND. With `INVALIDATE` in `flags`, has the
    /// peer invalidate `token`. Answered by `SENT`.
    pub const SEND_PDU: u32 = 1;
    /// Reads `length` bytes of the peer's memory, which `descriptors` name, to `place` in BULK.
    /// Answered by `RDMA_DONE`.
    pub const RDMA_READ: u32 = 2;
    /// Writes `length` bytes at `place` in BULK to the peer's memory. Answered by `RDMA_DONE`.
    pub const RDMA_WRITE: u32 = 3;
    /// Ends a connection in order: what was submitted before goes first. `DISCONNECTED` follows.
    pub const DISCONNECT: u32 = 4;
    /// Gives a connection to the worker that has registered `client_guid`
    /// ([`TransferSubmission`](super::TransferSubmission)), or, where that is 0, to whoever claims the
    /// token of the answer; with a first message for it: `length` bytes at `place` in SEND. Answered
    /// by `TRANSFERRED`; if its status is OK the connection is not this worker's any more.
    pub const TRANSFER: u32 = 5;
    /// Gives the buffer of a received message back: its number is in `place`. `conn` is 0 but for its
    /// queue.
    pub const RECYCLE: u32 = 6;
    /// A session is on the connection: its client has logged in. Once more has no effect. A connection that
    /// is transferred later stays authenticated.
    pub const AUTHENTICATED: u32 = 7;
}

/// [`Submission::flags`].
pub mod flags {
    /// `token` is to be invalidated (SEND with Invalidate).
    pub const INVALIDATE: u32 = 1;
}

/// [`Completion::event`].
pub mod event {
    /// A connection is this worker's now. `buffer` holds a [`ConnInfo`](super::ConnInfo) of `length`
    /// bytes; recycle it.
    pub const CONNECTION: u32 = 1;
    /// A message arrived: `length` bytes in `buffer`; recycle it.
    pub const PDU: u32 = 2;
    /// SEND_PDU ended: its memory is free. With status OK the peer's network has acknowledged all of the
    /// message: its TCP where iWARP is spoken in software, its adapter where InfiniBand or RoCE is.
    /// The completion of an iWARP adapter does not promise that, and after DISCONNECT it means that
    /// this side's network has taken the message. It may come some 0.1 s after the acknowledgement.
    pub const SENT: u32 = 3;
    /// RDMA_READ or RDMA_WRITE ended: the data is there, or its memory is free.
    pub const RDMA_DONE: u32 = 4;
    /// The connection is gone; `status` says why.
    pub const DISCONNECTED: u32 = 5;
    /// TRANSFER ended; `token` is set where it was asked for.
    pub const TRANSFERRED: u32 = 6;
}

/// What every control message begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Control {
    /// `kind::*`.
    pub kind: u32,
    /// Bytes of the whole message.
    pub length: u32,
    /// Chosen by who asks, and repeated in the answer. Not 0 in a request.
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
    /// A worker's: the connection that it was forked for, or 0.
    pub token: Token,
    /// The oldest version that the process speaks.
    pub oldest_version: u32,
    /// 0.
    pub reserved: u32,
    /// Its features, a bit each. Those that the device does not know are not used.
    pub features: u64,
}

impl Attach {
    /// What this side says.
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

/// What the listener wants of connections that are accepted from now on ([MS-SMBD] 3.1.1.1). 0 stands
/// for the device's own value, and more than its own is reduced to that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetParameters {
    /// Most credits that a peer is granted. 1 to 65,535.
    pub receive_credit_max: u16,
    /// Credits that peers are asked for. 1 to 65,535.
    pub send_credit_target: u16,
    /// Bytes of a sent message, its header included. At least 128.
    pub max_send_size: u32,
    /// Bytes of a received message, its header included. At least 128.
    pub max_receive_size: u32,
    /// Bytes of a received upper-layer message. At least 131,072.
    pub max_fragmented_size: u32,
    /// Bytes of an RDMA transfer.
    pub max_read_write_size: u32,
    /// Time without a message of the peer after which it is asked for one, in milliseconds.
    pub keepalive_interval_ms: u32,
    /// The server's GUID: for a device that answers NEGOTIATE itself.
    pub server_guid: [u8; 16],
    /// Bytes of the security blob of the NEGOTIATE response, which follow this structure.
    pub security_blob_length: u32,
    /// 0.
    pub reserved: [u32; 5],
}

/// The listener names the server's addresses that clients may use, in place of those that it or an
/// earlier listener named before; `count` [`AllowedAddress`]es follow. Connections at other addresses
/// are refused, those that are there end, and [`Addresses`] names none of the others. The list holds
/// until the next one, also when the listener has gone. Before the first, all addresses are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetAddresses {
    /// At most [`MAX_ALLOWED_ADDRESSES`]; 0 with `all`.
    pub count: u32,
    /// 0: only those that follow, and none if none follow. 1: all addresses.
    pub all: u32,
}

/// An address of the server that clients may use. Twice is as once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AllowedAddress {
    /// Of one host: neither unspecified nor multicast. IPv4 mapped into IPv6.
    pub address: [u8; 16],
    /// Scope of link-local IPv6 addresses, not 0; 0 for all others.
    pub scope_id: u32,
    /// 0.
    pub reserved: u32,
}

impl AllowedAddress {
    /// Whether it can be an address of a server.
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

/// A worker registers a client's GUID and a session of it, or takes that back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetSessionId {
    /// The session; 0: only that connections with this GUID are wanted.
    pub session_id: u64,
    /// The ClientGuid of the client's NEGOTIATE requests. Not 0.
    pub client_guid: [u8; 16],
    /// 0: registered. 1: not any more (with session 0: nothing of this GUID any more).
    pub remove: u32,
    /// 0.
    pub reserved: u32,
}

/// A worker wants the connection of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Claim {
    /// Of an offer, or of a transfer.
    pub token: Token,
}

/// The listener does not want the connection of a token: it is closed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Decline {
    /// Of an offer.
    pub token: Token,
}

/// A worker needs one more segment. At most one of each region is unanswered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Grow {
    /// `region::SEND` or `region::BULK`.
    pub region: u32,
    /// Units that the segment has to have at least: 1 to [`RegionShape::longest_run`].
    pub units: u32,
}

/// A worker does not use a segment any more, and has unmapped it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Release {
    /// `region::*`.
    pub region: u32,
    /// Of RECEIVE: its queue. Otherwise 0.
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
    /// Most submissions of a queue that may be unanswered: more are not looked at before.
    pub submissions_outstanding: u32,
    /// Bytes of an RDMA transfer at most.
    pub max_read_write_size: u32,
    /// Of the features that [`Attach`] named, those that are used.
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

/// The memory that a worker may come to map.
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

/// The answer to a request that has no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Reply {
    /// A [`Status`](crate::device::Status) as a number.
    pub status: i32,
    /// The kind of the request.
    pub kind: u32,
}

/// A segment; with its memory file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Segment {
    /// `region::*`.
    pub region: u32,
    /// Of RECEIVE: its queue. Otherwise 0.
    pub queue: u32,
    /// Less than [`RegionShape::max_segments`]; in each of SEND and BULK, and in RECEIVE of each queue,
    /// no other segment has it.
    pub number: u32,
    /// 0.
    pub reserved: u32,
    /// Bytes: whole units, at most [`RegionShape::units_per_segment`] of them.
    pub length: u64,
}

/// The device wants a segment back. Nothing of it is to be given out any more; [`Release`] follows once
/// nothing of it is in use. Of RECEIVE nothing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Reclaim {
    /// `region::*`.
    pub region: u32,
    /// Of RECEIVE: its queue. Otherwise 0.
    pub queue: u32,
    /// As in [`Segment`].
    pub number: u32,
    /// 0.
    pub reserved: u32,
}

/// A queue; with its memory file and the doorbell of its reactor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Queue {
    /// Its number: the upper 16 bits of its connections' numbers.
    pub queue: u32,
    /// 0.
    pub reserved: u32,
    /// Bytes of the memory file.
    pub length: u64,
    /// Where the completion ring begins in it: a multiple of 64. The submission ring is at 0.
    pub completion_offset: u64,
}

/// A connection that belongs to nobody yet: who claims it first, within the time that the device
/// allows, gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Offer {
    /// For [`Attach`] or [`Claim`].
    pub token: Token,
    /// The connection. Its number means something to its owner only.
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
    /// The server's address, at which it came in.
    pub local_address: [u8; 16],
    /// The client's port.
    pub peer_port: u16,
    /// The server's port.
    pub local_port: u16,
    /// Scope of link-local addresses, or 0.
    pub scope_id: u32,
    /// The ClientGuid of its first request.
    pub client_guid: [u8; 16],
    /// Bytes of an upper-layer message to send at most.
    pub max_fragmented_send_size: u32,
    /// Bytes of an upper-layer message to receive at most.
    pub max_fragmented_receive_size: u32,
    /// Bytes of an RDMA transfer at most.
    pub max_read_write_size: u32,
    /// RDMA READs that the peer serves at a time; 0: none.
    pub initiator_depth: u32,
    /// Bytes of an upper-layer message that the client reassembles at most: the MaxFragmentedSize of
    /// its own negotiate message ([MS-SMBD] 2.2.1). `max_fragmented_send_size` is the lesser of this and
    /// of what fits into SEND.
    pub peer_max_fragmented_size: u32,
    /// 0.
    pub reserved: [u32; 7],
}

/// There is something in a queue for a worker that announced that it sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Wake {
    /// 0.
    pub reserved: u64,
}

/// The status of the device; with a memory file that holds `json_length` bytes of JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StatusReport {
    /// Bytes of the memory file.
    pub length: u64,
    /// Bytes of JSON at its start.
    pub json_length: u64,
}

/// Where clients reach the device; `count` [`Address`]es follow. Sent before [`Attached`] to listeners and
/// workers, and again whenever it is another list.
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

/// The last message: the device has nothing to do with this process any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Detached {
    /// Why: a [`Status`](crate::device::Status) as a number.
    pub status: i32,
    /// The newest version of the device where that is why, so that both sides can say which versions met; otherwise 0. This
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
    /// The worker's; comes back.
    pub cookie: u64,
    /// A [`Place`]; RECYCLE: a buffer number.
    pub place: u64,
    /// Bytes.
    pub length: u32,
    /// What the peer shall invalidate, if `flags` says so.
    pub token: u32,
    /// Where in SEND the buffer descriptors are, 16 bytes each as on the wire.
    pub descriptors: u64,
    /// How many: 1 to 4095.
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
    /// The worker's; comes back.
    pub cookie: u64,
    /// Where in SEND the new owner's first message is.
    pub place: u64,
    /// Bytes of it, or 0 without one.
    pub length: u32,
    /// 0.
    pub reserved: u32,
    /// Whose connection it becomes, or 0.
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

    /// What a number means; whether there is such a place is another question.
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
