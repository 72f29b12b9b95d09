/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tables of a root: chains of blocks, written front to back to new places.
 *
 * R1 Each block points at the one before it and knows its crc, so a chain is written in one pass; a reader
 *    goes from the last to the first and hands them out in order.
 * R2 The places of the durable root's tables are unreferenced when the next root is built. The run table's
 *    chain is not: the next root's continues it (runs.c).
 */
#include "store/internal.h"

#include <errno.h>
#include <stdlib.h>

static int place_note(struct place_list *list, uint64_t place)
{
	if (list->count == list->max) {
		/* Checkpoints are not the data path; the array is kept for the next one. */
		uint32_t max = list->max ? list->max * 2 : 64;
		uint64_t *places = realloc(list->places, max * sizeof(uint64_t));
		if (!places)
			return -ENOMEM;
		list->places = places;
		list->max = max;
	}
	list->places[list->count++] = place;
	return 0;
}

void place_list_unref(struct store *store, struct place_list *list)
{
	for (uint32_t i = 0; i < list->count; i++)
		space_unref(store->space, list->places[i], 1, true);
	list->count = 0;
}

void table_begin(struct table_writer *w, struct co *co, struct store *store, enum table_kind kind,
		 char *block, struct place_list *places)
{
	*w = (struct table_writer){
		.store = store, .co = co, .kind = kind, .block = block, .places = places};
	memset(block, 0, BLOCK_BYTES);
}

static void table_flush(struct table_writer *w)
{
	struct space_extent extent;
	uint32_t extents;
	struct store *store = w->store;
	if (w->status == 0)
		w->status = space_alloc(store->space, SPACE_INTERNAL, 1, &extent, 1, &extents);
	if (w->status < 0)
		return;
	((struct table_block *)w->block)->next = w->last;
	uint32_t crc = block_seal(w->block, MAGIC_TABLE, (uint16_t)w->kind, w->count, &store->uuid);
	space_ref(store->space, extent.place, 1);
	w->status = place_note(w->places, extent.place);
	if (w->status == 0)
		w->status = store_io(w->co, store, ENV_IO_WRITE, 0, extent.place, w->block, 1);
	w->last = (struct block_ptr){.place = le64_make(extent.place), .crc32c = le32_make(crc)};
	memset(w->block, 0, BLOCK_BYTES);
	w->used_bytes = w->count = 0;
}

void table_add(struct table_writer *w, const void *bytes, uint32_t length_bytes)
{
	assert(length_bytes <= TABLE_ENTRY_BYTES);
	if (w->used_bytes + length_bytes > TABLE_ENTRY_BYTES)
		table_flush(w);
	if (w->status < 0)
		return; /* table_end() says it */
	memcpy(w->block + sizeof(struct table_block) + w->used_bytes, bytes, length_bytes);
	w->used_bytes += length_bytes;
	w->count += w->kind == TABLE_TAIL ? length_bytes : 1;
}

int table_end(struct table_writer *w, struct block_ptr *ret)
{
	if (w->used_bytes > 0)
		table_flush(w);
	if (w->status < 0)
		return w->status;
	*ret = w->last;
	return 0;
}

/* ---- reading ---- */

struct chain {
	char *blocks; /* store->table_chain: a killed recovery must not leak it */
	uint32_t count;
	uint32_t max;
};

static int chain_load(struct co *co, struct store *store, struct block_ptr at, enum table_kind kind,
		      struct chain *chain, struct place_list *places, struct err *err)
{
	uint64_t chain_max = store->size_blocks - store->data_start;
	while (le64_get(at.place) != 0) {
		uint64_t place = le64_get(at.place);
		if (chain->count == chain_max || place < store->data_start ||
		    place >= store->size_blocks)
			return err_set(err, -EUCLEAN, "table %d: block %llu is no place for it",
				       (int)kind, (unsigned long long)place);
		if (chain->count == chain->max) {
			uint32_t max = chain->max ? chain->max * 2 : 16;
			char *blocks = realloc(chain->blocks, (size_t)max * BLOCK_BYTES);
			if (!blocks)
				return err_set(err, -ENOMEM, "table %d: out of memory", (int)kind);
			chain->blocks = store->table_chain = blocks;
			chain->max = max;
		}
		char *io_block = store->checkpoint.copy;
		int rc = store_io(co, store, ENV_IO_READ, 0, place, io_block, 1);
		if (rc < 0)
			return err_set(err, rc, "table %d: block %llu cannot be read", (int)kind,
				       (unsigned long long)place);
		const struct table_block *t = (const struct table_block *)io_block;
		if (!block_check(io_block, MAGIC_TABLE, &store->uuid) ||
		    le32_get(t->h.crc32c) != le32_get(at.crc32c) || le16_get(t->h.kind) != kind)
			return err_set(err, -EUCLEAN, "table %d: block %llu does not match its crc",
				       (int)kind, (unsigned long long)place);
		memcpy(chain->blocks + (size_t)chain->count++ * BLOCK_BYTES, io_block, BLOCK_BYTES);
		rc = place_note(places, place);
		if (rc < 0)
			return err_set(err, rc, "table %d: out of memory", (int)kind);
		at = t->next;
	}
	return 0;
}

int table_read(struct co *co, struct store *store, const struct block_ptr *last,
	       enum table_kind kind, struct place_list *places,
	       int (*fn)(void *ctx, const struct table_block *block), void *ctx, struct err *err)
{
	struct chain chain = {0};
	int rc = chain_load(co, store, *last, kind, &chain, places, err);
	for (uint32_t i = chain.count; i > 0 && rc == 0; i--)
		rc = fn(ctx,
			(const struct table_block *)(chain.blocks + (size_t)(i - 1) * BLOCK_BYTES));
	free(take(store->table_chain));
	return rc;
}
