/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The server: addresses, services, workers, stopping.
 *
 * Threads: one poller (all socket I/O and inline handlers), worker_count workers or a loop.
 *
 * V1  SERVER_ACCEPTS requests for calls are always posted while serving; a method that is not
 *     known gets its answer here, since core would let a call nobody asked for hang.
 * V2  waiting <= queue_max and calls <= calls_max, plus the few that are being refused.
 * V3  A port is never shared: SO_REUSEPORT, core's default, would let two daemons each take a
 *     part of the calls.
 * V4  Stop: no new calls -> drain -> cancel all -> every call object gone -> core's shutdown tag.
 *     Only then are workers joined, the core server destroyed, the queue shut down and drained.
 *     The queue thus outlives every event.
 */
#include <errno.h>
#include <arpa/inet.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/rpc/rpc_server.h"

/* ---- queueing ---- */

static void on_loop(struct loop_msg *msg)
{
	rpc_call_run(CONTAINER_OF(msg, struct rpc_call, loop_msg));
}

void rpc_server_queue(struct rpc_server *server, struct rpc_call *call)
{
	if (server->loop) {
		call->loop_msg.run = on_loop;
		loop_post(server->loop, &call->loop_msg);
		return;
	}
	pthread_mutex_lock(&server->mutex);
	list_push_back(&server->work, &call->work_link);
	pthread_cond_signal(&server->work_cond);
	pthread_mutex_unlock(&server->mutex);
}

/* Work goes before the wish to stop, so nothing is left behind. */
static void *worker_main(void *arg)
{
	struct rpc_server *server = arg;
	pthread_mutex_lock(&server->mutex);
	for (;;) {
		struct list *link = list_pop_front(&server->work);
		if (link) {
			pthread_mutex_unlock(&server->mutex);
			rpc_call_run(CONTAINER_OF(link, struct rpc_call, work_link));
			pthread_mutex_lock(&server->mutex);
		} else if (server->workers_stop) {
			break;
		} else {
			pthread_cond_wait(&server->work_cond, &server->mutex);
		}
	}
	pthread_mutex_unlock(&server->mutex);
	return NULL;
}

bool rpc_server_call_in(struct rpc_server *server)
{
	pthread_mutex_lock(&server->mutex);
	bool has_room = ++server->calls <= server->calls_max;
	pthread_mutex_unlock(&server->mutex);
	return has_room;
}

void rpc_server_call_out(struct rpc_server *server)
{
	pthread_mutex_lock(&server->mutex);
	if (--server->calls == 0)
		pthread_cond_broadcast(&server->idle_cond);
	pthread_mutex_unlock(&server->mutex);
}

uint32_t rpc_server_calls(const struct rpc_server *server)
{
	struct rpc_server *s = (struct rpc_server *)server; /* only its mutex is changed */
	pthread_mutex_lock(&s->mutex);
	uint32_t calls = s->calls;
	pthread_mutex_unlock(&s->mutex);
	return calls;
}

/* ---- arrival ---- */

static void accept_post(struct server_accept *accept)
{
	grpc_completion_queue *queue = accept->server->queue;
	accept->call = NULL;
	grpc_call_details_init(&accept->details);
	grpc_metadata_array_init(&accept->metadata);
	RPC_EVENT_STARTS(&accept->event);
	grpc_call_error rc =
		grpc_server_request_call(accept->server->core, &accept->call, &accept->details,
					 &accept->metadata, queue, queue, &accept->event);
	assert(rc == GRPC_CALL_OK);
}

static void on_accept(struct rpc_event *event, bool ok)
{
	struct server_accept *accept = CONTAINER_OF(event, struct server_accept, event);
	if (!ok) { /* the server stops */
		grpc_call_details_destroy(&accept->details);
		grpc_metadata_array_destroy(&accept->metadata);
		return;
	}
	struct server_accept taken = *accept;
	accept_post(accept);
	rpc_call_begin(&taken);
}

bool rpc_server_find(struct rpc_server *server, struct rpc_call *call)
{
	const char *slash = call->name[0] == '/' ? strchr(call->name + 1, '/') : NULL;
	if (!slash)
		return false;
	size_t service_bytes = (size_t)(slash - call->name - 1);
	for (size_t i = 0; i < server->service_count; i++) {
		const struct server_service *service = &server->services[i];
		const char *name = service->descriptor->name;
		if (strlen(name) != service_bytes ||
		    memcmp(name, call->name + 1, service_bytes) != 0)
			continue;
		call->descriptor = protobuf_c_service_descriptor_get_method_by_name(
			service->descriptor, slash + 1);
		if (!call->descriptor)
			return false;
		call->method = service->methods[call->descriptor - service->descriptor->methods];
		call->ctx = service->ctx;
		return call->method != NULL;
	}
	return false;
}

/* ---- addresses ---- */

static void sockaddr_fill(const struct rpc_address *address, struct sockaddr_storage *ret,
			  socklen_t *ret_bytes)
{
	memset(ret, 0, sizeof(*ret));
	if (address->kind == RPC_ADDRESS_UNIX) {
		struct sockaddr_un *un = (struct sockaddr_un *)ret;
		un->sun_family = AF_UNIX;
		memcpy(un->sun_path, address->path, strlen(address->path));
		*ret_bytes = sizeof(*un);
	} else if (address->is_ipv6) {
		struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ret;
		in6->sin6_family = AF_INET6;
		in6->sin6_port = htons(address->port);
		inet_pton(AF_INET6, address->host, &in6->sin6_addr);
		*ret_bytes = sizeof(*in6);
	} else {
		struct sockaddr_in *in = (struct sockaddr_in *)ret;
		in->sin_family = AF_INET;
		in->sin_port = htons(address->port);
		inet_pton(AF_INET, address->host, &in->sin_addr);
		*ret_bytes = sizeof(*in);
	}
}

/* Tries one system call on a fresh socket of the address: 0 or -errno. */
static int address_try(const struct rpc_address *address,
		       int (*attempt)(int fd, const struct sockaddr *addr, socklen_t bytes))
{
	struct sockaddr_storage storage;
	socklen_t bytes;
	sockaddr_fill(address, &storage, &bytes);
	int fd = socket(storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	int one = 1;
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)); /* as core does */
	int rc = attempt(fd, (struct sockaddr *)&storage, bytes) < 0 ? -errno : 0;
	close(fd);
	return rc;
}

/* Makes room for a unix socket: removes a file that nobody listens on. */
static int unix_path_clear(const struct rpc_address *address, struct err *err)
{
	struct stat st;
	if (lstat(address->path, &st) < 0) {
		if (errno == ENOENT)
			return 0;
		return err_set(err, -errno, "address 'unix:%s': %s", address->path,
			       strerror(errno));
	}
	if (!S_ISSOCK(st.st_mode))
		return err_set(err, -EEXIST, "address 'unix:%s': the file there is not a socket",
			       address->path);
	int rc = address_try(address, connect);
	if (rc == 0 || rc == -EAGAIN) /* EAGAIN: somebody's backlog is full */
		return err_set(err, -EADDRINUSE, "address 'unix:%s' is served by another process",
			       address->path);
	if (rc != -ECONNREFUSED && rc != -ENOENT)
		return err_set(err, rc, "address 'unix:%s': %s", address->path, strerror(-rc));
	(void)unlink(address->path); /* left by a crash; bind reports what remains */
	return 0;
}

static int server_bind(struct rpc_server *server, const struct rpc_address *address)
{
	char text[RPC_ADDRESS_BYTES_MAX];
	const char *target = address->target;
	if (address->kind == RPC_ADDRESS_TCP) { /* a server wants host:port without a scheme */
		snprintf(text, sizeof(text), address->is_ipv6 ? "[%s]:%u" : "%s:%u", address->host,
			 address->port);
		target = text;
	}
	grpc_server_credentials *insecure = grpc_insecure_server_credentials_create();
	/* The file must not be reachable by others before chmod; 0077 does not break the
	 * directories that another thread may be making right now. */
	mode_t old = umask(0077);
	int port = grpc_server_add_http2_port(server->core, target, insecure);
	umask(old);
	grpc_server_credentials_release(insecure);
	return port;
}

static int server_listen(struct rpc_server *server, const char *text, struct err *err)
{
	struct rpc_address address;
	int rc = rpc_address_parse(text, &address, err);
	if (rc < 0)
		return rc;
	if (address.kind == RPC_ADDRESS_UNIX) {
		rc = unix_path_clear(&address, err);
		if (rc < 0)
			return rc;
	}
	rc = address_try(&address, bind); /* core does not tell why a bind failed */
	if (rc < 0)
		return err_set(err, rc, "address '%s': %s", text, strerror(-rc));
	if (address.kind == RPC_ADDRESS_UNIX)
		(void)unlink(address.path); /* the trial's */
	int port = server_bind(server, &address);
	if (port <= 0)
		return err_set(err, -EADDRINUSE, "address '%s' cannot be bound", text);
	char *out = server->addresses[server->address_count];
	if (address.kind == RPC_ADDRESS_UNIX) {
		snprintf(out, RPC_ADDRESS_BYTES_MAX, "%s", address.target);
		if (chmod(address.path, 0600) < 0)
			return err_set(err, -errno, "address '%s': chmod: %s", text,
				       strerror(errno));
	} else {
		snprintf(out, RPC_ADDRESS_BYTES_MAX, address.is_ipv6 ? "tcp:[%s]:%d" : "tcp:%s:%d",
			 address.host, port);
	}
	server->address_count++;
	return 0;
}

const char *rpc_server_address(const struct rpc_server *server, size_t index)
{
	assert(index < server->address_count);
	return server->addresses[index];
}

/* ---- life ---- */

static void on_shutdown(struct rpc_event *event, bool ok)
{
	(void)ok;
	struct rpc_server *server = CONTAINER_OF(event, struct rpc_server, shutdown_event);
	pthread_mutex_lock(&server->mutex);
	server->is_shut = true;
	pthread_cond_broadcast(&server->idle_cond);
	pthread_mutex_unlock(&server->mutex);
}

static grpc_server *core_create(size_t message_bytes_max)
{
	grpc_arg args[] = {
		{GRPC_ARG_INTEGER,
		 (char *)GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH,
		 {.integer = (int)message_bytes_max}},
		{GRPC_ARG_INTEGER, (char *)GRPC_ARG_ALLOW_REUSEPORT, {.integer = 0}},
		{GRPC_ARG_INTEGER, (char *)GRPC_ARG_ENABLE_CHANNELZ, {.integer = 0}},
		{GRPC_ARG_INTEGER,
		 (char *)GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS,
		 {.integer = 10000}},
	};
	grpc_channel_args all = {ARRAY_LEN(args), args};
	return grpc_server_create(&all, NULL);
}

static int config_check(const struct rpc_server_config *config, struct err *err)
{
	if (config->address_count == 0 || config->address_count > SERVER_ADDRESSES_MAX)
		return err_set(err, -EINVAL, "address_count is %zu, must be 1 to %d",
			       config->address_count, SERVER_ADDRESSES_MAX);
	if (config->worker_count > SERVER_WORKERS_MAX)
		return err_set(err, -EINVAL, "worker_count is %u, must be at most %d",
			       config->worker_count, SERVER_WORKERS_MAX);
	if (config->message_bytes_max > (64u << 20))
		return err_set(err, -EINVAL, "message_bytes_max is %zu, must be at most %u",
			       config->message_bytes_max, 64u << 20);
	return 0;
}

static void server_free(struct rpc_server *server)
{
	for (size_t i = 0; i < server->service_count; i++)
		free(server->services[i].methods);
	pthread_cond_destroy(&server->idle_cond);
	pthread_cond_destroy(&server->work_cond);
	pthread_mutex_destroy(&server->mutex);
	free(server);
}

int rpc_server_create(const struct rpc_server_config *config, struct rpc_server **ret,
		      struct err *err)
{
	int rc = config_check(config, err);
	if (rc < 0)
		return rc;
	struct rpc_server *server = calloc(1, sizeof(*server));
	if (!server)
		return err_set(err, -ENOMEM, "no memory for a server");
	server->loop = config->loop;
	server->queue_max = config->queue_max ? config->queue_max : 256;
	server->calls_max = config->calls_max ? config->calls_max : 1024;
	server->worker_wanted = config->loop ? 0 : config->worker_count ? config->worker_count : 4;
	server->message_bytes_max =
		config->message_bytes_max ? config->message_bytes_max : RPC_MESSAGE_BYTES_DEFAULT;
	server->shutdown_event.run = on_shutdown;
	pthread_mutex_init(&server->mutex, NULL);
	rpc_cond_init(&server->work_cond);
	rpc_cond_init(&server->idle_cond);
	list_init(&server->work);
	rpc_core_init();
	server->queue = grpc_completion_queue_create_for_next(NULL);
	server->core = core_create(server->message_bytes_max);
	grpc_server_register_completion_queue(server->core, server->queue, NULL);
	for (size_t i = 0; rc == 0 && i < config->address_count; i++)
		rc = server_listen(server, config->addresses[i], err);
	if (rc < 0) {
		rpc_server_destroy(server);
		return rc;
	}
	*ret = server;
	return 0;
}

int rpc_server_register(struct rpc_server *server, const ProtobufCServiceDescriptor *service,
			const struct rpc_method *methods, void *ctx, struct err *err)
{
	assert(!server->is_started);
	for (size_t i = 0; i < server->service_count; i++) {
		if (strcmp(server->services[i].descriptor->name, service->name) == 0)
			return err_set(err, -EEXIST, "service '%s' is registered", service->name);
	}
	if (server->service_count == SERVER_SERVICES_MAX)
		return err_set(err, -ENOSPC, "service '%s': a server has at most %d", service->name,
			       SERVER_SERVICES_MAX);
	const struct rpc_method **table = calloc(service->n_methods + 1u, sizeof(*table));
	if (!table)
		return err_set(err, -ENOMEM, "service '%s': no memory", service->name);
	for (; methods->name; methods++) {
		const ProtobufCMethodDescriptor *method =
			protobuf_c_service_descriptor_get_method_by_name(service, methods->name);
		uint32_t both = RPC_METHOD_STREAM | RPC_METHOD_INLINE;
		if (!method || (methods->flags & both) == both) {
			free(table);
			return err_set(err, -EINVAL, "service '%s': method '%s' %s", service->name,
				       methods->name,
				       method ? "cannot be both stream and inline"
					      : "is not in it");
		}
		table[method - service->methods] = methods;
	}
	server->services[server->service_count++] =
		(struct server_service){.descriptor = service, .methods = table, .ctx = ctx};
	return 0;
}

int rpc_server_start(struct rpc_server *server, struct err *err)
{
	assert(!server->is_started);
	int rc = 0;
	while (rc == 0 && server->worker_count < server->worker_wanted) {
		rc = rpc_thread_start(&server->workers[server->worker_count], "rpc-worker",
				      worker_main, server);
		if (rc == 0)
			server->worker_count++;
	}
	if (rc == 0)
		rc = rpc_thread_start(&server->poller, "rpc-server", rpc_core_poll, server->queue);
	if (rc < 0)
		return err_set(err, rc, "a thread of the server: %s", strerror(-rc));
	server->poller_running = true;
	server->is_started = true;
	grpc_server_start(server->core);
	for (size_t i = 0; i < SERVER_ACCEPTS; i++) {
		server->accepts[i].event.run = on_accept;
		server->accepts[i].server = server;
		accept_post(&server->accepts[i]);
	}
	return 0;
}

static void wait_for_drain(struct rpc_server *server, uint32_t drain_ms)
{
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += drain_ms / 1000;
	until.tv_nsec += (long)(drain_ms % 1000) * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000;
	}
	pthread_mutex_lock(&server->mutex);
	while (server->calls > 0) {
		if (pthread_cond_timedwait(&server->idle_cond, &server->mutex, &until) == ETIMEDOUT)
			break;
	}
	pthread_mutex_unlock(&server->mutex);
}

void rpc_server_stop(struct rpc_server *server, uint32_t drain_ms)
{
	if (!server->is_started)
		return;
	pthread_mutex_lock(&server->mutex);
	bool is_first = !server->is_stopping;
	server->is_stopping = true;
	pthread_mutex_unlock(&server->mutex);
	if (is_first) {
		RPC_EVENT_STARTS(&server->shutdown_event);
		grpc_server_shutdown_and_notify(server->core, server->queue,
						&server->shutdown_event);
		wait_for_drain(server, drain_ms);
		grpc_server_cancel_all_calls(server->core); /* also drops idle connections */
	}
	pthread_mutex_lock(&server->mutex);
	while (server->calls > 0 || !server->is_shut)
		pthread_cond_wait(&server->idle_cond, &server->mutex);
	pthread_mutex_unlock(&server->mutex);
}

static void on_stopped(struct loop_msg *msg)
{
	struct rpc_stop *stop = CONTAINER_OF(msg, struct rpc_stop, msg);
	stop->done(stop);
}

static void *stop_main(void *arg)
{
	struct rpc_stop *stop = arg;
	rpc_server_stop(stop->server, stop->drain_ms);
	stop->msg.run = on_stopped;
	loop_post(stop->loop, &stop->msg);
	return NULL;
}

int rpc_server_stop_start(struct rpc_server *server, uint32_t drain_ms, struct rpc_stop *stop)
{
	pthread_t thread;
	stop->server = server;
	stop->drain_ms = drain_ms;
	int rc = rpc_thread_start(&thread, "rpc-stop", stop_main, stop);
	if (rc == 0)
		pthread_detach(thread); /* its last act is the post */
	return rc < 0 ? -EAGAIN : 0;
}

void rpc_server_destroy(struct rpc_server *server)
{
	if (!server)
		return;
	if (server->is_started) {
		rpc_server_stop(server, 0);
	} else { /* core demands a shutdown before the end, started or not */
		grpc_server_shutdown_and_notify(server->core, server->queue,
						&server->shutdown_event);
		grpc_server_cancel_all_calls(server->core);
	}
	pthread_mutex_lock(&server->mutex);
	server->workers_stop = true;
	pthread_cond_broadcast(&server->work_cond);
	pthread_mutex_unlock(&server->mutex);
	for (uint32_t i = 0; i < server->worker_count; i++)
		pthread_join(server->workers[i], NULL);
	if (!server->is_started) { /* no thread polls: take the shutdown's event here */
		grpc_event done = grpc_completion_queue_next(
			server->queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
		assert(done.type == GRPC_OP_COMPLETE);
	}
	grpc_server_destroy(server->core);
	grpc_completion_queue_shutdown(server->queue);
	if (server->poller_running)
		pthread_join(server->poller, NULL);
	else
		rpc_core_poll(server->queue);
	grpc_completion_queue_destroy(server->queue);
	rpc_core_shutdown();
	server_free(server);
}
