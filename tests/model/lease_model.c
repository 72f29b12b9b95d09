/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Explicit-state model of read leases, with clocks.
 *
 * Modelled. Voters of one volume, the coordinator of epoch 1 that reads, and the one of epoch 2 that
 * takes over, which is taken to open and to commit a write the moment q voters have promised. A step
 * of the clock moves every countdown of every process; the reader's clock may stand still for
 * drift_max such steps (a clock that is slow against a voter's; its pauses are steps in which it does
 * nothing). Messages between reader and voter keep their order on a stream and may take any time.
 *  L1  A grant counts at the voter from the arrival of the renewal, at the reader from the time it was
 *      sent, less the drift.
 *  L2  PREPARE(2) fences the reader's session and says so in the stream, before any later grant, which
 *      is none for that session. The promise waits until no lease may be out.
 *  L3  The reader's own end of the stream ends its lease, first at the reader. An end that is only the
 *      voter's view (reset, time-out, its own stop) does not: the promise waits the rest of the term.
 *  L4  LEASE is durable before a session of this boot exists. A voter that starts with LEASE waits a
 *      whole term. A clean stop outlives every grant, of this boot or an earlier one, and only then
 *      makes LEASE none durable.
 *  L5  The reader answers a read while voters - q + 1 leases hold, looked at after the read began.
 *  L6  Without leases: voters - q + 1 voters say that they have promised nothing newer, asked after the
 *      read began. Whether the data is asked for before, after or meanwhile does not matter: what a
 *      voter returns under epoch 1 holds all that epoch 1 had committed when the read began.
 *
 * Left out. The data itself and its source (so the fence of the data path is not relied on here),
 * membership (member_model.c), a release of the lease by message.
 *
 * Invariant.
 *  no_stale_read   no read that begins after epoch 2 committed is answered by the reader of epoch 1
 */
#include "tests/model/explore.h"

#include <stdint.h>
#include <string.h>

typedef uint8_t u8;

enum { VOTERS = 3 };
enum stream {
	DOWN,
	UP,
	READER_CLOSED,
	VOTER_BROKE
}; /* the last two: the other end has not noticed */
enum renewal { NONE, SENT, GRANTED };
enum fence { UNTOLD, TELLING };
enum confirm { NOT_ASKED, ASKED, CONFIRMED };

struct config {
	u8 voters, quorum, term, drift_max, breaks_max, restarts_max, stops_max;
	bool confirms; /* readLease off */
	/* rules left out */
	bool from_arrival, no_drift, cached_check, need_one;
	bool restart_no_wait, grant_before_log, none_while_granted, none_forgets_boot;
	bool broken_ends, close_keeps, fenced_renewed, taker_no_wait;
	bool earlier_confirm;
};

struct voter {
	u8 promised, fencing; /* fencing: PREPARE(2) waits; lost in a crash */
	u8 up, stopping, lease_logged;
	u8 earlier_boot;           /* only none_forgets_boot: block_left comes from there */
	u8 block_left, grant_left; /* by its clock */
	u8 stream, session;
	u8 renewal, fence; /* on the stream */
	/* at the reader */
	u8 offer_left, lease_left; /* the renewal under way; the lease */
	u8 confirm;
};

struct state {
	struct voter v[VOTERS];
	u8 ended; /* the reader heard that it is fenced */
	u8 checked;
	u8 drift, breaks, restarts, stops;
};

static u8 later(u8 a, u8 b)
{
	return a > b ? a : b;
}

static bool committed(const struct config *c, const struct state *s)
{
	int promised = 0;
	for (int i = 0; i < c->voters; i++)
		promised += s->v[i].promised == 2;
	return promised >= c->quorum;
}

/* As the reader sees it. */
static bool connected(const struct voter *v)
{
	return v->stream == UP || v->stream == VOTER_BROKE;
}

static int need(const struct config *c)
{
	return c->need_one ? 1 : c->voters - c->quorum + 1;
}

static bool leases_hold(const struct config *c, const struct state *s)
{
	int held = 0;
	for (int i = 0; i < c->voters; i++)
		held += s->v[i].lease_left > 0;
	return !s->ended && held >= need(c);
}

/* ---- time ---- */

static void tick(u8 *left)
{
	*left -= *left > 0;
}

static void expand_tick(const struct config *c, const struct state *s, struct explore *x)
{
	struct state t = *s;
	for (int i = 0; i < c->voters; i++) {
		tick(&t.v[i].block_left);
		tick(&t.v[i].grant_left);
	}
	if (s->drift < c->drift_max) {
		t.drift++;
		explore_emit(x, &t, "time passes, the reader's clock stands");
		t.drift--;
	}
	for (int i = 0; i < c->voters; i++) {
		tick(&t.v[i].lease_left);
		tick(&t.v[i].offer_left);
	}
	explore_emit(x, &t, "time passes");
}

/* ---- the lease ---- */

static u8 reader_term(const struct config *c)
{
	return c->no_drift ? c->term : (u8)(c->term - 1);
}

static void step_lease(const struct config *c, const struct state *s, struct explore *x, int i)
{
	const struct voter *v = &s->v[i];
	struct state t = *s;
	struct voter *n = &t.v[i];
	if (c->confirms)
		return;
	if (connected(v) && v->renewal == NONE && !s->ended) {
		n->renewal = SENT;
		n->offer_left = reader_term(c);
		explore_emit(x, &t, "the reader renews at v%d", i);
	}
	t = *s;
	if (v->stream == UP && v->up && v->session && v->renewal == SENT) {
		bool granted = !v->fencing && v->promised == 1;
		/* L2: an answer behind the fence's word finds no reader any more. */
		n->renewal = granted || c->fenced_renewed ? GRANTED : NONE;
		n->grant_left = granted ? c->term : v->grant_left;
		explore_emit(x, &t, "v%d answers the renewal%s", i, granted ? "" : ", fenced");
	}
	t = *s;
	if (connected(v) && v->renewal == GRANTED && !s->ended) {
		n->renewal = NONE;
		n->lease_left =
			c->from_arrival ? reader_term(c) : later(v->lease_left, v->offer_left);
		n->offer_left = 0;
		explore_emit(x, &t, "the reader has a lease of v%d for %d", i, n->lease_left);
	}
	t = *s;
	if (connected(v) && v->fence == TELLING && v->renewal != GRANTED) {
		t.ended = 1;
		for (int j = 0; j < c->voters; j++)
			t.v[j].lease_left = t.v[j].offer_left = t.v[j].renewal = 0;
		explore_emit(x, &t, "the reader hears from v%d that it is fenced", i);
	}
}

static void step_promise(const struct config *c, const struct state *s, struct explore *x, int i)
{
	const struct voter *v = &s->v[i];
	struct state t = *s;
	struct voter *n = &t.v[i];
	if (!v->up || v->stopping || v->promised == 2)
		return;
	if (!v->fencing) {
		n->fencing = 1;
		if (v->stream == UP && v->session && !c->fenced_renewed)
			n->fence = TELLING;
		explore_emit(x, &t, "PREPARE(2) reaches v%d", i);
		return;
	}
	bool out = v->block_left > 0 || v->grant_left > 0;
	if (out && !c->taker_no_wait)
		return;
	n->promised = 2;
	n->fencing = 0;
	explore_emit(x, &t, "v%d promises epoch 2", i);
}

/* ---- L6 ---- */

static void step_confirm(const struct config *c, const struct state *s, struct explore *x, int i)
{
	const struct voter *v = &s->v[i];
	struct state t = *s;
	if (!c->confirms || s->ended)
		return;
	/* A read that began before the commit may return what was before it: only later ones matter. */
	if (connected(v) && v->confirm == NOT_ASKED && (committed(c, s) || c->earlier_confirm)) {
		t.v[i].confirm = ASKED;
		explore_emit(x, &t, "the reader asks v%d to confirm", i);
	} else if (v->stream == UP && v->up && v->session && v->confirm == ASKED &&
		   v->promised == 1 && !v->fencing) {
		t.v[i].confirm = CONFIRMED;
		explore_emit(x, &t, "v%d confirms", i);
	}
}

/* ---- streams ---- */

static void reader_lost(struct voter *n)
{
	n->lease_left = n->offer_left = n->renewal = n->fence = 0;
	n->confirm = n->confirm == ASKED ? NOT_ASKED : n->confirm;
}

static void voter_lost(const struct config *c, struct voter *n)
{
	if (!c->broken_ends)
		n->block_left = later(n->block_left, n->grant_left);
	n->earlier_boot &= n->grant_left == 0;
	n->grant_left = n->session = 0;
	n->stream = n->stream == UP ? VOTER_BROKE : n->stream == READER_CLOSED ? DOWN : n->stream;
}

static void step_stream(const struct config *c, const struct state *s, struct explore *x, int i)
{
	const struct voter *v = &s->v[i];
	struct state t = *s;
	struct voter *n = &t.v[i];
	if (v->stream == DOWN && v->up && !v->stopping && !v->fencing && v->promised == 1 &&
	    !s->ended) {
		n->stream = UP;
		n->session = 1;
		n->lease_logged = c->confirms || c->grant_before_log ? v->lease_logged : 1;
		explore_emit(x, &t, "the reader connects to v%d", i);
	}
	if (v->session && !v->lease_logged && c->grant_before_log) {
		t = *s;
		n->lease_logged = 1;
		explore_emit(x, &t, "v%d has LEASE durable", i);
	}
	t = *s;
	if (v->stream == VOTER_BROKE) {
		n->stream = DOWN;
		reader_lost(n);
		explore_emit(x, &t, "the reader sees the end of v%d's stream", i);
	} else if (v->stream == READER_CLOSED) {
		n->stream = DOWN;
		n->session = n->grant_left = 0; /* L3 */
		explore_emit(x, &t, "v%d sees that the reader closed", i);
	}
	if (v->stream != UP || s->breaks >= c->breaks_max)
		return;
	t = *s;
	t.breaks++;
	u8 kept = v->lease_left;
	reader_lost(n);
	n->lease_left = c->close_keeps ? kept : 0;
	n->stream = READER_CLOSED;
	explore_emit(x, &t, "the reader closes its stream to v%d", i);
	t = *s;
	t.breaks++;
	voter_lost(c, n);
	explore_emit(x, &t, "v%d loses its stream, the reader does not know", i);
}

/* ---- lives of a voter ---- */

static void step_life(const struct config *c, const struct state *s, struct explore *x, int i)
{
	const struct voter *v = &s->v[i];
	struct state t = *s;
	struct voter *n = &t.v[i];
	if (!v->up) {
		n->up = 1;
		n->block_left = v->lease_logged && !c->restart_no_wait ? c->term : 0;
		n->earlier_boot = c->none_forgets_boot && n->block_left > 0;
		explore_emit(x, &t, "v%d starts", i);
		return;
	}
	if (s->restarts < c->restarts_max) {
		t.restarts++;
		voter_lost(c, n);
		n->up = n->stopping = n->fencing = n->block_left = 0;
		explore_emit(x, &t, "v%d is killed", i);
	}
	t = *s;
	if (!v->stopping && s->stops < c->stops_max) {
		t.stops++;
		if (n->earlier_boot)
			n->block_left = n->earlier_boot = 0;
		voter_lost(c, n);
		n->stopping = 1;
		n->fencing = 0;
		explore_emit(x, &t, "v%d begins a clean stop", i);
	} else if (v->stopping && (v->block_left == 0 || c->none_while_granted)) {
		n->stopping = n->up = n->lease_logged = n->block_left = 0;
		explore_emit(x, &t, "v%d has LEASE none durable and is stopped", i);
	}
}

/* ---- the model ---- */

static void lease_init(const void *config, void *state)
{
	const struct config *c = config;
	struct state *s = state;
	for (int i = 0; i < c->voters; i++) {
		struct voter *v = &s->v[i];
		v->promised = v->up = v->session = 1;
		v->stream = UP;
		v->lease_logged = !c->confirms && !c->grant_before_log;
	}
}

static void lease_expand(const void *config, const void *state, struct explore *x)
{
	const struct config *c = config;
	const struct state *s = state;
	expand_tick(c, s, x);
	for (int i = 0; i < c->voters; i++) {
		step_lease(c, s, x, i);
		step_promise(c, s, x, i);
		step_confirm(c, s, x, i);
		step_stream(c, s, x, i);
		step_life(c, s, x, i);
	}
	if (c->cached_check && !s->checked && leases_hold(c, s)) {
		struct state t = *s;
		t.checked = 1;
		explore_emit(x, &t, "the reader sees that its leases hold");
	}
}

static const char *lease_check(const void *config, const void *state)
{
	const struct config *c = config;
	const struct state *s = state;
	int confirmed = 0;
	for (int i = 0; i < c->voters; i++)
		confirmed += s->v[i].confirm == CONFIRMED;
	bool answers = leases_hold(c, s) || (s->checked && !s->ended) ||
		       (c->confirms && confirmed >= need(c));
	return committed(c, s) && answers ? "no_stale_read: a read that began after the commit is "
					    "answered by the old coordinator"
					  : NULL;
}

static void lease_canon(const void *config, void *state)
{
	struct state *s = state;
	(void)config;
	explore_sort(s->v, VOTERS, sizeof(s->v[0]));
}

static const struct explore_model leases = {
	.state_bytes = sizeof(struct state),
	.init = lease_init,
	.expand = lease_expand,
	.check = lease_check,
	.canon = lease_canon,
};

#define SCOPE(...)   (&(const struct config){__VA_ARGS__})
#define OF3(...)     SCOPE(.voters = 3, .quorum = 2, .drift_max = 1, __VA_ARGS__)
#define OF2(...)     SCOPE(.voters = 2, .quorum = 2, .drift_max = 1, __VA_ARGS__)
#define LEASES2(...) OF2(.term = 2, .breaks_max = 1, .restarts_max = 1, .stops_max = 1, __VA_ARGS__)

static const struct explore_case cases[] = {
	{"healthy_2_of_3", false, &leases, OF3(.term = 2, .restarts_max = 1),
	 OF3(.term = 2, .breaks_max = 1, .restarts_max = 1)},
	{"healthy_stops", false, &leases, OF3(.term = 2, .stops_max = 1),
	 OF3(.term = 2, .restarts_max = 1, .stops_max = 1)},
	{"healthy_1_of_2", false, &leases,
	 OF2(.term = 2, .breaks_max = 1, .restarts_max = 1, .stops_max = 1),
	 OF2(.term = 3, .breaks_max = 2, .restarts_max = 2, .stops_max = 1)},
	{"healthy_confirms", false, &leases,
	 OF3(.confirms = true, .breaks_max = 1, .restarts_max = 1),
	 OF3(.confirms = true, .breaks_max = 3, .restarts_max = 2, .stops_max = 2)},
	{"counted_from_arrival", true, &leases, LEASES2(.from_arrival = true), NULL},
	{"drift_not_subtracted", true, &leases, LEASES2(.no_drift = true), NULL},
	{"checked_before_the_read", true, &leases, LEASES2(.cached_check = true), NULL},
	{"need_one", true, &leases, OF3(.term = 2, .need_one = true), NULL},
	{"restart_does_not_wait", true, &leases, LEASES2(.restart_no_wait = true), NULL},
	{"grant_before_lease_durable", true, &leases, LEASES2(.grant_before_log = true), NULL},
	{"lease_none_while_granted", true, &leases, LEASES2(.none_while_granted = true), NULL},
	{"lease_none_forgets_earlier_boot", true, &leases, LEASES2(.none_forgets_boot = true),
	 NULL},
	{"broken_stream_ends_lease", true, &leases, LEASES2(.broken_ends = true), NULL},
	{"close_keeps_lease", true, &leases, LEASES2(.close_keeps = true), NULL},
	{"fenced_session_renewed", true, &leases, LEASES2(.fenced_renewed = true), NULL},
	{"taker_without_lease_does_not_wait", true, &leases, LEASES2(.taker_no_wait = true), NULL},
	{"confirm_of_an_earlier_read", true, &leases,
	 OF3(.confirms = true, .earlier_confirm = true), NULL},
	{"confirm_from_one", true, &leases, OF3(.confirms = true, .need_one = true), NULL},
};

int main(int argc, char **argv)
{
	return explore_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
}
