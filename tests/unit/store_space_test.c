/* SPDX-License-Identifier: Apache-2.0 */
/* Space against a plain model: every block is free, held, or given up; the table survives
 * reloading. */
#include "tests/unit/test.h"

#include "tests/unit/mem_env.h"

#include "store/space.h"

#define DEVICE_BLOCKS 70000u
#define DATA_START    32u

static const struct uuid test_uuid = {{7, 7, 7}};

struct bed {
	struct mem_env *mem;
	struct space *space;
	struct block_ptr dir;
	int rc;
};

static struct space *bed_space(struct bed *bed, bool prewrite)
{
	struct space_geometry geometry = {.data_start = DATA_START,
					  .size_blocks = DEVICE_BLOCKS,
					  .store_uuid = test_uuid,
					  .prewrite = prewrite,
					  .written_blocks = DATA_START};
	return space_create(&bed->mem->device, &geometry);
}

static void bed_open(struct bed *bed, uint64_t seed)
{
	bed->mem = mem_env_create((uint64_t)DEVICE_BLOCKS * BLOCK_BYTES, seed);
	bed->space = bed_space(bed, false);
}

static void bed_close(struct bed *bed)
{
	space_destroy(bed->space);
	mem_env_destroy(bed->mem);
}

static void write_run(struct co *co, void *arg)
{
	struct bed *bed = arg;
	bed->rc = space_write(co, bed->space, &bed->dir);
}

static void load_run(struct co *co, void *arg)
{
	struct bed *bed = arg;
	struct err err = {0};
	bed->rc = space_load(co, bed->space, &bed->dir, &err);
}

static void bed_checkpoint(struct bed *bed)
{
	space_cut(bed->space);
	mem_run(bed->mem, write_run, bed);
	CHECK_EQ(bed->rc, 0);
	space_root_durable(bed->space);
}

TEST(space, a_large_request_on_an_empty_device_is_one_run)
{
	struct bed bed;
	struct space_extent extents[4];
	uint32_t count;
	bed_open(&bed, 1);
	CHECK_EQ(space_alloc(bed.space, SPACE_NORMAL, 256, extents, 4, &count), 0);
	CHECK_EQ(count, 1);
	uint64_t next = extents[0].place + 256;
	CHECK_EQ(space_alloc(bed.space, SPACE_NORMAL, 256, extents, 4, &count), 0);
	CHECK_EQ(extents[0].place, next);
	bed_close(&bed);
}

TEST(space, normal_requests_leave_the_reserve_and_the_promised_alone)
{
	struct bed bed;
	struct space_extent extents[256];
	struct space_info info;
	uint32_t count;
	bed_open(&bed, 1);
	space_promise(bed.space, 5000);
	while (space_alloc(bed.space, SPACE_NORMAL, 256, extents, 256, &count) == 0)
		;
	space_info(bed.space, &info);
	uint64_t left = info.capacity_blocks - info.allocated_blocks;
	CHECK(left >= info.reserve_blocks + 5000 && left < info.reserve_blocks + 5256);
	CHECK_EQ(space_alloc(bed.space, SPACE_OVERWRITE, 256, extents, 256, &count), 0);
	CHECK_EQ(space_alloc(bed.space, SPACE_INTERNAL, (uint32_t)left - 256, extents, 256, &count),
		 0);
	CHECK_EQ(space_alloc(bed.space, SPACE_INTERNAL, 1, extents, 1, &count), -ENOSPC);
	bed_close(&bed);
}

TEST(space, a_fragmented_device_still_gives_every_block_and_the_longest_runs_first)
{
	struct bed bed;
	struct space_extent extents[256];
	struct space_info info;
	uint32_t count, taken = 0;
	bed_open(&bed, 1);
	space_info(bed.space, &info);
	uint64_t end = DATA_START + info.capacity_blocks;
	for (uint64_t place = DATA_START; place < end; place += 2)
		CHECK_EQ(space_claim(bed.space, place, 1), 0);
	space_cancel(bed.space, DATA_START + 4000, 1); /* 3999..4001 are free: a run of three */
	CHECK_EQ(space_alloc(bed.space, SPACE_INTERNAL, 8, extents, 4, &count), -ENOSPC);
	CHECK_EQ(space_alloc(bed.space, SPACE_INTERNAL, 6, extents, 4, &count), 0);
	CHECK_EQ(extents[0].place, DATA_START + 3999);
	CHECK_EQ(extents[0].length_blocks, 3);
	while (space_alloc(bed.space, SPACE_INTERNAL, 100, extents, 100, &count) == 0)
		taken += 100;
	CHECK(taken + 100 + 6 + 1 >= info.capacity_blocks / 2);
	bed_close(&bed);
}

TEST(space, a_block_given_up_is_free_only_after_the_root_and_the_reads)
{
	struct bed bed;
	struct space_extent extent;
	uint32_t count;
	bed_open(&bed, 1);
	CHECK_EQ(space_alloc(bed.space, SPACE_NORMAL, 1, &extent, 1, &count), 0);
	space_cut(bed.space);
	space_ref(bed.space, extent.place, 1);
	space_root_durable(bed.space);
	uint64_t before = space_read_begin(bed.space);
	space_unref(bed.space, extent.place, 1, false);
	CHECK(space_is_referenced(bed.space, extent.place));
	space_cut(bed.space);
	CHECK(!space_is_referenced(bed.space, extent.place));
	CHECK(space_is_allocated(bed.space, extent.place));
	space_root_durable(bed.space);
	CHECK(space_is_allocated(bed.space, extent.place));
	uint64_t after = space_read_begin(bed.space);
	space_read_end(bed.space, before);
	CHECK(!space_is_allocated(bed.space, extent.place));
	space_read_end(bed.space, after);
	bed_close(&bed);
}

TEST(space, pins_for_the_next_root_outlive_the_root_being_built)
{
	struct bed bed;
	struct space_extent extents[2];
	uint32_t count;
	bed_open(&bed, 1);
	CHECK_EQ(space_alloc(bed.space, SPACE_NORMAL, 2, extents, 2, &count), 0);
	uint64_t a = extents[0].place, b = a + 1;
	space_cut(bed.space);
	space_unref(bed.space, a, 1, false); /* a record after the cut */
	space_unref(bed.space, b, 1, true);
	space_root_durable(bed.space);
	CHECK(space_is_allocated(bed.space, a));
	CHECK(!space_is_allocated(bed.space, b));
	space_cut(bed.space);
	space_root_durable(bed.space);
	CHECK(!space_is_allocated(bed.space, a));
	bed_close(&bed);
}

TEST(space, giving_up_twice_is_counted_and_ignored)
{
	struct bed bed;
	struct space_extent extent;
	struct space_info info;
	uint32_t count;
	bed_open(&bed, 1);
	CHECK_EQ(space_alloc(bed.space, SPACE_NORMAL, 1, &extent, 1, &count), 0);
	space_unref(bed.space, extent.place, 1, false);
	space_unref(bed.space, extent.place, 1, false);
	space_unref(bed.space, DEVICE_BLOCKS + 5, 1, false);
	space_info(bed.space, &info);
	CHECK_EQ(info.unref_errors, 2);
	CHECK_EQ(info.pinned_blocks, 1);
	bed_close(&bed);
}

TEST(space, the_table_holds_itself_and_reloads_as_it_was)
{
	struct bed bed;
	struct space_extent extents[64];
	struct space_info before, after;
	uint32_t count;
	bed_open(&bed, 3);
	for (uint32_t round = 0; round < 20; round++) {
		uint64_t kept[8][2];
		for (uint32_t i = 0; i < 8; i++) {
			uint32_t blocks = 1 + (uint32_t)(mem_random(&bed.mem->env) % 900);
			CHECK_EQ(space_alloc(bed.space, SPACE_NORMAL, blocks, extents, 64, &count),
				 0);
			for (uint32_t k = 0; k < count; k++)
				space_ref(bed.space, extents[k].place, extents[k].length_blocks);
			kept[i][0] = extents[0].place;
			kept[i][1] = extents[0].length_blocks;
		}
		for (uint32_t i = 0; i < 4; i++)
			space_unref(bed.space, kept[i][0], (uint32_t)kept[i][1], false);
		bed_checkpoint(&bed);
		struct space *old = bed.space;
		bed.space = bed_space(&bed, false);
		mem_run(bed.mem, load_run, &bed);
		CHECK_EQ(bed.rc, 0);
		space_info(old, &before);
		space_info(bed.space, &after);
		CHECK_EQ(before.referenced_blocks, after.referenced_blocks);
		CHECK_EQ(after.allocated_blocks, after.referenced_blocks);
		for (uint64_t place = DATA_START; place < DEVICE_BLOCKS; place++)
			CHECK(space_is_referenced(old, place) ==
			      space_is_referenced(bed.space, place));
		CHECK(space_is_referenced(bed.space, le64_get(bed.dir.place)));
		space_destroy(old);
	}
	bed_close(&bed);
}

TEST(space, a_damaged_table_is_refused)
{
	struct bed bed;
	bed_open(&bed, 3);
	bed_checkpoint(&bed);
	bed.mem->bytes[le64_get(bed.dir.place) * BLOCK_BYTES + 100] ^= 1;
	space_destroy(bed.space);
	bed.space = bed_space(&bed, false);
	mem_run(bed.mem, load_run, &bed);
	CHECK_EQ(bed.rc, -EBADMSG);
	bed_close(&bed);
}

static void stop_run(struct co *co, void *arg)
{
	space_prewrite_stop(co, ((struct bed *)arg)->space);
}

TEST(space, a_regular_file_is_written_ahead_and_never_over_data)
{
	struct bed bed;
	struct space_extent extent;
	struct space_info info;
	uint32_t count;
	bed.mem = mem_env_create((uint64_t)DEVICE_BLOCKS * BLOCK_BYTES, 5);
	bed.space = bed_space(&bed, true);
	space_prewrite_start(bed.space);
	for (uint32_t i = 0; i < 3000; i++) {
		if (space_alloc(bed.space, SPACE_NORMAL, 1, &extent, 1, &count) == 0)
			memset(bed.mem->bytes + extent.place * BLOCK_BYTES, 0xaa, BLOCK_BYTES);
		CHECK(mem_step(bed.mem));
	}
	mem_run(bed.mem, stop_run, &bed);
	space_info(bed.space, &info);
	CHECK(info.written_blocks > DATA_START);
	uint64_t marked = 0;
	for (uint64_t place = DATA_START; place < DEVICE_BLOCKS; place++) {
		if (space_is_allocated(bed.space, place))
			marked += bed.mem->bytes[place * BLOCK_BYTES] == 0xaa;
	}
	CHECK_EQ(marked, info.allocated_blocks);
	bed_close(&bed);
}
