/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is shown: records, merged with what nodes and gateways last said.
 *
 * The record says what should be; a gateway that has the volume says how its replicas are; else
 * the node says where the replica stands. Silence counts as absence: nothing that an offline
 * process said is shown as current.
 */
#include "volmgr/manager.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "base/version.h"

/* What the node lists under that uuid; NULL when it does not. */
static const Holdfast__V1__ReplicaInfo *node_replica_of(const struct manager_node *node,
							const char *replica_uuid)
{
	if (node == NULL || node->report == NULL)
		return NULL;
	for (size_t i = 0; i < node->report->n_replicas; i++)
		if (strcmp(node->report->replicas[i]->replica_uuid, replica_uuid) == 0)
			return node->report->replicas[i];
	return NULL;
}

static const Holdfast__V1__ReplicaInfo *gateway_replica_of(const Holdfast__V1__VolumeInfo *report,
							   const char *replica_uuid)
{
	for (size_t i = 0; report != NULL && i < report->n_replica; i++)
		if (strcmp(report->replica[i]->replica_uuid, replica_uuid) == 0)
			return report->replica[i];
	return NULL;
}

/* The gateway's report, when the volume is there and the gateway is alive. */
static const Holdfast__V1__VolumeInfo *live_report(struct manager *m,
						   const struct manager_volume *volume)
{
	const struct manager_gateway *gateway = manager_gateway_find(m, volume->record.target_node);
	if (gateway == NULL || !gateway->online || volume->report == NULL ||
	    strcmp(volume->report_gateway, gateway->name) != 0)
		return NULL;
	for (size_t i = 0; i < gateway->report->n_volumes; i++)
		if (strcmp(gateway->report->volumes[i]->name, volume->record.name) == 0)
			return volume->report;
	return NULL; /* it does not speak of it any more */
}

static bool store_has_failed(const struct manager_node *node, const struct uuid *store_uuid)
{
	for (uint32_t i = 0; i < node->record.store_count; i++)
		if (uuid_equal(&node->record.stores[i].uuid, store_uuid))
			return node->record.stores[i].state == STORE_FAILED;
	return true; /* it does not have the store any more */
}

static void replica_position(Holdfast__V1__ReplicaInfo *out, const Holdfast__V1__ReplicaInfo *in)
{
	out->epoch = in->epoch;
	out->seq = in->seq;
	out->commit_seq = in->commit_seq;
	out->used_bytes = in->used_bytes;
}

/* The state and note of a replica that no gateway speaks for. */
static void replica_of_node(const struct manager_volume *volume, const struct manager_node *node,
			    const struct record_member *member, struct arena *arena,
			    Holdfast__V1__ReplicaInfo *out)
{
	const Holdfast__V1__ReplicaInfo *listed = node_replica_of(node, out->replica_uuid);
	const char *state = "idle", *note = "";
	enum volume_state volume_state = volume->record.state;
	bool should_be = volume_state != VOLUME_PENDING && volume_state != VOLUME_PROVISIONING &&
			 volume_state != VOLUME_FAILED && volume_state != VOLUME_DELETED;
	if (listed != NULL)
		replica_position(out, listed);
	if (node == NULL || !node->record.online) {
		state = "offline";
		note = "the node is offline";
	} else if (store_has_failed(node, &member->store_uuid)) {
		state = "lost";
		note = "its store has failed or is gone";
	} else if (listed == NULL && should_be &&
		   node->report->node->last_seen_ms > volume->record.created_ms + 2000) {
		state = "lost";
		note = "its store does not have it";
	} else if (listed != NULL) {
		state = strcmp(listed->state, "suspect") == 0 ? "suspect" : "idle";
		note = listed->note;
	}
	out->state = arena_copy(arena, state);
	out->note = arena_copy(arena, note);
}

static Holdfast__V1__ReplicaInfo *status_replica(struct manager *m,
						 const struct manager_volume *volume,
						 const struct record_member *member,
						 struct arena *arena)
{
	const Holdfast__V1__VolumeInfo *report = live_report(m, volume);
	const struct manager_node *node = manager_node_find(m, member->node);
	Holdfast__V1__ReplicaInfo *out = ARENA_MESSAGE(arena, ReplicaInfo, replica_info);
	char *uuid = arena_uuid(arena, &member->replica_uuid);
	const Holdfast__V1__ReplicaInfo *told = gateway_replica_of(report, uuid);
	if (told != NULL) {
		*out = *told; /* its strings live as long as the report: until the reply is packed
			       */
		const Holdfast__V1__ReplicaInfo *listed = node_replica_of(node, uuid);
		if (listed != NULL)
			out->used_bytes = listed->used_bytes;
		if (listed != NULL && out->seq == 0)
			replica_position(out, listed);
		if (listed != NULL && strcmp(out->state, "suspect") == 0 && listed->note[0] != '\0')
			out->note = listed->note; /* the node knows the entries and the store */
		if (strcmp(out->state, "lost") == 0 && node != NULL && node->record.online &&
		    store_has_failed(node, &member->store_uuid))
			out->note =
				arena_copy(arena, "its store has failed: 'store list' says why");
	}
	out->replica_uuid = uuid;
	out->volume = arena_copy(arena, volume->record.name);
	out->node = arena_copy(arena, member->node);
	out->store_uuid = arena_uuid(arena, &member->store_uuid);
	if (told == NULL)
		replica_of_node(volume, node, member, arena, out);
	return out;
}

static void condition_add(struct arena *arena, Holdfast__V1__VolumeInfo *out, const char *text)
{
	for (size_t i = 0; i < out->n_conditions; i++)
		if (strcmp(out->conditions[i], text) == 0)
			return;
	out->conditions[out->n_conditions++] = arena_copy(arena, text);
}

static bool replica_is(const Holdfast__V1__ReplicaInfo *replica, const char *state)
{
	return strcmp(replica->state, state) == 0;
}

/* Its gateway is there and has not yet had the time to speak of it. */
static bool is_just_bound(struct manager *m, const struct manager_volume *volume)
{
	const struct manager_gateway *gateway = manager_gateway_find(m, volume->record.target_node);
	return gateway != NULL && gateway->online && volume->bound_ns != 0 &&
	       env_now_ns(m->env) < volume->bound_ns + OFFLINE_AFTER_NS;
}

static void conditions_fill(struct manager *m, const struct manager_volume *volume,
			    struct arena *arena, Holdfast__V1__VolumeInfo *out)
{
	const struct volume_record *record = &volume->record;
	const Holdfast__V1__VolumeInfo *report = live_report(m, volume);
	size_t told = report != NULL ? report->n_conditions : 0;
	out->conditions = ARENA_ARRAY(arena, char *, told + VOLUME_CONDITIONS_MAX + 4);
	for (uint32_t i = 0; i < record->condition_count; i++)
		condition_add(arena, out,
			      arena_text(arena, "%s: %s", record->conditions[i].type,
					 record->conditions[i].reason));
	for (size_t i = 0; i < told; i++)
		condition_add(arena, out, report->conditions[i]);
	if (record->state == VOLUME_BOUND && report == NULL && !is_just_bound(m, volume))
		condition_add(arena, out,
			      arena_text(arena, "NoGateway: gateway '%s' does not report it",
					 record->target_node));
	uint32_t away = 0, suspect = 0;
	for (size_t i = 0; i < out->n_replica; i++) {
		away += replica_is(out->replica[i], "offline") ||
			replica_is(out->replica[i], "lost");
		suspect += replica_is(out->replica[i], "suspect");
	}
	if (report != NULL)
		return; /* the gateway knows better */
	if (suspect > 0 && record->rf - suspect < record->quorum)
		condition_add(arena, out,
			      arena_text(arena,
					 "Closed: rot in the logs of %u of %u replicas; "
					 "'replica list' says what to do",
					 suspect, record->rf));
	if (away == 0)
		return;
	condition_add(arena, out,
		      arena_text(arena, "%s: %u of %u replicas are there",
				 record->rf - away < record->quorum ? "NoQuorum" : "Degraded",
				 record->rf - away, record->rf));
}

/* Where the record and the gateway's socket say that it will be, before the gateway speaks of it.
 */
static void export_expect(struct manager *m, const struct manager_volume *volume,
			  struct arena *arena, Holdfast__V1__ExportInfo *export)
{
	const struct manager_gateway *gateway = manager_gateway_find(m, volume->export.gateway);
	const char *address = volume->export.address;
	if (address[0] == '\0')
		address = gateway != NULL && gateway->report != NULL ? gateway->report->nbd_address
								     : "";
	export->listen = arena_copy(arena, address);
	if (strncmp(address, "unix:", 5) == 0)
		export->uri = arena_text(arena, "nbd+unix:///%s?socket=%s", volume->record.name,
					 address + 5);
	else if (strncmp(address, "tcp:", 4) == 0)
		export->uri = arena_text(arena, "nbd://%s/%s", address + 4, volume->record.name);
}

static void export_fill(struct manager *m, const struct manager_volume *volume, struct arena *arena,
			Holdfast__V1__VolumeInfo *out)
{
	const Holdfast__V1__VolumeInfo *report = live_report(m, volume);
	if (!volume->has_export || volume->record.state != VOLUME_BOUND)
		return;
	Holdfast__V1__ExportInfo *export = ARENA_MESSAGE(arena, ExportInfo, export_info);
	if (report != NULL && report->n_exports > 0)
		*export = *report->exports[0];
	else
		export_expect(m, volume, arena, export);
	export->volume = arena_copy(arena, volume->record.name);
	export->gateway = arena_copy(arena, volume->export.gateway);
	export->read_only = volume->export.read_only;
	out->exports = ARENA_ARRAY(arena, Holdfast__V1__ExportInfo *, 1);
	out->exports[out->n_exports++] = export;
}

Holdfast__V1__VolumeInfo *status_volume(struct manager *m, struct manager_volume *volume,
					struct arena *arena)
{
	const struct volume_record *record = &volume->record;
	Holdfast__V1__VolumeInfo *out = ARENA_MESSAGE(arena, VolumeInfo, volume_info);
	out->name = arena_copy(arena, record->name);
	out->uuid = arena_uuid(arena, &record->uuid);
	out->size_bytes = record->size_bytes;
	out->replicas = record->rf;
	out->state = arena_copy(arena, volume_state_name(record->state));
	out->epoch = record->epoch;
	out->created_ms = record->created_ms;
	out->params = ARENA_ARRAY(arena, Holdfast__V1__Param *, record->param_count);
	for (uint32_t i = 0; i < record->param_count; i++) {
		Holdfast__V1__Param *param = ARENA_MESSAGE(arena, Param, param);
		param->key = arena_copy(arena, record->params[i].key);
		param->value = arena_copy(arena, record->params[i].value);
		out->params[out->n_params++] = param;
	}
	if (record->state == VOLUME_BOUND || record->state == VOLUME_BINDING ||
	    record->state == VOLUME_RELEASING)
		out->gateway = arena_copy(arena, record->target_node);
	out->replica = ARENA_ARRAY(arena, Holdfast__V1__ReplicaInfo *,
				   VOLUME_VOTERS_MAX + VOLUME_LEARNERS_MAX);
	for (uint32_t i = 0; i < record->voter_count; i++) {
		out->replica[out->n_replica] = status_replica(m, volume, &record->voters[i], arena);
		out->replica[out->n_replica++]->voter = true;
	}
	for (uint32_t i = 0; i < record->learner_count; i++)
		out->replica[out->n_replica++] =
			status_replica(m, volume, &record->learners[i], arena);
	export_fill(m, volume, arena, out);
	conditions_fill(m, volume, arena, out);
	return out;
}

/* ---- nodes ---- */

static Holdfast__V1__StoreInfo *store_of_record(const struct record_store *store,
						struct arena *arena)
{
	Holdfast__V1__StoreInfo *out = ARENA_MESSAGE(arena, StoreInfo, store_info);
	out->uuid = arena_uuid(arena, &store->uuid);
	out->state = arena_copy(arena, store_state_name(store->state));
	out->capacity_bytes = store->capacity_bytes;
	out->used_bytes = store->used_bytes;
	return out;
}

Holdfast__V1__NodeInfo *status_node(struct manager *m, struct manager_node *node,
				    struct arena *arena)
{
	const struct node_record *record = &node->record;
	Holdfast__V1__NodeInfo *out = ARENA_MESSAGE(arena, NodeInfo, node_info);
	(void)m;
	if (node->report != NULL) {
		*out = *node->report->node;
	} else {
		out->name = arena_copy(arena, record->name);
		out->uuid = arena_uuid(arena, &record->uuid);
		out->address = arena_copy(arena, record->address);
		out->admin_address = arena_copy(arena, record->admin_address);
		out->zone = arena_copy(arena, record->zone);
		out->rack = arena_copy(arena, record->rack);
		out->host = arena_copy(arena, record->host);
		out->stores = ARENA_ARRAY(arena, Holdfast__V1__StoreInfo *, record->store_count);
		for (uint32_t i = 0; i < record->store_count; i++)
			out->stores[out->n_stores++] = store_of_record(&record->stores[i], arena);
	}
	out->state = arena_copy(arena, record->online ? "online" : "offline");
	out->cordoned = record->cordoned;
	out->last_seen_ms = record->last_seen_ms;
	if (!record->online)
		out->pid = 0;
	return out;
}

static void nodes_fill(struct manager *m, struct arena *arena, Holdfast__V1__StatusReply *reply)
{
	reply->nodes = ARENA_ARRAY(arena, Holdfast__V1__NodeInfo *, m->node_count);
	list_for_each (n, &m->nodes) {
		struct manager_node *node = CONTAINER_OF(n, struct manager_node, link);
		reply->nodes[reply->n_nodes++] = status_node(m, node, arena);
		for (uint32_t i = 0; i < node->record.store_count; i++) {
			reply->capacity_bytes += node->record.stores[i].capacity_bytes;
			reply->used_bytes += node->record.stores[i].used_bytes;
		}
	}
	reply->cluster_uuid = arena_uuid(arena, &m->daemon->cluster_uuid);
	reply->version = arena_copy(arena, build_version());
}

/* ---- processes ---- */

static Holdfast__V1__ProcessInfo *node_process(struct manager_node *node, struct arena *arena)
{
	Holdfast__V1__ProcessInfo *out = ARENA_MESSAGE(arena, ProcessInfo, process_info);
	const Holdfast__V1__NodeInfo *info = node->report != NULL ? node->report->node : NULL;
	out->role = arena_copy(arena, "node");
	out->name = arena_copy(arena, node->record.name);
	out->state = arena_copy(arena, node->record.online ? "running" : "stopped");
	out->admin_address = arena_copy(arena, node->record.admin_address);
	if (info == NULL)
		return out;
	out->pid = node->record.online ? info->pid : 0;
	out->io_engine = info->io_engine;
	out->version = info->version;
	out->started_ms = info->started_ms;
	out->metrics_address = info->metrics_address;
	out->insecure_tcp = info->insecure_tcp;
	out->cpus = info->cpus;
	out->cpu_latency = info->cpu_latency;
	return out;
}

static void processes_fill(struct manager *m, struct arena *arena, Holdfast__V1__StatusReply *reply)
{
	reply->processes = ARENA_ARRAY(arena, Holdfast__V1__ProcessInfo *,
				       1 + m->node_count + m->gateway_count);
	reply->processes[reply->n_processes++] = daemon_report(m->daemon, "manager", arena);
	list_for_each (n, &m->nodes)
		reply->processes[reply->n_processes++] =
			node_process(CONTAINER_OF(n, struct manager_node, link), arena);
	list_for_each (n, &m->gateways) {
		struct manager_gateway *gateway = CONTAINER_OF(n, struct manager_gateway, link);
		if (gateway->report == NULL)
			continue; /* its first heartbeat was refused */
		Holdfast__V1__ProcessInfo *out = ARENA_MESSAGE(arena, ProcessInfo, process_info);
		*out = *gateway->report->gateway;
		out->role = arena_copy(arena, "gateway");
		out->state = arena_copy(arena, gateway->online ? "running" : "stopped");
		if (!gateway->online)
			out->pid = 0;
		reply->processes[reply->n_processes++] = out;
	}
}

static void warnings_fill(struct manager *m, struct arena *arena, Holdfast__V1__StatusReply *reply)
{
	reply->warnings = ARENA_ARRAY(
		arena, char *, m->node_count *(1 + NODE_STORES_MAX) + reply->n_processes + 3);
	for (size_t i = 0; i < reply->n_processes; i++)
		if (reply->processes[i]->insecure_tcp)
			reply->warnings[reply->n_warnings++] = arena_text(
				arena, "%s '%s' runs with --insecure-tcp: its TCP is not encrypted",
				reply->processes[i]->role, reply->processes[i]->name);
	list_for_each (n, &m->nodes) {
		const struct manager_node *node = CONTAINER_OF(n, struct manager_node, link);
		if (!node->record.online)
			reply->warnings[reply->n_warnings++] =
				arena_text(arena, "node '%s' is offline", node->record.name);
		const Holdfast__V1__NodeInfo *info =
			node->report != NULL ? node->report->node : NULL;
		for (size_t i = 0; info != NULL && node->record.online && i < info->n_stores &&
				   i < NODE_STORES_MAX;
		     i++)
			if (strcmp(info->stores[i]->state, "ok") != 0)
				reply->warnings[reply->n_warnings++] =
					arena_text(arena, "node '%s': store %s has failed: %s",
						   node->record.name, info->stores[i]->path,
						   info->stores[i]->reason);
	}
	if (manager_gateway_any(m) == NULL)
		reply->warnings[reply->n_warnings++] = arena_copy(arena, "no gateway is online");
	if (m->records_bad)
		reply->warnings[reply->n_warnings++] = arena_copy(
			arena, "a volume's record cannot be read: see the manager's log");
	if (reply->capacity_bytes > 0 && reply->used_bytes > reply->capacity_bytes / 10 * 9)
		reply->warnings[reply->n_warnings++] =
			arena_copy(arena, "more than 90 % of the space is used");
}

/* ---- handlers ---- */

void manager_node_list(void *ctx, struct rpc_call *call)
{
	struct manager *m = ctx;
	struct arena arena = {0};
	Holdfast__V1__StatusReply *reply = ARENA_MESSAGE(&arena, StatusReply, status_reply);
	nodes_fill(m, &arena, reply);
	(void)rpc_call_reply(call, &reply->base);
	arena_free(&arena);
}

static size_t volumes_fill(struct manager *m, struct arena *arena, Holdfast__V1__VolumeInfo ***ret)
{
	size_t count = 0;
	*ret = ARENA_ARRAY(arena, Holdfast__V1__VolumeInfo *, m->volume_count);
	list_for_each (n, &m->volumes)
		(*ret)[count++] =
			status_volume(m, CONTAINER_OF(n, struct manager_volume, link), arena);
	return count;
}

void manager_status(void *ctx, struct rpc_call *call)
{
	struct manager *m = ctx;
	struct arena arena = {0};
	Holdfast__V1__StatusReply *reply = ARENA_MESSAGE(&arena, StatusReply, status_reply);
	nodes_fill(m, &arena, reply);
	processes_fill(m, &arena, reply);
	reply->n_volumes = volumes_fill(m, &arena, &reply->volumes);
	warnings_fill(m, &arena, reply);
	(void)rpc_call_reply(call, &reply->base);
	arena_free(&arena);
}

void manager_volume_list(void *ctx, struct rpc_call *call)
{
	struct arena arena = {0};
	Holdfast__V1__VolumeListReply *reply =
		ARENA_MESSAGE(&arena, VolumeListReply, volume_list_reply);
	reply->n_volumes = volumes_fill(ctx, &arena, &reply->volumes);
	(void)rpc_call_reply(call, &reply->base);
	arena_free(&arena);
}

/* The volume, or NULL when the call was answered. */
static struct manager_volume *volume_of_call(struct manager *m, struct rpc_call *call)
{
	const Holdfast__V1__VolumeName *request =
		(const Holdfast__V1__VolumeName *)rpc_call_request(call);
	struct err err = {0};
	struct manager_volume *volume = NULL;
	if (name_check("volume name", request->name, &err) < 0) {
		call_fail(call, &err);
		return NULL;
	}
	volume = manager_volume_find(m, request->name);
	if (volume == NULL)
		rpc_call_fail(call, RPC_NOT_FOUND, "volume '%s' does not exist", request->name);
	return volume;
}

void manager_volume_get(void *ctx, struct rpc_call *call)
{
	struct manager *m = ctx;
	struct arena arena = {0};
	struct manager_volume *volume = volume_of_call(m, call);
	if (volume == NULL)
		return;
	(void)rpc_call_reply(call, &status_volume(m, volume, &arena)->base);
	arena_free(&arena);
}

void manager_replica_list(void *ctx, struct rpc_call *call)
{
	struct manager *m = ctx;
	struct arena arena = {0};
	struct manager_volume *volume = volume_of_call(m, call);
	if (volume == NULL)
		return;
	Holdfast__V1__VolumeInfo *info = status_volume(m, volume, &arena);
	Holdfast__V1__ReplicaListReply *reply =
		ARENA_MESSAGE(&arena, ReplicaListReply, replica_list_reply);
	reply->replicas = info->replica;
	reply->n_replicas = info->n_replica;
	(void)rpc_call_reply(call, &reply->base);
	arena_free(&arena);
}
