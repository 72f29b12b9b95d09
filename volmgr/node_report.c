/* SPDX-License-Identifier: Apache-2.0 */
/* What a node tells about itself: to the manager, to Node.Status, to Prometheus. */
#include "volmgr/node_role.h"

#include <stdio.h>
#include <unistd.h>
#include "base/version.h"

static void counter_set(struct arena *arena, Holdfast__V1__StoreInfo *out, const char *name,
			uint64_t value)
{
	Holdfast__V1__Counter *counter = ARENA_MESSAGE(arena, Counter, counter);
	counter->name = arena_copy(arena, name);
	counter->value = value;
	out->counters[out->n_counters++] = counter;
}

/* Why it is not ok, and what happens next. */
static char *store_reason(const struct role_store *rs, struct arena *arena)
{
	uint64_t retry_ns = node_store_retry_ns(rs), now_ns = env_now_ns(rs->role->daemon->env);
	if (!rs->is_failed)
		return arena_copy(arena, "");
	if (rs->is_busy)
		return arena_text(arena, "%s; %s now", rs->reason,
				  rs->is_closing ? "its I/O is awaited" : "it is opened again");
	if (retry_ns == 0)
		return arena_copy(arena, rs->reason);
	return arena_text(
		arena, "%s; it is opened again in %lu s", rs->reason,
		(unsigned long)(retry_ns > now_ns ? (retry_ns - now_ns) / 1000000000 : 0));
}

static Holdfast__V1__StoreInfo *store_report(struct role_store *rs, struct arena *arena)
{
	if (rs->store != NULL && !rs->is_failed)
		store_info(rs->store, &rs->last);
	const struct store_info *info = &rs->last;
	Holdfast__V1__StoreInfo *out = ARENA_MESSAGE(arena, StoreInfo, store_info);
	out->uuid =
		uuid_is_zero(&info->uuid) ? arena_copy(arena, "") : arena_uuid(arena, &info->uuid);
	out->path = arena_copy(arena, rs->path);
	out->type = arena_copy(arena, rs->type);
	out->state = arena_copy(arena, rs->is_failed ? "failed" : "ok");
	out->reason = store_reason(rs, arena);
	out->capacity_bytes = info->capacity_blocks * BLOCK_BYTES;
	out->used_bytes = info->used_blocks * BLOCK_BYTES;
	out->reserved_bytes = info->reserved_blocks * BLOCK_BYTES;
	out->replica_count = info->replica_count;
	out->incarnation = info->incarnation;
	out->root_generation = info->root_generation;
	out->counters = ARENA_ARRAY(arena, Holdfast__V1__Counter *, STORE_METRICS);
	counter_set(arena, out, "batches", info->batches);
	counter_set(arena, out, "batches_inline", info->batches_inline);
	counter_set(arena, out, "records", info->records);
	counter_set(arena, out, "payload_blocks", info->payload_blocks);
	counter_set(arena, out, "pieces", info->pieces);
	counter_set(arena, out, "checkpoints", info->checkpoints);
	counter_set(arena, out, "blocks_written", info->blocks_written);
	counter_set(arena, out, "reads", info->reads);
	counter_set(arena, out, "read_blocks", info->read_blocks);
	counter_set(arena, out, "crc_errors", info->crc_errors);
	counter_set(arena, out, "io_slow", info->io_slow);
	counter_set(arena, out, "bad_blocks", info->bad_blocks);
	return out;
}

static char *label_text(struct arena *arena, const char *label)
{
	return arena_copy(arena, label != NULL ? label : "");
}

Holdfast__V1__NodeInfo *node_report_info(struct node_role *role, struct arena *arena)
{
	const struct node_options *options = role->options;
	char cpus[128];
	Holdfast__V1__NodeInfo *out = ARENA_MESSAGE(arena, NodeInfo, node_info);
	out->name = arena_copy(arena, role->daemon->name);
	out->uuid = arena_uuid(arena, &role->daemon->uuid);
	out->state = arena_copy(arena, "online");
	out->pid = getpid();
	out->address = arena_copy(arena, role->listen);
	out->admin_address = arena_copy(arena, role->daemon->admin_address);
	out->zone = label_text(arena, options->zone);
	out->rack = label_text(arena, options->rack);
	out->host = label_text(arena, options->host);
	out->io_engine = arena_copy(arena, loop_engine_name(role->daemon->loop));
	out->version = arena_copy(arena, build_version());
	out->last_seen_ms = env_wall_ms(role->daemon->env);
	out->metrics_address = arena_copy(arena, role->daemon->metrics_address);
	out->started_ms = role->daemon->started_ms;
	out->insecure_tcp = options->insecure_tcp;
	out->cpus = arena_copy(arena, daemon_cpus(role->daemon, cpus, sizeof(cpus)));
	out->cpu_latency = arena_copy(arena, daemon_cpu_latency(role->daemon));
	out->stores = ARENA_ARRAY(arena, Holdfast__V1__StoreInfo *, role->store_count);
	for (uint32_t i = 0; i < role->store_count; i++)
		out->stores[out->n_stores++] = store_report(&role->stores[i], arena);
	return out;
}

struct replica_walk {
	struct arena *arena;
	struct role_store *rs;
	const char *node;
	Holdfast__V1__ReplicaInfo **out;
	size_t count;
};

/* What happened, and what to do. */
static char *suspect_note(struct replica_walk *walk, const struct store_replica_info *info)
{
	char uuid[UUID_TEXT_BYTES], range[64];
	uuid_format(&info->spec.volume_uuid, uuid);
	if (info->map_damaged)
		return arena_copy(walk->arena, "rot in its map: only another copy helps");
	if (info->suspect_until == UINT64_MAX)
		snprintf(range, sizeof(range), "entry %lu and all after it",
			 (unsigned long)info->suspect_after + 1);
	else
		snprintf(range, sizeof(range), "entries %lu to %lu",
			 (unsigned long)info->suspect_after + 1,
			 (unsigned long)info->suspect_until);
	return arena_text(
		walk->arena,
		"rot took %s of its log; another copy brings them back; if there is none, "
		"stop the node, run 'holdfast store accept-loss %s %s', start it again, and "
		"unexport and export the volume",
		range, walk->rs->path, uuid);
}

static void replica_report(void *ctx, struct store_replica *replica)
{
	struct replica_walk *walk = ctx;
	if (walk->count == NODE_ROLE_REPLICAS_MAX)
		return;
	struct store_replica_info info;
	store_replica_info(replica, &info);
	Holdfast__V1__ReplicaInfo *out = ARENA_MESSAGE(walk->arena, ReplicaInfo, replica_info);
	out->volume = arena_uuid(walk->arena, &info.spec.volume_uuid);
	out->replica_uuid = arena_uuid(walk->arena, &info.spec.replica_uuid);
	out->node = arena_copy(walk->arena, walk->node);
	out->store_uuid = arena_uuid(walk->arena, &walk->rs->last.uuid);
	out->state = arena_copy(walk->arena, "idle");
	out->epoch = info.log_epoch;
	out->seq = info.last_seq;
	out->commit_seq = info.commit_seq;
	out->used_bytes = info.used_blocks * BLOCK_BYTES;
	if (info.suspect) {
		out->state = arena_copy(walk->arena, "suspect");
		out->note = suspect_note(walk, &info);
	}
	walk->out[walk->count++] = out;
}

size_t node_report_replicas(struct node_role *role, struct arena *arena,
			    Holdfast__V1__ReplicaInfo ***ret)
{
	struct replica_walk walk = {.arena = arena, .node = role->daemon->name};
	walk.out = ARENA_ARRAY(arena, Holdfast__V1__ReplicaInfo *, NODE_ROLE_REPLICAS_MAX);
	for (uint32_t i = 0; i < role->store_count; i++) {
		walk.rs = &role->stores[i];
		if (walk.rs->store != NULL && !walk.rs->is_failed)
			store_replica_each(walk.rs->store, replica_report, &walk);
	}
	*ret = walk.out;
	return walk.count;
}

Holdfast__V1__ProcessInfo *node_report_process(struct node_role *role, struct arena *arena)
{
	Holdfast__V1__ProcessInfo *out = daemon_report(role->daemon, "node", arena);
	out->insecure_tcp = role->options->insecure_tcp;
	return out;
}

/* ---- metrics ---- */

static const struct metric_desc store_descs[STORE_METRICS] = {
	{"holdfast_store_capacity_bytes", "Data area of the store", METRIC_GAUGE, false},
	{"holdfast_store_used_bytes", "Data area in use", METRIC_GAUGE, false},
	{"holdfast_store_replicas", "Replicas in the store", METRIC_GAUGE, false},
	{"holdfast_store_failed", "1 when the store has failed", METRIC_GAUGE, false},
	{"holdfast_store_batches_total", "Batches made stable", METRIC_COUNTER, false},
	{"holdfast_store_records_total", "Log records written", METRIC_COUNTER, false},
	{"holdfast_store_payload_blocks_total", "Payload blocks written", METRIC_COUNTER, false},
	{"holdfast_store_device_blocks_total", "Blocks that reached the device", METRIC_COUNTER,
	 false},
	{"holdfast_store_checkpoints_total", "Checkpoints", METRIC_COUNTER, false},
	{"holdfast_store_read_blocks_total", "Blocks read", METRIC_COUNTER, false},
	{"holdfast_store_crc_errors_total", "Blocks whose checksum was wrong", METRIC_COUNTER,
	 false},
	{"holdfast_store_io_slow_total", "Device operations that were slow", METRIC_COUNTER, false},
	{"holdfast_store_bad_blocks", "Blocks on the bad-block list", METRIC_GAUGE, false},
};
static const struct metric_desc node_descs[NODE_METRICS] = {
	{"holdfast_node_connections", "Connections", METRIC_GAUGE, false},
	{"holdfast_node_sessions", "Sessions of coordinators", METRIC_GAUGE, false},
	{"holdfast_node_frames_in_total", "Frames received", METRIC_COUNTER, false},
	{"holdfast_node_frames_out_total", "Frames sent", METRIC_COUNTER, false},
	{"holdfast_node_payload_bytes_in_total", "Payload received", METRIC_COUNTER, false},
	{"holdfast_node_payload_bytes_out_total", "Payload sent", METRIC_COUNTER, false},
	{"holdfast_node_violations_total", "Connections cut for breaking the protocol",
	 METRIC_COUNTER, false},
};

int node_metrics_add(struct node_role *role, struct err *err)
{
	struct metrics *metrics = role->daemon->metrics;
	const struct metric_label node = {"node", role->daemon->name};
	int rc = 0;
	for (uint32_t i = 0; i < NODE_METRICS && rc == 0; i++)
		rc = metric_add(metrics, &role->metrics[i], &node_descs[i], &node, 1);
	for (uint32_t i = 0; i < role->store_count; i++) {
		const struct metric_label labels[] = {node, {"path", role->stores[i].path}};
		for (uint32_t j = 0; j < STORE_METRICS && rc == 0; j++)
			rc = metric_add(metrics, &role->stores[i].metrics[j], &store_descs[j],
					labels, 2);
	}
	return rc < 0 ? err_set(err, rc, "metrics: %s", strerror(-rc)) : 0;
}

static void store_metrics_update(struct role_store *rs)
{
	if (rs->store != NULL && !rs->is_failed)
		store_info(rs->store, &rs->last);
	const struct store_info *info = &rs->last;
	const uint64_t values[STORE_METRICS] = {
		info->capacity_blocks * BLOCK_BYTES,
		info->used_blocks * BLOCK_BYTES,
		info->replica_count,
		rs->is_failed,
		info->batches,
		info->records,
		info->payload_blocks,
		info->blocks_written,
		info->checkpoints,
		info->read_blocks,
		info->crc_errors,
		info->io_slow,
		info->bad_blocks,
	};
	for (uint32_t i = 0; i < STORE_METRICS; i++)
		metric_set(&rs->metrics[i], (int64_t)values[i]);
}

void node_metrics_update(struct node_role *role)
{
	for (uint32_t i = 0; i < role->store_count; i++)
		store_metrics_update(&role->stores[i]);
	if (role->node == NULL)
		return;
	struct node_info info;
	node_info(role->node, &info);
	const uint64_t values[NODE_METRICS] = {
		info.connections,      info.sessions,          info.frames_in,  info.frames_out,
		info.payload_bytes_in, info.payload_bytes_out, info.violations,
	};
	for (uint32_t i = 0; i < NODE_METRICS; i++)
		metric_set(&role->metrics[i], (int64_t)values[i]);
}

void node_metrics_remove(struct node_role *role)
{
	for (uint32_t i = 0; i < NODE_METRICS; i++)
		metric_remove(&role->metrics[i]);
	for (uint32_t i = 0; i < role->store_count; i++)
		for (uint32_t j = 0; j < STORE_METRICS; j++)
			metric_remove(&role->stores[i].metrics[j]);
}
