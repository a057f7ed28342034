// SPDX-License-Identifier: GPL-2.0-or-later

//! The structures and constants that C sees.
//!
//! A structure that C and the library exchange begins with `type_size`, which the caller sets to its `sizeof`; ends
//! with `reserved`, which is 0; and has no padding. In an array, the first element's `type_size` is valid for all
//! elements.

use std::ffi::c_void;
use std::mem::offset_of;

use crate::device::Handle;

/// An attachment to the smbdirect device. The structure is opaque.
#[derive(Debug)]
pub struct smbdirect_device {
    pub(super) handle: Handle,
    /// A call panicked, so the state that it left cannot be relied on.
    pub(super) poisoned: bool,
}

/// Success.
pub const SMBDIRECT_OK: i32 = 0;
/// An argument is invalid: a null pointer, or a length or number out of range.
pub const SMBDIRECT_E_INVALID: i32 = 1;
/// A bug in the library. The handle can only be freed.
pub const SMBDIRECT_E_PANIC: i32 = 2;
/// Another process made the handle. This process must make its own attachment.
pub const SMBDIRECT_E_FORKED: i32 = 3;
/// Nothing listens at the device's path.
pub const SMBDIRECT_E_NO_DEVICE: i32 = 4;
/// This process may not use the device.
pub const SMBDIRECT_E_DENIED: i32 = 5;
/// The library and the device have no version of their interface in common.
pub const SMBDIRECT_E_VERSION: i32 = 6;
/// The device has gone, or has ended this process's attachment. Attach again.
pub const SMBDIRECT_E_DETACHED: i32 = 7;
/// The process is not attached yet, or not attached in the role for this call.
pub const SMBDIRECT_E_NOT_ATTACHED: i32 = 8;
/// There is no room now. Try again after SMBDIRECT_EVENT_ROOM, which follows.
pub const SMBDIRECT_E_AGAIN: i32 = 9;
/// The device has no memory for this, and nothing that this process has under way would free any.
/// Give up: SMBDIRECT_EVENT_ROOM does not follow.
pub const SMBDIRECT_E_NO_MEMORY: i32 = 10;
/// A length exceeds that of the longest buffer, message or RDMA transfer.
pub const SMBDIRECT_E_TOO_LONG: i32 = 11;
/// The connection does not exist, or it no longer belongs to this process.
pub const SMBDIRECT_E_NO_CONNECTION: i32 = 12;
/// The buffer or PDU does not exist, or it was freed.
pub const SMBDIRECT_E_NO_BUFFER: i32 = 13;
/// The range is not within the buffer.
pub const SMBDIRECT_E_OUT_OF_BOUNDS: i32 = 14;
/// The buffer descriptors are invalid: none, too many, a partial one, or one with an invalid range.
pub const SMBDIRECT_E_DESCRIPTORS: i32 = 15;
/// The buffer descriptors describe fewer bytes than the transfer has.
pub const SMBDIRECT_E_DESCRIPTORS_TOO_SHORT: i32 = 16;
/// The bytes are not an SMB2 request of the kind that the call expects, or its fields contradict each other.
pub const SMBDIRECT_E_REQUEST: i32 = 17;
/// The peer does not serve RDMA READs.
pub const SMBDIRECT_E_NO_READS: i32 = 18;
/// The token is unknown, used or expired.
pub const SMBDIRECT_E_NO_TOKEN: i32 = 19;
/// No process has registered that client GUID.
pub const SMBDIRECT_E_NO_OWNER: i32 = 20;
/// Another process has registered the client GUID or session, or is the listener.
pub const SMBDIRECT_E_TAKEN: i32 = 21;
/// The device has reached its limit of workers, sessions or connections.
pub const SMBDIRECT_E_LIMIT: i32 = 22;
/// An operation is still under way.
pub const SMBDIRECT_E_BUSY: i32 = 23;
/// The work was abandoned because the connection, or the attachment, ended.
pub const SMBDIRECT_E_FLUSHED: i32 = 24;
/// The peer refused access to its memory.
pub const SMBDIRECT_E_REMOTE_ACCESS: i32 = 25;
/// The network or fabric failed, or the device gave a code that this version of the library does not know.
pub const SMBDIRECT_E_FABRIC: i32 = 26;
/// The peer closed the connection gracefully.
pub const SMBDIRECT_E_CLOSED_BY_PEER: i32 = 27;
/// This process closed the connection.
pub const SMBDIRECT_E_CLOSED_LOCALLY: i32 = 28;
/// The peer or the network aborted the connection.
pub const SMBDIRECT_E_RESET: i32 = 29;
/// The peer broke a rule of SMB Direct or of its fabric.
pub const SMBDIRECT_E_PROTOCOL: i32 = 30;
/// The peer did not answer, or did not take what was sent, in time.
pub const SMBDIRECT_E_TIMED_OUT: i32 = 31;
/// The device is being stopped.
pub const SMBDIRECT_E_STOPPING: i32 = 32;
/// The library or the device broke the rules of the interface between them.
pub const SMBDIRECT_E_CORRUPT: i32 = 33;
/// The system refused memory or a file descriptor.
pub const SMBDIRECT_E_SYSTEM: i32 = 34;
/// The connection's server address is not allowed, or the machine no longer has it.
pub const SMBDIRECT_E_ADDRESS: i32 = 35;
/// The process that listens at the device's path runs as a user that is not trusted to run the device. Nothing was sent
/// to it.
pub const SMBDIRECT_E_UNTRUSTED: i32 = 36;

/// Role: the parent smbd, which is offered connections without an owner. There can be only one at a time.
pub const SMBDIRECT_ROLE_LISTENER: u32 = 1;
/// Role: a child smbd, which owns connections.
pub const SMBDIRECT_ROLE_WORKER: u32 = 2;

/// The device has accepted the attachment: other calls work from now on.
pub const SMBDIRECT_EVENT_ATTACHED: u32 = 1;
/// The attachment has ended; `status` says why. Everything under way has already been reported. Free the device and, to
/// use it again, attach after a while.
pub const SMBDIRECT_EVENT_DETACHED: u32 = 2;
/// For a listener: a connection waits for an owner. A child that attaches with `token` gets the connection.
pub const SMBDIRECT_EVENT_OFFER: u32 = 3;
/// A connection belongs to this worker now; `info` describes it.
pub const SMBDIRECT_EVENT_CONNECTION: u32 = 4;
/// A message of `length` bytes arrived on `conn`: fetch it with smbdirect_device_take_pdu.
pub const SMBDIRECT_EVENT_PDU: u32 = 5;
/// The message with this `cookie` was sent, or will never be sent. SMBDIRECT_OK means that the peer's network has
/// acknowledged all of it: the peer's TCP with software iWARP, its adapter with InfiniBand or RoCE. An iWARP adapter
/// does not promise this, and after smbdirect_conn_disconnect SMBDIRECT_OK means only that this side's network has
/// taken the message. The event may come about 0.1 s after the acknowledgement. A sleeping worker may learn of the
/// event up to another 0.1 s later, unless another event wakes it or one of its calls has failed for lack of room.
pub const SMBDIRECT_EVENT_SENT: u32 = 6;
/// The RDMA operation with this `cookie` ended with `status`: it no longer uses its buffer, which
/// holds the data of a successful READ.
pub const SMBDIRECT_EVENT_RDMA_DONE: u32 = 7;
/// The transfer with this `cookie` ended; with SMBDIRECT_OK, the connection no longer belongs to this process.
pub const SMBDIRECT_EVENT_TRANSFERRED: u32 = 8;
/// The connection has ended; `status` says why. Everything under way on it has already been reported.
pub const SMBDIRECT_EVENT_DISCONNECTED: u32 = 9;
/// The call to set_parameters, set_addresses, set_session_id, claim or decline with this `cookie` ended with `status`.
pub const SMBDIRECT_EVENT_REPLY: u32 = 10;
/// Calls that failed with SMBDIRECT_E_AGAIN may be repeated.
pub const SMBDIRECT_EVENT_ROOM: u32 = 11;

/// Flag: return only events that do not cost a system call. It is for a caller that polls again soon, and that calls
/// without this flag before it sleeps. After a call with this flag, the event descriptor does not signal new events.
pub const SMBDIRECT_EVENTS_PEEK: u32 = 1;

/// Maximum number of addresses that smbdirect_device_get_addresses returns.
pub const SMBDIRECT_ADDRESSES_MAX: u32 = 64;

/// Maximum number of addresses that smbdirect_device_set_addresses takes.
pub const SMBDIRECT_ALLOWED_ADDRESSES_MAX: u32 = 128;

/// Flag for smbdirect_device_set_addresses without a list: allow all addresses of the server.
pub const SMBDIRECT_ADDRESSES_ALL: u32 = 1;

/// The client has negotiated SMB 2 or 3, over TCP or SMB Direct. `value` is the dialect, with the bit
/// SMBDIRECT_NOTE_MULTICHANNEL if the client supports multichannel.
pub const SMBDIRECT_NOTE_NEGOTIATED: u16 = 1;
/// The client has asked for the server's interfaces. `value` is the number of RDMA-capable addresses in the answer.
pub const SMBDIRECT_NOTE_ASKED: u16 = 2;
/// The client has asked for the server's interfaces, and the answer announced no RDMA-capable address because its
/// session is signed or encrypted and its connection has no RDMA transform for that. `value` is 0.
pub const SMBDIRECT_NOTE_WITHHELD: u16 = 3;
/// The client has a session on its SMB Direct connection from `port`. `value` is one of SMBDIRECT_PROTECTION_*.
pub const SMBDIRECT_NOTE_SESSION: u16 = 4;
/// The client could not bind an SMB Direct connection to its session. `value` is the NTSTATUS.
pub const SMBDIRECT_NOTE_REFUSED: u16 = 5;
/// File data on the client's SMB Direct connection from `port` is encrypted although the session does not demand that.
/// `value` has bits of SMBDIRECT_ENCRYPTED_*, which are in addition to those of earlier notes about the connection.
pub const SMBDIRECT_NOTE_ENCRYPTED: u16 = 6;

/// Bit in `value` of SMBDIRECT_NOTE_NEGOTIATED: the client supports multichannel.
pub const SMBDIRECT_NOTE_MULTICHANNEL: u32 = 0x10000;

/// File data is neither signed nor encrypted, and may go by RDMA.
pub const SMBDIRECT_PROTECTION_PLAIN: u32 = 0;
/// File data is signed, and may go by RDMA with a transform.
pub const SMBDIRECT_PROTECTION_SIGNED: u32 = 1;
/// File data is encrypted, and may go by RDMA with a transform.
pub const SMBDIRECT_PROTECTION_ENCRYPTED: u32 = 2;
/// File data is signed, and goes in messages.
pub const SMBDIRECT_PROTECTION_SIGNED_IN_MESSAGES: u32 = 3;
/// File data is encrypted, and goes in messages.
pub const SMBDIRECT_PROTECTION_ENCRYPTED_IN_MESSAGES: u32 = 4;

/// Bit in `value` of SMBDIRECT_NOTE_ENCRYPTED: a share demands it.
pub const SMBDIRECT_ENCRYPTED_BY_SHARE: u32 = 1;
/// Bit in `value` of SMBDIRECT_NOTE_ENCRYPTED: neither the session nor the share demands it, but the client does it.
pub const SMBDIRECT_ENCRYPTED_BY_CLIENT: u32 = 2;
/// Bit in `value` of SMBDIRECT_NOTE_ENCRYPTED: the connection has no RDMA transform for encrypted data, which therefore
/// goes in messages.
pub const SMBDIRECT_ENCRYPTED_IN_MESSAGES: u32 = 4;

/// Flag: the message invalidates `token` at the peer (SEND with Invalidate).
pub const SMBDIRECT_PDU_INVALIDATE: u32 = 1;

/// Direction: RDMA READ, from the client's memory into the buffer, as for an SMB2 WRITE.
pub const SMBDIRECT_RDMA_READ: u32 = 1;
/// Direction: RDMA WRITE, from the buffer into the client's memory, as for an SMB2 READ.
pub const SMBDIRECT_RDMA_WRITE: u32 = 2;

/// Flag: do not wake the device for this operation, because a message on the same connection, which wakes it, follows
/// at once. If none follows, call smbdirect_device_flush to wake the device. smbdirect_device_get_events without
/// SMBDIRECT_EVENTS_PEEK also wakes the device, before it returns fewer events than were asked for.
pub const SMBDIRECT_RDMA_DEFER: u32 = 1;

/// RDMA transform: the data is encrypted, and its signature is the tag.
pub const SMBDIRECT_TRANSFORM_ENCRYPTION: u32 = 1;
/// RDMA transform: the data is signed.
pub const SMBDIRECT_TRANSFORM_SIGNING: u32 = 2;

/// The arguments of smbdirect_device_new.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct smbdirect_attach {
    /// sizeof(struct smbdirect_attach).
    pub type_size: u32,
    /// One of SMBDIRECT_ROLE_*.
    pub role: u32,
    /// For a worker, the token of the connection for which it was forked, or 0.
    pub token: [u8; 16],
    /// Must be 0.
    pub reserved: [u64; 4],
}

/// An address on which clients reach the device.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct smbdirect_address {
    /// sizeof(struct smbdirect_address).
    pub type_size: u32,
    /// The index of the address's interface, as if_nametoindex(3) returns it, or 0 if it is unknown.
    pub interface_index: u32,
    /// The address. IPv4 is written as ::ffff:a.b.c.d.
    pub address: [u8; 16],
    /// Scope ID of a link-local address, or 0.
    pub scope_id: u32,
    /// The port, in host byte order.
    pub port: u16,
    /// Must be 0.
    pub reserved16: u16,
    /// Speed of the address's interface in bits per second, never 0.
    pub link_speed: u64,
    /// Must be 0.
    pub reserved: [u64; 2],
}

/// An address of the server that clients may use.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct smbdirect_allowed_address {
    /// sizeof(struct smbdirect_allowed_address).
    pub type_size: u32,
    /// The scope ID (interface index) of a link-local IPv6 address, not 0; 0 for all others.
    pub scope_id: u32,
    /// The address of one host, not unspecified or multicast. IPv4 is written as ::ffff:a.b.c.d.
    pub address: [u8; 16],
    /// Must be 0.
    pub reserved: [u64; 2],
}

/// What smbd knows about a client, for the device's status.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct smbdirect_client_note {
    /// sizeof(struct smbdirect_client_note).
    pub type_size: u32,
    /// The note's value: see SMBDIRECT_NOTE_*.
    pub value: u32,
    /// The client's address. IPv4 is written as ::ffff:a.b.c.d.
    pub address: [u8; 16],
    /// One of SMBDIRECT_NOTE_*.
    pub note: u16,
    /// The client's port, if the note is about one connection; otherwise 0.
    pub port: u16,
    /// The server's port, if the note is about one connection; otherwise 0.
    pub local_port: u16,
    /// Must be 0.
    pub reserved16: u16,
    /// The server's address, if the note is about one connection; otherwise 0. A client may connect to two addresses of
    /// the server from the same port. If this is 0, the note is about all of these connections.
    pub local_address: [u8; 16],
    /// Must be 0.
    pub reserved: [u64; 2],
}

/// Parameters that a listener sets for connections accepted from now on ([MS-SMBD] 3.1.1.1). 0 selects the device's own
/// value, which also replaces a larger value.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct smbdirect_parameters {
    /// sizeof(struct smbdirect_parameters).
    pub type_size: u32,
    /// Maximum number of credits that a peer is granted.
    pub receive_credit_max: u16,
    /// Number of credits to request from peers.
    pub send_credit_target: u16,
    /// Length of the longest SMB Direct message to send, in bytes: at least 128.
    pub max_send_size: u32,
    /// Length of the longest SMB Direct message to receive, in bytes: at least 128.
    pub max_receive_size: u32,
    /// Length of the longest SMB2 message to receive, in bytes: at least 131,072.
    pub max_fragmented_size: u32,
    /// Largest RDMA transfer, in bytes.
    pub max_read_write_size: u32,
    /// Milliseconds without a message from the peer after which the device asks it for one.
    pub keepalive_interval_ms: u32,
    /// Must be 0.
    pub reserved32: u32,
    /// The server's GUID.
    pub server_guid: [u8; 16],
    /// Must be 0.
    pub reserved: [u64; 4],
}

/// A client and one of its sessions.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct smbdirect_session {
    /// sizeof(struct smbdirect_session).
    pub type_size: u32,
    /// 0 registers the client or session for this process; 1 removes this registration.
    pub remove: u32,
    /// The session, or 0 for the client alone. Removing 0 removes the client and all its sessions.
    pub session_id: u64,
    /// The ClientGuid of the client's NEGOTIATE requests. Not 0.
    pub client_guid: [u8; 16],
    /// Must be 0.
    pub reserved: [u64; 2],
}

/// The memory that a worker may use.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct smbdirect_mem_params {
    /// sizeof(struct smbdirect_mem_params).
    pub type_size: u32,
    /// The length of a buffer is rounded up to a multiple of this many bytes.
    pub buffer_unit: u32,
    /// Length of the longest buffer, in bytes.
    pub buffer_max: u64,
    /// Maximum number of bytes that one step of growth adds to the memory for buffers.
    pub segment_length: u64,
    /// Maximum total length of all buffers, in bytes.
    pub buffers_total: u64,
    /// Maximum number of bytes of memory for this worker, including messages.
    pub limit: u64,
    /// Must be 0.
    pub reserved: [u64; 4],
}

/// A buffer for RDMA, in memory shared with the device.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct smbdirect_buffer {
    /// sizeof(struct smbdirect_buffer).
    pub type_size: u32,
    /// Must be 0.
    pub reserved32: u32,
    /// The buffer's number, never 0.
    pub number: u64,
    /// The buffer's first byte, mapped until smbdirect_buffer_free. Data that is written here while an RDMA operation
    /// uses the buffer may or may not be sent.
    pub start: *mut c_void,
    /// The buffer's length in bytes, at least the length that was asked for.
    pub length: u64,
    /// Must be 0.
    pub reserved: [u64; 2],
}

/// A message to send.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct smbdirect_pdu {
    /// sizeof(struct smbdirect_pdu).
    pub type_size: u32,
    /// One of SMBDIRECT_PDU_*.
    pub flags: u32,
    /// The connection.
    pub conn: u64,
    /// Any number; SMBDIRECT_EVENT_SENT brings it back.
    pub cookie: u64,
    /// The message in pieces, beginning with its SMB2 header. They are copied before the call returns. No piece may be
    /// in a struct smbdirect_buffer.
    pub pieces: *const libc::iovec,
    /// Number of pieces: 1 to 1024. Some may be empty; an empty one may be null.
    pub piece_count: u32,
    /// The token to invalidate at the peer, if `flags` says so.
    pub token: u32,
    /// Must be 0.
    pub reserved: [u64; 2],
}

/// An RDMA operation.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct smbdirect_rdma {
    /// sizeof(struct smbdirect_rdma).
    pub type_size: u32,
    /// SMBDIRECT_RDMA_READ or SMBDIRECT_RDMA_WRITE.
    pub direction: u32,
    /// The connection.
    pub conn: u64,
    /// Any number; SMBDIRECT_EVENT_RDMA_DONE brings it back.
    pub cookie: u64,
    /// The buffer's number.
    pub buffer: u64,
    /// Offset of the data in the buffer, in bytes.
    pub offset: u64,
    /// Number of bytes to transfer, at least 1. For an SMB2 READ, this is the number of bytes that were read from the
    /// file.
    pub length: u64,
    /// The buffer descriptors of the client's request, unchanged ([MS-SMBD] 2.2.3.1). They are
    /// checked and copied before the call returns.
    pub descriptors: *const c_void,
    /// Length of the descriptors, in bytes.
    pub descriptors_length: u64,
    /// SMBDIRECT_RDMA_DEFER, or 0.
    pub flags: u32,
    /// Must be 0.
    pub reserved32: u32,
    /// Must be 0.
    pub reserved: [u64; 1],
}

/// A description of a connection.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct smbdirect_conn_info {
    /// sizeof(struct smbdirect_conn_info).
    pub type_size: u32,
    /// The client's port, in host byte order.
    pub peer_port: u16,
    /// The server's port, in host byte order.
    pub local_port: u16,
    /// The client's address. IPv4 is written as ::ffff:a.b.c.d.
    pub peer_address: [u8; 16],
    /// The server's address to which the client connected.
    pub local_address: [u8; 16],
    /// The ClientGuid of the connection's first request.
    pub client_guid: [u8; 16],
    /// Scope ID of a link-local address, or 0.
    pub scope_id: u32,
    /// Length of the longest SMB2 message to send, in bytes.
    pub max_fragmented_send_size: u32,
    /// Length of the longest SMB2 message to receive, in bytes.
    pub max_fragmented_receive_size: u32,
    /// Largest RDMA transfer, in bytes.
    pub max_read_write_size: u32,
    /// Number of RDMA READs that the peer serves at a time. If it is 0, the peer must send its data in messages.
    pub initiator_depth: u32,
    /// Number of RDMA operations under way.
    pub rdma_operations: u32,
    /// Bytes of messages that were sent: see SMBDIRECT_EVENT_SENT.
    pub sent_bytes: u64,
    /// Bytes of messages that were taken, but have not been sent yet.
    pub unsent_bytes: u64,
    /// Length of the longest SMB2 message that the client reassembles, in bytes: the MaxFragmentedSize of its own
    /// negotiate message ([MS-SMBD] 2.2.1). max_fragmented_send_size is the lesser of this and the length that the
    /// device's memory allows.
    pub peer_max_fragmented_size: u32,
    /// Must be 0.
    pub reserved32: u32,
    /// Must be 0.
    pub reserved: [u64; 3],
}

/// Something that happened.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct smbdirect_event {
    /// sizeof(struct smbdirect_event).
    pub type_size: u32,
    /// One of SMBDIRECT_EVENT_*.
    pub kind: u32,
    /// SMBDIRECT_OK or SMBDIRECT_E_*, for kinds that report how something ended.
    pub status: i32,
    /// Length of the message, in bytes.
    pub length: u32,
    /// The connection.
    pub conn: u64,
    /// The cookie that was given to the call whose result this is.
    pub cookie: u64,
    /// For SMBDIRECT_EVENT_PDU, the message's number, for smbdirect_device_take_pdu.
    pub pdu: u64,
    /// For SMBDIRECT_EVENT_OFFER and SMBDIRECT_EVENT_TRANSFERRED, the token: the worker that claims it gets the
    /// connection.
    pub token: [u8; 16],
    /// For SMBDIRECT_EVENT_OFFER and SMBDIRECT_EVENT_CONNECTION, the connection.
    pub info: smbdirect_conn_info,
    /// For SMBDIRECT_EVENT_PDU, the number of the buffer that was given to smbdirect_conn_fetch_ahead, if it holds the
    /// data of this WRITE, or 0 if nothing was fetched. The buffer belongs to the caller again.
    pub buffer: u64,
    /// The first byte of that buffer.
    pub data: *mut c_void,
    /// Number of bytes that were fetched: the RemainingBytes of the WRITE.
    pub data_length: u64,
}

/// Where the data of an SMB2 READ or WRITE request is in the client's memory.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct smbdirect_transfer {
    /// sizeof(struct smbdirect_transfer).
    pub type_size: u32,
    /// 0 if the data is in the messages, and then no other field is set; 1 or 2 if it goes by RDMA ([MS-SMB2] 2.2.19).
    pub channel: u32,
    /// Number of bytes to read or write, at least 1.
    pub length: u32,
    /// Offset of the buffer descriptors, in bytes from the SMB2 header.
    pub descriptors_offset: u32,
    /// Length of the descriptors, in bytes. Together they describe at least `length` bytes.
    pub descriptors_length: u32,
    /// Must be 0.
    pub reserved32: u32,
    /// Must be 0.
    pub reserved: [u64; 2],
}

/// How the data of an SMB2 WRITE request over channel 3 is protected, and where it is in the client's memory ([MS-SMB2]
/// 2.2.43). Offsets are in bytes from the SMB2 header.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct smbdirect_transform {
    /// sizeof(struct smbdirect_transform).
    pub type_size: u32,
    /// One of SMBDIRECT_TRANSFORM_*.
    pub transform_type: u32,
    /// Number of bytes to write, at least 1.
    pub length: u32,
    /// Offset of the buffer descriptors.
    pub descriptors_offset: u32,
    /// Length of the descriptors, in bytes. Together they describe at least `length` bytes.
    pub descriptors_length: u32,
    /// Offset of the signature.
    pub signature_offset: u32,
    /// Length of the signature in bytes; the library does not check it against the algorithm.
    pub signature_length: u32,
    /// Offset of the nonce.
    pub nonce_offset: u32,
    /// Length of the nonce in bytes; the library does not check it against the algorithm.
    pub nonce_length: u32,
    /// Must be 0.
    pub reserved32: u32,
    /// Must be 0.
    pub reserved: [u64; 2],
}

// There is no padding: the last field ends where the structure does, and `instruments/tests/header` compares the offset
// of each field with the end of the one before it.
#[cfg(target_pointer_width = "64")]
const _: () = {
    assert!(size_of::<smbdirect_attach>() == 56);
    assert!(size_of::<smbdirect_address>() == 56);
    assert!(size_of::<smbdirect_allowed_address>() == 40);
    assert!(size_of::<smbdirect_client_note>() == 64);
    assert!(size_of::<smbdirect_parameters>() == 80);
    assert!(size_of::<smbdirect_session>() == 48);
    assert!(size_of::<smbdirect_mem_params>() == 72);
    assert!(size_of::<smbdirect_buffer>() == 48);
    assert!(size_of::<smbdirect_pdu>() == 56);
    assert!(size_of::<smbdirect_rdma>() == 80);
    assert!(size_of::<smbdirect_conn_info>() == 128);
    assert!(size_of::<smbdirect_event>() == 208);
    assert!(size_of::<smbdirect_transfer>() == 40);
    assert!(size_of::<smbdirect_transform>() == 56);
    assert!(offset_of!(smbdirect_event, info) == 56);
};
