/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Breadth-first search over packed states.
 *
 * E1. A state is expanded once per symmetry class: `seen` holds fingerprints of canonical forms.
 * E2. `states` holds states as they were reached (not canonical), `parents` how; so a trace speaks
 *     of the same replica by the same name from its first step to its last.
 * E3. The check runs on every state that is reached, before it is expanded.
 */
#include "tests/model/explore.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STATE_BYTES_MAX = 1024, LABEL_BYTES = 200 };
/* A search that would need more memory than this ends as bounded. */
static const size_t search_bytes_max = (size_t)6 << 30;

struct print128 {
	uint64_t a, b;
};

struct explore {
	const struct explore_model *model;
	const void *config;
	unsigned char *states;
	uint32_t *parents;
	size_t count, capacity;
	struct print128 *seen;
	size_t seen_mask;
	size_t current; /* index of the state being expanded */
	/* While a trace is printed: the state looked for and where its label goes. */
	const void *wanted;
	char *label;
};

static void *grow(void *p, size_t bytes)
{
	p = realloc(p, bytes);
	if (!p) {
		fprintf(stderr, "explore: out of memory (%zu bytes)\n", bytes);
		exit(2);
	}
	return p;
}

static struct print128 fingerprint(const unsigned char *p, size_t bytes)
{
	uint64_t a = 0x243f6a8885a308d3ull, b = 0x13198a2e03707344ull;
	for (; bytes > 0;) {
		uint64_t word = 0;
		size_t part = bytes < sizeof(word) ? bytes : sizeof(word);
		memcpy(&word, p, part);
		p += part;
		bytes -= part;
		a = (a ^ word) * 0xd6e8feb86659fd93ull;
		a ^= a >> 32;
		b = (b + word) * 0x9fb21c651e98df25ull;
		b ^= b >> 29;
	}
	struct print128 print = {a, b | 1}; /* b is never 0: an all-zero slot is a free one */
	return print;
}

static bool seen_insert(struct print128 *table, size_t mask, struct print128 print)
{
	size_t i = print.a & mask;
	for (; table[i].b; i = (i + 1) & mask) {
		if (table[i].a == print.a && table[i].b == print.b)
			return false;
	}
	table[i] = print;
	return true;
}

static void seen_grow(struct explore *x)
{
	size_t slots = x->seen ? (x->seen_mask + 1) * 2 : 1 << 16;
	struct print128 *table = calloc(slots, sizeof(*table));
	if (!table) {
		fprintf(stderr, "explore: out of memory (%zu slots)\n", slots);
		exit(2);
	}
	for (size_t i = 0; x->seen && i <= x->seen_mask; i++) {
		if (x->seen[i].b)
			(void)seen_insert(table, slots - 1, x->seen[i]);
	}
	free(x->seen);
	x->seen = table;
	x->seen_mask = slots - 1;
}

static void state_add(struct explore *x, const void *state)
{
	size_t bytes = x->model->state_bytes;
	unsigned char canonical[STATE_BYTES_MAX];
	memcpy(canonical, state, bytes);
	if (x->model->canon)
		x->model->canon(x->config, canonical);
	if (!x->seen || x->count * 10 > (x->seen_mask + 1) * 7)
		seen_grow(x);
	if (!seen_insert(x->seen, x->seen_mask, fingerprint(canonical, bytes)))
		return;
	if (x->count == x->capacity) {
		x->capacity = x->capacity ? x->capacity + x->capacity / 2 : 1 << 14;
		x->states = grow(x->states, x->capacity * bytes);
		x->parents = grow(x->parents, x->capacity * sizeof(*x->parents));
	}
	memcpy(x->states + x->count * bytes, state, bytes);
	x->parents[x->count] = (uint32_t)x->current;
	x->count++;
}

void explore_emit(struct explore *x, const void *state, const char *label, ...)
{
	if (!x->wanted) {
		state_add(x, state);
		return;
	}
	if (x->label[0] || memcmp(state, x->wanted, x->model->state_bytes) != 0)
		return;
	va_list ap;
	va_start(ap, label);
	vsnprintf(x->label, LABEL_BYTES, label, ap);
	va_end(ap);
}

static void trace_print(struct explore *x, size_t index)
{
	size_t bytes = x->model->state_bytes;
	if (index == 0)
		return;
	size_t parent = x->parents[index];
	trace_print(x, parent);
	char label[LABEL_BYTES] = "";
	unsigned char from[STATE_BYTES_MAX], to[STATE_BYTES_MAX];
	memcpy(from, x->states + parent * bytes, bytes);
	memcpy(to, x->states + index * bytes, bytes);
	x->wanted = to;
	x->label = label;
	x->model->expand(x->config, from, x);
	x->wanted = NULL;
	printf("    %s\n", label);
}

/* Searches until a violation (its name is returned) or to the end (NULL). */
static const char *search(struct explore *x, bool trace, bool *ret_complete)
{
	size_t bytes = x->model->state_bytes;
	unsigned char state[STATE_BYTES_MAX] = {0};
	const char *violated = NULL;
	x->model->init(x->config, state);
	state_add(x, state);
	for (x->current = 0; x->current < x->count && !violated; x->current++) {
		if (x->count * (bytes + sizeof(*x->parents)) + x->seen_mask * sizeof(*x->seen) >
		    search_bytes_max)
			break;
		memcpy(state, x->states + x->current * bytes, bytes);
		violated = x->model->check(x->config, state);
		if (!violated)
			x->model->expand(x->config, state, x);
		else if (trace)
			trace_print(x, x->current);
	}
	*ret_complete = x->current == x->count;
	return violated;
}

static bool case_run(const struct explore_case *c, bool full, bool trace)
{
	struct explore x = {.model = c->model};
	bool complete = false;
	x.config = full && c->config_full ? c->config_full : c->config;
	if (c->model->state_bytes > STATE_BYTES_MAX) {
		fprintf(stderr, "explore: a state has at most %d bytes\n", STATE_BYTES_MAX);
		exit(2);
	}
	const char *violated = search(&x, trace, &complete);
	bool ok = c->mutant ? violated != NULL : violated == NULL;
	printf("%s %s%s", ok ? "ok" : "FAILED", c->mutant ? "mutant " : "", c->name);
	if (violated)
		printf(": violation found after %zu states: %s\n", x.current, violated);
	else
		printf("%s %zu states%s\n", c->mutant ? ": no violation in" : "", x.count,
		       complete ? "" : " (bounded, not complete)");
	fflush(stdout);
	free(x.states);
	free(x.parents);
	free(x.seen);
	return ok;
}

int explore_main(int argc, char **argv, const struct explore_case *cases, size_t case_count)
{
	bool full = false, trace = false, list = false;
	const char *only = NULL;
	int passed = 0, failed = 0;
	for (int i = 1; i < argc; i++) {
		bool named = !strcmp(argv[i], "--mutant") || !strcmp(argv[i], "--case");
		if (!strcmp(argv[i], "--full"))
			full = true;
		else if (!strcmp(argv[i], "--trace"))
			trace = true;
		else if (!strcmp(argv[i], "--list"))
			list = true;
		else if (named && i + 1 < argc)
			only = argv[++i];
		else {
			fprintf(stderr, "usage: %s [--full] [--trace] [--list] [--mutant NAME]\n",
				argv[0]);
			return 2;
		}
	}
	for (size_t i = 0; i < case_count; i++) {
		if (only && strcmp(only, cases[i].name) != 0)
			continue;
		if (list)
			printf("%s\n", cases[i].name);
		else if (case_run(&cases[i], full, trace))
			passed++;
		else
			failed++;
	}
	if (list)
		return 0;
	printf("%d passed, %d failed\n", passed, failed);
	return failed || !passed;
}
