/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The replica side of the protocol: connections, slots, start and end. See node.h for R1..R4.
 *
 * Every frame that needs work takes one slot (struct node_op) from a pool made at start. A slot holds the
 * store operation, the payload and the reply, so nothing is allocated per request; it goes back
 * when its reply has been handed to the transport. A connection, a session or a replica that ends
 * while slots refer to it is freed by the last of them.
 */
#include "replication/node_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/log.h"

void node_config_default(struct node_config *config)
{
	*config = (struct node_config){
		.connections_max = 64,
		.credit_frames = 1024,
		.credit_bytes = 16ull << 20,
		.payload_bytes_max = 64ull << 20,
	};
}

/* ---- slots ---- */

/* Returned slots first, so that the memory of those never needed at once stays untouched. */
static struct node_op *slot_get(struct node *node)
{
	struct list *n = list_pop_front(&node->ops_free);
	if (n != NULL)
		return CONTAINER_OF(n, struct node_op, link);
	assert(node->ops_fresh < node->ops_max); /* R4: every connection's bound together */
	struct node_op *op = &node->ops[node->ops_fresh++];
	op->node = node;
	return op;
}

/* R4. A frame is at most 1 MiB, so the bound on payload is exceeded by no more than that. */
static bool at_bound(const struct node_conn *conn)
{
	const struct node *node = conn->node;
	return conn->frames_unanswered >= node->config.credit_frames ||
	       conn->bytes_unanswered >= node->config.credit_bytes ||
	       (conn->bytes_unanswered > 0 &&
		bufpool_used_bytes(node->bufs) >= node->config.payload_bytes_max / 2);
}

static void conn_hold(struct node_conn *conn)
{
	if (conn->paused || conn->io == NULL || !at_bound(conn))
		return;
	conn->paused = true;
	conn->node->conns_paused++;
	link_pause(conn->io);
}

static void conn_release(struct node_conn *conn)
{
	if (!conn->paused)
		return;
	conn->paused = false;
	conn->node->conns_paused--;
	if (conn->io != NULL)
		link_resume(conn->io);
}

static void conns_release(struct node *node)
{
	list_for_each (n, &node->conns) {
		struct node_conn *conn = CONTAINER_OF(n, struct node_conn, link);
		if (conn->paused && !at_bound(conn))
			conn_release(conn);
	}
}

struct node_op *node_op_get(struct node_conn *conn, struct node_session *session,
			    const struct link_frame *frame)
{
	struct node_op *op = slot_get(conn->node);
	op->conn = conn;
	op->session = session;
	op->type = le16_get(frame->header->type);
	op->request_id = le64_get(frame->header->request_id);
	op->session_id = le32_get(frame->header->session);
	op->payload_bytes_held = frame->payload_bytes;
	op->buf = NULL;
	op->buf_bytes = 0;
	op->flags = 0;
	op->out.iov_count = 2;
	memset(&op->u, 0, sizeof(op->u.op));
	conn->ops++;
	conn->frames_unanswered++;
	conn->bytes_unanswered += frame->payload_bytes;
	if (session != NULL)
		session->ops++;
	conn_hold(conn);
	return op;
}

static void stop_step(struct node *node);

static void conn_maybe_free(struct node_conn *conn)
{
	struct node *node = conn->node;
	if (conn->io != NULL || conn->ops > 0)
		return;
	list_remove(&conn->link);
	node->conn_count--;
	free(conn);
	if (node->stopping)
		stop_step(node);
}

void node_op_put(struct node_op *op)
{
	struct node *node = op->node;
	struct node_conn *conn = op->conn;
	bufpool_put(node->bufs, op->buf, op->buf_bytes);
	op->buf = NULL;
	if (op->session != NULL) {
		op->session->ops--;
		node_session_unref(op->session);
	}
	conn->ops--;
	conn->frames_unanswered--;
	conn->bytes_unanswered -= op->payload_bytes_held;
	list_push_front(&node->ops_free, &op->link);
	if (node->conns_paused > 0)
		conns_release(node);
	conn_maybe_free(conn);
}

static void reply_sent(struct link_send *send, int status)
{
	(void)status; /* a failed send ends the connection, which says it */
	node_op_put(CONTAINER_OF(send, struct node_op, out));
}

void node_reply(struct node_op *op, uint16_t type, int status, uint32_t body_bytes)
{
	if ((op->request_id == 0 && type != WIRE_ACK) || op->conn->io == NULL) {
		node_op_put(op);
		return;
	}
	uint32_t padded = (uint32_t)ALIGN_UP(body_bytes, 8);
	assert(padded <= NODE_REPLY_BODY_BYTES);
	memset((uint8_t *)op->body + body_bytes, 0, padded - body_bytes);
	op->out.header = (struct wire_header){
		.type = le16_make(type),
		.status = le16_make(wire_status_from(status)),
		.request_id = le64_make(op->request_id),
		.session = le32_make(op->session_id),
	};
	op->out.iov[1] = (struct iovec){op->body, padded};
	op->out.done = reply_sent;
	op->node->counters.frames_out++;
	for (uint32_t i = 2; i < op->out.iov_count; i++)
		op->node->counters.payload_bytes_out += op->out.iov[i].iov_len;
	link_send(op->conn->io, &op->out);
}

/* ---- connections ---- */

void node_violation(struct node_conn *conn, const char *reason)
{
	conn->node->counters.violations++;
	if (conn->io != NULL)
		link_close(conn->io, -EPROTO, reason);
}

static void conn_ready(void *ctx, const struct wire_hello *peer)
{
	struct node_conn *conn = ctx;
	uint32_t kind = le32_get(peer->kind);
	if (kind != WIRE_KIND_CLIENT && kind != WIRE_KIND_BULK && kind != WIRE_KIND_CONTROL) {
		node_violation(conn, "unknown kind of connection");
		return;
	}
	conn->kind = kind;
	conn->ready = true;
	conn->peer_boot_id = le64_get(peer->boot_id);
	log_event(LOG_INFO, "repl", "peer_connected", "peer=%s kind=%u at=%s",
		  LOG_Q((const char *)peer->name), kind, LOG_Q(conn->peer_text));
}

static void conn_frame(void *ctx, const struct link_frame *frame)
{
	struct node_conn *conn = ctx;
	struct node *node = conn->node;
	node->counters.frames_in++;
	node->counters.payload_bytes_in += frame->payload_bytes;
	if (conn->kind == WIRE_KIND_CONTROL) {
		node_control_frame(conn, frame);
		return;
	}
	switch (le16_get(frame->header->type)) {
	case WIRE_PREPARE:
		node_prepare(conn, frame);
		return;
	case WIRE_STATUS:
		node_status(conn, frame);
		return;
	case WIRE_LEASE:
		node_lease(conn, frame);
		return;
	}
	struct node_session *session = node_session_find(conn, le32_get(frame->header->session));
	if (session == NULL) {
		node_session_missing(conn, frame);
		return;
	}
	node_session_frame(session, frame);
}

static void conn_closed(void *ctx, int status, const char *reason)
{
	struct node_conn *conn = ctx;
	conn->io = NULL;
	conn_release(conn);
	log_event(LOG_INFO, "repl", "peer_lost", "at=%s status=%s reason=%s",
		  LOG_Q(conn->peer_text), status == 0 ? "closed" : err_name(status), LOG_Q(reason));
	/* Only the peer's own end of the stream proves that its leases are over (R3). */
	conn->ops++; /* an answer to a waiting PREPARE of its own must not free it under us */
	node_sessions_end(conn, status == 0);
	node_waiting_check(conn->node);
	conn->ops--;
	conn_maybe_free(conn);
}

static void orphan_closed(struct env_close *close)
{
	free(close);
}

static void refuse(struct node *node, struct env_conn *io)
{
	struct env_close *close = calloc(1, sizeof(*close));
	if (close == NULL)
		return; /* the peer's handshake times out */
	close->done = orphan_closed;
	env_conn_close(node->env, io, close);
}

static void accepted(void *ctx, struct env_conn *io, const struct env_peer *peer)
{
	struct node *node = ctx;
	struct node_conn *conn = NULL;
	if (!node->stopping && node->conn_count < node->config.connections_max)
		conn = calloc(1, sizeof(*conn));
	if (conn == NULL) {
		log_event(LOG_WARN, "repl", "peer_refused", "at=%s connections=%u limit=%u",
			  LOG_Q(peer->text), node->conn_count, node->config.connections_max);
		refuse(node, io);
		return;
	}
	conn->node = node;
	memcpy(conn->peer_text, peer->text, sizeof(conn->peer_text));
	struct link_config config = {
		.hello =
			{
				.credit_frames = le32_make(node->config.credit_frames),
				.credit_bytes = le64_make(node->config.credit_bytes),
				.cluster_uuid = node->config.cluster_uuid,
				.sender_uuid = node->config.node_uuid,
				.boot_id = le64_make(node->boot_id),
			},
	};
	memcpy(config.hello.name, node->config.name, sizeof(config.hello.name));
	const struct link_cb cb = {conn_ready, conn_frame, conn_closed, conn};
	conn->io = link_create(node->env, io, &config, &cb);
	if (conn->io == NULL) {
		free(conn);
		return;
	}
	list_push_back(&node->conns, &conn->link);
	node->conn_count++;
}

/* ---- start and end ---- */

void node_idle(struct node *node)
{
	uint64_t bytes = node->counters.payload_bytes_in + node->counters.payload_bytes_out;
	if (bytes == node->idle_bytes)
		bufpool_trim(node->bufs);
	node->idle_bytes = bytes;
}

static void wait_fire(struct env_timer *timer)
{
	struct node *node = CONTAINER_OF(timer, struct node, wait_timer);
	if (node->stopping)
		stop_step(node);
	else
		node_waiting_check(node);
}

static int make_pools(struct node *node, struct err *err)
{
	/* Address space for the sum of all bounds; only what is used at once is ever touched. */
	node->ops_max = node->config.connections_max * node->config.credit_frames;
	size_t bytes = (size_t)node->ops_max * sizeof(struct node_op);
	void *ops = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	node->bufs = bufpool_create(node->config.payload_bytes_max);
	if (ops == MAP_FAILED || node->bufs == NULL) {
		if (ops != MAP_FAILED)
			munmap(ops, bytes);
		return err_set(err, -ENOMEM, "no address space for %zu bytes of operation slots",
			       bytes);
	}
	node->ops = ops;
	return 0;
}

int node_create(struct env *env, const struct node_config *config, struct node **ret,
		struct err *err)
{
	struct node *node = calloc(1, sizeof(*node));
	if (node == NULL)
		return err_set(err, -ENOMEM, "no memory for a node");
	node->env = env;
	node->config = *config;
	node->boot_id = env_random(env) | 1;
	node->wait_timer.fire = wait_fire;
	list_init(&node->conns);
	list_init(&node->replicas);
	list_init(&node->ops_free);
	list_init(&node->waiting);
	int rc = make_pools(node, err);
	if (rc == 0) {
		const struct env_listener_cb cb = {accepted, node};
		rc = env_listen(env, config->listen, &cb, &node->listener, err);
	}
	if (rc < 0) {
		node_destroy(node);
		return rc;
	}
	*ret = node;
	return 0;
}

int node_add_store(struct node *node, struct store *store, struct err *err)
{
	if (node->store_count == NODE_STORES_MAX)
		return err_set(err, -ENOSPC, "a node serves at most %u stores", NODE_STORES_MAX);
	node->stores_added_ns[node->store_count] = env_now_ns(node->env);
	node->stores[node->store_count++] = store;
	return 0;
}

void node_remove_store(struct node *node, struct store *store)
{
	list_for_each_safe (n, &node->replicas) {
		struct node_replica *nr = CONTAINER_OF(n, struct node_replica, link);
		if (nr->store == store) {
			nr->deleting = true;
			node_replica_fence(nr, UINT64_MAX, -EIO);
			node_replica_drop(nr);
		}
	}
	for (uint32_t i = 0; i < node->store_count; i++) {
		if (node->stores[i] == store) {
			node->stores[i] = node->stores[--node->store_count];
			node->stores_added_ns[i] = node->stores_added_ns[node->store_count];
			return;
		}
	}
}

/* R5, in order: no session any more, no lease out any more, LEASE none durable, done. */
static void stop_step(struct node *node)
{
	if (node->conn_count > 0 || node->shutdown_done == NULL)
		return;
	uint64_t until_ns = node_leases_until_ns(node);
	if (until_ns > env_now_ns(node->env)) {
		env_timer_set(node->env, &node->wait_timer, until_ns);
		return;
	}
	if (!node_leases_end(node))
		return; /* comes back here */
	void (*done)(void *ctx) = node->shutdown_done;
	node->shutdown_done = NULL;
	done(node->shutdown_ctx);
}

void node_leases_ended(struct node *node)
{
	stop_step(node);
}

void node_shutdown(struct node *node, void (*done)(void *ctx), void *ctx)
{
	node->stopping = true;
	if (node->listener != NULL) {
		env_listener_close(node->env, node->listener);
		node->listener = NULL;
	}
	node->shutdown_done = done;
	node->shutdown_ctx = ctx;
	env_timer_cancel(node->env, &node->wait_timer);
	list_for_each_safe (n, &node->waiting) {
		struct node_op *op = CONTAINER_OF(n, struct node_op, link);
		list_remove(&op->link);
		node_reply(op, WIRE_PROMISE, -ESHUTDOWN, 0);
	}
	if (node->conn_count == 0) {
		stop_step(node);
		return;
	}
	list_for_each_safe (n, &node->conns) {
		struct node_conn *conn = CONTAINER_OF(n, struct node_conn, link);
		if (conn->io != NULL)
			link_close(conn->io, -ESHUTDOWN, "the node stops");
	}
}

void node_destroy(struct node *node)
{
	if (node == NULL)
		return;
	/* Connections are left only after a crash (simulator): nothing will call back any more. */
	list_for_each_safe (c, &node->conns) {
		struct node_conn *conn = CONTAINER_OF(c, struct node_conn, link);
		link_abandon(conn->io);
		free(conn);
	}
	list_for_each_safe (n, &node->replicas) {
		struct node_replica *nr = CONTAINER_OF(n, struct node_replica, link);
		list_for_each_safe (s, &nr->sessions)
			free(CONTAINER_OF(s, struct node_session, replica_link));
		free(nr);
	}
	if (node->ops != NULL)
		munmap(node->ops, (size_t)node->ops_max * sizeof(struct node_op));
	bufpool_destroy(node->bufs);
	free(node);
}

void node_info(const struct node *node, struct node_info *ret)
{
	*ret = node->counters;
	ret->connections = node->conn_count;
	ret->stores = node->store_count;
	ret->sessions = 0;
	list_for_each (n, &node->replicas) {
		const struct node_replica *nr = CONTAINER_OF(n, struct node_replica, link);
		list_for_each (s, &nr->sessions)
			ret->sessions++;
	}
}
