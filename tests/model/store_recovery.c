/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Recovery in the store's model: choose a root, walk the ring, divide rot from torn, rewrite.
 *
 * Three rules here are stricter than the plainest reading of the store's design, because without
 * them the search finds a violation (mutants root_copy_unrepaired and hole_keeps_marks):
 *  R1. When the newest root has one good copy only, the other is rewritten and flushed before
 *      anything else is written: the next root overwrites the older generation, and until then that
 *      one copy would be all there is.
 *  R2. A hole at or below the durable prefix makes every volume's promise and lease unknown, also
 * of volumes whose log is bridged across it: a LEASE or PROMISE has no seq, nothing shows it gone.
 *  R3. What is in the drive's cache counts as read, never as durable: the flush comes before votes.
 */
#include "tests/model/store_state.h"

#include <string.h>

/* Reads the roots (cache included), makes the newest valid one *ret; false = none. */
static bool root_choose(const struct config *c, struct state *t, struct image *ret)
{
	memset(ret, 0, sizeof(*ret));
	for (int copy = 0; copy < 2; copy++) { /* what is in the cache is flushed with the rest */
		if (t->root_pending >> copy & 1)
			t->root[t->writing.gen & 1][copy] = t->writing;
	}
	t->root_pending = 0;
	for (int i = 0; i < 4; i++) {
		if (t->root[i / 2][i % 2].gen > ret->gen)
			*ret = t->root[i / 2][i % 2];
	}
	if (ret->gen && !c->root_copy_unrepaired)
		t->root[ret->gen & 1][0] = t->root[ret->gen & 1][1] = *ret;
	return ret->gen != 0;
}

static bool batch_fits(const struct state *s, const struct image *root, u8 no)
{
	const struct desc *d = desc_read(s, no);
	return d->kind && !d->rotten && d->no == no && d->inc == root->inc &&
	       no < root->next + SLOTS;
}

struct fold {
	struct image image;
	bool hole[VOLS]; /* a hole lies behind and nothing bridged it yet */
};

static void fold_record(struct fold *f, const struct desc *d, bool rewrite)
{
	struct vol_image *v = &f->image.vol[d->vol];
	u8 last = vol_last(v);
	if (d->kind == SEAL || v->suspect)
		return;
	if (f->hole[d->vol] && d->seq == last + (d->kind != MARK))
		f->hole[d->vol] = false;
	if (f->hole[d->vol]) {
		v->suspect = 1;
		v->mark = MARK_WORST;
		return;
	}
	if (d->kind == MARK)
		v->mark = v->mark == MARK_WORST ? MARK_WORST : d->val;
	else /* place 0: to be rewritten from where the descriptor says */
		store_vol_append(v, entry_make(d->val, rewrite ? 0 : d->place));
}

static void fold_hole(const struct config *c, struct fold *f)
{
	for (int v = 0; v < VOLS; v++) {
		f->hole[v] = true;
		if (!c->hole_keeps_marks)
			f->image.vol[v].mark = MARK_WORST;
	}
}

/* The highest durable_prefix in the ring; *ret_stop = where the walk stops; -1 = store lost. */
static int ring_walk(const struct config *c, const struct state *s, const struct image *root,
		     u8 *ret_stop)
{
	u8 no = root->next, prefix = 0;
	for (; batch_fits(s, root, no); no++) {
		if (desc_read(s, no)->durable_prefix > prefix)
			prefix = desc_read(s, no)->durable_prefix;
	}
	*ret_stop = no;
	for (u8 later = no; later <= no + FLIGHT_MAX; later++) {
		const struct desc *d = desc_read(s, later);
		if (batch_fits(s, root, later) && d->durable_prefix > prefix)
			prefix = d->durable_prefix;
	}
	for (int i = 0; i < SLOTS && !c->older_root_votes; i++) {
		const struct desc *d = desc_read(s, (u8)i);
		if (d->kind && !d->rotten && (d->inc > root->inc || d->gen > root->gen))
			return -1;
	}
	return prefix;
}

/* Gives each record that is inline or above the prefix a new place, and submits the copy. */
static bool fold_rewrite(const struct config *c, struct state *t, struct fold *f, u8 used, u8 limit)
{
	for (int v = 0; v < VOLS; v++) {
		struct vol_image *vol = &f->image.vol[v];
		for (int i = 0; i <= vol->tail_count; i++) {
			entry *e = store_vol_entry(vol, i);
			u8 from = entry_place(*e), found;
			if (!entry_val(*e) || (from && from <= PLACES))
				continue;
			for (u8 no = 1; !from && no < limit; no++) {
				const struct desc *d = desc_read(t, no);
				if (d->no == no && d->vol == v && d->val == entry_val(*e) &&
				    (d->kind == INLINE || d->kind == REDIRECT))
					from = d->place;
			}
			found = payload_read(t, from);
			u8 p = store_place_free(c, used);
			if (!p)
				return false;
			used |= place_bit(p);
			t->place_pending[p] = 0;
			if (found)
				t->place_pending[p] = found;
			else
				t->place[p] = GARBAGE;
			*e = entry_make(entry_val(*e), p);
		}
	}
	return true;
}

bool store_recover(const struct config *c, struct state *t)
{
	struct fold f = {0};
	u8 stop;
	int prefix = root_choose(c, t, &f.image) ? ring_walk(c, t, &f.image, &stop) : -1;
	if (prefix < 0) {
		t->mode = LOST;
		if (t->rots < 2)
			store_violate(t, V_LOST);
		return true;
	}
	struct image root = f.image;
	u8 no = root.next, used = store_image_places(&root);
	for (; no < root.next + SLOTS; no++) {
		const struct desc *d = desc_read(t, no);
		bool fits = batch_fits(t, &root, no), above = no > prefix;
		bool data = d->kind == INLINE || d->kind == REDIRECT;
		if (fits && above && data && !c->payload_unchecked &&
		    payload_read(t, d->place) != d->val)
			fits = false;
		if (!fits && (above || c->rot_votes_absence))
			break;
		if (!fits) {
			fold_hole(c, &f);
			continue;
		}
		used |= place_bit(d->place);
		fold_record(&f, d, above);
	}
	for (int v = 0; v < VOLS; v++) {
		if (f.hole[v]) {
			f.image.vol[v].suspect = 1;
			f.image.vol[v].mark = MARK_WORST;
		}
	}
	f.image.gen++;
	f.image.inc++;
	f.image.next = no;
	if (!fold_rewrite(c, t, &f, used, no))
		return false;
	t->writing = f.image;
	t->mode = REWRITE;
	if (c->vote_before_flush)
		store_check_vote(t, &t->writing);
	return true;
}
