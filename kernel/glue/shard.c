// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Shards: what happens to connections, and who takes care of it.
 *
 *   sd_note, sd_completed   any context     record what happened, and wake
 *                                           whatever will handle it
 *   sdk_events              shard's lock    poll the completion queues, and
 *                                           report to the engine
 *
 * Each worker has a shard of its own, with the connections that it owns, and a
 * lock. Shard 0, the lobby, has all other connections: new ones belong to it.
 * The lock of a shard guards its connections' queues; nothing here or in the
 * engine takes two of these locks at a time. The event lock, a spinlock, guards
 * which shard a connection belongs to, and the lists of what has happened. It
 * is the only lock that handlers of rdma_cm and of completions take: neither may
 * sleep, and rdma_destroy_id waits for the former.
 *
 * A connection that moves is in no shard for a moment. What happens to it then
 * waits on the connection, and is handled by the shard that it moves to.
 *
 * A completion on a connection with an owner wakes that process, which then
 * handles it in its own context; the shard's work item takes over only if the
 * process does not do so soon. On a connection without an owner, the work item
 * runs at once. Each shard has its own work items, so that one that waits for
 * the lock of its shard holds up no other shard.
 */
#define pr_fmt(fmt) "smbdirect: " fmt

#include <linux/jiffies.h>
#include <linux/poll.h>
#include <linux/slab.h>

#include "conn.h"

#define BATCH 8

struct sd_shard {
	u64 number;
	struct sd_lock *lock;

	/* Under the event lock. */
	struct list_head notes, ready;
	bool is_stopped;

	/* When the timer goes off, in jiffies; under the shard's lock. */
	unsigned long timer_at;
	struct work_struct now_work, free_work;
	struct delayed_work soon_work, later_work, timer;
};

static DEFINE_SPINLOCK(events_lock);
static struct sd_shard *lobby;

/* ---- the life of a shard ---- */

static void run(const struct sd_shard *shard)
{
	atomic64_inc(&sd_runs);
	sde_run(shard->number);
}

static void run_now(struct work_struct *work)
{
	run(container_of(work, struct sd_shard, now_work));
}

static void run_soon(struct work_struct *work)
{
	run(container_of(to_delayed_work(work), struct sd_shard, soon_work));
}

static void run_later(struct work_struct *work)
{
	run(container_of(to_delayed_work(work), struct sd_shard, later_work));
}

static void run_timer(struct work_struct *work)
{
	run(container_of(to_delayed_work(work), struct sd_shard, timer));
}

static void cancel_all(struct sd_shard *shard)
{
	cancel_delayed_work_sync(&shard->timer);
	cancel_delayed_work_sync(&shard->soon_work);
	cancel_delayed_work_sync(&shard->later_work);
	cancel_work_sync(&shard->now_work);
}

static void free_shard(struct work_struct *work)
{
	struct sd_shard *shard = container_of(work, struct sd_shard, free_work);

	cancel_all(shard);
	kfree(shard);
}

/*
 * Makes a shard with this number, which is guarded by this lock. Number 0 is the
 * lobby.
 */
struct sd_shard *sdk_shard_new(u64 number, struct sd_lock *lock)
{
	struct sd_shard *shard = kzalloc(sizeof(*shard), GFP_KERNEL_ACCOUNT | __GFP_NOFAIL);

	shard->number = number;
	shard->lock = lock;
	INIT_LIST_HEAD(&shard->notes);
	INIT_LIST_HEAD(&shard->ready);
	INIT_WORK(&shard->now_work, run_now);
	INIT_WORK(&shard->free_work, free_shard);
	INIT_DELAYED_WORK(&shard->soon_work, run_soon);
	INIT_DELAYED_WORK(&shard->later_work, run_later);
	INIT_DELAYED_WORK(&shard->timer, run_timer);
	if (number == 0)
		lobby = shard;
	return shard;
}

static void stop(struct sd_shard *shard)
{
	spin_lock_irq(&events_lock);
	shard->is_stopped = true;
	spin_unlock_irq(&events_lock);
}

/* From now on nothing runs the shard. Its own work items must not call this. */
void sdk_shard_stop(struct sd_shard *shard)
{
	stop(shard);
	cancel_all(shard);
}

/* Frees a shard without connections. Its own work items may call this. */
void sdk_shard_free(struct sd_shard *shard)
{
	stop(shard);
	queue_work(sd_closer, &shard->free_work);
}

/* Called under the event lock. */
static void queue_now(struct sd_shard *shard)
{
	if (!shard->is_stopped)
		queue_work(sd_workqueue, &shard->now_work);
}

/* Has a work item run the shard. */
void sdk_shard_run(struct sd_shard *shard)
{
	spin_lock_irq(&events_lock);
	queue_now(shard);
	spin_unlock_irq(&events_lock);
}

/* Has a work item run the shard after this time, unless one does so before. */
void sdk_shard_run_after(struct sd_shard *shard, u64 delay_ns)
{
	unsigned long at = jiffies + nsecs_to_jiffies(min_t(u64, delay_ns, 3600ULL * NSEC_PER_SEC)) + 1;

	lockdep_assert_held(shard->lock);
	/*
	 * A timer that goes off too soon does no harm: it finds nothing to do,
	 * and sets the next one.
	 */
	if (delayed_work_pending(&shard->timer) && time_before_eq(shard->timer_at, at))
		return;
	shard->timer_at = at;
	spin_lock_irq(&events_lock);
	if (!shard->is_stopped)
		mod_delayed_work(sd_workqueue, &shard->timer, at - jiffies);
	spin_unlock_irq(&events_lock);
}

/* Checks that the engine, which calls, holds the lock of the connection's shard. */
void sd_assert_held(const struct sd_conn *conn)
{
	lockdep_assert_held(conn->shard->lock);
}

/* ---- what happened ---- */

/*
 * Records what a connection manager has reported, for the shard that has the
 * connection.
 */
void sd_note(struct sd_note *note, struct sd_conn *conn, u32 kind, s32 status)
{
	unsigned long flags;

	spin_lock_irqsave(&events_lock, flags);
	/*
	 * Only the first note of a kind counts. Nothing may follow the end,
	 * because the connection is about to be freed.
	 */
	if (!note->kind && !conn->is_closed) {
		*note = (struct sd_note){ .conn = conn, .kind = kind, .status = status };
		list_add_tail(&note->list, conn->shard ? &conn->shard->notes : &conn->notes);
		if (conn->shard)
			queue_now(conn->shard);
	}
	spin_unlock_irqrestore(&events_lock, flags);
}

/* Runs in whatever context the device's driver calls it in. */
void sd_completed(struct ib_cq *cq, void *context)
{
	struct sd_conn *conn = context;
	bool is_awaited = cq == conn->recv_cq || atomic_read(&conn->reads);
	struct sd_shard *shard;
	unsigned long flags;

	spin_lock_irqsave(&events_lock, flags);
	shard = conn->shard;
	/* The shard that a moving connection comes to looks for completions. */
	if (conn->is_closed || !shard || shard->is_stopped)
		goto out;
	if (list_empty(&conn->ready))
		list_add_tail(&conn->ready, &shard->ready);
	if (!conn->file) {
		queue_now(shard);
	} else if (is_awaited) {
		if (!conn->is_unseen) {
			conn->is_unseen = true;
			atomic_inc(&conn->file->unseen);
		}
		wake_up_interruptible_poll(&conn->file->wait, EPOLLIN | EPOLLRDNORM);
		/* With the 1, the work item waits at least one whole tick. */
		queue_delayed_work(sd_workqueue, &shard->soon_work, msecs_to_jiffies(4) + 1);
	} else {
		queue_delayed_work(sd_workqueue, &shard->later_work, msecs_to_jiffies(20));
	}
out:
	spin_unlock_irqrestore(&events_lock, flags);
}

static void seen(struct sd_conn *conn)
{
	if (conn->is_unseen) {
		conn->is_unseen = false;
		atomic_dec(&conn->file->unseen);
	}
}

/*
 * From now on the process of this file handles the connection's completions,
 * or, with NULL, the work item does.
 */
void sdk_conn_own(struct sd_conn *conn, struct sd_file *file)
{
	struct sd_file *before;

	sd_assert_held(conn);
	if (file)
		sdk_file_get(file);
	spin_lock_irq(&events_lock);
	seen(conn);
	before = conn->file;
	conn->file = file;
	/* Handle completions that came meanwhile. */
	queue_now(conn->shard);
	spin_unlock_irq(&events_lock);
	if (before)
		sdk_file_put(before);
}

/* A connection that a peer asks for belongs to the lobby. */
void sd_conn_begin(struct sd_conn *conn)
{
	conn->shard = lobby;
	INIT_LIST_HEAD(&conn->ready);
	INIT_LIST_HEAD(&conn->notes);
	INIT_LIST_HEAD(&conn->noted_request.list);
	INIT_LIST_HEAD(&conn->noted_up.list);
	INIT_LIST_HEAD(&conn->noted_down.list);
	INIT_LIST_HEAD(&conn->noted_closed.list);
}

/* Takes a connection out of its shard; no process owns it any longer. */
void sdk_conn_leave(struct sd_conn *conn)
{
	/* In the order in which they come. */
	struct sd_note *noted[] = { &conn->noted_request, &conn->noted_up, &conn->noted_down, &conn->noted_closed };
	struct sd_file *file;
	int i;

	sd_assert_held(conn);
	spin_lock_irq(&events_lock);
	for (i = 0; i < ARRAY_SIZE(noted); i++)
		if (!list_empty(&noted[i]->list))
			list_move_tail(&noted[i]->list, &conn->notes);
	list_del_init(&conn->ready);
	seen(conn);
	file = conn->file;
	conn->file = NULL;
	conn->shard = NULL;
	spin_unlock_irq(&events_lock);
	if (file)
		sdk_file_put(file);
}

/*
 * Puts a connection into a shard, whose lock the caller holds. From now on its
 * events carry this key.
 */
void sdk_conn_join(struct sd_conn *conn, struct sd_shard *shard, u64 key)
{
	lockdep_assert_held(shard->lock);
	conn->key = key;
	spin_lock_irq(&events_lock);
	conn->shard = shard;
	list_splice_tail_init(&conn->notes, &shard->notes);
	/*
	 * Whatever completed meanwhile has disarmed the completion queues, so
	 * look at them.
	 */
	list_add_tail(&conn->ready, &shard->ready);
	queue_now(shard);
	spin_unlock_irq(&events_lock);
}

void sd_work_done(struct ib_cq *cq, struct ib_wc *wc)
{
	struct sd_wr *wr = container_of(wc->wr_cqe, struct sd_wr, cqe);
	struct sd_conn *conn = wr->conn;

	spin_lock_bh(&conn->done_lock);
	/* A second report was seen once, with siw (docs/interop.md). */
	if (wr->is_posted && !wr->is_done) {
		wr->is_done = true;
		wr->status = wc->status;
		wr->length = wc->byte_len;
		wr->has_token = wc->status == IB_WC_SUCCESS && wr->work == SD_RECV &&
				(wc->wc_flags & IB_WC_WITH_INVALIDATE);
		wr->token = wc->ex.invalidate_rkey;
		list_add_tail(&wr->list, &conn->done);
	}
	spin_unlock_bh(&conn->done_lock);
}

static int poll(struct ib_cq *cq)
{
	struct ib_wc wcs[BATCH];
	int i, count = ib_poll_cq(cq, BATCH, wcs);

	for (i = 0; i < count; i++)
		wcs[i].wr_cqe->done(cq, &wcs[i]);
	return max(count, 0);
}

/* Takes back a work request that the device no longer has. */
void sd_put_wr(struct sd_wr *wr)
{
	struct sd_conn *conn = wr->conn;

	if (wr->work == SD_READ)
		atomic_dec(&conn->reads);
	wr->is_posted = false;
	list_splice_init(&wr->mrs, &conn->free_mrs);
	conn->sq_room += wr->slots;
	list_add(&wr->list, wr->work == SD_RECV ? &conn->free_recvs : &conn->free_sends);
	atomic_dec(&sd_wrs);
}

static u32 take_done(struct sd_conn *conn, struct sd_event *events, u32 room)
{
	u32 count = 0;

	while (count < room) {
		struct sd_wr *wr;

		spin_lock_bh(&conn->done_lock);
		wr = list_first_entry_or_null(&conn->done, struct sd_wr, list);
		if (wr)
			list_del(&wr->list);
		spin_unlock_bh(&conn->done_lock);
		if (!wr)
			break;
		if (wr->status == IB_WC_SUCCESS && (wr->work == SD_RECV || wr->work == SD_READ))
			sd_map_sync(wr->map, wr->offset, wr->extent, true);
		events[count++] = (struct sd_event){
			.conn = conn, .key = conn->key, .kind = SD_EVENT_DONE, .work = wr->work, .status = wr->status,
			.length = wr->length, .token = wr->token, .has_token = wr->has_token,
		};
		sd_put_wr(wr);
	}
	return count;
}

/*
 * Takes what has completed, and asks for a notification once nothing is left.
 */
static u32 take(struct sd_conn *conn, struct sd_event *events, u32 room, bool *more)
{
	const enum ib_cq_notify_flags flags = IB_CQ_NEXT_COMP | IB_CQ_REPORT_MISSED_EVENTS;
	u32 count = 0;

	for (;;) {
		count += take_done(conn, events + count, room - count);
		if (count == room) {
			*more = true;
			return count;
		}
		if (poll(conn->recv_cq) + poll(conn->send_cq))
			continue;
		/* The operator | calls both, whatever the first call returns. */
		if ((ib_req_notify_cq(conn->recv_cq, flags) > 0) | (ib_req_notify_cq(conn->send_cq, flags) > 0))
			continue;
		*more = false;
		return count;
	}
}

/* Takes what the connection managers have reported, and what has completed. */
u32 sdk_events(struct sd_shard *shard, struct sd_event *events, u32 room, bool *more)
{
	struct sd_note *note;
	struct sd_conn *conn;
	u32 count = 0;

	lockdep_assert_held(shard->lock);
	*more = true;
	while (count < room) {
		spin_lock_irq(&events_lock);
		note = list_first_entry_or_null(&shard->notes, struct sd_note, list);
		spin_unlock_irq(&events_lock);
		if (!note)
			break;
		conn = note->conn;
		if (note->kind == SD_EVENT_CLOSED) {
			count += take_done(conn, events + count, room - count);
			if (count == room)
				return count;
		}
		spin_lock_irq(&events_lock);
		list_del_init(&note->list);
		if (note->kind == SD_EVENT_CLOSED) {
			conn->is_closed = true;
			list_del_init(&conn->noted_up.list);
			list_del_init(&conn->noted_down.list);
			list_del_init(&conn->ready);
			seen(conn);
		}
		spin_unlock_irq(&events_lock);
		events[count++] = (struct sd_event){
			.conn = conn, .key = conn->key, .kind = note->kind, .status = note->status,
		};
	}
	while (count < room) {
		bool has_more;

		spin_lock_irq(&events_lock);
		conn = list_first_entry_or_null(&shard->ready, struct sd_conn, ready);
		if (conn) {
			list_del_init(&conn->ready);
			seen(conn);
		} else {
			/*
			 * The work items are cancelled under the lock, so that those which a later
			 * completion queues stay queued.
			 */
			cancel_delayed_work(&shard->soon_work);
			cancel_delayed_work(&shard->later_work);
		}
		spin_unlock_irq(&events_lock);
		if (!conn) {
			*more = false;
			break;
		}
		count += take(conn, events + count, room - count, &has_more);
		if (!has_more)
			continue;
		spin_lock_irq(&events_lock);
		if (!conn->is_closed && list_empty(&conn->ready))
			list_add_tail(&conn->ready, &shard->ready);
		spin_unlock_irq(&events_lock);
	}
	return count;
}
