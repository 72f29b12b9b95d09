/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store check: the run table, what the maps keep out of their pages.
 *
 * U1 What counts is found without the maps' own code: all entries by volume and chunk, in the order of
 *    the chain; a VOID forgets the chunk, a block's highest seq stands, of equal ones the last.
 * U2 What counts names payload that no page names: each place is referred to once (check_ref).
 */
#include <errno.h>
#include <stdlib.h>

#include "store/check_impl.h"
#include "store/run_table.h"

#define CHUNK_BLOCKS 256u

struct run_line {
	struct run_entry entry;
	uint64_t order; /* in the chain */
};

struct run_lines {
	struct run_line *lines;
	uint64_t count;
};

static const struct check_volume *runs_owner(const struct check *c, uint32_t node)
{
	for (uint32_t i = 0; i < c->volume_count; i++) {
		if (le32_get(c->volumes[i].entry.head_node) == node)
			return &c->volumes[i];
	}
	return NULL;
}

static void runs_block(struct check *c, const struct table_block *block, struct run_lines *all)
{
	const struct offline *o = c->offline;
	uint32_t count;
	const struct run_entry *entries = run_block_entries(block, &count);

	if (!entries)
		check_find(c, "run table: a block with %u entries", count);
	for (uint32_t i = 0; entries && i < count; i++) {
		if (!run_entry_valid(&entries[i], o->data_start, o->size_blocks)) {
			check_find(c, "run table: node %u block %llu place %llu is no entry",
				   le32_get(entries[i].node),
				   (unsigned long long)le64_get(entries[i].block),
				   (unsigned long long)le64_get(entries[i].place));
			continue;
		}
		all->lines[all->count] = (struct run_line){entries[i], all->count};
		all->count++;
	}
}

static int line_compare(const void *a, const void *b)
{
	const struct run_line *x = a, *y = b;
	uint64_t chunk_x = le64_get(x->entry.block) / CHUNK_BLOCKS;
	uint64_t chunk_y = le64_get(y->entry.block) / CHUNK_BLOCKS;

	if (le32_get(x->entry.node) != le32_get(y->entry.node))
		return le32_get(x->entry.node) < le32_get(y->entry.node) ? -1 : 1;
	if (chunk_x != chunk_y)
		return chunk_x < chunk_y ? -1 : 1;
	return x->order < y->order ? -1 : 1;
}

static void entry_counts(struct check *c, const struct check_volume *v, const struct run_entry *e)
{
	uint64_t block = le64_get(e->block), place = le64_get(e->place), seq = le64_get(e->seq);

	if (block >= le64_get(v->entry.size_blocks))
		check_find(c, "run table: block %llu is beyond the volume's end",
			   (unsigned long long)block);
	if (seq > le64_get(v->entry.commit_seq))
		check_find(c, "run table: block %llu is of seq %llu, the map holds %llu",
			   (unsigned long long)block, (unsigned long long)seq,
			   (unsigned long long)le64_get(v->entry.commit_seq));
	if (check_ref(c, place, "run table: a block"))
		check_payload_add(c, place, block, le32_get(e->crc32c));
}

/* The lines of one chunk, in order; how many of its blocks have an entry that counts. */
static uint64_t chunk_check(struct check *c, const struct check_volume *v,
			    const struct run_line *lines, uint64_t count)
{
	const struct run_entry *blocks[CHUNK_BLOCKS] = {NULL};
	uint64_t live = 0;

	for (uint64_t i = 0; i < count; i++) {
		const struct run_entry *e = &lines[i].entry, **at;
		at = &blocks[le64_get(e->block) % CHUNK_BLOCKS];
		if (run_entry_voids(e))
			memset(blocks, 0, sizeof(blocks));
		else if (!*at || le64_get((*at)->seq) <= le64_get(e->seq))
			*at = e;
	}
	for (uint32_t i = 0; i < CHUNK_BLOCKS; i++) {
		if (!blocks[i])
			continue;
		live++;
		entry_counts(c, v, blocks[i]);
	}
	if (live > 0 && le32_get(v->entry.shadow_node) != 0)
		check_find(c, "run table: entries count although there are two nodes");
	return live;
}

/* U1 */
static uint64_t lines_check(struct check *c, const struct run_lines *all)
{
	uint64_t live = 0, end;

	for (uint64_t i = 0; i < all->count; i = end) {
		const struct run_entry *first = &all->lines[i].entry;
		uint32_t node = le32_get(first->node);
		uint64_t chunk = le64_get(first->block) / CHUNK_BLOCKS;
		for (end = i + 1; end < all->count; end++) {
			const struct run_entry *e = &all->lines[end].entry;
			if (le32_get(e->node) != node || le64_get(e->block) / CHUNK_BLOCKS != chunk)
				break;
		}
		const struct check_volume *v = runs_owner(c, node);
		if (!v || le32_get(v->entry.flags) & VOLUME_DELETING)
			continue;
		c->who = v->name;
		live += chunk_check(c, v, &all->lines[i], end - i);
		check_payload_flush(c);
		c->who = NULL;
	}
	return live;
}

int check_runs(struct check *c)
{
	struct check_chain chain = {0};
	struct run_lines all = {0};

	int rc = check_chain_load(c, c->root->runs, TABLE_RUNS, "run table", &chain);
	if (rc == 0) {
		all.lines = calloc((size_t)chain.count * RUN_ENTRIES_MAX + 1, sizeof(*all.lines));
		rc = all.lines ? 0 : -ENOMEM;
	}
	for (uint32_t i = chain.count; i > 0 && rc == 0; i--)
		runs_block(c, check_chain_block(&chain, i - 1), &all);
	if (rc == 0) {
		qsort(all.lines, all.count, sizeof(*all.lines), line_compare);
		uint64_t live = lines_check(c, &all);
		bool fits = all.count == le64_get(c->root->run_entries) &&
			    live == le64_get(c->root->run_live);
		if (chain.is_whole && !fits)
			check_find(c,
				   "run table: %llu entries, %llu of them count; the root says "
				   "%llu and %llu",
				   (unsigned long long)all.count, (unsigned long long)live,
				   (unsigned long long)le64_get(c->root->run_entries),
				   (unsigned long long)le64_get(c->root->run_live));
	}
	free(all.lines);
	free(chain.blocks);
	return rc;
}
