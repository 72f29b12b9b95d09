/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Walking the ring: which batches follow a root, and what is missing between them.
 *
 * R1 A batch follows when uuid, incarnation, salt, own position, number, crc and the previous
 *    descriptor's crc fit. Nothing is found by following a link: a bad block hides only itself. It may be further
 *    on than where the one before ends: the ring's end and blocks of the bad-block list are skipped.
 * R2 Where the walk stops, every position that can have been in flight is looked at. The highest
 *    durable_prefix there (or before) tells whether the missing batch was stable: then it is rot
 *    and the walk goes on behind it; else it never was, and the log ends.
 * R3 Any descriptor that only a newer root explains (higher incarnation or root generation, or a
 *    later lap of the ring) proves that the root is not the newest: the store is lost.
 */
#include "store/internal.h"

#include <errno.h>
#include <stdlib.h>

int walk_begin(struct walk *w, struct co *co, struct store *store, const struct root *root)
{
	memset(w, 0, sizeof(*w));
	w->co = co;
	w->store = store;
	w->window = env_buf_alloc(store->env, (size_t)COPY_BLOCKS * BLOCK_BYTES);
	w->desc = env_buf_alloc(store->env, DESC_BLOCKS_MAX * BLOCK_BYTES);
	w->prefix = le64_get(root->durable_prefix);
	walk_restart(w, root);
	return w->window && w->desc ? 0 : -ENOMEM;
}

void walk_restart(struct walk *w, const struct root *root)
{
	w->incarnation = le64_get(root->incarnation);
	w->salt = le64_get(root->salt);
	w->root_generation = le64_get(root->generation);
	w->position = le64_get(root->ring_position);
	w->batch_no = le64_get(root->batch_no);
	w->limit = w->position + w->store->ring_blocks;
	w->prev_known = false;
}

void walk_end(struct walk *w)
{
	if (w->window)
		env_buf_free(w->store->env, w->window, (size_t)COPY_BLOCKS * BLOCK_BYTES);
	if (w->desc)
		env_buf_free(w->store->env, w->desc, DESC_BLOCKS_MAX * BLOCK_BYTES);
	w->window = w->desc = NULL;
}

static void window_load(struct walk *w, uint64_t position)
{
	struct store *store = w->store;
	uint64_t room = store->ring_blocks - position % store->ring_blocks;
	uint32_t blocks = (uint32_t)MIN((uint64_t)COPY_BLOCKS, room);
	uint64_t place = ring_physical(store, position);
	w->window_start = position;
	w->window_blocks = blocks;
	if (store_io(w->co, store, ENV_IO_READ, 0, place, w->window, blocks) == 0)
		return;
	for (uint32_t i = 0; i < blocks; i++) { /* find the good ones around a bad sector */
		char *block = w->window + (size_t)i * BLOCK_BYTES;
		if (store_io(w->co, store, ENV_IO_READ, 0, place + i, block, 1) < 0)
			memset(block, 0, BLOCK_BYTES);
	}
}

const char *walk_block(struct walk *w, uint64_t position)
{
	if (position < w->window_start || position >= w->window_start + w->window_blocks)
		window_load(w, position);
	return w->window + (size_t)(position - w->window_start) * BLOCK_BYTES;
}

/* A descriptor of this walk at its own position. R3 */
static bool desc_at(struct walk *w, uint64_t position, struct desc_header *ret)
{
	struct desc_header h;
	if (!desc_decode(walk_block(w, position), &w->store->uuid, &h))
		return false;
	if (h.incarnation > w->incarnation) {
		w->lost = "the ring holds a batch of a later incarnation";
		return false;
	}
	if (h.incarnation != w->incarnation || h.salt != w->salt)
		return false;
	if (h.root_generation > w->root_generation) {
		w->lost = "the ring holds a batch that saw a newer root";
		return false;
	}
	if (h.position > position) {
		w->lost = "the ring was reused beyond what the root allows";
		return false;
	}
	if (h.position != position)
		return false;
	w->prefix = MAX(w->prefix, h.durable_prefix);
	*ret = h;
	return true;
}

/* A whole batch whose descriptors are good; loads it. */
static bool batch_at(struct walk *w, uint64_t position, struct desc_header *ret)
{
	struct desc_header h;
	uint64_t ring = w->store->ring_blocks;
	if (position >= w->limit || !desc_at(w, position, &h) || h.desc_index != 0)
		return false;
	if (position % ring + h.batch_blocks > ring || position + h.batch_blocks > w->limit)
		return false;
	*ret = h;
	for (uint32_t i = 0; i < ret->desc_count; i++) {
		if (!desc_at(w, position + i, &h) || h.desc_index != i ||
		    h.batch_no != ret->batch_no || h.desc_count != ret->desc_count ||
		    h.batch_blocks != ret->batch_blocks)
			return false;
		memcpy(w->desc + (size_t)i * BLOCK_BYTES, walk_block(w, position + i), BLOCK_BYTES);
		w->record_bytes[i] = h.record_bytes;
		w->record_count[i] = h.record_count;
	}
	return true;
}

static void batch_found(struct walk *w, const struct desc_header *h)
{
	w->found_position = h->position;
	w->found_no = h->batch_no;
	w->desc_count = h->desc_count;
	w->batch_blocks = h->batch_blocks;
	w->time_ms = h->time_ms;
	w->durable_prefix = h->durable_prefix;
	w->position = h->position + h->batch_blocks;
	w->batch_no = h->batch_no + 1;
	w->prev_crc32c = h->crc32c;
	w->prev_known = true;
}

static bool batch_follows(struct walk *w, uint64_t position)
{
	struct desc_header h;
	if (!batch_at(w, position, &h) || h.batch_no != w->batch_no)
		return false;
	if (w->prev_known && h.prev_crc32c != w->prev_crc32c)
		return false;
	batch_found(w, &h);
	return true;
}

/* R2 */
static bool scan_on(struct walk *w, bool *gap)
{
	struct desc_header h;
	/* Each bad block may have cost a batch's room in front of it. */
	uint64_t blocks = RING_SCAN_BLOCKS + (uint64_t)w->store->ring_bad * (BATCH_BLOCKS_MAX + 1);
	uint64_t end = MIN(w->position + blocks, w->limit), next = w->limit;
	for (uint64_t p = w->position; p < end && !w->lost; p++) {
		if (desc_at(w, p, &h) && h.desc_index == 0 && h.batch_no == w->batch_no)
			next = MIN(next, p);
	}
	if (!w->lost && next < w->limit && batch_follows(w, next)) /* R1 */
		return true;
	*gap = w->prefix >= w->batch_no;
	if (!*gap || w->lost)
		return false;
	for (uint64_t p = w->position; p < end; p++) {
		if (batch_at(w, p, &h) && h.batch_no > w->batch_no) {
			batch_found(w, &h);
			return true;
		}
	}
	return false;
}

bool walk_next(struct walk *w, bool *gap)
{
	*gap = false;
	if (batch_follows(w, w->position))
		return true;
	uint64_t ring = w->store->ring_blocks;
	uint64_t room = ring - w->position % ring;
	if (room < BATCH_BLOCKS_MAX && batch_follows(w, w->position + room))
		return true;
	return !w->lost && scan_on(w, gap);
}

int walk_records(struct walk *w, int (*fn)(void *ctx, const struct log_record *record), void *ctx,
		 struct err *err)
{
	for (uint32_t i = 0; i < w->desc_count; i++) {
		const char *at = w->desc + (size_t)i * BLOCK_BYTES + sizeof(struct desc_block);
		size_t left = w->record_bytes[i];
		for (uint32_t n = 0; n < w->record_count[i]; n++) {
			struct log_record record;
			size_t bytes;
			int rc = record_decode(at, left, &record, &bytes, err);
			if (rc == 0)
				rc = fn(ctx, &record);
			if (rc < 0)
				return err_wrap(err, rc, "batch %llu",
						(unsigned long long)w->found_no);
			at += bytes;
			left -= bytes;
		}
	}
	return 0;
}
