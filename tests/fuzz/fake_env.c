/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See fake_env.h. A connection's memory stays until the env is freed, so that the fuzzer may hold
 * on to it; what the code under test does with one that it closed is caught by FUZZ_CHECK.
 */
#include "tests/fuzz/fake_env.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"

static struct fake_env *fake_of(struct env *env)
{
	return CONTAINER_OF(env, struct fake_env, env);
}

static struct fake_conn *conn_of(struct env_conn *conn)
{
	return (struct fake_conn *)(void *)conn;
}

static uint64_t fake_now_ns(struct env *env)
{
	return fake_of(env)->now_ns;
}

static uint64_t fake_wall_ms(struct env *env)
{
	return 1700000000000ull + fake_of(env)->now_ns / 1000000;
}

static uint64_t fake_random(struct env *env)
{
	uint64_t z = fake_of(env)->seed += 0x9e3779b97f4a7c15ull;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

static void fake_timer_set(struct env *env, struct env_timer *timer, uint64_t deadline_ns)
{
	timer_heap_set(&fake_of(env)->heap, timer, deadline_ns);
}

static void fake_timer_cancel(struct env *env, struct env_timer *timer)
{
	timer_heap_cancel(&fake_of(env)->heap, timer);
}

static int fake_listen(struct env *env, const char *address, const struct env_listener_cb *cb,
		       struct env_listener **ret, struct err *err)
{
	(void)address;
	(void)err;
	fake_of(env)->listener = *cb;
	*ret = (struct env_listener *)(void *)env;
	return 0;
}

static void fake_listener_close(struct env_listener *listener)
{
	fake_of((struct env *)(void *)listener)->listener.accepted = NULL;
}

static void fake_conn_recv(struct env_conn *env_conn, struct env_recv *recv)
{
	struct fake_conn *conn = conn_of(env_conn);
	FUZZ_CHECK(conn->recv == NULL && conn->close == NULL && recv->buf_bytes > 0);
	conn->recv = recv;
}

static void fake_conn_send(struct env_conn *env_conn, struct env_send *send)
{
	struct fake_conn *conn = conn_of(env_conn);
	FUZZ_CHECK(conn->close == NULL);
	FUZZ_CHECK(send->iov_count >= 1 && send->iov_count <= ENV_IO_IOV_MAX);
	list_push_back(&conn->sends, &send->link);
}

static void fake_conn_close(struct env_conn *env_conn, struct env_close *close)
{
	struct fake_conn *conn = conn_of(env_conn);
	FUZZ_CHECK(conn->close == NULL && !conn->closed);
	conn->close = close;
}

static const struct env_ops fake_ops = {
	.name = "fake",
	.now_ns = fake_now_ns,
	.wall_ms = fake_wall_ms,
	.random = fake_random,
	.timer_set = fake_timer_set,
	.timer_cancel = fake_timer_cancel,
	.listen = fake_listen,
	.listener_close = fake_listener_close,
	.conn_recv = fake_conn_recv,
	.conn_send = fake_conn_send,
	.conn_close = fake_conn_close,
};

void fake_env_init(struct fake_env *fake, uint64_t seed)
{
	*fake = (struct fake_env){.env.ops = &fake_ops, .now_ns = 1000000000ull, .seed = seed};
	FUZZ_CHECK(timer_heap_init(&fake->heap) == 0);
	list_init(&fake->conns);
}

void fake_env_free(struct fake_env *fake)
{
	struct list *n;
	while ((n = list_pop_front(&fake->conns)) != NULL) {
		struct fake_conn *conn = CONTAINER_OF(n, struct fake_conn, link);
		free(conn->in);
		free(conn);
	}
	timer_heap_free(&fake->heap);
}

struct fake_conn *fake_env_accept(struct fake_env *fake)
{
	if (fake->listener.accepted == NULL)
		return NULL;
	struct fake_conn *conn = calloc(1, sizeof(*conn));
	FUZZ_CHECK(conn != NULL);
	conn->fake = fake;
	list_init(&conn->sends);
	list_push_back(&fake->conns, &conn->link);
	const struct env_peer peer = {.text = "tcp:127.0.0.1:4711", .pid = -1, .uid = -1};
	fake->listener.accepted(fake->listener.ctx, (struct env_conn *)(void *)conn, &peer);
	return conn;
}

bool fake_conn_feed(struct fake_conn *conn, const void *bytes, size_t count)
{
	if (conn->in_bytes + count > FAKE_CONN_BYTES_MAX)
		return false;
	if (count == 0)
		return true;
	conn->in = realloc(conn->in, conn->in_bytes + count);
	FUZZ_CHECK(conn->in != NULL);
	memcpy(conn->in + conn->in_bytes, bytes, count);
	conn->in_bytes += count;
	return true;
}

static void sends_finish(struct fake_conn *conn, int status)
{
	struct list now, *n;
	list_init(&now);
	list_splice_back(&now, &conn->sends);
	while ((n = list_pop_front(&now)) != NULL) {
		struct env_send *send = CONTAINER_OF(n, struct env_send, link);
		if (conn->sent != NULL && status == 0)
			conn->sent(conn, send);
		send->done(send, status);
	}
}

static void recv_finish(struct fake_conn *conn, ssize_t n)
{
	struct env_recv *recv = conn->recv;
	conn->recv = NULL;
	recv->done(recv, n);
}

static bool close_turn(struct fake_conn *conn)
{
	struct env_close *close = conn->close;
	sends_finish(conn, -ECANCELED);
	if (conn->recv != NULL)
		recv_finish(conn, -ECANCELED);
	conn->close = NULL;
	conn->closed = true;
	close->done(close);
	return true;
}

static bool recv_turn(struct fake_conn *conn)
{
	if (conn->recv == NULL || conn->close != NULL || (conn->in_bytes == 0 && !conn->ended))
		return false;
	size_t count = MIN(conn->in_bytes, conn->recv->buf_bytes);
	if (conn->recv_step_bytes != 0)
		count = MIN(count, conn->recv_step_bytes);
	if (count == 0) {
		recv_finish(conn, conn->end_status);
		return true;
	}
	memcpy(conn->recv->buf, conn->in, count);
	conn->in_bytes -= count;
	memmove(conn->in, conn->in + count, conn->in_bytes);
	recv_finish(conn, (ssize_t)count);
	return true;
}

static bool conn_turn(struct fake_conn *conn)
{
	if (conn->closed)
		return false;
	if (conn->close != NULL)
		return close_turn(conn);
	bool any = false;
	if (!conn->hold_sends && !list_empty(&conn->sends)) {
		sends_finish(conn, conn->ended && conn->end_status < 0 ? -EPIPE : 0);
		any = true;
	}
	return recv_turn(conn) || any;
}

bool fake_env_turn(struct fake_env *fake)
{
	bool any = false;
	list_for_each (n, &fake->conns)
		any |= conn_turn(CONTAINER_OF(n, struct fake_conn, link));
	uint64_t limit = fake->heap.next_order;
	struct env_timer *timer;
	while ((timer = timer_heap_pop_due(&fake->heap, fake->now_ns, limit)) != NULL) {
		timer->fire(timer);
		any = true;
	}
	return any;
}
