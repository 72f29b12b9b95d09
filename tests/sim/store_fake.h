/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store.h in memory, for simulations of the replica protocol. Include it into one test program
 * only: it defines the functions of store.h.
 *
 * A fake_device is the medium: it belongs to the world and survives the process that has it open.
 * Operations pass one queue in order and take effect when they complete, after a random delay, so what
 * is applied is exactly what is stable. At a crash a random prefix of the queue takes effect and the
 * rest never happened. Every rule that store.h states is enforced here; what no store may ever
 * see (two logs of one epoch that differ, a commit point over entries that differ) aborts the run.
 */
#ifndef HF_TESTS_SIM_STORE_FAKE_H
#define HF_TESTS_SIM_STORE_FAKE_H

#include <errno.h>
#include <stdlib.h>

#include "base/crc32c.h"
#include "store/store.h"
#include "tests/sim/sim.h"

#define FAKE_REPLICAS_MAX 4
#define FAKE_BLOCKS_MAX   1024u
#define FAKE_HASHES       16384u

/* ---- what all devices of a world must agree on ---- */

struct fake_hash {
	uint64_t volume, epoch, seq, hash;
};

struct fake_world {
	struct sim_rng rng;
	struct fake_hash committed[FAKE_REPLICAS_MAX][FAKE_HASHES]; /* by volume and seq */
	struct fake_hash logged[FAKE_HASHES * 4];                   /* (G, seq) -> hash */
	uint64_t delay_max_ns;
	uint32_t batch_max; /* operations that take effect at once; 0: 16 */
	uint32_t checkpoint_ppm, keep_entries;
	uint64_t applied, rotten, shadows_adopted, stages, log_reads, adopts,
		forgotten; /* for coverage */
};

static void fake_must(bool holds, const char *what)
{
	if (holds)
		return;
	fprintf(stderr, "replica invariant broken: %s\n", what);
	abort();
}

/* The newest FAKE_HASHES entries are compared, which is far more than replicas are apart. */
static void fake_agree_committed(struct fake_world *world, uint64_t volume, uint64_t seq,
				 uint64_t hash)
{
	struct fake_hash *at = &world->committed[volume % FAKE_REPLICAS_MAX][seq % FAKE_HASHES];
	fake_must(at->seq != seq || at->hash == hash,
		  "two replicas committed different entries under one seq");
	if (seq > at->seq)
		*at = (struct fake_hash){.seq = seq, .hash = hash};
}

static void fake_agree_logged(struct fake_world *world, uint64_t volume, uint64_t epoch,
			      uint64_t seq, uint64_t hash)
{
	size_t i = (epoch * 1000003 + seq + volume * 104729) % ARRAY_LEN(world->logged);
	struct fake_hash *at = &world->logged[i];
	fake_must(at->volume != volume || at->epoch != epoch || at->seq != seq || at->hash == hash,
		  "two logs of one epoch differ");
	*at = (struct fake_hash){volume, epoch, seq, hash};
}

/* ---- durable state ---- */

struct fake_block { /* contents, shared by log and map of one replica */
	uint32_t refs;
	uint32_t crc;
	bool bad;
	uint8_t data[BLOCK_BYTES];
};

struct fake_version {
	uint64_t seq;             /* of the entry, or of the fill */
	struct fake_block *block; /* NULL: zero */
	bool present;             /* shadow overlay only */
};

struct fake_entry {
	struct log_entry entry;
	uint64_t hash;
	struct fake_block **blocks; /* WRITE */
};

/* Entries base_seq + 1 .. base_seq + count. */
struct fake_log {
	uint64_t base_seq, base_hash;
	uint64_t count, room;
	struct fake_entry *entries;
};

struct store_replica {
	bool used;
	struct fake_device *device;
	struct store_replica_spec spec;
	uint64_t promised, log_epoch, commit_seq;
	uint64_t settled_seq;
	uint64_t lease_boot_id, lease_term_ns;
	struct fake_version map[FAKE_BLOCKS_MAX]; /* folded up to log.base_seq */
	uint64_t map_size_blocks;                 /* then; 0: as created */
	struct fake_log log;
	uint64_t stage_epoch;
	struct fake_log stage;
	bool has_stage;
	/* lost at a crash */
	uint64_t commit_target;
	uint64_t shadow_size_blocks; /* before the shadow's first entry */
	bool has_shadow;
	struct fake_log shadow;
	struct fake_version overlay[FAKE_BLOCKS_MAX];
};

struct fake_device {
	struct fake_world *world;
	struct uuid uuid;
	uint32_t bad_ppm; /* rot of a block, per completion */
	uint32_t slow;    /* so many times slower than the others; 0: not */
	struct store_replica replicas[FAKE_REPLICAS_MAX];
	struct store *open;
};

enum fake_kind {
	FAKE_CREATE,
	FAKE_DELETE,
	FAKE_APPEND,
	FAKE_PROMISE,
	FAKE_ADOPT,
	FAKE_LEASE,
	FAKE_LOG_READ,
	FAKE_READ,
	FAKE_EXTENTS,
	FAKE_REPAIR,
	FAKE_CHANGES,
	FAKE_SHADOW,
	FAKE_DROP,
	FAKE_FILL,
	FAKE_CHECKPOINT
};

struct store {
	struct env *env;
	struct fake_device *device;
	struct list queue; /* struct store_op.link */
	struct env_timer timer;
	uint64_t stalled_until_ns;
};

/* ---- blocks and logs ---- */

static struct fake_block *block_new(const void *data)
{
	struct fake_block *b = malloc(sizeof(*b));
	fake_must(b != NULL, "out of memory");
	b->refs = 1;
	b->bad = false;
	memcpy(b->data, data, BLOCK_BYTES);
	b->crc = crc32c(data, BLOCK_BYTES);
	return b;
}

static struct fake_block *block_ref(struct fake_block *b)
{
	if (b != NULL)
		b->refs++;
	return b;
}

static void block_drop(struct fake_block *b)
{
	if (b != NULL && --b->refs == 0)
		free(b);
}

static void version_set(struct fake_version *v, uint64_t seq, struct fake_block *b)
{
	block_ref(b);
	block_drop(v->block);
	*v = (struct fake_version){seq, b, true};
}

static void entry_drop(struct fake_entry *e)
{
	for (uint64_t i = 0; e->blocks != NULL && i < e->entry.length_blocks; i++)
		block_drop(e->blocks[i]);
	free(e->blocks);
}

static uint64_t log_last(const struct fake_log *log)
{
	return log->base_seq + log->count;
}

static uint64_t log_hash_at(const struct fake_log *log, uint64_t seq)
{
	fake_must(seq >= log->base_seq && seq <= log_last(log),
		  "a hash outside the log is asked for");
	return seq == log->base_seq ? log->base_hash : log->entries[seq - log->base_seq - 1].hash;
}

static void log_push(struct fake_log *log, struct fake_entry e)
{
	if (log->count == log->room) {
		log->room = MAX(log->room * 2, (uint64_t)64);
		log->entries = realloc(log->entries, log->room * sizeof(*log->entries));
		fake_must(log->entries != NULL, "out of memory");
	}
	log->entries[log->count++] = e;
}

static void log_cut(struct fake_log *log, uint64_t last)
{
	while (log_last(log) > last)
		entry_drop(&log->entries[--log->count]);
}

static void log_clear(struct fake_log *log)
{
	log_cut(log, log->base_seq);
	free(log->entries);
	*log = (struct fake_log){0};
}

static bool entry_covers(const struct log_entry *e, uint64_t block)
{
	return (e->op == LOG_WRITE || e->op == LOG_ZERO) && block >= e->address_blocks &&
	       block - e->address_blocks < e->length_blocks;
}

/* The version of a block after entry `upto`. */
static struct fake_version version_at(const struct store_replica *r, uint64_t block, uint64_t upto)
{
	for (uint64_t s = upto; s > r->log.base_seq; s--) {
		const struct fake_entry *e = &r->log.entries[s - r->log.base_seq - 1];
		if (entry_covers(&e->entry, block))
			return (struct fake_version){
				s, e->blocks ? e->blocks[block - e->entry.address_blocks] : NULL,
				true};
	}
	return r->map[block];
}

/* The size with every entry of the log. */
static void size_update(struct store_replica *r)
{
	if (r->map_size_blocks == 0)
		r->map_size_blocks = r->spec.size_blocks;
	r->spec.size_blocks = r->map_size_blocks;
	for (uint64_t i = 0; i < r->log.count; i++)
		if (r->log.entries[i].entry.op == LOG_RESIZE)
			r->spec.size_blocks = r->log.entries[i].entry.address_blocks;
}

static void fold_to(struct store_replica *r, uint64_t upto)
{
	uint64_t n = upto - r->log.base_seq;
	if (n == 0)
		return;
	for (uint64_t i = 0; i < n; i++) {
		struct fake_entry *e = &r->log.entries[i];
		if (e->entry.op == LOG_RESIZE)
			r->map_size_blocks = e->entry.address_blocks;
		for (uint64_t b = 0; b < e->entry.length_blocks && e->entry.op <= LOG_ZERO; b++) {
			struct fake_version *v = &r->map[e->entry.address_blocks + b];
			if (v->seq <= e->entry.seq)
				version_set(v, e->entry.seq, e->blocks ? e->blocks[b] : NULL);
		}
		if (i + 1 == n)
			r->log.base_hash = e->hash;
		entry_drop(e);
	}
	memmove(r->log.entries, r->log.entries + n, (r->log.count - n) * sizeof(*r->log.entries));
	r->log.count -= n;
	r->log.base_seq = upto;
}

static void commit_to(struct store_replica *r, uint64_t commit_seq)
{
	uint64_t k = MIN(commit_seq, log_last(&r->log));
	if (k <= r->commit_seq)
		return;
	for (uint64_t s = MAX(r->commit_seq, r->log.base_seq) + 1; s <= k; s++)
		fake_agree_committed(r->device->world, r->spec.volume_uuid.bytes[0], s,
				     log_hash_at(&r->log, s));
	r->commit_seq = k;
}

static void shadow_clear(struct store_replica *r)
{
	r->has_shadow = false;
	log_clear(&r->shadow);
	for (uint32_t i = 0; i < FAKE_BLOCKS_MAX; i++) {
		block_drop(r->overlay[i].block);
		r->overlay[i] = (struct fake_version){0};
	}
}

static void replica_clear(struct store_replica *r)
{
	struct fake_device *device = r->device;
	shadow_clear(r);
	log_clear(&r->log);
	log_clear(&r->stage);
	for (uint32_t i = 0; i < FAKE_BLOCKS_MAX; i++)
		block_drop(r->map[i].block);
	memset(r, 0, sizeof(*r));
	r->device = device;
}

/* ---- operations, as they take effect ---- */

static int apply_create(struct store *store, struct store_create *c)
{
	struct store_replica *r = store_replica_find(store, &c->spec.volume_uuid, c->spec.shard);
	c->ret_replica = r;
	if (r != NULL)
		return uuid_equal(&r->spec.replica_uuid, &c->spec.replica_uuid) &&
				       r->spec.size_blocks == c->spec.size_blocks
			       ? 0
			       : -EEXIST;
	for (uint32_t i = 0; i < FAKE_REPLICAS_MAX; i++) {
		r = &store->device->replicas[i];
		if (r->used)
			continue;
		r->used = true;
		r->device = store->device;
		r->spec = c->spec;
		c->ret_replica = r;
		return 0;
	}
	return -ENOSPC;
}

static struct fake_entry entry_make(const struct store_append *a)
{
	struct fake_entry e = {.entry = a->entry, .hash = log_entry_hash(&a->entry)};
	e.entry.crc32c = NULL;
	if (a->entry.op != LOG_WRITE)
		return e;
	e.blocks = calloc(a->entry.length_blocks, sizeof(struct fake_block *));
	for (uint64_t i = 0; i < a->entry.length_blocks; i++) {
		fake_must(a->iov_count == 1, "the fake takes one piece");
		e.blocks[i] = block_new((const uint8_t *)a->iov[0].iov_base + i * BLOCK_BYTES);
		fake_must(e.blocks[i]->crc == a->entry.crc32c[i],
			  "an append's payload changed before it was stable");
	}
	return e;
}

static int apply_stage(struct store_replica *r, struct store_append *a)
{
	if (r->promised != a->stage_epoch)
		return -ESTALE;
	r->device->world->stages++;
	bool fresh = !r->has_stage || r->stage_epoch != a->stage_epoch ||
		     a->entry.seq == r->stage.base_seq + 1;
	if (fresh) {
		uint64_t base = a->entry.seq - 1;
		if (base < r->commit_seq || base > log_last(&r->log) ||
		    a->entry.prev_hash != log_hash_at(&r->log, base))
			return -EILSEQ;
		log_clear(&r->stage);
		r->stage.base_seq = base;
		r->stage.base_hash = a->entry.prev_hash;
		r->stage_epoch = a->stage_epoch;
		r->has_stage = true;
	} else if (a->entry.seq != log_last(&r->stage) + 1 ||
		   a->entry.prev_hash != log_hash_at(&r->stage, log_last(&r->stage))) {
		return -EILSEQ;
	}
	log_push(&r->stage, entry_make(a));
	return 0;
}

static int apply_append(struct store_replica *r, struct store_append *a)
{
	struct fake_world *world = r->device->world;
	const struct log_entry *e = &a->entry;
	uint64_t size = a->staged || a->shadow ? FAKE_BLOCKS_MAX : r->spec.size_blocks;
	if (e->op != LOG_RESIZE && (e->length_blocks == 0 || e->address_blocks >= size ||
				    e->length_blocks > size - e->address_blocks))
		return -EINVAL;
	if (e->op == LOG_RESIZE && (e->address_blocks > FAKE_BLOCKS_MAX ||
				    (!a->staged && !a->shadow && e->address_blocks < size)))
		return -EINVAL;
	if (a->staged)
		return apply_stage(r, a);
	struct fake_log *log = a->shadow ? &r->shadow : &r->log;
	if (r->promised != e->epoch || (a->shadow ? !r->has_shadow : r->log_epoch != e->epoch))
		if (!a->shadow || r->promised != e->epoch || !r->has_shadow)
			return -ESTALE;
	if (e->seq != log_last(log) + 1 || e->prev_hash != log_hash_at(log, log_last(log)))
		return -EILSEQ;
	struct fake_entry made = entry_make(a);
	log_push(log, made);
	if (a->shadow) {
		for (uint64_t b = 0; b < e->length_blocks && e->op <= LOG_ZERO; b++)
			if (r->overlay[e->address_blocks + b].seq <= e->seq)
				version_set(&r->overlay[e->address_blocks + b], e->seq,
					    made.blocks ? made.blocks[b] : NULL);
		return 0;
	}
	size_update(r);
	fake_agree_logged(world, r->spec.volume_uuid.bytes[0], e->epoch, e->seq, made.hash);
	commit_to(r, MAX(e->commit_seq, r->commit_target));
	return 0;
}

static int apply_promise(struct store_replica *r, struct store_promise *p)
{
	if (p->epoch <= r->promised)
		return -ESTALE;
	r->promised = p->epoch;
	if (r->has_stage)
		log_clear(&r->stage);
	r->has_stage = false;
	return 0;
}

static int adopt_shadow(struct store_replica *r, struct store_adopt *a)
{
	if (!r->has_shadow || log_last(&r->shadow) != a->last_seq ||
	    log_hash_at(&r->shadow, a->last_seq) != a->last_hash)
		return -EILSEQ;
	fold_to(r, r->commit_seq);
	log_clear(&r->log);
	for (uint32_t i = 0; i < FAKE_BLOCKS_MAX; i++)
		if (r->overlay[i].present)
			version_set(&r->map[i], r->overlay[i].seq, r->overlay[i].block);
	r->map_size_blocks = r->shadow_size_blocks;
	r->log = r->shadow;
	r->shadow = (struct fake_log){0};
	r->commit_seq = MAX(r->commit_seq, r->log.base_seq);
	r->device->world->shadows_adopted++;
	return 0;
}

static int adopt_staged(struct store_replica *r, struct store_adopt *a)
{
	if (a->base_seq < r->commit_seq || a->base_seq > log_last(&r->log) ||
	    a->last_seq < a->base_seq)
		return -EILSEQ;
	if (a->base_seq == a->last_seq) {
		if (log_hash_at(&r->log, a->base_seq) != a->last_hash)
			return -EILSEQ;
		log_cut(&r->log, a->base_seq);
		return 0;
	}
	if (!r->has_stage || r->stage_epoch != a->epoch || r->stage.base_seq != a->base_seq ||
	    log_last(&r->stage) != a->last_seq ||
	    log_hash_at(&r->stage, a->last_seq) != a->last_hash)
		return -EILSEQ;
	log_cut(&r->log, a->base_seq);
	for (uint64_t i = 0; i < r->stage.count; i++)
		log_push(&r->log, r->stage.entries[i]);
	r->stage.count = 0;
	return 0;
}

static int apply_adopt(struct store_replica *r, struct store_adopt *a)
{
	if (r->promised != a->epoch)
		return -ESTALE;
	int rc = a->shadow ? adopt_shadow(r, a) : adopt_staged(r, a);
	if (rc < 0)
		return rc;
	r->device->world->adopts++;
	r->log_epoch = a->epoch;
	size_update(r);
	fake_agree_logged(r->device->world, r->spec.volume_uuid.bytes[0], a->epoch, a->last_seq,
			  a->last_hash);
	if (r->has_stage)
		log_clear(&r->stage);
	r->has_stage = false;
	shadow_clear(r);
	commit_to(r, MAX(a->commit_seq, r->commit_target));
	return 0;
}

static int apply_log_read(struct store_replica *r, struct store_log_read *read)
{
	if (read->seq <= r->log.base_seq || read->seq > log_last(&r->log))
		return -ENODATA;
	r->device->world->log_reads++;
	const struct fake_entry *e = &r->log.entries[read->seq - r->log.base_seq - 1];
	if (e->blocks != NULL && e->entry.length_blocks > read->buf_blocks)
		return -EMSGSIZE;
	read->entry = e->entry;
	read->entry.crc32c = read->crc32c_buf;
	for (uint64_t i = 0; e->blocks != NULL && i < e->entry.length_blocks; i++) {
		if (e->blocks[i]->bad)
			return -EBADMSG;
		read->crc32c_buf[i] = e->blocks[i]->crc;
		memcpy((uint8_t *)read->buf + i * BLOCK_BYTES, e->blocks[i]->data, BLOCK_BYTES);
	}
	return 0;
}

static int apply_read(struct store_replica *r, struct store_read *read)
{
	int rc = 0;
	if (read->address_blocks >= r->spec.size_blocks ||
	    read->length_blocks > r->spec.size_blocks - read->address_blocks)
		return -EINVAL;
	for (uint32_t i = 0; i < read->length_blocks; i++) {
		struct fake_version v =
			version_at(r, read->address_blocks + i,
				   read->committed ? r->commit_seq : log_last(&r->log));
		uint8_t *to =
			read->buf != NULL ? (uint8_t *)read->buf + (size_t)i * BLOCK_BYTES : NULL;
		read->crc32c[i] = v.block ? v.block->crc : CRC32C_ZERO_BLOCK;
		read->block_state[i] = v.block ? STORE_BLOCK_DATA : STORE_BLOCK_ZERO;
		if (v.block != NULL && v.block->bad) {
			read->block_state[i] = STORE_BLOCK_BAD;
			rc = -EBADMSG;
		}
		if (to != NULL && v.block != NULL)
			memcpy(to, v.block->data, BLOCK_BYTES);
		else if (to != NULL)
			memset(to, 0, BLOCK_BYTES);
	}
	return rc;
}

static int apply_extents(struct store_replica *r, struct store_extents *x)
{
	if (x->address_blocks >= r->spec.size_blocks)
		return -EINVAL;
	uint64_t end = MIN(r->spec.size_blocks, x->address_blocks + x->length_blocks);
	x->extents_count = 0;
	x->covered_blocks = 0;
	for (uint64_t b = x->address_blocks; b < end; b++) {
		bool data = version_at(r, b, log_last(&r->log)).block != NULL;
		if (x->extents_count == 0 || x->extents[x->extents_count - 1].data != data) {
			if (x->extents_count == x->extents_max)
				return 0;
			x->extents[x->extents_count++] = (struct store_extent){0, data};
		}
		x->extents[x->extents_count - 1].length_blocks++;
		x->covered_blocks++;
	}
	return 0;
}

static int apply_repair(struct store_replica *r, struct store_repair *repair)
{
	struct fake_version v = version_at(r, repair->address_blocks, log_last(&r->log));
	if (v.block == NULL || v.block->crc != repair->expected_crc32c)
		return -ESTALE;
	fake_must(crc32c(repair->buf, BLOCK_BYTES) == repair->expected_crc32c,
		  "a repair with other data");
	v.block->bad = false;
	return 0;
}

static int apply_changes(struct store_replica *r, struct store_changes *c)
{
	uint64_t chunks = DIV_UP(r->spec.size_blocks, STORE_CHUNK_BLOCKS);
	c->commit_seq = r->commit_seq;
	for (uint64_t chunk = c->chunk_cursor; chunk < chunks; chunk++) {
		bool changed = false;
		for (uint32_t i = 0; i < STORE_CHUNK_BLOCKS; i++) {
			uint64_t block = chunk * STORE_CHUNK_BLOCKS + i;
			c->crc32c[i] = CRC32C_ZERO_BLOCK;
			c->block_state[i] = STORE_BLOCK_ZERO | STORE_BLOCK_OLD;
			if (block >= r->spec.size_blocks)
				continue;
			struct fake_version v = version_at(r, block, r->commit_seq);
			bool old = v.seq <= c->since_seq;
			if (v.block != NULL)
				c->crc32c[i] = v.block->crc;
			c->block_state[i] = v.block == NULL ? STORE_BLOCK_ZERO
					    : v.block->bad  ? STORE_BLOCK_BAD
							    : STORE_BLOCK_DATA;
			changed |= !old;
			if (old && sim_rng_below(&r->device->world->rng, 4) > 0)
				c->block_state[i] |= STORE_BLOCK_OLD;
		}
		if (!changed)
			continue;
		c->chunk = chunk;
		return 0;
	}
	return -ENODATA;
}

static int apply_shadow(struct store_replica *r, struct store_shadow *s)
{
	if (r->promised != s->epoch)
		return -ESTALE;
	if (r->has_shadow)
		return -EBUSY;
	r->has_shadow = true;
	r->settled_seq = MAX(r->settled_seq, s->settled_seq);
	r->shadow_size_blocks = s->size_blocks != 0 ? s->size_blocks : r->spec.size_blocks;
	r->shadow = (struct fake_log){.base_seq = s->first_seq - 1, .base_hash = s->prev_hash};
	return 0;
}

static int apply_fill(struct store_replica *r, struct store_fill *f)
{
	if (!r->has_shadow)
		return -ESTALE;
	if (f->address_blocks + f->length_blocks > FAKE_BLOCKS_MAX)
		return -EINVAL;
	for (uint32_t i = 0; i < f->length_blocks; i++) {
		struct fake_version *v = &r->overlay[f->address_blocks + i];
		if (v->present && v->seq >= f->at_seq)
			continue;
		struct fake_block *b = NULL;
		if (f->block_state[i] == STORE_BLOCK_DATA)
			b = block_new((const uint8_t *)f->buf + (size_t)i * BLOCK_BYTES);
		version_set(v, f->at_seq, b);
		block_drop(b);
	}
	return 0;
}

static int apply(struct store *store, struct store_op *op)
{
	struct store_replica *r = op->replica;
	switch ((enum fake_kind)op->internal[0]) {
	case FAKE_CREATE:
		return apply_create(store, CONTAINER_OF(op, struct store_create, op));
	case FAKE_DELETE:
		replica_clear(r);
		return 0;
	case FAKE_APPEND:
		return apply_append(r, CONTAINER_OF(op, struct store_append, op));
	case FAKE_PROMISE:
		return apply_promise(r, CONTAINER_OF(op, struct store_promise, op));
	case FAKE_ADOPT:
		return apply_adopt(r, CONTAINER_OF(op, struct store_adopt, op));
	case FAKE_LEASE:
		r->lease_boot_id = CONTAINER_OF(op, struct store_lease, op)->boot_id;
		r->lease_term_ns = CONTAINER_OF(op, struct store_lease, op)->term_ns;
		return 0;
	case FAKE_LOG_READ:
		return apply_log_read(r, CONTAINER_OF(op, struct store_log_read, op));
	case FAKE_READ:
		return apply_read(r, CONTAINER_OF(op, struct store_read, op));
	case FAKE_EXTENTS:
		return apply_extents(r, CONTAINER_OF(op, struct store_extents, op));
	case FAKE_REPAIR:
		return apply_repair(r, CONTAINER_OF(op, struct store_repair, op));
	case FAKE_CHANGES:
		return apply_changes(r, CONTAINER_OF(op, struct store_changes, op));
	case FAKE_SHADOW:
		return apply_shadow(r, CONTAINER_OF(op, struct store_shadow, op));
	case FAKE_DROP:
		shadow_clear(r);
		return 0;
	case FAKE_FILL:
		return apply_fill(r, CONTAINER_OF(op, struct store_fill, op));
	case FAKE_CHECKPOINT:
		for (uint32_t i = 0; i < FAKE_REPLICAS_MAX; i++)
			if (store->device->replicas[i].used)
				fold_to(&store->device->replicas[i],
					MAX(store->device->replicas[i].commit_seq,
					    store->device->replicas[i].log.base_seq));
		return 0;
	}
	return -EINVAL;
}

/* Rot, and checkpoints that trim the log. */
static void fake_background(struct fake_device *device)
{
	struct fake_world *world = device->world;
	struct store_replica *r = &device->replicas[sim_rng_below(&world->rng, FAKE_REPLICAS_MAX)];
	if (!r->used)
		return;
	if (sim_rng_chance(&world->rng, world->checkpoint_ppm) &&
	    r->commit_seq > r->log.base_seq + world->keep_entries)
		fold_to(r, r->commit_seq - world->keep_entries);
	if (sim_rng_chance(&world->rng, device->bad_ppm)) {
		struct fake_version *v = &r->map[sim_rng_below(&world->rng, r->spec.size_blocks)];
		if (v->block != NULL)
			v->block->bad = true, world->rotten++;
	}
}

static uint64_t fake_delay(const struct fake_device *device)
{
	struct fake_world *world = device->world;
	return (10000 + sim_rng_below(&world->rng, world->delay_max_ns)) * MAX(device->slow, 1u);
}

static void fake_fire(struct env_timer *timer)
{
	struct store *store = CONTAINER_OF(timer, struct store, timer);
	struct fake_world *world = store->device->world;
	uint64_t batch = 1 + sim_rng_below(&world->rng, world->batch_max ? world->batch_max : 16);
	while (batch-- > 0 && !list_empty(&store->queue)) {
		struct store_op *op =
			CONTAINER_OF(list_pop_front(&store->queue), struct store_op, link);
		/* half of the reads are looked up later: they see entries that were issued after them */
		if (op->internal[0] == FAKE_READ && op->internal[1]++ == 0 &&
		    sim_rng_below(&world->rng, 2) == 0) {
			list_push_back(&store->queue, &op->link);
			continue;
		}
		int rc = apply(store, op);
		world->applied++;
		op->done(op, rc);
	}
	fake_background(store->device);
	if (!list_empty(&store->queue) && !env_timer_armed(&store->timer))
		env_timer_after(store->env, &store->timer, fake_delay(store->device));
}

static void fake_submit(struct store *store, struct store_replica *r, struct store_op *op,
			enum fake_kind kind)
{
	op->replica = r;
	op->internal[0] = kind;
	op->internal[1] = 0;
	list_push_back(&store->queue, &op->link);
	if (!env_timer_armed(&store->timer))
		env_timer_after(store->env, &store->timer, fake_delay(store->device));
}

/* ---- the medium, for the test ---- */

static struct store *fake_open(struct env *env, struct fake_device *device)
{
	struct store *store = calloc(1, sizeof(*store));
	store->env = env;
	store->device = device;
	list_init(&store->queue);
	store->timer.fire = fake_fire;
	device->open = store;
	return store;
}

/* The process died (its memory is still there): some of what was under way took effect. */
static void fake_crash(struct store *store)
{
	struct fake_device *device = store->device;
	uint64_t count = 0;
	list_for_each (n, &store->queue)
		count++;
	for (uint64_t keep = sim_rng_below(&device->world->rng, count + 1); keep > 0; keep--)
		(void)apply(store,
			    CONTAINER_OF(list_pop_front(&store->queue), struct store_op, link));
	for (uint32_t i = 0; i < FAKE_REPLICAS_MAX; i++) {
		shadow_clear(&device->replicas[i]);
		device->replicas[i].commit_target = 0;
	}
	device->open = NULL;
	free(store);
}

/* A broken promise: the last `count` entries are gone when the process comes back. */
__attribute__((unused)) static uint64_t fake_lose(struct store_replica *r, uint64_t count)
{
	count = MIN(count, r->log.count);
	log_cut(&r->log, log_last(&r->log) - count);
	r->commit_seq = MIN(r->commit_seq, log_last(&r->log));
	size_update(r);
	return count;
}

static void fake_free(struct fake_device *device)
{
	for (uint32_t i = 0; i < FAKE_REPLICAS_MAX; i++)
		replica_clear(&device->replicas[i]);
}

/* ---- store.h ---- */

uint64_t log_entry_hash(const struct log_entry *e)
{
	const uint64_t fields[] = {e->epoch,          e->seq,
				   e->time_ms,        (uint64_t)e->op << 8 | e->flags,
				   e->address_blocks, e->length_blocks};
	uint64_t hash = hash64_more(e->prev_hash, fields, sizeof(fields));
	if (e->op == LOG_WRITE)
		hash = hash64_more(hash, e->crc32c, e->length_blocks * 4);
	return hash;
}

void store_info(const struct store *store, struct store_info *ret)
{
	*ret = (struct store_info){.uuid = store->device->uuid, .capacity_blocks = 1 << 20};
}

struct store_replica *store_replica_find(struct store *store, const struct uuid *volume_uuid,
					 uint32_t shard)
{
	for (uint32_t i = 0; i < FAKE_REPLICAS_MAX; i++) {
		struct store_replica *r = &store->device->replicas[i];
		if (r->used && uuid_equal(&r->spec.volume_uuid, volume_uuid) &&
		    r->spec.shard == shard)
			return r;
	}
	return NULL;
}

void store_replica_each(struct store *store, void (*fn)(void *ctx, struct store_replica *replica),
			void *ctx)
{
	for (uint32_t i = 0; i < FAKE_REPLICAS_MAX; i++)
		if (store->device->replicas[i].used)
			fn(ctx, &store->device->replicas[i]);
}

uint64_t store_replica_log_epoch(const struct store_replica *r)
{
	return r->log_epoch;
}

uint64_t store_replica_checkpoint_seq(const struct store_replica *r)
{
	return r->log.base_seq;
}

uint64_t store_free_blocks(const struct store *store)
{
	struct store_info info;
	store_info(store, &info);
	uint64_t used = info.used_blocks + info.reserved_blocks;
	return info.capacity_blocks > used ? info.capacity_blocks - used : 0;
}

void store_replica_info(const struct store_replica *r, struct store_replica_info *ret)
{
	*ret = (struct store_replica_info){
		.spec = r->spec,
		.promised = r->promised,
		.log_epoch = r->log_epoch,
		.last_seq = log_last(&r->log),
		.last_hash = log_hash_at(&r->log, log_last(&r->log)),
		.commit_seq = r->commit_seq,
		.commit_hash = log_hash_at(&r->log, MAX(r->commit_seq, r->log.base_seq)),
		.floor_seq = r->log.base_seq,
		.checkpoint_seq = r->log.base_seq,
		.settled_seq = r->settled_seq,
		.shadow = r->has_shadow,
		.shadow_last_seq = r->has_shadow ? log_last(&r->shadow) : 0,
		.lease_boot_id = r->lease_boot_id,
		.lease_term_ns = r->lease_term_ns,
	};
}

void store_commit(struct store_replica *r, uint64_t commit_seq)
{
	r->commit_target = MAX(r->commit_target, commit_seq);
	commit_to(r, r->commit_target);
}

/* Chunks that are all zeros since then are as if never written. */
void store_settle(struct store_replica *r, uint64_t settled_seq)
{
	r->settled_seq = MAX(r->settled_seq, settled_seq);
	for (uint64_t at = 0; at < FAKE_BLOCKS_MAX; at += STORE_CHUNK_BLOCKS) {
		bool forgotten = !r->has_shadow, any = false;
		for (uint64_t i = at; i < at + STORE_CHUNK_BLOCKS; i++) {
			forgotten = forgotten && r->map[i].block == NULL &&
				    r->map[i].seq <= r->settled_seq;
			any = any || r->map[i].seq != 0;
		}
		for (uint64_t i = at; forgotten && any && i < at + STORE_CHUNK_BLOCKS; i++)
			r->map[i].seq = 0;
		r->device->world->forgotten += forgotten && any;
	}
}

#define FAKE_CALL(name, type, kind)                            \
	void name(struct store_replica *r, struct type *x)     \
	{                                                      \
		fake_submit(r->device->open, r, &x->op, kind); \
	}
FAKE_CALL(store_append, store_append, FAKE_APPEND)
FAKE_CALL(store_promise, store_promise, FAKE_PROMISE)
FAKE_CALL(store_adopt, store_adopt, FAKE_ADOPT)
FAKE_CALL(store_lease, store_lease, FAKE_LEASE)
FAKE_CALL(store_log_read, store_log_read, FAKE_LOG_READ)
FAKE_CALL(store_read, store_read, FAKE_READ)
FAKE_CALL(store_extents, store_extents, FAKE_EXTENTS)
FAKE_CALL(store_repair, store_repair, FAKE_REPAIR)
FAKE_CALL(store_changes, store_changes, FAKE_CHANGES)
FAKE_CALL(store_shadow_begin, store_shadow, FAKE_SHADOW)
FAKE_CALL(store_shadow_fill, store_fill, FAKE_FILL)

void store_replica_create(struct store *store, struct store_create *create)
{
	fake_submit(store, NULL, &create->op, FAKE_CREATE);
}
void store_replica_delete(struct store_replica *r, struct store_op *op)
{
	fake_submit(r->device->open, r, op, FAKE_DELETE);
}
void store_shadow_drop(struct store_replica *r, struct store_op *op)
{
	fake_submit(r->device->open, r, op, FAKE_DROP);
}
void store_checkpoint(struct store *store, struct store_op *op)
{
	fake_submit(store, NULL, op, FAKE_CHECKPOINT);
}

#endif
