/* SPDX-License-Identifier: Apache-2.0 */
/* What space.c, space_table.c and space_prewrite.c share. */
#ifndef HF_STORE_SPACE_IMPL_H
#define HF_STORE_SPACE_IMPL_H

#include "store/batch_io.h"
#include "store/space.h"

#define SEGMENT_WORDS (SEGMENT_BLOCKS / 64)
#define SEGMENT_NONE  UINT32_MAX
#define BUCKETS       (SEGMENT_BLOCKS + 1)

#define SEGMENT_UNWRITTEN 1u /* regular file: not written out yet, in no bucket */
#define SEGMENT_WRITING   2u /* the prewriter is at it (also UNWRITTEN) */

struct segment {
	uint32_t prev, next; /* of its bucket */
	uint16_t live;       /* allocated blocks */
	uint16_t flags;
};

/* A set of blocks: a bitmap, and which segments have any, so that an empty set costs nothing. */
struct pins {
	uint64_t *bits;    /* SEGMENT_WORDS a segment */
	uint64_t *summary; /* a bit a segment */
	uint64_t count;
};

struct space_table_place {
	uint64_t place; /* 0: never written, all free */
	uint32_t crc32c;
};

struct space_prewrite {
	struct env_timer timer;
	struct device_io dio;
	struct iovec iov;
	void *zeros;
	uint32_t segment;       /* being written */
	uint32_t written_bytes; /* of it */
	bool running;           /* started and not stopped */
	bool busy;              /* an I/O is in flight */
	/* W3: the segment was taken meanwhile; the blocks that the I/O is at. Count 0: it was not. */
	uint64_t held_block;
	uint32_t held_count;
	bool failed;
	struct co *stopper;
};

struct space {
	struct batch_io *loading; /* while space_load() runs: a kill must not leak it */
	struct device *device;
	struct uuid store_uuid;
	uint64_t data_start;
	uint64_t size_blocks; /* of the device */
	uint64_t capacity;    /* data area */
	uint64_t reserve;
	uint64_t allocated_count, referenced_count;
	int64_t promised;
	uint64_t unref_errors;
	uint64_t *allocated; /* bitmaps over the data area, whole segments */
	uint64_t *referenced;
	uint32_t segment_count;
	struct segment *segments;
	uint32_t bucket_head[BUCKETS];
	uint64_t bucket_bits[DIV_UP(BUCKETS, 64)]; /* not empty */
	uint32_t open;                             /* segment of the last allocation */
	uint32_t open_cursor;                      /* block in it after the last allocation */
	uint32_t unwritten_next;                   /* segments below it are written */
	/* pins */
	struct pins pin_next, pin_this;
	struct pins waiting; /* a durable root gave them up; reads of the last epoch may look */
	struct pins pending; /* given up while `waiting` was not empty */
	struct pins bad;     /* the bad-block list: once allocated, for ever */
	bool cut;            /* between space_cut and space_root_durable */
	uint32_t read_epoch; /* 0 or 1 */
	uint64_t readers[2];
	/* table */
	uint32_t table_count;
	struct space_table_place *tables;
	uint64_t *table_dirty;  /* a bit a table block */
	uint64_t *table_placed; /* during space_write */
	uint32_t dir_count;
	uint64_t *dir_places; /* of the last directory; 0: none */
	struct writer *writer;
	struct space_prewrite prewrite;
};

static inline bool bit_get(const uint64_t *bits, uint64_t i)
{
	return bits[i / 64] >> (i % 64) & 1;
}
static inline void bit_set(uint64_t *bits, uint64_t i)
{
	bits[i / 64] |= 1ull << (i % 64);
}
static inline void bit_clear(uint64_t *bits, uint64_t i)
{
	bits[i / 64] &= ~(1ull << (i % 64));
}

/* Blocks of segment that exist (the last one may be short). */
uint32_t space_segment_blocks(const struct space *space, uint32_t segment);
/* A segment enters its bucket for the first time (written, or taken anyway). */
void space_segment_written(struct space *space, uint32_t segment);
/* Counts, buckets and the open segment anew from the bitmaps. */
void space_recount(struct space *space);
void space_table_dirty(struct space *space, uint64_t block);
/* Leaves the segment that is being written to the allocator, which has no other. False: none. */
bool space_prewrite_yield(struct space *space);

#endif
