/* SPDX-License-Identifier: Apache-2.0 */
/* The index against a sorted array: random batches, heavy deletion, seeks with filters, golden
 * bytes. */
#include "tests/unit/test.h"

#include "tests/unit/mem_env.h"

#include "store/index.h"
#include "store/meta_block.h"

#define DATA_START    32u
#define DEVICE_BLOCKS 60000u
#define KEYS          30000u

static const struct uuid test_uuid = {{3, 1, 4}};

struct bed {
	struct mem_env *mem;
	struct space *space;
	struct index_ctx ctx;
	struct index_ptr root;
	struct index_item model[KEYS]; /* by key; highest_seq 0: absent */
	struct index_change changes[4096];
	uint32_t change_count;
	struct index_query query;
	struct index_item found;
	int rc;
};

static uint64_t rnd(struct bed *bed, uint64_t below)
{
	return mem_random(&bed->mem->env) % below;
}

static struct bed *bed_open(uint64_t seed)
{
	struct bed *bed = calloc(1, sizeof(*bed));
	bed->mem = mem_env_create((uint64_t)DEVICE_BLOCKS * BLOCK_BYTES, seed);
	struct space_geometry geometry = {
		.data_start = DATA_START, .size_blocks = DEVICE_BLOCKS, .store_uuid = test_uuid};
	bed->space = space_create(&bed->mem->device, &geometry);
	bed->ctx = (struct index_ctx){.cache = cache_create(&bed->mem->device, 0, &test_uuid),
				      .space = bed->space,
				      .writer = writer_create(&bed->mem->device),
				      .bounds = {test_uuid, DATA_START, DEVICE_BLOCKS},
				      .scratch = index_scratch_create()};
	return bed;
}

static void bed_close(struct bed *bed)
{
	cache_destroy(bed->ctx.cache);
	writer_destroy(bed->ctx.writer);
	index_scratch_destroy(bed->ctx.scratch);
	space_destroy(bed->space);
	mem_env_destroy(bed->mem);
	free(bed);
}

static void update_run(struct co *co, void *arg)
{
	struct bed *bed = arg;
	bed->rc = index_update(co, &bed->ctx, &bed->root, bed->changes, bed->change_count);
}

static void seek_run(struct co *co, void *arg)
{
	struct bed *bed = arg;
	bed->rc = index_seek(co, &bed->ctx, &bed->root, &bed->query, &bed->found);
}

static uint64_t key_of(uint32_t i)
{
	return index_key(i / 3 * 5, i % 3 + 1);
}

/* Changes about `percent` of the keys of [from, to), removing `remove` of a hundred. */
static void batch(struct bed *bed, uint32_t from, uint32_t to, uint32_t percent, uint32_t remove)
{
	space_cut(bed->space);
	bed->change_count = 0;
	for (uint32_t i = from; i < to && bed->change_count < ARRAY_LEN(bed->changes); i++) {
		if (rnd(bed, 100) >= percent)
			continue;
		struct index_item *item = &bed->model[i];
		bool gone = rnd(bed, 100) < remove, tombstone = rnd(bed, 5) == 0;
		*item = (struct index_item){.key = key_of(i)};
		if (!gone) {
			item->highest_seq = 1 + rnd(bed, 1000000);
			item->place = tombstone ? 0 : DATA_START + rnd(bed, 1000);
			item->live_blocks = tombstone ? 0 : 1 + (uint32_t)rnd(bed, 256);
			item->digest = tombstone ? 0 : mem_random(&bed->mem->env);
			item->crc32c = tombstone ? 0 : 5;
		}
		bed->changes[bed->change_count++] = (struct index_change){*item, gone};
	}
	mem_run(bed->mem, update_run, bed);
	CHECK_EQ(bed->rc, 0);
	space_root_durable(bed->space);
}

static bool passes(const struct bed *bed, const struct index_item *item)
{
	if (item->highest_seq == 0)
		return false;
	if (bed->query.filter == INDEX_LIVE)
		return item->live_blocks > 0;
	return bed->query.filter == INDEX_ANY || item->highest_seq > bed->query.since_seq;
}

static void check_seeks(struct bed *bed, enum index_filter filter, uint64_t since, uint32_t stride)
{
	bed->query = (struct index_query){.filter = filter, .since_seq = since};
	for (uint32_t i = 0; i < KEYS;) {
		bed->query.key = key_of(i);
		while (i < KEYS && !passes(bed, &bed->model[i]))
			i++;
		mem_run(bed->mem, seek_run, bed);
		CHECK_EQ(bed->rc, i < KEYS ? 0 : -ENODATA);
		if (i < KEYS)
			CHECK(memcmp(&bed->found, &bed->model[i], sizeof(bed->found)) == 0);
		i += stride;
	}
}

TEST(index, random_batches_match_an_array)
{
	for (uint64_t seed = 1; seed <= 3; seed++) {
		struct bed *bed = bed_open(seed);
		for (uint32_t round = 0; round < 60; round++) {
			uint32_t from = (uint32_t)rnd(bed, KEYS),
				 percent = 1 + (uint32_t)rnd(bed, 60);
			uint32_t to = from + (uint32_t)rnd(bed, KEYS - from) + 1;
			batch(bed, from, to, percent, round > 40 ? 90 : 30);
			if (round % 20 == 19) {
				check_seeks(bed, INDEX_ANY, 0, 37);
				check_seeks(bed, INDEX_LIVE, 0, 41);
				check_seeks(bed, INDEX_NEWER, 999000, 1);
			}
		}
		bed_close(bed);
	}
}

TEST(index, ascending_inserts_fill_blocks_and_deletion_empties_the_tree)
{
	struct bed *bed = bed_open(1);
	struct space_info info;
	for (uint32_t from = 0; from < KEYS; from += 2000)
		batch(bed, from, MIN(from + 2000, KEYS), 100, 0);
	CHECK_EQ(bed->root.levels, 3);
	space_info(bed->space, &info);
	CHECK(info.referenced_blocks < KEYS / 70);
	for (uint32_t round = 0; round < 12; round++) /* thin out to a tenth */
		batch(bed, 0, KEYS, 13, 100);
	space_info(bed->space, &info);
	uint64_t left = 0;
	for (uint32_t i = 0; i < KEYS; i++)
		left += bed->model[i].highest_seq != 0;
	CHECK(info.referenced_blocks < left / 20, "%llu blocks for %llu entries",
	      (unsigned long long)info.referenced_blocks, (unsigned long long)left);
	check_seeks(bed, INDEX_ANY, 0, 13);
	for (uint32_t from = 0; from < KEYS; from += 4000)
		batch(bed, from, MIN(from + 4000, KEYS), 100, 100);
	CHECK(bed->root.levels == 0 && bed->root.place == 0);
	space_info(bed->space, &info);
	CHECK_EQ(info.referenced_blocks, 0);
	CHECK_EQ(info.allocated_blocks, 0);
	bed_close(bed);
}

TEST(index, a_damaged_block_is_found_by_its_parents_crc)
{
	struct bed *bed = bed_open(1);
	for (uint32_t from = 0; from < 8000; from += 2000)
		batch(bed, from, from + 2000, 100, 0);
	bed->mem->bytes[bed->root.place * BLOCK_BYTES + 999] ^= 1;
	cache_drop(bed->ctx.cache, bed->root.place);
	bed->query = (struct index_query){.key = 5};
	mem_run(bed->mem, seek_run, bed);
	CHECK_EQ(bed->rc, -EBADMSG);
	bed_close(bed);
}

TEST(index, well_sealed_nonsense_is_refused)
{
	struct page_bounds bounds = {test_uuid, DATA_START, DEVICE_BLOCKS};
	struct {
		struct index_block b;
		struct index_entry entries[3];
		uint8_t rest[BLOCK_BYTES - sizeof(struct index_block) -
			     3 * sizeof(struct index_entry)];
	} block = {.b.h.count = {3}};
	for (uint32_t i = 0; i < 3; i++) {
		block.entries[i].chunk = le32_make(i);
		block.entries[i].place = le64_make(DATA_START + i);
	}
	CHECK_EQ(index_block_check(&block, 0, &bounds), 0);
	CHECK_EQ(index_block_check(&block, 1, &bounds), -EBADMSG);
	block.entries[2].chunk = le32_make(1);
	CHECK_EQ(index_block_check(&block, 0, &bounds), -EBADMSG);
	block.entries[2].chunk = le32_make(2);
	block.entries[2].place = le64_make(DEVICE_BLOCKS);
	CHECK_EQ(index_block_check(&block, 0, &bounds), -EBADMSG);
	block.entries[2].place = le64_make(0); /* a tombstone */
	CHECK_EQ(index_block_check(&block, 0, &bounds), 0);
	block.entries[2].live_blocks = le32_make(1);
	CHECK_EQ(index_block_check(&block, 0, &bounds), -EBADMSG);
	block.b.h.count = le32_make(0);
	CHECK_EQ(index_block_check(&block, 0, &bounds), -EBADMSG);
	block.b.h.count = le32_make(102);
	CHECK_EQ(index_block_check(&block, 0, &bounds), -EBADMSG);
}

TEST(index, the_bytes_are_those_of_the_golden_leaf)
{
	struct bed *bed = bed_open(1);
	uint8_t golden[BLOCK_BYTES];
	for (uint32_t i = 0; i < 5; i++)
		bed->changes[i].item =
			(struct index_item){.key = index_key(i * 3, i + 1),
					    .place = i == 2 ? 0 : 100 + i,
					    .highest_seq = 1000 + i,
					    .digest = i == 2 ? 0 : 0x1122334455667788ull + i,
					    .crc32c = i == 2 ? 0 : 0xabcdef00 + i,
					    .live_blocks = i == 2 ? 0 : 10 + i};
	bed->change_count = 5;
	mem_run(bed->mem, update_run, bed);
	CHECK_EQ(bed->rc, 0);
	FILE *f = fopen("tests/golden/store_index_leaf_v1.bin", "rb");
	CHECK(f != NULL, "run from the top of the tree");
	CHECK_EQ(fread(golden, 1, sizeof(golden), f), sizeof(golden));
	fclose(f);
	CHECK(memcmp(golden, bed->mem->bytes + bed->root.place * BLOCK_BYTES, BLOCK_BYTES) == 0);
	bed_close(bed);
}
