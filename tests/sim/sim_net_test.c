/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simulated network: streams that hold what TCP promises, and faults that break them on
 * purpose. A peer here counts what arrives; a protocol test above relies on these rules.
 */
#include <errno.h>

#include "tests/sim/sim.h"
#include "tests/sim/sim_net.h"
#include "tests/unit/test.h"

#define STREAM_BYTES_MAX 65536

/* One end with an endless receive. */
struct end {
	struct env *env;
	struct env_conn *conn;
	struct env_recv recv;
	uint8_t buf[256];
	uint8_t got[STREAM_BYTES_MAX];
	size_t got_bytes;
	ssize_t last; /* 1: going on, 0: end, < 0: error */
	struct env_close close;
	bool is_closed;
};

static void end_received(struct env_recv *recv, ssize_t n)
{
	struct end *end = CONTAINER_OF(recv, struct end, recv);
	end->last = n > 0 ? 1 : n;
	if (n <= 0)
		return;
	CHECK(end->got_bytes + (size_t)n <= sizeof(end->got));
	memcpy(end->got + end->got_bytes, end->buf, (size_t)n);
	end->got_bytes += (size_t)n;
	env_conn_recv(end->env, end->conn, &end->recv);
}

static void end_start(struct end *end, struct env_conn *conn)
{
	end->conn = conn;
	end->last = 1;
	end->recv.buf = end->buf;
	end->recv.buf_bytes = sizeof(end->buf);
	end->recv.done = end_received;
	env_conn_recv(end->env, conn, &end->recv);
}

static void end_close_done(struct env_close *close)
{
	CONTAINER_OF(close, struct end, close)->is_closed = true;
}

/* A client and a server process, and one connection between them. */
struct pair {
	struct sim *sim;
	struct sim_process *client_process;
	struct sim_process *server_process;
	struct env_listener *listener;
	struct env_connect connect;
	int connect_status;
	bool is_connected;
	bool is_accepted;
	struct end client;
	struct end server;
};

static void pair_accepted(void *ctx, struct env_conn *conn, const struct env_peer *peer)
{
	struct pair *pair = ctx;
	CHECK(strncmp(peer->text, "unix:pid=", 9) == 0);
	pair->is_accepted = true;
	end_start(&pair->server, conn);
}

static void pair_connected(struct env_connect *connect, int status, struct env_conn *conn)
{
	struct pair *pair = CONTAINER_OF(connect, struct pair, connect);
	pair->is_connected = true;
	pair->connect_status = status;
	CHECK((status == 0) == (conn != NULL));
	if (conn)
		end_start(&pair->client, conn);
}

static void pair_listen(struct pair *pair)
{
	struct env_listener_cb cb = {pair_accepted, pair};
	struct err err;
	CHECK_EQ(env_listen(pair->server.env, "unix:/server", &cb, &pair->listener, &err), 0);
	CHECK_EQ(env_listen(pair->server.env, "unix:/server", &cb, &pair->listener, &err),
		 -EADDRINUSE);
}

static void pair_connect(struct pair *pair)
{
	pair->is_connected = pair->is_accepted = false;
	pair->connect.done = pair_connected;
	env_connect(pair->client.env, "unix:/server", &pair->connect);
}

static struct pair *pair_create(uint64_t seed)
{
	struct pair *pair = calloc(1, sizeof(*pair));
	pair->sim = sim_create(seed);
	pair->client_process = sim_process_create(pair->sim, "client");
	pair->server_process = sim_process_create(pair->sim, "server");
	pair->client.env = sim_process_env(pair->client_process);
	pair->server.env = sim_process_env(pair->server_process);
	return pair;
}

static struct pair *pair_up(uint64_t seed)
{
	struct pair *pair = pair_create(seed);
	pair_listen(pair);
	pair_connect(pair);
	sim_run_for(pair->sim, SIM_S);
	CHECK(pair->is_connected && pair->is_accepted && pair->connect_status == 0);
	CHECK_EQ(sim_net_connections(pair->client_process, pair->server_process), 1);
	return pair;
}

static void pair_free(struct pair *pair)
{
	sim_destroy(pair->sim);
	free(pair);
}

struct message {
	struct env_send send;
	struct iovec iov;
	uint8_t bytes[100];
	int status; /* 1: not done */
};

static void message_done(struct env_send *send, int status)
{
	CONTAINER_OF(send, struct message, send)->status = status;
}

static void message_send(struct end *end, struct message *message, uint8_t fill)
{
	memset(message, 0, sizeof(*message));
	memset(message->bytes, fill, sizeof(message->bytes));
	message->iov = (struct iovec){message->bytes, sizeof(message->bytes)};
	message->send.iov = &message->iov;
	message->send.iov_count = 1;
	message->send.done = message_done;
	message->status = 1;
	env_conn_send(end->env, end->conn, &message->send);
}

/* Messages 0..count-1 from client to server. */
static void messages_send(struct pair *pair, struct message *messages, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		message_send(&pair->client, &messages[i], (uint8_t)i);
}

static bool is_whole(const struct end *end, unsigned count)
{
	if (end->got_bytes != count * 100)
		return false;
	for (size_t i = 0; i < end->got_bytes; i++)
		if (end->got[i] != i / 100)
			return false;
	return true;
}

TEST(sim_net, bytes_arrive_in_order_and_whole_whatever_the_chunks)
{
	for (uint64_t seed = 1; seed <= 20; seed++) {
		struct pair *pair = pair_up(seed);
		struct message messages[100];
		messages_send(pair, messages, 100);
		sim_run_for(pair->sim, SIM_S);
		CHECK(is_whole(&pair->server, 100));
		for (unsigned i = 0; i < 100; i++)
			CHECK_EQ(messages[i].status, 0);
		pair_free(pair);
	}
}

static uint64_t traffic_hash(uint64_t seed)
{
	struct pair *pair = pair_up(seed);
	struct message messages[20];
	messages_send(pair, messages, 20);
	sim_run_for(pair->sim, SIM_S);
	uint64_t hash = sim_trace_hash(pair->sim);
	pair_free(pair);
	return hash;
}

TEST(sim_net, same_seed_gives_same_trace)
{
	CHECK(traffic_hash(5) == traffic_hash(5));
	CHECK(traffic_hash(5) != traffic_hash(6));
}

TEST(sim_net, a_send_waits_for_the_window)
{
	struct pair *pair = pair_up(2);
	struct message messages[10];
	sim_link_profile(pair->client_process, pair->server_process)->window_bytes = 250;
	sim_process_pause(pair->server_process);
	messages_send(pair, messages, 10);
	sim_run_for(pair->sim, SIM_S);
	CHECK_EQ(messages[2].status, 0);
	CHECK_EQ(messages[3].status, 1);
	sim_process_resume(pair->server_process);
	sim_run_for(pair->sim, SIM_S);
	CHECK_EQ(messages[9].status, 0);
	CHECK(is_whole(&pair->server, 10));
	pair_free(pair);
}

TEST(sim_net, a_one_way_partition_holds_bytes_until_it_heals)
{
	struct pair *pair = pair_up(3);
	struct message messages[10], back;
	messages_send(pair, messages, 5);
	sim_link_block(pair->client_process, pair->server_process, true);
	sim_run_for(pair->sim, 100 * SIM_MS);
	for (unsigned i = 5; i < 10; i++)
		message_send(&pair->client, &messages[i], (uint8_t)i);
	message_send(&pair->server, &back, 0);
	sim_run_for(pair->sim, SIM_S);
	CHECK_EQ(pair->server.got_bytes, 0);
	CHECK_EQ(pair->client.got_bytes, 100);
	sim_net_heal(pair->sim);
	sim_run_for(pair->sim, SIM_S);
	CHECK(is_whole(&pair->server, 10));
	pair_free(pair);
}

TEST(sim_net, while_the_way_back_is_blocked_the_window_does_not_open)
{
	struct pair *pair = pair_up(4);
	struct message messages[10];
	sim_link_profile(pair->client_process, pair->server_process)->window_bytes = 250;
	sim_link_block(pair->server_process, pair->client_process, true);
	messages_send(pair, messages, 10);
	sim_run_for(pair->sim, SIM_S);
	CHECK_EQ(pair->server.got_bytes, 300);
	sim_link_block(pair->server_process, pair->client_process, false);
	sim_run_for(pair->sim, SIM_S);
	CHECK(is_whole(&pair->server, 10));
	pair_free(pair);
}

TEST(sim_net, swizzled_links_deliver_everything_in_the_end)
{
	for (uint64_t seed = 1; seed <= 20; seed++) {
		struct pair *pair = pair_up(seed);
		struct message messages[50];
		sim_net_swizzle(pair->sim, 10 * SIM_S);
		for (unsigned i = 0; i < 50; i++) {
			message_send(&pair->client, &messages[i], (uint8_t)i);
			sim_run_for(pair->sim, 200 * SIM_MS);
		}
		sim_run_for(pair->sim, 20 * SIM_S);
		CHECK(is_whole(&pair->server, 50));
		pair_free(pair);
	}
}

TEST(sim_net, units_are_dropped_duplicated_reordered_and_flipped_when_asked)
{
	struct pair *pair = pair_up(7);
	struct message messages[100];
	struct sim_link_profile *profile =
		sim_link_profile(pair->client_process, pair->server_process);
	profile->drop_ppm = profile->duplicate_ppm = 100000;
	profile->reorder_ppm = profile->flip_ppm = 100000;
	messages_send(pair, messages, 100);
	sim_run_for(pair->sim, SIM_S);
	CHECK(!is_whole(&pair->server, 100));
	uint64_t dropped = sim_mark_count(pair->sim, SIM_MARK_NET_DROP);
	uint64_t doubled = sim_mark_count(pair->sim, SIM_MARK_NET_DUPLICATE);
	CHECK_EQ(pair->server.got_bytes, 100 * (100 - dropped + doubled));
	CHECK(dropped > 0 && doubled > 0);
	CHECK(sim_mark_count(pair->sim, SIM_MARK_NET_REORDER) > 0);
	CHECK(sim_mark_count(pair->sim, SIM_MARK_NET_FLIP) > 0);
	pair_free(pair);
}

TEST(sim_net, close_cancels_what_is_pending_and_the_peer_sees_the_end)
{
	struct pair *pair = pair_up(8);
	struct message first, late;
	message_send(&pair->client, &first, 0);
	sim_run_for(pair->sim, SIM_S);
	message_send(&pair->client, &late, 1);
	pair->client.close.done = end_close_done;
	env_conn_close(pair->client.env, pair->client.conn, &pair->client.close);
	CHECK(!pair->client.is_closed && late.status == 1);
	sim_run_for(pair->sim, SIM_S);
	CHECK(pair->client.is_closed);
	CHECK_EQ(late.status, -ECANCELED);
	CHECK_EQ(pair->client.last, -ECANCELED);
	CHECK_EQ(pair->server.last, 0);
	CHECK(is_whole(&pair->server, 1));
	message_send(&pair->server, &late, 1); /* nobody is there: reset */
	sim_run_for(pair->sim, SIM_S);
	message_send(&pair->server, &late, 1);
	sim_run_for(pair->sim, SIM_S);
	CHECK_EQ(late.status, -ECONNRESET);
	pair_free(pair);
}

TEST(sim_net, a_reset_is_seen_by_both_and_a_half_open_connection_by_one)
{
	struct pair *pair = pair_up(9);
	sim_net_half_open(pair->server_process, pair->client_process);
	sim_run_for(pair->sim, SIM_S);
	CHECK_EQ(pair->server.last, -ECONNRESET);
	CHECK_EQ(pair->client.last, 1);
	sim_net_reset(pair->server_process, pair->client_process);
	sim_run_for(pair->sim, SIM_S);
	CHECK_EQ(pair->client.last, -ECONNRESET);
	pair_free(pair);
}

TEST(sim_net, a_killed_peer_is_noticed_and_a_silent_one_is_not_until_it_is_back)
{
	struct pair *pair = pair_up(10);
	struct message message;
	sim_process_kill(pair->server_process, SIM_KILL_PROCESS);
	sim_run_for(pair->sim, SIM_S);
	CHECK(pair->client.last == 0 || pair->client.last == -ECONNRESET);
	pair_free(pair);

	pair = pair_up(11);
	sim_process_kill(pair->server_process, SIM_KILL_SILENT);
	message_send(&pair->client, &message, 0);
	sim_run_for(pair->sim, 60 * SIM_S);
	CHECK_EQ(pair->client.last, 1);
	sim_process_restart(pair->server_process);
	message_send(&pair->client, &message, 0);
	sim_run_for(pair->sim, SIM_S);
	CHECK_EQ(pair->client.last, -ECONNRESET);
	pair_free(pair);
}

TEST(sim_net, connects_are_refused_time_out_or_are_cancelled)
{
	struct pair *pair = pair_create(12);
	pair_connect(pair);
	sim_run_for(pair->sim, SIM_S);
	CHECK(pair->is_connected);
	CHECK_EQ(pair->connect_status, -ECONNREFUSED);
	pair_listen(pair);
	sim_net_partition(pair->sim, 1);
	pair_connect(pair);
	sim_run_for(pair->sim, 60 * SIM_S);
	CHECK(!pair->is_connected);
	sim_run_for(pair->sim, 70 * SIM_S);
	CHECK_EQ(pair->connect_status, -ETIMEDOUT);
	pair_connect(pair);
	sim_run_for(pair->sim, SIM_S);
	env_connect_cancel(pair->client.env, &pair->connect);
	CHECK(!pair->is_connected);
	sim_run_for(pair->sim, SIM_S);
	CHECK_EQ(pair->connect_status, -ECANCELED);
	sim_net_heal(pair->sim);
	pair_connect(pair);
	sim_run_for(pair->sim, SIM_S);
	CHECK_EQ(pair->connect_status, 0);
	env_listener_close(pair->server.env, pair->listener);
	CHECK_EQ(pair->client.last, 1);
	pair_free(pair);
}

TEST(sim_net, a_cancelled_connect_leaves_the_server_an_end)
{
	unsigned ends = 0;
	for (uint64_t seed = 1; seed <= 40; seed++) {
		struct pair *pair = pair_create(seed);
		pair_listen(pair);
		pair_connect(pair);
		sim_run_for(pair->sim, seed * 10 * SIM_US);
		if (!pair->is_connected) {
			env_connect_cancel(pair->client.env, &pair->connect);
			sim_run_for(pair->sim, SIM_S);
			CHECK_EQ(pair->connect_status, -ECANCELED);
			ends += pair->is_accepted && pair->server.last == 0;
			CHECK(!pair->is_accepted || pair->server.last == 0);
		}
		pair_free(pair);
	}
	CHECK(ends > 0);
}

/* Kills at every step of a connection's life; nothing may be touched afterwards. */
TEST(sim_net, a_kill_at_any_step_leaves_nothing_behind)
{
	for (unsigned steps = 0; steps < 60; steps++) {
		struct pair *pair = pair_create(13);
		struct message *messages = calloc(5, sizeof(*messages));
		enum sim_kill how = (enum sim_kill)(steps % 3);
		pair_listen(pair);
		pair_connect(pair);
		sim_run_steps(pair->sim, 4);
		if (pair->client.conn)
			messages_send(pair, messages, 5);
		sim_run_steps(pair->sim, steps / 2);
		if (steps % 4 == 0)
			sim_process_pause(pair->client_process);
		sim_run_steps(pair->sim, steps / 2);
		sim_process_kill(pair->client_process, how);
		free(messages);
		pair->client.last = 7;
		sim_run_for(pair->sim, SIM_S);
		CHECK_EQ(pair->client.last, 7);
		sim_process_restart(pair->client_process);
		pair_connect(pair);
		sim_run_for(pair->sim, SIM_S);
		CHECK_EQ(pair->connect_status, 0);
		pair_free(pair);
	}
}
