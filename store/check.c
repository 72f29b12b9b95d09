/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store check: is what the newest root and its ring say true?
 *
 *   superblocks, roots -> tables -> maps -> ring -> (deep: payload) -> space table against all of it
 *
 * C1 Nothing is written. Nothing of recovery is used: the codecs and map_walk() are the only code that the
 *    running store shares with this.
 * C2 Every block of the data area that the root needs is reached exactly once, and exactly those are
 *    marked in the space table. Blocks that ring records brought since are reached too, and are *not*
 *    marked: the root was written before them.
 * C3 What cannot be read is one finding where it is; that what hangs below it is unreachable
 *    is then said in one more line, not in thousands.
 * C4 A batch above the stable prefix may be torn: that is a crash, and no finding.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "store/check_impl.h"

#define RUNS_REPORTED_MAX 100u

void check_find(struct check *c, const char *format, ...)
{
	char line[CHECK_LINE_BYTES];
	int used = 0;
	va_list args;

	if (c->who)
		used = snprintf(line, sizeof(line), "%s: ", c->who);
	va_start(args, format);
	(void)vsnprintf(line + used, sizeof(line) - (size_t)used, format, args);
	va_end(args);
	c->findings++;
	c->report(c->ctx, line);
}

bool check_ref(struct check *c, uint64_t place, const char *what)
{
	if (!check_place_valid(c, place)) {
		check_find(c, "%s: place %llu is outside the data area", what,
			   (unsigned long long)place);
		return false;
	}
	uint64_t bit = place - c->offline->data_start;
	if (check_bit(c->seen, bit)) {
		check_find(c, "%s: place %llu is referred to twice", what,
			   (unsigned long long)place);
		return false;
	}
	c->seen[bit / 64] |= 1ull << (bit % 64);
	return true;
}

/* ---- fixed places ---- */

static void check_supers(struct check *c)
{
	const struct offline *o = c->offline;
	const struct superblock *a = &o->super[0], *b = &o->super[1];

	for (uint32_t copy = 0; copy < 2; copy++) {
		if (!o->super_good[copy])
			check_find(c, "superblock copy %u at place %llu is bad", copy,
				   (unsigned long long)offline_super_place(o, copy));
	}
	if (!o->super_good[0] || !o->super_good[1])
		return;
	if (!uuid_equal(&a->h.store_uuid, &b->h.store_uuid) ||
	    le64_get(a->size_blocks) != le64_get(b->size_blocks) ||
	    le64_get(a->ring_blocks) != le64_get(b->ring_blocks) ||
	    le64_get(a->data_start) != le64_get(b->data_start))
		check_find(c, "the superblock copies differ");
	uint64_t overflow = MAX(le64_get(a->bad_overflow_place), le64_get(b->bad_overflow_place));
	if (overflow)
		check_find(c, "place %llu cannot be written and the bad-block list is full",
			   (unsigned long long)overflow);
}

static void check_root_slot(struct check *c, uint32_t slot)
{
	const struct offline *o = c->offline;

	for (uint32_t copy = 0; copy < 2; copy++) {
		if (!o->root_good[slot][copy])
			check_find(c, "root slot %u copy %u at place %llu is bad", slot, copy,
				   (unsigned long long)offline_root_place(o, slot, copy));
	}
	if (!o->root_good[slot][0] || !o->root_good[slot][1])
		return;
	if (memcmp(&o->root[slot][0], &o->root[slot][1], sizeof(struct root)) != 0)
		check_find(c, "root slot %u: copy 0 is of generation %llu, copy 1 of %llu", slot,
			   (unsigned long long)le64_get(o->root[slot][0].generation),
			   (unsigned long long)le64_get(o->root[slot][1].generation));
}

/* False: there is no root to go on with. */
static bool check_roots(struct check *c)
{
	const struct offline *o = c->offline;

	check_root_slot(c, 0);
	check_root_slot(c, 1);
	c->root = offline_newest_root(o);
	if (!c->root) {
		check_find(c, "the store is lost: no root is good");
		return false;
	}
	for (uint32_t slot = 0; slot < 2; slot++) {
		if (!o->root_good[slot][0] && !o->root_good[slot][1])
			check_find(c, "the store is lost: both copies of root slot %u are bad",
				   slot);
	}
	uint32_t unknown = le32_get(c->root->feature_required) & ~FEATURES_KNOWN;
	if (unknown)
		check_find(c,
			   "root of generation %llu needs features 0x%x, unknown to this version",
			   (unsigned long long)le64_get(c->root->generation), unknown);
	if (le64_get(c->root->batch_no) != le64_get(c->root->durable_prefix) + 1)
		check_find(c, "root of generation %llu: batch_no and durable_prefix do not fit",
			   (unsigned long long)le64_get(c->root->generation));
	return unknown == 0;
}

/* ---- ring ---- */

struct ring_check {
	struct check *check;
	struct offline_ring ring;
	char name[64]; /* of the batch at hand */
};

static int ring_record(void *ctx, const struct log_record *record)
{
	struct ring_check *r = ctx;

	check_record_payload(r->check, record, r->ring.batch);
	return 0;
}

static void check_ring_batches(struct ring_check *r)
{
	struct check *c = r->check;
	struct offline_batch *b = r->ring.batch;
	bool more = true;

	while (more) {
		more = offline_ring_next(&r->ring);
		c->who = NULL;
		if (b->missing_first != 0)
			check_find(c, "ring: stable batches %llu to %llu are missing",
				   (unsigned long long)b->missing_first,
				   (unsigned long long)b->missing_last);
		if (!more || b->above_prefix)
			break; /* C4 */
		struct err err = {0};
		snprintf(r->name, sizeof(r->name), "ring: batch %llu at place %llu",
			 (unsigned long long)b->head.batch_no,
			 (unsigned long long)(PLACE_RING +
					      b->head.position % c->offline->ring_blocks));
		c->who = r->name;
		if (offline_ring_records(&r->ring, ring_record, r, &err) < 0)
			check_find(c, "%s", err_text(&err));
		check_payload_flush(c);
	}
	c->who = NULL;
}

static int check_ring(struct check *c)
{
	struct ring_check *r = calloc(1, sizeof(*r));

	if (!r)
		return -ENOMEM;
	r->check = c;
	int rc = offline_ring_begin(&r->ring, c->offline, c->root);
	if (rc == 0)
		check_ring_batches(r);
	if (r->ring.lost)
		check_find(c, "the store is lost: the ring holds %s (place %llu)", r->ring.lost,
			   (unsigned long long)(PLACE_RING +
						r->ring.lost_position % c->offline->ring_blocks));
	offline_ring_end(&r->ring);
	free(r);
	return rc;
}

/* ---- the space table against what was reached ---- */

struct run_report {
	struct check *check;
	const char *what;
	uint64_t runs, blocks;
	uint64_t first, count; /* the run at hand */
};

static void run_end(struct run_report *r)
{
	uint64_t place = r->check->offline->data_start + r->first;

	if (r->count == 0)
		return;
	if (r->runs < RUNS_REPORTED_MAX)
		check_find(r->check, "space table: segment %llu: places %llu to %llu are %s",
			   (unsigned long long)(r->first / SEGMENT_BLOCKS),
			   (unsigned long long)place, (unsigned long long)(place + r->count - 1),
			   r->what);
	r->runs++;
	r->count = 0;
}

static void run_add(struct run_report *r, uint64_t bit)
{
	if (r->count > 0 && (bit != r->first + r->count || bit % SEGMENT_BLOCKS == 0))
		run_end(r);
	if (r->count == 0)
		r->first = bit;
	r->count++;
	r->blocks++;
}

static void run_total(struct run_report *r)
{
	run_end(r);
	if (r->runs > RUNS_REPORTED_MAX)
		check_find(r->check, "space table: %llu blocks in %llu runs are %s",
			   (unsigned long long)r->blocks, (unsigned long long)r->runs, r->what);
}

/* C2, C3. Called before the ring's blocks are added to `seen`. */
static void check_space(struct check *c)
{
	struct run_report leaked = {.check = c,
				    .what = "marked in use, but nothing refers to them"};
	struct run_report unmarked = {.check = c, .what = "in use, but marked free"};
	uint64_t unreached = 0;

	for (uint64_t w = 0; w < c->bitmap_bytes / sizeof(uint64_t); w++) {
		for (uint64_t diff = c->seen[w] ^ c->referenced[w]; diff; diff &= diff - 1) {
			uint64_t bit = w * 64 + (uint64_t)__builtin_ctzll(diff);
			if (check_bit(c->seen, bit))
				run_add(&unmarked, bit);
			else if (c->walk_incomplete)
				unreached++;
			else
				run_add(&leaked, bit);
		}
	}
	run_total(&unmarked);
	run_total(&leaked);
	if (unreached > 0)
		check_find(c,
			   "space table: %llu blocks are marked in use that the damage above hides",
			   (unsigned long long)unreached);
}

/* The ring's blocks came after the root: C2 again, from the other side. */
static void ring_blocks_begin(struct check *c)
{
	for (uint64_t w = 0; w < c->bitmap_bytes / sizeof(uint64_t); w++)
		c->seen[w] |= c->referenced[w];
}

/* ---- the whole ---- */

static int check_init(struct check *c)
{
	uint64_t blocks = c->offline->size_blocks - c->offline->data_start;

	c->bitmap_bytes = (size_t)DIV_UP(blocks, SEGMENT_BLOCKS) * (SEGMENT_BLOCKS / 8);
	c->referenced = lazy_alloc(c->bitmap_bytes);
	c->seen = lazy_alloc(c->bitmap_bytes);
	return c->referenced && c->seen ? check_payload_init(c) : -ENOMEM;
}

static void check_free(struct check *c)
{
	co_sleep(c->co, 0); /* out of the callback of the last read before its memory goes */
	check_payload_free(c);
	if (c->referenced)
		lazy_free(c->referenced, c->bitmap_bytes);
	if (c->seen)
		lazy_free(c->seen, c->bitmap_bytes);
	free(c->volumes);
	offline_close(c->offline);
	free(c);
}

static int check_run(struct check *c)
{
	int rc = check_init(c);
	if (rc < 0)
		return rc;
	check_supers(c);
	if (!check_roots(c))
		return 0;
	rc = check_tables(c);
	if (rc == 0)
		rc = check_maps(c);
	if (rc < 0)
		return rc;
	if (c->space_known)
		check_space(c);
	ring_blocks_begin(c);
	return check_ring(c);
}

int store_check(struct co *co, struct env *env, const char *path, bool deep,
		void (*report)(void *ctx, const char *line), void *ctx, uint64_t *findings,
		struct err *err)
{
	struct check *c = calloc(1, sizeof(*c));

	if (!c)
		return err_set(err, -ENOMEM, "store '%s': out of memory", path);
	c->co = co;
	c->deep = deep;
	c->report = report;
	c->ctx = ctx;
	int rc = offline_open(co, env, path, &c->offline, err);
	if (rc == 0) {
		rc = check_run(c);
		if (rc < 0)
			err_set(err, rc, "store '%s': check: %s", path, err_name(rc));
	}
	uint64_t count = c->findings;
	check_free(c);
	if (rc < 0)
		return rc;
	*findings = count;
	if (count > 0)
		return err_set(err, -EUCLEAN, "store '%s': %llu findings", path,
			       (unsigned long long)count);
	return 0;
}
