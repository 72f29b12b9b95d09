/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Page codec.
 *
 * G1  decode(encode(x)) == x, except that an age of 2^24 - 1 or more becomes "older" with the
 *     upper bound highest_seq - (2^24 - 1). "older" never becomes exact again.
 * G2  decode accepts nothing that encode cannot have written: unknown flags, a place outside the
 *     data area, leftovers in an empty entry, an age above highest_seq or a wrong count are
 *     damage.
 */
#include "store/page.h"

#include <errno.h>

#include "base/crc32c.h"
#include "store/meta_block.h"

void page_clear(struct page_image *image, uint32_t chunk, uint32_t node)
{
	memset(image, 0, sizeof(*image));
	image->chunk = chunk;
	image->node = node;
}

static uint64_t mix64(uint64_t x)
{
	x ^= x >> 30;
	x *= 0xbf58476d1ce4e5b9ull;
	x ^= x >> 27;
	x *= 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

uint64_t page_block_digest(uint64_t block_address, uint32_t crc)
{
	if (crc == CRC32C_ZERO_BLOCK)
		return 0;
	return mix64(mix64(block_address + 0x9e3779b97f4a7c15ull) + crc);
}

uint64_t page_lost_digest(uint64_t block_address)
{
	return mix64(mix64(block_address + 0x9e3779b97f4a7c15ull) + (1ull << 32));
}

static uint32_t age_get(const struct page_plain *page, uint32_t i)
{
	const uint8_t *age = &page->age[i * 3];
	return (uint32_t)age[0] | (uint32_t)age[1] << 8 | (uint32_t)age[2] << 16;
}

static void block_get(const struct page_plain *page, uint32_t i, struct page_block *ret)
{
	uint64_t highest = le64_get(page->highest_seq);
	uint32_t age = age_get(page, i);
	uint16_t flags = le16_get(page->flags[i]);

	ret->place = le32_get(page->place_low[i]) | (uint64_t)le16_get(page->place_high[i]) << 32;
	ret->crc32c = le32_get(page->crc32c[i]);
	ret->flags = flags > UINT8_MAX ? UINT8_MAX : (uint8_t)flags;
	ret->older = age == PAGE_AGE_OLDER;
	ret->seq = highest >= age ? highest - age : UINT64_MAX;
}

/* G2 for one entry. */
static bool block_valid(const struct page_block *block, const struct page_bounds *bounds)
{
	if (block->seq == UINT64_MAX)
		return false;
	if (block->flags == PAGE_ENTRY_DATA)
		return block->place >= bounds->data_start && block->place < bounds->end;
	return (block->flags == 0 || block->flags == PAGE_ENTRY_LOST) && block->place == 0 &&
	       block->crc32c == 0;
}

void page_get(const struct page_plain *page, const struct page_bounds *bounds, uint32_t i,
	      struct page_block *ret)
{
	block_get(page, i, ret);
	if (le16_get(page->h.kind) == PAGE_PLAIN && block_valid(ret, bounds))
		return;
	*ret = (struct page_block){.flags = PAGE_ENTRY_LOST, .seq = le64_get(page->highest_seq)};
}

int page_decode(const void *block, const struct page_bounds *bounds, struct page_image *ret)
{
	const struct page_plain *page = block;
	uint32_t data_count = 0;

	int rc = meta_block_check(block, MAGIC_PAGE, &bounds->store_uuid, NULL);
	if (rc < 0)
		return rc;
	if (le16_get(page->h.kind) != PAGE_PLAIN)
		return le16_get(page->h.kind) == PAGE_SEALED ? -ENOTSUP : -EBADMSG;
	for (uint32_t i = 0; i < ARRAY_LEN(page->reserved); i++) {
		if (le64_get(page->reserved[i]) != 0)
			return -EBADMSG;
	}
	for (uint32_t i = 0; i < PAGE_BLOCKS; i++) {
		block_get(page, i, &ret->blocks[i]);
		if (!block_valid(&ret->blocks[i], bounds))
			return -EBADMSG;
		data_count += ret->blocks[i].flags == PAGE_ENTRY_DATA;
	}
	if (data_count != le32_get(page->h.count))
		return -EBADMSG;
	ret->highest_seq = le64_get(page->highest_seq);
	ret->chunk = le32_get(page->chunk);
	ret->node = le32_get(page->node);
	return 0;
}

static void block_put(struct page_plain *page, uint32_t i, const struct page_block *block,
		      uint64_t highest_seq)
{
	assert(block->seq <= highest_seq);
	uint64_t distance = highest_seq - block->seq;
	uint32_t age =
		block->older || distance > PAGE_AGE_OLDER ? PAGE_AGE_OLDER : (uint32_t)distance;

	page->crc32c[i] = le32_make(block->crc32c);
	page->place_low[i] = le32_make((uint32_t)block->place);
	page->place_high[i] = le16_make((uint16_t)(block->place >> 32));
	page->flags[i] = le16_make(block->flags);
	page->age[i * 3] = (uint8_t)age;
	page->age[i * 3 + 1] = (uint8_t)(age >> 8);
	page->age[i * 3 + 2] = (uint8_t)(age >> 16);
}

void page_encode(const struct page_image *image, const struct uuid *store_uuid, void *block,
		 struct page_summary *ret)
{
	struct page_plain *page = block;
	uint32_t data_count = 0, lost_count = 0;
	uint64_t digest = 0, first = (uint64_t)image->chunk * PAGE_BLOCKS;

	page->highest_seq = le64_make(image->highest_seq);
	page->chunk = le32_make(image->chunk);
	page->node = le32_make(image->node);
	for (uint32_t i = 0; i < PAGE_BLOCKS; i++) {
		const struct page_block *b = &image->blocks[i];
		block_put(page, i, b, image->highest_seq);
		if (b->flags == PAGE_ENTRY_DATA) {
			data_count++;
			digest += page_block_digest(first + i, b->crc32c);
		} else if (b->flags == PAGE_ENTRY_LOST) {
			lost_count++;
			digest += page_lost_digest(first + i);
		}
	}
	struct meta_block_head head = {MAGIC_PAGE, PAGE_PLAIN, data_count};
	ret->crc32c = meta_block_seal(block, &head, store_uuid);
	ret->live_blocks = data_count + lost_count;
	ret->digest = digest;
}
