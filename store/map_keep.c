/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a checkpoint does not fold: entries of chunks that have few of them stay in memory, in `kept`,
 * and on disk in the run table.
 *
 *   frozen --chunk by chunk--> kept, and a run entry each      too many in the chunk, a zero in it,
 *      |                         |                             memory tight: stays in frozen
 *      '-------> fold <----------' (kept takes more than its share: the chunks with most entries)
 *
 * W1  A chunk moves whole. Its entries are in kept before they leave frozen, so every look-up finds them; when
 *     memory ends half-way the chunk is folded from both, which hold the same places.
 * W2  A kept place is referenced from the moment it moves. What it supersedes in kept is given up for the root
 *     being built, which names it no more.
 * W3  A folded chunk leaves kept after the switch of the root: until then look-ups need it, from then on it
 *     says what the page says. Its run entries are void from a VOID entry behind them on.
 * W4  Only this file, map_fold.c and map_trim.c change kept, one at a time (the pool's lock).
 */
#include <errno.h>

#include "store/map_impl.h"
#include "store/run_table.h"

#define YIELD_ENTRIES 4096u

static void kept_account(struct map *map, uint64_t bytes_before)
{
	map->pool->kept_bytes += delta_bytes(&map->kept) - bytes_before;
}

/* Enough for one turn of the loop? */
static void walk_yield(struct co *co, uint32_t *looked)
{
	if (++*looked % YIELD_ENTRIES == 0)
		co_sleep(co, 0);
}

/* ---- frozen to kept ---- */

static bool chunk_zeroed(const struct delta *frozen, uint64_t chunk)
{
	struct delta_entry zero;

	return delta_zero_seek(frozen, chunk * CHUNK_BLOCKS, &zero) &&
	       zero.block < (chunk + 1) * CHUNK_BLOCKS;
}

/* Cursor over one chunk's data entries. */
static bool chunk_next_entry(struct delta_cursor *cursor, uint64_t chunk, struct delta_entry *ret)
{
	return delta_cursor_next(cursor, ret) && ret->block / CHUNK_BLOCKS == chunk;
}

static void entry_tell(const struct map_runs *runs, uint32_t node, const struct delta_entry *entry)
{
	struct run_entry out = {.node = le32_make(node),
				.crc32c = le32_make(entry->crc32c),
				.block = le64_make(entry->block),
				.place = le64_make(entry->place),
				.seq = le64_make(entry->seq)};

	runs->add(runs->ctx, &out);
}

/* W1, W2. False: no memory; what went over was told. */
static bool chunk_keep(struct map *map, const struct delta *frozen, uint64_t chunk,
		       const struct map_runs *runs)
{
	struct delta_cursor cursor;
	struct delta_entry entry;
	bool kept = true;

	delta_cursor_start(&cursor, frozen, chunk * CHUNK_BLOCKS);
	while (kept && chunk_next_entry(&cursor, chunk, &entry)) {
		uint64_t before = delta_bytes(&map->kept);
		space_ref(map->pool->space, entry.place, 1);
		kept = delta_put(&map->kept, &entry) == 0;
		kept_account(map, before);
		if (kept)
			entry_tell(runs, map->sides[map->fold_head].node, &entry);
	}
	return kept;
}

static bool worth_keeping(const struct map *map, const struct delta *frozen, uint64_t chunk)
{
	return !chunk_zeroed(frozen, chunk) &&
	       delta_chunk_count(frozen, chunk) + delta_chunk_count(&map->kept, chunk) <
		       map->pool->fold_entries;
}

void map_keep(struct co *co, struct map *map, const struct map_runs *runs)
{
	struct map_pool *pool = map->pool;
	struct delta *frozen = &map->sides[map->fold_head].frozen;
	struct delta_entry entry;
	uint32_t looked = 0;

	if (map->damaged || !map->frozen_busy || map->fold_all)
		return;
	map_pool_lock(co, pool);
	for (uint64_t chunk = 0; delta_data_seek(frozen, chunk * CHUNK_BLOCKS, &entry); chunk++) {
		chunk = entry.block / CHUNK_BLOCKS;
		walk_yield(co, &looked);
		if (!worth_keeping(map, frozen, chunk))
			continue;
		if (delta_pool_tight(pool->deltas) || !chunk_keep(map, frozen, chunk, runs))
			break;
		uint64_t before = delta_bytes(frozen);
		delta_chunk_drop(frozen, chunk);
		pool->frozen_bytes -= before - delta_bytes(frozen);
	}
	map_pool_unlock(pool);
}

/* ---- which of the kept chunks to fold ---- */

static void kept_tally(struct co *co, const struct map *map)
{
	uint64_t *chunks = map->pool->scratch->kept_chunks, chunk = UINT64_MAX;
	struct delta_cursor cursor;
	struct delta_entry entry;
	uint32_t count = 0, looked = 0;

	delta_cursor_start(&cursor, &map->kept, 0);
	while (delta_cursor_next(&cursor, &entry)) {
		walk_yield(co, &looked);
		if (entry.block / CHUNK_BLOCKS != chunk) {
			chunks[count]++;
			chunk = entry.block / CHUNK_BLOCKS;
			count = 0;
		}
		count++;
	}
	chunks[count]++;
}

void map_pool_choose(struct co *co, struct map_pool *pool, struct map *const *maps,
		     uint32_t map_count)
{
	uint64_t share = delta_pool_room_bytes(pool->deltas) / 2, entries = 0;
	uint64_t *chunks;

	pool->fold_above = MAP_FOLD_NONE;
	pool->fold_budget = 0;
	if (pool->kept_bytes <= share)
		return;
	map_pool_lock(co, pool);
	chunks = pool->scratch->kept_chunks;
	memset(chunks, 0, sizeof(pool->scratch->kept_chunks));
	for (uint32_t i = 0; i < map_count; i++) {
		kept_tally(co, maps[i]);
		entries += maps[i]->kept.data.entry_count;
	}
	/* Down to three quarters of the share, so that not every checkpoint touches the whole index for a few. */
	uint64_t excess = entries - entries * (share - share / 4) / pool->kept_bytes;
	for (uint32_t n = CHUNK_BLOCKS; n > 0 && excess > 0; n--) {
		uint64_t taken = MIN(chunks[n], DIV_UP(excess, (uint64_t)n));
		pool->fold_above = taken == chunks[n] ? n - 1 : n;
		pool->fold_budget = taken == chunks[n] ? 0 : taken;
		excess -= MIN(excess, taken * n);
	}
	map_pool_unlock(pool);
}

uint64_t map_kept_chosen(struct co *co, struct map_pool *pool, const struct map *map, uint64_t from)
{
	struct delta_entry entry;
	uint32_t looked = 0;

	if (!map->fold_all && pool->fold_above == MAP_FOLD_NONE && pool->fold_budget == 0)
		return UINT64_MAX;
	for (; delta_data_seek(&map->kept, from * CHUNK_BLOCKS, &entry); from++) {
		from = entry.block / CHUNK_BLOCKS;
		if (map->fold_all)
			return from;
		uint32_t count = delta_chunk_count(&map->kept, from);
		if (count > pool->fold_above)
			return from;
		if (count == pool->fold_above && pool->fold_budget > 0) {
			pool->fold_budget--;
			return from;
		}
		walk_yield(co, &looked);
	}
	return UINT64_MAX;
}

/* ---- out of kept ---- */

void map_kept_sweep(struct co *co, struct map *map, const struct map_runs *runs)
{
	struct delta_cursor cursor;
	struct delta_entry entry;
	uint32_t node = map->sides[map->fold_head].node, looked = 0;

	delta_cursor_start(&cursor, &map->kept, 0);
	while (map->kept_marked > 0 && delta_cursor_next(&cursor, &entry)) {
		walk_yield(co, &looked);
		if (!entry.marked)
			continue;
		uint64_t chunk = entry.block / CHUNK_BLOCKS, before = delta_bytes(&map->kept);
		delta_chunk_drop(&map->kept, chunk);
		kept_account(map, before);
		map->kept_marked--;
		struct delta_entry none = {.block = chunk * CHUNK_BLOCKS};
		entry_tell(runs, node, &none);
		delta_cursor_start(&cursor, &map->kept, (chunk + 1) * CHUNK_BLOCKS);
	}
	map->kept_marked = 0;
}

void map_kept_clear(struct map *map, bool unref)
{
	uint64_t before = delta_bytes(&map->kept);

	delta_clear(&map->kept, unref);
	kept_account(map, before);
}

/* ---- the run table ---- */

void map_kept_each(struct co *co, struct map *map, const struct map_runs *runs)
{
	struct delta_cursor cursor;
	struct delta_entry entry;
	uint32_t node = map->sides[map->head].node, looked = 0;

	map_pool_lock(co, map->pool);
	delta_cursor_start(&cursor, &map->kept, 0);
	while (delta_cursor_next(&cursor, &entry)) {
		walk_yield(co, &looked);
		entry_tell(runs, node, &entry);
	}
	map_pool_unlock(map->pool);
}

uint64_t map_kept_count(const struct map *map)
{
	return map->kept.data.entry_count;
}

int map_pool_load_begin(struct map_pool *pool, uint64_t entries)
{
	return delta_pool_load_begin(pool->deltas, entries);
}

void map_pool_load_end(struct map_pool *pool)
{
	delta_pool_load_end(pool->deltas);
}

bool map_kept_fits(const struct map *map)
{
	struct delta_cursor cursor;
	struct delta_entry entry;

	delta_cursor_start(&cursor, &map->kept, 0);
	while (delta_cursor_next(&cursor, &entry)) {
		if (map->other_node != 0 || !space_is_referenced(map->pool->space, entry.place))
			return false;
	}
	return true;
}

int map_kept_load(struct map *map, const struct run_entry *in)
{
	const struct page_bounds *bounds = &map->pool->index.bounds;
	struct delta_entry entry = {.block = le64_get(in->block),
				    .place = le64_get(in->place),
				    .length_blocks = 1,
				    .seq = le64_get(in->seq),
				    .crc32c = le32_get(in->crc32c)};
	uint64_t before = delta_bytes(&map->kept);
	int rc = 0;

	if (!run_entry_valid(in, bounds->data_start, bounds->end))
		return -EUCLEAN;
	map->kept.unref = DELTA_UNREF_NONE;
	if (run_entry_voids(in))
		delta_chunk_drop(&map->kept, entry.block / CHUNK_BLOCKS);
	else
		rc = delta_put(&map->kept, &entry);
	map->kept.unref = DELTA_UNREF_THIS_ROOT;
	kept_account(map, before);
	return rc;
}
