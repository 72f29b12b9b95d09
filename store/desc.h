/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptors and records: host form <-> bytes of the log ring and of the tail table.
 *
 * Pure functions, no I/O and no state. Private to store/. Decoding checks every length before it is
 * used, and the shape that each kind must have; what a place may be is the caller's to check.
 */
#ifndef HF_STORE_DESC_H
#define HF_STORE_DESC_H

#include "base/err.h"
#include "store/format.h"

/* A record in host form. The arrays of a decoded record point into the bytes it came from. */
struct log_record {
	uint8_t op; /* enum log_op or enum record_op */
	uint8_t flags;
	uint32_t slot;
	uint32_t node;
	uint32_t shard;
	uint64_t epoch;
	uint64_t seq;
	uint64_t address_blocks;
	uint64_t length_blocks;
	uint64_t prev_hash;
	uint64_t commit_seq;
	uint64_t time_ms;
	uint64_t stage_epoch;
	uint32_t crc_count;
	uint32_t extent_count;
	uint32_t body_bytes;
	const uint32_t *crcs;
	const uint64_t *extents; /* packed: extent_pack() */
	const void *body;
};

struct record_adopt_body {
	le64 last_hash;
};
struct record_lease_body {
	le64 boot_id;
	le64 term_ns;
};
struct record_repair_body {
	le64 old_place;
};
struct record_shadow_body {
	le64 prev_hash;
};
struct record_loss_body {
	le64 suspect_after; /* entries above it, */
	le64 suspect_until; /* up to this one, may be missing and are given up */
};
#define RECORD_FILL_BITMAP_BYTES 32u

static inline uint64_t extent_pack(uint64_t place, uint32_t length_blocks)
{
	return place | (uint64_t)length_blocks << 48;
}
static inline uint64_t extent_place(uint64_t packed)
{
	return packed & ((1ull << 48) - 1);
}
static inline uint32_t extent_length(uint64_t packed)
{
	return (uint32_t)(packed >> 48);
}

/* Bytes of a record with these parts. */
size_t record_bytes(uint32_t crc_count, uint32_t extent_count, uint32_t body_bytes);
/* Writes the record; `at` has room for record_bytes(). Returns the bytes written. */
size_t record_encode(const struct log_record *record, void *at);
/*
 * Reads one record from at most available_bytes. 0 and *ret, *ret_bytes; -EUCLEAN when malformed;
 * -EPROTO for a kind that needs a newer version, named.
 */
int record_decode(const void *at, size_t available_bytes, struct log_record *ret, size_t *ret_bytes,
		  struct err *err);
/* "WRITE", "PROMISE", ..; "?" when unknown. */
const char *record_op_name(uint8_t op);

/* The fields of a descriptor block that are the same for, or numbered over, a batch. */
struct desc_header {
	struct uuid store_uuid;
	uint64_t incarnation;
	uint64_t salt;
	uint64_t batch_no;
	uint64_t position; /* of this block */
	uint64_t root_generation;
	uint64_t durable_prefix;
	uint64_t time_ms;
	uint32_t prev_crc32c;
	uint32_t desc_index;
	uint32_t desc_count;
	uint32_t batch_blocks;
	uint32_t record_count;
	uint32_t record_bytes;
	uint32_t crc32c; /* out of decoding; of sealing */
};

/* Fills the header of a block whose records are in place (and whose rest is zero), computes the crc.
 * Returns the crc. */
uint32_t desc_encode(const struct desc_header *header, void *block);
/* True when block is a well-formed descriptor of the store: magic, crc, version, uuid, bounds. */
bool desc_decode(const void *block, const struct uuid *store_uuid, struct desc_header *ret);

/* crc32c of a block with its header's crc field taken as zero. */
uint32_t block_crc(const void *block);
/* Fills header and crc of a block whose body is in place; returns the crc. */
uint32_t block_seal(void *block, uint32_t magic, uint16_t kind, uint32_t count,
		    const struct uuid *store_uuid);
/* Magic, version, crc, uuid (NULL: any). */
bool block_check(const void *block, uint32_t magic, const struct uuid *store_uuid);

#endif
