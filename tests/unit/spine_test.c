/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The data path without the daemons: three stores in files, three nodes, one coordinator, all on one real
 * loop over unix sockets. Fails when any of store, node, peers, coordinator, resync do not fit together.
 */
#include "tests/unit/test.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/co.h"
#include "base/loop.h"
#include "base/log.h"
#include "replication/coordinator.h"
#include "replication/node.h"
#include "store/store.h"

#define NODES         3
#define VOLUME_BLOCKS 8192u
#define SECOND        1000000000ull

struct world;

struct box {
	struct world *world;
	char path[96], address[108];
	struct store *store;
	struct node *node;
	struct uuid node_uuid, store_uuid, replica_uuid;
	struct store_create create;
	bool flag;
	int status;
};

struct world {
	char dir[64];
	struct loop *loop;
	struct env *env;
	struct box boxes[NODES];
	struct peers *peers;
	struct coordinator *coordinator;
	struct uuid cluster_uuid, volume_uuid;
	uint64_t epoch;
	bool flag;
	int status;
	uint32_t content[VOLUME_BLOCKS]; /* stamp of each block; 0: zeros */
};

static void wait_flag(struct world *w, const bool *flag, uint64_t seconds)
{
	uint64_t until_ns = env_now_ns(w->env) + seconds * SECOND;
	CHECK_EQ(loop_run_until(w->loop, flag, until_ns), 0);
}

/* ---- stores and nodes ---- */

static void open_run(struct co *co, void *arg)
{
	struct box *b = arg;
	struct world *w = b->world;
	struct err err = {0};
	if (access(b->path, F_OK) != 0) {
		const struct store_params params = {.size_bytes = 256ull << 20,
						    .uuid = b->store_uuid};
		b->status = store_format(co, w->env, b->path, &params, &err);
		if (b->status < 0)
			fprintf(stderr, "format: %s\n", err_text(&err));
	}
	struct store_config config;
	store_config_default(&config);
	if (b->status == 0)
		b->status = store_open(co, w->env, b->path, &config, &b->store, &err);
	if (b->status < 0)
		fprintf(stderr, "open: %s\n", err_text(&err));
	b->flag = true;
}

static void run_co(struct world *w, struct box *b, void (*fn)(struct co *, void *))
{
	struct co *co = co_create(w->env, 256 * 1024);
	b->flag = false;
	b->status = 0;
	co_start(co, fn, b);
	wait_flag(w, &b->flag, 30);
	CHECK_EQ(b->status, 0);
	co_destroy(co);
}

static void box_start(struct box *b)
{
	struct world *w = b->world;
	run_co(w, b, open_run);
	struct node_config config;
	node_config_default(&config);
	config.cluster_uuid = w->cluster_uuid;
	config.node_uuid = b->node_uuid;
	config.listen = b->address;
	snprintf(config.name, sizeof(config.name), "n");
	struct err err = {0};
	int rc = node_create(w->env, &config, &b->node, &err);
	CHECK(rc == 0, "%s", err_text(&err));
	CHECK_EQ(node_add_store(b->node, b->store, &err), 0);
}

static void set_flag(void *ctx)
{
	*(bool *)ctx = true;
}

static void close_run(struct co *co, void *arg)
{
	struct box *b = arg;
	store_close(co, b->store);
	b->store = NULL;
	b->flag = true;
}

static void box_stop(struct box *b)
{
	bool done = false;
	node_shutdown(b->node, set_flag, &done);
	wait_flag(b->world, &done, 10);
	node_destroy(b->node);
	b->node = NULL;
	run_co(b->world, b, close_run);
}

static void created(struct store_op *op, int status)
{
	struct box *b = CONTAINER_OF(op, struct box, create.op);
	b->status = status;
	b->flag = true;
}

static void replica_create(struct box *b)
{
	b->flag = false;
	b->create.op.done = created;
	b->create.spec = (struct store_replica_spec){
		.volume_uuid = b->world->volume_uuid,
		.replica_uuid = b->replica_uuid,
		.size_blocks = VOLUME_BLOCKS,
	};
	store_replica_create(b->store, &b->create);
	wait_flag(b->world, &b->flag, 10);
	CHECK_EQ(b->status, 0);
}

/* ---- metadata: always granted ---- */

struct later {
	struct env_timer timer;
	struct world *world;
	void (*acquired)(void *, int, uint64_t, const struct coordinator_volume *);
	void (*opened)(void *, int);
	void *ctx;
};

static void later_fire(struct env_timer *timer)
{
	struct later *l = CONTAINER_OF(timer, struct later, timer);
	struct world *w = l->world;
	if (l->opened != NULL) {
		l->opened(l->ctx, 0);
	} else {
		struct coordinator_volume v = {
			.volume_uuid = w->volume_uuid,
			.name = "v",
			.size_blocks = VOLUME_BLOCKS,
			.quorum = 2,
			.member_count = NODES,
		};
		for (int i = 0; i < NODES; i++) {
			v.members[i].replica_uuid = w->boxes[i].replica_uuid;
			v.members[i].node_uuid = w->boxes[i].node_uuid;
			v.members[i].voter = true;
			snprintf(v.members[i].node_name, sizeof(v.members[i].node_name), "n%d",
				 i + 1);
			snprintf(v.members[i].address, sizeof(v.members[i].address), "%s",
				 w->boxes[i].address);
		}
		l->acquired(l->ctx, 0, ++w->epoch, &v);
	}
	free(l);
}

static struct later *later_make(struct world *w, void *ctx)
{
	struct later *l = calloc(1, sizeof(*l));
	l->world = w;
	l->ctx = ctx;
	l->timer.fire = later_fire;
	env_timer_set(w->env, &l->timer, 0);
	return l;
}

static void meta_acquire(void *ctx,
			 void (*done)(void *, int, uint64_t, const struct coordinator_volume *),
			 void *ctx2)
{
	later_make(ctx, ctx2)->acquired = done;
}

static void meta_opened(void *ctx, uint64_t epoch, void (*done)(void *, int), void *ctx2)
{
	(void)epoch;
	later_make(ctx, ctx2)->opened = done;
}

static void coordinator_start(struct world *w)
{
	struct peers_config pc;
	peers_config_default(&pc);
	pc.cluster_uuid = w->cluster_uuid;
	pc.boot_id = env_random(w->env) | 1;
	w->peers = peers_create(w->env, &pc);
	struct coordinator_config cc;
	coordinator_config_default(&cc);
	const struct coordinator_meta meta = {meta_acquire, meta_opened, w};
	w->coordinator = coordinator_create(w->env, w->peers, &meta, &cc);
	CHECK(w->coordinator != NULL);
}

static void coordinator_stop(struct world *w)
{
	bool done = false;
	coordinator_shutdown(w->coordinator, set_flag, &done);
	wait_flag(w, &done, 20);
	coordinator_destroy(w->coordinator);
	done = false;
	peers_shutdown(w->peers, set_flag, &done);
	wait_flag(w, &done, 10);
	peers_destroy(w->peers);
}

/* ---- I/O ---- */

struct io {
	struct coordinator_request r;
	struct iovec iov;
	void *buf;
	bool done;
	int status;
};

static void io_done(struct coordinator_request *r, int status)
{
	struct io *io = CONTAINER_OF(r, struct io, r);
	io->done = true;
	io->status = status;
}

static void io_submit(struct world *w, struct io *io, enum coordinator_op op, uint64_t block,
		      uint32_t count)
{
	io->done = false;
	io->iov = (struct iovec){io->buf, (size_t)count * BLOCK_BYTES};
	io->r = (struct coordinator_request){
		.op = op,
		.address_blocks = block,
		.length_blocks = count,
		.iov = &io->iov,
		.iov_count = 1,
		.done = io_done,
	};
	coordinator_submit(w->coordinator, &io->r);
}

static void stamp(uint8_t *block, uint32_t value)
{
	for (uint32_t i = 0; i < BLOCK_BYTES / 4; i++)
		((uint32_t *)block)[i] = value == 0 ? 0 : value ^ (i * 2654435761u);
}

#define QD 32
static void random_io(struct world *w, unsigned count, unsigned *seed)
{
	struct io ios[QD];
	for (int i = 0; i < QD; i++)
		ios[i].buf = aligned_alloc(BLOCK_BYTES, 16 * BLOCK_BYTES);
	for (unsigned n = 0; n < count; n += QD) {
		for (int i = 0; i < QD; i++) {
			/* slots write disjoint stripes, so that the model needs no order */
			uint32_t blocks = 1 + (uint32_t)rand_r(seed) % 8;
			uint64_t at = (uint64_t)i * (VOLUME_BLOCKS / QD) +
				      (uint64_t)rand_r(seed) % (VOLUME_BLOCKS / QD - 8);
			bool zero = rand_r(seed) % 8 == 0;
			for (uint32_t b = 0; b < blocks; b++) {
				w->content[at + b] = zero ? 0 : (uint32_t)rand_r(seed) | 1;
				stamp((uint8_t *)ios[i].buf + (size_t)b * BLOCK_BYTES,
				      w->content[at + b]);
			}
			io_submit(w, &ios[i], zero ? COORDINATOR_ZERO : COORDINATOR_WRITE, at,
				  blocks);
		}
		for (int i = 0; i < QD; i++) {
			wait_flag(w, &ios[i].done, 20);
			CHECK_EQ(ios[i].status, 0);
		}
	}
	for (int i = 0; i < QD; i++)
		free(ios[i].buf);
}

static void check_all(struct world *w)
{
	struct io io = {.buf = aligned_alloc(BLOCK_BYTES, 256 * BLOCK_BYTES)};
	uint8_t want[BLOCK_BYTES];
	for (uint64_t at = 0; at < VOLUME_BLOCKS; at += 256) {
		io_submit(w, &io, COORDINATOR_READ, at, 256);
		wait_flag(w, &io.done, 20);
		CHECK_EQ(io.status, 0);
		for (uint32_t b = 0; b < 256; b++) {
			stamp(want, w->content[at + b]);
			CHECK(memcmp(want, (uint8_t *)io.buf + (size_t)b * BLOCK_BYTES,
				     BLOCK_BYTES) == 0,
			      "block %lu differs", at + b);
		}
	}
	free(io.buf);
}

struct verify_wait {
	struct coordinator_verify v;
	bool done;
	int status;
	uint64_t last_block; /* of the last finding */
};

static void verify_finding(struct coordinator_verify *v, const struct coordinator_member *m,
			   uint64_t block, const char *what)
{
	CONTAINER_OF(v, struct verify_wait, v)->last_block = block;
	fprintf(stderr, "finding: %s block %lu: %s\n", m->node_name, block, what);
}

static void verify_finished(struct coordinator_verify *v, int status)
{
	struct verify_wait *wait = CONTAINER_OF(v, struct verify_wait, v);
	wait->done = true;
	wait->status = status;
}

static int verify(struct world *w)
{
	struct verify_wait wait = {.v.finding = verify_finding, .v.done = verify_finished};
	coordinator_verify(w->coordinator, &wait.v);
	wait_flag(w, &wait.done, 60);
	return wait.status;
}

static void wait_live(struct world *w, uint32_t count)
{
	uint64_t until_ns = env_now_ns(w->env) + 20 * SECOND;
	for (;;) {
		struct coordinator_info info;
		coordinator_info(w->coordinator, &info);
		uint32_t live = 0;
		for (uint32_t i = 0; i < info.replica_count; i++)
			live += info.replicas[i].state == REPLICA_LIVE &&
				info.replicas[i].last_seq == info.last_seq;
		if (live >= count)
			return;
		CHECK(env_now_ns(w->env) < until_ns, "only %u replicas live", live);
		bool never = false;
		(void)loop_run_until(w->loop, &never, env_now_ns(w->env) + 20000000);
	}
}

/* ---- the world ---- */

static void world_start(struct world *w)
{
	memset(w, 0, sizeof(*w));
	log_level_set(getenv("SPINE_LOG") != NULL ? LOG_DEBUG : LOG_ERROR);
	snprintf(w->dir, sizeof(w->dir), "/tmp/spine-XXXXXX");
	CHECK(mkdtemp(w->dir) != NULL);
	struct err err = {0};
	CHECK_EQ(loop_create(LOOP_ENGINE_AUTO, &w->loop, &err), 0);
	w->env = loop_env(w->loop);
	env_random_uuid(w->env, &w->cluster_uuid);
	env_random_uuid(w->env, &w->volume_uuid);
	for (int i = 0; i < NODES; i++) {
		struct box *b = &w->boxes[i];
		b->world = w;
		snprintf(b->path, sizeof(b->path), "%s/s%d", w->dir, i);
		snprintf(b->address, sizeof(b->address), "unix:%s/n%d.sock", w->dir, i);
		env_random_uuid(w->env, &b->node_uuid);
		env_random_uuid(w->env, &b->store_uuid);
		env_random_uuid(w->env, &b->replica_uuid);
		box_start(b);
		replica_create(b);
	}
	coordinator_start(w);
}

static void world_stop(struct world *w)
{
	coordinator_stop(w);
	for (int i = 0; i < NODES; i++)
		if (w->boxes[i].node != NULL)
			box_stop(&w->boxes[i]);
	loop_destroy(w->loop);
	for (int i = 0; i < NODES; i++)
		unlink(w->boxes[i].path);
	rmdir(w->dir);
}

TEST(spine, writes_are_read_back_and_replicas_are_equal)
{
	struct world w;
	unsigned seed = 1;
	world_start(&w);
	random_io(&w, 2000, &seed);
	check_all(&w);
	wait_live(&w, 3);
	CHECK_EQ(verify(&w), 0);
	world_stop(&w);
}

TEST(spine, a_node_that_was_away_catches_up_while_writes_continue)
{
	struct world w;
	unsigned seed = 2;
	world_start(&w);
	random_io(&w, 1000, &seed);
	for (int round = 0; round < 3; round++) {
		struct box *b = &w.boxes[round % NODES];
		box_stop(b);
		random_io(&w, 3000, &seed); /* more than the window keeps */
		box_start(b);
		random_io(&w, 500, &seed);
		wait_live(&w, 3);
		CHECK_EQ(verify(&w), 0);
	}
	check_all(&w);
	world_stop(&w);
}

TEST(spine, a_new_coordinator_finds_every_write)
{
	struct world w;
	unsigned seed = 3;
	world_start(&w);
	for (int round = 0; round < 3; round++) {
		random_io(&w, 600, &seed);
		coordinator_stop(&w);
		coordinator_start(&w);
		check_all(&w);
	}
	wait_live(&w, 3);
	CHECK_EQ(verify(&w), 0);
	world_stop(&w);
}

TEST(spine, everything_restarts_with_its_data)
{
	struct world w;
	unsigned seed = 4;
	world_start(&w);
	random_io(&w, 1000, &seed);
	coordinator_stop(&w);
	for (int i = 0; i < NODES; i++)
		box_stop(&w.boxes[i]);
	for (int i = 0; i < NODES; i++)
		box_start(&w.boxes[i]);
	coordinator_start(&w);
	check_all(&w);
	wait_live(&w, 3);
	CHECK_EQ(verify(&w), 0);
	world_stop(&w);
}

/* Flips a byte in every copy of the block that the stopped store's file has. */
static void rot(struct world *w, struct box *b, uint64_t block)
{
	const size_t bytes = 256u << 20;
	uint8_t want[BLOCK_BYTES];
	uint32_t copies = 0;
	stamp(want, w->content[block]);
	int fd = open(b->path, O_RDWR);
	uint8_t *file = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(file != MAP_FAILED);
	for (size_t at = 0; at < bytes; at += BLOCK_BYTES) {
		if (memcmp(file + at, want, 64) != 0)
			continue;
		file[at + 1000] ^= 1;
		copies++;
	}
	CHECK_EQ(msync(file, bytes, MS_SYNC), 0);
	munmap(file, bytes);
	close(fd);
	CHECK(copies > 0, "block %lu is not in the file", block);
}

static void write_one(struct world *w, uint64_t block, uint32_t value)
{
	struct io io = {.buf = aligned_alloc(BLOCK_BYTES, BLOCK_BYTES)};
	w->content[block] = value;
	stamp(io.buf, value);
	io_submit(w, &io, COORDINATOR_WRITE, block, 1);
	wait_flag(w, &io.done, 20);
	CHECK_EQ(io.status, 0);
	free(io.buf);
}

/* Fails when a repair leaves rot, heals without saying so, or takes a lost block for healed. */
TEST(spine, a_repair_rewrites_what_is_bad_from_a_good_copy)
{
	static const struct {
		uint32_t box, block;
	} bad[] = {{0, 300}, {0, 301}, {1, 302}, {1, 4000}, {2, 4000}};
	struct world w;
	unsigned seed = 5;
	world_start(&w);
	random_io(&w, 500, &seed);
	for (uint32_t i = 0; i < ARRAY_LEN(bad); i++)
		write_one(&w, bad[i].block, 0xabcd01 + bad[i].block);
	write_one(&w, 5000, 0x777);
	wait_live(&w, 3);
	for (uint32_t n = 0; n < NODES; n++) {
		box_stop(&w.boxes[n]);
		for (uint32_t i = 0; i < ARRAY_LEN(bad); i++)
			if (bad[i].box == n)
				rot(&w, &w.boxes[n], bad[i].block);
		box_start(&w.boxes[n]);
		wait_live(&w, 3);
	}
	CHECK_EQ(verify(&w), -EUCLEAN);
	struct verify_wait repair = {
		.v = {.finding = verify_finding, .done = verify_finished, .repair = true}};
	coordinator_verify(w.coordinator, &repair.v);
	wait_flag(&w, &repair.done, 60);
	CHECK_EQ(repair.status, 0);
	CHECK_EQ(repair.v.repaired, ARRAY_LEN(bad));
	CHECK_EQ(repair.v.findings, 0);
	CHECK_EQ(verify(&w), 0);
	check_all(&w);
	for (uint32_t n = 0; n < NODES; n++) { /* no good copy is left: said, not hidden */
		box_stop(&w.boxes[n]);
		rot(&w, &w.boxes[n], 5000);
		box_start(&w.boxes[n]);
		wait_live(&w, 3);
	}
	repair = (struct verify_wait){
		.v = {.finding = verify_finding, .done = verify_finished, .repair = true}};
	coordinator_verify(w.coordinator, &repair.v);
	wait_flag(&w, &repair.done, 60);
	CHECK_EQ(repair.status, -EUCLEAN);
	CHECK_EQ(repair.v.findings, 3);
	CHECK_EQ(repair.last_block, 5000);
	write_one(&w, 5000, 0x778);
	CHECK_EQ(verify(&w), 0);
	world_stop(&w);
}

/* Fails when a comparison waits for ever for a replica, or does not see that it is cancelled. */
TEST(spine, a_comparison_does_not_wait_for_ever)
{
	struct world w;
	unsigned seed = 6;
	world_start(&w);
	random_io(&w, 100, &seed);
	wait_live(&w, 3);
	box_stop(&w.boxes[1]);
	struct verify_wait wait = {.v = {.finding = verify_finding, .done = verify_finished}};
	coordinator_verify(w.coordinator, &wait.v);
	bool never = false;
	(void)loop_run_until(w.loop, &never, env_now_ns(w.env) + SECOND / 5);
	CHECK(!wait.done);
	wait.v.cancel = true;
	wait_flag(&w, &wait.done, 1);
	CHECK_EQ(wait.status, -ECANCELED);
	wait = (struct verify_wait){.v = {.finding = verify_finding, .done = verify_finished}};
	coordinator_verify(w.coordinator, &wait.v);
	random_io(&w, 100, &seed); /* goes on meanwhile: nothing is held */
	wait_flag(&w, &wait.done, 15);
	CHECK_EQ(wait.status, -EAGAIN);
	box_start(&w.boxes[1]);
	wait_live(&w, 3);
	CHECK_EQ(verify(&w), 0);
	world_stop(&w);
}
