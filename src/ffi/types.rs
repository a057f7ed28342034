// SPDX-License-Identifier: GPL-2.0-or-later

//! The structures and constants that C sees.
//!
//! A structure that crosses the border begins with `type_size`, which the caller sets to its
//! `sizeof`; ends with `reserved`, which is 0; and has no padding. In an array, the first element's
//! `type_size` counts for all.

use std::ffi::c_void;
use std::mem::offset_of;

use crate::device::Handle;

/// An attachment to the smbdirect device. Opaque.
#[derive(Debug)]
pub struct smbdirect_device {
    pub(super) handle: Handle,
    /// A call panicked, so the state that it left behind cannot be relied on.
    pub(super) poisoned: bool,
}

/// Nothing went wrong.
pub const SMBDIRECT_OK: i32 = 0;
/// Invalid argument: a null pointer, or a length or number out of range.
pub const SMBDIRECT_E_INVALID: i32 = 1;
/// A bug in the library. The handle can only be freed.
pub const SMBDIRECT_E_PANIC: i32 = 2;
/// Another process made the handle. This process must attach for itself.
pub const SMBDIRECT_E_FORKED: i32 = 3;
/// Nothing listens at the device's path.
pub const SMBDIRECT_E_NO_DEVICE: i32 = 4;
/// This process may not use the device.
pub const SMBDIRECT_E_DENIED: i32 = 5;
/// The library and the device have no version of their interface in common.
pub const SMBDIRECT_E_VERSION: i32 = 6;
/// The device has gone, or has ended this process's attachment. Attach again.
pub const SMBDIRECT_E_DETACHED: i32 = 7;
/// Not attached yet, or not attached in the role for this call.
pub const SMBDIRECT_E_NOT_ATTACHED: i32 = 8;
/// No room now. Try again after SMBDIRECT_EVENT_ROOM, which follows.
pub const SMBDIRECT_E_AGAIN: i32 = 9;
/// The device has no memory for this, and nothing that this process has under way would free any.
/// Give up: SMBDIRECT_EVENT_ROOM does not follow.
pub const SMBDIRECT_E_NO_MEMORY: i32 = 10;
/// Longer than a buffer, message or RDMA transfer may be.
pub const SMBDIRECT_E_TOO_LONG: i32 = 11;
/// No such connection, or it no longer belongs to this process.
pub const SMBDIRECT_E_NO_CONNECTION: i32 = 12;
/// No such buffer or PDU, or it was freed.
pub const SMBDIRECT_E_NO_BUFFER: i32 = 13;
/// The range is not within the buffer.
pub const SMBDIRECT_E_OUT_OF_BOUNDS: i32 = 14;
/// Invalid buffer descriptors: none, too many, a partial one, or one with an invalid range.
pub const SMBDIRECT_E_DESCRIPTORS: i32 = 15;
/// The buffer descriptors describe fewer bytes than the transfer has.
pub const SMBDIRECT_E_DESCRIPTORS_TOO_SHORT: i32 = 16;
/// Not an SMB2 request of the kind that the call expects, or its fields contradict each other.
pub const SMBDIRECT_E_REQUEST: i32 = 17;
/// The peer serves no RDMA READs.
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
/// Given up because the connection, or the attachment, ended.
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
/// The process that listens at the device's path runs as a user that is not trusted as the device.
/// Nothing was sent to it.
pub const SMBDIRECT_E_UNTRUSTED: i32 = 36;

/// Role: the parent smbd, which is offered connections without an owner. One at a time.
pub const SMBDIRECT_ROLE_LISTENER: u32 = 1;
/// Role: a child smbd, which owns connections.
pub const SMBDIRECT_ROLE_WORKER: u32 = 2;

/// The device has accepted the attachment: other calls work from now on.
pub const SMBDIRECT_EVENT_ATTACHED: u32 = 1;
/// The attachment has ended; `status` says why. Everything under way has been reported before.
/// Free the device and, to use it again, attach after a while.
pub const SMBDIRECT_EVENT_DETACHED: u32 = 2;
/// Listener: a connection waits for an owner. A child that attaches with `token` gets it.
pub const SMBDIRECT_EVENT_OFFER: u32 = 3;
/// A connection belongs to this worker now; `info` describes it.
pub const SMBDIRECT_EVENT_CONNECTION: u32 = 4;
/// A message of `length` bytes arrived on `conn`: fetch it with smbdirect_device_take_pdu.
pub const SMBDIRECT_EVENT_PDU: u32 = 5;
/// The message with this `cookie` was sent, or never will be. SMBDIRECT_OK means that the peer's network
/// has acknowledged all of it: the peer's TCP with software iWARP, its adapter with InfiniBand or RoCE.
/// An iWARP adapter does not promise this, and after smbdirect_conn_disconnect it is not known.
/// The event may come about 0.1 s after the acknowledgement. A worker that sleeps, and was not refused
/// anything for lack of room, may learn of it up to 0.1 s later still, unless another event wakes it.
pub const SMBDIRECT_EVENT_SENT: u32 = 6;
/// The RDMA operation with this `cookie` ended with `status`: it no longer uses its buffer, which
/// holds the data of a successful READ.
pub const SMBDIRECT_EVENT_RDMA_DONE: u32 = 7;
/// The transfer with this `cookie` ended; with SMBDIRECT_OK the connection is no longer this process's.
pub const SMBDIRECT_EVENT_TRANSFERRED: u32 = 8;
/// The connection is gone; `status` says why. Everything under way on it has been reported before.
pub const SMBDIRECT_EVENT_DISCONNECTED: u32 = 9;
/// The call of set_parameters, set_addresses, set_session_id, claim or decline with this `cookie` ended with `status`.
pub const SMBDIRECT_EVENT_REPLY: u32 = 10;
/// Calls that failed with SMBDIRECT_E_AGAIN may be tried again.
pub const SMBDIRECT_EVENT_ROOM: u32 = 11;

/// Returns only events that cost no system call: for a caller that polls again soon, and calls without
/// this flag before it sleeps. The event descriptor does not signal what comes after such a call.
pub const SMBDIRECT_EVENTS_PEEK: u32 = 1;

/// The most addresses that smbdirect_device_get_addresses returns.
pub const SMBDIRECT_ADDRESSES_MAX: u32 = 64;

/// The most addresses that smbdirect_device_set_addresses takes.
pub const SMBDIRECT_ALLOWED_ADDRESSES_MAX: u32 = 128;

/// Allows all addresses of the server: for smbdirect_device_set_addresses without a list.
pub const SMBDIRECT_ADDRESSES_ALL: u32 = 1;

/// The client has negotiated SMB 2 or 3, over TCP or SMB Direct. `value` is the dialect, and
/// SMBDIRECT_NOTE_MULTICHANNEL if the client knows multichannel.
pub const SMBDIRECT_NOTE_NEGOTIATED: u16 = 1;
/// The client has asked for the server's interfaces. `value`: how many RDMA-capable addresses it was told.
pub const SMBDIRECT_NOTE_ASKED: u16 = 2;
/// The client has asked for the server's interfaces, and was told of no RDMA-capable address because its
/// session is signed or encrypted and its connection has no RDMA transform for that. `value` is 0.
pub const SMBDIRECT_NOTE_WITHHELD: u16 = 3;
/// A session is on the client's SMB Direct connection from `port`. `value`: SMBDIRECT_PROTECTION_*.
pub const SMBDIRECT_NOTE_SESSION: u16 = 4;
/// The client could not bind an SMB Direct connection to its session. `value` is the NTSTATUS.
pub const SMBDIRECT_NOTE_REFUSED: u16 = 5;

/// In `value` of SMBDIRECT_NOTE_NEGOTIATED.
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

/// The message invalidates `token` at the peer (SEND with Invalidate).
pub const SMBDIRECT_PDU_INVALIDATE: u32 = 1;

/// RDMA READ: from the client's memory into the buffer, as for an SMB2 WRITE.
pub const SMBDIRECT_RDMA_READ: u32 = 1;
/// RDMA WRITE: from the buffer into the client's memory, as for an SMB2 READ.
pub const SMBDIRECT_RDMA_WRITE: u32 = 2;

/// Does not wake the device for this operation, because a message on the same connection, which wakes
/// it, follows at once. If none does, smbdirect_device_flush wakes it, or smbdirect_device_get_events
/// without SMBDIRECT_EVENTS_PEEK does before it returns fewer events than it was asked for.
pub const SMBDIRECT_RDMA_DEFER: u32 = 1;

/// RDMA transform: the data is encrypted, and its signature is the tag.
pub const SMBDIRECT_TRANSFORM_ENCRYPTION: u32 = 1;
/// RDMA transform: the data is signed.
pub const SMBDIRECT_TRANSFORM_SIGNING: u32 = 2;

/// How to attach.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct smbdirect_attach {
    /// sizeof(struct smbdirect_attach).
    pub type_size: u32,
    /// One of SMBDIRECT_ROLE_*.
    pub role: u32,
    /// Worker: the token of the connection it was forked for, or 0.
    pub token: [u8; 16],
    /// Must be 0.
    pub reserved: [u64; 4],
}

/// An address at which clients reach the device.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct smbdirect_address {
    /// sizeof(struct smbdirect_address).
    pub type_size: u32,
    /// The index of its interface, as of if_nametoindex(3); 0: unknown.
    pub interface_index: u32,
    /// IPv4 as ::ffff:a.b.c.d.
    pub address: [u8; 16],
    /// Scope ID of a link-local address, or 0.
    pub scope_id: u32,
    /// The port, in host byte order.
    pub port: u16,
    /// Must be 0.
    pub reserved16: u16,
    /// Speed of its interface in bits per second, never 0.
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
    /// The scope (interface index) of a link-local IPv6 address, not 0; 0 for all others.
    pub scope_id: u32,
    /// The address of one host, not unspecified or multicast. IPv4 as ::ffff:a.b.c.d.
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
    /// What the note says: see SMBDIRECT_NOTE_*.
    pub value: u32,
    /// The client's address. IPv4 as ::ffff:a.b.c.d.
    pub address: [u8; 16],
    /// One of SMBDIRECT_NOTE_*.
    pub note: u16,
    /// The client's port, if the note is about one connection; otherwise 0.
    pub port: u16,
    /// Must be 0.
    pub reserved32: u32,
    /// Must be 0.
    pub reserved: [u64; 2],
}

/// Parameters that a listener sets for connections accepted from now on ([MS-SMBD] 3.1.1.1). 0
/// selects the device's own value, and a larger value is reduced to that.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct smbdirect_parameters {
    /// sizeof(struct smbdirect_parameters).
    pub type_size: u32,
    /// The most credits that a peer is granted.
    pub receive_credit_max: u16,
    /// Credits to request from peers.
    pub send_credit_target: u16,
    /// Longest SMB Direct message to send, in bytes. At least 128.
    pub max_send_size: u32,
    /// Longest SMB Direct message to receive, in bytes. At least 128.
    pub max_receive_size: u32,
    /// Longest SMB2 message to receive, in bytes. At least 131,072.
    pub max_fragmented_size: u32,
    /// Largest RDMA transfer, in bytes.
    pub max_read_write_size: u32,
    /// Milliseconds without a message from the peer after which it is asked for one.
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
    /// 0: register it for this process. 1: remove it.
    pub remove: u32,
    /// The session, or 0 for only the client. Removing 0 removes the client and all its sessions.
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
    /// Longest buffer, in bytes.
    pub buffer_max: u64,
    /// The most bytes of buffers by which memory grows at a time.
    pub segment_length: u64,
    /// The most bytes of buffers.
    pub buffers_total: u64,
    /// The most bytes of memory for this worker, messages included.
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
    /// Its number, never 0.
    pub number: u64,
    /// Its first byte, mapped until smbdirect_buffer_free. What is written here while an RDMA
    /// operation uses the buffer may or may not be sent.
    pub start: *mut c_void,
    /// Its length in bytes: at least what was asked for.
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
    /// Comes back with SMBDIRECT_EVENT_SENT. Any number.
    pub cookie: u64,
    /// The message in pieces, from its SMB2 header on. Copied before the call returns. No piece
    /// may be in a struct smbdirect_buffer.
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
    /// Comes back with SMBDIRECT_EVENT_RDMA_DONE. Any number.
    pub cookie: u64,
    /// The buffer's number.
    pub buffer: u64,
    /// Where in the buffer the data begins, in bytes.
    pub offset: u64,
    /// Bytes to transfer, at least 1: for an SMB2 READ, as many as the file had.
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

/// What is known about a connection.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct smbdirect_conn_info {
    /// sizeof(struct smbdirect_conn_info).
    pub type_size: u32,
    /// The client's port, in host byte order.
    pub peer_port: u16,
    /// The server's port, in host byte order.
    pub local_port: u16,
    /// The client's address; IPv4 as ::ffff:a.b.c.d.
    pub peer_address: [u8; 16],
    /// The server's address, at which the connection came in.
    pub local_address: [u8; 16],
    /// The ClientGuid of its first request.
    pub client_guid: [u8; 16],
    /// Scope ID of a link-local address, or 0.
    pub scope_id: u32,
    /// Longest SMB2 message to send, in bytes.
    pub max_fragmented_send_size: u32,
    /// Longest SMB2 message to receive, in bytes.
    pub max_fragmented_receive_size: u32,
    /// Largest RDMA transfer, in bytes.
    pub max_read_write_size: u32,
    /// RDMA READs that the peer serves at a time. If 0, it must send its data in messages.
    pub initiator_depth: u32,
    /// RDMA operations under way.
    pub rdma_operations: u32,
    /// Bytes of messages that were sent: see SMBDIRECT_EVENT_SENT.
    pub sent_bytes: u64,
    /// Bytes of messages that were taken and are not sent yet.
    pub unsent_bytes: u64,
    /// Longest SMB2 message that the client reassembles, in bytes: the MaxFragmentedSize of its own
    /// negotiate message ([MS-SMBD] 2.2.1). max_fragmented_send_size is the lesser of this and what
    /// the device's memory allows.
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
    /// SMBDIRECT_OK or SMBDIRECT_E_*: how it ended, for kinds that report an end.
    pub status: i32,
    /// Bytes of the message.
    pub length: u32,
    /// The connection.
    pub conn: u64,
    /// The cookie that was given to the call that began it.
    pub cookie: u64,
    /// SMBDIRECT_EVENT_PDU: for smbdirect_device_take_pdu.
    pub pdu: u64,
    /// SMBDIRECT_EVENT_OFFER, SMBDIRECT_EVENT_TRANSFERRED: the worker that claims this gets the connection.
    pub token: [u8; 16],
    /// SMBDIRECT_EVENT_OFFER, SMBDIRECT_EVENT_CONNECTION: the connection.
    pub info: smbdirect_conn_info,
    /// SMBDIRECT_EVENT_PDU: the number of the buffer that was given to smbdirect_conn_fetch_ahead, if it
    /// holds the data of this WRITE. It is the caller's again. 0: nothing was fetched.
    pub buffer: u64,
    /// Its first byte.
    pub data: *mut c_void,
    /// Bytes that were fetched: the RemainingBytes of the WRITE.
    pub data_length: u64,
}

/// Where the data of an SMB2 READ or WRITE request is at the client.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct smbdirect_transfer {
    /// sizeof(struct smbdirect_transfer).
    pub type_size: u32,
    /// 0: the data is in the messages, and no other field is set. 1, 2: by RDMA ([MS-SMB2] 2.2.19).
    pub channel: u32,
    /// Bytes to read or write, at least 1.
    pub length: u32,
    /// Where the buffer descriptors begin, in bytes from the SMB2 header.
    pub descriptors_offset: u32,
    /// Length of the descriptors, in bytes. Together they describe at least `length` bytes.
    pub descriptors_length: u32,
    /// Must be 0.
    pub reserved32: u32,
    /// Must be 0.
    pub reserved: [u64; 2],
}

/// How the data of an SMB2 WRITE request over channel 3 is protected, and where it is at the client
/// ([MS-SMB2] 2.2.43). Offsets are in bytes from the SMB2 header.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct smbdirect_transform {
    /// sizeof(struct smbdirect_transform).
    pub type_size: u32,
    /// One of SMBDIRECT_TRANSFORM_*.
    pub transform_type: u32,
    /// Bytes to write, at least 1.
    pub length: u32,
    /// Where the buffer descriptors begin.
    pub descriptors_offset: u32,
    /// Length of the descriptors, in bytes. Together they describe at least `length` bytes.
    pub descriptors_length: u32,
    /// Where the signature begins.
    pub signature_offset: u32,
    /// Length of the signature, in bytes: any, also one that the algorithm does not have.
    pub signature_length: u32,
    /// Where the nonce begins.
    pub nonce_offset: u32,
    /// Length of the nonce, in bytes: any, also one that the algorithm does not have.
    pub nonce_length: u32,
    /// Must be 0.
    pub reserved32: u32,
    /// Must be 0.
    pub reserved: [u64; 2],
}

// No padding: the last field ends where the structure does, and `instruments/tests/header` compares the
// offset of each field with the end of the one before it.
#[cfg(target_pointer_width = "64")]
const _: () = {
    assert!(size_of::<smbdirect_attach>() == 56);
    assert!(size_of::<smbdirect_address>() == 56);
    assert!(size_of::<smbdirect_allowed_address>() == 40);
    assert!(size_of::<smbdirect_client_note>() == 48);
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
