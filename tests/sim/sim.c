/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The world's heart: events, time, randomness, the trace.
 *
 * S1  Events run in the order (time, tie, order); tie is drawn when an event is queued, so equal
 *     times are shuffled by the seed and by nothing else.
 * S2  No address, no uninitialised byte and no real clock enters a decision or the trace.
 * S3  Each event is mixed into the hash before it runs; two runs with equal hashes ran the same
 *     events with the same data.
 * S4  An event of a paused process is parked and runs after it resumes, in its order.
 * S5  A queued event is embedded in an object of the simulator that removes it before it goes.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "tests/sim/sim_priv.h"

void *sim_alloc(size_t bytes)
{
	void *p = calloc(1, bytes);
	assert(p != NULL);
	return p;
}

/* ---- randomness: xoshiro256**, seeded through splitmix64 ---- */

static uint64_t splitmix(uint64_t *state)
{
	*state += 0x9e3779b97f4a7c15u;
	uint64_t z = *state;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

static uint64_t rotate_left(uint64_t x, unsigned bits)
{
	return (x << bits) | (x >> (64 - bits));
}

void sim_rng_seed(struct sim_rng *rng, uint64_t seed, uint64_t stream)
{
	uint64_t state = seed;
	uint64_t mixed = splitmix(&state) ^ rotate_left(stream * 0xd1342543de82ef95u + 1, 23);
	for (size_t i = 0; i < ARRAY_LEN(rng->state); i++)
		rng->state[i] = splitmix(&mixed);
}

uint64_t sim_rng_next(struct sim_rng *rng)
{
	uint64_t *s = rng->state;
	uint64_t result = rotate_left(s[1] * 5, 7) * 9;
	uint64_t shifted = s[1] << 17;
	s[2] ^= s[0];
	s[3] ^= s[1];
	s[1] ^= s[2];
	s[0] ^= s[3];
	s[2] ^= shifted;
	s[3] = rotate_left(s[3], 45);
	return result;
}

uint64_t sim_rng_below(struct sim_rng *rng, uint64_t bound)
{
	if (bound == 0)
		return 0;
	return (uint64_t)(((unsigned __int128)sim_rng_next(rng) * bound) >> 64);
}

uint64_t sim_rng_range(struct sim_rng *rng, uint64_t low, uint64_t high)
{
	assert(low <= high);
	return low + sim_rng_below(rng, high - low + 1);
}

bool sim_rng_chance(struct sim_rng *rng, uint32_t ppm)
{
	return ppm != 0 && sim_rng_below(rng, 1000000) < ppm;
}

/* ---- trace ---- */

static const char *const kind_name[] = {
	[SIM_EV_CALL] = "call",
	[SIM_EV_NOTE] = "note",
	[SIM_EV_TIMER] = "timer",
	[SIM_EV_DISK_DO] = "disk_do",
	[SIM_EV_DISK_DONE] = "disk_done",
	[SIM_EV_DISK_CLOSED] = "disk_closed",
	[SIM_EV_CONNECT] = "connect",
	[SIM_EV_CONNECTED] = "connected",
	[SIM_EV_ACCEPTED] = "accepted",
	[SIM_EV_UNIT] = "unit",
	[SIM_EV_RECV] = "recv",
	[SIM_EV_SENT] = "sent",
	[SIM_EV_CONN_CLOSED] = "conn_closed",
	[SIM_EV_UNCLOG] = "unclog",
	[SIM_EV_KILL] = "kill",
	[SIM_EV_RESTART] = "restart",
	[SIM_EV_PAUSE] = "pause",
	[SIM_EV_RESUME] = "resume",
	[SIM_EV_WRITE] = "write",
	[SIM_EV_SEND] = "send",
};

static uint64_t hash_mix(uint64_t hash, uint64_t value)
{
	hash = (hash ^ value) * 0x9fb21c651e98df25u;
	return hash ^ (hash >> 29);
}

uint64_t sim_hash_bytes(uint64_t hash, const void *bytes, size_t length_bytes)
{
	const uint8_t *p = bytes;
	uint64_t word;
	for (; length_bytes >= sizeof(word); p += sizeof(word), length_bytes -= sizeof(word)) {
		memcpy(&word, p, sizeof(word));
		hash = hash_mix(hash, word);
	}
	word = length_bytes;
	memcpy((uint8_t *)&word + 1, p, length_bytes < 7 ? length_bytes : 7);
	return hash_mix(hash, word);
}

void sim_trace(struct sim *sim, enum sim_event_kind kind, const struct sim_process *process,
	       uint64_t id, uint64_t value)
{
	uint64_t who = process ? process->id + 1 : 0;
	sim->hash = hash_mix(sim->hash, sim->now_ns);
	sim->hash = hash_mix(sim->hash, (uint64_t)kind << 32 | who);
	sim->hash = hash_mix(sim->hash, id);
	sim->hash = hash_mix(sim->hash, value);
	if (sim->trace)
		fprintf(sim->trace, "%" PRIu64 " %s %s id=%" PRIu64 " value=%" PRIx64 "\n",
			sim->now_ns, process ? process->name : "-", kind_name[kind], id, value);
}

void sim_note(struct sim *sim, const char *text, uint64_t value)
{
	sim->hash = sim_hash_bytes(sim->hash, text, strlen(text));
	if (sim->trace)
		fprintf(sim->trace, "%" PRIu64 " - %s\n", sim->now_ns, text);
	sim_trace(sim, SIM_EV_NOTE, NULL, 0, value);
}

uint64_t sim_trace_hash(const struct sim *sim)
{
	return sim->hash;
}

void sim_trace_to(struct sim *sim, FILE *file)
{
	sim->trace = file;
}

/* ---- the heap ---- */

static bool event_before(const struct sim_event *a, const struct sim_event *b)
{
	if (a->time_ns != b->time_ns)
		return a->time_ns < b->time_ns;
	if (a->tie != b->tie)
		return a->tie < b->tie;
	return a->order < b->order;
}

static void heap_place(struct sim_heap *heap, uint32_t index, struct sim_event *event)
{
	heap->at[index] = event;
	event->heap_index = index;
}

static void heap_up(struct sim_heap *heap, uint32_t index)
{
	struct sim_event *event = heap->at[index];
	for (; index > 1 && event_before(event, heap->at[index / 2]); index /= 2)
		heap_place(heap, index, heap->at[index / 2]);
	heap_place(heap, index, event);
}

static void heap_down(struct sim_heap *heap, uint32_t index)
{
	struct sim_event *event = heap->at[index];
	for (;;) {
		uint32_t child = 2 * index;
		if (child > heap->count)
			break;
		if (child < heap->count && event_before(heap->at[child + 1], heap->at[child]))
			child++;
		if (!event_before(heap->at[child], event))
			break;
		heap_place(heap, index, heap->at[child]);
		index = child;
	}
	heap_place(heap, index, event);
}

static void heap_add(struct sim_heap *heap, struct sim_event *event)
{
	if (heap->count + 2 > heap->capacity) {
		heap->capacity = heap->capacity ? 2 * heap->capacity : 64;
		heap->at = reallocarray(heap->at, heap->capacity, sizeof(heap->at[0]));
		assert(heap->at != NULL);
	}
	heap_place(heap, ++heap->count, event);
	heap_up(heap, heap->count);
}

static void heap_remove(struct sim_heap *heap, struct sim_event *event)
{
	uint32_t index = event->heap_index;
	struct sim_event *last = heap->at[heap->count--];
	event->heap_index = 0;
	if (last == event)
		return;
	heap_place(heap, index, last);
	heap_up(heap, index);
	heap_down(heap, last->heap_index);
}

void sim_event_queue(struct sim *sim, struct sim_event *event, uint64_t time_ns)
{
	assert(event->heap_index == 0 && !list_linked(&event->link));
	event->time_ns = time_ns < sim->now_ns ? sim->now_ns : time_ns;
	event->tie = sim_rng_next(&sim->rng) >> 1 | 1;
	event->order = sim->order++;
	heap_add(&sim->heap, event);
}

void sim_event_remove(struct sim *sim, struct sim_event *event)
{
	if (event->heap_index != 0)
		heap_remove(&sim->heap, event);
	list_remove(&event->link);
}

bool sim_event_pending(const struct sim_event *event)
{
	return event->heap_index != 0 || list_linked(&event->link);
}

/* ---- running ---- */

bool sim_step(struct sim *sim)
{
	if (sim->heap.count == 0)
		return false;
	struct sim_event *event = sim->heap.at[1];
	heap_remove(&sim->heap, event);
	assert(event->time_ns >= sim->now_ns);
	sim->now_ns = event->time_ns;
	sim->step_count++;
	struct sim_process *process = event->process;
	if (process && process->is_paused) {
		list_push_back(&process->parked, &event->link);
		return true;
	}
	sim_trace(sim, event->kind, process, event->id, 0);
	event->run(event);
	return true;
}

void sim_run_until(struct sim *sim, uint64_t time_ns)
{
	while (sim->heap.count != 0 && sim->heap.at[1]->time_ns <= time_ns)
		sim_step(sim);
	if (sim->now_ns < time_ns)
		sim->now_ns = time_ns;
}

void sim_run_for(struct sim *sim, uint64_t duration_ns)
{
	sim_run_until(sim, sim->now_ns + duration_ns);
}

uint64_t sim_run_steps(struct sim *sim, uint64_t steps)
{
	uint64_t done = 0;
	while (done < steps && sim_step(sim))
		done++;
	return done;
}

int sim_run(struct sim *sim, bool (*done)(void *ctx), void *ctx, uint64_t limit_ns)
{
	uint64_t deadline_ns = sim->now_ns + limit_ns;
	while (!done(ctx)) {
		if (sim->heap.count == 0)
			return -EDEADLK;
		if (sim->heap.at[1]->time_ns > deadline_ns) {
			sim->now_ns = deadline_ns;
			return -ETIMEDOUT;
		}
		sim_step(sim);
	}
	return 0;
}

static bool flag_is_set(void *ctx)
{
	return *(const bool *)ctx;
}

int sim_run_flag(struct sim *sim, const bool *flag, uint64_t limit_ns)
{
	return sim_run(sim, flag_is_set, (void *)(uintptr_t)flag, limit_ns);
}

struct sim_call {
	struct sim_event event; /* first */
	struct list link;
	struct sim *sim;
	void (*fn)(void *ctx);
	void *ctx;
};

static void call_run(struct sim_event *event)
{
	struct sim_call *call = (struct sim_call *)event;
	void (*fn)(void *ctx) = call->fn;
	void *ctx = call->ctx;
	list_remove(&call->link);
	free(call);
	fn(ctx);
}

void sim_call_after(struct sim *sim, uint64_t delay_ns, void (*fn)(void *ctx), void *ctx)
{
	struct sim_call *call = sim_alloc(sizeof(*call));
	call->event.run = call_run;
	call->event.kind = SIM_EV_CALL;
	call->event.id = sim->next_id++;
	call->fn = fn;
	call->ctx = ctx;
	list_push_back(&sim->calls, &call->link);
	sim_event_queue(sim, &call->event, sim->now_ns + delay_ns);
	if (delay_ns == 0) {
		call->event.tie = 0; /* before every drawn one */
		heap_up(&sim->heap, call->event.heap_index);
	}
}

/* ---- birth and end ---- */

enum { STREAM_TIES = 1, STREAM_NET, STREAM_TEST };

struct sim *sim_create(uint64_t seed)
{
	struct sim *sim = calloc(1, sizeof(*sim));
	if (!sim)
		return NULL;
	sim->seed = seed;
	sim->now_ns = SIM_S;
	sim->hash = seed;
	sim->next_id = 1;
	sim->next_port = 40000;
	sim->link_default = sim_link_profile_default;
	sim_rng_seed(&sim->rng, seed, STREAM_TIES);
	sim_rng_seed(&sim->rng_net, seed, STREAM_NET);
	sim_rng_seed(&sim->rng_test, seed, STREAM_TEST);
	list_init(&sim->calls);
	list_init(&sim->disks);
	list_init(&sim->pairs);
	list_init(&sim->listeners);
	return sim;
}

static void process_free(struct sim_process *process)
{
	struct list *node;
	while ((node = list_pop_front(&process->bufs)) != NULL) {
		struct sim_buf *buf = CONTAINER_OF(node, struct sim_buf, link);
		free(buf->memory);
		free(buf);
	}
	free(process->timers);
	free(process);
}

void sim_destroy(struct sim *sim)
{
	if (!sim)
		return;
	for (unsigned i = 0; i < sim->process_count; i++)
		sim_process_kill(sim->process[i], SIM_KILL_SILENT);
	for (unsigned i = 0; i < sim->process_count; i++) {
		sim_disks_process_swept(sim->process[i]);
		sim_net_process_swept(sim->process[i]);
	}
	sim_net_destroy(sim);
	sim_disks_destroy(sim);
	for (unsigned i = 0; i < sim->process_count; i++)
		process_free(sim->process[i]);
	struct list *node;
	while ((node = list_pop_front(&sim->calls)) != NULL) {
		struct sim_call *call = CONTAINER_OF(node, struct sim_call, link);
		sim_event_remove(sim, &call->event);
		free(call);
	}
	assert(sim->heap.count == 0);
	free(sim->heap.at);
	free(sim->links);
	free(sim);
}

uint64_t sim_now_ns(const struct sim *sim)
{
	return sim->now_ns;
}

struct sim_rng *sim_rng(struct sim *sim)
{
	return &sim->rng_test;
}

uint64_t sim_step_count(const struct sim *sim)
{
	return sim->step_count;
}

uint64_t sim_mark_count(const struct sim *sim, enum sim_mark mark)
{
	return sim->mark[mark];
}
