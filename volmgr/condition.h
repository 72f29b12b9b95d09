/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What people are told about an attached volume: a function of what its coordinator says, of nothing else.
 *
 * Voters alone count here: a learner makes a volume neither better nor worse.
 */
#ifndef HF_VOLMGR_CONDITION_H
#define HF_VOLMGR_CONDITION_H

#include "replication/coordinator.h"

#define CONDITIONS_MAX 4u

struct condition {
	char text[192]; /* "Name: what, for people" */
};

/*
 * What is not well, the gravest first; 0: all is well. rf: how many voters the volume should have.
 *
 *   Closed      not open, and rot in the logs leaves no quorum that could open it
 *   NoQuorum    fewer voters than a quorum are in sync (open), or there (not open)
 *   Degraded    none of these, and fewer than rf voters are in sync (open), or one is away (not open)
 *   Resyncing   voters catch up
 *   ReadsHeld   reads whose data has come wait for leases
 */
uint32_t condition_list(const struct coordinator_info *info, uint32_t rf,
			struct condition ret[CONDITIONS_MAX]);

/* "primary", "secondary", "syncing", "suspect", "lost" or "offline". */
const char *condition_replica_state(const struct coordinator_replica_info *replica);

#endif
