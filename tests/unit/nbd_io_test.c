/* SPDX-License-Identifier: Apache-2.0 */
/* Transmission: each command and flag, errors, limits, ends; by a client that speaks bytes. */
#include "tests/unit/nbd_client.h"
#include "volmgr/nbd_pages.h"

static uint8_t *pattern(uint32_t bytes, uint32_t seed)
{
	uint8_t *p = malloc(bytes);
	for (uint32_t i = 0; i < bytes; i++)
		p[i] = (uint8_t)(1 + (i * 31 + seed) % 255); /* never zero */
	return p;
}
static uint32_t run_write(struct client *c, uint64_t offset, uint32_t length, uint32_t seed)
{
	uint8_t *data = pattern(length, seed);
	uint32_t error = client_run(c, (struct cmd){NBD_CMD_WRITE, 0, offset, length, data}, NULL);
	free(data);
	return error;
}

/* ---- reads and writes ---- */

NBD_TEST(nbd_io, what_is_written_is_read_at_any_alignment)
{
	static const uint32_t lengths[] = {1, 511, 512, 4096, 4097, 65536, 1000003, 5 << 20};
	struct client c;
	client_begin(&c, f, "vol", false);
	for (uint32_t i = 0; i < ARRAY_LEN(lengths); i++) {
		uint32_t length = lengths[i];
		uint64_t offset = (8ull << 20) + i * 1234567;
		uint8_t *want = pattern(length, i), *got = malloc(length);
		CHECK_EQ(run_write(&c, offset, length, i), 0);
		CHECK_EQ(client_run(&c, (struct cmd){NBD_CMD_READ, 0, offset, length, NULL}, got),
			 0);
		CHECK(memcmp(want, got, length) == 0);
		free(want);
		free(got);
	}
	client_close(&c);
}

NBD_TEST(nbd_io, the_longest_request_goes_through_both_ways)
{
	uint32_t length = 32u << 20;
	uint8_t *want = pattern(length, 5), *got = malloc(length);
	struct client c;
	client_begin(&c, f, "vol", false);
	CHECK_EQ(client_run(&c, (struct cmd){NBD_CMD_WRITE, 0, 12345, length, want}, NULL), 0);
	CHECK_EQ(client_run(&c, (struct cmd){NBD_CMD_READ, 0, 12345, length, NULL}, got), 0);
	CHECK(memcmp(want, got, length) == 0);
	free(want);
	free(got);
	client_close(&c);
}

NBD_TEST(nbd_io, a_structured_read_sends_data_and_holes_in_chunks)
{
	struct client c;
	uint8_t *want = pattern(4096, 3);
	client_begin(&c, f, "vol", true);
	CHECK_EQ(run_write(&c, 8192, 4096, 3), 0);
	client_cmd(&c, &(struct cmd){NBD_CMD_READ, 0, 4000, 10000, NULL}, COOKIE(1));
	struct chunk chunk = client_chunk(&c);
	CHECK_EQ(chunk.type, NBD_CHUNK_OFFSET_HOLE);
	CHECK_EQ(chunk.flags, 0);
	CHECK_EQ(be64_at(chunk.data), 4000);
	CHECK_EQ(be32_at(chunk.data + 8), 4192);
	free(chunk.data);
	chunk = client_chunk(&c);
	CHECK_EQ(chunk.type, NBD_CHUNK_OFFSET_DATA);
	CHECK_EQ(be64_at(chunk.data), 8192);
	CHECK_EQ(chunk.length, 8 + 4096);
	CHECK(memcmp(chunk.data + 8, want, 4096) == 0);
	free(chunk.data);
	chunk = client_chunk(&c);
	CHECK_EQ(chunk.type, NBD_CHUNK_OFFSET_HOLE);
	CHECK_EQ(chunk.flags, NBD_CHUNK_FLAG_DONE);
	CHECK_EQ(be64_at(chunk.data), 12288);
	CHECK_EQ(be32_at(chunk.data + 8), 14000 - 12288);
	free(chunk.data);
	free(want);
	client_close(&c);
}

NBD_TEST(nbd_io, a_read_with_df_is_one_chunk)
{
	struct client c;
	client_begin(&c, f, "vol", true);
	CHECK_EQ(run_write(&c, 8192, 4096, 3), 0);
	client_cmd(&c, &(struct cmd){NBD_CMD_READ, NBD_CMD_FLAG_DF, 0, 65536, NULL}, COOKIE(1));
	struct chunk chunk = client_chunk(&c);
	CHECK_EQ(chunk.type, NBD_CHUNK_OFFSET_DATA);
	CHECK_EQ(chunk.flags, NBD_CHUNK_FLAG_DONE);
	CHECK_EQ(chunk.length, 8 + 65536);
	free(chunk.data);
	client_cmd(&c, &(struct cmd){NBD_CMD_READ, NBD_CMD_FLAG_DF, 65536, 65536, NULL}, COOKIE(1));
	chunk = client_chunk(&c);
	CHECK_EQ(chunk.type, NBD_CHUNK_OFFSET_HOLE);
	CHECK_EQ(chunk.flags, NBD_CHUNK_FLAG_DONE);
	free(chunk.data);
	client_close(&c);
}

NBD_TEST(nbd_io, a_read_of_many_alternating_blocks_is_whole_in_few_chunks)
{
	struct client c;
	uint32_t length = 64 * 4096, chunks = 0;
	uint8_t *want = calloc(1, length), *got = malloc(length), *block = pattern(4096, 9);
	client_begin(&c, f, "vol", true);
	for (uint32_t at = 4096; at < length; at += 8192) {
		CHECK_EQ(run_write(&c, at, 4096, 9), 0);
		memcpy(want + at, block, 4096);
	}
	memset(got, 0xee, length);
	client_cmd(&c, &(struct cmd){NBD_CMD_READ, 0, 0, length, NULL}, COOKIE(1));
	bool last = false;
	for (; !last; chunks++) {
		struct chunk chunk = client_chunk(&c);
		uint64_t at = be64_at(chunk.data);
		last = chunk.flags & NBD_CHUNK_FLAG_DONE;
		if (chunk.type == NBD_CHUNK_OFFSET_HOLE)
			memset(got + at, 0, be32_at(chunk.data + 8));
		else
			memcpy(got + at, chunk.data + 8, chunk.length - 8);
		free(chunk.data);
	}
	CHECK(chunks <= 8);
	CHECK(memcmp(want, got, length) == 0);
	free(want);
	free(got);
	free(block);
	client_close(&c);
}

/* ---- the other commands ---- */

NBD_TEST(nbd_io, flush_and_fua_reach_the_device)
{
	uint8_t data[512] = {1};
	struct client c;
	client_begin(&c, f, "vol", false);
	CHECK_EQ(client_run(&c, (struct cmd){.command = NBD_CMD_FLUSH}, NULL), 0);
	CHECK_EQ(client_run(&c, (struct cmd){NBD_CMD_WRITE, NBD_CMD_FLAG_FUA, 5, 512, data}, NULL),
		 0);
	CHECK_EQ(client_run(&c, (struct cmd){NBD_CMD_TRIM, NBD_CMD_FLAG_FUA, 0, 8192, NULL}, NULL),
		 0);
	CHECK_EQ(blockdev_mem_seen(f->mem, BLOCKDEV_FLUSH), 1);
	CHECK_EQ(blockdev_mem_seen(f->mem, BLOCKDEV_TRIM), 1);
	client_close(&c);
}

NBD_TEST(nbd_io, trim_gives_space_back_and_write_zeroes_keeps_it_with_no_hole)
{
	uint8_t got[8192], zeroes[8192] = {0};
	struct client c;
	client_begin(&c, f, "vol", false);
	CHECK_EQ(run_write(&c, 0, 32768, 1), 0);
	CHECK_EQ(blockdev_mem_used_bytes(f->mem), 32768);
	CHECK_EQ(client_run(&c, (struct cmd){NBD_CMD_TRIM, 0, 0, 8192, NULL}, NULL), 0);
	CHECK_EQ(blockdev_mem_used_bytes(f->mem), 24576);
	CHECK_EQ(client_run(
			 &c,
			 (struct cmd){NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_NO_HOLE, 8192, 8192, NULL},
			 NULL),
		 0);
	CHECK_EQ(blockdev_mem_used_bytes(f->mem), 24576);
	CHECK_EQ(client_run(&c, (struct cmd){NBD_CMD_READ, 0, 8192, 8192, NULL}, got), 0);
	CHECK(memcmp(got, zeroes, 8192) == 0);
	uint16_t flags = NBD_CMD_FLAG_FAST_ZERO | NBD_CMD_FLAG_FUA;
	CHECK_EQ(client_run(&c, (struct cmd){NBD_CMD_WRITE_ZEROES, flags, 16384, 8192, NULL}, NULL),
		 0);
	CHECK_EQ(blockdev_mem_used_bytes(f->mem), 16384);
	CHECK_EQ(client_run(&c, (struct cmd){NBD_CMD_CACHE, 0, 0, 65536, NULL}, NULL), 0);
	client_close(&c);
}

NBD_TEST(nbd_io, block_status_tells_data_zero_and_hole_and_one_extent_when_asked)
{
	struct client c;
	client_begin(&c, f, "vol", true);
	CHECK_EQ(run_write(&c, 4096, 8192, 1), 0);
	CHECK_EQ(client_run(
			 &c,
			 (struct cmd){NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_NO_HOLE, 8192, 4096, NULL},
			 NULL),
		 0);
	client_cmd(&c, &(struct cmd){NBD_CMD_BLOCK_STATUS, 0, 100, 20000, NULL}, COOKIE(1));
	struct chunk chunk = client_chunk(&c);
	static const uint32_t want[] = {3996, 3, 4096, 0, 4096, 2, 7812, 3};
	CHECK_EQ(chunk.type, NBD_CHUNK_BLOCK_STATUS);
	CHECK_EQ(chunk.flags, NBD_CHUNK_FLAG_DONE);
	CHECK_EQ(chunk.length, 4 + sizeof(want));
	CHECK_EQ(be32_at(chunk.data), NBD_CONTEXT_ALLOCATION_ID);
	for (uint32_t i = 0; i < ARRAY_LEN(want); i++)
		CHECK_EQ(be32_at(chunk.data + 4 + 4 * i), want[i]);
	free(chunk.data);
	client_cmd(&c, &(struct cmd){NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_REQ_ONE, 100, 20000, NULL},
		   COOKIE(2));
	chunk = client_chunk(&c);
	CHECK_EQ(chunk.length, 4 + 8);
	CHECK_EQ(be32_at(chunk.data + 4), 3996);
	free(chunk.data);
	client_close(&c);
}

/* ---- errors ---- */

NBD_TEST(nbd_io, a_bad_request_gets_its_error_and_the_stream_stays_in_step)
{
	static uint8_t payload[4096];
	uint32_t over = (32u << 20) + 1;
	const struct {
		struct cmd cmd;
		uint32_t error;
	} cases[] = {
		{{NBD_CMD_READ, 0, VOL_BYTES - 1, 2, NULL}, NBD_EINVAL},
		{{NBD_CMD_READ, 0, UINT64_MAX, 4096, NULL}, NBD_EINVAL},
		{{NBD_CMD_READ, 0, 0, 0, NULL}, NBD_EINVAL},
		{{NBD_CMD_READ, 0, 0, over, NULL}, NBD_EINVAL},
		{{NBD_CMD_READ, NBD_CMD_FLAG_DF, 0, over, NULL}, NBD_EOVERFLOW},
		{{NBD_CMD_READ, NBD_CMD_FLAG_REQ_ONE, 0, 512, NULL}, NBD_EINVAL},
		{{NBD_CMD_READ, 1 << 15, 0, 512, NULL}, NBD_EINVAL},
		{{NBD_CMD_WRITE, 0, VOL_BYTES, 4096, payload}, NBD_ENOSPC},
		{{NBD_CMD_WRITE, 0, VOL_BYTES - 1, 4096, payload}, NBD_ENOSPC},
		{{NBD_CMD_WRITE, NBD_CMD_FLAG_NO_HOLE, 0, 4096, payload}, NBD_EINVAL},
		{{NBD_CMD_WRITE_ZEROES, 0, VOL_BYTES, 1, NULL}, NBD_ENOSPC},
		{{NBD_CMD_TRIM, 0, VOL_BYTES, 1, NULL}, NBD_EINVAL},
		{{NBD_CMD_CACHE, 0, VOL_BYTES, 1, NULL}, NBD_EINVAL},
		{{NBD_CMD_BLOCK_STATUS, 0, VOL_BYTES, 1, NULL}, NBD_EINVAL},
		{{NBD_CMD_BLOCK_STATUS, 0, 0, 0, NULL}, NBD_EINVAL},
		{{8, 0, 0, 0, NULL}, NBD_EINVAL},
		{{0xffff, 0, 0, 0, NULL}, NBD_EINVAL},
	};
	struct client c;
	client_begin(&c, f, "vol", true);
	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		CHECK(client_run_error(&c, cases[i].cmd) == cases[i].error, "case %zu", i);
	CHECK_EQ(blockdev_mem_seen(f->mem, BLOCKDEV_WRITE), 0);
	CHECK_EQ(client_run(&c, (struct cmd){.command = NBD_CMD_FLUSH}, NULL), 0);
	client_close(&c);
}

NBD_TEST(nbd_io, errors_are_simple_replies_without_structured_ones)
{
	struct client c;
	client_begin(&c, f, "vol", false);
	CHECK_EQ(client_run(&c, (struct cmd){NBD_CMD_READ, 0, VOL_BYTES, 1, NULL}, NULL),
		 NBD_EINVAL);
	CHECK_EQ(client_run(&c, (struct cmd){NBD_CMD_READ, NBD_CMD_FLAG_DF, 0, 1, NULL}, NULL),
		 NBD_EINVAL);
	CHECK_EQ(client_run(&c, (struct cmd){NBD_CMD_BLOCK_STATUS, 0, 0, 1, NULL}, NULL),
		 NBD_EINVAL);
	client_close(&c);
}

NBD_TEST(nbd_io, a_write_that_is_too_long_is_skipped_whole)
{
	uint32_t length = (33u << 20) + 5;
	uint8_t *payload = calloc(1, length);
	struct client c;
	client_begin(&c, f, "vol", true);
	CHECK_EQ(client_run_error(&c, (struct cmd){NBD_CMD_WRITE, 0, 0, length, payload}),
		 NBD_EINVAL);
	CHECK_EQ(client_run(&c, (struct cmd){.command = NBD_CMD_FLUSH}, NULL), 0);
	client_close(&c);
	free(payload);
}

NBD_TEST(nbd_io, a_read_only_export_refuses_changes_with_eperm)
{
	uint8_t data[4096] = {1};
	struct client c;
	client_begin(&c, f, "ro", true);
	CHECK_EQ(client_run_error(&c, (struct cmd){NBD_CMD_WRITE, 0, 0, 4096, data}), NBD_EPERM);
	CHECK_EQ(client_run_error(&c, (struct cmd){NBD_CMD_TRIM, 0, 0, 4096, NULL}), NBD_EPERM);
	CHECK_EQ(client_run_error(&c, (struct cmd){NBD_CMD_WRITE_ZEROES, 0, 0, 4096, NULL}),
		 NBD_EPERM);
	CHECK_EQ(client_run(&c, (struct cmd){.command = NBD_CMD_FLUSH}, NULL), 0);
	client_close(&c);
}

static int failing_errno;
static int fail_all(const struct blockdev_req *req)
{
	(void)req;
	return failing_errno;
}

NBD_TEST(nbd_io, errors_of_the_device_become_errors_of_the_protocol)
{
	static const struct {
		int status;
		uint32_t error;
	} cases[] = {{-EIO, NBD_EIO},       {-ENOSPC, NBD_ENOSPC},   {-ESHUTDOWN, NBD_ESHUTDOWN},
		     {-ETIMEDOUT, NBD_EIO}, {-ENOTSUP, NBD_ENOTSUP}, {-EROFS, NBD_EPERM},
		     {-ENOMEM, NBD_ENOMEM}, {-EILSEQ, NBD_EIO}};
	struct client c;
	client_begin(&c, f, "vol", true);
	f->fail = fail_all;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		failing_errno = cases[i].status;
		CHECK_EQ(client_run_error(&c, (struct cmd){NBD_CMD_READ, 0, 0, 4096, NULL}),
			 cases[i].error);
		CHECK_EQ(client_run_error(&c, (struct cmd){.command = NBD_CMD_FLUSH}),
			 cases[i].error);
	}
	f->fail = NULL;
	CHECK_EQ(client_run(&c, (struct cmd){.command = NBD_CMD_FLUSH}, NULL), 0);
	client_close(&c);
}

NBD_TEST(nbd_io, bytes_that_are_no_request_close_that_client_alone)
{
	uint8_t garbage[28] = {0};
	struct client good, bad;
	client_begin(&good, f, "vol", false);
	client_begin(&bad, f, "vol", false);
	client_send(&bad, garbage, sizeof(garbage));
	client_expect_close(&bad);
	client_close(&bad);
	CHECK_EQ(client_run(&good, (struct cmd){.command = NBD_CMD_FLUSH}, NULL), 0);
	client_close(&good);
}

/* ---- limits ---- */

NBD_TEST(nbd_io, requests_beyond_the_limit_wait_and_all_are_answered)
{
	enum { COUNT = 1000 };
	static uint8_t bytes[COUNT * NBD_REQUEST_BYTES];
	static bool seen[COUNT];
	struct client c;
	client_begin(&c, f, "vol", true);
	for (uint32_t i = 0; i < COUNT; i++)
		cmd_put(bytes + i * NBD_REQUEST_BYTES,
			&(struct cmd){i % 5 ? NBD_CMD_FLUSH : NBD_CMD_CACHE, 0, 0, i % 5 ? 0 : 512,
				      NULL},
			i);
	blockdev_mem_hold(f->mem, true);
	client_send(&c, bytes, sizeof(bytes));
	WAIT_FOR(f, blockdev_mem_queued(f->mem) >= 120);
	bool turn = false;
	(void)loop_run_until(f->w.loop, &turn, env_now_ns(f->w.env) + 5000000);
	CHECK(blockdev_mem_queued(f->mem) <= 128);
	blockdev_mem_hold(f->mem, false);
	for (uint32_t i = 0; i < COUNT; i++) {
		uint64_t cookie;
		CHECK_EQ(client_simple(&c, &cookie), 0);
		CHECK(cookie < COUNT && !seen[cookie]);
		seen[cookie] = true;
	}
	client_close(&c);
}

static void small_config(struct nbd_config *config)
{
	nbd_config_default(config);
	config->request_max_bytes = 1u << 20;
	config->payload_bytes = 2u << 20;
}

TEST(nbd_io, memory_is_shared_in_turn_and_comes_back)
{
	enum { CLIENTS = 6 };
	struct client c[CLIENTS];
	struct nbd_config config;
	struct nbd_stats stats;
	struct fixture f;
	small_config(&config);
	fixture_start(&f, &config);
	uint8_t *payload = pattern(1u << 20, 1), *got = malloc(1u << 20);
	for (int i = 0; i < CLIENTS; i++)
		client_begin(&c[i], &f, "vol", false);
	blockdev_mem_hold(f.mem, true);
	struct cmd cmd = {NBD_CMD_READ, 0, 0, 1u << 20, NULL};
	for (int i = 0; i < CLIENTS; i++)
		client_cmd(&c[i], &cmd, COOKIE(i));
	WAIT_FOR(&f, blockdev_mem_queued(f.mem) == 2);
	nbd_server_stats(f.server, &stats);
	CHECK_EQ(stats.payload_used_bytes, 2 << 20);
	blockdev_mem_hold(f.mem, false);
	for (int i = 0; i < CLIENTS; i++) {
		CHECK_EQ(client_simple(&c[i], NULL), 0);
		CHECK(client_recv(&c[i], got, 1u << 20));
	}
	for (int i = 0; i < CLIENTS; i++) {
		cmd = (struct cmd){NBD_CMD_WRITE, 0, (uint64_t)i << 20, 1u << 20, payload};
		CHECK_EQ(client_run(&c[i], cmd, NULL), 0);
		client_close(&c[i]);
	}
	free(payload);
	free(got);
	fixture_end(&f);
}

TEST(nbd_io, a_client_that_stalls_while_holding_memory_gives_way)
{
	struct client stalled[2], good, idle;
	struct nbd_config config;
	struct fixture f;
	small_config(&config);
	config.stall_timeout_ns = SECOND_NS / 10;
	fixture_start(&f, &config);
	client_begin(&idle, &f, "vol", false);
	for (int i = 0; i < 2; i++) {
		uint8_t head[NBD_REQUEST_BYTES];
		client_begin(&stalled[i], &f, "vol", false);
		cmd_put(head, &(struct cmd){NBD_CMD_WRITE, 0, 0, 1u << 20, NULL}, 1);
		client_send(&stalled[i], head, sizeof(head));
		client_send(&stalled[i], "half", 4);
	}
	client_begin(&good, &f, "vol", false);
	CHECK_EQ(run_write(&good, 0, 1u << 20, 1), 0);
	CHECK_EQ(client_run(&idle, (struct cmd){.command = NBD_CMD_FLUSH}, NULL), 0);
	client_close(&good);
	client_close(&idle);
	client_close(&stalled[0]);
	client_close(&stalled[1]);
	fixture_end(&f);
}

/* ---- ends ---- */

NBD_TEST(nbd_io, disconnect_answers_what_is_outstanding_first)
{
	uint8_t bytes[3 * NBD_REQUEST_BYTES];
	struct client c;
	client_begin(&c, f, "vol", false);
	blockdev_mem_hold(f->mem, true);
	cmd_put(bytes, &(struct cmd){.command = NBD_CMD_FLUSH}, 1);
	cmd_put(bytes + 28, &(struct cmd){NBD_CMD_WRITE_ZEROES, 0, 0, 4096, NULL}, 2);
	cmd_put(bytes + 56, &(struct cmd){.command = NBD_CMD_DISC}, 3);
	client_send(&c, bytes, sizeof(bytes));
	WAIT_FOR(f, blockdev_mem_queued(f->mem) == 2);
	blockdev_mem_hold(f->mem, false);
	CHECK_EQ(client_simple(&c, NULL), 0);
	CHECK_EQ(client_simple(&c, NULL), 0);
	client_expect_close(&c);
	client_close(&c);
}

NBD_TEST(nbd_io, a_client_that_vanishes_with_requests_at_the_device_leaves_nothing)
{
	struct client c;
	uint8_t *payload = pattern(100000, 1);
	client_begin(&c, f, "vol", false);
	blockdev_mem_hold(f->mem, true);
	for (uint32_t i = 0; i < 5; i++)
		client_cmd(&c, &(struct cmd){NBD_CMD_WRITE, 0, i * 200000, 100000, payload}, i);
	WAIT_FOR(f, blockdev_mem_queued(f->mem) >= 5);
	client_close(&c);
	blockdev_mem_hold(f->mem, false);
	WAIT_FOR(f, f->opened == 0);
	free(payload);
}

struct disconnecting {
	struct nbd_disconnect disconnect;
	bool done;
};
static void disconnected(struct nbd_disconnect *disconnect)
{
	CONTAINER_OF(disconnect, struct disconnecting, disconnect)->done = true;
}

NBD_TEST(nbd_io, deleting_an_export_closes_its_clients_and_waits_for_their_requests)
{
	struct disconnecting d = {.disconnect.done = disconnected};
	struct client mine, other;
	struct blockdev *dev = blockdev_align_dev(f->align);
	client_begin(&mine, f, "vol", false);
	client_begin(&other, f, "ro", false);
	blockdev_mem_hold(f->mem, true);
	client_cmd(&mine, &(struct cmd){.command = NBD_CMD_FLUSH}, 1);
	WAIT_FOR(f, blockdev_mem_queued(f->mem) == 1);
	CHECK_EQ(nbd_server_clients(f->server, dev), 1);
	nbd_server_disconnect(f->server, dev, &d.disconnect);
	CHECK(!d.done);
	client_expect_close(&mine);
	CHECK(!d.done);
	blockdev_mem_hold(f->mem, false);
	world_wait(&f->w, &d.done);
	CHECK_EQ(nbd_server_clients(f->server, dev), 0);
	CHECK_EQ(client_run(&other, (struct cmd){.command = NBD_CMD_FLUSH}, NULL), 0);
	d.done = false;
	nbd_server_disconnect(f->server, dev, &d.disconnect); /* nobody is there */
	world_wait(&f->w, &d.done);
	client_close(&mine);
	client_close(&other);
}

NBD_TEST(nbd_io, stopping_answers_what_is_outstanding_and_takes_no_new_client)
{
	struct client c;
	client_begin(&c, f, "vol", false);
	blockdev_mem_hold(f->mem, true);
	client_cmd(&c, &(struct cmd){.command = NBD_CMD_FLUSH}, 1);
	WAIT_FOR(f, blockdev_mem_queued(f->mem) == 1);
	f->stop.done = fixture_stopped;
	nbd_server_stop(f->server, &f->stop);
	CHECK(access(f->address + 5, F_OK) != 0);
	blockdev_mem_hold(f->mem, false);
	CHECK_EQ(client_simple(&c, NULL), 0);
	client_expect_close(&c);
	world_wait(&f->w, &f->stopped);
	client_close(&c);
}

NBD_TEST(nbd_io, a_resize_is_seen_by_new_connections)
{
	uint64_t size_bytes;
	struct client before, after;
	blockdev_mem_resize(f->mem, VOL_BYTES / 2);
	client_begin(&before, f, "vol", false);
	blockdev_mem_resize(f->mem, VOL_BYTES);
	client_hello(&after, f, FIXED_NO_ZEROES);
	client_go(&after, "vol", &size_bytes);
	CHECK(size_bytes == VOL_BYTES);
	CHECK_EQ(run_write(&after, VOL_BYTES - 1, 1, 1), 0);
	CHECK_EQ(client_run(&before, (struct cmd){NBD_CMD_READ, 0, VOL_BYTES - 1, 1, NULL}, NULL),
		 NBD_EINVAL);
	client_close(&before);
	client_close(&after);
}

/* ---- memory ---- */

TEST(nbd_pages, runs_never_overlap_and_all_come_back)
{
	enum { RUNS = 64 };
	struct nbd_pages pages;
	struct {
		uint8_t *at;
		uint32_t count;
		uint8_t mark;
	} runs[RUNS] = {0};
	CHECK_EQ(nbd_pages_init(&pages, 1000 * BLOCK_BYTES), 0);
	CHECK_EQ(pages.page_count, 1024);
	srand(7);
	for (int n = 0; n < 20000; n++) {
		int i = rand() % RUNS;
		if (runs[i].at) {
			for (uint32_t p = 0; p < runs[i].count; p++)
				CHECK(runs[i].at[p * BLOCK_BYTES] == runs[i].mark);
			nbd_pages_give(&pages, runs[i].at, runs[i].count);
			runs[i].at = NULL;
			continue;
		}
		runs[i].count = 1 + (uint32_t)rand() % (rand() % 8 ? 4 : 200);
		runs[i].mark = (uint8_t)n;
		runs[i].at = nbd_pages_take(&pages, runs[i].count);
		for (uint32_t p = 0; runs[i].at && p < runs[i].count; p++)
			runs[i].at[p * BLOCK_BYTES] = runs[i].mark;
	}
	for (int i = 0; i < RUNS; i++)
		if (runs[i].at)
			nbd_pages_give(&pages, runs[i].at, runs[i].count);
	CHECK_EQ(pages.used_count, 0);
	uint8_t *all = nbd_pages_take(&pages, 1024);
	CHECK(all != NULL);
	CHECK(nbd_pages_take(&pages, 1) == NULL);
	all[0] = 7;
	nbd_pages_trim(&pages); /* in use */
	nbd_pages_trim(&pages);
	CHECK_EQ(all[0], 7);
	nbd_pages_give(&pages, all, 1024);
	all = nbd_pages_take(&pages, 1);
	nbd_pages_give(&pages, all, 1);
	nbd_pages_trim(&pages); /* was in use just now */
	CHECK_EQ(all[0], 7);
	nbd_pages_trim(&pages);
	CHECK_EQ(all[0], 0); /* the kernel has it */
	nbd_pages_fini(&pages);
}
