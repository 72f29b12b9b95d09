/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Addresses, connects, link faults.
 *
 * L1  An address has at most one listener; a listener of a machine that went down silently keeps
 *     the address, and connects to it get no answer, until the process starts again.
 * L2  A connect that gets no answer is tried again each second for 127 s of the world's time.
 * L3  The listening side is told of a connection before or after the connecting side: both are
 *     events. Either may close it, or die, in between.
 */
#include <errno.h>
#include <stdlib.h>

#include "tests/sim/sim_net_priv.h"

#define CONNECT_RETRY_NS SIM_S
#define CONNECT_LIMIT_NS (127 * SIM_S)

struct sim_connect {
	struct sim_event event; /* first */
	struct list process_link;
	struct env_connect *connect;
	struct sim_process *process;
	uint64_t deadline_ns;
	int status;
	struct sim_pair *pair;
	char address[128];
};

const struct sim_link_profile sim_link_profile_default = {
	.delay_min_ns = 20 * SIM_US,
	.delay_max_ns = 200 * SIM_US,
};

/* ---- links ---- */

struct sim_link *sim_link_get(struct sim_process *from, struct sim_process *to)
{
	struct sim *sim = from->sim;
	if (!sim->links)
		sim->links =
			sim_alloc(sizeof(struct sim_link) * SIM_PROCESSES_MAX * SIM_PROCESSES_MAX);
	struct sim_link *link = &sim->links[from->id * SIM_PROCESSES_MAX + to->id];
	if (!link->is_used) {
		link->profile = sim->link_default;
		link->is_used = true;
	}
	return link;
}

bool sim_link_closed(struct sim *sim, const struct sim_link *link)
{
	return link->is_blocked || link->clogged_until_ns > sim->now_ns;
}

uint64_t sim_link_delay(struct sim *sim, const struct sim_link *link)
{
	uint64_t low_ns = link->profile.delay_min_ns;
	return sim_rng_range(&sim->rng_net, low_ns, MAX(low_ns, link->profile.delay_max_ns));
}

struct sim_link_profile *sim_link_profile(struct sim_process *from, struct sim_process *to)
{
	return &sim_link_get(from, to)->profile;
}

void sim_net_profile_set(struct sim *sim, const struct sim_link_profile *profile)
{
	sim->link_default = *profile;
	for (unsigned i = 0; sim->links && i < SIM_PROCESSES_MAX * SIM_PROCESSES_MAX; i++)
		sim->links[i].profile = *profile;
}

void sim_link_block(struct sim_process *from, struct sim_process *to, bool is_blocked)
{
	struct sim *sim = from->sim;
	struct sim_link *link = sim_link_get(from, to);
	sim->mark[SIM_MARK_NET_BLOCK] += is_blocked && !link->is_blocked;
	link->is_blocked = is_blocked;
	if (!is_blocked)
		sim_streams_wake(sim);
}

static void unclog(void *ctx)
{
	sim_streams_wake(ctx);
}

void sim_link_clog(struct sim_process *from, struct sim_process *to, uint64_t duration_ns)
{
	struct sim *sim = from->sim;
	sim->mark[SIM_MARK_NET_CLOG]++;
	sim_link_get(from, to)->clogged_until_ns = sim->now_ns + duration_ns;
	sim_call_after(sim, duration_ns + 1, unclog, sim);
}

void sim_net_partition(struct sim *sim, uint32_t side_mask)
{
	for (unsigned i = 0; i < sim->process_count; i++)
		for (unsigned j = 0; j < sim->process_count; j++)
			if ((side_mask >> i & 1) != (side_mask >> j & 1))
				sim_link_block(sim->process[i], sim->process[j], true);
}

void sim_net_heal(struct sim *sim)
{
	for (unsigned i = 0; sim->links && i < SIM_PROCESSES_MAX * SIM_PROCESSES_MAX; i++) {
		sim->links[i].is_blocked = false;
		sim->links[i].clogged_until_ns = 0;
	}
	sim_streams_wake(sim);
}

static void swizzle_clog(void *ctx)
{
	struct sim_process *process = ctx;
	struct sim *sim = process->sim;
	for (unsigned i = 0; i < sim->process_count; i++) {
		if (sim->process[i] == process)
			continue;
		sim_link_clog(sim->process[i], process, process->swizzle_ns);
		sim_link_clog(process, sim->process[i], process->swizzle_ns);
	}
}

void sim_net_swizzle(struct sim *sim, uint64_t duration_ns)
{
	for (unsigned i = 0; i < sim->process_count; i++) {
		struct sim_process *process = sim->process[i];
		if (sim_rng_below(&sim->rng_net, 2))
			continue;
		uint64_t start_ns = sim_rng_below(&sim->rng_net, duration_ns / 2 + 1);
		uint64_t end_ns = sim_rng_range(&sim->rng_net, duration_ns / 2, duration_ns);
		process->swizzle_ns = end_ns - start_ns;
		sim_call_after(sim, start_ns, swizzle_clog, process);
	}
}

/* ---- faults on connections ---- */

static bool is_between(const struct sim_pair *pair, const struct sim_process *a,
		       const struct sim_process *b)
{
	return (pair->end[0].process == a && pair->end[1].process == b) ||
	       (pair->end[0].process == b && pair->end[1].process == a);
}

void sim_net_reset(struct sim_process *a, struct sim_process *b)
{
	list_for_each (node, &a->sim->pairs) {
		struct sim_pair *pair = CONTAINER_OF(node, struct sim_pair, link);
		if (!is_between(pair, a, b))
			continue;
		a->sim->mark[SIM_MARK_NET_RESET]++;
		sim_conn_break(&pair->end[0], -ECONNRESET);
		sim_conn_break(&pair->end[1], -ECONNRESET);
	}
}

void sim_net_half_open(struct sim_process *a, struct sim_process *b)
{
	list_for_each (node, &a->sim->pairs) {
		struct sim_pair *pair = CONTAINER_OF(node, struct sim_pair, link);
		if (!is_between(pair, a, b))
			continue;
		a->sim->mark[SIM_MARK_NET_RESET]++;
		sim_conn_break(&pair->end[pair->end[0].process != a], -ECONNRESET);
	}
}

unsigned sim_net_connections(const struct sim_process *a, const struct sim_process *b)
{
	unsigned count = 0;
	list_for_each (node, &a->sim->pairs) {
		const struct sim_pair *pair = CONTAINER_OF(node, struct sim_pair, link);
		count += is_between(pair, a, b) && pair->end[0].state == CONN_OPEN &&
			 pair->end[1].state == CONN_OPEN && pair->end[0].error == 0 &&
			 pair->end[1].error == 0;
	}
	return count;
}

/* ---- listeners ---- */

static struct env_listener *listener_find(struct sim *sim, const char *address)
{
	list_for_each (node, &sim->listeners) {
		struct env_listener *listener = CONTAINER_OF(node, struct env_listener, link);
		if (strcmp(listener->address, address) == 0)
			return listener;
	}
	return NULL;
}

static void listener_free(struct env_listener *listener)
{
	list_remove(&listener->link);
	list_remove(&listener->process_link);
	free(listener);
}

/* "tcp:HOST:0" becomes "tcp:HOST:PORT". */
static int address_bind(struct sim *sim, const char *address, char *bound, size_t bound_bytes,
			struct err *err)
{
	size_t length = strlen(address);
	bool is_tcp = strncmp(address, "tcp:", 4) == 0;
	if ((!is_tcp && strncmp(address, "unix:/", 6) != 0) || length + 8 > bound_bytes)
		return err_set(err, -EINVAL, "address '%s' is neither unix:/PATH nor tcp:HOST:PORT",
			       address);
	if (is_tcp && strcmp(address + length - 2, ":0") == 0)
		snprintf(bound, bound_bytes, "%.*s%u", (int)length - 1, address, sim->next_port++);
	else
		snprintf(bound, bound_bytes, "%s", address);
	return 0;
}

int sim_env_listen(struct env *env, const char *address, const struct env_listener_cb *cb,
		   struct env_listener **ret, struct err *err)
{
	struct sim_process *process = (struct sim_process *)env;
	struct sim *sim = process->sim;
	char bound[sizeof((*ret)->address)];
	int rc = address_bind(sim, address, bound, sizeof(bound), err);
	if (rc < 0)
		return rc;
	assert(process->is_alive);
	struct env_listener *old = listener_find(sim, bound);
	if (old && !old->is_dead)
		return err_set(err, -EADDRINUSE, "address '%s' is in use", bound);
	if (old)
		old->address[0] = '\0'; /* L1: somebody else answers there now */
	struct env_listener *listener = sim_alloc(sizeof(*listener));
	listener->process = process;
	listener->cb = *cb;
	memcpy(listener->address, bound, sizeof(bound));
	list_push_back(&sim->listeners, &listener->link);
	list_push_back(&process->listeners, &listener->process_link);
	*ret = listener;
	return 0;
}

/* Connections that it has not handed over are reset. */
static void listener_pending_drop(struct env_listener *listener)
{
	list_for_each_safe (node, &listener->process->sim->pairs) {
		struct sim_pair *pair = CONTAINER_OF(node, struct sim_pair, link);
		if (pair->listener != listener)
			continue;
		pair->listener = NULL;
		sim_event_remove(pair->sim, &pair->accept_event);
		sim_conn_unit(&pair->end[1], UNIT_RESET, NULL, 0);
		sim_conn_drop(&pair->end[1], CONN_CLOSED);
		sim_conn_release(&pair->end[1]);
	}
}

void sim_env_listener_close(struct env_listener *listener)
{
	if (listener->is_dead)
		return;
	listener_pending_drop(listener);
	listener_free(listener);
}

const char *sim_listener_address(const struct env_listener *listener)
{
	return listener->address;
}

/* ---- connecting ---- */

static void peer_describe(struct env_peer *peer, const struct env_conn *conn, const char *address)
{
	const struct sim_process *other = conn->process;
	*peer = (struct env_peer){.pid = -1, .uid = -1};
	if (strncmp(address, "unix:", 5) == 0) {
		peer->pid = 1000 * (int64_t)(other->id + 1) + other->lives;
		peer->uid = 0;
		snprintf(peer->text, sizeof(peer->text), "unix:pid=%lld,uid=0",
			 (long long)peer->pid);
	} else {
		snprintf(peer->text, sizeof(peer->text), "tcp:10.0.0.%u:%llu", other->id + 1,
			 (unsigned long long)(1024 + conn->id % 60000));
	}
}

static void accept_run(struct sim_event *event)
{
	struct sim_pair *pair = CONTAINER_OF(event, struct sim_pair, accept_event);
	struct env_listener *listener = take(pair->listener);
	struct env_peer peer;
	peer_describe(&peer, &pair->end[0], listener->address);
	listener->cb.accepted(listener->cb.ctx, &pair->end[1], &peer);
}

static void connect_free(struct sim_connect *attempt)
{
	sim_event_remove(attempt->process->sim, &attempt->event);
	list_remove(&attempt->process_link);
	free(attempt);
}

static void connected_run(struct sim_event *event)
{
	struct sim_connect *attempt = (struct sim_connect *)event;
	struct env_connect *connect = attempt->connect;
	struct env_conn *conn = attempt->status == 0 ? &attempt->pair->end[0] : NULL;
	int status = attempt->status;
	connect->engine[0] = 0;
	connect_free(attempt);
	connect->done(connect, status, conn);
}

static void connect_finish(struct sim_connect *attempt, int status, uint64_t delay_ns)
{
	struct sim *sim = attempt->process->sim;
	attempt->status = status;
	attempt->event.run = connected_run;
	attempt->event.process = attempt->process;
	attempt->event.kind = SIM_EV_CONNECTED;
	sim_event_remove(sim, &attempt->event);
	sim_event_queue(sim, &attempt->event, sim->now_ns + delay_ns);
}

static void connect_establish(struct sim_connect *attempt, struct env_listener *listener)
{
	struct sim *sim = attempt->process->sim;
	struct sim_pair *pair = sim_pair_create(attempt->process, listener->process);
	pair->listener = listener;
	pair->accept_event = (struct sim_event){.run = accept_run,
						.process = listener->process,
						.kind = SIM_EV_ACCEPTED,
						.id = pair->end[1].id};
	sim_event_queue(sim, &pair->accept_event, sim->now_ns);
	attempt->pair = pair;
	struct sim_link *back = sim_link_get(listener->process, attempt->process);
	connect_finish(attempt, 0, sim_link_delay(sim, back));
}

static void connect_no_answer(struct sim_connect *attempt)
{
	struct sim *sim = attempt->process->sim;
	if (sim->now_ns >= attempt->deadline_ns) {
		sim->mark[SIM_MARK_NET_TIMEOUT]++;
		connect_finish(attempt, -ETIMEDOUT, 0);
	} else {
		sim_event_queue(sim, &attempt->event, sim->now_ns + CONNECT_RETRY_NS);
	}
}

/* The request reaches the address (or not). */
static void connect_run(struct sim_event *event)
{
	struct sim_connect *attempt = (struct sim_connect *)event;
	struct sim_process *from = attempt->process;
	struct sim *sim = from->sim;
	struct env_listener *listener = listener_find(sim, attempt->address);
	if (!listener) {
		sim->mark[SIM_MARK_NET_REFUSED]++;
		connect_finish(attempt, -ECONNREFUSED,
			       sim_link_delay(sim, sim_link_get(from, from)));
		return;
	}
	struct sim_link *there = sim_link_get(from, listener->process);
	struct sim_link *back = sim_link_get(listener->process, from);
	if (listener->is_dead || sim_link_closed(sim, there) || sim_link_closed(sim, back) ||
	    sim_rng_chance(&sim->rng_net, there->profile.timeout_ppm)) {
		connect_no_answer(attempt);
	} else if (sim_rng_chance(&sim->rng_net, there->profile.refuse_ppm)) {
		sim->mark[SIM_MARK_NET_REFUSED]++;
		connect_finish(attempt, -ECONNREFUSED, sim_link_delay(sim, back));
	} else {
		connect_establish(attempt, listener);
	}
}

void sim_env_connect(struct env *env, const char *address, struct env_connect *connect)
{
	struct sim_process *process = (struct sim_process *)env;
	struct sim *sim = process->sim;
	if (!process->is_alive)
		return;
	struct sim_connect *attempt = sim_alloc(sizeof(*attempt));
	attempt->connect = connect;
	attempt->process = process;
	attempt->deadline_ns = sim->now_ns + CONNECT_LIMIT_NS;
	attempt->event.run = connect_run;
	attempt->event.kind = SIM_EV_CONNECT;
	attempt->event.id = sim->next_id++;
	connect->engine[0] = (uintptr_t)attempt;
	list_push_back(&process->connects, &attempt->process_link);
	if (strlen(address) >= sizeof(attempt->address)) {
		connect_finish(attempt, -EINVAL, 0);
		return;
	}
	memcpy(attempt->address, address, strlen(address) + 1);
	struct env_listener *listener = listener_find(sim, address);
	struct sim_process *to = listener ? listener->process : process;
	sim_event_queue(sim, &attempt->event,
			sim->now_ns + sim_link_delay(sim, sim_link_get(process, to)));
}

/* A connection that was made for a connect nobody waits for any more. */
static void attempt_pair_drop(struct sim_connect *attempt, enum sim_conn_state state)
{
	struct sim_pair *pair = take(attempt->pair);
	if (!pair)
		return;
	if (state == CONN_CLOSED)
		sim_conn_unit(&pair->end[0], UNIT_END, NULL, 0);
	sim_conn_drop(&pair->end[0], state);
	sim_conn_release(&pair->end[0]);
}

void sim_env_connect_cancel(struct env *env, struct env_connect *connect)
{
	struct sim_process *process = (struct sim_process *)env;
	struct sim_connect *attempt = (struct sim_connect *)(uintptr_t)connect->engine[0];
	if (!process->is_alive || !attempt || attempt->status == -ECANCELED)
		return;
	attempt_pair_drop(attempt, CONN_CLOSED);
	connect_finish(attempt, -ECANCELED, 0);
}

/* ---- kill ---- */

static void conn_killed(struct env_conn *conn, enum sim_kill how)
{
	struct env_conn *peer = conn_peer(conn);
	struct sim *sim = conn->pair->sim;
	bool was_open = conn->state == CONN_OPEN && conn->error == 0 && !conn->close;
	if (how == SIM_KILL_PROCESS && was_open && peer->state == CONN_OPEN) {
		bool is_reset = conn->arrived_bytes != 0 || sim_rng_below(&sim->rng_net, 2);
		sim_conn_unit(conn, is_reset ? UNIT_RESET : UNIT_END, NULL, 0);
	}
	sim_conn_drop(conn, CONN_VANISHED);
	if (how == SIM_KILL_PROCESS)
		conn->state = CONN_CLOSED;
}

void sim_net_process_killed(struct sim_process *process, enum sim_kill how)
{
	while (!list_empty(&process->connects)) {
		struct sim_connect *attempt =
			CONTAINER_OF(process->connects.next, struct sim_connect, process_link);
		attempt_pair_drop(attempt, how == SIM_KILL_PROCESS ? CONN_CLOSED : CONN_VANISHED);
		connect_free(attempt);
	}
	list_for_each (node, &process->listeners) {
		struct env_listener *listener =
			CONTAINER_OF(node, struct env_listener, process_link);
		listener_pending_drop(listener);
		listener->is_dead = true;
		if (how == SIM_KILL_PROCESS)
			listener->address[0] = '\0';
	}
	list_for_each (node, &process->conns)
		conn_killed(CONTAINER_OF(node, struct env_conn, process_link), how);
}

void sim_net_process_swept(struct sim_process *process)
{
	while (!list_empty(&process->listeners))
		listener_free(
			CONTAINER_OF(process->listeners.next, struct env_listener, process_link));
	while (!list_empty(&process->conns))
		sim_conn_release(CONTAINER_OF(process->conns.next, struct env_conn, process_link));
}

void sim_net_destroy(struct sim *sim)
{
	while (!list_empty(&sim->pairs))
		sim_pair_free(CONTAINER_OF(sim->pairs.next, struct sim_pair, link));
	assert(list_empty(&sim->listeners));
}
