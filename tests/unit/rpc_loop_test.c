/* SPDX-License-Identifier: Apache-2.0 */
/* Calls delivered on a loop, and asynchronous calls completed on one. */
#include "base/loop.h"
#include "tests/unit/rpc_fixture.h"

/* A server whose handlers run on `loop`; everything is asked from the same loop. */
struct bench {
	struct fixture f;
	struct loop *loop;
	pthread_t thread; /* the loop's only thread: the test's */
	unsigned wanted;
	unsigned over;
	bool all_over;
	bool is_stopped;
	struct rpc_stop stop;
	struct rpc_call *kept;
	bool call_begun;
	struct loop_msg read_msg;
};

struct asking {
	struct rpc_async async;
	struct bench *bench;
	bool was_done;
};

static void loop_say(void *ctx, struct rpc_call *call)
{
	struct bench *b = ctx;
	CHECK(pthread_equal(pthread_self(), b->thread));
	echo_say(&b->f, call);
}

static void kept_cancelled(void *ctx, struct rpc_call *call)
{
	struct bench *b = ctx;
	CHECK(pthread_equal(pthread_self(), b->thread));
	CHECK(b->kept == call);
	b->kept = NULL;
	rpc_call_fail(call, RPC_CANCELLED, "given up");
}

static void loop_keep(void *ctx, struct rpc_call *call)
{
	struct bench *b = ctx;
	b->kept = call;
	b->call_begun = true;
	rpc_call_on_cancel(call, kept_cancelled, b);
}

static void loop_count(void *ctx, struct rpc_call *call)
{
	struct bench *b = ctx;
	CHECK(pthread_equal(pthread_self(), b->thread));
	echo_count(&b->f, call);
}

static const struct rpc_method loop_methods[] = {
	{"Say", loop_say, 0},
	{"Probe", loop_keep, 0},
	{"Count", loop_count, RPC_METHOD_STREAM},
	{NULL, NULL, 0},
};

static void bench_start(struct bench *b)
{
	struct err err = {0};
	memset(b, 0, sizeof(*b));
	fixture_dir(&b->f);
	b->thread = pthread_self();
	CHECK(loop_create(LOOP_ENGINE_AUTO, &b->loop, &err) == 0, "%s", err.text);
	const char *addresses[] = {b->f.address};
	struct rpc_server_config config = {
		.addresses = addresses, .address_count = 1, .loop = b->loop};
	CHECK(rpc_server_create(&config, &b->f.server, &err) == 0, "%s", err.text);
	CHECK_EQ(
		rpc_server_register(b->f.server, &rpctest__echo__descriptor, loop_methods, b, &err),
		0);
	CHECK_EQ(rpc_server_start(b->f.server, &err), 0);
	fixture_connect(&b->f);
}

/* Runs the loop until *flag; fails after 20 s. */
static void bench_run(struct bench *b, const bool *flag)
{
	uint64_t deadline_ns = env_now_ns(loop_env(b->loop)) + 20000000000ull;
	CHECK_EQ(loop_run_until(b->loop, flag, deadline_ns), 0);
}

static void on_stop(struct rpc_stop *stop)
{
	struct bench *b = CONTAINER_OF(stop, struct bench, stop);
	CHECK(pthread_equal(pthread_self(), b->thread));
	b->is_stopped = true;
}

static void bench_end(struct bench *b)
{
	b->stop.loop = b->loop;
	b->stop.done = on_stop;
	CHECK_EQ(rpc_server_stop_start(b->f.server, 100, &b->stop), 0);
	bench_run(b, &b->is_stopped);
	rpc_server_destroy(take(b->f.server));
	rpc_client_destroy(take(b->f.client));
	loop_destroy(b->loop);
	fixture_end(&b->f);
}

static void on_answer(struct rpc_async *async)
{
	struct asking *asking = CONTAINER_OF(async, struct asking, async);
	struct bench *b = asking->bench;
	CHECK(pthread_equal(pthread_self(), b->thread));
	CHECK(!asking->was_done);
	asking->was_done = true;
	b->all_over = ++b->over == b->wanted;
}

static void ask(struct bench *b, struct asking *asking, const char *method, const char *text,
		uint32_t timeout_ms)
{
	memset(asking, 0, sizeof(*asking));
	asking->bench = b;
	asking->async.loop = b->loop;
	asking->async.done = on_answer;
	Rpctest__SayRequest in = RPCTEST__SAY_REQUEST__INIT;
	in.text = (char *)text;
	struct rpc_request request = {&rpctest__echo__descriptor, method, &in.base, timeout_ms};
	b->all_over = false;
	b->wanted++;
	rpc_client_start(b->f.client, &request, &asking->async);
	CHECK(!asking->was_done, "done() ran inside start");
}

TEST(rpc_loop, hundreds_of_calls_go_out_and_come_back_on_one_loop)
{
	enum { COUNT = 200 };
	struct bench b;
	static struct asking asking[COUNT];
	static char texts[COUNT][32];
	bench_start(&b);
	for (int i = 0; i < COUNT; i++) {
		snprintf(texts[i], sizeof(texts[i]), "text %d", i);
		ask(&b, &asking[i], "Say", texts[i], 20000);
	}
	bench_run(&b, &b.all_over);
	for (int i = 0; i < COUNT; i++) {
		CHECK(asking[i].async.err.code == 0, "%s", asking[i].async.err.text);
		CHECK_STR(((Rpctest__SayResponse *)asking[i].async.response)->text, texts[i]);
		rpc_message_free(asking[i].async.response);
	}
	bench_end(&b);
}

TEST(rpc_loop, errors_come_through_done)
{
	struct bench b;
	struct asking asking[3];
	bench_start(&b);
	ask(&b, &asking[0], "Absent", "", 5000);
	ask(&b, &asking[1], "NoSuchMethod", "", 5000);
	ask(&b, &asking[2], "Say", "\xff", 5000);
	bench_run(&b, &b.all_over);
	CHECK_EQ(asking[0].async.err.code, -ENOSYS);
	CHECK_EQ(asking[1].async.err.code, -EINVAL);
	CHECK_EQ(asking[2].async.err.code, -EINVAL);
	bench_end(&b);
}

TEST(rpc_loop, cancel_ends_the_call_on_both_sides)
{
	struct bench b;
	struct asking asking;
	bench_start(&b);
	ask(&b, &asking, "Probe", "", 20000);
	bench_run(&b, &b.call_begun);
	rpc_async_cancel(&asking.async);
	bench_run(&b, &b.all_over);
	CHECK_EQ(asking.async.err.code, -ECANCELED);
	CHECK(asking.async.response == NULL);
	bench_end(&b); /* drains: the handler has seen the cancellation */
	CHECK(b.kept == NULL);
}

TEST(rpc_loop, stop_cancels_a_kept_call_without_blocking_the_loop)
{
	struct bench b;
	struct asking asking;
	bench_start(&b);
	ask(&b, &asking, "Probe", "", 20000);
	bench_run(&b, &b.call_begun);
	b.stop.loop = b.loop;
	b.stop.done = on_stop;
	CHECK_EQ(rpc_server_stop_start(b.f.server, 50, &b.stop), 0);
	bench_run(&b, &b.is_stopped);
	bench_run(&b, &b.all_over);
	CHECK(asking.async.err.code == -ENOTCONN || asking.async.err.code == -ECANCELED);
	CHECK(b.kept == NULL);
	rpc_server_destroy(take(b.f.server));
	rpc_client_destroy(take(b.f.client));
	loop_destroy(b.loop);
	fixture_end(&b.f);
}

static void on_read(struct loop_msg *msg)
{
	CONTAINER_OF(msg, struct bench, read_msg)->all_over = true;
}

static void *reader_main(void *arg)
{
	struct bench *b = arg;
	Rpctest__CountRequest in = RPCTEST__COUNT_REQUEST__INIT;
	in.items = 500;
	in.by_callback = true;
	struct rpc_request request = {&rpctest__echo__descriptor, "Count", &in.base, 20000};
	struct rpc_stream *stream = NULL;
	CHECK_EQ(rpc_stream_open(b->f.client, &request, &stream, NULL), 0);
	uint64_t next = 0;
	for (;;) {
		ProtobufCMessage *message = NULL;
		int rc = rpc_stream_next(stream, &message, NULL);
		CHECK(rc >= 0);
		if (rc == 0)
			break;
		CHECK_EQ(((Rpctest__CountItem *)message)->index, next++);
		rpc_message_free(message);
	}
	CHECK_EQ(next, 500);
	rpc_stream_close(stream);
	b->read_msg.run = on_read; /* the only door to the loop's thread */
	loop_post(b->loop, &b->read_msg);
	return NULL;
}

TEST(rpc_loop, a_stream_is_written_from_the_loop_by_callbacks)
{
	struct bench b;
	pthread_t reader;
	bench_start(&b);
	pthread_create(&reader, NULL, reader_main, &b);
	bench_run(&b, &b.all_over);
	pthread_join(reader, NULL);
	bench_end(&b);
}
