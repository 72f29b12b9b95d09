/* SPDX-License-Identifier: Apache-2.0 */
/* P2 under random work and crashes; what is rot and what was never written. */
#include "tests/sim/store_rig.h"

#include "store/desc.h"

/* One step of random work on random volumes. */
static void random_step(struct rig *rig, struct sim_rng *rng)
{
	unsigned volume = (unsigned)sim_rng_below(rng, 2);
	struct rig_volume *v = &rig->volumes[volume];
	uint64_t what = sim_rng_below(rng, 100);
	if (what < 75 && v->last_seq + 1 < RIG_ENTRIES) {
		uint64_t length = sim_rng_below(rng, 4) ? sim_rng_range(rng, 1, 3)
							: sim_rng_range(rng, 1, 40);
		uint64_t address = sim_rng_below(rng, RIG_BLOCKS - length + 1);
		bool zero = sim_rng_below(rng, 8) == 0;
		rig_write_async(rig, volume, zero ? LOG_ZERO : LOG_WRITE, address, length);
	} else if (what < 85) {
		store_commit(v->replica, sim_rng_range(rng, 0, v->acked_seq));
	} else {
		sim_run_for(rig->sim, sim_rng_below(rng, 3 * SIM_MS));
	}
}

static void random_life(struct rig *rig, struct sim_rng *rng, enum sim_kill how)
{
	uint64_t steps = sim_rng_below(rng, 120);
	for (uint64_t i = 0; i < steps; i++)
		random_step(rig, rng);
	if (sim_rng_below(rng, 3) == 0) {
		struct rig_call *c = rig_sync(rig);
		store_checkpoint(rig->store, &c->u.op);
	}
	for (uint64_t i = 0; i < steps / 3; i++)
		random_step(rig, rng);
	sim_run_for(rig->sim, sim_rng_below(rng, 8 * SIM_MS));
	rig_crash(rig, how);
}

static void check_line(void *ctx, const char *line)
{
	(void)ctx;
	fprintf(stderr, "store check: %s\n", line);
}

static void check_job(struct co *co, void *arg)
{
	struct rig *rig = arg;
	uint64_t findings;
	rig->status =
		store_check(co, rig->env, RIG_PATH, true, check_line, NULL, &findings, &rig->err);
	rig->is_done = true;
}

static void random_run(uint64_t seed, enum sim_kill how, unsigned lives)
{
	struct rig *rig = rig_start(seed);
	struct sim_rng rng;
	sim_rng_seed(&rng, seed, 99);
	for (unsigned life = 0; life < lives; life++) {
		random_life(rig, &rng, how);
		for (unsigned nested = 0; sim_rng_below(&rng, 3) == 0 && nested < 3; nested++) {
			/* A crash in the middle of recovery. */
			rig->is_done = false;
			co_start(rig->co, rig_open_job, rig);
			sim_run_for(rig->sim, sim_rng_below(&rng, 5 * SIM_MS));
			rig_crash(rig, how);
		}
		CHECK_EQ(rig_open(rig), 0);
		for (unsigned i = 0; i < 2; i++) {
			rig_check_prefix(rig, i);
			if (sim_rng_below(&rng, 2))
				rig_take(rig, i, rig->volumes[i].epoch + 1);
		}
	}
	rig_close(rig);
	rig_run(rig, check_job);
	CHECK(rig->status == 0, "seed %llu: %s", (unsigned long long)seed, rig->err.text);
	CHECK_EQ(rig_open(rig), 0);
	rig_check_prefix(rig, 0);
	rig_check_prefix(rig, 1);
	rig_destroy(rig);
}

TEST(store_recover, a_power_cut_leaves_a_prefix_with_everything_acknowledged)
{
	for (uint64_t seed = 1; seed <= 60; seed++)
		random_run(seed, SIM_KILL_POWER, 12);
}

TEST(store_recover, a_killed_process_leaves_a_prefix_with_everything_acknowledged)
{
	for (uint64_t seed = 1; seed <= 20; seed++)
		random_run(seed, SIM_KILL_PROCESS, 8);
}

TEST(store_recover, rot_of_a_witnessed_descriptor_makes_what_it_hits_suspect)
{
	struct rig *rig = rig_start(1);
	for (unsigned i = 0; i < 4; i++) {
		CHECK_EQ(rig_write(rig, 0, LOG_WRITE, i, 1), 0);
		CHECK_EQ(rig_write(rig, 1, LOG_WRITE, i, 1), 0);
	}
	sim_run_for(rig->sim, 50 * SIM_MS); /* sealed */
	uint64_t place = rig_find_record(rig, LOG_WRITE, 3);
	rig_crash(rig, SIM_KILL_POWER);
	sim_disk_flip(rig->disk, place * BLOCK_BYTES + 200, 5);
	CHECK_EQ(rig_open(rig), 0);
	struct store_replica_info a = rig_info(rig, 0), b = rig_info(rig, 1);
	CHECK(a.suspect);
	CHECK_EQ(a.last_seq, 2);
	CHECK_EQ(a.suspect_after, 2);
	CHECK(a.suspect_until >= 4);
	CHECK(!b.suspect, "volume b goes on behind the gap");
	CHECK_EQ(b.last_seq, 4);
	rig_check_volume(rig, 1, 4);
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 0, 1), -EUCLEAN);
	/* It stays so over restarts, and an ADOPT ends it. */
	rig_crash(rig, SIM_KILL_POWER);
	CHECK_EQ(rig_open(rig), 0);
	CHECK(rig_info(rig, 0).suspect);
	rig_take(rig, 0, 2);
	CHECK(!rig_info(rig, 0).suspect);
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 0, 1), 0);
	rig_destroy(rig);
}

TEST(store_recover, a_gap_makes_leases_and_promises_unknown_also_where_it_is_bridged)
{
	struct rig *rig = rig_start(1);
	for (unsigned i = 0; i < 4; i++)
		CHECK_EQ(rig_write(rig, 0, LOG_WRITE, i, 1), 0);
	CHECK_EQ(rig_write(rig, 1, LOG_WRITE, 0, 1), 0);
	sim_run_for(rig->sim, 50 * SIM_MS);
	uint64_t place = rig_find_record(rig, LOG_WRITE, 3);
	rig_crash(rig, SIM_KILL_POWER);
	sim_disk_flip(rig->disk, place * BLOCK_BYTES + 200, 5);
	CHECK_EQ(rig_open(rig), 0);
	CHECK(!rig_info(rig, 1).suspect);
	CHECK(rig_info(rig, 1).lease_boot_id != 0);
	CHECK(rig_info(rig, 1).lease_term_ns >= 1000000000);
	rig_destroy(rig);
}

TEST(store_recover, makes_the_newest_root_whole_before_it_writes_another)
{
	struct rig *rig = rig_start(1);
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 0, 1), 0);
	struct store_info info;
	store_info(rig->store, &info);
	rig_close(rig);
	uint64_t slot = (info.root_generation + 1) % 2;
	uint64_t bad = (1 + slot) * BLOCK_BYTES;
	char before[BLOCK_BYTES], after[BLOCK_BYTES];
	sim_image_read(sim_disk_current(rig->disk), bad, before, BLOCK_BYTES);
	sim_disk_flip(rig->disk, bad + 40, 3);
	/* From the root's repair on, the next root's slot cannot be written. */
	sim_disk_fail(rig->disk, &(struct sim_disk_fault){.op = ENV_IO_WRITE,
							  .count = UINT64_MAX,
							  .offset_bytes = (2 - slot) * BLOCK_BYTES,
							  .length_bytes = BLOCK_BYTES,
							  .status = -EIO});
	CHECK_EQ(rig_open(rig), -EIO);
	sim_image_read(sim_disk_current(rig->disk), bad, after, BLOCK_BYTES);
	CHECK(memcmp(before, after, BLOCK_BYTES) == 0);
	sim_disk_fail_none(rig->disk);
	CHECK_EQ(rig_open(rig), 0);
	rig_check_prefix(rig, 0);
	rig_destroy(rig);
}

TEST(store_recover, an_unwitnessed_bad_descriptor_was_never_written)
{
	struct rig *rig = rig_start(1);
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 0, 1), 0);
	sim_run_for(rig->sim, 50 * SIM_MS);
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 1, 1), 0);
	uint64_t place = rig_find_record(rig, LOG_WRITE, 2);
	rig_crash(rig, SIM_KILL_POWER); /* before the seal */
	sim_disk_flip(rig->disk, place * BLOCK_BYTES + 200, 5);
	CHECK_EQ(rig_open(rig), 0);
	CHECK(!rig_info(rig, 0).suspect);
	CHECK_EQ(rig_info(rig, 0).last_seq, 1);
	rig_check_volume(rig, 0, 1);
	rig_destroy(rig);
}

TEST(store_recover, payload_of_an_unwitnessed_batch_is_checked)
{
	for (unsigned blocks = 1; blocks <= 40; blocks += 39) { /* inline, redirected */
		struct rig *rig = rig_start(1);
		CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 0, 1), 0);
		sim_run_for(rig->sim, 50 * SIM_MS);
		CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 1, blocks), 0);
		char payload[BLOCK_BYTES], block[BLOCK_BYTES];
		rig_fill_block(payload, rig->volumes[0].entries[2].version, blocks - 1);
		rig_crash(rig, SIM_KILL_POWER);
		for (uint64_t at = 0; at < STORE_SIZE_MIN_BYTES; at += BLOCK_BYTES) {
			sim_image_read(sim_disk_current(rig->disk), at, block, BLOCK_BYTES);
			if (memcmp(block, payload, BLOCK_BYTES) == 0)
				sim_disk_flip(rig->disk, at + 5, 5);
		}
		CHECK_EQ(rig_open(rig), 0);
		CHECK(!rig_info(rig, 0).suspect);
		CHECK_EQ(rig_info(rig, 0).last_seq, 1);
		rig_destroy(rig);
	}
}

TEST(store_recover, an_older_root_is_never_taken_for_the_newest)
{
	struct rig *rig = rig_start(1);
	CHECK_EQ(rig_checkpoint(rig), 0);
	struct sim_image *before = sim_image_clone(sim_disk_current(rig->disk));
	struct store_info info;
	store_info(rig->store, &info);
	CHECK_EQ(rig_checkpoint(rig), 0);
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 0, 1), 0); /* saw the newer root */
	rig_crash(rig, SIM_KILL_POWER);
	/* Both copies of the newest root as they were before: lost writes. */
	struct sim_image *image = sim_image_clone(sim_disk_current(rig->disk));
	char block[BLOCK_BYTES];
	uint64_t slot = (info.root_generation + 1) % 2;
	uint64_t places[2] = {1 + slot, 16 + info.ring_blocks + slot};
	for (unsigned i = 0; i < 2; i++) {
		sim_image_read(before, places[i] * BLOCK_BYTES, block, BLOCK_BYTES);
		sim_image_write(image, places[i] * BLOCK_BYTES, block, BLOCK_BYTES);
	}
	sim_disk_image_set(rig->disk, image);
	CHECK_EQ(rig_open(rig), -EUCLEAN);
	CHECK(strstr(rig->err.text, "newer root"), "%s", rig->err.text);
	sim_image_free(before);
	sim_image_free(image);
	rig_destroy(rig);
}

/* Among 20 blocks: fewer than fold_entries, all of them stay in the run table. */
static void write_thinly(struct rig *rig, unsigned volume, unsigned count, unsigned from)
{
	for (unsigned i = 0; i < count; i++)
		CHECK_EQ(rig_write(rig, volume, LOG_WRITE, (from + i) % 20, 1), 0);
	store_commit(rig->volumes[volume].replica, rig->volumes[volume].acked_seq);
}

static struct store_info rig_store_info(struct rig *rig)
{
	struct store_info info;
	store_info(rig->store, &info);
	return info;
}

/* The store is not open. */
static void rig_check_offline(struct rig *rig)
{
	rig_run(rig, check_job);
	CHECK_EQ(rig->status, 0);
}

TEST(store_runs, a_few_entries_need_no_page_and_survive_many_checkpoints_and_crashes)
{
	struct rig *rig = rig_start(3); /* fold_entries 32 */
	for (unsigned round = 0; round < 12; round++) {
		struct store_info before = rig_store_info(rig);
		write_thinly(rig, round % 2, 8, round * 5);
		CHECK_EQ(rig_checkpoint(rig), 0);
		struct store_info after = rig_store_info(rig);
		CHECK(after.pages_written == before.pages_written, "round %u", round);
		CHECK_EQ(after.pages_read, 0);
		rig_check_prefix(rig, 0);
		rig_check_prefix(rig, 1);
		if (round % 3 != 2)
			continue;
		rig_crash(rig, round % 2 ? SIM_KILL_POWER : SIM_KILL_PROCESS);
		rig_check_offline(rig);
		CHECK_EQ(rig_open(rig), 0);
		for (unsigned v = 0; v < 2; v++) {
			rig_check_prefix(rig, v);
			rig_take(rig, v, 2 + round);
		}
	}
	rig_destroy(rig);
}

TEST(store_runs, many_entries_of_a_chunk_are_folded_and_void_in_the_run_table)
{
	struct rig *rig = rig_start(3);
	write_thinly(rig, 0, 8, 0);
	CHECK_EQ(rig_checkpoint(rig), 0);
	CHECK_EQ(rig_store_info(rig).pages_written, 0);
	for (unsigned i = 0; i < 40; i++)
		CHECK_EQ(rig_write(rig, 0, LOG_WRITE, i + 10, 1), 0);
	store_commit(rig->volumes[0].replica, rig->volumes[0].acked_seq);
	CHECK_EQ(rig_checkpoint(rig), 0);
	CHECK_EQ(rig_store_info(rig).pages_written, 1);
	CHECK_EQ(rig_checkpoint(rig), 0);
	rig_crash(rig, SIM_KILL_POWER);
	rig_check_offline(rig);
	CHECK_EQ(rig_open(rig), 0);
	rig_check_prefix(rig, 0);
	/* A zero is folded, with what was kept of its chunks. */
	rig_take(rig, 0, 2);
	CHECK_EQ(rig_write(rig, 0, LOG_ZERO, 0, RIG_BLOCKS), 0);
	store_commit(rig->volumes[0].replica, rig->volumes[0].acked_seq);
	CHECK_EQ(rig_checkpoint(rig), 0);
	CHECK_EQ(rig_checkpoint(rig), 0);
	CHECK_EQ(rig_info(rig, 0).used_blocks, 0);
	rig_crash(rig, SIM_KILL_POWER);
	rig_check_offline(rig);
	CHECK_EQ(rig_open(rig), 0);
	rig_check_prefix(rig, 0);
	rig_destroy(rig);
}

TEST(store_runs, what_a_deleted_volume_kept_is_given_back)
{
	struct rig *rig = rig_start(3);
	for (unsigned i = 0; i < 4; i++)
		CHECK_EQ(rig_checkpoint(rig), 0);
	uint64_t used = rig_store_info(rig).used_blocks;
	write_thinly(rig, 0, 20, 0);
	CHECK_EQ(rig_checkpoint(rig), 0);
	CHECK_EQ(rig_store_info(rig).pages_written, 0);
	CHECK(rig_store_info(rig).used_blocks >= used + 20);
	struct rig_call *c = rig_sync(rig);
	store_replica_delete(rig->volumes[0].replica, &c->u.op);
	CHECK_EQ(rig_wait(rig), 0);
	rig_crash(rig, SIM_KILL_POWER);
	rig_check_offline(rig);
	CHECK_EQ(rig_open(rig), 0);
	for (unsigned i = 0; i < 4; i++)
		CHECK_EQ(rig_checkpoint(rig), 0);
	CHECK(rig_store_info(rig).used_blocks <= used + 4, "%llu blocks in use, %llu before",
	      (unsigned long long)rig_store_info(rig).used_blocks, (unsigned long long)used);
	rig_destroy(rig);
}

/* Its entries were in the tail of one root; the next must not count them, though no page ever named them. */
TEST(store_runs, a_volume_deleted_right_after_its_tail_was_committed_leaves_nothing_in_use)
{
	for (uint64_t seed = 1; seed <= 3; seed++) {
		struct rig *rig = rig_start(seed);
		rig->no_commit = true;
		for (unsigned i = 0; i < 10; i++)
			CHECK_EQ(rig_write(rig, 0, LOG_WRITE, i, 1 + i), 0);
		CHECK_EQ(rig_checkpoint(rig), 0);
		store_commit(rig->volumes[0].replica, rig->volumes[0].acked_seq);
		struct rig_call *c = rig_sync(rig);
		store_replica_delete(rig->volumes[0].replica, &c->u.op);
		CHECK_EQ(rig_wait(rig), 0);
		CHECK_EQ(rig_checkpoint(rig), 0);
		rig_crash(rig, SIM_KILL_POWER);
		rig_check_offline(rig);
		CHECK_EQ(rig_open(rig), 0);
		CHECK(!rig->volumes[0].replica);
		rig_destroy(rig);
	}
}

/* So many pages that one checkpoint does not free them: the volume stays in the table, DELETING, and what the run
 * table has of it is void. */
TEST(store_runs, a_volume_that_is_being_deleted_for_long_has_no_entries_any_more)
{
	struct rig *rig = rig_create(1); /* fold_entries 1 */
	CHECK_EQ(rig_format(rig), 0);
	CHECK_EQ(rig_open(rig), 0);
	CHECK_EQ(rig_create_replica(rig, 0, 1u << 21), 0);
	rig_take(rig, 0, 1);
	for (unsigned i = 0; i < 2200; i++) {
		while (!rig_write_async(rig, 0, LOG_WRITE, 255 + i * 512, 2)) /* two chunks */
			sim_run_for(rig->sim, SIM_MS);
		store_commit(rig->volumes[0].replica, rig->volumes[0].acked_seq);
		if (rig_busy(rig) > 60)
			sim_run_for(rig->sim, SIM_MS);
	}
	rig_drain(rig);
	store_commit(rig->volumes[0].replica, rig->volumes[0].acked_seq);
	rig_close(rig);
	rig->config.fold_entries = 32;
	CHECK_EQ(rig_open(rig), 0);
	rig_take(rig, 0, 2);
	write_thinly(rig, 0, 20, 0);
	CHECK_EQ(rig_checkpoint(rig), 0);
	CHECK_EQ(rig_create_replica(rig, 1, RIG_BLOCKS), 0);
	rig_take(rig, 1, 1);
	write_thinly(rig, 1, 20, 0); /* so that the chain is not simply given up */
	CHECK_EQ(rig_checkpoint(rig), 0);
	struct rig_call *c = rig_sync(rig);
	store_replica_delete(rig->volumes[0].replica, &c->u.op);
	CHECK_EQ(rig_wait(rig), 0);
	for (unsigned i = 0; i < 4; i++) {
		CHECK_EQ(rig_checkpoint(rig), 0);
		rig_crash(rig, SIM_KILL_POWER);
		rig_check_offline(rig);
		CHECK_EQ(rig_open(rig), 0);
		rig_check_prefix(rig, 1);
	}
	rig_destroy(rig);
}

TEST(store_runs, less_delta_memory_than_the_run_table_needs_still_opens)
{
	struct rig *rig = rig_create(3);
	rig->config.fold_entries = 300;
	rig->config.delta_bytes = 8 << 20;
	CHECK_EQ(rig_format(rig), 0);
	CHECK_EQ(rig_open(rig), 0);
	CHECK_EQ(rig_create_replica(rig, 0, 1u << 20), 0);
	rig_take(rig, 0, 1);
	for (unsigned i = 0; i < 3500; i++) {
		while (!rig_write_async(rig, 0, LOG_WRITE, i * 211, 1))
			sim_run_for(rig->sim, SIM_MS);
		store_commit(rig->volumes[0].replica, rig->volumes[0].acked_seq);
		if (rig_busy(rig) > 60)
			sim_run_for(rig->sim, SIM_MS);
	}
	rig_drain(rig);
	store_commit(rig->volumes[0].replica, rig->volumes[0].acked_seq);
	CHECK_EQ(rig_checkpoint(rig), 0);
	CHECK_EQ(rig_store_info(rig).pages_written, 0);
	CHECK(rig_store_info(rig).delta_bytes > 80 << 10);
	rig_crash(rig, SIM_KILL_POWER);
	rig_check_offline(rig);
	rig->config.delta_bytes = 128 << 10;
	CHECK_EQ(rig_open(rig), 0);
	CHECK(rig_store_info(rig).pages_written > 0);
	CHECK(rig_store_info(rig).delta_bytes <= 64 << 10);
	rig_check_prefix(rig, 0);
	rig_destroy(rig);
}

TEST(store_runs, rot_of_the_run_table_is_said_and_never_an_older_state_shown)
{
	struct rig *rig = rig_start(3);
	write_thinly(rig, 0, 8, 0);
	CHECK_EQ(rig_checkpoint(rig), 0);
	struct store_info info = rig_store_info(rig);
	struct root root;
	uint64_t at = (PLACE_ROOT_0 + info.root_generation % 2) * BLOCK_BYTES;
	rig_crash(rig, SIM_KILL_POWER);
	sim_image_read(sim_disk_current(rig->disk), at, &root, sizeof(root));
	CHECK(le64_get(root.runs.place) != 0 && le64_get(root.run_live) == 8);
	sim_disk_flip(rig->disk, le64_get(root.runs.place) * BLOCK_BYTES + 100, 1);
	CHECK_EQ(rig_open(rig), -EUCLEAN);
	CHECK(strstr(rig->err.text, "table 6: block"), "%s", rig->err.text);
	rig_destroy(rig);
}

/* What the kept entries supersede in pages is in use until they are folded: they must be, when space is short. */
TEST(store_runs, overwrites_of_a_full_store_get_their_space_from_what_is_kept)
{
	struct rig *rig = rig_create(1); /* fold_entries 1 */
	CHECK_EQ(rig_format(rig), 0);
	CHECK_EQ(rig_open(rig), 0);
	CHECK_EQ(rig_create_replica(rig, 0, 1u << 16), 0);
	rig_take(rig, 0, 1);
	struct rig_volume *v = &rig->volumes[0];
	unsigned filled = 0;
	while (rig_write(rig, 0, LOG_WRITE, filled * 256, 256) == 0) {
		store_commit(v->replica, v->acked_seq);
		CHECK(++filled < 100);
	}
	CHECK(filled > 40);
	rig_close(rig);
	rig->config.fold_entries = 300;
	CHECK_EQ(rig_open(rig), 0);
	rig_take(rig, 0, 2);
	for (unsigned i = 0; i < 3500; i++) {
		CHECK(rig_write(rig, 0, LOG_WRITE, i * 37 % (filled * 256), 1) == 0, "overwrite %u",
		      i);
		store_commit(v->replica, v->acked_seq);
		if (i % 100 == 0)
			CHECK_EQ(rig_checkpoint(rig), 0);
	}
	rig_crash(rig, SIM_KILL_POWER);
	rig_check_offline(rig);
	CHECK_EQ(rig_open(rig), 0);
	rig_check_prefix(rig, 0);
	rig_destroy(rig);
}

/* What may have been forgotten is known after a crash: a resync from before it compares in full. */
TEST(store_settle, is_durable_with_the_checkpoint_that_forgets_and_goes_over_into_a_shadow)
{
	struct rig *rig = rig_start(2);
	write_thinly(rig, 0, 8, 0);
	CHECK_EQ(rig_write(rig, 0, LOG_ZERO, 0, RIG_BLOCKS), 0);
	store_commit(rig->volumes[0].replica, rig->volumes[0].acked_seq);
	CHECK_EQ(rig_checkpoint(rig), 0);
	CHECK_EQ(rig_info(rig, 0).checkpoint_seq, 9);
	struct rig_call *c = rig_sync(rig);
	c->u.changes.since_seq = 8;
	store_changes(rig->volumes[0].replica, &c->u.changes);
	CHECK_EQ(rig_wait(rig), 0);
	store_settle(rig->volumes[0].replica, 9);
	store_settle(rig->volumes[0].replica, 4); /* never back */
	CHECK_EQ(rig_info(rig, 0).settled_seq, 9);
	CHECK_EQ(rig_checkpoint(rig), 0);
	rig_crash(rig, SIM_KILL_POWER);
	rig_check_offline(rig);
	CHECK_EQ(rig_open(rig), 0);
	CHECK_EQ(rig_info(rig, 0).settled_seq, 9);
	c = rig_sync(rig);
	c->u.changes.since_seq = 8;
	store_changes(rig->volumes[0].replica, &c->u.changes);
	CHECK_EQ(rig_wait(rig), -ENODATA);
	CHECK_EQ(c->u.changes.commit_seq, 9);
	/* Another replica, filled from one that has forgotten more. */
	c = rig_sync(rig);
	c->u.shadow = (struct store_shadow){
		.op = c->u.shadow.op, .epoch = 1, .first_seq = 30, .settled_seq = 20};
	store_shadow_begin(rig->volumes[1].replica, &c->u.shadow);
	CHECK_EQ(rig_wait(rig), 0);
	CHECK_EQ(rig_info(rig, 1).settled_seq, 20);
	rig_crash(rig, SIM_KILL_POWER);
	CHECK_EQ(rig_open(rig), 0);
	CHECK_EQ(rig_info(rig, 1).settled_seq, 20);
	rig_destroy(rig);
}
