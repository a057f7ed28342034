// SPDX-License-Identifier: GPL-2.0-or-later

//! The seven operations of the smbdirect device as data, version [`VERSION`].
//!
//! This module is only data: what a process and a device say to each other, by whatever means. `smbdirectd` carries
//! control messages on a socket and shares memory by descriptors; a device in the kernel carries the same structures by
//! `ioctl` and `mmap` ([`uapi`](super::uapi)). Everything is in the byte order of the machine and without padding, and
//! reserved fields are 0 and checked to be 0.
//!
//! # Who says what
//!
//! | operation | sent by | as |
//! |---|---|---|
//! | SET_SMBD_PARAMETERS | listener | control [`SetParameters`], then the security blob |
//! | (set the allowed addresses) | listener | control [`SetAddresses`], then the addresses |
//! | (describe a client) | listener | control [`ClientNote`] |
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
//! Each message begins with a [`Control`], whose `kind` names the structure that follows (`kind::*`), and ends with
//! that structure, except that the blob of [`SetParameters`] and the elements of [`SetAddresses`] and [`Addresses`]
//! follow it. The device answers a request with one message that carries its `cookie`: [`Attached`], [`Segment`],
//! [`StatusReport`], [`CaptureStarted`], or [`Reply`] for the others and for all that fail. Messages that the device sends on its own have
//! cookie 0, and so do [`Release`] and [`ClientNote`], which are not answered. The first message of a process is
//! [`Attach`]; the device ends a connection that begins in any other way. [`Attach`] says which versions the process
//! speaks and which features it has; [`Attached`] says which of them are used. If there is no common version, the
//! answer is [`Detached`] with the device's version.
//!
//! Later versions add kinds, operations, events, and fields in place of reserved ones. A kind, operation or event that
//! the other side may skip has the bit [`OPTIONAL`]; if a side does not know one without that bit, its sender broke the
//! interface. The device answers a [`Claim`] when the completion that reports the connection is on its way, or when the
//! connection ended before that. If the connection ended and its token came with [`Attach`], the device detaches the
//! process.
//!
//! ```text
//!   listener    Attach -> Addresses, Attached   SetParameters -> Reply   SetAddresses -> Reply
//!               <- Offer ...   Decline -> Reply   ClientNote
//!   worker      Attach (with the token of an offer, or without) -> Addresses, Attached
//!               SetSessionId -> Reply    Claim -> Reply    Grow -> Segment + memory file
//!               <- Queue + memory file + doorbell, with the worker's first connection of a reactor
//!               <- Segment + memory file (received messages of a queue)   <- Wake   <- Detached
//!               <- Reclaim   Release
//!               <- Addresses, when they have changed; to a listener, too
//!   observer    Attach -> Attached       StatusRequest -> StatusReport + memory file with JSON
//!               EventsRequest -> StatusReport + memory file with JSON
//!               CaptureRequest -> CaptureStarted + socket that carries the capture; not on the status socket
//! ```
//!
//! # Queues
//!
//! A worker has one queue for each reactor of the device that drives any of its connections. A queue is one memory file
//! with two rings of [`crate::shm`]: the submission ring (the worker produces) at its start, and the completion ring
//! (the device produces) at [`Queue::completion_offset`]. The upper 16 bits of a connection's number are the number of
//! its queue. The worker wakes a sleeping reactor with the doorbell that came with [`Queue`]; a reactor wakes a
//! sleeping worker with [`Wake`] on the control channel, so that a worker sleeps on a single descriptor, which also
//! tells it when the device has gone. [`event::SENT`] alone may wake a deep sleeper up to 0.1 s late; usually the next
//! request wakes it first. [`op::RECYCLE`] alone does not wake a reactor that sleeps deeply, because such a reactor
//! does not need the room.
//!
//! The device answers each submission with exactly one completion that carries its `cookie`, except [`op::RECYCLE`],
//! [`op::DISCONNECT`], [`op::AUTHENTICATED`] and [`op::RECALL`]. On one connection, the device carries out SEND_PDU and
//! RDMA_WRITE in the order of submission, so that a response never overtakes its data; RDMA_READ is not ordered with
//! them. After [`event::DISCONNECTED`], only the answers to submissions that the worker made before it saw that event
//! still name the connection: the worker could not know that the connection had ended, and each submission is answered
//! in any case. While there is no room for completions, the device takes no submissions. So a worker that waits for
//! room in the submission ring, even to recycle, must take completions meanwhile.
//!
//! # Memory
//!
//! A worker has three regions, each made of segments (memory files that both sides map). Segments are
//! made on demand up to a limit ([`RegionShape`]), and given back:
//!
//! | region | who gives out its buffers | holds |
//! |---|---|---|
//! | [`region::SEND`] | the worker | messages to send, and lists of buffer descriptors |
//! | [`region::BULK`] | the worker | data of RDMA READ and RDMA WRITE: the only region that a peer can ever reach |
//! | [`region::RECEIVE`] | the device | received messages, until [`op::RECYCLE`]; each queue has its own |
//!
//! A place in SEND or BULK is a [`Place`]; a buffer number ([`crate::shm::Buffer::to_bits`]), which contains segment
//! and unit, names a received message.
//!
//! Segments differ in length: a region begins with a short one, and grows by longer ones. The device answers [`Grow`]
//! when it has memory. If other workers have all of it, that may take a while, during which the device takes back what
//! they do not use. It asks for a segment back with [`Reclaim`]; from then on the worker gives out nothing in it, and
//! sends [`Release`] once nothing in it is in use. After that neither side uses the segment: no submission names it,
//! and another segment may get its number.
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
    /// This side knows [`FETCH_AHEAD`](super::op::FETCH_AHEAD), [`RECALL`](super::op::RECALL) and
    /// [`FETCHED`](super::event::FETCHED).
    pub const FETCH_AHEAD: u64 = 1;
}

/// The optional features of [`VERSION`] that this side has, one bit each.
pub const FEATURES: u64 = feature::FETCH_AHEAD;

/// A side that does not know a [`Control::kind`], [`Submission::op`] or [`Completion::event`] with this bit skips it.
/// Such a message or entry is not answered, does not ask for anything, and has no cookie and no buffer. A process does
/// not send descriptors with it; a process closes those that a device sends with it.
pub const OPTIONAL: u32 = 1 << 31;

/// Returns the version that two sides speak with each other: the newest that both know, or `None`.
#[must_use]
pub const fn common_version(newest: u32, oldest: u32) -> Option<u32> {
    let version = if newest < VERSION { newest } else { VERSION };
    if version < OLDEST_VERSION || version < oldest {
        return None;
    }
    Some(version)
}

/// Length of the longest control message, in bytes: enough for the longest blob or list of addresses.
pub const MAX_CONTROL_LENGTH: usize = 4096;

/// Maximum number of addresses in the message [`Addresses`].
pub const MAX_ADDRESSES: usize = 64;

/// Maximum number of addresses in the message [`SetAddresses`].
pub const MAX_ALLOWED_ADDRESSES: usize = 128;

/// Length of the longest security blob of [`SetParameters`], in bytes.
pub const MAX_SECURITY_BLOB: usize = 2048;

/// A one-time token: the worker that names it gets the connection for which it was made. All zeros mean no token.
pub type Token = [u8; 16];

/// Values of [`Control::kind`].
pub mod kind {
    /// The kind of [`Attach`](super::Attach).
    pub const ATTACH: u32 = 1;
    /// The kind of [`SetParameters`](super::SetParameters).
    pub const SET_PARAMETERS: u32 = 2;
    /// The kind of [`SetSessionId`](super::SetSessionId).
    pub const SET_SESSION_ID: u32 = 3;
    /// The kind of [`Claim`](super::Claim).
    pub const CLAIM: u32 = 4;
    /// The kind of [`Grow`](super::Grow).
    pub const GROW: u32 = 5;
    /// The kind of [`StatusRequest`](super::StatusRequest).
    pub const STATUS_REQUEST: u32 = 6;
    /// The kind of [`Decline`](super::Decline).
    pub const DECLINE: u32 = 7;
    /// The kind of [`SetAddresses`](super::SetAddresses).
    pub const SET_ADDRESSES: u32 = 8;
    /// The kind of [`Release`](super::Release).
    pub const RELEASE: u32 = 9;
    /// The kind of [`EventsRequest`](super::EventsRequest).
    pub const EVENTS_REQUEST: u32 = 10;
    /// The kind of [`CaptureRequest`](super::CaptureRequest).
    pub const CAPTURE_REQUEST: u32 = 11;
    /// The kind of [`ClientNote`](super::ClientNote).
    pub const CLIENT_NOTE: u32 = 0x80000001;
    /// The kind of [`Attached`](super::Attached).
    pub const ATTACHED: u32 = 101;
    /// The kind of [`Reply`](super::Reply).
    pub const REPLY: u32 = 102;
    /// The kind of [`Segment`](super::Segment).
    pub const SEGMENT: u32 = 103;
    /// The kind of [`Queue`](super::Queue).
    pub const QUEUE: u32 = 104;
    /// The kind of [`Offer`](super::Offer).
    pub const OFFER: u32 = 105;
    /// The kind of [`Wake`](super::Wake).
    pub const WAKE: u32 = 106;
    /// The kind of [`StatusReport`](super::StatusReport).
    pub const STATUS_REPORT: u32 = 107;
    /// The kind of [`Detached`](super::Detached).
    pub const DETACHED: u32 = 108;
    /// The kind of [`Addresses`](super::Addresses).
    pub const ADDRESSES: u32 = 109;
    /// The kind of [`Reclaim`](super::Reclaim).
    pub const RECLAIM: u32 = 110;
    /// The kind of [`CaptureStarted`](super::CaptureStarted).
    pub const CAPTURE_STARTED: u32 = 111;
}

/// Values of [`Attach::role`].
pub mod role {
    /// The parent smbd, which gets offers and sets parameters. There can be only one at a time.
    pub const LISTENER: u32 = 1;
    /// A child smbd, which owns connections.
    pub const WORKER: u32 = 2;
    /// An administrator's tool, which asks for the status.
    pub const OBSERVER: u32 = 3;
}

/// Values of [`ClientNote::note`].
pub mod note {
    /// The client has negotiated SMB 2 or 3, over TCP or SMB Direct. `value` is the dialect, with the bit
    /// [`MULTICHANNEL`] if the client supports multichannel.
    pub const NEGOTIATED: u16 = 1;
    /// The client has asked for the server's interfaces. `value` is the number of RDMA-capable addresses in the answer.
    pub const ASKED: u16 = 2;
    /// The client has asked for the server's interfaces, and the answer announced no RDMA-capable address because its
    /// session is signed or encrypted and its connection has no RDMA transform for that. `value` is 0.
    pub const WITHHELD: u16 = 3;
    /// The client has a session on its SMB Direct connection from `port`. `value` is one of `protection::*`.
    pub const SESSION: u16 = 4;
    /// The client could not bind an SMB Direct connection to its session. `value` is the NTSTATUS.
    pub const REFUSED: u16 = 5;
    /// File data on the client's SMB Direct connection from `port` is encrypted although the session does not demand
    /// that. `value` has bits of `encrypted::*`, which are in addition to those of earlier notes about the connection.
    pub const ENCRYPTED: u16 = 6;

    /// Bit in `value` of [`NEGOTIATED`]: the client supports multichannel.
    pub const MULTICHANNEL: u32 = 0x10000;
}

/// Values of `value` in [`note::SESSION`]: how a connection protects and carries file data, as its session demands.
/// [`note::ENCRYPTED`] says what is encrypted besides.
pub mod protection {
    /// File data is neither signed nor encrypted, and may go by RDMA.
    pub const PLAIN: u32 = 0;
    /// File data is signed, and may go by RDMA with a transform.
    pub const SIGNED: u32 = 1;
    /// File data is encrypted, and may go by RDMA with a transform.
    pub const ENCRYPTED: u32 = 2;
    /// File data is signed, and goes in messages.
    pub const SIGNED_IN_MESSAGES: u32 = 3;
    /// File data is encrypted, and goes in messages.
    pub const ENCRYPTED_IN_MESSAGES: u32 = 4;
}

/// Bits of `value` in [`note::ENCRYPTED`]: who encrypts file data although the session does not demand that.
pub mod encrypted {
    /// A share demands it.
    pub const BY_SHARE: u32 = 1;
    /// Neither the session nor the share demands it, but the client does it.
    pub const BY_CLIENT: u32 = 2;
    /// The connection has no RDMA transform for encrypted data, which therefore goes in messages.
    pub const IN_MESSAGES: u32 = 4;
}

/// Values of [`Grow::region`] and [`Segment::region`].
pub mod region {
    /// The region for messages to send.
    pub const SEND: u32 = 1;
    /// The region for data of RDMA READ and RDMA WRITE.
    pub const BULK: u32 = 2;
    /// The region for received messages.
    pub const RECEIVE: u32 = 3;
}

/// Values of [`Submission::op`].
pub mod op {
    /// Sends one SMB2 message, the `length` bytes at `place` in SEND. With `INVALIDATE` in `flags`, it invalidates
    /// `token` at the peer. The answer is `SENT`.
    pub const SEND_PDU: u32 = 1;
    /// Reads `length` bytes of the peer's memory, which `descriptors` name, into BULK at `place`. The answer is
    /// `RDMA_DONE`.
    pub const RDMA_READ: u32 = 2;
    /// Writes the `length` bytes at `place` in BULK to the peer's memory. The answer is `RDMA_DONE`.
    pub const RDMA_WRITE: u32 = 3;
    /// Ends a connection gracefully: earlier submissions are sent first. `DISCONNECTED` follows.
    pub const DISCONNECT: u32 = 4;
    /// Gives a connection to the worker that has registered `client_guid`
    /// ([`TransferSubmission`](super::TransferSubmission)) or, if that is 0, to the worker that claims the token in the
    /// answer, with a first message for it: the `length` bytes at `place` in SEND. The answer is `TRANSFERRED`; if its
    /// status is OK, the connection no longer belongs to this worker.
    pub const TRANSFER: u32 = 5;
    /// Gives the buffer of a received message back; the buffer's number is in `place`. In `conn`, only the queue's bits
    /// are set; the others are 0.
    pub const RECYCLE: u32 = 6;
    /// Says that the connection has a session: its client has logged in. Repeating this has no effect. A connection
    /// that is transferred later stays authenticated.
    pub const AUTHENTICATED: u32 = 7;
    /// Lends the `length` bytes at `place` in BULK for the data of the next WRITE on this connection
    /// ([`feature::FETCH_AHEAD`](super::feature::FETCH_AHEAD)). The answer is `FETCHED`.
    pub const FETCH_AHEAD: u32 = 8;
    /// Asks for the buffer back that `FETCH_AHEAD` lent on this connection. If the buffer is still unused,
    /// `FETCH_AHEAD` is answered now, with the status FLUSHED.
    pub const RECALL: u32 = 9;
}

/// Values of [`Submission::flags`].
pub mod flags {
    /// The message invalidates `token` at the peer (SEND with Invalidate).
    pub const INVALIDATE: u32 = 1;
}

/// Values of [`Completion::event`].
pub mod event {
    /// A connection belongs to this worker now. `buffer` holds a [`ConnInfo`](super::ConnInfo) of `length`
    /// bytes; recycle it.
    pub const CONNECTION: u32 = 1;
    /// A message arrived: `length` bytes in `buffer`; recycle it.
    pub const PDU: u32 = 2;
    /// SEND_PDU ended: its memory is free. Status OK means that the peer's network has acknowledged all of the message:
    /// the peer's TCP with software iWARP, its adapter with InfiniBand or RoCE. An iWARP adapter's completion does not
    /// promise this, and after DISCONNECT status OK means only that this side's network has taken the message. The
    /// completion may come about 0.1 s after the acknowledgement.
    pub const SENT: u32 = 3;
    /// RDMA_READ or RDMA_WRITE ended: it no longer uses its memory, which holds the data of a successful READ.
    pub const RDMA_DONE: u32 = 4;
    /// The connection has ended; `status` says why.
    pub const DISCONNECTED: u32 = 5;
    /// TRANSFER ended; `token` is set if TRANSFER asked for one.
    pub const TRANSFERRED: u32 = 6;
    /// FETCH_AHEAD ended. Status OK means that `length` bytes were fetched for the WRITE in the connection's next
    /// `PDU`, which follows at once. Otherwise nothing was fetched, and the memory is free: the status is BUSY if
    /// something is already lent on this connection or a quarter of the queue's depth is under way, FLUSHED if RECALL
    /// asked for the buffer or the connection has ended, or says why the fetch failed.
    pub const FETCHED: u32 = 7;
}

/// The head of every control message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Control {
    /// One of `kind::*`.
    pub kind: u32,
    /// Length of the whole message, in bytes.
    pub length: u32,
    /// A number that the sender of a request chooses, and that the answer repeats. It is not 0 in a request.
    pub cookie: u64,
}

/// The first message: a process asks to be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Attach {
    /// The newest version that the process speaks. Every version has this field in this place.
    pub version: u32,
    /// One of `role::*`.
    pub role: u32,
    /// For a worker, the token of the connection for which it was forked, or 0.
    pub token: Token,
    /// The oldest version that the process speaks.
    pub oldest_version: u32,
    /// Must be 0.
    pub reserved: u32,
    /// Features of the process, one bit each. Those that the device does not know are not used.
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

/// The listener sets parameters for connections accepted from now on ([MS-SMBD] 3.1.1.1). 0 selects the device's own
/// value, and a larger value is reduced to that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetParameters {
    /// Maximum number of credits that a peer is granted: 1 to 65,535.
    pub receive_credit_max: u16,
    /// Number of credits to request from peers: 1 to 65,535.
    pub send_credit_target: u16,
    /// Length of the longest message to send, in bytes, header included: at least 128.
    pub max_send_size: u32,
    /// Length of the longest message to receive, in bytes, header included: at least 128.
    pub max_receive_size: u32,
    /// Length of the longest upper-layer message to receive, in bytes: at least 131,072.
    pub max_fragmented_size: u32,
    /// Largest RDMA transfer, in bytes.
    pub max_read_write_size: u32,
    /// Milliseconds without a message from the peer after which the device asks it for one.
    pub keepalive_interval_ms: u32,
    /// The server's GUID, for a device that answers NEGOTIATE itself.
    pub server_guid: [u8; 16],
    /// Length in bytes of the NEGOTIATE response's security blob, which follows this structure.
    pub security_blob_length: u32,
    /// Must be 0.
    pub reserved: [u32; 5],
}

/// The listener sets the server addresses that clients may use, instead of those that this or an earlier listener set;
/// `count` [`AllowedAddress`]es follow. The device refuses new connections to other addresses, ends existing ones, and
/// leaves those addresses out of [`Addresses`]. The list stays in force until the next one, even after the listener has
/// gone. Before the first list, all addresses are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetAddresses {
    /// Number of addresses: at most [`MAX_ALLOWED_ADDRESSES`], and 0 with `all`.
    pub count: u32,
    /// 0 allows only the addresses that follow, and none if none follow; 1 allows all addresses.
    pub all: u32,
}

/// An address of the server that clients may use. Duplicates have no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AllowedAddress {
    /// The address of one host, not unspecified or multicast. IPv4 is mapped into IPv6.
    pub address: [u8; 16],
    /// Scope ID of a link-local IPv6 address, not 0; 0 for all others.
    pub scope_id: u32,
    /// Must be 0.
    pub reserved: u32,
}

impl AllowedAddress {
    /// Returns whether this can be the address of a server.
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

/// The listener says what smbd knows about a client, so that the device's status can show it. A note does not change
/// what the device does. The device skips a note that it does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ClientNote {
    /// The client's address. IPv4 is mapped into IPv6.
    pub address: [u8; 16],
    /// One of `note::*`.
    pub note: u16,
    /// The client's port, if the note is about one connection; otherwise 0.
    pub port: u16,
    /// The note's value: see `note::*`.
    pub value: u32,
    /// The server's address, if the note is about one connection; otherwise 0. IPv4 is mapped into IPv6. A client may
    /// connect to two addresses of the server from the same port.
    pub local_address: [u8; 16],
    /// The server's port, if the note is about one connection; otherwise 0.
    pub local_port: u16,
    /// Must be 0.
    pub reserved: u16,
}

/// A worker registers a client's GUID and one of its sessions, or removes the registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetSessionId {
    /// The session, or 0 to register only for connections with this GUID.
    pub session_id: u64,
    /// The ClientGuid of the client's NEGOTIATE requests. Not 0.
    pub client_guid: [u8; 16],
    /// 0 registers; 1 removes, and with session 0 removes the GUID and all its sessions.
    pub remove: u32,
    /// Must be 0.
    pub reserved: u32,
}

/// A worker claims the connection that a token names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Claim {
    /// The token of an offer or a transfer.
    pub token: Token,
}

/// The listener declines the connection that a token names; the device closes the connection at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Decline {
    /// The token of an offer.
    pub token: Token,
}

/// A worker needs one more segment. At most one request may be unanswered for each region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Grow {
    /// `region::SEND` or `region::BULK`.
    pub region: u32,
    /// Minimum number of units of the segment: 1 to [`RegionShape::longest_run`].
    pub units: u32,
}

/// A worker gives back a segment that it no longer uses and has unmapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Release {
    /// One of `region::*`.
    pub region: u32,
    /// For RECEIVE, its queue; otherwise 0.
    pub queue: u32,
    /// As in [`Segment`].
    pub number: u32,
    /// Must be 0.
    pub reserved: u32,
}

/// An observer asks for the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StatusRequest {
    /// Must be 0.
    pub reserved: u64,
}

/// An observer asks for events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EventsRequest {
    /// The number of the last event that the observer knows, or 0.
    pub after: u64,
}

/// An observer asks for a capture of a client's connections, until it detaches or the connection ends. The status socket
/// does not answer this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CaptureRequest {
    /// The client's address. IPv4 is mapped into IPv6.
    pub address: [u8; 16],
    /// The number of bytes to capture of what RDMA moves for each request, and of the file data in each message.
    pub bytes: u32,
    /// The client's port, for one existing connection; 0 for all connections of the client, existing and future.
    pub port: u16,
    /// Must be 0.
    pub reserved: u16,
}

/// The process is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Attached {
    /// The version that both sides speak from now on: one of those that [`Attach`] named.
    pub version: u32,
    /// The device's number for this process.
    pub worker: u32,
    /// The memory that the worker may map: the answer to GET_MEM_PARAMS.
    pub memory: MemParams,
    /// Maximum number of unanswered submissions of a queue: the device leaves further ones in the ring until it has
    /// answered some.
    pub submissions_outstanding: u32,
    /// Largest RDMA transfer, in bytes.
    pub max_read_write_size: u32,
    /// The features named by [`Attach`] that both sides use.
    pub features: u64,
    /// Must be 0.
    pub reserved: [u32; 4],
}

impl Attached {
    /// Returns whether the device answers in a version, and with features, that this side named.
    #[must_use]
    pub const fn is_understood(&self) -> bool {
        matches!(self.version, OLDEST_VERSION..=VERSION) && self.features & !FEATURES == 0
    }
}

/// The memory that a worker may map over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemParams {
    /// Shape of `region::SEND`.
    pub send: RegionShape,
    /// Shape of `region::BULK`.
    pub bulk: RegionShape,
    /// Shape of each queue's `region::RECEIVE`.
    pub receive: RegionShape,
    /// Maximum number of bytes of a worker's memory in all regions together.
    pub limit: u64,
    /// Must be 0.
    pub reserved: u64,
}

/// The sizes of a region's segments and buffers. A segment consists of units, and a buffer consists of consecutive
/// units of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RegionShape {
    /// Length of a unit, in bytes.
    pub unit_length: u32,
    /// Number of units in the longest segment: 1 to 65,536.
    pub units_per_segment: u32,
    /// Number of units in the longest buffer.
    pub longest_run: u32,
    /// Maximum number of segments at a time: 1 to 65,536.
    pub max_segments: u32,
}

/// The answer to a request that has no other answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Reply {
    /// A [`Status`](crate::device::Status) as a number.
    pub status: i32,
    /// Kind of the request.
    pub kind: u32,
}

/// The device shares a segment, with its memory file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Segment {
    /// One of `region::*`.
    pub region: u32,
    /// For RECEIVE, its queue; otherwise 0.
    pub queue: u32,
    /// The segment's number, less than [`RegionShape::max_segments`]. It is unique in SEND, in BULK, and in each
    /// queue's RECEIVE.
    pub number: u32,
    /// Must be 0.
    pub reserved: u32,
    /// The segment's length in bytes: whole units, at most [`RegionShape::units_per_segment`] of them.
    pub length: u64,
}

/// The device asks for a segment back. The worker gives out nothing in it from now on, and sends [`Release`] once
/// nothing in it is in use. In a RECEIVE segment, nothing is in use when the device asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Reclaim {
    /// One of `region::*`.
    pub region: u32,
    /// For RECEIVE, its queue; otherwise 0.
    pub queue: u32,
    /// As in [`Segment`].
    pub number: u32,
    /// Must be 0.
    pub reserved: u32,
}

/// The device shares a queue, with its memory file and the doorbell of its reactor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Queue {
    /// The queue's number: the upper 16 bits of its connections' numbers.
    pub queue: u32,
    /// Must be 0.
    pub reserved: u32,
    /// Length of the memory file, in bytes.
    pub length: u64,
    /// Offset of the completion ring in the memory file: a multiple of 64. The submission ring is at 0.
    pub completion_offset: u64,
}

/// The device offers a connection without an owner: the worker that claims it first, within the time that the device
/// allows, gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Offer {
    /// The token of the connection, for [`Attach`] or [`Claim`].
    pub token: Token,
    /// The connection. Only its owner can use its number.
    pub info: ConnInfo,
}

/// A description of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ConnInfo {
    /// The connection's number.
    pub conn: u64,
    /// The client's address; IPv4 is mapped into IPv6.
    pub peer_address: [u8; 16],
    /// The server's address to which the client connected.
    pub local_address: [u8; 16],
    /// The client's port.
    pub peer_port: u16,
    /// The server's port.
    pub local_port: u16,
    /// Scope ID of a link-local address, or 0.
    pub scope_id: u32,
    /// The ClientGuid of the connection's first request.
    pub client_guid: [u8; 16],
    /// Length of the longest upper-layer message to send, in bytes.
    pub max_fragmented_send_size: u32,
    /// Length of the longest upper-layer message to receive, in bytes.
    pub max_fragmented_receive_size: u32,
    /// Largest RDMA transfer, in bytes.
    pub max_read_write_size: u32,
    /// Number of RDMA READs that the peer serves at a time, or 0.
    pub initiator_depth: u32,
    /// Length of the longest upper-layer message that the client reassembles, in bytes: the MaxFragmentedSize of its
    /// own negotiate message ([MS-SMBD] 2.2.1). `max_fragmented_send_size` is the lesser of this and the length that
    /// fits into SEND.
    pub peer_max_fragmented_size: u32,
    /// Must be 0.
    pub reserved: [u32; 7],
}

/// The device wakes a worker that announced that it sleeps, because a queue has something for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Wake {
    /// Must be 0.
    pub reserved: u64,
}

/// The device reports its status, or its events, with a memory file that begins with `json_length` bytes of JSON. Map the
/// file, or read it at offset 0: other processes of the user share its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StatusReport {
    /// Length of the memory file, in bytes.
    pub length: u64,
    /// Length of the JSON at its start, in bytes.
    pub json_length: u64,
}

/// A capture begins. The message carries a socket of type `SOCK_SEQPACKET`, which the device closes at the end; each of
/// its messages is at most 128 KiB and consists of whole blocks of one pcapng file. The last block of an interface whose
/// packets were captured holds its statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CaptureStarted {
    /// Number of interfaces in the file: one for each reactor.
    pub interfaces: u32,
    /// Must be 0.
    pub reserved: u32,
}

/// The device lists the addresses on which clients reach it; `count` [`Address`]es follow. It sends this to listeners
/// and workers before [`Attached`], and again whenever the list changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Addresses {
    /// Number of addresses: at most [`MAX_ADDRESSES`].
    pub count: u32,
    /// Must be 0.
    pub reserved: u32,
}

/// An address on which clients reach the device.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Address {
    /// The address. IPv4 is mapped into IPv6.
    pub address: [u8; 16],
    /// Speed of the address's interface, in bits per second.
    pub link_speed: u64,
    /// The system's index of the address's interface, or 0.
    pub interface: u32,
    /// Scope ID of a link-local address, or 0.
    pub scope_id: u32,
    /// The port.
    pub port: u16,
    /// Must be 0.
    pub reserved: [u16; 3],
}

/// The last message: the device has ended the attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Detached {
    /// The reason, a [`Status`](crate::device::Status) as a number.
    pub status: i32,
    /// The device's newest version, so that both sides can report it, if versions are the reason; otherwise 0. This
    /// message has the same form in every version.
    pub version: u32,
}

/// An entry of a submission ring, except for TRANSFER.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Submission {
    /// One of `op::*`.
    pub op: u32,
    /// A combination of `flags::*`.
    pub flags: u32,
    /// The connection.
    pub conn: u64,
    /// Chosen by the worker, and repeated in the completion.
    pub cookie: u64,
    /// A [`Place`], or for RECYCLE a buffer number.
    pub place: u64,
    /// Length in bytes.
    pub length: u32,
    /// The token to invalidate at the peer, if `flags` says so.
    pub token: u32,
    /// The [`Place`] in SEND of the buffer descriptors, 16 bytes each as on the wire.
    pub descriptors: u64,
    /// Number of descriptors: 1 to 4095.
    pub descriptor_count: u32,
    /// Must be 0.
    pub reserved: [u32; 3],
}

/// An entry of a submission ring for TRANSFER.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TransferSubmission {
    /// Must be [`op::TRANSFER`].
    pub op: u32,
    /// Must be 0.
    pub flags: u32,
    /// The connection.
    pub conn: u64,
    /// Chosen by the worker, and repeated in the completion.
    pub cookie: u64,
    /// The [`Place`] in SEND of the new owner's first message.
    pub place: u64,
    /// Length of that message, or 0 if there is none.
    pub length: u32,
    /// Must be 0.
    pub reserved: u32,
    /// The client GUID that the new owner has registered, or 0.
    pub client_guid: [u8; 16],
    /// Must be 0.
    pub reserved2: u64,
}

/// An entry of a completion ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Completion {
    /// One of `event::*`.
    pub event: u32,
    /// A [`Status`](crate::device::Status) as a number.
    pub status: i32,
    /// The connection.
    pub conn: u64,
    /// The cookie of the submission, or 0.
    pub cookie: u64,
    /// The number of a buffer in RECEIVE, or 0.
    pub buffer: u64,
    /// Length in bytes.
    pub length: u32,
    /// Must be 0.
    pub reserved: u32,
    /// For TRANSFERRED, the token, or 0.
    pub token: Token,
    /// Must be 0.
    pub reserved2: u64,
}

// `IntoBytes` refuses padding; the lengths are part of the interface.
const _: () = {
    assert!(size_of::<Control>() == 16);
    assert!(size_of::<Attach>() == 40);
    assert!(size_of::<SetParameters>() == 64);
    assert!(size_of::<SetAddresses>() == 8);
    assert!(size_of::<AllowedAddress>() == 24);
    assert!(size_of::<ClientNote>() == 44);
    assert!(kind::CLIENT_NOTE == OPTIONAL | 1);
    assert!(size_of::<SetSessionId>() == 32);
    assert!(size_of::<Claim>() == 16);
    assert!(size_of::<Grow>() == 8);
    assert!(size_of::<StatusRequest>() == 8);
    assert!(size_of::<EventsRequest>() == 8);
    assert!(size_of::<CaptureRequest>() == 24);
    assert!(size_of::<CaptureStarted>() == 8);
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

/// The place of a byte in SEND or BULK. As a number, it has the segment in the upper 16 bits, and the offset in the
/// others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The segment.
    pub segment: u16,
    /// Number of bytes from the segment's start: less than 2^48.
    pub offset: u64,
}

impl Place {
    const OFFSET_BITS: u32 = 48;

    /// Returns the place as a number.
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

/// Returns the queue to which a connection's number belongs.
#[must_use]
pub const fn queue_of(conn: u64) -> u32 {
    (conn >> 48) as u32
}
