// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Provokes each status of smbdirect.h by its real cause.
 *
 * errors: lists the statuses that it can provoke. errors NAME PATH: provokes one with the device at
 * PATH.
 */

#include "scene.h"

#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define NOBODY 65534

/* Returns the status with which an accepted transfer ends. */
static int32_t transfer(struct scene *scene, const uint8_t *client_guid, const void *pdu,
			uint64_t length)
{
	struct smbdirect_event event;
	int32_t status;

	do {
		status = smbdirect_conn_transfer(scene->worker, scene->conn, 5, client_guid,
						 pdu, length);
	} while (wants_room(scene->worker, status));
	/* Until the transfer ends, the connection accepts no other operation. */
	expect(SMBDIRECT_E_BUSY, send_bytes(scene, "message", 7));
	event = expect_event(scene->worker, SMBDIRECT_EVENT_TRANSFERRED);
	check(event.cookie == 5 && event.conn == scene->conn);
	return event.status;
}

static void invalid(struct scene *scene)
{
	struct smbdirect_attach args = {.type_size = sizeof(args), .role = 3};
	struct smbdirect_parameters parameters = {
		.type_size = sizeof(parameters),
		.max_receive_size = 127,
	};
	struct smbdirect_session session = {.type_size = sizeof(session)};
	struct smbdirect_device *device;

	expect(SMBDIRECT_E_INVALID, smbdirect_device_new(scene->path, &args, &device));
	set_listener(scene);
	expect(SMBDIRECT_OK,
	       smbdirect_device_set_parameters(scene->listener, 5, &parameters, NULL, 0));
	expect(SMBDIRECT_E_INVALID, reply_of(scene->listener, 5));

	/* A worker cannot give a connection to itself. */
	set_connection(scene, "connect");
	memcpy(session.client_guid, scene->info.client_guid, sizeof(session.client_guid));
	expect(SMBDIRECT_OK, smbdirect_device_set_session_id(scene->worker, 4, &session));
	expect(SMBDIRECT_OK, reply_of(scene->worker, 4));
	expect(SMBDIRECT_E_INVALID, transfer(scene, session.client_guid, "message", 7));
}

static void forked(struct scene *scene)
{
	struct smbdirect_event event = {.type_size = sizeof(event)};
	struct smbdirect_mem_params params = {.type_size = sizeof(params)};
	struct smbdirect_buffer buffer = {.type_size = sizeof(buffer)};
	struct smbdirect_conn_info info = {.type_size = sizeof(info)};
	struct smbdirect_session session = {
		.type_size = sizeof(session),
		.client_guid = {1},
	};
	uint8_t bytes[16] = {1};
	struct descriptor descriptor = {.length = 1000};
	struct smbdirect_rdma operation;
	uint32_t count;
	int status;
	pid_t pid;
	int fd;

	set_connection(scene, "connect");
	buffer = allocate(scene, 1000);
	operation = rdma(scene, SMBDIRECT_RDMA_WRITE, &buffer, &descriptor);
	pid = fork();
	check(pid >= 0);
	if (pid == 0) {
		expect(SMBDIRECT_E_FORKED, smbdirect_device_event_fd(scene->worker, &fd));
		expect(SMBDIRECT_E_FORKED,
		       smbdirect_device_get_events(scene->worker, 0, &event, 1, &count));
		expect(SMBDIRECT_E_FORKED,
		       smbdirect_device_set_session_id(scene->worker, 1, &session));
		expect(SMBDIRECT_E_FORKED, smbdirect_device_claim(scene->worker, 1, bytes));
		expect(SMBDIRECT_E_FORKED, smbdirect_device_decline(scene->worker, 1, bytes));
		expect(SMBDIRECT_E_FORKED,
		       smbdirect_device_set_addresses(scene->listener, 1, 0, NULL, 0));
		expect(SMBDIRECT_E_FORKED,
		       smbdirect_device_get_addresses(scene->worker, NULL, 0, &count));
		expect(SMBDIRECT_E_FORKED,
		       smbdirect_device_get_mem_params(scene->worker, &params));
		expect(SMBDIRECT_E_FORKED, send_bytes(scene, bytes, 16));
		expect(SMBDIRECT_E_FORKED, submit(scene, &operation));
		expect(SMBDIRECT_E_FORKED,
		       smbdirect_device_take_pdu(scene->worker, 1, bytes, 16));
		expect(SMBDIRECT_E_FORKED, smbdirect_buffer_alloc(scene->worker, 1, &buffer));
		expect(SMBDIRECT_E_FORKED,
		       smbdirect_buffer_free(scene->worker, buffer.number));
		expect(SMBDIRECT_E_FORKED,
		       smbdirect_conn_get_info(scene->worker, scene->conn, &info));
		expect(SMBDIRECT_E_FORKED,
		       smbdirect_conn_set_authenticated(scene->worker, scene->conn));
		expect(SMBDIRECT_E_FORKED,
		       smbdirect_conn_disconnect(scene->worker, scene->conn));
		expect(SMBDIRECT_E_FORKED,
		       smbdirect_conn_transfer(scene->worker, scene->conn, 1, NULL, bytes, 16));
		clear(scene);
		exit(0);
	}
	check(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
	check(WEXITSTATUS(status) == 0);
	/* The end of the child does not affect the parent's attachment. */
	expect(SMBDIRECT_OK, smbdirect_conn_get_info(scene->worker, scene->conn, &info));
	expect(SMBDIRECT_OK, send_bytes(scene, bytes, 16));
	expect(SMBDIRECT_OK, expect_event(scene->worker, SMBDIRECT_EVENT_SENT).status);
}

static void no_device(struct scene *scene)
{
	struct smbdirect_attach args = {
		.type_size = sizeof(args),
		.role = SMBDIRECT_ROLE_WORKER,
	};
	struct smbdirect_device *device = (void *)scene;
	char path[256];

	snprintf(path, sizeof(path), "%s-not", scene->path);
	expect(SMBDIRECT_E_NO_DEVICE, smbdirect_device_new(path, &args, &device));
	check(device == (void *)scene);
}

static void denied(struct scene *scene)
{
	struct smbdirect_attach args = {
		.type_size = sizeof(args),
		.role = SMBDIRECT_ROLE_WORKER,
	};
	struct smbdirect_device *device;
	bool is_root = geteuid() == 0;

	/* The system refuses the attachment, because the file is not writable. */
	check(chmod(scene->path, 0) == 0);
	check(!is_root || seteuid(NOBODY) == 0);
	expect(SMBDIRECT_E_DENIED, smbdirect_device_new(scene->path, &args, &device));
	check(!is_root || seteuid(0) == 0);
	if (is_root) {
		/* The file becomes writable, so it is the device that refuses the attachment. */
		ask("open-up");
		check(seteuid(NOBODY) == 0);
		expect(SMBDIRECT_E_DENIED,
		       refused(scene->path, SMBDIRECT_ROLE_WORKER, NULL));
		check(seteuid(0) == 0);
	}
}

/* A process of another user plays the device. Root, which may read everything, sends it nothing. */
static void untrusted(struct scene *scene)
{
	struct smbdirect_attach args = {
		.type_size = sizeof(args),
		.role = SMBDIRECT_ROLE_WORKER,
	};
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	struct smbdirect_device *device;
	int fd;

	(void)scene;
	if (geteuid() != 0) {
		/* Without root, this process cannot act as another user. */
		return;
	}
	snprintf(at.sun_path, sizeof(at.sun_path), "/tmp/smbdirect-untrusted-%d", (int)getpid());
	check(seteuid(NOBODY) == 0);
	fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
	check(fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof(at)) == 0 && listen(fd, 1) == 0);
	check(seteuid(0) == 0);
	expect(SMBDIRECT_E_UNTRUSTED, smbdirect_device_new(at.sun_path, &args, &device));
	check(unlink(at.sun_path) == 0 && close(fd) == 0);
}

static void version(struct scene *scene)
{
	/*
	 * The first device refuses this version, the second answers in another version, and the
	 * third names its own.
	 */
	static const char *const devices[] = {
		"fake refuses-version", "fake other-version", "fake names-version",
	};
	size_t i;

	(void)scene;
	for (i = 0; i < 3; i++) {
		struct smbdirect_device *device =
			attach(ask(devices[i]), SMBDIRECT_ROLE_WORKER, NULL);
		struct smbdirect_event event =
			expect_event(device, SMBDIRECT_EVENT_DETACHED);
		uint32_t own = 0, other = 9;

		expect(SMBDIRECT_E_VERSION, event.status);
		expect(SMBDIRECT_OK, smbdirect_device_versions(device, &own, &other));
		check(own > 0);
		check(other == (i == 0 ? 0 : own + 1));
		smbdirect_device_free(device);
	}
}

static void detached(struct scene *scene)
{
	struct smbdirect_event event = {.type_size = sizeof(event)};
	struct smbdirect_buffer buffer;
	uint32_t count;

	set_connection(scene, "connect");
	buffer = allocate(scene, 1000);
	ask("kill");
	event = expect_event(scene->worker, SMBDIRECT_EVENT_DISCONNECTED);
	expect(SMBDIRECT_E_DETACHED, event.status);
	event = expect_event(scene->worker, SMBDIRECT_EVENT_DETACHED);
	expect(SMBDIRECT_E_DETACHED, event.status);
	expect(SMBDIRECT_E_DETACHED,
	       smbdirect_device_get_events(scene->worker, 0, &event, 1, &count));
	expect(SMBDIRECT_E_DETACHED, smbdirect_buffer_free(scene->worker, buffer.number));
	expect(SMBDIRECT_E_DETACHED,
	       smbdirect_conn_set_authenticated(scene->worker, scene->conn));
	expect(SMBDIRECT_E_DETACHED, smbdirect_conn_disconnect(scene->worker, scene->conn));
	/* The memory is still mapped. */
	memset(buffer.start, 1, buffer.length);
}

static void not_attached(struct scene *scene)
{
	struct smbdirect_mem_params params = {.type_size = sizeof(params)};
	struct smbdirect_parameters parameters = {.type_size = sizeof(parameters)};
	struct smbdirect_buffer buffer = {.type_size = sizeof(buffer)};
	uint8_t token[16] = {1};
	uint32_t count;

	/* The worker is not attached yet. */
	scene->worker = attach(scene->path, SMBDIRECT_ROLE_WORKER, NULL);
	expect(SMBDIRECT_E_NOT_ATTACHED,
	       smbdirect_device_get_mem_params(scene->worker, &params));
	expect(SMBDIRECT_E_NOT_ATTACHED,
	       smbdirect_device_get_addresses(scene->worker, NULL, 0, &count));
	expect_event(scene->worker, SMBDIRECT_EVENT_ATTACHED);
	/* These calls need the other role. */
	expect(SMBDIRECT_E_NOT_ATTACHED, smbdirect_device_decline(scene->worker, 1, token));
	expect(SMBDIRECT_E_NOT_ATTACHED,
	       smbdirect_device_set_parameters(scene->worker, 1, &parameters, NULL, 0));
	expect(SMBDIRECT_E_NOT_ATTACHED,
	       smbdirect_device_set_addresses(scene->worker, 1, 0, NULL, 0));
	set_listener(scene);
	expect(SMBDIRECT_E_NOT_ATTACHED,
	       smbdirect_buffer_alloc(scene->listener, 1, &buffer));
}

static void again(struct scene *scene)
{
	struct smbdirect_attach args = {
		.type_size = sizeof(args),
		.role = SMBDIRECT_ROLE_WORKER,
	};
	struct smbdirect_device *devices[1024];
	struct smbdirect_mem_params params = {.type_size = sizeof(params)};
	struct smbdirect_buffer buffer = {.type_size = sizeof(buffer)};
	struct smbdirect_buffer first;
	struct smbdirect_session session = {
		.type_size = sizeof(session),
		.client_guid = {1},
	};
	struct smbdirect_event event;
	uint64_t asked = 0, answered = 0, total;
	bool has_room = false;
	int32_t status;
	const char *path;
	size_t count = 0;

	/* No memory has been mapped yet. */
	set_worker(scene);
	expect(SMBDIRECT_OK, smbdirect_device_get_mem_params(scene->worker, &params));
	expect(SMBDIRECT_E_AGAIN,
	       smbdirect_buffer_alloc(scene->worker, params.buffer_max, &buffer));
	expect_event(scene->worker, SMBDIRECT_EVENT_ROOM);

	/* Use everything that the device allows, until something is freed. */
	first = allocate(scene, params.buffer_max);
	total = first.length;
	while (total < params.buffers_total) {
		total += allocate(scene, params.buffer_max).length;
	}
	expect(SMBDIRECT_E_AGAIN,
	       smbdirect_buffer_alloc(scene->worker, params.buffer_max, &buffer));
	expect(SMBDIRECT_OK, smbdirect_buffer_free(scene->worker, first.number));
	expect_event(scene->worker, SMBDIRECT_EVENT_ROOM);
	expect(SMBDIRECT_OK,
	       smbdirect_buffer_alloc(scene->worker, params.buffer_max, &buffer));

	/* Make more requests than may be open. */
	do {
		status = smbdirect_device_set_session_id(scene->worker, asked, &session);
		asked += status == SMBDIRECT_OK;
	} while (status == SMBDIRECT_OK);
	expect(SMBDIRECT_E_AGAIN, status);
	while (answered < asked || !has_room) {
		event = next_event(scene->worker);
		if (event.kind == SMBDIRECT_EVENT_ROOM) {
			has_room = true;
			continue;
		}
		check(event.kind == SMBDIRECT_EVENT_REPLY && event.cookie == answered++);
		expect(SMBDIRECT_OK, event.status);
	}
	expect(SMBDIRECT_OK, smbdirect_device_set_session_id(scene->worker, asked, &session));

	/* This device accepts no attachment while it is busy. */
	status = SMBDIRECT_OK;
	path = ask("fake accepts-nobody");
	while (status == SMBDIRECT_OK && count < 1024) {
		status = smbdirect_device_new(path, &args, &devices[count]);
		count += status == SMBDIRECT_OK;
	}
	expect(SMBDIRECT_E_AGAIN, status);
	while (count > 0) {
		smbdirect_device_free(devices[--count]);
	}
}

/* The device has memory for messages but none for data, so there is nothing to wait for. */
static void no_memory(struct scene *scene)
{
	struct smbdirect_buffer buffer = {.type_size = sizeof(buffer)};
	struct smbdirect_event event = {.type_size = sizeof(event)};
	uint32_t count;

	scene->worker = attach_and_wait(ask("fake no-memory"), SMBDIRECT_ROLE_WORKER, NULL);
	expect(SMBDIRECT_E_AGAIN, smbdirect_buffer_alloc(scene->worker, 1, &buffer));
	expect_event(scene->worker, SMBDIRECT_EVENT_ROOM);
	expect(SMBDIRECT_E_NO_MEMORY, smbdirect_buffer_alloc(scene->worker, 1, &buffer));
	expect(SMBDIRECT_OK,
	       smbdirect_device_get_events(scene->worker, 0, &event, 1, &count));
	check(count == 0);
}

static void too_long(struct scene *scene)
{
	struct smbdirect_mem_params params = {.type_size = sizeof(params)};
	struct smbdirect_buffer buffer = {.type_size = sizeof(buffer)};
	struct smbdirect_parameters parameters = {.type_size = sizeof(parameters)};
	struct descriptor descriptor = {.length = UINT32_MAX};
	struct smbdirect_rdma operation;
	static uint8_t blob[2049], longer_than_kept[(64 << 10) + 1];
	struct iovec pieces[1024];
	struct smbdirect_pdu pdu = {
		.type_size = sizeof(pdu),
		.pieces = pieces,
		.piece_count = 1024,
	};
	uint32_t taken;
	size_t n;

	set_connection(scene, "connect");
	expect(SMBDIRECT_OK, smbdirect_device_get_mem_params(scene->worker, &params));
	expect(SMBDIRECT_E_TOO_LONG,
	       smbdirect_buffer_alloc(scene->worker, params.buffer_max + 1, &buffer));
	buffer = allocate(scene, 1000);
	operation = rdma(scene, SMBDIRECT_RDMA_WRITE, &buffer, &descriptor);
	operation.length = (uint64_t)scene->info.max_read_write_size + 1;
	expect(SMBDIRECT_E_TOO_LONG, submit(scene, &operation));
	for (n = 0; n < 1024; n++) {
		pieces[n].iov_base = blob;
		pieces[n].iov_len = sizeof(blob);
	}
	pdu.conn = scene->conn;
	expect(SMBDIRECT_E_TOO_LONG,
	       smbdirect_device_send_pdus(scene->worker, &pdu, 1, &taken));
	expect(SMBDIRECT_E_TOO_LONG,
	       smbdirect_device_set_parameters(scene->listener, 1, &parameters, blob,
					       sizeof(blob)));
	expect(SMBDIRECT_E_TOO_LONG,
	       smbdirect_device_set_addresses(scene->listener, 1, 0, NULL,
					      SMBDIRECT_ALLOWED_ADDRESSES_MAX + 1));
	expect(SMBDIRECT_E_TOO_LONG,
	       transfer(scene, NULL, longer_than_kept, sizeof(longer_than_kept)));
}

static void no_connection(struct scene *scene)
{
	struct smbdirect_conn_info info = {.type_size = sizeof(info)};
	uint64_t conn;

	set_connection(scene, "connect");
	conn = scene->conn;
	expect(SMBDIRECT_E_NO_CONNECTION,
	       smbdirect_conn_get_info(scene->worker, conn + 1, &info));
	expect(SMBDIRECT_E_NO_CONNECTION, smbdirect_conn_disconnect(scene->worker, 0));
	expect(SMBDIRECT_E_NO_CONNECTION, smbdirect_conn_set_authenticated(scene->worker, 0));
	expect(SMBDIRECT_OK, smbdirect_conn_set_authenticated(scene->worker, conn));
	expect(SMBDIRECT_OK, smbdirect_conn_set_authenticated(scene->worker, conn));
	expect(SMBDIRECT_OK, smbdirect_conn_disconnect(scene->worker, conn));
	expect(SMBDIRECT_OK, smbdirect_conn_disconnect(scene->worker, conn));
	/* The device knows the connection until its end, but sends nothing more on it. */
	expect(SMBDIRECT_E_NO_CONNECTION, send_bytes(scene, "late", 4));
	expect(SMBDIRECT_OK, smbdirect_conn_get_info(scene->worker, conn, &info));
	expect_event(scene->worker, SMBDIRECT_EVENT_DISCONNECTED);
	expect(SMBDIRECT_E_NO_CONNECTION,
	       smbdirect_conn_get_info(scene->worker, conn, &info));
	expect(SMBDIRECT_E_NO_CONNECTION, smbdirect_conn_disconnect(scene->worker, conn));
	expect(SMBDIRECT_E_NO_CONNECTION,
	       smbdirect_conn_set_authenticated(scene->worker, conn));
	expect(SMBDIRECT_E_NO_CONNECTION,
	       smbdirect_conn_transfer(scene->worker, conn, 1, NULL, NULL, 0));
}

static void no_buffer(struct scene *scene)
{
	struct descriptor descriptor = {.length = 1000};
	struct smbdirect_buffer buffer;
	struct smbdirect_rdma operation;
	uint8_t bytes[16];

	set_connection(scene, "connect");
	buffer = allocate(scene, 1000);
	expect(SMBDIRECT_OK, smbdirect_buffer_free(scene->worker, buffer.number));
	expect(SMBDIRECT_E_NO_BUFFER, smbdirect_buffer_free(scene->worker, buffer.number));
	expect(SMBDIRECT_E_NO_BUFFER, smbdirect_buffer_free(scene->worker, UINT64_MAX));
	operation = rdma(scene, SMBDIRECT_RDMA_WRITE, &buffer, &descriptor);
	expect(SMBDIRECT_E_NO_BUFFER, submit(scene, &operation));
	expect(SMBDIRECT_E_NO_BUFFER,
	       smbdirect_device_take_pdu(scene->worker, 12345, bytes, sizeof(bytes)));
}

static void out_of_bounds(struct scene *scene)
{
	struct descriptor descriptor = {.length = UINT32_MAX};
	struct smbdirect_buffer buffer;
	struct smbdirect_rdma operation;

	set_connection(scene, "connect");
	buffer = allocate(scene, 1000);
	operation = rdma(scene, SMBDIRECT_RDMA_WRITE, &buffer, &descriptor);
	operation.offset = buffer.length - 999;
	expect(SMBDIRECT_E_OUT_OF_BOUNDS, submit(scene, &operation));
	operation.offset = UINT64_MAX;
	expect(SMBDIRECT_E_OUT_OF_BOUNDS, submit(scene, &operation));
}

static void bad_descriptors(struct scene *scene)
{
	struct descriptor list[2] = {{.length = 1000}, {.length = 0}};
	struct smbdirect_buffer buffer;
	struct smbdirect_rdma operation;
	uint64_t total = 5;

	expect(SMBDIRECT_E_DESCRIPTORS, smbdirect_descriptors_check(list, 0, &total));
	expect(SMBDIRECT_E_DESCRIPTORS, smbdirect_descriptors_check(list, 17, &total));
	expect(SMBDIRECT_E_DESCRIPTORS, smbdirect_descriptors_check(list, 32, &total));
	check(total == 5);
	expect(SMBDIRECT_OK, smbdirect_descriptors_check(list, 16, &total));
	check(total == 1000);
	list[0].offset = UINT64_MAX - 998;
	expect(SMBDIRECT_E_DESCRIPTORS, smbdirect_descriptors_check(list, 16, &total));
	list[0].offset = 0;

	set_connection(scene, "connect");
	buffer = allocate(scene, 1000);
	operation = rdma(scene, SMBDIRECT_RDMA_WRITE, &buffer, list);
	operation.descriptors_length = 32;
	expect(SMBDIRECT_E_DESCRIPTORS, submit(scene, &operation));
	operation.descriptors_length = 0;
	expect(SMBDIRECT_E_DESCRIPTORS, submit(scene, &operation));
}

static void descriptors_too_short(struct scene *scene)
{
	struct descriptor descriptor = {.length = 999};
	struct smbdirect_buffer buffer;
	struct smbdirect_rdma operation;

	set_connection(scene, "connect");
	buffer = allocate(scene, 1000);
	operation = rdma(scene, SMBDIRECT_RDMA_WRITE, &buffer, &descriptor);
	expect(SMBDIRECT_E_DESCRIPTORS_TOO_SHORT, submit(scene, &operation));
}

static void request(struct scene *scene)
{
	struct smbdirect_transfer transfer = {.type_size = sizeof(transfer)};
	struct smbdirect_transform transform = {.type_size = sizeof(transform)};
	uint32_t invalidate = 9, token = 9;
	uint8_t bytes[256] = {0xfe, 'S', 'M', 'B', 64};

	(void)scene;
	expect(SMBDIRECT_E_REQUEST, smbdirect_request_transfer(bytes, 0, &transfer));
	expect(SMBDIRECT_E_REQUEST,
	       smbdirect_request_transfer(bytes, sizeof(bytes), &transfer));
	expect(SMBDIRECT_E_REQUEST, smbdirect_request_transform(bytes, 0, &transform));
	expect(SMBDIRECT_E_REQUEST,
	       smbdirect_request_transform(bytes, sizeof(bytes), &transform));
	expect(SMBDIRECT_OK,
	       smbdirect_request_invalidate(bytes, sizeof(bytes), &invalidate, &token));
	check(invalidate == 0 && token == 0);
}

static void no_reads(struct scene *scene)
{
	struct descriptor descriptor = {.length = 1000};
	struct smbdirect_buffer buffer;
	struct smbdirect_rdma operation;

	set_connection(scene, "connect-without-reads");
	check(scene->info.initiator_depth == 0);
	buffer = allocate(scene, 1000);
	operation = rdma(scene, SMBDIRECT_RDMA_READ, &buffer, &descriptor);
	expect(SMBDIRECT_E_NO_READS, submit(scene, &operation));
}

static void no_token(struct scene *scene)
{
	struct smbdirect_event event;
	uint8_t token[16] = {1, 2, 3};

	expect(SMBDIRECT_E_NO_TOKEN, refused(scene->path, SMBDIRECT_ROLE_WORKER, token));
	set_worker(scene);
	expect(SMBDIRECT_OK, smbdirect_device_claim(scene->worker, 6, token));
	expect(SMBDIRECT_E_NO_TOKEN, reply_of(scene->worker, 6));

	/* After it is declined, a connection has no owner. */
	set_listener(scene);
	expect(SMBDIRECT_OK, smbdirect_device_decline(scene->listener, 7, token));
	expect(SMBDIRECT_E_NO_TOKEN, reply_of(scene->listener, 7));
	ask("connect");
	event = expect_event(scene->listener, SMBDIRECT_EVENT_OFFER);
	expect(SMBDIRECT_OK, smbdirect_device_decline(scene->listener, 8, event.token));
	expect(SMBDIRECT_OK, reply_of(scene->listener, 8));
	expect(SMBDIRECT_OK, smbdirect_device_claim(scene->worker, 9, event.token));
	expect(SMBDIRECT_E_NO_TOKEN, reply_of(scene->worker, 9));
	expect(SMBDIRECT_OK, smbdirect_device_decline(scene->listener, 10, event.token));
	expect(SMBDIRECT_E_NO_TOKEN, reply_of(scene->listener, 10));
}

static void no_owner(struct scene *scene)
{
	struct smbdirect_session session = {
		.type_size = sizeof(session),
		.remove = 1,
		.client_guid = {9},
	};

	set_connection(scene, "connect");
	expect(SMBDIRECT_OK, smbdirect_device_set_session_id(scene->worker, 4, &session));
	expect(SMBDIRECT_E_NO_OWNER, reply_of(scene->worker, 4));
	expect(SMBDIRECT_E_NO_OWNER, transfer(scene, session.client_guid, "message", 7));
	/* The connection has stayed with this worker. */
	expect(SMBDIRECT_OK, send_bytes(scene, "message", 7));
}

static void taken(struct scene *scene)
{
	struct smbdirect_session session = {
		.type_size = sizeof(session),
		.client_guid = {9},
	};
	struct smbdirect_device *other;

	set_listener(scene);
	expect(SMBDIRECT_E_TAKEN, refused(scene->path, SMBDIRECT_ROLE_LISTENER, NULL));
	set_worker(scene);
	other = attach_and_wait(scene->path, SMBDIRECT_ROLE_WORKER, NULL);
	expect(SMBDIRECT_OK, smbdirect_device_set_session_id(scene->worker, 4, &session));
	expect(SMBDIRECT_OK, reply_of(scene->worker, 4));
	expect(SMBDIRECT_OK, smbdirect_device_set_session_id(other, 5, &session));
	expect(SMBDIRECT_E_TAKEN, reply_of(other, 5));
	smbdirect_device_free(other);
}

static void limit(struct scene *scene)
{
	struct smbdirect_session session = {
		.type_size = sizeof(session),
		.client_guid = {9},
	};
	struct smbdirect_device *other;

	/* The device has room for two sessions of a worker, and for two workers. */
	set_worker(scene);
	for (session.session_id = 1; session.session_id <= 3; session.session_id++) {
		expect(SMBDIRECT_OK,
		       smbdirect_device_set_session_id(scene->worker, 4, &session));
		expect(session.session_id < 3 ? SMBDIRECT_OK : SMBDIRECT_E_LIMIT,
		       reply_of(scene->worker, 4));
	}
	other = attach_and_wait(scene->path, SMBDIRECT_ROLE_WORKER, NULL);
	expect(SMBDIRECT_E_LIMIT, refused(scene->path, SMBDIRECT_ROLE_WORKER, NULL));
	smbdirect_device_free(other);
}

/* Begins an RDMA READ from a client that does not serve its memory at the moment. */
static struct smbdirect_buffer begin_read(struct scene *scene)
{
	struct descriptor descriptor;
	struct smbdirect_buffer buffer;
	struct smbdirect_rdma operation;

	set_connection(scene, "connect");
	descriptor = window("window", 1000);
	ask("mute");
	buffer = allocate(scene, 1000);
	operation = rdma(scene, SMBDIRECT_RDMA_READ, &buffer, &descriptor);
	expect(SMBDIRECT_OK, submit(scene, &operation));
	return buffer;
}

static void busy(struct scene *scene)
{
	struct smbdirect_conn_info info = {.type_size = sizeof(info)};
	struct smbdirect_buffer buffer = begin_read(scene);
	struct smbdirect_event event;

	expect(SMBDIRECT_E_BUSY, smbdirect_buffer_free(scene->worker, buffer.number));
	expect(SMBDIRECT_E_BUSY,
	       smbdirect_conn_transfer(scene->worker, scene->conn, 1, NULL, NULL, 0));
	expect(SMBDIRECT_OK, smbdirect_conn_get_info(scene->worker, scene->conn, &info));
	check(info.rdma_operations == 1);
	ask("unmute");
	event = expect_event(scene->worker, SMBDIRECT_EVENT_RDMA_DONE);
	check(event.cookie == 77 && event.conn == scene->conn);
	expect(SMBDIRECT_OK, event.status);
	expect(SMBDIRECT_OK, smbdirect_buffer_free(scene->worker, buffer.number));

	/* A message that has not been taken would be lost. */
	ask("message");
	event = expect_event(scene->worker, SMBDIRECT_EVENT_PDU);
	expect(SMBDIRECT_E_BUSY, transfer(scene, NULL, "message", 7));
	expect(SMBDIRECT_OK,
	       smbdirect_device_take_pdu(scene->worker, event.pdu, NULL, 0));
	expect(SMBDIRECT_OK, transfer(scene, NULL, "message", 7));
}

static void flushed(struct scene *scene)
{
	struct smbdirect_buffer buffer = begin_read(scene);
	struct smbdirect_event event;

	ask("reset");
	event = expect_event(scene->worker, SMBDIRECT_EVENT_RDMA_DONE);
	check(event.cookie == 77 && event.conn == scene->conn);
	expect(SMBDIRECT_E_FLUSHED, event.status);
	expect_event(scene->worker, SMBDIRECT_EVENT_DISCONNECTED);
	expect(SMBDIRECT_OK, smbdirect_buffer_free(scene->worker, buffer.number));
}

static void remote_access(struct scene *scene)
{
	struct descriptor descriptor;
	struct smbdirect_buffer buffer;
	struct smbdirect_rdma operation;
	struct smbdirect_event event;

	set_connection(scene, "connect");
	descriptor = window("window", 1000);
	descriptor.token ^= 0x1000;
	buffer = allocate(scene, 1000);
	operation = rdma(scene, SMBDIRECT_RDMA_READ, &buffer, &descriptor);
	expect(SMBDIRECT_OK, submit(scene, &operation));
	event = expect_event(scene->worker, SMBDIRECT_EVENT_RDMA_DONE);
	expect(SMBDIRECT_E_REMOTE_ACCESS, event.status);
	event = expect_event(scene->worker, SMBDIRECT_EVENT_DISCONNECTED);
	expect(SMBDIRECT_E_REMOTE_ACCESS, event.status);
}

static void fabric(struct scene *scene)
{
	(void)scene;
	/* A newer device gives a reason for which this library has no name. */
	expect(SMBDIRECT_E_FABRIC,
	       refused(ask("fake unknown-reason"), SMBDIRECT_ROLE_WORKER, NULL));
}

static void expect_end(struct scene *scene, int32_t expected)
{
	struct smbdirect_event event;

	event = expect_event(scene->worker, SMBDIRECT_EVENT_DISCONNECTED);
	check(event.conn == scene->conn);
	expect(expected, event.status);
}

static void closed_by_peer(struct scene *scene)
{
	set_connection(scene, "connect");
	ask("close");
	expect_end(scene, SMBDIRECT_E_CLOSED_BY_PEER);
}

static void closed_locally(struct scene *scene)
{
	set_connection(scene, "connect");
	expect(SMBDIRECT_OK, send_bytes(scene, "goes first", 10));
	expect(SMBDIRECT_OK, smbdirect_conn_disconnect(scene->worker, scene->conn));
	expect(SMBDIRECT_OK, expect_event(scene->worker, SMBDIRECT_EVENT_SENT).status);
	expect_end(scene, SMBDIRECT_E_CLOSED_LOCALLY);
}

static void reset(struct scene *scene)
{
	set_connection(scene, "connect");
	ask("reset");
	expect_end(scene, SMBDIRECT_E_RESET);
}

static void protocol(struct scene *scene)
{
	set_connection(scene, "connect");
	ask("break-protocol");
	expect_end(scene, SMBDIRECT_E_PROTOCOL);
}

static void timed_out(struct scene *scene)
{
	struct smbdirect_parameters parameters = {
		.type_size = sizeof(parameters),
		.keepalive_interval_ms = 50,
	};

	set_listener(scene);
	expect(SMBDIRECT_OK,
	       smbdirect_device_set_parameters(scene->listener, 5, &parameters, NULL, 0));
	expect(SMBDIRECT_OK, reply_of(scene->listener, 5));
	set_connection(scene, "connect");
	ask("mute");
	expect_end(scene, SMBDIRECT_E_TIMED_OUT);
}

static void address(struct scene *scene)
{
	set_connection(scene, "connect");
	expect(SMBDIRECT_OK, smbdirect_device_set_addresses(scene->listener, 5, 0, NULL, 0));
	expect(SMBDIRECT_OK, reply_of(scene->listener, 5));
	expect_end(scene, SMBDIRECT_E_ADDRESS);
}

static void stopping(struct scene *scene)
{
	struct smbdirect_event event;

	set_connection(scene, "connect");
	ask("stop");
	expect_end(scene, SMBDIRECT_E_STOPPING);
	event = expect_event(scene->worker, SMBDIRECT_EVENT_DETACHED);
	expect(SMBDIRECT_E_STOPPING, event.status);
}

static void corrupt(struct scene *scene)
{
	(void)scene;
	expect(SMBDIRECT_E_CORRUPT,
	       refused(ask("fake garbage"), SMBDIRECT_ROLE_WORKER, NULL));
}

static void no_descriptors_left(struct scene *scene)
{
	struct smbdirect_attach args = {
		.type_size = sizeof(args),
		.role = SMBDIRECT_ROLE_WORKER,
	};
	struct smbdirect_device *device;
	struct rlimit own, none;

	check(getrlimit(RLIMIT_NOFILE, &own) == 0);
	none = own;
	/* Standard input, output and error are open. */
	for (none.rlim_cur = 3; none.rlim_cur < 6; none.rlim_cur++) {
		int32_t status;

		check(setrlimit(RLIMIT_NOFILE, &none) == 0);
		status = smbdirect_device_new(scene->path, &args, &device);
		check(setrlimit(RLIMIT_NOFILE, &own) == 0);
		if (none.rlim_cur == 3) {
			expect(SMBDIRECT_E_SYSTEM, status);
		} else if (status == SMBDIRECT_OK) {
			smbdirect_device_free(device);
		} else {
			expect(SMBDIRECT_E_SYSTEM, status);
		}
	}
	set_worker(scene);
}

#define CASE(code, function) {#code, function}

static const struct {
	const char *name;
	void (*provoke)(struct scene *scene);
} cases[] = {
	CASE(SMBDIRECT_E_INVALID, invalid),
	CASE(SMBDIRECT_E_FORKED, forked),
	CASE(SMBDIRECT_E_NO_DEVICE, no_device),
	CASE(SMBDIRECT_E_DENIED, denied),
	CASE(SMBDIRECT_E_VERSION, version),
	CASE(SMBDIRECT_E_DETACHED, detached),
	CASE(SMBDIRECT_E_NOT_ATTACHED, not_attached),
	CASE(SMBDIRECT_E_AGAIN, again),
	CASE(SMBDIRECT_E_NO_MEMORY, no_memory),
	CASE(SMBDIRECT_E_TOO_LONG, too_long),
	CASE(SMBDIRECT_E_NO_CONNECTION, no_connection),
	CASE(SMBDIRECT_E_NO_BUFFER, no_buffer),
	CASE(SMBDIRECT_E_OUT_OF_BOUNDS, out_of_bounds),
	CASE(SMBDIRECT_E_DESCRIPTORS, bad_descriptors),
	CASE(SMBDIRECT_E_DESCRIPTORS_TOO_SHORT, descriptors_too_short),
	CASE(SMBDIRECT_E_REQUEST, request),
	CASE(SMBDIRECT_E_NO_READS, no_reads),
	CASE(SMBDIRECT_E_NO_TOKEN, no_token),
	CASE(SMBDIRECT_E_NO_OWNER, no_owner),
	CASE(SMBDIRECT_E_TAKEN, taken),
	CASE(SMBDIRECT_E_LIMIT, limit),
	CASE(SMBDIRECT_E_BUSY, busy),
	CASE(SMBDIRECT_E_FLUSHED, flushed),
	CASE(SMBDIRECT_E_REMOTE_ACCESS, remote_access),
	CASE(SMBDIRECT_E_FABRIC, fabric),
	CASE(SMBDIRECT_E_CLOSED_BY_PEER, closed_by_peer),
	CASE(SMBDIRECT_E_CLOSED_LOCALLY, closed_locally),
	CASE(SMBDIRECT_E_RESET, reset),
	CASE(SMBDIRECT_E_PROTOCOL, protocol),
	CASE(SMBDIRECT_E_TIMED_OUT, timed_out),
	CASE(SMBDIRECT_E_STOPPING, stopping),
	CASE(SMBDIRECT_E_CORRUPT, corrupt),
	CASE(SMBDIRECT_E_SYSTEM, no_descriptors_left),
	CASE(SMBDIRECT_E_ADDRESS, address),
	CASE(SMBDIRECT_E_UNTRUSTED, untrusted),
};

int main(int argc, char **argv)
{
	size_t n;

	for (n = 0; n < sizeof(cases) / sizeof(cases[0]); n++) {
		if (argc != 3) {
			printf("%s\n", cases[n].name);
		} else if (strcmp(cases[n].name, argv[1]) == 0) {
			struct scene scene = {.path = argv[2]};

			cases[n].provoke(&scene);
			clear(&scene);
			printf("provoked\n");
			return 0;
		}
	}
	return argc == 3;
}
