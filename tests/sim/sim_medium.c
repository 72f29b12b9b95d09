/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a disk holds: the images and the cache between them (sim_disk.c, D1 and D2), and what of it
 * outlives a power cut.
 */
#include <stdlib.h>

#include "tests/sim/sim_disk_priv.h"

static void cached_free(struct sim_disk *disk, struct cached *cached)
{
	list_remove(&cached->link);
	disk->cached_count--;
	sim_block_put(cached->block);
	free(cached);
}

static void cache_drop(struct sim_disk *disk, uint64_t block_index)
{
	list_for_each_safe (node, &disk->cached) {
		struct cached *cached = CONTAINER_OF(node, struct cached, link);
		if (cached->block_index == block_index)
			cached_free(disk, cached);
	}
}

void sim_cache_clear(struct sim_disk *disk)
{
	while (!list_empty(&disk->cached))
		cached_free(disk, CONTAINER_OF(disk->cached.next, struct cached, link));
}

void sim_medium_put(struct sim_disk *disk, uint64_t block_index, struct sim_block *block,
		    bool is_durable)
{
	if (disk->profile.stale_read_ppm != 0) {
		if (!disk->previous)
			disk->previous = sim_image_clone(disk->durable);
		sim_image_block_set(disk->previous, block_index,
				    sim_image_block(disk->current, block_index));
	}
	sim_image_block_set(disk->current, block_index, block);
	if (is_durable) {
		cache_drop(disk, block_index);
		sim_image_block_set(disk->durable, block_index, block);
		return;
	}
	struct cached *cached = sim_alloc(sizeof(*cached));
	cached->block_index = block_index;
	cached->order = disk->order;
	cached->block = sim_block_get(block);
	list_push_back(&disk->cached, &cached->link);
	disk->cached_count++;
}

void sim_medium_flush(struct sim_disk *disk, uint64_t order)
{
	list_for_each_safe (node, &disk->cached) {
		struct cached *cached = CONTAINER_OF(node, struct cached, link);
		if (cached->order > order)
			break;
		sim_image_block_set(disk->durable, cached->block_index, cached->block);
		cached_free(disk, cached);
	}
}

void sim_medium_flush_failed(struct sim_disk *disk, uint64_t order)
{
	list_for_each_safe (node, &disk->cached) {
		struct cached *cached = CONTAINER_OF(node, struct cached, link);
		if (cached->order > order)
			break;
		if (sim_rng_below(&disk->rng, 2))
			sim_image_block_set(disk->durable, cached->block_index, cached->block);
		cached_free(disk, cached);
	}
}

uint32_t sim_medium_survival(struct sim_disk *disk)
{
	static const uint32_t keep_ppm[] = {0, 100000, 500000, 500000, 900000, 1000000};
	return keep_ppm[sim_rng_below(&disk->rng, ARRAY_LEN(keep_ppm))];
}

static void durable_survive(struct sim_disk *disk, uint64_t block_index, struct sim_block *block,
			    uint32_t keep_ppm)
{
	if (disk->profile.tears_sectors && sim_rng_chance(&disk->rng, 200000)) {
		struct sim_block *torn = sim_block_tear(sim_image_block(disk->durable, block_index),
							block, (uint8_t)sim_rng_next(&disk->rng));
		disk->sim->mark[SIM_MARK_DISK_CRASH_TORN_BLOCK]++;
		sim_image_block_set(disk->durable, block_index, torn);
		sim_block_put(torn);
	} else if (sim_rng_chance(&disk->rng, keep_ppm)) {
		sim_image_block_set(disk->durable, block_index, block);
	} else {
		disk->sim->mark[SIM_MARK_DISK_CRASH_LOST_BLOCK]++;
	}
}

void sim_medium_power_cut(struct sim_disk *disk)
{
	uint32_t keep_ppm = sim_medium_survival(disk);
	list_for_each (node, &disk->cached) {
		struct cached *cached = CONTAINER_OF(node, struct cached, link);
		durable_survive(disk, cached->block_index, cached->block, keep_ppm);
	}
	sim_cache_clear(disk);
	keep_ppm = sim_medium_survival(disk);
	list_for_each (node, &disk->ops) {
		struct disk_op *op = CONTAINER_OF(node, struct disk_op, link);
		for (uint32_t i = 0; op->op == ENV_IO_WRITE && i < op->block_count; i++)
			durable_survive(disk, op->block_index + i, op->block[i], keep_ppm);
	}
	sim_image_free(disk->current);
	disk->current = sim_image_clone(disk->durable);
}
