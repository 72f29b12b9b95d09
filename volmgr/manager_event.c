/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The journal: what happened to volumes, nodes and gateways, for people.
 *
 * J1  Events get consecutive numbers and are written in order, in batches, one transaction at a
 *     time; each event that is written deletes the one EVENTS_MAX before it.
 * J2  It never holds anything up: when more than MANAGER_EVENTS_PENDING_MAX wait, the newest is
 *     dropped and counted; the log line is there in any case.
 */
#include "volmgr/manager.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"

static void journal_write(struct manager *m);

static void journal_done(struct meta_txn *txn, int status)
{
	struct manager *m = CONTAINER_OF(txn, struct manager, event_txn);
	for (uint32_t i = 0; i < MANAGER_EVENTS_BATCH; i++) {
		free(m->event_texts[i]);
		m->event_texts[i] = NULL;
	}
	if (status < 0)
		log_event(LOG_WARN, "manager", "journal_failed", "events=%u error=%s",
			  m->event_writing, err_name(status));
	m->event_head = (m->event_head + m->event_writing) % MANAGER_EVENTS_PENDING_MAX;
	m->event_count -= m->event_writing;
	m->event_writing = 0;
	journal_write(m);
}

static void journal_write(struct manager *m)
{
	if (m->event_writing > 0 || m->event_count == 0 || m->is_stopping)
		return;
	uint32_t changes = 0;
	m->event_writing = MIN(m->event_count, (uint32_t)MANAGER_EVENTS_BATCH);
	for (uint32_t i = 0; i < m->event_writing; i++) {
		const struct event_record *event =
			&m->events[(m->event_head + i) % MANAGER_EVENTS_PENDING_MAX];
		struct err err = {0};
		if (event_record_encode(event, &m->event_texts[i], &err) < 0) {
			log_event(LOG_ERROR, "manager", "event_refused", "error=%s",
				  LOG_Q(err_text(&err)));
			continue;
		}
		char *key = m->event_keys[changes];
		event_key(event->seq, key);
		m->event_changes[changes++] =
			meta_do_put(key, m->event_texts[i], strlen(m->event_texts[i]), 0);
		if (event->seq <= EVENTS_MAX)
			continue;
		key = m->event_keys[changes];
		event_key(event->seq - EVENTS_MAX, key);
		m->event_changes[changes++] = meta_do_delete(key);
	}
	m->event_txn = (struct meta_txn){
		.success = m->event_changes, .success_count = changes, .done = journal_done};
	meta_txn(m->meta, &m->event_txn);
}

void manager_event(struct manager *m, enum event_level level, const char *object, const char *kind,
		   const char *format, ...)
{
	struct event_record event = {
		.seq = m->event_seq + 1, .time_ms = env_wall_ms(m->env), .level = level};
	va_list args;
	va_start(args, format);
	vsnprintf(event.cause, sizeof(event.cause), format, args);
	va_end(args);
	snprintf(event.kind, sizeof(event.kind), "%s", kind);
	snprintf(event.object, sizeof(event.object), "%s", object);
	enum log_level log = level == EVENT_ERROR  ? LOG_ERROR
			     : level == EVENT_WARN ? LOG_WARN
						   : LOG_INFO;
	log_event(log, "manager", "event", "object=%s kind=%s text=%s", event.object, event.kind,
		  LOG_Q(event.cause));
	if (m->event_count == MANAGER_EVENTS_PENDING_MAX) {
		m->events_dropped++;
		return;
	}
	m->event_seq++;
	m->events[(m->event_head + m->event_count++) % MANAGER_EVENTS_PENDING_MAX] = event;
	journal_write(m);
}

/* ---- Events ---- */

struct events_read {
	struct meta_range range;
	struct rpc_call *call;
};

static Holdfast__V1__Event *event_message(const struct event_record *record, struct arena *arena)
{
	Holdfast__V1__Event *event = ARENA_MESSAGE(arena, Event, event);
	event->seq = record->seq;
	event->time_ms = record->time_ms;
	event->level = arena_copy(arena, event_level_name(record->level));
	event->object = arena_copy(arena, record->object);
	event->kind = arena_copy(arena, record->kind);
	event->text = arena_copy(arena, record->cause);
	return event;
}

static void events_read_done(struct meta_range *range, int status)
{
	struct events_read *read = CONTAINER_OF(range, struct events_read, range);
	struct arena arena = {0};
	Holdfast__V1__EventsReply *reply = ARENA_MESSAGE(&arena, EventsReply, events_reply);
	reply->events = ARENA_ARRAY(&arena, Holdfast__V1__Event *, range->kv_count);
	for (uint32_t i = 0; status == 0 && i < range->kv_count; i++) {
		struct event_record record;
		const struct meta_kv *kv = &range->kvs[i];
		if (event_record_decode(kv->value, kv->value_bytes, &record, NULL) == 0)
			reply->events[reply->n_events++] = event_message(&record, &arena);
	}
	if (status < 0)
		rpc_call_fail(read->call, rpc_code_of_errno(status), "the journal: %s",
			      strerror(-status));
	else
		(void)rpc_call_reply(read->call, &reply->base);
	arena_free(&arena);
	free(read);
}

void manager_events(void *ctx, struct rpc_call *call)
{
	struct manager *m = ctx;
	const Holdfast__V1__EventsRequest *request =
		(const Holdfast__V1__EventsRequest *)rpc_call_request(call);
	struct events_read *read = calloc(1, sizeof(*read));
	if (read == NULL) {
		rpc_call_fail(call, RPC_RESOURCE_EXHAUSTED, "out of memory");
		return;
	}
	read->call = call;
	read->range = (struct meta_range){.key = EVENTS_PREFIX,
					  .is_prefix = true,
					  .limit = request->limit,
					  .done = events_read_done};
	char key[RECORD_KEY_BYTES];
	event_key(MIN(request->since_seq, UINT64_MAX - 1) + 1, key);
	memcpy(read->range.continue_key, key, sizeof(key));
	meta_range(m->meta, &read->range);
}
