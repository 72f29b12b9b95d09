/* SPDX-License-Identifier: Apache-2.0 */
/* Sealing and checking the header that every block but payload starts with. Private to store/. */
#ifndef HF_STORE_META_BLOCK_H
#define HF_STORE_META_BLOCK_H

#include "store/format.h"

struct meta_block_head {
	uint32_t magic;
	uint16_t kind;
	uint32_t count;
};

/* Fills the header and its crc over all 4096 bytes; returns the crc, which the parent keeps. */
uint32_t meta_block_seal(void *block, const struct meta_block_head *head,
			 const struct uuid *store_uuid);
/* The crc that the header should hold. */
uint32_t meta_block_crc(const void *block);
/*
 * 0; -EBADMSG when magic, crc or store_uuid (NULL: not looked at) do not fit, or the crc is not
 * *crc32c (NULL: not looked at); -EPROTO when all fits but the format version is a newer one.
 */
int meta_block_check(const void *block, uint32_t magic, const struct uuid *store_uuid,
		     const uint32_t *crc32c);

#endif
