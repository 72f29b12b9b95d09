/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The asynchronous handle over an engine.
 *
 * A request waits on `pending` until its time, is applied, waits for the way back, and completes;
 * without faults both ways take no time and a request completes on the next turn. Watches keep no
 * queue: each has a position in the engine's history, which is the queue, and is bounded there.
 *
 * C1  `pending` is ordered by due_ns; equal times keep the order of submission.
 * C2  A request that completes with an unknown outcome has no outputs.
 * C3  A callback may submit, stop any watch, or close the handle: after each callback nothing is
 *     used that it may have freed, and a turn's work is bounded by counts.
 */
#include <errno.h>
#include <stdlib.h>

#include "volmgr/meta_engine.h"

#define TURN_REQUESTS_MAX 64
#define TURN_BATCHES_MAX  64

enum phase { PHASE_TO_STORE, PHASE_BACK };
enum fate { FATE_DONE, FATE_UNAVAILABLE, FATE_LOST, FATE_APPLIED, FATE_LATE };

static struct meta_client *client_of(struct meta *meta)
{
	return CONTAINER_OF(meta, struct meta_client, meta);
}

static void timer_arm(struct meta_client *c)
{
	if (c->close) {
		env_timer_set(c->env, &c->timer, 0);
		return;
	}
	if (list_empty(&c->pending))
		return;
	struct meta_req *first = CONTAINER_OF(c->pending.next, struct meta_req, link);
	env_timer_set(c->env, &c->timer, first->due_ns);
}

/* Inserts by due_ns, after its equals (C1). */
static void pending_add(struct meta_client *c, struct meta_req *req)
{
	struct list *after = c->pending.prev;
	while (after != &c->pending &&
	       CONTAINER_OF(after, struct meta_req, link)->due_ns > req->due_ns)
		after = after->prev;
	list_insert_(&req->link, after, after->next);
	timer_arm(c);
}

/* ---- faults ---- */

static uint64_t delay_ns(struct meta_client *c)
{
	uint64_t span =
		c->faults.delay_max_ns - MIN(c->faults.delay_min_ns, c->faults.delay_max_ns);
	if (c->faults.delay_max_ns == 0)
		return 0;
	return c->faults.delay_min_ns + (span ? env_random(c->env) % (span + 1) : 0);
}

static enum fate fate_draw(struct meta_client *c)
{
	const struct meta_mem_faults *f = &c->faults;
	if (f->is_unavailable)
		return FATE_UNAVAILABLE;
	uint64_t sum = (uint64_t)f->unavailable_ppm + f->unknown_lost_ppm + f->unknown_applied_ppm +
		       f->unknown_late_ppm;
	if (sum == 0)
		return FATE_DONE;
	uint64_t draw = env_random(c->env) % 1000000;
	if (draw < f->unavailable_ppm)
		return FATE_UNAVAILABLE;
	draw -= f->unavailable_ppm;
	if (draw < f->unknown_lost_ppm)
		return FATE_LOST;
	draw -= f->unknown_lost_ppm;
	if (draw < f->unknown_applied_ppm)
		return FATE_APPLIED;
	draw -= f->unknown_applied_ppm;
	return draw < f->unknown_late_ppm ? FATE_LATE : FATE_DONE;
}

/* A transaction that is applied after its caller was told that nobody knows. */
struct late_txn {
	struct meta_txn txn;
	struct late_txn *self;
	char bytes[];
};

struct copier {
	char *at; /* NULL: only count */
	size_t bytes;
};

static void *copy_bytes(struct copier *c, const void *data, size_t bytes)
{
	size_t offset = ALIGN_UP(c->bytes, 8);
	c->bytes = offset + bytes;
	if (c->at == NULL)
		return NULL;
	if (bytes)
		memcpy(c->at + offset, data, bytes);
	return c->at + offset;
}

static const struct meta_do *copy_branch(struct copier *c, const struct meta_do *ops,
					 uint32_t count)
{
	struct meta_do *copy = copy_bytes(c, ops, count * sizeof(*ops));
	for (uint32_t i = 0; i < count; i++) {
		void *key = copy_bytes(c, ops[i].key, strlen(ops[i].key) + 1);
		void *value = copy_bytes(c, ops[i].value, ops[i].value_bytes);
		if (copy) {
			copy[i].key = key;
			copy[i].value = value;
		}
	}
	return copy;
}

static void copy_txn(struct copier *c, const struct meta_txn *from, struct meta_txn *to)
{
	uint32_t count = from->compare_count;
	struct meta_compare *compares = copy_bytes(c, from->compares, count * sizeof(*compares));
	for (uint32_t i = 0; i < count; i++) {
		const struct meta_compare *old = &from->compares[i];
		void *key = copy_bytes(c, old->key, strlen(old->key) + 1);
		void *value = copy_bytes(c, old->value, old->value_bytes);
		if (compares) {
			compares[i].key = key;
			compares[i].value = value;
		}
	}
	const struct meta_do *success = copy_branch(c, from->success, from->success_count);
	const struct meta_do *failure = copy_branch(c, from->failure, from->failure_count);
	if (to == NULL)
		return;
	to->compares = compares;
	to->compare_count = count;
	to->success = success;
	to->success_count = from->success_count;
	to->failure = failure;
	to->failure_count = from->failure_count;
}

static void late_done(struct meta_txn *op, int status)
{
	(void)status; /* nobody waits for it */
	free(CONTAINER_OF(op, struct late_txn, txn));
}

static void late_submit(struct meta_client *c, const struct meta_txn *from)
{
	struct copier count = {0};
	copy_txn(&count, from, NULL);
	struct late_txn *late = calloc(1, sizeof(*late) + count.bytes + 8);
	if (late == NULL)
		return; /* then it is lost: as legal */
	struct copier copy = {.at = (char *)ALIGN_UP((uintptr_t)late->bytes, 8)};
	copy_txn(&copy, from, &late->txn);
	late->txn.done = late_done;
	late->txn.req.kind = META_TXN;
	late->txn.req.fate = FATE_DONE;
	uint64_t late_ns = c->faults.late_max_ns;
	late->txn.req.due_ns =
		env_now_ns(c->env) + (late_ns ? env_random(c->env) % (late_ns + 1) : 0);
	pending_add(c, &late->txn.req);
}

/* ---- requests ---- */

void meta_client_submit(struct meta *meta, struct meta_req *req)
{
	struct meta_client *c = client_of(meta);
	assert(c->close == NULL);
	req->phase = PHASE_TO_STORE;
	req->fate = FATE_DONE;
	req->due_ns = env_now_ns(c->env);
	if (req->status == 0) {
		req->fate = fate_draw(c);
		req->due_ns += delay_ns(c);
	}
	pending_add(c, req);
}

static void req_apply(struct meta_client *c, struct meta_req *req)
{
	enum fate fate = req->fate;
	if (req->status < 0)
		return;
	if (fate == FATE_DONE || (fate == FATE_APPLIED && req->kind != META_RANGE))
		meta_engine_apply(c->engine, req);
	if (fate == FATE_LATE && req->kind == META_TXN)
		late_submit(c, CONTAINER_OF(req, struct meta_txn, req));
	if (fate == FATE_UNAVAILABLE)
		req->status = -EAGAIN;
	else if (fate != FATE_DONE)
		req->status = -ETIMEDOUT;
}

/* An unknown outcome shows nothing of what was read (C2). */
static void req_finish(struct meta_req *req, int status)
{
	struct meta_result *result = req->result;
	req->status = status;
	req->result = NULL;
	if (req->kind == META_TXN && status < 0) {
		struct meta_txn *op = CONTAINER_OF(req, struct meta_txn, req);
		op->succeeded = false;
		op->results = NULL;
		op->result_count = 0;
	}
	meta_req_done(req);
	meta_result_free(result);
}

static void close_finish(struct meta_client *c);

static void timer_fire(struct env_timer *timer)
{
	struct meta_client *c = CONTAINER_OF(timer, struct meta_client, timer);
	if (c->close) {
		close_finish(c);
		return;
	}
	uint64_t now_ns = env_now_ns(c->env);
	for (int i = 0; i < TURN_REQUESTS_MAX && !list_empty(&c->pending); i++) {
		struct meta_req *req = CONTAINER_OF(c->pending.next, struct meta_req, link);
		if (req->due_ns > now_ns)
			break;
		list_remove(&req->link);
		if (req->phase == PHASE_TO_STORE) {
			req_apply(c, req);
			req->phase = PHASE_BACK;
			uint64_t back_ns = delay_ns(c);
			if (back_ns) {
				req->due_ns = now_ns + back_ns;
				pending_add(c, req);
				continue;
			}
		}
		req_finish(req, req->status);
		if (c->close) /* by the callback: close_finish comes on its own turn */
			return;
	}
	timer_arm(c);
}

/* ---- watches ---- */

void meta_client_wake(struct meta_client *c)
{
	if (!list_empty(&c->watches) && !env_timer_armed(&c->watch_timer))
		env_timer_set(c->env, &c->watch_timer, env_now_ns(c->env) + delay_ns(c));
}

void meta_client_watch_start(struct meta *meta, struct meta_watch *watch)
{
	struct meta_client *c = client_of(meta);
	assert(c->close == NULL);
	watch->next_revision =
		watch->from_revision ? watch->from_revision : c->engine->revision + 1;
	list_push_back(&c->watches, &watch->link);
	meta_client_wake(c);
}

void meta_client_watch_stop(struct meta *meta, struct meta_watch *watch)
{
	(void)meta;
	list_remove(&watch->link);
}

static void watch_end(struct meta_watch *watch, int status)
{
	list_remove(&watch->link);
	watch->meta = NULL;
	watch->ended(watch, status);
}

/* Delivers at most one batch. False when the watch has nothing more for now. */
static bool watch_step(struct meta_client *c, struct meta_watch *watch)
{
	struct meta_event_batch batch;
	int64_t next = watch->next_revision;
	int rc = meta_engine_history(c->engine, watch, &next, &batch);
	if (rc < 0) {
		watch->compact_revision = c->engine->compact_revision;
		watch_end(watch, rc);
		return true;
	}
	watch->next_revision = next;
	bool more = next <= c->engine->revision;
	if (batch.event_count)
		watch->changed(watch, batch.revision, batch.events, batch.event_count);
	meta_event_batch_free(&batch);
	return more;
}

/* Goes around: the watch that was served moves to the end, so a callback may stop any (C3). */
static void watch_timer_fire(struct env_timer *timer)
{
	struct meta_client *c = CONTAINER_OF(timer, struct meta_client, watch_timer);
	if (c->faults.is_unavailable)
		return; /* woken when the fault is lifted */
	uint32_t behind = 0;
	struct list served;
	list_init(&served);
	for (int i = 0; i < TURN_BATCHES_MAX && !list_empty(&c->watches) && !c->close; i++) {
		struct list *first = list_pop_front(&c->watches);
		struct meta_watch *watch = CONTAINER_OF(first, struct meta_watch, link);
		list_push_back(&served, first);
		behind += watch_step(c, watch);
	}
	bool unserved = !list_empty(&c->watches);
	list_splice_back(&c->watches, &served);
	if (!c->close && (behind || unserved))
		env_timer_set(c->env, &c->watch_timer, 0);
}

/* ---- life ---- */

struct meta_client *meta_client_create(struct env *env, struct meta_engine *engine,
				       const struct meta_ops *ops)
{
	struct meta_client *c = calloc(1, sizeof(*c));
	if (c == NULL)
		return NULL;
	c->meta.ops = ops;
	c->env = env;
	c->engine = engine;
	c->timer.fire = timer_fire;
	c->watch_timer.fire = watch_timer_fire;
	list_init(&c->pending);
	list_init(&c->watches);
	list_push_back(&engine->clients, &c->engine_link);
	return c;
}

static void client_free(struct meta_client *c)
{
	env_timer_cancel(c->env, &c->timer);
	env_timer_cancel(c->env, &c->watch_timer);
	list_remove(&c->engine_link);
	if (c->owns_engine) {
		meta_engine_close(c->engine);
		free(c->engine);
	}
	free(c);
}

void meta_client_close(struct meta *meta, struct meta_close *close)
{
	struct meta_client *c = client_of(meta);
	assert(c->close == NULL);
	c->close = close;
	timer_arm(c);
}

static void close_finish(struct meta_client *c)
{
	while (!list_empty(&c->pending)) {
		struct list *first = list_pop_front(&c->pending);
		req_finish(CONTAINER_OF(first, struct meta_req, link), -ECANCELED);
	}
	while (!list_empty(&c->watches))
		watch_end(CONTAINER_OF(c->watches.next, struct meta_watch, link), -ECANCELED);
	struct meta_close *close = c->close;
	client_free(c);
	close->done(close);
}

void meta_client_abandon(struct meta_client *c)
{
	struct meta_req *req;
	list_for_each_safe (pos, &c->pending) {
		req = CONTAINER_OF(pos, struct meta_req, link);
		list_remove(&req->link);
		meta_result_free(req->result);
		if (req->kind == META_TXN &&
		    CONTAINER_OF(req, struct meta_txn, req)->done == late_done)
			late_done(CONTAINER_OF(req, struct meta_txn, req), 0);
	}
	client_free(c);
}
