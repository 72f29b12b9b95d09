/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The role node: opens its stores, serves their replicas, tells the manager about itself.
 *
 * N1  It formats nothing. A store that cannot be opened is reported as failed and the others are
 *     served; a node without any store ends.
 * N2  It serves only peers of the cluster that it first joined; the cluster's uuid comes with the
 *     first heartbeat and is kept (daemon.h, D3). With the manager away a node that knows its
 *     cluster starts and serves all the same: heartbeats matter to status and placement only.
 * N3  A store that fails is taken out on the next turn of the loop (never inside the store's own
 *     callback), its sessions end, and it stays out until the process is started again.
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
#define STACK_BYTES          ((size_t)256 << 10)

static const struct config_option node_option_list[] = {
	DAEMON_OPTIONS("node"),
	{.name = "store",
	 .type = CONFIG_STRINGS,
	 .offset = offsetof(struct node_options, stores),
	 .is_required = true,
	 .metavar = "PATH",
	 .help = "A formatted store, block device or file; may be given several times"},
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
static const struct config_table node_table = {
	.usage = "holdfastd node --store PATH [FLAGS]",
	.options = node_option_list,
	.option_count = ARRAY_LEN(node_option_list),
};

/* ---- stores ---- */

static void stores_take_out(struct env_timer *timer)
{
	struct node_role *role = CONTAINER_OF(timer, struct node_role, store_timer);
	for (uint32_t i = 0; i < role->store_count; i++) {
		struct role_store *rs = &role->stores[i];
		if (!rs->is_failed || rs->is_removed || rs->store == NULL || role->node == NULL ||
		    role->is_stopping)
			continue;
		rs->is_removed = true;
		node_remove_store(role->node, rs->store);
		log_event(LOG_ERROR, "node", "store_taken_out", "path=%s reason=%s",
			  LOG_Q(rs->path), LOG_Q(rs->reason));
	}
}

static void store_failed(void *ctx, int status, const char *what)
{
	struct role_store *rs = ctx;
	struct node_role *role = rs->role;
	rs->is_failed = true;
	rs->last.failed = true;
	snprintf(rs->reason, sizeof(rs->reason), "%s: %s", what, err_name(status));
	role->store_timer.fire = stores_take_out;
	env_timer_set(role->daemon->env, &role->store_timer, 0);
}

static void store_open_one(struct co *co, struct role_store *rs)
{
	struct node_role *role = rs->role;
	struct store_config config;
	struct err err = {0};
	store_config_default(&config);
	config.failed = store_failed;
	config.ctx = rs;
	int rc = store_open(co, role->daemon->env, rs->path, &config, &rs->store, &err);
	if (rc < 0) {
		rs->store = NULL;
		rs->is_failed = true;
		snprintf(rs->reason, sizeof(rs->reason), "%.180s", err_text(&err));
		log_event(LOG_ERROR, "node", "store_open_failed", "path=%s error=%s",
			  LOG_Q(rs->path), LOG_Q(err_text(&err)));
		if (role->open_err.code == 0)
			role->open_err = err;
		return;
	}
	store_info(rs->store, &rs->last);
	log_event(LOG_INFO, "node", "store_opened", "path=%s replicas=%u incarnation=%lu",
		  LOG_Q(rs->path), rs->last.replica_count, (unsigned long)rs->last.incarnation);
}

static void stores_open_job(struct co *co, void *arg)
{
	struct node_role *role = arg;
	for (uint32_t i = 0; i < role->store_count; i++)
		store_open_one(co, &role->stores[i]);
	role->is_opened = true;
}

static int stores_open(struct node_role *role, struct err *err)
{
	const struct config_strings *paths = &role->options->stores;
	if (paths->count > NODE_ROLE_STORES_MAX)
		return err_set(err, -EINVAL, "store: %u given, at most %d", paths->count,
			       NODE_ROLE_STORES_MAX);
	role->store_count = paths->count;
	for (uint32_t i = 0; i < paths->count; i++) {
		role->stores[i].role = role;
		role->stores[i].path = paths->items[i];
		for (uint32_t j = 0; j < i; j++)
			if (strcmp(paths->items[i], paths->items[j]) == 0)
				return err_set(err, -EINVAL, "store '%s' is given twice",
					       paths->items[i]);
	}
	co_start(role->co, stores_open_job, role);
	loop_run_until(role->daemon->loop, &role->is_opened, 0);
	for (uint32_t i = 0; i < role->store_count; i++)
		if (role->stores[i].store != NULL)
			return 0;
	if (err != NULL)
		*err = role->open_err;
	return role->open_err.code;
}

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
	int rc = node_create(daemon->env, &config, &node, err);
	if (rc < 0)
		return err_wrap(err, rc, "listen on '%s'", role->listen);
	role->node = node;
	for (uint32_t i = 0; i < role->store_count; i++) {
		struct role_store *rs = &role->stores[i];
		struct err add_err = {0};
		if (rs->store == NULL || rs->is_failed)
			continue;
		if (node_add_store(node, rs->store, &add_err) < 0)
			store_failed(rs, add_err.code, err_text(&add_err));
	}
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

static void beat_send(struct env_timer *timer)
{
	struct node_role *role = CONTAINER_OF(timer, struct node_role, timer);
	struct arena arena = {0};
	Holdfast__V1__NodeHeartbeat *beat = ARENA_MESSAGE(&arena, NodeHeartbeat, node_heartbeat);
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
	int rc = rpc_server_create(&config, &role->server, err);
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

static bool is_loopback(const char *address)
{
	return strncmp(address, "unix:", 5) == 0 || strncmp(address, "tcp:127.", 8) == 0 ||
	       strncmp(address, "tcp:[::1]:", 10) == 0;
}

static int options_check(struct node_role *role, struct err *err)
{
	const struct node_options *options = role->options;
	char path[DAEMON_PATH_BYTES];
	daemon_manager_address(role->daemon, options->manager, role->manager);
	if (options->listen == NULL || options->listen[0] == '\0')
		snprintf(role->listen, sizeof(role->listen), "unix:%.110s",
			 daemon_path(role->daemon, "replica.sock", path));
	else
		snprintf(role->listen, sizeof(role->listen), "%s", options->listen);
	if (!is_loopback(role->listen) && !options->insecure_tcp)
		return err_set(err, -EINVAL,
			       "listen '%s': only unix sockets and loopback without --insecure-tcp",
			       role->listen);
	size_t length = strlen(role->listen);
	if (strncmp(role->listen, "tcp:", 4) == 0 && length > 2 &&
	    strcmp(role->listen + length - 2, ":0") == 0)
		return err_set(err, -EINVAL, "listen '%s': the port must be named, 1 to 65535",
			       role->listen);
	return 0;
}

static void stores_close_job(struct co *co, void *arg)
{
	struct node_role *role = arg;
	for (uint32_t i = 0; i < role->store_count; i++) {
		if (role->stores[i].store != NULL)
			store_close(co, role->stores[i].store);
		role->stores[i].store = NULL;
	}
	role->is_opened = false;
	if (role->beat_running)
		rpc_async_cancel(&role->beat);
	stop_check(role);
}

static void stop_node_done(void *ctx)
{
	struct node_role *role = ctx;
	co_start(role->co, stores_close_job, role);
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
	env_timer_cancel(role->daemon->env, &role->store_timer);
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
	co_destroy(role->co);
	free(role);
}

static int node_start(struct node_role *role, struct err *err)
{
	int rc = options_check(role, err);
	if (rc == 0)
		rc = stores_open(role, err);
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
	role->co = co_create(daemon->env, STACK_BYTES);
	int rc = role->co == NULL ? err_set(err, -ENOMEM, "out of memory") : node_start(role, err);
	if (rc < 0)
		return rc; /* the process ends; stores that are open recover as after a crash */
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
