/* SPDX-License-Identifier: Apache-2.0 */
/* Private to replication/coordinator*.c and sync.c. */
#ifndef HF_REPLICATION_COORDINATOR_IMPL_H
#define HF_REPLICATION_COORDINATOR_IMPL_H

#include "base/bufpool.h"
#include "base/co.h"
#include "replication/coordinator.h"
#include "store/store.h"

#define WINDOW_SEQ_MAP     4096u /* power of two, above any window_entries */
#define WINDOW_ENTRIES_MAX 2048u
#define READ_SLOTS         128u
#define COMMIT_IDLE_NS     5000000ull
#define LEASE_POLL_NS      10000000ull
#define SYNC_BATCH         16u /* entries read or staged at once by a resync */

struct member;

struct window_send {
	struct link_send out;
	struct window_entry *entry;
	bool busy;
};

/* One log entry, from the moment it has a seq until the window needs its slot. */
struct window_entry {
	struct list link; /* free, or in seq order */
	struct coordinator *co;
	struct log_entry entry;
	uint64_t hash; /* after it */
	void *payload; /* bufpool, payload_bytes */
	uint32_t payload_bytes;
	uint32_t sends_out;
	struct coordinator_request *request; /* NULL when completed */
	struct window_send sends[COORDINATOR_REPLICAS_MAX];
	struct {
		struct wire_entry wire;
		le32 crcs[STORE_ENTRY_BLOCKS_MAX];
	} body;
	uint32_t crc32c[STORE_ENTRY_BLOCKS_MAX];
	uint32_t body_bytes;
};

struct member {
	struct coordinator *co;
	uint32_t index;
	struct coordinator_member info;
	struct peer *peer;
	struct peer_session session;
	enum replica_state state;
	bool attached, up, promised, bulk_ready, adopted;
	/* as of PROMISE, then followed */
	uint64_t log_epoch, last_seq, last_hash, commit_seq, commit_hash, floor_seq;
	bool suspect;
	uint64_t suspect_after; /* below last_seq: not its log but its map is damaged */
	uint64_t free_blocks, size_blocks;
	uint64_t checkpoint_seq; /* its K never falls below it; 0: not known yet */
	uint64_t settled_seq;    /* what an earlier coordinator told it */
	uint64_t acked_seq;      /* stable there, in our epoch's log */
	uint64_t acked_max;      /* the highest ever: less on return means lost data */
	/* stream */
	bool streaming, stream_shadow;
	uint64_t next_seq; /* next entry to send */
	uint64_t sent_seq; /* the highest that the pump sent into its log in this life */
	uint64_t stop_seq; /* pump no further (shadow adoption) */
	uint64_t inflight_bytes;
	uint64_t shadow_acked;
	/* prepare, resync */
	struct peer_request prepare_request;
	struct wire_prepare prepare_body;
	bool prepare_busy;
	uint32_t prepare_life; /* of which life the PREPARE under way asks */
	struct env_timer retry;
	struct co *sync;
	struct env_timer
		sync_timer; /* starts the coroutine on a turn of its own, and ends a wait of it */
	bool sync_wanted, sync_waiting;
	uint32_t life, sync_life; /* each connection and PREPARE is a new life; the coroutine's */
	uint32_t sync_batch;      /* halved while buffers are short */
	uint32_t source_turn;     /* the next attempt asks another source */
	int retry_told;           /* the failure that people heard of */
	bool refill;              /* lost data: counts only after a full shadow (PROTO-9) */
	int stream_error;
	struct sync_job *job; /* sync.c */
	uint64_t resync_bytes, resync_chunks_done, resync_chunks_total, resync_bytes_last;
	struct link_send commit_out;
	struct wire_commit commit_body;
	bool commit_busy;
	uint64_t bad_block; /* the last block that was bad there */
	/* of reads: D4 */
	bool is_local; /* on this machine */
	uint32_t reads_out;
	uint64_t read_ns;       /* how long they take, smoothed; 0: not known yet */
	uint64_t read_moved_ns; /* when it was last asked after a pause, or answered */
	char note[96];
};

struct read_slot {
	struct list link;
	struct coordinator *co;
	struct peer_request request;
	struct wire_read body;
	struct coordinator_request *io;
	struct member *member;
	uint32_t tried;           /* bit per member */
	uint32_t bad_member_bits; /* of these: their copy is bad */
	uint64_t barrier_seq;     /* the data may hold this write: answered when it is committed */
	uint64_t sent_ns;
};

struct repair_slot {
	struct coordinator *co;
	struct peer_request request;
	struct wire_repair body;
	void *buf;
	bool busy;
	uint64_t block;
	struct member *member;
};

struct coordinator {
	struct env *env;
	struct peers *peers;
	struct coordinator_meta meta;
	struct coordinator_config config;
	struct coordinator_volume volume;
	uint64_t epoch;
	bool taken, open, ended, stopping, have_quorum;
	uint32_t quorum;
	struct member members[COORDINATOR_REPLICAS_MAX];
	uint32_t member_count;
	/* log */
	uint64_t last_seq, last_hash, commit_seq, commit_hash;
	uint64_t size_issued;                   /* of the volume, with every entry of the log */
	uint64_t open_log_epoch, open_last_seq; /* what the open settled on */
	uint64_t settled_seq; /* every voter's checkpoint_seq is at or above it (PROTO-16) */
	struct member *open_source;
	struct window_entry *window;
	uint32_t window_fresh, window_count;  /* slots ever used; configured number */
	struct list window_free, window_used; /* used: seq order */
	struct window_entry *by_seq[WINDOW_SEQ_MAP];
	struct bufpool *bufs;
	uint64_t idle_seq;          /* last_seq at the last coordinator_idle() */
	struct list writes_waiting; /* requests: no slot, or not open */
	struct list reads_waiting;  /* overlap, no slot, or no source */
	struct list flushes;
	struct list lease_waiting; /* read slots whose data waits for a lease */
	struct list read_free;
	struct read_slot *read_slots;
	uint32_t reads_out, requests_out;
	struct member *reader; /* D4: whom reads are asked of */
	struct repair_slot repairs[4];
	struct env_timer kick; /* re-examines waiting lists */
	struct env_timer commit_timer;
	struct env_timer lease_timer;
	struct env_timer quorum_timer;
	struct co *opener;
	struct env_timer opener_timer;
	bool opener_waiting;
	int meta_status;
	bool meta_done;
	struct list verifies;
	struct co *verifier;
	bool verifier_waiting;
	void *verify_job;      /* verify.c */
	uint64_t verify_chunk; /* writes to this chunk wait; UINT64_MAX: none */
	const struct coordinator_request *verify_write; /* but for this one: a repair's */
	void (*shutdown_done)(void *ctx);
	void *shutdown_ctx;
	struct coordinator_info counters;
};

/* coordinator.c */
void coordinator_event(struct coordinator *co, const char *event, const char *format, ...)
	PRINTF_LIKE(3, 4);
void coordinator_end(struct coordinator *co, int status, const char *reason);
void coordinator_kick(struct coordinator *co);
void coordinator_quorum_check(struct coordinator *co);
void coordinator_quorum_timer(struct coordinator *co);
void coordinator_shutdown_check(struct coordinator *co);

/* coordinator_open.c */
void opener_run(struct co *self, void *arg); /* the coroutine that opens the volume */
void opener_fire(struct env_timer *timer);
void coordinator_wake_opener(struct coordinator *co);

/* coordinator_member.c */
void members_attach(struct coordinator *co);
/* Ends the sessions and what would start one again; coroutines that wait look at once. */
void members_detach(struct coordinator *co);
/* A call of ours is with a member, or its coroutine runs. */
bool members_busy(const struct coordinator *co);
void member_state(struct member *m, enum replica_state state, const char *note);

/* coordinator_write.c */
void write_submit(struct coordinator *co, struct coordinator_request *request);
bool write_try(struct coordinator *co, struct coordinator_request *request);
void member_pump(struct member *m);
void member_ack(struct member *m, const struct wire_ack *ack);
void commit_advance(struct coordinator *co);
struct window_entry *window_find(struct coordinator *co, uint64_t seq);
bool window_overlaps(struct coordinator *co, uint64_t above_seq, uint64_t upto_seq,
		     uint64_t address_blocks, uint64_t length_blocks);
bool window_evict(struct coordinator *co);
void commit_fire(struct env_timer *timer);

/* coordinator_read.c */
void read_submit(struct coordinator *co, struct coordinator_request *request);
bool read_try(struct coordinator *co, struct coordinator_request *request);
bool member_readable(const struct member *m, uint64_t address_blocks, uint64_t length_blocks);
void lease_fire(struct env_timer *timer);
/* Reads whose data has come and may not be answered yet. */
void lease_waiting_fail(struct coordinator *co, int status);
/* Of these: how many wait for leases, and not for a commit. */
uint32_t reads_held(const struct coordinator *co);
void reads_fail_all(struct coordinator *co, int status);

/* sync.c, sync_shadow.c: one coroutine per member brings it into the stream */
void sync_start(struct member *m);
void sync_wake(struct member *m);
void sync_free(struct member *m);

/* verify.c */
void verify_free(struct coordinator *co);

#endif
