/* SPDX-License-Identifier: Apache-2.0 */
/* Connections and listeners on both engines. */
#include "tests/unit/base_loop.h"

#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/loop_int.h"

/* A client and a server end of one connection, on one loop. */
struct pair {
	struct world *w;
	struct env_listener *listener;
	struct env_conn *client;
	struct env_conn *server;
	struct env_peer peer;
	struct env_connect connect;
	int status;
	bool connected;
	bool accepted;
};

static void pair_accepted(void *ctx, struct env_conn *conn, const struct env_peer *peer)
{
	struct pair *p = ctx;
	CHECK(!p->server);
	p->server = conn;
	p->peer = *peer;
	p->accepted = true;
}

static void pair_connected(struct env_connect *connect, int status, struct env_conn *conn)
{
	struct pair *p = CONTAINER_OF(connect, struct pair, connect);
	CHECK((status == 0) == (conn != NULL));
	p->status = status;
	p->client = conn;
	p->connected = true;
}

static void pair_open(struct pair *p, struct world *w, const char *address)
{
	struct err err = {0};
	*p = (struct pair){.w = w, .connect.done = pair_connected};
	struct env_listener_cb cb = {pair_accepted, p};
	CHECK(env_listen(w->env, address, &cb, &p->listener, &err) == 0, "%s", err_text(&err));
	env_connect(w->env, loop_listener_address(p->listener), &p->connect);
	CHECK(!p->connected);
	world_wait(w, &p->connected);
	world_wait(w, &p->accepted);
	CHECK_EQ(p->status, 0);
}

static void pair_close(struct pair *p)
{
	if (p->client)
		world_close_conn(p->w, p->client);
	if (p->server)
		world_close_conn(p->w, p->server);
	env_listener_close(p->w->env, p->listener);
}

static const char *unix_address(struct world *w)
{
	static char address[128];
	snprintf(address, sizeof(address), "unix:%s/socket", w->dir);
	return address;
}

struct recv {
	struct env_recv recv;
	ssize_t n;
	bool done;
};
static void recv_done(struct env_recv *r, ssize_t n)
{
	struct recv *recv = CONTAINER_OF(r, struct recv, recv);
	CHECK(!recv->done);
	recv->n = n;
	recv->done = true;
}
static void recv_start(struct world *w, struct env_conn *conn, struct recv *recv, void *buf,
		       size_t bytes)
{
	*recv = (struct recv){.recv = {.buf = buf, .buf_bytes = bytes, .done = recv_done}};
	env_conn_recv(w->env, conn, &recv->recv);
	CHECK(!recv->done);
}

struct send {
	struct env_send send;
	struct iovec iov[2];
	int status;
	bool done;
	int *order; /* counts completions */
	int position;
};
static void send_done(struct env_send *s, int status)
{
	struct send *send = CONTAINER_OF(s, struct send, send);
	CHECK(!send->done);
	send->status = status;
	send->done = true;
	if (send->order)
		send->position = (*send->order)++;
}
static void send_start(struct world *w, struct env_conn *conn, struct send *send, void *buf,
		       size_t bytes)
{
	*send = (struct send){.order = send->order};
	send->iov[0] = (struct iovec){buf, bytes / 2};
	send->iov[1] = (struct iovec){(char *)buf + bytes / 2, bytes - bytes / 2};
	send->send = (struct env_send){.iov = send->iov, .iov_count = 2, .done = send_done};
	env_conn_send(w->env, conn, &send->send);
	CHECK(!send->done);
}

/* ---- megabytes there and back ---- */

#define ECHO_BYTES ((size_t)8 << 20)

/* Sends back what it receives, one piece at a time. */
struct echo {
	struct world *w;
	struct env_conn *conn;
	struct env_recv recv;
	struct env_send send;
	struct iovec iov;
	char buf[70001];
	bool closed;
};

static void echo_sent(struct env_send *send, int status)
{
	struct echo *e = CONTAINER_OF(send, struct echo, send);
	CHECK_EQ(status, 0);
	env_conn_recv(e->w->env, e->conn, &e->recv);
}
static void echo_received(struct env_recv *recv, ssize_t n)
{
	struct echo *e = CONTAINER_OF(recv, struct echo, recv);
	CHECK(n >= 0);
	if (n == 0) {
		e->closed = true;
		return;
	}
	e->iov = (struct iovec){e->buf, (size_t)n};
	e->send = (struct env_send){.iov = &e->iov, .iov_count = 1, .done = echo_sent};
	env_conn_send(e->w->env, e->conn, &e->send);
}

struct sink {
	struct world *w;
	struct env_conn *conn;
	struct env_recv recv;
	uint8_t *bytes;
	size_t got;
	bool done;
};
static void sink_received(struct env_recv *recv, ssize_t n)
{
	struct sink *s = CONTAINER_OF(recv, struct sink, recv);
	CHECK(n > 0);
	s->got += (size_t)n;
	s->done = s->got == ECHO_BYTES;
	if (s->done)
		return;
	s->recv.buf = s->bytes + s->got;
	s->recv.buf_bytes = ECHO_BYTES - s->got;
	env_conn_recv(s->w->env, s->conn, &s->recv);
}

static void echo_test(struct world *w, const char *address)
{
	enum { SENDS = 128 };
	struct pair p;
	pair_open(&p, w, address);
	struct echo *echo = calloc(1, sizeof(*echo));
	echo->w = w;
	echo->conn = p.server;
	echo->recv = (struct env_recv){
		.buf = echo->buf, .buf_bytes = sizeof(echo->buf), .done = echo_received};
	env_conn_recv(w->env, p.server, &echo->recv);
	uint8_t *out = malloc(ECHO_BYTES);
	struct sink sink = {.w = w, .conn = p.client, .bytes = malloc(ECHO_BYTES)};
	for (size_t i = 0; i < ECHO_BYTES; i++)
		out[i] = (uint8_t)(i * 131 + (i >> 11));
	sink.recv = (struct env_recv){
		.buf = sink.bytes, .buf_bytes = ECHO_BYTES, .done = sink_received};
	env_conn_recv(w->env, p.client, &sink.recv);
	/* Far more than the socket's buffers hold: sendmsg takes parts. */
	static struct send sends[SENDS];
	int order = 0;
	for (size_t i = 0; i < SENDS; i++) {
		sends[i].order = &order;
		send_start(w, p.client, &sends[i], out + i * (ECHO_BYTES / SENDS),
			   ECHO_BYTES / SENDS);
	}
	world_wait(w, &sink.done);
	for (int i = 0; i < SENDS; i++) {
		CHECK(sends[i].done);
		CHECK_EQ(sends[i].status, 0);
		CHECK_EQ(sends[i].position, i);
	}
	CHECK(memcmp(out, sink.bytes, ECHO_BYTES) == 0);
	world_close_conn(w, p.client);
	p.client = NULL;
	world_wait(w, &echo->closed); /* the peer's close is a receive of 0 */
	pair_close(&p);
	free(out);
	free(sink.bytes);
	free(echo);
}

LOOP_TEST(conn, echoes_megabytes_over_unix)
{
	echo_test(w, unix_address(w));
}

LOOP_TEST(conn, echoes_megabytes_over_tcp)
{
	echo_test(w, "tcp:127.0.0.1:0");
}

LOOP_TEST(conn, echoes_over_tcp6)
{
	echo_test(w, "tcp:[::1]:0");
}

/* A stream of numbers; each that is out queues as many more as start a sendmsg within the turn. */
#define COUNTING_SENDS 1000u
struct counting {
	struct world *w;
	struct env_conn *from, *to;
	struct count {
		struct env_send send;
		struct iovec iov;
		struct counting *counting;
		uint32_t number;
	} counts[COUNTING_SENDS];
	uint32_t sent;
	struct env_recv recv;
	uint32_t numbers[COUNTING_SENDS];
	size_t got_bytes;
	bool done;
};
static void count_done(struct env_send *send, int status);
static void count_more(struct counting *c, uint32_t n)
{
	for (; n > 0 && c->sent < COUNTING_SENDS; n--) {
		struct count *count = &c->counts[c->sent];
		count->counting = c;
		count->number = c->sent++;
		count->iov = (struct iovec){&count->number, sizeof(count->number)};
		count->send =
			(struct env_send){.iov = &count->iov, .iov_count = 1, .done = count_done};
		env_conn_send(c->w->env, c->from, &count->send);
	}
}
static void count_done(struct env_send *send, int status)
{
	CHECK_EQ(status, 0);
	count_more(CONTAINER_OF(send, struct count, send)->counting, 2 * LOOP_EAGER);
}
static void counts_received(struct env_recv *recv, ssize_t n)
{
	struct counting *c = CONTAINER_OF(recv, struct counting, recv);
	CHECK(n > 0);
	c->got_bytes += (size_t)n;
	c->done = c->got_bytes == sizeof(c->numbers);
	if (c->done)
		return;
	recv->buf = (uint8_t *)c->numbers + c->got_bytes;
	recv->buf_bytes = sizeof(c->numbers) - c->got_bytes;
	env_conn_recv(c->w->env, c->to, recv);
}

/* Fails when a sendmsg that starts from a done() sends again what is out but not taken off the
 * queue yet. */
LOOP_TEST(conn, sends_from_done_keep_their_order)
{
	static struct counting c;
	struct pair p;
	pair_open(&p, w, unix_address(w));
	memset(&c, 0, sizeof(c));
	c.w = w;
	c.from = p.client;
	c.to = p.server;
	c.recv = (struct env_recv){
		.buf = c.numbers, .buf_bytes = sizeof(c.numbers), .done = counts_received};
	env_conn_recv(w->env, p.server, &c.recv);
	count_more(&c, 3);
	world_wait(w, &c.done);
	for (uint32_t i = 0; i < COUNTING_SENDS; i++)
		CHECK_EQ(c.numbers[i], i);
	pair_close(&p);
}

/* ---- errors and ends ---- */

LOOP_TEST(conn, peer_credentials_are_known)
{
	struct pair p;
	char want[64];
	pair_open(&p, w, unix_address(w));
	CHECK_EQ(p.peer.pid, getpid());
	CHECK_EQ(p.peer.uid, getuid());
	snprintf(want, sizeof(want), "unix:pid=%d,uid=%u", getpid(), getuid());
	CHECK_STR(p.peer.text, want);
	pair_close(&p);
	pair_open(&p, w, "tcp:127.0.0.1:0");
	CHECK(strncmp(p.peer.text, "tcp:127.0.0.1:", 14) == 0);
	CHECK_EQ(p.peer.pid, -1);
	pair_close(&p);
}

LOOP_TEST(conn, sending_to_a_closed_peer_fails_and_stays_failed)
{
	static char bytes[65536];
	struct pair p;
	struct send send = {0};
	pair_open(&p, w, unix_address(w));
	world_close_conn(w, p.server);
	p.server = NULL;
	send_start(w, p.client, &send, bytes, sizeof(bytes));
	world_wait(w, &send.done);
	CHECK(send.status == -EPIPE || send.status == -ECONNRESET);
	int first = send.status;
	for (int i = 0; i < 2; i++) {
		send_start(w, p.client, &send, bytes, 1);
		world_wait(w, &send.done);
		CHECK_EQ(send.status, first);
	}
	pair_close(&p);
}

LOOP_TEST(conn, close_cancels_what_is_pending_then_says_so)
{
	enum { SENDS = 40 };
	static char bytes[1 << 20];
	static struct send sends[SENDS];
	struct pair p;
	struct recv recv;
	char buf[16];
	pair_open(&p, w, unix_address(w));
	recv_start(w, p.client, &recv, buf, sizeof(buf));
	for (int i = 0; i < SENDS; i++)
		send_start(w, p.client, &sends[i], bytes, sizeof(bytes));
	bool never = false;
	(void)loop_run_until(w->loop, &never, env_now_ns(w->env) + 5000000);
	struct closing c = {.close.done = closing_done};
	env_conn_close(w->env, p.client, &c.close);
	CHECK(!c.done && !recv.done); /* E2 */
	world_wait(w, &c.done);
	p.client = NULL;
	CHECK(recv.done);
	CHECK_EQ(recv.n, -ECANCELED);
	CHECK_EQ(sends[SENDS - 1].status, -ECANCELED);
	for (int i = 0; i < SENDS; i++)
		CHECK(sends[i].done);
	pair_close(&p);
}

struct suicide {
	struct env_recv recv;
	struct world *w;
	struct env_conn *conn;
	struct closing closing;
};
static void suicide_received(struct env_recv *recv, ssize_t n)
{
	struct suicide *s = CONTAINER_OF(recv, struct suicide, recv);
	CHECK_EQ(n, 2);
	s->closing.close.done = closing_done;
	env_conn_close(s->w->env, s->conn, &s->closing.close);
}

LOOP_TEST(conn, may_be_closed_from_its_own_callback)
{
	char buf[16];
	struct pair p;
	struct send send = {0};
	pair_open(&p, w, unix_address(w));
	struct suicide s = {.w = w,
			    .conn = p.server,
			    .recv = {.buf = buf, .buf_bytes = 16, .done = suicide_received}};
	env_conn_recv(w->env, p.server, &s.recv);
	send_start(w, p.client, &send, "hi", 2);
	world_wait(w, &s.closing.done);
	p.server = NULL;
	pair_close(&p);
}

LOOP_TEST(conn, small_messages_alternate)
{
	struct pair p;
	struct recv recv;
	struct send send = {0};
	char buf[64];
	pair_open(&p, w, "tcp:127.0.0.1:0");
	for (int i = 0; i < 500; i++) {
		struct env_conn *from = i % 2 ? p.client : p.server;
		struct env_conn *to = i % 2 ? p.server : p.client;
		char text[16];
		int length = snprintf(text, sizeof(text), "message %d", i);
		recv_start(w, to, &recv, buf, sizeof(buf));
		send_start(w, from, &send, text, (size_t)length);
		world_wait(w, &recv.done);
		world_wait(w, &send.done);
		CHECK_EQ(recv.n, length);
		CHECK(memcmp(buf, text, (size_t)length) == 0);
	}
	pair_close(&p);
}

/* Fails when an engine forgets an end of file that came together with the last bytes. */
LOOP_TEST(conn, end_behind_the_last_bytes_is_seen)
{
	for (int round = 0; round < 50; round++) {
		struct pair p;
		struct recv recv;
		struct send send = {0};
		char buf[64];
		pair_open(&p, w, round % 2 ? unix_address(w) : "tcp:127.0.0.1:0");
		recv_start(w, p.server, &recv, buf, sizeof(buf));
		send_start(w, p.client, &send, "last", 4);
		world_wait(w, &send.done);
		world_close_conn(w, p.client);
		p.client = NULL;
		world_wait(w, &recv.done);
		CHECK_EQ(recv.n, 4);
		recv_start(w, p.server, &recv, buf, sizeof(buf));
		world_wait(w, &recv.done);
		CHECK_EQ(recv.n, 0);
		pair_close(&p);
	}
}

static int connect_status(struct world *w, const char *address, bool cancel)
{
	struct pair p = {.w = w, .connect.done = pair_connected};
	env_connect(w->env, address, &p.connect);
	if (cancel)
		env_connect_cancel(w->env, &p.connect);
	CHECK(!p.connected);
	world_wait(w, &p.connected);
	env_connect_cancel(w->env, &p.connect); /* too late: nothing happens */
	if (p.client)
		world_close_conn(w, p.client);
	return p.status;
}

LOOP_TEST(connect, failures_come_by_callback)
{
	CHECK_EQ(connect_status(w, unix_address(w), false), -ENOENT);
	CHECK_EQ(connect_status(w, "udp:1.2.3.4:5", false), -EINVAL);
	CHECK_EQ(connect_status(w, "udp:1.2.3.4:5", true), -ECANCELED);
	/* A port that was just free. */
	struct env_listener *listener;
	struct env_listener_cb cb = {NULL, NULL};
	char address[128];
	CHECK_EQ(env_listen(w->env, "tcp:127.0.0.1:0", &cb, &listener, NULL), 0);
	snprintf(address, sizeof(address), "%s", loop_listener_address(listener));
	env_listener_close(w->env, listener);
	CHECK_EQ(connect_status(w, address, false), -ECONNREFUSED);
}

LOOP_TEST(connect, cancel_gives_exactly_one_callback)
{
	struct pair p;
	pair_open(&p, w, "tcp:127.0.0.1:0");
	world_close_conn(w, p.server);
	p.server = NULL;
	CHECK_EQ(connect_status(w, loop_listener_address(p.listener), true), -ECANCELED);
	if (p.server) {
		world_close_conn(w, p.server);
		p.server = NULL;
	}
	pair_close(&p);
}

/* ---- listeners ---- */

LOOP_TEST(listener, unix_socket_is_private_and_removed)
{
	struct env_listener *listener, *second = NULL;
	struct env_listener_cb cb = {NULL, NULL};
	struct err err = {0};
	struct stat st;
	const char *address = unix_address(w);
	const char *path = address + 5;
	CHECK_EQ(env_listen(w->env, address, &cb, &listener, &err), 0);
	CHECK_STR(loop_listener_address(listener), address);
	CHECK_EQ(stat(path, &st), 0);
	CHECK_EQ(st.st_mode & 0777, 0600);
	CHECK_EQ(env_listen(w->env, address, &cb, &second, &err), -EADDRINUSE);
	CHECK(strstr(err_text(&err), path) && strstr(err_text(&err), "another process"), "%s",
	      err_text(&err));
	env_listener_close(w->env, listener);
	CHECK(stat(path, &st) < 0 && errno == ENOENT);
}

LOOP_TEST(listener, stale_socket_is_replaced_but_nothing_else)
{
	struct env_listener *listener;
	struct env_listener_cb cb = {NULL, NULL};
	struct err err = {0};
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	const char *address = unix_address(w);
	memcpy(un.sun_path, address + 5, strnlen(address + 5, sizeof(un.sun_path) - 1));
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	CHECK_EQ(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
	close(fd);
	CHECK_EQ(env_listen(w->env, address, &cb, &listener, &err), 0);
	env_listener_close(w->env, listener);
	FILE *file = fopen(address + 5, "w");
	fclose(file);
	CHECK_EQ(env_listen(w->env, address, &cb, &listener, &err), -EADDRINUSE);
	CHECK_EQ(access(address + 5, F_OK), 0);
}

/* Fails when the outcome of the look at a busy socket (EAGAIN) is taken for that of the bind. */
LOOP_TEST(listener, a_busy_socket_is_in_use_and_not_stale)
{
	struct env_listener *listener;
	struct env_listener_cb cb = {NULL, NULL};
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	const char *address = unix_address(w);
	memcpy(un.sun_path, address + 5, strnlen(address + 5, sizeof(un.sun_path) - 1));
	int fd = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM, 0);
	CHECK_EQ(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
	CHECK_EQ(listen(fd, 0), 0);
	CHECK_EQ(connect(client, (struct sockaddr *)&un, sizeof(un)), 0); /* fills the backlog */
	CHECK_EQ(env_listen(w->env, address, &cb, &listener, NULL), -EADDRINUSE);
	CHECK_EQ(access(address + 5, F_OK), 0);
	close(client);
	close(fd);
}

LOOP_TEST(listener, close_leaves_a_successor_alone)
{
	struct env_listener *first, *second;
	struct env_listener_cb cb = {NULL, NULL};
	const char *address = unix_address(w);
	CHECK_EQ(env_listen(w->env, address, &cb, &first, NULL), 0);
	CHECK_EQ(unlink(address + 5), 0);
	CHECK_EQ(env_listen(w->env, address, &cb, &second, NULL), 0);
	env_listener_close(w->env, first);
	CHECK_EQ(access(address + 5, F_OK), 0);
	env_listener_close(w->env, second);
}

LOOP_TEST(listener, closed_one_refuses_at_once)
{
	struct pair p;
	pair_open(&p, w, "tcp:127.0.0.1:0");
	char address[128];
	snprintf(address, sizeof(address), "%s", loop_listener_address(p.listener));
	pair_close(&p);
	CHECK_EQ(connect_status(w, address, false), -ECONNREFUSED);
}

TEST(address, refused_ones_say_why)
{
	static const char *const bad[][2] = {
		{"", "neither 'unix:' nor 'tcp:'"},
		{"/path", "neither 'unix:' nor 'tcp:'"},
		{"unix:", "no path"},
		{"tcp:", "form tcp:HOST:PORT"},
		{"tcp:127.0.0.1", "form tcp:HOST:PORT"},
		{"tcp:[::1]", "form tcp:HOST:PORT"},
		{"tcp:[::1]x:1", "form tcp:HOST:PORT"},
		{"tcp:127.0.0.1:", "port ''"},
		{"tcp:127.0.0.1:65536", "port '65536'"},
		{"tcp:127.0.0.1:-1", "port '-1'"},
		{"tcp:127.0.0.1:12a", "port '12a'"},
		{"tcp:localhost:1", "host 'localhost' is not a numeric address"},
		{"tcp:::1:1", "host '::1'"},
		{"tcp::1", "host ''"},
	};
	struct net_address address;
	struct err err = {0};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		CHECK_EQ(net_address_parse(bad[i][0], &address, &err), -EINVAL);
		CHECK(strstr(err_text(&err), bad[i][1]) != NULL, "%s", err_text(&err));
	}
	char lengthy[200] = "unix:/";
	memset(lengthy + 6, 'x', sizeof(lengthy) - 7);
	CHECK_EQ(net_address_parse(lengthy, &address, &err), -EINVAL);
	CHECK(strstr(err_text(&err), "the limit is 107") != NULL, "%s", err_text(&err));
	CHECK_EQ(net_address_parse("tcp:[::1]:80", &address, &err), 0);
	CHECK_EQ(net_address_parse("tcp:0.0.0.0:0", &address, &err), 0);
}
