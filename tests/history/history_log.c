/* SPDX-License-Identifier: Apache-2.0 */
/*
 * history_check_log: writes in the order of the log, reads put between them. The idea is in history.h.
 *
 * A place p stands for "entries up to p are applied". What bounds the place of a read: from below
 * everything that ended before it began (`floor`), from above that all entries up to p were invoked before it
 * ended.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "tests/history/history_int.h"

/* An operation that is in the log for good. Sorted by seq. */
struct entry {
	uint64_t seq, op;
	uint64_t latest_invoke; /* of all entries up to this one */
	uint64_t latest_op;
};

/* One block of an entry. Sorted by block and seq. */
struct place {
	uint64_t block, seq, id;
	uint32_t op;
	uint32_t next_zeros; /* index of this or the next place of the block with zeros, or count */
};

struct by_id {
	uint64_t block, id, place;
};

/* Below this place nothing can be any more, and who said so: an operation, or an open if none. */
struct floor {
	uint64_t seq;
	uint32_t op;
};

struct moment {
	uint64_t time,
		is_end; /* what begins at a time is before what ends then: it may be in either order */
	uint64_t what; /* an operation, or behind those an open */
};

struct log {
	const struct history *history;
	struct history_fault *fault;
	struct opens opens;
	struct touched touched;
	struct entry *entries;
	struct place *places;
	struct by_id *ids;
	struct moment *moments;
	struct floor *floors; /* of each operation, as it began */
	size_t entry_count, place_count, id_count, moment_count;
	struct floor floor;
};

static void log_free(struct log *l)
{
	opens_free(&l->opens);
	free(l->touched.blocks);
	free(l->entries);
	free(l->places);
	free(l->ids);
	free(l->moments);
	free(l->floors);
}

#define NONE HISTORY_NO_OP

static const struct history_op *op_of(const struct log *l, uint64_t index)
{
	return &l->history->ops[index];
}

/* ---- what is in the log ---- */

static int opens_check(struct log *l)
{
	for (uint32_t i = 1; i < l->opens.count; i++) {
		const struct history_open *a = &l->opens.sorted[i - 1], *b = &l->opens.sorted[i];
		if (b->kept_seq < a->kept_seq)
			return fault_set(l->history, l->fault, HISTORY_LOST, HISTORY_NEVER,
					 OPS4(NONE, NONE, NONE, NONE),
					 "session %" PRIu64 " opened with %" PRIu64
					 " entries, session %" PRIu64 " before it with %" PRIu64,
					 b->session, b->kept_seq, a->session, a->kept_seq);
	}
	return 0;
}

/* What the operation's own session kept when it opened; its entries come after. */
static uint64_t own_kept(const struct log *l, uint64_t session)
{
	uint32_t after = opens_after(&l->opens, session);
	if (after > 0 && l->opens.sorted[after - 1].session == session)
		return l->opens.sorted[after - 1].kept_seq;
	return 0;
}

/* The open that dropped it, or NULL. Later opens kept no less than the first. */
static const struct history_open *dropped_by(const struct log *l, const struct history_op *op)
{
	uint32_t after = opens_after(&l->opens, op->session);
	if (after < l->opens.count && l->opens.sorted[after].kept_seq < op->seq)
		return &l->opens.sorted[after];
	return NULL;
}

static bool is_in_log(const struct log *l, const struct history_op *op)
{
	return op->kind != HISTORY_READ && op->status != HISTORY_REFUSED && op->seq != 0 &&
	       dropped_by(l, op) == NULL;
}

static int entry_check(struct log *l, uint32_t index)
{
	const struct history_op *op = op_of(l, index);
	const uint32_t *ops = OPS4(index, NONE, NONE, NONE);
	if (op->kind == HISTORY_READ || op->status == HISTORY_REFUSED)
		return 0;
	const struct history_open *open = dropped_by(l, op);
	if (op->status == HISTORY_OK && op->seq == 0)
		return fault_set(l->history, l->fault, HISTORY_LOST, op->block, ops,
				 "acknowledged, but it has no place in the log");
	if (op->seq != 0 && op->seq <= own_kept(l, op->session))
		return fault_set(l->history, l->fault, HISTORY_ORDER, op->block, ops,
				 "seq %" PRIu64 " was given by session %" PRIu64
				 ", which had opened with %" PRIu64 " entries",
				 op->seq, op->session, own_kept(l, op->session));
	if (op->status == HISTORY_OK && open != NULL)
		return fault_set(l->history, l->fault, HISTORY_LOST, op->block, ops,
				 "acknowledged as seq %" PRIu64 ", but session %" PRIu64
				 " opened with %" PRIu64 " entries",
				 op->seq, open->session, open->kept_seq);
	return 0;
}

static int entries_make(struct log *l)
{
	l->entries = malloc((l->history->op_count + 1u) * sizeof(*l->entries));
	if (l->entries == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < l->history->op_count; i++) {
		int rc = entry_check(l, i);
		if (rc < 0)
			return rc;
		if (is_in_log(l, op_of(l, i)))
			l->entries[l->entry_count++] =
				(struct entry){.seq = op_of(l, i)->seq, .op = i};
	}
	key3_sort(l->entries, l->entry_count, sizeof(*l->entries));
	for (size_t i = 0; i < l->entry_count; i++) {
		struct entry *e = &l->entries[i];
		const struct history_op *op = op_of(l, e->op);
		e->latest_invoke = op->invoke_time;
		e->latest_op = e->op;
		if (i == 0)
			continue;
		const struct entry *before = &l->entries[i - 1];
		const struct history_op *twin = op_of(l, before->op);
		if (before->seq == e->seq &&
		    (twin->request != op->request || twin->client != op->client ||
		     twin->session != op->session))
			return fault_set(l->history, l->fault, HISTORY_TWICE, op->block,
					 OPS4((uint32_t)before->op, (uint32_t)e->op, NONE, NONE),
					 "seq %" PRIu64 " was given to two requests", e->seq);
		if (before->latest_invoke > e->latest_invoke) {
			e->latest_invoke = before->latest_invoke;
			e->latest_op = before->latest_op;
		}
	}
	return 0;
}

/* The last entry up to a place, or NULL. */
static const struct entry *entry_at(const struct log *l, uint64_t seq)
{
	size_t low = 0, high = l->entry_count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (l->entries[middle].seq <= seq)
			low = middle + 1;
		else
			high = middle;
	}
	return low > 0 ? &l->entries[low - 1] : NULL;
}

/* ---- blocks ---- */

/* Every write with an id, in the log or not, so that a read of one that is not can say which. */
static void op_places(struct log *l, uint32_t index, bool store)
{
	const struct history_op *op = op_of(l, index);
	bool is_in = is_in_log(l, op);
	size_t first = 0, end = 0;
	if (op->kind != HISTORY_READ)
		touched_range(&l->touched, op, &first, &end);
	for (size_t i = first; i < end; i++) {
		uint64_t block = l->touched.blocks[i];
		if (store && op->id != 0)
			l->ids[l->id_count] = (struct by_id){block, op_id_at(op, block), index};
		if (store && is_in)
			l->places[l->place_count] = (struct place){.block = block,
								   .seq = op->seq,
								   .id = op_id_at(op, block),
								   .op = index};
		l->id_count += op->id != 0;
		l->place_count += is_in;
	}
}

static int places_make(struct log *l)
{
	int rc = touched_make(l->history, &l->touched);
	if (rc < 0)
		return rc;
	for (uint32_t i = 0; i < l->history->op_count; i++)
		op_places(l, i, false);
	l->places = malloc((l->place_count + 1) * sizeof(*l->places));
	l->ids = malloc((l->id_count + 1) * sizeof(*l->ids));
	if (l->places == NULL || l->ids == NULL || l->place_count >= UINT32_MAX)
		return -ENOMEM;
	l->place_count = l->id_count = 0;
	for (uint32_t i = 0; i < l->history->op_count; i++)
		op_places(l, i, true);
	key3_sort(l->places, l->place_count, sizeof(*l->places));
	key3_sort(l->ids, l->id_count, sizeof(*l->ids));
	for (size_t i = l->place_count; i-- > 0;) {
		struct place *p = &l->places[i];
		bool is_last = i + 1 == l->place_count || p[1].block != p->block;
		p->next_zeros = p->id == 0 ? (uint32_t)i
				: is_last  ? (uint32_t)l->place_count
					   : p[1].next_zeros;
	}
	return 0;
}

/* How many places are below (block, seq], that is, the last of them is the block's state there. */
static size_t places_until(const struct log *l, uint64_t block, uint64_t seq)
{
	size_t low = 0, high = l->place_count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct place *p = &l->places[middle];
		if (p->block < block || (p->block == block && p->seq <= seq))
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* The place of a block of an entry. */
static const struct place *place_of(const struct log *l, uint64_t block, uint64_t seq)
{
	size_t until = places_until(l, block, seq);
	const struct place *p = until > 0 ? &l->places[until - 1] : NULL;
	return p != NULL && p->block == block && p->seq == seq ? p : NULL;
}

static const struct by_id *id_find(const struct log *l, uint64_t block, uint64_t id)
{
	size_t low = 0, high = l->id_count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct by_id *at = &l->ids[middle];
		if (at->block < block || (at->block == block && at->id < id))
			low = middle + 1;
		else
			high = middle;
	}
	return low < l->id_count && l->ids[low].block == block && l->ids[low].id == id
		       ? &l->ids[low]
		       : NULL;
}

static int ids_check(struct log *l)
{
	for (size_t i = 1; i < l->id_count; i++) {
		const struct by_id *a = &l->ids[i - 1], *b = &l->ids[i];
		if (a->block == b->block && a->id == b->id)
			return fault_set(l->history, l->fault, HISTORY_TWICE, a->block,
					 OPS4((uint32_t)a->place, (uint32_t)b->place, NONE, NONE),
					 "id %" PRIu64 " was written twice", a->id);
	}
	return 0;
}

/* ---- reads ---- */

static int unlogged_fault(struct log *l, uint64_t block, uint32_t read, uint32_t write)
{
	const struct history_op *op = op_of(l, write);
	uint64_t id = op_id_at(op, block);
	const struct history_open *open = dropped_by(l, op);
	const uint32_t *ops = OPS4(write, read, NONE, NONE);
	if (op->status == HISTORY_REFUSED)
		return fault_set(l->history, l->fault, HISTORY_REFUSED_SEEN, block, ops,
				 "id %" PRIu64 " was read, but its write was refused", id);
	if (op->seq == 0)
		return fault_set(l->history, l->fault, HISTORY_FOREIGN, block, ops,
				 "id %" PRIu64 " was read, but its write got no place in the log",
				 id);
	return fault_set(l->history, l->fault, HISTORY_FOREIGN, block, ops,
			 "id %" PRIu64 " was read, but session %" PRIu64 " opened with %" PRIu64
			 " entries, without its write",
			 id, open->session, open->kept_seq);
}

/* Sets *place to the lowest at which the block has the id; below the floor it stands for the floor. */
static int id_place(struct log *l, uint64_t block, uint64_t id, uint32_t read, uint64_t *place)
{
	const struct floor *floor = &l->floors[read];
	const struct by_id *at = id_find(l, block, id);
	if (at == NULL)
		return fault_set(l->history, l->fault, HISTORY_FOREIGN, block,
				 OPS4(read, NONE, NONE, NONE),
				 "id %" PRIu64 " was read, but nobody wrote it there", id);
	uint32_t write = (uint32_t)at->place;
	if (!is_in_log(l, op_of(l, write)))
		return unlogged_fault(l, block, read, write);
	const struct place *p = place_of(l, block, op_of(l, write)->seq);
	if (p + 1 < l->places + l->place_count && p[1].block == block && p[1].seq <= floor->seq)
		return fault_set(l->history, l->fault, HISTORY_STALE, block,
				 OPS4(write, p[1].op, floor->op, read),
				 "id %" PRIu64 " (seq %" PRIu64
				 ") was read, replaced at seq %" PRIu64
				 ", when all up to seq %" PRIu64 " was there before the read began",
				 id, p->seq, p[1].seq, floor->seq);
	*place = p->seq;
	return 0;
}

static int zeros_place(struct log *l, uint64_t block, uint32_t read, uint64_t *place)
{
	const struct floor *floor = &l->floors[read];
	size_t until = places_until(l, block, floor->seq);
	const struct place *p = until > 0 ? &l->places[until - 1] : NULL;
	*place = floor->seq;
	if (p == NULL || p->block != block || p->id == 0)
		return 0;
	if (p->next_zeros == l->place_count)
		return fault_set(l->history, l->fault, HISTORY_ZEROS, block,
				 OPS4(p->op, floor->op, read, NONE),
				 "zeros were read, but id %" PRIu64 " is there from seq %" PRIu64
				 " and all up to seq %" PRIu64 " was there before the read began",
				 p->id, p->seq, floor->seq);
	*place = l->places[p->next_zeros].seq;
	return 0;
}

/* The end of a read: each of its blocks gets a place. */
static int read_end(struct log *l, uint32_t read, uint64_t end_time)
{
	const struct history_op *op = op_of(l, read);
	size_t first, end;
	touched_range(&l->touched, op, &first, &end);
	for (size_t i = first; i < end; i++) {
		uint64_t block = l->touched.blocks[i], id = op_id_at(op, block), place = 0;
		int rc = id == 0 ? zeros_place(l, block, read, &place)
				 : id_place(l, block, id, read, &place);
		if (rc < 0)
			return rc;
		const struct entry *e = place > l->floors[read].seq ? entry_at(l, place) : NULL;
		if (e != NULL && e->latest_invoke > end_time)
			return fault_set(l->history, l->fault, HISTORY_FUTURE, block,
					 OPS4((uint32_t)entry_at(l, place)->op,
					      (uint32_t)e->latest_op, read, NONE),
					 "what was read is there from seq %" PRIu64
					 ", but seq %" PRIu64
					 " was invoked after the read had ended",
					 place, op_of(l, e->latest_op)->seq);
		if (place > l->floor.seq)
			l->floor = (struct floor){place, read};
	}
	return 0;
}

/* ---- in time ---- */

static int write_begin(struct log *l, uint32_t index)
{
	const struct history_op *op = op_of(l, index);
	const struct floor *floor = &l->floor;
	if (op->seq > floor->seq)
		return 0;
	if (floor->op == NONE)
		return fault_set(l->history, l->fault, HISTORY_FENCED, op->block,
				 OPS4(index, NONE, NONE, NONE),
				 "invoked at %" PRIu64
				 ", but an open before that had all up to seq %" PRIu64,
				 op->invoke_time, floor->seq);
	return fault_set(l->history, l->fault, HISTORY_ORDER, op->block,
			 OPS4(floor->op, index, NONE, NONE),
			 "seq %" PRIu64 " was invoked after all up to seq %" PRIu64 " was there",
			 op->seq, floor->seq);
}

static void moment_add(struct log *l, uint64_t time, bool is_end, uint64_t what)
{
	l->moments[l->moment_count++] = (struct moment){time, is_end, what};
}

static int moments_make(struct log *l)
{
	uint32_t ops = l->history->op_count;
	l->moments = malloc((2u * (size_t)ops + l->opens.count + 1) * sizeof(*l->moments));
	l->floors = malloc((ops + 1u) * sizeof(*l->floors));
	if (l->moments == NULL || l->floors == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < ops; i++) {
		const struct history_op *op = op_of(l, i);
		if (op->kind == HISTORY_READ ? op->status != HISTORY_OK : !is_in_log(l, op))
			continue;
		moment_add(l, op->invoke_time, false, i);
		if (op->status == HISTORY_OK)
			moment_add(l, MIN(op->return_time, opens_bound(&l->opens, op->session)),
				   true, i);
	}
	for (uint32_t i = 0; i < l->opens.count; i++)
		moment_add(l, l->opens.sorted[i].time, true, (uint64_t)ops + i);
	key3_sort(l->moments, l->moment_count, sizeof(*l->moments));
	l->floor = (struct floor){0, NONE};
	return 0;
}

static int moment_step(struct log *l, const struct moment *m)
{
	if (m->what >= l->history->op_count) {
		uint64_t kept = l->opens.sorted[m->what - l->history->op_count].kept_seq;
		if (kept > l->floor.seq)
			l->floor = (struct floor){kept, NONE};
		return 0;
	}
	uint32_t index = (uint32_t)m->what;
	const struct history_op *op = op_of(l, index);
	if (!m->is_end) {
		l->floors[index] = l->floor;
		return op->kind == HISTORY_READ ? 0 : write_begin(l, index);
	}
	if (op->kind == HISTORY_READ)
		return read_end(l, index, m->time);
	if (op->seq > l->floor.seq)
		l->floor = (struct floor){op->seq, index};
	return 0;
}

int history_check_log(const struct history *history, struct history_fault *ret)
{
	struct log l = {.history = history, .fault = ret};
	int rc = opens_make(history, &l.opens);
	if (rc == 0)
		rc = ops_check(history, &l.opens, ret);
	if (rc == 0)
		rc = opens_check(&l);
	if (rc == 0)
		rc = entries_make(&l);
	if (rc == 0)
		rc = places_make(&l);
	if (rc == 0)
		rc = ids_check(&l);
	if (rc == 0)
		rc = moments_make(&l);
	for (size_t i = 0; rc == 0 && i < l.moment_count; i++)
		rc = moment_step(&l, &l.moments[i]);
	log_free(&l);
	return rc;
}

int history_mirror(const struct history *history, struct history_cell **ret, size_t *count)
{
	struct log l = {.history = history};
	struct history_cell *cells = NULL;
	int rc = opens_make(history, &l.opens);
	if (rc == 0)
		rc = places_make(&l);
	if (rc == 0)
		cells = malloc((l.touched.count + 1) * sizeof(*cells));
	if (cells == NULL) {
		log_free(&l);
		return -ENOMEM;
	}
	for (size_t i = 0; i < l.touched.count; i++) {
		uint64_t block = l.touched.blocks[i];
		size_t until = places_until(&l, block, UINT64_MAX);
		const struct place *p = until > 0 ? &l.places[until - 1] : NULL;
		cells[i] = (struct history_cell){block, p != NULL && p->block == block ? p->id : 0};
	}
	*ret = cells;
	*count = l.touched.count;
	log_free(&l);
	return 0;
}
