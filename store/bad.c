/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bad-block list: places that failed, never to be used again. It is in the superblock.
 *
 *   a write fails -> the store fails (P4) -> it is quiet -> each block of that write is tried alone ->
 *   what fails again goes on the list -> superblock, both copies -> the next open goes past it
 *
 *   a read of payload fails twice -> on the list in memory, so that the place is not handed out when the
 *   repair frees it -> superblock before the root that frees it
 *
 * R1 Trying a block writes zeros to it. That is safe: a write that failed went to a place that neither a durable
 *    root, nor a stable batch, nor anything acknowledged refers to (S1 of space.h, R3 of ring.c), and the store has
 *    failed with it (V3 of device.c), so nothing was given that place since. The prewriter's failures do not count: its places may be in use since.
 * R2 The list is a help, not a truth that safety hangs on: a crash before it is durable loses the note, the
 *    store runs into the place again, fails again, and notes it then. Nothing acknowledged is ever there.
 * R3 The list only grows. The superblock's copies are written one after the other, each durable before the
 *    next; the one with the higher update counts, so one copy that can be written is enough.
 * R4 When the list has no room for a place that cannot be written, the superblock says so and the store does
 *    not open any more: it would only fail again.
 * R5 The fixed places (superblock, roots) cannot be skipped. Roots have two copies each; when one cannot be
 *    written the store fails and says which.
 */
#include "store/internal.h"

#include <errno.h>

#include "base/log.h"

#define BAD_MAX ((uint32_t)ARRAY_LEN(((struct superblock *)0)->bad))
#define RING_RUN_MIN \
	(2u * BATCH_BLOCKS_MAX) /* wherever the head is in it, a batch fits before or behind */

/* ---- the list in memory: store->super ---- */

uint32_t bad_count(const struct store *store)
{
	return le32_get(store->super->bad_count);
}

/* Index of the first place that is not below. */
static uint32_t bad_at_or_above(const struct store *store, uint64_t place)
{
	uint32_t low = 0, high = bad_count(store);
	while (low < high) {
		uint32_t middle = (low + high) / 2;
		if (le64_get(store->super->bad[middle]) < place)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool bad_known(const struct store *store, uint64_t place)
{
	uint32_t i = bad_at_or_above(store, place);
	return i < bad_count(store) && le64_get(store->super->bad[i]) == place;
}

/* False: no room. */
static bool bad_add(struct store *store, uint64_t place)
{
	struct superblock *sb = store->super;
	uint32_t i = bad_at_or_above(store, place), count = bad_count(store);
	if (count == BAD_MAX)
		return false;
	memmove(&sb->bad[i + 1], &sb->bad[i], (count - i) * sizeof(sb->bad[0]));
	sb->bad[i] = le64_make(place);
	sb->bad_count = le32_make(count + 1);
	return true;
}

static bool place_in_data(const struct store *store, uint64_t place)
{
	return place >= store->data_start && place < store->size_blocks;
}

static bool place_in_log(const struct store *store, uint64_t place)
{
	return place >= PLACE_RING && place < PLACE_RING + store->ring_blocks;
}

/* ---- open ---- */

/* Is at least half of the ring in runs that are long enough? */
static bool ring_usable(const struct store *store)
{
	uint64_t run_start = PLACE_RING, usable = 0;
	for (uint32_t i = 0; i <= bad_count(store); i++) {
		uint64_t end = PLACE_RING + store->ring_blocks;
		if (i < bad_count(store))
			end = MIN(end, le64_get(store->super->bad[i]));
		if (end >= run_start + RING_RUN_MIN)
			usable += end - run_start;
		run_start = end + 1;
	}
	return usable >= store->ring_blocks / 2;
}

int bad_load(struct store *store, struct err *err)
{
	uint64_t overflow = le64_get(store->super->bad_overflow_place);
	store->ring_bad = bad_at_or_above(store, PLACE_RING + store->ring_blocks);
	if (store->config.read_only)
		return 0;
	if (overflow)
		return err_set(
			err, -EIO,
			"block %llu cannot be written and the bad-block list is full (%u): the "
			"device has to be replaced",
			(unsigned long long)overflow, BAD_MAX);
	if (!ring_usable(store))
		return err_set(
			err, -EIO,
			"%u blocks of the log ring are bad, too many to go past them: the device "
			"has to be replaced",
			store->ring_bad);
	for (uint32_t i = store->ring_bad; i < bad_count(store); i++) {
		if (place_in_data(store, le64_get(store->super->bad[i])))
			space_bad(store->space, le64_get(store->super->bad[i]));
	}
	return 0;
}

uint64_t bad_ring_skip(const struct store *store, uint64_t position, uint32_t blocks)
{
	if (store->ring_bad == 0)
		return position;
	uint64_t place = ring_physical(store, position);
	uint32_t i = bad_at_or_above(store, place + blocks);
	if (i == 0 || le64_get(store->super->bad[i - 1]) < place)
		return position;
	return position + (le64_get(store->super->bad[i - 1]) - place) + 1;
}

/* ---- reads ---- */

void bad_read(struct store *store, uint64_t place)
{
	if (!place_in_data(store, place) || bad_known(store, place))
		return; /* a ring block is written again before long, which cures it or tells */
	if (!bad_add(store, place)) {
		log_event(LOG_ERROR, "store", "bad_block_not_noted",
			  "place=%llu reason='list full'", (unsigned long long)place);
		return;
	}
	space_bad(store->space, place);
	store->super_dirty = true;
	log_event(LOG_WARN, "store", "bad_block", "place=%llu by=read", (unsigned long long)place);
}

int bad_flush(struct co *co, struct store *store)
{
	if (!store->super_dirty)
		return 0;
	int rc = super_write(co, store);
	store->super_dirty = rc < 0;
	return rc;
}

/* ---- writes ---- */

/* R1 */
static bool block_fails(struct co *co, struct store *store, uint64_t place)
{
	struct checkpoint *c = &store->checkpoint;
	memset(c->copy, 0, BLOCK_BYTES);
	c->dio.expendable = true;
	int rc = store_io_always(co, store, ENV_IO_WRITE, ENV_IO_DSYNC, place, c->copy, 1);
	c->dio.expendable = false;
	return device_medium_error(rc);
}

static void range_try(struct co *co, struct store *store, const struct device_range *range)
{
	for (uint64_t place = range->place; place < range->place + range->blocks; place++) {
		if ((!place_in_data(store, place) && !place_in_log(store, place)) ||
		    bad_known(store, place) || !block_fails(co, store, place))
			continue;
		log_event(LOG_WARN, "store", "bad_block", "place=%llu by=write",
			  (unsigned long long)place);
		store->super_dirty = true;
		if (!bad_add(store, place))
			store->super->bad_overflow_place = le64_make(place); /* R4 */
	}
}

void bad_after_failure(struct co *co, struct store *store)
{
	struct device *device = &store->device;
	if (store->config.read_only)
		return;
	for (uint32_t i = 0; i < device->failed_count; i++)
		range_try(co, store, &device->failed[i]);
	device->failed_count = 0;
	if (bad_flush(co, store) < 0)
		log_event(LOG_ERROR, "store", "bad_blocks_not_noted",
			  "reason='neither copy of the superblock can be written'");
}
