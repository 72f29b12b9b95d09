/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Blocks of the store: descriptors with their records, pages, index blocks, run tables, single records. The
 * first byte chooses; the rest is the block, and its header and crc are made right here, so that
 * the decoder behind the checksum is what is tested. A page that is accepted must survive encoding.
 */
#include <string.h>

#include "store/desc.h"
#include "store/index.h"
#include "store/meta_block.h"
#include "store/page.h"
#include "store/run_table.h"
#include "tests/fuzz/fuzz.h"

static const struct uuid store_uuid = {{7}};
static const struct page_bounds bounds = {{{7}}, 64, 1 << 20};

/* Reads every byte that the record says it has: beyond the input the sanitizer sees it. */
static uint32_t record_touch(const struct log_record *record)
{
	uint32_t sum = 0, crc;
	uint64_t extent;
	for (uint32_t i = 0; i < record->crc_count; i++) {
		memcpy(&crc, record->crcs + i, sizeof(crc));
		sum += crc;
	}
	for (uint32_t i = 0; i < record->extent_count; i++) {
		memcpy(&extent, record->extents + i, sizeof(extent));
		sum += extent_length(extent);
	}
	for (uint32_t i = 0; i < record->body_bytes; i++)
		sum += ((const uint8_t *)record->body)[i];
	FUZZ_CHECK(record_op_name(record->op) != NULL);
	return sum;
}

/* Records one after the other, as a descriptor and a tail table hold them; at is 8-aligned. */
static void try_records(const uint8_t *at, size_t available_bytes)
{
	while (available_bytes > 0) {
		struct log_record record;
		struct err err = {0};
		size_t record_length_bytes = 0;
		int rc = record_decode(at, available_bytes, &record, &record_length_bytes, &err);
		if (rc < 0)
			return;
		FUZZ_CHECK(record_length_bytes > 0 && record_length_bytes <= available_bytes);
		FUZZ_CHECK(record_length_bytes ==
			   record_bytes(record.crc_count, record.extent_count, record.body_bytes));
		record_touch(&record);
		uint8_t *copy = calloc(1, record_length_bytes);
		FUZZ_CHECK(record_encode(&record, copy) == record_length_bytes);
		free(copy);
		at += record_length_bytes;
		available_bytes -= record_length_bytes;
	}
}

static void try_desc(uint8_t *block)
{
	struct block_header *h = (struct block_header *)block;
	struct desc_header header;
	block_seal(block, MAGIC_DESC, le16_get(h->kind), le32_get(h->count), &store_uuid);
	if (!desc_decode(block, &store_uuid, &header))
		return;
	FUZZ_CHECK(header.record_bytes <= DESC_RECORD_BYTES);
	FUZZ_CHECK(header.desc_index < header.desc_count);
	FUZZ_CHECK(header.desc_count <= DESC_BLOCKS_MAX);
	FUZZ_CHECK(header.batch_blocks <= BATCH_BLOCKS_MAX);
	try_records(block + sizeof(struct desc_block), header.record_bytes);
}

static void try_page(uint8_t *block)
{
	struct block_header *h = (struct block_header *)block;
	static struct page_image image, again;
	block_seal(block, MAGIC_PAGE, le16_get(h->kind), le32_get(h->count), &store_uuid);
	if (page_decode(block, &bounds, &image) < 0)
		return;
	void *copy = aligned_alloc(BLOCK_BYTES, BLOCK_BYTES);
	struct page_summary summary;
	memset(copy, 0, BLOCK_BYTES);
	page_encode(&image, &store_uuid, copy, &summary);
	FUZZ_CHECK(page_decode(copy, &bounds, &again) == 0);
	for (uint32_t i = 0; i < PAGE_BLOCKS; i++) {
		FUZZ_CHECK(image.blocks[i].place == again.blocks[i].place);
		FUZZ_CHECK(image.blocks[i].seq == again.blocks[i].seq);
		FUZZ_CHECK(image.blocks[i].flags == again.blocks[i].flags);
	}
	free(copy);
}

static void try_index(uint8_t *block)
{
	struct block_header *h = (struct block_header *)block;
	uint32_t level = le16_get(h->kind) % INDEX_LEVELS_MAX;
	block_seal(block, MAGIC_INDEX, le16_get(h->kind), le32_get(h->count), &store_uuid);
	int count = index_block_count(block, level);
	FUZZ_CHECK(count <= (int)INDEX_ENTRIES_MAX);
	if (index_block_check(block, level, &bounds) < 0 || count < 0)
		return;
	for (uint32_t i = 0; i < (uint32_t)count; i++) {
		struct index_item item;
		index_block_item(block, i, &item);
		FUZZ_CHECK(index_block_find(block, (uint32_t)count, item.key) == (int)i);
	}
}

static void try_runs(uint8_t *block)
{
	struct table_block *table = (struct table_block *)(void *)block;
	uint32_t count;
	block_seal(block, MAGIC_TABLE, TABLE_RUNS, le32_get(table->h.count), &store_uuid);
	const struct run_entry *entries = run_block_entries(table, &count);
	for (uint32_t i = 0; entries && i < count; i++) {
		if (!run_entry_valid(&entries[i], bounds.data_start, bounds.end))
			continue;
		FUZZ_CHECK(le64_get(entries[i].block) < RUN_BLOCK_MAX);
		FUZZ_CHECK(run_entry_voids(&entries[i]) ||
			   (le64_get(entries[i].place) >= bounds.data_start &&
			    le64_get(entries[i].place) < bounds.end));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	if (bytes < 1 || bytes > BLOCK_BYTES + 1)
		return 0;
	if (data[0] == 'r') { /* exactly as long as the input: reading past it is seen */
		uint8_t *copy = aligned_alloc(8, ALIGN_UP(bytes, 8));
		memcpy(copy, data + 1, bytes - 1);
		try_records(copy, (bytes - 1) & ~(size_t)7);
		free(copy);
		return 0;
	}
	uint8_t *block = aligned_alloc(BLOCK_BYTES, BLOCK_BYTES);
	memset(block, 0, BLOCK_BYTES);
	memcpy(block, data + 1, bytes - 1);
	if (data[0] == 'd')
		try_desc(block);
	else if (data[0] == 'p')
		try_page(block);
	else if (data[0] == 'u')
		try_runs(block);
	else
		try_index(block);
	free(block);
	return 0;
}
