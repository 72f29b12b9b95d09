/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The server: listeners, the pool of payload memory, and ending things.
 *
 * S1  Connections that lack memory wait in one FIFO; nobody takes memory past the first waiter.
 *     So a 32 MiB request gets its run, as the pool drains while it is first.
 * S2  Memory comes back: a device ends its requests, and a client that holds memory while its
 *     socket does not move for stall_timeout_ns, with others waiting, is closed.
 * S3  done() of stop and disconnect runs from check_timer, so never inside the call.
 * S4  A listener object lives until it is closed and its last connection is gone, since
 *     connections close their export through its table.
 */
#include "volmgr/nbd_int.h"

#include <errno.h>
#include <stdlib.h>

#include "base/log.h"

#define STALL_CHECK_NS 1000000000ull

void nbd_config_default(struct nbd_config *config)
{
	*config = (struct nbd_config){
		.connections_max = 64,
		.requests_max = 128,
		.payload_bytes = 64u << 20,
		.request_max_bytes = 32u << 20,
		.handshake_timeout_ns = 10000000000ull,
		.stall_timeout_ns = 30000000000ull,
		.drain_timeout_ns = 5000000000ull,
	};
}

/* ---- payload memory ---- */

static bool pages_try(struct nbd_conn *conn)
{
	struct nbd_req *req = conn->req;
	req->pages = nbd_pages_take(&conn->server->pages, req->page_count);
	if (!req->pages)
		return false;
	req->data = req->pages + req->offset_bytes % BLOCK_BYTES;
	conn->held_pages += req->page_count;
	return true;
}

bool nbd_pages_get(struct nbd_conn *conn)
{
	struct nbd_server *server = conn->server;
	if (list_empty(&server->page_waiters) && pages_try(conn))
		return true;
	list_push_back(&server->page_waiters, &conn->page_wait);
	if (!env_timer_armed(&server->stall_timer))
		env_timer_after(server->env, &server->stall_timer, STALL_CHECK_NS);
	return false;
}

void nbd_pages_put(struct nbd_req *req)
{
	if (!req->pages)
		return;
	req->conn->held_pages -= req->page_count;
	nbd_pages_give(&req->conn->server->pages, take(req->pages), req->page_count);
	nbd_pages_grant(req->conn->server);
}

void nbd_pages_grant(struct nbd_server *server)
{
	while (!list_empty(&server->page_waiters)) {
		struct nbd_conn *conn =
			CONTAINER_OF(server->page_waiters.next, struct nbd_conn, page_wait);
		if (!pages_try(conn))
			return;
		list_remove(&conn->page_wait);
		nbd_conn_pump(conn);
	}
}

/* S2 */
static void stall_check(struct env_timer *timer)
{
	struct nbd_server *server = CONTAINER_OF(timer, struct nbd_server, stall_timer);
	uint64_t now = env_now_ns(server->env);
	if (list_empty(&server->page_waiters))
		return;
	env_timer_after(server->env, &server->stall_timer, STALL_CHECK_NS);
	list_for_each_safe (link, &server->conns) {
		struct nbd_conn *conn = CONTAINER_OF(link, struct nbd_conn, link);
		bool on_socket = conn->phase == NBD_PHASE_PAYLOAD || conn->sending > 0;
		if (conn->held_pages > 0 && on_socket && !conn->closing &&
		    now - conn->progress_ns > server->config.stall_timeout_ns)
			nbd_conn_kill(conn, "stalled while others wait for memory");
	}
}

/* ---- listeners ---- */

static void listener_free_if_unused(struct nbd_listener *listener)
{
	if (listener->env_listener || listener->conns > 0)
		return;
	list_remove(&listener->link);
	free(listener);
}

struct refused {
	struct nbd_server *server;
	struct env_close close;
};

static void refused_closed(struct env_close *close)
{
	struct refused *refused = CONTAINER_OF(close, struct refused, close);
	refused->server->refused--;
	env_timer_after(refused->server->env, &refused->server->check_timer, 0);
	free(refused);
}

static void accepted(void *ctx, struct env_conn *env_conn, const struct env_peer *peer)
{
	struct nbd_listener *listener = ctx;
	struct nbd_server *server = listener->server;
	if (server->conn_count < server->config.connections_max && !server->stopping) {
		nbd_conn_create(listener, env_conn, peer);
		return;
	}
	struct refused *refused = calloc(1, sizeof(*refused));
	assert(refused); /* a few bytes while all is well; nothing sane is left to do otherwise */
	log_event(LOG_WARN, "nbd", "client_refused", "peer=%s limit=%u reason='too many clients'",
		  LOG_Q(peer->text), server->config.connections_max);
	refused->server = server;
	refused->close.done = refused_closed;
	server->refused++;
	env_conn_close(server->env, env_conn, &refused->close);
}

int nbd_server_listen(struct nbd_server *server, const char *address,
		      const struct nbd_exports *exports, struct nbd_listener **ret, struct err *err)
{
	struct nbd_listener *listener = calloc(1, sizeof(*listener));
	if (!listener)
		return err_set(err, -ENOMEM, "no memory for a listener");
	listener->server = server;
	listener->exports = *exports;
	struct env_listener_cb cb = {.accepted = accepted, .ctx = listener};
	int rc = env_listen(server->env, address, &cb, &listener->env_listener, err);
	if (rc < 0) {
		free(listener);
		return rc;
	}
	list_push_back(&server->listeners, &listener->link);
	*ret = listener;
	return 0;
}

struct env_listener *nbd_listener_env(struct nbd_listener *listener)
{
	return listener->env_listener;
}

void nbd_listener_close(struct nbd_listener *listener)
{
	assert(listener->env_listener);
	env_listener_close(listener->server->env, take(listener->env_listener));
	listener_free_if_unused(listener);
}

/* ---- ends ---- */

uint32_t nbd_server_clients(const struct nbd_server *server, const struct blockdev *dev)
{
	uint32_t count = 0;
	list_for_each (link, &server->conns)
		count += CONTAINER_OF(link, struct nbd_conn, link)->dev == dev;
	return count;
}

/* The connection is off every list but conns, its export closed; its memory goes here. */
void nbd_conn_gone(struct nbd_conn *conn)
{
	struct nbd_server *server = conn->server;
	list_remove(&conn->link);
	server->conn_count--;
	conn->listener->conns--;
	listener_free_if_unused(conn->listener);
	free(conn);
	env_timer_after(server->env, &server->check_timer, 0);
}

static void check(struct env_timer *timer)
{
	struct nbd_server *server = CONTAINER_OF(timer, struct nbd_server, check_timer);
	struct list ready;
	list_init(&ready);
	list_for_each_safe (link, &server->disconnects) {
		struct nbd_disconnect *disconnect = CONTAINER_OF(link, struct nbd_disconnect, link);
		if (nbd_server_clients(server, disconnect->dev) > 0)
			continue;
		list_remove(link);
		list_push_back(&ready, link);
	}
	struct nbd_stop *stop = NULL;
	if (server->conn_count == 0 && server->refused == 0)
		stop = take(server->stop);
	struct list *link;
	while ((link = list_pop_front(&ready)) != NULL) {
		struct nbd_disconnect *disconnect = CONTAINER_OF(link, struct nbd_disconnect, link);
		disconnect->done(disconnect);
	}
	if (stop)
		stop->done(stop); /* may destroy the server */
}

void nbd_server_disconnect(struct nbd_server *server, struct blockdev *dev,
			   struct nbd_disconnect *disconnect)
{
	disconnect->dev = dev;
	list_push_back(&server->disconnects, &disconnect->link);
	list_for_each_safe (link, &server->conns) {
		struct nbd_conn *conn = CONTAINER_OF(link, struct nbd_conn, link);
		if (conn->dev == dev)
			nbd_conn_kill(conn, "the export goes away");
	}
	env_timer_after(server->env, &server->check_timer, 0);
}

void nbd_server_stop(struct nbd_server *server, struct nbd_stop *stop)
{
	assert(!server->stopping);
	server->stopping = true;
	server->stop = stop;
	list_for_each_safe (link, &server->listeners) {
		struct nbd_listener *listener = CONTAINER_OF(link, struct nbd_listener, link);
		if (listener->env_listener)
			nbd_listener_close(listener);
	}
	list_for_each_safe (link, &server->conns) {
		struct nbd_conn *conn = CONTAINER_OF(link, struct nbd_conn, link);
		if (conn->transmitting)
			nbd_conn_drain(conn, "the server stops");
		else
			nbd_conn_kill(conn, "the server stops");
	}
	env_timer_after(server->env, &server->check_timer, 0);
}

/* ---- life ---- */

static int config_check(const struct nbd_config *config, struct err *err)
{
	if (config->connections_max == 0 || config->requests_max == 0 ||
	    config->requests_max > 4096)
		return err_set(err, -EINVAL,
			       "connections_max %u and requests_max %u must be 1 or more, "
			       "requests_max at most 4096",
			       config->connections_max, config->requests_max);
	if (config->request_max_bytes < 65536 || config->request_max_bytes > 32u << 20)
		return err_set(err, -EINVAL, "request_max_bytes %u is not within 64 KiB and 32 MiB",
			       config->request_max_bytes);
	/* One request at an odd offset takes a page more than its length. */
	if (config->payload_bytes < 2ull * config->request_max_bytes ||
	    config->payload_bytes > 16ull << 30)
		return err_set(
			err, -EINVAL,
			"payload_bytes %llu is not within twice request_max_bytes %u and 16 GiB",
			(unsigned long long)config->payload_bytes, config->request_max_bytes);
	return 0;
}

int nbd_server_create(struct env *env, const struct nbd_config *config, struct nbd_server **ret,
		      struct err *err)
{
	struct nbd_config defaults;
	nbd_config_default(&defaults);
	if (!config)
		config = &defaults;
	int rc = config_check(config, err);
	if (rc < 0)
		return rc;
	struct nbd_server *server = calloc(1, sizeof(*server));
	if (!server)
		return err_set(err, -ENOMEM, "no memory for a server");
	server->env = env;
	server->config = *config;
	server->stall_timer.fire = stall_check;
	server->check_timer.fire = check;
	list_init(&server->listeners);
	list_init(&server->conns);
	list_init(&server->page_waiters);
	list_init(&server->disconnects);
	rc = nbd_pages_init(&server->pages, config->payload_bytes);
	if (rc < 0) {
		nbd_server_destroy(server);
		return err_set(err, rc, "no memory for payload_bytes %llu",
			       (unsigned long long)config->payload_bytes);
	}
	*ret = server;
	return 0;
}

void nbd_server_destroy(struct nbd_server *server)
{
	if (!server)
		return;
	assert(server->conn_count == 0 && server->refused == 0);
	list_for_each_safe (link, &server->listeners)
		nbd_listener_close(CONTAINER_OF(link, struct nbd_listener, link));
	env_timer_cancel(server->env, &server->stall_timer);
	env_timer_cancel(server->env, &server->check_timer);
	nbd_pages_fini(&server->pages);
	free(server);
}

void nbd_server_idle(struct nbd_server *server)
{
	nbd_pages_trim(&server->pages);
}

void nbd_server_stats(const struct nbd_server *server, struct nbd_stats *ret)
{
	*ret = server->stats;
	ret->connections = server->conn_count;
	ret->payload_used_bytes = (uint64_t)server->pages.used_count * BLOCK_BYTES;
}
