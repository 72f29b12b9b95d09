/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An env of virtual time with one connection in memory: bytes given by the test arrive in pieces
 * of chosen sizes, what is sent goes to a callback. Nothing happens but in fuzz_env_run().
 */
#ifndef HF_TESTS_FUZZ_FUZZ_ENV_H
#define HF_TESTS_FUZZ_FUZZ_ENV_H

#include <errno.h>

#include "tests/unit/fake_env.h"

struct fuzz_env {
	struct fake_env fake;
	struct env_ops ops;
	struct env_listener_cb listener;
	const uint8_t *input;
	size_t input_bytes;
	uint32_t piece_bytes_max; /* at least 1 */
	bool eof;                 /* the peer closes after the input; else it is silent */
	void (*output)(void *ctx, const void *data, size_t bytes);
	void *ctx;
	struct env_recv *recv;
	struct list sends;
	struct env_close *close;
};

static inline struct fuzz_env *fuzz_env_of(struct env *env)
{
	return CONTAINER_OF(CONTAINER_OF(env, struct fake_env, env), struct fuzz_env, fake);
}
/* The connection and the listener are the env itself. */
static int fuzz_listen(struct env *env, const char *address, const struct env_listener_cb *cb,
		       struct env_listener **ret, struct err *err)
{
	(void)address;
	(void)err;
	fuzz_env_of(env)->listener = *cb;
	*ret = (struct env_listener *)(void *)env;
	return 0;
}
static void fuzz_listener_close(struct env_listener *listener)
{
	(void)listener;
}
static void fuzz_recv(struct env_conn *conn, struct env_recv *recv)
{
	struct fuzz_env *fuzz = fuzz_env_of((struct env *)(void *)conn);
	assert(!fuzz->recv && !fuzz->close && recv->buf_bytes > 0);
	fuzz->recv = recv;
}
static void fuzz_send(struct env_conn *conn, struct env_send *send)
{
	struct fuzz_env *fuzz = fuzz_env_of((struct env *)(void *)conn);
	assert(!fuzz->close && send->iov_count > 0 && send->iov_count <= ENV_IO_IOV_MAX);
	list_push_back(&fuzz->sends, &send->link);
}
static void fuzz_close(struct env_conn *conn, struct env_close *close)
{
	struct fuzz_env *fuzz = fuzz_env_of((struct env *)(void *)conn);
	assert(!fuzz->close);
	fuzz->close = close;
}
static void *fuzz_buf_alloc(struct env *env, size_t bytes)
{
	(void)env;
	void *buf = aligned_alloc(BLOCK_BYTES, ALIGN_UP(bytes, BLOCK_BYTES));
	return buf ? memset(buf, 0, bytes) : NULL;
}
static void fuzz_buf_free(struct env *env, void *buf, size_t bytes)
{
	(void)env;
	(void)bytes;
	free(buf);
}

static inline struct env *fuzz_env_init(struct fuzz_env *fuzz, uint64_t seed)
{
	memset(fuzz, 0, sizeof(*fuzz));
	fake_env_init(&fuzz->fake, seed);
	fuzz->ops = fake_env_ops;
	fuzz->ops.listen = fuzz_listen;
	fuzz->ops.listener_close = fuzz_listener_close;
	fuzz->ops.conn_recv = fuzz_recv;
	fuzz->ops.conn_send = fuzz_send;
	fuzz->ops.conn_close = fuzz_close;
	fuzz->ops.buf_alloc = fuzz_buf_alloc;
	fuzz->ops.buf_free = fuzz_buf_free;
	fuzz->fake.env.ops = &fuzz->ops;
	fuzz->piece_bytes_max = 1u << 20;
	list_init(&fuzz->sends);
	return &fuzz->fake.env;
}
static inline void fuzz_env_free(struct fuzz_env *fuzz)
{
	fake_env_free(&fuzz->fake);
}
static inline void fuzz_env_connect(struct fuzz_env *fuzz)
{
	struct env_peer peer = {.text = "memory", .pid = -1, .uid = -1};
	fuzz->listener.accepted(fuzz->listener.ctx, (struct env_conn *)(void *)&fuzz->fake.env,
				&peer);
}

static inline bool fuzz_send_turn(struct fuzz_env *fuzz, int status)
{
	struct list *link = list_pop_front(&fuzz->sends);
	if (!link)
		return false;
	struct env_send *send = CONTAINER_OF(link, struct env_send, link);
	for (uint32_t i = 0; status == 0 && fuzz->output && i < send->iov_count; i++)
		fuzz->output(fuzz->ctx, send->iov[i].iov_base, send->iov[i].iov_len);
	send->done(send, status);
	return true;
}
static inline bool fuzz_recv_turn(struct fuzz_env *fuzz)
{
	if (!fuzz->recv || (fuzz->input_bytes == 0 && !fuzz->eof))
		return false;
	struct env_recv *recv = take(fuzz->recv);
	size_t piece_bytes = 1 + fake_env_random(&fuzz->fake.env) % fuzz->piece_bytes_max;
	size_t bytes = MIN(fuzz->input_bytes, recv->buf_bytes);
	bytes = MIN(bytes, piece_bytes);
	memcpy(recv->buf, fuzz->input, bytes);
	fuzz->input += bytes;
	fuzz->input_bytes -= bytes;
	recv->done(recv, (ssize_t)bytes);
	return true;
}
static inline bool fuzz_close_turn(struct fuzz_env *fuzz)
{
	if (!fuzz->close)
		return false;
	while (fuzz_send_turn(fuzz, -ECANCELED))
		;
	if (fuzz->recv) {
		struct env_recv *recv = take(fuzz->recv);
		recv->done(recv, -ECANCELED);
	}
	struct env_close *close = take(fuzz->close);
	close->done(close);
	return true;
}
/* Runs until nothing moves any more, timers within span_ns included. */
static inline void fuzz_env_run(struct fuzz_env *fuzz, uint64_t span_ns)
{
	uint64_t end_ns = fuzz->fake.now_ns + span_ns;
	for (;;) {
		bool any = fake_env_turn(&fuzz->fake);
		any = fuzz_close_turn(fuzz) || any;
		any = fuzz_recv_turn(fuzz) || any;
		any = fuzz_close_turn(fuzz) || fuzz_send_turn(fuzz, 0) || any;
		if (any)
			continue;
		struct env_timer *first = timer_heap_first(&fuzz->fake.heap);
		if (first == NULL || first->deadline_ns > end_ns)
			return;
		fuzz->fake.now_ns = MAX(fuzz->fake.now_ns, first->deadline_ns);
	}
}

#endif
