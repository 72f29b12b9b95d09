/* SPDX-License-Identifier: Apache-2.0 */
/* Codec of the run table: struct run_entry in TABLE_RUNS blocks. Private to store/. */
#ifndef HF_STORE_RUN_TABLE_H
#define HF_STORE_RUN_TABLE_H

#include "store/format.h"

#define RUN_BLOCK_MAX (1ull << 34) /* blocks of a volume: STORE_VOLUME_BLOCKS_MAX */

/* What came before for its chunk is void. */
static inline bool run_entry_voids(const struct run_entry *entry)
{
	return le64_get(entry->place) == 0;
}

/* Places from data_start up to end are payload's. */
static inline bool run_entry_valid(const struct run_entry *entry, uint64_t data_start, uint64_t end)
{
	uint64_t block = le64_get(entry->block), place = le64_get(entry->place);

	if (block >= RUN_BLOCK_MAX || le32_get(entry->node) == 0)
		return false;
	if (run_entry_voids(entry))
		return block % 256 == 0 && le32_get(entry->crc32c) == 0 &&
		       le64_get(entry->seq) == 0;
	return place >= data_start && place < end;
}

/* The entries of a block whose header was verified; NULL when their number is impossible. */
static inline const struct run_entry *run_block_entries(const struct table_block *block,
							uint32_t *ret_count)
{
	*ret_count = le32_get(block->h.count);
	return *ret_count <= RUN_ENTRIES_MAX ? (const struct run_entry *)(block + 1) : NULL;
}

#endif
