/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store dump: superblock, roots, volumes, tail, runs and ring as text, for people who look at a store that
 * does not open. One line per object, `kind key=value ...`; what is bad says so and the rest goes on.
 *
 * D1 It shows what the newest good root says, whether or not the store would open with it.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "store/offline.h"
#include "store/run_table.h"
#include "store/store.h"

#define DUMP_LINE_BYTES 640u

typedef unsigned long long ull;

struct dump {
	struct offline *offline;
	const struct root *root;
	void (*line)(void *ctx, const char *line);
	void *ctx;
	const char *from; /* of records: "tail" or "ring" */
};

static void say(struct dump *d, const char *format, ...) PRINTF_LIKE(2, 3);
static void say(struct dump *d, const char *format, ...)
{
	char line[DUMP_LINE_BYTES];
	va_list args;

	va_start(args, format);
	(void)vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	d->line(d->ctx, line);
}

/* ---- fixed places ---- */

static void dump_super(struct dump *d, uint32_t copy)
{
	const struct superblock *sb = &d->offline->super[copy];
	ull place = offline_super_place(d->offline, copy);
	char uuid[UUID_TEXT_BYTES];

	if (!d->offline->super_good[copy]) {
		say(d, "superblock copy=%u place=%llu state=bad", copy, place);
		return;
	}
	uuid_format(&sb->h.store_uuid, uuid);
	say(d,
	    "superblock copy=%u place=%llu state=good uuid=%s size_blocks=%llu ring_blocks=%llu "
	    "data_start=%llu created_ms=%llu written_blocks_hint=%llu update=%llu bad_count=%u "
	    "bad_overflow_place=%llu",
	    copy, place, uuid, (ull)le64_get(sb->size_blocks), (ull)le64_get(sb->ring_blocks),
	    (ull)le64_get(sb->data_start), (ull)le64_get(sb->created_ms),
	    (ull)le64_get(sb->written_blocks_hint), (ull)le64_get(sb->update),
	    le32_get(sb->bad_count), (ull)le64_get(sb->bad_overflow_place));
	for (uint32_t i = 0; i < le32_get(sb->bad_count); i++)
		say(d, "bad copy=%u place=%llu", copy, (ull)le64_get(sb->bad[i]));
}

static void dump_root(struct dump *d, uint32_t slot, uint32_t copy)
{
	const struct root *r = &d->offline->root[slot][copy];
	ull place = offline_root_place(d->offline, slot, copy);

	if (!d->offline->root_good[slot][copy]) {
		say(d, "root slot=%u copy=%u place=%llu state=bad", slot, copy, place);
		return;
	}
	say(d,
	    "root slot=%u copy=%u place=%llu state=%s generation=%llu incarnation=%llu "
	    "salt=%016llx "
	    "ring_position=%llu batch_no=%llu durable_prefix=%llu time_ms=%llu volumes=%llu "
	    "tail_records=%llu live_blocks=%llu node_next=%llu features=0x%x volume_table=%llu "
	    "tail_table=%llu space_table=%llu run_table=%llu run_entries=%llu run_live=%llu",
	    slot, copy, place,
	    le64_get(r->generation) == le64_get(d->root->generation) ? "newest" : "good",
	    (ull)le64_get(r->generation), (ull)le64_get(r->incarnation), (ull)le64_get(r->salt),
	    (ull)le64_get(r->ring_position), (ull)le64_get(r->batch_no),
	    (ull)le64_get(r->durable_prefix), (ull)le64_get(r->time_ms),
	    (ull)le64_get(r->volume_count), (ull)le64_get(r->tail_records),
	    (ull)le64_get(r->live_blocks), (ull)le64_get(r->node_next),
	    le32_get(r->feature_required), (ull)le64_get(r->volumes.place),
	    (ull)le64_get(r->tail.place), (ull)le64_get(r->space.place),
	    (ull)le64_get(r->runs.place), (ull)le64_get(r->run_entries),
	    (ull)le64_get(r->run_live));
}

/* ---- tables ---- */

static void dump_volume(struct dump *d, const struct volume_entry *v)
{
	char volume[UUID_TEXT_BYTES], replica[UUID_TEXT_BYTES];
	uint32_t flags = le32_get(v->flags);

	uuid_format(&v->volume_uuid, volume);
	uuid_format(&v->replica_uuid, replica);
	say(d,
	    "volume slot=%u uuid=%s shard=%u replica=%s size_blocks=%llu promised=%llu "
	    "log_epoch=%llu last_seq=%llu last_hash=%016llx map_seq=%llu used_blocks=%llu "
	    "settled_seq=%llu index=%llu levels=%u head_node=%u other_node=%u "
	    "lease_boot_id=%llu%s%s%s",
	    le32_get(v->slot), volume, le32_get(v->shard), replica, (ull)le64_get(v->size_blocks),
	    (ull)le64_get(v->promised), (ull)le64_get(v->log_epoch), (ull)le64_get(v->last_seq),
	    (ull)le64_get(v->last_hash), (ull)le64_get(v->commit_seq),
	    (ull)le64_get(v->used_blocks), (ull)le64_get(v->settled_seq),
	    (ull)le64_get(v->index_root.place), le32_get(v->index_levels), le32_get(v->head_node),
	    le32_get(v->shadow_node), (ull)le64_get(v->lease_boot_id),
	    flags & VOLUME_DELETING ? " deleting" : "", flags & VOLUME_SUSPECT ? " suspect" : "",
	    flags & VOLUME_SHADOW ? " shadow" : "");
	if (flags & VOLUME_SUSPECT)
		say(d,
		    "suspect slot=%u after=%llu until=%llu loss_first_block=%llu "
		    "loss_end_block=%llu",
		    le32_get(v->slot), (ull)le64_get(v->suspect_after),
		    (ull)le64_get(v->suspect_until), (ull)le64_get(v->loss_first_block),
		    (ull)le64_get(v->loss_end_block));
}

static int dump_record(void *ctx, const struct log_record *r)
{
	struct dump *d = ctx;

	say(d,
	    "record from=%s op=%s slot=%u epoch=%llu seq=%llu address_blocks=%llu "
	    "length_blocks=%llu "
	    "commit_seq=%llu place=%llu extents=%u%s%s%s%s",
	    d->from, record_op_name(r->op), r->slot, (ull)r->epoch, (ull)r->seq,
	    (ull)r->address_blocks, (ull)r->length_blocks, (ull)r->commit_seq,
	    (ull)(r->extent_count ? extent_place(r->extents[0]) : 0), r->extent_count,
	    r->flags & RECORD_INLINE ? " inline" : "", r->flags & RECORD_STAGED ? " staged" : "",
	    r->flags & RECORD_SHADOW ? " shadow" : "",
	    r->flags & RECORD_FLUSH_MARK ? " flush" : "");
	return 0;
}

static void dump_volume_block(struct dump *d, const struct table_block *block)
{
	const struct volume_entry *entries = (const struct volume_entry *)(block + 1);
	uint32_t count = MIN(le32_get(block->h.count),
			     (uint32_t)(TABLE_ENTRY_BYTES / sizeof(struct volume_entry)));

	for (uint32_t i = 0; i < count; i++)
		dump_volume(d, &entries[i]);
}

static void dump_tail_block(struct dump *d, const struct table_block *block)
{
	const char *at = (const char *)(block + 1);
	size_t left = MIN((size_t)le32_get(block->h.count), TABLE_ENTRY_BYTES), bytes;

	d->from = "tail";
	for (; left > 0; at += bytes, left -= bytes) {
		struct log_record record;
		struct err err = {0};
		if (record_decode(at, left, &record, &bytes, &err) < 0) {
			say(d, "record from=tail state=bad reason='%s'", err_text(&err));
			return;
		}
		(void)dump_record(d, &record);
	}
}

static void dump_run_block(struct dump *d, const struct table_block *block)
{
	uint32_t count;
	const struct run_entry *entries = run_block_entries(block, &count);

	if (!entries)
		say(d, "run state=bad reason='%u entries in a block'", count);
	for (uint32_t i = 0; entries && i < count; i++) {
		const struct run_entry *e = &entries[i];
		if (run_entry_voids(e))
			say(d, "run node=%u chunk=%llu void", le32_get(e->node),
			    (ull)le64_get(e->block) / 256);
		else
			say(d, "run node=%u block=%llu place=%llu seq=%llu crc32c=%08x",
			    le32_get(e->node), (ull)le64_get(e->block), (ull)le64_get(e->place),
			    (ull)le64_get(e->seq), le32_get(e->crc32c));
	}
}

/* A chain is read from its last block; each is shown as it comes, so the newest block's first. */
static void dump_chain(struct dump *d, struct block_ptr at, enum table_kind kind,
		       void (*fn)(struct dump *d, const struct table_block *block))
{
	uint64_t blocks_max = d->offline->size_blocks;

	for (; le64_get(at.place) != 0 && blocks_max > 0; blocks_max--) {
		const struct table_block *block = (const struct table_block *)d->offline->block;
		int rc = offline_table(d->offline, &at, kind);
		if (rc < 0) {
			say(d, "table kind=%d place=%llu state=bad", (int)kind,
			    (ull)le64_get(at.place));
			return;
		}
		fn(d, block);
		at = block->next;
	}
}

/* ---- ring ---- */

static void dump_batch(struct dump *d, struct offline_ring *ring)
{
	const struct offline_batch *b = ring->batch;
	struct err err = {0};

	say(d,
	    "batch no=%llu position=%llu place=%llu blocks=%u descriptors=%u durable_prefix=%llu "
	    "root_generation=%llu time_ms=%llu%s",
	    (ull)b->head.batch_no, (ull)b->head.position,
	    (ull)(PLACE_RING + b->head.position % d->offline->ring_blocks), b->head.batch_blocks,
	    b->head.desc_count, (ull)b->head.durable_prefix, (ull)b->head.root_generation,
	    (ull)b->head.time_ms, b->above_prefix ? " unproven" : "");
	if (offline_ring_records(ring, dump_record, d, &err) < 0)
		say(d, "record from=ring state=bad reason='%s'", err_text(&err));
}

static int dump_ring(struct dump *d)
{
	struct offline_ring ring;
	bool more = true;

	int rc = offline_ring_begin(&ring, d->offline, d->root);
	if (rc < 0)
		return rc;
	d->from = "ring";
	while (more) {
		more = offline_ring_next(&ring);
		if (ring.batch->missing_first != 0)
			say(d, "hole batch_first=%llu batch_last=%llu",
			    (ull)ring.batch->missing_first, (ull)ring.batch->missing_last);
		if (more)
			dump_batch(d, &ring);
	}
	if (ring.lost)
		say(d, "lost reason='the ring holds %s' position=%llu", ring.lost,
		    (ull)ring.lost_position);
	offline_ring_end(&ring);
	return 0;
}

/* ---- the whole ---- */

static int dump_run(struct dump *d)
{
	dump_super(d, 0);
	dump_super(d, 1);
	d->root = offline_newest_root(d->offline);
	for (uint32_t i = 0; i < 4; i++)
		dump_root(d, i / 2, i % 2);
	if (!d->root)
		return 0;
	dump_chain(d, d->root->volumes, TABLE_VOLUMES, dump_volume_block);
	dump_chain(d, d->root->tail, TABLE_TAIL, dump_tail_block);
	dump_chain(d, d->root->runs, TABLE_RUNS, dump_run_block);
	return dump_ring(d);
}

int store_dump(struct co *co, struct env *env, const char *path,
	       void (*line)(void *ctx, const char *line), void *ctx, struct err *err)
{
	struct dump d = {.line = line, .ctx = ctx};

	int rc = offline_open(co, env, path, &d.offline, err);
	if (rc < 0)
		return rc;
	rc = dump_run(&d);
	offline_close(d.offline);
	return rc < 0 ? err_set(err, rc, "store '%s': dump: %s", path, err_name(rc)) : 0;
}
