/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Deltas.
 *
 * D1  Extents do not overlap; every data entry covered by an extent has a seq at or above the
 *     extent's.
 * D2  A key in an inner node is at or below every key of its child, and above every key of the
 *     child before; the first one counts as minus infinity.
 * D3  A change takes at most NODES_MARGIN nodes and checks for them first, so it happens whole
 *     or not at all (a zero: piece by piece, each whole; pieces are idempotent).
 * D4  `counted` is set on at least one entry of each chunk that has entries, so the number of
 *     counted entries bounds the pages that a fold will write. It is promised to space, with two
 *     pages per extent (its edges) and a block for each payload that is still in the ring.
 */
#include "store/delta.h"

#include <errno.h>
#include <stdlib.h>

#include "store/batch_io.h"

#define NODE_BYTES   1024u
#define LEAF_MAX     42u
#define LEAF_JOIN    10u /* left free where leaves are joined; moved out of a full one in a gap */
#define INNER_MAX    80u
#define LEVELS_MAX   8u
#define NODES_MARGIN 16u
#define CHUNK_BLOCKS 256u

#define PLACE_BITS 48
#define PLACE_MASK ((1ull << PLACE_BITS) - 1)
#define COUNTED    (1u << 31)
#define MARKED     (1u << 30)

struct packed {
	uint64_t seq;
	uint64_t value;      /* place or length (48) | low 16 bits of the block << 48 */
	uint32_t block_high; /* | COUNTED | MARKED */
	uint32_t crc32c;
};
static_assert(sizeof(struct packed) == 24, "delta entries are 24 bytes");

struct leaf {
	uint32_t count;
	uint32_t reserved[3];
	struct packed entries[LEAF_MAX];
};
static_assert(sizeof(struct leaf) == NODE_BYTES, "leaf fills a node");

struct inner {
	uint32_t count;
	uint32_t reserved[3];
	uint64_t keys[INNER_MAX];
	uint32_t children[INNER_MAX];
};
static_assert(sizeof(struct inner) <= NODE_BYTES, "inner node fits");

/* ---- pool ---- */

struct delta_pool {
	uint8_t *memory;
	uint32_t node_count; /* all, node 0 is never used */
	uint32_t limit;      /* of those in use: the bound, or while loading all of them */
	uint32_t bound;
	uint32_t used;
	uint32_t top;       /* nodes from here on were never used */
	uint32_t free_head; /* chain through the first word */
};

struct delta_pool *delta_pool_create(uint64_t bytes)
{
	struct delta_pool *pool = calloc(1, sizeof(*pool));
	if (!pool)
		return NULL;
	pool->bound = (uint32_t)MAX(MIN(bytes / NODE_BYTES, 1ull << 31), 8 * NODES_MARGIN);
	pool->node_count = pool->limit = pool->bound;
	pool->top = 1;
	pool->memory = lazy_alloc((size_t)pool->node_count * NODE_BYTES);
	if (!pool->memory) {
		free(pool);
		return NULL;
	}
	return pool;
}

void delta_pool_destroy(struct delta_pool *pool)
{
	if (!pool)
		return;
	lazy_free(pool->memory, (size_t)pool->node_count * NODE_BYTES);
	free(pool);
}

uint64_t delta_pool_used_bytes(const struct delta_pool *pool)
{
	return (uint64_t)pool->used * NODE_BYTES;
}

bool delta_pool_full(const struct delta_pool *pool)
{
	return pool->used + 4 * NODES_MARGIN >= pool->limit;
}

uint64_t delta_pool_room_bytes(const struct delta_pool *pool)
{
	return (uint64_t)(pool->bound - 4 * NODES_MARGIN) * NODE_BYTES;
}

bool delta_pool_tight(const struct delta_pool *pool)
{
	return pool->used + 2 * NODES_MARGIN >= pool->limit;
}

static bool pool_has(const struct delta_pool *pool, uint32_t nodes)
{
	return pool->used + 1 + nodes <= pool->limit;
}

int delta_pool_load_begin(struct delta_pool *pool, uint64_t entries)
{
	/* A leaf that a split makes has LEAF_JOIN entries at least; the one at the right end has not. */
	uint64_t nodes = entries / (LEAF_JOIN - 1) + 8 * NODES_MARGIN;

	assert(pool->used == 0);
	if (nodes > 1u << 31)
		return -ENOMEM;
	if (nodes > pool->node_count) {
		uint8_t *memory = lazy_alloc((size_t)nodes * NODE_BYTES);
		if (!memory)
			return -ENOMEM;
		lazy_free(pool->memory, (size_t)pool->node_count * NODE_BYTES);
		pool->memory = memory;
		pool->node_count = (uint32_t)nodes;
	}
	pool->limit = pool->node_count;
	return 0;
}

void delta_pool_load_end(struct delta_pool *pool)
{
	pool->limit = pool->bound;
}

static void *node_at(const struct delta_pool *pool, uint32_t node)
{
	return pool->memory + (size_t)node * NODE_BYTES;
}

static uint32_t node_take(struct delta_pool *pool)
{
	uint32_t node = pool->free_head;

	assert(pool_has(pool, 1));
	pool->used++;
	if (node == 0)
		return pool->top++;
	memcpy(&pool->free_head, node_at(pool, node), sizeof(pool->free_head));
	return node;
}

static void node_give(struct delta_pool *pool, uint32_t node)
{
	memcpy(node_at(pool, node), &pool->free_head, sizeof(pool->free_head));
	pool->free_head = node;
	pool->used--;
	if (pool->used > 0)
		return;
	/* An idle store gives its memory back. */
	lazy_clear(pool->memory, (size_t)pool->top * NODE_BYTES);
	pool->free_head = 0;
	pool->top = 1;
}

/* ---- packed entries ---- */

static uint64_t packed_block(const struct packed *p)
{
	return (uint64_t)(p->block_high & ~(COUNTED | MARKED)) << 16 | p->value >> PLACE_BITS;
}

static uint64_t packed_value(const struct packed *p)
{
	return p->value & PLACE_MASK;
}

static void packed_value_set(struct packed *p, uint64_t value)
{
	p->value = (p->value & ~PLACE_MASK) | value;
}

static struct packed pack(uint64_t block, uint64_t value, uint64_t seq, uint32_t crc)
{
	assert(value <= PLACE_MASK && block >> 46 == 0);
	return (struct packed){.seq = seq,
			       .value = value | (block & 0xffff) << PLACE_BITS,
			       .block_high = (uint32_t)(block >> 16),
			       .crc32c = crc};
}

static void unpack(const struct packed *p, struct delta_entry *ret)
{
	*ret = (struct delta_entry){.block = packed_block(p),
				    .place = packed_value(p),
				    .length_blocks = packed_value(p),
				    .seq = p->seq,
				    .crc32c = p->crc32c,
				    .marked = p->block_high & MARKED};
}

/* ---- tree ---- */

struct path {
	uint32_t node[LEVELS_MAX];
	uint32_t index[LEVELS_MAX]; /* child taken; in the leaf: first entry at or above the key */
	uint64_t after;             /* first key right of the leaf, UINT64_MAX: none */
};

static uint32_t leaf_lower_bound(const struct leaf *leaf, uint64_t block)
{
	uint32_t low = 0, high = leaf->count;

	while (low < high) {
		uint32_t middle = (low + high) / 2;
		if (packed_block(&leaf->entries[middle]) < block)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static uint32_t inner_child(const struct inner *inner, uint64_t block)
{
	uint32_t low = 1, high = inner->count; /* D2 */

	while (low < high) {
		uint32_t middle = (low + high) / 2;
		if (inner->keys[middle] <= block)
			low = middle + 1;
		else
			high = middle;
	}
	return low - 1;
}

/* path->node[0] is the leaf. The tree is not empty. */
static void tree_descend(const struct delta_pool *pool, const struct delta_tree *tree,
			 uint64_t block, struct path *path)
{
	uint32_t node = tree->root;

	path->after = UINT64_MAX;
	for (uint32_t level = tree->levels - 1; level > 0; level--) {
		const struct inner *inner = node_at(pool, node);
		uint32_t i = inner_child(inner, block);
		path->node[level] = node;
		path->index[level] = i;
		if (i + 1 < inner->count)
			path->after = inner->keys[i + 1];
		node = inner->children[i];
	}
	path->node[0] = node;
	path->index[0] = leaf_lower_bound(node_at(pool, node), block);
}

/* The first entry at or above block, or NULL; path leads to it. */
static struct packed *tree_seek(const struct delta_pool *pool, const struct delta_tree *tree,
				uint64_t block, struct path *path)
{
	if (tree->root == 0)
		return NULL;
	for (;;) {
		tree_descend(pool, tree, block, path);
		struct leaf *leaf = node_at(pool, path->node[0]);
		if (path->index[0] < leaf->count)
			return &leaf->entries[path->index[0]];
		if (path->after == UINT64_MAX)
			return NULL;
		block = path->after;
	}
}

/* A new right neighbour for the child at path->index[level]. */
static void inner_insert(struct delta_pool *pool, struct delta_tree *tree, struct path *path,
			 uint64_t key, uint32_t child)
{
	for (uint32_t level = 1;; level++) {
		assert(level < LEVELS_MAX);
		if (level == tree->levels) { /* the root was split */
			uint32_t node = node_take(pool);
			struct inner *root = node_at(pool, node);
			root->count = 2;
			root->keys[0] = 0;
			root->children[0] = tree->root;
			root->keys[1] = key;
			root->children[1] = child;
			tree->root = node;
			tree->levels++;
			tree->node_count++;
			return;
		}
		struct inner *inner = node_at(pool, path->node[level]);
		uint32_t at = path->index[level] + 1;
		struct inner *right = NULL;
		uint32_t right_node = 0;
		if (inner->count == INNER_MAX) {
			uint32_t keep = at == INNER_MAX ? INNER_MAX - 1 : INNER_MAX / 2;
			right_node = node_take(pool);
			tree->node_count++;
			right = node_at(pool, right_node);
			right->count = INNER_MAX - keep;
			memcpy(right->keys, inner->keys + keep, right->count * sizeof(uint64_t));
			memcpy(right->children, inner->children + keep,
			       right->count * sizeof(uint32_t));
			inner->count = keep;
		}
		struct inner *into = right && at > inner->count ? right : inner;
		if (into == right)
			at -= inner->count;
		memmove(into->keys + at + 1, into->keys + at,
			(into->count - at) * sizeof(uint64_t));
		memmove(into->children + at + 1, into->children + at,
			(into->count - at) * sizeof(uint32_t));
		into->keys[at] = key;
		into->children[at] = child;
		into->count++;
		if (!right)
			return;
		key = right->keys[0];
		child = right_node;
	}
}

/* Inserts at path (from tree_descend for its block). */
static struct packed *leaf_insert(struct delta_pool *pool, struct delta_tree *tree,
				  struct path *path, const struct packed *entry)
{
	struct leaf *leaf = node_at(pool, path->node[0]);
	uint32_t at = path->index[0];
	uint32_t right_node = 0;
	struct leaf *right = NULL;

	tree->entry_count++;
	if (leaf->count == LEAF_MAX) {
		uint32_t keep = LEAF_MAX / 2;
		/* Ascending: leave it full. In a gap not quite, or each of a descending run took a leaf. */
		if (at == LEAF_MAX)
			keep = path->after == UINT64_MAX ? LEAF_MAX : LEAF_MAX - LEAF_JOIN;
		right_node = node_take(pool);
		tree->node_count++;
		right = node_at(pool, right_node);
		right->count = LEAF_MAX - keep;
		memcpy(right->entries, leaf->entries + keep, right->count * sizeof(*entry));
		leaf->count = keep;
	}
	struct leaf *into = right && (at > leaf->count || right->count == 0) ? right : leaf;
	if (into == right)
		at -= leaf->count;
	memmove(into->entries + at + 1, into->entries + at, (into->count - at) * sizeof(*entry));
	into->entries[at] = *entry;
	into->count++;
	if (right)
		inner_insert(pool, tree, path, packed_block(&right->entries[0]), right_node);
	return &into->entries[at];
}

static struct packed *tree_insert(struct delta_pool *pool, struct delta_tree *tree,
				  const struct packed *entry)
{
	struct path path;

	if (tree->root == 0) {
		tree->root = node_take(pool);
		tree->levels = 1;
		tree->node_count = 1;
		((struct leaf *)node_at(pool, tree->root))->count = 0;
	}
	tree_descend(pool, tree, packed_block(entry), &path);
	return leaf_insert(pool, tree, &path, entry);
}

/* A root of one child is only a detour. */
static void root_shrink(struct delta_pool *pool, struct delta_tree *tree)
{
	while (tree->levels > 1) {
		const struct inner *root = node_at(pool, tree->root);
		if (root->count > 1)
			return;
		uint32_t child = root->children[0];
		node_give(pool, tree->root);
		tree->node_count--;
		tree->root = child;
		tree->levels--;
	}
}

/* Leaves i and i + 1 of a parent become one when that leaves room. */
static bool leaves_join(struct delta_pool *pool, struct delta_tree *tree, struct inner *inner,
			uint32_t i)
{
	if (i + 1 >= inner->count)
		return false;
	struct leaf *left = node_at(pool, inner->children[i]);
	uint32_t right_node = inner->children[++i];
	const struct leaf *right = node_at(pool, right_node);
	if (left->count + right->count > LEAF_MAX - LEAF_JOIN)
		return false;
	memcpy(left->entries + left->count, right->entries,
	       right->count * sizeof(right->entries[0]));
	left->count += right->count;
	node_give(pool, right_node);
	tree->node_count--;
	inner->count--;
	memmove(inner->keys + i, inner->keys + i + 1, (inner->count - i) * sizeof(uint64_t));
	memmove(inner->children + i, inner->children + i + 1,
		(inner->count - i) * sizeof(uint32_t));
	return true;
}

/* The leaf at path has lost an entry: with a neighbour that is small too it becomes one, so that what is removed
 * here and there gives memory back. */
static void leaf_join(struct delta_pool *pool, struct delta_tree *tree, const struct path *path)
{
	const struct leaf *leaf = node_at(pool, path->node[0]);

	if (tree->levels < 2 || leaf->count > LEAF_MAX / 2)
		return;
	struct inner *inner = node_at(pool, path->node[1]);
	uint32_t i = path->index[1];
	if (leaves_join(pool, tree, inner, i) || (i > 0 && leaves_join(pool, tree, inner, i - 1)))
		root_shrink(pool, tree);
}

/* Removes the entry at path; empty nodes go. */
static void tree_remove(struct delta_pool *pool, struct delta_tree *tree, struct path *path)
{
	struct leaf *leaf = node_at(pool, path->node[0]);
	uint32_t at = path->index[0], level = 0;

	tree->entry_count--;
	leaf->count--;
	memmove(leaf->entries + at, leaf->entries + at + 1,
		(leaf->count - at) * sizeof(leaf->entries[0]));
	if (leaf->count > 0) {
		leaf_join(pool, tree, path);
		return;
	}
	for (;;) {
		node_give(pool, path->node[level]);
		tree->node_count--;
		if (++level == tree->levels) {
			*tree = (struct delta_tree){0};
			return;
		}
		struct inner *inner = node_at(pool, path->node[level]);
		uint32_t i = path->index[level];
		inner->count--;
		memmove(inner->keys + i, inner->keys + i + 1,
			(inner->count - i) * sizeof(uint64_t));
		memmove(inner->children + i, inner->children + i + 1,
			(inner->count - i) * sizeof(uint32_t));
		if (inner->count > 0)
			break;
	}
	root_shrink(pool, tree);
}

/* ---- promises (D4) ---- */

static void promise_add(struct delta *delta, int64_t blocks)
{
	delta->promised = (uint64_t)((int64_t)delta->promised + blocks);
	space_promise(delta->space, blocks);
}

static bool in_ring(const struct delta *delta, uint64_t place)
{
	return place != 0 && place < space_data_start(delta->space);
}

static uint64_t chunk_of(uint64_t block)
{
	return block / CHUNK_BLOCKS;
}

/* A place that this delta names no more. */
static void place_unref(struct delta *delta, uint64_t place)
{
	if (delta->unref != DELTA_UNREF_NONE)
		space_unref(delta->space, place, 1, delta->unref == DELTA_UNREF_THIS_ROOT);
}

/* ---- life ---- */

void delta_init(struct delta *delta, struct delta_pool *pool, struct space *space)
{
	*delta = (struct delta){.pool = pool, .space = space};
}

bool delta_empty(const struct delta *delta)
{
	return delta->data.root == 0 && delta->zero.root == 0;
}

uint64_t delta_bytes(const struct delta *delta)
{
	return (delta->data.node_count + delta->zero.node_count) * NODE_BYTES;
}

static void tree_clear(struct delta *delta, uint32_t node, uint32_t level, bool unref)
{
	if (level > 0) {
		const struct inner *inner = node_at(delta->pool, node);
		for (uint32_t i = 0; i < inner->count; i++)
			tree_clear(delta, inner->children[i], level - 1, unref);
	} else if (unref) {
		const struct leaf *leaf = node_at(delta->pool, node);
		for (uint32_t i = 0; i < leaf->count; i++) {
			if (packed_value(&leaf->entries[i]) != 0)
				place_unref(delta, packed_value(&leaf->entries[i]));
		}
	}
	node_give(delta->pool, node);
}

void delta_clear(struct delta *delta, bool unref)
{
	if (delta->data.root)
		tree_clear(delta, delta->data.root, delta->data.levels - 1, unref);
	if (delta->zero.root)
		tree_clear(delta, delta->zero.root, delta->zero.levels - 1, false);
	promise_add(delta, -(int64_t)delta->promised);
	enum delta_unref mode = delta->unref;
	delta_init(delta, delta->pool, delta->space);
	delta->unref = mode;
}

/* ---- questions ---- */

static bool extent_at(const struct delta *delta, uint64_t block, struct delta_entry *ret)
{
	return delta_zero_seek(delta, block, ret) && ret->block <= block;
}

bool delta_zero_seek(const struct delta *delta, uint64_t block, struct delta_entry *ret)
{
	struct path path;
	const struct delta_pool *pool = delta->pool;

	if (delta->zero.root == 0)
		return false;
	tree_descend(pool, &delta->zero, block, &path);
	/* The one that starts before may reach over; it is in this leaf or at the end of the one
	 * before. */
	const struct leaf *leaf = node_at(pool, path.node[0]);
	const struct packed *before = NULL;
	if (path.index[0] > 0) {
		before = &leaf->entries[path.index[0] - 1];
	} else {
		uint32_t level = 1;
		while (level < delta->zero.levels && path.index[level] == 0)
			level++;
		if (level < delta->zero.levels) {
			const struct inner *inner = node_at(pool, path.node[level]);
			uint32_t node = inner->children[path.index[level] - 1];
			while (--level > 0) {
				inner = node_at(pool, node);
				node = inner->children[inner->count - 1];
			}
			leaf = node_at(pool, node);
			before = &leaf->entries[leaf->count - 1];
		}
	}
	if (before && packed_block(before) + packed_value(before) > block) {
		unpack(before, ret);
		return true;
	}
	const struct packed *at = tree_seek(pool, &delta->zero, block, &path);
	if (!at)
		return false;
	unpack(at, ret);
	return true;
}

bool delta_data_seek(const struct delta *delta, uint64_t block, struct delta_entry *ret)
{
	struct path path;
	const struct packed *at = tree_seek(delta->pool, &delta->data, block, &path);

	if (!at)
		return false;
	unpack(at, ret);
	return true;
}

bool delta_find(const struct delta *delta, uint64_t block, struct delta_entry *ret)
{
	if (delta_data_seek(delta, block, ret) && ret->block == block)
		return true;
	if (!extent_at(delta, block, ret))
		return false;
	*ret = (struct delta_entry){.block = block, .length_blocks = 1, .seq = ret->seq};
	return true;
}

void delta_cursor_start(struct delta_cursor *cursor, const struct delta *delta, uint64_t block)
{
	struct path path;

	*cursor = (struct delta_cursor){.delta = delta};
	if (!tree_seek(delta->pool, &delta->data, block, &path))
		return;
	cursor->node = path.node[0];
	cursor->index = path.index[0];
}

bool delta_cursor_next(struct delta_cursor *cursor, struct delta_entry *ret)
{
	if (cursor->node == 0)
		return false;
	const struct leaf *leaf = node_at(cursor->delta->pool, cursor->node);
	unpack(&leaf->entries[cursor->index++], ret);
	if (cursor->index == leaf->count)
		delta_cursor_start(cursor, cursor->delta, ret->block + 1);
	return true;
}

/* ---- changes ---- */

static int put_replace(struct delta *delta, struct packed *old, const struct delta_entry *entry)
{
	uint64_t old_place = packed_value(old);

	if (old->seq > entry->seq) {
		place_unref(delta, entry->place);
		return 0;
	}
	if (old_place != 0 && old_place != entry->place)
		place_unref(delta, old_place);
	promise_add(delta, (int)in_ring(delta, entry->place) - (int)in_ring(delta, old_place));
	packed_value_set(old, entry->place);
	old->seq = entry->seq;
	old->crc32c = entry->crc32c;
	return 0;
}

int delta_put(struct delta *delta, const struct delta_entry *entry)
{
	struct delta_entry extent;
	struct path path;

	assert(entry->place != 0);
	if (!pool_has(delta->pool, NODES_MARGIN))
		return -ENOMEM;
	delta->highest_seq = MAX(delta->highest_seq, entry->seq);
	struct packed *old = tree_seek(delta->pool, &delta->data, entry->block, &path);
	if (old && packed_block(old) == entry->block)
		return put_replace(delta, old, entry);
	if (extent_at(delta, entry->block, &extent) && extent.seq > entry->seq) {
		place_unref(delta, entry->place);
		return 0;
	}
	struct packed packed = pack(entry->block, entry->place, entry->seq, entry->crc32c);
	struct packed *now = tree_insert(delta->pool, &delta->data, &packed);
	/* D4: a neighbour in the same leaf and chunk has the mark, or passed it on. */
	const struct leaf *leaf = (void *)((uintptr_t)now & ~(uintptr_t)(NODE_BYTES - 1));
	uint32_t i = (uint32_t)(now - leaf->entries);
	uint64_t chunk = chunk_of(entry->block);
	bool alone = (i == 0 || chunk_of(packed_block(now - 1)) != chunk) &&
		     (i + 1 == leaf->count || chunk_of(packed_block(now + 1)) != chunk);
	if (alone)
		now->block_high |= COUNTED;
	promise_add(delta, (int)alone + (int)in_ring(delta, entry->place));
	return 0;
}

/* Data entries of [block, end) at or below seq go; the first of each chunk becomes a marker. */
static void zero_data(struct delta *delta, uint64_t block, uint64_t end, uint64_t seq)
{
	struct path path;
	uint64_t marked_chunk = UINT64_MAX;
	uint64_t marker_block = 0;

	for (;;) {
		struct packed *at = tree_seek(delta->pool, &delta->data, block, &path);
		if (!at || packed_block(at) >= end)
			return;
		block = packed_block(at) + 1;
		if (at->seq > seq)
			continue;
		uint64_t place = packed_value(at), chunk = chunk_of(block - 1);
		if (place != 0) {
			place_unref(delta, place);
			promise_add(delta, -(int)in_ring(delta, place));
		}
		if (chunk != marked_chunk) {
			packed_value_set(at, 0);
			at->seq = seq;
			at->crc32c = 0;
			marked_chunk = chunk;
			marker_block = block - 1;
			continue;
		}
		bool counted = at->block_high & COUNTED;
		tree_remove(delta->pool, &delta->data, &path);
		if (!counted)
			continue;
		struct packed *marker = tree_seek(delta->pool, &delta->data, marker_block, &path);
		assert(marker && packed_block(marker) == marker_block);
		if (marker->block_high & COUNTED)
			promise_add(delta, -1);
		marker->block_high |= COUNTED;
	}
}

static void extent_remove(struct delta *delta, uint64_t block)
{
	struct path path;
	const struct packed *at = tree_seek(delta->pool, &delta->zero, block, &path);

	assert(at && packed_block(at) == block);
	tree_remove(delta->pool, &delta->zero, &path);
	promise_add(delta, -2);
}

static void extent_insert_plain(struct delta *delta, uint64_t block, uint64_t end, uint64_t seq)
{
	struct packed packed = pack(block, end - block, seq, 0);

	tree_insert(delta->pool, &delta->zero, &packed);
	promise_add(delta, 2);
}

/* [block, end) is free of extents; neighbours of the same seq are joined. */
static void extent_insert(struct delta *delta, uint64_t block, uint64_t end, uint64_t seq)
{
	struct delta_entry other;

	if (block > 0 && extent_at(delta, block - 1, &other) && other.seq == seq) {
		extent_remove(delta, other.block);
		block = other.block;
	}
	if (extent_at(delta, end, &other) && other.seq == seq) {
		extent_remove(delta, other.block);
		end = other.block + other.length_blocks;
	}
	extent_insert_plain(delta, block, end, seq);
}

/* One step from `at`: returns where the next one starts. */
static uint64_t zero_step(struct delta *delta, uint64_t at, uint64_t end, uint64_t seq)
{
	struct delta_entry other;

	if (!delta_zero_seek(delta, at, &other) || other.block >= end) {
		extent_insert(delta, at, end, seq);
		return end;
	}
	uint64_t other_end = other.block + other.length_blocks;
	if (other.seq > seq) {
		if (other.block > at)
			extent_insert(delta, at, other.block, seq);
		return other_end;
	}
	extent_remove(delta, other.block);
	if (other.block < at)
		extent_insert_plain(delta, other.block, at, other.seq);
	if (other_end > end)
		extent_insert_plain(delta, end, other_end, other.seq);
	return at;
}

int delta_zero(struct delta *delta, const struct delta_entry *entry)
{
	uint64_t end = entry->block + entry->length_blocks;

	if (!pool_has(delta->pool, NODES_MARGIN))
		return -ENOMEM;
	delta->highest_seq = MAX(delta->highest_seq, entry->seq);
	zero_data(delta, entry->block, end, entry->seq);
	for (uint64_t at = entry->block; at < end;) {
		if (!pool_has(delta->pool, NODES_MARGIN))
			return -ENOMEM;
		at = zero_step(delta, at, end, entry->seq);
	}
	return 0;
}

void delta_move(struct delta *delta, uint64_t block, uint64_t place)
{
	struct path path;
	struct packed *at = tree_seek(delta->pool, &delta->data, block, &path);

	assert(at && packed_block(at) == block);
	promise_add(delta, (int)in_ring(delta, place) - (int)in_ring(delta, packed_value(at)));
	packed_value_set(at, place);
}

/* ---- chunks ---- */

uint32_t delta_chunk_count(const struct delta *delta, uint64_t chunk)
{
	struct delta_cursor cursor;
	struct delta_entry entry;
	uint32_t count = 0;

	delta_cursor_start(&cursor, delta, chunk * CHUNK_BLOCKS);
	while (delta_cursor_next(&cursor, &entry) && chunk_of(entry.block) == chunk)
		count++;
	return count;
}

void delta_chunk_drop(struct delta *delta, uint64_t chunk)
{
	for (;;) {
		struct path path;
		const struct packed *at =
			tree_seek(delta->pool, &delta->data, chunk * CHUNK_BLOCKS, &path);
		if (!at || chunk_of(packed_block(at)) != chunk)
			return;
		bool counted = at->block_high & COUNTED;
		promise_add(delta, -(int)counted - (int)in_ring(delta, packed_value(at)));
		tree_remove(delta->pool, &delta->data, &path);
	}
}

void delta_chunk_mark(struct delta *delta, uint64_t chunk)
{
	struct path path;
	struct packed *at = tree_seek(delta->pool, &delta->data, chunk * CHUNK_BLOCKS, &path);

	assert(at && chunk_of(packed_block(at)) == chunk);
	at->block_high |= MARKED;
}
