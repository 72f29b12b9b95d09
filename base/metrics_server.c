/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The HTTP side of metrics: libmicrohttpd in one thread of its own, so that a slow or hostile
 * reader costs the data path nothing.
 *
 * R1 Bounded: 16 connections, 10 s of silence each, 16 KiB of memory each besides the page.
 * R2 Only a unix socket or a loopback address: there is no encryption and no login here.
 * R3 A request changes nothing. Bodies are refused unread, methods other than GET and HEAD too.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/loop_int.h"
#include "base/metrics.h"

#define CONNECTIONS_MAX         16
#define SILENCE_MAX_S           10
#define CONNECTION_MEMORY_BYTES ((size_t)16 << 10)

struct metrics_server {
	struct metrics_server_options options;
	struct MHD_Daemon *daemon;
	struct listen_path path;
	char address[ADDRESS_TEXT_BYTES];
};

/* ---- requests ---- */

static enum MHD_Result reply(struct MHD_Connection *connection, unsigned status, char *text,
			     size_t bytes, enum MHD_ResponseMemoryMode mode)
{
	struct MHD_Response *response = MHD_create_response_from_buffer(bytes, text, mode);
	if (!response) {
		if (mode == MHD_RESPMEM_MUST_FREE)
			free(text);
		return MHD_NO;
	}
	const char *type = status == 200 && mode == MHD_RESPMEM_MUST_FREE
				   ? "text/plain; version=0.0.4; charset=utf-8"
				   : "text/plain; charset=utf-8";
	enum MHD_Result result = MHD_add_response_header(response, "Content-Type", type);
	if (result == MHD_YES && status == 405)
		result = MHD_add_response_header(response, "Allow", "GET, HEAD");
	if (result == MHD_YES)
		result = MHD_queue_response(connection, status, response);
	MHD_destroy_response(response);
	return result;
}

static enum MHD_Result reply_words(struct MHD_Connection *connection, unsigned status,
				   const char *words)
{
	return reply(connection, status, (char *)(uintptr_t)words, strlen(words),
		     MHD_RESPMEM_PERSISTENT);
}

static enum MHD_Result reply_page(struct metrics_server *server, struct MHD_Connection *connection)
{
	char *text = NULL;
	size_t bytes = 0;
	FILE *out = open_memstream(&text, &bytes);
	if (!out)
		return reply_words(connection, 503, "out of memory\n");
	metrics_print(server->options.metrics, out);
	bool good = !ferror(out);
	if (fclose(out) != 0 || !good) {
		free(text);
		return reply_words(connection, 503, "out of memory\n");
	}
	return reply(connection, 200, text, bytes, MHD_RESPMEM_MUST_FREE);
}

static enum MHD_Result on_request(void *ctx, struct MHD_Connection *connection, const char *url,
				  const char *method, const char *version, const char *upload,
				  size_t *upload_bytes, void **state)
{
	struct metrics_server *server = ctx;
	const struct metrics_server_options *options = &server->options;
	(void)version;
	(void)upload;
	(void)upload_bytes;
	(void)state;
	if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0)
		return reply_words(connection, 405, "only GET and HEAD\n");
	if (strcmp(url, "/metrics") == 0)
		return reply_page(server, connection);
	if (strcmp(url, "/healthz") != 0)
		return reply_words(connection, 404, "there are /metrics and /healthz\n");
	if (options->is_healthy && !options->is_healthy(options->ctx))
		return reply_words(connection, 503, "not healthy\n");
	return reply_words(connection, 200, "ok\n");
}

/* The library's own complaints are about what peers send: not events of ours. */
static void on_complaint(void *ctx, const char *format, va_list args)
{
	(void)ctx;
	(void)format;
	(void)args;
}

/* ---- life ---- */

static bool address_is_local(const struct net_address *address)
{
	struct sockaddr_in in4;
	struct sockaddr_in6 in6;
	if (address->is_unix)
		return true;
	if (address->storage.ss_family == AF_INET) {
		memcpy(&in4, &address->storage, sizeof(in4));
		return ntohl(in4.sin_addr.s_addr) >> 24 == 127;
	}
	memcpy(&in6, &address->storage, sizeof(in6));
	return IN6_IS_ADDR_LOOPBACK(&in6.sin6_addr);
}

int metrics_server_start(const struct metrics_server_options *options, struct metrics_server **ret,
			 struct err *err)
{
	struct net_address address;
	int rc = net_address_parse(options->address, &address, err);
	if (rc < 0)
		return err_wrap(err, rc, "metrics");
	if (!address_is_local(&address))
		return err_set(
			err, -EINVAL,
			"metrics address '%s' is neither a unix socket nor a loopback address",
			options->address);
	int fd = net_listen_socket(&address);
	if (fd < 0)
		return err_set(err, fd, "metrics: listen on '%s': %s", options->address,
			       strerror(-fd));
	struct metrics_server *server = calloc(1, sizeof(*server));
	if (!server) {
		close(fd);
		return err_set(err, -ENOMEM, "metrics: out of memory");
	}
	server->options = *options;
	net_listen_name(fd, &address, options->address, server->address);
	listen_path_note(&server->path, &address);
	server->daemon = MHD_start_daemon(
		MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL | MHD_USE_ERROR_LOG, 0, NULL, NULL,
		on_request, server, MHD_OPTION_EXTERNAL_LOGGER, on_complaint, NULL,
		MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT, CONNECTIONS_MAX,
		MHD_OPTION_CONNECTION_TIMEOUT, SILENCE_MAX_S, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
		CONNECTION_MEMORY_BYTES, MHD_OPTION_END);
	if (!server->daemon) {
		listen_path_unlink(&server->path, server->address);
		close(fd);
		free(server);
		return err_set(err, -EIO, "metrics: the server for '%s' does not start",
			       options->address);
	}
	server->options.address = server->address;
	*ret = server;
	return 0;
}

const char *metrics_server_address(const struct metrics_server *server)
{
	return server->address;
}

void metrics_server_stop(struct metrics_server *server)
{
	if (!server)
		return;
	listen_path_unlink(&server->path, server->address);
	MHD_stop_daemon(server->daemon); /* closes the listening socket */
	free(server);
}
