/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A simulated cluster: hosts with replicas, gateways that compete for every volume over shared
 * connections, a metadata record per volume, clients that read, write, zero, resize and flush.
 *
 * All of it is drawn from the seed, or given in struct world_plan. A gateway has one struct attach
 * per volume: its coordinator and that volume's clients.
 */
#ifndef HF_TESTS_SIM_REPL_WORLD_H
#define HF_TESTS_SIM_REPL_WORLD_H

#include "replication/coordinator.h"
#include "tests/sim/repl_host.h"

#define HOSTS_MAX       5u
#define VOLUMES_MAX     3u
#define GATEWAYS        2u
#define CLIENTS         4u
#define IO_BLOCKS_MAX   8u
#define ZERO_BLOCKS_MAX 300u
#define SIZE_BLOCKS     700u /* at first */
#define SIZE_BLOCKS_MAX 1000u

struct world;
struct gateway;

struct volume {
	struct world *world;
	uint32_t index, rf, member_count;
	uint32_t hosts[HOSTS_MAX]; /* of its members: rf voters, then the learners */
	uint64_t size_blocks;      /* metadata: what a resize was acknowledged with */
	uint64_t meta_epoch, meta_opened;
	struct history history[SIZE_BLOCKS_MAX];
};

struct client {
	struct attach *attach;
	struct coordinator_request request;
	struct iovec iov;
	struct env_timer timer;
	uint64_t started_ns, first_id;
	uint64_t address, length; /* a refused request loses its own */
	bool busy;
	uint8_t buf[IO_BLOCKS_MAX * BLOCK_BYTES] __attribute__((aligned(8)));
};

struct attach {
	struct gateway *gateway;
	struct volume *volume;
	struct coordinator *coordinator;
	bool has_ended, closing;
	struct env_timer reopen, meta_timer;
	void (*acquire_done)(void *, int, uint64_t, const struct coordinator_volume *);
	void (*opened_done)(void *, int);
	void *meta_ctx;
	uint64_t meta_epoch;
	struct client clients[CLIENTS];
};

struct gateway {
	struct world *world;
	struct sim_process *process;
	struct peers *peers;
	bool is_up, is_paused;
	struct attach attaches[VOLUMES_MAX];
};

struct world_plan {
	uint32_t host_count, volume_count, rf; /* rf 0: drawn per volume */
	uint32_t learners;                     /* beside rf voters, as far as there are hosts */
	uint32_t local_hosts;                  /* bit per host: on the gateways' machine */
	uint32_t window_entries;
	uint64_t no_quorum_timeout_ns;
	bool no_clients; /* the test submits itself */
};

struct world {
	struct sim *sim;
	struct sim_rng rng;
	struct world_plan plan;
#ifndef SIM_REAL_STORE
	struct fake_world fake;
#endif
	struct host hosts[HOSTS_MAX];
	struct volume volumes[VOLUMES_MAX];
	struct gateway gateways[GATEWAYS];
	uint32_t meta_timeout_ppm;
	uint64_t next_id;
	bool quiet; /* clients stop */
	bool may_rot;
	uint64_t reads, writes, unknown, opens, lost_events, resyncs, resizes;
};

/* ---- clients ---- */

static void client_next(struct env_timer *timer);

static void client_later(struct client *c, uint64_t delay_max_ns)
{
	struct world *w = c->attach->volume->world;
	c->timer.fire = client_next;
	env_timer_after(sim_process_env(c->attach->gateway->process), &c->timer,
			sim_rng_below(&w->rng, delay_max_ns));
}

static void client_outcome(struct client *c, int status)
{
	struct volume *v = c->attach->volume;
	struct world *w = v->world;
	struct coordinator_request *r = &c->request;
	uint64_t now_ns = sim_now_ns(w->sim);
	if (r->op == COORDINATOR_READ) {
		for (uint64_t i = 0; status == 0 && i < c->length; i++)
			history_read(w->sim, &v->history[c->address + i], c->address + i,
				     block_parse(c->buf + i * BLOCK_BYTES, c->address + i),
				     c->started_ns);
		w->reads += status == 0;
		return;
	}
	if (r->op == COORDINATOR_RESIZE && status == 0) {
		v->size_blocks = MAX(v->size_blocks, c->address);
		w->resizes++;
	}
	if (r->op != COORDINATOR_WRITE && r->op != COORDINATOR_ZERO)
		return;
	for (uint64_t i = 0; i < c->length; i++) {
		uint64_t id = r->op == COORDINATOR_ZERO ? 0 : c->first_id + i;
		struct write *write = write_find(&v->history[c->address + i], id, c->started_ns);
		if (write == NULL)
			continue;
		if (status == 0)
			write->end_ns = MIN(write->end_ns, now_ns);
		else
			write->decided_ns = 1; /* at the next open */
	}
	w->writes += status == 0;
	w->unknown += status != 0;
}

/* A gateway that was superseded and has not heard of it yet does not know of a resize since. */
static bool may_be_refused(const struct client *c)
{
	struct coordinator_info info;
	coordinator_info(c->attach->coordinator, &info);
	return c->request.op == COORDINATOR_RESIZE || info.epoch != c->attach->volume->meta_epoch;
}

static void client_done(struct coordinator_request *request, int status)
{
	struct client *c = CONTAINER_OF(request, struct client, request);
	repl_must(c->busy, "a request ended twice");
	repl_must(status == 0 || status == -ESHUTDOWN || status == -EIO ||
			  (status == -EINVAL && may_be_refused(c)),
		  "an unexpected status");
	c->busy = false;
	client_outcome(c, status);
	client_later(c, status == 0 ? 4 * SIM_MS : 50 * SIM_MS);
}

static enum coordinator_op draw_op(struct sim_rng *rng)
{
	uint64_t kind = sim_rng_below(rng, 200);
	return kind < 90    ? COORDINATOR_READ
	       : kind < 180 ? COORDINATOR_WRITE
	       : kind < 190 ? COORDINATOR_ZERO
	       : kind < 199 ? COORDINATOR_FLUSH
			    : COORDINATOR_RESIZE;
}

static void client_draw(struct client *c)
{
	struct volume *v = c->attach->volume;
	struct sim_rng *rng = &v->world->rng;
	c->request.op = draw_op(rng);
	bool far = sim_rng_below(rng, 3) == 0; /* a few hot blocks, and all others */
	bool wide = c->request.op == COORDINATOR_ZERO && far;
	c->length = 1 + sim_rng_below(rng, wide ? ZERO_BLOCKS_MAX : IO_BLOCKS_MAX);
	c->address =
		sim_rng_below(rng, (far ? v->size_blocks : 24) - (wide || !far ? 0 : c->length));
	if (c->address + c->length > v->size_blocks)
		c->address = v->size_blocks - c->length;
	if (c->request.op == COORDINATOR_RESIZE) {
		uint64_t size = v->size_blocks + 1 + sim_rng_below(rng, 60);
		c->address = MIN(size, (uint64_t)SIZE_BLOCKS_MAX);
	}
}

static void client_submit(struct client *c)
{
	struct volume *v = c->attach->volume;
	struct world *w = v->world;
	c->started_ns = sim_now_ns(w->sim);
	c->iov = (struct iovec){c->buf, c->length * BLOCK_BYTES};
	c->first_id = w->next_id;
	for (uint64_t i = 0; i < c->length; i++) {
		if (c->request.op == COORDINATOR_WRITE) {
			block_fill(c->buf + i * BLOCK_BYTES, c->first_id + i, c->address + i);
			history_add(w->sim, &v->history[c->address + i], c->first_id + i);
			w->next_id++;
		} else if (c->request.op == COORDINATOR_ZERO) {
			history_add(w->sim, &v->history[c->address + i], 0);
		}
	}
	c->request.address_blocks = c->address;
	c->request.length_blocks = c->length;
	c->request.iov = &c->iov;
	c->request.iov_count = 1;
	c->busy = true;
	coordinator_submit(c->attach->coordinator, &c->request);
}

static void client_next(struct env_timer *timer)
{
	struct client *c = CONTAINER_OF(timer, struct client, timer);
	if (c->attach->volume->world->quiet)
		return;
	if (c->attach->coordinator == NULL || c->attach->closing) {
		client_later(c, 20 * SIM_MS);
		return;
	}
	c->request = (struct coordinator_request){.done = client_done};
	client_draw(c);
	client_submit(c);
	for (int i = 0; c->request.op == COORDINATOR_FLUSH && i < 2;
	     i++) /* the second finds nothing new */
		coordinator_idle(c->attach->coordinator);
}

/* ---- metadata: one record per volume, compare-and-swap ---- */

static struct coordinator_volume volume_record(const struct volume *v)
{
	struct coordinator_volume record = {
		.volume_uuid = {{(uint8_t)(4 + v->index)}},
		.size_blocks = v->size_blocks,
		.quorum = v->rf / 2 + 1,
		.no_quorum_timeout_ns = v->world->plan.no_quorum_timeout_ns,
		.member_count = v->member_count,
	};
	snprintf(record.name, sizeof(record.name), "v%u", v->index);
	for (uint32_t i = 0; i < v->member_count; i++) {
		const struct host *h = &v->world->hosts[v->hosts[i]];
		struct coordinator_member *m = &record.members[i];
		m->node_uuid = h->uuid;
		m->replica_uuid.bytes[0] = (uint8_t)(20 + v->hosts[i]);
		m->replica_uuid.bytes[1] = (uint8_t)(1 + v->index);
		m->voter = i < v->rf;
		snprintf(m->node_name, sizeof(m->node_name), "n%u", v->hosts[i]);
		snprintf(m->address, sizeof(m->address), "%s", h->address);
	}
	return record;
}

static void meta_fire(struct env_timer *timer)
{
	struct attach *a = CONTAINER_OF(timer, struct attach, meta_timer);
	struct volume *v = a->volume;
	bool timed_out = sim_rng_chance(&v->world->rng, v->world->meta_timeout_ppm);
	if (a->acquire_done != NULL) {
		void (*done)(void *, int, uint64_t, const struct coordinator_volume *) =
			a->acquire_done;
		a->acquire_done = NULL;
		struct coordinator_volume record = volume_record(v);
		uint64_t epoch = ++v->meta_epoch; /* applied, whatever the answer says */
		done(a->meta_ctx, timed_out ? -ETIMEDOUT : 0, epoch, &record);
		return;
	}
	void (*done)(void *, int) = a->opened_done;
	a->opened_done = NULL;
	int rc = a->meta_epoch == v->meta_epoch ? 0 : -ESHUTDOWN;
	if (rc == 0)
		v->meta_opened = a->meta_epoch;
	done(a->meta_ctx, rc == 0 && timed_out ? -ETIMEDOUT : rc);
}

static void meta_later(struct attach *a)
{
	a->meta_timer.fire = meta_fire;
	env_timer_after(sim_process_env(a->gateway->process), &a->meta_timer,
			SIM_MS + sim_rng_below(&a->volume->world->rng, 20 * SIM_MS));
}

static void meta_acquire(void *ctx,
			 void (*done)(void *, int, uint64_t, const struct coordinator_volume *),
			 void *ctx2)
{
	struct attach *a = ctx;
	a->acquire_done = done;
	a->meta_ctx = ctx2;
	meta_later(a);
}

static void meta_opened(void *ctx, uint64_t epoch, void (*done)(void *, int), void *ctx2)
{
	struct attach *a = ctx;
	a->opened_done = done;
	a->meta_ctx = ctx2;
	a->meta_epoch = epoch;
	meta_later(a);
}

/* ---- gateways ---- */

static void attach_event(void *ctx, const char *event, const char *text)
{
	struct attach *a = ctx;
	struct world *w = a->volume->world;
	(void)text;
	if (strcmp(event, "opened") == 0) {
		w->opens++;
		history_opened(w->sim, a->volume->history, SIZE_BLOCKS_MAX);
	}
	w->lost_events += strcmp(event, "replica_lost_data") == 0;
	w->resyncs += strcmp(event, "resync_done") == 0;
}

static void coordinator_gone(void *ctx)
{
	struct attach *a = ctx;
	coordinator_destroy(a->coordinator);
	a->coordinator = NULL;
	a->closing = false;
}

static void attach_open(struct attach *a);

static void reopen_fire(struct env_timer *timer)
{
	struct attach *a = CONTAINER_OF(timer, struct attach, reopen);
	struct world *w = a->volume->world;
	if (a->coordinator == NULL && !a->closing) {
		attach_open(a);
		return;
	}
	if (a->has_ended && !a->closing) {
		a->closing = true;
		coordinator_shutdown(a->coordinator, coordinator_gone, a);
	}
	if (a->gateway == &w->gateways[0] || sim_rng_below(&w->rng, 4) == 0)
		env_timer_after(sim_process_env(a->gateway->process), timer,
				500 * SIM_MS + sim_rng_below(&w->rng, 2000 * SIM_MS));
}

static void attach_ended(void *ctx, int status, const char *reason)
{
	struct attach *a = ctx;
	(void)status;
	(void)reason;
	a->has_ended = true;
	a->reopen.fire = reopen_fire;
	env_timer_after(sim_process_env(a->gateway->process), &a->reopen,
			sim_rng_below(&a->volume->world->rng, 200 * SIM_MS));
}

static void attach_open(struct attach *a)
{
	struct coordinator_config config;
	coordinator_config_default(&config);
	config.window_entries = a->volume->world->plan.window_entries;
	config.window_bytes = 4 << 20;
	config.event = attach_event;
	config.ended = attach_ended;
	config.ctx = a;
	const struct coordinator_meta meta = {meta_acquire, meta_opened, a};
	a->has_ended = false;
	a->coordinator = coordinator_create(sim_process_env(a->gateway->process), a->gateway->peers,
					    &meta, &config);
	repl_must(a->coordinator != NULL, "no coordinator");
}

static void gateway_start(struct gateway *g)
{
	struct world *w = g->world;
	struct peers_config config;
	peers_config_default(&config);
	config.cluster_uuid.bytes[0] = 1;
	config.sender_uuid.bytes[0] = (uint8_t)(100 + (g - w->gateways));
	config.boot_id = sim_rng_next(&w->rng) | 1;
	snprintf(config.name, sizeof(config.name), "%s", sim_process_name(g->process));
	g->is_up = true;
	g->peers = peers_create(sim_process_env(g->process), &config);
	for (uint32_t i = 0; i < w->plan.volume_count; i++) {
		struct attach *a = &g->attaches[i];
		a->gateway = g;
		a->volume = &w->volumes[i];
		attach_open(a);
		for (uint32_t k = 0; k < CLIENTS; k++) {
			a->clients[k].attach = a;
			if (!w->plan.no_clients)
				client_later(&a->clients[k], 10 * SIM_MS);
		}
	}
}

__attribute__((unused)) static void gateway_kill(struct gateway *g)
{
	struct world *w = g->world;
	if (!g->is_up)
		return;
	if (g->is_paused)
		sim_process_resume(g->process);
	sim_process_kill(g->process,
			 sim_rng_below(&w->rng, 2) == 0 ? SIM_KILL_PROCESS : SIM_KILL_SILENT);
	for (uint32_t i = 0; i < w->plan.volume_count; i++) {
		struct attach *a = &g->attaches[i];
		for (uint32_t k = 0; k < CLIENTS; k++)
			if (a->clients[k].busy && a->clients[k].request.op != COORDINATOR_READ)
				client_outcome(&a->clients[k], -ESHUTDOWN);
		coordinator_destroy(a->coordinator);
	}
	peers_destroy(g->peers);
	struct sim_process *process = g->process;
	*g = (struct gateway){.world = w, .process = process};
}

__attribute__((unused)) static void gateway_restart(struct gateway *g)
{
	if (g->is_up)
		return;
	sim_process_kill(g->process, SIM_KILL_PROCESS);
	sim_process_restart(g->process);
	gateway_start(g);
}

/* ---- the world ---- */

static void volume_create(struct world *w, uint32_t index)
{
	static const uint32_t factors[] = {1, 2, 3, 3, 5};
	struct volume *v = &w->volumes[index];
	v->world = w;
	v->index = index;
	v->size_blocks = SIZE_BLOCKS;
	v->rf = w->plan.rf != 0 ? w->plan.rf : factors[sim_rng_below(&w->rng, ARRAY_LEN(factors))];
	v->rf = MIN(v->rf, w->plan.host_count);
	v->member_count = MIN(v->rf + w->plan.learners, w->plan.host_count);
	uint32_t first = (uint32_t)sim_rng_below(&w->rng, w->plan.host_count);
	for (uint32_t b = 0; b < SIZE_BLOCKS_MAX; b++)
		*history_add(w->sim, &v->history[b], 0) = (struct write){0};
	for (uint32_t i = 0; i < v->member_count; i++)
		v->hosts[i] = (first + i) % w->plan.host_count;
	const struct coordinator_volume record = volume_record(v);
	for (uint32_t i = 0; i < v->member_count; i++) {
		struct host *h = &w->hosts[v->hosts[i]];
		h->specs[h->replica_count++] = (struct store_replica_spec){
			.volume_uuid = record.volume_uuid,
			.replica_uuid = record.members[i].replica_uuid,
			.size_blocks = v->size_blocks,
		};
	}
}

static struct world *world_create(uint64_t seed, const struct world_plan *plan)
{
	struct world *w = calloc(1, sizeof(*w));
	w->sim = sim_create(seed);
	sim_rng_seed(&w->rng, seed, 77);
	w->plan = *plan;
	w->next_id = 1;
	w->meta_timeout_ppm = sim_rng_below(&w->rng, 2) ? 200000 : 0;
	for (uint32_t i = 0; i < plan->host_count; i++) {
		struct host *h = &w->hosts[i];
		char name[16];
		snprintf(name, sizeof(name), "n%u", i);
		h->sim = w->sim;
		h->rng = &w->rng;
		h->uuid.bytes[0] = (uint8_t)(10 + i);
		bool is_local = plan->local_hosts >> i & 1;
		snprintf(h->address, sizeof(h->address),
			 is_local ? "unix:/n%u" : "tcp:10.0.0.%u:7000", i + 1);
		h->process = sim_process_create(w->sim, name);
#ifndef SIM_REAL_STORE
		h->device.world = &w->fake;
#endif
	}
#ifndef SIM_REAL_STORE
	sim_rng_seed(&w->fake.rng, seed, 78);
	w->fake.delay_max_ns = 100 * SIM_US << sim_rng_below(&w->rng, 6);
	w->fake.checkpoint_ppm = sim_rng_below(&w->rng, 2) ? 20000 : 1000;
	w->fake.keep_entries = (uint32_t)sim_rng_below(&w->rng, 100);
#endif
	for (uint32_t i = 0; i < plan->volume_count; i++)
		volume_create(w, i);
	for (uint32_t i = 0; i < plan->host_count; i++) {
		host_medium_create(&w->hosts[i]);
		host_start(&w->hosts[i]);
	}
	for (uint32_t i = 0; i < GATEWAYS; i++) {
		w->gateways[i].world = w;
		w->gateways[i].process = sim_process_create(w->sim, i == 0 ? "g0" : "g1");
	}
	gateway_start(&w->gateways[0]);
	return w;
}

static bool attach_converged(const struct attach *a)
{
	if (a->coordinator == NULL || a->closing)
		return false;
	struct coordinator_info info;
	coordinator_info(a->coordinator, &info);
	uint32_t live = 0;
	for (uint32_t i = 0; i < info.replica_count; i++)
		live += info.replicas[i].state == REPLICA_LIVE &&
			info.replicas[i].last_seq == info.last_seq;
	for (uint32_t i = 0; i < CLIENTS; i++)
		if (a->clients[i].busy)
			return false;
	return info.open && live == a->volume->member_count && info.commit_seq == info.last_seq;
}

static bool is_converged(void *ctx)
{
	struct world *w = ctx;
	for (uint32_t i = 0; i < w->plan.volume_count; i++)
		if (!attach_converged(&w->gateways[0].attaches[i]))
			return false;
	return true;
}

static void set_flag(void *ctx)
{
	*(bool *)ctx = true;
}

static void must_come(struct world *w, const bool *flag, const char *what)
{
	repl_must(*flag || sim_run_flag(w->sim, flag, 60 * SIM_S) == 0, what);
}

static void world_stop(struct world *w)
{
	struct gateway *g = &w->gateways[0];
	for (uint32_t i = 0; i < w->plan.volume_count; i++) {
		bool flag = false;
		env_timer_cancel(sim_process_env(g->process), &g->attaches[i].reopen);
		coordinator_shutdown(g->attaches[i].coordinator, set_flag, &flag);
		must_come(w, &flag, "the coordinator does not shut down");
		coordinator_destroy(g->attaches[i].coordinator);
	}
	bool flag = false;
	peers_shutdown(g->peers, set_flag, &flag);
	must_come(w, &flag, "the peers do not shut down");
	peers_destroy(g->peers);
	for (uint32_t i = 0; i < w->plan.host_count; i++) {
		struct host *h = &w->hosts[i];
		flag = false;
		node_shutdown(h->node, set_flag, &flag);
		must_come(w, &flag, "a node does not shut down");
		sim_process_kill(h->process, SIM_KILL_PROCESS);
		node_destroy(h->node);
		host_medium_free(h);
	}
	for (uint32_t i = 0; i < w->plan.volume_count; i++)
		for (uint32_t b = 0; b < SIZE_BLOCKS_MAX; b++)
			free(w->volumes[i].history[b].writes);
	sim_destroy(w->sim);
	free(w);
}

#endif
