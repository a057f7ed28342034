/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A connection, for the files that deal with its queue pair and with its events. */
#ifndef SMBDIRECT_CONN_H
#define SMBDIRECT_CONN_H

#include <rdma/ib_verbs.h>

#include "glue.h"

/* Something that the connection manager has reported, until the engine takes it. */
struct sd_note {
	struct list_head list;
	struct sd_conn *conn;
	u32 kind;
	s32 status;
};

struct sd_mr {
	struct list_head list;
	struct ib_mr *mr;
};

/* A work request that is posted, or a free slot for one. */
struct sd_wr {
	struct ib_cqe cqe;
	struct sd_conn *conn;
	struct list_head list;
	struct list_head mrs;
	struct sd_map *map;
	u32 offset;
	u32 extent;
	u32 work;
	u32 slots;
	s32 status;
	u32 length;
	u32 token;
	bool has_token;
	bool is_posted;
	/* The device has reported it. */
	bool is_done;
};

struct sd_conn {
	struct rdma_cm_id *id;
	struct ib_pd *pd;
	struct ib_cq *send_cq;
	struct ib_cq *recv_cq;
	bool is_iwarp;
	bool has_qp;
	u32 sges;
	u32 read_sges;
	u32 mr_pages;
	unsigned long is_closing;
	struct sd_request request;

	/* Under the event lock. Only a holder of the shard's lock changes shard. */
	struct sd_shard *shard;		/* NULL while the connection moves */
	struct list_head ready;		/* in the shard's list, if there are completions to take */
	struct list_head notes;		/* what was reported while the connection moves */
	bool is_closed;
	bool is_unseen;
	struct sd_file *file;
	struct sd_note noted_request, noted_up, noted_down, noted_closed;

	/*
	 * Number of RDMA READs under way: while there are any, the process waits for completions of
	 * the send queue, too.
	 */
	atomic_t reads;

	/* Work requests that have ended, in order. */
	spinlock_t done_lock;
	struct list_head done;

	/* Under the shard's lock. While the connection moves, nobody uses this. */
	u64 key;
	struct sd_wr *wrs;
	u32 wr_count;
	struct list_head free_sends, free_recvs, free_mrs;
	u32 sq_depth, sq_room;
	struct scatterlist *scratch;
	u8 *headers;
	u64 headers_dma;
	struct ib_cqe quiet;

	struct work_struct close_work, free_work;
};

/* ---- shard.c ---- */

/* These run in any context. */
void sd_note(struct sd_note *note, struct sd_conn *conn, u32 kind, s32 status);
void sd_completed(struct ib_cq *cq, void *conn);
void sd_work_done(struct ib_cq *cq, struct ib_wc *wc);

void sd_conn_begin(struct sd_conn *conn);
void sd_put_wr(struct sd_wr *wr);
void sd_assert_held(const struct sd_conn *conn);

#endif
