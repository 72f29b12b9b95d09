/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Coroutines, for long jobs that read like a procedure: recovery, checkpoint, resync, check.
 * The data path does not use them. A coroutine runs on its env's thread, between callbacks.
 *
 * Destroying a suspended coroutine frees its stack and nothing else (a crash in the simulator is
 * just that): memory that a job owns hangs off an object, never off its stack alone.
 */
#ifndef HF_BASE_CO_H
#define HF_BASE_CO_H

#include "base/env.h"

struct co;

/* Allocates a stack (64 KiB..; guard page below). NULL when memory is out. */
struct co *co_create(struct env *env, size_t stack_bytes);
/* Not from inside itself. NULL is fine. */
void co_destroy(struct co *co);
/* Runs fn(co, arg) until it first suspends or returns; the coroutine must be idle. */
void co_start(struct co *co, void (*fn)(struct co *co, void *arg), void *arg);
/* True when started and not yet returned. */
bool co_running(const struct co *co);
/* Inside: suspends until co_resume(). */
void co_suspend(struct co *co);
/* Outside: continues a suspended coroutine. */
void co_resume(struct co *co);

/* Inside: submit, suspend until done, return the status. *io and its buffers must not be on a
 * stack that may be destroyed while the operation is in flight (owner waits for its I/Os). */
int co_disk_io(struct co *co, struct env_disk *disk, struct env_io *io);
/* Inside: sleeps. */
void co_sleep(struct co *co, uint64_t delay_ns);

#endif
