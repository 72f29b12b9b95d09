/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simulator keeps what base/env.h and its own headers promise. Whoever breaks determinism, the
 * rules of durability or the silence after a kill fails here before a whole cluster misbehaves.
 */
#include <errno.h>

#include "tests/sim/sim.h"
#include "tests/sim/sim_disk.h"
#include "tests/sim/sim_net.h"
#include "tests/unit/test.h"

/* ---- helpers: one operation at a time, run to its end ---- */

struct op {
	struct env_io io;
	struct iovec iov;
	bool is_done;
	int status;
};

static void op_done(struct env_io *io, int status)
{
	struct op *op = CONTAINER_OF(io, struct op, io);
	op->is_done = true;
	op->status = status;
}

static void op_start(struct env *env, struct env_disk *disk, struct op *op, enum env_io_op kind,
		     uint64_t block_index, void *buf, size_t blocks)
{
	uint32_t flags = op->io.flags;
	*op = (struct op){0};
	op->io.op = kind;
	op->io.flags = flags;
	op->io.offset_bytes = block_index * BLOCK_BYTES;
	op->iov = (struct iovec){buf, blocks * BLOCK_BYTES};
	op->io.iov = &op->iov;
	op->io.iov_count = kind == ENV_IO_FLUSH ? 0 : 1;
	op->io.done = op_done;
	env_disk_submit(env, disk, &op->io);
}

struct machine {
	struct sim *sim;
	struct sim_process *process;
	struct env *env;
	struct sim_disk *sim_disk;
	struct env_disk *disk;
	uint8_t *buf; /* 16 blocks */
};

static void machine_up(struct machine *m)
{
	struct err err;
	m->env = sim_process_env(m->process);
	CHECK_EQ(env_disk_open(m->env, "/disk", 0, 0, &m->disk, &err), 0);
	m->buf = env_buf_alloc(m->env, 16 * BLOCK_BYTES);
}

static struct machine machine_create(uint64_t seed)
{
	struct machine m = {.sim = sim_create(seed)};
	m.process = sim_process_create(m.sim, "n1");
	m.sim_disk = sim_disk_create(m.sim, "/disk", 64 * BLOCK_BYTES, NULL);
	machine_up(&m);
	return m;
}

static void machine_restart(struct machine *m, enum sim_kill how)
{
	sim_process_kill(m->process, how);
	sim_process_restart(m->process);
	machine_up(m);
}

static int do_io(struct machine *m, enum env_io_op kind, uint32_t flags, uint64_t block_index,
		 size_t blocks)
{
	struct op op = {.io.flags = flags};
	op_start(m->env, m->disk, &op, kind, block_index, m->buf, blocks);
	CHECK(!op.is_done);
	CHECK_EQ(sim_run_flag(m->sim, &op.is_done, 10 * SIM_S), 0);
	return op.status;
}

static int write_fill(struct machine *m, uint64_t block_index, size_t blocks, uint8_t fill,
		      uint32_t flags)
{
	memset(m->buf, fill, blocks * BLOCK_BYTES);
	return do_io(m, ENV_IO_WRITE, flags, block_index, blocks);
}

static uint8_t read_fill(struct machine *m, uint64_t block_index)
{
	CHECK_EQ(do_io(m, ENV_IO_READ, 0, block_index, 1), 0);
	for (unsigned i = 1; i < BLOCK_BYTES; i++)
		CHECK_EQ(m->buf[i], m->buf[0]);
	return m->buf[0];
}

/* ---- the world ---- */

struct ticker {
	struct env_timer timer;
	struct env *env;
	unsigned fired;
	unsigned *log;
	unsigned *log_count;
	unsigned id;
};

static void ticker_fire(struct env_timer *timer)
{
	struct ticker *ticker = CONTAINER_OF(timer, struct ticker, timer);
	ticker->fired++;
	if (ticker->log)
		ticker->log[(*ticker->log_count)++] = ticker->id;
	env_timer_after(ticker->env, timer, 1000 + env_random(ticker->env) % 100000);
}

static uint64_t busy_run(uint64_t seed)
{
	struct sim *sim = sim_create(seed);
	struct ticker tickers[8] = {0};
	for (unsigned i = 0; i < ARRAY_LEN(tickers); i++) {
		struct sim_process *process = sim_process_create(sim, "p");
		tickers[i].env = sim_process_env(process);
		tickers[i].timer.fire = ticker_fire;
		env_timer_after(tickers[i].env, &tickers[i].timer, 5);
	}
	sim_run_for(sim, 100 * SIM_MS);
	uint64_t hash = sim_trace_hash(sim);
	CHECK(sim_step_count(sim) > 1000);
	sim_destroy(sim);
	return hash;
}

TEST(sim, same_seed_gives_same_trace_and_another_seed_another)
{
	CHECK(busy_run(1) == busy_run(1));
	CHECK(busy_run(1) != busy_run(2));
}

TEST(sim, equal_deadlines_of_a_process_fire_in_arming_order)
{
	struct sim *sim = sim_create(3);
	struct env *env = sim_process_env(sim_process_create(sim, "p"));
	struct ticker tickers[10] = {0};
	unsigned log[10], log_count = 0;
	uint64_t deadline_ns = env_now_ns(env) + 500;
	for (unsigned i = 0; i < 10; i++) {
		tickers[i] =
			(struct ticker){.env = env, .log = log, .log_count = &log_count, .id = i};
		tickers[i].timer.fire = ticker_fire;
		env_timer_set(env, &tickers[i].timer, deadline_ns);
	}
	env_timer_cancel(env, &tickers[4].timer);
	sim_run_for(sim, 900);
	CHECK_EQ(log_count, 9);
	for (unsigned i = 0; i < 9; i++)
		CHECK_EQ(log[i], i + (i >= 4));
	sim_destroy(sim);
}

TEST(sim, a_fast_clock_fires_early_and_never_runs_backwards)
{
	struct sim *sim = sim_create(4);
	struct sim_process *process = sim_process_create(sim, "p");
	struct env *env = sim_process_env(process);
	struct ticker ticker = {.env = env};
	ticker.timer.fire = ticker_fire;
	uint64_t start_ns = env_now_ns(env);
	sim_process_clock_drift(process, 100000);
	CHECK_EQ(env_now_ns(env), start_ns);
	env_timer_after(env, &ticker.timer, 11 * SIM_S);
	sim_run_for(sim, 10 * SIM_S - 1);
	CHECK_EQ(ticker.fired, 0);
	sim_run_for(sim, 1);
	CHECK_EQ(ticker.fired, 1);
	CHECK_EQ(env_now_ns(env) - start_ns, 11 * SIM_S);
	sim_process_clock_jump(process, SIM_S);
	CHECK_EQ(env_now_ns(env) - start_ns, 12 * SIM_S);
	sim_destroy(sim);
}

TEST(sim, a_killed_process_gets_no_callback_and_a_paused_one_gets_them_later)
{
	struct sim *sim = sim_create(5);
	struct sim_process *process = sim_process_create(sim, "p");
	struct env *env = sim_process_env(process);
	struct ticker *ticker = calloc(1, sizeof(*ticker));
	ticker->env = env;
	ticker->timer.fire = ticker_fire;
	env_timer_after(env, &ticker->timer, 1000);
	sim_process_pause(process);
	sim_run_for(sim, SIM_S);
	CHECK_EQ(ticker->fired, 0);
	sim_process_resume(process);
	sim_run_for(sim, SIM_MS);
	CHECK(ticker->fired > 0);
	sim_process_kill(process, SIM_KILL_PROCESS);
	CHECK(!env_timer_armed(&ticker->timer));
	env_timer_after(env, &ticker->timer, 10); /* a dead env takes no notice */
	free(ticker);
	sim_run_for(sim, SIM_S);
	sim_process_restart(process);
	sim_destroy(sim);
}

/* ---- disks ---- */

TEST(sim_disk, flushed_and_dsync_data_survive_every_power_cut)
{
	unsigned lost = 0, kept = 0;
	for (uint64_t seed = 1; seed <= 60; seed++) {
		struct machine m = machine_create(seed);
		sim_disk_profile(m.sim_disk)->tears_sectors = seed % 2;
		CHECK_EQ(write_fill(&m, 0, 4, 1, 0), 0);
		CHECK_EQ(do_io(&m, ENV_IO_FLUSH, 0, 0, 0), 0);
		CHECK_EQ(write_fill(&m, 8, 1, 2, ENV_IO_DSYNC), 0);
		CHECK_EQ(write_fill(&m, 20, 8, 3, 0), 0);
		CHECK_EQ(sim_disk_cached_blocks(m.sim_disk), 8);
		CHECK_EQ(read_fill(&m, 20), 3);
		machine_restart(&m, SIM_KILL_POWER);
		for (unsigned i = 0; i < 4; i++)
			CHECK_EQ(read_fill(&m, i), 1);
		CHECK_EQ(read_fill(&m, 8), 2);
		for (unsigned i = 20; i < 28 && seed % 2 == 0; i++) {
			uint8_t fill = read_fill(&m, i);
			CHECK(fill == 0 || fill == 3);
			*(fill ? &kept : &lost) += 1;
		}
		sim_destroy(m.sim);
	}
	CHECK(lost > 20 && kept > 20);
}

TEST(sim_disk, a_process_kill_keeps_the_cache_and_frees_the_lock)
{
	struct machine m = machine_create(6);
	struct env_disk *second;
	struct err err;
	CHECK_EQ(env_disk_open(m.env, "/disk", 0, 0, &second, &err), -EBUSY);
	CHECK_EQ(env_disk_open(m.env, "/disk", ENV_DISK_RDONLY, 0, &second, &err), -EBUSY);
	CHECK_EQ(env_disk_open(m.env, "/none", 0, 0, &second, &err), -ENOENT);
	CHECK_EQ(write_fill(&m, 3, 1, 7, 0), 0);
	struct op op = {0};
	op_start(m.env, m.disk, &op, ENV_IO_WRITE, 4, m.buf, 2);
	machine_restart(&m, SIM_KILL_PROCESS);
	sim_run_for(m.sim, SIM_S);
	CHECK(!op.is_done);
	CHECK_EQ(read_fill(&m, 3), 7);
	sim_destroy(m.sim);
}

TEST(sim_disk, a_flush_covers_only_writes_that_completed_before_it)
{
	struct machine m = machine_create(7);
	struct op write = {0}, flush = {0};
	memset(m.buf, 9, BLOCK_BYTES);
	sim_disk_profile(m.sim_disk)->slow_factor = 100;
	op_start(m.env, m.disk, &write, ENV_IO_WRITE, 5, m.buf, 1);
	sim_disk_profile(m.sim_disk)->slow_factor = 1;
	op_start(m.env, m.disk, &flush, ENV_IO_FLUSH, 0, NULL, 0);
	CHECK_EQ(sim_run_flag(m.sim, &write.is_done, SIM_S), 0);
	CHECK(flush.is_done);
	CHECK_EQ(sim_disk_cached_blocks(m.sim_disk), 1);
	CHECK_EQ(do_io(&m, ENV_IO_FLUSH, 0, 0, 0), 0);
	CHECK_EQ(sim_disk_cached_blocks(m.sim_disk), 0);
	CHECK(sim_image_equal(sim_disk_current(m.sim_disk), sim_disk_durable(m.sim_disk)));
	sim_destroy(m.sim);
}

struct closer {
	struct env_close close;
	bool is_done;
};

static void close_flag(struct env_close *close)
{
	CONTAINER_OF(close, struct closer, close)->is_done = true;
}

TEST(sim_disk, close_waits_for_operations_and_then_unlocks)
{
	struct machine m = machine_create(8);
	struct op op = {0};
	struct closer closer = {.close.done = close_flag};
	op_start(m.env, m.disk, &op, ENV_IO_READ, 0, m.buf, 1);
	env_disk_close(m.env, m.disk, &closer.close);
	CHECK_EQ(sim_run_flag(m.sim, &closer.is_done, SIM_S), 0);
	CHECK(op.is_done && (op.status == 0 || op.status == -ECANCELED));
	CHECK(!sim_disk_is_open(m.sim_disk));
	CHECK_EQ(env_disk_open(m.env, "/disk", 0, 0, &m.disk, NULL), 0);
	CHECK_EQ(sim_process_buf_bytes(m.process), 16 * BLOCK_BYTES);
	env_buf_free(m.env, m.buf, 16 * BLOCK_BYTES);
	CHECK_EQ(sim_process_buf_bytes(m.process), 0);
	sim_destroy(m.sim);
}

TEST(sim_disk, faults_come_where_and_as_often_as_asked)
{
	struct machine m = machine_create(9);
	sim_disk_fail(m.sim_disk, &(struct sim_disk_fault){ENV_IO_WRITE, 1, 1, 0, 0, -EIO});
	CHECK_EQ(write_fill(&m, 0, 1, 1, 0), 0);
	CHECK_EQ(write_fill(&m, 1, 1, 1, 0), -EIO);
	CHECK_EQ(write_fill(&m, 2, 1, 1, 0), 0);
	sim_disk_fail(m.sim_disk, &(struct sim_disk_fault){ENV_IO_READ, 0, UINT64_MAX,
							   8 * BLOCK_BYTES, BLOCK_BYTES, -EIO});
	CHECK_EQ(do_io(&m, ENV_IO_READ, 0, 6, 2), 0);
	CHECK_EQ(do_io(&m, ENV_IO_READ, 0, 6, 3), -EIO);
	CHECK_EQ(do_io(&m, ENV_IO_READ, 0, 8, 1), -EIO);
	CHECK_EQ(do_io(&m, ENV_IO_READ, 0, 64, 1), -EIO);
	CHECK_EQ(do_io(&m, ENV_IO_WRITE, 0, 63, 2), -ENOSPC);
	sim_disk_vanish(m.sim_disk, true);
	CHECK_EQ(do_io(&m, ENV_IO_READ, 0, 0, 1), -ENODEV);
	sim_destroy(m.sim);
}

TEST(sim_disk, a_failed_flush_is_not_repaired_by_the_next)
{
	bool was_lost = false, was_kept = false;
	for (uint64_t seed = 1; seed <= 30; seed++) {
		struct machine m = machine_create(seed);
		CHECK_EQ(write_fill(&m, 0, 1, 5, 0), 0);
		sim_disk_fail(m.sim_disk, &(struct sim_disk_fault){ENV_IO_FLUSH, 0, 1, 0, 0, -EIO});
		CHECK_EQ(do_io(&m, ENV_IO_FLUSH, 0, 0, 0), -EIO);
		CHECK_EQ(do_io(&m, ENV_IO_FLUSH, 0, 0, 0), 0);
		CHECK_EQ(read_fill(&m, 0), 5);
		machine_restart(&m, SIM_KILL_POWER);
		*(read_fill(&m, 0) == 5 ? &was_kept : &was_lost) = true;
		sim_destroy(m.sim);
	}
	CHECK(was_lost && was_kept);
}

TEST(sim_disk, silent_faults_are_silent_and_counted)
{
	struct machine m = machine_create(10);
	struct sim_disk_profile *profile = sim_disk_profile(m.sim_disk);
	CHECK_EQ(write_fill(&m, 0, 1, 1, ENV_IO_DSYNC), 0);
	profile->lost_write_ppm = 1000000;
	CHECK_EQ(write_fill(&m, 0, 1, 2, ENV_IO_DSYNC), 0);
	CHECK_EQ(read_fill(&m, 0), 1);
	profile->lost_write_ppm = 0;
	profile->stale_read_ppm = 1000000;
	CHECK_EQ(write_fill(&m, 0, 1, 3, 0), 0);
	CHECK_EQ(read_fill(&m, 0), 1);
	profile->stale_read_ppm = 0;
	CHECK_EQ(read_fill(&m, 0), 3);
	profile->misdirected_write_ppm = 1000000;
	CHECK_EQ(write_fill(&m, 30, 1, 4, 0), 0);
	profile->misdirected_write_ppm = 0;
	CHECK_EQ(read_fill(&m, 30), 0);
	sim_disk_flip(m.sim_disk, 0, 2);
	CHECK_EQ(do_io(&m, ENV_IO_READ, 0, 0, 1), 0);
	CHECK(m.buf[0] == (3 ^ 4) && m.buf[1] == 3);
	CHECK_EQ(sim_mark_count(m.sim, SIM_MARK_DISK_LOST_WRITE), 1);
	CHECK_EQ(sim_mark_count(m.sim, SIM_MARK_DISK_MISDIRECTED_WRITE), 1);
	CHECK_EQ(sim_mark_count(m.sim, SIM_MARK_DISK_STALE_READ), 1);
	sim_destroy(m.sim);
}

TEST(sim_disk, images_are_cloned_rolled_back_and_swapped)
{
	struct machine m = machine_create(11);
	struct sim_disk *other = sim_disk_create(m.sim, "/other", 64 * BLOCK_BYTES, NULL);
	CHECK_EQ(write_fill(&m, 0, 2, 1, ENV_IO_DSYNC), 0);
	struct sim_image *old = sim_image_clone(sim_disk_current(m.sim_disk));
	CHECK_EQ(write_fill(&m, 0, 1, 2, ENV_IO_DSYNC), 0);
	CHECK(!sim_image_equal(old, sim_disk_current(m.sim_disk)));
	CHECK(sim_image_digest(old) != sim_image_digest(sim_disk_current(m.sim_disk)));
	sim_disk_swap(m.sim_disk, other);
	CHECK_EQ(read_fill(&m, 0), 0);
	sim_disk_swap(m.sim_disk, other);
	CHECK_EQ(read_fill(&m, 0), 2);
	sim_disk_image_set(m.sim_disk, old);
	CHECK_EQ(read_fill(&m, 0), 1);
	sim_image_free(old);
	sim_destroy(m.sim);
}

TEST(sim_disk, a_stalled_disk_answers_after_the_stall)
{
	struct machine m = machine_create(12);
	struct op op = {0};
	sim_disk_stall(m.sim_disk, true);
	op_start(m.env, m.disk, &op, ENV_IO_READ, 0, m.buf, 1);
	sim_run_for(m.sim, 100 * SIM_S);
	CHECK(!op.is_done);
	sim_disk_stall(m.sim_disk, false);
	CHECK_EQ(sim_run_flag(m.sim, &op.is_done, SIM_S), 0);
	sim_disk_stall(m.sim_disk, true);
	op_start(m.env, m.disk, &op, ENV_IO_READ, 0, m.buf, 1);
	sim_run_for(m.sim, SIM_S);
	sim_destroy(m.sim);
}

/* ---- crash images ---- */

TEST(sim_record, every_subset_of_unflushed_writes_is_given_once_and_flushed_ones_always)
{
	struct machine m = machine_create(13);
	struct sim_record *record = sim_disk_record(m.sim_disk);
	CHECK_EQ(write_fill(&m, 0, 1, 1, 0), 0);
	CHECK_EQ(write_fill(&m, 1, 1, 1, 0), 0);
	CHECK_EQ(do_io(&m, ENV_IO_FLUSH, 0, 0, 0), 0);
	sim_record_mark(record);
	uint32_t acked = sim_record_position(record);
	for (unsigned i = 2; i < 5; i++)
		CHECK_EQ(write_fill(&m, i, 1, 1, 0), 0);
	sim_disk_record_stop(m.sim_disk);
	struct sim_crash_options options = {.seed = 1};
	struct sim_crash_iter *iter = sim_crash_iter_create(record, &options);
	struct sim_crash_state state;
	unsigned after[8] = {0}, before[4] = {0};
	while (sim_crash_iter_next(iter, &state)) {
		uint8_t b[5];
		for (unsigned i = 0; i < 5; i++)
			sim_image_read(state.image, i * BLOCK_BYTES, &b[i], 1);
		if (state.point >= acked) {
			CHECK(b[0] && b[1]);
			after[b[2] | b[3] << 1 | b[4] << 2]++;
		} else {
			before[b[0] | b[1] << 1]++;
			CHECK(!b[2] && !b[3] && !b[4]);
		}
		sim_image_free(state.image);
	}
	for (unsigned i = 0; i < 8; i++)
		CHECK_EQ(after[i], 1);
	for (unsigned i = 0; i < 4; i++)
		CHECK_EQ(before[i], 1);
	sim_crash_iter_free(iter);
	sim_record_free(record);
	sim_destroy(m.sim);
}

TEST(sim_record, a_dsync_write_ends_older_versions_and_overwrites_keep_their_order)
{
	struct machine m = machine_create(14);
	struct sim_record *record = sim_disk_record(m.sim_disk);
	CHECK_EQ(write_fill(&m, 0, 2, 1, 0), 0);
	CHECK_EQ(write_fill(&m, 0, 1, 2, ENV_IO_DSYNC), 0);
	sim_record_mark(record);
	CHECK_EQ(write_fill(&m, 0, 1, 3, 0), 0);
	CHECK_EQ(write_fill(&m, 0, 1, 4, 0), 0);
	sim_disk_record_stop(m.sim_disk);
	struct sim_crash_iter *iter =
		sim_crash_iter_create(record, &(struct sim_crash_options){.seed = 1});
	struct sim_crash_state state;
	unsigned last = 0;
	while (sim_crash_iter_next(iter, &state)) {
		uint8_t b[2];
		for (unsigned i = 0; i < 2; i++)
			sim_image_read(state.image, i * BLOCK_BYTES, &b[i], 1);
		CHECK(b[1] <= 1);
		if (state.point == 4)
			CHECK_EQ(b[0], 2);
		if (state.point >= 5)
			CHECK(b[0] >= 2);
		last |= 1u << b[0];
		sim_image_free(state.image);
	}
	CHECK_EQ(last, 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4);
	sim_crash_iter_free(iter);
	sim_record_free(record);
	sim_destroy(m.sim);
}

TEST(sim_record, writes_tear_between_blocks_and_within_when_asked)
{
	struct machine m = machine_create(15);
	struct sim_record *record = sim_disk_record(m.sim_disk);
	CHECK_EQ(write_fill(&m, 0, 4, 1, 0), 0);
	sim_disk_record_stop(m.sim_disk);
	struct sim_crash_options options = {.torn_blocks_max = 8, .tears_sectors = true, .seed = 2};
	struct sim_crash_iter *iter = sim_crash_iter_create(record, &options);
	struct sim_crash_state state;
	unsigned prefixes = 0, sectors = 0;
	while (sim_crash_iter_next(iter, &state)) {
		uint8_t bytes[4 * BLOCK_BYTES];
		sim_image_read(state.image, 0, bytes, sizeof(bytes));
		unsigned count = 0;
		for (unsigned i = 0; i < sizeof(bytes); i += 512)
			count += bytes[i];
		sectors += count % 8 != 0;
		for (unsigned n = 0; n <= 4; n++)
			if (count == 8 * n && (n == 0 || bytes[(n - 1) * BLOCK_BYTES]))
				prefixes |= 1u << n;
		sim_image_free(state.image);
	}
	CHECK_EQ(prefixes, 31);
	CHECK_EQ(sectors, 1);
	sim_crash_iter_free(iter);
	sim_record_free(record);
	sim_destroy(m.sim);
}

TEST(sim_record, beyond_the_bound_subsets_are_sampled)
{
	struct machine m = machine_create(16);
	struct sim_record *record = sim_disk_record(m.sim_disk);
	for (unsigned i = 0; i < 30; i++)
		CHECK_EQ(write_fill(&m, i, 1, 1, 0), 0);
	sim_record_mark(record);
	sim_disk_record_stop(m.sim_disk);
	struct sim_crash_options options = {.exhaustive_bits = 4, .samples = 50, .seed = 3};
	struct sim_crash_iter *iter = sim_crash_iter_create(record, &options);
	struct sim_crash_state state;
	unsigned states = 0;
	while (sim_crash_iter_next(iter, &state)) {
		states++;
		sim_image_free(state.image);
	}
	CHECK_EQ(states, 2 + 2 * 30 + 50);
	sim_crash_iter_free(iter);
	sim_record_free(record);
	sim_destroy(m.sim);
}
