/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store against every crash: workloads of up to three operations on two volumes; a crash after
 * every I/O, with every subset of what was not durable, and torn writes; a second crash during
 * the recovery from the first; one rotten block anywhere. After each: open, compare with the
 * model (store_workload.h), go on writing, check.
 *
 * usage: store_crash_test [--full [--part I/N]] [--seconds N] [--seed N] [--only WORKLOAD]
 * [--verbose]
 *
 * Without --full it takes workloads in a seeded order until its time is up (50 s), with smaller
 * bounds. --full takes all, or with --part every Nth from the Ith on (I below N): `make crash` runs
 * the parts on all processors. A failure prints the line that repeats it. Last line: `N passed, N
 * failed`.
 */
#include <errno.h>
#include <inttypes.h>
#include <time.h>

#include <malloc.h>
#include <stdlib.h>

#include "base/log.h"
#include "store/format.h"
#include "tests/sim/store_workload.h"

#define FAILURES_MAX 10

struct bounds {
	uint32_t exhaustive_bits;
	uint32_t samples;
	uint32_t torn_blocks_max;
	uint32_t check_every;    /* store check on each Nth state */
	uint32_t continue_every; /* write on after each Nth state */
	uint32_t recrash_every;  /* crash the recovery of each Nth state */
	uint32_t recrash_bits;
	uint32_t rot_every; /* rot tests after each Nth workload */
};

static const struct bounds bounds_quick = {6, 24, 2, 16, 8, 64, 3, 16};
static const struct bounds bounds_full = {10, 200, 8, 4, 4, 8, 6, 1};

struct run {
	struct bounds bounds;
	uint64_t seed;
	bool is_verbose;
	struct sim_image *base[2]; /* by has_past */
	uint64_t deadline_s;
	uint64_t part, parts;
	/* the workload at hand */
	uint64_t index;
	const struct workload *workload;
	char where[256];
	char why[768];
	/* counts */
	uint64_t workloads, states, recrashes, rots, failures;
};

static uint64_t clock_s(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec;
}

static void fail(struct run *run)
{
	char text[160];
	struct workload_spec spec;
	workload_spec_nth(run->index, &spec);
	workload_describe(&spec, text, sizeof(text));
	if (run->failures++ < FAILURES_MAX)
		printf("FAILED --seed %" PRIu64 " --only %" PRIu64 ": %s: %s: %s\n", run->seed,
		       run->index, text, run->where, run->why);
}

static int explain(struct run *run, struct store_world *world, const char *what, int rc)
{
	snprintf(run->why, sizeof(run->why), "%s: %s %s %s", what, err_name(rc),
		 err_text(&world->err), world->report);
	return rc;
}

/* ---- one crash state ---- */

/* Opens the image and compares; *found is what the volumes were in. */
static int state_open(struct run *run, struct store_world *world,
		      const struct workload_floor *floor, struct workload_floor *found)
{
	int rc = store_world_open(world);
	if (rc < 0)
		return explain(run, world, "open", rc);
	return workload_check(run->workload, world, floor, WORKLOAD_STRICT, found, run->why,
			      sizeof(run->why));
}

static int state_check(struct run *run, struct store_world *world)
{
	int rc = store_world_check(world, true);
	return rc < 0 ? explain(run, world, "check", rc) : 0;
}

/* After a good open: write on, close or crash, check. */
static int state_go_on(struct run *run, struct store_world *world, bool is_checked,
		       bool is_continued)
{
	int rc = 0;
	if (is_continued)
		rc = workload_continue(run->workload, world, run->why, sizeof(run->why));
	if (rc == 0 && is_continued)
		rc = store_world_close(world);
	if (rc < 0)
		return rc;
	store_world_crash(world, SIM_KILL_PROCESS);
	return is_checked ? state_check(run, world) : 0;
}

/* What a crash while it recovered may leave: the same floor; once open had returned, exactly what it
 * showed, because it may have voted with it. */
static int recrash(struct run *run, struct sim_record *record, uint32_t opened_at,
		   const struct workload_floor *before, const struct workload_floor *after)
{
	struct sim_crash_options options = {.exhaustive_bits = run->bounds.recrash_bits,
					    .samples = run->bounds.samples / 4,
					    .torn_blocks_max = 1,
					    .seed = run->seed};
	struct sim_crash_iter *iter = sim_crash_iter_create(record, &options);
	struct sim_crash_state state;
	struct workload_floor found;
	int rc = 0;
	while (rc == 0 && sim_crash_iter_next(iter, &state)) {
		struct store_world *world = store_world_create(run->seed + 2, state.image);
		const struct workload_floor *floor = state.point >= opened_at ? after : before;
		rc = state_open(run, world, floor, &found);
		for (unsigned v = 0; rc == 0 && v < WORKLOAD_VOLUMES; v++) {
			if (state.point < opened_at || found.state[v] == after->state[v])
				continue;
			snprintf(run->why, sizeof(run->why),
				 "volume %u: opened as state %u, then %u", v, after->state[v],
				 found.state[v]);
			rc = -EUCLEAN;
		}
		if (rc < 0)
			snprintf(run->where + strlen(run->where),
				 sizeof(run->where) - strlen(run->where), ", then %.60s",
				 state.text);
		run->recrashes++;
		store_world_destroy(world);
		sim_image_free(state.image);
	}
	sim_crash_iter_free(iter);
	return rc;
}

static int state_judge(struct run *run, const struct sim_crash_state *state)
{
	const struct bounds *bounds = &run->bounds;
	struct store_world *world = store_world_create(run->seed + 1, state->image);
	bool is_recrashed = run->states % bounds->recrash_every == 0;
	bool is_checked = run->states % bounds->check_every == 0;
	bool is_continued = run->states % bounds->continue_every == 0;
	struct sim_record *record = is_recrashed ? sim_disk_record(world->disk) : NULL;
	struct workload_floor floor, found = {0};
	workload_floor_at(run->workload, state->point, &floor);
	snprintf(run->where, sizeof(run->where), "%s", state->text);
	int rc = state_open(run, world, &floor, &found);
	if (record) {
		sim_record_mark(record);
		sim_disk_record_stop(world->disk);
	}
	uint32_t opened_at = record ? sim_record_position(record) : 0;
	if (rc == 0)
		rc = state_go_on(run, world, is_checked, is_continued);
	store_world_destroy(world);
	if (rc == 0 && record)
		rc = recrash(run, record, opened_at, &floor, &found);
	sim_record_free(record);
	run->states++;
	return rc;
}

static void states_judge(struct run *run, struct sim_record *record)
{
	struct sim_crash_options options = {.exhaustive_bits = run->bounds.exhaustive_bits,
					    .samples = run->bounds.samples,
					    .torn_blocks_max = run->bounds.torn_blocks_max,
					    .seed = run->seed};
	struct sim_crash_iter *iter = sim_crash_iter_create(record, &options);
	struct sim_crash_state state;
	int rc = 0;
	while (rc == 0 && sim_crash_iter_next(iter, &state)) {
		rc = state_judge(run, &state);
		sim_image_free(state.image);
	}
	if (rc < 0)
		fail(run);
	sim_crash_iter_free(iter);
}

/* ---- one rotten block ---- */

enum rot_class {
	ROT_COPY, /* a superblock or root copy: the other one serves */
	ROT_DESC, /* witnessed: a volume may be suspect, never shorter in silence */
	ROT_DATA, /* payload: that block is bad, nothing else */
	ROT_META, /* page, index, table: bad blocks, or the store refuses to open */
};

static enum rot_class rot_classify(const struct sim_image *image, uint64_t block_index)
{
	le32 magic;
	sim_image_read(image, block_index * BLOCK_BYTES, &magic, sizeof(magic));
	switch (le32_get(magic)) {
	case MAGIC_SUPERBLOCK:
	case MAGIC_ROOT:
		return ROT_COPY;
	case MAGIC_DESC:
		return ROT_DESC;
	case MAGIC_PAGE:
	case MAGIC_INDEX:
	case MAGIC_TABLE:
		return ROT_META;
	default:
		return ROT_DATA;
	}
}

static int rot_verdict(struct run *run, struct store_world *world, enum rot_class class,
		       const struct workload_floor *floor)
{
	static const enum workload_tolerance tolerance[] = {
		[ROT_COPY] = WORKLOAD_STRICT,
		[ROT_DESC] = WORKLOAD_BAD_LOG,
		[ROT_DATA] = WORKLOAD_BAD_BLOCKS,
		[ROT_META] = WORKLOAD_BAD_BLOCKS,
	};
	struct workload_floor found;
	int rc = store_world_open(world);
	if ((rc == -EUCLEAN || rc == -EBADMSG) && class == ROT_META)
		return 0;
	if (rc < 0)
		return explain(run, world, "open", rc);
	return workload_check(run->workload, world, floor, tolerance[class], &found, run->why,
			      sizeof(run->why));
}

static int rot_one(struct run *run, struct sim_image *image, uint64_t block_index,
		   const struct workload_floor *floor)
{
	struct sim_image *rotten = sim_image_clone(image);
	enum rot_class class = rot_classify(image, block_index);
	struct sim_rng rng;
	sim_rng_seed(&rng, run->seed ^ run->index, block_index);
	uint64_t offset = sim_rng_below(&rng, sim_rng_below(&rng, 2) ? 256 : BLOCK_BYTES);
	sim_image_flip(rotten, block_index * BLOCK_BYTES + offset,
		       (unsigned)sim_rng_below(&rng, 8));
	snprintf(run->where, sizeof(run->where),
		 "rot in block %" PRIu64 " (class %d) byte %" PRIu64, block_index, class, offset);
	struct store_world *world = store_world_create(run->seed + 3, rotten);
	int rc = rot_verdict(run, world, class, floor);
	store_world_crash(world, SIM_KILL_PROCESS);
	if (rc == 0) {
		rc = store_world_check(world, true); /* must end; what it finds is its own matter */
		rc = rc == -EUCLEAN || rc == 0 ? 0 : explain(run, world, "check", rc);
	}
	store_world_destroy(world);
	sim_image_free(rotten);
	run->rots++;
	return rc;
}

/* Both copies of the newest root: the store is lost, and says so. */
static int rot_both_roots(struct run *run, struct sim_image *image)
{
	struct sim_image *rotten = sim_image_clone(image);
	struct root root[2];
	uint64_t second = PLACE_RING + STORE_WORLD_RING_BYTES / BLOCK_BYTES;
	for (unsigned i = 0; i < 2; i++)
		sim_image_read(image, (PLACE_ROOT_0 + i) * BLOCK_BYTES, &root[i], sizeof(root[i]));
	unsigned newest = le64_get(root[1].generation) > le64_get(root[0].generation);
	sim_image_flip(rotten, (PLACE_ROOT_0 + newest) * BLOCK_BYTES + 100, 1);
	sim_image_flip(rotten, (second + newest) * BLOCK_BYTES + 100, 1);
	snprintf(run->where, sizeof(run->where), "rot in both copies of root %u", newest);
	struct store_world *world = store_world_create(run->seed + 4, rotten);
	int rc = store_world_open(world);
	if (rc == -EUCLEAN)
		rc = 0;
	else
		rc = explain(run, world, "open with both copies of the newest root rotten",
			     rc < 0 ? rc : -EINVAL);
	store_world_destroy(world);
	sim_image_free(rotten);
	run->rots++;
	return rc;
}

static bool block_differs(const struct sim_image *a, const struct sim_image *b,
			  uint64_t block_index)
{
	uint8_t bytes_a[BLOCK_BYTES], bytes_b[BLOCK_BYTES];
	sim_image_read(a, block_index * BLOCK_BYTES, bytes_a, BLOCK_BYTES);
	sim_image_read(b, block_index * BLOCK_BYTES, bytes_b, BLOCK_BYTES);
	return memcmp(bytes_a, bytes_b, BLOCK_BYTES) != 0;
}

/* Everything the workload wrote, and every fixed place. */
static void rot_judge(struct run *run, struct sim_image *base, struct sim_image *image)
{
	struct workload_floor floor;
	uint64_t blocks = sim_image_size_bytes(image) / BLOCK_BYTES;
	uint64_t trailer = PLACE_RING + STORE_WORLD_RING_BYTES / BLOCK_BYTES;
	workload_floor_at(run->workload, UINT32_MAX - 1, &floor);
	int rc = rot_both_roots(run, image);
	for (uint64_t b = 0; b < blocks && rc == 0; b++) {
		bool is_fixed = b <= 2 || (b >= trailer && b <= trailer + 2);
		if (is_fixed || block_differs(base, image, b))
			rc = rot_one(run, image, b, &floor);
	}
	if (rc < 0)
		fail(run);
}

/* ---- one workload ---- */

static void workload_judge(struct run *run, uint64_t index)
{
	struct workload_spec spec;
	workload_spec_nth(index, &spec);
	run->index = index;
	struct sim_image *base = run->base[spec.has_past];
	struct store_world *world = store_world_create(run->seed ^ index, base);
	snprintf(run->where, sizeof(run->where), "run");
	if (spec.redirects)
		world->config.inline_payload_bytes = 0;
	int rc = store_world_open(world);
	if (rc < 0) {
		explain(run, world, "open", rc);
		fail(run);
		store_world_destroy(world);
		return;
	}
	struct workload *workload = workload_create(world, &spec);
	struct sim_image *image = NULL;
	if (workload)
		rc = workload_run(workload, run->why, sizeof(run->why));
	store_world_settle(world);
	if (workload && rc == 0)
		image = sim_image_clone(sim_disk_durable(world->disk));
	store_world_destroy(world);
	if (!workload)
		return;
	run->workload = workload;
	if (rc < 0) {
		fail(run);
	} else {
		struct sim_record *record = workload_record_take(workload);
		states_judge(run, record);
		sim_record_free(record);
		if (run->workloads % run->bounds.rot_every == 0)
			rot_judge(run, base, image);
	}
	run->workloads++;
	if (run->is_verbose)
		printf("workload %" PRIu64 ": %" PRIu64 " states so far\n", index, run->states);
	sim_image_free(image);
	workload_free(workload);
}

static void run_some(struct run *run)
{
	struct sim_rng rng;
	sim_rng_seed(&rng, run->seed, 99);
	/* short ones first: they say most; then a seeded choice among all */
	for (uint64_t i = 0; i < workload_count() && clock_s() < run->deadline_s; i += 7)
		workload_judge(run, i % 3 ? sim_rng_below(&rng, workload_count())
					  : sim_rng_below(&rng, workload_count() / 16));
}

static void run_full(struct run *run)
{
	for (uint64_t i = run->part; i < workload_count() && clock_s() < run->deadline_s;
	     i += run->parts)
		workload_judge(run, i);
}

static bool part_parse(const char *text, struct run *run)
{
	return sscanf(text, "%" SCNu64 "/%" SCNu64, &run->part, &run->parts) == 2 &&
	       run->part < run->parts;
}

static void log_nowhere(void *ctx, enum log_level level, const char *line)
{
	(void)ctx;
	(void)level;
	(void)line;
}

static int usage(void)
{
	fputs("usage: store_crash_test [--full [--part I/N]] [--seconds N] [--seed N] [--only "
	      "WORKLOAD]"
	      " [--verbose]\n",
	      stderr);
	return 2;
}

int main(int argc, char **argv)
{
	struct run run = {.bounds = bounds_quick, .seed = 1, .parts = 1};
	/* Stores are opened and closed all the time: their memory stays in the process. */
	(void)mallopt(M_MMAP_THRESHOLD, 64 << 20);
	(void)mallopt(M_TRIM_THRESHOLD, 256 << 20);
	uint64_t seconds = 0, only = UINT64_MAX;
	bool is_full = false;
	for (int i = 1; i < argc; i++) {
		bool has_value = i + 1 < argc;
		if (strcmp(argv[i], "--full") == 0)
			is_full = true;
		else if (strcmp(argv[i], "--verbose") == 0)
			run.is_verbose = true;
		else if (has_value && strcmp(argv[i], "--seconds") == 0)
			seconds = strtoull(argv[++i], NULL, 10);
		else if (has_value && strcmp(argv[i], "--seed") == 0)
			run.seed = strtoull(argv[++i], NULL, 10);
		else if (has_value && strcmp(argv[i], "--only") == 0)
			only = strtoull(argv[++i], NULL, 10);
		else if (!has_value || strcmp(argv[i], "--part") != 0 ||
			 !part_parse(argv[++i], &run))
			return usage();
	}
	if (is_full)
		run.bounds = bounds_full;
	if (seconds == 0)
		seconds = is_full ? UINT64_MAX / 2 : 50;
	run.deadline_s = clock_s() + seconds;
	log_sink_set(log_nowhere, NULL);
	for (unsigned past = 0; past < 2; past++) {
		run.base[past] = workload_base(past, run.why, sizeof(run.why));
		if (!run.base[past]) {
			printf("FAILED %s\n0 passed, 1 failed\n", run.why);
			return 1;
		}
	}
	if (only != UINT64_MAX)
		workload_judge(&run, only);
	else if (is_full)
		run_full(&run);
	else
		run_some(&run);
	sim_image_free(run.base[0]);
	sim_image_free(run.base[1]);
	printf("%" PRIu64 " workloads of %" PRIu64 ", %" PRIu64 " crash states, %" PRIu64
	       " crashes of a recovery, "
	       "%" PRIu64 " rotten blocks\n",
	       run.workloads, workload_count(), run.states, run.recrashes, run.rots);
	printf("%" PRIu64 " passed, %" PRIu64 " failed\n",
	       run.workloads > run.failures ? run.workloads - run.failures : 0, run.failures);
	return run.failures != 0 || run.workloads == 0;
}
