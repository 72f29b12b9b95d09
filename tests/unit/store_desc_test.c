/* SPDX-License-Identifier: Apache-2.0 */
/* Descriptors and records: golden bytes of every kind, and refusal of what is malformed or newer. */
#include <errno.h>

#include "base/crc32c.h"
#include "store/desc.h"
#include "store/run_table.h"
#include "store/store.h"
#include "tests/unit/test.h"

#define GOLDEN_PATH        "tests/golden/store_records_v1.bin"
#define GOLDEN_SEALED_PATH "tests/golden/store_page_sealed_v1.bin"
#define GOLDEN_LOSS_PATH   "tests/golden/store_record_loss_v1.bin"

static const struct uuid uuid = {{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}};

/* Some of every kind, with every field that the kind uses. */
static size_t sample_records(struct log_record *out)
{
	static const uint32_t crcs[4] = {0x11111111, 0x22222222, 0x33333333, 0x44444444};
	static const uint64_t extents[2] = {5000 | 1ull << 48, 0x123456789abcull | 2ull << 48};
	static const uint64_t one[1] = {7000 | 1ull << 48};
	static const uint8_t bitmap[RECORD_FILL_BITMAP_BYTES] = {0x0b};
	static const struct record_create create = {{{0xaa, 1}}, {{0xbb, 2}}, {1u << 20}};
	static const struct record_adopt_body adopt = {{0x0102030405060708}};
	static const struct record_lease_body lease = {{77}, {1000000000}};
	static const struct record_repair_body repair = {{6999}};
	static const struct record_shadow_body shadow = {{0x1122334455667788}};
	struct log_record base = {.slot = 3, .node = 9, .shard = 1, .time_ms = 1700000000000};
	size_t n = 0;
#define RECORD(...)                                                              \
	do {                                                                     \
		struct log_record r_ = {__VA_ARGS__};                            \
		r_.slot = base.slot, r_.node = base.node, r_.shard = base.shard; \
		r_.time_ms = base.time_ms;                                       \
		out[n++] = r_;                                                   \
	} while (0)
	RECORD(.op = LOG_WRITE, .flags = RECORD_FLUSH_MARK, .epoch = 4, .seq = 10,
	       .address_blocks = 100, .length_blocks = 3, .prev_hash = 0xfeed, .commit_seq = 9,
	       .crc_count = 3, .crcs = crcs, .extent_count = 2, .extents = extents);
	RECORD(.op = LOG_ZERO, .epoch = 4, .seq = 11, .address_blocks = 0,
	       .length_blocks = 1ull << 30, .prev_hash = 1, .commit_seq = 10);
	RECORD(.op = LOG_RESIZE, .epoch = 4, .seq = 12, .address_blocks = 1ull << 20);
	RECORD(.op = LOG_NOP, .flags = RECORD_STAGED, .epoch = 4, .seq = 13, .stage_epoch = 5);
	RECORD(.op = RECORD_CREATE, .body = &create, .body_bytes = sizeof(create));
	RECORD(.op = RECORD_DELETE, );
	RECORD(.op = RECORD_PROMISE, .epoch = 6);
	RECORD(.op = RECORD_ADOPT, .epoch = 6, .address_blocks = 12, .seq = 13, .commit_seq = 12,
	       .body = &adopt, .body_bytes = sizeof(adopt));
	RECORD(.op = RECORD_LEASE, .body = &lease, .body_bytes = sizeof(lease));
	RECORD(.op = RECORD_REPAIR, .address_blocks = 5, .length_blocks = 1, .crc_count = 1,
	       .crcs = crcs, .extent_count = 1, .extents = one, .body = &repair,
	       .body_bytes = sizeof(repair));
	RECORD(.op = RECORD_SHADOW_BEGIN, .epoch = 6, .seq = 20, .length_blocks = 1ull << 20,
	       .body = &shadow, .body_bytes = sizeof(shadow));
	RECORD(.op = RECORD_SHADOW_DROP, );
	RECORD(.op = RECORD_FILL, .flags = RECORD_SHADOW, .seq = 19, .address_blocks = 256,
	       .length_blocks = 4, .crc_count = 4, .crcs = crcs, .extent_count = 2,
	       .extents = extents, .body = bitmap, .body_bytes = sizeof(bitmap));
	RECORD(.op = RECORD_SEAL, );
	RECORD(.op = RECORD_KEY, .body = &create, .body_bytes = 40);
	RECORD(.op = RECORD_SEALED_WRITE, .epoch = 4, .seq = 14, .length_blocks = 3,
	       .extent_count = 2, .extents = extents, .body = &create, .body_bytes = 40);
	RECORD(.op = LOG_SNAP, .epoch = 4, .seq = 15);
	RECORD(.op = LOG_ROLLBACK, .epoch = 4, .seq = 16);
#undef RECORD
	return n;
}

static void encode_block(char *block)
{
	struct log_record records[32];
	size_t count = sample_records(records), used = 0;
	memset(block, 0, BLOCK_BYTES);
	for (size_t i = 0; i < count; i++)
		used += record_encode(&records[i], block + sizeof(struct desc_block) + used);
	struct desc_header h = {
		.store_uuid = uuid,
		.incarnation = 2,
		.salt = 0x5a5a5a5a12345678,
		.batch_no = 42,
		.position = 1234,
		.root_generation = 7,
		.durable_prefix = 40,
		.time_ms = 1700000000001,
		.prev_crc32c = 0xabcdef01,
		.desc_index = 1,
		.desc_count = 2,
		.batch_blocks = 9,
		.record_count = (uint32_t)count,
		.record_bytes = (uint32_t)used,
	};
	desc_encode(&h, block);
}

/* With GOLDEN_WRITE=1 in the environment the file is made anew: only for a new format version. */
static void golden_compare(const char *path, const char *block)
{
	char file[BLOCK_BYTES + 1];
	if (getenv("GOLDEN_WRITE")) {
		FILE *out = fopen(path, "wb");
		CHECK(out && fwrite(block, BLOCK_BYTES, 1, out) == 1);
		fclose(out);
	}
	FILE *in = fopen(path, "rb");
	CHECK(in != NULL, "%s is missing: tests run in the repository's root", path);
	CHECK_EQ(fread(file, 1, sizeof(file), in), BLOCK_BYTES);
	fclose(in);
	CHECK(memcmp(file, block, BLOCK_BYTES) == 0, "the bytes differ from %s", path);
}

/* memcmp() wants pointers even to nothing. */
static bool is_same(const void *a, const void *b, size_t bytes)
{
	return bytes == 0 || memcmp(a, b, bytes) == 0;
}

TEST(store_desc, every_record_kind_has_the_golden_bytes)
{
	_Alignas(8) char block[BLOCK_BYTES];
	encode_block(block);
	golden_compare(GOLDEN_PATH, block);
}

TEST(store_desc, an_accepted_loss_has_the_golden_bytes)
{
	_Alignas(8) char block[BLOCK_BYTES] = {0};
	struct record_loss_body body = {le64_make(41), le64_make(UINT64_MAX)}, *got_body;
	struct log_record record = {.op = RECORD_ACCEPT_LOSS,
				    .slot = 3,
				    .shard = 1,
				    .node = 7,
				    .time_ms = 1700000000000,
				    .body = &body,
				    .body_bytes = sizeof(body)};
	struct log_record got;
	size_t bytes = record_encode(&record, block), got_bytes;
	golden_compare(GOLDEN_LOSS_PATH, block);
	CHECK_EQ(record_decode(block, bytes, &got, &got_bytes, NULL), 0);
	CHECK_EQ(got_bytes, bytes);
	CHECK(got.op == RECORD_ACCEPT_LOSS && got.slot == 3);
	got_body = (struct record_loss_body *)got.body;
	CHECK_EQ(le64_get(got_body->suspect_after), 41);
	CHECK_EQ(le64_get(got_body->suspect_until), UINT64_MAX);
	CHECK_EQ(record_decode(block, bytes - 8, &got, &got_bytes, NULL), -EUCLEAN);
}

TEST(store_desc, a_sealed_page_has_the_golden_bytes)
{
	_Alignas(8) char block[BLOCK_BYTES] = {0};
	struct page_sealed *page = (struct page_sealed *)block;
	page->highest_seq = le64_make(99);
	page->chunk_quarter = le32_make(5);
	page->node = le32_make(2);
	for (unsigned i = 0; i < 64; i++)
		page->entries[i] = (struct sealed_entry){
			.place_length = le64_make((10000 + i * 8) | 2ull << 48),
			.seq = le64_make(50 + i),
			.tag = {(uint8_t)i, 0xee},
			.crc32c = le32_make(i * 77),
			.key_id = le32_make(1),
			.epoch = le32_make(3),
			.index = le32_make(i),
			.stored_bytes = le16_make(5000),
			.first_block = (uint8_t)(i & ~7u),
			.length_blocks = 8,
		};
	block_seal(block, MAGIC_PAGE, PAGE_SEALED, 64, &uuid);
	golden_compare(GOLDEN_SEALED_PATH, block);
}

TEST(store_desc, a_run_table_has_the_golden_bytes)
{
	_Alignas(8) char block[BLOCK_BYTES] = {0};
	struct table_block *table = (struct table_block *)block;
	struct run_entry *entries = (struct run_entry *)(table + 1);
	uint32_t count;
	table->next =
		(struct block_ptr){.place = le64_make(12345), .crc32c = le32_make(0x11223344)};
	for (unsigned i = 0; i < RUN_ENTRIES_MAX - 1; i++)
		entries[i] = (struct run_entry){.node = le32_make(3 + i % 2),
						.crc32c = le32_make(i * 101),
						.block = le64_make((1ull << 33) + i * 300),
						.place = le64_make(5000 + i * 7),
						.seq = le64_make((1ull << 40) + i)};
	entries[RUN_ENTRIES_MAX - 1] =
		(struct run_entry){.node = le32_make(3), .block = le64_make(512)};
	block_seal(block, MAGIC_TABLE, TABLE_RUNS, RUN_ENTRIES_MAX, &uuid);
	golden_compare("tests/golden/store_run_table_v1.bin", block);
	CHECK(run_block_entries(table, &count) == entries && count == RUN_ENTRIES_MAX);
	for (unsigned i = 0; i < count; i++)
		CHECK(run_entry_valid(&entries[i], 5000, 6000));
	CHECK(run_entry_voids(&entries[count - 1]) && !run_entry_voids(&entries[0]));
}

TEST(store_desc, a_run_entry_that_cannot_be_is_refused)
{
	const struct run_entry put = {le32_make(1), le32_make(2), le64_make(3), le64_make(100),
				      le64_make(5)};
	const struct run_entry none = {le32_make(1), le32_make(0), le64_make(256), le64_make(0),
				       le64_make(0)};
	struct run_entry bad[7] = {put, put, put, put, none, none, none};
	uint32_t count;
	CHECK(run_entry_valid(&put, 100, 101) && run_entry_valid(&none, 100, 101));
	bad[0].node = le32_make(0);
	bad[1].block = le64_make(RUN_BLOCK_MAX);
	bad[2].place = le64_make(99);
	bad[3].place = le64_make(101);
	bad[4].block = le64_make(257);
	bad[5].seq = le64_make(1);
	bad[6].crc32c = le32_make(1);
	for (unsigned i = 0; i < ARRAY_LEN(bad); i++)
		CHECK(!run_entry_valid(&bad[i], 100, 101), "entry %u", i);
	struct table_block table = {.h.count = le32_make(RUN_ENTRIES_MAX + 1)};
	CHECK(!run_block_entries(&table, &count));
}

TEST(store_desc, what_was_encoded_is_decoded)
{
	_Alignas(8) char block[BLOCK_BYTES];
	struct log_record want[32], got;
	struct desc_header h;
	size_t count = sample_records(want), bytes;
	encode_block(block);
	CHECK(desc_decode(block, &uuid, &h));
	CHECK_EQ(h.batch_no, 42);
	CHECK_EQ(h.record_count, count);
	const char *at = block + sizeof(struct desc_block);
	for (size_t i = 0; i < count && want[i].op < RECORD_KEY; i++) {
		CHECK_EQ(record_decode(at, h.record_bytes, &got, &bytes, NULL), 0);
		at += bytes;
		CHECK(got.op == want[i].op && got.flags == want[i].flags &&
		      got.seq == want[i].seq && got.epoch == want[i].epoch &&
		      got.address_blocks == want[i].address_blocks &&
		      got.length_blocks == want[i].length_blocks &&
		      got.prev_hash == want[i].prev_hash && got.commit_seq == want[i].commit_seq &&
		      got.stage_epoch == want[i].stage_epoch && got.slot == 3 && got.node == 9);
		CHECK(got.crc_count == want[i].crc_count &&
		      is_same(got.crcs, want[i].crcs, got.crc_count * 4));
		CHECK(got.extent_count == want[i].extent_count &&
		      is_same(got.extents, want[i].extents, got.extent_count * 8));
		CHECK(got.body_bytes == want[i].body_bytes &&
		      is_same(got.body, want[i].body, got.body_bytes));
	}
}

TEST(store_desc, kinds_of_a_newer_version_are_refused_by_name)
{
	struct log_record all[32], got;
	size_t count = sample_records(all), refused = 0, bytes;
	for (size_t i = 0; i < count; i++) {
		_Alignas(8) char at[BLOCK_BYTES];
		struct err err = {0};
		size_t n = record_encode(&all[i], at);
		if (record_decode(at, n, &got, &bytes, &err) == 0)
			continue;
		refused++;
		CHECK_EQ(err.code, -EPROTO);
		CHECK(strstr(err.text, record_op_name(all[i].op)) &&
			      strstr(err.text, "newer version"),
		      "%s", err.text);
	}
	CHECK_EQ(refused, 4); /* KEY, SEALED_WRITE, SNAP, ROLLBACK */
	_Alignas(8) char at[BLOCK_BYTES];
	struct err err = {0};
	size_t n = record_encode(&all[0], at);
	((struct record *)at)->op = 200;
	CHECK_EQ(record_decode(at, n, &got, &bytes, &err), -EPROTO);
}

TEST(store_desc, a_record_that_does_not_add_up_is_malformed)
{
	struct log_record all[32], got;
	sample_records(all);
	_Alignas(8) char good[BLOCK_BYTES], at[BLOCK_BYTES];
	size_t n = record_encode(&all[0], good), bytes;
	for (size_t cut = 0; cut < n; cut += 8)
		CHECK(record_decode(good, cut, &got, &bytes, NULL) < 0, "cut at %zu", cut);
	struct record *r = (struct record *)at;
#define BROKEN(field, value)                                                  \
	do {                                                                  \
		memcpy(at, good, n);                                          \
		r->field = value;                                             \
		CHECK_EQ(record_decode(at, n, &got, &bytes, NULL), -EUCLEAN); \
	} while (0)
	BROKEN(bytes, le16_make(80));
	BROKEN(bytes, le16_make((uint16_t)(n + 8)));
	BROKEN(bytes, le16_make((uint16_t)(n - 1)));
	BROKEN(crc_count, le16_make(65535));
	BROKEN(crc_count, le16_make(4));
	BROKEN(extent_count, le16_make(65535));
	BROKEN(extent_count, le16_make(1));
	BROKEN(body_bytes, le32_make(0xffffffff));
	BROKEN(body_bytes, le32_make(8));
	BROKEN(length_blocks, le64_make(2));
	BROKEN(length_blocks, le64_make(0));
	BROKEN(address_blocks, le64_make(UINT64_MAX));
	BROKEN(slot, le32_make(STORE_REPLICAS_MAX));
	BROKEN(seq, le64_make(0));
	BROKEN(epoch, le64_make(0));
#undef BROKEN
}

TEST(store_desc, any_flipped_bit_of_a_descriptor_is_noticed)
{
	_Alignas(8) char block[BLOCK_BYTES];
	struct desc_header h;
	encode_block(block);
	for (size_t bit = 0; bit < BLOCK_BYTES * 8; bit += 37) {
		block[bit / 8] ^= (char)(1u << (bit % 8));
		CHECK(!desc_decode(block, &uuid, &h), "bit %zu", bit);
		block[bit / 8] ^= (char)(1u << (bit % 8));
	}
	struct uuid other = uuid;
	other.bytes[0]++;
	CHECK(!desc_decode(block, &other, &h));
	CHECK(desc_decode(block, &uuid, &h));
}

TEST(store_desc, random_bytes_never_decode_beyond_their_end)
{
	/* Under the address sanitizer: each buffer is exactly as long as it says. */
	uint64_t state = 1;
	for (unsigned round = 0; round < 20000; round++) {
		size_t length = 8 + round % 300 / 8 * 8, bytes = 0;
		uint64_t *buf = malloc(length);
		for (size_t i = 0; i < length / 8; i++) {
			state = state * 6364136223846793005u + 1442695040888963407u;
			buf[i] = state >> (round % 48);
		}
		struct log_record r;
		if (length >= sizeof(struct record)) {
			((struct record *)buf)->bytes = le16_make((uint16_t)length);
			((struct record *)buf)->op = (uint8_t)(1 + round % 26);
		}
		if (record_decode(buf, length, &r, &bytes, NULL) == 0)
			CHECK(bytes <= length);
		free(buf);
	}
}
