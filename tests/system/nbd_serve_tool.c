/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Serves a sparse device in memory over NBD until SIGTERM or SIGINT. Prints "READY <address>".
 *
 *     nbd_serve_tool ADDRESS SIZE_BYTES [name=mem] [read_only=1] [lower_max=BYTES] [engine=auto]
 *
 * The device below takes whole blocks and at most lower_max bytes at a time, as a volume does.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/loop.h"
#include "volmgr/blockdev_align.h"
#include "volmgr/blockdev_mem.h"
#include "volmgr/nbd.h"

struct serve {
	struct loop *loop;
	struct blockdev_mem *mem;
	struct blockdev_align *align;
	struct nbd_server *server;
	struct nbd_stop stop;
	const char *name;
	bool stopping;
};

static int export_open(void *ctx, const char *name, struct blockdev **ret)
{
	struct serve *serve = ctx;
	if (name[0] && strcmp(name, serve->name) != 0)
		return -ENOENT;
	*ret = blockdev_align_dev(serve->align);
	return 0;
}

static void export_close(void *ctx, struct blockdev *dev)
{
	(void)ctx;
	(void)dev;
}

static bool export_name(void *ctx, uint32_t index, char name[BLOCKDEV_NAME_MAX + 1])
{
	struct serve *serve = ctx;
	(void)snprintf(name, BLOCKDEV_NAME_MAX + 1, "%s", serve->name);
	return index == 0;
}

static void stopped(struct nbd_stop *stop)
{
	loop_stop(CONTAINER_OF(stop, struct serve, stop)->loop);
}

static void on_signal(void *ctx, int signo)
{
	struct serve *serve = ctx;
	(void)signo;
	if (serve->stopping)
		return;
	serve->stopping = true;
	serve->stop.done = stopped;
	nbd_server_stop(serve->server, &serve->stop);
}

static const char *option(int argc, char **argv, const char *key, const char *fallback)
{
	size_t bytes = strlen(key);
	for (int i = 3; i < argc; i++)
		if (strncmp(argv[i], key, bytes) == 0 && argv[i][bytes] == '=')
			return argv[i] + bytes + 1;
	return fallback;
}

static int serve_start(struct serve *serve, int argc, char **argv, struct err *err)
{
	struct blockdev_mem_config config = {
		.name = serve->name,
		.description = "memory",
		.size_bytes = strtoull(argv[2], NULL, 0),
		.block_min_bytes = BLOCK_BYTES,
		.payload_max_bytes = (uint32_t)atol(option(argc, argv, "lower_max", "1048576")),
		.read_only = atoi(option(argc, argv, "read_only", "0")) != 0,
	};
	struct nbd_exports exports = {export_open, export_close, export_name, serve};
	struct nbd_listener *listener;
	enum loop_engine engine;
	int rc = loop_engine_parse(option(argc, argv, "engine", "auto"), &engine, err);
	rc = rc < 0 ? rc : loop_create(engine, &serve->loop, err);
	if (rc < 0)
		return rc;
	struct env *env = loop_env(serve->loop);
	rc = loop_signals(serve->loop, on_signal, serve, err);
	rc = rc < 0 ? rc : blockdev_mem_create(env, &config, &serve->mem, err);
	rc = rc < 0 ? rc
		    : blockdev_align_create(env, blockdev_mem_dev(serve->mem), NULL, &serve->align,
					    err);
	rc = rc < 0 ? rc : nbd_server_create(env, NULL, &serve->server, err);
	rc = rc < 0 ? rc : nbd_server_listen(serve->server, argv[1], &exports, &listener, err);
	if (rc < 0)
		return rc;
	printf("READY %s\n", loop_listener_address(nbd_listener_env(listener)));
	fflush(stdout);
	return 0;
}

int main(int argc, char **argv)
{
	struct serve serve = {0};
	struct err err = {0};
	if (argc < 3) {
		fprintf(stderr, "usage: nbd_serve_tool ADDRESS SIZE_BYTES [key=value]...\n");
		return 2;
	}
	serve.name = option(argc, argv, "name", "mem");
	int rc = serve_start(&serve, argc, argv, &err);
	if (rc < 0)
		fprintf(stderr, "nbd_serve_tool: %s\n", err_text(&err));
	else
		loop_run(serve.loop);
	nbd_server_destroy(serve.server);
	blockdev_align_destroy(serve.align);
	blockdev_mem_destroy(serve.mem);
	loop_destroy(serve.loop);
	return rc < 0 ? 1 : 0;
}
