/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The run table: on disk, what the maps keep out of their pages (map_keep.c).
 *
 *   root --> last block --> ... --> first block of the chain
 *            '-- run of this checkpoint --'-- runs of those before --'
 *
 * The entries in memory are the truth; the chain repeats them so that the ring can be trimmed. A checkpoint
 * puts its run behind the chain of the root before: what moved into `kept`, then a VOID for each chunk that
 * was folded. Both roots share the old blocks. (Weighed: all anew each time costs what is kept, not what
 * changed; a table sorted by address has nearly all its blocks changed by random writes; runs that are
 * dropped one by one when all of them is folded hold on to space for one cold entry.)
 *
 * R1  The chain, read from its front, gives `kept` of each volume: every change of kept is told, in order,
 *     by the coroutine that makes it.
 * R2  When less than half of its blocks are needed, the chain is written anew. So it is at most twice what is
 *     kept, and an entry is written about twice.
 * R3  An entry counts only when its node is the head of a volume that is not being deleted. Node ids are never
 *     used again, so nothing of a volume that is gone comes back.
 * R4  A block of the chain that is rotten: the store is not opened, as with any other table. Which volumes it
 *     held is not known, and an older page must not pass for the state.
 */
#include "store/internal.h"

#include <errno.h>
#include <stdlib.h>

#include "store/run_table.h"

#define RUN_BLOCKS_SPARE 4u /* half-empty blocks of small runs are not worth a rewrite */

int runs_init(struct store *store)
{
	struct runs *runs = &store->checkpoint.runs;
	runs->block = env_buf_alloc(store->env, BLOCK_BYTES);
	return runs->block ? 0 : -ENOMEM;
}

void runs_free(struct store *store)
{
	struct runs *runs = &store->checkpoint.runs;
	if (runs->block)
		env_buf_free(store->env, runs->block, BLOCK_BYTES);
	free(runs->places.places);
}

/* ---- writing ---- */

static void runs_add(void *ctx, const struct run_entry *entry)
{
	struct runs *runs = ctx;
	runs->entries++;
	table_add(&runs->writer, entry, sizeof(*entry));
}

static void writer_begin(struct co *co, struct store *store)
{
	struct runs *runs = &store->checkpoint.runs;
	table_begin(&runs->writer, co, store, TABLE_RUNS, runs->block, &runs->places);
	runs->writer.last = runs->last;
	runs->sink = (struct map_runs){.add = runs_add, .ctx = runs};
}

static bool takes_part(const struct store_replica *r)
{
	return r && r->in_cut && !r->deleting_at_cut;
}

int runs_keep(struct co *co, struct store *store)
{
	struct runs *runs = &store->checkpoint.runs;
	uint32_t count = 0;
	writer_begin(co, store);
	for (uint32_t i = 0; i < store->slot_end; i++) {
		struct store_replica *r = store->slots[i];
		if (!takes_part(r) || r->lost)
			continue;
		int rc = map_destage(co, r->map, store->data_start);
		if (rc < 0)
			return rc;
		map_keep(co, r->map, &runs->sink);
		runs->maps[count++] = r->map;
	}
	map_pool_choose(co, store->pool, runs->maps, count);
	return 0;
}

static uint64_t kept_count(const struct store *store)
{
	uint64_t count = 0;
	for (uint32_t i = 0; i < store->slot_end; i++) {
		if (takes_part(store->slots[i]))
			count += map_kept_count(store->slots[i]->map);
	}
	return count;
}

/* R2 */
static void runs_rewrite(struct co *co, struct store *store)
{
	struct runs *runs = &store->checkpoint.runs;
	place_list_unref(store, &runs->places);
	runs->last = (struct block_ptr){.place = le64_make(0)};
	runs->entries = 0;
	writer_begin(co, store);
	for (uint32_t i = 0; i < store->slot_end; i++) {
		if (takes_part(store->slots[i]))
			map_kept_each(co, store->slots[i]->map, &runs->sink);
	}
}

int runs_write(struct co *co, struct store *store, struct root *root)
{
	struct runs *runs = &store->checkpoint.runs;
	uint64_t kept = kept_count(store);
	int rc = table_end(&runs->writer, &runs->last);
	uint64_t needed = DIV_UP(kept, RUN_ENTRIES_MAX);
	if (rc == 0 && (kept == 0 || runs->places.count > 2 * needed + RUN_BLOCKS_SPARE)) {
		runs_rewrite(co, store);
		rc = table_end(&runs->writer, &runs->last);
	}
	if (rc < 0)
		return rc;
	root->runs = runs->last;
	root->run_entries = le64_make(runs->entries);
	root->run_live = le64_make(kept);
	return 0;
}

/* ---- loading ---- */

static struct store_replica *runs_owner(struct store *store, uint32_t node)
{
	for (uint32_t i = 0; i < store->slot_end; i++) {
		struct store_replica *r = store->slots[i];
		if (r && r->head_node == node)
			return r->deleting ? NULL : r; /* R3 */
	}
	return NULL;
}

static int load_block(void *ctx, const struct table_block *block)
{
	struct replay *replay = ctx;
	struct store *store = replay->store;
	struct runs *runs = &store->checkpoint.runs;
	uint32_t count;
	const struct run_entry *entries = run_block_entries(block, &count);
	struct store_replica *owner = NULL;
	if (!entries)
		return err_set(replay->err, -EUCLEAN, "run table: %u entries in a block", count);
	for (uint32_t i = 0; i < count; i++) {
		uint32_t node = le32_get(entries[i].node);
		if (!owner || owner->head_node != node)
			owner = runs_owner(store, node);
		int rc = owner ? map_kept_load(owner->map, &entries[i]) : 0;
		if (rc < 0)
			return err_set(replay->err, rc, "run table: node %u block %llu: %s", node,
				       (unsigned long long)le64_get(entries[i].block),
				       err_name(rc));
	}
	runs->entries += count;
	return 0;
}

int runs_load(struct replay *replay, const struct root *root)
{
	struct store *store = replay->store;
	struct runs *runs = &store->checkpoint.runs;
	uint64_t entries = le64_get(root->run_entries), kept = 0;
	if (entries > (store->size_blocks - store->data_start) * RUN_ENTRIES_MAX ||
	    map_pool_load_begin(store->pool, entries) < 0)
		return err_set(replay->err, -ENOMEM, "run table: no memory for %llu entries",
			       (unsigned long long)entries);
	int rc = table_read(replay->co, store, &root->runs, TABLE_RUNS, &runs->places, load_block,
			    replay, replay->err);
	map_pool_load_end(store->pool);
	if (rc < 0)
		return rc;
	for (uint32_t i = 0; i < store->slot_end; i++) {
		const struct store_replica *r = store->slots[i];
		kept += r ? map_kept_count(r->map) : 0;
		if (r && !map_kept_fits(r->map))
			return err_set(
				replay->err, -EUCLEAN,
				"run table: slot %u has two nodes, or a block that is marked free",
				i);
	}
	if (runs->entries != entries || kept != le64_get(root->run_live))
		return err_set(
			replay->err, -EUCLEAN,
			"run table: %llu entries, %llu of them count; the root says %llu and %llu",
			(unsigned long long)runs->entries, (unsigned long long)kept,
			(unsigned long long)entries, (unsigned long long)le64_get(root->run_live));
	runs->last = root->runs;
	return 0;
}
