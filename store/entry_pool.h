/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory for log entries: size classes in 64 KiB chunks of one region taken at open.
 *
 * A chunk serves one class while anything in it lives and goes back to the common list after, so a
 * change of workload finds all memory again. Private to store/. Allocates nothing after init.
 */
#ifndef HF_STORE_ENTRY_POOL_H
#define HF_STORE_ENTRY_POOL_H

#include "base/list.h"

#define ENTRY_POOL_CLASSES        7u
#define ENTRY_POOL_CELL_BYTES_MAX 4096u

struct entry_pool_chunk {
	struct list link; /* free chunks, or chunks of a class with room */
	uint16_t class;
	uint16_t live;
	uint16_t carved;    /* cells handed out at least once */
	uint16_t free_head; /* index + 1 of the first free cell */
};

struct entry_pool {
	char *base;
	size_t bytes;
	struct entry_pool_chunk *chunks;
	uint32_t chunk_count;
	uint64_t used_bytes; /* cells handed out */
	struct list free_chunks;
	struct list partial[ENTRY_POOL_CLASSES];
};

/* 0 or -ENOMEM. bytes is rounded up to whole chunks. */
int entry_pool_init(struct entry_pool *pool, size_t bytes);
void entry_pool_free(struct entry_pool *pool);
/* NULL when there is no room. Not zeroed. bytes <= ENTRY_POOL_CELL_BYTES_MAX. */
void *entry_pool_take(struct entry_pool *pool, size_t bytes);
void entry_pool_give(struct entry_pool *pool, void *cell);
bool entry_pool_owns(const struct entry_pool *pool, const void *cell);

#endif
