/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The replica protocol under a seeded simulator: three or five nodes, one to three volumes of
 * replication 1 to 5 over the same connections, two gateways that compete for them, clients that
 * read, write, zero, resize and flush, and faults drawn from the seed. SIM_SEEDS=n and SIM_FIRST=k
 * choose the seeds; SIM_LOG=1 shows what happens.
 *
 * Three judges:
 *   store_fake    two replicas never commit different entries, two logs of one epoch never differ
 *   repl_history  each read returns a value that is neither stale nor shown not to have happened
 *   the end       everything healed: open and all replicas live within bounded time,
 * coordinator_verify finds them equal, every acknowledged block reads back, everything shuts down
 * Every fifth seed runs twice and must take the same course.
 */
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "tests/sim/repl_world.h"

#ifndef SIM_SEEDS_DEFAULT
#define SIM_SEEDS_DEFAULT 50
#endif

/* ---- faults ---- */

static void toggle_pause(struct gateway *g)
{
	if (!g->is_up)
		return;
	if (g->is_paused)
		sim_process_resume(g->process);
	else
		sim_process_pause(g->process);
	g->is_paused = !g->is_paused;
}

static void link_faults(struct world *w, uint32_t ppm)
{
	struct sim_link_profile profile = sim_link_profile_default;
	profile.delay_max_ns = 200 * SIM_US << sim_rng_below(&w->rng, 5);
	profile.drop_ppm = profile.duplicate_ppm = profile.reorder_ppm = profile.flip_ppm = ppm;
	profile.reset_ppm = profile.refuse_ppm = ppm;
	profile.timeout_ppm = ppm * 10;
	sim_net_profile_set(w->sim, &profile);
}

static void fault(struct world *w, uint64_t kind)
{
	struct gateway *g = &w->gateways[sim_rng_below(&w->rng, GATEWAYS)];
	struct host *h = &w->hosts[sim_rng_below(&w->rng, w->plan.host_count)];
	switch (kind) {
	case 0:
	case 1:
		host_kill(h);
		break;
	case 2:
	case 3:
	case 4:
		host_restart(h);
		break;
	case 5:
		gateway_kill(g);
		break;
	case 6:
	case 7:
		gateway_restart(g);
		break;
	case 8:
	case 9:
		toggle_pause(g);
		break;
	case 10:
		sim_net_partition(w->sim, (uint32_t)sim_rng_below(&w->rng, 128));
		break;
	case 11:
		sim_link_block(h->process, g->process, true); /* one way */
		break;
	case 12:
	case 13:
		sim_net_heal(w->sim);
		break;
	case 14:
		sim_net_reset(h->process, g->process);
		break;
	case 15:
		for (uint32_t i = 0; i < w->plan.host_count; i++)
			host_kill(&w->hosts[i]);
		break;
	case 16:
		sim_link_clog(h->process, g->process, sim_rng_below(&w->rng, 800 * SIM_MS));
		break;
	case 17:
		host_stop(h);
		break;
	case 18:
	case 19:
		host_checkpoint(h);
		break;
	}
}

#define FAULT_KINDS 20u

/* ---- the end ---- */

struct verify {
	struct coordinator_verify verify;
	bool done;
	int status;
};

static void verify_finding(struct coordinator_verify *verify,
			   const struct coordinator_member *member, uint64_t block,
			   const char *what)
{
	(void)verify;
	if (strcmp(what, "the stored copy does not match its checksum") == 0)
		return; /* rot that was put there */
	fprintf(stderr, "finding: %s block %lu: %s\n", member->node_name, block, what);
	repl_must(false, "a replica differs at the end");
}

static void verify_ended(struct coordinator_verify *verify, int status)
{
	struct verify *v = CONTAINER_OF(verify, struct verify, verify);
	v->status = status;
	v->done = true;
}

struct check {
	struct client client;
	bool done;
	int status;
};

static void check_done(struct coordinator_request *request, int status)
{
	struct check *c = CONTAINER_OF(request, struct check, client.request);
	c->status = status;
	c->done = true;
}

static void read_everything(struct attach *a)
{
	struct world *w = a->volume->world;
	struct check *c = calloc(1, sizeof(*c));
	c->client.attach = a;
	for (uint64_t b = 0; b < a->volume->size_blocks; b += c->client.length) {
		c->client.address = b;
		c->client.length = MIN(a->volume->size_blocks - b, (uint64_t)IO_BLOCKS_MAX);
		c->client.request =
			(struct coordinator_request){.op = COORDINATOR_READ, .done = check_done};
		c->done = false;
		client_submit(&c->client);
		must_come(w, &c->done, "a read at the end hangs");
		repl_must(c->status == 0, "a read at the end failed");
		client_outcome(&c->client, 0);
	}
	free(c);
}

static void world_heal(struct world *w)
{
	link_faults(w, 0);
	sim_net_heal(w->sim);
#ifndef SIM_REAL_STORE
	for (uint32_t i = 0; i < w->plan.host_count; i++)
		w->hosts[i].device.bad_ppm = 0;
#endif
	w->meta_timeout_ppm = 0;
	gateway_kill(&w->gateways[1]);
	if (w->gateways[0].is_paused)
		toggle_pause(&w->gateways[0]);
	gateway_restart(&w->gateways[0]);
	for (uint32_t i = 0; i < w->plan.host_count; i++)
		host_restart(&w->hosts[i]);
}

static void attach_print(const struct attach *a)
{
	struct coordinator_info info;
	fprintf(stderr, "volume %u rf %u size %lu\n", a->volume->index, a->volume->rf,
		a->volume->size_blocks);
	if (a->coordinator == NULL)
		return;
	coordinator_info(a->coordinator, &info);
	fprintf(stderr, "epoch %lu (meta %lu) open %d last %lu commit %lu ended %d closing %d\n",
		info.epoch, a->volume->meta_epoch, info.open, info.last_seq, info.commit_seq,
		a->has_ended, a->closing);
	for (uint32_t i = 0; i < info.replica_count; i++)
		fprintf(stderr, "  %s state %d G %lu L %lu K %lu note %s\n",
			info.replicas[i].member.node_name, info.replicas[i].state,
			info.replicas[i].log_epoch, info.replicas[i].last_seq,
			info.replicas[i].commit_seq, info.replicas[i].note);
	for (uint32_t i = 0; i < CLIENTS; i++)
		if (a->clients[i].busy)
			fprintf(stderr, "  client %u waits: op %d block %lu\n", i,
				a->clients[i].request.op, a->clients[i].address);
}

static uint64_t rot_count(const struct world *w)
{
#ifdef SIM_REAL_STORE
	(void)w;
	return 0;
#else
	return w->fake.rotten;
#endif
}

static void world_finish(struct world *w)
{
	world_heal(w);
	sim_run_for(w->sim, 1 * SIM_S);
	w->quiet = true;
	if (sim_run(w->sim, is_converged, w, 60 * SIM_S) != 0) {
		for (uint32_t i = 0; i < w->plan.volume_count; i++)
			attach_print(&w->gateways[0].attaches[i]);
		repl_must(false, "a volume does not converge after everything was healed");
	}
	for (uint32_t i = 0; i < w->plan.volume_count; i++) {
		struct attach *a = &w->gateways[0].attaches[i];
		struct verify v = {.verify = {.finding = verify_finding, .done = verify_ended}};
		coordinator_verify(a->coordinator, &v.verify);
		must_come(w, &v.done, "the comparison of replicas hangs");
		repl_must(v.status == 0 || rot_count(w) > 0, "the replicas differ at the end");
		read_everything(a);
	}
}

static uint64_t world_end(struct world *w)
{
	world_finish(w);
	uint64_t hash = sim_trace_hash(w->sim);
	if (getenv("SIM_LOG") != NULL) {
		fprintf(stderr,
			"reads %lu writes %lu unknown %lu opens %lu resyncs %lu resizes %lu",
			w->reads, w->writes, w->unknown, w->opens, w->resyncs, w->resizes);
#ifndef SIM_REAL_STORE
		fprintf(stderr, " adopts %lu stages %lu log reads %lu shadows %lu", w->fake.adopts,
			w->fake.stages, w->fake.log_reads, w->fake.shadows_adopted);
#endif
		fprintf(stderr, " hash %lx\n", hash);
	}
	world_stop(w);
	return hash;
}

/* ---- scenarios ---- */

static struct world *world_draw(uint64_t seed)
{
	struct sim_rng rng;
	sim_rng_seed(&rng, seed, 76);
	const struct world_plan plan = {
		.host_count = sim_rng_below(&rng, 2) ? 5 : 3,
		.volume_count = 1 + (uint32_t)sim_rng_below(&rng, VOLUMES_MAX),
		.window_entries = sim_rng_below(&rng, 2) ? 64 : 256,
	};
	return world_create(seed, &plan);
}

static uint64_t run_chaos(uint64_t seed)
{
	struct world *w = world_draw(seed);
	uint64_t mask = sim_rng_next(&w->rng) | 0x1cull; /* which kinds of fault; restarts always */
	link_faults(w, sim_rng_below(&w->rng, 3) == 0 ? 300 : 0);
#ifndef SIM_REAL_STORE
	bool rot = sim_rng_below(&w->rng, 3) == 0; /* on one host only, and where another copy is */
	for (uint32_t i = 0; i < w->plan.volume_count; i++)
		rot = rot && w->volumes[i].rf > 1;
	if (rot)
		w->hosts[sim_rng_below(&w->rng, w->plan.host_count)].device.bad_ppm = 50000;
#endif
	sim_run_for(w->sim, sim_rng_below(&w->rng, 600) * SIM_MS);
	uint64_t faults = 5 + sim_rng_below(&w->rng, 25);
	while (faults-- > 0) {
		uint64_t kind = sim_rng_below(&w->rng, FAULT_KINDS);
		if (mask >> kind & 1)
			fault(w, kind);
		sim_run_for(w->sim, sim_rng_below(&w->rng, 300) * SIM_MS);
	}
	return world_end(w);
}

/* A host is away for long, while others write, zero, resize and take checkpoints; then the next
 * one. */
static uint64_t run_absence(uint64_t seed)
{
	struct world *w = world_draw(seed);
	link_faults(w, 0);
	sim_run_for(w->sim, 500 * SIM_MS);
	uint64_t rounds = 2 + sim_rng_below(&w->rng, 3);
	while (rounds-- > 0) {
		struct host *away = &w->hosts[sim_rng_below(&w->rng, w->plan.host_count)];
		if (sim_rng_below(&w->rng, 2) == 0)
			host_kill(away);
		else
			host_stop(away);
		for (uint64_t i = 0; i < 4; i++) {
			sim_run_for(w->sim, sim_rng_below(&w->rng, 700) * SIM_MS);
			for (uint32_t h = 0; h < w->plan.host_count; h++)
				if (&w->hosts[h] != away && w->hosts[h].is_up)
					host_checkpoint(&w->hosts[h]);
		}
		host_restart(away);
		sim_run_for(w->sim, sim_rng_below(&w->rng, 500) * SIM_MS);
		if (sim_rng_below(&w->rng, 2) == 0) /* the source may be what goes now */
			host_kill(&w->hosts[sim_rng_below(&w->rng, w->plan.host_count)]);
	}
	return world_end(w);
}

#ifndef SIM_REAL_STORE
/* A replica comes back with less than it acknowledged: it must be refilled before it counts. */
static uint64_t run_data_loss(uint64_t seed)
{
	const struct world_plan plan = {
		.host_count = 3, .volume_count = 1, .rf = 3, .window_entries = 128};
	struct world *w = world_create(seed, &plan);
	link_faults(w, 0);
	sim_run_for(w->sim, 500 * SIM_MS);
	w->quiet = true;
	repl_must(sim_run(w->sim, is_converged, w, 60 * SIM_S) == 0,
		  "a healthy volume does not converge");
	struct host *h = &w->hosts[sim_rng_below(&w->rng, w->plan.host_count)];
	host_kill(h);
	repl_must(fake_lose(&h->device.replicas[0], 1 + sim_rng_below(&w->rng, 20)) > 0,
		  "nothing was lost");
	w->quiet = false;
	for (uint32_t i = 0; i < CLIENTS; i++)
		client_later(&w->gateways[0].attaches[0].clients[i], 10 * SIM_MS);
	sim_run_for(w->sim, sim_rng_below(&w->rng, 200) * SIM_MS);
	host_restart(h);
	world_finish(w);
	repl_must(w->lost_events > 0 && w->fake.shadows_adopted > 0, "the loss was not noticed");
	return world_end(w);
}
#endif

/* ---- a discarded range and a replica that did not see it (PROTO-16) ---- */

struct discard {
	struct world *w;
	bool to_end; /* the range goes to the volume's end, the writes before it */
};

static void do_io(struct world *w, enum coordinator_op op, uint64_t address, uint64_t length)
{
	struct check *c = calloc(1, sizeof(*c));
	c->client.attach = &w->gateways[0].attaches[0];
	c->client.address = address;
	c->client.length = length;
	c->client.request = (struct coordinator_request){.op = op, .done = check_done};
	client_submit(&c->client);
	must_come(w, &c->done, "a request hangs");
	repl_must(c->status == 0, "a request failed");
	client_outcome(&c->client, 0);
	free(c);
}

struct checkpointed {
	struct store_op op;
	bool done;
};

static void checkpoint_done(struct store_op *op, int status)
{
	(void)status;
	CONTAINER_OF(op, struct checkpointed, op)->done = true;
}

/* Some entries elsewhere, checkpoints everywhere: logs are trimmed, and what every voter has is settled. */
static void move_on(struct discard *d)
{
	struct world *w = d->w;
	for (uint32_t round = 0; round < 6; round++) {
		for (uint32_t i = 0; i < 4; i++)
			do_io(w, COORDINATOR_WRITE, (d->to_end ? 0 : 600) + i * 8, 8);
		sim_run_for(w->sim, 30 * SIM_MS);
		for (uint32_t i = 0; i < w->plan.host_count; i++) {
			struct checkpointed c = {.op.done = checkpoint_done};
			if (!w->hosts[i].is_up)
				continue;
			store_checkpoint(w->hosts[i].store, &c.op);
			must_come(w, &c.done, "a checkpoint hangs");
		}
	}
}

static uint64_t settled_seq(struct host *h)
{
	struct store_replica_info info;
	store_replica_info(store_replica_find(h->store, &h->specs[0].volume_uuid, 0), &info);
	return info.settled_seq;
}

/* Every voter but `except` (NULL: every one) has settled seq, or none of them. */
static void must_be_settled(struct world *w, const struct host *except, uint64_t seq, bool settled)
{
	for (uint32_t i = 0; i < w->plan.host_count; i++)
		repl_must(&w->hosts[i] == except || (settled_seq(&w->hosts[i]) >= seq) == settled,
			  settled ? "what every voter has is not settled"
				  : "zeros were settled that a voter lacks");
}

static void all_live(struct world *w)
{
	repl_must(sim_run(w->sim, is_converged, w, 60 * SIM_S) == 0,
		  "the volume does not converge");
}

/* One or two whole chunks, and parts of others. Returns the entry's seq. */
static uint64_t zero_range(struct discard *d)
{
	struct coordinator_info info;
	do_io(d->w, COORDINATOR_ZERO, 200, d->to_end ? SIZE_BLOCKS - 200 : 350);
	coordinator_info(d->w->gateways[0].attaches[0].coordinator, &info);
	return info.last_seq;
}

static void discard_away(struct discard *d, struct host *h)
{
	struct world *w = d->w;
	host_kill(h);
	uint64_t zero_seq = zero_range(d);
	move_on(d);
	must_be_settled(w, h, zero_seq, false);
	host_restart(h);
	all_live(w);
	move_on(d);
	must_be_settled(w, NULL, zero_seq, true);
}

#ifdef SIM_REAL_STORE
/* Its disk is as it was before, and the zeros that it once acknowledged have left no trace elsewhere. */
static void discard_rolled_back(struct discard *d, struct host *h, bool is_forgotten)
{
	struct world *w = d->w;
	char path[32];
	host_path(h, path);
	host_kill(h);
	struct sim_disk *disk = sim_disk_find(w->sim, path);
	struct sim_image *image = sim_image_clone(sim_disk_current(disk));
	host_restart(h);
	all_live(w);
	uint64_t zero_seq = zero_range(d);
	move_on(d);
	must_be_settled(w, NULL, zero_seq, true);
	host_kill(h);
	sim_disk_image_set(disk, image);
	sim_image_free(image);
	if (is_forgotten) { /* a new coordinator does not know what it acknowledged */
		gateway_kill(&w->gateways[0]);
		gateway_restart(&w->gateways[0]);
		sim_run_for(w->sim, 3 * SIM_S);
	}
	host_restart(h);
}
#endif

static uint64_t run_discard(uint64_t seed)
{
	const struct world_plan plan = {.host_count = 3,
					.volume_count = 1,
					.rf = 3,
					.window_entries = 128,
					.no_clients = true};
	struct world *w = world_create(seed, &plan);
	struct discard d = {w, sim_rng_below(&w->rng, 2)};
	link_faults(w, 0);
#ifndef SIM_REAL_STORE
	w->fake.checkpoint_ppm = 500000;
	w->fake.keep_entries = 0;
#endif
	all_live(w);
	for (uint64_t at = 192; at < 560; at += 24)
		do_io(w, COORDINATOR_WRITE, at, 8);
	move_on(&d);
	struct host *h = &w->hosts[sim_rng_below(&w->rng, w->plan.host_count)];
#ifdef SIM_REAL_STORE
	if (seed / 8 % 3 != 0)
		discard_rolled_back(&d, h, seed / 8 % 3 == 2);
	else
#endif
		discard_away(&d, h);
	world_finish(w);
#ifndef SIM_REAL_STORE
	repl_must(w->fake.forgotten > 0, "nothing was forgotten");
#endif
	return world_end(w);
}

static void log_drop(void *ctx, enum log_level level, const char *line)
{
	(void)ctx;
	(void)level;
	(void)line;
}

static uint64_t run_one(uint64_t seed)
{
#ifdef SIM_REAL_STORE
	if (seed % 8 == 3)
		return run_discard(seed);
#else
	if (seed % 10 == 9)
		return run_data_loss(seed);
	if (seed % 10 == 8)
		return run_discard(seed);
#endif
	return seed % 4 == 2 ? run_absence(seed) : run_chaos(seed);
}

static bool run_seed(uint64_t seed, const char *program)
{
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0) {
		alarm(300);
		if (getenv("SIM_LOG") == NULL)
			log_sink_set(log_drop, NULL);
		uint64_t hash = run_one(seed);
		if (seed % 5 == 0)
			repl_must(run_one(seed) == hash, "the same seed took another course");
		_exit(0);
	}
	int status = -1;
	waitpid(pid, &status, 0);
	if (status != 0)
		printf("seed %lu failed (status %d); replay: SIM_FIRST=%lu SIM_SEEDS=1 SIM_LOG=1 "
		       "%s\n",
		       seed, status, seed, program);
	return status == 0;
}

static uint64_t from_environment(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);
	return text != NULL ? strtoull(text, NULL, 10) : otherwise;
}

/* Seeds that found something, and kinds of run that the first seeds lack. */
#ifdef SIM_REAL_STORE
static const uint64_t regress[] = {
	11,   /* run_discard, a disk rolled back */
	19,   /* the same, and a coordinator that does not know */
	167,  /* a resize could not be staged, nor go into a shadow */
	5013, /* under UBSan: the checksums of a log entry that has none */
	301,  /* the size of an adopted log was not known to the entries after it */
};
#else
static const uint64_t regress[] = {
	26, /* an entry left the window while it was copied for a feed */
	56, /* the same, in a long absence */
};
#endif

int main(int argc, char **argv)
{
	(void)argc;
	uint64_t seeds = from_environment("SIM_SEEDS", SIM_SEEDS_DEFAULT);
	uint64_t first = from_environment("SIM_FIRST", 1);
	uint64_t passed = 0;
	for (uint64_t i = 0; i < seeds; i++)
		passed += run_seed(first + i, argv[0]);
	for (size_t i = 0; getenv("SIM_FIRST") == NULL && i < ARRAY_LEN(regress); i++) {
		passed += run_seed(regress[i], argv[0]);
		seeds++;
	}
	printf("%lu passed, %lu failed\n", passed, seeds - passed);
	return passed != seeds;
}
