/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Folding frozen deltas, and what was chosen of the kept ones (map_keep.c), into pages.
 *
 *   per side: next chunk with changes -> gather up to 64 -> read their pages at once
 *             -> merge, write new pages -> index changes -> (2048 of them) one pass over the index
 *
 * F1  Old pages and index blocks stay as they are; new ones go to new places. The map's root is
 *     switched at the end, so look-ups meanwhile use old root + kept + frozen + active, which
 *     together are the truth.
 * F2  Per block the higher seq wins; at equal seq the delta (a repair, or the same entry folded
 *     twice). A LOST block always loses. A saturated age counts as its upper bound; a shadow
 *     must not be filled from a state more than 2^24 entries older than its newest entry.
 * F3  A place is given up exactly once. Under a live shadow the shadow's pages share places with
 *     the head's, and those are not the shadow's to give up. A version that no node needs is
 *     trimmed before its chunk is folded.
 * F4  A tombstone says "all zeros" and keeps one seq for the chunk. A shadow (and a head until
 *     its fills are folded) gets one only when a single zero covered the whole chunk: otherwise
 *     a late fill could not tell zeroed blocks from blocks that were never there.
 * F5  Only gathering meets rot in the index, before anything of that batch was touched; what was
 *     done before is applied, the rest stays frozen, and the map is damaged for good. A rotten
 *     page only loses its own blocks (M4).
 */
#include <errno.h>

#include "base/log.h"
#include "store/map_impl.h"

struct fold {
	struct co *co;
	struct map *map;
	struct map_pool *pool;
	const struct delta *delta;
	struct map *keeper;  /* of `kept`: the head's fold; NULL: the other node's */
	uint64_t kept_chunk; /* the next one chosen: at or above where the fold is */
	uint32_t node;
	bool shadow; /* a live one: shares pages with the head */
};

/* ---- reading groups and pages (also for trim) ---- */

int map_group_seek(struct co *co, struct map *map, uint64_t chunk, struct group *ret)
{
	struct index_query query = {.key = index_key(chunk, 0)};
	const struct index_ctx *ctx = &map->pool->index;

	ret->count = 0;
	int rc = index_seek(co, ctx, &map->root, &query, &ret->items[0]);
	if (rc < 0)
		return rc == -EIO ? -EBADMSG : rc;
	ret->count = 1;
	if (map->fold_other_node == 0 && map->other_node == 0)
		return 0;
	query.key = ret->items[0].key + 1;
	rc = index_seek(co, ctx, &map->root, &query, &ret->items[1]);
	if (rc < 0 && rc != -ENODATA)
		return rc == -EIO ? -EBADMSG : rc;
	if (rc == 0 && index_key_chunk(ret->items[1].key) == index_key_chunk(ret->items[0].key))
		ret->count = 2;
	return 0;
}

void map_gather_read(struct co *co, struct map_pool *pool, uint32_t count)
{
	const struct page_bounds *bounds = &pool->index.bounds;

	for (uint32_t i = 0; i < count; i++) {
		struct gathered *g = &pool->scratch->gathered[i];
		for (uint32_t k = 0; k < g->group.count; k++) {
			const struct index_item *item = &g->group.items[k];
			void *block = pool_block(pool, 2 * i + k);
			struct cache_key key = {item->place, item->crc32c, MAGIC_PAGE};
			g->cached[k] = false;
			g->status[k] = 1;
			if (item->place == 0)
				continue;
			g->status[k] = -EBADMSG;
			if (item->place < bounds->data_start || item->place >= bounds->end)
				continue;
			const void *cached = cache_peek(pool->cache, &key);
			if (cached) {
				memcpy(block, cached, BLOCK_BYTES);
				g->cached[k] = true;
				g->status[k] = 0;
				continue;
			}
			struct batch_io_part part = {item->place, 1, block, &g->status[k]};
			batch_io_submit(co, pool->reads, ENV_IO_READ, &part);
			pool->pages_read++;
		}
	}
	(void)batch_io_wait(co, pool->reads, 0); /* each page has its own status */
}

bool map_page_decode(const struct map_pool *pool, const struct index_item *item, const void *block,
		     int status, struct page_image *ret)
{
	const struct block_header *h = block;

	return status == 0 && le32_get(h->crc32c) == item->crc32c &&
	       page_decode(block, &pool->index.bounds, ret) == 0 &&
	       ret->chunk == index_key_chunk(item->key) && ret->highest_seq <= item->highest_seq;
}

/* ---- index changes ---- */

void map_change_set(struct map_pool *pool, const struct index_item *item)
{
	struct map_scratch *s = pool->scratch;

	assert(s->change_count < CHANGES_MAX);
	s->changes[s->change_count++] = (struct index_change){.item = *item};
}

void map_change_remove(struct map_pool *pool, uint64_t key)
{
	struct map_scratch *s = pool->scratch;

	assert(s->change_count < CHANGES_MAX);
	s->changes[s->change_count++] = (struct index_change){.item.key = key, .remove = true};
}

int map_changes_apply(struct co *co, struct map *map)
{
	struct map_pool *pool = map->pool;
	int rc = writer_finish(co, pool->index.writer);

	if (rc == 0)
		rc = index_update(co, &pool->index, &map->root, pool->scratch->changes,
				  pool->scratch->change_count);
	pool->scratch->change_count = 0;
	return rc;
}

/* ---- which chunks ---- */

/* Whole chunks of a zero extent: for a head only those that the index or kept knows. */
static int whole_chunks_next(struct fold *f, uint64_t chunk, uint64_t whole_end, uint64_t *ret)
{
	struct index_query query = {.key = index_key(chunk, 0)};
	struct index_item item;

	if (f->shadow) {
		*ret = chunk;
		return 0;
	}
	int rc = index_seek(f->co, &f->pool->index, &f->map->root, &query, &item);
	if (rc < 0 && rc != -ENODATA)
		return rc == -EIO ? -EBADMSG : rc;
	uint64_t best = rc == 0 ? index_key_chunk(item.key) : UINT64_MAX;
	struct delta_entry entry;
	if (f->keeper && delta_data_seek(&f->keeper->kept, chunk * CHUNK_BLOCKS, &entry))
		best = MIN(best, entry.block / CHUNK_BLOCKS);
	if (best >= whole_end)
		return -ENODATA;
	*ret = best;
	return 0;
}

/* The first chunk at or above `from` that the frozen delta changes, or that is chosen of what is kept. 0,
 * -ENODATA, -EBADMSG. */
static int chunk_next(struct fold *f, uint64_t from, uint64_t *ret)
{
	struct delta_entry entry;
	uint64_t best, at = from * CHUNK_BLOCKS;

	if (f->kept_chunk < from)
		f->kept_chunk = map_kept_chosen(f->co, f->pool, f->keeper, from);
	best = f->kept_chunk;
	if (delta_data_seek(f->delta, at, &entry))
		best = MIN(best, entry.block / CHUNK_BLOCKS);
	while (delta_zero_seek(f->delta, at, &entry)) {
		uint64_t first = MAX(entry.block, at), end = entry.block + entry.length_blocks;
		uint64_t chunk = first / CHUNK_BLOCKS, whole_end = end / CHUNK_BLOCKS, found;
		if (chunk >= best)
			break;
		if (first % CHUNK_BLOCKS != 0 || chunk == whole_end) {
			best = chunk; /* an edge */
			break;
		}
		int rc = whole_chunks_next(f, chunk, whole_end, &found);
		if (rc < 0 && rc != -ENODATA)
			return rc;
		if (rc == 0) {
			best = MIN(best, found);
			break;
		}
		at = whole_end * CHUNK_BLOCKS; /* the edge at its end, or what follows */
	}
	*ret = best;
	return best == UINT64_MAX ? -ENODATA : 0;
}

/* ---- merging one chunk ---- */

struct merge {
	struct fold *f;
	struct gathered *g;
	struct page_image *image;
	const struct page_image
		*shared;               /* the head's page under a shadow; NULL: nothing is shared */
	bool shared_unknown;           /* it cannot be read: give up nothing */
	bool referenced;               /* the delta's places are: it is kept */
	const struct index_item *base; /* the version this node sees; NULL: none */
	bool base_own;                 /* it is this node's, or nobody else needs it */
};

static bool delta_wins(uint64_t seq, const struct page_block *block)
{
	return block->flags == PAGE_ENTRY_LOST || seq >= block->seq;
}

/* F3 */
static void place_give_up(struct merge *m, uint32_t i, uint64_t place)
{
	if (place == 0 || m->shared_unknown || (m->shared && m->shared->blocks[i].place == place))
		return;
	space_unref(m->f->pool->space, place, 1, true);
}

static void merge_zero(struct merge *m, uint32_t i, uint64_t seq)
{
	struct page_block *block = &m->image->blocks[i];

	if (!delta_wins(seq, block))
		return;
	place_give_up(m, i, block->place);
	*block = (struct page_block){.seq = seq};
}

static void merge_data(struct merge *m, uint32_t i, const struct delta_entry *entry)
{
	struct page_block *block = &m->image->blocks[i];

	if (entry->place == 0) {
		merge_zero(m, i, entry->seq);
		return;
	}
	if (!delta_wins(entry->seq, block)) {
		if (block->place != entry->place)
			space_unref(m->f->pool->space, entry->place, 1, true);
		return;
	}
	if (block->place != entry->place)
		place_give_up(m, i, block->place);
	if (!m->referenced)
		space_ref(m->f->pool->space, entry->place, 1);
	*block = (struct page_block){.place = entry->place,
				     .seq = entry->seq,
				     .crc32c = entry->crc32c,
				     .flags = PAGE_ENTRY_DATA};
}

/* Applies a delta; true when one extent alone zeroed the whole chunk. */
static bool merge_delta(struct merge *m, const struct delta *delta)
{
	uint64_t start = (uint64_t)m->g->chunk * CHUNK_BLOCKS, end = start + CHUNK_BLOCKS;
	struct delta_entry entry;
	struct delta_cursor cursor;

	for (uint64_t at = start; at < end && delta_zero_seek(delta, at, &entry);) {
		uint64_t entry_end = MIN(end, entry.block + entry.length_blocks);
		at = MAX(at, entry.block);
		if (at < entry_end)
			m->image->highest_seq = MAX(m->image->highest_seq, entry.seq);
		for (; at < entry_end; at++)
			merge_zero(m, (uint32_t)(at - start), entry.seq);
	}
	delta_cursor_start(&cursor, delta, start);
	while (delta_cursor_next(&cursor, &entry) && entry.block < end) {
		m->image->highest_seq = MAX(m->image->highest_seq, entry.seq);
		merge_data(m, (uint32_t)(entry.block - start), &entry);
	}
	for (uint32_t i = 0; i < CHUNK_BLOCKS; i++) {
		const struct page_block *block = &m->image->blocks[i];
		if (block->flags != 0 || block->older || block->seq != m->image->highest_seq)
			return false;
	}
	return true;
}

static void page_lost(struct merge *m)
{
	page_clear(m->image, m->g->chunk, m->f->node);
	for (uint32_t i = 0; i < CHUNK_BLOCKS; i++)
		m->image->blocks[i] =
			(struct page_block){.flags = PAGE_ENTRY_LOST, .seq = m->base->highest_seq};
	m->f->pool->pages_lost++;
	log_event(LOG_ERROR, "store", "page_lost", "chunk=%u place=%llu", m->g->chunk,
		  (unsigned long long)m->base->place);
}

/* The state before the delta. */
static void merge_base(struct merge *m, const void *block, int status)
{
	page_clear(m->image, m->g->chunk, m->f->node);
	if (!m->base)
		return;
	if (status <= 0 && !map_page_decode(m->f->pool, m->base, block, status, m->image))
		page_lost(m);
	m->image->highest_seq = m->base->highest_seq;
	m->image->node = m->f->node;
	/* F4: an own tombstone is newer than any fill below its seq; one of the head under a shadow
	 * is not. */
	for (uint32_t i = 0; status > 0 && m->base_own && i < CHUNK_BLOCKS; i++)
		m->image->blocks[i].seq = m->base->highest_seq;
}

/* Writes the merged page; fills place, crc and sums of *item. */
static int page_write(struct merge *m, struct index_item *item, bool to_cache)
{
	struct map_pool *pool = m->f->pool;
	struct space_extent extent;
	struct page_summary summary;
	uint32_t extent_count;
	void *block;

	int rc = space_alloc(pool->space, SPACE_INTERNAL, 1, &extent, 1, &extent_count);
	if (rc < 0)
		return rc;
	space_ref(pool->space, extent.place, 1);
	rc = writer_next(m->f->co, pool->index.writer, extent.place, &block);
	if (rc < 0)
		return rc;
	page_encode(m->image, &pool->index.bounds.store_uuid, block, &summary);
	item->place = extent.place;
	item->crc32c = summary.crc32c;
	item->live_blocks = summary.live_blocks;
	item->digest = summary.digest;
	struct cache_key key = {item->place, item->crc32c, MAGIC_PAGE};
	if (to_cache)
		cache_put(pool->cache, &key, block);
	else
		cache_drop(pool->cache, item->place);
	pool->pages_written++;
	return 0;
}

static int merge_finish(struct merge *m, bool uniform_zero, bool to_cache)
{
	struct map *map = m->f->map;
	struct map_pool *pool = m->f->pool;
	struct index_item item = {.key = index_key(m->g->chunk, m->f->node),
				  .highest_seq = m->image->highest_seq};
	uint32_t live = 0;
	int rc = 0;

	for (uint32_t i = 0; i < CHUNK_BLOCKS; i++)
		live += m->image->blocks[i].flags != 0;
	bool tombstone = uniform_zero || (live == 0 && !m->f->shadow && map->unordered == 0);
	if (!tombstone)
		rc = page_write(m, &item, to_cache);
	else
		map->tomb.any = map->tomb.left = true;
	if (rc < 0)
		return rc;
	if (m->base_own) {
		if (m->base->place != 0)
			space_unref(pool->space, m->base->place, 1, true);
		if (m->base->key != item.key)
			map_change_remove(pool, m->base->key);
		map->used_blocks -= MIN(map->used_blocks, (uint64_t)m->base->live_blocks);
	}
	map->used_blocks += item.live_blocks;
	map_change_set(pool, &item);
	return 0;
}

/* The pages of gathered[i] are read. */
static int chunk_merge(struct fold *f, uint32_t i)
{
	struct map_scratch *s = f->pool->scratch;
	struct gathered *g = &s->gathered[i];
	struct merge m = {.f = f, .g = g, .image = &s->image};
	uint32_t at = 0;

	for (uint32_t k = 0; k < g->group.count; k++) {
		if (index_key_node(g->group.items[k].key) > f->node)
			continue;
		m.base = &g->group.items[k];
		at = k;
	}
	m.base_own = m.base && (!f->shadow || index_key_node(m.base->key) == f->node);
	if (f->shadow && m.base) { /* F3: what the head refers to */
		uint32_t head = 0;
		bool head_here = index_key_node(g->group.items[0].key) < f->node;
		if (head_here && g->group.items[head].place != 0) {
			m.shared_unknown = !map_page_decode(f->pool, &g->group.items[head],
							    pool_block(f->pool, 2 * i + head),
							    g->status[head], &s->shared);
			m.shared = m.shared_unknown ? NULL : &s->shared;
		}
	}
	merge_base(&m, pool_block(f->pool, 2 * i + at), m.base ? g->status[at] : 1);
	if (f->keeper && delta_chunk_count(&f->keeper->kept, g->chunk) > 0) {
		m.referenced = true;
		(void)merge_delta(&m, &f->keeper->kept);
		m.referenced = false;
		delta_chunk_mark(&f->keeper->kept, g->chunk);
		f->keeper->kept_marked++;
	}
	bool uniform_zero = merge_delta(&m, f->delta);
	return merge_finish(&m, uniform_zero, m.base && g->cached[at]);
}

/* ---- the fold of one side ---- */

/* Removes what no node needs from the gathered groups (F3). Their pages are read. */
static int gathered_trim(struct fold *f, uint32_t count)
{
	bool any = false;

	if (f->map->fold_other_node == 0 || f->map->fold_shadow_live)
		return 0;
	for (uint32_t i = 0; i < count; i++) {
		struct gathered *g = &f->pool->scratch->gathered[i];
		const void *const blocks[2] = {pool_block(f->pool, 2 * i),
					       pool_block(f->pool, 2 * i + 1)};
		if (g->group.count < 2)
			continue;
		if (map_group_trim(f->map, g, blocks) == 1) { /* its page moves along */
			memcpy(pool_block(f->pool, 2 * i), blocks[1], BLOCK_BYTES);
			g->status[0] = g->status[1];
			g->cached[0] = g->cached[1];
		}
		any = true;
	}
	return any ? map_changes_apply(f->co, f->map) : 0;
}

/* Fills gathered[] from chunk *from on; the number, or -errno. */
static int fold_gather(struct fold *f, uint64_t *from)
{
	uint32_t count = 0;

	while (count < GATHER_MAX) {
		struct gathered *g = &f->pool->scratch->gathered[count];
		uint64_t chunk;
		int rc = chunk_next(f, *from, &chunk);
		if (rc == -ENODATA)
			break;
		if (rc == 0) {
			rc = map_group_seek(f->co, f->map, chunk, &g->group);
			if (rc == -ENODATA)
				rc = 0;
		}
		if (rc < 0)
			return rc;
		if (g->group.count > 0 && index_key_chunk(g->group.items[0].key) != chunk)
			g->group.count = 0;
		g->chunk = (uint32_t)chunk;
		*from = chunk + 1;
		count++;
	}
	return (int)count;
}

static int fold_side(struct fold *f)
{
	struct map_scratch *s = f->pool->scratch;
	uint64_t from = 0;
	int rc = 0;

	for (;;) {
		bool dead_other = f->map->fold_other_node != 0 && !f->map->fold_shadow_live;
		if (s->change_count + 2 * GATHER_MAX > CHANGES_MAX ||
		    (dead_other && s->change_count > 0))
			rc = map_changes_apply(f->co, f->map);
		if (rc < 0)
			return rc;
		int count = fold_gather(f, &from);
		if (count <= 0) {
			rc = map_changes_apply(f->co, f->map);
			return rc < 0 ? rc : count;
		}
		map_gather_read(f->co, f->pool, (uint32_t)count);
		rc = gathered_trim(f, (uint32_t)count);
		for (int i = 0; i < count && rc == 0; i++)
			rc = chunk_merge(f, (uint32_t)i);
		if (rc < 0)
			return rc;
		co_sleep(f->co, 0); /* the loop's turn */
	}
}

static void fold_finish(struct map *map)
{
	for (uint32_t i = 0; i < 2; i++) {
		map->pool->frozen_bytes -= delta_bytes(&map->sides[i].frozen);
		delta_clear(&map->sides[i].frozen, false);
	}
	map->frozen_busy = false;
	if (map->unordered > 0)
		map->unordered--;
}

/* Works on a copy, so that look-ups keep the old root until the end (F1). */
static int fold_work(struct co *co, struct map *map, struct map *work)
{
	int rc = 0;

	for (uint32_t k = 0; k < 2 && rc == 0; k++) {
		uint32_t side = k == 0 ? map->fold_head : map->fold_head ^ 1;
		bool keeps = k == 0 && !delta_empty(&map->kept);
		struct fold f = {.co = co,
				 .map = work,
				 .pool = map->pool,
				 .delta = &map->sides[side].frozen,
				 .keeper = keeps ? map : NULL,
				 .kept_chunk = UINT64_MAX,
				 .node = map->sides[side].node,
				 .shadow = k == 1 && map->fold_shadow_live};
		if (keeps)
			f.kept_chunk = map_kept_chosen(co, map->pool, map, 0);
		if (!delta_empty(f.delta) || f.kept_chunk != UINT64_MAX)
			rc = fold_side(&f);
	}
	if (rc == 0)
		rc = map_tombs_drop(co, work);
	struct index_item sums = {0};
	int sums_rc = index_sums(co, &map->pool->index, &work->root, &sums);
	if (sums_rc == 0) {
		work->highest_seq = sums.highest_seq;
		work->digest = sums.digest;
	}
	return rc;
}

int map_fold(struct co *co, struct map *map, const struct map_runs *runs)
{
	struct map work;

	if (map->damaged || !map->frozen_busy)
		return map->damaged ? -EBADMSG : 0;
	map_pool_lock(co, map->pool);
	work = *map;
	work.head = map->fold_head;
	int rc = fold_work(co, map, &work);
	if (rc == 0 || rc == -EBADMSG) {
		map->root = work.root;
		map->used_blocks = work.used_blocks;
		map->highest_seq = work.highest_seq;
		map->digest = work.digest;
		map->tomb = work.tomb;
		map_kept_sweep(co, map, runs);
	}
	if (rc == 0)
		fold_finish(map);
	if (rc == -EBADMSG) {
		map->damaged = true;
		log_event(LOG_ERROR, "store", "index_damaged", "node=%u",
			  map->sides[map->head].node);
	}
	map_pool_unlock(map->pool);
	return rc;
}
