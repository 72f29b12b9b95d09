/* SPDX-License-Identifier: Apache-2.0 */
/* Private to base/rpc: the server's and the call's insides; rpc_server.c and rpc_call.c share them. */
#ifndef HF_BASE_RPC_RPC_SERVER_H
#define HF_BASE_RPC_RPC_SERVER_H

#include <stdatomic.h>

#include "base/rpc/rpc_core.h"

#define SERVER_ACCEPTS       4
#define SERVER_ADDRESSES_MAX 8
#define SERVER_SERVICES_MAX  8
#define SERVER_WORKERS_MAX   64

/* A posted grpc_server_request_call(). */
struct server_accept {
	struct rpc_event event;
	struct rpc_server *server;
	grpc_call *call;
	grpc_call_details details;
	grpc_metadata_array metadata;
};

struct server_service {
	const ProtobufCServiceDescriptor *descriptor;
	const struct rpc_method **methods; /* by method index of the descriptor; NULL: absent */
	void *ctx;
};

struct rpc_server {
	grpc_server *core;
	grpc_completion_queue *queue;
	pthread_t poller;
	bool poller_running;
	bool is_started;
	struct loop *loop;
	uint32_t queue_max;
	uint32_t calls_max;
	size_t message_bytes_max;
	struct server_accept accepts[SERVER_ACCEPTS];
	char addresses[SERVER_ADDRESSES_MAX][RPC_ADDRESS_BYTES_MAX];
	size_t address_count;
	struct server_service services[SERVER_SERVICES_MAX];
	size_t service_count;
	pthread_t workers[SERVER_WORKERS_MAX];
	uint32_t worker_count; /* threads running */
	uint32_t worker_wanted;

	atomic_uint waiting;   /* first runs queued and not begun; <= queue_max */
	pthread_mutex_t mutex; /* guards what follows */
	pthread_cond_t work_cond;
	pthread_cond_t idle_cond; /* calls became 0, or the shutdown tag came */
	struct list work;         /* of rpc_call.work_link, for workers */
	bool workers_stop;
	uint32_t calls; /* call objects alive */
	bool is_stopping;
	bool is_shut; /* the shutdown tag came */
	struct rpc_event shutdown_event;
};

enum { CALL_RUN = 1, CALL_WRITABLE = 2, CALL_CANCEL = 4 };

struct rpc_call {
	struct rpc_server *server;
	grpc_call *core;
	grpc_call_details details;
	grpc_metadata_array metadata;
	const struct rpc_method *method;
	const ProtobufCMethodDescriptor *descriptor;
	void *ctx;
	char *name; /* "/package.Service/Method" */
	char *peer; /* gRPC's; NULL until asked for */
	ProtobufCMessage *request;
	grpc_byte_buffer *received;
	struct rpc_event close_event;
	struct rpc_event receive_event;
	struct rpc_event send_event;
	struct rpc_event finish_event;
	int core_cancelled; /* written by core before close_event */
	struct list work_link;
	struct loop_msg loop_msg;
	atomic_int refs; /* one per pending event, one while scheduled, one until answered */
	atomic_bool is_cancelled;

	pthread_mutex_t mutex; /* guards what follows */
	pthread_cond_t cond;   /* is_sending became false, or is_cancelled true */
	uint32_t todo;         /* CALL_*: what the next run delivers */
	bool is_scheduled;
	bool is_answered; /* by the handler; the status may still wait for a send */
	bool is_sending;
	bool headers_sent;
	grpc_byte_buffer *sending; /* stream message in flight, or the unary response */
	enum rpc_code code;        /* answer */
	char text[RPC_TEXT_BYTES_MAX];
	void (*cancel_cb)(void *ctx, struct rpc_call *call);
	void *cancel_ctx;
	void (*writable_cb)(void *ctx, struct rpc_call *call);
	void *writable_ctx;
};

/* A new call as core delivered it; takes the accept's call, details and metadata. Poller only. */
void rpc_call_begin(struct server_accept *accept);
/* Delivers what is due; drops the schedule's reference. */
void rpc_call_run(struct rpc_call *call);
/* Queues the call for a worker or the loop. */
void rpc_server_queue(struct rpc_server *server, struct rpc_call *call);
/* Finds a handler by "/package.Service/Method"; false when there is none. */
bool rpc_server_find(struct rpc_server *server, struct rpc_call *call);
/* Counts a call object in and out. False from _in: calls_max is reached, or stopping; counted
 * all the same. */
bool rpc_server_call_in(struct rpc_server *server);
void rpc_server_call_out(struct rpc_server *server);

#endif
