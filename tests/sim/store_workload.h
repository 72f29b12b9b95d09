/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Small workloads for the store, run with a recorder on, and the model that says which states a
 * volume may be in after a crash: one of its history, no older than the last acknowledged step.
 *
 * A workload is up to three symbols; a symbol is an operation on one of two volumes. Symbols become
 * steps when a volume's state asks for more: ADOPT promises first and stages an entry, a write
 * after a promise goes to the staged tail.
 */
#ifndef HF_TESTS_SIM_STORE_WORKLOAD_H
#define HF_TESTS_SIM_STORE_WORKLOAD_H

#include "tests/sim/store_world.h"

#define WORKLOAD_VOLUMES     2
#define WORKLOAD_SYMBOLS_MAX 3
#define WORKLOAD_BLOCKS      20 /* of a volume that are written and compared */
#define WORKLOAD_STEPS_MAX   16
#define WORKLOAD_SEQ_MAX     16

enum workload_op {
	WORKLOAD_WRITE_4K,
	WORKLOAD_WRITE_12K,
	WORKLOAD_OVERWRITE,
	WORKLOAD_ZERO,
	WORKLOAD_PROMISE,
	WORKLOAD_ADOPT,
	WORKLOAD_CHECKPOINT,
	WORKLOAD_DELETE,
	WORKLOAD_OPS
};

enum workload_pace {
	WORKLOAD_SEQUENTIAL, /* each step waits for the one before */
	WORKLOAD_TOGETHER,   /* all at once, as far as the protocol allows */
	WORKLOAD_STAGGERED,  /* one after the other without waiting: batches overlap */
	WORKLOAD_PACES
};

struct workload_spec {
	uint8_t symbol[WORKLOAD_SYMBOLS_MAX]; /* op * WORKLOAD_VOLUMES + volume */
	uint8_t symbol_count;
	uint8_t pace;
	bool commits;   /* K follows every acknowledgement; otherwise it stays where it was */
	bool redirects; /* no payload goes inline (the caller sets the store's config) */
	bool has_past;  /* the volumes hold checkpointed and other entries before */
};

/* Numbers all workloads; larger ones are longer. */
uint64_t workload_count(void);
void workload_spec_nth(uint64_t index, struct workload_spec *ret);
/* "write_4k(a) adopt(b) checkpoint staggered ..." */
void workload_describe(const struct workload_spec *spec, char *text, size_t text_bytes);

/* A store with the two volumes, closed: where a workload starts. NULL with a message in why. */
struct sim_image *workload_base(bool has_past, char *why, size_t why_bytes);

struct workload;

/* world's store is open on workload_base()'s image. NULL when the spec makes no sense (an operation
 * after the volume's deletion): nothing to test. */
struct workload *workload_create(struct store_world *world, const struct workload_spec *spec);
void workload_free(struct workload *workload);
/* Runs it with a recorder on and until the disk is quiet. 0, or -errno with a message in why. */
int workload_run(struct workload *workload, char *why, size_t why_bytes);
/* The caller's from here on. */
struct sim_record *workload_record_take(struct workload *workload);

/* Index of a state in a volume's history. */
struct workload_floor {
	unsigned state[WORKLOAD_VOLUMES];
};
/* What a crash at this point of the record must not lose. */
void workload_floor_at(const struct workload *workload, uint32_t point, struct workload_floor *ret);

enum workload_tolerance {
	WORKLOAD_STRICT,     /* a crash, nothing else */
	WORKLOAD_BAD_BLOCKS, /* a payload or page is rotten: blocks may be bad, never wrong */
	WORKLOAD_BAD_LOG,    /* a descriptor is rotten: a volume may be suspect instead */
};

/* Compares the open store with the model: each volume in a state at or above its floor, contents
 * included. 0 and *found (the newest such state), or -EUCLEAN with a message in why. */
int workload_check(const struct workload *workload, struct store_world *world,
		   const struct workload_floor *floor, enum workload_tolerance tolerance,
		   struct workload_floor *found, char *why, size_t why_bytes);
/* Goes on with the first volume that still accepts entries: appends one and reads it back. */
int workload_continue(const struct workload *workload, struct store_world *world, char *why,
		      size_t why_bytes);

#endif
