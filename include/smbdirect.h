/*
 * SMB Direct ([MS-SMBD], SMB 3 over RDMA): the smbdirect device, as smbd uses it.
 *
 * Made from src/ffi by instruments/tests/header; edit there. docs/device.md explains the whole.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Calls return SMBDIRECT_OK or one of SMBDIRECT_E_*, and write their outputs on success only.
 * Structures begin with type_size, which the caller sets to their sizeof, and end with reserved
 * fields, which are 0. A device is used by one thread at a time, in the process that made it.
 */

#ifndef SMBDIRECT_H
#define SMBDIRECT_H

#include <stdint.h>
#include <sys/uio.h>

/**
 * Major part of the library's version.
 */
#define SMBDIRECT_VERSION_MAJOR 0

/**
 * Minor part of the library's version.
 */
#define SMBDIRECT_VERSION_MINOR 1

/**
 * Patch level of the library's version.
 */
#define SMBDIRECT_VERSION_PATCH 0

/**
 * The number in the name of the shared library, libsmbdirect.so.0. Changes whenever a program that was compiled with an
 * earlier header would not work with this library.
 */
#define SMBDIRECT_ABI_VERSION 0

/**
 * Nothing went wrong.
 */
#define SMBDIRECT_OK 0

/**
 * An argument that the call cannot have: a null pointer, a length, a number out of range.
 */
#define SMBDIRECT_E_INVALID 1

/**
 * A fault of the library. The handle can only be freed.
 */
#define SMBDIRECT_E_PANIC 2

/**
 * The handle was made by another process: this one has to attach for itself.
 */
#define SMBDIRECT_E_FORKED 3

/**
 * Nobody listens at the device's path.
 */
#define SMBDIRECT_E_NO_DEVICE 4

/**
 * This process may not use the device.
 */
#define SMBDIRECT_E_DENIED 5

/**
 * Library and device are of different versions.
 */
#define SMBDIRECT_E_VERSION 6

/**
 * The device has gone, or ended this process' attachment. Attach again.
 */
#define SMBDIRECT_E_DETACHED 7

/**
 * Not yet attached, or not in the role for this call.
 */
#define SMBDIRECT_E_NOT_ATTACHED 8

/**
 * No room now: wait, SMBDIRECT_EVENT_ROOM follows.
 */
#define SMBDIRECT_E_AGAIN 9

/**
 * The device has no memory for this, and nothing of this process is under way that would give any back:
 * give up, SMBDIRECT_EVENT_ROOM does not follow.
 */
#define SMBDIRECT_E_NO_MEMORY 10

/**
 * Larger than a buffer, a message or an RDMA transfer may be.
 */
#define SMBDIRECT_E_TOO_LONG 11

/**
 * No such connection, or not this process' any more.
 */
#define SMBDIRECT_E_NO_CONNECTION 12

/**
 * No such buffer or PDU, or it was freed.
 */
#define SMBDIRECT_E_NO_BUFFER 13

/**
 * The piece does not lie in the buffer.
 */
#define SMBDIRECT_E_OUT_OF_BOUNDS 14

/**
 * Buffer descriptors that no client may send.
 */
#define SMBDIRECT_E_DESCRIPTORS 15

/**
 * The descriptors hold fewer bytes than are to be carried.
 */
#define SMBDIRECT_E_DESCRIPTORS_TOO_SHORT 16

/**
 * Not an SMB2 request of the kind that the call is for, or one that contradicts itself.
 */
#define SMBDIRECT_E_REQUEST 17

/**
 * The peer serves no RDMA READs.
 */
#define SMBDIRECT_E_NO_READS 18

/**
 * A token that was never made, or was used, or is too old.
 */
#define SMBDIRECT_E_NO_TOKEN 19

/**
 * Nobody has registered that client GUID.
 */
#define SMBDIRECT_E_NO_OWNER 20

/**
 * Another process has registered it, or is the listener.
 */
#define SMBDIRECT_E_TAKEN 21

/**
 * The device has as many workers, sessions or connections as it may.
 */
#define SMBDIRECT_E_LIMIT 22

/**
 * Something is still under way.
 */
#define SMBDIRECT_E_BUSY 23

/**
 * Given up because the connection, or the attachment, ended.
 */
#define SMBDIRECT_E_FLUSHED 24

/**
 * The peer refused access to its memory.
 */
#define SMBDIRECT_E_REMOTE_ACCESS 25

/**
 * The network or the fabric failed, or for a reason that this version of the library does not know.
 */
#define SMBDIRECT_E_FABRIC 26

/**
 * The peer closed the connection in order.
 */
#define SMBDIRECT_E_CLOSED_BY_PEER 27

/**
 * This process closed it.
 */
#define SMBDIRECT_E_CLOSED_LOCALLY 28

/**
 * The peer, or the network, broke it off.
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
 * Library or device broke the rules of their interface.
 */
#define SMBDIRECT_E_CORRUPT 33

/**
 * The system refused memory or a descriptor.
 */
#define SMBDIRECT_E_SYSTEM 34

/**
 * The server's address of the connection is not allowed, or the machine no longer has it.
 */
#define SMBDIRECT_E_ADDRESS 35

/**
 * What listens at the device's path is another user's, whom nobody has made the device: nothing was sent
 * to it.
 */
#define SMBDIRECT_E_UNTRUSTED 36

/**
 * Role: smbd's parent, which learns of connections that nobody owns. One at a time.
 */
#define SMBDIRECT_ROLE_LISTENER 1

/**
 * Role: smbd's child, which owns connections.
 */
#define SMBDIRECT_ROLE_WORKER 2

/**
 * The device has taken the attachment: other calls work from now on.
 */
#define SMBDIRECT_EVENT_ATTACHED 1

/**
 * The attachment is over, `status` says why. Everything that was under way was reported before.
 * Free the device and, if it is wanted, attach again after a while.
 */
#define SMBDIRECT_EVENT_DETACHED 2

/**
 * Listener: a connection waits for an owner. A child that attaches with `token` gets it.
 */
#define SMBDIRECT_EVENT_OFFER 3

/**
 * A connection is this worker's now; `info` says what is known about it.
 */
#define SMBDIRECT_EVENT_CONNECTION 4

/**
 * A message of `length` bytes arrived on `conn`: fetch it with smbdirect_device_take_pdu.
 */
#define SMBDIRECT_EVENT_PDU 5

/**
 * The message with this `cookie` was sent, or never will be. With SMBDIRECT_OK the peer's network has
 * acknowledged all of it: its TCP where iWARP is spoken in software, its adapter where InfiniBand or
 * RoCE is. An iWARP adapter does not promise that; nor is it known after smbdirect_conn_disconnect.
 * The event may come some 0.1 s after the acknowledgement, and a worker that sleeps, and was not
 * refused anything for want of room, learns of it up to 0.1 s later than that unless there is
 * something else to tell.
 */
#define SMBDIRECT_EVENT_SENT 6

/**
 * The RDMA operation with this `cookie` ended: its data is there, or its buffer may be freed.
 */
#define SMBDIRECT_EVENT_RDMA_DONE 7

/**
 * The transfer with this `cookie` ended; with SMBDIRECT_OK the connection is another process'.
 */
#define SMBDIRECT_EVENT_TRANSFERRED 8

/**
 * The connection is gone, `status` says why. Everything under way on it was reported before.
 */
#define SMBDIRECT_EVENT_DISCONNECTED 9

/**
 * The call of set_parameters, set_addresses, set_session_id, claim or decline with this `cookie` ended with `status`.
 */
#define SMBDIRECT_EVENT_REPLY 10

/**
 * What ended with SMBDIRECT_E_AGAIN may be tried again.
 */
#define SMBDIRECT_EVENT_ROOM 11

/**
 * Only events that cost no system call: for a caller that looks again soon, and calls without this
 * before it sleeps. The event descriptor does not tell of what comes after such a call.
 */
#define SMBDIRECT_EVENTS_PEEK 1

/**
 * Addresses that smbdirect_device_get_addresses knows at most.
 */
#define SMBDIRECT_ADDRESSES_MAX 64

/**
 * Addresses that smbdirect_device_set_addresses takes at most.
 */
#define SMBDIRECT_ALLOWED_ADDRESSES_MAX 128

/**
 * All addresses of the server are allowed: for smbdirect_device_set_addresses without a list.
 */
#define SMBDIRECT_ADDRESSES_ALL 1

/**
 * Has the peer invalidate `token` with the message (SEND with Invalidate).
 */
#define SMBDIRECT_PDU_INVALIDATE 1

/**
 * RDMA READ: from the client's memory into the buffer, as for an SMB2 WRITE.
 */
#define SMBDIRECT_RDMA_READ 1

/**
 * RDMA WRITE: from the buffer into the client's memory, as for an SMB2 READ.
 */
#define SMBDIRECT_RDMA_WRITE 2

/**
 * The device is not woken for this operation, for a message follows at once that it is woken for.
 * If none does, smbdirect_device_flush wakes it, or smbdirect_device_get_events before it returns
 * fewer events than it was asked for.
 */
#define SMBDIRECT_RDMA_DEFER 1

/**
 * An attachment to the smbdirect device. Opaque.
 */
struct smbdirect_device;

/**
 * How to attach.
 */
struct smbdirect_attach {
  /**
   * sizeof(struct smbdirect_attach).
   */
  uint32_t type_size;
  /**
   * SMBDIRECT_ROLE_*.
   */
  uint32_t role;
  /**
   * Worker: the token of the connection it was forked for, or 0.
   */
  uint8_t token[16];
  /**
   * 0.
   */
  uint64_t reserved[4];
};

/**
 * What is known about a connection.
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
   * The client's address; IPv4 as ::ffff:a.b.c.d.
   */
  uint8_t peer_address[16];
  /**
   * The server's address, at which it came in.
   */
  uint8_t local_address[16];
  /**
   * The ClientGuid of its first request.
   */
  uint8_t client_guid[16];
  /**
   * Scope of link-local addresses, or 0.
   */
  uint32_t scope_id;
  /**
   * Bytes of an SMB2 message to send at most.
   */
  uint32_t max_fragmented_send_size;
  /**
   * Bytes of an SMB2 message to receive at most.
   */
  uint32_t max_fragmented_receive_size;
  /**
   * Bytes of an RDMA transfer at most.
   */
  uint32_t max_read_write_size;
  /**
   * RDMA READs that the peer serves at a time; 0: none, it has to send its data.
   */
  uint32_t initiator_depth;
  /**
   * RDMA operations under way.
   */
  uint32_t rdma_operations;
  /**
   * Bytes of messages that were sent: see SMBDIRECT_EVENT_SENT.
   */
  uint64_t sent_bytes;
  /**
   * Bytes of messages that were taken and are not yet sent.
   */
  uint64_t unsent_bytes;
  /**
   * Bytes of an SMB2 message that the client reassembles at most: the MaxFragmentedSize of its own
   * negotiate message ([MS-SMBD] 2.2.1). max_fragmented_send_size is the lesser of this and of what
   * the device's memory allows.
   */
  uint32_t peer_max_fragmented_size;
  /**
   * 0.
   */
  uint32_t reserved32;
  /**
   * 0.
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
   * SMBDIRECT_EVENT_*.
   */
  uint32_t kind;
  /**
   * How it ended, SMBDIRECT_OK or SMBDIRECT_E_*, where the kind has an end.
   */
  int32_t status;
  /**
   * Bytes of the message.
   */
  uint32_t length;
  /**
   * The connection.
   */
  uint64_t conn;
  /**
   * As given to the call that began it.
   */
  uint64_t cookie;
  /**
   * SMBDIRECT_EVENT_PDU: for smbdirect_device_take_pdu.
   */
  uint64_t pdu;
  /**
   * SMBDIRECT_EVENT_OFFER, SMBDIRECT_EVENT_TRANSFERRED: who has this gets the connection.
   */
  uint8_t token[16];
  /**
   * SMBDIRECT_EVENT_OFFER, SMBDIRECT_EVENT_CONNECTION: the connection.
   */
  struct smbdirect_conn_info info;
  /**
   * 0.
   */
  uint64_t reserved[3];
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
   * Bytes that the length of a buffer is rounded up to.
   */
  uint32_t buffer_unit;
  /**
   * Bytes of the longest buffer.
   */
  uint64_t buffer_max;
  /**
   * Bytes of buffers by which memory grows.
   */
  uint64_t segment_length;
  /**
   * Bytes of buffers at most.
   */
  uint64_t buffers_total;
  /**
   * Bytes of all memory of this worker at most, messages included.
   */
  uint64_t limit;
  /**
   * 0.
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
   * SMBDIRECT_PDU_*.
   */
  uint32_t flags;
  /**
   * The connection.
   */
  uint64_t conn;
  /**
   * Comes back with SMBDIRECT_EVENT_SENT. Any number.
   */
  uint64_t cookie;
  /**
   * The message in pieces, from its SMB2 header on. Copied before the call returns. None of
   * them lies in a struct smbdirect_buffer.
   */
  const struct iovec *pieces;
  /**
   * Number of pieces: 1 to 1024. Some may be empty; an empty one may be null.
   */
  uint32_t piece_count;
  /**
   * What the peer shall invalidate, if `flags` says so.
   */
  uint32_t token;
  /**
   * 0.
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
   * Comes back with SMBDIRECT_EVENT_RDMA_DONE. Any number.
   */
  uint64_t cookie;
  /**
   * The buffer's number.
   */
  uint64_t buffer;
  /**
   * Where in the buffer to begin, in bytes.
   */
  uint64_t offset;
  /**
   * Bytes to carry, at least 1: for an SMB2 READ what the file had.
   */
  uint64_t length;
  /**
   * The buffer descriptors of the client's request as they came ([MS-SMBD] 2.2.3.1): checked
   * and copied before the call returns.
   */
  const void *descriptors;
  /**
   * Bytes of them.
   */
  uint64_t descriptors_length;
  /**
   * SMBDIRECT_RDMA_DEFER, or 0.
   */
  uint32_t flags;
  /**
   * 0.
   */
  uint32_t reserved32;
  /**
   * 0.
   */
  uint64_t reserved[1];
};

/**
 * A buffer in memory that is shared with the device, for RDMA.
 */
struct smbdirect_buffer {
  /**
   * sizeof(struct smbdirect_buffer).
   */
  uint32_t type_size;
  /**
   * 0.
   */
  uint32_t reserved32;
  /**
   * Its number, never 0.
   */
  uint64_t number;
  /**
   * Its first byte. Mapped until smbdirect_buffer_free; whatever is written here while an RDMA
   * operation uses it may or may not go along.
   */
  void *start;
  /**
   * Bytes: at least as many as were asked for.
   */
  uint64_t length;
  /**
   * 0.
   */
  uint64_t reserved[2];
};

/**
 * What a listener wants of connections that are accepted from now on ([MS-SMBD] 3.1.1.1). 0
 * stands for the device's own value, and more than that is reduced to it.
 */
struct smbdirect_parameters {
  /**
   * sizeof(struct smbdirect_parameters).
   */
  uint32_t type_size;
  /**
   * Most credits that a peer is granted.
   */
  uint16_t receive_credit_max;
  /**
   * Credits that peers are asked for.
   */
  uint16_t send_credit_target;
  /**
   * Bytes of a sent SMB Direct message. At least 128.
   */
  uint32_t max_send_size;
  /**
   * Bytes of a received SMB Direct message. At least 128.
   */
  uint32_t max_receive_size;
  /**
   * Bytes of a received SMB2 message. At least 131,072.
   */
  uint32_t max_fragmented_size;
  /**
   * Bytes of an RDMA transfer.
   */
  uint32_t max_read_write_size;
  /**
   * Time without a message of the peer after which it is asked for one, in milliseconds.
   */
  uint32_t keepalive_interval_ms;
  /**
   * 0.
   */
  uint32_t reserved32;
  /**
   * The server's GUID.
   */
  uint8_t server_guid[16];
  /**
   * 0.
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
   * The scope (interface index) of a link-local IPv6 address, not 0; 0 for all others.
   */
  uint32_t scope_id;
  /**
   * Of one host: neither unspecified nor multicast. IPv4 as ::ffff:a.b.c.d.
   */
  uint8_t address[16];
  /**
   * 0.
   */
  uint64_t reserved[2];
};

/**
 * A client and a session of it.
 */
struct smbdirect_session {
  /**
   * sizeof(struct smbdirect_session).
   */
  uint32_t type_size;
  /**
   * 0: this process has it from now on. 1: not any more.
   */
  uint32_t remove;
  /**
   * The session; 0: only the client. To remove session 0 is to remove all of the client.
   */
  uint64_t session_id;
  /**
   * The ClientGuid of the client's NEGOTIATE requests. Not 0.
   */
  uint8_t client_guid[16];
  /**
   * 0.
   */
  uint64_t reserved[2];
};

/**
 * An address at which clients reach the device.
 */
struct smbdirect_address {
  /**
   * sizeof(struct smbdirect_address).
   */
  uint32_t type_size;
  /**
   * The index of its interface, as of if_nametoindex(3); 0: unknown.
   */
  uint32_t interface_index;
  /**
   * IPv4 as ::ffff:a.b.c.d.
   */
  uint8_t address[16];
  /**
   * Scope of link-local addresses, or 0.
   */
  uint32_t scope_id;
  /**
   * The port, in host byte order.
   */
  uint16_t port;
  /**
   * 0.
   */
  uint16_t reserved16;
  /**
   * Speed of its interface in bits per second, never 0.
   */
  uint64_t link_speed;
  /**
   * 0.
   */
  uint64_t reserved[2];
};

/**
 * Where the data of an SMB2 READ or WRITE request lies at the client.
 */
struct smbdirect_transfer {
  /**
   * sizeof(struct smbdirect_transfer).
   */
  uint32_t type_size;
  /**
   * 0: within the messages, and nothing else is set. 1, 2: by RDMA ([MS-SMB2] 2.2.19).
   */
  uint32_t channel;
  /**
   * Bytes to read or write, at least 1.
   */
  uint32_t length;
  /**
   * Where the buffer descriptors begin, in bytes from the SMB2 header.
   */
  uint32_t descriptors_offset;
  /**
   * Bytes of the descriptors. Together they describe at least `length` bytes.
   */
  uint32_t descriptors_length;
  /**
   * 0.
   */
  uint32_t reserved32;
  /**
   * 0.
   */
  uint64_t reserved[2];
};

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The SMBDIRECT_ABI_VERSION that the library was built with.
 *
 * - Owns: nothing.
 * - Threads: any.
 * - Blocks: never.
 * - Fork: works in the child.
 * - Errors: none.
 */
uint32_t smbdirect_abi_version(void);

/**
 * What a status means, in English, for a log. "unknown status" for a number that is none.
 *
 * - Owns: the string lives for ever.
 * - Threads: any.
 * - Blocks: never.
 * - Fork: works in the child.
 * - Errors: none.
 */
const char *smbdirect_status_str(int32_t status);

/**
 * The nearest errno value of a status; 0 for SMBDIRECT_OK, EIO for a number that is none.
 *
 * - Owns: nothing.
 * - Threads: any.
 * - Blocks: never.
 * - Fork: works in the child.
 * - Errors: none.
 */
int32_t smbdirect_status_errno(int32_t status);

/**
 * Attaches this process to the smbdirect device at `path` (null: the usual place).
 *
 * Nothing else works before SMBDIRECT_EVENT_ATTACHED; instead of it, SMBDIRECT_EVENT_DETACHED may
 * come, which says why (SMBDIRECT_E_DENIED, SMBDIRECT_E_VERSION, SMBDIRECT_E_TAKEN: there is a
 * listener, SMBDIRECT_E_LIMIT, SMBDIRECT_E_STOPPING ...). A worker with a token in `args` gets SMBDIRECT_EVENT_CONNECTION for it as well, or
 * SMBDIRECT_EVENT_DETACHED with SMBDIRECT_E_NO_TOKEN.
 *
 * - Owns: `*device_out` is the caller's, to be freed with smbdirect_device_free.
 * - Threads: any; the device is for one thread at a time.
 * - Blocks: never.
 * - Fork: the handle is of this process; a child attaches for itself.
 * - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NO_DEVICE, SMBDIRECT_E_DENIED, SMBDIRECT_E_UNTRUSTED (the
 *   process that listens there runs neither as root nor as this user, nor as the owner of a directory
 *   that only root, or this user, can have made), SMBDIRECT_E_SYSTEM, SMBDIRECT_E_AGAIN (too many
 *   attach at this moment).
 *
 * # Safety
 *
 * `path` is null or a string; `args` leads to a structure whose `type_size` is set.
 */
int32_t smbdirect_device_new(const char *path_or_null,
                             const struct smbdirect_attach *args,
                             struct smbdirect_device **device_out);

/**
 * The versions of the interface that this library and the device speak, after SMBDIRECT_EVENT_DETACHED with
 * SMBDIRECT_E_VERSION: for a log that says which of the two has to be exchanged, or restarted.
 * `*device_version_out` is 0 where the device has not said its version, or speaks that of the library.
 *
 * - Owns: nothing.
 * - Threads: one at a time.
 * - Blocks: never.
 * - Fork: SMBDIRECT_E_FORKED.
 * - Errors: SMBDIRECT_E_INVALID.
 *
 * # Safety
 *
 * `device` is a live handle; the others lead to a `uint32_t` each.
 */
int32_t smbdirect_device_versions(struct smbdirect_device *device,
                                  uint32_t *own_version_out,
                                  uint32_t *device_version_out);

/**
 * Frees an attachment: the device breaks off what connections this process still has, with what
 * is under way on them, and takes all its memory back. A null pointer is ignored.
 *
 * - Owns: the handle is gone, and buffers are not mapped any more: nothing may read or write
 *   them, no thread in a system call either.
 * - Threads: none other uses it.
 * - Blocks: never.
 * - Fork: in a child this is the one call that may be used on its parent's handle: it frees the
 *   child's copy, and the parent's attachment goes on. A child does that soon, or its parent's
 *   memory lives as long as the child.
 * - Errors: none.
 *
 * # Safety
 *
 * `device` is null, or from smbdirect_device_new and was not freed before.
 */
void smbdirect_device_free(struct smbdirect_device *device);

/**
 * A file descriptor that is readable whenever smbdirect_device_get_events may have something after
 * it had nothing, for as long as that is so: for tevent, poll, or epoll without EPOLLET. It is
 * neither to be read nor closed.
 *
 * - Owns: the device does.
 * - Threads: one at a time.
 * - Blocks: never.
 * - Fork: SMBDIRECT_E_FORKED.
 * - Errors: SMBDIRECT_E_INVALID.
 *
 * # Safety
 *
 * `device` is a live handle, `fd_out` leads to an int.
 */
int32_t smbdirect_device_event_fd(struct smbdirect_device *device, int32_t *fd_out);

/**
 * GET_SMBD_EVENT: up to `count` things that happened, in order. `*count_out` says how many; fewer
 * than `count` means that there are no more now, and that the event descriptor will tell when there are.
 *
 * Call it until it returns fewer than asked for, whenever the event descriptor is readable. To wake
 * up takes tens of microseconds: a caller that expects something soon may look for it for a while
 * with SMBDIRECT_EVENTS_PEEK in `flags`, which are 0 otherwise.
 *
 * - Owns: the array is the caller's; the first element's `type_size` has to be set.
 * - Threads: one at a time.
 * - Blocks: never.
 * - Fork: SMBDIRECT_E_FORKED.
 * - Errors: SMBDIRECT_E_INVALID; SMBDIRECT_E_DETACHED: SMBDIRECT_EVENT_DETACHED has been
 *   returned before.
 *
 * # Safety
 *
 * `device` is a live handle; `events` leads to `count` structures.
 */
int32_t smbdirect_device_get_events(struct smbdirect_device *device,
                                    uint32_t flags,
                                    struct smbdirect_event *events,
                                    uint32_t count,
                                    uint32_t *count_out);

/**
 * GET_MEM_PARAMS: what memory a worker may use.
 *
 * - Owns: `params_out` is the caller's.
 * - Threads: one at a time.
 * - Blocks: never.
 * - Fork: SMBDIRECT_E_FORKED.
 * - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_DETACHED.
 *
 * # Safety
 *
 * `device` is a live handle; `params_out` leads to a structure whose `type_size` is set.
 */
int32_t smbdirect_device_get_mem_params(struct smbdirect_device *device,
                                        struct smbdirect_mem_params *params_out);

/**
 * SEND_PDU: takes as many of the messages as there is room for, in order; `*taken_out` says how
 * many. For each, SMBDIRECT_EVENT_SENT follows. Fewer than `count`: the next one could not be taken,
 * and a call that begins with it says why.
 *
 * - Owns: everything is copied before the call returns.
 * - Threads: one at a time.
 * - Blocks: never.
 * - Fork: SMBDIRECT_E_FORKED.
 * - Errors: of the first one, SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED,
 *   SMBDIRECT_E_NO_CONNECTION, SMBDIRECT_E_BUSY (it is being transferred), SMBDIRECT_E_TOO_LONG,
 *   SMBDIRECT_E_AGAIN, SMBDIRECT_E_NO_MEMORY, SMBDIRECT_E_DETACHED.
 *
 * # Safety
 *
 * `device` is a live handle; `pdus` leads to `count` structures, and their pieces to readable memory.
 */
int32_t smbdirect_device_send_pdus(struct smbdirect_device *device,
                                   const struct smbdirect_pdu *pdus,
                                   uint32_t count,
                                   uint32_t *taken_out);

/**
 * RDMA_READ_WRITE: takes as many of the operations as there is room for, in order; `*taken_out`
 * says how many. For each, SMBDIRECT_EVENT_RDMA_DONE follows; until then its buffer is in use. An RDMA
 * WRITE goes out before the messages that are taken after it: the response to a READ may be sent
 * at once.
 *
 * - Owns: descriptors are copied before the call returns.
 * - Threads: one at a time.
 * - Blocks: never.
 * - Fork: SMBDIRECT_E_FORKED.
 * - Errors: of the first one, SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED,
 *   SMBDIRECT_E_NO_CONNECTION, SMBDIRECT_E_BUSY (it is being transferred), SMBDIRECT_E_NO_BUFFER,
 *   SMBDIRECT_E_OUT_OF_BOUNDS, SMBDIRECT_E_DESCRIPTORS, SMBDIRECT_E_DESCRIPTORS_TOO_SHORT,
 *   SMBDIRECT_E_TOO_LONG, SMBDIRECT_E_NO_READS, SMBDIRECT_E_AGAIN, SMBDIRECT_E_NO_MEMORY, SMBDIRECT_E_DETACHED.
 *
 * # Safety
 *
 * `device` is a live handle; `operations` leads to `count` structures, and their descriptors to
 * readable memory.
 */
int32_t smbdirect_device_rdma_read_write(struct smbdirect_device *device,
                                         const struct smbdirect_rdma *operations,
                                         uint32_t count,
                                         uint32_t *taken_out);

/**
 * Wakes the device for the operations with SMBDIRECT_RDMA_DEFER that it was not woken for. It makes no
 * system call if there are none: for a caller to use whenever it is about to sleep.
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
 * Copies the message of an SMBDIRECT_EVENT_PDU to `target`, which has `length` bytes, at least those of
 * the event, and gives its memory back to the device. With `length` 0 it is only given back. As long as
 * messages are not taken, their client runs out of credits: nobody else notices.
 *
 * - Owns: `target` is the caller's; `pdu` means nothing afterwards.
 * - Threads: one at a time.
 * - Blocks: never.
 * - Fork: SMBDIRECT_E_FORKED.
 * - Errors: SMBDIRECT_E_INVALID (`length` is less than the message's: nothing happened),
 *   SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_NO_BUFFER, SMBDIRECT_E_DETACHED.
 *
 * # Safety
 *
 * `device` is a live handle; `target` leads to `length` writable bytes.
 */
int32_t smbdirect_device_take_pdu(struct smbdirect_device *device,
                                  uint64_t pdu,
                                  void *target,
                                  uint64_t length);

/**
 * A buffer of at least `length` bytes for RDMA. What was in it before is still there: nobody
 * but this process and the device has seen it.
 *
 * - Owns: the caller, until smbdirect_buffer_free.
 * - Threads: one at a time.
 * - Blocks: never.
 * - Fork: SMBDIRECT_E_FORKED.
 * - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_TOO_LONG, SMBDIRECT_E_NOT_ATTACHED,
 *   SMBDIRECT_E_DETACHED; SMBDIRECT_E_AGAIN: no room now, SMBDIRECT_EVENT_ROOM follows;
 *   SMBDIRECT_E_NO_MEMORY: the device refused, no buffer of this process is in use, and no event
 *   follows.
 *
 * # Safety
 *
 * `device` is a live handle; `buffer_out` leads to a structure whose `type_size` is set.
 */
int32_t smbdirect_buffer_alloc(struct smbdirect_device *device,
                               uint64_t length,
                               struct smbdirect_buffer *buffer_out);

/**
 * Gives a buffer back, which no thread of this process reads or writes any more: it may be unmapped.
 *
 * - Owns: the library again.
 * - Threads: one at a time.
 * - Blocks: never.
 * - Fork: SMBDIRECT_E_FORKED.
 * - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_NO_BUFFER,
 *   SMBDIRECT_E_DETACHED; SMBDIRECT_E_BUSY: an RDMA operation uses it, and
 *   SMBDIRECT_EVENT_RDMA_DONE will say when that ended.
 *
 * # Safety
 *
 * `device` is a live handle.
 */
int32_t smbdirect_buffer_free(struct smbdirect_device *device,
                              uint64_t number);

/**
 * SET_SMBD_PARAMETERS, of a listener. SMBDIRECT_EVENT_REPLY brings `cookie` back.
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
 * `device` is a live handle; `parameters` leads to a structure whose `type_size` is set;
 * `security_blob` to `security_blob_length` bytes.
 */
int32_t smbdirect_device_set_parameters(struct smbdirect_device *device,
                                        uint64_t cookie,
                                        const struct smbdirect_parameters *parameters,
                                        const void *security_blob,
                                        uint64_t security_blob_length);

/**
 * The addresses of the server that clients may use, of a listener, in place of those that it or an
 * earlier listener named before: with SMBDIRECT_ADDRESSES_ALL in `flags` all of them (`count` is 0
 * then), without it the `count` addresses, and none if `count` is 0. SMBDIRECT_EVENT_REPLY brings
 * `cookie` back: from then on the device refuses connections at other addresses before it reads
 * anything, and smbdirect_device_get_addresses has none of them. Connections that came in at other
 * addresses end with SMBDIRECT_E_ADDRESS.
 *
 * It may be called at any time and as often as something changes. The list stays in force when the
 * listener goes away, so that the next one begins with it; a device that was never told allows all
 * addresses.
 *
 * - Owns: everything is copied. The first element's `type_size` has to be set; an address may be
 *   there twice. With a `count` of 0 `addresses` may be null.
 * - Threads: one at a time.
 * - Blocks: never.
 * - Fork: SMBDIRECT_E_FORKED.
 * - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_TOO_LONG (more than
 *   SMBDIRECT_ALLOWED_ADDRESSES_MAX), SMBDIRECT_E_AGAIN, SMBDIRECT_E_DETACHED; in the event
 *   SMBDIRECT_E_INVALID.
 *
 * # Safety
 *
 * `device` is a live handle; `addresses` leads to `count` structures.
 */
int32_t smbdirect_device_set_addresses(struct smbdirect_device *device,
                                       uint64_t cookie,
                                       uint32_t flags,
                                       const struct smbdirect_allowed_address *addresses,
                                       uint32_t count);

/**
 * SET_SMBD_SESSION_ID, of a worker: connections of this client are for this process from now on, or
 * not any more. SMBDIRECT_EVENT_REPLY brings `cookie` back.
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
 * `device` is a live handle; `session` leads to a structure whose `type_size` is set.
 */
int32_t smbdirect_device_set_session_id(struct smbdirect_device *device,
                                        uint64_t cookie,
                                        const struct smbdirect_session *session);

/**
 * Claims the connection of a token (16 bytes), of a worker that is attached already.
 * SMBDIRECT_EVENT_REPLY brings `cookie` back; if it says SMBDIRECT_OK, SMBDIRECT_EVENT_CONNECTION
 * follows or has come. The reply may take as long as the device has no memory to tell of it.
 *
 * - Owns: everything is copied.
 * - Threads: one at a time.
 * - Blocks: never.
 * - Fork: SMBDIRECT_E_FORKED.
 * - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_AGAIN,
 *   SMBDIRECT_E_DETACHED; in the event SMBDIRECT_E_NO_TOKEN, or why the connection ended first.
 *
 * # Safety
 *
 * `device` is a live handle; `token` leads to 16 bytes.
 */
int32_t smbdirect_device_claim(struct smbdirect_device *device,
                               uint64_t cookie,
                               const uint8_t *token);

/**
 * Declines a connection that was offered with `token` (16 bytes), of a listener: the device closes
 * it at once. SMBDIRECT_EVENT_REPLY brings `cookie` back.
 *
 * - Owns: everything is copied.
 * - Threads: one at a time.
 * - Blocks: never.
 * - Fork: SMBDIRECT_E_FORKED.
 * - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_AGAIN,
 *   SMBDIRECT_E_DETACHED; in the event SMBDIRECT_E_NO_TOKEN: nothing waits for that token any more.
 *
 * # Safety
 *
 * `device` is a live handle; `token` leads to 16 bytes.
 */
int32_t smbdirect_device_decline(struct smbdirect_device *device,
                                 uint64_t cookie,
                                 const uint8_t *token);

/**
 * The addresses at which clients reach the device, as of the last event that was taken: for
 * FSCTL_QUERY_NETWORK_INTERFACE_INFO ([MS-SMB2] 2.2.32.5). `*count_out` says how many there are,
 * at most SMBDIRECT_ADDRESSES_MAX; `addresses` gets the first `count` of them. They are there with
 * SMBDIRECT_EVENT_ATTACHED, and change without an event of their own.
 *
 * - Owns: the array is the caller's; the first element's `type_size` has to be set. With a `count`
 *   of 0 it may be null.
 * - Threads: one at a time.
 * - Blocks: never.
 * - Fork: SMBDIRECT_E_FORKED.
 * - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_DETACHED.
 *
 * # Safety
 *
 * `device` is a live handle; `addresses` leads to `count` structures, `count_out` to a number.
 */
int32_t smbdirect_device_get_addresses(struct smbdirect_device *device,
                                       struct smbdirect_address *addresses,
                                       uint32_t count,
                                       uint32_t *count_out);

/**
 * What is known about a connection, and what is under way on it.
 *
 * `unsent_bytes` is what the peer's network has not acknowledged: what a server asks TCP for with
 * SIOCOUTQ.
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
 * `device` is a live handle; `info_out` leads to a structure whose `type_size` is set.
 */
int32_t smbdirect_conn_get_info(struct smbdirect_device *device,
                                uint64_t conn,
                                struct smbdirect_conn_info *info_out);

/**
 * Ends a connection in order: what was taken to be sent goes first. SMBDIRECT_EVENT_DISCONNECTED
 * follows; until then its number is known, and messages may still come. A second call has no effect.
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
 * Says that a user is on a connection: call it after each successful SESSION_SETUP with credentials on
 * it, also one that binds the connection to a session, and when a share lets a guest in. An anonymous
 * session alone is no user. Until the first call the device treats the client as a stranger: few of them
 * are let in from one address, each for a short time (`login_timeout` in the device's configuration),
 * with messages of at most 64 KiB and a few credits. A second call has no effect, and a connection that
 * is transferred afterwards stays authenticated.
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
 * Gives a connection to the worker that has registered `client_guid` (16 bytes), or, with a null
 * pointer, to whoever claims the token that SMBDIRECT_EVENT_TRANSFERRED brings. The message at `pdu`
 * becomes the first that the new owner receives: the NEGOTIATE request that told whose it is.
 * Nothing else may be under way on the connection (SMBDIRECT_E_BUSY). If the event says anything but
 * SMBDIRECT_OK, the connection is still this process'.
 *
 * - Owns: `pdu` is copied before the call returns.
 * - Threads: one at a time.
 * - Blocks: never.
 * - Fork: SMBDIRECT_E_FORKED.
 * - Errors: SMBDIRECT_E_INVALID, SMBDIRECT_E_NOT_ATTACHED, SMBDIRECT_E_NO_CONNECTION,
 *   SMBDIRECT_E_BUSY, SMBDIRECT_E_TOO_LONG, SMBDIRECT_E_AGAIN, SMBDIRECT_E_NO_MEMORY,
 *   SMBDIRECT_E_DETACHED; in the event SMBDIRECT_E_NO_OWNER, SMBDIRECT_E_INVALID (this process is
 *   the owner), SMBDIRECT_E_BUSY (a message has not been taken), SMBDIRECT_E_TOO_LONG (more than
 *   64 KiB), SMBDIRECT_E_LIMIT, SMBDIRECT_E_FLUSHED.
 *
 * # Safety
 *
 * `device` is a live handle; `client_guid` is null or leads to 16 bytes; `pdu` leads to `length` bytes.
 */
int32_t smbdirect_conn_transfer(struct smbdirect_device *device,
                                uint64_t conn,
                                uint64_t cookie,
                                const uint8_t *client_guid,
                                const void *pdu,
                                uint64_t length);

/**
 * Reads from an SMB2 READ or WRITE request where its data lies at the client.
 *
 * `request` is one element of a compound, or a whole message, from its SMB2 header on, decrypted.
 * Whether the dialect allows the channel, and whether `length` is within what was negotiated, is
 * the caller's to check.
 *
 * - Owns: `transfer_out` is the caller's, and nothing is kept.
 * - Threads: any.
 * - Blocks: never.
 * - Fork: works in the child.
 * - Errors: SMBDIRECT_E_INVALID; SMBDIRECT_E_REQUEST: no READ or WRITE, a channel that is not
 *   supported, or fields that contradict each other; SMBDIRECT_E_DESCRIPTORS;
 *   SMBDIRECT_E_DESCRIPTORS_TOO_SHORT.
 *
 * # Safety
 *
 * `request` leads to `length` bytes; `transfer_out` to a structure whose `type_size` is set.
 */
int32_t smbdirect_request_transfer(const void *request,
                                   uint64_t length,
                                   struct smbdirect_transfer *transfer_out);

/**
 * Reads from an SMB2 request whether each final response to it, errors included, has to invalidate
 * a token (channel 2, [MS-SMB2] 3.3.4.1.7): `*invalidate_out` is 1 and `*token_out` the token, or
 * both are 0. A request that is no READ or WRITE, or nothing at all, invalidates nothing.
 *
 * - Owns: nothing is kept.
 * - Threads: any.
 * - Blocks: never.
 * - Fork: works in the child.
 * - Errors: SMBDIRECT_E_INVALID: a null pointer.
 *
 * # Safety
 *
 * `request` leads to `length` bytes; the others to a number each.
 */
int32_t smbdirect_request_invalidate(const void *request,
                                     uint64_t length,
                                     uint32_t *invalidate_out,
                                     uint32_t *token_out);

/**
 * Checks a list of buffer descriptors ([MS-SMBD] 2.2.3.1) and adds their lengths up.
 *
 * - Owns: nothing is kept.
 * - Threads: any.
 * - Blocks: never.
 * - Fork: works in the child.
 * - Errors: SMBDIRECT_E_INVALID: a null pointer; SMBDIRECT_E_DESCRIPTORS: none, not a multiple
 *   of 16 bytes, one of length 0, or one that runs past the end of the address space.
 *
 * # Safety
 *
 * `descriptors` leads to `length` bytes, `total_out` to a number.
 */
int32_t smbdirect_descriptors_check(const void *descriptors, uint64_t length, uint64_t *total_out);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* SMBDIRECT_H */
