/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A block device inside the process: what an export serves and what layers stack on.
 *
 * One table of two calls. Requests are embedded in the caller's objects and are asynchronous: the
 * device owns a request, its buffer and its extents from submit until done(), which the device
 * calls exactly once and never inside submit. Everything is on the thread of the device's env.
 *
 * B1  READ, WRITE: the memory of a request is whole pages. `buf` lies in its page as offset_bytes
 *     lies in its block (equal modulo 4096), and the bytes from the start of the first page to
 *     the end of the last belong to the request: a layer may read a whole block there, or
 *     complete a block for a write. So unaligned requests need no second buffer.
 * B2  An acknowledged WRITE, TRIM or ZERO is seen by every later READ. Overlapping requests in
 *     flight together take effect in some order; of overlapping WRITE, TRIM and ZERO it is the
 *     order of submission.
 * B3  FLUSH covers what was acknowledged before it was submitted.
 * B4  A request outside the device, or not aligned to block_min_bytes, fails with -EINVAL and
 *     changes nothing. A request that fails otherwise may have been done in part.
 */
#ifndef HF_VOLMGR_BLOCKDEV_H
#define HF_VOLMGR_BLOCKDEV_H

#include "base/list.h"
#include "base/types.h"

enum blockdev_op {
	BLOCKDEV_READ,
	BLOCKDEV_WRITE,
	BLOCKDEV_TRIM, /* may become a hole; reads as zeroes afterwards when it did */
	BLOCKDEV_ZERO, /* reads as zeroes afterwards */
	BLOCKDEV_FLUSH,
	BLOCKDEV_STATUS, /* which parts are holes or zeroes */
};
#define BLOCKDEV_OPS 6

#define BLOCKDEV_FUA       1u /* WRITE, TRIM, ZERO: durable when done */
#define BLOCKDEV_NO_HOLE   2u /* ZERO: keep or make space for the range */
#define BLOCKDEV_FAST_ZERO 4u /* ZERO: -ENOTSUP rather than slower than a write */
#define BLOCKDEV_REQ_ONE   8u /* STATUS: one extent is enough */

#define BLOCKDEV_EXTENT_HOLE 1u
#define BLOCKDEV_EXTENT_ZERO 2u
struct blockdev_extent {
	uint64_t length_bytes;
	uint32_t flags; /* BLOCKDEV_EXTENT_*; 0 is data */
};

struct blockdev_req {
	enum blockdev_op op;
	uint32_t flags;
	uint64_t offset_bytes;
	uint64_t length_bytes; /* 0 for FLUSH, else > 0 */
	void *buf;             /* READ, WRITE: see B1 */
	/*
	 * STATUS: filled from offset_bytes on, adjacent, neighbours differ in flags; at least one,
	 * not beyond the end of the request. Covering less than was asked is fine.
	 */
	struct blockdev_extent *extents;
	uint32_t extents_max;   /* >= 1 */
	uint32_t extents_count; /* written by the device */
	/* status 0 or -errno */
	void (*done)(struct blockdev_req *req, int status);
	/* the device's, while it owns the request */
	struct list link;
	uint64_t engine[4];
};

#define BLOCKDEV_NAME_MAX 255
struct blockdev_info {
	uint64_t size_bytes;
	uint32_t block_min_bytes; /* 1, or 4096: what offsets and lengths are multiples of */
	uint32_t block_preferred_bytes;
	uint32_t payload_max_bytes; /* longest READ or WRITE */
	uint64_t span_max_bytes;    /* longest TRIM or ZERO; STATUS has no limit */
	bool read_only;
	bool can_multi_conn; /* a FLUSH on one connection covers all of them */
	bool can_fast_zero;
	char name[BLOCKDEV_NAME_MAX + 1];
	char description[BLOCKDEV_NAME_MAX + 1]; /* may be empty */
};

struct blockdev;
struct blockdev_ops {
	/* Required. Takes the request; done() comes later, never inside. */
	void (*submit)(struct blockdev *dev, struct blockdev_req *req);
	/* Required. Fills *ret; the size may change between calls (resize). */
	void (*info)(struct blockdev *dev, struct blockdev_info *ret);
};
/* Embedded first in each kind of device. */
struct blockdev {
	const struct blockdev_ops *ops;
};

static inline bool blockdev_op_changes(enum blockdev_op op)
{
	return op == BLOCKDEV_WRITE || op == BLOCKDEV_TRIM || op == BLOCKDEV_ZERO;
}
static inline void blockdev_submit(struct blockdev *dev, struct blockdev_req *req)
{
	assert(req->done);
	if (req->op == BLOCKDEV_READ || req->op == BLOCKDEV_WRITE)
		assert((((uintptr_t)req->buf ^ req->offset_bytes) & (BLOCK_BYTES - 1)) == 0);
	dev->ops->submit(dev, req);
}
static inline void blockdev_info_get(struct blockdev *dev, struct blockdev_info *ret)
{
	dev->ops->info(dev, ret);
}
/* 0, or -EINVAL by B4 and the limits in info; for layers that check what reaches them. */
int blockdev_req_check(const struct blockdev_info *info, const struct blockdev_req *req);

#endif
