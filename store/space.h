/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which blocks of the data area are in use. Private to store/.
 *
 * How it works. Segments of 1024 blocks hang in buckets by live count; allocation walks the emptiest
 * one in address order, so that appends stay sequential and nearly full segments are left alone.
 * A block that a root gives up is *pinned*: for the next root, for this one, or waiting for reads. Pins are
 * bitmaps too (lazily backed), so a checkpoint may give up any number of blocks.
 * Memory per TiB: 64 MiB for the two bitmaps, 3 MiB for segments; each pin bitmap touches memory only
 * where something is pinned.
 *
 * Two bitmaps. `allocated`: not to be handed out. `referenced`: what the root that is being built
 * (or the durable one, between checkpoints) refers to; this one goes to disk. Always
 * referenced is a subset of allocated.
 *
 *   space_alloc     allocated := 1                        (a batch, a checkpoint's own block)
 *   space_ref       referenced := 1                       (the checkpoint put it in a page or table)
 *   space_unref     the next root no longer refers to it: referenced := 0 when that root is cut;
 *                   allocated := 0 when both copies of that root are durable and every read
 *                   begun before has ended (space_read_begin / _end)
 *   space_cancel    allocated but never referenced nor visible (a failed or refused request)
 *
 * S1  A block is handed out only when neither the durable root, nor the ring records after it, nor a read
 *     in flight refers to it.
 * S2  used = reachable at every root: `store check` counts both.
 */
#ifndef HF_STORE_SPACE_H
#define HF_STORE_SPACE_H

#include "base/co.h"
#include "store/device.h"
#include "store/format.h"

struct space;

struct space_extent {
	uint64_t place;
	uint32_t length_blocks;
};

struct space_geometry {
	uint64_t data_start;  /* first block of the data area */
	uint64_t size_blocks; /* of the device */
	struct uuid store_uuid;
	bool prewrite;           /* regular file: hand out only blocks below the written frontier */
	uint64_t written_blocks; /* the frontier's hint, in blocks of the device */
};

/* All free. NULL when memory is out. Memory: 2 bits a block and 12 bytes a segment. */
struct space *space_create(struct device *device, const struct space_geometry *geometry);
void space_destroy(struct space *space);

/* Loads `referenced` (= `allocated`) from a root's directory. -EBADMSG when a block does not match. */
int space_load(struct co *co, struct space *space, const struct block_ptr *dir, struct err *err);

/* What a request may take: NORMAL leaves the reserve alone; OVERWRITE may use it as long as live data
 * does not grow; INTERNAL (checkpoint, adopt, repair, tables) may use all of it. */
enum space_class { SPACE_NORMAL, SPACE_OVERWRITE, SPACE_INTERNAL };

/*
 * Allocates exactly count blocks as at most extents_max runs: in address order after the previous
 * allocation, or, when that needs too many runs, the longest runs of the emptiest segments. 0 and
 * *ret_count, or -ENOSPC and nothing taken. Only a caller with extents_max == count never meets
 * -ENOSPC because of fragmentation.
 */
int space_alloc(struct space *space, enum space_class class, uint32_t count,
		struct space_extent *extents, uint32_t extents_max, uint32_t *ret_count);
/* Recovery: the ring refers to these; they become allocated. -EUCLEAN when outside the data area. */
int space_claim(struct space *space, uint64_t place, uint32_t count);
void space_cancel(struct space *space, uint64_t place, uint32_t count);
/* Never to be handed out (again): now, or when it is given up. Counts as allocated. */
void space_bad(struct space *space, uint64_t place);

/*
 * Space that accepted work will need later (pages of deltas, destage of inline payloads): kept from
 * NORMAL and OVERWRITE on top of the reserve. Add when accepted, subtract when done.
 */
void space_promise(struct space *space, int64_t blocks);

/* Also takes back a pin for this root (a place that leaves the tail table and enters the map in one
 * checkpoint is unreferenced and referenced again, in any order that ends with the reference). */
void space_ref(struct space *space, uint64_t place, uint32_t count);
/* For the root being built if a checkpoint is past its cut and `this_root`, else for the next. Ring
 * places (below data_start) are accepted and ignored. */
void space_unref(struct space *space, uint64_t place, uint32_t count, bool this_root);

/* Checkpoint protocol: cut, (fold: ref/unref this_root), write, root durable. */
void space_cut(struct space *space);
/*
 * Writes changed table blocks and the directory to new places (not flushed); *ret_dir for the root.
 * Must be the last step before the root: from here to space_root_durable() no space_ref and no
 * space_unref(this_root). The table's own blocks: see space_table.c. 0, -EIO, -ENOSPC.
 */
int space_write(struct co *co, struct space *space, struct block_ptr *ret_dir);
void space_root_durable(struct space *space);

/* A read that may look at places: token from begin goes to end. */
uint64_t space_read_begin(struct space *space);
void space_read_end(struct space *space, uint64_t token);

struct space_info {
	uint64_t capacity_blocks, allocated_blocks, referenced_blocks, pinned_blocks;
	uint64_t reserve_blocks;
	uint64_t promised_blocks;
	uint64_t
		unref_errors; /* unreferenced though free or pinned: corruption or a bug, ignored */
	uint64_t free_segments;
	uint64_t written_blocks;       /* frontier, for the superblock's hint */
	uint64_t table_blocks_written; /* by space_write() */
};
/* First block of the data area; blocks of the device. */
uint64_t space_data_start(const struct space *space);
uint64_t space_end(const struct space *space);
/* Free blocks beyond what was promised; 0 when more was promised than is free. */
uint64_t space_spare(const struct space *space);
void space_info(const struct space *space, struct space_info *ret);
/* Is the block referenced / allocated: for check and asserts. */
bool space_is_referenced(const struct space *space, uint64_t place);
bool space_is_allocated(const struct space *space, uint64_t place);

/* The prewriter: zeroes ahead of the allocator while the store runs (regular files). started by the
 * store after recovery, stopped (drained) before close. */
void space_prewrite_start(struct space *space);
void space_prewrite_stop(struct co *co, struct space *space);

#endif
