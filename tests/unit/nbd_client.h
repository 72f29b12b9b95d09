/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For tests of the NBD server: a server over devices in memory on a unix socket, and a client that
 * speaks the protocol byte by byte, both on one loop.
 */
#ifndef HF_TESTS_UNIT_NBD_CLIENT_H
#define HF_TESTS_UNIT_NBD_CLIENT_H

#include "base/log.h"
#include "tests/unit/base_loop.h"
#include "volmgr/blockdev_align.h"
#include "volmgr/blockdev_mem.h"
#include "volmgr/nbd.h"
#include "volmgr/nbd_wire.h"

#define VOL_BYTES       (64ull << 20)
#define FIXED_NO_ZEROES 3u

struct fixture {
	struct world w;
	struct blockdev_mem *mem;    /* "vol" */
	struct blockdev_mem *mem_ro; /* "ro" */
	struct blockdev_align *align;
	struct blockdev_align *align_ro;
	struct nbd_server *server;
	struct nbd_listener *listener;
	struct nbd_config config;
	char address[100];
	uint32_t opened;
	uint32_t names; /* what LIST shows */
	struct nbd_stop stop;
	bool stopped;
	int (*fail)(const struct blockdev_req *req);
};

struct client {
	struct fixture *f;
	struct env_conn *conn;
	bool done;
	int status;
	ssize_t received;
	struct env_connect connect;
	struct env_send send;
	struct env_recv recv;
	struct iovec iov;
};

/* ---- server ---- */

static inline int fixture_open_export(void *ctx, const char *name, struct blockdev **ret)
{
	struct fixture *f = ctx;
	if (strcmp(name, "secret") == 0)
		return -EACCES;
	if (strcmp(name, "vol") != 0 && strcmp(name, "ro") != 0 && name[0] != 0)
		return -ENOENT;
	f->opened++;
	*ret = blockdev_align_dev(strcmp(name, "ro") == 0 ? f->align_ro : f->align);
	return 0;
}
static inline void fixture_close_export(void *ctx, struct blockdev *dev)
{
	struct fixture *f = ctx;
	CHECK(dev && f->opened > 0);
	f->opened--;
}
static inline bool fixture_name(void *ctx, uint32_t index, char name[BLOCKDEV_NAME_MAX + 1])
{
	struct fixture *f = ctx;
	snprintf(name, BLOCKDEV_NAME_MAX + 1, "%0200u", index);
	if (index < 2)
		strcpy(name, index == 0 ? "vol" : "ro");
	return index < f->names;
}
static inline int fixture_fail(void *ctx, const struct blockdev_req *req)
{
	struct fixture *f = ctx;
	return f->fail ? f->fail(req) : 0;
}
static inline void fixture_stopped(struct nbd_stop *stop)
{
	CONTAINER_OF(stop, struct fixture, stop)->stopped = true;
}
static inline void fixture_no_log(void *ctx, enum log_level level, const char *line)
{
	(void)ctx;
	(void)level;
	(void)line;
}

static inline void fixture_device(struct fixture *f, bool read_only, struct blockdev_mem **mem,
				  struct blockdev_align **align)
{
	struct blockdev_mem_config config = {
		.name = read_only ? "ro" : "vol",
		.description = "a test",
		.size_bytes = VOL_BYTES,
		.block_min_bytes = BLOCK_BYTES,
		.payload_max_bytes = 1u << 20,
		.read_only = read_only,
		.fail = fixture_fail,
		.fail_ctx = f,
	};
	CHECK_EQ(blockdev_mem_create(f->w.env, &config, mem, NULL), 0);
	CHECK_EQ(blockdev_align_create(f->w.env, blockdev_mem_dev(*mem), NULL, align, NULL), 0);
}
static inline void fixture_start(struct fixture *f, const struct nbd_config *config)
{
	struct err err = {0};
	memset(f, 0, sizeof(*f));
	log_sink_set(fixture_no_log, NULL);
	world_open(&f->w, LOOP_ENGINE_AUTO);
	f->names = 2;
	fixture_device(f, false, &f->mem, &f->align);
	fixture_device(f, true, &f->mem_ro, &f->align_ro);
	snprintf(f->address, sizeof(f->address), "unix:%s/nbd", f->w.dir);
	struct nbd_exports exports = {fixture_open_export, fixture_close_export, fixture_name, f};
	CHECK(nbd_server_create(f->w.env, config, &f->server, &err) == 0, "%s", err_text(&err));
	CHECK(nbd_server_listen(f->server, f->address, &exports, &f->listener, &err) == 0, "%s",
	      err_text(&err));
}
/* Clients may still be there. Nothing may leak: exports, payload memory. */
static inline void fixture_stop(struct fixture *f)
{
	struct nbd_stats stats;
	f->stop.done = fixture_stopped;
	nbd_server_stop(f->server, &f->stop);
	world_wait(&f->w, &f->stopped);
	nbd_server_stats(f->server, &stats);
	CHECK_EQ(stats.connections, 0);
	CHECK_EQ(stats.payload_used_bytes, 0);
	CHECK_EQ(f->opened, 0);
}
static inline void fixture_end(struct fixture *f)
{
	if (!f->stopped)
		fixture_stop(f);
	nbd_server_destroy(f->server);
	blockdev_align_destroy(f->align);
	blockdev_align_destroy(f->align_ro);
	blockdev_mem_destroy(f->mem);
	blockdev_mem_destroy(f->mem_ro);
	world_close(&f->w);
}

#define NBD_TEST(subject, behaviour)                                 \
	static void body_##subject##_##behaviour(struct fixture *f); \
	TEST(subject, behaviour)                                     \
	{                                                            \
		struct fixture f;                                    \
		fixture_start(&f, NULL);                             \
		body_##subject##_##behaviour(&f);                    \
		fixture_end(&f);                                     \
	}                                                            \
	static void body_##subject##_##behaviour(struct fixture *f)

/* Runs the loop until the value is what is wanted. */
#define WAIT_FOR(f, condition)                                                         \
	do {                                                                           \
		uint64_t wait_end_ns_ = env_now_ns((f)->w.env) + 20 * SECOND_NS;       \
		while (!(condition)) {                                                 \
			bool never_ = false;                                           \
			uint64_t now_ns_ = env_now_ns((f)->w.env);                     \
			CHECK(now_ns_ < wait_end_ns_, "waited for " #condition);       \
			(void)loop_run_until((f)->w.loop, &never_, now_ns_ + 1000000); \
		}                                                                      \
	} while (0)

/* ---- client: bytes ---- */

static inline void client_connected(struct env_connect *connect, int status, struct env_conn *conn)
{
	struct client *c = CONTAINER_OF(connect, struct client, connect);
	c->status = status;
	c->conn = conn;
	c->done = true;
}
static inline void client_sent(struct env_send *send, int status)
{
	struct client *c = CONTAINER_OF(send, struct client, send);
	c->status = status;
	c->done = true;
}
static inline void client_received(struct env_recv *recv, ssize_t n)
{
	struct client *c = CONTAINER_OF(recv, struct client, recv);
	c->received = n;
	c->done = true;
}
static inline void client_open(struct client *c, struct fixture *f)
{
	memset(c, 0, sizeof(*c));
	c->f = f;
	c->connect.done = client_connected;
	env_connect(f->w.env, f->address, &c->connect);
	world_wait(&f->w, &c->done);
	CHECK_EQ(c->status, 0);
}
static inline void client_close(struct client *c)
{
	world_close_conn(&c->f->w, take(c->conn));
}
/* Starts sending; the bytes stay until the next client_send_wait. */
static inline void client_send_start(struct client *c, const void *data, size_t bytes)
{
	c->done = false;
	c->iov = (struct iovec){(void *)(uintptr_t)data, bytes};
	c->send.iov = &c->iov;
	c->send.iov_count = 1;
	c->send.done = client_sent;
	env_conn_send(c->f->w.env, c->conn, &c->send);
}
/* A peer that closed early is not an error here; the test finds out by what it receives. */
static inline void client_send(struct client *c, const void *data, size_t bytes)
{
	if (bytes == 0)
		return;
	client_send_start(c, data, bytes);
	world_wait(&c->f->w, &c->done);
}
/* False when the server closed before `bytes` came. */
static inline bool client_recv(struct client *c, void *buf, size_t bytes)
{
	for (size_t at = 0; at < bytes; at += (size_t)c->received) {
		c->done = false;
		c->recv.buf = (uint8_t *)buf + at;
		c->recv.buf_bytes = bytes - at;
		c->recv.done = client_received;
		env_conn_recv(c->f->w.env, c->conn, &c->recv);
		world_wait(&c->f->w, &c->done);
		if (c->received <= 0)
			return false;
	}
	return true;
}
static inline void client_expect_close(struct client *c)
{
	uint8_t byte;
	CHECK(!client_recv(c, &byte, 1), "the server sent a byte instead of closing");
}

/* ---- client: handshake ---- */

static inline void client_hello(struct client *c, struct fixture *f, uint32_t flags)
{
	uint8_t greeting[NBD_GREETING_BYTES], wire[4];
	client_open(c, f);
	CHECK(client_recv(c, greeting, sizeof(greeting)));
	CHECK(be64_at(greeting) == NBD_MAGIC_GREETING && be64_at(greeting + 8) == NBD_MAGIC_OPTION);
	CHECK_EQ(be16_at(greeting + 16), NBD_HANDSHAKE_FIXED | NBD_HANDSHAKE_NO_ZEROES);
	be32_put(wire, flags);
	client_send(c, wire, sizeof(wire));
}
static inline void client_option(struct client *c, uint32_t option, const void *data,
				 uint32_t bytes)
{
	uint8_t head[NBD_OPTION_BYTES];
	be64_put(head, NBD_MAGIC_OPTION);
	be32_put(head + 8, option);
	be32_put(head + 12, bytes);
	client_send(c, head, sizeof(head));
	client_send(c, data, bytes);
}
/* Type of the next reply, which must be to `option`; its data (at most 4 KiB) and length. */
static inline uint32_t client_reply(struct client *c, uint32_t option, uint8_t *data,
				    uint32_t *bytes)
{
	uint8_t head[NBD_OPTION_REPLY_BYTES], sink[4096];
	CHECK(client_recv(c, head, sizeof(head)));
	CHECK(be64_at(head) == NBD_MAGIC_OPTION_REPLY);
	CHECK_EQ(be32_at(head + 8), option);
	uint32_t length = be32_at(head + 16);
	CHECK(length <= sizeof(sink));
	CHECK(client_recv(c, data ? data : sink, length));
	if (bytes)
		*bytes = length;
	return be32_at(head + 12);
}
/* Name and information requests of INFO and GO; returns the length. */
static inline uint32_t info_data(uint8_t *p, const char *name, int infos)
{
	uint32_t bytes = (uint32_t)strlen(name);
	be32_put(p, bytes);
	memcpy(p + 4, name, bytes);
	be16_put(p + 4 + bytes, (uint16_t)infos);
	for (int i = 0; i < infos; i++)
		be16_put(p + 6 + bytes + 2 * i, (uint16_t)(i + 1));
	return 6 + bytes + 2 * (uint32_t)infos;
}
static inline uint32_t meta_data(uint8_t *p, const char *name, const char *query)
{
	uint32_t bytes = (uint32_t)strlen(name), query_bytes = query ? (uint32_t)strlen(query) : 0;
	be32_put(p, bytes);
	memcpy(p + 4, name, bytes);
	be32_put(p + 4 + bytes, query != NULL);
	if (!query)
		return 8 + bytes;
	be32_put(p + 8 + bytes, query_bytes);
	memcpy(p + 12 + bytes, query, query_bytes);
	return 12 + bytes + query_bytes;
}
static inline void client_structured(struct client *c)
{
	client_option(c, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	CHECK_EQ(client_reply(c, NBD_OPT_STRUCTURED_REPLY, NULL, NULL), NBD_REP_ACK);
}
/* GO; returns the transmission flags, and the size unless NULL. */
static inline uint16_t client_go(struct client *c, const char *name, uint64_t *size_bytes)
{
	uint8_t data[4096];
	uint32_t bytes;
	client_option(c, NBD_OPT_GO, data, info_data(data, name, 0));
	CHECK_EQ(client_reply(c, NBD_OPT_GO, data, &bytes), NBD_REP_INFO);
	CHECK_EQ(bytes, 12);
	CHECK_EQ(be16_at(data), NBD_INFO_EXPORT);
	if (size_bytes)
		*size_bytes = be64_at(data + 2);
	uint16_t flags = be16_at(data + 10);
	CHECK_EQ(client_reply(c, NBD_OPT_GO, NULL, NULL), NBD_REP_ACK);
	return flags;
}
/* Into transmission; structured also chooses base:allocation. */
static inline void client_begin(struct client *c, struct fixture *f, const char *name,
				bool structured)
{
	uint8_t data[256];
	client_hello(c, f, FIXED_NO_ZEROES);
	if (structured) {
		client_structured(c);
		client_option(c, NBD_OPT_SET_META_CONTEXT, data,
			      meta_data(data, name, NBD_CONTEXT_ALLOCATION));
		CHECK_EQ(client_reply(c, NBD_OPT_SET_META_CONTEXT, NULL, NULL),
			 NBD_REP_META_CONTEXT);
		CHECK_EQ(client_reply(c, NBD_OPT_SET_META_CONTEXT, NULL, NULL), NBD_REP_ACK);
	}
	client_go(c, name, NULL);
}

/* ---- client: transmission ---- */

struct cmd {
	uint16_t command;
	uint16_t flags;
	uint64_t offset;
	uint32_t length;
	const void *payload; /* of WRITE */
};
#define COOKIE(n) (0x1122334400000000ull + (n))

static inline size_t cmd_put(uint8_t *p, const struct cmd *cmd, uint64_t cookie)
{
	be32_put(p, NBD_MAGIC_REQUEST);
	be16_put(p + 4, cmd->flags);
	be16_put(p + 6, cmd->command);
	be64_put(p + 8, cookie);
	be64_put(p + 16, cmd->offset);
	be32_put(p + 24, cmd->length);
	return NBD_REQUEST_BYTES;
}
static inline void client_cmd(struct client *c, const struct cmd *cmd, uint64_t cookie)
{
	uint8_t head[NBD_REQUEST_BYTES];
	client_send(c, head, cmd_put(head, cmd, cookie));
	if (cmd->command == NBD_CMD_WRITE)
		client_send(c, cmd->payload, cmd->length);
}
/* The error of the next reply, a simple one; its cookie unless NULL. */
static inline uint32_t client_simple(struct client *c, uint64_t *cookie)
{
	uint8_t head[NBD_SIMPLE_REPLY_BYTES];
	CHECK(client_recv(c, head, sizeof(head)));
	CHECK_EQ(be32_at(head), NBD_MAGIC_SIMPLE_REPLY);
	if (cookie)
		*cookie = be64_at(head + 8);
	return be32_at(head + 4);
}
struct chunk {
	uint16_t flags;
	uint16_t type;
	uint64_t cookie;
	uint32_t length;
	uint8_t *data;
};
/* The next chunk; free(data). */
static inline struct chunk client_chunk(struct client *c)
{
	uint8_t head[NBD_CHUNK_BYTES];
	CHECK(client_recv(c, head, sizeof(head)));
	CHECK_EQ(be32_at(head), NBD_MAGIC_CHUNK);
	struct chunk chunk = {be16_at(head + 4), be16_at(head + 6), be64_at(head + 8),
			      be32_at(head + 16), NULL};
	chunk.data = malloc(chunk.length + 1);
	CHECK(client_recv(c, chunk.data, chunk.length));
	return chunk;
}
/* A command on a simple connection, its error; data of READ goes to buf. */
static inline uint32_t client_run(struct client *c, struct cmd cmd, void *buf)
{
	uint64_t cookie;
	client_cmd(c, &cmd, COOKIE(cmd.command));
	uint32_t error = client_simple(c, &cookie);
	CHECK(cookie == COOKIE(cmd.command));
	if (cmd.command == NBD_CMD_READ && error == 0)
		CHECK(client_recv(c, buf, cmd.length));
	return error;
}
/* A command on a structured connection that must fail: the error of its one chunk, with a text. */
static inline uint32_t client_run_error(struct client *c, struct cmd cmd)
{
	client_cmd(c, &cmd, COOKIE(9));
	struct chunk chunk = client_chunk(c);
	CHECK_EQ(chunk.type, NBD_CHUNK_ERROR);
	CHECK_EQ(chunk.flags, NBD_CHUNK_FLAG_DONE);
	CHECK(chunk.cookie == COOKIE(9));
	uint32_t error = be32_at(chunk.data);
	CHECK(be16_at(chunk.data + 4) > 0);
	CHECK_EQ(chunk.length, 6u + be16_at(chunk.data + 4));
	free(chunk.data);
	return error;
}

#endif
