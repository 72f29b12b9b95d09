/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A store's life: open, close, failure; and the calls that only queue something.
 *
 * R1 Failure (P4) is one way. It is noticed anywhere, and told from a timer, so no caller's frame is on
 *    the stack: first everything that waits ends with -EIO, then config.failed is called. What has I/O
 *    under way ends when that I/O ends: its memory is the kernel's until then.
 * R2 done() never runs inside the call that submitted the operation: refusals go through `finished`.
 */
#include "store/internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/log.h"

#define DRAIN_STEP_NS (1000ull * 1000)

/* ---- operations ---- */

void op_init(struct store_op *op, struct store_replica *replica, enum op_kind kind)
{
	op->replica = replica;
	memset(op->internal, 0, sizeof(op->internal));
	memset(&op->link, 0, sizeof(op->link));
	op_private(op)->kind = (uint8_t)kind;
}

static void finish_timer_fire(struct env_timer *timer)
{
	struct store *store = CONTAINER_OF(timer, struct store, finish_timer);
	struct list due = LIST_INIT(due);
	list_splice_back(&due, &store->finished);
	while (!list_empty(&due)) {
		struct store_op *op = op_of(list_pop_front(&due));
		op->done(op, op_private(op)->status);
	}
}

void op_finish(struct store *store, struct store_op *op, int status)
{
	op_private(op)->status = status;
	list_push_back(&store->finished, &op->link);
	if (!env_timer_armed(&store->finish_timer))
		env_timer_after(store->env, &store->finish_timer, 0);
}

static void op_log(struct store *store, struct store_op *op, struct store_replica *replica,
		   enum op_kind kind)
{
	op_init(op, replica, kind);
	op_private(op)->ticket = store->ticket_next++;
	op_submit(store, op);
}

void store_append(struct store_replica *replica, struct store_append *append)
{
	op_log(replica->store, &append->op, replica, OP_APPEND);
}

void store_promise(struct store_replica *replica, struct store_promise *promise)
{
	op_log(replica->store, &promise->op, replica, OP_PROMISE);
}

void store_adopt(struct store_replica *replica, struct store_adopt *adopt)
{
	op_log(replica->store, &adopt->op, replica, OP_ADOPT);
}

void store_lease(struct store_replica *replica, struct store_lease *lease)
{
	op_log(replica->store, &lease->op, replica, OP_LEASE);
}

void store_accept_loss(struct store_replica *replica, struct store_accept_loss *loss)
{
	op_log(replica->store, &loss->op, replica, OP_ACCEPT_LOSS);
}

void store_shadow_begin(struct store_replica *replica, struct store_shadow *shadow)
{
	op_log(replica->store, &shadow->op, replica, OP_SHADOW_BEGIN);
}

void store_shadow_drop(struct store_replica *replica, struct store_op *op)
{
	op_log(replica->store, op, replica, OP_SHADOW_DROP);
}

void store_replica_create(struct store *store, struct store_create *create)
{
	create->ret_replica = NULL;
	op_log(store, &create->op, NULL, OP_CREATE);
}

void store_replica_delete(struct store_replica *replica, struct store_op *op)
{
	if (replica->closing) {
		op_init(op, replica, OP_DELETE);
		op_finish(replica->store, op, -ECANCELED);
		return;
	}
	replica->closing = true;
	accept_abort(replica);
	op_log(replica->store, op, replica, OP_DELETE);
}

void store_commit(struct store_replica *replica, uint64_t commit_seq)
{
	struct replica_log *log = replica->shadow_on ? &replica->shadow : &replica->head;
	/* Whoever speaks for an epoch that this log is not of knows nothing about its tail. */
	if (log == &replica->head &&
	    (replica->head_frozen || replica->promised != replica->log_epoch))
		return;
	if (commit_seq <= log->commit_target)
		return;
	log->commit_target = commit_seq;
	replica_advance(replica);
}

void store_settle(struct store_replica *replica, uint64_t settled_seq)
{
	replica->settled_seq = MAX(replica->settled_seq, settled_seq);
}

/* ---- looking ---- */

struct store_replica *store_replica_find(struct store *store, const struct uuid *volume_uuid,
					 uint32_t shard)
{
	for (uint32_t i = 0; i < store->slot_end; i++) {
		struct store_replica *r = store->slots[i];
		if (r && r->visible && !r->closing && r->spec.shard == shard &&
		    uuid_equal(&r->spec.volume_uuid, volume_uuid))
			return r;
	}
	return NULL;
}

void store_replica_each(struct store *store, void (*fn)(void *ctx, struct store_replica *replica),
			void *ctx)
{
	for (uint32_t i = 0; i < store->slot_end; i++) {
		struct store_replica *r = store->slots[i];
		if (r && r->visible && !r->closing)
			fn(ctx, r);
	}
}

/* Log hash at K. */
static uint64_t replica_commit_hash(const struct store_replica *r)
{
	uint64_t commit_seq = log_commit_seq(&r->head), hash = r->head.applied_hash;
	for (struct list *l = r->head.apply_next; l != &r->head.entries; l = l->next) {
		if (entry_of(l)->seq > commit_seq)
			break;
		hash = entry_of(l)->hash;
	}
	return hash;
}

uint64_t store_replica_log_epoch(const struct store_replica *r)
{
	return r->log_epoch;
}

uint64_t store_replica_checkpoint_seq(const struct store_replica *r)
{
	return r->checkpoint_seq;
}

uint64_t store_free_blocks(const struct store *store)
{
	struct space_info space;
	space_info(store->space, &space);
	uint64_t used = space.allocated_blocks + space.reserve_blocks;
	return space.capacity_blocks > used ? space.capacity_blocks - used : 0;
}

void store_replica_info(const struct store_replica *r, struct store_replica_info *ret)
{
	struct map_root root;
	map_root(r->map, &root);
	*ret = (struct store_replica_info){
		.spec = r->spec,
		.promised = r->promised,
		.log_epoch = r->log_epoch,
		.last_seq = r->head.last_seq,
		.last_hash = r->head.last_hash,
		.commit_seq = log_commit_seq(&r->head),
		.commit_hash = replica_commit_hash(r),
		.floor_seq = r->head.floor_seq,
		.checkpoint_seq = r->checkpoint_seq,
		.settled_seq = r->settled_seq,
		.suspect = r->suspect,
		.suspect_after = r->suspect_after,
		.suspect_until = r->suspect_until,
		.loss_first_block = r->loss_first_block,
		.loss_end_block = r->loss_end_block,
		.map_damaged = replica_map_damaged(r),
		.shadow = r->shadow_on,
		.shadow_last_seq = r->shadow_on ? r->shadow.last_seq : 0,
		.lease_boot_id = r->lease_boot_id,
		.lease_term_ns = r->lease_term_ns,
		.used_blocks = root.used_blocks,
	};
}

void store_info(const struct store *store, struct store_info *ret)
{
	struct space_info space;
	space_info(store->space, &space);
	struct map_pool_info pool;
	map_pool_info(store->pool, &pool);
	*ret = store->counters;
	ret->blocks_written += pool.blocks_written + space.table_blocks_written;
	ret->pages_read = pool.pages_read;
	ret->pages_written = pool.pages_written;
	ret->map_blocks_read = pool.blocks_read;
	ret->uuid = store->uuid;
	ret->incarnation = store->incarnation;
	ret->root_generation = store->root_generation;
	ret->capacity_blocks = space.capacity_blocks;
	ret->used_blocks = space.allocated_blocks;
	ret->reserved_blocks = space.reserve_blocks;
	ret->ring_blocks = store->ring_blocks;
	ret->ring_used_blocks = ring_used_blocks(store);
	ret->cache_bytes = store->config.cache_bytes;
	ret->delta_bytes = pool.delta_bytes_used;
	ret->io_slow = store->device.slow_count;
	ret->replica_count = store->replica_count;
	ret->failed = store->failed;
	ret->bad_blocks = bad_count(store);
}

/* ---- failure ---- */

static void fail_list(struct store *store, struct list *list)
{
	while (!list_empty(list)) {
		struct store_op *op = op_of(list_pop_front(list));
		if (op_private(op)->aux) {
			bulk_release(store, op_private(op)->aux);
			op_private(op)->aux = NULL;
		}
		op_finish(store, op, -EIO);
	}
}

static void fail_timer_fire(struct env_timer *timer)
{
	struct store *store = CONTAINER_OF(timer, struct store, fail_timer);
	fail_list(store, &store->incoming);
	fail_list(store, &store->waiting);
	fail_list(store, &store->unwitnessed);
	ring_fail_all(store);
	bulk_fail_all(store);
	query_fail_all(store);
	read_fail_all(store);
	checkpoint_fail_all(store);
	for (uint32_t i = 0; i < store->slot_end; i++) {
		struct store_replica *r = store->slots[i];
		if (r && r->delete_op)
			op_finish(store, take(r->delete_op), -EIO);
	}
	if (store->open && store->config.failed)
		store->config.failed(store->config.ctx, store->failed_status, store->failed_what);
}

void store_fail(struct store *store, int status, const char *what)
{
	if (store->failed)
		return;
	store->failed = true;
	store->failed_status = status;
	store->failed_what = what;
	store->fail_timer.fire = fail_timer_fire;
	env_timer_after(store->env, &store->fail_timer, 0);
}

static void store_broken(void *ctx, enum env_io_op op, int status)
{
	store_fail(ctx, status, op == ENV_IO_FLUSH ? "a flush" : "a write");
}

static void store_late(void *ctx)
{
	store_fail(ctx, -ETIMEDOUT, "an I/O took longer than its deadline");
}

/* ---- open and close ---- */

void store_config_default(struct store_config *config)
{
	*config = (struct store_config){
		.cache_bytes = 16ull << 20,
		.delta_bytes = 32ull << 20,
		.fold_entries = 32,
		.batches_in_flight_max = 4,
		.batch_payload_bytes = 128u << 10,
		.inline_payload_bytes = 32u << 10,
		.log_records_max = 131072,
		.io_slow_ns = 2ull * 1000 * 1000 * 1000,
		.io_fail_ns = 30ull * 1000 * 1000 * 1000,
	};
}

static int config_check(const struct store_config *c, struct err *err)
{
	if (c->batches_in_flight_max == 0 || c->batches_in_flight_max > BATCHES_IN_FLIGHT_MAX)
		return err_set(err, -EINVAL, "batches_in_flight_max is %u; 1 to %u are possible",
			       c->batches_in_flight_max, BATCHES_IN_FLIGHT_MAX);
	if (c->batch_payload_bytes < BLOCK_BYTES ||
	    c->batch_payload_bytes > BATCH_PAYLOAD_BLOCKS_MAX * BLOCK_BYTES)
		return err_set(err, -EINVAL, "batch_payload_bytes is %u; %u to %u are possible",
			       c->batch_payload_bytes, BLOCK_BYTES,
			       BATCH_PAYLOAD_BLOCKS_MAX * BLOCK_BYTES);
	if (c->inline_payload_bytes > BATCH_INLINE_BLOCKS_MAX * BLOCK_BYTES)
		return err_set(err, -EINVAL, "inline_payload_bytes is %u; at most %u are possible",
			       c->inline_payload_bytes, BATCH_INLINE_BLOCKS_MAX * BLOCK_BYTES);
	if (c->log_records_max < 256)
		return err_set(err, -EINVAL, "log_records_max is %u; at least 256 are needed",
			       c->log_records_max);
	return 0;
}

static void store_init_lists(struct store *store)
{
	struct list *lists[] = {
		&store->incoming,           &store->waiting,         &store->unwitnessed,
		&store->finished,           &store->reads_active,    &store->reads_free,
		&store->reads_queue,        &store->bulks_free,      &store->bulks_queue,
		&store->checkpoint.waiters, &store->checkpoint.tail, &store->query.queue};
	for (size_t i = 0; i < ARRAY_LEN(lists); i++)
		list_init(lists[i]);
	for (uint32_t i = 0; i < BATCHES_IN_FLIGHT_MAX; i++)
		list_init(&store->batches[i].ops);
	store->finish_timer.fire = finish_timer_fire;
	store->ticket_next = 1;
}

static int store_memory(struct store *store)
{
	int rc = entry_pool_init(&store->entries,
				 (size_t)store->config.log_records_max * ENTRY_BYTES_USUAL);
	store->super = env_buf_alloc(store->env, BLOCK_BYTES);
	store->admission_versions =
		calloc(STORE_ENTRY_BLOCKS_MAX, sizeof(*store->admission_versions));
	if (rc == 0)
		rc = store->super && store->admission_versions ? 0 : -ENOMEM;
	if (rc == 0)
		rc = ring_init(store);
	if (rc == 0)
		rc = read_init(store);
	if (rc == 0)
		rc = bulk_init(store);
	return rc == 0 ? checkpoint_init(store) : rc;
}

/* Memory only. */
static void store_free(struct store *store)
{
	struct env_timer *timers[] = {&store->fail_timer,   &store->run_timer,
				      &store->finish_timer, &store->seal_timer,
				      &store->query.timer,  &store->checkpoint.timer};
	for (size_t i = 0; i < ARRAY_LEN(timers); i++)
		env_timer_cancel(store->env, timers[i]);
	device_watch_stop(&store->device);
	query_free(store);
	checkpoint_free(store);
	for (uint32_t i = STORE_REPLICAS_MAX; i > 0; i--)
		replica_free(store->slots[i - 1]);
	map_pool_destroy(store->pool);
	space_destroy(store->space);
	ring_free(store);
	read_free(store);
	bulk_free(store);
	entry_pool_free(&store->entries);
	free(store->admission_versions);
	recover_free(store);
	if (store->super)
		env_buf_free(store->env, store->super, BLOCK_BYTES);
	free(store);
}

int store_lost(struct err *err, const char *how)
{
	return err_set(
		err, -EUCLEAN,
		"the store is lost: %s. Nothing in it may be trusted, and nothing brings it back; "
		"'holdfast store format PATH --force --yes' makes a new one in its place, whose "
		"replicas are filled from other copies",
		how);
}

struct disk_closer {
	struct env_close close;
	struct co *co;
	bool done;
	bool waiting;
};

static void disk_closed(struct env_close *close)
{
	struct disk_closer *c = CONTAINER_OF(close, struct disk_closer, close);
	c->done = true;
	if (c->waiting)
		co_resume(c->co);
}

void store_disk_close(struct co *co, struct env *env, struct env_disk *disk)
{
	/* On the heap: were the coroutine destroyed meanwhile, its stack would be gone. */
	struct disk_closer *c = calloc(1, sizeof(*c));
	if (!c)
		return; /* the descriptor stays open: better than a callback into freed memory */
	c->co = co;
	c->close.done = disk_closed;
	env_disk_close(env, disk, &c->close);
	while (!c->done) {
		c->waiting = true;
		co_suspend(co);
		c->waiting = false;
	}
	free(c);
}

static int store_open_disk(struct co *co, struct store *store, struct err *err)
{
	int rc = super_read(co, store, err);
	if (rc < 0)
		return rc;
	struct env_disk_info info;
	env_disk_info(store->env, store->disk, &info);
	struct space_geometry geometry = {
		.data_start = store->data_start,
		.size_blocks = store->size_blocks,
		.store_uuid = store->uuid,
		.prewrite = info.is_file_sparse_capable,
		.written_blocks = le64_get(store->super->written_blocks_hint),
	};
	struct map_pool_config pool = {
		.cache_bytes = store->config.cache_bytes,
		.delta_bytes = store->config.delta_bytes,
		.fold_entries = store->config.fold_entries,
		.store_uuid = store->uuid,
	};
	store->space = space_create(&store->device, &geometry);
	if (store->space)
		store->pool = map_pool_create(&store->device, store->space, &pool);
	if (!store->pool)
		return err_set(err, -ENOMEM, "out of memory for a store of %llu blocks",
			       (unsigned long long)store->size_blocks);
	return recover(co, store, err);
}

static int store_begin(struct store *store)
{
	if (store->config.read_only)
		return 0;
	int rc = query_init(store);
	if (rc < 0)
		return rc;
	store->open = true;
	checkpoint_start(store);
	space_prewrite_start(store->space);
	return 0;
}

int store_open(struct co *co, struct env *env, const char *path, const struct store_config *config,
	       struct store **ret, struct err *err)
{
	int rc = config_check(config, err);
	if (rc < 0)
		return rc;
	struct env_disk *disk;
	rc = env_disk_open(env, path, config->read_only ? ENV_DISK_RDONLY : 0, 0, &disk, err);
	if (rc < 0)
		return err_wrap(err, rc, "store '%s'", path);
	struct store *store = calloc(1, sizeof(*store));
	if (!store) {
		store_disk_close(co, env, disk);
		return err_set(err, -ENOMEM, "store '%s': out of memory", path);
	}
	store->env = env;
	store->disk = disk;
	store->config = *config;
	device_init(&store->device, env, disk);
	device_watch(&store->device, &(struct device_watch){.slow_ns = config->io_slow_ns,
							    .fail_ns = config->io_fail_ns,
							    .late = store_late,
							    .broken = store_broken,
							    .ctx = store});
	store_init_lists(store);
	if (config->opening)
		*config->opening = store;
	rc = store_memory(store);
	if (rc < 0)
		err_set(err, rc, "out of memory");
	if (rc == 0)
		rc = store_open_disk(co, store, err);
	if (rc == 0)
		rc = store_begin(store);
	if (rc < 0 && store->failed_status == -ETIMEDOUT)
		rc = err_set(err, store->failed_status, "%s", store->failed_what);
	if (config->opening)
		*config->opening = NULL;
	if (rc < 0) {
		bad_after_failure(co, store);
		co_sleep(co, 0); /* what runs us may be a callback of what is freed */
		store_free(store);
		store_disk_close(co, env, disk);
		return err_wrap(err, rc, "store '%s'", path);
	}
	*ret = store;
	return 0;
}

/* The hint saves the next life from writing zeros that are there already. */
static void close_super(struct co *co, struct store *store)
{
	struct space_info info;
	space_info(store->space, &info);
	store->super->written_blocks_hint = le64_make(info.written_blocks);
	(void)super_write(co, store); /* a hint; the disk's trouble will show */
}

static bool store_quiet(const struct store *store)
{
	for (uint32_t i = 0; i < BATCHES_IN_FLIGHT_MAX; i++) {
		if (store->batches[i].state != BATCH_IDLE)
			return false;
	}
	for (uint32_t i = 0; i < BULKS_MAX; i++) {
		if (store->bulks[i].busy)
			return false;
	}
	return !env_timer_armed(&store->fail_timer) && /* R1: not everything is ended yet */
	       list_empty(&store->reads_active) && list_empty(&store->finished) &&
	       store->checkpoint.idle && store->query.idle && list_empty(&store->incoming) &&
	       list_empty(&store->waiting) && list_empty(&store->unwitnessed) &&
	       list_empty(&store->query.queue);
}

static void close_noop(struct store_op *op, int status)
{
	(void)op;
	(void)status;
}

void store_close(struct co *co, struct store *store)
{
	struct env *env = store->env;
	struct env_disk *disk = store->disk;
	if (store->open && !store->failed) {
		struct store_op last = {.done = close_noop};
		while (!store_quiet(store))
			co_sleep(co, DRAIN_STEP_NS);
		store_checkpoint(store, &last);
		uint64_t wanted = store->checkpoint.requested;
		while (!store->failed && store->checkpoint.completed < wanted)
			co_sleep(co, DRAIN_STEP_NS);
	}
	if (store->open)
		space_prewrite_stop(co, store->space);
	while (store->open && !(store_quiet(store) && device_idle(&store->device)))
		co_sleep(co, DRAIN_STEP_NS);
	if (store->open && store->failed)
		bad_after_failure(co, store);
	else if (store->open)
		close_super(co, store);
	co_sleep(co, 0); /* what runs us may be a callback of what is freed */
	store_free(store);
	store_disk_close(co, env, disk);
}

void store_discard(struct store *store)
{
	store_free(store);
}
