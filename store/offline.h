/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading a store that nobody runs: the fixed places and the log ring, judged but never changed.
 * Private to store/; shared by check and dump. Uses the codecs and none of recovery, so that it
 * can disagree with it.
 */
#ifndef HF_STORE_OFFLINE_H
#define HF_STORE_OFFLINE_H

#include "base/co.h"
#include "store/desc.h"
#include "store/device.h"
#include "store/format.h"

#define OFFLINE_WINDOW_BLOCKS 256u

struct offline {
	struct co *co;
	struct env *env;
	struct env_disk *disk;
	struct device device;
	uint64_t device_blocks;
	/* from the first good superblock copy */
	struct uuid uuid;
	uint64_t size_blocks;
	uint64_t ring_blocks;
	uint64_t data_start;
	struct superblock super[2];
	bool super_good[2];
	struct root root[2][2]; /* [slot][copy] */
	bool root_good[2][2];
	/* I/O */
	struct device_io dio;
	struct iovec iov;
	char *block;  /* of the last single read */
	char *window; /* of the ring */
	uint64_t window_start;
	uint32_t window_blocks; /* 0: none loaded */
};

/* Opens read-only, allocates, reads the superblocks and the roots. Inside a coroutine; 0 and *ret,
 * or -errno: -ENODEV not a store, -EPROTO a newer format, -EUCLEAN impossible geometry. */
int offline_open(struct co *co, struct env *env, const char *path, struct offline **ret,
		 struct err *err);
/* NULL is fine. */
void offline_close(struct offline *offline);
/* Reads blocks into buf (4096-aligned). 0 or -errno. */
int offline_read(struct offline *offline, uint64_t place, void *buf, uint32_t blocks);
/* Reads a table block into offline->block. 0, -EBADMSG when it does not match, or -EIO. */
int offline_table(struct offline *offline, const struct block_ptr *at, enum table_kind kind);
/* The good copy with the highest generation; NULL when there is none. */
const struct root *offline_newest_root(const struct offline *offline);
uint64_t offline_super_place(const struct offline *offline, uint32_t copy);
uint64_t offline_root_place(const struct offline *offline, uint32_t slot, uint32_t copy);
/* First byte of a ring block by logical position; a block that cannot be read is zeros. Valid
 * until the next call. */
const char *offline_ring_block(struct offline *offline, uint64_t position);

/* ---- the batches that a root needs ---- */

struct offline_batch {
	struct desc_header head; /* of its first descriptor */
	uint64_t missing_first;  /* batches before it that were stable and are not there; */
	uint64_t missing_last;   /* 0: none. With the last offline_ring_next() too. */
	bool above_prefix;       /* not proven stable */
	uint32_t record_bytes[DESC_BLOCKS_MAX];
	uint32_t record_count[DESC_BLOCKS_MAX];
	_Alignas(8) char desc[DESC_BLOCKS_MAX][BLOCK_BYTES];
};

struct offline_ring {
	struct offline *offline;
	const struct root *root;
	uint64_t position; /* where the next batch should be */
	uint64_t limit;    /* ring positions of this root end here */
	uint64_t batch_no; /* its number */
	uint64_t prefix;   /* highest durable_prefix in the ring */
	uint32_t prev_crc32c;
	bool prev_known;
	const char *lost; /* set: a descriptor that only a newer root explains */
	uint64_t lost_position;
	struct offline_batch *batch;
};

/* Looks at the whole ring once for the prefix. 0 or -ENOMEM. */
int offline_ring_begin(struct offline_ring *ring, struct offline *offline, const struct root *root);
void offline_ring_end(struct offline_ring *ring);
/* True: ring->batch is the next one. False: no more. */
bool offline_ring_next(struct offline_ring *ring);
/* Calls fn for each record of the batch; 0, or the first error (a record that is malformed). */
int offline_ring_records(struct offline_ring *ring,
			 int (*fn)(void *ctx, const struct log_record *record), void *ctx,
			 struct err *err);

#endif
