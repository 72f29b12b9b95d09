/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simulated network: byte streams between processes, with faults per directed link.
 *
 * Addresses are the strings of env_listen(); any process reaches any address. One env_send() is
 * one unit. Units arrive in order after a delay and are received in chunks of random size. Faults
 * on units (drop, duplicate, reorder, flip) break the stream on purpose: the protocol above must
 * notice. A blocked or clogged link holds units until it is opened again, as TCP would, and while
 * the way back is blocked the sender's window does not open.
 */
#ifndef HF_TESTS_SIM_SIM_NET_H
#define HF_TESTS_SIM_SIM_NET_H

#include "tests/sim/sim.h"

struct sim_link_profile {
	uint64_t delay_min_ns;
	uint64_t delay_max_ns;
	uint32_t drop_ppm; /* per unit */
	uint32_t duplicate_ppm;
	uint32_t reorder_ppm; /* changes place with the unit before it, when that is in flight */
	uint32_t flip_ppm;
	uint32_t reset_ppm;    /* the connection is reset in place of the unit */
	uint32_t refuse_ppm;   /* per connect: refused */
	uint32_t timeout_ppm;  /* per connect: no answer */
	uint32_t window_bytes; /* sender's: unreceived bytes after which sends wait; 0: 256 KiB */
	bool whole_chunks;     /* receive as much as there is, never less */
};
/* 20..200 us, no faults. */
extern const struct sim_link_profile sim_link_profile_default;

/* All links that exist or will. */
void sim_net_profile_set(struct sim *sim, const struct sim_link_profile *profile);
/* One direction; the pointer stays valid for the world's life and may be changed at any time. */
struct sim_link_profile *sim_link_profile(struct sim_process *from, struct sim_process *to);
/* One-way partition. */
void sim_link_block(struct sim_process *from, struct sim_process *to, bool is_blocked);
/* Holds the link's units for this long. */
void sim_link_clog(struct sim_process *from, struct sim_process *to, uint64_t duration_ns);
/* Both directions between the processes whose bit is set in the mask (bit = creation order) and
 * all others. */
void sim_net_partition(struct sim *sim, uint32_t side_mask);
/* Unblocks and unclogs every link. Profiles stay. */
void sim_net_heal(struct sim *sim);
/* Swizzle: clogs all links of a random subset of processes one after the other and opens them in
 * another order, within duration_ns. */
void sim_net_swizzle(struct sim *sim, uint64_t duration_ns);
/* Resets every connection between the two now; both sides see -ECONNRESET. */
void sim_net_reset(struct sim_process *a, struct sim_process *b);
/* Half-open: a's ends are reset, b's ends are told nothing. */
void sim_net_half_open(struct sim_process *a, struct sim_process *b);
/* Open connections, both ends alive. */
unsigned sim_net_connections(const struct sim_process *a, const struct sim_process *b);
/* The address a listener is bound to, with the port that was picked. */
const char *sim_listener_address(const struct env_listener *listener);

#endif
