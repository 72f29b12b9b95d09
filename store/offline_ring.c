/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The batches that a root needs, read from outside (offline.h).
 *
 * N1 offline_ring_begin() looks at every block of the ring: the highest durable_prefix of this root's life is
 *    known before the walk, so the walk can tell a hole from the end (F2).
 * N2 A batch counts when all its descriptors are good and fit each other. One that does not follow by
 *    number is taken only behind a hole.
 */
#include "store/offline.h"

#include <errno.h>
#include <stdlib.h>

static void ring_lost(struct offline_ring *r, uint64_t position, const char *what)
{
	if (r->lost)
		return;
	r->lost = what;
	r->lost_position = position;
}

/* A descriptor of this root's life at its own position. */
static bool desc_at(struct offline_ring *r, uint64_t position, struct desc_header *ret)
{
	struct desc_header h;

	if (!desc_decode(offline_ring_block(r->offline, position), &r->offline->uuid, &h))
		return false;
	if (h.incarnation > le64_get(r->root->incarnation)) {
		ring_lost(r, position, "a batch of a later incarnation than the newest root's");
		return false;
	}
	if (h.incarnation != le64_get(r->root->incarnation) || h.salt != le64_get(r->root->salt))
		return false;
	if (h.root_generation > le64_get(r->root->generation))
		ring_lost(r, position, "a batch that saw a newer root");
	if (h.position > position)
		ring_lost(r, position, "a batch of a later lap than the newest root allows");
	if (h.position != position)
		return false;
	*ret = h;
	return true;
}

int offline_ring_begin(struct offline_ring *r, struct offline *offline, const struct root *root)
{
	struct desc_header h;

	*r = (struct offline_ring){.offline = offline,
				   .root = root,
				   .position = le64_get(root->ring_position),
				   .batch_no = le64_get(root->batch_no),
				   .prefix = le64_get(root->durable_prefix)};
	r->limit = r->position + offline->ring_blocks;
	r->batch = calloc(1, sizeof(*r->batch));
	if (!r->batch)
		return -ENOMEM;
	for (uint64_t p = r->position; p < r->limit; p++) {
		if (desc_at(r, p, &h))
			r->prefix = MAX(r->prefix, h.durable_prefix);
	}
	return 0;
}

void offline_ring_end(struct offline_ring *r)
{
	free(r->batch);
	r->batch = NULL;
}

/* N2: a whole batch, loaded into ring->batch. */
static bool batch_at(struct offline_ring *r, uint64_t position)
{
	struct offline_batch *b = r->batch;
	uint64_t ring = r->offline->ring_blocks;
	struct desc_header h;

	if (position >= r->limit || !desc_at(r, position, &h) || h.desc_index != 0)
		return false;
	if (position % ring + h.batch_blocks > ring || position + h.batch_blocks > r->limit)
		return false;
	b->head = h;
	for (uint32_t i = 0; i < b->head.desc_count; i++) {
		if (!desc_at(r, position + i, &h) || h.desc_index != i ||
		    h.batch_no != b->head.batch_no || h.desc_count != b->head.desc_count ||
		    h.batch_blocks != b->head.batch_blocks)
			return false;
		memcpy(b->desc[i], offline_ring_block(r->offline, position + i), BLOCK_BYTES);
		b->record_bytes[i] = h.record_bytes;
		b->record_count[i] = h.record_count;
	}
	return true;
}

static void batch_taken(struct offline_ring *r)
{
	const struct desc_header *h = &r->batch->head;

	r->position = h->position + h->batch_blocks;
	r->batch_no = h->batch_no + 1;
	r->prev_crc32c = h->crc32c;
	r->prev_known = true;
	r->batch->above_prefix = h->batch_no > r->prefix;
}

static bool batch_follows(struct offline_ring *r, uint64_t position)
{
	if (!batch_at(r, position) || r->batch->head.batch_no != r->batch_no)
		return false;
	if (r->prev_known && r->batch->head.prev_crc32c != r->prev_crc32c)
		return false;
	batch_taken(r);
	return true;
}

bool offline_ring_next(struct offline_ring *r)
{
	uint64_t ring = r->offline->ring_blocks, room = ring - r->position % ring;
	uint64_t missing_first = r->batch_no;

	r->batch->missing_first = r->batch->missing_last = 0;
	if (batch_follows(r, r->position))
		return true;
	if (room < BATCH_BLOCKS_MAX && batch_follows(r, r->position + room))
		return true;
	for (uint64_t p = r->position; p < r->limit; p++) { /* bad blocks were gone past */
		if (batch_follows(r, p))
			return true;
	}
	if (r->prefix < r->batch_no)
		return false;
	for (uint64_t p = r->position; p < r->limit; p++) {
		if (!batch_at(r, p) || r->batch->head.batch_no <= missing_first)
			continue;
		batch_taken(r);
		r->batch->missing_first = missing_first;
		r->batch->missing_last = r->batch->head.batch_no - 1;
		return true;
	}
	r->batch->missing_first = missing_first;
	r->batch->missing_last = r->prefix;
	r->batch_no = r->prefix + 1;
	r->position = r->limit;
	return false;
}

int offline_ring_records(struct offline_ring *r,
			 int (*fn)(void *ctx, const struct log_record *record), void *ctx,
			 struct err *err)
{
	const struct offline_batch *b = r->batch;

	for (uint32_t i = 0; i < b->head.desc_count; i++) {
		const char *at = b->desc[i] + sizeof(struct desc_block);
		size_t left = b->record_bytes[i];
		for (uint32_t n = 0; n < b->record_count[i]; n++) {
			struct log_record record;
			size_t bytes;
			int rc = record_decode(at, left, &record, &bytes, err);
			if (rc == 0)
				rc = fn(ctx, &record);
			if (rc < 0)
				return rc;
			at += bytes;
			left -= bytes;
		}
	}
	return 0;
}
