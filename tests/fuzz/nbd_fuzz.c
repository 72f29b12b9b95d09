/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libFuzzer target: a client of the NBD server.
 *
 * Byte 0 chooses the mode, byte 1 how the bytes are cut into receives; the rest is what the
 * client sends: as it is; or after a good handshake; or, as eight bytes per request, turned into
 * well-formed requests, so that depth needs no luck with magic numbers. The claim: no crash, no
 * leak, and the server always stops.
 */
#include "base/log.h"
#include "tests/fuzz/fuzz_env.h"
#include "volmgr/blockdev_align.h"
#include "volmgr/blockdev_mem.h"
#include "volmgr/nbd.h"
#include "volmgr/nbd_wire.h"

#define SIZE_BYTES       (1u << 20)
#define CLIENT_BYTES_MAX (256u << 10)
#define SECOND_NS        1000000000ull

#define MODE_HANDSHAKE 1u /* the bytes follow a good handshake */
#define MODE_REQUESTS  2u /* the bytes are compact requests */
#define MODE_SHUFFLE   4u
#define MODE_READ_ONLY 8u
#define MODE_EOF       16u
#define MODE_ERRORS    32u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct target {
	struct fuzz_env fuzz;
	struct blockdev_mem *mem;
	struct blockdev_align *align;
	struct nbd_server *server;
	struct nbd_stop stop;
	bool stopped;
	uint32_t opened;
	uint8_t client[CLIENT_BYTES_MAX];
	size_t client_bytes;
};

static int export_open(void *ctx, const char *name, struct blockdev **ret)
{
	struct target *target = ctx;
	if (name[0] == 'x')
		return -ENOENT;
	target->opened++;
	*ret = blockdev_align_dev(target->align);
	return 0;
}
static void export_close(void *ctx, struct blockdev *dev)
{
	struct target *target = ctx;
	assert(dev == blockdev_align_dev(target->align) && target->opened > 0);
	target->opened--;
}
static bool export_name(void *ctx, uint32_t index, char name[BLOCKDEV_NAME_MAX + 1])
{
	(void)ctx;
	memset(name, 'a', BLOCKDEV_NAME_MAX);
	name[BLOCKDEV_NAME_MAX] = 0;
	return index < 100;
}
static void stopped(struct nbd_stop *stop)
{
	CONTAINER_OF(stop, struct target, stop)->stopped = true;
}
static int fail_some(void *ctx, const struct blockdev_req *req)
{
	(void)ctx;
	return (req->offset_bytes >> 12) % 7 == 3 ? -EIO : 0;
}
static void no_log(void *ctx, enum log_level level, const char *line)
{
	(void)ctx;
	(void)level;
	(void)line;
}

static void put(struct target *target, const void *data, size_t bytes)
{
	bytes = MIN(bytes, CLIENT_BYTES_MAX - target->client_bytes);
	if (data)
		memcpy(target->client + target->client_bytes, data, bytes);
	else
		memset(target->client + target->client_bytes, 0x5a, bytes);
	target->client_bytes += bytes;
}
static void put_option(struct target *target, uint32_t option, const void *data, uint32_t bytes)
{
	uint8_t head[NBD_OPTION_BYTES];
	be64_put(head, NBD_MAGIC_OPTION);
	be32_put(head + 8, option);
	be32_put(head + 12, bytes);
	put(target, head, sizeof(head));
	put(target, data, bytes);
}
static void put_handshake(struct target *target)
{
	static const uint8_t flags[4] = {0, 0, 0, 3};
	static const uint8_t go[6];
	static const uint8_t meta[] = "\0\0\0\0\0\0\0\1\0\0\0\x0f" NBD_CONTEXT_ALLOCATION;
	put(target, flags, sizeof(flags));
	put_option(target, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	put_option(target, NBD_OPT_SET_META_CONTEXT, meta, sizeof(meta) - 1);
	put_option(target, NBD_OPT_GO, go, sizeof(go));
}
/* command, flags, offset in 16 bytes (3), length (3) */
static void put_request(struct target *target, const uint8_t *in)
{
	uint8_t head[NBD_REQUEST_BYTES];
	uint32_t length = (uint32_t)(in[5] & 1) << 16 | (uint32_t)in[6] << 8 | in[7];
	be32_put(head, NBD_MAGIC_REQUEST);
	be16_put(head + 4, in[1]);
	be16_put(head + 6, in[0] % 12);
	be64_put(head + 8, target->client_bytes);
	be64_put(head + 16,
		 ((uint64_t)in[2] << 16 | (uint64_t)in[3] << 8 | in[4]) << 4 | in[5] >> 5);
	be32_put(head + 24, length);
	put(target, head, sizeof(head));
	if (in[0] % 12 == NBD_CMD_WRITE)
		put(target, NULL, length);
}

static void target_open(struct target *target, uint8_t mode)
{
	struct env *env = fuzz_env_init(&target->fuzz, mode);
	struct blockdev_mem_config mem = {
		.name = "fuzz",
		.size_bytes = SIZE_BYTES,
		.block_min_bytes = BLOCK_BYTES,
		.payload_max_bytes = 4 * BLOCK_BYTES,
		.read_only = mode & MODE_READ_ONLY,
		.shuffle = mode & MODE_SHUFFLE,
		.fail = mode & MODE_ERRORS ? fail_some : NULL,
	};
	struct blockdev_align_config align = {
		.ops_max = 8, .edges_max = 2, .payload_max_bytes = 65536};
	struct nbd_exports exports = {export_open, export_close, export_name, target};
	struct nbd_config config;
	struct nbd_listener *listener;
	nbd_config_default(&config);
	config.requests_max = 16;
	config.request_max_bytes = 65536;
	config.payload_bytes = 2 * 65536 + 262144;
	int rc = blockdev_mem_create(env, &mem, &target->mem, NULL);
	rc = rc < 0 ? rc
		    : blockdev_align_create(env, blockdev_mem_dev(target->mem), &align,
					    &target->align, NULL);
	rc = rc < 0 ? rc : nbd_server_create(env, &config, &target->server, NULL);
	rc = rc < 0 ? rc : nbd_server_listen(target->server, "memory", &exports, &listener, NULL);
	if (rc < 0)
		abort();
}

static void target_close(struct target *target)
{
	target->stop.done = stopped;
	nbd_server_stop(target->server, &target->stop);
	fuzz_env_run(&target->fuzz, 60 * SECOND_NS);
	assert(target->stopped && target->opened == 0);
	nbd_server_destroy(target->server);
	blockdev_align_destroy(target->align);
	blockdev_mem_destroy(target->mem);
	fuzz_env_free(&target->fuzz);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct target memory;
	struct target *target = &memory;
	if (size < 2)
		return 0;
	uint8_t mode = data[0], cut = data[1];
	memset(target, 0, offsetof(struct target, client));
	target->client_bytes = 0;
	log_sink_set(no_log, NULL);
	target_open(target, mode);
	if (mode & (MODE_HANDSHAKE | MODE_REQUESTS))
		put_handshake(target);
	if (mode & MODE_REQUESTS)
		for (size_t at = 2; at + 8 <= size; at += 8)
			put_request(target, data + at);
	else
		put(target, data + 2, size - 2);
	target->fuzz.input = target->client;
	target->fuzz.input_bytes = target->client_bytes;
	target->fuzz.piece_bytes_max = cut < 128 ? 1u + cut : 1u << 17;
	target->fuzz.eof = mode & MODE_EOF;
	fuzz_env_connect(&target->fuzz);
	fuzz_env_run(&target->fuzz, cut % 3 == 0 ? 0 : 20 * SECOND_NS);
	target_close(target);
	return 0;
}
