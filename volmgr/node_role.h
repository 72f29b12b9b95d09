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

#define NODE_ROLE_STORES_MAX   16
#define NODE_ROLE_REPLICAS_MAX 8192 /* in one report */
#define STORE_METRICS          13
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
	const char *path;
	struct store *store;    /* NULL: could not be opened */
	struct store_info last; /* kept for reports after it failed */
	bool is_failed;
	bool is_removed; /* taken out of the node */
	char reason[512]; /* why it failed */
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
	struct env_timer store_timer; /* takes failed stores out */
	uint64_t interval_ns;
	struct metric metrics[NODE_METRICS];
	struct co *co; /* opens and closes stores */
	struct err open_err;
	bool is_opened;
	bool is_stopping;
	struct rpc_stop rpc_stop;
};

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
