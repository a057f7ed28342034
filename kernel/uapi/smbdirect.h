/* SPDX-License-Identifier: GPL-2.0-or-later WITH Linux-syscall-note */
/*
 * /dev/smbdirect: SMB Direct ([MS-SMBD], SMB 3 over RDMA) for SMB servers.
 *
 * Generated from src/device/abi.rs, src/device/uapi.rs and src/device/uapi/status.rs by
 * instruments/tests/header: edit it there. Those files also say how the calls go together.
 * Programs use libsmbdirect instead, whose header is include/smbdirect.h; a source file
 * includes one of the two. src/shm/layout.rs describes the rings in the memory of a queue.
 */
#ifndef _UAPI_SMBDIRECT_H
#define _UAPI_SMBDIRECT_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* The newest version of this interface that this side speaks. */
#define SMBDIRECT_VERSION 3

/*
 * The oldest version that this side speaks. When you add a version, keep the older ones that the
 * other side may still speak: smbd and the device are installed and restarted at different times.
 */
#define SMBDIRECT_OLDEST_VERSION 3

/* The optional features of VERSION. */
/* This side knows FETCH_AHEAD, RECALL and FETCHED. */
#define SMBDIRECT_FEATURE_FETCH_AHEAD 1

/* The optional features of VERSION that this side has, one bit each. */
#define SMBDIRECT_FEATURES SMBDIRECT_FEATURE_FETCH_AHEAD

/*
 * A side that does not know a control.kind, submission.op or completion.event with this bit skips
 * it. Such a message or entry is not answered, does not ask for anything, and has no cookie and
 * no buffer. A process does not send descriptors with it; a process closes those that a device
 * sends with it.
 */
#define SMBDIRECT_OPTIONAL (1U << 31)

/*
 * Length of the longest control message, in bytes: enough for the longest blob or list of
 * addresses.
 */
#define SMBDIRECT_MAX_CONTROL_LENGTH 4096

/* Maximum number of addresses in the message addresses. */
#define SMBDIRECT_MAX_ADDRESSES 64

/* Maximum number of addresses in the message set_addresses. */
#define SMBDIRECT_MAX_ALLOWED_ADDRESSES 128

/* Length of the longest security blob of set_parameters, in bytes. */
#define SMBDIRECT_MAX_SECURITY_BLOB 2048

/* Values of control.kind. */
/* The kind of attach. */
#define SMBDIRECT_KIND_ATTACH 1
/* The kind of set_parameters. */
#define SMBDIRECT_KIND_SET_PARAMETERS 2
/* The kind of set_session_id. */
#define SMBDIRECT_KIND_SET_SESSION_ID 3
/* The kind of claim. */
#define SMBDIRECT_KIND_CLAIM 4
/* The kind of grow. */
#define SMBDIRECT_KIND_GROW 5
/* The kind of status_request. */
#define SMBDIRECT_KIND_STATUS_REQUEST 6
/* The kind of decline. */
#define SMBDIRECT_KIND_DECLINE 7
/* The kind of set_addresses. */
#define SMBDIRECT_KIND_SET_ADDRESSES 8
/* The kind of release. */
#define SMBDIRECT_KIND_RELEASE 9
/* The kind of events_request. */
#define SMBDIRECT_KIND_EVENTS_REQUEST 10
/* The kind of capture_request. */
#define SMBDIRECT_KIND_CAPTURE_REQUEST 11
/* The kind of client_note. */
#define SMBDIRECT_KIND_CLIENT_NOTE 0x80000001
/* The kind of attached. */
#define SMBDIRECT_KIND_ATTACHED 101
/* The kind of reply. */
#define SMBDIRECT_KIND_REPLY 102
/* The kind of segment. */
#define SMBDIRECT_KIND_SEGMENT 103
/* The kind of queue. */
#define SMBDIRECT_KIND_QUEUE 104
/* The kind of offer. */
#define SMBDIRECT_KIND_OFFER 105
/* The kind of wake. */
#define SMBDIRECT_KIND_WAKE 106
/* The kind of status_report. */
#define SMBDIRECT_KIND_STATUS_REPORT 107
/* The kind of detached. */
#define SMBDIRECT_KIND_DETACHED 108
/* The kind of addresses. */
#define SMBDIRECT_KIND_ADDRESSES 109
/* The kind of reclaim. */
#define SMBDIRECT_KIND_RECLAIM 110
/* The kind of capture_started. */
#define SMBDIRECT_KIND_CAPTURE_STARTED 111

/* Values of attach.role. */
/* The parent smbd, which gets offers and sets parameters. There can be only one at a time. */
#define SMBDIRECT_ROLE_LISTENER 1
/* A child smbd, which owns connections. */
#define SMBDIRECT_ROLE_WORKER 2
/* An administrator's tool, which asks for the status. */
#define SMBDIRECT_ROLE_OBSERVER 3

/* Values of client_note.note. */
/*
 * The client has negotiated SMB 2 or 3, over TCP or SMB Direct. value is the dialect, with the
 * bit MULTICHANNEL if the client supports multichannel.
 */
#define SMBDIRECT_NOTE_NEGOTIATED 1
/*
 * The client has asked for the server's interfaces. value is the number of RDMA-capable addresses
 * in the answer.
 */
#define SMBDIRECT_NOTE_ASKED 2
/*
 * The client has asked for the server's interfaces, and the answer announced no RDMA-capable
 * address because its session is signed or encrypted and its connection has no RDMA transform for
 * that. value is 0.
 */
#define SMBDIRECT_NOTE_WITHHELD 3
/*
 * The client has a session on its SMB Direct connection from port. value is one of
 * SMBDIRECT_PROTECTION_*.
 */
#define SMBDIRECT_NOTE_SESSION 4
/* The client could not bind an SMB Direct connection to its session. value is the NTSTATUS. */
#define SMBDIRECT_NOTE_REFUSED 5
/*
 * File data on the client's SMB Direct connection from port is encrypted although the session
 * does not demand that. value has bits of SMBDIRECT_ENCRYPTED_*, which are in addition to those
 * of earlier notes about the connection.
 */
#define SMBDIRECT_NOTE_ENCRYPTED 6
/* Bit in value of NEGOTIATED: the client supports multichannel. */
#define SMBDIRECT_NOTE_MULTICHANNEL 0x10000

/* Values of value in SMBDIRECT_NOTE_SESSION: how a connection protects and carries file data, as its session demands. SMBDIRECT_NOTE_ENCRYPTED says what is encrypted besides. */
/* File data is neither signed nor encrypted, and may go by RDMA. */
#define SMBDIRECT_PROTECTION_PLAIN 0
/* File data is signed, and may go by RDMA with a transform. */
#define SMBDIRECT_PROTECTION_SIGNED 1
/* File data is encrypted, and may go by RDMA with a transform. */
#define SMBDIRECT_PROTECTION_ENCRYPTED 2
/* File data is signed, and goes in messages. */
#define SMBDIRECT_PROTECTION_SIGNED_IN_MESSAGES 3
/* File data is encrypted, and goes in messages. */
#define SMBDIRECT_PROTECTION_ENCRYPTED_IN_MESSAGES 4

/* Bits of value in SMBDIRECT_NOTE_ENCRYPTED: who encrypts file data although the session does not demand that. */
/* A share demands it. */
#define SMBDIRECT_ENCRYPTED_BY_SHARE 1
/* Neither the session nor the share demands it, but the client does it. */
#define SMBDIRECT_ENCRYPTED_BY_CLIENT 2
/* The connection has no RDMA transform for encrypted data, which therefore goes in messages. */
#define SMBDIRECT_ENCRYPTED_IN_MESSAGES 4

/* Values of grow.region and segment.region. */
/* The region for messages to send. */
#define SMBDIRECT_REGION_SEND 1
/* The region for data of RDMA READ and RDMA WRITE. */
#define SMBDIRECT_REGION_BULK 2
/* The region for received messages. */
#define SMBDIRECT_REGION_RECEIVE 3

/* Values of submission.op. */
/*
 * Sends one SMB2 message, the length bytes at place in SEND. With INVALIDATE in flags, it
 * invalidates token at the peer. The answer is SENT.
 */
#define SMBDIRECT_OP_SEND_PDU 1
/*
 * Reads length bytes of the peer's memory, which descriptors name, into BULK at place. The answer
 * is RDMA_DONE.
 */
#define SMBDIRECT_OP_RDMA_READ 2
/* Writes the length bytes at place in BULK to the peer's memory. The answer is RDMA_DONE. */
#define SMBDIRECT_OP_RDMA_WRITE 3
/* Ends a connection gracefully: earlier submissions are sent first. DISCONNECTED follows. */
#define SMBDIRECT_OP_DISCONNECT 4
/*
 * Gives a connection to the worker that has registered client_guid (transfer_submission) or, if
 * that is 0, to the worker that claims the token in the answer, with a first message for it: the
 * length bytes at place in SEND. The answer is TRANSFERRED; if its status is OK, the connection
 * no longer belongs to this worker.
 */
#define SMBDIRECT_OP_TRANSFER 5
/*
 * Gives the buffer of a received message back; the buffer's number is in place. In conn, only the
 * queue's bits are set; the others are 0.
 */
#define SMBDIRECT_OP_RECYCLE 6
/*
 * Says that the connection has a session: its client has logged in. Repeating this has no effect.
 * A connection that is transferred later stays authenticated.
 */
#define SMBDIRECT_OP_AUTHENTICATED 7
/*
 * Lends the length bytes at place in BULK for the data of the next WRITE on this connection
 * (SMBDIRECT_FEATURE_FETCH_AHEAD). The answer is FETCHED.
 */
#define SMBDIRECT_OP_FETCH_AHEAD 8
/*
 * Asks for the buffer back that FETCH_AHEAD lent on this connection. If the buffer is still
 * unused, FETCH_AHEAD is answered now, with the status FLUSHED.
 */
#define SMBDIRECT_OP_RECALL 9

/* Values of submission.flags. */
/* The message invalidates token at the peer (SEND with Invalidate). */
#define SMBDIRECT_FLAGS_INVALIDATE 1

/* Values of completion.event. */
/* A connection belongs to this worker now. buffer holds a conn_info of length bytes; recycle it. */
#define SMBDIRECT_EVENT_CONNECTION 1
/* A message arrived: length bytes in buffer; recycle it. */
#define SMBDIRECT_EVENT_PDU 2
/*
 * SEND_PDU ended: its memory is free. Status OK means that the peer's network has acknowledged
 * all of the message: the peer's TCP with software iWARP, its adapter with InfiniBand or RoCE. An
 * iWARP adapter's completion does not promise this, and after DISCONNECT status OK means only
 * that this side's network has taken the message. The completion may come about 0.1 s after the
 * acknowledgement.
 */
#define SMBDIRECT_EVENT_SENT 3
/*
 * RDMA_READ or RDMA_WRITE ended: it no longer uses its memory, which holds the data of a
 * successful READ.
 */
#define SMBDIRECT_EVENT_RDMA_DONE 4
/* The connection has ended; status says why. */
#define SMBDIRECT_EVENT_DISCONNECTED 5
/* TRANSFER ended; token is set if TRANSFER asked for one. */
#define SMBDIRECT_EVENT_TRANSFERRED 6
/*
 * FETCH_AHEAD ended. Status OK means that length bytes were fetched for the WRITE in the
 * connection's next PDU, which follows at once. Otherwise nothing was fetched, and the memory is
 * free: the status is BUSY if something is already lent on this connection or a quarter of the
 * queue's depth is under way, FLUSHED if RECALL asked for the buffer or the connection has ended,
 * or says why the fetch failed.
 */
#define SMBDIRECT_EVENT_FETCHED 7

/* How something ended. */
#define SMBDIRECT_OK 0
/* invalid argument. */
#define SMBDIRECT_E_INVALID 1
/* internal error in the library: the handle can only be freed. */
#define SMBDIRECT_E_PANIC 2
/* the handle belongs to the process that made it, not to its child: attach again. */
#define SMBDIRECT_E_FORKED 3
/* no smbdirect device at this path: is smbdirectd running, or smbdirectk loaded?. */
#define SMBDIRECT_E_NO_DEVICE 4
/* not allowed to use the smbdirect device. */
#define SMBDIRECT_E_DENIED 5
/* the smbdirect device speaks another version. */
#define SMBDIRECT_E_VERSION 6
/* detached from the smbdirect device. */
#define SMBDIRECT_E_DETACHED 7
/* not attached in the role for this call. */
#define SMBDIRECT_E_NOT_ATTACHED 8
/* no room now: wait for an event. */
#define SMBDIRECT_E_AGAIN 9
/* the device has no memory for this. */
#define SMBDIRECT_E_NO_MEMORY 10
/* longer than a buffer, message or RDMA transfer may be. */
#define SMBDIRECT_E_TOO_LONG 11
/* no such connection. */
#define SMBDIRECT_E_NO_CONNECTION 12
/* no such buffer. */
#define SMBDIRECT_E_NO_BUFFER 13
/* the range is not within the buffer. */
#define SMBDIRECT_E_OUT_OF_BOUNDS 14
/* invalid buffer descriptors. */
#define SMBDIRECT_E_DESCRIPTORS 15
/* the buffer descriptors describe fewer bytes than the transfer has. */
#define SMBDIRECT_E_DESCRIPTORS_TOO_SHORT 16
/* not a well-formed SMB2 request. */
#define SMBDIRECT_E_REQUEST 17
/* the peer does not serve RDMA READs. */
#define SMBDIRECT_E_NO_READS 18
/* the token of the connection is unknown, used or expired. */
#define SMBDIRECT_E_NO_TOKEN 19
/* no worker has registered this client GUID. */
#define SMBDIRECT_E_NO_OWNER 20
/* another worker has registered this client GUID or session. */
#define SMBDIRECT_E_TAKEN 21
/* a limit of the smbdirect device is reached. */
#define SMBDIRECT_E_LIMIT 22
/* operations are still under way on the connection. */
#define SMBDIRECT_E_BUSY 23
/* given up because the connection ended. */
#define SMBDIRECT_E_FLUSHED 24
/* the peer refused access to its memory. */
#define SMBDIRECT_E_REMOTE_ACCESS 25
/* the network or fabric failed. */
#define SMBDIRECT_E_FABRIC 26
/* closed by the peer. */
#define SMBDIRECT_E_CLOSED_BY_PEER 27
/* closed by this side. */
#define SMBDIRECT_E_CLOSED_LOCALLY 28
/* connection reset. */
#define SMBDIRECT_E_RESET 29
/* the peer broke the protocol. */
#define SMBDIRECT_E_PROTOCOL 30
/* timed out. */
#define SMBDIRECT_E_TIMED_OUT 31
/* the smbdirect device is being stopped. */
#define SMBDIRECT_E_STOPPING 32
/* the interface between library and device was violated. */
#define SMBDIRECT_E_CORRUPT 33
/* the system has no memory or descriptors left. */
#define SMBDIRECT_E_SYSTEM 34
/* the connection's server address is not allowed, or has gone. */
#define SMBDIRECT_E_ADDRESS 35
/*
 * not trusted: the process at the device's path runs neither as root, nor as this user, nor as a
 * user to whom root gave the socket's directory.
 */
#define SMBDIRECT_E_UNTRUSTED 36
/* The head of every control message. */
struct smbdirect_control {
	/* One of SMBDIRECT_KIND_*. */
	__u32 kind;
	/* Length of the whole message, in bytes. */
	__u32 length;
	/* A number that the sender of a request chooses, and that the answer repeats. It is not 0 in a request. */
	__u64 cookie;
};

/* The first message: a process asks to be attached. */
struct smbdirect_attach {
	/* The newest version that the process speaks. Every version has this field in this place. */
	__u32 version;
	/* One of SMBDIRECT_ROLE_*. */
	__u32 role;
	/* For a worker, the token of the connection for which it was forked, or 0. */
	__u8 token[16];
	/* The oldest version that the process speaks. */
	__u32 oldest_version;
	/* Must be 0. */
	__u32 reserved;
	/* Features of the process, one bit each. Those that the device does not know are not used. */
	__u64 features;
};

/* The listener sets parameters for connections accepted from now on ([MS-SMBD] 3.1.1.1). 0 selects the device's own */
/* value, and a larger value is reduced to that. */
struct smbdirect_set_parameters {
	/* Maximum number of credits that a peer is granted: 1 to 65,535. */
	__u16 receive_credit_max;
	/* Number of credits to request from peers: 1 to 65,535. */
	__u16 send_credit_target;
	/* Length of the longest message to send, in bytes, header included: at least 128. */
	__u32 max_send_size;
	/* Length of the longest message to receive, in bytes, header included: at least 128. */
	__u32 max_receive_size;
	/* Length of the longest upper-layer message to receive, in bytes: at least 131,072. */
	__u32 max_fragmented_size;
	/* Largest RDMA transfer, in bytes. */
	__u32 max_read_write_size;
	/* Milliseconds without a message from the peer after which the device asks it for one. */
	__u32 keepalive_interval_ms;
	/* The server's GUID, for a device that answers NEGOTIATE itself. */
	__u8 server_guid[16];
	/* Length in bytes of the NEGOTIATE response's security blob, which follows this structure. */
	__u32 security_blob_length;
	/* Must be 0. */
	__u32 reserved[5];
};

/* The listener sets the server addresses that clients may use, instead of those that this or an earlier listener set; */
/* count allowed_addresses follow. The device refuses new connections to other addresses, ends existing ones, and */
/* leaves those addresses out of addresses. The list stays in force until the next one, even after the listener has */
/* gone. Before the first list, all addresses are allowed. */
struct smbdirect_set_addresses {
	/* Number of addresses: at most MAX_ALLOWED_ADDRESSES, and 0 with all. */
	__u32 count;
	/* 0 allows only the addresses that follow, and none if none follow; 1 allows all addresses. */
	__u32 all;
};

/* An address of the server that clients may use. Duplicates have no effect. */
struct smbdirect_allowed_address {
	/* The address of one host, not unspecified or multicast. IPv4 is mapped into IPv6. */
	__u8 address[16];
	/* Scope ID of a link-local IPv6 address, not 0; 0 for all others. */
	__u32 scope_id;
	/* Must be 0. */
	__u32 reserved;
};

/* The listener says what smbd knows about a client, so that the device's status can show it. A note does not change */
/* what the device does. The device skips a note that it does not know. */
struct smbdirect_client_note {
	/* The client's address. IPv4 is mapped into IPv6. */
	__u8 address[16];
	/* One of SMBDIRECT_NOTE_*. */
	__u16 note;
	/* The client's port, if the note is about one connection; otherwise 0. */
	__u16 port;
	/* The note's value: see SMBDIRECT_NOTE_*. */
	__u32 value;
	/* The server's address, if the note is about one connection; otherwise 0. IPv4 is mapped into IPv6. A client may */
	/* connect to two addresses of the server from the same port. */
	__u8 local_address[16];
	/* The server's port, if the note is about one connection; otherwise 0. */
	__u16 local_port;
	/* Must be 0. */
	__u16 reserved;
};

/* A worker registers a client's GUID and one of its sessions, or removes the registration. */
struct smbdirect_set_session_id {
	/* The session, or 0 to register only for connections with this GUID. */
	__u64 session_id;
	/* The ClientGuid of the client's NEGOTIATE requests. Not 0. */
	__u8 client_guid[16];
	/* 0 registers; 1 removes, and with session 0 removes the GUID and all its sessions. */
	__u32 remove;
	/* Must be 0. */
	__u32 reserved;
};

/* A worker claims the connection that a token names. */
struct smbdirect_claim {
	/* The token of an offer or a transfer. */
	__u8 token[16];
};

/* The listener declines the connection that a token names; the device closes the connection at once. */
struct smbdirect_decline {
	/* The token of an offer. */
	__u8 token[16];
};

/* A worker needs one more segment. At most one request may be unanswered for each region. */
struct smbdirect_grow {
	/* SMBDIRECT_REGION_SEND or SMBDIRECT_REGION_BULK. */
	__u32 region;
	/* Minimum number of units of the segment: 1 to region_shape.longest_run. */
	__u32 units;
};

/* A worker gives back a segment that it no longer uses and has unmapped. */
struct smbdirect_release {
	/* One of SMBDIRECT_REGION_*. */
	__u32 region;
	/* For RECEIVE, its queue; otherwise 0. */
	__u32 queue;
	/* As in segment. */
	__u32 number;
	/* Must be 0. */
	__u32 reserved;
};

/* An observer asks for the status. */
struct smbdirect_status_request {
	/* Must be 0. */
	__u64 reserved;
};

/* An observer asks for events. */
struct smbdirect_events_request {
	/* The number of the last event that the observer knows, or 0. */
	__u64 after;
};

/* An observer asks for a capture of a client's connections, until it detaches or the connection ends. The status socket */
/* does not answer this. */
struct smbdirect_capture_request {
	/* The client's address. IPv4 is mapped into IPv6. */
	__u8 address[16];
	/* The number of bytes to capture of what RDMA moves for each request, and of the file data in each message. */
	__u32 bytes;
	/* The client's port, for one existing connection; 0 for all connections of the client, existing and future. */
	__u16 port;
	/* Must be 0. */
	__u16 reserved;
};

/* The sizes of a region's segments and buffers. A segment consists of units, and a buffer consists of consecutive */
/* units of one segment. */
struct smbdirect_region_shape {
	/* Length of a unit, in bytes. */
	__u32 unit_length;
	/* Number of units in the longest segment: 1 to 65,536. */
	__u32 units_per_segment;
	/* Number of units in the longest buffer. */
	__u32 longest_run;
	/* Maximum number of segments at a time: 1 to 65,536. */
	__u32 max_segments;
};

/* The memory that a worker may map over time. */
struct smbdirect_mem_params {
	/* Shape of SMBDIRECT_REGION_SEND. */
	struct smbdirect_region_shape send;
	/* Shape of SMBDIRECT_REGION_BULK. */
	struct smbdirect_region_shape bulk;
	/* Shape of each queue's SMBDIRECT_REGION_RECEIVE. */
	struct smbdirect_region_shape receive;
	/* Maximum number of bytes of a worker's memory in all regions together. */
	__u64 limit;
	/* Must be 0. */
	__u64 reserved;
};

/* The process is attached. */
struct smbdirect_attached {
	/* The version that both sides speak from now on: one of those that attach named. */
	__u32 version;
	/* The device's number for this process. */
	__u32 worker;
	/* The memory that the worker may map: the answer to GET_MEM_PARAMS. */
	struct smbdirect_mem_params memory;
	/* Maximum number of unanswered submissions of a queue: the device leaves further ones in the ring until it has */
	/* answered some. */
	__u32 submissions_outstanding;
	/* Largest RDMA transfer, in bytes. */
	__u32 max_read_write_size;
	/* The features named by attach that both sides use. */
	__u64 features;
	/* Must be 0. */
	__u32 reserved[4];
};

/* The answer to a request that has no other answer. */
struct smbdirect_reply {
	/* A status as a number. */
	__s32 status;
	/* Kind of the request. */
	__u32 kind;
};

/* The device shares a segment, with its memory file. */
struct smbdirect_segment {
	/* One of SMBDIRECT_REGION_*. */
	__u32 region;
	/* For RECEIVE, its queue; otherwise 0. */
	__u32 queue;
	/* The segment's number, less than region_shape.max_segments. It is unique in SEND, in BULK, and in each */
	/* queue's RECEIVE. */
	__u32 number;
	/* Must be 0. */
	__u32 reserved;
	/* The segment's length in bytes: whole units, at most region_shape.units_per_segment of them. */
	__u64 length;
};

/* The device asks for a segment back. The worker gives out nothing in it from now on, and sends release once */
/* nothing in it is in use. In a RECEIVE segment, nothing is in use when the device asks. */
struct smbdirect_reclaim {
	/* One of SMBDIRECT_REGION_*. */
	__u32 region;
	/* For RECEIVE, its queue; otherwise 0. */
	__u32 queue;
	/* As in segment. */
	__u32 number;
	/* Must be 0. */
	__u32 reserved;
};

/* The device shares a queue, with its memory file and the doorbell of its reactor. */
struct smbdirect_queue {
	/* The queue's number: the upper 16 bits of its connections' numbers. */
	__u32 queue;
	/* Must be 0. */
	__u32 reserved;
	/* Length of the memory file, in bytes. */
	__u64 length;
	/* Offset of the completion ring in the memory file: a multiple of 64. The submission ring is at 0. */
	__u64 completion_offset;
};

/* A description of a connection. */
struct smbdirect_conn_info {
	/* The connection's number. */
	__u64 conn;
	/* The client's address; IPv4 is mapped into IPv6. */
	__u8 peer_address[16];
	/* The server's address to which the client connected. */
	__u8 local_address[16];
	/* The client's port. */
	__u16 peer_port;
	/* The server's port. */
	__u16 local_port;
	/* Scope ID of a link-local address, or 0. */
	__u32 scope_id;
	/* The ClientGuid of the connection's first request. */
	__u8 client_guid[16];
	/* Length of the longest upper-layer message to send, in bytes. */
	__u32 max_fragmented_send_size;
	/* Length of the longest upper-layer message to receive, in bytes. */
	__u32 max_fragmented_receive_size;
	/* Largest RDMA transfer, in bytes. */
	__u32 max_read_write_size;
	/* Number of RDMA READs that the peer serves at a time, or 0. */
	__u32 initiator_depth;
	/* Length of the longest upper-layer message that the client reassembles, in bytes: the MaxFragmentedSize of its */
	/* own negotiate message ([MS-SMBD] 2.2.1). max_fragmented_send_size is the lesser of this and the length that */
	/* fits into SEND. */
	__u32 peer_max_fragmented_size;
	/* Must be 0. */
	__u32 reserved[7];
};

/* The device offers a connection without an owner: the worker that claims it first, within the time that the device */
/* allows, gets it. */
struct smbdirect_offer {
	/* The token of the connection, for attach or claim. */
	__u8 token[16];
	/* The connection. Only its owner can use its number. */
	struct smbdirect_conn_info info;
};

/* The device wakes a worker that announced that it sleeps, because a queue has something for it. */
struct smbdirect_wake {
	/* Must be 0. */
	__u64 reserved;
};

/* The device reports its status, or its events, with a memory file that begins with json_length bytes of JSON. Map the */
/* file, or read it at offset 0: other processes of the user share its position. */
struct smbdirect_status_report {
	/* Length of the memory file, in bytes. */
	__u64 length;
	/* Length of the JSON at its start, in bytes. */
	__u64 json_length;
};

/* A capture begins. The message carries a socket of type SOCK_SEQPACKET, which the device closes at the end; each of */
/* its messages is at most 128 KiB and consists of whole blocks of one pcapng file. The last block of an interface whose */
/* packets were captured holds its statistics. */
struct smbdirect_capture_started {
	/* Number of interfaces in the file: one for each reactor. */
	__u32 interfaces;
	/* Must be 0. */
	__u32 reserved;
};

/* The device lists the addresses on which clients reach it; count addresses follow. It sends this to listeners */
/* and workers before attached, and again whenever the list changes. */
struct smbdirect_addresses {
	/* Number of addresses: at most MAX_ADDRESSES. */
	__u32 count;
	/* Must be 0. */
	__u32 reserved;
};

/* An address on which clients reach the device. */
struct smbdirect_address {
	/* The address. IPv4 is mapped into IPv6. */
	__u8 address[16];
	/* Speed of the address's interface, in bits per second. */
	__u64 link_speed;
	/* The system's index of the address's interface, or 0. */
	__u32 interface;
	/* Scope ID of a link-local address, or 0. */
	__u32 scope_id;
	/* The port. */
	__u16 port;
	/* Must be 0. */
	__u16 reserved[3];
};

/* The last message: the device has ended the attachment. */
struct smbdirect_detached {
	/* The reason, a status as a number. */
	__s32 status;
	/* The device's newest version, so that both sides can report it, if versions are the reason; otherwise 0. This */
	/* message has the same form in every version. */
	__u32 version;
};

/* An entry of a submission ring, except for TRANSFER. */
struct smbdirect_submission {
	/* One of SMBDIRECT_OP_*. */
	__u32 op;
	/* A combination of SMBDIRECT_FLAGS_*. */
	__u32 flags;
	/* The connection. */
	__u64 conn;
	/* Chosen by the worker, and repeated in the completion. */
	__u64 cookie;
	/* A place, or for RECYCLE a buffer number. */
	__u64 place;
	/* Length in bytes. */
	__u32 length;
	/* The token to invalidate at the peer, if flags says so. */
	__u32 token;
	/* The place in SEND of the buffer descriptors, 16 bytes each as on the wire. */
	__u64 descriptors;
	/* Number of descriptors: 1 to 4095. */
	__u32 descriptor_count;
	/* Must be 0. */
	__u32 reserved[3];
};

/* An entry of a submission ring for TRANSFER. */
struct smbdirect_transfer_submission {
	/* Must be SMBDIRECT_OP_TRANSFER. */
	__u32 op;
	/* Must be 0. */
	__u32 flags;
	/* The connection. */
	__u64 conn;
	/* Chosen by the worker, and repeated in the completion. */
	__u64 cookie;
	/* The place in SEND of the new owner's first message. */
	__u64 place;
	/* Length of that message, or 0 if there is none. */
	__u32 length;
	/* Must be 0. */
	__u32 reserved;
	/* The client GUID that the new owner has registered, or 0. */
	__u8 client_guid[16];
	/* Must be 0. */
	__u64 reserved2;
};

/* An entry of a completion ring. */
struct smbdirect_completion {
	/* One of SMBDIRECT_EVENT_*. */
	__u32 event;
	/* A status as a number. */
	__s32 status;
	/* The connection. */
	__u64 conn;
	/* The cookie of the submission, or 0. */
	__u64 cookie;
	/* The number of a buffer in RECEIVE, or 0. */
	__u64 buffer;
	/* Length in bytes. */
	__u32 length;
	/* Must be 0. */
	__u32 reserved;
	/* For TRANSFERRED, the token, or 0. */
	__u8 token[16];
	/* Must be 0. */
	__u64 reserved2;
};
/* A process asks to be attached. If status says that it was not attached, it may try again. */
struct smbdirect_attach_call {
	/* The request. A listener and a worker need a file that is open for writing. */
	struct smbdirect_attach attach;
	/* Written if status is OK. */
	struct smbdirect_attached attached;
	/* Written: a status as a number. */
	__s32 status;
	/* Written: the device's newest version if it refuses because of versions, otherwise 0. */
	__u32 version;
};

/* A listener sets parameters. */
struct smbdirect_set_parameters_call {
	/* The request. */
	struct smbdirect_set_parameters parameters;
	/* The address of the security blob; parameters has its length. */
	__u64 security_blob;
	/* Written: a status as a number. */
	__s32 status;
	/* Must be 0. */
	__u32 reserved;
};

/* A listener sets the addresses that clients may use. */
struct smbdirect_set_addresses_call {
	/* The request. */
	struct smbdirect_set_addresses set;
	/* The address of an array of allowed_address; set has its length. */
	__u64 addresses;
	/* Written: a status as a number. */
	__s32 status;
	/* Must be 0. */
	__u32 reserved;
};

/* A worker registers a client and a session, or removes the registration. */
struct smbdirect_set_session_id_call {
	/* The request. */
	struct smbdirect_set_session_id session;
	/* Written: a status as a number. */
	__s32 status;
	/* Must be 0. */
	__u32 reserved;
};

/* A worker claims the connection that a token names. */
struct smbdirect_claim_call {
	/* A number, not 0, that the answer repeats if it comes later. */
	__u64 cookie;
	/* The request. */
	struct smbdirect_claim claim;
	/* Written: a status as a number, or SMBDIRECT_ANSWER_LATER. */
	__s32 status;
	/* Must be 0. */
	__u32 reserved;
};

/* A listener declines the connection that a token names. */
struct smbdirect_decline_call {
	/* The request. */
	struct smbdirect_decline decline;
	/* Written: a status as a number. */
	__s32 status;
	/* Must be 0. */
	__u32 reserved;
};

/* A worker needs one more segment. */
struct smbdirect_grow_call {
	/* A number, not 0, that the answer repeats if it comes later. */
	__u64 cookie;
	/* The request. */
	struct smbdirect_grow grow;
	/* Written if status is OK. */
	struct smbdirect_segment segment;
	/* Written: a status as a number, or SMBDIRECT_ANSWER_LATER. */
	__s32 status;
	/* Must be 0. */
	__u32 reserved;
};

/* Reads events: consecutive whole control messages (control), each a multiple of 8 bytes */
/* long. Returns as many of them as fit. */
struct smbdirect_get_events_call {
	/* The address of a buffer. */
	__u64 buffer;
	/* Length of the buffer in bytes: at least MAX_CONTROL_LENGTH, so that any */
	/* message fits. */
	__u32 length;
	/* Must be 0. */
	__u32 reserved;
	/* Written: the length of the messages, in bytes. */
	__u32 filled;
	/* Written: the number of messages, 0 if there are none now. */
	__u32 count;
};

/* A worker submits entries that are not in a ring. The device takes the ring's entries first. */
struct smbdirect_submit_call {
	/* The address of count entries, each a submission or a */
	/* transfer_submission. */
	__u64 submissions;
	/* Number of entries: 1 to MAX_SUBMISSIONS. */
	__u32 count;
	/* The queue. */
	__u32 queue;
	/* Written: how many entries the device has taken, which is fewer than count while there is no room for */
	/* completions. */
	__u32 taken;
	/* Must be 0. */
	__u32 reserved;
};

/* A worker rings the bell of a queue, or any process asks what it can read. */
struct smbdirect_enter_call {
	/* The queue, or ALL_QUEUES. */
	__u32 queue;
	/* A combination of SMBDIRECT_ENTER_*. */
	__u32 flags;
	/* Maximum time to sleep until ready is not 0, in nanoseconds: 0 means not to sleep, FOREVER without a limit. */
	/* Needs SMBDIRECT_ENTER_LOOK. */
	__u64 wait_ns;
	/* Written: a combination of SMBDIRECT_READY_* with SMBDIRECT_ENTER_LOOK, otherwise 0. */
	__u32 ready;
	/* Must be 0. */
	__u32 reserved;
};

/* An observer asks for the status: consecutive records (status). */
struct smbdirect_status_call {
	/* The address of a buffer. */
	__u64 buffer;
	/* Length of the buffer, in bytes. */
	__u32 length;
	/* Must be 0. */
	__u32 reserved;
	/* Written: the length of the records, in bytes; 0 if they do not all fit. */
	__u32 filled;
	/* Written: the length of all records, in bytes, which may have grown by the next call. */
	__u32 needed;
};

/* The path of the device, unless udev's rules change it. */
#define SMBDIRECT_PATH "/dev/smbdirect"

/* The type in the numbers of all calls, which no other call in Linux's ioctl-number.rst has. */
#define SMBDIRECT_MAGIC 0xd5

/* Takes attach_call, which has the same form in every version. */
#define SMBDIRECT_ATTACH _IOWR(SMBDIRECT_MAGIC, 1, struct smbdirect_attach_call)
/*
 * Ends the attachment, even if a child of the process has a copy of the file. It has no argument.
 */
#define SMBDIRECT_DETACH _IO(SMBDIRECT_MAGIC, 2)
/* Takes set_parameters_call: SET_SMBD_PARAMETERS. */
#define SMBDIRECT_SET_PARAMETERS _IOWR(SMBDIRECT_MAGIC, 3, struct smbdirect_set_parameters_call)
/* Takes set_addresses_call. */
#define SMBDIRECT_SET_ADDRESSES _IOWR(SMBDIRECT_MAGIC, 4, struct smbdirect_set_addresses_call)
/* Takes set_session_id_call: SET_SMBD_SESSION_ID. */
#define SMBDIRECT_SET_SESSION_ID _IOWR(SMBDIRECT_MAGIC, 5, struct smbdirect_set_session_id_call)
/* Takes claim_call. */
#define SMBDIRECT_CLAIM _IOWR(SMBDIRECT_MAGIC, 6, struct smbdirect_claim_call)
/* Takes decline_call. */
#define SMBDIRECT_DECLINE _IOWR(SMBDIRECT_MAGIC, 7, struct smbdirect_decline_call)
/* Writes mem_params, the same as in attached: GET_MEM_PARAMS. */
#define SMBDIRECT_GET_MEM_PARAMS _IOR(SMBDIRECT_MAGIC, 8, struct smbdirect_mem_params)
/* Takes grow_call. */
#define SMBDIRECT_GROW _IOWR(SMBDIRECT_MAGIC, 9, struct smbdirect_grow_call)
/* Takes release. */
#define SMBDIRECT_RELEASE _IOW(SMBDIRECT_MAGIC, 10, struct smbdirect_release)
/* Takes get_events_call: GET_SMBD_EVENT, except completions. */
#define SMBDIRECT_GET_EVENTS _IOWR(SMBDIRECT_MAGIC, 11, struct smbdirect_get_events_call)
/* Takes submit_call: SEND_PDU, RDMA_READ_WRITE and the others, without a ring. */
#define SMBDIRECT_SUBMIT _IOWR(SMBDIRECT_MAGIC, 12, struct smbdirect_submit_call)
/* Takes enter_call: submits what is in a ring. */
#define SMBDIRECT_ENTER _IOWR(SMBDIRECT_MAGIC, 13, struct smbdirect_enter_call)
/* Takes status_call. */
#define SMBDIRECT_STATUS _IOWR(SMBDIRECT_MAGIC, 14, struct smbdirect_status_call)

/* Values of status in an argument, besides the numbers of status. */
/* The answer (SEGMENT for GROW, otherwise REPLY) comes as an event with the request's cookie. */
#define SMBDIRECT_ANSWER_LATER (-1)

/* Values of enter_call.flags. */
/* Also takes what the network has completed, and writes to ready what the process can read. */
#define SMBDIRECT_ENTER_LOOK 1

/* Values of enter_call.ready. */
/* There are events to read. */
#define SMBDIRECT_READY_EVENTS 1
/* There are completions in a ring. */
#define SMBDIRECT_READY_COMPLETIONS 2

/* Value of enter_call.queue for all queues of the process, of which there may be none. */
#define SMBDIRECT_ALL_QUEUES 0xffffffffU

/* Value of enter_call.wait_ns for a wait without a limit. */
#define SMBDIRECT_FOREVER 0xffffffffffffffffULL

/* Maximum number of entries of a submit_call. */
#define SMBDIRECT_MAX_SUBMISSIONS 256

/* Stands for queues in the offset for mmap, in place of a region of SMBDIRECT_REGION_*. */
#define SMBDIRECT_MAP_QUEUE 4
/* The head of each record. */
struct smbdirect_status_head {
	/* One of SMBDIRECT_RECORD_*. */
	__u32 kind;
	/* Length of the record in bytes, including this head. */
	__u32 length;
};

/* The device, its limits, and its current numbers. */
struct smbdirect_status_device {
	/* The version of the module. */
	char version[16];
	/* The version of the interface: VERSION. */
	__u32 interface;
	/* A combination of SMBDIRECT_DEVICE_FLAGS_*. */
	__u32 flags;
	/* Time since the module was loaded. */
	__u64 uptime_ns;
	/* Maximum number of connections. */
	__u32 max_connections;
	/* Maximum number of connections that are offered to the listener at a time. */
	__u32 max_undispatched;
	/* Maximum number of connections without a session. */
	__u32 max_unauthenticated;
	/* Maximum number of workers. */
	__u32 max_workers;
	/* Maximum number of sessions and clients of one worker. */
	__u32 max_sessions_of_worker;
	/* Number of entries of a ring. */
	__u32 queue_depth;
	/* Maximum number of bytes of memory of one worker. */
	__u64 max_memory_of_worker;
	/* Maximum number of bytes of memory of all workers together. */
	__u64 max_memory;
	/* Number of connections that have negotiated. */
	__u32 connections;
	/* Number of connections that have negotiated and have no owner. */
	__u32 undispatched;
	/* Number of connections that have negotiated and have no session. */
	__u32 unauthenticated;
	/* Number of tokens that may be claimed. */
	__u32 offered;
	/* Number of client GUIDs that are registered. */
	__u32 clients;
	/* Number of sessions that are registered. */
	__u32 sessions;
	/* Number of queues of all workers. */
	__u32 queues;
	/* Number of segments that are registered with connections, each counted once per connection. */
	__u32 registrations;
	/* Number of bytes of memory of all workers. */
	__u64 memory;
};

/* An address and a port. */
struct smbdirect_status_socket_address {
	/* The address. IPv4 is mapped into IPv6. */
	__u8 address[16];
	/* Scope ID of a link-local address, or 0. */
	__u32 scope_id;
	/* The port. */
	__u16 port;
	/* Must be 0. */
	__u16 reserved;
};

/* The traffic of a fabric since the module was loaded. None of the numbers ever falls. */
struct smbdirect_status_carried {
	/* The fabric: verbs. */
	char fabric[16];
	/* Number of connections that negotiated. */
	__u64 connections;
	/* Number of messages received. */
	__u64 messages_in;
	/* Number of messages sent. */
	__u64 messages_out;
	/* Bytes of messages received. */
	__u64 inline_bytes_in;
	/* Bytes of messages sent. */
	__u64 inline_bytes_out;
	/* Number of RDMA READs that fetched all of their data. */
	__u64 rdma_reads;
	/* Bytes that RDMA READs fetched. */
	__u64 rdma_read_bytes;
	/* Number of RDMA WRITEs that carried all of their data. */
	__u64 rdma_writes;
	/* Bytes that RDMA WRITEs carried. */
	__u64 rdma_write_bytes;
	/* Number of clients' tokens that messages invalidated. */
	__u64 invalidations_out;
	/* Number of times that a received fragment had to wait for memory of the connection's owner. */
	__u64 buffer_waits;
};

/* A connection that has negotiated. */
struct smbdirect_status_connection {
	/* The number by which its owner knows it. */
	__u64 id;
	/* The client's address. */
	struct smbdirect_status_socket_address peer;
	/* The server's address to which the client connected. */
	struct smbdirect_status_socket_address local;
	/* The fabric that carries it. */
	char fabric[16];
	/* fresh, offered, owned or ending. */
	char state[16];
	/* A combination of SMBDIRECT_CONNECTION_FLAGS_*. */
	__u32 flags;
	/* The worker that owns it. */
	__u32 worker;
	/* The system's number for that worker's process. */
	__s32 pid;
	/* Number of messages that may be sent to the client now. */
	__u16 send_credits;
	/* Number of messages that the client may send now. */
	__u16 receive_credits;
	/* Number of receives that are posted. */
	__u32 receives_posted;
	/* Number of operations that are queued and not posted. */
	__u32 queued;
	/* Submissions that have not been answered. */
	__u32 outstanding;
	/* Number of received fragments that wait for memory of the owner. */
	__u32 starved;
	/* Time since the connection was accepted. */
	__u64 age_ns;
	/* Bytes of messages received. */
	__u64 inline_bytes_in;
	/* Bytes of messages sent. */
	__u64 inline_bytes_out;
	/* Bytes that RDMA READs fetched. */
	__u64 rdma_read_bytes;
	/* Bytes that RDMA WRITEs carried. */
	__u64 rdma_write_bytes;
	/* Number of messages received. */
	__u64 messages_in;
	/* Number of messages sent. */
	__u64 messages_out;
	/* Number of the client's tokens that messages invalidated. */
	__u64 invalidations_out;
};

/* An attached process. */
struct smbdirect_status_process {
	/* The device's number for the process. */
	__u32 id;
	/* The system's number for the process, as the process that asks sees it, or 0. */
	__s32 pid;
	/* SMBDIRECT_ROLE_*. */
	__u32 role;
	/* A combination of SMBDIRECT_PROCESS_FLAGS_*. */
	__u32 flags;
	/* Number of connections that the process owns. */
	__u32 connections;
	/* Number of sessions and clients that the process has registered. */
	__u32 sessions;
	/* Number of SEND segments. */
	__u32 send_segments;
	/* Number of BULK segments. */
	__u32 bulk_segments;
	/* Number of bytes of the process's memory. */
	__u64 memory;
};

/* A queue of a worker. */
struct smbdirect_status_queue {
	/* The device's number for the worker. */
	__u32 worker;
	/* The queue's number. */
	__u32 queue;
	/* Number of connections that use the queue. */
	__u32 connections;
	/* Number of completions for which there was no room in the ring. */
	__u32 overflow;
	/* Number of completions in the ring. */
	__u32 completions;
	/* Submissions that have not been answered. */
	__u32 outstanding;
	/* Number of RECEIVE segments. */
	__u32 receive_segments;
	/* Number of RECEIVE units in use. */
	__u32 receive_units_used;
};

/* The end of a connection. */
struct smbdirect_status_close {
	/* The client's address. */
	struct smbdirect_status_socket_address peer;
	/* The server's address to which the client connected. */
	struct smbdirect_status_socket_address local;
	/* The fabric that carried it. */
	char fabric[16];
	/* The reason's name. */
	char reason[48];
	/* A combination of SMBDIRECT_CLOSE_FLAGS_*. */
	__u32 flags;
	/* The worker that owned it. */
	__u32 worker;
	/* Time between the loading of the module and the end of the connection. */
	__u64 at_ns;
	/* Time that the connection lasted. */
	__u64 age_ns;
	/* Bytes that came from the client, in messages and by RDMA READ. */
	__u64 bytes_received;
	/* Bytes that went to the client, in messages and by RDMA WRITE. */
	__u64 bytes_sent;
};

/* A counter of something that happens. */
struct smbdirect_status_counter {
	/* The name of what happened. */
	char name[48];
	/* How often it happened. */
	__u64 count;
};

/* Values of head.kind. */
/* A record with a device. */
#define SMBDIRECT_RECORD_DEVICE 1
/* A record with a socket_address on which the device accepts connections. */
#define SMBDIRECT_RECORD_LISTEN 2
/* A record with an address on which clients reach the device, as in addresses. */
#define SMBDIRECT_RECORD_ADDRESS 3
/* A record with an allowed_address that the listener has set. */
#define SMBDIRECT_RECORD_ALLOWED 4
/* A record with a carried. */
#define SMBDIRECT_RECORD_CARRIED 5
/* A record with a connection. */
#define SMBDIRECT_RECORD_CONNECTION 6
/* A record with a process. */
#define SMBDIRECT_RECORD_PROCESS 7
/* A record with a queue. */
#define SMBDIRECT_RECORD_QUEUE 8
/* A record with a close; the oldest comes first. */
#define SMBDIRECT_RECORD_CLOSE 9
/* A record with a counter. */
#define SMBDIRECT_RECORD_COUNTER 10

/* Values of device.flags. */
/* The device no longer accepts connections and processes. */
#define SMBDIRECT_DEVICE_FLAGS_STOPPING 1
/* The listener has set the addresses that clients may use, and the records ALLOWED list them. */
#define SMBDIRECT_DEVICE_FLAGS_RESTRICTED 2

/* Values of connection.flags. */
/* A worker owns the connection: id, worker and pid are valid. */
#define SMBDIRECT_CONNECTION_FLAGS_OWNED 1
/* The connection has a session. */
#define SMBDIRECT_CONNECTION_FLAGS_AUTHENTICATED 2
/* local is known. */
#define SMBDIRECT_CONNECTION_FLAGS_LOCAL 4

/* Values of process.flags. */
/* The process attached with the token of a connection. */
#define SMBDIRECT_PROCESS_FLAGS_INVITED 1

/* Values of close.flags. */
/* A worker owned the connection. */
#define SMBDIRECT_CLOSE_FLAGS_OWNED 1
/* local is known. */
#define SMBDIRECT_CLOSE_FLAGS_LOCAL 4

/* Where mmap finds a segment of SMBDIRECT_REGION_*, or a queue (SMBDIRECT_MAP_QUEUE). */
#define SMBDIRECT_MAP_OFFSET(region, number) ((__u64)(region) << 40 | (__u64)(number) << 32)

#endif
