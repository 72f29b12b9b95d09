/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simulated world: one thread, one heap of events, one seed.
 *
 * Everything a process sees through struct env (base/env.h) is an event here, ordered by time and,
 * at equal times, by a seeded draw. The same seed and the same calls give the same events in the
 * same order, which sim_trace_hash() proves. sim_disk.h has the disks, sim_net.h the network.
 *
 * A process is an env. Killing it drops its timers, operations and connections: no callback of
 * that life runs again, and its objects may be freed without ceremony (calls on the dead env do
 * nothing). Disks belong to the world and stay. None of this is thread-safe.
 */
#ifndef HF_TESTS_SIM_SIM_H
#define HF_TESTS_SIM_SIM_H

#include <stdio.h>

#include "base/env.h"

struct sim;
struct sim_process;

#define SIM_PROCESSES_MAX 32
#define SIM_US            1000ull
#define SIM_MS            1000000ull
#define SIM_S             1000000000ull

/* ---- randomness ---- */

/* A stream of its own: draws of one component do not shift another's. */
struct sim_rng {
	uint64_t state[4];
};

/* Streams of one seed with different numbers are independent. */
void sim_rng_seed(struct sim_rng *rng, uint64_t seed, uint64_t stream);
uint64_t sim_rng_next(struct sim_rng *rng);
/* Uniform in 0..bound-1; 0 when bound is 0. */
uint64_t sim_rng_below(struct sim_rng *rng, uint64_t bound);
/* Uniform in low..high, both included. */
uint64_t sim_rng_range(struct sim_rng *rng, uint64_t low, uint64_t high);
/* True with probability ppm / 1,000,000; draws nothing when ppm is 0. */
bool sim_rng_chance(struct sim_rng *rng, uint32_t ppm);

/* ---- the world ---- */

/* NULL when memory is out. */
struct sim *sim_create(uint64_t seed);
/* Frees the world with every process, disk and connection; processes' own objects are the
 * owner's. NULL is fine. */
void sim_destroy(struct sim *sim);
/* The world's time; processes see it through their own clocks. */
uint64_t sim_now_ns(const struct sim *sim);
/* For the test's own draws. */
struct sim_rng *sim_rng(struct sim *sim);

/* Covers every event so far: kind, process, time, ids, and the bytes of writes and sends. */
uint64_t sim_trace_hash(const struct sim *sim);
/* One line per event; NULL stops. */
void sim_trace_to(struct sim *sim, FILE *file);
/* Puts a fact of the test into the hash and the text. */
void sim_note(struct sim *sim, const char *text, uint64_t value);
uint64_t sim_step_count(const struct sim *sim);

/* Runs the next event; false when there is none. */
bool sim_step(struct sim *sim);
/* Runs every event up to and at time_ns; the world's time is then time_ns. */
void sim_run_until(struct sim *sim, uint64_t time_ns);
void sim_run_for(struct sim *sim, uint64_t duration_ns);
/* Runs up to `steps` events; the number that ran. */
uint64_t sim_run_steps(struct sim *sim, uint64_t steps);
/* Runs until done(ctx), looked at before each event. 0; -ETIMEDOUT after limit_ns; -EDEADLK when
 * no event is left. */
int sim_run(struct sim *sim, bool (*done)(void *ctx), void *ctx, uint64_t limit_ns);
/* The same for a flag. */
int sim_run_flag(struct sim *sim, const bool *flag, uint64_t limit_ns);

/* Calls fn(ctx) after delay_ns as an event of the world (a test's script: faults, kills). With
 * delay 0 it is the very next event: the way to kill a process from inside its own callback. */
void sim_call_after(struct sim *sim, uint64_t delay_ns, void (*fn)(void *ctx), void *ctx);

/* ---- processes ---- */

/* name is copied (at most 31 bytes) and names the process in traces. Asserts on too many. */
struct sim_process *sim_process_create(struct sim *sim, const char *name);
struct env *sim_process_env(struct sim_process *process);
const char *sim_process_name(const struct sim_process *process);
struct sim *sim_process_sim(struct sim_process *process);
bool sim_process_alive(const struct sim_process *process);
/* Bytes of env_buf_alloc() not yet freed. */
size_t sim_process_buf_bytes(const struct sim_process *process);

enum sim_kill {
	SIM_KILL_PROCESS, /* kill -9: peers see an end or a reset; disk caches survive */
	SIM_KILL_SILENT,  /* the machine stops answering: peers see nothing; disk caches survive */
	SIM_KILL_POWER,   /* the same, and its open disks lose what was not durable */
};
/* Not from inside a callback of this process (sim_call_after). A dead process may be killed again. */
void sim_process_kill(struct sim_process *process, enum sim_kill how);
/* After a kill, with the old objects freed: a new life with the same env pointer. After SILENT
 * and POWER the boot-time clock starts afresh. */
void sim_process_restart(struct sim_process *process);
/* SIGSTOP and SIGCONT: callbacks wait, the kernel's side of disks and sockets goes on. */
void sim_process_pause(struct sim_process *process);
void sim_process_resume(struct sim_process *process);
/* Clock rate in millionths too fast (or slow), from now on. */
void sim_process_clock_drift(struct sim_process *process, int32_t drift_ppm);
/* The boot-time clock jumps forward (a machine that slept). */
void sim_process_clock_jump(struct sim_process *process, uint64_t jump_ns);
/* The wall clock jumps either way. */
void sim_process_wall_jump(struct sim_process *process, int64_t jump_ms);

/* ---- what was injected, for coverage gates ---- */

enum sim_mark {
	SIM_MARK_DISK_READ_EIO,
	SIM_MARK_DISK_WRITE_EIO,
	SIM_MARK_DISK_FLUSH_EIO,
	SIM_MARK_DISK_FLIP,
	SIM_MARK_DISK_LOST_WRITE,
	SIM_MARK_DISK_MISDIRECTED_WRITE,
	SIM_MARK_DISK_STALE_READ,
	SIM_MARK_DISK_LYING_FLUSH,
	SIM_MARK_DISK_CRASH_LOST_BLOCK,
	SIM_MARK_DISK_CRASH_TORN_BLOCK,
	SIM_MARK_DISK_VANISHED,
	SIM_MARK_DISK_STALLED,
	SIM_MARK_NET_DROP,
	SIM_MARK_NET_DUPLICATE,
	SIM_MARK_NET_REORDER,
	SIM_MARK_NET_FLIP,
	SIM_MARK_NET_RESET,
	SIM_MARK_NET_BLOCK,
	SIM_MARK_NET_CLOG,
	SIM_MARK_NET_REFUSED,
	SIM_MARK_NET_TIMEOUT,
	SIM_MARK_PROCESS_KILL,
	SIM_MARK_PROCESS_POWER,
	SIM_MARK_PROCESS_PAUSE,
	SIM_MARK_CLOCK,
	SIM_MARKS
};
uint64_t sim_mark_count(const struct sim *sim, enum sim_mark mark);

#endif
