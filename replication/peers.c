/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections to nodes, shared by all volumes of a process.
 *
 * A peer has up to two channels (client and bulk, or one control). Each channel connects, lives,
 * dies and connects again with back-off, for ever. A request is on its channel's list from peer_request()
 * until its done(); when the channel dies, every request of it ends -ECANCELED. Slots in requests are
 * the owner's, so nothing is allocated per request.
 *
 * Leases: while sessions are attached, the client channel renews a lease for all of them. It counts from the
 * time the renewal was sent, less 1 %, and ends with the call that closes the channel: the node, which takes
 * the end of the stream for the end of the lease, cannot see it earlier than that (PROTO-7).
 */
#include "replication/peers.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"

#define PEERS_MAX          256u
#define MS                 1000000ull
#define CONNECT_TIMEOUT_NS (3000 * MS)

struct channel {
	struct peer *peer;
	enum wire_kind kind;
	struct link *link;
	bool ready, connecting, stopped;
	struct env_connect connect;
	struct env_timer connect_timer;
	struct env_timer retry;
	uint64_t backoff_ns;
	struct list requests; /* struct peer_request.link: sent or to be answered with an error */
	uint64_t next_id;
};

struct peer {
	struct peers *peers;
	struct list link;
	struct uuid node_uuid;
	char address[108];
	struct channel channels[2];
	uint32_t channel_count;
	struct list sessions;
	uint32_t next_session;
	bool announced_up;
	/* lease */
	struct env_timer lease_timer;
	struct peer_request lease_request;
	struct wire_lease lease_body;
	bool lease_busy;
	uint64_t lease_sent_ns;
	uint64_t lease_until_ns;
};

struct peers {
	struct env *env;
	struct peers_config config;
	struct list peers;
	uint32_t count;
	bool stopping;
	uint32_t channels_alive; /* links and connects that must end before shutdown is done */
	void (*shutdown_done)(void *ctx);
	void *shutdown_ctx;
};

void peers_config_default(struct peers_config *config)
{
	*config = (struct peers_config){
		.reconnect_min_ns = 50 * MS,
		.reconnect_max_ns = 1000 * MS,
		.lease_term_ns = 1000 * MS,
		.lease_renew_ns = 250 * MS,
	};
}

static void channel_connect(struct channel *ch);

/* ---- sessions hear of both channels together ---- */

static bool all_ready(const struct peer *peer)
{
	for (uint32_t i = 0; i < peer->channel_count; i++)
		if (!peer->channels[i].ready)
			return false;
	return true;
}

static void announce(struct peer *peer)
{
	bool up = all_ready(peer);
	if (up == peer->announced_up)
		return;
	peer->announced_up = up;
	list_for_each_safe (n, &peer->sessions) {
		struct peer_session *session = CONTAINER_OF(n, struct peer_session, link);
		if (up)
			session->up(session);
		else
			session->down(session);
	}
}

/* ---- leases ---- */

static void lease_done(struct peer_request *request, int status, const struct link_frame *frame)
{
	(void)frame;
	struct peer *peer = CONTAINER_OF(request, struct peer, lease_request);
	peer->lease_busy = false;
	if (status == 0 && peer->channels[0].ready) {
		uint64_t term_ns = peer->peers->config.lease_term_ns;
		peer->lease_until_ns = peer->lease_sent_ns + term_ns - term_ns / 100;
	}
}

static void lease_renew(struct peer *peer)
{
	struct peers *peers = peer->peers;
	if (peers->config.control || peers->config.lease_term_ns == 0 ||
	    list_empty(&peer->sessions))
		return;
	env_timer_after(peers->env, &peer->lease_timer, peers->config.lease_renew_ns);
	if (peer->lease_busy || !peer->channels[0].ready)
		return;
	peer->lease_busy = true;
	peer->lease_sent_ns = env_now_ns(peers->env);
	peer->lease_body = (struct wire_lease){
		.boot_id = le64_make(peers->config.boot_id),
		.term_ns = le64_make(peers->config.lease_term_ns),
	};
	peer->lease_request.out.header = (struct wire_header){.type = le16_make(WIRE_LEASE)};
	peer->lease_request.out.iov[1] =
		(struct iovec){&peer->lease_body, sizeof(peer->lease_body)};
	peer->lease_request.out.iov_count = 2;
	peer->lease_request.timeout_ns = 0;
	peer->lease_request.done = lease_done;
	peer_request(peer, WIRE_KIND_CLIENT, &peer->lease_request);
}

static void lease_fire(struct env_timer *timer)
{
	lease_renew(CONTAINER_OF(timer, struct peer, lease_timer));
}

uint64_t peer_lease_until_ns(const struct peer *peer)
{
	const struct channel *ch = &peer->channels[0];
	return ch->ready && !link_is_closing(ch->link) ? peer->lease_until_ns : 0;
}

/* ---- requests ---- */

/* Both the transport's word on the send and the reply (or the end) must have come: the slot is part of
 * both. */
static void request_maybe_done(struct peer_request *request, const struct link_frame *frame)
{
	if (request->sending || !request->replied)
		return;
	struct peers *peers = request->peer->peers;
	list_remove(&request->link);
	env_timer_cancel(peers->env, &request->timer);
	request->done(request, request->status, frame);
}

/*
 * The reply overtook our own word that the request was sent (env rule E5 orders sends among themselves
 * only). Rare; the frame is copied until that word comes, because the slot is not free before.
 */
static void request_keep_early(struct peer_request *request, const struct link_frame *frame)
{
	size_t bytes = sizeof(*frame->header) + frame->body_bytes + frame->payload_bytes;
	request->early = malloc(sizeof(*request->early) + bytes);
	if (request->early == NULL) {
		request->status = -ECANCELED;
		return;
	}
	uint8_t *copy = (uint8_t *)(request->early + 1);
	memcpy(copy, frame->header, bytes); /* header, body and payload are contiguous */
	*request->early = (struct link_frame){
		.header = (const void *)copy,
		.body = copy + sizeof(*frame->header),
		.body_bytes = frame->body_bytes,
		.payload = copy + sizeof(*frame->header) + frame->body_bytes,
		.payload_bytes = frame->payload_bytes,
	};
}

static void request_sent(struct link_send *send, int status)
{
	struct peer_request *request = CONTAINER_OF(send, struct peer_request, out);
	request->sending = false;
	if (status < 0 && !request->replied) {
		request->replied = true;
		request->status = -ECANCELED;
	}
	struct link_frame *early = request->early;
	request->early = NULL;
	request_maybe_done(request, early);
	free(early);
}

static void request_timer(struct env_timer *timer)
{
	struct peer_request *request = CONTAINER_OF(timer, struct peer_request, timer);
	if (!request->replied) {
		request->replied = true;
		if (request->status == 0)
			request->status = -ETIMEDOUT;
	}
	request_maybe_done(request, NULL);
}

static struct channel *channel_of(struct peer *peer, enum wire_kind kind)
{
	for (uint32_t i = 0; i < peer->channel_count; i++)
		if (peer->channels[i].kind == kind)
			return &peer->channels[i];
	return NULL;
}

void peer_request(struct peer *peer, enum wire_kind kind, struct peer_request *request)
{
	struct channel *ch = channel_of(peer, kind);
	struct env *env = peer->peers->env;
	request->peer = peer;
	request->kind = kind;
	request->replied = false;
	request->sending = false;
	request->status = 0;
	request->timer.fire = request_timer;
	list_push_back(&ch->requests, &request->link);
	if (!ch->ready) {
		request->status = -ENOTCONN;
		env_timer_set(env, &request->timer, 0);
		return;
	}
	request->id = ch->next_id++;
	request->sending = true;
	request->out.header.request_id = le64_make(request->id);
	request->out.done = request_sent;
	if (request->timeout_ns > 0)
		env_timer_after(env, &request->timer, request->timeout_ns);
	link_send(ch->link, &request->out);
}

void peer_send(struct peer *peer, enum wire_kind kind, struct link_send *send)
{
	struct channel *ch = channel_of(peer, kind);
	link_send(ch->link, send);
}

static void requests_cancel(struct channel *ch)
{
	struct list pending;
	list_init(&pending);
	list_splice_back(&pending, &ch->requests);
	struct list *n;
	while ((n = list_pop_front(&pending)) != NULL) {
		struct peer_request *request = CONTAINER_OF(n, struct peer_request, link);
		list_push_back(&ch->requests, &request->link);
		if (!request->replied) {
			request->replied = true;
			if (request->status == 0)
				request->status = -ECANCELED;
		}
		request_maybe_done(request, NULL);
	}
}

/* ---- channels ---- */

static void shutdown_check(struct peers *peers)
{
	if (!peers->stopping || peers->channels_alive > 0 || peers->shutdown_done == NULL)
		return;
	void (*done)(void *ctx) = peers->shutdown_done;
	peers->shutdown_done = NULL;
	done(peers->shutdown_ctx);
}

static void channel_retry(struct channel *ch)
{
	struct peers *peers = ch->peer->peers;
	if (ch->stopped)
		return;
	uint64_t jitter_ns = env_random(peers->env) % (ch->backoff_ns / 4 + 1);
	env_timer_after(peers->env, &ch->retry, ch->backoff_ns + jitter_ns);
	ch->backoff_ns = MIN(ch->backoff_ns * 2, peers->config.reconnect_max_ns);
}

static void channel_ready(void *ctx, const struct wire_hello *hello)
{
	struct channel *ch = ctx;
	struct peer *peer = ch->peer;
	ch->ready = true;
	ch->backoff_ns = peer->peers->config.reconnect_min_ns;
	log_event(LOG_INFO, "repl", "node_connected", "node=%s kind=%u address=%s",
		  LOG_Q((const char *)hello->name), ch->kind, LOG_Q(peer->address));
	if (ch->kind == WIRE_KIND_CLIENT) {
		peer->lease_until_ns = 0;
		lease_renew(peer);
	}
	announce(peer);
}

static void channel_frame(void *ctx, const struct link_frame *frame)
{
	struct channel *ch = ctx;
	struct peer *peer = ch->peer;
	uint64_t id = le64_get(frame->header->request_id);
	if (id == 0) {
		uint32_t session_id = le32_get(frame->header->session);
		list_for_each (n, &peer->sessions) {
			struct peer_session *session = CONTAINER_OF(n, struct peer_session, link);
			if (session->id == session_id) {
				session->frame(session, frame);
				return;
			}
		}
		return; /* of a session that was detached meanwhile */
	}
	list_for_each (n, &ch->requests) {
		struct peer_request *request = CONTAINER_OF(n, struct peer_request, link);
		if (request->id != id || request->replied)
			continue;
		request->replied = true;
		request->status = wire_status_to(le16_get(frame->header->status));
		if (request->sending)
			request_keep_early(request, frame);
		else
			request_maybe_done(request, frame);
		return;
	}
	/* A reply to a request that timed out: dropped. */
}

static void channel_closed(void *ctx, int status, const char *reason)
{
	struct channel *ch = ctx;
	struct peer *peer = ch->peer;
	struct peers *peers = peer->peers;
	bool was_ready = ch->ready;
	ch->ready = false;
	ch->link = NULL;
	peers->channels_alive--;
	if (was_ready)
		log_event(LOG_WARN, "repl", "node_lost", "address=%s kind=%u status=%s reason=%s",
			  LOG_Q(peer->address), ch->kind, status == 0 ? "closed" : err_name(status),
			  LOG_Q(reason));
	if (ch->kind == WIRE_KIND_CLIENT)
		peer->lease_until_ns = 0;
	/* Users hear first that nothing can be sent, then that what they sent is void. */
	announce(peer);
	requests_cancel(ch);
	channel_retry(ch);
	shutdown_check(peers);
}

static void connect_done(struct env_connect *connect, int status, struct env_conn *conn)
{
	struct channel *ch = CONTAINER_OF(connect, struct channel, connect);
	struct peer *peer = ch->peer;
	struct peers *peers = peer->peers;
	ch->connecting = false;
	env_timer_cancel(peers->env, &ch->connect_timer);
	if (status < 0) {
		peers->channels_alive--;
		channel_retry(ch);
		shutdown_check(peers);
		return;
	}
	struct link_config config = {
		.hello =
			{
				.kind = le32_make(ch->kind),
				.credit_frames = le32_make(65536),
				.credit_bytes = le64_make(64ull << 20),
				.cluster_uuid = peers->config.cluster_uuid,
				.sender_uuid = peers->config.sender_uuid,
				.boot_id = le64_make(peers->config.boot_id),
			},
		.expect_sender = peer->node_uuid,
	};
	memcpy(config.hello.name, peers->config.name, sizeof(config.hello.name));
	const struct link_cb cb = {channel_ready, channel_frame, channel_closed, ch};
	ch->next_id = 1;
	ch->link = link_create(peers->env, conn, &config, &cb);
	if (ch->link == NULL) {
		peers->channels_alive--;
		channel_retry(ch);
	} else if (ch->stopped) {
		link_close(ch->link, -ESHUTDOWN, "shutting down");
	}
	shutdown_check(peers);
}

static void connect_timeout(struct env_timer *timer)
{
	struct channel *ch = CONTAINER_OF(timer, struct channel, connect_timer);
	if (ch->connecting)
		env_connect_cancel(ch->peer->peers->env, &ch->connect);
}

static void channel_connect(struct channel *ch)
{
	struct peers *peers = ch->peer->peers;
	ch->connect_timer.fire = connect_timeout;
	env_timer_after(peers->env, &ch->connect_timer, CONNECT_TIMEOUT_NS);
	ch->connecting = true;
	peers->channels_alive++;
	ch->connect.done = connect_done;
	env_connect(peers->env, ch->peer->address, &ch->connect);
}

static void retry_fire(struct env_timer *timer)
{
	struct channel *ch = CONTAINER_OF(timer, struct channel, retry);
	if (!ch->stopped && ch->link == NULL && !ch->connecting)
		channel_connect(ch);
}

/* ---- peers ---- */

struct peers *peers_create(struct env *env, const struct peers_config *config)
{
	struct peers *peers = calloc(1, sizeof(*peers));
	if (peers == NULL)
		return NULL;
	peers->env = env;
	peers->config = *config;
	list_init(&peers->peers);
	return peers;
}

static struct peer *peer_create(struct peers *peers, const struct uuid *node_uuid)
{
	static const enum wire_kind kinds[2] = {WIRE_KIND_CLIENT, WIRE_KIND_BULK};
	struct peer *peer = calloc(1, sizeof(*peer));
	if (peer == NULL)
		return NULL;
	peer->peers = peers;
	peer->node_uuid = *node_uuid;
	peer->next_session = 1;
	peer->lease_timer.fire = lease_fire;
	list_init(&peer->sessions);
	peer->channel_count = peers->config.control ? 1 : 2;
	for (uint32_t i = 0; i < peer->channel_count; i++) {
		struct channel *ch = &peer->channels[i];
		ch->peer = peer;
		ch->kind = peers->config.control ? WIRE_KIND_CONTROL : kinds[i];
		ch->retry.fire = retry_fire;
		ch->backoff_ns = peers->config.reconnect_min_ns;
		ch->next_id = 1;
		list_init(&ch->requests);
	}
	list_push_back(&peers->peers, &peer->link);
	peers->count++;
	return peer;
}

struct peer *peers_get(struct peers *peers, const struct uuid *node_uuid, const char *address)
{
	struct peer *peer = NULL;
	list_for_each (n, &peers->peers) {
		struct peer *p = CONTAINER_OF(n, struct peer, link);
		if (uuid_equal(&p->node_uuid, node_uuid))
			peer = p;
	}
	if (peer == NULL) {
		if (peers->count == PEERS_MAX || peers->stopping)
			return NULL;
		peer = peer_create(peers, node_uuid);
		if (peer == NULL)
			return NULL;
	}
	if (strcmp(peer->address, address) == 0)
		return peer;
	snprintf(peer->address, sizeof(peer->address), "%s", address);
	for (uint32_t i = 0; i < peer->channel_count; i++) {
		struct channel *ch = &peer->channels[i];
		if (ch->link != NULL)
			link_close(ch->link, -ECANCELED, "the node has a new address");
		else if (!ch->connecting)
			env_timer_set(peers->env, &ch->retry, 0);
	}
	return peer;
}

void peer_attach(struct peer *peer, struct peer_session *session)
{
	session->peer = peer;
	session->id = peer->next_session++;
	if (peer->next_session == 0)
		peer->next_session = 1;
	list_push_back(&peer->sessions, &session->link);
	lease_renew(peer);
	if (peer->announced_up)
		session->up(session);
}

void peer_session_renew(struct peer_session *session)
{
	struct peer *peer = session->peer;
	session->id = peer->next_session++;
	if (peer->next_session == 0)
		peer->next_session = 1;
}

void peer_detach(struct peer_session *session)
{
	list_remove(&session->link);
}

void peers_shutdown(struct peers *peers, void (*done)(void *ctx), void *ctx)
{
	peers->stopping = true;
	peers->shutdown_done = done;
	peers->shutdown_ctx = ctx;
	list_for_each_safe (n, &peers->peers) {
		struct peer *peer = CONTAINER_OF(n, struct peer, link);
		env_timer_cancel(peers->env, &peer->lease_timer);
		for (uint32_t i = 0; i < peer->channel_count; i++) {
			struct channel *ch = &peer->channels[i];
			ch->stopped = true;
			env_timer_cancel(peers->env, &ch->retry);
			if (ch->link != NULL)
				link_close(ch->link, -ESHUTDOWN, "shutting down");
			else if (ch->connecting)
				env_connect_cancel(peers->env, &ch->connect);
		}
	}
	shutdown_check(peers);
}

void peers_destroy(struct peers *peers)
{
	if (peers == NULL)
		return;
	list_for_each_safe (n, &peers->peers) {
		struct peer *peer = CONTAINER_OF(n, struct peer, link);
		for (uint32_t i = 0; i < peer->channel_count; i++)
			link_abandon(peer->channels[i].link); /* only after a crash (simulator) */
		free(peer);
	}
	free(peers);
}
