/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What server and client share: life of gRPC core, threads, addresses.
 *
 * C1  grpc_init() and grpc_shutdown() are counted by gRPC itself; each server and each client
 *     holds one count, so core's helper threads exist only while one of them does.
 * C2  A completion queue has one thread. It is the only one that does socket I/O for its calls,
 *     so what runs on it (struct rpc_event.run) never blocks.
 * C3  Threads block all signals: the daemon's loop or main thread gets them.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <grpc/support/log.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/un.h>
#include <time.h>

#include "base/log.h"
#include "base/rpc/rpc_core.h"

static_assert(sizeof(((struct rpc_address *)0)->path) ==
		      sizeof(((struct sockaddr_un *)0)->sun_path),
	      "a unix path fits exactly");

static void core_log(gpr_log_func_args *args)
{
	enum log_level level = args->severity == GPR_LOG_SEVERITY_ERROR ? LOG_WARN : LOG_DEBUG;
	log_event(level, "rpc", "grpc_core", "text=%s", LOG_Q(args->message));
}

void rpc_core_init(void)
{
	gpr_set_log_function(core_log);
	grpc_init();
}

void rpc_core_shutdown(void)
{
	grpc_shutdown();
}

void *rpc_core_poll(void *arg)
{
	grpc_completion_queue *queue = arg;
	for (;;) {
		grpc_event done =
			grpc_completion_queue_next(queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
		if (done.type == GRPC_QUEUE_SHUTDOWN)
			return NULL;
		if (done.type != GRPC_OP_COMPLETE)
			continue;
		struct rpc_event *event = done.tag;
		RPC_EVENT_ARRIVES(event);
		event->run(event, done.success != 0);
	}
}

int rpc_thread_start(pthread_t *thread, const char *name, void *(*body)(void *), void *arg)
{
	sigset_t all, old;
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	int rc = pthread_create(thread, NULL, body, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc == 0)
		pthread_setname_np(*thread, name);
	return -rc;
}

void rpc_batch_start(grpc_call *call, const grpc_op *ops, size_t count, struct rpc_event *event)
{
	RPC_EVENT_STARTS(event);
	grpc_call_error rc = grpc_call_start_batch(call, ops, count, event, NULL);
	assert(rc == GRPC_CALL_OK);
}

void rpc_cond_init(pthread_cond_t *cond)
{
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(cond, &attr);
	pthread_condattr_destroy(&attr);
}

static int address_parse_unix(const char *path, struct rpc_address *ret, struct err *err)
{
	size_t length_bytes = strlen(path);
	if (length_bytes == 0 || length_bytes >= sizeof(ret->path))
		return err_set(err, -EINVAL, "address 'unix:%s': the path must have 1 to %zu bytes",
			       path, sizeof(ret->path) - 1);
	ret->kind = RPC_ADDRESS_UNIX;
	memcpy(ret->path, path, length_bytes + 1);
	snprintf(ret->target, sizeof(ret->target), "unix:%s", path);
	return 0;
}

/* Splits "HOST:PORT" or "[HOST]:PORT". */
static int address_split(const char *text, struct rpc_address *ret)
{
	const char *host = text, *colon = strrchr(text, ':');
	if (!colon)
		return -EINVAL;
	size_t host_bytes = (size_t)(colon - text);
	if (host[0] == '[' && host_bytes >= 2 && host[host_bytes - 1] == ']') {
		host++;
		host_bytes -= 2;
		ret->is_ipv6 = true;
	}
	if (host_bytes == 0 || host_bytes >= sizeof(ret->host))
		return -EINVAL;
	memcpy(ret->host, host, host_bytes);
	ret->host[host_bytes] = '\0';
	char *end;
	unsigned long port = strtoul(colon + 1, &end, 10);
	if (colon[1] < '0' || colon[1] > '9' || *end != '\0' || port > UINT16_MAX)
		return -EINVAL;
	ret->port = (uint16_t)port;
	return 0;
}

static bool address_is_loopback(const struct rpc_address *address)
{
	struct in_addr v4;
	struct in6_addr v6;
	if (address->is_ipv6)
		return inet_pton(AF_INET6, address->host, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
	return inet_pton(AF_INET, address->host, &v4) == 1 && (ntohl(v4.s_addr) >> 24) == 127;
}

int rpc_address_parse(const char *text, struct rpc_address *ret, struct err *err)
{
	struct rpc_address out = {0};
	if (!text)
		return err_set(err, -EINVAL, "address is missing");
	if (strncmp(text, "unix:", 5) == 0) {
		int rc = address_parse_unix(text + 5, &out, err);
		if (rc == 0)
			*ret = out;
		return rc;
	}
	if (strncmp(text, "tcp:", 4) != 0 || address_split(text + 4, &out) < 0)
		return err_set(err, -EINVAL,
			       "address '%s' must be unix:/path or tcp:127.0.0.1:port", text);
	if (!address_is_loopback(&out))
		return err_set(err, -EINVAL,
			       "address '%s': the host must be a numeric loopback address", text);
	out.kind = RPC_ADDRESS_TCP;
	if (out.is_ipv6)
		snprintf(out.target, sizeof(out.target), "ipv6:[%s]:%u", out.host, out.port);
	else
		snprintf(out.target, sizeof(out.target), "ipv4:%s:%u", out.host, out.port);
	*ret = out;
	return 0;
}
