/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An ordered in-memory map of changes that are not in pages yet: one per node and generation.
 * Private to store/.
 *
 * Two B+trees over 1 KiB nodes of a common pool: single blocks {place, crc, seq} and zero extents
 * {length, seq} that do not overlap. A data entry wins over the extent that covers it. 24 bytes an
 * entry, about 35 with the slack of random inserts; the pool is address space until it is used. A
 * zero costs what it removes; of the entries it removes one per chunk stays as a *marker* (place
 * 0), so that a fold and a resync know that the chunk had data.
 */
#ifndef HF_STORE_DELTA_H
#define HF_STORE_DELTA_H

#include "store/space.h"

struct delta_pool;

/* NULL when memory is out. */
struct delta_pool *delta_pool_create(uint64_t bytes);
void delta_pool_destroy(struct delta_pool *pool);
uint64_t delta_pool_used_bytes(const struct delta_pool *pool);
/* True when the next put or zero might fail. */
bool delta_pool_full(const struct delta_pool *pool);
/* What may be in use before it is full. */
uint64_t delta_pool_room_bytes(const struct delta_pool *pool);
/* True when moving a chunk's entries from one delta to another might fail. */
bool delta_pool_tight(const struct delta_pool *pool);
/* So many entries come in, whatever the bound; the pool is empty. 0, or -ENOMEM. From load_end on the bound
 * counts again, though more may be in use. */
int delta_pool_load_begin(struct delta_pool *pool, uint64_t entries);
void delta_pool_load_end(struct delta_pool *pool);

struct delta_tree {
	uint32_t root; /* node number; 0: empty */
	uint32_t levels;
	uint64_t entry_count;
	uint64_t node_count;
};

/* What becomes of a place that an entry gives up. */
enum delta_unref {
	DELTA_UNREF_NEXT_ROOT, /* the root being built may name it */
	DELTA_UNREF_THIS_ROOT,
	DELTA_UNREF_NONE, /* loading: it was given up long ago */
};

struct delta {
	struct delta_pool *pool;
	struct space *space;
	struct delta_tree data;
	struct delta_tree zero;
	uint64_t highest_seq; /* of all that came in */
	uint64_t promised;    /* blocks promised to space: pages, destage */
	enum delta_unref unref;
};

struct delta_entry {
	uint64_t block;
	uint64_t place;         /* data: 0 is a zero block */
	uint64_t length_blocks; /* zero extent */
	uint64_t seq;
	uint32_t crc32c;
	bool marked; /* data: delta_chunk_mark() */
};

void delta_init(struct delta *delta, struct delta_pool *pool, struct space *space);
bool delta_empty(const struct delta *delta);
uint64_t delta_bytes(const struct delta *delta);
/*
 * Puts one block (place not 0). The older of two versions loses, and its place is given up
 * (delta.unref). At equal seq the new one wins. 0, or -ENOMEM and nothing changed.
 */
int delta_put(struct delta *delta, const struct delta_entry *entry);
/* entry: block, length_blocks, seq. -ENOMEM: a part may be done; the same call again is fine. */
int delta_zero(struct delta *delta, const struct delta_entry *entry);
/* The version of one block, zero extents included; false when there is none. */
bool delta_find(const struct delta *delta, uint64_t block, struct delta_entry *ret);
/* The first data entry (markers included) at or above block. */
bool delta_data_seek(const struct delta *delta, uint64_t block, struct delta_entry *ret);
/* The first zero extent that ends above block. */
bool delta_zero_seek(const struct delta *delta, uint64_t block, struct delta_entry *ret);
/* Changes the place of an existing data entry (destage); the promise for a ring place is fulfilled.
 */
void delta_move(struct delta *delta, uint64_t block, uint64_t place);
/* Empties it; with unref its places are given up. */
void delta_clear(struct delta *delta, bool unref);

/* Data entries of one chunk of 256 blocks, markers included. */
uint32_t delta_chunk_count(const struct delta *delta, uint64_t chunk);
/* Removes them; others name their places. */
void delta_chunk_drop(struct delta *delta, uint64_t chunk);
/* Sets `marked` of the chunk's first entry, which must exist. */
void delta_chunk_mark(struct delta *delta, uint64_t chunk);

/* Forward walk over data entries; the delta must not change meanwhile (delta_move is fine). */
struct delta_cursor {
	const struct delta *delta;
	uint32_t node;
	uint32_t index;
};
void delta_cursor_start(struct delta_cursor *cursor, const struct delta *delta, uint64_t block);
bool delta_cursor_next(struct delta_cursor *cursor, struct delta_entry *ret);

#endif
