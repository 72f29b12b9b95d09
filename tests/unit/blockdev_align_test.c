/* SPDX-License-Identifier: Apache-2.0 */
/* Any alignment over whole blocks: against a model, with many overlapping requests in flight. */
#include "tests/fuzz/fuzz_env.h"
#include "tests/unit/test.h"
#include "volmgr/blockdev_align.h"
#include "volmgr/blockdev_mem.h"

#define SIZE_BYTES (256u * 1024)
#define LOWER_MAX  (3 * BLOCK_BYTES)
#define SECOND_NS  1000000000ull

struct fixture {
	struct fuzz_env fuzz;
	struct env *env;
	struct blockdev_mem *mem;
	struct blockdev_align *align;
	struct blockdev *dev;
	int (*fail)(void *ctx, const struct blockdev_req *req);
};

/* One request with its own pages, as B1 wants them. */
struct io {
	struct blockdev_req req;
	struct fixture *f;
	uint8_t *pages;
	uint8_t *want; /* READ: the model's bytes at submission */
	bool busy;
	bool checked; /* READ: nothing that changes the range was in flight meanwhile */
	bool done;
	int status;
};

static int fail_hook(void *ctx, const struct blockdev_req *req)
{
	struct fixture *f = ctx;
	return f->fail ? f->fail(f, req) : 0;
}

static void fixture_open(struct fixture *f, uint64_t seed, bool shuffle)
{
	memset(f, 0, sizeof(*f));
	f->env = fuzz_env_init(&f->fuzz, seed);
	struct blockdev_mem_config mem = {
		.name = "m",
		.size_bytes = SIZE_BYTES,
		.block_min_bytes = BLOCK_BYTES,
		.payload_max_bytes = LOWER_MAX,
		.shuffle = shuffle,
		.fail = fail_hook,
		.fail_ctx = f,
	};
	struct blockdev_align_config align = {
		.ops_max = 8, .edges_max = 2, .payload_max_bytes = SIZE_BYTES};
	CHECK_EQ(blockdev_mem_create(f->env, &mem, &f->mem, NULL), 0);
	CHECK_EQ(blockdev_align_create(f->env, blockdev_mem_dev(f->mem), &align, &f->align, NULL),
		 0);
	f->dev = blockdev_align_dev(f->align);
}
static void fixture_close(struct fixture *f)
{
	blockdev_align_destroy(f->align);
	blockdev_mem_destroy(f->mem);
	fuzz_env_free(&f->fuzz);
}

static void io_done(struct blockdev_req *req, int status)
{
	struct io *io = CONTAINER_OF(req, struct io, req);
	CHECK(io->busy);
	io->busy = false;
	io->done = true;
	io->status = status;
	if (status == 0 && io->checked)
		CHECK(memcmp(io->req.buf, io->want, io->req.length_bytes) == 0,
		      "read of %llu at %llu differs", (unsigned long long)io->req.length_bytes,
		      (unsigned long long)io->req.offset_bytes);
	free(io->want);
	io->want = NULL;
}
static void io_prepare(struct io *io, struct fixture *f, enum blockdev_op op, uint64_t offset,
		       uint64_t length)
{
	free(io->pages);
	memset(io, 0, sizeof(*io));
	io->f = f;
	io->pages = fuzz_buf_alloc(f->env, length + 2 * BLOCK_BYTES);
	io->req = (struct blockdev_req){
		.op = op,
		.offset_bytes = offset,
		.length_bytes = length,
		.buf = io->pages + offset % BLOCK_BYTES,
		.done = io_done,
	};
}
static void io_submit(struct io *io)
{
	io->busy = true;
	blockdev_submit(io->f->dev, &io->req);
	CHECK(io->busy); /* done never runs inside */
}
static int io_run(struct io *io)
{
	io_submit(io);
	fuzz_env_run(&io->f->fuzz, SECOND_NS);
	CHECK(io->done);
	return io->status;
}
static int run(struct fixture *f, enum blockdev_op op, uint64_t offset, uint64_t length, int fill)
{
	struct io io = {0};
	io_prepare(&io, f, op, offset, length);
	memset(io.req.buf, fill, length);
	int status = io_run(&io);
	free(io.pages);
	return status;
}
/* The whole device. */
static void check_contents(struct fixture *f, const uint8_t *model)
{
	struct io io = {0};
	io_prepare(&io, f, BLOCKDEV_READ, 0, SIZE_BYTES);
	CHECK_EQ(io_run(&io), 0);
	for (uint32_t i = 0; i < SIZE_BYTES; i++)
		CHECK(((uint8_t *)io.req.buf)[i] == model[i], "byte %u is %u, want %u", i,
		      ((uint8_t *)io.req.buf)[i], model[i]);
	free(io.pages);
}

/* ---- the model: changes take effect in order of submission ---- */

static void model_apply(uint8_t *model, const struct blockdev_req *req)
{
	uint64_t start = req->offset_bytes, end = start + req->length_bytes;
	if (req->op == BLOCKDEV_WRITE)
		memcpy(model + start, req->buf, req->length_bytes);
	if (req->op == BLOCKDEV_ZERO)
		memset(model + start, 0, req->length_bytes);
	uint64_t first = ALIGN_UP(start, (uint64_t)BLOCK_BYTES),
		 last = end / BLOCK_BYTES * BLOCK_BYTES;
	if (req->op == BLOCKDEV_TRIM && first < last)
		memset(model + first, 0, last - first);
}
static bool overlap(const struct blockdev_req *a, const struct blockdev_req *b)
{
	return a->offset_bytes < b->offset_bytes + b->length_bytes &&
	       b->offset_bytes < a->offset_bytes + a->length_bytes;
}

#define DEPTH 24
static void random_io(struct fixture *f, struct io *ios, struct io *io, uint8_t *model)
{
	static const enum blockdev_op kinds[] = {BLOCKDEV_READ, BLOCKDEV_WRITE, BLOCKDEV_WRITE,
						 BLOCKDEV_ZERO, BLOCKDEV_TRIM,  BLOCKDEV_FLUSH};
	uint64_t r = env_random(f->env);
	enum blockdev_op op = kinds[r % ARRAY_LEN(kinds)];
	uint64_t window = r >> 8 & 1 ? SIZE_BYTES : 6 * BLOCK_BYTES; /* often the same few blocks */
	uint64_t offset = env_random(f->env) % (window - 1), most = window - offset;
	uint64_t length = 1 + env_random(f->env) % MIN(most, r >> 9 & 1 ? 40000u : 700u);
	if ((r >> 16 & 3) == 0 && offset + 2 * BLOCK_BYTES <= window) {
		offset = offset / BLOCK_BYTES * BLOCK_BYTES;
		length = BLOCK_BYTES;
	}
	if (op == BLOCKDEV_FLUSH)
		offset = length = 0;
	io_prepare(io, f, op, offset, length);
	for (uint64_t i = 0; op == BLOCKDEV_WRITE && i < length; i++)
		((uint8_t *)io->req.buf)[i] = (uint8_t)(r + i * 7);
	if (op == BLOCKDEV_READ) {
		io->checked = true;
		io->want = malloc(length);
		memcpy(io->want, model + offset, length);
	}
	for (int i = 0; i < DEPTH; i++) {
		if (!ios[i].busy || !overlap(&ios[i].req, &io->req))
			continue;
		if (blockdev_op_changes(ios[i].req.op))
			io->checked = false;
		if (blockdev_op_changes(op))
			ios[i].checked = false;
	}
	if (blockdev_op_changes(op))
		model_apply(model, &io->req);
	io_submit(io);
}

TEST(blockdev_align, random_overlapping_requests_match_a_model_in_order_of_submission)
{
	for (uint64_t seed = 1; seed <= 12; seed++) {
		static struct io ios[DEPTH];
		struct fixture f;
		uint8_t *model = calloc(1, SIZE_BYTES);
		fixture_open(&f, seed, true);
		for (int n = 0; n < 3000; n++) {
			struct io *io = &ios[env_random(f.env) % DEPTH];
			if (!io->busy)
				random_io(&f, ios, io, model);
			if (env_random(f.env) % 4 == 0)
				(void)fake_env_turn(&f.fuzz.fake);
		}
		fuzz_env_run(&f.fuzz, SECOND_NS);
		for (int i = 0; i < DEPTH; i++) {
			CHECK(!ios[i].busy);
			CHECK_EQ(ios[i].status, 0);
			free(ios[i].pages);
			ios[i].pages = NULL;
		}
		check_contents(&f, model);
		free(model);
		fixture_close(&f);
	}
}

TEST(blockdev_align, an_aligned_write_needs_no_read_and_is_split_by_the_lower_limit)
{
	struct fixture f;
	fixture_open(&f, 1, false);
	CHECK_EQ(run(&f, BLOCKDEV_WRITE, 0, 10 * BLOCK_BYTES, 1), 0);
	CHECK_EQ(blockdev_mem_seen(f.mem, BLOCKDEV_WRITE), 4);
	CHECK_EQ(blockdev_mem_seen(f.mem, BLOCKDEV_READ), 0);
	fixture_close(&f);
}

TEST(blockdev_align, an_unaligned_write_reads_its_two_edge_blocks_alone)
{
	struct fixture f;
	fixture_open(&f, 1, false);
	CHECK_EQ(run(&f, BLOCKDEV_WRITE, 100, 8 * BLOCK_BYTES, 1), 0);
	CHECK_EQ(blockdev_mem_seen(f.mem, BLOCKDEV_READ), 2);
	CHECK_EQ(blockdev_mem_seen(f.mem, BLOCKDEV_WRITE), 3);
	CHECK_EQ(run(&f, BLOCKDEV_WRITE, 5, 1, 1), 0);
	CHECK_EQ(blockdev_mem_seen(f.mem, BLOCKDEV_READ), 3);
	fixture_close(&f);
}

TEST(blockdev_align, a_trim_inside_a_block_does_nothing)
{
	struct fixture f;
	fixture_open(&f, 1, false);
	CHECK_EQ(run(&f, BLOCKDEV_TRIM, 100, BLOCK_BYTES, 0), 0);
	CHECK_EQ(blockdev_mem_seen(f.mem, BLOCKDEV_TRIM), 0);
	fixture_close(&f);
}

TEST(blockdev_align, zero_clears_whole_blocks_as_holes_and_writes_the_edges)
{
	struct fixture f;
	fixture_open(&f, 1, false);
	CHECK_EQ(run(&f, BLOCKDEV_WRITE, 0, 6 * BLOCK_BYTES, 1), 0);
	CHECK_EQ(run(&f, BLOCKDEV_ZERO, 10, 5 * BLOCK_BYTES, 0), 0);
	CHECK_EQ(blockdev_mem_used_bytes(f.mem), 2 * BLOCK_BYTES);
	uint8_t *model = calloc(1, SIZE_BYTES);
	memset(model, 1, 10);
	memset(model + 10 + 5 * BLOCK_BYTES, 1, BLOCK_BYTES - 10);
	check_contents(&f, model);
	free(model);
	fixture_close(&f);
}

TEST(blockdev_align, what_is_not_within_the_device_is_refused)
{
	struct fixture f;
	fixture_open(&f, 1, false);
	CHECK_EQ(run(&f, BLOCKDEV_READ, SIZE_BYTES - 1, 2, 0), -EINVAL);
	CHECK_EQ(run(&f, BLOCKDEV_WRITE, SIZE_BYTES, 1, 0), -EINVAL);
	CHECK_EQ(run(&f, BLOCKDEV_ZERO, 0, SIZE_BYTES + 1, 0), -EINVAL);
	CHECK_EQ(blockdev_mem_seen(f.mem, BLOCKDEV_WRITE), 0);
	fixture_close(&f);
}

static int fail_reads(void *ctx, const struct blockdev_req *req)
{
	(void)ctx;
	return req->op == BLOCKDEV_READ ? -EIO : 0;
}

TEST(blockdev_align, a_failed_read_of_an_edge_fails_the_write_and_lets_the_next_ones_go)
{
	struct fixture f;
	struct io ios[5] = {0};
	fixture_open(&f, 1, false);
	f.fail = fail_reads;
	for (int i = 0; i < 5; i++) {
		io_prepare(&ios[i], &f, BLOCKDEV_WRITE, 0, i == 4 ? BLOCK_BYTES : 100);
		memset(ios[i].req.buf, i, ios[i].req.length_bytes);
		io_submit(&ios[i]);
	}
	fuzz_env_run(&f.fuzz, SECOND_NS);
	for (int i = 0; i < 5; i++) {
		CHECK(ios[i].done);
		CHECK_EQ(ios[i].status, i == 4 ? 0 : -EIO);
		free(ios[i].pages);
	}
	f.fail = NULL;
	uint8_t *model = calloc(1, SIZE_BYTES);
	memset(model, 4, BLOCK_BYTES);
	check_contents(&f, model);
	free(model);
	fixture_close(&f);
}

static int fail_fourth_block(void *ctx, const struct blockdev_req *req)
{
	(void)ctx;
	return req->offset_bytes / BLOCK_BYTES == 3 ? -ENOSPC : 0;
}

TEST(blockdev_align, the_first_error_of_a_split_request_is_its_status)
{
	struct fixture f;
	fixture_open(&f, 1, false);
	f.fail = fail_fourth_block;
	CHECK_EQ(run(&f, BLOCKDEV_WRITE, 0, 30 * BLOCK_BYTES, 1), -ENOSPC);
	f.fail = NULL;
	CHECK_EQ(run(&f, BLOCKDEV_WRITE, 0, 30 * BLOCK_BYTES, 1), 0);
	fixture_close(&f);
}

TEST(blockdev_align, status_is_clipped_to_the_request)
{
	struct blockdev_extent extents[4];
	struct fixture f;
	struct io io = {0};
	fixture_open(&f, 1, false);
	CHECK_EQ(run(&f, BLOCKDEV_WRITE, BLOCK_BYTES, BLOCK_BYTES, 1), 0);
	io_prepare(&io, &f, BLOCKDEV_STATUS, 100, 2 * BLOCK_BYTES);
	io.req.extents = extents;
	io.req.extents_max = 4;
	CHECK_EQ(io_run(&io), 0);
	CHECK_EQ(io.req.extents_count, 3);
	CHECK_EQ(extents[0].length_bytes, BLOCK_BYTES - 100);
	CHECK_EQ(extents[0].flags, BLOCKDEV_EXTENT_HOLE | BLOCKDEV_EXTENT_ZERO);
	CHECK_EQ(extents[1].length_bytes, BLOCK_BYTES);
	CHECK_EQ(extents[1].flags, 0);
	CHECK_EQ(extents[2].length_bytes, 100);
	free(io.pages);
	fixture_close(&f);
}

TEST(blockdev_align, a_config_that_cannot_work_is_refused)
{
	struct fixture f;
	struct blockdev_align *align = NULL;
	struct blockdev_align_config config = {
		.ops_max = 0, .edges_max = 1, .payload_max_bytes = 65536};
	fixture_open(&f, 1, false);
	CHECK_EQ(blockdev_align_create(f.env, blockdev_mem_dev(f.mem), &config, &align, NULL),
		 -EINVAL);
	config.ops_max = 1;
	config.payload_max_bytes = 1;
	CHECK_EQ(blockdev_align_create(f.env, blockdev_mem_dev(f.mem), &config, &align, NULL),
		 -EINVAL);
	CHECK(align == NULL);
	fixture_close(&f);
}
