/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The semantics of the metadata store, once, over any ordered map with transactions.
 *
 * meta_engine  revisions, transactions, leases, history: synchronous, knows no callbacks
 * meta_table   the ordered map beneath: LMDB, or memory
 * meta_client  the asynchronous handle (struct meta) over an engine, with injectable faults
 * Private to volmgr's back ends; one thread.
 */
#ifndef HF_VOLMGR_META_ENGINE_H
#define HF_VOLMGR_META_ENGINE_H

#include "volmgr/meta.h"

#define META_TABLE_KEY_MAX (META_KEY_MAX + 16)

struct meta_bytes {
	const void *data;
	size_t bytes;
};

struct meta_table;

/*
 * One transaction at a time. Bytes that get and seek return are valid until the next put, del,
 * commit or abort. All return 0 or -errno; -ENOENT: no such key; -EXFULL from put or commit: the
 * map must grow, abort first.
 */
struct meta_table_ops {
	int (*begin)(struct meta_table *table, bool is_write);
	int (*get)(struct meta_table *table, struct meta_bytes key, struct meta_bytes *ret);
	int (*put)(struct meta_table *table, struct meta_bytes key, struct meta_bytes value);
	int (*del)(struct meta_table *table, struct meta_bytes key);
	/* The first key that is not below `key`. */
	int (*seek)(struct meta_table *table, struct meta_bytes key, struct meta_bytes *ret_key,
		    struct meta_bytes *ret_value);
	/* Durable when 0. -ENOSPC and -EXFULL: nothing changed. Other errors: unknown. The
	 * transaction is over in any case. */
	int (*commit)(struct meta_table *table);
	void (*abort)(struct meta_table *table);
	/* Outside of a transaction: 0, or -ENOSPC. */
	int (*grow)(struct meta_table *table);
	/* The engine is gone; frees the table. */
	void (*close)(struct meta_table *table);
};

struct meta_table {
	const struct meta_table_ops *ops;
};

/* Memory that holds what an operation returned. */
struct meta_result {
	struct meta_chunk *chunks;
	struct meta_kv *kvs;
	uint32_t kv_count;
	uint32_t kv_max;
	size_t bytes;
};
struct meta_result *meta_result_create(void);
void meta_result_free(struct meta_result *result);

struct meta_lease_state {
	uint64_t lease_id;
	uint64_t ttl_ms;
	uint64_t deadline_ns;
};

struct meta_engine {
	struct env *env;
	struct meta_table *table;
	int64_t revision;         /* of the last change; the first change is 2, as in etcd */
	int64_t compact_revision; /* history below is gone */
	size_t history_bytes;
	size_t history_bytes_max;
	uint32_t history_revisions_max;
	int failed; /* -errno: a commit failed in an unknown state; nothing works until reopened */
	struct meta_lease_state *leases;
	uint32_t lease_count;
	uint32_t lease_max;
	struct env_timer lease_timer;
	struct list clients; /* told when the revision rises */
};

/*
 * Reads the engine's state from the table, or writes it into an empty one. Owns the table from
 * success on. -ENOTSUP: a newer version; -EBADMSG.
 */
int meta_engine_open(struct meta_engine *engine, struct env *env, struct meta_table *table,
		     struct err *err);
/* Closes the table. */
void meta_engine_close(struct meta_engine *engine);
/* Performs the request; sets its outputs, req->result and req->status. */
void meta_engine_apply(struct meta_engine *engine, struct meta_req *req);

struct meta_event_batch {
	int64_t revision;
	struct meta_event *events; /* in `result` */
	uint32_t event_count;
	struct meta_result *result;
};
/*
 * The next revision at or after *next_revision that changed a matching key, if it is within the
 * next few hundred history entries. Moves *next_revision past what was looked at. 0 with
 * event_count 0: nothing in that stretch; -ESTALE; other -errno. The batch is to be freed.
 */
int meta_engine_history(struct meta_engine *engine, const struct meta_watch *watch,
			int64_t *next_revision, struct meta_event_batch *ret);
void meta_event_batch_free(struct meta_event_batch *batch);
/* The text of a table's format key is understood; shared with the read-only check at open. */
int meta_format_check(const void *text, size_t bytes, struct err *err);
extern const char meta_format_key[7];

/* ---- the asynchronous handle ---- */

struct meta_client {
	struct meta meta;
	struct env *env;
	struct meta_engine *engine;
	struct list engine_link;
	struct list pending; /* requests by due_ns, then in the order of submission */
	struct list watches;
	struct env_timer timer;       /* for `pending` */
	struct env_timer watch_timer; /* for `watches` */
	struct meta_close *close;
	struct meta_mem_faults faults;
	bool owns_engine; /* closing the handle closes and frees the engine */
};

/* NULL when memory is out. */
struct meta_client *meta_client_create(struct env *env, struct meta_engine *engine,
				       const struct meta_ops *ops);
void meta_client_submit(struct meta *meta, struct meta_req *req);
void meta_client_watch_start(struct meta *meta, struct meta_watch *watch);
void meta_client_watch_stop(struct meta *meta, struct meta_watch *watch);
void meta_client_close(struct meta *meta, struct meta_close *close);
/* Frees the handle without a callback. */
void meta_client_abandon(struct meta_client *client);
/* Something changed: deliver to watches soon. */
void meta_client_wake(struct meta_client *client);

#endif
