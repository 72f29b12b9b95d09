/* SPDX-License-Identifier: Apache-2.0 */
/* The rules of store/store.h, one claim per test, on the simulator's disk. */
#include "tests/sim/store_rig.h"

TEST(store_format, refuses_foreign_data_and_says_what_it_is)
{
	struct rig *rig = rig_create(1);
	sim_image_write(sim_disk_current(rig->disk), 1024 + 56, "\x53\xef", 2);
	struct sim_image *image = sim_image_clone(sim_disk_current(rig->disk));
	sim_disk_image_set(rig->disk, image);
	CHECK_EQ(rig_format(rig), -EEXIST);
	CHECK(strstr(rig->err.text, "ext4"), "%s", rig->err.text);
	rig->params.force = true;
	CHECK_EQ(rig_format(rig), 0);
	rig->params.force = false;
	CHECK_EQ(rig_format(rig), -EEXIST);
	CHECK(strstr(rig->err.text, "Holdfast"), "%s", rig->err.text);
	sim_image_free(image);
	rig_destroy(rig);
}

TEST(store_open, refuses_what_is_no_store)
{
	struct rig *rig = rig_create(1);
	CHECK_EQ(rig_open(rig), -ENODEV);
	rig_destroy(rig);
}

TEST(store_open, survives_the_loss_of_one_superblock_copy)
{
	struct rig *rig = rig_start(1);
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 3, 2), 0);
	rig_close(rig);
	sim_disk_flip(rig->disk, 100, 3);
	CHECK_EQ(rig_open(rig), 0);
	rig_check_prefix(rig, 0);
	rig_destroy(rig);
}

TEST(store_open, survives_the_loss_of_one_copy_of_the_newest_root)
{
	for (unsigned slot = 0; slot < 2; slot++) {
		struct rig *rig = rig_start(1);
		CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 3, 2), 0);
		rig_close(rig);
		sim_disk_flip(rig->disk, (1 + slot) * BLOCK_BYTES + 40, 3);
		CHECK_EQ(rig_open(rig), 0);
		rig_check_prefix(rig, 0);
		rig_destroy(rig);
	}
}

TEST(store_open, both_copies_of_the_newest_root_bad_is_a_lost_store)
{
	struct rig *rig = rig_start(1);
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 3, 2), 0);
	struct store_info info;
	store_info(rig->store, &info);
	rig_close(rig);
	uint64_t slot = (info.root_generation + 1) % 2;
	sim_disk_flip(rig->disk, (1 + slot) * BLOCK_BYTES + 40, 3);
	sim_disk_flip(rig->disk, (16 + info.ring_blocks + slot) * BLOCK_BYTES + 40, 3);
	CHECK_EQ(rig_open(rig), -EUCLEAN);
	CHECK(strstr(rig->err.text, "lost") && strstr(rig->err.text, "store format"), "%s",
	      rig->err.text);
	rig_destroy(rig);
}

TEST(store_read, returns_what_was_written_inline_redirected_and_zeroed)
{
	struct rig *rig = rig_start(1);
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 0, 1), 0);
	rig_check_volume(rig, 0, 1);
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 10, 40), 0); /* beyond what goes inline */
	CHECK_EQ(rig_write(rig, 0, LOG_ZERO, 12, 3), 0);
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 13, 1), 0);
	rig_check_volume(rig, 0, 4);
	store_commit(rig->volumes[0].replica, 4);
	rig_check_volume(rig, 0, 4);
	CHECK_EQ(rig_checkpoint(rig), 0);
	rig_check_volume(rig, 0, 4);
	rig_check_volume(rig, 1, 0);
	rig_destroy(rig);
}

TEST(store_append, follows_the_rules_of_epoch_and_order)
{
	struct rig *rig = rig_start(1);
	struct rig_volume *v = &rig->volumes[0];
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 0, 1), 0);
	v->epoch = 2; /* not promised */
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 0, 1), -ESTALE);
	v->epoch = 1;
	v->last_seq = 5; /* a gap */
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 0, 1), -EILSEQ);
	v->last_seq = 1;
	v->entries[1].hash ^= 1; /* another history */
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 0, 1), -EILSEQ);
	v->entries[1].hash ^= 1;
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, RIG_BLOCKS, 1), -EINVAL);
	CHECK_EQ(rig_write(rig, 0, LOG_SNAP, 0, 0), -ENOTSUP);
	CHECK_EQ(rig_promise(rig, 0, 2), 0);
	CHECK_EQ(rig_promise(rig, 0, 2), -ESTALE);
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 0, 1), -ESTALE); /* epoch 1 is fenced */
	CHECK_EQ(rig_write(rig, 1, LOG_WRITE, 0, 1), 0);       /* the other volume is not */
	rig_destroy(rig);
}

TEST(store_append, a_resize_lets_writes_reach_further)
{
	struct rig *rig = rig_start(1);
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, RIG_BLOCKS, 1), -EINVAL);
	CHECK_EQ(rig_write(rig, 0, LOG_RESIZE, RIG_BLOCKS - 1, 0), -EINVAL);
	CHECK_EQ(rig_write(rig, 0, LOG_RESIZE, RIG_BLOCKS * 2, 0), 0);
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, RIG_BLOCKS, 1), 0);
	CHECK_EQ(rig_info(rig, 0).spec.size_blocks, RIG_BLOCKS * 2);
	rig_crash(rig, SIM_KILL_POWER);
	CHECK_EQ(rig_open(rig), 0);
	CHECK_EQ(rig_info(rig, 0).spec.size_blocks, RIG_BLOCKS * 2);
	rig_destroy(rig);
}

/* Epoch 2 stages other entries above 1, adopts, and the old ones are gone in one step. */
static void stage_and_adopt(struct rig *rig)
{
	struct rig_volume *v = &rig->volumes[0];
	rig->no_commit = true;
	for (unsigned i = 0; i < 3; i++)
		CHECK_EQ(rig_write(rig, 0, LOG_WRITE, i, 2), 0);
	store_commit(v->replica, 1);
	CHECK_EQ(rig_promise(rig, 0, 2), 0);
	v->last_seq = 1;
	for (unsigned i = 0; i < 2; i++) {
		struct rig_call *c = rig_sync(rig);
		rig_prepare(rig, c, v, LOG_WRITE, 20 + i, 2);
		c->u.op.done = rig_sync_done;
		c->u.append.staged = true;
		c->u.append.stage_epoch = 2;
		store_append(v->replica, &c->u.append);
		CHECK_EQ(rig_wait(rig), 0);
	}
}

TEST(store_adopt, replaces_the_tail_in_one_step)
{
	struct rig *rig = rig_start(1);
	struct rig_volume *v = &rig->volumes[0];
	stage_and_adopt(rig);
	CHECK_EQ(rig_info(rig, 0).last_seq, 3); /* still the old one */
	CHECK_EQ(rig_adopt(rig, 0, 2, 1, 3, v->entries[3].hash ^ 1), -EILSEQ);
	CHECK_EQ(rig_adopt(rig, 0, 2, 0, 3, v->entries[3].hash), -EILSEQ); /* below K */
	CHECK_EQ(rig_adopt(rig, 0, 2, 1, 3, v->entries[3].hash), 0);
	v->epoch = 2;
	v->acked_seq = 3;
	rig_check_prefix(rig, 0);
	rig_crash(rig, SIM_KILL_POWER);
	CHECK_EQ(rig_open(rig), 0);
	rig_check_prefix(rig, 0);
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 1, 1), 0);
	rig_check_volume(rig, 0, 4);
	rig_destroy(rig);
}

TEST(store_adopt, a_staged_tail_survives_checkpoint_and_crash)
{
	struct rig *rig = rig_start(1);
	struct rig_volume *v = &rig->volumes[0];
	stage_and_adopt(rig);
	CHECK_EQ(rig_checkpoint(rig), 0);
	CHECK_EQ(rig_checkpoint(rig), 0);
	rig_crash(rig, SIM_KILL_POWER);
	CHECK_EQ(rig_open(rig), 0);
	CHECK_EQ(rig_info(rig, 0).last_seq, 3);
	CHECK_EQ(rig_adopt(rig, 0, 2, 1, 3, v->entries[3].hash), 0);
	v->epoch = 2;
	rig_check_volume(rig, 0, 3);
	rig_destroy(rig);
}

TEST(store_promise, is_durable_when_answered)
{
	struct rig *rig = rig_start(1);
	CHECK_EQ(rig_promise(rig, 0, 77), 0);
	rig_crash(rig, SIM_KILL_POWER);
	CHECK_EQ(rig_open(rig), 0);
	CHECK_EQ(rig_info(rig, 0).promised, 77);
	CHECK_EQ(rig_info(rig, 0).log_epoch, 1);
	rig_destroy(rig);
}

TEST(store_lease, is_durable_when_answered)
{
	struct rig *rig = rig_start(1);
	struct rig_call *c = rig_sync(rig);
	c->u.lease.boot_id = 42;
	c->u.lease.term_ns = 1000000000;
	store_lease(rig->volumes[0].replica, &c->u.lease);
	CHECK_EQ(rig_wait(rig), 0);
	rig_crash(rig, SIM_KILL_POWER);
	CHECK_EQ(rig_open(rig), 0);
	CHECK_EQ(rig_info(rig, 0).lease_boot_id, 42);
	CHECK_EQ(rig_checkpoint(rig), 0);
	rig_crash(rig, SIM_KILL_POWER);
	CHECK_EQ(rig_open(rig), 0);
	CHECK_EQ(rig_info(rig, 0).lease_term_ns, 1000000000);
	rig_destroy(rig);
}

TEST(store_create, is_idempotent_and_refuses_a_different_replica)
{
	struct rig *rig = rig_start(1);
	struct store_replica *first = rig->volumes[0].replica;
	CHECK_EQ(rig_create_replica(rig, 0, RIG_BLOCKS), 0);
	CHECK(rig->volumes[0].replica == first);
	CHECK_EQ(rig_create_replica(rig, 0, RIG_BLOCKS + 1), -EEXIST);
	rig_destroy(rig);
}

TEST(store_delete, is_durable_and_gives_the_space_back)
{
	struct rig *rig = rig_start(1);
	CHECK_EQ(rig_checkpoint(rig), 0);
	CHECK_EQ(rig_checkpoint(rig), 0);
	struct store_info before, after;
	store_info(rig->store, &before);
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 0, RIG_BLOCKS), 0);
	store_commit(rig->volumes[0].replica, 1);
	CHECK_EQ(rig_checkpoint(rig), 0);
	struct rig_call *c = rig_sync(rig);
	store_replica_delete(rig->volumes[0].replica, &c->u.op);
	CHECK_EQ(rig_wait(rig), 0);
	CHECK(!store_replica_find(rig->store, &rig->volumes[0].uuid, 0));
	rig_crash(rig, SIM_KILL_POWER);
	CHECK_EQ(rig_open(rig), 0);
	CHECK(!rig->volumes[0].replica);
	for (unsigned i = 0; i < 4; i++)
		CHECK_EQ(rig_checkpoint(rig), 0);
	store_info(rig->store, &after);
	CHECK(after.used_blocks <= before.used_blocks + 4, "%llu blocks in use, %llu before",
	      (unsigned long long)after.used_blocks, (unsigned long long)before.used_blocks);
	CHECK_EQ(rig_create_replica(rig, 0, RIG_BLOCKS), 0);
	rig_destroy(rig);
}

TEST(store_log_read, an_entry_larger_than_the_buffer_is_told)
{
	struct rig *rig = rig_start(1);
	rig->no_commit = true;
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 0, 3), 0);
	for (uint32_t room = 2; room <= 3; room++) {
		struct rig_call *c = rig_sync(rig);
		c->u.log_read.seq = 1;
		c->u.log_read.buf = rig->buf;
		c->u.log_read.buf_blocks = room;
		store_log_read(rig->volumes[0].replica, &c->u.log_read);
		CHECK_EQ(rig_wait(rig), room < 3 ? -EMSGSIZE : 0);
	}
	rig_destroy(rig);
}

/* What a resync copies must not hold what a recovery may drop. */
TEST(store_read, a_committed_read_does_not_show_the_tail)
{
	struct rig *rig = rig_start(1);
	rig->no_commit = true;
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 0, 1), 0);
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 1, 1), 0);
	store_commit(rig->volumes[0].replica, 1);
	struct rig_call *c = rig_sync(rig);
	c->u.read.length_blocks = 2;
	c->u.read.buf = rig->buf;
	c->u.read.crc32c = rig->crcs;
	c->u.read.block_state = rig->states;
	c->u.read.committed = true;
	store_read(rig->volumes[0].replica, &c->u.read);
	CHECK_EQ(rig_wait(rig), 0);
	CHECK_EQ(rig->states[0], STORE_BLOCK_DATA);
	CHECK_EQ(rig->states[1], STORE_BLOCK_ZERO);
	CHECK_EQ(rig_read(rig, 0, 0, 2), 0);
	CHECK_EQ(rig->states[1], STORE_BLOCK_DATA);
	rig_destroy(rig);
}

TEST(store_log_read, returns_entries_above_the_floor)
{
	struct rig *rig = rig_start(1);
	rig->no_commit = true;
	for (unsigned i = 0; i < 5; i++)
		CHECK_EQ(rig_write(rig, 0, i == 2 ? LOG_ZERO : LOG_WRITE, i, 2 + i), 0);
	for (unsigned seq = 5; seq >= 1; seq--) {
		struct rig_call *c = rig_sync(rig);
		c->u.log_read.seq = seq;
		c->u.log_read.buf = rig->buf;
		c->u.log_read.buf_blocks = STORE_ENTRY_BLOCKS_MAX;
		store_log_read(rig->volumes[0].replica, &c->u.log_read);
		CHECK_EQ(rig_wait(rig), 0);
		struct rig_entry *e = &rig->volumes[0].entries[seq];
		CHECK_EQ(c->u.log_read.entry.seq, seq);
		CHECK(log_entry_hash(&c->u.log_read.entry) == e->hash);
		for (uint64_t i = 0; i < e->length && e->op == LOG_WRITE; i++) {
			char want[BLOCK_BYTES];
			rig_fill_block(want, e->version, i);
			CHECK(memcmp(want, rig->buf + i * BLOCK_BYTES, BLOCK_BYTES) == 0);
		}
	}
	store_commit(rig->volumes[0].replica, 3);
	CHECK_EQ(rig_checkpoint(rig), 0);
	CHECK_EQ(rig_info(rig, 0).floor_seq, 3);
	struct rig_call *c = rig_sync(rig);
	c->u.log_read.seq = 3;
	c->u.log_read.buf = rig->buf;
	c->u.log_read.buf_blocks = STORE_ENTRY_BLOCKS_MAX;
	store_log_read(rig->volumes[0].replica, &c->u.log_read);
	CHECK_EQ(rig_wait(rig), -ENODATA);
	c = rig_sync(rig);
	c->u.log_read.seq = 4;
	c->u.log_read.buf = rig->buf;
	c->u.log_read.buf_blocks = STORE_ENTRY_BLOCKS_MAX;
	store_log_read(rig->volumes[0].replica, &c->u.log_read);
	CHECK_EQ(rig_wait(rig), 0);
	rig_destroy(rig);
}

TEST(store_failure, an_error_of_a_write_ends_everything_once)
{
	struct rig *rig = rig_start(1);
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 0, 1), 0);
	sim_disk_fail(rig->disk,
		      &(struct sim_disk_fault){.op = ENV_IO_WRITE, .count = 1, .status = -EIO});
	for (unsigned i = 0; i < 20; i++)
		rig_write_async(rig, i % 2, LOG_WRITE, i, 1);
	rig_drain(rig);
	CHECK_EQ(rig->failed_count, 1);
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 0, 1), -EIO);
	CHECK_EQ(rig_read(rig, 0, 0, 1), -EIO);
	CHECK_EQ(rig_checkpoint(rig), -EIO);
	rig_close(rig);
	CHECK_EQ(rig_open(rig), 0);
	rig_check_prefix(rig, 0);
	rig_check_prefix(rig, 1);
	rig_destroy(rig);
}

/* The disk stops to answer, when the prewriter has done its work. */
static void rig_stall(struct rig *rig)
{
	sim_run_for(rig->sim, 2 * SIM_S);
	CHECK_EQ(sim_disk_in_flight(rig->disk), 0);
	sim_disk_stall(rig->disk, true);
}

TEST(store_failure, a_write_that_hangs_fails_the_store_at_its_deadline)
{
	struct rig *rig = rig_start(1);
	rig_stall(rig);
	rig_write_async(rig, 0, LOG_WRITE, 0, 1);
	sim_run_for(rig->sim, 3 * SIM_S);
	struct store_info info;
	store_info(rig->store, &info);
	CHECK_EQ(info.io_slow, 1);
	CHECK_EQ(rig->failed_count, 0);
	sim_run_for(rig->sim, 30 * SIM_S);
	CHECK_EQ(rig->failed_count, 1);
	CHECK(rig->calls[0].is_busy); /* its memory is still the device's */
	sim_disk_stall(rig->disk, false);
	rig_drain(rig);
	CHECK_EQ(rig->calls[0].status, -EIO);
	rig_destroy(rig);
}

/* A block is in the map, and nothing of the map is cached. */
static void map_and_reopen(struct rig *rig)
{
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 0, 1), 0);
	store_commit(rig->volumes[0].replica, rig->volumes[0].acked_seq);
	rig_close(rig);
	CHECK_EQ(rig_open(rig), 0);
	rig_take(rig, 0, 2);
}

static void expect_deadline(struct rig *rig)
{
	struct store_info info;
	sim_run_for(rig->sim, 3 * SIM_S);
	store_info(rig->store, &info);
	CHECK_EQ(info.io_slow, 1);
	CHECK_EQ(rig->failed_count, 0);
	sim_run_for(rig->sim, 29 * SIM_S);
	CHECK_EQ(rig->failed_count, 1);
	CHECK_EQ(rig->failed_status, -ETIMEDOUT);
	sim_disk_stall(rig->disk, false);
	CHECK_EQ(sim_run_flag(rig->sim, &rig->sync.is_done, RIG_LIMIT_NS), 0);
	CHECK_EQ(rig->sync.status, -EIO);
	rig_close(rig);
	CHECK_EQ(rig_open(rig), 0);
	rig_check_prefix(rig, 0);
}

TEST(store_failure, a_map_look_up_that_hangs_fails_the_store_at_its_deadline)
{
	struct rig *rig = rig_start(1);
	map_and_reopen(rig);
	rig_stall(rig);
	struct store_extent extent;
	struct rig_call *c = rig_sync(rig);
	c->u.extents = (struct store_extents){.op.done = rig_sync_done,
					      .length_blocks = RIG_BLOCKS,
					      .extents = &extent,
					      .extents_max = 1};
	store_extents(rig->volumes[0].replica, &c->u.extents);
	expect_deadline(rig);
	rig_destroy(rig);
}

TEST(store_failure, a_fold_that_hangs_in_reading_the_map_fails_the_store_at_its_deadline)
{
	struct rig *rig = rig_start(1);
	map_and_reopen(rig);
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 20, 20),
		 0); /* too much to go inline: nothing to destage */
	store_commit(rig->volumes[0].replica, rig->volumes[0].acked_seq);
	rig_stall(rig);
	struct rig_call *c = rig_sync(rig);
	store_checkpoint(rig->store, &c->u.op);
	expect_deadline(rig);
	rig_destroy(rig);
}

TEST(store_failure, an_open_that_hangs_ends_with_an_error_when_the_disk_answers)
{
	struct rig *rig = rig_start(1);
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 0, 1), 0);
	rig_close(rig);
	sim_disk_stall(rig->disk, true);
	rig->is_done = false;
	co_start(rig->co, rig_open_job, rig);
	sim_run_for(rig->sim, 40 * SIM_S);
	CHECK(!rig->is_done);
	sim_disk_stall(rig->disk, false);
	CHECK_EQ(sim_run_flag(rig->sim, &rig->is_done, RIG_LIMIT_NS), 0);
	CHECK_EQ(rig->status, -ETIMEDOUT);
	CHECK(strstr(err_text(&rig->err), "deadline"));
	CHECK_EQ(rig->failed_count, 0);
	CHECK_EQ(rig_open(rig), 0);
	rig_check_prefix(rig, 0);
	rig_destroy(rig);
}

/* Flips a bit of every copy of the block's payload on the device. */
static unsigned rot_payload(struct rig *rig, const char *payload)
{
	char *block = malloc(BLOCK_BYTES);
	unsigned found = 0;
	for (uint64_t at = 0; at < STORE_SIZE_MIN_BYTES; at += BLOCK_BYTES) {
		sim_image_read(sim_disk_current(rig->disk), at, block, BLOCK_BYTES);
		if (memcmp(block, payload, BLOCK_BYTES) != 0)
			continue;
		sim_disk_flip(rig->disk, at + 777, 1);
		found++;
	}
	free(block);
	return found;
}

TEST(store_read, rot_is_an_error_for_that_block_alone_and_repair_heals_it)
{
	struct rig *rig = rig_start(1);
	char payload[BLOCK_BYTES];
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 8, 20), 0);
	store_commit(rig->volumes[0].replica, 1);
	CHECK_EQ(rig_checkpoint(rig), 0);
	rig_fill_block(payload, rig->volumes[0].entries[1].version, 5);
	CHECK(rot_payload(rig, payload) >= 1);
	CHECK_EQ(rig_read(rig, 0, 0, RIG_BLOCKS), -EBADMSG);
	for (unsigned i = 0; i < RIG_BLOCKS; i++)
		CHECK_EQ(rig->states[i] == STORE_BLOCK_BAD, i == 13);
	_Alignas(BLOCK_BYTES) static char good[BLOCK_BYTES];
	memcpy(good, payload, BLOCK_BYTES);
	for (unsigned round = 0; round < 2; round++) {
		struct rig_call *c = rig_sync(rig);
		c->u.repair.address_blocks = 13;
		c->u.repair.expected_crc32c = crc32c(good, BLOCK_BYTES) + round;
		c->u.repair.buf = good;
		store_repair(rig->volumes[0].replica, &c->u.repair);
		CHECK_EQ(rig_wait(rig), round == 0 ? 0 : -ESTALE);
	}
	rig_check_volume(rig, 0, 1);
	rig_crash(rig, SIM_KILL_POWER);
	CHECK_EQ(rig_open(rig), 0);
	rig_check_prefix(rig, 0);
	rig_destroy(rig);
}

TEST(store_extents, tell_data_from_holes)
{
	struct rig *rig = rig_start(1);
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 4, 10), 0);
	store_commit(rig->volumes[0].replica, 1);
	CHECK_EQ(rig_checkpoint(rig), 0);
	CHECK_EQ(rig_write(rig, 0, LOG_ZERO, 6, 2), 0);
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 40, 1), 0);
	struct store_extent extents[16];
	struct rig_call *c = rig_sync(rig);
	c->u.extents.length_blocks = RIG_BLOCKS;
	c->u.extents.extents = extents;
	c->u.extents.extents_max = 16;
	store_extents(rig->volumes[0].replica, &c->u.extents);
	CHECK_EQ(rig_wait(rig), 0);
	static const struct store_extent want[] = {{4, false},  {2, true}, {2, false}, {6, true},
						   {26, false}, {1, true}, {23, false}};
	CHECK_EQ(c->u.extents.extents_count, ARRAY_LEN(want));
	CHECK_EQ(c->u.extents.covered_blocks, RIG_BLOCKS);
	for (unsigned i = 0; i < ARRAY_LEN(want); i++) {
		CHECK_EQ(extents[i].length_blocks, want[i].length_blocks);
		CHECK_EQ(extents[i].data, want[i].data);
	}
	rig_destroy(rig);
}

TEST(store_checkpoint, the_ring_goes_round_many_times)
{
	struct rig *rig = rig_start(3);
	struct rig_volume *v = &rig->volumes[0];
	for (unsigned i = 0; i < 3000; i++) {
		while (!rig_write_async(rig, 0, LOG_WRITE, i * 7 % RIG_BLOCKS, 1))
			sim_run_for(rig->sim, SIM_MS);
		if (i % 16 == 0)
			store_commit(v->replica, v->acked_seq);
		if (rig_busy(rig) > 60)
			sim_run_for(rig->sim, SIM_MS);
	}
	rig_drain(rig);
	rig_check_volume(rig, 0, 3000);
	struct store_info info;
	store_info(rig->store, &info);
	CHECK(info.checkpoints > 2, "%llu checkpoints", (unsigned long long)info.checkpoints);
	rig_close(rig);
	CHECK_EQ(rig_open(rig), 0);
	rig_check_prefix(rig, 0);
	CHECK_EQ(v->acked_seq, 3000);
	rig_destroy(rig);
}
