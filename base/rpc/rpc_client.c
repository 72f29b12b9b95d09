/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The client: one channel, one thread that polls it, calls that complete on that thread.
 *
 * L1  A channel that failed is replaced at the next call, never waited for: core would answer
 *     from its back-off (up to minutes) while the server is back already.
 * L2  The channel's state is watched all the time. That keeps its socket in our queue's poll set,
 *     so a connection that dies while idle is noticed then, not by the next call.
 * L3  A watch is always pending until its channel is closed; closing completes it. The queue is
 *     shut down only after all watches and calls are over.
 * L4  A call object belongs to whoever started it (blocking), to the loop (async: freed before
 *     done()), to the stream. The poller touches it last when it says "done".
 */
#include <errno.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/rpc/rpc_core.h"
#include "base/version.h"

/* One connection attempt or connection, and its watch. */
struct client_channel {
	struct rpc_event event;
	struct rpc_client *client;
	grpc_channel *core;
	bool is_closed;
};

struct rpc_client {
	struct rpc_address address;
	char text[RPC_ADDRESS_BYTES_MAX];
	size_t message_bytes_max;
	grpc_completion_queue *queue;
	pthread_t poller;
	atomic_uint calls; /* begun and not over */

	pthread_mutex_t mutex; /* guards what follows */
	pthread_cond_t cond;   /* watches changed */
	struct client_channel *channel;
	uint32_t watches;
};

struct rpc_client_call {
	struct rpc_event event; /* unary: the call is over; stream: the status is there */
	struct rpc_event start_event;
	struct rpc_event receive_event;
	struct rpc_client *client;
	grpc_call *core;
	const ProtobufCMethodDescriptor *method;
	uint32_t timeout_ms;
	grpc_byte_buffer *sent;
	grpc_byte_buffer *received;
	grpc_metadata_array headers;
	grpc_metadata_array trailers;
	grpc_status_code status;
	grpc_slice text;
	struct rpc_async *async; /* NULL: blocking */

	pthread_mutex_t mutex; /* guards what follows */
	pthread_cond_t cond;   /* any of them changed */
	bool is_done;          /* status, text are set */
	bool is_started;       /* stream: the start event came */
	bool is_received;      /* stream: the receive event came */
};

struct rpc_stream {
	struct rpc_client_call call;
	bool is_over; /* an end or an error was returned */
	struct err err;
	int result;
};

/* ---- channel ---- */

static void on_watch(struct rpc_event *event, bool ok);

/* Client's mutex held. */
static void channel_watch(struct client_channel *channel)
{
	grpc_connectivity_state state = grpc_channel_check_connectivity_state(channel->core, 0);
	RPC_EVENT_STARTS(&channel->event);
	grpc_channel_watch_connectivity_state(channel->core, state,
					      gpr_inf_future(GPR_CLOCK_REALTIME),
					      channel->client->queue, &channel->event);
}

static void on_watch(struct rpc_event *event, bool ok)
{
	(void)ok;
	struct client_channel *channel = CONTAINER_OF(event, struct client_channel, event);
	struct rpc_client *client = channel->client;
	pthread_mutex_lock(&client->mutex);
	if (channel->is_closed) {
		free(channel);
		client->watches--;
		pthread_cond_broadcast(&client->cond);
	} else {
		channel_watch(channel);
	}
	pthread_mutex_unlock(&client->mutex);
}

static grpc_channel *core_channel_create(const struct rpc_client *client)
{
	char agent[96];
	snprintf(agent, sizeof(agent), "holdfast/%s", build_version());
	grpc_arg args[] = {
		{GRPC_ARG_INTEGER,
		 (char *)GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH,
		 {.integer = (int)client->message_bytes_max}},
		{GRPC_ARG_INTEGER, (char *)GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, {.integer = 1}},
		{GRPC_ARG_INTEGER, (char *)GRPC_ARG_ENABLE_HTTP_PROXY, {.integer = 0}},
		{GRPC_ARG_INTEGER,
		 (char *)GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION,
		 {.integer = 1}},
		{GRPC_ARG_INTEGER, (char *)GRPC_ARG_ENABLE_CHANNELZ, {.integer = 0}},
		{GRPC_ARG_STRING,
		 (char *)GRPC_ARG_DEFAULT_AUTHORITY,
		 {.string = (char *)"localhost"}},
		{GRPC_ARG_STRING, (char *)GRPC_ARG_PRIMARY_USER_AGENT_STRING, {.string = agent}},
	};
	grpc_channel_args all = {ARRAY_LEN(args), args};
	grpc_channel_credentials *insecure = grpc_insecure_credentials_create();
	grpc_channel *core = grpc_channel_create(client->address.target, insecure, &all);
	grpc_channel_credentials_release(insecure);
	return core;
}

/* Client's mutex held. The watch, which completes now, frees the object. */
static void channel_close(struct client_channel *channel)
{
	channel->is_closed = true;
	grpc_channel_destroy(channel->core);
	channel->core = NULL;
}

/* Client's mutex held: a channel that has not failed, or NULL when memory is out. */
static struct client_channel *channel_get(struct rpc_client *client)
{
	struct client_channel *channel = client->channel;
	if (channel) {
		grpc_connectivity_state state =
			grpc_channel_check_connectivity_state(channel->core, 0);
		if (state != GRPC_CHANNEL_TRANSIENT_FAILURE && state != GRPC_CHANNEL_SHUTDOWN)
			return channel;
		client->channel = NULL;
		channel_close(channel);
	}
	channel = calloc(1, sizeof(*channel));
	if (!channel)
		return NULL;
	channel->event.run = on_watch;
	channel->client = client;
	channel->core = core_channel_create(client);
	client->watches++;
	client->channel = channel;
	channel_watch(channel);
	return channel;
}

/* ---- client ---- */

int rpc_client_create(const struct rpc_client_config *config, struct rpc_client **ret,
		      struct err *err)
{
	struct rpc_client *client = calloc(1, sizeof(*client));
	if (!client)
		return err_set(err, -ENOMEM, "no memory for a client");
	int rc = rpc_address_parse(config->address, &client->address, err);
	if (rc < 0) {
		free(client);
		return rc;
	}
	snprintf(client->text, sizeof(client->text), "%s", config->address);
	client->message_bytes_max =
		config->message_bytes_max ? config->message_bytes_max : RPC_MESSAGE_BYTES_DEFAULT;
	pthread_mutex_init(&client->mutex, NULL);
	rpc_cond_init(&client->cond);
	rpc_core_init();
	client->queue = grpc_completion_queue_create_for_next(NULL);
	rc = rpc_thread_start(&client->poller, "rpc-client", rpc_core_poll, client->queue);
	if (rc < 0) {
		grpc_completion_queue_shutdown(client->queue);
		rpc_core_poll(client->queue);
		grpc_completion_queue_destroy(client->queue);
		rpc_core_shutdown();
		free(client);
		return err_set(err, rc, "a thread of the client: %s", strerror(-rc));
	}
	*ret = client;
	return 0;
}

void rpc_client_destroy(struct rpc_client *client)
{
	if (!client)
		return;
	assert(atomic_load(&client->calls) == 0);
	pthread_mutex_lock(&client->mutex);
	if (client->channel)
		channel_close(take(client->channel));
	while (client->watches > 0)
		pthread_cond_wait(&client->cond, &client->mutex);
	pthread_mutex_unlock(&client->mutex);
	grpc_completion_queue_shutdown(client->queue);
	pthread_join(client->poller, NULL);
	grpc_completion_queue_destroy(client->queue);
	pthread_cond_destroy(&client->cond);
	pthread_mutex_destroy(&client->mutex);
	rpc_core_shutdown();
	free(client);
}

/* ---- calls ---- */

static gpr_timespec deadline_make(uint32_t timeout_ms)
{
	if (timeout_ms == 0)
		return gpr_inf_future(GPR_CLOCK_MONOTONIC);
	return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
			    gpr_time_from_millis(timeout_ms, GPR_TIMESPAN));
}

static void client_call_init(struct rpc_client *client, struct rpc_client_call *call)
{
	memset(call, 0, sizeof(*call));
	call->client = client;
	call->text = grpc_empty_slice();
	grpc_metadata_array_init(&call->headers);
	grpc_metadata_array_init(&call->trailers);
	pthread_mutex_init(&call->mutex, NULL);
	rpc_cond_init(&call->cond);
}

static void client_call_clear(struct rpc_client_call *call)
{
	if (call->core)
		grpc_call_unref(call->core);
	if (call->sent)
		grpc_byte_buffer_destroy(call->sent);
	if (call->received)
		grpc_byte_buffer_destroy(call->received);
	grpc_metadata_array_destroy(&call->headers);
	grpc_metadata_array_destroy(&call->trailers);
	grpc_slice_unref(call->text);
	pthread_cond_destroy(&call->cond);
	pthread_mutex_destroy(&call->mutex);
}

/* Checks and packs the request, makes the core call; nothing is sent yet. */
static int client_call_prepare(struct rpc_client_call *call, const struct rpc_request *request,
			       struct err *err)
{
	struct rpc_client *client = call->client;
	const char *service = request->service->name;
	char path[256];
	call->method =
		protobuf_c_service_descriptor_get_method_by_name(request->service, request->method);
	if (!call->method)
		return err_set(err, -EINVAL, "service '%s' has no method '%s'", service,
			       request->method);
	if (request->message->descriptor != call->method->input)
		return err_set(err, -EINVAL, "method '%s' takes %s, not %s", request->method,
			       call->method->input->short_name,
			       request->message->descriptor->short_name);
	int length_bytes = snprintf(path, sizeof(path), "/%s/%s", service, request->method);
	if (length_bytes < 0 || (size_t)length_bytes >= sizeof(path))
		return err_set(err, -EINVAL, "method '%s': the name is too long", request->method);
	int rc = rpc_message_pack(request->message, client->message_bytes_max, &call->sent, err);
	if (rc < 0)
		return err_wrap(err, rc, "request");
	call->timeout_ms = request->timeout_ms;
	pthread_mutex_lock(&client->mutex);
	struct client_channel *channel = channel_get(client);
	if (channel) {
		grpc_slice method = grpc_slice_from_copied_string(path);
		call->core = grpc_channel_create_call(channel->core, NULL, 0, client->queue, method,
						      NULL, deadline_make(call->timeout_ms), NULL);
		grpc_slice_unref(method);
	}
	pthread_mutex_unlock(&client->mutex);
	return call->core ? 0 : err_set(err, -ENOMEM, "no memory for a call");
}

static size_t ops_send(struct rpc_client_call *call, grpc_op *ops)
{
	ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
	ops[1].op = GRPC_OP_SEND_MESSAGE;
	ops[1].data.send_message.send_message = call->sent;
	ops[2].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
	ops[3].op = GRPC_OP_RECV_INITIAL_METADATA;
	ops[3].data.recv_initial_metadata.recv_initial_metadata = &call->headers;
	return 4;
}

static void op_receive(struct rpc_client_call *call, grpc_op *op)
{
	op->op = GRPC_OP_RECV_MESSAGE;
	op->data.recv_message.recv_message = &call->received;
}

static void op_status(struct rpc_client_call *call, grpc_op *op)
{
	op->op = GRPC_OP_RECV_STATUS_ON_CLIENT;
	op->data.recv_status_on_client.trailing_metadata = &call->trailers;
	op->data.recv_status_on_client.status = &call->status;
	op->data.recv_status_on_client.status_details = &call->text;
}

static void unary_start(struct rpc_client_call *call)
{
	grpc_op ops[6] = {0};
	size_t count = ops_send(call, ops);
	op_receive(call, &ops[count++]);
	op_status(call, &ops[count++]);
	atomic_fetch_add(&call->client->calls, 1);
	rpc_batch_start(call->core, ops, count, &call->event);
}

/* The status as an errno and a sentence; 0 for OK. */
static int client_call_status(struct rpc_client_call *call, struct err *err)
{
	char text[RPC_TEXT_BYTES_MAX];
	if (call->status == GRPC_STATUS_OK)
		return 0;
	rpc_text_copy((const char *)GRPC_SLICE_START_PTR(call->text), GRPC_SLICE_LENGTH(call->text),
		      text, sizeof(text));
	if (!text[0])
		snprintf(text, sizeof(text), "%s", rpc_code_name((int)call->status));
	int rc = rpc_errno_of_code((int)call->status);
	if (call->status == GRPC_STATUS_DEADLINE_EXCEEDED)
		return err_set(err, rc, "%s: no answer to %s in %u ms", call->client->text,
			       call->method->name, call->timeout_ms);
	if (call->status == GRPC_STATUS_UNAVAILABLE)
		return err_set(err, rc, "%s: %s", call->client->text, text);
	return err_set(err, rc, "%s", text);
}

static int client_call_unpack(struct rpc_client_call *call, ProtobufCMessage **ret, struct err *err)
{
	int rc = -EPROTO;
	if (call->received)
		rc = rpc_message_unpack(call->method->output, call->received,
					call->client->message_bytes_max, ret, err);
	else
		err_set(err, rc, "no message came");
	if (rc < 0)
		return err_wrap(err, -EPROTO, "%s: response of %s", call->client->text,
				call->method->name);
	return 0;
}

/* After the event of a unary call. */
static int unary_result(struct rpc_client_call *call, ProtobufCMessage **ret, struct err *err)
{
	int rc = client_call_status(call, err);
	return rc < 0 ? rc : client_call_unpack(call, ret, err);
}

static void flag_set(struct rpc_client_call *call, bool *flag)
{
	pthread_mutex_lock(&call->mutex);
	*flag = true;
	pthread_cond_broadcast(&call->cond);
	pthread_mutex_unlock(&call->mutex);
}

static void flag_wait(struct rpc_client_call *call, const bool *flag)
{
	pthread_mutex_lock(&call->mutex);
	while (!*flag)
		pthread_cond_wait(&call->cond, &call->mutex);
	pthread_mutex_unlock(&call->mutex);
}

static void on_done(struct rpc_event *event, bool ok)
{
	(void)ok; /* a batch with a status always succeeds */
	struct rpc_client_call *call = CONTAINER_OF(event, struct rpc_client_call, event);
	flag_set(call, &call->is_done);
}

int rpc_client_call(struct rpc_client *client, const struct rpc_request *request,
		    ProtobufCMessage **ret, struct err *err)
{
	struct rpc_client_call call;
	if (request->timeout_ms == 0)
		return err_set(err, -EINVAL, "timeout_ms of %s must be 1 or more", request->method);
	client_call_init(client, &call);
	call.event.run = on_done;
	int rc = client_call_prepare(&call, request, err);
	if (rc == 0) {
		unary_start(&call);
		flag_wait(&call, &call.is_done);
		rc = unary_result(&call, ret, err);
		atomic_fetch_sub(&client->calls, 1);
	}
	client_call_clear(&call);
	return rc;
}

/* ---- asynchronous ---- */

static void async_deliver(struct loop_msg *msg)
{
	struct rpc_async *async = CONTAINER_OF(msg, struct rpc_async, msg);
	struct rpc_client_call *call = take(async->call);
	if (call) {
		client_call_clear(call);
		free(call);
	}
	async->done(async);
}

static void on_async_done(struct rpc_event *event, bool ok)
{
	(void)ok;
	struct rpc_client_call *call = CONTAINER_OF(event, struct rpc_client_call, event);
	struct rpc_client *client = call->client;
	struct rpc_async *async = call->async;
	(void)unary_result(call, &async->response, &async->err); /* err has it */
	/* After the post the client may be gone, so it is counted out first; destroy() joins us. */
	atomic_fetch_sub(&client->calls, 1);
	loop_post(async->loop, &async->msg);
}

void rpc_client_start(struct rpc_client *client, const struct rpc_request *request,
		      struct rpc_async *async)
{
	async->response = NULL;
	async->err = (struct err){0};
	async->msg.run = async_deliver;
	async->call = NULL;
	struct rpc_client_call *call = malloc(sizeof(*call));
	int rc;
	if (!call) {
		rc = err_set(&async->err, -ENOMEM, "no memory for a call");
	} else if (request->timeout_ms == 0) {
		rc = err_set(&async->err, -EINVAL, "timeout_ms of %s must be 1 or more",
			     request->method);
		free(take(call));
	} else {
		client_call_init(client, call);
		call->event.run = on_async_done;
		call->async = async;
		rc = client_call_prepare(call, request, &async->err);
		async->call = call;
	}
	if (rc < 0)
		loop_post(async->loop, &async->msg);
	else
		unary_start(call);
}

void rpc_async_cancel(struct rpc_async *async)
{
	if (async->call && async->call->core)
		grpc_call_cancel(async->call->core, NULL);
}

/* ---- streams ---- */

static void on_stream_started(struct rpc_event *event, bool ok)
{
	(void)ok; /* the status tells */
	struct rpc_client_call *call = CONTAINER_OF(event, struct rpc_client_call, start_event);
	flag_set(call, &call->is_started);
}

static void on_stream_received(struct rpc_event *event, bool ok)
{
	(void)ok; /* no message then */
	struct rpc_client_call *call = CONTAINER_OF(event, struct rpc_client_call, receive_event);
	flag_set(call, &call->is_received);
}

int rpc_stream_open(struct rpc_client *client, const struct rpc_request *request,
		    struct rpc_stream **ret, struct err *err)
{
	struct rpc_stream *stream = calloc(1, sizeof(*stream));
	if (!stream)
		return err_set(err, -ENOMEM, "no memory for a stream");
	struct rpc_client_call *call = &stream->call;
	client_call_init(client, call);
	call->event.run = on_done;
	call->start_event.run = on_stream_started;
	call->receive_event.run = on_stream_received;
	int rc = client_call_prepare(call, request, err);
	if (rc < 0) {
		client_call_clear(call);
		free(stream);
		return rc;
	}
	grpc_op ops[4] = {0}, status = {0};
	size_t count = ops_send(call, ops);
	op_status(call, &status);
	atomic_fetch_add(&client->calls, 1);
	rpc_batch_start(call->core, ops, count, &call->start_event);
	rpc_batch_start(call->core, &status, 1, &call->event);
	*ret = stream;
	return 0;
}

/* Remembers how the stream ended, so that later calls say the same. */
static int stream_end(struct rpc_stream *stream, int rc)
{
	stream->is_over = true;
	stream->result = rc;
	return rc;
}

int rpc_stream_next(struct rpc_stream *stream, ProtobufCMessage **ret, struct err *err)
{
	struct rpc_client_call *call = &stream->call;
	if (!stream->is_over) {
		grpc_op op = {0};
		op_receive(call, &op);
		call->is_received = false;
		rpc_batch_start(call->core, &op, 1, &call->receive_event);
		flag_wait(call, &call->is_received);
		if (!call->received) {
			flag_wait(call, &call->is_done);
			stream_end(stream, client_call_status(call, &stream->err));
		} else {
			int rc = client_call_unpack(call, ret, &stream->err);
			grpc_byte_buffer_destroy(take(call->received));
			if (rc == 0)
				return 1;
			stream_end(stream, rc);
			rpc_stream_cancel(stream);
		}
	}
	if (err && stream->result < 0)
		*err = stream->err;
	return stream->result;
}

void rpc_stream_cancel(struct rpc_stream *stream)
{
	grpc_call_cancel(stream->call.core, NULL);
}

void rpc_stream_close(struct rpc_stream *stream)
{
	if (!stream)
		return;
	struct rpc_client_call *call = &stream->call;
	grpc_call_cancel(call->core, NULL); /* nothing happens when it is over */
	flag_wait(call, &call->is_started);
	flag_wait(call, &call->is_done);
	atomic_fetch_sub(&call->client->calls, 1);
	client_call_clear(call);
	free(stream);
}
