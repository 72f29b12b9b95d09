/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Blocks of the medium that cannot be written, or read, any more: the store fails, is opened again, goes past them,
 * and nothing that was acknowledged is missing. Without the list it would run into the same block for ever.
 */
#include "tests/sim/store_rig.h"

#include "store/format.h"

#define OPENS_MAX 24u

struct bad_report {
	char text[1024];
	int status;
};
static struct bad_report report;

static void report_line(void *ctx, const char *line)
{
	(void)ctx;
	size_t used = strlen(report.text);
	snprintf(report.text + used, sizeof(report.text) - used, "%s\n", line);
}

static void check_job(struct co *co, void *arg)
{
	struct rig *rig = arg;
	uint64_t findings;
	report.text[0] = '\0';
	report.status =
		store_check(co, rig->env, RIG_PATH, true, report_line, NULL, &findings, &rig->err);
	rig->is_done = true;
}

static void check_clean(struct rig *rig, uint64_t place)
{
	rig_run(rig, check_job);
	CHECK(report.status == 0, "block %llu: %s", (unsigned long long)place, report.text);
}

static void block_spoil(struct rig *rig, enum env_io_op op, uint64_t place, uint64_t blocks)
{
	sim_disk_fail(rig->disk, &(struct sim_disk_fault){.op = op,
							  .count = UINT64_MAX,
							  .offset_bytes = place * BLOCK_BYTES,
							  .length_bytes = blocks * BLOCK_BYTES,
							  .status = -EIO});
}

static uint32_t bad_blocks(struct rig *rig)
{
	struct store_info info;
	store_info(rig->store, &info);
	return info.bad_blocks;
}

/* Like rig_take(), but the store may fail in it. */
static bool take_volume(struct rig *rig, unsigned volume)
{
	struct rig_volume *v = &rig->volumes[volume];
	struct store_replica_info info = rig_info(rig, volume);
	uint64_t epoch = info.promised + 1;
	if (rig_promise(rig, volume, epoch) < 0 ||
	    rig_adopt(rig, volume, epoch, info.last_seq, info.last_seq, info.last_hash) < 0)
		return false;
	v->epoch = epoch;
	return true;
}

/* After a failure: ends it (closed, or at first by a crash) and opens until both volumes can be written. */
static void reopen(struct rig *rig, unsigned *opens, bool by_crash)
{
	for (bool ready = false; !ready; by_crash = false) {
		if (by_crash)
			rig_crash(rig, SIM_KILL_POWER);
		else
			rig_close(rig);
		while (rig_open(rig) < 0) {
			CHECK(rig->status == -EIO, "%s", err_text(&rig->err));
			CHECK(++*opens < OPENS_MAX, "it does not come back: %s",
			      err_text(&rig->err));
		}
		CHECK(++*opens < OPENS_MAX, "it does not stay open");
		for (unsigned i = 0; i < 2; i++)
			rig_check_prefix(rig, i);
		ready = take_volume(rig, 0) && take_volume(rig, 1);
	}
}

/* Small and large writes, commits, checkpoints; through as many failures as come. */
static unsigned live(struct rig *rig, uint64_t place, bool by_crash)
{
	unsigned opens = 0;
	for (unsigned i = 0; i < 40; i++) {
		unsigned volume = i % 2;
		uint64_t address = (i * 7) % 40;
		int rc = rig_write(rig, volume, LOG_WRITE, address, i % 5 == 4 ? 20 : 1);
		if (rc == 0 && i % 3 == 0)
			store_commit(rig->volumes[volume].replica, rig->volumes[volume].acked_seq);
		if (rc == 0 && i % 13 == 12)
			rc = rig_checkpoint(rig);
		if (rc == 0)
			continue;
		CHECK(rig->failed_count == 1, "block %llu: an error and no failure",
		      (unsigned long long)place);
		CHECK(opens < 5, "block %llu fails it again and again", (unsigned long long)place);
		if (rig->volumes[volume].last_seq == rig->volumes[volume].acked_seq)
			rig->volumes[volume].last_seq++; /* a crash may keep it */
		/* The first time the note is lost: a crash comes before it is written. */
		reopen(rig, &opens, by_crash && opens == 0);
	}
	return opens;
}

static unsigned live_with_bad_block(uint64_t place, bool by_crash, unsigned *noted)
{
	struct rig *rig = rig_start(1);
	block_spoil(rig, ENV_IO_WRITE, place, 1);
	block_spoil(rig, ENV_IO_READ, place, 1); /* whatever the failed write left there */
	unsigned opens = live(rig, place, by_crash);
	CHECK(bad_blocks(rig) <= 1);
	CHECK(opens == 0 || by_crash || bad_blocks(rig) == 1, "block %llu is not noted",
	      (unsigned long long)place);
	*noted += bad_blocks(rig);
	rig_close(rig);
	check_clean(rig, place);
	CHECK_EQ(rig_open(rig), 0);
	rig_check_prefix(rig, 0);
	rig_check_prefix(rig, 1);
	rig_destroy(rig);
	return opens;
}

static uint64_t data_start(void)
{
	return PLACE_RING + (2 << 20) / BLOCK_BYTES + RING_TRAILER_BLOCKS;
}

TEST(store_bad, a_bad_block_of_the_ring_is_gone_past)
{
	unsigned hit = 0, noted = 0;
	for (uint64_t place = PLACE_RING + 10; place < PLACE_RING + 110; place += 3)
		hit += live_with_bad_block(place, false, &noted) > 0;
	CHECK(hit > 20 && noted == hit, "%u hit, %u noted", hit, noted);
}

TEST(store_bad, a_bad_block_under_payload_pages_or_tables_is_gone_past)
{
	unsigned hit = 0, noted = 0;
	for (uint64_t place = data_start() + 4; place < data_start() + 160; place += 3)
		hit += live_with_bad_block(place, false, &noted) > 0;
	CHECK(hit > 25 && noted == hit, "%u hit, %u noted", hit, noted);
}

TEST(store_bad, a_crash_before_the_note_loses_the_note_and_nothing_else)
{
	unsigned hit = 0, noted = 0;
	for (uint64_t place = PLACE_RING + 10; place < PLACE_RING + 90; place += 7)
		hit += live_with_bad_block(place, true, &noted) > 0;
	for (uint64_t place = data_start() + 4; place < data_start() + 120; place += 7)
		hit += live_with_bad_block(place, true, &noted) > 0;
	CHECK(hit > 15 && noted > 0, "%u hit, %u noted", hit, noted);
}

TEST(store_bad, batches_behind_a_bad_block_are_found_after_a_power_cut)
{
	struct rig *rig = rig_start(1);
	/* Every fifth block of a stretch of the ring: batches of several blocks go far. */
	for (uint64_t i = 0; i < 7; i++) {
		block_spoil(rig, ENV_IO_WRITE, PLACE_RING + 40 + i * 5, 1);
		block_spoil(rig, ENV_IO_READ, PLACE_RING + 40 + i * 5, 1);
	}
	for (unsigned i = 0; i < 120; i++) {
		unsigned opens = 0;
		if (rig_write(rig, 0, LOG_WRITE, i % 40, 1 + i % 7) == 0)
			continue;
		rig->volumes[0].last_seq++; /* issued: it may be kept */
		reopen(rig, &opens, false);
	}
	CHECK(bad_blocks(rig) >= 5, "%u", bad_blocks(rig));
	for (unsigned i = 0; i < 200; i++) { /* more than a lap */
		CHECK_EQ(rig_write(rig, 0, LOG_WRITE, i % 40, 1 + i % 7), 0);
		if (i % 8 != 7)
			continue;
		sim_run_for(rig->sim, 50 * SIM_MS); /* sealed: what is missing would be rot */
		uint64_t acked = rig->volumes[0].acked_seq;
		rig_crash(rig, SIM_KILL_POWER);
		check_clean(rig, PLACE_RING);
		CHECK_EQ(rig_open(rig), 0);
		rig_check_prefix(rig, 0);
		CHECK_EQ(rig->volumes[0].last_seq, acked);
		rig_take(rig, 0, rig->volumes[0].epoch + 1);
	}
	rig_destroy(rig);
}

TEST(store_bad, an_error_that_passes_leaves_no_note)
{
	struct rig *rig = rig_start(1);
	unsigned opens = 0;
	sim_disk_fail(rig->disk,
		      &(struct sim_disk_fault){.op = ENV_IO_WRITE, .count = 1, .status = -EIO});
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 0, 1), -EIO);
	reopen(rig, &opens, false);
	CHECK_EQ(bad_blocks(rig), 0);
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 0, 1), 0);
	rig_destroy(rig);
}

TEST(store_bad, a_superblock_copy_that_cannot_be_written_does_not_hide_the_list)
{
	struct rig *rig = rig_start(1);
	unsigned opens = 0;
	block_spoil(rig, ENV_IO_WRITE, PLACE_SUPER_0, 1);
	block_spoil(rig, ENV_IO_WRITE, PLACE_RING + 60, 1);
	for (unsigned i = 0; i < 60; i++) {
		if (rig_write(rig, 0, LOG_WRITE, i, 1) == 0)
			continue;
		CHECK_EQ(opens, 0);
		reopen(rig, &opens, false);
	}
	CHECK_EQ(opens, 1);
	CHECK_EQ(bad_blocks(rig), 1);
	rig_destroy(rig);
}

TEST(store_bad, a_ring_of_bad_blocks_is_refused_with_the_reason)
{
	struct rig *rig = rig_start(1);
	block_spoil(rig, ENV_IO_WRITE, PLACE_RING, (2 << 20) / BLOCK_BYTES);
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 0, 1), -EIO);
	for (unsigned i = 0; i < 1000; i++) { /* one batch's blocks at a time */
		rig_close(rig);
		if (rig_open(rig) < 0)
			break;
		CHECK_EQ(rig_promise(rig, 0, i + 2), -EIO);
	}
	CHECK_EQ(rig->status, -EIO);
	CHECK(strstr(err_text(&rig->err), "log ring") && strstr(err_text(&rig->err), "replaced"),
	      "%s", err_text(&rig->err));
	rig_destroy(rig);
}

TEST(store_bad, a_full_list_keeps_the_store_closed_with_the_reason)
{
	struct rig *rig = rig_start(1);
	int rc = 0;
	block_spoil(rig, ENV_IO_WRITE, data_start(),
		    STORE_SIZE_MIN_BYTES / BLOCK_BYTES - data_start());
	for (unsigned i = 0; i < 1000 && rc == 0; i++) {
		(void)rig_write(rig, 0, LOG_WRITE, 0, 60);
		rig_close(rig);
		rc = rig_open(rig);
		for (unsigned again = 0;
		     rc == -EIO && again < 1000 && !strstr(err_text(&rig->err), "list is full");
		     again++)
			rc = rig_open(rig);
	}
	CHECK_EQ(rc, -EIO);
	CHECK(strstr(err_text(&rig->err), "bad-block list is full") &&
		      strstr(err_text(&rig->err), "replaced"),
	      "%s", err_text(&rig->err));
	rig_destroy(rig);
}

/* Where block 0 of volume 0 is on the device. */
static uint64_t place_of_block(struct rig *rig)
{
	static _Alignas(8) char want[BLOCK_BYTES], block[BLOCK_BYTES];
	uint64_t index = 0;
	rig_fill_block(want, rig_expect(&rig->volumes[0], rig->volumes[0].last_seq, 0, &index),
		       index);
	for (uint64_t place = data_start(); place < STORE_SIZE_MIN_BYTES / BLOCK_BYTES; place++) {
		sim_image_read(sim_disk_current(rig->disk), place * BLOCK_BYTES, block,
			       BLOCK_BYTES);
		if (memcmp(block, want, BLOCK_BYTES) == 0)
			return place;
	}
	CHECK(false, "the block is nowhere");
	return 0;
}

/* All free space is used once at least. */
static void write_round_and_round(struct rig *rig)
{
	for (unsigned i = 0; i < 600; i++) {
		CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 0, 60), 0);
		store_commit(rig->volumes[0].replica, rig->volumes[0].acked_seq);
	}
}

TEST(store_bad, a_block_that_cannot_be_read_is_repaired_elsewhere_and_never_used_again)
{
	struct rig *rig = rig_start(1);
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 0, 20), 0);
	store_commit(rig->volumes[0].replica, rig->volumes[0].acked_seq);
	CHECK_EQ(rig_checkpoint(rig), 0);
	uint64_t place = place_of_block(rig);
	block_spoil(rig, ENV_IO_READ, place, 1);
	CHECK_EQ(rig_read(rig, 0, 0, 2), -EBADMSG);
	CHECK_EQ(rig->states[0], STORE_BLOCK_BAD);
	CHECK_EQ(rig->states[1], STORE_BLOCK_DATA);
	CHECK_EQ(bad_blocks(rig), 1);
	CHECK_EQ(rig->failed_count, 0);
	char *good = aligned_alloc(BLOCK_BYTES, BLOCK_BYTES);
	uint64_t index = 0;
	rig_fill_block(good, rig_expect(&rig->volumes[0], 1, 0, &index), index);
	struct rig_call *c = rig_sync(rig);
	c->u.repair.expected_crc32c = crc32c(good, BLOCK_BYTES);
	c->u.repair.buf = good;
	store_repair(rig->volumes[0].replica, &c->u.repair);
	CHECK_EQ(rig_wait(rig), 0);
	rig_check_volume(rig, 0, 1);
	CHECK_EQ(rig_checkpoint(rig), 0); /* the old place is given up */
	block_spoil(rig, ENV_IO_WRITE, place, 1);
	write_round_and_round(rig);
	rig_crash(rig, SIM_KILL_POWER); /* the note is as durable as the checkpoint */
	CHECK_EQ(rig_open(rig), 0);
	CHECK_EQ(bad_blocks(rig), 1);
	rig_take(rig, 0, 2);
	write_round_and_round(rig);
	rig_close(rig);
	check_clean(rig, place);
	CHECK_EQ(rig_open(rig), 0);
	rig_check_prefix(rig, 0);
	free(good);
	rig_destroy(rig);
}

TEST(store_bad, one_superblock_copy_is_enough_to_note_a_block_while_the_store_runs)
{
	struct rig *rig = rig_start(1);
	CHECK_EQ(rig_write(rig, 0, LOG_WRITE, 0, 20), 0);
	store_commit(rig->volumes[0].replica, rig->volumes[0].acked_seq);
	CHECK_EQ(rig_checkpoint(rig), 0);
	block_spoil(rig, ENV_IO_READ, place_of_block(rig), 1);
	block_spoil(rig, ENV_IO_WRITE, PLACE_SUPER_0, 1);
	CHECK_EQ(rig_read(rig, 0, 0, 1), -EBADMSG);
	CHECK_EQ(rig_checkpoint(rig), 0);
	CHECK_EQ(rig->failed_count, 0);
	rig_crash(rig, SIM_KILL_POWER);
	CHECK_EQ(rig_open(rig), 0);
	CHECK_EQ(bad_blocks(rig), 1);
	rig_destroy(rig);
}
