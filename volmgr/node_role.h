/* SPDX-License-Identifier: Apache-2.0 */
/* Private to node_role*.c: the node role's object. */
#ifndef HF_VOLMGR_NODE_ROLE_H
#define HF_VOLMGR_NODE_ROLE_H

#include "base/co.h"
#include "base/rpc/rpc.h"
#include "replication/node.h"
#include "volmgr/arena.h"
#include "volmgr/daemon.h"
#include "volmgr/holdfast.pb-c.h"
#include "volmgr/records.h"

#define NODE_ROLE_STORES_MAX   16
#define NODE_ROLE_REPLICAS_MAX 8192 /* in one report */
#define STORE_METRICS          13
#define STORE_PATH_BYTES       4096
#define NODE_METRICS           7

struct node_options {
	struct daemon_options daemon;
	struct config_strings stores;
	char *listen;
	bool insecure_tcp;
	char *manager;
	char *zone, *rack, *host;
};

struct node_role;

struct role_store {
	struct node_role *role;
	char path[STORE_PATH_BYTES];
	char type[LABEL_BYTES];
	struct store *store;    /* NULL: it is not open */
	struct store_info last; /* kept for reports after it failed */
	bool is_failed;
	bool is_busy;     /* its coroutine opens or closes it */
	bool is_closing;  /* busy with that: I/O of a failed store may take long to end */
	bool is_final;    /* what failed does not pass by itself: a person has to act */
	char reason[512]; /* why it failed */
	struct co *co;
	struct env_timer timer; /* takes it out, or opens it again */
	uint64_t pause_ns;      /* before the next attempt; grows with each */
	uint64_t opened_ns;     /* when it was opened last */
	struct metric metrics[STORE_METRICS];
};

struct node_role {
	struct daemon *daemon;
	const struct node_options *options;
	char listen[DAEMON_ADDRESS_BYTES];
	char manager[DAEMON_ADDRESS_BYTES];
	struct role_store stores[NODE_ROLE_STORES_MAX];
	uint32_t store_count;
	struct node *node; /* NULL until the cluster is known */
	struct rpc_server *server;
	struct rpc_client *client;
	struct rpc_async beat;
	bool beat_running;
	bool manager_lost; /* said so already */
	bool refused;      /* said so already */
	struct env_timer timer;
	uint64_t interval_ns;
	uint64_t idle_ns; /* when memory that is not used was last looked for */
	struct metric metrics[NODE_METRICS];
	struct err open_err; /* of the first store that could not be opened */
	void (*closed)(struct node_role *role);
	bool is_opened;
	bool is_stopping;
	struct rpc_stop rpc_stop;
};

/* --store: "PATH" or "PATH,type=LABEL". Fills both; 0, or -EINVAL with a sentence. */
int store_option_parse(const char *text, char path[STORE_PATH_BYTES], char type[LABEL_BYTES],
		       struct err *err);
/* node_stores.c: the stores' life. open: all of them, once; 0 when one is open at least. serve: the node is there.
 * close: each with a checkpoint, then closed(). free: memory. */
int node_stores_open(struct node_role *role, struct err *err);
void node_stores_serve(struct node_role *role);
void node_stores_close(struct node_role *role, void (*closed)(struct node_role *role));
void node_stores_free(struct node_role *role);
/* When a failed store is opened again; 0: not by itself. */
uint64_t node_store_retry_ns(const struct role_store *rs);

/* node_report.c: what the node tells. In `arena`. */
Holdfast__V1__NodeInfo *node_report_info(struct node_role *role, struct arena *arena);
/* Writes the array, returns its length. */
size_t node_report_replicas(struct node_role *role, struct arena *arena,
			    Holdfast__V1__ReplicaInfo ***ret);
Holdfast__V1__ProcessInfo *node_report_process(struct node_role *role, struct arena *arena);
/* Registers all metrics; 0 or -errno. */
int node_metrics_add(struct node_role *role, struct err *err);
void node_metrics_update(struct node_role *role);
void node_metrics_remove(struct node_role *role);

#endif
