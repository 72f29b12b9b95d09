/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A replica's state, and how each stable record changes it.
 *
 * Run time and recovery use these same functions: ring.c calls them when a batch becomes stable,
 * recover.c for each record of the tail table and of the ring. So what a crash leaves is rebuilt by
 * the code that made it.
 *
 *    log:   floor ........ applied ........ K ........ L
 *           |- in the map, -|- committed, -|- not       |
 *           |  readable     |  not in map  |  committed |
 *
 * R1 Entries above `applied` are looked up in the list, newest first; those at or below it, in the
 *    map. `applied` may lag K for want of delta memory or behind a destage; nothing depends on how far.
 * R2 Entries enter the map in order, each wholly or again from its start (a put of the same block, place
 *    and seq changes nothing).
 * R3 The list owns the places of entries above `applied`; the map owns the others. Dropping the former gives
 *    their places back with the next root.
 * R4 An entry that a running checkpoint writes to its tail table (CUT) is never freed before that
 *    checkpoint ends: dropped meanwhile, it is DEAD.
 * R5 P, G and applied never go back. ADOPT replaces entries above its base only, and base >= K.
 * R6 An ADOPT proves a log, not a map: a damaged one stays suspect. Only the flip to a shadow, which was filled anew, or
 *    deletion gives another map; and no flip when the rot was met in this life, because the shadow is in the same index.
 */
#include "store/internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/crc32c.h"

/* ---- log hash ---- */

struct hashed_fields {
	le64 epoch;
	le64 seq;
	le64 address_blocks;
	le64 length_blocks;
	le64 time_ms;
	uint8_t op;
	uint8_t flags;
	uint8_t zero[6];
};
static_assert(sizeof(struct hashed_fields) == 48, "the log hash is part of the protocol");

uint64_t log_entry_hash(const struct log_entry *entry)
{
	struct hashed_fields f = {
		.epoch = le64_make(entry->epoch),
		.seq = le64_make(entry->seq),
		.address_blocks = le64_make(entry->address_blocks),
		.length_blocks = le64_make(entry->length_blocks),
		.time_ms = le64_make(entry->time_ms),
		.op = entry->op,
		.flags = entry->flags,
	};
	uint64_t hash = hash64_more(entry->prev_hash, &f, sizeof(f));
	if (entry->op == LOG_WRITE)
		hash = hash64_more(hash, entry->crc32c, (size_t)entry->length_blocks * 4);
	return hash;
}

/* ---- entries ---- */

struct entry *entry_create(struct store *store, uint32_t crc_count, uint8_t op, bool may_use_heap)
{
	size_t bytes =
		sizeof(struct entry) + ALIGN_UP((size_t)crc_count * 4, 8) + (size_t)crc_count * 8;
	if (op == RECORD_FILL)
		bytes += RECORD_FILL_BITMAP_BYTES;
	struct entry *e = NULL;
	if (store->entry_count < store->config.log_records_max)
		e = entry_pool_take(&store->entries, bytes);
	uint8_t state = 0;
	if (!e && may_use_heap) {
		e = malloc(bytes);
		state = ENTRY_HEAP;
	}
	if (!e)
		return NULL;
	memset(e, 0, sizeof(*e));
	e->op = op;
	e->state = state;
	e->crc_count = (uint16_t)crc_count;
	store->entry_count++;
	return e;
}

void entry_free(struct store *store, struct entry *e)
{
	store->entry_count--;
	if (e->state & ENTRY_HEAP)
		free(e);
	else
		entry_pool_give(&store->entries, e);
}

/* Off its list; R4. */
static void entry_release(struct store *store, struct entry *e)
{
	list_remove(&e->link);
	if (e->replica->log_cursor == e)
		e->replica->log_cursor = NULL;
	if (e->state & ENTRY_CUT)
		e->state |= ENTRY_DEAD;
	else
		entry_free(store, e);
}

static void tail_count_add(struct store_replica *r, int n)
{
	r->tail_count = (uint32_t)((int)r->tail_count + n);
	r->store->tail_count = (uint32_t)((int)r->store->tail_count + n);
}

void entry_drop(struct store *store, struct entry *e)
{
	const uint64_t *extents = entry_extents(e);
	for (uint32_t i = 0; i < e->extent_count; i++)
		space_unref(store->space, extent_place(extents[i]), extent_length(extents[i]),
			    false);
	tail_count_add(e->replica, -1);
	entry_release(store, e);
}

void entry_record(const struct entry *entry, struct log_record *ret)
{
	struct entry *e = (struct entry *)(uintptr_t)entry; /* accessors are shared with writers */
	uint8_t flags = 0;
	if (e->state & ENTRY_STAGED)
		flags |= RECORD_STAGED;
	if (e->state & ENTRY_SHADOW)
		flags |= RECORD_SHADOW;
	if (e->state & ENTRY_INLINE)
		flags |= RECORD_INLINE;
	if (e->log_flags & LOG_FLUSH_MARK)
		flags |= RECORD_FLUSH_MARK;
	*ret = (struct log_record){
		.op = e->op,
		.flags = flags,
		.slot = e->replica->slot,
		.node = e->state & ENTRY_SHADOW ? e->replica->shadow_node : e->replica->head_node,
		.shard = e->replica->spec.shard,
		.epoch = e->epoch,
		.seq = e->seq,
		.address_blocks = e->address_blocks,
		.length_blocks = e->length_blocks,
		.prev_hash = e->prev_hash,
		.commit_seq = e->commit_seq,
		.time_ms = e->time_ms,
		.stage_epoch = e->stage_epoch,
		.crc_count = e->crc_count,
		.extent_count = e->extent_count,
		.crcs = entry_crcs(e),
		.extents = entry_extents(e),
	};
	if (e->op == RECORD_FILL) {
		ret->body = entry_bitmap(e);
		ret->body_bytes = RECORD_FILL_BITMAP_BYTES;
	}
}

/* ---- logs ---- */

void log_init(struct replica_log *log, uint64_t seq, uint64_t hash)
{
	memset(log, 0, sizeof(*log));
	list_init(&log->entries);
	log->apply_next = &log->entries;
	log->floor_seq = log->applied_seq = log->last_seq = log->commit_target = seq;
	log->applied_hash = log->last_hash = hash;
}

uint64_t log_commit_seq(const struct replica_log *log)
{
	return MAX(MIN(log->commit_target, log->last_seq), log->applied_seq);
}

/* After the list changed: the first entry above applied. */
static void log_find_next(struct replica_log *log)
{
	log->apply_next = &log->entries;
	for (struct list *l = log->entries.prev; l != &log->entries; l = l->prev) {
		if (entry_of(l)->seq <= log->applied_seq)
			break;
		log->apply_next = l;
	}
}

static void log_push(struct replica_log *log, struct entry *e)
{
	assert(e->seq == log->last_seq + 1);
	list_push_back(&log->entries, &e->link);
	if (log->apply_next == &log->entries)
		log->apply_next = &e->link;
	log->last_seq = e->seq;
	log->last_hash = e->hash;
}

/* Drops entries above seq, which are not in the map. */
static void log_truncate(struct store *store, struct replica_log *log, uint64_t seq)
{
	while (!list_empty(&log->entries)) {
		struct entry *e = entry_of(log->entries.prev);
		if (e->seq <= seq)
			break;
		assert(e->seq > log->applied_seq);
		entry_drop(store, e);
	}
	log_find_next(log);
}

/* Empties the list: what the map holds is only released, the rest dropped. */
static void log_clear(struct store *store, struct replica_log *log)
{
	while (!list_empty(&log->entries)) {
		struct entry *e = entry_of(log->entries.next);
		if (e->seq <= log->applied_seq)
			entry_release(store, e);
		else
			entry_drop(store, e);
	}
	log->apply_next = &log->entries;
}

void log_trim(struct store *store, struct store_replica *replica, struct replica_log *log,
	      uint64_t seq)
{
	(void)replica;
	assert(seq <= log->applied_seq);
	while (!list_empty(&log->entries)) {
		struct entry *e = entry_of(log->entries.next);
		if (e->seq > seq)
			break;
		entry_release(store, e);
	}
	log->floor_seq = MAX(log->floor_seq, seq);
}

/* ---- into the map ---- */

static int entry_put_blocks(struct store_replica *r, enum map_which which, struct entry *e)
{
	const uint32_t *crcs = entry_crcs(e);
	const uint64_t *extents = entry_extents(e);
	uint64_t block = e->address_blocks;
	uint32_t at = 0;
	for (uint32_t i = 0; i < e->extent_count; i++) {
		uint64_t place = extent_place(extents[i]);
		for (uint32_t k = 0; k < extent_length(extents[i]); k++, at++) {
			int rc = map_put(r->map, which, block + at, place + k, crcs[at], e->seq);
			if (rc < 0)
				return rc;
		}
	}
	return 0;
}

static int entry_put(struct store_replica *r, enum map_which which, struct entry *e)
{
	switch (e->op) {
	case LOG_WRITE:
		return entry_put_blocks(r, which, e);
	case LOG_ZERO:
		return map_zero(r->map, which, e->address_blocks, e->length_blocks, e->seq);
	case LOG_RESIZE:
		if (which == MAP_SHADOW)
			r->shadow_size_blocks = e->address_blocks;
		else
			r->applied_size_blocks = e->address_blocks;
		return 0;
	default:
		return 0;
	}
}

static void log_advance(struct store_replica *r, struct replica_log *log, enum map_which which)
{
	struct store *store = r->store;
	uint64_t commit_seq = log_commit_seq(log);
	while (log->apply_next != &log->entries) {
		struct entry *e = entry_of(log->apply_next);
		if (e->seq > commit_seq)
			break;
		if (store->checkpoint.destaging && (e->state & ENTRY_CUT) &&
		    (e->state & ENTRY_INLINE))
			break; /* its place is about to change */
		if (map_pool_delta_full(store->pool) || entry_put(r, which, e) < 0)
			break; /* the checkpoint makes room */
		log->apply_next = e->link.next;
		log->applied_seq = e->seq;
		log->applied_hash = e->hash;
		tail_count_add(r, -1);
	}
}

static int fill_put(struct store_replica *r, struct entry *fill)
{
	enum map_which which = r->shadow_on ? MAP_SHADOW : MAP_HEAD;
	const uint8_t *bits = entry_bitmap(fill);
	const uint64_t *extents = entry_extents(fill);
	uint32_t piece = 0, within = 0;
	for (uint32_t i = 0; i < fill->length_blocks; i++) {
		uint64_t place = 0;
		if (bits[i / 8] >> (i % 8) & 1) {
			place = extent_place(extents[piece]) + within;
			if (++within == extent_length(extents[piece])) {
				piece++;
				within = 0;
			}
		}
		int rc = map_put(r->map, which, fill->address_blocks + i, place,
				 entry_crcs(fill)[i], fill->seq);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static void fills_advance(struct store_replica *r)
{
	while (!list_empty(&r->fills)) {
		struct entry *fill = entry_of(r->fills.next);
		if (r->store->checkpoint.destaging && (fill->state & ENTRY_CUT))
			return;
		if (map_pool_delta_full(r->store->pool) || fill_put(r, fill) < 0)
			return;
		tail_count_add(r, -1);
		if (r->issued.fills > 0)
			r->issued.fills--;
		entry_release(r->store, fill);
	}
}

void replica_advance(struct store_replica *r)
{
	if (r->deleting || r->lost || r->store->hold)
		return;
	if (!r->head_frozen)
		log_advance(r, &r->head, MAP_HEAD);
	if (r->shadow_on)
		log_advance(r, &r->shadow, MAP_SHADOW);
	fills_advance(r);
}

/* ---- life ---- */

struct store_replica *replica_create(struct store *store, uint32_t slot,
				     const struct store_replica_spec *spec,
				     const struct map_root *root)
{
	struct store_replica *r = calloc(1, sizeof(*r));
	if (!r)
		return NULL;
	r->store = store;
	r->spec = *spec;
	r->slot = slot;
	r->head_node = root->head_node;
	r->applied_size_blocks = spec->size_blocks;
	log_init(&r->head, 0, 0);
	log_init(&r->shadow, 0, 0);
	list_init(&r->staged);
	list_init(&r->fills);
	list_init(&r->issued_entries);
	list_init(&r->reads_waiting);
	r->map = map_create(store->pool, root);
	if (!r->map) {
		free(r);
		return NULL;
	}
	assert(!store->slots[slot]);
	store->slots[slot] = r;
	store->slot_end = MAX(store->slot_end, slot + 1);
	if (store->node_next <= root->head_node)
		store->node_next = root->head_node + 1;
	return r;
}

static void list_free_entries(struct store *store, struct list *list)
{
	while (!list_empty(list)) {
		struct entry *e = entry_of(list_pop_front(list));
		entry_free(store, e);
	}
}

void replica_free(struct store_replica *r)
{
	if (!r)
		return;
	struct store *store = r->store;
	list_free_entries(store, &r->head.entries);
	list_free_entries(store, &r->shadow.entries);
	list_free_entries(store, &r->staged);
	list_free_entries(store, &r->fills);
	list_free_entries(store, &r->issued_entries);
	map_destroy(r->map);
	store->slots[r->slot] = NULL;
	while (store->slot_end > 0 && !store->slots[store->slot_end - 1])
		store->slot_end--;
	free(r);
}

void replica_issued_reset(struct store_replica *r)
{
	struct entry *staged = list_empty(&r->staged) ? NULL : entry_of(r->staged.prev);
	r->issued = (struct replica_issued){
		.promised = r->promised,
		.log_epoch = r->log_epoch,
		.last_seq = r->head.last_seq,
		.last_hash = r->head.last_hash,
		.size_blocks = r->spec.size_blocks,
		.shadow = r->shadow_on,
		.shadow_epoch = r->shadow_epoch,
		.shadow_last = r->shadow.last_seq,
		.shadow_hash = r->shadow.last_hash,
		.shadow_size_blocks = r->shadow_size_blocks,
	};
	for (struct list *l = r->shadow.apply_next; l != &r->shadow.entries; l = l->next)
		if (entry_of(l)->op == LOG_RESIZE)
			r->issued.shadow_size_blocks = entry_of(l)->address_blocks;
	list_for_each (link, &r->staged) {
		if (entry_of(link)->op == LOG_RESIZE)
			r->issued.staged_size_blocks = entry_of(link)->address_blocks;
	}
	if (staged) {
		r->issued.staged_base = entry_of(r->staged.next)->seq - 1;
		r->issued.staged_last = staged->seq;
		r->issued.staged_hash = staged->hash;
	}
	list_for_each (link, &r->fills)
		r->issued.fills++;
}

/* ---- stable records ---- */

static void staged_clear(struct store_replica *r)
{
	while (!list_empty(&r->staged))
		entry_drop(r->store, entry_of(r->staged.next));
}

void replica_staged_prune(struct store_replica *r)
{
	if (!list_empty(&r->staged) && entry_of(r->staged.prev)->stage_epoch != r->promised)
		staged_clear(r);
}

static void fills_clear(struct store_replica *r)
{
	while (!list_empty(&r->fills))
		entry_drop(r->store, entry_of(r->fills.next));
	r->issued.fills = 0;
}

static void staged_push(struct store_replica *r, struct entry *e)
{
	if (!list_empty(&r->staged)) {
		struct entry *last = entry_of(r->staged.prev);
		if (e->seq != last->seq + 1 || e->prev_hash != last->hash ||
		    e->stage_epoch != last->stage_epoch)
			staged_clear(r); /* a new run */
	}
	list_push_back(&r->staged, &e->link);
}

/* The size with every entry of the log. */
static void replica_size_update(struct store_replica *r)
{
	r->spec.size_blocks = r->applied_size_blocks;
	for (struct list *l = r->head.apply_next; l != &r->head.entries; l = l->next) {
		if (entry_of(l)->op == LOG_RESIZE)
			r->spec.size_blocks = entry_of(l)->address_blocks;
	}
}

void replica_apply_append(struct store_replica *r, struct entry *e)
{
	e->replica = r;
	tail_count_add(r, 1);
	if (e->state & ENTRY_STAGED) {
		staged_push(r, e);
		return;
	}
	struct replica_log *log = e->state & ENTRY_SHADOW ? &r->shadow : &r->head;
	log_push(log, e);
	log->commit_target = MAX(log->commit_target, e->commit_seq);
	if (e->op == LOG_RESIZE && log == &r->head)
		r->spec.size_blocks = e->address_blocks;
	replica_advance(r);
}

void replica_apply_promise(struct store_replica *r, uint64_t epoch)
{
	if (epoch <= r->promised)
		return;
	r->promised = epoch;
	/* What an older coordinator said about entries that never came is void. */
	r->head.commit_target = MIN(r->head.commit_target, r->head.last_seq);
	staged_clear(r);
	if (r->shadow_on && r->shadow_epoch < epoch)
		replica_apply_shadow_drop(r);
}

static bool adopt_shadow(struct store_replica *r, const struct log_record *record,
			 uint64_t last_hash)
{
	if (!r->shadow_on || r->shadow.last_seq != record->seq || r->shadow.last_hash != last_hash)
		return false;
	struct store *store = r->store;
	staged_clear(r);
	log_clear(store, &r->head);
	struct replica_log old = r->shadow;
	log_init(&r->head, old.applied_seq, old.applied_hash);
	r->head.floor_seq = old.floor_seq;
	r->head.last_seq = old.last_seq;
	r->head.last_hash = old.last_hash;
	r->head.commit_target = MAX(old.commit_target, r->shadow_fill_seq);
	list_splice_back(&r->head.entries, &r->shadow.entries);
	log_find_next(&r->head);
	list_for_each (link, &r->head.entries)
		entry_of(link)->state &= (uint8_t)~ENTRY_SHADOW;
	log_init(&r->shadow, 0, 0);
	map_shadow_adopt(r->map);
	r->head_node = r->shadow_node;
	r->shadow_node = 0;
	r->shadow_on = false;
	r->trim_wanted = true;
	r->applied_size_blocks = r->shadow_size_blocks;
	r->cut_applied_seq = r->cut_shadow_seq;
	r->log_cursor = NULL;
	return true;
}

/* Log hash after seq, which must not be below what the map holds. */
static bool log_hash_at(const struct replica_log *log, uint64_t seq, uint64_t *ret)
{
	*ret = log->applied_hash;
	if (seq == log->applied_seq)
		return true;
	*ret = log->last_hash;
	if (seq == log->last_seq)
		return true;
	for (struct list *l = log->entries.prev; l != &log->entries; l = l->prev) {
		*ret = entry_of(l)->hash;
		if (entry_of(l)->seq == seq)
			return true;
	}
	return false;
}

static bool adopt_staged(struct store_replica *r, const struct log_record *record,
			 uint64_t last_hash)
{
	uint64_t base = record->address_blocks;
	if (base > r->head.last_seq || base < r->head.applied_seq || record->seq < base)
		return false;
	bool tail = record->seq > base;
	uint64_t base_hash;
	if (!log_hash_at(&r->head, base, &base_hash))
		return false;
	if (!tail && base_hash != last_hash)
		return false;
	if (tail) {
		if (list_empty(&r->staged))
			return false;
		struct entry *first = entry_of(r->staged.next), *last = entry_of(r->staged.prev);
		if (first->prev_hash != base_hash || first->seq != base + 1 ||
		    last->seq != record->seq || last->hash != last_hash)
			return false;
	} else {
		staged_clear(r);
	}
	log_truncate(r->store, &r->head, base);
	r->head.last_seq = record->seq;
	r->head.last_hash = last_hash;
	r->head.commit_target = MIN(r->head.commit_target, base);
	list_for_each (link, &r->staged)
		entry_of(link)->state &= (uint8_t)~ENTRY_STAGED;
	list_splice_back(&r->head.entries, &r->staged);
	log_find_next(&r->head);
	if (r->shadow_on)
		replica_apply_shadow_drop(r);
	return true;
}

void replica_suspicion_end(struct store_replica *r)
{
	r->suspect = false;
	r->suspect_after = r->suspect_until = 0;
	r->loss_first_block = r->loss_end_block = 0;
}

bool replica_apply_adopt(struct store_replica *r, const struct log_record *record)
{
	const struct record_adopt_body *body = record->body;
	uint64_t last_hash = le64_get(body->last_hash);
	bool is_shadow = record->flags & RECORD_SHADOW;
	bool damaged = is_shadow ? r->lost : replica_map_damaged(r); /* R6 */
	bool fits =
		is_shadow ? adopt_shadow(r, record, last_hash) : adopt_staged(r, record, last_hash);
	r->promised = MAX(r->promised, record->epoch);
	if (!fits)
		return false;
	r->log_epoch = record->epoch;
	r->head.commit_target = MAX(r->head.commit_target, record->commit_seq);
	r->head_frozen = false;
	if (!damaged)
		replica_suspicion_end(r);
	replica_advance(r);
	replica_size_update(r);
	return true;
}

void replica_apply_accept_loss(struct store_replica *r, uint64_t after, uint64_t until)
{
	if (r->suspect && !replica_map_damaged(r) && r->suspect_after == after &&
	    r->suspect_until == until)
		replica_suspicion_end(r);
}

void replica_apply_lease(struct store_replica *r, uint64_t boot_id, uint64_t term_ns)
{
	r->lease_boot_id = boot_id;
	r->lease_term_ns = term_ns;
}

void replica_apply_delete(struct store_replica *r)
{
	staged_clear(r);
	fills_clear(r);
	log_clear(r->store, &r->head);
	log_clear(r->store, &r->shadow);
	r->deleting = true;
	r->closing = true;
	r->shadow_on = false;
	r->log_cursor = NULL;
}

int replica_apply_shadow_begin(struct store_replica *r, const struct log_record *record)
{
	const struct record_shadow_body *body = record->body;
	r->store->node_next = MAX(r->store->node_next, record->node + 1);
	int rc = map_shadow_begin(r->map, record->node);
	if (rc < 0)
		return rc;
	log_init(&r->shadow, record->seq - 1, le64_get(body->prev_hash));
	r->shadow_on = true;
	r->head_frozen = true;
	r->shadow_node = record->node;
	r->shadow_epoch = record->epoch;
	r->shadow_fill_seq = 0;
	r->settled_seq = MAX(r->settled_seq, record->commit_seq);
	r->shadow_size_blocks = record->length_blocks ? record->length_blocks : r->spec.size_blocks;
	return 0;
}

void replica_apply_shadow_drop(struct store_replica *r)
{
	if (!r->shadow_on)
		return;
	fills_clear(r);
	log_clear(r->store, &r->shadow);
	log_init(&r->shadow, 0, 0);
	map_shadow_drop(r->map);
	r->shadow_on = false;
	r->shadow_node = 0;
	r->head_frozen = false;
	r->trim_wanted = true;
	replica_advance(r);
}

void replica_apply_fill(struct store_replica *r, struct entry *fill)
{
	fill->replica = r;
	tail_count_add(r, 1);
	list_push_back(&r->fills, &fill->link);
	r->shadow_fill_seq = MAX(r->shadow_fill_seq, fill->seq);
	replica_advance(r);
}
