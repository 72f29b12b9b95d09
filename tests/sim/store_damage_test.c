/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A replica whose map is damaged: rot in an index block, found by the fold of a checkpoint. What was to be folded is
 * in no table then, so the map may lack committed entries wherever it can still be read. The replica is suspect, and an
 * ADOPT says nothing about maps: neither when it is asked for, nor when it was under way, nor in recovery.
 */
#include "tests/sim/store_rig.h"

/* Volume 0 has a map, whose index is rotten on the device, and is taken at epoch 2. */
static struct rig *rotten_index(void)
{
	struct rig *rig = rig_start(1); /* every change is folded */
	unsigned found = 0;
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 0, 4), 0);
	store_commit(rig->volumes[0].replica, 1);
	rig_close(rig);
	for (uint64_t at = 0; at < STORE_SIZE_MIN_BYTES; at += BLOCK_BYTES) {
		le32 magic;
		sim_image_read(sim_disk_current(rig->disk), at, &magic, sizeof(magic));
		if (le32_get(magic) != MAGIC_INDEX)
			continue;
		sim_disk_flip(rig->disk, at + 100, 3);
		found++;
	}
	CHECK(found >= 1);
	CHECK_EQ(rig_open(rig), 0);
	rig_take(rig, 0, 2);
	CHECK(!rig_info(rig, 0).suspect); /* nobody has looked */
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 8, 4), 0);
	store_commit(rig->volumes[0].replica, 2);
	return rig;
}

static void expect_damaged(struct rig *rig)
{
	struct store_replica_info info = rig_info(rig, 0);
	CHECK(info.suspect, "it counts as healthy");
	CHECK(info.map_damaged);
	CHECK_EQ(info.suspect_after, 0);
	CHECK_EQ(info.suspect_until, UINT64_MAX);
}

static struct rig *damaged_rig(void)
{
	struct rig *rig = rotten_index();
	CHECK_EQ(rig_checkpoint(rig), 0);
	expect_damaged(rig);
	return rig;
}

static int adopt_what_is_there(struct rig *rig)
{
	struct store_replica_info info = rig_info(rig, 0);
	CHECK_EQ(rig_promise(rig, 0, info.promised + 1), 0);
	return rig_adopt(rig, 0, info.promised + 1, info.last_seq, info.last_seq, info.last_hash);
}

TEST(store_damage, an_adopt_does_not_mend_a_map)
{
	struct rig *rig = damaged_rig();
	for (unsigned life = 0; life < 3; life++) {
		CHECK_EQ(adopt_what_is_there(rig), -EUCLEAN);
		expect_damaged(rig);
		CHECK_EQ(rig_checkpoint(rig), 0);
		expect_damaged(rig);
		if (life == 0)
			rig_crash(rig, SIM_KILL_POWER);
		else
			rig_close(rig);
		CHECK_EQ(rig_open(rig), 0);
		expect_damaged(rig);
	}
	rig_destroy(rig);
}

/* Accepted before the fold meets the rot, stable after it: answered, and nothing is mended, also when recovery applies
 * the record to what the root says. */
TEST(store_damage, an_adopt_under_way_does_not_mend_a_map_nor_does_its_record)
{
	struct rig *rig = rotten_index();
	CHECK_EQ(rig_promise(rig, 0, 3), 0);
	struct sim_disk_profile *profile = sim_disk_profile(rig->disk);
	struct rig_call *c = rig_sync(rig);
	c->u.adopt.epoch = 3;
	c->u.adopt.base_seq = c->u.adopt.last_seq = 2;
	c->u.adopt.last_hash = rig_info(rig, 0).last_hash;
	profile->latency_min_ns = profile->latency_max_ns = 500 * SIM_MS;
	store_adopt(rig->volumes[0].replica, &c->u.adopt);
	sim_run_for(rig->sim, SIM_US);
	profile->latency_min_ns = profile->latency_max_ns = 50 * SIM_US;
	struct rig_call checkpoint = {.u.op.done = rig_sync_done};
	store_checkpoint(rig->store, &checkpoint.u.op);
	CHECK_EQ(sim_run_flag(rig->sim, &checkpoint.is_done, 400 * SIM_MS), 0);
	CHECK_EQ(checkpoint.status, 0);
	expect_damaged(rig);
	CHECK(!c->is_done);
	CHECK_EQ(rig_wait(rig), 0);
	CHECK_EQ(rig_info(rig, 0).log_epoch, 3);
	expect_damaged(rig);
	rig_crash(rig, SIM_KILL_POWER);
	CHECK_EQ(rig_open(rig), 0);
	CHECK_EQ(rig_info(rig, 0).log_epoch, 3); /* the record was applied */
	expect_damaged(rig);
	rig_destroy(rig);
}

/* Nothing enters the map any more, so whoever waited for that would hold up every volume. */
TEST(store_damage, a_shadow_in_a_lost_map_is_refused_and_stalls_nobody)
{
	struct rig *rig = rotten_index();
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 12, 1), 0);
	CHECK_EQ(rig_checkpoint(rig), 0);
	store_commit(rig->volumes[0].replica, 3); /* will never be in the map */
	expect_damaged(rig);
	struct store_replica_info info = rig_info(rig, 0);
	CHECK_EQ(rig_promise(rig, 0, 3), 0);
	struct rig_call *c = rig_sync(rig);
	c->u.shadow.epoch = 3;
	c->u.shadow.first_seq = info.last_seq + 1;
	c->u.shadow.prev_hash = info.last_hash;
	store_shadow_begin(rig->volumes[0].replica, &c->u.shadow);
	CHECK_EQ(rig_wait(rig), -EUCLEAN);
	CHECK_EQ(rig_write(rig, 1, LOG_WRITE, 0, 1), 0);
	rig_check_volume(rig, 1, 1);
	rig_destroy(rig);
}

TEST(store_damage, deletion_gives_a_new_map)
{
	struct rig *rig = damaged_rig();
	store_replica_delete(rig->volumes[0].replica, &rig_sync(rig)->u.op);
	CHECK_EQ(rig_wait(rig), 0);
	rig->volumes[0].last_seq = rig->volumes[0].acked_seq = 0;
	CHECK_EQ(rig_create_replica(rig, 0, RIG_BLOCKS), 0);
	rig_take(rig, 0, 5);
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 3, 2), 0);
	CHECK_EQ(rig_checkpoint(rig), 0);
	CHECK(!rig_info(rig, 0).suspect);
	rig_crash(rig, SIM_KILL_POWER);
	CHECK_EQ(rig_open(rig), 0);
	rig_check_prefix(rig, 0);
	rig_destroy(rig);
}
