/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The map of one family: block address -> {place, crc32c, seq}. Private to store/.
 *
 * Updates go to an in-memory delta and read no page. Three generations of deltas: `active` takes updates,
 * `frozen` is what a checkpoint cut off, `kept` is what checkpoints found not worth a page yet and wrote to
 * the run table. A look-up asks active, frozen, kept, then the
 * cached page of the node or of its nearest ancestor. Only committed entries come here; the log's
 * uncommitted tail is the caller's (store/replica.c).
 *
 * M1  After map_fold the pages and index reachable from the new root and `kept` together hold exactly what the
 *     old ones and the frozen deltas held; nothing reachable from the old root was overwritten.
 * M2  Within one node a higher seq always wins, whatever the order of arrival.
 * M3  A place superseded within one generation is unreferenced at once (next root); one superseded
 *     across generations or in a page is found by the fold that buries it.
 * M4  A page that a fold cannot read is written anew: blocks with a delta entry are whole again, all others
 *     are LOST (PAGE_ENTRY_LOST: bad_page in look-ups) until written or repaired. Their old places
 *     leak (counted in map_pool_info) until the store is refilled.
 * M5  `kept` is the head's and changes in checkpoints alone; what it holds is in the run table of the next root,
 *     and its places are referenced. It holds data only: a chunk that a zero touches is folded. Nothing is kept
 *     while a second node is there, so a shadow begins above pages alone.
 */
#ifndef HF_STORE_MAP_H
#define HF_STORE_MAP_H

#include "base/co.h"
#include "base/env.h"
#include "store/cache.h"
#include "store/format.h"
#include "store/index.h"
#include "store/space.h"

struct map_pool; /* one per store: page cache, delta memory, scratch for folds */
struct map;      /* one per replica */

struct map_pool_config {
	uint64_t cache_bytes;
	uint64_t delta_bytes;
	uint32_t fold_entries; /* a chunk with so many delta entries is folded; 1: all are */
	struct uuid store_uuid;
};
/* Memory: cache, deltas (both backed when used), 3 MiB of scratch. NULL when memory is out. */
struct map_pool *map_pool_create(struct device *device, struct space *space,
				 const struct map_pool_config *config);
/* Not below a callback of the pool: a coroutine that waited in a map function yields first. */
void map_pool_destroy(struct map_pool *pool);
/* Bytes of delta memory in use in the active generations; `due`: a quarter of the bound, time for a
 * checkpoint. */
uint64_t map_pool_delta_bytes(const struct map_pool *pool);
bool map_pool_delta_due(const struct map_pool *pool);
/* True when a put or zero could fail for want of delta memory: the caller waits for the checkpoint. */
bool map_pool_delta_full(const struct map_pool *pool);

struct map_pool_info {
	uint64_t cache_bytes, delta_bytes_used, kept_bytes;
	uint64_t pages_read, pages_written, pages_lost; /* by folds, since open */
	uint64_t blocks_read;    /* by look-ups and folds: pages, index; not destage */
	uint64_t blocks_written; /* pages, index, destaged payload */
};
void map_pool_info(const struct map_pool *pool, struct map_pool_info *ret);

struct map_root {
	struct block_ptr index;
	uint32_t levels;
	uint32_t head_node;
	/* 0, or a second node that may have pages: a shadow (live or dropped) when above head_node, the
	 * head before a flip when below. On disk: volume_entry.shadow_node. */
	uint32_t other_node;
	uint64_t used_blocks; /* DATA blocks reachable */
	uint64_t highest_seq; /* of the index */
	uint64_t digest;      /* of the index, all nodes */
};

/* NULL when memory is out. root zeroed except head_node: empty. */
struct map *map_create(struct map_pool *pool, const struct map_root *root);
/* Memory only. No look-up may be under way. */
void map_destroy(struct map *map);
void map_root(const struct map *map, struct map_root *ret);

enum map_which { MAP_HEAD, MAP_SHADOW };

/* One committed block. -ENOMEM when delta memory is out (see map_pool_delta_full). */
int map_put(struct map *map, enum map_which which, uint64_t block, uint64_t place, uint32_t crc,
	    uint64_t seq);
/* Committed zeroes; any length, cost proportional to the delta entries it removes. */
int map_zero(struct map *map, enum map_which which, uint64_t block, uint64_t length_blocks,
	     uint64_t seq);
/* REPAIR: new place for a block whose crc and place are still the expected ones. Returns true when
 * applied; the old place is unreferenced. The version keeps its seq. For a bad_page block expected_place is
 * 0 and the crc is taken on trust (another replica's). Needs the block's page: a
 * coroutine. */
bool map_repair(struct co *co, struct map *map, uint64_t block, uint64_t expected_place,
		uint32_t expected_crc, uint64_t new_place);

struct map_version {
	uint64_t place; /* 0: reads as zeros */
	uint64_t seq;   /* 0: older than can be told */
	uint32_t crc32c;
	bool bad_page; /* the page could not be read or does not match its crc */
};

struct map_lookup {
	void (*done)(struct map_lookup *lookup, int status);
	struct map *map;
	enum map_which which;
	uint64_t address_blocks;
	uint32_t length_blocks;       /* 1..256 */
	struct map_version *versions; /* out */
	/* internal */
	struct cache_wait wait;
	struct index_ptr root;
	struct index_ptr at;
	uint64_t known[4]; /* blocks that a delta answered */
	uint64_t read_token;
	uint64_t upper_seq; /* of the last block looked at: its seq or the bound that is known */
	uint32_t position;  /* blocks done */
	uint32_t node;
	bool pending; /* holds read_token */
};
/*
 * True: finished now, versions are filled and done will not be called. False: done comes later.
 * The state is that of the call. Whoever then reads the places holds a space_read_begin() token from
 * before this call to the end of its reads.
 */
bool map_lookup(struct map_lookup *lookup);

/*
 * Walk for block status and resync: the first chunk >= chunk_cursor of the head (ancestors and deltas
 * included) that has any DATA block, or a version above since_seq (whichever `since_seq` asks: UINT64_MAX
 * for DATA). Coroutine. -ENODATA when there is none. *ret_chunk.
 */
int map_next_chunk(struct co *co, struct map *map, uint64_t chunk_cursor, uint64_t since_seq,
		   uint64_t *ret_chunk);

/* ---- shadow ---- */
/*
 * node is the shadow's id, above every node id used before (a look-up takes, of the versions of a
 * chunk, the one with the highest node not above its own). The head's deltas must be empty and stay so
 * until adopt or drop (-EBUSY; checkpoint first). node == map_root.other_node: attaches to the
 * shadow that the root holds (recovery replays its records; without an ADOPT it ends in map_shadow_drop).
 * -EBUSY as well while leftovers of an older shadow or head wait for map_trim.
 */
int map_shadow_begin(struct map *map, uint32_t node);
/* Allowed at any time, also between map_freeze and the end of map_fold; the root of that
 * checkpoint must then be written with head_node and other_node as they were at map_freeze. */
/* State of a chunk's blocks as of at_seq: per block the higher seq wins (M2). As map_put with place 0
 * for zero. */
/* Flip: the shadow becomes the head; what only the old head referred to is unreferenced by the
 * next folds in the background (map_trim). */
void map_shadow_adopt(struct map *map);
/* Forget the shadow's deltas (their places are unreferenced) and mark its pages for map_trim. */
void map_shadow_drop(struct map *map);

/* ---- checkpoint ---- */
/* Order: space_cut, map_freeze; for each map map_destage, map_keep; map_pool_choose; for each map map_fold,
 * map_trim, map_root; the run table; space_write. One destage, keep, fold or trim at a time runs per
 * pool (others wait). */
/* Where a checkpoint writes what is kept; add() may wait. */
struct map_runs {
	void (*add)(void *ctx, const struct run_entry *entry);
	void *ctx;
};
/* active -> frozen (frozen must be empty). fold_all: nothing is kept. Tombstones up to settled_seq are dropped by
 * this fold and the next ones, some in each; not while there is a second node. */
void map_freeze(struct map *map, bool fold_all, uint64_t settled_seq);
/* Nothing frozen: 0. Copies frozen entries whose place is in the ring (below data_start) to the data area. */
int map_destage(struct co *co, struct map *map, uint64_t data_start);
/* Moves what is not worth a page from frozen to kept, and tells runs. Nothing moves when delta memory is tight:
 * it is folded then. */
void map_keep(struct co *co, struct map *map, const struct map_runs *runs);
/* Chooses among all that is kept what this checkpoint folds: nothing, unless kept takes more than half of the
 * room; then the chunks with most entries. */
void map_pool_choose(struct co *co, struct map_pool *pool, struct map *const *maps,
		     uint32_t map_count);
/* All that is kept, for a run table that starts anew. */
void map_kept_each(struct co *co, struct map *map, const struct map_runs *runs);
uint64_t map_kept_count(const struct map *map);
/* Recovery: one entry of the run table, in order, between map_pool_load_begin (entries: of the whole table) and
 * _end. 0, -ENOMEM, -EUCLEAN: no such entry can be there. */
int map_pool_load_begin(struct map_pool *pool, uint64_t entries);
int map_kept_load(struct map *map, const struct run_entry *entry);
/* M5, once all is loaded: no second node, and every place is marked used. */
bool map_kept_fits(const struct map *map);
void map_pool_load_end(struct map_pool *pool);
/* Folds frozen, and what map_pool_choose() chose, into new pages and index blocks (written, not flushed), space_ref / space_unref(this_root)
 * accordingly, empties frozen, switches look-ups to the new root, and tells runs what is void now. 0, -EIO or -ENOSPC (the store
 * fails), -EBADMSG: an index block is rotten. Then nothing changed, frozen is kept, the replica is lost: the
 * caller marks it so, and checkpoints of the others go on. A rotten *page* is no error: see M4. */
int map_fold(struct co *co, struct map *map, const struct map_runs *runs);
/* A deleted volume, a dropped shadow, an old head after a flip: unreferences up to pages_max pages.
 * *more tells whether another round is needed. delete_all: the whole map, deltas too. After map_fold of the same
 * checkpoint (delete_all: any time between space_cut and space_write). Leftovers of a flip or drop that came
 * after map_freeze wait for the next checkpoint. 0, -EIO, -ENOSPC; what rot makes unreachable leaks and is logged. */
int map_trim(struct co *co, struct map *map, bool delete_all, uint32_t pages_max, bool *more);

/* ---- check ---- */
/* Walks everything reachable; calls ref for each block (pages, index blocks, data; kept data too), report for
 * each finding. Coroutine. */
int map_walk(struct co *co, struct map *map,
	     void (*ref)(void *ctx, uint64_t place, uint32_t count, bool data, uint32_t crc,
			 uint64_t block),
	     void (*report)(void *ctx, const char *line), void *ctx);

#endif
