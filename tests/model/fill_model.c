/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Explicit-state model of shadow fill: a learner copies pages from a source while writes continue.
 *
 * Modelled. A volume of two blocks, each its own page, and its log: WRITE, ZERO and at most one
 * SNAP, which starts a new tree node (versions written before it belong to the old node and never
 * change again). The source knows a prefix of the log as committed (K) and its map holds exactly
 * that. The learner starts from its own old map at K_r and the source's log no longer reaches back
 * that far. A fill: the live stream starts, T := the source's K, and the pages of T's state with a
 * last seq above K_r are read one at a time, each into the tree node T belongs to, while the stream
 * goes into the same shadow; per block and node the higher seq wins and a zeroed block counts as
 * present. ADOPT flips when every page was looked at, L >= T and L >= every K that was read. The
 * learner may crash during a fill; it begins again over its old map, or resumes with a new T and
 * rechecks each page whose last seq is above the T it was last read at.
 * A tombstone (the seq of a zeroed block in the source's map) is dropped once every voter's K has
 * passed it; the learner is counted as one.
 *
 * Left out. Commitment (epoch_model.c), places and checksums (store_model.c), ROLLBACK and clones,
 * saturated ages, several pages per parent.
 *
 * Invariants.
 *  adopted_equal      the adopted state at L is the state that entries 1..L of the log give
 *  snapshot_constant  the same for the node that was frozen by SNAP
 */
#include "tests/model/explore.h"

#include <stdint.h>
#include <string.h>

typedef uint8_t u8;

enum { BLOCKS = 2, NODES = 2, LOG_MAX = 6 };
enum op { NOTHING, WRITE, ZERO, SNAP };

struct config {
	u8 log_max, crashes_max;
	/* rules left out */
	bool base_current, tombstone_early, tombstone_absent, adopt_below_read, resume_unchecked;
	bool stream_ignores_seq;
};

/* A block's newest version in one tree node: seq 0 = this node has none. */
struct version {
	u8 seq, zeroed;
};

struct map {
	struct version at[NODES][BLOCKS];
};

struct record {
	u8 op, block;
};

struct state {
	struct record log[LOG_MAX];
	u8 log_len; /* also the source's K: what is committed */
	u8 crashes;
	u8 dropped;   /* source: tombstones with a seq up to here are gone from its map */
	u8 learner_k; /* K_r: the learner's old, whole map stands here */
	u8 filling;
	u8 cut;           /* T */
	u8 since[BLOCKS]; /* a page with a last seq above this one is copied */
	u8 read_k;        /* highest K a page was read at */
	u8 streamed;      /* L: the stream is applied up to here */
	u8 todo;          /* bit per page not yet looked at */
	struct map shadow;
	u8 adopted;
	struct map adopted_map;
};

/* The map that entries 1..k give, tombstones up to `dropped` left out. */
static struct map map_at(const struct state *s, u8 k, u8 dropped)
{
	struct map m = {0};
	u8 node = 0;
	for (u8 seq = 1; seq <= k; seq++) {
		const struct record *r = &s->log[seq - 1];
		if (r->op == SNAP)
			node = 1;
		else
			m.at[node][r->block] = (struct version){seq, r->op == ZERO};
	}
	for (int n = 0; n < NODES; n++) {
		for (int b = 0; b < BLOCKS; b++) {
			struct version *v = &m.at[n][b];
			/* in a child node a zeroed block hides its ancestor: it stays */
			if (v->zeroed && v->seq <= dropped && n == 0)
				*v = (struct version){0, 0};
		}
	}
	return m;
}

static u8 node_at(const struct state *s, u8 k)
{
	u8 node = 0;
	for (u8 seq = 1; seq <= k; seq++)
		node |= s->log[seq - 1].op == SNAP;
	return node;
}

static void version_merge(struct version *to, struct version from)
{
	if (from.seq > to->seq)
		*to = from;
}

/* ---- the source ---- */

static void expand_source(const struct config *c, const struct state *s, struct explore *x)
{
	static const char *const names[] = {"", "WRITE", "ZERO", "SNAP"};
	if (s->log_len < c->log_max) {
		for (u8 op = WRITE; op <= SNAP; op++) {
			for (u8 b = 0; b < (op == SNAP ? 1 : BLOCKS); b++) {
				struct state t = *s;
				if (op == SNAP && node_at(s, s->log_len))
					continue;
				t.log[t.log_len++] = (struct record){op, b};
				explore_emit(x, &t, "seq %d: %s block %d", t.log_len, names[op], b);
			}
		}
	}
	u8 passed = c->tombstone_early ? s->log_len : s->learner_k;
	if (s->dropped < passed) {
		struct state t = *s;
		t.dropped = passed;
		explore_emit(x, &t, "source drops tombstones up to seq %d", passed);
	}
}

/* ---- the learner ---- */

/* While it is a member in good order it follows the log; then it goes away. */
static void expand_follow(const struct state *s, struct explore *x)
{
	struct state t = *s;
	if (s->learner_k < s->log_len) {
		t.learner_k++;
		explore_emit(x, &t, "learner follows to seq %d", t.learner_k);
	}
	t = *s;
	if (s->learner_k == s->log_len)
		return;
	t.filling = 1;
	t.cut = t.streamed = s->log_len;
	memset(t.since, s->learner_k, sizeof(t.since));
	t.todo = (1 << BLOCKS) - 1;
	t.shadow = map_at(s, s->learner_k, 0);
	explore_emit(x, &t, "fill begins: T = %d, the learner's own map stands at %d", t.cut,
		     s->learner_k);
}

static u8 page_last_seq(const struct map *m, int block)
{
	u8 last = 0;
	for (int n = 0; n < NODES; n++)
		last = m->at[n][block].seq > last ? m->at[n][block].seq : last;
	return last;
}

static void fill_page(const struct config *c, struct state *t, int block)
{
	u8 read_at = c->base_current ? t->log_len : t->cut;
	struct map source = map_at(t, read_at, t->dropped);
	u8 node = node_at(t, t->cut);
	t->todo &= (u8) ~(1u << block);
	if (read_at > t->read_k)
		t->read_k = read_at;
	if (page_last_seq(&source, block) <= t->since[block])
		return;
	for (u8 n = 0; n <= node; n++) {
		struct version from = source.at[n][block];
		/* current state: the newest version is taken for one of T's node */
		if (n == node && source.at[NODES - 1][block].seq)
			from = source.at[NODES - 1][block];
		struct version *to = &t->shadow.at[n][block];
		if (c->stream_ignores_seq || (c->tombstone_absent && to->zeroed))
			*to = from;
		else
			version_merge(to, from);
	}
}

static void expand_fill(const struct config *c, const struct state *s, struct explore *x)
{
	for (int b = 0; b < BLOCKS; b++) {
		struct state t = *s;
		if (!(s->todo >> b & 1))
			continue;
		fill_page(c, &t, b);
		explore_emit(x, &t, "page %d read", b);
	}
	if (s->streamed < s->log_len) {
		struct state t = *s;
		const struct record *r = &s->log[t.streamed++];
		u8 node = node_at(s, t.streamed);
		struct version v = {t.streamed, r->op == ZERO};
		if (r->op != SNAP)
			version_merge(&t.shadow.at[node][r->block], v);
		explore_emit(x, &t, "stream: seq %d into the shadow", t.streamed);
	}
	u8 need = c->adopt_below_read || s->read_k < s->cut ? s->cut : s->read_k;
	if (!s->todo && s->streamed >= need) {
		struct state t = *s;
		t.adopted = 1;
		t.adopted_map = t.shadow;
		explore_emit(x, &t, "ADOPT at seq %d", t.streamed);
	}
	if (s->crashes < c->crashes_max) {
		struct state t = *s;
		t.crashes++;
		memset(t.since, 0, sizeof(t.since));
		t.filling = t.cut = t.read_k = t.streamed = t.todo = 0;
		memset(&t.shadow, 0, sizeof(t.shadow));
		explore_emit(x, &t, "learner crashes, the shadow is discarded");
		t = *s;
		t.crashes++;
		t.cut = s->log_len;
		t.streamed = s->log_len; /* the stream starts anew; what lay between is in T */
		if (c->resume_unchecked) {
			explore_emit(x, &t, "learner crashes, resumes, T = %d, old pages kept",
				     t.cut);
			return;
		}
		/* A page that was read stands at the old T; one that was not, where it stood. */
		for (int b = 0; b < BLOCKS; b++) {
			if (!(s->todo >> b & 1))
				t.since[b] = s->cut;
		}
		t.todo = (1 << BLOCKS) - 1;
		explore_emit(x, &t, "learner crashes, resumes, T = %d", t.cut);
	}
}

/* ---- the model ---- */

static void fill_init(const void *config, void *state)
{
	(void)config;
	(void)state;
}

static void fill_expand(const void *config, const void *state, struct explore *x)
{
	const struct state *s = state;
	if (s->adopted)
		return;
	expand_source(config, s, x);
	if (s->filling)
		expand_fill(config, s, x);
	else
		expand_follow(s, x);
}

/* What a reader of a node sees in a block: the nearest version, 0 = nothing or zeroes. */
static u8 block_seen(const struct map *m, int node, int block)
{
	for (int n = node; n >= 0; n--) {
		struct version v = m->at[n][block];
		if (v.seq)
			return v.zeroed ? 0 : v.seq;
	}
	return 0;
}

static const char *fill_check(const void *config, const void *state)
{
	const struct state *s = state;
	(void)config;
	if (!s->adopted)
		return NULL;
	struct map want = map_at(s, s->streamed, 0);
	u8 node = node_at(s, s->streamed);
	for (int b = 0; b < BLOCKS; b++) {
		if (block_seen(&s->adopted_map, node, b) != block_seen(&want, node, b))
			return "adopted_equal: the adopted state is not the log's";
		if (node && block_seen(&s->adopted_map, 0, b) != block_seen(&want, 0, b))
			return "snapshot_constant: the fill changed a snapshot";
	}
	return NULL;
}

static const struct explore_model fill = {
	.state_bytes = sizeof(struct state),
	.init = fill_init,
	.expand = fill_expand,
	.check = fill_check,
};

#define SCOPE(...)              (&(const struct config){__VA_ARGS__})
#define FILL(log, crashes, ...) SCOPE(.log_max = log, .crashes_max = crashes, __VA_ARGS__)

static const struct explore_case cases[] = {
	{"healthy", false, &fill, FILL(4, 2), FILL(5, 2)},
	{"base_at_current_state", true, &fill, FILL(4, 1, .base_current = true), NULL},
	{"tombstone_dropped_early", true, &fill, FILL(4, 1, .tombstone_early = true), NULL},
	{"tombstone_is_no_version", true, &fill, FILL(4, 1, .tombstone_absent = true), NULL},
	{"base_overwrites_stream", true, &fill, FILL(4, 1, .stream_ignores_seq = true), NULL},
	{"adopt_below_a_read", true, &fill,
	 FILL(4, 1, .base_current = true, .adopt_below_read = true), NULL},
	{"resume_without_recheck", true, &fill, FILL(4, 1, .resume_unchecked = true), NULL},
};

int main(int argc, char **argv)
{
	return explore_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
}
