/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cache of map pages and index blocks, keyed by place. Private to store/.
 *
 * A block is verified (magic, store uuid, crc against the parent's) when it is read, and its crc is
 * compared again on every hit. Whoever writes a block to a place puts it here or drops the place,
 * so a reused place never serves old bytes. Memory: cache_bytes, 24 bytes a frame, 64 read buffers;
 * nothing is allocated after creation. Eviction is by clock.
 */
#ifndef HF_STORE_CACHE_H
#define HF_STORE_CACHE_H

#include "base/co.h"
#include "store/device.h"
#include "store/format.h"

struct cache;

/* A block and what it must be. */
struct cache_key {
	uint64_t place;
	uint32_t crc32c;
	uint32_t magic;
};

/* Embedded in the waiter, the cache's until ready. */
struct cache_wait {
	/* block is valid during the call only; NULL with -EBADMSG (verification) or another -errno.
	 * Never runs inside cache_get(). */
	void (*ready)(struct cache_wait *wait, const void *block, int status);
	struct list link;
	struct cache_key key;
};

/* NULL when memory is out. */
struct cache *cache_create(struct device *device, uint64_t cache_bytes,
			   const struct uuid *store_uuid);
/* No read may be in flight, or the env can no longer call back. NULL is fine. */
void cache_destroy(struct cache *cache);
/* The block, valid until the next call on the cache; or NULL and wait->ready comes later. Waiters
 * of the same missing block share one read. */
const void *cache_get(struct cache *cache, const struct cache_key *key, struct cache_wait *wait);
/* Coroutine: copies the block to copy (BLOCK_BYTES). 0 or -errno. */
int cache_read(struct co *co, struct cache *cache, const struct cache_key *key, void *copy);
/* The block when it is cached, NULL otherwise; no read. */
const void *cache_peek(struct cache *cache, const struct cache_key *key);
/* The block at place is now this one. */
void cache_put(struct cache *cache, const struct cache_key *key, const void *block);
/* Whatever is cached for place is no longer there. */
void cache_drop(struct cache *cache, uint64_t place);
uint64_t cache_bytes(const struct cache *cache);
/* From the device, so far. */
uint64_t cache_blocks_read(const struct cache *cache);

#endif
