/* SPDX-License-Identifier: Apache-2.0 */
/* Private to gateway*.c: the gateway role's objects. All of it is on the gateway's loop. */
#ifndef HF_VOLMGR_GATEWAY_H
#define HF_VOLMGR_GATEWAY_H

#include "base/rpc/rpc.h"
#include "replication/coordinator.h"
#include "volmgr/arena.h"
#include "volmgr/blockdev_align.h"
#include "volmgr/blockdev_coordinator.h"
#include "volmgr/daemon.h"
#include "volmgr/holdfast.pb-c.h"
#include "volmgr/nbd.h"
#include "volmgr/records.h"

#define GATEWAY_VOLUMES_MAX  256
#define GATEWAY_EVENTS_MAX   64 /* waiting to be told; older ones give way */
#define GATEWAY_WAITERS_MAX  8  /* calls that wait for one volume */
#define GATEWAY_FINDINGS_MAX 256
#define GATEWAY_METRICS      4

struct gateway_options {
	struct daemon_options daemon;
	char *manager;
	char *nbd;
	bool insecure_tcp;
};

struct gateway;
struct gateway_volume;

/* ---- gateway_meta.c: the volume's record, through the manager ---- */

struct gateway_meta {
	struct gateway_volume *volume;
	struct coordinator_meta table; /* what the coordinator calls */
	struct rpc_async async;
	struct env_timer start; /* calls begin on the loop's own stack, not on a coroutine's */
	bool is_running;        /* start or async */
	enum {
		META_IDLE,
		META_READ_VOLUME,
		META_READ_NODES,
		META_WRITE_TAKE,
		META_READ_OPENED,
		META_WRITE_OPENED
	} phase;
	uint32_t attempts;
	struct volume_record record; /* as read, then as written */
	uint64_t mod_revision;
	uint64_t epoch; /* that opened() is for */
	struct coordinator_volume coordinator_volume;
	void (*taken)(void *ctx, int status, uint64_t epoch,
		      const struct coordinator_volume *volume);
	void (*opened)(void *ctx, int status);
	void *done_ctx;
};
void gateway_meta_init(struct gateway_meta *meta, struct gateway_volume *volume);
/* What is under way ends soon, with -ESHUTDOWN for the coordinator. */
void gateway_meta_cancel(struct gateway_meta *meta);

/* ---- gateway_volume.c ---- */

struct gateway_volume {
	struct list link;
	struct gateway *gateway;
	char name[NAME_BYTES];
	uint64_t intent_id;
	uint64_t generation; /* of the gateway when it was attached or exported by a call */
	struct gateway_meta meta;
	struct coordinator *coordinator;
	struct blockdev_coordinator *dev; /* NULL until the volume was taken */
	struct blockdev_align *align;
	struct coordinator_request grow; /* brings replicas to the record's size */
	bool is_growing;
	int grow_status;
	bool is_open;
	/* the export */
	bool is_exported;
	bool export_failed; /* said so already */
	bool read_only;
	char listen[ADDRESS_BYTES];  /* as asked for; "" is the gateway's own socket only */
	char address[ADDRESS_BYTES]; /* as bound */
	struct nbd_listener *listener;
	/* the end */
	bool is_ending;
	bool is_disconnecting;
	bool is_stopped; /* the coordinator's shutdown is done */
	bool drop_asked;
	int end_status;
	struct nbd_disconnect disconnect;
	struct env_timer step; /* runs gateway_volume_step() on a turn of its own */
	/* who waits: for open (attach), for the end (detach), for the disconnect (unexport), for
	 * replicas to be live (repair) */
	struct {
		struct rpc_call *call;
		enum { WAIT_OPEN, WAIT_END, WAIT_UNEXPORT, WAIT_GROWN } what;
	} waiters[GATEWAY_WAITERS_MAX];
	uint32_t waiter_count;
	struct gateway_verify *verify;
};

struct gateway_volume *gateway_volume_find(struct gateway *g, const char *name);
/* Starts to take the volume. 0 and *ret (also when it is there for this intent or a later one),
 * -ENOSPC, -ENOMEM, -EAGAIN while it is ending. */
int gateway_volume_attach(struct gateway *g, const char *name, uint64_t intent_id,
			  struct gateway_volume **ret, struct err *err);
/* Begins the end: disconnects clients, shuts the coordinator down, frees. Idempotent. */
void gateway_volume_end(struct gateway_volume *v, int status);
/* Exports it at its address, or changes how. 0, or -errno: -EADDRINUSE, -EINVAL, -EBUSY when it is
 * exported otherwise. */
int gateway_volume_export(struct gateway_volume *v, const char *listen, bool read_only,
			  struct err *err);
/* Ends the export; clients are disconnected. The volume stays attached. */
void gateway_volume_unexport(struct gateway_volume *v);
/* The volume was taken: makes its device. Called by gateway_meta.c. 0 or -ENOMEM. */
int gateway_volume_taken(struct gateway_volume *v, uint64_t size_bytes);
/* Answers the call when the volume is open, ended, or its clients are gone. */
void gateway_volume_wait(struct gateway_volume *v, struct rpc_call *call, int what);
/* After the record was changed to a larger size. */
void gateway_volume_grow(struct gateway_volume *v, uint64_t size_bytes);
void gateway_volume_step_soon(struct gateway_volume *v);
/* The volume's own NBD URI into uri. */
void gateway_volume_uri(const struct gateway_volume *v, char uri[256]);

/* ---- gateway_report.c ---- */

Holdfast__V1__VolumeInfo *gateway_report_volume(struct gateway_volume *v, struct arena *arena);
Holdfast__V1__ProcessInfo *gateway_report_process(struct gateway *g, struct arena *arena);
Holdfast__V1__ExportInfo *gateway_report_export(struct gateway_volume *v, struct arena *arena);
void gateway_event(struct gateway *g, enum event_level level, const char *volume, const char *kind,
		   const char *text);
/* The gateway's own, updated with each heartbeat. 0 or -errno. */
int gateway_metrics_add(struct gateway *g, struct err *err);
void gateway_metrics_update(struct gateway *g);
void gateway_metrics_remove(struct gateway *g);
int gateway_volume_metrics_add(struct gateway_volume *v);
void gateway_volume_metrics_remove(struct gateway_volume *v);

/* ---- gateway_verify.c ---- */

void gateway_verify_start(struct gateway_volume *v, struct rpc_call *call, bool repair,
			  const char *node);

/* ---- gateway_service.c ---- */

extern const struct rpc_method gateway_methods[];

/* ---- gateway.c ---- */

struct gateway_event {
	uint64_t time_ms;
	enum event_level level;
	char object[96];
	char kind[48];
	char text[SENTENCE_BYTES];
};

struct gateway {
	struct daemon *daemon;
	const struct gateway_options *options;
	char manager[DAEMON_ADDRESS_BYTES];
	char nbd_address[DAEMON_ADDRESS_BYTES];
	struct rpc_server *server;
	struct rpc_client *client;
	struct peers *peers; /* NULL until the cluster is known */
	struct nbd_server *nbd;
	bool is_listening;
	struct list volumes;
	uint32_t volume_count;
	struct gateway_event events[GATEWAY_EVENTS_MAX];
	uint32_t event_head, event_count, event_sent; /* sent: with the heartbeat under way */
	struct rpc_async beat;
	bool beat_running;
	uint64_t beat_generation; /* of attachments that the heartbeat under way knows */
	bool manager_lost;
	bool refused;
	bool was_beaten; /* a first heartbeat was answered */
	struct env_timer timer;
	struct env_timer listen_timer;
	uint64_t listen_until_ns; /* its address was taken: tried until then */
	uint64_t interval_ns;
	uint64_t started_ns;
	uint64_t idle_ns;           /* when memory that is not used was last looked for */
	uint64_t attach_generation; /* rises with each attach that did not come by heartbeat */
	bool is_stopping;
	bool nbd_stopped;
	struct nbd_stop nbd_stop;
	struct rpc_stop rpc_stop;
	struct env_timer stop_step;
	bool peers_stopping;
	bool peers_stopped;
	struct metric metrics[GATEWAY_METRICS];
	struct err failure; /* why it stops by itself */
};

/* Listens once the first exports can be served, or when that takes too long. */
void gateway_listen_check(struct gateway *g);
/* A volume is gone; the last one lets a stop go on. */
void gateway_volume_gone(struct gateway *g);

#endif
