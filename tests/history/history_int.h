/* SPDX-License-Identifier: Apache-2.0 */
/* What both checkers use. */
#ifndef HF_TESTS_HISTORY_HISTORY_INT_H
#define HF_TESTS_HISTORY_HISTORY_INT_H

#include "tests/history/history.h"

/* Opens by session, with what any of the later ones says. */
struct opens {
	struct history_open *sorted;
	uint64_t *first_time; /* of this and all later sessions */
	uint32_t count;
};
int opens_make(const struct history *history, struct opens *ret);
void opens_free(struct opens *opens);
/* Index of the first open of a session above this one; count: none. */
uint32_t opens_after(const struct opens *opens, uint64_t session);
/* bound(session), HISTORY_NEVER when no later session opened. */
uint64_t opens_bound(const struct opens *opens, uint64_t session);

/*
 * The blocks that ever had, or were said to have, an id; sorted. All others hold zeros whatever happens,
 * so a discard of a whole volume costs only what was written.
 */
struct touched {
	uint64_t *blocks;
	size_t count;
};
int touched_make(const struct history *history, struct touched *ret);
/* The touched blocks of an operation are [*first, *end). */
void touched_range(const struct touched *touched, const struct history_op *op, size_t *first,
		   size_t *end);
/* The id of one block of an operation. */
static inline uint64_t op_id_at(const struct history_op *op, uint64_t block)
{
	return op->id == 0 ? 0 : op->id + (block - op->block);
}

/* What may be judged at all: lengths, times, ids. NULL or what is wrong. */
const char *op_complaint(const struct history_op *op);
/* Every operation may be judged and none succeeded after its session's bound. 0 or -EUCLEAN. */
int ops_check(const struct history *history, const struct opens *opens, struct history_fault *ret);

/* Writes *ret and returns -EUCLEAN. HISTORY_NO_OP and repetitions in ops are left out. */
int fault_set(const struct history *history, struct history_fault *ret, enum history_rule rule,
	      uint64_t block, const uint32_t ops[HISTORY_FAULT_OPS], const char *format, ...)
	PRINTF_LIKE(6, 7);
#define OPS4(a, b, c, d)                    \
	(const uint32_t[HISTORY_FAULT_OPS]) \
	{                                   \
		a, b, c, d                  \
	}

/* Sorting by up to three numbers, which every record here begins with. */
int key3_compare(const void *a, const void *b);
void key3_sort(void *records, size_t count, size_t bytes);

#endif
