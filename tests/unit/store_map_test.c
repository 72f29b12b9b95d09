/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The map against arrays in memory: random entries, zeros, checkpoints with traffic in between,
 * repair, shadows, reloading, damage. After a quiet checkpoint every allocated block is reachable
 * and the other way round.
 */
#include "tests/unit/test.h"

#include <time.h>

#include "tests/unit/mem_env.h"

#include "base/crc32c.h"
#include "store/map.h"

#define CHUNKS        48u
#define BLOCKS        (CHUNKS * 256u)
#define DATA_START    4128u
#define DEVICE_BLOCKS (DATA_START + 100u * 1024u)

static const struct uuid test_uuid = {{9, 9}};

struct model_block {
	uint64_t seq;
	uint32_t crc;
	bool data;
};

struct bed {
	struct mem_env *mem;
	struct space *space;
	struct map_pool *pool;
	struct map *map;
	struct map_root root;
	struct block_ptr dir;
	uint64_t seq;
	uint32_t ring_next;
	uint32_t trim_pages;
	uint32_t node_next;
	bool trim_more;
	bool delete_all;
	bool no_trim;
	bool fold_all;
	uint64_t settled_seq;
	uint32_t fold_entries;
	uint64_t delta_bytes;
	struct map_runs sink;
	struct co *co;          /* of the checkpoint that runs */
	bool look_now;          /* chunks are leaving `kept` */
	struct run_entry *runs; /* the run table */
	uint32_t run_count, run_max;
	int rc;
	struct model_block *head; /* BLOCKS each */
	struct model_block *shadow;
	struct model_block *source; /* what the live stream says */
};

static uint64_t rnd(struct bed *bed, uint64_t below)
{
	return mem_random(&bed->mem->env) % below;
}

static void bed_memory(struct bed *bed)
{
	struct space_geometry geometry = {
		.data_start = DATA_START, .size_blocks = DEVICE_BLOCKS, .store_uuid = test_uuid};
	struct map_pool_config config = {.cache_bytes = 64 * BLOCK_BYTES,
					 .delta_bytes = bed->delta_bytes,
					 .fold_entries = bed->fold_entries,
					 .store_uuid = test_uuid};
	bed->space = space_create(&bed->mem->device, &geometry);
	bed->pool = map_pool_create(&bed->mem->device, bed->space, &config);
}

static void run_add(void *ctx, const struct run_entry *entry)
{
	struct bed *bed = ctx;
	if (bed->run_count == bed->run_max) {
		bed->run_max = bed->run_max ? bed->run_max * 2 : 256;
		bed->runs = realloc(bed->runs, bed->run_max * sizeof(*bed->runs));
	}
	bed->runs[bed->run_count++] = *entry;
	bool is_void = le64_get(entry->place) == 0;
	bed->look_now = bed->look_now || is_void;
	if (bed->co && (is_void || rnd(bed, 8) == 0))
		co_sleep(bed->co, 0); /* as a full block would */
}

/* Seeds keep chunks of up to 1 (nothing), 3, 20 and 255 entries out of pages. */
static void bed_open(struct bed *bed, uint64_t seed)
{
	static const uint32_t fold_entries[] = {1, 4, 21, 256};
	*bed = (struct bed){.seq = 10,
			    .node_next = 2,
			    .trim_pages = 7,
			    .delta_bytes = 8 << 20,
			    .fold_entries = fold_entries[seed % 4],
			    .sink = {.add = run_add, .ctx = bed}};
	bed->mem = mem_env_create((uint64_t)DEVICE_BLOCKS * BLOCK_BYTES, seed);
	bed->root.head_node = 1;
	bed_memory(bed);
	bed->map = map_create(bed->pool, &bed->root);
	bed->head = calloc(BLOCKS, sizeof(*bed->head));
	bed->shadow = calloc(BLOCKS, sizeof(*bed->shadow));
	bed->source = calloc(BLOCKS, sizeof(*bed->source));
}

static void bed_close(struct bed *bed)
{
	map_destroy(bed->map);
	map_pool_destroy(bed->pool);
	space_destroy(bed->space);
	mem_env_destroy(bed->mem);
	free(bed->runs);
	free(bed->head);
	free(bed->shadow);
	free(bed->source);
}

/* ---- payload ---- */

static uint64_t payload_place(struct bed *bed, uint32_t crc, bool ring)
{
	struct space_extent extent;
	uint32_t count;
	if (ring) {
		extent.place = 16 + bed->ring_next++ % 4096;
	} else {
		CHECK_EQ(space_alloc(bed->space, SPACE_NORMAL, 1, &extent, 1, &count), 0);
	}
	memcpy(bed->mem->bytes + extent.place * BLOCK_BYTES, &crc, sizeof(crc));
	return extent.place;
}

static uint32_t payload_at(struct bed *bed, uint64_t place)
{
	uint32_t crc;
	memcpy(&crc, bed->mem->bytes + place * BLOCK_BYTES, sizeof(crc));
	return crc;
}

/* ---- entries ---- */

static void model_put(struct model_block *b, uint64_t seq, uint32_t crc, bool data)
{
	if (b->seq <= seq)
		*b = (struct model_block){seq, crc, data};
}

static void do_write(struct bed *bed, enum map_which which, struct model_block *a,
		     struct model_block *b)
{
	uint64_t count = rnd(bed, 4) ? 1 : 1 + rnd(bed, 300);
	uint64_t block = rnd(bed, BLOCKS - count + 1), seq = bed->seq++;
	bool ring = count < 4;
	for (uint64_t i = block; i < block + count; i++) {
		uint32_t crc = (uint32_t)mem_random(&bed->mem->env);
		CHECK_EQ(map_put(bed->map, which, i, payload_place(bed, crc, ring), crc, seq), 0);
		model_put(&a[i], seq, crc, true);
		if (b)
			model_put(&b[i], seq, crc, true);
	}
}

static void do_zero(struct bed *bed, enum map_which which, struct model_block *a,
		    struct model_block *b)
{
	uint64_t kind = rnd(bed, 12);
	uint64_t count = kind == 0 ? 1 + rnd(bed, BLOCKS / 2) : kind < 4 ? 256 : 1 + rnd(bed, 40);
	uint64_t block = rnd(bed, BLOCKS - count + 1), seq = bed->seq++;
	if (kind == 1 || kind == 2)
		block &= ~255ull;
	CHECK_EQ(map_zero(bed->map, which, block, count, seq), 0);
	for (uint64_t i = block; i < block + count; i++) {
		model_put(&a[i], seq, 0, false);
		if (b)
			model_put(&b[i], seq, 0, false);
	}
}

static void do_entry(struct bed *bed)
{
	if (rnd(bed, 5))
		do_write(bed, MAP_HEAD, bed->head, NULL);
	else
		do_zero(bed, MAP_HEAD, bed->head, NULL);
}

static void do_live(struct bed *bed)
{
	if (rnd(bed, 5))
		do_write(bed, MAP_SHADOW, bed->shadow, bed->source);
	else
		do_zero(bed, MAP_SHADOW, bed->shadow, bed->source);
}

/* ---- look-ups ---- */

struct look {
	struct map_lookup lookup;
	struct map_version versions[256];
	bool done;
};

static void look_done(struct map_lookup *lookup, int status)
{
	CHECK_EQ(status, 0);
	CONTAINER_OF(lookup, struct look, lookup)->done = true;
}

static void look_up(struct bed *bed, struct look *look, enum map_which which, uint64_t block,
		    uint32_t count)
{
	*look = (struct look){.lookup = {.done = look_done,
					 .map = bed->map,
					 .which = which,
					 .address_blocks = block,
					 .length_blocks = count}};
	look->lookup.versions = look->versions;
	look->done = map_lookup(&look->lookup);
	while (!look->done)
		CHECK(mem_step(bed->mem));
}

static void version_check(struct bed *bed, const struct map_version *v, const struct model_block *m,
			  uint64_t block)
{
	CHECK(!v->bad_page, "block %llu is bad", (unsigned long long)block);
	CHECK((v->place != 0) == m->data, "block %llu: place %llu, wanted %s",
	      (unsigned long long)block, (unsigned long long)v->place, m->data ? "data" : "zero");
	if (!m->data)
		return;
	CHECK(v->crc32c == m->crc, "block %llu", (unsigned long long)block);
	CHECK(v->seq == m->seq, "block %llu", (unsigned long long)block);
	CHECK(payload_at(bed, v->place) == m->crc, "block %llu", (unsigned long long)block);
}

static void check_all(struct bed *bed, enum map_which which, const struct model_block *model)
{
	struct look look;
	for (uint64_t block = 0; block < BLOCKS; block += 256) {
		uint32_t shift = (uint32_t)rnd(bed, 2) * 100;
		uint64_t from = block + shift + 256 <= BLOCKS ? block + shift : block;
		look_up(bed, &look, which, from, 256);
		for (uint32_t i = 0; i < 256; i++)
			version_check(bed, &look.versions[i], &model[from + i], from + i);
	}
}

static void check_chunk(struct bed *bed, enum map_which which, uint64_t chunk)
{
	const struct model_block *model = which == MAP_HEAD ? bed->head : bed->shadow;
	struct look look;
	look_up(bed, &look, which, chunk * 256, 256);
	for (uint32_t i = 0; i < 256; i++)
		version_check(bed, &look.versions[i], &model[chunk * 256 + i], chunk * 256 + i);
}

/* ---- checkpoints ---- */

static void checkpoint_run(struct co *co, void *arg)
{
	struct bed *bed = arg;
	bed->co = co;
	space_cut(bed->space);
	if (!bed->delete_all)
		map_freeze(bed->map, bed->fold_all, bed->settled_seq);
	bed->rc = bed->delete_all ? 0 : map_destage(co, bed->map, DATA_START);
	if (bed->rc == 0 && !bed->delete_all) {
		map_keep(co, bed->map, &bed->sink);
		map_pool_choose(co, bed->pool, &bed->map, 1);
		bed->rc = map_fold(co, bed->map, &bed->sink);
	}
	if (rnd(bed, 4) == 0) { /* the run table anew */
		bed->run_count = 0;
		map_kept_each(co, bed->map, &bed->sink);
	}
	bool damaged = bed->rc == -EBADMSG;
	if ((bed->rc == 0 || damaged) && !bed->no_trim)
		CHECK_EQ(map_trim(co, bed->map, bed->delete_all, bed->trim_pages, &bed->trim_more),
			 0);
	map_root(bed->map, &bed->root);
	CHECK_EQ(space_write(co, bed->space, &bed->dir), 0);
	space_root_durable(bed->space);
	bed->co = NULL;
}

static void quiet_checkpoint(struct bed *bed)
{
	mem_run(bed->mem, checkpoint_run, bed);
	CHECK_EQ(bed->rc, 0);
}

/* Every delta into pages: a shadow wants that. */
static void full_checkpoint(struct bed *bed)
{
	bed->fold_all = true;
	quiet_checkpoint(bed);
	bed->fold_all = false;
	CHECK_EQ(map_kept_count(bed->map), 0);
}

static bool take_flag(bool *flag)
{
	bool was = *flag;
	*flag = false;
	return was;
}

static void busy_checkpoint(struct bed *bed, void (*entry)(struct bed *bed))
{
	struct co *co = co_create(&bed->mem->env, 256 << 10);
	uint32_t entries = 0;
	co_start(co, checkpoint_run, bed);
	while (co_running(co)) {
		CHECK(mem_step(bed->mem));
		if (rnd(bed, 8) == 0 && entries++ < 100)
			entry(bed);
		if (take_flag(&bed->look_now) && entry == do_entry)
			check_all(bed, MAP_HEAD, bed->head);
		if (rnd(bed, 4) == 0)
			check_chunk(bed, entry == do_entry ? MAP_HEAD : MAP_SHADOW,
				    rnd(bed, CHUNKS));
	}
	co_destroy(co);
	CHECK_EQ(bed->rc, 0);
}

struct reach {
	uint8_t *seen;
	uint64_t count;
	uint64_t reports;
};

static void reach_ref(void *ctx, uint64_t place, uint32_t count, bool data, uint32_t crc,
		      uint64_t block)
{
	struct reach *reach = ctx;
	(void)data;
	(void)crc;
	(void)block;
	CHECK_EQ(count, 1);
	CHECK(place >= DATA_START && place < DEVICE_BLOCKS);
	CHECK(!reach->seen[place], "place %llu is reached twice", (unsigned long long)place);
	reach->seen[place] = 1;
	reach->count++;
}

static void reach_report(void *ctx, const char *line)
{
	((struct reach *)ctx)->reports++;
	fprintf(stderr, "%s\n", line);
}

struct walk_arg {
	struct bed *bed;
	struct reach *reach;
	int rc;
};

static void walk_run(struct co *co, void *arg)
{
	struct walk_arg *w = arg;
	w->rc = map_walk(co, w->bed->map, reach_ref, reach_report, w->reach);
}

/* Everything allocated is reachable. Call after quiet checkpoints with no delta but what is kept. */
static void check_space(struct bed *bed)
{
	struct reach reach = {.seen = calloc(DEVICE_BLOCKS, 1)};
	struct walk_arg walk = {bed, &reach, 0};
	struct space_info info;
	mem_run(bed->mem, walk_run, &walk);
	CHECK_EQ(walk.rc, 0);
	CHECK_EQ(reach.reports, 0);
	const uint8_t *dir = bed->mem->bytes + le64_get(bed->dir.place) * BLOCK_BYTES;
	const struct table_block *table = (const void *)dir;
	const struct block_ptr *ptrs = (const void *)(dir + sizeof(*table));
	reach_ref(&reach, le64_get(bed->dir.place), 1, false, 0, 0);
	for (uint32_t i = 0; i < le32_get(table->h.count); i++) {
		if (le64_get(ptrs[i].place))
			reach_ref(&reach, le64_get(ptrs[i].place), 1, false, 0, 0);
	}
	space_info(bed->space, &info);
	for (uint64_t place = DATA_START; place < DEVICE_BLOCKS; place++)
		CHECK(reach.seen[place] == space_is_referenced(bed->space, place),
		      "place %llu: reached %d", (unsigned long long)place, reach.seen[place]);
	CHECK_EQ(info.referenced_blocks, reach.count);
	CHECK_EQ(info.allocated_blocks, info.referenced_blocks);
	CHECK_EQ(info.unref_errors, 0);
	CHECK(info.promised_blocks <= map_kept_count(bed->map));
	CHECK_EQ(map_pool_delta_bytes(bed->pool), 0);
	free(reach.seen);
}

static void load_run(struct co *co, void *arg)
{
	struct bed *bed = arg;
	struct err err = {0};
	bed->rc = space_load(co, bed->space, &bed->dir, &err);
}

/* From the last root. Call after a quiet checkpoint. */
static void reload(struct bed *bed)
{
	uint64_t kept = map_kept_count(bed->map);
	map_destroy(bed->map);
	map_pool_destroy(bed->pool);
	space_destroy(bed->space);
	bed_memory(bed);
	mem_run(bed->mem, load_run, bed);
	CHECK_EQ(bed->rc, 0);
	bed->map = map_create(bed->pool, &bed->root);
	CHECK_EQ(map_pool_load_begin(bed->pool, bed->run_count), 0);
	for (uint32_t i = 0; i < bed->run_count; i++) {
		if (le32_get(bed->runs[i].node) == bed->root.head_node)
			CHECK_EQ(map_kept_load(bed->map, &bed->runs[i]), 0);
	}
	map_pool_load_end(bed->pool);
	CHECK(map_kept_fits(bed->map));
	CHECK_EQ(map_kept_count(bed->map), kept);
}

/* ---- tests ---- */

TEST(map, random_entries_and_checkpoints_match_an_array)
{
	for (uint64_t seed = 1; seed <= 6; seed++) {
		struct bed bed;
		bed_open(&bed, seed);
		for (uint32_t round = 0; round < 12; round++) {
			uint64_t entries = rnd(&bed, 250);
			for (uint64_t i = 0; i < entries; i++)
				do_entry(&bed);
			check_all(&bed, MAP_HEAD, bed.head);
			busy_checkpoint(&bed, do_entry);
			check_all(&bed, MAP_HEAD, bed.head);
			if (rnd(&bed, 3) == 0) {
				quiet_checkpoint(&bed);
				quiet_checkpoint(&bed);
				check_space(&bed);
				reload(&bed);
				check_all(&bed, MAP_HEAD, bed.head);
			}
		}
		bed_close(&bed);
	}
}

static void fill_chunk(struct bed *bed, uint32_t chunk, uint64_t at_seq,
		       const struct model_block *state)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint64_t block = (uint64_t)chunk * 256 + i;
		uint64_t place = state[i].data ? payload_place(bed, state[i].crc, false) : 0;
		CHECK_EQ(map_put(bed->map, MAP_SHADOW, block, place, state[i].crc, at_seq), 0);
		model_put(&bed->shadow[block], at_seq, state[i].crc, state[i].data);
	}
}

/* Only the contents count at the end: a fill's seq is its cut. */
static void same_contents(const struct model_block *a, const struct model_block *b)
{
	for (uint32_t i = 0; i < BLOCKS; i++)
		CHECK(a[i].data == b[i].data && a[i].crc == b[i].crc, "block %u", i);
}

static void shadow_round(struct bed *bed)
{
	uint32_t node = bed->node_next++;
	bool adopt = rnd(bed, 3) != 0;
	CHECK_EQ(map_shadow_begin(bed->map, node), 0);
	memcpy(bed->shadow, bed->head, BLOCKS * sizeof(*bed->head));
	/* The source went on without us. */
	bed->seq += 1000;
	memcpy(bed->source, bed->head, BLOCKS * sizeof(*bed->head));
	for (uint32_t i = 0; i < BLOCKS; i++) {
		if (rnd(bed, 4) == 0)
			bed->source[i] = (struct model_block){bed->seq,
							      (uint32_t)rnd(bed, UINT32_MAX), true};
		else if (rnd(bed, 6) == 0)
			bed->source[i] = (struct model_block){bed->seq, 0, false};
	}
	bed->seq++;
	struct model_block late[256];
	for (uint32_t chunk = 0; chunk < CHUNKS; chunk++) {
		uint64_t at_seq = bed->seq - 1;
		memcpy(late, bed->source + chunk * 256, sizeof(late));
		for (uint64_t i = rnd(bed, 12); i > 0; i--)
			do_live(bed);
		if (rnd(bed, 4) == 0)
			busy_checkpoint(bed, do_live);
		fill_chunk(bed, chunk, at_seq, late);
		if (rnd(bed, 12) == 0) { /* a restart under the shadow */
			quiet_checkpoint(bed);
			reload(bed);
			CHECK_EQ(map_shadow_begin(bed->map, node), 0);
		}
		if (rnd(bed, 6) == 0)
			check_all(bed, MAP_SHADOW, bed->shadow);
		if (rnd(bed, 6) == 0)
			check_all(bed, MAP_HEAD, bed->head);
	}
	same_contents(bed->shadow, bed->source);
	if (adopt) {
		map_shadow_adopt(bed->map);
		struct model_block *old = bed->head;
		bed->head = bed->shadow;
		bed->shadow = old;
	} else {
		map_shadow_drop(bed->map);
	}
	check_all(bed, MAP_HEAD, bed->head);
}

TEST(map, a_shadow_filled_out_of_order_becomes_the_head_or_leaves_no_trace)
{
	for (uint64_t seed = 1; seed <= 5; seed++) {
		struct bed bed;
		bed_open(&bed, seed);
		for (uint32_t i = 0; i < 200; i++)
			do_entry(&bed);
		quiet_checkpoint(&bed);
		for (uint32_t round = 0; round < 4; round++) {
			if (map_kept_count(bed.map) > 0)
				CHECK_EQ(map_shadow_begin(bed.map, bed.node_next), -EBUSY);
			full_checkpoint(&bed);
			CHECK_EQ(map_shadow_begin(bed.map, 1), -EINVAL);
			shadow_round(&bed);
			for (uint32_t i = 0; i < 100; i++)
				do_entry(&bed);
			busy_checkpoint(&bed, do_entry);
			check_all(&bed, MAP_HEAD, bed.head);
			if (rnd(&bed, 2)) {
				quiet_checkpoint(&bed);
				reload(&bed); /* leftovers are found from the root */
			}
			do {
				quiet_checkpoint(&bed);
			} while (bed.trim_more);
			quiet_checkpoint(&bed);
			check_all(&bed, MAP_HEAD, bed.head);
			check_space(&bed);
			CHECK_EQ(bed.root.other_node, 0);
		}
		bed_close(&bed);
	}
}

TEST(map, a_flip_or_drop_during_a_checkpoint_leaves_its_root_as_it_was_cut)
{
	for (uint64_t seed = 1; seed <= 12; seed++) {
		struct bed bed;
		bed_open(&bed, seed);
		bed.trim_pages = 1000;
		for (uint32_t i = 0; i < 100; i++)
			do_entry(&bed);
		full_checkpoint(&bed);
		CHECK_EQ(map_shadow_begin(bed.map, 2), 0);
		memcpy(bed.shadow, bed.head, BLOCKS * sizeof(*bed.head));
		for (uint32_t i = 0; i < 60; i++)
			do_live(&bed);
		if (seed % 2)
			quiet_checkpoint(&bed);
		for (uint32_t i = 0; i < 20; i++)
			do_live(&bed);
		struct co *co = co_create(&bed.mem->env, 256 << 10);
		co_start(co, checkpoint_run, &bed);
		for (uint64_t steps = rnd(&bed, 40); steps > 0 && co_running(co); steps--)
			CHECK(mem_step(bed.mem));
		if (seed % 4 < 2)
			map_shadow_adopt(bed.map);
		else
			map_shadow_drop(bed.map);
		while (co_running(co))
			CHECK(mem_step(bed.mem));
		co_destroy(co);
		CHECK_EQ(bed.rc, 0);
		bed.root.head_node = 1; /* as at the cut */
		bed.root.other_node = 2;
		reload(&bed);
		CHECK_EQ(map_shadow_begin(bed.map, 2), 0);
		check_all(&bed, MAP_HEAD, bed.head);
		check_all(&bed, MAP_SHADOW, bed.shadow);
		map_shadow_adopt(bed.map);
		do {
			quiet_checkpoint(&bed);
		} while (bed.trim_more);
		quiet_checkpoint(&bed);
		check_all(&bed, MAP_HEAD, bed.shadow);
		check_space(&bed);
		bed_close(&bed);
	}
}

TEST(map, equal_contents_give_equal_digests_whatever_the_layout)
{
	struct bed a, b;
	bed_open(&a, 1);
	bed_open(&b, 2);
	a.fold_all = b.fold_all = true; /* of pages alone */
	for (uint32_t block = 0; block < 1000; block++)
		CHECK_EQ(map_put(a.map, MAP_HEAD, block * 7, payload_place(&a, block + 1, false),
				 block + 1, a.seq++),
			 0);
	quiet_checkpoint(&a);
	for (uint32_t k = 0; k < 1000; k++) {
		uint32_t block = 999 - k;
		CHECK_EQ(
			map_put(b.map, MAP_HEAD, block * 7, payload_place(&b, 5, true), 5, b.seq++),
			0);
		if (k % 100 == 0)
			quiet_checkpoint(&b);
		CHECK_EQ(map_put(b.map, MAP_HEAD, block * 7, payload_place(&b, block + 1, true),
				 block + 1, b.seq++),
			 0);
	}
	CHECK_EQ(map_put(b.map, MAP_HEAD, 3, payload_place(&b, CRC32C_ZERO_BLOCK, true),
			 CRC32C_ZERO_BLOCK, b.seq++),
		 0); /* written zeros */
	quiet_checkpoint(&b);
	CHECK(a.root.digest == b.root.digest && a.root.digest != 0);
	CHECK_EQ(map_zero(a.map, MAP_HEAD, 0, BLOCKS, a.seq++), 0);
	quiet_checkpoint(&a);
	CHECK_EQ(a.root.digest, 0);
	CHECK_EQ(a.root.used_blocks, 0);
	bed_close(&a);
	bed_close(&b);
}

TEST(map, a_deleted_volume_gives_back_every_block)
{
	struct bed bed;
	struct space_info info;
	bed_open(&bed, 4);
	for (uint32_t i = 0; i < 300; i++)
		do_entry(&bed);
	full_checkpoint(&bed);
	CHECK_EQ(map_shadow_begin(bed.map, 2), 0);
	memcpy(bed.shadow, bed.head, BLOCKS * sizeof(*bed.head));
	for (uint32_t i = 0; i < 100; i++)
		do_live(&bed);
	quiet_checkpoint(&bed);
	for (uint32_t i = 0; i < 20; i++)
		do_live(&bed);
	bed.delete_all = true;
	do {
		quiet_checkpoint(&bed);
	} while (bed.trim_more);
	quiet_checkpoint(&bed);
	check_space(&bed);
	space_info(bed.space, &info);
	CHECK(info.referenced_blocks <= 5); /* the space table */
	bed_close(&bed);
}

/* ---- repair and damage ---- */

struct repair_arg {
	struct bed *bed;
	uint64_t block, place, new_place;
	uint32_t crc;
	bool applied;
};

static void repair_run(struct co *co, void *arg)
{
	struct repair_arg *r = arg;
	r->applied = map_repair(co, r->bed->map, r->block, r->place, r->crc, r->new_place);
}

static bool repair(struct bed *bed, uint64_t block, uint64_t place, uint32_t crc)
{
	struct repair_arg r = {bed, block, place, payload_place(bed, crc, false), crc, false};
	mem_run(bed->mem, repair_run, &r);
	if (!r.applied)
		space_cancel(bed->space, r.new_place, 1);
	return r.applied;
}

TEST(map, repair_replaces_a_place_only_while_the_block_is_unchanged)
{
	struct bed bed;
	struct look look;
	bed_open(&bed, 6);
	for (uint32_t i = 0; i < 100; i++)
		do_entry(&bed);
	for (uint32_t pass = 0; pass < 3; pass++) {
		for (uint64_t block = pass; block < BLOCKS; block += 97) {
			const struct model_block *m = &bed.head[block];
			look_up(&bed, &look, MAP_HEAD, block, 1);
			if (!m->data)
				continue;
			CHECK(!repair(&bed, block, look.versions[0].place + 1, m->crc));
			CHECK(!repair(&bed, block, look.versions[0].place, m->crc + 1));
			CHECK(repair(&bed, block, look.versions[0].place, m->crc));
		}
		check_all(&bed, MAP_HEAD, bed.head);
		quiet_checkpoint(&bed);
		check_all(&bed, MAP_HEAD, bed.head);
	}
	quiet_checkpoint(&bed);
	check_space(&bed);
	bed_close(&bed);
}

static void flip_block(struct bed *bed, uint64_t place)
{
	bed->mem->bytes[place * BLOCK_BYTES + 1234] ^= 4;
}

struct find {
	uint64_t page;  /* place of the first page */
	uint64_t index; /* of the last index block seen before it: a leaf */
	struct bed *bed;
};

static void find_ref(void *ctx, uint64_t place, uint32_t count, bool data, uint32_t crc,
		     uint64_t block)
{
	struct find *find = ctx;
	(void)count;
	(void)crc;
	(void)block;
	const struct block_header *h = (const void *)(find->bed->mem->bytes + place * BLOCK_BYTES);
	if (data || find->page)
		return;
	if (le32_get(h->magic) == MAGIC_PAGE)
		find->page = place;
	else
		find->index = place;
}

static void find_report(void *ctx, const char *line)
{
	(void)ctx;
	(void)line;
}

static void find_run(struct co *co, void *arg)
{
	struct find *find = arg;
	(void)map_walk(co, find->bed->map, find_ref, find_report, find);
}

TEST(map, a_rotten_page_loses_its_blocks_until_they_are_written_or_repaired)
{
	struct bed bed;
	struct look look;
	bed_open(&bed, 7);
	bed.fold_all = true;
	for (uint32_t block = 0; block < 600; block++) {
		CHECK_EQ(map_put(bed.map, MAP_HEAD, block, payload_place(&bed, block + 1, false),
				 block + 1, bed.seq),
			 0);
		bed.head[block] = (struct model_block){bed.seq++, block + 1, true};
	}
	quiet_checkpoint(&bed);
	struct find find = {.bed = &bed};
	mem_run(bed.mem, find_run, &find);
	flip_block(&bed, find.page);
	reload(&bed);
	look_up(&bed, &look, MAP_HEAD, 100, 256);
	CHECK(look.versions[0].bad_page && look.versions[155].bad_page);
	CHECK(!look.versions[156].bad_page && look.versions[156].crc32c == 257);
	CHECK_EQ(map_put(bed.map, MAP_HEAD, 5, payload_place(&bed, 77, true), 77, bed.seq++), 0);
	CHECK(!repair(&bed, 5, 0, 77)); /* it is whole again */
	CHECK(repair(&bed, 6, 0, 7));
	quiet_checkpoint(&bed);
	look_up(&bed, &look, MAP_HEAD, 0, 256);
	for (uint32_t i = 0; i < 256; i++)
		CHECK(look.versions[i].bad_page == (i != 5 && i != 6));
	CHECK_EQ(look.versions[5].crc32c, 77);
	CHECK(repair(&bed, 8, 0, 9));
	CHECK_EQ(map_zero(bed.map, MAP_HEAD, 9, 247, bed.seq++), 0);
	quiet_checkpoint(&bed);
	look_up(&bed, &look, MAP_HEAD, 0, 256);
	for (uint32_t i = 0; i < 256; i++)
		CHECK(look.versions[i].bad_page == (i != 5 && i != 6 && i < 8));
	bed_close(&bed);
}

TEST(map, an_unreadable_page_is_bad_and_an_unreadable_index_damages_only_its_map)
{
	struct bed bed;
	struct look look;
	bed_open(&bed, 7);
	bed.fold_all = true;
	for (uint32_t i = 0; i < 200; i++)
		do_entry(&bed);
	quiet_checkpoint(&bed);
	struct find find = {.bed = &bed};
	mem_run(bed.mem, find_run, &find);
	bed.mem->bad_block = find.index;
	reload(&bed);
	look_up(&bed, &look, MAP_HEAD, 0, 256);
	CHECK(look.versions[0].bad_page);
	do_entry(&bed);
	mem_run(bed.mem, checkpoint_run, &bed);
	CHECK_EQ(bed.rc, -EBADMSG);
	bed.mem->bad_block = 0;
	bed_close(&bed);
}

/* ---- walks ---- */

struct next_arg {
	struct bed *bed;
	uint64_t cursor, since, chunk;
	int rc;
};

static void next_run(struct co *co, void *arg)
{
	struct next_arg *n = arg;
	n->rc = map_next_chunk(co, n->bed->map, n->cursor, n->since, &n->chunk);
}

TEST(map, the_next_chunk_with_data_is_found_in_deltas_and_pages)
{
	struct bed bed;
	bed_open(&bed, 8);
	for (uint32_t round = 0; round < 30; round++) {
		do_zero(&bed, MAP_HEAD, bed.head, NULL);
		do_zero(&bed, MAP_HEAD, bed.head, NULL);
		do_write(&bed, MAP_HEAD, bed.head, NULL);
		if (rnd(&bed, 3) == 0)
			quiet_checkpoint(&bed);
		struct next_arg next = {.bed = &bed, .since = UINT64_MAX};
		for (uint64_t chunk = 0; chunk <= CHUNKS; chunk++) {
			bool any = false;
			for (uint32_t i = 0; chunk < CHUNKS && i < 256; i++)
				any |= bed.head[chunk * 256 + i].data;
			if (!any && chunk < CHUNKS)
				continue;
			mem_run(bed.mem, next_run, &next);
			CHECK_EQ(next.rc, chunk < CHUNKS ? 0 : -ENODATA);
			if (next.rc == 0)
				CHECK_EQ(next.chunk, chunk);
			next.cursor = chunk + 1;
		}
	}
	bed_close(&bed);
}

TEST(map, every_chunk_changed_since_a_seq_is_reported)
{
	struct bed bed;
	bed_open(&bed, 9);
	struct model_block *old = calloc(BLOCKS, sizeof(*old));
	for (uint32_t round = 0; round < 30; round++) {
		for (uint32_t i = 0; i < 20; i++)
			do_entry(&bed);
		if (rnd(&bed, 2))
			quiet_checkpoint(&bed);
		uint64_t since = bed.seq - 1;
		memcpy(old, bed.head, BLOCKS * sizeof(*old));
		for (uint64_t i = rnd(&bed, 5); i > 0; i--)
			do_entry(&bed);
		if (rnd(&bed, 2))
			quiet_checkpoint(&bed);
		struct next_arg next = {.bed = &bed, .since = since};
		bool reported[CHUNKS] = {false};
		for (;;) {
			mem_run(bed.mem, next_run, &next);
			if (next.rc < 0)
				break;
			reported[next.chunk] = true;
			next.cursor = next.chunk + 1;
		}
		CHECK_EQ(next.rc, -ENODATA);
		for (uint32_t i = 0; i < BLOCKS; i++) {
			bool differs =
				old[i].data != bed.head[i].data || old[i].crc != bed.head[i].crc;
			CHECK(!differs || reported[i / 256], "block %u", i);
		}
	}
	free(old);
	bed_close(&bed);
}

/* Zeros in a newer delta over what only an older one has: a replica that was away has the old data. */
TEST(map, a_zero_over_what_only_an_older_delta_has_is_reported)
{
	struct bed bed;
	bed_open(&bed, 3); /* keeps */
	CHECK_EQ(map_put(bed.map, MAP_HEAD, 700, payload_place(&bed, 1, false), 1, bed.seq++), 0);
	quiet_checkpoint(&bed);
	CHECK_EQ(map_kept_count(bed.map), 1);
	struct next_arg next = {.bed = &bed, .since = bed.seq};
	bed.seq += 10;
	CHECK_EQ(map_zero(bed.map, MAP_HEAD, 0, BLOCKS, bed.seq++), 0);
	mem_run(bed.mem, next_run, &next);
	CHECK_EQ(next.rc, 0);
	CHECK_EQ(next.chunk, 2);
	quiet_checkpoint(&bed);
	CHECK_EQ(map_kept_count(bed.map), 0);
	mem_run(bed.mem, next_run, &next);
	CHECK(next.rc == 0 && next.chunk == 2);
	bed_close(&bed);
}

/* ---- tombstones ---- */

struct count {
	struct bed *bed;
	uint32_t tombstones, entries;
};

static void count_run(struct co *co, void *arg)
{
	struct count *count = arg;
	struct next_arg next = {.bed = count->bed};
	count->entries = count->tombstones = 0;
	for (;;) { /* all that is remembered at all */
		next.rc = map_next_chunk(co, count->bed->map, next.cursor, 0, &next.chunk);
		if (next.rc < 0)
			return;
		bool any = false;
		for (uint32_t i = 0; i < 256; i++)
			any |= count->bed->head[next.chunk * 256 + i].data;
		count->entries++;
		count->tombstones += !any;
		next.cursor = next.chunk + 1;
	}
}

static struct count count_now(struct bed *bed)
{
	struct count count = {.bed = bed};
	mem_run(bed->mem, count_run, &count);
	return count;
}

TEST(map, a_tombstone_stays_until_it_is_settled_and_then_goes)
{
	for (uint64_t seed = 1; seed <= 4; seed++) {
		struct bed bed;
		bed_open(&bed, seed);
		for (uint32_t i = 0; i < 100; i++)
			do_write(&bed, MAP_HEAD, bed.head, NULL);
		full_checkpoint(&bed);
		CHECK_EQ(count_now(&bed).tombstones, 0);
		for (uint32_t chunk = 0; chunk < CHUNKS; chunk += 2) {
			CHECK_EQ(map_zero(bed.map, MAP_HEAD, chunk * 256, 256, bed.seq), 0);
			for (uint32_t i = chunk * 256; i < (chunk + 1) * 256; i++)
				model_put(&bed.head[i], bed.seq, 0, false);
			bed.seq++;
		}
		quiet_checkpoint(&bed);
		uint32_t all = count_now(&bed).tombstones;
		CHECK(all > 10);
		bed.settled_seq = bed.seq - 12; /* the last eleven chunks are newer */
		quiet_checkpoint(&bed);
		uint32_t left = count_now(&bed).tombstones;
		CHECK(left > 0 && left < all && left <= 11, "%u of %u", left, all);
		check_all(&bed, MAP_HEAD, bed.head);
		reload(&bed);
		CHECK_EQ(count_now(&bed).tombstones, left);
		bed.settled_seq = bed.seq - 1;
		quiet_checkpoint(&bed);
		CHECK_EQ(count_now(&bed).tombstones, 0);
		check_all(&bed, MAP_HEAD, bed.head);
		check_space(&bed);
		CHECK_EQ(map_zero(bed.map, MAP_HEAD, 0, BLOCKS, bed.seq), 0);
		for (uint32_t i = 0; i < BLOCKS; i++)
			model_put(&bed.head[i], bed.seq, 0, false);
		quiet_checkpoint(&bed);
		CHECK(count_now(&bed).tombstones > 0);
		bed.settled_seq = bed.seq++;
		quiet_checkpoint(&bed);
		CHECK_EQ(count_now(&bed).entries, 0);
		CHECK_EQ(bed.root.levels, 0); /* nothing is left of it */
		check_all(&bed, MAP_HEAD, bed.head);
		check_space(&bed);
		bed_close(&bed);
	}
}

/* It says zeros where the old head has data. */
TEST(map, no_tombstone_goes_while_there_is_a_second_node)
{
	struct bed bed;
	bed_open(&bed, 1);
	for (uint32_t i = 0; i < 60; i++)
		do_write(&bed, MAP_HEAD, bed.head, NULL);
	full_checkpoint(&bed);
	CHECK_EQ(map_shadow_begin(bed.map, 2), 0);
	memcpy(bed.shadow, bed.head, BLOCKS * sizeof(*bed.head));
	CHECK_EQ(map_zero(bed.map, MAP_SHADOW, 0, BLOCKS, bed.seq), 0);
	for (uint32_t i = 0; i < BLOCKS; i++)
		model_put(&bed.shadow[i], bed.seq, 0, false);
	bed.settled_seq = ++bed.seq;
	bed.no_trim = true;
	for (uint32_t i = 0; i < 3; i++) {
		quiet_checkpoint(&bed);
		check_all(&bed, MAP_SHADOW, bed.shadow);
		check_all(&bed, MAP_HEAD, bed.head);
	}
	map_shadow_adopt(bed.map);
	for (uint32_t i = 0; i < 3; i++) {
		quiet_checkpoint(&bed);
		check_all(&bed, MAP_HEAD, bed.shadow);
	}
	bed.no_trim = false;
	do {
		quiet_checkpoint(&bed);
	} while (bed.trim_more);
	for (uint32_t i = 0; i < 3; i++)
		quiet_checkpoint(&bed);
	check_all(&bed, MAP_HEAD, bed.shadow);
	CHECK_EQ(count_now(&bed).entries, 0);
	check_space(&bed);
	bed_close(&bed);
}

/* ---- what is kept ---- */

TEST(map, kept_entries_stay_within_their_share_and_the_fullest_chunks_go_first)
{
	struct map_pool_info before, after;
	struct bed bed;
	bed_open(&bed, 3);
	map_destroy(bed.map);
	map_pool_destroy(bed.pool);
	space_destroy(bed.space);
	bed.delta_bytes = 512 << 10; /* kept: up to 224 KiB */
	bed.fold_entries = 1000;     /* only memory counts */
	bed_memory(&bed);
	bed.map = map_create(bed.pool, &bed.root);
	uint64_t folds = 0, folded_entries = 0;
	for (uint32_t round = 0; round < 120; round++) {
		for (uint32_t i = 0; i < 400; i++) { /* a quarter of the chunks gets most */
			uint64_t block = rnd(&bed, rnd(&bed, 4) ? BLOCKS / 4 : BLOCKS);
			CHECK_EQ(map_put(bed.map, MAP_HEAD, block,
					 payload_place(&bed, round, false), round, bed.seq),
				 0);
			model_put(&bed.head[block], bed.seq++, round, true);
		}
		uint64_t kept = map_kept_count(bed.map);
		map_pool_info(bed.pool, &before);
		quiet_checkpoint(&bed);
		map_pool_info(bed.pool, &after);
		CHECK(after.kept_bytes <= 224 << 10, "round %u: %llu bytes", round,
		      (unsigned long long)after.kept_bytes);
		CHECK_EQ(map_pool_delta_bytes(bed.pool), 0);
		folds += after.pages_written - before.pages_written;
		if (after.pages_written > before.pages_written && map_kept_count(bed.map) < kept)
			folded_entries += kept - map_kept_count(bed.map);
		if (round % 10 == 0) {
			check_all(&bed, MAP_HEAD, bed.head);
			check_space(&bed);
		}
		if (round % 15 == 14)
			reload(&bed);
	}
	CHECK(folds > 20 && folded_entries / folds > 100, "%llu entries in %llu folds",
	      (unsigned long long)folded_entries, (unsigned long long)folds);
	check_all(&bed, MAP_HEAD, bed.head);
	full_checkpoint(&bed);
	check_all(&bed, MAP_HEAD, bed.head);
	check_space(&bed);
	bed_close(&bed);
}

/* A repair's version keeps its seq: in the run table the later of two equal ones counts. */
TEST(map, a_kept_block_that_is_repaired_has_its_new_place_after_a_restart)
{
	struct look look;
	struct bed bed;
	bed_open(&bed, 3);
	CHECK_EQ(map_put(bed.map, MAP_HEAD, 9, payload_place(&bed, 5, false), 5, bed.seq), 0);
	bed.head[9] = (struct model_block){bed.seq++, 5, true};
	quiet_checkpoint(&bed);
	for (uint32_t round = 0; round < 4; round++) {
		look_up(&bed, &look, MAP_HEAD, 9, 1);
		uint64_t place = look.versions[0].place;
		CHECK(repair(&bed, 9, place, 5));
		quiet_checkpoint(&bed);
		quiet_checkpoint(&bed);
		reload(&bed);
		look_up(&bed, &look, MAP_HEAD, 9, 1);
		CHECK(look.versions[0].place != place);
		check_all(&bed, MAP_HEAD, bed.head);
		check_space(&bed);
	}
	bed_close(&bed);
}

/* ---- figures ---- */

static double seconds(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

TEST(map, figures_are_printed)
{
	struct mem_env *mem = mem_env_create(4ull << 30, 1);
	struct space_geometry geometry = {
		.data_start = DATA_START, .size_blocks = 1 << 20, .store_uuid = test_uuid};
	struct map_pool_config config = {.cache_bytes = 64 << 20,
					 .delta_bytes = 96 << 20,
					 .fold_entries = 1,
					 .store_uuid = test_uuid};
	struct bed bed = {.mem = mem, .trim_pages = 1, .sink = {.add = run_add, .ctx = &bed}};
	bed.space = space_create(&mem->device, &geometry);
	bed.pool = map_pool_create(&mem->device, bed.space, &config);
	bed.root.head_node = 1;
	bed.map = map_create(bed.pool, &bed.root);
	double start = seconds();
	const uint32_t entries = 1000000;
	for (uint32_t i = 0; i < entries; i++)
		CHECK_EQ(map_put(bed.map, MAP_HEAD, rnd(&bed, 1 << 20), 16 + i % 4096, i, 1 + i),
			 0);
	double put = seconds() - start;
	uint64_t bytes = map_pool_delta_bytes(bed.pool);
	struct look look;
	start = seconds();
	for (uint32_t i = 0; i < 1000000; i++)
		look_up(&bed, &look, MAP_HEAD, rnd(&bed, 1 << 20), 1);
	double delta_look = seconds() - start;
	start = seconds();
	map_destroy(bed.map);
	bed.map = map_create(bed.pool, &bed.root);
	struct space_extent extents[64];
	uint32_t count;
	for (uint32_t i = 0; i < 400000; i++) {
		CHECK_EQ(space_alloc(bed.space, SPACE_NORMAL, 1, extents, 64, &count), 0);
		CHECK_EQ(map_put(bed.map, MAP_HEAD, rnd(&bed, 1 << 20), extents[0].place, i, 1 + i),
			 0);
	}
	start = seconds();
	quiet_checkpoint(&bed);
	double fold = seconds() - start;
	for (uint32_t block = 0; block < 1 << 20; block += 256)
		look_up(&bed, &look, MAP_HEAD, block, 1);
	start = seconds();
	for (uint32_t i = 0; i < 1000000; i++)
		look_up(&bed, &look, MAP_HEAD, rnd(&bed, 1 << 20), 1);
	double page_look = seconds() - start;
	printf("put %.0f ns (%llu bytes an entry at 1M), look-up in deltas %.0f ns, in cached "
	       "pages %.0f ns, "
	       "fold of 400k random entries into 4096 pages %.0f ms\n",
	       put * 1e9 / entries, (unsigned long long)(bytes / 650000), delta_look * 1e9 / 1e6,
	       page_look * 1e9 / 1e6, fold * 1e3);
	map_destroy(bed.map);
	map_pool_destroy(bed.pool);
	space_destroy(bed.space);
	mem_env_destroy(mem);
}
