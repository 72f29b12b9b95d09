/* SPDX-License-Identifier: Apache-2.0 */
/* A node against peers that speak raw bytes: hostile frames, fencing, leases, old epochs. */
#include "replication/node.h"
#include "replication/wire.h"
#include "tests/sim/sim_net.h"
#include "tests/sim/store_fake.h"
#include "tests/unit/test.h"

#define ADDRESS "tcp:10.0.0.1:7000"
#define BLOCKS  512u

/* One raw connection. */
struct raw {
	struct env *env;
	struct env_connect connect;
	struct env_conn *conn;
	struct env_recv recv;
	struct env_close close;
	uint8_t chunk[65536];
	uint8_t in[1 << 20];
	size_t in_bytes, taken;
	uint64_t frames_out;
	bool ended;
};

struct fixture {
	struct sim *sim;
	struct sim_process *node_process, *peer_process;
	struct fake_world world;
	struct fake_device device;
	struct store *store;
	struct node *node;
};

static void raw_received(struct env_recv *recv, ssize_t n)
{
	struct raw *raw = CONTAINER_OF(recv, struct raw, recv);
	if (n <= 0) {
		raw->ended = true;
		return;
	}
	CHECK(raw->in_bytes + (size_t)n <= sizeof(raw->in));
	memcpy(raw->in + raw->in_bytes, raw->chunk, (size_t)n);
	raw->in_bytes += (size_t)n;
	env_conn_recv(raw->env, raw->conn, &raw->recv);
}

static void raw_connected(struct env_connect *connect, int status, struct env_conn *conn)
{
	struct raw *raw = CONTAINER_OF(connect, struct raw, connect);
	CHECK_EQ(status, 0);
	raw->conn = conn;
	raw->recv = (struct env_recv){
		.buf = raw->chunk, .buf_bytes = sizeof(raw->chunk), .done = raw_received};
	env_conn_recv(raw->env, conn, &raw->recv);
}

struct raw_send {
	struct env_send send;
	struct iovec iov;
};

static void raw_sent(struct env_send *send, int status)
{
	(void)status;
	struct raw_send *s = CONTAINER_OF(send, struct raw_send, send);
	free(s->iov.iov_base);
	free(s);
}

static void raw_bytes(struct raw *raw, const void *bytes, size_t length)
{
	struct raw_send *s = calloc(1, sizeof(*s));
	s->iov = (struct iovec){malloc(length), length};
	memcpy(s->iov.iov_base, bytes, length);
	s->send = (struct env_send){.iov = &s->iov, .iov_count = 1, .done = raw_sent};
	env_conn_send(raw->env, raw->conn, &s->send);
}

struct frame_spec {
	enum wire_type type;
	uint64_t request_id;
	uint32_t session;
	const void *body;
	uint32_t body_bytes;
	const void *payload;
	uint32_t payload_bytes;
};

static void raw_frame(struct raw *raw, struct frame_spec spec)
{
	uint8_t *bytes = calloc(1, 56 + spec.body_bytes + spec.payload_bytes);
	struct wire_header *h = (struct wire_header *)(void *)bytes;
	*h = (struct wire_header){
		.type = le16_make((uint16_t)spec.type),
		.body_bytes = le32_make(spec.body_bytes),
		.payload_bytes = le32_make(spec.payload_bytes),
		.frame_no = le64_make(++raw->frames_out),
		.request_id = le64_make(spec.request_id),
		.session = le32_make(spec.session),
	};
	if (spec.body_bytes > 0)
		memcpy(bytes + 56, spec.body, spec.body_bytes);
	if (spec.payload_bytes > 0)
		memcpy(bytes + 56 + spec.body_bytes, spec.payload, spec.payload_bytes);
	wire_header_seal(h, spec.body);
	raw_bytes(raw, bytes, 56 + spec.body_bytes + spec.payload_bytes);
	free(bytes);
}

static struct raw *raw_open(struct fixture *f, bool hello)
{
	struct raw *raw = calloc(1, sizeof(*raw));
	raw->env = sim_process_env(f->peer_process);
	raw->connect.done = raw_connected;
	env_connect(raw->env, ADDRESS, &raw->connect);
	sim_run_for(f->sim, 5 * SIM_MS);
	CHECK(raw->conn != NULL);
	struct wire_hello h = {
		.version_min = le32_make(1),
		.version_max = le32_make(1),
		.kind = le32_make(WIRE_KIND_CLIENT),
		.cluster_uuid.bytes[0] = 1,
	};
	if (hello)
		raw_frame(raw, (struct frame_spec){WIRE_HELLO, 0, 0, &h, sizeof(h), NULL, 0});
	sim_run_for(f->sim, 5 * SIM_MS);
	return raw;
}

/* The next frame of this type from the node within limit_ns; NULL: none. Others are skipped. */
static const struct wire_header *raw_next(struct fixture *f, struct raw *raw, enum wire_type type,
					  uint64_t limit_ns)
{
	for (uint64_t t = 0; t <= limit_ns; t += SIM_MS) {
		while (raw->in_bytes - raw->taken >= sizeof(struct wire_header)) {
			const struct wire_header *h = (const void *)(raw->in + raw->taken);
			CHECK_EQ(wire_header_check(h), 0);
			size_t bytes =
				sizeof(*h) + le32_get(h->body_bytes) + le32_get(h->payload_bytes);
			if (raw->in_bytes - raw->taken < bytes)
				break;
			raw->taken += bytes;
			if (le16_get(h->type) == type)
				return h;
		}
		sim_run_for(f->sim, SIM_MS);
	}
	return NULL;
}

static void fixture_open(struct fixture *f)
{
	memset(f, 0, sizeof(*f));
	f->sim = sim_create(5);
	sim_rng_seed(&f->world.rng, 5, 1);
	f->world.delay_max_ns = 100000;
	f->node_process = sim_process_create(f->sim, "node");
	f->peer_process = sim_process_create(f->sim, "peer");
	f->device.world = &f->world;
	for (uint32_t i = 0; i < FAKE_REPLICAS_MAX; i++)
		f->device.replicas[i].device = &f->device;
	f->device.replicas[0].used = true;
	f->device.replicas[0].spec.volume_uuid.bytes[0] = 7;
	f->device.replicas[0].spec.replica_uuid.bytes[0] = 20;
	f->device.replicas[0].spec.size_blocks = BLOCKS;
	struct node_config config;
	node_config_default(&config);
	config.cluster_uuid.bytes[0] = 1;
	config.listen = ADDRESS;
	config.credit_frames = 8;
	struct err err;
	f->store = fake_open(sim_process_env(f->node_process), &f->device);
	CHECK_EQ(node_create(sim_process_env(f->node_process), &config, &f->node, &err), 0);
	CHECK_EQ(node_add_store(f->node, f->store, &err), 0);
}

static void fixture_close(struct fixture *f)
{
	sim_process_kill(f->node_process, SIM_KILL_PROCESS);
	fake_crash(f->store);
	node_destroy(f->node);
	fake_free(&f->device);
	sim_destroy(f->sim);
}

static void raw_prepare(struct raw *raw, uint64_t epoch, uint32_t session, uint64_t request_id)
{
	struct wire_prepare p = {.epoch = le64_make(epoch), .session = le32_make(session)};
	p.target.volume_uuid.bytes[0] = 7;
	p.target.replica_uuid.bytes[0] = 20;
	raw_frame(raw,
		  (struct frame_spec){WIRE_PREPARE, request_id, session, &p, sizeof(p), NULL, 0});
}

static uint16_t prepare_status(struct fixture *f, struct raw *raw, uint64_t epoch, uint32_t session)
{
	raw_prepare(raw, epoch, session, 1);
	const struct wire_header *h = raw_next(f, raw, WIRE_PROMISE, 3 * SIM_S);
	CHECK(h != NULL);
	return le16_get(h->status);
}

static void raw_lease(struct raw *raw, uint64_t term_ns)
{
	struct wire_lease lease = {.boot_id = le64_make(9), .term_ns = le64_make(term_ns)};
	raw_frame(raw, (struct frame_spec){WIRE_LEASE, 2, 0, &lease, sizeof(lease), NULL, 0});
}

static uint32_t node_connections(struct fixture *f)
{
	struct node_info info;
	node_info(f->node, &info);
	return info.connections;
}

TEST(repl_node, garbage_ends_the_connection_and_nothing_else)
{
	struct fixture f;
	fixture_open(&f);
	struct raw *good = raw_open(&f, true);
	struct raw *bad = raw_open(&f, false);
	uint8_t noise[300];
	memset(noise, 0xa5, sizeof(noise));
	raw_bytes(bad, noise, sizeof(noise));
	sim_run_for(f.sim, 50 * SIM_MS);
	CHECK(bad->ended);
	CHECK_EQ(node_connections(&f), 1);
	CHECK_EQ(prepare_status(&f, good, 1, 1), WIRE_OK);
	fixture_close(&f);
	free(good);
	free(bad);
}

TEST(repl_node, a_wrong_frame_number_ends_the_connection)
{
	struct fixture f;
	fixture_open(&f);
	struct raw *raw = raw_open(&f, true);
	raw->frames_out++;
	raw_prepare(raw, 1, 1, 1);
	sim_run_for(f.sim, 50 * SIM_MS);
	CHECK(raw->ended);
	CHECK_EQ(f.device.replicas[0].promised, 0);
	fixture_close(&f);
	free(raw);
}

TEST(repl_node, half_a_frame_or_no_hello_is_dropped_after_a_while)
{
	struct fixture f;
	fixture_open(&f);
	struct raw *half = raw_open(&f, true);
	struct raw *slow = raw_open(&f, false);
	raw_bytes(half, "HFR1", 4);
	for (int i = 0; i < 14; i++) { /* a byte now and then is no handshake */
		raw_bytes(slow, "x", 1);
		sim_run_for(f.sim, 500 * SIM_MS);
	}
	CHECK(half->ended && slow->ended);
	CHECK_EQ(node_connections(&f), 0);
	fixture_close(&f);
	free(half);
	free(slow);
}

TEST(repl_node, short_and_unknown_bodies_are_refused_not_obeyed)
{
	struct fixture f;
	fixture_open(&f);
	struct raw *raw = raw_open(&f, true);
	CHECK_EQ(prepare_status(&f, raw, 1, 1), WIRE_OK);
	uint64_t body[2] = {UINT64_MAX, UINT64_MAX};
	static const uint16_t types[] = {WIRE_STAGE,    WIRE_ADOPT,  WIRE_READ,
					 WIRE_LOG_READ, WIRE_FILL,   WIRE_REPAIR,
					 WIRE_CHANGES,  WIRE_SHADOW, 999};
	for (size_t i = 0; i < ARRAY_LEN(types); i++) {
		raw_frame(raw, (struct frame_spec){types[i], 3, 1, body, 8, NULL, 0});
		const struct wire_header *h = raw_next(&f, raw, WIRE_DONE, SIM_S);
		CHECK(h != NULL && le16_get(h->status) != WIRE_OK, "type %u", types[i]);
	}
	CHECK_EQ(prepare_status(&f, raw, 2, 2), WIRE_OK);
	fixture_close(&f);
	free(raw);
}

TEST(repl_node, more_frames_than_the_credits_are_held_back_and_all_answered)
{
	struct fixture f;
	fixture_open(&f);
	struct raw *raw = raw_open(&f, true);
	CHECK_EQ(prepare_status(&f, raw, 1, 1), WIRE_OK);
	struct wire_read read = {.epoch = le64_make(1), .length_blocks = le64_make(1)};
	for (uint64_t i = 0; i < 100; i++) /* the bound is 8 */
		raw_frame(raw,
			  (struct frame_spec){WIRE_READ, 10 + i, 1, &read, sizeof(read), NULL, 0});
	for (uint64_t i = 0; i < 100; i++)
		CHECK(raw_next(&f, raw, WIRE_DATA, SIM_S) != NULL);
	CHECK(!raw->ended);
	fixture_close(&f);
	free(raw);
}

TEST(repl_node, an_old_epoch_is_refused_and_its_session_fenced)
{
	struct fixture f;
	fixture_open(&f);
	struct raw *old = raw_open(&f, true);
	struct raw *new = raw_open(&f, true);
	CHECK_EQ(prepare_status(&f, old, 3, 1), WIRE_OK);
	CHECK_EQ(prepare_status(&f, new, 5, 1), WIRE_OK);
	const struct wire_header *ack = raw_next(&f, old, WIRE_ACK, SIM_S);
	CHECK(ack != NULL);
	const struct wire_ack *body = (const void *)(ack + 1);
	CHECK_EQ(le32_get(body->status), WIRE_ESTALE);
	struct wire_read read = {.epoch = le64_make(3), .length_blocks = le64_make(1)};
	raw_frame(old, (struct frame_spec){WIRE_READ, 4, 1, &read, sizeof(read), NULL, 0});
	const struct wire_header *h = raw_next(&f, old, WIRE_DONE, SIM_S);
	CHECK(h != NULL);
	CHECK_EQ(le16_get(h->status), WIRE_ESTALE);
	CHECK_EQ(prepare_status(&f, old, 4, 2), WIRE_ESTALE);
	CHECK_EQ(f.device.replicas[0].promised, 5);
	fixture_close(&f);
	free(old);
	free(new);
}

TEST(repl_node, a_lease_delays_the_next_promise_until_it_ran_out)
{
	struct fixture f;
	fixture_open(&f);
	struct raw *old = raw_open(&f, true);
	struct raw *new = raw_open(&f, true);
	CHECK_EQ(prepare_status(&f, old, 1, 1), WIRE_OK);
	raw_lease(old, 800 * SIM_MS);
	CHECK(raw_next(&f, old, WIRE_DONE, SIM_S) != NULL);
	raw_prepare(new, 2, 1, 1);
	CHECK(raw_next(&f, new, WIRE_PROMISE, 700 * SIM_MS) == NULL);
	/* a renewal after the fence does not prolong the wait */
	raw_lease(old, 800 * SIM_MS);
	CHECK(raw_next(&f, new, WIRE_PROMISE, 300 * SIM_MS) != NULL);
	fixture_close(&f);
	free(old);
	free(new);
}

TEST(repl_node, a_released_lease_delays_nothing)
{
	struct fixture f;
	fixture_open(&f);
	struct raw *old = raw_open(&f, true);
	struct raw *new = raw_open(&f, true);
	CHECK_EQ(prepare_status(&f, old, 1, 1), WIRE_OK);
	raw_lease(old, 800 * SIM_MS);
	raw_lease(old, 0);
	sim_run_for(f.sim, 20 * SIM_MS);
	raw_prepare(new, 2, 1, 1);
	CHECK(raw_next(&f, new, WIRE_PROMISE, 50 * SIM_MS) != NULL);
	fixture_close(&f);
	free(old);
	free(new);
}

static void node_start(struct fixture *f)
{
	struct node_config config;
	node_config_default(&config);
	config.cluster_uuid.bytes[0] = 1;
	config.listen = ADDRESS;
	struct err err;
	sim_process_restart(f->node_process);
	f->store = fake_open(sim_process_env(f->node_process), &f->device);
	CHECK_EQ(node_create(sim_process_env(f->node_process), &config, &f->node, &err), 0);
	CHECK_EQ(node_add_store(f->node, f->store, &err), 0);
}

static void node_kill(struct fixture *f)
{
	sim_process_kill(f->node_process, SIM_KILL_PROCESS);
	fake_crash(f->store);
	node_destroy(f->node);
}

static void set_flag(void *ctx)
{
	*(bool *)ctx = true;
}

/* Ms that a promise to the next epoch takes after a restart. */
static uint64_t promise_delay_ms(struct fixture *f, uint64_t epoch)
{
	struct raw *again = raw_open(f, true);
	uint64_t begun_ns = sim_now_ns(f->sim);
	CHECK_EQ(prepare_status(f, again, epoch, 1), WIRE_OK);
	free(again);
	return (sim_now_ns(f->sim) - begun_ns) / SIM_MS;
}

TEST(repl_node, a_restarted_node_waits_out_the_leases_of_its_former_life)
{
	struct fixture f;
	fixture_open(&f);
	struct raw *raw = raw_open(&f, true);
	CHECK_EQ(prepare_status(&f, raw, 1, 1), WIRE_OK);
	node_kill(&f);
	node_start(&f);
	uint64_t took_ms = promise_delay_ms(&f, 2);
	CHECK(took_ms > 900 && took_ms < 1200, "took %lu ms", took_ms);
	fixture_close(&f);
	free(raw);
}

static void raw_closed(struct env_close *close)
{
	(void)close;
}

TEST(repl_node, a_clean_stop_after_its_peers_went_leaves_no_lease)
{
	struct fixture f;
	fixture_open(&f);
	struct raw *raw = raw_open(&f, true);
	CHECK_EQ(prepare_status(&f, raw, 1, 1), WIRE_OK);
	raw_lease(raw, 800 * SIM_MS);
	sim_run_for(f.sim, 20 * SIM_MS);
	raw->close.done = raw_closed;
	env_conn_close(raw->env, raw->conn, &raw->close);
	sim_run_for(f.sim, 20 * SIM_MS);
	bool stopped = false;
	node_shutdown(f.node, set_flag, &stopped);
	CHECK(stopped || sim_run_flag(f.sim, &stopped, 100 * SIM_MS) == 0);
	CHECK_EQ(f.device.replicas[0].lease_term_ns, 0);
	node_kill(&f);
	node_start(&f);
	CHECK(promise_delay_ms(&f, 2) < 50);
	fixture_close(&f);
	free(raw);
}

/* The peer hears nothing of the end of its session (it may be cut off), so it may read for as long as it was told. */
TEST(repl_node, a_clean_stop_outlives_the_lease_that_a_peer_believes_in)
{
	struct fixture f;
	fixture_open(&f);
	struct raw *raw = raw_open(&f, true);
	CHECK_EQ(prepare_status(&f, raw, 1, 1), WIRE_OK);
	raw_lease(raw, 800 * SIM_MS);
	CHECK(raw_next(&f, raw, WIRE_DONE, SIM_S) != NULL);
	bool stopped = false;
	node_shutdown(f.node, set_flag, &stopped);
	CHECK(!stopped);
	CHECK(sim_run_flag(f.sim, &stopped, 700 * SIM_MS) != 0, "stopped while the lease was out");
	CHECK(f.device.replicas[0].lease_term_ns != 0);
	CHECK(sim_run_flag(f.sim, &stopped, 300 * SIM_MS) == 0);
	CHECK_EQ(f.device.replicas[0].lease_term_ns, 0);
	node_kill(&f);
	node_start(&f);
	CHECK(promise_delay_ms(&f, 2) < 50);
	fixture_close(&f);
	free(raw);
}

TEST(repl_node, a_stop_that_is_cut_short_leaves_the_lease_standing)
{
	struct fixture f;
	fixture_open(&f);
	struct raw *raw = raw_open(&f, true);
	CHECK_EQ(prepare_status(&f, raw, 1, 1), WIRE_OK);
	raw_lease(raw, 800 * SIM_MS);
	sim_run_for(f.sim, 20 * SIM_MS);
	bool stopped = false;
	node_shutdown(f.node, set_flag, &stopped);
	sim_run_for(f.sim, 300 * SIM_MS);
	CHECK(!stopped);
	node_kill(&f);
	node_start(&f);
	CHECK(promise_delay_ms(&f, 2) > 900);
	fixture_close(&f);
	free(raw);
}

/* A boot that granted nothing and ends before it waited out its predecessor's leases must not deny them. */
TEST(repl_node, a_short_clean_life_does_not_deny_the_leases_before_it)
{
	struct fixture f;
	fixture_open(&f);
	struct raw *raw = raw_open(&f, true);
	CHECK_EQ(prepare_status(&f, raw, 1, 1), WIRE_OK);
	node_kill(&f);
	node_start(&f);
	uint64_t begun_ns = sim_now_ns(f.sim);
	bool stopped = false;
	node_shutdown(f.node, set_flag, &stopped);
	CHECK(stopped || sim_run_flag(f.sim, &stopped, 2 * SIM_S) == 0);
	CHECK(sim_now_ns(f.sim) - begun_ns >= 1000 * SIM_MS);
	fixture_close(&f);
	free(raw);
}

TEST(repl_node, a_stop_answers_promises_that_wait)
{
	struct fixture f;
	fixture_open(&f);
	struct raw *old = raw_open(&f, true);
	struct raw *new = raw_open(&f, true);
	CHECK_EQ(prepare_status(&f, old, 1, 1), WIRE_OK);
	raw_lease(old, 800 * SIM_MS);
	sim_run_for(f.sim, 20 * SIM_MS);
	raw_prepare(new, 2, 1, 1);
	sim_run_for(f.sim, 20 * SIM_MS);
	bool stopped = false;
	node_shutdown(f.node, set_flag, &stopped);
	CHECK(stopped || sim_run_flag(f.sim, &stopped, 2 * SIM_S) == 0, "the stop hangs");
	CHECK_EQ(f.device.replicas[0].promised, 1);
	fixture_close(&f);
	free(old);
	free(new);
}

/* Silence would be taken for a slow disk, for ever. */
TEST(repl_node, an_append_of_no_session_is_answered)
{
	struct fixture f;
	fixture_open(&f);
	struct raw *raw = raw_open(&f, true);
	CHECK_EQ(prepare_status(&f, raw, 1, 1), WIRE_OK);
	struct wire_commit commit = {.epoch = le64_make(1), .commit_seq = le64_make(0)};
	raw_frame(raw, (struct frame_spec){WIRE_COMMIT, 0, 77, &commit, sizeof(commit), NULL, 0});
	const struct wire_header *h = raw_next(&f, raw, WIRE_ACK, SIM_S);
	CHECK(h != NULL);
	CHECK_EQ(le32_get(h->session), 77);
	const struct wire_ack *ack = (const void *)(h + 1);
	CHECK_EQ(le32_get(ack->status), WIRE_ENOENT);
	CHECK_EQ(le64_get(ack->epoch), 1);
	fixture_close(&f);
	free(raw);
}

TEST(repl_node, the_end_of_the_changes_says_as_of_when)
{
	struct fixture f;
	fixture_open(&f);
	struct raw *raw = raw_open(&f, true);
	CHECK_EQ(prepare_status(&f, raw, 1, 1), WIRE_OK);
	struct wire_changes changes = {.epoch = le64_make(1), .since_seq = le64_make(0)};
	raw_frame(raw, (struct frame_spec){WIRE_CHANGES, 5, 1, &changes, sizeof(changes), NULL, 0});
	const struct wire_header *h = raw_next(&f, raw, WIRE_CHUNK, SIM_S);
	CHECK(h != NULL);
	CHECK_EQ(le16_get(h->status), WIRE_ENODATA);
	CHECK_EQ(le32_get(h->body_bytes), sizeof(struct wire_chunk));
	fixture_close(&f);
	free(raw);
}

TEST(repl_node, a_store_that_fails_is_no_newer_epoch)
{
	struct fixture f;
	fixture_open(&f);
	struct raw *raw = raw_open(&f, true);
	CHECK_EQ(prepare_status(&f, raw, 1, 1), WIRE_OK);
	node_remove_store(f.node, f.store);
	const struct wire_header *h = raw_next(&f, raw, WIRE_ACK, SIM_S);
	CHECK(h != NULL);
	CHECK_EQ(le32_get(((const struct wire_ack *)(const void *)(h + 1))->status), WIRE_EIO);
	fixture_close(&f);
	free(raw);
}

TEST(repl_node, a_store_that_goes_ends_its_replicas_alone_and_comes_back_behind_its_leases)
{
	struct fixture f;
	struct err err;
	fixture_open(&f);
	struct raw *old = raw_open(&f, true);
	struct raw *new = raw_open(&f, true);
	CHECK_EQ(prepare_status(&f, old, 3, 1), WIRE_OK);
	sim_run_for(f.sim,
		    5 * SIM_S); /* what counts is when the store came, not when the node did */
	node_remove_store(f.node, f.store);
	const struct wire_header *ack = raw_next(&f, old, WIRE_ACK, SIM_S);
	CHECK(ack != NULL);
	const struct wire_ack *body = (const void *)(ack + 1);
	CHECK_EQ(le32_get(body->status), WIRE_EIO); /* ESTALE would end the coordinator */
	CHECK_EQ(prepare_status(&f, old, 3, 2), WIRE_ENOENT);
	CHECK_EQ(node_add_store(f.node, f.store, &err), 0);
	CHECK_EQ(prepare_status(&f, old, 3, 3), WIRE_OK); /* its own epoch: at once */
	node_remove_store(f.node, f.store);
	CHECK_EQ(node_add_store(f.node, f.store, &err), 0);
	raw_prepare(new, 4, 1, 1);
	CHECK(raw_next(&f, new, WIRE_PROMISE, 900 * SIM_MS) == NULL);
	CHECK(raw_next(&f, new, WIRE_PROMISE, 300 * SIM_MS) != NULL);
	fixture_close(&f);
	free(old);
	free(new);
}
