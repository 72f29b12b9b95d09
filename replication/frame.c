/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Framed connections. See frame.h for the promises F1..F3.
 *
 * One receive buffer of more than the largest frame. Bytes arrive at `fill`, frames are taken at `take`; both
 * go back to zero when the buffer is empty, and a partial frame is moved to the front only when the
 * rest of it would not fit. A receive asks for at most RECV_STEP_BYTES beyond what the frame at hand
 * needs, so small traffic touches little memory.
 *
 * A link dies once: link_close() notes why and closes the connection; the env completes what is pending;
 * then `closed` is called and the memory freed. Sends that come after link_close() are kept on a list and
 * completed just before `closed`.
 */
#include "replication/frame.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#define FRAME_BYTES_MAX (sizeof(struct wire_header) + WIRE_BODY_BYTES_MAX + WIRE_PAYLOAD_BYTES_MAX)
#define RECV_STEP_BYTES (256u * 1024u)
#define BUFFER_BYTES    ALIGN_UP(FRAME_BYTES_MAX + RECV_STEP_BYTES, BLOCK_BYTES)
#define PONGS_MAX       4

struct link {
	struct env *env;
	struct env_conn *conn;
	struct link_config config;
	struct link_cb cb;
	struct wire_hello peer;
	bool heard_hello, closing, paused, receiving, handing_on;
	int close_status;
	const char *close_reason;
	struct env_close close;
	struct list late_sends; /* struct link_send.send.link, after link_close */
	struct env_recv recv;
	uint8_t *buffer;
	size_t take, fill;
	uint64_t frames_in, frames_out;
	uint64_t created_ns, last_heard_ns;
	struct env_timer keepalive;
	struct env_timer resume;
	struct link_send hello_send, ping_send, pong_send[PONGS_MAX];
	bool ping_busy, pong_busy[PONGS_MAX];
};

static void receive(struct link *link);

static void noop_send_done(struct link_send *send, int status)
{
	(void)send;
	(void)status;
}

static void env_send_done(struct env_send *env_send, int status)
{
	struct link_send *send = CONTAINER_OF(env_send, struct link_send, send);
	if (send->done != NULL)
		send->done(send, status);
}

void link_send(struct link *link, struct link_send *send)
{
	assert(send->iov_count >= 1 && send->iov_count <= ARRAY_LEN(send->iov));
	size_t payload_bytes = 0;
	for (uint32_t i = 2; i < send->iov_count; i++)
		payload_bytes += send->iov[i].iov_len;
	size_t body_bytes = send->iov_count > 1 ? send->iov[1].iov_len : 0;
	assert(body_bytes % 8 == 0 && body_bytes <= WIRE_BODY_BYTES_MAX);
	assert(payload_bytes % BLOCK_BYTES == 0 && payload_bytes <= WIRE_PAYLOAD_BYTES_MAX);

	send->send.done = env_send_done;
	if (link->closing) {
		list_push_back(&link->late_sends, &send->send.link);
		return;
	}
	send->header.body_bytes = le32_make((uint32_t)body_bytes);
	send->header.payload_bytes = le32_make((uint32_t)payload_bytes);
	send->header.frame_no = le64_make(++link->frames_out);
	wire_header_seal(&send->header, body_bytes > 0 ? send->iov[1].iov_base : NULL);
	send->iov[0] = (struct iovec){&send->header, sizeof(send->header)};
	send->send.iov = send->iov;
	send->send.iov_count = send->iov_count;
	env_conn_send(link->env, link->conn, &send->send);
}

/* ---- ending ---- */

static void conn_closed(struct env_close *close)
{
	struct link *link = CONTAINER_OF(close, struct link, close);
	struct list *n;
	while ((n = list_pop_front(&link->late_sends)) != NULL)
		env_send_done(CONTAINER_OF(n, struct env_send, link), -ECANCELED);
	struct link_cb cb = link->cb;
	int status = link->close_status;
	const char *reason = link->close_reason;
	munmap(link->buffer, BUFFER_BYTES);
	free(link);
	cb.closed(cb.ctx, status, reason);
}

void link_abandon(struct link *link)
{
	if (link == NULL)
		return;
	munmap(link->buffer, BUFFER_BYTES);
	free(link);
}

void link_close(struct link *link, int status, const char *reason)
{
	if (link->closing)
		return;
	link->closing = true;
	link->close_status = status;
	link->close_reason = reason;
	env_timer_cancel(link->env, &link->keepalive);
	env_timer_cancel(link->env, &link->resume);
	link->close.done = conn_closed;
	env_conn_close(link->env, link->conn, &link->close);
}

/* ---- keep-alive ---- */

static void ping_done(struct link_send *send, int status)
{
	(void)status;
	CONTAINER_OF(send, struct link, ping_send)->ping_busy = false;
}

static void send_ping(struct link *link)
{
	if (link->ping_busy || !link->heard_hello)
		return;
	link->ping_busy = true;
	link->ping_send.header = (struct wire_header){.type = le16_make(WIRE_PING)};
	link->ping_send.iov_count = 1;
	link->ping_send.done = ping_done;
	link_send(link, &link->ping_send);
}

static void keepalive_fire(struct env_timer *timer)
{
	struct link *link = CONTAINER_OF(timer, struct link, keepalive);
	uint64_t now_ns = env_now_ns(link->env);
	/* Before the HELLO single bytes do not count as life. */
	uint64_t since_ns = link->heard_hello ? link->last_heard_ns : link->created_ns;
	uint64_t silence_ns = now_ns > since_ns ? now_ns - since_ns : 0;
	if (silence_ns >= link->config.dead_ns && !link->paused) {
		link_close(link, -ETIMEDOUT,
			   link->heard_hello ? "nothing heard for too long"
					     : "no handshake in time");
		return;
	}
	if (silence_ns >= link->config.keepalive_ns)
		send_ping(link);
	env_timer_set(link->env, &link->keepalive, now_ns + link->config.keepalive_ns);
}

static void answer_ping(struct link *link)
{
	for (unsigned i = 0; i < PONGS_MAX; i++) {
		struct link_send *pong = &link->pong_send[i];
		if (link->pong_busy[i])
			continue;
		link->pong_busy[i] = true;
		pong->header = (struct wire_header){.type = le16_make(WIRE_PONG)};
		pong->iov_count = 1;
		link_send(link, pong);
		return;
	}
	/* All slots still unsent: the peer hears from us anyway once they go. */
}

static void pong_done(struct link_send *send, int status)
{
	(void)status;
	/* iov[7].iov_base of a pong slot keeps the way back to its link; see link_create */
	struct link *link = send->iov[7].iov_base;
	link->pong_busy[send - link->pong_send] = false;
}

/* ---- receiving ---- */

static int accept_hello(struct link *link, const struct link_frame *frame)
{
	const struct wire_hello *hello = frame->body;
	if (le16_get(frame->header->type) != WIRE_HELLO || frame->body_bytes != sizeof(*hello) ||
	    frame->payload_bytes != 0)
		return -EPROTO;
	if (le32_get(hello->version_min) > WIRE_VERSION ||
	    le32_get(hello->version_max) < WIRE_VERSION)
		return -EPROTONOSUPPORT;
	if (!uuid_equal(&hello->cluster_uuid, &link->config.hello.cluster_uuid))
		return -EXDEV;
	if (!uuid_is_zero(&link->config.expect_sender) &&
	    !uuid_equal(&hello->sender_uuid, &link->config.expect_sender))
		return -EXDEV;
	link->peer = *hello;
	link->peer.name[sizeof(link->peer.name) - 1] = 0;
	link->heard_hello = true;
	link->cb.ready(link->cb.ctx, &link->peer);
	return 0;
}

static const char *hello_reason(int status)
{
	switch (status) {
	case -EPROTONOSUPPORT:
		return "no protocol version in common";
	case -EXDEV:
		return "the peer belongs to another cluster or is another node";
	default:
		return "the first frame is not a valid HELLO";
	}
}

static void hand_on(struct link *link, const struct link_frame *frame)
{
	if (!link->heard_hello) {
		int status = accept_hello(link, frame);
		if (status < 0)
			link_close(link, status, hello_reason(status));
		return;
	}
	switch (le16_get(frame->header->type)) {
	case WIRE_PING:
		answer_ping(link);
		return;
	case WIRE_PONG:
		return;
	case WIRE_HELLO:
		link_close(link, -EPROTO, "a second HELLO");
		return;
	default:
		link->cb.frame(link->cb.ctx, frame);
	}
}

/* Hands on the frame at `take` when it is whole. Returns false when there is nothing (more) to take. */
static bool take_frame(struct link *link)
{
	size_t have = link->fill - link->take;
	const struct wire_header *header = (const void *)(link->buffer + link->take);
	if (have < sizeof(*header))
		return false;
	int rc = wire_header_check(header);
	if (rc < 0 || le64_get(header->frame_no) != link->frames_in + 1) {
		link_close(link, rc < 0 ? rc : -EPROTO,
			   rc < 0 ? "a frame header is damaged" : "a frame is missing or repeated");
		return false;
	}
	size_t frame_bytes =
		sizeof(*header) + le32_get(header->body_bytes) + le32_get(header->payload_bytes);
	if (have < frame_bytes)
		return false;
	const uint8_t *body = (const uint8_t *)(header + 1);
	if (wire_body_check(header, body) < 0) {
		link_close(link, -EBADMSG, "a frame body is damaged");
		return false;
	}
	link->frames_in++;
	link->take += frame_bytes;
	struct link_frame frame = {
		.header = header,
		.body = body,
		.body_bytes = le32_get(header->body_bytes),
		.payload = body + le32_get(header->body_bytes),
		.payload_bytes = le32_get(header->payload_bytes),
	};
	hand_on(link, &frame);
	return true;
}

static void take_frames(struct link *link)
{
	link->handing_on = true;
	while (!link->closing && !link->paused && take_frame(link))
		;
	link->handing_on = false;
	if (link->closing || link->paused)
		return;
	receive(link);
}

static void recv_done(struct env_recv *recv, ssize_t n)
{
	struct link *link = CONTAINER_OF(recv, struct link, recv);
	link->receiving = false;
	if (link->closing)
		return;
	if (n <= 0) {
		link_close(link, (int)n,
			   n == 0 ? "the peer closed the connection" : "receive failed");
		return;
	}
	link->last_heard_ns = env_now_ns(link->env);
	link->fill += (size_t)n;
	take_frames(link);
}

static void receive(struct link *link)
{
	if (link->receiving)
		return;
	if (link->take == link->fill) {
		link->take = link->fill = 0;
	} else if (link->take > 0 && BUFFER_BYTES - link->take < FRAME_BYTES_MAX) {
		memmove(link->buffer, link->buffer + link->take, link->fill - link->take);
		link->fill -= link->take;
		link->take = 0;
	}
	link->receiving = true;
	link->recv.buf = link->buffer + link->fill;
	link->recv.buf_bytes = MIN(BUFFER_BYTES - link->fill, RECV_STEP_BYTES);
	link->recv.done = recv_done;
	env_conn_recv(link->env, link->conn, &link->recv);
}

void link_pause(struct link *link)
{
	link->paused = true;
}

static void resume_fire(struct env_timer *timer)
{
	struct link *link = CONTAINER_OF(timer, struct link, resume);
	if (link->paused || link->receiving || link->handing_on)
		return;
	link->last_heard_ns = env_now_ns(link->env); /* the silence was ours */
	take_frames(link);
}

void link_resume(struct link *link)
{
	if (!link->paused)
		return;
	link->paused = false;
	if (!link->closing && !link->handing_on)
		env_timer_set(link->env, &link->resume, 0);
}

/* ---- start ---- */

static void send_hello(struct link *link)
{
	link->config.hello.version_min = le32_make(WIRE_VERSION);
	link->config.hello.version_max = le32_make(WIRE_VERSION);
	link->hello_send.header = (struct wire_header){.type = le16_make(WIRE_HELLO)};
	link->hello_send.iov[1] = (struct iovec){&link->config.hello, sizeof(link->config.hello)};
	link->hello_send.iov_count = 2;
	link->hello_send.done = noop_send_done;
	link_send(link, &link->hello_send);
}

static void orphan_closed(struct env_close *close)
{
	free(close);
}

struct link *link_create(struct env *env, struct env_conn *conn, const struct link_config *config,
			 const struct link_cb *cb)
{
	struct link *link = calloc(1, sizeof(*link));
	void *buffer = mmap(NULL, BUFFER_BYTES, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (link == NULL || buffer == MAP_FAILED) {
		struct env_close *close = calloc(1, sizeof(*close));
		if (buffer != MAP_FAILED)
			munmap(buffer, BUFFER_BYTES);
		free(link);
		if (close != NULL) { /* else the connection leaks until the process ends */
			close->done = orphan_closed;
			env_conn_close(env, conn, close);
		}
		return NULL;
	}
	link->env = env;
	link->conn = conn;
	link->config = *config;
	link->cb = *cb;
	link->buffer = buffer;
	list_init(&link->late_sends);
	if (link->config.keepalive_ns == 0)
		link->config.keepalive_ns = 1000000000ull;
	if (link->config.dead_ns == 0)
		link->config.dead_ns = 5000000000ull;
	link->created_ns = link->last_heard_ns = env_now_ns(env);
	link->keepalive.fire = keepalive_fire;
	link->resume.fire = resume_fire;
	for (unsigned i = 0; i < PONGS_MAX; i++) {
		link->pong_send[i].iov[7].iov_base = link;
		link->pong_send[i].done = pong_done;
	}
	send_hello(link);
	receive(link);
	env_timer_after(env, &link->keepalive, link->config.keepalive_ns);
	return link;
}

bool link_is_closing(const struct link *link)
{
	return link->closing;
}
