/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Taking a volume and settling its log. coordinator.h has C1..C5.
 *
 * Open, in order (the opener coroutine):
 *   take      compare-and-swap of the volume's record: a new epoch, ours
 *   prepare   every member's session asks for PROMISE(epoch); q voters must have promised
 *   choose    S = the highest (log epoch, length) among voters that are not suspect; a voter with rot in
 *             its log votes no absence, so q others must have spoken (nack rule)
 *   adopt     S and the others adopt S's log in one atomic step each (sync.c)
 *   opened    recorded in the metadata store once q voters adopted; then requests are served
 * A half-done open leaves nothing to clean: epochs order the attempts.
 */
#include <errno.h>

#include "replication/coordinator_impl.h"

#define MS 1000000ull

void coordinator_wake_opener(struct coordinator *co)
{
	if (co->opener_waiting) {
		co->opener_waiting = false;
		env_timer_set(co->env, &co->opener_timer, 0);
	}
}

void opener_fire(struct env_timer *timer)
{
	struct coordinator *co = CONTAINER_OF(timer, struct coordinator, opener_timer);
	if (co->opener != NULL && co_running(co->opener))
		co_resume(co->opener);
}

static void opener_wait(struct coordinator *co, uint64_t timeout_ns)
{
	co->opener_waiting = true;
	if (timeout_ns > 0)
		env_timer_after(co->env, &co->opener_timer, timeout_ns);
	co_suspend(co->opener);
	co->opener_waiting = false;
	env_timer_cancel(co->env, &co->opener_timer);
}

static void meta_taken(void *ctx, int status, uint64_t epoch,
		       const struct coordinator_volume *volume)
{
	struct coordinator *co = ctx;
	co->meta_status = status;
	co->meta_done = true;
	if (status == 0) {
		co->epoch = epoch;
		co->volume = *volume;
	}
	coordinator_wake_opener(co);
	coordinator_shutdown_check(co);
}

static void meta_opened(void *ctx, int status)
{
	struct coordinator *co = ctx;
	co->meta_status = status;
	co->meta_done = true;
	coordinator_wake_opener(co);
	coordinator_shutdown_check(co);
}

static bool stopped(const struct coordinator *co)
{
	return co->ended || co->stopping;
}

static void wait_meta(struct coordinator *co)
{
	while (!co->meta_done)
		opener_wait(co, 0);
}

static int open_take(struct coordinator *co)
{
	while (!stopped(co)) {
		co->meta_done = false;
		co->meta.acquire(co->meta.ctx, meta_taken, co);
		wait_meta(co);
		if (co->meta_status == 0) {
			co->taken = true;
			coordinator_quorum_timer(co);
			return 0;
		}
		if (co->meta_status != -EAGAIN && co->meta_status != -ETIMEDOUT)
			return co->meta_status;
		opener_wait(co, 200 * MS);
	}
	return -ESHUTDOWN;
}

static uint32_t promised_count(const struct coordinator *co, bool suspects)
{
	uint32_t count = 0;
	for (uint32_t i = 0; i < co->member_count; i++)
		count += co->members[i].info.voter && co->members[i].promised &&
			 co->members[i].bulk_ready && (suspects || !co->members[i].suspect) &&
			 co->members[i].state != REPLICA_LOST;
	return count;
}

static uint32_t voter_count(const struct coordinator *co)
{
	uint32_t count = 0;
	for (uint32_t i = 0; i < co->member_count; i++)
		count += co->members[i].info.voter;
	return count;
}

static int open_prepare(struct coordinator *co)
{
	members_attach(co);
	uint64_t linger_until_ns = 0;
	while (!stopped(co)) {
		uint64_t now_ns = env_now_ns(co->env);
		if (promised_count(co, true) == voter_count(co) &&
		    promised_count(co, false) >= co->quorum)
			return 0;
		if (promised_count(co, false) < co->quorum)
			linger_until_ns = 0;
		else if (linger_until_ns == 0)
			linger_until_ns = now_ns + co->config.linger_ns;
		else if (now_ns >= linger_until_ns)
			return 0;
		opener_wait(co, linger_until_ns == 0 ? 0 : linger_until_ns - now_ns);
	}
	return -ESHUTDOWN;
}

/* Checked (invariant PROTO-4): by (log epoch, length), never by length alone. */
static struct member *choose_source(struct coordinator *co)
{
	struct member *best = NULL;
	for (uint32_t i = 0; i < co->member_count; i++) {
		struct member *m = &co->members[i];
		if (!m->info.voter || !m->promised || !m->bulk_ready || m->suspect)
			continue;
		if (best == NULL || m->log_epoch > best->log_epoch ||
		    (m->log_epoch == best->log_epoch && m->last_seq > best->last_seq))
			best = m;
	}
	return best;
}

static uint32_t adopted_count(const struct coordinator *co)
{
	uint32_t count = 0;
	for (uint32_t i = 0; i < co->member_count; i++)
		count += co->members[i].info.voter && co->members[i].adopted;
	return count;
}

static int open_adopt(struct coordinator *co)
{
	struct member *source = choose_source(co);
	if (source == NULL)
		return -EAGAIN; /* went away just now */
	co->open_log_epoch = source->log_epoch;
	co->open_last_seq = source->last_seq;
	co->open_source = source;
	co->last_seq = source->last_seq;
	co->last_hash = source->last_hash;
	coordinator_event(co, "settle", "source=%s log_epoch=%lu last=%lu", source->info.node_name,
			  source->log_epoch, source->last_seq);
	for (uint32_t i = 0; i < co->member_count; i++)
		if (co->members[i].promised)
			sync_start(&co->members[i]);
	/* Checked (invariant PROTO-5): nothing is served before q voters adopted. */
	while (!stopped(co) && adopted_count(co) < co->quorum) {
		/* Another source under the same epoch could give two logs to one epoch. */
		if (!source->up || !source->promised || source->refill)
			return -EAGAIN;
		opener_wait(co, 0);
	}
	return stopped(co) ? -ESHUTDOWN : 0;
}

/* The attempt is given up: everything it told the members is void, the next has a new epoch. */
static void open_give_up(struct coordinator *co)
{
	coordinator_event(co, "open_again", "the source of the log was lost");
	members_detach(co);
	while (members_busy(co) && !stopped(co))
		opener_wait(co, 10 * MS);
	if (stopped(co))
		return;
	co->taken = false;
	co->open_source = NULL;
	co->reader = NULL;
	for (uint32_t i = 0; i < co->member_count; i++) {
		struct member *m = &co->members[i];
		sync_free(m);
		*m = (struct member){0};
	}
	co->member_count = 0;
}

static int open_record(struct coordinator *co)
{
	while (!stopped(co)) {
		co->meta_done = false;
		co->meta.opened(co->meta.ctx, co->epoch, meta_opened, co);
		wait_meta(co);
		if (co->meta_status != -EAGAIN && co->meta_status != -ETIMEDOUT)
			return co->meta_status;
		opener_wait(co, 200 * MS);
	}
	return -ESHUTDOWN;
}

void opener_run(struct co *self, void *arg)
{
	struct coordinator *co = arg;
	(void)self;
	int rc;
	do {
		rc = open_take(co);
		if (rc == 0)
			rc = open_prepare(co);
		if (rc == 0)
			rc = open_adopt(co);
		if (rc == -EAGAIN)
			open_give_up(co);
	} while (rc == -EAGAIN);
	if (rc == 0)
		rc = open_record(co);
	if (rc < 0) {
		coordinator_end(co, rc, "the volume could not be opened");
		return;
	}
	co->commit_seq = co->last_seq;
	co->commit_hash = co->last_hash;
	/* A resize whose answer was lost stands in the log, not in the record. */
	co->volume.size_blocks = MAX(co->volume.size_blocks, co->open_source->size_blocks);
	co->size_issued = co->volume.size_blocks;
	co->open = true;
	coordinator_quorum_check(co);
	coordinator_quorum_timer(co);
	coordinator_event(co, "opened", "last=%lu", co->last_seq);
	for (uint32_t i = 0; i < co->member_count; i++)
		if (co->members[i].promised && !co->members[i].streaming)
			sync_start(&co->members[i]);
	commit_fire(&co->commit_timer);
	coordinator_kick(co);
}
