/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inside of one store: the objects that store/'s files share. store/README.md tells the story.
 *
 * Who owns what: ring.c the batches and the ring's positions; accept.c what may be logged and in
 * which order; replica.c a replica's state and how a stable record changes it (the same
 * functions at run time and in recovery); read.c reads; query.c the jobs that walk the map;
 * bulk.c payloads written ahead of their record; checkpoint.c the roots; recover.c the way back.
 */
#ifndef HF_STORE_INTERNAL_H
#define HF_STORE_INTERNAL_H

#include "base/co.h"
#include "base/env.h"
#include "store/entry_pool.h"
#include "store/desc.h"
#include "store/device.h"
#include "store/format.h"
#include "store/map.h"
#include "store/space.h"
#include "store/store.h"

#define BATCH_RECORDS_MAX        192u
#define BATCH_PAYLOAD_BLOCKS_MAX 256u /* one entry of the largest size */
#define BATCH_IOS_MAX            (BATCH_PAYLOAD_BLOCKS_MAX + BATCH_PAYLOAD_BLOCKS_MAX / ENV_IO_IOV_MAX + 4u)
#define BATCH_IOVS_MAX           (2u * BATCH_PAYLOAD_BLOCKS_MAX + 4u)
#define SEAL_DELAY_NS            (5ull * 1000 * 1000)
#define CHECKPOINT_RING_BYTES    (48ull << 20)
#define ENTRY_BYTES_USUAL        160u /* pool cell of a one-block entry */
#define READS_MAX                128u
#define READ_IOS                 32u
#define BULKS_MAX                8u
#define COPY_BLOCKS              256u /* checkpoint's and recovery's buffer */

/* ---- entries: records of a volume's log, of a staged tail, of a shadow; base fills ---- */

#define ENTRY_INLINE  1u /* its places are ring blocks */
#define ENTRY_CUT     2u /* in the tail of the checkpoint that runs */
#define ENTRY_DEAD    4u /* dropped while CUT: freed when the checkpoint ends */
#define ENTRY_STAGED  8u
#define ENTRY_SHADOW  16u
#define ENTRY_REWRITE 64u /* recovery: its payload was read, not proven durable */
#define ENTRY_HEAP    32u /* from malloc: recovery, when the pool is out */

struct entry {
	struct list link;     /* of its log, staged tail, fills; or issued_entries until stable */
	struct list cut_link; /* checkpoint's tail, while ENTRY_CUT */
	struct store_replica *replica;
	uint64_t epoch;
	uint64_t seq;
	uint64_t prev_hash;
	uint64_t hash;
	uint64_t commit_seq;
	uint64_t time_ms;
	uint64_t address_blocks;
	uint64_t length_blocks;
	uint64_t stage_epoch;
	uint64_t ticket; /* order of issue among all operations of the store */
	uint8_t op;
	uint8_t log_flags; /* LOG_FLUSH_MARK */
	uint8_t state;     /* ENTRY_* */
	uint8_t cut_flags; /* record flags at the cut, while CUT */
	uint16_t crc_count;
	uint16_t extent_count;
	/* uint32_t crcs[crc_count], padded to 8; uint64_t extents[data blocks]; FILL: 32 bytes bitmap */
};

static inline uint32_t *entry_crcs(struct entry *e)
{
	return (uint32_t *)(e + 1);
}
static inline uint64_t *entry_extents(struct entry *e)
{
	return (uint64_t *)((char *)(e + 1) + ALIGN_UP((size_t)e->crc_count * 4, 8));
}
/* FILL only: one bit per block, after the extents (one per block at most). */
static inline uint8_t *entry_bitmap(struct entry *e)
{
	return (uint8_t *)(entry_extents(e) + e->crc_count);
}
static inline struct entry *entry_of(struct list *link)
{
	return CONTAINER_OF(link, struct entry, link);
}
static inline bool entry_overlaps(const struct entry *e, uint64_t address, uint64_t length)
{
	return (e->op == LOG_WRITE || e->op == LOG_ZERO) && e->address_blocks < address + length &&
	       address < e->address_blocks + e->length_blocks;
}

/* ---- replicas ---- */

struct replica_log {
	struct list entries;     /* stable: (floor_seq, last_seq], in order */
	struct list *apply_next; /* first that is not in the map; &entries when there is none */
	uint64_t floor_seq;
	uint64_t applied_seq; /* the map holds everything up to here */
	uint64_t applied_hash;
	uint64_t last_seq;
	uint64_t last_hash;
	uint64_t commit_target; /* K as told; what counts is min(commit_target, last_seq) */
};

/* What has been accepted, ahead of what is stable. */
struct replica_issued {
	uint64_t promised;
	uint64_t log_epoch;
	uint64_t last_seq;
	uint64_t last_hash;
	uint64_t size_blocks;
	uint64_t
		staged_base; /* staged tail: (staged_base, staged_last] of stage_epoch; equal: none */
	uint64_t staged_last;
	uint64_t staged_hash;
	uint64_t shadow_epoch;
	uint64_t shadow_last;
	uint64_t shadow_hash;
	bool shadow;                 /* begun and not ended */
	uint32_t fills;              /* accepted and not yet in the map */
	uint64_t staged_size_blocks; /* by the last staged resize; 0: none */
	uint64_t shadow_size_blocks; /* with every entry of the shadow */
};

struct store_replica {
	struct store *store;
	struct store_replica_spec spec; /* size_blocks: with every stable entry */
	uint32_t slot;
	uint32_t head_node;
	uint32_t shadow_node;
	struct map *map;
	uint64_t promised;
	uint64_t log_epoch;
	uint64_t applied_size_blocks;
	struct replica_log head;
	struct replica_log shadow;
	struct list staged; /* entries of one staged tail */
	struct list fills;  /* stable base fills that wait for delta memory */
	bool shadow_on;
	bool suspect;
	bool deleting; /* RECORD_DELETE is stable: the handle is dead */
	bool closing;  /* delete was called */
	bool trimmed;  /* nothing of a deleted one is left: leaves the table at the next root */
	bool in_cut;   /* in the table of the checkpoint that runs */
	bool deleting_at_cut;
	bool head_frozen; /* a shadow is on, or about to be: nothing commits to the head */
	bool lost;        /* its index is rotten: nothing enters the map or folds in this life */
	bool trim_wanted; /* a dropped shadow's or an old head's pages are to be freed */
	uint64_t suspect_after;
	uint64_t suspect_until;
	uint64_t loss_first_block; /* hull of what entries behind the hole wrote; equal: none known
				    */
	uint64_t loss_end_block;
	uint64_t shadow_epoch;
	uint64_t shadow_fill_seq; /* highest at_seq of a fill */
	uint64_t lease_boot_id;
	uint64_t lease_term_ns;
	uint64_t checkpoint_seq;
	uint64_t settled_seq;
	uint64_t cut_applied_seq; /* applied_seq at the cut of the checkpoint that runs */
	uint64_t cut_shadow_seq;  /* the same of the shadow's log */
	uint64_t shadow_size_blocks;
	bool visible; /* RECORD_CREATE is stable */
	struct replica_issued issued;
	struct list issued_entries;        /* accepted, not stable */
	struct list reads_waiting;         /* struct read_job */
	struct entry *log_cursor;          /* last one that store_log_read found */
	uint32_t tail_count;               /* entries that no checkpoint can fold yet */
	uint32_t jobs;                     /* reads and queries under way */
	struct store_op *delete_op;        /* waits for jobs to end */
	struct store_shadow *shadow_begin; /* waits for its checkpoint */
	struct store_op shadow_checkpoint;
	uint64_t loaded_last_seq; /* recovery: L of the table, which the tail must reach */
	bool hole;                /* recovery: records beyond a hole are not taken */
	bool gap_open;            /* recovery: records of it may have been lost in a rotten batch */
};

/* It may lack committed entries: lost, or an earlier life said so. What rot took from a log is behind its end instead. */
static inline bool replica_map_damaged(const struct store_replica *r)
{
	return r->lost || (r->suspect && r->suspect_after < r->head.last_seq);
}

/* ---- operations ---- */

enum op_kind {
	OP_APPEND = 1,
	OP_CREATE,
	OP_DELETE,
	OP_PROMISE,
	OP_ADOPT,
	OP_LEASE,
	OP_ACCEPT_LOSS,
	OP_SHADOW_BEGIN,
	OP_SHADOW_DROP,
	OP_FILL,
	OP_REPAIR,
	OP_CHECKPOINT,
	OP_READ,
	OP_LOG_READ,
	OP_EXTENTS,
	OP_CHANGES,
};

struct op_private {
	uint8_t kind;
	bool aborted; /* its replica goes away */
	int status;
	uint64_t ticket;
	struct entry *entry; /* APPEND, FILL: accepted */
	void *aux;           /* FILL, REPAIR: struct bulk */
	uint64_t number;     /* batch that carries it; CHECKPOINT: the one it waits for */
};
static_assert(sizeof(struct op_private) <= sizeof(((struct store_op *)0)->internal), "op room");

static inline struct op_private *op_private(struct store_op *op)
{
	return (struct op_private *)op->internal;
}
static inline struct store_op *op_of(struct list *link)
{
	return CONTAINER_OF(link, struct store_op, link);
}

/* ---- batches (ring.c) ---- */

struct batch {
	struct store *store;
	uint64_t number;
	uint64_t position;
	uint64_t end_position;
	uint64_t durable_prefix;
	enum batch_state {
		BATCH_IDLE,
		BATCH_WRITING,
		BATCH_WRITTEN,  /* waits for a flush to begin */
		BATCH_FLUSHING, /* written before the flush under way began */
		BATCH_DURABLE,
	} state;
	bool dsync; /* its one write is its durability point */
	uint32_t ios_pending;
	uint32_t io_count;
	uint32_t iov_count;
	uint32_t desc_count;
	uint32_t payload_blocks;
	bool is_inline;
	struct list ops;
	char *desc; /* DESC_BLOCKS_MAX blocks */
	struct batch_io {
		struct device_io dio;
		struct batch *batch;
	} * ios;
	struct iovec *iovs;
};

/* ---- reads (read.c) ---- */

struct read_job {
	struct list link;        /* free list, queue, reads_waiting */
	struct list active_link; /* store->reads_active, in order of begin */
	struct store *store;
	struct store_op *op;
	struct store_replica *replica;
	uint64_t ring_pinned; /* store->ring_start when it began */
	uint64_t token;
	bool in_call;   /* inside the call that submitted it: done() must wait */
	bool committed; /* of the map alone */
	uint64_t address_blocks;
	uint32_t length_blocks;
	void *buf;
	uint32_t *crcs;  /* out */
	uint8_t *states; /* out */
	uint32_t attempt;
	uint32_t next_block;
	uint32_t ios_pending;
	uint32_t bad_count;
	struct map_lookup lookup;
	struct map_version versions[STORE_READ_BLOCKS_MAX]; /* of the blocks, once resolved */
	struct map_version tail[STORE_READ_BLOCKS_MAX]; /* from entries that are not in the map */
	uint8_t in_tail[STORE_READ_BLOCKS_MAX];
	uint8_t own_states[STORE_READ_BLOCKS_MAX]; /* log reads: nobody asks for them */
	struct read_io {
		struct device_io dio;
		struct iovec iov;
		struct read_job *job;
		uint32_t first_block;
		uint32_t length_blocks;
		bool busy;
	} ios[READ_IOS];
};

/* ---- payloads written ahead of their record (bulk.c) ---- */

struct bulk {
	struct list link;
	struct store *store;
	struct store_op *op;
	uint32_t ios_pending;
	uint32_t extent_count;
	bool busy;
	uint64_t old_place; /* REPAIR */
	uint64_t extents[STORE_ENTRY_BLOCKS_MAX];
	bool wants_flush;
	struct bulk_io {
		struct device_io dio;
		struct iovec iov;
		struct bulk *bulk;
	} ios[STORE_ENTRY_BLOCKS_MAX + 1];
};

/* ---- the store ---- */

/* Places of table blocks. */
struct place_list {
	uint64_t *places;
	uint32_t count, max;
};

/* A table being written front to back. */
struct table_writer {
	struct store *store;
	struct co *co;
	enum table_kind kind;
	char *block;
	struct place_list *places; /* of its blocks */
	uint32_t used_bytes;
	uint32_t count;
	struct block_ptr last; /* none: nothing written yet */
	int status;
};

/* The run table (runs.c). */
struct runs {
	struct map_runs sink; /* where the maps' entries go */
	struct table_writer writer;
	char *block;
	struct block_ptr last;                /* of the chain */
	struct place_list places;             /* of the chain */
	uint64_t entries;                     /* of the chain */
	struct map *maps[STORE_REPLICAS_MAX]; /* of the checkpoint that runs */
};

struct checkpoint {
	struct co *co;
	bool running;  /* past its cut, not yet durable */
	bool idle;     /* the coroutine waits for work */
	bool stopping; /* leave the coroutine */
	bool stopped;
	struct env_timer timer;
	bool fold_all;  /* space is short: the checkpoint that runs keeps nothing out of pages */
	bool destaging; /* tail entries with ring places may not enter the map */
	uint64_t requested; /* checkpoint numbers: wanted up to here */
	uint64_t number;    /* of the one that runs, or ran last */
	uint64_t completed;
	uint64_t cut_prefix;
	uint64_t cut_position;
	struct list waiters; /* store_op */
	struct list tail;    /* entries by cut_link */
	uint64_t tail_count;
	struct volume_entry *volumes; /* by slot */
	char *copy;                   /* COPY_BLOCKS blocks */
	char *block;                  /* 4 blocks: table being built, root */
	struct device_io dio;
	struct iovec iov;
	/* tables of the durable root, to be released by the next; the run table is none of them */
	struct place_list tables, tables_next;
	struct runs runs;
};

struct query {
	struct co *co;
	bool idle;
	bool stopping;
	bool stopped;
	struct list queue; /* store_op */
	struct map_version versions[STORE_CHUNK_BLOCKS];
	struct map_lookup lookup;
	struct env_timer timer;
	bool lookup_done;
	int lookup_status;
	bool busy;        /* inside a job */
	bool waiting;     /* suspended in a lookup */
	uint32_t repairs; /* stable, not yet in the map: a checkpoint's cut waits for them */
};

struct store {
	struct env *env;
	struct env_disk *disk;
	struct device device;
	struct store_config config;
	struct superblock *super; /* one block */
	bool super_dirty;         /* the bad-block list grew */
	uint32_t ring_bad;        /* its entries that are ring blocks: the first ones */
	struct uuid uuid;
	uint64_t size_blocks;
	uint64_t ring_blocks;
	uint64_t data_start;
	uint64_t incarnation;
	uint64_t salt;
	uint64_t root_generation; /* newest durable */
	uint32_t node_next;
	bool open; /* recovery is over: operations are taken */
	bool closing;
	struct space *space;
	struct map_pool *pool;
	struct entry_pool entries;
	uint32_t entry_count;
	struct store_replica *slots[STORE_REPLICAS_MAX];
	uint32_t slot_end; /* all in use are below */
	uint32_t replica_count;
	uint32_t tail_count;

	bool failed;
	int failed_status;
	const char *failed_what;
	bool hold; /* recovery: nothing enters a map before every place in the ring is claimed */
	struct env_timer fail_timer;

	uint64_t ticket_next;
	struct list incoming;    /* issued, not accepted: first in, first out */
	struct list waiting;     /* accepted: waits for a batch */
	struct list unwitnessed; /* stable, waits for its witness; in order of batch */
	struct list finished;    /* done() is due */
	struct env_timer run_timer;
	struct env_timer finish_timer;
	struct env_timer seal_timer;
	uint64_t
		reserved_blocks; /* accepted payload that is in no stable batch and has no place yet */
	uint64_t
		inline_active; /* stable payload in the ring since the last cut: will need a place */
	uint64_t inline_cut;   /* the same of the checkpoint that runs */
	bool seal_now;

	struct batch batches[BATCHES_IN_FLIGHT_MAX];
	struct device_io batch_flush; /* ring.c, R5 */
	bool batch_flush_busy;
	uint32_t in_flight;
	uint64_t ring_head;  /* logical position where the next batch may start */
	uint64_t ring_start; /* the durable root needs the ring from here */
	uint64_t stable_end; /* end of the last stable batch */
	uint64_t batch_next;
	uint64_t batch_stable;    /* last stable batch_no */
	uint64_t batch_witnessed; /* highest durable_prefix of a durable batch */
	uint64_t batch_real;      /* last batch that was no mere seal */
	uint64_t prefix_sent;     /* highest durable_prefix submitted */
	uint32_t prev_crc32c;

	struct list reads_active;
	struct list reads_free;
	struct list reads_queue; /* store_op: no job was free */
	struct read_job *read_jobs;

	struct list bulks_free;
	struct list bulks_queue; /* store_op */
	struct bulk *bulks;

	struct map_lookup admission; /* is the stalled head an overwrite? */
	struct map_version *admission_versions;
	bool admission_busy;
	bool admission_known;
	uint64_t admission_ticket; /* of the operation that it was asked for */
	struct store_replica *admission_replica;
	uint32_t admission_data_blocks;

	struct checkpoint checkpoint;
	struct query query;
	struct recovery *recovery; /* while it runs */
	char *table_chain;         /* blocks of the table being read */

	struct store_info counters; /* only the counters are used */
};

/* ---- store.c ---- */

/* P4: nothing is written any more; pending operations end with -EIO, config.failed is called. */
void store_fail(struct store *store, int status, const char *what);
/* Queues done(op, status) for the next turn. */
void op_finish(struct store *store, struct store_op *op, int status);
/* -EUCLEAN: the root on the device is not the newest, so nothing here may be believed. */
int store_lost(struct err *err, const char *how);
void store_disk_close(struct co *co, struct env *env, struct env_disk *disk);
void op_init(struct store_op *op, struct store_replica *replica, enum op_kind kind);
static inline uint64_t ring_physical(const struct store *store, uint64_t position)
{
	return PLACE_RING + position % store->ring_blocks;
}
static inline bool place_in_ring(const struct store *store, uint64_t place)
{
	return place < store->data_start;
}

/* ---- accept.c ---- */

/* Puts an operation at the end of the queue and sees to it soon. */
void op_submit(struct store *store, struct store_op *op);
/* Moves operations from incoming to waiting, refuses, or stalls at the head. */
void accept_run(struct store *store);
/* Something that stalls wait for has happened. */
void accept_kick(struct store *store);
/* Ends every operation of a replica that is not in a batch yet. */
void accept_abort(struct store_replica *replica);
uint64_t replica_hash_at(struct store_replica *replica, uint64_t seq, bool *found);

/* ---- ring.c ---- */

int ring_init(struct store *store);
void ring_free(struct store *store);
/* Forms and submits batches while there is something to write and room. */
void ring_run(struct store *store);
void ring_fail_all(struct store *store);
/* First position that may not be overwritten. */
uint64_t ring_reuse_start(const struct store *store);
uint64_t ring_used_blocks(const struct store *store);
/* Where a batch of so many blocks goes when the head is at `head`. */
uint64_t ring_place_batch(const struct store *store, uint64_t head, uint32_t blocks);

/* ---- replica.c: state, and what a stable record does to it ---- */

struct store_replica *replica_create(struct store *store, uint32_t slot,
				     const struct store_replica_spec *spec,
				     const struct map_root *root);
void replica_free(struct store_replica *replica);
struct entry *entry_create(struct store *store, uint32_t crc_count, uint8_t op, bool may_use_heap);
void entry_free(struct store *store, struct entry *entry);
/* Its places go back with the next root; the entry is freed (or DEAD while CUT). */
void entry_drop(struct store *store, struct entry *entry);
void replica_apply_append(struct store_replica *replica, struct entry *entry);
void replica_apply_promise(struct store_replica *replica, uint64_t epoch);
/* False: the staged tail or the shadow is not what the record says (rot before it). */
bool replica_apply_adopt(struct store_replica *replica, const struct log_record *record);
/* Its log is whole, as far as is known. Nothing about its map. */
void replica_suspicion_end(struct store_replica *replica);
void replica_apply_lease(struct store_replica *replica, uint64_t boot_id, uint64_t term_ns);
/* Ends the suspicion when it is of that range and no rot since then keeps it up. */
void replica_apply_accept_loss(struct store_replica *replica, uint64_t after, uint64_t until);
void replica_apply_delete(struct store_replica *replica);
int replica_apply_shadow_begin(struct store_replica *replica, const struct log_record *record);
void replica_apply_shadow_drop(struct store_replica *replica);
void replica_apply_fill(struct store_replica *replica, struct entry *fill);
/* Moves committed entries into the map, as far as delta memory and a running destage allow. */
void replica_advance(struct store_replica *replica);
void replica_issued_reset(struct store_replica *replica);
/* Drops a staged tail of an epoch that is not the promised one. */
void replica_staged_prune(struct store_replica *replica);
uint64_t log_commit_seq(const struct replica_log *log);
void log_init(struct replica_log *log, uint64_t seq, uint64_t hash);
/* Frees entries that the map holds, up to seq. */
void log_trim(struct store *store, struct store_replica *replica, struct replica_log *log,
	      uint64_t seq);
/* Fills the record of an entry. */
void entry_record(const struct entry *entry, struct log_record *ret);

/* ---- read.c, query.c, bulk.c ---- */

int read_init(struct store *store);
void read_free(struct store *store);
/* A record of the replica became stable (or was refused): waiting reads look again. */
void read_kick(struct store_replica *replica);
void read_fail_all(struct store *store);
void replica_job_end(struct store_replica *replica);

int query_init(struct store *store);
void query_free(struct store *store);
void query_submit(struct store *store, struct store_op *op);
void query_fail_all(struct store *store);

int bulk_init(struct store *store);
void bulk_free(struct store *store);
/* Allocates and writes the payload of a FILL or REPAIR; then the operation goes on with op_submit. */
void bulk_submit(struct store *store, struct store_op *op);
void bulk_release(struct store *store, struct bulk *bulk);
void bulk_fail_all(struct store *store);

/* No room for a write of the largest entry that replaces nothing: checkpoints fold all, for what that gives back. */
bool accept_room_short(struct store *store);

/* ---- checkpoint.c, table.c ---- */

int checkpoint_init(struct store *store);
void checkpoint_free(struct store *store);
/* Wants one whose cut is later than now; returns its number. */
uint64_t checkpoint_request(struct store *store);
/* Starts one when a bound is passed. */
void checkpoint_consider(struct store *store);
void checkpoint_start(struct store *store);
void checkpoint_fail_all(struct store *store);
/* The whole of a checkpoint, for its coroutine and for recovery. incarnation and salt of the root. */
int checkpoint_write(struct co *co, struct store *store, uint64_t incarnation, uint64_t salt);
/* One I/O of the checkpoint, recovery or a table. Refused when the store has failed. */
int store_io(struct co *co, struct store *store, enum env_io_op op, uint32_t flags, uint64_t place,
	     void *buf, uint32_t blocks);
/* The same without that: for the superblock and bad.c alone. */
int store_io_always(struct co *co, struct store *store, enum env_io_op op, uint32_t flags,
		    uint64_t place, void *buf, uint32_t blocks);

void table_begin(struct table_writer *w, struct co *co, struct store *store, enum table_kind kind,
		 char *block, struct place_list *places);
void table_add(struct table_writer *w, const void *bytes, uint32_t length_bytes);
/* 0 and *ret (none when empty), or the first error. */
int table_end(struct table_writer *w, struct block_ptr *ret);
/* Reads a chain; fn gets each block front to back, places is told where they are. -EUCLEAN: a block does not
 * match. */
int table_read(struct co *co, struct store *store, const struct block_ptr *last,
	       enum table_kind kind, struct place_list *places,
	       int (*fn)(void *ctx, const struct table_block *block), void *ctx, struct err *err);
/* For the root being built; the list is empty then. */
void place_list_unref(struct store *store, struct place_list *list);

/* ---- runs.c ---- */

int runs_init(struct store *store);
void runs_free(struct store *store);
/* Keeps and chooses: between the cut and the folds of a checkpoint. 0 or -errno. */
int runs_keep(struct co *co, struct store *store);
/* After the folds: the chain is whole, and the root names it. */
int runs_write(struct co *co, struct store *store, struct root *root);
struct replay;
int runs_load(struct replay *replay, const struct root *root);

/* ---- super.c ---- */

/* Reads the superblock and picks the root. -ENODEV, -EPROTO, -EUCLEAN, -EIO. */
int super_read(struct co *co, struct store *store, struct err *err);
/* Both copies, one after the other; 0 when one is durable at least. Also when the store has failed. */
int super_write(struct co *co, struct store *store);
int root_pick(struct co *co, struct store *store, struct root *ret, struct err *err);
/* Both copies of the newest root good and durable. */
int root_repair(struct co *co, struct store *store, const struct root *root);
int root_write(struct co *co, struct store *store, struct root *root);
uint64_t root_place(const struct store *store, uint32_t slot, uint32_t copy);

/* ---- bad.c: the bad-block list ---- */

/* After the space table is loaded: nothing on the list is handed out. -EIO: there is no going past it. */
int bad_load(struct store *store, struct err *err);
uint32_t bad_count(const struct store *store);
/* Where a batch of so many blocks at `position` must move to, which does not straddle the ring's end. */
uint64_t bad_ring_skip(const struct store *store, uint64_t position, uint32_t blocks);
/* A payload block cannot be read. */
void bad_read(struct store *store, uint64_t place);
/* What reads found is durable; before a root may free it. */
int bad_flush(struct co *co, struct store *store);
/* The store has failed and is quiet: finds out which blocks failed and notes them. */
void bad_after_failure(struct co *co, struct store *store);

/* ---- walk.c: the batches in the ring ---- */

struct walk {
	struct co *co;
	struct store *store;
	uint64_t incarnation;
	uint64_t salt;
	uint64_t root_generation;
	uint64_t position; /* where the next batch should be */
	uint64_t batch_no; /* its number */
	uint64_t limit;    /* no batch of this root ends beyond it */
	uint64_t prefix;   /* highest durable_prefix seen */
	uint32_t prev_crc32c;
	bool prev_known;
	char *window; /* COPY_BLOCKS blocks of the ring */
	uint64_t window_start;
	uint32_t window_blocks;
	const char *lost; /* a witness that the root is not the newest; NULL: none */
	/* the batch found */
	uint64_t found_position;
	uint64_t found_no;
	uint32_t desc_count;
	uint32_t batch_blocks;
	uint32_t record_bytes[DESC_BLOCKS_MAX];
	uint32_t record_count[DESC_BLOCKS_MAX];
	uint64_t time_ms;
	uint64_t durable_prefix;
	char *desc; /* DESC_BLOCKS_MAX blocks */
};

/* 0 or -ENOMEM. */
int walk_begin(struct walk *w, struct co *co, struct store *store, const struct root *root);
/* Starts over with what is known of the prefix. */
void walk_restart(struct walk *w, const struct root *root);
void walk_end(struct walk *w);
/*
 * The next batch. True: found_* and desc are it; *gap says that batches before it which were stable
 * are rotten. False: no more; *gap says that stable ones are missing at the end.
 */
bool walk_next(struct walk *w, bool *gap);
/* A ring block by logical position; zeros when it cannot be read. Valid until the next call. */
const char *walk_block(struct walk *w, uint64_t position);
/* Calls fn for each record of the batch found; stops at the first error. */
int walk_records(struct walk *w, int (*fn)(void *ctx, const struct log_record *record), void *ctx,
		 struct err *err);

/* ---- recover.c ---- */

int recover(struct co *co, struct store *store, struct err *err);
/* What a recovery that was killed left. */
void recover_free(struct store *store);

/* ---- replay.c: records on replicas ---- */

struct replay_repair {
	struct store_replica *replica;
	uint64_t block;
	uint64_t old_place;
	uint64_t new_place;
	uint32_t crc;
};
struct replay {
	struct co *co;
	struct store *store;
	struct walk *walk; /* NULL: tail table */
	bool above_prefix;
	bool gap_seen;
	struct replay_repair *repairs;
	uint32_t repair_count, repair_max;
	struct err *err;
};
int replay_load_tables(struct replay *replay, const struct root *root);
/* One record of the batch found (ctx is the replay). */
int replay_record(void *ctx, const struct log_record *record);
/* Batches that were stable are missing here: every replica has to prove that nothing of it was in them. */
void replay_gap(struct replay *replay);
/* Once all records are in: rewrites, enters maps, repairs, ends shadows, marks suspects. */
int replay_finish(struct replay *replay);

#endif
