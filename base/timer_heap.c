/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A 4-ary heap, half as deep as a binary one and one cache line per level.
 *
 * R1 slots[i]->heap_index == i for 1 <= i <= count; heap_index 0 means not armed.
 * R2 the parent of i is (i + 2) / 4, its children are 4i - 2 .. 4i + 1.
 * R3 no child comes before its parent; (deadline, order) is a total order, so what comes out does
 *    not depend on the heap's history: the simulator's runs repeat.
 */
#include "base/timer_heap.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define CAPACITY_FIRST 1024u

int timer_heap_init(struct timer_heap *heap)
{
	*heap = (struct timer_heap){.capacity = CAPACITY_FIRST};
	heap->slots = calloc(heap->capacity, sizeof(heap->slots[0]));
	return heap->slots ? 0 : -ENOMEM;
}

void timer_heap_free(struct timer_heap *heap)
{
	for (uint32_t i = 1; i <= heap->count; i++)
		heap->slots[i]->heap_index = 0;
	free(heap->slots);
	*heap = (struct timer_heap){0};
}

static bool timer_before(const struct env_timer *a, const struct env_timer *b)
{
	if (a->deadline_ns != b->deadline_ns)
		return a->deadline_ns < b->deadline_ns;
	return a->order < b->order;
}

static void heap_put(struct timer_heap *heap, uint32_t i, struct env_timer *timer)
{
	heap->slots[i] = timer;
	timer->heap_index = i;
}

static void heap_up(struct timer_heap *heap, uint32_t i, struct env_timer *timer)
{
	while (i > 1) {
		uint32_t parent = (i + 2) / 4;
		if (!timer_before(timer, heap->slots[parent]))
			break;
		heap_put(heap, i, heap->slots[parent]);
		i = parent;
	}
	heap_put(heap, i, timer);
}

static void heap_down(struct timer_heap *heap, uint32_t i, struct env_timer *timer)
{
	for (;;) {
		uint64_t first = 4 * (uint64_t)i - 2;
		if (first > heap->count)
			break;
		uint32_t best = (uint32_t)first;
		uint32_t last = (uint32_t)MIN(first + 3, (uint64_t)heap->count);
		for (uint32_t child = best + 1; child <= last; child++)
			if (timer_before(heap->slots[child], heap->slots[best]))
				best = child;
		if (!timer_before(heap->slots[best], timer))
			break;
		heap_put(heap, i, heap->slots[best]);
		i = best;
	}
	heap_put(heap, i, timer);
}

static void heap_grow(struct timer_heap *heap)
{
	uint32_t capacity = heap->capacity * 2;
	struct env_timer **slots = realloc(heap->slots, capacity * sizeof(slots[0]));
	if (!slots) {
		fprintf(stderr, "out of memory for %u timers\n", capacity);
		abort();
	}
	heap->slots = slots;
	heap->capacity = capacity;
}

void timer_heap_set(struct timer_heap *heap, struct env_timer *timer, uint64_t deadline_ns)
{
	timer_heap_cancel(heap, timer);
	timer->deadline_ns = deadline_ns;
	timer->order = heap->next_order++;
	if (heap->count + 1 == heap->capacity)
		heap_grow(heap);
	heap->count++;
	heap_up(heap, heap->count, timer);
}

void timer_heap_cancel(struct timer_heap *heap, struct env_timer *timer)
{
	uint32_t i = timer->heap_index;
	if (i == 0)
		return;
	assert(i <= heap->count);
	assert(heap->slots[i] == timer);
	timer->heap_index = 0;
	struct env_timer *last = heap->slots[heap->count--];
	if (last == timer)
		return;
	if (i > 1 && timer_before(last, heap->slots[(i + 2) / 4]))
		heap_up(heap, i, last);
	else
		heap_down(heap, i, last);
}

struct env_timer *timer_heap_first(const struct timer_heap *heap)
{
	return heap->count > 0 ? heap->slots[1] : NULL;
}

struct env_timer *timer_heap_pop_due(struct timer_heap *heap, uint64_t now_ns, uint64_t order_limit)
{
	struct env_timer *timer = timer_heap_first(heap);
	if (!timer || timer->deadline_ns > now_ns || timer->order >= order_limit)
		return NULL;
	timer_heap_cancel(heap, timer);
	return timer;
}
