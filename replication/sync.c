/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bringing a member into the stream: one coroutine per member, beside live I/O.
 *
 *   adopt    its log is of an older epoch: what it lacks of the settled log is staged above a base
 *            that both share, then one atomic ADOPT switches. Never truncate first and refill later.
 *   feed     its log is ours but short, and the window no longer has what it needs: entries are read
 *            from another replica's log and appended.
 *   shadow   nobody's log reaches back far enough: sync_shadow.c.
 *
 * Y1  The base of an adoption lies in the common prefix: its length when its log is of the epoch
 *     that the open settled on (cut at what was settled), else its commit point.
 * Y2  in sync_shadow.c, as Y4 to Y6.
 * Y3  Every wait ends: when the member, its connection or the coordinator goes, when a call ran
 *     into its time-out, or when nothing moved for SYNC_STALL_NS. What a wait looks at is looked at
 *     again every second, so that a wake that was lost costs a second.
 */
#include <errno.h>
#include <stdlib.h>

#include "replication/sync_impl.h"

#define CALL_TIMEOUT_NS 15000000000ull
#define LOOK_NS         1000000000ull

bool sync_gone(const struct member *m)
{
	return m->co->ended || m->co->stopping || !m->up || !m->promised || !m->bulk_ready ||
	       m->life != m->sync_life;
}

void sync_wait(struct member *m)
{
	m->sync_waiting = true;
	env_timer_after(m->co->env, &m->sync_timer, LOOK_NS);
	co_suspend(m->sync);
	env_timer_cancel(m->co->env, &m->sync_timer);
}

void sync_wake(struct member *m)
{
	if (!m->sync_waiting)
		return;
	m->sync_waiting = false;
	co_resume(m->sync);
}

void sync_moved(struct member *m)
{
	m->job->moved_ns = env_now_ns(m->co->env);
}

int sync_still(struct member *m, uint64_t position)
{
	if (sync_gone(m))
		return -ECANCELED;
	if (m->stream_error != 0)
		return m->stream_error;
	if (position != m->job->moved_position) {
		m->job->moved_position = position;
		sync_moved(m);
	}
	return env_now_ns(m->co->env) - m->job->moved_ns > SYNC_STALL_NS ? -ETIMEDOUT : 0;
}

/* ---- calls ---- */

void call_payload_drop(struct call *call)
{
	bufpool_put(call->owner->co->bufs, call->payload, call->payload_room);
	call->payload = NULL;
	call->payload_bytes = call->payload_room = 0;
}

static int payload_room(struct call *call, uint32_t bytes)
{
	if (call->payload != NULL)
		call_payload_drop(call);
	struct coordinator *co = call->owner->co;
	/* entries that are kept for those who are away make room, as they do for writes */
	while ((call->payload = bufpool_get(co->bufs, bytes)) == NULL && window_evict(co))
		;
	if (call->payload == NULL)
		return -EBUSY;
	call->payload_room = bytes;
	return 0;
}

static void call_done(struct peer_request *request, int status, const struct link_frame *frame)
{
	struct call *call = CONTAINER_OF(request, struct call, request);
	call->busy = false;
	call->status = status;
	call->body_bytes = 0;
	if (frame != NULL && frame->body_bytes <= sizeof(call->body)) {
		memcpy(call->body, frame->body, frame->body_bytes);
		call->body_bytes = frame->body_bytes;
		if (frame->payload_bytes > 0) {
			if (payload_room(call, frame->payload_bytes) < 0)
				call->status = -EBUSY;
			else
				memcpy(call->payload, frame->payload, frame->payload_bytes);
			call->payload_bytes = call->payload == NULL ? 0 : frame->payload_bytes;
		}
	}
	sync_wake(call->owner);
}

void call_start(struct call *call, struct member *to, enum wire_type type, uint32_t body_bytes)
{
	uint32_t padded = (uint32_t)ALIGN_UP(body_bytes, 8);
	memset((uint8_t *)call->body + body_bytes, 0, padded - body_bytes);
	call->busy = true;
	call->request.out.header = (struct wire_header){
		.type = le16_make(type),
		.session = le32_make(to->session.id),
	};
	call->request.out.iov[1] = (struct iovec){call->body, padded};
	call->request.out.iov_count = 2;
	if (call->payload_bytes > 0) {
		call->request.out.iov[2] = (struct iovec){call->payload, call->payload_bytes};
		call->request.out.iov_count = 3;
	}
	call->request.timeout_ns = CALL_TIMEOUT_NS;
	call->request.done = call_done;
	/* ADOPT and SHADOW go in the order of the stream; the rest must not delay it. */
	bool in_stream = type == WIRE_ADOPT || type == WIRE_SHADOW || type == WIRE_STAGE;
	peer_request(to->peer, in_stream ? WIRE_KIND_CLIENT : WIRE_KIND_BULK, &call->request);
}

int calls_wait(struct member *m, uint32_t count)
{
	int rc = 0;
	for (uint32_t i = 0; i < count; i++) {
		struct call *call = &m->job->calls[i];
		while (call->busy)
			sync_wait(m);
		if (rc == 0)
			rc = call->status;
	}
	return rc;
}

/* ---- sources ---- */

/* A learner serves too: one that is live holds every committed entry, as a voter does. */
struct member *source_for(struct member *m)
{
	struct coordinator *co = m->co;
	if (!co->open)
		return co->open_source != m && co->open_source->bulk_ready ? co->open_source : NULL;
	struct member *behind = NULL;
	for (uint32_t i = 0; i < co->member_count; i++) {
		struct member *s = &co->members[(i + m->source_turn) % co->member_count];
		if (s == m || s->state != REPLICA_LIVE || !s->adopted || !s->up)
			continue;
		if (s->acked_seq >= co->commit_seq)
			return s;
		behind = s;
	}
	return behind;
}

/* ---- log entries from the window or from a source's log, into a call as an entry frame ---- */

static int entry_from_window(struct call *call, struct window_entry *e)
{
	memcpy(call->body, &e->body, e->body_bytes);
	call->body_bytes = e->body_bytes;
	if (e->payload_bytes == 0) {
		call_payload_drop(call);
		return 0;
	}
	e->sends_out++; /* to make room others may leave the window, this one not */
	int rc = payload_room(call, e->payload_bytes);
	e->sends_out--;
	if (rc < 0)
		return rc;
	memcpy(call->payload, e->payload, e->payload_bytes);
	call->payload_bytes = e->payload_bytes;
	return 0;
}

/* Starts or does the reading of one entry; *source is chosen on the first need. */
static int entry_fetch(struct member *m, struct call *call, uint64_t seq, struct member **source)
{
	struct coordinator *co = m->co;
	struct window_entry *e = window_find(co, seq);
	call->status = 0;
	if (e != NULL)
		return entry_from_window(call, e);
	if (*source == NULL)
		*source = source_for(m);
	if (*source == NULL)
		return -EAGAIN;
	call_payload_drop(call);
	struct wire_log_read *read = (struct wire_log_read *)call->body;
	*read = (struct wire_log_read){le64_make(co->epoch), le64_make(seq)};
	call_start(call, *source, WIRE_LOG_READ, sizeof(*read));
	return 0;
}

/* Fills calls[0..count) with the entries from..from+count-1. -ENODATA: nobody has them as log any more. */
static int entries_fetch(struct member *m, uint64_t from, uint32_t count)
{
	struct member *source = NULL;
	for (uint32_t i = 0; i < count; i++) {
		int rc = entry_fetch(m, &m->job->calls[i], from + i, &source);
		if (rc < 0) {
			(void)calls_wait(m, i); /* those before it are under way */
			return rc;
		}
	}
	return calls_wait(m, count);
}

/* ---- adopt ---- */

int adopt_send(struct member *m, const struct wire_adopt *adopt)
{
	struct call *call = &m->job->calls[0];
	call_payload_drop(call);
	memcpy(call->body, adopt, sizeof(*adopt));
	call_start(call, m, WIRE_ADOPT, sizeof(*adopt));
	return calls_wait(m, 1);
}

void adopted(struct member *m, uint64_t last_seq, uint64_t commit_seq)
{
	m->adopted = true;
	m->refill = false;
	m->log_epoch = m->co->epoch;
	m->acked_seq = m->acked_max = last_seq;
	m->last_seq = last_seq;
	m->commit_seq = MAX(m->commit_seq, commit_seq);
	m->stream_shadow = false;
	m->streaming = false;
	m->next_seq = last_seq + 1;
	m->stop_seq = UINT64_MAX;
	m->inflight_bytes = 0;
	coordinator_wake_opener(m->co);
}

static uint64_t adopt_base(const struct member *m, uint64_t last_seq)
{
	const struct coordinator *co = m->co;
	uint64_t base = m->commit_seq;
	if (m->log_epoch == co->open_log_epoch)
		base = MIN(m->last_seq, co->open_last_seq);
	return MIN(base, last_seq);
}

static int stage_range(struct member *m, uint64_t from, uint64_t to)
{
	while (from <= to) {
		uint32_t count = (uint32_t)MIN(to - from + 1, (uint64_t)m->sync_batch);
		int rc = entries_fetch(m, from, count);
		if (rc < 0)
			return rc;
		if (sync_gone(m))
			return -ECANCELED;
		for (uint32_t i = 0; i < count; i++) {
			struct call *call = &m->job->calls[i];
			m->resync_bytes += call->payload_bytes;
			call_start(call, m, WIRE_STAGE, call->body_bytes);
		}
		rc = calls_wait(m, count);
		if (rc < 0)
			return rc;
		from += count;
	}
	return 0;
}

static int sync_adopt(struct member *m)
{
	struct coordinator *co = m->co;
	uint64_t last_seq = co->open ? co->commit_seq : co->last_seq;
	uint64_t last_hash = co->open ? co->commit_hash : co->last_hash;
	uint64_t base = adopt_base(m, last_seq);
	int rc = base < last_seq ? stage_range(m, base + 1, last_seq) : 0;
	if (rc < 0)
		return rc;
	const struct wire_adopt adopt = {
		.epoch = le64_make(co->epoch),
		.base_seq = le64_make(base),
		.last_seq = le64_make(last_seq),
		.last_hash = le64_make(last_hash),
		.commit_seq = le64_make(co->open ? last_seq : 0),
	};
	rc = adopt_send(m, &adopt);
	if (rc == 0)
		adopted(m, last_seq, le64_get(adopt.commit_seq));
	return rc;
}

/* ---- feed: appends that the window does not have ---- */

static void feed_sent(struct link_send *out, int status)
{
	struct call *call = CONTAINER_OF(out, struct call, request.out);
	call->busy = false;
	call->status = status;
	sync_wake(call->owner);
}

static void feed_send(struct member *m, struct call *call, bool shadow)
{
	m->resync_bytes += call->payload_bytes;
	call->busy = true;
	call->request.out.header = (struct wire_header){
		.type = le16_make(WIRE_APPEND),
		.status = le16_make(shadow ? WIRE_APPEND_SHADOW : 0),
		.session = le32_make(m->session.id),
	};
	call->request.out.iov[1] = (struct iovec){call->body, call->body_bytes};
	call->request.out.iov[2] = (struct iovec){call->payload, call->payload_bytes};
	call->request.out.iov_count = call->payload_bytes > 0 ? 3 : 2;
	call->request.out.done = feed_sent;
	peer_send(m->peer, WIRE_KIND_CLIENT, &call->request.out);
}

/* Entries [send_next, fetch_next) are being read, those in (acked, send_next) are under way to the
 * member. */
struct feed {
	struct member *m, *source;
	const uint64_t *acked;
	uint64_t fetch_next, send_next, to;
	uint32_t depth;
};

static struct call *feed_slot(const struct feed *f, uint64_t seq)
{
	return &f->m->job->calls[seq % f->depth];
}

static int feed_fetch(struct feed *f)
{
	while (f->fetch_next <= f->to && f->fetch_next - *f->acked <= f->depth) {
		struct call *call = feed_slot(f, f->fetch_next);
		if (call->busy)
			return 0; /* acknowledged, but the transport has not let go of it */
		int rc = entry_fetch(f->m, call, f->fetch_next, &f->source);
		if (rc < 0)
			return rc;
		f->fetch_next++;
	}
	return 0;
}

static int feed_send_read(struct feed *f, bool shadow)
{
	for (; f->send_next < f->fetch_next; f->send_next++) {
		struct call *call = feed_slot(f, f->send_next);
		if (call->busy)
			return 0;
		if (call->status < 0)
			return call->status;
		feed_send(f->m, call, shadow);
	}
	return 0;
}

/* Reading and appending overlap, so that the pace is that of the disks and not of the round trips:
 * it must be faster than a writer that does not stop. */
int feed(struct member *m, uint64_t to, bool shadow)
{
	struct feed f = {
		.m = m,
		.acked = shadow ? &m->shadow_acked : &m->acked_seq,
		.to = to,
		.depth = MAX(SYNC_CALLS * m->sync_batch / SYNC_BATCH, 1u),
	};
	f.fetch_next = f.send_next = *f.acked + 1;
	sync_moved(m);
	int rc = 0;
	while (rc == 0 && *f.acked < to) {
		rc = feed_fetch(&f);
		if (rc == 0)
			rc = sync_gone(m) ? -ECANCELED : feed_send_read(&f, shadow);
		if (rc == 0)
			rc = sync_still(m, *f.acked + f.send_next);
		if (rc == 0 && *f.acked < to)
			sync_wait(m);
	}
	(void)calls_wait(m, f.depth);
	/* What was sent is answered before anybody sends it again. */
	while (rc < 0 && *f.acked + 1 < f.send_next && sync_still(m, *f.acked) == 0)
		sync_wait(m);
	return rc;
}

/* In our epoch's log: from the window when it reaches back, else by feeding. */
static int sync_stream(struct member *m)
{
	struct coordinator *co = m->co;
	m->stream_shadow = false;
	/* What the pump sent before it met a gap must be answered first, or it would be sent twice.
	 */
	int rc = 0;
	sync_moved(m);
	while ((rc = sync_still(m, m->acked_seq)) == 0 && m->acked_seq < m->sent_seq)
		sync_wait(m);
	while (rc == 0 && m->acked_seq < co->last_seq && window_find(co, m->acked_seq + 1) == NULL)
		rc = feed(m, co->last_seq, false);
	if (rc < 0)
		return rc;
	m->next_seq = m->acked_seq + 1;
	m->stop_seq = UINT64_MAX;
	m->inflight_bytes = 0;
	m->streaming = true;
	member_state(m, REPLICA_LIVE, "");
	member_pump(m);
	commit_advance(co);
	/* It must hear the commit point also when nothing is written, and others may wait to read
	 * here. */
	if (!env_timer_armed(&co->commit_timer))
		env_timer_after(co->env, &co->commit_timer, COMMIT_IDLE_NS);
	coordinator_kick(co);
	return 0;
}

/* ---- the coroutine ---- */

static int sync_once(struct member *m)
{
	int rc = 0;
	if (m->streaming && m->state == REPLICA_LIVE)
		return 0;
	if (m->refill) {
		rc = sync_shadow(m);
	} else if (!m->adopted) {
		rc = sync_adopt(m);
		if (rc == -ENODATA)
			rc = sync_shadow(m);
	}
	if (rc < 0 || sync_gone(m))
		return rc;
	rc = sync_stream(m);
	if (rc == -ENODATA)
		rc = sync_shadow(m) == 0 ? sync_stream(m) : -EAGAIN;
	return rc;
}

static bool sync_turn(struct co *self, struct member *m)
{
	m->sync_wanted = false;
	m->sync_life = m->life;
	int rc = sync_gone(m) ? 0 : sync_once(m);
	if (m->co->ended || m->co->stopping)
		return false;
	if (rc < 0 && !sync_gone(m)) {
		m->source_turn++;
		m->sync_batch = rc == -EBUSY ? MAX(m->sync_batch / 2, 1u) : SYNC_BATCH;
		if (rc != m->retry_told)
			coordinator_event(m->co, "resync_retry", "node=%s status=%s",
					  m->info.node_name, err_name(rc));
		m->retry_told = rc;
		if (rc != -EAGAIN && rc != -EBUSY) { /* its positions are in doubt: ask anew */
			m->streaming = false;
			m->stream_error = rc;
			env_timer_after(m->co->env, &m->retry, 100000000ull);
			return m->sync_wanted;
		}
		co_sleep(self, 20000000ull);
		return true;
	}
	return m->sync_wanted;
}

static void sync_run(struct co *self, void *arg)
{
	struct member *m = arg;
	m->resync_bytes = 0;
	m->sync_batch = SYNC_BATCH;
	m->retry_told = 0;
	while (sync_turn(self, m))
		;
	m->resync_bytes_last = m->resync_bytes;
	for (uint32_t i = 0; i < SYNC_CALLS; i++)
		call_payload_drop(&m->job->calls[i]);
	/* The last step of the coroutine: whoever waits for it looks again on the next turn. */
	if (m->co->ended || m->co->stopping)
		coordinator_kick(m->co);
	else
		coordinator_wake_opener(m->co);
}

static void sync_fire(struct env_timer *timer)
{
	struct member *m = CONTAINER_OF(timer, struct member, sync_timer);
	if (co_running(m->sync))
		sync_wake(m); /* sync_wait() */
	else if (!m->co->ended)
		co_start(m->sync, sync_run, m);
}

void sync_start(struct member *m)
{
	/* Checked (invariant PROTO-22): a learner adopts only what an open epoch has settled. The open starts it. */
	if (!m->info.voter && !m->co->open)
		return;
	m->sync_wanted = true;
	if (m->sync == NULL)
		m->sync = co_create(m->co->env, 64 * 1024);
	if (m->job == NULL) {
		m->job = calloc(1, sizeof(*m->job));
		if (m->job != NULL)
			for (uint32_t i = 0; i < SYNC_CALLS; i++)
				m->job->calls[i].owner = m;
	}
	if (m->sync == NULL || m->job == NULL) {
		env_timer_after(m->co->env, &m->retry, 1000000000ull);
		return;
	}
	m->sync_timer.fire = sync_fire;
	if (!co_running(m->sync))
		env_timer_set(m->co->env, &m->sync_timer, 0);
}

void sync_free(struct member *m)
{
	co_destroy(m->sync);
	free(m->job);
}
