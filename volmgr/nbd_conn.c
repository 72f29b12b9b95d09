/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One connection: bytes come in, steps look at them, phase by phase.
 *
 * N1  At most one receive is out. It is posted only when a step lacks bytes; a connection that
 *     waits for anything else (a free request, memory, its own option replies) receives nothing,
 *     which is the back-pressure.
 * N2  A request is in free_reqs, or it is conn->req, at the device, or being sent; `inflight`
 *     counts those that are not free.
 * N3  After kill nothing is sent or received. The object goes when the close has ended and
 *     inflight is 0, so a device may take as long as it likes. Requests that come back from it
 *     are dropped.
 * N4  A long rest of a payload is received straight into its pages; a short one comes through
 *     the buffer together with the requests behind it, since one receive that brings sixteen
 *     4 KiB writes costs less than the sixteen copies.
 */
#include "volmgr/nbd_int.h"

#include <stdlib.h>

#include "base/log.h"

static enum nbd_step step_drain(struct nbd_conn *conn)
{
	(void)conn;
	return NBD_STEP_WAIT;
}

static enum nbd_step (*const steps[NBD_PHASES])(struct nbd_conn *conn) = {
	[NBD_PHASE_FLAGS] = nbd_step_flags,
	[NBD_PHASE_OPTION] = nbd_step_option,
	[NBD_PHASE_OPTION_DATA] = nbd_step_option_data,
	[NBD_PHASE_OPTION_SKIP] = nbd_step_option_skip,
	[NBD_PHASE_LIST] = nbd_step_list,
	[NBD_PHASE_REQUEST] = nbd_step_request,
	[NBD_PHASE_PAGES] = nbd_step_pages,
	[NBD_PHASE_PAYLOAD] = nbd_step_payload,
	[NBD_PHASE_PAYLOAD_SKIP] = nbd_step_payload_skip,
	[NBD_PHASE_DRAIN] = step_drain,
};

static void recv_post(struct nbd_conn *conn)
{
	uint32_t left = conn->phase == NBD_PHASE_PAYLOAD
				? conn->req->length_bytes - conn->payload_done_bytes
				: 0;
	conn->recv_direct = left >= NBD_DIRECT_BYTES;
	if (conn->recv_direct) {
		assert(conn->pos == conn->end);
		conn->recv.buf = conn->req->data + conn->payload_done_bytes;
		conn->recv.buf_bytes = left;
	} else {
		memmove(conn->buf, conn->buf + conn->pos, nbd_conn_have(conn));
		conn->end -= conn->pos;
		conn->pos = 0;
		assert(conn->end < NBD_RECV_BYTES);
		conn->recv.buf = conn->buf + conn->end;
		conn->recv.buf_bytes = NBD_RECV_BYTES - conn->end;
	}
	conn->recv_active = true;
	env_conn_recv(conn->server->env, conn->env_conn, &conn->recv);
}

void nbd_conn_pump(struct nbd_conn *conn)
{
	enum nbd_step step = NBD_STEP_AGAIN;
	while (step == NBD_STEP_AGAIN && !conn->closing && !conn->recv_active && !conn->out_active)
		step = steps[conn->phase](conn);
	if (step == NBD_STEP_MORE && !conn->closing)
		recv_post(conn);
}

static void free_if_done(struct nbd_conn *conn)
{
	if (!conn->closed || conn->inflight > 0)
		return;
	if (conn->dev)
		conn->listener->exports.close(conn->listener->exports.ctx, take(conn->dev));
	nbd_conn_gone(conn);
}

/*
 * The request being received never reaches the device. A receive into its pages may still write
 * there: then this is done again when its callback comes.
 */
static void drop_receiving(struct nbd_conn *conn)
{
	if (conn->recv_active && conn->recv_direct)
		return;
	if (list_linked(&conn->page_wait)) {
		list_remove(&conn->page_wait);
		nbd_pages_grant(conn->server);
	}
	if (conn->req)
		nbd_req_free(take(conn->req));
}

static void recv_done(struct env_recv *recv, ssize_t n)
{
	struct nbd_conn *conn = CONTAINER_OF(recv, struct nbd_conn, recv);
	conn->recv_active = false;
	if (conn->closing || conn->phase == NBD_PHASE_DRAIN) {
		drop_receiving(conn);
		return;
	}
	if (n <= 0) {
		nbd_conn_drain(conn, n == 0 ? "the client closed" : "receiving failed");
		return;
	}
	conn->progress_ns = env_now_ns(conn->server->env);
	if (conn->recv_direct)
		conn->payload_done_bytes += (uint32_t)n;
	else
		conn->end += (uint32_t)n;
	nbd_conn_pump(conn);
}

static void close_done(struct env_close *close)
{
	struct nbd_conn *conn = CONTAINER_OF(close, struct nbd_conn, close);
	conn->closed = true;
	free_if_done(conn);
}

void nbd_conn_kill(struct nbd_conn *conn, const char *reason)
{
	if (conn->closing)
		return;
	log_event(LOG_INFO, "nbd", "client_gone", "peer=%s export=%s reason=%s",
		  LOG_Q(conn->peer.text), LOG_Q(conn->dev ? conn->info.name : ""), LOG_Q(reason));
	conn->closing = true;
	env_timer_cancel(conn->server->env, &conn->timer);
	env_conn_close(conn->server->env, conn->env_conn, &conn->close);
	drop_receiving(conn);
}

void nbd_conn_drain(struct nbd_conn *conn, const char *reason)
{
	struct nbd_server *server = conn->server;
	if (conn->closing || conn->phase == NBD_PHASE_DRAIN)
		return;
	if (!conn->transmitting) {
		nbd_conn_kill(conn, reason);
		return;
	}
	conn->phase = NBD_PHASE_DRAIN;
	conn->drain_reason = reason;
	env_timer_after(server->env, &conn->timer, server->config.drain_timeout_ns);
	drop_receiving(conn);
	if (conn->inflight == 0)
		nbd_conn_kill(conn, reason);
}

void nbd_req_free(struct nbd_req *req)
{
	struct nbd_conn *conn = req->conn;
	nbd_pages_put(req);
	list_push_front(&conn->free_reqs, &req->link);
	conn->inflight--;
	if (conn->closing)
		free_if_done(conn);
	else if (conn->phase == NBD_PHASE_DRAIN && conn->inflight == 0)
		nbd_conn_kill(conn, conn->drain_reason);
	else
		nbd_conn_pump(conn);
}

static void timed_out(struct env_timer *timer)
{
	struct nbd_conn *conn = CONTAINER_OF(timer, struct nbd_conn, timer);
	nbd_conn_kill(conn, conn->transmitting ? "replies were not taken in time"
					       : "the handshake took too long");
}

void nbd_conn_create(struct nbd_listener *listener, struct env_conn *env_conn,
		     const struct env_peer *peer)
{
	struct nbd_server *server = listener->server;
	uint32_t reqs = server->config.requests_max;
	size_t reqs_bytes = reqs * sizeof(struct nbd_req);
	struct nbd_conn *conn =
		calloc(1, sizeof(*conn) + reqs_bytes + NBD_RECV_BYTES + NBD_OUT_BYTES);
	assert(conn); /* some 200 KiB; the kernel overcommits long before it refuses */
	conn->server = server;
	conn->listener = listener;
	conn->env_conn = env_conn;
	conn->peer = *peer;
	conn->buf = (uint8_t *)conn + sizeof(*conn) + reqs_bytes;
	conn->out = conn->buf + NBD_RECV_BYTES;
	conn->recv.done = recv_done;
	conn->close.done = close_done;
	conn->timer.fire = timed_out;
	list_init(&conn->free_reqs);
	list_init(&conn->page_wait);
	for (uint32_t i = 0; i < reqs; i++) {
		conn->reqs[i].conn = conn;
		list_push_back(&conn->free_reqs, &conn->reqs[i].link);
	}
	list_push_back(&server->conns, &conn->link);
	server->conn_count++;
	server->stats.connections_total++;
	listener->conns++;
	env_timer_after(server->env, &conn->timer, server->config.handshake_timeout_ns);
	nbd_greet(conn);
}
