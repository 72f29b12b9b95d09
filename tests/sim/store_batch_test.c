/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When a batch counts as written (store/ring.c, R5 to R8): each test says how long which I/O takes.
 *
 * Latency is drawn when an I/O is submitted, so what is under way keeps its own and what comes next gets another. A
 * write to an idle store is one inline DSYNC write; one that finds batches in flight, or that is too
 * long to go inline, is a descriptor, payload and a flush.
 */
#include "tests/sim/store_rig.h"

#define FAST_NS     (100 * SIM_US)
#define LONG_BLOCKS 20u /* too much to go inline */

static void latency(struct rig *rig, uint64_t ns)
{
	struct sim_disk_profile *profile = sim_disk_profile(rig->disk);
	profile->latency_min_ns = profile->latency_max_ns = ns;
}

/* A store at rest: the prewriter has done its work, everything is sealed. */
static struct rig *batch_rig(void)
{
	struct rig *rig = rig_start(1);
	sim_run_for(rig->sim, 2 * SIM_S);
	CHECK_EQ(sim_disk_in_flight(rig->disk), 0);
	return rig;
}

/* A batch of its own; what it submits now takes ns. */
static void batch(struct rig *rig, uint8_t op, uint64_t address, uint64_t length, uint64_t ns)
{
	struct store_info before, after;
	store_info(rig->store, &before);
	latency(rig, ns);
	CHECK(rig_write_async(rig, 0, op, address, length));
	sim_run_for(rig->sim, SIM_US);
	store_info(rig->store, &after);
	CHECK_EQ(after.batches, before.batches + 1);
}

static uint64_t flushes(const struct rig *rig)
{
	return sim_disk_submitted(rig->disk, ENV_IO_FLUSH);
}

/* A batch that is written, and its flush, which takes ns, is under way. */
static void batch_to_its_flush(struct rig *rig, uint64_t ns)
{
	uint64_t before = flushes(rig);
	batch(rig, LOG_WRITE, 0, LONG_BLOCKS, FAST_NS);
	latency(rig, ns);
	sim_run_for(rig->sim, 2 * FAST_NS);
	CHECK_EQ(flushes(rig), before + 1);
	CHECK_EQ(sim_disk_in_flight(rig->disk), 1);
}

/* All that was issued ended with -EIO, the store closes, and what it opens with is a prefix. */
static void expect_failed(struct rig *rig, unsigned calls)
{
	CHECK_EQ(rig->failed_count, 1);
	for (unsigned i = 0; i < calls; i++) {
		CHECK(!rig->calls[i].is_busy, "operation %u hangs", i);
		CHECK_EQ(rig->calls[i].status, -EIO);
	}
	sim_disk_fail_none(rig->disk);
	latency(rig, FAST_NS);
	rig_close(rig);
	CHECK_EQ(rig_open(rig), 0);
	rig_check_prefix(rig, 0);
	rig_destroy(rig);
}

/* The first write is under way; behind it are a batch with a flush and one without, both durable. */
static struct rig *durable_behind_a_write(uint64_t first_ns)
{
	struct rig *rig = batch_rig();
	batch(rig, LOG_WRITE, 0, 1, first_ns);
	batch(rig, LOG_WRITE, 1, 1, FAST_NS);
	batch(rig, LOG_ZERO, 2, 1, FAST_NS);
	sim_run_for(rig->sim, 10 * FAST_NS);
	CHECK_EQ(sim_disk_in_flight(rig->disk), 1);
	CHECK_EQ(sim_disk_cached_blocks(rig->disk), 0);
	CHECK_EQ(rig_busy(rig), 3);
	return rig;
}

TEST(store_batch, durable_ones_behind_a_write_that_fails_end_with_an_error)
{
	struct rig *rig = durable_behind_a_write(20 * FAST_NS);
	sim_disk_fail(rig->disk,
		      &(struct sim_disk_fault){.op = ENV_IO_WRITE, .count = 1, .status = -EIO});
	sim_run_for(rig->sim, 20 * FAST_NS);
	expect_failed(rig, 3);
}

TEST(store_batch, durable_ones_behind_a_write_that_hangs_end_with_an_error)
{
	struct rig *rig = durable_behind_a_write(60 * SIM_S);
	sim_run_for(rig->sim, 32 * SIM_S);
	CHECK_EQ(rig->failed_status, -ETIMEDOUT);
	CHECK(rig->calls[0].is_busy); /* its memory is the device's */
	CHECK(!rig->calls[1].is_busy && !rig->calls[2].is_busy);
	sim_run_for(rig->sim, 30 * SIM_S);
	expect_failed(rig, 3);
}

TEST(store_batch, one_that_is_durable_behind_a_flush_that_hangs_ends_with_an_error)
{
	struct rig *rig = batch_rig();
	batch_to_its_flush(rig, 60 * SIM_S);
	batch(rig, LOG_ZERO, 30, 1, FAST_NS);  /* durable by itself */
	batch(rig, LOG_WRITE, 31, 1, FAST_NS); /* waits for a flush that never begins */
	sim_run_for(rig->sim, 32 * SIM_S);
	CHECK_EQ(rig->failed_status, -ETIMEDOUT);
	CHECK(!rig->calls[1].is_busy);
	sim_run_for(rig->sim, 30 * SIM_S);
	expect_failed(rig, 3);
}

TEST(store_batch, one_flush_covers_all_that_were_written_while_another_was_under_way)
{
	struct rig *rig = batch_rig();
	uint64_t before = flushes(rig);
	batch_to_its_flush(rig, 100 * FAST_NS);
	for (unsigned i = 0; i < 3; i++)
		batch(rig, LOG_WRITE, 30 + i, 1, FAST_NS);
	sim_run_for(rig->sim, 10 * FAST_NS);
	CHECK_EQ(sim_disk_in_flight(rig->disk), 1);
	CHECK_EQ(flushes(rig), before + 1);
	CHECK_EQ(rig_busy(rig), 4);
	sim_run_for(rig->sim, 100 * FAST_NS);
	CHECK_EQ(rig_busy(rig), 0);
	CHECK_EQ(flushes(rig), before + 2);
	CHECK_EQ(rig->volumes[0].acked_seq, 4);
	rig_check_volume(rig, 0, 4);
	rig_destroy(rig);
}

/* The second batch is written when the first one's flush ends, but that began before. */
TEST(store_batch, a_flush_does_not_answer_what_was_written_after_it_began)
{
	struct rig *rig = batch_rig();
	batch_to_its_flush(rig, 20 * FAST_NS);
	batch(rig, LOG_WRITE, 30, 1, FAST_NS);
	latency(rig, 100 * FAST_NS); /* the second flush */
	sim_run_for(rig->sim, 30 * FAST_NS);
	CHECK_EQ(rig->volumes[0].acked_seq, 1);
	CHECK_EQ(rig_busy(rig), 1);
	CHECK(sim_disk_cached_blocks(rig->disk) >= 2);
	/* A power cut that takes all it can. */
	struct rig *after = rig_create(1);
	after->volumes[0] = rig->volumes[0];
	sim_disk_image_set(after->disk, sim_disk_durable(rig->disk));
	CHECK_EQ(rig_open(after), 0);
	rig_check_prefix(after, 0);
	CHECK_EQ(after->volumes[0].last_seq, 1);
	rig_destroy(after);
	sim_run_for(rig->sim, 100 * FAST_NS);
	CHECK_EQ(rig->volumes[0].acked_seq, 2);
	sim_disk_image_set((after = rig_create(1))->disk, sim_disk_durable(rig->disk));
	after->volumes[0] = rig->volumes[0];
	CHECK_EQ(rig_open(after), 0);
	rig_check_prefix(after, 0);
	rig_destroy(after);
	rig_destroy(rig);
}

TEST(store_batch, a_flush_that_fails_ends_what_it_covers_and_what_waits)
{
	struct rig *rig = batch_rig();
	batch_to_its_flush(rig, 50 * FAST_NS);
	batch(rig, LOG_WRITE, 30, 1, FAST_NS); /* written */
	batch(rig, LOG_ZERO, 31, 1, FAST_NS);  /* durable */
	sim_run_for(rig->sim, 10 * FAST_NS);
	batch(rig, LOG_WRITE, 32, 1, 80 * FAST_NS); /* not yet written then */
	CHECK_EQ(sim_disk_in_flight(rig->disk), 3);
	CHECK(rig_write_async(rig, 0, LOG_WRITE, 33, 1)); /* in no batch: four are in flight */
	sim_disk_fail(rig->disk,
		      &(struct sim_disk_fault){.op = ENV_IO_FLUSH, .count = 1, .status = -EIO});
	sim_run_for(rig->sim, 50 * FAST_NS);
	CHECK_EQ(rig->failed_count, 1);
	for (unsigned i = 0; i < 5; i++)
		CHECK_EQ(rig->calls[i].is_busy, i == 3);
	sim_run_for(rig->sim, 50 * FAST_NS);
	expect_failed(rig, 5);
}

TEST(store_batch, payload_goes_inline_when_the_store_is_idle_and_not_when_it_is_busy)
{
	struct rig *rig = batch_rig();
	struct store_info before, after;
	store_info(rig->store, &before);
	batch(rig, LOG_WRITE, 0, 1, FAST_NS);
	CHECK_EQ(sim_disk_in_flight(rig->disk), 1); /* with its descriptor */
	batch(rig, LOG_WRITE, 1, 1, FAST_NS);
	CHECK_EQ(sim_disk_in_flight(rig->disk), 3);
	store_info(rig->store, &after);
	CHECK_EQ(after.batches_inline, before.batches_inline + 1);
	rig_drain(rig);
	sim_run_for(rig->sim, SIM_S); /* sealed, and idle again */
	batch(rig, LOG_WRITE, 2, 1, FAST_NS);
	store_info(rig->store, &after);
	CHECK_EQ(after.batches_inline, before.batches_inline + 2);
	rig_drain(rig);
	rig_check_volume(rig, 0, 3);
	CHECK_EQ(rig_checkpoint(rig), 0);
	rig_check_volume(rig, 0, 3);
	rig_destroy(rig);
}
