/* SPDX-License-Identifier: Apache-2.0 */
/* Frame headers: what is sealed is accepted, and every damaged field is named by its error. */
#include <errno.h>

#include "base/crc32c.h"
#include "replication/wire.h"
#include "tests/unit/test.h"

static struct wire_header sealed(uint32_t body_bytes, uint32_t payload_bytes, const void *body)
{
	struct wire_header h = {
		.type = le16_make(WIRE_READ),
		.body_bytes = le32_make(body_bytes),
		.payload_bytes = le32_make(payload_bytes),
		.frame_no = le64_make(1),
	};
	wire_header_seal(&h, body);
	return h;
}

/* With a valid crc again, as a hostile peer would send it. */
static void restamp(struct wire_header *h)
{
	h->header_crc32c = le32_make(0);
	h->header_crc32c = le32_make(crc32c(h, sizeof(*h)));
}

TEST(repl_wire, a_sealed_frame_is_accepted)
{
	uint64_t body[4] = {1, 2, 3, 4};
	struct wire_header h = sealed(sizeof(body), 4096, body);
	CHECK_EQ(wire_header_check(&h), 0);
	CHECK_EQ(wire_body_check(&h, body), 0);
	struct wire_header empty = sealed(0, 0, NULL);
	CHECK_EQ(wire_header_check(&empty), 0);
	CHECK_EQ(wire_body_check(&empty, NULL), 0);
}

TEST(repl_wire, every_flipped_bit_of_a_header_is_noticed)
{
	uint64_t body = 5;
	for (unsigned bit = 0; bit < sizeof(struct wire_header) * 8; bit++) {
		struct wire_header h = sealed(sizeof(body), 0, &body);
		((uint8_t *)&h)[bit / 8] ^= (uint8_t)(1u << bit % 8);
		CHECK(wire_header_check(&h) < 0, "bit %u", bit);
	}
}

TEST(repl_wire, a_damaged_body_is_noticed)
{
	uint64_t body[2] = {1, 2};
	struct wire_header h = sealed(sizeof(body), 0, body);
	body[1] ^= 1;
	CHECK_EQ(wire_body_check(&h, body), -EBADMSG);
}

TEST(repl_wire, lengths_beyond_the_limits_are_refused_although_the_crc_fits)
{
	static const struct {
		uint32_t body, payload;
	} bad[] = {{WIRE_BODY_BYTES_MAX + 8, 0},       {4, 0},    {UINT32_MAX, 0},
		   {0, WIRE_PAYLOAD_BYTES_MAX + 4096}, {0, 4095}, {0, UINT32_MAX}};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct wire_header h = sealed(0, 0, NULL);
		h.body_bytes = le32_make(bad[i].body);
		h.payload_bytes = le32_make(bad[i].payload);
		restamp(&h);
		CHECK_EQ(wire_header_check(&h), -EMSGSIZE);
	}
}

TEST(repl_wire, foreign_magic_and_used_reserved_fields_are_refused)
{
	struct wire_header h = sealed(0, 0, NULL);
	h.magic = le32_make(0x12345678);
	restamp(&h);
	CHECK_EQ(wire_header_check(&h), -EPROTO);
	h = sealed(0, 0, NULL);
	h.reserved1 = le64_make(1);
	restamp(&h);
	CHECK_EQ(wire_header_check(&h), -EPROTO);
}

TEST(repl_wire, status_words_survive_the_wire_and_unknown_ones_are_errors)
{
	for (uint16_t s = 0; s <= WIRE_ESHUTDOWN; s++)
		CHECK_EQ(wire_status_from(wire_status_to(s)), s);
	CHECK_EQ(wire_status_from(-EMFILE), WIRE_EIO);
	CHECK_EQ(wire_status_to(999), -EPROTO);
	CHECK_STR(wire_type_name(WIRE_APPEND), "APPEND");
	CHECK_STR(wire_type_name(9999), "?");
}
