/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Block headers.
 *
 * B1  The crc covers the whole block with its own field taken as zero, so any flipped bit shows.
 * B2  A block that was meant for another place or time is caught by the parent's copy of the crc.
 */
#include "store/meta_block.h"

#include <errno.h>

#include "base/crc32c.h"

uint32_t meta_block_crc(const void *block)
{
	static const uint8_t zero[4];
	const uint8_t *bytes = block;
	size_t at = offsetof(struct block_header, crc32c);
	uint32_t crc = crc32c(bytes, at);

	crc = crc32c_more(crc, zero, sizeof(zero));
	return crc32c_more(crc, bytes + at + sizeof(zero), BLOCK_BYTES - at - sizeof(zero));
}

uint32_t meta_block_seal(void *block, const struct meta_block_head *head,
			 const struct uuid *store_uuid)
{
	struct block_header *h = block;

	h->magic = le32_make(head->magic);
	h->version = le16_make(STORE_FORMAT_VERSION);
	h->kind = le16_make(head->kind);
	h->count = le32_make(head->count);
	h->store_uuid = *store_uuid;
	uint32_t crc = meta_block_crc(block);
	h->crc32c = le32_make(crc);
	return crc;
}

int meta_block_check(const void *block, uint32_t magic, const struct uuid *store_uuid,
		     const uint32_t *crc32c_expected)
{
	const struct block_header *h = block;
	uint32_t crc = le32_get(h->crc32c);

	if (le32_get(h->magic) != magic || (crc32c_expected && *crc32c_expected != crc) ||
	    meta_block_crc(block) != crc)
		return -EBADMSG;
	if (store_uuid && !uuid_equal(&h->store_uuid, store_uuid))
		return -EBADMSG;
	if (le16_get(h->version) != STORE_FORMAT_VERSION)
		return -EPROTO;
	return 0;
}
