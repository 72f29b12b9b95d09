/* SPDX-License-Identifier: Apache-2.0 */
/* Server streams: order, ends, flow control, cancellation. */
#include "tests/unit/rpc_fixture.h"

#define DEFAULTS ((struct rpc_server_config){0})

static struct rpc_stream *stream_open(struct fixture *f, const Rpctest__CountRequest *in)
{
	struct err err = {0};
	struct rpc_stream *stream = NULL;
	struct rpc_request request = {&rpctest__echo__descriptor, "Count", &in->base, 0};
	CHECK(rpc_stream_open(f->client, &request, &stream, &err) == 0, "%s", err.text);
	return stream;
}

/* Reads until the end; every index must follow the last. Returns how it ended. */
static int stream_read(struct rpc_stream *stream, uint64_t *next, struct err *err)
{
	for (;;) {
		ProtobufCMessage *message = NULL;
		int rc = rpc_stream_next(stream, &message, err);
		if (rc <= 0)
			return rc;
		CHECK_EQ(((Rpctest__CountItem *)message)->index, *next);
		(*next)++;
		rpc_message_free(message);
	}
}

TEST(rpc_stream, messages_come_in_order_and_then_the_end)
{
	for (int by_callback = 0; by_callback < 2; by_callback++) {
		struct fixture f;
		uint64_t next = 0;
		fixture_start(&f, DEFAULTS);
		Rpctest__CountRequest in = RPCTEST__COUNT_REQUEST__INIT;
		in.items = 2000;
		in.by_callback = by_callback;
		struct rpc_stream *stream = stream_open(&f, &in);
		CHECK_EQ(stream_read(stream, &next, NULL), 0);
		CHECK_EQ(next, 2000);
		CHECK_EQ(stream_read(stream, &next, NULL), 0); /* the end stays the end */
		rpc_stream_close(stream);
		fixture_end(&f);
	}
}

TEST(rpc_stream, an_empty_stream_ends_at_once)
{
	struct fixture f;
	uint64_t next = 0;
	fixture_start(&f, DEFAULTS);
	Rpctest__CountRequest in = RPCTEST__COUNT_REQUEST__INIT;
	struct rpc_stream *stream = stream_open(&f, &in);
	CHECK_EQ(stream_read(stream, &next, NULL), 0);
	rpc_stream_close(stream);
	fixture_end(&f);
}

TEST(rpc_stream, an_error_comes_after_the_messages_before_it)
{
	struct fixture f;
	struct err err = {0};
	uint64_t next = 0;
	fixture_start(&f, DEFAULTS);
	Rpctest__CountRequest in = RPCTEST__COUNT_REQUEST__INIT;
	in.items = 3;
	in.fail_code = RPC_DATA_LOSS;
	struct rpc_stream *stream = stream_open(&f, &in);
	CHECK_EQ(stream_read(stream, &next, &err), -EIO);
	CHECK_STR(err.text, "after the items");
	CHECK_EQ(next, 3);
	rpc_stream_close(stream);
	fixture_end(&f);
}

TEST(rpc_stream, a_slow_reader_holds_the_writer_back)
{
	enum { ITEMS = 1000, ITEM_BYTES = 20000 };
	struct fixture f;
	ProtobufCMessage *message = NULL;
	fixture_start(&f, DEFAULTS);
	Rpctest__CountRequest in = RPCTEST__COUNT_REQUEST__INIT;
	in.items = ITEMS;
	in.payload_bytes = ITEM_BYTES;
	struct rpc_stream *stream = stream_open(&f, &in);
	CHECK_EQ(rpc_stream_next(stream, &message, NULL), 1);
	rpc_message_free(message);
	/* The writer has stopped when its count stays the same for a while. */
	uint32_t last = UINT32_MAX;
	uint64_t since_ms = fixture_now_ms();
	WAIT_FOR(({
		uint32_t sent = atomic_load(&f.sent);
		if (sent != last)
			since_ms = fixture_now_ms();
		last = sent;
		fixture_now_ms() - since_ms > 200;
	}));
	CHECK(last < ITEMS / 2, "%u of %d messages were sent to a reader that reads none", last,
	      ITEMS);
	uint64_t next = 1;
	CHECK_EQ(stream_read(stream, &next, NULL), 0);
	CHECK_EQ(next, ITEMS);
	rpc_stream_close(stream);
	fixture_end(&f);
}

TEST(rpc_stream, closing_early_cancels_a_blocked_writer)
{
	struct fixture f;
	fixture_start(&f, (struct rpc_server_config){.worker_count = 1});
	Rpctest__CountRequest in = RPCTEST__COUNT_REQUEST__INIT;
	in.items = 100000;
	in.payload_bytes = 20000;
	struct rpc_stream *stream = stream_open(&f, &in);
	WAIT_FOR(atomic_load(&f.sent) > 0);
	rpc_stream_close(stream);
	WAIT_FOR(atomic_load(&f.cancels) == 1);
	WAIT_FOR(rpc_server_calls(f.server) == 0);
	fixture_end(&f);
}

static void *cancel_main(void *arg)
{
	rpc_stream_cancel(arg);
	return NULL;
}

TEST(rpc_stream, cancel_from_another_thread_wakes_the_reader)
{
	struct fixture f;
	pthread_t thread;
	uint64_t next = 0;
	fixture_start(&f, DEFAULTS);
	Rpctest__CountRequest in = RPCTEST__COUNT_REQUEST__INIT;
	in.items = 1;
	in.hold = true;
	struct rpc_stream *stream = stream_open(&f, &in);
	WAIT_FOR(atomic_load(&f.begun) == 1);
	pthread_create(&thread, NULL, cancel_main, stream);
	CHECK_EQ(stream_read(stream, &next, NULL), -ECANCELED);
	pthread_join(thread, NULL);
	rpc_stream_close(stream);
	WAIT_FOR(atomic_load(&f.cancels) == 1);
	fixture_end(&f);
}

TEST(rpc_stream, no_server_is_an_error_of_the_first_read)
{
	struct fixture f;
	struct err err = {0};
	uint64_t next = 0;
	fixture_dir(&f);
	fixture_connect(&f);
	Rpctest__CountRequest in = RPCTEST__COUNT_REQUEST__INIT;
	struct rpc_stream *stream = stream_open(&f, &in);
	CHECK_EQ(stream_read(stream, &next, &err), -ENOTCONN);
	CHECK(strstr(err.text, f.address) != NULL, "text is '%s'", err.text);
	rpc_stream_close(stream);
	fixture_end(&f);
}
