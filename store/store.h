/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store: one device (or preallocated file) holding the replicas of many volumes.
 *
 * Redirect on write: payloads go to free blocks or, in small batches, right behind their
 * descriptors in a fixed log ring; nothing live is ever overwritten. docs/disk-format.md has the
 * bytes, store/README.md the inside. One store belongs to one env and one thread; many stores
 * may live on one env. After open nothing on the data path allocates.
 *
 * Promises to the caller:
 * P1  done() of an append comes only when the entry is *stable*: durable with every batch before
 *     it, of all volumes. done() of promise, adopt, lease, accept_loss comes only when *witnessed* as well.
 * P2  After a crash at any point a replica is exactly its entries 1..L of log epoch G for some L not
 *     below the last acknowledged one; P and G never go back.
 * P3  Returned data matched its crc32c; rot is -EBADMSG for that block, never zeros, never old data.
 * P4  An I/O error on write or flush fails the store (every pending and later call: -EIO) until
 *     it is opened again through recovery. Nothing is retried. store_close() of a failed store notes the
 *     blocks that cannot be written: the next open goes past them.
 * P5  -ENOSPC is said before anything happened. Zero (discard), delete, promise, adopt and
 *     overwrites that need no new space always work.
 */
#ifndef HF_STORE_STORE_H
#define HF_STORE_STORE_H

#include "base/env.h"

struct store;
struct store_replica;

#define STORE_ENTRY_BLOCKS_MAX  256u /* payload of one WRITE entry: 1 MiB */
#define STORE_READ_BLOCKS_MAX   256u
#define STORE_CHUNK_BLOCKS      256u         /* one map page covers 1 MiB */
#define STORE_VOLUME_BLOCKS_MAX (1ull << 34) /* 64 TiB */

/* ---- format, open, close ---- */

struct store_params {
	struct uuid uuid;    /* zero: a random one */
	uint64_t size_bytes; /* regular file: preallocated to this; 0: use what is there */
	uint64_t ring_bytes; /* 0: size/16 within 16 MiB .. 1 GiB; multiple of 1 MiB */
	bool force;          /* overwrite foreign data or another store */
};

/*
 * Writes an empty store. Synchronous, for admin paths (runs its own I/O on env). Refuses, naming what
 * it found: a device in use (-EBUSY), too small (-EINVAL, minimum STORE_SIZE_MIN_BYTES), foreign data
 * (-EEXIST: filesystem signature, partition table, a store; any non-zero in the first MiB).
 * A coroutine job: must be called inside one (co), or with co NULL from a production loop that it
 * may run until done.
 */
#define STORE_SIZE_MIN_BYTES (64ull << 20)
struct co;
int store_format(struct co *co, struct env *env, const char *path,
		 const struct store_params *params, struct err *err);

struct store_config {
	uint64_t cache_bytes; /* map page cache; default 16 MiB */
	uint64_t delta_bytes; /* changes of the map that are not in pages; default 32 MiB */
	uint32_t
		fold_entries; /* a checkpoint writes the page of a chunk with so many of them (1: of each);
					 * the others stay in memory and in the run table, within delta_bytes; default 32 */
	uint32_t batches_in_flight_max; /* default 4 */
	uint32_t batch_payload_bytes;   /* redirected batch target; default 128 KiB */
	uint32_t
		inline_payload_bytes; /* of an idle store, at most this much payload goes inline; default 32 KiB */
	uint32_t log_records_max; /* records kept since the last checkpoint; default 131072 */
	uint64_t io_slow_ns;      /* default 2 s: counted, reported */
	uint64_t io_fail_ns;      /* default 30 s: the store fails */
	bool read_only;           /* check, dump: no recovery writes, no locks beyond shared */
	/* Simulated crashes: names the store while store_open() is at it, so that what a kill leaves of it
	 * can be given to store_discard(). NULL: nobody asks. */
	struct store **opening;
	/* The store failed (P4); called once, from the loop. */
	void (*failed)(void *ctx, int status, const char *what);
	void *ctx;
};
void store_config_default(struct store_config *config);

/*
 * Opens through recovery; inside a coroutine. 0 and *ret, or: -ENODEV not a store, -EPROTO format
 * of a newer version (named), -EUCLEAN the store is lost (both copies of the newest root bad, or a
 * higher incarnation in the ring: new uuid and refill needed), -EBUSY, -EIO.
 */
int store_open(struct co *co, struct env *env, const char *path, const struct store_config *config,
	       struct store **ret, struct err *err);
/* Clean: checkpoint, then close. Inside a coroutine. */
void store_close(struct co *co, struct store *store);
/* Drops everything in memory and writes nothing: a crash. Only after its env can no longer call back
 * (simulator) or after the disk's operations have drained. */
void store_discard(struct store *store);

struct store_info {
	struct uuid uuid;
	uint64_t incarnation;
	uint64_t root_generation;
	uint64_t capacity_blocks; /* data area */
	uint64_t used_blocks;     /* data area blocks referenced or pinned */
	uint64_t reserved_blocks; /* kept for checkpoint, adoption, delete, overwrite */
	uint64_t ring_blocks, ring_used_blocks;
	uint64_t cache_bytes, delta_bytes;
	uint32_t replica_count;
	uint32_t bad_blocks; /* on the bad-block list */
	bool failed;
	/* counters since open */
	uint64_t batches, batches_inline, records, payload_blocks, pieces, checkpoints;
	uint64_t
		blocks_written; /* everything that was sent to the device, in blocks; not the prewriter's zeros */
	uint64_t pages_read, pages_written; /* by checkpoints: map pages */
	uint64_t map_blocks_read;           /* map pages and index blocks, look-ups included */
	uint64_t reads, read_blocks, crc_errors, io_slow;
};
void store_info(const struct store *store, struct store_info *ret);

/* ---- operations: embedded in the caller's object, its memory is the store's until done ---- */

struct store_op {
	/* 0 or -errno. Never runs inside the call that submitted it. */
	void (*done)(struct store_op *op, int status);
	struct list link; /* store's */
	struct store_replica *replica;
	uint64_t internal[6];
};

/* ---- replicas ---- */

struct store_replica_spec {
	struct uuid volume_uuid;
	struct uuid replica_uuid;
	uint32_t shard;
	uint64_t size_blocks;
};

/* Known after recovery, updated as operations become stable. */
struct store_replica_info {
	struct store_replica_spec spec;
	uint64_t promised;       /* P */
	uint64_t log_epoch;      /* G */
	uint64_t last_seq;       /* L: stable */
	uint64_t last_hash;      /* log hash at L */
	uint64_t commit_seq;     /* K as far as known; <= L */
	uint64_t commit_hash;    /* log hash at K */
	uint64_t floor_seq;      /* entries above it can be read with store_log_read */
	uint64_t checkpoint_seq; /* in the durable map: K is never below it again */
	uint64_t
		settled_seq; /* store_settle(): zeros up to here may be missing in store_changes() */
	bool suspect; /* rot in the log: entries in (suspect_after, suspect_until] may be missing */
	uint64_t suspect_after;
	uint64_t suspect_until;    /* UINT64_MAX: nobody knows how far the log went */
	uint64_t loss_first_block; /* among what is missing were writes to these blocks; others may
				      have */
	uint64_t loss_end_block;   /* gone elsewhere. Equal: none is known */
	bool map_damaged; /* suspect for its map, not its log: nothing but deletion or resync helps
			   */
	bool shadow;      /* a shadow resync is under way */
	uint64_t shadow_last_seq; /* its L */
	uint64_t lease_boot_id;   /* of the last LEASE record; 0 none */
	uint64_t lease_term_ns;
	uint64_t
		used_blocks; /* data blocks that the map refers to (approximate between checkpoints) */
};

/* NULL when there is none. Valid until deleted. */
struct store_replica *store_replica_find(struct store *store, const struct uuid *volume_uuid,
					 uint32_t shard);
/* Calls fn for each replica, in slot order; fn may not delete. */
void store_replica_each(struct store *store, void (*fn)(void *ctx, struct store_replica *replica),
			void *ctx);
void store_replica_info(const struct store_replica *replica, struct store_replica_info *ret);
/* Single fields of it, for the data path. */
uint64_t store_replica_log_epoch(const struct store_replica *replica);
uint64_t store_replica_checkpoint_seq(const struct store_replica *replica);
/* What new payload may take: capacity less what is used and reserved. */
uint64_t store_free_blocks(const struct store *store);

/* Creates an empty replica (P = G = L = 0). The same spec again: 0; another replica_uuid or size for
 * the same volume and shard: -EEXIST. -ENOSPC when the volume table is full. */
struct store_create {
	struct store_op op;
	struct store_replica_spec spec;
	struct store_replica *ret_replica; /* set when done with 0 */
};
void store_replica_create(struct store *store, struct store_create *create);

/* Durable removal; space returns in the background. The handle is dead once done; pending operations
 * of the replica end with -ECANCELED first. */
void store_replica_delete(struct store_replica *replica, struct store_op *op);

/* ---- the log ---- */

enum log_op {
	LOG_WRITE = 1,
	LOG_ZERO = 2,     /* any length; discard and write-zeroes */
	LOG_SNAP = 3,     /* refused in this version: -ENOTSUP */
	LOG_ROLLBACK = 4, /* refused in this version: -ENOTSUP */
	LOG_RESIZE = 5,   /* address_blocks is the new size; shrinking is refused: -EINVAL */
	LOG_NOP = 6,
};
#define LOG_FLUSH_MARK 1u /* flag: the client asked for a flush here */

/* The replicated part of a record: the same on every replica. */
struct log_entry {
	uint64_t epoch;      /* of the coordinator that issued it */
	uint64_t seq;        /* 1.. without gaps */
	uint64_t prev_hash;  /* log hash before this entry */
	uint64_t commit_seq; /* K when it was sent; not part of the hash */
	uint64_t time_ms;
	uint8_t op; /* enum log_op */
	uint8_t flags;
	uint64_t address_blocks;
	uint64_t length_blocks;
	const uint32_t *crc32c; /* WRITE: one per block */
};

/* The log hash after entry: hash64 over prev_hash and the replicated fields (not commit_seq). */
uint64_t log_entry_hash(const struct log_entry *entry);

/*
 * Appends entry to the log (staged false) or to the staged tail of `epoch` (staged true).
 * Not staged: -ESTALE unless P == G == entry->epoch; -EILSEQ unless seq is the next and prev_hash is
 * the log hash; -ENOSPC; -EINVAL outside the volume. Appends may be issued without waiting;
 * they become stable in order. A failure fails every later one that was issued.
 * Staged: -ESTALE unless P == stage_epoch. The first staged entry of an epoch names the base:
 * base = seq - 1 must lie in [K, L]; the next ones follow without gaps; prev_hash must chain.
 * iov: payload of a WRITE, 4096-aligned pieces, valid until done. entry->crc32c too.
 */
struct store_append {
	struct store_op op;
	struct log_entry entry;
	const struct iovec *iov;
	uint32_t iov_count;
	bool staged;
	uint64_t stage_epoch;
	/* Live stream into the shadow node (seq rules apply to the shadow's own log). */
	bool shadow;
};
void store_append(struct store_replica *replica, struct store_append *append);

/* The coordinator's commit point; in memory only, records carry it to disk. Never goes back. Ignored while
 * the log is of an older epoch than the promised one: the new coordinator's point is not about it. */
void store_commit(struct store_replica *replica, uint64_t commit_seq);

/*
 * Every replica that counts holds entries up to settled_seq durably in its map: chunks that are all zeros since then
 * need not be remembered as changed. In memory, durable with the checkpoint that forgets them. Never goes back.
 */
void store_settle(struct store_replica *replica, uint64_t settled_seq);

/* PROMISE(epoch): -ESTALE unless epoch > P. Drops staged tails of older epochs. Witnessed when done. */
struct store_promise {
	struct store_op op;
	uint64_t epoch;
};
void store_promise(struct store_replica *replica, struct store_promise *promise);

/*
 * ADOPT(epoch, base): in one atomic step the log becomes own entries 1..base, then the staged
 * entries base+1..last; G := epoch. -ESTALE unless P == epoch; -EILSEQ unless K <= base <= L and
 * the staged tail runs from base + 1 to last with `last_hash` at its end (base == last: no tail).
 * shadow true: the shadow becomes the replica instead (its L must be last). -EUCLEAN when its map is damaged:
 * that needs a shadow, and one that is filled from nothing. Witnessed when done.
 */
struct store_adopt {
	struct store_op op;
	uint64_t epoch;
	uint64_t base_seq;
	uint64_t last_seq;
	uint64_t last_hash;
	uint64_t commit_seq;
	bool shadow;
};
void store_adopt(struct store_replica *replica, struct store_adopt *adopt);

/* LEASE(boot_id, term); term 0 means none. Witnessed when done. */
struct store_lease {
	struct store_op op;
	uint64_t boot_id;
	uint64_t term_ns;
};
void store_lease(struct store_replica *replica, struct store_lease *lease);

/*
 * ACCEPT_LOSS: a person gives up the entries that rot took, because no other copy brings them back.
 * The replica's log is then exactly 1..L, as if the others had never been: it may vote and be read.
 * The range must be the one that store_replica_info() shows: -ESTALE otherwise, also when the
 * replica is not suspect (any more); -EUCLEAN when its map is damaged. Witnessed when done.
 */
struct store_accept_loss {
	struct store_op op;
	uint64_t suspect_after;
	uint64_t suspect_until;
};
void store_accept_loss(struct store_replica *replica, struct store_accept_loss *loss);

/*
 * Reads one entry above floor_seq with its payload into buf (for tails and streaming resync).
 * -ENODATA when it is at or below the floor or above L; -EBADMSG when its payload is rotten;
 * -EMSGSIZE when it has more than buf_blocks blocks. entry.crc32c points into crc32c_buf.
 */
struct store_log_read {
	struct store_op op;
	uint64_t seq;
	struct log_entry entry; /* out */
	uint32_t crc32c_buf[STORE_ENTRY_BLOCKS_MAX];
	void *buf; /* 4096-aligned */
	uint32_t buf_blocks;
};
void store_log_read(struct store_replica *replica, struct store_log_read *read);

/* ---- reading ---- */

/* state of a block in block_state[] */
#define STORE_BLOCK_ZERO 0u
#define STORE_BLOCK_DATA 1u
#define STORE_BLOCK_OLD \
	0x80u /* store_changes only, or'ed in: its version is known to be <= since_seq */
#define STORE_BLOCK_BAD \
	2u /* its stored copy does not match its crc, or its map page is unreadable */

/*
 * Reads the newest stable state. Every overlapping entry issued before is waited for. With buf NULL
 * only crc32c and block_state are filled, from the map alone. Zero blocks read as zeros with
 * CRC32C_ZERO_BLOCK. When some block is bad: status -EBADMSG, the others are valid.
 */
struct store_read {
	struct store_op op;
	uint64_t address_blocks;
	uint32_t length_blocks; /* 1..STORE_READ_BLOCKS_MAX */
	void *buf;              /* 4096-aligned, or NULL */
	uint32_t *crc32c;       /* out, one per block */
	uint8_t *block_state;   /* out, one per block */
	bool committed; /* not the newest: the map's state, which has only committed entries */
};
void store_read(struct store_replica *replica, struct store_read *read);

/* Data and hole runs of a range, from the map alone, for block status. */
struct store_extent {
	uint64_t length_blocks;
	bool data;
};
struct store_extents {
	struct store_op op;
	uint64_t address_blocks, length_blocks;
	struct store_extent *extents; /* out */
	uint32_t extents_max, extents_count;
	uint64_t covered_blocks; /* out: <= length_blocks, > 0 */
};
void store_extents(struct store_replica *replica, struct store_extents *extents);

/* ---- repair and resync ---- */

/*
 * Rewrites one bad block with good data: a local REPAIR record, applied only when the block still
 * has crc32c `expected` in the map. -ESTALE when it changed meanwhile (nothing to repair).
 */
struct store_repair {
	struct store_op op;
	uint64_t address_blocks;
	uint32_t expected_crc32c;
	const void *buf; /* 4096-aligned block */
};
void store_repair(struct store_replica *replica, struct store_repair *repair);

/*
 * The first chunk at or after chunk_cursor whose committed state has a version above since_seq:
 * a walk of the map's parents and deltas. Fills the chunk's state as of commit_seq (out). No more:
 * -ENODATA, and commit_seq says as of when. Zeros of entries up to settled_seq may be left out. The
 * payload is then read with store_read; a changed block shows by its crc.
 */
struct store_changes {
	struct store_op op;
	uint64_t since_seq;
	uint64_t chunk_cursor;
	uint64_t chunk;      /* out */
	uint64_t commit_seq; /* out: every committed entry up to here is in the state */
	uint32_t crc32c[STORE_CHUNK_BLOCKS];
	uint8_t block_state[STORE_CHUNK_BLOCKS];
};
void store_changes(struct store_replica *replica, struct store_changes *changes);

/*
 * Shadow resync (docs/disk-format.md, "Shadow"). begin: a hidden node above the replica's committed
 * map (its own tail above K stays outside); the live stream then starts at `first_seq` with
 * `prev_hash` and goes in with append.shadow. fill: the state of one chunk as of `at_seq`: per block
 * the higher seq wins. drop: back to the old state. After a restart a shadow is dropped.
 * -ENOSPC when there is no room; -EBUSY when one is under way; -EUCLEAN (of each call) when the map was found
 * damaged since open.
 */
struct store_shadow {
	struct store_op op;
	uint64_t epoch;     /* P must be this */
	uint64_t first_seq; /* the live stream's first entry */
	uint64_t prev_hash;
	uint64_t size_blocks; /* of the volume before first_seq; 0: as the replica knows it */
	uint64_t
		settled_seq; /* of what it is filled from; becomes the replica's when that is higher */
};
void store_shadow_begin(struct store_replica *replica, struct store_shadow *shadow);
void store_shadow_drop(struct store_replica *replica, struct store_op *op);

struct store_fill {
	struct store_op op;
	uint64_t at_seq;
	uint64_t address_blocks;
	uint32_t length_blocks;     /* within one chunk */
	const uint32_t *crc32c;     /* per block */
	const uint8_t *block_state; /* ZERO or DATA per block */
	const void *buf; /* 4096-aligned; payload of the DATA blocks, at their position */
};
void store_shadow_fill(struct store_replica *replica, struct store_fill *fill);

/* ---- housekeeping ---- */

/* A checkpoint now (tests, clean stop, admin). Joins one that is under way and not yet cut. */
void store_checkpoint(struct store *store, struct store_op *op);

/* Offline, read-only: walks everything; one line per finding to `report`. 0 when clean, -EUCLEAN with
 * the count in *findings otherwise. Inside a coroutine. deep: reads every payload too. */
int store_check(struct co *co, struct env *env, const char *path, bool deep,
		void (*report)(void *ctx, const char *line), void *ctx, uint64_t *findings,
		struct err *err);
/* Offline: prints superblock, roots, volumes, ring records as text lines. Inside a coroutine. */
int store_dump(struct co *co, struct env *env, const char *path,
	       void (*line)(void *ctx, const char *line), void *ctx, struct err *err);

#endif
