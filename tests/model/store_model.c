/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Explicit-state model of one store: batches, log ring, checkpoint roots, crash, rot, recovery.
 *
 * Modelled. Two volumes write one block each, again and again. A batch carries one record (inline
 * write, redirected write, a mark, or a seal); up to three batches are in flight and finish in any
 * order. The ring has four descriptor slots, each with a payload block, all of them reused; the
 * data area has a few places, reused once nothing refers to them. Two root generations alternate,
 * each in two copies. A checkpoint folds what is stable and destages inline payloads. A *power
 * loss* lets any subset of unflushed writes land (a root copy may also be torn); a *kill* leaves
 * any subset in the drive's cache, readable and not durable, so that a later power loss may still
 * take it. Recovery itself may be cut by either. Rot strikes a witnessed descriptor, a payload or a
 * root copy, in the running store or between runs.
 *
 * A *mark* is a record that only this store has: PROMISE or LEASE. It has no seq of its own.
 *
 * Left out. The volume's hash and the batch chain are exact here (seq and batch_no identify their
 * predecessor within an incarnation); the salt (it guards against images of other stores); a torn
 * descriptor (it looks like one that did not land); ADOPT (epoch_model.c shows that it must be
 * atomic, here any single record is); map pages, deltas, tombstones and fill (fill_model.c); the
 * way back from suspicion: a suspect volume stays suspect.
 *
 * Invariants.
 *  exposed_kept       what was acknowledged, read, or voted is never reported absent later
 *  prefix             an unsuspected volume recovers to a prefix of its log, in the right order
 *  promise_kept       an answered mark is known after recovery, or the worst is assumed
 *  payload_kept       the payload of each held record is what was written, or provably rotten
 *  suspect_needs_rot  without rot no crash makes a volume suspect
 *  lost_needs_two     a store declares itself lost only after two failures
 */
#include "tests/model/explore.h"
#include "tests/model/store_state.h"

#include <string.h>

static const char *const violation_names[] = {
	[V_ACK] = "exposed_kept: an acknowledged record is reported absent",
	[V_READ] = "exposed_kept: a record that was read is reported absent",
	[V_VOTE] = "exposed_kept: a record that was voted as held is reported absent",
	[V_PREFIX] = "prefix: a volume recovered to something that is no prefix of its log",
	[V_PROMISE] = "promise_kept: an answered promise or lease is forgotten",
	[V_PAYLOAD] = "payload_kept: a held record's place has another payload",
	[V_SUSPECT] = "suspect_needs_rot: a crash alone made a volume suspect",
	[V_LOST] = "lost_needs_two: the store is lost without two failures",
};

/* ---- the running store ---- */

static void memory_open(struct state *s)
{
	s->mode = RUN;
	s->cur = s->writing;
	s->stable = s->cur.next - 1;
	s->free_below = s->cur.next;
	s->pins_root = store_image_places(&s->cur);
	s->witnessed = s->stable;
}

static void submit(const struct config *c, const struct state *from, struct explore *x, u8 kind,
		   int v)
{
	struct state t = *from;
	int slot = slot_of(t.cur.next);
	struct desc *d = &t.ring_pending[slot];
	memset(d, 0, sizeof(*d));
	d->kind = kind;
	d->no = t.cur.next;
	d->inc = t.cur.inc;
	d->gen = t.cur.gen;
	d->durable_prefix = t.stable;
	d->vol = (u8)v;
	if (kind == MARK) {
		t.marks++;
		d->val = t.cur.vol[v].mark + 1;
		d->seq = store_last_submitted(from, v);
	} else if (kind != SEAL) {
		d->val = ++t.writes;
		d->seq = store_last_submitted(from, v) + 1;
		if (d->seq > SEQ_MAX)
			return;
		t.log[v][d->seq - 1] = d->val;
		d->place = (u8)(PLACES + 1 + slot);
		if (kind == INLINE)
			t.pay_pending[slot] = d->val;
	}
	if (kind == REDIRECT) {
		d->place = store_place_free(c, store_places_used(from));
		if (!d->place)
			return;
		t.place_pending[d->place] = d->val;
		t.pins_new |= place_bit(d->place);
	}
	t.cur.next++;
	store_answer(c, &t);
	static const char *const names[] = {"", "inline write", "redirected write", "mark", "seal"};
	explore_emit(x, &t, "submit batch %d: %s, volume %d, seq %d, value %d, place %d", d->no,
		     names[kind], v, d->seq, d->val, d->place);
}

static bool mark_in_flight(const struct state *s, int v)
{
	for (u8 no = s->stable + 1; no < s->cur.next; no++) {
		const struct desc *d = desc_read(s, no);
		if (d->kind == MARK && d->vol == v)
			return true;
	}
	return false;
}

static bool seal_wanted(const struct state *s)
{
	if (s->cur.next != s->stable + 1)
		return false;
	for (u8 no = s->witnessed + 1; no <= s->stable; no++) {
		const struct desc *d = desc_read(s, no);
		if (d->no == no && d->inc == s->cur.inc && d->kind != SEAL)
			return true;
	}
	return false;
}

static void expand_submit(const struct config *c, const struct state *s, struct explore *x)
{
	if (s->cur.next - 1 - s->stable >= FLIGHT_MAX || s->cur.next >= s->free_below + SLOTS)
		return;
	int vols = s->writes + s->marks == 0 ? 1 : VOLS; /* the volumes are alike */
	for (int v = 0; v < vols; v++) {
		bool suspect = s->cur.vol[v].suspect;
		for (u8 kind = INLINE; kind <= REDIRECT; kind++) {
			if ((c->kinds >> kind & 1) && !suspect && s->writes < c->writes_max)
				submit(c, s, x, kind, v);
		}
		if ((c->kinds >> MARK & 1) && !suspect && s->marks < c->marks_max &&
		    s->cur.vol[v].mark + 1 < MARK_WORST && !mark_in_flight(s, v))
			submit(c, s, x, MARK, v);
	}
	if ((c->kinds >> SEAL & 1) && seal_wanted(s))
		submit(c, s, x, SEAL, 0);
}

/* The store hears that a batch's I/O is done; what is stable by that takes effect. */
static void expand_done(const struct config *c, const struct state *s, struct explore *x)
{
	for (u8 no = s->stable + 1; no < s->cur.next; no++) {
		struct state t = *s;
		int slot = slot_of(no);
		struct desc *d = &t.ring[slot];
		if (s->done >> (no - s->stable - 1) & 1)
			continue;
		*d = t.ring_pending[slot];
		memset(&t.ring_pending[slot], 0, sizeof(*d));
		if (d->kind == INLINE) {
			t.pay[slot] = t.pay_pending[slot];
			t.pay_pending[slot] = 0;
		} else if (d->kind == REDIRECT) {
			t.place[d->place] = t.place_pending[d->place];
			t.place_pending[d->place] = 0;
		}
		if (d->durable_prefix > t.witnessed)
			t.witnessed = d->durable_prefix;
		t.done |= (u8)(1u << (no - s->stable - 1));
		for (; t.done & 1; t.done >>= 1) {
			const struct desc *r = desc_read(&t, ++t.stable);
			struct vol_image *vol = &t.cur.vol[r->vol];
			if (r->kind == MARK) {
				vol->mark = r->val;
				t.mark_no[r->vol] = r->no;
			} else if (r->kind != SEAL) {
				store_vol_append(vol, entry_make(r->val, r->place));
			}
		}
		store_answer(c, &t);
		explore_emit(x, &t, "batch %d is durable, stable to %d, witnessed to %d", no,
			     t.stable, t.witnessed);
	}
}

static bool destage(const struct config *c, struct state *t)
{
	for (int v = 0; v < VOLS; v++) {
		struct vol_image *vol = &t->cur.vol[v];
		for (int i = 0; i <= vol->tail_count; i++) {
			entry *e = store_vol_entry(vol, i);
			if (entry_place(*e) <= PLACES)
				continue;
			u8 p = store_place_free(c, store_places_used(t));
			if (!p)
				return false;
			t->place[p] = payload_read(t, entry_place(*e));
			*e = entry_make(entry_val(*e), p);
		}
	}
	return true;
}

/* Takes a checkpoint; its destaged payloads are flushed before the root is submitted. */
static void expand_checkpoint(const struct config *c, const struct state *s, struct explore *x)
{
	if (s->root_pending || s->checkpoints >= c->checkpoints_max ||
	    s->stable + 1 <= s->free_below)
		return;
	for (int folded = 0; folded < 2; folded++) {
		struct state t = *s;
		bool tails = t.cur.vol[0].tail_count || t.cur.vol[1].tail_count;
		if (folded && !tails)
			continue;
		for (int v = 0; folded && v < VOLS; v++)
			store_vol_fold(&t.cur.vol[v]);
		if (!destage(c, &t))
			continue;
		t.checkpoints++;
		t.pins_old |= t.pins_new;
		t.pins_new = 0;
		for (u8 no = s->stable + 1; no < s->cur.next; no++)
			t.pins_new |= place_bit(desc_read(s, no)->place);
		t.writing = t.cur;
		t.writing.gen = t.cur.gen + 1;
		t.writing.next = t.stable + 1;
		t.root_pending = 3;
		explore_emit(x, &t, "checkpoint to batch %d: root generation %d submitted%s",
			     t.stable, t.writing.gen, folded ? ", all committed" : "");
	}
}

static void root_release(struct state *t)
{
	t->free_below = t->writing.next;
	t->pins_root = store_image_places(&t->writing);
	t->pins_old = 0;
}

static void expand_root_done(const struct config *c, const struct state *s, struct explore *x)
{
	for (int copy = 0; copy < 2; copy++) {
		struct state t = *s;
		if (!(s->root_pending >> copy & 1))
			continue;
		t.root[t.writing.gen & 1][copy] = t.writing;
		t.root_pending &= (u8) ~(1u << copy);
		if (t.mode == ROOT && !t.root_pending) {
			store_check_vote(&t, &t.writing);
			memory_open(&t);
			memset(&t.writing, 0, sizeof(t.writing));
		} else if (t.mode == RUN && !t.root_pending) {
			root_release(&t);
			t.cur.gen = t.writing.gen;
			memset(&t.writing, 0, sizeof(t.writing));
		} else if (t.mode == RUN && c->reuse_before_both) {
			root_release(&t);
		}
		explore_emit(x, &t, "root generation %d copy %d is durable%s", s->writing.gen, copy,
			     t.mode == RUN && s->mode == ROOT ? ": open, votes answered" : "");
	}
	if (c->incarnation_before_root && s->mode == ROOT) {
		struct state t = *s;
		store_check_vote(&t, &t.writing);
		memory_open(&t);
		explore_emit(x, &t, "mutant: open before the root is durable");
	}
}

/* ---- crash and rot ---- */

struct fate_list {
	int count;
	struct {
		u8 *at, *pending; /* payload or place */
		int slot;         /* descriptor, or -1 */
		int copy;         /* root copy, or -1 */
	} item[2 * SLOTS + PLACES + 2];
};

static void fates_gather(struct state *t, struct fate_list *f)
{
	f->count = 0;
	for (int i = 0; i < SLOTS; i++) {
		if (t->ring_pending[i].kind) {
			f->item[f->count].copy = -1;
			f->item[f->count++].slot = i;
		}
	}
	for (int i = 0; i < SLOTS + PLACES; i++) {
		u8 *pending = i < SLOTS ? &t->pay_pending[i] : &t->place_pending[i - SLOTS + 1];
		if (!*pending)
			continue;
		f->item[f->count].slot = f->item[f->count].copy = -1;
		f->item[f->count].at = i < SLOTS ? &t->pay[i] : &t->place[i - SLOTS + 1];
		f->item[f->count++].pending = pending;
	}
	for (int i = 0; i < 2; i++) {
		if (t->root_pending >> i & 1) {
			f->item[f->count].slot = -1;
			f->item[f->count++].copy = i;
		}
	}
}

enum crash { POWER_LOSS, POWER_LOSS_TORN, KILL };

/* One write's fate: it lands (power loss), stays in the cache (kill), or is lost, root copies
 * then perhaps torn. */
static void fate_apply(struct state *t, const struct fate_list *f, int i, bool kept, int crash)
{
	int slot = f->item[i].slot, copy = f->item[i].copy;
	if (kept && crash == KILL)
		return;
	if (slot >= 0) {
		if (kept)
			t->ring[slot] = t->ring_pending[slot];
		memset(&t->ring_pending[slot], 0, sizeof(t->ring_pending[slot]));
	} else if (copy >= 0) {
		struct image *root = &t->root[t->writing.gen & 1][copy];
		if (kept)
			*root = t->writing;
		else if (crash == POWER_LOSS_TORN)
			memset(root, 0, sizeof(*root));
		t->root_pending &= (u8) ~(1u << copy);
	} else {
		if (kept)
			*f->item[i].at = *f->item[i].pending;
		*f->item[i].pending = 0;
	}
}

static void crash_emit(const struct state *s, struct explore *x, unsigned kept, int crash)
{
	static const char *const names[] = {
		[POWER_LOSS] = "power loss, landed",
		[POWER_LOSS_TORN] = "power loss, other root copies torn, landed",
		[KILL] = "kill, in the cache",
	};
	struct state t = *s;
	struct fate_list f;
	fates_gather(&t, &f);
	for (int i = 0; i < f.count; i++)
		fate_apply(&t, &f, i, kept >> i & 1, crash);
	if (!t.root_pending)
		memset(&t.writing, 0, sizeof(t.writing));
	t.mode = DOWN;
	t.crashes++;
	memset(&t.cur, 0, sizeof(t.cur));
	t.stable = t.done = t.free_below = 0;
	t.pins_root = t.pins_old = t.pins_new = 0;
	memset(t.mark_no, 0, sizeof(t.mark_no));
	explore_emit(x, &t, "%s: %d of %d unflushed writes", names[crash], __builtin_popcount(kept),
		     f.count);
}

static void expand_crash(const struct config *c, const struct state *s, struct explore *x)
{
	struct state t = *s;
	struct fate_list f;
	fates_gather(&t, &f);
	if (s->crashes >= c->crashes_max || (s->mode == DOWN && !f.count))
		return;
	for (unsigned kept = 0; kept < 1u << f.count; kept++) {
		crash_emit(s, x, kept, POWER_LOSS);
		if (s->root_pending)
			crash_emit(s, x, kept, POWER_LOSS_TORN);
		if (c->kill_too && s->mode != DOWN)
			crash_emit(s, x, kept, KILL);
	}
}

/* Places whose payload may rot: those of roots and of witnessed records. */
static u8 places_witnessed(const struct state *s)
{
	u8 places = store_image_places(&s->cur);
	for (int i = 0; i < 4; i++)
		places |= store_image_places(&s->root[i / 2][i % 2]);
	for (int i = 0; i < SLOTS; i++) {
		if (s->ring[i].kind == REDIRECT && s->ring[i].no <= s->witnessed)
			places |= place_bit(s->ring[i].place);
	}
	for (int i = 0; i < SLOTS; i++) { /* the place may be in other hands by now */
		if (s->ring[i].no > s->witnessed)
			places &= (u8)~place_bit(s->ring[i].place);
	}
	return places;
}

static void expand_rot(const struct config *c, const struct state *s, struct explore *x)
{
	if (s->rots >= c->rots_max)
		return;
	for (int i = 0; i < SLOTS; i++) {
		const struct desc *d = &s->ring[i];
		struct state t = *s;
		t.rots++;
		if (!d->kind || d->rotten || (d->no > s->witnessed && !c->rot_unwitnessed))
			continue;
		t.ring[i].rotten = 1;
		/* rot before the witness is this replica's one failure: only promises are kept */
		if (d->no > s->witnessed)
			memset(t.exposed, 0, sizeof(t.exposed));
		explore_emit(x, &t, "rot: descriptor of batch %d", d->no);
		t.ring[i].rotten = 0;
		t.pay[i] = ROTTEN;
		if (d->kind == INLINE && d->no <= s->witnessed)
			explore_emit(x, &t, "rot: inline payload of batch %d", d->no);
	}
	for (u8 p = 1; p <= PLACES; p++) {
		struct state t = *s;
		t.rots++;
		t.place[p] = ROTTEN;
		if ((places_witnessed(s) & place_bit(p)) && s->place[p] != GARBAGE)
			explore_emit(x, &t, "rot: payload at place %d", p);
	}
	for (int i = 0; i < 4; i++) {
		struct state t = *s;
		struct image *root = &t.root[i / 2][i % 2];
		t.rots++;
		if (!root->gen)
			continue;
		memset(root, 0, sizeof(*root));
		explore_emit(x, &t, "rot: root generation %d copy %d", s->root[i / 2][i % 2].gen,
			     i % 2);
	}
}

/* ---- recovery: one step to read, one to flush; then the root is written ---- */

static void expand_recovery(const struct config *c, const struct state *s, struct explore *x)
{
	struct state t = *s;
	if (s->mode == DOWN && store_recover(c, &t)) {
		explore_emit(
			x, &t, "recovery: volume 0 to seq %d%s, volume 1 to seq %d%s%s",
			vol_last(&t.writing.vol[0]), t.writing.vol[0].suspect ? " suspect" : "",
			vol_last(&t.writing.vol[1]), t.writing.vol[1].suspect ? " suspect" : "",
			t.mode == LOST ? " (store lost)" : "");
	} else if (s->mode == REWRITE) {
		for (int i = 0; i < SLOTS; i++) {
			if (t.ring_pending[i].kind)
				t.ring[i] = t.ring_pending[i];
			if (t.pay_pending[i])
				t.pay[i] = t.pay_pending[i];
		}
		for (int p = 1; p <= PLACES; p++) {
			if (t.place_pending[p])
				t.place[p] = t.place_pending[p];
		}
		memset(t.ring_pending, 0, sizeof(t.ring_pending));
		memset(t.pay_pending, 0, sizeof(t.pay_pending));
		memset(t.place_pending, 0, sizeof(t.place_pending));
		t.root_pending = 3;
		t.mode = ROOT;
		explore_emit(x, &t, "recovery: flush; root generation %d submitted", t.writing.gen);
	}
}

/* ---- the model ---- */

static void store_init(const void *config, void *state)
{
	struct state *s = state;
	(void)config;
	s->cur.gen = s->cur.inc = s->cur.next = 1;
	s->root[1][0] = s->root[1][1] = s->cur;
	s->free_below = 1;
	s->mode = RUN;
}

static void store_expand(const void *config, const void *state, struct explore *x)
{
	const struct config *c = config;
	const struct state *s = state;
	if (s->mode == LOST)
		return;
	if (s->mode == RUN) {
		expand_submit(c, s, x);
		expand_done(c, s, x);
		expand_checkpoint(c, s, x);
	}
	if (s->root_pending && s->mode != DOWN)
		expand_root_done(c, s, x);
	expand_recovery(c, s, x);
	expand_crash(c, s, x);
	if (s->mode == RUN || s->mode == DOWN)
		expand_rot(c, s, x);
}

static const char *store_check(const void *config, const void *state)
{
	struct state s = *(const struct state *)state;
	(void)config;
	if (s.mode == RUN)
		store_check_payloads(&s, &s.cur);
	return s.violated ? violation_names[s.violated] : NULL;
}

static const struct explore_model store = {
	.state_bytes = sizeof(struct state),
	.init = store_init,
	.expand = store_expand,
	.check = store_check,
};

enum { K_IN = 1 << INLINE, K_RE = 1 << REDIRECT, K_MARK = 1 << MARK, K_SEAL = 1 << SEAL };

/* Scopes: the bounds that matter for a group of rules; the rest stays small. */
#define SCOPE(...) (&(const struct config){__VA_ARGS__})
#define CRASHES(writes, ...)                                                             \
	SCOPE(.kinds = K_IN | K_RE, .writes_max = writes, .crashes_max = 2, .places = 5, \
	      .kill_too = true, __VA_ARGS__)
#define ROT(writes, ...)                                                             \
	SCOPE(.kinds = K_IN | K_RE | K_SEAL, .writes_max = writes, .crashes_max = 1, \
	      .rots_max = 1, .places = 5, __VA_ARGS__)
#define MARKS(writes, ...)                                                           \
	SCOPE(.kinds = K_IN | K_MARK | K_SEAL, .writes_max = writes, .marks_max = 2, \
	      .crashes_max = 1, .rots_max = 1, .places = 5, __VA_ARGS__)
#define ROOTS(writes, crashes, rots, ...)                                           \
	SCOPE(.kinds = K_IN | K_SEAL, .writes_max = writes, .crashes_max = crashes, \
	      .rots_max = rots, .checkpoints_max = 2, .places = 5, __VA_ARGS__)
#define REUSE(writes, crashes, ...)                                                       \
	SCOPE(.kinds = K_RE, .writes_max = writes, .crashes_max = crashes, .rots_max = 1, \
	      .checkpoints_max = 2, .places = 4, __VA_ARGS__)

#define ALL(writes, crashes, ...)                                                           \
	SCOPE(.kinds = K_IN | K_RE | K_MARK | K_SEAL, .writes_max = writes, .marks_max = 1, \
	      .crashes_max = crashes, .rots_max = 1, .checkpoints_max = 1, .places = 5,     \
	      .kill_too = true, __VA_ARGS__)

#define KILLS(writes, crashes, ...)                                               \
	SCOPE(.kinds = K_IN | K_RE, .writes_max = writes, .crashes_max = crashes, \
	      .checkpoints_max = 1, .places = 5, .kill_too = true, __VA_ARGS__)
static const struct explore_case cases[] = {
	{"healthy_crashes", false, &store, CRASHES(3), CRASHES(4)},
	{"healthy_rot", false, &store, ROT(3), ROT(4)},
	{"healthy_marks", false, &store, MARKS(2), MARKS(3)},
	{"healthy_roots", false, &store, ROOTS(2, 2, 1), ROOTS(3, 2, 1)},
	{"healthy_reuse", false, &store, REUSE(3, 1), REUSE(4, 1)},
	{"healthy_kills", false, &store, KILLS(2, 3), KILLS(3, 3)},
	{"healthy_all", false, &store, ALL(1, 1), ALL(2, 1)},
	{"ack_per_volume", true, &store, CRASHES(3, .ack_per_volume = true), NULL},
	{"payload_unchecked", true, &store, CRASHES(3, .payload_unchecked = true), NULL},
	{"look_up_before_stable", true, &store, CRASHES(3, .look_up_before_stable = true), NULL},
	{"vote_before_flush", true, &store, CRASHES(3, .vote_before_flush = true), NULL},
	{"incarnation_before_root", true, &store, CRASHES(3, .incarnation_before_root = true),
	 NULL},
	{"rot_votes_absence", true, &store, ROT(3, .rot_votes_absence = true), NULL},
	{"older_root_votes", true, &store, ROOTS(2, 2, 2, .older_root_votes = true), NULL},
	{"reuse_before_both", true, &store, REUSE(3, 1, .reuse_before_both = true), NULL},
	{"mark_before_witness", true, &store,
	 MARKS(2, .rot_unwitnessed = true, .mark_before_witness = true), NULL},
	{"hole_keeps_marks", true, &store, MARKS(2, .hole_keeps_marks = true), NULL},
	{"root_copy_unrepaired", true, &store, ROOTS(2, 2, 1, .root_copy_unrepaired = true), NULL},
};

int main(int argc, char **argv)
{
	return explore_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
}
