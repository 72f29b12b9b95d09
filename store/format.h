/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes on the device. docs/disk-format.md explains them; golden images in tests/golden pin them.
 *
 * Everything is little-endian, naturally aligned, padding spelled out and zero. A *place* is a
 * 4096-byte block number on the device, 48 bits, ring blocks included; 0 means none (block 0 is a
 * superblock, so no payload can be there). Every block that is not payload starts with
 * struct block_header; its crc32c covers the whole 4096 bytes with the crc field zero. Pointers to
 * blocks carry the crc of the block they point to (checksums live in the parent).
 */
#ifndef HF_STORE_FORMAT_H
#define HF_STORE_FORMAT_H

#include "base/types.h"

#define STORE_FORMAT_VERSION 1u

/* The magic carries the kind. */
#define MAGIC32(a, b, c, d) \
	((uint32_t)(a) | (uint32_t)(b) << 8 | (uint32_t)(c) << 16 | (uint32_t)(d) << 24)
#define MAGIC_SUPERBLOCK MAGIC32('H', 'F', 's', '1')
#define MAGIC_ROOT       MAGIC32('H', 'F', 'r', '1')
#define MAGIC_DESC       MAGIC32('H', 'F', 'd', '1')
#define MAGIC_PAGE       MAGIC32('H', 'F', 'p', '1')
#define MAGIC_INDEX      MAGIC32('H', 'F', 'i', '1')
#define MAGIC_TABLE      MAGIC32('H', 'F', 't', '1')

struct block_header {
	le32 magic;
	le32 crc32c;  /* of the block with this field zero */
	le16 version; /* STORE_FORMAT_VERSION */
	le16 kind;    /* enum table_kind, page kind, index level: by magic; else 0 */
	le32 count;   /* entries that follow; meaning by magic */
	struct uuid store_uuid;
};
static_assert(sizeof(struct block_header) == 32, "block_header is disk format");

/* ---- fixed places ----
 *
 *   0                superblock copy 0
 *   1, 2             root slots 0 and 1, copy 0
 *   3 .. 15          zero
 *   16 ..            log ring, ring_blocks
 *   16 + ring        root slots 0 and 1, copy 1; superblock copy 1; zero up to 16 blocks
 *   data_start ..    data area: data_start = 32 + ring_blocks
 *
 * A root of generation g is written to slot g % 2, copy 0 and copy 1.
 */
#define PLACE_SUPER_0       0u
#define PLACE_ROOT_0        1u
#define PLACE_RING          16u
#define RING_TRAILER_BLOCKS 16u

struct superblock {
	struct block_header h; /* store_uuid is the store's */
	le64 size_blocks;      /* of the device when formatted */
	le64 ring_blocks;
	le64 data_start;
	le64 created_ms;
	le32 segment_blocks;      /* 1024: 4 MiB */
	le32 bad_count;           /* entries of bad[] */
	le64 written_blocks_hint; /* regular file: data area written out up to here; a hint */
	le64 update;              /* +1 at each write: the copy with the higher one counts */
	le64 bad_overflow_place; /* not 0: unwritable, and bad[] had no room: the store does not open */
	le64 reserved[14];
	le64 bad[400]; /* places never to be used, ascending */
};
static_assert(sizeof(struct superblock) <= BLOCK_BYTES, "superblock fits a block");

/* Where a run of blocks of a table or tree is, and what its crc must be. */
struct block_ptr {
	le64 place; /* 0: none */
	le32 crc32c;
	le32 reserved;
};
static_assert(sizeof(struct block_ptr) == 16, "block_ptr is disk format");

struct root {
	struct block_header h;
	le64 generation;
	le64 incarnation;    /* +1 at each recovery */
	le64 salt;           /* random per incarnation: old ring contents never match */
	le64 ring_position;  /* logical block where the log that this root needs starts */
	le64 batch_no;       /* of the first batch at ring_position */
	le64 durable_prefix; /* last batch folded into this root */
	le64 time_ms;
	struct block_ptr volumes; /* chain of TABLE blocks, kind TABLE_VOLUMES */
	struct block_ptr tail;    /* chain, kind TABLE_TAIL */
	struct block_ptr space;   /* chain, kind TABLE_SPACE_DIR */
	struct block_ptr keys;    /* chain, kind TABLE_KEYS: none in this version */
	struct block_ptr runs;    /* chain, kind TABLE_RUNS */
	le64 volume_count;
	le64 tail_records;
	le64 live_blocks;      /* data area blocks marked in the space map */
	le64 node_next;        /* next tree node id of the store */
	le64 run_entries;      /* in the chain of TABLE_RUNS, void ones included */
	le64 run_live;         /* of those, what is not void */
	le32 feature_required; /* bits this reader must know; unknown: refused by name */
	le32 reserved0;
	le64 reserved[12];
};
static_assert(sizeof(struct root) <= BLOCK_BYTES, "root fits a block");
#define FEATURE_SEALED_PAGES 1u
#define FEATURE_DEDUP        2u
#define FEATURE_SNAPSHOTS    4u
#define FEATURES_KNOWN       0u

/* ---- log ring ----
 *
 * A batch: count descriptor blocks, then its inline payload blocks, contiguous at logical position p
 * (physical: PLACE_RING + p % ring_blocks); never straddles the ring's end: when it does not fit,
 * the next batch starts at the next multiple of ring_blocks.
 */
#define DESC_BLOCKS_MAX         16u
#define BATCH_INLINE_BLOCKS_MAX 64u
#define BATCH_BLOCKS_MAX        (DESC_BLOCKS_MAX + BATCH_INLINE_BLOCKS_MAX)
/* How far recovery scans on where its walk stops: all that can have been in flight. */
#define BATCHES_IN_FLIGHT_MAX 16u
#define RING_SCAN_BLOCKS      ((BATCHES_IN_FLIGHT_MAX + 1) * BATCH_BLOCKS_MAX)
#define STORE_REPLICAS_MAX    4096u /* slots of the volume table */

struct desc_block {
	struct block_header h; /* count: bytes of records in this block; kind: 0 */
	le64 incarnation;
	le64 salt;
	le64 batch_no;
	le64 position;        /* logical position of this block */
	le64 root_generation; /* newest durable root when it was written */
	le64 durable_prefix;  /* last stable batch_no at submission */
	le64 time_ms;
	le32 prev_crc32c; /* crc field of the previous batch's first descriptor; 0 for the first after a root of recovery */
	le16 desc_index;
	le16 desc_count;
	le32 batch_blocks; /* descriptors and inline payload */
	le32 record_count; /* in this block */
	le64 reserved;
	/* records follow, each a multiple of 8 bytes, none crossing a block */
};
static_assert(sizeof(struct desc_block) == 112, "desc_block is disk format");
#define DESC_RECORD_BYTES (BLOCK_BYTES - sizeof(struct desc_block))

enum record_op {
	/* 1..6: enum log_op, replicated */
	RECORD_CREATE = 16, /* local: struct record_create as body */
	RECORD_DELETE = 17,
	RECORD_PROMISE = 18, /* epoch */
	RECORD_ADOPT =
		19, /* epoch, base = address, last = seq, body: last_hash; SHADOW flag: flip */
	RECORD_LEASE = 20,  /* body: boot id, term_ns */
	RECORD_REPAIR = 21, /* address, length 1, crc, one extent; body: the place it replaces.
				  * applied if crc and place are unchanged */
	RECORD_SHADOW_BEGIN =
		22, /* node = the shadow's id; epoch; seq = first_seq; commit_seq = the source's
				  * settled_seq; body: prev_hash */
	RECORD_SHADOW_DROP = 23,
	RECORD_FILL = 24, /* shadow base fill: seq = at_seq; a crc per block; extents of the DATA
			   * blocks; body: 32 bytes, bit i set: block i is DATA, else zeroes */
	RECORD_SEAL = 25, /* empty batch that carries a durable_prefix */
	RECORD_ACCEPT_LOSS =
		26, /* local: a person gave up what rot took. body: the range of seqs */
	/* 32.. refused by name in this version */
	RECORD_KEY = 32,
	RECORD_SEALED_WRITE = 33,
};
#define RECORD_INLINE     1u /* flag: the extents are ring blocks of this batch */
#define RECORD_STAGED     2u /* flag: belongs to the staged tail of the epoch in stage_epoch */
#define RECORD_SHADOW     4u /* flag: belongs to the shadow's log */
#define RECORD_FLUSH_MARK 8u /* flag: LOG_FLUSH_MARK */

struct record {
	le16 bytes; /* whole record, multiple of 8 */
	uint8_t op;
	uint8_t flags;
	le32 slot; /* index in the volume table */
	le32 node; /* tree node */
	le32 shard;
	le64 epoch;
	le64 seq;
	le64 address_blocks;
	le64 length_blocks;
	le64 prev_hash; /* log hash before; replicated ops */
	le64 commit_seq;
	le64 time_ms;
	le64 stage_epoch;  /* STAGED: the epoch that stages it */
	le16 crc_count;    /* le32 each, follow the record */
	le16 extent_count; /* struct extent each, follow the crcs, 8-aligned */
	le32 body_bytes;   /* op-specific, follows the extents, multiple of 8 */
};
static_assert(sizeof(struct record) == 88, "record is disk format");

/* place (48 bits) | length_blocks (16 bits) << 48 */
struct extent {
	le64 place_length;
};

struct record_create {
	struct uuid volume_uuid;
	struct uuid replica_uuid;
	le64 size_blocks;
};

/* ---- tables: chains of TABLE blocks, newest root only ---- */

enum table_kind {
	TABLE_VOLUMES = 1,
	TABLE_TAIL = 2,
	TABLE_SPACE_DIR = 3,
	TABLE_SPACE = 4,
	TABLE_KEYS = 5,
	TABLE_RUNS = 6
};

struct table_block {
	struct block_header h; /* kind, count */
	struct block_ptr next; /* the next block of the chain */
			       /* entries follow */
};
static_assert(sizeof(struct table_block) == 48, "table_block is disk format");
#define TABLE_ENTRY_BYTES (BLOCK_BYTES - sizeof(struct table_block))

#define VOLUME_DELETING 1u /* flag: durable delete, its index is being freed */
#define VOLUME_SUSPECT  2u
#define VOLUME_SHADOW   4u /* a shadow's pages are in the index under shadow_node: dropped at open */

struct volume_entry {
	struct uuid volume_uuid;
	struct uuid replica_uuid;
	le32 slot;
	le32 shard;
	le32 flags;
	le32 head_node;
	le32 shadow_node;
	le32 lease_term_ms;
	le64 lease_boot_id;
	le64 size_blocks;
	le64 promised;
	le64 log_epoch;
	le64 last_seq;
	le64 last_hash;
	le64 commit_seq; /* what the map holds */
	le64 commit_hash;
	le64 suspect_after;
	le64 suspect_until;
	le64 used_blocks;
	struct block_ptr index_root; /* none: empty */
	le32 index_levels;           /* 0: empty, 1: the root is a leaf */
	le32 reserved0;
	le64 shadow_epoch; /* VOLUME_SHADOW: of the stream that fills it */
	le64 shadow_seq;   /* what the shadow's map holds of its own log */
	le64 shadow_hash;
	le64 shadow_fill_seq; /* highest at_seq of a fill */
	le64 shadow_size_blocks;
	le64 settled_seq; /* zeros up to here may have left no tombstone */
	le64 loss_first_block; /* SUSPECT: hull of what entries behind the hole wrote, which were not kept; */
	le64 loss_end_block; /* equal: none is known */
};
static_assert(sizeof(struct volume_entry) == 232, "volume_entry is disk format");

/* TABLE_TAIL entries are struct record (never INLINE: destaged), in log order; count is their bytes.
 * A chain is written front to back, each block pointing at the one before it: the pointer in the root
 * names the block that was written last, and a reader reverses the blocks. */

/*
 * TABLE_RUNS entries are committed changes of the map that no page holds yet, in the order in which checkpoints
 * wrote them; each checkpoint puts its run behind the chain of the root before, or writes the chain anew.
 * Of a block's entries the highest seq counts, of equal ones the last. Place 0: what came before for the
 * chunk that begins at `block` is void (it was folded); crc32c and seq are zero then.
 */
struct run_entry {
	le32 node; /* the head of a volume; one that is none, or whose volume is DELETING: void */
	le32 crc32c;
	le64 block; /* of the volume */
	le64 place;
	le64 seq;
};
static_assert(sizeof(struct run_entry) == 32, "run_entry is disk format");
#define RUN_ENTRIES_MAX (TABLE_ENTRY_BYTES / sizeof(struct run_entry))

/* TABLE_SPACE_DIR: block_ptr each, in order of the TABLE_SPACE blocks. TABLE_SPACE: segment_entry each. */
struct segment_entry {
	le16 live;
	le16 flags;
	le32 reserved;
	uint8_t bitmap[128]; /* 1: in use */
};
static_assert(sizeof(struct segment_entry) == 136, "segment_entry is disk format");
#define SEGMENT_BLOCKS           1024u
#define SEGMENTS_PER_TABLE_BLOCK 29u /* 29 * 136 = 3944 <= 4048 */

/* ---- map ----
 *
 * Index: a copy-on-write B+tree per family, ordered by (chunk, node). Leaf entries point to pages.
 */
struct index_entry {
	le32 chunk; /* 1 MiB units: 2^26 chunks is 64 TiB */
	le32 node;
	le64 place;       /* of the page (leaf) or child; leaf: 0 is a tombstone */
	le32 crc32c;      /* of the block it points to */
	le32 live_blocks; /* leaf: DATA and LOST blocks of the page; inner: saturating sum */
	le64 highest_seq; /* of the subtree, tombstones included */
	le64 digest;      /* sum over the blocks of a mix of (address, crc): logical contents */
};
static_assert(sizeof(struct index_entry) == 40, "index_entry is disk format");
struct index_block {
	struct block_header h; /* kind: level, 0 is leaf; count: entries */
	le64 reserved;
};
#define INDEX_ENTRIES_MAX ((BLOCK_BYTES - sizeof(struct index_block)) / sizeof(struct index_entry))
static_assert(INDEX_ENTRIES_MAX == 101, "index fan-out");

/* A plain page: 256 entries of 15 bytes, packed as four arrays so that each is aligned. */
#define PAGE_PLAIN      1u
#define PAGE_SEALED     2u /* specified, refused by name in this version */
#define PAGE_ENTRY_DATA 1u /* flags: has a place; else reads as zero */
#define PAGE_ENTRY_LOST \
	2u /* flags: the page that held it was unreadable; bad until rewritten. No place. */
#define PAGE_AGE_OLDER 0xffffffu

struct page_plain {
	struct block_header h; /* kind PAGE_PLAIN; count: DATA entries */
	le64 highest_seq;
	le32 chunk;
	le32 node;
	le64 reserved[24];
	le32 crc32c[256];
	le32 place_low[256];
	le16 place_high[256];
	le16 flags[256];
	uint8_t age[256 * 3]; /* highest_seq - seq of the block, little-endian, saturating */
};
static_assert(sizeof(struct page_plain) <= BLOCK_BYTES, "page fits a block");

/* A sealed page: 64 extents of up to 60 bytes (compressed or encrypted volumes). */
struct sealed_entry {
	le64 place_length; /* like struct extent */
	le64 seq;
	uint8_t tag[16];
	le32 crc32c; /* of the stored bytes */
	le32 key_id;
	le32 epoch;
	le32 index; /* of the extent in its entry: the nonce is seq and index */
	le16 stored_bytes;
	uint8_t first_block;   /* of the unit within the page's 64 */
	uint8_t length_blocks; /* 1..8 */
	le32 flags;
};
static_assert(sizeof(struct sealed_entry) == 56, "sealed_entry is disk format");
struct page_sealed {
	struct block_header h; /* kind PAGE_SEALED; count: entries */
	le64 highest_seq;
	le32 chunk_quarter; /* 256 KiB units */
	le32 node;
	struct sealed_entry entries[64];
};
static_assert(sizeof(struct page_sealed) <= BLOCK_BYTES, "sealed page fits a block");

#endif
