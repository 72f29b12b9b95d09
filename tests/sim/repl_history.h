/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What clients of a simulated volume wrote and read, per block, and whether a read may have
 * returned what it did.
 *
 * Every block that is written carries an id that is used once. A read must return a value that is
 * neither older than a write (or read) that ended before it began, nor one that an earlier read
 * after a reopen had shown not to have happened.
 */
#ifndef HF_TESTS_SIM_REPL_HISTORY_H
#define HF_TESTS_SIM_REPL_HISTORY_H

#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

#define NEVER UINT64_MAX

struct write {
	uint64_t id; /* 0: zeros */
	uint64_t start_ns;
	uint64_t end_ns;     /* acknowledged, or seen by a read that ended then */
	uint64_t decided_ns; /* the next open after it got no outcome */
	bool dead;           /* a later read showed that it did not happen */
};

struct history {
	struct write *writes;
	uint32_t count, room;
};

static void repl_must(bool holds, const char *what)
{
	if (holds)
		return;
	fprintf(stderr, "broken: %s\n", what);
	abort();
}

static void block_fill(uint8_t *to, uint64_t id, uint64_t block)
{
	uint64_t *words = (uint64_t *)(void *)to;
	uint64_t x = id * 0x9e3779b97f4a7c15ull ^ block;
	for (uint32_t i = 2; i < BLOCK_BYTES / 8; i++)
		words[i] = x = x * 6364136223846793005ull + 1442695040888963407ull;
	words[0] = id;
	words[1] = block;
}

/* The id in a block that was read. */
static uint64_t block_parse(const uint8_t *from, uint64_t block)
{
	static uint8_t want[BLOCK_BYTES] __attribute__((aligned(8)));
	uint64_t id;
	memcpy(&id, from, sizeof(id));
	if (id == 0)
		memset(want, 0, BLOCK_BYTES);
	else
		block_fill(want, id, block);
	repl_must(memcmp(from, want, BLOCK_BYTES) == 0,
		  "a read returned contents that nobody wrote there");
	return id;
}

static struct write *history_add(struct sim *sim, struct history *h, uint64_t id)
{
	if (h->count == h->room) {
		h->room = MAX(h->room * 2, 8u);
		h->writes = realloc(h->writes, h->room * sizeof(*h->writes));
	}
	h->writes[h->count] = (struct write){id, sim_now_ns(sim), NEVER, 0, false};
	return &h->writes[h->count++];
}

static bool is_stale(const struct history *h, const struct write *v, uint64_t read_start_ns)
{
	for (uint32_t i = 0; i < h->count; i++)
		if (h->writes[i].start_ns > v->end_ns && h->writes[i].end_ns < read_start_ns)
			return true;
	return false;
}

static void history_dump(const struct history *h, uint64_t block, uint64_t id, uint64_t start_ns)
{
	fprintf(stderr, "block %lu: read that began at %lu returned %lu\n", block, start_ns, id);
	for (uint32_t i = 0; i < h->count; i++)
		fprintf(stderr, "  write %lu start %lu end %lu decided %lu dead %d\n",
			h->writes[i].id, h->writes[i].start_ns, h->writes[i].end_ns,
			h->writes[i].decided_ns, h->writes[i].dead);
}

static void history_read(struct sim *sim, struct history *h, uint64_t block, uint64_t id,
			 uint64_t start_ns)
{
	struct write *found = NULL;
	uint32_t candidates = 0;
	for (uint32_t i = 0; i < h->count; i++) {
		struct write *v = &h->writes[i];
		if (v->id != id || v->dead || is_stale(h, v, start_ns))
			continue;
		found = v;
		candidates++;
	}
	if (found == NULL) {
		history_dump(h, block, id, start_ns);
		repl_must(false, "a read returned a value that is stale or did not happen");
	}
	if (candidates > 1)
		return; /* which of the zeros it saw is not known */
	found->end_ns = MIN(found->end_ns, sim_now_ns(sim));
	for (uint32_t i = 0; i < h->count; i++) {
		struct write *o = &h->writes[i];
		if (o != found && o->decided_ns != 0 && o->end_ns == NEVER &&
		    start_ns > o->decided_ns && found->end_ns < o->start_ns)
			o->dead = true;
	}
}

static struct write *write_find(const struct history *h, uint64_t id, uint64_t start_ns)
{
	for (uint32_t i = h->count; i-- > 0;)
		if (h->writes[i].id == id && h->writes[i].start_ns == start_ns)
			return &h->writes[i];
	return NULL;
}

/* An open decides every write that has no outcome: those of other sessions, and lost ones. */
static void history_opened(struct sim *sim, struct history *blocks, uint32_t count)
{
	for (uint32_t b = 0; b < count; b++)
		for (uint32_t i = 0; i < blocks[b].count; i++) {
			struct write *v = &blocks[b].writes[i];
			if (v->end_ns == NEVER && v->decided_ns == 1)
				v->decided_ns = sim_now_ns(sim);
		}
}

#endif
