/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Destage: what a frozen delta holds in the ring moves to the data area.
 *
 *   entries with a place in the ring, up to 16,384 -> in the ring's order -> 128 at once: neighbours read in one go
 *     -> written in that order to one allocation -> their places changed
 *
 * A delta is in the order of addresses; neighbours in the ring are the writes that came together. Read in the order of
 * addresses, random writes would cost a read each.
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

/* Fills d->order: counted into windows of the ring, then put right within each. */
static void destage_order(struct destage *d, uint64_t data_start)
{
	uint64_t window = DIV_UP(data_start, (uint64_t)DESTAGE_WINDOWS);
	memset(d->windows, 0, sizeof(d->windows));
	for (uint32_t i = 0; i < d->found_count; i++)
		d->windows[d->found[i].place / window + 1]++;
	for (uint32_t w = 1; w <= DESTAGE_WINDOWS; w++)
		d->windows[w] += d->windows[w - 1];
	for (uint32_t i = 0; i < d->found_count; i++)
		d->order[d->windows[d->found[i].place / window]++] = i;
	for (uint32_t i = 1; i < d->found_count; i++) {
		uint32_t item = d->order[i], k = i;
		for (; k > 0 && d->found[d->order[k - 1]].place > d->found[item].place; k--)
			d->order[k] = d->order[k - 1];
		d->order[k] = item;
	}
}

/* Reads all items: neighbours in the ring in one go. */
static void destage_read(struct destage *d)
{
	uint32_t span = 0, slot = 0;

	for (uint32_t i = 0; i < d->count; span++) {
		uint64_t first = d->items[i].found.place, last = first;
		for (; i < d->count; i++) {
			struct destage_item *item = &d->items[i];
			if (item->found.place > last + 1 + DESTAGE_GAP ||
			    item->found.place >= first + 64)
				break;
			last = item->found.place;
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
			delta_move(d->delta, d->items[item].found.block, extents[i].place + k);
	}
	return rc;
}

/* The next entries in the ring, in the order of addresses. */
static void destage_find(struct destage *d, struct delta_cursor *cursor, uint64_t data_start)
{
	struct delta_entry entry;
	uint32_t looked = 0;

	d->found_count = 0;
	while (d->found_count < DESTAGE_FOUND && delta_cursor_next(cursor, &entry)) {
		if (entry.place != 0 && entry.place < data_start)
			d->found[d->found_count++] =
				(struct destage_found){entry.block, entry.place};
		if (++looked % 4096 == 0)
			co_sleep(d->co, 0);
	}
}

static int destage_delta(struct destage *d, uint64_t data_start)
{
	struct delta_cursor cursor;
	int rc = 0;

	delta_cursor_start(&cursor, d->delta, 0);
	for (;;) {
		destage_find(d, &cursor, data_start);
		if (d->found_count == 0)
			return 0;
		destage_order(d, data_start);
		for (uint32_t i = 0; i < d->found_count; i += d->count) {
			d->count = MIN(d->found_count - i, DESTAGE_BLOCKS);
			for (uint32_t k = 0; k < d->count; k++)
				d->items[k].found = d->found[d->order[i + k]];
			destage_read(d);
			rc = destage_write(d);
			if (rc < 0)
				return rc;
		}
	}
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
