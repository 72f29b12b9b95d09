/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Giving up what no node needs: a dropped shadow's pages, the old head's after a flip, whole
 * volumes.
 *
 * N1  Which versions are needed follows from the root alone. With head H and a dead other node
 *     O: O > H: every (c, O) is left over from a shadow that was dropped. O < H: (c, O) is left
 *     over where (c, H) exists; elsewhere it is what H sees, and gets H's key.
 * N2  Of a version that goes, only places that the one that stays does not hold at the same
 *     block are given up. When either page cannot be read, its places leak: never is a shared
 *     place freed.
 * N4  The root of a checkpoint names head and shadow as they were at its cut. Leftovers that
 *     came to be after it wait for the next checkpoint.
 * N3  Progress is durable with the root (the entries are gone); the cursor in memory only saves
 *     time.
 * N5  A tombstone tells a replica that was away that the chunk changed. Once every replica that
 *     counts is past it (settled_seq), nobody needs to be told, and it goes. Not while there is
 *     a second node, where it hides that node's version. Whoever resyncs from before settled_seq
 *     compares in full (PROTO-16).
 */
#include <errno.h>

#include "base/log.h"
#include "store/map_impl.h"

#define TOMB_ENTRIES 1024u /* looked at in one fold */

/* Gives up the places of `gone` except those that `kept` (may be NULL) shares. */
static void image_give_up(struct map_pool *pool, const struct page_image *gone,
			  const struct page_image *kept)
{
	for (uint32_t i = 0; i < CHUNK_BLOCKS; i++) {
		uint64_t place = gone->blocks[i].place;
		if (place != 0 && (!kept || kept->blocks[i].place != place))
			space_unref(pool->space, place, 1, true);
	}
}

uint32_t map_group_trim(struct map *map, struct gathered *g, const void *const blocks[2])
{
	struct map_pool *pool = map->pool;
	uint32_t head_node = map->sides[map->head].node;
	uint32_t gone = index_key_node(g->group.items[1].key) > head_node ? 1 : 0, kept = gone ^ 1;
	const struct index_item *gone_item = &g->group.items[gone];
	struct page_image *gone_image = &pool->scratch->image, *kept_image = &pool->scratch->shared;

	assert(g->group.count == 2);
	bool gone_known = gone_item->place != 0 && map_page_decode(pool, gone_item, blocks[gone],
								   g->status[gone], gone_image);
	bool kept_empty = g->group.items[kept].place == 0;
	bool kept_known = !kept_empty && map_page_decode(pool, &g->group.items[kept], blocks[kept],
							 g->status[kept], kept_image);
	if (gone_known && (kept_known || kept_empty))
		image_give_up(pool, gone_image, kept_known ? kept_image : NULL);
	if (gone_item->place != 0)
		space_unref(pool->space, gone_item->place, 1, true);
	map->used_blocks -= MIN(map->used_blocks, (uint64_t)gone_item->live_blocks);
	map_change_remove(pool, gone_item->key);
	g->group.items[0] = g->group.items[kept];
	g->group.count = 1;
	return kept;
}

/* Up to `max` groups from *key on; the number or -errno. */
static int trim_gather(struct co *co, struct map *map, uint64_t *key, uint32_t max)
{
	uint32_t count = 0;

	while (count < max) {
		struct gathered *g = &map->pool->scratch->gathered[count];
		uint64_t chunk = *key >> 32;
		int rc = map_group_seek(co, map, chunk, &g->group);
		if (rc == -ENODATA) {
			*key = UINT64_MAX;
			break;
		}
		if (rc < 0)
			return rc;
		g->chunk = index_key_chunk(g->group.items[0].key);
		*key = index_key((uint64_t)g->chunk + 1, 0);
		count++;
	}
	return (int)count;
}

/* One group of a map whose other node is dead; its pages are read. */
static void trim_leftover(struct map *map, uint32_t i)
{
	struct map_pool *pool = map->pool;
	struct gathered *g = &pool->scratch->gathered[i];
	const void *const blocks[2] = {pool_block(pool, 2 * i), pool_block(pool, 2 * i + 1)};
	uint32_t head_node = map->sides[map->head].node;
	struct page_image *image = &pool->scratch->image;
	struct index_item item = g->group.items[0];
	uint32_t node = index_key_node(item.key);

	if (g->group.count == 2) {
		(void)map_group_trim(map, g, blocks);
		return;
	}
	if (node == head_node)
		return;
	map_change_remove(pool, item.key);
	if (node < head_node) { /* N1: what the head sees */
		item.key = index_key(g->chunk, head_node);
		map_change_set(pool, &item);
		return;
	}
	if (item.place != 0) {
		if (map_page_decode(pool, &item, blocks[0], g->status[0], image))
			image_give_up(pool, image, NULL);
		space_unref(pool->space, item.place, 1, true);
	}
	map->used_blocks -= MIN(map->used_blocks, (uint64_t)item.live_blocks);
}

/* One group of a map that goes altogether. */
static void trim_whole(struct map *map, uint32_t i)
{
	struct map_pool *pool = map->pool;
	struct gathered *g = &pool->scratch->gathered[i];
	struct page_image *images[2] = {&pool->scratch->image, &pool->scratch->shared};
	bool known[2] = {false, false};

	for (uint32_t k = 0; k < g->group.count; k++) {
		const struct index_item *item = &g->group.items[k];
		map_change_remove(pool, item->key);
		map->used_blocks -= MIN(map->used_blocks, (uint64_t)item->live_blocks);
		if (item->place == 0)
			continue;
		known[k] = map_page_decode(pool, item, pool_block(pool, 2 * i + k), g->status[k],
					   images[k]);
		space_unref(pool->space, item->place, 1, true);
	}
	if (known[0])
		image_give_up(pool, images[0], NULL);
	if (known[1])
		image_give_up(pool, images[1], known[0] ? images[0] : NULL);
}

static int trim_round(struct co *co, struct map *map, bool delete_all, uint64_t *key, uint32_t max)
{
	struct map_pool *pool = map->pool;

	int count = trim_gather(co, map, key, MIN(max, GATHER_MAX));
	if (count <= 0)
		return count;
	map_gather_read(co, pool, (uint32_t)count);
	for (int i = 0; i < count; i++) {
		if (delete_all)
			trim_whole(map, (uint32_t)i);
		else
			trim_leftover(map, (uint32_t)i);
	}
	int rc = map_changes_apply(co, map);
	co_sleep(co, 0);
	return rc < 0 ? rc : count;
}

/* An unreadable index: what hangs below cannot be found any more. */
static void trim_give_up(struct map *map)
{
	log_event(LOG_ERROR, "store", "index_leaked", "node=%u used_blocks=%llu",
		  map->sides[map->head].node, (unsigned long long)map->used_blocks);
	map->root = (struct index_ptr){0};
	map->used_blocks = 0;
}

static int trim_run(struct co *co, struct map *map, bool delete_all, uint32_t pages_max)
{
	uint64_t key = delete_all ? 0 : map->trim_key;
	int count = 1;

	for (uint32_t pages = 0; pages < pages_max && count > 0 && key != UINT64_MAX;
	     pages += (uint32_t)MAX(count, 0))
		count = trim_round(co, map, delete_all, &key, pages_max - pages);
	if (count == -EBADMSG && delete_all) {
		trim_give_up(map);
		return 0;
	}
	if (count == -EBADMSG)
		map->damaged = true;
	map->trim_key = key;
	return MIN(count, 0);
}

/* N4: false when the head or the shadow changed since the freeze of this checkpoint. */
static bool roles_settled(const struct map *map)
{
	return map->head == map->fold_head && map->other_node == map->fold_other_node &&
	       map->shadow_live == map->fold_shadow_live;
}

int map_trim(struct co *co, struct map *map, bool delete_all, uint32_t pages_max, bool *more)
{
	const struct map_side *other = &map->sides[map->head ^ 1];

	assert(delete_all || !map->frozen_busy || map->damaged);
	*more = false;
	if (!delete_all && (map->other_node == 0 || map->shadow_live || map->damaged))
		return 0;
	*more = true;
	if (!delete_all && !roles_settled(map))
		return 0;
	for (uint32_t i = 0; delete_all && i < 2; i++) {
		if (map->frozen_busy)
			map->pool->frozen_bytes -= delta_bytes(&map->sides[i].frozen);
		/* The root being built names nothing of the volume; some places the one before did (its tail). */
		map->sides[i].active.unref = DELTA_UNREF_THIS_ROOT;
		map->sides[i].frozen.unref = DELTA_UNREF_THIS_ROOT;
		delta_clear(&map->sides[i].active, true);
		delta_clear(&map->sides[i].frozen, true);
	}
	if (delete_all) {
		map->frozen_busy = false;
		map_kept_clear(map, true);
	}
	map_pool_lock(co, map->pool);
	uint32_t head = map->head;
	int rc = trim_run(co, map, delete_all, pages_max);
	map_pool_unlock(map->pool);
	if (rc < 0)
		return rc == -EBADMSG ? 0 : rc;
	if (delete_all) {
		*more = map->root.levels > 0;
		if (!*more)
			map->used_blocks = 0;
		return 0;
	}
	*more = map->trim_key != UINT64_MAX;
	if (!*more && head == map->head && delta_empty(&other->active) &&
	    delta_empty(&other->frozen))
		map->other_node = 0;
	return 0;
}

/* ---- tombstones ---- */

int map_tombs_drop(struct co *co, struct map *map)
{
	const struct index_ctx *ctx = &map->pool->index;
	struct map_tomb *t = &map->tomb;
	struct index_query query = {.key = t->key};
	struct index_item item;

	if (t->settled_seq == 0)
		return 0;
	if (t->key == 0) {
		if (!t->any || t->settled_seq <= t->pass_seq)
			return 0;
		t->pass_seq = t->settled_seq;
		t->left = false;
	}
	for (uint32_t n = 0; n < TOMB_ENTRIES; n++) {
		int rc = index_seek(co, ctx, &map->root, &query, &item);
		if (rc == -ENODATA) {
			t->any = t->left;
			query.key = 0;
			break;
		}
		if (rc < 0)
			return rc == -EIO ? -EBADMSG : rc;
		query.key = item.key + 1;
		if (item.place == 0 && item.highest_seq <= t->pass_seq)
			map_change_remove(map->pool, item.key);
		else if (item.place == 0)
			t->left = true;
	}
	t->key = query.key;
	return map_changes_apply(co, map);
}
