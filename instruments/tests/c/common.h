/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The part that the C programs of the tests share.
 */

#ifndef TESTS_C_COMMON_H
#define TESTS_C_COMMON_H

#include <smbdirect.h>

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

/* Longer than any step of a test takes, even with a sanitizer on a busy machine. */
#define TIMEOUT_MS 60000

__attribute__((noreturn, format(printf, 3, 4)))
static inline void fail_at(const char *file, int line, const char *format, ...)
{
	va_list ap;

	fprintf(stderr, "%s:%d: [%d] ", file, line, (int)getpid());
	va_start(ap, format);
	vfprintf(stderr, format, ap);
	va_end(ap);
	fprintf(stderr, "\n");
	fflush(NULL);
	_exit(99);
}

#define fail(...) fail_at(__FILE__, __LINE__, __VA_ARGS__)

#define check(condition) \
	do { \
		if (!(condition)) { \
			fail("not true: %s", #condition); \
		} \
	} while (0)

/* Makes a call that must end with a certain status. */
#define expect(expected, call) \
	do { \
		int32_t status_ = (call); \
		if (status_ != (expected)) { \
			fail("%s: %s, not %s", #call, \
			     smbdirect_status_str(status_), \
			     smbdirect_status_str(expected)); \
		} \
	} while (0)

static inline struct smbdirect_device *attach(const char *path, uint32_t role,
					      const uint8_t *token)
{
	struct smbdirect_attach args = {
		.type_size = sizeof(args),
		.role = role,
	};
	struct smbdirect_device *device = NULL;

	if (token != NULL) {
		memcpy(args.token, token, sizeof(args.token));
	}
	expect(SMBDIRECT_OK, smbdirect_device_new(path, &args, &device));
	return device;
}

/* Waits until the device may have an event. */
static inline void wait_for_device(struct smbdirect_device *device)
{
	struct pollfd pfd = {.events = POLLIN};
	int ret;

	expect(SMBDIRECT_OK, smbdirect_device_event_fd(device, &pfd.fd));
	ret = poll(&pfd, 1, TIMEOUT_MS);
	if (ret < 0 && errno != EINTR) {
		fail("poll: %s", strerror(errno));
	}
	if (ret == 0) {
		fail("nothing happened within %d ms", TIMEOUT_MS);
	}
}

/* Waits for the next event, of any kind. */
static inline struct smbdirect_event next_event(struct smbdirect_device *device)
{
	struct smbdirect_event event = {.type_size = sizeof(event)};
	uint32_t count = 0;

	for (;;) {
		expect(SMBDIRECT_OK,
		       smbdirect_device_get_events(device, 0, &event, 1, &count));
		if (count == 1) {
			return event;
		}
		wait_for_device(device);
	}
}

/* Waits for the next event, which must be of this kind. */
static inline struct smbdirect_event expect_event(struct smbdirect_device *device,
						  uint32_t kind)
{
	struct smbdirect_event event = next_event(device);

	if (event.kind != kind) {
		fail("event %u (%s), not %u", event.kind,
		     smbdirect_status_str(event.status), kind);
	}
	return event;
}

/*
 * As much of SMB2 as the tests need: the header's fields, little-endian.
 */

#define SMB2_HEADER_LENGTH 64
#define SMB2_NEGOTIATE 0x00
#define SMB2_LOGOFF 0x02
#define SMB2_READ 0x08
#define SMB2_WRITE 0x09
#define SMB2_ECHO 0x0D
/*
 * Not part of SMB2: gives the connection to the worker that registered the GUID which follows the
 * header. The message after the GUID goes with the connection.
 */
#define TEST_TRANSFER 0xF0
/*
 * Not part of SMB2: gives the connection, and the message after the GUID, to the worker that claims
 * the connection's token, whatever the GUID.
 */
#define TEST_TRANSFER_TOKEN 0xF1
/* Not part of SMB2: claims the connection whose token follows the header. */
#define TEST_CLAIM 0xF2

static inline uint64_t little(const uint8_t *bytes, size_t length)
{
	uint64_t value = 0;

	while (length > 0) {
		length--;
		value = value << 8 | bytes[length];
	}
	return value;
}

static inline uint16_t smb2_command(const uint8_t *pdu)
{
	return (uint16_t)little(pdu + 12, 2);
}

/* The contents of the file that the tests read and write: each 8 bytes give their offset. */
static inline uint64_t pattern(uint64_t offset)
{
	return (offset / 8 + 1) * UINT64_C(0x9E3779B97F4A7C15);
}

static inline void fill_pattern(void *start, uint64_t offset, size_t length)
{
	uint8_t *bytes = start;
	uint64_t word;
	size_t n;

	for (n = 0; n + 8 <= length; n += 8) {
		word = pattern(offset + n);
		memcpy(bytes + n, &word, 8);
	}
	word = pattern(offset + n);
	memcpy(bytes + n, &word, length - n);
}

static inline bool has_pattern(const void *start, uint64_t offset, size_t length)
{
	const uint8_t *bytes = start;
	uint64_t word;
	size_t n;

	for (n = 0; n + 8 <= length; n += 8) {
		word = pattern(offset + n);
		if (memcmp(bytes + n, &word, 8) != 0) {
			return false;
		}
	}
	word = pattern(offset + n);
	return memcmp(bytes + n, &word, length - n) == 0;
}

#endif
