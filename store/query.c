/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Jobs that walk the map: block status, changes for a resync, repairs. One coroutine, one job at a
 * time: none of them is worth delaying a read for.
 *
 * R1 Extents are of the stable state: tail and map. Changes are of the committed state: the map alone.
 * R2 A stable REPAIR record is applied before the next checkpoint's cut, or the root would
 *    be past a record whose effect it lacks.
 */
#include "store/internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/crc32c.h"

#define QUERY_STACK_BYTES (256u << 10)

static void query_main(struct co *co, void *arg);

int query_init(struct store *store)
{
	struct query *q = &store->query;
	list_init(&q->queue);
	q->co = co_create(store->env, QUERY_STACK_BYTES);
	if (!q->co)
		return -ENOMEM;
	co_start(q->co, query_main, store);
	return 0;
}

void query_free(struct store *store)
{
	co_destroy(store->query.co);
	store->query.co = NULL;
}

static void query_timer_fire(struct env_timer *timer)
{
	struct store *store = CONTAINER_OF(timer, struct store, query.timer);
	if (store->query.idle)
		co_resume(store->query.co);
}

void query_submit(struct store *store, struct store_op *op)
{
	struct query *q = &store->query;
	list_push_back(&q->queue, &op->link);
	q->timer.fire = query_timer_fire;
	if (q->idle && !env_timer_armed(&q->timer))
		env_timer_after(store->env, &q->timer, 0);
}

void query_fail_all(struct store *store)
{
	struct query *q = &store->query;
	while (!list_empty(&q->queue)) {
		struct store_op *op = op_of(list_pop_front(&q->queue));
		if (op_private(op)->aux) {
			bulk_release(store, op_private(op)->aux);
			op_private(op)->aux = NULL;
		} else {
			replica_job_end(op->replica);
		}
		op_finish(store, op, -EIO);
	}
	q->repairs = 0;
}

/* ---- one chunk ---- */

static void query_looked_up(struct map_lookup *lookup, int status)
{
	struct query *q = CONTAINER_OF(lookup, struct query, lookup);
	q->lookup_status = status;
	q->lookup_done = true;
	if (q->waiting)
		co_resume(q->co);
}

static int query_lookup(struct store_replica *r, uint64_t address, uint32_t length)
{
	struct query *q = &r->store->query;
	q->lookup_done = false;
	q->lookup_status = 0;
	q->lookup = (struct map_lookup){
		.done = query_looked_up,
		.map = r->map,
		.which = MAP_HEAD,
		.address_blocks = address,
		.length_blocks = length,
		.versions = q->versions,
	};
	if (map_lookup(&q->lookup))
		return 0;
	while (!q->lookup_done) {
		q->waiting = true;
		co_suspend(q->co);
		q->waiting = false;
	}
	return q->lookup_status;
}

/* ---- extents ---- */

static void extents_add(struct store_extents *x, uint64_t length_blocks, bool data)
{
	if (length_blocks == 0)
		return;
	if (x->extents_count > 0 && x->extents[x->extents_count - 1].data == data) {
		x->extents[x->extents_count - 1].length_blocks += length_blocks;
	} else {
		if (x->extents_count == x->extents_max)
			return;
		x->extents[x->extents_count++] =
			(struct store_extent){.length_blocks = length_blocks, .data = data};
	}
	x->covered_blocks += length_blocks;
}

/* Marks what the tail says of [address, address + length): 1 data, 2 zero; 0 nothing. Newest wins. */
static void tail_marks(const struct store_replica *r, uint64_t address, uint32_t length,
		       uint8_t *marks)
{
	memset(marks, 0, length);
	const struct replica_log *log = &r->head;
	for (struct list *l = log->entries.prev; l != &log->entries; l = l->prev) {
		const struct entry *e = entry_of(l);
		if (e->seq <= log->applied_seq)
			break;
		if (!entry_overlaps(e, address, length))
			continue;
		uint64_t first = MAX(e->address_blocks, address);
		uint64_t end = MIN(e->address_blocks + e->length_blocks, address + length);
		for (uint64_t block = first; block < end; block++) {
			if (!marks[block - address])
				marks[block - address] = e->op == LOG_WRITE ? 1 : 2;
		}
	}
}

/* The first block at or after address that the tail writes to; UINT64_MAX when there is none. */
static uint64_t tail_next_data(const struct store_replica *r, uint64_t address)
{
	uint64_t next = UINT64_MAX;
	for (struct list *l = r->head.apply_next; l != &r->head.entries; l = l->next) {
		const struct entry *e = entry_of(l);
		if (e->op == LOG_WRITE && e->address_blocks + e->length_blocks > address)
			next = MIN(next, MAX(e->address_blocks, address));
	}
	return next;
}

static int query_extents(struct co *co, struct store_replica *r, struct store_extents *x)
{
	uint64_t at = x->address_blocks, end = x->address_blocks + x->length_blocks;
	x->extents_count = 0;
	x->covered_blocks = 0;
	if (x->extents_max == 0 || x->length_blocks == 0 ||
	    x->address_blocks > r->spec.size_blocks ||
	    x->length_blocks > r->spec.size_blocks - x->address_blocks)
		return -EINVAL;
	while (at < end && (x->extents_count < x->extents_max)) {
		uint64_t tail = tail_next_data(r, at), chunk;
		int rc = map_next_chunk(co, r->map, at / STORE_CHUNK_BLOCKS, UINT64_MAX, &chunk);
		if (rc < 0 && rc != -ENODATA)
			return x->covered_blocks ? 0 : rc;
		uint64_t mapped = rc == 0 ? MAX(chunk * STORE_CHUNK_BLOCKS, at) : UINT64_MAX;
		uint64_t next = MIN(MIN(tail, mapped), end);
		extents_add(x, next - at, false);
		at = next;
		if (at == end)
			break;
		uint64_t chunk_end = (at / STORE_CHUNK_BLOCKS + 1) * STORE_CHUNK_BLOCKS;
		uint32_t length = (uint32_t)(MIN(chunk_end, end) - at);
		uint8_t marks[STORE_CHUNK_BLOCKS];
		tail_marks(r, at, length, marks);
		rc = query_lookup(r, at, length);
		if (rc < 0)
			return x->covered_blocks ? 0 : rc;
		for (uint32_t i = 0; i < length; i++) {
			const struct map_version *v = &r->store->query.versions[i];
			uint64_t before = x->covered_blocks;
			extents_add(x, 1, marks[i] ? marks[i] == 1 : v->place || v->bad_page);
			if (x->covered_blocks == before)
				return 0; /* the caller's array is full */
		}
		at += length;
	}
	return x->covered_blocks ? 0 : -EIO;
}

/* ---- changes ---- */

static int query_changes(struct co *co, struct store_replica *r, struct store_changes *c)
{
	/* Before the walk: that no chunk on the way had changed is true as of this. */
	c->commit_seq = r->head.applied_seq;
	int rc = map_next_chunk(co, r->map, c->chunk_cursor, c->since_seq, &c->chunk);
	if (rc == 0)
		rc = query_lookup(r, c->chunk * STORE_CHUNK_BLOCKS, STORE_CHUNK_BLOCKS);
	if (rc < 0)
		return rc;
	bool bad = false;
	for (uint32_t i = 0; i < STORE_CHUNK_BLOCKS; i++) {
		const struct map_version *v = &r->store->query.versions[i];
		c->crc32c[i] = v->place ? v->crc32c : CRC32C_ZERO_BLOCK;
		c->block_state[i] = v->bad_page ? STORE_BLOCK_BAD
				    : v->place  ? STORE_BLOCK_DATA
						: STORE_BLOCK_ZERO;
		bad = bad || v->bad_page;
		if (!v->bad_page && v->seq != 0 && v->seq <= c->since_seq)
			c->block_state[i] |= STORE_BLOCK_OLD;
	}
	return bad ? -EBADMSG : 0;
}

/* ---- repair ---- */

/* First half: is it still the block that the caller found bad? Then the payload, then the record. */
static int query_repair_begin(struct store_replica *r, struct store_repair *repair)
{
	struct store *store = r->store;
	uint8_t mark;
	if (repair->address_blocks >= r->spec.size_blocks)
		return -EINVAL;
	tail_marks(r, repair->address_blocks, 1, &mark);
	if (mark)
		return -EBUSY; /* not committed yet: no map entry to repair */
	int rc = query_lookup(r, repair->address_blocks, 1);
	if (rc < 0)
		return rc;
	const struct map_version *v = &store->query.versions[0];
	if (v->bad_page)
		return -EIO;
	if (v->place == 0 || v->crc32c != repair->expected_crc32c)
		return -ESTALE;
	op_private(&repair->op)->number = v->place;
	bulk_submit(store, &repair->op);
	return -EINPROGRESS;
}

static int query_repair_apply(struct co *co, struct store_replica *r, struct store_repair *repair)
{
	struct store *store = r->store;
	struct op_private *p = op_private(&repair->op);
	struct bulk *bulk = p->aux;
	uint64_t place = extent_place(bulk->extents[0]);
	bool applied = !r->deleting && map_repair(co, r->map, repair->address_blocks,
						  bulk->old_place, repair->expected_crc32c, place);
	/* The ring's record refers to the place until the next root: no plain cancel. */
	if (!applied)
		space_unref(store->space, place, 1, false);
	bulk->extent_count = 0;
	bulk_release(store, bulk);
	p->aux = NULL;
	store->query.repairs--;
	checkpoint_consider(store);
	return applied ? 0 : -ESTALE;
}

/* ---- the coroutine ---- */

static int query_one(struct co *co, struct store_op *op)
{
	struct store_replica *r = op->replica;
	switch ((enum op_kind)op_private(op)->kind) {
	case OP_EXTENTS:
		return query_extents(co, r, CONTAINER_OF(op, struct store_extents, op));
	case OP_CHANGES:
		return query_changes(co, r, CONTAINER_OF(op, struct store_changes, op));
	case OP_REPAIR: {
		struct store_repair *repair = CONTAINER_OF(op, struct store_repair, op);
		if (op_private(op)->aux)
			return query_repair_apply(co, r, repair);
		return query_repair_begin(r, repair);
	}
	default:
		assert(!"no query");
		return -EINVAL;
	}
}

static void query_main(struct co *co, void *arg)
{
	struct store *store = arg;
	struct query *q = &store->query;
	while (!q->stopping) {
		if (list_empty(&q->queue)) {
			q->idle = true;
			co_suspend(co);
			q->idle = false;
			continue;
		}
		struct store_op *op = op_of(list_pop_front(&q->queue));
		struct store_replica *r = op->replica;
		bool second = op_private(op)->kind == OP_REPAIR && op_private(op)->aux;
		q->busy = true;
		int rc = store->failed ? -EIO : query_one(co, op);
		q->busy = false;
		if (rc != -EINPROGRESS) {
			op_finish(store, op, store->failed ? -EIO : rc);
			if (!second)
				replica_job_end(r);
		} else {
			replica_job_end(r);
		}
	}
	q->stopped = true;
}

static void query_start(struct store_replica *replica, struct store_op *op, enum op_kind kind)
{
	struct store *store = replica->store;
	op_init(op, replica, kind);
	op_private(op)->ticket = store->ticket_next++;
	if (store->failed || !store->open) {
		op_finish(store, op, -EIO);
	} else if (replica->closing) {
		op_finish(store, op, -ECANCELED);
	} else {
		replica->jobs++;
		query_submit(store, op);
	}
}

void store_extents(struct store_replica *replica, struct store_extents *extents)
{
	query_start(replica, &extents->op, OP_EXTENTS);
}

void store_changes(struct store_replica *replica, struct store_changes *changes)
{
	query_start(replica, &changes->op, OP_CHANGES);
}

void store_repair(struct store_replica *replica, struct store_repair *repair)
{
	query_start(replica, &repair->op, OP_REPAIR);
}
