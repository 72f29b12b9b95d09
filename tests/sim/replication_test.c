/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The replica protocol under a seeded simulator: three nodes, two gateways that compete for one
 * volume, clients that read, write and zero, and faults drawn from the seed. SIM_SEEDS=n and
 * SIM_FIRST=k choose the seeds; SIM_LOG=1 shows what happens.
 *
 * Three judges:
 *   store_fake  two replicas never commit different entries, two logs of one epoch never differ
 *   history     each read returns a value that is neither older than a write (or read) that ended before
 *               it began, nor one that an earlier read after a reopen had shown not to have happened
 *   the end     everything healed: open and all replicas live within bounded time, coordinator_verify
 *               finds them equal, every acknowledged block reads back, everything shuts down
 */
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "replication/coordinator.h"
#include "replication/node.h"
#include "tests/sim/sim_net.h"
#ifdef SIM_REAL_STORE
#include <stdlib.h>
#include <errno.h>
#include "base/co.h"
#include "tests/sim/sim_disk.h"
struct fake_world {
	struct sim_rng rng;
	uint64_t delay_max_ns, rotten, adopts, stages, log_reads, shadows_adopted;
	uint32_t checkpoint_ppm, keep_entries;
};
struct fake_device {
	uint32_t bad_ppm;
};
static void fake_must(bool holds, const char *what)
{
	if (holds)
		return;
	fprintf(stderr, "replica invariant broken: %s\n", what);
	abort();
}
#else
#include "tests/sim/store_fake.h"
#endif

#ifndef SIM_SEEDS_DEFAULT
#define SIM_SEEDS_DEFAULT 50
#endif
#define NODES 3
#define GATEWAYS 2
#define CLIENTS 5
#define IO_BLOCKS_MAX 8
#define VOLUME_BLOCKS 700u
#define NEVER UINT64_MAX

struct world;

struct host {
	struct world *world;
	struct sim_process *process;
	struct fake_device device;
	struct store *store;
	struct node *node;
	struct uuid uuid, replica_uuid;
	char address[64];
	bool is_up;
#ifdef SIM_REAL_STORE
	struct co *opener;
	bool is_formatted;
	struct store_create create;
#endif
};

struct client {
	struct gateway *gateway;
	struct coordinator_request request;
	struct iovec iov[2];
	struct env_timer timer;
	uint64_t started_ns, first_id;
	bool busy;
	uint8_t buf[IO_BLOCKS_MAX * BLOCK_BYTES] __attribute__((aligned(8)));
};

struct gateway {
	struct world *world;
	struct sim_process *process;
	struct peers *peers;
	struct coordinator *coordinator;
	bool is_up, is_paused, has_ended, closing, peers_gone;
	struct env_timer reopen;
	struct env_timer meta_timer;
	void (*acquire_done)(void *, int, uint64_t, const struct coordinator_volume *);
	void (*opened_done)(void *, int);
	void *meta_ctx;
	uint64_t meta_epoch;
	struct client clients[CLIENTS];
};

struct write {
	uint64_t id; /* 0: zeros */
	uint64_t start_ns;
	uint64_t end_ns;     /* acknowledged, or seen by a read that ended then */
	uint64_t decided_ns; /* the next open after it got no outcome */
	bool dead;	     /* a later read showed that it did not happen */
};

struct history {
	struct write *writes;
	uint32_t count, room;
};

struct world {
	struct sim *sim;
	struct sim_rng rng;
	struct fake_world fake;
	struct host hosts[NODES];
	struct gateway gateways[GATEWAYS];
	uint64_t meta_epoch, meta_opened;
	uint32_t meta_timeout_ppm;
	struct history history[VOLUME_BLOCKS];
	uint64_t next_id;
	bool quiet; /* clients stop */
	bool is_healing;
	uint64_t reads, writes, unknown, opens, lost_events;
	bool has_data_loss;
	bool zeros_to_end; /* run_discard: the range goes to the volume's end, the writes before it */
};

static void must(bool holds, const char *what)
{
	fake_must(holds, what);
}

/* ---- contents and history ---- */

static void block_fill(uint8_t *to, uint64_t id, uint64_t block)
{
	uint64_t *words = (uint64_t *)(void *)to;
	uint64_t x = id * 0x9e3779b97f4a7c15ull ^ block;
	for (uint32_t i = 2; i < BLOCK_BYTES / 8; i++)
		words[i] = x = x * 6364136223846793005ull + 1442695040888963407ull;
	words[0] = id;
	words[1] = block;
}

/* The id in a block that was read. */
static uint64_t block_parse(const uint8_t *from, uint64_t block)
{
	static uint8_t want[BLOCK_BYTES] __attribute__((aligned(8)));
	uint64_t id;
	memcpy(&id, from, sizeof(id));
	if (id == 0)
		memset(want, 0, BLOCK_BYTES);
	else
		block_fill(want, id, block);
	must(memcmp(from, want, BLOCK_BYTES) == 0, "a read returned contents that nobody wrote there");
	return id;
}

static struct write *history_add(struct world *w, uint64_t block, uint64_t id)
{
	struct history *h = &w->history[block];
	if (h->count == h->room) {
		h->room = MAX(h->room * 2, 8u);
		h->writes = realloc(h->writes, h->room * sizeof(*h->writes));
	}
	h->writes[h->count] = (struct write){id, sim_now_ns(w->sim), NEVER, 0, false};
	return &h->writes[h->count++];
}

static bool is_stale(const struct history *h, const struct write *v, uint64_t read_start_ns)
{
	for (uint32_t i = 0; i < h->count; i++)
		if (h->writes[i].start_ns > v->end_ns && h->writes[i].end_ns < read_start_ns)
			return true;
	return false;
}

static void history_dump(const struct history *h, uint64_t block, uint64_t id, uint64_t start_ns)
{
	fprintf(stderr, "block %lu: read that began at %lu returned %lu\n", block, start_ns, id);
	for (uint32_t i = 0; i < h->count; i++)
		fprintf(stderr, "  write %lu start %lu end %lu decided %lu dead %d\n",
			h->writes[i].id, h->writes[i].start_ns, h->writes[i].end_ns,
			h->writes[i].decided_ns, h->writes[i].dead);
}

static void history_read(struct world *w, uint64_t block, uint64_t id, uint64_t start_ns)
{
	struct history *h = &w->history[block];
	struct write *found = NULL;
	uint32_t candidates = 0;
	for (uint32_t i = 0; i < h->count; i++) {
		struct write *v = &h->writes[i];
		if (v->id != id || v->dead || is_stale(h, v, start_ns))
			continue;
		found = v;
		candidates++;
	}
	if (found == NULL) {
		history_dump(h, block, id, start_ns);
		must(false, "a read returned a value that is stale or did not happen");
	}
	if (candidates > 1)
		return; /* which of the zeros it saw is not known */
	found->end_ns = MIN(found->end_ns, sim_now_ns(w->sim));
	for (uint32_t i = 0; i < h->count; i++) {
		struct write *o = &h->writes[i];
		if (o != found && o->decided_ns != 0 && o->end_ns == NEVER &&
		    start_ns > o->decided_ns && found->end_ns < o->start_ns)
			o->dead = true;
	}
}

static struct write *write_find(struct world *w, uint64_t block, uint64_t id, uint64_t start_ns)
{
	struct history *h = &w->history[block];
	for (uint32_t i = h->count; i-- > 0;)
		if (h->writes[i].id == id && h->writes[i].start_ns == start_ns)
			return &h->writes[i];
	return NULL;
}

/* An open decides every write that has no outcome: those of other sessions, and lost ones. */
static void history_opened(struct world *w, const struct gateway *by)
{
	(void)by;
	uint64_t now_ns = sim_now_ns(w->sim);
	for (uint32_t b = 0; b < VOLUME_BLOCKS; b++)
		for (uint32_t i = 0; i < w->history[b].count; i++) {
			struct write *v = &w->history[b].writes[i];
			if (v->end_ns == NEVER && v->decided_ns == 1)
				v->decided_ns = now_ns;
		}
}

/* ---- clients ---- */

static void client_next(struct env_timer *timer);

static void client_later(struct client *c, uint64_t delay_max_ns)
{
	struct world *w = c->gateway->world;
	c->timer.fire = client_next;
	env_timer_after(sim_process_env(c->gateway->process), &c->timer,
			sim_rng_below(&w->rng, delay_max_ns));
}

static void client_outcome(struct client *c, int status)
{
	struct world *w = c->gateway->world;
	struct coordinator_request *r = &c->request;
	uint64_t now_ns = sim_now_ns(w->sim);
	if (r->op == COORDINATOR_READ) {
		for (uint64_t i = 0; status == 0 && i < r->length_blocks; i++)
			history_read(w, r->address_blocks + i,
				     block_parse(c->buf + i * BLOCK_BYTES, r->address_blocks + i),
				     c->started_ns);
		w->reads += status == 0;
		return;
	}
	if (r->op != COORDINATOR_WRITE && r->op != COORDINATOR_ZERO)
		return;
	uint64_t base = c->request.bad_block; /* the address: a refused request loses its own */
	for (uint64_t i = 0; i < c->iov[1].iov_len; i++) {
		uint64_t id = r->op == COORDINATOR_ZERO ? 0 : c->first_id + i;
		struct write *v = write_find(w, base + i, id, c->started_ns);
		if (v == NULL)
			continue;
		if (status == 0)
			v->end_ns = MIN(v->end_ns, now_ns);
		else
			v->decided_ns = 1; /* at the next open */
	}
	w->writes += status == 0;
	w->unknown += status != 0;
}

static void client_done(struct coordinator_request *request, int status)
{
	struct client *c = CONTAINER_OF(request, struct client, request);
	must(c->busy, "a request ended twice");
	must(status == 0 || status == -ESHUTDOWN || status == -EIO, "an unexpected status");
	c->busy = false;
	client_outcome(c, status);
	client_later(c, status == 0 ? 4 * SIM_MS : 50 * SIM_MS);
}

static void client_next(struct env_timer *timer)
{
	struct client *c = CONTAINER_OF(timer, struct client, timer);
	struct gateway *g = c->gateway;
	struct world *w = g->world;
	if (w->quiet)
		return;
	if (g->coordinator == NULL || g->closing) {
		client_later(c, 20 * SIM_MS);
		return;
	}
	uint64_t kind = sim_rng_below(&w->rng, 20);
	uint64_t length = 1 + sim_rng_below(&w->rng, IO_BLOCKS_MAX);
	/* a few hot blocks, and all others */
	uint64_t span = sim_rng_below(&w->rng, 3) == 0 ? VOLUME_BLOCKS : 24;
	uint64_t address = sim_rng_below(&w->rng, span - length);
	c->started_ns = sim_now_ns(w->sim);
	c->request = (struct coordinator_request){
		.op = kind < 9 ? COORDINATOR_READ : kind < 18 ? COORDINATOR_WRITE
						  : kind < 19 ? COORDINATOR_ZERO
							      : COORDINATOR_FLUSH,
		.address_blocks = address,
		.length_blocks = length,
		.iov = c->iov,
		.iov_count = 1,
		.done = client_done,
		.bad_block = address,
	};
	c->iov[0] = (struct iovec){c->buf, length * BLOCK_BYTES};
	c->iov[1].iov_len = length;
	c->first_id = w->next_id;
	for (uint64_t i = 0; i < length; i++) {
		if (c->request.op == COORDINATOR_WRITE) {
			block_fill(c->buf + i * BLOCK_BYTES, c->first_id + i, address + i);
			history_add(w, address + i, c->first_id + i);
			w->next_id++;
		} else if (c->request.op == COORDINATOR_ZERO) {
			history_add(w, address + i, 0);
		}
	}
	c->busy = true;
	coordinator_submit(g->coordinator, &c->request);
	for (int i = 0; kind == 0 && i < 2; i++) /* the second call finds nothing new */
		coordinator_idle(g->coordinator);
}

/* ---- metadata: one record, compare-and-swap ---- */

static struct coordinator_volume volume_make(struct world *w)
{
	struct coordinator_volume v = {
		.volume_uuid = {{7}},
		.name = "vol",
		.size_blocks = VOLUME_BLOCKS,
		.quorum = NODES / 2 + 1,
		.member_count = NODES,
	};
	for (uint32_t i = 0; i < NODES; i++) {
		v.members[i].node_uuid = w->hosts[i].uuid;
		v.members[i].replica_uuid = w->hosts[i].replica_uuid;
		v.members[i].voter = true;
		snprintf(v.members[i].node_name, sizeof(v.members[i].node_name), "n%u", i);
		snprintf(v.members[i].address, sizeof(v.members[i].address), "%s",
			 w->hosts[i].address);
	}
	return v;
}

static void meta_fire(struct env_timer *timer)
{
	struct gateway *g = CONTAINER_OF(timer, struct gateway, meta_timer);
	struct world *w = g->world;
	bool timed_out = sim_rng_chance(&w->rng, w->meta_timeout_ppm);
	if (g->acquire_done != NULL) {
		void (*done)(void *, int, uint64_t, const struct coordinator_volume *) = g->acquire_done;
		g->acquire_done = NULL;
		struct coordinator_volume v = volume_make(w);
		uint64_t epoch = ++w->meta_epoch; /* applied, whatever the answer says */
		done(g->meta_ctx, timed_out ? -ETIMEDOUT : 0, epoch, &v);
		return;
	}
	void (*done)(void *, int) = g->opened_done;
	g->opened_done = NULL;
	int rc = g->meta_epoch == w->meta_epoch ? 0 : -ESHUTDOWN;
	if (rc == 0)
		w->meta_opened = g->meta_epoch;
	done(g->meta_ctx, rc == 0 && timed_out ? -ETIMEDOUT : rc);
}

static void meta_later(struct gateway *g)
{
	g->meta_timer.fire = meta_fire;
	env_timer_after(sim_process_env(g->process), &g->meta_timer,
			SIM_MS + sim_rng_below(&g->world->rng, 20 * SIM_MS));
}

static void meta_acquire(void *ctx,
			 void (*done)(void *, int, uint64_t, const struct coordinator_volume *),
			 void *ctx2)
{
	struct gateway *g = ctx;
	g->acquire_done = done;
	g->meta_ctx = ctx2;
	meta_later(g);
}

static void meta_opened(void *ctx, uint64_t epoch, void (*done)(void *, int), void *ctx2)
{
	struct gateway *g = ctx;
	g->opened_done = done;
	g->meta_ctx = ctx2;
	g->meta_epoch = epoch;
	meta_later(g);
}

/* ---- gateways ---- */

static void gateway_event(void *ctx, const char *event, const char *text)
{
	struct gateway *g = ctx;
	(void)text;
	if (strcmp(event, "opened") == 0) {
		g->world->opens++;
		history_opened(g->world, g);
	}
	if (strcmp(event, "replica_lost_data") == 0)
		g->world->lost_events++;
}

static void coordinator_gone(void *ctx)
{
	struct gateway *g = ctx;
	coordinator_destroy(g->coordinator);
	g->coordinator = NULL;
	g->closing = false;
}

static void gateway_open(struct gateway *g);

static void reopen_fire(struct env_timer *timer)
{
	struct gateway *g = CONTAINER_OF(timer, struct gateway, reopen);
	if (g->coordinator == NULL && !g->closing) {
		gateway_open(g);
		return;
	}
	if (g->has_ended && !g->closing) {
		g->closing = true;
		coordinator_shutdown(g->coordinator, coordinator_gone, g);
	}
	if (g == &g->world->gateways[0] || sim_rng_below(&g->world->rng, 4) == 0)
		env_timer_after(sim_process_env(g->process), timer,
				500 * SIM_MS + sim_rng_below(&g->world->rng, 2000 * SIM_MS));
}

static void gateway_ended(void *ctx, int status, const char *reason)
{
	struct gateway *g = ctx;
	(void)status;
	(void)reason;
	g->has_ended = true;
	g->reopen.fire = reopen_fire;
	env_timer_after(sim_process_env(g->process), &g->reopen,
			sim_rng_below(&g->world->rng, 200 * SIM_MS));
}

static void gateway_open(struct gateway *g)
{
	struct coordinator_config config;
	coordinator_config_default(&config);
	config.window_entries = 128;
	config.window_bytes = 4 << 20;
	config.event = gateway_event;
	config.ended = gateway_ended;
	config.ctx = g;
	const struct coordinator_meta meta = {meta_acquire, meta_opened, g};
	g->has_ended = false;
	g->coordinator = coordinator_create(sim_process_env(g->process), g->peers, &meta, &config);
	must(g->coordinator != NULL, "no coordinator");
}

static void gateway_start(struct gateway *g)
{
	struct peers_config config;
	peers_config_default(&config);
	config.cluster_uuid.bytes[0] = 1;
	config.sender_uuid.bytes[0] = (uint8_t)(100 + (g - g->world->gateways));
	config.boot_id = sim_rng_next(&g->world->rng) | 1;
	snprintf(config.name, sizeof(config.name), "%s", sim_process_name(g->process));
	g->is_up = true;
	g->peers = peers_create(sim_process_env(g->process), &config);
	gateway_open(g);
	for (uint32_t i = 0; i < CLIENTS; i++) {
		g->clients[i].gateway = g;
		client_later(&g->clients[i], 10 * SIM_MS);
	}
}

static void gateway_kill(struct gateway *g)
{
	struct world *w = g->world;
	if (!g->is_up)
		return;
	if (g->is_paused)
		sim_process_resume(g->process);
	sim_process_kill(g->process,
			 sim_rng_below(&w->rng, 2) == 0 ? SIM_KILL_PROCESS : SIM_KILL_SILENT);
	for (uint32_t i = 0; i < CLIENTS; i++) {
		struct client *c = &g->clients[i];
		if (c->busy && c->request.op != COORDINATOR_READ)
			client_outcome(c, -ESHUTDOWN);
	}
	coordinator_destroy(g->coordinator);
	peers_destroy(g->peers);
	struct sim_process *process = g->process;
	*g = (struct gateway){.world = w, .process = process};
}

/* ---- nodes ---- */

#ifdef SIM_REAL_STORE
static void host_path(const struct host *h, char path[32])
{
	snprintf(path, 32, "/disk/%u", h->uuid.bytes[0]);
}

static void replica_created(struct store_op *op, int status)
{
	(void)op;
	must(status == 0, "no replica");
}

static void host_serve(struct host *h)
{
	struct node_config config;
	node_config_default(&config);
	config.cluster_uuid.bytes[0] = 1;
	config.node_uuid = h->uuid;
	config.listen = h->address;
	snprintf(config.name, sizeof(config.name), "%s", sim_process_name(h->process));
	struct err err;
	must(node_create(sim_process_env(h->process), &config, &h->node, &err) == 0, "no node");
	must(node_add_store(h->node, h->store, &err) == 0, "no store");
}

static void host_open(struct co *co, void *arg)
{
	struct host *h = arg;
	struct env *env = sim_process_env(h->process);
	struct err err = {0};
	char path[32];
	host_path(h, path);
	if (!h->is_formatted) {
		const struct store_params params = {.uuid = h->uuid};
		int rc = store_format(co, env, path, &params, &err);
		if (rc < 0)
			fprintf(stderr, "format: %s\n", err_text(&err));
		must(rc == 0, "no format");
	}
	struct store_config config;
	store_config_default(&config);
	int rc = store_open(co, env, path, &config, &h->store, &err);
	if (rc < 0)
		fprintf(stderr, "open: %s\n", err_text(&err));
	must(rc == 0, "the store does not open");
	if (!h->is_formatted) {
		h->create.op.done = replica_created;
		h->create.spec = (struct store_replica_spec){.volume_uuid = {{7}},
							     .replica_uuid = h->replica_uuid,
							     .size_blocks = VOLUME_BLOCKS};
		store_replica_create(h->store, &h->create);
		co_sleep(co, 200 * SIM_MS);
		h->is_formatted = true;
	}
	host_serve(h);
}

static void host_start(struct host *h)
{
	h->opener = co_create(sim_process_env(h->process), 256 * 1024);
	h->is_up = true;
	co_start(h->opener, host_open, h);
}

static void host_kill(struct host *h)
{
	if (!h->is_up || !h->is_formatted)
		return;
	static const enum sim_kill hows[] = {SIM_KILL_PROCESS, SIM_KILL_SILENT, SIM_KILL_POWER};
	sim_process_kill(h->process, hows[sim_rng_below(&h->world->rng, 3)]);
	co_destroy(h->opener);
	if (h->store != NULL)
		store_discard(h->store);
	node_destroy(h->node);
	h->store = NULL;
	h->node = NULL;
	h->is_up = false;
}
#else
static void host_start(struct host *h)
{
	struct env *env = sim_process_env(h->process);
	struct node_config config;
	node_config_default(&config);
	config.cluster_uuid.bytes[0] = 1;
	config.node_uuid = h->uuid;
	config.listen = h->address;
	snprintf(config.name, sizeof(config.name), "%s", sim_process_name(h->process));
	struct err err;
	h->store = fake_open(env, &h->device);
	must(node_create(env, &config, &h->node, &err) == 0, "no node");
	must(node_add_store(h->node, h->store, &err) == 0, "no store");
	h->is_up = true;
}

static void host_kill(struct host *h)
{
	if (!h->is_up)
		return;
	sim_process_kill(h->process, sim_rng_below(&h->world->rng, 2) == 0 ? SIM_KILL_PROCESS
									   : SIM_KILL_SILENT);
	fake_crash(h->store);
	node_destroy(h->node);
	h->store = NULL;
	h->node = NULL;
	h->is_up = false;
}
#endif

static void host_restart(struct host *h)
{
	if (h->is_up)
		return;
	sim_process_restart(h->process);
	host_start(h);
}

/* ---- the world ---- */

#ifdef SIM_REAL_STORE
static void device_format(struct host *h)
{
	char path[32];
	host_path(h, path);
	must(sim_disk_create(h->world->sim, path, STORE_SIZE_MIN_BYTES,
			     &sim_disk_profile_default) != NULL, "no disk");
}
#else
static void device_format(struct host *h)
{
	struct store_replica *r = &h->device.replicas[0];
	h->device.world = &h->world->fake;
	h->device.uuid.bytes[0] = h->uuid.bytes[0];
	r->used = true;
	r->spec.volume_uuid.bytes[0] = 7;
	r->spec.replica_uuid = h->replica_uuid;
	r->spec.size_blocks = VOLUME_BLOCKS;
	for (uint32_t i = 0; i < FAKE_REPLICAS_MAX; i++)
		h->device.replicas[i].device = &h->device;
}
#endif

static struct world *world_create(uint64_t seed)
{
	struct world *w = calloc(1, sizeof(*w));
	w->sim = sim_create(seed);
	sim_rng_seed(&w->rng, seed, 77);
	sim_rng_seed(&w->fake.rng, seed, 78);
	w->next_id = 1;
	w->fake.delay_max_ns = 100 * SIM_US << sim_rng_below(&w->rng, 6);
	w->fake.checkpoint_ppm = sim_rng_below(&w->rng, 2) ? 20000 : 1000;
	w->fake.keep_entries = (uint32_t)sim_rng_below(&w->rng, 100);
	w->meta_timeout_ppm = sim_rng_below(&w->rng, 2) ? 200000 : 0;
	for (uint32_t b = 0; b < VOLUME_BLOCKS; b++)
		*history_add(w, b, 0) = (struct write){0};
	for (uint32_t i = 0; i < NODES; i++) {
		struct host *h = &w->hosts[i];
		char name[16];
		snprintf(name, sizeof(name), "n%u", i);
		h->world = w;
		h->uuid.bytes[0] = (uint8_t)(10 + i);
		h->replica_uuid.bytes[0] = (uint8_t)(20 + i);
		snprintf(h->address, sizeof(h->address), "tcp:10.0.0.%u:7000", i + 1);
		h->process = sim_process_create(w->sim, name);
		device_format(h);
		host_start(h);
	}
	for (uint32_t i = 0; i < GATEWAYS; i++) {
		w->gateways[i].world = w;
		w->gateways[i].process = sim_process_create(w->sim, i == 0 ? "g0" : "g1");
	}
	gateway_start(&w->gateways[0]);
	return w;
}

static struct host *any_host(struct world *w)
{
	return &w->hosts[sim_rng_below(&w->rng, NODES)];
}

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

static void fault(struct world *w, uint64_t kind)
{
	struct gateway *g = &w->gateways[sim_rng_below(&w->rng, GATEWAYS)];
	struct host *h = any_host(w);
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
		if (!g->is_up) {
			sim_process_kill(g->process, SIM_KILL_PROCESS);
			sim_process_restart(g->process);
			gateway_start(g);
		}
		break;
	case 8:
	case 9:
		toggle_pause(g);
		break;
	case 10:
		sim_net_partition(w->sim, (uint32_t)sim_rng_below(&w->rng, 32));
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
		for (uint32_t i = 0; i < NODES; i++)
			host_kill(&w->hosts[i]);
		break;
	case 16:
		sim_link_clog(h->process, g->process, sim_rng_below(&w->rng, 800 * SIM_MS));
		break;
	}
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

static bool is_converged(void *ctx)
{
	struct world *w = ctx;
	struct gateway *g = &w->gateways[0];
	if (g->coordinator == NULL || g->closing)
		return false;
	struct coordinator_info info;
	coordinator_info(g->coordinator, &info);
	uint32_t live = 0;
	for (uint32_t i = 0; i < info.replica_count; i++)
		live += info.replicas[i].state == REPLICA_LIVE &&
			info.replicas[i].last_seq == info.last_seq;
	for (uint32_t i = 0; i < CLIENTS; i++)
		if (g->clients[i].busy)
			return false;
	return info.open && live == NODES && info.commit_seq == info.last_seq;
}

struct verify {
	struct coordinator_verify verify;
	bool done;
	int status;
};

static void verify_finding(struct coordinator_verify *verify, const struct coordinator_member *member,
			   uint64_t block, const char *what)
{
	(void)verify;
	if (strcmp(what, "the stored copy does not match its checksum") == 0)
		return; /* rot that was put there */
	fprintf(stderr, "finding: %s block %lu: %s\n", member->node_name, block, what);
	must(false, "a replica differs at the end");
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

static void read_everything(struct world *w)
{
	struct check *c = calloc(1, sizeof(*c));
	c->client.gateway = &w->gateways[0];
	for (uint64_t b = 0; b < VOLUME_BLOCKS; b += IO_BLOCKS_MAX) {
		c->client.iov[0] = (struct iovec){c->client.buf, sizeof(c->client.buf)};
		c->client.started_ns = sim_now_ns(w->sim);
		c->client.request = (struct coordinator_request){
			.op = COORDINATOR_READ,
			.address_blocks = b,
			.length_blocks = MIN(VOLUME_BLOCKS - b, (uint64_t)IO_BLOCKS_MAX),
			.iov = c->client.iov,
			.iov_count = 1,
			.done = check_done,
		};
		c->done = false;
		coordinator_submit(w->gateways[0].coordinator, &c->client.request);
		must(sim_run_flag(w->sim, &c->done, 30 * SIM_S) == 0, "a read at the end hangs");
		must(c->status == 0, "a read at the end failed");
		client_outcome(&c->client, 0);
	}
	free(c);
}

static void set_flag(void *ctx)
{
	*(bool *)ctx = true;
}

static void world_stop(struct world *w)
{
	struct gateway *g = &w->gateways[0];
	bool flag = false;
	env_timer_cancel(sim_process_env(g->process), &g->reopen);
	coordinator_shutdown(g->coordinator, set_flag, &flag);
	must(flag || sim_run_flag(w->sim, &flag, 60 * SIM_S) == 0, "the coordinator does not shut down");
	coordinator_destroy(g->coordinator);
	flag = false;
	peers_shutdown(g->peers, set_flag, &flag);
	must(flag || sim_run_flag(w->sim, &flag, 60 * SIM_S) == 0, "the peers do not shut down");
	peers_destroy(g->peers);
	for (uint32_t i = 0; i < NODES; i++) {
		struct host *h = &w->hosts[i];
		flag = false;
		node_shutdown(h->node, set_flag, &flag);
		must(flag || sim_run_flag(w->sim, &flag, 60 * SIM_S) == 0, "a node does not shut down");
		node_destroy(h->node);
#ifndef SIM_REAL_STORE
		fake_crash(h->store);
		fake_free(&h->device);
#endif
	}
	for (uint32_t b = 0; b < VOLUME_BLOCKS; b++)
		free(w->history[b].writes);
	sim_destroy(w->sim);
}

static void world_heal(struct world *w)
{
	link_faults(w, 0);
	sim_net_heal(w->sim);
	for (uint32_t i = 0; i < NODES; i++)
		w->hosts[i].device.bad_ppm = 0;
	w->meta_timeout_ppm = 0;
	gateway_kill(&w->gateways[1]);
	struct gateway *g = &w->gateways[0];
	if (g->is_paused)
		toggle_pause(g);
	if (!g->is_up) {
		sim_process_kill(g->process, SIM_KILL_PROCESS);
		sim_process_restart(g->process);
		gateway_start(g);
	}
	for (uint32_t i = 0; i < NODES; i++)
		host_restart(&w->hosts[i]);
}

static void world_print(struct world *w)
{
	struct gateway *g = &w->gateways[0];
	struct coordinator_info info;
	if (g->coordinator == NULL)
		return;
	coordinator_info(g->coordinator, &info);
	fprintf(stderr, "epoch %lu (meta %lu) open %d last %lu commit %lu ended %d closing %d\n", info.epoch,
		w->meta_epoch, info.open, info.last_seq, info.commit_seq, g->has_ended, g->closing);
	for (uint32_t i = 0; i < info.replica_count; i++)
		fprintf(stderr, "  %s state %d G %lu L %lu K %lu note %s\n",
			info.replicas[i].member.node_name, info.replicas[i].state,
			info.replicas[i].log_epoch, info.replicas[i].last_seq,
			info.replicas[i].commit_seq, info.replicas[i].note);
	for (uint32_t i = 0; i < CLIENTS; i++)
		if (g->clients[i].busy)
			fprintf(stderr, "  client %u waits: op %d block %lu\n", i,
				g->clients[i].request.op, g->clients[i].request.address_blocks);
}

static void world_finish(struct world *w)
{
	world_heal(w);
	sim_run_for(w->sim, 1 * SIM_S);
	w->quiet = true;
	if (sim_run(w->sim, is_converged, w, 60 * SIM_S) != 0) {
		world_print(w);
		must(false, "the volume does not converge after everything was healed");
	}
	struct verify v = {.verify = {.finding = verify_finding, .done = verify_ended}};
	coordinator_verify(w->gateways[0].coordinator, &v.verify);
	must(sim_run_flag(w->sim, &v.done, 60 * SIM_S) == 0, "the comparison of replicas hangs");
	must(v.status == 0 || w->fake.rotten > 0, "the replicas differ at the end");
	read_everything(w);
}

/* ---- scenarios ---- */

static uint64_t run_chaos(uint64_t seed)
{
	struct world *w = world_create(seed);
	uint64_t mask = sim_rng_next(&w->rng) | 0x1cull; /* which kinds of fault; restarts always */
	link_faults(w, sim_rng_below(&w->rng, 3) == 0 ? 300 : 0);
	if (sim_rng_below(&w->rng, 3) == 0) /* on one replica only: the others are good */
		w->hosts[sim_rng_below(&w->rng, NODES)].device.bad_ppm = 50000;
	sim_run_for(w->sim, sim_rng_below(&w->rng, 600) * SIM_MS);
	uint64_t faults = 5 + sim_rng_below(&w->rng, 25);
	while (faults-- > 0) {
		uint64_t kind = sim_rng_below(&w->rng, 17);
		if (mask >> kind & 1)
			fault(w, kind);
		sim_run_for(w->sim, sim_rng_below(&w->rng, 300) * SIM_MS);
	}
	world_finish(w);
	uint64_t hash = sim_trace_hash(w->sim);
	if (getenv("SIM_LOG") != NULL)
		fprintf(stderr,
			"reads %lu writes %lu unknown %lu opens %lu adopts %lu stages %lu log reads %lu "
			"shadows %lu hash %lx\n",
			w->reads, w->writes, w->unknown, w->opens, w->fake.adopts, w->fake.stages,
			w->fake.log_reads, w->fake.shadows_adopted, hash);
	world_stop(w);
	free(w);
	return hash;
}

#ifndef SIM_REAL_STORE
/* A replica comes back with less than it acknowledged: it must be refilled before it counts. */
static uint64_t run_data_loss(uint64_t seed)
{
	struct world *w = world_create(seed);
	link_faults(w, 0);
	sim_run_for(w->sim, 500 * SIM_MS);
	w->quiet = true;
	must(sim_run(w->sim, is_converged, w, 60 * SIM_S) == 0, "a healthy volume does not converge");
	struct host *h = any_host(w);
	host_kill(h);
	must(fake_lose(&h->device, 1 + sim_rng_below(&w->rng, 20)) > 0, "nothing was lost");
	w->quiet = false;
	for (uint32_t i = 0; i < CLIENTS; i++)
		client_later(&w->gateways[0].clients[i], 10 * SIM_MS);
	sim_run_for(w->sim, sim_rng_below(&w->rng, 200) * SIM_MS);
	host_restart(h);
	world_finish(w);
	must(w->lost_events > 0 && w->fake.shadows_adopted > 0, "the loss was not noticed");
	uint64_t hash = sim_trace_hash(w->sim);
	world_stop(w);
	free(w);
	return hash;
}
#endif

/* ---- a discarded range and a replica that did not see it (PROTO-16) ---- */

static void do_io(struct world *w, uint32_t op, uint64_t address, uint64_t length)
{
	struct check *c = calloc(1, sizeof(*c));
	c->client.gateway = &w->gateways[0];
	c->client.started_ns = sim_now_ns(w->sim);
	c->client.first_id = w->next_id;
	c->client.iov[0] =
		(struct iovec){c->client.buf, MIN(length, (uint64_t)IO_BLOCKS_MAX) * BLOCK_BYTES};
	c->client.iov[1].iov_len = length;
	c->client.request = (struct coordinator_request){
		.op = op,
		.address_blocks = address,
		.length_blocks = length,
		.iov = c->client.iov,
		.iov_count = 1,
		.done = check_done,
		.bad_block = address,
	};
	for (uint64_t i = 0; i < length; i++) {
		uint64_t id = op == COORDINATOR_ZERO ? 0 : w->next_id++;
		history_add(w, address + i, id);
		if (op == COORDINATOR_WRITE)
			block_fill(c->client.buf + i * BLOCK_BYTES, id, address + i);
	}
	coordinator_submit(w->gateways[0].coordinator, &c->client.request);
	must(sim_run_flag(w->sim, &c->done, 30 * SIM_S) == 0 && c->status == 0,
	     "a write does not end");
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
static void move_on(struct world *w)
{
	for (uint32_t round = 0; round < 6; round++) {
		for (uint32_t i = 0; i < 4; i++)
			do_io(w, COORDINATOR_WRITE, (w->zeros_to_end ? 0 : 600) + i * 8, 8);
		sim_run_for(w->sim, 30 * SIM_MS);
		for (uint32_t i = 0; i < NODES; i++) {
			struct checkpointed c = {.op.done = checkpoint_done};
			if (!w->hosts[i].is_up)
				continue;
			store_checkpoint(w->hosts[i].store, &c.op);
			must(sim_run_flag(w->sim, &c.done, 30 * SIM_S) == 0, "a checkpoint hangs");
		}
	}
}

static uint64_t settled_seq(struct host *h)
{
	struct uuid volume_uuid = {{7}};
	struct store_replica_info info;
	store_replica_info(store_replica_find(h->store, &volume_uuid, 0), &info);
	return info.settled_seq;
}

static void all_live(struct world *w)
{
	must(sim_run(w->sim, is_converged, w, 60 * SIM_S) == 0, "the volume does not converge");
}

static uint64_t zero_range(struct world *w)
{
	struct coordinator_info info;
	/* One or two whole chunks, and parts of others. */
	do_io(w, COORDINATOR_ZERO, 200, w->zeros_to_end ? VOLUME_BLOCKS - 200 : 350);
	coordinator_info(w->gateways[0].coordinator, &info);
	return info.last_seq;
}

static void discard_away(struct world *w, struct host *h)
{
	host_kill(h);
	uint64_t zero_seq = zero_range(w);
	move_on(w);
	for (uint32_t i = 0; i < NODES; i++)
		must(&w->hosts[i] == h || settled_seq(&w->hosts[i]) < zero_seq,
		     "zeros were settled that a voter lacks");
	host_restart(h);
	all_live(w);
	move_on(w);
	for (uint32_t i = 0; i < NODES; i++)
		must(settled_seq(&w->hosts[i]) >= zero_seq, "what every voter has is not settled");
}

#ifdef SIM_REAL_STORE
/* Its disk is as it was before, and the zeros that it once acknowledged have left no trace elsewhere. */
static void discard_rolled_back(struct world *w, struct host *h, bool is_forgotten)
{
	char path[32];
	host_path(h, path);
	host_kill(h);
	struct sim_disk *disk = sim_disk_find(w->sim, path);
	struct sim_image *image = sim_image_clone(sim_disk_current(disk));
	host_restart(h);
	all_live(w);
	uint64_t zero_seq = zero_range(w);
	move_on(w);
	for (uint32_t i = 0; i < NODES; i++)
		must(settled_seq(&w->hosts[i]) >= zero_seq, "what every voter has is not settled");
	host_kill(h);
	sim_disk_image_set(disk, image);
	sim_image_free(image);
	struct gateway *g = &w->gateways[0];
	if (is_forgotten) { /* a new coordinator does not know what it acknowledged */
		gateway_kill(g);
		sim_process_kill(g->process, SIM_KILL_PROCESS);
		sim_process_restart(g->process);
		gateway_start(g);
		sim_run_for(w->sim, 3 * SIM_S);
	}
	host_restart(h);
}
#endif

static uint64_t run_discard(uint64_t seed)
{
	struct world *w = world_create(seed);
	link_faults(w, 0);
	w->fake.checkpoint_ppm = 500000;
	w->fake.keep_entries = 0;
	w->zeros_to_end = sim_rng_below(&w->rng, 2);
	sim_run_for(w->sim, 500 * SIM_MS);
	w->quiet = true;
	all_live(w);
	for (uint64_t at = 192; at < 560; at += 24)
		do_io(w, COORDINATOR_WRITE, at, 8);
	move_on(w);
	struct host *h = any_host(w);
#ifdef SIM_REAL_STORE
	if (seed % 3 != 0)
		discard_rolled_back(w, h, seed % 3 == 2);
	else
#endif
		discard_away(w, h);
	world_finish(w);
#ifndef SIM_REAL_STORE
	must(w->fake.forgotten > 0, "nothing was forgotten");
#endif
	uint64_t hash = sim_trace_hash(w->sim);
	world_stop(w);
	free(w);
	return hash;
}

static void log_drop(void *ctx, enum log_level level, const char *line)
{
	(void)ctx;
	(void)level;
	(void)line;
}

static bool run_seed(uint64_t seed)
{
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0) {
		alarm(120);
		if (getenv("SIM_LOG") == NULL)
			log_sink_set(log_drop, NULL);
#ifdef SIM_REAL_STORE
		uint64_t (*run)(uint64_t) = seed % 4 == 1 ? run_chaos : run_discard;
#else
		uint64_t (*run)(uint64_t) = seed % 10 == 9   ? run_data_loss
					    : seed % 10 == 8 ? run_discard
							     : run_chaos;
#endif
		uint64_t hash = run(seed);
		if (seed % 10 == 0)
			must(run(seed) == hash, "the same seed took another course");
		_exit(0);
	}
	int status = -1;
	waitpid(pid, &status, 0);
	if (status != 0)
		printf("seed %lu failed (status %d); replay: SIM_FIRST=%lu SIM_SEEDS=1 SIM_LOG=1\n", seed,
		       status, seed);
	return status == 0;
}

int main(void)
{
	uint64_t seeds = getenv("SIM_SEEDS") != NULL ? strtoull(getenv("SIM_SEEDS"), NULL, 10) : SIM_SEEDS_DEFAULT;
	uint64_t first = getenv("SIM_FIRST") != NULL ? strtoull(getenv("SIM_FIRST"), NULL, 10) : 1;
	uint64_t passed = 0;
	for (uint64_t i = 0; i < seeds; i++)
		passed += run_seed(first + i);
	printf("%lu passed, %lu failed\n", passed, seeds - passed);
	return passed != seeds;
}
