/* SPDX-License-Identifier: Apache-2.0 */
/* An echo server, a client and a raw gRPC caller for the rpc tests. */
#ifndef HF_TESTS_UNIT_RPC_FIXTURE_H
#define HF_TESTS_UNIT_RPC_FIXTURE_H

#include <errno.h>
#include <grpc/byte_buffer.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/rpc/rpc.h"
#include "tests/unit/rpc_echo.pb-c.h"
#include "tests/unit/test.h"

#define FIXTURE_HELD_MAX 1024

static inline uint64_t fixture_now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Polls until the condition holds; the test fails after 20 s. */
#define WAIT_FOR(cond)                                                                     \
	do {                                                                               \
		uint64_t wait_end_ = fixture_now_ms() + 20000;                             \
		while (!(cond)) {                                                          \
			CHECK(fixture_now_ms() < wait_end_, "waited too long for " #cond); \
			usleep(1000);                                                      \
		}                                                                          \
	} while (0)

struct fixture {
	char dir[64];
	char address[96];
	struct rpc_server *server;
	struct rpc_client *client;
	pthread_mutex_t mutex;
	struct rpc_call *held[FIXTURE_HELD_MAX];
	size_t held_count;
	atomic_uint begun;       /* handlers entered */
	atomic_uint cancels;     /* cancellations seen */
	atomic_uint sent;        /* stream messages taken */
	atomic_bool gate_closed; /* blocks Say on its worker */
	atomic_ullong left_ns;   /* of the last Say */
	char peer[64], agent[128], method[64];
};

static inline void echo_reply(struct rpc_call *call)
{
	const Rpctest__SayRequest *in = (const Rpctest__SayRequest *)rpc_call_request(call);
	Rpctest__SayResponse out = RPCTEST__SAY_RESPONSE__INIT;
	out.text = in->bad_reply ? (char *)"\xff" : in->text;
	out.n_parts = in->n_parts;
	out.parts = in->parts;
	out.payload = in->payload;
	rpc_call_reply(call, &out.base);
}

static inline void echo_cancelled(void *ctx, struct rpc_call *call)
{
	struct fixture *f = ctx;
	pthread_mutex_lock(&f->mutex);
	for (size_t i = 0; i < f->held_count; i++) {
		if (f->held[i] == call)
			f->held[i--] = f->held[--f->held_count];
	}
	pthread_mutex_unlock(&f->mutex);
	CHECK(rpc_call_is_cancelled(call));
	rpc_call_fail(call, RPC_CANCELLED, "given up");
	atomic_fetch_add(&f->cancels, 1);
}

static inline void echo_hold(struct fixture *f, struct rpc_call *call)
{
	pthread_mutex_lock(&f->mutex);
	CHECK(f->held_count < FIXTURE_HELD_MAX);
	f->held[f->held_count++] = call;
	pthread_mutex_unlock(&f->mutex);
	rpc_call_on_cancel(call, echo_cancelled, f);
}

static inline void echo_say(void *ctx, struct rpc_call *call)
{
	struct fixture *f = ctx;
	const Rpctest__SayRequest *in = (const Rpctest__SayRequest *)rpc_call_request(call);
	atomic_fetch_add(&f->begun, 1);
	atomic_store(&f->left_ns, rpc_call_time_left_ns(call));
	while (atomic_load(&f->gate_closed))
		usleep(1000);
	pthread_mutex_lock(&f->mutex);
	snprintf(f->peer, sizeof(f->peer), "%s", rpc_call_peer(call));
	snprintf(f->method, sizeof(f->method), "%s", rpc_call_method(call));
	(void)rpc_call_metadata(call, "user-agent", f->agent, sizeof(f->agent));
	pthread_mutex_unlock(&f->mutex);
	if (in->hold)
		echo_hold(f, call);
	else if (in->fail_code)
		rpc_call_fail(call, (enum rpc_code)in->fail_code, "%s", in->text);
	else
		echo_reply(call);
}

static inline void echo_probe(void *ctx, struct rpc_call *call)
{
	(void)ctx;
	echo_reply(call);
}

struct counting {
	struct fixture *fixture;
	uint64_t next;
};

/* Sends as much as fits; the writable callback comes back here. */
static inline void count_more(void *ctx, struct rpc_call *call)
{
	struct counting *counting = ctx;
	const Rpctest__CountRequest *in = (const Rpctest__CountRequest *)rpc_call_request(call);
	while (counting->next < in->items) {
		Rpctest__CountItem item = RPCTEST__COUNT_ITEM__INIT;
		item.index = counting->next;
		int rc = rpc_call_send(call, &item.base);
		if (rc == -EAGAIN)
			return;
		if (rc == -ECANCELED)
			break;
		CHECK_EQ(rc, 0);
		counting->next++;
		atomic_fetch_add(&counting->fixture->sent, 1);
	}
	rpc_call_finish(call);
	free(counting);
}

static inline void echo_count(void *ctx, struct rpc_call *call)
{
	struct fixture *f = ctx;
	const Rpctest__CountRequest *in = (const Rpctest__CountRequest *)rpc_call_request(call);
	atomic_fetch_add(&f->begun, 1);
	if (in->by_callback) {
		struct counting *counting = calloc(1, sizeof(*counting));
		counting->fixture = f;
		rpc_call_on_writable(call, count_more, counting);
		count_more(counting, call);
		return;
	}
	uint8_t *payload = calloc(1, in->payload_bytes + 1u);
	int rc = 0;
	for (uint64_t i = 0; rc == 0 && i < in->items; i++) {
		Rpctest__CountItem item = RPCTEST__COUNT_ITEM__INIT;
		item.index = i;
		item.payload.data = payload;
		item.payload.len = in->payload_bytes;
		rc = rpc_call_send_wait(call, &item.base);
		if (rc == 0)
			atomic_fetch_add(&f->sent, 1);
	}
	free(payload);
	if (rc < 0) {
		atomic_fetch_add(&f->cancels, 1);
		rpc_call_fail(call, RPC_CANCELLED, "given up");
	} else if (in->hold) {
		echo_hold(f, call);
	} else if (in->fail_code) {
		rpc_call_fail(call, (enum rpc_code)in->fail_code, "after the items");
	} else {
		rpc_call_finish(call);
	}
}

static const struct rpc_method echo_methods[] = {
	{"Say", echo_say, 0},
	{"Count", echo_count, RPC_METHOD_STREAM},
	{"Probe", echo_probe, RPC_METHOD_INLINE},
	{NULL, NULL, 0},
};

static inline void fixture_dir(struct fixture *f)
{
	memset(f, 0, sizeof(*f));
	pthread_mutex_init(&f->mutex, NULL);
	snprintf(f->dir, sizeof(f->dir), "/tmp/rpc-test-XXXXXX");
	CHECK(mkdtemp(f->dir) != NULL);
	snprintf(f->address, sizeof(f->address), "unix:%s/s.sock", f->dir);
}

/* config.addresses is filled in when absent. */
static inline void fixture_serve(struct fixture *f, struct rpc_server_config config)
{
	struct err err = {0};
	const char *addresses[] = {f->address};
	if (!config.addresses) {
		config.addresses = addresses;
		config.address_count = 1;
	}
	CHECK(rpc_server_create(&config, &f->server, &err) == 0, "%s", err.text);
	CHECK(rpc_server_register(f->server, &rpctest__echo__descriptor, echo_methods, f, &err) ==
		      0,
	      "%s", err.text);
	CHECK(rpc_server_start(f->server, &err) == 0, "%s", err.text);
}

static inline void fixture_connect(struct fixture *f)
{
	struct err err = {0};
	struct rpc_client_config config = {.address = f->address};
	CHECK(rpc_client_create(&config, &f->client, &err) == 0, "%s", err.text);
}

static inline void fixture_start(struct fixture *f, struct rpc_server_config config)
{
	fixture_dir(f);
	fixture_serve(f, config);
	fixture_connect(f);
}

/* Answers everything held. */
static inline void fixture_release(struct fixture *f)
{
	for (;;) {
		pthread_mutex_lock(&f->mutex);
		struct rpc_call *call = f->held_count ? f->held[--f->held_count] : NULL;
		pthread_mutex_unlock(&f->mutex);
		if (!call)
			return;
		echo_reply(call);
	}
}

#ifdef __SANITIZE_ADDRESS__
int __lsan_do_recoverable_leak_check(void);
#else
#define __lsan_do_recoverable_leak_check() 0
#endif

static inline void fixture_end(struct fixture *f)
{
	char path[128];
	rpc_client_destroy(f->client);
	rpc_server_destroy(f->server);
	snprintf(path, sizeof(path), "%s/s.sock", f->dir);
	(void)unlink(path); /* gone already unless the test left it */
	CHECK(rmdir(f->dir) == 0, "something was left in %s", f->dir);
	pthread_mutex_destroy(&f->mutex);
	CHECK_EQ(__lsan_do_recoverable_leak_check(), 0);
}

/* One Say; the response is copied to text (when not NULL). */
static inline int fixture_say(struct fixture *f, const Rpctest__SayRequest *in, uint32_t timeout_ms,
			      char *text, struct err *err)
{
	ProtobufCMessage *out = NULL;
	struct rpc_request request = {&rpctest__echo__descriptor, "Say", &in->base, timeout_ms};
	int rc = rpc_client_call(f->client, &request, &out, err);
	CHECK(rc < 0 || out != NULL);
	if (rc == 0 && text)
		snprintf(text, 128, "%s", ((Rpctest__SayResponse *)out)->text);
	rpc_message_free(out);
	return rc;
}

/* A call of raw bytes to a method path: gRPC's status, and its text in `text`. */
static inline int raw_call(const char *target, const char *path, const void *bytes,
			   size_t bytes_count, char text[512])
{
	grpc_init();
	grpc_completion_queue *queue = grpc_completion_queue_create_for_next(NULL);
	grpc_channel_credentials *insecure = grpc_insecure_credentials_create();
	grpc_channel *channel = grpc_channel_create(target, insecure, NULL);
	grpc_channel_credentials_release(insecure);
	grpc_slice method = grpc_slice_from_copied_string(path);
	gpr_timespec deadline =
		gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_seconds(10, GPR_TIMESPAN));
	grpc_call *call =
		grpc_channel_create_call(channel, NULL, 0, queue, method, NULL, deadline, NULL);
	grpc_slice_unref(method);
	grpc_slice slice = grpc_slice_from_copied_buffer(bytes, bytes_count);
	grpc_byte_buffer *sent = bytes ? grpc_raw_byte_buffer_create(&slice, 1) : NULL;
	grpc_byte_buffer *received = NULL;
	grpc_metadata_array headers, trailers;
	grpc_metadata_array_init(&headers);
	grpc_metadata_array_init(&trailers);
	grpc_status_code status = GRPC_STATUS_UNKNOWN;
	grpc_slice details = grpc_empty_slice();
	grpc_op ops[6] = {0};
	size_t n = 0;
	ops[n++].op = GRPC_OP_SEND_INITIAL_METADATA;
	if (sent) {
		ops[n].op = GRPC_OP_SEND_MESSAGE;
		ops[n++].data.send_message.send_message = sent;
	}
	ops[n++].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
	ops[n].op = GRPC_OP_RECV_INITIAL_METADATA;
	ops[n++].data.recv_initial_metadata.recv_initial_metadata = &headers;
	ops[n].op = GRPC_OP_RECV_MESSAGE;
	ops[n++].data.recv_message.recv_message = &received;
	ops[n].op = GRPC_OP_RECV_STATUS_ON_CLIENT;
	ops[n].data.recv_status_on_client.trailing_metadata = &trailers;
	ops[n].data.recv_status_on_client.status = &status;
	ops[n++].data.recv_status_on_client.status_details = &details;
	CHECK_EQ(grpc_call_start_batch(call, ops, n, call, NULL), GRPC_CALL_OK);
	(void)grpc_completion_queue_next(queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
	snprintf(text, 512, "%.*s", (int)GRPC_SLICE_LENGTH(details),
		 (const char *)GRPC_SLICE_START_PTR(details));
	grpc_slice_unref(details);
	grpc_slice_unref(slice);
	if (sent)
		grpc_byte_buffer_destroy(sent);
	if (received)
		grpc_byte_buffer_destroy(received);
	grpc_metadata_array_destroy(&headers);
	grpc_metadata_array_destroy(&trailers);
	grpc_call_unref(call);
	grpc_channel_destroy(channel);
	grpc_completion_queue_shutdown(queue);
	while (grpc_completion_queue_next(queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL).type !=
	       GRPC_QUEUE_SHUTDOWN)
		;
	grpc_completion_queue_destroy(queue);
	grpc_shutdown();
	return (int)status;
}

#endif
