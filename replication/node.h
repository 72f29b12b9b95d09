/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The replica side: serves the replicas of a node's stores over the replica protocol.
 *
 * Accepts connections of gateways (client, bulk) and managers (control); maps sessions to replicas;
 * turns frames into store operations and their completions into replies. All the rules that keep data
 * safe are the store's and are enforced there (epochs, order, hashes); this room adds sessions,
 * leases and bounds.
 *
 * R1  A session is fenced the moment its replica promises a higher epoch: nothing of it is applied or
 *     answered with data afterwards (checked at submission by the store, and again before a reply).
 * R2  ACK carries only stable positions. PROMISE, ADOPT and LEASE are answered when witnessed.
 * R3  A read lease granted to a connection delays every promise to another coordinator until it
 *     ran out, was released, or the granted connection ended.
 * R4  What a connection may have unanswered is bounded by the credits that HELLO told: at the bound the
 *     connection is not read from until some of it is answered. Memory is allocated at start.
 * R5  LEASE is durable before the first grant of a boot may be given, and LEASE none only after a clean stop has
 *     ended every session and outlived every grant: a node that starts with LEASE none waits for nobody.
 */
#ifndef HF_REPLICATION_NODE_H
#define HF_REPLICATION_NODE_H

#include "base/env.h"
#include "store/store.h"

struct node;

struct node_config {
	struct uuid cluster_uuid;
	struct uuid node_uuid;
	char name[64];
	const char *listen;         /* env address */
	uint32_t connections_max;   /* default 64 */
	uint32_t credit_frames;     /* per connection, default 1024 */
	uint64_t credit_bytes;      /* per connection, default 16 MiB */
	uint64_t payload_bytes_max; /* all connections together, default 64 MiB; lazily touched */
};
void node_config_default(struct node_config *config);

/* Stores stay the caller's and must outlive the node. 0 and *ret, or -errno (-EADDRINUSE ...). */
int node_create(struct env *env, const struct node_config *config, struct node **ret,
		struct err *err);
/* Before and while it serves. Up to 32 stores. A store that failed is taken out with node_remove_store
 * (its sessions end). */
int node_add_store(struct node *node, struct store *store, struct err *err);
void node_remove_store(struct node *node, struct store *store);
/* Stops listening, ends every connection, waits for its store operations and for the leases that are out (a
 * second at most; none when the peers went first), records LEASE none; then done, possibly within the call. */
void node_shutdown(struct node *node, void (*done)(void *ctx), void *ctx);
void node_destroy(struct node *node); /* after shutdown's done, or as a crash in the simulator */

/* To be called every few seconds: when no payload moved since the last call, payload memory goes
 * back to the kernel. */
void node_idle(struct node *node);

struct node_info {
	uint32_t connections, sessions, stores;
	uint64_t frames_in, frames_out, payload_bytes_in, payload_bytes_out, violations;
};
void node_info(const struct node *node, struct node_info *ret);

#endif
