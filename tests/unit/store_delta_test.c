/* SPDX-License-Identifier: Apache-2.0 */
/* Deltas against an array: random puts and zeros in any order of seq; memory, promises, places
 * given up. */
#include "tests/unit/test.h"

#include "tests/unit/mem_env.h"

#include "store/delta.h"

#define BLOCKS        20000u
#define DATA_START    32u
#define DEVICE_BLOCKS 200000u

struct model_block {
	uint64_t seq;
	uint64_t place; /* 0: zero */
	bool known;
};

struct bed {
	struct mem_env *mem;
	struct space *space;
	struct delta_pool *pool;
	struct delta delta;
	struct model_block model[BLOCKS];
};

static uint64_t rnd(struct bed *bed, uint64_t below)
{
	return mem_random(&bed->mem->env) % below;
}

static struct bed *bed_open(uint64_t seed, uint64_t pool_bytes)
{
	struct bed *bed = calloc(1, sizeof(*bed));
	bed->mem = mem_env_create(1 << 20, seed);
	struct space_geometry geometry = {.data_start = DATA_START, .size_blocks = DEVICE_BLOCKS};
	bed->space = space_create(&bed->mem->device, &geometry);
	bed->pool = delta_pool_create(pool_bytes);
	delta_init(&bed->delta, bed->pool, bed->space);
	return bed;
}

static void bed_close(struct bed *bed)
{
	delta_clear(&bed->delta, false);
	CHECK_EQ(delta_pool_used_bytes(bed->pool), 0);
	delta_pool_destroy(bed->pool);
	space_destroy(bed->space);
	mem_env_destroy(bed->mem);
	free(bed);
}

static uint64_t new_place(struct bed *bed)
{
	struct space_extent extent;
	uint32_t count;
	CHECK_EQ(space_alloc(bed->space, SPACE_INTERNAL, 1, &extent, 1, &count), 0);
	return extent.place;
}

static void put(struct bed *bed, uint64_t block, uint64_t seq)
{
	struct delta_entry entry = {.block = block, .place = new_place(bed), .seq = seq};
	struct model_block *m = &bed->model[block];
	CHECK_EQ(delta_put(&bed->delta, &entry), 0);
	if (!m->known || m->seq <= seq)
		*m = (struct model_block){seq, entry.place, true};
}

static void zero(struct bed *bed, uint64_t block, uint64_t length, uint64_t seq)
{
	struct delta_entry entry = {.block = block, .length_blocks = length, .seq = seq};
	CHECK_EQ(delta_zero(&bed->delta, &entry), 0);
	for (uint64_t i = block; i < block + length; i++) {
		struct model_block *m = &bed->model[i];
		if (!m->known || m->seq <= seq)
			*m = (struct model_block){seq, 0, true};
	}
}

/* The array, the delta, what space holds and what was promised all agree. */
static void check(struct bed *bed)
{
	struct delta_entry entry, previous = {0};
	struct delta_cursor cursor;
	struct space_info info;
	uint64_t live = 0, chunks = 0, last_chunk = UINT64_MAX;
	for (uint64_t i = 0; i < BLOCKS; i++) {
		bool known = delta_find(&bed->delta, i, &entry);
		CHECK(known == bed->model[i].known, "block %llu", (unsigned long long)i);
		if (!known)
			continue;
		CHECK_EQ(entry.seq, bed->model[i].seq);
		CHECK_EQ(entry.place, bed->model[i].place);
		live += entry.place != 0;
	}
	delta_cursor_start(&cursor, &bed->delta, 0);
	for (bool first = true; delta_cursor_next(&cursor, &entry); first = false) {
		CHECK(first || entry.block > previous.block);
		previous = entry;
		chunks += entry.block / 256 != last_chunk;
		last_chunk = entry.block / 256;
	}
	uint64_t end = 0;
	for (uint64_t at = 0; delta_zero_seek(&bed->delta, at, &entry); at = end) {
		CHECK(entry.block >= end && entry.length_blocks > 0);
		end = entry.block + entry.length_blocks;
		chunks += 2;
	}
	space_info(bed->space, &info);
	CHECK_EQ(info.allocated_blocks - info.pinned_blocks, live);
	CHECK_EQ(info.unref_errors, 0);
	CHECK(info.promised_blocks >= chunks);
	CHECK_EQ(info.promised_blocks, bed->delta.promised);
	space_cut(bed->space);
	space_root_durable(bed->space);
}

TEST(delta, random_entries_in_any_order_match_an_array)
{
	for (uint64_t seed = 1; seed <= 8; seed++) {
		struct bed *bed = bed_open(seed, 4 << 20);
		for (uint64_t i = 0; i < 6000; i++) {
			uint64_t block = rnd(bed, BLOCKS), seq = 1000 + i - rnd(bed, 40) * (i % 3);
			uint64_t length = 1 + rnd(bed, rnd(bed, 9) ? 30 : 6000);
			if (rnd(bed, 4))
				put(bed, block, seq);
			else
				zero(bed, block, MIN(BLOCKS - block, length), seq);
			if (i % 997 == 0)
				check(bed);
		}
		check(bed);
		bed_close(bed);
	}
}

TEST(delta, ascending_entries_fill_their_nodes)
{
	struct bed *bed = bed_open(1, 4 << 20);
	for (uint64_t i = 0; i < BLOCKS; i++)
		put(bed, i, i + 1);
	CHECK(delta_bytes(&bed->delta) < BLOCKS * 26);
	bed_close(bed);
}

TEST(delta, a_huge_zero_costs_one_extent_and_leaves_a_marker_per_chunk)
{
	struct bed *bed = bed_open(1, 4 << 20);
	struct delta_entry entry = {.length_blocks = 1ull << 34, .seq = 90000};
	for (uint64_t i = 0; i < BLOCKS; i++)
		put(bed, i, i + 1);
	CHECK_EQ(delta_zero(&bed->delta, &entry), 0);
	CHECK_EQ(bed->delta.data.entry_count, DIV_UP(BLOCKS, 256u));
	CHECK_EQ(bed->delta.zero.entry_count, 1);
	CHECK_EQ(bed->delta.promised, DIV_UP(BLOCKS, 256u) + 2);
	CHECK(delta_find(&bed->delta, 1ull << 33, &entry) && entry.place == 0);
	bed_close(bed);
}

TEST(delta, a_full_pool_refuses_and_changes_nothing)
{
	struct bed *bed = bed_open(1, 1);
	struct delta_entry entry = {.place = 1, .seq = 1}, found;
	uint64_t count = 0;
	while (delta_put(&bed->delta, &entry) == 0) {
		CHECK(count < 100000);
		entry.block += 7;
		count++;
	}
	CHECK(delta_pool_full(bed->pool));
	CHECK(count > 1000 && bed->delta.data.entry_count == count);
	CHECK(!delta_find(&bed->delta, entry.block, &found));
	for (uint64_t i = 0; i < count; i++)
		CHECK(delta_find(&bed->delta, i * 7, &found));
	bed_close(bed);
}

TEST(delta, a_destaged_entry_keeps_all_but_its_place)
{
	struct bed *bed = bed_open(1, 1);
	struct delta_entry entry = {.block = 5, .place = 17, .seq = 3, .crc32c = 4}, found;
	CHECK_EQ(delta_put(&bed->delta, &entry), 0);
	CHECK_EQ(bed->delta.promised, 2); /* a page, and room for the payload */
	delta_move(&bed->delta, 5, 5000);
	CHECK(delta_find(&bed->delta, 5, &found));
	CHECK(found.place == 5000 && found.seq == 3 && found.crc32c == 4);
	CHECK_EQ(bed->delta.promised, 1);
	bed_close(bed);
}

/* Chunks leave one after the other: what is left stays right, and the memory comes back with them. */
TEST(delta, chunks_that_are_dropped_give_their_memory_back)
{
	for (uint64_t seed = 1; seed <= 4; seed++) {
		struct bed *bed = bed_open(seed, 4 << 20);
		for (uint64_t i = 0; i < 8000; i++)
			put(bed, rnd(bed, BLOCKS), i + 1);
		uint64_t full = delta_bytes(&bed->delta), chunks = DIV_UP(BLOCKS, 256u);
		for (uint64_t chunk = 0; chunk < chunks; chunk++) {
			if (chunk % 8 == 0)
				continue;
			uint32_t expected = 0;
			for (uint64_t i = chunk * 256; i < MIN(BLOCKS, (chunk + 1) * 256); i++) {
				struct model_block *m = &bed->model[i];
				expected += m->known;
				if (m->known)
					space_unref(bed->space, m->place, 1,
						    false); /* not the delta's any more */
				m->known = false;
			}
			CHECK_EQ(delta_chunk_count(&bed->delta, chunk), expected);
			delta_chunk_drop(&bed->delta, chunk);
			CHECK_EQ(delta_chunk_count(&bed->delta, chunk), 0);
		}
		check(bed);
		CHECK(delta_bytes(&bed->delta) < full / 4, "%llu of %llu bytes",
		      (unsigned long long)delta_bytes(&bed->delta), (unsigned long long)full);
		bed_close(bed);
	}
}

/* Few of them a chunk, so that no leaf is emptied as a whole. */
TEST(delta, sparse_chunks_that_are_dropped_give_their_memory_back)
{
	struct bed *bed = bed_open(1, 4 << 20);
	for (uint64_t i = 0; i < 30000; i++) {
		struct delta_entry entry = {
			.block = i * 7919 % 30000 * 128, .place = 100 + i, .seq = 1};
		CHECK_EQ(delta_put(&bed->delta, &entry), 0);
	}
	uint64_t full = delta_bytes(&bed->delta);
	for (uint64_t chunk = 0; chunk < 15000; chunk++) {
		if (chunk % 8 != 0)
			delta_chunk_drop(&bed->delta, chunk);
	}
	CHECK_EQ(bed->delta.data.entry_count, 30000 / 8);
	CHECK(delta_bytes(&bed->delta) < full / 3, "%llu of %llu bytes",
	      (unsigned long long)delta_bytes(&bed->delta), (unsigned long long)full);
	bed_close(bed);
}

TEST(delta, descending_entries_in_a_gap_do_not_take_a_node_each)
{
	struct bed *bed = bed_open(1, 4 << 20);
	for (uint64_t i = 0; i < 42; i++) /* a full node */
		put(bed, i, i + 1);
	put(bed, BLOCKS - 1, 2000);
	for (uint64_t i = BLOCKS - 2; i > BLOCKS - 5000; i--)
		put(bed, i, BLOCKS * 2 - i);
	CHECK(delta_bytes(&bed->delta) < 5000 * 60);
	bed_close(bed);
}

TEST(delta, what_is_loaded_may_pass_the_bound_and_gives_no_place_up)
{
	struct bed *bed = bed_open(1, 1); /* 128 nodes */
	struct space_info info;
	CHECK_EQ(delta_pool_load_begin(bed->pool, 60000), 0);
	bed->delta.unref = DELTA_UNREF_NONE;
	for (uint32_t round = 0; round < 3; round++) {
		for (uint64_t i = 0; i < BLOCKS; i++) {
			struct delta_entry entry = {
				.block = i * 7919 % BLOCKS, .place = 100 + i, .seq = 1 + i};
			CHECK_EQ(delta_put(&bed->delta, &entry), 0);
		}
	}
	delta_pool_load_end(bed->pool);
	bed->delta.unref = DELTA_UNREF_THIS_ROOT;
	space_info(bed->space, &info);
	CHECK_EQ(info.unref_errors, 0);
	CHECK_EQ(bed->delta.data.entry_count, BLOCKS);
	CHECK(delta_pool_full(bed->pool) && delta_pool_tight(bed->pool));
	bed_close(bed);
}
