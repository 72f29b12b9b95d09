/* SPDX-License-Identifier: Apache-2.0 */
/* Status, nodes, stores of the cluster, events. */
#include "cli/cli.h"

#include <errno.h>
#include <string.h>

#include "cli/local.h"
#include "cli/show.h"
#include "volmgr/records.h"

#define NODE_STOP_MS 12000

static int status_call(struct cli *cli, const char *method, ProtobufCMessage **ret, struct err *err)
{
	Holdfast__V1__Empty request = HOLDFAST__V1__EMPTY__INIT;

	return cli_call(cli, method, &request.base, ret, err);
}

int verb_status(struct cli *cli)
{
	ProtobufCMessage *reply;
	struct err err = {0};
	int code;

	if (status_call(cli, "Status", &reply, &err) < 0)
		return cli_call_failed(cli, &err);
	code = status_print(cli, (void *)reply);
	rpc_message_free(reply);
	return code;
}

int verb_node_list(struct cli *cli)
{
	ProtobufCMessage *reply;
	struct err err = {0};
	json_t *items;

	if (status_call(cli, "NodeList", &reply, &err) < 0)
		return cli_call_failed(cli, &err);
	const Holdfast__V1__StatusReply *status = (void *)reply;
	items = json_array();
	for (size_t i = 0; i < status->n_nodes; i++)
		json_array_append_new(items, node_json(cli, status->nodes[i]));
	rpc_message_free(reply);
	return cli_print_items(cli, columns_node, items);
}

static void node_print(json_t *node)
{
	static const char *const keys[] = {"name",          "state", "uuid",        "address",
					   "admin_address", "zone",  "rack",        "host",
					   "io_engine",     "cpus",  "cpu_latency", "version"};

	for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
		const char *text = json_string_value(json_object_get(node, keys[i]));
		printf("%-14s %s\n", keys[i], text && *text ? text : "-");
	}
	printf("%-14s %lld\n\n", "pid",
	       (long long)json_integer_value(json_object_get(node, "pid")));
	table_print(stdout, columns_store, json_object_get(node, "stores"), true);
}

int verb_node_show(struct cli *cli)
{
	ProtobufCMessage *reply;
	struct err err = {0};
	json_t *node = NULL;

	if (status_call(cli, "NodeList", &reply, &err) < 0)
		return cli_call_failed(cli, &err);
	const Holdfast__V1__StatusReply *status = (void *)reply;
	for (size_t i = 0; i < status->n_nodes && !node; i++)
		if (strcmp(status->nodes[i]->name, cli->arguments[0]) == 0)
			node = node_json(cli, status->nodes[i]);
	rpc_message_free(reply);
	if (!node)
		return cli_fail(CLI_NOT_FOUND, "'holdfast node list' shows the nodes.",
				"node '%s' does not exist", cli->arguments[0]);
	if (cli->format == CLI_JSON)
		return cli_print_json(node);
	node_print(node);
	json_decref(node);
	return CLI_OK;
}

int verb_store_list(struct cli *cli)
{
	ProtobufCMessage *reply;
	struct err err = {0};
	json_t *items;

	if (status_call(cli, "NodeList", &reply, &err) < 0)
		return cli_call_failed(cli, &err);
	const Holdfast__V1__StatusReply *status = (void *)reply;
	items = json_array();
	for (size_t i = 0; i < status->n_nodes; i++) {
		const Holdfast__V1__NodeInfo *node = status->nodes[i];
		for (size_t j = 0; j < node->n_stores; j++)
			json_array_append_new(items, store_json(node->stores[j], node->name));
	}
	rpc_message_free(reply);
	return cli_print_items(cli, columns_store, items);
}

/* ---- local nodes ---- */

/* The name is one of a local storage node: 0, or the exit code. */
static int local_node_check(struct cli *cli)
{
	const char *name = cli->arguments[0];
	struct err err = {0};

	if (name_check("node name", name, &err) < 0)
		return cli_fail_err(&err, NULL);
	if (cli->manager)
		return cli_fail(CLI_USAGE, "Use --dir on the machine of the node.",
				"nodes are started and stopped on their own machine, not through "
				"--manager");
	if (strcmp(name, LOCAL_MANAGER) == 0 || strcmp(name, LOCAL_GATEWAY) == 0 ||
	    strlen(name) >= LOCAL_NAME_BYTES || !local_exists(cli, name))
		return cli_fail(CLI_NOT_FOUND, "'holdfast node list' shows the nodes.",
				"there is no local node '%s' in %s", name, cli->dir);
	return CLI_OK;
}

static bool node_is_online(struct cli *cli, const char *name, pid_t pid)
{
	ProtobufCMessage *reply;
	struct err err = {0};
	bool online = false;

	if (status_call(cli, "NodeList", &reply, &err) < 0)
		return false;
	const Holdfast__V1__StatusReply *status = (void *)reply;
	for (size_t i = 0; i < status->n_nodes; i++)
		online = online || (strcmp(status->nodes[i]->name, name) == 0 &&
				    strcmp(status->nodes[i]->state, "online") == 0 &&
				    status->nodes[i]->pid == pid);
	rpc_message_free(reply);
	return online;
}

int verb_node_start(struct cli *cli)
{
	const char *name = cli->arguments[0];
	uint64_t deadline_ms = clock_ms() + cli->timeout_ms;
	struct local_process process = {.role = "node"};
	bool has_manager;
	struct err err = {0};
	int code = local_node_check(cli);

	if (code != CLI_OK)
		return code;
	snprintf(process.name, sizeof(process.name), "%s", name);
	has_manager = local_pid(cli, LOCAL_MANAGER) != 0;
	for (;;) {
		if (local_ended(cli, &process))
			return CLI_FAILED;
		if (local_start(cli, &process, &err) < 0)
			return cli_fail_err(&err, NULL);
		if (local_answers(cli, &process) &&
		    (!has_manager || node_is_online(cli, name, local_pid(cli, name))))
			return CLI_OK;
		if (clock_ms() > deadline_ms)
			break;
		sleep_ms(20);
	}
	(void)cli_fail(CLI_TIMEOUT, NULL, "node '%s' is not online after %u ms", name,
		       cli->timeout_ms);
	local_log_tail(cli, name, 8);
	return CLI_TIMEOUT;
}

int verb_node_stop(struct cli *cli)
{
	struct err err = {0};
	int code = local_node_check(cli);

	if (code != CLI_OK)
		return code;
	if (local_stop(cli, cli->arguments[0], clock_ms() + NODE_STOP_MS, &err) < 0)
		return cli_fail_err(&err, "See its log; SIGKILL is safe, too.");
	return CLI_OK;
}

/* ---- events ---- */

int verb_events(struct cli *cli)
{
	static const struct cli_column columns[] = {
		{"SEQ", "seq", COLUMN_NUMBER, false},
		{"TIME", "time_ms", COLUMN_TIME, false},
		{"LEVEL", "level", COLUMN_TEXT, false},
		{"OBJECT", "object", COLUMN_TEXT, false},
		{"KIND", "kind", COLUMN_TEXT, false},
		{"TEXT", "text", COLUMN_TEXT, false},
		{0},
	};
	Holdfast__V1__EventsRequest request = HOLDFAST__V1__EVENTS_REQUEST__INIT;
	ProtobufCMessage *reply;
	uint64_t since = 0, limit = 0;
	struct err err = {0};
	json_t *items;

	if (cli_number(cli, "since", UINT64_MAX, &since, &err) < 0 ||
	    cli_number(cli, "limit", EVENTS_MAX, &limit, &err) < 0)
		return cli_fail_err(&err, NULL);
	request.since_seq = since;
	request.limit = (uint32_t)limit;
	if (cli_call(cli, "Events", &request.base, &reply, &err) < 0)
		return cli_call_failed(cli, &err);
	const Holdfast__V1__EventsReply *events = (void *)reply;
	items = json_array();
	for (size_t i = 0; i < events->n_events; i++) {
		const Holdfast__V1__Event *e = events->events[i];
		json_array_append_new(
			items, json_pack("{sI sI ss ss ss ss}", "seq", (json_int_t)e->seq,
					 "time_ms", (json_int_t)e->time_ms, "level", e->level,
					 "object", e->object, "kind", e->kind, "text", e->text));
	}
	rpc_message_free(reply);
	return cli_print_items(cli, columns, items);
}
