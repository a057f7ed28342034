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
/* FETCH_AHEAD, RECALL and FETCHED. */
#define SMBDIRECT_FEATURE_FETCH_AHEAD 1

/* The optional features of VERSION that this side has, one bit each. */
#define SMBDIRECT_FEATURES SMBDIRECT_FEATURE_FETCH_AHEAD

/*
 * A side that does not know a control.kind, submission.op or completion.event with this bit skips
 * it. It is not answered, asks for nothing and holds nothing: no cookie, no buffer. A process
 * sends no descriptors with it; a process closes those that a device sends with it.
 */
#define SMBDIRECT_OPTIONAL (1U << 31)

/* Longest control message, in bytes: enough for the longest blob or list of addresses. */
#define SMBDIRECT_MAX_CONTROL_LENGTH 4096

/* The most addresses in an addresses. */
#define SMBDIRECT_MAX_ADDRESSES 64

/* The most addresses in a set_addresses. */
#define SMBDIRECT_MAX_ALLOWED_ADDRESSES 128

/* Longest security blob of set_parameters, in bytes. */
#define SMBDIRECT_MAX_SECURITY_BLOB 2048

/* control.kind. */
/* attach. */
#define SMBDIRECT_KIND_ATTACH 1
/* set_parameters. */
#define SMBDIRECT_KIND_SET_PARAMETERS 2
/* set_session_id. */
#define SMBDIRECT_KIND_SET_SESSION_ID 3
/* claim. */
#define SMBDIRECT_KIND_CLAIM 4
/* grow. */
#define SMBDIRECT_KIND_GROW 5
/* status_request. */
#define SMBDIRECT_KIND_STATUS_REQUEST 6
/* decline. */
#define SMBDIRECT_KIND_DECLINE 7
/* set_addresses. */
#define SMBDIRECT_KIND_SET_ADDRESSES 8
/* release. */
#define SMBDIRECT_KIND_RELEASE 9
/* client_note. */
#define SMBDIRECT_KIND_CLIENT_NOTE 0x80000001
/* events_request. */
#define SMBDIRECT_KIND_EVENTS_REQUEST 10
/* attached. */
#define SMBDIRECT_KIND_ATTACHED 101
/* reply. */
#define SMBDIRECT_KIND_REPLY 102
/* segment. */
#define SMBDIRECT_KIND_SEGMENT 103
/* queue. */
#define SMBDIRECT_KIND_QUEUE 104
/* offer. */
#define SMBDIRECT_KIND_OFFER 105
/* wake. */
#define SMBDIRECT_KIND_WAKE 106
/* status_report. */
#define SMBDIRECT_KIND_STATUS_REPORT 107
/* detached. */
#define SMBDIRECT_KIND_DETACHED 108
/* addresses. */
#define SMBDIRECT_KIND_ADDRESSES 109
/* reclaim. */
#define SMBDIRECT_KIND_RECLAIM 110

/* attach.role. */
/* The parent smbd: gets offers, and sets parameters. One at a time. */
#define SMBDIRECT_ROLE_LISTENER 1
/* A child smbd: owns connections. */
#define SMBDIRECT_ROLE_WORKER 2
/* An administrator's tool: asks for the status. */
#define SMBDIRECT_ROLE_OBSERVER 3

/* client_note.note. */
/*
 * It has negotiated SMB 2 or 3, over TCP or SMB Direct. value: the dialect, and with MULTICHANNEL
 * whether it knows multichannel.
 */
#define SMBDIRECT_NOTE_NEGOTIATED 1
/* It has asked for the server's interfaces. value: how many RDMA-capable addresses it was told. */
#define SMBDIRECT_NOTE_ASKED 2
/*
 * It has asked for the server's interfaces, and was told of no RDMA-capable address because its
 * session is signed or encrypted and its connection has no RDMA transform for that. value: 0.
 */
#define SMBDIRECT_NOTE_WITHHELD 3
/*
 * A session is on one of its SMB Direct connections, which has this port. value:
 * SMBDIRECT_PROTECTION_*.
 */
#define SMBDIRECT_NOTE_SESSION 4
/* It could not bind an SMB Direct connection to its session. value: the NTSTATUS. */
#define SMBDIRECT_NOTE_REFUSED 5
/* In value of NEGOTIATED. */
#define SMBDIRECT_NOTE_MULTICHANNEL 0x10000

/* value of SMBDIRECT_NOTE_SESSION: what happens to file data on a connection. */
/* Neither signed nor encrypted; by RDMA. */
#define SMBDIRECT_PROTECTION_PLAIN 0
/* Signed; by RDMA with a transform. */
#define SMBDIRECT_PROTECTION_SIGNED 1
/* Encrypted; by RDMA with a transform. */
#define SMBDIRECT_PROTECTION_ENCRYPTED 2
/* Signed; in messages. */
#define SMBDIRECT_PROTECTION_SIGNED_IN_MESSAGES 3
/* Encrypted; in messages. */
#define SMBDIRECT_PROTECTION_ENCRYPTED_IN_MESSAGES 4

/* grow.region, segment.region. */
/* Messages to send. */
#define SMBDIRECT_REGION_SEND 1
/* Data of RDMA READ and RDMA WRITE. */
#define SMBDIRECT_REGION_BULK 2
/* Received messages. */
#define SMBDIRECT_REGION_RECEIVE 3

/* submission.op. */
/*
 * Sends one SMB2 message: length bytes at place in SEND. With INVALIDATE in flags, it invalidates
 * token at the peer. Answered by SENT.
 */
#define SMBDIRECT_OP_SEND_PDU 1
/*
 * Reads length bytes of the peer's memory, which descriptors name, to place in BULK. Answered by
 * RDMA_DONE.
 */
#define SMBDIRECT_OP_RDMA_READ 2
/* Writes length bytes at place in BULK to the peer's memory. Answered by RDMA_DONE. */
#define SMBDIRECT_OP_RDMA_WRITE 3
/* Ends a connection gracefully: what was submitted before is sent first. DISCONNECTED follows. */
#define SMBDIRECT_OP_DISCONNECT 4
/*
 * Gives a connection to the worker that has registered client_guid (transfer_submission) or, if
 * that is 0, to the worker that claims the token in the answer, with a first message for it:
 * length bytes at place in SEND. Answered by TRANSFERRED; if its status is OK, the connection no
 * longer belongs to this worker.
 */
#define SMBDIRECT_OP_TRANSFER 5
/*
 * Gives the buffer of a received message back: its number is in place. conn is 0 except for the
 * queue.
 */
#define SMBDIRECT_OP_RECYCLE 6
/*
 * The connection has a session: its client has logged in. A second one has no effect. A
 * connection that is transferred later stays authenticated.
 */
#define SMBDIRECT_OP_AUTHENTICATED 7
/*
 * Lends length bytes at place in BULK for the data of the next WRITE on this connection
 * (SMBDIRECT_FEATURE_FETCH_AHEAD). Answered by FETCHED.
 */
#define SMBDIRECT_OP_FETCH_AHEAD 8
/*
 * Wants back what was lent with FETCH_AHEAD on this connection. If that is still unused, it is
 * answered now, with the status FLUSHED.
 */
#define SMBDIRECT_OP_RECALL 9

/* submission.flags. */
/* token is to be invalidated (SEND with Invalidate). */
#define SMBDIRECT_FLAGS_INVALIDATE 1

/* completion.event. */
/* A connection belongs to this worker now. buffer holds a conn_info of length bytes; recycle it. */
#define SMBDIRECT_EVENT_CONNECTION 1
/* A message arrived: length bytes in buffer; recycle it. */
#define SMBDIRECT_EVENT_PDU 2
/*
 * SEND_PDU ended: its memory is free. Status OK means that the peer's network has acknowledged
 * all of the message: the peer's TCP with software iWARP, its adapter with InfiniBand or RoCE. An
 * iWARP adapter's completion does not promise this, and after DISCONNECT status OK means only
 * that this side's network has taken the message. It may come about 0.1 s after the
 * acknowledgement.
 */
#define SMBDIRECT_EVENT_SENT 3
/* RDMA_READ or RDMA_WRITE ended: the data has arrived, or its memory is free. */
#define SMBDIRECT_EVENT_RDMA_DONE 4
/* The connection is gone; status says why. */
#define SMBDIRECT_EVENT_DISCONNECTED 5
/* TRANSFER ended; token is set if one was asked for. */
#define SMBDIRECT_EVENT_TRANSFERRED 6
/*
 * FETCH_AHEAD ended. Status OK: length bytes were fetched for the WRITE in the connection's next
 * PDU, which follows at once. Otherwise nothing was, and the memory is free: BUSY if something is
 * lent on this connection already or a quarter of the queue's depth is under way, FLUSHED if it
 * was wanted back or the connection has ended, or why the fetch failed.
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
/* no room now, wait for an event. */
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
/* the peer serves no RDMA READs. */
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
 * not trusted: run neither by root, nor by this user, nor by a user to whom root gave the
 * directory.
 */
#define SMBDIRECT_E_UNTRUSTED 36
/* What every control message begins with. */
struct smbdirect_control {
	/* SMBDIRECT_KIND_*. */
	__u32 kind;
	/* Bytes of the whole message. */
	__u32 length;
	/* Chosen by the side that asks, and repeated in the answer. Not 0 in a request. */
	__u64 cookie;
};

/* A process presents itself. */
struct smbdirect_attach {
	/* The newest version that the process speaks. This field is here in every version. */
	__u32 version;
	/* SMBDIRECT_ROLE_*. */
	__u32 role;
	/* For a worker: the token of the connection that it was forked for, or 0. */
	__u8 token[16];
	/* The oldest version that the process speaks. */
	__u32 oldest_version;
	/* 0. */
	__u32 reserved;
	/* Its features, one bit each. Those that the device does not know are not used. */
	__u64 features;
};

/* Parameters that the listener sets for connections accepted from now on ([MS-SMBD] 3.1.1.1). 0 selects */
/* the device's own value, and a larger value is reduced to that. */
struct smbdirect_set_parameters {
	/* The most credits that a peer is granted. 1 to 65,535. */
	__u16 receive_credit_max;
	/* Credits to request from peers. 1 to 65,535. */
	__u16 send_credit_target;
	/* Longest message to send, in bytes, header included. At least 128. */
	__u32 max_send_size;
	/* Longest message to receive, in bytes, header included. At least 128. */
	__u32 max_receive_size;
	/* Longest upper-layer message to receive, in bytes. At least 131,072. */
	__u32 max_fragmented_size;
	/* Largest RDMA transfer, in bytes. */
	__u32 max_read_write_size;
	/* Milliseconds without a message from the peer after which it is asked for one. */
	__u32 keepalive_interval_ms;
	/* The server's GUID: for a device that answers NEGOTIATE itself. */
	__u8 server_guid[16];
	/* Length in bytes of the NEGOTIATE response's security blob, which follows this structure. */
	__u32 security_blob_length;
	/* 0. */
	__u32 reserved[5];
};

/* The listener sets the server addresses that clients may use, in place of those that it or an */
/* earlier listener set; count allowed_addresses follow. The device refuses new connections at other */
/* addresses, ends existing ones, and leaves those addresses out of addresses. The list holds until */
/* the next one, even after the listener has gone. Before the first, all addresses are allowed. */
struct smbdirect_set_addresses {
	/* At most MAX_ALLOWED_ADDRESSES; 0 with all. */
	__u32 count;
	/* 0: only those that follow, and none if none follow. 1: all addresses. */
	__u32 all;
};

/* An address of the server that clients may use. Duplicates have no effect. */
struct smbdirect_allowed_address {
	/* The address of one host, not unspecified or multicast. IPv4 mapped into IPv6. */
	__u8 address[16];
	/* Scope of link-local IPv6 addresses, not 0; 0 for all others. */
	__u32 scope_id;
	/* 0. */
	__u32 reserved;
};

/* The listener tells what smbd knows about a client, for the device's status and its readers. It changes nothing */
/* that the device does. The device skips a note that it does not know. */
struct smbdirect_client_note {
	/* The client's address. IPv4 mapped into IPv6. */
	__u8 address[16];
	/* SMBDIRECT_NOTE_*. */
	__u16 note;
	/* The client's port, if the note is about one connection; otherwise 0. */
	__u16 port;
	/* What the note says. */
	__u32 value;
};

/* A worker registers a client's GUID and one of its sessions, or removes the registration. */
struct smbdirect_set_session_id {
	/* The session, or 0 to register only for connections with this GUID. */
	__u64 session_id;
	/* The ClientGuid of the client's NEGOTIATE requests. Not 0. */
	__u8 client_guid[16];
	/* 0: register. 1: remove (with session 0: the GUID and all its sessions). */
	__u32 remove;
	/* 0. */
	__u32 reserved;
};

/* A worker wants the connection of a token. */
struct smbdirect_claim {
	/* The token of an offer or a transfer. */
	__u8 token[16];
};

/* The listener declines the connection of a token, which the device closes at once. */
struct smbdirect_decline {
	/* The token of an offer. */
	__u8 token[16];
};

/* A worker needs one more segment. At most one request for each region is unanswered. */
struct smbdirect_grow {
	/* SMBDIRECT_REGION_SEND or SMBDIRECT_REGION_BULK. */
	__u32 region;
	/* The fewest units that the segment may have: 1 to region_shape.longest_run. */
	__u32 units;
};

/* A worker no longer uses a segment, and has unmapped it. */
struct smbdirect_release {
	/* SMBDIRECT_REGION_*. */
	__u32 region;
	/* For RECEIVE, its queue; otherwise 0. */
	__u32 queue;
	/* As in segment. */
	__u32 number;
	/* 0. */
	__u32 reserved;
};

/* An observer asks for the status. */
struct smbdirect_status_request {
	/* 0. */
	__u64 reserved;
};

/* An observer asks what has happened. */
struct smbdirect_events_request {
	/* The number of the last event that it knows, or 0. */
	__u64 after;
};

/* A region's segments and buffers: see SMBDIRECT_CRATE_shm::buffers::Shape. */
struct smbdirect_region_shape {
	/* Bytes of a unit. */
	__u32 unit_length;
	/* Units of the longest segment: 1 to 65,536. */
	__u32 units_per_segment;
	/* Units of the longest buffer. */
	__u32 longest_run;
	/* Segments at a time: 1 to 65,536. */
	__u32 max_segments;
};

/* The memory that a worker may map over time. */
struct smbdirect_mem_params {
	/* SMBDIRECT_REGION_SEND. */
	struct smbdirect_region_shape send;
	/* SMBDIRECT_REGION_BULK. */
	struct smbdirect_region_shape bulk;
	/* SMBDIRECT_REGION_RECEIVE, of each queue. */
	struct smbdirect_region_shape receive;
	/* Bytes that a worker may have in all regions together. */
	__u64 limit;
	/* 0. */
	__u64 reserved;
};

/* The process is attached. */
struct smbdirect_attached {
	/* The version that is spoken from now on: one of those that attach named. */
	__u32 version;
	/* The device's number for this process. */
	__u32 worker;
	/* GET_MEM_PARAMS. */
	struct smbdirect_mem_params memory;
	/* The most submissions of a queue that may be unanswered: the device leaves others in the ring until then. */
	__u32 submissions_outstanding;
	/* Largest RDMA transfer, in bytes. */
	__u32 max_read_write_size;
	/* Those features named by attach that are used. */
	__u64 features;
	/* 0. */
	__u32 reserved[4];
};

/* The answer to a request that has no other answer. */
struct smbdirect_reply {
	/* A status as a number. */
	__s32 status;
	/* The kind of the request. */
	__u32 kind;
};

/* A segment, with its memory file. */
struct smbdirect_segment {
	/* SMBDIRECT_REGION_*. */
	__u32 region;
	/* For RECEIVE, its queue; otherwise 0. */
	__u32 queue;
	/* Its number, less than region_shape.max_segments. It is unique in SEND, in BULK, and in RECEIVE of */
	/* each queue. */
	__u32 number;
	/* 0. */
	__u32 reserved;
	/* Its length in bytes: whole units, at most region_shape.units_per_segment of them. */
	__u64 length;
};

/* The device wants a segment back. The worker gives out nothing in it from now on, and says release */
/* once nothing in it is in use. In a segment of RECEIVE, nothing is in use by then. */
struct smbdirect_reclaim {
	/* SMBDIRECT_REGION_*. */
	__u32 region;
	/* For RECEIVE, its queue; otherwise 0. */
	__u32 queue;
	/* As in segment. */
	__u32 number;
	/* 0. */
	__u32 reserved;
};

/* A queue, with its memory file and the doorbell of its reactor. */
struct smbdirect_queue {
	/* Its number: the upper 16 bits of its connections' numbers. */
	__u32 queue;
	/* 0. */
	__u32 reserved;
	/* Bytes of the memory file. */
	__u64 length;
	/* Where in it the completion ring begins: a multiple of 64. The submission ring is at 0. */
	__u64 completion_offset;
};

/* What is known about a connection. */
struct smbdirect_conn_info {
	/* Its number. */
	__u64 conn;
	/* The client's address; IPv4 mapped into IPv6. */
	__u8 peer_address[16];
	/* The server's address, at which the connection came in. */
	__u8 local_address[16];
	/* The client's port. */
	__u16 peer_port;
	/* The server's port. */
	__u16 local_port;
	/* Scope of link-local addresses, or 0. */
	__u32 scope_id;
	/* The ClientGuid of its first request. */
	__u8 client_guid[16];
	/* Longest upper-layer message to send, in bytes. */
	__u32 max_fragmented_send_size;
	/* Longest upper-layer message to receive, in bytes. */
	__u32 max_fragmented_receive_size;
	/* Largest RDMA transfer, in bytes. */
	__u32 max_read_write_size;
	/* RDMA READs that the peer serves at a time, or 0. */
	__u32 initiator_depth;
	/* Longest upper-layer message that the client reassembles, in bytes: the MaxFragmentedSize of its */
	/* own negotiate message ([MS-SMBD] 2.2.1). max_fragmented_send_size is the lesser of this and what */
	/* fits into SEND. */
	__u32 peer_max_fragmented_size;
	/* 0. */
	__u32 reserved[7];
};

/* A connection without an owner: the worker that claims it first, within the time that the device */
/* allows, gets it. */
struct smbdirect_offer {
	/* For attach or claim. */
	__u8 token[16];
	/* The connection. Only its owner can use its number. */
	struct smbdirect_conn_info info;
};

/* Wakes a worker that announced that it sleeps: there is something in a queue. */
struct smbdirect_wake {
	/* 0. */
	__u64 reserved;
};

/* The status of the device, or its events, with a memory file that holds json_length bytes of JSON. */
struct smbdirect_status_report {
	/* Bytes of the memory file. */
	__u64 length;
	/* Bytes of JSON at its start. */
	__u64 json_length;
};

/* Where clients reach the device; count addresses follow. The device sends it to listeners and */
/* workers before attached, and again whenever the list changes. */
struct smbdirect_addresses {
	/* At most MAX_ADDRESSES. */
	__u32 count;
	/* 0. */
	__u32 reserved;
};

/* An address at which clients reach the device. */
struct smbdirect_address {
	/* IPv4 mapped into IPv6. */
	__u8 address[16];
	/* Bits per second of its interface. */
	__u64 link_speed;
	/* The system's index of its interface, or 0. */
	__u32 interface;
	/* Scope of link-local addresses, or 0. */
	__u32 scope_id;
	/* Port. */
	__u16 port;
	/* 0. */
	__u16 reserved[3];
};

/* The last message: the device has ended the attachment. */
struct smbdirect_detached {
	/* Why: a status as a number. */
	__s32 status;
	/* If versions are the reason, the device's newest version, so that both sides can report it; otherwise 0. This */
	/* message has this form in every version. */
	__u32 version;
};

/* An entry of a submission ring, except for TRANSFER. */
struct smbdirect_submission {
	/* SMBDIRECT_OP_*. */
	__u32 op;
	/* SMBDIRECT_FLAGS_*. */
	__u32 flags;
	/* The connection. */
	__u64 conn;
	/* Chosen by the worker, and repeated in the completion. */
	__u64 cookie;
	/* A place; RECYCLE: a buffer number. */
	__u64 place;
	/* Bytes. */
	__u32 length;
	/* The token to invalidate at the peer, if flags says so. */
	__u32 token;
	/* Where in SEND the buffer descriptors are, 16 bytes each as on the wire. */
	__u64 descriptors;
	/* Number of descriptors: 1 to 4095. */
	__u32 descriptor_count;
	/* 0. */
	__u32 reserved[3];
};

/* An entry of a submission ring: TRANSFER. */
struct smbdirect_transfer_submission {
	/* SMBDIRECT_OP_TRANSFER. */
	__u32 op;
	/* 0. */
	__u32 flags;
	/* The connection. */
	__u64 conn;
	/* Chosen by the worker, and repeated in the completion. */
	__u64 cookie;
	/* Where in SEND the new owner's first message is. */
	__u64 place;
	/* Length of that message, or 0 if there is none. */
	__u32 length;
	/* 0. */
	__u32 reserved;
	/* The client GUID that the new owner has registered, or 0. */
	__u8 client_guid[16];
	/* 0. */
	__u64 reserved2;
};

/* An entry of a completion ring. */
struct smbdirect_completion {
	/* SMBDIRECT_EVENT_*. */
	__u32 event;
	/* A status as a number. */
	__s32 status;
	/* The connection. */
	__u64 conn;
	/* As submitted, or 0. */
	__u64 cookie;
	/* The number of a buffer in RECEIVE, or 0. */
	__u64 buffer;
	/* Bytes. */
	__u32 length;
	/* 0. */
	__u32 reserved;
	/* TRANSFERRED: the token, or 0. */
	__u8 token[16];
	/* 0. */
	__u64 reserved2;
};
/* A process presents itself. If status says that it could not attach, it may try again. */
struct smbdirect_attach_call {
	/* The request. A listener and a worker need a file that is open for writing. */
	struct smbdirect_attach attach;
	/* Written if status is OK. */
	struct smbdirect_attached attached;
	/* Written: a status as a number. */
	__s32 status;
	/* Written: the device's newest version if versions are why it refuses, otherwise 0. */
	__u32 version;
};

/* A listener sets parameters. */
struct smbdirect_set_parameters_call {
	/* The request. */
	struct smbdirect_set_parameters parameters;
	/* The address of the security blob, of as many bytes as parameters says. */
	__u64 security_blob;
	/* Written: a status as a number. */
	__s32 status;
	/* 0. */
	__u32 reserved;
};

/* A listener sets the addresses that clients may use. */
struct smbdirect_set_addresses_call {
	/* The request. */
	struct smbdirect_set_addresses set;
	/* The address of as many allowed_addresses as set says. */
	__u64 addresses;
	/* Written: a status as a number. */
	__s32 status;
	/* 0. */
	__u32 reserved;
};

/* A worker registers a client and a session, or removes the registration. */
struct smbdirect_set_session_id_call {
	/* The request. */
	struct smbdirect_set_session_id session;
	/* Written: a status as a number. */
	__s32 status;
	/* 0. */
	__u32 reserved;
};

/* A worker wants the connection of a token. */
struct smbdirect_claim_call {
	/* Not 0: repeated in the answer if that comes later. */
	__u64 cookie;
	/* The request. */
	struct smbdirect_claim claim;
	/* Written: a status as a number, or SMBDIRECT_ANSWER_LATER. */
	__s32 status;
	/* 0. */
	__u32 reserved;
};

/* A listener declines the connection of a token. */
struct smbdirect_decline_call {
	/* The request. */
	struct smbdirect_decline decline;
	/* Written: a status as a number. */
	__s32 status;
	/* 0. */
	__u32 reserved;
};

/* A worker needs one more segment. */
struct smbdirect_grow_call {
	/* Not 0: repeated in the answer if that comes later. */
	__u64 cookie;
	/* The request. */
	struct smbdirect_grow grow;
	/* Written if status is OK. */
	struct smbdirect_segment segment;
	/* Written: a status as a number, or SMBDIRECT_ANSWER_LATER. */
	__s32 status;
	/* 0. */
	__u32 reserved;
};

/* Reads events: whole control messages (control), one behind the other, each a multiple of */
/* 8 bytes long, as many as there are and fit. */
struct smbdirect_get_events_call {
	/* The address of a buffer. */
	__u64 buffer;
	/* Its bytes: at least MAX_CONTROL_LENGTH, so that any message fits. */
	__u32 length;
	/* 0. */
	__u32 reserved;
	/* Written: bytes of the messages. */
	__u32 filled;
	/* Written: how many messages there are, and 0 if there are none now. */
	__u32 count;
};

/* A worker submits entries that are not in a ring. The device takes those of the ring first. */
struct smbdirect_submit_call {
	/* The address of as many submissions or */
	/* transfer_submissions as count says. */
	__u64 submissions;
	/* 1 to MAX_SUBMISSIONS. */
	__u32 count;
	/* The queue. */
	__u32 queue;
	/* Written: how many the device has taken: fewer, while there is no room for completions. */
	__u32 taken;
	/* 0. */
	__u32 reserved;
};

/* A worker rings the bell of a queue, and any process asks what there is. */
struct smbdirect_enter_call {
	/* The queue, or ALL_QUEUES. */
	__u32 queue;
	/* SMBDIRECT_ENTER_*. */
	__u32 flags;
	/* How long to sleep until ready is not 0, in nanoseconds; 0: not at all; FOREVER. Needs SMBDIRECT_ENTER_LOOK. */
	__u64 wait_ns;
	/* Written: SMBDIRECT_READY_* with SMBDIRECT_ENTER_LOOK, otherwise 0. */
	__u32 ready;
	/* 0. */
	__u32 reserved;
};

/* An observer asks for the status: records (status), one behind the other. */
struct smbdirect_status_call {
	/* The address of a buffer. */
	__u64 buffer;
	/* Its bytes. */
	__u32 length;
	/* 0. */
	__u32 reserved;
	/* Written: bytes of the records; 0 if they do not all fit. */
	__u32 filled;
	/* Written: how many bytes all records have, which may be more the next time. */
	__u32 needed;
};

/* Where the device is, unless udev's rules say otherwise. */
#define SMBDIRECT_PATH "/dev/smbdirect"

/* The type of all numbers, which no call in Linux's ioctl-number.rst has. */
#define SMBDIRECT_MAGIC 0xd5

/* attach_call: of the same form in every version. */
#define SMBDIRECT_ATTACH _IOWR(SMBDIRECT_MAGIC, 1, struct smbdirect_attach_call)
/* No argument. Ends the attachment, even if a child of the process has a copy of the file. */
#define SMBDIRECT_DETACH _IO(SMBDIRECT_MAGIC, 2)
/* set_parameters_call: SET_SMBD_PARAMETERS. */
#define SMBDIRECT_SET_PARAMETERS _IOWR(SMBDIRECT_MAGIC, 3, struct smbdirect_set_parameters_call)
/* set_addresses_call. */
#define SMBDIRECT_SET_ADDRESSES _IOWR(SMBDIRECT_MAGIC, 4, struct smbdirect_set_addresses_call)
/* set_session_id_call: SET_SMBD_SESSION_ID. */
#define SMBDIRECT_SET_SESSION_ID _IOWR(SMBDIRECT_MAGIC, 5, struct smbdirect_set_session_id_call)
/* claim_call. */
#define SMBDIRECT_CLAIM _IOWR(SMBDIRECT_MAGIC, 6, struct smbdirect_claim_call)
/* decline_call. */
#define SMBDIRECT_DECLINE _IOWR(SMBDIRECT_MAGIC, 7, struct smbdirect_decline_call)
/* mem_params, as attached had it: GET_MEM_PARAMS. */
#define SMBDIRECT_GET_MEM_PARAMS _IOR(SMBDIRECT_MAGIC, 8, struct smbdirect_mem_params)
/* grow_call. */
#define SMBDIRECT_GROW _IOWR(SMBDIRECT_MAGIC, 9, struct smbdirect_grow_call)
/* release. */
#define SMBDIRECT_RELEASE _IOW(SMBDIRECT_MAGIC, 10, struct smbdirect_release)
/* get_events_call: GET_SMBD_EVENT, except completions. */
#define SMBDIRECT_GET_EVENTS _IOWR(SMBDIRECT_MAGIC, 11, struct smbdirect_get_events_call)
/* submit_call: SEND_PDU, RDMA_READ_WRITE and the others, without a ring. */
#define SMBDIRECT_SUBMIT _IOWR(SMBDIRECT_MAGIC, 12, struct smbdirect_submit_call)
/* enter_call: the same with a ring. */
#define SMBDIRECT_ENTER _IOWR(SMBDIRECT_MAGIC, 13, struct smbdirect_enter_call)
/* status_call. */
#define SMBDIRECT_STATUS _IOWR(SMBDIRECT_MAGIC, 14, struct smbdirect_status_call)

/* What is in status of an argument, besides the numbers of status. */
/* The answer comes among the events, with the request's cookie: REPLY, or SEGMENT to GROW. */
#define SMBDIRECT_ANSWER_LATER (-1)

/* enter_call.flags. */
/* Also take what the network has completed, and say in ready what there is. */
#define SMBDIRECT_ENTER_LOOK 1

/* enter_call.ready. */
/* There are events to read. */
#define SMBDIRECT_READY_EVENTS 1
/* There are completions in a ring. */
#define SMBDIRECT_READY_COMPLETIONS 2

/* enter_call.queue: all queues of the process, of which there may be none. */
#define SMBDIRECT_ALL_QUEUES 0xffffffffU

/* enter_call.wait_ns: without a limit. */
#define SMBDIRECT_FOREVER 0xffffffffffffffffULL

/* The most entries of a submit_call. */
#define SMBDIRECT_MAX_SUBMISSIONS 256

/*
 * What of a process's memory can be mapped, besides SMBDIRECT_REGION_*: a queue, with its number.
 */
#define SMBDIRECT_MAP_QUEUE 4
/* What each record begins with. */
struct smbdirect_status_head {
	/* SMBDIRECT_RECORD_*. */
	__u32 kind;
	/* Bytes of the record, with this head. */
	__u32 length;
};

/* The device, its limits, and what there is now. */
struct smbdirect_status_device {
	/* The version of the module. */
	char version[16];
	/* The version of the interface: VERSION. */
	__u32 interface;
	/* SMBDIRECT_DEVICE_FLAGS_*. */
	__u32 flags;
	/* How long the module has been loaded. */
	__u64 uptime_ns;
	/* The most connections. */
	__u32 max_connections;
	/* The most connections that are offered to the listener at a time. */
	__u32 max_undispatched;
	/* The most connections without a session. */
	__u32 max_unauthenticated;
	/* The most workers. */
	__u32 max_workers;
	/* The most sessions and clients of one worker. */
	__u32 max_sessions_of_worker;
	/* Entries of a ring. */
	__u32 queue_depth;
	/* The most bytes of memory of one worker. */
	__u64 max_memory_of_worker;
	/* The most bytes of memory of all workers. */
	__u64 max_memory;
	/* Connections that have negotiated. */
	__u32 connections;
	/* Those of them without an owner. */
	__u32 undispatched;
	/* Those of them without a session. */
	__u32 unauthenticated;
	/* Tokens that may be claimed. */
	__u32 offered;
	/* Client GUIDs that are registered. */
	__u32 clients;
	/* Sessions that are registered. */
	__u32 sessions;
	/* Queues of all workers. */
	__u32 queues;
	/* Segments that are registered with connections, each counted once per connection. */
	__u32 registrations;
	/* Bytes of memory of all workers. */
	__u64 memory;
};

/* An address and a port. */
struct smbdirect_status_socket_address {
	/* IPv4 mapped into IPv6. */
	__u8 address[16];
	/* Scope of link-local addresses, or 0. */
	__u32 scope_id;
	/* Port. */
	__u16 port;
	/* 0. */
	__u16 reserved;
};

/* What a fabric has carried since the module was loaded. None of the numbers ever falls. */
struct smbdirect_status_carried {
	/* The fabric: verbs. */
	char fabric[16];
	/* Connections that negotiated. */
	__u64 connections;
	/* Messages received. */
	__u64 messages_in;
	/* Messages sent. */
	__u64 messages_out;
	/* Bytes of messages received. */
	__u64 inline_bytes_in;
	/* Bytes of messages sent. */
	__u64 inline_bytes_out;
	/* RDMA READs that brought all of their data. */
	__u64 rdma_reads;
	/* Bytes that RDMA READ brought. */
	__u64 rdma_read_bytes;
	/* RDMA WRITEs that carried all of their data. */
	__u64 rdma_writes;
	/* Bytes that RDMA WRITE carried. */
	__u64 rdma_write_bytes;
	/* Clients' tokens that messages invalidated. */
	__u64 invalidations_out;
	/* How often a received fragment had to wait for its owner's memory. */
	__u64 buffer_waits;
};

/* A connection that has negotiated. */
struct smbdirect_status_connection {
	/* The number that its owner knows it by. */
	__u64 id;
	/* The client's address. */
	struct smbdirect_status_socket_address peer;
	/* The address at which it came in. */
	struct smbdirect_status_socket_address local;
	/* The fabric that carries it. */
	char fabric[16];
	/* fresh, offered, owned or ending. */
	char state[16];
	/* SMBDIRECT_CONNECTION_FLAGS_*. */
	__u32 flags;
	/* The worker that owns it. */
	__u32 worker;
	/* That worker's process. */
	__s32 pid;
	/* Messages that may be sent to the client now. */
	__u16 send_credits;
	/* Messages that the client may send now. */
	__u16 receive_credits;
	/* Receives that are posted. */
	__u32 receives_posted;
	/* Operations queued and not posted. */
	__u32 queued;
	/* Submissions that have not been answered. */
	__u32 outstanding;
	/* Received fragments that wait for the owner's memory. */
	__u32 starved;
	/* Time since it was accepted. */
	__u64 age_ns;
	/* Bytes of messages received. */
	__u64 inline_bytes_in;
	/* Bytes of messages sent. */
	__u64 inline_bytes_out;
	/* Bytes that RDMA READ brought. */
	__u64 rdma_read_bytes;
	/* Bytes that RDMA WRITE carried. */
	__u64 rdma_write_bytes;
	/* Messages received. */
	__u64 messages_in;
	/* Messages sent. */
	__u64 messages_out;
	/* The client's tokens that messages invalidated. */
	__u64 invalidations_out;
};

/* An attached process. */
struct smbdirect_status_process {
	/* The device's number for it. */
	__u32 id;
	/* The system's number for it, as the process that asks sees it, or 0. */
	__s32 pid;
	/* SMBDIRECT_ROLE_*. */
	__u32 role;
	/* SMBDIRECT_PROCESS_FLAGS_*. */
	__u32 flags;
	/* Connections that it owns. */
	__u32 connections;
	/* Sessions and clients that it has registered. */
	__u32 sessions;
	/* Segments of SEND. */
	__u32 send_segments;
	/* Segments of BULK. */
	__u32 bulk_segments;
	/* Bytes of all its memory. */
	__u64 memory;
};

/* A queue of a worker. */
struct smbdirect_status_queue {
	/* The device's number for the worker. */
	__u32 worker;
	/* The queue's number. */
	__u32 queue;
	/* Connections. */
	__u32 connections;
	/* Completions that found no room in the ring. */
	__u32 overflow;
	/* Completions in the ring. */
	__u32 completions;
	/* Submissions that have not been answered. */
	__u32 outstanding;
	/* Segments of RECEIVE. */
	__u32 receive_segments;
	/* Units of RECEIVE in use. */
	__u32 receive_units_used;
};

/* The end of a connection. */
struct smbdirect_status_close {
	/* The client's address. */
	struct smbdirect_status_socket_address peer;
	/* The address at which it came in. */
	struct smbdirect_status_socket_address local;
	/* The fabric that carried it. */
	char fabric[16];
	/* The reason's name. */
	char reason[48];
	/* SMBDIRECT_CLOSE_FLAGS_*. */
	__u32 flags;
	/* The worker that owned it. */
	__u32 worker;
	/* When it ended, counted from when the module was loaded. */
	__u64 at_ns;
	/* How old it was. */
	__u64 age_ns;
	/* Bytes that came from the client, in messages and by RDMA READ. */
	__u64 bytes_received;
	/* Bytes that went to the client, in messages and by RDMA WRITE. */
	__u64 bytes_sent;
};

/* How often something happened. */
struct smbdirect_status_counter {
	/* What. */
	char name[48];
	/* How often. */
	__u64 count;
};

/* head.kind. */
/* device. */
#define SMBDIRECT_RECORD_DEVICE 1
/* socket_address: where the device accepts connections. */
#define SMBDIRECT_RECORD_LISTEN 2
/* address: where clients reach it, as in addresses. */
#define SMBDIRECT_RECORD_ADDRESS 3
/* allowed_address, as the listener set them. */
#define SMBDIRECT_RECORD_ALLOWED 4
/* carried. */
#define SMBDIRECT_RECORD_CARRIED 5
/* connection. */
#define SMBDIRECT_RECORD_CONNECTION 6
/* process. */
#define SMBDIRECT_RECORD_PROCESS 7
/* queue. */
#define SMBDIRECT_RECORD_QUEUE 8
/* close, the oldest first. */
#define SMBDIRECT_RECORD_CLOSE 9
/* counter. */
#define SMBDIRECT_RECORD_COUNTER 10

/* device.flags. */
/* The device takes no more connections and processes. */
#define SMBDIRECT_DEVICE_FLAGS_STOPPING 1
/* The listener has set the addresses that clients may use: those of the records ALLOWED. */
#define SMBDIRECT_DEVICE_FLAGS_RESTRICTED 2

/* connection.flags. */
/* A worker owns the connection: id, worker and pid count. */
#define SMBDIRECT_CONNECTION_FLAGS_OWNED 1
/* It has a session. */
#define SMBDIRECT_CONNECTION_FLAGS_AUTHENTICATED 2
/* local is known. */
#define SMBDIRECT_CONNECTION_FLAGS_LOCAL 4

/* process.flags. */
/* It attached with the token of a connection. */
#define SMBDIRECT_PROCESS_FLAGS_INVITED 1

/* close.flags. */
/* A worker owned the connection. */
#define SMBDIRECT_CLOSE_FLAGS_OWNED 1
/* local is known. */
#define SMBDIRECT_CLOSE_FLAGS_LOCAL 4

/* Where mmap finds a segment of SMBDIRECT_REGION_*, or a queue (SMBDIRECT_MAP_QUEUE). */
#define SMBDIRECT_MAP_OFFSET(region, number) ((__u64)(region) << 40 | (__u64)(number) << 32)

#endif
