/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The coordinator: the one process that may write a volume under an epoch.
 *
 * Takes the volume by compare-and-swap, gets promises of a quorum, settles the log (ADOPT), then
 * serves ordered quorum writes and checked reads, and brings lost replicas back. reliability.md
 * 2.2-2.8 is the protocol, docs/protocol.md says how it is done here.
 *
 * C1  A write is acknowledged when entries 1..seq are stable on a quorum of voters.
 * C2  Nothing is served before a quorum has ADOPT(epoch) and opened_epoch is recorded.
 * C3  A read is answered from a replica that holds every committed entry that overlaps it, never while an
 *     overlapping write is uncommitted, and only while leases of voters - q + 1 voters hold after the
 *     data was read.
 * C4  A refused or superseded epoch stops everything: every pending and later request ends -ESHUTDOWN.
 * C5  What a slow or absent replica needs never delays the others.
 */
#ifndef HF_REPLICATION_COORDINATOR_H
#define HF_REPLICATION_COORDINATOR_H

#include "base/env.h"
#include "replication/peers.h"

struct coordinator;

#define COORDINATOR_REPLICAS_MAX 8 /* voters (up to 5) and learners */

enum replica_state {
	REPLICA_DOWN,      /* no connection */
	REPLICA_PREPARING, /* connected, no promise yet */
	REPLICA_SYNCING,   /* catching up: log stream, staged tail or shadow */
	REPLICA_LIVE,      /* in the stream; shown as primary (serves reads) or secondary */
	REPLICA_LOST,      /* may not count: store failed, blank, or positions went back */
};

struct coordinator_member {
	struct uuid replica_uuid, store_uuid, node_uuid;
	char node_name[64];
	char address[108]; /* env address of the node */
	bool voter;
};

struct coordinator_volume {
	struct uuid volume_uuid;
	char name[64];
	uint64_t size_blocks;
	uint32_t quorum; /* rf / 2 + 1 */
	/* 0: without quorum, or before the open, I/O is held; else it fails with -EIO after that. */
	uint64_t no_quorum_timeout_ns;
	uint32_t member_count;
	struct coordinator_member members[COORDINATOR_REPLICAS_MAX];
};

/* What it needs from the metadata store; the caller (volmgr) implements it over meta.h. */
struct coordinator_meta {
	/* epoch := a new, higher one with us as coordinator; *volume as recorded. done later on the loop:
	 * 0 and epoch, or -errno (-EAGAIN: try again, -ESHUTDOWN: not ours any more). */
	void (*acquire)(void *ctx,
			void (*done)(void *ctx2, int status, uint64_t epoch,
				     const struct coordinator_volume *volume),
			void *ctx2);
	/* opened_epoch := epoch, if epoch is still the volume's. */
	void (*opened)(void *ctx, uint64_t epoch, void (*done)(void *ctx2, int status), void *ctx2);
	void *ctx;
};

struct coordinator_config {
	uint32_t window_entries; /* in flight or kept for laggards, default 1024 */
	uint64_t window_bytes;   /* default 64 MiB, lazily touched */
	uint64_t linger_ns;      /* PREPARE: wait for more than a quorum, default 250 ms */
	/* State for people: opened, lost quorum, replica transitions. May be NULL. */
	void (*event)(void *ctx, const char *event, const char *text);
	/* C4 happened, or the open failed for good: the caller shuts it down. */
	void (*ended)(void *ctx, int status, const char *reason);
	void *ctx;
};
void coordinator_config_default(struct coordinator_config *config);

/* Starts taking the volume at once; requests submitted before it is open wait. NULL: out of memory. */
struct coordinator *coordinator_create(struct env *env, struct peers *peers,
				       const struct coordinator_meta *meta,
				       const struct coordinator_config *config);
/* Ends at once (flush first for a clean stop): what is pending ends -ESHUTDOWN; done, possibly within the
 * call, when nothing refers to it any more. Bounded by the time-outs of the calls that are out. */
void coordinator_shutdown(struct coordinator *coordinator, void (*done)(void *ctx), void *ctx);
void coordinator_destroy(struct coordinator *coordinator);

/* To be called every few seconds: when nothing was written since the last call and every replica
 * that is there has everything, the memory of the window goes back to the kernel. */
void coordinator_idle(struct coordinator *coordinator);

enum coordinator_op {
	COORDINATOR_READ,
	COORDINATOR_WRITE,
	COORDINATOR_ZERO,  /* discard, write-zeroes; any length */
	COORDINATOR_FLUSH, /* completes when every write acknowledged or submitted before it is */
	COORDINATOR_EXTENTS,
	COORDINATOR_RESIZE, /* address_blocks: the new size */
};

struct coordinator_extent {
	uint64_t length_blocks;
	bool data;
};

/* Embedded; no allocation. The payload may be reused when done runs (the window keeps a copy). */
struct coordinator_request {
	enum coordinator_op op;
	uint64_t address_blocks;
	uint64_t length_blocks;  /* READ, WRITE: 1..256 */
	const struct iovec *iov; /* READ, WRITE: 4096-multiple pieces, any alignment */
	uint32_t iov_count;
	struct coordinator_extent *extents; /* EXTENTS: out */
	uint32_t extents_max, extents_count;
	/* 0, -EIO (bad on every replica: bad_block), -ENOSPC, -EINVAL, -ESHUTDOWN. */
	void (*done)(struct coordinator_request *request, int status);
	uint64_t bad_block;
	/* internal */
	struct list link;
	uint64_t deadline_ns;
	uint64_t barrier_seq;
};
/* Overlapping writes keep their order of submission. done never runs inside. */
void coordinator_submit(struct coordinator *coordinator, struct coordinator_request *request);

struct coordinator_replica_info {
	struct coordinator_member member;
	enum replica_state state;
	bool primary;
	uint64_t log_epoch, last_seq, commit_seq;
	uint64_t lag_entries;
	uint64_t resync_bytes, resync_chunks_done, resync_chunks_total; /* current or last resync */
	uint64_t resync_bytes_last; /* moved by the last finished one */
	uint64_t free_blocks;
	bool suspect;  /* rot in its log: it votes no absence and is no source */
	char note[96]; /* why it is not live */
};
struct coordinator_info {
	uint64_t epoch, last_seq, commit_seq;
	uint64_t size_blocks;
	bool open, quorum; /* quorum: that many voters are live */
	uint32_t quorum_size;
	uint64_t no_quorum_timeout_ns;
	uint32_t reads_held; /* their data has come, and leases are missing (PROTO-7) */
	uint32_t replica_count;
	struct coordinator_replica_info replicas[COORDINATOR_REPLICAS_MAX];
	uint64_t reads, writes, read_blocks, write_blocks, repairs, read_retries, crc_errors;
};
void coordinator_info(const struct coordinator *coordinator, struct coordinator_info *ret);

/*
 * Compares all voters chunk by chunk: each reads and checks its payloads; crcs and states are
 * compared while writes to that chunk wait. With `repair` what is bad is rewritten from a good
 * copy, the one that most replicas have. finding is called for each bad block: of what a repair
 * healed, too, as `repaired`. done: 0 all equal (now), -EUCLEAN differences found (or left),
 * -EAGAIN a replica was not there to compare for 10 s, -ECANCELED, -ESHUTDOWN.
 */
struct coordinator_verify {
	void (*finding)(struct coordinator_verify *verify, const struct coordinator_member *member,
			uint64_t block, const char *what);
	void (*done)(struct coordinator_verify *verify, int status);
	bool repair;
	const char *node; /* only what is bad on this node; NULL: on any */
	uint64_t chunks_done, chunks_total, findings, repaired; /* progress, out */
	bool cancel; /* set by the owner to end early: seen within 10 s */
	struct list link;
};
void coordinator_verify(struct coordinator *coordinator, struct coordinator_verify *verify);

#endif
