/* SPDX-License-Identifier: Apache-2.0 */
/* Private to manager*.c: the manager's object. All of it is on the manager's loop. */
#ifndef HF_VOLMGR_MANAGER_H
#define HF_VOLMGR_MANAGER_H

#include "base/rpc/rpc.h"
#include "replication/peers.h"
#include "volmgr/arena.h"
#include "volmgr/daemon.h"
#include "volmgr/holdfast.pb-c.h"
#include "volmgr/lifecycle.h"
#include "volmgr/records.h"

#define MANAGER_VOLUMES_MAX        4096
#define MANAGER_NODES_MAX          128
#define MANAGER_GATEWAYS_MAX       32
#define MANAGER_JOBS_MAX           128
#define MANAGER_EVENTS_PENDING_MAX 256
#define MANAGER_EVENTS_BATCH       16
#define BEAT_INTERVAL_MS           500
#define OFFLINE_AFTER_NS           3000000000ull

struct manager_options {
	struct daemon_options daemon;
	char *listen; /* a second admin address, "" none */
};

/* The newest known record, and what its gateway says. */
struct manager_volume {
	struct list link; /* by name */
	struct volume_record record;
	int64_t mod_revision;
	bool has_export;
	struct export_record export;
	Holdfast__V1__VolumeInfo *report; /* NULL: none; the newest from its gateway */
	char report_gateway[NAME_BYTES];
	uint64_t resume_after_ns; /* when an unfinished intent may be tried again */
	uint32_t resume_failures;
	uint64_t bound_ns; /* when it was last seen to become bound */
};

struct manager_node {
	struct list link;
	struct node_record record;
	uint64_t seen_ns;                    /* 0: not since this manager started */
	Holdfast__V1__NodeHeartbeat *report; /* NULL: none yet */
	struct peer *peer;                   /* NULL until its first heartbeat */
	bool must_save;
	bool is_saving;
	char *saving_text;
	struct meta_txn txn;
	struct meta_do change;
	char key[RECORD_KEY_BYTES];
	struct manager *manager;
};

struct manager_gateway {
	struct list link;
	char name[NAME_BYTES];
	char uuid[UUID_TEXT_BYTES];
	bool online;
	uint64_t seen_ns;
	Holdfast__V1__GatewayHeartbeat *report;
	struct rpc_client *client;
	char admin_address[ADDRESS_BYTES];
	uint32_t users; /* calls under way on client */
};

struct manager_orphan {
	struct list link;
	struct uuid volume_uuid, replica_uuid, store_uuid;
	char node[NAME_BYTES];
	uint64_t since_ns;
	uint64_t told_ns; /* last report that had it */
	bool is_deleting;
	struct peer_request request;
	struct wire_target body;
	struct manager *manager;
};

struct manager {
	struct daemon *daemon;
	const struct manager_options *options;
	struct env *env;
	struct meta *meta;
	struct peers *peers;
	struct lifecycle *lifecycle;
	struct rpc_server *server;
	struct list volumes, nodes, gateways, jobs, orphans;
	uint32_t volume_count, node_count, gateway_count, job_count, orphan_count;
	uint32_t relay_count;
	bool records_bad; /* some volume record cannot be read: nothing is an orphan */
	struct meta_watch volume_watch, export_watch;
	struct env_timer tick;
	int failure; /* why it stops by itself */
	bool is_stopping;
	/* the journal */
	uint64_t event_seq; /* last one given out */
	struct event_record events[MANAGER_EVENTS_PENDING_MAX];
	uint32_t event_head, event_count, event_writing;
	uint64_t events_dropped;
	struct meta_txn event_txn;
	struct meta_do event_changes[2 * MANAGER_EVENTS_BATCH];
	char event_keys[2 * MANAGER_EVENTS_BATCH][RECORD_KEY_BYTES];
	char *event_texts[MANAGER_EVENTS_BATCH];
	/* the orphan scan: a full read of /volumes/ */
	struct meta_range orphan_range;
	uint64_t orphan_scan_ns; /* when the scan under way began; 0: none */
	struct rpc_stop rpc_stop;
	struct meta_close meta_close;
	struct metric metrics[6];
};

/* ---- manager_cache.c ---- */

/* Reads nodes, volumes, exports and the journal's end, and starts the watches. Runs the loop. */
int manager_load(struct manager *m, struct err *err);
struct manager_volume *manager_volume_find(struct manager *m, const char *name);
/* The record as written at mod_revision; an older one is ignored. NULL when there are too many. */
struct manager_volume *manager_volume_put(struct manager *m, const struct volume_record *record,
					  int64_t mod_revision);
void manager_volume_gone(struct manager *m, const char *name, int64_t revision);
void manager_cache_free(struct manager *m);

/* ---- manager_node.c ---- */

struct manager_node *manager_node_find(struct manager *m, const char *name);
struct manager_node *manager_node_add(struct manager *m, const struct node_record *record);
struct manager_gateway *manager_gateway_find(struct manager *m, const char *name);
/* Any that is online, the first by name; NULL when there is none. */
struct manager_gateway *manager_gateway_any(struct manager *m);
/* It counts as offline until its next heartbeat. */
void manager_gateway_silent(struct manager *m, struct manager_gateway *gateway, const char *why);
void manager_heartbeat_node(void *ctx, struct rpc_call *call);
void manager_heartbeat_gateway(void *ctx, struct rpc_call *call);
/* Who fell silent; called by the tick. */
void manager_nodes_check(struct manager *m);
void manager_nodes_free(struct manager *m);

/* ---- manager_orphan.c ---- */

/* After each report of a node. */
void manager_orphans_note(struct manager *m, struct manager_node *node);
void manager_orphans_check(struct manager *m);

/* ---- manager_effect.c ---- */

extern const struct lifecycle_ops manager_lifecycle_ops;
/* An asynchronous call to a gateway. */
struct gateway_call {
	struct rpc_async async;
	struct manager_gateway *gateway;
	void (*done)(struct gateway_call *call); /* async.err, async.response; freed after */
	void *user;
};
/* done later. A gateway that is unknown or offline: -EBUSY with a sentence. */
void gateway_call_start(struct manager *m, const char *gateway, const struct rpc_request *request,
			struct gateway_call *call);

/* ---- manager_job.c ---- */

/* One admin operation on one volume; at most one at a time per volume. About 40 KiB. */
struct manager_job {
	struct list link;
	struct manager *manager;
	const char *what; /* "create" */
	char name[NAME_BYTES];
	struct rpc_call *call; /* NULL: nobody waits for it (resume) */
	struct lifecycle_op op;
	struct gateway_call gateway_call;
	struct err err;  /* what will be answered */
	bool is_new;     /* export: its record was written by this job */
	bool is_forced;  /* unexport: without the gateway if need be */
	bool bound_here; /* attached for the duration */
	char gateway[NAME_BYTES];
	/* of single steps */
	struct meta_range range;
	struct meta_txn txn;
	struct meta_compare compare;
	struct meta_do change;
	char key[RECORD_KEY_BYTES];
	char *text;
	struct volume_record record;
	struct export_record export;
	uint64_t size_bytes; /* resize: the size that is wanted */
	bool is_repair;
	char repair_node[NAME_BYTES];
	void (*next)(struct manager_job *job); /* after binding and unbinding */
};

/* NULL when the call was answered with a refusal: too many jobs, or one runs for that volume. */
struct manager_job *job_start(struct manager *m, struct rpc_call *call, const char *what,
			      const char *name);
bool job_runs(struct manager *m, const char *name);
/* Starts op with its goal set; the cache hears of the outcome before done(). */
void job_lifecycle(struct manager_job *job, enum lifecycle_goal goal,
		   void (*done)(struct lifecycle_op *op, int status));
/* Takes op's outcome into the cache; first thing in each done(). */
void job_op_seen(struct manager_job *job);
/* Answers and frees: with job->err when it is set, else with the message. */
void job_reply(struct manager_job *job, const ProtobufCMessage *message);
void job_reply_volume(struct manager_job *job);
void job_free(struct manager_job *job);
/* Tries unfinished intents again, releases volumes that are attached for nobody. */
void manager_jobs_check(struct manager *m);

/* ---- manager_volume.c, manager_export.c, manager_relay.c: handlers ---- */

void manager_volume_create(void *ctx, struct rpc_call *call);
void manager_volume_delete(void *ctx, struct rpc_call *call);
void manager_volume_resize(void *ctx, struct rpc_call *call);
void manager_volume_export(void *ctx, struct rpc_call *call);
void manager_volume_unexport(void *ctx, struct rpc_call *call);
void manager_replica_verify(void *ctx, struct rpc_call *call);
void manager_replica_repair(void *ctx, struct rpc_call *call);
/* Pure parts of create. params: the request's. */
int create_check(const Holdfast__V1__VolumeCreateRequest *request, struct volume_record *draft,
		 struct class_settings *settings, struct err *err);
/* 0 when `have` is what `want` asks for, else -EEXIST naming the difference. */
int create_compare(const struct volume_record *have, const struct volume_record *want,
		   struct err *err);
/* Voters for the draft over the nodes that are there. */
int create_place(struct manager *m, struct volume_record *draft,
		 const struct class_settings *settings, struct err *err);
/* Attaches when needed, by job->gateway or any when that is "", then next(); with job->err set when
 * it failed. */
void job_bind(struct manager_job *job, void (*next)(struct manager_job *job));
/* Releases when job_bind attached, then next(). */
void job_unbind(struct manager_job *job, void (*next)(struct manager_job *job));

/* ---- manager_status.c ---- */

Holdfast__V1__VolumeInfo *status_volume(struct manager *m, struct manager_volume *volume,
					struct arena *arena);
Holdfast__V1__NodeInfo *status_node(struct manager *m, struct manager_node *node,
				    struct arena *arena);
void manager_status(void *ctx, struct rpc_call *call);
void manager_node_list(void *ctx, struct rpc_call *call);
void manager_volume_list(void *ctx, struct rpc_call *call);
void manager_volume_get(void *ctx, struct rpc_call *call);
void manager_replica_list(void *ctx, struct rpc_call *call);

/* ---- manager_event.c ---- */

void manager_event(struct manager *m, enum event_level level, const char *object, const char *kind,
		   const char *format, ...) PRINTF_LIKE(5, 6);
void manager_events(void *ctx, struct rpc_call *call);

/* ---- manager_meta.c ---- */

extern const struct rpc_method manager_meta_methods[];

/* ---- small ---- */

/* Copies a message; NULL when it cannot be. Freed by rpc_message_free(). */
ProtobufCMessage *message_copy(const ProtobufCMessage *message);
void call_fail(struct rpc_call *call, const struct err *err);

#endif
