/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc: protobuf-c services over gRPC core, server and client.
 *
 * For the control plane only: admin service, metadata service, CSI. Plain text on unix sockets
 * (mode 0600) and loopback TCP. Messages are proto3, described by protoc-c's descriptors; the
 * generated service stubs are not used. base/rpc/README.md lists the promises and the pitfalls.
 *
 * Addresses: "unix:/path" (the path is at most 107 bytes) or "tcp:HOST:PORT" with a numeric
 * loopback host ("tcp:127.0.0.1:0" picks a port, "tcp:[::1]:4711").
 */
#ifndef HF_BASE_RPC_RPC_H
#define HF_BASE_RPC_RPC_H

#include <protobuf-c/protobuf-c.h>

#include "base/err.h"
#include "base/loop.h"
#include "base/types.h"

#define RPC_MESSAGE_BYTES_DEFAULT (4u << 20) /* also what most other clients accept */
#define RPC_TEXT_BYTES_MAX        512        /* status texts are clipped here, zero included */
#define RPC_ADDRESS_BYTES_MAX     128

/* ---- status codes ---- */

/* The numbers of gRPC. */
enum rpc_code {
	RPC_OK = 0,
	RPC_CANCELLED = 1,
	RPC_UNKNOWN = 2,
	RPC_INVALID_ARGUMENT = 3,
	RPC_DEADLINE_EXCEEDED = 4,
	RPC_NOT_FOUND = 5,
	RPC_ALREADY_EXISTS = 6,
	RPC_PERMISSION_DENIED = 7,
	RPC_RESOURCE_EXHAUSTED = 8,
	RPC_FAILED_PRECONDITION = 9,
	RPC_ABORTED = 10,
	RPC_OUT_OF_RANGE = 11,
	RPC_UNIMPLEMENTED = 12,
	RPC_INTERNAL = 13,
	RPC_UNAVAILABLE = 14,
	RPC_DATA_LOSS = 15,
	RPC_UNAUTHENTICATED = 16,
};

/*
 * The table, both ways; each code has one errno that comes back as the same code:
 *   CANCELLED ECANCELED | UNKNOWN EREMOTEIO | INVALID_ARGUMENT EINVAL | DEADLINE_EXCEEDED ETIMEDOUT
 *   NOT_FOUND ENOENT | ALREADY_EXISTS EEXIST | PERMISSION_DENIED EACCES | RESOURCE_EXHAUSTED ENOSPC
 *   FAILED_PRECONDITION EBUSY | ABORTED EAGAIN | OUT_OF_RANGE ERANGE | UNIMPLEMENTED ENOSYS
 *   INTERNAL EPROTO | UNAVAILABLE ENOTCONN | DATA_LOSS EIO | UNAUTHENTICATED EKEYREJECTED
 * Several more errnos map to the nearest code (ENOMEM to RESOURCE_EXHAUSTED, ESTALE to ABORTED,
 * ECONNREFUSED to UNAVAILABLE ...); an errno that is not in the table is INTERNAL, a code that is
 * not in the table is EREMOTEIO.
 */
enum rpc_code rpc_code_of_errno(int error); /* takes 0, -errno or errno */
int rpc_errno_of_code(int code);            /* 0 or -errno */
const char *rpc_code_name(int code);        /* "NOT_FOUND"; "UNKNOWN" for what is no code */

/* ---- messages ---- */

/*
 * Every string of the message, at any depth, is valid UTF-8: 0, or -EINVAL and a sentence that
 * names the field by its path ("volumes[3].name").
 */
int rpc_message_check(const ProtobufCMessage *message, struct err *err);
/* Frees a message that this room unpacked; NULL is fine. */
void rpc_message_free(ProtobufCMessage *message);

/* ---- server ---- */

struct rpc_server;
struct rpc_call;

struct rpc_server_config {
	const char *const *addresses;
	size_t address_count;
	/*
	 * Handlers run on this loop when set (then worker_count is ignored), else on a pool of
	 * worker_count threads of the server. Handlers on workers may block, on a loop they may not.
	 */
	struct loop *loop;
	uint32_t worker_count;    /* 0: 4 */
	uint32_t queue_max;       /* calls waiting for a worker or the loop; 0: 256 */
	uint32_t calls_max;       /* calls waiting, running or not yet answered; 0: 1024 */
	size_t message_bytes_max; /* of one request, response or stream message; 0: 4 MiB */
};

#define RPC_METHOD_STREAM 1u /* server streaming: rpc_call_send()* then rpc_call_finish() */
/*
 * The handler runs on the thread that does all network I/O, past the queue: only for unary
 * handlers that answer before they return and never block (probes that must get through when
 * every worker is busy).
 */
#define RPC_METHOD_INLINE 2u

struct rpc_method {
	const char *name; /* as in the .proto */
	void (*handle)(void *ctx, struct rpc_call *call);
	uint32_t flags;
};

/*
 * Binds every address; nothing is accepted before rpc_server_start(). A unix socket file that
 * nobody listens on is replaced; one that is served is -EADDRINUSE, as is a TCP port in use; a
 * file that is no socket is -EEXIST. Two processes that start on one path in the same instant are
 * not told apart: hold a lock on the state directory first.
 */
int rpc_server_create(const struct rpc_server_config *config, struct rpc_server **ret,
		      struct err *err);
/*
 * Before start. methods is a table ended by a NULL name; methods of the service that are not in it
 * answer UNIMPLEMENTED. service, methods and ctx outlive the server. -EINVAL names a method that
 * the service does not have, -EEXIST a service registered twice.
 */
int rpc_server_register(struct rpc_server *server, const ProtobufCServiceDescriptor *service,
			const struct rpc_method *methods, void *ctx, struct err *err);
int rpc_server_start(struct rpc_server *server, struct err *err);
/* "tcp:127.0.0.1:40123" with the port picked; valid while the server lives. */
const char *rpc_server_address(const struct rpc_server *server, size_t index);
/* Calls now waiting, running or unanswered; any thread. */
uint32_t rpc_server_calls(const struct rpc_server *server);

/*
 * Stops accepting, waits up to drain_ms for the calls under way, then cancels the rest (their
 * clients see UNAVAILABLE or CANCELLED) and waits until each has been answered by its handler: a
 * handler that keeps a call must watch for cancellation. Blocks; not on the server's loop and not
 * in a handler. A second stop waits likewise.
 */
void rpc_server_stop(struct rpc_server *server, uint32_t drain_ms);
struct rpc_stop {
	struct loop *loop;
	void (*done)(struct rpc_stop *stop); /* on the loop; rpc_server_destroy() may follow */
	struct loop_msg msg;
	struct rpc_server *server;
	uint32_t drain_ms;
};
/* The same without blocking: stop->done comes on stop->loop, which must keep running. Once per
 * server. 0, or -EAGAIN when no thread could be made (then use rpc_server_stop elsewhere). */
int rpc_server_stop_start(struct rpc_server *server, uint32_t drain_ms, struct rpc_stop *stop);
/* Stops with a drain of 0 ms if still running; NULL is fine. Not on the server's loop unless
 * stopped. Unlinks its unix sockets. */
void rpc_server_destroy(struct rpc_server *server);

/* ---- one call, seen by its handler ---- */

/*
 * A call is the handler's from handle() until it is answered by exactly one of rpc_call_reply(),
 * rpc_call_finish(), rpc_call_fail(), rpc_call_fail_err(), now or later, from any thread; it must
 * not be touched after that. A cancelled call must be answered too. Handler and callbacks of one
 * call never run at the same time, and none begins after the answer.
 */

/* The request, its strings checked; valid until the answer. */
const ProtobufCMessage *rpc_call_request(const struct rpc_call *call);
/* "/package.Service/Method" */
const char *rpc_call_method(const struct rpc_call *call);
/* "unix:" or "ipv4:127.0.0.1:4711"; what gRPC knows, for log lines only. */
const char *rpc_call_peer(struct rpc_call *call);
/* Value of the first metadata entry with this lower-case key, zero-terminated: its length, or
 * -ENOENT, or -ERANGE when ret_bytes is too small. */
ssize_t rpc_call_metadata(const struct rpc_call *call, const char *key, char *ret,
			  size_t ret_bytes);
/* The client cancelled or went away, the deadline passed, or the server is stopping hard. */
bool rpc_call_is_cancelled(const struct rpc_call *call);
/* Until the client's deadline: 0 when past, UINT64_MAX when there is none. */
uint64_t rpc_call_time_left_ns(const struct rpc_call *call);
/* callback(ctx, call) once when the call is cancelled (also when it already is), on a worker or
 * the loop. It may answer the call. */
void rpc_call_on_cancel(struct rpc_call *call, void (*callback)(void *ctx, struct rpc_call *call),
			void *ctx);

/*
 * Answers a unary call; the message stays the caller's. 0; or, when it cannot be sent, -EMSGSIZE
 * (over message_bytes_max) or -EINVAL (a string is not UTF-8): the client got INTERNAL then, and
 * the call is answered all the same.
 */
int rpc_call_reply(struct rpc_call *call, const ProtobufCMessage *response);
/* Answers with an error; code is not RPC_OK. The text is clipped and made UTF-8. */
void rpc_call_fail(struct rpc_call *call, enum rpc_code code, const char *format, ...)
	PRINTF_LIKE(3, 4);
/* The same from an errno error: code by the table above, text as is. */
void rpc_call_fail_err(struct rpc_call *call, const struct err *err);

/*
 * Streaming. One message is in flight at a time: 0 when it was taken; -EAGAIN while the last one
 * is not yet written to the client's window (wait for on_writable); -ECANCELED when the call is
 * cancelled; -EMSGSIZE, -EINVAL as above (nothing was sent). The message stays the caller's.
 */
int rpc_call_send(struct rpc_call *call, const ProtobufCMessage *message);
/* The same for a handler on a worker thread: waits instead of -EAGAIN. A slow client holds the
 * worker as long as the client's deadline lets it. */
int rpc_call_send_wait(struct rpc_call *call, const ProtobufCMessage *message);
/* callback(ctx, call) after each message that rpc_call_send() took, when the next may be sent. */
void rpc_call_on_writable(struct rpc_call *call, void (*callback)(void *ctx, struct rpc_call *call),
			  void *ctx);
/* Ends a stream with OK, after what was sent. */
void rpc_call_finish(struct rpc_call *call);

/* ---- client ---- */

struct rpc_client;

struct rpc_client_config {
	const char *address;
	size_t message_bytes_max; /* 0: 4 MiB */
};

/*
 * Costs one thread, asleep when nothing happens. Connects at the first call. After a failure the
 * next call tries anew at once: no back-off is kept, callers that loop must pace themselves.
 */
int rpc_client_create(const struct rpc_client_config *config, struct rpc_client **ret,
		      struct err *err);
/* No call may be under way and every stream must be closed. NULL is fine. */
void rpc_client_destroy(struct rpc_client *client);

struct rpc_request {
	const ProtobufCServiceDescriptor *service;
	const char *method;
	const ProtobufCMessage *message; /* of the method's input type; stays the caller's */
	uint32_t timeout_ms;             /* unary: 1 or more; stream: 0 is no deadline */
};

/*
 * Blocking unary call, any thread but a loop's. 0 and *ret (free with rpc_message_free()), or
 * -errno by the table with the server's text; what the transport reports (UNAVAILABLE,
 * DEADLINE_EXCEEDED) begins with the address. A server that is not there fails at once with
 * -ENOTCONN. After -ENOTCONN or -ETIMEDOUT the server may have done the work.
 * A request that is too large or not UTF-8, or a method the service does not have: -EMSGSIZE,
 * -EINVAL, nothing sent. A response that cannot be decoded: -EPROTO.
 */
int rpc_client_call(struct rpc_client *client, const struct rpc_request *request,
		    ProtobufCMessage **ret, struct err *err);

/* An asynchronous unary call; embedded in the caller's object, zero before use. */
struct rpc_async {
	struct loop *loop;                     /* set by the caller */
	void (*done)(struct rpc_async *async); /* set by the caller; on the loop, exactly once */
	ProtobufCMessage *response;            /* in done: NULL on error; the callee frees it */
	struct err err;                        /* in done: code 0 on success */
	struct loop_msg msg;                   /* the room's */
	struct rpc_client_call *call;          /* the room's */
};
/* On async->loop. Every outcome, also -EINVAL, comes through done(). */
void rpc_client_start(struct rpc_client *client, const struct rpc_request *request,
		      struct rpc_async *async);
/* On async->loop, between start and done: done() comes soon, with -ECANCELED unless it was over. */
void rpc_async_cancel(struct rpc_async *async);

/* Reading a server stream, blocking, one thread at a time. */
struct rpc_stream;
int rpc_stream_open(struct rpc_client *client, const struct rpc_request *request,
		    struct rpc_stream **ret, struct err *err);
/* 1 and *ret (free with rpc_message_free()); 0 at the end with OK; or -errno as above. The server
 * may send one message ahead of this call plus what the HTTP/2 window holds. */
int rpc_stream_next(struct rpc_stream *stream, ProtobufCMessage **ret, struct err *err);
/* Any thread, while the stream is open: rpc_stream_next() returns -ECANCELED soon. */
void rpc_stream_cancel(struct rpc_stream *stream);
/* Cancels what is not over, and frees. NULL is fine. */
void rpc_stream_close(struct rpc_stream *stream);

#endif
