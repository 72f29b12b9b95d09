/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store alone against its file, in one process, through the same env, in turn.
 *
 *   build/bench/store_bench DIR [SECONDS [ROUNDS [VOLUME_MIB [sparse]]]]
 *
 * Random 4 KiB writes at queue depth 32 and 1. Every store write is durable; the file is measured without
 * and with O_DSYNC. Prints medians of operations per second and ratios.
 *
 * sparse: no file to compare with, and a store file that takes up only what is written. A volume much
 * larger than what comes between two checkpoints; each round prints what a write costs the device
 * on top of its own block: blocks written in all, map pages read and written by checkpoints.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/co.h"
#include "base/cpu.h"
#include "base/crc32c.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/version.h"
#include "store/store.h"

#define DEPTH_MAX  32u
#define ROUNDS_MAX 16

struct bench;

struct slot {
	struct bench *bench;
	struct env_io io;
	struct store_append append;
	struct iovec iov;
	void *buf;
	uint32_t crc;
};

struct bench {
	struct loop *loop;
	struct env *env;
	struct store *store;
	struct store_replica *replica;
	struct env_disk *raw;
	struct slot slots[DEPTH_MAX];
	const char *path;
	uint64_t volume_blocks, seq, hash, acked, state;
	uint64_t until_ns, count;
	uint32_t out, io_flags;
	bool flag;
	bool sparse;
	int status;
	void (*submit)(struct slot *slot);
};

static uint64_t next_random(struct bench *b)
{
	b->state ^= b->state << 13;
	b->state ^= b->state >> 7;
	b->state ^= b->state << 17;
	return b->state;
}

static void completed(struct slot *slot, int status)
{
	struct bench *b = slot->bench;
	if (status < 0) {
		fprintf(stderr, "store_bench: an operation failed: %s\n", err_name(status));
		exit(1);
	}
	b->count++;
	if (env_now_ns(b->env) < b->until_ns) {
		b->submit(slot);
		return;
	}
	if (--b->out == 0)
		b->flag = true;
}

static void raw_done(struct env_io *io, int status)
{
	completed(CONTAINER_OF(io, struct slot, io), status);
}

static void raw_submit(struct slot *slot)
{
	struct bench *b = slot->bench;
	slot->io = (struct env_io){
		.op = ENV_IO_WRITE,
		.flags = b->io_flags,
		.offset_bytes = next_random(b) % b->volume_blocks * BLOCK_BYTES,
		.iov = &slot->iov,
		.iov_count = 1,
		.done = raw_done,
	};
	env_disk_submit(b->env, b->raw, &slot->io);
}

static void append_done(struct store_op *op, int status)
{
	struct slot *slot = CONTAINER_OF(op, struct slot, append.op);
	slot->bench->acked++;
	if (slot->bench->acked % 32 == 0)
		store_commit(slot->bench->replica, slot->bench->acked);
	completed(slot, status);
}

static void store_submit(struct slot *slot)
{
	struct bench *b = slot->bench;
	slot->append = (struct store_append){
		.op.done = append_done,
		.entry =
			{
				.epoch = 1,
				.seq = ++b->seq,
				.prev_hash = b->hash,
				.commit_seq = b->acked,
				.op = LOG_WRITE,
				.address_blocks = next_random(b) % b->volume_blocks,
				.length_blocks = 1,
				.crc32c = &slot->crc,
			},
		.iov = &slot->iov,
		.iov_count = 1,
	};
	b->hash = log_entry_hash(&slot->append.entry);
	store_append(b->replica, &slot->append);
}

static double run(struct bench *b, void (*submit)(struct slot *), uint32_t depth, double seconds)
{
	uint64_t start_ns = env_now_ns(b->env);
	b->submit = submit;
	b->until_ns = start_ns + (uint64_t)(seconds * 1e9);
	b->count = 0;
	b->out = depth;
	b->flag = false;
	for (uint32_t i = 0; i < depth; i++)
		submit(&b->slots[i]);
	(void)loop_run_until(b->loop, &b->flag, 0);
	return (double)b->count / ((double)(env_now_ns(b->env) - start_ns) / 1e9);
}

struct prepare {
	struct store_create create;
	struct store_promise promise;
	struct store_adopt adopt;
};

static void prepared(struct store_op *op, int status)
{
	(void)op;
	if (status < 0) {
		fprintf(stderr, "store_bench: preparation failed: %s\n", err_name(status));
		exit(1);
	}
}

static void open_run(struct co *co, void *arg)
{
	struct bench *b = arg;
	struct err err = {0};
	const struct store_params params = {
		.size_bytes = b->sparse ? 0 : b->volume_blocks * BLOCK_BYTES * 3,
		.ring_bytes = b->sparse ? 256u << 20 : 0,
		.force = true,
	};
	struct store_config config;
	store_config_default(&config);
	b->status = store_format(co, b->env, b->path, &params, &err);
	if (b->status == 0)
		b->status = store_open(co, b->env, b->path, &config, &b->store, &err);
	if (b->status < 0)
		fprintf(stderr, "store_bench: %s\n", err_text(&err));
	b->flag = true;
}

static void close_run(struct co *co, void *arg)
{
	struct bench *b = arg;
	store_close(co, b->store);
	b->flag = true;
}

static void run_co(struct bench *b, void (*fn)(struct co *, void *))
{
	struct co *co = co_create(b->env, 256 * 1024);
	b->flag = false;
	co_start(co, fn, b);
	(void)loop_run_until(b->loop, &b->flag, 0);
	co_destroy(co);
}

static void settle(struct bench *b, uint64_t ns)
{
	bool never = false;
	(void)loop_run_until(b->loop, &never, env_now_ns(b->env) + ns);
}

static void prepare(struct bench *b)
{
	static struct prepare p;
	p.create.op.done = prepared;
	env_random_uuid(b->env, &p.create.spec.volume_uuid);
	env_random_uuid(b->env, &p.create.spec.replica_uuid);
	p.create.spec.size_blocks = b->volume_blocks;
	store_replica_create(b->store, &p.create);
	settle(b, 200000000);
	b->replica = p.create.ret_replica;
	p.promise = (struct store_promise){.op.done = prepared, .epoch = 1};
	store_promise(b->replica, &p.promise);
	settle(b, 200000000);
	p.adopt = (struct store_adopt){.op.done = prepared, .epoch = 1};
	store_adopt(b->replica, &p.adopt);
	settle(b, 200000000);
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double median(double *values, int count)
{
	qsort(values, (size_t)count, sizeof(*values), by_value);
	return values[count / 2];
}

static void compare(struct bench *b, uint32_t depth, double seconds, int rounds)
{
	double raw[ROUNDS_MAX], dsync[ROUNDS_MAX], store[ROUNDS_MAX];
	struct store_info before, after;
	store_info(b->store, &before);
	for (int i = 0; i < rounds; i++) {
		b->io_flags = 0;
		raw[i] = run(b, raw_submit, depth, seconds);
		b->io_flags = ENV_IO_DSYNC;
		dsync[i] = run(b, raw_submit, depth, seconds);
		store[i] = run(b, store_submit, depth, seconds);
	}
	store_info(b->store, &after);
	double r = median(raw, rounds), d = median(dsync, rounds), s = median(store, rounds);
	double batches = (double)(after.batches - before.batches);
	double payload = (double)(after.payload_blocks - before.payload_blocks);
	printf("%4u %12.0f %12.0f %12.0f %8.2f %8.2f %10.1f %10.2f %10.2f %6lu\n", depth, r, d, s,
	       s / r, s / d, payload / batches, (double)(after.pieces - before.pieces) / batches,
	       (double)(after.blocks_written - before.blocks_written) / payload,
	       after.checkpoints - before.checkpoints);
	fflush(stdout);
}

/* What a write costs while chunks are many and writes between checkpoints few. */
static void large(struct bench *b, double seconds, int rounds)
{
	printf("%10s %10s %12s %12s %12s %6s %10s\n", "writes", "per_second", "written/4k",
	       "pages_w/4k", "pages_r/4k", "ckpts", "delta_KiB");
	for (int i = 0; i < rounds; i++) {
		struct store_info before, after;
		store_info(b->store, &before);
		double per_second = run(b, store_submit, DEPTH_MAX, seconds);
		store_info(b->store, &after);
		double writes = (double)(after.payload_blocks - before.payload_blocks);
		printf("%10.0f %10.0f %12.3f %12.3f %12.3f %6lu %10lu\n", writes, per_second,
		       (double)(after.blocks_written - before.blocks_written) / writes,
		       (double)(after.pages_written - before.pages_written) / writes,
		       (double)(after.pages_read - before.pages_read) / writes,
		       after.checkpoints - before.checkpoints, after.delta_bytes >> 10);
		fflush(stdout);
	}
}

/* An empty file of the store's size, without blocks. */
static bool sparse_create(const struct bench *b)
{
	int fd = open(b->path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	bool made = fd >= 0 && ftruncate(fd, (off_t)(b->volume_blocks * BLOCK_BYTES * 2)) == 0;
	if (fd >= 0)
		(void)close(fd);
	if (!made)
		fprintf(stderr, "store_bench: could not make %s\n", b->path);
	return made;
}

static bool raw_create(struct bench *b, const char *path)
{
	struct err err = {0};
	char fill[700];
	if (env_disk_open(b->env, path, ENV_DISK_CREATE, b->volume_blocks * BLOCK_BYTES, &b->raw,
			  &err) < 0) {
		fprintf(stderr, "store_bench: %s\n", err_text(&err));
		return false;
	}
	snprintf(fill, sizeof(fill),
		 "dd if=/dev/zero of='%s' bs=1M count=%lu oflag=direct conv=notrunc 2>/dev/null",
		 path, b->volume_blocks / 256);
	if (system(fill) !=
	    0) /* written once, so that the file's metadata is not what is measured */
		fprintf(stderr, "store_bench: could not fill %s\n", path);
	return true;
}

static void slots_fill(struct bench *b)
{
	for (uint32_t i = 0; i < DEPTH_MAX; i++) {
		struct slot *s = &b->slots[i];
		s->bench = b;
		s->buf = env_buf_alloc(b->env, BLOCK_BYTES);
		memset(s->buf, (int)i + 1, BLOCK_BYTES);
		s->crc = crc32c(s->buf, BLOCK_BYTES);
		s->iov = (struct iovec){s->buf, BLOCK_BYTES};
	}
}

static void measure(struct bench *b, double seconds, int rounds)
{
	printf("engine %s, build '%s', volume %lu MiB%s\n", loop_engine_name(b->loop),
	       build_flags(), b->volume_blocks / 256, b->sparse ? ", sparse" : "");
	if (b->sparse) {
		large(b, seconds, rounds);
		return;
	}
	printf("%4s %12s %12s %12s %8s %8s %10s %10s %10s %6s\n", "qd", "raw", "raw_dsync", "store",
	       "/raw", "/dsync", "blk/batch", "pcs/batch", "written/4k", "ckpts");
	compare(b, 32, seconds, rounds);
	compare(b, 1, seconds, rounds);
}

/* As a node does (volmgr/daemon_cpu.c); the file that is compared with has it too. */
static void place_near_disk(struct bench *b, const char *dir)
{
	uint32_t cpu;
	struct cpu_list cpus = {0};
	struct err err = {0};
	loop_awake_set(b->loop, cpu_awake_latency_us(""));
	if (cpu_of_disk("", dir, &cpu) < 0)
		return;
	cpu_list_add(&cpus, cpu);
	if (cpu_pin(&cpus, &err) < 0)
		fprintf(stderr, "store_bench: %s\n", err_text(&err));
}

int main(int argc, char **argv)
{
	if (argc < 2) {
		fprintf(stderr,
			"usage: store_bench DIR [SECONDS [ROUNDS [VOLUME_MIB [sparse]]]]\n");
		return 2;
	}
	static struct bench b;
	double seconds = argc > 2 ? atof(argv[2]) : 3;
	int rounds = argc > 3 ? MIN(MAX(atoi(argv[3]), 1), ROUNDS_MAX) : 3;
	b.volume_blocks = (uint64_t)(argc > 4 ? atoi(argv[4]) : 1024) * 256;
	b.sparse = argc > 5 && strcmp(argv[5], "sparse") == 0;
	b.state = 88172645463325252ull;
	char path[512], raw_path[512];
	snprintf(path, sizeof(path), "%s/store_bench.store", argv[1]);
	snprintf(raw_path, sizeof(raw_path), "%s/store_bench.raw", argv[1]);
	b.path = path;
	struct err err = {0};
	log_level_set(LOG_WARN);
	if (loop_create(LOOP_ENGINE_AUTO, &b.loop, &err) < 0) {
		fprintf(stderr, "store_bench: %s\n", err_text(&err));
		return 1;
	}
	b.env = loop_env(b.loop);
	place_near_disk(&b, argv[1]);
	if (b.sparse ? !sparse_create(&b) : !raw_create(&b, raw_path))
		return 1;
	run_co(&b, open_run);
	if (b.status < 0)
		return 1;
	slots_fill(&b);
	prepare(&b);
	measure(&b, seconds, rounds);
	run_co(&b, close_run);
	unlink(path);
	if (!b.sparse)
		unlink(raw_path);
	return 0;
}
