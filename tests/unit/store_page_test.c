/* SPDX-License-Identifier: Apache-2.0 */
/* Pages: round trips, ages, golden bytes, refusal of everything that is not exactly right. */
#include "tests/unit/test.h"

#include <errno.h>

#include "base/crc32c.h"
#include "store/meta_block.h"
#include "store/page.h"

static const struct page_bounds bounds = {{{1, 2, 3, 4}}, 5000, 1ull << 40};

static uint8_t block[BLOCK_BYTES] __attribute__((aligned(4096)));

static void image_sample(struct page_image *image)
{
	page_clear(image, 77, 3);
	image->highest_seq = 1ull << 33;
	for (uint32_t i = 0; i < PAGE_BLOCKS; i++) {
		struct page_block *b = &image->blocks[i];
		b->seq = image->highest_seq - i * 1000;
		if (i % 3 == 0) {
			b->flags = PAGE_ENTRY_DATA;
			b->place = 5000 + (uint64_t)i * 0x1234567;
			b->crc32c = i * 2654435761u;
		} else if (i % 7 == 0) {
			b->flags = PAGE_ENTRY_LOST;
		}
	}
	image->blocks[9].seq = 5; /* saturates */
	image->blocks[10].seq = 0;
}

static void encode_sample(struct page_summary *summary)
{
	struct page_image image;
	image_sample(&image);
	memset(block, 0, sizeof(block));
	page_encode(&image, &bounds.store_uuid, block, summary);
}

static void reseal(void)
{
	struct block_header *h = (void *)block;
	h->crc32c = le32_make(meta_block_crc(block));
}

TEST(page, what_is_encoded_is_decoded)
{
	struct page_image in, out;
	struct page_summary summary;
	image_sample(&in);
	encode_sample(&summary);
	CHECK_EQ(page_decode(block, &bounds, &out), 0);
	CHECK(out.chunk == 77 && out.node == 3 && out.highest_seq == in.highest_seq);
	uint32_t live = 0;
	for (uint32_t i = 0; i < PAGE_BLOCKS; i++) {
		struct page_block *a = &in.blocks[i], *b = &out.blocks[i], one;
		CHECK(a->place == b->place && a->crc32c == b->crc32c && a->flags == b->flags);
		if (i == 9 || i == 10)
			CHECK(b->older && b->seq == in.highest_seq - PAGE_AGE_OLDER);
		else
			CHECK(!b->older && a->seq == b->seq);
		page_get((void *)block, &bounds, i, &one);
		CHECK(one.place == b->place && one.seq == b->seq && one.flags == b->flags);
		live += a->flags != 0;
	}
	CHECK_EQ(summary.live_blocks, live);
	CHECK_EQ(le32_get(((struct block_header *)block)->crc32c), summary.crc32c);
}

TEST(page, an_older_block_stays_older)
{
	struct page_image image;
	struct page_summary summary;
	encode_sample(&summary);
	CHECK_EQ(page_decode(block, &bounds, &image), 0);
	image.highest_seq += 100;
	memset(block, 0, sizeof(block));
	page_encode(&image, &bounds.store_uuid, block, &summary);
	CHECK_EQ(page_decode(block, &bounds, &image), 0);
	CHECK(image.blocks[9].older);
}

TEST(page, never_written_blocks_have_seq_zero)
{
	struct page_image image;
	struct page_summary summary;
	page_clear(&image, 1, 1);
	image.highest_seq = 1000;
	image.blocks[0] = (struct page_block){.place = 6000, .seq = 1000, .flags = PAGE_ENTRY_DATA};
	memset(block, 0, sizeof(block));
	page_encode(&image, &bounds.store_uuid, block, &summary);
	CHECK_EQ(page_decode(block, &bounds, &image), 0);
	CHECK(image.blocks[1].seq == 0 && !image.blocks[1].older);
}

TEST(page, every_flipped_bit_shows)
{
	struct page_image image;
	struct page_summary summary;
	encode_sample(&summary);
	for (uint32_t bit = 0; bit < BLOCK_BYTES * 8; bit += 13) {
		block[bit / 8] ^= (uint8_t)(1 << bit % 8);
		CHECK_EQ(page_decode(block, &bounds, &image), -EBADMSG);
		block[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	CHECK_EQ(page_decode(block, &bounds, &image), 0);
}

TEST(page, well_sealed_nonsense_is_refused)
{
	struct page_image image;
	struct page_summary summary;
	struct page_plain *page = (void *)block;

	encode_sample(&summary);
	page->place_low[0] = le32_make(4999); /* outside the data area */
	page->place_high[0] = le16_make(0);
	reseal();
	CHECK_EQ(page_decode(block, &bounds, &image), -EBADMSG);
	encode_sample(&summary);
	page->flags[1] = le16_make(4);
	reseal();
	CHECK_EQ(page_decode(block, &bounds, &image), -EBADMSG);
	encode_sample(&summary);
	page->flags[1] = le16_make(0x101);
	reseal();
	CHECK_EQ(page_decode(block, &bounds, &image), -EBADMSG);
	encode_sample(&summary);
	page->crc32c[1] = le32_make(1); /* a zero block has none */
	reseal();
	CHECK_EQ(page_decode(block, &bounds, &image), -EBADMSG);
	encode_sample(&summary);
	page->highest_seq = le64_make(10); /* ages reach below zero */
	reseal();
	CHECK_EQ(page_decode(block, &bounds, &image), -EBADMSG);
	encode_sample(&summary);
	page->h.count = le32_make(1);
	reseal();
	CHECK_EQ(page_decode(block, &bounds, &image), -EBADMSG);
	encode_sample(&summary);
	page->reserved[23] = le64_make(1);
	reseal();
	CHECK_EQ(page_decode(block, &bounds, &image), -EBADMSG);
}

TEST(page, unknown_kinds_and_versions_are_refused_by_name)
{
	struct page_image image;
	struct page_summary summary;
	struct block_header *h = (void *)block;

	encode_sample(&summary);
	h->kind = le16_make(PAGE_SEALED);
	reseal();
	CHECK_EQ(page_decode(block, &bounds, &image), -ENOTSUP);
	encode_sample(&summary);
	h->version = le16_make(STORE_FORMAT_VERSION + 1);
	reseal();
	CHECK_EQ(page_decode(block, &bounds, &image), -EPROTO);
	encode_sample(&summary);
	struct page_bounds other = bounds;
	other.store_uuid.bytes[0] ^= 1;
	CHECK_EQ(page_decode(block, &other, &image), -EBADMSG);
}

TEST(page, the_bytes_are_those_of_the_golden_page)
{
	struct page_summary summary;
	uint8_t golden[BLOCK_BYTES];
	encode_sample(&summary);
	FILE *f = fopen("tests/golden/store_page_plain_v1.bin", "rb");
	CHECK(f != NULL, "run from the top of the tree");
	CHECK_EQ(fread(golden, 1, sizeof(golden), f), sizeof(golden));
	fclose(f);
	CHECK(memcmp(golden, block, sizeof(golden)) == 0);
	CHECK(summary.digest == 0xb3b6930df9d7721full, "digest is %llx",
	      (unsigned long long)summary.digest);
}

TEST(page, the_digest_does_not_see_written_zeros_but_sees_addresses)
{
	CHECK_EQ(page_block_digest(5, CRC32C_ZERO_BLOCK), 0);
	CHECK(page_block_digest(5, 1) != page_block_digest(6, 1));
	CHECK(page_block_digest(5, 1) != page_block_digest(5, 2));
	CHECK(page_block_digest(5, 1) + page_block_digest(6, 2) !=
	      page_block_digest(5, 2) + page_block_digest(6, 1));
}
