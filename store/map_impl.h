/* SPDX-License-Identifier: Apache-2.0 */
/* What map.c, map_fold.c, map_trim.c and map_walk.c share. */
#ifndef HF_STORE_MAP_IMPL_H
#define HF_STORE_MAP_IMPL_H

#include "store/delta.h"
#include "store/map.h"

#define GATHER_MAX    64u   /* chunks worked on at once: reads in parallel */
#define CHANGES_MAX   2048u /* index changes applied in one pass */
#define CHUNK_BLOCKS  256u
#define MAP_FOLD_NONE CHUNK_BLOCKS /* fold_above: no chunk has more */

/* One chunk's entries: the head's and the other node's version. */
struct group {
	struct index_item items[2]; /* by rising node */
	uint32_t count;
};

struct gathered {
	uint32_t chunk;
	struct group group;
	int status[2]; /* of reading items[i]'s page: 0, -errno; 1: no page */
	bool cached[2];
};

#define DESTAGE_BLOCKS  128u   /* moved at once */
#define DESTAGE_GAP     2u     /* blocks read in vain to join two reads */
#define DESTAGE_FOUND   16384u /* brought in the ring's order at once: what 64 MiB of ring can hold */
#define DESTAGE_WINDOWS 16384u

struct destage_found {
	uint64_t block;
	uint64_t place; /* in the ring */
};

struct destage_item {
	struct destage_found found;
	uint32_t slot; /* pool block it is read into */
	uint32_t span; /* read it belongs to */
};

struct destage {
	struct co *co;
	struct map_pool *pool;
	struct delta *delta;
	struct destage_found found[DESTAGE_FOUND]; /* by block, as the delta is */
	uint32_t found_count;
	uint32_t order[DESTAGE_FOUND]; /* by place */
	uint32_t windows[DESTAGE_WINDOWS + 1];
	struct destage_item items[DESTAGE_BLOCKS]; /* by place */
	int status[DESTAGE_BLOCKS];                /* of each span */
	uint32_t count;
};

struct map_scratch {
	struct destage destage;
	struct gathered gathered[GATHER_MAX];
	struct index_change changes[CHANGES_MAX];
	uint32_t change_count;
	struct page_image image;
	struct page_image shared;
	uint64_t kept_chunks[CHUNK_BLOCKS + 1]; /* [n]: chunks with n kept entries */
};

struct map_pool {
	struct space *space;
	struct cache *cache;
	struct delta_pool *deltas;
	struct index_ctx index;
	struct batch_io *reads;
	struct map_scratch *scratch;
	uint8_t *blocks; /* POOL_BLOCKS read buffers */
	uint64_t frozen_bytes, kept_bytes;
	uint32_t fold_entries; /* map_pool_config */
	/* map_pool_choose(): kept chunks with more entries than fold_above are folded, and fold_budget of
	 * those with just so many */
	uint32_t fold_above;
	uint64_t fold_budget;
	uint64_t pages_read, pages_written, pages_lost;
	bool busy; /* one destage, fold or trim at a time */
	struct list waiters;
};
#define POOL_BLOCKS 512u

struct map_side {
	uint32_t node;
	struct delta active;
	struct delta frozen;
};

/* Dropping tombstones: a pass over the index, some entries in each fold (map_trim.c). */
struct map_tomb {
	uint64_t settled_seq; /* of the fold under way; 0: none may go */
	uint64_t pass_seq;    /* what the pass drops: up to here */
	uint64_t key;         /* where it goes on; 0: no pass is under way */
	bool any;             /* there may be tombstones */
	bool left;            /* the pass left some, or newer ones came */
};

struct map {
	struct map_pool *pool;
	struct index_ptr root;
	uint64_t used_blocks;
	uint64_t highest_seq;
	uint64_t digest;
	struct map_side sides[2];
	struct delta kept;    /* of the head */
	uint64_t kept_marked; /* chunks that the fold under way takes */
	uint32_t head;        /* which side */
	uint32_t other_node;  /* map_root.other_node */
	bool shadow_live;
	bool damaged;     /* an index block is rotten */
	bool frozen_busy; /* from map_freeze to the end of map_fold */
	bool fold_all;    /* this fold keeps nothing */
	struct map_tomb tomb;
	uint32_t unordered; /* folds until deltas are newer than pages again (after an adoption) */
	uint64_t trim_key;
	/* as they were at map_freeze */
	uint32_t fold_head;
	uint32_t fold_other_node;
	bool fold_shadow_live;
};

static inline void *pool_block(const struct map_pool *pool, uint32_t i)
{
	return pool->blocks + (size_t)i * BLOCK_BYTES;
}

void map_pool_lock(struct co *co, struct map_pool *pool);
void map_pool_unlock(struct map_pool *pool);

/* All entries of the first chunk at or above `chunk`. 0, -ENODATA, -EBADMSG, -EIO. */
int map_group_seek(struct co *co, struct map *map, uint64_t chunk, struct group *ret);
/* Reads the pages of gathered[0..count) into pool blocks 2 * i and 2 * i + 1, in parallel. */
void map_gather_read(struct co *co, struct map_pool *pool, uint32_t count);
/* Decodes item's page from its block. False: unreadable, or not the page of that chunk. */
bool map_page_decode(const struct map_pool *pool, const struct index_item *item, const void *block,
		     int status, struct page_image *ret);
/*
 * Removes the version that no node needs any more from a group (pages read): its places that the
 * kept one does not share are given up. Adds changes; the group is what stays, whose old position
 * is returned.
 */
uint32_t map_group_trim(struct map *map, struct gathered *gathered, const void *const blocks[2]);
/* Applies the gathered changes to the map's root. */
int map_changes_apply(struct co *co, struct map *map);
void map_change_set(struct map_pool *pool, const struct index_item *item);
void map_change_remove(struct map_pool *pool, uint64_t key);

/* N5: 0, -EBADMSG, -EIO. */
int map_tombs_drop(struct co *co, struct map *map);

/* The first kept chunk at or above `from` that is to be folded; UINT64_MAX: none. */
uint64_t map_kept_chosen(struct co *co, struct map_pool *pool, const struct map *map,
			 uint64_t from);
/* What was marked leaves `kept`; runs is told. */
void map_kept_sweep(struct co *co, struct map *map, const struct map_runs *runs);
/* Gives up everything kept; its volume goes. */
void map_kept_clear(struct map *map, bool unref);

#endif
