/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Each upper request becomes one op from a pool. An op covers the upper range rounded outwards to
 * whole blocks (TRIM: inwards) and cuts it into pieces that the lower device takes.
 *
 *     submit -> [no op free: backlog] -> changes: [ordered] -> [no edge pages: edge_waiters]
 *            -> read edges -> write / zero pieces -> done
 *
 * A1  A partial op is a WRITE or ZERO whose first or last block is covered in part. Between
 *     reading an edge and the end of writing it back, no other change of that block is below.
 * A2  Two changes that overlap (in whole blocks) conflict when one of them is partial, or not
 *     all pieces of the earlier one are below yet. The later one waits for the end of the
 *     earlier one. So changes of the same block reach the lower device in order of submission,
 *     and the lower device keeps that order (B2).
 * A3  `deps` of an op is the number of earlier changes it waits for. An op that ends subtracts
 *     itself from the later ops that counted it; conflict() gives the same answer both times,
 *     because below_order records whether the earlier one was all below back then.
 *     Waiting goes from later to earlier only, so there is no cycle and no deadlock.
 * A4  An op waits for edge pages only when its deps are 0; holders of edge pages need nothing
 *     but the lower device, so they end and the pages come back.
 * A5  READ needs neither order nor edge pages: the request's own pages (B1) take whole blocks.
 *
 * The scans are skipped while no op is blocking, which is always so for a client that sends
 * aligned requests of at most BLOCKDEV_ALIGN_PIECES pieces.
 */
#include "volmgr/blockdev_align.h"

#include <errno.h>
#include <stdlib.h>

#define EDGE_PAGES 2 /* first block, last block */

struct align_op;
struct piece {
	struct blockdev_req req;
	struct align_op *op;
};

enum phase { PHASE_READ_EDGES, PHASE_BODY };

struct align_op {
	struct blockdev_align *align;
	struct list link;      /* free_ops, or changes */
	struct list edge_link; /* edge_waiters */
	struct blockdev_req *upper;
	uint64_t start_bytes; /* rounded range */
	uint64_t end_bytes;
	uint64_t next_bytes; /* where the next body piece starts */
	uint64_t body_end_bytes;
	uint64_t order;       /* number of submission */
	uint64_t below_order; /* order_next when its last piece went below; UINT64_MAX before */
	uint32_t deps;
	uint32_t active; /* pieces below */
	enum phase phase;
	bool change;
	bool blocking; /* partial, or not all below yet: later overlapping changes wait */
	bool head_partial;
	bool tail_partial; /* of another block than the head's */
	int status;        /* first error */
	uint8_t *edges;    /* EDGE_PAGES pages while needed */
	struct piece pieces[BLOCKDEV_ALIGN_PIECES];
	bool piece_busy[BLOCKDEV_ALIGN_PIECES];
};

struct blockdev_align {
	struct blockdev dev;
	struct env *env;
	struct blockdev *lower;
	struct blockdev_align_config config;
	uint32_t lower_payload_max_bytes; /* multiples of a block */
	uint64_t lower_span_max_bytes;
	struct align_op *ops;
	struct list free_ops;
	struct list backlog; /* upper requests without an op */
	struct list changes; /* ops in order of submission, waiting or below */
	struct list edge_waiters;
	struct list finished; /* upper requests for the timer; engine[0] is the status */
	struct env_timer timer;
	uint64_t order_next;
	uint32_t blocking_count; /* in changes */
	uint32_t waiting_count;  /* in changes, with deps > 0 */
	uint32_t used;           /* ops in use */
	uint8_t *edge_memory;
	uint8_t **edge_free; /* stack */
	uint32_t edge_free_count;
};

static void op_advance(struct align_op *op);
static void read_edges(struct align_op *op);
static void op_submit(struct blockdev_align *align, struct blockdev_req *upper);

static bool partial(const struct align_op *op)
{
	return op->head_partial || op->tail_partial;
}

/* A2, A3: does `later` wait for `earlier`? Both in changes; deps of later as of its submission. */
static bool conflict(const struct align_op *earlier, const struct align_op *later)
{
	if (earlier->start_bytes >= later->end_bytes || later->start_bytes >= earlier->end_bytes)
		return false;
	return partial(earlier) || partial(later) || earlier->below_order > later->order;
}

/* ---- ends ---- */

static void finish_later(struct blockdev_align *align, struct blockdev_req *upper, int status)
{
	upper->engine[0] = (uint64_t)(int64_t)status;
	list_push_back(&align->finished, &upper->link);
	if (!env_timer_armed(&align->timer))
		env_timer_after(align->env, &align->timer, 0);
}

static void run_finished(struct env_timer *timer)
{
	struct blockdev_align *align = CONTAINER_OF(timer, struct blockdev_align, timer);
	struct list batch;
	list_init(&batch);
	list_splice_back(&batch, &align->finished);
	struct list *link;
	while ((link = list_pop_front(&batch)) != NULL) {
		struct blockdev_req *upper = CONTAINER_OF(link, struct blockdev_req, link);
		upper->done(upper, (int)(int64_t)upper->engine[0]);
	}
}

static void op_start(struct align_op *op)
{
	struct blockdev_align *align = op->align;
	if (!partial(op)) {
		op_advance(op);
	} else if (align->edge_free_count == 0) {
		list_push_back(&align->edge_waiters, &op->edge_link);
	} else {
		op->edges = align->edge_free[--align->edge_free_count];
		read_edges(op);
	}
}

static void edges_release(struct align_op *op)
{
	struct blockdev_align *align = op->align;
	if (!op->edges)
		return;
	align->edge_free[align->edge_free_count++] = take(op->edges);
	struct list *link = list_pop_front(&align->edge_waiters);
	if (!link)
		return;
	struct align_op *next = CONTAINER_OF(link, struct align_op, edge_link);
	next->edges = align->edge_free[--align->edge_free_count];
	read_edges(next);
}

/* Takes a finished change out of the order and starts what waited for it alone. */
static void change_leave(struct align_op *op)
{
	struct blockdev_align *align = op->align;
	struct list *next = op->link.next, ready;
	list_init(&ready);
	list_remove(&op->link);
	align->blocking_count -= op->blocking;
	while (align->waiting_count > 0 && next != &align->changes) {
		struct align_op *later = CONTAINER_OF(next, struct align_op, link);
		next = next->next;
		if (later->deps == 0 || !conflict(op, later))
			continue;
		if (--later->deps > 0)
			continue;
		align->waiting_count--;
		list_push_back(&ready, &later->edge_link);
	}
	struct list *link;
	while ((link = list_pop_front(&ready)) != NULL)
		op_start(CONTAINER_OF(link, struct align_op, edge_link));
}

static void op_finish(struct align_op *op)
{
	struct blockdev_align *align = op->align;
	struct blockdev_req *upper = op->upper;
	int status = op->status;
	edges_release(op);
	if (op->change)
		change_leave(op);
	list_push_front(&align->free_ops, &op->link);
	align->used--;
	struct list *link = list_pop_front(&align->backlog);
	if (link)
		op_submit(align, CONTAINER_OF(link, struct blockdev_req, link));
	upper->done(upper, status);
}

/* ---- pieces ---- */

static void status_clip(struct align_op *op, const struct blockdev_req *piece)
{
	struct blockdev_req *upper = op->upper;
	uint64_t skip = upper->offset_bytes - op->start_bytes, left = upper->length_bytes;
	upper->extents_count = 0;
	for (uint32_t i = 0; i < piece->extents_count && left > 0; i++) {
		struct blockdev_extent extent = upper->extents[i];
		uint64_t dropped = MIN(skip, extent.length_bytes);
		skip -= dropped;
		extent.length_bytes = MIN(extent.length_bytes - dropped, left);
		left -= extent.length_bytes;
		if (extent.length_bytes > 0)
			upper->extents[upper->extents_count++] = extent;
	}
	if (upper->extents_count == 0)
		op->status = -EIO; /* the lower device broke its contract */
}

static void piece_done(struct blockdev_req *req, int status)
{
	struct piece *piece = CONTAINER_OF(req, struct piece, req);
	struct align_op *op = piece->op;
	op->piece_busy[piece - op->pieces] = false;
	op->active--;
	if (status < 0 && op->status == 0)
		op->status = status;
	if (req->op == BLOCKDEV_STATUS && status == 0)
		status_clip(op, req);
	op_advance(op);
}

static void piece_submit(struct align_op *op, enum blockdev_op kind, uint64_t offset_bytes,
			 uint64_t length_bytes, void *buf)
{
	uint32_t i = 0;
	while (op->piece_busy[i])
		i++;
	assert(i < BLOCKDEV_ALIGN_PIECES);
	struct piece *piece = &op->pieces[i];
	struct blockdev_req *upper = op->upper;
	op->piece_busy[i] = true;
	op->active++;
	piece->op = op;
	piece->req = (struct blockdev_req){
		.op = kind,
		.flags = kind == BLOCKDEV_READ ? 0 : upper->flags,
		.offset_bytes = offset_bytes,
		.length_bytes = length_bytes,
		.buf = buf,
		.extents = upper->extents,
		.extents_max = upper->extents_max,
		.done = piece_done,
	};
	if (kind == BLOCKDEV_WRITE)
		piece->req.flags &= BLOCKDEV_FUA;
	blockdev_submit(op->align->lower, &piece->req);
}

static uint64_t tail_block(const struct align_op *op)
{
	return op->end_bytes - BLOCK_BYTES;
}

static void read_edges(struct align_op *op)
{
	if (op->head_partial)
		piece_submit(op, BLOCKDEV_READ, op->start_bytes, BLOCK_BYTES, op->edges);
	if (op->tail_partial)
		piece_submit(op, BLOCKDEV_READ, tail_block(op), BLOCK_BYTES,
			     op->edges + BLOCK_BYTES);
}

/* WRITE: the old bytes around the payload go into the payload's own pages (B1). */
static void merge_write(struct align_op *op)
{
	const struct blockdev_req *upper = op->upper;
	uint64_t upper_end = upper->offset_bytes + upper->length_bytes;
	uint8_t *base = (uint8_t *)upper->buf - (upper->offset_bytes - op->start_bytes);
	const uint8_t *last = op->tail_partial ? op->edges + BLOCK_BYTES : op->edges;
	uint64_t after = op->end_bytes - upper_end;
	if (op->head_partial)
		memcpy(base, op->edges, upper->offset_bytes - op->start_bytes);
	memcpy(base + (upper_end - op->start_bytes), last + (BLOCK_BYTES - after), after);
	edges_release(op);
}

/* ZERO: clears the covered bytes of the edge blocks; they are written back as data. */
static void merge_zero(struct align_op *op)
{
	const struct blockdev_req *upper = op->upper;
	uint64_t upper_end = upper->offset_bytes + upper->length_bytes;
	if (op->head_partial) {
		uint64_t from = upper->offset_bytes - op->start_bytes;
		uint64_t to = MIN(upper_end - op->start_bytes, (uint64_t)BLOCK_BYTES);
		memset(op->edges + from, 0, to - from);
	}
	if (op->tail_partial)
		memset(op->edges + BLOCK_BYTES, 0, upper_end - tail_block(op));
}

static void write_zero_edges(struct align_op *op)
{
	if (op->head_partial)
		piece_submit(op, BLOCKDEV_WRITE, op->start_bytes, BLOCK_BYTES, op->edges);
	if (op->tail_partial)
		piece_submit(op, BLOCKDEV_WRITE, tail_block(op), BLOCK_BYTES,
			     op->edges + BLOCK_BYTES);
}

static void body_begin(struct align_op *op)
{
	enum blockdev_op kind = op->upper->op;
	op->phase = PHASE_BODY;
	op->next_bytes = op->start_bytes;
	op->body_end_bytes = op->end_bytes;
	if (!partial(op))
		return;
	if (kind == BLOCKDEV_WRITE) {
		merge_write(op);
		return;
	}
	merge_zero(op);
	op->next_bytes += op->head_partial ? BLOCK_BYTES : 0;
	op->body_end_bytes -= op->tail_partial ? BLOCK_BYTES : 0;
	write_zero_edges(op);
}

static void body_piece(struct align_op *op)
{
	struct blockdev_align *align = op->align;
	struct blockdev_req *upper = op->upper;
	bool payload = upper->op == BLOCKDEV_READ || upper->op == BLOCKDEV_WRITE;
	uint64_t max = payload ? align->lower_payload_max_bytes : align->lower_span_max_bytes;
	if (upper->op == BLOCKDEV_STATUS)
		max = UINT64_MAX;
	uint64_t offset = op->next_bytes, length = MIN(op->body_end_bytes - offset, max);
	uint8_t *buf = NULL;
	if (payload)
		buf = (uint8_t *)upper->buf - (upper->offset_bytes - op->start_bytes) +
		      (offset - op->start_bytes);
	op->next_bytes += length;
	if (upper->op == BLOCKDEV_FLUSH)
		length = 0;
	piece_submit(op, upper->op, offset, length, buf);
}

/* Moves an op on as far as it goes: more pieces below, next phase, or its end. */
static void op_advance(struct align_op *op)
{
	if (op->phase == PHASE_READ_EDGES) {
		if (op->active > 0)
			return;
		if (op->status == 0)
			body_begin(op);
	}
	while (op->status == 0 && op->next_bytes < op->body_end_bytes &&
	       op->active < BLOCKDEV_ALIGN_PIECES)
		body_piece(op);
	if (op->change && op->blocking && !partial(op) && op->next_bytes == op->body_end_bytes) {
		op->blocking = false;
		op->below_order = op->align->order_next;
		op->align->blocking_count--;
	}
	if (op->active == 0)
		op_finish(op);
}

/* ---- submission ---- */

static void op_range_set(struct align_op *op)
{
	const struct blockdev_req *upper = op->upper;
	uint64_t start = upper->offset_bytes, end = start + upper->length_bytes;
	op->start_bytes = start / BLOCK_BYTES * BLOCK_BYTES;
	op->end_bytes = ALIGN_UP(end, (uint64_t)BLOCK_BYTES);
	op->head_partial = op->tail_partial = false;
	if (upper->op == BLOCKDEV_FLUSH)
		op->end_bytes = op->start_bytes + BLOCK_BYTES; /* one piece, sent with length 0 */
	if (upper->op == BLOCKDEV_WRITE || upper->op == BLOCKDEV_ZERO) {
		bool one_block = op->end_bytes - op->start_bytes == BLOCK_BYTES;
		op->head_partial = start != op->start_bytes || (one_block && end != op->end_bytes);
		op->tail_partial = !one_block && end != op->end_bytes;
	} else if (upper->op == BLOCKDEV_TRIM) {
		op->start_bytes = ALIGN_UP(start, (uint64_t)BLOCK_BYTES);
		op->end_bytes = end / BLOCK_BYTES * BLOCK_BYTES;
	}
}

/* Counts what the new change must wait for; it is not in the list yet. */
static uint32_t count_deps(const struct blockdev_align *align, const struct align_op *op)
{
	uint32_t deps = 0;
	if (align->blocking_count == 0 && !partial(op))
		return 0;
	list_for_each (link, &align->changes)
		deps += conflict(CONTAINER_OF(link, struct align_op, link), op);
	return deps;
}

/* An op is free. */
static void op_submit(struct blockdev_align *align, struct blockdev_req *upper)
{
	struct align_op *op = CONTAINER_OF(list_pop_front(&align->free_ops), struct align_op, link);
	align->used++;
	op->upper = upper;
	op->order = align->order_next++;
	op->below_order = UINT64_MAX;
	op->deps = op->active = 0;
	op->change = blockdev_op_changes(upper->op);
	op->status = 0;
	op_range_set(op);
	op->phase = partial(op) ? PHASE_READ_EDGES : PHASE_BODY;
	op->next_bytes = op->start_bytes;
	op->body_end_bytes = op->end_bytes;
	if (op->change) {
		op->deps = count_deps(align, op);
		list_push_back(&align->changes, &op->link);
		op->blocking = true;
		align->blocking_count++;
		if (op->deps > 0) {
			align->waiting_count++;
			return;
		}
	}
	op_start(op);
}

static void align_info(struct blockdev *dev, struct blockdev_info *ret)
{
	struct blockdev_align *align = CONTAINER_OF(dev, struct blockdev_align, dev);
	blockdev_info_get(align->lower, ret);
	ret->block_min_bytes = 1;
	ret->payload_max_bytes = align->config.payload_max_bytes;
	ret->span_max_bytes = UINT64_MAX;
}

static bool trims_nothing(const struct blockdev_req *upper)
{
	uint64_t end = upper->offset_bytes + upper->length_bytes;
	return upper->op == BLOCKDEV_TRIM && ALIGN_UP(upper->offset_bytes, (uint64_t)BLOCK_BYTES) >=
						     end / BLOCK_BYTES * BLOCK_BYTES;
}

static void align_submit(struct blockdev *dev, struct blockdev_req *upper)
{
	struct blockdev_align *align = CONTAINER_OF(dev, struct blockdev_align, dev);
	struct blockdev_info info;
	align_info(dev, &info);
	int rc = blockdev_req_check(&info, upper);
	if (rc < 0 || trims_nothing(upper))
		finish_later(align, upper, rc);
	else if (list_empty(&align->free_ops))
		list_push_back(&align->backlog, &upper->link);
	else
		op_submit(align, upper);
}

/* ---- life ---- */

static const struct blockdev_ops align_ops = {.submit = align_submit, .info = align_info};

void blockdev_align_config_default(struct blockdev_align_config *config)
{
	*config = (struct blockdev_align_config){
		.ops_max = 256,
		.edges_max = 32,
		.payload_max_bytes = 32u << 20,
	};
}

static int config_check(const struct blockdev_align_config *config,
			const struct blockdev_info *info, struct err *err)
{
	if (config->ops_max == 0 || config->edges_max == 0)
		return err_set(err, -EINVAL, "ops_max %u and edges_max %u must be at least 1",
			       config->ops_max, config->edges_max);
	if (config->payload_max_bytes < BLOCK_BYTES)
		return err_set(err, -EINVAL, "payload_max_bytes %u is less than %u",
			       config->payload_max_bytes, BLOCK_BYTES);
	if (info->size_bytes % BLOCK_BYTES != 0 || info->payload_max_bytes < BLOCK_BYTES ||
	    info->span_max_bytes < BLOCK_BYTES || info->block_min_bytes > BLOCK_BYTES)
		return err_set(
			err, -EINVAL,
			"the device below has size %llu and limits that are not whole blocks of %u",
			(unsigned long long)info->size_bytes, BLOCK_BYTES);
	return 0;
}

static int pools_create(struct blockdev_align *align)
{
	const struct blockdev_align_config *config = &align->config;
	size_t edge_bytes = (size_t)EDGE_PAGES * BLOCK_BYTES;
	align->ops = calloc(config->ops_max, sizeof(*align->ops));
	align->edge_free = calloc(config->edges_max, sizeof(*align->edge_free));
	align->edge_memory = env_buf_alloc(align->env, edge_bytes * config->edges_max);
	if (!align->ops || !align->edge_free || !align->edge_memory)
		return -ENOMEM;
	for (uint32_t i = 0; i < config->ops_max; i++) {
		align->ops[i].align = align;
		list_push_back(&align->free_ops, &align->ops[i].link);
	}
	for (uint32_t i = 0; i < config->edges_max; i++)
		align->edge_free[align->edge_free_count++] = align->edge_memory + i * edge_bytes;
	return 0;
}

int blockdev_align_create(struct env *env, struct blockdev *lower,
			  const struct blockdev_align_config *config, struct blockdev_align **ret,
			  struct err *err)
{
	struct blockdev_align_config defaults;
	struct blockdev_info info;
	blockdev_align_config_default(&defaults);
	if (!config)
		config = &defaults;
	blockdev_info_get(lower, &info);
	int rc = config_check(config, &info, err);
	if (rc < 0)
		return rc;
	struct blockdev_align *align = calloc(1, sizeof(*align));
	if (!align)
		return err_set(err, -ENOMEM, "no memory for a device");
	align->dev.ops = &align_ops;
	align->env = env;
	align->lower = lower;
	align->config = *config;
	align->lower_payload_max_bytes = info.payload_max_bytes / BLOCK_BYTES * BLOCK_BYTES;
	align->lower_span_max_bytes = info.span_max_bytes / BLOCK_BYTES * BLOCK_BYTES;
	align->timer.fire = run_finished;
	list_init(&align->free_ops);
	list_init(&align->backlog);
	list_init(&align->changes);
	list_init(&align->edge_waiters);
	list_init(&align->finished);
	rc = pools_create(align);
	if (rc < 0) {
		blockdev_align_destroy(align);
		return err_set(err, rc, "no memory for %u requests", config->ops_max);
	}
	*ret = align;
	return 0;
}

void blockdev_align_destroy(struct blockdev_align *align)
{
	if (!align)
		return;
	assert(align->used == 0 && list_empty(&align->finished));
	env_timer_cancel(align->env, &align->timer);
	if (align->edge_memory)
		env_buf_free(align->env, align->edge_memory,
			     (size_t)EDGE_PAGES * BLOCK_BYTES * align->config.edges_max);
	free(align->edge_free);
	free(align->ops);
	free(align);
}

struct blockdev *blockdev_align_dev(struct blockdev_align *align)
{
	return &align->dev;
}
