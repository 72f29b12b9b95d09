/* SPDX-License-Identifier: Apache-2.0 */
/* The simulated network's own types: sim_net.c (addresses, links) and sim_stream.c (bytes). */
#ifndef HF_TESTS_SIM_SIM_NET_PRIV_H
#define HF_TESTS_SIM_SIM_NET_PRIV_H

#include "tests/sim/sim_priv.h"

struct sim_link {
	struct sim_link_profile profile;
	bool is_used; /* profile was copied from the default */
	bool is_blocked;
	uint64_t clogged_until_ns;
};

struct env_listener {
	struct list link;         /* sim->listeners */
	struct list process_link; /* process->listeners */
	struct sim_process *process;
	struct env_listener_cb cb;
	char address[128];
	bool is_dead;
};

enum sim_unit_kind { UNIT_DATA, UNIT_END, UNIT_RESET };

/* What is on its way, or (DATA) has arrived and was not yet received. */
struct sim_unit {
	struct sim_event event; /* first */
	struct list link;       /* way->flying or conn->arrived */
	struct env_conn *to;
	enum sim_unit_kind kind;
	bool is_held; /* its link is closed */
	size_t bytes;
	size_t taken; /* already received */
	uint8_t *data;
};

enum sim_conn_state {
	CONN_OPEN,
	CONN_CLOSED,   /* by its owner, in order */
	CONN_VANISHED, /* its machine is gone; answers nothing */
};

/* One end. */
struct env_conn {
	struct sim_pair *pair;
	struct sim_process *process;
	struct list process_link; /* process->conns while the handle may be touched */
	uint64_t id;
	enum sim_conn_state state;
	bool is_released; /* the handle is gone; only the pair remembers this end */
	bool has_end;     /* the peer's end has arrived */
	int error;        /* 0, or what every later operation gets */
	struct list arrived;
	size_t arrived_bytes;
	struct list flying;  /* units on their way to this end */
	uint64_t arrival_ns; /* of the last of them */
	/* the sending side */
	struct list sends;  /* env_send.link */
	size_t window_used; /* sent and not known to be received */
	size_t window_late; /* received by the peer, but the way back is closed */
	struct env_recv *recv;
	struct env_close *close;
	struct sim_event recv_event;
	struct sim_event send_event;
	struct sim_event close_event;
};

struct sim_pair {
	struct list link; /* sim->pairs */
	struct sim *sim;
	struct env_conn end[2];        /* 0: who connected */
	struct env_listener *listener; /* until accepted */
	struct sim_event accept_event;
	char peer_text[2][sizeof(((struct env_peer *)0)->text)];
};

static inline struct env_conn *conn_peer(struct env_conn *conn)
{
	return &conn->pair->end[conn == &conn->pair->end[0]];
}
struct sim_link *sim_link_get(struct sim_process *from, struct sim_process *to);
/* Blocked, or clogged now. */
bool sim_link_closed(struct sim *sim, const struct sim_link *link);
uint64_t sim_link_delay(struct sim *sim, const struct sim_link *link);

struct sim_pair *sim_pair_create(struct sim_process *from, struct sim_process *to);
/* Frees the pair when neither end has a handle. */
void sim_pair_put(struct sim_pair *pair);
void sim_pair_free(struct sim_pair *pair);
/* This end sees `error` (or an end, when 0) now; what was on its way to it is gone. */
void sim_conn_break(struct env_conn *conn, int error);
/* Tells the peer, over the link. */
void sim_conn_unit(struct env_conn *from, enum sim_unit_kind kind, const void *data, size_t bytes);
/* Drops the handle's operations without callbacks (a kill). */
void sim_conn_drop(struct env_conn *conn, enum sim_conn_state state);
/* Handle gone for good. */
void sim_conn_release(struct env_conn *conn);
/* Sends held units and credits of every connection whose links are open again. */
void sim_streams_wake(struct sim *sim);

#endif
