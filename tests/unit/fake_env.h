/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An env of clock, timers and randomness alone, in virtual time: for tests of code that does no
 * I/O of its own. Time stands still until fake_env_run() moves it to the next timer.
 */
#ifndef HF_TESTS_UNIT_FAKE_ENV_H
#define HF_TESTS_UNIT_FAKE_ENV_H

#include <stdlib.h>

#include "base/env.h"
#include "base/timer_heap.h"

struct fake_env {
	struct env env;
	struct timer_heap heap;
	uint64_t now_ns;
	uint64_t seed;
};

static inline struct fake_env *fake_env_of(struct env *env)
{
	return CONTAINER_OF(env, struct fake_env, env);
}
static uint64_t fake_env_now_ns(struct env *env)
{
	return fake_env_of(env)->now_ns;
}
static uint64_t fake_env_wall_ms(struct env *env)
{
	return 1700000000000ull + fake_env_of(env)->now_ns / 1000000;
}
static uint64_t fake_env_random(struct env *env)
{
	uint64_t z = fake_env_of(env)->seed += 0x9e3779b97f4a7c15ull;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}
static void fake_env_timer_set(struct env *env, struct env_timer *timer, uint64_t deadline_ns)
{
	timer_heap_set(&fake_env_of(env)->heap, timer, deadline_ns);
}
static void fake_env_timer_cancel(struct env *env, struct env_timer *timer)
{
	timer_heap_cancel(&fake_env_of(env)->heap, timer);
}

static const struct env_ops fake_env_ops = {
	.name = "fake",
	.now_ns = fake_env_now_ns,
	.wall_ms = fake_env_wall_ms,
	.random = fake_env_random,
	.timer_set = fake_env_timer_set,
	.timer_cancel = fake_env_timer_cancel,
};

static inline void fake_env_init(struct fake_env *fake, uint64_t seed)
{
	*fake = (struct fake_env){.env.ops = &fake_env_ops, .now_ns = 1000000000ull, .seed = seed};
	if (timer_heap_init(&fake->heap) < 0)
		abort();
}
static inline void fake_env_free(struct fake_env *fake)
{
	timer_heap_free(&fake->heap);
}
/* One turn: all timers that are due. False when none was. */
static inline bool fake_env_turn(struct fake_env *fake)
{
	uint64_t limit = fake->heap.next_order;
	struct env_timer *timer;
	bool any = false;
	while ((timer = timer_heap_pop_due(&fake->heap, fake->now_ns, limit))) {
		any = true;
		timer->fire(timer);
	}
	return any;
}
/* Runs until *flag (NULL: until the time is up); false when span_ns passed first. */
static inline bool fake_env_run(struct fake_env *fake, const bool *flag, uint64_t span_ns)
{
	uint64_t end_ns = fake->now_ns + span_ns;
	while (!flag || !*flag) {
		if (fake_env_turn(fake))
			continue;
		struct env_timer *first = timer_heap_first(&fake->heap);
		if (first == NULL || first->deadline_ns > end_ns) {
			fake->now_ns = end_ns;
			return false;
		}
		fake->now_ns = MAX(fake->now_ns, first->deadline_ns);
	}
	return true;
}

#endif
