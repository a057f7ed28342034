// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The smbdirect device in the kernel: /dev/smbdirect. The engine, which
 * smbdirectd uses too, has the rules of the device, its protocol and its rings;
 * the files of this directory give it what a kernel provides.
 */
#define pr_fmt(fmt) "smbdirect: " fmt

#include <linux/bug.h>
#include <linux/delay.h>
#include <linux/ktime.h>
#include <linux/lockdep.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/random.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/wait_bit.h>

#include "glue.h"

static unsigned int max_connections = 4096;
module_param(max_connections, uint, 0444);
MODULE_PARM_DESC(max_connections, "maximum number of client connections (4096)");
static unsigned int max_unauthenticated = 1024;
module_param(max_unauthenticated, uint, 0444);
MODULE_PARM_DESC(max_unauthenticated, "maximum number of client connections that have not logged in (1024)");
static unsigned int max_undispatched = 64;
module_param(max_undispatched, uint, 0444);
MODULE_PARM_DESC(max_undispatched, "maximum number of connections that are offered to smbd at a time (64)");
static unsigned int max_workers = 1024;
module_param(max_workers, uint, 0444);
MODULE_PARM_DESC(max_workers, "maximum number of smbd processes that attach as workers without a token (1024)");
static unsigned int worker_memory_mb = 2048;
module_param(worker_memory_mb, uint, 0444);
MODULE_PARM_DESC(worker_memory_mb, "maximum memory that one smbd process shares with the device, in MiB (2048)");
static unsigned int memory_mb;
module_param(memory_mb, uint, 0444);
MODULE_PARM_DESC(memory_mb, "maximum memory that all smbd processes together share with the device, in MiB (half of the machine's memory)");

bool sd_is_dead;
struct workqueue_struct *sd_workqueue;
/*
 * The items of sd_closer wait for completions that items of sd_workqueue take,
 * so the former must not use up the workers of sd_workqueue.
 */
struct workqueue_struct *sd_closer;

atomic_t sd_conns = ATOMIC_INIT(0), sd_wrs = ATOMIC_INIT(0), sd_maps = ATOMIC_INIT(0);
atomic64_t sd_bytes = ATOMIC64_INIT(0), sd_runs = ATOMIC64_INIT(0), sd_enters = ATOMIC64_INIT(0), sd_waits = ATOMIC64_INIT(0);
atomic64_t sd_unreported = ATOMIC64_INIT(0);

/*
 * Longer requests may fail. The engine never asks for that much, because
 * messages are limited to 9 MiB.
 */
#define NO_FAIL (32 << 20)

/*
 * The engine's collections cannot handle a failure, so this waits for memory.
 * There are limits on what peers and processes can make the engine ask for, and
 * large memory comes from sdk_pages_new, which may fail.
 */
void *sdk_alloc(size_t size, size_t align)
{
	void *start;

	/*
	 * kmalloc aligns sizes that are powers of two to themselves, and all
	 * others to eight bytes.
	 */
	if (align > sizeof(u64))
		size = roundup_pow_of_two(max(size, align));
	start = kvmalloc(size, GFP_KERNEL_ACCOUNT | (size <= NO_FAIL ? __GFP_NOFAIL : 0));
	if (start)
		atomic64_add(size, &sd_bytes);
	return start;
}

/*
 * size is the size after sdk_alloc has rounded it up; the engine rounds
 * likewise.
 */
void sdk_free(void *start, size_t size)
{
	atomic64_sub(size, &sd_bytes);
	kvfree(start);
}

void __noreturn sdk_panic(const u8 *file, size_t length, u32 line)
{
	WRITE_ONCE(sd_is_dead, true);
	/* Connections never end from now on, so the module must stay loaded. */
	__module_get(THIS_MODULE);
	pr_emerg("the engine failed at %.*s:%u. The device has stopped; please report this, and restart the machine\n",
		 (int)length, file, line);
	BUG();
}

void sdk_log(u32 level, const u8 *text, size_t length)
{
	if (level == 0)
		pr_err("%.*s\n", (int)length, text);
	else if (level == 1)
		pr_warn("%.*s\n", (int)length, text);
	else
		pr_info("%.*s\n", (int)length, text);
}

void sdk_random(u8 *bytes, size_t length)
{
	get_random_bytes(bytes, length);
}

u64 sdk_now(void)
{
	return ktime_get_ns();
}

static const char *const lock_names[SD_LOCKS] = { "sd_control", "sd_shard", "sd_registry", "sd_leaf" };
static struct lock_class_key lock_keys[SD_LOCKS];

struct sd_lock *sdk_lock_new(u32 kind)
{
	struct sd_lock *lock = kzalloc(sizeof(*lock), GFP_KERNEL | __GFP_NOFAIL);

	init_waitqueue_head(&lock->wait);
	lock->kind = min_t(u32, kind, SD_LOCKS - 1);
	lockdep_init_map(&lock->dep_map, lock_names[lock->kind], &lock_keys[lock->kind], 0);
	return lock;
}

void sdk_lock_free(struct sd_lock *lock)
{
	kfree(lock);
}

bool sdk_lock(struct sd_lock *lock)
{
	might_sleep();
	mutex_acquire(&lock->dep_map, 0, 0, _RET_IP_);
	if (!test_and_set_bit_lock(0, &lock->held))
		return true;
	/* A test counts how often calls hold each other up. */
	if (lock->kind == SD_LOCK_SHARD && !(current->flags & PF_WQ_WORKER))
		atomic64_inc(&sd_waits);
	do {
		/*
		 * Nothing wakes this task when the device dies, so it checks.
		 */
		if (!wait_event_timeout(lock->wait, !test_bit(0, &lock->held), HZ) && READ_ONCE(sd_is_dead)) {
			mutex_release(&lock->dep_map, _RET_IP_);
			return false;
		}
	} while (test_and_set_bit_lock(0, &lock->held));
	return true;
}

void sdk_unlock(struct sd_lock *lock)
{
	mutex_release(&lock->dep_map, _RET_IP_);
	clear_bit_unlock(0, &lock->held);
	smp_mb__after_atomic();
	if (waitqueue_active(&lock->wait))
		wake_up(&lock->wait);
}

u64 sdk_parameter(u32 number)
{
	switch (number) {
	case SD_MAX_CONNECTIONS:
		return max_connections;
	case SD_MAX_UNAUTHENTICATED:
		return max_unauthenticated;
	case SD_MAX_UNDISPATCHED:
		return max_undispatched;
	case SD_MAX_WORKERS:
		return max_workers;
	case SD_WORKER_MEMORY:
		return (u64)worker_memory_mb << 20;
	case SD_MEMORY:
		if (memory_mb)
			return (u64)memory_mb << 20;
		return (u64)totalram_pages() << PAGE_SHIFT >> 1;
	}
	return 0;
}

int sdk_copy_in(void *to, u64 from, size_t length)
{
	return copy_from_user(to, u64_to_user_ptr(from), length) ? -EFAULT : 0;
}

int sdk_copy_out(u64 to, const void *from, size_t length)
{
	return copy_to_user(u64_to_user_ptr(to), from, length) ? -EFAULT : 0;
}

static int __init smbdirect_init(void)
{
	int error;

	sd_workqueue = alloc_workqueue("smbdirect", WQ_UNBOUND, 0);
	if (!sd_workqueue)
		return -ENOMEM;
	error = -ENOMEM;
	sd_closer = alloc_workqueue("smbdirect_close", WQ_UNBOUND, 0);
	if (!sd_closer)
		goto out_workqueue;
	error = sde_init();
	if (error)
		goto out_closer;
	error = sd_dev_register();
	if (error)
		goto out_engine;
	return 0;

out_engine:
	sde_stop();
	sde_exit();
out_closer:
	destroy_workqueue(sd_closer);
out_workqueue:
	destroy_workqueue(sd_workqueue);
	return error;
}

/* No file is open when this runs. */
static void __exit smbdirect_exit(void)
{
	sd_dev_unregister();
	sdk_unlisten();
	/*
	 * Peers need not answer: each connection ends by itself within seconds.
	 */
	do {
		sde_stop();
		msleep(20);
	} while (atomic_read(&sd_conns));
	/*
	 * The item that took the last event of a worker's shard frees the shard,
	 * and sd_closer waits for the shard's items. Then nothing runs but the
	 * items of the lobby, which sde_exit stops.
	 */
	flush_workqueue(sd_workqueue);
	flush_workqueue(sd_closer);
	sde_exit();
	destroy_workqueue(sd_closer);
	destroy_workqueue(sd_workqueue);
	pr_info("unloaded: %d connections, %d work requests, %d maps, %lld bytes left; %lld runs, %lld calls, %lld waits for a shard, %lld requests never reported\n",
		atomic_read(&sd_conns), atomic_read(&sd_wrs), atomic_read(&sd_maps), atomic64_read(&sd_bytes),
		atomic64_read(&sd_runs), atomic64_read(&sd_enters), atomic64_read(&sd_waits),
		atomic64_read(&sd_unreported));
}

module_init(smbdirect_init);
module_exit(smbdirect_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("SMB Direct device for Samba");
