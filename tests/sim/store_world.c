/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A store in the simulator. Jobs of the store run in one coroutine of the machine; operations are
 * submitted from outside and waited for by running the world.
 */
#include <errno.h>
#include <stdlib.h>

#include "tests/sim/store_world.h"

#define JOB_LIMIT_NS (3600 * SIM_S)
#define STACK_BYTES  (256u << 10)

static void world_failed(void *ctx, int status, const char *what)
{
	struct store_world *world = ctx;
	(void)what;
	world->failed_status = status;
}

struct store_world *store_world_create(uint64_t seed, struct sim_image *image)
{
	struct store_world *world = calloc(1, sizeof(*world));
	assert(world != NULL);
	world->sim = sim_create(seed);
	world->process = sim_process_create(world->sim, "node");
	world->env = sim_process_env(world->process);
	world->disk = sim_disk_create(world->sim, STORE_WORLD_PATH, STORE_WORLD_BYTES, NULL);
	sim_disk_profile(world->disk)->is_block_device = true;
	if (image)
		sim_disk_image_set(world->disk, image);
	world->co = co_create(world->env, STACK_BYTES);
	assert(world->co != NULL);
	store_config_default(&world->config);
	world->config.cache_bytes = 512 << 10;
	world->config.delta_bytes = 512 << 10;
	world->config.log_records_max = 2048;
	world->config.fold_entries = (const uint32_t[]){32, 1, 4}[seed % 3];
	world->config.failed = world_failed;
	world->config.opening = &world->opening;
	world->config.ctx = world;
	return world;
}

void store_world_crash(struct store_world *world, enum sim_kill how)
{
	sim_process_kill(world->process, how);
	co_destroy(take(world->co));
	if (world->store)
		store_discard(take(world->store));
	if (world->opening)
		store_discard(take(world->opening));
	sim_process_restart(world->process);
	world->co = co_create(world->env, STACK_BYTES);
	assert(world->co != NULL);
}

void store_world_destroy(struct store_world *world)
{
	if (!world)
		return;
	sim_disk_record_stop(world->disk);
	store_world_crash(world, SIM_KILL_PROCESS);
	co_destroy(world->co);
	sim_destroy(world->sim);
	free(world);
}

static int job_run(struct store_world *world, void (*job)(struct co *co, void *arg))
{
	world->is_done = false;
	world->err = (struct err){0};
	co_start(world->co, job, world);
	int rc = sim_run_flag(world->sim, &world->is_done, JOB_LIMIT_NS);
	if (rc < 0)
		return err_set(&world->err, -ETIMEDOUT, "the job does not end (%s)", err_name(rc));
	return world->status;
}

static void job_done(struct store_world *world, int status)
{
	world->status = status;
	world->is_done = true;
}

static void format_job(struct co *co, void *arg)
{
	struct store_world *world = arg;
	struct store_params params = {.ring_bytes = STORE_WORLD_RING_BYTES};
	job_done(world, store_format(co, world->env, STORE_WORLD_PATH, &params, &world->err));
}

int store_world_format(struct store_world *world)
{
	return job_run(world, format_job);
}

static void open_job(struct co *co, void *arg)
{
	struct store_world *world = arg;
	job_done(world, store_open(co, world->env, STORE_WORLD_PATH, &world->config, &world->store,
				   &world->err));
}

int store_world_open(struct store_world *world)
{
	assert(!world->store);
	world->failed_status = 0;
	return job_run(world, open_job);
}

static void close_job(struct co *co, void *arg)
{
	struct store_world *world = arg;
	store_close(co, take(world->store));
	job_done(world, 0);
}

int store_world_close(struct store_world *world)
{
	return job_run(world, close_job);
}

static void check_line(void *ctx, const char *line)
{
	struct store_world *world = ctx;
	size_t used = strlen(world->report);
	snprintf(world->report + used, sizeof(world->report) - used, "%s%s", used ? "; " : "",
		 line);
}

static void check_job(struct co *co, void *arg)
{
	struct store_world *world = arg;
	world->report[0] = '\0';
	world->findings = 0;
	job_done(world, store_check(co, world->env, STORE_WORLD_PATH, world->is_deep, check_line,
				    world, &world->findings, &world->err));
}

int store_world_check(struct store_world *world, bool is_deep)
{
	assert(!world->store);
	world->is_deep = is_deep;
	return job_run(world, check_job);
}

void store_world_settle(struct store_world *world)
{
	sim_run_for(world->sim, 50 * SIM_MS);
	for (unsigned i = 0; i < 10000 && sim_disk_in_flight(world->disk) != 0; i++)
		sim_run_for(world->sim, SIM_MS);
}

/* ---- operations ---- */

/* Every operation begins with its struct store_op. */
struct call {
	union {
		struct store_op op;
		struct store_read read;
		struct store_create create;
		struct store_append append;
		struct store_promise promise;
		struct store_adopt adopt;
	} u;
	bool is_done;
	int status;
};

static void call_done(struct store_op *op, int status)
{
	struct call *call = CONTAINER_OF(op, struct call, u.op);
	call->status = status;
	call->is_done = true;
}

static int call_wait(struct store_world *world, struct call *call)
{
	return sim_run_flag(world->sim, &call->is_done, JOB_LIMIT_NS) < 0 ? -ETIMEDOUT
									  : call->status;
}

int store_world_read(struct store_world *world, struct store_replica *replica,
		     struct store_read *read)
{
	struct call call = {.u.read = *read};
	call.u.op.done = call_done;
	store_read(replica, &call.u.read);
	return call_wait(world, &call);
}

int store_world_create_replica(struct store_world *world, const struct store_replica_spec *spec,
			       struct store_replica **ret)
{
	struct call call = {.u.create.spec = *spec};
	call.u.op.done = call_done;
	store_replica_create(world->store, &call.u.create);
	int status = call_wait(world, &call);
	if (status == 0)
		*ret = call.u.create.ret_replica;
	return status;
}

int store_world_append(struct store_world *world, struct store_replica *replica,
		       struct store_append *append)
{
	struct call call = {.u.append = *append};
	call.u.op.done = call_done;
	store_append(replica, &call.u.append);
	return call_wait(world, &call);
}

int store_world_promise(struct store_world *world, struct store_replica *replica, uint64_t epoch)
{
	struct call call = {.u.promise.epoch = epoch};
	call.u.op.done = call_done;
	store_promise(replica, &call.u.promise);
	return call_wait(world, &call);
}

int store_world_adopt(struct store_world *world, struct store_replica *replica,
		      struct store_adopt *adopt)
{
	struct call call = {.u.adopt = *adopt};
	call.u.op.done = call_done;
	store_adopt(replica, &call.u.adopt);
	return call_wait(world, &call);
}

int store_world_checkpoint(struct store_world *world)
{
	struct call call = {.u.op.done = call_done};
	store_checkpoint(world->store, &call.u.op);
	return call_wait(world, &call);
}
