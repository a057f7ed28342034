// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Connections: rdma_cm, queue pairs, completion queues.
 *
 *   cm_handler    any context     record what happened: see shard.c
 *   sdk_post_*    shard's lock    post
 *   close_work    no lock         disconnect, and wait until nothing is posted
 *
 * Handlers of rdma_cm never take the lock of a shard, because rdma_destroy_id
 * waits for them.
 */
#define pr_fmt(fmt) "smbdirect: " fmt

#include <linux/ethtool.h>
#include <linux/inetdevice.h>
#include <linux/jiffies.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/netdevice.h>
#include <linux/rtnetlink.h>
#include <linux/slab.h>
#include <net/addrconf.h>
#include <net/if_inet6.h>
#include <net/ipv6.h>
#include <net/net_namespace.h>
#include <rdma/ib_cm.h>
#include <rdma/ib_verbs.h>
#include <rdma/iw_cm.h>
#include <rdma/rdma_cm.h>

#include "conn.h"

/*
 * How much may be posted at a time: SENDs and RDMA WRITEs together, receives, and RDMA READs.
 */
#define SENDS 128
#define RECVS 320
#define READS 32
/* Depth of the send queue: long transfers need more than one work request. */
#define SQ_DEPTH 512
#define HEADER 32
#define SGES 6
/* Maximum number of pages in one registration. */
#define MR_PAGES 256
#define BACKLOG 1024
#define PORTS 4

static unsigned int ports[PORTS] = { 5445 };
static int port_count = 1;
module_param_array(ports, uint, &port_count, 0444);
MODULE_PARM_DESC(ports, "RDMA ports to listen on (5445). Add 445 only if every RDMA device is InfiniBand or RoCE: iWARP devices would take TCP port 445 from smbd");

struct ib_device *sd_conn_device(const struct sd_conn *conn)
{
	return conn->id->device;
}

/* ---- posting ---- */

/*
 * Called for a request that only prepares another request or is a part of it. If such a request
 * fails, so does the other one, which reports the failure.
 */
static void quiet_done(struct ib_cq *cq, struct ib_wc *wc)
{
}

static struct sd_wr *get_wr(struct sd_conn *conn, u32 work, struct sd_map *map, u32 offset, u32 extent)
{
	struct list_head *free = work == SD_RECV ? &conn->free_recvs : &conn->free_sends;
	struct sd_wr *wr = list_first_entry_or_null(free, struct sd_wr, list);

	if (!wr)
		return NULL;
	list_del(&wr->list);
	wr->is_posted = true;
	wr->is_done = false;
	wr->work = work;
	wr->slots = 0;
	wr->map = map;
	wr->offset = offset;
	wr->extent = extent;
	atomic_inc(&sd_wrs);
	if (work == SD_READ)
		atomic_inc(&conn->reads);
	if (map)
		sd_map_sync(map, offset, extent, false);
	return wr;
}

int sdk_post_recv(struct sd_conn *conn, struct sd_map *map, u32 offset, u32 length)
{
	struct ib_sge sges[SGES];
	struct ib_recv_wr request = { .sg_list = sges };
	struct sd_wr *wr;
	int error;

	sd_assert_held(conn);
	wr = get_wr(conn, SD_RECV, map, offset, length);
	if (!wr)
		return -EAGAIN;
	request.wr_cqe = &wr->cqe;
	request.num_sge = sd_map_sges(map, conn->pd->local_dma_lkey, &offset, &length, sges, conn->sges);
	error = length ? -EMSGSIZE : ib_post_recv(conn->id->qp, &request, NULL);
	if (error)
		sd_put_wr(wr);
	return error;
}

int sdk_post_send(struct sd_conn *conn, const u8 *header, u32 header_length, struct sd_map *map, u32 offset, u32 length,
		  bool invalidate, u32 token)
{
	struct sd_wr *wr;
	struct ib_sge sges[SGES];
	struct ib_send_wr request = { .sg_list = sges, .send_flags = IB_SEND_SIGNALED };
	int error;

	sd_assert_held(conn);
	if (header_length > HEADER)
		return -EMSGSIZE;
	if (!conn->sq_room)
		return -EAGAIN;
	wr = get_wr(conn, SD_SEND, length ? map : NULL, offset, length);
	if (!wr)
		return -EAGAIN;
	request.wr_cqe = &wr->cqe;
	request.opcode = invalidate ? IB_WR_SEND_WITH_INV : IB_WR_SEND;
	if (invalidate)
		request.ex.invalidate_rkey = token;
	if (header_length) {
		u32 place = (wr - conn->wrs) * HEADER;

		memcpy(conn->headers + place, header, header_length);
		ib_dma_sync_single_for_device(conn->id->device, conn->headers_dma + place, header_length, DMA_TO_DEVICE);
		sges[0] = (struct ib_sge){
			.addr = conn->headers_dma + place, .length = header_length, .lkey = conn->pd->local_dma_lkey,
		};
		request.num_sge = 1;
	}
	if (length)
		request.num_sge += sd_map_sges(map, conn->pd->local_dma_lkey, &offset, &length,
					       sges + request.num_sge, conn->sges - request.num_sge);
	error = length ? -EMSGSIZE : ib_post_send(conn->id->qp, &request, NULL);
	if (error) {
		sd_put_wr(wr);
		return error;
	}
	conn->sq_room--;
	wr->slots = 1;
	return 0;
}

/*
 * Posts a transfer, in as many requests as its pieces of memory need. Only the
 * last one reports. If posting fails halfway, the queue pair takes no more
 * work, and the connection ends: the device flushes what it has.
 */
static int post_pieces(struct sd_conn *conn, struct sd_wr *wr, bool read, struct sd_map *map, u32 offset, u32 length,
		       u64 address, u32 token)
{
	u32 most = read ? conn->read_sges : conn->sges;

	do {
		struct ib_sge sges[SGES];
		struct ib_rdma_wr request = {
			.wr = { .sg_list = sges, .opcode = read ? IB_WR_RDMA_READ : IB_WR_RDMA_WRITE, .wr_cqe = &conn->quiet },
			.remote_addr = address,
			.rkey = token,
		};
		u32 before = length;
		int error;

		if (!conn->sq_room)
			return -ENOSPC;
		request.wr.num_sge = sd_map_sges(map, conn->pd->local_dma_lkey, &offset, &length, sges, most);
		address += before - length;
		if (!length) {
			request.wr.wr_cqe = &wr->cqe;
			request.wr.send_flags = IB_SEND_SIGNALED;
		} else if (before == length) {
			return -EINVAL;
		}
		error = ib_post_send(conn->id->qp, &request.wr, NULL);
		if (error)
			return error;
		conn->sq_room--;
		wr->slots++;
	} while (length);
	return 0;
}

static struct sd_mr *get_mr(struct sd_conn *conn)
{
	struct sd_mr *mr = list_first_entry_or_null(&conn->free_mrs, struct sd_mr, list);

	if (mr) {
		list_del(&mr->list);
		return mr;
	}
	mr = kzalloc(sizeof(*mr), GFP_KERNEL_ACCOUNT);
	if (!mr)
		return NULL;
	mr->mr = ib_alloc_mr(conn->pd, IB_MR_TYPE_MEM_REG, conn->mr_pages);
	if (IS_ERR(mr->mr)) {
		kfree(mr);
		return NULL;
	}
	return mr;
}

/*
 * The peer must be able to write to the sink of an iWARP RDMA READ. So each
 * READ registers just the bytes that it needs, and the device invalidates the
 * registration when the data has arrived.
 */
static int post_registered(struct sd_conn *conn, struct sd_wr *wr, struct sd_map *map, u32 offset, u32 length,
			   u64 address, u32 token)
{
	do {
		struct ib_sge sge;
		struct ib_rdma_wr read = {
			.wr = { .sg_list = &sge, .num_sge = 1, .opcode = IB_WR_RDMA_READ_WITH_INV, .wr_cqe = &conn->quiet },
			.remote_addr = address,
			.rkey = token,
		};
		struct ib_reg_wr registration = {
			.wr = { .opcode = IB_WR_REG_MR, .wr_cqe = &conn->quiet, .next = &read.wr },
			.access = IB_ACCESS_LOCAL_WRITE | IB_ACCESS_REMOTE_WRITE,
		};
		u32 from = offset, piece = length;
		struct sd_mr *mr;
		int error, count;

		if (conn->sq_room < 2)
			return -ENOSPC;
		/* Find out how far into a page the piece begins. */
		sd_map_sges(map, 0, &from, &piece, &sge, 1);
		piece = min_t(u32, length, (conn->mr_pages << PAGE_SHIFT) - offset_in_page(sge.addr));
		mr = get_mr(conn);
		if (!mr)
			return -ENOMEM;
		list_add(&mr->list, &wr->mrs);
		count = sd_map_part(map, offset, piece, conn->scratch, conn->mr_pages + 1);
		if (count < 0)
			return count;
		ib_update_fast_reg_key(mr->mr, ib_inc_rkey(mr->mr->rkey));
		if (ib_map_mr_sg(mr->mr, conn->scratch, count, NULL, PAGE_SIZE) != count)
			return -EIO;
		registration.mr = mr->mr;
		registration.key = mr->mr->rkey;
		sge = (struct ib_sge){ .addr = mr->mr->iova, .length = piece, .lkey = mr->mr->lkey };
		read.wr.ex.invalidate_rkey = mr->mr->rkey;
		offset += piece;
		address += piece;
		length -= piece;
		if (!length) {
			read.wr.wr_cqe = &wr->cqe;
			read.wr.send_flags = IB_SEND_SIGNALED;
		}
		error = ib_post_send(conn->id->qp, &registration.wr, NULL);
		if (error)
			return error;
		conn->sq_room -= 2;
		wr->slots += 2;
	} while (length);
	return 0;
}

int sdk_post_rdma(struct sd_conn *conn, bool is_read, struct sd_map *map, u32 offset, u32 length, u64 address, u32 token)
{
	struct sd_wr *wr;
	int error;
	/* The worst case: every piece is as short as possible. */
	u32 pieces = (length >> PAGE_SHIFT) + 2;
	u32 need = is_read && conn->is_iwarp ? 2 * (pieces / conn->mr_pages + 2) :
					       pieces / (is_read ? conn->read_sges : conn->sges) + 1;

	sd_assert_held(conn);
	if (conn->sq_room < min(need, conn->sq_depth))
		return -EAGAIN;
	wr = get_wr(conn, is_read ? SD_READ : SD_WRITE, map, offset, length);
	if (!wr)
		return -EAGAIN;
	if (is_read && conn->is_iwarp && length)
		error = post_registered(conn, wr, map, offset, length, address, token);
	else
		error = post_pieces(conn, wr, is_read, map, offset, length, address, token);
	/*
	 * The parts that were posted stay posted until the queue pair is gone.
	 */
	if (error)
		sd_put_wr(wr);
	return error;
}

/* ---- the life of a connection ---- */

static void to_address(const struct sockaddr_storage *address, u8 ip[16], u16 *port, u32 *scope)
{
	if (address->ss_family == AF_INET) {
		const struct sockaddr_in *in = (const void *)address;
		struct in6_addr mapped;

		ipv6_addr_set_v4mapped(in->sin_addr.s_addr, &mapped);
		memcpy(ip, &mapped, 16);
		*port = ntohs(in->sin_port);
	} else {
		const struct sockaddr_in6 *in = (const void *)address;

		memcpy(ip, &in->sin6_addr, 16);
		*port = ntohs(in->sin6_port);
		*scope = in->sin6_scope_id;
	}
}

static void close_conn(struct work_struct *work)
{
	struct sd_conn *conn = container_of(work, struct sd_conn, close_work);

	if (conn->has_qp) {
		rdma_disconnect(conn->id);
		ib_drain_qp(conn->id->qp);
	}
	sd_note(&conn->noted_closed, conn, SD_EVENT_CLOSED, 0);
}

/*
 * Takes back the work requests whose end the device has not reported, and the
 * registrations that they have. The queue pair is gone, so nothing will report
 * them any longer, and nothing uses the registrations.
 *
 * When siw disconnects while nothing is being sent, it does not flush RDMA READs
 * that wait for their responses. ib_drain_qp does not notice: siw flushes its
 * request at once.
 */
static void take_back(struct sd_conn *conn)
{
	u32 i;

	for (i = 0; i < conn->wr_count; i++) {
		if (!conn->wrs[i].is_posted)
			continue;
		sd_put_wr(&conn->wrs[i]);
		atomic64_inc(&sd_unreported);
	}
}

static void free_mrs(struct sd_conn *conn)
{
	struct sd_mr *mr, *next;

	list_for_each_entry_safe(mr, next, &conn->free_mrs, list) {
		ib_dereg_mr(mr->mr);
		kfree(mr);
	}
}

/* Frees what sdk_conn_setup made, even if it failed halfway. */
static void free_queues(struct sd_conn *conn)
{
	struct ib_device *device = conn->id->device;

	if (conn->has_qp)
		rdma_destroy_qp(conn->id);
	conn->has_qp = false;
	take_back(conn);
	free_mrs(conn);
	if (!IS_ERR_OR_NULL(conn->send_cq))
		ib_destroy_cq(conn->send_cq);
	if (!IS_ERR_OR_NULL(conn->recv_cq))
		ib_destroy_cq(conn->recv_cq);
	if (conn->headers_dma)
		ib_dma_unmap_single(device, conn->headers_dma, SENDS * HEADER, DMA_TO_DEVICE);
	if (!IS_ERR_OR_NULL(conn->pd))
		ib_dealloc_pd(conn->pd);
	kvfree(conn->wrs);
	kvfree(conn->scratch);
	kfree(conn->headers);
	conn->send_cq = conn->recv_cq = NULL;
	conn->pd = NULL;
	conn->wrs = NULL;
	conn->wr_count = 0;
	conn->scratch = NULL;
	conn->headers = NULL;
	conn->headers_dma = 0;
}

static void free_conn(struct work_struct *work)
{
	struct sd_conn *conn = container_of(work, struct sd_conn, free_work);

	free_queues(conn);
	rdma_destroy_id(conn->id);
	if (conn->file)
		sdk_file_put(conn->file);
	kfree(conn);
	atomic_dec(&sd_conns);
}

/*
 * Frees a connection that has nothing posted and no mappings. The engine no
 * longer uses it.
 */
void sdk_conn_free(struct sd_conn *conn)
{
	queue_work(sd_closer, &conn->free_work);
}

/* Ends a connection; SD_EVENT_CLOSED follows once nothing is posted. */
void sdk_conn_close(struct sd_conn *conn)
{
	if (!test_and_set_bit(0, &conn->is_closing))
		queue_work(sd_closer, &conn->close_work);
}

void sdk_conn_reject(struct sd_conn *conn)
{
	u8 reason = conn->is_iwarp ? 0 : IB_CM_REJ_CONSUMER_DEFINED;

	sd_assert_held(conn);
	rdma_lock_handler(conn->id);
	rdma_reject(conn->id, NULL, 0, reason);
	rdma_unlock_handler(conn->id);
	sdk_conn_close(conn);
}

void sdk_conn_request(struct sd_conn *conn, struct sd_request *request)
{
	*request = conn->request;
}

static void qp_event(struct ib_event *event, void *context)
{
	struct sd_conn *conn = context;

	if (event->event == IB_EVENT_COMM_EST)
		rdma_notify(conn->id, IB_EVENT_COMM_EST);
}

static int make_queues(struct sd_conn *conn, struct sd_depths *depths)
{
	struct ib_device *device = conn->id->device;
	const struct ib_device_attr *attrs = &device->attrs;
	struct ib_qp_init_attr init = {
		.qp_type = IB_QPT_RC, .sq_sig_type = IB_SIGNAL_REQ_WR, .event_handler = qp_event, .qp_context = conn,
		.port_num = conn->id->port_num,
	};
	struct ib_cq_init_attr cq = { };
	u32 i, sends, recvs, sq_depth;

	recvs = min_t(u32, RECVS, attrs->max_qp_wr - 1);
	sq_depth = min_t(u32, SQ_DEPTH, attrs->max_qp_wr - 1);
	sends = min_t(u32, SENDS, sq_depth / 2);
	conn->sges = min_t(u32, SGES, attrs->max_send_sge);
	conn->read_sges = clamp_t(u32, attrs->max_sge_rd, 1, conn->sges);
	conn->mr_pages = min_t(u32, MR_PAGES, attrs->max_fast_reg_page_list_len);
	if (conn->sges < 2 || (conn->is_iwarp && conn->mr_pages < 2)) {
		pr_warn_once("%s cannot be used: it takes %u sges per request (minimum 2) and %u pages per registration (minimum 2 for iWARP)\n",
			     device->name, conn->sges, conn->mr_pages);
		return -EOPNOTSUPP;
	}
	conn->pd = ib_alloc_pd(device, 0);
	if (IS_ERR(conn->pd))
		return PTR_ERR(conn->pd);
	conn->wrs = kvcalloc(SENDS + recvs, sizeof(*conn->wrs), GFP_KERNEL_ACCOUNT);
	conn->scratch = kvcalloc(conn->mr_pages + 1, sizeof(*conn->scratch), GFP_KERNEL_ACCOUNT);
	conn->headers = kcalloc(SENDS, HEADER, GFP_KERNEL_ACCOUNT);
	if (!conn->wrs || !conn->scratch || !conn->headers)
		return -ENOMEM;
	conn->headers_dma = ib_dma_map_single(device, conn->headers, SENDS * HEADER, DMA_TO_DEVICE);
	if (ib_dma_mapping_error(device, conn->headers_dma)) {
		conn->headers_dma = 0;
		return -ENOMEM;
	}
	for (i = 0; i < SENDS + recvs; i++) {
		struct sd_wr *wr = &conn->wrs[i];

		wr->cqe.done = sd_work_done;
		wr->conn = conn;
		INIT_LIST_HEAD(&wr->mrs);
		if (i < sends)
			list_add_tail(&wr->list, &conn->free_sends);
		else if (i >= SENDS)
			list_add_tail(&wr->list, &conn->free_recvs);
	}
	conn->wr_count = SENDS + recvs;
	conn->sq_depth = conn->sq_room = sq_depth;
	/* Each queue has room for one more request, which ib_drain_qp posts. */
	cq.cqe = min_t(u32, recvs + 1, attrs->max_cqe);
	conn->recv_cq = ib_create_cq(device, sd_completed, NULL, conn, &cq);
	if (IS_ERR(conn->recv_cq))
		return PTR_ERR(conn->recv_cq);
	cq.cqe = min_t(u32, sq_depth + 1, attrs->max_cqe);
	cq.comp_vector = 0;
	conn->send_cq = ib_create_cq(device, sd_completed, NULL, conn, &cq);
	if (IS_ERR(conn->send_cq))
		return PTR_ERR(conn->send_cq);
	init.send_cq = conn->send_cq;
	init.recv_cq = conn->recv_cq;
	init.cap.max_send_wr = sq_depth + 1;
	init.cap.max_recv_wr = recvs + 1;
	init.cap.max_send_sge = conn->sges;
	init.cap.max_recv_sge = min_t(u32, conn->sges, attrs->max_recv_sge);
	i = rdma_create_qp(conn->id, conn->pd, &init);
	if (i)
		return i;
	conn->has_qp = true;
	*depths = (struct sd_depths){
		.sends = sends,
		.recvs = recvs,
		.reads = min_t(u32, READS, sends / 2),
		.initiator_depth = attrs->max_qp_init_rd_atom,
		.responder_resources = attrs->max_qp_rd_atom,
		.sends_invalidate = !!(attrs->device_cap_flags & IB_DEVICE_MEM_MGT_EXTENSIONS),
	};
	ib_req_notify_cq(conn->recv_cq, IB_CQ_NEXT_COMP);
	ib_req_notify_cq(conn->send_cq, IB_CQ_NEXT_COMP);
	return 0;
}

/*
 * Makes the queues of a requested connection. From now on the connection's events carry the key.
 */
int sdk_conn_setup(struct sd_conn *conn, u64 key, struct sd_depths *depths)
{
	int error;

	sd_assert_held(conn);
	conn->key = key;
	rdma_lock_handler(conn->id);
	error = make_queues(conn, depths);
	rdma_unlock_handler(conn->id);
	if (error)
		free_queues(conn);
	return error;
}

int sdk_conn_accept(struct sd_conn *conn, u32 responder_resources, u32 initiator_depth, const u8 *data, u32 length)
{
	struct rdma_conn_param param = {
		.responder_resources = responder_resources, .initiator_depth = initiator_depth, .retry_count = 7,
		.private_data = length ? data : NULL, .private_data_len = length,
	};
	int error;

	sd_assert_held(conn);
	rdma_lock_handler(conn->id);
	error = rdma_accept(conn->id, &param);
	rdma_unlock_handler(conn->id);
	return error;
}

static int requested(struct rdma_cm_id *id, const struct rdma_cm_event *event)
{
	const struct rdma_conn_param *param = &event->param.conn;
	struct sd_request *request;
	struct sd_conn *conn;

	/*
	 * The limit covers connections that have negotiated, as many that have
	 * not, and as many that are ending.
	 */
	if (atomic_read(&sd_conns) >= 3 * sdk_parameter(SD_MAX_CONNECTIONS))
		return -ENOBUFS;
	conn = kzalloc(sizeof(*conn), GFP_KERNEL_ACCOUNT);
	if (!conn)
		return -ENOMEM;
	conn->id = id;
	conn->is_iwarp = rdma_protocol_iwarp(id->device, id->port_num);
	sd_conn_begin(conn);
	INIT_LIST_HEAD(&conn->done);
	INIT_LIST_HEAD(&conn->free_sends);
	INIT_LIST_HEAD(&conn->free_recvs);
	INIT_LIST_HEAD(&conn->free_mrs);
	INIT_WORK(&conn->close_work, close_conn);
	INIT_WORK(&conn->free_work, free_conn);
	spin_lock_init(&conn->done_lock);
	conn->quiet.done = quiet_done;
	request = &conn->request;
	to_address(&id->route.addr.dst_addr, request->peer, &request->peer_port, &request->peer_scope);
	to_address(&id->route.addr.src_addr, request->local, &request->local_port, &request->local_scope);
	request->responder_resources = param->responder_resources;
	request->initiator_depth = param->initiator_depth;
	request->is_iwarp = conn->is_iwarp;
	request->private_data_len = min_t(u32, param->private_data_len, sizeof(request->private_data));
	if (param->private_data)
		memcpy(request->private_data, param->private_data, request->private_data_len);
	else
		request->private_data_len = 0;
	id->context = conn;
	atomic_inc(&sd_conns);
	sd_note(&conn->noted_request, conn, SD_EVENT_REQUEST, 0);
	return 0;
}

static int cm_handler(struct rdma_cm_id *id, struct rdma_cm_event *event)
{
	struct sd_conn *conn = id->context;
	s32 status = event->status < 0 ? event->status : -ECONNRESET;

	switch (event->event) {
	case RDMA_CM_EVENT_CONNECT_REQUEST:
		return requested(id, event);
	case RDMA_CM_EVENT_TIMEWAIT_EXIT:
	case RDMA_CM_EVENT_ADDR_CHANGE:
		return 0;
	case RDMA_CM_EVENT_DISCONNECTED:
		if (event->status >= 0)
			status = SD_DOWN_PEER;
		break;
	case RDMA_CM_EVENT_REJECTED:
		status = SD_DOWN_REJECTED;
		break;
	case RDMA_CM_EVENT_DEVICE_REMOVAL:
		status = SD_DOWN_DEVICE;
		break;
	default:
		break;
	}
	if (!conn)
		return 0;
	if (event->event == RDMA_CM_EVENT_ESTABLISHED)
		sd_note(&conn->noted_up, conn, SD_EVENT_ESTABLISHED, 0);
	else
		sd_note(&conn->noted_down, conn, SD_EVENT_DOWN, status);
	return 0;
}

/* ---- listeners ---- */

static struct rdma_cm_id *listeners[2 * PORTS];

static struct rdma_cm_id *listen(struct net *net, int family, u16 port)
{
	union {
		struct sockaddr any;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
	} address = { };
	struct rdma_cm_id *id = rdma_create_id(net, cm_handler, NULL, RDMA_PS_TCP, IB_QPT_RC);
	int error;

	if (IS_ERR(id))
		return id;
	address.any.sa_family = family;
	if (family == AF_INET) {
		address.in.sin_port = htons(port);
		error = 0;
	} else {
		address.in6.sin6_port = htons(port);
		error = rdma_set_afonly(id, 1);
	}
	if (!error)
		error = rdma_bind_addr(id, &address.any);
	if (!error)
		error = rdma_listen(id, BACKLOG);
	if (!error)
		return id;
	rdma_destroy_id(id);
	return ERR_PTR(error);
}

/*
 * Listens in the network namespace in which the file was opened. Succeeds if it
 * can listen with either address family.
 */
int sdk_listen(struct sd_file *file)
{
	int i, count = 0, error = 0;

	for (i = 0; i < 2 * port_count; i++) {
		int family = i % 2 ? AF_INET6 : AF_INET;
		struct rdma_cm_id *id = listen(file->net, family, ports[i / 2]);

		if (!IS_ERR(id)) {
			listeners[count++] = id;
			continue;
		}
		error = PTR_ERR(id);
		if (family == AF_INET6 && error == -EAFNOSUPPORT)
			continue;
		pr_warn("cannot listen on %s port %u: error %d%s\n", family == AF_INET ? "IPv4" : "IPv6", ports[i / 2],
			error, error == -EADDRINUSE ?
			": another program does already; ksmbd and smbdirectd use the same port" : "");
	}
	return count ? 0 : error;
}

/* Waits for handlers that are running; they take no lock. */
void sdk_unlisten(void)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(listeners); i++) {
		if (listeners[i])
			rdma_destroy_id(listeners[i]);
		listeners[i] = NULL;
	}
}

/*
 * Returns bits per second. Interfaces without a known speed, such as virtual
 * ones, count as 10 Gbit/s.
 */
static u64 speed_of(struct net_device *netdev)
{
	struct ethtool_link_ksettings settings = { };

	if (!__ethtool_get_link_ksettings(netdev, &settings) && settings.base.speed &&
	    settings.base.speed != (u32)SPEED_UNKNOWN)
		return (u64)settings.base.speed * 1000000;
	return 10ULL * 1000 * 1000 * 1000;
}

static void add_address(struct sd_address *addresses, u32 *count, u32 room, struct net_device *netdev, const struct in6_addr *ip)
{
	if (*count == room)
		return;
	addresses[*count] = (struct sd_address){
		.link_speed = speed_of(netdev), .interface = netdev->ifindex, .port = ports[0],
	};
	memcpy(addresses[*count].address, ip, sizeof(*ip));
	++*count;
}

/*
 * Lists the addresses of interfaces that have an RDMA device of their own, in
 * the network namespace in which the file was opened.
 */
u32 sdk_addresses(const struct sd_file *file, struct sd_address *addresses, u32 room)
{
	struct net_device *netdev;
	u32 count = 0;

	rtnl_lock();
	for_each_netdev(file->net, netdev) {
		struct ib_device *device;
		struct in_device *in_dev = __in_dev_get_rtnl(netdev);
		struct inet6_dev *in6_dev = __in6_dev_get(netdev);
		const struct in_ifaddr *in_address;
		struct inet6_ifaddr *in6_address;

		if (!(netdev->flags & IFF_UP) || netdev->flags & IFF_LOOPBACK)
			continue;
		device = ib_device_get_by_netdev(netdev, RDMA_DRIVER_UNKNOWN);
		if (!device)
			continue;
		ib_device_put(device);
		if (in_dev) {
			in_dev_for_each_ifa_rtnl(in_address, in_dev) {
				struct in6_addr mapped;

				ipv6_addr_set_v4mapped(in_address->ifa_local, &mapped);
				add_address(addresses, &count, room, netdev, &mapped);
			}
		}
		if (!in6_dev)
			continue;
		/*
		 * Code that does not hold this lock only adds addresses, and RCU makes that safe.
		 */
		list_for_each_entry_rcu(in6_address, &in6_dev->addr_list, if_list, lockdep_rtnl_is_held()) {
			if (!(ipv6_addr_type(&in6_address->addr) & IPV6_ADDR_LINKLOCAL))
				add_address(addresses, &count, room, netdev, &in6_address->addr);
		}
	}
	rtnl_unlock();
	return count;
}
