/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Walks over a map: the next interesting chunk, and everything (store check).
 *
 * K1  A walk holds a read token and a copy of the root, so no block it is about to read is
 *     reused. What map_next_chunk() reports is right at some moment of the call.
 * K2  A chunk is new since s when its index entry or a delta entry (markers included) is, or
 *     when an extent newer than s covers an index entry or an older delta's. Zeros over what was
 *     never written are nobody's news.
 * K3  A fold that ends meanwhile moves entries from a delta into a root that this walk does not
 *     have; so after a change of the root it starts again.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "store/map_impl.h"
#include "store/meta_block.h"

/* ---- next chunk ---- */

struct next {
	struct co *co;
	struct map *map;
	struct index_ptr root;
	uint64_t since_seq;
	bool data; /* looks for DATA */
};

static int next_in_index(struct next *n, uint64_t chunk, enum index_filter filter, uint64_t *ret)
{
	struct index_query query = {
		.key = index_key(chunk, 0), .filter = filter, .since_seq = n->since_seq};
	struct index_item item;
	uint32_t node = n->map->sides[n->map->head].node;

	for (;;) {
		int rc = index_seek(n->co, &n->map->pool->index, &n->root, &query, &item);
		if (rc < 0)
			return rc;
		if (index_key_node(item.key) <= node) {
			*ret = index_key_chunk(item.key);
			return 0;
		}
		query.key = item.key + 1; /* a shadow's */
	}
}

static bool entry_counts(const struct next *n, const struct delta_entry *entry)
{
	return n->data ? entry->place != 0 : entry->seq > n->since_seq;
}

/* What a zero at or above chunk may cover: the first chunk that the index or an older delta knows. */
static int next_covered(struct next *n, uint64_t chunk, uint64_t *ret)
{
	const struct delta *older[] = {&n->map->sides[n->map->head].frozen, &n->map->kept};
	struct delta_entry entry;
	int rc = next_in_index(n, chunk, INDEX_ANY, ret);

	if (rc < 0 && rc != -ENODATA)
		return rc;
	for (uint32_t i = 0; i < ARRAY_LEN(older); i++) {
		if (!delta_data_seek(older[i], chunk * CHUNK_BLOCKS, &entry))
			continue;
		uint64_t found = entry.block / CHUNK_BLOCKS;
		*ret = rc == 0 ? MIN(*ret, found) : found;
		rc = 0;
	}
	return rc;
}

/* Deltas of one generation: best is lowered when they have something below it. */
static int next_in_delta(struct next *n, const struct delta *delta, uint64_t chunk, uint64_t *best)
{
	struct delta_entry entry;
	struct delta_cursor cursor;
	uint64_t at = chunk * CHUNK_BLOCKS;

	delta_cursor_start(&cursor, delta, at);
	while (delta_cursor_next(&cursor, &entry) && entry.block / CHUNK_BLOCKS < *best) {
		if (entry_counts(n, &entry))
			*best = entry.block / CHUNK_BLOCKS;
	}
	while (!n->data && delta_zero_seek(delta, at, &entry) &&
	       entry.block / CHUNK_BLOCKS < *best) {
		uint64_t first = MAX(entry.block, chunk * CHUNK_BLOCKS) / CHUNK_BLOCKS, found;
		uint64_t end = entry.block + entry.length_blocks;
		at = end;
		if (entry.seq <= n->since_seq)
			continue;
		int rc = next_covered(n, first, &found);
		if (rc == -ENODATA)
			break;
		if (rc < 0)
			return rc;
		if (found * CHUNK_BLOCKS < end)
			*best = MIN(*best, found);
	}
	return 0;
}

struct chunk_co {
	struct map_lookup lookup;
	struct map_version versions[CHUNK_BLOCKS];
	struct co *co;
};

static void chunk_co_done(struct map_lookup *lookup, int status)
{
	(void)status;
	co_resume(CONTAINER_OF(lookup, struct chunk_co, lookup)->co);
}

static bool chunk_has_data(struct next *n, uint64_t chunk)
{
	struct chunk_co self = {.lookup = {.done = chunk_co_done,
					   .map = n->map,
					   .address_blocks = chunk * CHUNK_BLOCKS,
					   .length_blocks = CHUNK_BLOCKS},
				.co = n->co};

	self.lookup.versions = self.versions;
	if (!map_lookup(&self.lookup))
		co_suspend(n->co);
	for (uint32_t i = 0; i < CHUNK_BLOCKS; i++) {
		if (self.versions[i].place != 0 || self.versions[i].bad_page)
			return true;
	}
	return false;
}

/* One candidate at or above chunk. */
static int next_candidate(struct next *n, uint64_t chunk, uint64_t *ret)
{
	uint64_t best = UINT64_MAX;
	const struct map_side *head = &n->map->sides[n->map->head];

	n->root = n->map->root;
	int rc = next_in_index(n, chunk, n->data ? INDEX_LIVE : INDEX_NEWER, &best);
	if (rc < 0 && rc != -ENODATA)
		return rc;
	rc = next_in_delta(n, &head->active, chunk, &best);
	if (rc == 0)
		rc = next_in_delta(n, &head->frozen, chunk, &best);
	if (rc == 0)
		rc = next_in_delta(n, &n->map->kept, chunk, &best);
	if (rc < 0)
		return rc;
	*ret = best;
	return best == UINT64_MAX ? -ENODATA : 0;
}

int map_next_chunk(struct co *co, struct map *map, uint64_t chunk_cursor, uint64_t since_seq,
		   uint64_t *ret_chunk)
{
	struct next n = {
		.co = co, .map = map, .since_seq = since_seq, .data = since_seq == UINT64_MAX};
	uint64_t token = space_read_begin(map->pool->space), chunk = 0;
	int rc;

	for (;;) {
		struct index_ptr before = map->root;
		rc = next_candidate(&n, chunk_cursor, &chunk);
		if (before.place != map->root.place)
			continue; /* K3 */
		if (rc < 0 || !n.data || chunk_has_data(&n, chunk))
			break;
		chunk_cursor = chunk + 1;
		co_sleep(co, 0);
	}
	space_read_end(map->pool->space, token);
	if (rc == 0)
		*ret_chunk = chunk;
	return rc;
}

/* ---- everything ---- */

struct walk {
	struct co *co;
	struct map *map;
	void (*ref)(void *ctx, uint64_t place, uint32_t count, bool data, uint32_t crc,
		    uint64_t block);
	void (*report)(void *ctx, const char *line);
	void *ctx;
	uint64_t last_key;
	bool any_key;
	uint32_t last_chunk; /* of images[0] */
	bool last_known;
	struct page_image images[2];
	uint8_t page[BLOCK_BYTES];
	uint8_t index[INDEX_LEVELS_MAX][BLOCK_BYTES];
};

static void walk_report(struct walk *w, const struct index_item *item, const char *what)
{
	char line[160];

	snprintf(line, sizeof(line), "map: chunk %u node %u place %llu: %s",
		 index_key_chunk(item->key), index_key_node(item->key),
		 (unsigned long long)item->place, what);
	w->report(w->ctx, line);
}

static void walk_image(struct walk *w, const struct index_item *item,
		       const struct page_image *image)
{
	uint64_t first = (uint64_t)image->chunk * CHUNK_BLOCKS, digest = 0;
	bool shared = w->last_known && w->last_chunk == image->chunk;
	uint32_t live = 0;

	for (uint32_t i = 0; i < CHUNK_BLOCKS; i++) {
		const struct page_block *block = &image->blocks[i];
		live += block->flags != 0;
		if (block->flags == PAGE_ENTRY_LOST) {
			digest += page_lost_digest(first + i);
			walk_report(w, item, "has a lost block");
		}
		if (block->flags != PAGE_ENTRY_DATA)
			continue;
		digest += page_block_digest(first + i, block->crc32c);
		if (!shared || w->images[0].blocks[i].place != block->place)
			w->ref(w->ctx, block->place, 1, true, block->crc32c, first + i);
	}
	if (live != item->live_blocks)
		walk_report(w, item, "live count differs from its page");
	if (digest != item->digest)
		walk_report(w, item, "digest differs from its page");
}

static void walk_page(struct walk *w, const struct index_item *item)
{
	struct cache_key key = {item->place, item->crc32c, MAGIC_PAGE};
	const struct page_bounds *bounds = &w->map->pool->index.bounds;

	if (item->place == 0)
		return;
	w->ref(w->ctx, item->place, 1, false, item->crc32c, 0);
	int rc = cache_read(w->co, w->map->pool->cache, &key, w->page);
	if (rc == 0)
		rc = page_decode(w->page, bounds, &w->images[1]);
	if (rc < 0) {
		walk_report(w, item, "page is damaged or unreadable");
		return;
	}
	if (w->images[1].chunk != index_key_chunk(item->key) ||
	    w->images[1].highest_seq > item->highest_seq) {
		walk_report(w, item, "page belongs elsewhere");
		return;
	}
	walk_image(w, item, &w->images[1]);
	w->images[0] = w->images[1];
	w->last_chunk = w->images[1].chunk;
	w->last_known = true;
}

/* Walks a block; *sum is what its parent should say. */
static int walk_block(struct walk *w, const struct index_item *at, uint32_t level)
{
	uint8_t *block = w->index[level];
	struct cache_key key = {at->place, at->crc32c, MAGIC_INDEX};
	const struct page_bounds *bounds = &w->map->pool->index.bounds;
	struct index_item item;
	uint64_t live = 0, digest = 0, highest = 0;
	int findings = 0;

	if (at->place < bounds->data_start || at->place >= bounds->end) {
		walk_report(w, at, "index block is outside the data area");
		return 1;
	}
	w->ref(w->ctx, at->place, 1, false, at->crc32c, 0);
	int rc = cache_read(w->co, w->map->pool->cache, &key, block);
	if (rc == 0)
		rc = index_block_check(block, level, bounds);
	if (rc < 0) {
		walk_report(w, at, "index block is damaged or unreadable");
		return 1;
	}
	int count = index_block_count(block, level);
	for (int i = 0; i < count; i++) {
		index_block_item(block, (uint32_t)i, &item);
		live += item.live_blocks;
		digest += item.digest;
		highest = MAX(highest, item.highest_seq);
		if (i == 0 && item.key != at->key && level + 1 < w->map->root.levels)
			walk_report(w, at, "first key differs from its parent");
		if (level > 0) {
			findings += walk_block(w, &item, level - 1);
			continue;
		}
		if (w->any_key && item.key <= w->last_key)
			walk_report(w, &item, "keys are out of order");
		w->any_key = true;
		w->last_key = item.key;
		walk_page(w, &item);
	}
	if (level + 1 < w->map->root.levels &&
	    (MIN(live, (uint64_t)UINT32_MAX) != at->live_blocks || digest != at->digest ||
	     highest != at->highest_seq))
		walk_report(w, at, "sums differ from its parent");
	return findings;
}

/* In the run table, not in the index. */
static void walk_kept(struct walk *w)
{
	struct delta_cursor cursor;
	struct delta_entry entry;

	delta_cursor_start(&cursor, &w->map->kept, 0);
	while (delta_cursor_next(&cursor, &entry))
		w->ref(w->ctx, entry.place, 1, true, entry.crc32c, entry.block);
}

int map_walk(struct co *co, struct map *map,
	     void (*ref)(void *ctx, uint64_t place, uint32_t count, bool data, uint32_t crc,
			 uint64_t block),
	     void (*report)(void *ctx, const char *line), void *ctx)
{
	struct index_item root = {.place = map->root.place, .crc32c = map->root.crc32c};
	struct walk *w;

	if (map->root.levels > INDEX_LEVELS_MAX) {
		report(ctx, "map: the root has too many levels");
		return -EUCLEAN;
	}
	w = calloc(1, sizeof(*w));
	if (!w)
		return -ENOMEM;
	w->co = co;
	w->map = map;
	w->ref = ref;
	w->report = report;
	w->ctx = ctx;
	uint64_t token = space_read_begin(map->pool->space);
	int findings = map->root.levels > 0 ? walk_block(w, &root, map->root.levels - 1) : 0;
	walk_kept(w);
	space_read_end(map->pool->space, token);
	free(w);
	return findings ? -EUCLEAN : 0;
}
