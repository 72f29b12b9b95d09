/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Coroutines over ucontext.
 *
 * Switching costs two system calls for the signal mask, which is nothing beside the I/O these
 * jobs wait for; in return there is no assembly to port.
 *
 * R1 A coroutine is IDLE, INSIDE (its stack runs) or SUSPENDED. start: IDLE -> INSIDE; suspend:
 *    INSIDE -> SUSPENDED; resume: SUSPENDED -> INSIDE; return: INSIDE -> IDLE.
 * R2 The page below the stack is not mapped: running over the end is a fault, not corruption.
 * R3 co_destroy() in SUSPENDED cancels the sleep and forgets the I/O it waits for (io->waiter is
 *    cleared), so a completion that comes later touches nothing.
 * R4 The sanitizers are told of each switch: AddressSanitizer must know the stack's bounds,
 *    ThreadSanitizer that the order of events follows the switch.
 */
#include "base/co.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#ifdef __SANITIZE_ADDRESS__
#define CO_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CO_ASAN 1
#endif
#endif
#ifdef __SANITIZE_THREAD__
#define CO_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define CO_TSAN 1
#endif
#endif

#ifdef CO_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef CO_TSAN
#include <sanitizer/tsan_interface.h>
#endif

#define STACK_BYTES_MIN ((size_t)64 << 10)

enum co_state { CO_IDLE, CO_INSIDE, CO_SUSPENDED };

struct co {
	struct env *env;
	enum co_state state;
	void (*fn)(struct co *co, void *arg);
	void *arg;
	void *map; /* guard page, then the stack */
	size_t map_bytes;
	void *stack;
	size_t stack_bytes;
	ucontext_t inside;
	ucontext_t outside;
	struct env_timer timer;
	struct env_io *io; /* what co_disk_io() waits for */
	int io_status;
#ifdef CO_ASAN
	void *fake_inside;
	void *fake_outside;
	const void *outside_stack;
	size_t outside_stack_bytes;
#endif
#ifdef CO_TSAN
	void *fiber_inside;
	void *fiber_outside;
#endif
};

/* ---- switching ---- */

static void co_enter(struct co *co)
{
	co->state = CO_INSIDE;
#ifdef CO_ASAN
	__sanitizer_start_switch_fiber(&co->fake_outside, co->stack, co->stack_bytes);
#endif
#ifdef CO_TSAN
	co->fiber_outside = __tsan_get_current_fiber();
	__tsan_switch_to_fiber(co->fiber_inside, 0);
#endif
	swapcontext(&co->outside, &co->inside);
#ifdef CO_ASAN
	__sanitizer_finish_switch_fiber(co->fake_outside, NULL, NULL);
#endif
}

/* Ends with the stack that called co_enter() running; returns when entered again. */
static void co_leave(struct co *co, enum co_state state)
{
	co->state = state;
#ifdef CO_ASAN
	__sanitizer_start_switch_fiber(state == CO_IDLE ? NULL : &co->fake_inside,
				       co->outside_stack, co->outside_stack_bytes);
#endif
#ifdef CO_TSAN
	__tsan_switch_to_fiber(co->fiber_outside, 0);
#endif
	swapcontext(&co->inside, &co->outside);
#ifdef CO_ASAN
	__sanitizer_finish_switch_fiber(co->fake_inside, &co->outside_stack,
					&co->outside_stack_bytes);
#endif
}

/* makecontext() passes ints; a pointer goes in two. */
static void co_main(unsigned high, unsigned low)
{
	struct co *co = (struct co *)(((uintptr_t)high << 32) | (uintptr_t)low);
#ifdef CO_ASAN
	__sanitizer_finish_switch_fiber(NULL, &co->outside_stack, &co->outside_stack_bytes);
#endif
	co->fn(co, co->arg);
	co_leave(co, CO_IDLE);
	abort(); /* an idle coroutine is entered afresh, never here */
}

/* Frames that never returned leave marks on the stack: clear them before it is used again. */
static void co_stack_leave(struct co *co)
{
#ifdef CO_ASAN
	if (co->stack)
		__asan_unpoison_memory_region(co->stack, co->stack_bytes);
#endif
#ifdef CO_TSAN
	if (co->fiber_inside)
		__tsan_destroy_fiber(co->fiber_inside);
	co->fiber_inside = NULL;
#endif
	(void)co;
}

/* ---- life ---- */

struct co *co_create(struct env *env, size_t stack_bytes)
{
	size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
	struct co *co = calloc(1, sizeof(*co));
	if (!co)
		return NULL;
	co->env = env;
	co->stack_bytes = ALIGN_UP(MAX(stack_bytes, STACK_BYTES_MIN), page_bytes);
	co->map_bytes = co->stack_bytes + page_bytes;
	void *map = mmap(NULL, co->map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK,
			 -1, 0);
	if (map == MAP_FAILED) {
		free(co);
		return NULL;
	}
	co->map = map;
	co->stack = (char *)map + page_bytes;
	if (mprotect(co->stack, co->stack_bytes, PROT_READ | PROT_WRITE) < 0) {
		co_destroy(co);
		return NULL;
	}
	return co;
}

void co_destroy(struct co *co)
{
	if (!co)
		return;
	assert(co->state != CO_INSIDE);
	env_timer_cancel(co->env, &co->timer);
	if (co->io)
		co->io->waiter = NULL;
	co_stack_leave(co);
	munmap(co->map, co->map_bytes);
	free(co);
}

void co_start(struct co *co, void (*fn)(struct co *co, void *arg), void *arg)
{
	assert(co->state == CO_IDLE);
	co_stack_leave(co);
#ifdef CO_TSAN
	co->fiber_inside = __tsan_create_fiber(0);
#endif
	co->fn = fn;
	co->arg = arg;
	getcontext(&co->inside);
	co->inside.uc_stack.ss_sp = co->stack;
	co->inside.uc_stack.ss_size = co->stack_bytes;
	co->inside.uc_link = NULL;
	uintptr_t self = (uintptr_t)co;
	makecontext(&co->inside, (void (*)(void))co_main, 2, (unsigned)(self >> 32),
		    (unsigned)self);
	co_enter(co);
}

bool co_running(const struct co *co)
{
	return co->state != CO_IDLE;
}

void co_suspend(struct co *co)
{
	assert(co->state == CO_INSIDE);
	co_leave(co, CO_SUSPENDED);
}

void co_resume(struct co *co)
{
	assert(co->state == CO_SUSPENDED);
	co_enter(co);
}

/* ---- waiting ---- */

static void co_io_done(struct env_io *io, int status)
{
	struct co *co = io->waiter;
	if (!co)
		return; /* R3 */
	assert(co->io == io);
	co->io = NULL;
	co->io_status = status;
	co_resume(co);
}

int co_disk_io(struct co *co, struct env_disk *disk, struct env_io *io)
{
	assert(co->state == CO_INSIDE);
	io->done = co_io_done;
	io->waiter = co;
	co->io = io;
	env_disk_submit(co->env, disk, io);
	co_suspend(co);
	assert(co->io == NULL);
	return co->io_status;
}

static void co_timer_fire(struct env_timer *timer)
{
	co_resume(CONTAINER_OF(timer, struct co, timer));
}

void co_sleep(struct co *co, uint64_t delay_ns)
{
	assert(co->state == CO_INSIDE);
	co->timer.fire = co_timer_fire;
	env_timer_after(co->env, &co->timer, delay_ns);
	co_suspend(co);
	assert(!env_timer_armed(&co->timer));
}
