/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What may be logged, and in which order.
 *
 *   store_append(), ..  ->  incoming  --accept-->  waiting  --ring.c-->  batch  -->  stable  -->  done
 *                              |  \--refuse: done(-errno), nothing happened
 *                              +--stall: the head waits for a checkpoint, and all behind it
 *
 * R1 Operations are accepted in the order of issue. Each is judged against the *issued* state: what
 *    holds once everything accepted before it is stable. That state is right or the store fails (P4), so
 *    nothing accepted is ever refused later.
 * R2 -ENOSPC is said here, before anything happened (P5). Accepted payload has its blocks counted in
 *    reserved_blocks, so batches and destages always find room.
 * R3 What needs no new space never waits for space; but it may wait behind what does, which either
 *    goes on or is refused once the checkpoint that it waits for has ended.
 * R4 Nothing waits for the map of a lost replica: nothing enters it any more, and all behind would wait too.
 */
#include "store/internal.h"

#include <errno.h>
#include <stdlib.h>

#define STALL 1 /* beside 0 and -errno: stays at the head */

static void accept_timer_fire(struct env_timer *timer)
{
	struct store *store = CONTAINER_OF(timer, struct store, run_timer);
	accept_run(store);
	ring_run(store);
}

void accept_kick(struct store *store)
{
	if (store->failed || !store->open)
		return;
	store->run_timer.fire = accept_timer_fire;
	if (!env_timer_armed(&store->run_timer))
		env_timer_after(store->env, &store->run_timer, 0);
}

void op_submit(struct store *store, struct store_op *op)
{
	if (store->failed || !store->open) {
		op_finish(store, op, -EIO);
		return;
	}
	if (op->replica && op->replica->closing && op_private(op)->kind != OP_DELETE) {
		op_finish(store, op, -ECANCELED);
		return;
	}
	list_push_back(&store->incoming, &op->link);
	accept_kick(store);
}

/* ---- space ---- */

/* Blocks that payload of the class may still take; what is promised already is taken off. */
static int64_t space_room(struct store *store, bool overwrite)
{
	struct space_info info;
	space_info(store->space, &info);
	int64_t kept = (int64_t)(overwrite ? info.reserve_blocks / 2 : info.reserve_blocks);
	return (int64_t)info.capacity_blocks - (int64_t)info.allocated_blocks - kept -
	       (int64_t)info.promised_blocks -
	       (int64_t)(store->reserved_blocks + store->inline_active + store->inline_cut);
}

bool accept_room_short(struct store *store)
{
	return space_room(store, false) < (int64_t)STORE_ENTRY_BLOCKS_MAX;
}

static void admission_done(struct map_lookup *lookup, int status)
{
	struct store *store = CONTAINER_OF(lookup, struct store, admission);
	store->admission_busy = false;
	store->admission_known = status == 0;
	uint32_t data = 0;
	for (uint32_t i = 0; i < lookup->length_blocks; i++) {
		if (lookup->versions[i].place != 0 || lookup->versions[i].bad_page)
			data++;
	}
	store->admission_data_blocks = data;
	struct store_replica *r = store->admission_replica;
	store->admission_replica = NULL;
	replica_job_end(r);
	accept_kick(store);
}

/* Does the head replace as many blocks as it brings? Asked only when room is short. */
static int accept_overwrite(struct store *store, struct store_append *a)
{
	if (store->admission_busy)
		return STALL;
	uint64_t ticket = op_private(&a->op)->ticket;
	if (!store->admission_known || store->admission_ticket != ticket) {
		struct map_lookup *lookup = &store->admission;
		store->admission_ticket = ticket;
		store->admission_known = false;
		store->admission_replica = a->op.replica;
		a->op.replica->jobs++;
		*lookup = (struct map_lookup){
			.done = admission_done,
			.map = a->op.replica->map,
			.which = a->shadow ? MAP_SHADOW : MAP_HEAD,
			.address_blocks = a->entry.address_blocks,
			.length_blocks = (uint32_t)a->entry.length_blocks,
			.versions = store->admission_versions,
		};
		store->admission_busy = true;
		if (!map_lookup(lookup))
			return STALL;
		admission_done(lookup, 0);
	}
	store->admission_known = false;
	if (store->admission_data_blocks < a->entry.length_blocks)
		return -ENOSPC;
	return space_room(store, true) >= (int64_t)a->entry.length_blocks ? 0 : -ENOSPC;
}

/* R2 */
static int accept_space(struct store *store, struct store_append *a)
{
	if (a->entry.op != LOG_WRITE || space_room(store, false) >= (int64_t)a->entry.length_blocks)
		return 0;
	struct op_private *p = op_private(&a->op);
	if (store->checkpoint.completed < p->number)
		return STALL;
	int rc = accept_overwrite(store, a);
	if (rc != -ENOSPC)
		return rc;
	/* Superseded blocks come back with a checkpoint: worth it when anything happened since the last. */
	if (store->batch_stable == store->checkpoint.cut_prefix && !store->checkpoint.running)
		return -ENOSPC;
	if (p->number != 0 && store->in_flight == 0 && list_empty(&store->waiting) &&
	    store->checkpoint.cut_prefix + 2 >= store->batch_stable)
		return -ENOSPC; /* it was waited for; only seals came after */
	p->number = checkpoint_request(store);
	return STALL;
}

/* Entries that checkpoints cannot fold are charged to their volume: it lags alone. Those that only wait for
 * delta memory go into the map with the next checkpoint. */
static int accept_tail_budget(struct store *store, const struct store_replica *r)
{
	uint32_t total_max = store->config.log_records_max / 2;
	uint32_t share_max = MAX(total_max / 4, MIN(total_max, 64u));
	if (store->tail_count < total_max && r->tail_count < share_max)
		return 0;
	if (log_commit_seq(&r->head) == r->head.applied_seq)
		return -ENOSPC;
	checkpoint_request(store);
	return STALL;
}

/* ---- appends ---- */

static int append_check_shape(const struct store_append *a)
{
	const struct log_entry *e = &a->entry;
	uint64_t payload_bytes = 0;
	for (uint32_t i = 0; i < a->iov_count; i++) {
		if (a->iov[i].iov_len == 0 || a->iov[i].iov_len % BLOCK_BYTES != 0 ||
		    (uintptr_t)a->iov[i].iov_base % BLOCK_BYTES != 0)
			return -EINVAL;
		payload_bytes += a->iov[i].iov_len;
	}
	switch (e->op) {
	case LOG_WRITE:
		if (e->length_blocks == 0 || e->length_blocks > STORE_ENTRY_BLOCKS_MAX ||
		    !e->crc32c || payload_bytes != e->length_blocks * BLOCK_BYTES)
			return -EINVAL;
		return 0;
	case LOG_ZERO:
		return e->length_blocks == 0 || payload_bytes ? -EINVAL : 0;
	case LOG_RESIZE:
	case LOG_NOP:
		return payload_bytes ? -EINVAL : 0;
	case LOG_SNAP:
	case LOG_ROLLBACK:
		return -ENOTSUP;
	default:
		return -EINVAL;
	}
}

/* size_min_blocks: what a resize must not go below; 0 where the log before it is not the one at
 * hand. */
static int append_check_range(const struct log_entry *e, uint64_t size_min_blocks,
			      uint64_t size_blocks)
{
	if (e->op == LOG_RESIZE)
		return e->address_blocks < size_min_blocks ||
				       e->address_blocks > STORE_VOLUME_BLOCKS_MAX
			       ? -EINVAL
			       : 0;
	if (e->op != LOG_WRITE && e->op != LOG_ZERO)
		return 0;
	return e->address_blocks > size_blocks || e->length_blocks > size_blocks - e->address_blocks
		       ? -EINVAL
		       : 0;
}

static bool follows(const struct log_entry *e, uint64_t last_seq, uint64_t last_hash)
{
	return e->seq == last_seq + 1 && e->prev_hash == last_hash;
}

static int append_check_head(const struct store_replica *r, const struct log_entry *e)
{
	if (r->suspect)
		return -EUCLEAN;
	if (r->head_frozen || r->issued.shadow)
		return -EBUSY;
	if (r->issued.promised != e->epoch || r->issued.log_epoch != e->epoch)
		return -ESTALE;
	if (!follows(e, r->issued.last_seq, r->issued.last_hash))
		return -EILSEQ;
	return append_check_range(e, r->issued.size_blocks, r->issued.size_blocks);
}

/* What is given up must be what was shown, and a map that is damaged cannot be given up by a
 * record. */
static int accept_loss(const struct store_replica *r, const struct store_accept_loss *loss)
{
	if (!r->suspect || loss->suspect_after != r->suspect_after ||
	    loss->suspect_until != r->suspect_until)
		return -ESTALE;
	return replica_map_damaged(r) ? -EUCLEAN : 0;
}

static int append_check_shadow(const struct store_replica *r, const struct log_entry *e)
{
	if (r->lost)
		return -EUCLEAN; /* R4 */
	if (!r->issued.shadow || r->issued.shadow_epoch != e->epoch ||
	    r->issued.promised != e->epoch)
		return -ESTALE;
	if (!follows(e, r->issued.shadow_last, r->issued.shadow_hash))
		return -EILSEQ;
	return append_check_range(e, 0, STORE_VOLUME_BLOCKS_MAX);
}

/* Log hash after seq in the issued log; *found false when seq is not within [applied, L]. */
uint64_t replica_hash_at(struct store_replica *r, uint64_t seq, bool *found)
{
	*found = true;
	if (seq == r->issued.last_seq)
		return r->issued.last_hash;
	if (seq == r->head.applied_seq)
		return r->head.applied_hash;
	if (seq == r->head.last_seq)
		return r->head.last_hash;
	for (struct list *l = r->issued_entries.prev; l != &r->issued_entries; l = l->prev) {
		struct entry *e = entry_of(l);
		if (!(e->state & (ENTRY_STAGED | ENTRY_SHADOW)) && e->seq == seq &&
		    e->op != RECORD_FILL)
			return e->hash;
	}
	for (struct list *l = r->head.entries.prev; l != &r->head.entries; l = l->prev) {
		if (entry_of(l)->seq == seq)
			return entry_of(l)->hash;
	}
	*found = false;
	return 0;
}

static int append_check_staged(struct store_replica *r, const struct store_append *a)
{
	const struct log_entry *e = &a->entry;
	if (r->issued.promised != a->stage_epoch)
		return -ESTALE;
	if (r->issued.shadow)
		return -EBUSY;
	if (r->issued.staged_last > r->issued.staged_base &&
	    follows(e, r->issued.staged_last, r->issued.staged_hash))
		return append_check_range(e, 0, STORE_VOLUME_BLOCKS_MAX);
	/* The first of a run; a run that was there before is given up for it. */
	if (e->seq == 0 || e->seq - 1 < log_commit_seq(&r->head) || e->seq - 1 > r->issued.last_seq)
		return -EILSEQ;
	bool found;
	uint64_t hash = replica_hash_at(r, e->seq - 1, &found);
	if (!found || hash != e->prev_hash)
		return -EILSEQ;
	return append_check_range(e, 0, STORE_VOLUME_BLOCKS_MAX);
}

static struct entry *append_entry(struct store *store, const struct store_append *a)
{
	const struct log_entry *in = &a->entry;
	uint32_t crc_count = in->op == LOG_WRITE ? (uint32_t)in->length_blocks : 0;
	struct entry *e = entry_create(store, crc_count, in->op, false);
	if (!e)
		return NULL;
	e->replica = a->op.replica;
	e->epoch = in->epoch;
	e->seq = in->seq;
	e->prev_hash = in->prev_hash;
	e->hash = log_entry_hash(in);
	e->commit_seq = in->commit_seq;
	e->time_ms = in->time_ms;
	e->address_blocks = in->address_blocks;
	e->length_blocks = in->length_blocks;
	e->log_flags = in->flags;
	e->ticket = op_private((struct store_op *)(uintptr_t)&a->op)->ticket;
	if (a->staged) {
		e->state |= ENTRY_STAGED;
		e->stage_epoch = a->stage_epoch;
	}
	if (a->shadow)
		e->state |= ENTRY_SHADOW;
	if (crc_count)
		memcpy(entry_crcs(e), in->crc32c, (size_t)crc_count * 4);
	return e;
}

static void append_issue(struct store_replica *r, const struct entry *e)
{
	struct replica_issued *i = &r->issued;
	if (e->state & ENTRY_STAGED) {
		bool next = i->staged_last > i->staged_base && e->seq == i->staged_last + 1 &&
			    e->prev_hash == i->staged_hash;
		if (!next) {
			i->staged_base = e->seq - 1;
			i->staged_size_blocks = 0;
		}
		if (e->op == LOG_RESIZE)
			i->staged_size_blocks = e->address_blocks;
		i->staged_last = e->seq;
		i->staged_hash = e->hash;
	} else if (e->state & ENTRY_SHADOW) {
		i->shadow_last = e->seq;
		i->shadow_hash = e->hash;
		if (e->op == LOG_RESIZE)
			i->shadow_size_blocks = e->address_blocks;
	} else {
		i->last_seq = e->seq;
		i->last_hash = e->hash;
		if (e->op == LOG_RESIZE)
			i->size_blocks = e->address_blocks;
	}
}

static int accept_append(struct store *store, struct store_op *op)
{
	struct store_append *a = CONTAINER_OF(op, struct store_append, op);
	struct store_replica *r = op->replica;
	int rc = append_check_shape(a);
	if (rc == 0 && a->staged)
		rc = append_check_staged(r, a);
	else if (rc == 0 && a->shadow)
		rc = append_check_shadow(r, &a->entry);
	else if (rc == 0)
		rc = append_check_head(r, &a->entry);
	if (rc == 0)
		rc = accept_tail_budget(store, r);
	if (rc == 0)
		rc = accept_space(store, a);
	if (rc != 0)
		return rc;
	struct entry *e = append_entry(store, a);
	if (!e) {
		checkpoint_request(store);
		return STALL;
	}
	store->reserved_blocks += e->crc_count;
	op_private(op)->entry = e;
	list_push_back(&r->issued_entries, &e->link);
	append_issue(r, e);
	return 0;
}

/* ---- replicas ---- */

static int accept_create(struct store *store, struct store_op *op)
{
	struct store_create *c = CONTAINER_OF(op, struct store_create, op);
	uint32_t slot = STORE_REPLICAS_MAX;
	if (c->spec.size_blocks > STORE_VOLUME_BLOCKS_MAX || uuid_is_zero(&c->spec.volume_uuid))
		return -EINVAL;
	for (uint32_t i = 0; i < STORE_REPLICAS_MAX; i++) {
		struct store_replica *r = store->slots[i];
		if (!r && slot == STORE_REPLICAS_MAX)
			slot = i;
		if (!r && i >= store->slot_end)
			break;
		if (!r || r->closing || !uuid_equal(&r->spec.volume_uuid, &c->spec.volume_uuid) ||
		    r->spec.shard != c->spec.shard)
			continue;
		if (!uuid_equal(&r->spec.replica_uuid, &c->spec.replica_uuid) ||
		    r->issued.size_blocks != c->spec.size_blocks)
			return -EEXIST;
		if (!r->visible)
			return STALL; /* its record is on the way */
		c->ret_replica = r;
		return -EALREADY;
	}
	if (slot == STORE_REPLICAS_MAX)
		return -ENOSPC;
	struct map_root root = {.head_node = store->node_next};
	struct store_replica *r = replica_create(store, slot, &c->spec, &root);
	if (!r)
		return -ENOMEM;
	replica_issued_reset(r);
	op->replica = r;
	return 0;
}

static int accept_delete(struct store_op *op)
{
	struct store_replica *r = op->replica;
	/* In order behind what is in batches already; checked when it was submitted. */
	r->issued.promised = UINT64_MAX;
	return 0;
}

/* ---- epochs ---- */

static int accept_promise(struct store_op *op)
{
	struct store_replica *r = op->replica;
	uint64_t epoch = CONTAINER_OF(op, struct store_promise, op)->epoch;
	if (epoch <= r->issued.promised)
		return -ESTALE;
	r->issued.promised = epoch;
	r->issued.staged_last = r->issued.staged_base;
	r->issued.shadow = false;
	return 0;
}

/* The volume's size after the issued log's entry seq. */
static uint64_t size_at(const struct store_replica *r, uint64_t seq)
{
	uint64_t size = r->applied_size_blocks;
	for (struct list *l = r->head.apply_next; l != &r->head.entries; l = l->next)
		if (entry_of(l)->op == LOG_RESIZE && entry_of(l)->seq <= seq)
			size = entry_of(l)->address_blocks;
	list_for_each (link, &r->issued_entries) {
		const struct entry *e = entry_of(link);
		if (e->op == LOG_RESIZE && e->seq <= seq &&
		    !(e->state & (ENTRY_STAGED | ENTRY_SHADOW)))
			size = e->address_blocks;
	}
	return size;
}

static int accept_adopt(struct store_op *op)
{
	struct store_replica *r = op->replica;
	struct store_adopt *a = CONTAINER_OF(op, struct store_adopt, op);
	struct replica_issued *i = &r->issued;
	if (a->epoch == 0 || i->promised != a->epoch)
		return -ESTALE;
	if (a->shadow ? r->lost : replica_map_damaged(r))
		return -EUCLEAN; /* replica.c, R6 */
	if (a->shadow) {
		if (!i->shadow || i->shadow_last != a->last_seq || i->shadow_hash != a->last_hash)
			return -EILSEQ;
		if (i->fills > 0)
			return STALL; /* a base fill is not in the map yet */
		if (r->shadow_fill_seq > a->last_seq)
			return -EILSEQ;
		i->last_seq = i->shadow_last;
		i->last_hash = i->shadow_hash;
		i->size_blocks = i->shadow_size_blocks;
		i->shadow = false;
	} else {
		if (a->base_seq < log_commit_seq(&r->head) || a->base_seq > i->last_seq ||
		    a->last_seq < a->base_seq)
			return -EILSEQ;
		bool found = true;
		bool tail = a->last_seq > a->base_seq;
		uint64_t hash = tail ? i->staged_hash : replica_hash_at(r, a->base_seq, &found);
		if (tail && (i->staged_base != a->base_seq || i->staged_last != a->last_seq))
			return -EILSEQ;
		if (!found || hash != a->last_hash)
			return -EILSEQ;
		i->size_blocks = size_at(r, a->base_seq);
		if (tail && i->staged_size_blocks != 0)
			i->size_blocks = i->staged_size_blocks;
		i->last_seq = a->last_seq;
		i->last_hash = a->last_hash;
		i->shadow = false;
	}
	i->log_epoch = a->epoch;
	i->staged_last = i->staged_base = 0;
	return 0;
}

/* ---- shadow ---- */

static void shadow_checkpointed(struct store_op *op, int status)
{
	struct store_replica *r = CONTAINER_OF(op, struct store_replica, shadow_checkpoint);
	struct store_shadow *s = r->shadow_begin;
	struct store *store = r->store;
	r->shadow_begin = NULL;
	if (!s)
		return; /* aborted */
	if (status == 0 && r->issued.promised != s->epoch)
		status = -ESTALE; /* promised meanwhile */
	if (status < 0) {
		r->head_frozen = false;
		op_finish(store, &s->op, status);
		return;
	}
	r->issued.shadow = true;
	r->issued.shadow_epoch = s->epoch;
	r->issued.shadow_size_blocks = s->size_blocks ? s->size_blocks : r->issued.size_blocks;
	r->issued.shadow_last = s->first_seq - 1;
	r->issued.shadow_hash = s->prev_hash;
	list_push_back(&store->waiting, &s->op.link);
	accept_kick(store);
}

/* The map wants a head without deltas: nothing commits to it from here on, and a checkpoint folds. */
static int accept_shadow_begin(struct store *store, struct store_op *op)
{
	struct store_replica *r = op->replica;
	struct store_shadow *s = CONTAINER_OF(op, struct store_shadow, op);
	if (s->first_seq == 0 || s->size_blocks > STORE_VOLUME_BLOCKS_MAX)
		return -EINVAL;
	if (r->issued.promised != s->epoch)
		return -ESTALE;
	if (r->lost)
		return -EUCLEAN; /* R4 */
	if (r->issued.shadow || r->shadow_on || r->shadow_begin || r->head_frozen)
		return -EBUSY;
	if (!list_empty(&r->issued_entries))
		return STALL;
	if (r->trim_wanted || r->head.applied_seq < log_commit_seq(&r->head)) {
		checkpoint_request(store);
		return STALL;
	}
	r->head_frozen = true;
	r->shadow_begin = s;
	r->shadow_checkpoint.done = shadow_checkpointed;
	store_checkpoint(store, &r->shadow_checkpoint);
	return -EINPROGRESS;
}

static int accept_shadow_drop(struct store_op *op)
{
	struct store_replica *r = op->replica;
	if (!r->issued.shadow)
		return -EALREADY; /* nothing to drop: done */
	r->issued.shadow = false;
	return 0;
}

static int accept_fill(struct store *store, struct store_op *op)
{
	struct store_fill *f = CONTAINER_OF(op, struct store_fill, op);
	struct store_replica *r = op->replica;
	struct op_private *p = op_private(op);
	struct bulk *bulk = p->aux;
	if (!r->issued.shadow)
		return -ESTALE;
	if (r->lost)
		return -EUCLEAN; /* R4 */
	if (map_pool_delta_full(store->pool)) {
		checkpoint_request(store);
		return STALL;
	}
	struct entry *e = entry_create(store, f->length_blocks, RECORD_FILL, false);
	if (!e) {
		checkpoint_request(store);
		return STALL;
	}
	e->replica = r;
	e->epoch = r->issued.shadow_epoch;
	e->seq = f->at_seq;
	e->address_blocks = f->address_blocks;
	e->length_blocks = f->length_blocks;
	e->state |= ENTRY_SHADOW;
	e->ticket = p->ticket;
	memcpy(entry_crcs(e), f->crc32c, (size_t)f->length_blocks * 4);
	memset(entry_bitmap(e), 0, RECORD_FILL_BITMAP_BYTES);
	for (uint32_t i = 0; i < f->length_blocks; i++) {
		if (f->block_state[i] == STORE_BLOCK_DATA)
			entry_bitmap(e)[i / 8] |= (uint8_t)(1u << (i % 8));
	}
	if (bulk) {
		e->extent_count = (uint16_t)bulk->extent_count;
		memcpy(entry_extents(e), bulk->extents, (size_t)bulk->extent_count * 8);
		bulk->extent_count = 0; /* the entry owns the places now */
		bulk_release(store, bulk);
		p->aux = NULL;
	}
	p->entry = e;
	list_push_back(&r->issued_entries, &e->link);
	r->issued.fills++;
	return 0;
}

/* ---- the queue ---- */

static int accept_one(struct store *store, struct store_op *op)
{
	switch ((enum op_kind)op_private(op)->kind) {
	case OP_APPEND:
		return accept_append(store, op);
	case OP_CREATE:
		return accept_create(store, op);
	case OP_DELETE:
		return accept_delete(op);
	case OP_PROMISE:
		return accept_promise(op);
	case OP_ADOPT:
		return accept_adopt(op);
	case OP_SHADOW_BEGIN:
		return accept_shadow_begin(store, op);
	case OP_SHADOW_DROP:
		return accept_shadow_drop(op);
	case OP_FILL:
		return accept_fill(store, op);
	case OP_ACCEPT_LOSS:
		return accept_loss(op->replica, CONTAINER_OF(op, struct store_accept_loss, op));
	case OP_LEASE:
	case OP_REPAIR:
		return 0;
	default:
		assert(!"an operation that is not logged was queued to be logged");
		return -EINVAL;
	}
}

/* Gives back what a refused or aborted operation holds. */
static void op_release(struct store *store, struct store_op *op)
{
	struct op_private *p = op_private(op);
	if (p->aux) {
		bulk_release(store, p->aux);
		p->aux = NULL;
	}
}

void accept_run(struct store *store)
{
	while (!store->failed && !list_empty(&store->incoming)) {
		struct store_op *op = op_of(store->incoming.next);
		int rc = accept_one(store, op);
		if (rc == STALL)
			return;
		list_remove(&op->link);
		if (rc == 0) {
			list_push_back(&store->waiting, &op->link);
		} else if (rc != -EINPROGRESS) {
			op_release(store, op);
			op_finish(store, op, rc == -EALREADY ? 0 : rc);
			if (op->replica)
				read_kick(op->replica);
		}
	}
}

static void abort_list(struct store_replica *r, struct list *list)
{
	struct store *store = r->store;
	list_for_each_safe (link, list) {
		struct store_op *op = op_of(link);
		struct op_private *p = op_private(op);
		if (op->replica != r || p->kind == OP_DELETE || p->kind == OP_CREATE)
			continue;
		list_remove(&op->link);
		if (p->entry) {
			struct entry *e = p->entry;
			p->entry = NULL;
			list_remove(&e->link);
			if (e->op == LOG_WRITE)
				store->reserved_blocks -= e->crc_count;
			const uint64_t *extents = entry_extents(e);
			for (uint32_t i = 0; i < e->extent_count; i++)
				space_cancel(store->space, extent_place(extents[i]),
					     extent_length(extents[i]));
			entry_free(store, e);
		}
		op_release(store, op);
		op_finish(store, op, -ECANCELED);
	}
}

void accept_abort(struct store_replica *r)
{
	abort_list(r, &r->store->incoming);
	abort_list(r, &r->store->waiting);
	if (r->shadow_begin) {
		op_finish(r->store, &r->shadow_begin->op, -ECANCELED);
		r->shadow_begin = NULL;
	}
}
