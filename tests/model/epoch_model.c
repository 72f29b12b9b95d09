/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Explicit-state model of the volume protocol: epochs, promises, adoption, membership, leases.
 *
 * Modelled. Up to four replicas, at most rf = 3 of them voters, q = 2. Any node may take the next
 * epoch by compare-and-swap; older coordinators live on as zombies and never learn it unless a
 * replica tells them. A message is not an object: a coordinator's step may use any fact that was
 * ever true of its epoch (its log, the highest position a replica reported), at any later time or
 * never, which covers loss, delay, duplication and reordering. Recoveries stop half done, replicas
 * crash, a voter loses its disk, a non-voter is reformatted. Membership: one add or one remove per
 * epoch, only by the coordinator that opened the current one. Reads: under a lease from
 * voters - q + 1 voters; a lease is a voter that has promised no newer epoch yet (amendment 4 and
 * the waiting rules make that so), so a state in which an old coordinator still holds enough of
 * them while a newer one has committed more is a possible stale read.
 *
 * Left out. Clocks (a lease ends exactly when its voter promises), log holes, suspect entries and
 * checksums (store_model.c), flow control, more than one write in one log entry, learners' copying.
 *
 * Invariants.
 *  acked_kept      what an epoch committed is a prefix of the log of every later epoch that opened
 *  no_stale_read   no coordinator can serve reads while another has committed more
 *
 * State. Everything about replica i, in itself and in the eyes of each coordinator, is in column i
 * and no column mentions another, so sorting the columns is the canonical form under renaming.
 */
#include "tests/model/explore.h"

#include <assert.h>
#include <stdint.h>
#include <string.h>

typedef uint8_t u8;

enum { REPLICAS = 4, QUORUM = 2, RF = 3, EPOCHS = 4, LOG_MAX = 3 };
enum stage { NO_EPOCH, PREPARE, ADOPTING, OPEN };

struct config {
	u8 replicas, epochs_max, writes_max, log_max;
	bool membership;
	bool lease_from_minority; /* lease from voters - q + 1 instead of q voters */
	/* rules left out */
	bool adopt_in_steps, no_promise_check, longest_log_wins, blank_disk_votes, no_read_quorum;
	bool serve_before_adopt, direct_swap, change_unopened, read_through_change;
};

/* A log: two bits per entry, the number of the write. */
typedef u8 entries;

struct promise {
	u8 given, log_epoch, len;
	entries log;
};

/* Replica i and what the coordinator of each epoch knows of it. */
struct column {
	u8 promised, log_epoch, len;
	entries log;
	u8 known_commit, adopting; /* only adopt_in_steps; lost in a crash */
	u8 dead;                   /* disk lost: the identity is gone */
	struct {
		u8 voter, adopted;
		u8 reported, heard; /* durable prefix: said, and heard by the coordinator */
		struct promise promise;
	} in[EPOCHS];
};

struct coordinator {
	u8 stage, len, commit;
	entries log;
	u8 source_epoch; /* log_epoch of the chosen source */
	u8 reads_stopped;
};

struct state {
	u8 epoch, writes, disk_lost;
	struct coordinator of[EPOCHS];
	struct column col[REPLICAS];
};

static entries log_cut(entries log, u8 len)
{
	return log & (entries)((1u << (2 * len)) - 1);
}

static entries log_put(entries log, u8 index, u8 write)
{
	return log | (entries)(write << (2 * index));
}

static int voter_count(const struct state *s, int e)
{
	int count = 0;
	for (int i = 0; i < REPLICAS; i++)
		count += s->col[i].in[e].voter;
	return count;
}

/* Voters of epoch e for which `at_least` of the heard prefix holds. */
static int heard_count(const struct state *s, int e, u8 at_least)
{
	int count = 0;
	for (int i = 0; i < REPLICAS; i++)
		count += s->col[i].in[e].voter && s->col[i].in[e].heard >= at_least;
	return count;
}

/* ---- the metadata record ---- */

static struct state epoch_next(const struct state *s)
{
	struct state t = *s;
	int e = t.epoch++;
	t.of[e].stage = PREPARE;
	for (int i = 0; i < REPLICAS; i++)
		t.col[i].in[e].voter = t.col[i].in[e - 1].voter;
	return t;
}

static void change_emit(const struct config *c, struct state *t, struct explore *x, int out, int in)
{
	int e = t->epoch - 1;
	if (out >= 0)
		t->col[out].in[e].voter = 0;
	if (in >= 0)
		t->col[in].in[e].voter = 1;
	if (!c->read_through_change)
		t->of[e - 1].reads_stopped = 1;
	explore_emit(x, t, "CAS epoch %d: voters -r%d +r%d (-1: none)", t->epoch, out, in);
}

static void expand_membership(const struct config *c, const struct state *s, struct explore *x)
{
	int now = s->epoch - 1, voters = voter_count(s, now);
	if (!c->change_unopened && s->of[now].stage != OPEN)
		return;
	for (int i = 0; i < c->replicas; i++) {
		const struct column *r = &s->col[i];
		struct state t = epoch_next(s);
		bool synced = !r->dead && r->log_epoch == s->epoch && r->len >= s->of[now].commit;
		if (r->in[now].voter && voters > QUORUM)
			change_emit(c, &t, x, i, -1);
		else if (!r->in[now].voter && voters < RF && synced)
			change_emit(c, &t, x, -1, i);
		for (int out = 0; c->direct_swap && out < c->replicas; out++) {
			t = epoch_next(s);
			if (!r->in[now].voter && s->col[out].in[now].voter)
				change_emit(c, &t, x, out, i);
		}
	}
}

static void expand_epoch(const struct config *c, const struct state *s, struct explore *x)
{
	if (s->epoch >= c->epochs_max)
		return;
	struct state t = epoch_next(s);
	explore_emit(x, &t, "CAS epoch %d", t.epoch);
	if (c->membership)
		expand_membership(c, s, x);
}

/* ---- one coordinator and one replica ---- */

static void step_promise(const struct state *s, struct explore *x, int e, int i)
{
	const struct column *r = &s->col[i];
	struct state t = *s;
	struct promise *p = &t.col[i].in[e].promise;
	if (s->of[e].stage != PREPARE || !r->in[e].voter || e + 1 <= r->promised || p->given)
		return;
	t.col[i].promised = (u8)(e + 1);
	t.col[i].adopting = 0;
	*p = (struct promise){1, r->log_epoch, r->len, r->log};
	explore_emit(x, &t, "r%d promises epoch %d (log epoch %d, length %d)", i, e + 1,
		     r->log_epoch, r->len);
}

static void step_append(const struct config *c, const struct state *s, struct explore *x, int e,
			int i)
{
	const struct column *r = &s->col[i];
	const struct coordinator *co = &s->of[e];
	bool fenced = r->promised != e + 1 && !c->no_promise_check;
	struct state t = *s;
	if (co->stage != OPEN || fenced || r->log_epoch != e + 1 || r->adopting ||
	    r->len >= co->len)
		return;
	t.col[i].log = log_cut(co->log, ++t.col[i].len);
	t.col[i].in[e].reported = t.col[i].len;
	explore_emit(x, &t, "r%d appends seq %d of epoch %d", i, t.col[i].len, e + 1);
}

static void step_hear(const struct state *s, struct explore *x, int e, int i)
{
	struct state t = *s;
	const struct column *r = &s->col[i];
	if (s->of[e].stage < ADOPTING || !r->in[e].voter || r->in[e].heard >= r->in[e].reported)
		return;
	t.col[i].in[e].heard = r->in[e].reported;
	explore_emit(x, &t, "coordinator %d hears r%d is durable to %d", e + 1, i,
		     t.col[i].in[e].heard);
}

/* A voter adopts while the epoch is being opened or later; a learner only from an open epoch. */
static bool may_adopt(const struct config *c, const struct state *s, int e, int i)
{
	const struct column *r = &s->col[i];
	bool voter = r->in[e].voter;
	bool current =
		r->promised == e + 1 || ((!voter || c->no_promise_check) && r->promised < e + 1);
	bool source = s->of[e].stage == OPEN || (voter && s->of[e].stage == ADOPTING);
	return source && current && r->log_epoch < e + 1;
}

static void step_adopt(const struct config *c, const struct state *s, struct explore *x, int e,
		       int i)
{
	const struct coordinator *co = &s->of[e];
	struct state t = *s;
	struct column *r = &t.col[i];
	if (!may_adopt(c, s, e, i))
		return;
	if (c->adopt_in_steps && r->adopting != e + 1) {
		if (r->adopting)
			return;
		r->adopting = (u8)(e + 1);
		if (r->log_epoch != co->source_epoch && r->len > r->known_commit)
			r->len = r->known_commit;
		r->log = log_cut(r->log, r->len);
		explore_emit(x, &t, "r%d starts adopting epoch %d: cut to %d", i, e + 1, r->len);
		return;
	}
	r->promised = r->log_epoch = (u8)(e + 1);
	r->adopting = 0;
	r->len = co->len;
	r->log = co->log;
	r->in[e].reported = co->len;
	r->in[e].adopted = r->in[e].voter;
	explore_emit(x, &t, "r%d adopts the log of epoch %d, length %d%s", i, e + 1, co->len,
		     r->in[e].voter ? "" : ", as learner");
}

/* Only the stepwise mutant needs to know K at a replica. */
static void step_learn_commit(const struct state *s, struct explore *x, int e, int i)
{
	struct state t = *s;
	struct column *r = &t.col[i];
	if (s->of[e].stage != OPEN || r->promised != e + 1 || r->log_epoch != e + 1 ||
	    r->adopting || r->known_commit >= s->of[e].commit || r->len < s->of[e].commit)
		return;
	r->known_commit = s->of[e].commit;
	explore_emit(x, &t, "r%d learns commit %d", i, r->known_commit);
}

/* ---- one coordinator ---- */

static void step_propose(const struct config *c, const struct state *s, struct explore *x, int e)
{
	struct state t = *s;
	struct coordinator *co = &t.of[e];
	if (co->stage != OPEN || s->writes >= c->writes_max || co->len >= c->log_max)
		return;
	co->log = log_put(co->log, co->len++, ++t.writes);
	explore_emit(x, &t, "coordinator %d proposes write %d", e + 1, t.writes);
}

static void step_choose(const struct config *c, const struct state *s, struct explore *x, int e)
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
		bool later = p->log_epoch > best.log_epoch && !c->longest_log_wins;
		bool same = p->log_epoch == best.log_epoch || c->longest_log_wins;
		if (!best.given || later || (same && p->len > best.len))
			best = *p;
		memset(p, 0, sizeof(*p)); /* not needed any more */
	}
	if (given < (c->no_read_quorum ? 1 : QUORUM))
		return;
	t.of[e].stage = c->serve_before_adopt ? OPEN : ADOPTING;
	t.of[e].len = best.len;
	t.of[e].log = best.log;
	t.of[e].source_epoch = best.log_epoch;
	explore_emit(x, &t, "coordinator %d chooses log epoch %d, length %d", e + 1, best.log_epoch,
		     best.len);
}

static void step_open(const struct state *s, struct explore *x, int e)
{
	struct state t = *s;
	int adopted = 0;
	for (int i = 0; i < REPLICAS; i++)
		adopted += s->col[i].in[e].adopted;
	if (s->of[e].stage != ADOPTING || adopted < QUORUM || s->epoch != e + 1)
		return;
	t.of[e].stage = OPEN;
	t.of[e].commit = t.of[e].len;
	explore_emit(x, &t, "coordinator %d: CAS opened, commit %d", e + 1, t.of[e].commit);
}

static void step_acknowledge(const struct state *s, struct explore *x, int e)
{
	for (u8 n = s->of[e].commit + 1; s->of[e].stage == OPEN && n <= s->of[e].len; n++) {
		struct state t = *s;
		if (heard_count(s, e, n) < QUORUM)
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
	bool voter = r->in[s->epoch - 1].voter;
	if (r->known_commit || r->adopting) {
		t.col[i].known_commit = t.col[i].adopting = 0;
		explore_emit(x, &t, "r%d crashes", i);
	}
	if (!c->blank_disk_votes && !c->membership)
		return;
	t = *s;
	struct column *blank = &t.col[i];
	blank->promised = blank->log_epoch = blank->len = blank->log = 0;
	blank->known_commit = blank->adopting = blank->dead = 0;
	if (c->blank_disk_votes && !s->disk_lost) {
		t.disk_lost = 1;
		explore_emit(x, &t, "r%d loses its disk and will vote blank", i);
	} else if (c->membership && !voter && (r->log_epoch || r->dead)) {
		explore_emit(x, &t, "r%d, no voter, is formatted", i);
	} else if (c->membership && voter && r->log_epoch && !r->dead) {
		t = *s;
		t.col[i].dead = 1;
		explore_emit(x, &t, "r%d loses its disk and its identity", i);
	}
}

/* ---- the model ---- */

static void epoch_init(const void *config, void *state)
{
	const struct config *c = config;
	struct state *s = state;
	s->epoch = 1;
	s->of[0].stage = OPEN;
	for (int i = 0; i < c->replicas && i < RF; i++) {
		s->col[i].promised = s->col[i].log_epoch = 1;
		s->col[i].in[0].voter = 1;
	}
}

static void epoch_expand(const void *config, const void *state, struct explore *x)
{
	const struct config *c = config;
	const struct state *s = state;
	expand_epoch(c, s, x);
	for (int e = 0; e < s->epoch; e++) {
		step_propose(c, s, x, e);
		step_choose(c, s, x, e);
		step_open(s, x, e);
		step_acknowledge(s, x, e);
		for (int i = 0; i < c->replicas; i++) {
			step_hear(s, x, e, i);
			if (s->col[i].dead)
				continue;
			step_promise(s, x, e, i);
			step_append(c, s, x, e, i);
			step_adopt(c, s, x, e, i);
			if (c->adopt_in_steps)
				step_learn_commit(s, x, e, i);
		}
	}
	for (int i = 0; i < c->replicas; i++)
		step_fault(c, s, x, i);
}

static bool lease_held(const struct config *c, const struct state *s, int e)
{
	int granted = 0, need = QUORUM;
	for (int i = 0; i < REPLICAS; i++) {
		const struct column *r = &s->col[i];
		granted += r->in[e].voter && r->promised == e + 1 && !r->dead;
	}
	if (c->lease_from_minority)
		need = voter_count(s, e) - QUORUM + 1;
	return s->of[e].stage == OPEN && !s->of[e].reads_stopped &&
	       (granted >= need || c->no_read_quorum);
}

static const char *epoch_check(const void *config, const void *state)
{
	const struct state *s = state;
	for (int e = 0; e < s->epoch; e++) {
		const struct coordinator *old = &s->of[e];
		for (int f = e + 1; f < s->epoch; f++) {
			const struct coordinator *new = &s->of[f];
			if (new->stage == OPEN &&
			    (new->len < old->commit ||
			     log_cut(new->log, old->commit) != log_cut(old->log, old->commit)))
				return "acked_kept: an acknowledged write is missing in a later "
				       "epoch";
		}
		for (int f = 0; f < s->epoch; f++) {
			if (f != e && s->of[f].commit > old->commit && lease_held(config, s, e))
				return "no_stale_read: an old coordinator can serve a stale read";
		}
	}
	return NULL;
}

static void epoch_canon(const void *config, void *state)
{
	struct state *s = state;
	(void)config;
	explore_sort(s->col, REPLICAS, sizeof(s->col[0]));
}

static const struct explore_model epochs = {
	.state_bytes = sizeof(struct state),
	.init = epoch_init,
	.expand = epoch_expand,
	.check = epoch_check,
	.canon = epoch_canon,
};
static_assert(2 * LOG_MAX <= 8, "a log fits in one byte");

#define SCOPE(...) (&(const struct config){__VA_ARGS__})
#define FIXED(epochs, writes, ...) \
	SCOPE(.replicas = 3, .epochs_max = epochs, .writes_max = writes, .log_max = 3, __VA_ARGS__)
#define MEMBERS(epochs, ...)                                                      \
	SCOPE(.replicas = 4, .epochs_max = epochs, .writes_max = 1, .log_max = 2, \
	      .membership = true, __VA_ARGS__)

static const struct explore_case cases[] = {
	{"healthy_writes", false, &epochs, FIXED(3, 2), FIXED(3, 3)},
	{"healthy_epochs", false, &epochs, FIXED(3, 1), FIXED(4, 1)},
	{"healthy_membership", false, &epochs, MEMBERS(2), MEMBERS(3)},
	{"healthy_leases", false, &epochs, MEMBERS(2, .lease_from_minority = true),
	 MEMBERS(3, .lease_from_minority = true)},
	{"adopt_in_steps", true, &epochs, FIXED(4, 1, .adopt_in_steps = true), NULL},
	{"no_promise_check", true, &epochs, FIXED(3, 2, .no_promise_check = true), NULL},
	{"longest_log_wins", true, &epochs, FIXED(3, 3, .longest_log_wins = true), NULL},
	{"blank_disk_votes", true, &epochs, FIXED(3, 2, .blank_disk_votes = true), NULL},
	{"no_read_quorum", true, &epochs, FIXED(3, 2, .no_read_quorum = true), NULL},
	{"serve_before_adopt", true, &epochs, FIXED(3, 2, .serve_before_adopt = true), NULL},
	{"direct_swap", true, &epochs, MEMBERS(3, .direct_swap = true), NULL},
	{"change_unopened", true, &epochs, MEMBERS(3, .change_unopened = true), NULL},
	{"read_through_change", true, &epochs,
	 MEMBERS(3, .lease_from_minority = true, .read_through_change = true), NULL},
};

int main(int argc, char **argv)
{
	return explore_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
}
