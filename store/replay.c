/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Recovery's second half: tables and records become replicas, through the functions of replica.c.
 *
 * R1 While records are replayed nothing enters a map and nothing is allocated (store->hold): every place that
 *    the ring refers to is claimed first. Maps, rewrites and repairs come in replay_finish().
 * R2 Across a gap (stable batches that are rotten) a replica is trusted only when the next entry of
 *    its log follows by seq and log hash, or an ADOPT proves the whole log; until then nothing is
 *    known of what the gap held of it. Such an entry also carries the epoch it was accepted in, so
 *    no promise is forgotten.
 * R3 What is not bridged is suspect after its L; entries beyond the hole are not kept (a log is a
 *    prefix or nothing) and come back with the ADOPT that ends the suspicion.
 * R4 Base fills of a shadow cannot be bridged: a gap ends the shadow.
 * R5 A PROMISE or LEASE has no seq: nothing shows that the gap held none. So after a gap every replica,
 *    bridged or not, counts as having leased (a promise waits one term) and as having promised the
 *    highest epoch that any record of it names.
 */
#include "store/internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/log.h"

#define GAP_LEASE_TERM_NS (1000ull * 1000 * 1000) /* the default term */

/* ---- tables ---- */

static int load_volume(struct replay *replay, const struct volume_entry *v)
{
	struct store *store = replay->store;
	uint32_t slot = le32_get(v->slot), flags = le32_get(v->flags);
	if (slot >= STORE_REPLICAS_MAX || store->slots[slot])
		return err_set(replay->err, -EUCLEAN, "volume table: slot %u is twice there", slot);
	struct store_replica_spec spec = {
		.volume_uuid = v->volume_uuid,
		.replica_uuid = v->replica_uuid,
		.shard = le32_get(v->shard),
		.size_blocks = le64_get(v->size_blocks),
	};
	struct map_root root = {
		.index = v->index_root,
		.levels = le32_get(v->index_levels),
		.head_node = le32_get(v->head_node),
		.other_node = le32_get(v->shadow_node),
		.used_blocks = le64_get(v->used_blocks),
	};
	struct store_replica *r = replica_create(store, slot, &spec, &root);
	if (!r)
		return err_set(replay->err, -ENOMEM, "volume table: out of memory");
	store->node_next = MAX(store->node_next, root.other_node + 1);
	r->visible = true;
	r->deleting = r->closing = flags & VOLUME_DELETING;
	store->replica_count += !r->deleting;
	r->promised = le64_get(v->promised);
	r->log_epoch = le64_get(v->log_epoch);
	log_init(&r->head, le64_get(v->commit_seq), le64_get(v->commit_hash));
	r->checkpoint_seq = r->head.applied_seq;
	r->suspect = flags & VOLUME_SUSPECT;
	r->suspect_after = le64_get(v->suspect_after);
	r->suspect_until = le64_get(v->suspect_until);
	r->loss_first_block = le64_get(v->loss_first_block);
	r->loss_end_block = le64_get(v->loss_end_block);
	r->lease_boot_id = le64_get(v->lease_boot_id);
	r->lease_term_ns = (uint64_t)le32_get(v->lease_term_ms) * 1000000;
	r->settled_seq = le64_get(v->settled_seq);
	r->loaded_last_seq = le64_get(v->last_seq);
	if (flags & VOLUME_SHADOW) {
		int rc = map_shadow_begin(r->map, root.other_node);
		if (rc < 0)
			return err_set(replay->err, rc, "volume table: slot %u: shadow", slot);
		r->shadow_on = r->head_frozen = true;
		r->shadow_node = root.other_node;
		r->shadow_epoch = le64_get(v->shadow_epoch);
		r->shadow_fill_seq = le64_get(v->shadow_fill_seq);
		r->shadow_size_blocks = le64_get(v->shadow_size_blocks);
		log_init(&r->shadow, le64_get(v->shadow_seq), le64_get(v->shadow_hash));
	} else if (root.other_node) {
		r->trim_wanted = true;
	}
	return 0;
}

static int load_volumes(void *ctx, const struct table_block *block)
{
	struct replay *replay = ctx;
	const struct volume_entry *v = (const struct volume_entry *)(block + 1);
	uint32_t count = le32_get(block->h.count);
	if (count > TABLE_ENTRY_BYTES / sizeof(*v))
		return err_set(replay->err, -EUCLEAN, "volume table: %u entries in a block", count);
	for (uint32_t i = 0; i < count; i++) {
		int rc = load_volume(replay, &v[i]);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int load_tail(void *ctx, const struct table_block *block)
{
	struct replay *replay = ctx;
	const char *at = (const char *)(block + 1);
	size_t left = le32_get(block->h.count);
	if (left > TABLE_ENTRY_BYTES)
		return err_set(replay->err, -EUCLEAN, "tail table: %zu bytes in a block", left);
	while (left > 0) {
		struct log_record record;
		size_t bytes;
		int rc = record_decode(at, left, &record, &bytes, replay->err);
		if (rc == 0)
			rc = replay_record(replay, &record);
		if (rc < 0)
			return err_wrap(replay->err, rc, "tail table");
		at += bytes;
		left -= bytes;
	}
	return 0;
}

int replay_load_tables(struct replay *replay, const struct root *root)
{
	struct store *store = replay->store;
	struct place_list *places = &store->checkpoint.tables;
	int rc = table_read(replay->co, store, &root->volumes, TABLE_VOLUMES, places, load_volumes,
			    replay, replay->err);
	if (rc == 0)
		rc = runs_load(replay, root);
	if (rc == 0)
		rc = table_read(replay->co, store, &root->tail, TABLE_TAIL, places, load_tail,
				replay, replay->err);
	if (rc < 0)
		return rc;
	for (uint32_t i = 0; i < store->slot_end; i++) {
		struct store_replica *r = store->slots[i];
		if (r && !r->deleting && r->head.last_seq != r->loaded_last_seq)
			return err_set(replay->err, -EUCLEAN,
				       "tail table: slot %u ends at %llu, not at %llu", i,
				       (unsigned long long)r->head.last_seq,
				       (unsigned long long)r->loaded_last_seq);
	}
	return 0;
}

/* ---- places ---- */

/* Inside the batch that is being replayed, behind its descriptors. */
static bool place_inline_valid(const struct walk *w, uint64_t place, uint32_t length)
{
	uint64_t first = ring_physical(w->store, w->found_position);
	return place >= first + w->desc_count && length <= w->batch_blocks &&
	       place + length <= first + w->batch_blocks;
}

static int claim_places(struct replay *replay, const struct log_record *record)
{
	struct store *store = replay->store;
	for (uint32_t i = 0; i < record->extent_count; i++) {
		uint64_t place = extent_place(record->extents[i]);
		uint32_t length = extent_length(record->extents[i]);
		bool valid = place >= store->data_start && place <= store->size_blocks &&
			     length <= store->size_blocks - place;
		if (record->flags & RECORD_INLINE)
			valid = replay->walk && place_inline_valid(replay->walk, place, length);
		if (!valid)
			return err_set(
				replay->err, -EUCLEAN,
				"log record %s names block %llu, which is no place for payload",
				record_op_name(record->op), (unsigned long long)place);
		if (replay->walk && !(record->flags & RECORD_INLINE)) {
			int rc = space_claim(store->space, place, length);
			if (rc < 0)
				return err_set(replay->err, rc, "block %llu cannot be claimed",
					       (unsigned long long)place);
		}
	}
	return 0;
}

/* A record that does not count any more: its places go back with the next root. */
static void disown_places(struct replay *replay, const struct log_record *record)
{
	if (record->flags & RECORD_INLINE)
		return;
	for (uint32_t i = 0; i < record->extent_count; i++)
		space_unref(replay->store->space, extent_place(record->extents[i]),
			    extent_length(record->extents[i]), false);
}

/* ---- entries ---- */

static struct entry *replay_entry(struct replay *replay, struct store_replica *r,
				  const struct log_record *record)
{
	struct entry *e = entry_create(replay->store, record->crc_count, record->op, true);
	if (!e)
		return NULL;
	e->replica = r;
	e->epoch = record->epoch;
	e->seq = record->seq;
	e->prev_hash = record->prev_hash;
	e->commit_seq = record->commit_seq;
	e->time_ms = record->time_ms;
	e->address_blocks = record->address_blocks;
	e->length_blocks = record->length_blocks;
	e->stage_epoch = record->stage_epoch;
	e->log_flags = record->flags & RECORD_FLUSH_MARK ? LOG_FLUSH_MARK : 0;
	e->state |= record->flags & RECORD_INLINE ? ENTRY_INLINE : 0;
	e->state |= record->flags & RECORD_STAGED ? ENTRY_STAGED : 0;
	e->state |= record->flags & RECORD_SHADOW ? ENTRY_SHADOW : 0;
	if (replay->above_prefix && record->extent_count && !(record->flags & RECORD_INLINE) &&
	    record->op == LOG_WRITE)
		e->state |= ENTRY_REWRITE;
	e->extent_count = (uint16_t)record->extent_count;
	if (record->crc_count)
		memcpy(entry_crcs(e), record->crcs, (size_t)record->crc_count * 4);
	if (record->extent_count)
		memcpy(entry_extents(e), record->extents, (size_t)record->extent_count * 8);
	if (record->op == RECORD_FILL)
		memcpy(entry_bitmap(e), record->body, RECORD_FILL_BITMAP_BYTES);
	struct log_entry hashed = {
		.epoch = e->epoch,
		.seq = e->seq,
		.prev_hash = e->prev_hash,
		.time_ms = e->time_ms,
		.op = e->op,
		.flags = e->log_flags,
		.address_blocks = e->address_blocks,
		.length_blocks = e->length_blocks,
		.crc32c = entry_crcs(e),
	};
	e->hash = log_entry_hash(&hashed);
	return e;
}

static void replica_suspect(struct store_replica *r, uint64_t until)
{
	if (!r->suspect) {
		r->suspect = true;
		r->suspect_after = r->head.last_seq;
		r->suspect_until = until;
	}
	r->suspect_until = MAX(r->suspect_until, until);
	r->gap_open = false;
}

/* Does the record follow in its log? R2, R3 */
static bool replay_follows(struct store_replica *r, const struct log_record *record)
{
	if (record->flags & RECORD_STAGED)
		return true; /* a hole shows when it is adopted */
	if (record->flags & RECORD_SHADOW)
		return r->shadow_on && record->seq == r->shadow.last_seq + 1 &&
		       record->prev_hash == r->shadow.last_hash;
	if (r->suspect && !r->gap_open && r->hole) {
		r->suspect_until = MAX(r->suspect_until, record->seq);
		return false;
	}
	if (record->seq == r->head.last_seq + 1 && record->prev_hash == r->head.last_hash) {
		if (r->gap_open) {
			r->gap_open = r->hole = false;
			r->log_epoch = MAX(r->log_epoch, record->epoch);
			/* It was not taken while the log was suspect: what ended that is in the gap. */
			if (!replica_map_damaged(r))
				replica_suspicion_end(r);
		}
		return true;
	}
	r->hole = true;
	replica_suspect(r, record->seq);
	return false;
}

/* An entry behind the hole, not kept: what it wrote is known, and a person may want to know. */
static void loss_note(struct store_replica *r, const struct log_record *record)
{
	uint64_t first = record->address_blocks, end = first + record->length_blocks;
	if ((record->op != LOG_WRITE && record->op != LOG_ZERO) || record->flags & RECORD_SHADOW)
		return;
	bool none = r->loss_first_block == r->loss_end_block;
	r->loss_first_block = none ? first : MIN(r->loss_first_block, first);
	r->loss_end_block = MAX(r->loss_end_block, end);
}

static int replay_log(struct replay *replay, struct store_replica *r,
		      const struct log_record *record)
{
	bool skip = !(record->flags & (RECORD_STAGED | RECORD_SHADOW)) &&
		    record->seq <= r->checkpoint_seq;
	if (skip)
		return 0; /* its places may be in other hands */
	int rc = claim_places(replay, record);
	if (rc < 0)
		return rc;
	if (!replay_follows(r, record)) {
		loss_note(r, record);
		disown_places(replay, record);
		return 0;
	}
	struct entry *e = replay_entry(replay, r, record);
	if (!e)
		return err_set(replay->err, -ENOMEM, "out of memory for the log");
	replica_apply_append(r, e);
	return 0;
}

static int replay_fill(struct replay *replay, struct store_replica *r,
		       const struct log_record *record)
{
	int rc = claim_places(replay, record);
	if (rc < 0)
		return rc;
	if (!r->shadow_on) {
		disown_places(replay, record);
		return 0;
	}
	struct entry *e = replay_entry(replay, r, record);
	if (!e)
		return err_set(replay->err, -ENOMEM, "out of memory for the log");
	e->state |= ENTRY_SHADOW;
	replica_apply_fill(r, e);
	return 0;
}

/* ---- other records ---- */

static int replay_create(struct replay *replay, const struct log_record *record)
{
	struct store *store = replay->store;
	const struct record_create *body = record->body;
	if (store->slots[record->slot])
		return err_set(replay->err, -EUCLEAN, "log record CREATE: slot %u is in use",
			       record->slot);
	struct store_replica_spec spec = {
		.volume_uuid = body->volume_uuid,
		.replica_uuid = body->replica_uuid,
		.shard = record->shard,
		.size_blocks = le64_get(body->size_blocks),
	};
	struct map_root root = {.head_node = record->node};
	struct store_replica *r = replica_create(store, record->slot, &spec, &root);
	if (!r)
		return err_set(replay->err, -ENOMEM, "out of memory for a replica");
	r->visible = true;
	store->replica_count++;
	return 0;
}

static int replay_repair(struct replay *replay, struct store_replica *r,
			 const struct log_record *record)
{
	int rc = claim_places(replay, record);
	if (rc < 0)
		return rc;
	if (replay->repair_count == replay->repair_max) {
		uint32_t max = replay->repair_max ? replay->repair_max * 2 : 64;
		void *more = realloc(replay->repairs, max * sizeof(*replay->repairs));
		if (!more)
			return err_set(replay->err, -ENOMEM, "out of memory for repairs");
		replay->repairs = more;
		replay->repair_max = max;
	}
	const struct record_repair_body *body = record->body;
	replay->repairs[replay->repair_count++] = (struct replay_repair){
		.replica = r,
		.block = record->address_blocks,
		.old_place = le64_get(body->old_place),
		.new_place = extent_place(record->extents[0]),
		.crc = record->crcs[0],
	};
	return 0;
}

static void replay_adopt(struct store_replica *r, const struct log_record *record)
{
	if (replica_apply_adopt(r, record)) {
		r->gap_open = r->hole = false;
		return;
	}
	r->hole = true;
	replica_suspect(r, record->seq);
}

static int replay_shadow_begin(struct replay *replay, struct store_replica *r,
			       const struct log_record *record)
{
	int rc = replica_apply_shadow_begin(r, record);
	if (rc < 0)
		log_event(LOG_WARN, "store", "shadow_not_replayed", "slot=%u status=%d", r->slot,
			  rc);
	(void)replay;
	return 0; /* its records are ignored; the resync starts over */
}

int replay_record(void *ctx, const struct log_record *record)
{
	struct replay *replay = ctx;
	struct store_replica *r = replay->store->slots[record->slot];
	const struct record_lease_body *lease = record->body;
	const struct record_loss_body *loss = record->body;
	if (record->op == RECORD_SEAL)
		return 0;
	if (record->op == RECORD_CREATE)
		return replay_create(replay, record);
	if (!r ||
	    r->deleting) { /* its CREATE is in a gap, or it is gone: nobody misses the places */
		int rc = claim_places(replay, record);
		if (rc == 0)
			disown_places(replay, record);
		return rc;
	}
	if (replay->gap_seen && record->op != RECORD_PROMISE) /* R5 */
		r->promised = MAX(r->promised, MAX(record->epoch, record->stage_epoch));
	switch (record->op) {
	case RECORD_DELETE:
		replica_apply_delete(r);
		replay->store->replica_count--;
		return 0;
	case RECORD_PROMISE:
		replica_apply_promise(r, record->epoch);
		return 0;
	case RECORD_ADOPT:
		replay_adopt(r, record);
		return 0;
	case RECORD_LEASE:
		replica_apply_lease(r, le64_get(lease->boot_id), le64_get(lease->term_ns));
		return 0;
	case RECORD_ACCEPT_LOSS:
		replica_apply_accept_loss(r, le64_get(loss->suspect_after),
					  le64_get(loss->suspect_until));
		return 0;
	case RECORD_REPAIR:
		return replay_repair(replay, r, record);
	case RECORD_SHADOW_BEGIN:
		return replay_shadow_begin(replay, r, record);
	case RECORD_SHADOW_DROP:
		replica_apply_shadow_drop(r);
		return 0;
	case RECORD_FILL:
		return replay_fill(replay, r, record);
	default:
		return replay_log(replay, r, record);
	}
}

void replay_gap(struct replay *replay)
{
	struct store *store = replay->store;
	replay->gap_seen = true;
	for (uint32_t i = 0; i < store->slot_end; i++) {
		struct store_replica *r = store->slots[i];
		if (!r || r->deleting)
			continue;
		r->gap_open = true;
		r->lease_term_ns = MAX(r->lease_term_ns, GAP_LEASE_TERM_NS); /* R5 */
		if (r->lease_boot_id == 0)
			r->lease_boot_id = UINT64_MAX;
		for (struct list *l = r->head.entries.next; l != &r->head.entries; l = l->next)
			r->promised = MAX(r->promised, entry_of(l)->epoch);
		replica_apply_shadow_drop(r); /* R4 */
	}
}

/* ---- the end ---- */

static int rewrite_entry(struct replay *replay, struct entry *e)
{
	struct store *store = replay->store;
	struct space_extent runs[STORE_ENTRY_BLOCKS_MAX];
	uint64_t *extents = entry_extents(e);
	uint32_t run_count, at = 0;
	char *buf = store->checkpoint.copy;
	for (uint32_t i = 0; i < e->extent_count; i++) {
		int rc = store_io(replay->co, store, ENV_IO_READ, 0, extent_place(extents[i]),
				  buf + (size_t)at * BLOCK_BYTES, extent_length(extents[i]));
		if (rc < 0)
			return rc;
		at += extent_length(extents[i]);
	}
	int rc = space_alloc(store->space, SPACE_INTERNAL, e->crc_count, runs, ARRAY_LEN(runs),
			     &run_count);
	if (rc < 0)
		return rc;
	at = 0;
	for (uint32_t i = 0; i < run_count && rc == 0; i++) {
		rc = store_io(replay->co, store, ENV_IO_WRITE, 0, runs[i].place,
			      buf + (size_t)at * BLOCK_BYTES, runs[i].length_blocks);
		at += runs[i].length_blocks;
	}
	if (rc < 0)
		return rc;
	for (uint32_t i = 0; i < e->extent_count; i++)
		space_unref(store->space, extent_place(extents[i]), extent_length(extents[i]),
			    false);
	e->extent_count = (uint16_t)run_count;
	for (uint32_t i = 0; i < run_count; i++)
		extents[i] = extent_pack(runs[i].place, runs[i].length_blocks);
	e->state &= (uint8_t)~ENTRY_REWRITE;
	return 0;
}

static int rewrite_list(struct replay *replay, struct list *list)
{
	list_for_each (link, list) {
		if (!(entry_of(link)->state & ENTRY_REWRITE))
			continue;
		int rc = rewrite_entry(replay, entry_of(link));
		if (rc < 0)
			return err_set(replay->err, rc,
				       "payload of the last batches cannot be written anew");
	}
	return 0;
}

static int replay_rewrite(struct replay *replay)
{
	struct store *store = replay->store;
	for (uint32_t i = 0; i < store->slot_end; i++) {
		struct store_replica *r = store->slots[i];
		int rc = r ? rewrite_list(replay, &r->head.entries) : 0;
		if (rc == 0 && r)
			rc = rewrite_list(replay, &r->staged);
		if (rc == 0 && r)
			rc = rewrite_list(replay, &r->shadow.entries);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static void replay_repairs(struct replay *replay)
{
	for (uint32_t i = 0; i < replay->repair_count; i++) {
		struct replay_repair *p = &replay->repairs[i];
		if (p->replica->deleting || !map_repair(replay->co, p->replica->map, p->block,
							p->old_place, p->crc, p->new_place))
			space_unref(replay->store->space, p->new_place, 1, false);
	}
}

int replay_finish(struct replay *replay)
{
	struct store *store = replay->store;
	if (!store->config.read_only) {
		int rc = replay_rewrite(replay);
		if (rc < 0)
			return rc;
	}
	store->hold = false;
	for (uint32_t i = 0; i < store->slot_end; i++) {
		struct store_replica *r = store->slots[i];
		if (!r || r->deleting)
			continue;
		if (r->gap_open)
			replica_suspect(r, UINT64_MAX);
		replica_staged_prune(r);
		if (!store->config.read_only)
			replica_apply_shadow_drop(r);
		replica_advance(r);
	}
	replay_repairs(replay);
	for (uint32_t i = 0; i < store->slot_end; i++) {
		if (store->slots[i])
			replica_issued_reset(store->slots[i]);
	}
	return 0;
}
