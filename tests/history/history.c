/* SPDX-License-Identifier: Apache-2.0 */
/* The history itself, and what both checkers use. */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>

#include "tests/history/history_int.h"

static void *grow(void *items, uint32_t count, uint32_t *room, size_t bytes)
{
	if (count < *room)
		return items;
	*room = MAX(*room * 2, 64u);
	items = realloc(items, *room * bytes);
	if (items == NULL)
		abort();
	return items;
}

uint32_t history_op_add(struct history *history, const struct history_op *op)
{
	history->ops = grow(history->ops, history->op_count, &history->op_room, sizeof(*op));
	history->ops[history->op_count] = *op;
	return history->op_count++;
}

void history_open_add(struct history *history, const struct history_open *open)
{
	history->opens =
		grow(history->opens, history->open_count, &history->open_room, sizeof(*open));
	history->opens[history->open_count++] = *open;
}

void history_clear(struct history *history)
{
	free(history->ops);
	free(history->opens);
	*history = (struct history){0};
}

const char *history_rule_name(enum history_rule rule)
{
	static const char *const names[] = {
		[HISTORY_MALFORMED] = "malformed",
		[HISTORY_TWICE] = "twice",
		[HISTORY_FOREIGN] = "foreign",
		[HISTORY_FUTURE] = "future",
		[HISTORY_REFUSED_SEEN] = "refused-seen",
		[HISTORY_FENCED] = "fenced",
		[HISTORY_STALE] = "stale",
		[HISTORY_ZEROS] = "zeros",
		[HISTORY_LOST] = "lost",
		[HISTORY_ORDER] = "order",
	};
	return names[rule];
}

int key3_compare(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;
	for (int i = 0; i < 3; i++)
		if (x[i] != y[i])
			return x[i] < y[i] ? -1 : 1;
	return 0;
}

void key3_sort(void *records, size_t count, size_t bytes)
{
	if (count > 1)
		qsort(records, count, bytes, key3_compare);
}

/* ---- opens ---- */

static_assert(offsetof(struct history_open, session) == 0 &&
		      sizeof(struct history_open) == 3 * sizeof(uint64_t),
	      "opens are sorted by session first");

int opens_make(const struct history *history, struct opens *ret)
{
	uint32_t count = history->open_count;
	struct opens opens = {calloc(count + 1u, sizeof(*opens.sorted)),
			      calloc(count + 1u, sizeof(*opens.first_time)), count};
	if (opens.sorted == NULL || opens.first_time == NULL) {
		opens_free(&opens);
		return -ENOMEM;
	}
	if (count > 0)
		memcpy(opens.sorted, history->opens, count * sizeof(*opens.sorted));
	key3_sort(opens.sorted, count, sizeof(*opens.sorted));
	opens.first_time[count] = HISTORY_NEVER;
	for (uint32_t i = count; i-- > 0;)
		opens.first_time[i] = MIN(opens.sorted[i].time, opens.first_time[i + 1]);
	*ret = opens;
	return 0;
}

void opens_free(struct opens *opens)
{
	free(opens->sorted);
	free(opens->first_time);
	*opens = (struct opens){0};
}

uint32_t opens_after(const struct opens *opens, uint64_t session)
{
	uint32_t low = 0, high = opens->count;
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		if (opens->sorted[middle].session > session)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

uint64_t opens_bound(const struct opens *opens, uint64_t session)
{
	return opens->first_time[opens_after(opens, session)];
}

/* ---- blocks that matter ---- */

static int number_compare(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;
	return *x < *y ? -1 : *x > *y;
}

int touched_make(const struct history *history, struct touched *ret)
{
	size_t total = 0, count = 0;
	for (uint32_t i = 0; i < history->op_count; i++)
		if (history->ops[i].id != 0)
			total += history->ops[i].length_blocks;
	uint64_t *blocks = malloc((total + 1) * sizeof(*blocks));
	if (blocks == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < history->op_count; i++)
		for (uint64_t k = 0; history->ops[i].id != 0 && k < history->ops[i].length_blocks;
		     k++)
			blocks[count++] = history->ops[i].block + k;
	qsort(blocks, total, sizeof(*blocks), number_compare);
	count = 0;
	for (size_t i = 0; i < total; i++)
		if (count == 0 || blocks[count - 1] != blocks[i])
			blocks[count++] = blocks[i];
	*ret = (struct touched){blocks, count};
	return 0;
}

static size_t touched_from(const struct touched *touched, uint64_t block)
{
	size_t low = 0, high = touched->count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (touched->blocks[middle] >= block)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

void touched_range(const struct touched *touched, const struct history_op *op, size_t *first,
		   size_t *end)
{
	*first = touched_from(touched, op->block);
	*end = op->length_blocks == 1
		       ? *first + (*first < touched->count && touched->blocks[*first] == op->block)
		       : touched_from(touched, op->block + op->length_blocks);
}

/* ---- faults ---- */

int fault_set(const struct history *history, struct history_fault *ret, enum history_rule rule,
	      uint64_t block, const uint32_t ops[HISTORY_FAULT_OPS], const char *format, ...)
{
	*ret = (struct history_fault){.rule = rule, .block = block};
	size_t used = 0;
	if (block != HISTORY_NEVER)
		used = (size_t)snprintf(ret->text, sizeof(ret->text), "block %" PRIu64 ": ", block);
	used += (size_t)snprintf(ret->text + used, sizeof(ret->text) - used,
				 "%s: ", history_rule_name(rule));
	va_list args;
	va_start(args, format);
	used += (size_t)vsnprintf(ret->text + used, 400, format, args);
	va_end(args);
	for (int i = 0; i < HISTORY_FAULT_OPS; i++) {
		bool is_new = ops[i] != HISTORY_NO_OP;
		for (uint32_t k = 0; k < ret->op_count; k++)
			is_new = is_new && ret->ops[k] != ops[i];
		if (!is_new)
			continue;
		char line[HISTORY_LINE_BYTES];
		history_op_format(&history->ops[ops[i]], line);
		ret->ops[ret->op_count++] = ops[i];
		used = MIN(used, sizeof(ret->text) - 1);
		used += (size_t)snprintf(ret->text + used, sizeof(ret->text) - used, "\n  %s",
					 line);
	}
	return -EUCLEAN;
}

const char *op_complaint(const struct history_op *op)
{
	if ((unsigned)op->kind > HISTORY_ZERO || (unsigned)op->status > HISTORY_REFUSED)
		return "no such kind or status";
	if (op->length_blocks == 0 || op->block + op->length_blocks < op->block)
		return "an impossible range";
	if (op->kind == HISTORY_WRITE && op->id == 0)
		return "a write needs an id";
	if (op->kind == HISTORY_ZERO && op->id != 0)
		return "zeros have no id";
	if (op->id != 0 &&
	    (op->length_blocks > HISTORY_LENGTH_MAX || op->id + op->length_blocks < op->id))
		return "too many ids";
	if (op->invoke_time == HISTORY_NEVER || op->return_time < op->invoke_time)
		return "it returned before it was invoked";
	if (op->status == HISTORY_OK && op->return_time == HISTORY_NEVER)
		return "ok without a return";
	return NULL;
}

int ops_check(const struct history *history, const struct opens *opens, struct history_fault *ret)
{
	for (uint32_t i = 0; i < history->op_count; i++) {
		const struct history_op *op = &history->ops[i];
		const char *complaint = op_complaint(op);
		if (complaint != NULL)
			return fault_set(history, ret, HISTORY_MALFORMED, op->block,
					 OPS4(i, HISTORY_NO_OP, HISTORY_NO_OP, HISTORY_NO_OP), "%s",
					 complaint);
		uint64_t bound = opens_bound(opens, op->session);
		if (op->status == HISTORY_OK && op->invoke_time > bound)
			return fault_set(history, ret, HISTORY_FENCED, op->block,
					 OPS4(i, HISTORY_NO_OP, HISTORY_NO_OP, HISTORY_NO_OP),
					 "session %" PRIu64 " answered what was invoked at %" PRIu64
					 ", but a later session was open at %" PRIu64,
					 op->session, op->invoke_time, bound);
	}
	return 0;
}
