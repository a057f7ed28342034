// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * For LD_PRELOAD: makes pread() and pwrite() of 12345 bytes take a tenth of a second, as if the
 * file were on a slow disk.
 */
#include <stddef.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

enum { SLOW_LENGTH = 12345 };

static void wait_if_slow(size_t length)
{
	const struct timespec time = { .tv_nsec = 100000000 };

	if (length == SLOW_LENGTH) {
		(void)nanosleep(&time, NULL);
	}
}

ssize_t pread(int fd, void *buffer, size_t length, off_t offset)
{
	wait_if_slow(length);
	return syscall(SYS_pread64, fd, buffer, length, offset);
}

ssize_t pwrite(int fd, const void *buffer, size_t length, off_t offset)
{
	wait_if_slow(length);
	return syscall(SYS_pwrite64, fd, buffer, length, offset);
}

ssize_t pread64(int fd, void *buffer, size_t length, off_t offset)
{
	return pread(fd, buffer, length, offset);
}

ssize_t pwrite64(int fd, const void *buffer, size_t length, off_t offset)
{
	return pwrite(fd, buffer, length, offset);
}
