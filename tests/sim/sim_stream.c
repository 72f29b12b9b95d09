/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections: units in flight, windows, chunked receives.
 *
 * N1  Units to one end arrive in the order in which they were sent (arrival times only grow),
 *     held ones included. Faults that break this are drawn when a unit is sent.
 * N2  A send is taken when the window has room (by whole sends, so a window never blocks a send
 *     larger than itself). Received bytes give room back only while the way back is open.
 * N3  Each posted operation gets one callback: data, end, error, or -ECANCELED by close. After a
 *     kill none.
 * N4  A pair lives until neither end has a handle; units to an end without one make the other end
 *     see a reset, or nothing when the end has vanished with its machine.
 */
#include <errno.h>
#include <stdlib.h>

#include "tests/sim/sim_net_priv.h"

#define WINDOW_BYTES (256u << 10)

static void unit_free(struct sim *sim, struct sim_unit *unit)
{
	sim_event_remove(sim, &unit->event);
	list_remove(&unit->link);
	free(unit->data);
	free(unit);
}

static void units_free(struct sim *sim, struct list *units)
{
	while (!list_empty(units))
		unit_free(sim, CONTAINER_OF(units->next, struct sim_unit, link));
}

static bool has_input(const struct env_conn *conn)
{
	return conn->arrived_bytes != 0 || conn->has_end || conn->error != 0;
}

static size_t window_bytes(const struct sim_link *link)
{
	return link->profile.window_bytes ? link->profile.window_bytes : WINDOW_BYTES;
}

/* Queues the callbacks that are due. */
static void conn_progress(struct env_conn *conn)
{
	struct sim *sim = conn->pair->sim;
	if (conn->state != CONN_OPEN || conn->close)
		return;
	if (conn->recv && has_input(conn) && !sim_event_pending(&conn->recv_event))
		sim_event_queue(sim, &conn->recv_event, sim->now_ns);
	struct sim_link *link = sim_link_get(conn->process, conn_peer(conn)->process);
	bool has_room = conn->error != 0 || conn->window_used < window_bytes(link);
	if (!list_empty(&conn->sends) && has_room && !sim_event_pending(&conn->send_event))
		sim_event_queue(sim, &conn->send_event, sim->now_ns);
}

/* ---- the wire ---- */

static void unit_fly(struct sim *sim, struct sim_unit *unit)
{
	struct env_conn *to = unit->to;
	struct sim_link *link = sim_link_get(conn_peer(to)->process, to->process);
	uint64_t arrival_ns = sim->now_ns + sim_link_delay(sim, link);
	if (arrival_ns <= to->arrival_ns)
		arrival_ns = to->arrival_ns + 1;
	to->arrival_ns = arrival_ns;
	unit->is_held = false;
	sim_event_queue(sim, &unit->event, arrival_ns);
}

static void window_return(struct env_conn *sender, size_t bytes)
{
	struct sim *sim = sender->pair->sim;
	struct sim_link *back = sim_link_get(conn_peer(sender)->process, sender->process);
	if (sim_link_closed(sim, back)) {
		sender->window_late += bytes;
		return;
	}
	bytes += sender->window_late;
	sender->window_late = 0;
	sender->window_used -= MIN(bytes, sender->window_used);
	conn_progress(sender);
}

void sim_conn_break(struct env_conn *conn, int error)
{
	struct sim *sim = conn->pair->sim;
	units_free(sim, &conn->flying);
	units_free(sim, &conn->arrived);
	conn->arrived_bytes = 0;
	if (error != 0)
		conn->error = error;
	else
		conn->has_end = true;
	conn_progress(conn);
}

/* A unit reached an end that nobody owns any more. */
static void unit_at_closed(struct env_conn *to, const struct sim_unit *unit)
{
	struct env_conn *sender = conn_peer(to);
	if (to->state == CONN_VANISHED && !to->process->is_alive)
		return;
	if (unit->kind == UNIT_DATA && sender->state == CONN_OPEN)
		sim_conn_unit(to, UNIT_RESET, NULL, 0);
}

static void unit_run(struct sim_event *event)
{
	struct sim_unit *unit = (struct sim_unit *)event;
	struct env_conn *to = unit->to;
	struct sim *sim = to->pair->sim;
	struct sim_link *link = sim_link_get(conn_peer(to)->process, to->process);
	struct sim_unit *first = CONTAINER_OF(to->flying.next, struct sim_unit, link);
	if (sim_link_closed(sim, link) || first != unit) {
		unit->is_held = true; /* N1: behind a held one it is held too */
		return;
	}
	list_remove(&unit->link);
	struct sim_unit *next = CONTAINER_OF(to->flying.next, struct sim_unit, link);
	if (!list_empty(&to->flying) && next->is_held)
		unit_fly(sim, next);
	if (to->state != CONN_OPEN || to->close) {
		unit_at_closed(to, unit);
		unit_free(sim, unit);
	} else if (unit->kind == UNIT_DATA) {
		list_push_back(&to->arrived, &unit->link);
		to->arrived_bytes += unit->bytes;
		conn_progress(to);
	} else if (unit->kind == UNIT_END) {
		to->has_end = true;
		unit_free(sim, unit);
		conn_progress(to);
	} else {
		unit_free(sim, unit);
		sim_conn_break(to, -ECONNRESET);
	}
}

static struct sim_unit *unit_create(struct env_conn *to, enum sim_unit_kind kind, const void *data,
				    size_t bytes)
{
	struct sim_unit *unit = sim_alloc(sizeof(*unit));
	unit->event.run = unit_run;
	unit->event.kind = SIM_EV_UNIT;
	unit->event.id = to->id;
	unit->to = to;
	unit->kind = kind;
	unit->bytes = bytes;
	if (bytes != 0) {
		unit->data = sim_alloc(bytes);
		memcpy(unit->data, data, bytes);
	}
	return unit;
}

static void unit_send(struct sim *sim, struct sim_unit *unit)
{
	list_push_back(&unit->to->flying, &unit->link);
	unit_fly(sim, unit);
}

/* The new last unit and the one before it change payloads. */
static void unit_reorder(struct sim *sim, struct sim_unit *last)
{
	struct sim_unit *before = CONTAINER_OF(last->link.prev, struct sim_unit, link);
	if (last->link.prev == &last->to->flying || before->kind != UNIT_DATA)
		return;
	sim->mark[SIM_MARK_NET_REORDER]++;
	uint8_t *data = before->data;
	size_t bytes = before->bytes;
	before->data = last->data;
	before->bytes = last->bytes;
	last->data = data;
	last->bytes = bytes;
}

static void data_send(struct env_conn *from, const void *data, size_t bytes)
{
	struct sim *sim = from->pair->sim;
	struct sim_rng *rng = &sim->rng_net;
	struct env_conn *to = conn_peer(from);
	const struct sim_link_profile *profile = &sim_link_get(from->process, to->process)->profile;
	if (sim_rng_chance(rng, profile->drop_ppm)) {
		sim->mark[SIM_MARK_NET_DROP]++;
		window_return(from, bytes);
		return;
	}
	if (sim_rng_chance(rng, profile->duplicate_ppm)) {
		sim->mark[SIM_MARK_NET_DUPLICATE]++;
		from->window_used += bytes;
		unit_send(sim, unit_create(to, UNIT_DATA, data, bytes));
	}
	struct sim_unit *unit = unit_create(to, UNIT_DATA, data, bytes);
	if (sim_rng_chance(rng, profile->flip_ppm)) {
		sim->mark[SIM_MARK_NET_FLIP]++;
		unit->data[sim_rng_below(rng, bytes)] ^= (uint8_t)(1u << sim_rng_below(rng, 8));
	}
	unit_send(sim, unit);
	if (sim_rng_chance(rng, profile->reorder_ppm))
		unit_reorder(sim, unit);
	if (sim_rng_chance(rng, profile->reset_ppm)) {
		sim->mark[SIM_MARK_NET_RESET]++;
		sim_conn_unit(from, UNIT_RESET, NULL, 0);
		sim_conn_break(from, -ECONNRESET);
	}
}

void sim_conn_unit(struct env_conn *from, enum sim_unit_kind kind, const void *data, size_t bytes)
{
	if (kind == UNIT_DATA)
		data_send(from, data, bytes);
	else
		unit_send(from->pair->sim, unit_create(conn_peer(from), kind, NULL, 0));
}

static void end_wake(struct env_conn *to)
{
	struct sim *sim = to->pair->sim;
	struct sim_process *from = conn_peer(to)->process;
	if (!sim_link_closed(sim, sim_link_get(from, to->process))) {
		list_for_each (node, &to->flying) {
			struct sim_unit *unit = CONTAINER_OF(node, struct sim_unit, link);
			if (unit->is_held)
				unit_fly(sim, unit);
		}
	}
	if (to->window_late != 0)
		window_return(to, 0);
}

void sim_streams_wake(struct sim *sim)
{
	list_for_each (node, &sim->pairs) {
		struct sim_pair *pair = CONTAINER_OF(node, struct sim_pair, link);
		end_wake(&pair->end[0]);
		end_wake(&pair->end[1]);
	}
}

/* ---- receiving ---- */

/* Parsers must live with any cut of the stream. */
static size_t chunk_draw(struct env_conn *conn, size_t most)
{
	struct sim_rng *rng = &conn->pair->sim->rng_net;
	struct sim_link *link = sim_link_get(conn_peer(conn)->process, conn->process);
	if (link->profile.whole_chunks)
		return most;
	switch (sim_rng_below(rng, 8)) {
	case 0:
		return sim_rng_range(rng, 1, MIN(most, 16));
	case 1:
		return sim_rng_range(rng, 1, most);
	default:
		return most;
	}
}

static void arrived_take(struct env_conn *conn, uint8_t *to, size_t bytes)
{
	conn->arrived_bytes -= bytes;
	while (bytes != 0) {
		struct sim_unit *unit = CONTAINER_OF(conn->arrived.next, struct sim_unit, link);
		size_t n = MIN(bytes, unit->bytes - unit->taken);
		memcpy(to, unit->data + unit->taken, n);
		unit->taken += n;
		to += n;
		bytes -= n;
		if (unit->taken == unit->bytes)
			unit_free(conn->pair->sim, unit);
	}
}

static void recv_run(struct sim_event *event)
{
	struct env_conn *conn = CONTAINER_OF(event, struct env_conn, recv_event);
	struct env_recv *recv = take(conn->recv);
	ssize_t n = 0;
	if (conn->error != 0) {
		n = conn->error;
	} else if (conn->arrived_bytes != 0) {
		size_t bytes = chunk_draw(conn, MIN(conn->arrived_bytes, recv->buf_bytes));
		arrived_take(conn, recv->buf, bytes);
		window_return(conn_peer(conn), bytes);
		n = (ssize_t)bytes;
	}
	recv->done(recv, n);
}

void sim_env_conn_recv(struct env_conn *conn, struct env_recv *recv)
{
	if (!conn->process->is_alive || conn->state == CONN_VANISHED)
		return;
	assert(!conn->recv && !conn->close && recv->buf_bytes != 0);
	conn->recv = recv;
	conn_progress(conn);
}

/* ---- sending ---- */

static void send_take(struct env_conn *conn, const struct env_send *send)
{
	struct sim *sim = conn->pair->sim;
	uint8_t *data = sim_alloc(send->length_bytes + 1);
	size_t bytes = 0;
	for (uint32_t v = 0; v < send->iov_count; v++) {
		if (send->iov[v].iov_len != 0)
			memcpy(data + bytes, send->iov[v].iov_base, send->iov[v].iov_len);
		bytes += send->iov[v].iov_len;
	}
	sim_trace(sim, SIM_EV_SEND, conn->process, conn->id, sim_hash_bytes(0, data, bytes));
	conn->window_used += bytes;
	if (bytes != 0)
		sim_conn_unit(conn, UNIT_DATA, data, bytes);
	free(data);
}

static void send_run(struct sim_event *event)
{
	struct env_conn *conn = CONTAINER_OF(event, struct env_conn, send_event);
	struct env_send *send = CONTAINER_OF(list_pop_front(&conn->sends), struct env_send, link);
	int status = conn->error;
	if (status == 0) {
		send_take(conn, send);
		send->sent_bytes = send->length_bytes;
	}
	conn_progress(conn);
	send->done(send, status);
}

void sim_env_conn_send(struct env_conn *conn, struct env_send *send)
{
	if (!conn->process->is_alive || conn->state == CONN_VANISHED)
		return;
	assert(!conn->close && send->iov_count >= 1 && send->iov_count <= ENV_IO_IOV_MAX);
	send->length_bytes = 0;
	send->sent_bytes = 0;
	for (uint32_t v = 0; v < send->iov_count; v++)
		send->length_bytes += send->iov[v].iov_len;
	list_push_back(&conn->sends, &send->link);
	conn_progress(conn);
}

/* ---- the end ---- */

void sim_conn_release(struct env_conn *conn)
{
	list_remove(&conn->process_link);
	conn->is_released = true;
	sim_pair_put(conn->pair);
}

/* One callback per event, so that each may do what it likes. */
static void close_run(struct sim_event *event)
{
	struct env_conn *conn = CONTAINER_OF(event, struct env_conn, close_event);
	struct sim *sim = conn->pair->sim;
	struct env_recv *recv = take(conn->recv);
	struct list *node = recv ? NULL : list_pop_front(&conn->sends);
	if (recv || node)
		sim_event_queue(sim, &conn->close_event, sim->now_ns);
	if (recv) {
		recv->done(recv, -ECANCELED);
	} else if (node) {
		struct env_send *send = CONTAINER_OF(node, struct env_send, link);
		send->done(send, -ECANCELED);
	} else {
		struct env_close *close = conn->close;
		conn->state = CONN_CLOSED;
		sim_conn_release(conn);
		close->done(close);
	}
}

void sim_env_conn_close(struct env_conn *conn, struct env_close *close)
{
	struct sim *sim = conn->pair->sim;
	if (!conn->process->is_alive || conn->state == CONN_VANISHED)
		return;
	assert(!conn->close);
	conn->close = close;
	sim_event_remove(sim, &conn->recv_event);
	sim_event_remove(sim, &conn->send_event);
	if (conn->error == 0)
		sim_conn_unit(conn, conn->arrived_bytes ? UNIT_RESET : UNIT_END, NULL, 0);
	units_free(sim, &conn->arrived);
	conn->arrived_bytes = 0;
	sim_event_queue(sim, &conn->close_event, sim->now_ns);
}

void sim_conn_drop(struct env_conn *conn, enum sim_conn_state state)
{
	struct sim *sim = conn->pair->sim;
	sim_event_remove(sim, &conn->recv_event);
	sim_event_remove(sim, &conn->send_event);
	sim_event_remove(sim, &conn->close_event);
	conn->recv = NULL;
	list_init(&conn->sends); /* the nodes are the dead owner's */
	units_free(sim, &conn->arrived);
	conn->arrived_bytes = 0;
	conn->state = state;
}

static void end_init(struct sim_pair *pair, unsigned index, struct sim_process *process)
{
	struct env_conn *conn = &pair->end[index];
	conn->pair = pair;
	conn->process = process;
	conn->id = pair->sim->next_id++;
	list_init(&conn->arrived);
	list_init(&conn->flying);
	list_init(&conn->sends);
	conn->recv_event = (struct sim_event){
		.run = recv_run, .process = process, .kind = SIM_EV_RECV, .id = conn->id};
	conn->send_event = (struct sim_event){
		.run = send_run, .process = process, .kind = SIM_EV_SENT, .id = conn->id};
	conn->close_event = (struct sim_event){
		.run = close_run, .process = process, .kind = SIM_EV_CONN_CLOSED, .id = conn->id};
	list_push_back(&process->conns, &conn->process_link);
}

struct sim_pair *sim_pair_create(struct sim_process *from, struct sim_process *to)
{
	struct sim_pair *pair = sim_alloc(sizeof(*pair));
	pair->sim = from->sim;
	end_init(pair, 0, from);
	end_init(pair, 1, to);
	list_push_back(&from->sim->pairs, &pair->link);
	return pair;
}

void sim_pair_free(struct sim_pair *pair)
{
	for (unsigned i = 0; i < 2; i++) {
		struct env_conn *conn = &pair->end[i];
		sim_conn_drop(conn, CONN_CLOSED);
		units_free(pair->sim, &conn->flying);
		list_remove(&conn->process_link);
	}
	sim_event_remove(pair->sim, &pair->accept_event);
	list_remove(&pair->link);
	free(pair);
}

void sim_pair_put(struct sim_pair *pair)
{
	if (pair->end[0].is_released && pair->end[1].is_released)
		sim_pair_free(pair);
}
