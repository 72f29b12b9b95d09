/* SPDX-License-Identifier: Apache-2.0 */
/* The store on a real file, on both engines of the production loop. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/co.h"
#include "base/crc32c.h"
#include "base/loop.h"
#include "store/store.h"
#include "tests/unit/test.h"

#define SIZE_BYTES    (128ull << 20)
#define WRITES        400u
#define DEPTH         32u
#define VOLUME_BLOCKS 4096u
#define LIMIT_NS      (30ull * 1000 * 1000 * 1000)

struct fixture;

struct write {
	struct store_append append;
	struct fixture *f;
	struct iovec iov;
	uint32_t crc;
	bool is_busy;
	char *block;
};

struct fixture {
	struct loop *loop;
	struct env *env;
	struct co *co;
	struct store *store;
	struct store_replica *replica;
	struct store_config config;
	struct store_params params;
	struct err err;
	char dir[32], path[64];
	bool is_done;
	int status;
	uint64_t seq, hash, acked;
	uint32_t expect[VOLUME_BLOCKS]; /* crc of what each block holds */
	struct write writes[DEPTH];
};

static void run(struct fixture *f, void (*job)(struct co *co, void *arg))
{
	f->is_done = false;
	co_start(f->co, job, f);
	CHECK_EQ(loop_run_until(f->loop, &f->is_done, env_now_ns(f->env) + LIMIT_NS), 0);
}

static void format_job(struct co *co, void *arg)
{
	struct fixture *f = arg;
	f->status = store_format(co, f->env, f->path, &f->params, &f->err);
	f->is_done = true;
}

static void open_job(struct co *co, void *arg)
{
	struct fixture *f = arg;
	f->status = store_open(co, f->env, f->path, &f->config, &f->store, &f->err);
	f->is_done = true;
}

static void close_job(struct co *co, void *arg)
{
	struct fixture *f = arg;
	store_close(co, f->store);
	f->is_done = true;
}

struct call {
	union {
		struct store_op op;
		struct store_create create;
		struct store_promise promise;
		struct store_adopt adopt;
		struct store_read read;
	} u;
	bool is_done;
	int status;
};

static void call_done(struct store_op *op, int status)
{
	struct call *c = CONTAINER_OF(op, struct call, u.op);
	c->status = status;
	c->is_done = true;
}

static int call_wait(struct fixture *f, struct call *c)
{
	CHECK_EQ(loop_run_until(f->loop, &c->is_done, env_now_ns(f->env) + LIMIT_NS), 0);
	return c->status;
}

static void begin(struct fixture *f, enum loop_engine engine)
{
	strcpy(f->dir, "/tmp/store_loop_XXXXXX");
	CHECK(mkdtemp(f->dir) != NULL);
	snprintf(f->path, sizeof(f->path), "%s/store", f->dir);
	CHECK_EQ(loop_create(engine, &f->loop, &f->err), 0);
	f->env = loop_env(f->loop);
	f->co = co_create(f->env, 256 << 10);
	store_config_default(&f->config);
	f->params.size_bytes = SIZE_BYTES;
	for (unsigned i = 0; i < DEPTH; i++)
		f->writes[i].block = aligned_alloc(BLOCK_BYTES, BLOCK_BYTES);
	for (unsigned i = 0; i < VOLUME_BLOCKS; i++)
		f->expect[i] = CRC32C_ZERO_BLOCK;
}

static void end(struct fixture *f)
{
	co_destroy(f->co);
	loop_destroy(f->loop);
	for (unsigned i = 0; i < DEPTH; i++)
		free(f->writes[i].block);
	unlink(f->path);
	rmdir(f->dir);
}

static void append_done(struct store_op *op, int status)
{
	struct write *w = CONTAINER_OF(op, struct write, append.op);
	CHECK_EQ(status, 0);
	w->is_busy = false;
	w->f->acked++;
}

static void append(struct fixture *f, struct write *w, uint64_t block)
{
	for (unsigned i = 0; i < BLOCK_BYTES / 8; i++)
		((uint64_t *)w->block)[i] = f->seq * 1000003 + i * (block + 1);
	w->f = f;
	w->is_busy = true;
	w->crc = f->expect[block] = crc32c(w->block, BLOCK_BYTES);
	w->iov = (struct iovec){w->block, BLOCK_BYTES};
	w->append = (struct store_append){
		.op.done = append_done,
		.entry = {.epoch = 1,
			  .seq = ++f->seq,
			  .prev_hash = f->hash,
			  .commit_seq = f->acked,
			  .op = LOG_WRITE,
			  .address_blocks = block,
			  .length_blocks = 1,
			  .crc32c = &w->crc},
		.iov = &w->iov,
		.iov_count = 1,
	};
	f->hash = log_entry_hash(&w->append.entry);
	store_append(f->replica, &w->append);
}

static void write_some(struct fixture *f)
{
	bool never = false;
	for (unsigned n = 0; n < WRITES || f->acked < f->seq;) {
		for (unsigned i = 0; i < DEPTH && n < WRITES; i++) {
			if (!f->writes[i].is_busy)
				append(f, &f->writes[i], n++ * 37 % VOLUME_BLOCKS);
		}
		(void)loop_run_until(f->loop, &never, env_now_ns(f->env) + 1000000);
	}
}

static void check_contents(struct fixture *f)
{
	char *buf = aligned_alloc(BLOCK_BYTES, STORE_READ_BLOCKS_MAX * BLOCK_BYTES);
	static uint32_t crcs[STORE_READ_BLOCKS_MAX];
	static uint8_t states[STORE_READ_BLOCKS_MAX];
	for (uint64_t at = 0; at < VOLUME_BLOCKS; at += STORE_READ_BLOCKS_MAX) {
		struct call c = {.u.read = {.address_blocks = at,
					    .length_blocks = STORE_READ_BLOCKS_MAX,
					    .buf = buf,
					    .crc32c = crcs,
					    .block_state = states}};
		c.u.op.done = call_done;
		store_read(f->replica, &c.u.read);
		CHECK_EQ(call_wait(f, &c), 0);
		for (unsigned i = 0; i < STORE_READ_BLOCKS_MAX; i++) {
			CHECK_EQ(crcs[i], f->expect[at + i]);
			CHECK_EQ(crc32c(buf + (size_t)i * BLOCK_BYTES, BLOCK_BYTES), crcs[i]);
		}
	}
	free(buf);
}

static void take_volume(struct fixture *f)
{
	struct call c = {.u.create.spec = {.volume_uuid.bytes = {1},
					   .replica_uuid.bytes = {2},
					   .size_blocks = VOLUME_BLOCKS}};
	c.u.op.done = call_done;
	store_replica_create(f->store, &c.u.create);
	CHECK_EQ(call_wait(f, &c), 0);
	f->replica = c.u.create.ret_replica;
	struct call p = {.u.promise.epoch = 1};
	p.u.op.done = call_done;
	store_promise(f->replica, &p.u.promise);
	CHECK_EQ(call_wait(f, &p), 0);
	struct call a = {.u.adopt.epoch = 1};
	a.u.op.done = call_done;
	store_adopt(f->replica, &a.u.adopt);
	CHECK_EQ(call_wait(f, &a), 0);
}

static void write_close_read(enum loop_engine engine)
{
	struct fixture *f = calloc(1, sizeof(*f));
	begin(f, engine);
	run(f, format_job);
	CHECK(f->status == 0, "%s", f->err.text);
	run(f, format_job);
	CHECK_EQ(f->status, -EEXIST);
	run(f, open_job);
	CHECK(f->status == 0, "%s", f->err.text);
	take_volume(f);
	write_some(f);
	check_contents(f);
	run(f, close_job);
	run(f, open_job);
	CHECK(f->status == 0, "%s", f->err.text);
	struct uuid volume = {{1}};
	f->replica = store_replica_find(f->store, &volume, 0);
	struct store_replica_info info;
	store_replica_info(f->replica, &info);
	CHECK_EQ(info.last_seq, f->seq);
	check_contents(f);
	run(f, close_job);
	end(f);
	free(f);
}

TEST(store_loop, what_was_written_is_read_after_reopening_with_io_uring)
{
	write_close_read(LOOP_ENGINE_URING);
}

TEST(store_loop, what_was_written_is_read_after_reopening_with_libaio)
{
	write_close_read(LOOP_ENGINE_AIO);
}

TEST(store_loop, an_open_store_is_busy_for_everybody_else)
{
	struct fixture *f = calloc(1, sizeof(*f));
	begin(f, LOOP_ENGINE_AUTO);
	run(f, format_job);
	CHECK_EQ(f->status, 0);
	run(f, open_job);
	CHECK_EQ(f->status, 0);
	struct store *first = f->store;
	run(f, open_job);
	CHECK_EQ(f->status, -EBUSY);
	f->params.force = true;
	run(f, format_job);
	CHECK_EQ(f->status, -EBUSY);
	f->store = first;
	run(f, close_job);
	end(f);
	free(f);
}

TEST(store_loop, format_refuses_a_file_that_is_too_small)
{
	struct fixture *f = calloc(1, sizeof(*f));
	begin(f, LOOP_ENGINE_AUTO);
	f->params.size_bytes = 1 << 20;
	run(f, format_job);
	CHECK_EQ(f->status, -EINVAL);
	CHECK(strstr(f->err.text, "1048576") != NULL, "%s", f->err.text);
	end(f);
	free(f);
}
