/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The copy-on-write index.
 *
 * X1  The key in a parent's entry is the first key of the child, exactly: so "the last entry at
 *     or below k" is always in the one leaf that the descent reaches.
 * X2  No block that a root refers to is overwritten; every changed block goes to a new place.
 * X3  An update walks the tree once, left to right. builder[l] gathers entries of level l; a
 *     full builder writes blocks and passes their entries to builder[l + 1]. A builder with less
 *     than MIN entries at the end of a child is carried into the next child of the same parent.
 * X5  An update touches space as it goes, so it must not fail half-way on rot: its callers found
 *     every key with index_seek() just before, and neighbours are only optional. What fails
 *     nevertheless is -EIO, which fails the store; recovery starts again from the old root.
 * X4  Nothing read from disk is trusted: levels, counts, order and places are checked on the
 *     way.
 */
#include "store/index.h"

#include <errno.h>
#include <stdlib.h>

#include "store/meta_block.h"

#define ENTRIES_MAX     ((uint32_t)INDEX_ENTRIES_MAX)
#define ENTRIES_MIN     (ENTRIES_MAX / 3)
#define ENTRIES_FLUSH   90u /* written at once when more follow: leaves room for inserts */
#define BUILDER_ENTRIES (2 * ENTRIES_MAX)
#define YIELD_BLOCKS    64u

struct index_image {
	struct index_block b;
	struct index_entry entries[INDEX_ENTRIES_MAX];
};
static_assert(sizeof(struct index_image) <= BLOCK_BYTES, "index block fits a block");

struct builder {
	struct index_item items[BUILDER_ENTRIES];
	uint32_t count;
};

struct index_scratch {
	struct builder builders[INDEX_LEVELS_MAX + 2];
	uint8_t old[INDEX_LEVELS_MAX]
		   [BLOCK_BYTES]; /* copy of the block being rewritten, by level */
	uint8_t seek[BLOCK_BYTES];
	uint32_t written; /* blocks since the last yield */
};

struct index_scratch *index_scratch_create(void)
{
	return calloc(1, sizeof(struct index_scratch));
}

void index_scratch_destroy(struct index_scratch *scratch)
{
	free(scratch);
}

/* ---- blocks ---- */

int index_block_count(const void *block, uint32_t level)
{
	const struct index_image *image = block;
	uint32_t count = le32_get(image->b.h.count);

	if (le16_get(image->b.h.kind) != level || count == 0 || count > ENTRIES_MAX)
		return -EBADMSG;
	return (int)count;
}

static uint64_t entry_key(const struct index_entry *entry)
{
	return index_key(le32_get(entry->chunk), le32_get(entry->node));
}

int index_block_find(const void *block, uint32_t count, uint64_t key)
{
	const struct index_image *image = block;
	uint32_t low = 0, high = count; /* the answer + 1 */

	while (low < high) {
		uint32_t middle = (low + high) / 2;
		if (entry_key(&image->entries[middle]) <= key)
			low = middle + 1;
		else
			high = middle;
	}
	return (int)low - 1;
}

void index_block_item(const void *block, uint32_t i, struct index_item *ret)
{
	const struct index_entry *entry = &((const struct index_image *)block)->entries[i];

	*ret = (struct index_item){.key = entry_key(entry),
				   .place = le64_get(entry->place),
				   .highest_seq = le64_get(entry->highest_seq),
				   .digest = le64_get(entry->digest),
				   .crc32c = le32_get(entry->crc32c),
				   .live_blocks = le32_get(entry->live_blocks)};
}

static bool place_valid(const struct page_bounds *bounds, uint64_t place)
{
	return place >= bounds->data_start && place < bounds->end;
}

int index_block_check(const void *block, uint32_t level, const struct page_bounds *bounds)
{
	const struct index_image *image = block;
	int count = index_block_count(block, level);

	if (count < 0 || le64_get(image->b.reserved) != 0)
		return -EBADMSG;
	for (int i = 0; i < count; i++) {
		struct index_item item;
		index_block_item(block, (uint32_t)i, &item);
		bool tombstone = level == 0 && item.place == 0;
		if (tombstone && (item.live_blocks || item.digest || item.crc32c))
			return -EBADMSG;
		if (!tombstone && !place_valid(bounds, item.place))
			return -EBADMSG;
		if (i > 0 && entry_key(&image->entries[i - 1]) >= item.key)
			return -EBADMSG;
	}
	return 0;
}

static void block_fill(struct index_image *image, const struct index_item *items, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		image->entries[i] =
			(struct index_entry){.chunk = le32_make(index_key_chunk(items[i].key)),
					     .node = le32_make(index_key_node(items[i].key)),
					     .place = le64_make(items[i].place),
					     .crc32c = le32_make(items[i].crc32c),
					     .live_blocks = le32_make(items[i].live_blocks),
					     .highest_seq = le64_make(items[i].highest_seq),
					     .digest = le64_make(items[i].digest)};
	}
}

static void item_sum(struct index_item *sum, const struct index_item *item)
{
	uint64_t live = (uint64_t)sum->live_blocks + item->live_blocks;

	sum->live_blocks = (uint32_t)MIN(live, (uint64_t)UINT32_MAX);
	sum->digest += item->digest;
	sum->highest_seq = MAX(sum->highest_seq, item->highest_seq);
}

/* Reads and checks one block of a known level. */
static int block_load(struct co *co, const struct index_ctx *ctx, const struct index_item *at,
		      uint32_t level, void *copy)
{
	struct cache_key key = {at->place, at->crc32c, MAGIC_INDEX};

	if (!place_valid(&ctx->bounds, at->place))
		return -EBADMSG;
	int rc = cache_read(co, ctx->cache, &key, copy);
	if (rc == -EPROTO)
		rc = -EBADMSG;
	return rc < 0 ? rc : index_block_check(copy, level, &ctx->bounds);
}

/* ---- seek ---- */

static bool filter_passes(const struct index_query *query, const struct index_item *item)
{
	if (query->filter == INDEX_LIVE)
		return item->live_blocks > 0;
	if (query->filter == INDEX_NEWER)
		return item->highest_seq > query->since_seq;
	return true;
}

/*
 * One descent from the root to the first passing entry at or above *key. -EAGAIN: nothing below the
 * child that was taken; *key is where to try next.
 */
static int seek_once(struct co *co, const struct index_ctx *ctx, const struct index_ptr *root,
		     const struct index_query *query, uint64_t *key, struct index_item *ret)
{
	uint8_t block[BLOCK_BYTES] __attribute__((aligned(8)));
	struct index_item at = {.place = root->place, .crc32c = root->crc32c};
	uint64_t after = UINT64_MAX; /* first key right of the subtree */

	for (uint32_t level = root->levels; level-- > 0;) {
		int rc = block_load(co, ctx, &at, level, block);
		if (rc < 0) {
			ret->key = at.key;
			return rc;
		}
		int count = index_block_count(block, level);
		int i = index_block_find(block, (uint32_t)count, *key);
		index_block_item(block, (uint32_t)MAX(i, 0), &at);
		if (i < 0 || (level == 0 && at.key < *key))
			i++;
		for (; i < count; i++) {
			index_block_item(block, (uint32_t)i, &at);
			if (filter_passes(query, &at))
				break;
		}
		if (i == count) {
			*key = after;
			return after == UINT64_MAX ? -ENODATA : -EAGAIN;
		}
		*key = MAX(*key, at.key);
		if (i + 1 < count) {
			struct index_item right;
			index_block_item(block, (uint32_t)i + 1, &right);
			after = right.key;
		}
	}
	*ret = at;
	return 0;
}

int index_seek(struct co *co, const struct index_ctx *ctx, const struct index_ptr *root,
	       const struct index_query *query, struct index_item *ret)
{
	uint64_t key = query->key;
	struct index_item item = {0};
	int rc = -EAGAIN;

	if (root->levels == 0)
		return -ENODATA;
	if (root->levels > INDEX_LEVELS_MAX)
		return -EBADMSG;
	while (rc == -EAGAIN)
		rc = seek_once(co, ctx, root, query, &key, &item);
	if (rc == 0 || rc == -EBADMSG)
		*ret = item;
	return rc;
}

int index_sums(struct co *co, const struct index_ctx *ctx, const struct index_ptr *root,
	       struct index_item *ret)
{
	struct index_item at = {.place = root->place, .crc32c = root->crc32c}, sum = {0};

	if (root->levels > INDEX_LEVELS_MAX)
		return -EBADMSG;
	if (root->levels > 0) {
		uint8_t block[BLOCK_BYTES] __attribute__((aligned(8)));
		int rc = block_load(co, ctx, &at, root->levels - 1, block);
		if (rc < 0)
			return rc;
		int count = index_block_count(block, root->levels - 1);
		for (int i = 0; i < count; i++) {
			index_block_item(block, (uint32_t)i, &at);
			item_sum(&sum, &at);
		}
	}
	*ret = sum;
	return 0;
}

/* ---- update ---- */

struct update {
	struct co *co;
	const struct index_ctx *ctx;
	struct index_scratch *s;
	const struct index_change *changes;
	uint32_t change_count;
};

/* Writes items as one block of `level`; *ret is the parent's entry. */
static int block_write(struct update *u, uint32_t level, const struct index_item *items,
		       uint32_t count, struct index_item *ret)
{
	const struct index_ctx *ctx = u->ctx;
	struct space_extent extent;
	uint32_t extent_count;
	void *block;

	int rc = space_alloc(ctx->space, SPACE_INTERNAL, 1, &extent, 1, &extent_count);
	if (rc < 0)
		return rc;
	space_ref(ctx->space, extent.place, 1);
	if (++u->s->written % YIELD_BLOCKS == 0)
		co_sleep(u->co, 0);
	rc = writer_next(u->co, ctx->writer, extent.place, &block);
	if (rc < 0)
		return rc;
	struct meta_block_head head = {MAGIC_INDEX, (uint16_t)level, count};
	struct index_item item = {.key = items[0].key, .place = extent.place};
	block_fill(block, items, count);
	item.crc32c = meta_block_seal(block, &head, &ctx->bounds.store_uuid);
	for (uint32_t i = 0; i < count; i++)
		item_sum(&item, &items[i]);
	struct cache_key key = {item.place, item.crc32c, MAGIC_INDEX};
	cache_put(ctx->cache, &key, block);
	*ret = item;
	return 0;
}

static int builder_add(struct update *u, uint32_t level, const struct index_item *item);

/* Writes the first `count` items as a block and hands its entry up. */
static int builder_flush(struct update *u, uint32_t level, uint32_t count)
{
	struct builder *builder = &u->s->builders[level];
	struct index_item parent;

	int rc = block_write(u, level, builder->items, count, &parent);
	if (rc < 0)
		return rc;
	builder->count -= count;
	memmove(builder->items, builder->items + count, builder->count * sizeof(builder->items[0]));
	return builder_add(u, level + 1, &parent);
}

static int builder_add(struct update *u, uint32_t level, const struct index_item *item)
{
	struct builder *builder = &u->s->builders[level];

	if (level > INDEX_LEVELS_MAX)
		return -EBADMSG;
	if (builder->count == BUILDER_ENTRIES) {
		int rc = builder_flush(u, level, ENTRIES_FLUSH);
		if (rc < 0)
			return rc;
	}
	builder->items[builder->count++] = *item;
	return 0;
}

/* Writes all that is gathered, in blocks of even size. */
static int builder_close(struct update *u, uint32_t level)
{
	struct builder *builder = &u->s->builders[level];
	uint32_t blocks = DIV_UP(builder->count, ENTRIES_MAX);

	for (; blocks > 0; blocks--) {
		int rc = builder_flush(u, level, builder->count / blocks);
		if (rc < 0)
			return rc;
	}
	assert(builder->count == 0);
	return 0;
}

/* Changes [from, ret) have keys below `end`. */
static uint32_t changes_below(const struct update *u, uint32_t from, uint64_t end)
{
	uint32_t low = from, high = u->change_count;

	while (low < high) {
		uint32_t middle = (low + high) / 2;
		if (u->changes[middle].item.key < end)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static int leaf_merge(struct update *u, const void *old, uint32_t from, uint32_t to)
{
	int count = old ? index_block_count(old, 0) : 0, i = 0, rc = 0;
	struct index_item item;

	while (rc == 0 && (i < count || from < to)) {
		if (i < count)
			index_block_item(old, (uint32_t)i, &item);
		if (from == to || (i < count && item.key < u->changes[from].item.key)) {
			rc = builder_add(u, 0, &item);
			i++;
			continue;
		}
		const struct index_change *change = &u->changes[from++];
		if (i < count && item.key == change->item.key)
			i++; /* replaced */
		if (!change->remove)
			rc = builder_add(u, 0, &change->item);
	}
	return rc;
}

/* X3: rewrites the block at `at` with changes [from, to) into builder[level] and below. */
static int block_update(struct update *u, uint32_t level, const struct index_item *at,
			uint32_t from, uint32_t to)
{
	uint8_t *old = u->s->old[level];

	int rc = block_load(u->co, u->ctx, at, level, old);
	if (rc < 0)
		return rc;
	space_unref(u->ctx->space, at->place, 1, true);
	if (level == 0)
		return leaf_merge(u, old, from, to);
	int count = index_block_count(old, level);
	struct builder *below = &u->s->builders[level - 1];
	for (int i = 0; i < count && rc == 0; i++) {
		struct index_item child, right;
		uint32_t end = to;
		index_block_item(old, (uint32_t)i, &child);
		if (i + 1 < count) {
			index_block_item(old, (uint32_t)i + 1, &right);
			end = MIN(to, changes_below(u, from, right.key));
		}
		/* X5: an unreadable neighbour is left as it is, and so is the small block before
		 * it. */
		if (from == end && below->count > 0 &&
		    block_load(u->co, u->ctx, &child, level - 1, u->s->old[level - 1]) < 0)
			rc = builder_close(u, level - 1);
		if (rc == 0 && from == end && below->count == 0) {
			rc = builder_add(u, level, &child);
			continue;
		}
		if (rc < 0)
			return rc;
		rc = block_update(u, level - 1, &child, from, end);
		from = end;
		if (rc == 0 && (below->count >= ENTRIES_MIN || i + 1 == count))
			rc = builder_close(u, level - 1);
	}
	return rc;
}

/* Closes levels from the old root's upwards until one block, or nothing, is left. */
static int root_close(struct update *u, uint32_t level, struct index_ptr *ret)
{
	struct builder *builder = &u->s->builders[level];

	while (builder->count > 0) {
		if (level > 0 && builder->count == 1 && builder[1].count == 0) {
			const struct index_item *only = &builder->items[0];
			*ret = (struct index_ptr){only->place, only->crc32c, level};
			return level <= INDEX_LEVELS_MAX ? 0 : -EBADMSG;
		}
		int rc = builder_close(u, level);
		if (rc < 0)
			return rc;
		level++;
		builder++;
	}
	*ret = (struct index_ptr){0};
	return 0;
}

/* A root of one entry is only a detour. */
static int root_collapse(struct update *u, struct index_ptr *root)
{
	uint8_t *block = u->s->seek;

	while (root->levels > 1) {
		struct index_item at = {.place = root->place, .crc32c = root->crc32c};
		int rc = block_load(u->co, u->ctx, &at, root->levels - 1, block);
		if (rc < 0)
			return rc;
		if (index_block_count(block, root->levels - 1) > 1)
			return 0;
		space_unref(u->ctx->space, root->place, 1, true);
		index_block_item(block, 0, &at);
		*root = (struct index_ptr){at.place, at.crc32c, root->levels - 1};
	}
	return 0;
}

int index_update(struct co *co, const struct index_ctx *ctx, struct index_ptr *root,
		 const struct index_change *changes, uint32_t change_count)
{
	struct update u = {co, ctx, ctx->scratch, changes, change_count};
	struct index_item at = {.place = root->place, .crc32c = root->crc32c};
	struct index_ptr new_root;
	uint32_t top = root->levels > 0 ? root->levels - 1 : 0;

	if (change_count == 0)
		return 0;
	if (root->levels > INDEX_LEVELS_MAX)
		return -EIO;
	for (uint32_t i = 0; i < ARRAY_LEN(u.s->builders); i++)
		u.s->builders[i].count = 0;
	int rc = root->levels == 0 ? leaf_merge(&u, NULL, 0, change_count)
				   : block_update(&u, top, &at, 0, change_count);
	if (rc == 0)
		rc = root_close(&u, top, &new_root);
	int finished = writer_finish(co, ctx->writer); /* from here blocks may be read back */
	if (rc == 0)
		rc = finished;
	if (rc == 0)
		rc = root_collapse(&u, &new_root);
	if (rc == 0)
		*root = new_root;
	return rc == -EBADMSG ? -EIO : rc;
}
