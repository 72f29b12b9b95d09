/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections of the production loop: connecting, receiving, gathered sending, closing.
 *
 * R1 At most one receive and one sendmsg per connection are with the kernel. Sends queue up in
 *    order meanwhile; at the end of a turn one sendmsg takes as many of them as fit.
 * R2 The first send error is sticky: the bytes behind it would make no sense to the peer.
 * R3 Closing shuts the socket down, cancels what the kernel holds, and waits for it: the memory
 *    is the kernel's until then. Only conn_settle() frees, deferred, so a callback may close its
 *    own connection.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/loop_int.h"

/* Laid over env_connect.engine. */
struct connect_state {
	struct defer defer;    /* refused before the kernel saw it */
	struct env_conn *conn; /* while the kernel has it */
	int64_t status;
} __attribute__((may_alias));
static_assert(sizeof(struct connect_state) <= sizeof(((struct env_connect *)0)->engine), "fits");

static struct connect_state *connect_state(struct env_connect *connect)
{
	return (struct connect_state *)(void *)connect->engine;
}

static void conn_received(struct net_op *op, int result);
static void conn_sent(struct net_op *op, int result);
static void conn_settle(struct defer *defer);

/* ---- life ---- */

int conn_create(struct loop *loop, int fd, bool is_unix, struct env_conn **ret)
{
	struct env_conn *conn = calloc(1, sizeof(*conn));
	if (!conn) {
		close(fd);
		return -ENOMEM;
	}
	int one = 1;
	if (!is_unix)
		(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one,
				 sizeof(one)); /* latency only */
	conn->loop = loop;
	conn->file.fd = fd;
	conn->in_op = (struct net_op){.kind = NET_RECV, .file = &conn->file, .done = conn_received};
	conn->out_op = (struct net_op){
		.kind = NET_SEND, .file = &conn->file, .msg = &conn->msg, .done = conn_sent};
	conn->defer.run = conn_settle;
	conn->msg.msg_iov = conn->iov;
	list_init(&conn->queue);
	int rc = loop->engine_ops->file_add(loop, &conn->file);
	if (rc < 0) {
		close(fd);
		free(conn);
		return rc;
	}
	loop->conn_count++;
	*ret = conn;
	return 0;
}

void conn_free(struct env_conn *conn)
{
	assert(!conn->in_op.active);
	assert(!conn->out_op.active);
	assert(list_empty(&conn->queue));
	struct loop *loop = conn->loop;
	list_remove(&conn->defer.link);
	list_remove(&conn->send_link);
	loop->engine_ops->file_remove(loop, &conn->file);
	close(conn->file.fd);
	free(conn);
	loop->conn_count--;
}

static void conn_fail_sends(struct env_conn *conn, int status)
{
	struct list failed = LIST_INIT(failed);
	list_splice_back(&failed, &conn->queue);
	struct list *node;
	while ((node = list_pop_front(&failed))) {
		struct env_send *send = CONTAINER_OF(node, struct env_send, link);
		send->done(send, status);
	}
}

static void conn_settle(struct defer *defer)
{
	struct env_conn *conn = CONTAINER_OF(defer, struct env_conn, defer);
	if (conn->out_op.active) /* conn_sent() comes back here */
		return;
	if (conn->closing)
		conn_fail_sends(conn, -ECANCELED);
	else if (conn->send_status < 0)
		conn_fail_sends(conn, conn->send_status);
	if (!conn->closing || conn->in_op.active)
		return;
	struct env_close *done = conn->close;
	conn_free(conn);
	done->done(done);
}

void conn_close(struct env_conn *conn, struct env_close *done)
{
	assert(!conn->closing);
	conn->closing = true;
	conn->close = done;
	list_remove(&conn->send_link);
	(void)shutdown(conn->file.fd, SHUT_RDWR); /* ENOTCONN: the peer was faster */
	net_op_cancel(conn->loop, &conn->in_op);
	net_op_cancel(conn->loop, &conn->out_op);
	loop_defer(conn->loop, &conn->defer);
}

/* ---- receiving ---- */

void conn_recv(struct env_conn *conn, struct env_recv *recv)
{
	assert(!conn->closing);
	assert(!conn->recv);
	assert(recv->buf_bytes > 0);
	conn->recv = recv;
	conn->in_op.buf = recv->buf;
	conn->in_op.buf_bytes = MIN(recv->buf_bytes, (size_t)INT32_MAX);
	net_op_submit(conn->loop, &conn->in_op);
}

static void conn_received(struct net_op *op, int result)
{
	struct env_conn *conn = CONTAINER_OF(op, struct env_conn, in_op);
	struct env_recv *recv = conn->recv;
	if (conn->closing) {
		result = -ECANCELED;
		loop_defer(conn->loop, &conn->defer);
	} else if (result == -EINTR || result == -EAGAIN) {
		net_op_submit(conn->loop, op);
		return;
	}
	conn->recv = NULL;
	recv->done(recv, result);
}

/* ---- sending ---- */

static void conn_want_send(struct env_conn *conn)
{
	if (!conn->out_op.active && !list_linked(&conn->send_link))
		list_push_back(&conn->loop->sends, &conn->send_link);
}

/* Appends the iovecs of what is left of send; returns the new count. */
static uint32_t gather(struct env_conn *conn, const struct env_send *send, uint32_t count)
{
	size_t skip_bytes = send->sent_bytes;
	for (uint32_t i = 0; i < send->iov_count && count < CONN_GATHER_IOV; i++) {
		size_t length = send->iov[i].iov_len;
		if (skip_bytes >= length) {
			skip_bytes -= length;
			continue;
		}
		conn->iov[count++] = (struct iovec){(char *)send->iov[i].iov_base + skip_bytes,
						    length - skip_bytes};
		skip_bytes = 0;
	}
	return count;
}

/* One sendmsg for what is queued, as far as its vector reaches. */
static void conn_send_start(struct env_conn *conn)
{
	uint32_t count = 0;
	list_for_each (pos, &conn->queue) {
		if (count == CONN_GATHER_IOV)
			break;
		count = gather(conn, CONTAINER_OF(pos, struct env_send, link), count);
	}
	conn->msg.msg_iovlen = count;
	conn->gathered = 0;
	net_op_submit(conn->loop, &conn->out_op);
}

void conns_flush(struct loop *loop)
{
	struct list *node;
	while ((node = list_pop_front(&loop->sends)))
		conn_send_start(CONTAINER_OF(node, struct env_conn, send_link));
}

void conn_send(struct env_conn *conn, struct env_send *send)
{
	assert(!conn->closing);
	assert(send->iov_count >= 1 && send->iov_count <= ENV_IO_IOV_MAX);
	send->length_bytes = 0;
	send->sent_bytes = 0;
	for (uint32_t i = 0; i < send->iov_count; i++)
		send->length_bytes += send->iov[i].iov_len;
	list_push_back(&conn->queue, &send->link);
	if (conn->send_status < 0) {
		loop_defer(conn->loop, &conn->defer);
		return;
	}
	conn_want_send(conn);
	if (list_linked(&conn->send_link) && ++conn->gathered >= LOOP_EAGER && !conn->advancing) {
		list_remove(&conn->send_link);
		conn_send_start(conn);
		conn->loop->engine_ops->submit_now(conn->loop);
	}
}

/* Completes what `bytes` taken by the socket cover, in order. */
static void conn_advance(struct env_conn *conn, size_t bytes)
{
	conn->advancing = true;
	while (!list_empty(&conn->queue)) {
		struct env_send *send = CONTAINER_OF(conn->queue.next, struct env_send, link);
		size_t left_bytes = send->length_bytes - send->sent_bytes;
		if (left_bytes > bytes) {
			send->sent_bytes += bytes;
			break;
		}
		bytes -= left_bytes;
		list_remove(&send->link);
		send->done(send, conn->closing ? -ECANCELED : 0);
	}
	conn->advancing = false;
}

static void conn_sent(struct net_op *op, int result)
{
	struct env_conn *conn = CONTAINER_OF(op, struct env_conn, out_op);
	if (result >= 0)
		conn_advance(conn, (size_t)result);
	else if (result != -EINTR && result != -EAGAIN && conn->send_status == 0)
		conn->send_status = result;
	if (conn->closing || conn->send_status < 0)
		loop_defer(conn->loop, &conn->defer);
	else if (!list_empty(&conn->queue))
		conn_want_send(conn);
}

/* ---- connecting ---- */

static void connect_refused(struct defer *defer)
{
	struct connect_state *state = CONTAINER_OF(defer, struct connect_state, defer);
	struct env_connect *connect =
		(struct env_connect *)(void *)((char *)state -
					       offsetof(struct env_connect, engine));
	int status = (int)state->status;
	*state = (struct connect_state){0};
	connect->done(connect, status, NULL);
}

static void conn_connected(struct net_op *op, int result)
{
	struct env_conn *conn = CONTAINER_OF(op, struct env_conn, out_op);
	struct env_connect *connect = conn->connect;
	struct connect_state *state = connect_state(connect);
	if (state->status < 0) /* cancelled */
		result = (int)state->status;
	*state = (struct connect_state){0};
	conn->connect = NULL;
	if (result < 0) {
		conn_free(conn);
		connect->done(connect, result, NULL);
		return;
	}
	op->kind = NET_SEND;
	op->done = conn_sent;
	connect->done(connect, 0, conn);
}

static int connect_start(struct loop *loop, const char *text, struct env_conn **ret)
{
	struct net_address address;
	int rc = net_address_parse(text, &address, NULL);
	if (rc < 0)
		return rc;
	int fd = socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	struct env_conn *conn;
	rc = conn_create(loop, fd, address.is_unix, &conn);
	if (rc < 0)
		return rc;
	conn->address = address;
	conn->address.path = NULL;
	conn->out_op.kind = NET_CONNECT;
	conn->out_op.done = conn_connected;
	conn->out_op.address = (const struct sockaddr *)&conn->address.storage;
	conn->out_op.address_bytes = conn->address.bytes;
	*ret = conn;
	return 0;
}

void net_connect(struct env *env, const char *address, struct env_connect *connect)
{
	struct loop *loop = loop_of(env);
	struct connect_state *state = connect_state(connect);
	*state = (struct connect_state){.defer = {.run = connect_refused}};
	int rc = connect_start(loop, address, &state->conn);
	if (rc < 0) {
		state->conn = NULL;
		state->status = rc;
		loop_defer(loop, &state->defer);
		return;
	}
	state->conn->connect = connect;
	net_op_submit(loop, &state->conn->out_op);
}

void net_connect_cancel(struct env *env, struct env_connect *connect)
{
	struct connect_state *state = connect_state(connect);
	if (!state->conn && !list_linked(&state->defer.link))
		return; /* done() has run */
	state->status = -ECANCELED;
	if (state->conn)
		net_op_cancel(loop_of(env), &state->conn->out_op);
}
