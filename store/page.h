/* SPDX-License-Identifier: Apache-2.0 */
/* Codec of map pages: 256 block versions in 4 KiB. Private to store/. */
#ifndef HF_STORE_PAGE_H
#define HF_STORE_PAGE_H

#include "store/format.h"

#define PAGE_BLOCKS 256u

struct page_block {
	uint64_t place; /* DATA: not 0 */
	uint64_t seq;   /* 0: never written; older: an upper bound */
	uint32_t crc32c;
	uint8_t flags; /* 0 (zeros), PAGE_ENTRY_DATA or PAGE_ENTRY_LOST */
	bool older;    /* the age is saturated */
};

struct page_image {
	uint64_t highest_seq;
	uint32_t chunk;
	uint32_t node;
	struct page_block blocks[PAGE_BLOCKS];
};

/* Where payload may be. */
struct page_bounds {
	struct uuid store_uuid;
	uint64_t data_start;
	uint64_t end;
};

struct page_summary {
	uint32_t crc32c;
	uint32_t live_blocks; /* DATA and LOST */
	uint64_t digest;
};

/* All zeros, never written. */
void page_clear(struct page_image *image, uint32_t chunk, uint32_t node);
/* One block of a page whose header was verified; LOST when what stands there cannot be right. */
void page_get(const struct page_plain *page, const struct page_bounds *bounds, uint32_t i,
	      struct page_block *ret);
/*
 * Whole page with every field checked. 0, -EBADMSG, -EPROTO (a newer format), -ENOTSUP (a kind that
 * this version does not read: sealed).
 */
int page_decode(const void *block, const struct page_bounds *bounds, struct page_image *ret);
/* highest_seq must be at or above every block's. block is zeroed memory. */
void page_encode(const struct page_image *image, const struct uuid *store_uuid, void *block,
		 struct page_summary *ret);
/*
 * Digest of one block of logical contents at an absolute address: a 64-bit mix, summed by the
 * caller. Equal contents give equal sums whatever the layout; blocks of zeros count nothing,
 * written or not.
 */
uint64_t page_block_digest(uint64_t block_address, uint32_t crc32c);
uint64_t page_lost_digest(uint64_t block_address);

#endif
