/* SPDX-License-Identifier: Apache-2.0 */
/* Private to replication/node*.c: the node's objects. */
#ifndef HF_REPLICATION_NODE_IMPL_H
#define HF_REPLICATION_NODE_IMPL_H

#include "base/bufpool.h"
#include "replication/frame.h"
#include "replication/node.h"

#define NODE_STORES_MAX            32u
#define NODE_SESSIONS_PER_CONN_MAX 1024u
#define NODE_REPLY_BODY_BYTES      4096u
#define NODE_LEASE_TERM_NS         1000000000ull /* the longest read lease that is granted */

struct node_conn;
struct node_session;

/* What this process knows of a replica beyond the store: found by handle, created on first use. */
struct node_replica {
	struct list link; /* node.replicas */
	struct node *node;
	struct store *store;
	struct store_replica *replica;
	struct uuid volume_uuid;
	struct list sessions; /* struct node_session.replica_link */
	uint64_t promising;   /* highest epoch asked for: sessions below it are fenced */
	uint64_t
		lease_block_ns; /* no promise before: leases of ended connections and of an earlier boot */
	bool lease_logged; /* LEASE of this boot is durable */
	bool lease_none_tried;
	struct store_lease lease_none; /* of a clean stop */
	bool deleting;
};

struct node_session {
	struct list replica_link;
	struct node_conn *conn;
	struct node_replica *nr;
	uint32_t id;
	uint64_t epoch;
	bool fenced;             /* a higher epoch was asked for, or the stream broke */
	uint64_t lease_until_ns; /* when fenced: the last grant that covered it */
	uint64_t last_seq;       /* stable, to be acknowledged */
	uint64_t shadow_last_seq;
	uint64_t acked_seq, acked_shadow_seq;
	int stream_status; /* first append error */
	bool stream_status_told;
	struct env_timer ack_timer;
	struct link_send ack,
		fence_ack; /* the fence's own slot: it must never wait for an earlier ACK */
	struct wire_ack ack_body, fence_ack_body;
	bool ack_busy;
	uint32_t ops;     /* operations that refer to it */
	uint32_t appends; /* of these, in the store */
	bool dead;        /* the connection ended or it was replaced: freed when ops is 0 */
};

struct node_conn {
	struct node *node;
	struct list link; /* node.conns */
	struct link *io;  /* NULL once closed */
	char peer_text[108];
	enum wire_kind kind;
	bool ready;
	uint64_t peer_boot_id;
	uint64_t lease_until_ns;
	struct node_session *sessions[NODE_SESSIONS_PER_CONN_MAX]; /* by id % max */
	uint32_t frames_unanswered;
	uint64_t bytes_unanswered;
	bool paused;  /* at its bound: not read from until below it again */
	uint32_t ops; /* operations that refer to it; freed when 0 and io is NULL */
};

/* One frame being worked on: the store operation, its payload, its reply. */
struct node_op {
	struct list link; /* free list, or node.waiting (lease) */
	struct node *node;
	struct node_conn *conn;
	struct node_session *session; /* may be NULL */
	uint16_t type;
	uint64_t request_id;
	uint32_t session_id;
	uint32_t payload_bytes_held;
	void *buf; /* bufpool */
	uint32_t buf_bytes;
	struct iovec iov[2];
	uint32_t flags;
	uint64_t wait_until_ns;
	struct wire_prepare prepare;
	union {
		struct store_op op;
		struct store_append append;
		struct store_promise promise;
		struct store_adopt adopt;
		struct store_lease lease;
		struct store_log_read log_read;
		struct store_read read;
		struct store_extents extents;
		struct store_repair repair;
		struct store_changes changes;
		struct store_shadow shadow;
		struct store_fill fill;
		struct store_create create;
	} u;
	uint32_t crcs[STORE_CHUNK_BLOCKS];
	uint8_t states[STORE_CHUNK_BLOCKS];
	struct link_send out;
	uint64_t body[NODE_REPLY_BODY_BYTES / 8];
};

struct node {
	struct env *env;
	struct node_config config;
	struct env_listener *listener;
	struct store *stores[NODE_STORES_MAX];
	uint64_t stores_added_ns[NODE_STORES_MAX];
	uint32_t store_count;
	uint64_t boot_id;
	struct list conns;
	uint32_t conn_count;
	struct list replicas;
	struct bufpool *bufs;
	uint64_t idle_bytes; /* of payload that had moved at the last node_idle() */
	struct node_op *ops;
	uint32_t ops_max, ops_fresh, conns_paused;
	struct list ops_free;
	struct list waiting; /* PREPAREs that wait for a lease to run out */
	struct env_timer wait_timer;
	bool stopping;
	uint32_t leases_none_out; /* LEASE none under way in the stores */
	void (*shutdown_done)(void *ctx);
	void *shutdown_ctx;
	struct node_info counters;
};

/* node.c */
/* A free slot; counted on conn, which is not read from while it is at its bound. */
struct node_op *node_op_get(struct node_conn *conn, struct node_session *session,
			    const struct link_frame *frame);
/* Gives slot and buffer back without a reply. */
void node_op_put(struct node_op *op);
/* Replies with status and body_bytes of op->body (padded), payload iov count pieces from
 * out.iov[2]; the slot is given back when the reply was sent. Nothing but an ACK is sent when
 * request_id is 0. */
void node_reply(struct node_op *op, uint16_t type, int status, uint32_t body_bytes);
void node_violation(struct node_conn *conn, const char *reason);
/* LEASE none is recorded: the stop goes on. */
void node_leases_ended(struct node *node);

/* node_session.c */
struct node_replica *node_replica_find(struct node *node, const struct uuid *volume_uuid,
				       uint32_t shard);
struct node_session *node_session_find(struct node_conn *conn, uint32_t id);
void node_prepare(struct node_conn *conn, const struct link_frame *frame);
void node_status(struct node_conn *conn, const struct link_frame *frame);
void node_lease(struct node_conn *conn, const struct link_frame *frame);
void node_sessions_end(struct node_conn *conn, bool clean);
void node_session_unref(struct node_session *session);
/* Ends every session of a replica below an epoch; status says why: ESTALE (a newer epoch was promised)
 * ends the coordinator, anything else only this replica of it. */
void node_replica_fence(struct node_replica *nr, uint64_t below_epoch, int status);
/* A frame of a session that is not there. */
void node_session_missing(struct node_conn *conn, const struct link_frame *frame);
void node_replica_drop(struct node_replica *nr);
void node_ack_later(struct node_session *session);
/* One of session->appends has ended. */
void node_append_over(struct node_session *session);
void node_position(struct store_replica *replica, struct store *store, struct wire_promise *ret);
/* In a stop, with no session left: until when a lease may be out; 0: none. */
uint64_t node_leases_until_ns(struct node *node);
/* Records LEASE none wherever a LEASE stands. True: it is done, or was tried. False: node_leases_ended() follows. */
bool node_leases_end(struct node *node);
/* Wakes PREPAREs whose lease wait may be over. */
void node_waiting_check(struct node *node);

/* node_ops.c: frames of sessions; node_control.c: frames of managers */
void node_session_frame(struct node_session *session, const struct link_frame *frame);
void node_control_frame(struct node_conn *conn, const struct link_frame *frame);

#endif
