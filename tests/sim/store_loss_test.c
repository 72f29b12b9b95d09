/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rot that no other copy heals, and a person who gives up what it took: the record ACCEPT_LOSS.
 *
 * Volume 0 loses entry 3 of 4 to rot, volume 1 is not hit. Without the record a replica that is
 * suspect stays so for ever; with it the log is exactly 1..2.
 */
#include "tests/sim/store_rig.h"

/* Crashed, rotten, not open. */
static struct rig *rotten_rig(void)
{
	struct rig *rig = rig_start(1);
	for (unsigned i = 0; i < 4; i++) {
		CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 10 + i, 1), 0);
		CHECK_EQ(rig_write(rig, 1, LOG_WRITE, i, 1), 0);
	}
	sim_run_for(rig->sim, 50 * SIM_MS); /* sealed */
	uint64_t place = rig_find_record(rig, LOG_WRITE, 3);
	rig_crash(rig, SIM_KILL_POWER);
	sim_disk_flip(rig->disk, place * BLOCK_BYTES + 200, 5);
	return rig;
}

static int accept_loss(struct rig *rig, unsigned volume, uint64_t after, uint64_t until)
{
	struct rig_call *c = rig_sync(rig);
	c->u.loss.suspect_after = after;
	c->u.loss.suspect_until = until;
	store_accept_loss(rig->volumes[volume].replica, &c->u.loss);
	return rig_wait(rig);
}

/* Entries 1..2, which can be taken and written on. */
static void expect_accepted(struct rig *rig)
{
	struct store_replica_info info = rig_info(rig, 0);
	CHECK(!info.suspect);
	CHECK_EQ(info.suspect_after, 0);
	CHECK_EQ(info.suspect_until, 0);
	CHECK_EQ(info.loss_end_block, 0);
	CHECK_EQ(info.last_seq, 2);
	rig_check_volume(rig, 0, 2);
	rig_take(rig, 0, info.promised + 1);
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 30, 1), 0);
	rig_check_volume(rig, 0, 3);
}

TEST(store_loss, is_accepted_for_exactly_the_range_that_was_shown)
{
	struct rig *rig = rotten_rig();
	CHECK_EQ(rig_open(rig), 0);
	struct store_replica_info info = rig_info(rig, 0);
	CHECK(info.suspect && !info.map_damaged);
	CHECK_EQ(info.suspect_after, 2);
	CHECK_EQ(accept_loss(rig, 0, 1, info.suspect_until), -ESTALE);
	CHECK_EQ(accept_loss(rig, 0, 2, info.suspect_until + 1), -ESTALE);
	CHECK(rig_info(rig, 0).suspect);
	CHECK_EQ(accept_loss(rig, 0, 2, info.suspect_until), 0);
	CHECK_EQ(accept_loss(rig, 0, 2, info.suspect_until), -ESTALE);
	CHECK_EQ(accept_loss(rig, 1, 0, 0), -ESTALE); /* not suspect */
	expect_accepted(rig);
	rig_destroy(rig);
}

TEST(store_loss, names_the_blocks_of_entries_behind_the_hole_also_after_a_restart)
{
	struct rig *rig = rotten_rig();
	CHECK_EQ(rig_open(rig), 0);
	for (unsigned i = 0; i < 2; i++) {
		struct store_replica_info info = rig_info(rig, 0);
		CHECK_EQ(info.loss_first_block,
			 13); /* entry 4; where 3 wrote is gone with its record */
		CHECK_EQ(info.loss_end_block, 14);
		rig_close(rig);
		CHECK_EQ(rig_open(rig), 0);
	}
	rig_destroy(rig);
}

TEST(store_loss, accepted_stays_accepted_over_power_cuts_and_the_log_goes_on)
{
	struct rig *rig = rotten_rig();
	CHECK_EQ(rig_open(rig), 0);
	CHECK_EQ(accept_loss(rig, 0, 2, rig_info(rig, 0).suspect_until), 0);
	rig_crash(rig, SIM_KILL_POWER);
	CHECK_EQ(rig_open(rig), 0);
	expect_accepted(rig);
	rig_crash(rig, SIM_KILL_POWER);
	CHECK_EQ(rig_open(rig), 0);
	CHECK(!rig_info(rig, 0).suspect);
	rig_check_volume(rig, 0, 3);
	rig_close(rig);
	CHECK_EQ(rig_open(rig), 0);
	rig_check_volume(rig, 0, 3);
	rig_destroy(rig);
}

TEST(store_loss, rot_of_the_record_itself_brings_the_suspicion_back)
{
	struct rig *rig = rotten_rig();
	CHECK_EQ(rig_open(rig), 0);
	CHECK_EQ(accept_loss(rig, 0, 2, rig_info(rig, 0).suspect_until), 0);
	uint64_t place = rig_find_record(rig, RECORD_ACCEPT_LOSS, 0);
	rig_crash(rig, SIM_KILL_POWER);
	sim_disk_flip(rig->disk, place * BLOCK_BYTES + 200, 5);
	CHECK_EQ(rig_open(rig), 0);
	struct store_replica_info info = rig_info(rig, 0);
	CHECK(info.suspect);
	CHECK_EQ(info.suspect_after, 2);
	CHECK_EQ(accept_loss(rig, 0, 2, info.suspect_until), 0);
	expect_accepted(rig);
	rig_destroy(rig);
}

/* The ADOPT is lost, too, but nothing is appended to a suspect log: the entry proves that there was one. */
TEST(store_loss, is_over_when_an_entry_behind_a_gap_follows)
{
	struct rig *rig = rotten_rig();
	CHECK_EQ(rig_open(rig), 0);
	CHECK(rig_info(rig, 0).suspect);
	rig_take(rig, 0, rig_info(rig, 0).promised + 1);
	CHECK(!rig_info(rig, 0).suspect);
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 30, 1), 0);
	sim_run_for(rig->sim, 50 * SIM_MS); /* sealed */
	uint64_t place = rig_find_record(rig, RECORD_ADOPT, 2);
	rig_crash(rig, SIM_KILL_POWER);
	sim_disk_flip(rig->disk, place * BLOCK_BYTES + 200, 5);
	CHECK_EQ(rig_open(rig), 0);
	CHECK(!rig_info(rig, 0).map_damaged);
	rig_check_prefix(rig, 0);
	CHECK_EQ(rig->volumes[0].last_seq, 3);
	rig_take(rig, 0, rig_info(rig, 0).promised + 1);
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 31, 1), 0);
	rig_check_volume(rig, 0, 4);
	rig_destroy(rig);
}

/* What a crash left: suspect as before, or accepted; the latter once it was answered. */
static void judge(const struct rig *from, const struct sim_crash_state *state, bool is_answered)
{
	struct rig *rig = rig_create(7);
	for (unsigned i = 0; i < 2; i++)
		rig->volumes[i] = from->volumes[i];
	sim_disk_image_set(rig->disk, state->image);
	CHECK(rig_open(rig) == 0, "%s: %s", state->text, err_text(&rig->err));
	struct store_replica_info info = rig_info(rig, 0);
	CHECK(!info.suspect || !is_answered, "%s: the answer is forgotten", state->text);
	CHECK(info.last_seq == 2, "%s: the log has %llu entries", state->text,
	      (unsigned long long)info.last_seq);
	CHECK(!rig_info(rig, 1).suspect, "%s: the other volume is suspect", state->text);
	rig_check_volume(rig, 1, 4);
	if (info.suspect) {
		CHECK_EQ(info.suspect_after, 2);
		CHECK_EQ(accept_loss(rig, 0, 2, info.suspect_until), 0);
	}
	expect_accepted(rig);
	rig_destroy(rig);
}

TEST(store_loss, every_crash_leaves_it_suspect_or_accepted)
{
	struct rig *rig = rotten_rig();
	struct sim_record *record = sim_disk_record(rig->disk);
	CHECK_EQ(rig_open(rig), 0);
	CHECK_EQ(accept_loss(rig, 0, 2, rig_info(rig, 0).suspect_until), 0);
	sim_record_mark(record);
	uint32_t answered_at = sim_record_position(record);
	rig_close(rig);
	sim_disk_record_stop(rig->disk);
	struct sim_crash_options options = {
		.exhaustive_bits = 3, .samples = 6, .torn_blocks_max = 1, .seed = 1};
	struct sim_crash_iter *iter = sim_crash_iter_create(record, &options);
	struct sim_crash_state state;
	unsigned states = 0, answered = 0;
	while (sim_crash_iter_next(iter, &state)) {
		judge(rig, &state, state.point >= answered_at);
		states++;
		answered += state.point >= answered_at;
		sim_image_free(state.image);
	}
	CHECK(states > 20 && answered > 5, "%u states, %u behind the answer", states, answered);
	sim_crash_iter_free(iter);
	sim_record_free(record);
	rig_destroy(rig);
}
