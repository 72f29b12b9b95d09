/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Explicit-state search: breadth first over every state a model can reach, so that the first
 * violation found is also a shortest one.
 *
 * A model gives its initial state, its successors and its invariants; a case is a model with one
 * configuration: healthy (no violation may exist within the bounds) or a mutant (a rule left out on
 * purpose; a violation must be found, or the model does not check that rule). States are plain
 * structs without pointers and without padding bytes that are not zero. Visited states are kept as
 * 128-bit fingerprints of their canonical form; the chance that two of 10^8 states collide is below
 * 10^-22. Single-threaded; runs out of memory = exit 2.
 */
#ifndef HF_TESTS_MODEL_EXPLORE_H
#define HF_TESTS_MODEL_EXPLORE_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

struct explore;

struct explore_model {
	size_t state_bytes;
	/* Writes the one initial state (handed over zeroed). */
	void (*init)(const void *config, void *state);
	/* Calls explore_emit() once for each successor. */
	void (*expand)(const void *config, const void *state, struct explore *x);
	/* Name of the violated invariant, or NULL. */
	const char *(*check)(const void *config, const void *state);
	/* Optional: rewrites a state to the representative of its symmetry class. */
	void (*canon)(const void *config, void *state);
};

struct explore_case {
	const char *name;
	bool mutant;
	const struct explore_model *model;
	const void *config;      /* quick bounds */
	const void *config_full; /* --full; NULL = as quick */
};

/* Hands over one successor; label (printf) names the step, it is formatted only for a trace. */
void explore_emit(struct explore *x, const void *state, const char *label, ...)
	__attribute__((format(printf, 3, 4)));

/* For canon: puts `count` interchangeable parts in the order of their bytes. With constants it is as fast as one's own. */
static inline __attribute__((always_inline)) void explore_sort(void *parts, size_t count,
							       size_t part_bytes)
{
	char *at = parts, moving[64];
	assert(part_bytes <= sizeof(moving));
	for (size_t i = 1; i < count; i++) { /* insertion sort */
		size_t j = i;
		memcpy(moving, at + i * part_bytes, part_bytes);
		for (; j > 0 && memcmp(at + (j - 1) * part_bytes, moving, part_bytes) > 0; j--)
			memcpy(at + j * part_bytes, at + (j - 1) * part_bytes, part_bytes);
		memcpy(at + j * part_bytes, moving, part_bytes);
	}
}

/*
 * The main() of a model: runs all cases, or with --mutant NAME (or --case NAME) that one;
 * --full takes the large bounds, --trace prints the counterexample, --list the names. Returns the
 * exit status: 0 when every case came out as it must.
 */
int explore_main(int argc, char **argv, const struct explore_case *cases, size_t case_count);

#endif
