/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests, the quorum, and the life of a coordinator. coordinator.h has C1..C5; coordinator_open.c takes the
 * volume, coordinator_member.c has the connections.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/log.h"
#include "replication/coordinator_impl.h"

#define MS 1000000ull

void coordinator_config_default(struct coordinator_config *config)
{
	*config = (struct coordinator_config){
		.window_entries = 1024,
		.window_bytes = 64ull << 20,
		.linger_ns = 250 * MS,
	};
}

/* ---- small things ---- */

void coordinator_event(struct coordinator *co, const char *event, const char *format, ...)
{
	char text[256];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	log_event(LOG_INFO, "repl", event, "vol=%s epoch=%lu %s", co->volume.name, co->epoch, text);
	if (co->config.event != NULL)
		co->config.event(co->config.ctx, event, text);
}

void coordinator_kick(struct coordinator *co)
{
	/* it may be armed for later */
	if (!env_timer_armed(&co->kick) || co->kick.deadline_ns > env_now_ns(co->env))
		env_timer_set(co->env, &co->kick, 0);
}

static void fail_list(struct list *waiting, int status)
{
	struct list all;
	list_init(&all);
	list_splice_back(&all, waiting);
	struct list *n;
	while ((n = list_pop_front(&all)) != NULL) {
		struct coordinator_request *r = CONTAINER_OF(n, struct coordinator_request, link);
		r->done(r, status);
	}
}

static void fail_in_flight(struct coordinator *co, int status)
{
	list_for_each_safe (n, &co->window_used) {
		struct window_entry *e = CONTAINER_OF(n, struct window_entry, link);
		struct coordinator_request *r = e->request;
		e->request = NULL;
		if (r != NULL)
			r->done(r, status);
	}
}

/* Every request that has no outcome ends with status; entries in flight are decided by the next open. */
static void fail_requests(struct coordinator *co, int status)
{
	fail_list(&co->writes_waiting, status);
	fail_list(&co->flushes, status);
	reads_fail_all(co, status);
	fail_in_flight(co, status);
}

void coordinator_end(struct coordinator *co, int status, const char *reason)
{
	if (co->ended)
		return;
	co->ended = true;
	co->open = false;
	coordinator_event(co, "ended", "status=%s reason=%s", err_name(status), LOG_Q(reason));
	for (uint32_t i = 0; i < co->member_count; i++)
		co->members[i].streaming = false;
	fail_requests(co, -ESHUTDOWN);
	coordinator_wake_opener(co);
	coordinator_kick(co);
	if (!co->stopping && co->config.ended != NULL)
		co->config.ended(co->config.ctx, status, reason);
}

/* It runs from the moment that the volume is taken, or that its quorum was lost, until it is open with one. */
void coordinator_quorum_timer(struct coordinator *co)
{
	if (co->ended || (co->open && co->have_quorum))
		env_timer_cancel(co->env, &co->quorum_timer);
	else if (co->volume.no_quorum_timeout_ns > 0 && !env_timer_armed(&co->quorum_timer))
		env_timer_after(co->env, &co->quorum_timer, co->volume.no_quorum_timeout_ns);
}

/* Checked (invariant PROTO-21): what waited when the time-out began, or began to wait since, ends here; the next
 * time-out begins. */
static void quorum_fire(struct env_timer *timer)
{
	struct coordinator *co = CONTAINER_OF(timer, struct coordinator, quorum_timer);
	if (co->ended)
		return;
	coordinator_event(co, "no_quorum_timeout", "held requests fail");
	fail_list(&co->writes_waiting, -EIO);
	fail_list(&co->reads_waiting, -EIO);
	lease_waiting_fail(co, -EIO);
	/* Their outcome is unknown; a returning quorum may still commit them. */
	fail_in_flight(co, -EIO);
	fail_list(&co->flushes, -EIO);
	coordinator_quorum_timer(co);
}

/* What can still be acknowledged: voters that stream. */
void coordinator_quorum_check(struct coordinator *co)
{
	uint32_t live = 0;
	for (uint32_t i = 0; i < co->member_count; i++)
		live += co->members[i].info.voter && co->members[i].adopted &&
			co->members[i].state == REPLICA_LIVE;
	bool have = live >= co->quorum;
	if (have == co->have_quorum)
		return;
	co->have_quorum = have;
	if (!co->open)
		return;
	coordinator_event(co, have ? "quorum_back" : "quorum_lost", "live=%u quorum=%u", live,
			  co->quorum);
	if (have)
		coordinator_kick(co);
	coordinator_quorum_timer(co);
}

/* ---- requests ---- */

static void retry_list(struct coordinator *co, struct list *waiting,
		       bool (*try)(struct coordinator *, struct coordinator_request *),
		       bool in_order)
{
	struct list all;
	list_init(&all);
	list_splice_back(&all, waiting);
	struct list *n;
	while ((n = list_pop_front(&all)) != NULL) {
		struct coordinator_request *r = CONTAINER_OF(n, struct coordinator_request, link);
		if (try(co, r))
			continue;
		list_push_back(waiting, &r->link);
		if (in_order)
			break;
	}
	list_splice_back(waiting, &all);
}

static bool flush_try(struct coordinator *co, struct coordinator_request *request)
{
	if (!co->open || co->commit_seq < request->barrier_seq)
		return false;
	request->done(request, 0);
	return true;
}

static void kick_fire(struct env_timer *timer)
{
	struct coordinator *co = CONTAINER_OF(timer, struct coordinator, kick);
	if (co->ended) {
		fail_requests(co, -ESHUTDOWN);
		for (uint32_t i = 0; i < co->member_count; i++)
			if (co->members[i].sync_waiting)
				sync_wake(&co->members[i]);
		if (co->verifier_waiting)
			co_resume(co->verifier);
		coordinator_shutdown_check(co);
		return;
	}
	retry_list(co, &co->writes_waiting, write_try, true);
	retry_list(co, &co->flushes, flush_try, false);
	retry_list(co, &co->reads_waiting, read_try, false);
	if (!list_empty(&co->lease_waiting))
		lease_fire(&co->lease_timer);
	if (co->verifier_waiting)
		co_resume(co->verifier);
	for (uint32_t i = 0; i < co->member_count; i++)
		if (co->members[i].sync_waiting)
			sync_wake(&co->members[i]);
}

static int request_check(const struct coordinator *co, const struct coordinator_request *r)
{
	if (r->op == COORDINATOR_FLUSH)
		return 0;
	if (r->op == COORDINATOR_RESIZE)
		return r->address_blocks >= co->volume.size_blocks &&
				       r->address_blocks <= STORE_VOLUME_BLOCKS_MAX
			       ? 0
			       : -EINVAL;
	if (r->length_blocks == 0 || r->address_blocks > STORE_VOLUME_BLOCKS_MAX ||
	    r->length_blocks > STORE_VOLUME_BLOCKS_MAX)
		return -EINVAL;
	/* Before the open the size is not known: the log may hold a resize that the record does not. */
	if (co->open && r->address_blocks + r->length_blocks > co->volume.size_blocks)
		return -EINVAL;
	if ((r->op == COORDINATOR_READ || r->op == COORDINATOR_WRITE) &&
	    r->length_blocks > STORE_ENTRY_BLOCKS_MAX)
		return -EINVAL;
	return 0;
}

/* Requests are queued and tried on the next turn when something must wait; errors too come later. */
void coordinator_submit(struct coordinator *co, struct coordinator_request *request)
{
	int rc = request_check(co, request);
	if (rc < 0 || co->ended || co->stopping) {
		/* an impossible request is put where kick_fire finds and fails it */
		request->length_blocks = 0;
		list_push_back(&co->reads_waiting, &request->link);
		coordinator_kick(co);
		return;
	}
	switch (request->op) {
	case COORDINATOR_WRITE:
	case COORDINATOR_ZERO:
	case COORDINATOR_RESIZE:
		write_submit(co, request);
		return;
	case COORDINATOR_FLUSH:
		if (!list_empty(&co->writes_waiting)) {
			list_push_back(&co->writes_waiting, &request->link);
			return;
		}
		request->barrier_seq = co->last_seq;
		list_push_back(&co->flushes, &request->link);
		coordinator_kick(co);
		return;
	case COORDINATOR_READ:
	case COORDINATOR_EXTENTS:
		read_submit(co, request);
		return;
	}
}

/* ---- create, shut down ---- */

static bool make_pools(struct coordinator *co)
{
	co->window_count = MIN(MAX(co->config.window_entries, 64u), WINDOW_ENTRIES_MAX);
	size_t bytes = co->window_count * sizeof(struct window_entry);
	void *window = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (window == MAP_FAILED)
		return false;
	co->window = window;
	co->bufs = bufpool_create(co->config.window_bytes);
	co->read_slots = calloc(READ_SLOTS, sizeof(*co->read_slots));
	co->opener = co_create(co->env, 64 * 1024);
	if (co->bufs == NULL || co->read_slots == NULL || co->opener == NULL)
		return false;
	for (uint32_t i = 0; i < READ_SLOTS; i++) {
		co->read_slots[i].co = co;
		list_push_back(&co->read_free, &co->read_slots[i].link);
	}
	return true;
}

struct coordinator *coordinator_create(struct env *env, struct peers *peers,
				       const struct coordinator_meta *meta,
				       const struct coordinator_config *config)
{
	struct coordinator *co = calloc(1, sizeof(*co));
	if (co == NULL)
		return NULL;
	co->env = env;
	co->peers = peers;
	co->meta = *meta;
	co->config = *config;
	co->verify_chunk = UINT64_MAX;
	struct list *lists[] = {&co->window_free,   &co->window_used, &co->writes_waiting,
				&co->reads_waiting, &co->flushes,     &co->lease_waiting,
				&co->read_free,     &co->verifies};
	for (size_t i = 0; i < ARRAY_LEN(lists); i++)
		list_init(lists[i]);
	co->kick.fire = kick_fire;
	co->commit_timer.fire = commit_fire;
	co->lease_timer.fire = lease_fire;
	co->quorum_timer.fire = quorum_fire;
	co->opener_timer.fire = opener_fire;
	if (!make_pools(co)) {
		coordinator_destroy(co);
		return NULL;
	}
	co_start(co->opener, opener_run, co);
	return co;
}

static bool busy(const struct coordinator *co)
{
	if (members_busy(co))
		return true;
	for (size_t i = 0; i < ARRAY_LEN(co->repairs); i++)
		if (co->repairs[i].busy)
			return true;
	list_for_each (n, &co->window_used)
		if (CONTAINER_OF(n, struct window_entry, link)->sends_out > 0)
			return true;
	return co->reads_out > 0 || co_running(co->opener) || !list_empty(&co->verifies) ||
	       (co->verifier != NULL && co_running(co->verifier));
}

void coordinator_shutdown_check(struct coordinator *co)
{
	if (!co->stopping || co->shutdown_done == NULL || busy(co))
		return;
	struct env_timer *timers[] = {&co->kick, &co->commit_timer, &co->lease_timer,
				      &co->quorum_timer, &co->opener_timer};
	for (size_t i = 0; i < ARRAY_LEN(timers); i++)
		env_timer_cancel(co->env, timers[i]);
	for (uint32_t i = 0; i < co->member_count; i++) {
		env_timer_cancel(co->env, &co->members[i].retry);
		env_timer_cancel(co->env, &co->members[i].sync_timer);
	}
	void (*done)(void *ctx) = co->shutdown_done;
	co->shutdown_done = NULL;
	done(co->shutdown_ctx);
}

/* The caller flushes first when it wants every write acknowledged; what is still open here gets no
 * outcome from us. */
void coordinator_shutdown(struct coordinator *co, void (*done)(void *ctx), void *ctx)
{
	co->stopping = true;
	co->shutdown_done = done;
	co->shutdown_ctx = ctx;
	coordinator_end(co, -ESHUTDOWN, "shut down");
	members_detach(co);
	coordinator_wake_opener(co);
	coordinator_kick(co);
	coordinator_shutdown_check(co);
}

void coordinator_destroy(struct coordinator *co)
{
	if (co == NULL)
		return;
	for (uint32_t i = 0; i < co->member_count; i++)
		sync_free(&co->members[i]);
	verify_free(co);
	co_destroy(co->opener);
	if (co->window != NULL)
		munmap(co->window, co->window_count * sizeof(struct window_entry));
	bufpool_destroy(co->bufs);
	free(co->read_slots);
	free(co);
}

/* Whom reads are asked of: the first that can, before the first read. */
static const struct member *primary_of(const struct coordinator *co)
{
	if (co->reader != NULL && co->reader->state == REPLICA_LIVE)
		return co->reader;
	for (uint32_t i = 0; i < co->member_count; i++)
		if (co->members[i].info.voter && co->members[i].state == REPLICA_LIVE)
			return &co->members[i];
	return NULL;
}

void coordinator_info(const struct coordinator *co, struct coordinator_info *ret)
{
	*ret = co->counters;
	ret->epoch = co->epoch;
	ret->last_seq = co->last_seq;
	ret->commit_seq = co->commit_seq;
	ret->size_blocks = co->volume.size_blocks;
	ret->open = co->open;
	ret->quorum = co->have_quorum;
	ret->quorum_size = co->quorum;
	ret->no_quorum_timeout_ns = co->volume.no_quorum_timeout_ns;
	ret->reads_held = reads_held(co);
	ret->replica_count = co->member_count;
	const struct member *primary = primary_of(co);
	for (uint32_t i = 0; i < co->member_count; i++) {
		const struct member *m = &co->members[i];
		struct coordinator_replica_info *r = &ret->replicas[i];
		*r = (struct coordinator_replica_info){
			.member = m->info,
			.state = m->state,
			.primary = m == primary,
			.log_epoch = m->adopted ? co->epoch : m->log_epoch,
			.last_seq = m->adopted ? m->acked_seq : m->last_seq,
			.commit_seq =
				MIN(co->commit_seq, m->adopted ? m->acked_seq : m->commit_seq),
			.resync_bytes = m->resync_bytes,
			.resync_chunks_done = m->resync_chunks_done,
			.resync_chunks_total = m->resync_chunks_total,
			.resync_bytes_last = m->resync_bytes_last,
			.free_blocks = m->free_blocks,
			.suspect = m->suspect && !m->adopted,
		};
		r->lag_entries = co->last_seq > r->last_seq ? co->last_seq - r->last_seq : 0;
		memcpy(r->note, m->note, sizeof(r->note));
	}
}
