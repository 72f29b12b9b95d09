/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Payload that is written and made durable ahead of its record: base fills and repairs.
 *
 * Such payload is large and nobody waits for it, so it stays out of the batch chain: only when it is
 * durable does its record join a normal batch. A record in the ring therefore never refers to bulk
 * payload that a crash may have torn.
 *
 * R1 Until the record is accepted the bulk owns its places; refused or aborted, they are cancelled.
 */
#include "store/internal.h"

#include <errno.h>
#include <stdlib.h>

int bulk_init(struct store *store)
{
	store->bulks = calloc(BULKS_MAX, sizeof(*store->bulks));
	if (!store->bulks)
		return -ENOMEM;
	for (uint32_t i = 0; i < BULKS_MAX; i++) {
		store->bulks[i].store = store;
		for (uint32_t k = 0; k < ARRAY_LEN(store->bulks[i].ios); k++)
			store->bulks[i].ios[k].bulk = &store->bulks[i];
		list_push_back(&store->bulks_free, &store->bulks[i].link);
	}
	return 0;
}

void bulk_free(struct store *store)
{
	free(store->bulks);
	store->bulks = NULL;
}

static void bulk_start(struct store *store, struct store_op *op);

void bulk_release(struct store *store, struct bulk *bulk)
{
	for (uint32_t i = 0; i < bulk->extent_count; i++)
		space_cancel(store->space, extent_place(bulk->extents[i]),
			     extent_length(bulk->extents[i]));
	bulk->extent_count = 0;
	bulk->busy = false;
	bulk->op = NULL;
	list_push_back(&store->bulks_free, &bulk->link);
	if (!list_empty(&store->bulks_queue) && !store->failed)
		bulk_start(store, op_of(list_pop_front(&store->bulks_queue)));
}

static void bulk_io_done(struct device_io *dio, int status)
{
	struct bulk *bulk = CONTAINER_OF(dio, struct bulk_io, dio)->bulk;
	struct store *store = bulk->store;
	(void)status; /* the store has failed then (device.h) */
	if (--bulk->ios_pending > 0)
		return;
	bulk->busy = false;
	if (bulk->wants_flush && !store->failed) {
		bulk->wants_flush = false;
		bulk->busy = true;
		bulk->ios_pending = 1;
		struct device_io *flush = &bulk->ios[STORE_ENTRY_BLOCKS_MAX].dio;
		flush->io = (struct env_io){.op = ENV_IO_FLUSH};
		flush->done = bulk_io_done;
		device_submit(&store->device, flush);
		return;
	}
	op_submit(store, bulk->op); /* says -EIO or -ECANCELED when that is so */
}

static void bulk_write(struct bulk *bulk, uint64_t place, const void *data, uint32_t blocks)
{
	struct bulk_io *bio = &bulk->ios[bulk->ios_pending++];
	bio->iov.iov_base = (void *)(uintptr_t)data; /* a write: the engine only reads it */
	bio->iov.iov_len = (size_t)blocks * BLOCK_BYTES;
	bio->dio.done = bulk_io_done;
	bio->dio.io = (struct env_io){.op = ENV_IO_WRITE,
				      .offset_bytes = place * BLOCK_BYTES,
				      .iov = &bio->iov,
				      .iov_count = 1};
	bulk->store->counters.blocks_written += blocks;
}

/* Runs of DATA blocks meet runs of places: one write for each piece that is contiguous in both. */
static void bulk_prepare_fill(struct bulk *bulk, const struct store_fill *f)
{
	uint32_t piece = 0, used = 0;
	for (uint32_t i = 0; i < f->length_blocks;) {
		if (f->block_state[i] != STORE_BLOCK_DATA) {
			i++;
			continue;
		}
		uint32_t run = extent_length(bulk->extents[piece]) - used, n = 1;
		while (n < run && i + n < f->length_blocks &&
		       f->block_state[i + n] == STORE_BLOCK_DATA)
			n++;
		bulk_write(bulk, extent_place(bulk->extents[piece]) + used,
			   (const char *)f->buf + (size_t)i * BLOCK_BYTES, n);
		i += n;
		used += n;
		if (used == extent_length(bulk->extents[piece])) {
			piece++;
			used = 0;
		}
	}
}

static int bulk_alloc(struct store *store, struct bulk *bulk, enum space_class class,
		      uint32_t blocks)
{
	struct space_extent extents[STORE_ENTRY_BLOCKS_MAX];
	uint32_t count;
	int rc = space_alloc(store->space, class, blocks, extents, STORE_ENTRY_BLOCKS_MAX, &count);
	if (rc < 0)
		return rc;
	for (uint32_t i = 0; i < count; i++)
		bulk->extents[i] = extent_pack(extents[i].place, extents[i].length_blocks);
	bulk->extent_count = count;
	return 0;
}

static uint32_t fill_data_count(const struct store_fill *f)
{
	uint32_t count = 0;
	for (uint32_t i = 0; i < f->length_blocks; i++)
		count += f->block_state[i] == STORE_BLOCK_DATA;
	return count;
}

static void bulk_start(struct store *store, struct store_op *op)
{
	struct bulk *bulk = CONTAINER_OF(list_pop_front(&store->bulks_free), struct bulk, link);
	bulk->op = op;
	bulk->ios_pending = 0;
	op_private(op)->aux = bulk;
	int rc;
	if (op_private(op)->kind == OP_REPAIR) {
		struct store_repair *repair = CONTAINER_OF(op, struct store_repair, op);
		bulk->old_place = op_private(op)->number;
		op_private(op)->number = 0;
		rc = bulk_alloc(store, bulk, SPACE_INTERNAL, 1);
		if (rc == 0)
			bulk_write(bulk, extent_place(bulk->extents[0]), repair->buf, 1);
	} else {
		struct store_fill *f = CONTAINER_OF(op, struct store_fill, op);
		rc = bulk_alloc(store, bulk, SPACE_NORMAL, fill_data_count(f));
		if (rc == 0)
			bulk_prepare_fill(bulk, f);
	}
	if (rc < 0) {
		op_private(op)->aux = NULL;
		bulk_release(store, bulk);
		op_finish(store, op, rc);
		return;
	}
	bulk->busy = true;
	bulk->wants_flush = bulk->ios_pending > 1;
	uint32_t count = bulk->ios_pending;
	for (uint32_t i = 0; i < count; i++) {
		bulk->ios[i].dio.io.flags = bulk->wants_flush ? 0 : ENV_IO_DSYNC;
		device_submit(&store->device, &bulk->ios[i].dio);
	}
}

void bulk_submit(struct store *store, struct store_op *op)
{
	if (list_empty(&store->bulks_free))
		list_push_back(&store->bulks_queue, &op->link);
	else
		bulk_start(store, op);
}

void bulk_fail_all(struct store *store)
{
	while (!list_empty(&store->bulks_queue))
		op_finish(store, op_of(list_pop_front(&store->bulks_queue)), -EIO);
}

void store_shadow_fill(struct store_replica *replica, struct store_fill *fill)
{
	struct store *store = replica->store;
	op_init(&fill->op, replica, OP_FILL);
	op_private(&fill->op)->ticket = store->ticket_next++;
	uint64_t in_chunk = fill->address_blocks % STORE_CHUNK_BLOCKS;
	if (store->failed || !store->open)
		op_finish(store, &fill->op, -EIO);
	else if (replica->closing)
		op_finish(store, &fill->op, -ECANCELED);
	else if (fill->length_blocks == 0 || in_chunk + fill->length_blocks > STORE_CHUNK_BLOCKS ||
		 fill->address_blocks + fill->length_blocks > STORE_VOLUME_BLOCKS_MAX)
		op_finish(store, &fill->op, -EINVAL);
	else if (!replica->issued.shadow)
		op_finish(store, &fill->op, -ESTALE);
	else if (fill_data_count(fill) == 0)
		op_submit(store, &fill->op);
	else
		bulk_submit(store, &fill->op);
}
