/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The space map on disk: TABLE_SPACE blocks of 29 segments each, and a chain of TABLE_SPACE_DIR
 * blocks with a pointer to each of them. Copy on write, only what changed.
 *
 * T1  The table describes itself. A table block that moves dirties the table blocks that cover its
 * new and its old place; so placing goes round until no unplaced dirty block is left, and only then
 * is anything encoded. Each round places at least one block and a block is placed once per
 *     checkpoint, so it ends; places come from one open segment, so it ends soon.
 * T2  Between the first placing and the durable root nobody else changes `referenced` (space.h), so
 *     what is encoded later, while earlier blocks are being written, is still the same state.
 * T3  A pointer with place 0 is a table block whose segments are all free.
 */
#include <errno.h>
#include <stdlib.h>

#include "store/meta_block.h"
#include "store/space_impl.h"

#define DIR_ENTRIES (TABLE_ENTRY_BYTES / sizeof(struct block_ptr))
#define LOAD_DEPTH  32u

struct space_table {
	struct table_block t;
	struct segment_entry segments[SEGMENTS_PER_TABLE_BLOCK];
};
static_assert(sizeof(struct space_table) <= BLOCK_BYTES, "space table fits a block");

struct space_dir {
	struct table_block t;
	struct block_ptr tables[DIR_ENTRIES];
};
static_assert(sizeof(struct space_dir) <= BLOCK_BYTES, "space directory fits a block");

void space_table_dirty(struct space *space, uint64_t block)
{
	bit_set(space->table_dirty, block / SEGMENT_BLOCKS / SEGMENTS_PER_TABLE_BLOCK);
}

static uint32_t table_segments(const struct space *space, uint32_t table)
{
	uint32_t first = table * SEGMENTS_PER_TABLE_BLOCK;
	return MIN(SEGMENTS_PER_TABLE_BLOCK, space->segment_count - first);
}

static uint32_t dir_tables(const struct space *space, uint32_t dir)
{
	return (uint32_t)MIN((uint64_t)DIR_ENTRIES,
			     space->table_count - (uint64_t)dir * DIR_ENTRIES);
}

/* ---- writing ---- */

static int take_place(struct space *space, uint64_t old_place, uint64_t *ret_place)
{
	struct space_extent extent;
	uint32_t count;

	int rc = space_alloc(space, SPACE_INTERNAL, 1, &extent, 1, &count);
	if (rc < 0)
		return rc;
	space_ref(space, extent.place, 1);
	if (old_place != 0)
		space_unref(space, old_place, 1, true);
	*ret_place = extent.place;
	return 0;
}

/* T1 */
static int place_all(struct space *space)
{
	for (uint32_t i = 0; i < space->dir_count; i++) {
		int rc = take_place(space, space->dir_places[i], &space->dir_places[i]);
		if (rc < 0)
			return rc;
	}
	bool again = true;
	while (again) {
		again = false;
		for (uint32_t i = 0; i < space->table_count; i++) {
			if (!bit_get(space->table_dirty, i) || bit_get(space->table_placed, i))
				continue;
			int rc = take_place(space, space->tables[i].place, &space->tables[i].place);
			if (rc < 0)
				return rc;
			bit_set(space->table_placed, i);
			again = true;
		}
	}
	return 0;
}

static uint32_t table_encode(const struct space *space, uint32_t table, struct space_table *block)
{
	uint32_t count = table_segments(space, table);

	for (uint32_t i = 0; i < count; i++) {
		uint32_t segment = table * SEGMENTS_PER_TABLE_BLOCK + i;
		const uint64_t *words = space->referenced + (size_t)segment * SEGMENT_WORDS;
		uint32_t live = 0;
		for (uint32_t w = 0; w < SEGMENT_WORDS; w++)
			live += (uint32_t)__builtin_popcountll(words[w]);
		block->segments[i].live = le16_make((uint16_t)live);
		memcpy(block->segments[i].bitmap, words, sizeof(block->segments[i].bitmap));
	}
	struct meta_block_head head = {MAGIC_TABLE, TABLE_SPACE, count};
	return meta_block_seal(block, &head, &space->store_uuid);
}

static int write_tables(struct co *co, struct space *space)
{
	for (uint32_t i = 0; i < space->table_count; i++) {
		if (!bit_get(space->table_placed, i))
			continue;
		void *block;
		int rc = writer_next(co, space->writer, space->tables[i].place, &block);
		if (rc < 0)
			return rc;
		space->tables[i].crc32c = table_encode(space, i, block);
	}
	return 0;
}

static int write_dir(struct co *co, struct space *space, struct block_ptr *ret_dir)
{
	struct block_ptr next = {.place = le64_make(0)};

	for (uint32_t d = space->dir_count; d-- > 0;) {
		struct space_dir *block;
		int rc = writer_next(co, space->writer, space->dir_places[d], (void **)&block);
		if (rc < 0)
			return rc;
		uint32_t count = dir_tables(space, d);
		block->t.next = next;
		for (uint32_t i = 0; i < count; i++) {
			const struct space_table_place *table = &space->tables[d * DIR_ENTRIES + i];
			block->tables[i].place = le64_make(table->place);
			block->tables[i].crc32c = le32_make(table->crc32c);
		}
		struct meta_block_head head = {MAGIC_TABLE, TABLE_SPACE_DIR, count};
		uint32_t crc = meta_block_seal(block, &head, &space->store_uuid);
		next.place = le64_make(space->dir_places[d]);
		next.crc32c = le32_make(crc);
	}
	*ret_dir = next;
	return 0;
}

int space_write(struct co *co, struct space *space, struct block_ptr *ret_dir)
{
	struct block_ptr dir;
	size_t bitmap_bytes = DIV_UP((size_t)space->table_count, 64) * sizeof(uint64_t);

	int rc = place_all(space);
	if (rc == 0)
		rc = write_tables(co, space);
	if (rc == 0)
		rc = write_dir(co, space, &dir);
	int finished = writer_finish(co, space->writer);
	if (rc == 0)
		rc = finished;
	if (rc < 0)
		return rc;
	memset(space->table_dirty, 0, bitmap_bytes);
	memset(space->table_placed, 0, bitmap_bytes);
	*ret_dir = dir;
	return 0;
}

/* ---- loading ---- */

static int load_dir(struct co *co, struct space *space, struct batch_io *batch,
		    const struct block_ptr *dir, struct space_dir *block, struct err *err)
{
	struct block_ptr at = *dir;

	for (uint32_t d = 0; d < space->dir_count; d++) {
		struct batch_io_part part = {le64_get(at.place), 1, block, NULL};
		if (part.place < space->data_start || part.place >= space->size_blocks)
			return err_set(
				err, -EBADMSG,
				"space directory block %u: place %llu is outside the data area", d,
				(unsigned long long)part.place);
		batch_io_submit(co, batch, ENV_IO_READ, &part);
		int rc = batch_io_wait(co, batch, 0);
		if (rc < 0)
			return err_set(err, rc, "space directory block %u: read failed", d);
		uint32_t crc = le32_get(at.crc32c), count = dir_tables(space, d);
		rc = meta_block_check(block, MAGIC_TABLE, &space->store_uuid, &crc);
		if (rc < 0 || le16_get(block->t.h.kind) != TABLE_SPACE_DIR ||
		    le32_get(block->t.h.count) != count)
			return err_set(err, rc < 0 ? rc : -EBADMSG,
				       "space directory block %u at place %llu is damaged", d,
				       (unsigned long long)part.place);
		space->dir_places[d] = part.place;
		for (uint32_t i = 0; i < count; i++)
			space->tables[d * DIR_ENTRIES + i] =
				(struct space_table_place){le64_get(block->tables[i].place),
							   le32_get(block->tables[i].crc32c)};
		at = block->t.next;
	}
	return 0;
}

static bool table_decode(struct space *space, uint32_t table, const struct space_table *block)
{
	uint32_t crc = space->tables[table].crc32c, count = table_segments(space, table);

	if (meta_block_check(block, MAGIC_TABLE, &space->store_uuid, &crc) < 0 ||
	    le16_get(block->t.h.kind) != TABLE_SPACE || le32_get(block->t.h.count) != count)
		return false;
	for (uint32_t i = 0; i < count; i++) {
		uint32_t segment = table * SEGMENTS_PER_TABLE_BLOCK + i, live = 0;
		uint64_t words[SEGMENT_WORDS];
		memcpy(words, block->segments[i].bitmap, sizeof(words));
		for (uint32_t w = 0; w < SEGMENT_WORDS; w++)
			live += (uint32_t)__builtin_popcountll(words[w]);
		if (live != le16_get(block->segments[i].live))
			return false;
		for (uint32_t b = space_segment_blocks(space, segment); b < SEGMENT_BLOCKS; b++) {
			if (bit_get(words, b))
				return false;
		}
		for (uint32_t w = 0; w < SEGMENT_WORDS; w++) {
			space->referenced[(size_t)segment * SEGMENT_WORDS + w] = words[w];
			space->allocated[(size_t)segment * SEGMENT_WORDS + w] |= words[w];
		}
	}
	return true;
}

/* Up to LOAD_DEPTH tables from `first` on, read at once. Returns the next one, or -errno. */
static int64_t load_some(struct co *co, struct space *space, struct batch_io *batch, uint32_t first,
			 struct err *err)
{
	uint8_t *memory = space->prewrite.zeros; /* set by space_load: scratch */
	uint32_t end = MIN(first + LOAD_DEPTH, space->table_count);

	for (uint32_t i = first; i < end; i++) {
		uint64_t place = space->tables[i].place;
		struct batch_io_part part = {place, 1, memory + (size_t)(i - first) * BLOCK_BYTES,
					     NULL};
		if (place == 0)
			continue; /* T3 */
		if (place < space->data_start || place >= space->size_blocks)
			return err_set(err, -EBADMSG,
				       "space table block %u: place %llu is outside the data area",
				       i, (unsigned long long)place);
		batch_io_submit(co, batch, ENV_IO_READ, &part);
	}
	int rc = batch_io_wait(co, batch, 0);
	if (rc < 0)
		return err_set(err, rc, "space table: read failed");
	for (uint32_t i = first; i < end; i++) {
		if (space->tables[i].place != 0 &&
		    !table_decode(space, i, (void *)(memory + (size_t)(i - first) * BLOCK_BYTES)))
			return err_set(err, -EBADMSG,
				       "space table block %u at place %llu is damaged", i,
				       (unsigned long long)space->tables[i].place);
	}
	return end;
}

int space_load(struct co *co, struct space *space, const struct block_ptr *dir, struct err *err)
{
	struct batch_io *batch = batch_io_create(space->device, LOAD_DEPTH);
	/* As large as the prewriter's zeros, whose place it takes: space_destroy() frees it after a kill. */
	size_t memory_bytes = (size_t)SEGMENT_BLOCKS / 4 * BLOCK_BYTES;
	void *memory = lazy_alloc(memory_bytes);
	int64_t rc = batch && memory ? 0 : err_set(err, -ENOMEM, "space table: out of memory");

	assert(!space->prewrite.zeros && space->allocated_count == 0);
	space->loading = batch;
	space->prewrite.zeros = memory;
	if (rc == 0)
		rc = load_dir(co, space, batch, dir, memory, err);
	for (int64_t next = 0; rc >= 0 && next < space->table_count; next = rc)
		rc = load_some(co, space, batch, (uint32_t)next, err);
	space->prewrite.zeros = NULL;
	space->loading = NULL;
	lazy_free(memory, memory_bytes);
	batch_io_destroy(batch);
	if (rc < 0)
		return (int)rc;
	space_recount(space);
	return 0;
}
