/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Space of the data area.
 *
 * Life of a block:
 *
 *   free --alloc--> allocated --ref--> referenced --unref--> pinned --root durable--> waiting -->
 * free |  ^----------cancel-----> free       (next or this)     (reads end)
 *                        '--unref (never referenced: superseded before a fold)--> pinned
 *
 * A1  referenced is a subset of allocated; a pinned or waiting block is allocated.
 * A2  Only space_root_durable() and the end of a read free a block that anything may refer to.
 *     Pins made before the cut belong to the root being built (its cut takes them out of
 *     `referenced`); later ones do so only with this_root, when the caller knows the new root
 *     does not refer to them.
 * A3  Reads are counted in two epochs. What a durable root gave up waits for the reads that
 *     began before that moment; when it is given up while others still wait, it waits for its
 *     own turn.
 * A4  A segment is in the bucket of its live count, except unwritten ones of a regular file;
 *     these are used only when nothing else is left.
 * A5  Allocation plans first and marks then, so a refusal changes nothing.
 */
#include "store/space_impl.h"

#include <errno.h>
#include <stdlib.h>

#include "base/log.h"

#define RESERVE_BLOCKS_MIN   1024u
#define RESERVE_BLOCKS_MAX   (1ull << 18) /* 1 GiB */
#define PLAN_SEGMENTS_MAX    4096u        /* looked at for one allocation in order */
#define LONGEST_SEGMENTS_MAX 256u         /* looked at for the longest runs */

/* ---- sizes ---- */

uint32_t space_segment_blocks(const struct space *space, uint32_t segment)
{
	uint64_t start = (uint64_t)segment * SEGMENT_BLOCKS;
	return (uint32_t)MIN((uint64_t)SEGMENT_BLOCKS, space->capacity - start);
}

static size_t bitmap_bytes(const struct space *space)
{
	return (size_t)space->segment_count * SEGMENT_WORDS * sizeof(uint64_t);
}

static size_t summary_bytes(const struct space *space)
{
	return DIV_UP((size_t)space->segment_count, 64) * sizeof(uint64_t);
}

/* ---- buckets ---- */

static void bucket_insert(struct space *space, uint32_t i)
{
	struct segment *segment = &space->segments[i];
	uint32_t bucket = segment->live;
	uint32_t head = space->bucket_head[bucket];

	segment->prev = SEGMENT_NONE;
	segment->next = head;
	if (head != SEGMENT_NONE)
		space->segments[head].prev = i;
	space->bucket_head[bucket] = i;
	bit_set(space->bucket_bits, bucket);
}

static void bucket_remove(struct space *space, uint32_t i)
{
	struct segment *segment = &space->segments[i];
	uint32_t bucket = segment->live;

	if (segment->prev != SEGMENT_NONE)
		space->segments[segment->prev].next = segment->next;
	else
		space->bucket_head[bucket] = segment->next;
	if (segment->next != SEGMENT_NONE)
		space->segments[segment->next].prev = segment->prev;
	if (space->bucket_head[bucket] == SEGMENT_NONE)
		bit_clear(space->bucket_bits, bucket);
}

/* First non-empty bucket at or above `from`; BUCKETS when there is none. */
static uint32_t bucket_find(const struct space *space, uint32_t from)
{
	for (uint32_t word = from / 64; word < ARRAY_LEN(space->bucket_bits); word++) {
		uint64_t bits = space->bucket_bits[word];
		if (word == from / 64)
			bits &= ~0ull << (from % 64);
		if (bits)
			return word * 64 + (uint32_t)__builtin_ctzll(bits);
	}
	return BUCKETS;
}

static void segment_live_add(struct space *space, uint32_t i, int32_t blocks)
{
	bool listed = !(space->segments[i].flags & SEGMENT_UNWRITTEN);

	if (listed)
		bucket_remove(space, i);
	space->segments[i].live = (uint16_t)(space->segments[i].live + blocks);
	if (listed)
		bucket_insert(space, i);
}

void space_segment_written(struct space *space, uint32_t i)
{
	if (!(space->segments[i].flags & SEGMENT_UNWRITTEN))
		return;
	space->segments[i].flags = 0;
	bucket_insert(space, i);
	while (space->unwritten_next < space->segment_count &&
	       !(space->segments[space->unwritten_next].flags & SEGMENT_UNWRITTEN))
		space->unwritten_next++;
}

void space_recount(struct space *space)
{
	for (uint32_t i = 0; i < BUCKETS; i++)
		space->bucket_head[i] = SEGMENT_NONE;
	memset(space->bucket_bits, 0, sizeof(space->bucket_bits));
	space->allocated_count = 0;
	space->referenced_count = 0;
	space->unwritten_next = space->segment_count;
	for (uint32_t i = space->segment_count; i-- > 0;) {
		uint32_t live = 0, referenced = 0;
		for (uint32_t w = 0; w < SEGMENT_WORDS; w++) {
			size_t at = (size_t)i * SEGMENT_WORDS + w;
			live += (uint32_t)__builtin_popcountll(space->allocated[at]);
			referenced += (uint32_t)__builtin_popcountll(space->referenced[at]);
		}
		live -= SEGMENT_BLOCKS -
			space_segment_blocks(space, i); /* the tail that does not exist */
		space->segments[i].live = (uint16_t)live;
		space->allocated_count += live;
		space->referenced_count += referenced;
		if (live > 0)
			space->segments[i].flags = 0;
		if (space->segments[i].flags & SEGMENT_UNWRITTEN)
			space->unwritten_next = i;
		else
			bucket_insert(space, i);
	}
	space->open = SEGMENT_NONE;
	space->open_cursor = 0;
}

/* ---- life ---- */

static bool pins_create(const struct space *space, struct pins *pins)
{
	pins->bits = lazy_alloc(bitmap_bytes(space));
	pins->summary = lazy_alloc(summary_bytes(space));
	return pins->bits && pins->summary;
}

static void pins_destroy(const struct space *space, struct pins *pins)
{
	lazy_free(pins->bits, bitmap_bytes(space));
	lazy_free(pins->summary, summary_bytes(space));
}

static bool space_allocate_memory(struct space *space)
{
	size_t table_words = DIV_UP((size_t)space->table_count, 64);

	space->allocated = lazy_alloc(bitmap_bytes(space));
	space->referenced = lazy_alloc(bitmap_bytes(space));
	space->segments = calloc(space->segment_count, sizeof(space->segments[0]));
	space->tables = calloc(space->table_count, sizeof(space->tables[0]));
	space->table_dirty = calloc(table_words, sizeof(uint64_t));
	space->table_placed = calloc(table_words, sizeof(uint64_t));
	space->dir_places = calloc(space->dir_count, sizeof(uint64_t));
	space->writer = writer_create(space->device);
	bool pins = pins_create(space, &space->pin_next) && pins_create(space, &space->pin_this) &&
		    pins_create(space, &space->waiting) && pins_create(space, &space->pending) &&
		    pins_create(space, &space->bad);
	return pins && space->allocated && space->referenced && space->segments && space->tables &&
	       space->table_dirty && space->table_placed && space->dir_places && space->writer;
}

struct space *space_create(struct device *device, const struct space_geometry *geometry)
{
	assert(geometry->size_blocks > geometry->data_start);
	struct space *space = calloc(1, sizeof(*space));
	if (!space)
		return NULL;
	space->device = device;
	space->store_uuid = geometry->store_uuid;
	space->data_start = geometry->data_start;
	space->size_blocks = geometry->size_blocks;
	space->capacity = geometry->size_blocks - geometry->data_start;
	space->segment_count = (uint32_t)DIV_UP(space->capacity, SEGMENT_BLOCKS);
	space->table_count = DIV_UP(space->segment_count, SEGMENTS_PER_TABLE_BLOCK);
	space->dir_count =
		(uint32_t)DIV_UP(space->table_count, TABLE_ENTRY_BYTES / sizeof(struct block_ptr));
	uint64_t reserve = MAX(space->capacity / 50, (uint64_t)RESERVE_BLOCKS_MIN);
	space->reserve = MIN(MIN(reserve, RESERVE_BLOCKS_MAX), space->capacity / 4);
	if (!space_allocate_memory(space)) {
		space_destroy(space);
		return NULL;
	}
	for (uint64_t i = space->capacity; i < (uint64_t)space->segment_count * SEGMENT_BLOCKS; i++)
		bit_set(space->allocated, i); /* beyond the end */
	uint64_t written = geometry->prewrite ? geometry->written_blocks : geometry->size_blocks;
	for (uint32_t i = 0; i < space->segment_count; i++) {
		uint64_t end = (uint64_t)i * SEGMENT_BLOCKS + space_segment_blocks(space, i);
		if (space->data_start + end > written)
			space->segments[i].flags = SEGMENT_UNWRITTEN;
	}
	space_recount(space);
	return space;
}

void space_destroy(struct space *space)
{
	if (!space)
		return;
	lazy_free(space->allocated, bitmap_bytes(space));
	lazy_free(space->referenced, bitmap_bytes(space));
	pins_destroy(space, &space->pin_next);
	pins_destroy(space, &space->pin_this);
	pins_destroy(space, &space->waiting);
	pins_destroy(space, &space->pending);
	pins_destroy(space, &space->bad);
	free(space->segments);
	free(space->tables);
	free(space->table_dirty);
	free(space->table_placed);
	free(space->dir_places);
	writer_destroy(space->writer);
	batch_io_destroy(space->loading);
	env_timer_cancel(space->device->env, &space->prewrite.timer);
	lazy_free(space->prewrite.zeros, SEGMENT_BLOCKS / 4 * BLOCK_BYTES);
	free(space);
}

/* ---- planning an allocation ---- */

/* The first free run at or after `from` in the segment; its length, 0 when there is none. */
static uint32_t segment_run(const struct space *space, uint32_t segment, uint32_t from,
			    uint32_t *ret_start)
{
	const uint64_t *words = space->allocated + (size_t)segment * SEGMENT_WORDS;
	uint32_t start = SEGMENT_BLOCKS, end = SEGMENT_BLOCKS;

	for (uint32_t w = from / 64; w < SEGMENT_WORDS && start == SEGMENT_BLOCKS; w++) {
		uint64_t free_bits = ~words[w];
		if (w == from / 64)
			free_bits &= ~0ull << (from % 64);
		if (free_bits)
			start = w * 64 + (uint32_t)__builtin_ctzll(free_bits);
	}
	if (start == SEGMENT_BLOCKS)
		return 0;
	for (uint32_t w = start / 64; w < SEGMENT_WORDS && end == SEGMENT_BLOCKS; w++) {
		uint64_t used_bits = words[w];
		if (w == start / 64)
			used_bits &= ~0ull << (start % 64);
		if (used_bits)
			end = w * 64 + (uint32_t)__builtin_ctzll(used_bits);
	}
	*ret_start = start;
	return end - start;
}

struct plan {
	struct space_extent *extents;
	uint32_t extents_max;
	uint32_t extent_count;
	uint32_t wanted; /* blocks still missing */
	bool full;       /* extents_max runs are not enough */
};

static void plan_run(const struct space *space, struct plan *plan, uint64_t block, uint32_t length)
{
	uint32_t taken = MIN(length, plan->wanted);
	uint64_t place = space->data_start + block;
	uint32_t n = plan->extent_count;

	if (n > 0 && plan->extents[n - 1].place + plan->extents[n - 1].length_blocks == place) {
		plan->extents[n - 1].length_blocks += taken;
	} else if (n == plan->extents_max) {
		plan->full = true;
		return;
	} else {
		plan->extents[plan->extent_count++] = (struct space_extent){place, taken};
	}
	plan->wanted -= taken;
}

static void plan_segment(const struct space *space, struct plan *plan, uint32_t segment,
			 uint32_t from)
{
	uint32_t start;

	while (plan->wanted > 0 && !plan->full && from < SEGMENT_BLOCKS) {
		uint32_t length = segment_run(space, segment, from, &start);
		if (length == 0)
			return;
		plan_run(space, plan, (uint64_t)segment * SEGMENT_BLOCKS + start, length);
		from = start + length;
	}
}

/* Goes through the segments by rising live count, at most `limit`; false from fn ends it. */
static void segments_each(const struct space *space, uint32_t limit,
			  bool (*fn)(const struct space *, void *ctx, uint32_t segment), void *ctx)
{
	for (uint32_t bucket = bucket_find(space, 0); bucket < SEGMENT_BLOCKS;
	     bucket = bucket_find(space, bucket + 1)) {
		for (uint32_t i = space->bucket_head[bucket]; i != SEGMENT_NONE;
		     i = space->segments[i].next) {
			if (limit-- == 0 || !fn(space, ctx, i))
				return;
		}
	}
}

static bool plan_in_order_step(const struct space *space, void *ctx, uint32_t segment)
{
	struct plan *plan = ctx;

	if (segment != space->open)
		plan_segment(space, plan, segment, 0);
	return plan->wanted > 0 && !plan->full;
}

static void plan_in_order(const struct space *space, struct plan *plan)
{
	if (space->open != SEGMENT_NONE)
		plan_segment(space, plan, space->open, space->open_cursor);
	if (plan->wanted > 0 && !plan->full)
		segments_each(space, PLAN_SEGMENTS_MAX, plan_in_order_step, plan);
	/* What the open segment freed behind the cursor: last, so that writes go forward. */
	if (plan->wanted == 0 || plan->full || space->open == SEGMENT_NONE)
		return;
	uint32_t from = 0, start;
	while (plan->wanted > 0 && !plan->full) {
		uint32_t length = segment_run(space, space->open, from, &start);
		if (length == 0 || start >= space->open_cursor)
			return;
		length = MIN(length, space->open_cursor - start);
		plan_run(space, plan, (uint64_t)space->open * SEGMENT_BLOCKS + start, length);
		from = start + length;
	}
}

/* Keeps the extents_max longest runs seen, longest first. */
static bool plan_longest_step(const struct space *space, void *ctx, uint32_t segment)
{
	struct plan *plan = ctx;
	uint32_t from = 0, start;

	for (;;) {
		uint32_t length =
			from < SEGMENT_BLOCKS ? segment_run(space, segment, from, &start) : 0;
		if (length == 0)
			return true;
		from = start + length;
		uint32_t n = plan->extent_count;
		if (n == plan->extents_max && plan->extents[n - 1].length_blocks >= length)
			continue;
		if (n < plan->extents_max)
			plan->extent_count = ++n;
		uint32_t i = n - 1;
		for (; i > 0 && plan->extents[i - 1].length_blocks < length; i--)
			plan->extents[i] = plan->extents[i - 1];
		uint64_t block = (uint64_t)segment * SEGMENT_BLOCKS + start;
		plan->extents[i] = (struct space_extent){space->data_start + block, length};
	}
}

static void plan_longest(const struct space *space, struct plan *plan)
{
	segments_each(space, LONGEST_SEGMENTS_MAX, plan_longest_step, plan);
	uint32_t used = 0;
	while (used < plan->extent_count && plan->wanted > 0) {
		struct space_extent *extent = &plan->extents[used++];
		extent->length_blocks = MIN(extent->length_blocks, plan->wanted);
		plan->wanted -= extent->length_blocks;
	}
	plan->extent_count = used;
}

/* ---- allocation ---- */

static bool class_allows(const struct space *space, enum space_class class, uint32_t count)
{
	uint64_t free_blocks = space->capacity - space->allocated_count;
	uint64_t promised = (uint64_t)MAX(space->promised, 0);
	uint64_t kept = 0;

	if (class == SPACE_NORMAL)
		kept = space->reserve + promised;
	else if (class == SPACE_OVERWRITE)
		kept = space->reserve / 2 + promised;
	return free_blocks >= count && free_blocks - count >= kept;
}

static void mark_allocated(struct space *space, uint64_t block, uint32_t count)
{
	while (count > 0) {
		uint32_t segment = (uint32_t)(block / SEGMENT_BLOCKS);
		uint32_t at = (uint32_t)(block % SEGMENT_BLOCKS);
		uint32_t n = MIN(count, SEGMENT_BLOCKS - at);

		for (uint32_t i = 0; i < n; i++) {
			assert(!bit_get(space->allocated, block + i));
			bit_set(space->allocated, block + i);
		}
		segment_live_add(space, segment, (int32_t)n);
		space->open = segment;
		space->open_cursor = at + n;
		space->allocated_count += n;
		block += n;
		count -= n;
	}
}

static bool plan_blocks(struct space *space, uint32_t count, struct plan *plan)
{
	struct plan start = *plan;

	start.wanted = count;
	*plan = start;
	plan_in_order(space, plan);
	if (plan->wanted == 0)
		return true;
	*plan = start;
	plan_longest(space, plan);
	return plan->wanted == 0;
}

int space_alloc(struct space *space, enum space_class class, uint32_t count,
		struct space_extent *extents, uint32_t extents_max, uint32_t *ret_count)
{
	struct plan plan = {.extents = extents, .extents_max = extents_max};

	if (count == 0) {
		*ret_count = 0;
		return 0;
	}
	if (extents_max == 0 || !class_allows(space, class, count))
		return -ENOSPC;
	while (!plan_blocks(space, count, &plan)) {
		/* A4: take an unwritten segment, the one that the prewriter is at last. */
		uint32_t i = space->unwritten_next;
		while (i < space->segment_count && (space->segments[i].flags != SEGMENT_UNWRITTEN))
			i++;
		if (i < space->segment_count)
			space_segment_written(space, i);
		else if (!space_prewrite_yield(space))
			return -ENOSPC;
		plan = (struct plan){.extents = extents, .extents_max = extents_max};
	}
	for (uint32_t i = 0; i < plan.extent_count; i++)
		mark_allocated(space, extents[i].place - space->data_start,
			       extents[i].length_blocks);
	*ret_count = plan.extent_count;
	return 0;
}

static void free_block(struct space *space, uint64_t block)
{
	assert(bit_get(space->allocated, block) && !bit_get(space->referenced, block));
	if (bit_get(space->bad.bits, block))
		return;
	bit_clear(space->allocated, block);
	segment_live_add(space, (uint32_t)(block / SEGMENT_BLOCKS), -1);
	space->allocated_count--;
}

static bool in_data_area(const struct space *space, uint64_t place, uint32_t count)
{
	return place >= space->data_start && place < space->size_blocks &&
	       count <= space->size_blocks - place;
}

static void claim_block(struct space *space, uint64_t block)
{
	uint32_t segment = (uint32_t)(block / SEGMENT_BLOCKS);
	if (bit_get(space->allocated, block))
		return;
	space_segment_written(space, segment);
	bit_set(space->allocated, block);
	segment_live_add(space, segment, 1);
	space->allocated_count++;
}

int space_claim(struct space *space, uint64_t place, uint32_t count)
{
	if (!in_data_area(space, place, count))
		return -EUCLEAN;
	for (uint64_t block = place - space->data_start; count > 0; block++, count--)
		claim_block(space, block);
	return 0;
}

void space_cancel(struct space *space, uint64_t place, uint32_t count)
{
	assert(in_data_area(space, place, count));
	for (uint64_t block = place - space->data_start; count > 0; block++, count--)
		free_block(space, block);
}

void space_promise(struct space *space, int64_t blocks)
{
	space->promised += blocks;
}

/* ---- references and pins ---- */

static bool pins_add(struct pins *pins, uint64_t block)
{
	if (bit_get(pins->bits, block))
		return false;
	bit_set(pins->bits, block);
	bit_set(pins->summary, block / SEGMENT_BLOCKS);
	pins->count++;
	return true;
}

void space_bad(struct space *space, uint64_t place)
{
	assert(in_data_area(space, place, 1));
	pins_add(&space->bad, place - space->data_start);
	claim_block(space, place - space->data_start);
}

static void pins_take_back(struct pins *pins, uint64_t block)
{
	if (!bit_get(pins->bits, block))
		return;
	bit_clear(pins->bits, block);
	pins->count--;
}

/* Empties pins, fn for each block. */
static void pins_drain(struct space *space, struct pins *pins,
		       void (*fn)(struct space *space, uint64_t block))
{
	for (uint32_t w = 0; pins->count > 0 && w < DIV_UP(space->segment_count, 64); w++) {
		while (pins->summary[w]) {
			uint32_t segment = w * 64 + (uint32_t)__builtin_ctzll(pins->summary[w]);
			uint64_t *words = pins->bits + (size_t)segment * SEGMENT_WORDS;
			pins->summary[w] &= pins->summary[w] - 1;
			for (uint32_t i = 0; i < SEGMENT_BLOCKS; i++) {
				if (!bit_get(words, i))
					continue;
				bit_clear(words, i);
				pins->count--;
				fn(space, (uint64_t)segment * SEGMENT_BLOCKS + i);
			}
		}
	}
	assert(pins->count == 0);
}

static void unreference(struct space *space, uint64_t block)
{
	if (!bit_get(space->referenced, block))
		return;
	bit_clear(space->referenced, block);
	space->referenced_count--;
	space_table_dirty(space, block);
}

void space_ref(struct space *space, uint64_t place, uint32_t count)
{
	if (place < space->data_start)
		return;
	assert(in_data_area(space, place, count));
	for (uint64_t block = place - space->data_start; count > 0; block++, count--) {
		assert(bit_get(space->allocated, block));
		pins_take_back(&space->pin_this, block);
		if (bit_get(space->referenced, block))
			continue;
		bit_set(space->referenced, block);
		space->referenced_count++;
		space_table_dirty(space, block);
	}
}

static bool is_pinned(const struct space *space, uint64_t block)
{
	return bit_get(space->pin_this.bits, block) || bit_get(space->pin_next.bits, block) ||
	       bit_get(space->waiting.bits, block) || bit_get(space->pending.bits, block);
}

void space_unref(struct space *space, uint64_t place, uint32_t count, bool this_root)
{
	if (place < space->data_start)
		return;
	for (; count > 0; place++, count--) {
		uint64_t block = place - space->data_start;
		if (!in_data_area(space, place, 1) || !bit_get(space->allocated, block) ||
		    is_pinned(space, block)) {
			if (space->unref_errors++ == 0)
				log_event(LOG_ERROR, "store", "unref_twice", "place=%llu",
					  (unsigned long long)place);
			continue;
		}
		if (this_root && space->cut) {
			unreference(space, block);
			pins_add(&space->pin_this, block);
		} else {
			pins_add(&space->pin_next, block);
		}
	}
}

/* ---- checkpoint ---- */

void space_cut(struct space *space)
{
	assert(!space->cut && space->pin_this.count == 0);
	struct pins empty = space->pin_this;

	/* Once through pin_next: into pin_this, out of `referenced`. The sets swap places, so a
	 * walk that keeps the bits is needed. */
	space->pin_this = space->pin_next;
	space->pin_next = empty;
	space->cut = true;
	for (uint32_t segment = 0; segment < space->segment_count; segment++) {
		if (space->pin_this.summary[segment / 64] == 0) {
			segment |= 63;
			continue;
		}
		if (!bit_get(space->pin_this.summary, segment))
			continue;
		for (uint32_t i = 0; i < SEGMENT_BLOCKS; i++) {
			uint64_t block = (uint64_t)segment * SEGMENT_BLOCKS + i;
			if (bit_get(space->pin_this.bits, block))
				unreference(space, block);
		}
	}
}

static void move_to_waiting(struct space *space, uint64_t block)
{
	pins_add(&space->waiting, block);
}

static void move_to_pending(struct space *space, uint64_t block)
{
	pins_add(&space->pending, block);
}

/* A3. `waiting` waits for the reads of the epoch that is not current. */
static void release(struct space *space)
{
	while (space->readers[space->read_epoch ^ 1] == 0) {
		pins_drain(space, &space->waiting, free_block);
		if (space->pending.count == 0)
			return;
		pins_drain(space, &space->pending, move_to_waiting);
		space->read_epoch ^= 1;
	}
}

void space_root_durable(struct space *space)
{
	assert(space->cut);
	space->cut = false;
	pins_drain(space, &space->pin_this, move_to_pending);
	release(space);
}

uint64_t space_read_begin(struct space *space)
{
	space->readers[space->read_epoch]++;
	return space->read_epoch;
}

void space_read_end(struct space *space, uint64_t token)
{
	assert(token <= 1 && space->readers[token] > 0);
	space->readers[token]--;
	if (space->readers[token] == 0 && token != space->read_epoch)
		release(space);
}

/* ---- questions ---- */

uint64_t space_data_start(const struct space *space)
{
	return space->data_start;
}

uint64_t space_end(const struct space *space)
{
	return space->size_blocks;
}

uint64_t space_spare(const struct space *space)
{
	uint64_t free_blocks = space->capacity - space->allocated_count;
	uint64_t promised = (uint64_t)MAX(space->promised, 0);
	return free_blocks > promised ? free_blocks - promised : 0;
}

void space_info(const struct space *space, struct space_info *ret)
{
	*ret = (struct space_info){
		.capacity_blocks = space->capacity,
		.allocated_blocks = space->allocated_count,
		.referenced_blocks = space->referenced_count,
		.pinned_blocks = space->pin_next.count + space->pin_this.count +
				 space->waiting.count + space->pending.count,
		.reserve_blocks = space->reserve,
		.promised_blocks = (uint64_t)MAX(space->promised, 0),
		.unref_errors = space->unref_errors,
		.table_blocks_written = writer_blocks(space->writer),
	};
	for (uint32_t i = space->bucket_head[0]; i != SEGMENT_NONE; i = space->segments[i].next)
		ret->free_segments++;
	uint64_t written = MIN((uint64_t)space->unwritten_next * SEGMENT_BLOCKS, space->capacity);
	ret->written_blocks = space->data_start + written;
}

bool space_is_referenced(const struct space *space, uint64_t place)
{
	return in_data_area(space, place, 1) &&
	       bit_get(space->referenced, place - space->data_start);
}

bool space_is_allocated(const struct space *space, uint64_t place)
{
	return in_data_area(space, place, 1) &&
	       bit_get(space->allocated, place - space->data_start);
}
