/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Workloads: from symbols to steps, running them, and what may be found after a crash.
 *
 * W1  Steps of one volume take effect in their order (the log's prefix rule), so a volume's history
 *     is a list of states and a crash leaves one of them.
 * W2  A step that was acknowledged when the disk had come to point p of the record is in every
 *     crash state at p or later.
 * W3  Everything a step will say (hashes, crcs, payload) is computed before the run, so the model
 *     owes nothing to the store.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>

#include "base/crc32c.h"
#include "tests/sim/store_workload.h"

#define STATES_MAX      (WORKLOAD_STEPS_MAX + 1)
#define STEP_BLOCKS_MAX 3
#define STAGGER_NS_MAX  (150 * SIM_US)
#define RUN_LIMIT_NS    (600 * SIM_S)
#define NEVER           UINT32_MAX

struct state {
	bool exists;
	uint64_t promised;
	uint64_t log_epoch;
	uint64_t last_seq;
	uint64_t last_hash;
	uint64_t tag[WORKLOAD_BLOCKS]; /* 0: zeros */
};

enum step_kind { STEP_APPEND, STEP_PROMISE, STEP_ADOPT, STEP_CHECKPOINT, STEP_DELETE };

struct step {
	union { /* first: done() finds the step by it */
		struct store_op op;
		struct store_append append;
		struct store_promise promise;
		struct store_adopt adopt;
	} u;
	struct workload *workload;
	enum step_kind kind;
	unsigned volume;
	bool is_barrier;     /* waits for its volume's steps, and they for it */
	unsigned state;      /* of the volume's history once done */
	uint64_t commit_seq; /* to say when done; 0: nothing */
	uint64_t tag;
	struct iovec iov;
	uint32_t crc[STEP_BLOCKS_MAX];
	bool is_issued;
	bool is_done;
	int status;
};

struct volume {
	struct store_replica *replica;
	struct state state[STATES_MAX];
	uint32_t acked_at[STATES_MAX]; /* point of the record */
	unsigned state_count;
	/* the log as it will be */
	uint64_t hash[WORKLOAD_SEQ_MAX];                     /* by seq */
	uint64_t content[WORKLOAD_SEQ_MAX][WORKLOAD_BLOCKS]; /* after seq */
	uint64_t commit_seq;
	/* the staged tail of the promised epoch */
	bool has_stage;
	uint64_t stage_base;
	uint64_t stage_last;
	uint64_t stage_hash;
	uint64_t stage_content[WORKLOAD_BLOCKS];
};

struct workload {
	struct store_world *world;
	struct workload_spec spec;
	struct volume volume[WORKLOAD_VOLUMES];
	struct step step[WORKLOAD_STEPS_MAX];
	unsigned step_count;
	unsigned done_count;
	bool is_done;
	int status;
	struct sim_record *record;
	void *payload; /* STEP_BLOCKS_MAX blocks per step */
	void *read_buf;
};

static int say(char *why, size_t why_bytes, int code, const char *format, ...) PRINTF_LIKE(4, 5);
static int say(char *why, size_t why_bytes, int code, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	vsnprintf(why, why_bytes, format, args);
	va_end(args);
	return code;
}

/* ---- specs ---- */

static const char *const op_name[WORKLOAD_OPS] = {
	[WORKLOAD_WRITE_4K] = "write_4k",     [WORKLOAD_WRITE_12K] = "write_12k",
	[WORKLOAD_OVERWRITE] = "overwrite",   [WORKLOAD_ZERO] = "zero",
	[WORKLOAD_PROMISE] = "promise",       [WORKLOAD_ADOPT] = "adopt",
	[WORKLOAD_CHECKPOINT] = "checkpoint", [WORKLOAD_DELETE] = "delete",
};
static const char *const pace_name[WORKLOAD_PACES] = {"sequential", "together", "staggered"};

#define SYMBOLS  ((uint64_t)WORKLOAD_OPS * WORKLOAD_VOLUMES)
#define VARIANTS (WORKLOAD_PACES * 8ull)

uint64_t workload_count(void)
{
	return VARIANTS * (SYMBOLS + SYMBOLS * SYMBOLS + SYMBOLS * SYMBOLS * SYMBOLS);
}

void workload_spec_nth(uint64_t index, struct workload_spec *ret)
{
	uint64_t variant = index % VARIANTS;
	uint64_t rest = index / VARIANTS;
	uint64_t of_length = SYMBOLS;
	*ret = (struct workload_spec){.symbol_count = 1};
	while (rest >= of_length && ret->symbol_count < WORKLOAD_SYMBOLS_MAX) {
		rest -= of_length;
		of_length *= SYMBOLS;
		ret->symbol_count++;
	}
	for (unsigned i = 0; i < ret->symbol_count; i++) {
		ret->symbol[i] = (uint8_t)(rest % SYMBOLS);
		rest /= SYMBOLS;
	}
	ret->pace = (uint8_t)(variant % WORKLOAD_PACES);
	ret->commits = variant / WORKLOAD_PACES % 2;
	ret->redirects = variant / WORKLOAD_PACES / 2 % 2;
	ret->has_past = variant / WORKLOAD_PACES / 4;
}

void workload_describe(const struct workload_spec *spec, char *text, size_t text_bytes)
{
	size_t used = 0;
	text[0] = '\0';
	for (unsigned i = 0; i < spec->symbol_count && used < text_bytes; i++)
		used += (size_t)snprintf(text + used, text_bytes - used, "%s(%c) ",
					 op_name[spec->symbol[i] / WORKLOAD_VOLUMES],
					 'a' + spec->symbol[i] % WORKLOAD_VOLUMES);
	if (used < text_bytes)
		snprintf(text + used, text_bytes - used, "%s%s%s%s", pace_name[spec->pace],
			 spec->commits ? " commits" : "", spec->redirects ? " redirects" : "",
			 spec->has_past ? " past" : "");
}

/* ---- payload ---- */

/* Every block of every entry differs. */
static void block_fill(uint64_t tag, uint8_t *to)
{
	static const uint8_t zeros[BLOCK_BYTES];
	if (tag == 0) {
		memcpy(to, zeros, BLOCK_BYTES);
		return;
	}
	for (uint64_t i = 0; i < BLOCK_BYTES / sizeof(i); i++) {
		uint64_t word = (tag + i * 0x9e3779b97f4a7c15u) * 0xbf58476d1ce4e5b9u;
		memcpy(to + i * sizeof(word), &word, sizeof(word));
	}
}

static uint64_t tag_make(unsigned volume, uint64_t serial, unsigned block)
{
	return (uint64_t)(volume + 1) << 48 | (serial + 1) << 8 | block;
}

/* ---- the base ---- */

static void base_spec(unsigned volume, struct store_replica_spec *ret)
{
	*ret = (struct store_replica_spec){.size_blocks = 1024};
	memset(ret->volume_uuid.bytes, 0x10 + (int)volume, sizeof(ret->volume_uuid.bytes));
	memset(ret->replica_uuid.bytes, 0x20 + (int)volume, sizeof(ret->replica_uuid.bytes));
}

#define BASE_SERIAL 1000

/* Entry `seq` of the past: one block at address seq - 1. */
static int base_append(struct store_world *world, struct store_replica *replica, unsigned volume,
		       uint64_t seq)
{
	struct store_replica_info info;
	store_replica_info(replica, &info);
	void *buf = env_buf_alloc(world->env, BLOCK_BYTES);
	block_fill(tag_make(volume, BASE_SERIAL + seq, 0), buf);
	uint32_t crc = crc32c(buf, BLOCK_BYTES);
	struct iovec iov = {buf, BLOCK_BYTES};
	struct store_append append = {
		.entry = {.epoch = 1,
			  .seq = seq,
			  .prev_hash = info.last_hash,
			  .time_ms = seq,
			  .op = LOG_WRITE,
			  .address_blocks = seq - 1,
			  .length_blocks = 1,
			  .crc32c = &crc},
		.iov = &iov,
		.iov_count = 1,
	};
	int rc = store_world_append(world, replica, &append);
	env_buf_free(world->env, buf, BLOCK_BYTES);
	return rc;
}

static int base_volume(struct store_world *world, unsigned volume, bool has_past)
{
	struct store_replica_spec spec;
	struct store_replica *replica = NULL;
	struct store_replica_info info;
	base_spec(volume, &spec);
	int rc = store_world_create_replica(world, &spec, &replica);
	if (rc < 0)
		return rc;
	rc = store_world_promise(world, replica, 1);
	if (rc < 0)
		return rc;
	store_replica_info(replica, &info);
	struct store_adopt adopt = {.epoch = 1, .last_hash = info.last_hash};
	rc = store_world_adopt(world, replica, &adopt);
	for (uint64_t seq = 1; rc == 0 && has_past && seq <= 3; seq++) {
		rc = base_append(world, replica, volume, seq);
		if (rc == 0 && seq == 2) {
			store_commit(replica, 2);
			rc = store_world_checkpoint(world);
		}
	}
	return rc;
}

struct sim_image *workload_base(bool has_past, char *why, size_t why_bytes)
{
	struct store_world *world = store_world_create(1, NULL);
	struct sim_image *image = NULL;
	int rc = store_world_format(world);
	if (rc == 0)
		rc = store_world_open(world);
	for (unsigned v = 0; rc == 0 && v < WORKLOAD_VOLUMES; v++)
		rc = base_volume(world, v, has_past);
	if (rc == 0)
		rc = store_world_close(world);
	if (rc == 0)
		image = sim_image_clone(sim_disk_durable(world->disk));
	else
		say(why, why_bytes, rc, "base: %s %s", err_name(rc), err_text(&world->err));
	store_world_destroy(world);
	return image;
}

/* ---- from symbols to steps ---- */

static struct state *state_top(struct volume *volume)
{
	return &volume->state[volume->state_count - 1];
}

static struct state *state_push(struct volume *volume)
{
	assert(volume->state_count < STATES_MAX);
	volume->state[volume->state_count] = *state_top(volume);
	volume->acked_at[volume->state_count] = NEVER;
	volume->state_count++;
	return state_top(volume);
}

static struct step *step_push(struct workload *workload, enum step_kind kind, unsigned volume)
{
	assert(workload->step_count < WORKLOAD_STEPS_MAX);
	struct step *step = &workload->step[workload->step_count++];
	step->workload = workload;
	step->kind = kind;
	step->volume = volume;
	step->is_barrier = kind == STEP_PROMISE || kind == STEP_ADOPT || kind == STEP_DELETE;
	return step;
}

static void content_apply(uint64_t *content, const struct step *step)
{
	const struct log_entry *entry = &step->u.append.entry;
	for (unsigned i = 0; i < entry->length_blocks; i++)
		content[entry->address_blocks + i] = entry->op == LOG_WRITE ? step->tag + i : 0;
}

static void payload_prepare(struct workload *workload, struct step *step)
{
	size_t index = (size_t)(step - workload->step);
	uint8_t *buf = (uint8_t *)workload->payload + index * STEP_BLOCKS_MAX * BLOCK_BYTES;
	struct log_entry *entry = &step->u.append.entry;
	for (unsigned i = 0; i < entry->length_blocks; i++) {
		block_fill(step->tag + i, buf + i * BLOCK_BYTES);
		step->crc[i] = crc32c(buf + i * BLOCK_BYTES, BLOCK_BYTES);
	}
	entry->crc32c = step->crc;
	step->iov = (struct iovec){buf, entry->length_blocks * BLOCK_BYTES};
	step->u.append.iov = &step->iov;
	step->u.append.iov_count = 1;
}

/* Where the next entry goes: the log, or the staged tail once an epoch was promised. */
static void append_place(struct workload *workload, struct volume *volume, struct step *step)
{
	struct log_entry *entry = &step->u.append.entry;
	const struct state *top = state_top(volume);
	bool is_staged = top->promised != top->log_epoch;
	if (is_staged && !volume->has_stage) {
		uint64_t base = workload->spec.commits ? top->last_seq : volume->commit_seq;
		volume->has_stage = true;
		volume->stage_base = volume->stage_last = base;
		volume->stage_hash = volume->hash[base];
		memcpy(volume->stage_content, volume->content[base], sizeof(volume->stage_content));
	}
	step->u.append.staged = is_staged;
	step->u.append.stage_epoch = is_staged ? top->promised : 0;
	entry->epoch = is_staged ? top->promised : top->log_epoch;
	entry->seq = (is_staged ? volume->stage_last : top->last_seq) + 1;
	entry->prev_hash = is_staged ? volume->stage_hash : top->last_hash;
	entry->commit_seq = volume->commit_seq;
	entry->time_ms = 100 + entry->seq;
}

static void compile_append(struct workload *workload, unsigned v, uint8_t op, uint64_t address,
			   unsigned length)
{
	struct volume *volume = &workload->volume[v];
	struct step *step = step_push(workload, STEP_APPEND, v);
	struct log_entry *entry = &step->u.append.entry;
	step->tag = tag_make(v, workload->step_count, 0);
	entry->op = op;
	entry->address_blocks = address;
	entry->length_blocks = length;
	if (op == LOG_WRITE)
		payload_prepare(workload, step);
	append_place(workload, volume, step);
	uint64_t hash = log_entry_hash(entry);
	if (step->u.append.staged) {
		volume->stage_last = entry->seq;
		volume->stage_hash = hash;
		content_apply(volume->stage_content, step);
	} else {
		struct state *state = state_push(volume);
		state->last_seq = entry->seq;
		state->last_hash = hash;
		content_apply(state->tag, step);
		assert(entry->seq < WORKLOAD_SEQ_MAX);
		volume->hash[entry->seq] = hash;
		memcpy(volume->content[entry->seq], state->tag, sizeof(state->tag));
		if (workload->spec.commits)
			step->commit_seq = volume->commit_seq = entry->seq;
	}
	step->state = volume->state_count - 1;
}

static void compile_promise(struct workload *workload, unsigned v)
{
	struct volume *volume = &workload->volume[v];
	struct step *step = step_push(workload, STEP_PROMISE, v);
	struct state *state = state_push(volume);
	step->u.promise.epoch = ++state->promised;
	volume->has_stage = false;
	step->state = volume->state_count - 1;
}

static void compile_adopt(struct workload *workload, unsigned v, unsigned serial)
{
	struct volume *volume = &workload->volume[v];
	if (state_top(volume)->promised == state_top(volume)->log_epoch)
		compile_promise(workload, v);
	if (!volume->has_stage)
		compile_append(workload, v, LOG_WRITE, 16 + serial, 1);
	struct step *step = step_push(workload, STEP_ADOPT, v);
	struct state *state = state_push(volume);
	step->u.adopt.epoch = state->promised;
	step->u.adopt.base_seq = volume->stage_base;
	step->u.adopt.last_seq = volume->stage_last;
	step->u.adopt.last_hash = volume->stage_hash;
	step->u.adopt.commit_seq = volume->commit_seq;
	state->log_epoch = state->promised;
	state->last_seq = volume->stage_last;
	state->last_hash = volume->stage_hash;
	memcpy(state->tag, volume->stage_content, sizeof(state->tag));
	/* entries between base and last are never a base again: K does not go below base */
	volume->hash[state->last_seq] = state->last_hash;
	memcpy(volume->content[state->last_seq], state->tag, sizeof(state->tag));
	volume->has_stage = false;
	if (workload->spec.commits)
		step->commit_seq = volume->commit_seq = state->last_seq;
	step->state = volume->state_count - 1;
}

static void compile_symbol(struct workload *workload, unsigned serial)
{
	unsigned v = workload->spec.symbol[serial] % WORKLOAD_VOLUMES;
	struct step *step;
	switch ((enum workload_op)(workload->spec.symbol[serial] / WORKLOAD_VOLUMES)) {
	case WORKLOAD_WRITE_4K:
		compile_append(workload, v, LOG_WRITE, 6 + serial, 1);
		break;
	case WORKLOAD_WRITE_12K:
		compile_append(workload, v, LOG_WRITE, 9 + serial, 3);
		break;
	case WORKLOAD_OVERWRITE:
		compile_append(workload, v, LOG_WRITE, 0, 1);
		break;
	case WORKLOAD_ZERO:
		compile_append(workload, v, LOG_ZERO, 0, 12);
		break;
	case WORKLOAD_PROMISE:
		compile_promise(workload, v);
		break;
	case WORKLOAD_ADOPT:
		compile_adopt(workload, v, serial);
		break;
	case WORKLOAD_CHECKPOINT:
		step_push(workload, STEP_CHECKPOINT, v);
		break;
	case WORKLOAD_DELETE:
		step = step_push(workload, STEP_DELETE, v);
		state_push(&workload->volume[v])->exists = false;
		step->state = workload->volume[v].state_count - 1;
		break;
	case WORKLOAD_OPS:
		break;
	}
}

/* Nothing follows a delete on its volume; a checkpoint has no volume, so only (a) counts. */
static bool spec_makes_sense(const struct workload_spec *spec)
{
	bool is_deleted[WORKLOAD_VOLUMES] = {false};
	for (unsigned i = 0; i < spec->symbol_count; i++) {
		unsigned op = spec->symbol[i] / WORKLOAD_VOLUMES;
		unsigned v = spec->symbol[i] % WORKLOAD_VOLUMES;
		if (op == WORKLOAD_CHECKPOINT && v != 0)
			return false;
		if (op != WORKLOAD_CHECKPOINT && is_deleted[v])
			return false;
		is_deleted[v] |= op == WORKLOAD_DELETE;
	}
	return true;
}

static void volume_start(struct workload *workload, unsigned v)
{
	struct volume *volume = &workload->volume[v];
	struct store_replica_spec spec;
	struct store_replica_info info;
	base_spec(v, &spec);
	volume->replica = store_replica_find(workload->world->store, &spec.volume_uuid, 0);
	assert(volume->replica != NULL);
	store_replica_info(volume->replica, &info);
	struct state *state = &volume->state[0];
	*state = (struct state){true,          info.promised,  info.log_epoch,
				info.last_seq, info.last_hash, {0}};
	volume->state_count = 1;
	volume->acked_at[0] = 0;
	volume->commit_seq = info.commit_seq;
	assert(info.last_seq == (workload->spec.has_past ? 3 : 0));
	for (uint64_t seq = 0; seq <= info.last_seq; seq++) {
		if (seq != 0)
			state->tag[seq - 1] = tag_make(v, BASE_SERIAL + seq, 0);
		memcpy(volume->content[seq], state->tag, sizeof(state->tag));
	}
	volume->hash[info.last_seq] = info.last_hash;
	volume->hash[info.commit_seq] = info.commit_hash;
}

struct workload *workload_create(struct store_world *world, const struct workload_spec *spec)
{
	if (!spec_makes_sense(spec))
		return NULL;
	struct workload *workload = calloc(1, sizeof(*workload));
	assert(workload != NULL);
	workload->world = world;
	workload->spec = *spec;
	size_t bytes = (size_t)WORKLOAD_STEPS_MAX * STEP_BLOCKS_MAX * BLOCK_BYTES;
	workload->payload = aligned_alloc(BLOCK_BYTES, bytes);
	workload->read_buf = aligned_alloc(BLOCK_BYTES, WORKLOAD_BLOCKS * BLOCK_BYTES);
	assert(workload->payload && workload->read_buf);
	for (unsigned v = 0; v < WORKLOAD_VOLUMES; v++)
		volume_start(workload, v);
	for (unsigned i = 0; i < spec->symbol_count; i++)
		compile_symbol(workload, i);
	return workload;
}

void workload_free(struct workload *workload)
{
	if (!workload)
		return;
	sim_record_free(workload->record);
	free(workload->payload);
	free(workload->read_buf);
	free(workload);
}

/* ---- running ---- */

static void pump(struct workload *workload);

static void step_done(struct store_op *op, int status)
{
	struct step *step = CONTAINER_OF(op, struct step, u.op);
	struct workload *workload = step->workload;
	struct volume *volume = &workload->volume[step->volume];
	step->is_done = true;
	step->status = status;
	if (status < 0 && workload->status == 0)
		workload->status = status;
	sim_record_mark(workload->record);
	if (step->kind != STEP_CHECKPOINT && volume->acked_at[step->state] == NEVER)
		volume->acked_at[step->state] = sim_record_position(workload->record);
	if (status == 0 && step->commit_seq != 0)
		store_commit(volume->replica, step->commit_seq);
	workload->done_count++;
	workload->is_done = workload->done_count == workload->step_count || workload->status < 0;
	if (workload->spec.pace != WORKLOAD_STAGGERED)
		pump(workload);
}

static bool step_may_go(const struct workload *workload, const struct step *step)
{
	for (const struct step *before = workload->step; before < step; before++) {
		if (before->is_done)
			continue;
		if (workload->spec.pace == WORKLOAD_SEQUENTIAL)
			return false;
		if (before->volume != step->volume || before->kind == STEP_CHECKPOINT ||
		    step->kind == STEP_CHECKPOINT)
			continue;
		if (!before->is_issued || before->is_barrier || step->is_barrier)
			return false;
	}
	return true;
}

static void step_go(struct step *step)
{
	struct workload *workload = step->workload;
	struct store_replica *replica = workload->volume[step->volume].replica;
	step->is_issued = true;
	step->u.op.done = step_done;
	switch (step->kind) {
	case STEP_APPEND:
		store_append(replica, &step->u.append);
		break;
	case STEP_PROMISE:
		store_promise(replica, &step->u.promise);
		break;
	case STEP_ADOPT:
		store_adopt(replica, &step->u.adopt);
		break;
	case STEP_CHECKPOINT:
		store_checkpoint(workload->world->store, &step->u.op);
		break;
	case STEP_DELETE:
		store_replica_delete(replica, &step->u.op);
		break;
	}
}

static void stagger(void *ctx)
{
	struct workload *workload = ctx;
	if (!workload->is_done)
		pump(workload);
}

static void pump(struct workload *workload)
{
	struct sim *sim = workload->world->sim;
	bool is_staggered = workload->spec.pace == WORKLOAD_STAGGERED;
	for (unsigned i = 0; i < workload->step_count; i++) {
		struct step *step = &workload->step[i];
		if (step->is_issued || !step_may_go(workload, step))
			continue;
		step_go(step);
		if (is_staggered)
			break;
	}
	if (is_staggered)
		sim_call_after(sim, 1 + sim_rng_below(sim_rng(sim), STAGGER_NS_MAX), stagger,
			       workload);
}

int workload_run(struct workload *workload, char *why, size_t why_bytes)
{
	struct store_world *world = workload->world;
	store_world_settle(world);
	workload->record = sim_disk_record(world->disk);
	pump(workload);
	int rc = sim_run_flag(world->sim, &workload->is_done, RUN_LIMIT_NS);
	if (rc == 0)
		rc = workload->status;
	for (unsigned i = 0; i < workload->step_count && rc < 0; i++) {
		const struct step *step = &workload->step[i];
		if (!step->is_done || step->status < 0)
			return say(why, why_bytes, rc, "step %u (kind %d, volume %u): %s", i,
				   step->kind, step->volume,
				   step->is_done ? err_name(step->status) : "never done");
	}
	store_world_settle(world);
	sim_disk_record_stop(world->disk);
	return 0;
}

struct sim_record *workload_record_take(struct workload *workload)
{
	return take(workload->record);
}

/* ---- judging ---- */

void workload_floor_at(const struct workload *workload, uint32_t point, struct workload_floor *ret)
{
	for (unsigned v = 0; v < WORKLOAD_VOLUMES; v++) {
		const struct volume *volume = &workload->volume[v];
		ret->state[v] = 0;
		for (unsigned s = 0; s < volume->state_count; s++)
			if (volume->acked_at[s] <= point)
				ret->state[v] = s;
	}
}

static bool state_is(const struct state *state, const struct store_replica_info *info)
{
	return info->promised == state->promised && info->log_epoch == state->log_epoch &&
	       info->last_seq == state->last_seq && info->last_hash == state->last_hash;
}

/* The first watched block that is wrong; WORKLOAD_BLOCKS when none is. */
static unsigned content_compare(const struct state *state, const struct store_read *read,
				bool may_be_bad)
{
	uint8_t want[BLOCK_BYTES];
	for (unsigned b = 0; b < WORKLOAD_BLOCKS; b++) {
		const uint8_t *got = (const uint8_t *)read->buf + (size_t)b * BLOCK_BYTES;
		if (read->block_state[b] == STORE_BLOCK_BAD && may_be_bad)
			continue;
		block_fill(state->tag[b], want);
		if (read->block_state[b] == STORE_BLOCK_BAD ||
		    memcmp(want, got, BLOCK_BYTES) != 0 ||
		    read->crc32c[b] != crc32c(want, BLOCK_BYTES))
			return b;
	}
	return WORKLOAD_BLOCKS;
}

static int content_check(const struct workload *workload, struct store_world *world,
			 struct store_replica *replica, const struct state *state, bool may_be_bad,
			 char *why, size_t why_bytes)
{
	uint32_t crc[WORKLOAD_BLOCKS] = {0};
	uint8_t block_state[WORKLOAD_BLOCKS] = {0};
	struct store_read read = {.length_blocks = WORKLOAD_BLOCKS,
				  .buf = workload->read_buf,
				  .crc32c = crc,
				  .block_state = block_state};
	int rc = store_world_read(world, replica, &read);
	if (rc < 0 && !(rc == -EBADMSG && may_be_bad))
		return say(why, why_bytes, -EUCLEAN, "read: %s", err_name(rc));
	unsigned bad = content_compare(state, &read, may_be_bad);
	if (bad < WORKLOAD_BLOCKS)
		return say(why, why_bytes, -EUCLEAN, "block %u is not as written (seq %" PRIu64 ")",
			   bad, state->last_seq);
	return 0;
}

static int volume_check(const struct workload *workload, struct store_world *world, unsigned v,
			unsigned floor, enum workload_tolerance tolerance, unsigned *found,
			char *why, size_t why_bytes)
{
	const struct volume *volume = &workload->volume[v];
	struct store_replica_spec spec;
	struct store_replica_info info = {0};
	base_spec(v, &spec);
	struct store_replica *replica = store_replica_find(world->store, &spec.volume_uuid, 0);
	if (replica)
		store_replica_info(replica, &info);
	if (replica && tolerance == WORKLOAD_BAD_LOG && info.suspect) {
		*found = floor;
		return 0;
	}
	for (unsigned s = volume->state_count; s-- > floor;) {
		const struct state *state = &volume->state[s];
		if (state->exists != (replica != NULL) || (replica && !state_is(state, &info)))
			continue;
		*found = s;
		if (!replica)
			return 0;
		if (info.suspect)
			return say(why, why_bytes, -EUCLEAN, "volume %c is suspect", 'a' + (char)v);
		return content_check(workload, world, replica, state,
				     tolerance == WORKLOAD_BAD_BLOCKS, why, why_bytes);
	}
	return say(why, why_bytes, -EUCLEAN,
		   "volume %c: exists %d P %" PRIu64 " G %" PRIu64 " L %" PRIu64 " hash %" PRIx64
		   " suspect %d is no state from %u (L %" PRIu64 ") to %u",
		   'a' + (char)v, replica != NULL, info.promised, info.log_epoch, info.last_seq,
		   info.last_hash, info.suspect, floor, volume->state[floor].last_seq,
		   volume->state_count - 1);
}

int workload_check(const struct workload *workload, struct store_world *world,
		   const struct workload_floor *floor, enum workload_tolerance tolerance,
		   struct workload_floor *found, char *why, size_t why_bytes)
{
	for (unsigned v = 0; v < WORKLOAD_VOLUMES; v++) {
		int rc = volume_check(workload, world, v, floor->state[v], tolerance,
				      &found->state[v], why, why_bytes);
		if (rc < 0)
			return rc;
	}
	return 0;
}

int workload_continue(const struct workload *workload, struct store_world *world, char *why,
		      size_t why_bytes)
{
	for (unsigned v = 0; v < WORKLOAD_VOLUMES; v++) {
		struct store_replica_spec spec;
		struct store_replica_info info;
		base_spec(v, &spec);
		struct store_replica *replica =
			store_replica_find(world->store, &spec.volume_uuid, 0);
		if (!replica)
			continue;
		store_replica_info(replica, &info);
		if (info.promised != info.log_epoch)
			continue;
		uint8_t *buf = workload->read_buf;
		block_fill(tag_make(v, 9999, 0), buf);
		uint32_t crc = crc32c(buf, BLOCK_BYTES);
		struct iovec iov = {buf, BLOCK_BYTES};
		struct store_append append = {.entry = {.epoch = info.log_epoch,
							.seq = info.last_seq + 1,
							.prev_hash = info.last_hash,
							.op = LOG_WRITE,
							.address_blocks = 19,
							.length_blocks = 1,
							.crc32c = &crc},
					      .iov = &iov,
					      .iov_count = 1};
		int rc = store_world_append(world, replica, &append);
		if (rc < 0)
			return say(why, why_bytes, rc, "append after recovery: %s", err_name(rc));
		return 0;
	}
	return 0;
}
