/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Recovery: from the device to the replicas that a crash left.
 *
 *   root (both copies made good) -> space, tables -> walk 1: prefix -> walk 2: replay -> rewrite -> new root -> open
 *
 * R1 The first walk only learns the highest durable_prefix. At or below it a batch was stable and its
 *    payload is trusted until read; above it every payload is checked, and the first batch that
 *    fails, and all after it, do not count: they are absent.
 * R2 Until the new root (incarnation + 1, fresh salt) is durable, nothing that the old root and its ring
 *    refer to is overwritten: recovery may be cut short at any I/O and start over.
 * R3 Nothing is answered before that root is durable: what recovery reads it makes durable first.
 * R4 A read-only open stops before the first write.
 */
#include "store/internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/crc32c.h"
#include "base/log.h"

struct recovery {
	struct walk walk;
	struct replay replay;
	struct root root;
	struct err *err;
	uint64_t gaps;
	uint64_t batches;
};

/* ---- payload of batches above the prefix ---- */

static int check_payload(void *ctx, const struct log_record *record)
{
	struct recovery *rec = ctx;
	struct store *store = rec->replay.store;
	if (record->op != LOG_WRITE)
		return 0;
	char *buf = store->checkpoint.copy;
	uint32_t at = 0;
	for (uint32_t i = 0; i < record->extent_count; i++) {
		uint64_t place = extent_place(record->extents[i]);
		uint32_t length = extent_length(record->extents[i]);
		if (place + length > store->size_blocks || length > COPY_BLOCKS)
			return -EBADMSG;
		int rc = store_io(rec->replay.co, store, ENV_IO_READ, 0, place, buf, length);
		if (rc < 0)
			return -EBADMSG;
		for (uint32_t k = 0; k < length; k++, at++) {
			if (crc32c(buf + (size_t)k * BLOCK_BYTES, BLOCK_BYTES) != record->crcs[at])
				return -EBADMSG;
		}
	}
	return 0;
}

/* ---- the two walks ---- */

static int recover_lost(struct recovery *rec)
{
	return store_lost(rec->err, rec->walk.lost);
}

static int recover_prefix(struct recovery *rec)
{
	bool gap;
	while (walk_next(&rec->walk, &gap)) {
		/* walk_next keeps the highest prefix */
	}
	if (rec->walk.lost)
		return recover_lost(rec);
	walk_restart(&rec->walk, &rec->root);
	return 0;
}

static int recover_replay(struct recovery *rec)
{
	struct store *store = rec->replay.store;
	struct walk *w = &rec->walk;
	bool gap;
	while (walk_next(w, &gap)) {
		if (gap) {
			rec->gaps++;
			replay_gap(&rec->replay);
		}
		rec->replay.above_prefix = w->found_no > w->prefix;
		if (rec->replay.above_prefix) {
			int rc = walk_records(w, check_payload, rec, rec->err);
			if (rc == -EBADMSG)
				return 0; /* R1: absent, with all after it */
			if (rc < 0)
				return rc;
		}
		int rc = walk_records(w, replay_record, &rec->replay, rec->err);
		if (rc < 0)
			return rc;
		rec->batches++;
		store->batch_stable = w->found_no;
		store->stable_end = w->found_position + w->batch_blocks;
	}
	if (w->lost)
		return recover_lost(rec);
	if (gap) {
		rec->gaps++;
		replay_gap(&rec->replay);
	}
	return 0;
}

/* ---- the whole ---- */

static void recover_adopt_root(struct store *store, const struct root *root)
{
	store->root_generation = le64_get(root->generation);
	store->incarnation = le64_get(root->incarnation);
	store->salt = le64_get(root->salt);
	store->node_next = MAX((uint32_t)le64_get(root->node_next), 1u);
	store->ring_start = le64_get(root->ring_position);
	store->stable_end = store->ring_start;
	store->batch_stable = le64_get(root->batch_no) - 1;
}

/* R3 */
static int recover_root(struct co *co, struct store *store, struct err *err)
{
	store->incarnation++;
	store->salt = env_random(store->env);
	store->ring_head = store->stable_end;
	int rc = checkpoint_write(co, store, store->incarnation, store->salt);
	if (rc < 0)
		return err_set(err, rc, "recovery cannot write its root (%s)", err_name(rc));
	return 0;
}

static int recover_run(struct co *co, struct store *store, struct recovery *rec)
{
	int rc = walk_begin(&rec->walk, co, store, &rec->root);
	if (rc < 0)
		return err_set(rec->err, rc, "out of memory for recovery");
	rec->replay = (struct replay){.co = co, .store = store, .err = rec->err};
	if (le64_get(rec->root.space.place) != 0) /* none: formatted, never checkpointed */
		rc = space_load(co, store->space, &rec->root.space, rec->err);
	if (rc == 0)
		rc = bad_load(store, rec->err);
	if (rc == 0)
		rc = replay_load_tables(&rec->replay, &rec->root);
	if (rc == 0)
		rc = recover_prefix(rec);
	rec->replay.walk = &rec->walk;
	if (rc == 0)
		rc = recover_replay(rec);
	if (rc == 0)
		rc = replay_finish(&rec->replay);
	return rc;
}

void recover_free(struct store *store)
{
	struct recovery *rec = take(store->recovery);
	free(take(store->table_chain));
	if (!rec)
		return;
	if (rec->walk.store)
		walk_end(&rec->walk);
	free(rec->replay.repairs);
	free(rec);
}

int recover(struct co *co, struct store *store, struct err *err)
{
	uint64_t begun_ns = env_now_ns(store->env);
	struct recovery *rec = calloc(1, sizeof(*rec));
	if (!rec)
		return err_set(err, -ENOMEM, "out of memory for recovery");
	rec->err = err;
	store->recovery = rec;
	int rc = root_pick(co, store, &rec->root, err);
	if (rc == 0 && !store->config.read_only) {
		rc = root_repair(co, store, &rec->root);
		if (rc < 0)
			err_set(err, rc, "the newest root's copies cannot be written");
	}
	if (rc == 0) {
		recover_adopt_root(store, &rec->root);
		store->hold = true;
		rc = recover_run(co, store, rec);
		store->hold = false;
	}
	store->ring_head = store->stable_end;
	if (rc == 0 && !store->config.read_only)
		rc = recover_root(co, store, err);
	if (rc == 0) {
		store->batch_next = store->batch_stable + 1;
		store->prefix_sent = store->batch_witnessed = store->batch_stable;
		store->batch_real = store->batch_stable;
		store->prev_crc32c = 0;
		store->counters = (struct store_info){0};
		log_event(LOG_INFO, "store", "recovered",
			  "batches=%llu gaps=%llu incarnation=%llu generation=%llu time_ms=%llu",
			  (unsigned long long)rec->batches, (unsigned long long)rec->gaps,
			  (unsigned long long)store->incarnation,
			  (unsigned long long)store->root_generation,
			  (unsigned long long)((env_now_ns(store->env) - begun_ns) / 1000000));
	}
	recover_free(store);
	return rc;
}
