/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How long things take, in virtual time: a replica that was away catches up while a writer goes on
 * at full speed, no resync waits for what cannot come, and what a client notices of a failure is
 * bounded.
 */
#include "tests/sim/repl_world.h"
#include "tests/unit/test.h"

#define WRITER_DEPTH 16u

struct writer {
	struct attach *attach;
	struct sim_rng rng;
	uint64_t acked, last_ack_ns, gap_max_ns;
	bool stopped;
	struct slot {
		struct coordinator_request request;
		struct writer *writer;
		struct iovec iov;
		bool busy;
		uint8_t buf[BLOCK_BYTES];
	} slots[WRITER_DEPTH];
};

static void slot_submit(struct slot *slot);

static void slot_done(struct coordinator_request *request, int status)
{
	struct slot *slot = CONTAINER_OF(request, struct slot, request);
	struct writer *writer = slot->writer;
	uint64_t now_ns = sim_now_ns(writer->attach->volume->world->sim);
	slot->busy = false;
	if (status != 0)
		return;
	writer->acked++;
	writer->gap_max_ns = MAX(writer->gap_max_ns, now_ns - writer->last_ack_ns);
	writer->last_ack_ns = now_ns;
	if (!writer->stopped)
		slot_submit(slot);
}

static void slot_submit(struct slot *slot)
{
	struct writer *writer = slot->writer;
	slot->iov = (struct iovec){slot->buf, BLOCK_BYTES};
	slot->request = (struct coordinator_request){
		.op = COORDINATOR_WRITE,
		.address_blocks = sim_rng_below(&writer->rng, SIZE_BLOCKS),
		.length_blocks = 1,
		.iov = &slot->iov,
		.iov_count = 1,
		.done = slot_done,
	};
	slot->busy = true;
	coordinator_submit(writer->attach->coordinator, &slot->request);
}

static struct writer *writer_start(struct attach *attach)
{
	struct writer *writer = calloc(1, sizeof(*writer));
	writer->attach = attach;
	writer->last_ack_ns = sim_now_ns(attach->volume->world->sim);
	sim_rng_seed(&writer->rng, 1, 99);
	for (uint32_t i = 0; i < WRITER_DEPTH; i++) {
		writer->slots[i].writer = writer;
		slot_submit(&writer->slots[i]);
	}
	return writer;
}

/* Three hosts, one volume on all of them, disks that take up to 4 ms for up to 64 operations at
 * once. */
static struct world *world_plain(uint64_t seed, uint32_t checkpoint_ppm)
{
	const struct world_plan plan = {.host_count = 3,
					.volume_count = 1,
					.rf = 3,
					.window_entries = 256,
					.no_clients = true};
	struct world *w = world_create(seed, &plan);
	w->meta_timeout_ppm = 0;
	w->fake.delay_max_ns = 4 * SIM_MS;
	w->fake.batch_max = 64;
	w->fake.keep_entries = 0;
	w->fake.checkpoint_ppm = checkpoint_ppm;
	CHECK_EQ(sim_run(w->sim, is_converged, w, 10 * SIM_S), 0);
	return w;
}

static struct attach *volume_of(struct world *w)
{
	return &w->gateways[0].attaches[0];
}

static struct coordinator_replica_info replica_of(struct world *w, uint32_t host)
{
	struct coordinator_info info;
	coordinator_info(volume_of(w)->coordinator, &info);
	for (uint32_t i = 0; i < info.replica_count; i++)
		if (w->volumes[0].hosts[i] == host)
			return info.replicas[i];
	return (struct coordinator_replica_info){0};
}

struct waited {
	struct world *w;
	uint32_t host;
};

/* In the stream, and no further behind than what is under way. */
static bool has_caught_up(void *ctx)
{
	const struct waited *wait = ctx;
	struct coordinator_replica_info r = replica_of(wait->w, wait->host);
	return r.state == REPLICA_LIVE && r.lag_entries <= 2 * WRITER_DEPTH;
}

static void writer_finish(struct world *w, struct writer *writer)
{
	writer->stopped = true;
	CHECK_EQ(sim_run(w->sim, is_converged, w, 20 * SIM_S), 0);
	for (uint32_t i = 0; i < WRITER_DEPTH; i++)
		CHECK(!writer->slots[i].busy);
	world_stop(w);
	free(writer);
}

/* Half a second's absence is made up within limit_ns, at no great cost to the writer, and for good.
 */
static void catch_up(struct world *w, uint64_t limit_ns)
{
	struct writer *writer = writer_start(volume_of(w));
	sim_run_for(w->sim, 200 * SIM_MS);
	uint64_t before = writer->acked;
	host_gone(&w->hosts[2], SIM_KILL_PROCESS);
	sim_run_for(w->sim, 500 * SIM_MS);
	uint64_t missed = writer->acked - before;
	CHECK(missed > 6 * w->plan.window_entries, "only %lu writes were missed", missed);
	uint64_t pace = missed / 5; /* per 100 ms */
	host_restart(&w->hosts[2]);
	uint64_t begun_ns = sim_now_ns(w->sim), acked = writer->acked;
	struct waited wait = {w, 2};
	CHECK(sim_run(w->sim, has_caught_up, &wait, limit_ns) == 0, "state %d note %s lag %lu",
	      replica_of(w, 2).state, replica_of(w, 2).note, replica_of(w, 2).lag_entries);
	uint64_t took_ms = (sim_now_ns(w->sim) - begun_ns) / SIM_MS;
	acked = writer->acked - acked;
	fprintf(stderr,
		"missed %lu, caught up after %lu ms in which %lu were written (before: %lu)\n",
		missed, took_ms, acked, pace * took_ms / 100);
	CHECK(acked > pace * took_ms / 200, "the writer was slowed to less than half");
	uint64_t there = 0;
	for (uint32_t i = 0; i < 100; i++) {
		sim_run_for(w->sim, 10 * SIM_MS);
		there += has_caught_up(&wait);
	}
	CHECK(there > 90, "it fell back: %lu of 100", there);
	writer_finish(w, writer);
}

TEST(repl_resync, by_log_catches_up_with_a_writer_at_full_speed)
{
	catch_up(world_plain(1, 0), 3 * SIM_S);
}

TEST(repl_resync, by_pages_catches_up_with_a_writer_at_full_speed)
{
	catch_up(world_plain(2, 200000), 5 * SIM_S);
}

/* Its adoption is what the quorum lacks: to wait for a commit before it would be to wait for ever.
 */
TEST(repl_resync, a_shadow_does_not_wait_for_a_commit_that_needs_it)
{
	struct world *w = world_plain(3, 200000);
	struct writer *writer = writer_start(volume_of(w));
	sim_run_for(w->sim, 200 * SIM_MS);
	host_kill(&w->hosts[2]);
	sim_run_for(w->sim, 300 * SIM_MS);
	host_kill(&w->hosts[1]); /* entries are on host 0 alone now, without a quorum */
	sim_run_for(w->sim, 1000 * SIM_MS);
	uint64_t acked = writer->acked;
	host_restart(&w->hosts[2]);
	struct waited wait = {w, 2};
	CHECK(sim_run(w->sim, has_caught_up, &wait, 5 * SIM_S) == 0, "state %d note %s",
	      replica_of(w, 2).state, replica_of(w, 2).note);
	sim_run_for(w->sim, 100 * SIM_MS);
	CHECK(writer->acked > acked + 100, "writes are held still");
	host_restart(&w->hosts[1]);
	writer_finish(w, writer);
}

TEST(repl_resync, another_source_goes_on_when_one_dies)
{
	for (uint64_t delay_ms = 0; delay_ms < 6; delay_ms++) {
		struct world *w = world_plain(10 + delay_ms, 200000);
		struct writer *writer = writer_start(volume_of(w));
		sim_run_for(w->sim, 100 * SIM_MS);
		host_kill(&w->hosts[2]);
		sim_run_for(w->sim, 300 * SIM_MS);
		host_restart(&w->hosts[2]);
		for (uint32_t i = 0; i < 5000 && replica_of(w, 2).state != REPLICA_SYNCING; i++)
			sim_run_for(w->sim, SIM_MS);
		sim_run_for(w->sim, delay_ms * SIM_MS);
		host_kill(&w->hosts[delay_ms % 2]);
		uint64_t acked = writer->acked;
		sim_run_for(w->sim, 8 * SIM_S); /* a silent death is noticed after 5 s */
		CHECK(writer->acked > acked + 1000, "delay %lu: state %d note %s", delay_ms,
		      replica_of(w, 2).state, replica_of(w, 2).note);
		host_restart(&w->hosts[delay_ms % 2]);
		writer_finish(w, writer);
	}
}

/* ---- what a client notices ---- */

TEST(repl_failure, a_node_that_dies_holds_no_write)
{
	struct world *w = world_plain(30, 20000);
	struct writer *writer = writer_start(volume_of(w));
	sim_run_for(w->sim, 300 * SIM_MS);
	for (uint32_t i = 0; i < 2; i++) {
		writer->gap_max_ns = 0;
		host_gone(&w->hosts[i], i == 1 ? SIM_KILL_SILENT : SIM_KILL_PROCESS);
		sim_run_for(w->sim,
			    i == 1 ? 6 * SIM_S : SIM_S / 2); /* silence is noticed after 5 s */
		fprintf(stderr, "node %u gone: writes held for at most %lu us\n", i,
			writer->gap_max_ns / 1000);
		CHECK(writer->gap_max_ns < 50 * SIM_MS);
		host_restart(&w->hosts[i]);
		struct waited wait = {w, i};
		CHECK_EQ(sim_run(w->sim, has_caught_up, &wait, 15 * SIM_S), 0);
	}
	writer_finish(w, writer);
}

static uint64_t takeover_ms(bool silent)
{
	struct world *w = world_plain(40, 0);
	struct writer *writer = writer_start(volume_of(w));
	sim_run_for(w->sim, 700 * SIM_MS);
	struct gateway *old = &w->gateways[0];
	uint64_t begun_ns = sim_now_ns(w->sim);
	sim_process_kill(old->process, silent ? SIM_KILL_SILENT : SIM_KILL_PROCESS);
	gateway_kill(old);
	gateway_start(&w->gateways[1]);
	free(writer);
	writer = writer_start(&w->gateways[1].attaches[0]);
	for (uint32_t i = 0; i < 10000 && writer->acked == 0; i++)
		sim_run_for(w->sim, SIM_MS);
	uint64_t took_ms = (sim_now_ns(w->sim) - begun_ns) / SIM_MS;
	gateway_kill(&w->gateways[1]);
	free(writer);
	gateway_restart(old);
	CHECK_EQ(sim_run(w->sim, is_converged, w, 20 * SIM_S), 0);
	world_stop(w);
	return took_ms;
}

TEST(repl_failure, a_gateway_is_replaced_within_three_seconds)
{
	uint64_t killed_ms = takeover_ms(false), silent_ms = takeover_ms(true);
	fprintf(stderr, "gateway replaced: writes held for %lu ms (killed), %lu ms (silent)\n",
		killed_ms, silent_ms);
	CHECK(killed_ms <= 3000 && silent_ms <= 3000);
	CHECK(silent_ms >= 500, "nobody waited for the lease of a gateway that may be alive");
}

/* Everything stops and starts again: after a clean stop nobody waits for leases. */
static uint64_t restart_ms(bool clean)
{
	struct world *w = world_plain(50, 0);
	struct writer *writer = writer_start(volume_of(w));
	sim_run_for(w->sim, 300 * SIM_MS);
	struct gateway *g = &w->gateways[0];
	if (clean) { /* as `holdfast down`: gateway, then nodes */
		bool flag = false;
		writer->stopped = true;
		sim_run_for(w->sim, 100 * SIM_MS);
		coordinator_shutdown(volume_of(w)->coordinator, set_flag, &flag);
		must_come(w, &flag, "the coordinator does not shut down");
		coordinator_destroy(volume_of(w)->coordinator);
		volume_of(w)->coordinator = NULL;
		flag = false;
		peers_shutdown(g->peers, set_flag, &flag);
		must_come(w, &flag, "the peers do not shut down");
		peers_destroy(g->peers);
		g->peers = NULL;
		sim_run_for(w->sim, 20 * SIM_MS);
		for (uint32_t i = 0; i < 3; i++)
			host_stop(&w->hosts[i]);
		sim_run_for(w->sim, 200 * SIM_MS);
	}
	gateway_kill(g);
	for (uint32_t i = 0; i < 3; i++) {
		CHECK(w->hosts[i].is_up == !clean, "a clean stop takes long");
		host_kill(&w->hosts[i]);
	}
	free(writer);
	for (uint32_t i = 0; i < 3; i++)
		host_restart(&w->hosts[i]);
	gateway_restart(g);
	uint64_t begun_ns = sim_now_ns(w->sim);
	writer = writer_start(volume_of(w));
	for (uint32_t i = 0; i < 10000 && writer->acked == 0; i++)
		sim_run_for(w->sim, SIM_MS);
	uint64_t took_ms = (sim_now_ns(w->sim) - begun_ns) / SIM_MS;
	writer_finish(w, writer);
	return took_ms;
}

TEST(repl_failure, a_clean_restart_of_everything_waits_for_no_lease)
{
	uint64_t clean_ms = restart_ms(true), killed_ms = restart_ms(false);
	fprintf(stderr, "first write after a restart: %lu ms (clean), %lu ms (killed)\n", clean_ms,
		killed_ms);
	CHECK(clean_ms < 500);
	CHECK(killed_ms >= 900 && killed_ms <= 3000);
}
