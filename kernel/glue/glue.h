/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The interface between the C of this module and the engine, which is written
 * in Rust. kernel/engine/src/ffi.rs has the same declarations: make every
 * change in both.
 *
 * The engine calls the sdk_* functions, which are the kernel's side, and the
 * kernel's side calls the sde_* functions, which are the engine's. The engine
 * is called in process context only, and so are all functions that it calls:
 * they may sleep unless they say otherwise.
 */
#ifndef SMBDIRECT_GLUE_H
#define SMBDIRECT_GLUE_H

#include <linux/atomic.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/lockdep.h>
#include <linux/scatterlist.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

struct ib_cq;
struct ib_pd;
struct ib_sge;
struct net;
struct pid;
struct rdma_cm_id;
struct sd_shard;
struct vm_area_struct;

/* Queues per process: one, with the shard of the process. */
#define SD_QUEUES 1

/*
 * The engine's locks, in the order in which a task takes them. It never holds
 * two of the same kind, in particular not two shards.
 */
enum sd_lock_kind {
	SD_LOCK_CONTROL,	/* which processes attach, and where the device listens */
	SD_LOCK_SHARD,		/* connections, their queues, and the memory for what they receive */
	SD_LOCK_REGISTRY,	/* which connections, clients and processes there are */
	SD_LOCK_LEAF,		/* one process's or one shard's list */
	SD_LOCKS
};

/*
 * A sleeping lock. It is not a mutex: a task that dies in the engine never
 * unlocks it, and the tasks that wait for it have to find out.
 */
struct sd_lock {
	unsigned long held;
	wait_queue_head_t wait;
	u32 kind;
#ifdef CONFIG_LOCKDEP
	struct lockdep_map dep_map;
#endif
};

/* Events for the engine. */
enum sd_event_kind {
	SD_EVENT_REQUEST = 1,	/* a peer wants a connection */
	SD_EVENT_ESTABLISHED = 2,
	SD_EVENT_DOWN = 3,	/* the manager reports the connection's end; status: -errno or SD_DOWN_* */
	SD_EVENT_DONE = 4,	/* a work request has ended; status: enum ib_wc_status */
	SD_EVENT_CLOSED = 5,	/* after sdk_conn_close: nothing is posted, and nothing follows */
};

/* The kinds of work. Requests of one kind end in the order of posting. */
enum sd_work { SD_RECV, SD_SEND, SD_WRITE, SD_READ, SD_WORKS };

/* The status of SD_EVENT_DOWN, if it is not a negative errno. */
#define SD_DOWN_PEER 1
#define SD_DOWN_REJECTED 2
#define SD_DOWN_DEVICE 3

struct sd_event {
	struct sd_conn *conn;
	u64 key;		/* from sdk_conn_setup; 0 before that */
	u32 kind;
	u32 work;
	s32 status;
	u32 length;		/* SD_RECV */
	u32 token;		/* SD_RECV with has_token: the peer has invalidated it */
	u32 has_token;
};

/* A request for a connection. */
struct sd_request {
	u8 peer[16];		/* IPv4 mapped into IPv6 */
	u8 local[16];
	u32 peer_scope;
	u32 local_scope;
	u16 peer_port;
	u16 local_port;
	u8 responder_resources;	/* as in the rdma_cm event: from this side's point of view */
	u8 initiator_depth;
	u8 is_iwarp;
	u8 private_data_len;
	u8 private_data[56];
};

/* What a device can do for a connection. */
struct sd_depths {
	u32 sends;
	u32 recvs;
	u32 reads;
	u32 initiator_depth;
	u32 responder_resources;
	u32 sends_invalidate;
};

/* An open file of the device. The engine may keep it longer than its process. */
struct sd_file {
	struct kref ref;
	void *engine;
	struct net *net;
	/*
	 * The process that opened the file. A child's copy of the file does not
	 * keep its parent attached.
	 */
	struct pid *owner;
	u32 pid;
	wait_queue_head_t wait;
	/* poll computes from the fields below whether the file is readable. */
	atomic_t unseen;	/* connections with completions that await the process */
	u32 messages;		/* number that GET_EVENTS would return */
	u32 rung;		/* submissions have room again; reset by the next look */
	u32 is_detached;
	struct {
		/*
		 * These point into the queue's memory, where the process can
		 * write: only poll may depend on the values.
		 */
		const u32 *producer;
		const u32 *consumer;
		u32 called;	/* the producer's index at the last wakeup */
	} queues[SD_QUEUES];
};

/* Pages that a process maps. */
struct sd_pages {
	struct kref ref;
	size_t length;
	unsigned long count;
	void *start;
	struct page *pages[];
};

/* A connection's DMA mapping of memory. */
struct sd_map {
	struct sd_conn *conn;
	size_t length;
	struct sg_table table;
};

/* ---- main.c ---- */

extern bool sd_is_dead;
extern struct workqueue_struct *sd_workqueue, *sd_closer;

extern atomic_t sd_conns, sd_wrs, sd_maps;
extern atomic64_t sd_bytes, sd_runs, sd_enters, sd_waits, sd_unreported;

void *sdk_alloc(size_t size, size_t align);
void sdk_free(void *start, size_t size);
void __noreturn sdk_panic(const u8 *file, size_t length, u32 line);
void sdk_log(u32 level, const u8 *text, size_t length);
void sdk_random(u8 *bytes, size_t length);
u64 sdk_now(void);
struct sd_lock *sdk_lock_new(u32 kind);
void sdk_lock_free(struct sd_lock *lock);
bool sdk_lock(struct sd_lock *lock);	/* false: the device is dead, and the lock was not taken */
void sdk_unlock(struct sd_lock *lock);
u64 sdk_parameter(u32 number);
int sdk_copy_in(void *to, u64 from, size_t length);
int sdk_copy_out(u64 to, const void *from, size_t length);

enum sd_parameter {
	SD_MAX_CONNECTIONS, SD_MAX_UNAUTHENTICATED, SD_MAX_UNDISPATCHED, SD_MAX_WORKERS, SD_WORKER_MEMORY, SD_MEMORY,
	SD_PARAMETERS
};

/* ---- mem.c ---- */

struct sd_pages *sdk_pages_new(size_t length, void **start);
void sdk_pages_get(struct sd_pages *pages);
void sdk_pages_put(void *pages);
int sd_pages_map(struct sd_pages *pages, struct vm_area_struct *vma);

struct sd_map *sdk_map(struct sd_conn *conn, void *start, size_t length, s32 *error);
void sdk_unmap(struct sd_map *map);
int sd_map_sges(const struct sd_map *map, u32 lkey, u32 *offset, u32 *length, struct ib_sge *sges, u32 room);
int sd_map_part(const struct sd_map *map, u32 offset, u32 length, struct scatterlist *part, u32 room);
void sd_map_sync(const struct sd_map *map, u32 offset, u32 length, bool for_cpu);

/* ---- shard.c ---- */

struct sd_shard *sdk_shard_new(u64 number, struct sd_lock *lock);
void sdk_shard_stop(struct sd_shard *shard);
void sdk_shard_free(struct sd_shard *shard);
void sdk_shard_run(struct sd_shard *shard);
void sdk_shard_run_after(struct sd_shard *shard, u64 delay_ns);
u32 sdk_events(struct sd_shard *shard, struct sd_event *events, u32 room, bool *more);
void sdk_conn_own(struct sd_conn *conn, struct sd_file *file);
void sdk_conn_leave(struct sd_conn *conn);
void sdk_conn_join(struct sd_conn *conn, struct sd_shard *shard, u64 key);

/* ---- conn.c ---- */

void sdk_conn_request(struct sd_conn *conn, struct sd_request *request);
int sdk_conn_setup(struct sd_conn *conn, u64 key, struct sd_depths *depths);
int sdk_conn_accept(struct sd_conn *conn, u32 responder_resources, u32 initiator_depth, const u8 *data, u32 length);
void sdk_conn_reject(struct sd_conn *conn);
void sdk_conn_close(struct sd_conn *conn);
void sdk_conn_free(struct sd_conn *conn);
int sdk_post_recv(struct sd_conn *conn, struct sd_map *map, u32 offset, u32 length);
int sdk_post_send(struct sd_conn *conn, const u8 *header, u32 header_length, struct sd_map *map, u32 offset, u32 length,
		  bool invalidate, u32 token);
int sdk_post_rdma(struct sd_conn *conn, bool read, struct sd_map *map, u32 offset, u32 length, u64 address, u32 token);
int sdk_listen(struct sd_file *file);
void sdk_unlisten(void);

struct ib_device *sd_conn_device(const struct sd_conn *conn);

/* Mirrors struct Address of src/device/abi.rs. */
struct sd_address {
	u8 address[16];
	u64 link_speed;
	u32 interface;
	u32 scope_id;
	u16 port;
	u16 reserved[3];
};

u32 sdk_addresses(const struct sd_file *file, struct sd_address *addresses, u32 room);

/* ---- dev.c ---- */

void sdk_file_get(struct sd_file *file);
void sdk_file_put(struct sd_file *file);
u64 sdk_file_net(const struct sd_file *file);
u32 sdk_file_pid(const struct sd_file *file);
void sdk_file_queue(struct sd_file *file, u32 queue, const u32 *producer, const u32 *consumer);
void sdk_file_ring(struct sd_file *file);	/* wakes; does not sleep */
void sdk_file_messages(struct sd_file *file, u32 count);
void sdk_file_detached(struct sd_file *file);
int sd_dev_register(void);
void sd_dev_unregister(void);

/* ---- the engine ---- */

int sde_init(void);
void sde_stop(void);
void sde_exit(void);
void sde_run(u64 shard);
void *sde_open(struct sd_file *file);
void sde_release(void *engine);
int sde_ioctl(void *engine, u32 command, void *argument, bool writable);
struct sd_pages *sde_mmap(void *engine, u64 offset, u64 length);

#endif
