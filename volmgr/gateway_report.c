/* SPDX-License-Identifier: Apache-2.0 */
/* What a gateway tells about itself and its volumes: to the manager, to callers, to Prometheus. */
#include "volmgr/gateway.h"

#include <stdio.h>
#include <unistd.h>

#include "base/log.h"
#include "base/version.h"
#include "volmgr/condition.h"

static Holdfast__V1__ReplicaInfo *replica_report(const struct gateway_volume *v,
						 const struct coordinator_replica_info *replica,
						 struct arena *arena)
{
	Holdfast__V1__ReplicaInfo *out = ARENA_MESSAGE(arena, ReplicaInfo, replica_info);

	out->volume = arena_copy(arena, v->name);
	out->replica_uuid = arena_uuid(arena, &replica->member.replica_uuid);
	out->node = arena_copy(arena, replica->member.node_name);
	out->store_uuid = arena_uuid(arena, &replica->member.store_uuid);
	out->state = arena_copy(arena, condition_replica_state(replica));
	out->epoch = replica->log_epoch;
	out->seq = replica->last_seq;
	out->commit_seq = replica->commit_seq;
	out->lag_entries = replica->lag_entries;
	out->resync_bytes =
		replica->resync_bytes ? replica->resync_bytes : replica->resync_bytes_last;
	out->resync_chunks_done = replica->resync_chunks_done;
	out->resync_chunks_total = replica->resync_chunks_total;
	out->note = arena_copy(arena, replica->state == REPLICA_LIVE ? "" : replica->note);
	out->voter = replica->member.voter;
	return out;
}

static size_t replicas_fill(const struct gateway_volume *v, const struct coordinator_info *info,
			    struct arena *arena, Holdfast__V1__ReplicaInfo ***ret)
{
	*ret = ARENA_ARRAY(arena, Holdfast__V1__ReplicaInfo *, info->replica_count);
	for (uint32_t i = 0; i < info->replica_count; i++)
		(*ret)[i] = replica_report(v, &info->replicas[i], arena);
	return info->replica_count;
}

Holdfast__V1__ExportInfo *gateway_report_export(struct gateway_volume *v, struct arena *arena)
{
	Holdfast__V1__ExportInfo *out = ARENA_MESSAGE(arena, ExportInfo, export_info);
	char uri[256];

	gateway_volume_uri(v, uri);
	out->volume = arena_copy(arena, v->name);
	out->gateway = arena_copy(arena, v->gateway->daemon->name);
	out->listen = arena_copy(arena, *v->address ? v->address : v->gateway->nbd_address);
	out->uri = arena_copy(arena, uri);
	out->read_only = v->read_only;
	return out;
}

static void conditions_fill(const struct coordinator_info *info, uint32_t rf,
			    Holdfast__V1__VolumeInfo *out, struct arena *arena)
{
	struct condition conditions[CONDITIONS_MAX];

	out->n_conditions = condition_list(info, rf, conditions);
	out->conditions = ARENA_ARRAY(arena, char *, CONDITIONS_MAX);
	for (size_t i = 0; i < out->n_conditions; i++)
		out->conditions[i] = arena_copy(arena, conditions[i].text);
}

Holdfast__V1__VolumeInfo *gateway_report_volume(struct gateway_volume *v, struct arena *arena)
{
	Holdfast__V1__VolumeInfo *out = ARENA_MESSAGE(arena, VolumeInfo, volume_info);
	const struct volume_record *record = &v->meta.record;
	struct coordinator_info info;

	coordinator_info(v->coordinator, &info);
	out->name = arena_copy(arena, v->name);
	out->uuid = arena_uuid(arena, &record->uuid);
	out->size_bytes = info.size_blocks * BLOCK_BYTES;
	out->replicas = record->rf;
	out->state = arena_copy(arena, v->is_open ? "bound" : "binding");
	out->epoch = info.epoch;
	out->gateway = arena_copy(arena, v->gateway->daemon->name);
	conditions_fill(&info, record->rf, out, arena);
	out->n_replica = replicas_fill(v, &info, arena, &out->replica);
	if (v->is_exported) {
		out->exports = ARENA_ARRAY(arena, Holdfast__V1__ExportInfo *, 1);
		out->exports[out->n_exports++] = gateway_report_export(v, arena);
	}
	out->created_ms = record->created_ms;
	return out;
}

Holdfast__V1__ProcessInfo *gateway_report_process(struct gateway *g, struct arena *arena)
{
	Holdfast__V1__ProcessInfo *out = daemon_report(g->daemon, "gateway", arena);
	out->insecure_tcp = g->options->insecure_tcp;
	return out;
}

void gateway_event(struct gateway *g, enum event_level level, const char *volume, const char *kind,
		   const char *text)
{
	struct gateway_event *event;

	if (g->event_count == GATEWAY_EVENTS_MAX && g->event_sent > 0)
		return; /* told to nobody: the log has it */
	if (g->event_count == GATEWAY_EVENTS_MAX) {
		g->event_head = (g->event_head + 1) % GATEWAY_EVENTS_MAX;
		g->event_count--;
	}
	event = &g->events[(g->event_head + g->event_count++) % GATEWAY_EVENTS_MAX];
	event->time_ms = env_wall_ms(g->daemon->env);
	event->level = level;
	snprintf(event->object, sizeof(event->object), "volume/%.80s", volume);
	snprintf(event->kind, sizeof(event->kind), "%s", kind);
	snprintf(event->text, sizeof(event->text), "%s", text);
}

/* ---- metrics ---- */

static const struct metric_desc gateway_descs[GATEWAY_METRICS] = {
	{"holdfast_gateway_volumes", "Volumes attached", METRIC_GAUGE, false},
	{"holdfast_gateway_exports", "Volumes exported", METRIC_GAUGE, false},
	{"holdfast_gateway_connections", "NBD clients", METRIC_GAUGE, false},
	{"holdfast_gateway_manager_lost", "1 when heartbeats are not answered", METRIC_GAUGE,
	 false},
};

int gateway_metrics_add(struct gateway *g, struct err *err)
{
	int rc = 0;

	for (size_t i = 0; i < GATEWAY_METRICS && rc == 0; i++)
		rc = metric_add(g->daemon->metrics, &g->metrics[i], &gateway_descs[i], NULL, 0);
	return rc < 0 ? err_set(err, rc, "metrics: %s", err_name(rc)) : 0;
}

void gateway_metrics_update(struct gateway *g)
{
	struct nbd_stats stats;
	int64_t exports = 0;

	list_for_each (link, &g->volumes)
		exports += CONTAINER_OF(link, struct gateway_volume, link)->is_exported;
	metric_set(&g->metrics[0], g->volume_count);
	metric_set(&g->metrics[1], exports);
	nbd_server_stats(g->nbd, &stats);
	metric_set(&g->metrics[2], (int64_t)stats.connections);
	metric_set(&g->metrics[3], g->manager_lost);
}

void gateway_metrics_remove(struct gateway *g)
{
	for (size_t i = 0; i < GATEWAY_METRICS; i++)
		metric_remove(&g->metrics[i]);
}

#define VOLUME_METRICS 5

static const struct metric_desc volume_descs[VOLUME_METRICS] = {
	{"holdfast_volume_reads_total", "Reads answered", METRIC_COUNTER, false},
	{"holdfast_volume_writes_total", "Writes acknowledged", METRIC_COUNTER, false},
	{"holdfast_volume_read_bytes_total", "Bytes read", METRIC_COUNTER, false},
	{"holdfast_volume_written_bytes_total", "Bytes written", METRIC_COUNTER, false},
	{"holdfast_volume_errors_total", "Requests that failed", METRIC_COUNTER, false},
};

int gateway_volume_metrics_add(struct gateway_volume *v)
{
	struct blockdev_coordinator_counts *counts = blockdev_coordinator_counts(v->dev);
	struct metric *const metrics[VOLUME_METRICS] = {&counts->reads, &counts->writes,
							&counts->read_bytes, &counts->written_bytes,
							&counts->errors};
	const struct metric_label labels[] = {{"volume", v->name}};
	int rc = 0;

	for (size_t i = 0; i < VOLUME_METRICS && rc == 0; i++)
		rc = metric_add(v->gateway->daemon->metrics, metrics[i], &volume_descs[i], labels,
				1);
	if (rc < 0)
		log_event(LOG_WARN, "gateway", "metrics_missing", "vol=%s error=%s", v->name,
			  err_name(rc));
	return rc;
}

void gateway_volume_metrics_remove(struct gateway_volume *v)
{
	struct blockdev_coordinator_counts *counts;

	if (!v->dev)
		return;
	counts = blockdev_coordinator_counts(v->dev);
	metric_remove(&counts->reads);
	metric_remove(&counts->writes);
	metric_remove(&counts->read_bytes);
	metric_remove(&counts->written_bytes);
	metric_remove(&counts->errors);
}
