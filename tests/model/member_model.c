/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Explicit-state model of membership: who may vote, how voters and quorum change, who returns.
 *
 * epoch_model.c has the epochs themselves; here q is a field of the record, a change is a
 * compare-and-swap that may be applied late, and disks come back with less than they had.
 *
 * Modelled. Up to four replicas. The record holds voters, q, lineage and, for each voter, the epoch
 * that it is known to have adopted (sync). Any node may take the next epoch at any time; older
 * coordinators live on. Messages are facts that may be used at any later time or never.
 *  M1  A change adds one voter, or removes one, or changes q alone, with q_old + q_new > |old u new|
 *      and 2 q_new > |new| (the legal step). Any such q is tried, not only the majority.
 *  M2  Only the coordinator that opened the current epoch changes it; new writes are held and all
 *      are committed before it asks; q_new of the new voters hold everything; an added learner does.
 *  M3  From the asking on, reads need leases of q voters. The swap may be applied at any later time;
 *      who gives up first writes the record again, which fences a late application.
 *  M4  The next epoch's PREPARE comes from the same process, whose reads under the older epoch are
 *      over: voters do not wait for its leases (RELEASED).
 *  M5  Learners answer PREPARE with a durable promise; it counts for nothing, nor do their acks.
 *      They adopt only from an open epoch.
 *  M6  The open records sync = epoch for the voters that had adopted. A promise whose log epoch is
 *      below the recorded sync is not counted: that replica was rolled back and is filled anew.
 *  M7  After the open a voter counts, for writes and for leases, only when it has adopted and that is
 *      recorded, by a swap that finds the epoch unchanged: who adopts later, and again whoever comes
 *      back from a store that was opened anew (a disk that was rolled back forgot its promises).
 *  M8  Forced recovery: one swap, next epoch, next lineage, voters := those kept. The others are in no
 *      record any more, so nothing fences what they serve: either every older coordinator is over, or
 *      fewer than q voters are left and those not kept are fewer than an old coordinator's reads need.
 * A replica that is no voter of the current record nor asked for may be formatted at any time (the
 * manager deletes it as soon as the record says so). A rolled-back disk holds an image of an
 * epoch before the last one in which it counted (image_since_sync shows why: a newer image is not seen).
 *
 * Left out. Clocks: a lease ends exactly when its voter promises (lease_model.c). A node whose disk
 * was rolled back is taken to wait as long as its lease may last. Copying: who adopts has the log.
 *
 * Invariants.
 *  acked_kept      what an epoch committed is a prefix of the log of every later epoch of its lineage
 *  no_stale_read   no coordinator can serve reads while another has committed more
 *  acked_survives  with no more disks lost than q - 1, a voter of the record holds each acked write
 *  change_ready    (a pause, no loss) the new voters need no copying before the next open
 *
 * State. As in epoch_model.c no column mentions another, so sorting columns is the canonical form.
 */
#include "tests/model/explore.h"

#include <assert.h>
#include <stdint.h>
#include <string.h>

typedef uint8_t u8;

enum { REPLICAS = 4, EPOCHS = 4, LOG_MAX = 2 };
enum stage { NO_EPOCH, SWAPPED, PREPARE, ADOPTING, OPEN };
/* A coordinator's change: asked; given up with the swap still under way; applied; applied unseen. */
enum change { NO_CHANGE, ASKED, GIVEN_UP, APPLIED, APPLIED_UNSEEN };
enum bound { NEVER, BOUND, LOST }; /* the session of a coordinator with a replica */

struct config {
	u8 replicas, voters, quorum, epochs_max, writes_max, losses_max, rollbacks_max;
	u8 quorum_min; /* bound of changes; losses_max is below it */
	bool fixed;    /* no change of members */
	bool recovery;
	/* rules left out */
	bool two_at_once, swap, change_unopened, learner_counts, learner_short, remove_short;
	bool minority_reads, late_swap, write_through, released_reading;
	bool rolled_back_votes, late_adopter_counts, return_unchecked, any_image;
	bool unrecorded_leases, sync_only_at_open;
	bool pauses; /* change_ready is not asked for: looks for a loss */
	bool old_lineage_votes, recover_alive, recover_all_but_kept;
};

typedef u8 entries; /* two bits per entry, the number of the write */

struct promise {
	u8 given, log_epoch, len;
	entries log;
};

struct column {
	u8 promised, log_epoch, len;
	entries log;
	u8 dead;
	u8 sync;    /* in the record: the epoch that it is known to have adopted */
	u8 trusted; /* the last epoch in which it counted; no process knows it */
	struct {
		u8 voter, asked; /* asked: would be a voter after the change */
		u8 bound, adopted, recorded, heard, reported;
		u8 returned; /* only late_adopter_counts */
		u8 sync;     /* as this coordinator read it */
		struct promise promise;
	} in[EPOCHS];
};

struct coordinator {
	u8 stage, len, commit;
	entries log;
	u8 quorum, lineage;
	u8 change, asked_quorum, by_change, reads_stopped;
};

struct state {
	u8 epoch, writes, losses, rollbacks, unready;
	struct coordinator of[EPOCHS];
	struct column col[REPLICAS];
};

static entries log_cut(entries log, u8 len)
{
	return log & (entries)((1u << (2 * len)) - 1);
}

static bool holds(const struct column *r, const struct coordinator *co)
{
	return r->len >= co->commit && log_cut(r->log, co->commit) == log_cut(co->log, co->commit);
}

static int voter_count(const struct state *s, int e)
{
	int count = 0;
	for (int i = 0; i < REPLICAS; i++)
		count += s->col[i].in[e].voter;
	return count;
}

/* M7 */
static bool counted(const struct config *c, const struct column *r, int e)
{
	bool late = c->late_adopter_counts && !r->in[e].returned;
	bool voter = r->in[e].voter && (r->in[e].recorded || late);
	return (voter || c->learner_counts) && r->in[e].adopted;
}

/* ---- the record ---- */

static struct state epoch_next(const struct state *s)
{
	struct state t = *s;
	int e = t.epoch++;
	t.of[e].stage = PREPARE;
	t.of[e].quorum = t.of[e - 1].quorum;
	t.of[e].lineage = t.of[e - 1].lineage;
	for (int i = 0; i < REPLICAS; i++) {
		t.col[i].in[e].voter = t.col[i].in[e - 1].voter;
		t.col[i].in[e].sync = t.col[i].sync;
		t.col[i].in[e - 1].asked = 0; /* a swap that is still under way fails now */
	}
	return t;
}

/* M2: new voters that hold everything, as the coordinator knows it. */
static int ready_count(const struct state *s, int e)
{
	int ready = 0;
	for (int i = 0; i < REPLICAS; i++)
		ready += s->col[i].in[e].asked && s->col[i].in[e].adopted &&
			 s->col[i].in[e].heard >= s->of[e].commit;
	return ready;
}

static bool legal_step(const struct config *c, const struct state *s, int e, u8 q)
{
	int added = 0, removed = 0, old = 0, both = 0, new = 0;
	for (int i = 0; i < REPLICAS; i++) {
		bool was = s->col[i].in[e].voter, is = s->col[i].in[e].asked;
		added += is && !was;
		removed += was && !is;
		old += was;
		new += is;
		both += was || is;
	}
	if (2 * q <= new || q > new)
		return false;
	if (c->two_at_once && added + removed <= 2 && added * removed == 0)
		return true;
	if (c->swap && added == 1 && removed == 1)
		return true;
	return added + removed <= 1 && s->of[e].quorum + q > both;
}

static void change_ask(const struct config *c, struct state *t, struct explore *x, int e)
{
	bool adds = false, removes = false, complete = true;
	for (int i = 0; i < REPLICAS; i++) {
		const struct column *r = &t->col[i];
		if (r->in[e].asked && !r->in[e].voter) {
			adds = true;
			complete &= r->in[e].adopted && r->in[e].heard >= t->of[e].commit;
		}
		removes |= r->in[e].voter && !r->in[e].asked;
	}
	for (u8 q = c->quorum_min ? c->quorum_min : 1; q <= REPLICAS; q++) {
		bool same = !adds && !removes && q == t->of[e].quorum;
		bool excused = (c->learner_short && adds) || (c->remove_short && removes) ||
			       t->of[e].stage != OPEN;
		if (same || !legal_step(c, t, e, q) ||
		    (!excused && (!complete || ready_count(t, e) < q)))
			continue;
		t->of[e].change = ASKED;
		t->of[e].asked_quorum = q;
		explore_emit(x, t, "coordinator %d asks for voters %d%d%d%d, q %d", e + 1,
			     t->col[0].in[e].asked, t->col[1].in[e].asked, t->col[2].in[e].asked,
			     t->col[3].in[e].asked, q);
	}
}

static void expand_ask(const struct config *c, const struct state *s, struct explore *x, int e)
{
	const struct coordinator *co = &s->of[e];
	bool drained = co->commit == co->len || c->write_through;
	bool opened = co->stage == OPEN || (c->change_unopened && co->stage >= PREPARE);
	if (c->fixed || !opened || !drained || co->change != NO_CHANGE || s->epoch != e + 1 ||
	    s->epoch >= c->epochs_max)
		return;
	for (unsigned set = 1; set < 1u << c->replicas; set++) {
		struct state t = *s;
		for (int i = 0; i < c->replicas; i++)
			t.col[i].in[e].asked = set >> i & 1;
		change_ask(c, &t, x, e);
	}
}

/* The swap is applied, given up, or heard of. */
static void expand_change(const struct config *c, const struct state *s, struct explore *x, int e)
{
	u8 change = s->of[e].change;
	bool under_way = (change == ASKED || change == GIVEN_UP) && s->epoch == e + 1;
	if (under_way) {
		struct state t = epoch_next(s);
		int ready = 0;
		t.of[e].change = change == ASKED ? APPLIED : APPLIED_UNSEEN;
		t.of[e + 1].stage = SWAPPED;
		t.of[e + 1].by_change = 1;
		t.of[e + 1].quorum = s->of[e].asked_quorum;
		t.of[e].asked_quorum = 0;
		for (int i = 0; i < REPLICAS; i++) {
			struct column *r = &t.col[i];
			r->in[e + 1].voter = s->col[i].in[e].asked;
			if (r->in[e + 1].voter && !r->in[e].voter) /* added: it holds this epoch */
				r->sync = r->in[e + 1].sync = r->trusted = (u8)(e + 1);
			ready += r->in[e + 1].voter && holds(r, &s->of[e]);
		}
		t.unready = ready < t.of[e + 1].quorum && !t.losses && !t.rollbacks;
		explore_emit(x, &t, "the swap to epoch %d is applied", e + 2);
	}
	if (under_way && change == ASKED) {
		struct state t = *s;
		t.of[e].change = c->late_swap ? GIVEN_UP : NO_CHANGE;
		for (int i = 0; i < REPLICAS && !c->late_swap; i++)
			t.col[i].in[e].asked = 0;
		if (!c->late_swap)
			t.of[e].asked_quorum = 0;
		explore_emit(x, &t, "coordinator %d gives the change up%s", e + 1,
			     c->late_swap ? "" : ", the record written again");
	}
	if (change == APPLIED && s->of[e + 1].stage == SWAPPED) {
		struct state t = *s;
		t.of[e + 1].stage = PREPARE;
		t.of[e].reads_stopped = !c->released_reading;
		explore_emit(x, &t, "coordinator %d goes on as epoch %d", e + 1, e + 2);
	}
}

/* M8. kept: bit set of voters that are left; over: every older coordinator is. */
static void recover(const struct config *c, const struct state *s, struct explore *x, unsigned kept,
		    bool over)
{
	struct state t = epoch_next(s);
	int e = t.epoch - 1, count = 0, left = 0, voters = voter_count(s, e - 1);
	u8 q = s->of[e - 1].quorum;
	for (int i = 0; i < REPLICAS; i++) {
		struct column *r = &t.col[i];
		bool keeps = kept >> i & 1, lives = r->in[e].voter && !r->dead;
		if (keeps && !lives)
			return;
		count += keeps;
		left += lives;
		r->in[e].voter = keeps || (c->old_lineage_votes && r->in[e].voter);
		if (keeps)
			r->sync = r->in[e].sync = r->log_epoch;
	}
	bool unread = left - count < voters - q + 1 || c->recover_all_but_kept;
	if (!over && !(left < q && unread) && !c->recover_alive)
		return;
	for (int older = 0; over && older < e; older++)
		t.of[older].stage = NO_EPOCH;
	t.of[e].lineage++;
	t.of[e].quorum = (u8)(count / 2 + 1);
	explore_emit(x, &t, "epoch %d by force: kept %x, lineage %d%s", e + 1, kept,
		     t.of[e].lineage, over ? ", older coordinators are over" : "");
}

static void expand_record(const struct config *c, const struct state *s, struct explore *x)
{
	u8 lineage = s->of[s->epoch - 1].lineage;
	if (s->epoch >= c->epochs_max)
		return;
	struct state t = epoch_next(s);
	explore_emit(x, &t, "epoch %d is taken", t.epoch);
	for (unsigned kept = 1; c->recovery && lineage == 0 && kept < 1u << REPLICAS; kept++) {
		recover(c, s, x, kept, true);
		recover(c, s, x, kept, false);
	}
}

/* ---- one coordinator and one replica ---- */

/* PREPARE and its promise, the first or again. */
static void step_bind(const struct config *c, const struct state *s, struct explore *x, int e,
		      int i)
{
	struct state t = *s;
	struct column *r = &t.col[i];
	bool again = r->in[e].bound == LOST, voter = r->in[e].voter;
	if (s->of[e].stage < PREPARE || r->in[e].bound == BOUND || r->promised > e + 1 ||
	    (!again && r->promised == e + 1))
		return;
	r->promised = (u8)(e + 1);
	r->in[e].bound = BOUND;
	if (again && !c->return_unchecked) /* M7 */
		r->in[e].recorded = 0;
	if (again && c->late_adopter_counts)
		r->in[e].returned = 1;
	if (r->log_epoch != e + 1 || r->len < r->in[e].heard)
		r->in[e].adopted = r->in[e].heard = r->in[e].reported = 0;
	bool whole = r->log_epoch >= r->in[e].sync || c->rolled_back_votes; /* M6 */
	if (s->of[e].stage == PREPARE && (voter || c->learner_counts) && whole)
		r->in[e].promise = (struct promise){1, r->log_epoch, r->len, r->log};
	explore_emit(x, &t, "r%d promises epoch %d%s (log epoch %d, length %d)%s", i, e + 1,
		     voter ? "" : " as learner", r->log_epoch, r->len,
		     whole ? "" : ", not counted");
}

static void step_adopt(const struct state *s, struct explore *x, int e, int i)
{
	const struct coordinator *co = &s->of[e];
	struct state t = *s;
	struct column *r = &t.col[i];
	bool source = co->stage == OPEN || (r->in[e].voter && co->stage == ADOPTING);
	if (!source || r->promised != e + 1 || r->in[e].bound != BOUND || r->in[e].adopted)
		return;
	r->log_epoch = (u8)(e + 1);
	r->len = r->in[e].reported = r->in[e].heard = co->len;
	r->log = co->log;
	r->in[e].adopted = 1;
	explore_emit(x, &t, "r%d adopts the log of epoch %d, length %d", i, e + 1, co->len);
}

static void step_append(const struct state *s, struct explore *x, int e, int i)
{
	const struct coordinator *co = &s->of[e];
	struct state t = *s;
	struct column *r = &t.col[i];
	if (co->stage != OPEN || r->promised != e + 1 || r->log_epoch != e + 1 ||
	    r->in[e].bound != BOUND || !r->in[e].adopted || r->len >= co->len)
		return;
	r->log = log_cut(co->log, ++r->len);
	r->in[e].reported = r->len;
	explore_emit(x, &t, "r%d appends seq %d of epoch %d", i, r->len, e + 1);
}

static void step_hear(const struct state *s, struct explore *x, int e, int i)
{
	struct state t = *s;
	if (s->col[i].in[e].heard >= s->col[i].in[e].reported)
		return;
	t.col[i].in[e].heard = s->col[i].in[e].reported;
	explore_emit(x, &t, "coordinator %d hears r%d is durable to %d", e + 1, i,
		     t.col[i].in[e].heard);
}

/* M7 */
static void step_record(const struct config *c, const struct state *s, struct explore *x, int e,
			int i)
{
	struct state t = *s;
	struct column *r = &t.col[i];
	if (s->of[e].stage != OPEN || s->epoch != e + 1 || !r->in[e].voter || !r->in[e].adopted ||
	    r->in[e].recorded)
		return;
	if (!c->sync_only_at_open)
		r->sync = r->in[e].sync = (u8)(e + 1);
	r->trusted = (u8)(e + 1);
	r->in[e].recorded = 1;
	explore_emit(x, &t, "coordinator %d records that r%d adopted", e + 1, i);
}

/* ---- one coordinator ---- */

static void step_propose(const struct config *c, const struct state *s, struct explore *x, int e)
{
	struct state t = *s;
	struct coordinator *co = &t.of[e];
	bool held = co->change != NO_CHANGE && co->change != GIVEN_UP && !c->write_through;
	if (co->stage != OPEN || held || co->reads_stopped || s->writes >= c->writes_max ||
	    co->len >= LOG_MAX)
		return;
	co->log |= (entries)(++t.writes << (2 * co->len++));
	explore_emit(x, &t, "coordinator %d proposes write %d", e + 1, t.writes);
}

static void step_choose(const struct state *s, struct explore *x, int e)
{
	struct state t = *s;
	struct promise best = {0};
	int given = 0;
	if (s->of[e].stage != PREPARE)
		return;
	for (int i = 0; i < REPLICAS; i++) {
		struct promise *p = &t.col[i].in[e].promise;
		if (!p->given)
			continue;
		given++;
		if (!best.given || p->log_epoch > best.log_epoch ||
		    (p->log_epoch == best.log_epoch && p->len > best.len))
			best = *p;
		memset(p, 0, sizeof(*p)); /* not needed any more */
	}
	if (given < s->of[e].quorum)
		return;
	t.of[e].stage = ADOPTING;
	t.of[e].len = best.len;
	t.of[e].log = best.log;
	explore_emit(x, &t, "coordinator %d chooses log epoch %d, length %d", e + 1, best.log_epoch,
		     best.len);
}

static void step_open(const struct state *s, struct explore *x, int e)
{
	struct state t = *s;
	int adopted = 0;
	for (int i = 0; i < REPLICAS; i++)
		adopted += s->col[i].in[e].voter && s->col[i].in[e].adopted;
	if (s->of[e].stage != ADOPTING || adopted < s->of[e].quorum || s->epoch != e + 1)
		return;
	t.of[e].stage = OPEN;
	t.of[e].commit = t.of[e].len;
	for (int i = 0; i < REPLICAS; i++) {
		struct column *r = &t.col[i];
		if (!r->in[e].voter || !r->in[e].adopted)
			continue;
		r->sync = r->in[e].sync = r->trusted = (u8)(e + 1);
		r->in[e].recorded = 1;
	}
	explore_emit(x, &t, "coordinator %d: swap opened, commit %d", e + 1, t.of[e].commit);
}

static void step_acknowledge(const struct config *c, const struct state *s, struct explore *x,
			     int e)
{
	for (u8 n = s->of[e].commit + 1; s->of[e].stage == OPEN && n <= s->of[e].len; n++) {
		struct state t = *s;
		int heard = 0;
		for (int i = 0; i < REPLICAS; i++) {
			const struct column *r = &s->col[i];
			heard += counted(c, r, e) && r->in[e].heard >= n;
		}
		if (heard < s->of[e].quorum)
			return;
		t.of[e].commit = n;
		explore_emit(x, &t, "coordinator %d acknowledges seq %d", e + 1, n);
	}
}

/* ---- faults ---- */

static void step_fault(const struct config *c, const struct state *s, struct explore *x, int i)
{
	const struct column *r = &s->col[i];
	struct state t = *s;
	struct column *n = &t.col[i];
	bool voter = r->in[s->epoch - 1].voter;
	if (!voter && !r->in[s->epoch - 1].asked && (r->promised || r->dead) && !c->fixed) {
		n->promised = n->log_epoch = n->len = n->log = n->dead = n->sync = n->trusted = 0;
		for (int e = 0; e < s->epoch; e++) { /* another identity: unknown to all */
			u8 was = n->in[e].voter, sync = n->in[e].sync;
			memset(&n->in[e], 0, sizeof(n->in[e]));
			n->in[e].voter = was;
			n->in[e].sync = sync;
			n->in[e].bound = was ? BOUND : NEVER; /* an old voter never returns */
		}
		explore_emit(x, &t, "r%d, no voter, is formatted", i);
	}
	t = *s;
	if (r->promised && !r->dead && s->losses < c->losses_max) {
		n->dead = 1;
		t.losses++;
		explore_emit(x, &t, "r%d loses its disk and its identity", i);
	}
	t = *s;
	bool older = r->trusted > 1 || c->any_image;
	bool changed = r->promised > 1 || r->log_epoch > 1 || r->len > 0;
	if (voter && !r->dead && r->in[0].voter && older && changed &&
	    s->rollbacks < c->rollbacks_max) {
		n->promised = n->log_epoch = 1;
		n->len = n->log = 0;
		for (int e = 0; e < s->epoch; e++)
			n->in[e].bound = r->in[e].bound ? LOST : NEVER;
		t.rollbacks++;
		explore_emit(x, &t, "r%d is rolled back to its image of epoch 1, length 0", i);
	}
}

/* ---- the model ---- */

static void member_init(const void *config, void *state)
{
	const struct config *c = config;
	struct state *s = state;
	s->epoch = 1;
	s->of[0].stage = OPEN;
	s->of[0].quorum = c->quorum;
	for (int i = 0; i < c->voters; i++) {
		struct column *r = &s->col[i];
		r->promised = r->log_epoch = r->sync = r->trusted = r->in[0].sync = 1;
		r->in[0].voter = r->in[0].adopted = r->in[0].recorded = 1;
		r->in[0].bound = BOUND;
	}
}

static void member_expand(const void *config, const void *state, struct explore *x)
{
	const struct config *c = config;
	const struct state *s = state;
	expand_record(c, s, x);
	for (int e = 0; e < s->epoch; e++) {
		expand_ask(c, s, x, e);
		expand_change(c, s, x, e);
		step_propose(c, s, x, e);
		step_choose(s, x, e);
		step_open(s, x, e);
		step_acknowledge(c, s, x, e);
		for (int i = 0; i < c->replicas; i++) {
			step_hear(s, x, e, i);
			step_record(c, s, x, e, i);
			if (s->col[i].dead)
				continue;
			step_bind(c, s, x, e, i);
			step_adopt(s, x, e, i);
			step_append(s, x, e, i);
		}
	}
	for (int i = 0; i < c->replicas; i++)
		step_fault(c, s, x, i);
}

/* M3, M4: a voter that promised our own next epoch as RELEASED did not wait for our lease. */
static bool reads(const struct config *c, const struct state *s, int e)
{
	const struct coordinator *co = &s->of[e];
	int granted = 0, need = voter_count(s, e) - co->quorum + 1;
	for (int i = 0; i < REPLICAS; i++) {
		const struct column *r = &s->col[i];
		bool released = co->change == APPLIED && r->promised == e + 2;
		granted += r->in[e].voter && r->in[e].bound == BOUND && !r->dead &&
			   (r->in[e].recorded || c->unrecorded_leases) &&
			   (r->promised == e + 1 || released);
	}
	if ((co->change == ASKED || co->change == APPLIED) && !c->minority_reads)
		need = co->quorum;
	return co->stage == OPEN && !co->reads_stopped && granted >= need;
}

static bool survives(const struct state *s, int e)
{
	for (int i = 0; i < REPLICAS; i++) {
		const struct column *r = &s->col[i];
		if (r->in[s->epoch - 1].voter && !r->dead && holds(r, &s->of[e]))
			return true;
	}
	return false;
}

static const char *member_check(const void *config, const void *state)
{
	const struct state *s = state;
	const struct config *c = config;
	for (int e = 0; e < s->epoch; e++) {
		const struct coordinator *old = &s->of[e];
		for (int f = e + 1; f < s->epoch; f++) {
			const struct coordinator *new = &s->of[f];
			if (new->stage == OPEN &&new->lineage == old->lineage &&
			    (new->len < old->commit ||
			     log_cut(new->log, old->commit) != log_cut(old->log, old->commit)))
				return "acked_kept: an acknowledged write is missing in a later "
				       "epoch";
		}
		for (int f = 0; f < s->epoch; f++) {
			bool ahead = s->of[f].lineage > old->lineage
					     ? s->of[f].stage == OPEN
					     : f != e && s->of[f].lineage == old->lineage &&
						       s->of[f].commit > old->commit;
			if (ahead && reads(c, s, e))
				return "no_stale_read: an old coordinator can serve a stale read";
		}
		if (!c->recovery && !survives(s, e))
			return "acked_survives: no voter of the record holds an acknowledged write";
	}
	return s->unready && !c->pauses
		       ? "change_ready: the new voters must be filled before the open"
		       : NULL;
}

static void member_canon(const void *config, void *state)
{
	struct state *s = state;
	(void)config;
	explore_sort(s->col, REPLICAS, sizeof(s->col[0]));
}

static const struct explore_model members = {
	.state_bytes = sizeof(struct state),
	.init = member_init,
	.expand = member_expand,
	.check = member_check,
	.canon = member_canon,
};
static_assert(2 * LOG_MAX <= 8, "a log fits in one byte");

#define SCOPE(...) (&(const struct config){__VA_ARGS__})
/* The quorum's path: voters before, of four replicas. */
#define PATH(voters_, q, epochs, ...)                                              \
	SCOPE(.replicas = 4, .voters = voters_, .quorum = q, .epochs_max = epochs, \
	      .writes_max = 1, __VA_ARGS__)
#define LOSS(epochs, ...)                                                                     \
	SCOPE(.replicas = 3, .voters = 3, .quorum = 2, .epochs_max = epochs, .writes_max = 1, \
	      .losses_max = 1, .quorum_min = 2, __VA_ARGS__)
#define BACK(epochs, ...)                                                                     \
	SCOPE(.replicas = 3, .voters = 3, .quorum = 2, .epochs_max = epochs, .writes_max = 1, \
	      .rollbacks_max = 1, .quorum_min = 2, __VA_ARGS__)
#define FORCE(epochs, ...)                                                                    \
	SCOPE(.replicas = 3, .voters = 3, .quorum = 2, .epochs_max = epochs, .writes_max = 1, \
	      .losses_max = 2, .recovery = true, __VA_ARGS__)
/* On the way from rf 5 to rf 3 there are three voters with q 3: one lease is enough to read. */
#define ALL_OF_3(...)                                                                    \
	SCOPE(.replicas = 3, .voters = 3, .quorum = 3, .epochs_max = 2, .writes_max = 1, \
	      .losses_max = 2, .recovery = true, .fixed = true, __VA_ARGS__)

static const struct explore_case cases[] = {
	{"healthy_rf1", false, &members, PATH(1, 1, 2), PATH(1, 1, 3)},
	{"healthy_rf2", false, &members, PATH(2, 2, 2), PATH(2, 2, 3)},
	{"healthy_rf3", false, &members, PATH(3, 2, 2), PATH(3, 2, 3)},
	{"healthy_rf4", false, &members, PATH(4, 3, 2), PATH(4, 3, 3)},
	{"healthy_disk_lost", false, &members, LOSS(2), LOSS(3)},
	{"healthy_spare_disk_lost", false, &members,
	 PATH(3, 2, 2, .losses_max = 1, .quorum_min = 2),
	 PATH(3, 2, 3, .losses_max = 1, .quorum_min = 2)},
	{"healthy_rolled_back", false, &members, BACK(3, .fixed = true), BACK(4, .fixed = true)},
	{"healthy_changes_rolled_back", false, &members, BACK(2), BACK(3)},
	{"healthy_recovery", false, &members, FORCE(2, .fixed = true), FORCE(3, .fixed = true)},
	{"healthy_recovery_of_3", false, &members, ALL_OF_3(), NULL},
	{"healthy_changes_recovery", false, &members, FORCE(2), FORCE(3)},
	{"two_at_once", true, &members, PATH(3, 2, 3, .two_at_once = true), NULL},
	{"swap", true, &members, PATH(3, 2, 3, .swap = true, .pauses = true), NULL},
	{"change_unopened", true, &members, LOSS(4, .change_unopened = true, .pauses = true), NULL},
	{"learner_counts", true, &members, PATH(3, 2, 3, .learner_counts = true), NULL},
	{"learner_short_promoted", true, &members, PATH(1, 1, 3, .learner_short = true), NULL},
	{"remove_leaves_short", true, &members, LOSS(3, .remove_short = true, .pauses = true),
	 NULL},
	{"read_through_change_with_minority", true, &members, PATH(2, 2, 3, .minority_reads = true),
	 NULL},
	{"late_cas_not_fenced", true, &members, PATH(2, 2, 3, .late_swap = true), NULL},
	{"released_while_reading", true, &members, PATH(2, 2, 3, .released_reading = true), NULL},
	{"write_through_change", true, &members, LOSS(3, .write_through = true, .pauses = true),
	 NULL},
	{"rolled_back_votes", true, &members, BACK(3, .fixed = true, .rolled_back_votes = true),
	 NULL},
	{"late_adopter_counts", true, &members, BACK(3, .fixed = true, .late_adopter_counts = true),
	 NULL},
	{"sync_only_at_open", true, &members, BACK(3, .fixed = true, .sync_only_at_open = true),
	 NULL},
	{"return_unchecked", true, &members, BACK(3, .fixed = true, .return_unchecked = true),
	 NULL},
	{"unrecorded_leases", true, &members, BACK(3, .fixed = true, .unrecorded_leases = true),
	 NULL},
	{"image_since_sync", true, &members, BACK(3, .fixed = true, .any_image = true), NULL},
	{"old_lineage_votes", true, &members, FORCE(4, .fixed = true, .old_lineage_votes = true),
	 NULL},
	{"recover_beside_enough_to_read", true, &members, ALL_OF_3(.recover_all_but_kept = true),
	 NULL},
	{"recover_while_alive", true, &members, FORCE(3, .fixed = true, .recover_alive = true),
	 NULL},
};

int main(int argc, char **argv)
{
	return explore_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
}
