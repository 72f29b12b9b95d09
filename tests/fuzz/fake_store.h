/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A store that keeps nothing: it accepts what it is told, reads everything that it is lent, fills
 * everything that it must fill, and answers later, in order, with the status the fuzzer set. It
 * stands in for store/: one file of a program includes this, and the library's store is not linked.
 */
#ifndef HF_TESTS_FUZZ_FAKE_STORE_H
#define HF_TESTS_FUZZ_FAKE_STORE_H

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/crc32c.h"
#include "store/store.h"
#include "tests/fuzz/fuzz.h"

struct fake_store_mood {
	int status; /* what operations end with, when not 0 */
	bool hold;  /* they do not end */
};

enum fake_op_kind {
	PLAIN,
	CREATE,
	DELETE,
	APPEND,
	PROMISE,
	ADOPT,
	LEASE,
	LOG_READ,
	READ,
	EXTENTS,
	CHANGES,
	SHADOW
};

struct store_replica {
	struct list link;
	struct store *store;
	struct store_replica_info info;
	bool deleting;
};

struct store {
	struct list replicas;
	struct list ops;
	struct fake_store_mood mood;
	uint64_t seed;
	uint32_t sink;
};

static uint64_t store_random(struct store *store)
{
	store->seed = store->seed * 6364136223846793005ull + 1442695040888963407ull;
	return store->seed >> 33;
}

static void submit(struct store *store, struct store_replica *replica, struct store_op *op,
		   enum fake_op_kind kind)
{
	FUZZ_CHECK(op->done != NULL);
	op->replica = replica;
	op->internal[0] = kind;
	list_push_back(&store->ops, &op->link);
}

/* Every byte lent must be readable. */
static void lent(struct store *store, const void *bytes, size_t count)
{
	store->sink += crc32c(bytes, count);
}

/* One replica is in it. Its own uuid begins with the byte 3. */
static struct store *fake_store_create(const struct uuid *volume_uuid,
				       const struct uuid *replica_uuid)
{
	struct store *store = calloc(1, sizeof(*store));
	struct store_replica *replica = calloc(1, sizeof(*replica));
	FUZZ_CHECK(store != NULL && replica != NULL);
	list_init(&store->replicas);
	list_init(&store->ops);
	store->seed = 1;
	replica->store = store;
	replica->info.spec = (struct store_replica_spec){*volume_uuid, *replica_uuid, 0, 1 << 20};
	list_push_back(&store->replicas, &replica->link);
	return store;
}

static void fake_store_destroy(struct store *store)
{
	struct list *n;
	FUZZ_CHECK(list_empty(&store->ops));
	while ((n = list_pop_front(&store->replicas)) != NULL)
		free(CONTAINER_OF(n, struct store_replica, link));
	free(store);
}

static struct fake_store_mood *fake_store_mood(struct store *store)
{
	return &store->mood;
}

/* ---- completion ---- */

static uint32_t fill_states(struct store *store, uint32_t count, uint32_t *crcs, uint8_t *states)
{
	uint32_t bad = 0;
	for (uint32_t i = 0; i < count; i++) {
		states[i] = (uint8_t)(store_random(store) % 3);
		crcs[i] = (uint32_t)store_random(store);
		bad += states[i] == STORE_BLOCK_BAD;
	}
	return bad;
}

static int read_finish(struct store *store, struct store_op *op)
{
	struct store_read *read = CONTAINER_OF(op, struct store_read, op);
	uint32_t count = read->length_blocks;
	if (read->buf != NULL)
		memset(read->buf, 0x5a, (size_t)count * BLOCK_BYTES);
	return fill_states(store, count, read->crc32c, read->block_state) > 0 ? -EBADMSG : 0;
}

static int log_read_finish(struct store *store, struct store_op *op)
{
	struct store_log_read *read = CONTAINER_OF(op, struct store_log_read, op);
	bool write = store_random(store) % 2 == 0;
	uint64_t count = write ? 1 + store_random(store) % STORE_ENTRY_BLOCKS_MAX : 77777;
	if (write && count > read->buf_blocks)
		return -EMSGSIZE;
	read->entry = (struct log_entry){
		.epoch = 1,
		.seq = read->seq,
		.op = write ? LOG_WRITE : LOG_ZERO,
		.length_blocks = count,
		.crc32c = read->crc32c_buf,
	};
	if (write)
		memset(read->buf, 0xa5, count * BLOCK_BYTES);
	return 0;
}

static int extents_finish(struct store *store, struct store_op *op)
{
	struct store_extents *extents = CONTAINER_OF(op, struct store_extents, op);
	if (extents->length_blocks == 0)
		return -EINVAL;
	extents->extents_count = 1 + (uint32_t)(store_random(store) % extents->extents_max);
	for (uint32_t i = 0; i < extents->extents_count; i++)
		extents->extents[i] = (struct store_extent){1, i % 2 == 0};
	extents->covered_blocks = extents->extents_count;
	return 0;
}

static int changes_finish(struct store *store, struct store_op *op)
{
	struct store_changes *changes = CONTAINER_OF(op, struct store_changes, op);
	changes->chunk = changes->chunk_cursor;
	changes->commit_seq = 1;
	fill_states(store, STORE_CHUNK_BLOCKS, changes->crc32c, changes->block_state);
	return 0;
}

static int create_finish(struct store *store, struct store_op *op)
{
	struct store_create *create = CONTAINER_OF(op, struct store_create, op);
	if (store_replica_find(store, &create->spec.volume_uuid, create->spec.shard) != NULL)
		return -EEXIST;
	struct store_replica *replica = calloc(1, sizeof(*replica));
	FUZZ_CHECK(replica != NULL);
	replica->store = store;
	replica->info.spec = create->spec;
	list_push_back(&store->replicas, &replica->link);
	create->ret_replica = replica;
	return 0;
}

static void position_finish(struct store_replica_info *info, struct store_op *op,
			    enum fake_op_kind kind)
{
	if (kind == PROMISE) {
		info->promised = CONTAINER_OF(op, struct store_promise, op)->epoch;
	} else if (kind == LEASE) {
		info->lease_term_ns = CONTAINER_OF(op, struct store_lease, op)->term_ns;
	} else if (kind == ADOPT) {
		info->log_epoch = CONTAINER_OF(op, struct store_adopt, op)->epoch;
		info->last_seq = CONTAINER_OF(op, struct store_adopt, op)->last_seq;
	} else if (kind == APPEND) {
		const struct store_append *append = CONTAINER_OF(op, struct store_append, op);
		for (uint32_t i = 0; i < append->iov_count; i++)
			lent(op->replica->store, append->iov[i].iov_base, append->iov[i].iov_len);
		info->last_seq = append->entry.seq;
	} else if (kind == SHADOW) {
		info->shadow = true;
		info->shadow_last_seq = CONTAINER_OF(op, struct store_shadow, op)->first_seq - 1;
	}
}

static int op_finish(struct store *store, struct store_op *op)
{
	enum fake_op_kind kind = (enum fake_op_kind)op->internal[0];
	switch (kind) {
	case READ:
		return read_finish(store, op);
	case LOG_READ:
		return log_read_finish(store, op);
	case EXTENTS:
		return extents_finish(store, op);
	case CHANGES:
		return changes_finish(store, op);
	case CREATE:
		return create_finish(store, op);
	case DELETE:
		list_remove(&op->replica->link);
		free(op->replica);
		return 0;
	default:
		if (op->replica != NULL)
			position_finish(&op->replica->info, op, kind);
		return 0;
	}
}

/* Ends the operations that are there. False when there was nothing to do. */
static bool fake_store_turn(struct store *store)
{
	struct list now, *n;
	if (store->mood.hold || list_empty(&store->ops))
		return false;
	list_init(&now);
	list_splice_back(&now, &store->ops);
	while ((n = list_pop_front(&now)) != NULL) {
		struct store_op *op = CONTAINER_OF(n, struct store_op, link);
		int status = store->mood.status;
		if (op->internal[0] == DELETE)
			status = 0;
		else if (op->replica != NULL && op->replica->deleting)
			status = -ECANCELED;
		op->done(op, status < 0 ? status : op_finish(store, op));
	}
	return true;
}

/* ---- store.h ---- */

void store_info(const struct store *store, struct store_info *ret)
{
	*ret = (struct store_info){.uuid = {{3}}, .capacity_blocks = 1 << 20};
	list_for_each (n, &store->replicas)
		ret->replica_count++;
}

struct store_replica *store_replica_find(struct store *store, const struct uuid *volume_uuid,
					 uint32_t shard)
{
	list_for_each (n, &store->replicas) {
		struct store_replica *r = CONTAINER_OF(n, struct store_replica, link);
		if (!r->deleting && r->info.spec.shard == shard &&
		    uuid_equal(&r->info.spec.volume_uuid, volume_uuid))
			return r;
	}
	return NULL;
}

void store_replica_each(struct store *store, void (*fn)(void *ctx, struct store_replica *replica),
			void *ctx)
{
	list_for_each (n, &store->replicas) {
		struct store_replica *replica = CONTAINER_OF(n, struct store_replica, link);
		if (!replica->deleting)
			fn(ctx, replica);
	}
}

uint64_t store_replica_log_epoch(const struct store_replica *r)
{
	return r->info.log_epoch;
}

uint64_t store_replica_checkpoint_seq(const struct store_replica *r)
{
	return r->info.checkpoint_seq;
}

uint64_t store_free_blocks(const struct store *store)
{
	struct store_info info;
	store_info(store, &info);
	uint64_t used = info.used_blocks + info.reserved_blocks;
	return info.capacity_blocks > used ? info.capacity_blocks - used : 0;
}

void store_replica_info(const struct store_replica *replica, struct store_replica_info *ret)
{
	*ret = replica->info;
}

void store_replica_create(struct store *store, struct store_create *create)
{
	submit(store, NULL, &create->op, CREATE);
}

void store_replica_delete(struct store_replica *replica, struct store_op *op)
{
	FUZZ_CHECK(!replica->deleting);
	replica->deleting = true;
	submit(replica->store, replica, op, DELETE);
}

void store_append(struct store_replica *replica, struct store_append *append)
{
	lent(replica->store, append->entry.crc32c,
	     append->entry.op == LOG_WRITE ? append->entry.length_blocks * 4 : 0);
	submit(replica->store, replica, &append->op, APPEND);
}

void store_commit(struct store_replica *replica, uint64_t commit_seq)
{
	replica->info.commit_seq = MAX(replica->info.commit_seq, commit_seq);
}

void store_settle(struct store_replica *replica, uint64_t settled_seq)
{
	replica->info.settled_seq = MAX(replica->info.settled_seq, settled_seq);
}

void store_promise(struct store_replica *replica, struct store_promise *promise)
{
	submit(replica->store, replica, &promise->op, PROMISE);
}

void store_adopt(struct store_replica *replica, struct store_adopt *adopt)
{
	submit(replica->store, replica, &adopt->op, ADOPT);
}

void store_lease(struct store_replica *replica, struct store_lease *lease)
{
	submit(replica->store, replica, &lease->op, LEASE);
}

void store_log_read(struct store_replica *replica, struct store_log_read *read)
{
	submit(replica->store, replica, &read->op, LOG_READ);
}

void store_read(struct store_replica *replica, struct store_read *read)
{
	FUZZ_CHECK(read->length_blocks >= 1 && read->length_blocks <= STORE_READ_BLOCKS_MAX);
	submit(replica->store, replica, &read->op, READ);
}

void store_extents(struct store_replica *replica, struct store_extents *extents)
{
	submit(replica->store, replica, &extents->op, EXTENTS);
}

void store_repair(struct store_replica *replica, struct store_repair *repair)
{
	lent(replica->store, repair->buf, BLOCK_BYTES);
	submit(replica->store, replica, &repair->op, PLAIN);
}

void store_changes(struct store_replica *replica, struct store_changes *changes)
{
	submit(replica->store, replica, &changes->op, CHANGES);
}

void store_shadow_begin(struct store_replica *replica, struct store_shadow *shadow)
{
	submit(replica->store, replica, &shadow->op, SHADOW);
}

void store_shadow_drop(struct store_replica *replica, struct store_op *op)
{
	submit(replica->store, replica, op, PLAIN);
}

void store_shadow_fill(struct store_replica *replica, struct store_fill *fill)
{
	FUZZ_CHECK(fill->length_blocks >= 1 && fill->length_blocks <= STORE_CHUNK_BLOCKS);
	lent(replica->store, fill->buf, (size_t)fill->length_blocks * BLOCK_BYTES);
	lent(replica->store, fill->crc32c, fill->length_blocks * 4);
	lent(replica->store, fill->block_state, fill->length_blocks);
	submit(replica->store, replica, &fill->op, PLAIN);
}

void store_checkpoint(struct store *store, struct store_op *op)
{
	submit(store, NULL, op, PLAIN);
}

#endif
