/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random histories, and slow checkers that follow the model word by word: a search over every order.
 */
#ifndef HF_TESTS_HISTORY_HISTORY_RANDOM_H
#define HF_TESTS_HISTORY_HISTORY_RANDOM_H

#include "tests/history/history.h"

struct rng {
	uint64_t state;
};

static uint64_t rng_next(struct rng *rng)
{
	uint64_t x = rng->state += 0x9e3779b97f4a7c15ull;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

static uint64_t rng_below(struct rng *rng, uint64_t bound)
{
	return bound == 0 ? 0 : rng_next(rng) % bound;
}

/* ---- small ones, anything goes ---- */

#define SMALL_OPS_MAX 8

static void small_op(struct rng *rng, struct history *history, uint32_t index, bool log)
{
	struct history_op op = {.kind = (enum history_kind)rng_below(rng, 3),
				.request = index + 1,
				.session = 1 + rng_below(rng, 2),
				.block = rng_below(rng, log ? 2 : 1),
				.length_blocks = 1,
				.invoke_time = rng_below(rng, 16),
				.return_time = HISTORY_NEVER};
	uint64_t status = rng_below(rng, 8);
	op.status = status < 6 || op.kind == HISTORY_READ ? HISTORY_OK : HISTORY_UNKNOWN;
	if (status == 7 && rng_below(rng, 4) == 0)
		op.status = HISTORY_REFUSED;
	if (op.status == HISTORY_OK || op.status == HISTORY_REFUSED)
		op.return_time = op.invoke_time + rng_below(rng, 9);
	if (log && op.kind != HISTORY_READ && op.block == 0 && rng_below(rng, 2) == 0)
		op.length_blocks = 2;
	if (op.kind == HISTORY_WRITE)
		op.id = 10 * (index + 1);
	if (log && op.kind != HISTORY_READ && rng_below(rng, 30) != 0)
		op.seq = 1 + op.invoke_time / 2 + rng_below(rng, 4);
	history_op_add(history, &op);
}

/* A read of something that is there, most often. */
static void small_read(struct rng *rng, struct history *history, struct history_op *read)
{
	const struct history_op *of = &history->ops[rng_below(rng, history->op_count)];
	if (of->kind == HISTORY_WRITE && read->block >= of->block &&
	    read->block < of->block + of->length_blocks)
		read->id = of->id + (read->block - of->block);
}

static void small_draw(struct rng *rng, struct history *history, bool log)
{
	uint32_t count = 2 + (uint32_t)rng_below(rng, SMALL_OPS_MAX - 1);
	for (uint32_t i = 0; i < count; i++)
		small_op(rng, history, i, log);
	for (uint32_t i = 0; i < count; i++)
		if (history->ops[i].kind == HISTORY_READ)
			small_read(rng, history, &history->ops[i]);
	for (uint64_t session = 2; session < 4 && rng_below(rng, 2) == 0; session++)
		history_open_add(history, &(struct history_open){session, 4 + rng_below(rng, 24),
								 log ? rng_below(rng, 10) : 0});
}

/* ---- the search ---- */

struct step {
	uint64_t invoke_time, return_time;
	uint64_t block, length_blocks, id;
	uint64_t seq; /* of a write in the log's search: they are taken in this order */
	bool is_read, may_be_left_out;
};

struct search {
	struct step steps[SMALL_OPS_MAX];
	uint32_t count;
};

/* Takes any step that no other that is left must come before. */
static bool search_from(const struct search *s, uint32_t left, const uint64_t ids[2])
{
	if (left == 0)
		return true;
	for (uint32_t i = 0; i < s->count; i++) {
		const struct step *step = &s->steps[i];
		bool is_first = (left >> i & 1) != 0;
		for (uint32_t k = 0; k < s->count; k++) {
			const struct step *other = &s->steps[k];
			if ((left >> k & 1) != 0 && k != i &&
			    (other->return_time < step->invoke_time ||
			     (!other->is_read && !step->is_read && other->seq < step->seq)))
				is_first = false;
		}
		if ((left >> i & 1) != 0 && step->may_be_left_out &&
		    search_from(s, left & ~(1u << i), ids))
			return true;
		if (!is_first || (step->is_read && ids[step->block] != step->id))
			continue;
		uint64_t next[2] = {ids[0], ids[1]};
		for (uint64_t b = 0; !step->is_read && b < step->length_blocks; b++)
			next[step->block + b] = step->id == 0 ? 0 : step->id + b;
		if (search_from(s, left & ~(1u << i), next))
			return true;
	}
	return false;
}

static uint64_t bound_of(const struct history *history, uint64_t session)
{
	uint64_t bound = HISTORY_NEVER;
	for (uint32_t i = 0; i < history->open_count; i++)
		if (history->opens[i].session > session)
			bound = MIN(bound, history->opens[i].time);
	return bound;
}

static struct step step_of(const struct history *history, const struct history_op *op)
{
	return (struct step){.invoke_time = op->invoke_time,
			     .return_time =
				     MIN(op->status == HISTORY_OK ? op->return_time : HISTORY_NEVER,
					 bound_of(history, op->session)),
			     .block = op->block,
			     .length_blocks = op->length_blocks,
			     .id = op->id,
			     .is_read = op->kind == HISTORY_READ};
}

static bool search_run(const struct search *s)
{
	for (uint32_t i = 0; i < s->count; i++)
		if (s->steps[i].return_time < s->steps[i].invoke_time)
			return false;
	return search_from(s, (1u << s->count) - 1, (const uint64_t[2]){0, 0});
}

static bool search_clients(const struct history *history)
{
	struct search s = {0};
	for (uint32_t i = 0; i < history->op_count; i++) {
		const struct history_op *op = &history->ops[i];
		if (op->status == HISTORY_REFUSED ||
		    (op->status == HISTORY_UNKNOWN && op->kind == HISTORY_READ))
			continue;
		struct step step = step_of(history, op);
		step.may_be_left_out = op->status == HISTORY_UNKNOWN;
		if (step.may_be_left_out && step.return_time < step.invoke_time)
			continue; /* never */
		s.steps[s.count++] = step;
	}
	return search_run(&s);
}

/* In the log for good, or not; false in *legal when it cannot be either. */
static bool log_has(const struct history *history, const struct history_op *op, bool *legal)
{
	bool has = op->seq != 0;
	for (uint32_t i = 0; i < history->open_count; i++) {
		const struct history_open *open = &history->opens[i];
		if (open->session == op->session && op->seq != 0 && op->seq <= open->kept_seq)
			*legal = false;
		if (open->session > op->session && open->kept_seq < op->seq)
			has = false;
	}
	if (op->status == HISTORY_OK && !has)
		*legal = false;
	return has;
}

static bool search_log(const struct history *history)
{
	struct search s = {0};
	bool legal =
		history->open_count < 2 || history->opens[0].kept_seq <= history->opens[1].kept_seq;
	for (uint32_t i = 0; i < history->op_count; i++) {
		const struct history_op *op = &history->ops[i];
		struct step step = step_of(history, op);
		if (op->status == HISTORY_REFUSED ||
		    (op->kind == HISTORY_READ && op->status != HISTORY_OK))
			continue;
		if (op->kind != HISTORY_READ && !log_has(history, op, &legal))
			continue;
		step.seq = op->seq;
		/* What an open had is there by then. */
		for (uint32_t k = 0; k < history->open_count && !step.is_read; k++)
			if (history->opens[k].kept_seq >= op->seq)
				step.return_time = MIN(step.return_time, history->opens[k].time);
		for (uint32_t k = 0; k < s.count; k++)
			if (!step.is_read && !s.steps[k].is_read && s.steps[k].seq == step.seq)
				legal = false;
		s.steps[s.count++] = step;
	}
	return legal && search_run(&s);
}

/* ---- large ones: a disk, its log, its clients ---- */

#define DISK_BLOCKS  24
#define DISK_CLIENTS 8

struct disk {
	uint64_t ids[DISK_BLOCKS]; /* committed */
	uint32_t log[1 << 14];     /* operations by seq, from 1 */
	uint64_t logged, committed, session, time, next_id, next_request;
	struct {
		bool is_busy, is_logged;
		uint32_t op; /* of a read: the first of as many as blocks */
		uint64_t length;
	} clients[DISK_CLIENTS];
};

static void disk_apply(struct disk *d, const struct history *history)
{
	const struct history_op *op = &history->ops[d->log[++d->committed]];
	for (uint64_t b = 0; b < op->length_blocks; b++)
		d->ids[op->block + b] = op->id == 0 ? 0 : op->id + b;
}

static void client_invoke(struct rng *rng, struct disk *d, struct history *history, uint32_t c)
{
	uint64_t kind = rng_below(rng, 20), length = 1 + rng_below(rng, 4);
	struct history_op op = {.kind = kind < 10   ? HISTORY_READ
					: kind < 19 ? HISTORY_WRITE
						    : HISTORY_ZERO,
				.status = HISTORY_UNKNOWN,
				.client = c,
				.request = ++d->next_request,
				.session = d->session,
				.block = rng_below(rng, DISK_BLOCKS - 4),
				.length_blocks = length,
				.invoke_time = d->time,
				.return_time = HISTORY_NEVER};
	if (op.kind == HISTORY_WRITE) {
		op.id = d->next_id;
		d->next_id += length;
	}
	if (op.kind == HISTORY_READ)
		op.length_blocks = 1;
	d->clients[c].is_busy = true;
	d->clients[c].is_logged = false;
	d->clients[c].length = length;
	d->clients[c].op = history_op_add(history, &op);
	for (uint64_t b = 1; op.kind == HISTORY_READ && b < length; b++) {
		op.block++;
		history_op_add(history, &op);
	}
}

/* A read takes its blocks one by one; a write is logged, and returns when it is committed. */
static void client_go_on(struct rng *rng, struct disk *d, struct history *history, uint32_t c)
{
	uint32_t first = d->clients[c].op;
	struct history_op *op = &history->ops[first];
	if (op->kind == HISTORY_READ) {
		for (uint64_t b = 0; b < d->clients[c].length; b++)
			op[b].id = d->ids[op[b].block];
		for (uint64_t b = 0; b < d->clients[c].length && rng_below(rng, 2) == 0; b++) {
			op[b].status = HISTORY_OK; /* a piece may be told early */
			op[b].return_time = d->time;
		}
		for (uint64_t b = 0; b < d->clients[c].length; b++) {
			if (op[b].status != HISTORY_OK)
				op[b].return_time = d->time + rng_below(rng, 2);
			op[b].status = HISTORY_OK;
		}
		d->clients[c].is_busy = false;
		return;
	}
	if (!d->clients[c].is_logged) {
		d->clients[c].is_logged = true;
		op->seq = ++d->logged;
		d->log[op->seq] = first;
	} else if (op->seq <= d->committed) {
		op->status = HISTORY_OK;
		op->return_time = d->time;
		d->clients[c].is_busy = false;
	}
}

/* Some of the tail is kept. Answers of what is committed may come late; everything else is unknown. */
static void disk_open(struct rng *rng, struct disk *d, struct history *history)
{
	uint64_t kept = d->committed + rng_below(rng, d->logged - d->committed + 1);
	for (uint32_t c = 0; c < DISK_CLIENTS; c++) {
		struct history_op *op = &history->ops[d->clients[c].op];
		if (d->clients[c].is_busy && d->clients[c].is_logged && op->seq <= d->committed &&
		    rng_below(rng, 2) == 0) {
			op->status = HISTORY_OK;
			op->return_time = d->time + rng_below(rng, 1000);
		}
		d->clients[c].is_busy = false;
	}
	while (d->committed < kept)
		disk_apply(d, history);
	d->logged = kept;
	d->session++;
	history_open_add(history, &(struct history_open){d->session, d->time, kept});
}

static struct disk disk_run(struct rng *rng, struct history *history, uint32_t requests)
{
	struct disk d = {.session = 1, .next_id = 1};
	while (d.next_request < requests) {
		d.time += rng_below(rng, 3);
		uint32_t c = (uint32_t)rng_below(rng, DISK_CLIENTS);
		uint64_t what = rng_below(rng, 400);
		if (what == 0)
			disk_open(rng, &d, history);
		else if (what < 150 && d.committed < d.logged)
			disk_apply(&d, history);
		else if (d.clients[c].is_busy)
			client_go_on(rng, &d, history, c);
		else
			client_invoke(rng, &d, history, c);
	}
	while (d.committed < d.logged)
		disk_apply(&d, history);
	return d;
}

/* ---- mutations that no order can explain ---- */

enum mutation { MUTATE_STALE, MUTATE_THIN_AIR, MUTATE_FUTURE, MUTATE_SWAP, MUTATE_SEQ, MUTATIONS };

static bool op_covers(const struct history_op *op, uint64_t block)
{
	return op->kind != HISTORY_READ && block >= op->block &&
	       block < op->block + op->length_blocks;
}

/* A read whose value was replaced before it began, or was not yet there when it ended. */
static bool mutate_read(struct history *history, struct history_op *read, enum mutation m)
{
	for (uint32_t i = 0; i < history->op_count; i++) {
		const struct history_op *w = &history->ops[i];
		if (!op_covers(w, read->block) || w->kind != HISTORY_WRITE)
			continue;
		uint64_t id = w->id + (read->block - w->block);
		bool fits = m == MUTATE_FUTURE && w->invoke_time > read->return_time;
		for (uint32_t k = i + 1; m == MUTATE_STALE && k < history->op_count && !fits; k++) {
			const struct history_op *next = &history->ops[k];
			fits = op_covers(next, read->block) && next->status == HISTORY_OK &&
			       w->status == HISTORY_OK && w->return_time < next->invoke_time &&
			       next->return_time < read->invoke_time;
		}
		if (fits) {
			read->id = id;
			return true;
		}
	}
	return false;
}

/* Reads that follow one another and see two ids in order now see them the other way round. */
static bool mutate_swap(struct history *history, struct history_op *a)
{
	for (struct history_op *b = a + 1; b < history->ops + history->op_count; b++) {
		if (b->kind != HISTORY_READ || b->status != HISTORY_OK || b->block != a->block ||
		    b->invoke_time <= a->return_time || b->id == a->id || a->id == 0 || b->id == 0)
			continue;
		for (uint32_t i = 0; i < history->op_count; i++) {
			const struct history_op *w = &history->ops[i];
			/* b's write began after a had ended: a cannot have seen it */
			if (w->kind == HISTORY_WRITE && op_covers(w, b->block) &&
			    w->id + (b->block - w->block) == b->id &&
			    w->invoke_time > a->return_time) {
				uint64_t id = a->id;
				a->id = b->id;
				b->id = id;
				return true;
			}
		}
	}
	return false;
}

static bool mutate_seq(struct history *history, struct history_op *a)
{
	for (struct history_op *b = a + 1; b < history->ops + history->op_count; b++)
		if (b->kind != HISTORY_READ && b->status == HISTORY_OK &&
		    b->invoke_time > a->return_time && b->session == a->session) {
			uint64_t seq = a->seq;
			a->seq = b->seq;
			b->seq = seq;
			return true;
		}
	return false;
}

static bool mutate(struct rng *rng, struct history *history, enum mutation m)
{
	for (uint32_t tries = 0; tries < 100; tries++) {
		struct history_op *op = &history->ops[rng_below(rng, history->op_count)];
		if (op->status != HISTORY_OK || (op->kind == HISTORY_READ) == (m == MUTATE_SEQ))
			continue;
		if (m == MUTATE_THIN_AIR)
			op->id = UINT64_C(1) << 40;
		if (m == MUTATE_THIN_AIR || (m == MUTATE_SWAP && mutate_swap(history, op)) ||
		    (m == MUTATE_SEQ && mutate_seq(history, op)) ||
		    ((m == MUTATE_STALE || m == MUTATE_FUTURE) && mutate_read(history, op, m)))
			return true;
	}
	return false;
}

#endif
