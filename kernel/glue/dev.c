// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The character device: calls, waiting and mappings. The engine decides what
 * the calls mean.
 */
#define pr_fmt(fmt) "smbdirect: " fmt

#include <linux/fs.h>
#include <linux/ktime.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/nsproxy.h>
#include <linux/pid.h>
#include <linux/poll.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <net/net_namespace.h>

#include "glue.h"

/* The longest argument of a call. */
#define ARGUMENT 160

/*
 * The part of the interface that is handled here; src/device/uapi.rs defines
 * all of it.
 */
#define MAGIC 0xd5
#define ENTER _IOWR(MAGIC, 13, struct sd_enter)
#define ENTER_LOOK 1
#define DETACH _IO(MAGIC, 2)
#define READY_EVENTS 1
#define READY_COMPLETIONS 2

struct sd_enter {
	u32 queue;
	u32 flags;
	u64 wait_ns;
	u32 ready;
	u32 reserved;
};

static void release_file(struct kref *ref)
{
	struct sd_file *file = container_of(ref, struct sd_file, ref);

	kfree(file);
}

/* sdk_file_get and sdk_file_put do not sleep. */
void sdk_file_get(struct sd_file *file)
{
	kref_get(&file->ref);
}

void sdk_file_put(struct sd_file *file)
{
	kref_put(&file->ref, release_file);
}

/* Returns a number that differs between network namespaces. */
u64 sdk_file_net(const struct sd_file *file)
{
	return (uintptr_t)file->net;
}

u32 sdk_file_pid(const struct sd_file *file)
{
	return file->pid;
}

static void wake(struct sd_file *file)
{
	wake_up_interruptible_poll(&file->wait, EPOLLIN | EPOLLRDNORM);
}

void sdk_file_queue(struct sd_file *file, u32 queue, const u32 *producer, const u32 *consumer)
{
	file->queues[queue].called = READ_ONCE(*producer);
	WRITE_ONCE(file->queues[queue].consumer, consumer);
	smp_store_release(&file->queues[queue].producer, producer);
}

void sdk_file_ring(struct sd_file *file)
{
	bool has_completions = false;
	u32 i;

	for (i = 0; i < SD_QUEUES; i++) {
		const u32 *producer = smp_load_acquire(&file->queues[i].producer);
		u32 index;

		if (!producer)
			continue;
		index = READ_ONCE(*producer);
		has_completions |= index != file->queues[i].called;
		WRITE_ONCE(file->queues[i].called, index);
	}
	/*
	 * Without completions, the process was waiting for room for
	 * submissions.
	 */
	if (!has_completions)
		WRITE_ONCE(file->rung, 1);
	wake(file);
}

void sdk_file_messages(struct sd_file *file, u32 count)
{
	u32 before = READ_ONCE(file->messages);

	WRITE_ONCE(file->messages, count);
	if (count > before)
		wake(file);
}

void sdk_file_detached(struct sd_file *file)
{
	WRITE_ONCE(file->is_detached, 1);
	wake_up_interruptible_poll(&file->wait, EPOLLIN | EPOLLRDNORM | EPOLLHUP);
}

/*
 * Returns whether there are completions to take: any at all or, without any,
 * those that were there at the last wakeup.
 */
static bool has_completions(const struct sd_file *file, bool any)
{
	u32 i;

	for (i = 0; i < SD_QUEUES; i++) {
		const u32 *producer = smp_load_acquire(&file->queues[i].producer);
		u32 until;

		if (!producer)
			continue;
		until = any ? READ_ONCE(*producer) : READ_ONCE(file->queues[i].called);
		if ((s32)(until - READ_ONCE(*file->queues[i].consumer)) > 0)
			return true;
	}
	return false;
}

/*
 * Computes the state anew each time, so no event can be lost. Does not sleep.
 */
static __poll_t state(const struct sd_file *file)
{
	__poll_t events = 0;

	if (READ_ONCE(file->messages) || atomic_read(&file->unseen) || READ_ONCE(file->rung) ||
	    has_completions(file, false))
		events |= EPOLLIN | EPOLLRDNORM;
	if (READ_ONCE(file->is_detached) || READ_ONCE(sd_is_dead))
		events |= EPOLLIN | EPOLLRDNORM | EPOLLHUP;
	return events;
}

static __poll_t dev_poll(struct file *f, poll_table *table)
{
	struct sd_file *file = f->private_data;

	poll_wait(f, &file->wait, table);
	return state(file);
}

static int dev_open(struct inode *inode, struct file *f)
{
	struct sd_file *file;

	if (READ_ONCE(sd_is_dead))
		return -EIO;
	file = kzalloc(sizeof(*file), GFP_KERNEL_ACCOUNT);
	if (!file)
		return -ENOMEM;
	kref_init(&file->ref);
	init_waitqueue_head(&file->wait);
	file->net = get_net(current->nsproxy->net_ns);
	file->owner = get_pid(task_tgid(current));
	file->pid = task_tgid_vnr(current);
	file->engine = sde_open(file);
	if (!file->engine) {
		put_pid(file->owner);
		put_net(file->net);
		kfree(file);
		return -ENOMEM;
	}
	f->private_data = file;
	return stream_open(inode, f);
}

/*
 * Runs when a process closes one of its copies of the file, or ends. A close
 * alone does not count, because the process may have other copies.
 */
static int dev_flush(struct file *f, fl_owner_t id)
{
	struct sd_file *file = f->private_data;

	if (current->flags & PF_EXITING && file->owner == task_tgid(current) && !READ_ONCE(sd_is_dead))
		sde_ioctl(file->engine, DETACH, NULL, true);
	return 0;
}

static int dev_release(struct inode *inode, struct file *f)
{
	struct sd_file *file = f->private_data;

	sde_release(file->engine);
	put_pid(file->owner);
	put_net(file->net);
	sdk_file_put(file);
	return 0;
}

static u32 what_is_ready(const struct sd_file *file)
{
	u32 ready = 0;

	if (READ_ONCE(file->messages))
		ready |= READY_EVENTS;
	if (has_completions(file, true))
		ready |= READY_COMPLETIONS;
	return ready;
}

/* Rings the engine's bell, finds out what is ready, and waits if asked to. */
static int enter(struct sd_file *file, struct sd_enter *call)
{
	bool looks = call->flags & ENTER_LOOK;
	ktime_t until = KTIME_MAX;
	int error;

	if (call->wait_ns && !looks)
		return -EINVAL;
	if (call->wait_ns < KTIME_MAX)
		until = ktime_add_safe(ktime_get(), call->wait_ns);
	for (;;) {
		ktime_t left;

		if (looks)
			WRITE_ONCE(file->rung, 0);
		atomic64_inc(&sd_enters);
		error = sde_ioctl(file->engine, ENTER, call, true);
		if (error)
			return error;
		call->ready = looks ? what_is_ready(file) : 0;
		if (call->ready || !call->wait_ns)
			return 0;
		left = until == KTIME_MAX ? KTIME_MAX : ktime_sub(until, ktime_get());
		if (left <= 0)
			return 0;
		if (left == KTIME_MAX)
			error = wait_event_interruptible(file->wait, state(file));
		else
			error = wait_event_interruptible_hrtimeout(file->wait, state(file), left);
		if (error == -ETIME)
			return 0;
		if (error || signal_pending(current))
			return -EINTR;
	}
}

static long dev_ioctl(struct file *f, unsigned int command, unsigned long address)
{
	struct sd_file *file = f->private_data;
	u64 argument[ARGUMENT / sizeof(u64)];
	size_t length = _IOC_SIZE(command);
	int error;

	if (READ_ONCE(sd_is_dead))
		return -EIO;
	if (_IOC_TYPE(command) != MAGIC || length > sizeof(argument))
		return -ENOTTY;
	memset(argument, 0, sizeof(argument));
	if (_IOC_DIR(command) & _IOC_WRITE && copy_from_user(argument, (void __user *)address, length))
		return -EFAULT;
	if (command == ENTER)
		error = enter(file, (void *)argument);
	else
		error = sde_ioctl(file->engine, command, argument, f->f_mode & FMODE_WRITE);
	if (error)
		return error;
	if (_IOC_DIR(command) & _IOC_READ && copy_to_user((void __user *)address, argument, length))
		return -EFAULT;
	return 0;
}

static int dev_mmap(struct file *f, struct vm_area_struct *vma)
{
	struct sd_file *file = f->private_data;
	struct sd_pages *pages;
	int error;

	if (READ_ONCE(sd_is_dead))
		return -EIO;
	pages = sde_mmap(file->engine, (u64)vma->vm_pgoff << PAGE_SHIFT, vma->vm_end - vma->vm_start);
	if (!pages)
		return -EINVAL;
	error = sd_pages_map(pages, vma);
	sdk_pages_put(pages);
	return error;
}

static const struct file_operations operations = {
	.owner = THIS_MODULE,
	.open = dev_open,
	.flush = dev_flush,
	.release = dev_release,
	.poll = dev_poll,
	.unlocked_ioctl = dev_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.mmap = dev_mmap,
};

static struct miscdevice device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "smbdirect",
	.fops = &operations,
	.mode = 0600,
};

int sd_dev_register(void)
{
	return misc_register(&device);
}

void sd_dev_unregister(void)
{
	misc_deregister(&device);
}
