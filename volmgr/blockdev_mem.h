/* SPDX-License-Identifier: Apache-2.0 */
/* A sparse block device in memory, for tests, fuzzing and trying things out. */
#ifndef HF_VOLMGR_BLOCKDEV_MEM_H
#define HF_VOLMGR_BLOCKDEV_MEM_H

#include "base/env.h"
#include "volmgr/blockdev.h"

struct blockdev_mem;

struct blockdev_mem_config {
	const char *name;           /* at most BLOCKDEV_NAME_MAX; "" is fine */
	const char *description;    /* may be NULL */
	uint64_t size_bytes;        /* multiple of 4096 */
	uint32_t block_min_bytes;   /* 1 or 4096 */
	uint32_t payload_max_bytes; /* 0: 32 MiB */
	bool read_only;
	bool no_fast_zero;
	/* Requests stay queued for random times and reads overtake; env_random decides. */
	bool shuffle;
	/* NULL, or called for each request before it takes effect; < 0 fails it with that. */
	int (*fail)(void *ctx, const struct blockdev_req *req);
	void *fail_ctx;
};

/* 0 and *ret, or -EINVAL (config) or -ENOMEM with a sentence. */
int blockdev_mem_create(struct env *env, const struct blockdev_mem_config *config,
			struct blockdev_mem **ret, struct err *err);
/* No request may be in flight. NULL is fine. */
void blockdev_mem_destroy(struct blockdev_mem *mem);
struct blockdev *blockdev_mem_dev(struct blockdev_mem *mem);
/* Requests are kept, not executed, while held (tests of back-pressure and closing). */
void blockdev_mem_hold(struct blockdev_mem *mem, bool hold);
/* Requests in flight. */
uint32_t blockdev_mem_queued(const struct blockdev_mem *mem);
/* Requests seen by kind of operation since creation. */
uint64_t blockdev_mem_seen(const struct blockdev_mem *mem, enum blockdev_op op);
/* Bytes that are not holes. */
uint64_t blockdev_mem_used_bytes(const struct blockdev_mem *mem);
/* Shrinks or grows what info() says, within the size at creation. */
void blockdev_mem_resize(struct blockdev_mem *mem, uint64_t size_bytes);

#endif
