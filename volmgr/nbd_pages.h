/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Payload memory of the NBD server: runs of adjacent 4096-byte pages from one mapping.
 *
 * Not from env_buf_alloc: that memory is pinned for disk I/O and counts from the start, while
 * this only ever meets sockets and counts when it is first used.
 */
#ifndef HF_VOLMGR_NBD_PAGES_H
#define HF_VOLMGR_NBD_PAGES_H

#include "base/types.h"

struct nbd_pages {
	uint8_t *memory;
	uint64_t *used;      /* a bit per page */
	uint32_t page_count; /* multiple of 64 */
	uint32_t used_count;
	uint32_t first_word; /* no free page in the words before it */
	bool is_busy;        /* something was taken since the last nbd_pages_trim() */
	bool is_resident;    /* something was taken since memory was given back */
};

/* bytes is rounded up to 64 pages. 0 or -ENOMEM. */
int nbd_pages_init(struct nbd_pages *pages, uint64_t bytes);
/* Zeroed or half-built is fine. */
void nbd_pages_fini(struct nbd_pages *pages);
/* The lowest run of count >= 1 free pages, or NULL. Contents are undefined. */
uint8_t *nbd_pages_take(struct nbd_pages *pages, uint32_t count);
/* Gives memory back to the kernel when nothing is taken and nothing was since the last call. */
void nbd_pages_trim(struct nbd_pages *pages);
void nbd_pages_give(struct nbd_pages *pages, uint8_t *memory, uint32_t count);

#endif
