/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The index of a family: a copy-on-write B+tree from (chunk, node) to the page that holds that
 * node's version of the chunk. Private to store/.
 *
 * Every entry carries the crc of the block it points to and, summed over its subtree, the live
 * blocks, the digest and the highest seq, so a walk for "what changed since" or "where is data"
 * skips subtrees. A tombstone (place 0) keeps the highest seq of a version that is all zeros.
 * Updates come as a sorted batch and rewrite each touched block once, bottom-up; blocks under a
 * third full are merged with their right neighbour under the same parent.
 * Memory per TiB of fully written volume: none; on disk 1 Mi entries of 40 bytes, some 12000 blocks
 * (48 MiB).
 */
#ifndef HF_STORE_INDEX_H
#define HF_STORE_INDEX_H

#include "store/batch_io.h"
#include "store/cache.h"
#include "store/page.h"
#include "store/space.h"

#define INDEX_LEVELS_MAX 6u

struct index_ptr {
	uint64_t place; /* 0 with levels 0: empty */
	uint32_t crc32c;
	uint32_t levels; /* 1: the block is a leaf */
};

struct index_item {
	uint64_t key;
	uint64_t place;
	uint64_t highest_seq;
	uint64_t digest;
	uint32_t crc32c;
	uint32_t live_blocks;
};

static inline uint64_t index_key(uint64_t chunk, uint32_t node)
{
	return chunk << 32 | node;
}
static inline uint32_t index_key_chunk(uint64_t key)
{
	return (uint32_t)(key >> 32);
}
static inline uint32_t index_key_node(uint64_t key)
{
	return (uint32_t)key;
}

struct index_change {
	struct index_item item;
	bool remove; /* only the key counts */
};

/* Shared by all indexes of a store; one update at a time. */
struct index_ctx {
	struct cache *cache;
	struct space *space;
	struct writer *writer;
	struct page_bounds bounds;
	struct index_scratch *scratch;
};

/* NULL when memory is out. */
struct index_scratch *index_scratch_create(void);
void index_scratch_destroy(struct index_scratch *scratch);

/* ---- one block, whose header was verified ---- */

/* Entries of the block, or -EBADMSG when it is not a block of that level or is malformed. */
int index_block_count(const void *block, uint32_t level);
/* The last entry with a key at or below `key`; -1 when there is none. */
int index_block_find(const void *block, uint32_t count, uint64_t key);
void index_block_item(const void *block, uint32_t i, struct index_item *ret);
/* Every field: order, places, reserved. 0 or -EBADMSG. */
int index_block_check(const void *block, uint32_t level, const struct page_bounds *bounds);

/* ---- coroutines ---- */

enum index_filter { INDEX_ANY, INDEX_LIVE, INDEX_NEWER };
struct index_query {
	uint64_t key; /* first entry with a key at or above it */
	enum index_filter filter;
	uint64_t since_seq; /* NEWER: highest_seq above it */
};
/* 0 and *ret, -ENODATA, -EBADMSG (*ret->key: where the unreadable part starts), -EIO. */
int index_seek(struct co *co, const struct index_ctx *ctx, const struct index_ptr *root,
	       const struct index_query *query, struct index_item *ret);
/*
 * Applies changes (ascending keys, each once; every key was looked for with index_seek on this root
 * just before), writes the new blocks and finishes the writer. New blocks are referenced, replaced
 * ones unreferenced (this_root). *root changes only on success; every failure (-EIO, -ENOSPC) must
 * fail the store.
 */
int index_update(struct co *co, const struct index_ctx *ctx, struct index_ptr *root,
		 const struct index_change *changes, uint32_t change_count);
/* Sums of the whole tree, from its root block. 0 or -errno. */
int index_sums(struct co *co, const struct index_ctx *ctx, const struct index_ptr *root,
	       struct index_item *ret);

#endif
