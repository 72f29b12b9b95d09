/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The gateway role: serves the volumes that the manager has attached here.
 *
 * Y1  The manager says what shall be attached and exported: by calls, and again with each heartbeat, so
 *     a gateway that starts anew takes its volumes again. Nothing is kept on disk but the identity.
 * Y2  The manager being away changes nothing for attached volumes: heartbeats fail, I/O goes on.
 * Y3  What a call changed while a heartbeat was under way is not undone by its answer: volumes carry the
 *     generation of their attach.
 * Y4  The socket is listened on when the exports of the first answer can be opened, so that a client
 *     which reconnects after a restart meets a refusal or its export, never an unknown name; but
 *     after LISTEN_LATE_NS at the latest.
 * Y5  The end: calls, NBD (requests drain), volumes, peers, in this order.
 */
#include "volmgr/gateway.h"

#include <errno.h>
#include <stdlib.h>

#include "base/log.h"

#define BEAT_INTERVAL_NS     500000000ull
#define BEAT_INTERVAL_MIN_NS 50000000ull
#define BEAT_INTERVAL_MAX_NS 10000000000ull
#define BEAT_RETRY_NS        200000000ull
#define BEAT_TIMEOUT_MS      3000
#define LISTEN_LATE_NS       1500000000ull
#define LISTEN_AGAIN_NS      20000000ull
#define SERVER_DRAIN_MS      300
#define IDLE_INTERVAL_NS     4000000000ull

static const struct config_option gateway_option_list[] = {
	DAEMON_OPTIONS("g1"),
	{.name = "manager",
	 .type = CONFIG_STRING,
	 .offset = offsetof(struct gateway_options, manager),
	 .max = 127,
	 .metavar = "ADDRESS",
	 .help = "The manager's admin address (default: unix:DIR/manager/admin.sock)"},
	{.name = "nbd",
	 .type = CONFIG_STRING,
	 .offset = offsetof(struct gateway_options, nbd),
	 .max = 107,
	 .metavar = "ADDRESS",
	 .help = "Where all exports are served (default: unix:DIR/NAME/nbd.sock)"},
	{.name = "insecure-tcp",
	 .type = CONFIG_BOOL,
	 .offset = offsetof(struct gateway_options, insecure_tcp),
	 .help = "Allow exports on addresses that are not loopback; nothing there is encrypted"},
};

static int gateway_options_check(const void *config, struct err *err)
{
	const struct gateway_options *options = config;
	int rc = daemon_options_check(&options->daemon, err);

	return rc == 0 ? daemon_listen_check("nbd", options->nbd, options->insecure_tcp, err) : rc;
}

static const struct config_table gateway_table = {
	.usage = "holdfastd gateway [FLAGS]",
	.options = gateway_option_list,
	.option_count = ARRAY_LEN(gateway_option_list),
	.check = gateway_options_check,
};

/* ---- NBD on the gateway's own socket ---- */

static struct gateway_volume *export_find(struct gateway *g, const char *name)
{
	struct gateway_volume *only = NULL;
	uint32_t count = 0;

	list_for_each (link, &g->volumes) {
		struct gateway_volume *v = CONTAINER_OF(link, struct gateway_volume, link);
		if (!v->is_exported || !v->align || v->is_ending)
			continue;
		if (strcmp(v->name, name) == 0)
			return v;
		only = v;
		count++;
	}
	return !*name && count == 1 ? only : NULL;
}

static int export_open(void *ctx, const char *name, struct blockdev **ret)
{
	struct gateway_volume *v = export_find(ctx, name);

	if (!v)
		return -ENOENT;
	*ret = blockdev_align_dev(v->align);
	return 0;
}

static void export_close(void *ctx, struct blockdev *dev)
{
	(void)ctx; /* an ending volume asks the server itself (nbd_server_disconnect) */
	(void)dev;
}

static bool export_name(void *ctx, uint32_t index, char name[BLOCKDEV_NAME_MAX + 1])
{
	struct gateway *g = ctx;

	list_for_each (link, &g->volumes) {
		struct gateway_volume *v = CONTAINER_OF(link, struct gateway_volume, link);
		if (!v->is_exported || !v->align || v->is_ending || index-- > 0)
			continue;
		snprintf(name, BLOCKDEV_NAME_MAX + 1, "%s", v->name);
		return true;
	}
	return false;
}

/* A killed predecessor's socket goes with its io_uring (daemon.h): tried again for a while. */
static bool listen_again(struct gateway *g)
{
	uint64_t now_ns = env_now_ns(g->daemon->env);

	if (g->listen_until_ns == 0)
		g->listen_until_ns = now_ns + DAEMON_PREDECESSOR_MS * 1000000ull;
	if (now_ns >= g->listen_until_ns)
		return false;
	env_timer_after(g->daemon->env, &g->listen_timer, LISTEN_AGAIN_NS);
	return true;
}

void gateway_listen_check(struct gateway *g)
{
	const struct nbd_exports exports = {
		.open = export_open, .close = export_close, .name = export_name, .ctx = g};
	bool is_late = env_now_ns(g->daemon->env) >= g->started_ns + LISTEN_LATE_NS;
	struct nbd_listener *listener;
	struct err err = {0};

	if (g->is_listening || g->is_stopping || (!g->was_beaten && !is_late))
		return;
	list_for_each (link, &g->volumes)
		if (!CONTAINER_OF(link, struct gateway_volume, link)->align && !is_late)
			return;
	int rc = nbd_server_listen(g->nbd, g->nbd_address, &exports, &listener, &err);
	if (rc == -EADDRINUSE && listen_again(g))
		return;
	if (rc < 0) {
		log_event(LOG_ERROR, "gateway", "listen_failed", "address=%s error=%s",
			  LOG_Q(g->nbd_address), LOG_Q(err_text(&err)));
		g->failure = err;
		daemon_stop(g->daemon);
		return;
	}
	g->is_listening = true;
	env_timer_cancel(g->daemon->env, &g->listen_timer);
	daemon_ready(g->daemon);
}

static void listen_late(struct env_timer *timer)
{
	struct gateway *g = CONTAINER_OF(timer, struct gateway, listen_timer);

	gateway_listen_check(g);
	if (!g->is_listening && !g->is_stopping && !env_timer_armed(timer))
		env_timer_after(g->daemon->env, timer, LISTEN_AGAIN_NS);
}

/* ---- what the manager says ---- */

static bool is_attached_here(const Holdfast__V1__GatewayHeartbeatReply *reply, const char *name)
{
	for (size_t i = 0; i < reply->n_attachments; i++)
		if (strcmp(reply->attachments[i]->volume, name) == 0)
			return true;
	for (size_t i = 0; i < reply->n_exports; i++)
		if (strcmp(reply->exports[i]->volume, name) == 0)
			return true;
	return false;
}

static void attachments_follow(struct gateway *g, const Holdfast__V1__GatewayHeartbeatReply *reply)
{
	struct gateway_volume *v;
	struct err err = {0};

	list_for_each_safe (link, &g->volumes) {
		v = CONTAINER_OF(link, struct gateway_volume, link);
		if (v->generation <= g->beat_generation && !is_attached_here(reply, v->name))
			gateway_volume_end(v, 0);
	}
	for (size_t i = 0; i < reply->n_attachments; i++) {
		const Holdfast__V1__Attachment *a = reply->attachments[i];
		if (name_check("volume", a->volume, &err) < 0 ||
		    gateway_volume_attach(g, a->volume, a->intent_id, &v, &err) == -ENOSPC)
			log_event(LOG_WARN, "gateway", "attach_refused", "vol=%s error=%s",
				  LOG_Q(a->volume), LOG_Q(err_text(&err)));
	}
}

static void exports_follow(struct gateway *g, const Holdfast__V1__GatewayHeartbeatReply *reply)
{
	struct err err = {0};

	for (size_t i = 0; i < reply->n_exports; i++) {
		const Holdfast__V1__ExportInfo *e = reply->exports[i];
		struct gateway_volume *v = gateway_volume_find(g, e->volume);
		if (!v || v->is_ending || v->is_exported || v->generation > g->beat_generation)
			continue;
		if (gateway_volume_export(v, e->listen, e->read_only, &err) == 0) {
			v->export_failed = false;
		} else if (!v->export_failed) {
			v->export_failed = true;
			gateway_event(g, EVENT_ERROR, v->name, "ExportFailed", err_text(&err));
			log_event(LOG_ERROR, "gateway", "export_failed", "vol=%s error=%s", v->name,
				  LOG_Q(err_text(&err)));
		}
	}
}

/* A node that came back elsewhere: the peer connects there. */
static void addresses_follow(struct gateway *g, const Holdfast__V1__GatewayHeartbeatReply *reply)
{
	for (size_t i = 0; i < reply->n_nodes; i++) {
		struct uuid uuid;
		bool is_used = false;
		if (uuid_parse(reply->nodes[i]->uuid, &uuid) < 0 || !*reply->nodes[i]->address)
			continue;
		list_for_each (link, &g->volumes) {
			const struct coordinator_volume *volume =
				&CONTAINER_OF(link, struct gateway_volume, link)
					 ->meta.coordinator_volume;
			for (uint32_t j = 0; j < volume->member_count; j++)
				is_used =
					is_used || uuid_equal(&volume->members[j].node_uuid, &uuid);
		}
		if (is_used)
			(void)peers_get(g->peers, &uuid, reply->nodes[i]->address);
	}
}

static int cluster_join(struct gateway *g, const char *text, struct err *err)
{
	struct peers_config config;
	struct uuid cluster;
	int rc = uuid_parse(text, &cluster);

	if (rc < 0)
		return err_set(err, rc, "the manager's cluster uuid '%.40s' is no uuid", text);
	rc = daemon_cluster_set(g->daemon, &cluster, err);
	if (rc < 0 || g->peers)
		return rc;
	peers_config_default(&config);
	config.cluster_uuid = cluster;
	config.sender_uuid = g->daemon->uuid;
	config.boot_id = g->daemon->boot_id;
	snprintf(config.name, sizeof(config.name), "%s", g->daemon->name);
	g->peers = peers_create(g->daemon->env, &config);
	return g->peers ? 0 : err_set(err, -ENOMEM, "out of memory");
}

/* ---- heartbeats ---- */

static void beat_failed(struct gateway *g, const struct err *err)
{
	if (!g->manager_lost)
		log_event(LOG_WARN, "gateway", "manager_away", "address=%s error=%s volumes=%u",
			  LOG_Q(g->manager), LOG_Q(err_text(err)), g->volume_count);
	g->manager_lost = true;
	g->event_sent = 0;
	g->interval_ns = g->was_beaten ? BEAT_INTERVAL_NS : BEAT_RETRY_NS;
}

static void beat_taken(struct gateway *g, const Holdfast__V1__GatewayHeartbeatReply *reply)
{
	uint64_t interval_ns = reply->interval_ms * 1000000ull;
	struct err err = {0};
	int rc;

	if (g->manager_lost)
		log_event(LOG_INFO, "gateway", "manager_back", "address=%s", LOG_Q(g->manager));
	g->manager_lost = false;
	g->interval_ns = MIN(MAX(interval_ns, BEAT_INTERVAL_MIN_NS), BEAT_INTERVAL_MAX_NS);
	g->event_head = (g->event_head + g->event_sent) % GATEWAY_EVENTS_MAX;
	g->event_count -= g->event_sent;
	g->event_sent = 0;
	if (g->is_stopping)
		return;
	rc = cluster_join(g, reply->cluster_uuid, &err);
	if (rc < 0 && !g->refused)
		log_event(LOG_ERROR, "gateway", "not_joined", "error=%s", LOG_Q(err_text(&err)));
	g->refused = rc < 0;
	if (rc < 0)
		return;
	attachments_follow(g, reply);
	exports_follow(g, reply);
	addresses_follow(g, reply);
	g->was_beaten = true;
	gateway_listen_check(g);
}

static void stop_check(struct gateway *g);

static void beat_done(struct rpc_async *async)
{
	struct gateway *g = CONTAINER_OF(async, struct gateway, beat);

	g->beat_running = false;
	if (async->err.code < 0)
		beat_failed(g, &async->err);
	else
		beat_taken(g, (Holdfast__V1__GatewayHeartbeatReply *)async->response);
	rpc_message_free(async->response);
	async->response = NULL;
	if (!g->is_stopping)
		env_timer_after(g->daemon->env, &g->timer,
				g->event_count > 0 ? MIN(g->interval_ns, BEAT_RETRY_NS)
						   : g->interval_ns);
	stop_check(g);
}

static void beat_events(struct gateway *g, Holdfast__V1__GatewayHeartbeat *beat,
			struct arena *arena)
{
	beat->events = ARENA_ARRAY(arena, Holdfast__V1__Event *, g->event_count);
	for (uint32_t i = 0; i < g->event_count; i++) {
		const struct gateway_event *from =
			&g->events[(g->event_head + i) % GATEWAY_EVENTS_MAX];
		Holdfast__V1__Event *event = ARENA_MESSAGE(arena, Event, event);
		event->time_ms = from->time_ms;
		event->level = arena_copy(arena, event_level_name(from->level));
		event->object = arena_copy(arena, from->object);
		event->kind = arena_copy(arena, from->kind);
		event->text = arena_copy(arena, from->text);
		beat->events[beat->n_events++] = event;
	}
	g->event_sent = g->event_count;
}

/* Memory that a burst of I/O touched and nobody uses any more. */
static void idle_check(struct gateway *g)
{
	uint64_t now_ns = env_now_ns(g->daemon->env);

	if (now_ns < g->idle_ns + IDLE_INTERVAL_NS)
		return;
	g->idle_ns = now_ns;
	nbd_server_idle(g->nbd);
	list_for_each (link, &g->volumes)
		coordinator_idle(CONTAINER_OF(link, struct gateway_volume, link)->coordinator);
}

static void beat_send(struct env_timer *timer)
{
	struct gateway *g = CONTAINER_OF(timer, struct gateway, timer);
	struct arena arena = {0};
	Holdfast__V1__GatewayHeartbeat *beat =
		ARENA_MESSAGE(&arena, GatewayHeartbeat, gateway_heartbeat);

	idle_check(g);
	gateway_metrics_update(g);
	beat->gateway = gateway_report_process(g, &arena);
	beat->boot_id = g->daemon->boot_id;
	beat->nbd_address = arena_copy(&arena, g->nbd_address);
	beat->uuid = arena_uuid(&arena, &g->daemon->uuid);
	beat->cluster_uuid = uuid_is_zero(&g->daemon->cluster_uuid)
				     ? arena_copy(&arena, "")
				     : arena_uuid(&arena, &g->daemon->cluster_uuid);
	beat->volumes = ARENA_ARRAY(&arena, Holdfast__V1__VolumeInfo *, g->volume_count);
	list_for_each (link, &g->volumes) {
		struct gateway_volume *v = CONTAINER_OF(link, struct gateway_volume, link);
		if (!v->is_ending)
			beat->volumes[beat->n_volumes++] = gateway_report_volume(v, &arena);
	}
	beat_events(g, beat, &arena);
	const struct rpc_request request = {
		.service = &holdfast__v1__manager__descriptor,
		.method = "HeartbeatGateway",
		.message = &beat->base,
		.timeout_ms = BEAT_TIMEOUT_MS,
	};
	g->beat = (struct rpc_async){.loop = g->daemon->loop, .done = beat_done};
	g->beat_running = true;
	g->beat_generation = g->attach_generation;
	rpc_client_start(g->client, &request, &g->beat);
	arena_free(&arena); /* the request is packed by now */
}

/* ---- the end ---- */

static void peers_stopped(void *ctx)
{
	struct gateway *g = ctx;

	g->peers_stopped = true;
	env_timer_set(g->daemon->env, &g->stop_step, 0);
}

/* Y5: each step when the one before it is over. */
static void stop_check(struct gateway *g)
{
	if (!g->is_stopping || !g->nbd_stopped || g->volume_count > 0)
		return;
	if (g->beat_running)
		return;
	if (g->peers && !g->peers_stopping) {
		g->peers_stopping = true;
		peers_shutdown(g->peers, peers_stopped, g);
		return;
	}
	if (!g->peers || g->peers_stopped)
		daemon_stopped(g->daemon);
}

static void stop_step(struct env_timer *timer)
{
	stop_check(CONTAINER_OF(timer, struct gateway, stop_step));
}

void gateway_volume_gone(struct gateway *g)
{
	gateway_listen_check(g);
	if (g->is_stopping)
		env_timer_set(g->daemon->env, &g->stop_step, 0);
}

static void nbd_stopped(struct nbd_stop *stop)
{
	struct gateway *g = CONTAINER_OF(stop, struct gateway, nbd_stop);

	g->nbd_stopped = true;
	list_for_each_safe (link, &g->volumes)
		gateway_volume_end(CONTAINER_OF(link, struct gateway_volume, link), 0);
	env_timer_set(g->daemon->env, &g->stop_step, 0);
}

static void server_stopped(struct rpc_stop *stop)
{
	struct gateway *g = CONTAINER_OF(stop, struct gateway, rpc_stop);

	if (g->beat_running)
		rpc_async_cancel(&g->beat);
	g->nbd_stop.done = nbd_stopped;
	nbd_server_stop(g->nbd, &g->nbd_stop);
}

static void gateway_stop(void *ctx)
{
	struct gateway *g = ctx;

	g->is_stopping = true;
	env_timer_cancel(g->daemon->env, &g->timer);
	env_timer_cancel(g->daemon->env, &g->listen_timer);
	g->rpc_stop = (struct rpc_stop){.loop = g->daemon->loop, .done = server_stopped};
	if (rpc_server_stop_start(g->server, SERVER_DRAIN_MS, &g->rpc_stop) < 0)
		server_stopped(&g->rpc_stop);
}

/* ---- the start ---- */

static void addresses_fill(struct gateway *g)
{
	char path[DAEMON_PATH_BYTES];

	daemon_manager_address(g->daemon, g->options->manager, g->manager);
	if (g->options->nbd && *g->options->nbd)
		snprintf(g->nbd_address, sizeof(g->nbd_address), "%s", g->options->nbd);
	else
		snprintf(g->nbd_address, sizeof(g->nbd_address), "unix:%.110s",
			 daemon_path(g->daemon, "nbd.sock", path));
}

static int admin_open(struct gateway *g, struct err *err)
{
	const char *address = g->daemon->admin_address;
	const struct rpc_server_config config = {
		.addresses = &address, .address_count = 1, .loop = g->daemon->loop};
	const struct rpc_client_config client = {.address = g->manager};
	struct daemon_wait wait = {0};
	int rc;

	do
		rc = rpc_server_create(&config, &g->server, err);
	while (daemon_wait_predecessor(&wait, rc, err));
	if (rc == 0)
		rc = rpc_server_register(g->server, &holdfast__v1__gateway__descriptor,
					 gateway_methods, g, err);
	if (rc == 0)
		rc = rpc_client_create(&client, &g->client, err);
	if (rc == 0)
		rc = rpc_server_start(g->server, err);
	return rc;
}

static void gateway_free(struct gateway *g)
{
	gateway_metrics_remove(g);
	peers_destroy(g->peers);
	nbd_server_destroy(g->nbd);
	rpc_client_destroy(g->client);
	rpc_server_destroy(g->server);
	free(g);
}

static int gateway_run(struct daemon *daemon, const void *options, struct err *err)
{
	struct gateway *g = calloc(1, sizeof(*g));
	int rc;

	if (!g)
		return err_set(err, -ENOMEM, "out of memory");
	g->daemon = daemon;
	g->options = options;
	g->interval_ns = BEAT_RETRY_NS;
	g->started_ns = env_now_ns(daemon->env);
	list_init(&g->volumes);
	g->timer.fire = beat_send;
	g->listen_timer.fire = listen_late;
	g->stop_step.fire = stop_step;
	addresses_fill(g);
	rc = nbd_server_create(daemon->env, NULL, &g->nbd, err);
	if (rc == 0)
		rc = gateway_metrics_add(g, err);
	if (rc == 0)
		rc = admin_open(g, err);
	if (rc < 0) {
		gateway_free(g);
		return rc;
	}
	env_timer_set(daemon->env, &g->timer, 0);
	env_timer_after(daemon->env, &g->listen_timer, LISTEN_LATE_NS);
	daemon_run(daemon, gateway_stop, g);
	rc = g->failure.code;
	if (rc < 0 && err)
		*err = g->failure;
	gateway_free(g);
	return rc;
}

const struct role gateway_role = {
	.name = "gateway",
	.table = &gateway_table,
	.options_bytes = sizeof(struct gateway_options),
	.run = gateway_run,
};
