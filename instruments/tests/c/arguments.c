// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Tests arguments that every call refuses, and structures of other sizes than this version's.
 *
 * arguments PATH
 */

#include "scene.h"

/* Bytes that a newer program's structure has in addition to this version's. */
#define NEWER 64
#define GUARD 32

static struct scene scene;

/* A call with these parameters succeeds, which shows that the structure was understood. */
static void legal_parameters(struct smbdirect_parameters *parameters)
{
	*parameters = (struct smbdirect_parameters){.type_size = sizeof(*parameters)};
}

static void legal_allowed(struct smbdirect_allowed_address *allowed)
{
	*allowed = (struct smbdirect_allowed_address){
		.type_size = sizeof(*allowed),
		.address = {[10] = 255, 255, 127, 0, 0, 1},
	};
}

static void legal_note(struct smbdirect_client_note *note)
{
	*note = (struct smbdirect_client_note){
		.type_size = sizeof(*note),
		.note = SMBDIRECT_NOTE_ASKED,
		.address = {[10] = 255, 255, 127, 0, 0, 1},
	};
}

static void no_pointers(void)
{
	struct smbdirect_device *device = scene.worker;
	struct smbdirect_attach args = {
		.type_size = sizeof(args),
		.role = SMBDIRECT_ROLE_WORKER,
	};
	struct smbdirect_device *made = NULL;
	struct smbdirect_event event = {.type_size = sizeof(event)};
	struct smbdirect_parameters parameters;
	struct smbdirect_allowed_address allowed;
	struct smbdirect_client_note note;
	struct smbdirect_session session = {
		.type_size = sizeof(session),
		.client_guid = {1},
	};
	struct smbdirect_mem_params params = {.type_size = sizeof(params)};
	struct smbdirect_address address = {.type_size = sizeof(address)};
	struct smbdirect_buffer buffer = {.type_size = sizeof(buffer)};
	struct smbdirect_conn_info info = {.type_size = sizeof(info)};
	struct smbdirect_transfer transfer = {.type_size = sizeof(transfer)};
	struct smbdirect_transform transform = {.type_size = sizeof(transform)};
	uint8_t sixteen[16] = {1}, zeros[16] = {0};
	struct iovec piece = {.iov_base = sixteen, .iov_len = 16};
	struct smbdirect_pdu pdu = {
		.type_size = sizeof(pdu),
		.conn = scene.conn,
		.pieces = &piece,
		.piece_count = 1,
	};
	struct descriptor descriptor = {.length = 1000};
	struct smbdirect_buffer used = allocate(&scene, 1000);
	struct smbdirect_rdma operation =
		rdma(&scene, SMBDIRECT_RDMA_WRITE, &used, &descriptor);
	uint32_t count = 0, number = 0;
	uint64_t total = 0;
	int fd = -1;

	legal_parameters(&parameters);
	legal_allowed(&allowed);
#define INVALID(call) expect(SMBDIRECT_E_INVALID, call)
	INVALID(smbdirect_device_new(scene.path, NULL, &made));
	INVALID(smbdirect_device_new(scene.path, &args, NULL));
	smbdirect_device_free(NULL);
	INVALID(smbdirect_device_event_fd(NULL, &fd));
	INVALID(smbdirect_device_event_fd(device, NULL));
	INVALID(smbdirect_device_versions(NULL, &number, &count));
	INVALID(smbdirect_device_versions(device, NULL, &count));
	INVALID(smbdirect_device_versions(device, &number, NULL));
	INVALID(smbdirect_device_get_events(NULL, 0, &event, 1, &count));
	INVALID(smbdirect_device_get_events(device, 0, NULL, 1, &count));
	INVALID(smbdirect_device_get_events(device, 0, &event, 0, &count));
	INVALID(smbdirect_device_get_events(device, 0, &event, 1, NULL));
	INVALID(smbdirect_device_get_events(device, SMBDIRECT_EVENTS_PEEK << 1,
					    &event, 1, &count));
	INVALID(smbdirect_device_flush(NULL));
	INVALID(smbdirect_conn_fetch_ahead(NULL, 1, 1));
	INVALID(smbdirect_device_set_parameters(NULL, 1, &parameters, NULL, 0));
	INVALID(smbdirect_device_set_parameters(scene.listener, 1, NULL, NULL, 0));
	INVALID(smbdirect_device_set_parameters(scene.listener, 1, &parameters, NULL, 1));
	INVALID(smbdirect_device_set_addresses(NULL, 1, 0, &allowed, 1));
	INVALID(smbdirect_device_set_addresses(scene.listener, 1, 0, NULL, 1));
	INVALID(smbdirect_device_set_addresses(scene.listener, 1, 2, NULL, 0));
	INVALID(smbdirect_device_set_addresses(scene.listener, 1, SMBDIRECT_ADDRESSES_ALL,
					       &allowed, 1));
	/*
	 * A scope with an address that has none, then an address that no host has, and then a
	 * link-local one.
	 */
	allowed.scope_id = 1;
	INVALID(smbdirect_device_set_addresses(scene.listener, 1, 0, &allowed, 1));
	allowed.scope_id = 0;
	memset(allowed.address, 0, sizeof(allowed.address));
	INVALID(smbdirect_device_set_addresses(scene.listener, 1, 0, &allowed, 1));
	allowed.address[0] = 0xfe;
	allowed.address[1] = 0x80;
	INVALID(smbdirect_device_set_addresses(scene.listener, 1, 0, &allowed, 1));
	legal_note(&note);
	INVALID(smbdirect_device_note_client(NULL, &note));
	INVALID(smbdirect_device_note_client(scene.listener, NULL));
	note.note = 0;
	INVALID(smbdirect_device_note_client(scene.listener, &note));
	legal_note(&note);
	note.reserved16 = 1;
	INVALID(smbdirect_device_note_client(scene.listener, &note));
	INVALID(smbdirect_device_set_session_id(NULL, 1, &session));
	INVALID(smbdirect_device_set_session_id(device, 1, NULL));
	INVALID(smbdirect_device_claim(NULL, 1, sixteen));
	INVALID(smbdirect_device_claim(device, 1, NULL));
	INVALID(smbdirect_device_claim(device, 1, zeros));
	INVALID(smbdirect_device_decline(NULL, 1, sixteen));
	INVALID(smbdirect_device_decline(scene.listener, 1, NULL));
	INVALID(smbdirect_device_decline(scene.listener, 1, zeros));
	INVALID(smbdirect_device_get_addresses(NULL, &address, 1, &count));
	INVALID(smbdirect_device_get_addresses(device, NULL, 1, &count));
	INVALID(smbdirect_device_get_addresses(device, &address, 1, NULL));
	INVALID(smbdirect_device_get_addresses(device, NULL, 0, NULL));
	INVALID(smbdirect_device_get_mem_params(NULL, &params));
	INVALID(smbdirect_device_get_mem_params(device, NULL));
	INVALID(smbdirect_device_send_pdus(NULL, &pdu, 1, &count));
	INVALID(smbdirect_device_send_pdus(device, NULL, 1, &count));
	INVALID(smbdirect_device_send_pdus(device, &pdu, 1, NULL));
	pdu.pieces = NULL;
	INVALID(smbdirect_device_send_pdus(device, &pdu, 1, &count));
	pdu.pieces = &piece;
	pdu.piece_count = 0;
	INVALID(smbdirect_device_send_pdus(device, &pdu, 1, &count));
	pdu.piece_count = 1025;
	INVALID(smbdirect_device_send_pdus(device, &pdu, 1, &count));
	pdu.piece_count = 1;
	pdu.flags = 2;
	INVALID(smbdirect_device_send_pdus(device, &pdu, 1, &count));
	pdu.flags = 0;
	piece.iov_base = NULL;
	INVALID(smbdirect_device_send_pdus(device, &pdu, 1, &count));
	piece.iov_base = sixteen;
	piece.iov_len = 0;
	INVALID(smbdirect_device_send_pdus(device, &pdu, 1, &count));
	piece.iov_len = SIZE_MAX;
	INVALID(smbdirect_device_send_pdus(device, &pdu, 1, &count));
	INVALID(smbdirect_device_rdma_read_write(NULL, &operation, 1, &count));
	INVALID(smbdirect_device_rdma_read_write(device, NULL, 1, &count));
	INVALID(smbdirect_device_rdma_read_write(device, &operation, 1, NULL));
	operation.descriptors = NULL;
	INVALID(smbdirect_device_rdma_read_write(device, &operation, 1, &count));
	operation.descriptors = &descriptor;
	operation.direction = 3;
	INVALID(smbdirect_device_rdma_read_write(device, &operation, 1, &count));
	operation.direction = SMBDIRECT_RDMA_WRITE;
	operation.length = 0;
	INVALID(smbdirect_device_rdma_read_write(device, &operation, 1, &count));
	INVALID(smbdirect_device_take_pdu(NULL, 1, sixteen, 16));
	INVALID(smbdirect_device_take_pdu(device, 1, NULL, 16));
	INVALID(smbdirect_buffer_alloc(NULL, 1, &buffer));
	INVALID(smbdirect_buffer_alloc(device, 1, NULL));
	INVALID(smbdirect_buffer_alloc(device, 0, &buffer));
	INVALID(smbdirect_buffer_free(NULL, used.number));
	INVALID(smbdirect_conn_get_info(NULL, scene.conn, &info));
	INVALID(smbdirect_conn_get_info(device, scene.conn, NULL));
	INVALID(smbdirect_conn_disconnect(NULL, scene.conn));
	INVALID(smbdirect_conn_set_authenticated(NULL, scene.conn));
	INVALID(smbdirect_conn_transfer(NULL, scene.conn, 1, NULL, sixteen, 16));
	INVALID(smbdirect_conn_transfer(device, scene.conn, 1, NULL, NULL, 16));
	INVALID(smbdirect_conn_transfer(device, scene.conn, 1, zeros, sixteen, 16));
	INVALID(smbdirect_request_transfer(NULL, 16, &transfer));
	INVALID(smbdirect_request_transfer(sixteen, 16, NULL));
	INVALID(smbdirect_request_transform(NULL, 16, &transform));
	INVALID(smbdirect_request_transform(sixteen, 16, NULL));
	INVALID(smbdirect_request_invalidate(NULL, 16, &number, &number));
	INVALID(smbdirect_request_invalidate(sixteen, 16, NULL, &number));
	INVALID(smbdirect_request_invalidate(sixteen, 16, &number, NULL));
	INVALID(smbdirect_descriptors_check(NULL, 16, &total));
	INVALID(smbdirect_descriptors_check(sixteen, 16, NULL));
#undef INVALID
	/* Nothing has been written. */
	check(made == NULL && count == 0 && number == 0 && total == 0 && fd == -1);
	check(buffer.number == 0 && info.peer_port == 0 && transfer.length == 0);
	check(transform.length == 0);
	check(address.port == 0);
	expect(SMBDIRECT_OK, smbdirect_buffer_free(device, used.number));
	check(strcmp(smbdirect_status_str(-1), "unknown status") == 0);
	check(smbdirect_status_errno(-1) == EIO && smbdirect_status_errno(0) == 0);
	check(smbdirect_abi_version() == SMBDIRECT_ABI_VERSION);
}

/* Makes a structure of `size` bytes that claims to have `type_size`. */
static void *structure(const void *start, size_t length, size_t size, uint32_t type_size)
{
	uint8_t *copy = malloc(size);

	check(copy != NULL);
	memset(copy, 0, size);
	memcpy(copy, start, length < size ? length : size);
	memcpy(copy, &type_size, sizeof(type_size));
	return copy;
}

/* Collects sizes that are wrong in every version for a structure of `size` bytes. */
static size_t wrong_sizes(size_t size, uint32_t *sizes)
{
	size_t count = 0;

	sizes[count++] = 0;
	sizes[count++] = 4;
	sizes[count++] = (uint32_t)size - 8;
	/* The second element of an array would not be aligned. */
	sizes[count++] = (uint32_t)size + 4;
	sizes[count++] = 4096 + 8;
	sizes[count++] = UINT32_MAX;
	return count;
}

/* Tests a `call` that reads a structure; with a legal structure, it ends with `legal`. */
static void reads(const void *start, size_t size, int32_t (*call)(const void *), int32_t legal)
{
	uint32_t sizes[8];
	size_t count = wrong_sizes(size, sizes);
	size_t newer = size + NEWER;
	uint8_t *copy;
	size_t n;

	for (n = 0; n < count; n++) {
		copy = structure(start, size, size, sizes[n]);
		expect(SMBDIRECT_E_INVALID, call(copy));
		free(copy);
	}
	/* Each structure ends with reserved fields. */
	copy = structure(start, size, size, (uint32_t)size);
	copy[size - 1] = 1;
	expect(SMBDIRECT_E_INVALID, call(copy));
	free(copy);
	for (n = size; n < newer; n += NEWER - 1) {
		copy = structure(start, size, newer, (uint32_t)newer);
		copy[n] = 1;
		expect(SMBDIRECT_E_INVALID, call(copy));
		free(copy);
	}
	copy = structure(start, size, newer, (uint32_t)newer);
	expect(legal, call(copy));
	free(copy);
}

/* Tests a `call` that writes a structure. */
static void writes(size_t size, int32_t (*call)(void *))
{
	static const uint8_t nothing[4096];
	uint32_t sizes[8];
	size_t count = wrong_sizes(size, sizes);
	size_t newer = size + NEWER;
	uint32_t written;
	uint8_t *copy;
	size_t n;

	for (n = 0; n < count; n++) {
		copy = structure(nothing, 0, size, sizes[n]);
		expect(SMBDIRECT_E_INVALID, call(copy));
		check(memcmp(copy + 4, nothing, size - 4) == 0);
		free(copy);
	}
	copy = malloc(newer + GUARD);
	check(copy != NULL);
	memset(copy, 0xa5, newer + GUARD);
	written = (uint32_t)newer;
	memcpy(copy, &written, sizeof(written));
	expect(SMBDIRECT_OK, call(copy));
	memcpy(&written, copy, sizeof(written));
	check(written == newer);
	/* Fields that this version does not know are 0, and the bytes after them are untouched. */
	check(memcmp(copy + size, nothing, NEWER) == 0);
	for (n = newer; n < newer + GUARD; n++) {
		check(copy[n] == 0xa5);
	}
	free(copy);
}

static int32_t call_new(const void *args)
{
	struct smbdirect_device *device = NULL;
	int32_t status = smbdirect_device_new(scene.path, args, &device);

	check((status == SMBDIRECT_OK) == (device != NULL));
	smbdirect_device_free(device);
	return status;
}

static int32_t call_set_parameters(const void *parameters)
{
	return smbdirect_device_set_parameters(scene.listener, 5, parameters, NULL, 0);
}

static int32_t call_set_addresses(const void *allowed)
{
	return smbdirect_device_set_addresses(scene.listener, 5, 0, allowed, 1);
}

static int32_t call_note_client(const void *note)
{
	return smbdirect_device_note_client(scene.listener, note);
}

static int32_t call_set_session_id(const void *session)
{
	return smbdirect_device_set_session_id(scene.worker, 6, session);
}

static int32_t call_send(const void *pdu)
{
	uint32_t taken = 0;
	int32_t status;

	do {
		status = smbdirect_device_send_pdus(scene.worker, pdu, 1, &taken);
	} while (status == SMBDIRECT_E_AGAIN && wants_room(scene.worker, status));
	return status;
}

static int32_t call_rdma(const void *operation)
{
	uint32_t taken = 0;

	return smbdirect_device_rdma_read_write(scene.worker, operation, 1, &taken);
}

static int32_t call_get_events(void *event)
{
	uint32_t count = 0;
	int32_t status;

	for (;;) {
		status = smbdirect_device_get_events(scene.worker, 0, event, 1, &count);
		if (status != SMBDIRECT_OK || count == 1) {
			return status;
		}
		wait_for_device(scene.worker);
	}
}

static int32_t call_get_mem_params(void *params)
{
	return smbdirect_device_get_mem_params(scene.worker, params);
}

static int32_t call_get_addresses(void *address)
{
	uint32_t count = 0;
	int32_t status = smbdirect_device_get_addresses(scene.worker, address, 1, &count);

	check(count == (status == SMBDIRECT_OK ? 1 : 0));
	return status;
}

static int32_t call_alloc(void *buffer)
{
	struct smbdirect_buffer made;
	int32_t status;

	do {
		status = smbdirect_buffer_alloc(scene.worker, 1, buffer);
	} while (status == SMBDIRECT_E_AGAIN && wants_room(scene.worker, status));
	if (status == SMBDIRECT_OK) {
		memcpy(&made, buffer, sizeof(made));
		expect(SMBDIRECT_OK, smbdirect_buffer_free(scene.worker, made.number));
	}
	return status;
}

static int32_t call_conn_info(void *info)
{
	return smbdirect_conn_get_info(scene.worker, scene.conn, info);
}

static int32_t call_request_transfer(void *transfer)
{
	/* A READ request of one byte, whose data goes in a message. */
	static const uint8_t request[64 + 49] = {
		0xfe, 'S', 'M', 'B', 64, [12] = SMB2_READ, [64] = 49, [68] = 1,
	};

	return smbdirect_request_transfer(request, sizeof(request), transfer);
}

static int32_t call_request_transform(void *transform)
{
	/*
	 * This WRITE request has one byte, and a transform of type 2 without signature and nonce.
	 */
	static const uint8_t request[64 + 48 + 24 + 16] = {
		0xfe, 'S', 'M', 'B', 64, [12] = SMB2_WRITE, [64] = 49, [96] = 3, [100] = 1,
		[104] = 112, [106] = 24 + 16, [112] = 24, [114] = 16, [116] = 1, [120] = 1,
		[128] = 2, [148] = 1,
	};

	return smbdirect_request_transform(request, sizeof(request), transform);
}

static void other_sizes(void)
{
	static uint8_t bytes[100];
	struct smbdirect_attach args = {
		.type_size = sizeof(args),
		.role = SMBDIRECT_ROLE_WORKER,
	};
	struct smbdirect_parameters parameters;
	struct smbdirect_allowed_address allowed;
	struct smbdirect_client_note note;
	struct smbdirect_session session = {
		.type_size = sizeof(session),
		.client_guid = {1},
	};
	struct iovec piece = {.iov_base = bytes, .iov_len = sizeof(bytes)};
	struct smbdirect_pdu pdu = {
		.type_size = sizeof(pdu),
		.conn = scene.conn,
		.pieces = &piece,
		.piece_count = 1,
	};
	struct descriptor descriptor = {.length = 999};
	struct smbdirect_buffer buffer = allocate(&scene, 1000);
	struct smbdirect_rdma operation =
		rdma(&scene, SMBDIRECT_RDMA_WRITE, &buffer, &descriptor);

	legal_parameters(&parameters);
	legal_allowed(&allowed);
	legal_note(&note);
	reads(&args, sizeof(args), call_new, SMBDIRECT_OK);
	reads(&parameters, sizeof(parameters), call_set_parameters, SMBDIRECT_OK);
	expect(SMBDIRECT_OK, reply_of(scene.listener, 5));
	reads(&allowed, sizeof(allowed), call_set_addresses, SMBDIRECT_OK);
	expect(SMBDIRECT_OK, reply_of(scene.listener, 5));
	reads(&note, sizeof(note), call_note_client, SMBDIRECT_OK);
	reads(&session, sizeof(session), call_set_session_id, SMBDIRECT_OK);
	expect(SMBDIRECT_OK, reply_of(scene.worker, 6));
	reads(&pdu, sizeof(pdu), call_send, SMBDIRECT_OK);
	expect(SMBDIRECT_OK, expect_event(scene.worker, SMBDIRECT_EVENT_SENT).status);
	/* The structure was read as a whole, because the descriptors are checked last. */
	reads(&operation, sizeof(operation), call_rdma, SMBDIRECT_E_DESCRIPTORS_TOO_SHORT);
	/* The reply to this call is an event. */
	expect(SMBDIRECT_OK, smbdirect_device_set_session_id(scene.worker, 7, &session));
	writes(sizeof(struct smbdirect_event), call_get_events);
	writes(sizeof(struct smbdirect_mem_params), call_get_mem_params);
	writes(sizeof(struct smbdirect_address), call_get_addresses);
	writes(sizeof(struct smbdirect_buffer), call_alloc);
	writes(sizeof(struct smbdirect_conn_info), call_conn_info);
	writes(sizeof(struct smbdirect_transfer), call_request_transfer);
	writes(sizeof(struct smbdirect_transform), call_request_transform);
	expect(SMBDIRECT_OK, smbdirect_buffer_free(scene.worker, buffer.number));
}

/*
 * Tests arrays of a newer program: the size in the first element is the distance to the next one.
 */
static void arrays(void)
{
	struct newer_pdu {
		struct smbdirect_pdu pdu;
		uint64_t more[2];
	} pdus[3];
	struct newer_event {
		struct smbdirect_event event;
		uint64_t more[2];
	} events[3];
	char text[] = "text";
	struct iovec piece = {.iov_base = text, .iov_len = sizeof(text)};
	uint32_t count = 0, seen = 0, n;

	memset(pdus, 0, sizeof(pdus));
	for (n = 0; n < 3; n++) {
		pdus[n].pdu = (struct smbdirect_pdu){
			.type_size = sizeof(pdus[0]),
			.conn = scene.conn,
			.cookie = 100 + n,
			.pieces = &piece,
			.piece_count = 1,
		};
	}
	/*
	 * The third message is illegal: two are accepted, and a call that begins with the third says
	 * why.
	 */
	pdus[2].more[1] = 1;
	expect(SMBDIRECT_OK,
	       smbdirect_device_send_pdus(scene.worker, &pdus[0].pdu, 3, &count));
	check(count == 2);
	expect(SMBDIRECT_E_INVALID,
	       smbdirect_device_send_pdus(scene.worker, &pdus[2].pdu, 1, &count));
	expect(SMBDIRECT_OK,
	       smbdirect_device_send_pdus(scene.worker, &pdus[0].pdu, 0, &count));
	check(count == 0);
	while (seen < 2) {
		memset(events, 0xa5, sizeof(events));
		events[0].event.type_size = sizeof(events[0]);
		expect(SMBDIRECT_OK,
		       smbdirect_device_get_events(scene.worker, 0, &events[0].event, 3,
						   &count));
		if (count == 0) {
			wait_for_device(scene.worker);
		}
		for (n = 0; n < count; n++) {
			check(events[n].event.type_size == sizeof(events[0]));
			check(events[n].event.kind == SMBDIRECT_EVENT_SENT);
			check(events[n].event.cookie == 100 + seen++);
			check(events[n].more[0] == 0 && events[n].more[1] == 0);
		}
		check(count == 3 || events[count].more[0] == UINT64_C(0xa5a5a5a5a5a5a5a5));
	}
}

/* The daemon listens on one address. */
static void addresses(struct smbdirect_device *device)
{
	static const uint8_t mapped[16] = {[10] = 255, 255, 127, 0, 0, 1};
	static const uint8_t nothing[sizeof(struct smbdirect_address)];
	struct smbdirect_address found[3];
	uint32_t count = 0;

	expect(SMBDIRECT_OK, smbdirect_device_get_addresses(device, NULL, 0, &count));
	check(count == 1);
	memset(found, 0, sizeof(found));
	found[0].type_size = sizeof(found[0]);
	count = 0;
	expect(SMBDIRECT_OK, smbdirect_device_get_addresses(device, found, 3, &count));
	check(count == 1 && found[0].type_size == sizeof(found[0]));
	check(memcmp(found[0].address, mapped, sizeof(mapped)) == 0);
	check(found[0].port == scene.info.local_port);
	check(found[0].interface_index > 0 && found[0].scope_id == 0);
	check(found[0].link_speed > 0);
	check(memcmp(&found[1], nothing, sizeof(nothing)) == 0);
}

/* The listener allows the daemon's address twice, then no address, then all. */
static void allowed_addresses(void)
{
	struct smbdirect_allowed_address allowed[2];
	uint32_t count = 1;

	legal_allowed(&allowed[0]);
	legal_allowed(&allowed[1]);
	expect(SMBDIRECT_OK, smbdirect_device_set_addresses(scene.listener, 8, 0, allowed, 2));
	expect(SMBDIRECT_OK, reply_of(scene.listener, 8));
	addresses(scene.listener);
	expect(SMBDIRECT_OK, smbdirect_device_set_addresses(scene.listener, 9, 0, NULL, 0));
	expect(SMBDIRECT_OK, reply_of(scene.listener, 9));
	expect(SMBDIRECT_OK,
	       smbdirect_device_get_addresses(scene.listener, NULL, 0, &count));
	check(count == 0);
	expect(SMBDIRECT_OK, smbdirect_device_set_addresses(scene.listener, 10,
							    SMBDIRECT_ADDRESSES_ALL, NULL, 0));
	expect(SMBDIRECT_OK, reply_of(scene.listener, 10));
	addresses(scene.listener);
}

int main(int argc, char **argv)
{
	check(argc == 2);
	scene.path = argv[1];
	set_connection(&scene, "connect");
	no_pointers();
	other_sizes();
	arrays();
	addresses(scene.worker);
	addresses(scene.listener);
	allowed_addresses();
	clear(&scene);
	printf("done\n");
	return 0;
}
