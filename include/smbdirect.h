/*
 * SMB Direct ([MS-SMBD], SMB 3 over RDMA): the smbdirect device, as smbd uses it.
 *
 * Generated from src/ffi by instruments/tests/header: edit it there. docs/device.md says how the
 * calls go together.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Calls return SMBDIRECT_OK or one of SMBDIRECT_E_*, and write their outputs on success only.
 * Structures begin with type_size, which the caller sets to their sizeof, and end with reserved
 * fields, which are 0. Only one thread at a time may use a device, in the process that made it.
 */

#ifndef SMBDIRECT_H
#define SMBDIRECT_H

#include <stdint.h>
#include <sys/uio.h>

/**
 * The major part of the library's version.
 */
#define SMBDIRECT_VERSION_MAJOR 0

/**
 * The minor part of the library's version.
 */
#define SMBDIRECT_VERSION_MINOR 1

/**
 * The patch level of the library's version.
 */
#define SMBDIRECT_VERSION_PATCH 0

/**
 * The number in the name of the shared library, libsmbdirect.so.0. It changes whenever a program that was compiled
 * with an earlier header would not work with this library.
 */
#define SMBDIRECT_ABI_VERSION 0

/**
 * Success.
 */
#define SMBDIRECT_OK 0

/**
 * An argument is invalid: a null pointer, or a length or number out of range.
 */
#define SMBDIRECT_E_INVALID 1

/**
 * A bug in the library. The handle can only be freed.
 */
#define SMBDIRECT_E_PANIC 2

/**
 * Another process made the handle. This process must make its own attachment.
 */
#define SMBDIRECT_E_FORKED 3

/**
 * Nothing listens at the device's path.
 */
#define SMBDIRECT_E_NO_DEVICE 4

/**
 * This process may not use the device.
 */
#define SMBDIRECT_E_DENIED 5

/**
 * The library and the device have no version of their interface in common.
 */
#define SMBDIRECT_E_VERSION 6

/**
 * The device has gone, or has ended this process's attachment. Attach again.
 */
#define SMBDIRECT_E_DETACHED 7

/**
 * The process is not attached yet, or not attached in the role for this call.
 */
#define SMBDIRECT_E_NOT_ATTACHED 8

/**
 * There is no room now. Try again after SMBDIRECT_EVENT_ROOM, which follows.
 */
#define SMBDIRECT_E_AGAIN 9

/**
 * The device has no memory for this, and nothing that this process has under way would free any.
 * Give up: SMBDIRECT_EVENT_ROOM does not follow.
 */
#define SMBDIRECT_E_NO_MEMORY 10

/**
 * A length exceeds that of the longest buffer, message or RDMA transfer.
 */
#define SMBDIRECT_E_TOO_LONG 11

/**
 * The connection does not exist, or it no longer belongs to this process.
 */
#define SMBDIRECT_E_NO_CONNECTION 12

/**
 * The buffer or PDU does not exist, or it was freed.
 */
#define SMBDIRECT_E_NO_BUFFER 13

/**
 * The range is not within the buffer.
 */
#define SMBDIRECT_E_OUT_OF_BOUNDS 14

/**
 * The buffer descriptors are invalid: none, too many, a partial one, or one with an invalid range.
 */
#define SMBDIRECT_E_DESCRIPTORS 15

/**
 * The buffer descriptors describe fewer bytes than the transfer has.
 */
#define SMBDIRECT_E_DESCRIPTORS_TOO_SHORT 16

/**
 * The bytes are not an SMB2 request of the kind that the call expects, or its fields contradict each other.
 */
#define SMBDIRECT_E_REQUEST 17

/**
 * The peer does not serve RDMA READs.
 */
#define SMBDIRECT_E_NO_READS 18

/**
 * The token is unknown, used or expired.
 */
#define SMBDIRECT_E_NO_TOKEN 19

/**
 * No process has registered that client GUID.
 */
#define SMBDIRECT_E_NO_OWNER 20

/**
 * Another process has registered the client GUID or session, or is the listener.
 */
#define SMBDIRECT_E_TAKEN 21

/**
 * The device has reached its limit of workers, sessions or connections.
 */
#define SMBDIRECT_E_LIMIT 22

/**
 * An operation is still under way.
 */
#define SMBDIRECT_E_BUSY 23

/**
 * The work was abandoned because the connection, or the attachment, ended.
 */
#define SMBDIRECT_E_FLUSHED 24

/**
 * The peer refused access to its memory.
 */
#define SMBDIRECT_E_REMOTE_ACCESS 25

/**
 * The network or fabric failed, or the device gave a code that this version of the library does not know.
 */
#define SMBDIRECT_E_FABRIC 26

/**
 * The peer closed the connection gracefully.
 */
#define SMBDIRECT_E_CLOSED_BY_PEER 27

/**
 * This process closed the connection.
 */
#define SMBDIRECT_E_CLOSED_LOCALLY 28

/**
 * The peer or the network aborted the connection.
 */
#define SMBDIRECT_E_RESET 29

/**
 * The peer broke a rule of SMB Direct or of its fabric.
 */
#define SMBDIRECT_E_PROTOCOL 30

/**
 * The peer did not answer, or did not take what was sent, in time.
 */
#define SMBDIRECT_E_TIMED_OUT 31

/**
 * The device is being stopped.
 */
#define SMBDIRECT_E_STOPPING 32

/**
 * The library or the device broke the rules of the interface between them.
 */
#define SMBDIRECT_E_CORRUPT 33

/**
 * The system refused memory or a file descriptor.
 */
#define SMBDIRECT_E_SYSTEM 34

/**
 * The connection's server address is not allowed, or the machine no longer has it.
 */
#define SMBDIRECT_E_ADDRESS 35

/**
 * The process that listens at the device's path runs as a user that is not trusted to run the device. Nothing was sent
 * to it.
 */
#define SMBDIRECT_E_UNTRUSTED 36

/**
 * Role: the parent smbd, which is offered connections without an owner. There can be only one at a time.
 */
#define SMBDIRECT_ROLE_LISTENER 1

/**
 * Role: a child smbd, which owns connections.
 */
#define SMBDIRECT_ROLE_WORKER 2

/**
 * The device has accepted the attachment: other calls work from now on.
 */
#define SMBDIRECT_EVENT_ATTACHED 1

/**
 * The attachment has ended; `status` says why. Everything under way has already been reported. Free the device and, to
 * use it again, attach after a while.
 */
#define SMBDIRECT_EVENT_DETACHED 2

/**
 * For a listener: a connection waits for an owner. A child that attaches with `token` gets the connection.
 */
#define SMBDIRECT_EVENT_OFFER 3

/**
 * A connection belongs to this worker now; `info` describes it.
 */
#define SMBDIRECT_EVENT_CONNECTION 4

/**
 * A message of `length` bytes arrived on `conn`: fetch it with smbdirect_device_take_pdu.
 */
#define SMBDIRECT_EVENT_PDU 5

/**
 * The message with this `cookie` was sent, or will never be sent. SMBDIRECT_OK means that the peer's network has
 * acknowledged all of it: the peer's TCP with software iWARP, its adapter with InfiniBand or RoCE. An iWARP adapter
 * does not promise this, and after smbdirect_conn_disconnect SMBDIRECT_OK means only that this side's network has
 * taken the message. The event may come about 0.1 s after the acknowledgement. A sleeping worker may learn of the
 * event up to another 0.1 s later, unless another event wakes it or one of its calls has failed for lack of room.
 */
#define SMBDIRECT_EVENT_SENT 6

/**
 * The RDMA operation with this `cookie` ended with `status`: it no longer uses its buffer, which
 * holds the data of a successful READ.
 */
#define SMBDIRECT_EVENT_RDMA_DONE 7

/**
 * The transfer with this `cookie` ended; with SMBDIRECT_OK, the connection no longer belongs to this process.
 */
#define SMBDIRECT_EVENT_TRANSFERRED 8

/**
 * The connection has ended; `status` says why. Everything under way on it has already been reported.
 */
#define SMBDIRECT_EVENT_DISCONNECTED 9

/**
 * The call to set_parameters, set_addresses, set_session_id, claim or decline with this `cookie` ended with `status`.
 */
#define SMBDIRECT_EVENT_REPLY 10

/**
 * Calls that failed with SMBDIRECT_E_AGAIN may be repeated.
 */
#define SMBDIRECT_EVENT_ROOM 11

/**
 * Flag: return only events that do not cost a system call. It is for a caller that polls again soon, and that calls
 * without this flag before it sleeps. After a call with this flag, the event descriptor does not signal new events.
 */
#define SMBDIRECT_EVENTS_PEEK 1

/**
 * Maximum number of addresses that smbdirect_device_get_addresses returns.
 */
#define SMBDIRECT_ADDRESSES_MAX 64

/**
 * Maximum number of addresses that smbdirect_device_set_addresses takes.
 */
#define SMBDIRECT_ALLOWED_ADDRESSES_MAX 128

/**
 * Flag for smbdirect_device_set_addresses without a list: allow all addresses of the server.
 */
#define SMBDIRECT_ADDRESSES_ALL 1

/**
 * The client has negotiated SMB 2 or 3, over TCP or SMB Direct. `value` is the dialect, with the bit
 * SMBDIRECT_NOTE_MULTICHANNEL if the client supports multichannel.
 */
#define SMBDIRECT_NOTE_NEGOTIATED 1

/**
 * The client has asked for the server's interfaces. `value` is the number of RDMA-capable addresses in the answer.
 */
#define SMBDIRECT_NOTE_ASKED 2

/**
 * The client has asked for the server's interfaces, and the answer announced no RDMA-capable address because its
 * session is signed or encrypted and its connection has no RDMA transform for that. `value` is 0.
 */
#define SMBDIRECT_NOTE_WITHHELD 3

/**
 * The client has a session on its SMB Direct connection from `port`. `value` is one of SMBDIRECT_PROTECTION_*.
 */
#define SMBDIRECT_NOTE_SESSION 4

/**
 * The client could not bind an SMB Direct connection to its session. `value` is the NTSTATUS.
 */
#define SMBDIRECT_NOTE_REFUSED 5

/**
 * File data on the client's SMB Direct connection from `port` is encrypted although the session does not demand that.
 * `value` has bits of SMBDIRECT_ENCRYPTED_*, which are in addition to those of earlier notes about the connection.
 */
#define SMBDIRECT_NOTE_ENCRYPTED 6

/**
 * Bit in `value` of SMBDIRECT_NOTE_NEGOTIATED: the client supports multichannel.
 */
#define SMBDIRECT_NOTE_MULTICHANNEL 65536

/**
 * File data is neither signed nor encrypted, and may go by RDMA.
 */
#define SMBDIRECT_PROTECTION_PLAIN 0

/**
 * File data is signed, and may go by RDMA with a transform.
 */
#define SMBDIRECT_PROTECTION_SIGNED 1

/**
 * File data is encrypted, and may go by RDMA with a transform.
 */
#define SMBDIRECT_PROTECTION_ENCRYPTED 2

/**
 * File data is signed, and goes in messages.
 */
#define SMBDIRECT_PROTECTION_SIGNED_IN_MESSAGES 3

/**
 * File data is encrypted, and goes in messages.
 */
#define SMBDIRECT_PROTECTION_ENCRYPTED_IN_MESSAGES 4

/**
 * Bit in `value` of SMBDIRECT_NOTE_ENCRYPTED: a share demands it.
 */
#define SMBDIRECT_ENCRYPTED_BY_SHARE 1

/**
 * Bit in `value` of SMBDIRECT_NOTE_ENCRYPTED: neither the session nor the share demands it, but the client does it.
 */
#define SMBDIRECT_ENCRYPTED_BY_CLIENT 2

/**
 * Bit in `value` of SMBDIRECT_NOTE_ENCRYPTED: the connection has no RDMA transform for encrypted data, which therefore
 * goes in messages.
 */
#define SMBDIRECT_ENCRYPTED_IN_MESSAGES 4

/**
 * Flag: the message invalidates `token` at the peer (SEND with Invalidate).
 */
#define SMBDIRECT_PDU_INVALIDATE 1

/**
 * Direction: RDMA READ, from the client's memory into the buffer, as for an SMB2 WRITE.
 */
#define SMBDIRECT_RDMA_READ 1

/**
 * Direction: RDMA WRITE, from the buffer into the client's memory, as for an SMB2 READ.
 */
#define SMBDIRECT_RDMA_WRITE 2

/**
 * Flag: do not wake the device for this operation, because a message on the same connection, which wakes it, follows
 * at once. If none follows, call smbdirect_device_flush to wake the device. smbdirect_device_get_events without
 * SMBDIRECT_EVENTS_PEEK also wakes the device, before it returns fewer events than were asked for.
 */
#define SMBDIRECT_RDMA_DEFER 1

/**
 * RDMA transform: the data is encrypted, and its signature is the tag.
 */
#define SMBDIRECT_TRANSFORM_ENCRYPTION 1

/**
 * RDMA transform: the data is signed.
 */
#define SMBDIRECT_TRANSFORM_SIGNING 2

/**
 * An attachment to the smbdirect device. The structure is opaque.
 */
struct smbdirect_device;

/**
 * The arguments of smbdirect_device_new.
 */
struct smbdirect_attach {
  /**
   * sizeof(struct smbdirect_attach).
   */
  uint32_t type_size;
  /**
   * One of SMBDIRECT_ROLE_*.
   */
  uint32_t role;
  /**
   * For a worker, the token of the connection for which it was forked, or 0.
   */
  uint8_t token[16];
  /**
   * Must be 0.
   */
  uint64_t reserved[4];
};

/**
 * A description of a connection.
 */
struct smbdirect_conn_info {
  /**
   * sizeof(struct smbdirect_conn_info).
   */
  uint32_t type_size;
  /**
   * The client's port, in host byte order.
   */
  uint16_t peer_port;
  /**
   * The server's port, in host byte order.
   */
  uint16_t local_port;
  /**
   * The client's address. IPv4 is written as ::ffff:a.b.c.d.
   */
  uint8_t peer_address[16];
  /**
   * The server's address to which the client connected.
   */
  uint8_t local_address[16];
  /**
   * The ClientGuid of the connection's first request.
   */
  uint8_t client_guid[16];
  /**
   * Scope ID of a link-local address, or 0.
   */
  uint32_t scope_id;
  /**
   * Length of the longest SMB2 message to send, in bytes.
   */
  uint32_t max_fragmented_send_size;
  /**
   * Length of the longest SMB2 message to receive, in bytes.
   */
  uint32_t max_fragmented_receive_size;
  /**
   * Largest RDMA transfer, in bytes.
   */
  uint32_t max_read_write_size;
  /**
   * Number of RDMA READs that the peer serves at a time. If it is 0, the peer must send its data in messages.
   */
  uint32_t initiator_depth;
  /**
   * Number of RDMA operations under way.
   */
  uint32_t rdma_operations;
  /**
   * Bytes of messages that were sent: see SMBDIRECT_EVENT_SENT.
   */
  uint64_t sent_bytes;
  /**
   * Bytes of messages that were taken, but have not been sent yet.
   */
  uint64_t unsent_bytes;
  /**
   * Length of the longest SMB2 message that the client reassembles, in bytes: the MaxFragmentedSize of its own
   * negotiate message ([MS-SMBD] 2.2.1). max_fragmented_send_size is the lesser of this and the length that the
   * device's memory allows.
   */
  uint32_t peer_max_fragmented_size;
  /**
   * Must be 0.
   */
  uint32_t reserved32;
  /**
   * Must be 0.
   */
  uint64_t reserved[3];
};

/**
 * Something that happened.
 */
struct smbdirect_event {
  /**
   * sizeof(struct smbdirect_event).
   */
  uint32_t type_size;
  /**
   * One of SMBDIRECT_EVENT_*.
   */
  uint32_t kind;
  /**
   * SMBDIRECT_OK or SMBDIRECT_E_*, for kinds that report how something ended.
   */
  int32_t status;
  /**
   * Length of the message, in bytes.
   */
  uint32_t length;
  /**
   * The connection.
   */
  uint64_t conn;
  /**
   * The cookie that was given to the call whose result this is.
   */
  uint64_t cookie;
  /**
   * For SMBDIRECT_EVENT_PDU, the message's number, for smbdirect_device_take_pdu.
   */
  uint64_t pdu;
  /**
   * For SMBDIRECT_EVENT_OFFER and SMBDIRECT_EVENT_TRANSFERRED, the token: the worker that claims it gets the
   * connection.
   */
  uint8_t token[16];
  /**
   * For SMBDIRECT_EVENT_OFFER and SMBDIRECT_EVENT_CONNECTION, the connection.
   */
  struct smbdirect_conn_info info;
  /**
   * For SMBDIRECT_EVENT_PDU, the number of the buffer that was given to smbdirect_conn_fetch_ahead, if it holds the
   * data of this WRITE, or 0 if nothing was fetched. The buffer belongs to the caller again.
   */
  uint64_t buffer;
  /**
   * The first byte of that buffer.
   */
  void *data;
  /**
   * Number of bytes that were fetched: the RemainingBytes of the WRITE.
   */
  uint64_t data_length;
};

/**
 * The memory that a worker may use.
 */
struct smbdirect_mem_params {
  /**
   * sizeof(struct smbdirect_mem_params).
   */
  uint32_t type_size;
  /**
   * The length of a buffer is rounded up to a multiple of this many bytes.
   */
  uint32_t buffer_unit;
  /**
   * Length of the longest buffer, in bytes.
   */
  uint64_t buffer_max;
  /**
   * Maximum number of bytes that one step of growth adds to the memory for buffers.
   */
  uint64_t segment_length;
  /**
   * Maximum total length of all buffers, in bytes.
   */
  uint64_t buffers_total;
  /**
   * Maximum number of bytes of memory for this worker, including messages.
   */
  uint64_t limit;
  /**
   * Must be 0.
   */
  uint64_t reserved[4];
};

/**
 * A message to send.
 */
struct smbdirect_pdu {
  /**
   * sizeof(struct smbdirect_pdu).
   */
  uint32_t type_size;
  /**
   * One of SMBDIRECT_PDU_*.
   */
  uint32_t flags;
  /**
   * The connection.
   */
  uint64_t conn;
  /**
   * Any number; SMBDIRECT_EVENT_SENT brings it back.
   */
  uint64_t cookie;
  /**
   * The message in pieces, beginning with its SMB2 header. They are copied before the call returns. No piece may be
   * in a struct smbdirect_buffer.
   */
  const struct iovec *pieces;
  /**
   * Number of pieces: 1 to 1024. Some may be empty; an empty one may be null.
   */
  uint32_t piece_count;
  /**
   * The token to invalidate at the peer, if `flags` says so.
   */
  uint32_t token;
  /**
   * Must be 0.
   */
  uint64_t reserved[2];
};

/**
 * An RDMA operation.
 */
struct smbdirect_rdma {
  /**
   * sizeof(struct smbdirect_rdma).
   */
  uint32_t type_size;
  /**
   * SMBDIRECT_RDMA_READ or SMBDIRECT_RDMA_WRITE.
   */
  uint32_t direction;
  /**
   * The connection.
   */
  uint64_t conn;
  /**
   * Any number; SMBDIRECT_EVENT_RDMA_DONE brings it back.
   */
  uint64_t cookie;
  /**
   * The buffer's number.
   */
  uint64_t buffer;
  /**
   * Offset of the data in the buffer, in bytes.
   */
  uint64_t offset;
  /**
   * Number of bytes to transfer, at least 1. For an SMB2 READ, this is the number of bytes that were read from the
   * file.
   */
  uint64_t length;
  /**
   * The buffer descriptors of the client's request, unchanged ([MS-SMBD] 2.2.3.1). They are
   * checked and copied before the call returns.
   */
  const void *descriptors;
  /**
   * Length of the descriptors, in bytes.
   */
  uint64_t descriptors_length;
  /**
   * SMBDIRECT_RDMA_DEFER, or 0.
   */
  uint32_t flags;
  /**
   * Must be 0.
   */
  uint32_t reserved32;
  /**
   * Must be 0.
   */
  uint64_t reserved[1];
};

/**
 * A buffer for RDMA, in memory shared with the device.
 */
struct smbdirect_buffer {
  /**
   * sizeof(struct smbdirect_buffer).
   */
  uint32_t type_size;
  /**
   * Must be 0.
   */
  uint32_t reserved32;
  /**
   * The buffer's number, never 0.
   */
  uint64_t number;
  /**
   * The buffer's first byte, mapped until smbdirect_buffer_free. Data that is written here while an RDMA operation
   * uses the buffer may or may not be sent.
   */
  void *start;
  /**
   * The buffer's length in bytes, at least the length that was asked for.
   */
  uint64_t length;
  /**
   * Must be 0.
   */
  uint64_t reserved[2];
};

/**
 * Parameters that a listener sets for connections accepted from now on ([MS-SMBD] 3.1.1.1). 0 selects the device's own
 * value, which also replaces a larger value.
 */
struct smbdirect_parameters {
  /**
   * sizeof(struct smbdirect_parameters).
   */
  uint32_t type_size;
  /**
   * Maximum number of credits that a peer is granted.
   */
  uint16_t receive_credit_max;
  /**
   * Number of credits to request from peers.
   */
  uint16_t send_credit_target;
  /**
   * Length of the longest SMB Direct message to send, in bytes: at least 128.
   */
  uint32_t max_send_size;
  /**
   * Length of the longest SMB Direct message to receive, in bytes: at least 128.
   */
  uint32_t max_receive_size;
  /**
   * Length of the longest SMB2 message to receive, in bytes: at least 131,072.
   */
  uint32_t max_fragmented_size;
  /**
   * Largest RDMA transfer, in bytes.
   */
  uint32_t max_read_write_size;
  /**
   * Milliseconds without a message from the peer after which the device asks it for one.
   */
  uint32_t keepalive_interval_ms;
  /**
   * Must be 0.
   */
  uint32_t reserved32;
  /**
   * The server's GUID.
   */
  uint8_t server_guid[16];
  /**
   * Must be 0.
   */
  uint64_t reserved[4];
};

/**
 * An address of the server that clients may use.
 */
struct smbdirect_allowed_address {
  /**
   * sizeof(struct smbdirect_allowed_address).
   */
  uint32_t type_size;
  /**
   * The scope ID (interface index) of a link-local IPv6 address, not 0; 0 for all others.
   */
  uint32_t scope_id;
  /**
   * The address of one host, not unspecified or multicast. IPv4 is written as ::ffff:a.b.c.d.
   */
  uint8_t address[16];
  /**
   * Must be 0.
   */
  uint64_t reserved[2];
};

/**
 * What smbd knows about a client, for the device's status.
 */
struct smbdirect_client_note {
  /**
   * sizeof(struct smbdirect_client_note).
   */
  uint32_t type_size;
  /**
   * The note's value: see SMBDIRECT_NOTE_*.
   */
  uint32_t value;
  /**
   * The client's address. IPv4 is written as ::ffff:a.b.c.d.
   */
  uint8_t address[16];
  /**
   * One of SMBDIRECT_NOTE_*.
   */
  uint16_t note;
  /**
   * The client's port, if the note is about one connection; otherwise 0.
   */
  uint16_t port;
  /**
   * The server's port, if the note is about one connection; otherwise 0.
   */
  uint16_t local_port;
  /**
   * Must be 0.
   */
  uint16_t reserved16;
  /**
   * The server's address, if the note is about one connection; otherwise 0. A client may connect to two addresses of
   * the server from the same port. If this is 0, the note is about all of these connections.
   */
  uint8_t local_address[16];
  /**
   * Must be 0.
   */
  uint64_t reserved[2];
};

/**
 * A client and one of its sessions.
 */
struct smbdirect_session {
  /**
   * sizeof(struct smbdirect_session).
   */
  uint32_t type_size;
  /**
   * 0 registers the client or session for this process; 1 removes this registration.
   */
  uint32_t remove;
  /**
   * The session, or 0 for the client alone. Removing 0 removes the client and all its sessions.
   */
  uint64_t session_id;
  /**
   * The ClientGuid of the client's NEGOTIATE requests. Not 0.
   */
  uint8_t client_guid[16];
  /**
   * Must be 0.
   */
  uint64_t reserved[2];
};

/**
 * An address on which clients reach the device.
 */
struct smbdirect_address {
  /**
   * sizeof(struct smbdirect_address).
   */
  uint32_t type_size;
  /**
   * The index of the address's interface, as if_nametoindex(3) returns it, or 0 if it is unknown.
   */
  uint32_t interface_index;
  /**
   * The address. IPv4 is written as ::ffff:a.b.c.d.
   */
  uint8_t address[16];
  /**
   * Scope ID of a link-local address, or 0.
   */
  uint32_t scope_id;
  /**
   * The port, in host byte order.
   */
  uint16_t port;
  /**
   * Must be 0.
   */
  uint16_t reserved16;
  /**
   * Speed of the address's interface in bits per second, never 0.
   */
  uint64_t link_speed;
  /**
   * Must be 0.
   */
  uint64_t reserved[2];
};

/**
 * Where the data of an SMB2 READ or WRITE request is in the client's memory.
 */
struct smbdirect_transfer {
  /**
   * sizeof(struct smbdirect_transfer).
   */
  uint32_t type_size;
  /**
   * 0 if the data is in the messages, and then no other field is set; 1 or 2 if it goes by RDMA ([MS-SMB2] 2.2.19).
   */
  uint32_t channel;
  /**
   * Number of bytes to read or write, at least 1.
   */
  uint32_t length;
  /**
   * Offset of the buffer descriptors, in bytes from the SMB2 header.
   */
  uint32_t descriptors_offset;
  /**
   * Length of the descriptors, in bytes. Together they describe at least `length` bytes.
   */
  uint32_t descriptors_length;
  /**
   * Must be 0.
   */
  uint32_t reserved32;
  /**
   * Must be 0.
   */
  uint64_t reserved[2];
};

/**
 * How the data of an SMB2 WRITE request over channel 3 is protected, and where it is in the client's memory ([MS-SMB2]
 * 2.2.43). Offsets are in bytes from the SMB2 header.
 */
struct smbdirect_transform {
  /**
   * sizeof(struct smbdirect_transform).
   */
  uint32_t type_size;
  /**
   * One of SMBDIRECT_TRANSFORM_*.
   */
  uint32_t transform_type;
  /**
   * Number of bytes to write, at least 1.
   */
  uint32_t length;
  /**
   * Offset of the buffer descriptors.
   */
  uint32_t descriptors_offset;
  /**
   * Length of the descriptors, in bytes. Together they describe at least `length` bytes.
   */
  uint32_t descriptors_length;
  /**
   * Offset of the signature.
   */
  uint32_t signature_offset;
  /**
   * Length of the signature in bytes; the library does not check it against the algorithm.
   */
  uint32_t signature_length;
  /**
   * Offset of the nonce.
   */
  uint32_t nonce_offset;
  /**
   * Length of the nonce in bytes; the library does not check it against the algorithm.
   */
  uint32_t nonce_length;
  /**
   * Must be 0.
   */
  uint32_t reserved32;
  /**
   * Must be 0.
   */
  uint64_t reserved[2];
};

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Returns the SMBDIRECT_ABI_VERSION that the library was built with.
 *
 * - Owns: nothing.
 * - Threads: any.
 * - Blocks: never.
 * - Fork: works in the child.
 * - Errors: none.
 */
uint32_t smbdirect_abi_version(void);

/**
 * Returns the meaning of a status, in English, for a log, or "unknown status" for a number that is not a status.
 *
 * - Owns: the library keeps the string, which stays valid for ever.
 * - Threads: any.
 * - Blocks: never.
 * - Fork: works in the child.
 * - Errors: none.
 */
const char *smbdirect_status_str(int32_t status);

/**
 * Returns the errno value nearest to a status: 0 for SMBDIRECT_OK, and EIO for a number that is not a status.
 *
 * - Owns: nothing.
 * - Threads: any.
 * - Blocks: never.
 * - Fork: works in the child.
 * - Errors: none.
 */
int32_t smbdirect_status_errno(int32_t status);

/**
 * Attaches this process to the smbdirect device at `path_or_null` (null: the default path).
 *
 * Other calls work only after SMBDIRECT_EVENT_ATTACHED. If the device refuses, SMBDIRECT_EVENT_DETACHED comes instead
 * and says why: SMBDIRECT_E_DENIED, SMBDIRECT_E_VERSION, SMBDIRECT_E_TAKEN (another process is the listener),
 * SMBDIRECT_E_LIMIT, SMBDIRECT_E_STOPPING and others. A worker with a token in `args` gets SMBDIRECT_EVENT_CONNECTION
 * for it as well, or SMBDIRECT_EVENT_DETACHED with SMBDIRECT_E_NO_TOKEN.
 *
 * - Owns: the caller owns `*device_out`, and frees it with smbdirect_device_free.
 * - Threads: any may call this; one thread at a time may use the device.
 * - Blocks: never.
 * - Fork: the handle belongs to this process; a child makes its own attachment.
 * - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NO_DEVICE, SMBDIRECT_E_DENIED, SMBDIRECT_E_UNTRUSTED (the
 *   process that listens there runs neither as root nor as this user, nor as the owner of a directory
 *   that only root or this user can have made), SMBDIRECT_E_SYSTEM, SMBDIRECT_E_AGAIN (too many
 *   processes are attaching at this moment).
 *
 * # Safety
 *
 * `path_or_null` is null or a string; `args` points to a structure whose `type_size` is set,
 * `device_out` to a pointer.
 */
int32_t smbdirect_device_new(const char *path_or_null,
                             const struct smbdirect_attach *args,
                             struct smbdirect_device **device_out);

/**
 * Writes the versions of the interface that this library and the device speak, after
 * SMBDIRECT_EVENT_DETACHED with SMBDIRECT_E_VERSION, so that a log can say which of the two to replace
 * or restart. `*device_version_out` is 0 if the device speaks the library's version or has not said its own.
 *
 * - Owns: nothing.
 * - Threads: one at a time.
 * - Blocks: never.
 * - Fork: SMBDIRECT_E_FORKED.
 * - Errors: SMBDIRECT_E_INVALID.
 *
 * # Safety
 *
 * `device` is a live handle; each of the others points to a `uint32_t`.
 */
int32_t smbdirect_device_versions(struct smbdirect_device *device,
                                  uint32_t *own_version_out,
                                  uint32_t *device_version_out);

/**
 * Frees an attachment: the device aborts the connections that this process still has, together with all work
 * under way on them, and takes all its memory back. A null pointer is ignored.
 *
 * - Owns: the handle no longer exists and its buffers are unmapped: nothing may read or write them, not
 *   even a thread in a system call.
 * - Threads: no other thread may use the handle.
 * - Blocks: never.
 * - Fork: this is the one call that a child may make on its parent's handle: it frees the child's copy,
 *   and the parent's attachment continues. A child should call it soon, because the parent's memory
 *   lives as long as that copy.
 * - Errors: none.
 *
 * # Safety
 *
 * `device` is null, or came from smbdirect_device_new and was not freed before.
 */
void smbdirect_device_free(struct smbdirect_device *device);

/**
 * Writes a file descriptor for tevent, poll, or epoll without EPOLLET. After smbdirect_device_get_events has run out
 * of events, the descriptor is readable for as long as there may be more. The caller must neither read nor close it.
 *
 * - Owns: the device owns the descriptor.
 * - Threads: one at a time.
 * - Blocks: never.
 * - Fork: SMBDIRECT_E_FORKED.
 * - Errors: SMBDIRECT_E_INVALID.
 *
 * # Safety
 *
 * `device` is a live handle, `fd_out` points to an int.
 */
int32_t smbdirect_device_event_fd(struct smbdirect_device *device,
                                  int32_t *fd_out);

/**
 * GET_SMBD_EVENT: writes up to `count` events, in order, and their number to `*count_out`. If this number is less than
 * `count`, there are no more events now, and the event descriptor becomes readable when there are.
 *
 * Whenever the event descriptor is readable, call this until it returns fewer events than it was asked for. Waking
 * up takes tens of microseconds: a caller that expects an event soon may poll for a while with
 * SMBDIRECT_EVENTS_PEEK in `flags`, which is 0 otherwise.
 *
 * - Owns: the array is the caller's; the `type_size` of its first element must be set.
 * - Threads: one at a time.
 * - Blocks: never.
 * - Fork: SMBDIRECT_E_FORKED.
 * - Errors: SMBDIRECT_E_INVALID; SMBDIRECT_E_DETACHED: SMBDIRECT_EVENT_DETACHED has already been
 *   returned.
 *
 * # Safety
 *
 * `device` is a live handle; `events` points to `count` structures, `count_out` to a number.
 */
int32_t smbdirect_device_get_events(struct smbdirect_device *device,
                                    uint32_t flags,
                                    struct smbdirect_event *events,
                                    uint32_t count,
                                    uint32_t *count_out);

/**
 * GET_MEM_PARAMS: writes how much memory a worker may use.
 *
 * - Owns: `params_out` is the caller's.
 * - Threads: one at a time.
 * - Blocks: never.
 * - Fork: SMBDIRECT_E_FORKED.
 * - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_DETACHED.
 *
 * # Safety
 *
 * `device` is a live handle; `params_out` points to a structure whose `type_size` is set.
 */
int32_t smbdirect_device_get_mem_params(struct smbdirect_device *device,
                                        struct smbdirect_mem_params *params_out);

/**
 * SEND_PDU: takes as many of the messages as there is room for, in order, and writes their number to `*taken_out`.
 * SMBDIRECT_EVENT_SENT follows for each. If fewer than `count` were taken, a call that begins with the next message
 * returns the reason.
 *
 * - Owns: everything is copied before the call returns.
 * - Threads: one at a time.
 * - Blocks: never.
 * - Fork: SMBDIRECT_E_FORKED.
 * - Errors: those of the first message: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED,
 *   SMBDIRECT_E_NO_CONNECTION, SMBDIRECT_E_BUSY (the connection is being transferred),
 *   SMBDIRECT_E_TOO_LONG, SMBDIRECT_E_AGAIN, SMBDIRECT_E_NO_MEMORY, SMBDIRECT_E_DETACHED.
 *
 * # Safety
 *
 * `device` is a live handle; `pdus` points to `count` structures, their pieces to readable memory,
 * `taken_out` to a number.
 */
int32_t smbdirect_device_send_pdus(struct smbdirect_device *device,
                                   const struct smbdirect_pdu *pdus,
                                   uint32_t count,
                                   uint32_t *taken_out);

/**
 * RDMA_READ_WRITE: takes as many of the operations as there is room for, in order, and writes their
 * number to `*taken_out`. SMBDIRECT_EVENT_RDMA_DONE follows for each; until then its buffer is in use.
 * An RDMA WRITE goes out before messages that are taken after it, so the response to a READ may be
 * sent at once.
 *
 * - Owns: descriptors are copied before the call returns.
 * - Threads: one at a time.
 * - Blocks: never.
 * - Fork: SMBDIRECT_E_FORKED.
 * - Errors: those of the first operation: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED,
 *   SMBDIRECT_E_NO_CONNECTION, SMBDIRECT_E_BUSY (the connection is being transferred),
 *   SMBDIRECT_E_NO_BUFFER, SMBDIRECT_E_OUT_OF_BOUNDS, SMBDIRECT_E_DESCRIPTORS,
 *   SMBDIRECT_E_DESCRIPTORS_TOO_SHORT, SMBDIRECT_E_TOO_LONG, SMBDIRECT_E_NO_READS,
 *   SMBDIRECT_E_AGAIN, SMBDIRECT_E_NO_MEMORY, SMBDIRECT_E_DETACHED.
 *
 * # Safety
 *
 * `device` is a live handle; `operations` points to `count` structures, their descriptors to
 * readable memory, `taken_out` to a number.
 */
int32_t smbdirect_device_rdma_read_write(struct smbdirect_device *device,
                                         const struct smbdirect_rdma *operations,
                                         uint32_t count,
                                         uint32_t *taken_out);

/**
 * Wakes the device for operations with SMBDIRECT_RDMA_DEFER for which it has not been woken. If there are none, this
 * does not make a system call, so a caller can use it whenever it is about to sleep.
 *
 * - Owns: nothing.
 * - Threads: one at a time.
 * - Blocks: never.
 * - Fork: SMBDIRECT_E_FORKED.
 * - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_DETACHED.
 *
 * # Safety
 *
 * `device` is a live handle.
 */
int32_t smbdirect_device_flush(struct smbdirect_device *device);

/**
 * Copies the message of an SMBDIRECT_EVENT_PDU to `target` and gives its memory back to the device. `length`, the size
 * of `target`, must be at least the event's `length`; 0 only gives the memory back. If messages are not taken, their
 * client runs out of credits; no other client is affected.
 *
 * - Owns: `target` is the caller's; `pdu` is not valid afterwards.
 * - Threads: one at a time.
 * - Blocks: never.
 * - Fork: SMBDIRECT_E_FORKED.
 * - Errors: SMBDIRECT_E_INVALID (`length` is less than the message's; the message stays),
 *   SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_NO_BUFFER, SMBDIRECT_E_DETACHED.
 *
 * # Safety
 *
 * `device` is a live handle; `target` points to `length` writable bytes.
 */
int32_t smbdirect_device_take_pdu(struct smbdirect_device *device,
                                  uint64_t pdu,
                                  void *target,
                                  uint64_t length);

/**
 * Allocates a buffer of at least `length` bytes for RDMA. It is not cleared: it may hold old data,
 * which only this process and the device have seen.
 *
 * - Owns: the caller owns the buffer until smbdirect_buffer_free.
 * - Threads: one at a time.
 * - Blocks: never.
 * - Fork: SMBDIRECT_E_FORKED.
 * - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_TOO_LONG, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_DETACHED;
 *   SMBDIRECT_E_AGAIN: there is no room now, and SMBDIRECT_EVENT_ROOM follows; SMBDIRECT_E_NO_MEMORY: the device
 *   refused, no buffer of this process is in use, and no event follows.
 *
 * # Safety
 *
 * `device` is a live handle; `buffer_out` points to a structure whose `type_size` is set.
 */
int32_t smbdirect_buffer_alloc(struct smbdirect_device *device,
                               uint64_t length,
                               struct smbdirect_buffer *buffer_out);

/**
 * Gives a buffer back. No thread of this process may read or write it afterwards, because it may be unmapped.
 *
 * - Owns: the library owns the buffer again.
 * - Threads: one at a time.
 * - Blocks: never.
 * - Fork: SMBDIRECT_E_FORKED.
 * - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_NO_BUFFER,
 *   SMBDIRECT_E_DETACHED; SMBDIRECT_E_BUSY: an RDMA operation uses the buffer until its
 *   SMBDIRECT_EVENT_RDMA_DONE.
 *
 * # Safety
 *
 * `device` is a live handle.
 */
int32_t smbdirect_buffer_free(struct smbdirect_device *device,
                              uint64_t number);

/**
 * SET_SMBD_PARAMETERS, listeners only: sets parameters for connections that the device accepts from now on.
 * SMBDIRECT_EVENT_REPLY brings `cookie` back.
 *
 * `security_blob` is the SPNEGO token of the server's NEGOTIATE response, up to 2048 bytes, or null.
 *
 * - Owns: everything is copied.
 * - Threads: one at a time.
 * - Blocks: never.
 * - Fork: SMBDIRECT_E_FORKED.
 * - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_TOO_LONG,
 *   SMBDIRECT_E_AGAIN, SMBDIRECT_E_DETACHED; in the event SMBDIRECT_E_INVALID.
 *
 * # Safety
 *
 * `device` is a live handle; `parameters` points to a structure whose `type_size` is set;
 * `security_blob` to `security_blob_length` bytes.
 */
int32_t smbdirect_device_set_parameters(struct smbdirect_device *device,
                                        uint64_t cookie,
                                        const struct smbdirect_parameters *parameters,
                                        const void *security_blob,
                                        uint64_t security_blob_length);

/**
 * Listeners only: sets the server addresses that clients may use, instead of those that this or an earlier listener
 * set. With SMBDIRECT_ADDRESSES_ALL in `flags`, all addresses are allowed, and `count` must be 0; otherwise only the
 * `count` addresses are allowed, and none if `count` is 0. SMBDIRECT_EVENT_REPLY brings `cookie` back. From then on
 * the device refuses connections to other addresses before it reads anything, and smbdirect_device_get_addresses does
 * not return those addresses. Existing connections to other addresses end with SMBDIRECT_E_ADDRESS.
 *
 * This may be called at any time, whenever something changes. The list stays in force when the listener detaches, and
 * the next listener begins with it. A device that was never given a list allows all addresses.
 *
 * - Owns: everything is copied. The `type_size` of the first element must be set; an address may occur twice. With a
 *   `count` of 0, `addresses` may be null.
 * - Threads: one at a time.
 * - Blocks: never.
 * - Fork: SMBDIRECT_E_FORKED.
 * - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_TOO_LONG (more than
 *   SMBDIRECT_ALLOWED_ADDRESSES_MAX), SMBDIRECT_E_AGAIN, SMBDIRECT_E_DETACHED; in the event
 *   SMBDIRECT_E_INVALID.
 *
 * # Safety
 *
 * `device` is a live handle; `addresses` points to `count` structures.
 */
int32_t smbdirect_device_set_addresses(struct smbdirect_device *device,
                                       uint64_t cookie,
                                       uint32_t flags,
                                       const struct smbdirect_allowed_address *addresses,
                                       uint32_t count);

/**
 * Listeners only: tells the device what smbd knows about a client, even one that uses only TCP. The device shows the
 * note in its status, so that administrators see why a client does not use RDMA. A note changes nothing else, is not
 * answered, and is lost if it cannot be sent now. A device that does not keep notes, such as the kernel's, ignores the
 * note.
 *
 * - Owns: everything is copied.
 * - Threads: one at a time.
 * - Blocks: never.
 * - Fork: SMBDIRECT_E_FORKED.
 * - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_DETACHED; SMBDIRECT_E_AGAIN: the device has not
 *   read many earlier messages, and SMBDIRECT_EVENT_ROOM does not follow.
 *
 * # Safety
 *
 * `device` is a live handle; `note` points to a structure whose `type_size` is set.
 */
int32_t smbdirect_device_note_client(struct smbdirect_device *device,
                                     const struct smbdirect_client_note *note);

/**
 * SET_SMBD_SESSION_ID, workers only: registers this process for the connections of a client, or removes that
 * registration. SMBDIRECT_EVENT_REPLY brings `cookie` back.
 *
 * - Owns: everything is copied.
 * - Threads: one at a time.
 * - Blocks: never.
 * - Fork: SMBDIRECT_E_FORKED.
 * - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_AGAIN,
 *   SMBDIRECT_E_DETACHED; in the event SMBDIRECT_E_TAKEN, SMBDIRECT_E_LIMIT,
 *   SMBDIRECT_E_NO_OWNER.
 *
 * # Safety
 *
 * `device` is a live handle; `session` points to a structure whose `type_size` is set.
 */
int32_t smbdirect_device_set_session_id(struct smbdirect_device *device,
                                        uint64_t cookie,
                                        const struct smbdirect_session *session);

/**
 * Workers only, once attached: claims the connection that `token` (16 bytes) names. SMBDIRECT_EVENT_REPLY brings
 * `cookie` back; if it says SMBDIRECT_OK, SMBDIRECT_EVENT_CONNECTION follows or has come. The reply waits until the
 * device has memory to report the connection.
 *
 * - Owns: everything is copied.
 * - Threads: one at a time.
 * - Blocks: never.
 * - Fork: SMBDIRECT_E_FORKED.
 * - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_AGAIN,
 *   SMBDIRECT_E_DETACHED; in the event SMBDIRECT_E_NO_TOKEN, or the reason why the connection ended
 *   first.
 *
 * # Safety
 *
 * `device` is a live handle; `token` points to 16 bytes.
 */
int32_t smbdirect_device_claim(struct smbdirect_device *device,
                               uint64_t cookie,
                               const uint8_t *token);

/**
 * Listeners only: declines the connection that was offered with `token` (16 bytes), which the device closes at once.
 * SMBDIRECT_EVENT_REPLY brings `cookie` back.
 *
 * - Owns: everything is copied.
 * - Threads: one at a time.
 * - Blocks: never.
 * - Fork: SMBDIRECT_E_FORKED.
 * - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_AGAIN, SMBDIRECT_E_DETACHED; in the event
 *   SMBDIRECT_E_NO_TOKEN (no connection with that token is waiting).
 *
 * # Safety
 *
 * `device` is a live handle; `token` points to 16 bytes.
 */
int32_t smbdirect_device_decline(struct smbdirect_device *device,
                                 uint64_t cookie,
                                 const uint8_t *token);

/**
 * Writes the addresses on which clients reach the device, for FSCTL_QUERY_NETWORK_INTERFACE_INFO ([MS-SMB2] 2.2.32.5).
 * These are the addresses known when the caller last took an event. `*count_out` says how many there are, at most
 * SMBDIRECT_ADDRESSES_MAX; `addresses` gets the first `count` of them. The list is complete once
 * SMBDIRECT_EVENT_ATTACHED has come, and changes without an event of its own.
 *
 * - Owns: the array is the caller's; the `type_size` of its first element must be set. With a
 *   `count` of 0 it may be null.
 * - Threads: one at a time.
 * - Blocks: never.
 * - Fork: SMBDIRECT_E_FORKED.
 * - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_DETACHED.
 *
 * # Safety
 *
 * `device` is a live handle; `addresses` points to `count` structures, `count_out` to a number.
 */
int32_t smbdirect_device_get_addresses(struct smbdirect_device *device,
                                       struct smbdirect_address *addresses,
                                       uint32_t count,
                                       uint32_t *count_out);

/**
 * Writes what is known about a connection, and what is under way on it.
 *
 * `unsent_bytes` counts the bytes that the peer's network has not acknowledged, as SIOCOUTQ does for TCP.
 *
 * - Owns: `info_out` is the caller's.
 * - Threads: one at a time.
 * - Blocks: never.
 * - Fork: SMBDIRECT_E_FORKED.
 * - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_NO_CONNECTION,
 *   SMBDIRECT_E_DETACHED.
 *
 * # Safety
 *
 * `device` is a live handle; `info_out` points to a structure whose `type_size` is set.
 */
int32_t smbdirect_conn_get_info(struct smbdirect_device *device,
                                uint64_t conn,
                                struct smbdirect_conn_info *info_out);

/**
 * Ends a connection gracefully: messages that were already taken are sent first.
 * SMBDIRECT_EVENT_DISCONNECTED follows; until then the connection's number stays valid, and messages may
 * still arrive. A second call has no effect.
 *
 * - Owns: nothing.
 * - Threads: one at a time.
 * - Blocks: never.
 * - Fork: SMBDIRECT_E_FORKED.
 * - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_NO_CONNECTION,
 *   SMBDIRECT_E_DETACHED.
 *
 * # Safety
 *
 * `device` is a live handle.
 */
int32_t smbdirect_conn_disconnect(struct smbdirect_device *device,
                                  uint64_t conn);

/**
 * Lends a buffer for the data of the next WRITE on a connection. If the next request is a WRITE by RDMA whose session
 * is registered, if the buffer is long enough, and if nothing else is under way, the device fetches the data before
 * SMBDIRECT_EVENT_PDU announces the request; the event then names the buffer, and the caller need not fetch anything.
 * In all other cases requests come as usual, and the buffer stays lent. One buffer can be lent for each connection; a
 * longer one replaces a shorter one.
 *
 * The device is not woken for this: a message on the same connection, or smbdirect_device_flush, wakes it.
 *
 * - Owns: the library owns the buffer until an event names it. It frees the buffer when the connection
 *   ends, or when memory is short. No thread of this process may read or write it meanwhile.
 * - Threads: one at a time.
 * - Blocks: never.
 * - Fork: SMBDIRECT_E_FORKED.
 * - Errors: after each, the buffer still belongs to the caller. SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED,
 *   SMBDIRECT_E_NO_CONNECTION, SMBDIRECT_E_NO_BUFFER, SMBDIRECT_E_BUSY (a buffer at least as long is lent already, or
 *   an RDMA operation uses this one, or the connection is being transferred), SMBDIRECT_E_NO_READS (the device is
 *   older than this library, or the client does not serve RDMA READs), SMBDIRECT_E_AGAIN, SMBDIRECT_E_DETACHED.
 *
 * # Safety
 *
 * `device` is a live handle.
 */
int32_t smbdirect_conn_fetch_ahead(struct smbdirect_device *device,
                                   uint64_t conn,
                                   uint64_t buffer);

/**
 * Tells the device that a user has logged in on a connection. Call it after each successful SESSION_SETUP with
 * credentials, including one that binds the connection to a session, and when a share lets a guest in. An anonymous
 * session alone does not count. Until the first call, the device treats the client as a stranger: it accepts few of
 * them from one address, each for a short time (`login_timeout` in the device's configuration), with messages of at
 * most 64 KiB and a few credits. A second call has no effect, and a connection that is transferred afterwards stays
 * authenticated.
 *
 * - Owns: nothing.
 * - Threads: one at a time.
 * - Blocks: never.
 * - Fork: SMBDIRECT_E_FORKED.
 * - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_NO_CONNECTION,
 *   SMBDIRECT_E_DETACHED.
 *
 * # Safety
 *
 * `device` is a live handle.
 */
int32_t smbdirect_conn_set_authenticated(struct smbdirect_device *device,
                                         uint64_t conn);

/**
 * Gives a connection to the worker that has registered `client_guid` (16 bytes), or, with a null pointer, to the
 * worker that claims the token in SMBDIRECT_EVENT_TRANSFERRED. The new owner first receives the message at `pdu`: the
 * NEGOTIATE request that named the client. Nothing else may be under way on the connection (SMBDIRECT_E_BUSY). Unless
 * the event says SMBDIRECT_OK, the connection still belongs to this process.
 *
 * - Owns: `pdu` is copied before the call returns.
 * - Threads: one at a time.
 * - Blocks: never.
 * - Fork: SMBDIRECT_E_FORKED.
 * - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_NO_CONNECTION,
 *   SMBDIRECT_E_BUSY, SMBDIRECT_E_TOO_LONG, SMBDIRECT_E_AGAIN, SMBDIRECT_E_NO_MEMORY,
 *   SMBDIRECT_E_DETACHED; in the event SMBDIRECT_E_NO_OWNER, SMBDIRECT_E_INVALID (this process
 *   registered it), SMBDIRECT_E_BUSY (a message has not been taken), SMBDIRECT_E_TOO_LONG (more than
 *   64 KiB), SMBDIRECT_E_LIMIT, SMBDIRECT_E_FLUSHED.
 *
 * # Safety
 *
 * `device` is a live handle; `client_guid` is null or points to 16 bytes; `pdu` points to `length` bytes.
 */
int32_t smbdirect_conn_transfer(struct smbdirect_device *device,
                                uint64_t conn,
                                uint64_t cookie,
                                const uint8_t *client_guid,
                                const void *pdu,
                                uint64_t length);

/**
 * Parses an SMB2 READ or WRITE request, and returns where in the client's memory its data is.
 *
 * `request` is a decrypted message, or one element of a compound, and begins with its SMB2 header.
 * The caller must check that the dialect allows the channel, and that the transfer's `length` is
 * within the negotiated limits.
 *
 * - Owns: `transfer_out` is the caller's; the library keeps nothing.
 * - Threads: any.
 * - Blocks: never.
 * - Fork: works in the child.
 * - Errors: SMBDIRECT_E_INVALID; SMBDIRECT_E_REQUEST: not a READ or WRITE, a channel that is not
 *   supported, or fields that contradict each other; SMBDIRECT_E_DESCRIPTORS;
 *   SMBDIRECT_E_DESCRIPTORS_TOO_SHORT.
 *
 * # Safety
 *
 * `request` points to `length` bytes; `transfer_out` to a structure whose `type_size` is set.
 */
int32_t smbdirect_request_transfer(const void *request,
                                   uint64_t length,
                                   struct smbdirect_transfer *transfer_out);

/**
 * Parses an SMB2 WRITE request over channel 3, and returns how its data is protected ([MS-SMB2] 2.2.43) and where in
 * the client's memory it is.
 *
 * `request` is as in smbdirect_request_transfer, which refuses channel 3. The caller must check that the connection
 * negotiated the transform, that the message was protected in the same way, that signature and nonce have the lengths
 * that the algorithm needs, and that `length` is within the negotiated limits.
 *
 * - Owns: `transform_out` is the caller's; the library keeps nothing.
 * - Threads: any.
 * - Blocks: never.
 * - Fork: works in the child.
 * - Errors: SMBDIRECT_E_INVALID; SMBDIRECT_E_REQUEST: not a WRITE over channel 3, a malformed transform, not
 *   exactly one transform, or fields that contradict each other; SMBDIRECT_E_DESCRIPTORS;
 *   SMBDIRECT_E_DESCRIPTORS_TOO_SHORT.
 *
 * # Safety
 *
 * `request` points to `length` bytes; `transform_out` to a structure whose `type_size` is set.
 */
int32_t smbdirect_request_transform(const void *request,
                                    uint64_t length,
                                    struct smbdirect_transform *transform_out);

/**
 * Parses an SMB2 request, and returns whether each final response to it, including an error, must invalidate a token
 * (channel 2, or channel 3 with a transform that asks for this, [MS-SMB2] 3.3.4.1.7). If so, `*invalidate_out` is 1
 * and `*token_out` is the token; otherwise, and for anything but a READ or WRITE request, both are 0.
 *
 * - Owns: the library keeps nothing.
 * - Threads: any.
 * - Blocks: never.
 * - Fork: works in the child.
 * - Errors: SMBDIRECT_E_INVALID: a null pointer.
 *
 * # Safety
 *
 * `request` points to `length` bytes; each of the others to a number.
 */
int32_t smbdirect_request_invalidate(const void *request,
                                     uint64_t length,
                                     uint32_t *invalidate_out,
                                     uint32_t *token_out);

/**
 * Checks a list of buffer descriptors ([MS-SMBD] 2.2.3.1) and adds up their lengths.
 *
 * - Owns: the library keeps nothing.
 * - Threads: any.
 * - Blocks: never.
 * - Fork: works in the child.
 * - Errors: SMBDIRECT_E_INVALID: a null pointer; SMBDIRECT_E_DESCRIPTORS: none, not a multiple
 *   of 16 bytes, one of length 0, or one that runs past the end of the address space.
 *
 * # Safety
 *
 * `descriptors` points to `length` bytes, `total_out` to a number.
 */
int32_t smbdirect_descriptors_check(const void *descriptors, uint64_t length, uint64_t *total_out);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* SMBDIRECT_H */
