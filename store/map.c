/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The map of one family: deltas, look-ups, shadow roles.
 *
 *   put/zero --> active --freeze--> frozen --fold--> pages and index (map_fold.c)
 *                                      '--keep--> kept --fold--^     (map_keep.c)
 *   look-up:     active, frozen, kept, then index --> page through the cache
 *
 * Two sides, one per node: the head's and the shadow's. A flip swaps which is which; neither deltas
 * nor pages move. Of a chunk's versions a node sees the one with the highest node not above its
 * own.
 *
 * L1  A look-up shows the state of the call: it takes versions from the deltas and the root at
 *     once; what it reads later belongs to that root, whose blocks its read token keeps.
 * L2  In a head's deltas everything is newer than its pages (committed entries come in order),
 *     so blocks found there need no page. Not so in a shadow, where fills arrive late, and for
 *     the two generations after its adoption (`unordered`): there the higher seq decides.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/crc32c.h"
#include "store/map_impl.h"

/* ---- pool ---- */

struct map_pool *map_pool_create(struct device *device, struct space *space,
				 const struct map_pool_config *config)
{
	struct map_pool *pool = calloc(1, sizeof(*pool));
	if (!pool)
		return NULL;
	pool->space = space;
	pool->fold_entries = config->fold_entries;
	pool->fold_above = MAP_FOLD_NONE;
	list_init(&pool->waiters);
	pool->cache = cache_create(device, config->cache_bytes, &config->store_uuid);
	pool->deltas = delta_pool_create(config->delta_bytes);
	pool->reads = batch_io_create(device, GATHER_MAX);
	pool->scratch = lazy_alloc(sizeof(*pool->scratch));
	pool->blocks = lazy_alloc((size_t)POOL_BLOCKS * BLOCK_BYTES);
	pool->index = (struct index_ctx){
		.cache = pool->cache,
		.space = space,
		.writer = writer_create(device),
		.bounds = {config->store_uuid, space_data_start(space), space_end(space)},
		.scratch = index_scratch_create()};
	if (!pool->cache || !pool->deltas || !pool->reads || !pool->scratch || !pool->blocks ||
	    !pool->index.writer || !pool->index.scratch) {
		map_pool_destroy(pool);
		return NULL;
	}
	return pool;
}

void map_pool_destroy(struct map_pool *pool)
{
	if (!pool)
		return;
	cache_destroy(pool->cache);
	delta_pool_destroy(pool->deltas);
	batch_io_destroy(pool->reads);
	writer_destroy(pool->index.writer);
	index_scratch_destroy(pool->index.scratch);
	lazy_free(pool->scratch, sizeof(*pool->scratch));
	lazy_free(pool->blocks, (size_t)POOL_BLOCKS * BLOCK_BYTES);
	free(pool);
}

uint64_t map_pool_delta_bytes(const struct map_pool *pool)
{
	uint64_t used = delta_pool_used_bytes(pool->deltas),
		 other = pool->frozen_bytes + pool->kept_bytes;
	return used > other ? used - other : 0;
}

bool map_pool_delta_due(const struct map_pool *pool)
{
	return map_pool_delta_bytes(pool) >= delta_pool_room_bytes(pool->deltas) / 4;
}

bool map_pool_delta_full(const struct map_pool *pool)
{
	struct space_info info;

	if (delta_pool_full(pool->deltas))
		return true;
	if (space_spare(pool->space) > 0)
		return false;
	space_info(pool->space, &info);
	return info.promised_blocks > 0;
}

void map_pool_info(const struct map_pool *pool, struct map_pool_info *ret)
{
	*ret = (struct map_pool_info){.cache_bytes = cache_bytes(pool->cache),
				      .delta_bytes_used = delta_pool_used_bytes(pool->deltas),
				      .kept_bytes = pool->kept_bytes,
				      .pages_read = pool->pages_read,
				      .pages_written = pool->pages_written,
				      .pages_lost = pool->pages_lost,
				      .blocks_read =
					      pool->pages_read + cache_blocks_read(pool->cache),
				      .blocks_written = writer_blocks(pool->index.writer)};
}

struct pool_waiter {
	struct list link;
	struct co *co;
};

void map_pool_lock(struct co *co, struct map_pool *pool)
{
	struct pool_waiter self = {.co = co};

	if (!pool->busy) {
		pool->busy = true;
		return;
	}
	list_push_back(&pool->waiters, &self.link);
	co_suspend(co); /* the lock is handed over */
}

void map_pool_unlock(struct map_pool *pool)
{
	struct list *node = list_pop_front(&pool->waiters);

	assert(pool->busy);
	if (!node) {
		pool->busy = false;
		return;
	}
	co_resume(CONTAINER_OF(node, struct pool_waiter, link)->co);
}

/* ---- life ---- */

struct map *map_create(struct map_pool *pool, const struct map_root *root)
{
	struct map *map = calloc(1, sizeof(*map));
	if (!map)
		return NULL;
	map->pool = pool;
	map->root = (struct index_ptr){le64_get(root->index.place), le32_get(root->index.crc32c),
				       root->levels};
	map->used_blocks = root->used_blocks;
	map->highest_seq = root->highest_seq;
	map->digest = root->digest;
	map->other_node = root->other_node;
	for (uint32_t i = 0; i < 2; i++) {
		delta_init(&map->sides[i].active, pool->deltas, pool->space);
		delta_init(&map->sides[i].frozen, pool->deltas, pool->space);
	}
	delta_init(&map->kept, pool->deltas, pool->space);
	map->kept.unref = DELTA_UNREF_THIS_ROOT;
	map->tomb.any = true; /* who knows */
	map->sides[0].node = root->head_node;
	return map;
}

void map_destroy(struct map *map)
{
	if (!map)
		return;
	for (uint32_t i = 0; i < 2; i++) {
		if (map->frozen_busy)
			map->pool->frozen_bytes -= delta_bytes(&map->sides[i].frozen);
		delta_clear(&map->sides[i].active, false);
		delta_clear(&map->sides[i].frozen, false);
	}
	map_kept_clear(map, false);
	free(map);
}

void map_root(const struct map *map, struct map_root *ret)
{
	*ret = (struct map_root){.index = {.place = le64_make(map->root.place),
					   .crc32c = le32_make(map->root.crc32c)},
				 .levels = map->root.levels,
				 .head_node = map->sides[map->head].node,
				 .other_node = map->other_node,
				 .used_blocks = map->used_blocks,
				 .highest_seq = map->highest_seq,
				 .digest = map->digest};
}

/* ---- updates ---- */

static struct map_side *side_of(struct map *map, enum map_which which)
{
	assert(which == MAP_HEAD || map->shadow_live);
	return &map->sides[which == MAP_HEAD ? map->head : map->head ^ 1];
}

int map_put(struct map *map, enum map_which which, uint64_t block, uint64_t place, uint32_t crc,
	    uint64_t seq)
{
	struct delta_entry entry = {
		.block = block, .place = place, .length_blocks = 1, .seq = seq, .crc32c = crc};
	struct delta *active = &side_of(map, which)->active;

	assert(which == MAP_SHADOW || !map->shadow_live);
	return place == 0 ? delta_zero(active, &entry) : delta_put(active, &entry);
}

int map_zero(struct map *map, enum map_which which, uint64_t block, uint64_t length_blocks,
	     uint64_t seq)
{
	struct delta_entry entry = {.block = block, .length_blocks = length_blocks, .seq = seq};

	assert(which == MAP_SHADOW || !map->shadow_live);
	return delta_zero(&side_of(map, which)->active, &entry);
}

void map_freeze(struct map *map, bool fold_all, uint64_t settled_seq)
{
	if (map->damaged)
		return;
	assert(!map->frozen_busy);
	for (uint32_t i = 0; i < 2; i++) {
		struct map_side *side = &map->sides[i];
		assert(delta_empty(&side->frozen));
		side->frozen = side->active;
		delta_init(&side->active, map->pool->deltas, map->pool->space);
		map->pool->frozen_bytes += delta_bytes(&side->frozen);
	}
	map->frozen_busy = true;
	bool alone = map->other_node == 0 && map->unordered == 0;
	map->fold_all = fold_all || !alone; /* M5 */
	map->tomb.settled_seq = alone ? settled_seq : 0;
	map->fold_head = map->head;
	map->fold_other_node = map->other_node;
	map->fold_shadow_live = map->shadow_live;
}

/* ---- look-up ---- */

static bool known_get(const struct map_lookup *lookup, uint32_t i)
{
	return lookup->known[i / 64] >> (i % 64) & 1;
}

/* L2: takes the version when nothing newer is there. */
static void version_offer(struct map_lookup *lookup, uint32_t i, const struct map_version *version)
{
	if (known_get(lookup, i) && lookup->versions[i].seq > version->seq)
		return;
	lookup->versions[i] = *version;
	lookup->known[i / 64] |= 1ull << (i % 64);
	lookup->upper_seq = version->seq;
}

static void lookup_overlay(struct map_lookup *lookup, const struct delta *delta)
{
	uint64_t start = lookup->address_blocks, end = start + lookup->length_blocks;
	struct delta_entry entry;
	struct delta_cursor cursor;

	for (uint64_t at = start; at < end && delta_zero_seek(delta, at, &entry);) {
		uint64_t entry_end = entry.block + entry.length_blocks;
		struct map_version zero = {.seq = entry.seq, .crc32c = CRC32C_ZERO_BLOCK};
		for (at = MAX(at, entry.block); at < MIN(end, entry_end); at++)
			version_offer(lookup, (uint32_t)(at - start), &zero);
	}
	delta_cursor_start(&cursor, delta, start);
	while (delta_cursor_next(&cursor, &entry) && entry.block < end) {
		struct map_version version = {.place = entry.place,
					      .seq = entry.seq,
					      .crc32c = entry.place ? entry.crc32c
								    : CRC32C_ZERO_BLOCK};
		version_offer(lookup, (uint32_t)(entry.block - start), &version);
	}
}

static uint64_t lookup_chunk(const struct map_lookup *lookup)
{
	return (lookup->address_blocks + lookup->position) / CHUNK_BLOCKS;
}

/* Blocks of the look-up from position on that lie in the same chunk. */
static uint32_t lookup_chunk_blocks(const struct map_lookup *lookup)
{
	uint64_t address = lookup->address_blocks + lookup->position;
	uint32_t left = lookup->length_blocks - lookup->position;
	return MIN(left, CHUNK_BLOCKS - (uint32_t)(address % CHUNK_BLOCKS));
}

static void lookup_chunk_done(struct map_lookup *lookup)
{
	lookup->position += lookup_chunk_blocks(lookup);
	lookup->at = (struct index_ptr){0};
}

/* What is left of the chunk is bad. */
static void lookup_chunk_bad(struct map_lookup *lookup)
{
	uint32_t end = lookup->position + lookup_chunk_blocks(lookup);

	for (uint32_t i = lookup->position; i < end; i++) {
		if (!known_get(lookup, i))
			lookup->versions[i] = (struct map_version){.bad_page = true};
	}
	lookup_chunk_done(lookup);
}

static void lookup_page(struct map_lookup *lookup, const struct page_plain *page)
{
	const struct page_bounds *bounds = &lookup->map->pool->index.bounds;
	uint32_t first = (uint32_t)((lookup->address_blocks + lookup->position) % CHUNK_BLOCKS);
	uint32_t count = lookup_chunk_blocks(lookup);
	bool ordered = lookup->which == MAP_HEAD && lookup->map->unordered == 0;

	if (le32_get(page->chunk) != (uint32_t)lookup_chunk(lookup)) {
		lookup_chunk_bad(lookup);
		return;
	}
	for (uint32_t i = 0; i < count; i++) {
		uint32_t at = lookup->position + i;
		struct page_block block;
		if (ordered && known_get(lookup, at))
			continue;
		page_get(page, bounds, first + i, &block);
		bool data = block.flags == PAGE_ENTRY_DATA, lost = block.flags == PAGE_ENTRY_LOST;
		struct map_version version = {.place = block.place,
					      .seq = block.older ? 0 : block.seq,
					      .crc32c = data ? block.crc32c : CRC32C_ZERO_BLOCK,
					      .bad_page = lost};
		if (known_get(lookup, at) && (lost || lookup->versions[at].seq >= block.seq))
			continue;
		lookup->versions[at] = version;
		lookup->upper_seq = block.seq;
	}
	lookup_chunk_done(lookup);
}

/* Zeros; where late fills are possible (L2) they beat what the deltas hold of older versions. */
static void lookup_tombstone(struct map_lookup *lookup, const struct index_item *item)
{
	uint32_t end = lookup->position + lookup_chunk_blocks(lookup);
	bool ordered = lookup->which == MAP_HEAD && lookup->map->unordered == 0;
	bool own = index_key_node(item->key) == lookup->node;

	for (uint32_t i = lookup->position; i < end; i++) {
		if (known_get(lookup, i) &&
		    (ordered || !own || lookup->versions[i].seq >= item->highest_seq))
			continue;
		lookup->versions[i] =
			(struct map_version){.seq = item->highest_seq, .crc32c = CRC32C_ZERO_BLOCK};
	}
	lookup_chunk_done(lookup);
}

/* One index block on the way down, or the page. */
static void lookup_block(struct map_lookup *lookup, const void *block)
{
	const struct page_bounds *bounds = &lookup->map->pool->index.bounds;
	struct index_item item;

	if (lookup->at.levels == 0) {
		lookup_page(lookup, block);
		return;
	}
	uint32_t level = lookup->at.levels - 1;
	uint64_t chunk = lookup_chunk(lookup);
	int count = index_block_count(block, level);
	if (count < 0) {
		lookup_chunk_bad(lookup);
		return;
	}
	int i = index_block_find(block, (uint32_t)count, index_key(chunk, lookup->node));
	if (i < 0) {
		lookup_chunk_done(lookup);
		return;
	}
	index_block_item(block, (uint32_t)i, &item);
	lookup->upper_seq = item.highest_seq;
	if (level == 0 && index_key_chunk(item.key) != chunk) {
		lookup_chunk_done(lookup); /* never written */
		return;
	}
	if (level == 0 && item.place == 0) {
		lookup_tombstone(lookup, &item);
		return;
	}
	if (item.place < bounds->data_start || item.place >= bounds->end) {
		lookup_chunk_bad(lookup);
		return;
	}
	lookup->at = (struct index_ptr){item.place, item.crc32c, level};
}

/* True when the deltas answered the whole chunk and no page can be newer. */
static bool lookup_chunk_known(const struct map_lookup *lookup)
{
	uint32_t end = lookup->position + lookup_chunk_blocks(lookup);

	if (lookup->which != MAP_HEAD || lookup->map->unordered > 0)
		return false;
	for (uint32_t i = lookup->position; i < end; i++) {
		if (!known_get(lookup, i))
			return false;
	}
	return true;
}

/* Goes on until done (true) or until a block must be read (false). */
static bool lookup_run(struct map_lookup *lookup)
{
	while (lookup->position < lookup->length_blocks) {
		if (lookup->at.place == 0) {
			if (lookup->root.levels == 0 || lookup_chunk_known(lookup)) {
				lookup_chunk_done(lookup);
				continue;
			}
			lookup->at = lookup->root;
		}
		struct cache_key key = {lookup->at.place, lookup->at.crc32c,
					lookup->at.levels ? MAGIC_INDEX : MAGIC_PAGE};
		const void *block = cache_get(lookup->map->pool->cache, &key, &lookup->wait);
		if (!block)
			return false;
		lookup_block(lookup, block);
	}
	return true;
}

static void lookup_ready(struct cache_wait *wait, const void *block, int status)
{
	struct map_lookup *lookup = CONTAINER_OF(wait, struct map_lookup, wait);

	if (status < 0)
		lookup_chunk_bad(lookup);
	else
		lookup_block(lookup, block);
	if (!lookup_run(lookup))
		return;
	lookup->pending = false;
	space_read_end(lookup->map->pool->space, lookup->read_token);
	lookup->done(lookup, 0);
}

bool map_lookup(struct map_lookup *lookup)
{
	struct map *map = lookup->map;
	struct map_side *side = side_of(map, lookup->which);

	assert(lookup->length_blocks > 0 && lookup->length_blocks <= CHUNK_BLOCKS);
	for (uint32_t i = 0; i < lookup->length_blocks; i++)
		lookup->versions[i] = (struct map_version){.crc32c = CRC32C_ZERO_BLOCK};
	memset(lookup->known, 0, sizeof(lookup->known));
	lookup->root = map->root;
	lookup->at = (struct index_ptr){0};
	lookup->position = 0;
	lookup->upper_seq = 0;
	lookup->node = side->node;
	lookup->wait = (struct cache_wait){.ready = lookup_ready};
	if (lookup->which == MAP_HEAD)
		lookup_overlay(lookup, &map->kept);
	lookup_overlay(lookup, &side->frozen);
	lookup_overlay(lookup, &side->active);
	lookup->pending = !lookup_run(lookup);
	if (lookup->pending)
		lookup->read_token = space_read_begin(map->pool->space);
	return !lookup->pending;
}

/* ---- repair ---- */

struct lookup_co {
	struct map_lookup lookup;
	struct co *co;
};

static void lookup_co_done(struct map_lookup *lookup, int status)
{
	(void)status;
	co_resume(CONTAINER_OF(lookup, struct lookup_co, lookup)->co);
}

/* What the head's deltas say of a block, newest first. */
static bool head_delta_find(const struct map *map, uint64_t block, struct delta_entry *ret)
{
	const struct map_side *side = &map->sides[map->head];

	return delta_find(&side->active, block, ret) || delta_find(&side->frozen, block, ret) ||
	       delta_find(&map->kept, block, ret);
}

/* True while the block's version cannot have changed since a look-up at `root` found it outside
 * deltas. */
static bool version_stands(const struct map *map, const struct index_ptr *root, uint64_t block,
			   uint64_t place, uint32_t crc)
{
	struct delta_entry entry;

	if (head_delta_find(map, block, &entry))
		return entry.place == place && entry.crc32c == crc;
	return map->root.place == root->place;
}

bool map_repair(struct co *co, struct map *map, uint64_t block, uint64_t expected_place,
		uint32_t expected_crc, uint64_t new_place)
{
	struct map_version version;
	struct lookup_co self = {.lookup = {.done = lookup_co_done,
					    .map = map,
					    .address_blocks = block,
					    .length_blocks = 1,
					    .versions = &version},
				 .co = co};
	struct index_ptr root;

	do {
		root = map->root;
		if (!map_lookup(&self.lookup))
			co_suspend(co);
	} while (map->root.place != root.place);
	if (map->shadow_live)
		return false; /* the head stands still under a shadow */
	bool same = version.place == expected_place && version.crc32c == expected_crc;
	if (version.bad_page) {
		struct delta_entry newer;
		if (expected_place != 0 || head_delta_find(map, block, &newer))
			return false;
	} else if (!same || version.place == 0 ||
		   !version_stands(map, &root, block, version.place, expected_crc)) {
		return false;
	}
	uint64_t seq = version.seq ? version.seq : self.lookup.upper_seq;
	return map_put(map, MAP_HEAD, block, new_place, expected_crc, seq) == 0;
}

/* ---- shadow ---- */

int map_shadow_begin(struct map *map, uint32_t node)
{
	struct map_side *head = &map->sides[map->head], *other = &map->sides[map->head ^ 1];

	if (node <= head->node)
		return -EINVAL;
	if (map->shadow_live || map->frozen_busy ||
	    (map->other_node != 0 && map->other_node != node) || !delta_empty(&head->active) ||
	    !delta_empty(&head->frozen) || !delta_empty(&map->kept) ||
	    !delta_empty(&other->active) || !delta_empty(&other->frozen))
		return -EBUSY;
	other->node = node;
	map->other_node = node;
	map->shadow_live = true;
	return 0;
}

void map_shadow_adopt(struct map *map)
{
	assert(map->shadow_live);
	map->other_node = map->sides[map->head].node;
	map->head ^= 1;
	map->shadow_live = false;
	map->trim_key = 0;
	map->unordered = map->frozen_busy ? 2 : 1;
}

void map_shadow_drop(struct map *map)
{
	struct map_side *shadow = &map->sides[map->head ^ 1];

	assert(map->shadow_live);
	map->shadow_live = false;
	map->trim_key = 0;
	delta_clear(&shadow->active, true);
}
