/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The metadata interface: one small key-value store with etcd's semantics.
 *
 * Everything that a cluster must agree on (volumes, nodes, exports, events) is a key such as
 * /volumes/db1 with a value of bytes, and changes only by compare-and-swap transactions. The
 * callers are the same over LMDB (embedded), over a remote manager, over etcd, and in the
 * simulator; nothing above this header knows which.
 *
 *   revision      one counter per store, raised by 1 by each transaction that changes a key
 *   key           has create_revision, mod_revision, version (1 when created, +1 per put;
 *                 a key that was deleted starts again at 1) and the lease it is attached to
 *   transaction   if all compares hold do success[], else do failure[]; atomic, durable
 *   lease         has a time to live; when it is not kept alive its keys are deleted
 *   watch         delivers every change of a prefix, in order, none twice, none missing
 *
 * Rules (those of base/env.h carry over):
 *
 * M1  All calls and callbacks are on the thread of the env that the store was opened with.
 * M2  done() never runs inside the call; the env delivers it later, exactly once.
 * M3  Operations are embedded in the caller's objects. They and what they point to belong to the
 *     store until done(). Zero them before use; a finished one may be submitted again.
 * M4  Results (keys, values) are valid during done() only: copy what is to be kept.
 * M5  A transaction whose done() says 0 is durable and seen by every later operation.
 * M6  An outcome may be unknown: -ETIMEDOUT and -ECANCELED mean "applied, or not, or perhaps
 *     later". Read, then repeat with compares that make the repetition safe. Every other error
 *     means "not applied and never will be".
 * M7  Leases decide when to try something, never whether it is safe: safety comes from compares.
 *
 * Status of an operation:
 *   0            done (a transaction whose compares failed is done: see `succeeded`)
 *   -EINVAL      malformed: a key, a size, a duplicate key, a limit below
 *   -ENOENT      the lease is unknown or has expired
 *   -EAGAIN      the store cannot be reached; not applied; try again later
 *   -ETIMEDOUT   outcome unknown (M6)
 *   -ECANCELED   the handle was closed; outcome unknown (M6)
 *   -ESTALE      the history that a watch asked for was compacted; list again
 *   -ENOSPC      no room
 *   -ENOMEM      no memory
 *   -EIO         the store failed and must be reopened
 *   -EBADMSG     the store holds bytes that it never wrote
 */
#ifndef HF_VOLMGR_META_H
#define HF_VOLMGR_META_H

#include "base/env.h"

struct meta;

#define META_KEY_MAX          400        /* bytes; keys start with '/', hold no zero byte */
#define META_VALUE_MAX        (1u << 20) /* bytes, also the sum over one transaction */
#define META_TXN_OPS_MAX      128        /* compares, success and failure operations, each */
#define META_RANGE_LIMIT_MAX  1000       /* keys per page */
#define META_RANGE_BYTES_MAX  (4u << 20) /* a page ends early rather than exceed this */
#define META_LEASE_TTL_MIN_MS 100
#define META_LEASE_TTL_MAX_MS (24ull * 3600 * 1000)
#define META_LEASES_MAX       65536

struct meta_kv {
	const char *key; /* zero-terminated; NULL: there is no such key */
	const void *value;
	size_t value_bytes;
	int64_t create_revision;
	int64_t mod_revision;
	int64_t version;
	uint64_t lease_id; /* 0: none */
};

/* ---- requests ---- */

enum meta_kind {
	META_RANGE,
	META_TXN,
	META_LEASE_GRANT,
	META_LEASE_KEEPALIVE,
	META_LEASE_REVOKE,
	META_COMPACT,
};

/* The head of every operation; the fields are the back end's. */
struct meta_req {
	enum meta_kind kind;
	int status;
	struct list link;
	uint64_t due_ns;
	struct meta_result *result;
	uint32_t phase;
	uint32_t fate;
};

/* Reads one key, or a page of the keys that start with a prefix, in byte order. */
struct meta_range {
	struct meta_req req;
	/* in */
	const char *key;
	bool is_prefix;
	uint32_t limit; /* keys per page, 0 or above the maximum: META_RANGE_LIMIT_MAX */
	/* in and out: where the page starts, "" for the first. When `more` is set it is where the
	 * next page starts: submit the same operation again. Each page is a cut of its own; for a
	 * view without gaps, watch from the first page's revision + 1. */
	char continue_key[META_KEY_MAX + 1];
	/* out */
	bool more;
	int64_t revision; /* of the store when the page was read */
	const struct meta_kv *kvs;
	uint32_t kv_count;
	void (*done)(struct meta_range *op, int status);
};

enum meta_target { META_VERSION, META_CREATE_REVISION, META_MOD_REVISION, META_VALUE };
enum meta_relation { META_EQUAL, META_NOT_EQUAL, META_LESS, META_GREATER };

/* A key that does not exist has version 0, both revisions 0; a compare of its value fails. */
struct meta_compare {
	const char *key;
	enum meta_target target;
	enum meta_relation relation;
	int64_t number;    /* for the three numbers */
	const void *value; /* for META_VALUE: compared as bytes, then by length */
	size_t value_bytes;
};

enum meta_action { META_PUT, META_DELETE, META_DELETE_PREFIX, META_GET };

struct meta_do {
	enum meta_action action;
	const char *key;   /* no two puts or deletes of a branch may meet the same key */
	const void *value; /* META_PUT */
	size_t value_bytes;
	uint64_t lease_id; /* META_PUT: 0 detaches */
};

struct meta_txn {
	struct meta_req req;
	/* in */
	const struct meta_compare *compares;
	const struct meta_do *success;
	const struct meta_do *failure;
	uint32_t compare_count;
	uint32_t success_count;
	uint32_t failure_count;
	/* out */
	bool succeeded;   /* which branch was done */
	int64_t revision; /* of the store after the transaction; the mod_revision of its puts */
	const struct meta_kv *results; /* one per operation of that branch; set for META_GET */
	uint32_t result_count;
	uint32_t deleted_count;
	void (*done)(struct meta_txn *op, int status);
};

struct meta_lease {
	struct meta_req req;
	uint64_t lease_id; /* grant: 0 lets the store choose; out. Others: in */
	uint64_t
		ttl_ms; /* grant: in (a back end may round up to seconds); out for all but revoke */
	void (*done)(struct meta_lease *op, int status);
};

/* Forgets the history below `revision`; watches that still need it end with -ESTALE. */
struct meta_compact {
	struct meta_req req;
	int64_t revision; /* at most the store's revision, else -EINVAL */
	void (*done)(struct meta_compact *op, int status);
};

/* ---- watches ---- */

struct meta_event {
	bool is_delete;
	struct meta_kv kv; /* of a delete: key and mod_revision only */
};

struct meta_watch {
	/* in */
	const char *key; /* the owner keeps it */
	bool is_prefix;
	int64_t from_revision; /* first revision wanted; 0: changes after this call */
	/* All matching events of one revision. It may stop this or any other watch. */
	void (*changed)(struct meta_watch *watch, int64_t revision, const struct meta_event *events,
			uint32_t event_count);
	/* The watch ended by itself: -ESTALE (compact_revision says what is left), -ECANCELED,
	 * -EAGAIN (connection lost: start again at next_revision), -EIO, -EBADMSG, -ENOMEM. */
	void (*ended)(struct meta_watch *watch, int status);
	/* out */
	int64_t next_revision; /* everything before it was delivered */
	int64_t compact_revision;
	/* the back end's */
	struct list link;
	struct meta *meta;
	int status;
};

/* ---- calls ---- */

void meta_range(struct meta *meta, struct meta_range *op);
void meta_txn(struct meta *meta, struct meta_txn *op);
void meta_lease_grant(struct meta *meta, struct meta_lease *op);
/* Starts the lease's time again. */
void meta_lease_keepalive(struct meta *meta, struct meta_lease *op);
/* Deletes the lease and its keys. */
void meta_lease_revoke(struct meta *meta, struct meta_lease *op);
void meta_compact(struct meta *meta, struct meta_compact *op);

/* Begins to deliver. The watch is the store's until `ended` or meta_watch_stop(). A malformed key
 * is a programmer error. */
void meta_watch_start(struct meta *meta, struct meta_watch *watch);
/* No callback after this. Fine on a watch that has ended or was never started (zeroed). */
void meta_watch_stop(struct meta_watch *watch);

struct meta_close {
	void (*done)(struct meta_close *close);
};
/* Ends what is pending with -ECANCELED, ends the watches likewise, then close->done(): the handle
 * is gone. No call on the handle after this. */
void meta_close(struct meta *meta, struct meta_close *close);

/* 0, or -EINVAL naming what is wrong with the key. */
int meta_key_check(const char *key, struct err *err);

/* ---- spelling transactions ---- */

static inline struct meta_compare meta_if_absent(const char *key)
{
	return (struct meta_compare){.key = key, .target = META_CREATE_REVISION};
}
static inline struct meta_compare meta_if_exists(const char *key)
{
	return (struct meta_compare){
		.key = key, .target = META_CREATE_REVISION, .relation = META_GREATER};
}
static inline struct meta_compare meta_if_unchanged(const char *key, int64_t mod_revision)
{
	return (struct meta_compare){
		.key = key, .target = META_MOD_REVISION, .number = mod_revision};
}
static inline struct meta_do meta_do_put(const char *key, const void *value, size_t value_bytes,
					 uint64_t lease_id)
{
	return (struct meta_do){.action = META_PUT,
				.key = key,
				.value = value,
				.value_bytes = value_bytes,
				.lease_id = lease_id};
}
static inline struct meta_do meta_do_delete(const char *key)
{
	return (struct meta_do){.action = META_DELETE, .key = key};
}
static inline struct meta_do meta_do_get(const char *key)
{
	return (struct meta_do){.action = META_GET, .key = key};
}

/* ---- back ends ---- */

struct meta_lmdb_config {
	const char *path;               /* a directory of its own; made (0700) when absent */
	size_t map_bytes;               /* initial address space, grows by itself; 0: 64 MiB */
	size_t map_bytes_max;           /* 0: 64 GiB; when reached, changes fail with -ENOSPC */
	uint32_t history_revisions_max; /* 0: 10000 */
	size_t history_bytes_max;       /* 0: 64 MiB */
};
/*
 * Opens the embedded store. Commits are durable (fdatasync) before done(), and block the env's
 * thread for as long as that takes: it is for the manager's loop, never for a data path.
 * Synchronous. 0, or: -EBUSY another process has it (named when it can be found), -ENOTSUP a newer
 * version wrote it (nothing is changed), -EBADMSG it is not a metadata directory, -errno.
 */
int meta_lmdb_open(struct env *env, const struct meta_lmdb_config *config, struct meta **ret,
		   struct err *err);

/*
 * The in-memory store: what a metadata server is to its clients, for tests and the simulator.
 * Several handles, each with its client's env, share one; it outlives them. Deterministic: all
 * chance comes from env_random().
 */
struct meta_mem;

struct meta_mem_config {
	uint32_t history_revisions_max; /* 0: 10000 */
	size_t history_bytes_max;       /* 0: 64 MiB */
};

/* Faults of one handle; all zero: none. Chances are per million requests. */
struct meta_mem_faults {
	uint64_t delay_min_ns; /* of each way; uniform in [min, max] */
	uint64_t delay_max_ns;
	uint32_t unavailable_ppm;     /* -EAGAIN, not applied */
	uint32_t unknown_lost_ppm;    /* -ETIMEDOUT, never applied */
	uint32_t unknown_applied_ppm; /* -ETIMEDOUT, applied before */
	uint32_t unknown_late_ppm; /* -ETIMEDOUT, a transaction applied up to late_max_ns after */
	uint64_t late_max_ns;
	bool is_unavailable; /* every request: -EAGAIN; watches stand still */
};

/* env is the server's own: its clock ends leases. NULL when memory is out. */
struct meta_mem *meta_mem_create(struct env *env, const struct meta_mem_config *config);
/* Every handle must be closed or abandoned. NULL is fine. */
void meta_mem_destroy(struct meta_mem *mem);
/* A handle for a client with this env. NULL when memory is out. */
struct meta *meta_mem_open(struct meta_mem *mem, struct env *env);
void meta_mem_faults_set(struct meta *handle, const struct meta_mem_faults *faults);
/* The client died: no callback will come; requests on their way may still be applied. */
void meta_mem_abandon(struct meta *handle);

/* ---- for back ends only ---- */

struct meta_ops {
	/* Takes the request; req->status < 0: it was found malformed, complete it with that. */
	void (*submit)(struct meta *meta, struct meta_req *req);
	void (*watch_start)(struct meta *meta, struct meta_watch *watch);
	void (*watch_stop)(struct meta *meta, struct meta_watch *watch);
	void (*close)(struct meta *meta, struct meta_close *close);
};

struct meta {
	const struct meta_ops *ops;
};

/* Calls the request's done() with its status. */
void meta_req_done(struct meta_req *req);

#endif
