/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A listener, a worker and a connection in one process. The tests at the other end of standard
 * input and output play clients and daemons on request.
 */

#ifndef TESTS_C_SCENE_H
#define TESTS_C_SCENE_H

#include "common.h"

/* Asks the tests for something; returns the rest of their answer, valid until the next call. */
static inline const char *ask(const char *request)
{
	static char answer[256];
	char *end;

	printf("%s\n", request);
	fflush(stdout);
	if (fgets(answer, sizeof(answer), stdin) == NULL) {
		fail("no answer to %s", request);
	}
	end = strchr(answer, '\n');
	if (end == NULL || strncmp(answer, "ok", 2) != 0) {
		fail("%s: %s", request, answer);
	}
	*end = '\0';
	return answer + (answer[2] == ' ' ? 3 : 2);
}

struct scene {
	const char *path;
	struct smbdirect_device *listener;
	struct smbdirect_device *worker;
	uint64_t conn;
	struct smbdirect_conn_info info;
};

static inline struct smbdirect_device *attach_and_wait(const char *path, uint32_t role,
						       const uint8_t *token)
{
	struct smbdirect_device *device = attach(path, role, token);

	expect_event(device, SMBDIRECT_EVENT_ATTACHED);
	return device;
}

/* Tries an attachment that the device refuses, and returns the reason. */
static inline int32_t refused(const char *path, uint32_t role, const uint8_t *token)
{
	struct smbdirect_device *device = attach(path, role, token);
	struct smbdirect_event event = expect_event(device, SMBDIRECT_EVENT_DETACHED);

	smbdirect_device_free(device);
	return event.status;
}

/* Waits for the reply to a call. */
static inline int32_t reply_of(struct smbdirect_device *device, uint64_t cookie)
{
	struct smbdirect_event event = expect_event(device, SMBDIRECT_EVENT_REPLY);

	check(event.cookie == cookie);
	return event.status;
}

/* Attaches a worker without a connection. */
static inline void set_worker(struct scene *scene)
{
	scene->worker = attach_and_wait(scene->path, SMBDIRECT_ROLE_WORKER, NULL);
}

static inline void set_listener(struct scene *scene)
{
	scene->listener = attach_and_wait(scene->path, SMBDIRECT_ROLE_LISTENER, NULL);
}

/*
 * Attaches a listener, and a worker that has the connection of a client of the kind that `request`
 * asks for.
 */
static inline void set_connection(struct scene *scene, const char *request)
{
	struct smbdirect_event event;

	if (scene->listener == NULL) {
		set_listener(scene);
	}
	ask(request);
	event = expect_event(scene->listener, SMBDIRECT_EVENT_OFFER);
	scene->worker = attach_and_wait(scene->path, SMBDIRECT_ROLE_WORKER, event.token);
	event = expect_event(scene->worker, SMBDIRECT_EVENT_CONNECTION);
	scene->conn = event.conn;
	scene->info = event.info;
	/* The scene gives the client's NEGOTIATE request back unread. */
	event = expect_event(scene->worker, SMBDIRECT_EVENT_PDU);
	expect(SMBDIRECT_OK,
	       smbdirect_device_take_pdu(scene->worker, event.pdu, NULL, 0));
}

static inline void clear(struct scene *scene)
{
	smbdirect_device_free(scene->worker);
	smbdirect_device_free(scene->listener);
}

static inline bool wants_room(struct smbdirect_device *device, int32_t status)
{
	if (status != SMBDIRECT_E_AGAIN) {
		expect(SMBDIRECT_OK, status);
		return false;
	}
	expect_event(device, SMBDIRECT_EVENT_ROOM);
	return true;
}

static inline struct smbdirect_buffer allocate(struct scene *scene, uint64_t length)
{
	struct smbdirect_buffer buffer = {.type_size = sizeof(buffer)};

	while (wants_room(scene->worker,
			  smbdirect_buffer_alloc(scene->worker, length, &buffer))) {
	}
	check(buffer.number != 0 && buffer.length >= length);
	return buffer;
}

/* A buffer descriptor ([MS-SMBD] 2.2.3.1). */
struct descriptor {
	uint64_t offset;
	uint32_t token;
	uint32_t length;
};

/* Registers memory of the client. */
static inline struct descriptor window(const char *request, uint32_t length)
{
	struct descriptor descriptor = {.length = length};
	const char *answer = ask(request);
	unsigned long offset, token;

	check(sscanf(answer, "%lu %lu", &offset, &token) == 2);
	descriptor.offset = offset;
	descriptor.token = (uint32_t)token;
	return descriptor;
}

static inline struct smbdirect_rdma rdma(const struct scene *scene, uint32_t direction,
					 const struct smbdirect_buffer *buffer,
					 const struct descriptor *descriptor)
{
	struct smbdirect_rdma rdma = {
		.type_size = sizeof(rdma),
		.direction = direction,
		.conn = scene->conn,
		.cookie = 77,
		.buffer = buffer->number,
		.length = 1000,
		.descriptors = descriptor,
		.descriptors_length = sizeof(*descriptor),
	};

	return rdma;
}

/* Submits an operation. Its count must match the returned status. */
static inline int32_t submit(struct scene *scene, const struct smbdirect_rdma *operation)
{
	uint32_t taken = 99;
	int32_t status;

	do {
		status = smbdirect_device_rdma_read_write(scene->worker, operation, 1, &taken);
	} while (status == SMBDIRECT_E_AGAIN && wants_room(scene->worker, status));
	check(taken == (status == SMBDIRECT_OK ? 1 : 99));
	return status;
}

static inline int32_t send_bytes(struct scene *scene, const void *bytes, size_t length)
{
	uint8_t copy[2048];
	struct iovec piece = {.iov_base = copy, .iov_len = length};
	struct smbdirect_pdu pdu = {
		.type_size = sizeof(pdu),
		.conn = scene->conn,
		.cookie = 78,
		.pieces = &piece,
		.piece_count = 1,
	};
	uint32_t taken;
	int32_t status;

	check(length <= sizeof(copy));
	memcpy(copy, bytes, length);
	do {
		status = smbdirect_device_send_pdus(scene->worker, &pdu, 1, &taken);
	} while (status == SMBDIRECT_E_AGAIN && wants_room(scene->worker, status));
	return status;
}

#endif
