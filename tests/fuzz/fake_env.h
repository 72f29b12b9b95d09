/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An env of one thread in memory, for fuzzers: virtual time, timers, and connections whose other
 * end is the fuzzer. Nothing happens but in fake_env_turn(); rules E1..E5 hold. No disks.
 */
#ifndef HF_TESTS_FUZZ_FAKE_ENV_H
#define HF_TESTS_FUZZ_FAKE_ENV_H

#include "base/env.h"
#include "base/timer_heap.h"

#define FAKE_CONN_BYTES_MAX ((size_t)256 << 10)

struct fake_env {
	struct env env;
	struct timer_heap heap;
	uint64_t now_ns;
	uint64_t seed;
	struct env_listener_cb listener; /* accepted is NULL when nobody listens */
	struct list conns;
};

/* The fuzzer's end of a connection; valid until fake_env_free(). */
struct fake_conn {
	struct fake_env *fake;
	struct list link;
	uint8_t *in; /* fed and not yet received */
	size_t in_bytes;
	size_t recv_step_bytes; /* at most this much in one receive; 0: no limit */
	bool ended;             /* the peer closed, after `in` is received */
	int end_status;         /* 0 or -errno of that */
	bool hold_sends;        /* the peer does not read */
	bool closed;            /* our side has closed it and knows it is over */
	struct env_recv *recv;
	struct list sends;
	struct env_close *close;
	/* Called with each send before its done; may be NULL. */
	void (*sent)(struct fake_conn *conn, const struct env_send *send);
	uint64_t sent_count; /* the fuzzer's */
};

void fake_env_init(struct fake_env *fake, uint64_t seed);
/* Frees what is left of connections too. */
void fake_env_free(struct fake_env *fake);
/* A stranger connects to the listener. NULL when nobody listens. */
struct fake_conn *fake_env_accept(struct fake_env *fake);
/* False when there is no room. */
bool fake_conn_feed(struct fake_conn *conn, const void *bytes, size_t count);
/* Sends, receives, closes and due timers, once each. False when there was nothing to do. */
bool fake_env_turn(struct fake_env *fake);

#endif
