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
    /// A call panicked: what it left behind is not to be relied on.
    pub(super) poisoned: bool,
}

/// Nothing went wrong.
pub const SMBDIRECT_OK: i32 = 0;
/// An argument that the call cannot have: a null pointer, a length, a number out of range.
pub const SMBDIRECT_E_INVALID: i32 = 1;
/// A fault of the library. The handle can only be freed.
pub const SMBDIRECT_E_PANIC: i32 = 2;
/// The handle was made by another process: this one has to attach for itself.
pub const SMBDIRECT_E_FORKED: i32 = 3;
/// Nobody listens at the device's path.
pub const SMBDIRECT_E_NO_DEVICE: i32 = 4;
/// This process may not use the device.
pub const SMBDIRECT_E_DENIED: i32 = 5;
/// Library and device are of different versions.
pub const SMBDIRECT_E_VERSION: i32 = 6;
/// The device has gone, or ended this process' attachment. Attach again.
pub const SMBDIRECT_E_DETACHED: i32 = 7;
/// Not yet attached, or not in the role for this call.
pub const SMBDIRECT_E_NOT_ATTACHED: i32 = 8;
/// No room now: wait, SMBDIRECT_EVENT_ROOM follows.
pub const SMBDIRECT_E_AGAIN: i32 = 9;
/// The device has no memory for this, and nothing of this process is under way that would give any back:
/// give up, SMBDIRECT_EVENT_ROOM does not follow.
pub const SMBDIRECT_E_NO_MEMORY: i32 = 10;
/// Larger than a buffer, a message or an RDMA transfer may be.
pub const SMBDIRECT_E_TOO_LONG: i32 = 11;
/// No such connection, or not this process' any more.
pub const SMBDIRECT_E_NO_CONNECTION: i32 = 12;
/// No such buffer or PDU, or it was freed.
pub const SMBDIRECT_E_NO_BUFFER: i32 = 13;
/// The piece does not lie in the buffer.
pub const SMBDIRECT_E_OUT_OF_BOUNDS: i32 = 14;
/// Buffer descriptors that no client may send.
pub const SMBDIRECT_E_DESCRIPTORS: i32 = 15;
/// The descriptors hold fewer bytes than are to be carried.
pub const SMBDIRECT_E_DESCRIPTORS_TOO_SHORT: i32 = 16;
/// Not an SMB2 request of the kind that the call is for, or one that contradicts itself.
pub const SMBDIRECT_E_REQUEST: i32 = 17;
/// The peer serves no RDMA READs.
pub const SMBDIRECT_E_NO_READS: i32 = 18;
/// A token that was never made, or was used, or is too old.
pub const SMBDIRECT_E_NO_TOKEN: i32 = 19;
/// Nobody has registered that client GUID.
pub const SMBDIRECT_E_NO_OWNER: i32 = 20;
/// Another process has registered it, or is the listener.
pub const SMBDIRECT_E_TAKEN: i32 = 21;
/// The device has as many workers, sessions or connections as it may.
pub const SMBDIRECT_E_LIMIT: i32 = 22;
/// Something is still under way.
pub const SMBDIRECT_E_BUSY: i32 = 23;
/// Given up because the connection, or the attachment, ended.
pub const SMBDIRECT_E_FLUSHED: i32 = 24;
/// The peer refused access to its memory.
pub const SMBDIRECT_E_REMOTE_ACCESS: i32 = 25;
/// The network or the fabric failed, or for a reason that this version of the library does not know.
pub const SMBDIRECT_E_FABRIC: i32 = 26;
/// The peer closed the connection in order.
pub const SMBDIRECT_E_CLOSED_BY_PEER: i32 = 27;
/// This process closed it.
pub const SMBDIRECT_E_CLOSED_LOCALLY: i32 = 28;
/// The peer, or the network, broke it off.
pub const SMBDIRECT_E_RESET: i32 = 29;
/// The peer broke a rule of SMB Direct or of its fabric.
pub const SMBDIRECT_E_PROTOCOL: i32 = 30;
/// The peer did not answer, or did not take what was sent, in time.
pub const SMBDIRECT_E_TIMED_OUT: i32 = 31;
/// The device is being stopped.
pub const SMBDIRECT_E_STOPPING: i32 = 32;
/// Library or device broke the rules of their interface.
pub const SMBDIRECT_E_CORRUPT: i32 = 33;
/// The system refused memory or a descriptor.
pub const SMBDIRECT_E_SYSTEM: i32 = 34;
/// The server's address of the connection is not allowed, or the machine no longer has it.
pub const SMBDIRECT_E_ADDRESS: i32 = 35;
/// What listens at the device's path is another user's, whom nobody has made the device: nothing was sent
/// to it.
pub const SMBDIRECT_E_UNTRUSTED: i32 = 36;

/// Role: smbd's parent, which learns of connections that nobody owns. One at a time.
pub const SMBDIRECT_ROLE_LISTENER: u32 = 1;
/// Role: smbd's child, which owns connections.
pub const SMBDIRECT_ROLE_WORKER: u32 = 2;

/// The device has taken the attachment: other calls work from now on.
pub const SMBDIRECT_EVENT_ATTACHED: u32 = 1;
/// The attachment is over, `status` says why. Everything that was under way was reported before.
/// Free the device and, if it is wanted, attach again after a while.
pub const SMBDIRECT_EVENT_DETACHED: u32 = 2;
/// Listener: a connection waits for an owner. A child that attaches with `token` gets it.
pub const SMBDIRECT_EVENT_OFFER: u32 = 3;
/// A connection is this worker's now; `info` says what is known about it.
pub const SMBDIRECT_EVENT_CONNECTION: u32 = 4;
/// A message of `length` bytes arrived on `conn`: fetch it with smbdirect_device_take_pdu.
pub const SMBDIRECT_EVENT_PDU: u32 = 5;
/// The message with this `cookie` was sent, or never will be. With SMBDIRECT_OK the peer's network has
/// acknowledged all of it: its TCP where iWARP is spoken in software, its adapter where InfiniBand or
/// RoCE is. An iWARP adapter does not promise that; nor is it known after smbdirect_conn_disconnect.
/// The event may come some 0.1 s after the acknowledgement, and a worker that sleeps, and was not
/// refused anything for want of room, learns of it up to 0.1 s later than that unless there is
/// something else to tell.
pub const SMBDIRECT_EVENT_SENT: u32 = 6;
/// The RDMA operation with this `cookie` ended: its data is there, or its buffer may be freed.
pub const SMBDIRECT_EVENT_RDMA_DONE: u32 = 7;
/// The transfer with this `cookie` ended; with SMBDIRECT_OK the connection is another process'.
pub const SMBDIRECT_EVENT_TRANSFERRED: u32 = 8;
/// The connection is gone, `status` says why. Everything under way on it was reported before.
pub const SMBDIRECT_EVENT_DISCONNECTED: u32 = 9;
/// The call of set_parameters, set_addresses, set_session_id, claim or decline with this `cookie` ended with `status`.
pub const SMBDIRECT_EVENT_REPLY: u32 = 10;
/// What ended with SMBDIRECT_E_AGAIN may be tried again.
pub const SMBDIRECT_EVENT_ROOM: u32 = 11;

/// Only events that cost no system call: for a caller that looks again soon, and calls without this
/// before it sleeps. The event descriptor does not tell of what comes after such a call.
pub const SMBDIRECT_EVENTS_PEEK: u32 = 1;

/// Addresses that smbdirect_device_get_addresses knows at most.
pub const SMBDIRECT_ADDRESSES_MAX: u32 = 64;

/// Addresses that smbdirect_device_set_addresses takes at most.
pub const SMBDIRECT_ALLOWED_ADDRESSES_MAX: u32 = 128;

/// All addresses of the server are allowed: for smbdirect_device_set_addresses without a list.
pub const SMBDIRECT_ADDRESSES_ALL: u32 = 1;

/// Has the peer invalidate `token` with the message (SEND with Invalidate).
pub const SMBDIRECT_PDU_INVALIDATE: u32 = 1;

/// RDMA READ: from the client's memory into the buffer, as for an SMB2 WRITE.
pub const SMBDIRECT_RDMA_READ: u32 = 1;
/// RDMA WRITE: from the buffer into the client's memory, as for an SMB2 READ.
pub const SMBDIRECT_RDMA_WRITE: u32 = 2;

/// The device is not woken for this operation, for a message follows at once that it is woken for.
/// If none does, smbdirect_device_flush wakes it, or smbdirect_device_get_events before it returns
/// fewer events than it was asked for.
pub const SMBDIRECT_RDMA_DEFER: u32 = 1;

/// How to attach.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct smbdirect_attach {
    /// sizeof(struct smbdirect_attach).
    pub type_size: u32,
    /// SMBDIRECT_ROLE_*.
    pub role: u32,
    /// Worker: the token of the connection it was forked for, or 0.
    pub token: [u8; 16],
    /// 0.
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
    /// Scope of link-local addresses, or 0.
    pub scope_id: u32,
    /// The port, in host byte order.
    pub port: u16,
    /// 0.
    pub reserved16: u16,
    /// Speed of its interface in bits per second, never 0.
    pub link_speed: u64,
    /// 0.
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
    /// Of one host: neither unspecified nor multicast. IPv4 as ::ffff:a.b.c.d.
    pub address: [u8; 16],
    /// 0.
    pub reserved: [u64; 2],
}

/// What a listener wants of connections that are accepted from now on ([MS-SMBD] 3.1.1.1). 0
/// stands for the device's own value, and more than that is reduced to it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct smbdirect_parameters {
    /// sizeof(struct smbdirect_parameters).
    pub type_size: u32,
    /// Most credits that a peer is granted.
    pub receive_credit_max: u16,
    /// Credits that peers are asked for.
    pub send_credit_target: u16,
    /// Bytes of a sent SMB Direct message. At least 128.
    pub max_send_size: u32,
    /// Bytes of a received SMB Direct message. At least 128.
    pub max_receive_size: u32,
    /// Bytes of a received SMB2 message. At least 131,072.
    pub max_fragmented_size: u32,
    /// Bytes of an RDMA transfer.
    pub max_read_write_size: u32,
    /// Time without a message of the peer after which it is asked for one, in milliseconds.
    pub keepalive_interval_ms: u32,
    /// 0.
    pub reserved32: u32,
    /// The server's GUID.
    pub server_guid: [u8; 16],
    /// 0.
    pub reserved: [u64; 4],
}

/// A client and a session of it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct smbdirect_session {
    /// sizeof(struct smbdirect_session).
    pub type_size: u32,
    /// 0: this process has it from now on. 1: not any more.
    pub remove: u32,
    /// The session; 0: only the client. To remove session 0 is to remove all of the client.
    pub session_id: u64,
    /// The ClientGuid of the client's NEGOTIATE requests. Not 0.
    pub client_guid: [u8; 16],
    /// 0.
    pub reserved: [u64; 2],
}

/// The memory that a worker may use.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct smbdirect_mem_params {
    /// sizeof(struct smbdirect_mem_params).
    pub type_size: u32,
    /// Bytes that the length of a buffer is rounded up to.
    pub buffer_unit: u32,
    /// Bytes of the longest buffer.
    pub buffer_max: u64,
    /// Bytes of buffers by which memory grows.
    pub segment_length: u64,
    /// Bytes of buffers at most.
    pub buffers_total: u64,
    /// Bytes of all memory of this worker at most, messages included.
    pub limit: u64,
    /// 0.
    pub reserved: [u64; 4],
}

/// A buffer in memory that is shared with the device, for RDMA.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct smbdirect_buffer {
    /// sizeof(struct smbdirect_buffer).
    pub type_size: u32,
    /// 0.
    pub reserved32: u32,
    /// Its number, never 0.
    pub number: u64,
    /// Its first byte. Mapped until smbdirect_buffer_free; whatever is written here while an RDMA
    /// operation uses it may or may not go along.
    pub start: *mut c_void,
    /// Bytes: at least as many as were asked for.
    pub length: u64,
    /// 0.
    pub reserved: [u64; 2],
}

/// A message to send.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct smbdirect_pdu {
    /// sizeof(struct smbdirect_pdu).
    pub type_size: u32,
    /// SMBDIRECT_PDU_*.
    pub flags: u32,
    /// The connection.
    pub conn: u64,
    /// Comes back with SMBDIRECT_EVENT_SENT. Any number.
    pub cookie: u64,
    /// The message in pieces, from its SMB2 header on. Copied before the call returns. None of
    /// them lies in a struct smbdirect_buffer.
    pub pieces: *const libc::iovec,
    /// Number of pieces: 1 to 1024. Some may be empty; an empty one may be null.
    pub piece_count: u32,
    /// What the peer shall invalidate, if `flags` says so.
    pub token: u32,
    /// 0.
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
    /// Where in the buffer to begin, in bytes.
    pub offset: u64,
    /// Bytes to carry, at least 1: for an SMB2 READ what the file had.
    pub length: u64,
    /// The buffer descriptors of the client's request as they came ([MS-SMBD] 2.2.3.1): checked
    /// and copied before the call returns.
    pub descriptors: *const c_void,
    /// Bytes of them.
    pub descriptors_length: u64,
    /// SMBDIRECT_RDMA_DEFER, or 0.
    pub flags: u32,
    /// 0.
    pub reserved32: u32,
    /// 0.
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
    /// The server's address, at which it came in.
    pub local_address: [u8; 16],
    /// The ClientGuid of its first request.
    pub client_guid: [u8; 16],
    /// Scope of link-local addresses, or 0.
    pub scope_id: u32,
    /// Bytes of an SMB2 message to send at most.
    pub max_fragmented_send_size: u32,
    /// Bytes of an SMB2 message to receive at most.
    pub max_fragmented_receive_size: u32,
    /// Bytes of an RDMA transfer at most.
    pub max_read_write_size: u32,
    /// RDMA READs that the peer serves at a time; 0: none, it has to send its data.
    pub initiator_depth: u32,
    /// RDMA operations under way.
    pub rdma_operations: u32,
    /// Bytes of messages that were sent: see SMBDIRECT_EVENT_SENT.
    pub sent_bytes: u64,
    /// Bytes of messages that were taken and are not yet sent.
    pub unsent_bytes: u64,
    /// Bytes of an SMB2 message that the client reassembles at most: the MaxFragmentedSize of its own
    /// negotiate message ([MS-SMBD] 2.2.1). max_fragmented_send_size is the lesser of this and of what
    /// the device's memory allows.
    pub peer_max_fragmented_size: u32,
    /// 0.
    pub reserved32: u32,
    /// 0.
    pub reserved: [u64; 3],
}

/// Something that happened.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct smbdirect_event {
    /// sizeof(struct smbdirect_event).
    pub type_size: u32,
    /// SMBDIRECT_EVENT_*.
    pub kind: u32,
    /// How it ended, SMBDIRECT_OK or SMBDIRECT_E_*, where the kind has an end.
    pub status: i32,
    /// Bytes of the message.
    pub length: u32,
    /// The connection.
    pub conn: u64,
    /// As given to the call that began it.
    pub cookie: u64,
    /// SMBDIRECT_EVENT_PDU: for smbdirect_device_take_pdu.
    pub pdu: u64,
    /// SMBDIRECT_EVENT_OFFER, SMBDIRECT_EVENT_TRANSFERRED: who has this gets the connection.
    pub token: [u8; 16],
    /// SMBDIRECT_EVENT_OFFER, SMBDIRECT_EVENT_CONNECTION: the connection.
    pub info: smbdirect_conn_info,
    /// 0.
    pub reserved: [u64; 3],
}

/// Where the data of an SMB2 READ or WRITE request lies at the client.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct smbdirect_transfer {
    /// sizeof(struct smbdirect_transfer).
    pub type_size: u32,
    /// 0: within the messages, and nothing else is set. 1, 2: by RDMA ([MS-SMB2] 2.2.19).
    pub channel: u32,
    /// Bytes to read or write, at least 1.
    pub length: u32,
    /// Where the buffer descriptors begin, in bytes from the SMB2 header.
    pub descriptors_offset: u32,
    /// Bytes of the descriptors. Together they describe at least `length` bytes.
    pub descriptors_length: u32,
    /// 0.
    pub reserved32: u32,
    /// 0.
    pub reserved: [u64; 2],
}

// No padding: the last field ends where the structure does, and `instruments/tests/header` compares the
// offset of each field with the end of the one before it.
#[cfg(target_pointer_width = "64")]
const _: () = {
    assert!(size_of::<smbdirect_attach>() == 56);
    assert!(size_of::<smbdirect_address>() == 56);
    assert!(size_of::<smbdirect_allowed_address>() == 40);
    assert!(size_of::<smbdirect_parameters>() == 80);
    assert!(size_of::<smbdirect_session>() == 48);
    assert!(size_of::<smbdirect_mem_params>() == 72);
    assert!(size_of::<smbdirect_buffer>() == 48);
    assert!(size_of::<smbdirect_pdu>() == 56);
    assert!(size_of::<smbdirect_rdma>() == 80);
    assert!(size_of::<smbdirect_conn_info>() == 128);
    assert!(size_of::<smbdirect_event>() == 208);
    assert!(size_of::<smbdirect_transfer>() == 40);
    assert!(offset_of!(smbdirect_event, info) == 56);
};
