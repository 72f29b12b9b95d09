/* SPDX-License-Identifier: Apache-2.0 */
/*
 * history_check: each block by itself, zones and a sweep. The proof idea is in history.h.
 *
 * Moments at one time are ordered by what they are: windows begin, what is due, and last a zone that
 * begins there; a zone is over before anything at its end begins.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "tests/history/history_int.h"

/* One block of one operation. Sorted by block, then id, the write before its reads. */
struct piece {
	uint64_t block, id;
	uint64_t is_read;
	uint64_t invoke_time, return_time; /* return: not after the bound */
	uint32_t op;
	enum history_status status;
};

struct zone {
	uint64_t from, until, id;
	uint32_t first_op; /* the one that returned at `from` */
	uint32_t last_op;  /* the one that was invoked at `until` */
};

enum job_kind { JOB_IDS, JOB_ZEROS, JOB_READ };

struct job {
	uint64_t from, until;
	uint64_t id;
	enum job_kind kind;
	uint32_t last_op;  /* the one that was invoked at `from` */
	uint32_t first_op; /* the one that returned at `until` */
	bool must;         /* zeros whose outcome is unknown may be left out */
	bool is_done;
};

enum phase { PHASE_BEGIN, PHASE_DUE, PHASE_ZONE };

struct moment {
	uint64_t time, phase;
	uint64_t index; /* of a job, or of a zone */
};

struct sweep {
	const struct history *history;
	struct history_fault *fault;
	struct opens opens;
	struct touched touched;
	struct piece *pieces;
	size_t piece_count;
	/* the block at hand */
	uint64_t block;
	struct zone *zones;
	struct job *jobs;
	struct moment *moments;
	uint32_t *reads_waiting, *ids_waiting; /* of jobs */
	uint32_t *heap;                        /* of jobs that are zeros, first due first */
	size_t zone_count, job_count, moment_count, read_count, id_count, heap_count;
	bool is_zero;
	uint64_t covering_id;
	uint32_t covering_op, zeros_op; /* for the message: what made it an id, and zeros before */
};

/* ---- pieces ---- */

/* What cannot have had an effect and was not seen is left out. */
static bool op_matters(const struct history_op *op)
{
	return op->kind == HISTORY_WRITE || op->status == HISTORY_OK ||
	       (op->kind == HISTORY_ZERO && op->status == HISTORY_UNKNOWN);
}

static void pieces_of(struct sweep *s, uint32_t index, bool store)
{
	const struct history_op *op = &s->history->ops[index];
	if (!op_matters(op))
		return;
	size_t first, end;
	touched_range(&s->touched, op, &first, &end);
	if (!store) {
		s->piece_count += end - first;
		return;
	}
	uint64_t bound = opens_bound(&s->opens, op->session);
	for (size_t i = first; i < end; i++) {
		struct piece *p = &s->pieces[s->piece_count++];
		*p = (struct piece){.block = s->touched.blocks[i],
				    .id = op_id_at(op, s->touched.blocks[i]),
				    .is_read = op->kind == HISTORY_READ,
				    .invoke_time = op->invoke_time,
				    .return_time = op->status == HISTORY_OK
							   ? MIN(op->return_time, bound)
							   : bound,
				    .op = index,
				    .status = op->status};
	}
}

static int sweep_make(struct sweep *s)
{
	int rc = touched_make(s->history, &s->touched);
	if (rc < 0)
		return rc;
	for (uint32_t i = 0; i < s->history->op_count; i++)
		pieces_of(s, i, false);
	size_t room = s->piece_count + 1;
	s->pieces = malloc(room * sizeof(*s->pieces));
	s->zones = malloc(room * sizeof(*s->zones));
	s->jobs = malloc(room * sizeof(*s->jobs));
	s->moments = malloc(2 * room * sizeof(*s->moments));
	s->reads_waiting = malloc(room * sizeof(*s->reads_waiting));
	s->ids_waiting = malloc(room * sizeof(*s->ids_waiting));
	s->heap = malloc(room * sizeof(*s->heap));
	if (s->pieces == NULL || s->zones == NULL || s->jobs == NULL || s->moments == NULL ||
	    s->reads_waiting == NULL || s->ids_waiting == NULL || s->heap == NULL)
		return -ENOMEM;
	s->piece_count = 0;
	for (uint32_t i = 0; i < s->history->op_count; i++)
		pieces_of(s, i, true);
	key3_sort(s->pieces, s->piece_count, sizeof(*s->pieces));
	return 0;
}

static void sweep_free(struct sweep *s)
{
	opens_free(&s->opens);
	free(s->touched.blocks);
	free(s->pieces);
	free(s->zones);
	free(s->jobs);
	free(s->moments);
	free(s->reads_waiting);
	free(s->ids_waiting);
	free(s->heap);
}

/* ---- clusters ---- */

static int read_check(struct sweep *s, const struct piece *write, const struct piece *read)
{
	const uint32_t *ops = OPS4(write->op, read->op, HISTORY_NO_OP, HISTORY_NO_OP);
	if (write->status == HISTORY_REFUSED)
		return fault_set(s->history, s->fault, HISTORY_REFUSED_SEEN, s->block, ops,
				 "id %" PRIu64 " was read, but its write was refused", read->id);
	if (write->invoke_time >
	    write->return_time) /* its session was over: only unknown ones get here */
		return fault_set(s->history, s->fault, HISTORY_FENCED, s->block, ops,
				 "id %" PRIu64 " was read, but its write was invoked at %" PRIu64
				 ", when a session later than its own was open since %" PRIu64,
				 read->id, write->invoke_time, write->return_time);
	if (read->return_time < write->invoke_time)
		return fault_set(s->history, s->fault, HISTORY_FUTURE, s->block, ops,
				 "id %" PRIu64 " was read by %" PRIu64
				 ", but its write was invoked at %" PRIu64,
				 read->id, read->return_time, write->invoke_time);
	return 0;
}

/* pieces[0..count) are all of one id. */
static int cluster_add(struct sweep *s, const struct piece *pieces, size_t count)
{
	const struct piece *write = &pieces[0];
	if (write->is_read)
		return fault_set(s->history, s->fault, HISTORY_FOREIGN, s->block,
				 OPS4(write->op, HISTORY_NO_OP, HISTORY_NO_OP, HISTORY_NO_OP),
				 "id %" PRIu64 " was read, but nobody wrote it there", write->id);
	const struct piece *first = write, *last = write;
	for (size_t i = 1; i < count; i++) {
		const struct piece *p = &pieces[i];
		if (!p->is_read)
			return fault_set(s->history, s->fault, HISTORY_TWICE, s->block,
					 OPS4(write->op, p->op, HISTORY_NO_OP, HISTORY_NO_OP),
					 "id %" PRIu64 " was written twice", p->id);
		int rc = read_check(s, write, p);
		if (rc < 0)
			return rc;
		if (p->return_time < first->return_time)
			first = p;
		if (p->invoke_time > last->invoke_time)
			last = p;
	}
	if (write->status == HISTORY_REFUSED || (write->status == HISTORY_UNKNOWN && count == 1))
		return 0;
	if (first->return_time < last->invoke_time)
		s->zones[s->zone_count++] = (struct zone){.from = first->return_time,
							  .until = last->invoke_time,
							  .id = write->id,
							  .first_op = first->op,
							  .last_op = last->op};
	else
		s->jobs[s->job_count++] = (struct job){.from = last->invoke_time,
						       .until = first->return_time,
						       .id = write->id,
						       .kind = JOB_IDS,
						       .last_op = last->op,
						       .first_op = first->op,
						       .must = true};
	return 0;
}

static void zeros_add(struct sweep *s, const struct piece *p)
{
	s->jobs[s->job_count++] = (struct job){.from = p->invoke_time,
					       .until = p->return_time,
					       .kind = p->is_read ? JOB_READ : JOB_ZEROS,
					       .last_op = p->op,
					       .first_op = p->op,
					       .must = p->status == HISTORY_OK};
}

/* ---- zones ---- */

static int zones_check(struct sweep *s)
{
	key3_sort(s->zones, s->zone_count, sizeof(*s->zones));
	for (size_t i = 1; i < s->zone_count; i++) {
		const struct zone *a = &s->zones[i - 1], *b = &s->zones[i];
		if (a->until > b->from)
			return fault_set(s->history, s->fault, HISTORY_STALE, s->block,
					 OPS4(a->first_op, b->last_op, b->first_op, a->last_op),
					 "id %" PRIu64 " was there by %" PRIu64
					 " and still from %" PRIu64 ", id %" PRIu64 " by %" PRIu64
					 " and still from %" PRIu64
					 ": neither can be the later one",
					 a->id, a->from, a->until, b->id, b->from, b->until);
	}
	return 0;
}

/* The zone that has `time` strictly inside, or NULL. */
static const struct zone *zone_around(const struct sweep *s, uint64_t time)
{
	size_t low = 0, high = s->zone_count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (s->zones[middle].from < time)
			low = middle + 1;
		else
			high = middle;
	}
	return low > 0 && time < s->zones[low - 1].until ? &s->zones[low - 1] : NULL;
}

static int inside_fault(struct sweep *s, const struct zone *z, const struct job *j)
{
	static const char *const what[] = {
		[JOB_IDS] = "all of id", [JOB_ZEROS] = "zeros written", [JOB_READ] = "zeros read"};
	char id[24] = "";
	if (j->kind == JOB_IDS)
		snprintf(id, sizeof(id), " %" PRIu64, j->id);
	return fault_set(s->history, s->fault, j->kind == JOB_READ ? HISTORY_ZEROS : HISTORY_STALE,
			 s->block, OPS4(z->first_op, j->last_op, j->first_op, z->last_op),
			 "id %" PRIu64 " was there by %" PRIu64 " and still from %" PRIu64
			 ", and %s%s falls between",
			 z->id, z->from, z->until, what[j->kind], id);
}

/* Cuts windows at the edges of zones and makes the moments. */
static int windows_cut(struct sweep *s)
{
	s->moment_count = 0;
	for (size_t i = 0; i < s->job_count; i++) {
		struct job *j = &s->jobs[i];
		const struct zone *begin = zone_around(s, j->from), *end = zone_around(s, j->until);
		uint64_t from = begin != NULL ? begin->until : j->from;
		uint64_t until = end != NULL ? end->from : j->until;
		if (from > until && j->must)
			return inside_fault(s, begin, j);
		if (from > until)
			continue;
		j->from = from;
		j->until = until;
		s->moments[s->moment_count++] = (struct moment){from, PHASE_BEGIN, i};
		s->moments[s->moment_count++] = (struct moment){until, PHASE_DUE, i};
	}
	for (size_t i = 0; i < s->zone_count; i++)
		s->moments[s->moment_count++] = (struct moment){s->zones[i].from, PHASE_ZONE, i};
	key3_sort(s->moments, s->moment_count, sizeof(*s->moments));
	return 0;
}

/* ---- the sweep ---- */

static bool is_due_before(const struct sweep *s, uint32_t a, uint32_t b)
{
	return s->jobs[a].until != s->jobs[b].until ? s->jobs[a].until < s->jobs[b].until : a < b;
}

static void heap_push(struct sweep *s, uint32_t job)
{
	size_t i = s->heap_count++;
	for (; i > 0 && is_due_before(s, job, s->heap[(i - 1) / 2]); i = (i - 1) / 2)
		s->heap[i] = s->heap[(i - 1) / 2];
	s->heap[i] = job;
}

static uint32_t heap_pop(struct sweep *s)
{
	uint32_t top = s->heap[0], job = s->heap[--s->heap_count];
	size_t i = 0;
	for (size_t child; (child = 2 * i + 1) < s->heap_count; i = child) {
		if (child + 1 < s->heap_count &&
		    is_due_before(s, s->heap[child + 1], s->heap[child]))
			child++;
		if (!is_due_before(s, s->heap[child], job))
			break;
		s->heap[i] = s->heap[child];
	}
	s->heap[i] = job;
	return top;
}

static void all_done(struct sweep *s, const uint32_t *jobs, size_t *count)
{
	for (size_t i = 0; i < *count; i++)
		s->jobs[jobs[i]].is_done = true;
	*count = 0;
}

/* Ids that wait go just before the zeros, reads that wait just after. */
static void zeros_put(struct sweep *s, struct job *zeros)
{
	zeros->is_done = true;
	all_done(s, s->ids_waiting, &s->id_count);
	all_done(s, s->reads_waiting, &s->read_count);
	s->is_zero = true;
	s->zeros_op = zeros->first_op;
}

static void ids_put(struct sweep *s, uint64_t id, uint32_t op)
{
	all_done(s, s->ids_waiting, &s->id_count);
	s->is_zero = false;
	s->covering_id = id;
	s->covering_op = op;
}

static void job_begin(struct sweep *s, uint32_t index)
{
	struct job *j = &s->jobs[index];
	if (j->kind == JOB_ZEROS)
		heap_push(s, index);
	else if ((j->kind == JOB_READ) == s->is_zero)
		j->is_done = true;
	else if (j->kind == JOB_READ)
		s->reads_waiting[s->read_count++] = index;
	else
		s->ids_waiting[s->id_count++] = index;
}

static int job_due(struct sweep *s, struct job *j)
{
	if (j->is_done)
		return 0;
	if (j->kind == JOB_IDS) {
		ids_put(s, j->id, j->first_op);
		return 0;
	}
	if (j->kind == JOB_ZEROS) {
		zeros_put(s, j);
		return 0;
	}
	while (s->heap_count > 0) {
		struct job *zeros = &s->jobs[heap_pop(s)];
		if (zeros->is_done)
			continue;
		zeros_put(s, zeros);
		return 0;
	}
	return fault_set(s->history, s->fault, HISTORY_ZEROS, s->block,
			 OPS4(s->covering_op, j->first_op, s->zeros_op, HISTORY_NO_OP),
			 "zeros were read, but id %" PRIu64
			 " was there before, and no zeros can have been written between",
			 s->covering_id);
}

static int block_sweep(struct sweep *s)
{
	s->is_zero = true;
	s->zeros_op = HISTORY_NO_OP;
	s->read_count = s->id_count = s->heap_count = 0;
	for (size_t i = 0; i < s->moment_count; i++) {
		const struct moment *m = &s->moments[i];
		int rc = 0;
		if (m->phase == PHASE_ZONE)
			ids_put(s, s->zones[m->index].id, s->zones[m->index].first_op);
		else if (m->phase == PHASE_BEGIN)
			job_begin(s, (uint32_t)m->index);
		else
			rc = job_due(s, &s->jobs[m->index]);
		if (rc < 0)
			return rc;
	}
	return 0;
}

/* pieces[0..count) are all of one block. */
static int block_check(struct sweep *s, const struct piece *pieces, size_t count)
{
	s->block = pieces[0].block;
	s->zone_count = s->job_count = 0;
	for (size_t i = 0, end; i < count; i = end) {
		int rc = 0;
		for (end = i + 1; end < count && pieces[end].id == pieces[i].id; end++)
			;
		if (pieces[i].id != 0)
			rc = cluster_add(s, &pieces[i], end - i);
		for (size_t k = i; pieces[i].id == 0 && k < end; k++)
			zeros_add(s, &pieces[k]);
		if (rc < 0)
			return rc;
	}
	int rc = zones_check(s);
	if (rc == 0)
		rc = windows_cut(s);
	return rc < 0 ? rc : block_sweep(s);
}

int history_check(const struct history *history, struct history_fault *ret)
{
	struct sweep s = {.history = history, .fault = ret};
	int rc = opens_make(history, &s.opens);
	if (rc == 0)
		rc = ops_check(history, &s.opens, ret);
	if (rc == 0)
		rc = sweep_make(&s);
	for (size_t i = 0, end; rc == 0 && i < s.piece_count; i = end) {
		for (end = i + 1; end < s.piece_count && s.pieces[end].block == s.pieces[i].block;
		     end++)
			;
		rc = block_check(&s, &s.pieces[i], end - i);
	}
	sweep_free(&s);
	return rc;
}
