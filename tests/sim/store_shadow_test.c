/* SPDX-License-Identifier: Apache-2.0 */
/* Shadow resync, full stores, background work of one store. */
#include "tests/sim/store_rig.h"

/* Starts a shadow whose live stream begins at first_seq; the model's log is that of the source. */
static int shadow_begin(struct rig *rig, uint64_t epoch, uint64_t first_seq, uint64_t prev_hash)
{
	struct rig_call *c = rig_sync(rig);
	c->u.shadow.epoch = epoch;
	c->u.shadow.first_seq = first_seq;
	c->u.shadow.prev_hash = prev_hash;
	store_shadow_begin(rig->volumes[0].replica, &c->u.shadow);
	return rig_wait(rig);
}

static int shadow_write(struct rig *rig, uint8_t op, uint64_t address, uint64_t length)
{
	struct rig_volume *v = &rig->volumes[0];
	struct rig_call *c = rig_sync(rig);
	rig_prepare(rig, c, v, op, address, length);
	c->u.op.done = rig_sync_done;
	c->u.append.shadow = true;
	store_append(v->replica, &c->u.append);
	return rig_wait(rig);
}

/* The source's state of blocks [address, address + length) after entries 1..at_seq. */
static int shadow_fill(struct rig *rig, uint64_t at_seq, uint64_t address, uint32_t length)
{
	struct rig_volume *v = &rig->volumes[0];
	struct rig_call *c = rig_sync(rig);
	for (uint32_t i = 0; i < length; i++) {
		uint64_t index = 0;
		uint32_t version = rig_expect(v, at_seq, address + i, &index);
		char *block = c->payload + (size_t)i * BLOCK_BYTES;
		memset(block, 0, BLOCK_BYTES);
		if (version)
			rig_fill_block(block, version, index);
		c->crcs[i] = crc32c(block, BLOCK_BYTES);
		rig->states[i] = version ? STORE_BLOCK_DATA : STORE_BLOCK_ZERO;
	}
	c->u.fill.at_seq = at_seq;
	c->u.fill.address_blocks = address;
	c->u.fill.length_blocks = length;
	c->u.fill.crc32c = c->crcs;
	c->u.fill.block_state = rig->states;
	c->u.fill.buf = c->payload;
	store_shadow_fill(v->replica, &c->u.fill);
	return rig_wait(rig);
}

static int shadow_adopt(struct rig *rig, uint64_t epoch)
{
	struct rig_volume *v = &rig->volumes[0];
	struct rig_call *c = rig_sync(rig);
	c->u.adopt.epoch = epoch;
	c->u.adopt.last_seq = v->last_seq;
	c->u.adopt.last_hash = rig_last_hash(v);
	c->u.adopt.commit_seq = v->last_seq;
	c->u.adopt.shadow = true;
	store_adopt(v->replica, &c->u.adopt);
	return rig_wait(rig);
}

/* The source wrote entries that this replica never got. */
static void source_writes(struct rig *rig, uint8_t op, uint64_t address, uint64_t length)
{
	struct rig_call *c = rig_sync(rig);
	rig_prepare(rig, c, &rig->volumes[0], op, address, length);
}

/* A replica with five entries of its own, behind a source with ten; epoch 2 promised. */
static struct rig *behind(void)
{
	struct rig *rig = rig_start(1);
	for (unsigned i = 0; i < 5; i++)
		CHECK_EQ(rig_write(rig, 0, LOG_WRITE, i * 3, 4), 0);
	store_commit(rig->volumes[0].replica, 4);
	CHECK_EQ(rig_promise(rig, 0, 2), 0);
	rig->volumes[0].epoch = 2;
	rig->volumes[0].last_seq = 4; /* its entry 5 was never committed: the source has another */
	source_writes(rig, LOG_WRITE, 30, 10);
	source_writes(rig, LOG_ZERO, 0, 5);
	source_writes(rig, LOG_WRITE, 2, 2);
	source_writes(rig, LOG_WRITE, 33, 1);
	return rig;
}

static void resync(struct rig *rig, bool checkpoints)
{
	struct rig_volume *v = &rig->volumes[0];
	CHECK_EQ(shadow_begin(rig, 2, 9, rig_last_hash(v)), 0);
	CHECK_EQ(shadow_begin(rig, 2, 9, rig_last_hash(v)), -EBUSY);
	CHECK_EQ(shadow_fill(rig, 8, 0, 32), 0);
	CHECK_EQ(shadow_write(rig, LOG_WRITE, 40, 3), 0); /* 9 */
	if (checkpoints)
		CHECK_EQ(rig_checkpoint(rig), 0);
	CHECK_EQ(shadow_write(rig, LOG_WRITE, 1, 3), 0); /* 10: newer than the fill */
	CHECK_EQ(shadow_fill(rig, 9, 32, 32), 0);
	CHECK_EQ(shadow_fill(rig, 9, 0, 8), 0); /* late and older than 10 */
	CHECK_EQ(rig_info(rig, 0).last_seq, 5); /* the old state still stands */
	CHECK(rig_info(rig, 0).shadow);
	CHECK_EQ(rig_info(rig, 0).shadow_last_seq, 10);
	if (checkpoints)
		CHECK_EQ(rig_checkpoint(rig), 0);
	CHECK_EQ(shadow_write(rig, LOG_ZERO, 41, 1), 0); /* 11 */
}

TEST(store_shadow, adopt_flips_to_the_source_state)
{
	for (unsigned checkpoints = 0; checkpoints < 2; checkpoints++) {
		struct rig *rig = behind();
		resync(rig, checkpoints);
		CHECK_EQ(shadow_adopt(rig, 2), 0);
		CHECK_EQ(rig_info(rig, 0).last_seq, 11);
		CHECK_EQ(rig_info(rig, 0).log_epoch, 2);
		CHECK_EQ(rig_info(rig, 0).commit_seq, 11);
		rig_check_volume(rig, 0, 11);
		CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 5, 1), 0);
		CHECK_EQ(rig_checkpoint(rig), 0);
		CHECK_EQ(rig_checkpoint(rig), 0);
		rig_check_volume(rig, 0, 12);
		rig_crash(rig, SIM_KILL_POWER);
		CHECK_EQ(rig_open(rig), 0);
		rig_check_prefix(rig, 0);
		rig_destroy(rig);
	}
}

TEST(store_shadow, a_resize_in_the_live_stream_is_taken)
{
	struct rig *rig = behind();
	CHECK_EQ(shadow_begin(rig, 2, 9, rig_last_hash(&rig->volumes[0])), 0);
	CHECK_EQ(shadow_fill(rig, 8, 0, 64), 0);
	CHECK_EQ(shadow_write(rig, LOG_RESIZE, RIG_BLOCKS * 2, 0), 0);
	CHECK_EQ(shadow_adopt(rig, 2), 0);
	CHECK_EQ(rig_info(rig, 0).spec.size_blocks, RIG_BLOCKS * 2);
	rig_destroy(rig);
}

TEST(store_shadow, an_adopt_in_the_ring_survives_a_crash)
{
	for (unsigned checkpoints = 0; checkpoints < 2; checkpoints++) {
		struct rig *rig = behind();
		resync(rig, checkpoints);
		CHECK_EQ(shadow_adopt(rig, 2), 0);
		rig->volumes[0].acked_seq = 11;
		rig_crash(rig, SIM_KILL_POWER);
		CHECK_EQ(rig_open(rig), 0);
		rig_check_prefix(rig, 0);
		CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 5, 1), 0);
		CHECK_EQ(rig_checkpoint(rig), 0);
		rig_check_volume(rig, 0, 12);
		rig_destroy(rig);
	}
}

TEST(store_shadow, without_adopt_a_restart_brings_back_the_old_state)
{
	for (unsigned checkpoints = 0; checkpoints < 2; checkpoints++) {
		struct rig *rig = rig_start(1);
		rig_destroy(rig);
		rig = behind();
		struct rig_entry fifth = {
			.address = 12, .length = 4, .op = LOG_WRITE, .version = 5};
		resync(rig, checkpoints);
		rig_crash(rig, SIM_KILL_POWER);
		CHECK_EQ(rig_open(rig), 0);
		CHECK_EQ(rig_info(rig, 0).last_seq, 5);
		CHECK(!rig_info(rig, 0).shadow);
		rig->volumes[0].entries[5] = fifth;
		rig_check_volume(rig, 0, 5);
		/* And it can be done again. */
		CHECK_EQ(rig_checkpoint(rig), 0);
		CHECK_EQ(rig_checkpoint(rig), 0);
		rig_check_volume(rig, 0, 5);
		rig_destroy(rig);
	}
}

TEST(store_shadow, drop_brings_back_the_old_state_and_a_new_one_may_begin)
{
	struct rig *rig = behind();
	resync(rig, true);
	struct rig_call *c = rig_sync(rig);
	store_shadow_drop(rig->volumes[0].replica, &c->u.op);
	CHECK_EQ(rig_wait(rig), 0);
	CHECK(!rig_info(rig, 0).shadow);
	CHECK_EQ(rig_info(rig, 0).last_seq, 5);
	CHECK_EQ(shadow_write(rig, LOG_WRITE, 0, 1), -ESTALE);
	rig->volumes[0].last_seq = 11;
	CHECK_EQ(shadow_begin(rig, 2, 12, rig_last_hash(&rig->volumes[0])), 0);
	CHECK_EQ(shadow_fill(rig, 11, 0, 64), 0);
	CHECK_EQ(shadow_write(rig, LOG_WRITE, 7, 3), 0);
	CHECK_EQ(shadow_adopt(rig, 2), 0);
	rig_check_volume(rig, 0, 12);
	rig_destroy(rig);
}

TEST(store_shadow, adopt_needs_every_entry_that_a_fill_may_hold)
{
	struct rig *rig = behind();
	CHECK_EQ(shadow_begin(rig, 2, 9, rig_last_hash(&rig->volumes[0])), 0);
	CHECK_EQ(shadow_fill(rig, 20, 0, 1), 0);
	CHECK_EQ(shadow_adopt(rig, 2), -EILSEQ);
	rig_destroy(rig);
}

TEST(store_changes, names_chunks_and_blocks_above_a_seq)
{
	struct rig *rig = rig_start(1);
	for (unsigned i = 0; i < 4; i++)
		CHECK_EQ(rig_write(rig, 0, LOG_WRITE, i * 10, 2), 0);
	store_commit(rig->volumes[0].replica, 4);
	for (unsigned round = 0; round < 2; round++) {
		struct rig_call *c = rig_sync(rig);
		c->u.changes.since_seq = 2;
		store_changes(rig->volumes[0].replica, &c->u.changes);
		CHECK_EQ(rig_wait(rig), 0);
		CHECK_EQ(c->u.changes.chunk, 0);
		CHECK_EQ(c->u.changes.commit_seq, 4);
		CHECK_EQ(c->u.changes.block_state[0], STORE_BLOCK_DATA | STORE_BLOCK_OLD);
		CHECK_EQ(c->u.changes.block_state[30], STORE_BLOCK_DATA);
		c = rig_sync(rig);
		c->u.changes.since_seq = 4;
		store_changes(rig->volumes[0].replica, &c->u.changes);
		CHECK_EQ(rig_wait(rig), -ENODATA);
		CHECK_EQ(rig_checkpoint(rig), 0);
	}
	rig_destroy(rig);
}

/* ---- full ---- */

#define BIG_BLOCKS 40000u

static int big_write(struct rig *rig, uint64_t address, uint64_t length)
{
	int rc = rig_write(rig, 0, LOG_WRITE, address, length);
	store_commit(rig->volumes[0].replica, rig->volumes[0].acked_seq);
	return rc;
}

static struct rig *full_store(uint64_t *used)
{
	struct rig *rig = rig_create(1);
	CHECK_EQ(rig_format(rig), 0);
	CHECK_EQ(rig_open(rig), 0);
	CHECK_EQ(rig_create_replica(rig, 0, BIG_BLOCKS), 0);
	CHECK_EQ(rig_create_replica(rig, 1, BIG_BLOCKS), 0);
	rig_take(rig, 0, 1);
	rig_take(rig, 1, 1);
	uint64_t at = 0;
	int rc = 0;
	while (rc == 0 && at + 200 < BIG_BLOCKS) {
		rc = big_write(rig, at, 200);
		at += rc == 0 ? 200 : 0;
	}
	CHECK_EQ(rc, -ENOSPC);
	*used = at;
	return rig;
}

TEST(store_full, new_space_is_refused_and_everything_else_goes_on)
{
	uint64_t used;
	struct rig *rig = full_store(&used);
	CHECK(used > 10000, "full after %llu blocks", (unsigned long long)used);
	CHECK_EQ(big_write(rig, used, 200), -ENOSPC);
	/* Overwrites wait for checkpoints, they do not fail. */
	for (unsigned i = 0; i < 200; i++)
		CHECK_EQ(big_write(rig, i * 200 % (used - 200) / 200 * 200, 100), 0);
	CHECK_EQ(rig_promise(rig, 1, 2), 0);
	CHECK_EQ(big_write(rig, used, 200), -ENOSPC);
	/* A discard gives room. */
	CHECK_EQ(rig_write(rig, 0, LOG_ZERO, 0, 2000), 0);
	store_commit(rig->volumes[0].replica, rig->volumes[0].acked_seq);
	CHECK_EQ(big_write(rig, used, 200), 0);
	rig_crash(rig, SIM_KILL_POWER);
	CHECK_EQ(rig_open(rig), 0);
	CHECK_EQ(rig_info(rig, 0).last_seq, rig->volumes[0].acked_seq);
	rig_destroy(rig);
}

TEST(store_full, a_delete_gives_all_of_it_back)
{
	uint64_t used;
	struct rig *rig = full_store(&used);
	struct rig_call *c = rig_sync(rig);
	store_replica_delete(rig->volumes[0].replica, &c->u.op);
	CHECK_EQ(rig_wait(rig), 0);
	for (unsigned i = 0; i < 4; i++)
		CHECK_EQ(rig_checkpoint(rig), 0);
	for (uint64_t at = 0; at < used; at += 200)
		CHECK_EQ(rig_write(rig, 1, LOG_WRITE, at, 200), 0);
	rig_destroy(rig);
}
