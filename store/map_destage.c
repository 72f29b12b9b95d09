/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Destage: what a frozen delta holds in the ring moves to the data area.
 *
 *   128 entries in address order -> sorted by ring place, neighbours read at once
 *     -> written in address order to one allocation -> their places changed
 *
 * S1  A place is changed only after its new block is written (and flushed before the root, by
 *     the caller).
 * S2  Look-ups may have seen the old place; the ring range is reused only after the root is
 *     durable and their reads have ended.
 * S3  The crc of an entry never changes. A payload that rotted in the ring, or cannot be read,
 *     stays bad.
 */
#include <errno.h>
#include <stdlib.h>

#include "store/map_impl.h"

static int destage_compare(const void *a, const void *b, void *ctx)
{
	const struct destage *d = ctx;
	uint64_t place_a = d->items[*(const uint32_t *)a].place;
	uint64_t place_b = d->items[*(const uint32_t *)b].place;
	return (place_a > place_b) - (place_a < place_b);
}

/* Reads all items: neighbours in the ring in one go. */
static void destage_read(struct destage *d)
{
	uint32_t span = 0, slot = 0;

	for (uint32_t i = 0; i < d->count; i++)
		d->order[i] = i;
	qsort_r(d->order, d->count, sizeof(d->order[0]), destage_compare, d);
	for (uint32_t i = 0; i < d->count; span++) {
		uint64_t first = d->items[d->order[i]].place, last = first;
		for (; i < d->count; i++) {
			struct destage_item *item = &d->items[d->order[i]];
			if (item->place > last + 1 + DESTAGE_GAP || item->place >= first + 64)
				break;
			last = item->place;
			item->slot = slot + (uint32_t)(last - first);
			item->span = span;
		}
		uint32_t blocks = (uint32_t)(last - first) + 1;
		struct batch_io_part part = {first, blocks, pool_block(d->pool, slot),
					     &d->status[span]};
		batch_io_submit(d->co, d->pool->reads, ENV_IO_READ, &part);
		slot += blocks;
	}
	(void)batch_io_wait(d->co, d->pool->reads, 0); /* each span has its own status */
}

/* Unreadable payload becomes zeros under the old crc: bad when read, unless it was zeros. */
static int destage_write(struct destage *d)
{
	struct space_extent extents[DESTAGE_BLOCKS];
	uint32_t extent_count, item = 0;

	int rc = space_alloc(d->pool->space, SPACE_INTERNAL, d->count, extents, DESTAGE_BLOCKS,
			     &extent_count);
	for (uint32_t i = 0; rc == 0 && i < extent_count; i++) {
		for (uint32_t k = 0; rc == 0 && k < extents[i].length_blocks; k++, item++) {
			void *block;
			const struct destage_item *from = &d->items[item];
			rc = writer_next(d->co, d->pool->index.writer, extents[i].place + k,
					 &block);
			if (rc == 0 && d->status[from->span] == 0)
				memcpy(block, pool_block(d->pool, from->slot), BLOCK_BYTES);
		}
	}
	int finished = writer_finish(d->co, d->pool->index.writer);
	if (rc == 0)
		rc = finished;
	item = 0;
	for (uint32_t i = 0; rc == 0 && i < extent_count; i++) {
		for (uint32_t k = 0; k < extents[i].length_blocks; k++, item++)
			delta_move(d->delta, d->items[item].block, extents[i].place + k);
	}
	return rc;
}

static int destage_delta(struct destage *d, uint64_t data_start)
{
	struct delta_cursor cursor;
	struct delta_entry entry;
	int rc = 0;

	delta_cursor_start(&cursor, d->delta, 0);
	while (rc == 0) {
		d->count = 0;
		uint32_t looked = 0;
		while (d->count < DESTAGE_BLOCKS && looked++ < 4096 &&
		       delta_cursor_next(&cursor, &entry)) {
			if (entry.place != 0 && entry.place < data_start)
				d->items[d->count++] =
					(struct destage_item){.block = entry.block,
							      .place = entry.place,
							      .crc32c = entry.crc32c};
		}
		if (d->count == 0 && looked < 4096)
			break;
		if (d->count == 0) {
			co_sleep(d->co, 0);
			continue;
		}
		destage_read(d);
		rc = destage_write(d);
	}
	return rc;
}

int map_destage(struct co *co, struct map *map, uint64_t data_start)
{
	struct destage *d;
	int rc = 0;

	if (map->damaged || !map->frozen_busy)
		return 0;
	map_pool_lock(co, map->pool);
	d = &map->pool->scratch->destage;
	for (uint32_t i = 0; i < 2 && rc == 0; i++) {
		d->co = co;
		d->pool = map->pool;
		d->delta = &map->sides[i].frozen;
		rc = destage_delta(d, data_start);
	}
	map_pool_unlock(map->pool);
	return rc;
}
