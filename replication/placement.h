/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Placement: which stores should hold the replicas of a shard.
 *
 * Weighted rendezvous hashing over stores by capacity, spread over failure domains level by level
 * (zone, rack, host). It only proposes; the volume's record is the truth. A pure function of its
 * arguments: no clock, no randomness, no floating point, the same on every machine; the order of
 * the stores does not matter.
 */
#ifndef HF_REPLICATION_PLACEMENT_H
#define HF_REPLICATION_PLACEMENT_H

#include "base/err.h"
#include "base/types.h"

#define PLACEMENT_REPLICAS_MAX 8

enum placement_level { PLACEMENT_HOST, PLACEMENT_RACK, PLACEMENT_ZONE };

enum placement_verdict {
	PLACEMENT_USABLE, /* could be chosen, was not */
	PLACEMENT_CHOSEN,
	PLACEMENT_EXISTING,     /* holds a replica of the shard already */
	PLACEMENT_DOMAIN_TAKEN, /* its host, or the level asked for, has a replica */
	PLACEMENT_NODE_OFFLINE,
	PLACEMENT_NODE_CORDONED,
	PLACEMENT_STORE_FAILED,
	PLACEMENT_STORE_DRAINING,
	PLACEMENT_STORE_FULL, /* free space is below need_bytes, or the store has no capacity */
	PLACEMENT_TYPE_DIFFERS,
};

struct placement_store {
	/* in; the texts are the caller's, "" where there is no label */
	struct uuid store_uuid;
	const char *node;
	const char *zone;
	const char *rack;
	const char *host; /* "": the node is a host of its own */
	const char *type; /* the store's label */
	uint64_t capacity_bytes;
	uint64_t used_bytes;
	bool node_is_offline;
	bool node_is_cordoned;
	bool is_failed;
	bool is_draining;
	/* out */
	enum placement_verdict verdict;
};

struct placement_request {
	struct uuid volume_uuid;
	uint32_t shard;
	uint32_t rf;                   /* 1..PLACEMENT_REPLICAS_MAX: replicas to choose */
	uint64_t need_bytes;           /* free space that a store must have */
	const char *type;              /* the label that stores must have; "" or NULL: any */
	enum placement_level distinct; /* no two replicas in one of these; wider levels are spread
					* as evenly as possible */
	const struct uuid *existing;   /* stores that hold replicas which stay */
	uint32_t existing_count;
};

/*
 * Writes request->rf positions in stores[] to ret_index, best first, and the verdict of every
 * store. 0, or -EINVAL (rf out of range), -ENOSPC: too few; the sentence names rf and how many
 * stores, nodes and domains there are and why others were left out.
 */
int placement_choose(const struct placement_request *request, struct placement_store *stores,
		     uint32_t store_count, uint32_t *ret_index, struct err *err);
/* A sentence about the store's verdict, for `why`: "node is cordoned". Returns buf. */
const char *placement_why(const struct placement_request *request,
			  const struct placement_store *store, char *buf, size_t buf_bytes);
/* "zone/rack/host" as recorded with a replica. Returns buf. */
const char *placement_domain(const struct placement_store *store, char *buf, size_t buf_bytes);

#endif
