/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One call on the server.
 *
 *   new --RECV_CLOSE, RECV_MESSAGE--> received --queue--> running --answer--> status sent
 *
 * K1  RECV_CLOSE is always started, a status is always sent, once: also for cancelled calls.
 * K2  References: one per pending event, one while scheduled, one until the answer. The object is
 *     freed with the last; so no event, and no queue, ever points at freed memory.
 * K3  A call is scheduled at most once at a time; who runs it delivers all that is due, one after
 *     the other. Hence handler and callbacks never overlap, and queues hold a call at most once,
 *     linked by members: queueing cannot fail and is bounded by calls_max.
 * K4  At most one message is in flight; a status that comes meanwhile waits for it.
 * K5  call->mutex is never held while user code runs. Core's batches are started under it: their
 *     completions come through the queue, never from inside.
 */
#include <errno.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/rpc/rpc_server.h"

static void call_unref(struct rpc_call *call)
{
	if (atomic_fetch_sub(&call->refs, 1) != 1)
		return;
	struct rpc_server *server = call->server;
	rpc_message_free(call->request);
	if (call->received)
		grpc_byte_buffer_destroy(call->received);
	if (call->sending)
		grpc_byte_buffer_destroy(call->sending);
	if (call->peer)
		gpr_free(call->peer);
	grpc_metadata_array_destroy(&call->metadata);
	grpc_call_details_destroy(&call->details);
	grpc_call_unref(call->core);
	pthread_cond_destroy(&call->cond);
	pthread_mutex_destroy(&call->mutex);
	free(call->name);
	free(call);
	rpc_server_call_out(server);
}

static void call_ref(struct rpc_call *call)
{
	atomic_fetch_add(&call->refs, 1);
}

/* Marks `todo` as due and queues the call if it is not queued or running. Mutex held. */
static void call_schedule(struct rpc_call *call, uint32_t todo)
{
	call->todo |= todo;
	if (call->is_scheduled)
		return;
	call->is_scheduled = true;
	call_ref(call);
	rpc_server_queue(call->server, call);
}

/* ---- answers ---- */

static void on_finish(struct rpc_event *event, bool ok)
{
	(void)ok; /* the client may be gone; nobody is left to tell */
	call_unref(CONTAINER_OF(event, struct rpc_call, finish_event));
}

/* Sends headers (if due), the unary response (if any) and the status. Mutex held, K4 holds. */
static void call_send_status(struct rpc_call *call)
{
	grpc_op ops[3] = {0};
	size_t count = 0;
	if (!call->headers_sent)
		ops[count++].op = GRPC_OP_SEND_INITIAL_METADATA;
	if (call->sending) {
		ops[count].op = GRPC_OP_SEND_MESSAGE;
		ops[count++].data.send_message.send_message = call->sending;
	}
	grpc_slice text = grpc_slice_from_copied_string(call->text);
	ops[count].op = GRPC_OP_SEND_STATUS_FROM_SERVER;
	ops[count].data.send_status_from_server.status = (grpc_status_code)call->code;
	ops[count].data.send_status_from_server.status_details = call->text[0] ? &text : NULL;
	count++;
	call->headers_sent = true;
	rpc_batch_start(call->core, ops, count, &call->finish_event);
	grpc_slice_unref(text);
}

/* Ends the call with call->code and call->text; the handler's reference becomes the event's. */
static void call_answer(struct rpc_call *call, grpc_byte_buffer *response)
{
	pthread_mutex_lock(&call->mutex);
	assert(!call->is_answered);
	call->is_answered = true;
	if (!call->is_sending) {
		call->sending = response;
		call_send_status(call);
	} else {
		assert(!response);
	}
	pthread_mutex_unlock(&call->mutex);
}

int rpc_call_reply(struct rpc_call *call, const ProtobufCMessage *response)
{
	assert(!(call->method->flags & RPC_METHOD_STREAM));
	assert(response->descriptor == call->descriptor->output);
	struct err err = {0};
	grpc_byte_buffer *buffer = NULL;
	int rc = rpc_message_pack(response, call->server->message_bytes_max, &buffer, &err);
	if (rc < 0) {
		rpc_call_fail(call, RPC_INTERNAL, "response: %s", err.text);
		return rc;
	}
	call_answer(call, buffer);
	return 0;
}

void rpc_call_finish(struct rpc_call *call)
{
	assert(call->method->flags & RPC_METHOD_STREAM);
	call_answer(call, NULL);
}

void rpc_call_fail(struct rpc_call *call, enum rpc_code code, const char *format, ...)
{
	char text[RPC_TEXT_BYTES_MAX];
	va_list args;
	assert(code != RPC_OK);
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	rpc_text_copy(text, strlen(text), call->text, sizeof(call->text));
	call->code = code;
	call_answer(call, NULL);
}

void rpc_call_fail_err(struct rpc_call *call, const struct err *err)
{
	rpc_call_fail(call, rpc_code_of_errno(err->code), "%s", err_text(err));
}

/* ---- streaming ---- */

static void on_send(struct rpc_event *event, bool ok)
{
	struct rpc_call *call = CONTAINER_OF(event, struct rpc_call, send_event);
	pthread_mutex_lock(&call->mutex);
	grpc_byte_buffer_destroy(call->sending);
	call->sending = NULL;
	call->is_sending = false;
	if (!ok) /* the close event, which tells the handler, is on its way */
		atomic_store(&call->is_cancelled, true);
	if (call->is_answered)
		call_send_status(call);
	else if (call->writable_cb && ok)
		call_schedule(call, CALL_WRITABLE);
	pthread_cond_broadcast(&call->cond);
	pthread_mutex_unlock(&call->mutex);
	call_unref(call);
}

static void call_send_start(struct rpc_call *call, grpc_byte_buffer *buffer)
{
	grpc_op ops[2] = {0};
	size_t count = 0;
	if (!call->headers_sent)
		ops[count++].op = GRPC_OP_SEND_INITIAL_METADATA;
	ops[count].op = GRPC_OP_SEND_MESSAGE;
	ops[count++].data.send_message.send_message = buffer;
	call->headers_sent = true;
	call->sending = buffer;
	call->is_sending = true;
	call_ref(call);
	rpc_batch_start(call->core, ops, count, &call->send_event);
}

static int call_send(struct rpc_call *call, const ProtobufCMessage *message, bool wait)
{
	assert(call->method->flags & RPC_METHOD_STREAM);
	assert(message->descriptor == call->descriptor->output);
	grpc_byte_buffer *buffer = NULL;
	int rc = rpc_message_pack(message, call->server->message_bytes_max, &buffer, NULL);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&call->mutex);
	assert(!call->is_answered);
	while (wait && call->is_sending && !atomic_load(&call->is_cancelled))
		pthread_cond_wait(&call->cond, &call->mutex);
	if (atomic_load(&call->is_cancelled))
		rc = -ECANCELED;
	else if (call->is_sending)
		rc = -EAGAIN;
	else
		call_send_start(call, buffer);
	pthread_mutex_unlock(&call->mutex);
	if (rc < 0)
		grpc_byte_buffer_destroy(buffer);
	return rc;
}

int rpc_call_send(struct rpc_call *call, const ProtobufCMessage *message)
{
	return call_send(call, message, false);
}

int rpc_call_send_wait(struct rpc_call *call, const ProtobufCMessage *message)
{
	assert(!call->server->loop);
	return call_send(call, message, true);
}

void rpc_call_on_writable(struct rpc_call *call, void (*callback)(void *ctx, struct rpc_call *call),
			  void *ctx)
{
	pthread_mutex_lock(&call->mutex);
	call->writable_cb = callback;
	call->writable_ctx = ctx;
	pthread_mutex_unlock(&call->mutex);
}

/* ---- running ---- */

/* Unpacks and calls the handler, or answers in its place. */
static void call_handle(struct rpc_call *call)
{
	struct err err = {0};
	if (atomic_load(&call->is_cancelled)) {
		rpc_call_fail(call, RPC_CANCELLED, "cancelled before it began");
		return;
	}
	int rc = rpc_message_unpack(call->descriptor->input, call->received,
				    call->server->message_bytes_max, &call->request, &err);
	grpc_byte_buffer_destroy(take(call->received));
	if (rc == -EMSGSIZE)
		rpc_call_fail(call, RPC_RESOURCE_EXHAUSTED, "request: %s", err.text);
	else if (rc < 0)
		rpc_call_fail(call, RPC_INVALID_ARGUMENT, "request: %s", err.text);
	else
		call->method->handle(call->ctx, call);
}

/* Takes one thing to do; 0 when nothing is left and the schedule ends. */
static uint32_t call_next(struct rpc_call *call, void (**callback)(void *, struct rpc_call *),
			  void **ctx)
{
	uint32_t todo = 0;
	pthread_mutex_lock(&call->mutex);
	if (call->is_answered)
		call->todo = 0;
	if (call->todo & CALL_RUN) {
		todo = CALL_RUN;
	} else if (call->todo & CALL_CANCEL) {
		todo = CALL_CANCEL;
		*callback = call->cancel_cb;
		*ctx = call->cancel_ctx;
	} else if (call->todo & CALL_WRITABLE) {
		todo = CALL_WRITABLE;
		*callback = call->writable_cb;
		*ctx = call->writable_ctx;
	}
	call->todo &= ~todo;
	if (!todo)
		call->is_scheduled = false;
	pthread_mutex_unlock(&call->mutex);
	return todo;
}

void rpc_call_run(struct rpc_call *call)
{
	void (*callback)(void *, struct rpc_call *) = NULL;
	void *ctx = NULL;
	uint32_t todo;
	while ((todo = call_next(call, &callback, &ctx)) != 0) {
		if (todo == CALL_RUN) {
			atomic_fetch_sub(&call->server->waiting, 1);
			call_handle(call);
		} else if (callback) {
			callback(ctx, call);
		}
	}
	call_unref(call);
}

/* ---- arrival ---- */

static void on_close(struct rpc_event *event, bool ok)
{
	struct rpc_call *call = CONTAINER_OF(event, struct rpc_call, close_event);
	pthread_mutex_lock(&call->mutex);
	if (!ok || call->core_cancelled) {
		atomic_store(&call->is_cancelled, true);
		if (call->cancel_cb && !call->is_answered)
			call_schedule(call, CALL_CANCEL);
		pthread_cond_broadcast(&call->cond);
	}
	pthread_mutex_unlock(&call->mutex);
	call_unref(call);
}

void rpc_call_on_cancel(struct rpc_call *call, void (*callback)(void *ctx, struct rpc_call *call),
			void *ctx)
{
	assert(!(call->method->flags & RPC_METHOD_INLINE));
	pthread_mutex_lock(&call->mutex);
	call->cancel_cb = callback;
	call->cancel_ctx = ctx;
	if (callback && atomic_load(&call->is_cancelled))
		call_schedule(call, CALL_CANCEL);
	pthread_mutex_unlock(&call->mutex);
}

static void on_receive(struct rpc_event *event, bool ok)
{
	struct rpc_call *call = CONTAINER_OF(event, struct rpc_call, receive_event);
	struct rpc_server *server = call->server;
	if (!ok || !call->received) {
		/* Cancelled, too large (core has then failed the call), or ended with no message. */
		rpc_call_fail(call, RPC_INVALID_ARGUMENT, "the request carries no message");
	} else if (call->method->flags & RPC_METHOD_INLINE) {
		call_handle(call);
	} else if (atomic_fetch_add(&server->waiting, 1) >= server->queue_max) {
		atomic_fetch_sub(&server->waiting, 1);
		rpc_call_fail(call, RPC_RESOURCE_EXHAUSTED,
			      "%u calls are waiting already, queue_max is %u", server->queue_max,
			      server->queue_max);
	} else {
		pthread_mutex_lock(&call->mutex);
		call_schedule(call, CALL_RUN);
		pthread_mutex_unlock(&call->mutex);
	}
	call_unref(call);
}

static void call_receive_start(struct rpc_call *call)
{
	grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
	op.data.recv_message.recv_message = &call->received;
	call_ref(call);
	rpc_batch_start(call->core, &op, 1, &call->receive_event);
}

static struct rpc_call *call_create(struct server_accept *accept)
{
	struct rpc_call *call = calloc(1, sizeof(*call));
	char *name = grpc_slice_to_c_string(accept->details.method);
	char *own_name = strdup(name);
	gpr_free(name);
	if (!call || !own_name) {
		free(call);
		free(own_name);
		return NULL;
	}
	*call = (struct rpc_call){
		.server = accept->server,
		.core = accept->call,
		.details = accept->details,
		.metadata = accept->metadata,
		.name = own_name,
		.close_event = {on_close},
		.receive_event = {on_receive},
		.send_event = {on_send},
		.finish_event = {on_finish},
	};
	atomic_init(&call->refs, 1); /* until answered */
	pthread_mutex_init(&call->mutex, NULL);
	pthread_cond_init(&call->cond, NULL);
	list_init(&call->work_link);
	return call;
}

void rpc_call_begin(struct server_accept *accept)
{
	struct rpc_server *server = accept->server;
	struct rpc_call *call = call_create(accept);
	if (!call) {
		/* Out of memory: core cancels a call that is dropped. */
		log_event(LOG_ERROR, "rpc", "call_dropped", "reason='no memory'");
		grpc_call_details_destroy(&accept->details);
		grpc_metadata_array_destroy(&accept->metadata);
		grpc_call_unref(accept->call);
		return;
	}
	bool has_room = rpc_server_call_in(server);
	grpc_op close = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER};
	close.data.recv_close_on_server.cancelled = &call->core_cancelled;
	call_ref(call);
	rpc_batch_start(call->core, &close, 1, &call->close_event);
	if (!rpc_server_find(server, call))
		rpc_call_fail(call, RPC_UNIMPLEMENTED, "method '%s' is not served here",
			      call->name);
	else if (!has_room)
		rpc_call_fail(call, RPC_RESOURCE_EXHAUSTED,
			      "%u calls are under way already, calls_max is %u", server->calls_max,
			      server->calls_max);
	else
		call_receive_start(call);
}

/* ---- what handlers may ask ---- */

const ProtobufCMessage *rpc_call_request(const struct rpc_call *call)
{
	return call->request;
}

const char *rpc_call_method(const struct rpc_call *call)
{
	return call->name;
}

const char *rpc_call_peer(struct rpc_call *call)
{
	pthread_mutex_lock(&call->mutex);
	if (!call->peer)
		call->peer = grpc_call_get_peer(call->core);
	pthread_mutex_unlock(&call->mutex);
	return call->peer;
}

ssize_t rpc_call_metadata(const struct rpc_call *call, const char *key, char *ret, size_t ret_bytes)
{
	for (size_t i = 0; i < call->metadata.count; i++) {
		const grpc_metadata *entry = &call->metadata.metadata[i];
		if (grpc_slice_str_cmp(entry->key, key) != 0)
			continue;
		size_t length_bytes = GRPC_SLICE_LENGTH(entry->value);
		if (length_bytes >= ret_bytes)
			return -ERANGE;
		memcpy(ret, GRPC_SLICE_START_PTR(entry->value), length_bytes);
		ret[length_bytes] = '\0';
		return (ssize_t)length_bytes;
	}
	return -ENOENT;
}

bool rpc_call_is_cancelled(const struct rpc_call *call)
{
	return atomic_load(&call->is_cancelled);
}

uint64_t rpc_call_time_left_ns(const struct rpc_call *call)
{
	gpr_timespec infinite = gpr_inf_future(call->details.deadline.clock_type);
	if (gpr_time_cmp(call->details.deadline, infinite) == 0)
		return UINT64_MAX;
	gpr_timespec left =
		gpr_time_sub(gpr_convert_clock_type(call->details.deadline, GPR_CLOCK_MONOTONIC),
			     gpr_now(GPR_CLOCK_MONOTONIC));
	if (left.tv_sec < 0)
		return 0;
	return (uint64_t)left.tv_sec * 1000000000u + (uint64_t)left.tv_nsec;
}
