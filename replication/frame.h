/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A framed connection over an env stream: both ends of the replica protocol stand on it.
 *
 * Receives into one bounded buffer, checks every frame (replication/wire.h), hands it on; queues
 * sends; pings when idle; ends the connection on the first violation. One thread (env rule E1).
 *
 * F1  A frame is handed on only when header, body, frame number and lengths were right.
 * F2  Nothing is handed on after link_close() or after `closed` was called.
 * F3  Receiving stops while the owner holds it back (link_pause), so memory stays bounded.
 */
#ifndef HF_REPLICATION_FRAME_H
#define HF_REPLICATION_FRAME_H

#include "base/env.h"
#include "replication/wire.h"

struct link;

struct link_frame {
	const struct wire_header *header; /* valid during the call */
	const void *body;                 /* 8-aligned, valid during the call */
	uint32_t body_bytes;
	const void *payload; /* valid during the call; any alignment: copy what you keep */
	uint32_t payload_bytes;
};

struct link_cb {
	/* The peer's HELLO was accepted; frames may be sent from now on. */
	void (*ready)(void *ctx, const struct wire_hello *peer);
	/* A frame other than HELLO, PING, PONG. May call link_close. */
	void (*frame)(void *ctx, const struct link_frame *frame);
	/* The connection is over (status -errno; 0: the peer closed); every send has had its done.
	 * The link is gone after this call: do not use it again. Called exactly once, also after
	 * link_close. */
	void (*closed)(void *ctx, int status, const char *reason);
	void *ctx;
};

struct link_config {
	struct wire_hello hello;   /* what we say; versions are filled in */
	struct uuid expect_sender; /* zero: anyone of the cluster */
	uint64_t keepalive_ns;     /* ping after this much silence; default 1 s */
	uint64_t dead_ns; /* over after this much silence; default 5 s; also bounds the handshake */
};

/* A send slot, embedded in the owner's object. */
struct link_send {
	struct env_send send;
	struct wire_header header; /* the owner sets type, session, request_id, status */
	struct iovec iov[8]; /* [0] the link's (header); [1] body (may be empty); [2..] payload */
	uint32_t iov_count;  /* >= 1 */
	void (*done)(struct link_send *send, int status); /* may be NULL */
};

/* Takes conn over (accepted or connected). NULL when memory is out: conn is closed. */
struct link *link_create(struct env *env, struct env_conn *conn, const struct link_config *config,
			 const struct link_cb *cb);
/*
 * Completes the header (magic, frame_no, lengths from iov, crcs) and queues it. Body and payload stay
 * the owner's and unchanged until done; after the connection ended done comes with -ECANCELED.
 */
void link_send(struct link *link, struct link_send *send);
/* Ends it; cb->closed comes later. Idempotent. reason is logged by the owner, not here. */
void link_close(struct link *link, int status, const char *reason);
/* Frees the memory of a link whose env will never call back (a killed process in the simulator). */
void link_abandon(struct link *link);
/* Stops and resumes handing on (and so, receiving). */
void link_pause(struct link *link);
void link_resume(struct link *link);
/* link_close() was called: the peer may see the end of the stream before `closed` is called here. */
bool link_is_closing(const struct link *link);

#endif
