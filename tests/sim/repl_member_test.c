/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which members of a volume count for what, in virtual time: I/O without a quorum, learners, where reads go.
 */
#include <errno.h>

#include "tests/sim/repl_world.h"
#include "tests/unit/test.h"

#define TIMEOUT_NS (2 * SIM_S)

/* Three hosts, one volume on all of them, nobody writes. */
static struct world *world_plain(uint64_t seed, uint64_t no_quorum_timeout_ns)
{
	const struct world_plan plan = {.host_count = 3,
					.volume_count = 1,
					.rf = 3,
					.window_entries = 256,
					.no_clients = true,
					.no_quorum_timeout_ns = no_quorum_timeout_ns};
	struct world *w = world_create(seed, &plan);
	w->meta_timeout_ppm = 0;
	w->fake.delay_max_ns = SIM_MS;
	w->fake.checkpoint_ppm = 0;
	CHECK_EQ(sim_run(w->sim, is_converged, w, 10 * SIM_S), 0);
	return w;
}

static struct attach *volume_of(struct world *w)
{
	return &w->gateways[0].attaches[0];
}

static struct host *host_of(struct world *w, uint32_t member)
{
	return &w->hosts[w->volumes[0].hosts[member]];
}

/* ---- one request at a time ---- */

struct io {
	struct coordinator_request request;
	struct iovec iov;
	struct world *w;
	bool done;
	int status;
	uint64_t begun_ns, ended_ns;
	uint8_t buf[BLOCK_BYTES];
};

static void io_done(struct coordinator_request *request, int status)
{
	struct io *io = CONTAINER_OF(request, struct io, request);
	io->done = true;
	io->status = status;
	io->ended_ns = sim_now_ns(io->w->sim);
}

static void io_submit(struct world *w, struct io *io, enum coordinator_op op, uint64_t block)
{
	*io = (struct io){.w = w, .begun_ns = sim_now_ns(w->sim)};
	io->iov = (struct iovec){io->buf, BLOCK_BYTES};
	io->request = (struct coordinator_request){
		.op = op,
		.address_blocks = block,
		.length_blocks = 1,
		.iov = &io->iov,
		.iov_count = 1,
		.done = io_done,
	};
	coordinator_submit(volume_of(w)->coordinator, &io->request);
}

/* ---- without a quorum ---- */

/* One of each kind every 300 ms: all fail, and each within the time-out. */
static void io_must_fail_in_time(struct world *w, uint32_t rounds)
{
	static const enum coordinator_op ops[] = {COORDINATOR_READ, COORDINATOR_WRITE,
						  COORDINATOR_FLUSH};
	uint32_t count = rounds * ARRAY_LEN(ops);
	struct io *ios = calloc(count, sizeof(*ios));
	for (uint32_t i = 0; i < count; i++) {
		io_submit(w, &ios[i], ops[i % ARRAY_LEN(ops)], i);
		if (i % ARRAY_LEN(ops) == 0)
			sim_run_for(w->sim, 300 * SIM_MS);
	}
	sim_run_for(w->sim, TIMEOUT_NS + 100 * SIM_MS);
	for (uint32_t i = 0; i < count; i++) {
		CHECK(ios[i].done, "request %u, op %d, has not ended", i, ios[i].request.op);
		CHECK_EQ(ios[i].status, -EIO);
		CHECK(ios[i].ended_ns - ios[i].begun_ns <= TIMEOUT_NS + 100 * SIM_MS);
	}
	free(ios);
}

static void io_must_succeed(struct world *w, enum coordinator_op op)
{
	struct io io;
	io_submit(w, &io, op, 5);
	CHECK_EQ(sim_run_flag(w->sim, &io.done, 10 * SIM_S), 0);
	CHECK_EQ(io.status, 0);
}

static void fails_with_members_away(uint32_t away)
{
	struct world *w = world_plain(60 + away, TIMEOUT_NS);
	for (uint32_t i = 0; i < away; i++)
		host_gone(host_of(w, 2 - i), SIM_KILL_PROCESS);
	sim_run_for(w->sim, 50 * SIM_MS);
	io_must_fail_in_time(w, 12);
	for (uint32_t i = 0; i < away; i++)
		host_restart(host_of(w, 2 - i));
	CHECK_EQ(sim_run(w->sim, is_converged, w, 10 * SIM_S), 0);
	io_must_succeed(w, COORDINATOR_WRITE);
	io_must_succeed(w, COORDINATOR_READ);
	world_stop(w);
}

/* One replica answers reads, but its lease alone says nothing. */
TEST(repl_no_quorum, reads_that_wait_for_leases_fail)
{
	fails_with_members_away(2);
}

TEST(repl_no_quorum, reads_that_no_replica_can_serve_fail)
{
	fails_with_members_away(3);
}

/* The gateway starts while too few nodes are there: the volume is taken and cannot be opened. */
static void fails_before_the_open(uint32_t away)
{
	struct world *w = world_plain(64 + away, TIMEOUT_NS);
	io_must_succeed(w, COORDINATOR_WRITE);
	gateway_kill(&w->gateways[0]);
	for (uint32_t i = 0; i < away; i++)
		host_gone(host_of(w, 2 - i), SIM_KILL_PROCESS);
	gateway_restart(&w->gateways[0]);
	io_must_fail_in_time(w, 12);
	for (uint32_t i = 0; i < away; i++)
		host_restart(host_of(w, 2 - i));
	CHECK_EQ(sim_run(w->sim, is_converged, w, 10 * SIM_S), 0);
	for (uint32_t i = 0; i < 60; i++) { /* nor is anything left of the time-out */
		io_must_succeed(w, i % 2 == 0 ? COORDINATOR_WRITE : COORDINATOR_READ);
		sim_run_for(w->sim, 50 * SIM_MS);
	}
	world_stop(w);
}

TEST(repl_no_quorum, a_volume_that_cannot_open_fails_in_time)
{
	fails_before_the_open(2);
	fails_before_the_open(3);
}

static uint32_t reads_held_of(struct world *w)
{
	struct coordinator_info info;
	coordinator_info(volume_of(w)->coordinator, &info);
	return info.reads_held;
}

/* A read that is held can be seen: the quorum may be there and leases missing. */
TEST(repl_no_quorum, reads_that_are_held_are_counted)
{
	struct world *w = world_plain(71, 0);
	struct io io;
	io_must_succeed(w, COORDINATOR_READ);
	CHECK_EQ(reads_held_of(w), 0);
	host_gone(host_of(w, 1), SIM_KILL_PROCESS);
	host_gone(host_of(w, 2), SIM_KILL_PROCESS);
	sim_run_for(w->sim, 50 * SIM_MS);
	io_submit(w, &io, COORDINATOR_READ, 5);
	sim_run_for(w->sim, 50 * SIM_MS);
	CHECK_EQ(reads_held_of(w), 1);
	host_restart(host_of(w, 1));
	host_restart(host_of(w, 2));
	CHECK_EQ(sim_run_flag(w->sim, &io.done, 10 * SIM_S), 0);
	CHECK_EQ(reads_held_of(w), 0);
	CHECK_EQ(sim_run(w->sim, is_converged, w, 10 * SIM_S), 0);
	world_stop(w);
}

/* The default: what waits is done when they are back. */
TEST(repl_no_quorum, without_a_time_out_everything_is_held)
{
	struct world *w = world_plain(70, 0);
	struct io ios[3];
	gateway_kill(&w->gateways[0]);
	host_gone(host_of(w, 1), SIM_KILL_PROCESS);
	host_gone(host_of(w, 2), SIM_KILL_PROCESS);
	gateway_restart(&w->gateways[0]);
	io_submit(w, &ios[0], COORDINATOR_READ, 1);
	io_submit(w, &ios[1], COORDINATOR_WRITE, 2);
	io_submit(w, &ios[2], COORDINATOR_FLUSH, 0);
	sim_run_for(w->sim, 20 * SIM_S);
	for (uint32_t i = 0; i < ARRAY_LEN(ios); i++)
		CHECK(!ios[i].done);
	host_restart(host_of(w, 1));
	for (uint32_t i = 0; i < ARRAY_LEN(ios); i++) {
		CHECK_EQ(sim_run_flag(w->sim, &ios[i].done, 10 * SIM_S), 0);
		CHECK_EQ(ios[i].status, 0);
	}
	host_restart(host_of(w, 2));
	CHECK_EQ(sim_run(w->sim, is_converged, w, 10 * SIM_S), 0);
	world_stop(w);
}

/* ---- learners ---- */

#define LEARNER 3u /* the member after three voters */

/* Four hosts: three voters and a learner. */
static struct world *world_learner(uint64_t seed)
{
	const struct world_plan plan = {.host_count = 4,
					.volume_count = 1,
					.rf = 3,
					.learners = 1,
					.window_entries = 64,
					.no_clients = true};
	struct world *w = world_create(seed, &plan);
	w->meta_timeout_ppm = 0;
	w->fake.delay_max_ns = SIM_MS;
	w->fake.checkpoint_ppm = 0;
	return w;
}

static struct coordinator_replica_info member_info(struct world *w, uint32_t member)
{
	struct coordinator_info info;
	coordinator_info(volume_of(w)->coordinator, &info);
	return info.replicas[member];
}

/* It holds all of it, but no read is asked of it. */
TEST(repl_learner, answers_no_read)
{
	struct world *w = world_learner(80);
	struct coordinator_info before, after;
	struct io io;
	CHECK_EQ(sim_run(w->sim, is_converged, w, 10 * SIM_S), 0);
	io_must_succeed(w, COORDINATOR_WRITE);
	for (uint32_t i = 0; i < 3; i++)
		host_gone(host_of(w, i), SIM_KILL_PROCESS);
	sim_run_for(w->sim, 50 * SIM_MS);
	CHECK_EQ(member_info(w, LEARNER).state, REPLICA_LIVE);
	CHECK(!member_info(w, LEARNER).primary);
	coordinator_info(volume_of(w)->coordinator, &before);
	io_submit(w, &io, COORDINATOR_READ, 5);
	sim_run_for(w->sim, SIM_S);
	coordinator_info(volume_of(w)->coordinator, &after);
	CHECK(!io.done && after.reads == before.reads);
	for (uint32_t i = 0; i < 3; i++)
		host_restart(host_of(w, i));
	CHECK_EQ(sim_run(w->sim, is_converged, w, 10 * SIM_S), 0);
	CHECK(io.done && io.status == 0);
	world_stop(w);
}

/* What an open that is not recorded has settled may not be what the next one settles. */
TEST(repl_learner, adopts_from_an_open_epoch_only)
{
	struct world *w = world_learner(81);
	const struct store_replica *learner = &host_of(w, LEARNER)->device.replicas[0];
	for (uint32_t round = 0; round < 10; round++) {
		for (uint32_t i = 0; i < 100000 && !is_converged(w); i++) {
			sim_run_for(w->sim, 100 * SIM_US);
			CHECK(learner->log_epoch <= w->volumes[0].meta_opened,
			      "it has adopted epoch %lu, opened is %lu", learner->log_epoch,
			      w->volumes[0].meta_opened);
		}
		CHECK(is_converged(w));
		CHECK_EQ(learner->log_epoch, w->volumes[0].meta_epoch);
		gateway_kill(&w->gateways[0]);
		gateway_restart(&w->gateways[0]);
	}
	CHECK_EQ(sim_run(w->sim, is_converged, w, 10 * SIM_S), 0);
	world_stop(w);
}

struct comparison {
	struct coordinator_verify verify;
	bool done;
	int status;
};

static void compared(struct coordinator_verify *verify, int status)
{
	struct comparison *c = CONTAINER_OF(verify, struct comparison, verify);
	c->done = true;
	c->status = status;
}

static void found(struct coordinator_verify *verify, const struct coordinator_member *member,
		  uint64_t block, const char *what)
{
	(void)verify;
	CHECK(false, "%s block %lu: %s", member->node_name, block, what);
}

static void compare(struct world *w, bool repair)
{
	struct comparison c = {.verify = {.finding = found, .done = compared, .repair = repair}};
	coordinator_verify(volume_of(w)->coordinator, &c.verify);
	CHECK_EQ(sim_run_flag(w->sim, &c.done, 5 * SIM_S), 0);
	CHECK_EQ(c.status, 0);
}

TEST(repl_learner, holds_up_no_comparison_and_no_open)
{
	struct world *w = world_learner(82);
	CHECK_EQ(sim_run(w->sim, is_converged, w, 10 * SIM_S), 0);
	compare(w, false);
	host_gone(host_of(w, LEARNER), SIM_KILL_PROCESS);
	io_must_succeed(w, COORDINATOR_WRITE);
	compare(w, false);
	compare(w, true);
	gateway_kill(&w->gateways[0]);
	gateway_restart(&w->gateways[0]);
	struct io io;
	io_submit(w, &io, COORDINATOR_READ, 5);
	CHECK_EQ(sim_run_flag(w->sim, &io.done, 2 * SIM_S), 0);
	CHECK_EQ(io.status, 0);
	host_restart(host_of(w, LEARNER));
	CHECK_EQ(sim_run(w->sim, is_converged, w, 10 * SIM_S), 0);
	world_stop(w);
}

/* ---- where reads go ---- */

/* One after the other; how long they took together. */
static uint64_t reads_take_ns(struct world *w, uint32_t count)
{
	uint64_t begun_ns = sim_now_ns(w->sim);
	for (uint32_t i = 0; i < count; i++)
		io_must_succeed(w, COORDINATOR_READ);
	return sim_now_ns(w->sim) - begun_ns;
}

static void slow_set(struct world *w, uint32_t member, uint32_t slow)
{
	host_of(w, member)->device.slow = slow;
}

/* Wherever it stands in the record. */
TEST(repl_reads, a_slow_disk_slows_no_reads_after_the_first)
{
	for (uint32_t member = 0; member < 3; member++) {
		struct world *w = world_plain(90 + member, 0);
		io_must_succeed(w, COORDINATOR_WRITE);
		uint64_t usual_ns = reads_take_ns(w, 200);
		slow_set(w, member, 100);
		(void)reads_take_ns(w, 8);
		uint64_t took_ns = reads_take_ns(w, 200);
		CHECK(took_ns < usual_ns * 3 / 2, "member %u: %lu us, usually %lu us", member,
		      took_ns / 1000, usual_ns / 1000);
		world_stop(w);
	}
}

/* What was slow is tried again, now and then and by one read at a time. */
TEST(repl_reads, a_disk_that_was_slow_is_used_again)
{
	struct world *w = world_plain(93, 0);
	io_must_succeed(w, COORDINATOR_WRITE);
	uint64_t usual_ns = reads_take_ns(w, 200);
	slow_set(w, 0, 100);
	(void)reads_take_ns(w, 8);
	uint64_t begun_ns = sim_now_ns(w->sim), all_ns = 0, count = 0;
	while (sim_now_ns(w->sim) - begun_ns < 300 * SIM_S) {
		all_ns += reads_take_ns(w, 10);
		count += 10;
		sim_run_for(w->sim, 100 * SIM_MS);
	}
	CHECK(all_ns / count < usual_ns / 200 * 3 / 2, "%lu us each", all_ns / count / 1000);
	slow_set(w, 0, 0);
	slow_set(w, 1, 100);
	slow_set(w, 2, 100);
	begun_ns = sim_now_ns(w->sim);
	while (sim_now_ns(w->sim) - begun_ns < 60 * SIM_S)
		(void)reads_take_ns(w, 10);
	CHECK(reads_take_ns(w, 200) < usual_ns * 3 / 2);
	world_stop(w);
}

/* The read that hangs there is not helped yet, but those after it go elsewhere. */
TEST(repl_reads, a_disk_that_hangs_gets_no_more_reads)
{
	struct world *w = world_plain(94, 0);
	struct io hangs;
	io_must_succeed(w, COORDINATOR_WRITE);
	(void)reads_take_ns(w, 50);
	uint32_t reader = 0;
	while (!member_info(w, reader).primary)
		reader++;
	slow_set(w, reader, 100000);
	io_submit(w, &hangs, COORDINATOR_READ, 5);
	sim_run_for(w->sim, 20 * SIM_MS);
	CHECK(!hangs.done);
	CHECK(reads_take_ns(w, 100) < 200 * SIM_MS);
	CHECK(!hangs.done);
	CHECK(sim_run_flag(w->sim, &hangs.done, 40 * SIM_S) == 0 && hangs.status == 0);
	slow_set(w, reader, 0);
	sim_run_for(w->sim, 200 * SIM_S); /* what it had in its queue */
	CHECK_EQ(sim_run(w->sim, is_converged, w, 10 * SIM_S), 0);
	world_stop(w);
}

TEST(repl_reads, go_to_the_node_of_the_same_machine)
{
	for (uint32_t host = 0; host < 3; host++) {
		const struct world_plan plan = {.host_count = 3,
						.volume_count = 1,
						.rf = 3,
						.local_hosts = 1u << host,
						.window_entries = 64,
						.no_clients = true};
		struct world *w = world_create(95 + host, &plan);
		w->meta_timeout_ppm = 0;
		w->fake.delay_max_ns = SIM_MS;
		CHECK_EQ(sim_run(w->sim, is_converged, w, 10 * SIM_S), 0);
		io_must_succeed(w, COORDINATOR_WRITE);
		for (uint32_t i = 0; i < 200; i++) {
			(void)reads_take_ns(w, 1);
			for (uint32_t m = 0; i > 20 && m < 3; m++)
				CHECK_EQ(member_info(w, m).primary, w->volumes[0].hosts[m] == host);
		}
		world_stop(w);
	}
}
