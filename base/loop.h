/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The production env: one loop per thread.
 *
 * Two engines behind one interface: io_uring (one ring, batched submission, registered buffers
 * and files, sleeps when idle) and libaio + epoll, chosen when io_uring is refused (seccomp,
 * sysctl) or by name. The only door between threads is loop_post().
 */
#ifndef HF_BASE_LOOP_H
#define HF_BASE_LOOP_H

#include "base/env.h"

struct loop;

enum loop_engine { LOOP_ENGINE_AUTO, LOOP_ENGINE_URING, LOOP_ENGINE_AIO };

/* "auto" | "io_uring" | "libaio"; 0 or -EINVAL with a sentence. */
int loop_engine_parse(const char *text, enum loop_engine *ret, struct err *err);

/* Zero before use; embedded in the object it is for, so that posting cannot fail. */
struct loop_msg {
	void (*run)(struct loop_msg *msg); /* on the loop's thread */
	struct loop_msg *next;
};

/* AUTO tries io_uring, falls back to libaio and logs why. 0, or -errno with a sentence. */
int loop_create(enum loop_engine engine, struct loop **ret, struct err *err);
/* Everything opened on it must be closed. NULL is fine. */
void loop_destroy(struct loop *loop);
struct env *loop_env(struct loop *loop);
/* "io_uring" or "libaio", for status. */
const char *loop_engine_name(const struct loop *loop);
/*
 * While the loop is busy, no processor of the machine idles so deeply that waking it takes longer than latency_us
 * (PM QoS; needs root or write access to /dev/cpu_dma_latency, else one warning and no effect). 0: idle processors
 * poll. Before the first turn.
 */
void loop_awake_set(struct loop *loop, uint32_t latency_us);
enum loop_awake_state { LOOP_AWAKE_OFF, LOOP_AWAKE_READY, LOOP_AWAKE_HELD };
/* OFF: not asked for, or refused. READY: will be held when the loop is busy. */
enum loop_awake_state loop_awake_state(const struct loop *loop);
/* Runs until loop_stop(). */
void loop_run(struct loop *loop);
/* Runs turns until *flag is true (start-up and tests), or until deadline_ns (0: none) -> -ETIMEDOUT. */
int loop_run_until(struct loop *loop, const bool *flag, uint64_t deadline_ns);
/* From a callback on the loop. */
void loop_stop(struct loop *loop);
/* Any thread: run msg->run on the loop's thread, in posting order per thread. */
void loop_post(struct loop *loop, struct loop_msg *msg);
/* SIGTERM and SIGINT call on_signal(ctx, signo) on the loop (signalfd; blocks them in the process). */
int loop_signals(struct loop *loop, void (*on_signal)(void *ctx, int signo), void *ctx,
		 struct err *err);

/* The address a listener is bound to, with the port that was picked; valid while it lives. */
const char *loop_listener_address(const struct env_listener *listener);

#endif
