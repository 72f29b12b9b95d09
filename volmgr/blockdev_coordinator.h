/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A replicated volume as a block device: requests become requests of its coordinator.
 *
 * Whole blocks only; blockdev_align goes on top. Every acknowledged change is durable, so FUA costs
 * nothing. The store takes space when data comes: TRIM and ZERO, with NO_HOLE or without, give it
 * back, and what they covered is a hole that reads as zeroes.
 */
#ifndef HF_VOLMGR_BLOCKDEV_COORDINATOR_H
#define HF_VOLMGR_BLOCKDEV_COORDINATOR_H

#include "base/env.h"
#include "base/metrics.h"
#include "replication/coordinator.h"
#include "store/store.h"
#include "volmgr/blockdev.h"

struct blockdev_coordinator;

struct blockdev_coordinator_config {
	const char *name;
	uint64_t size_bytes;
	uint32_t requests_max; /* in flight; never exceeded by the layer above */
	bool read_only;
};

/* Counts of finished requests; any thread. */
struct blockdev_coordinator_counts {
	struct metric reads, writes, read_bytes, written_bytes, errors;
};

/* The coordinator must outlive it. NULL when memory is out. */
struct blockdev_coordinator *blockdev_coordinator_create(
	struct env *env, struct coordinator *coordinator,
	const struct blockdev_coordinator_config *config);
/* No request may be in flight. NULL is fine. */
void blockdev_coordinator_destroy(struct blockdev_coordinator *dev);
struct blockdev *blockdev_coordinator_dev(struct blockdev_coordinator *dev);
struct blockdev_coordinator_counts *blockdev_coordinator_counts(struct blockdev_coordinator *dev);
/* After a resize of the volume. */
void blockdev_coordinator_size_set(struct blockdev_coordinator *dev, uint64_t size_bytes);
void blockdev_coordinator_read_only_set(struct blockdev_coordinator *dev, bool read_only);
/* The coordinator is going away: every later request ends with -ESHUTDOWN. */
void blockdev_coordinator_close(struct blockdev_coordinator *dev);

#endif
