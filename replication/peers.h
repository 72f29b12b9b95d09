/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections to nodes: one client and one bulk connection per node, shared by all volumes of a
 * gateway; one control connection per node for a manager. Reconnects by itself with back-off.
 * Requests are embedded slots; each gets one reply or -ECANCELED when the connection ends.
 */
#ifndef HF_REPLICATION_PEERS_H
#define HF_REPLICATION_PEERS_H

#include "replication/frame.h"

struct peers;
struct peer;
struct peer_session;

struct peers_config {
	struct uuid cluster_uuid;
	struct uuid sender_uuid; /* of this process's host or instance */
	char name[64];
	uint64_t boot_id;
	bool control;              /* manager: only control connections */
	uint64_t reconnect_min_ns; /* default 50 ms */
	uint64_t reconnect_max_ns; /* default 1 s */
	uint64_t lease_term_ns;    /* default 1 s; 0: no leases */
	uint64_t lease_renew_ns;   /* default 250 ms */
};
void peers_config_default(struct peers_config *config);

struct peers *peers_create(struct env *env, const struct peers_config *config);
/* Closes everything; done when all callbacks have run. No session may be left. */
void peers_shutdown(struct peers *peers, void (*done)(void *ctx), void *ctx);
void peers_destroy(struct peers *peers);

/* The peer for a node, created and connected on first use; the address may change later (then it
 * reconnects). NULL when there are too many (256). */
struct peer *peers_get(struct peers *peers, const struct uuid *node_uuid, const char *address);

/* A request and its reply. */
struct peer_request {
	struct link_send out; /* iov[1..] set by the owner, header.type, header.session */
	/* status: the frame's status as -errno, or -ECANCELED (connection gone), -ETIMEDOUT. frame is
	 * NULL unless a reply came. The request is free again. */
	void (*done)(struct peer_request *request, int status, const struct link_frame *frame);
	uint64_t timeout_ns; /* 0: none */
	/* internal */
	struct list link;
	struct env_timer timer;
	uint64_t id;
	bool sending, replied;
	struct link_frame *early; /* NULL before first use */
	int status;
	struct peer *peer;
	enum wire_kind kind;
};
/* done never runs inside. When the connection is down: -ENOTCONN through done. */
void peer_request(struct peer *peer, enum wire_kind kind, struct peer_request *request);
/* A frame without reply (APPEND, COMMIT); only while the session is up. */
void peer_send(struct peer *peer, enum wire_kind kind, struct link_send *send);

/* Tells a user of the peer (a coordinator's replica) about its connections and unsolicited frames. */
struct peer_session {
	uint32_t id; /* out: unique on the peer, goes into headers */
	void (*up)(
		struct peer_session *session); /* both connections are ready (also if already so) */
	void (*down)(struct peer_session *session); /* one ended: everything sent is void */
	void (*frame)(struct peer_session *session, const struct link_frame *frame); /* WIRE_ACK */
	struct list link;
	struct peer *peer;
};
void peer_attach(struct peer *peer, struct peer_session *session);
/* A new number for the session, before a new PREPARE on the same connections. */
void peer_session_renew(struct peer_session *session);
void peer_detach(struct peer_session *session);

/* Until when (CLOCK_BOOTTIME) this node's read lease holds: send time + term - 1 %; 0: none. */
uint64_t peer_lease_until_ns(const struct peer *peer);

#endif
