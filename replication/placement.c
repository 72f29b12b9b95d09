/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Weighted rendezvous hashing.
 *
 * Every store draws, for the shard, an exponentially distributed distance -ln(h)/w from the hash h
 * of (volume, shard, store), and the nearest win. The minimum of such draws falls on a store with
 * probability w / sum(w), so capacity is used evenly; a new store takes exactly what it wins, from
 * all others in proportion, and a store that leaves gives up only what it had. (A ring with virtual
 * nodes was weighed: it needs state, and its shares are rough.)
 *
 * L1  No floating point: ln is taken as log2 in fixed point by repeated squaring, the quotient is
 *     compared by multiplying across in 128 bits. The constant ln 2 cancels. Ties, which take
 *     equal 64-bit logarithms, go to the lower uuid.
 * L2  Replicas are chosen one after another: among the stores that are allowed, those of the zone
 *     with the fewest replicas so far, then of the rack with the fewest, then the nearest. So a
 *     level that has enough domains never has two replicas in one.
 * L3  What a store draws depends on nothing but volume, shard and store.
 */
#include <errno.h>
#include <stdio.h>

#include "replication/placement.h"

#define LOG_FRACTION_BITS 40

/* A bijective mix of 64 bits with full avalanche. */
static uint64_t mix(uint64_t x)
{
	x ^= x >> 32;
	x *= 0xe9846af9b1a615dull;
	x ^= x >> 32;
	x *= 0xe9846af9b1a615dull;
	x ^= x >> 28;
	return x;
}

static uint64_t mix_uuid(uint64_t state, const struct uuid *uuid)
{
	uint64_t half[2];
	memcpy(half, uuid->bytes, sizeof(half)); /* little-endian hosts only: types.h */
	state = mix((state ^ half[0]) + 0x9e3779b97f4a7c15ull);
	return mix((state ^ half[1]) + 0x9e3779b97f4a7c15ull);
}

/* 64 - log2(hash) in fixed point: 0 for the largest hash, and positive. */
static uint64_t distance_unit(uint64_t hash)
{
	uint64_t x = hash ? hash : 1;
	int shift = __builtin_clzll(x);
	uint64_t result = (uint64_t)(63 - shift) << LOG_FRACTION_BITS;
	unsigned __int128 m = (unsigned __int128)(x << shift); /* 1 <= m / 2^63 < 2 */
	for (int bit = LOG_FRACTION_BITS - 1; bit >= 0; bit--) {
		m = (m * m) >> 63;
		if (m >> 64) {
			result |= 1ull << bit;
			m >>= 1;
		}
	}
	return (64ull << LOG_FRACTION_BITS) - result;
}

static uint64_t store_distance(const struct placement_request *r, const struct placement_store *s)
{
	uint64_t state = mix_uuid(r->shard, &r->volume_uuid);
	return distance_unit(mix_uuid(state, &s->store_uuid));
}

/* Whether a is nearer than b: distance / capacity, multiplied across. */
static bool store_nearer(const struct placement_request *r, const struct placement_store *a,
			 const struct placement_store *b)
{
	unsigned __int128 left = (unsigned __int128)store_distance(r, a) * b->capacity_bytes;
	unsigned __int128 right = (unsigned __int128)store_distance(r, b) * a->capacity_bytes;
	if (left != right)
		return left < right;
	return memcmp(&a->store_uuid, &b->store_uuid, sizeof(a->store_uuid)) < 0;
}

static bool same_domain(const struct placement_store *a, const struct placement_store *b,
			enum placement_level level)
{
	if (strcmp(a->zone, b->zone) != 0)
		return false;
	if (level == PLACEMENT_ZONE)
		return true;
	if (strcmp(a->rack, b->rack) != 0)
		return false;
	if (level == PLACEMENT_RACK)
		return true;
	if (a->host[0] == 0 && b->host[0] == 0)
		return strcmp(a->node, b->node) == 0;
	return strcmp(a->host, b->host) == 0;
}

static bool in_use(const struct placement_store *s)
{
	return s->verdict == PLACEMENT_CHOSEN || s->verdict == PLACEMENT_EXISTING;
}

static enum placement_verdict store_judge(const struct placement_request *r,
					  const struct placement_store *s)
{
	for (uint32_t i = 0; i < r->existing_count; i++)
		if (uuid_equal(&r->existing[i], &s->store_uuid))
			return PLACEMENT_EXISTING;
	if (s->node_is_offline)
		return PLACEMENT_NODE_OFFLINE;
	if (s->node_is_cordoned)
		return PLACEMENT_NODE_CORDONED;
	if (s->is_failed)
		return PLACEMENT_STORE_FAILED;
	if (s->is_draining)
		return PLACEMENT_STORE_DRAINING;
	if (r->type && r->type[0] && strcmp(r->type, s->type) != 0)
		return PLACEMENT_TYPE_DIFFERS;
	if (s->used_bytes >= s->capacity_bytes || s->capacity_bytes - s->used_bytes < r->need_bytes)
		return PLACEMENT_STORE_FULL;
	return PLACEMENT_USABLE;
}

static uint32_t domain_load(const struct placement_store *stores, uint32_t count,
			    const struct placement_store *s, enum placement_level level)
{
	uint32_t load = 0;
	for (uint32_t i = 0; i < count; i++)
		load += in_use(&stores[i]) && same_domain(&stores[i], s, level);
	return load;
}

/* The usable store that is to be chosen next (L2); NULL when there is none. */
static struct placement_store *store_next(const struct placement_request *r,
					  struct placement_store *stores, uint32_t count)
{
	struct placement_store *best = NULL;
	uint32_t best_zone = 0, best_rack = 0;
	for (uint32_t i = 0; i < count; i++) {
		struct placement_store *s = &stores[i];
		if (s->verdict != PLACEMENT_USABLE)
			continue;
		if (domain_load(stores, count, s, r->distinct) ||
		    domain_load(stores, count, s, PLACEMENT_HOST)) {
			s->verdict = PLACEMENT_DOMAIN_TAKEN;
			continue;
		}
		uint32_t zone = domain_load(stores, count, s, PLACEMENT_ZONE);
		uint32_t rack = domain_load(stores, count, s, PLACEMENT_RACK);
		bool better = best == NULL || zone < best_zone ||
			      (zone == best_zone && rack < best_rack) ||
			      (zone == best_zone && rack == best_rack && store_nearer(r, s, best));
		if (!better)
			continue;
		best = s;
		best_zone = zone;
		best_rack = rack;
	}
	return best;
}

static bool is_candidate(const struct placement_store *s)
{
	return in_use(s) || s->verdict == PLACEMENT_USABLE || s->verdict == PLACEMENT_DOMAIN_TAKEN;
}

struct census {
	uint32_t stores;
	uint32_t nodes;
	uint32_t domains;
};

/* Counts candidates, or all stores, and their nodes and domains. */
static struct census census_take(const struct placement_request *r,
				 const struct placement_store *stores, uint32_t count, bool all)
{
	struct census c = {0};
	for (uint32_t i = 0; i < count; i++) {
		if (!all && !is_candidate(&stores[i]))
			continue;
		bool new_node = true, new_domain = true;
		for (uint32_t k = 0; k < i; k++) {
			if (!all && !is_candidate(&stores[k]))
				continue;
			new_node &= strcmp(stores[i].node, stores[k].node) != 0;
			new_domain &= !same_domain(&stores[i], &stores[k], r->distinct);
		}
		c.stores++;
		c.nodes += new_node;
		c.domains += new_domain;
	}
	return c;
}

static const char *verdict_word(enum placement_verdict verdict)
{
	static const char *const words[] = {
		[PLACEMENT_NODE_OFFLINE] = "on offline nodes",
		[PLACEMENT_NODE_CORDONED] = "on cordoned nodes",
		[PLACEMENT_STORE_FAILED] = "failed",
		[PLACEMENT_STORE_DRAINING] = "draining",
		[PLACEMENT_STORE_FULL] = "too small",
		[PLACEMENT_TYPE_DIFFERS] = "of another type",
	};
	return words[verdict];
}

static int too_few(const struct placement_request *r, const struct placement_store *stores,
		   uint32_t count, struct err *err)
{
	static const char *const levels[] = {"hosts", "racks", "zones"};
	struct census usable = census_take(r, stores, count, false);
	struct census all = census_take(r, stores, count, true);
	char left_out[384] = "";
	size_t at = 0;
	for (enum placement_verdict v = PLACEMENT_NODE_OFFLINE; v <= PLACEMENT_TYPE_DIFFERS; v++) {
		uint32_t n = 0;
		for (uint32_t i = 0; i < count; i++)
			n += stores[i].verdict == v;
		if (n && at < sizeof(left_out))
			at += (size_t)snprintf(left_out + at, sizeof(left_out) - at, "%s%u %s",
					       at ? ", " : "; stores left out: ", n,
					       verdict_word(v));
	}
	if (r->type && r->type[0] && at < sizeof(left_out)) {
		uint32_t typed = 0;
		for (uint32_t i = 0; i < count; i++)
			typed += strcmp(stores[i].type, r->type) == 0;
		snprintf(left_out + at, sizeof(left_out) - at,
			 "; %u of %u stores have the type '%s'", typed, count, r->type);
	}
	return err_set(err, -ENOSPC,
		       "replication factor %u needs as many different %s; usable are %u stores on "
		       "%u nodes in %u %s (of %u stores on %u nodes in %u %s)%s",
		       r->rf + r->existing_count, levels[r->distinct], usable.stores, usable.nodes,
		       usable.domains, levels[r->distinct], all.stores, all.nodes, all.domains,
		       levels[r->distinct], left_out);
}

int placement_choose(const struct placement_request *request, struct placement_store *stores,
		     uint32_t store_count, uint32_t *ret_index, struct err *err)
{
	uint32_t chosen[PLACEMENT_REPLICAS_MAX];
	if (request->rf < 1 || request->rf > PLACEMENT_REPLICAS_MAX)
		return err_set(err, -EINVAL, "replication factor %u is not between 1 and %d",
			       request->rf, PLACEMENT_REPLICAS_MAX);
	for (uint32_t i = 0; i < store_count; i++)
		stores[i].verdict = store_judge(request, &stores[i]);
	for (uint32_t n = 0; n < request->rf; n++) {
		struct placement_store *next = store_next(request, stores, store_count);
		if (next == NULL)
			return too_few(request, stores, store_count, err);
		next->verdict = PLACEMENT_CHOSEN;
		chosen[n] = (uint32_t)(next - stores);
	}
	for (uint32_t i = 0; i < store_count; i++)
		if (stores[i].verdict == PLACEMENT_USABLE &&
		    (domain_load(stores, store_count, &stores[i], request->distinct) ||
		     domain_load(stores, store_count, &stores[i], PLACEMENT_HOST)))
			stores[i].verdict = PLACEMENT_DOMAIN_TAKEN;
	memcpy(ret_index, chosen, request->rf * sizeof(chosen[0]));
	return 0;
}

const char *placement_why(const struct placement_request *request,
			  const struct placement_store *store, char *buf, size_t buf_bytes)
{
	uint64_t free_bytes = store->used_bytes < store->capacity_bytes
				      ? store->capacity_bytes - store->used_bytes
				      : 0;
	switch (store->verdict) {
	case PLACEMENT_USABLE:
		snprintf(buf, buf_bytes, "usable, others are nearer");
		break;
	case PLACEMENT_CHOSEN:
		snprintf(buf, buf_bytes, "chosen");
		break;
	case PLACEMENT_EXISTING:
		snprintf(buf, buf_bytes, "holds a replica already");
		break;
	case PLACEMENT_DOMAIN_TAKEN:
		snprintf(buf, buf_bytes, "its failure domain has a replica already");
		break;
	case PLACEMENT_NODE_OFFLINE:
		snprintf(buf, buf_bytes, "node %s is offline", store->node);
		break;
	case PLACEMENT_NODE_CORDONED:
		snprintf(buf, buf_bytes, "node %s is cordoned", store->node);
		break;
	case PLACEMENT_STORE_FAILED:
		snprintf(buf, buf_bytes, "the store has failed");
		break;
	case PLACEMENT_STORE_DRAINING:
		snprintf(buf, buf_bytes, "the store is being drained");
		break;
	case PLACEMENT_STORE_FULL:
		snprintf(buf, buf_bytes, "%llu bytes are free, %llu are needed",
			 (unsigned long long)free_bytes, (unsigned long long)request->need_bytes);
		break;
	case PLACEMENT_TYPE_DIFFERS:
		snprintf(buf, buf_bytes, "the store's type is '%s', wanted is '%s'", store->type,
			 request->type);
		break;
	}
	return buf;
}

const char *placement_domain(const struct placement_store *store, char *buf, size_t buf_bytes)
{
	snprintf(buf, buf_bytes, "%s/%s/%s", store->zone, store->rack,
		 store->host[0] ? store->host : store->node);
	return buf;
}
