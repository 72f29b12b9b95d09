/* SPDX-License-Identifier: Apache-2.0 */
/* The members of a volume: their state, their connection, and their promise. */
#include <errno.h>
#include <stdio.h>

#include "base/log.h"
#include "replication/coordinator_impl.h"

#define MS 1000000ull

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

/* ---- connection and promise ---- */

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
	m->suspect_after = le64_get(p->suspect_after);
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
	/* Rot in the log that it acknowledged; or in its map, which no entries mend. */
	if (m->suspect && (m->log_epoch == co->epoch || m->suspect_after < m->last_seq))
		m->refill = true;
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

void members_attach(struct coordinator *co)
{
	co->member_count = co->volume.member_count;
	co->quorum = co->volume.quorum;
	for (uint32_t i = 0; i < co->member_count; i++) {
		struct member *m = &co->members[i];
		m->co = co;
		m->index = i;
		m->info = co->volume.members[i];
		m->is_local = strncmp(m->info.address, "unix:", 5) == 0;
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

void members_detach(struct coordinator *co)
{
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
}

bool members_busy(const struct coordinator *co)
{
	for (uint32_t i = 0; i < co->member_count; i++) {
		const struct member *m = &co->members[i];
		if (m->prepare_busy || m->commit_busy || (m->sync != NULL && co_running(m->sync)))
			return true;
	}
	return false;
}
