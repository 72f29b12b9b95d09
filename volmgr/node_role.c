/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The role node: opens its stores, serves their replicas, tells the manager about itself.
 *
 * N1  It formats nothing. A store that cannot be opened is reported as failed and the others are
 *     served; a node without any store ends.
 * N2  It serves only peers of the cluster that it first joined; the cluster's uuid comes with the
 *     first heartbeat and is kept (daemon.h, D3). With the manager away a node that knows its
 *     cluster starts and serves all the same: heartbeats matter to status and placement only.
 * N3  A store that fails is taken out, and opened again through recovery by itself (node_stores.c).
 * N4  The end in order: no more admin calls, then no more connections, then LEASE none (node.h, R5), then
 *     each store is closed with a checkpoint. Killed at any point, the stores recover.
 */
#include "volmgr/node_role.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "volmgr/records.h"

#define BEAT_INTERVAL_NS     1000000000ull
#define BEAT_TIMEOUT_MS      2000
#define BEAT_INTERVAL_MIN_NS 100000000ull
#define BEAT_INTERVAL_MAX_NS 10000000000ull
#define IDLE_INTERVAL_NS     4000000000ull

/* Anything after a comma that says KEY=VALUE is a label; other commas belong to the path. */
int store_option_parse(const char *text, char path[STORE_PATH_BYTES], char type[LABEL_BYTES],
		       struct err *err)
{
	const char *comma = strrchr(text, ',');
	const char *label = comma != NULL && strchr(comma, '=') != NULL ? comma + 1 : NULL;
	size_t path_bytes = label != NULL ? (size_t)(comma - text) : strlen(text);
	type[0] = '\0';
	if (path_bytes == 0 || path_bytes >= STORE_PATH_BYTES)
		return err_set(err, -EINVAL, "the path has %zu bytes, not 1 to %d", path_bytes,
			       STORE_PATH_BYTES - 1);
	if (label != NULL && strncmp(label, "type=", 5) != 0)
		return err_set(err, -EINVAL, "'%.80s' is no label of a store; PATH,type=LABEL is",
			       label);
	if (label != NULL && !label_is_valid(label + 5))
		return err_set(err, -EINVAL,
			       "the type is '%.80s', not 1 to 63 of letters, digits, '-', '_', '.'",
			       label + 5);
	memcpy(path, text, path_bytes);
	path[path_bytes] = '\0';
	if (label != NULL)
		snprintf(type, LABEL_BYTES, "%s", label + 5);
	return 0;
}

static const struct config_option node_option_list[] = {
	DAEMON_OPTIONS("node"),
	{.name = "store",
	 .type = CONFIG_STRINGS,
	 .offset = offsetof(struct node_options, stores),
	 .is_required = true,
	 .metavar = "PATH[,type=LABEL]",
	 .help = "A formatted store, block device or file, and the label that the class parameter "
		 "'type' selects it by; may be given several times"},
	{.name = "listen",
	 .type = CONFIG_STRING,
	 .offset = offsetof(struct node_options, listen),
	 .max = 107,
	 .metavar = "ADDRESS",
	 .help = "Where replicas are served (default: unix:DIR/NAME/replica.sock)"},
	{.name = "insecure-tcp",
	 .type = CONFIG_BOOL,
	 .offset = offsetof(struct node_options, insecure_tcp),
	 .help = "Allow --listen on an address that is not loopback; nothing there is encrypted"},
	{.name = "manager",
	 .type = CONFIG_STRING,
	 .offset = offsetof(struct node_options, manager),
	 .max = 127,
	 .metavar = "ADDRESS",
	 .help = "The manager's admin address (default: unix:DIR/manager/admin.sock)"},
	{.name = "zone",
	 .type = CONFIG_STRING,
	 .offset = offsetof(struct node_options, zone),
	 .max = 63,
	 .metavar = "LABEL",
	 .help = "Failure domain: zone"},
	{.name = "rack",
	 .type = CONFIG_STRING,
	 .offset = offsetof(struct node_options, rack),
	 .max = 63,
	 .metavar = "LABEL",
	 .help = "Failure domain: rack"},
	{.name = "host",
	 .type = CONFIG_STRING,
	 .offset = offsetof(struct node_options, host),
	 .max = 63,
	 .metavar = "LABEL",
	 .help = "Failure domain: host (default: each node is one of its own)"},
};
static int stores_check(const struct config_strings *stores, struct err *err)
{
	char path[STORE_PATH_BYTES], other[STORE_PATH_BYTES], type[LABEL_BYTES];
	if (stores->count > NODE_ROLE_STORES_MAX)
		return err_set(err, -EINVAL, "store: %u given, at most %d", stores->count,
			       NODE_ROLE_STORES_MAX);
	for (uint32_t i = 0; i < stores->count; i++) {
		int rc = store_option_parse(stores->items[i], path, type, err);
		if (rc < 0)
			return err_wrap(err, rc, "store '%.200s'", stores->items[i]);
		for (uint32_t j = 0; j < i; j++)
			if (store_option_parse(stores->items[j], other, type, err) == 0 &&
			    strcmp(path, other) == 0)
				return err_set(err, -EINVAL, "store '%s' is given twice", path);
	}
	return 0;
}

static int node_options_check(const void *config, struct err *err)
{
	const struct node_options *options = config;
	int rc = daemon_options_check(&options->daemon, err);
	if (rc == 0)
		rc = stores_check(&options->stores, err);
	return rc == 0 ? daemon_listen_check("listen", options->listen, options->insecure_tcp, err)
		       : rc;
}

static const struct config_table node_table = {
	.usage = "holdfastd node --store PATH[,type=LABEL]... [FLAGS]",
	.options = node_option_list,
	.option_count = ARRAY_LEN(node_option_list),
	.check = node_options_check,
};

/* ---- serving ---- */

static int node_serve(struct node_role *role, struct err *err)
{
	struct daemon *daemon = role->daemon;
	struct node_config config;
	node_config_default(&config);
	config.cluster_uuid = daemon->cluster_uuid;
	config.node_uuid = daemon->uuid;
	memcpy(config.name, daemon->name, sizeof(config.name));
	config.listen = role->listen;
	struct node *node = NULL;
	struct daemon_wait wait = {0};
	int rc;
	do
		rc = node_create(daemon->env, &config, &node, err);
	while (daemon_wait_predecessor(&wait, rc, err));
	if (rc < 0)
		return err_wrap(err, rc, "listen on '%s'", role->listen);
	role->node = node;
	node_stores_serve(role);
	daemon_ready(daemon);
	return 0;
}

/* The last of the stores and the heartbeat under way ends the process. */
static void stop_check(struct node_role *role)
{
	if (role->is_stopping && !role->is_opened && !role->beat_running)
		daemon_stopped(role->daemon);
}

/* ---- heartbeats ---- */

static void beat_say(struct node_role *role, const struct err *err)
{
	if (role->manager_lost)
		return;
	role->manager_lost = true;
	log_event(LOG_WARN, "node", "manager_away", "address=%s error=%s serving=%s",
		  LOG_Q(role->manager), LOG_Q(err_text(err)), role->node != NULL ? "yes" : "no");
}

static void beat_taken(struct node_role *role, const Holdfast__V1__NodeHeartbeatReply *reply)
{
	struct err err = {0};
	struct uuid cluster;
	if (role->manager_lost)
		log_event(LOG_INFO, "node", "manager_back", "address=%s", LOG_Q(role->manager));
	role->manager_lost = false;
	uint64_t interval_ns = reply->interval_ms * 1000000ull;
	role->interval_ns = MIN(MAX(interval_ns, BEAT_INTERVAL_MIN_NS), BEAT_INTERVAL_MAX_NS);
	int rc = uuid_parse(reply->cluster_uuid, &cluster);
	if (rc == 0)
		rc = daemon_cluster_set(role->daemon, &cluster, &err);
	else
		err_set(&err, rc, "the manager's cluster uuid '%.40s' is no uuid",
			reply->cluster_uuid);
	if (rc == 0 && role->node == NULL && !role->is_stopping)
		rc = node_serve(role, &err);
	if (rc < 0 && !role->refused)
		log_event(LOG_ERROR, "node", "not_joined", "error=%s", LOG_Q(err_text(&err)));
	role->refused = rc < 0;
}

static void beat_done(struct rpc_async *async)
{
	struct node_role *role = CONTAINER_OF(async, struct node_role, beat);
	role->beat_running = false;
	if (async->err.code < 0)
		beat_say(role, &async->err);
	else
		beat_taken(role, (Holdfast__V1__NodeHeartbeatReply *)async->response);
	rpc_message_free(async->response);
	async->response = NULL;
	if (!role->is_stopping)
		env_timer_after(role->daemon->env, &role->timer, role->interval_ns);
	stop_check(role);
}

/* Memory that a burst of I/O touched and nobody uses any more. */
static void idle_check(struct node_role *role)
{
	uint64_t now_ns = env_now_ns(role->daemon->env);
	if (role->node == NULL || now_ns < role->idle_ns + IDLE_INTERVAL_NS)
		return;
	role->idle_ns = now_ns;
	node_idle(role->node);
}

static void beat_send(struct env_timer *timer)
{
	struct node_role *role = CONTAINER_OF(timer, struct node_role, timer);
	struct arena arena = {0};
	Holdfast__V1__NodeHeartbeat *beat = ARENA_MESSAGE(&arena, NodeHeartbeat, node_heartbeat);
	idle_check(role);
	node_metrics_update(role);
	beat->node = node_report_info(role, &arena);
	beat->n_replicas = node_report_replicas(role, &arena, &beat->replicas);
	beat->cluster_uuid = uuid_is_zero(&role->daemon->cluster_uuid)
				     ? arena_copy(&arena, "")
				     : arena_uuid(&arena, &role->daemon->cluster_uuid);
	const struct rpc_request request = {
		.service = &holdfast__v1__manager__descriptor,
		.method = "HeartbeatNode",
		.message = &beat->base,
		.timeout_ms = BEAT_TIMEOUT_MS,
	};
	role->beat = (struct rpc_async){.loop = role->daemon->loop, .done = beat_done};
	role->beat_running = true;
	rpc_client_start(role->client, &request, &role->beat);
	arena_free(&arena); /* the request is packed by now */
}

/* ---- the admin service ---- */

static void handle_status(void *ctx, struct rpc_call *call)
{
	struct node_role *role = ctx;
	struct arena arena = {0};
	Holdfast__V1__NodeStatus *status = ARENA_MESSAGE(&arena, NodeStatus, node_status);
	status->process = node_report_process(role, &arena);
	status->node = node_report_info(role, &arena);
	status->n_replicas = node_report_replicas(role, &arena, &status->replicas);
	(void)rpc_call_reply(call, &status->base); /* a failure was answered as INTERNAL */
	arena_free(&arena);
}

static const struct rpc_method node_methods[] = {{"Status", handle_status, 0}, {0}};

static int admin_open(struct node_role *role, struct err *err)
{
	const char *address = role->daemon->admin_address;
	const struct rpc_server_config config = {
		.addresses = &address, .address_count = 1, .loop = role->daemon->loop};
	struct daemon_wait wait = {0};
	int rc;
	do
		rc = rpc_server_create(&config, &role->server, err);
	while (daemon_wait_predecessor(&wait, rc, err));
	if (rc == 0)
		rc = rpc_server_register(role->server, &holdfast__v1__node__descriptor,
					 node_methods, role, err);
	if (rc == 0)
		rc = rpc_server_start(role->server, err);
	const struct rpc_client_config client = {.address = role->manager};
	if (rc == 0)
		rc = rpc_client_create(&client, &role->client, err);
	return rc;
}

/* ---- start and end ---- */

static int addresses_fill(struct node_role *role, struct err *err)
{
	const struct node_options *options = role->options;
	char path[DAEMON_PATH_BYTES];
	daemon_manager_address(role->daemon, options->manager, role->manager);
	if (options->listen == NULL || options->listen[0] == '\0')
		snprintf(role->listen, sizeof(role->listen), "unix:%.110s",
			 daemon_path(role->daemon, "replica.sock", path));
	else
		snprintf(role->listen, sizeof(role->listen), "%s", options->listen);
	size_t length = strlen(role->listen);
	if (strncmp(role->listen, "tcp:", 4) == 0 && length > 2 &&
	    strcmp(role->listen + length - 2, ":0") == 0)
		return err_set(err, -EINVAL, "listen '%s': the port must be named, 1 to 65535",
			       role->listen);
	return 0;
}

/* The stores are closed. */
static void stop_stores_done(struct node_role *role)
{
	role->is_opened = false;
	if (role->beat_running)
		rpc_async_cancel(&role->beat);
	stop_check(role);
}

static void stop_node_done(void *ctx)
{
	node_stores_close(ctx, stop_stores_done);
}

static void stop_admin_done(struct rpc_stop *stop)
{
	struct node_role *role = CONTAINER_OF(stop, struct node_role, rpc_stop);
	if (role->node != NULL)
		node_shutdown(role->node, stop_node_done, role);
	else
		stop_node_done(role);
}

static void node_stop(void *ctx)
{
	struct node_role *role = ctx;
	role->is_stopping = true;
	env_timer_cancel(role->daemon->env, &role->timer);
	role->rpc_stop = (struct rpc_stop){.loop = role->daemon->loop, .done = stop_admin_done};
	if (rpc_server_stop_start(role->server, 500, &role->rpc_stop) < 0)
		stop_admin_done(&role->rpc_stop);
}

static void role_free(struct node_role *role)
{
	if (role->node != NULL)
		node_destroy(role->node);
	rpc_client_destroy(role->client);
	rpc_server_destroy(role->server);
	node_metrics_remove(role);
	node_stores_free(role);
	free(role);
}

static int node_start(struct node_role *role, struct err *err)
{
	int rc = addresses_fill(role, err);
	if (rc == 0)
		rc = node_stores_open(role, err);
	if (rc == 0)
		rc = node_metrics_add(role, err);
	if (rc == 0)
		rc = admin_open(role, err);
	if (rc == 0 && !uuid_is_zero(&role->daemon->cluster_uuid))
		rc = node_serve(role, err);
	return rc;
}

static int node_run(struct daemon *daemon, const void *options, struct err *err)
{
	struct node_role *role = calloc(1, sizeof(*role));
	if (role == NULL)
		return err_set(err, -ENOMEM, "out of memory");
	role->daemon = daemon;
	role->options = options;
	role->interval_ns = BEAT_INTERVAL_NS;
	int rc = node_start(role, err);
	if (rc < 0)
		return rc; /* the process ends; stores that are open recover as after a crash */
	for (uint32_t i = 0; i < role->store_count; i++)
		daemon_near_disk(daemon, role->stores[i].path);
	role->timer.fire = beat_send;
	env_timer_set(daemon->env, &role->timer, 0);
	daemon_run(daemon, node_stop, role);
	role_free(role);
	return 0;
}

const struct role node_role = {
	.name = "node",
	.table = &node_table,
	.options_bytes = sizeof(struct node_options),
	.run = node_run,
};
