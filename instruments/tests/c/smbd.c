// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Plays smbd: a parent that is the device's listener and forks a child for each connection without
 * an owner, and children that own connections and serve a file with a known pattern.
 *
 * smbd PATH [batches]: ends when its standard input does. If there is no device, the parent keeps
 * trying to attach; children end with their last connection. Lines on standard output report what
 * happens. Like smbd, a child takes one event at a time and sleeps before it looks for more, unless
 * it is told to take batches.
 *
 * A client's first message is a NEGOTIATE request, and the device routes by its GUID. The child
 * registers the GUID, so that the client's further connections come to the same child. If another
 * child has registered it in the meantime, the connection goes to that child, together with its
 * first message. READ and WRITE requests over a channel are served by RDMA; every other request is
 * sent back unchanged. A request that cannot be served is sent back with a status of smbdirect.h in
 * its SMB2 status field.
 */

#include "common.h"

#include <fcntl.h>
#include <signal.h>

#define MAX_OPERATIONS 4096
#define MAX_EVENTS 64
/* How many times to look for events before sleeping. */
#define PEEKS 50
/* The time between attempts to attach. */
#define RETRY_MS 20

/* What a request is waiting for. */
enum stage {
	/* Its data to be moved, if it has any. */
	STAGE_DATA,
	/* The transfer of its connection. */
	STAGE_TRANSFER,
	/*
	 * The transfer of its connection, with which the request goes, because another worker has
	 * the client.
	 */
	STAGE_PASS,
	/* Its response to be accepted. */
	STAGE_REPLY,
	/* Only the ends of operations that were accepted are still to come. */
	STAGE_END,
};

/* A request that is being served. */
struct operation {
	bool used;
	/* It is in worker.waiting. */
	bool waiting;
	enum stage stage;
	/* The status that its response has. */
	int32_t result;
	/* The number of events still to come. */
	unsigned int pending;
	uint16_t command;
	uint64_t conn;
	uint64_t offset;
	struct smbdirect_buffer buffer;
	struct smbdirect_transfer transfer;
	uint8_t *pdu;
	size_t length;
	uint32_t invalidate;
	uint32_t token;
};

struct worker {
	struct smbdirect_device *device;
	struct operation operations[MAX_OPERATIONS];
	/* Requests that wait for SMBDIRECT_EVENT_ROOM or for the registration, in order. */
	struct operation *waiting[MAX_OPERATIONS];
	size_t waiting_count;
	unsigned int connections;
	bool had_connection;
	uint8_t client_guid[16];
	bool registering;
	/*
	 * Whether the client's GUID is registered. Until then, no request is answered, because the
	 * client's next connection must find its way here.
	 */
	bool registered;
};

/* Whether children take events in batches. */
static bool batches;

#define COOKIE_REGISTER 1
#define COOKIE_CLAIM 2

static struct operation *new_operation(struct worker *worker)
{
	size_t n;

	for (n = 0; n < MAX_OPERATIONS; n++) {
		struct operation *operation = &worker->operations[n];

		if (!operation->used) {
			memset(operation, 0, sizeof(*operation));
			operation->used = true;
			return operation;
		}
	}
	fail("more than %d operations", MAX_OPERATIONS);
}

/*
 * Returns whether a call succeeded. It can fail only because the attachment has ended, which an
 * event will report.
 */
static bool done(int32_t status)
{
	if (status != SMBDIRECT_OK && status != SMBDIRECT_E_DETACHED) {
		fail("unexpected: %s", smbdirect_status_str(status));
	}
	return status == SMBDIRECT_OK;
}

static void end_operation(struct worker *worker, struct operation *operation)
{
	if (operation->buffer.number != 0) {
		done(smbdirect_buffer_free(worker->device,
					   operation->buffer.number));
	}
	free(operation->pdu);
	operation->used = false;
}

static bool is_transient(int32_t status)
{
	return status == SMBDIRECT_E_AGAIN;
}

/* Sends the request back, with a status. */
static int32_t reply(struct worker *worker, struct operation *operation,
		     int32_t result)
{
	uint8_t status[4] = {(uint8_t)result};
	struct iovec pieces[] = {
		{.iov_base = operation->pdu, .iov_len = 8},
		{.iov_base = status, .iov_len = sizeof(status)},
		/* Absent parts are null and empty, as smbd passes them. */
		{.iov_base = NULL, .iov_len = 0},
		{.iov_base = operation->pdu + 12, .iov_len = operation->length - 12},
	};
	struct smbdirect_pdu pdu = {
		.type_size = sizeof(pdu),
		.flags = operation->invalidate ? SMBDIRECT_PDU_INVALIDATE : 0,
		.conn = operation->conn,
		.cookie = (uintptr_t)operation,
		.pieces = pieces,
		.piece_count = 4,
		.token = operation->token,
	};
	uint32_t taken = 0;

	return smbdirect_device_send_pdus(worker->device, &pdu, 1, &taken);
}

/* READ: sends the data, and then the response. WRITE: fetches the data. */
static int32_t move_data(struct worker *worker, struct operation *operation)
{
	bool is_read = operation->command == SMB2_READ;
	struct smbdirect_rdma rdma = {
		.type_size = sizeof(rdma),
		.direction = is_read ? SMBDIRECT_RDMA_WRITE : SMBDIRECT_RDMA_READ,
		.conn = operation->conn,
		.cookie = (uintptr_t)operation,
		.length = operation->transfer.length,
		.descriptors = operation->pdu + operation->transfer.descriptors_offset,
		.descriptors_length = operation->transfer.descriptors_length,
	};
	uint32_t taken = 0;
	int32_t status;

	if (operation->buffer.number == 0) {
		operation->buffer.type_size = sizeof(operation->buffer);
		status = smbdirect_buffer_alloc(worker->device,
						operation->transfer.length,
						&operation->buffer);
		if (status != SMBDIRECT_OK) {
			operation->buffer.number = 0;
			return status;
		}
		check(operation->buffer.length >= operation->transfer.length);
		if (is_read) {
			fill_pattern(operation->buffer.start, operation->offset,
				     operation->transfer.length);
		}
	}
	rdma.buffer = operation->buffer.number;
	return smbdirect_device_rdma_read_write(worker->device, &rdma, 1, &taken);
}

/* Gives a connection away, with a message for its next owner: the bytes after the GUID. */
static int32_t transfer_connection(struct worker *worker, struct operation *operation)
{
	const uint8_t *client_guid = operation->pdu + SMB2_HEADER_LENGTH;
	size_t start = SMB2_HEADER_LENGTH + 16;
	bool by_token = operation->command == TEST_TRANSFER_TOKEN;

	if (operation->stage == STAGE_PASS) {
		return smbdirect_conn_transfer(worker->device, operation->conn,
					       (uintptr_t)operation,
					       worker->client_guid,
					       operation->pdu,
					       operation->length);
	}
	check(operation->length >= start);
	return smbdirect_conn_transfer(worker->device, operation->conn,
				       (uintptr_t)operation,
				       by_token ? NULL : client_guid,
				       operation->pdu + start,
				       operation->length - start);
}

/* Queues a request, which continues after SMBDIRECT_EVENT_ROOM or the end of another one. */
static void wait_for_room(struct worker *worker, struct operation *operation)
{
	operation->waiting = true;
	worker->waiting[worker->waiting_count++] = operation;
}

/* Continues a request as far as possible. */
static void serve(struct worker *worker, struct operation *operation)
{
	int32_t status;

	if (operation->waiting) {
		return;
	}
	if (operation->stage == STAGE_DATA) {
		status = move_data(worker, operation);
		if (is_transient(status)) {
			wait_for_room(worker, operation);
			return;
		}
		operation->stage = STAGE_REPLY;
		operation->result = status;
		if (status == SMBDIRECT_OK) {
			operation->pending++;
			if (operation->command == SMB2_WRITE) {
				/* The end of the transfer sends the answer. */
				return;
			}
			/* The response to a READ cannot overtake its data. */
		}
	}
	if (operation->stage == STAGE_TRANSFER ||
	    operation->stage == STAGE_PASS) {
		status = transfer_connection(worker, operation);
		/* Busy means that the previous response has not been acknowledged. */
		if (is_transient(status) || status == SMBDIRECT_E_BUSY) {
			wait_for_room(worker, operation);
			return;
		}
		if (status == SMBDIRECT_OK) {
			/* The next owner answers, or this worker if there is none. */
			operation->pending++;
			return;
		}
		operation->stage = STAGE_REPLY;
		operation->result = status;
	}
	if (operation->stage == STAGE_REPLY) {
		status = reply(worker, operation, operation->result);
		if (is_transient(status)) {
			wait_for_room(worker, operation);
			return;
		}
		if (status == SMBDIRECT_OK) {
			operation->pending++;
		} else if (status != SMBDIRECT_E_NO_CONNECTION) {
			done(status);
		}
		operation->stage = STAGE_END;
	}
	if (operation->pending == 0) {
		end_operation(worker, operation);
	}
}

static void serve_waiting(struct worker *worker)
{
	struct operation *waiting[MAX_OPERATIONS];
	size_t count = worker->waiting_count;
	size_t n;

	memcpy(waiting, worker->waiting, count * sizeof(waiting[0]));
	worker->waiting_count = 0;
	for (n = 0; n < count; n++) {
		waiting[n]->waiting = false;
		serve(worker, waiting[n]);
	}
}

static void register_client(struct worker *worker)
{
	struct smbdirect_session session = {.type_size = sizeof(session)};

	memcpy(session.client_guid, worker->client_guid, sizeof(session.client_guid));
	done(smbdirect_device_set_session_id(worker->device, COOKIE_REGISTER,
					     &session));
	worker->registering = true;
}

/*
 * Passes the requests that wait for the registration to the worker that has registered the client.
 */
static void pass_on(struct worker *worker)
{
	size_t n;

	for (n = 0; n < worker->waiting_count; n++) {
		worker->waiting[n]->stage = STAGE_PASS;
	}
	serve_waiting(worker);
}

static void handle_pdu(struct worker *worker, const struct smbdirect_event *event)
{
	struct operation *operation = new_operation(worker);
	int32_t status = SMBDIRECT_OK;

	check(event->length >= SMB2_HEADER_LENGTH);
	operation->conn = event->conn;
	operation->length = event->length;
	operation->pdu = malloc(event->length);
	check(operation->pdu != NULL);
	if (!done(smbdirect_device_take_pdu(worker->device, event->pdu,
					    operation->pdu, operation->length))) {
		end_operation(worker, operation);
		return;
	}
	operation->command = smb2_command(operation->pdu);
	operation->stage = STAGE_REPLY;
	switch (operation->command) {
	case SMB2_READ:
	case SMB2_WRITE:
		operation->transfer.type_size = sizeof(operation->transfer);
		status = smbdirect_request_transfer(operation->pdu,
						    operation->length,
						    &operation->transfer);
		expect(SMBDIRECT_OK,
		       smbdirect_request_invalidate(operation->pdu,
						    operation->length,
						    &operation->invalidate,
						    &operation->token));
		operation->result = status;
		operation->offset = little(operation->pdu + 72, 8);
		if (status == SMBDIRECT_OK && operation->transfer.channel != 0) {
			operation->stage = STAGE_DATA;
		}
		break;
	case SMB2_LOGOFF:
		done(smbdirect_conn_disconnect(worker->device, event->conn));
		end_operation(worker, operation);
		return;
	case TEST_TRANSFER:
	case TEST_TRANSFER_TOKEN:
		operation->stage = STAGE_TRANSFER;
		break;
	case TEST_CLAIM:
		check(operation->length == SMB2_HEADER_LENGTH + 16);
		done(smbdirect_device_claim(worker->device, COOKIE_CLAIM,
					    operation->pdu + SMB2_HEADER_LENGTH));
		break;
	default:
		break;
	}
	if (worker->registered) {
		serve(worker, operation);
		return;
	}
	wait_for_room(worker, operation);
	if (!worker->registering) {
		register_client(worker);
	}
}

/* Handles the end of an operation that belongs to a request. */
static void handle_end(struct worker *worker, const struct smbdirect_event *event)
{
	struct operation *operation = (struct operation *)(uintptr_t)event->cookie;

	check(operation->used && operation->conn == event->conn);
	check(operation->pending > 0);
	operation->pending--;
	if (event->kind == SMBDIRECT_EVENT_RDMA_DONE &&
	    operation->command == SMB2_WRITE) {
		operation->result = event->status;
		if (event->status == SMBDIRECT_OK &&
		    !has_pattern(operation->buffer.start, operation->offset,
				 operation->transfer.length)) {
			operation->result = SMBDIRECT_E_CORRUPT;
		}
	}
	serve(worker, operation);
	if (worker->registered) {
		serve_waiting(worker);
	}
}

/* Reports something to the tests. */
__attribute__((format(printf, 1, 2)))
static void tell(const char *format, ...)
{
	va_list ap;

	printf("%d ", (int)getpid());
	va_start(ap, format);
	vprintf(format, ap);
	va_end(ap);
	putchar('\n');
	fflush(stdout);
}

static void handle_transferred(struct worker *worker, const struct smbdirect_event *event)
{
	struct operation *operation = (struct operation *)(uintptr_t)event->cookie;
	struct smbdirect_conn_info info = {.type_size = sizeof(info)};
	char token[2 * sizeof(event->token) + 1];
	int32_t status;
	size_t n;

	check(operation->used && operation->conn == event->conn);
	operation->pending--;
	if (operation->stage == STAGE_PASS &&
	    (event->status == SMBDIRECT_E_NO_OWNER ||
	     event->status == SMBDIRECT_E_DETACHED)) {
		/* The other worker has ended. */
		operation->stage = STAGE_REPLY;
		wait_for_room(worker, operation);
		register_client(worker);
		return;
	}
	if (event->status != SMBDIRECT_OK) {
		operation->stage = STAGE_REPLY;
		operation->result = event->status;
		serve(worker, operation);
		return;
	}
	for (n = 0; n < sizeof(event->token); n++) {
		sprintf(&token[2 * n], "%02x", event->token[n]);
	}
	tell("transferred %s", token);
	status = smbdirect_conn_get_info(worker->device, event->conn, &info);
	check(status == SMBDIRECT_E_NO_CONNECTION || status == SMBDIRECT_E_DETACHED);
	end_operation(worker, operation);
	worker->connections--;
}

/* Handles the end of a connection, after everything that was under way on it has been reported. */
static void handle_disconnected(struct worker *worker, const struct smbdirect_event *event)
{
	size_t n;

	for (n = 0; n < MAX_OPERATIONS; n++) {
		struct operation *operation = &worker->operations[n];

		if (operation->used && operation->conn == event->conn) {
			check(operation->pending == 0);
		}
	}
	tell("disconnected: %s", smbdirect_status_str(event->status));
	worker->connections--;
}

/* Returns whether to go on. */
static bool handle_event(struct worker *worker, const struct smbdirect_event *event)
{
	switch (event->kind) {
	case SMBDIRECT_EVENT_ATTACHED:
		break;
	case SMBDIRECT_EVENT_DETACHED:
		tell("detached: %s", smbdirect_status_str(event->status));
		check(worker->connections == 0);
		return false;
	case SMBDIRECT_EVENT_CONNECTION:
		tell("connection");
		worker->connections++;
		worker->had_connection = true;
		memcpy(worker->client_guid, event->info.client_guid,
		       sizeof(worker->client_guid));
		/* The clients of the tests send no SESSION_SETUP. */
		done(smbdirect_conn_set_authenticated(worker->device, event->conn));
		break;
	case SMBDIRECT_EVENT_PDU:
		handle_pdu(worker, event);
		break;
	case SMBDIRECT_EVENT_SENT:
	case SMBDIRECT_EVENT_RDMA_DONE:
		handle_end(worker, event);
		break;
	case SMBDIRECT_EVENT_TRANSFERRED:
		handle_transferred(worker, event);
		break;
	case SMBDIRECT_EVENT_DISCONNECTED:
		handle_disconnected(worker, event);
		if (event->status == SMBDIRECT_E_STOPPING ||
		    event->status == SMBDIRECT_E_DETACHED) {
			/* SMBDIRECT_EVENT_DETACHED follows. */
			return true;
		}
		break;
	case SMBDIRECT_EVENT_REPLY:
		if (event->status == SMBDIRECT_E_DETACHED) {
			break;
		}
		if (event->status == SMBDIRECT_E_TAKEN &&
		    event->cookie == COOKIE_REGISTER) {
			pass_on(worker);
			break;
		}
		if (event->status != SMBDIRECT_OK) {
			fail("reply %u: %s", (unsigned int)event->cookie,
			     smbdirect_status_str(event->status));
		}
		if (event->cookie == COOKIE_REGISTER) {
			worker->registered = true;
			serve_waiting(worker);
		}
		break;
	case SMBDIRECT_EVENT_ROOM:
		serve_waiting(worker);
		break;
	default:
		fail("unknown event %u", event->kind);
	}
	return !worker->had_connection || worker->connections > 0;
}

/* Takes events one at a time, as smbd does. */
static void take_one_at_a_time(struct worker *worker)
{
	bool go_on = true;

	while (go_on) {
		struct smbdirect_event event = {.type_size = sizeof(event)};
		uint32_t count = 0;

		expect(SMBDIRECT_OK,
		       smbdirect_device_get_events(worker->device, 0, &event, 1, &count));
		if (count == 0) {
			wait_for_device(worker->device);
		} else {
			go_on = handle_event(worker, &event);
		}
	}
}

static void take_batches(struct worker *worker)
{
	static struct smbdirect_event events[MAX_EVENTS];
	unsigned int peeks = 0;
	bool go_on = true;

	events[0].type_size = sizeof(events[0]);
	while (go_on) {
		uint32_t count = 0;
		uint32_t i;

		expect(SMBDIRECT_OK,
		       smbdirect_device_get_events(worker->device,
						   peeks > 0 ? SMBDIRECT_EVENTS_PEEK : 0,
						   events, MAX_EVENTS, &count));
		for (i = 0; go_on && i < count; i++) {
			go_on = handle_event(worker, &events[i]);
		}
		if (!go_on || count == MAX_EVENTS) {
			continue;
		}
		if (count == 0 && peeks == 0) {
			wait_for_device(worker->device);
		}
		/* Look for a while after an event came, and after waking up. */
		peeks = count > 0 || peeks == 0 ? PEEKS : peeks - 1;
	}
}

static int run_worker(const char *path, const uint8_t *token)
{
	static struct worker worker;
	size_t n;

	worker.device = attach(path, SMBDIRECT_ROLE_WORKER, token);
	if (batches) {
		take_batches(&worker);
	} else {
		take_one_at_a_time(&worker);
	}
	smbdirect_device_free(worker.device);
	for (n = 0; n < MAX_OPERATIONS; n++) {
		if (worker.operations[n].used) {
			free(worker.operations[n].pdu);
		}
	}
	return 0;
}

static pid_t fork_worker(struct smbdirect_device *listener, const char *path,
			 const uint8_t *token)
{
	struct smbdirect_event event = {.type_size = sizeof(event)};
	uint32_t count;
	pid_t pid = fork();

	check(pid >= 0);
	if (pid > 0) {
		return pid;
	}
	/* The parent's handle is useless here, and calls say so. */
	expect(SMBDIRECT_E_FORKED,
	       smbdirect_device_get_events(listener, 0, &event, 1, &count));
	smbdirect_device_free(listener);
	exit(run_worker(path, token));
}

/* Waits for children that have ended, and returns how many failed. */
static int reap(unsigned int *running, int options)
{
	int failed = 0;
	int status;

	while (*running > 0 && waitpid(-1, &status, options) > 0) {
		(*running)--;
		if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
			fprintf(stderr, "a worker ended with %#x\n", status);
			/* The tests kill some children. */
			failed += !WIFSIGNALED(status);
		}
	}
	return failed;
}

/*
 * Serves offers until the device ends the attachment or standard input ends. Returns whether the
 * device ended the attachment.
 */
static bool serve_offers(struct smbdirect_device *device, const char *path,
			 unsigned int *running, int *failed)
{
	struct pollfd fds[2] = {{.events = POLLIN}, {.fd = 0, .events = POLLIN}};

	expect(SMBDIRECT_OK, smbdirect_device_event_fd(device, &fds[0].fd));
	for (;;) {
		struct smbdirect_event event = {.type_size = sizeof(event)};
		uint32_t count = 0;

		expect(SMBDIRECT_OK,
		       smbdirect_device_get_events(device, 0, &event, 1, &count));
		*failed += reap(running, WNOHANG);
		if (count == 0) {
			check(poll(fds, 2, -1) >= 0 || errno == EINTR);
			if ((fds[1].revents & (POLLIN | POLLHUP)) != 0) {
				return false;
			}
			continue;
		}
		switch (event.kind) {
		case SMBDIRECT_EVENT_ATTACHED:
			tell("attached");
			break;
		case SMBDIRECT_EVENT_OFFER:
			fork_worker(device, path, event.token);
			(*running)++;
			break;
		case SMBDIRECT_EVENT_DETACHED:
			tell("detached: %s", smbdirect_status_str(event.status));
			return true;
		default:
			fail("listener: event %u", event.kind);
		}
	}
}

static int run_listener(const char *path)
{
	struct smbdirect_attach args = {
		.type_size = sizeof(args),
		.role = SMBDIRECT_ROLE_LISTENER,
	};
	struct pollfd input = {.fd = 0, .events = POLLIN};
	unsigned int running = 0;
	bool go_on = true;
	int failed = 0;

	while (go_on) {
		struct smbdirect_device *device = NULL;
		int32_t status = smbdirect_device_new(path, &args, &device);

		if (status == SMBDIRECT_OK) {
			go_on = serve_offers(device, path, &running, &failed);
			smbdirect_device_free(device);
		} else if (status != SMBDIRECT_E_NO_DEVICE) {
			fail("attach: %s", smbdirect_status_str(status));
		}
		if (go_on && poll(&input, 1, RETRY_MS) > 0) {
			go_on = false;
		}
	}
	failed += reap(&running, 0);
	return failed != 0;
}

int main(int argc, char **argv)
{
	batches = argc == 3 && strcmp(argv[2], "batches") == 0;
	if (argc != 2 && !batches) {
		fail("usage: smbd PATH [batches]");
	}
	return run_listener(argv[1]);
}
