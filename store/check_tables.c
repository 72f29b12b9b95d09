/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store check: the tables of the newest root, and the maps that the volume table names.
 *
 * T1 A chain is followed from the root's pointer by place and crc; a block reached twice ends it, so damaged
 *    pointers make no loop.
 * T2 The tail continues each volume's log: by seq and log hash from what the map holds to the last entry
 *    that the volume's table entry claims.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "store/check_impl.h"
#include "store/map.h"

#define MAP_CACHE_BYTES    (4ull << 20)
#define MAP_DELTA_BYTES    (1ull << 20)
#define DIR_ENTRIES        (TABLE_ENTRY_BYTES / sizeof(struct block_ptr))
#define VOLUME_FLAGS_KNOWN (VOLUME_DELETING | VOLUME_SUSPECT | VOLUME_SHADOW)

/* ---- chains ---- */

static int chain_grow(struct check_chain *chain)
{
	uint32_t max = chain->max ? chain->max * 2 : 16;
	char *blocks = realloc(chain->blocks, (size_t)max * BLOCK_BYTES);

	if (!blocks)
		return -ENOMEM;
	chain->blocks = blocks;
	chain->max = max;
	return 0;
}

/* One table block into offline->block. False: a finding was made. */
static bool table_load(struct check *c, const struct block_ptr *at, enum table_kind kind,
		       const char *what)
{
	uint64_t place = le64_get(at->place);

	if (!check_ref(c, place, what))
		return false;
	int rc = offline_table(c->offline, at, kind);
	if (rc < 0)
		check_find(c, "%s: block at place %llu is damaged or unreadable", what,
			   (unsigned long long)place);
	return rc == 0;
}

/* T1 */
int check_chain_load(struct check *c, struct block_ptr at, enum table_kind kind, const char *what,
		     struct check_chain *chain)
{
	while (le64_get(at.place) != 0) {
		if (!table_load(c, &at, kind, what)) {
			c->walk_incomplete = true;
			return 0;
		}
		int rc = chain->count == chain->max ? chain_grow(chain) : 0;
		if (rc < 0)
			return rc;
		memcpy(chain->blocks + (size_t)chain->count++ * BLOCK_BYTES, c->offline->block,
		       BLOCK_BYTES);
		at = ((const struct table_block *)c->offline->block)->next;
	}
	chain->is_whole = true;
	return 0;
}

const struct table_block *check_chain_block(const struct check_chain *chain, uint32_t i)
{
	return (const struct table_block *)(chain->blocks + (size_t)i * BLOCK_BYTES);
}

/* ---- volumes ---- */

static void volume_fields(struct check *c, const struct volume_entry *v)
{
	if (le32_get(v->flags) & ~VOLUME_FLAGS_KNOWN)
		check_find(c, "volume table: unknown flags 0x%x", le32_get(v->flags));
	if (le64_get(v->size_blocks) > STORE_VOLUME_BLOCKS_MAX)
		check_find(c, "volume table: size of %llu blocks",
			   (unsigned long long)le64_get(v->size_blocks));
	if (le64_get(v->commit_seq) > le64_get(v->last_seq))
		check_find(c, "volume table: the map holds seq %llu, the log ends at %llu",
			   (unsigned long long)le64_get(v->commit_seq),
			   (unsigned long long)le64_get(v->last_seq));
	if (le64_get(v->log_epoch) > le64_get(v->promised))
		check_find(c, "volume table: log epoch %llu is above the promise %llu",
			   (unsigned long long)le64_get(v->log_epoch),
			   (unsigned long long)le64_get(v->promised));
	if ((le64_get(v->index_root.place) == 0) != (le32_get(v->index_levels) == 0))
		check_find(c, "volume table: index at place %llu of %u levels",
			   (unsigned long long)le64_get(v->index_root.place),
			   le32_get(v->index_levels));
	if (!(le32_get(v->flags) & VOLUME_SUSPECT))
		return;
	if (le64_get(v->suspect_until) == UINT64_MAX)
		check_find(c, "its log may miss entry %llu and all after it (suspect)",
			   (unsigned long long)le64_get(v->suspect_after) + 1);
	else
		check_find(c, "its log may miss entries %llu to %llu (suspect)",
			   (unsigned long long)le64_get(v->suspect_after) + 1,
			   (unsigned long long)le64_get(v->suspect_until));
}

static void volume_name(struct check_volume *v)
{
	char uuid[UUID_TEXT_BYTES];

	uuid_format(&v->entry.volume_uuid, uuid);
	snprintf(v->name, sizeof(v->name), "volume %s shard %u", uuid, le32_get(v->entry.shard));
}

static void volume_add(struct check *c, const struct volume_entry *entry)
{
	struct check_volume *v = &c->volumes[c->volume_count++];
	uint32_t slot = le32_get(entry->slot);

	*v = (struct check_volume){.entry = *entry,
				   .last_seq = le64_get(entry->commit_seq),
				   .last_hash = le64_get(entry->commit_hash),
				   .shadow_seq = le64_get(entry->shadow_seq),
				   .shadow_hash = le64_get(entry->shadow_hash)};
	volume_name(v);
	c->who = v->name;
	if (slot >= STORE_REPLICAS_MAX || c->by_slot[slot])
		check_find(c, "volume table: slot %u is out of range or twice there", slot);
	else
		c->by_slot[slot] = v;
	volume_fields(c, entry);
	for (uint32_t i = 0; i + 1 < c->volume_count; i++) {
		const struct volume_entry *other = &c->volumes[i].entry;
		if (uuid_equal(&other->volume_uuid, &entry->volume_uuid) &&
		    le32_get(other->shard) == le32_get(entry->shard) &&
		    !((le32_get(other->flags) | le32_get(entry->flags)) & VOLUME_DELETING))
			check_find(c, "volume table: it is twice there");
	}
	c->who = NULL;
}

static int check_volumes(struct check *c)
{
	const uint32_t per_block = TABLE_ENTRY_BYTES / sizeof(struct volume_entry);
	struct check_chain chain = {0};

	int rc = check_chain_load(c, c->root->volumes, TABLE_VOLUMES, "volume table", &chain);
	if (rc == 0) {
		c->volumes = calloc((size_t)chain.count * per_block + 1, sizeof(*c->volumes));
		rc = c->volumes ? 0 : -ENOMEM;
	}
	for (uint32_t i = chain.count; i > 0 && rc == 0; i--) {
		const struct table_block *block = check_chain_block(&chain, i - 1);
		const struct volume_entry *entries = (const struct volume_entry *)(block + 1);
		uint32_t count = le32_get(block->h.count);
		if (count > per_block)
			check_find(c, "volume table: a block with %u entries", count);
		for (uint32_t k = 0; k < MIN(count, per_block); k++)
			volume_add(c, &entries[k]);
	}
	if (rc == 0 && chain.is_whole && c->volume_count != le64_get(c->root->volume_count))
		check_find(c, "volume table: %u volumes, the root says %llu", c->volume_count,
			   (unsigned long long)le64_get(c->root->volume_count));
	free(chain.blocks);
	return rc;
}

/* ---- payload of records ---- */

static bool extent_valid(const struct check *c, const struct log_record *record, uint64_t packed,
			 const struct offline_batch *batch)
{
	uint64_t place = extent_place(packed), length = extent_length(packed);

	if (!(record->flags & RECORD_INLINE))
		return place >= c->offline->data_start && place < c->offline->size_blocks &&
		       length <= c->offline->size_blocks - place;
	if (!batch)
		return false; /* the tail's payload is in the data area */
	uint64_t first = PLACE_RING + batch->head.position % c->offline->ring_blocks;
	return place >= first + batch->head.desc_count &&
	       place + length <= first + batch->head.batch_blocks;
}

/* The volume block of the i-th stored block, counting on from `from`. */
static uint32_t stored_index(const struct log_record *record, uint32_t from)
{
	const uint8_t *bits = record->body;

	if (record->op != RECORD_FILL)
		return from;
	while (from < record->length_blocks && !(bits[from / 8] >> (from % 8) & 1))
		from++;
	return from;
}

void check_record_payload(struct check *c, const struct log_record *record,
			  const struct offline_batch *batch)
{
	uint32_t at = 0;

	for (uint32_t i = 0; i < record->extent_count; i++) {
		uint64_t place = extent_place(record->extents[i]);
		uint32_t length = extent_length(record->extents[i]);
		if (!extent_valid(c, record, record->extents[i], batch)) {
			check_find(c,
				   "record %s of slot %u, seq %llu: place %llu is no place for "
				   "payload",
				   record_op_name(record->op), record->slot,
				   (unsigned long long)record->seq, (unsigned long long)place);
			return;
		}
		for (uint32_t k = 0; k < length; k++) {
			at = stored_index(record, at);
			if (!(record->flags & RECORD_INLINE))
				(void)check_ref(c, place + k, "payload of a record");
			if (at < record->crc_count)
				check_payload_add(c, place + k, record->address_blocks + at,
						  record->crcs[at]);
			at++;
		}
	}
}

/* ---- tail ---- */

static uint64_t record_hash(const struct log_record *r)
{
	struct log_entry entry = {
		.epoch = r->epoch,
		.seq = r->seq,
		.prev_hash = r->prev_hash,
		.time_ms = r->time_ms,
		.op = r->op,
		.flags = r->flags & RECORD_FLUSH_MARK ? LOG_FLUSH_MARK : 0,
		.address_blocks = r->address_blocks,
		.length_blocks = r->length_blocks,
		.crc32c = r->crcs,
	};
	return log_entry_hash(&entry);
}

static void chain_step(struct check *c, const struct log_record *r, uint64_t *seq, uint64_t *hash,
		       bool *is_broken)
{
	if (!*is_broken && (r->seq != *seq + 1 || r->prev_hash != *hash)) {
		*is_broken = true;
		check_find(c, "tail table: entry %llu does not follow entry %llu",
			   (unsigned long long)r->seq, (unsigned long long)*seq);
	}
	*seq = r->seq;
	*hash = record_hash(r);
}

/* T2 */
static void tail_follows(struct check *c, struct check_volume *v, const struct log_record *r)
{
	if (r->op == RECORD_FILL || le32_get(v->entry.flags) & VOLUME_DELETING)
		return;
	if (r->flags & RECORD_SHADOW) {
		chain_step(c, r, &v->shadow_seq, &v->shadow_hash, &v->shadow_broken);
		return;
	}
	if (!(r->flags & RECORD_STAGED)) {
		chain_step(c, r, &v->last_seq, &v->last_hash, &v->log_broken);
		return;
	}
	if (v->staged_seq == 0) {
		v->staged_seq = r->seq - 1;
		v->staged_hash = r->prev_hash;
		v->staged_epoch = r->stage_epoch;
	}
	if (r->stage_epoch != v->staged_epoch)
		check_find(c, "tail table: staged entries of epochs %llu and %llu",
			   (unsigned long long)v->staged_epoch, (unsigned long long)r->stage_epoch);
	chain_step(c, r, &v->staged_seq, &v->staged_hash, &v->staged_broken);
}

static void tail_record(struct check *c, const struct log_record *record)
{
	struct check_volume *v = c->by_slot[record->slot];

	c->who = v ? v->name : NULL;
	if (!v)
		check_find(c, "tail table: an entry of slot %u, which has no volume", record->slot);
	else
		tail_follows(c, v, record);
	check_record_payload(c, record, NULL);
	check_payload_flush(c);
	c->who = NULL;
}

/* Records of one block; their number. */
static uint64_t tail_block(struct check *c, const struct table_block *block)
{
	const char *at = (const char *)(block + 1);
	size_t left = le32_get(block->h.count);
	uint64_t records = 0;

	if (left > TABLE_ENTRY_BYTES) {
		check_find(c, "tail table: a block with %zu bytes", left);
		return 0;
	}
	while (left > 0) {
		struct log_record record;
		struct err err = {0};
		size_t bytes;
		if (record_decode(at, left, &record, &bytes, &err) < 0) {
			check_find(c, "tail table: %s", err_text(&err));
			c->walk_incomplete = true;
			break;
		}
		tail_record(c, &record);
		records++;
		at += bytes;
		left -= bytes;
	}
	return records;
}

static void tail_ends(struct check *c)
{
	for (uint32_t i = 0; i < c->volume_count; i++) {
		struct check_volume *v = &c->volumes[i];
		if (le32_get(v->entry.flags) & VOLUME_DELETING || v->log_broken)
			continue;
		c->who = v->name;
		if (v->last_seq != le64_get(v->entry.last_seq) ||
		    v->last_hash != le64_get(v->entry.last_hash))
			check_find(c,
				   "tail table: the log ends at %llu, the volume table says %llu%s",
				   (unsigned long long)v->last_seq,
				   (unsigned long long)le64_get(v->entry.last_seq),
				   v->last_seq == le64_get(v->entry.last_seq) ? " with another hash"
									      : "");
	}
	c->who = NULL;
}

static int check_tail(struct check *c)
{
	struct check_chain chain = {0};
	uint64_t records = 0;

	int rc = check_chain_load(c, c->root->tail, TABLE_TAIL, "tail table", &chain);
	for (uint32_t i = chain.count; i > 0 && rc == 0; i--)
		records += tail_block(c, check_chain_block(&chain, i - 1));
	if (rc == 0 && chain.is_whole) {
		tail_ends(c);
		if (records != le64_get(c->root->tail_records))
			check_find(c, "tail table: %llu records, the root says %llu",
				   (unsigned long long)records,
				   (unsigned long long)le64_get(c->root->tail_records));
	}
	free(chain.blocks);
	return rc;
}

/* ---- space ---- */

static void space_segment(struct check *c, const struct segment_entry *entry, uint64_t segment)
{
	uint64_t blocks = c->offline->size_blocks - c->offline->data_start;
	uint64_t words[SEGMENT_BLOCKS / 64], first = segment * SEGMENT_BLOCKS;
	uint32_t live = 0;

	memcpy(words, entry->bitmap, sizeof(words));
	for (uint32_t b = 0; b < SEGMENT_BLOCKS; b++) {
		if (!check_bit(words, b))
			continue;
		live++;
		if (first + b >= blocks) {
			check_find(c, "space table: segment %llu marks blocks beyond the data area",
				   (unsigned long long)segment);
			words[b / 64] &= ~(1ull << (b % 64));
		}
	}
	if (live != le16_get(entry->live))
		check_find(c, "space table: segment %llu counts %u blocks in use and marks %u",
			   (unsigned long long)segment, le16_get(entry->live), live);
	memcpy(c->referenced + first / 64, words, sizeof(words));
}

/* One TABLE_SPACE block; false: unreadable. */
static bool space_table(struct check *c, const struct block_ptr *at, uint64_t table)
{
	uint64_t blocks = c->offline->size_blocks - c->offline->data_start;
	uint64_t first = table * SEGMENTS_PER_TABLE_BLOCK;
	uint64_t segments = DIV_UP(blocks, SEGMENT_BLOCKS) - first;
	uint32_t count = (uint32_t)MIN(segments, (uint64_t)SEGMENTS_PER_TABLE_BLOCK);

	if (le64_get(at->place) == 0)
		return true; /* all free */
	if (!table_load(c, at, TABLE_SPACE, "space table"))
		return false;
	const struct table_block *block = (const struct table_block *)c->offline->block;
	const struct segment_entry *entries = (const struct segment_entry *)(block + 1);
	if (le32_get(block->h.count) != count) {
		check_find(c, "space table: block at place %llu has %u segments, not %u",
			   (unsigned long long)le64_get(at->place), le32_get(block->h.count),
			   count);
		return false;
	}
	for (uint32_t i = 0; i < count; i++)
		space_segment(c, &entries[i], first + i);
	return true;
}

static int check_space_table(struct check *c)
{
	uint64_t blocks = c->offline->size_blocks - c->offline->data_start;
	uint64_t tables =
		DIV_UP(DIV_UP(blocks, SEGMENT_BLOCKS), (uint64_t)SEGMENTS_PER_TABLE_BLOCK);
	struct check_chain chain = {0};
	uint64_t table = 0, marked = 0;

	int rc = check_chain_load(c, c->root->space, TABLE_SPACE_DIR, "space directory", &chain);
	c->space_known = rc == 0 && chain.is_whole;
	for (uint32_t i = 0; i < chain.count && rc == 0; i++) {
		const struct table_block *block = check_chain_block(&chain, i);
		const struct block_ptr *entries = (const struct block_ptr *)(block + 1);
		uint32_t count = le32_get(block->h.count);
		for (uint32_t k = 0; k < MIN(count, DIR_ENTRIES) && table < tables; k++, table++)
			c->space_known &= space_table(c, &entries[k], table);
	}
	if (rc == 0 && chain.count > 0 && c->space_known && table != tables)
		check_find(c, "space directory: %llu table blocks, the data area has %llu",
			   (unsigned long long)table, (unsigned long long)tables);
	free(chain.blocks);
	for (size_t w = 0; w < c->bitmap_bytes / sizeof(uint64_t); w++)
		marked += (uint64_t)__builtin_popcountll(c->referenced[w]);
	if (c->space_known && marked != le64_get(c->root->live_blocks))
		check_find(c, "space table: %llu blocks are marked in use, the root says %llu",
			   (unsigned long long)marked,
			   (unsigned long long)le64_get(c->root->live_blocks));
	return rc;
}

int check_tables(struct check *c)
{
	int rc = check_volumes(c);

	if (rc == 0)
		rc = check_tail(c);
	if (rc == 0)
		rc = check_runs(c);
	return rc == 0 ? check_space_table(c) : rc;
}

/* ---- maps ---- */

struct map_check {
	struct check *check;
	const struct volume_entry *entry;
	uint64_t data_blocks;
	char what[48];
};

static void map_ref(void *ctx, uint64_t place, uint32_t count, bool is_data, uint32_t crc,
		    uint64_t block)
{
	struct map_check *m = ctx;

	if (is_data)
		snprintf(m->what, sizeof(m->what), "map: block %llu", (unsigned long long)block);
	else
		snprintf(m->what, sizeof(m->what), "map: index block or page");
	if (is_data && block >= le64_get(m->entry->size_blocks))
		check_find(m->check, "map: block %llu is beyond the volume's end",
			   (unsigned long long)block);
	for (uint32_t i = 0; i < count; i++)
		(void)check_ref(m->check, place + i, m->what);
	m->data_blocks += is_data ? count : 0;
	if (is_data)
		check_payload_add(m->check, place, block, crc);
}

static void map_line(void *ctx, const char *line)
{
	struct map_check *m = ctx;

	check_find(m->check, "%s", line);
	m->check->walk_incomplete = true;
}

static int check_map(struct check *c, struct map_pool *pool, const struct check_volume *v)
{
	struct map_root root = {
		.index = v->entry.index_root,
		.levels = le32_get(v->entry.index_levels),
		.head_node = le32_get(v->entry.head_node),
		.other_node = le32_get(v->entry.shadow_node),
		.used_blocks = le64_get(v->entry.used_blocks),
	};
	struct map_check m = {.check = c, .entry = &v->entry};
	struct map *map = map_create(pool, &root);
	uint64_t findings = c->findings;

	if (!map)
		return -ENOMEM;
	c->who = v->name;
	int rc = map_walk(c->co, map, map_ref, map_line, &m);
	/* A second node's pages are counted in full, shared blocks and all: nothing to compare with. */
	if (rc == 0 && findings == c->findings && root.other_node == 0 &&
	    m.data_blocks != root.used_blocks)
		check_find(c, "map: %llu blocks hold data, the volume table says %llu",
			   (unsigned long long)m.data_blocks, (unsigned long long)root.used_blocks);
	check_payload_flush(c);
	c->who = NULL;
	map_destroy(map);
	return rc == -ENOMEM ? rc : 0; /* the rest was said */
}

int check_maps(struct check *c)
{
	struct offline *o = c->offline;
	struct space_geometry geometry = {
		.data_start = o->data_start, .size_blocks = o->size_blocks, .store_uuid = o->uuid};
	struct map_pool_config config = {.cache_bytes = MAP_CACHE_BYTES,
					 .delta_bytes = MAP_DELTA_BYTES,
					 .store_uuid = o->uuid};
	struct space *space = space_create(&o->device, &geometry);
	struct map_pool *pool = space ? map_pool_create(&o->device, space, &config) : NULL;
	int rc = pool ? 0 : -ENOMEM;

	for (uint32_t i = 0; i < c->volume_count && rc == 0; i++)
		rc = check_map(c, pool, &c->volumes[i]);
	co_sleep(c->co, 0); /* out of the cache's callback before it is freed */
	map_pool_destroy(pool);
	space_destroy(space);
	return rc;
}
