/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Long random lives of one nearly full store: writes, zeroes, commits, checkpoints, staged tails, shadow
 * resyncs, deletes; ended by power cuts, kills, clean stops, and crashes of the recovery. After each end
 * `store check` reads everything: what is on the disk is always whole, and no block is lost or shared.
 */
#include "tests/sim/store_rig.h"

#include "base/log.h"

#define SMALL_BLOCKS 1024u  /* volume 0: takes part in resyncs */
#define LARGE_BLOCKS 24000u /* volume 1: more than there is room for */
#define LENGTH_MAX   64u

struct life {
	struct rig *rig;
	struct sim_rng rng;
	uint64_t size[2];
	uint64_t promised[2];
	bool must_take[2]; /* promised above its epoch: appends are refused */
	bool refused[2];   /* an append ended with an error: the model's tail is to be cut */
	struct rig_entry saved[RIG_ENTRIES];
	uint64_t saved_last, saved_epoch;
	uint64_t checks, refusals, resyncs, stagings, deletes;
	bool may_be_cut_short; /* the root's copies may differ */
	char report[2048];
	int check_status;
};

static uint64_t error_lines; /* nothing rots here: the store has nothing to complain about */

static void life_log(void *ctx, enum log_level level, const char *line)
{
	(void)ctx;
	if (level != LOG_ERROR)
		return;
	error_lines++;
	fprintf(stderr, "%s\n", line);
}

static struct life *life_now; /* rig callbacks know the rig alone */

static uint64_t below(struct life *life, uint64_t bound)
{
	return sim_rng_below(&life->rng, bound);
}

/* ---- check ---- */

static void life_line(void *ctx, const char *line)
{
	struct life *life = ctx;
	size_t used = strlen(life->report);
	if (life->may_be_cut_short && strncmp(line, "root slot", 9) == 0)
		return;
	snprintf(life->report + used, sizeof(life->report) - used, "%s\n", line);
}

static void life_check_job(struct co *co, void *arg)
{
	struct rig *rig = arg;
	uint64_t findings;
	life_now->check_status = store_check(co, rig->env, RIG_PATH, true, life_line, life_now,
					     &findings, &rig->err);
	rig->is_done = true;
}

static void life_check(struct life *life, bool may_be_cut_short, const char *when)
{
	life->report[0] = '\0';
	life->may_be_cut_short = may_be_cut_short;
	life_now = life;
	rig_run(life->rig, life_check_job);
	int status = life->check_status;
	CHECK(status == 0 || status == -EUCLEAN, "%s: %s", when, err_text(&life->rig->err));
	CHECK(life->report[0] == '\0', "%s: %s", when, life->report);
	life->checks++;
}

/* ---- steps ---- */

static void life_done(struct store_op *op, int status)
{
	struct rig_call *call = CONTAINER_OF(op, struct rig_call, u.op);
	rig_append_done(op, status);
	if (status < 0)
		life_now->refused[call->volume - life_now->rig->volumes] = true;
}

static void life_append(struct life *life, unsigned volume, uint8_t op, uint64_t address,
			uint64_t length)
{
	struct rig *rig = life->rig;
	for (unsigned i = 0; i < RIG_CALLS; i++) {
		struct rig_call *c = &rig->calls[i];
		if (c->is_busy)
			continue;
		if (!c->payload)
			c->payload = aligned_alloc(BLOCK_BYTES, LENGTH_MAX * BLOCK_BYTES);
		rig_prepare(rig, c, &rig->volumes[volume], op, address, length);
		c->is_busy = true;
		c->u.op.done = life_done;
		store_append(rig->volumes[volume].replica, &c->u.append);
		return;
	}
	sim_run_for(rig->sim, SIM_MS);
}

static void life_write(struct life *life, unsigned volume)
{
	bool is_short = below(life, volume == 0 ? 4 : 2);
	uint64_t length = 1 + below(life, is_short ? 4 : LENGTH_MAX);
	uint64_t room = life->size[volume] - length + 1;
	uint64_t address = below(life, !is_short || below(life, 2) ? room : MIN(room, 300u));
	bool is_zero = below(life, 8) == 0;
	if (is_zero && below(life, 4) == 0)
		length = 1 + below(life, life->size[volume] - address);
	life_append(life, volume, is_zero ? LOG_ZERO : LOG_WRITE, address, length);
}

static void life_quiet(struct life *life)
{
	rig_drain(life->rig);
	for (unsigned i = 0; i < 2; i++) {
		struct rig_volume *v = &life->rig->volumes[i];
		if (life->refused[i]) {
			life->refusals++;
			v->last_seq = v->acked_seq;
		}
		life->refused[i] = false;
	}
}

/* Writes to volume 1 in order until there is no room. */
static void life_fill_up(struct life *life)
{
	for (uint64_t at = 0; at + LENGTH_MAX <= LARGE_BLOCKS && !life->refused[1];
	     at += LENGTH_MAX) {
		life_append(life, 1, LOG_WRITE, at, LENGTH_MAX);
		if (below(life, 4) == 0)
			sim_run_for(life->rig->sim, SIM_MS);
		store_commit(life->rig->volumes[1].replica, life->rig->volumes[1].acked_seq);
	}
	life_quiet(life);
}

static void life_take(struct life *life, unsigned volume)
{
	rig_take(life->rig, volume, ++life->promised[volume]);
	life->must_take[volume] = false;
}

static void life_create(struct life *life, unsigned volume)
{
	life->size[volume] = volume == 0 ? SMALL_BLOCKS : LARGE_BLOCKS;
	life->promised[volume] = 0;
	CHECK_EQ(rig_create_replica(life->rig, volume, life->size[volume]), 0);
	life_take(life, volume);
}

static void life_delete(struct life *life, unsigned volume)
{
	struct rig *rig = life->rig;
	life_quiet(life);
	store_replica_delete(rig->volumes[volume].replica, &rig_sync(rig)->u.op);
	CHECK_EQ(rig_wait(rig), 0);
	life_create(life, volume);
	life->deletes++;
}

/* Another log from `base` on is being tried: the model goes there, and comes back with model_back(). */
static void model_away(struct life *life, struct rig_volume *v, uint64_t base)
{
	memcpy(life->saved, v->entries, sizeof(life->saved));
	life->saved_last = v->last_seq;
	life->saved_epoch = v->epoch;
	v->last_seq = base;
}

static void model_back(struct life *life, struct rig_volume *v)
{
	memcpy(v->entries, life->saved, sizeof(life->saved));
	v->last_seq = v->acked_seq = life->saved_last;
	v->epoch = life->saved_epoch;
}

static bool staged_write(struct life *life, struct rig_volume *v, uint64_t epoch, bool is_shadow)
{
	struct rig *rig = life->rig;
	struct rig_call *c = rig_sync(rig);
	uint64_t length = 1 + below(life, 20);
	rig_prepare(rig, c, v, below(life, 5) ? LOG_WRITE : LOG_ZERO,
		    below(life, SMALL_BLOCKS - length), length);
	c->u.op.done = rig_sync_done;
	c->u.append.staged = !is_shadow;
	c->u.append.stage_epoch = is_shadow ? 0 : epoch;
	c->u.append.shadow = is_shadow;
	store_append(v->replica, &c->u.append);
	int rc = rig_wait(rig);
	CHECK(rc == 0 || rc == -ENOSPC, "%d", rc);
	return rc == 0;
}

static void life_stage(struct life *life, unsigned volume)
{
	struct rig *rig = life->rig;
	struct rig_volume *v = &rig->volumes[volume];
	life_quiet(life);
	uint64_t epoch = ++life->promised[volume];
	CHECK_EQ(rig_promise(rig, volume, epoch), 0);
	struct store_replica_info info = rig_info(rig, volume);
	uint64_t base = info.commit_seq + below(life, info.last_seq - info.commit_seq + 1);
	model_away(life, v, base);
	bool ok = true;
	for (uint64_t n = below(life, 4); n > 0 && ok; n--)
		ok = staged_write(life, v, epoch, false);
	if (below(life, 3) == 0)
		CHECK_EQ(rig_checkpoint(rig), 0);
	life->must_take[volume] = !ok || below(life, 3) == 0;
	if (life->must_take[volume]) {
		model_back(life, v);
		return;
	}
	CHECK_EQ(rig_adopt(rig, volume, epoch, base, v->last_seq, rig_last_hash(v)), 0);
	v->epoch = epoch;
	v->acked_seq = v->last_seq;
	life->stagings++;
}

/* The source's state of a chunk as of at_seq. */
static int life_fill(struct life *life, uint64_t at_seq, uint64_t chunk)
{
	struct rig *rig = life->rig;
	struct rig_volume *v = &rig->volumes[0];
	struct rig_call *c = rig_sync(rig);
	uint64_t first = chunk * STORE_CHUNK_BLOCKS;
	for (uint32_t i = 0; i < STORE_CHUNK_BLOCKS; i++) {
		uint64_t index = 0;
		uint32_t version = rig_expect(v, at_seq, first + i, &index);
		char *block = c->payload + (size_t)i * BLOCK_BYTES;
		memset(block, 0, BLOCK_BYTES);
		if (version)
			rig_fill_block(block, version, index);
		c->crcs[i] = crc32c(block, BLOCK_BYTES);
		rig->states[i] = version ? STORE_BLOCK_DATA : STORE_BLOCK_ZERO;
	}
	c->u.fill.at_seq = at_seq;
	c->u.fill.address_blocks = first;
	c->u.fill.length_blocks = STORE_CHUNK_BLOCKS;
	c->u.fill.crc32c = c->crcs;
	c->u.fill.block_state = rig->states;
	c->u.fill.buf = c->payload;
	store_shadow_fill(v->replica, &c->u.fill);
	return rig_wait(rig);
}

static bool shadow_stream(struct life *life, struct rig_volume *v)
{
	bool ok = true;
	for (uint64_t chunk = 0; chunk < SMALL_BLOCKS / STORE_CHUNK_BLOCKS && ok; chunk++) {
		ok = below(life, 2) == 0 || staged_write(life, v, 0, true);
		ok = ok && life_fill(life, v->last_seq, chunk) == 0;
		if (below(life, 4) == 0)
			CHECK_EQ(rig_checkpoint(life->rig), 0);
		life_write(life, 1); /* the other volume goes on */
	}
	return ok;
}

static bool shadow_adopt(struct life *life, struct rig_volume *v, uint64_t epoch)
{
	struct rig *rig = life->rig;
	struct rig_call *c = rig_sync(rig);
	c->u.adopt.epoch = epoch;
	c->u.adopt.last_seq = c->u.adopt.commit_seq = v->last_seq;
	c->u.adopt.last_hash = rig_last_hash(v);
	c->u.adopt.shadow = true;
	store_adopt(v->replica, &c->u.adopt);
	return rig_wait(rig) == 0;
}

static void life_resync(struct life *life)
{
	struct rig *rig = life->rig;
	struct rig_volume *v = &rig->volumes[0];
	life_quiet(life);
	uint64_t epoch = ++life->promised[0];
	CHECK_EQ(rig_promise(rig, 0, epoch), 0);
	life->must_take[0] = true;
	model_away(life, v, rig_info(rig, 0).commit_seq);
	for (uint64_t n = below(life, 5); n > 0; n--) /* the source's own */
		rig_prepare(rig, rig_sync(rig), v, LOG_WRITE, below(life, SMALL_BLOCKS - 9), 9);
	v->epoch = epoch;
	struct rig_call *c = rig_sync(rig);
	c->u.shadow.epoch = epoch;
	c->u.shadow.first_seq = v->last_seq + 1;
	c->u.shadow.prev_hash = rig_last_hash(v);
	store_shadow_begin(v->replica, &c->u.shadow);
	int rc = rig_wait(rig);
	CHECK(rc == 0 || rc == -ENOSPC || rc == -EBUSY, "%d", rc);
	bool ok = rc == 0 && shadow_stream(life, v);
	uint64_t what = below(life, 4);
	if (ok && what > 1) {
		CHECK(shadow_adopt(life, v, epoch));
		v->acked_seq = v->last_seq;
		life->must_take[0] = false;
		life->resyncs++;
		return;
	}
	if (rc == 0 && what == 1) {
		store_shadow_drop(v->replica, &rig_sync(rig)->u.op);
		CHECK_EQ(rig_wait(rig), 0);
	}
	model_back(life, v);
}

static void life_step(struct life *life)
{
	struct rig *rig = life->rig;
	unsigned volume = (unsigned)below(life, 2);
	struct rig_volume *v = &rig->volumes[volume];
	uint64_t what = below(life, 1000);
	if (life->refused[volume] || v->last_seq + 16 >= RIG_ENTRIES)
		life_quiet(life);
	if (v->last_seq + 64 >= RIG_ENTRIES)
		life_delete(life, volume);
	if (life->must_take[volume] && what < 500) {
		life_quiet(life);
		if (rig_info(rig, volume).shadow)
			return; /* only a restart ends it */
		life_take(life, volume);
	}
	if (what < 800 && !life->must_take[volume])
		life_write(life, volume);
	else if (what < 900)
		store_commit(v->replica, below(life, v->acked_seq + 1));
	else if (what < 970)
		sim_run_for(rig->sim, below(life, 3 * SIM_MS));
	else if (what < 980)
		CHECK_EQ(rig_checkpoint(rig), 0);
	else if (what < 990 && !life->must_take[volume])
		life_stage(life, volume);
	else if (what < 996 && !life->must_take[0])
		life_resync(life);
	else if (what == 999)
		life_delete(life, volume);
}

/* ---- ends and beginnings ---- */

/* Writes or flushes begin to fail in the middle of work: the store fails, and the power goes. */
static void life_break_disk(struct life *life)
{
	struct rig *rig = life->rig;
	struct sim_disk_fault fault = {.op = below(life, 2) ? ENV_IO_WRITE : ENV_IO_FLUSH,
				       .skip_count = below(life, 12),
				       .count = UINT64_MAX,
				       .status = -EIO};
	life_quiet(life);
	sim_disk_fail(rig->disk, &fault);
	store_checkpoint(rig->store, &rig_sync(rig)->u.op);
	for (uint64_t n = below(life, 60); n > 0 && !life->refused[1]; n--) {
		if (!life->must_take[1])
			life_write(life, 1);
		if (below(life, 3) == 0)
			sim_run_for(rig->sim, SIM_MS / 4);
	}
	sim_run_for(rig->sim, 20 * SIM_MS);
}

static void life_end(struct life *life)
{
	struct rig *rig = life->rig;
	uint64_t how = below(life, 5);
	life_now = life;
	if (how == 0) {
		life_quiet(life);
		rig_close(rig);
		life_check(life, false, "after a clean stop");
		return;
	}
	if (how == 1)
		life_break_disk(life);
	rig_crash(rig, how < 4 ? SIM_KILL_POWER : SIM_KILL_PROCESS);
	sim_disk_fail_none(rig->disk);
	life_check(life, true, how < 4 ? "after a power cut" : "after a kill");
	while (below(life, 3) == 0) {
		rig->is_done = false;
		co_start(rig->co, rig_open_job, rig);
		sim_run_for(rig->sim, below(life, 5 * SIM_MS));
		rig_crash(rig, SIM_KILL_POWER);
		life_check(life, true, "after a crash of recovery");
	}
}

static void life_verify(struct life *life, unsigned volume)
{
	struct rig *rig = life->rig;
	struct rig_volume *v = &rig->volumes[volume];
	rig_check_prefix(rig, volume);
	for (unsigned n = 0; n < 4; n++) {
		uint64_t first = below(life, life->size[volume] - RIG_BLOCKS);
		CHECK_EQ(rig_read(rig, volume, first, RIG_BLOCKS), 0);
		for (uint64_t b = 0; b < RIG_BLOCKS; b++) {
			uint64_t index = 0;
			char want[BLOCK_BYTES] = {0};
			uint32_t version = rig_expect(v, v->last_seq, first + b, &index);
			if (version)
				rig_fill_block(want, version, index);
			CHECK(memcmp(rig->buf + b * BLOCK_BYTES, want, BLOCK_BYTES) == 0,
			      "volume %u block %llu", volume, (unsigned long long)(first + b));
		}
	}
}

static void life_run(uint64_t seed, unsigned lives)
{
	struct life *life = calloc(1, sizeof(*life));
	struct rig *rig = rig_create(seed);
	life_now = life;
	life->rig = rig;
	sim_rng_seed(&life->rng, seed, 98);
	log_sink_set(life_log, NULL);
	CHECK_EQ(rig_format(rig), 0);
	CHECK_EQ(rig_open(rig), 0);
	life_create(life, 0);
	life_create(life, 1);
	for (unsigned n = 0; n < lives; n++) {
		rig->no_commit = below(life, 3) == 0;
		if (below(life, 3) == 0)
			life_fill_up(life);
		for (uint64_t steps = below(life, 600); steps > 0; steps--)
			life_step(life);
		life_end(life);
		CHECK_EQ(rig_open(rig), 0);
		for (unsigned i = 0; i < 2; i++) {
			life->refused[i] = false;
			life_verify(life, i);
			life_take(life, i);
		}
	}
	printf("seed %llu: %llu checks, %llu refusals, %llu resyncs, %llu stagings, %llu deletes\n",
	       (unsigned long long)seed, (unsigned long long)life->checks,
	       (unsigned long long)life->refusals, (unsigned long long)life->resyncs,
	       (unsigned long long)life->stagings, (unsigned long long)life->deletes);
	CHECK_EQ(error_lines, 0);
	rig_destroy(rig);
	free(life);
}

#define LIVES(n)                                          \
	TEST(store_life, ends_whole_whatever_ends_it_##n) \
	{                                                 \
		life_run(n, 10);                          \
	}
LIVES(1)
LIVES(2)
LIVES(3)
LIVES(4)
LIVES(5)
LIVES(6)
LIVES(7)
LIVES(8)
