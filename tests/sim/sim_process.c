/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Simulated processes: the env table, clocks, timers, buffers, kill and pause.
 *
 * P1  After a kill the simulator holds no pointer into the process's memory: timers are forgotten
 *     and marked unarmed, operations dropped (sim_disk.c, sim_net.c).
 * P2  Calls on a dead env do nothing and read only their own arguments, so teardown code may run.
 *     Handles of a dead life stay allocated until the next one.
 * P3  A process has one event for its earliest timer; equal deadlines fire in arming order.
 * P4  Local time is a line through (world_base, local_base); a change of rate starts a new line,
 *     so the local clock never runs backwards.
 */
#include <errno.h>
#include <stdlib.h>

#include "tests/sim/sim_priv.h"

/* 2026-01-01T00:00:00Z */
#define WALL_START_MS 1767225600000ull
#define RATE_ONE      1000000

static struct sim_process *env_process(struct env *env)
{
	return (struct sim_process *)env;
}

/* ---- clocks ---- */

static uint64_t local_now_ns(const struct sim_process *process)
{
	uint64_t passed_ns = process->sim->now_ns - process->world_base_ns;
	__int128 scaled = (__int128)passed_ns * (RATE_ONE + process->drift_ppm) / RATE_ONE;
	return process->local_base_ns + (uint64_t)scaled;
}

/* The first world time at which the local clock shows at least local_ns. */
static uint64_t world_at(const struct sim_process *process, uint64_t local_ns)
{
	if (local_ns <= process->local_base_ns)
		return process->world_base_ns;
	unsigned __int128 passed = local_ns - process->local_base_ns;
	unsigned rate = (unsigned)(RATE_ONE + process->drift_ppm);
	passed = (passed * RATE_ONE + rate - 1) / rate;
	if (passed > UINT64_MAX / 2)
		return UINT64_MAX / 2;
	return process->world_base_ns + (uint64_t)passed;
}

static void clock_rebase(struct sim_process *process, uint64_t local_ns)
{
	process->local_base_ns = local_ns;
	process->world_base_ns = process->sim->now_ns;
}

static uint64_t sim_env_now_ns(struct env *env)
{
	return local_now_ns(env_process(env));
}

static uint64_t sim_env_wall_ms(struct env *env)
{
	struct sim_process *process = env_process(env);
	return WALL_START_MS + process->sim->now_ns / SIM_MS + (uint64_t)process->wall_offset_ms;
}

static uint64_t sim_env_random(struct env *env)
{
	return sim_rng_next(&env_process(env)->rng);
}

/* ---- timers ---- */

static bool timer_before(const struct env_timer *a, const struct env_timer *b)
{
	if (a->deadline_ns != b->deadline_ns)
		return a->deadline_ns < b->deadline_ns;
	return a->order < b->order;
}

static void timer_place(struct sim_process *process, uint32_t index, struct env_timer *timer)
{
	process->timers[index] = timer;
	timer->heap_index = index;
}

static void timer_up(struct sim_process *process, uint32_t index)
{
	struct env_timer *timer = process->timers[index];
	for (; index > 1 && timer_before(timer, process->timers[index / 2]); index /= 2)
		timer_place(process, index, process->timers[index / 2]);
	timer_place(process, index, timer);
}

static void timer_down(struct sim_process *process, uint32_t index)
{
	struct env_timer *timer = process->timers[index];
	for (;;) {
		uint32_t child = 2 * index;
		if (child > process->timer_count)
			break;
		if (child < process->timer_count &&
		    timer_before(process->timers[child + 1], process->timers[child]))
			child++;
		if (!timer_before(process->timers[child], timer))
			break;
		timer_place(process, index, process->timers[child]);
		index = child;
	}
	timer_place(process, index, timer);
}

static void timer_remove(struct sim_process *process, struct env_timer *timer)
{
	uint32_t index = timer->heap_index;
	assert(index <= process->timer_count && process->timers[index] == timer);
	struct env_timer *last = process->timers[process->timer_count--];
	timer->heap_index = 0;
	if (last == timer)
		return;
	timer_place(process, index, last);
	timer_up(process, index);
	timer_down(process, last->heap_index);
}

static void timer_event_requeue(struct sim_process *process)
{
	struct sim *sim = process->sim;
	if (list_linked(&process->timer_event.link))
		return; /* parked: looked at again after the pause */
	if (process->timer_count == 0) {
		sim_event_remove(sim, &process->timer_event);
		return;
	}
	uint64_t time_ns = world_at(process, process->timers[1]->deadline_ns);
	if (process->timer_event.heap_index != 0 && process->timer_event.time_ns == time_ns)
		return;
	sim_event_remove(sim, &process->timer_event);
	sim_event_queue(sim, &process->timer_event, time_ns);
}

static void timer_event_run(struct sim_event *event)
{
	struct sim_process *process = CONTAINER_OF(event, struct sim_process, timer_event);
	if (process->timer_count != 0 && process->timers[1]->deadline_ns <= local_now_ns(process)) {
		struct env_timer *timer = process->timers[1];
		timer_remove(process, timer);
		timer->fire(timer);
	}
	if (process->is_alive)
		timer_event_requeue(process);
}

static void sim_env_timer_cancel(struct env *env, struct env_timer *timer)
{
	struct sim_process *process = env_process(env);
	if (timer->heap_index == 0 || !process->is_alive) {
		timer->heap_index = 0;
		return;
	}
	timer_remove(process, timer);
	timer_event_requeue(process);
}

static void sim_env_timer_set(struct env *env, struct env_timer *timer, uint64_t deadline_ns)
{
	struct sim_process *process = env_process(env);
	if (!process->is_alive)
		return;
	if (timer->heap_index != 0)
		timer_remove(process, timer);
	if (process->timer_count + 2 > process->timer_capacity) {
		process->timer_capacity =
			process->timer_capacity ? 2 * process->timer_capacity : 32;
		process->timers = reallocarray(process->timers, process->timer_capacity,
					       sizeof(process->timers[0]));
		assert(process->timers != NULL);
	}
	timer->deadline_ns = deadline_ns;
	timer->order = process->timer_order++;
	timer_place(process, ++process->timer_count, timer);
	timer_up(process, process->timer_count);
	timer_event_requeue(process);
}

/* ---- buffers ---- */

static void *sim_env_buf_alloc(struct env *env, size_t bytes)
{
	struct sim_process *process = env_process(env);
	struct sim_buf *buf = sim_alloc(sizeof(*buf));
	size_t rounded = ALIGN_UP(bytes ? bytes : 1, (size_t)BLOCK_BYTES);
	buf->bytes = bytes;
	buf->memory = aligned_alloc(BLOCK_BYTES, rounded);
	assert(buf->memory != NULL);
	memset(buf->memory, 0, rounded);
	list_push_back(&process->bufs, &buf->link);
	process->buf_bytes += bytes;
	return buf->memory;
}

static void sim_env_buf_free(struct env *env, void *memory, size_t bytes)
{
	struct sim_process *process = env_process(env);
	if (!memory)
		return;
	list_for_each_safe (node, &process->bufs) {
		struct sim_buf *buf = CONTAINER_OF(node, struct sim_buf, link);
		if (buf->memory != memory)
			continue;
		assert(buf->bytes == bytes);
		process->buf_bytes -= bytes;
		list_remove(&buf->link);
		free(buf->memory);
		free(buf);
		return;
	}
	assert(!"env_buf_free: not a buffer of this env");
}

const struct env_ops sim_env_ops = {
	.name = "sim",
	.now_ns = sim_env_now_ns,
	.wall_ms = sim_env_wall_ms,
	.random = sim_env_random,
	.timer_set = sim_env_timer_set,
	.timer_cancel = sim_env_timer_cancel,
	.disk_open = sim_env_disk_open,
	.disk_info = sim_env_disk_info,
	.disk_submit = sim_env_disk_submit,
	.disk_close = sim_env_disk_close,
	.listen = sim_env_listen,
	.listener_close = sim_env_listener_close,
	.connect = sim_env_connect,
	.connect_cancel = sim_env_connect_cancel,
	.conn_recv = sim_env_conn_recv,
	.conn_send = sim_env_conn_send,
	.conn_close = sim_env_conn_close,
	.buf_alloc = sim_env_buf_alloc,
	.buf_free = sim_env_buf_free,
};

/* ---- life ---- */

static void process_birth(struct sim_process *process, bool is_boot)
{
	struct sim *sim = process->sim;
	process->lives++;
	process->is_alive = true;
	process->is_silent = false;
	process->is_paused = false;
	sim_rng_seed(&process->rng, sim->seed, (uint64_t)(process->id + 16) << 32 | process->lives);
	if (is_boot)
		clock_rebase(process, SIM_S + sim_rng_below(&process->rng, 10 * SIM_S));
}

struct sim_process *sim_process_create(struct sim *sim, const char *name)
{
	assert(sim->process_count < SIM_PROCESSES_MAX);
	struct sim_process *process = sim_alloc(sizeof(*process));
	process->env.ops = &sim_env_ops;
	process->sim = sim;
	process->id = sim->process_count;
	snprintf(process->name, sizeof(process->name), "%s", name);
	process->timer_event.run = timer_event_run;
	process->timer_event.process = process;
	process->timer_event.kind = SIM_EV_TIMER;
	list_init(&process->parked);
	list_init(&process->disks);
	list_init(&process->conns);
	list_init(&process->listeners);
	list_init(&process->connects);
	list_init(&process->bufs);
	sim->process[sim->process_count++] = process;
	process_birth(process, true);
	return process;
}

void sim_process_kill(struct sim_process *process, enum sim_kill how)
{
	struct sim *sim = process->sim;
	if (how != SIM_KILL_PROCESS)
		process->is_silent = true;
	sim_trace(sim, SIM_EV_KILL, process, process->lives, how);
	if (!process->is_alive && how == SIM_KILL_POWER)
		sim_disks_power_cut(process);
	if (!process->is_alive)
		return;
	sim->mark[how == SIM_KILL_POWER ? SIM_MARK_PROCESS_POWER : SIM_MARK_PROCESS_KILL]++;
	process->is_alive = false;
	process->is_paused = false;
	for (uint32_t i = 1; i <= process->timer_count; i++)
		process->timers[i]->heap_index = 0;
	process->timer_count = 0;
	sim_event_remove(sim, &process->timer_event);
	sim_disks_process_killed(process, how);
	sim_net_process_killed(process, how);
	assert(list_empty(&process->parked));
}

void sim_process_restart(struct sim_process *process)
{
	assert(!process->is_alive);
	sim_disks_process_swept(process);
	sim_net_process_swept(process);
	struct list *node;
	while ((node = list_pop_front(&process->bufs)) != NULL) {
		struct sim_buf *buf = CONTAINER_OF(node, struct sim_buf, link);
		free(buf->memory);
		free(buf);
	}
	process->buf_bytes = 0;
	process_birth(process, process->is_silent);
	sim_trace(process->sim, SIM_EV_RESTART, process, process->lives, 0);
}

void sim_process_pause(struct sim_process *process)
{
	if (!process->is_alive || process->is_paused)
		return;
	sim_trace(process->sim, SIM_EV_PAUSE, process, process->lives, 0);
	process->sim->mark[SIM_MARK_PROCESS_PAUSE]++;
	process->is_paused = true;
}

void sim_process_resume(struct sim_process *process)
{
	if (!process->is_paused)
		return;
	sim_trace(process->sim, SIM_EV_RESUME, process, process->lives, 0);
	process->is_paused = false;
	uint64_t time_ns = process->sim->now_ns;
	struct list *node;
	while ((node = list_pop_front(&process->parked)) != NULL)
		sim_event_queue(process->sim, CONTAINER_OF(node, struct sim_event, link),
				time_ns++);
}

void sim_process_clock_drift(struct sim_process *process, int32_t drift_ppm)
{
	assert(drift_ppm > -RATE_ONE / 2 && drift_ppm < RATE_ONE);
	clock_rebase(process, local_now_ns(process));
	process->drift_ppm = drift_ppm;
	process->sim->mark[SIM_MARK_CLOCK]++;
	timer_event_requeue(process);
}

void sim_process_clock_jump(struct sim_process *process, uint64_t jump_ns)
{
	clock_rebase(process, local_now_ns(process) + jump_ns);
	process->sim->mark[SIM_MARK_CLOCK]++;
	timer_event_requeue(process);
}

void sim_process_wall_jump(struct sim_process *process, int64_t jump_ms)
{
	process->wall_offset_ms += jump_ms;
	process->sim->mark[SIM_MARK_CLOCK]++;
}

struct env *sim_process_env(struct sim_process *process)
{
	return &process->env;
}

const char *sim_process_name(const struct sim_process *process)
{
	return process->name;
}

struct sim *sim_process_sim(struct sim_process *process)
{
	return process->sim;
}

bool sim_process_alive(const struct sim_process *process)
{
	return process->is_alive;
}

size_t sim_process_buf_bytes(const struct sim_process *process)
{
	return process->buf_bytes;
}
