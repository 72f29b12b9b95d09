/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checkpoints: one new root that holds everything stable at its cut, so that the ring before it is free.
 *
 *   cut -> destage tail -> per replica: destage, keep -> choose -> per replica: fold
 *       -> tables -> space -> FLUSH -> root x 2 -> release
 *   |____ one moment ____|______ writes go on: they belong to the next generation ______|
 *
 * R1 The cut is one moment between callbacks: last stable batch, frozen deltas, tail, volume table and
 *    space bitmap are all of it.
 * R2 The root is written after a FLUSH that covers all it points to.
 * R3 Nothing that the durable root refers to is freed or overwritten before both copies of the next are
 *    durable: space_root_durable, ring_start and the logs' floors move then and not before.
 * R4 A tail entry whose payload is in the ring does not enter the map while it is being moved
 *    (destaging): a map entry made from its old place would outlive that place.
 * R5 Everything here takes memory and space that was set aside; it does not wait for clients.
 */
#include "store/internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/log.h"

#define CHECKPOINT_STACK_BYTES (256u << 10)
#define TRIM_PAGES             4096u

static void checkpoint_main(struct co *co, void *arg);

int store_io(struct co *co, struct store *store, enum env_io_op op, uint32_t flags, uint64_t place,
	     void *buf, uint32_t blocks)
{
	if (store->failed)
		return -EIO; /* above all no root after a failed flush */
	return store_io_always(co, store, op, flags, place, buf, blocks);
}

int store_io_always(struct co *co, struct store *store, enum env_io_op op, uint32_t flags,
		    uint64_t place, void *buf, uint32_t blocks)
{
	struct checkpoint *c = &store->checkpoint;
	c->iov = (struct iovec){.iov_base = buf, .iov_len = (size_t)blocks * BLOCK_BYTES};
	c->dio.io = (struct env_io){.op = op,
				    .flags = flags,
				    .offset_bytes = place * BLOCK_BYTES,
				    .iov = &c->iov,
				    .iov_count = op == ENV_IO_FLUSH ? 0 : 1};
	if (op == ENV_IO_WRITE)
		store->counters.blocks_written += blocks;
	return device_io_co(co, &store->device, &c->dio);
}

/* ---- the cut ---- */

static void cut_entry(struct store *store, struct entry *e)
{
	struct checkpoint *c = &store->checkpoint;
	struct log_record record;
	entry_record(e, &record);
	e->cut_flags = (uint8_t)(record.flags & ~RECORD_INLINE); /* destaged before it is written */
	e->state |= ENTRY_CUT;
	list_push_back(&c->tail, &e->cut_link);
	c->tail_count++;
	if (e->state & ENTRY_INLINE)
		return; /* referenced once it has a place */
	const uint64_t *extents = entry_extents(e);
	for (uint32_t i = 0; i < e->extent_count; i++)
		space_ref(store->space, extent_place(extents[i]), extent_length(extents[i]));
}

static void cut_volume_entry(struct store_replica *r, struct volume_entry *v)
{
	uint32_t flags = r->deleting ? VOLUME_DELETING : 0;
	flags |= r->suspect ? VOLUME_SUSPECT : 0;
	flags |= r->shadow_on ? VOLUME_SHADOW : 0;
	struct map_root root;
	map_root(r->map, &root);
	*v = (struct volume_entry){
		.volume_uuid = r->spec.volume_uuid,
		.replica_uuid = r->spec.replica_uuid,
		.slot = le32_make(r->slot),
		.shard = le32_make(r->spec.shard),
		.flags = le32_make(flags),
		.head_node = le32_make(root.head_node),
		.shadow_node = le32_make(root.other_node),
		.lease_term_ms = le32_make((uint32_t)DIV_UP(r->lease_term_ns, 1000000)),
		.lease_boot_id = le64_make(r->lease_boot_id),
		.size_blocks = le64_make(r->applied_size_blocks),
		.promised = le64_make(r->promised),
		.log_epoch = le64_make(r->log_epoch),
		.last_seq = le64_make(r->head.last_seq),
		.last_hash = le64_make(r->head.last_hash),
		.commit_seq = le64_make(r->head.applied_seq),
		.commit_hash = le64_make(r->head.applied_hash),
		.suspect_after = le64_make(r->suspect_after),
		.suspect_until = le64_make(r->suspect_until),
		.loss_first_block = le64_make(r->loss_first_block),
		.loss_end_block = le64_make(r->loss_end_block),
		.shadow_epoch = le64_make(r->shadow_epoch),
		.shadow_seq = le64_make(r->shadow.applied_seq),
		.shadow_hash = le64_make(r->shadow.applied_hash),
		.shadow_fill_seq = le64_make(r->shadow_fill_seq),
		.shadow_size_blocks = le64_make(r->shadow_size_blocks),
		.settled_seq = le64_make(r->settled_seq),
	};
}

static void cut_replica(struct store *store, struct store_replica *r)
{
	if (!r->lost)
		map_freeze(r->map, store->checkpoint.fold_all || r->head_frozen || r->deleting,
			   r->settled_seq);
	r->in_cut = true;
	r->deleting_at_cut = r->deleting;
	r->cut_applied_seq = r->head.applied_seq;
	r->cut_shadow_seq = r->shadow.applied_seq;
	cut_volume_entry(r, &store->checkpoint.volumes[r->slot]);
	for (struct list *l = r->head.apply_next; l != &r->head.entries; l = l->next)
		cut_entry(store, entry_of(l));
	list_for_each (link, &r->staged)
		cut_entry(store, entry_of(link));
	for (struct list *l = r->shadow.apply_next; l != &r->shadow.entries; l = l->next)
		cut_entry(store, entry_of(l));
	list_for_each (link, &r->fills)
		cut_entry(store, entry_of(link));
}

static void advance_all(struct store *store)
{
	for (uint32_t i = 0; i < store->slot_end; i++) {
		if (store->slots[i] && store->slots[i]->visible)
			replica_advance(store->slots[i]);
	}
}

/* R1 */
static void checkpoint_cut(struct store *store)
{
	struct checkpoint *c = &store->checkpoint;
	c->running = true;
	c->number++;
	c->cut_prefix = store->batch_stable;
	c->cut_position = store->stable_end;
	c->tail_count = 0;
	/* As much as there is room for; before the cut, so that what it supersedes is gone with it. */
	advance_all(store);
	c->destaging = true;
	c->fold_all = accept_room_short(store);
	space_cut(store->space);
	for (uint32_t i = 0; i < store->slot_end; i++) {
		struct store_replica *r = store->slots[i];
		if (r && r->visible)
			cut_replica(store, r);
	}
	store->inline_cut += store->inline_active;
	store->inline_active = 0;
}

/* ---- destage ---- */

/* Copies count blocks; rotten bytes are copied as they are, their crc tells. */
static int copy_blocks(struct co *co, struct store *store, uint64_t from, uint64_t to,
		       uint32_t count)
{
	char *buf = store->checkpoint.copy;
	int rc = store_io(co, store, ENV_IO_READ, 0, from, buf, count);
	if (rc < 0)
		return rc;
	return store_io(co, store, ENV_IO_WRITE, 0, to, buf, count);
}

static int destage_entry(struct co *co, struct store *store, struct entry *e)
{
	struct space_extent runs[BATCH_INLINE_BLOCKS_MAX];
	uint32_t run_count, blocks = e->crc_count;
	assert(e->extent_count == 1 && blocks <= BATCH_INLINE_BLOCKS_MAX);
	uint64_t from = extent_place(entry_extents(e)[0]);
	int rc = space_alloc(store->space, SPACE_INTERNAL, blocks, runs, ARRAY_LEN(runs),
			     &run_count);
	for (uint32_t i = 0; i < run_count && rc == 0; i++) {
		rc = copy_blocks(co, store, from, runs[i].place, runs[i].length_blocks);
		from += runs[i].length_blocks;
	}
	if (rc < 0)
		return rc;
	e->extent_count = (uint16_t)run_count;
	for (uint32_t i = 0; i < run_count; i++) {
		entry_extents(e)[i] = extent_pack(runs[i].place, runs[i].length_blocks);
		space_ref(store->space, runs[i].place, runs[i].length_blocks);
		if (e->state & ENTRY_DEAD)
			space_unref(store->space, runs[i].place, runs[i].length_blocks, false);
	}
	e->state &= (uint8_t)~ENTRY_INLINE;
	return 0;
}

static int checkpoint_destage(struct co *co, struct store *store)
{
	struct checkpoint *c = &store->checkpoint;
	list_for_each (link, &c->tail) {
		struct entry *e = CONTAINER_OF(link, struct entry, cut_link);
		if (!(e->state & ENTRY_INLINE))
			continue;
		int rc = destage_entry(co, store, e);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static void destage_over(struct store *store)
{
	store->checkpoint.destaging = false;
	advance_all(store);
}

/*
 * What found no delta memory while the checkpoint ran goes into the map now: nothing else may come
 * that would move it, and a resync waits for committed entries to be there. True when some of it
 * filled the memory again, which another checkpoint empties; as long as each moves something this
 * ends.
 */
static bool advance_held_back(struct store *store)
{
	if (store->failed)
		return false;
	uint64_t before_bytes = map_pool_delta_bytes(store->pool);
	advance_all(store);
	return map_pool_delta_bytes(store->pool) > before_bytes && map_pool_delta_full(store->pool);
}

/* ---- maps ---- */

/* An index block is rotten: this replica is lost, the others are not. Its old index stays named, so
 * that what is left can be looked at; it votes and serves nothing until it is deleted. */
static void fold_lost(struct store *store, struct store_replica *r)
{
	struct volume_entry *v = &store->checkpoint.volumes[r->slot];
	struct map_root root;
	map_root(r->map, &root);
	r->lost = r->suspect = true;
	r->suspect_after = 0;
	r->suspect_until = UINT64_MAX;
	v->flags = le32_make(le32_get(v->flags) | VOLUME_SUSPECT);
	v->suspect_after = le64_make(0);
	v->suspect_until = le64_make(UINT64_MAX);
	v->index_root = root.index;
	v->index_levels = le32_make(root.levels);
	char uuid[UUID_TEXT_BYTES];
	uuid_format(&r->spec.volume_uuid, uuid);
	log_event(LOG_ERROR, "store", "replica_lost", "vol=%s reason='its index is rotten'", uuid);
}

static int fold_replica(struct co *co, struct store *store, struct store_replica *r)
{
	int rc = r->deleting_at_cut ? 0 : map_fold(co, r->map, &store->checkpoint.runs.sink);
	if (rc == -EBADMSG) {
		fold_lost(store, r);
		return 0;
	}
	bool more = false;
	if (rc == 0 && (r->deleting_at_cut || r->trim_wanted)) {
		rc = map_trim(co, r->map, r->deleting_at_cut, TRIM_PAGES, &more);
		if (rc == 0 && !more && r->deleting_at_cut)
			r->trimmed = true;
		if (rc == 0 && !more && !r->deleting_at_cut)
			r->trim_wanted = false;
	}
	if (rc < 0)
		return rc;
	struct map_root root;
	map_root(r->map, &root);
	struct volume_entry *v = &store->checkpoint.volumes[r->slot];
	v->index_root = root.index;
	v->index_levels = le32_make(root.levels);
	v->used_blocks = le64_make(root.used_blocks);
	return 0;
}

static int checkpoint_fold(struct co *co, struct store *store)
{
	int kept = runs_keep(co, store);
	if (kept < 0)
		return kept;
	for (uint32_t i = 0; i < store->slot_end; i++) {
		struct store_replica *r = store->slots[i];
		if (!r || !r->in_cut || (r->lost && !r->deleting_at_cut))
			continue;
		int rc = fold_replica(co, store, r);
		if (rc < 0)
			return rc;
	}
	store->inline_cut = 0;
	return 0;
}

/* ---- tables and root ---- */

static int write_volumes(struct co *co, struct store *store, struct root *root)
{
	struct table_writer w;
	uint64_t count = 0;
	table_begin(&w, co, store, TABLE_VOLUMES, store->checkpoint.block,
		    &store->checkpoint.tables_next);
	for (uint32_t i = 0; i < store->slot_end; i++) {
		struct store_replica *r = store->slots[i];
		if (!r || !r->in_cut || r->trimmed)
			continue;
		table_add(&w, &store->checkpoint.volumes[i], sizeof(struct volume_entry));
		count++;
	}
	root->volume_count = le64_make(count);
	return table_end(&w, &root->volumes);
}

static int write_tail(struct co *co, struct store *store, struct root *root)
{
	struct checkpoint *c = &store->checkpoint;
	struct table_writer w;
	table_begin(&w, co, store, TABLE_TAIL, c->block, &c->tables_next);
	list_for_each (link, &c->tail) {
		struct entry *e = CONTAINER_OF(link, struct entry, cut_link);
		_Alignas(8) char bytes[TABLE_ENTRY_BYTES];
		struct log_record record;
		entry_record(e, &record);
		record.flags = e->cut_flags;
		table_add(&w, bytes, (uint32_t)record_encode(&record, bytes));
	}
	root->tail_records = le64_make(c->tail_count);
	return table_end(&w, &root->tail);
}

static int write_root(struct co *co, struct store *store, uint64_t incarnation, uint64_t salt)
{
	struct checkpoint *c = &store->checkpoint;
	struct root root = {
		.generation = le64_make(store->root_generation + 1),
		.incarnation = le64_make(incarnation),
		.salt = le64_make(salt),
		.ring_position = le64_make(c->cut_position),
		.batch_no = le64_make(c->cut_prefix + 1),
		.durable_prefix = le64_make(c->cut_prefix),
		.time_ms = le64_make(env_wall_ms(store->env)),
		.node_next = le64_make(store->node_next),
	};
	place_list_unref(store, &c->tables);
	int rc = write_volumes(co, store, &root);
	if (rc == 0)
		rc = write_tail(co, store, &root);
	if (rc == 0)
		rc = runs_write(co, store, &root);
	if (rc == 0)
		rc = space_write(co, store->space, &root.space);
	if (rc == 0)
		rc = bad_flush(co, store);
	if (rc == 0)
		rc = store_io(co, store, ENV_IO_FLUSH, 0, 0, NULL, 0); /* R2 */
	if (rc < 0)
		return rc;
	struct space_info info;
	space_info(store->space, &info);
	root.live_blocks = le64_make(info.referenced_blocks);
	rc = root_write(co, store, &root);
	if (rc < 0)
		return rc;
	struct place_list released = c->tables;
	c->tables = c->tables_next;
	c->tables_next = released;
	store->root_generation++;
	return 0;
}

/* ---- release ---- */

static void release_tail(struct store *store)
{
	struct checkpoint *c = &store->checkpoint;
	while (!list_empty(&c->tail)) {
		struct entry *e = CONTAINER_OF(list_pop_front(&c->tail), struct entry, cut_link);
		e->state &= (uint8_t)~ENTRY_CUT;
		if (e->state & ENTRY_DEAD)
			entry_free(store, e);
	}
}

/* R3 */
static void checkpoint_release(struct store *store)
{
	struct checkpoint *c = &store->checkpoint;
	space_root_durable(store->space);
	store->ring_start = c->cut_position;
	release_tail(store);
	for (uint32_t i = 0; i < store->slot_end; i++) {
		struct store_replica *r = store->slots[i];
		if (!r || !r->in_cut)
			continue;
		r->in_cut = false;
		if (r->trimmed && !r->delete_op && r->jobs == 0) {
			replica_free(r);
			continue;
		}
		if (r->deleting)
			continue;
		log_trim(store, r, &r->head, MIN(r->cut_applied_seq, r->head.applied_seq));
		if (r->shadow_on)
			log_trim(store, r, &r->shadow,
				 MIN(r->cut_shadow_seq, r->shadow.applied_seq));
		r->checkpoint_seq = r->cut_applied_seq;
	}
	c->running = false;
	c->completed = c->number;
	store->counters.checkpoints++;
}

int checkpoint_write(struct co *co, struct store *store, uint64_t incarnation, uint64_t salt)
{
	checkpoint_cut(store);
	int rc = checkpoint_destage(co, store);
	if (rc < 0)
		return rc;
	destage_over(store);
	rc = checkpoint_fold(co, store);
	if (rc == 0)
		rc = write_root(co, store, incarnation, salt);
	if (rc < 0)
		return rc;
	checkpoint_release(store);
	return 0;
}

/* ---- when ---- */

static bool bound_passed(struct store *store)
{
	struct space_info info;
	if (store->batch_stable <= store->checkpoint.cut_prefix)
		return false;
	space_info(store->space, &info);
	uint64_t ring_bound = MIN(CHECKPOINT_RING_BYTES / BLOCK_BYTES, store->ring_blocks / 2);
	return store->ring_head - store->ring_start >= ring_bound ||
	       map_pool_delta_due(store->pool) || map_pool_delta_full(store->pool) ||
	       store->entries.used_bytes >= store->entries.bytes / 2 ||
	       store->entry_count >= store->config.log_records_max / 2 ||
	       info.pinned_blocks >= MAX(info.reserve_blocks / 2, 64u);
}

static void checkpoint_timer_fire(struct env_timer *timer)
{
	struct store *store = CONTAINER_OF(timer, struct store, checkpoint.timer);
	if (store->checkpoint.idle)
		co_resume(store->checkpoint.co);
}

static void checkpoint_wake(struct store *store)
{
	struct checkpoint *c = &store->checkpoint;
	if (!c->co)
		return;
	c->timer.fire = checkpoint_timer_fire;
	if (c->idle && !env_timer_armed(&c->timer))
		env_timer_after(store->env, &c->timer, 0);
}

uint64_t checkpoint_request(struct store *store)
{
	struct checkpoint *c = &store->checkpoint;
	c->requested = MAX(c->requested, c->number + 1);
	checkpoint_wake(store);
	return c->requested;
}

void checkpoint_consider(struct store *store)
{
	struct checkpoint *c = &store->checkpoint;
	if (c->idle && bound_passed(store))
		c->requested = MAX(c->requested, c->number + 1);
	if (c->idle && c->requested > c->completed)
		checkpoint_wake(store);
}

/* Answers those whose checkpoint is completed. */
static void waiters_done(struct store *store, int status)
{
	struct checkpoint *c = &store->checkpoint;
	list_for_each_safe (link, &c->waiters) {
		struct store_op *op = op_of(link);
		if (status == 0 && op_private(op)->number > c->completed)
			continue;
		list_remove(&op->link);
		op_finish(store, op, status);
	}
}

static void checkpoint_main(struct co *co, void *arg)
{
	struct store *store = arg;
	struct checkpoint *c = &store->checkpoint;
	while (!c->stopping) {
		bool due = c->requested > c->completed && store->query.repairs == 0;
		if (store->failed || !due) {
			if (store->failed)
				waiters_done(store, -EIO);
			c->idle = true;
			co_suspend(co);
			c->idle = false;
			continue;
		}
		int rc = checkpoint_write(co, store, store->incarnation, store->salt);
		if (rc < 0)
			store_fail(store, rc, "checkpoint");
		if (store->failed)
			continue;
		log_event(LOG_DEBUG, "store", "checkpoint_done",
			  "generation=%llu batch=%llu tail=%llu",
			  (unsigned long long)store->root_generation,
			  (unsigned long long)c->cut_prefix, (unsigned long long)c->tail_count);
		waiters_done(store, 0);
		accept_kick(store);
		bool again = advance_held_back(store);
		if (again || bound_passed(store))
			c->requested = MAX(c->requested, c->number + 1);
	}
	c->stopped = true;
}

int checkpoint_init(struct store *store)
{
	struct checkpoint *c = &store->checkpoint;
	c->copy = env_buf_alloc(store->env, (size_t)COPY_BLOCKS * BLOCK_BYTES);
	c->block = env_buf_alloc(store->env, 4 * BLOCK_BYTES);
	c->volumes = calloc(STORE_REPLICAS_MAX, sizeof(*c->volumes));
	c->co = co_create(store->env, CHECKPOINT_STACK_BYTES);
	return c->copy && c->block && c->volumes && c->co ? runs_init(store) : -ENOMEM;
}

/* Recovery writes its root in its own coroutine; this one starts when the store is open. */
void checkpoint_start(struct store *store)
{
	co_start(store->checkpoint.co, checkpoint_main, store);
}

void checkpoint_free(struct store *store)
{
	struct checkpoint *c = &store->checkpoint;
	release_tail(store);
	co_destroy(c->co);
	if (c->copy)
		env_buf_free(store->env, c->copy, (size_t)COPY_BLOCKS * BLOCK_BYTES);
	if (c->block)
		env_buf_free(store->env, c->block, 4 * BLOCK_BYTES);
	free(c->volumes);
	free(c->tables.places);
	free(c->tables_next.places);
	runs_free(store);
}

void store_checkpoint(struct store *store, struct store_op *op)
{
	op_init(op, NULL, OP_CHECKPOINT);
	if (store->failed || !store->open) {
		op_finish(store, op, -EIO);
		return;
	}
	op_private(op)->number = checkpoint_request(store);
	list_push_back(&store->checkpoint.waiters, &op->link);
}

void checkpoint_fail_all(struct store *store)
{
	waiters_done(store, -EIO);
}
