/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A heap of armed env_timers, for the loop and for the simulator.
 *
 * Timers come out by deadline, and in arming order when deadlines are equal. One thread.
 */
#ifndef HF_BASE_TIMER_HEAP_H
#define HF_BASE_TIMER_HEAP_H

#include "base/env.h"

struct timer_heap {
	struct env_timer **slots; /* slots[1] is the earliest; slots[0] is unused */
	uint32_t count;
	uint32_t capacity;
	uint64_t next_order; /* the order that the next armed timer gets */
};

/* 0 or -ENOMEM. Room for 1023 timers; grows by doubling (and aborts when memory is out then). */
int timer_heap_init(struct timer_heap *heap);
/* Armed timers become disarmed. Fine on a zeroed heap. */
void timer_heap_free(struct timer_heap *heap);
/* Arms, or re-arms (which counts as a new arming). */
void timer_heap_set(struct timer_heap *heap, struct env_timer *timer, uint64_t deadline_ns);
/* Fine on a timer that is not armed. */
void timer_heap_cancel(struct timer_heap *heap, struct env_timer *timer);
/* The earliest timer, still armed; NULL when none is. */
struct env_timer *timer_heap_first(const struct timer_heap *heap);
/*
 * Disarms and returns the earliest timer if it is due at now_ns and was armed before order_limit
 * (take next_order at the start of a turn: what callbacks arm waits for the next turn); or NULL.
 */
struct env_timer *timer_heap_pop_due(struct timer_heap *heap, uint64_t now_ns,
				     uint64_t order_limit);

#endif
