/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A store whose device was changed by somebody: opened through recovery, read, checked, closed.
 *
 * Once, a small store is made in memory and stopped as by a crash, so that tables, pages and log
 * are all there. The input is a list of edits; an edit changes four bytes of one of the blocks that
 * hold something, and unless it says otherwise the block's crc is made right again, so that what
 * the checksums cannot see is tested. The store may refuse, by -errno; nothing else may happen.
 */
#include <errno.h>
#include <string.h>

#include "base/co.h"
#include "base/crc32c.h"
#include "base/log.h"
#include "store/desc.h"
#include "store/store.h"
#include "tests/fuzz/fake_env.h"
#include "tests/fuzz/fuzz.h"

#define DEVICE_BYTES  STORE_SIZE_MIN_BYTES
#define DEVICE_BLOCKS (DEVICE_BYTES / BLOCK_BYTES)
#define HELD_MAX      4096u
#define EDITS_MAX     16u
#define TURNS_MAX     100000
#define VOLUME_BLOCKS 2048u
#define ENTRY_BLOCKS  3u

struct edit {
	le16 block; /* of those that hold something, modulo */
	le16 offset_bytes;
	le32 value;
};
#define EDIT_KEEP_CRC 0x8000u /* in offset_bytes */

struct world {
	struct fake_env fake;
	struct env_ops ops;
	struct list ios;
	struct list closes;
	uint8_t *device;
	uint8_t *original;
	uint8_t dirty[DEVICE_BLOCKS];
	uint32_t held[HELD_MAX];
	uint32_t held_count;
	struct co *co;
};

static struct world *world_of(struct env *env)
{
	return CONTAINER_OF(CONTAINER_OF(env, struct fake_env, env), struct world, fake);
}

/* ---- the device ---- */

static int disk_open(struct env *env, const char *path, uint32_t flags, uint64_t create_bytes,
		     struct env_disk **ret, struct err *err)
{
	(void)path;
	(void)flags;
	(void)create_bytes;
	(void)err;
	*ret = (struct env_disk *)(void *)world_of(env);
	return 0;
}

static void disk_info(struct env_disk *disk, struct env_disk_info *ret)
{
	(void)disk;
	*ret = (struct env_disk_info){.size_bytes = DEVICE_BYTES, .is_block_device = true};
}

static void disk_submit(struct env_disk *disk, struct env_io *io)
{
	list_push_back(&((struct world *)(void *)disk)->ios, &io->link);
}

static void disk_close(struct env_disk *disk, struct env_close *close)
{
	list_push_back(&((struct world *)(void *)disk)->closes, &close->link);
}

static void *buf_alloc(struct env *env, size_t bytes)
{
	(void)env;
	void *buf = aligned_alloc(BLOCK_BYTES, ALIGN_UP(bytes, BLOCK_BYTES));
	return buf != NULL ? memset(buf, 0, bytes) : NULL;
}

static void buf_free(struct env *env, void *buf, size_t bytes)
{
	(void)env;
	(void)bytes;
	free(buf);
}

static int io_do(struct world *world, struct env_io *io)
{
	uint64_t at = io->offset_bytes;
	for (uint32_t i = 0; i < io->iov_count; i++) {
		size_t bytes = io->iov[i].iov_len;
		if (at > DEVICE_BYTES || bytes > DEVICE_BYTES - at)
			return -EIO;
		if (io->op == ENV_IO_READ) {
			memcpy(io->iov[i].iov_base, world->device + at, bytes);
		} else {
			memcpy(world->device + at, io->iov[i].iov_base, bytes);
			memset(world->dirty + at / BLOCK_BYTES, 1, bytes / BLOCK_BYTES);
		}
		at += bytes;
	}
	return 0;
}

static bool disk_turn(struct world *world)
{
	struct list now, *n;
	bool any = !list_empty(&world->ios) || !list_empty(&world->closes);
	list_init(&now);
	list_splice_back(&now, &world->ios);
	while ((n = list_pop_front(&now)) != NULL) {
		struct env_io *io = CONTAINER_OF(n, struct env_io, link);
		io->done(io, io_do(world, io));
	}
	while (list_empty(&world->ios) && (n = list_pop_front(&world->closes)) != NULL) {
		struct env_close *close = CONTAINER_OF(n, struct env_close, link);
		close->done(close);
	}
	return any;
}

/* Runs fn as a coroutine to its end; time jumps to the next timer when nothing else goes on. */
static void job_run(struct world *world, void (*fn)(struct co *co, void *arg))
{
	co_start(world->co, fn, world);
	for (int i = 0; co_running(world->co); i++) {
		FUZZ_CHECK(i < TURNS_MAX);
		bool any = disk_turn(world);
		if (fake_env_turn(&world->fake) || any)
			continue;
		struct env_timer *first = timer_heap_first(&world->fake.heap);
		FUZZ_CHECK(first != NULL); /* it waits for nothing */
		world->fake.now_ns = MAX(world->fake.now_ns, first->deadline_ns);
	}
}

/* ---- operations from a coroutine ---- */

struct wait {
	struct co *co;
	struct store_op *op;
	int status;
	bool done, suspended;
};
static struct wait the_wait; /* the one operation that a job waits for */

static void op_done(struct store_op *op, int status)
{
	FUZZ_CHECK(op == the_wait.op && !the_wait.done);
	the_wait.status = status;
	the_wait.done = true;
	if (the_wait.suspended)
		co_resume(the_wait.co);
}

static void op_begin(struct co *co, struct store_op *op)
{
	the_wait = (struct wait){.co = co, .op = op};
	op->done = op_done;
}

static int op_wait(void)
{
	if (!the_wait.done) {
		the_wait.suspended = true;
		co_suspend(the_wait.co);
	}
	return the_wait.status;
}

static void config_fill(struct store_config *config)
{
	store_config_default(config);
	config->cache_bytes = 1 << 20;
	config->delta_bytes = 1 << 20;
	config->log_records_max = 1024;
	config->fold_entries =
		3 * ENTRY_BLOCKS; /* of four chunks one is folded, three are in the run table */
}

/* ---- making it ---- */

static void append_one(struct co *co, struct store_replica *replica, uint64_t seq, uint64_t *hash)
{
	static uint8_t payload[ENTRY_BLOCKS * BLOCK_BYTES] __attribute__((aligned(4096)));
	static uint32_t crcs[ENTRY_BLOCKS];
	static struct store_append append;
	static struct iovec iov;
	memset(payload, (int)seq, sizeof(payload));
	for (uint32_t i = 0; i < ENTRY_BLOCKS; i++)
		crcs[i] = crc32c(payload + (size_t)i * BLOCK_BYTES, BLOCK_BYTES);
	iov = (struct iovec){payload, sizeof(payload)};
	append = (struct store_append){
		.entry = {.epoch = 1,
			  .seq = seq,
			  .prev_hash = *hash,
			  .commit_seq = seq - 1,
			  .op = LOG_WRITE,
			  .address_blocks = seq * 100,
			  .length_blocks = ENTRY_BLOCKS,
			  .crc32c = crcs},
		.iov = &iov,
		.iov_count = 1,
	};
	*hash = log_entry_hash(&append.entry);
	op_begin(co, &append.op);
	store_append(replica, &append);
	FUZZ_CHECK(op_wait() == 0);
}

static void make_job(struct co *co, void *arg)
{
	struct world *world = arg;
	struct store_params params = {.uuid = {{7}}, .force = true};
	struct store_config config;
	struct store *store;
	struct err err = {0};
	static struct store_create create;
	static struct store_promise promise;
	static struct store_adopt adopt;
	static struct store_op checkpoint;
	uint64_t hash = 0;
	config_fill(&config);
	FUZZ_CHECK(store_format(co, &world->fake.env, "x", &params, &err) == 0);
	FUZZ_CHECK(store_open(co, &world->fake.env, "x", &config, &store, &err) == 0);
	create.spec = (struct store_replica_spec){{{4}}, {{5}}, 0, VOLUME_BLOCKS};
	op_begin(co, &create.op);
	store_replica_create(store, &create);
	FUZZ_CHECK(op_wait() == 0);
	struct store_replica *replica = create.ret_replica;
	promise.epoch = adopt.epoch = 1;
	op_begin(co, &promise.op);
	store_promise(replica, &promise);
	FUZZ_CHECK(op_wait() == 0);
	op_begin(co, &adopt.op);
	store_adopt(replica, &adopt);
	FUZZ_CHECK(op_wait() == 0);
	for (uint64_t seq = 1; seq <= 12; seq++) {
		append_one(co, replica, seq, &hash);
		if (seq != 8)
			continue;
		store_commit(replica, seq);
		op_begin(co, &checkpoint);
		store_checkpoint(store, &checkpoint);
		FUZZ_CHECK(op_wait() == 0);
	}
	/* The device as a crash now would leave it. */
	memcpy(world->original, world->device, DEVICE_BYTES);
	store_close(co, store);
}

static struct world *world_create(void)
{
	struct world *world = calloc(1, sizeof(*world));
	FUZZ_CHECK(world != NULL);
	world->device = calloc(DEVICE_BLOCKS, BLOCK_BYTES);
	world->original = calloc(DEVICE_BLOCKS, BLOCK_BYTES);
	fake_env_init(&world->fake, 1);
	world->ops = *world->fake.env.ops;
	world->ops.disk_open = disk_open;
	world->ops.disk_info = disk_info;
	world->ops.disk_submit = disk_submit;
	world->ops.disk_close = disk_close;
	world->ops.buf_alloc = buf_alloc;
	world->ops.buf_free = buf_free;
	world->fake.env.ops = &world->ops;
	list_init(&world->ios);
	list_init(&world->closes);
	world->co = co_create(&world->fake.env, 256 << 10);
	FUZZ_CHECK(world->device && world->original && world->co);
	job_run(world, make_job);
	static const uint8_t zeros[BLOCK_BYTES];
	for (uint32_t b = 0; b < DEVICE_BLOCKS && world->held_count < HELD_MAX; b++) {
		if (memcmp(world->original + (size_t)b * BLOCK_BYTES, zeros, BLOCK_BYTES) != 0)
			world->held[world->held_count++] = b;
	}
	memset(world->dirty, 1, sizeof(world->dirty));
	return world;
}

/* ---- breaking it ---- */

static void edit_apply(struct world *world, const struct edit *edit)
{
	uint32_t b = world->held[le16_get(edit->block) % world->held_count];
	uint16_t offset = le16_get(edit->offset_bytes);
	uint8_t *block = world->device + (size_t)b * BLOCK_BYTES;
	memcpy(block + (offset & (BLOCK_BYTES - 4)), &edit->value, 4);
	world->dirty[b] = 1;
	struct block_header *h = (struct block_header *)(void *)block;
	if (!(offset & EDIT_KEEP_CRC))
		h->crc32c = le32_make(block_crc(block));
}

static void check_line(void *ctx, const char *line)
{
	(void)ctx;
	FUZZ_CHECK(line[0] != '\0');
}

static void read_job(struct co *co, struct store_replica *replica)
{
	static uint8_t buf[STORE_READ_BLOCKS_MAX * BLOCK_BYTES] __attribute__((aligned(4096)));
	static uint32_t crcs[STORE_READ_BLOCKS_MAX];
	static uint8_t states[STORE_READ_BLOCKS_MAX];
	static struct store_read read;
	for (uint64_t at = 0; at < VOLUME_BLOCKS; at += STORE_READ_BLOCKS_MAX) {
		read = (struct store_read){
			.address_blocks = at,
			.length_blocks = STORE_READ_BLOCKS_MAX,
			.buf = buf,
			.crc32c = crcs,
			.block_state = states,
		};
		op_begin(co, &read.op);
		store_read(replica, &read);
		if (op_wait() != 0)
			continue;
		for (uint32_t i = 0; i < STORE_READ_BLOCKS_MAX; i++)
			FUZZ_CHECK(crc32c(buf + (size_t)i * BLOCK_BYTES, BLOCK_BYTES) == crcs[i]);
	}
}

static void use_job(struct co *co, void *arg)
{
	struct world *world = arg;
	struct store_config config;
	struct store *store = NULL;
	struct err err = {0};
	uint64_t findings = 0;
	const struct uuid volume = {{4}};
	config_fill(&config);
	store_check(co, &world->fake.env, "x", true, check_line, NULL, &findings, &err);
	int rc = store_open(co, &world->fake.env, "x", &config, &store, &err);
	FUZZ_CHECK(rc == 0 || err.text[0] != '\0');
	if (rc < 0)
		return;
	struct store_replica *replica = store_replica_find(store, &volume, 0);
	if (replica != NULL)
		read_job(co, replica);
	store_close(co, store);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	static struct world *world;
	if (world == NULL)
		world = world_create();
	for (uint32_t b = 0; b < DEVICE_BLOCKS; b++) {
		if (world->dirty[b])
			memcpy(world->device + (size_t)b * BLOCK_BYTES,
			       world->original + (size_t)b * BLOCK_BYTES, BLOCK_BYTES);
	}
	memset(world->dirty, 0, sizeof(world->dirty));
	for (uint32_t i = 0; i < EDITS_MAX && bytes >= sizeof(struct edit); i++) {
		struct edit edit;
		memcpy(&edit, data, sizeof(edit));
		edit_apply(world, &edit);
		data += sizeof(edit);
		bytes -= sizeof(edit);
	}
	job_run(world, use_job);
	return 0;
}

static void line_drop(void *ctx, enum log_level level, const char *line)
{
	(void)ctx;
	(void)level;
	(void)line;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	log_sink_set(line_drop, NULL);
	return 0;
}
