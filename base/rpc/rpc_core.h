/* SPDX-License-Identifier: Apache-2.0 */
/* Private to base/rpc: what server and client share of gRPC core. */
#ifndef HF_BASE_RPC_RPC_CORE_H
#define HF_BASE_RPC_RPC_CORE_H

#include <grpc/grpc.h>
#include <pthread.h>

#include "base/rpc/rpc.h"

/* The tag of every operation on a completion queue; run() is called on the queue's thread. */
struct rpc_event {
	void (*run)(struct rpc_event *event, bool ok);
};

/* gRPC core is not built for ThreadSanitizer: tell it that starting happens before completing. */
#ifdef __SANITIZE_THREAD__
void __tsan_acquire(void *addr);
void __tsan_release(void *addr);
#define RPC_EVENT_STARTS(event)  __tsan_release(event)
#define RPC_EVENT_ARRIVES(event) __tsan_acquire(event)
#else
#define RPC_EVENT_STARTS(event)  ((void)(event))
#define RPC_EVENT_ARRIVES(event) ((void)(event))
#endif

/* grpc_init() and the log hook; each init is paired with one shutdown. */
void rpc_core_init(void);
void rpc_core_shutdown(void);
/* Runs a queue's events until it is shut down and drained; `arg` is the grpc_completion_queue. */
void *rpc_core_poll(void *arg);
/* A thread with a name and all signals blocked: 0 or -errno. */
int rpc_thread_start(pthread_t *thread, const char *name, void *(*body)(void *), void *arg);
/* Starts a batch; a refusal is a bug of this room. */
void rpc_batch_start(grpc_call *call, const grpc_op *ops, size_t count, struct rpc_event *event);
/* A condition variable on CLOCK_MONOTONIC. */
void rpc_cond_init(pthread_cond_t *cond);

enum rpc_address_kind { RPC_ADDRESS_UNIX, RPC_ADDRESS_TCP };
struct rpc_address {
	enum rpc_address_kind kind;
	char path[108]; /* unix */
	char host[64];  /* tcp: numeric loopback, without brackets */
	bool is_ipv6;
	uint16_t port;
	char target[RPC_ADDRESS_BYTES_MAX]; /* in gRPC's spelling for a channel */
};
/* 0, or -EINVAL with a sentence. */
int rpc_address_parse(const char *text, struct rpc_address *ret, struct err *err);

/* 0 and a buffer to be destroyed by the caller; -EMSGSIZE or -EINVAL with a sentence. */
int rpc_message_pack(const ProtobufCMessage *message, size_t bytes_max, grpc_byte_buffer **ret,
		     struct err *err);
/*
 * 0; -EPROTO: not a message of this type; -EMSGSIZE: it expands to more memory than allowed;
 * -EINVAL: a string is not UTF-8.
 */
int rpc_message_unpack(const ProtobufCMessageDescriptor *type, grpc_byte_buffer *buffer,
		       size_t bytes_max, ProtobufCMessage **ret, struct err *err);
/* Copies text to ret (clipped between characters), bytes that are not UTF-8 replaced by '?'. */
void rpc_text_copy(const char *text, size_t text_bytes, char *ret, size_t ret_bytes);

#endif
