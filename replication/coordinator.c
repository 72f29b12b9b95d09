/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Taking a volume, settling its log, and the life of the members. coordinator.h has C1..C5.
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

static const char *state_name(enum replica_state state)
{
	static const char *const names[] = {"down", "preparing", "syncing", "live", "lost"};
	return names[state];
}

void member_state(struct member *m, enum replica_state state, const char *note)
{
	snprintf(m->note, sizeof(m->note), "%s", note);
	if (m->state == state)
		return;
	m->state = state;
	coordinator_event(m->co, "replica_state", "node=%s state=%s note=%s", m->info.node_name,
			  state_name(state), LOG_Q(note));
	coordinator_quorum_check(m->co);
}

void coordinator_kick(struct coordinator *co)
{
	/* it may be armed for later */
	if (!env_timer_armed(&co->kick) || co->kick.deadline_ns > env_now_ns(co->env))
		env_timer_set(co->env, &co->kick, 0);
}

void coordinator_wake_opener(struct coordinator *co)
{
	if (co->opener_waiting) {
		co->opener_waiting = false;
		env_timer_set(co->env, &co->opener_timer, 0);
	}
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
	fail_in_flight(co, -EIO); /* their outcome is unknown; a returning quorum may still commit them */
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
		       bool (*try)(struct coordinator *, struct coordinator_request *), bool in_order)
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

/* ---- members: connection and promise ---- */

static void prepare(struct member *m);

static void member_retry(struct env_timer *timer)
{
	struct member *m = CONTAINER_OF(timer, struct member, retry);
	if (m->co->ended || m->co->stopping || !m->up)
		return;
	if (!m->promised || m->stream_error != 0)
		prepare(m);
	else if (m->streaming)
		member_pump(m);
	else
		sync_start(m);
}

static void promise_take(struct member *m, const struct wire_promise *p)
{
	m->log_epoch = le64_get(p->log_epoch);
	m->last_seq = le64_get(p->last_seq);
	m->last_hash = le64_get(p->last_hash);
	m->commit_seq = le64_get(p->commit_seq);
	m->commit_hash = le64_get(p->commit_hash);
	m->floor_seq = le64_get(p->floor_seq);
	m->free_blocks = le64_get(p->free_blocks);
	m->size_blocks = le64_get(p->size_blocks);
	m->checkpoint_seq = le64_get(p->checkpoint_seq);
	m->settled_seq = le64_get(p->settled_seq);
	m->suspect = le64_get(p->suspect_after) != le64_get(p->suspect_until);
}

static void promised(struct member *m)
{
	struct coordinator *co = m->co;
	m->promised = true;
	m->stream_error = 0;
	m->sent_seq = 0;
	if (m->acked_max > 0 && (m->log_epoch != co->epoch || m->last_seq < m->acked_max)) {
		/* PROTO-9: it acknowledged more than it has. It must not count again before every block
		 * was compared or copied anew. */
		coordinator_event(co, "replica_lost_data", "node=%s had=%lu has=%lu",
				  m->info.node_name, m->acked_max, m->last_seq);
		m->acked_max = 0;
		m->refill = true;
	}
	if (m->suspect && m->log_epoch == co->epoch)
		m->refill = true; /* rot in the log that it acknowledged */
	if (m->refill || m->log_epoch != co->epoch) {
		m->adopted = false;
	} else {
		m->adopted = true;
		m->acked_seq = m->last_seq;
		m->acked_max = MAX(m->acked_max, m->last_seq);
	}
	member_state(
		m, REPLICA_SYNCING,
		m->suspect  ? "rot in its log: it does not count until a whole copy brings the rest"
		: m->refill ? "holds less than it acknowledged"
			    : "promised");
	coordinator_wake_opener(co);
	if (co->open || co->open_source != NULL)
		sync_start(m);
}

/* A connection came and went since it was asked, or is away: the answer is void. */
static bool prepare_void(struct member *m)
{
	if (m->up && m->prepare_life != m->life)
		prepare(m);
	return !m->up || m->prepare_busy;
}

static void prepare_bulk_done(struct peer_request *request, int status,
			      const struct link_frame *frame)
{
	struct member *m = CONTAINER_OF(request, struct member, prepare_request);
	(void)frame;
	m->prepare_busy = false;
	if (m->co->stopping || m->co->ended) {
		coordinator_shutdown_check(m->co);
		return;
	}
	if (prepare_void(m))
		return;
	if (status < 0) {
		env_timer_after(m->co->env, &m->retry, 200 * MS);
		return;
	}
	m->bulk_ready = true;
	promised(m);
}

static void prepare_send(struct member *m, enum wire_kind kind,
			 void (*done)(struct peer_request *, int, const struct link_frame *))
{
	m->prepare_busy = true;
	m->prepare_body = (struct wire_prepare){
		.target = {.volume_uuid = m->co->volume.volume_uuid,
			   .replica_uuid = m->info.replica_uuid},
		.epoch = le64_make(m->co->epoch),
		.session = le32_make(m->session.id),
	};
	m->prepare_request.out.header = (struct wire_header){
		.type = le16_make(WIRE_PREPARE),
		.session = le32_make(m->session.id),
	};
	m->prepare_request.out.iov[1] = (struct iovec){&m->prepare_body, sizeof(m->prepare_body)};
	m->prepare_request.out.iov_count = 2;
	m->prepare_request.timeout_ns = 5000 * MS;
	m->prepare_request.done = done;
	peer_request(m->peer, kind, &m->prepare_request);
}

static void prepare_done(struct peer_request *request, int status, const struct link_frame *frame)
{
	struct member *m = CONTAINER_OF(request, struct member, prepare_request);
	struct coordinator *co = m->co;
	m->prepare_busy = false;
	if (co->stopping || co->ended) {
		coordinator_shutdown_check(co);
		return;
	}
	if (prepare_void(m))
		return;
	const struct wire_promise *p = NULL;
	if (frame != NULL && frame->body_bytes == sizeof(*p))
		p = frame->body;
	if (status == -ESTALE && p != NULL && le64_get(p->promised) > co->epoch) {
		coordinator_end(co, -ESHUTDOWN, "a replica promised a newer epoch");
		return;
	}
	if (status < 0 || p == NULL) {
		member_state(m, status == -ENOENT ? REPLICA_LOST : REPLICA_PREPARING,
			     status == -ENOENT ? "the node does not have this replica"
					       : err_name(status));
		env_timer_after(co->env, &m->retry, 200 * MS);
		return;
	}
	promise_take(m, p);
	prepare_send(m, WIRE_KIND_BULK, prepare_bulk_done);
}

static void prepare(struct member *m)
{
	if (m->prepare_busy || !m->co->taken || m->co->ended || !m->up)
		return;
	m->life++;
	m->streaming = false;
	m->promised = m->bulk_ready = false;
	m->prepare_life = m->life;
	peer_session_renew(&m->session);
	if (m->state != REPLICA_LOST) /* lost stays lost until it answers */
		member_state(m, REPLICA_PREPARING, "asking for its promise");
	prepare_send(m, WIRE_KIND_CLIENT, prepare_done);
}

static void session_up(struct peer_session *session)
{
	struct member *m = CONTAINER_OF(session, struct member, session);
	m->up = true;
	prepare(m);
}

static void session_down(struct peer_session *session)
{
	struct member *m = CONTAINER_OF(session, struct member, session);
	m->up = m->promised = m->bulk_ready = m->streaming = false;
	m->life++;
	m->inflight_bytes = 0;
	env_timer_cancel(m->co->env, &m->retry);
	member_state(m, REPLICA_DOWN, "no connection");
	coordinator_wake_opener(m->co);
	if (m->sync_waiting)
		sync_wake(m);
	coordinator_kick(m->co);
}

static void session_frame(struct peer_session *session, const struct link_frame *frame)
{
	struct member *m = CONTAINER_OF(session, struct member, session);
	if (le16_get(frame->header->type) == WIRE_ACK && m->promised && !m->co->ended &&
	    frame->body_bytes == sizeof(struct wire_ack))
		member_ack(m, frame->body);
}

static void members_attach(struct coordinator *co)
{
	co->member_count = co->volume.member_count;
	co->quorum = co->volume.quorum;
	for (uint32_t i = 0; i < co->member_count; i++) {
		struct member *m = &co->members[i];
		m->co = co;
		m->index = i;
		m->info = co->volume.members[i];
		m->stop_seq = UINT64_MAX;
		m->retry.fire = member_retry;
		snprintf(m->note, sizeof(m->note), "no connection");
		m->session.up = session_up;
		m->session.down = session_down;
		m->session.frame = session_frame;
		m->peer = peers_get(co->peers, &m->info.node_uuid, m->info.address);
		if (m->peer == NULL) {
			member_state(m, REPLICA_LOST, "too many nodes");
			continue;
		}
		m->attached = true;
		peer_attach(m->peer, &m->session);
	}
}

/* ---- the opener ---- */

static void opener_fire(struct env_timer *timer)
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

static bool members_busy(const struct coordinator *co)
{
	for (uint32_t i = 0; i < co->member_count; i++) {
		const struct member *m = &co->members[i];
		if (m->prepare_busy || m->commit_busy || (m->sync != NULL && co_running(m->sync)))
			return true;
	}
	return false;
}

/* The attempt is given up: everything it told the members is void, the next has a new epoch. */
static void open_give_up(struct coordinator *co)
{
	coordinator_event(co, "open_again", "the source of the log was lost");
	for (uint32_t i = 0; i < co->member_count; i++) {
		struct member *m = &co->members[i];
		if (m->attached)
			peer_detach(&m->session);
		m->attached = m->up = false;
		env_timer_cancel(co->env, &m->retry);
		env_timer_cancel(co->env, &m->sync_timer);
		if (m->sync_waiting)
			sync_wake(m);
	}
	while (members_busy(co) && !stopped(co))
		opener_wait(co, 10 * MS);
	if (stopped(co))
		return;
	co->taken = false;
	co->open_source = NULL;
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

static void opener_run(struct co *self, void *arg)
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
				&co->read_free,	    &co->verifies};
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
	for (uint32_t i = 0; i < co->member_count; i++) {
		struct member *m = &co->members[i];
		if (m->attached)
			peer_detach(&m->session);
		m->attached = m->up = false;
		env_timer_cancel(co->env, &m->retry);
		if (m->sync_waiting)
			sync_wake(m);
	}
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

void coordinator_info(const struct coordinator *co, struct coordinator_info *ret)
{
	*ret = co->counters;
	ret->epoch = co->epoch;
	ret->last_seq = co->last_seq;
	ret->commit_seq = co->commit_seq;
	ret->size_blocks = co->volume.size_blocks;
	ret->open = co->open;
	ret->quorum = co->have_quorum;
	ret->replica_count = co->member_count;
	bool primary = false;
	for (uint32_t i = 0; i < co->member_count; i++) {
		const struct member *m = &co->members[i];
		struct coordinator_replica_info *r = &ret->replicas[i];
		*r = (struct coordinator_replica_info){
			.member = m->info,
			.state = m->state,
			.primary = m->info.voter && m->state == REPLICA_LIVE && !primary,
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
		primary = primary || r->primary;
		r->lag_entries = co->last_seq > r->last_seq ? co->last_seq - r->last_seq : 0;
		memcpy(r->note, m->note, sizeof(r->note));
	}
}
