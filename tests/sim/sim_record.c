/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records of what was written to a disk, and the states that a crash could have left.
 *
 * R1  At a point, the *open* writes are those submitted and not yet durable. A crash leaves the
 *     durable image with any subset of the open writes applied, completed ones in the order of
 *     completion, then those in flight.
 * R2  A flush that completes makes durable the writes that had completed when it was submitted; a
 *     DSYNC write its own blocks, which also ends older completed versions of them.
 * R3  Between two changes of the durable image the set of open writes only grows, and with it the
 *     set of states. Promises only grow too. So it is enough to give every subset at the last mark
 *     (or, without one, at the start) of such a stretch and, after each later submission, the
 *     subsets that hold the new write.
 * R4  A write of several blocks may have arrived in part: its first blocks, or any of them; with
 *     tears_sectors also a part of one block. One write of a state is torn at a time.
 */
#include <stdlib.h>

#include "tests/sim/sim_priv.h"

enum entry_kind { ENTRY_SUBMIT, ENTRY_COMPLETE, ENTRY_MARK };

struct entry {
	enum entry_kind kind;
	uint32_t io;
};

#define NEVER UINT32_MAX

struct record_io {
	bool is_flush;
	bool is_dsync;
	uint64_t block_index;
	uint32_t block_count;
	struct sim_block **block;
	uint32_t submitted; /* entry index */
	uint32_t completed; /* entry index; NEVER: still in flight or failed */
};

struct sim_record {
	struct sim_image *base;
	struct entry *entry;
	uint32_t entry_count;
	uint32_t entry_capacity;
	struct record_io *io;
	uint32_t io_count;
	uint32_t io_capacity;
};

/* ---- recording ---- */

struct sim_record *sim_record_create(struct sim_image *base)
{
	struct sim_record *record = sim_alloc(sizeof(*record));
	record->base = sim_image_clone(base);
	return record;
}

void sim_record_free(struct sim_record *record)
{
	if (!record)
		return;
	for (uint32_t i = 0; i < record->io_count; i++) {
		for (uint32_t b = 0; b < record->io[i].block_count; b++)
			sim_block_put(record->io[i].block[b]);
		free(record->io[i].block);
	}
	sim_image_free(record->base);
	free(record->entry);
	free(record->io);
	free(record);
}

static void entry_add(struct sim_record *record, enum entry_kind kind, uint32_t io)
{
	if (record->entry_count == record->entry_capacity) {
		record->entry_capacity = record->entry_capacity ? 2 * record->entry_capacity : 64;
		record->entry = reallocarray(record->entry, record->entry_capacity,
					     sizeof(record->entry[0]));
		assert(record->entry != NULL);
	}
	record->entry[record->entry_count++] = (struct entry){kind, io};
}

static struct record_io *io_add(struct sim_record *record)
{
	if (record->io_count == record->io_capacity) {
		record->io_capacity = record->io_capacity ? 2 * record->io_capacity : 32;
		record->io = reallocarray(record->io, record->io_capacity, sizeof(record->io[0]));
		assert(record->io != NULL);
	}
	struct record_io *io = &record->io[record->io_count];
	*io = (struct record_io){.submitted = record->entry_count, .completed = NEVER};
	entry_add(record, ENTRY_SUBMIT, record->io_count++);
	return io;
}

uint32_t sim_record_write(struct sim_record *record, uint64_t block_index,
			  struct sim_block *const *blocks, uint32_t count, bool is_dsync)
{
	struct record_io *io = io_add(record);
	io->is_dsync = is_dsync;
	io->block_index = block_index;
	io->block_count = count;
	io->block = sim_alloc(count * sizeof(io->block[0]));
	for (uint32_t i = 0; i < count; i++)
		io->block[i] = sim_block_get(blocks[i]);
	return record->io_count - 1;
}

uint32_t sim_record_flush(struct sim_record *record)
{
	io_add(record)->is_flush = true;
	return record->io_count - 1;
}

void sim_record_complete(struct sim_record *record, uint32_t io_index, int status)
{
	assert(io_index < record->io_count && record->io[io_index].completed == NEVER);
	if (status != 0)
		return;
	record->io[io_index].completed = record->entry_count;
	entry_add(record, ENTRY_COMPLETE, io_index);
}

void sim_record_mark(struct sim_record *record)
{
	entry_add(record, ENTRY_MARK, NEVER);
}

uint32_t sim_record_position(const struct sim_record *record)
{
	return record->entry_count;
}

/* ---- the walk over crash states ---- */

enum emit { EMIT_NONE, EMIT_NEW, EMIT_ALL };

/* One open write at the current point. */
struct open_write {
	uint32_t io;
	bool is_taken;    /* in the subset at hand */
	uint8_t *is_dead; /* per block: a later durable write has its place */
};

struct sim_crash_iter {
	const struct sim_record *record;
	struct sim_crash_options options;
	uint8_t *emit; /* per point */
	struct sim_image *durable;
	struct open_write *open;
	uint32_t open_count;
	uint32_t point;
	/* the state to give next */
	uint64_t subset;
	uint64_t subset_count;
	uint32_t torn_open; /* index into open; == open_count: none, whole writes */
	uint32_t torn_variant;
	struct sim_rng rng;
};

static bool entry_changes_durable(const struct sim_record *record, uint32_t index)
{
	const struct entry *entry = &record->entry[index];
	if (entry->kind != ENTRY_COMPLETE)
		return false;
	return record->io[entry->io].is_flush || record->io[entry->io].is_dsync;
}

/* R3. Point p comes after entry p - 1. */
static void emit_plan(struct sim_crash_iter *iter)
{
	const struct sim_record *record = iter->record;
	uint32_t start = 0;
	while (start <= record->entry_count) {
		uint32_t end = start, last_full = start;
		while (end < record->entry_count && !entry_changes_durable(record, end)) {
			end++;
			if (record->entry[end - 1].kind == ENTRY_MARK)
				last_full = end;
		}
		iter->emit[last_full] = EMIT_ALL;
		for (uint32_t p = last_full + 1; p <= end; p++) {
			const struct entry *entry = &record->entry[p - 1];
			if (entry->kind == ENTRY_SUBMIT && !record->io[entry->io].is_flush)
				iter->emit[p] = EMIT_NEW;
		}
		start = end + 1;
	}
}

static void open_remove(struct sim_crash_iter *iter, uint32_t index)
{
	free(iter->open[index].is_dead);
	iter->open_count--;
	memmove(&iter->open[index], &iter->open[index + 1],
		(iter->open_count - index) * sizeof(iter->open[0]));
}

static uint32_t open_find(const struct sim_crash_iter *iter, uint32_t io)
{
	uint32_t index = 0;
	while (index < iter->open_count && iter->open[index].io != io)
		index++;
	return index;
}

static void open_apply(const struct sim_crash_iter *iter, const struct open_write *open,
		       struct sim_image *image)
{
	const struct record_io *io = &iter->record->io[open->io];
	for (uint32_t b = 0; b < io->block_count; b++)
		if (!open->is_dead[b])
			sim_image_block_set(image, io->block_index + b, io->block[b]);
}

/* R2: older completed versions of a durable write's blocks are over. */
static void open_supersede(struct sim_crash_iter *iter, const struct record_io *durable)
{
	for (uint32_t i = 0; i < iter->open_count; i++) {
		const struct record_io *io = &iter->record->io[iter->open[i].io];
		if (io->completed >= iter->point)
			continue;
		for (uint32_t b = 0; b < io->block_count; b++) {
			uint64_t at = io->block_index + b;
			if (at >= durable->block_index &&
			    at < durable->block_index + durable->block_count)
				iter->open[i].is_dead[b] = true;
		}
	}
}

static void flush_apply(struct sim_crash_iter *iter, const struct record_io *flush)
{
	for (uint32_t i = 0; i < iter->open_count;) {
		if (iter->record->io[iter->open[i].io].completed < flush->submitted) {
			open_apply(iter, &iter->open[i], iter->durable);
			open_remove(iter, i);
		} else {
			i++;
		}
	}
}

/* Completed writes stand in `open` before those in flight, in the order of completion (R1). */
static void write_completed(struct sim_crash_iter *iter, uint32_t index)
{
	uint32_t to = 0;
	while (iter->record->io[iter->open[to].io].completed < iter->point)
		to++;
	struct open_write moved = iter->open[index];
	assert(to <= index);
	memmove(&iter->open[to + 1], &iter->open[to], (index - to) * sizeof(moved));
	iter->open[to] = moved;
}

/* Goes from iter->point to the next one. */
static void point_advance(struct sim_crash_iter *iter)
{
	const struct entry *entry = &iter->record->entry[iter->point];
	const struct record_io *io =
		entry->kind == ENTRY_MARK ? NULL : &iter->record->io[entry->io];
	if (entry->kind == ENTRY_SUBMIT && !io->is_flush) {
		iter->open[iter->open_count++] =
			(struct open_write){entry->io, false, sim_alloc(io->block_count)};
	} else if (entry->kind == ENTRY_COMPLETE && io->is_flush) {
		flush_apply(iter, io);
	} else if (entry->kind == ENTRY_COMPLETE && io->is_dsync) {
		uint32_t index = open_find(iter, entry->io);
		open_apply(iter, &iter->open[index], iter->durable);
		open_remove(iter, index);
		open_supersede(iter, io);
	} else if (entry->kind == ENTRY_COMPLETE) {
		write_completed(iter, open_find(iter, entry->io));
	}
	iter->point++;
}

/* Free choices at this point: all open writes, or all but the newest, which is always taken. */
static uint32_t choice_count(const struct sim_crash_iter *iter)
{
	return iter->open_count - (iter->emit[iter->point] == EMIT_NEW);
}

static bool is_exhaustive(const struct sim_crash_iter *iter)
{
	return choice_count(iter) <= iter->options.exhaustive_bits;
}

static void subset_choose(struct sim_crash_iter *iter)
{
	uint32_t count = choice_count(iter);
	uint64_t s = iter->subset;
	for (uint32_t i = 0; i < iter->open_count; i++) {
		bool is_taken;
		if (i >= count)
			is_taken = true;
		else if (is_exhaustive(iter))
			is_taken = s >> i & 1;
		else if (s < 2)
			is_taken = s;
		else if (s < 2 + (uint64_t)count)
			is_taken = s - 2 != i;
		else if (s < 2 + 2 * (uint64_t)count)
			is_taken = s - 2 - count == i;
		else
			is_taken = sim_rng_below(&iter->rng, 2);
		iter->open[i].is_taken = is_taken;
	}
}

static void subsets_start(struct sim_crash_iter *iter)
{
	uint32_t count = choice_count(iter);
	iter->subset = 0;
	iter->subset_count = is_exhaustive(iter) ? (uint64_t)1 << count
						 : 2 + 2 * (uint64_t)count + iter->options.samples;
	iter->torn_open = iter->open_count;
	subset_choose(iter);
}

/* Variants of one torn write: first blocks only, then one of any blocks, then inside a block. */
static uint32_t torn_variants(const struct sim_crash_iter *iter, uint32_t index)
{
	const struct record_io *io = &iter->record->io[iter->open[index].io];
	if (!iter->open[index].is_taken)
		return 0;
	uint32_t variants = MIN(io->block_count - 1, iter->options.torn_blocks_max);
	if (io->block_count > 2 && iter->options.torn_blocks_max != 0)
		variants++;
	return variants + iter->options.tears_sectors;
}

/* To the next state; false when the point has no more. */
static bool state_advance(struct sim_crash_iter *iter)
{
	uint32_t next = 0;
	if (iter->torn_open < iter->open_count) {
		if (++iter->torn_variant < torn_variants(iter, iter->torn_open))
			return true;
		next = iter->torn_open + 1;
	}
	while (next < iter->open_count && torn_variants(iter, next) == 0)
		next++;
	iter->torn_variant = 0;
	if (next < iter->open_count) {
		iter->torn_open = next;
		return true;
	}
	iter->torn_open = iter->open_count;
	if (++iter->subset >= iter->subset_count)
		return false;
	subset_choose(iter);
	return true;
}

/* Which blocks of a torn write arrive; *sector_block is torn inside (or NEVER). */
static void torn_choose(struct sim_crash_iter *iter, const struct record_io *io, uint8_t *arrives,
			uint32_t *sector_block)
{
	uint32_t firsts = MIN(io->block_count - 1, iter->options.torn_blocks_max);
	uint32_t variant = iter->torn_variant;
	*sector_block = NEVER;
	memset(arrives, 1, io->block_count);
	if (variant < firsts) {
		/* every length when there is room, else spread over the write */
		uint32_t length = 1 + variant;
		if (firsts < io->block_count - 1 && firsts > 1)
			length = 1 + (uint32_t)((uint64_t)variant * (io->block_count - 2) /
						(firsts - 1));
		memset(arrives + length, 0, io->block_count - length);
	} else if (variant == firsts && io->block_count > 2 && iter->options.torn_blocks_max != 0) {
		for (uint32_t b = 0; b < io->block_count; b++)
			arrives[b] = (uint8_t)sim_rng_below(&iter->rng, 2);
	} else {
		*sector_block = (uint32_t)sim_rng_below(&iter->rng, io->block_count);
	}
}

static void torn_apply(struct sim_crash_iter *iter, const struct open_write *open,
		       struct sim_image *image)
{
	const struct record_io *io = &iter->record->io[open->io];
	uint8_t *arrives = sim_alloc(io->block_count);
	uint32_t sector_block;
	torn_choose(iter, io, arrives, &sector_block);
	for (uint32_t b = 0; b < io->block_count; b++) {
		uint64_t at = io->block_index + b;
		if (open->is_dead[b] || !arrives[b])
			continue;
		struct sim_block *fresh = sim_block_get(io->block[b]);
		if (b == sector_block) {
			uint8_t mask = (uint8_t)sim_rng_range(&iter->rng, 1, 254);
			sim_block_put(fresh);
			fresh = sim_block_tear(sim_image_block(image, at), io->block[b], mask);
		}
		sim_image_block_set(image, at, fresh);
		sim_block_put(fresh);
	}
	free(arrives);
}

static void state_describe(const struct sim_crash_iter *iter, struct sim_crash_state *state)
{
	size_t used = (size_t)snprintf(state->text, sizeof(state->text), "point %u subset %lu of",
				       iter->point, (unsigned long)iter->subset);
	for (uint32_t i = 0; i < iter->open_count && used + 24 < sizeof(state->text); i++) {
		const struct open_write *open = &iter->open[i];
		used += (size_t)snprintf(state->text + used, sizeof(state->text) - used, " %s%u",
					 open->is_taken ? "+" : "-", open->io);
		if (i == iter->torn_open)
			used += (size_t)snprintf(state->text + used, sizeof(state->text) - used,
						 "(torn %u)", iter->torn_variant);
	}
}

static void state_make(struct sim_crash_iter *iter, struct sim_crash_state *state)
{
	state->point = iter->point;
	state->image = sim_image_clone(iter->durable);
	for (uint32_t i = 0; i < iter->open_count; i++) {
		if (!iter->open[i].is_taken)
			continue;
		if (i == iter->torn_open)
			torn_apply(iter, &iter->open[i], state->image);
		else
			open_apply(iter, &iter->open[i], state->image);
	}
	state_describe(iter, state);
}

struct sim_crash_iter *sim_crash_iter_create(const struct sim_record *record,
					     const struct sim_crash_options *options)
{
	struct sim_crash_iter *iter = sim_alloc(sizeof(*iter));
	iter->record = record;
	iter->options = *options;
	if (iter->options.exhaustive_bits == 0)
		iter->options.exhaustive_bits = 10;
	assert(iter->options.exhaustive_bits < 32);
	iter->emit = sim_alloc(record->entry_count + 1);
	iter->open = sim_alloc((record->io_count + 1) * sizeof(iter->open[0]));
	iter->durable = sim_image_clone(record->base);
	sim_rng_seed(&iter->rng, options->seed, 7);
	emit_plan(iter);
	if (iter->emit[0] != EMIT_NONE)
		subsets_start(iter);
	return iter;
}

bool sim_crash_iter_next(struct sim_crash_iter *iter, struct sim_crash_state *ret)
{
	while (iter->subset >= iter->subset_count) {
		if (iter->point == iter->record->entry_count)
			return false;
		point_advance(iter);
		if (iter->emit[iter->point] != EMIT_NONE)
			subsets_start(iter);
	}
	state_make(iter, ret);
	(void)state_advance(iter); /* at the end of the point, subset == subset_count */
	return true;
}

void sim_crash_iter_free(struct sim_crash_iter *iter)
{
	if (!iter)
		return;
	while (iter->open_count != 0)
		open_remove(iter, iter->open_count - 1);
	sim_image_free(iter->durable);
	free(iter->emit);
	free(iter->open);
	free(iter);
}
