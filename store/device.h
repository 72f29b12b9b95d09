/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The device under a store: every I/O of the store goes through here, so that none is without a
 * deadline. Private to store/.
 *
 * Deadlines are per I/O: one that takes longer than slow_ns is counted, one that takes longer than
 * fail_ns is told to the store. Nothing is cancelled: memory of an I/O is the kernel's until it
 * ends.
 */
#ifndef HF_STORE_DEVICE_H
#define HF_STORE_DEVICE_H

#include "base/co.h"
#include "base/env.h"

/* Blocks of a write that the medium refused. */
struct device_range {
	uint64_t place;
	uint32_t blocks;
};
#define DEVICE_FAILED_MAX 32u

/*
 * Who is told. late() comes from a timer, again and again while an I/O is beyond fail_ns.
 * broken() comes when a write or flush failed, before its owner hears of it.
 */
struct device_watch {
	uint64_t slow_ns, fail_ns;
	void (*late)(void *ctx);
	void (*broken)(void *ctx, enum env_io_op op, int status);
	void *ctx;
};

struct device {
	struct env *env;
	struct env_disk *disk;
	struct list active; /* device_io under way, oldest first */
	struct env_timer timer;
	struct device_watch watch; /* late NULL: nobody watches */
	uint64_t slow_count;
	struct device_range
		failed[DEVICE_FAILED_MAX]; /* the first ones; others will tell another time */
	uint32_t failed_count;
};

/* Embedded in its owner, the device's from submission until done. */
struct device_io {
	struct env_io io; /* the caller's but for done */
	void (*done)(struct device_io *dio, int status);
	/* the device's */
	struct device *device;
	struct list link;
	uint64_t since_ns;
	bool slow;       /* counted */
	bool expendable; /* the owner's: when this write fails nothing is noted, and nobody told */
};

/* The medium itself, not the way to it: EIO, or what Linux makes of an unreadable sector. */
bool device_medium_error(int status);
void device_init(struct device *device, struct env *env, struct env_disk *disk);
/* Watches from now on. */
void device_watch(struct device *device, const struct device_watch *watch);
/* No timer after this. */
void device_watch_stop(struct device *device);
void device_submit(struct device *device, struct device_io *dio);
/* Submits and waits; 0 or -errno. dio may not be on the coroutine's stack. */
int device_io_co(struct co *co, struct device *device, struct device_io *dio);
static inline bool device_idle(const struct device *device)
{
	return list_empty(&device->active);
}

#endif
