/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptors and records, bytes <-> host form.
 *
 * R1 Nothing is read before its length was checked against the bytes that are there.
 * R2 A record whose parts do not add up to its size, or that lacks what its kind needs, is malformed:
 *    a crc that fits only proves that the writer wrote it so.
 * R3 Kinds of a later version are refused by name. They are never skipped: a record that is not
 *    understood may be the one that everything after it depends on.
 * R4 Records are multiples of 8 and start at a multiple of 8, so the crc and extent arrays can be read
 *    in place.
 */
#include "store/desc.h"

#include <errno.h>

#include "base/crc32c.h"
#include "store/store.h"

/* ---- blocks ---- */

uint32_t block_crc(const void *block)
{
	static const le32 zero;
	const char *bytes = block;
	size_t at = offsetof(struct block_header, crc32c);
	uint32_t crc = crc32c(bytes, at);
	crc = crc32c_more(crc, &zero, sizeof(zero));
	at += sizeof(zero);
	return crc32c_more(crc, bytes + at, BLOCK_BYTES - at);
}

uint32_t block_seal(void *block, uint32_t magic, uint16_t kind, uint32_t count,
		    const struct uuid *store_uuid)
{
	struct block_header *h = block;
	h->magic = le32_make(magic);
	h->version = le16_make(STORE_FORMAT_VERSION);
	h->kind = le16_make(kind);
	h->count = le32_make(count);
	h->store_uuid = *store_uuid;
	h->crc32c = le32_make(0);
	uint32_t crc = crc32c(block, BLOCK_BYTES);
	h->crc32c = le32_make(crc);
	return crc;
}

bool block_check(const void *block, uint32_t magic, const struct uuid *store_uuid)
{
	const struct block_header *h = block;
	if (le32_get(h->magic) != magic || le16_get(h->version) != STORE_FORMAT_VERSION)
		return false;
	if (store_uuid && !uuid_equal(&h->store_uuid, store_uuid))
		return false;
	return block_crc(block) == le32_get(h->crc32c);
}

/* ---- records ---- */

const char *record_op_name(uint8_t op)
{
	switch (op) {
	case LOG_WRITE:
		return "WRITE";
	case LOG_ZERO:
		return "ZERO";
	case LOG_SNAP:
		return "SNAP";
	case LOG_ROLLBACK:
		return "ROLLBACK";
	case LOG_RESIZE:
		return "RESIZE";
	case LOG_NOP:
		return "NOP";
	case RECORD_CREATE:
		return "CREATE";
	case RECORD_DELETE:
		return "DELETE";
	case RECORD_PROMISE:
		return "PROMISE";
	case RECORD_ADOPT:
		return "ADOPT";
	case RECORD_LEASE:
		return "LEASE";
	case RECORD_REPAIR:
		return "REPAIR";
	case RECORD_SHADOW_BEGIN:
		return "SHADOW_BEGIN";
	case RECORD_SHADOW_DROP:
		return "SHADOW_DROP";
	case RECORD_FILL:
		return "FILL";
	case RECORD_SEAL:
		return "SEAL";
	case RECORD_ACCEPT_LOSS:
		return "ACCEPT_LOSS";
	case RECORD_KEY:
		return "KEY";
	case RECORD_SEALED_WRITE:
		return "SEALED_WRITE";
	default:
		return "?";
	}
}

size_t record_bytes(uint32_t crc_count, uint32_t extent_count, uint32_t body_bytes)
{
	return sizeof(struct record) + ALIGN_UP((size_t)crc_count * 4, 8) +
	       (size_t)extent_count * 8 + body_bytes;
}

size_t record_encode(const struct log_record *r, void *at)
{
	size_t bytes = record_bytes(r->crc_count, r->extent_count, r->body_bytes);
	assert(bytes <= DESC_RECORD_BYTES && r->body_bytes % 8 == 0);
	memset(at, 0, bytes);
	struct record *out = at;
	*out = (struct record){
		.bytes = le16_make((uint16_t)bytes),
		.op = r->op,
		.flags = r->flags,
		.slot = le32_make(r->slot),
		.node = le32_make(r->node),
		.shard = le32_make(r->shard),
		.epoch = le64_make(r->epoch),
		.seq = le64_make(r->seq),
		.address_blocks = le64_make(r->address_blocks),
		.length_blocks = le64_make(r->length_blocks),
		.prev_hash = le64_make(r->prev_hash),
		.commit_seq = le64_make(r->commit_seq),
		.time_ms = le64_make(r->time_ms),
		.stage_epoch = le64_make(r->stage_epoch),
		.crc_count = le16_make((uint16_t)r->crc_count),
		.extent_count = le16_make((uint16_t)r->extent_count),
		.body_bytes = le32_make(r->body_bytes),
	};
	char *p = (char *)at + sizeof(*out);
	if (r->crc_count)
		memcpy(p, r->crcs, (size_t)r->crc_count * 4);
	p += ALIGN_UP((size_t)r->crc_count * 4, 8);
	if (r->extent_count)
		memcpy(p, r->extents, (size_t)r->extent_count * 8);
	p += (size_t)r->extent_count * 8;
	if (r->body_bytes)
		memcpy(p, r->body, r->body_bytes);
	return bytes;
}

/* What a kind must have. */
struct record_shape {
	bool known;
	bool crc_per_block; /* crc_count == length, 1..STORE_ENTRY_BLOCKS_MAX */
	bool extents_cover; /* the extents' lengths sum to length_blocks */
	bool chained;       /* has a seq in the volume's log */
	uint32_t body_bytes;
};

static const struct record_shape record_shapes[] = {
	[LOG_WRITE] = {.known = true,
		       .crc_per_block = true,
		       .extents_cover = true,
		       .chained = true},
	[LOG_ZERO] = {.known = true, .chained = true},
	[LOG_RESIZE] = {.known = true, .chained = true},
	[LOG_NOP] = {.known = true, .chained = true},
	[RECORD_CREATE] = {.known = true, .body_bytes = sizeof(struct record_create)},
	[RECORD_DELETE] = {.known = true},
	[RECORD_PROMISE] = {.known = true},
	[RECORD_ADOPT] = {.known = true, .body_bytes = sizeof(struct record_adopt_body)},
	[RECORD_LEASE] = {.known = true, .body_bytes = sizeof(struct record_lease_body)},
	[RECORD_REPAIR] = {.known = true,
			   .crc_per_block = true,
			   .extents_cover = true,
			   .body_bytes = sizeof(struct record_repair_body)},
	[RECORD_SHADOW_BEGIN] = {.known = true, .body_bytes = sizeof(struct record_shadow_body)},
	[RECORD_SHADOW_DROP] = {.known = true},
	[RECORD_FILL] = {.known = true,
			 .crc_per_block = true,
			 .body_bytes = RECORD_FILL_BITMAP_BYTES},
	[RECORD_SEAL] = {.known = true},
	[RECORD_ACCEPT_LOSS] = {.known = true, .body_bytes = sizeof(struct record_loss_body)},
};

static int record_refuse(uint8_t op, struct err *err)
{
	if (strcmp(record_op_name(op), "?") == 0)
		return err_set(err, -EPROTO,
			       "log record of kind %u needs a newer version of the store", op);
	return err_set(err, -EPROTO, "log record %s (kind %u) needs a newer version of the store",
		       record_op_name(op), op);
}

static uint64_t extents_sum(const struct log_record *r)
{
	uint64_t sum = 0;
	for (uint32_t i = 0; i < r->extent_count; i++) {
		if (extent_length(r->extents[i]) == 0 || extent_place(r->extents[i]) == 0)
			return UINT64_MAX;
		sum += extent_length(r->extents[i]);
	}
	return sum;
}

static uint64_t fill_data_blocks(const struct log_record *r)
{
	const uint8_t *bits = r->body;
	uint64_t count = 0;
	for (uint32_t i = 0; i < RECORD_FILL_BITMAP_BYTES * 8; i++) {
		if (!(bits[i / 8] >> (i % 8) & 1))
			continue;
		if (i >= r->length_blocks)
			return UINT64_MAX - 1; /* never a sum of extents */
		count++;
	}
	return count;
}

/* R2 */
static bool record_shape_fits(const struct log_record *r, const struct record_shape *shape)
{
	if (r->body_bytes != shape->body_bytes || r->slot >= STORE_REPLICAS_MAX)
		return false;
	if (shape->crc_per_block) {
		if (r->length_blocks == 0 || r->length_blocks > STORE_ENTRY_BLOCKS_MAX ||
		    r->crc_count != r->length_blocks)
			return false;
	} else if (r->crc_count != 0) {
		return false;
	}
	uint64_t covered = 0;
	if (shape->extents_cover)
		covered = r->length_blocks;
	else if (r->op == RECORD_FILL)
		covered = fill_data_blocks(r);
	if (extents_sum(r) != covered)
		return false;
	if (shape->chained && (r->seq == 0 || r->epoch == 0))
		return false;
	if (r->op == RECORD_REPAIR && r->length_blocks != 1)
		return false;
	if (r->op == LOG_ZERO && r->length_blocks == 0)
		return false;
	if (r->op == RECORD_ADOPT)
		return true; /* address is a seq there */
	return r->address_blocks <= STORE_VOLUME_BLOCKS_MAX &&
	       r->length_blocks <= STORE_VOLUME_BLOCKS_MAX - r->address_blocks;
}

int record_decode(const void *at, size_t available_bytes, struct log_record *ret, size_t *ret_bytes,
		  struct err *err)
{
	const struct record *in = at;
	if (available_bytes < sizeof(*in))
		return err_set(err, -EUCLEAN, "log record cut short at %zu bytes", available_bytes);
	size_t bytes = le16_get(in->bytes);
	if (bytes < sizeof(*in) || bytes % 8 != 0 || bytes > available_bytes)
		return err_set(err, -EUCLEAN, "log record of %zu bytes with %zu there", bytes,
			       available_bytes);
	if (in->op >= ARRAY_LEN(record_shapes) || !record_shapes[in->op].known)
		return record_refuse(in->op, err);
	struct log_record r = {
		.op = in->op,
		.flags = in->flags,
		.slot = le32_get(in->slot),
		.node = le32_get(in->node),
		.shard = le32_get(in->shard),
		.epoch = le64_get(in->epoch),
		.seq = le64_get(in->seq),
		.address_blocks = le64_get(in->address_blocks),
		.length_blocks = le64_get(in->length_blocks),
		.prev_hash = le64_get(in->prev_hash),
		.commit_seq = le64_get(in->commit_seq),
		.time_ms = le64_get(in->time_ms),
		.stage_epoch = le64_get(in->stage_epoch),
		.crc_count = le16_get(in->crc_count),
		.extent_count = le16_get(in->extent_count),
		.body_bytes = le32_get(in->body_bytes),
	};
	if (r.body_bytes > bytes ||
	    record_bytes(r.crc_count, r.extent_count, r.body_bytes) != bytes)
		return err_set(err, -EUCLEAN, "log record %s of %zu bytes does not add up",
			       record_op_name(r.op), bytes);
	const char *p = (const char *)at + sizeof(*in);
	r.crcs = (const uint32_t *)p;
	p += ALIGN_UP((size_t)r.crc_count * 4, 8);
	r.extents = (const uint64_t *)p;
	p += (size_t)r.extent_count * 8;
	r.body = p;
	if (!record_shape_fits(&r, &record_shapes[r.op]))
		return err_set(err, -EUCLEAN, "log record %s is malformed", record_op_name(r.op));
	*ret = r;
	*ret_bytes = bytes;
	return 0;
}

/* ---- descriptors ---- */

uint32_t desc_encode(const struct desc_header *h, void *block)
{
	struct desc_block *out = block;
	out->incarnation = le64_make(h->incarnation);
	out->salt = le64_make(h->salt);
	out->batch_no = le64_make(h->batch_no);
	out->position = le64_make(h->position);
	out->root_generation = le64_make(h->root_generation);
	out->durable_prefix = le64_make(h->durable_prefix);
	out->time_ms = le64_make(h->time_ms);
	out->prev_crc32c = le32_make(h->prev_crc32c);
	out->desc_index = le16_make((uint16_t)h->desc_index);
	out->desc_count = le16_make((uint16_t)h->desc_count);
	out->batch_blocks = le32_make(h->batch_blocks);
	out->record_count = le32_make(h->record_count);
	out->reserved = le64_make(0);
	return block_seal(block, MAGIC_DESC, 0, h->record_bytes, &h->store_uuid);
}

bool desc_decode(const void *block, const struct uuid *store_uuid, struct desc_header *ret)
{
	const struct desc_block *in = block;
	if (!block_check(block, MAGIC_DESC, store_uuid))
		return false;
	struct desc_header h = {
		.store_uuid = in->h.store_uuid,
		.incarnation = le64_get(in->incarnation),
		.salt = le64_get(in->salt),
		.batch_no = le64_get(in->batch_no),
		.position = le64_get(in->position),
		.root_generation = le64_get(in->root_generation),
		.durable_prefix = le64_get(in->durable_prefix),
		.time_ms = le64_get(in->time_ms),
		.prev_crc32c = le32_get(in->prev_crc32c),
		.desc_index = le16_get(in->desc_index),
		.desc_count = le16_get(in->desc_count),
		.batch_blocks = le32_get(in->batch_blocks),
		.record_count = le32_get(in->record_count),
		.record_bytes = le32_get(in->h.count),
		.crc32c = le32_get(in->h.crc32c),
	};
	if (h.desc_count == 0 || h.desc_count > DESC_BLOCKS_MAX || h.desc_index >= h.desc_count)
		return false;
	if (h.batch_blocks < h.desc_count || h.batch_blocks > BATCH_BLOCKS_MAX ||
	    h.record_bytes > DESC_RECORD_BYTES)
		return false;
	if (h.durable_prefix >= h.batch_no)
		return false;
	*ret = h;
	return true;
}
