/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One attached volume: coordinator, device, export, and its end.
 *
 *   attach -> coordinator takes it -> device exists, export answers -> open: I/O runs
 *   end    -> clients are disconnected and the coordinator shut down, both at once -> freed
 *
 * W1  The export answers as soon as the size is known: requests wait in the coordinator until it is
 *     open, so a client that reconnects after a restart finds its export at once.
 * W2  The device lives until no connection uses it and the coordinator has answered everything; the
 *     coordinator until both are so.
 * W3  Everything that ends something runs on a turn of its own (the step timer), never inside a
 *     callback of the coordinator or the NBD server.
 * W4  What is superseded (-ESHUTDOWN by the coordinator) is ended here at once; the manager decides
 *     whether it is attached again, under a new epoch. So is what was attached for an earlier
 * intent: an attach is never answered by a coordinator that was opened before it (lifecycle.h, E5).
 */
#include "volmgr/gateway.h"

#include <errno.h>
#include <stdlib.h>

#include "base/log.h"

#define ALIGN_OPS_MAX 256

static void volume_step(struct env_timer *timer);

struct gateway_volume *gateway_volume_find(struct gateway *g, const char *name)
{
	list_for_each (link, &g->volumes) {
		struct gateway_volume *v = CONTAINER_OF(link, struct gateway_volume, link);
		if (strcmp(v->name, name) == 0)
			return v;
	}
	return NULL;
}

void gateway_volume_step_soon(struct gateway_volume *v)
{
	if (!env_timer_armed(&v->step))
		env_timer_set(v->gateway->daemon->env, &v->step, 0);
}

/* ---- waiters ---- */

static void waiter_cancelled(void *ctx, struct rpc_call *call)
{
	struct gateway_volume *v = ctx;

	for (uint32_t i = 0; i < v->waiter_count; i++) {
		if (v->waiters[i].call != call)
			continue;
		v->waiters[i] = v->waiters[--v->waiter_count];
		rpc_call_fail(call, RPC_CANCELLED, "volume '%s': nobody waits any more", v->name);
		return;
	}
}

void gateway_volume_wait(struct gateway_volume *v, struct rpc_call *call, int what)
{
	if (v->waiter_count == GATEWAY_WAITERS_MAX) {
		rpc_call_fail(call, RPC_RESOURCE_EXHAUSTED,
			      "volume '%s': %d calls wait for it already", v->name,
			      GATEWAY_WAITERS_MAX);
		return;
	}
	v->waiters[v->waiter_count].call = call;
	v->waiters[v->waiter_count].what = what;
	v->waiter_count++;
	rpc_call_on_cancel(call, waiter_cancelled, v);
	gateway_volume_step_soon(v);
}

static void waiter_answer(struct gateway_volume *v, struct rpc_call *call, int what)
{
	Holdfast__V1__Empty empty = HOLDFAST__V1__EMPTY__INIT;
	struct arena arena = {0};

	if (what == WAIT_GROWN && (v->is_ending || v->grow_status < 0))
		rpc_call_fail(call, rpc_code_of_errno(v->is_ending ? -EBUSY : v->grow_status),
			      "volume '%s' was not resized: %s", v->name,
			      v->is_ending ? "it is being detached" : err_name(v->grow_status));
	else if (what == WAIT_END || what == WAIT_UNEXPORT)
		(void)rpc_call_reply(call, &empty.base);
	else if (v->is_ending)
		rpc_call_fail(call, rpc_code_of_errno(v->end_status < 0 ? v->end_status : -EBUSY),
			      "volume '%s' could not be attached: %s", v->name,
			      err_name(v->end_status));
	else
		(void)rpc_call_reply(call, &gateway_report_volume(v, &arena)->base);
	arena_free(&arena);
}

/* Answers those whose time has come; at the end all of them. */
static void waiters_check(struct gateway_volume *v, bool is_end)
{
	for (uint32_t i = 0; i < v->waiter_count;) {
		int what = v->waiters[i].what;
		bool is_due = is_end || (what == WAIT_OPEN && (v->is_open || v->is_ending)) ||
			      (what == WAIT_UNEXPORT && !v->is_disconnecting && !v->is_exported) ||
			      (what == WAIT_GROWN && (!v->is_growing || v->is_ending));
		if (!is_due) {
			i++;
			continue;
		}
		struct rpc_call *call = v->waiters[i].call;
		v->waiters[i] = v->waiters[--v->waiter_count];
		waiter_answer(v, call, what);
	}
}

/* ---- attach ---- */

static enum event_level event_level_of(const char *event)
{
	static const char *const warnings[] = {"quorum_lost", "replica_lost_data", "bad_block",
					       "no_quorum_timeout", "resync_retry"};

	for (size_t i = 0; i < ARRAY_LEN(warnings); i++)
		if (strcmp(event, warnings[i]) == 0)
			return EVENT_WARN;
	return EVENT_INFO;
}

/* "quorum_lost" as the journal spells it: "QuorumLost". */
static void kind_of(const char *event, char kind[48])
{
	bool up = true;
	size_t n = 0;

	for (; *event && n < 47; event++) {
		if (*event == '_') {
			up = true;
			continue;
		}
		kind[n++] = (char)(up && *event >= 'a' && *event <= 'z' ? *event - 32 : *event);
		up = false;
	}
	kind[n] = 0;
}

static void coordinator_said(void *ctx, const char *event, const char *text)
{
	struct gateway_volume *v = ctx;
	char kind[48];

	if (strcmp(event, "ended") != 0) { /* that is told with its cause */
		kind_of(event, kind);
		gateway_event(v->gateway, event_level_of(event), v->name, kind, text);
	}
	gateway_volume_step_soon(v);
}

static void coordinator_ended(void *ctx, int status, const char *reason)
{
	struct gateway_volume *v = ctx;

	if (v->is_ending)
		return;
	gateway_event(v->gateway, EVENT_ERROR, v->name,
		      status == -ESHUTDOWN || status == -ESTALE ? "Superseded" : "AttachFailed",
		      reason);
	v->end_status = status;
	v->drop_asked = true;
	gateway_volume_step_soon(v);
}

int gateway_volume_taken(struct gateway_volume *v, uint64_t size_bytes)
{
	const struct blockdev_coordinator_config config = {
		.name = v->name,
		.size_bytes = size_bytes,
		.requests_max = ALIGN_OPS_MAX * BLOCKDEV_ALIGN_PIECES,
		.read_only = v->read_only,
	};
	struct blockdev_align_config align;
	struct gateway *g = v->gateway;

	if (v->dev) {
		blockdev_coordinator_size_set(v->dev, size_bytes);
		return 0;
	}
	blockdev_align_config_default(&align);
	align.ops_max = ALIGN_OPS_MAX;
	v->dev = blockdev_coordinator_create(g->daemon->env, v->coordinator, &config);
	if (!v->dev)
		return -ENOMEM;
	if (blockdev_align_create(g->daemon->env, blockdev_coordinator_dev(v->dev), &align,
				  &v->align, NULL) < 0) {
		blockdev_coordinator_destroy(v->dev);
		v->dev = NULL;
		return -ENOMEM;
	}
	(void)gateway_volume_metrics_add(v); /* said so; the volume works without */
	gateway_volume_grow(v, size_bytes);
	gateway_volume_step_soon(v);
	return 0;
}

static void grow_done(struct coordinator_request *request, int status)
{
	struct gateway_volume *v = CONTAINER_OF(request, struct gateway_volume, grow);

	v->is_growing = false;
	v->grow_status = status;
	if (status == 0 && v->dev)
		blockdev_coordinator_size_set(v->dev, request->address_blocks * BLOCK_BYTES);
	else if (status < 0 && !v->is_ending)
		gateway_event(v->gateway, EVENT_WARN, v->name, "GrowFailed", err_name(status));
	gateway_volume_step_soon(v);
}

/* Replicas that were away at a resize, or all of them when it came while detached, have the old size:
 * the entry brings them to the record's. Saying it again changes nothing. */
void gateway_volume_grow(struct gateway_volume *v, uint64_t size_bytes)
{
	if (v->is_growing || v->is_ending)
		return;
	v->is_growing = true;
	v->grow = (struct coordinator_request){
		.op = COORDINATOR_RESIZE,
		.address_blocks = size_bytes / BLOCK_BYTES,
		.done = grow_done,
	};
	coordinator_submit(v->coordinator, &v->grow);
}

static void config_fill(struct gateway_volume *v, struct coordinator_config *config)
{
	coordinator_config_default(config);
	config->event = coordinator_said;
	config->ended = coordinator_ended;
	config->ctx = v;
}

int gateway_volume_attach(struct gateway *g, const char *name, uint64_t intent_id,
			  struct gateway_volume **ret, struct err *err)
{
	struct gateway_volume *v = gateway_volume_find(g, name);
	struct coordinator_config config;

	if (v && v->is_ending)
		return err_set(err, -EAGAIN, "volume '%s' is being detached", name);
	if (v && v->intent_id < intent_id) { /* abandoned meanwhile: its epoch may be fenced */
		gateway_volume_end(v, -ESHUTDOWN);
		return err_set(err, -EAGAIN, "volume '%s' is being detached", name);
	}
	if (v) {
		*ret = v;
		return 0;
	}
	if (!g->peers)
		return err_set(err, -ENOTCONN, "the gateway has not joined a cluster yet");
	if (g->is_stopping || g->volume_count == GATEWAY_VOLUMES_MAX)
		return err_set(err, -ENOSPC,
			       g->is_stopping ? "the gateway is stopping"
					      : "the gateway has 256 volumes, its limit");
	v = calloc(1, sizeof(*v));
	if (!v)
		return err_set(err, -ENOMEM, "out of memory");
	v->gateway = g;
	v->intent_id = intent_id;
	v->step.fire = volume_step;
	snprintf(v->name, sizeof(v->name), "%s", name);
	gateway_meta_init(&v->meta, v);
	config_fill(v, &config);
	list_push_back(&g->volumes, &v->link);
	g->volume_count++;
	v->coordinator = coordinator_create(g->daemon->env, g->peers, &v->meta.table, &config);
	if (!v->coordinator) {
		list_remove(&v->link);
		g->volume_count--;
		free(v);
		return err_set(err, -ENOMEM, "out of memory");
	}
	log_event(LOG_INFO, "gateway", "attach", "vol=%s intent=%lu", name,
		  (unsigned long)intent_id);
	*ret = v;
	return 0;
}

/* ---- export ---- */

static int extra_open(void *ctx, const char *name, struct blockdev **ret)
{
	struct gateway_volume *v = ctx;

	if (*name && strcmp(name, v->name) != 0)
		return -ENOENT;
	if (!v->is_exported || !v->align || v->is_ending)
		return -ESHUTDOWN;
	*ret = blockdev_align_dev(v->align);
	return 0;
}

static void extra_close(void *ctx, struct blockdev *dev)
{
	(void)ctx; /* the disconnect says when the last one is gone */
	(void)dev;
}

static bool extra_name(void *ctx, uint32_t index, char name[BLOCKDEV_NAME_MAX + 1])
{
	struct gateway_volume *v = ctx;

	snprintf(name, BLOCKDEV_NAME_MAX + 1, "%s", v->name);
	return index == 0;
}

static int listener_open(struct gateway_volume *v, const char *listen, struct err *err)
{
	const struct nbd_exports exports = {
		.open = extra_open, .close = extra_close, .name = extra_name, .ctx = v};
	struct gateway *g = v->gateway;
	int rc;

	if (!address_is_loopback(listen) && !g->options->insecure_tcp)
		return err_set(
			err, -EINVAL,
			"listen '%s': only unix sockets and loopback TCP; nothing is encrypted "
			"(the gateway's --insecure-tcp allows it)",
			listen);
	rc = nbd_server_listen(g->nbd, listen, &exports, &v->listener, err);
	if (rc < 0)
		return err_wrap(err, rc, "listen '%s'", listen);
	snprintf(v->address, sizeof(v->address), "%.127s",
		 loop_listener_address(nbd_listener_env(v->listener)));
	return 0;
}

int gateway_volume_export(struct gateway_volume *v, const char *listen, bool read_only,
			  struct err *err)
{
	int rc = 0;

	if (v->is_exported && strcmp(v->listen, listen) == 0 && v->read_only == read_only)
		return 0;
	if (v->is_exported)
		return err_set(err, -EBUSY, "volume '%s' is exported %s%s%s; end that export first",
			       v->name, v->read_only ? "read-only " : "", *v->listen ? "at " : "",
			       *v->listen ? v->listen : "on the gateway's socket");
	if (v->is_disconnecting || v->is_ending)
		return err_set(err, -EAGAIN, "volume '%s': its last export is still ending",
			       v->name);
	if (strlen(listen) >= sizeof(v->listen))
		return err_set(err, -EINVAL, "listen: longer than %zu bytes",
			       sizeof(v->listen) - 1);
	if (*listen)
		rc = listener_open(v, listen, err);
	if (rc < 0)
		return rc;
	snprintf(v->listen, sizeof(v->listen), "%s", listen);
	v->read_only = read_only;
	if (v->dev)
		blockdev_coordinator_read_only_set(v->dev, read_only);
	v->is_exported = true;
	log_event(LOG_INFO, "gateway", "exported", "vol=%s listen=%s read_only=%d", v->name,
		  *listen ? listen : v->gateway->nbd_address, read_only);
	return 0;
}

static void disconnected(struct nbd_disconnect *disconnect)
{
	struct gateway_volume *v = CONTAINER_OF(disconnect, struct gateway_volume, disconnect);

	v->is_disconnecting = false;
	gateway_volume_step_soon(v);
}

void gateway_volume_unexport(struct gateway_volume *v)
{
	if (v->listener)
		nbd_listener_close(v->listener);
	v->listener = NULL;
	v->is_exported = false;
	v->listen[0] = v->address[0] = 0;
	if (v->align && !v->is_disconnecting) {
		v->is_disconnecting = true;
		v->disconnect = (struct nbd_disconnect){.done = disconnected,
							.dev = blockdev_align_dev(v->align)};
		nbd_server_disconnect(v->gateway->nbd, v->disconnect.dev, &v->disconnect);
	}
	gateway_volume_step_soon(v);
}

void gateway_volume_uri(const struct gateway_volume *v, char uri[256])
{
	const char *address = *v->address ? v->address : v->gateway->nbd_address;

	if (strncmp(address, "unix:", 5) == 0)
		snprintf(uri, 256, "nbd+unix:///%s?socket=%.128s", v->name, address + 5);
	else
		snprintf(uri, 256, "nbd://%.128s/%s", address + strlen("tcp:"), v->name);
}

/* ---- the end ---- */

static void coordinator_stopped(void *ctx)
{
	struct gateway_volume *v = ctx;

	v->is_stopped = true;
	gateway_volume_step_soon(v);
}

void gateway_volume_end(struct gateway_volume *v, int status)
{
	if (v->is_ending)
		return;
	v->is_ending = true;
	v->end_status = status;
	log_event(LOG_INFO, "gateway", "detach", "vol=%s status=%s", v->name,
		  status < 0 ? err_name(status) : "0");
	if (v->dev)
		blockdev_coordinator_close(v->dev);
	gateway_volume_unexport(v);
	gateway_meta_cancel(&v->meta);
	coordinator_shutdown(v->coordinator, coordinator_stopped, v);
	gateway_volume_step_soon(v);
}

static void volume_free(struct gateway_volume *v)
{
	struct gateway *g = v->gateway;

	waiters_check(v, true);
	env_timer_cancel(g->daemon->env, &v->step);
	gateway_volume_metrics_remove(v);
	blockdev_align_destroy(v->align);
	blockdev_coordinator_destroy(v->dev);
	coordinator_destroy(v->coordinator);
	list_remove(&v->link);
	g->volume_count--;
	free(v);
	gateway_volume_gone(g);
}

static void volume_step(struct env_timer *timer)
{
	struct gateway_volume *v = CONTAINER_OF(timer, struct gateway_volume, step);
	struct coordinator_info info;

	if (v->drop_asked && !v->is_ending)
		gateway_volume_end(v, v->end_status);
	if (!v->is_ending) {
		coordinator_info(v->coordinator, &info);
		v->is_open = info.open;
	}
	waiters_check(v, false);
	gateway_listen_check(v->gateway);
	if (v->is_ending && v->is_stopped && !v->is_disconnecting && !v->is_growing &&
	    !v->meta.is_running && !v->verify)
		volume_free(v);
}
