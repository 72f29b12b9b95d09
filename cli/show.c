/* SPDX-License-Identifier: Apache-2.0 */
/* Messages as JSON: one function per message, one line per field. */
#include "cli/show.h"

#include <string.h>

#include "cli/local.h"

const struct cli_column columns_node[] = {
	{"NAME", "name", COLUMN_TEXT, false},
	{"STATE", "state", COLUMN_TEXT, false},
	{"PID", "pid", COLUMN_NUMBER, false},
	{"STORES", "store_count", COLUMN_NUMBER, false},
	{"CAPACITY", "capacity", COLUMN_SIZE, false},
	{"USED", "used", COLUMN_SIZE, false},
	{"ENGINE", "io_engine", COLUMN_TEXT, false},
	{"ZONE", "zone", COLUMN_TEXT, true},
	{"RACK", "rack", COLUMN_TEXT, true},
	{"HOST", "host", COLUMN_TEXT, true},
	{"SEEN", "last_seen_ms", COLUMN_TIME, true},
	{"ADDRESS", "address", COLUMN_TEXT, true},
	{"VERSION", "version", COLUMN_TEXT, true},
	{0},
};
const struct cli_column columns_store[] = {
	{"NODE", "node", COLUMN_TEXT, false},
	{"STATE", "state", COLUMN_TEXT, false},
	{"CAPACITY", "capacity", COLUMN_SIZE, false},
	{"USED", "used", COLUMN_SIZE, false},
	{"REPLICAS", "replica_count", COLUMN_NUMBER, false},
	{"TYPE", "type", COLUMN_TEXT, false},
	{"PATH", "path", COLUMN_TEXT, false},
	{"UUID", "uuid", COLUMN_TEXT, true},
	{"REASON", "reason", COLUMN_TEXT, false},
	{0},
};
const struct cli_column columns_replica[] = {
	{"NODE", "node", COLUMN_TEXT, false},
	{"STATE", "state", COLUMN_TEXT, false},
	{"EPOCH", "epoch", COLUMN_NUMBER, false},
	{"SEQ", "seq", COLUMN_NUMBER, false},
	{"COMMITTED", "commit_seq", COLUMN_NUMBER, false},
	{"BEHIND", "lag_entries", COLUMN_NUMBER, false},
	{"RESYNCED", "resync_bytes", COLUMN_SIZE, false},
	{"USED", "used", COLUMN_SIZE, false},
	{"STORE", "store_uuid", COLUMN_TEXT, true},
	{"REPLICA", "replica_uuid", COLUMN_TEXT, true},
	{"NOTE", "note", COLUMN_TEXT, false},
	{0},
};

json_t *replica_json(const Holdfast__V1__ReplicaInfo *r)
{
	return json_pack("{ss ss ss ss ss sI sI sI sI sI sI sI sI ss sb}", "volume", r->volume,
			 "node", r->node, "state", r->state, "replica_uuid", r->replica_uuid,
			 "store_uuid", r->store_uuid, "epoch", (json_int_t)r->epoch, "seq",
			 (json_int_t)r->seq, "commit_seq", (json_int_t)r->commit_seq, "lag_entries",
			 (json_int_t)r->lag_entries, "resync_bytes", (json_int_t)r->resync_bytes,
			 "resync_chunks_done", (json_int_t)r->resync_chunks_done,
			 "resync_chunks_total", (json_int_t)r->resync_chunks_total, "used",
			 (json_int_t)r->used_bytes, "note", r->note, "voter", r->voter);
}

json_t *export_json(const Holdfast__V1__ExportInfo *e)
{
	return json_pack("{ss ss ss ss sb}", "volume", e->volume, "gateway", e->gateway, "listen",
			 e->listen, "uri", e->uri, "read_only", e->read_only);
}

json_t *process_json(const Holdfast__V1__ProcessInfo *p)
{
	return json_pack("{ss ss sI ss ss ss ss sI ss sb ss ss}", "role", p->role, "name", p->name,
			 "pid", (json_int_t)p->pid, "state", p->state, "admin_address",
			 p->admin_address, "io_engine", p->io_engine, "version", p->version,
			 "started_ms", (json_int_t)p->started_ms, "metrics_address",
			 p->metrics_address, "insecure_tcp", p->insecure_tcp, "cpus", p->cpus,
			 "cpu_latency", p->cpu_latency);
}

json_t *volume_json(const Holdfast__V1__VolumeInfo *v)
{
	json_t *conditions = json_array();
	json_t *params = json_object();
	json_t *exports = json_array();
	json_t *replicas = json_array();

	for (size_t i = 0; i < v->n_conditions; i++)
		json_array_append_new(conditions, json_string(v->conditions[i]));
	for (size_t i = 0; i < v->n_params; i++)
		json_object_set_new(params, v->params[i]->key, json_string(v->params[i]->value));
	for (size_t i = 0; i < v->n_exports; i++)
		json_array_append_new(exports, export_json(v->exports[i]));
	for (size_t i = 0; i < v->n_replica; i++)
		json_array_append_new(replicas, replica_json(v->replica[i]));
	return json_pack("{ss ss sI sI ss so sI ss sI so so so}", "name", v->name, "uuid", v->uuid,
			 "size", (json_int_t)v->size_bytes, "replicas", (json_int_t)v->replicas,
			 "state", v->state, "conditions", conditions, "epoch", (json_int_t)v->epoch,
			 "gateway", v->gateway, "created_ms", (json_int_t)v->created_ms, "params",
			 params, "exports", exports, "replica", replicas);
}

json_t *store_json(const Holdfast__V1__StoreInfo *s, const char *node)
{
	json_t *counters = json_object();

	for (size_t i = 0; i < s->n_counters; i++)
		json_object_set_new(counters, s->counters[i]->name,
				    json_integer((json_int_t)s->counters[i]->value));
	return json_pack("{ss ss ss ss ss ss sI sI sI sI sI sI so}", "node", node, "uuid", s->uuid,
			 "path", s->path, "type", s->type, "state", s->state, "reason", s->reason,
			 "capacity", (json_int_t)s->capacity_bytes, "used",
			 (json_int_t)s->used_bytes, "reserved", (json_int_t)s->reserved_bytes,
			 "replica_count", (json_int_t)s->replica_count, "incarnation",
			 (json_int_t)s->incarnation, "root_generation",
			 (json_int_t)s->root_generation, "counters", counters);
}

json_t *node_json(const struct cli *cli, const Holdfast__V1__NodeInfo *n)
{
	bool is_local = !cli->manager && local_exists(cli, n->name);
	pid_t pid = is_local ? local_pid(cli, n->name) : (pid_t)n->pid;
	bool is_gone = is_local && pid == 0;
	json_int_t capacity = 0, used = 0;
	json_t *stores = json_array();

	for (size_t i = 0; i < n->n_stores; i++) {
		json_array_append_new(stores, store_json(n->stores[i], n->name));
		capacity += (json_int_t)n->stores[i]->capacity_bytes;
		used += (json_int_t)n->stores[i]->used_bytes;
	}
	return json_pack(
		"{ss sI ss ss sI sI sI sb ss ss ss ss ss ss ss sI sb ss ss so}", "name", n->name,
		"pid", (json_int_t)pid, "state", is_gone ? "offline" : n->state, "uuid", n->uuid,
		"store_count", (json_int_t)n->n_stores, "capacity", capacity, "used", used,
		"cordoned", n->cordoned, "address", n->address, "admin_address", n->admin_address,
		"zone", n->zone, "rack", n->rack, "host", n->host, "io_engine", n->io_engine,
		"version", n->version, "last_seen_ms", (json_int_t)n->last_seen_ms, "insecure_tcp",
		n->insecure_tcp, "cpus", n->cpus, "cpu_latency", n->cpu_latency, "stores", stores);
}

/* ---- long forms ---- */

void volume_show(FILE *out, json_t *volume)
{
	static const struct cli_column export_columns[] = {
		{"EXPORTED BY", "gateway", COLUMN_TEXT, false},
		{"READ-ONLY", "read_only", COLUMN_TEXT, false},
		{"URI", "uri", COLUMN_TEXT, false},
		{0},
	};
	json_t *replicas = json_object_get(volume, "replica");
	json_t *exports = json_object_get(volume, "exports");
	json_t *conditions = json_object_get(volume, "conditions");
	const char *gateway = json_string_value(json_object_get(volume, "gateway"));
	char size[32];
	size_t index;
	json_t *item;

	fprintf(out, "volume    %s (%s)\n", json_string_value(json_object_get(volume, "name")),
		json_string_value(json_object_get(volume, "uuid")));
	fprintf(out, "size      %s\n",
		size_format((uint64_t)json_integer_value(json_object_get(volume, "size")), size));
	fprintf(out, "replicas  %lld\n",
		(long long)json_integer_value(json_object_get(volume, "replicas")));
	fprintf(out, "state     %s\n", json_string_value(json_object_get(volume, "state")));
	if (gateway && *gateway)
		fprintf(out, "gateway   %s\n", gateway);
	json_array_foreach(conditions, index, item)
		fprintf(out, "condition %s\n", json_string_value(item));
	if (json_array_size(replicas)) {
		fprintf(out, "\n");
		table_print(out, columns_replica, replicas, false);
	}
	if (json_array_size(exports)) {
		fprintf(out, "\n");
		table_print(out, export_columns, exports, false);
	}
}

static const struct cli_column columns_process[] = {
	{"ROLE", "role", COLUMN_TEXT, false},
	{"NAME", "name", COLUMN_TEXT, false},
	{"STATE", "state", COLUMN_TEXT, false},
	{"PID", "pid", COLUMN_NUMBER, false},
	{"ENGINE", "io_engine", COLUMN_TEXT, false},
	{"VERSION", "version", COLUMN_TEXT, false},
	{"METRICS", "metrics_address", COLUMN_TEXT, true},
	{0},
};
static const struct cli_column columns_status_volume[] = {
	{"VOLUME", "name", COLUMN_TEXT, false},
	{"SIZE", "size", COLUMN_SIZE, false},
	{"REPLICAS", "replicas", COLUMN_NUMBER, false},
	{"STATE", "state", COLUMN_TEXT, false},
	{"GATEWAY", "gateway", COLUMN_TEXT, false},
	{"CONDITIONS", "conditions", COLUMN_LIST, false},
	{0},
};

/* The pid of a local process is looked at, not believed. */
static json_t *process_now(const struct cli *cli, const Holdfast__V1__ProcessInfo *info)
{
	json_t *process = process_json(info);

	if (!cli->manager && local_exists(cli, info->name)) {
		pid_t pid = local_pid(cli, info->name);
		json_object_set_new(process, "pid", json_integer(pid));
		if (!pid)
			json_object_set_new(process, "state", json_string("stopped"));
	}
	return process;
}

static json_t *status_json(const struct cli *cli, const Holdfast__V1__StatusReply *status)
{
	json_t *processes = json_array(), *nodes = json_array();
	json_t *volumes = json_array(), *warnings = json_array();

	for (size_t i = 0; i < status->n_processes; i++)
		if (strcmp(status->processes[i]->role, "node") != 0)
			json_array_append_new(processes, process_now(cli, status->processes[i]));
	for (size_t i = 0; i < status->n_nodes; i++)
		json_array_append_new(nodes, node_json(cli, status->nodes[i]));
	for (size_t i = 0; i < status->n_volumes; i++)
		json_array_append_new(volumes, volume_json(status->volumes[i]));
	for (size_t i = 0; i < status->n_warnings; i++)
		json_array_append_new(warnings, json_string(status->warnings[i]));
	json_t *object = json_pack("{ss ss sI sI}", "cluster_uuid", status->cluster_uuid, "version",
				   status->version, "capacity", (json_int_t)status->capacity_bytes,
				   "used", (json_int_t)status->used_bytes);
	size_t index;
	json_t *process;
	json_array_foreach(processes, index, process)
	{
		const char *role = json_string_value(json_object_get(process, "role"));
		if (role && !json_object_get(object, role))
			json_object_set(object, role, process);
	}
	json_object_set_new(object, "processes", processes);
	json_object_set_new(object, "nodes", nodes);
	json_object_set_new(object, "volumes", volumes);
	json_object_set_new(object, "warnings", warnings);
	return object;
}

static void section_print(FILE *out, const struct cli_column *columns, json_t *items, bool is_wide)
{
	if (!json_array_size(items))
		return;
	fprintf(out, "\n");
	table_print(out, columns, items, is_wide);
}

int status_print(struct cli *cli, const Holdfast__V1__StatusReply *status)
{
	json_t *object = status_json(cli, status);
	bool is_wide = cli->format == CLI_WIDE;
	char used[32], capacity[32];
	size_t index, inner;
	json_t *volume, *export, *warning;

	if (cli->format == CLI_JSON)
		return cli_print_json(object);
	printf("cluster %s: %s of %s used\n\n", status->cluster_uuid,
	       size_format(status->used_bytes, used),
	       size_format(status->capacity_bytes, capacity));
	table_print(stdout, columns_process, json_object_get(object, "processes"), is_wide);
	section_print(stdout, columns_node, json_object_get(object, "nodes"), is_wide);
	section_print(stdout, columns_status_volume, json_object_get(object, "volumes"), is_wide);
	json_array_foreach(json_object_get(object, "volumes"), index, volume)
		json_array_foreach(json_object_get(volume, "exports"), inner, export)
			printf("export %s at %s\n",
			       json_string_value(json_object_get(export, "volume")),
			       json_string_value(json_object_get(export, "uri")));
	json_array_foreach(json_object_get(object, "warnings"), index, warning)
		printf("warning: %s\n", json_string_value(warning));
	json_decref(object);
	return CLI_OK;
}
